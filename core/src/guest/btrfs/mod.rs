//! btrfs on one device: which parts of its chunks no extent names, and which parts of the device
//! are in no chunk.
//!
//! What a commit wrote is whole: a device that is mounted is as good as one that is not, unless it
//! has a log of what came after the commit.
//!
//! ```text
//! Superblock (at 64 KiB, copies at 64 MiB and 256 GiB; Linux include/uapi/linux/btrfs_tree.h)
//! 0       4     CRC-32C of what follows, if that is the kind of checksum
//! 32      16    UUID
//! 64      8     "_BHRfS_M"
//! 80      16    roots of the tree of trees and the tree of chunks
//! 96      8     root of the log: 0 for none                        extents that are in no tree yet
//! 112     16    bytes of all devices, bytes in use                 trees that do not agree
//! 136     8     devices: 1
//! 144     8     lengths of a sector and of a block of a tree
//! 160     4     length of the chunks that are needed to read the tree of chunks, which are at 811
//! 180     16    features: compatible for reading, incompatible
//! 196     2     kind of checksum: 0 is CRC-32C
//! 198     2     levels of the two roots
//! 201     16    the device's number, its bytes
//! 571     16    UUID in the blocks of trees, if that is a feature
//!
//! Chunk: logical bytes that lie on a device in one place, or two (DUP)
//! 0       8     length
//! 24      8     what it is for; from bit 3 on, how it is spread over devices
//! 44      2     places; each 32 bytes from 48 on: the device's number, the first byte on it
//! ```

mod tree;

use std::ops::{ControlFlow, Range};

use super::bytes::ByteFields;
use super::{FreeVerdict, GuestError, GuestFileSystem, Visit, Volume};
use crate::source::ReadAt;
use tree::{BtrfsTree, TreeKey, TreeRoot};

const SUPERBLOCKS_AT: [u64; 4] = [64 << 10, 64 << 20, 256 << 30, 1 << 50];
const SUPERBLOCK_LEN: usize = 4096;
/// The device's first bytes, and those around each superblock, are in no chunk's use.
const RESERVED_LEN: u64 = 1 << 20;
const SUPERBLOCK_SPAN: u64 = 64 << 10;
const MAGIC: &[u8] = b"_BHRfS_M";
const CHECKSUM_LEN: usize = 32;
const SYSTEM_CHUNKS_AT: usize = 811;
const SYSTEM_CHUNKS_LEN_MAX: usize = 2048;
/// Chunks of 1 GiB: 128 TiB.
const CHUNKS_MAX: usize = 1 << 17;
/// The tree of free space, its validity, verity, the tree of block groups.
const READ_ONLY_KNOWN: u64 = 0xf;
/// All but zones, the second extent tree, the tree of stripes and what came later; simple quotas
/// are known.
const INCOMPATIBLE_KNOWN: u64 = 0x1_0fff;
const INCOMPATIBLE_METADATA_UUID: u64 = 0x400;
/// The flags that are allowed. The others mark a superblock that is being changed, a dump or a seed
/// device.
const FLAGS_KNOWN: u64 = 0x3;
const PROFILES: u64 = !0x7;
const PROFILE_DUP: u64 = 0x20;
const DISK_KEY_LEN: usize = 17;
const CHUNK_HEAD_LEN: usize = 48;
const PLACE_LEN: usize = 32;
const EXTENT_TREE: u64 = 2;
const CHUNK_OBJECT: u64 = 256;
const ROOT_ITEM: u8 = 132;
const EXTENT_ITEM: u8 = 168;
const METADATA_ITEM: u8 = 169;
const CHUNK_ITEM: u8 = 228;

struct BtrfsSuperblock {
    chunk_root: TreeRoot,
    root: TreeRoot,
    device: u64,
    device_len: u64,
    used: u64,
    node_len: u64,
    uuid: [u8; 16],
    has_crc: bool,
    has_log: bool,
}

/// A chunk on this device.
struct BtrfsChunk {
    logical: Range<u64>,
    places: Vec<u64>,
}

