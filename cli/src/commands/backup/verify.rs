//! `vellum backup verify`: checks that every point can be restored.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::PathBuf;

use serde::Serialize;
use vellum_backup::error::BackupError;
use vellum_backup::heal::{self, HealReport};
use vellum_backup::journal::State;
use vellum_backup::objects::ObjectErrorKind;
use vellum_backup::push::{PushRequest, PushSelection};
use vellum_backup::repository::Repository;
use vellum_backup::verify::{Finding, VerifyOptions, VerifyReport, verify};
use vellum_store::{Access, Store};

use super::upload::HealedSummary;
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::output::Render;
use crate::output::page::{TextPage, format_count};
use crate::repository::milestones::Milestones;
use crate::repository::{AccessArgs, address, opening, repo_args};

/// Points that a line names at most; the others are counted.
const POINTS_SHOWN_MAX: usize = 5;

/// Look for damage: all maps and places of chunks, or all data as well; exit code 4 if there is any
/// that stays
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum backup verify /mnt/backup
  vellum backup verify s3://bucket/images --read-data --subset 3/7
  vellum backup verify /mnt/backup --repair --from /var/lib/vellum

With --read-data everything is fetched and held against its name: if it is clean, every point \
restores. --subset reads one of several parts, \
so that a week of nights reads all. Everything but packs of chunks is in a repository twice: \
where one of the two is damaged nothing is lost, and \
it is made whole again. What else is damaged is noted in the repository, so that nothing builds \
on it: the next push of a store that has it sends it \
again, and --repair --from STORE does that alone.")]
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
    /// Mend what can be: an index that is lost is made anew from the packs, or from what this
    /// machine keeps of it
    #[arg(long)]
    repair: bool,
    /// Send again what is lost and this store has
    #[arg(long, value_name = "STORE", requires = "repair")]
    from: Option<PathBuf>,
    #[command(flatten)]
    access: AccessArgs,
}

#[derive(Serialize)]
struct VerifySummary {
    action: &'static str,
    points: u64,
    contents: u64,
    packs_read: u64,
    bytes_read: u64,
    findings: Vec<VerifyFinding>,
    #[serde(skip_serializing_if = "Option::is_none")]
    healed: Option<HealedSummary>,
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
    let repository = opening::open_repository(&place, &args.access, session)?;
    if args.repair {
        repository.refuse_writer("repair it")?;
    }
    let meter = session.watch_bytes(&format!("verifying {}", repository.place()));
    let mut report = verify(&repository, &args.verify_options(), &meter)?;
    note(&repository, &report, session)?;
    let mut healed = None;
    if args.repair && !report.damaged.is_empty() {
        healed = Some(HealedSummary::from(&repair(args, &repository, session)?));
        report = verify(&repository, &args.verify_options(), &meter)?;
    }
    drop(meter);
    let verified = VerifySummary::new(&report, healed, &repository.state());
    session.output.print_summary(&verified)?;
    if verified.findings.iter().all(|found| found.mended) {
        // A part of the data is not all of it.
        if args.read_data && args.subset.is_none() {
            Milestones::reach(
                &repository,
                &[|last| &mut last.verify_ms, |last| &mut last.read_data_ms],
            );
        } else {
            Milestones::reach(&repository, &[|last| &mut last.verify_ms]);
        }
        return Ok(Outcome::Done);
    }
    if args.from.is_none() && !report.damaged.is_empty() {
        session.print_notice(
            "hint: the next `vellum backup push` of a store that has it sends it again; so does \
             `verify --repair --from STORE`",
        );
    }
    Ok(Outcome::Damaged)
}

/// Notes damage in the repository, if this client may write there.
fn note(
    repository: &Repository,
    report: &VerifyReport,
    session: &CommandContext,
) -> Result<(), CommandFailure> {
    match heal::note(repository, report, opening::writer_name(session)) {
        Ok(_) => Ok(()),
        Err(BackupError::Objects { source, .. })
            if matches!(source.kind, ObjectErrorKind::Denied | ObjectErrorKind::Full) =>
        {
            session.print_warning(&format!("the damage is not noted there: {source}"));
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

fn repair(
    args: &Args,
    repository: &Repository,
    session: &CommandContext,
) -> Result<HealReport, CommandFailure> {
    let store = args.from.as_deref().map(|path| {
        let words = session.command_line();
        Store::open_dir(&session.caller.resolve_path(path), Access::ReadOnly, &words)
    });
    let request = PushRequest {
        selection: PushSelection::All,
        again: false,
        trust_others: false,
        verify: false,
        limit_upload: None,
        index_fetch_len: vellum_backup::push::INDEX_FETCH_LEN,
        assumed: HashSet::new(),
        writer: opening::writer_name(session),
    };
    let meter = session.watch_bytes(&format!("repairing {}", repository.place()));
    Ok(heal::repair(
        repository,
        store.transpose()?.as_ref(),
        &request,
        &meter,
    )?)
}

impl Args {
    fn verify_options(&self) -> VerifyOptions {
        VerifyOptions {
            read_data: self.read_data,
            subset: self.subset,
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
    fn new(report: &VerifyReport, healed: Option<HealedSummary>, state: &State) -> Self {
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
            healed,
        }
    }
}

impl Render for VerifySummary {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        if let Some(healed) = &self.healed {
            healed.print_healed(page)?;
        }
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
