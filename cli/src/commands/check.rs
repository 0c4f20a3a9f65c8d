//! `vellum check`: checks that everything stored is consistent.

use std::io;
use std::time::Duration;

use serde::Serialize;
use vellum_store::{
    CheckFinding, CheckOptions, CheckReport, SCRUB_ROUND, ScrubOptions, ScrubReport,
};

use crate::command_context::CommandContext;
use crate::commands::parity::ShownProtection;
use crate::failure::{CommandFailure, Outcome};
use crate::output::page::{TextPage, format_count};
use crate::output::{Render, time};
use crate::pace::{ByteThrottle, parse_span};
use crate::size;

/// The longest step of a scrub, in bytes read.
const SCRUB_STEP_LEN: u64 = 16 << 20;
/// The advice about damage that takes content away.
const DAMAGED: &str = "content is damaged; next: vellum repair tells what can be mended, vellum \
                       export --holes saves the rest";

/// Check the store: its structure, and with --read-data every stored byte
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum check
  vellum check --read-data --subset 1/7
  vellum check --scrub --for 2h --rate 50M

--scrub reads everything once a round, and goes on the next time where this one ends: for a timer, \
where no server does it. What it finds damaged is healed if what it lacks can be found.
Exit codes: 0 all is well, 4 something is damaged, 3 only space is lost (`vellum gc` gives it \
back).")]
pub(crate) struct Args {
    /// Read every chunk and hold it against its name
    #[arg(long)]
    read_data: bool,
    /// Read only the Nth of M parts of the data: all parts together read everything once
    #[arg(long, value_name = "N/M", value_parser = parse_subset)]
    subset: Option<(u64, u64)>,
    /// Read everything that is stored once, going on where the last scrub ended; heal what can be
    #[arg(long, conflicts_with_all = ["read_data", "subset", "accept_earlier_state"])]
    scrub: bool,
    /// For a scrub: read so many bytes a second at most
    #[arg(long, value_name = "SIZE", value_parser = size::parse_size, requires = "scrub")]
    rate: Option<u64>,
    /// For a scrub: end after this time, such as 10m or 8h
    #[arg(long, value_name = "TIME", value_parser = parse_span, requires = "scrub")]
    r#for: Option<Duration>,
    /// Go on from what the store shows, although later changes were acknowledged and are gone
    #[arg(long)]
    accept_earlier_state: bool,
}

#[derive(Serialize)]
struct CheckSummary {
    action: &'static str,
    damaged: bool,
    layers: u64,
    pages: u64,
    frames: u64,
    chunks: u64,
    chunks_read: u64,
    chunks_unreferenced: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    parity: Option<ShownProtection>,
    findings: Vec<ShownFinding>,
}

/// A damaged record.
#[derive(Serialize)]
pub(super) struct ShownFinding {
    pub(super) record: String,
    pub(super) reason: String,
    /// True if content is lost; otherwise only space is.
    is_damage: bool,
    hits: Vec<AffectedRange>,
}

#[derive(Serialize)]
struct ScrubSummary {
    action: &'static str,
    damaged: bool,
    /// True if everything was read since the round began.
    round_ended: bool,
    bytes_read: u64,
    chunks_read: u64,
    healed: u64,
    seconds: f64,
    findings: Vec<ShownFinding>,
}

/// A range of an image that a finding hits.
#[derive(Serialize)]
struct AffectedRange {
    name: String,
    start: u64,
    /// The length in bytes; none for all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    length: Option<u64>,
}

pub(super) fn run_check(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    if args.accept_earlier_state {
        session.accept_earlier_state()?;
    }
    if args.scrub {
        return run_scrub(args, session);
    }
    let store = session.open_to_read()?;
    let meter = session.watch_records("checking");
    let options = CheckOptions {
        read_data: args.read_data || args.subset.is_some(),
        subset: args.subset,
    };
    let report = store.check(options, &meter)?;
    drop(meter);
    session.output.print_summary(&CheckSummary::new(&report))?;
    Ok(check_outcome(&report))
}

