//! A set of chunk ids in memory proportional to the ids' range, not their number: one bit each, in
//! segments that exist only where a bit is set. One TiB of 4 KiB chunks takes 32 MiB.

use std::collections::BTreeMap;

use crate::units::ChunkId;

/// Ids per segment: 8 KiB of bits.
const SEGMENT_IDS: u64 = 1 << 16;
const WORDS: usize = (SEGMENT_IDS / 64) as usize;

/// A set of chunk ids.
#[derive(Clone, Default)]
pub struct IdSet {
    segments: BTreeMap<u64, Box<[u64; WORDS]>>,
}

impl IdSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// True if `id` is in the set.
    #[must_use]
    pub fn contains(&self, id: ChunkId) -> bool {
        let (segment, word, bit) = bit_position(id);
        self.segments
            .get(&segment)
            .is_some_and(|words| words[word] >> bit & 1 == 1)
    }

    /// The first id of the set that is not below `from`. Cost: the words in between that exist.
    #[must_use]
    pub fn next_from(&self, from: ChunkId) -> Option<ChunkId> {
        let (start, _, _) = bit_position(from);
        self.segments.range(start..).find_map(|(segment, words)| {
            let base = segment * SEGMENT_IDS;
            let skipped = from.0.saturating_sub(base);
            let first = (skipped / 64) as usize;
            let masked = |at: usize| {
                if at == first {
                    words[at] & (u64::MAX << (skipped % 64))
                } else {
                    words[at]
                }
            };
            let at = (first..WORDS).find(|at| masked(*at) != 0)?;
            Some(ChunkId(
                base + at as u64 * 64 + u64::from(masked(at).trailing_zeros()),
            ))
        })
    }

    /// Puts `id` into the set.
    pub fn insert(&mut self, id: ChunkId) {
        self.insert_run(id, 1);
    }

    /// Puts `count` ids from `first` into the set, a word at a time.
    pub fn insert_run(&mut self, first: ChunkId, count: u64) {
        let (mut at, end) = (first.0, first.0 + count);
        while at < end {
            let (segment, word, bit) = bit_position(ChunkId(at));
            let taken = (64 - u64::from(bit)).min(end - at);
            let mask = (u64::MAX >> (64 - taken)) << bit;
            self.segments
                .entry(segment)
                .or_insert_with(|| Box::new([0; WORDS]))[word] |= mask;
            at += taken;
        }
    }

    /// Takes `id` out of the set; whether it was there.
    pub fn remove(&mut self, id: ChunkId) -> bool {
        let (segment, word, bit) = bit_position(id);
        let Some(words) = self.segments.get_mut(&segment) else {
            return false;
        };
        let was_there = words[word] >> bit & 1 == 1;
        words[word] &= !(1 << bit);
        if was_there && words.iter().all(|word| *word == 0) {
            self.segments.remove(&segment);
        }
        was_there
    }

    /// The ids as runs of consecutive ones, in order.
    pub fn id_runs(&self) -> impl Iterator<Item = (ChunkId, u64)> + '_ {
        let mut next = self.next_from(ChunkId(0));
        std::iter::from_fn(move || {
            let first = next?;
            let mut end = first.advance_by(1);
            while self.contains(end) {
                end = end.advance_by(1);
            }
            next = self.next_from(end);
            Some((first, end.0 - first.0))
        })
    }

    /// True if it holds one of the `count` ids from `first` on.
    #[must_use]
    pub fn contains_any(&self, first: ChunkId, count: u64) -> bool {
        self.next_from(first)
            .is_some_and(|found| found.0 - first.0 < count)
    }

    /// Puts every id of `other` into this set.
    pub fn union_with(&mut self, other: &Self) {
        for (segment, words) in &other.segments {
            let own = self
                .segments
                .entry(*segment)
                .or_insert_with(|| Box::new([0; WORDS]));
            own.iter_mut()
                .zip(words.iter())
                .for_each(|(own, other)| *own |= other);
        }
    }

    /// The number of ids that it holds. Cost: its memory.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.segments
            .values()
            .flat_map(|words| words.iter())
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }

    /// True if it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn bit_position(id: ChunkId) -> (u64, usize, u32) {
    let within = id.0 % SEGMENT_IDS;
    (
        id.0 / SEGMENT_IDS,
        (within / 64) as usize,
        (within % 64) as u32,
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn random_runs_agree_with_a_plain_set() {
        let mut random = fastrand::Rng::with_seed(5);
        let (mut set, mut model) = (IdSet::new(), BTreeSet::new());
        for _ in 0..200 {
            let (first, count) = (random.u64(..300_000), random.u64(..200));
            set.insert_run(ChunkId(first), count);
            model.extend(first..first + count);
        }
        for id in (0..301_000).step_by(3) {
            assert_eq!(set.remove(ChunkId(id)), model.remove(&id), "{id}");
        }
        assert_eq!(set.len(), model.len() as u64);
        let runs: u64 = set.id_runs().map(|(_, count)| count).sum();
        assert_eq!(runs, model.len() as u64);
        assert!(set.id_runs().all(|(first, count)| {
            !model.contains(&(first.0 + count))
                && (0..count).all(|nth| model.contains(&(first.0 + nth)))
        }));
        for from in (0..301_000).step_by(11) {
            let meets = model.range(from..from + 5).next().is_some();
            assert_eq!(set.contains_any(ChunkId(from), 5), meets, "{from}");
        }
        assert!((0..301_000).all(|id| set.contains(ChunkId(id)) == model.contains(&id)));
        for from in (0..301_000).step_by(7) {
            assert_eq!(
                set.next_from(ChunkId(from)),
                model.range(from..).next().copied().map(ChunkId),
                "from {from}"
            );
        }
    }
}
