//! `vellum backup prune`: space that no point needs any more is given back.

use std::io;

use jiff::tz::TimeZone;
use serde::Serialize;
use vellum_backup::prune::{Amount, FenceWish, PruneReport, prune};
use vellum_backup::repository::Repository;
use vellum_backup::session::{OpenSession, open_sessions};

pub(super) use vellum_backup::prune::PruneOptions;

use super::ShownSession;
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::output::Render;
use crate::output::page::{TextPage, format_count, format_percent};
use crate::repository::{AccessArgs, address, opening, repo_args};
use crate::size;

/// Give back the space of what was forgotten, and of what was never finished
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum backup prune /mnt/backup -n
  vellum backup prune /mnt/backup
  vellum backup prune /mnt/backup --fence all

Others may push meanwhile. What they may be relying on goes with the next prune after their end. A \
process that died is never waited for by the clock: --fence ends its session for good, so be sure \
that it is dead.")]
pub(crate) struct Args {
    /// The repository
    #[arg(value_name = "REPO")]
    words: Vec<String>,
    /// Only say what would be given back
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// End this session, or all: what they do from here on does not count
    #[arg(long, value_name = "SESSION|all")]
    fence: Vec<String>,
    /// How much of the packs may be useless before they are written anew
    #[arg(long, value_name = "PERCENT", value_parser = parse_percentage, default_value = "5")]
    max_unused: u32,
    /// How many bytes may be written anew
    #[arg(long, value_name = "SIZE", value_parser = size::parse_size)]
    repack_limit: Option<u64>,
    #[command(flatten)]
    access: AccessArgs,
}

/// The result of a collection, or its forecast.
#[derive(Serialize)]
pub(super) struct PruneSummary {
    action: &'static str,
    dry_run: bool,
    condemned_objects: u64,
    condemned_bytes: u64,
    deleted_objects: u64,
    deleted_bytes: u64,
    /// Objects that the place did not let go of: the next prune tries again.
    retained_objects: u64,
    retained_bytes: u64,
    /// True if the place keeps what was deleted as older versions.
    keeps_versions: bool,
    moved_bytes: u64,
    merged_contents: u64,
    replaced_records: u64,
    packs_bytes: u64,
    used_bytes: u64,
    /// Bytes of packs that are free then, once what it waits for has ended.
    freed_bytes: u64,
    /// Packs that are damaged and stay, since points need them.
    damaged_packs: u64,
    /// Files of interrupted puts that were removed.
    leftover_files: u64,
    fenced: Vec<ShownSession>,
    waits_for: Vec<ShownSession>,
}

pub(super) fn run_backup_prune(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let place = repo_args::repository_and_words(&args.words, &[], &session.caller)?.place;
    let repository = opening::open_repository(&place, &args.access, session)?;
    let options = PruneOptions {
        max_unused_percent: args.max_unused,
        repack_limit: args.repack_limit,
        fence: fence_wish(&args.fence, &repository)?,
        is_dry_run: args.dry_run,
        ..PruneOptions::default()
    };
    let pruned = prune_repository(&repository, &options, session)?;
    session.output.print_summary(&pruned)?;
    Ok(pruned.outcome())
}

/// Collects, and shows how far it is.
pub(super) fn prune_repository(
    repository: &Repository,
    options: &PruneOptions,
    session: &CommandContext,
) -> Result<PruneSummary, CommandFailure> {
    let meter = session.watch_bytes(&format!("collecting in {}", repository.place()));
    let report = prune(repository, options, opening::writer_name(session), &meter)?;
    Ok(PruneSummary::new(
        options.is_dry_run,
        &report,
        session.time_zone(),
    ))
}

/// The sessions that `wanted` names, by their ids or so much of them that nobody means another.
fn fence_wish(wanted: &[String], repository: &Repository) -> Result<FenceWish, CommandFailure> {
    if wanted.is_empty() {
        return Ok(FenceWish::None);
    }
    if wanted.iter().any(|text| text == "all") {
        return Ok(FenceWish::All);
    }
    let open = open_sessions(repository)?;
    let find = |text: &String| {
        let found: Vec<&OpenSession> = open
            .iter()
            .filter(|session| {
                address::is_enough(text) && session.id.to_string().starts_with(text.as_str())
            })
            .collect();
        match found[..] {
            [one] => Ok(one.id),
            [] => Err(CommandFailure::with_hint(
                format!("no session {text:?} is open"),
                "`vellum backup info` shows the open ones",
            )),
            _ => Err(CommandFailure::with_hint(
                format!("{text:?} could mean {} sessions", found.len()),
                "write more of it",
            )),
        }
    };
    wanted
        .iter()
        .map(find)
        .collect::<Result<_, _>>()
        .map(FenceWish::Some)
}