/// Reads on where the last scrub ended, to the end of the round or of the time.
fn run_scrub(args: &Args, session: &mut CommandContext) -> Result<Outcome, CommandFailure> {
    let store = session.open_to_serve()?;
    let meter = session.watch_bytes("scrubbing");
    let options = ScrubOptions {
        bytes_max: args
            .rate
            .map_or(SCRUB_STEP_LEN, |rate| rate.clamp(1, SCRUB_STEP_LEN)),
        all_cores: args.rate.is_none(),
        round: SCRUB_ROUND,
    };
    let mut pace = ByteThrottle::new(args.rate.unwrap_or(0));
    let mut report = ScrubReport::default();
    let scrubbed = loop {
        match store.scrub(&options, &meter) {
            Ok(step) => {
                let len = step.bytes;
                report.add_step(step);
                let is_enough = args.r#for.is_some_and(|time| meter.elapsed_time() >= time);
                if report.is_over || is_enough {
                    break Ok(());
                }
                pace.await_budget(len, &session.signals);
            }
            Err(error) => break Err(error),
        }
    };
    store.keep_scrub();
    scrubbed?;
    store.name_images(&mut report, &meter)?;
    let seconds = meter.elapsed_time().as_secs_f64();
    drop(meter);
    session
        .output
        .print_summary(&ScrubSummary::new(&report, seconds))?;
    Ok(if report.findings.is_empty() {
        Outcome::Done
    } else {
        Outcome::Damaged
    })
}

fn check_outcome(report: &CheckReport) -> Outcome {
    let of = |finding: &CheckFinding| {
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
fn parse_subset(text: &str) -> Result<(u64, u64), String> {
    let parsed = text
        .split_once('/')
        .and_then(|(part, of)| Some((part.parse().ok()?, of.parse().ok()?)));
    parsed
        .filter(|(part, of)| (1..=*of).contains(part))
        .ok_or_else(|| "it is written N/M, with N from 1 to M, such as 1/7".to_owned())
}

impl CheckSummary {
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
            parity: report.parity.as_ref().map(ShownProtection::new),
            findings: report.findings.iter().map(ShownFinding::new).collect(),
        }
    }
}

impl ScrubSummary {
    fn new(report: &ScrubReport, seconds: f64) -> Self {
        Self {
            action: "scrub",
            damaged: !report.findings.is_empty(),
            round_ended: report.is_over,
            bytes_read: report.bytes,
            chunks_read: report.chunks,
            healed: report.healed,
            seconds,
            findings: report.findings.iter().map(ShownFinding::new).collect(),
        }
    }
}

impl Render for ScrubSummary {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        show_findings(&self.findings, page)?;
        let read = page.format_size(self.bytes_read);
        let took = time::format_duration(self.seconds);
        let chunks = format_count(self.chunks_read, "chunk");
        page.write_line(format!("scrubbed {read}, {chunks}, in {took}"))?;
        if self.healed > 0 {
            page.write_line(format!("healed {}", self.healed))?;
        }
        page.write_line(match (self.damaged, self.round_ended) {
            (true, _) => DAMAGED,
            (false, true) => "no errors; everything was read",
            (false, false) => "no errors so far; the next scrub goes on from here",
        })
    }
}

impl ShownFinding {
    /// Shows which images it hits.
    pub(super) fn show_hits(&self, page: &mut TextPage) -> io::Result<()> {
        self.hits.iter().try_for_each(|hit| {
            page.write_line(match hit.length {
                Some(length) => {
                    let end = hit.start + length;
                    format!("  hits {}, bytes {} to {end}", hit.name, hit.start)
                }
                None => format!("  hits {}, all of it", hit.name),
            })
        })
    }

    pub(super) fn new(finding: &CheckFinding) -> Self {
        let hit = |(name, range): &(String, std::ops::Range<u64>)| AffectedRange {
            name: name.clone(),
            start: range.start,
            length: (range.end < u64::MAX).then(|| range.end.saturating_sub(range.start)),
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

fn show_findings(findings: &[ShownFinding], page: &mut TextPage) -> io::Result<()> {
    for found in findings {
        page.write_line(format!(
            "{}: {}: {}",
            if found.is_damage { "damage" } else { "leak" },
            found.record,
            found.reason
        ))?;
        found.show_hits(page)?;
    }
    Ok(())
}

impl Render for CheckSummary {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        show_findings(&self.findings, page)?;
        let (layers, pages, frames) = (
            format_count(self.layers, "layer"),
            format_count(self.pages, "page"),
            format_count(self.frames, "frame"),
        );
        page.write_line(format!(
            "checked {layers}, {pages}, {frames}, {}; read {}",
            format_count(self.chunks, "chunk"),
            format_count(self.chunks_read, "chunk")
        ))?;
        if self.chunks_unreferenced > 0 {
            page.write_line(format!(
                "{} that nothing needs; vellum gc gives back what is worth it",
                format_count(self.chunks_unreferenced, "chunk")
            ))?;
        }
        if let Some(parity) = &self.parity {
            page.write_line(parity.status_sentence(page))?;
        }
        page.write_line(match (self.damaged, self.findings.is_empty()) {
            (true, _) if self.findings.iter().any(|found| !found.hits.is_empty()) => DAMAGED,
            (true, _) => "something is damaged, no content is lost; next: vellum repair",
            (false, false) => "no content is lost, but space is; next: vellum gc",
            (false, true) => "no errors",
        })
    }
}
