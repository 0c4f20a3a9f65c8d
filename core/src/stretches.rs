//! A list of consecutive stretches of bytes, each of one kind: neighbours of a kind are joined, and
//! the number of stretches is bounded.

use std::ops::Range;

use crate::device::TypedRange;

/// Stretches without a gap between them. Full once one more would be too many; what comes then is
/// left out.
pub struct RangeCollector<K> {
    found: Vec<TypedRange<K>>,
    count_max: usize,
    is_full: bool,
}

impl<K: Copy + PartialEq> RangeCollector<K> {
    /// An empty list for at most `count_max` stretches (at least one).
    #[must_use]
    pub fn new(count_max: usize) -> Self {
        Self {
            found: Vec::new(),
            count_max: count_max.max(1),
            is_full: false,
        }
    }

    /// Adds what comes next. Panics if there is a gap before it.
    pub fn push_range(&mut self, range: Range<u64>, kind: K) {
        if self.is_full || range.is_empty() {
            return;
        }
        let len = range.end - range.start;
        match self.found.last_mut() {
            Some(last) => {
                assert_eq!(
                    last.offset + last.len,
                    range.start,
                    "stretches come in order, without a gap"
                );
                if last.kind == kind {
                    last.len += len;
                } else if self.found.len() < self.count_max {
                    self.found.push(TypedRange {
                        offset: range.start,
                        len,
                        kind,
                    });
                } else {
                    self.is_full = true;
                }
            }
            None => self.found.push(TypedRange {
                offset: range.start,
                len,
                kind,
            }),
        }
    }

    /// True if nothing more is wanted.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// All of them, in order.
    #[must_use]
    pub fn into_ranges(self) -> Vec<TypedRange<K>> {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_alike_is_joined_and_what_is_too_much_left_out() {
        let mut all = RangeCollector::new(2);
        for (range, kind) in [
            (3..5, 'a'),
            (5..5, 'b'),
            (5..6, 'a'),
            (6..9, 'b'),
            (9..10, 'b'),
        ] {
            all.push_range(range, kind);
            assert!(!all.is_full());
        }
        all.push_range(10..11, 'a');
        assert!(all.is_full());
        all.push_range(11..12, 'b');
        let found: Vec<_> = all
            .into_ranges()
            .into_iter()
            .map(|part| (part.offset, part.len, part.kind))
            .collect();
        assert_eq!(found, [(3, 3, 'a'), (6, 4, 'b')]);
    }
}
