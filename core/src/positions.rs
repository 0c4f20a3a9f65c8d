//! A set of a page's positions, one bit each.

use std::ops::Range;

use crate::page_grid::PAGE_SPAN;

const WORDS: usize = PAGE_SPAN as usize / 64;

/// A set of positions of one page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PositionSet([u64; WORDS]);

impl PositionSet {
    /// No position.
    pub const NONE: Self = Self([0; WORDS]);
    /// Every position of a page.
    pub const ALL: Self = Self([u64::MAX; WORDS]);

    /// The positions before `end`.
    #[must_use]
    pub fn all_before(end: u16) -> Self {
        let mut positions = Self::NONE;
        positions.insert(0..end);
        positions
    }

    /// Adds a range, which lies on the page.
    pub fn insert(&mut self, range: Range<u16>) {
        assert!(range.end <= PAGE_SPAN, "a position lies on its page");
        for (word, first) in self.0.iter_mut().zip((0..PAGE_SPAN).step_by(64)) {
            let (start, end) = (
                range.start.clamp(first, first + 64) - first,
                range.end.clamp(first, first + 64) - first,
            );
            if start < end {
                *word |= (u64::MAX >> (64 - (end - start))) << start;
            }
        }
    }

    /// The union of two sets.
    #[must_use]
    pub fn union_with(mut self, other: &Self) -> Self {
        self.0
            .iter_mut()
            .zip(other.0)
            .for_each(|(own, other)| *own |= other);
        self
    }

    /// The intersection of two sets.
    #[must_use]
    pub fn intersect_with(mut self, other: &Self) -> Self {
        self.0
            .iter_mut()
            .zip(other.0)
            .for_each(|(own, other)| *own &= other);
        self
    }

    /// The positions that are not in `other`.
    #[must_use]
    pub fn difference_with(mut self, other: &Self) -> Self {
        self.0
            .iter_mut()
            .zip(other.0)
            .for_each(|(own, other)| *own &= !other);
        self
    }

    /// True if `position` is one of them.
    #[must_use]
    pub fn contains(&self, position: u16) -> bool {
        self.0[usize::from(position) / 64] >> (position % 64) & 1 == 1
    }

    /// The stretches of `range` that are in the set, in order.
    pub fn ranges_in(&self, range: Range<u16>) -> impl Iterator<Item = Range<u16>> + '_ {
        let mut at = range.start;
        std::iter::from_fn(move || {
            let start = (at..range.end).find(|position| self.contains(*position))?;
            let end = (start..range.end)
                .find(|position| !self.contains(*position))
                .unwrap_or(range.end);
            at = end;
            Some(start..end)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_agree_with_a_plain_array() {
        let mut random = fastrand::Rng::with_seed(17);
        for _ in 0..200 {
            let (mut set, mut model) = (PositionSet::NONE, [false; PAGE_SPAN as usize]);
            for _ in 0..random.usize(..6) {
                let start = random.u16(..PAGE_SPAN);
                let end = random.u16(start..=PAGE_SPAN);
                set.insert(start..end);
                model[usize::from(start)..usize::from(end)].fill(true);
            }
            let cut = random.u16(..=PAGE_SPAN);
            let (before, from) = (
                PositionSet::all_before(cut),
                PositionSet::ALL.difference_with(&PositionSet::all_before(cut)),
            );
            assert_eq!(
                set.intersect_with(&before)
                    .union_with(&set.intersect_with(&from)),
                set
            );
            let found: Vec<u16> = set.ranges_in(cut..PAGE_SPAN).flatten().collect();
            let expected: Vec<u16> = (cut..PAGE_SPAN)
                .filter(|at| model[usize::from(*at)])
                .collect();
            assert_eq!(found, expected);
            assert!(
                set.ranges_in(0..PAGE_SPAN)
                    .is_sorted_by(|a, b| a.end < b.start)
            );
        }
    }
}
