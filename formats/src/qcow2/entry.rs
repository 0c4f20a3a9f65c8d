//! One entry of a qcow2 table: where a table or a cluster lies, checked against the file.
//! It reads nothing; which entries there are is `table`.

use super::header::Qcow2Header;
use crate::lies_inside;

// Source: qemu docs/interop/qcow2.txt. An entry is a big-endian u64; bit 63 (refcount is one) is
// for writers.
//
// | entry             | bits     | meaning                            | the failure its check     |
// |                   |          |                                    | guards                    |
// | ----------------- | -------- | ---------------------------------- | ------------------------- |
// | L1                | 9 to 55  | offset of an L2 table, 0: none     | header, L1 or nothing     |
// |                   |          |                                    | read as a table           |
// | L2, bit 62 clear  | 0        | reads as zeros (version 3, no      | stale bytes under a zero  |
// |                   |          | subclusters)                       |                           |
// |                   | 9 to 55  | offset of the cluster, 0: none     | header or nothing read as |
// |                   |          |                                    | content                   |
// | L2, bit 62 set    | 0 to x-1 | offset of the compressed bytes     | as above                  |
// |                   | x to 61  | sectors they reach into behind the | a read of any length      |
// |                   |          | first one                          |                           |
// | L2, second u64    | 0 to 31  | subcluster is allocated            | stale bytes under a hole  |
// | (extended only)   | 32 to 63 | subcluster reads as zeros          | both at once              |
//
// x = 62 - (cluster_bits - 8). Bits not named are reserved and must be clear.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
pub(super) const COPIED: u64 = 1 << 63;
pub(super) const COMPRESSED: u64 = 1 << 62;
pub(super) const READS_AS_ZEROS: u64 = 1;
/// Offsets have 56 bits, also where a compressed descriptor has room for more.
const OFFSET_MAX: u64 = (1 << 56) - 1;
const SECTOR_LEN: u64 = 512;
pub(super) const SUBCLUSTERS_BITS: u32 = 5;

/// The meaning of an L2 entry for one grain: a cluster, or a subcluster where the image has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grain {
    /// Nothing: ask the parent.
    Absent,
    /// Zeros, whatever lies below.
    Zero,
    /// Its bytes start at this offset of the file.
    Plain(u64),
    /// The cluster that it is part of is compressed.
    Compressed(CompressedCluster),
}

/// Place of a compressed cluster. The bytes after its stream are padding or another cluster's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CompressedCluster {
    /// The first byte in the file.
    pub(super) offset: u64,
    /// The bytes that the stream may reach into, clipped to the file; at most two clusters.
    pub(super) len: u64,
}

/// The rules by which the entries of one image are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct L2EntryRules {
    header: Qcow2Header,
    file_len: u64,
}

impl L2EntryRules {
    pub(super) fn new(header: Qcow2Header, file_len: u64) -> Self {
        Self { header, file_len }
    }

    /// log2 of a grain's length.
    pub(super) fn grain_bits(&self) -> u32 {
        let Qcow2Header {
            cluster_bits,
            extended,
            ..
        } = self.header;
        if extended {
            cluster_bits - SUBCLUSTERS_BITS
        } else {
            cluster_bits
        }
    }

    /// The offset of the L2 table that an L1 entry names; zero for none.
    pub(super) fn table_offset(&self, entry: u64) -> Result<u64, String> {
        let offset = entry & OFFSET_MASK;
        if entry & !(OFFSET_MASK | COPIED) != 0 {
            return Err(format!("has reserved bits: {entry:#018x}"));
        }
        if !offset.is_multiple_of(self.header.cluster_len()) {
            return Err(format!("names byte {offset}, which is not on a cluster"));
        }
        if offset != 0 {
            self.verify_place(offset, self.header.cluster_len())?;
        }
        Ok(offset)
    }

