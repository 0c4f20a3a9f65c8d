//! `vellum check`: whether all that is stored holds together.

use std::io;

use serde::Serialize;
use vellum_store::{CheckOptions, CheckReport, Finding};

use crate::failure::{Failure, Outcome};
use crate::output::Answer;
use crate::output::page::{Page, plural};
use crate::session::Session;

/// Check the store: its structure, and with --read-data every stored byte
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum check
  vellum check --read-data --subset 1/7

Exit codes: 0 all is well, 2 content is damaged, 3 only space is lost (`vellum gc` gives it back).")]
pub(crate) struct Args {
    /// Read every chunk and hold it against its name
    #[arg(long)]
    read_data: bool,
    /// Read only the Nth of M parts of the data: all parts together read everything once
    #[arg(long, value_name = "N/M", value_parser = subset)]
    subset: Option<(u64, u64)>,
    /// Go on from what the store shows, although later changes were acknowledged and are gone
    #[arg(long)]
    accept_earlier_state: bool,
}

#[derive(Serialize)]
struct Checked {
    action: &'static str,
    damaged: bool,
    layers: u64,
    pages: u64,
    frames: u64,
    chunks: u64,
    chunks_read: u64,
    chunks_unreferenced: u64,
    findings: Vec<Found>,
}

#[derive(Serialize)]
struct Found {
    record: String,
    reason: String,
    /// Whether content is lost; otherwise only space is.
    is_damage: bool,
    hits: Vec<Hit>,
}

/// A range of an image that a finding hits.
#[derive(Serialize)]
struct Hit {
    name: String,
    start: u64,
    length: u64,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    if args.accept_earlier_state {
        session.accept_earlier_state()?;
    }
    let store = session.open_to_read()?;
    let meter = session.watch_records("checking");
    let options = CheckOptions {
        read_data: args.read_data || args.subset.is_some(),
        subset: args.subset,
    };
    let report = store.check(options, &meter)?;
    drop(meter);
    session.output.summary(&Checked::new(&report))?;
    Ok(outcome(&report))
}

fn outcome(report: &CheckReport) -> Outcome {
    let of = |finding: &Finding| {
        if finding.is_damage {
            Outcome::Damaged
        } else {
            Outcome::Leaks
        }
    };
    report
        .findings
        .iter()
        .map(of)
        .max()
        .unwrap_or(Outcome::Done)
}

/// `N/M` with N from 1 to M.
fn subset(text: &str) -> Result<(u64, u64), String> {
    let parsed = text
        .split_once('/')
        .and_then(|(part, of)| Some((part.parse().ok()?, of.parse().ok()?)));
    parsed
        .filter(|(part, of)| (1..=*of).contains(part))
        .ok_or_else(|| "it is written N/M, with N from 1 to M, such as 1/7".to_owned())
}

impl Checked {
    fn new(report: &CheckReport) -> Self {
        Self {
            action: "check",
            damaged: report.findings.iter().any(|finding| finding.is_damage),
            layers: report.layers,
            pages: report.pages,
            frames: report.frames,
            chunks: report.chunks,
            chunks_read: report.chunks_read,
            chunks_unreferenced: report.chunks_unreferenced,
            findings: report.findings.iter().map(Found::new).collect(),
        }
    }
}

impl Found {
    fn new(finding: &Finding) -> Self {
        let hit = |(name, range): &(String, std::ops::Range<u64>)| Hit {
            name: name.clone(),
            start: range.start,
            length: range.end.saturating_sub(range.start),
        };
        let hits = finding.images.iter().map(hit).collect();
        Self {
            record: finding.record.clone(),
            reason: finding.reason.clone(),
            is_damage: finding.is_damage,
            hits,
        }
    }
}

impl Answer for Checked {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        for found in &self.findings {
            page.line(format!(
                "{}: {}: {}",
                if found.is_damage { "damage" } else { "leak" },
                found.record,
                found.reason
            ))?;
            for hit in &found.hits {
                page.line(format!(
                    "  hits {}, bytes {} to {}",
                    hit.name,
                    hit.start,
                    hit.start + hit.length
                ))?;
            }
        }
        let (layers, pages, frames) = (
            plural(self.layers, "layer"),
            plural(self.pages, "page"),
            plural(self.frames, "frame"),
        );
        page.line(format!(
            "checked {layers}, {pages}, {frames}, {}; read {}",
            plural(self.chunks, "chunk"),
            plural(self.chunks_read, "chunk")
        ))?;
        if self.chunks_unreferenced > 0 {
            page.line(format!(
                "{} that nothing needs; vellum gc gives back what is worth it",
                plural(self.chunks_unreferenced, "chunk")
            ))?;
        }
        page.line(match (self.damaged, self.findings.is_empty()) {
            (true, _) => "content is damaged; next: export what is not hit, and restore the rest from a backup",
            (false, false) => "no content is lost, but space is; next: vellum gc",
            (false, true) => "no errors",
        })
    }
}
