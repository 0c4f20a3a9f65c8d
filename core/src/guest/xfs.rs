//! XFS: which blocks the trees of free extents name, one tree for each allocation group. The few
//! that each group keeps ready for its trees (the AGFL) are not in them.
//!
//! ```text
//! Superblock (at byte 0; Linux fs/xfs/libxfs/xfs_format.h; big-endian)
//! offset  size  meaning                                            guards against
//! 0       4     "XFSB"
//! 4       4     a block's length
//! 8       8     blocks                                             blocks past the volume's end
//! 48      8     the log's first block, its group in the high bits; 0 is another device
//! 84      4     blocks in an allocation group
//! 88      4     how many groups
//! 96      4     blocks of the log
//! 100     2     version in the low 4 bits: 5 has checksums and the features below
//! 102     2     a sector's length
//! 124     1     low bits of a block's number that are not its group
//! 126     1     1 while it is being made or grown
//! 208     16    features: compatible, read-only compatible, incompatible, of the log
//! 224     4     CRC-32C of the sector (version 5)                  damage
//!
//! Group header (the second sector of each group)
//! 0       4     "XAGF"
//! 12      4     blocks in this group                               extents past its end
//! 16      4     root of the tree by block number
//! 52      4     free blocks                                        a tree that is not this group's
//! 216     4     CRC-32C of the sector (version 5)                  damage
//!
//! Block of that tree
//! 0       4     "ABTB", "AB3B" with checksums
//! 4       2     level: 0 for leaves                                a tree without leaves
//! 6       2     how many records
//! 12      4     the next block of this level, all ones for none    a ring
//! 52      4     CRC-32C of the block (AB3B)                        damage
//! 16 (56) 8×n   leaf: first block and count of blocks. Above: keys, then 4 bytes for each block
//!               below
//! ```

use super::bytes::ByteFields;
use super::{FreeVerdict, GuestError, GuestFileSystem, Visit, Volume, xfs_log};
use crate::source::ReadAt;

const BLOCK_LENS: std::ops::RangeInclusive<u64> = 512..=65_536;
/// Groups of at most 1 TiB, at least 16 MiB: 1 PiB of the smallest.
const GROUPS_MAX: u64 = 1 << 26;
/// Levels of a tree: each has at least twice the blocks of the one above.
const LEVELS_MAX: u16 = 10;
const NONE: u64 = 0xffff_ffff;
/// Trees of free inodes, of owners and of references, counted inodes.
const READ_ONLY_KNOWN: u32 = 0xf;
/// All until Linux 6.15: file types, sparse inodes, own UUID for metadata, large times, need of
/// repair, large counts, exchange of ranges, parents, and metadata in directories. Zones are not.
const INCOMPATIBLE_KNOWN: u32 = 0x1ff;
const INCOMPATIBLE_NEEDS_REPAIR: u32 = 0x10;
const CHECKSUM_AT: usize = 224;
const GROUP_CHECKSUM_AT: usize = 216;
const NODE_CHECKSUM_AT: usize = 52;

struct XfsSuperblock {
    block_len: u64,
    blocks: u64,
    group_blocks: u64,
    groups: u64,
    sector_len: u64,
    has_checksums: bool,
    is_unfinished: bool,
    read_only: u32,
    incompatible: u32,
    /// The first byte of the log in the volume, and its length; `None` if it is elsewhere.
    log: Option<(u64, u64)>,
}

/// One allocation group.
struct XfsAllocationGroup {
    /// Its first block in the volume.
    first: u64,
    blocks: u64,
}

pub(super) fn free_space(
    disk: &dyn ReadAt,
    volume: &Volume,
    visit: Visit<'_>,
) -> Result<Option<GuestFileSystem>, GuestError> {
    let mut bytes = [0; 512];
    if !volume.try_read_at(disk, 0, &mut bytes)? || !bytes.starts_with(b"XFSB") {
        return Ok(None);
    }
    let superblock = XfsSuperblock::parse(ByteFields(&bytes), volume.len)?;
    let mut verdict = superblock.free_verdict(disk, volume)?;
    let kind = "xfs";
    if matches!(verdict, FreeVerdict::Kept(_)) {
        return Ok(Some(GuestFileSystem { kind, verdict }));
    }
    let mut block = vec![0; superblock.block_len as usize];
    for number in 0..superblock.groups {
        if !visit_group(disk, volume, &superblock, number, &mut block, &mut *visit)? {
            verdict = verdict.or_unclean("the free blocks of a group are not what its header says");
        }
    }
    Ok(Some(GuestFileSystem { kind, verdict }))
}

