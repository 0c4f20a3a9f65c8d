//! `vellum gc`: space that nothing needs any more is given back.

use std::io;

use serde::Serialize;
use vellum_store::{CollectOptions, CollectReport, Shortage};

use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::output::Render;
use crate::output::page::{TextPage, format_count};

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
struct GcSummary {
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

pub(super) fn run_gc(args: &Args, session: &mut CommandContext) -> Result<Outcome, CommandFailure> {
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
        .print_summary(&GcSummary::new(args.dry_run, &report))?;
    Ok(Outcome::Done)
}

impl GcSummary {
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

impl Render for GcSummary {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let would = if self.dry_run {
            "would drop"
        } else {
            "dropped"
        };
        let (dropped, merged) = (
            format_count(self.layers_dropped, "layer"),
            format_count(self.layers_merged, "layer"),
        );
        let (chunks, plain) = (
            format_count(self.chunks_dropped, "chunk"),
            page.format_size(self.plain_bytes_dropped),
        );
        page.write_line(format!(
            "{would} {dropped} and {chunks} ({plain} before compression); {merged} merged; {} kept",
            self.chunks_kept
        ))?;
        let (before, after, stored) = (
            page.format_size(self.disk_bytes_before),
            page.format_size(self.disk_bytes_after),
            page.format_size(self.stored_bytes_dropped),
        );
        if self.dry_run {
            page.write_line(format!("about {stored} of {before} would be given back"))
        } else {
            page.write_line(format!("the store took {before} on disk, now {after}"))?;
            self.show_shortage(page)
        }
    }
}

impl GcSummary {
    fn show_shortage(&self, page: &mut TextPage) -> io::Result<()> {
        if self.dead_bytes_left == 0 {
            return Ok(());
        }
        let (dead, needed, free) = (
            page.format_size(self.dead_bytes_left),
            page.format_size(self.bytes_needed),
            page.format_size(self.bytes_free),
        );
        page.write_line(format!(
            "{dead} are dead and stay: what lives beside them has to be written anew first, which \
             needs {needed}, and {free} are free; delete more, or make room and run it again"
        ))
    }
}
