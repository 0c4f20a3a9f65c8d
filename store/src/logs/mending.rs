//! Reads the records of a damaged log, with one flipped bit in each put right, and those that
//! follow a record that cannot be read; builds the bytes of new records. Pure.
//!
//! A CRC tells by its error which single bit flipped: no other bit of up to 32 KiB gives the same.

use super::{BLOCK_LEN, CHECKSUM_SHIFT, HEADER_LEN, fragment_checksum, in_block, parse_fragment};

const WHOLE: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;
/// CRC-32C's polynomial, lowest bit first.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Content of a log.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct LogContent {
    /// The log's bytes, with flipped bits put right.
    pub(crate) bytes: Vec<u8>,
    pub(crate) mended_bits: usize,
    /// The records from the beginning up to the first that cannot be read.
    pub(crate) records: Vec<Vec<u8>>,
    /// The end of the last of them, in bytes.
    pub(crate) whole_len: usize,
    /// True if anything but padding follows them.
    pub(crate) is_cut: bool,
    /// Records after what cannot be read.
    pub(crate) later: Vec<Vec<u8>>,
}

/// Reads all of a log. It takes the longer the more of it is damaged.
pub(crate) fn read_log(bytes: Vec<u8>) -> LogContent {
    let mut content = LogContent {
        bytes,
        ..LogContent::default()
    };
    let mut walk = LogWalk::default();
    while walk.at < content.bytes.len() {
        match walk.take_step(&mut content) {
            LogStep::Record(record) => {
                content.whole_len = walk.at;
                content.records.push(record);
            }
            LogStep::Part => {}
            LogStep::Stuck => break,
        }
    }
    // Zeros at the end are room that was allocated, not a record.
    let rest = &content.bytes[content.whole_len..];
    content.is_cut = rest.iter().any(|byte| *byte != 0) && !is_padding(content.whole_len, rest);
    if content.is_cut {
        content.later = find_later_records(&content.bytes, walk.at);
    }
    content
}

/// True if `rest`, which begins at `at`, is the unused end of a block.
fn is_padding(at: usize, rest: &[u8]) -> bool {
    rest.is_empty() || in_block(at) > BLOCK_LEN - HEADER_LEN && rest.len() < HEADER_LEN
}

enum LogStep {
    Record(Vec<u8>),
    Part,
    Stuck,
}

/// The way through a log.
#[derive(Default)]
struct LogWalk {
    at: usize,
    /// The parts so far of the record that is under way.
    open: Option<Vec<u8>>,
}

impl LogWalk {
    fn take_step(&mut self, content: &mut LogContent) -> LogStep {
        if in_block(self.at) > BLOCK_LEN - HEADER_LEN {
            self.at += BLOCK_LEN - in_block(self.at);
            return LogStep::Part;
        }
        let found = parse_fragment(&content.bytes, self.at).or_else(|| {
            let mended = mend_fragment(&mut content.bytes, self.at)?;
            content.mended_bits += 1;
            Some(mended)
        });
        let Some((kind, end)) = found else {
            return LogStep::Stuck;
        };
        let payload = &content.bytes[self.at + HEADER_LEN..end];
        let record = match (kind, self.open.take()) {
            (WHOLE, None) => Some(payload.to_vec()),
            (FIRST, None) => {
                self.open = Some(payload.to_vec());
                None
            }
            (MIDDLE, Some(open)) => {
                self.open = Some([&open, payload].concat());
                None
            }
            (LAST, Some(open)) => Some([&open, payload].concat()),
            (WHOLE..=LAST, _) => return LogStep::Stuck,
            // RocksDB's own records about its log, not writes.
            (_, open) => {
                self.open = open;
                None
            }
        };
        self.at = end;
        record.map_or(LogStep::Part, LogStep::Record)
    }
}

/// The records that begin after `at`, wherever one does.
fn find_later_records(bytes: &[u8], at: usize) -> Vec<Vec<u8>> {
    let mut content = LogContent {
        bytes: bytes.to_vec(),
        ..LogContent::default()
    };
    let (mut records, mut from) = (Vec::new(), at + 1);
    let begins = |at: &usize| matches!(parse_fragment(bytes, *at), Some((WHOLE | FIRST, _)));
    while let Some(start) = (from..bytes.len()).find(begins) {
        let mut walk = LogWalk {
            at: start,
            open: None,
        };
        while walk.at < bytes.len() {
            match walk.take_step(&mut content) {
                LogStep::Record(record) => records.push(record),
                LogStep::Part => {}
                LogStep::Stuck => break,
            }
        }
        from = walk.at.max(start) + 1;
    }
    records
}

/// Puts the fragment at `at` right if one bit of it has flipped: its type, and where it ends.
fn mend_fragment(log: &mut [u8], at: usize) -> Option<(u8, usize)> {
    let bit = flipped_bit(log, at)?;
    log[at + bit / 8] ^= 1 << (bit % 8);
    let found = parse_fragment(log, at);
    if found.is_none() {
        log[at + bit / 8] ^= 1 << (bit % 8);
    }
    found
}

