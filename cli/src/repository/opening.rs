//! A repository as a command opens it: with its messages and questions, and in its name.

use vellum_backup::error::BackupError;
use vellum_backup::process::ProcessMark;
use vellum_backup::repository::{Repository, Rollback};
use vellum_backup::seal::Opener;
use vellum_backup::session::Writer;

use super::password::{self, PasswordVariables};
use super::{AccessArgs, client_folders, given_opener, now_ms, object_store};
use crate::command_context::CommandContext;
use crate::failure::CommandFailure;

/// The repository at `place`.
pub(crate) fn open_repository(
    place: &str,
    access: &AccessArgs,
    session: &CommandContext,
) -> Result<Repository, CommandFailure> {
    open_with(place, access, password::VARIABLES, session)
}

/// The same, with the password in other variables.
pub(crate) fn open_with(
    place: &str,
    access: &AccessArgs,
    variables: PasswordVariables,
    session: &CommandContext,
) -> Result<Repository, CommandFailure> {
    let caller = &session.caller;
    let objects = object_store(
        place,
        access.limit_download,
        caller,
        session.output.event_layout(),
    )?;
    let rollback = if access.key.allow_rollback {
        Rollback::Allowed
    } else {
        Rollback::Refused
    };
    let found = Repository::find(objects)?;
    let open = |opener: Option<&Opener>| found.open(opener, client_folders(caller), rollback);
    let opener = given_opener(&access.key, variables, caller)?;
    let repository = match open(opener.as_ref()) {
        Err(BackupError::KeyNeeded { place }) => {
            let password =
                password::ask_at_terminal(&format!("password of {place}"), false, caller)?;
            let password = password.ok_or_else(|| {
                CommandFailure::from(BackupError::KeyNeeded { place })
                    .replace_hint(variables.missing_hint())
            })?;
            open(Some(&Opener::Password(password)))
        }
        other => other,
    }?;
    for (object, is_back) in repository.twice().rescued() {
        session.print_warning(&if is_back {
            format!("{object} was damaged or gone, and is whole again: its copy was there")
        } else {
            format!(
                "{object} is damaged or gone, and was read from its copy: who may write there \
                 mends it with `vellum backup verify`"
            )
        });
    }
    Ok(repository)
}

/// The name of the writer, for others who look at the repository.
pub(crate) fn writer_name(session: &CommandContext) -> Writer {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Writer {
        name: format!("{}: {}", host.trim(), session.command_line()),
        host: Some(host.trim().to_owned()).filter(|host| !host.is_empty()),
        time_ms: now_ms(),
        process: ProcessMark::own(),
    }
}
