//! `vellum backup verify`: checks that every point can be restored.

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;
use vellum_backup::journal::State;
use vellum_backup::verify::{Finding, VerifyOptions, VerifyReport, verify};

use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::output::Render;
use crate::output::page::{TextPage, format_count};
use crate::repository::{KeyArgs, address, opening, repo_args};

/// Points that a line names at most; the others are counted.
const POINTS_SHOWN_MAX: usize = 5;

/// Look for damage: all maps and places of chunks, or all data as well; exit code 4 if there is any
/// that stays
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum backup verify /mnt/backup
  vellum backup verify s3://bucket/images --read-data --subset 3/7

With --read-data everything is fetched and held against its name: if it is clean, every point \
restores. --subset reads one of several parts, so that a week of nights reads all. Everything but \
packs of chunks is in a repository twice: where one of the two is damaged nothing is lost, and \
--repair makes it whole again.")]
pub(crate) struct Args {
    /// The repository
    #[arg(value_name = "REPO")]
    words: Vec<String>,
    /// Read all data
    #[arg(long)]
    read_data: bool,
    /// Read only the Nth of M parts of it
    #[arg(long, value_name = "N/M", value_parser = parse_part, requires = "read_data")]
    subset: Option<(u32, u32)>,
    /// Mend what can be: an object is written anew from its copy, and a copy from its object
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    key: KeyArgs,
}

#[derive(Serialize)]
struct VerifySummary {
    action: &'static str,
    points: u64,
    contents: u64,
    packs_read: u64,
    bytes_read: u64,
    findings: Vec<VerifyFinding>,
}

#[derive(Serialize)]
struct VerifyFinding {
    object: String,
    reason: String,
    /// The points that cannot be restored because of it.
    points: Vec<String>,
    /// True if it is whole again.
    mended: bool,
}

pub(super) fn run_backup_verify(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let place = repo_args::repository_and_words(&args.words, &[], &session.caller)?.place;
    let repository = opening::open_repository(&place, &args.key, session)?;
    let meter = session.watch_bytes(&format!("verifying {}", repository.place()));
    let report = verify(&repository, &args.verify_options(), &meter)?;
    drop(meter);
    let verified = VerifySummary::new(&report, &repository.state());
    session.output.print_summary(&verified)?;
    Ok(if verified.findings.iter().all(|found| found.mended) {
        Outcome::Done
    } else {
        Outcome::Damaged
    })
}

impl Args {
    fn verify_options(&self) -> VerifyOptions {
        VerifyOptions {
            read_data: self.read_data,
            subset: self.subset,
            repair: self.repair,
        }
    }
}

fn parse_part(text: &str) -> Result<(u32, u32), String> {
    let numbers = text
        .split_once('/')
        .and_then(|(nth, of)| Some((nth.parse().ok()?, of.parse().ok()?)));
    numbers
        .filter(|(nth, of)| (1..=*of).contains(nth))
        .ok_or_else(|| "write N/M, such as 3/7 for the third of seven parts".to_owned())
}

impl VerifySummary {
    fn new(report: &VerifyReport, state: &State) -> Self {
        let titles: BTreeMap<&str, String> = state
            .points()
            .map(|point| (point.id.as_str(), address::point_title(point)))
            .collect();
        let title = |id: &String| {
            titles
                .get(id.as_str())
                .cloned()
                .unwrap_or_else(|| id.clone())
        };
        let found = |finding: &Finding| VerifyFinding {
            object: finding.object.clone(),
            reason: finding.reason.clone(),
            points: finding.points.iter().map(title).collect(),
            mended: finding.is_mended,
        };
        Self {
            action: "verify",
            points: report.points,
            contents: report.contents,
            packs_read: report.packs_read,
            bytes_read: report.read_len,
            findings: report.findings.iter().map(found).collect(),
        }
    }
}

impl Render for VerifySummary {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        for found in &self.findings {
            let more = found.points.len().saturating_sub(POINTS_SHOWN_MAX);
            let named = found
                .points
                .iter()
                .take(POINTS_SHOWN_MAX)
                .cloned()
                .collect::<Vec<_>>()
                .join(", ");
            let more = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            let hit = if named.is_empty() {
                "no point is hit".to_owned()
            } else {
                format!("needed by {named}{more}")
            };
            let state = if found.mended { "mended" } else { "damaged" };
            page.write_line(format!(
                "{state}: {}: {} ({hit})",
                found.object, found.reason
            ))?;
        }
        let (points, read) = (
            format_count(self.points, "point"),
            page.format_size(self.bytes_read),
        );
        let count = |is_mended: bool| {
            self.findings
                .iter()
                .filter(|found| found.mended == is_mended)
                .count() as u64
        };
        let state = match (count(false), count(true)) {
            (0, 0) => "clean".to_owned(),
            (0, mended) => format_count(mended, "object") + " mended",
            (damaged, 0) => format_count(damaged, "object") + " damaged",
            (damaged, mended) => format!(
                "{} damaged, {mended} mended",
                format_count(damaged, "object")
            ),
        };
        page.write_line(format!(
            "{state}: {points} followed, {read} read in {}",
            format_count(self.packs_read, "pack")
        ))
    }
}
