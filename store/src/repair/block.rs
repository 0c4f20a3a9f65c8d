//! Decodes a block of a table: unpacks it, finds its end, and reads its entries.
//!
//! ```text
//! block: entries, then offsets of restarts (4 each), their number in the lower 28 bits of the
//! last 4
//! entry: varints: shared with the key before, not shared, value's length; then key and value. The
//! index's entries have no length of their value.
//! key of a record: the user's, then 8 bytes: sequence number shl 8 | type
//! kind of compression: 0 none; 4 LZ4: varint of the plain length, one LZ4 block
//! ```
//!
//! Source: RocksDB's `table/block_based/block_builder.cc`.

use std::collections::BTreeMap;
use std::ops::Range;

use vellum_core::frame::FrameCodec;
use vellum_core::wire::{WireReader, zigzag_decode};

use super::checksum::TRAILER_LEN;
use crate::codec;

const KIND_PLAIN: u8 = 0;
const KIND_LZ4: u8 = 4;
/// Plain bytes of a block at most: no record is longer than this, and hostile lengths are not
/// believed.
const BLOCK_LEN_MAX: usize = 80 << 20;
/// Restarts that the lower bits of a block's last word count.
const RESTARTS_MASK: u32 = (1 << 28) - 1;
/// Entries of a data block from one restart to the next.
const RESTART_INTERVAL: usize = 16;
/// Bytes that an internal key has beside the user's.
pub(super) const TAG_LEN: usize = 8;

/// Kind of a record of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    Put,
    Delete,
}

/// A record of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableEntry {
    pub(super) key: Vec<u8>,
    pub(super) sequence: u64,
    pub(super) kind: EntryKind,
    pub(super) value: Vec<u8>,
}

pub(super) fn decompress_block(block: &[u8], kind: u8) -> Option<Vec<u8>> {
    match kind {
        KIND_PLAIN => Some(block.to_vec()),
        KIND_LZ4 => {
            let mut reader = WireReader::new(block);
            let len = usize::try_from(reader.read_varint().ok()?).ok()?;
            let compressed = reader.read_bytes(reader.remaining_len()).ok()?;
            (len <= BLOCK_LEN_MAX && len / 256 <= compressed.len())
                .then(|| codec::decompress_frame(FrameCodec::Lz4, compressed, len).ok())?
        }
        _ => None,
    }
}

/// The plain bytes of the block that begins at `at`, and where it ends, from itself alone.
pub(super) fn block_at(bytes: &[u8], at: usize) -> Option<(Vec<u8>, usize)> {
    let rest = bytes.get(at..)?;
    if let Some(len) = plain_len(rest)
        && rest.get(len) == Some(&KIND_PLAIN)
    {
        return Some((rest[..len].to_vec(), at + len));
    }
    let mut reader = WireReader::new(rest);
    let len = usize::try_from(reader.read_varint().ok()?).ok()?;
    let begin = rest.len() - reader.remaining_len();
    let used = lz4_len(&rest[begin..], len)?;
    let end = begin + used;
    (rest.get(end) == Some(&KIND_LZ4)).then_some(())?;
    Some((decompress_block(&rest[..end], KIND_LZ4)?, at + end))
}

/// The length of the uncompressed block that `rest` begins with: its restarts name entries that are
/// there.
fn plain_len(rest: &[u8]) -> Option<usize> {
    let mut entries = BlockEntries {
        bytes: rest,
        end: rest.len(),
        at: 0,
        key: Vec::new(),
    };
    let mut restarts = Vec::new();
    for nth in 0_usize.. {
        let at = entries.at;
        if nth > 0 && ends_with_restarts(rest, at, &restarts) {
            return Some(at + restarts.len() * 4 + 4);
        }
        if nth.is_multiple_of(RESTART_INTERVAL) {
            restarts.push(at);
        }
        entries.next(true)?;
    }
    None
}

