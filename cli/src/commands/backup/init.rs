//! `vellum backup init`: an empty repository.

use std::io;

use serde::Serialize;
use vellum_backup::repository::{FirstKey, Repository};
use vellum_backup::seal::{Opener, PasswordCost};
use vellum_core::units::ChunkLen;

use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::output::Render;
use crate::output::page::TextPage;
use crate::repository::{self, KeyArgs, password, repo_args};
use crate::size;

/// The label of the first key.
const LABEL: &str = "first";

/// Make an empty repository in an empty place
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum backup init /mnt/backup
  vellum backup init s3://bucket/images --key-file ~/backup.key

Without the password or the key file nobody reads it again, neither you nor we. --key-file makes \
the file if it is not there.")]
pub(crate) struct Args {
    /// A folder, or an address such as s3://BUCKET/PREFIX
    #[arg(value_name = "REPO")]
    words: Vec<String>,
    /// Whoever reaches the place can read every disk in it, and put others there that look like
    /// yours
    #[arg(long, conflicts_with_all = ["password_file", "key_file"])]
    no_encryption: bool,
    /// What is stored once: as the stores that will be pushed have it
    #[arg(long, value_name = "SIZE", value_parser = size::parse_size, default_value = "4K")]
    chunk_size: u64,
    #[command(flatten)]
    key: KeyArgs,
}

#[derive(Serialize)]
struct RepositoryInitSummary {
    action: &'static str,
    repository: String,
    id: String,
    encrypted: bool,
    chunk_size: u64,
}

pub(super) fn run_backup_init(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let place = repo_args::repository_and_words(&args.words, &[], &session.caller)?.place;
    let chunk_len = u32::try_from(args.chunk_size).ok().and_then(ChunkLen::new);
    let chunk_len = chunk_len.ok_or_else(|| {
        CommandFailure::usage_error(
            "that is no chunk size",
            "it is a power of two from 4K to 1M",
        )
    })?;
    let objects =
        repository::object_store(&place, None, &session.caller, session.output.event_layout())?;
    let key = first_key(args, session)?;
    let folders = repository::client_folders(&session.caller);
    let made = Repository::init(
        objects,
        chunk_len,
        key.as_ref(),
        repository::now_ms(),
        folders,
    )?;
    let made = RepositoryInitSummary {
        action: "init",
        repository: made.place(),
        id: made.id().to_string(),
        encrypted: key.is_some(),
        chunk_size: chunk_len.byte_len(),
    };
    session.output.print_confirmation(&made)?;
    Ok(Outcome::Done)
}

/// The password or key file of the first key; none if everybody may open the repository.
fn first_key(args: &Args, session: &CommandContext) -> Result<Option<FirstKey>, CommandFailure> {
    if args.no_encryption {
        return Ok(None);
    }
    let opener = match &args.key.key_file {
        Some(path) if !session.caller.resolve_path(path).exists() => {
            Opener::KeyFile(repository::make_key_file(path, &session.caller)?)
        }
        _ => given_or_asked(args, session)?,
    };
    Ok(Some(FirstKey {
        opener,
        label: LABEL.to_owned(),
        cost: PasswordCost::default(),
    }))
}

fn given_or_asked(args: &Args, session: &CommandContext) -> Result<Opener, CommandFailure> {
    if let Some(opener) = repository::given_opener(&args.key, password::VARIABLES, &session.caller)?
    {
        return Ok(opener);
    }
    let asked = password::ask_at_terminal("new password", true, &session.caller)?;
    let hint = || {
        format!(
            "{}; --no-encryption makes a repository that everybody can read",
            password::VARIABLES.missing_hint()
        )
    };
    asked.map(Opener::Password).ok_or_else(|| {
        CommandFailure::usage_error(
            "a repository is encrypted, and no password was given",
            hint(),
        )
    })
}

impl Render for RepositoryInitSummary {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let encrypted = if self.encrypted {
            "encrypted"
        } else {
            "readable for whoever reaches it"
        };
        page.write_line(format!(
            "made a repository in {}, {encrypted}",
            self.repository
        ))?;
        page.write_line("next: vellum backup push REPO --all")
    }
}