/// The chunks that are known, by their logical bytes.
#[derive(Default)]
struct ChunkMap(Vec<BtrfsChunk>);

/// A reason to keep all, or an error.
enum BtrfsStop {
    Kept(&'static str),
    Failed(GuestError),
}

impl From<GuestError> for BtrfsStop {
    fn from(error: GuestError) -> Self {
        Self::Failed(error)
    }
}

impl From<std::io::Error> for BtrfsStop {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.into())
    }
}

pub(super) fn free_space(
    disk: &dyn ReadAt,
    volume: &Volume,
    visit: Visit<'_>,
) -> Result<Option<GuestFileSystem>, GuestError> {
    let mut bytes = [0; SUPERBLOCK_LEN];
    let [at, ..] = SUPERBLOCKS_AT;
    if !volume.try_read_at(disk, at, &mut bytes)? || !ByteFields(&bytes).starts_with(64, MAGIC) {
        return Ok(None);
    }
    let verdict = match visit_free(disk, volume, ByteFields(&bytes), visit) {
        Ok(verdict) => verdict,
        Err(BtrfsStop::Kept(reason)) => FreeVerdict::kept_because(reason),
        Err(BtrfsStop::Failed(error)) => return Err(error),
    };
    Ok(Some(GuestFileSystem {
        kind: "btrfs",
        verdict,
    }))
}

fn malformed_error(reason: &'static str) -> GuestError {
    GuestError::Malformed {
        kind: "btrfs",
        reason,
    }
}

fn malformed<T>(reason: &'static str) -> Result<T, GuestError> {
    Err(malformed_error(reason))
}

fn visit_free(
    disk: &dyn ReadAt,
    volume: &Volume,
    fields: ByteFields<'_>,
    visit: Visit<'_>,
) -> Result<FreeVerdict, BtrfsStop> {
    let superblock = BtrfsSuperblock::parse(fields, volume.len)?;
    let system = ChunkMap::system_chunks(&superblock, fields)?;
    let chunks =
        ChunkMap::read_chunk_tree(&superblock, &superblock.open_tree(disk, volume, &system))?;
    let tree = superblock.open_tree(disk, volume, &chunks);
    let extents = extent_root(&superblock, &tree)?;
    let mut places: Vec<(u64, &BtrfsChunk)> = chunks
        .0
        .iter()
        .flat_map(|chunk| chunk.places.iter().map(move |place| (*place, chunk)))
        .collect();
    places.sort_unstable_by_key(|(place, _)| *place);
    let mut emit = |range: Range<u64>| emit_free(volume, range, &mut *visit);
    let (mut at, mut used) = (0, 0);
    for (place, chunk) in places {
        let end = place + (chunk.logical.end - chunk.logical.start);
        if place < at {
            return Err(malformed_error("its chunks overlap").into());
        }
        emit(at..place)?;
        let in_chunk = free_in_chunk(&tree, &extents, chunk, place, &mut emit)?;
        if chunk.places.first() == Some(&place) {
            used += in_chunk;
        }
        at = end;
    }
    emit(at..superblock.device_len)?;
    if used != superblock.used {
        return Err(BtrfsStop::Kept(
            "its extents are not as many bytes as its superblock says",
        ));
    }
    Ok(if superblock.has_log {
        FreeVerdict::unclean_because("it is mounted, or was not unmounted: its log is not empty")
    } else {
        FreeVerdict::Free
    })
}

/// Visits a range of the device, without what is reserved.
fn emit_free(volume: &Volume, range: Range<u64>, visit: Visit<'_>) -> std::io::Result<()> {
    let mut at = range.start.max(RESERVED_LEN);
    for copy in SUPERBLOCKS_AT.into_iter().filter(|copy| *copy < range.end) {
        if at < copy {
            visit(volume.disk_range(at..copy))?;
        }
        at = at.max(copy + SUPERBLOCK_SPAN);
    }
    if at < range.end {
        visit(volume.disk_range(at..range.end))?;
    }
    Ok(())
}