fn ends_with_restarts(rest: &[u8], at: usize, restarts: &[usize]) -> bool {
    let word = |nth: usize| {
        let bytes = rest.get(at + nth * 4..at + nth * 4 + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let count = word(restarts.len()).map(|count| (count & RESTARTS_MASK) as usize);
    let mut all = restarts.iter().enumerate();
    count == Some(restarts.len()) && all.all(|(nth, at)| word(nth) == u32::try_from(*at).ok())
}

/// Bytes of `bytes` that an LZ4 block of that plain length takes.
fn lz4_len(bytes: &[u8], plain_len: usize) -> Option<usize> {
    let (mut at, mut made) = (0, 0);
    let length = |at: &mut usize, nibble: u8| {
        let mut len = usize::from(nibble);
        if nibble < 15 {
            return Some(len);
        }
        loop {
            let more = *bytes.get(*at)?;
            *at += 1;
            len += usize::from(more);
            if more < 255 {
                return Some(len);
            }
        }
    };
    while made < plain_len {
        let token = *bytes.get(at)?;
        at += 1;
        let literals = length(&mut at, token >> 4)?;
        at += literals;
        made += literals;
        if made >= plain_len {
            break;
        }
        at += 2;
        made += length(&mut at, token & 15)? + 4;
    }
    (made == plain_len && at <= bytes.len()).then_some(at)
}

/// The entries of a block, one after the other.
pub(super) struct BlockEntries<'b> {
    bytes: &'b [u8],
    /// Offset of the restarts.
    end: usize,
    at: usize,
    key: Vec<u8>,
}

impl<'b> BlockEntries<'b> {
    pub(super) fn of_block(block: &'b [u8]) -> Self {
        let count = block
            .last_chunk::<4>()
            .map_or(0, |word| u32::from_le_bytes(*word));
        let restarts = ((count & RESTARTS_MASK) as usize)
            .saturating_mul(4)
            .saturating_add(4);
        Self {
            bytes: block,
            end: block.len().saturating_sub(restarts),
            at: 0,
            key: Vec::new(),
        }
    }

    /// The next entry: its key, its value. Without `has_len` the value is all that follows, for who
    /// knows how long it is to take (`skip`).
    pub(super) fn next(&mut self, has_len: bool) -> Option<(Vec<u8>, &'b [u8])> {
        let rest = self.bytes.get(self.at..self.end)?;
        let mut reader = WireReader::new(rest);
        let shared = usize::try_from(reader.read_varint().ok()?).ok()?;
        let own = usize::try_from(reader.read_varint().ok()?).ok()?;
        let len = if has_len {
            usize::try_from(reader.read_varint().ok()?).ok()?
        } else {
            0
        };
        if shared > self.key.len() {
            return None;
        }
        let key = reader.read_bytes(own).ok()?;
        self.key.truncate(shared);
        self.key.extend_from_slice(key);
        let value = reader
            .read_bytes(if has_len { len } else { reader.remaining_len() })
            .ok()?;
        self.at = if has_len {
            self.end - reader.remaining_len()
        } else {
            self.end - value.len()
        };
        Some((self.key.clone(), value))
    }
}

pub(super) type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// All entries of a block, if it holds nothing else, and where they end.
pub(super) fn entries_of(block: &[u8]) -> Option<(Pairs, usize)> {
    let mut entries = BlockEntries::of_block(block);
    let mut all = Vec::new();
    while entries.at < entries.end {
        let (key, value) = entries.next(true)?;
        all.push((key, value.to_vec()));
    }
    Some((all, entries.at))
}

pub(super) fn decode_handles(block: &[u8]) -> Option<BTreeMap<Vec<u8>, Range<usize>>> {
    let entries = entries_of(block)?.0.into_iter();
    entries
        .map(|(key, value)| Some((key, decode_handle(&mut WireReader::new(&value))?)))
        .collect()
}

fn decode_handle(reader: &mut WireReader<'_>) -> Option<Range<usize>> {
    let offset = usize::try_from(reader.read_varint().ok()?).ok()?;
    let len = usize::try_from(reader.read_varint().ok()?).ok()?;
    Some(offset..offset.checked_add(len)?)
}

/// The index's entries. A handle that follows another in one stretch of restarts says only how
/// much longer its block is than the one before.
pub(super) fn index_of(block: &[u8]) -> Option<Vec<(Vec<u8>, Range<usize>)>> {
    let mut entries = BlockEntries::of_block(block);
    let mut all: Vec<(Vec<u8>, Range<usize>)> = Vec::new();
    while entries.at < entries.end {
        let is_restart = block.get(entries.at) == Some(&0);
        let (key, value) = entries.next(false)?;
        let mut reader = WireReader::new(value);
        let range = if is_restart {
            decode_handle(&mut reader)?
        } else {
            let before = &all.last()?.1;
            let start = before.end + TRAILER_LEN;
            let more = zigzag_decode(reader.read_varint().ok()?);
            let len = i64::try_from(before.len()).ok()?.checked_add(more)?;
            start..start.checked_add(usize::try_from(len).ok()?)?
        };
        entries.at = entries.end - reader.remaining_len();
        all.push((key, range));
    }
    (!all.is_empty()).then_some(all)
}

/// The records of a data block, if all of it is records.
pub(super) fn records_of(block: &[u8]) -> Option<Vec<TableEntry>> {
    let entries = entries_of(block)?.0.into_iter();
    entries
        .map(|(key, value)| decode_table_entry(&key, &value))
        .collect()
}

pub(super) fn decode_table_entry(key: &[u8], value: &[u8]) -> Option<TableEntry> {
    let tag = tag_of(key)?;
    let kind = match tag & 0xff {
        0 | 7 => EntryKind::Delete,
        1 => EntryKind::Put,
        _ => return None,
    };
    Some(TableEntry {
        key: key[..key.len() - TAG_LEN].to_vec(),
        sequence: tag >> 8,
        kind,
        value: value.to_vec(),
    })
}

/// The tag after the user's key in an internal key.
pub(super) fn tag_of(key: &[u8]) -> Option<u64> {
    key.last_chunk::<TAG_LEN>()
        .map(|tag| u64::from_le_bytes(*tag))
}
