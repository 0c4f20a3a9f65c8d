//! `vellum backup key`: the keys that open a repository.

use std::io;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::Serialize;
use vellum_backup::error::BackupError;
use vellum_backup::objects::{ObjectError, ObjectKind, ObjectName};
use vellum_backup::repository::Repository;
use vellum_backup::seal::{KeyInfo, Opener, PasswordCost, create_key, key_info, unlock_any};

use crate::failure::{Failure, Outcome};
use crate::output::Answer;
use crate::output::page::Page;
use crate::output::table::Column;
use crate::output::time::Moment;
use crate::repository::{self, KeyArgs, address, password, words};
use crate::session::Session;

/// List, add and remove passwords and key files that open a repository
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  vellum backup key add /mnt/backup --new-key-file backup.key\n  vellum backup key list /mnt/backup"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    #[command(visible_alias = "ls")]
    List(ListArgs),
    Add(AddArgs),
    #[command(visible_alias = "rm")]
    Remove(RemoveArgs),
}

/// List the keys
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum backup key list /mnt/backup")]
struct ListArgs {
    /// The repository
    #[arg(value_name = "REPO")]
    words: Vec<String>,
    #[command(flatten)]
    key: KeyArgs,
}

/// Let another password or key file open the repository too
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum backup key add /mnt/backup --new-password-file new.txt --label alice
  vellum backup key add /mnt/backup --new-key-file backup.key

Without either, it asks for a new password.")]
struct AddArgs {
    /// The repository
    #[arg(value_name = "REPO")]
    words: Vec<String>,
    /// A file whose first line is the new password
    #[arg(long, value_name = "FILE", conflicts_with = "new_key_file")]
    new_password_file: Option<PathBuf>,
    /// The new key file; made if it is not there
    #[arg(long, value_name = "FILE")]
    new_key_file: Option<PathBuf>,
    /// What to call the key
    #[arg(long, default_value = "")]
    label: String,
    #[command(flatten)]
    key: KeyArgs,
}

/// Make a key useless. What was read with it before may have been kept
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum backup key remove /mnt/backup 3f9c02a1b7")]
struct RemoveArgs {
    /// The repository, and the key's id as `key list` shows it
    #[arg(value_names = ["REPO", "KEY"], num_args = 0..=2)]
    words: Vec<String>,
    #[command(flatten)]
    key: KeyArgs,
}

