//! `vellum backup diff`: where two points of a repository differ, told from their maps.

use std::io;

use serde::Serialize;
use vellum_backup::diff::{DiffReport, diff};
use vellum_backup::error::BackupError;
use vellum_backup::reader::Reader;
use vellum_core::identity::ContentId;

use super::restore::no_content;
use crate::command_context::CommandContext;
use crate::commands::diff::print_differences;
use crate::failure::{CommandFailure, Outcome};
use crate::output::Render;
use crate::output::page::TextPage;
use crate::repository::{AccessArgs, address, opening, repo_args};

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
    access: AccessArgs,
}

#[derive(Serialize)]
struct DiffTotals {
    identical: bool,
    first: String,
    second: String,
    changed_bytes: u64,
    /// The part of those in which the second reads as zeros.
    zeroed_bytes: u64,
    same_bytes: u64,
}

pub(super) fn run_backup_diff(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let named = repo_args::repository_and_words(&args.words, &["POINT", "POINT"], &session.caller)?;
    let [first, second] = named.rest else {
        unreachable!("as many words were asked for")
    };
    let repository = opening::open_repository(&named.place, &args.access, session)?;
    let state = repository.state();
    let points = address::sort_points(&state);
    let find = |text: &str| {
        let point = address::find_point(&points, text, session.time_zone())?;
        let content = ContentId::parse(&point.content).ok_or_else(|| no_content(&point.id))?;
        Ok::<_, CommandFailure>((address::point_title(point), content))
    };
    let (first, second) = (find(first)?, find(second)?);
    let reader = Reader::new(&repository);
    if args.summary {
        let report = diff(&reader, first.1, second.1, &mut |_| Ok(()))?;
        let totals = DiffTotals::new(first.0, second.0, report);
        session.output.print_answer(&totals)?;
        return Ok(if totals.identical {
            Outcome::Done
        } else {
            Outcome::Different
        });
    }
    print_differences(
        session,
        || BackupError::Interrupted,
        |visit| diff(&reader, first.1, second.1, visit).map(drop),
    )
}

impl DiffTotals {
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

impl Render for DiffTotals {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        if self.identical {
            return page.write_line(format!("{} and {} are identical", self.first, self.second));
        }
        let (changed, zeroed, same) = (
            page.format_size(self.changed_bytes),
            page.format_size(self.zeroed_bytes),
            page.format_size(self.same_bytes),
        );
        page.write_line(format!(
            "{} and {}: {changed} differ ({zeroed} become zero), {same} are the same",
            self.first, self.second
        ))
    }
}