/// True if the little-endian CRC-32C at `at` is that of `bytes` with zeros in its place.
fn is_sound(bytes: &[u8], at: usize) -> bool {
    let fields = ByteFields(bytes);
    let sum = crc32c::crc32c(fields.slice_of(0..at));
    let sum = crc32c::crc32c_append(sum, &[0; 4]);
    crc32c::crc32c_append(sum, fields.slice_of(at + 4..bytes.len())) == fields.le32(at)
}

fn malformed<T>(reason: &'static str) -> Result<T, GuestError> {
    Err(GuestError::Malformed {
        kind: "xfs",
        reason,
    })
}

impl XfsSuperblock {
    fn parse(fields: ByteFields<'_>, volume_len: u64) -> Result<Self, GuestError> {
        let has_checksums = fields.be16(100) & 0xf == 5;
        let feature = |at: usize| if has_checksums { fields.be32(at) } else { 0 };
        let mut parsed = Self {
            block_len: fields.be32(4).into(),
            blocks: fields.be64(8),
            group_blocks: fields.be32(84).into(),
            groups: fields.be32(88).into(),
            sector_len: fields.be16(102).into(),
            has_checksums,
            is_unfinished: fields.u8(126) != 0,
            read_only: feature(212),
            incompatible: feature(216),
            log: None,
        };
        if !parsed.block_len.is_power_of_two() || !BLOCK_LENS.contains(&parsed.block_len) {
            return malformed("the length of its blocks");
        }
        if !parsed.sector_len.is_power_of_two()
            || !(512..=parsed.block_len).contains(&parsed.sector_len)
        {
            return malformed("the length of its sectors");
        }
        let is_covered = parsed.group_blocks > 0
            && parsed.blocks.div_ceil(parsed.group_blocks.max(1)) == parsed.groups;
        if !is_covered
            || parsed.groups > GROUPS_MAX
            || parsed.blocks > volume_len / parsed.block_len
        {
            return malformed("the number of its blocks");
        }
        parsed.log = parsed.log_location(fields);
        Ok(parsed)
    }

    /// The log's place. A block is called by its group and its number in it.
    fn log_location(&self, fields: ByteFields<'_>) -> Option<(u64, u64)> {
        let (start, bits) = (fields.be64(48), u32::from(fields.u8(124)));
        let group = start.checked_shr(bits)?;
        let block = start ^ group.checked_shl(bits)?;
        let first = group.checked_mul(self.group_blocks)?.checked_add(block)?;
        let count = u64::from(fields.be32(96));
        let fits = first.checked_add(count)? <= self.blocks && block < self.group_blocks;
        (start > 0 && fits).then(|| (first * self.block_len, count * self.block_len))
    }

    /// The verdict of the superblock and the log.
    fn free_verdict(&self, disk: &dyn ReadAt, volume: &Volume) -> Result<FreeVerdict, GuestError> {
        if self.read_only & !READ_ONLY_KNOWN != 0 || self.incompatible & !INCOMPATIBLE_KNOWN != 0 {
            return Ok(FreeVerdict::kept_because(
                "it has features that are not known here",
            ));
        }
        let Some((start, len)) = self.log else {
            return Ok(FreeVerdict::kept_because("its log is not in it"));
        };
        let mut sector = vec![0; self.sector_len as usize];
        volume.try_read_at(disk, 0, &mut sector)?;
        let verdict = if self.has_checksums && !is_sound(&sector, CHECKSUM_AT) {
            FreeVerdict::unclean_because("its superblock does not have its checksum")
        } else if self.is_unfinished || self.incompatible & INCOMPATIBLE_NEEDS_REPAIR != 0 {
            FreeVerdict::unclean_because("it needs xfs_repair")
        } else if xfs_log::is_clean(disk, volume, start, len)? {
            FreeVerdict::Free
        } else {
            FreeVerdict::unclean_because(
                "it is mounted, or was not unmounted: its log is not empty",
            )
        };
        Ok(verdict)
    }
}

