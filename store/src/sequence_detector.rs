//! Detects sequential reads of a disk, for read-ahead.

use std::ops::Range;
use std::sync::{Mutex, TryLockError};

/// Reads in a row after which the next one is expected: one may be chance.
const READS_MIN: u32 = 2;
/// Length of read-ahead, in bytes: eight frames at the default length, some milliseconds of
/// decoding.
const AHEAD_LEN: u64 = 1 << 20;

/// State of the last reads.
#[derive(Default)]
pub(crate) struct SequenceDetector(Mutex<SequenceState>);

#[derive(Default)]
struct SequenceState {
    /// The end of the last read.
    end: u64,
    /// The number of reads that went on where the one before ended.
    count: u32,
    /// The end of the read-ahead that was asked for.
    asked_end: u64,
}

impl SequenceDetector {
    /// Notes a read of `range` on a disk of `len` bytes; what should be made ready now. Readers
    /// that meet here pass by: it is a guess.
    pub(crate) fn note_read(&self, range: Range<u64>, len: u64) -> Option<Range<u64>> {
        match self.0.try_lock() {
            Ok(mut state) => state.note_read(range, len),
            Err(TryLockError::Poisoned(state)) => state.into_inner().note_read(range, len),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl SequenceState {
    fn note_read(&mut self, range: Range<u64>, len: u64) -> Option<Range<u64>> {
        let goes_on = range.start == self.end && !range.is_empty();
        self.count = if goes_on {
            self.count.saturating_add(1)
        } else {
            0
        };
        if !goes_on {
            self.asked_end = 0;
        }
        self.end = range.end;
        // Asked for in halves, so that it is not done for every read.
        if self.count < READS_MIN || self.asked_end > range.end + AHEAD_LEN / 2 {
            return None;
        }
        let ahead = self.asked_end.max(range.end)..(range.end + AHEAD_LEN).min(len);
        self.asked_end = ahead.end.max(range.end);
        (!ahead.is_empty()).then_some(ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_next_is_asked_for_once_and_only_in_a_row() {
        let (sequence, len) = (SequenceDetector::default(), 4 << 20);
        let (mut asked, mut end) = (0, 4 * 4096);
        for start in (4096..len).step_by(4096) {
            let Some(ahead) = sequence.note_read(start..start + 4096, len) else {
                continue;
            };
            assert!(
                ahead.start == end && ahead.end <= len && ahead.start > start,
                "{ahead:?} at {start}"
            );
            (asked, end) = (asked + 1, ahead.end);
        }
        assert!(
            (4..10).contains(&asked) && end == len,
            "{asked} times, up to {end}"
        );
        for start in [0, 1 << 20, 5 << 19, 0] {
            assert_eq!(sequence.note_read(start..start + 4096, len), None, "a jump");
        }
    }
}
