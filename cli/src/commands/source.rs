//! `vellum source`: where the store looks for chunks that are damaged in it.

use std::io;
use std::path::Path;
use std::sync::Arc;

use clap::Subcommand;
use serde::Serialize;
use vellum_backup::reader::Reader;
use vellum_store::{Access, SourceEntry, SourceKind, SourceSecret, Store};

use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::healing;
use crate::invocation::Invocation;
use crate::output::Render;
use crate::output::page::TextPage;
use crate::output::table::Column;

/// Say where the store finds chunks that are damaged in it: whoever reads one gets it from there,
/// and the store is healed
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum source add /mnt/backup --password-file /etc/vellum/password
  vellum source add /srv/other-store
  vellum source add --file /srv/images/web.raw
  vellum source list

They are asked in the order in which they were added, by export, compare, send, push, serve, nbd \
and mount. A chunk that is found is held against its name, served, and, where the store is open \
for writing, written back under the id that it had.")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: SourceVerb,
}

#[derive(Subcommand)]
enum SourceVerb {
    Add(SourceAddArgs),
    #[command(visible_alias = "ls")]
    List(SourceListArgs),
    #[command(visible_alias = "rm")]
    Remove(SourceRemoveArgs),
}

/// Add a repository, another store, or a file that may hold the same disks
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum source add s3://backups/vellum --password-file /etc/vellum/password
  vellum source add --file /dev/vg/web-copy --odd-offsets

A repository's password comes from where this says, or from the environment of whoever reads (of \
the server, where one serves the store).")]
struct SourceAddArgs {
    /// A repository (a folder, or s3://BUCKET/PREFIX), the folder of another store, or a file
    place: String,
    /// It is a file or block device, whatever it looks like: its bytes are searched
    #[arg(long)]
    file: bool,
    /// Search the file at every byte, not only where chunks lie in a raw disk
    #[arg(long)]
    odd_offsets: bool,
    /// A file whose first line is the repository's password, read when it is needed
    #[arg(long, value_name = "FILE")]
    password_file: Option<String>,
    /// A command that prints the repository's password, run when it is needed
    #[arg(long, value_name = "COMMAND", conflicts_with = "password_file")]
    password_command: Option<String>,
    /// A key file of the repository, read when it is needed
    #[arg(long, value_name = "FILE", conflicts_with_all = ["password_file", "password_command"])]
    key_file: Option<String>,
    /// Add it although it cannot be reached or opened now
    #[arg(long)]
    unseen: bool,
}

/// List the store's sources, and how much is known to be damaged
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum source list")]
struct SourceListArgs {}

/// Take a source away: it is not touched, only asked no more
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum source remove /srv/other-store")]
struct SourceRemoveArgs {
    /// As `vellum source list` shows it
    place: String,
}

#[derive(Serialize)]
struct SourceListing {
    sources: Vec<ShownSource>,
    damaged_chunks: u64,
    lost_chunks: u64,
}

#[derive(Serialize)]
struct SourceChange {
    action: &'static str,
    #[serde(flatten)]
    source: ShownSource,
}

