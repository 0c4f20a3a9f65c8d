//! `vellum backup`: whole trees of images on a folder or in an object store, incrementally.

mod copy;
mod diff;
mod forget;
mod info;
mod init;
mod key;
mod list;
mod mount;
mod policy;
mod prune;
mod pull;
mod push;
mod restore;
mod tree;
mod upload;
mod verify;

pub(super) use push::tell_unreadable;

use clap::Subcommand;
use jiff::tz::TimeZone;
use serde::Serialize;
use vellum_backup::repository::Repository;
use vellum_backup::session::{OpenSession, open_sessions};

use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::invocation::Invocation;
use crate::output::time;
use crate::repository::password::Password;
use crate::repository::{self, repo_args};
use crate::time_zone;

/// Keep images, snapshots and machines in a folder or an object store, encrypted, and get them back
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum backup init /mnt/backup
  vellum backup push /mnt/backup --all
  vellum backup list /mnt/backup
  vellum backup restore /mnt/backup web@monday monday.raw

REPO is a folder, or s3://BUCKET/PREFIX, gs://…, az://… with credentials in the environment. \
VELLUM_REPOSITORY names it for all commands; then a first word with a slash names another.
A point is written IMAGE (its newest state), IMAGE@SNAPSHOT, IMAGE@latest, IMAGE@TIME \
(2026-11-22T08, as the clock on the wall showed it), or as the beginning of its id.")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: BackupVerb,
}

#[derive(Subcommand)]
enum BackupVerb {
    Init(init::Args),
    Push(push::Args),
    Pull(pull::Args),
    Restore(restore::Args),
    #[command(visible_alias = "ls")]
    List(list::Args),
    Tree(tree::Args),
    Diff(diff::Args),
    Info(info::Args),
    Verify(verify::Args),
    Forget(forget::Args),
    Policy(policy::Args),
    Prune(prune::Args),
    Copy(copy::Args),
    Mount(mount::Args),
    Key(key::Args),
}

impl Args {
    /// True if it works on the store beside the repository.
    pub(super) fn needs_store(&self) -> bool {
        matches!(self.verb, BackupVerb::Push(_) | BackupVerb::Pull(_))
    }

    /// True if others use what it does as long as it runs.
    pub(super) fn serves(&self) -> bool {
        matches!(self.verb, BackupVerb::Mount(_))
    }

    /// True if exit code 1 means that a difference was found.
    pub(super) fn is_comparison(&self) -> bool {
        matches!(self.verb, BackupVerb::Diff(_))
    }

    /// The password, if it is to be asked at the caller's terminal.
    pub(super) fn ask_password(
        &self,
        caller: &Invocation,
    ) -> Result<Option<Password>, CommandFailure> {
        let (words, key) = match &self.verb {
            BackupVerb::Push(args) => (&args.words, &args.access.key),
            BackupVerb::Pull(args) => (&args.words, &args.access.key),
            _ => return Ok(None),
        };
        repository::ask_password(&repo_args::at_least(words, caller)?.place, key, caller)
    }
}

pub(super) fn run_backup(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    match &args.verb {
        BackupVerb::Init(args) => init::run_backup_init(args, session),
        BackupVerb::Push(args) => push::run_backup_push(args, session),
        BackupVerb::Pull(args) => pull::run_backup_pull(args, session),
        BackupVerb::Restore(args) => restore::run_backup_restore(args, session),
        BackupVerb::List(args) => list::run_backup_list(args, session),
        BackupVerb::Tree(args) => tree::run_backup_tree(args, session),
        BackupVerb::Diff(args) => diff::run_backup_diff(args, session),
        BackupVerb::Info(args) => info::run_backup_info(args, session),
        BackupVerb::Verify(args) => verify::run_backup_verify(args, session),
        BackupVerb::Forget(args) => forget::run_backup_forget(args, session),
        BackupVerb::Policy(args) => policy::run_backup_policy(args, session),
        BackupVerb::Prune(args) => prune::run_backup_prune(args, session),
        BackupVerb::Copy(args) => copy::run_backup_copy(args, session),
        BackupVerb::Mount(args) => mount::run_backup_mount(args, session),
        BackupVerb::Key(args) => key::run_backup_key(args, session),
    }
}

/// A session that is changing the repository now, or ended without a word.
#[derive(Serialize)]
struct ShownSession {
    id: String,
    /// The operation; it and the rest are none if they cannot be read.
    kind: Option<String>,
    /// Host and command.
    writer: Option<String>,
    /// The time when it began.
    time: Option<String>,
    /// All that in a line, with the moment as the caller's clock shows it.
    #[serde(skip)]
    line: String,
}

impl ShownSession {
    fn from_session(session: &OpenSession, zone: &TimeZone) -> Self {
        let file = session.file.as_ref();
        let since = file
            .and_then(|file| time_zone::format_local_time(zone, file.time_ms))
            .map(|since| format!(", since {since}"));
        Self {
            id: session.id.to_string(),
            kind: file.map(|file| file.kind.to_string()),
            writer: file.map(|file| file.writer.clone()),
            time: file.map(|file| time::format_utc(file.time_ms)),
            line: format!("{session}{}", since.unwrap_or_default()),
        }
    }
}

fn shown_sessions(
    repository: &Repository,
    zone: &TimeZone,
) -> Result<Vec<ShownSession>, CommandFailure> {
    Ok(open_sessions(repository)?
        .iter()
        .map(|session| ShownSession::from_session(session, zone))
        .collect())
}

#[cfg(test)]
mod tests {
    use vellum_backup::session::{SessionFile, SessionKind};
    use vellum_core::identity::SessionId;

    use super::*;

    #[test]
    fn a_session_is_told_by_the_clock_of_who_asks() {
        let file = SessionFile {
            version: 1,
            kind: SessionKind::Prune,
            writer: "host: command".to_owned(),
            time_ms: 86_400_000,
            process: None,
        };
        let session = OpenSession {
            id: SessionId([0xab; 16]),
            file: Some(file),
        };
        let zone = TimeZone::posix("<+0530>-5:30").expect("a zone");
        let told = ShownSession::from_session(&session, &zone);
        let id = "ab".repeat(16);
        assert_eq!(
            told.line,
            format!("{id} (prune by host: command), since 1970-01-02T05:30:00+05:30")
        );
        assert_eq!(
            told.time.as_deref(),
            Some("1970-01-02T00:00:00Z"),
            "programs get UTC"
        );
        let unread = ShownSession::from_session(
            &OpenSession {
                file: None,
                ..session
            },
            &zone,
        );
        assert_eq!(
            (unread.line, unread.kind, unread.time),
            (format!("{id} (what it is cannot be read)"), None, None)
        );
    }
}
