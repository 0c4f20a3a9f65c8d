//! ext2, ext3 and ext4: which blocks their bitmaps call free.
//!
//! ```text
//! Superblock (at byte 1024; Linux fs/ext4/ext4.h; little-endian)
//! offset  size  meaning                                       guards against
//! 0x04    4     blocks, low half (high half at 0x150)         blocks past the volume's end
//! 0x14    4     the first block that is in a group
//! 0x18    4     a block's length is 1024 << this
//! 0x1c    4     a cluster's length is 1024 << this (bigalloc)
//! 0x20    4     blocks in a group                             groups without number
//! 0x24    4     clusters in a group                           a bitmap that is longer than a block
//! 0x28    4     inodes in a group
//! 0x38    2     0xef53
//! 0x3a    2     state: 1 unmounted in order, 2 errors were noted    bitmaps of a moment ago
//! 0x4c    4     revision: 0 has no features
//! 0x58    2     an inode's length
//! 0x5c    12    features: compatible, incompatible, read-only compatible
//! 0xce    2     blocks kept for more descriptors
//! 0x68    16    its UUID, over which checksums begin
//! 0xfe    2     a descriptor's length (64bit)
//! 0x104   4     first group of descriptors that is spread out (meta_bg)
//! 0x24c   8     groups with a copy of the superblock (sparse_super2)
//! 0x270   4     checksums begin with this (csum_seed)
//! 0x3fc   4     CRC-32C of what is before (metadata_csum)           damage
//!
//! Group descriptor
//! 0x00    4     block of the block bitmap (high half at 0x20)      a bitmap elsewhere
//! 0x04    4     block of the inode bitmap (high half at 0x24)
//! 0x08    4     first block of the inode table (high half at 0x28)
//! 0x0c    2     free clusters (high half at 0x2c)                  a bitmap that is another's
//! 0x12    2     flags
//! 0x18    2     CRC-32C of the block bitmap (high half at 0x38)    damage
//! ```
//!
//! A group whose bitmap was never written (`BLOCK_UNINIT`) uses what describes it, if that lies in
//! it, and nothing else.

use std::ops::Range;

use super::bits::next_clear;
use super::bytes::ByteFields;
use super::{FreeVerdict, GuestError, GuestFileSystem, Visit, Volume, ext_journal};
use crate::source::ReadAt;

const SUPERBLOCK_AT: u64 = 1024;
const SUPERBLOCK_LEN: usize = 1024;
const MAGIC: u16 = 0xef53;
/// Blocks of 64 KiB are the longest.
const LOG_BLOCK_LEN_MAX: u32 = 6;
/// Clusters of 512 MiB are the longest.
const LOG_CLUSTER_LEN_MAX: u32 = 19;
/// The smallest groups that are ever made, in blocks.
const GROUP_BLOCKS_MIN: u64 = 256;
/// Groups of the usual 128 MiB: 2 PiB.
const GROUPS_MAX: u64 = 1 << 24;

const STATE_UNMOUNTED: u16 = 1;
const STATE_ERRORS: u16 = 2;
const COMPATIBLE_JOURNAL: u32 = 0x4;
const COMPATIBLE_FAST_COMMIT: u32 = 0x400;
const COMPATIBLE_SPARSE_SUPER2: u32 = 0x200;
const INCOMPATIBLE_RECOVER: u32 = 0x4;
const INCOMPATIBLE_JOURNAL_DEVICE: u32 = 0x8;
const INCOMPATIBLE_META_BG: u32 = 0x10;
const INCOMPATIBLE_EXTENTS: u32 = 0x40;
const INCOMPATIBLE_64BIT: u32 = 0x80;
const READ_ONLY_SPARSE_SUPER: u32 = 0x1;
const READ_ONLY_GROUP_CHECKSUM: u32 = 0x10;
const READ_ONLY_BIGALLOC: u32 = 0x200;
const READ_ONLY_METADATA_CHECKSUM: u32 = 0x400;
const INCOMPATIBLE_CHECKSUM_SEED: u32 = 0x2000;
/// All that is known: those above, file types, multiple mount protection, flexible groups, large
/// attributes and directories, inline data, encryption, case folding.
const INCOMPATIBLE_KNOWN: u32 = 0x3_e7de;
/// All that is known: those above, large files and directories, quota, projects, read-only, verity,
/// orphans. Snapshots (0x80), copies (0x800) and shared blocks (0x4000) are not.
const READ_ONLY_KNOWN: u32 = 0x1_b77f;
const GROUP_BLOCK_UNINIT: u16 = 0x2;
const CHECKSUM_AT: usize = 0x3fc;