#[derive(Serialize)]
struct ShownSource {
    kind: &'static str,
    place: String,
    odd_offsets: bool,
    /// The place of the secret that opens it.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

pub(super) fn run_source(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    match &args.verb {
        SourceVerb::Add(args) => add_source(args, session),
        SourceVerb::List(_) => list_sources(session),
        SourceVerb::Remove(args) => remove_source(args, session),
    }
}

fn add_source(
    args: &SourceAddArgs,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let store = session.open_to_write()?;
    let entry = source_entry(args, &store, session)?;
    if !args.unseen {
        check_source(&entry, &store, session)?;
    }
    let mut entries = store.source_entries()?;
    if entries.iter().any(|other| other.place == entry.place) {
        return Err(CommandFailure::with_hint(
            format!("{} is a source already", entry.place),
            format!("`vellum source remove {}` takes it away", entry.place),
        ));
    }
    entries.push(entry.clone());
    store.keep_source_entries(entries)?;
    healing::attach_sources(&store)?;
    session
        .output
        .print_confirmation(&SourceChange::new("source add", &entry))?;
    Ok(Outcome::Done)
}

fn list_sources(session: &mut CommandContext) -> Result<Outcome, CommandFailure> {
    let store = session.open_to_read()?;
    let damage = store.known_damage();
    let sources = SourceListing {
        sources: store
            .source_entries()?
            .iter()
            .map(ShownSource::new)
            .collect(),
        damaged_chunks: damage.damaged.len(),
        lost_chunks: damage.lost.len(),
    };
    session.output.print_answer(&sources)?;
    Ok(Outcome::Done)
}

fn remove_source(
    args: &SourceRemoveArgs,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let store = session.open_to_write()?;
    let mut entries = store.source_entries()?;
    let whole = whole_path(&args.place, &session.caller);
    let is_meant = |entry: &SourceEntry| {
        entry.place == args.place || whole.as_deref().is_ok_and(|whole| entry.place == whole)
    };
    let Some(at) = entries.iter().position(is_meant) else {
        return Err(CommandFailure::with_hint(
            format!("{} is no source of this store", args.place),
            "`vellum source list` shows them",
        ));
    };
    let entry = entries.remove(at);
    store.keep_source_entries(entries)?;
    healing::attach_sources(&store)?;
    session
        .output
        .print_confirmation(&SourceChange::new("source remove", &entry))?;
    Ok(Outcome::Done)
}

/// The source that the command line names. A place with an address is a repository; a path is
/// whatever is there.
fn source_entry(
    args: &SourceAddArgs,
    store: &Store,
    session: &CommandContext,
) -> Result<SourceEntry, CommandFailure> {
    let caller = &session.caller;
    let path = |text: &String| whole_path(text, caller);
    let secret = match (&args.password_file, &args.password_command, &args.key_file) {
        (Some(file), ..) => Some(SourceSecret::PasswordFile(path(file)?)),
        (_, Some(command), _) => Some(SourceSecret::PasswordCommand(command.clone())),
        (_, _, Some(file)) => Some(SourceSecret::KeyFile(path(file)?)),
        _ => None,
    };
    let is_address = args.place.contains("://");
    let (kind, place) = if is_address && !args.file {
        (SourceKind::Repository, args.place.clone())
    } else {
        (source_kind(args, caller)?, whole_path(&args.place, caller)?)
    };
    let misfit = match kind {
        SourceKind::Repository if args.odd_offsets => Some("--odd-offsets is for files"),
        SourceKind::Store if args.odd_offsets => Some("--odd-offsets is for files"),
        SourceKind::Store | SourceKind::File if secret.is_some() => {
            Some("a password is for repositories")
        }
        _ => None,
    };
    if let Some(misfit) = misfit {
        return Err(CommandFailure::usage_error(misfit, "leave it out"));
    }
    let own = store.dir().canonicalize();
    if kind == SourceKind::Store && own.is_ok_and(|own| own == Path::new(&place)) {
        return Err(CommandFailure::usage_error(
            "a store is no source of its own",
            "other copies in it are used without being asked for",
        ));
    }
    Ok(SourceEntry {
        kind,
        place,
        secret,
        odd_offsets: args.odd_offsets,
    })
}

/// The source that a place alone names; `password_file` is for those that are repositories.
pub(super) fn source_at(
    place: &str,
    password_file: Option<&String>,
    caller: &Invocation,
) -> Result<SourceEntry, CommandFailure> {
    let args = SourceAddArgs {
        place: place.to_owned(),
        file: false,
        odd_offsets: false,
        password_file: None,
        password_command: None,
        key_file: None,
        unseen: false,
    };
    let (kind, place) = if place.contains("://") {
        (SourceKind::Repository, args.place.clone())
    } else {
        (
            source_kind(&args, caller)?,
            whole_path(&args.place, caller)?,
        )
    };
    let secret = password_file.filter(|_| kind == SourceKind::Repository);
    let secret = secret.map(|file| whole_path(file, caller)).transpose()?;
    Ok(SourceEntry {
        kind,
        place,
        secret: secret.map(SourceSecret::PasswordFile),
        odd_offsets: false,
    })
}

/// The kind of source at the path that the command line names.
fn source_kind(args: &SourceAddArgs, caller: &Invocation) -> Result<SourceKind, CommandFailure> {
    let path = caller.resolve_path(Path::new(&args.place));
    if args.file {
        return Ok(SourceKind::File);
    }
    if path.join("vellum.store").exists() {
        return Ok(SourceKind::Store);
    }
    if path.join("vellum.repository").exists() {
        return Ok(SourceKind::Repository);
    }
    match std::fs::metadata(&path) {
        Ok(metadata) if !metadata.is_dir() => Ok(SourceKind::File),
        Ok(_) => Err(CommandFailure::with_hint(
            format!("{} is neither a store nor a repository", args.place),
            "name the folder of one, or a file",
        )),
        Err(error) => Err(CommandFailure::io_error(
            format!("look at {}", args.place),
            error,
        )),
    }
}

/// The path as it is from everywhere, links followed as far as it is there.
fn whole_path(text: &str, caller: &Invocation) -> Result<String, CommandFailure> {
    let path = caller.resolve_path(Path::new(text));
    let whole = path.canonicalize().or_else(|_| {
        let folder = caller.resolve_path(Path::new(".")).canonicalize()?;
        Ok::<_, io::Error>(folder.join(text))
    });
    let whole =
        whole.map_err(|error| CommandFailure::io_error(format!("look at {text}"), error))?;
    whole.to_str().map(str::to_owned).ok_or_else(|| {
        CommandFailure::usage_error(
            format!("{} has letters that cannot be kept", whole.display()),
            "give it another name, or a link with one",
        )
    })
}

/// Checks that it can be asked now.
fn check_source(
    entry: &SourceEntry,
    store: &Store,
    session: &CommandContext,
) -> Result<(), CommandFailure> {
    let own = store.parameters().chunk_len;
    let there = match entry.kind {
        SourceKind::Store => {
            let other = Store::open_dir(Path::new(&entry.place), Access::ReadOnly, "")?;
            other.parameters().chunk_len
        }
        SourceKind::Repository => {
            let repository = healing::open_repository(entry, &Arc::clone(&session.caller));
            let repository = repository.map_err(unchecked_source)?;
            Reader::new(&repository).chunk_len()?
        }
        SourceKind::File => {
            let opened = std::fs::File::open(&entry.place);
            opened.map_err(|error| {
                unchecked_source(CommandFailure::io_error(
                    format!("open {}", entry.place),
                    error,
                ))
            })?;
            own
        }
    };
    if own == there {
        return Ok(());
    }
    Err(CommandFailure::with_hint(
        format!(
            "{} has chunks of {} bytes, this store of {}",
            entry.place,
            there.byte_len(),
            own.byte_len()
        ),
        "only chunks of the same length can be told by their names",
    ))
}

fn unchecked_source(failure: CommandFailure) -> CommandFailure {
    failure
        .replace_hint("mend that, or add it with --unseen: it is asked when something is damaged")
}

impl ShownSource {
    fn new(entry: &SourceEntry) -> Self {
        let secret = entry.secret.as_ref().map(|secret| match secret {
            SourceSecret::PasswordFile(path) => format!("password file {path}"),
            SourceSecret::PasswordCommand(_) => "password command".to_owned(),
            SourceSecret::KeyFile(path) => format!("key file {path}"),
        });
        Self {
            kind: match entry.kind {
                SourceKind::Repository => "repository",
                SourceKind::Store => "store",
                SourceKind::File => "file",
            },
            place: entry.place.clone(),
            odd_offsets: entry.odd_offsets,
            secret,
        }
    }

