//! Forecasts of deletions: the space that a set would free, and the sets that free enough.

use std::io;

use serde::Serialize;
use vellum_store::Store;
use vellum_store::report::{ReclaimEstimate, UsageScan};

use super::{is_protected, take_census, tell_uncounted};
use crate::command_context::CommandContext;
use crate::commands::remove;
use crate::failure::{CommandFailure, Outcome};
use crate::output::Render;
use crate::output::escape::shell_word;
use crate::output::page::{TextPage, format_count};
use crate::output::table::Column;
use crate::report::document::UncountedRecord;

/// Names that are written out as the next command; a longer list is in the table.
const NAMES_MAX: usize = 8;

/// A set of images and snapshots, and what its deletion frees.
#[derive(Serialize)]
pub(super) struct Deletion {
    deleted: Vec<DeletedNode>,
    /// Their children, which would stay.
    kept: Vec<String>,
    chunks: u64,
    plain_bytes: u64,
    freed_bytes: u64,
    /// The records that could not be read, and are in no figure.
    uncounted: Vec<UncountedRecord>,
}

/// One of them.
#[derive(Serialize)]
struct DeletedNode {
    name: String,
    alone_bytes: u64,
}

/// The space that deleting exactly the nodes that `texts` name would free. Nodes that `vellum rm`
/// refuses to delete are refused here.
pub(super) fn of_set(
    store: &Store,
    texts: &[String],
    with_snapshots: bool,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let nodes = remove::removal_targets(store, texts)?;
    let plan = remove::preview_removal(&store.tree(), &nodes, with_snapshots)?;
    let kept = plan
        .kept
        .iter()
        .map(|node| store.tree().display_name(*node))
        .collect();
    let census = take_census(store, session)?;
    session.output.print_answer(&Deletion::new(
        &census,
        census.estimate_reclaim(&plan.gone),
        kept,
    ))?;
    Ok(tell_uncounted(census.uncounted_items(), session))
}

/// Finds deletions that free at least `bytes`.
pub(super) fn of_target(
    store: &Store,
    bytes: u64,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let census = take_census(store, session)?;
    let Some(reclaim) = census.reclaim_target(bytes, &|node| is_protected(store, node)) else {
        let all: Vec<_> = store
            .tree()
            .all_nodes()
            .filter(|node| !is_protected(store, *node))
            .collect();
        let size = |bytes| session.output.units.format_bytes(bytes);
        let (wanted, most) = (size(bytes), size(census.estimate_reclaim(&all).freed));
        tell_uncounted(census.uncounted_items(), session);
        let hint = "what is pinned or in use is never proposed; `vellum report totals` tells \
                    whether `vellum gc` frees some";
        return Err(CommandFailure::with_hint(
            format!("no deletion frees {wanted}: all that may go frees {most}"),
            hint,
        ));
    };
    session
        .output
        .print_answer(&Deletion::new(&census, reclaim, Vec::new()))?;
    Ok(tell_uncounted(census.uncounted_items(), session))
}

impl Deletion {
    pub(super) fn new(census: &UsageScan, reclaim: ReclaimEstimate, kept: Vec<String>) -> Self {
        let deleted = reclaim.nodes.into_iter().zip(reclaim.alone);
        Self {
            deleted: deleted
                .map(|(name, alone_bytes)| DeletedNode { name, alone_bytes })
                .collect(),
            kept,
            chunks: reclaim.chunks,
            plain_bytes: reclaim.plain,
            freed_bytes: reclaim.freed,
            uncounted: census
                .uncounted_items()
                .iter()
                .map(UncountedRecord::new)
                .collect(),
        }
    }
}

impl Render for Deletion {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let rows: Vec<Vec<String>> = self
            .deleted
            .iter()
            .map(|deleted| vec![deleted.name.clone(), page.format_size(deleted.alone_bytes)])
            .collect();
        page.write_table(
            &[
                Column::text_column("DELETED"),
                Column::number_column("FREES ALONE"),
            ],
            &rows,
        )?;
        self.kept
            .iter()
            .try_for_each(|name| page.write_line(format!("{name} would stay as it is")))?;
        let (freed, plain) = (
            page.format_size(self.freed_bytes),
            page.format_size(self.plain_bytes),
        );
        let together = if self.deleted.len() > 1 {
            "together they free"
        } else {
            "it frees"
        };
        page.write_line(format!(
            "{together} {freed}: {} ({plain} before compression)",
            format_count(self.chunks, "chunk")
        ))?;
        if !self.uncounted.is_empty() {
            page.write_line(
                "that is without what could not be read, and `vellum gc` frees nothing while \
                 a map that stays is damaged",
            )?;
        }
        if self.freed_bytes == 0 && self.chunks > 0 {
            page.write_line("so little stays on the disk until more is dead")?;
        }
        match self.deleted.len() {
            0 => Ok(()),
            1..=NAMES_MAX => {
                let names: Vec<String> = self
                    .deleted
                    .iter()
                    .map(|deleted| shell_word(&deleted.name))
                    .collect();
                page.write_line(format!("next: vellum rm {}; vellum gc", names.join(" ")))
            }
            _ => page.write_line("next: `vellum rm` them, then `vellum gc`"),
        }
    }
}
