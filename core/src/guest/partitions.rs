//! Partition tables: MBR with its logical partitions, and GPT.
//!
//! ```text
//! MBR, and each link of an extended partition (sector 0; little-endian)
//! offset  size  meaning
//! 446     16×4  entries: 0 or 0x80 at 0, type at 4 (0 is none), first sector at 8, count of
//!               sectors at 12
//! 510     2     0x55 0xaa
//!
//! GPT header (UEFI 2.10, 5.3.2; sector 1, a copy in the last; little-endian)
//! 0       8     "EFI PART"
//! 12      4     length of the header                                  a checksum over too much
//! 16      4     CRC-32 of the header, with these bytes zero            damage
//! 72      8     first sector of the entries
//! 80      4     how many entries                                       a table without end
//! 84      4     length of one: 128 times a power of two
//! 88      4     CRC-32 of all entries                                  damage
//! GPT entry: type at 0 (16 bytes; 0 is none), first sector at 32, last sector at 40
//! ```

use std::io;
use std::ops::Range;

use super::Volume;
use super::bytes::ByteFields;
use crate::source::ReadAt;

const SECTOR_LEN: u64 = 512;
/// The lengths of sectors in use, in bytes. Images of disks with the longer ones are rare.
const GPT_SECTOR_LENS: [u64; 2] = [512, 4096];
const GPT_MAGIC: &[u8] = b"EFI PART";
const GPT_HEADER_LEN_MIN: u32 = 92;
/// All entries together: 8,192 of the usual 128.
const GPT_TABLE_LEN_MAX: u64 = 1 << 20;
/// Logical partitions: as many as Linux ever numbered.
const LOGICAL_MAX: u32 = 60;
/// The types of extended partitions: DOS, LBA, Linux.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// The partition type that marks a GPT disk.
const PROTECTIVE: u8 = 0xee;

/// The types of partitions that are pieces of something else: dynamic disks, RAID.
const FOREIGN_TYPES: [(u8, &str); 2] = [(0x42, "dynamic disk"), (0xfd, "RAID")];
/// The same of GPT partitions: dynamic disks and their description, storage spaces, RAID.
const FOREIGN_GUIDS: [([u8; 16], &str); 4] = [
    (
        [
            0x0f, 0xc6, 0x9b, 0xaf, 0x31, 0x14, 0x62, 0x4f, 0xbc, 0x68, 0x33, 0x11, 0x71, 0x4a,
            0x69, 0xad,
        ],
        "dynamic disk",
    ),
    (
        [
            0xaa, 0xc8, 0x08, 0x58, 0x8f, 0x7e, 0xe0, 0x42, 0x85, 0xd2, 0xe1, 0xe9, 0x04, 0x34,
            0xcf, 0xb3,
        ],
        "dynamic disk",
    ),
    (
        [
            0x8f, 0xaf, 0x5c, 0xe7, 0x80, 0xf6, 0xee, 0x4c, 0xaf, 0xa3, 0xb0, 0x01, 0xe5, 0x6e,
            0xfc, 0x2d,
        ],
        "storage space",
    ),
    (
        [
            0x0f, 0x88, 0x9d, 0xa1, 0xfc, 0x05, 0x3b, 0x4d, 0xa0, 0x06, 0x74, 0x3f, 0x0f, 0x84,
            0x91, 0x1e,
        ],
        "RAID",
    ),
];
/// Bytes from an extended partition's link on that boot loaders may use.
const LINK_LEN: u64 = 1 << 20;

/// A partition, and what it is a piece of, if its type says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Partition {
    pub(super) volume: Volume,
    pub(super) foreign: Option<&'static str>,
}

/// All that the tables of a disk name, unchecked.
#[derive(Default)]
pub(super) struct PartitionTable {
    pub(super) partitions: Vec<Partition>,
    /// The bytes that tables and their links take.
    pub(super) tables: Vec<Range<u64>>,
    /// The reason why what lies between partitions may be somebody's.
    pub(super) doubt: Option<&'static str>,
    /// True if the table tells how long a sector is. An MBR does not: its partitions may lie
    /// somewhere else.
    pub(super) knows_sectors: bool,
    /// True if there is a table that cannot be read: nothing on the disk is what it seems.
    pub(super) is_damaged: bool,
}

