//! `vellum gc`: space that nothing needs any more is given back.

use std::io;

use serde::Serialize;
use vellum_store::{CollectOptions, CollectReport, Shortage};

use crate::failure::{Failure, Outcome};
use crate::output::Answer;
use crate::output::page::{Page, plural};
use crate::session::Session;

/// Give back the space of what was deleted
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum gc -n
  vellum gc

It can be stopped at any time; what it did stays done.")]
pub(crate) struct Args {
    /// Only say what would be given back
    #[arg(short = 'n', long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Collected {
    action: &'static str,
    dry_run: bool,
    layers_dropped: u64,
    layers_merged: u64,
    chunks_dropped: u64,
    chunks_kept: u64,
    /// Before compression.
    plain_bytes_dropped: u64,
    /// Compressed.
    stored_bytes_dropped: u64,
    disk_bytes_before: u64,
    disk_bytes_after: u64,
    /// Dead bytes that stay, since there is no room to write what lives beside them.
    dead_bytes_left: u64,
    /// Free bytes that giving some of them back needs, and that there are for it.
    bytes_needed: u64,
    bytes_free: u64,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    // A dry run waits for nobody, and nobody waits for it.
    let store = if args.dry_run {
        session.open_to_read()?
    } else {
        session.open_to_write()?
    };
    let meter = session.watch_records("collecting");
    let report = store.collect(
        CollectOptions {
            dry_run: args.dry_run,
        },
        &meter,
    )?;
    drop(meter);
    session
        .output
        .summary(&Collected::new(args.dry_run, &report))?;
    Ok(Outcome::Done)
}

impl Collected {
    fn new(dry_run: bool, report: &CollectReport) -> Self {
        let shortage = report.shortage.unwrap_or(Shortage {
            dead_bytes: 0,
            needed_bytes: 0,
            free_bytes: 0,
        });
        Self {
            action: "gc",
            dry_run,
            layers_dropped: report.layers_dropped,
            layers_merged: report.layers_merged,
            chunks_dropped: report.chunks_dropped,
            chunks_kept: report.chunks_kept,
            plain_bytes_dropped: report.plain_bytes_dropped,
            stored_bytes_dropped: report.stored_bytes_dropped,
            disk_bytes_before: report.disk_bytes_before,
            disk_bytes_after: report.disk_bytes_after,
            dead_bytes_left: shortage.dead_bytes,
            bytes_needed: shortage.needed_bytes,
            bytes_free: shortage.free_bytes,
        }
    }
}

impl Answer for Collected {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        let would = if self.dry_run {
            "would drop"
        } else {
            "dropped"
        };
        let (dropped, merged) = (
            plural(self.layers_dropped, "layer"),
            plural(self.layers_merged, "layer"),
        );
        let (chunks, plain) = (
            plural(self.chunks_dropped, "chunk"),
            page.size(self.plain_bytes_dropped),
        );
        page.line(format!(
            "{would} {dropped} and {chunks} ({plain} before compression); {merged} merged; {} kept",
            self.chunks_kept
        ))?;
        let (before, after, stored) = (
            page.size(self.disk_bytes_before),
            page.size(self.disk_bytes_after),
            page.size(self.stored_bytes_dropped),
        );
        if self.dry_run {
            page.line(format!("about {stored} of {before} would be given back"))
        } else {
            page.line(format!("the store took {before} on disk, now {after}"))?;
            self.show_shortage(page)
        }
    }
}

impl Collected {
    fn show_shortage(&self, page: &mut Page) -> io::Result<()> {
        if self.dead_bytes_left == 0 {
            return Ok(());
        }
        let (dead, needed, free) = (
            page.size(self.dead_bytes_left),
            page.size(self.bytes_needed),
            page.size(self.bytes_free),
        );
        page.line(format!(
            "{dead} are dead and stay: what lives beside them has to be written anew first, which \
             needs {needed}, and {free} are free; delete more, or make room and run it again"
        ))
    }
}
