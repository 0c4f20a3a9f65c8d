//! The journal of ext3 and ext4: where it begins, and whether something in it is to be replayed.
//!
//! ```text
//! Superblock of the file system (Linux fs/ext4/ext4.h; little-endian)
//! 0x4c    4     revision: 0 has no copy of the journal's inode
//! 0xfd    1     1: what follows is the journal's inode
//! 0x10c   60    its extents, or its blocks
//! Extents: 0xf30a (2 bytes), how many (2) at 2, their depth (2) at 6; the first from 12 on: its
//! block in the journal (4), length (2), its block in the volume (high 2, low 4)
//!
//! Superblock of the journal, in its first block (include/linux/jbd2.h; big-endian)
//! 0x00    4     0xc03b3998
//! 0x04    4     3 or 4
//! 0x1c    4     the first block of what is to be replayed; 0 is nothing
//! 0x20    4     its error
//! ```

use super::bytes::ByteFields;
use super::{GuestError, Volume};
use crate::source::ReadAt;

const MAGIC: u32 = 0xc03b_3998;
const EXTENTS_MAGIC: u16 = 0xf30a;
const INODE_AT: usize = 0x10c;

/// The first block of the journal, from the copy of its inode that the file system's superblock
/// has.
pub(super) fn first_block(superblock: ByteFields<'_>) -> Option<u64> {
    if superblock.le32(0x4c) == 0 || superblock.u8(0xfd) != 1 {
        return None;
    }
    let inode = ByteFields(superblock.slice_of(INODE_AT..INODE_AT + 60));
    if inode.le16(0) != EXTENTS_MAGIC {
        return Some(inode.le32(0).into());
    }
    let is_leaf = inode.le16(6) == 0 && inode.le16(2) > 0 && inode.le32(12) == 0;
    is_leaf.then(|| u64::from(inode.le16(18)) << 32 | u64::from(inode.le32(20)))
}

/// True if nothing in the journal whose first block is at byte `at` is to be replayed.
pub(super) fn is_empty(disk: &dyn ReadAt, volume: &Volume, at: u64) -> Result<bool, GuestError> {
    let mut bytes = [0; 64];
    if !volume.try_read_at(disk, at, &mut bytes)? {
        return Ok(false);
    }
    let fields = ByteFields(&bytes);
    Ok(fields.be32(0) == MAGIC
        && [3, 4].contains(&fields.be32(4))
        && fields.be32(0x1c) == 0
        && fields.be32(0x20) == 0)
}
