//! `vellum parity`: files of the store that are damaged or gone heal by themselves.

use std::io;

use serde::Serialize;
use vellum_store::parity::{ParityHealing, ParityShare, ParityStatus};
use vellum_store::{StoreError, heal_closed_store};

use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::output::Render;
use crate::output::page::{TextPage, format_count};

/// Heal damaged and lost files of the store from parity
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: ParityVerb,
}

#[derive(clap::Subcommand)]
enum ParityVerb {
    Add(ParityAddArgs),
    Remove(ParityRemoveArgs),
    Status(ParityStatusArgs),
    Heal(ParityHealArgs),
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
struct ParityAddArgs {
    /// How much of the store: 1% to 100%
    #[arg(value_name = "SHARE", value_parser = parse_share)]
    share: ParityShare,
}

/// Give up parity and its space
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum parity remove")]
struct ParityRemoveArgs {}

/// Tell how well the store is protected
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum parity status --json")]
struct ParityStatusArgs {}

/// Read every protected file and heal what is damaged, also of a store that does not open
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum parity heal -n
  vellum parity heal

Exit codes: 0 all is well now, 4 some of it cannot be healed.")]
struct ParityHealArgs {
    /// Only say what would be healed
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// A share as people write it: `2%`, `0.5%` is too little.
pub(super) fn parse_share(text: &str) -> Result<ParityShare, String> {
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
pub(super) fn share_percent(share: ParityShare) -> f64 {
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
struct ParityChange {
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parity: Option<ShownProtection>,
}

#[derive(Serialize)]
struct ShownHealing {
    action: &'static str,
    dry_run: bool,
    read_bytes: u64,
    blocks_healed: u64,
    parity_blocks_healed: u64,
    files_restored: Vec<String>,
    files_lost: Vec<String>,
    groups_lost: u64,
}

pub(super) fn run_parity(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    match &args.verb {
        ParityVerb::Add(args) => add_parity(args, session),
        ParityVerb::Remove(_) => remove_parity(session),
        ParityVerb::Status(_) => print_status(session),
        ParityVerb::Heal(args) => heal_chunks(args, session),
    }
}

fn add_parity(
    args: &ParityAddArgs,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let store = session.open_to_write()?;
    store.set_parity_share(Some(args.share))?;
    let meter = session.watch_bytes("protecting");
    store.protect_all(&meter)?;
    drop(meter);
    let parity = Some(ShownProtection::new(&store.parity_status()?));
    session.output.print_confirmation(&ParityChange {
        action: "parity add",
        parity,
    })?;
    Ok(Outcome::Done)
}

fn remove_parity(session: &mut CommandContext) -> Result<Outcome, CommandFailure> {
    session.open_to_write()?.set_parity_share(None)?;
    session.output.print_confirmation(&ParityChange {
        action: "parity remove",
        parity: None,
    })?;
    Ok(Outcome::Done)
}

fn print_status(session: &mut CommandContext) -> Result<Outcome, CommandFailure> {
    let status = session.open_to_read()?.parity_status()?;
    session
        .output
        .print_answer(&ShownProtection::new(&status))?;
    Ok(Outcome::Done)
}

fn heal_chunks(
    args: &ParityHealArgs,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let meter = session.watch_bytes("healing");
    let opened = if args.dry_run {
        session.open_to_read()
    } else {
        session.open_to_write()
    };
    let report = match opened {
        Ok(store) => store.heal_by_parity(args.dry_run, &meter)?,
        // A store that cannot be opened may be healed.
        Err(CommandFailure::Store(StoreError::Damaged(_) | StoreError::NewerFormat { .. })) => {
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
    let healed = ShownHealing::new(args.dry_run, report);
    session.output.print_summary(&healed)?;
    Ok(if healed.files_lost.is_empty() {
        Outcome::Done
    } else {
        Outcome::Damaged
    })
}

impl ShownProtection {
    pub(super) fn new(status: &ParityStatus) -> Self {
        Self {
            parity_percent: status.share.map(share_percent),
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
    pub(super) fn status_sentence(&self, page: &TextPage) -> String {
        let (parity, data) = (
            page.format_size(self.parity_bytes),
            page.format_size(self.protected_bytes),
        );
        let tables = format_count(self.tables_protected, "table");
        let mut parts = vec![format!("parity: {parity} protect {data} in {tables}")];
        if self.tables_unprotected > 0 {
            let (tables, data) = (
                format_count(self.tables_unprotected, "table"),
                page.format_size(self.unprotected_bytes),
            );
            parts.push(format!("not protected yet: {data} in {tables}"));
        }
        if self.groups_damaged > 0 {
            parts.push(format!(
                "{} damaged",
                format_count(self.groups_damaged, "group")
            ));
        }
        parts.join("; ")
    }
}

impl ShownHealing {
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

impl Render for ParityChange {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        match &self.parity {
            Some(parity) => page.write_line(parity.status_sentence(page)),
            None => page.write_line("parity is off, and its space is given back"),
        }
    }
}

impl Render for ShownProtection {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let Some(percent) = self.parity_percent else {
            page.write_line("parity is off")?;
            return page.write_line("next: vellum parity add 2%");
        };
        page.write_field("parity", format!("{percent} %"))?;
        let groups = format_count(self.groups, "group");
        page.write_field(
            "on disk",
            format!("{} in {groups}", page.format_size(self.parity_bytes)),
        )?;
        let tables = format_count(self.tables_protected, "table");
        page.write_field(
            "protected",
            format!("{} in {tables}", page.format_size(self.protected_bytes)),
        )?;
        let tables = format_count(self.tables_unprotected, "table");
        page.write_field(
            "not yet",
            format!("{} in {tables}", page.format_size(self.unprotected_bytes)),
        )?;
        if self.groups_damaged > 0 {
            page.write_field("damaged", format_count(self.groups_damaged, "group"))?;
        }
        if self.held_bytes > 0 {
            let held = page.format_size(self.held_bytes);
            page.write_field(
                "kept",
                format!("{held} of files that are deleted, until it is up to date"),
            )?;
        }
        let small = if self.has_small_files {
            "manifest, log and marker are kept, too"
        } else {
            "manifest and log are not kept while the store is open, or after a crash"
        };
        page.write_field("small files", small)?;
        if self.tables_unprotected > 0 || self.groups_damaged > 0 {
            page.write_line(
                "next: any command that writes brings it up to date, such as vellum gc",
            )?;
        }
        Ok(())
    }
}

impl Render for ShownHealing {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let would = if self.dry_run { "would be " } else { "" };
        for name in &self.files_restored {
            page.write_line(format!("{name}: {would}restored"))?;
        }
        for name in &self.files_lost {
            page.write_line(format!("{name}: damaged beyond what parity can heal"))?;
        }
        let read = page.format_size(self.read_bytes);
        let (blocks, parity) = (
            format_count(self.blocks_healed, "block"),
            format_count(self.parity_blocks_healed, "block"),
        );
        page.write_line(format!(
            "read {read}; {blocks} of data and {parity} of parity {would}healed"
        ))?;
        if self.groups_lost > 0 {
            let groups = format_count(self.groups_lost, "group");
            page.write_line(format!(
                "{groups} of parity were damaged, and are made anew"
            ))?;
        }
        page.write_line(match (self.files_lost.is_empty(), self.dry_run) {
            (false, _) => "next: vellum check --read-data lists the images that are hit",
            (true, true) => "nothing was changed",
            (true, false) => "everything that is protected is whole",
        })
    }
}