    fn entry_notes(&self) -> String {
        let odd = self.odd_offsets.then(|| "at odd offsets".to_owned());
        odd.into_iter()
            .chain(self.secret.clone())
            .collect::<Vec<_>>()
            .join(", ")
    }
}

impl SourceChange {
    fn new(action: &'static str, entry: &SourceEntry) -> Self {
        Self {
            action,
            source: ShownSource::new(entry),
        }
    }
}

impl Render for SourceChange {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let (kind, place) = (self.source.kind, &self.source.place);
        page.write_line(match self.action {
            "source add" => format!("damaged chunks are looked for in the {kind} {place}"),
            _ => format!("the {kind} {place} is not asked any more"),
        })
    }
}

impl Render for SourceListing {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        if self.sources.is_empty() {
            page.write_line("no sources; next: vellum source add PLACE")?;
        } else {
            let columns = [
                Column::text_column("KIND"),
                Column::text_column("PLACE"),
                Column::text_column("NOTES").as_prose(),
            ];
            let row = |shown: &ShownSource| {
                vec![
                    shown.kind.to_owned(),
                    shown.place.clone(),
                    shown.entry_notes(),
                ]
            };
            let rows: Vec<Vec<String>> = self.sources.iter().map(row).collect();
            page.write_table(&columns, &rows)?;
        }
        if self.damaged_chunks + self.lost_chunks > 0 {
            page.write_line(format!(
                "known to be damaged: {}, given up: {}",
                self.damaged_chunks, self.lost_chunks
            ))?;
        }
        Ok(())
    }
}
