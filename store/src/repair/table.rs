//! Reads a table file as RocksDB writes it, without RocksDB: puts flipped bits right, and salvages
//! every record that is left if more is wrong.
//!
//! ```text
//! data blocks · filter, range deletions, properties, index, each a block · metaindex · footer
//!
//! footer, offset  size  meaning
//! 0               1     kind of checksums: 4, XXH3
//! 1               4     3e 00 7a 00
//! 5               4     checksum of the footer with zeros in this place (see `checksum`; the last
//!                       byte is the kind)
//! 9               4     the table's number, which goes into every checksum
//! 13              4     length of the metaindex, which ends (with its trailer) where this begins
//! 17              24    zeros
//! 41              4     version: 6 or 7
//! 45              8     f7 cf f4 85 b7 41 e2 88
//! ```
//!
//! Source: RocksDB's `table/format.cc` and `table/meta_blocks.cc`.

use std::collections::BTreeMap;
use std::ops::Range;

use super::block::{
    BlockEntries, EntryKind, TAG_LEN, TableEntry, block_at, decode_handles, decode_table_entry,
    decompress_block, entries_of, index_of, records_of, tag_of,
};
use super::checksum::{self, TRAILER_LEN};

const FOOTER_LEN: usize = 53;
const CHECKSUM_KIND: u8 = 4;
const FOOTER_MAGIC: [u8; 4] = [0x3e, 0x00, 0x7a, 0x00];
const MAGIC: [u8; 8] = [0xf7, 0xcf, 0xf4, 0x85, 0xb7, 0x41, 0xe2, 0x88];
/// The type of a deletion of a range.
const RANGE_DELETION: u64 = 15;

const INDEX: &[u8] = b"rocksdb.index";
const PROPERTIES: &[u8] = b"rocksdb.properties";
const RANGE_DELETIONS: &[u8] = b"rocksdb.range_del";
/// Property that tells whether the index has users' keys, as a varint.
const INDEX_HAS_USER_KEYS: &[u8] = b"rocksdb.index.key.is.user.key";

/// A deletion of all keys in `from..to` that are older.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RangeDeletion {
    pub(super) from: Vec<u8>,
    pub(super) to: Vec<u8>,
    pub(super) sequence: u64,
}

/// Keys of which a table may have had records that cannot be read. `None` is no bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LostKeys {
    /// All are greater than this.
    pub(super) after: Option<Vec<u8>>,
    /// None is less than this.
    pub(super) first: Option<Vec<u8>>,
    /// None is greater than this.
    pub(super) last: Option<Vec<u8>>,
}

/// All that is left of a table.
#[derive(Debug, Default)]
pub(super) struct Salvage {
    pub(super) entries: Vec<TableEntry>,
    pub(super) deletions: Vec<RangeDeletion>,
    pub(super) lost: Vec<LostKeys>,
}

/// A table, looked at as a whole.
pub(super) struct ExaminedTable {
    /// Its bytes, with flipped bits put right.
    pub(super) bytes: Vec<u8>,
    /// The number of bits that were put right.
    pub(super) mended_bits: usize,
    number: u32,
    /// The ranges of the data blocks, in key order, each with an upper bound of its records' keys
    /// (a user key); unknown if the index cannot be read.
    index: Option<Vec<(Vec<u8>, Range<usize>)>>,
    metas: BTreeMap<Vec<u8>, Range<usize>>,
    /// Blocks, data and others, that no flipped bit explains.
    broken: Vec<Range<usize>>,
}

impl LostKeys {
    pub(super) fn contains(&self, key: &[u8]) -> bool {
        self.after.as_deref().is_none_or(|after| key > after)
            && self.first.as_deref().is_none_or(|first| key >= first)
            && self.last.as_deref().is_none_or(|last| key <= last)
    }
}

