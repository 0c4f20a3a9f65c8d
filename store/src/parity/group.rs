//! Format of a parity group's file: the tables that it protects, the checksum of each of their
//! blocks, and the parity.
//!
//! ```text
//! offset  size    meaning                                         guards against
//! 0       8       "vlmpargr"                                      a file of another kind
//! 8       4       version, 1                                      a newer program's file
//! 12      4       number of tables, 1 to 1,024                    (bounds what follows)
//! 16      4       number of parity stretches, 1 to 64             (likewise)
//! 20      4       zero
//! 24      24 × n  tables, the longest first: number, 8; length,
//!                 8; class (0 payloads, 1 records), 1; zeros, 7
//! …       8       checksum of all before                          damage
//! …       8 × b   the first 8 bytes of the BLAKE3 of every block
//!                 of 4 KiB: of the tables in order (their last
//!                 block filled up with zeros), then of the parity
//!                 stretches
//! …       8       checksum of the block sums                      damage
//! …       …       zeros up to a multiple of 4 KiB
//! …       …       the parity stretches, each as long as the
//!                 longest table, in whole blocks
//! ```
//!
//! Block `n` of the parity stretches is the Reed–Solomon code (`code`) of the blocks `n` of those
//! tables that have one, in their order. Integers are little-endian.

use std::collections::BTreeSet;

use vellum_core::hash::{ChunkHash, hash_chunks};
use vellum_core::wire::{DecodeError, WireReader, append_checksum, verify_checksum};

use super::shape::{GroupShape, MEMBERS_MAX, NewGroup, TableClass, TableFile};

/// Unit of damage that is found, verified and mended at once, in bytes: a disk's sector.
pub(super) const BLOCK_LEN: usize = 4096;
const MAGIC: &[u8; 8] = b"vlmpargr";
const VERSION: u32 = 1;
const FIXED_LEN: usize = 24;
const TABLE_LEN: usize = 24;
const SUM_LEN: usize = 8;
const PARITY_COUNT_MAX: usize = 64;
/// Longer tables are none: bounds sums of lengths.
const TABLE_LEN_MAX: u64 = 1 << 40;
const SHAPE_CONTEXT: &str = "vellum 2026-11 parity group v1";
const SUMS_CONTEXT: &str = "vellum 2026-11 parity sums v1";
/// The longest beginning of a file that its shape is read from.
pub(super) const SHAPE_LEN_MAX: usize = FIXED_LEN + TABLE_LEN * MEMBERS_MAX + SUM_LEN;

/// The first bytes of a block's BLAKE3.
pub(super) type BlockSum = [u8; SUM_LEN];

/// A group: its tables, and how all of its blocks must look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ParityGroup {
    /// The longest first.
    pub(super) members: Vec<TableFile>,
    pub(super) parity_count: usize,
    /// Sums of the blocks of each table.
    pub(super) member_sums: Vec<Vec<BlockSum>>,
    /// Sums of the blocks of each parity stretch.
    pub(super) parity_sums: Vec<Vec<BlockSum>>,
}

/// The beginning of a group's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GroupHead {
    members: Vec<TableFile>,
    parity_count: usize,
}

/// The number of blocks in `len` bytes.
pub(super) fn blocks_of(len: u64) -> usize {
    len.div_ceil(BLOCK_LEN as u64) as usize
}

/// The sums of whole blocks.
pub(super) fn block_sums(bytes: &[u8]) -> Vec<BlockSum> {
    let blocks: Vec<&[u8]> = bytes.chunks_exact(BLOCK_LEN).collect();
    hash_chunks(&blocks)
        .iter()
        .map(ChunkHash::index_prefix)
        .collect()
}

impl GroupHead {
    pub(super) fn for_new_group(new: &NewGroup) -> Self {
        Self {
            members: new.members.clone(),
            parity_count: new.parity_count,
        }
    }

