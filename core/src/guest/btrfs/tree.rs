//! Trees of btrfs: blocks of keys in order, each held against its key, generation and checksum, so
//! that no block can be met twice.
//!
//! ```text
//! Block
//! 0       4     CRC-32C of what follows 32                         damage
//! 32      16    UUID                                               another file system's block
//! 48      8     its own logical place                              a block that was moved
//! 80      8     generation                                         an older block
//! 96      4     items
//! 100     1     level: 0 for leaves                                a tree without leaves
//! 101     n×33  above: key (17), place, generation of the block below
//! 101     n×25  leaf: key (17), place of the item behind 101, its length
//! Key: object (8), kind (1), offset (8)
//! ```

use std::ops::{ControlFlow, Range};

use super::super::bytes::ByteFields;
use super::super::{GuestError, Volume};
use super::{CHECKSUM_LEN, ChunkMap, malformed};
use crate::source::ReadAt;

/// Levels of a tree, as Linux has them.
const TREE_LEVELS_MAX: u8 = 8;
const HEAD_LEN: usize = 101;
const ITEM_LEN: usize = 25;
const POINTER_LEN: usize = 33;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TreeKey {
    pub(super) object: u64,
    pub(super) kind: u8,
    pub(super) offset: u64,
}

pub(super) struct TreeRoot {
    pub(super) logical: u64,
    pub(super) level: u8,
    pub(super) generation: u64,
}

pub(super) struct BtrfsTree<'d> {
    pub(super) disk: &'d dyn ReadAt,
    pub(super) volume: &'d Volume,
    pub(super) chunks: &'d ChunkMap,
    pub(super) node_len: u64,
    pub(super) uuid: [u8; 16],
    pub(super) has_crc: bool,
}

/// Takes a key and its item.
type VisitItem<'v> =
    &'v mut dyn FnMut(TreeKey, ByteFields<'_>) -> Result<ControlFlow<()>, GuestError>;

impl TreeKey {
    pub(super) fn new(object: u64, kind: u8, offset: u64) -> Self {
        Self {
            object,
            kind,
            offset,
        }
    }

    pub(super) fn first_of(object: u64) -> Self {
        Self::new(object, 0, 0)
    }

    fn read_at(fields: ByteFields<'_>, at: usize) -> Self {
        Self::new(fields.le64(at), fields.u8(at + 8), fields.le64(at + 9))
    }
}

impl BtrfsTree<'_> {
    /// Visits the items whose keys are in `keys`, in order.
    pub(super) fn visit_items(
        &self,
        root: &TreeRoot,
        keys: &Range<TreeKey>,
        visit: VisitItem<'_>,
    ) -> Result<(), GuestError> {
        if root.level >= TREE_LEVELS_MAX {
            return malformed("the height of a tree");
        }
        self.walk_node(root, None, keys, visit).map(|_| ())
    }

    /// Visits below one block, whose keys are in `bounds`: they begin with its start.
    fn walk_node(
        &self,
        at: &TreeRoot,
        bounds: Option<(TreeKey, Option<TreeKey>)>,
        keys: &Range<TreeKey>,
        visit: VisitItem<'_>,
    ) -> Result<ControlFlow<()>, GuestError> {
        let bytes = self.read_node(at)?;
        let node = ByteFields(&bytes);
        let count = node.le32(96) as usize;
        let step = if at.level == 0 { ITEM_LEN } else { POINTER_LEN };
        if count > (bytes.len() - HEAD_LEN) / step {
            return malformed("a block of a tree");
        }
        let key = |nth: usize| TreeKey::read_at(node, HEAD_LEN + nth * step);
        let last = bounds.and_then(|(_, last)| last);
        let is_sorted = (1..count).all(|nth| key(nth - 1) < key(nth));
        let is_inside = bounds.is_none_or(|(first, _)| count > 0 && key(0) == first)
            && last.is_none_or(|last| count == 0 || key(count - 1) < last);
        if !is_sorted || !is_inside {
            return malformed("the order of a tree");
        }
        for nth in 0..count {
            let next = if nth + 1 < count {
                Some(key(nth + 1))
            } else {
                last
            };
            let place = HEAD_LEN + nth * step;
            if key(nth) >= keys.end {
                break;
            }
            let flow = if at.level == 0 {
                if key(nth) < keys.start {
                    continue;
                }
                let start = HEAD_LEN.saturating_add(node.le32(place + 17) as usize);
                let end = start.saturating_add(node.le32(place + 21) as usize);
                visit(key(nth), ByteFields(node.slice_of(start..end)))?
            } else {
                if next.is_some_and(|next| next <= keys.start) {
                    continue;
                }
                let below = TreeRoot {
                    logical: node.le64(place + 17),
                    level: at.level - 1,
                    generation: node.le64(place + 25),
                };
                self.walk_node(&below, Some((key(nth), next)), keys, visit)?
            };
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The block at `at`, if it is the one that is meant.
    fn read_node(&self, at: &TreeRoot) -> Result<Vec<u8>, GuestError> {
        let mut bytes = vec![0; self.node_len as usize];
        let is_read = match self.chunks.device_offset(at.logical, self.node_len) {
            Some(place) => self.volume.try_read_at(self.disk, place, &mut bytes)?,
            None => false,
        };
        let fields = ByteFields(&bytes);
        let sum = crc32c::crc32c(fields.slice_of(CHECKSUM_LEN..bytes.len()));
        let is_it = is_read
            && fields.le64(48) == at.logical
            && fields.le64(80) == at.generation
            && fields.u8(100) == at.level
            && fields.starts_with(32, &self.uuid)
            && (!self.has_crc || fields.le32(0) == sum);
        if is_it {
            Ok(bytes)
        } else {
            malformed("a block of a tree")
        }
    }
}