impl ExaminedTable {
    /// Looks at every byte of the file.
    pub(super) fn examine(bytes: Vec<u8>) -> Self {
        let mut table = Self {
            bytes,
            mended_bits: 0,
            number: 0,
            index: None,
            metas: BTreeMap::new(),
            broken: Vec::new(),
        };
        let Some(metaindex) = table.read_footer() else {
            return table;
        };
        let Some(metas) = table
            .plain_block(&metaindex)
            .and_then(|block| decode_handles(&block))
        else {
            return table;
        };
        let end = metaindex.start;
        table.metas = metas;
        let others = table
            .metas
            .values()
            .filter(|range| range.end + TRAILER_LEN <= end);
        for range in others.cloned().collect::<Vec<_>>() {
            table.mend_block(&range);
        }
        let index = table.metas.get(INDEX).cloned();
        table.index = index
            .filter(|range| !table.broken.contains(range))
            .and_then(|range| index_of(&table.plain_block(&range)?));
        let properties = table.read_properties();
        if properties
            .get(INDEX_HAS_USER_KEYS)
            .is_some_and(|value| value == &[0])
        {
            let keys = table.index.iter_mut().flatten();
            keys.for_each(|(key, _)| key.truncate(key.len().saturating_sub(TAG_LEN)));
        }
        let data = table.index.iter().flatten().map(|(_, range)| range.clone());
        for range in data.collect::<Vec<_>>() {
            table.mend_block(&range);
        }
        table
    }

    /// True if RocksDB reads all of it.
    pub(super) fn is_sound(&self) -> bool {
        self.index.is_some() && self.broken.is_empty()
    }

    /// The first and the last internal key, deletions of ranges included.
    pub(super) fn key_bounds(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let index = self.index.as_ref()?;
        let records =
            |range: &Range<usize>| entries_of(&self.plain_block(range)?).map(|found| found.0);
        let first = index
            .first()
            .and_then(|(_, range)| records(range)?.into_iter().next());
        let last = index
            .last()
            .and_then(|(_, range)| records(range)?.into_iter().next_back());
        let mut keys: Vec<Vec<u8>> = first.into_iter().chain(last).map(|(key, _)| key).collect();
        for deletion in self.range_deletions() {
            let tag = deletion.sequence << 8 | RANGE_DELETION;
            keys.push([&deletion.from[..], &tag.to_le_bytes()].concat());
            keys.push(
                [
                    &deletion.to[..],
                    &(u64::MAX << 8 | RANGE_DELETION).to_le_bytes(),
                ]
                .concat(),
            );
        }
        // By key, then the newest first.
        let order = |key: &Vec<u8>| {
            let tag = tag_of(key).unwrap_or(0);
            (
                key[..key.len().saturating_sub(TAG_LEN)].to_vec(),
                std::cmp::Reverse(tag),
            )
        };
        keys.sort_by_cached_key(order);
        Some((keys.first()?.clone(), keys.last()?.clone()))
    }

    /// Its own properties, as they are stored.
    pub(super) fn read_properties(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let block = self
            .metas
            .get(PROPERTIES)
            .and_then(|range| self.plain_block(range));
        let entries = block
            .and_then(|block| Some(entries_of(&block)?.0))
            .unwrap_or_default();
        entries.into_iter().collect()
    }

    /// Every record that can be read. `is_own` says whether a value is what was written under its
    /// key, for blocks whose own checksum does not say so.
    pub(super) fn salvage_records(&self, is_own: &dyn Fn(&[u8], &[u8]) -> bool) -> Salvage {
        let mut salvage = Salvage {
            deletions: self.range_deletions(),
            ..Salvage::default()
        };
        match &self.index {
            Some(index) => self.salvage_by_index(index, is_own, &mut salvage),
            None => self.salvage_by_walk(is_own, &mut salvage),
        }
        salvage
    }

    fn salvage_by_index(
        &self,
        index: &[(Vec<u8>, Range<usize>)],
        is_own: &dyn Fn(&[u8], &[u8]) -> bool,
        salvage: &mut Salvage,
    ) {
        let mut after: Option<Vec<u8>> = None;
        for (last, range) in index {
            let block = self.plain_block(range);
            let whole = block.filter(|_| !self.broken.contains(range));
            if let Some(records) = whole.and_then(|block| records_of(&block)) {
                salvage.entries.extend(records);
            } else {
                salvage.entries.extend(self.salvage_block(range, is_own));
                salvage.lost.push(LostKeys {
                    after: after.clone(),
                    last: Some(last.clone()),
                    ..LostKeys::default()
                });
            }
            after = Some(last.clone());
        }
    }

    /// Without an index: blocks lie one behind the other from the beginning on, and each tells
    /// where it ends.
    fn salvage_by_walk(&self, is_own: &dyn Fn(&[u8], &[u8]) -> bool, salvage: &mut Salvage) {
        let mut at = 0;
        while let Some((plain, end)) = block_at(&self.bytes, at) {
            let Some(records) = records_of(&plain).filter(|records| {
                let owned = |entry: &&TableEntry| entry.kind == EntryKind::Put;
                records
                    .iter()
                    .filter(owned)
                    .all(|entry| is_own(&entry.key, &entry.value))
            }) else {
                break;
            };
            salvage.entries.extend(records);
            at = end + TRAILER_LEN;
        }
        let last = salvage.entries.last().map(|entry| entry.key.clone());
        salvage.lost.push(LostKeys {
            after: last,
            ..LostKeys::default()
        });
    }

