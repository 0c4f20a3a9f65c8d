//! Positions of the sampled chunks on a disk, so that the next disk is compared with them.

use super::short_name::ShortName;

/// Entries that are kept of one disk: 64 MB. A sample has fewer, unless most of a disk is copies of
/// itself.
const ENTRIES_MAX: usize = 4 << 20;

/// Positions and names, in order.
#[derive(Default)]
pub(super) struct ParentPositions {
    entries: Vec<(u64, ShortName)>,
    /// Index of the last answer: questions come in order as well.
    at: usize,
}

impl ParentPositions {
    /// Notes `name` at `index`, which is past all before. When there is no room, what follows is
    /// found by content only.
    pub(super) fn add_position(&mut self, index: u64, name: ShortName) {
        if self.entries.len() < ENTRIES_MAX {
            self.entries.push((index, name));
        }
    }

    /// True if `name` is at `index`. Asked with rising indexes.
    pub(super) fn has_name_at(&mut self, index: u64, name: ShortName) -> bool {
        while self
            .entries
            .get(self.at)
            .is_some_and(|entry| entry.0 < index)
        {
            self.at += 1;
        }
        self.entries.get(self.at) == Some(&(index, name))
    }

    /// Forgets the names that are not `wanted`.
    pub(super) fn retain_names(&mut self, wanted: impl Fn(ShortName) -> bool) {
        self.entries.retain(|(_, name)| wanted(*name));
        self.at = 0;
    }
}
