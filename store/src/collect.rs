//! Collection: layers that no name reaches go, maps of nameless layers merge, chunks that no map refers to give their space back.

use crate::error::StoreError;
use crate::store::Store;
use crate::watch::Watch;

/// What a collection may do.
#[derive(Clone, Copy, Debug, Default)]
pub struct CollectOptions {
    /// Only tell what would be done.
    pub dry_run: bool,
}

/// What a collection did, or would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CollectReport {
    /// Layers that no name reached.
    pub layers_dropped: u64,
    /// Layers that became part of the one above.
    pub layers_merged: u64,
    /// Chunks that no map refers to.
    pub chunks_dropped: u64,
    /// Their bytes before compression.
    pub plain_bytes_dropped: u64,
    /// Chunks that stay.
    pub chunks_kept: u64,
    /// Bytes on disk before and after.
    pub disk_bytes_before: u64,
    /// See `disk_bytes_before`; the same in a dry run.
    pub disk_bytes_after: u64,
    /// Bytes of frames (compressed) that hold nothing live: in a dry run, about what would be freed.
    pub stored_bytes_dropped: u64,
}

impl Store {
    /// Gives back the space of everything that no image or snapshot can show any more. Can be interrupted at any point and run again.
    pub fn collect(&self, options: CollectOptions, watch: &dyn Watch) -> Result<CollectReport, StoreError> {
        let _ = (options, watch);
        todo!()
    }
}
