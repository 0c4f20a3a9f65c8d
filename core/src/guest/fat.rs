//! FAT12, FAT16 and FAT32: which clusters their tables call free.
//!
//! ```text
//! Boot sector (Microsoft's fatgen103; little-endian)
//! 0x0b    2     a sector's length
//! 0x0d    1     sectors of a cluster
//! 0x0e    2     sectors before the first table
//! 0x10    1     tables
//! 0x11    2     entries of the root directory; 0 in FAT32
//! 0x13    2     sectors, or 0 and at 0x20 in 4 bytes               clusters past the volume's end
//! 0x15    1     kind of medium, which begins each table            a table that is none
//! 0x16    2     sectors of a table; 0 in FAT32, which has it at 0x24 in 4 bytes
//! 0x25    1     1 while Linux has it mounted; in FAT32 at 0x41
//! 0x28    2     FAT32: 0x80 only one table is used, which in the low 4 bits
//! 0x2a    2     FAT32: version 0
//! 0x2c    4     FAT32: first cluster of the root directory
//! 0x36    8     "FAT12   ", "FAT16   "; "FAT32   " at 0x52
//! 0x1fe   2     0x55 0xaa
//!
//! Entry of a table: 12, 16 or 32 bits (of which 28 count), from cluster 2 on; 0 is free. Entry 1:
//! the highest bit that counts is clear while it is mounted, the next after an error (not FAT12)
//! ```

use std::ops::Range;

use super::bytes::ByteFields;
use super::{FreeVerdict, GuestError, GuestFileSystem, Visit, Volume};
use crate::source::ReadAt;

/// A multiple of what one, two and three bytes' entries fill.
const WINDOW_LEN: u64 = 12 << 10;
/// Clusters of FAT12 and FAT16 at most; which of them it is goes by their number alone.
const FAT12_CLUSTERS_MAX: u64 = 4084;
const FAT16_CLUSTERS_MAX: u64 = 65_524;
const FAT32_CLUSTERS_MAX: u64 = 0x0fff_fff4;
/// Marked in the boot sector while Linux has it mounted.
const MOUNTED: u8 = 1;
/// The number of the first cluster.
const FIRST: u64 = 2;

struct Fat {
    bits: u64,
    /// The first byte of each table in use, and a table's length.
    tables: Vec<u64>,
    table_len: u64,
    data: u64,
    cluster_len: u64,
    clusters: u64,
    root: Option<u64>,
    medium: u8,
    is_mounted: bool,
}

pub(super) fn free_space(
    disk: &dyn ReadAt,
    volume: &Volume,
    visit: Visit<'_>,
) -> Result<Option<GuestFileSystem>, GuestError> {
    let mut boot = [0; 512];
    if !volume.try_read_at(disk, 0, &mut boot)? || !is_fat(ByteFields(&boot)) {
        return Ok(None);
    }
    let fat = Fat::parse(ByteFields(&boot), volume.len)?;
    let verdict = fat.visit_free(disk, volume, visit)?;
    Ok(Some(GuestFileSystem {
        kind: "fat",
        verdict,
    }))
}

fn malformed<T>(reason: &'static str) -> Result<T, GuestError> {
    Err(GuestError::Malformed {
        kind: "fat",
        reason,
    })
}

fn is_fat(fields: ByteFields<'_>) -> bool {
    fields.starts_with(510, &[0x55, 0xaa])
        && (fields.starts_with(0x36, b"FAT") || fields.starts_with(0x52, b"FAT32   "))
}

impl Fat {
    fn parse(fields: ByteFields<'_>, volume_len: u64) -> Result<Self, GuestError> {
        let sector_len = u64::from(fields.le16(0x0b));
        let cluster_sectors = u64::from(fields.u8(0x0d));
        if !sector_len.is_power_of_two()
            || !(512..=4096).contains(&sector_len)
            || !cluster_sectors.is_power_of_two()
        {
            return malformed("the length of its clusters");
        }
        let either = |short: usize, long: usize| match fields.le16(short) {
            0 => u64::from(fields.le32(long)),
            short => short.into(),
        };
        let is_wide = fields.le16(0x16) == 0;
        let (table_sectors, sectors) = (either(0x16, 0x24), either(0x13, 0x20));
        let (before, tables) = (u64::from(fields.le16(0x0e)), u64::from(fields.u8(0x10)));
        let root_sectors = (u64::from(fields.le16(0x11)) * 32).div_ceil(sector_len);
        let data = before + tables * table_sectors + root_sectors;
        if before == 0 || !(1..=4).contains(&tables) || data >= sectors {
            return malformed("the place of its tables");
        }
        if sectors * sector_len > volume_len {
            return malformed("the number of its sectors");
        }
        let clusters = (sectors - data) / cluster_sectors;
        let (bits, clusters_max) = match clusters {
            _ if is_wide => (32, FAT32_CLUSTERS_MAX),
            ..=FAT12_CLUSTERS_MAX => (12, FAT12_CLUSTERS_MAX),
            _ => (16, FAT16_CLUSTERS_MAX),
        };
        let table_len = table_sectors * sector_len;
        let needed = ((clusters + FIRST) * bits).div_ceil(8);
        if clusters > clusters_max || needed > table_len || is_wide && fields.le16(0x2a) != 0 {
            return malformed("the number of its clusters");
        }
        let flags = if is_wide { fields.le16(0x28) } else { 0 };
        let is_used = |nth: &u64| flags & 0x80 == 0 || *nth == u64::from(flags & 15);
        let root = is_wide.then(|| u64::from(fields.le32(0x2c)));
        Ok(Self {
            bits,
            tables: (0..tables)
                .filter(is_used)
                .map(|nth| before * sector_len + nth * table_len)
                .collect(),
            table_len,
            data: data * sector_len,
            cluster_len: cluster_sectors * sector_len,
            clusters,
            root,
            medium: fields.u8(0x15),
            is_mounted: fields.u8(if is_wide { 0x41 } else { 0x25 }) & MOUNTED != 0,
        })
    }

