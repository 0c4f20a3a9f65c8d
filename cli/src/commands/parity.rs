//! `vellum parity`: files of the store that are damaged or gone heal by themselves.

use std::io;

use serde::Serialize;
use vellum_store::parity::{ParityHealing, ParityShare, ParityStatus};
use vellum_store::{StoreError, heal_closed_store};

use crate::failure::{Failure, Outcome};
use crate::output::Answer;
use crate::output::page::{Page, plural};
use crate::session::Session;

/// Heal damaged and lost files of the store from parity
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    Add(AddArgs),
    Remove(RemoveArgs),
    Status(StatusArgs),
    Heal(HealArgs),
}

/// Protect the store by parity, or change how much there is
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum parity add 2%

Parity takes SHARE of the store's files, and at least as much as the longest
of them (up to 64M, twice): of a small store it is a mirror. From it heal
flipped bits, bad sectors and one lost file (of about 50, with 2%), when they
are read or with `vellum parity heal`. It is brought up to date at the end of
each command that writes, and every minute by a server.")]
struct AddArgs {
    /// How much of the store: 1% to 100%
    #[arg(value_name = "SHARE", value_parser = share)]
    share: ParityShare,
}

/// Give up parity and its space
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum parity remove")]
struct RemoveArgs {}

/// Tell how well the store is protected
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum parity status --json")]
struct StatusArgs {}

/// Read every protected file and heal what is damaged, also of a store that does not open
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum parity heal -n
  vellum parity heal

Exit codes: 0 all is well now, 4 some of it cannot be healed.")]
struct HealArgs {
    /// Only say what would be healed
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// A share as people write it: `2%`, `0.5%` is too little.
pub(super) fn share(text: &str) -> Result<ParityShare, String> {
    let percent = text
        .strip_suffix('%')
        .and_then(|number| number.trim().parse::<f64>().ok());
    percent
        .map(|percent| (percent * 10.0).round())
        .filter(|per_mille| (0.0..=10_000.0).contains(per_mille))
        .and_then(|per_mille| ParityShare::new(per_mille as u16))
        .ok_or_else(|| "a share of parity is written such as 2%, from 1% to 100%".to_owned())
}

/// A share in percent.
pub(super) fn percent(share: ParityShare) -> f64 {
    share.per_mille() as f64 / 10.0
}

/// The protection of a store, for people and programs.
#[derive(Serialize)]
pub(crate) struct ShownProtection {
    parity_percent: Option<f64>,
    groups: u64,
    tables_protected: u64,
    protected_bytes: u64,
    tables_unprotected: u64,
    unprotected_bytes: u64,
    groups_stale: u64,
    groups_damaged: u64,
    parity_bytes: u64,
    /// The bytes of files that the store does not need any more, until parity is up to date.
    held_bytes: u64,
    /// True if manifest, log and marker are kept as well: not while it is open for writing.
    has_small_files: bool,
}

#[derive(Serialize)]
struct Changed {
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parity: Option<ShownProtection>,
}

#[derive(Serialize)]
struct Healed {
    action: &'static str,
    dry_run: bool,
    read_bytes: u64,
    blocks_healed: u64,
    parity_blocks_healed: u64,
    files_restored: Vec<String>,
    files_lost: Vec<String>,
    groups_lost: u64,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    match &args.verb {
        Verb::Add(args) => add(args, session),
        Verb::Remove(_) => remove(session),
        Verb::Status(_) => status(session),
        Verb::Heal(args) => heal(args, session),
    }
}

fn add(args: &AddArgs, session: &mut Session) -> Result<Outcome, Failure> {
    let store = session.open_to_write()?;
    store.set_parity_share(Some(args.share))?;
    let meter = session.watch_bytes("protecting");
    store.protect_all(&meter)?;
    drop(meter);
    let parity = Some(ShownProtection::new(&store.parity_status()?));
    session.output.confirm(&Changed {
        action: "parity add",
        parity,
    })?;
    Ok(Outcome::Done)
}

fn remove(session: &mut Session) -> Result<Outcome, Failure> {
    session.open_to_write()?.set_parity_share(None)?;
    session.output.confirm(&Changed {
        action: "parity remove",
        parity: None,
    })?;
    Ok(Outcome::Done)
}

fn status(session: &mut Session) -> Result<Outcome, Failure> {
    let status = session.open_to_read()?.parity_status()?;
    session.output.answer(&ShownProtection::new(&status))?;
    Ok(Outcome::Done)
}

fn heal(args: &HealArgs, session: &mut Session) -> Result<Outcome, Failure> {
    let meter = session.watch_bytes("healing");
    let opened = if args.dry_run {
        session.open_to_read()
    } else {
        session.open_to_write()
    };
    let report = match opened {
        Ok(store) => store.heal_by_parity(args.dry_run, &meter)?,
        // A store that cannot be opened may be healed.
        Err(Failure::Store(StoreError::Damaged(_) | StoreError::NewerFormat { .. })) => {
            heal_closed_store(
                session.store_dir()?,
                &session.command_line(),
                args.dry_run,
                &meter,
            )?
        }
        Err(failure) => return Err(failure),
    };
    drop(meter);
    let healed = Healed::new(args.dry_run, report);
    session.output.summary(&healed)?;
    Ok(if healed.files_lost.is_empty() {
        Outcome::Done
    } else {
        Outcome::Damaged
    })
}

impl ShownProtection {
    pub(super) fn new(status: &ParityStatus) -> Self {
        Self {
            parity_percent: status.share.map(percent),
            groups: status.groups,
            tables_protected: status.tables_protected,
            protected_bytes: status.bytes_protected,
            tables_unprotected: status.tables_unprotected,
            unprotected_bytes: status.bytes_unprotected,
            groups_stale: status.groups_stale,
            groups_damaged: status.groups_damaged,
            parity_bytes: status.bytes_on_disk,
            held_bytes: status.bytes_held,
            has_small_files: status.has_small_files,
        }
    }

