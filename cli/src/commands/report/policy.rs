//! The forecast of a retention policy: the space that it would free, before anything is deleted.

use std::io;
use std::time::SystemTime;

use jiff::tz::TimeZone;
use serde::Serialize;
use vellum_core::retention::Rules;
use vellum_core::tree::Node;
use vellum_store::Store;
use vellum_store::report::RetentionRow;

use super::reclaim::Deletion;
use super::{census, tell_uncounted};
use crate::failure::{Failure, Outcome};
use crate::keep::KeepArgs;
use crate::output::page::{Page, plural};
use crate::output::table::Column;
use crate::output::{Answer, time};
use crate::session::Session;
use crate::zone;

/// The decisions about all snapshots.
#[derive(Serialize)]
struct Forecast {
    snapshots: Vec<Judged>,
    #[serde(flatten)]
    deletion: Deletion,
}

/// One of them.
#[derive(Serialize)]
struct Judged {
    name: String,
    taken: String,
    /// The caller's local time: the rules' days are those of its clock.
    local_time: String,
    kept: bool,
    reasons: Vec<String>,
}

/// The rules, if there are any.
pub(super) fn rules(keep: &KeepArgs) -> Result<Option<Rules>, Failure> {
    let rules = keep.rules(now_ms())?;
    if rules.is_empty() && keep.are_given() {
        return Err(Failure::usage(
            "a policy that keeps nothing",
            "give at least one --keep option a number above 0",
        ));
    }
    Ok((!rules.is_empty()).then_some(rules))
}

pub(super) fn run(store: &Store, rules: &Rules, session: &mut Session) -> Result<Outcome, Failure> {
    let (goes, snapshots) = judge(store, rules, session.zone());
    let census = census(store, session)?;
    let deletion = Deletion::new(&census, census.reclaim(&goes), Vec::new());
    session.output.answer(&Forecast {
        snapshots,
        deletion,
    })?;
    Ok(tell_uncounted(census.uncounted(), session))
}

/// The snapshots that would go, and the reasons why the others stay; each image's by themselves.
fn judge(store: &Store, rules: &Rules, zone: &TimeZone) -> (Vec<Node>, Vec<Judged>) {
    let images: Vec<_> = store.tree().images().map(|image| image.id).collect();
    let rows = store.retention(rules, &images, &|moment_ms| zone::offset_s(zone, moment_ms));
    let goes = rows
        .iter()
        .filter(|row| !row.verdict.is_kept())
        .map(|row| row.node)
        .collect();
    (
        goes,
        rows.into_iter().map(|row| Judged::new(row, zone)).collect(),
    )
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

impl Judged {
    fn new(row: RetentionRow, zone: &TimeZone) -> Self {
        let reasons = row
            .verdict
            .reasons
            .iter()
            .map(ToString::to_string)
            .collect();
        let local_time = zone::shown(zone, row.created_ms).unwrap_or_default();
        Self {
            name: row.name,
            taken: time::moment(row.created_ms),
            local_time,
            kept: row.verdict.is_kept(),
            reasons,
        }
    }
}

impl Answer for Forecast {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        let row = |judged: &Judged| {
            let verdict = if judged.kept { "stays" } else { "goes" };
            vec![
                judged.name.clone(),
                judged.local_time.clone(),
                verdict.to_owned(),
                judged.reasons.join(", "),
            ]
        };
        let rows: Vec<Vec<String>> = self.snapshots.iter().map(row).collect();
        page.table(
            &[
                Column::text("SNAPSHOT"),
                Column::text("TAKEN"),
                Column::text("VERDICT"),
                Column::text("WHY"),
            ],
            &rows,
        )?;
        let kept = self.snapshots.iter().filter(|judged| judged.kept).count() as u64;
        page.line(format!(
            "{} would stay, {} would go",
            plural(kept, "snapshot"),
            self.snapshots.len() as u64 - kept
        ))?;
        if kept == self.snapshots.len() as u64 {
            return Ok(());
        }
        page.line("")?;
        self.deletion.show(page)
    }
}
