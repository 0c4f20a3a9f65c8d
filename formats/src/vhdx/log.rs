//! The log of a VHDX: changes that were promised and are not in their places yet. They are laid
//! over the file in memory; the file stays as it is.
//!
//! The log is a ring of 4 KiB sectors. Its active part is a run of entries with rising sequence
//! numbers, each whole by its checksum, whose last one says where the first one is. Of several such
//! runs the one with the greatest sequence number counts.
//!
//! ```text
//! Entry: a header of 64 bytes and descriptors of 32 fill whole sectors; then a sector for each
//! data descriptor. All numbers are little-endian.
//!
//! 0   4   "loge"
//! 4   4   CRC-32C of the whole entry, this field zero     a torn write
//! 8   4   length of the entry, a multiple of 4,096        an entry longer than the log
//! 12  4   offset in the log of the run's first entry      changes that were taken back
//! 16  8   sequence number                                 remains of an older round
//! 24  4   descriptors
//! 32  16  GUID, the header's                              another log's remains
//! 48  8   length of the file that must be there           a file that was cut
//! 56  8   length of the file afterwards
//!
//! Descriptor "zero": reserved (4), length (8), offset (8), sequence number (8)
//! Descriptor "desc": last 4 bytes, first 8 bytes of the sector, offset (8), sequence number (8)
//! Data sector: "data", sequence number's upper half (4), bytes 8 to 4,091, its lower half (4)
//! ```

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use vellum_core::source::{ReadAt, SourceError};

use super::FORMAT;
use super::structure::{VhdxHeader, is_sound};
use crate::fields::{array_at, le_u32, le_u64};
use crate::{malformed, read_up_to};

const SECTOR_LEN: u64 = 4096;
const HEADER_LEN: u64 = 64;
const DESCRIPTOR_LEN: u64 = 32;
/// Hyper-V's logs have 1 MiB. More than this would be more memory than a whole import takes.
const LOG_LEN_MAX: u64 = 16 << 20;

/// A file as it will be when its log was applied.
struct ReplayedFile {
    file: Arc<dyn ReadAt>,
    len: u64,
    /// Sectors by their number in the file; `None` is zeros.
    sectors: BTreeMap<u64, Option<Box<[u8; SECTOR_LEN as usize]>>>,
}

struct LogEntry {
    bytes: Vec<u8>,
    sequence: u64,
    tail: u64,
    descriptor_count: u64,
}

/// The file with its log laid over it, and whether there was anything in the log.
pub(super) fn replay_log(
    file: Arc<dyn ReadAt>,
    header: &VhdxHeader,
) -> Result<(Arc<dyn ReadAt>, bool), SourceError> {
    if !header.has_log() {
        return Ok((file, false));
    }
    if header.log_len > LOG_LEN_MAX || !header.log_len.is_multiple_of(SECTOR_LEN) {
        return Err(malformed(
            FORMAT,
            format!("a log of {} bytes", header.log_len),
        ));
    }
    let log = read_up_to(&*file, header.log_offset, header.log_len as usize)?;
    let run = active_run(&log, header)?;
    let mut replayed = ReplayedFile {
        len: file.len(),
        file,
        sectors: BTreeMap::new(),
    };
    for entry in &run {
        replayed.apply_entry(entry)?;
    }
    Ok((Arc::new(replayed), true))
}

/// The run of entries that counts, first entry first.
fn active_run(log: &[u8], header: &VhdxHeader) -> Result<Vec<LogEntry>, SourceError> {
    let len = log.len() as u64;
    // Every entry that is whole, by where it begins: each sector's checksum is computed once.
    let mut entries: BTreeMap<u64, LogEntry> = BTreeMap::new();
    for at in (0..len).step_by(SECTOR_LEN as usize) {
        entries.extend(LogEntry::parse_at(log, at, header).map(|entry| (at, entry)));
    }
    let mut best: Option<(u64, Vec<u64>)> = None;
    for start in entries.keys() {
        let (mut at, mut places, mut last) = (*start, Vec::new(), None);
        while let Some(entry) = entries.get(&at)
            && last.is_none_or(|last: u64| last.checked_add(1) == Some(entry.sequence))
            && places.len() <= entries.len()
        {
            places.push(at);
            last = Some(entry.sequence);
            at = (at + entry.bytes.len() as u64) % len;
        }
        let sequence = last.unwrap_or_default();
        let tail = places
            .last()
            .and_then(|at| entries.get(at))
            .map(|entry| entry.tail);
        // A run that begins behind its tail is the end of a longer one.
        if tail == Some(*start) && best.as_ref().is_none_or(|(other, _)| *other < sequence) {
            best = Some((sequence, places));
        }
    }
    let (_, places) =
        best.ok_or_else(|| malformed(FORMAT, "its log holds no whole run of entries"))?;
    Ok(places.iter().filter_map(|at| entries.remove(at)).collect())
}

