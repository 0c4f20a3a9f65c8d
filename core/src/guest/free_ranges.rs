//! Free ranges of a disk as they are found: no more than there is memory for. When there are too
//! many, the short ones go on being in use.

use std::ops::Range;

/// Ranges that are remembered: 24 MiB of them. A disk of 1 TiB with as many has 1 MiB for each.
pub const FREE_RANGES_MAX: usize = 1 << 20;

/// Ranges, each with the number of the part of the disk that it was found in.
pub(super) struct FreeRanges {
    found: Vec<(Range<u64>, usize)>,
    count_max: usize,
    len_min: u64,
}

impl FreeRanges {
    /// Room for at most `count_max` ranges.
    pub(super) fn new(count_max: usize) -> Self {
        Self {
            found: Vec::new(),
            count_max: count_max.max(1),
            len_min: 1,
        }
    }

    /// Adds a range of part `part`. Parts come one after the other.
    pub(super) fn push_range(&mut self, range: Range<u64>, part: usize) {
        if let Some((last, own)) = self.found.last_mut()
            && last.end == range.start
            && *own == part
        {
            last.end = range.end;
            return;
        }
        if self
            .found
            .last()
            .is_some_and(|(last, _)| last.end - last.start < self.len_min)
        {
            self.found.pop();
        }
        while self.found.len() >= self.count_max {
            self.len_min *= 2;
            let len_min = self.len_min;
            self.found
                .retain(|(range, _)| range.end - range.start >= len_min);
        }
        if !range.is_empty() {
            self.found.push((range, part));
        }
    }

    /// Takes back what was added of `part`, the last one.
    pub(super) fn take_back(&mut self, part: usize) {
        while self.found.last().is_some_and(|(_, own)| *own == part) {
            self.found.pop();
        }
    }

    /// The bytes that each of `parts` parts has.
    pub(super) fn part_lens(&self, parts: usize) -> Vec<u64> {
        let mut lens = vec![0; parts];
        for (range, part) in &self.found {
            if let Some(len) = lens.get_mut(*part) {
                *len += range.end - range.start;
            }
        }
        lens
    }

    /// All of them in order. Panics if parts overlap.
    pub(super) fn into_ranges(self) -> Vec<Range<u64>> {
        let mut ranges: Vec<_> = self.found.into_iter().map(|(range, _)| range).collect();
        ranges.sort_unstable_by_key(|range| range.start);
        let mut joined: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match joined.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                last => {
                    assert!(
                        last.is_none_or(|last| last.end < range.start),
                        "parts of a disk do not overlap"
                    );
                    joined.push(range);
                }
            }
        }
        joined
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_there_are_too_many_the_short_ones_stay_in_use() {
        let mut ranges = FreeRanges::new(4);
        for (start, len) in [(0, 1), (10, 9), (30, 1), (40, 1), (50, 4), (60, 1), (70, 1)] {
            ranges.push_range(start..start + len, 0);
        }
        ranges.push_range(100..120, 1);
        ranges.push_range(120..130, 1);
        // From now on short ones are passed over at once, but for what goes on.
        (0..20).for_each(|nth| ranges.push_range(200 + 2 * nth..201 + 2 * nth, 1));
        ranges.push_range(300..303, 1);
        ranges.push_range(303..304, 1);
        assert_eq!(ranges.part_lens(2), [13, 34]);
        assert_eq!(ranges.into_ranges(), [10..19, 50..54, 100..130, 300..304]);
    }

    #[test]
    fn a_part_is_taken_back_whole() {
        let mut ranges = FreeRanges::new(9);
        ranges.push_range(0..1, 0);
        ranges.push_range(2..3, 0);
        ranges.push_range(3..4, 1);
        ranges.push_range(5..7, 1);
        ranges.take_back(1);
        ranges.take_back(1);
        assert_eq!(ranges.into_ranges(), [0..1, 2..3]);
    }
}
