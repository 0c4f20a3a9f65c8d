//! The amounts of an upload to a repository, for the answers of a push and a copy.

use std::io;

use serde::Serialize;
use vellum_backup::heal::HealReport;
use vellum_backup::push::PushReport;

use crate::output::page::{TextPage, format_count};
use crate::output::{Render, time};

#[derive(Serialize)]
pub(super) struct UploadSummary {
    action: &'static str,
    /// The repository that it came from, if it was no store.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    repository: String,
    new_points: u64,
    known_points: u64,
    /// Points that were left out because they were forgotten there.
    withheld_points: u64,
    /// Points that were there, and are called or marked otherwise where they came from.
    described_points: u64,
    machines: u64,
    contents: u64,
    chunks_sent: u64,
    bytes_sent: u64,
    /// The identity that the store took, since it was a copy of another one that pushes there.
    #[serde(skip_serializing_if = "Option::is_none")]
    new_store_identity: Option<String>,
    /// What the repository had lost and got back.
    #[serde(skip_serializing_if = "Option::is_none")]
    healed: Option<HealedSummary>,
    seconds: f64,
}

/// The result of a healing.
#[derive(Serialize)]
pub(super) struct HealedSummary {
    chunks_sent: u64,
    bytes_sent: u64,
    indexes: u64,
    contents: u64,
    /// The ids of points that still do not restore.
    points_hit: Vec<String>,
}

impl From<&HealReport> for HealedSummary {
    fn from(report: &HealReport) -> Self {
        Self {
            chunks_sent: report.chunks,
            bytes_sent: report.bytes,
            indexes: report.indexes,
            contents: report.contents,
            points_hit: report.points.clone(),
        }
    }
}

impl HealedSummary {
    /// Shows what came back, and what did not.
    pub(super) fn print_healed(&self, page: &mut TextPage) -> io::Result<()> {
        if self.chunks_sent > 0 {
            let sent = page.format_size(self.bytes_sent);
            page.write_line(format!(
                "sent {sent} again that the repository had lost ({})",
                format_count(self.chunks_sent, "chunk")
            ))?;
        }
        if self.indexes > 0 {
            let indexes = format_count(self.indexes, "index object");
            page.write_line(format!("{indexes} that the repository had lost made anew"))?;
        }
        if self.contents > 0 {
            let maps = format_count(self.contents, "disk");
            page.write_line(format!(
                "sent the maps of {maps} again that the repository had lost"
            ))?;
        }
        Ok(())
    }
}

impl UploadSummary {
    /// Out of a store: a push. Out of the repository `from`: a copy.
    pub(super) fn new(
        from: Option<String>,
        repository: String,
        report: PushReport,
        seconds: f64,
    ) -> Self {
        Self {
            action: if from.is_some() { "copy" } else { "push" },
            from,
            repository,
            new_points: report.new_points,
            known_points: report.known_points,
            withheld_points: report.withheld_points,
            described_points: report.described_points,
            machines: report.machines,
            contents: report.contents,
            chunks_sent: report.chunks,
            bytes_sent: report.bytes,
            new_store_identity: report.parted.map(|id| id.to_string()),
            healed: report.healed.as_ref().map(HealedSummary::from),
            seconds,
        }
    }
}

impl Render for UploadSummary {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        if let Some(healed) = &self.healed {
            healed.print_healed(page)?;
        }
        if self.new_points == 0 && self.machines == 0 && self.described_points == 0 {
            page.write_line(format!(
                "nothing is new: {} there already",
                format_count(self.known_points, "point")
            ))?;
            return self.show_withheld(page);
        }
        let (done, origin) = self
            .from
            .as_deref()
            .map_or(("pushed", "the store"), |from| ("copied", from));
        let (points, chunks) = (
            format_count(self.new_points, "new point"),
            format_count(self.chunks_sent, "chunk"),
        );
        let (sent, took) = (
            page.format_size(self.bytes_sent),
            time::format_duration(self.seconds),
        );
        page.write_line(format!(
            "{done} {points} ({} known): {chunks}, {sent} sent in {took}",
            self.known_points
        ))?;
        if self.described_points > 0 {
            page.write_line(format!(
                "{} there already: names and marks are as in {origin} now",
                format_count(self.described_points, "point")
            ))?;
        }
        self.show_withheld(page)
    }
}

impl UploadSummary {
    fn show_withheld(&self, page: &mut TextPage) -> io::Result<()> {
        if self.withheld_points == 0 {
            return Ok(());
        }
        page.write_line(format!(
            "left out, since forgotten there: {} (--again brings them back)",
            format_count(self.withheld_points, "point")
        ))
    }
}