#[derive(Serialize)]
struct Shown {
    id: String,
    label: String,
    kind: &'static str,
    created: Moment,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Listing {
    keys: Vec<Shown>,
}

#[derive(Serialize)]
struct Changed {
    action: &'static str,
    key: Shown,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    match &args.verb {
        Verb::List(args) => list(args, session),
        Verb::Add(args) => add(args, session),
        Verb::Remove(args) => remove(args, session),
    }
}

fn list(args: &ListArgs, session: &mut Session) -> Result<Outcome, Failure> {
    let place = words::exactly(&args.words, &[], &session.caller)?.place;
    let repository = repository::open(&place, &args.key, session)?;
    let keys = keys(&repository)?.iter().map(Shown::of).collect();
    session.output.answer(&Listing { keys })?;
    Ok(Outcome::Done)
}

fn add(args: &AddArgs, session: &mut Session) -> Result<Outcome, Failure> {
    let place = words::exactly(&args.words, &[], &session.caller)?.place;
    let caller = &session.caller;
    let repository = repository::open(&place, &args.key, session)?;
    refuse_plain(&repository)?;
    let old = repository::opener(&args.key, password::VARIABLES, caller)?;
    let old = old.map_or_else(|| asked("the present password", false, session), Ok)?;
    let new = new_opener(args, session)?;
    let fail = |source| BackupError::Key {
        place: repository.place(),
        source,
    };
    let (_, secrets) =
        unlock_any(&**repository.objects(), repository.file(), &old).map_err(fail)?;
    let key = create_key(
        &secrets,
        repository.file(),
        &new,
        &args.label,
        repository::now_ms(),
        PasswordCost::default(),
    )
    .map_err(fail)?;
    repository.put(&ObjectName::Key(key.id), &key.bytes)?;
    let key = Shown::of(&key_info(key.id, &key.bytes).map_err(fail)?);
    session.output.confirm(&Changed {
        action: "key add",
        key,
    })?;
    Ok(Outcome::Done)
}

fn new_opener(args: &AddArgs, session: &Session) -> Result<Opener, Failure> {
    let caller = &session.caller;
    if let Some(path) = &args.new_key_file {
        let file = if caller.path(path).exists() {
            repository::read_key_file(path, caller)
        } else {
            repository::make_key_file(path, caller)
        };
        return file.map(Opener::KeyFile);
    }
    match given(args.new_password_file.as_deref(), session)? {
        Some(opener) => Ok(opener),
        None => asked("new password", true, session),
    }
}

fn given(file: Option<&Path>, session: &Session) -> Result<Option<Opener>, Failure> {
    let Some(file) = file else { return Ok(None) };
    Ok(password::given(Some(file), password::VARIABLES, &session.caller)?.map(Opener::Password))
}

fn asked(question: &str, again: bool, session: &Session) -> Result<Opener, Failure> {
    let asked = password::ask(question, again, &session.caller)?;
    let missing = || {
        Failure::usage(
            format!("there is no terminal to ask for {question}"),
            "give it in a file: see --help",
        )
    };
    asked.map(Opener::Password).ok_or_else(missing)
}

fn remove(args: &RemoveArgs, session: &mut Session) -> Result<Outcome, Failure> {
    let named = words::exactly(&args.words, &["KEY"], &session.caller)?;
    let repository = repository::open(&named.place, &args.key, session)?;
    let keys = keys(&repository)?;
    let wanted = &named.rest[0];
    let found: Vec<&KeyInfo> = keys
        .iter()
        .filter(|key| address::is_enough(wanted) && key.id.to_string().starts_with(wanted.as_str()))
        .collect();
    let key = match found[..] {
        [key] if keys.len() > 1 => key,
        [_] => {
            return Err(Failure::failed(
                "it is the last key: without it nobody could open the repository",
                "add another first",
            ));
        }
        [] => {
            return Err(Failure::failed(
                format!("no key is called {wanted:?}"),
                "`vellum backup key list` shows the keys",
            ));
        }
        _ => {
            return Err(Failure::failed(
                format!("{wanted:?} could mean {} keys", found.len()),
                "write more of the id",
            ));
        }
    };
    let deleted = repository
        .objects()
        .delete(&ObjectName::Key(key.id).to_string());
    deleted.map_err(|error| repository.failed(error))?;
    session.output.confirm(&Changed {
        action: "key remove",
        key: Shown::of(key),
    })?;
    Ok(Outcome::Done)
}

fn refuse_plain(repository: &Repository) -> Result<(), Failure> {
    if repository.file().is_encrypted {
        return Ok(());
    }
    let what = format!(
        "the repository in {} is not encrypted: it has no keys",
        repository.place()
    );
    Err(Failure::failed(
        what,
        "`vellum backup copy` copies it into one that is",
    ))
}

/// All keys, the oldest first. Those that cannot be read open nothing.
fn keys(repository: &Repository) -> Result<Vec<KeyInfo>, Failure> {
    refuse_plain(repository)?;
    let mut keys = Vec::new();
    for (name, _) in repository.list(ObjectKind::Key)? {
        let ObjectName::Key(id) = name else { continue };
        let stored = repository
            .objects()
            .get(&name.to_string())
            .map_err(|error: ObjectError| repository.failed(error))?;
        keys.extend(key_info(id, &stored));
    }
    keys.sort_by_key(|key| key.time_ms);
    Ok(keys)
}

impl Shown {
    fn of(key: &KeyInfo) -> Self {
        let kind = if key.is_password {
            "password"
        } else {
            "key file"
        };
        Self {
            id: key.id.to_string(),
            label: key.label.clone(),
            kind,
            created: Moment::new(key.time_ms),
        }
    }
}

impl Answer for Listing {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        let columns = [
            Column::text("ID"),
            Column::text("KIND"),
            Column::text("CREATED"),
            Column::text("LABEL"),
        ];
        let row = |key: &Shown| {
            vec![
                address::short(&key.id).to_owned(),
                key.kind.to_owned(),
                page.moment(key.created),
                key.label.clone(),
            ]
        };
        let rows: Vec<_> = self.keys.iter().map(row).collect();
        page.table(&columns, &rows)
    }
}

impl Answer for Changed {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        let done = if self.action == "key add" {
            "added"
        } else {
            "removed"
        };
        page.line(format!(
            "{done} {} {}",
            self.key.kind,
            address::short(&self.key.id)
        ))
    }
}