fn parse_percentage(text: &str) -> Result<u32, String> {
    let number = text
        .strip_suffix('%')
        .unwrap_or(text)
        .parse()
        .ok()
        .filter(|percent| *percent <= 100);
    number.ok_or_else(|| "it is a share in percent, from 0 to 100".to_owned())
}

impl PruneSummary {
    /// Damage that stays is told by the exit code, too.
    pub(super) fn outcome(&self) -> Outcome {
        if self.damaged_packs > 0 {
            Outcome::Damaged
        } else {
            Outcome::Done
        }
    }

    fn new(dry_run: bool, report: &PruneReport, zone: &TimeZone) -> Self {
        let described = |sessions: &[OpenSession]| {
            sessions
                .iter()
                .map(|session| ShownSession::from_session(session, zone))
                .collect()
        };
        let Amount {
            count: condemned_objects,
            len: condemned_bytes,
        } = report.condemned;
        let Amount {
            count: deleted_objects,
            len: deleted_bytes,
        } = report.swept;
        Self {
            action: "prune",
            dry_run,
            condemned_objects,
            condemned_bytes,
            deleted_objects,
            deleted_bytes,
            retained_objects: report.retained.count,
            retained_bytes: report.retained.len,
            keeps_versions: report.keeps_versions,
            moved_bytes: report.moved_len,
            merged_contents: report.merged_contents,
            replaced_records: report.replaced_records,
            packs_bytes: report.packs_len,
            used_bytes: report.used_len,
            freed_bytes: report.freed_len,
            damaged_packs: report.damaged_packs,
            leftover_files: report.leftovers,
            fenced: described(&report.fenced),
            waits_for: described(&report.waits_for),
        }
    }
}

/// The bytes that a collection frees, in the words of all forecasts. None if something is lost.
pub(super) fn would_free(bytes: Option<u64>, page: &TextPage) -> String {
    match bytes {
        Some(bytes) => format!(
            "prune would free {} that nothing needs",
            page.format_size(bytes)
        ),
        None => {
            "what prune would free is not known: something is lost, and `vellum backup verify` \
             says what"
                .to_owned()
        }
    }
}

impl Render for PruneSummary {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let (used, packs) = (
            page.format_size(self.used_bytes),
            page.format_size(self.packs_bytes),
        );
        page.write_line(format!(
            "{used} of {packs} in packs are needed ({})",
            format_percent(self.used_bytes, self.packs_bytes)
        ))?;
        if self.damaged_packs > 0 {
            let packs = format_count(self.damaged_packs, "damaged pack");
            page.write_line(format!(
                "left alone: {packs} that points need; `vellum backup verify` names them"
            ))?;
        }
        let (condemned, moved) = (
            page.format_size(self.condemned_bytes),
            page.format_size(self.moved_bytes),
        );
        let objects = format_count(self.condemned_objects, "object");
        if self.dry_run {
            page.write_line(format!(
                "{objects}, {condemned}, would go, after {moved} have moved"
            ))?;
            return page.write_line(would_free(Some(self.freed_bytes), page));
        }
        let deleted = page.format_size(self.deleted_bytes);
        page.write_line(format!(
            "condemned {objects}, {condemned}; {moved} moved; {} objects deleted, {deleted}",
            self.deleted_objects
        ))?;
        if self.retained_objects > 0 {
            let objects = format_count(self.retained_objects, "object");
            let bytes = page.format_size(self.retained_bytes);
            page.write_line(format!(
                "retained: {objects}, {bytes}, that may not be deleted there (yet); the next prune \
                 tries again"
            ))?;
        }
        self.fenced
            .iter()
            .try_for_each(|session| page.write_line(format!("ended session {}", session.line)))?;
        if self.waits_for.is_empty() {
            let freed = page.format_size(self.freed_bytes);
            if self.keeps_versions {
                return page.write_line(format!(
                    "prune deleted {freed} that nothing needs; the bucket keeps older versions: \
                     the space is free once it lets them go"
                ));
            }
            return page.write_line(format!("prune freed {freed} that nothing needs"));
        }
        page.write_line(would_free(Some(self.freed_bytes), page))?;
        self.waits_for.iter().try_for_each(|session| {
            page.write_line(format!("waits for session {}", session.line))
        })?;
        page.write_line("next: vellum backup prune, once they have ended")
    }
}
