//! `vellum backup key`: the keys that open a repository.

use std::io;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::Serialize;
use vellum_backup::error::BackupError;
use vellum_backup::objects::{ObjectError, ObjectId, ObjectKind, ObjectName};
use vellum_backup::repository::Repository;
use vellum_backup::seal::{
    KeyInfo, KeyRole, Opener, PasswordCost, create_key_of, key_info, unlock_any,
};

use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::output::Render;
use crate::output::page::TextPage;
use crate::output::table::Column;
use crate::output::time::Rfc3339Time;
use crate::repository::{self, AccessArgs, address, opening, password, repo_args};

/// List, add and remove passwords and key files that open a repository
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum backup key add /mnt/backup --new-key-file backup.key
  vellum backup key list /mnt/backup")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: KeyVerb,
}

#[derive(Subcommand)]
enum KeyVerb {
    #[command(visible_alias = "ls")]
    List(KeyListArgs),
    Add(KeyAddArgs),
    /// Replace the password or key file that opens the repository here by another
    #[command(after_help = "\
Example:
  vellum backup key passwd /mnt/backup --new-password-file new.txt

Other keys stay. Without an option, it asks for a new password.")]
    Passwd(NewKeyArgs),
    #[command(visible_alias = "rm")]
    Remove(KeyRemoveArgs),
}

/// List the keys
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum backup key list /mnt/backup")]
struct KeyListArgs {
    /// The repository
    #[arg(value_name = "REPO")]
    words: Vec<String>,
    #[command(flatten)]
    access: AccessArgs,
}

/// Let another password or key file open the repository too
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum backup key add /mnt/backup --new-password-file new.txt --label alice
  vellum backup key add /mnt/backup --new-key-file backup.key --role writer

Without either file, it asks for a new password. With a key of role writer one can read and push, \
and not forget, prune, repair, or change policies and keys. That holds against mistakes; against \
somebody hostile the rights in the place must say the same (see the manual, \"Keys that only \
add\").")]
struct KeyAddArgs {
    /// The right that the key gives
    #[arg(long, value_name = "ROLE", value_enum, default_value = "owner")]
    role: Role,
    #[command(flatten)]
    key: NewKeyArgs,
}

/// The right that a key gives, as it is asked for.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Role {
    /// Everything
    Owner,
    /// To read, and to add points
    Writer,
}

impl From<Role> for KeyRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Owner => Self::Owner,
            Role::Writer => Self::Writer,
        }
    }
}

/// A new key, and the repository that it is to open.
#[derive(clap::Args)]
struct NewKeyArgs {
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
    access: AccessArgs,
}

/// Make a key useless. What was read with it before may have been kept
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum backup key remove /mnt/backup 3f9c02a1b7")]
struct KeyRemoveArgs {
    /// The repository, and the key's id as `key list` shows it
    #[arg(value_names = ["REPO", "KEY"], num_args = 0..=2)]
    words: Vec<String>,
    #[command(flatten)]
    access: AccessArgs,
}

#[derive(Serialize)]
struct ShownKey {
    id: String,
    label: String,
    kind: &'static str,
    role: &'static str,
    created: Rfc3339Time,
}

#[derive(Serialize)]
#[serde(transparent)]
struct KeyListing {
    keys: Vec<ShownKey>,
}

#[derive(Serialize)]
struct KeyChange {
    action: &'static str,
    key: ShownKey,
}

pub(super) fn run_backup_key(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    match &args.verb {
        KeyVerb::List(args) => list_keys(args, session),
        KeyVerb::Add(args) => add_key(args, session),
        KeyVerb::Passwd(args) => change_key(args, session),
        KeyVerb::Remove(args) => remove_key(args, session),
    }
}

fn list_keys(args: &KeyListArgs, session: &mut CommandContext) -> Result<Outcome, CommandFailure> {
    let place = repo_args::repository_and_words(&args.words, &[], &session.caller)?.place;
    let repository = opening::open_repository(&place, &args.access, session)?;
    let keys = readable_keys(&repository)?
        .iter()
        .map(ShownKey::from_key)
        .collect();
    session.output.print_answer(&KeyListing { keys })?;
    Ok(Outcome::Done)
}

fn add_key(args: &KeyAddArgs, session: &mut CommandContext) -> Result<Outcome, CommandFailure> {
    let (.., key) = put_new_key(&args.key, args.role.into(), session)?;
    session.output.print_confirmation(&KeyChange {
        action: "key add",
        key,
    })?;
    Ok(Outcome::Done)
}

/// The key that opened the repository goes once the new one is there: a command that is stopped
/// leaves both.
fn change_key(args: &NewKeyArgs, session: &mut CommandContext) -> Result<Outcome, CommandFailure> {
    let (repository, old, key) = put_new_key(args, KeyRole::Owner, session)?;
    let deleted = repository
        .objects()
        .delete(&ObjectName::Key(old).to_string());
    deleted.map_err(|error| repository.failed(error))?;
    session.output.print_confirmation(&KeyChange {
        action: "key passwd",
        key,
    })?;
    Ok(Outcome::Done)
}

