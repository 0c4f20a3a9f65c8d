//! Selects the entry by which a content is read: pure.
//!
//! All entries of a content mean the same bytes, but each is relative to another content. Sessions
//! that do not see each other may write entries that form a ring: A relative to B, and B relative
//! to A. Once a collection has taken some entries away, neither the newest nor the oldest entry of
//! each content always leads out of such a ring. So the entry is chosen by its path: the one that
//! reaches a content without a parent in the fewest steps. The parent's own choice needs one step
//! less, so the choices never form a ring. A path always exists: the writer of an entry has seen
//! one for its parent, and collections keep the chosen path of everything that may be built on.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use vellum_core::identity::ContentId;

use super::{Condition, ContentEntry};
use crate::contents::parent_of;

/// The least number of entries on the way from a content to one without a parent. None where no way
/// leads there.
type Steps = BTreeMap<ContentId, usize>;

/// Orders the entries of each content: those first from which the fewest steps lead to a content
/// without a parent, if it may be through entries that may be built on; of equals the newest.
pub(super) fn best_first(contents: &mut BTreeMap<ContentId, Vec<ContentEntry>>) {
    let is_firm = |entry: &ContentEntry| entry.condition == Condition::Firm;
    let (firm, any) = (steps(contents, is_firm), steps(contents, |_| true));
    for entries in contents.values_mut() {
        entries.sort_by_cached_key(|entry| {
            let firmly = if is_firm(entry) {
                from(entry, &firm)
            } else {
                usize::MAX
            };
            (firmly, from(entry, &any), Reverse(entry.stamp.clone()))
        });
    }
}

fn from(entry: &ContentEntry, steps: &Steps) -> usize {
    match (&entry.content.parent, parent_of(&entry.content)) {
        (None, _) => 0,
        (Some(_), parent) => parent
            .and_then(|parent| steps.get(&parent))
            .map_or(usize::MAX, |steps| steps + 1),
    }
}

/// The steps from each content, through these entries alone. Cost: each entry once.
fn steps(
    contents: &BTreeMap<ContentId, Vec<ContentEntry>>,
    is_open: impl Fn(&ContentEntry) -> bool,
) -> Steps {
    let (mut above, mut steps, mut next) = (
        BTreeMap::<ContentId, Vec<ContentId>>::new(),
        Steps::new(),
        VecDeque::new(),
    );
    for (id, entry) in contents
        .iter()
        .flat_map(|(id, entries)| entries.iter().map(move |entry| (*id, entry)))
        .filter(|(_, entry)| is_open(entry))
    {
        match (&entry.content.parent, parent_of(&entry.content)) {
            (None, _) => next.push_back((id, 0)),
            (Some(_), Some(parent)) => above.entry(parent).or_default().push(id),
            (Some(_), None) => {}
        }
    }
    while let Some((id, count)) = next.pop_front() {
        if steps.contains_key(&id) {
            continue;
        }
        steps.insert(id, count);
        next.extend(
            above
                .remove(&id)
                .into_iter()
                .flatten()
                .map(|id| (id, count + 1)),
        );
    }
    steps
}
