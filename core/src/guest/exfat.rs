//! exFAT: which clusters its bitmap calls free.
//!
//! ```text
//! Boot sector (Microsoft's exFAT specification; little-endian)
//! 3       8     "EXFAT   "
//! 72      8     sectors                                            clusters past the volume's end
//! 80      8     first sector and length of the table
//! 88      4     first sector of cluster 2
//! 92      4     clusters
//! 96      4     first cluster of the root directory
//! 104     2     version: 1.x
//! 106     2     flags: 1 the second table counts, 2 dirty, 4 errors
//! 108     1     a sector's length is two to this power
//! 109     1     a cluster is two to this power of sectors
//! 110     1     tables
//!
//! Entry of the root directory (32 bytes): the bitmap's is 0x81
//! 1       1     1 is the second table's
//! 20      4     its first cluster
//! 24      8     its length
//!
//! Entry of the table (4 bytes): the cluster that follows
//! ```

use super::bits::next_clear;
use super::bytes::ByteFields;
use super::{FreeVerdict, GuestError, GuestFileSystem, Visit, Volume};
use crate::source::ReadAt;

const MAGIC: &[u8] = b"EXFAT   ";
const FIRST: u32 = 2;
const CLUSTER_LEN_MAX: u64 = 32 << 20;
const BITMAP_ENTRY: u8 = 0x81;
const ENTRY_LEN: usize = 32;
/// Clusters of the root directory that are searched for the bitmap, which is one of its first
/// entries.
const ROOT_CLUSTERS_MAX: usize = 64;
/// Bytes that are read at once.
const PART_LEN: u64 = 64 << 10;

struct Exfat<'d> {
    disk: &'d dyn ReadAt,
    volume: &'d Volume,
    sector_len: u64,
    cluster_len: u64,
    table: u64,
    heap: u64,
    clusters: u32,
    root: u32,
    flags: u16,
}

pub(super) fn free_space(
    disk: &dyn ReadAt,
    volume: &Volume,
    visit: Visit<'_>,
) -> Result<Option<GuestFileSystem>, GuestError> {
    let mut boot = [0; 512];
    if !volume.try_read_at(disk, 0, &mut boot)? || !ByteFields(&boot).starts_with(3, MAGIC) {
        return Ok(None);
    }
    let fields = ByteFields(&boot);
    let found = |verdict| {
        Ok(Some(GuestFileSystem {
            kind: "exfat",
            verdict,
        }))
    };
    if fields.le16(104) >> 8 != 1 || fields.u8(110) != 1 || fields.le16(106) & 1 != 0 {
        return found(FreeVerdict::kept_because(
            "it has features that are not known here",
        ));
    }
    let exfat = Exfat::parse(disk, volume, fields)?;
    exfat.visit_free(visit)?;
    found(match exfat.flags & 6 {
        0 => FreeVerdict::Free,
        2 => FreeVerdict::unclean_because("it is mounted, or was not unmounted"),
        _ => FreeVerdict::unclean_because("it has noted errors"),
    })
}

fn malformed<T>(reason: &'static str) -> Result<T, GuestError> {
    Err(GuestError::Malformed {
        kind: "exfat",
        reason,
    })
}

impl<'d> Exfat<'d> {
    fn parse(
        disk: &'d dyn ReadAt,
        volume: &'d Volume,
        fields: ByteFields<'_>,
    ) -> Result<Self, GuestError> {
        let (sector_bits, cluster_bits) = (fields.u8(108), fields.u8(109));
        if !(9..=12).contains(&sector_bits) || cluster_bits > 25 - sector_bits {
            return malformed("the length of its clusters");
        }
        let sector_len = 1_u64 << sector_bits;
        let parsed = Self {
            disk,
            volume,
            sector_len,
            cluster_len: sector_len << cluster_bits,
            table: u64::from(fields.le32(80)) * sector_len,
            heap: u64::from(fields.le32(88)) * sector_len,
            clusters: fields.le32(92),
            root: fields.le32(96),
            flags: fields.le16(106),
        };
        let end = parsed.heap + u64::from(parsed.clusters) * parsed.cluster_len;
        let len = fields.le64(72).checked_mul(sector_len);
        let fits = len.is_some_and(|len| len <= volume.len && end <= len);
        let table_len = u64::from(fields.le32(84)) * sector_len;
        if !fits
            || table_len < (u64::from(parsed.clusters) + 2) * 4
            || parsed.table < sector_len * 24
            || parsed.table + table_len > parsed.heap
            || parsed.cluster_len > CLUSTER_LEN_MAX
        {
            return malformed("the number of its clusters");
        }
        Ok(parsed)
    }