    /// The meaning of an L2 entry for its grain number `grain` (0 without subclusters), of which
    /// the image shows `visible_len` bytes.
    pub(super) fn decode_grain(
        &self,
        entry: [u64; 2],
        grain: u64,
        visible_len: u64,
    ) -> Result<Grain, String> {
        let [entry, bitmap] = entry;
        if entry & COMPRESSED != 0 {
            return self.compressed_cluster(entry).map(Grain::Compressed);
        }
        let offset = self.standard_offset(entry)?;
        let (allocated, zero) = if self.header.extended {
            subcluster_state(bitmap, grain)?
        } else {
            (offset != 0, entry & READS_AS_ZEROS != 0)
        };
        match (allocated, zero) {
            (_, true) => Ok(Grain::Zero),
            (false, false) => Ok(Grain::Absent),
            (true, false) if offset == 0 => {
                Err("has an allocated subcluster but no cluster".to_owned())
            }
            (true, false) => {
                let start = offset + (grain << self.grain_bits());
                self.verify_place(start, visible_len)?;
                Ok(Grain::Plain(start))
            }
        }
    }

    /// True if the entry claims a whole cluster of the file for content.
    pub(super) fn claims_cluster(entry: u64) -> bool {
        entry & COMPRESSED == 0 && entry & READS_AS_ZEROS == 0 && entry & OFFSET_MASK != 0
    }

    fn standard_offset(&self, entry: u64) -> Result<u64, String> {
        let flags = if self.header.zero_flag {
            READS_AS_ZEROS
        } else {
            0
        };
        let offset = entry & OFFSET_MASK;
        if entry & !(OFFSET_MASK | COPIED | flags) != 0 {
            return Err(format!("has reserved bits: {entry:#018x}"));
        }
        if !offset.is_multiple_of(self.header.cluster_len()) {
            return Err(format!("names byte {offset}, which is not on a cluster"));
        }
        if offset == 0 && entry & COPIED != 0 {
            return Err(
                "has a refcount but no offset, as in images with an external data file".to_owned(),
            );
        }
        Ok(offset)
    }

    fn compressed_cluster(&self, entry: u64) -> Result<CompressedCluster, String> {
        let sector_count_bits = self.header.cluster_bits - 8;
        let offset_bits = 62 - sector_count_bits;
        let offset = entry & ((1 << offset_bits) - 1);
        let more_sectors = (entry >> offset_bits) & ((1 << sector_count_bits) - 1);
        if offset > OFFSET_MAX {
            return Err(format!("has reserved bits: {entry:#018x}"));
        }
        self.verify_place(offset, 1)?;
        let end = (offset / SECTOR_LEN + 1 + more_sectors) * SECTOR_LEN;
        Ok(CompressedCluster {
            offset,
            len: end.min(self.file_len) - offset,
        })
    }

    /// Nothing may lie in the header's cluster, over the L1 table or behind the file's end.
    /// Overlaps beyond these are bounded by what the tables may claim together, see `table`.
    fn verify_place(&self, offset: u64, len: u64) -> Result<(), String> {
        let Qcow2Header {
            l1_offset,
            l1_count,
            ..
        } = self.header;
        if offset < self.header.cluster_len() {
            return Err(format!("names byte {offset}, inside the header"));
        }
        if !lies_inside(offset, len, self.file_len) {
            return Err(format!(
                "names {len} bytes at byte {offset}, behind the end of the file"
            ));
        }
        if offset < l1_offset + l1_count * 8 && l1_offset < offset + len {
            return Err(format!("names byte {offset}, inside the L1 table"));
        }
        Ok(())
    }
}

/// The two bits of a subcluster: it is allocated, and it reads as zeros.
fn subcluster_state(bitmap: u64, index: u64) -> Result<(bool, bool), String> {
    let allocated = bitmap >> index & 1 != 0;
    let zero = bitmap >> (index + 32) & 1 != 0;
    if allocated && zero {
        return Err(format!(
            "says that subcluster {index} is both allocated and zero"
        ));
    }
    Ok((allocated, zero))
}