/// An entry of an MBR.
#[derive(Clone, Copy)]
struct MbrEntry {
    kind: u8,
    first: u64,
    count: u64,
}

/// The table of `disk`, without a partition if there is none.
pub(super) fn read_partitions(disk: &dyn ReadAt) -> io::Result<PartitionTable> {
    let mut table = PartitionTable::default();
    let Some(entries) = read_mbr(disk, 0)? else {
        return Ok(table);
    };
    if entries.iter().any(|entry| entry.kind == PROTECTIVE) {
        table = read_gpt(disk)?;
        let is_hybrid = entries.iter().filter(|entry| entry.kind != 0).count() > 1;
        if is_hybrid {
            table.doubt = Some("it has two partition tables");
        }
        return Ok(table);
    }
    table.tables.push(0..SECTOR_LEN);
    for (number, entry) in (1..).zip(&entries) {
        if EXTENDED.contains(&entry.kind) {
            read_logical(disk, entry.first, &mut table)?;
        } else {
            table.partitions.extend(entry.read_partition(number, 0));
        }
    }
    Ok(table)
}

/// The entries in a sector of `disk`, if it is a table.
fn read_mbr(disk: &dyn ReadAt, sector: u64) -> io::Result<Option<[MbrEntry; 4]>> {
    let mut bytes = [0; SECTOR_LEN as usize];
    if sector.saturating_add(1).saturating_mul(SECTOR_LEN) > disk.len() {
        return Ok(None);
    }
    disk.read_exact_at(&mut bytes, sector * SECTOR_LEN)?;
    let fields = ByteFields(&bytes);
    let entry = |nth: usize| {
        let at = 446 + 16 * nth;
        MbrEntry {
            kind: bytes.get(at + 4).copied().unwrap_or(0),
            first: fields.le32(at + 8).into(),
            count: fields.le32(at + 12).into(),
        }
    };
    // A boot sector without a table has other bytes here.
    let is_table = [446, 462, 478, 494]
        .into_iter()
        .all(|at| fields.starts_with(at, &[0]) || fields.starts_with(at, &[0x80]));
    Ok((is_table && fields.starts_with(510, &[0x55, 0xaa])).then(|| [0, 1, 2, 3].map(entry)))
}

impl MbrEntry {
    /// The partition, its sectors counted from `base`.
    fn read_partition(&self, number: u32, base: u64) -> Option<Partition> {
        let is_used = self.kind != 0 && self.count > 0;
        let foreign = FOREIGN_TYPES.iter().find(|(kind, _)| *kind == self.kind);
        is_used.then(|| Partition {
            volume: Volume {
                partition: Some(number),
                start: (base + self.first) * SECTOR_LEN,
                len: self.count * SECTOR_LEN,
            },
            foreign: foreign.map(|(_, name)| *name),
        })
    }
}

/// Follows the links of the extended partition that begins at sector `base`: in each, the first
/// entry is a partition, the second the next link. Links that do not go forward end it.
fn read_logical(disk: &dyn ReadAt, base: u64, table: &mut PartitionTable) -> io::Result<()> {
    let mut link = base;
    for number in 5..5 + LOGICAL_MAX {
        let Some([partition, next, ..]) = read_mbr(disk, link)? else {
            break;
        };
        let at = link * SECTOR_LEN;
        table.tables.push(at..at + LINK_LEN);
        table
            .partitions
            .extend(partition.read_partition(number, link));
        if next.kind == 0 {
            return Ok(());
        }
        if !EXTENDED.contains(&next.kind) || base + next.first <= link {
            break;
        }
        link = base + next.first;
    }
    table.doubt = Some("its extended partition is not understood");
    Ok(())
}

