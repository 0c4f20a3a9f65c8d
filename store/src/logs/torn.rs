//! Detects whether a database's log ends in a write that a loss of power tore: pure, over the log's
//! bytes.
//!
//! A logged batch is one record of the log, and the next one is not begun before it is synced. So
//! at most one record was under way when power went, the last, and it was not acknowledged. Its
//! sectors may have come to the disk in any order, with others still missing: then it reads as
//! damaged, and is not. The sign that tells it from damage: *no record begins after it*. Had an
//! acknowledged record been damaged, the records after it would still be there. The exception is
//! damage to the very last record, or damage that took the beginning of the last along: that cannot
//! be told apart, just as a log that was cut at its end cannot (`folder`'s witness tells it,
//! mostly).

use super::{BLOCK_LEN, HEADER_LEN, in_block, parse_fragment};

const WHOLE: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;

/// State of a log from its first fragment on that is not sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogEnd {
    /// Every fragment is sound.
    Sound,
    /// The unsound fragment belongs to the last record, which begins at this byte.
    Torn(usize),
    /// Another record begins after the unsound fragment.
    Damaged,
}

/// Finds the state of the end of `log`. Takes longer the more bytes follow the fragment that is not
/// sound: a record may begin at every one of them.
pub(super) fn end_of(log: &[u8]) -> LogEnd {
    let (mut at, mut record) = (0, 0);
    while at < log.len() {
        match parse_fragment(log, at) {
            Some((FIRST, end)) => (record, at) = (at, end),
            Some((MIDDLE, end)) => at = end,
            Some((_, end)) => (record, at) = (end, end),
            None if in_block(at) > BLOCK_LEN - HEADER_LEN => {
                let next = at - in_block(at) + BLOCK_LEN;
                (record, at) = (if record == at { next } else { record }, next);
            }
            None if begins_after(log, at) => return LogEnd::Damaged,
            None => return LogEnd::Torn(record),
        }
    }
    LogEnd::Sound
}

fn begins_after(log: &[u8], at: usize) -> bool {
    let begins = |at: usize| matches!(parse_fragment(log, at), Some((WHOLE | FIRST, _)));
    (at + 1..log.len()).any(begins)
}

#[cfg(test)]
mod tests {
    use super::super::fragment_checksum;
    use super::*;

    fn next_block(at: usize) -> usize {
        at - in_block(at) + BLOCK_LEN
    }

    /// A log of records of these lengths, and where each ends.
    fn log(lens: &[usize]) -> (Vec<u8>, Vec<usize>) {
        let (mut log, mut ends) = (Vec::new(), Vec::new());
        for (nth, len) in lens.iter().enumerate() {
            let mut record = vec![0; *len];
            fastrand::Rng::with_seed(nth as u64).fill(&mut record);
            let mut rest = record.as_slice();
            let mut is_first = true;
            loop {
                if in_block(log.len()) > BLOCK_LEN - HEADER_LEN {
                    log.resize(next_block(log.len()), 0);
                }
                let (part, after) =
                    rest.split_at(rest.len().min(BLOCK_LEN - HEADER_LEN - in_block(log.len())));
                let kind = match (is_first, after.is_empty()) {
                    (true, true) => WHOLE,
                    (true, false) => FIRST,
                    (false, false) => MIDDLE,
                    (false, true) => 4,
                };
                let checked = [&[kind], part].concat();
                log.extend(fragment_checksum(&checked).to_le_bytes());
                log.extend((part.len() as u16).to_le_bytes());
                log.extend(checked);
                (rest, is_first) = (after, false);
                if rest.is_empty() {
                    break;
                }
            }
            ends.push(log.len());
        }
        (log, ends)
    }

    #[test]
    fn only_the_last_record_can_be_torn_whatever_is_missing_of_it() {
        let (sound, ends) = log(&[100, 40_000, 3000, 0, 32_700, 70_000]);
        assert_eq!(end_of(&sound), LogEnd::Sound);
        let last = ends[ends.len() - 2];
        // Every fifth sector, and that in which the last record begins.
        for missing in (0..sound.len()).step_by(5 * 512).chain([last / 512 * 512]) {
            let mut log = sound.clone();
            let end = log.len().min(missing + 512);
            log[missing..end].fill(0);
            let expected = match missing {
                _ if missing >= last => LogEnd::Torn(last),
                // Damage that takes the end of one record and the beginning of the last cannot be
                // told from a torn write.
                _ if missing + 512 > last => LogEnd::Torn(ends[ends.len() - 3]),
                _ => LogEnd::Damaged,
            };
            assert_eq!(
                end_of(&log),
                expected,
                "without the sector at {missing}; the last record begins at {last}"
            );
        }
        for (flipped, expected) in [
            (ends[0] + 9, LogEnd::Damaged),
            (last - 1, LogEnd::Damaged),
            (last + 1, LogEnd::Torn(last)),
        ] {
            let mut log = sound.clone();
            log[flipped] ^= 4;
            assert_eq!(end_of(&log), expected, "flipped at {flipped}");
        }
    }

    #[test]
    fn any_bytes_have_an_end() {
        let mut random = fastrand::Rng::with_seed(3);
        for len in [0, 1, 6, 7, 8, BLOCK_LEN - 1, BLOCK_LEN, BLOCK_LEN + 5] {
            let mut bytes = vec![0; len];
            assert_eq!(
                end_of(&bytes),
                if len == 0 {
                    LogEnd::Sound
                } else {
                    LogEnd::Torn(0)
                },
                "{len} zeros"
            );
            random.fill(&mut bytes);
            assert_ne!(end_of(&bytes), LogEnd::Damaged, "{len} of noise");
        }
    }
}
