//! Report on the space of a store: the holders of every byte, and the space that deletions would
//! free. All of it as of one point in time, while guests write.
//!
//! The words. A *node* is an image or a snapshot. A node *holds* a chunk if its disk shows it
//! somewhere. A chunk is *exclusive* to a node that alone holds it, *shared* by the set of nodes
//! that hold it, *unreferenced* if none does. Deleting a set of nodes and collecting frees exactly
//! the chunks whose holders all are in the set: the collection keeps nothing that no node shows
//! (`core::tree::maintenance`).
//!
//! The bytes. A frame is compressed as one, so a chunk's compressed length is its share of its
//! frame: the payload's length split over the frame's chunks, in whole bytes that add up to it.
//! Bytes other than payload (headers, index, maps, records, logs, slack) have rows of their own, so
//! that all rows together are the bytes that the folder takes on the disk.

mod attribution;
mod change_map;
mod count;
mod disks_point_in_time;
mod forest;
mod frames;
mod guest_free_space;
mod reclaim;
mod reclaim_forecast;
mod retention_preview;
mod scan_point_in_time;
mod sets;
mod sharing_sweep;
#[cfg(test)]
mod tests;
mod usage;
mod usage_scan;

use vellum_core::outline::OutlineRow;
use vellum_core::units::LayerId;

pub use retention_preview::RetentionRow;
pub use usage_scan::UsageScan;

/// Options of a report beyond totals, nodes and attribution.
#[derive(Clone, Debug)]
pub struct ReportOptions {
    /// Rows of attribution to tell apart: the largest; the others are added up by their number of
    /// holders.
    pub rows_max: usize,
    /// Most-shared chunks to name.
    pub most_shared_max: usize,
    /// Cells of a change strip.
    pub strip_cells: usize,
    /// True to look into disks for file systems. Reads some of their chunks.
    pub file_systems: bool,
}

/// Everything that is known about a store's space at one moment. All sizes are bytes unless said
/// otherwise.
#[derive(Clone, Debug, Default)]
pub struct SpaceReport {
    /// The time, in milliseconds since 1970.
    pub taken_ms: u64,
    /// The whole store.
    pub totals: StoreTotals,
    /// Every image and snapshot, in depth-first order of what they are made from: parents before
    /// children, and what stands on a node right after it.
    pub nodes: Vec<NodeUsage>,
    /// Bases that several nodes share although they have no name.
    pub bases: Vec<SharedBase>,
    /// The lines of a drawing of nodes and bases: an item is the index of a node, or, past those,
    /// of a base.
    pub outline: Vec<OutlineRow>,
    /// Every stored byte in exactly one row; the rows add up to `totals.on_disk`.
    pub attribution: Vec<AttributionRow>,
    /// Overlap of images (with their snapshots).
    pub overlap: Overlap,
    /// Chunks by how often maps refer to them: powers of two.
    pub references: Vec<HistogramBucket>,
    /// Chunks by how well their frame compresses: tenths of the plain length.
    pub compressibility: Vec<HistogramBucket>,
    /// The chunks that most positions refer to.
    pub most_shared: Vec<SharedChunk>,
    /// Additions by operation and time: the oldest first.
    pub growth: Vec<Growth>,
    /// Changes of images by place and state.
    pub changes: Vec<ChangeStrip>,
    /// Content that guests do not use any more, but images still hold.
    pub droppable: Vec<GuestFreeSpace>,
    /// Parts that could not be read and are therefore in no figure above.
    pub uncounted: Vec<UncountedItem>,
}

/// Sizes of a whole store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreTotals {
    /// Images, a number.
    pub images: u64,
    /// Snapshots, a number.
    pub snapshots: u64,
    /// Layers, a number.
    pub layers: u64,
    /// Chunks stored, a number.
    pub chunks: u64,
    /// The lengths of all images and snapshots.
    pub logical: u64,
    /// Of that: bytes that maps mention at all, as chunks or explicit zeros.
    pub allocated: u64,
    /// Of that: bytes that are not zero.
    pub non_zero: u64,
    /// Stored chunks before compression.
    pub unique: u64,
    /// Stored chunks after compression.
    pub compressed: u64,
    /// Everything in the store's folder, as `du` counts.
    pub on_disk: u64,
    /// Of that: headers, which tell the chunks of each frame and their names.
    pub headers: u64,
    /// Of that: the index, from names to chunks.
    pub index: u64,
    /// Of that: maps and records.
    pub metadata: u64,
    /// Of `compressed`: chunks that no node shows; a collection frees about that.
    pub dead: u64,
}

/// Space of one image or snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeUsage {
    /// `IMAGE` or `IMAGE@SNAPSHOT`.
    pub name: String,
    /// The index in [`SpaceReport::nodes`] of the node that it was made from, if that is still
    /// there.
    pub parent: Option<usize>,
    /// True if it is a snapshot.
    pub is_snapshot: bool,
    /// Its image's mode, as the command line writes it.
    pub mode: &'static str,
    /// Layers that are its own: not below any other node.
    pub own_layers: u64,
    /// The time when it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// Its length.
    pub logical: u64,
    /// Of that: bytes that are not zero.
    pub non_zero: u64,
    /// Compressed bytes of the chunks that were new when the layers between it and its parent, or
    /// a base that it shares, were written, if that was recorded.
    pub added: Option<u64>,
    /// Compressed bytes of the chunks that only it holds: deleting it frees them.
    pub exclusive: u64,
    /// Chunks that only it holds, a number.
    pub exclusive_chunks: u64,
    /// Compressed bytes that it holds together with ancestors or descendants alone.
    pub shared_lineage: u64,
    /// Compressed bytes that it holds together with nodes that are neither, if all that are not in
    /// one line are of one image.
    pub shared_siblings: u64,
    /// Compressed bytes that it holds together with anybody else.
    pub shared_others: u64,
}