    /// Its tables as the group number `id`.
    pub(super) fn group_shape(&self, id: u64) -> GroupShape {
        GroupShape {
            id,
            members: self.members.clone(),
            parity_count: self.parity_count,
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((self.members.len() as u32).to_le_bytes());
        bytes.extend((self.parity_count as u32).to_le_bytes());
        bytes.extend([0; 4]);
        for table in &self.members {
            bytes.extend(table.number.to_le_bytes());
            bytes.extend(table.len.to_le_bytes());
            bytes.push(u8::from(table.class == TableClass::Records));
            bytes.extend([0; 7]);
        }
        bytes
    }

    /// Decodes the beginning of a file.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let len = Self::sealed_len(bytes)?;
        let sealed = bytes.get(..len).ok_or(DecodeError::Truncated)?;
        Self::decode_body(verify_checksum(SHAPE_CONTEXT, &[], sealed)?)
    }

    /// The length of the head at the beginning of `bytes`, its checksum included.
    fn sealed_len(bytes: &[u8]) -> Result<usize, DecodeError> {
        let mut reader = WireReader::new(bytes);
        if reader.read_bytes(MAGIC.len())? != MAGIC {
            return Err(DecodeError::Invalid("magic"));
        }
        let version = reader.read_u32()?;
        if version != VERSION {
            return Err(DecodeError::Version(version.min(255) as u8));
        }
        let count = reader.read_u32()? as usize;
        if !(1..=MEMBERS_MAX).contains(&count) {
            return Err(DecodeError::Invalid("number of tables"));
        }
        Ok(FIXED_LEN + count * TABLE_LEN + SUM_LEN)
    }

    /// The inside of [`GroupHead::decode`], without the checksum, so that a fuzzer reaches it.
    pub(super) fn decode_body(body: &[u8]) -> Result<Self, DecodeError> {
        let count = (Self::sealed_len(body)? - FIXED_LEN - SUM_LEN) / TABLE_LEN;
        let mut reader = WireReader::new(body);
        reader.read_bytes(16)?;
        let parity_count = reader.read_u32()? as usize;
        let is_padded = reader.read_bytes(4)? == [0; 4];
        if !is_padded || !(1..=PARITY_COUNT_MAX).contains(&parity_count) {
            return Err(DecodeError::Invalid("number of parity stretches"));
        }
        let members: Vec<TableFile> = (0..count)
            .map(|_| decode_table(&mut reader))
            .collect::<Result<_, _>>()?;
        reader.expect_end()?;
        let numbers: BTreeSet<u64> = members.iter().map(|table| table.number).collect();
        let is_sorted = members.windows(2).all(|pair| pair[0].len >= pair[1].len);
        if !is_sorted || numbers.len() != members.len() {
            return Err(DecodeError::Invalid("order of tables"));
        }
        Ok(Self {
            members,
            parity_count,
        })
    }

    /// The blocks of all tables and parity stretches.
    fn block_count(&self) -> usize {
        let parity = self.parity_count * blocks_of(self.members[0].len);
        parity
            + self
                .members
                .iter()
                .map(|table| blocks_of(table.len))
                .sum::<usize>()
    }

    /// Offset of the parity: a multiple of the block's length.
    pub(super) fn record_len(&self) -> u64 {
        let head = FIXED_LEN + self.members.len() * TABLE_LEN + SUM_LEN;
        ((head + (self.block_count() + 1) * SUM_LEN) as u64).next_multiple_of(BLOCK_LEN as u64)
    }

    /// The length of one parity stretch.
    pub(super) fn parity_len(&self) -> u64 {
        (blocks_of(self.members[0].len) * BLOCK_LEN) as u64
    }

    /// The length of the whole file.
    pub(super) fn file_len(&self) -> u64 {
        self.record_len() + self.parity_len() * self.parity_count as u64
    }
}

fn decode_table(reader: &mut WireReader<'_>) -> Result<TableFile, DecodeError> {
    let number = u64::from(reader.read_u32()?) | u64::from(reader.read_u32()?) << 32;
    let len = u64::from(reader.read_u32()?) | u64::from(reader.read_u32()?) << 32;
    let class = match reader.read_bytes(8)? {
        [0, 0, 0, 0, 0, 0, 0, 0] => TableClass::Payloads,
        [1, 0, 0, 0, 0, 0, 0, 0] => TableClass::Records,
        _ => return Err(DecodeError::Invalid("class of a table")),
    };
    if !(1..=TABLE_LEN_MAX).contains(&len) {
        return Err(DecodeError::Invalid("length of a table"));
    }
    Ok(TableFile { number, len, class })
}

