//! `vellum backup init`: an empty repository.

use std::io;

use serde::Serialize;
use vellum_backup::repository::{FirstKey, Repository};
use vellum_backup::seal::{Opener, PasswordCost};
use vellum_core::units::ChunkLen;

use crate::failure::{Failure, Outcome};
use crate::output::Answer;
use crate::output::page::Page;
use crate::repository::{self, KeyArgs, password, words};
use crate::session::Session;
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
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "4K")]
    chunk_size: u64,
    #[command(flatten)]
    key: KeyArgs,
}

#[derive(Serialize)]
struct Made {
    action: &'static str,
    repository: String,
    id: String,
    encrypted: bool,
    chunk_size: u64,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    let place = words::exactly(&args.words, &[], &session.caller)?.place;
    let chunk_len = u32::try_from(args.chunk_size).ok().and_then(ChunkLen::new);
    let chunk_len = chunk_len.ok_or_else(|| {
        Failure::usage(
            "that is no chunk size",
            "it is a power of two from 4K to 1M",
        )
    })?;
    let objects = repository::objects(&place, &session.caller)?;
    let key = first_key(args, session)?;
    let folders = repository::folders(&session.caller);
    let made = Repository::init(
        objects,
        chunk_len,
        key.as_ref(),
        repository::now_ms(),
        folders,
    )?;
    let made = Made {
        action: "init",
        repository: made.place(),
        id: made.id().to_string(),
        encrypted: key.is_some(),
        chunk_size: chunk_len.bytes(),
    };
    session.output.confirm(&made)?;
    Ok(Outcome::Done)
}

/// The password or key file of the first key; none if everybody may open the repository.
fn first_key(args: &Args, session: &Session) -> Result<Option<FirstKey>, Failure> {
    if args.no_encryption {
        return Ok(None);
    }
    let opener = match &args.key.key_file {
        Some(path) if !session.caller.path(path).exists() => {
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

fn given_or_asked(args: &Args, session: &Session) -> Result<Opener, Failure> {
    if let Some(opener) = repository::opener(&args.key, password::VARIABLES, &session.caller)? {
        return Ok(opener);
    }
    let asked = password::ask("new password", true, &session.caller)?;
    let hint = || {
        format!(
            "{}; --no-encryption makes a repository that everybody can read",
            password::VARIABLES.hint()
        )
    };
    asked.map(Opener::Password).ok_or_else(|| {
        Failure::usage(
            "a repository is encrypted, and no password was given",
            hint(),
        )
    })
}

impl Answer for Made {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        let encrypted = if self.encrypted {
            "encrypted"
        } else {
            "readable for whoever reaches it"
        };
        page.line(format!(
            "made a repository in {}, {encrypted}",
            self.repository
        ))?;
        page.line("next: vellum backup push REPO --all")
    }
}
