//! `vellum diff`: where two images or snapshots differ, told from their maps; of files, from their
//! bytes.

use serde::Serialize;
use vellum_core::difference::{Difference, VisitDifference};
use vellum_store::StoreError;

use crate::command_context::CommandContext;
use crate::disk_argument::DiskArgument;
use crate::failure::{CommandFailure, Outcome};
use crate::output::table::Column;
use crate::source_format::FileArgs;
use crate::source_pair::SourcePair;

const COLUMNS: [Column; 3] = [
    Column::number_column("START").with_width(14),
    Column::number_column("LENGTH").with_width(14),
    Column::text_column("BECOMES"),
];

/// Show the ranges in which two images, snapshots or files differ; exit code 1 if there are any, 2
/// if they cannot be compared
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum diff web@monday web@tuesday
  vellum diff web@monday monday.vdi

Of images only maps are read, a file is read whole. It is a file if the store has nothing of that \
name (./NAME is always one).")]
pub(crate) struct Args {
    /// The first image, snapshot or file
    #[arg(value_name = "A")]
    first: String,
    /// The second
    #[arg(value_name = "B")]
    second: String,
}

#[derive(Serialize)]
struct DifferingRange {
    start: u64,
    length: u64,
    /// True if the second reads as zeros there.
    zero: bool,
}

pub(super) fn run_diff(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let find = |word: &str| DiskArgument::open_argument(word, &FileArgs::default(), session);
    let (first, second) = (find(&args.first)?, find(&args.second)?);
    if let (DiskArgument::Node(store, first), DiskArgument::Node(_, second)) = (&first, &second) {
        return print_differences(
            session,
            || StoreError::Interrupted,
            |visit| store.diff(*first, *second, visit),
        );
    }
    let (first, second) = (
        first.into_read_disk(&args.first)?,
        second.into_read_disk(&args.second)?,
    );
    let meter = session.watch_bytes("comparing");
    print_differences(
        session,
        || StoreError::Interrupted,
        |visit| SourcePair::new(&first, &second).visit_differences(&meter, visit),
    )
}

impl Args {
    /// Tells if a store is needed.
    pub(super) fn needs_store(&self) -> bool {
        !(self.first.contains('/') && self.second.contains('/'))
    }
}

/// Shows the differences that `compare` meets; `interrupted` is its error when nobody wants more of
/// them.
pub(super) fn print_differences<E: Into<CommandFailure>>(
    session: &mut CommandContext,
    interrupted: impl Fn() -> E,
    compare: impl FnOnce(&mut VisitDifference<'_, E>) -> Result<(), E>,
) -> Result<Outcome, CommandFailure> {
    let signals = session.signals.clone();
    let mut entries = session.output.begin_entries(&COLUMNS);
    let mut shown = Ok(());
    let compared = compare(&mut |Difference {
                                     start,
                                     len,
                                     becomes_zero,
                                 }| {
        shown = signals
            .fail_if_stopped()
            .map_err(CommandFailure::from)
            .and_then(|()| {
                let becomes = if becomes_zero { "zero" } else { "data" };
                let range = DifferingRange {
                    start,
                    length: len,
                    zero: becomes_zero,
                };
                entries.push_entry(
                    &range,
                    &[start.to_string(), len.to_string(), becomes.to_owned()],
                )
            });
        // The comparison hears only that nobody wants more; the reason is in `shown`.
        if shown.is_err() {
            Err(interrupted())
        } else {
            Ok(())
        }
    });
    shown?;
    compared.map_err(Into::into)?;
    let count = entries.finish_entries()?;
    Ok(if count == 0 {
        Outcome::Done
    } else {
        Outcome::Different
    })
}
