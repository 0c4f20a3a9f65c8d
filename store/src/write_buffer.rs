//! Write buffer of a disk: changes that wait in memory, as whole chunks and ranges that become
//! zero.
//!
//! It knows positions and bytes, nothing of layers or of the chunk store.

use std::collections::BTreeMap;
use std::ops::Range;

/// Memory that a range of zeros is counted at, in bytes, so that many small ones do not grow
/// without bound.
const ZERO_RANGE_LEN: usize = 64;

/// Changes that wait. No position is in both maps; zero ranges do not touch.
#[derive(Clone, Default)]
pub(crate) struct WriteBuffer {
    data: BTreeMap<u64, Box<[u8]>>,
    data_len: usize,
    /// Start to end.
    zeros: BTreeMap<u64, u64>,
}

/// Change that waits for consecutive positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PendingChange<'c> {
    /// No change: the disk has the answer.
    Absent,
    /// They become zero.
    Zero,
    /// One chunk gets these bytes.
    Data(&'c [u8]),
}

impl WriteBuffer {
    /// True if no change waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.data.is_empty() && self.zeros.is_empty()
    }

    /// The bytes of memory that it takes, about.
    pub(crate) fn memory_len(&self) -> usize {
        self.data_len + self.zeros.len() * ZERO_RANGE_LEN
    }

    /// The chunks that wait, in order.
    pub(crate) fn pending_chunks(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.data
            .iter()
            .map(|(position, plain)| (*position, &**plain))
    }

    /// The ranges that become zero, in order.
    pub(crate) fn zero_ranges(&self) -> impl Iterator<Item = Range<u64>> {
        self.zeros.iter().map(|(start, end)| *start..*end)
    }

    /// Gives the chunk at `position` other bytes.
    pub(crate) fn put_chunk(&mut self, position: u64, plain: Box<[u8]>) {
        self.take_zeros(&(position..position + 1));
        self.data_len += plain.len();
        if let Some(old) = self.data.insert(position, plain) {
            self.data_len -= old.len();
        }
    }

    /// The bytes that wait for `position`, to be changed in place.
    pub(crate) fn data_mut(&mut self, position: u64) -> Option<&mut [u8]> {
        self.data.get_mut(&position).map(|plain| &mut **plain)
    }

    /// The change that waits for one position.
    pub(crate) fn pending_change(&self, position: u64) -> PendingChange<'_> {
        if let Some(plain) = self.data.get(&position) {
            return PendingChange::Data(plain);
        }
        let zeros = self.zeros.range(..=position).next_back();
        if zeros.is_some_and(|(_, end)| position < *end) {
            PendingChange::Zero
        } else {
            PendingChange::Absent
        }
    }

    /// Adds everything that `newer` says.
    pub(crate) fn apply_newer(&mut self, newer: Self) {
        newer
            .zeros
            .into_iter()
            .for_each(|(start, end)| self.zero_range(start..end));
        newer
            .data
            .into_iter()
            .for_each(|(position, plain)| self.put_chunk(position, plain));
    }

    /// Makes `range` zero. Cost: what waits for that range already.
    pub(crate) fn zero_range(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let covered: Vec<u64> = self
            .data
            .range(range.clone())
            .map(|(position, _)| *position)
            .collect();
        for position in covered {
            self.data_len -= self.data.remove(&position).map_or(0, |plain| plain.len());
        }
        let mut merged = range;
        while let Some((start, end)) = self
            .zeros
            .range(..=merged.end)
            .next_back()
            .map(|(start, end)| (*start, *end))
        {
            if end < merged.start {
                break;
            }
            self.zeros.remove(&start);
            merged = merged.start.min(start)..merged.end.max(end);
        }
        self.zeros.insert(merged.start, merged.end);
    }

    /// Forgets zeros inside `range`.
    fn take_zeros(&mut self, range: &Range<u64>) {
        while let Some((start, end)) = self
            .zeros
            .range(..range.end)
            .next_back()
            .map(|(start, end)| (*start, *end))
        {
            if end <= range.start {
                break;
            }
            self.zeros.remove(&start);
            if range.end < end {
                self.zeros.insert(range.end, end);
            }
            if start < range.start {
                self.zeros.insert(start, range.start);
            }
        }
    }

    /// The changes that wait for the positions of `range`, in order and gap-free.
    pub(crate) fn changes_in(&self, range: Range<u64>) -> Vec<(Range<u64>, PendingChange<'_>)> {
        let data = self
            .data
            .range(range.clone())
            .map(|(position, plain)| (*position..*position + 1, PendingChange::Data(plain)));
        let before = self.zeros.range(..range.start).next_back();
        let zeros = before.into_iter().chain(self.zeros.range(range.clone()));
        let zeros = zeros.map(|(start, end)| {
            (
                (*start).max(range.start)..(*end).min(range.end),
                PendingChange::Zero,
            )
        });
        let mut changed: Vec<_> = zeros
            .filter(|(part, _)| !part.is_empty())
            .chain(data)
            .collect();
        changed.sort_unstable_by_key(|(part, _)| part.start);
        let (mut pieces, mut next) = (Vec::with_capacity(2 * changed.len() + 1), range.start);
        for (part, change) in changed {
            pieces.push((next..part.start, PendingChange::Absent));
            next = part.end;
            pieces.push((part, change));
        }
        pieces.push((next..range.end, PendingChange::Absent));
        pieces.retain(|(part, _)| !part.is_empty());
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: u64 = 40;

    fn check(changes: &WriteBuffer, model: &[Option<u8>]) {
        let mut seen = Vec::new();
        for (range, change) in changes.changes_in(0..SPAN) {
            assert_eq!(range.start, seen.len() as u64, "gap-free");
            seen.extend(range.map(|_| match change {
                PendingChange::Absent => None,
                PendingChange::Zero => Some(0),
                PendingChange::Data(plain) => Some(plain[0]),
            }));
        }
        assert_eq!(seen, model);
        for (at, byte) in (0..).zip(model) {
            let found = match changes.pending_change(at) {
                PendingChange::Absent => None,
                PendingChange::Zero => Some(0),
                PendingChange::Data(plain) => Some(plain[0]),
            };
            assert_eq!(found, *byte, "{at}");
        }
        let chunks = model
            .iter()
            .filter(|byte| byte.is_some_and(|byte| byte > 0))
            .count();
        let zeros: u64 = changes
            .zero_ranges()
            .map(|range| range.end - range.start)
            .sum();
        assert_eq!(
            zeros,
            model.iter().filter(|byte| **byte == Some(0)).count() as u64
        );
        assert_eq!(
            changes.memory_len(),
            chunks * 8 + changes.zero_ranges().count() * ZERO_RANGE_LEN
        );
    }

    /// Random changes, done to `changes` and to its model.
    fn change(random: &mut fastrand::Rng, changes: &mut WriteBuffer, model: &mut [Option<u8>]) {
        let start = random.u64(..SPAN);
        if random.bool() {
            let end = random.u64(start..=SPAN.min(start + 8));
            changes.zero_range(start..end);
            (start..end).for_each(|at| model[at as usize] = Some(0));
        } else {
            let byte = random.u8(1..);
            changes.put_chunk(start, Box::new([byte; 8]));
            model[start as usize] = Some(byte);
        }
    }

    #[test]
    fn newer_changes_hide_older_ones() {
        let mut random = fastrand::Rng::with_seed(12);
        for _ in 0..200 {
            let (mut older, mut newer) = (
                (WriteBuffer::default(), vec![None; SPAN as usize]),
                (WriteBuffer::default(), vec![None; SPAN as usize]),
            );
            for _ in 0..random.u8(..20) {
                change(&mut random, &mut older.0, &mut older.1);
                change(&mut random, &mut newer.0, &mut newer.1);
            }
            older.0.apply_newer(newer.0);
            let model: Vec<_> = newer
                .1
                .iter()
                .zip(&older.1)
                .map(|(newer, older)| newer.or(*older))
                .collect();
            check(&older.0, &model);
        }
    }

    #[test]
    fn random_changes_agree_with_an_array() {
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..50 {
            let (mut changes, mut model) = (WriteBuffer::default(), vec![None; SPAN as usize]);
            for _ in 0..60 {
                change(&mut random, &mut changes, &mut model);
                check(&changes, &model);
            }
        }
    }
}
