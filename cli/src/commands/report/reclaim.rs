//! Forecasts of deletions: the space that a set would free, and the sets that free enough.

use std::io;

use serde::Serialize;
use vellum_store::Store;
use vellum_store::report::{Census, Reclaim};

use super::{census, is_protected, tell_uncounted};
use crate::commands::remove;
use crate::failure::{Failure, Outcome};
use crate::output::Answer;
use crate::output::page::{Page, plural};
use crate::output::table::Column;
use crate::report::document::UncountedRecord;
use crate::session::Session;

/// Names that are written out as the next command; a longer list is in the table.
const NAMES_MAX: usize = 8;

/// A set of images and snapshots, and what its deletion frees.
#[derive(Serialize)]
pub(super) struct Deletion {
    deleted: Vec<Deleted>,
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
struct Deleted {
    name: String,
    alone_bytes: u64,
}

/// The space that deleting exactly the nodes that `texts` name would free. Nodes that `vellum rm`
/// refuses to delete are refused here.
pub(super) fn of_set(
    store: &Store,
    texts: &[String],
    with_snapshots: bool,
    session: &mut Session,
) -> Result<Outcome, Failure> {
    let nodes = remove::targets(store, texts)?;
    let plan = remove::preview(&store.tree(), &nodes, with_snapshots)?;
    let kept = plan
        .kept
        .iter()
        .map(|node| store.tree().display(*node))
        .collect();
    let census = census(store, session)?;
    session
        .output
        .answer(&Deletion::new(&census, census.reclaim(&plan.gone), kept))?;
    Ok(tell_uncounted(census.uncounted(), session))
}

/// Finds deletions that free at least `bytes`.
pub(super) fn of_target(
    store: &Store,
    bytes: u64,
    session: &mut Session,
) -> Result<Outcome, Failure> {
    let census = census(store, session)?;
    let Some(reclaim) = census.reclaim_target(bytes, &|node| is_protected(store, node)) else {
        let all: Vec<_> = store
            .tree()
            .nodes()
            .filter(|node| !is_protected(store, *node))
            .collect();
        let size = |bytes| session.output.units.show(bytes);
        let (wanted, most) = (size(bytes), size(census.reclaim(&all).freed));
        tell_uncounted(census.uncounted(), session);
        let hint = "what is pinned or in use is never proposed; `vellum report totals` tells \
                    whether `vellum gc` frees some";
        return Err(Failure::failed(
            format!("no deletion frees {wanted}: all that may go frees {most}"),
            hint,
        ));
    };
    session
        .output
        .answer(&Deletion::new(&census, reclaim, Vec::new()))?;
    Ok(tell_uncounted(census.uncounted(), session))
}

impl Deletion {
    pub(super) fn new(census: &Census, reclaim: Reclaim, kept: Vec<String>) -> Self {
        let deleted = reclaim.nodes.into_iter().zip(reclaim.alone);
        Self {
            deleted: deleted
                .map(|(name, alone_bytes)| Deleted { name, alone_bytes })
                .collect(),
            kept,
            chunks: reclaim.chunks,
            plain_bytes: reclaim.plain,
            freed_bytes: reclaim.freed,
            uncounted: census
                .uncounted()
                .iter()
                .map(UncountedRecord::new)
                .collect(),
        }
    }
}

impl Answer for Deletion {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        let rows: Vec<Vec<String>> = self
            .deleted
            .iter()
            .map(|deleted| vec![deleted.name.clone(), page.size(deleted.alone_bytes)])
            .collect();
        page.table(
            &[Column::text("DELETED"), Column::number("FREES ALONE")],
            &rows,
        )?;
        self.kept
            .iter()
            .try_for_each(|name| page.line(format!("{name} would stay as it is")))?;
        let (freed, plain) = (page.size(self.freed_bytes), page.size(self.plain_bytes));
        let together = if self.deleted.len() > 1 {
            "together they free"
        } else {
            "it frees"
        };
        page.line(format!(
            "{together} {freed}: {} ({plain} before compression)",
            plural(self.chunks, "chunk")
        ))?;
        if !self.uncounted.is_empty() {
            page.line(
                "that is without what could not be read, and `vellum gc` frees nothing while \
                 a map that stays is damaged",
            )?;
        }
        if self.freed_bytes == 0 && self.chunks > 0 {
            page.line("so little stays on the disk until more is dead")?;
        }
        match self.deleted.len() {
            0 => Ok(()),
            1..=NAMES_MAX => {
                let names: Vec<String> = self
                    .deleted
                    .iter()
                    .map(|deleted| word(&deleted.name))
                    .collect();
                page.line(format!("next: vellum rm {}; vellum gc", names.join(" ")))
            }
            _ => page.line("next: `vellum rm` them, then `vellum gc`"),
        }
    }
}

/// `name` as a shell takes it for one word.
fn word(name: &str) -> String {
    let is_plain = |character: char| character.is_alphanumeric() || "@._-+:,".contains(character);
    if name.chars().all(is_plain) {
        name.to_owned()
    } else {
        format!("'{}'", name.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_word_and_runs_nothing() {
        for (name, shown) in [
            ("web@monday", "web@monday"),
            ("a b", "'a b'"),
            ("$(rm)", "'$(rm)'"),
            ("it's", r"'it'\''s'"),
            ("日本", "日本"),
        ] {
            assert_eq!(word(name), shown);
        }
    }
}