/// The bit, counted from `at`, that may have flipped.
fn flipped_bit(log: &[u8], at: usize) -> Option<usize> {
    let header: [u8; HEADER_LEN] = log.get(at..at + HEADER_LEN)?.try_into().ok()?;
    // Zeros are no record, and one bit does not make them one.
    if header.iter().filter(|byte| **byte != 0).count() < 2 {
        return None;
    }
    // First, since in another length any bit may seem to be the one.
    if let Some(bit) = flipped_len(log, at) {
        return Some(bit);
    }
    let end = at + HEADER_LEN + usize::from(u16::from_le_bytes([header[4], header[5]]));
    if let Some(checked) = log.get(at + 6..end) {
        let stored = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let error = unmask_checksum(stored) ^ unmask_checksum(fragment_checksum(checked));
        if (stored ^ fragment_checksum(checked)).is_power_of_two() {
            return Some((stored ^ fragment_checksum(checked)).trailing_zeros() as usize);
        }
        if let Some(bit) = bit_of_error(checked.len(), error) {
            return Some(6 * 8 + bit);
        }
    }
    None
}

/// The bit of the fragment's length whose flip makes it sound.
fn flipped_len(log: &[u8], at: usize) -> Option<usize> {
    let mut copy = log[at..log.len().min(at + HEADER_LEN + BLOCK_LEN)].to_vec();
    (4 * 8..6 * 8).find(|bit| {
        copy[bit / 8] ^= 1 << (bit % 8);
        let len = usize::from(u16::from_le_bytes([copy[4], copy[5]]));
        let fits =
            in_block(at) + HEADER_LEN + len <= BLOCK_LEN && parse_fragment(&copy, 0).is_some();
        copy[bit / 8] ^= 1 << (bit % 8);
        fits
    })
}

fn unmask_checksum(stored: u32) -> u32 {
    stored.wrapping_sub(CHECKSUM_SHIFT).rotate_left(15)
}

/// The bit of `len` bytes whose flip changes their CRC by `error`.
fn bit_of_error(len: usize, error: u32) -> Option<usize> {
    let mut errors: [u32; 8] = std::array::from_fn(|bit| step_crc(1 << bit));
    for at in (0..len).rev() {
        if let Some(bit) = errors.iter().position(|found| *found == error) {
            return Some(at * 8 + bit);
        }
        errors
            .iter_mut()
            .for_each(|error| *error = step_crc(*error));
    }
    None
}

/// A CRC's error one byte later.
fn step_crc(error: u32) -> u32 {
    (0..8).fold(error, |error, _| {
        error >> 1 ^ if error & 1 == 1 { POLYNOMIAL } else { 0 }
    })
}

/// Appends `record` to a log.
pub(crate) fn put_record(log: &mut Vec<u8>, record: &[u8]) {
    let (mut rest, mut is_first) = (record, true);
    loop {
        if in_block(log.len()) > BLOCK_LEN - HEADER_LEN {
            log.resize(log.len() - in_block(log.len()) + BLOCK_LEN, 0);
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
        if rest.is_empty() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(lens: &[usize]) -> (Vec<u8>, Vec<Vec<u8>>) {
        let (mut log, mut records) = (Vec::new(), Vec::new());
        for (nth, len) in lens.iter().enumerate() {
            let mut record = vec![0; *len];
            fastrand::Rng::with_seed(nth as u64).fill(&mut record);
            put_record(&mut log, &record);
            records.push(record);
        }
        (log, records)
    }

    #[test]
    fn what_is_put_is_read() {
        let (log, records) = log(&[5, 0, 40_000, 32_754, 1, 100_000, 3]);
        let content = read_log(log.clone());
        assert_eq!((content.records, content.bytes), (records, log));
        assert!(!content.is_cut && content.mended_bits == 0);
    }

    #[test]
    fn every_flipped_bit_is_put_right() {
        let (log, records) = log(&[20, 300, 1]);
        for bit in 0..log.len() * 8 {
            let mut flipped = log.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let content = read_log(flipped);
            assert!(content.bytes == log && content.records == records, "{bit}");
            assert_eq!((content.mended_bits, content.is_cut), (1, false), "{bit}");
        }
    }

    #[test]
    fn a_flipped_bit_of_a_large_record_is_put_right() {
        let (log, records) = log(&[70_000, 9]);
        for bit in [
            9 * 8,
            50_000 * 8 + 3,
            69_000 * 8 + 7,
            32_768 * 8 + 50,
            32_768 * 8 + 40,
        ] {
            let mut flipped = log.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let content = read_log(flipped);
            assert!(content.records == records && content.bytes == log, "{bit}");
        }
    }

    #[test]
    fn records_after_damage_are_seen_but_are_not_part_of_the_whole() {
        let (mut log, records) = log(&[100, 100, 100, 40_000, 100]);
        log[130..160].fill(0x55);
        let content = read_log(log);
        assert_eq!(content.records, records[..1]);
        assert_eq!(content.later, records[2..]);
        assert!(content.is_cut);
        assert_eq!(content.whole_len, 107);
    }

    #[test]
    fn a_log_that_ends_early_is_cut_and_one_with_room_at_its_end_is_not() {
        let (log, records) = log(&[100, 100]);
        for len in 108..log.len() {
            let content = read_log(log[..len].to_vec());
            assert!(content.is_cut, "{len}");
            assert_eq!(content.records, records[..1], "{len}");
        }
        let with_room = [&log[..], &[0; 5000]].concat();
        let content = read_log(with_room);
        assert!(!content.is_cut && content.records == records);
    }
}
