//! Finds the beginning of the writes in a log that were not acknowledged: pure, over the log's
//! bytes.
//!
//! ```text
//! A record is a batch of writes. Whole, or put together from its parts, it begins with:
//!
//! offset  size  meaning
//! 0       8     sequence number of its first write (LE); they rise from record to record
//! 8       4     how many writes it holds (LE)
//! ```
//!
//! Source: RocksDB's `db/write_batch.cc`.

use super::{BLOCK_LEN, HEADER_LEN, in_block, parse_fragment};

const WHOLE: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;
const SEQUENCE_LEN: usize = 8;

/// Offset of the first record of `log` whose sequence number is above `acknowledged`. A fragment
/// that is not sound ends the search: nothing behind it counts.
pub(super) fn begins_at(log: &[u8], acknowledged: u64) -> Option<usize> {
    let (mut at, mut begin, mut sequence) = (0, 0, Vec::new());
    while at < log.len() {
        let Some((kind, end)) = parse_fragment(log, at) else {
            if in_block(at) > BLOCK_LEN - HEADER_LEN {
                at += BLOCK_LEN - in_block(at);
                continue;
            }
            return None;
        };
        if matches!(kind, WHOLE | FIRST) {
            (begin, sequence) = (at, Vec::new());
        }
        if matches!(kind, WHOLE | FIRST | MIDDLE | LAST) && sequence.len() < SEQUENCE_LEN {
            let missing = SEQUENCE_LEN - sequence.len();
            sequence.extend(log[at + HEADER_LEN..end].iter().take(missing));
            if let Ok(bytes) = <[u8; SEQUENCE_LEN]>::try_from(&*sequence)
                && u64::from_le_bytes(bytes) > acknowledged
            {
                return Some(begin);
            }
        }
        at = end;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::fragment_checksum;
    use super::*;

    /// A log of batches that begin with these sequence numbers and are so long; where each begins.
    fn log(batches: &[(u64, usize)]) -> (Vec<u8>, Vec<usize>) {
        let (mut log, mut begins) = (Vec::new(), Vec::new());
        for (sequence, len) in batches {
            let mut batch = sequence.to_le_bytes().to_vec();
            batch.resize(*len, 7);
            let (mut rest, mut is_first) = (batch.as_slice(), true);
            while !rest.is_empty() {
                if in_block(log.len()) > BLOCK_LEN - HEADER_LEN {
                    log.resize(log.len() + BLOCK_LEN - in_block(log.len()), 0);
                }
                if is_first {
                    begins.push(log.len());
                }
                let room = BLOCK_LEN - HEADER_LEN - in_block(log.len());
                let (part, after) = rest.split_at(rest.len().min(room));
                let kind = match (is_first, after.is_empty()) {
                    (true, true) => WHOLE,
                    (true, false) => FIRST,
                    (false, false) => MIDDLE,
                    (false, true) => LAST,
                };
                let checked = [&[kind], part].concat();
                log.extend(fragment_checksum(&checked).to_le_bytes());
                log.extend((part.len() as u16).to_le_bytes());
                log.extend(checked);
                (rest, is_first) = (after, false);
            }
        }
        (log, begins)
    }

    #[test]
    fn what_was_not_acknowledged_is_found_wherever_it_lies_in_its_blocks() {
        for second_len in (12..300).chain([BLOCK_LEN - 40, BLOCK_LEN, 3 * BLOCK_LEN]) {
            // The third begins at any distance from a block's end, also where its number is parted.
            let (log, begins) = log(&[(5, BLOCK_LEN - 200), (9, second_len), (30, 100)]);
            assert_eq!(begins_at(&log, 30), None, "{second_len}");
            assert_eq!(begins_at(&log, 29), Some(begins[2]), "{second_len}");
            assert_eq!(begins_at(&log, 9), Some(begins[2]), "{second_len}");
            assert_eq!(begins_at(&log, 8), Some(begins[1]), "{second_len}");
            assert_eq!(begins_at(&log, 0), Some(0), "{second_len}");
            assert_eq!(
                begins_at(&log[..begins[2] + 3], 9),
                None,
                "torn before its number"
            );
        }
    }
}
