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
mod upload;
mod verify;

pub(super) use push::tell_unreadable;

use clap::Subcommand;
use jiff::tz::TimeZone;
use serde::Serialize;
use vellum_backup::repository::Repository;
use vellum_backup::session::{OpenSession, open_sessions};

use crate::caller::Caller;
use crate::failure::{Failure, Outcome};
use crate::output::time;
use crate::repository::password::Password;
use crate::repository::{self, words};
use crate::session::Session;
use crate::zone;

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
    /// True if it works on the store beside the repository.
    pub(super) fn needs_store(&self) -> bool {
        matches!(self.verb, Verb::Push(_) | Verb::Pull(_))
    }

    /// True if others use what it does as long as it runs.
    pub(super) fn serves(&self) -> bool {
        matches!(self.verb, Verb::Mount(_))
    }

    /// True if exit code 1 means that a difference was found.
    pub(super) fn compares(&self) -> bool {
        matches!(self.verb, Verb::Diff(_))
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

/// A session that is changing the repository now, or ended without a word.
#[derive(Serialize)]
struct Announced {
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

impl Announced {
    fn of(session: &OpenSession, zone: &TimeZone) -> Self {
        let file = session.file.as_ref();
        let since = file
            .and_then(|file| zone::shown(zone, file.time_ms))
            .map(|since| format!(", since {since}"));
        Self {
            id: session.id.to_string(),
            kind: file.map(|file| file.kind.to_string()),
            writer: file.map(|file| file.writer.clone()),
            time: file.map(|file| time::moment(file.time_ms)),
            line: format!("{session}{}", since.unwrap_or_default()),
        }
    }
}

fn sessions(repository: &Repository, zone: &TimeZone) -> Result<Vec<Announced>, Failure> {
    Ok(open_sessions(repository)?
        .iter()
        .map(|session| Announced::of(session, zone))
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
        let told = Announced::of(&session, &zone);
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
        let unread = Announced::of(
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