/// The checked fields of a superblock that are needed here.
struct ExtSuperblock {
    block_len: u64,
    blocks: u64,
    first_block: u64,
    group_blocks: u64,
    /// Blocks that a bit of a bitmap stands for.
    cluster_blocks: u64,
    compatible: u32,
    incompatible: u32,
    read_only: u32,
    descriptor_len: u64,
    first_meta_group: u64,
    reserved_blocks: u64,
    inode_table_blocks: u64,
    copies: [u64; 2],
    state: u16,
    /// The journal's first block, if the superblock knows it.
    journal: Option<u64>,
    checksum_seed: u32,
    /// True if its checksum, if it has one, is right.
    is_sound: bool,
}

/// The places of the blocks that describe a group.
struct ExtBlockGroup {
    number: u64,
    block_bitmap: u64,
    inode_bitmap: u64,
    inode_table: u64,
    free_clusters: u64,
    /// The checksum of the block bitmap, and which of its bits are kept.
    checksum: u32,
    checksum_mask: u32,
    is_uninit: bool,
}

pub(super) fn free_space(
    disk: &dyn ReadAt,
    volume: &Volume,
    visit: Visit<'_>,
) -> Result<Option<GuestFileSystem>, GuestError> {
    let mut bytes = [0; SUPERBLOCK_LEN];
    if !volume.try_read_at(disk, SUPERBLOCK_AT, &mut bytes)?
        || ByteFields(&bytes).le16(0x38) != MAGIC
    {
        return Ok(None);
    }
    let superblock = ExtSuperblock::parse(ByteFields(&bytes), volume.len)?;
    let kind = superblock.variant_name();
    let mut verdict = superblock.free_verdict(disk, volume)?;
    if matches!(verdict, FreeVerdict::Kept(_)) {
        return Ok(Some(GuestFileSystem { kind, verdict }));
    }
    let mut block = vec![0; superblock.block_len as usize];
    let mut descriptors = Descriptors {
        bytes: vec![0; superblock.block_len as usize],
        block: None,
    };
    for number in 0..superblock.group_count() {
        let group = descriptors.read_group(disk, volume, &superblock, number)?;
        let mut free_blocks = 0;
        let mut emit = |blocks: Range<u64>| {
            free_blocks += superblock.cluster_count(&blocks);
            visit(volume.disk_range(
                superblock.block_offset(blocks.start)..superblock.block_offset(blocks.end),
            ))
        };
        let mut is_sound = true;
        if group.is_uninit {
            superblock
                .unused_blocks(&group)
                .into_iter()
                .try_for_each(&mut emit)?;
        } else {
            superblock.read_block(disk, volume, group.block_bitmap, &mut block)?;
            is_sound = superblock.bitmap_is_sound(&group, &block);
            superblock.clear_bits(number, &block, &mut emit)?;
        }
        if !is_sound || free_blocks != group.free_clusters {
            verdict = verdict.or_unclean("the bitmap of a group is not what its descriptor says");
        }
    }
    Ok(Some(GuestFileSystem { kind, verdict }))
}

fn malformed<T>(reason: &'static str) -> Result<T, GuestError> {
    Err(GuestError::Malformed {
        kind: "ext4",
        reason,
    })
}

