//! What two disks have in common, which layer supplies what, and maps of one parent turned into maps of another: all by ids, no
//! chunk is read.

use vellum_core::tree::Node;
use vellum_core::units::{ChunkId, ImageId, LayerId};

use crate::error::StoreError;
use crate::store::Store;
use crate::watch::Watch;

/// A range of an image, and where its content comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// How many layers below the top the supplying layer is; the layer. `None` where no layer says anything.
    pub layer: Option<(u32, LayerId)>,
    /// The first chunk; `None` reads as zeros.
    pub first: Option<ChunkId>,
}

/// A range in which two disks differ, or of which only one disk has a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// Whether the second disk reads as zeros there.
    pub becomes_zero: bool,
}

/// What a rebase keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RebaseMode {
    /// The image's content: what differs between the parents goes into its map.
    KeepContent,
    /// The image's map: the content changes where the parents differ (qemu-img's `-u`).
    KeepMap,
}

impl Store {
    /// Calls `visit` for each range of `node`, in order and gap-free.
    pub fn map(&self, node: Node, visit: &mut dyn FnMut(MapEntry) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let _ = (node, visit);
        todo!()
    }

    /// Calls `visit` for each range in which `a` and `b` differ, in order. A shorter disk ends in nothing, not in zeros: the rest of
    /// the longer one is a difference.
    pub fn diff(&self, a: Node, b: Node, visit: &mut dyn FnMut(Difference) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let _ = (a, b, visit);
        todo!()
    }

    /// Makes `image` independent of all other layers: its active layer gets everything that shows through it.
    pub fn flatten(&self, image: ImageId, watch: &dyn Watch) -> Result<(), StoreError> {
        let _ = (image, watch);
        todo!()
    }

    /// Puts `image`'s active layer onto `parent`.
    pub fn rebase(&self, image: ImageId, parent: Node, mode: RebaseMode, watch: &dyn Watch) -> Result<(), StoreError> {
        let _ = (image, parent, mode, watch);
        todo!()
    }

    /// The names of `count` chunks from `first` on.
    pub fn chunk_hashes(&self, first: ChunkId, count: u64) -> Result<Vec<vellum_core::hash::ChunkHash>, StoreError> {
        let _ = (first, count);
        todo!()
    }
}
