//! `vellum stats`: how much the store holds, and in how little space.

use std::io;

use serde::Serialize;
use vellum_store::{ScrubStatus, Stats};

use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::output::page::{TextPage, format_percent, ratio_of};
use crate::output::{Render, time};

/// Tell how much the store holds, and in how little space
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum stats --units si

All maps are looked at, no content: it takes the longer the more there is.")]
pub(crate) struct Args {}

#[derive(Serialize)]
struct StatsSummary {
    images: u64,
    snapshots: u64,
    layers: u64,
    /// The lengths of all images and snapshots.
    logical_bytes: u64,
    /// The bytes of those that are not zero.
    nonzero_bytes: u64,
    chunks: u64,
    /// Each chunk once, before compression.
    unique_bytes: u64,
    compressed_bytes: u64,
    /// The whole folder, as `du` counts.
    disk_bytes: u64,
    /// The parity's part of those.
    #[serde(skip_serializing_if = "is_zero")]
    parity_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dedup_ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compression_ratio: Option<f64>,
    scrub: ShownScrub,
}

/// The times of the scrubs.
#[derive(Serialize)]
struct ShownScrub {
    /// Whole rounds.
    rounds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    round_began: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_round_ended: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    records_read: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunks_read: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parity_read: Option<String>,
    /// The bytes of the round that goes on, or of the last one.
    bytes: u64,
    findings: u64,
    healed: u64,
    /// Chunk ids, with when all of them had been read whole; others never were.
    ranges: Vec<ReadRange>,
}

#[derive(Serialize)]
struct ReadRange {
    first: u64,
    end: u64,
    read: String,
}

pub(super) fn run_stats(_: &Args, session: &mut CommandContext) -> Result<Outcome, CommandFailure> {
    let store = session.open_to_read()?;
    let stats = store.compute_stats()?;
    session
        .output
        .print_answer(&StatsSummary::new(&stats, &store.scrub_status()))?;
    Ok(Outcome::Done)
}

impl StatsSummary {
    fn new(stats: &Stats, scrub: &ScrubStatus) -> Self {
        Self {
            images: stats.images,
            snapshots: stats.snapshots,
            layers: stats.layers,
            logical_bytes: stats.logical,
            nonzero_bytes: stats.non_zero,
            chunks: stats.chunks,
            unique_bytes: stats.unique,
            compressed_bytes: stats.compressed,
            disk_bytes: stats.on_disk,
            parity_bytes: stats.parity,
            dedup_ratio: ratio_of(stats.non_zero, stats.unique),
            compression_ratio: ratio_of(stats.unique, stats.compressed),
            scrub: ShownScrub::new(scrub),
        }
    }
}

impl ShownScrub {
    fn new(status: &ScrubStatus) -> Self {
        let moment = |at_s: Option<u64>| at_s.map(|at_s| time::format_utc(at_s * 1000));
        let ranges = status.ranges.iter().map(|(ids, at_s)| ReadRange {
            first: ids.start,
            end: ids.end,
            read: time::format_utc(at_s * 1000),
        });
        Self {
            rounds: status.rounds,
            round_began: moment(status.began_s),
            last_round_ended: moment(status.last_ended_s),
            records_read: moment(status.records_read_s),
            chunks_read: moment(status.chunks_read_s),
            parity_read: moment(status.beside_read_s),
            bytes: status.bytes,
            findings: status.findings,
            healed: status.healed,
            ranges: ranges.collect(),
        }
    }

    /// In a line, for people.
    fn status_line(&self) -> String {
        let found = if self.findings > 0 {
            format!("; {} damaged", self.findings)
        } else {
            String::new()
        };
        match (&self.last_round_ended, &self.round_began) {
            (Some(ended), None) => format!("everything, until {ended}{found}"),
            (Some(ended), Some(began)) => {
                format!("everything, until {ended}; again since {began}{found}")
            }
            (None, Some(began)) => format!("not all yet; since {began}{found}"),
            (None, None) => "never (vellum check --scrub)".to_owned(),
        }
    }
}

impl Render for StatsSummary {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        page.write_field("images", self.images.to_string())?;
        page.write_field("snapshots", self.snapshots.to_string())?;
        page.write_field("layers", self.layers.to_string())?;
        let logical = page.format_size(self.logical_bytes);
        page.write_field("logical", format!("{logical} in all images and snapshots"))?;
        let nonzero = page.format_size(self.nonzero_bytes);
        page.write_field("not zero", format!("{nonzero} of that"))?;
        let unique = page.format_size(self.unique_bytes);
        let share = format_percent(self.unique_bytes, self.nonzero_bytes);
        page.write_field(
            "unique",
            format!(
                "{unique} in {} chunks, {share} of what is not zero",
                self.chunks
            ),
        )?;
        let compressed = page.format_size(self.compressed_bytes);
        let share = format_percent(self.compressed_bytes, self.unique_bytes);
        page.write_field(
            "compressed",
            format!("{compressed}, {share} of what is unique"),
        )?;
        let disk = page.format_size(self.disk_bytes);
        let share = format_percent(self.disk_bytes, self.nonzero_bytes);
        page.write_field("on disk", format!("{disk}, {share} of what is not zero"))?;
        page.write_field("scrubbed", self.scrub.status_line())?;
        if self.parity_bytes == 0 {
            return Ok(());
        }
        let parity = page.format_size(self.parity_bytes);
        page.write_field(
            "parity",
            format!("{parity} of that; vellum parity status says more"),
        )
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}