impl ExtSuperblock {
    fn parse(fields: ByteFields<'_>, volume_len: u64) -> Result<Self, GuestError> {
        let (log_block, log_cluster) = (fields.le32(0x18), fields.le32(0x1c));
        // The first revision had no features, and nothing from here on.
        let feature = |at: usize| {
            if fields.le32(0x4c) == 0 {
                0
            } else {
                fields.le32(at)
            }
        };
        let (compatible, incompatible, read_only) = (feature(0x5c), feature(0x60), feature(0x64));
        let is_wide = incompatible & INCOMPATIBLE_64BIT != 0;
        let has_clusters = read_only & READ_ONLY_BIGALLOC != 0;
        if log_block > LOG_BLOCK_LEN_MAX
            || has_clusters && !(log_block..=LOG_CLUSTER_LEN_MAX).contains(&log_cluster)
        {
            return malformed("the length of its blocks");
        }
        let block_len = 1024 << log_block;
        let inode_len = if fields.le32(0x4c) == 0 {
            128
        } else {
            u64::from(fields.le16(0x58)).max(128)
        };
        let parsed = Self {
            block_len,
            blocks: u64::from(fields.le32(0x04))
                | if is_wide {
                    u64::from(fields.le32(0x150)) << 32
                } else {
                    0
                },
            first_block: fields.le32(0x14).into(),
            group_blocks: fields.le32(0x20).into(),
            cluster_blocks: if has_clusters {
                1 << (log_cluster - log_block)
            } else {
                1
            },
            compatible,
            incompatible,
            read_only,
            descriptor_len: if is_wide {
                fields.le16(0xfe).into()
            } else {
                32
            },
            first_meta_group: if incompatible & INCOMPATIBLE_META_BG == 0 {
                u64::MAX
            } else {
                fields.le32(0x104).into()
            },
            reserved_blocks: fields.le16(0xce).into(),
            inode_table_blocks: (u64::from(fields.le32(0x28)) * inode_len).div_ceil(block_len),
            copies: [fields.le32(0x24c).into(), fields.le32(0x250).into()],
            state: fields.le16(0x3a),
            is_sound: read_only & READ_ONLY_METADATA_CHECKSUM == 0
                || !crc32c::crc32c(fields.slice_of(0..CHECKSUM_AT)) == fields.le32(CHECKSUM_AT),
            journal: ext_journal::first_block(fields),
            checksum_seed: if incompatible & INCOMPATIBLE_CHECKSUM_SEED == 0 {
                !crc32c::crc32c(fields.slice_of(0x68..0x78))
            } else {
                fields.le32(0x270)
            },
        };
        parsed.verify_geometry(volume_len)
    }

    fn verify_geometry(self, volume_len: u64) -> Result<Self, GuestError> {
        if self.incompatible & INCOMPATIBLE_JOURNAL_DEVICE != 0 {
            return malformed("it is the journal of another");
        }
        if self.blocks <= self.first_block || self.blocks > volume_len / self.block_len {
            return malformed("the number of its blocks");
        }
        let bits = self.group_blocks / self.cluster_blocks;
        let is_whole = self.group_blocks.is_multiple_of(self.cluster_blocks);
        if self.group_blocks < GROUP_BLOCKS_MIN
            || bits > self.block_len * 8
            || !is_whole
            || self.group_count() > GROUPS_MAX
        {
            return malformed("the size of its groups");
        }
        if !self.descriptor_len.is_power_of_two()
            || !(32..=self.block_len).contains(&self.descriptor_len)
        {
            return malformed("the length of its group descriptors");
        }
        Ok(self)
    }

    /// The verdict of the superblock and the journal: what the bitmaps say is true if the file
    /// system is whole in itself, as it is once it is unmounted.
    fn free_verdict(&self, disk: &dyn ReadAt, volume: &Volume) -> Result<FreeVerdict, GuestError> {
        let has_journal = self.compatible & COMPATIBLE_JOURNAL != 0;
        Ok(
            if self.incompatible & !INCOMPATIBLE_KNOWN != 0
                || self.read_only & !READ_ONLY_KNOWN != 0
            {
                FreeVerdict::kept_because("it has features that are not known here")
            } else if !self.is_sound {
                FreeVerdict::unclean_because("its superblock does not have its checksum")
            } else if self.state & STATE_ERRORS != 0 {
                FreeVerdict::unclean_because("it has noted errors")
            } else if !has_journal && self.state & STATE_UNMOUNTED == 0 {
                FreeVerdict::unclean_because("it is mounted, or was not unmounted")
            } else if self.incompatible & INCOMPATIBLE_RECOVER != 0
                && !self.journal_is_empty(disk, volume)?
            {
                FreeVerdict::unclean_because(
                    "it is mounted, or was not unmounted: its journal is not empty",
                )
            } else {
                FreeVerdict::Free
            },
        )
    }

