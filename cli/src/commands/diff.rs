//! `vellum diff`: where two images or snapshots differ, told from their maps.

use serde::Serialize;
use vellum_store::StoreError;

use crate::failure::{Failure, Outcome};
use crate::output::table::Column;
use crate::session::Session;

const COLUMNS: [Column; 3] = [Column::number("START").wide(14), Column::number("LENGTH").wide(14), Column::text("BECOMES")];

/// Show the ranges in which two images or snapshots differ; exit code 1 if there are any
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum diff web@monday web@tuesday")]
pub(crate) struct Args {
    /// The first image or snapshot
    #[arg(value_name = "A")]
    first: String,
    /// The second
    #[arg(value_name = "B")]
    second: String,
}

#[derive(Serialize)]
struct Range {
    start: u64,
    length: u64,
    /// Whether the second reads as zeros there.
    zero: bool,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    let store = session.open_to_read()?;
    let (first, second) = (store.find(&args.first)?, store.find(&args.second)?);
    let signals = session.signals.clone();
    let mut entries = session.output.entries(&COLUMNS);
    let mut shown = Ok(());
    let compared = store.diff(first, second, &mut |difference| {
        signals.check()?;
        let range = Range { start: difference.start, length: difference.len, zero: difference.becomes_zero };
        let becomes = if range.zero { "zero" } else { "data" };
        shown = entries.push(&range, &[range.start.to_string(), range.length.to_string(), becomes.to_owned()]);
        // The store hears only that nobody wants more; the reason is in `shown`.
        if shown.is_err() { Err(StoreError::Interrupted) } else { Ok(()) }
    });
    shown?;
    compared?;
    let count = entries.finish()?;
    Ok(if count == 0 { Outcome::Done } else { Outcome::Different })
}