/// Visits what no extent of `chunk` names, where the chunk lies at `place`; the bytes that
/// extents name.
fn free_in_chunk(
    tree: &BtrfsTree<'_>,
    extents: &TreeRoot,
    chunk: &BtrfsChunk,
    place: u64,
    emit: Visit<'_>,
) -> Result<u64, BtrfsStop> {
    let Range { start, end } = chunk.logical;
    let (mut at, mut used) = (start, 0);
    let keys = TreeKey::first_of(start)..TreeKey::first_of(end);
    tree.visit_items(extents, &keys, &mut |key, _| {
        let len = match key.kind {
            EXTENT_ITEM => key.offset,
            METADATA_ITEM => tree.node_len,
            _ => return Ok(ControlFlow::Continue(())),
        };
        let extent_end = key.object.checked_add(len);
        let Some(extent_end) = extent_end.filter(|to| key.object >= at && *to <= end) else {
            return malformed("its extents are not in order");
        };
        if at < key.object {
            emit(place + (at - start)..place + (key.object - start))?;
        }
        (at, used) = (extent_end, used + len);
        Ok(ControlFlow::Continue(()))
    })?;
    if at < end {
        emit(place + (at - start)..place + (end - start))?;
    }
    Ok(used)
}

/// The root of the tree of extents.
fn extent_root(superblock: &BtrfsSuperblock, tree: &BtrfsTree<'_>) -> Result<TreeRoot, GuestError> {
    let mut found = None;
    let keys = TreeKey::new(EXTENT_TREE, ROOT_ITEM, 0)..TreeKey::new(EXTENT_TREE, ROOT_ITEM + 1, 0);
    tree.visit_items(&superblock.root, &keys, &mut |_, item| {
        found = Some(TreeRoot {
            logical: item.le64(176),
            level: item.u8(238),
            generation: item.le64(160),
        });
        Ok(ControlFlow::Break(()))
    })?;
    found.map_or_else(|| malformed("a tree of trees without extents"), Ok)
}

impl BtrfsSuperblock {
    fn parse(fields: ByteFields<'_>, volume_len: u64) -> Result<Self, BtrfsStop> {
        let incompatible = fields.le64(188);
        if incompatible & !INCOMPATIBLE_KNOWN != 0
            || fields.le64(180) & !READ_ONLY_KNOWN != 0
            || fields.le64(56) & !FLAGS_KNOWN != 0
        {
            return Err(BtrfsStop::Kept("it has features that are not known here"));
        }
        if fields.le64(136) != 1 {
            return Err(BtrfsStop::Kept("it is on several devices"));
        }
        let has_crc = fields.le16(196) == 0;
        let body = fields.slice_of(CHECKSUM_LEN..SUPERBLOCK_LEN);
        if has_crc && crc32c::crc32c(body) != fields.le32(0) {
            return Err(BtrfsStop::Kept("its superblock is damaged"));
        }
        let [at, ..] = SUPERBLOCKS_AT;
        let (node_len, device_len) = (u64::from(fields.le32(148)), fields.le64(209));
        let fits = node_len.is_power_of_two() && (4096..=65_536).contains(&node_len);
        if fields.le64(48) != at || !fits {
            return Err(malformed_error("its superblock").into());
        }
        if device_len > volume_len {
            return Err(malformed_error("the number of its bytes").into());
        }
        let uuid_at = if incompatible & INCOMPATIBLE_METADATA_UUID == 0 {
            32
        } else {
            571
        };
        let root = |at: usize, level: usize, generation: usize| TreeRoot {
            logical: fields.le64(at),
            level: fields.u8(level),
            generation: fields.le64(generation),
        };
        Ok(Self {
            root: root(80, 198, 72),
            chunk_root: root(88, 199, 164),
            device: fields.le64(201),
            device_len,
            used: fields.le64(120),
            node_len,
            uuid: fields
                .slice_of(uuid_at..uuid_at + 16)
                .first_chunk()
                .copied()
                .unwrap_or_default(),
            has_crc,
            has_log: fields.le64(96) != 0,
        })
    }