    /// True if there is nothing in the journal that is to be replayed. Fast commits are not looked
    /// at.
    fn journal_is_empty(&self, disk: &dyn ReadAt, volume: &Volume) -> Result<bool, GuestError> {
        let at = self.journal.filter(|block| *block < self.blocks);
        match at.filter(|_| self.compatible & COMPATIBLE_FAST_COMMIT == 0) {
            Some(block) => ext_journal::is_empty(disk, volume, self.block_offset(block)),
            None => Ok(false),
        }
    }

    fn variant_name(&self) -> &'static str {
        match (
            self.incompatible & INCOMPATIBLE_EXTENTS,
            self.compatible & COMPATIBLE_JOURNAL,
        ) {
            (0, 0) => "ext2",
            (0, _) => "ext3",
            _ => "ext4",
        }
    }

    /// The first byte of a block, in the volume. Blocks are checked: this does not overflow.
    fn block_offset(&self, block: u64) -> u64 {
        block * self.block_len
    }

    fn group_count(&self) -> u64 {
        (self.blocks - self.first_block).div_ceil(self.group_blocks)
    }

    /// The number of clusters in a range of blocks that begins where one does.
    fn cluster_count(&self, blocks: &Range<u64>) -> u64 {
        (blocks.end - blocks.start).div_ceil(self.cluster_blocks)
    }

    /// True if the bitmap of `group` has its checksum, as far as there are checksums.
    fn bitmap_is_sound(&self, group: &ExtBlockGroup, bitmap: &[u8]) -> bool {
        if self.read_only & READ_ONLY_METADATA_CHECKSUM == 0 {
            return true;
        }
        let len = (self.group_blocks / self.cluster_blocks / 8) as usize;
        let sum = !crc32c::crc32c_append(!self.checksum_seed, ByteFields(bitmap).slice_of(0..len));
        sum & group.checksum_mask == group.checksum
    }

    fn first_of(&self, group: u64) -> u64 {
        self.first_block + group * self.group_blocks
    }

    fn end_of(&self, group: u64) -> u64 {
        self.first_of(group + 1).min(self.blocks)
    }

    fn descriptors_per_block(&self) -> u64 {
        self.block_len / self.descriptor_len
    }

    /// The block that holds the superblock. With clusters, groups begin with the block before it.
    fn own_block(&self) -> u64 {
        SUPERBLOCK_AT / self.block_len
    }

    /// The block that holds the descriptor of `group`.
    fn descriptor_block(&self, group: u64) -> u64 {
        let nth = group / self.descriptors_per_block();
        if nth < self.first_meta_group {
            return self.own_block() + 1 + nth;
        }
        let first = nth * self.descriptors_per_block();
        if first == 0 {
            return self.own_block() + 1;
        }
        self.first_of(first) + u64::from(self.has_copy(first))
    }

    /// True if `group` begins with the superblock or a copy of it.
    fn has_copy(&self, group: u64) -> bool {
        if self.compatible & COMPATIBLE_SPARSE_SUPER2 != 0 {
            return group == 0 || self.copies.contains(&group);
        }
        let is_power_of = |base: u64| {
            std::iter::successors(Some(base), |power| power.checked_mul(base))
                .take(40)
                .any(|power| power == group)
        };
        self.read_only & READ_ONLY_SPARSE_SUPER == 0
            || group <= 1
            || [3, 5, 7].into_iter().any(is_power_of)
    }

    /// Blocks at the beginning of `group` that hold a copy of the superblock and descriptors.
    fn front_blocks(&self, group: u64) -> u64 {
        let (copy, per_block) = (
            u64::from(self.has_copy(group)),
            self.descriptors_per_block(),
        );
        let before = if group == 0 {
            self.own_block().saturating_sub(self.first_block)
        } else {
            0
        };
        if group / per_block < self.first_meta_group {
            let tables = self
                .group_count()
                .div_ceil(per_block)
                .min(self.first_meta_group);
            return if copy == 1 {
                before + 1 + tables + self.reserved_blocks
            } else {
                0
            };
        }
        before + copy + u64::from([0, 1, per_block - 1].contains(&(group % per_block)))
    }

    fn read_block(
        &self,
        disk: &dyn ReadAt,
        volume: &Volume,
        block: u64,
        bytes: &mut [u8],
    ) -> Result<(), GuestError> {
        if block >= self.blocks || !volume.try_read_at(disk, self.block_offset(block), bytes)? {
            return malformed("a block past its end");
        }
        Ok(())
    }

    /// The unused blocks of `group`, whose bitmap was never written.
    fn unused_blocks(&self, group: &ExtBlockGroup) -> Vec<Range<u64>> {
        let (first, end) = (self.first_of(group.number), self.end_of(group.number));
        let used = [
            (first, self.front_blocks(group.number)),
            (group.block_bitmap, 1),
            (group.inode_bitmap, 1),
            (group.inode_table, self.inode_table_blocks),
        ];
        // To whole clusters, which begin where the group does.
        let down = |block: u64| first + (block - first) / self.cluster_blocks * self.cluster_blocks;
        let up =
            |block: u64| (first + (block - first).next_multiple_of(self.cluster_blocks)).min(end);
        let inside = used.map(|(start, count)| {
            (
                start.clamp(first, end),
                start.saturating_add(count).clamp(first, end),
            )
        });
        let mut used: Vec<_> = inside
            .into_iter()
            .filter(|(start, end)| start < end)
            .map(|(start, end)| (down(start), up(end)))
            .collect();
        used.sort_unstable();
        let mut at = first;
        let mut free = Vec::new();
        for (start, after) in used.into_iter().chain([(end, end)]) {
            if at < start {
                free.push(at..start);
            }
            at = at.max(after);
        }
        free
    }

    /// Visits the runs of blocks of group `number` whose bits in `bitmap` are clear.
    fn clear_bits(
        &self,
        number: u64,
        bitmap: &[u8],
        visit: &mut dyn FnMut(Range<u64>) -> std::io::Result<()>,
    ) -> Result<(), GuestError> {
        let (first, end) = (self.first_of(number), self.end_of(number));
        let bits = (end - first).div_ceil(self.cluster_blocks);
        let block = |bit: u64| (first + bit * self.cluster_blocks).min(end);
        let mut bit = 0;
        while bit < bits {
            let run = next_clear(bitmap, bit, bits);
            if !run.is_empty() {
                visit(block(run.start)..block(run.end))?;
            }
            bit = run.end;
        }
        Ok(())
    }
}