/// A base without a name, of which several nodes are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedBase {
    /// Its layer.
    pub layer: LayerId,
    /// The names of the images that share it, the oldest first.
    pub shared_by: Vec<String>,
    /// Its length.
    pub logical: u64,
    /// Compressed bytes of the chunks that were new when its layers were written, if that was
    /// recorded: they are in no node's [`NodeUsage::added`].
    pub added: Option<u64>,
}

/// Holder of the bytes in a row of attribution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Chunks that only one node holds: an index in [`SpaceReport::nodes`].
    Exclusive(usize),
    /// Chunks that exactly these nodes hold: half-open ranges of indexes in [`SpaceReport::nodes`],
    /// in order.
    Shared(Vec<(usize, usize)>),
    /// Chunks that this many nodes hold, in sets that are too small to be told apart.
    OtherSets {
        /// The number of nodes that hold each, at least: a power of two, and less than the next.
        holders_min: u64,
        /// The number of sets.
        sets: u64,
    },
    /// Chunks that no node holds.
    Unreferenced,
    /// Bytes other than chunk content, by the word for their use.
    Overhead(&'static str),
}

/// One row of attribution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributionRow {
    /// The holder.
    pub holder: Holder,
    /// Chunks, a number; none for overhead.
    pub chunks: u64,
    /// Bytes on disk.
    pub bytes: u64,
}

/// Overlap of images, each with all its snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlap {
    /// The images, by name.
    pub images: Vec<String>,
    /// Row by row, for each pair: compressed bytes of the chunks that both hold; on the diagonal
    /// all that one holds.
    pub bytes: Vec<u64>,
}

/// One bar of a histogram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistogramBucket {
    /// The first value in it.
    pub from: u64,
    /// The first value past it; `None` has no end.
    pub to: Option<u64>,
    /// Chunks, a number.
    pub chunks: u64,
    /// Their compressed bytes.
    pub bytes: u64,
}

/// A chunk that many positions refer to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedChunk {
    /// Its name.
    pub hash: vellum_core::hash::ChunkHash,
    /// The number of positions in all maps that refer to it.
    pub references: u64,
    /// Nodes that hold it, a number.
    pub holders: u64,
    /// A place that shows it: a node's index in [`SpaceReport::nodes`] and the offset.
    pub example: Option<(usize, u64)>,
}

/// Additions by one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Growth {
    /// The time, in milliseconds since 1970.
    pub at_ms: u64,
    /// The operation: `import`, `update`, `write`, `resize`, `rebase`, `create`, `delete`,
    /// `collect`; `earlier` for those that are too old to be told apart.
    pub operation: String,
    /// The name of the image, or the snapshot, at that time; empty if it was about none.
    pub image: String,
    /// Chunks that were new, a number.
    pub chunks: u64,
    /// Their bytes before compression.
    pub plain: u64,
    /// Their bytes after compression.
    pub compressed: u64,
    /// Compressed bytes that it gave back instead.
    pub freed: u64,
}

/// Changes of an image, by place on the disk and by state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeStrip {
    /// The image.
    pub image: String,
    /// Bytes of disk that one cell stands for.
    pub cell_len: u64,
    /// One row for each state after the first, the oldest first.
    pub steps: Vec<ChangeStep>,
}

/// Changes from one state to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeStep {
    /// `IMAGE` or `IMAGE@SNAPSHOT`, before and after.
    pub from: String,
    /// See `from`.
    pub to: String,
    /// Bytes that differ, for each cell.
    pub cells: Vec<u64>,
}

/// Content that a guest does not use, in the newest state of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestFreeSpace {
    /// The image.
    pub image: String,
    /// The partition's number, from 1; `None` for a disk without partitions.
    pub partition: Option<u32>,
    /// Its offset on the disk.
    pub start: u64,
    /// Its length.
    pub len: u64,
    /// `ext4`, `swap`, …
    pub kind: &'static str,
    /// Bytes that the file system calls free.
    pub free: u64,
    /// Of those, bytes that the image holds as data.
    pub held: u64,
}

/// Something that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UncountedItem {
    /// The image, layer or frame.
    pub subject: String,
    /// The fault.
    pub what: String,
}

/// Space that deleting a set of nodes would free.
///
/// Less is freed than goes if a frame or a file keeps so many live bytes that writing it anew is
/// not worth it: a collection leaves the dead bytes there until there are more of them. For less
/// than about a megabyte that is all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReclaimEstimate {
    /// The nodes, by name.
    pub nodes: Vec<String>,
    /// Chunks that go, a number.
    pub chunks: u64,
    /// Their bytes before compression.
    pub plain: u64,
    /// Bytes on disk that a collection then gives back, foretold by its own rules.
    pub freed: u64,
    /// The bytes that each alone would free, in the order of `nodes`: they add up to less. Of more
    /// than 64 nodes, each one's share of frames.
    pub alone: Vec<u64>,
}