    fn open_tree<'d>(
        &self,
        disk: &'d dyn ReadAt,
        volume: &'d Volume,
        chunks: &'d ChunkMap,
    ) -> BtrfsTree<'d> {
        BtrfsTree {
            disk,
            volume,
            chunks,
            node_len: self.node_len,
            uuid: self.uuid,
            has_crc: self.has_crc,
        }
    }
}

impl ChunkMap {
    /// The chunks of the superblock.
    fn system_chunks(
        superblock: &BtrfsSuperblock,
        fields: ByteFields<'_>,
    ) -> Result<Self, BtrfsStop> {
        let len = (fields.le32(160) as usize).min(SYSTEM_CHUNKS_LEN_MAX);
        let all = ByteFields(fields.slice_of(SYSTEM_CHUNKS_AT..SYSTEM_CHUNKS_AT + len));
        let (mut chunks, mut at) = (Self::default(), 0);
        while at < len {
            let item = at + DISK_KEY_LEN;
            let places = usize::from(all.le16(item + 44));
            let end = item + CHUNK_HEAD_LEN + places * PLACE_LEN;
            chunks.add_chunk(
                superblock,
                all.le64(at + 9),
                ByteFields(all.slice_of(item..end.min(len))),
            )?;
            at = end;
        }
        Ok(chunks)
    }

    /// All chunks, from their tree.
    fn read_chunk_tree(
        superblock: &BtrfsSuperblock,
        tree: &BtrfsTree<'_>,
    ) -> Result<Self, BtrfsStop> {
        let (mut chunks, mut stopped) = (Self::default(), None);
        let object = CHUNK_OBJECT;
        let keys = TreeKey::new(object, CHUNK_ITEM, 0)..TreeKey::new(object, CHUNK_ITEM + 1, 0);
        tree.visit_items(&superblock.chunk_root, &keys, &mut |key, item| match chunks
            .add_chunk(superblock, key.offset, item)
        {
            Ok(()) => Ok(ControlFlow::Continue(())),
            Err(BtrfsStop::Failed(error)) => Err(error),
            Err(kept) => {
                stopped = Some(kept);
                Ok(ControlFlow::Break(()))
            }
        })?;
        stopped.map_or(Ok(chunks), Err)
    }

    fn add_chunk(
        &mut self,
        superblock: &BtrfsSuperblock,
        logical: u64,
        item: ByteFields<'_>,
    ) -> Result<(), BtrfsStop> {
        let (len, kind, count) = (item.le64(0), item.le64(24), usize::from(item.le16(44)));
        let is_known = match kind & PROFILES {
            0 => count == 1,
            PROFILE_DUP => count == 2,
            _ => return Err(BtrfsStop::Kept("it is a RAID")),
        };
        let end = logical.checked_add(len).filter(|_| len > 0);
        let is_after = self.0.last().is_none_or(|last| last.logical.end <= logical);
        let (Some(end), true, true) = (end, is_after, is_known) else {
            return Err(malformed_error("its chunks").into());
        };
        if self.0.len() >= CHUNKS_MAX {
            return Err(BtrfsStop::Kept("it has too many chunks"));
        }
        let place = |nth: usize| {
            let at = CHUNK_HEAD_LEN + nth * PLACE_LEN;
            let place = item.le64(at + 8);
            let fits = item.le64(at) == superblock.device
                && place
                    .checked_add(len)
                    .is_some_and(|end| end <= superblock.device_len);
            fits.then_some(place)
        };
        let Some(places) = (0..count).map(place).collect::<Option<Vec<u64>>>() else {
            return Err(malformed_error("the place of a chunk").into());
        };
        self.0.push(BtrfsChunk {
            logical: logical..end,
            places,
        });
        Ok(())
    }

    /// The first place of `len` logical bytes on the device.
    fn device_offset(&self, logical: u64, len: u64) -> Option<u64> {
        let nth = self.0.partition_point(|chunk| chunk.logical.end <= logical);
        let chunk = self
            .0
            .get(nth)
            .filter(|chunk| chunk.logical.start <= logical)?;
        let fits = logical.checked_add(len)? <= chunk.logical.end;
        let place = chunk.places.first().filter(|_| fits)?;
        Some(place + (logical - chunk.logical.start))
    }
}