    /// The protection in one sentence.
    pub(super) fn sentence(&self, page: &Page) -> String {
        let (parity, data) = (
            page.size(self.parity_bytes),
            page.size(self.protected_bytes),
        );
        let tables = plural(self.tables_protected, "table");
        let mut text = format!("parity: {parity} protect {data} in {tables}");
        if self.tables_unprotected > 0 {
            let (tables, data) = (
                plural(self.tables_unprotected, "table"),
                page.size(self.unprotected_bytes),
            );
            text += &format!("; not protected yet: {data} in {tables}");
        }
        if self.groups_damaged > 0 {
            text += &format!("; {} damaged", plural(self.groups_damaged, "group"));
        }
        text
    }
}

impl Healed {
    fn new(dry_run: bool, report: ParityHealing) -> Self {
        Self {
            action: "parity heal",
            dry_run,
            read_bytes: report.bytes_read,
            blocks_healed: report.blocks_healed,
            parity_blocks_healed: report.parity_blocks_healed,
            files_restored: report.files_restored,
            files_lost: report.files_lost,
            groups_lost: report.groups_lost,
        }
    }
}

impl Answer for Changed {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        match &self.parity {
            Some(parity) => page.line(parity.sentence(page)),
            None => page.line("parity is off, and its space is given back"),
        }
    }
}

impl Answer for ShownProtection {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        let Some(percent) = self.parity_percent else {
            page.line("parity is off")?;
            return page.line("next: vellum parity add 2%");
        };
        page.field("parity", format!("{percent} %"))?;
        let groups = plural(self.groups, "group");
        page.field(
            "on disk",
            format!("{} in {groups}", page.size(self.parity_bytes)),
        )?;
        let tables = plural(self.tables_protected, "table");
        page.field(
            "protected",
            format!("{} in {tables}", page.size(self.protected_bytes)),
        )?;
        let tables = plural(self.tables_unprotected, "table");
        page.field(
            "not yet",
            format!("{} in {tables}", page.size(self.unprotected_bytes)),
        )?;
        if self.groups_damaged > 0 {
            page.field("damaged", plural(self.groups_damaged, "group"))?;
        }
        if self.held_bytes > 0 {
            let held = page.size(self.held_bytes);
            page.field(
                "kept",
                format!("{held} of files that are deleted, until it is up to date"),
            )?;
        }
        let small = if self.has_small_files {
            "manifest, log and marker are kept, too"
        } else {
            "manifest and log are not kept while the store is open, or after a crash"
        };
        page.field("small files", small)?;
        if self.tables_unprotected > 0 || self.groups_damaged > 0 {
            page.line("next: any command that writes brings it up to date, such as vellum gc")?;
        }
        Ok(())
    }
}

impl Answer for Healed {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        let would = if self.dry_run { "would be " } else { "" };
        for name in &self.files_restored {
            page.line(format!("{name}: {would}restored"))?;
        }
        for name in &self.files_lost {
            page.line(format!("{name}: damaged beyond what parity can heal"))?;
        }
        let read = page.size(self.read_bytes);
        let (blocks, parity) = (
            plural(self.blocks_healed, "block"),
            plural(self.parity_blocks_healed, "block"),
        );
        page.line(format!(
            "read {read}; {blocks} of data and {parity} of parity {would}healed"
        ))?;
        if self.groups_lost > 0 {
            let groups = plural(self.groups_lost, "group");
            page.line(format!(
                "{groups} of parity were damaged, and are made anew"
            ))?;
        }
        page.line(match (self.files_lost.is_empty(), self.dry_run) {
            (false, _) => "next: vellum check --read-data lists the images that are hit",
            (true, true) => "nothing was changed",
            (true, false) => "everything that is protected is whole",
        })
    }
}