/// Puts a new key: the repository, the id of the key that opened it, and the new one.
fn put_new_key(
    args: &NewKeyArgs,
    role: KeyRole,
    session: &CommandContext,
) -> Result<(Repository, ObjectId, ShownKey), CommandFailure> {
    let place = repo_args::repository_and_words(&args.words, &[], &session.caller)?.place;
    let caller = &session.caller;
    let repository = opening::open_repository(&place, &args.access, session)?;
    refuse_plain(&repository)?;
    repository.refuse_writer("change keys")?;
    let old = repository::given_opener(&args.access.key, password::VARIABLES, caller)?;
    let old = old.map_or_else(|| ask_opener("the present password", false, session), Ok)?;
    let new = new_opener(args, session)?;
    let fail = |source| BackupError::Key {
        place: repository.place(),
        source,
    };
    let old = unlock_any(&**repository.objects(), repository.file(), &old).map_err(fail)?;
    let key = create_key_of(
        role,
        &old.secrets,
        repository.file(),
        &new,
        &args.label,
        repository::now_ms(),
        PasswordCost::default(),
    )
    .map_err(fail)?;
    repository.put(&ObjectName::Key(key.id), &key.bytes)?;
    let key = ShownKey::from_key(&key_info(key.id, &key.bytes).map_err(fail)?);
    Ok((repository, old.id, key))
}

fn new_opener(args: &NewKeyArgs, session: &CommandContext) -> Result<Opener, CommandFailure> {
    let caller = &session.caller;
    if let Some(path) = &args.new_key_file {
        let file = if caller.resolve_path(path).exists() {
            repository::read_key_file(path, caller)
        } else {
            repository::make_key_file(path, caller)
        };
        return file.map(Opener::KeyFile);
    }
    match given_opener(args.new_password_file.as_deref(), session)? {
        Some(opener) => Ok(opener),
        None => ask_opener("new password", true, session),
    }
}

fn given_opener(
    file: Option<&Path>,
    session: &CommandContext,
) -> Result<Option<Opener>, CommandFailure> {
    let Some(file) = file else { return Ok(None) };
    Ok(
        password::given_password(Some(file), password::VARIABLES, &session.caller)?
            .map(Opener::Password),
    )
}

fn ask_opener(
    question: &str,
    again: bool,
    session: &CommandContext,
) -> Result<Opener, CommandFailure> {
    let asked = password::ask_at_terminal(question, again, &session.caller)?;
    let missing = || {
        CommandFailure::usage_error(
            format!("there is no terminal to ask for {question}"),
            "give it in a file: see --help",
        )
    };
    asked.map(Opener::Password).ok_or_else(missing)
}

fn remove_key(
    args: &KeyRemoveArgs,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let named = repo_args::repository_and_words(&args.words, &["KEY"], &session.caller)?;
    let repository = opening::open_repository(&named.place, &args.access, session)?;
    repository.refuse_writer("change keys")?;
    let keys = readable_keys(&repository)?;
    let wanted = &named.rest[0];
    let is_last_owner = |key: &KeyInfo| {
        let mut others = keys.iter().filter(|other| other.id != key.id);
        others.all(|other| other.role == KeyRole::Writer)
    };
    let found: Vec<&KeyInfo> = keys
        .iter()
        .filter(|key| address::is_enough(wanted) && key.id.to_string().starts_with(wanted.as_str()))
        .collect();
    let key = match found[..] {
        [key] if !is_last_owner(key) => key,
        [_] => {
            let what = if keys.len() == 1 {
                "it is the last key: without it nobody could open the repository"
            } else {
                "it is the last owner's key: without it nobody could forget or prune"
            };
            return Err(CommandFailure::with_hint(what, "add another first"));
        }
        [] => {
            return Err(CommandFailure::with_hint(
                format!("no key is called {wanted:?}"),
                "`vellum backup key list` shows the keys",
            ));
        }
        _ => {
            return Err(CommandFailure::with_hint(
                format!("{wanted:?} could mean {} keys", found.len()),
                "write more of the id",
            ));
        }
    };
    let deleted = repository
        .objects()
        .delete(&ObjectName::Key(key.id).to_string());
    deleted.map_err(|error| repository.failed(error))?;
    session.output.print_confirmation(&KeyChange {
        action: "key remove",
        key: ShownKey::from_key(key),
    })?;
    Ok(Outcome::Done)
}

fn refuse_plain(repository: &Repository) -> Result<(), CommandFailure> {
    if repository.file().is_encrypted {
        return Ok(());
    }
    let what = format!(
        "the repository in {} is not encrypted: it has no keys",
        repository.place()
    );
    Err(CommandFailure::with_hint(
        what,
        "`vellum backup copy` copies it into one that is",
    ))
}

/// All keys, the oldest first. Those that cannot be read open nothing.
fn readable_keys(repository: &Repository) -> Result<Vec<KeyInfo>, CommandFailure> {
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

impl ShownKey {
    fn from_key(key: &KeyInfo) -> Self {
        let kind = if key.is_password {
            "password"
        } else {
            "key file"
        };
        Self {
            id: key.id.to_string(),
            label: key.label.clone(),
            kind,
            role: key.role.word(),
            created: Rfc3339Time::new(key.time_ms),
        }
    }
}

impl Render for KeyListing {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let columns = [
            Column::text_column("ID").as_whole(),
            Column::text_column("KIND").as_whole(),
            Column::text_column("ROLE").as_whole(),
            Column::text_column("CREATED").as_time().giving_way(1),
            Column::text_column("LABEL"),
        ];
        let row = |key: &ShownKey| {
            vec![
                address::short_id(&key.id).to_owned(),
                key.kind.to_owned(),
                key.role.to_owned(),
                page.format_minute(key.created),
                key.label.clone(),
            ]
        };
        let rows: Vec<_> = self.keys.iter().map(row).collect();
        page.write_table(&columns, &rows)
    }
}

impl Render for KeyChange {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let done = match self.action {
            "key add" => "added",
            "key passwd" => "the key that was given opens it no more; added",
            _ => "removed",
        };
        page.write_line(format!(
            "{done} {} {}",
            self.key.kind,
            address::short_id(&self.key.id)
        ))
    }
}
