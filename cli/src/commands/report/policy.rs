//! The forecast of a retention policy: the space that it would free, before anything is deleted.

use std::io;
use std::time::SystemTime;

use jiff::tz::TimeZone;
use serde::Serialize;
use vellum_core::name::Name;
use vellum_core::retention::RetentionRules;
use vellum_core::tree::NodeRef;
use vellum_core::units::ImageId;
use vellum_store::Store;
use vellum_store::report::RetentionRow;

use super::reclaim::Deletion;
use super::{take_census, tell_uncounted};
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::output::page::{TextPage, format_count};
use crate::output::table::Column;
use crate::output::{Render, time};
use crate::retention_args::KeepArgs;
use crate::time_zone;

/// The decisions about all snapshots.
#[derive(Serialize)]
struct Forecast {
    snapshots: Vec<ShownRetention>,
    #[serde(flatten)]
    deletion: Deletion,
}

/// One of them.
#[derive(Serialize)]
pub(in crate::commands) struct ShownRetention {
    name: String,
    taken: String,
    /// The caller's local time: the rules' days are those of its clock.
    local_time: String,
    kept: bool,
    reasons: Vec<String>,
}

/// The rules, if there are any.
pub(in crate::commands) fn given_rules(
    keep: &KeepArgs,
) -> Result<Option<RetentionRules>, CommandFailure> {
    let rules = keep.retention_rules(now_ms())?;
    if rules.is_empty() && keep.are_given() {
        return Err(CommandFailure::usage_error(
            "a policy that keeps nothing",
            "give at least one --keep option a number above 0",
        ));
    }
    Ok((!rules.is_empty()).then_some(rules))
}

pub(super) fn run_policy(
    store: &Store,
    rules: &RetentionRules,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let images: Vec<_> = store.tree().images().map(|image| image.id).collect();
    let (goes, snapshots) = judge_snapshots(store, rules, &images, &[], session.time_zone());
    let census = take_census(store, session)?;
    let deletion = Deletion::new(&census, census.estimate_reclaim(&goes), Vec::new());
    session.output.print_answer(&Forecast {
        snapshots,
        deletion,
    })?;
    Ok(tell_uncounted(census.uncounted_items(), session))
}

/// The snapshots of `images` that would go, and the reasons why the others stay; each image's by
/// themselves, and of those with all of `tags`.
pub(in crate::commands) fn judge_snapshots(
    store: &Store,
    rules: &RetentionRules,
    images: &[ImageId],
    tags: &[Name],
    zone: &TimeZone,
) -> (Vec<NodeRef>, Vec<ShownRetention>) {
    let rows = store.preview_retention(rules, images, tags, &|moment_ms| {
        time_zone::offset_s(zone, moment_ms)
    });
    let goes = rows
        .iter()
        .filter(|row| !row.verdict.is_kept())
        .map(|row| row.node)
        .collect();
    (
        goes,
        rows.into_iter()
            .map(|row| ShownRetention::new(row, zone))
            .collect(),
    )
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

impl ShownRetention {
    fn new(row: RetentionRow, zone: &TimeZone) -> Self {
        let reasons = row
            .verdict
            .reasons
            .iter()
            .map(ToString::to_string)
            .collect();
        let local_time = time_zone::format_local_time(zone, row.created_ms).unwrap_or_default();
        Self {
            name: row.name,
            taken: time::format_utc(row.created_ms),
            local_time,
            kept: row.verdict.is_kept(),
            reasons,
        }
    }
}

/// Writes what becomes of each snapshot; how many stay.
pub(in crate::commands) fn render_verdicts(
    snapshots: &[ShownRetention],
    page: &mut TextPage,
) -> io::Result<u64> {
    let row = |judged: &ShownRetention| {
        let verdict = if judged.kept { "stays" } else { "goes" };
        vec![
            judged.name.clone(),
            judged.local_time.clone(),
            verdict.to_owned(),
            judged.reasons.join(", "),
        ]
    };
    let rows: Vec<Vec<String>> = snapshots.iter().map(row).collect();
    page.write_table(
        &[
            Column::text_column("SNAPSHOT"),
            Column::text_column("TAKEN").as_time().giving_way(1),
            Column::text_column("VERDICT").as_whole(),
            Column::text_column("WHY").as_prose(),
        ],
        &rows,
    )?;
    Ok(snapshots.iter().filter(|judged| judged.kept).count() as u64)
}

impl Render for Forecast {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let kept = render_verdicts(&self.snapshots, page)?;
        page.write_line(format!(
            "{} would stay, {} would go",
            format_count(kept, "snapshot"),
            self.snapshots.len() as u64 - kept
        ))?;
        if kept == self.snapshots.len() as u64 {
            return Ok(());
        }
        page.write_line("")?;
        self.deletion.render_page(page)
    }
}
