//! Frames of solid blocks that are read again and again: each time a whole block is decoded for
//! one of them. Background maintenance makes frames of their own of them again.
//!
//! Counted are reads that find a frame neither in memory nor on its way there, so what is read from
//! the front to the back does not count. Counts are of this process, and fade as others come.

use std::collections::HashMap;
use std::sync::Mutex;

use vellum_core::units::ChunkId;

use super::sync::lock_unpoisoned;

/// Reads that make a frame warm.
const READS_MIN: u32 = 4;
/// Frames that are counted at most: some MiB.
const COUNTED_MAX: usize = 1 << 16;

/// Counts of reads, by first chunk.
#[derive(Default)]
pub(super) struct WarmFrames(Mutex<WarmState>);

#[derive(Default)]
struct WarmState {
    reads: HashMap<ChunkId, u32>,
    due: Vec<ChunkId>,
}

impl WarmFrames {
    /// Counts a read of the frame that begins with `first`.
    pub(super) fn note_read(&self, first: ChunkId) {
        let state = &mut *lock_unpoisoned(&self.0);
        if state.reads.len() >= COUNTED_MAX {
            state.reads.retain(|_, count| {
                *count /= 2;
                *count > 0
            });
        }
        let count = state.reads.entry(first).or_default();
        *count += 1;
        if *count == READS_MIN {
            state.due.push(first);
        }
    }

    /// Up to `max` frames that are warm, which are not counted any more; and whether there are
    /// others.
    pub(super) fn take_due(&self, max: usize) -> (Vec<ChunkId>, bool) {
        let state = &mut *lock_unpoisoned(&self.0);
        let left = state.due.split_off(max.min(state.due.len()));
        let due = std::mem::replace(&mut state.due, left);
        for first in &due {
            state.reads.remove(first);
        }
        (due, !state.due.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_due_once_and_counts_fade() {
        let warm = WarmFrames::default();
        let read = |id: u64, times: u32| (0..times).for_each(|_| warm.note_read(ChunkId(id)));
        read(1, READS_MIN - 1);
        assert_eq!(warm.take_due(9), (Vec::new(), false));
        read(1, 5);
        read(2, READS_MIN);
        assert_eq!(warm.take_due(1), (vec![ChunkId(1)], true));
        assert_eq!(warm.take_due(1), (vec![ChunkId(2)], false));
        read(3, READS_MIN - 1);
        (10..10 + COUNTED_MAX as u64).for_each(|id| read(id, 1));
        read(3, 1);
        assert_eq!(warm.take_due(9), (Vec::new(), false), "it was long ago");
    }
}
