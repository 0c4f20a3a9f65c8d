//! `vellum gc`: space that nothing needs any more is given back.

use std::io;

use serde::Serialize;
use vellum_store::{CollectOptions, CollectReport, DeepOptions, DeepReport, Shortage};

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
  vellum gc --deep

--deep lays what is alike side by side, from anywhere in the store, and compresses it together: for
disks that are seldom written. It takes a minute for some 300 MiB, and what it has compressed is
read more slowly, some milliseconds for a first read. New data is stored as before.

It can be stopped at any time; what it did stays done.")]
pub(crate) struct Args {
    /// Only say what would be given back
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Compress what is stored anew, together with what is like it
    #[arg(long)]
    deep: bool,
    /// With --deep: how hard zstd tries, 1 to 22; the last three take several times as long
    #[arg(
        long,
        value_name = "N",
        default_value_t = 19,
        requires = "deep",
        value_parser = clap::value_parser!(u8).range(1..=22)
    )]
    level: u8,
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
    /// What --deep compressed anew: frames, in so many blocks, and their bytes before and after.
    #[serde(skip_serializing_if = "Option::is_none")]
    deep: Option<DeepSummary>,
}

#[derive(Serialize)]
struct DeepSummary {
    frames: u64,
    blocks: u64,
    bytes_before: u64,
    bytes_after: u64,
    /// It ended early.
    lacks_room: bool,
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
            deep: args.deep.then_some(DeepOptions { level: args.level }),
        },
        &meter,
    )?;
    drop(meter);
    session
        .output
        .print_summary(&GcSummary::new(args, &report))?;
    Ok(Outcome::Done)
}

impl GcSummary {
    fn new(args: &Args, report: &CollectReport) -> Self {
        let shortage = report.shortage.unwrap_or(Shortage {
            dead_bytes: 0,
            needed_bytes: 0,
            free_bytes: 0,
        });
        Self {
            action: "gc",
            dry_run: args.dry_run,
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
            deep: args.deep.then(|| DeepSummary::new(&report.deep)),
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
        self.show_deep(page)?;
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

impl DeepSummary {
    fn new(report: &DeepReport) -> Self {
        Self {
            frames: report.frames,
            blocks: report.blocks,
            bytes_before: report.bytes_before,
            bytes_after: report.bytes_after,
            lacks_room: report.lacks_room,
        }
    }
}

impl GcSummary {
    fn show_deep(&self, page: &mut TextPage) -> io::Result<()> {
        let Some(deep) = &self.deep else {
            return Ok(());
        };
        let (before, after, count) = (
            page.format_size(deep.bytes_before),
            page.format_size(deep.bytes_after),
            format_count(deep.frames, "frame"),
        );
        if deep.frames == 0 && !deep.lacks_room {
            return page.write_line("nothing would be smaller compressed together");
        }
        if self.dry_run {
            return page.write_line(format!(
                "about {count} of {before} would take {after}, compressed together"
            ));
        }
        page.write_line(format!("{count} of {before} take {after} now"))?;
        if deep.lacks_room {
            page.write_line(
                "it ended early: there is no room to write more; make room and run it again",
            )?;
        }
        Ok(())
    }

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