    /// Visits the free clusters of the first table in use; the others must be like it.
    fn visit_free(
        &self,
        disk: &dyn ReadAt,
        volume: &Volume,
        visit: Visit<'_>,
    ) -> Result<FreeVerdict, GuestError> {
        let Some((first, others)) = self.tables.split_first() else {
            return malformed("the place of its tables");
        };
        let (mut table, mut other) = (vec![0; WINDOW_LEN as usize], vec![0; WINDOW_LEN as usize]);
        let mut verdict = FreeVerdict::Free;
        let (mut at, mut end) = (0, self.clusters + FIRST);
        let mut run = FreeRun { start: 0, end: 0 };
        while at < end {
            let byte = at * self.bits / 8;
            let len = WINDOW_LEN.min(self.table_len - byte);
            let (Some(table), Some(other)) =
                (table.get_mut(..len as usize), other.get_mut(..len as usize))
            else {
                break;
            };
            volume.try_read_at(disk, first + byte, table)?;
            for start in others {
                volume.try_read_at(disk, start + byte, other)?;
                if other != table {
                    verdict = verdict.or_unclean("its tables are not alike");
                }
            }
            if at == 0 {
                verdict = self.free_verdict(ByteFields(table), verdict)?;
            }
            let count = (len * 8 / self.bits).min(end - at);
            for nth in 0..count {
                let is_free = self.table_entry(ByteFields(table), nth) == 0 && at + nth >= FIRST;
                if is_free && self.root == Some(at + nth) {
                    return malformed("its root directory is free");
                }
                if let Some(done) = run.push_cluster(at + nth, is_free) {
                    visit(volume.disk_range(self.cluster_bytes(done)))?;
                }
            }
            at += count;
            // A table that ends inside an entry.
            end = if count == 0 { at } else { end };
        }
        if let Some(done) = run.take_run() {
            visit(volume.disk_range(self.cluster_bytes(done)))?;
        }
        Ok(verdict)
    }

    fn table_entry(&self, table: ByteFields<'_>, nth: u64) -> u32 {
        let nth = nth as usize;
        match self.bits {
            12 if nth.is_multiple_of(2) => u32::from(table.le16(nth * 3 / 2)) & 0xfff,
            12 => u32::from(table.le16(nth * 3 / 2)) >> 4,
            16 => table.le16(nth * 2).into(),
            _ => table.le32(nth * 4) & 0x0fff_ffff,
        }
    }

    /// The verdict of the first two entries and the boot sector.
    fn free_verdict(
        &self,
        table: ByteFields<'_>,
        verdict: FreeVerdict,
    ) -> Result<FreeVerdict, GuestError> {
        if self.table_entry(table, 0) & 0xff != u32::from(self.medium) {
            return malformed("its table is none");
        }
        let mut verdict = verdict;
        let (closed, sound) = match self.bits {
            12 => (0, 0),
            16 => (0x8000, 0x4000),
            _ => (0x0800_0000, 0x0400_0000),
        };
        let state = self.table_entry(table, 1);
        if self.is_mounted || state & closed != closed {
            verdict = verdict.or_unclean("it is mounted, or was not unmounted");
        }
        if state & sound != sound {
            verdict = verdict.or_unclean("it has noted errors");
        }
        Ok(verdict)
    }

    fn cluster_bytes(&self, clusters: Range<u64>) -> Range<u64> {
        let at = |cluster: u64| self.data + (cluster - FIRST) * self.cluster_len;
        at(clusters.start)..at(clusters.end)
    }
}

/// Free clusters one after the other, until one is not.
struct FreeRun {
    start: u64,
    end: u64,
}

impl FreeRun {
    /// Takes the next cluster; the run before it, if it ends here.
    fn push_cluster(&mut self, cluster: u64, is_free: bool) -> Option<Range<u64>> {
        if !is_free {
            return self.take_run();
        }
        if self.start == self.end {
            self.start = cluster;
        }
        self.end = cluster + 1;
        None
    }

    fn take_run(&mut self) -> Option<Range<u64>> {
        let run = self.start..self.end;
        self.start = self.end;
        (!run.is_empty()).then_some(run)
    }
}