impl ParityGroup {
    pub(super) fn group_head(&self) -> GroupHead {
        GroupHead {
            members: self.members.clone(),
            parity_count: self.parity_count,
        }
    }

    /// The beginning of its file, up to the parity.
    pub(super) fn encode(&self) -> Vec<u8> {
        let head = self.group_head();
        let mut bytes = head.encode();
        append_checksum(SHAPE_CONTEXT, &[], &mut bytes);
        let mut sums: Vec<u8> = self
            .member_sums
            .iter()
            .chain(&self.parity_sums)
            .flatten()
            .flatten()
            .copied()
            .collect();
        // Sums of other tables would fit as well.
        append_checksum(SUMS_CONTEXT, &[&bytes], &mut sums);
        bytes.extend(sums);
        bytes.resize(head.record_len() as usize, 0);
        bytes
    }

    /// Decodes the beginning of its file; `bytes` may go on.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let head = GroupHead::decode(bytes)?;
        let at = FIXED_LEN + head.members.len() * TABLE_LEN + SUM_LEN;
        // Lengths are only believed as far as there are sums for them.
        let sums_len = (head.block_count() + 1) * SUM_LEN;
        let (shape, rest) = bytes.split_at_checked(at).ok_or(DecodeError::Truncated)?;
        let sums = rest.get(..sums_len).ok_or(DecodeError::Truncated)?;
        let sums = verify_checksum(SUMS_CONTEXT, &[shape], sums)?;
        let mut sums = sums.as_chunks::<SUM_LEN>().0.iter().copied();
        let mut take = |len: u64| sums.by_ref().take(blocks_of(len)).collect::<Vec<_>>();
        let member_sums = head.members.iter().map(|table| take(table.len)).collect();
        let parity_sums = (0..head.parity_count)
            .map(|_| take(head.members[0].len))
            .collect();
        let GroupHead {
            members,
            parity_count,
        } = head;
        Ok(Self {
            members,
            parity_count,
            member_sums,
            parity_sums,
        })
    }

    /// Blocks of its longest table.
    pub(super) fn block_count(&self) -> usize {
        blocks_of(self.members[0].len)
    }
}

/// Decodes `bytes` as the beginning of a group's file, checksums aside: total on any bytes. For
/// fuzzing; whether it is one.
#[must_use]
pub fn decode_any(bytes: &[u8]) -> bool {
    let Ok(head) = GroupHead::decode_body(bytes) else {
        return ParityGroup::decode(bytes).is_ok();
    };
    assert_eq!(head.encode(), bytes, "one head has one encoding");
    true
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A group of small tables, for golden bytes.
    pub(crate) fn example() -> Vec<u8> {
        let table = |number, len, class| TableFile { number, len, class };
        let members = vec![
            table(70_000, 5000, TableClass::Payloads),
            table(9, 4096, TableClass::Payloads),
            table(1 << 33, 1, TableClass::Records),
        ];
        let sums = |count, seed: u8| vec![[seed; SUM_LEN]; count];
        let group = ParityGroup {
            members,
            parity_count: 2,
            member_sums: vec![sums(2, 1), sums(1, 2), sums(1, 3)],
            parity_sums: vec![sums(2, 4), sums(2, 5)],
        };
        let bytes = group.encode();
        assert_eq!(ParityGroup::decode(&bytes).as_ref(), Ok(&group));
        bytes
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_noticed() {
        let bytes = example();
        let end = FIXED_LEN + 3 * TABLE_LEN + SUM_LEN + 9 * SUM_LEN;
        for bit in 0..end * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(ParityGroup::decode(&damaged).is_err(), "{bit}");
        }
        for len in 0..end {
            assert!(ParityGroup::decode(&bytes[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn a_file_is_as_long_as_its_record_and_its_parity() {
        let group = ParityGroup::decode(&example()).expect("whole");
        assert_eq!(
            (group.block_count(), group.group_head().file_len()),
            (2, 4096 + 2 * 8192)
        );
    }
}
