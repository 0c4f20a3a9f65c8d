//! `vellum backup verify`: checks that every point can be restored.

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;
use vellum_backup::journal::State;
use vellum_backup::verify::{Finding, VerifyOptions, VerifyReport, verify};

use crate::failure::{Failure, Outcome};
use crate::output::Answer;
use crate::output::page::{Page, plural};
use crate::repository::{KeyArgs, address, opening, words};
use crate::session::Session;

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
    #[arg(long, value_name = "N/M", value_parser = part, requires = "read_data")]
    subset: Option<(u32, u32)>,
    /// Mend what can be: an object is written anew from its copy, and a copy from its object
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    key: KeyArgs,
}

#[derive(Serialize)]
struct Verified {
    action: &'static str,
    points: u64,
    contents: u64,
    packs_read: u64,
    bytes_read: u64,
    findings: Vec<Found>,
}

#[derive(Serialize)]
struct Found {
    object: String,
    reason: String,
    /// The points that cannot be restored because of it.
    points: Vec<String>,
    /// True if it is whole again.
    mended: bool,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    let place = words::exactly(&args.words, &[], &session.caller)?.place;
    let repository = opening::open(&place, &args.key, session)?;
    let meter = session.watch_bytes(&format!("verifying {}", repository.place()));
    let report = verify(&repository, &args.options(), &meter)?;
    drop(meter);
    let verified = Verified::new(&report, &repository.state());
    session.output.summary(&verified)?;
    Ok(if verified.findings.iter().all(|found| found.mended) {
        Outcome::Done
    } else {
        Outcome::Damaged
    })
}

impl Args {
    fn options(&self) -> VerifyOptions {
        VerifyOptions {
            read_data: self.read_data,
            subset: self.subset,
            repair: self.repair,
        }
    }
}

fn part(text: &str) -> Result<(u32, u32), String> {
    let numbers = text
        .split_once('/')
        .and_then(|(nth, of)| Some((nth.parse().ok()?, of.parse().ok()?)));
    numbers
        .filter(|(nth, of)| (1..=*of).contains(nth))
        .ok_or_else(|| "write N/M, such as 3/7 for the third of seven parts".to_owned())
}

impl Verified {
    fn new(report: &VerifyReport, state: &State) -> Self {
        let titles: BTreeMap<&str, String> = state
            .points()
            .map(|point| (point.id.as_str(), address::title(point)))
            .collect();
        let title = |id: &String| {
            titles
                .get(id.as_str())
                .cloned()
                .unwrap_or_else(|| id.clone())
        };
        let found = |finding: &Finding| Found {
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

impl Answer for Verified {
    fn show(&self, page: &mut Page) -> io::Result<()> {
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
            page.line(format!(
                "{state}: {}: {} ({hit})",
                found.object, found.reason
            ))?;
        }
        let (points, read) = (plural(self.points, "point"), page.size(self.bytes_read));
        let count = |is_mended: bool| {
            self.findings
                .iter()
                .filter(|found| found.mended == is_mended)
                .count() as u64
        };
        let state = match (count(false), count(true)) {
            (0, 0) => "clean".to_owned(),
            (0, mended) => plural(mended, "object") + " mended",
            (damaged, 0) => plural(damaged, "object") + " damaged",
            (damaged, mended) => format!("{} damaged, {mended} mended", plural(damaged, "object")),
        };
        page.line(format!(
            "{state}: {points} followed, {read} read in {}",
            plural(self.packs_read, "pack")
        ))
    }
}
