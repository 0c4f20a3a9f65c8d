//! `vellum backup`: whole trees of images on a folder or in an object store, incrementally.

mod copy;
mod diff;
mod forget;
mod info;
mod init;
mod key;
mod list;
mod mount;
mod prune;
mod pull;
mod push;
mod restore;
mod tree;
mod verify;

use clap::Subcommand;
use vellum_backup::repository::Repository;
use vellum_backup::session::{OpenSession, open_sessions};

use crate::caller::Caller;
use crate::failure::{Failure, Outcome};
use crate::repository::password::Password;
use crate::repository::{self, words};
use crate::session::Session;

/// Keep images, snapshots and machines in a folder or an object store, encrypted, and get them back
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum backup init /mnt/backup
  vellum backup push /mnt/backup --all
  vellum backup list /mnt/backup
  vellum backup restore /mnt/backup web@monday monday.raw

REPO is a folder, or s3://BUCKET/PREFIX, gs://…, az://… with credentials in the environment. VELLUM_REPOSITORY names it for all commands; \
then a first word with a slash names another.
A point is written IMAGE (its newest state), IMAGE@SNAPSHOT, IMAGE@latest, IMAGE@TIME (2026-11-22T08, as the clock on the wall showed it), \
or as the beginning of its id.")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
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
    Prune(prune::Args),
    Copy(copy::Args),
    Mount(mount::Args),
    Key(key::Args),
}

impl Args {
    /// Whether it works on the store beside the repository.
    pub(super) fn needs_store(&self) -> bool {
        matches!(self.verb, Verb::Push(_) | Verb::Pull(_))
    }

    /// The password, if it is to be asked at the caller's terminal.
    pub(super) fn ask(&self, caller: &Caller) -> Result<Option<Password>, Failure> {
        let (words, key) = match &self.verb {
            Verb::Push(args) => (&args.words, &args.key),
            Verb::Pull(args) => (&args.words, &args.key),
            _ => return Ok(None),
        };
        repository::ask(&words::at_least(words, caller)?.place, key, caller)
    }
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    match &args.verb {
        Verb::Init(args) => init::run(args, session),
        Verb::Push(args) => push::run(args, session),
        Verb::Pull(args) => pull::run(args, session),
        Verb::Restore(args) => restore::run(args, session),
        Verb::List(args) => list::run(args, session),
        Verb::Tree(args) => tree::run(args, session),
        Verb::Diff(args) => diff::run(args, session),
        Verb::Info(args) => info::run(args, session),
        Verb::Verify(args) => verify::run(args, session),
        Verb::Forget(args) => forget::run(args, session),
        Verb::Prune(args) => prune::run(args, session),
        Verb::Copy(args) => copy::run(args, session),
        Verb::Mount(args) => mount::run(args, session),
        Verb::Key(args) => key::run(args, session),
    }
}

/// Those who are changing the repository now, or ended without a word: one line each.
fn sessions(repository: &Repository) -> Result<Vec<String>, Failure> {
    Ok(open_sessions(repository)?.iter().map(OpenSession::describe).collect())
}