    /// The records of a broken block that have a checksum of their own, which fits.
    fn salvage_block(
        &self,
        range: &Range<usize>,
        is_own: &dyn Fn(&[u8], &[u8]) -> bool,
    ) -> Vec<TableEntry> {
        let Some(block) = self.plain_block(range) else {
            return Vec::new();
        };
        let mut entries = BlockEntries::of_block(&block);
        let records = std::iter::from_fn(|| entries.next(true))
            .map_while(|(key, value)| decode_table_entry(&key, value));
        records
            .filter(|entry| entry.kind == EntryKind::Put && is_own(&entry.key, &entry.value))
            .collect()
    }

    fn range_deletions(&self) -> Vec<RangeDeletion> {
        let range = self.metas.get(RANGE_DELETIONS);
        let block = range
            .filter(|range| !self.broken.contains(range))
            .and_then(|range| self.plain_block(range));
        let entries = block
            .and_then(|block| Some(entries_of(&block)?.0))
            .unwrap_or_default();
        entries
            .into_iter()
            .filter_map(|(mut from, to)| {
                let tag = tag_of(&from)?;
                from.truncate(from.len() - TAG_LEN);
                Some(RangeDeletion {
                    from,
                    to,
                    sequence: tag >> 8,
                })
            })
            .collect()
    }

    /// Reads the footer, a flipped bit of it put right: where the metaindex is.
    fn read_footer(&mut self) -> Option<Range<usize>> {
        let at = self.bytes.len().checked_sub(FOOTER_LEN)?;
        let footer: [u8; FOOTER_LEN] = self.bytes[at..].try_into().ok()?;
        let flipped = (0..FOOTER_LEN * 8).map(|bit| {
            let mut footer = footer;
            footer[bit / 8] ^= 1 << (bit % 8);
            footer
        });
        let sound = std::iter::once(footer)
            .chain(flipped)
            .find(|footer| is_footer(footer, at as u64))?;
        self.mended_bits += usize::from(sound != footer);
        self.bytes[at..].copy_from_slice(&sound);
        let word = |at: usize| {
            u32::from_le_bytes([sound[at], sound[at + 1], sound[at + 2], sound[at + 3]])
        };
        self.number = word(9);
        let end = at.checked_sub(TRAILER_LEN)?;
        let range = end.checked_sub(word(13) as usize)?..end;
        self.mend_block(&range).then_some(range)
    }

    /// Puts a flipped bit of a block right, if that is what is wrong; whether it is whole now.
    fn mend_block(&mut self, range: &Range<usize>) -> bool {
        let all = range.start..range.end + TRAILER_LEN;
        let Some(sealed) = self.bytes.get(all) else {
            self.broken.push(range.clone());
            return false;
        };
        let offset = range.start as u64;
        if checksum::checksum_fits(self.number, offset, sealed) {
            return true;
        }
        let Some(bit) = checksum::flipped_bit(self.number, offset, sealed) else {
            self.broken.push(range.clone());
            return false;
        };
        self.bytes[range.start + bit / 8] ^= 1 << (bit % 8);
        self.mended_bits += 1;
        true
    }

    /// The plain bytes of a block.
    fn plain_block(&self, range: &Range<usize>) -> Option<Vec<u8>> {
        let block = self.bytes.get(range.clone())?;
        decompress_block(block, *self.bytes.get(range.end)?)
    }
}

fn is_footer(footer: &[u8; FOOTER_LEN], at: u64) -> bool {
    let mut blank = *footer;
    blank[5..9].fill(0);
    let word = |at: usize| {
        u32::from_le_bytes([footer[at], footer[at + 1], footer[at + 2], footer[at + 3]])
    };
    footer[0] == CHECKSUM_KIND
        && footer[1..5] == FOOTER_MAGIC
        && footer[45..] == MAGIC
        && [6, 7].contains(&word(41))
        && checksum::block_checksum(word(9), at, &blank[..FOOTER_LEN - 1], blank[FOOTER_LEN - 1])
            == word(5)
}
