//! `vellum backup diff`: where two points of a repository differ, told from their maps.

use std::io;

use serde::Serialize;
use vellum_backup::diff::{DiffReport, diff};
use vellum_backup::error::BackupError;
use vellum_backup::reader::Reader;
use vellum_core::identity::ContentId;

use super::restore::no_content;
use crate::commands::diff::show;
use crate::failure::{Failure, Outcome};
use crate::output::Answer;
use crate::output::page::Page;
use crate::repository::{self, KeyArgs, address, words};
use crate::session::Session;

/// Show the ranges in which two points differ, without reading data; exit code 1 if there are any,
/// 2 if they cannot be compared
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum backup diff /mnt/backup web@monday web@tuesday
  vellum backup diff s3://bucket/images web@latest web --summary")]
pub(crate) struct Args {
    /// The repository, and two points
    #[arg(value_names = ["REPO", "POINT", "POINT"], num_args = 0..=3)]
    words: Vec<String>,
    /// Show how many bytes differ, not where
    #[arg(long)]
    summary: bool,
    #[command(flatten)]
    key: KeyArgs,
}

#[derive(Serialize)]
struct Totals {
    identical: bool,
    first: String,
    second: String,
    changed_bytes: u64,
    /// The part of those in which the second reads as zeros.
    zeroed_bytes: u64,
    same_bytes: u64,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    let named = words::exactly(&args.words, &["POINT", "POINT"], &session.caller)?;
    let [first, second] = named.rest else {
        unreachable!("as many words were asked for")
    };
    let repository = repository::open(&named.place, &args.key, session)?;
    let state = repository.state();
    let points = address::sorted(&state);
    let find = |text: &str| {
        let point = address::find(&points, text, session.zone())?;
        let content = ContentId::parse(&point.content).ok_or_else(|| no_content(&point.id))?;
        Ok::<_, Failure>((address::title(point), content))
    };
    let (first, second) = (find(first)?, find(second)?);
    let reader = Reader::new(&repository);
    if args.summary {
        let report = diff(&reader, first.1, second.1, &mut |_| Ok(()))?;
        let totals = Totals::new(first.0, second.0, report);
        session.output.answer(&totals)?;
        return Ok(if totals.identical {
            Outcome::Done
        } else {
            Outcome::Different
        });
    }
    show(
        session,
        || BackupError::Interrupted,
        |visit| diff(&reader, first.1, second.1, visit).map(drop),
    )
}

impl Totals {
    fn new(first: String, second: String, report: DiffReport) -> Self {
        Self {
            identical: report.changed == 0,
            first,
            second,
            changed_bytes: report.changed,
            zeroed_bytes: report.zeroed,
            same_bytes: report.same,
        }
    }
}

impl Answer for Totals {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        if self.identical {
            return page.line(format!("{} and {} are identical", self.first, self.second));
        }
        let (changed, zeroed, same) = (
            page.size(self.changed_bytes),
            page.size(self.zeroed_bytes),
            page.size(self.same_bytes),
        );
        page.line(format!(
            "{} and {}: {changed} differ ({zeroed} become zero), {same} are the same",
            self.first, self.second
        ))
    }
}
