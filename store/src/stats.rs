//! How much a store holds, and in how little space.

use crate::error::StoreError;
use crate::store::Store;

/// Sizes of a whole store, in bytes unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Images.
    pub images: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Layers.
    pub layers: u64,
    /// The lengths of all images and snapshots.
    pub logical: u64,
    /// What of that is not zero.
    pub non_zero: u64,
    /// Chunks stored, a number.
    pub chunks: u64,
    /// Their bytes before compression.
    pub unique: u64,
    /// Their bytes after compression.
    pub compressed: u64,
    /// Everything in the store's folder, as `du` counts.
    pub on_disk: u64,
}

impl Store {
    /// Adds everything up. Cost: reads every frame header and resolves every image and snapshot.
    pub fn stats(&self) -> Result<Stats, StoreError> {
        todo!()
    }
}