/// Visits the free extents of group `number`: down to the first leaf, then along the leaves.
/// False if checksums or the number of free blocks speak against what was visited.
fn visit_group(
    disk: &dyn ReadAt,
    volume: &Volume,
    superblock: &XfsSuperblock,
    number: u64,
    bytes: &mut [u8],
    visit: Visit<'_>,
) -> Result<bool, GuestError> {
    let first = number * superblock.group_blocks;
    let mut header = vec![0; superblock.sector_len as usize];
    let at = first * superblock.block_len + superblock.sector_len;
    if !volume.try_read_at(disk, at, &mut header)? || !header.starts_with(b"XAGF") {
        return malformed("a group without its header");
    }
    let blocks = superblock.group_blocks.min(superblock.blocks - first);
    let header_fields = ByteFields(&header);
    if u64::from(header_fields.be32(12)) > blocks {
        return malformed("the length of a group");
    }
    let mut sound = !superblock.has_checksums || is_sound(&header, GROUP_CHECKSUM_AT);
    let mut free_blocks = 0;
    let group = XfsAllocationGroup { first, blocks };
    let mut next = header_fields.be32(16).into();
    let mut level = None;
    let mut end = 0;
    // Each leaf moves the end on, so there are fewer than blocks; a level has one block on the way
    // down.
    while next != NONE {
        group.read_block(disk, volume, superblock, next, bytes)?;
        let node = XfsBtreeBlock::parse(bytes, level)?;
        sound &= !superblock.has_checksums || is_sound(bytes, NODE_CHECKSUM_AT);
        level = Some(node.level.saturating_sub(1));
        if node.level > 0 {
            next = node.first_child();
            continue;
        }
        for nth in 0..node.records {
            let extent = node.extent_at(nth);
            if extent.start < end || extent.end > group.blocks || extent.is_empty() {
                return malformed("its free extents are not in order");
            }
            end = extent.end;
            free_blocks += extent.end - extent.start;
            let offset = |block: u64| (group.first + block) * superblock.block_len;
            visit(volume.disk_range(offset(extent.start)..offset(extent.end)))?;
        }
        next = node.next;
        if node.records == 0 && next != NONE {
            return malformed("a leaf without extents");
        }
    }
    Ok(sound && free_blocks == u64::from(header_fields.be32(52)))
}

impl XfsAllocationGroup {
    fn read_block(
        &self,
        disk: &dyn ReadAt,
        volume: &Volume,
        superblock: &XfsSuperblock,
        block: u64,
        bytes: &mut [u8],
    ) -> Result<(), GuestError> {
        if block >= self.blocks
            || !volume.try_read_at(disk, (self.first + block) * superblock.block_len, bytes)?
        {
            return malformed("a block past the end of its group");
        }
        Ok(())
    }
}

/// A block of a tree.
struct XfsBtreeBlock<'b> {
    fields: ByteFields<'b>,
    block_len: usize,
    head_len: usize,
    level: u16,
    records: usize,
    next: u64,
}

impl<'b> XfsBtreeBlock<'b> {
    /// The node in `bytes`, which must be of `level` if that is known already.
    fn parse(bytes: &'b [u8], level: Option<u16>) -> Result<Self, GuestError> {
        let fields = ByteFields(bytes);
        let head_len = match bytes {
            [b'A', b'B', b'T', b'B', ..] => 16,
            [b'A', b'B', b'3', b'B', ..] => 56,
            _ => return malformed("a tree of free extents without its mark"),
        };
        let node = Self {
            fields,
            block_len: bytes.len(),
            head_len,
            level: fields.be16(4),
            records: fields.be16(6).into(),
            next: fields.be32(12).into(),
        };
        let record_len = if node.level == 0 { 8 } else { 12 };
        let fits = node.records <= (node.block_len - head_len) / record_len
            && (node.level == 0 || node.records > 0);
        if !fits || node.level > LEVELS_MAX || level.is_some_and(|level| level != node.level) {
            return malformed("a tree of free extents");
        }
        Ok(node)
    }

    fn extent_at(&self, nth: usize) -> std::ops::Range<u64> {
        let at = self.head_len + 8 * nth;
        let start = u64::from(self.fields.be32(at));
        start..start + u64::from(self.fields.be32(at + 4))
    }

    /// The pointers begin behind as many keys as there is room for.
    fn first_child(&self) -> u64 {
        let keys = (self.block_len - self.head_len) / 12;
        self.fields.be32(self.head_len + 8 * keys).into()
    }
}