/// The partitions of the first header, or its copy, that is sound.
fn read_gpt(disk: &dyn ReadAt) -> io::Result<PartitionTable> {
    for sector_len in GPT_SECTOR_LENS {
        let last = (disk.len() / sector_len).saturating_sub(1);
        let own = read_gpt_at(disk, 1, sector_len)?;
        let copy = read_gpt_at(disk, last, sector_len)?;
        let is_alike = own.as_ref().map(|table| &table.partitions)
            == copy.as_ref().map(|table| &table.partitions);
        let tables = [&own, &copy].into_iter().flatten();
        let tables = tables.flat_map(|table| table.tables.clone()).collect();
        if let Some(found) = own.or(copy) {
            return Ok(PartitionTable {
                tables,
                doubt: (!is_alike).then_some("the copy of its partition table is not like it"),
                knows_sectors: true,
                ..found
            });
        }
    }
    Ok(PartitionTable {
        is_damaged: true,
        ..PartitionTable::default()
    })
}

fn read_gpt_at(
    disk: &dyn ReadAt,
    sector: u64,
    sector_len: u64,
) -> io::Result<Option<PartitionTable>> {
    let Some(mut header) = read_some(disk, Some(sector * sector_len), sector_len)? else {
        return Ok(None);
    };
    let (header_len, checksum) = (ByteFields(&header).le32(12), ByteFields(&header).le32(16));
    if !header.starts_with(GPT_MAGIC)
        || header_len < GPT_HEADER_LEN_MIN
        || u64::from(header_len) > sector_len
    {
        return Ok(None);
    }
    header
        .iter_mut()
        .skip(16)
        .take(4)
        .for_each(|byte| *byte = 0);
    let fields = ByteFields(&header);
    let (count, entry_len) = (u64::from(fields.le32(80)), u64::from(fields.le32(84)));
    let table_len = count * entry_len;
    let fits = entry_len.is_power_of_two() && entry_len >= 128 && table_len <= GPT_TABLE_LEN_MAX;
    if crc32(header.get(..header_len as usize).unwrap_or_default()) != checksum || !fits {
        return Ok(None);
    }
    let Some(at) = fields.le64(72).checked_mul(sector_len) else {
        return Ok(None);
    };
    let table = read_some(disk, Some(at), table_len)?;
    let table = table.filter(|table| crc32(table) == fields.le32(88));
    let own = sector * sector_len;
    Ok(table.map(|table| PartitionTable {
        partitions: gpt_partitions(&table, entry_len as usize, sector_len),
        tables: vec![0..sector_len, own..own + sector_len, at..at + table_len],
        ..PartitionTable::default()
    }))
}

fn gpt_partitions(table: &[u8], entry_len: usize, sector_len: u64) -> Vec<Partition> {
    let partition = |(number, entry): (u32, &[u8])| {
        let fields = ByteFields(entry);
        let is_used = entry.iter().take(16).any(|byte| *byte != 0);
        let (first, last) = (fields.le64(32), fields.le64(40));
        let len = last
            .checked_sub(first)?
            .checked_add(1)?
            .checked_mul(sector_len)?;
        let foreign = FOREIGN_GUIDS
            .iter()
            .find(|(guid, _)| entry.starts_with(guid));
        is_used.then_some(Partition {
            volume: Volume {
                partition: Some(number),
                start: first.checked_mul(sector_len)?,
                len,
            },
            foreign: foreign.map(|(_, name)| *name),
        })
    };
    (1..)
        .zip(table.chunks(entry_len))
        .filter_map(partition)
        .collect()
}

/// `len` bytes from `offset`, if the disk has them. The caller bounds `len`.
fn read_some(disk: &dyn ReadAt, offset: Option<u64>, len: u64) -> io::Result<Option<Vec<u8>>> {
    let inside = |offset: &u64| offset.checked_add(len).is_some_and(|end| end <= disk.len());
    let Some(offset) = offset.filter(inside) else {
        return Ok(None);
    };
    let mut bytes = vec![0; len as usize];
    disk.read_exact_at(&mut bytes, offset)?;
    Ok(Some(bytes))
}

/// CRC-32 as in Ethernet and zip.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    !crc32_from(u32::MAX, bytes)
}

/// The register of the same CRC-32 that began as `start`, neither end inverted.
pub(super) fn crc32_from(start: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(start, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 {
                crc >> 1 ^ 0xedb8_8320
            } else {
                crc >> 1
            }
        })
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checksum_is_the_one_that_everybody_means() {
        assert_eq!(super::crc32(b"123456789"), 0xcbf4_3926);
    }
}