impl LogEntry {
    /// The entry at `at` of the ring, if one that belongs to this log begins there.
    fn parse_at(log: &[u8], at: u64, header: &VhdxHeader) -> Option<Self> {
        let len = log.len() as u64;
        let start = at as usize;
        if log.get(start..start + 4)? != b"loge" {
            return None;
        }
        let entry_len = u64::from(le_u32(log, start + 8)?);
        if entry_len == 0 || entry_len > len || !entry_len.is_multiple_of(SECTOR_LEN) {
            return None;
        }
        let bytes: Vec<u8> = log
            .iter()
            .cycle()
            .skip(start)
            .take(entry_len as usize)
            .copied()
            .collect();
        let entry = Self {
            tail: u64::from(le_u32(&bytes, 12)?),
            sequence: le_u64(&bytes, 16)?,
            descriptor_count: u64::from(le_u32(&bytes, 24)?),
            bytes,
        };
        let belongs = array_at(&entry.bytes, 32) == Some(header.log_identity);
        let is_whole = belongs && is_sound(&entry.bytes, entry.bytes.len());
        (is_whole && entry.sequence != 0).then_some(entry)
    }
}

impl ReplayedFile {
    fn apply_entry(&mut self, entry: &LogEntry) -> Result<(), SourceError> {
        let wrong = |what: &str| malformed(FORMAT, format!("a log entry {what}"));
        if le_u64(&entry.bytes, 48).is_none_or(|needed| needed > self.file.len()) {
            return Err(wrong("is of a longer file: this one was cut"));
        }
        self.len = self.len.max(le_u64(&entry.bytes, 56).unwrap_or_default());
        let descriptors_len = HEADER_LEN + entry.descriptor_count * DESCRIPTOR_LEN;
        let mut data_at = descriptors_len.next_multiple_of(SECTOR_LEN) as usize;
        for number in 0..entry.descriptor_count {
            let at = (HEADER_LEN + number * DESCRIPTOR_LEN) as usize;
            let descriptor = entry.bytes.get(at..at + DESCRIPTOR_LEN as usize);
            let descriptor = descriptor.ok_or_else(|| wrong("lacks descriptors"))?;
            if le_u64(descriptor, 24) != Some(entry.sequence) {
                return Err(wrong("has a descriptor of another one"));
            }
            let offset = le_u64(descriptor, 16).unwrap_or_default();
            if !offset.is_multiple_of(SECTOR_LEN) {
                return Err(wrong("changes bytes off the grid"));
            }
            match descriptor.get(..4) {
                Some(b"zero") => {
                    self.zero_range(offset, le_u64(descriptor, 8).unwrap_or_default())?;
                }
                Some(b"desc") => {
                    let sector = entry.bytes.get(data_at..data_at + SECTOR_LEN as usize);
                    let sector = sector.ok_or_else(|| wrong("lacks data"))?;
                    self.put_sector(offset, descriptor, sector, entry.sequence)?;
                    data_at += SECTOR_LEN as usize;
                }
                _ => return Err(wrong("has a descriptor of an unknown kind")),
            }
        }
        Ok(())
    }

    fn zero_range(&mut self, offset: u64, len: u64) -> Result<(), SourceError> {
        if !len.is_multiple_of(SECTOR_LEN) || len > LOG_LEN_MAX {
            return Err(malformed(FORMAT, format!("a log entry zeroes {len} bytes")));
        }
        for at in (0..len).step_by(SECTOR_LEN as usize) {
            self.sectors
                .insert(offset.saturating_add(at) / SECTOR_LEN, None);
        }
        Ok(())
    }

    fn put_sector(
        &mut self,
        offset: u64,
        descriptor: &[u8],
        sector: &[u8],
        sequence: u64,
    ) -> Result<(), SourceError> {
        let halves = (le_u32(sector, 4), le_u32(sector, SECTOR_LEN as usize - 4));
        let expected = (Some((sequence >> 32) as u32), Some(sequence as u32));
        if !sector.starts_with(b"data") || halves != expected {
            return Err(malformed(FORMAT, "a log entry has the data of another one"));
        }
        let mut bytes: Box<[u8; SECTOR_LEN as usize]> =
            Box::new(array_at(sector, 0).unwrap_or([0; 4096]));
        let (first, last) = (descriptor.get(8..16), descriptor.get(4..8));
        bytes
            .iter_mut()
            .zip(first.unwrap_or_default())
            .for_each(|(to, from)| *to = *from);
        let end = bytes.iter_mut().skip(SECTOR_LEN as usize - 4);
        end.zip(last.unwrap_or_default())
            .for_each(|(to, from)| *to = *from);
        self.sectors.insert(offset / SECTOR_LEN, Some(bytes));
        Ok(())
    }
}

impl ReadAt for ReplayedFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset
            .checked_add(buffer.len() as u64)
            .filter(|end| *end <= self.len);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        // Bytes by which the log makes the file longer are zero, except those that the log itself
        // has.
        let there = self
            .file
            .len()
            .saturating_sub(offset)
            .min(buffer.len() as u64) as usize;
        let (old, new) = buffer.split_at_mut(there);
        self.file.read_exact_at(old, offset)?;
        new.fill(0);
        for (number, sector) in self
            .sectors
            .range(offset / SECTOR_LEN..end.div_ceil(SECTOR_LEN))
        {
            let start = number * SECTOR_LEN;
            let (from, to) = (start.max(offset), (start + SECTOR_LEN).min(end));
            let target = buffer.get_mut((from - offset) as usize..(to - offset) as usize);
            let target = target.unwrap_or_default();
            let skip = (from - start) as usize;
            match sector {
                None => target.fill(0),
                Some(bytes) => {
                    let source = bytes.iter().skip(skip);
                    target
                        .iter_mut()
                        .zip(source)
                        .for_each(|(to, from)| *to = *from);
                }
            }
        }
        Ok(())
    }
}
