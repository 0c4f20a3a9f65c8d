//! XFS: which blocks the trees of free extents name, one tree for each allocation group. The few
//! that each group keeps ready for its trees (the AGFL) are not in them.
//!
//! ```text
//! Superblock (at byte 0; Linux fs/xfs/libxfs/xfs_format.h; big-endian)
//! offset  size  meaning                                            guards against
//! 0       4     "XFSB"
//! 4       4     a block's length
//! 8       8     blocks                                             blocks past the volume's end
//! 84      4     blocks in an allocation group
//! 88      4     how many groups
//! 102     2     a sector's length
//!
//! Group header (the second sector of each group)
//! 0       4     "XAGF"
//! 12      4     blocks in this group                               extents past its end
//! 16      4     root of the tree by block number
//!
//! Block of that tree
//! 0       4     "ABTB", "AB3B" with checksums
//! 4       2     level: 0 for leaves                                a tree without leaves
//! 6       2     how many records
//! 12      4     the next block of this level, all ones for none    a ring
//! 16 (56) 8×n   leaf: first block and count of blocks. Above: keys, then 4 bytes for each block
//!               below
//! ```

use super::bytes::Fields;
use super::{GuestError, Visit, Volume};
use crate::source::ReadAt;

const BLOCK_LENS: std::ops::RangeInclusive<u64> = 512..=65_536;
/// Groups of at most 1 TiB, at least 16 MiB: 1 PiB of the smallest.
const GROUPS_MAX: u64 = 1 << 26;
/// Levels of a tree: each has at least twice the blocks of the one above.
const LEVELS_MAX: u16 = 10;
const NONE: u64 = 0xffff_ffff;

struct Superblock {
    block_len: u64,
    blocks: u64,
    group_blocks: u64,
    groups: u64,
    sector_len: u64,
}

/// One allocation group.
struct Group {
    /// Its first block in the volume.
    first: u64,
    blocks: u64,
}

pub(super) fn free_space(
    disk: &dyn ReadAt,
    volume: &Volume,
    visit: Visit<'_>,
) -> Result<Option<&'static str>, GuestError> {
    let mut bytes = [0; 512];
    if !volume.read(disk, 0, &mut bytes)? || !bytes.starts_with(b"XFSB") {
        return Ok(None);
    }
    let superblock = Superblock::parse(Fields(&bytes), volume.len)?;
    let mut block = vec![0; superblock.block_len as usize];
    for number in 0..superblock.groups {
        walk(disk, volume, &superblock, number, &mut block, &mut *visit)?;
    }
    Ok(Some("xfs"))
}

fn malformed<T>(reason: &'static str) -> Result<T, GuestError> {
    Err(GuestError::Malformed {
        kind: "xfs",
        reason,
    })
}

impl Superblock {
    fn parse(fields: Fields<'_>, volume_len: u64) -> Result<Self, GuestError> {
        let parsed = Self {
            block_len: fields.be32(4).into(),
            blocks: fields.be64(8),
            group_blocks: fields.be32(84).into(),
            groups: fields.be32(88).into(),
            sector_len: fields.be16(102).into(),
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
        Ok(parsed)
    }
}

/// Visits the free extents of group `number`: down to the first leaf, then along the leaves.
fn walk(
    disk: &dyn ReadAt,
    volume: &Volume,
    superblock: &Superblock,
    number: u64,
    bytes: &mut [u8],
    visit: Visit<'_>,
) -> Result<(), GuestError> {
    let first = number * superblock.group_blocks;
    let mut header = [0; 64];
    if !volume.read(
        disk,
        first * superblock.block_len + superblock.sector_len,
        &mut header,
    )? || !header.starts_with(b"XAGF")
    {
        return malformed("a group without its header");
    }
    let blocks = superblock.group_blocks.min(superblock.blocks - first);
    if u64::from(Fields(&header).be32(12)) > blocks {
        return malformed("the length of a group");
    }
    let group = Group { first, blocks };
    let mut next = Fields(&header).be32(16).into();
    let mut level = None;
    let mut end = 0;
    // Each leaf moves the end on, so there are fewer than blocks; a level has one block on the way
    // down.
    while next != NONE {
        group.read(disk, volume, superblock, next, bytes)?;
        let node = Node::parse(bytes, level)?;
        level = Some(node.level.saturating_sub(1));
        if node.level > 0 {
            next = node.first_child();
            continue;
        }
        for nth in 0..node.records {
            let extent = node.extent(nth);
            if extent.start < end || extent.end > group.blocks || extent.is_empty() {
                return malformed("its free extents are not in order");
            }
            end = extent.end;
            let offset = |block: u64| (group.first + block) * superblock.block_len;
            visit(volume.place(offset(extent.start)..offset(extent.end)))?;
        }
        next = node.next;
        if node.records == 0 && next != NONE {
            return malformed("a leaf without extents");
        }
    }
    Ok(())
}

impl Group {
    fn read(
        &self,
        disk: &dyn ReadAt,
        volume: &Volume,
        superblock: &Superblock,
        block: u64,
        bytes: &mut [u8],
    ) -> Result<(), GuestError> {
        if block >= self.blocks
            || !volume.read(disk, (self.first + block) * superblock.block_len, bytes)?
        {
            return malformed("a block past the end of its group");
        }
        Ok(())
    }
}

/// A block of a tree.
struct Node<'b> {
    fields: Fields<'b>,
    block_len: usize,
    head_len: usize,
    level: u16,
    records: usize,
    next: u64,
}

impl<'b> Node<'b> {
    /// The node in `bytes`, which must be of `level` if that is known already.
    fn parse(bytes: &'b [u8], level: Option<u16>) -> Result<Self, GuestError> {
        let fields = Fields(bytes);
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

    fn extent(&self, nth: usize) -> std::ops::Range<u64> {
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