/// The block of descriptors that was read last.
struct Descriptors {
    bytes: Vec<u8>,
    block: Option<u64>,
}

impl Descriptors {
    fn read_group(
        &mut self,
        disk: &dyn ReadAt,
        volume: &Volume,
        superblock: &ExtSuperblock,
        number: u64,
    ) -> Result<ExtBlockGroup, GuestError> {
        let block = superblock.descriptor_block(number);
        if self.block != Some(block) {
            superblock.read_block(disk, volume, block, &mut self.bytes)?;
            self.block = Some(block);
        }
        let at = (number % superblock.descriptors_per_block() * superblock.descriptor_len) as usize;
        let fields = ByteFields(self.bytes.get(at..).unwrap_or_default());
        let high = |at: usize| {
            if superblock.descriptor_len >= 64 {
                u64::from(fields.le32(at)) << 32
            } else {
                0
            }
        };
        let is_wide = superblock.descriptor_len >= 64;
        let wide = |at: usize| {
            if is_wide {
                u32::from(fields.le16(at)) << 16
            } else {
                0
            }
        };
        let has_flags =
            superblock.read_only & (READ_ONLY_GROUP_CHECKSUM | READ_ONLY_METADATA_CHECKSUM) != 0;
        Ok(ExtBlockGroup {
            number,
            block_bitmap: u64::from(fields.le32(0)) | high(0x20),
            inode_bitmap: u64::from(fields.le32(4)) | high(0x24),
            inode_table: u64::from(fields.le32(8)) | high(0x28),
            free_clusters: (u32::from(fields.le16(0x0c)) | wide(0x2c)).into(),
            checksum: u32::from(fields.le16(0x18)) | wide(0x38),
            checksum_mask: if is_wide { u32::MAX } else { 0xffff },
            is_uninit: has_flags && fields.le16(0x12) & GROUP_BLOCK_UNINIT != 0,
        })
    }
}
