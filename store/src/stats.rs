//! Totals of a store's content and space: the short answer of a census.

use crate::error::StoreError;
use crate::store::Store;
use crate::watch::Unwatched;

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
    /// Of that: bytes that are not zero.
    pub non_zero: u64,
    /// Chunks stored, a number.
    pub chunks: u64,
    /// Their bytes before compression.
    pub unique: u64,
    /// Their bytes after compression.
    pub compressed: u64,
    /// Everything in the store's folder, as `du` counts.
    pub on_disk: u64,
    /// Of that: parity.
    pub parity: u64,
}

impl Store {
    /// Adds everything up, at one moment. What cannot be read is an error: a sum without it would
    /// be wrong. Cost: as for [`Store::scan_usage`].
    pub fn compute_stats(&self) -> Result<Stats, StoreError> {
        let census = self.scan_usage(&Unwatched)?;
        if let Some(lost) = census.uncounted_items().first() {
            return Err(StoreError::damaged_record(lost.subject.clone(), &lost.what));
        }
        let totals = census.store_totals();
        Ok(Stats {
            images: totals.images,
            snapshots: totals.snapshots,
            layers: totals.layers,
            logical: totals.logical,
            non_zero: totals.non_zero,
            chunks: totals.chunks,
            unique: totals.unique,
            compressed: totals.compressed,
            on_disk: totals.on_disk,
            parity: self.inner.folder.usage_by_part()?.parity,
        })
    }
}
