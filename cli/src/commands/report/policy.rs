//! What a policy of keeping snapshots would free, before anything is deleted.

use std::collections::BTreeSet;
use std::io;
use std::time::SystemTime;

use serde::Serialize;
use vellum_core::name::Name;
use vellum_core::retention::{Limit, Rules, Span, Within};
use vellum_core::tree::Node;
use vellum_store::Store;
use vellum_store::report::RetentionRow;

use super::census;
use super::reclaim::Deletion;
use crate::failure::{Failure, Outcome};
use crate::output::page::{Page, plural};
use crate::output::table::Column;
use crate::output::{Answer, time};
use crate::session::Session;

/// Which snapshots a policy keeps.
#[derive(clap::Args)]
#[command(next_help_heading = "What keeping only these snapshots would free")]
#[group(id = "policy", multiple = true, conflicts_with = "form")]
pub(super) struct Args {
    /// The newest of each image [a number, or unlimited]
    #[arg(long = "keep-last", value_name = "COUNT", allow_negative_numbers = true)]
    last: Option<Limit>,
    /// The newest of each of so many hours that have any
    #[arg(long = "keep-hourly", value_name = "COUNT", allow_negative_numbers = true)]
    hourly: Option<Limit>,
    /// Of so many days (days are UTC's)
    #[arg(long = "keep-daily", value_name = "COUNT", allow_negative_numbers = true)]
    daily: Option<Limit>,
    /// Of so many weeks
    #[arg(long = "keep-weekly", value_name = "COUNT", allow_negative_numbers = true)]
    weekly: Option<Limit>,
    /// Of so many months
    #[arg(long = "keep-monthly", value_name = "COUNT", allow_negative_numbers = true)]
    monthly: Option<Limit>,
    /// Of so many years
    #[arg(long = "keep-yearly", value_name = "COUNT", allow_negative_numbers = true)]
    yearly: Option<Limit>,
    /// All of this long before the newest, such as 1y5m7d2h
    #[arg(long = "keep-within", value_name = "DURATION")]
    within: Option<Span>,
    /// All with these tags; can be given several times
    #[arg(long = "keep-tag", value_name = "TAG,…", value_parser = tag_list)]
    tag: Vec<TagList>,
}

/// Tags that a snapshot must all have.
#[derive(Clone, Debug)]
struct TagList(BTreeSet<Name>);

/// What would become of every snapshot.
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
    kept: bool,
    reasons: Vec<String>,
}

impl Args {
    /// The rules, if there are any.
    pub(super) fn rules(&self) -> Result<Option<Rules>, Failure> {
        let limit = |limit: Option<Limit>| limit.unwrap_or_default();
        let rules = Rules {
            last: limit(self.last),
            hourly: limit(self.hourly),
            daily: limit(self.daily),
            weekly: limit(self.weekly),
            monthly: limit(self.monthly),
            yearly: limit(self.yearly),
            within: self.within.map(|span| Within { span, now_ms: now_ms() }),
            tags: self.tag.iter().map(|list| list.0.clone()).collect(),
        };
        let limits = [self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly];
        if rules.is_empty() && limits.iter().any(Option::is_some) {
            return Err(Failure::usage("a policy that keeps nothing", "give at least one --keep option a number above 0"));
        }
        Ok((!rules.is_empty()).then_some(rules))
    }
}

pub(super) fn run(store: &Store, rules: &Rules, session: &mut Session) -> Result<Outcome, Failure> {
    let (goes, snapshots) = judge(store, rules);
    let deletion = Deletion::new(census(store, session)?.reclaim(&goes), Vec::new());
    session.output.answer(&Forecast { snapshots, deletion })?;
    Ok(Outcome::Done)
}

/// Which snapshots would go, and why the others stay; each image's by themselves.
fn judge(store: &Store, rules: &Rules) -> (Vec<Node>, Vec<Judged>) {
    let images: Vec<_> = store.tree().images().map(|image| image.id).collect();
    let rows = store.retention(rules, &images, &|_| 0);
    let goes = rows.iter().filter(|row| !row.verdict.is_kept()).map(|row| row.node).collect();
    (goes, rows.into_iter().map(Judged::new).collect())
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn tag_list(text: &str) -> Result<TagList, vellum_core::name::NameError> {
    let tags = text.split(',').filter(|tag| !tag.is_empty()).map(Name::new);
    Ok(TagList(tags.collect::<Result<_, _>>()?))
}

impl Judged {
    fn new(row: RetentionRow) -> Self {
        let reasons = row.verdict.reasons.iter().map(ToString::to_string).collect();
        Self { name: row.name, taken: time::moment(row.created_ms), kept: row.verdict.is_kept(), reasons }
    }
}

impl Answer for Forecast {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        let row = |judged: &Judged| {
            let verdict = if judged.kept { "stays" } else { "goes" };
            vec![judged.name.clone(), judged.taken.clone(), verdict.to_owned(), judged.reasons.join(", ")]
        };
        let rows: Vec<Vec<String>> = self.snapshots.iter().map(row).collect();
        page.table(&[Column::text("SNAPSHOT"), Column::text("TAKEN"), Column::text("VERDICT"), Column::text("WHY")], &rows)?;
        let kept = self.snapshots.iter().filter(|judged| judged.kept).count() as u64;
        page.line(format!("{} would stay, {} would go", plural(kept, "snapshot"), self.snapshots.len() as u64 - kept))?;
        if kept == self.snapshots.len() as u64 {
            return Ok(());
        }
        page.line("")?;
        self.deletion.show(page)
    }
}