    /// The first byte of a cluster in the volume.
    fn cluster_offset(&self, cluster: u32) -> Result<u64, GuestError> {
        match cluster.checked_sub(FIRST) {
            Some(nth) if nth < self.clusters => Ok(self.heap + u64::from(nth) * self.cluster_len),
            _ => malformed("a cluster past its end"),
        }
    }

    fn next_cluster(&self, cluster: u32) -> Result<u32, GuestError> {
        let mut entry = [0; 4];
        self.volume
            .try_read_at(self.disk, self.table + 4 * u64::from(cluster), &mut entry)?;
        Ok(u32::from_le_bytes(entry))
    }

    /// The first cluster of the bitmap, and its length, from the root directory.
    fn find_bitmap(&self) -> Result<(u32, u64), GuestError> {
        let mut cluster = self.root;
        let mut sector = vec![0; self.sector_len as usize];
        for _ in 0..ROOT_CLUSTERS_MAX {
            let start = self.cluster_offset(cluster)?;
            for at in (0..self.cluster_len).step_by(self.sector_len as usize) {
                self.volume
                    .try_read_at(self.disk, start + at, &mut sector)?;
                for entry in sector.chunks(ENTRY_LEN).map(ByteFields) {
                    match entry.u8(0) {
                        BITMAP_ENTRY if entry.u8(1) & 1 == 0 => {
                            return Ok((entry.le32(20), entry.le64(24)));
                        }
                        0 => return malformed("a root directory without a bitmap"),
                        _ => {}
                    }
                }
            }
            cluster = self.next_cluster(cluster)?;
        }
        malformed("a root directory without a bitmap")
    }

    fn visit_free(&self, visit: Visit<'_>) -> Result<(), GuestError> {
        let (mut cluster, len) = self.find_bitmap()?;
        let own = [self.root - FIRST, cluster.wrapping_sub(FIRST)];
        let total = u64::from(self.clusters);
        if len < total.div_ceil(8) {
            return malformed("its bitmap is too short");
        }
        let mut part = vec![0; PART_LEN.min(self.cluster_len) as usize];
        let mut first = 0;
        loop {
            let start = self.cluster_offset(cluster)?;
            for at in (0..self.cluster_len).step_by(part.len()) {
                if first >= total {
                    return Ok(());
                }
                self.volume.try_read_at(self.disk, start + at, &mut part)?;
                let bits = (part.len() as u64 * 8).min(total - first);
                self.clear_bits(&part, first, bits, own, &mut *visit)?;
                first += part.len() as u64 * 8;
            }
            if first >= total {
                return Ok(());
            }
            cluster = self.next_cluster(cluster)?;
        }
    }

    fn clear_bits(
        &self,
        part: &[u8],
        first: u64,
        bits: u64,
        own: [u32; 2],
        visit: Visit<'_>,
    ) -> Result<(), GuestError> {
        let mut bit = 0;
        while bit < bits {
            let clear = next_clear(part, bit, bits);
            bit = clear.end;
            if clear.is_empty() {
                continue;
            }
            let clusters = first + clear.start..first + clear.end;
            if own.iter().any(|own| clusters.contains(&u64::from(*own))) {
                return malformed("its bitmap calls its own tables free");
            }
            let at = |cluster: u64| self.heap + cluster * self.cluster_len;
            visit(self.volume.disk_range(at(clusters.start)..at(clusters.end)))?;
        }
        Ok(())
    }
}
