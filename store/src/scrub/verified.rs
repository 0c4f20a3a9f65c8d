//! Times at which each range of chunk ids was last read whole: pure, and of bounded size.
//!
//! Ranges that lie beside each other and were read at about the same time are one, with the older
//! time; should there be too many all the same, those closest in time become one. So a time may be
//! older than the truth, never younger.

use std::ops::Range;

use vellum_core::units::ChunkId;
use vellum_core::wire::{DecodeError, WireReader, put_varint};

/// Ranges that are kept apart at most: some kilobytes.
const RANGES_MAX: usize = 512;
/// Neighbours that were read within so many seconds of each other are one.
const TOGETHER_S: u64 = 3600;

/// Times of reading, by ranges of chunk ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VerifiedRanges {
    /// In rising order, none empty, none over another.
    ranges: Vec<VerifiedRange>,
}

/// Ids that were read whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VerifiedRange {
    pub(crate) ids: Range<u64>,
    /// The time, in seconds since 1970: the oldest time of any of them.
    pub(crate) at_s: u64,
}

impl VerifiedRanges {
    /// Notes that all of `ids` was read whole at `at_s`, whatever was known of them.
    pub(crate) fn note_read(&mut self, ids: Range<u64>, at_s: u64) {
        if ids.is_empty() {
            return;
        }
        let mut ranges = Vec::with_capacity(self.ranges.len() + 2);
        for old in self.ranges.drain(..) {
            let before = old.ids.start..old.ids.end.min(ids.start);
            let after = old.ids.start.max(ids.end)..old.ids.end;
            for left in [before, after] {
                if !left.is_empty() {
                    ranges.push(VerifiedRange {
                        ids: left,
                        at_s: old.at_s,
                    });
                }
            }
        }
        ranges.push(VerifiedRange { ids, at_s });
        ranges.sort_by_key(|range| range.ids.start);
        self.ranges = ranges;
        self.join_ranges();
    }

    fn join_ranges(&mut self) {
        self.ranges.dedup_by(|next, last| {
            let is_one =
                last.ids.end == next.ids.start && last.at_s.abs_diff(next.at_s) <= TOGETHER_S;
            if is_one {
                last.absorb_range(next);
            }
            is_one
        });
        while self.ranges.len() > RANGES_MAX {
            self.join_closest();
        }
    }

    /// Makes one of two neighbours: of those that touch, the two closest in time; if none do, the
    /// one that was read first is forgotten.
    fn join_closest(&mut self) {
        let touching = self
            .ranges
            .windows(2)
            .enumerate()
            .filter(|(_, pair)| pair[0].ids.end == pair[1].ids.start);
        let closest = touching.min_by_key(|(_, pair)| pair[0].at_s.abs_diff(pair[1].at_s));
        if let Some((at, _)) = closest {
            let next = self.ranges.remove(at + 1);
            self.ranges[at].absorb_range(&next);
        } else {
            let oldest = self
                .ranges
                .iter()
                .enumerate()
                .min_by_key(|(_, range)| range.at_s);
            if let Some((at, _)) = oldest {
                self.ranges.remove(at);
            }
        }
    }

    /// The time when chunk `id` was last read whole.
    #[cfg(test)]
    pub(crate) fn read_at(&self, id: ChunkId) -> Option<u64> {
        let range = self.ranges.iter().find(|range| range.ids.contains(&id.0))?;
        Some(range.at_s)
    }

