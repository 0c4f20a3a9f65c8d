//! `vellum stats`: how much the store holds, and in how little space.

use std::io;

use serde::Serialize;
use vellum_store::Stats;

use crate::failure::{Failure, Outcome};
use crate::output::Answer;
use crate::output::page::{Page, percent, ratio};
use crate::session::Session;

/// Tell how much the store holds, and in how little space
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum stats --units si

All maps are looked at, no content: it takes the longer the more there is.")]
pub(crate) struct Args {}

#[derive(Serialize)]
struct Shown {
    images: u64,
    snapshots: u64,
    layers: u64,
    /// The lengths of all images and snapshots.
    logical_bytes: u64,
    /// What of that is not zero.
    nonzero_bytes: u64,
    chunks: u64,
    /// Each chunk once, before compression.
    unique_bytes: u64,
    compressed_bytes: u64,
    /// The whole folder, as `du` counts.
    disk_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dedup_ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compression_ratio: Option<f64>,
}

pub(super) fn run(_: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    let stats = session.open_to_read()?.stats()?;
    session.output.answer(&Shown::new(&stats))?;
    Ok(Outcome::Done)
}

impl Shown {
    fn new(stats: &Stats) -> Self {
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
            dedup_ratio: ratio(stats.non_zero, stats.unique),
            compression_ratio: ratio(stats.unique, stats.compressed),
        }
    }
}

impl Answer for Shown {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        page.field("images", self.images.to_string())?;
        page.field("snapshots", self.snapshots.to_string())?;
        page.field("layers", self.layers.to_string())?;
        let logical = page.size(self.logical_bytes);
        page.field("logical", format!("{logical} in all images and snapshots"))?;
        let nonzero = page.size(self.nonzero_bytes);
        page.field("not zero", format!("{nonzero} of that"))?;
        let unique = page.size(self.unique_bytes);
        let share = percent(self.unique_bytes, self.nonzero_bytes);
        page.field(
            "unique",
            format!(
                "{unique} in {} chunks, {share} of what is not zero",
                self.chunks
            ),
        )?;
        let compressed = page.size(self.compressed_bytes);
        let share = percent(self.compressed_bytes, self.unique_bytes);
        page.field(
            "compressed",
            format!("{compressed}, {share} of what is unique"),
        )?;
        let disk = page.size(self.disk_bytes);
        let share = percent(self.disk_bytes, self.nonzero_bytes);
        page.field("on disk", format!("{disk}, {share} of what is not zero"))
    }
}