    /// The ranges, in rising order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &VerifiedRange> {
        self.ranges.iter()
    }

    /// The ids below `end` that were not read since `since_s`.
    pub(crate) fn overdue_ids(&self, since_s: u64, end: ChunkId) -> Vec<Range<u64>> {
        let (mut overdue, mut at) = (Vec::new(), 0);
        for range in self.ranges.iter().filter(|range| range.at_s >= since_s) {
            if at < range.ids.start.min(end.0) {
                overdue.push(at..range.ids.start.min(end.0));
            }
            at = range.ids.end;
        }
        if at < end.0 {
            overdue.push(at..end.0);
        }
        overdue
    }

    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        put_varint(bytes, self.ranges.len() as u64);
        let mut at = 0;
        for range in &self.ranges {
            put_varint(bytes, range.ids.start - at);
            put_varint(bytes, range.ids.end - range.ids.start);
            put_varint(bytes, range.at_s);
            at = range.ids.end;
        }
    }

    pub(super) fn decode(reader: &mut WireReader<'_>) -> Result<Self, DecodeError> {
        let count = reader.read_varint()?;
        if count > RANGES_MAX as u64 {
            return Err(DecodeError::Truncated);
        }
        let (mut ranges, mut at) = (Vec::new(), 0_u64);
        for _ in 0..count {
            let (gap, len, at_s) = (
                reader.read_varint()?,
                reader.read_varint()?,
                reader.read_varint()?,
            );
            let start = at.checked_add(gap).ok_or(DecodeError::Truncated)?;
            let end = start.checked_add(len).ok_or(DecodeError::Truncated)?;
            if len > 0 {
                ranges.push(VerifiedRange {
                    ids: start..end,
                    at_s,
                });
            }
            at = end;
        }
        Ok(Self { ranges })
    }
}

impl VerifiedRange {
    fn absorb_range(&mut self, next: &Self) {
        self.ids.end = next.ids.end;
        self.at_s = self.at_s.min(next.at_s);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn times_are_never_younger_than_the_truth() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..200 {
            let (mut verified, mut truth) = (VerifiedRanges::default(), BTreeMap::new());
            for step in 0..40 {
                let start = random.u64(..100);
                let ids = start..start + random.u64(..30);
                let at_s = step * random.u64(1..3 * TOGETHER_S);
                verified.note_read(ids.clone(), at_s);
                ids.for_each(|id| _ = truth.insert(id, at_s));
                for id in 0..140 {
                    let (known, true_s) = (verified.read_at(ChunkId(id)), truth.get(&id));
                    assert_eq!(known.is_some(), true_s.is_some(), "{id} after {step}");
                    assert!(known <= true_s.copied(), "{id} after {step}");
                }
            }
            let mut bytes = Vec::new();
            verified.encode(&mut bytes);
            let decoded = VerifiedRanges::decode(&mut WireReader::new(&bytes)).expect("whole");
            assert_eq!(decoded, verified);
        }
    }

    #[test]
    fn there_are_never_many_ranges() {
        let mut verified = VerifiedRanges::default();
        for nth in 0..RANGES_MAX as u64 * 3 {
            verified.note_read(nth * 10..nth * 10 + 10, nth * TOGETHER_S * 2);
        }
        assert_eq!(verified.ranges.len(), RANGES_MAX);
        let end = RANGES_MAX as u64 * 30;
        let covered: u64 = verified
            .iter()
            .map(|range| range.ids.end - range.ids.start)
            .sum();
        assert_eq!(covered, end, "neighbours become one, none is forgotten");
        for nth in 0..RANGES_MAX as u64 * 3 {
            let at = end + nth * 20;
            verified.note_read(at..at + 10, u64::MAX - nth * TOGETHER_S * 2);
        }
        assert_eq!(verified.ranges.len(), RANGES_MAX);
    }

    #[test]
    fn what_was_not_read_since_is_overdue() {
        let mut verified = VerifiedRanges::default();
        verified.note_read(10..20, 50_000);
        verified.note_read(20..30, 90_000);
        for (since, end, expected) in [
            (0, 30, &[(0, 10)][..]),
            (60_000, 30, &[(0, 20)]),
            (60_000, 40, &[(0, 20), (30, 40)]),
            (100_000, 25, &[(0, 25)]),
            (0, 5, &[(0, 5)]),
            (0, 0, &[]),
        ] {
            let overdue: Vec<_> = verified
                .overdue_ids(since, ChunkId(end))
                .into_iter()
                .map(|range| (range.start, range.end))
                .collect();
            assert_eq!(overdue, expected, "{since} {end}");
        }
    }
}
