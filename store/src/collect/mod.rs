//! Garbage collection: drops layers that no name reaches, merges or trims the maps of nameless
//! layers, and gives back the space of chunks that no map refers to.
//!
//! The order, and the proof that no reference is ever lost:
//!
//! 1. *Barrier.* Every chunk that has an id below the horizon is written. From here on pending
//!    chunks lie past the horizon, and an id below it that no header names will never be written,
//!    so frames may be merged over the gap.
//! 2. *Begin.* The claims of all open sessions enter the live set, and every later claim does when
//!    it is made.
//! 3. *Tidy* edits maps: it only copies references, and drops layers, and parts of layers, that no
//!    image or snapshot can see.
//! 4. *Mark*, from one consistent view: the tree's write lock is held while the scan of all pages
//!    begins and the layers and the layers being built are listed, so no commit falls between them.
//!    Take any reference that a map holds when the sweep decides. It was committed before the view,
//!    and is marked; or after it, by a session. That session held its claim on the chunk when the
//!    reference was committed, thus after the view, thus after *begin*: the claim was merged at
//!    *begin* or entered by itself. Or it is a copy of another reference, whose layer is held
//!    (`Tree::hold_layer`) until the copy is committed: then the original was in the view. Had
//!    *begin* come after the view, a session could have committed after the view and ended before
//!    *begin*: seen by neither.
//! 5. *Sweep*: each chunk is decided about once, under the lock of the claims; see
//!    `chunks::gc_pins`.
//! 6. *Reclaim*: files and ranges of the database that hold more dead than live bytes are dropped
//!    or rewritten.
//!
//! A map that cannot be read ends the collection before anything is decided: its references are
//! unknown.
//!
//! Crashes: names and maps change in logged batches before any chunk is decided about, so no
//! durable reference is behind a deletion. A frame and its index entries go in one logged batch; a
//! rewritten frame and the one it replaces change places in one bulk batch. Whole files go only
//! after the batch that made their content unreachable is durable. All state is in memory: after
//! any interruption, run again.

mod background;
mod compact;
mod live_bytes;
mod mark;
mod merge;
mod repack;
mod solid;
mod sweep;
pub(crate) mod tending;
#[cfg(test)]
pub(crate) mod tests;
mod tight;
mod trim;

use std::sync::PoisonError;

use vellum_core::frame::FrameHeader;
use vellum_core::units::ChunkId;

use crate::chunks::{GcPins, SweepDecision, sync};
use crate::database::{Batch, Generation};
use crate::error::StoreError;
use crate::store::Store;
use crate::usage_history::entry::UsageEntry;
use crate::watch::Watch;

pub use background::MaintenanceReport;
pub(crate) use compact::{goes_along, is_worth_it, plan_rewrites};
pub(crate) use live_bytes::{LiveLengths, REGION_IDS};
use mark::{CompactedTree, MapScan};
pub(crate) use repack::{Fate, Packable, Packer};
pub(crate) use solid::LIVE_PART_MIN;
pub use solid::{DeepOptions, DeepReport};
pub(crate) use sweep::{CHUNKS_PER_GROUP, DeadRange};
use sweep::{SweepResult, SweepRun};
pub use tight::Shortage;

/// Collections that are begun where writes fail.
const TRIES: u32 = 3;

/// Options of a collection.
#[derive(Clone, Copy, Debug, Default)]
pub struct CollectOptions {
    /// Only tell what would be done.
    pub dry_run: bool,
    /// Move frames that are alike into solid blocks.
    pub deep: Option<DeepOptions>,
}

/// Result of a collection, or of its dry run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CollectReport {
    /// Layers that no name reached.
    pub layers_dropped: u64,
    /// Layers that became part of the one above.
    pub layers_merged: u64,
    /// References to chunks that were followed.
    pub references_marked: u64,
    /// Chunks that are gone. Unused chunks among used ones stay until they are a good part of their
    /// frame.
    pub chunks_dropped: u64,
    /// Their bytes before compression.
    pub plain_bytes_dropped: u64,
    /// Chunks that stay.
    pub chunks_kept: u64,
    /// Damaged frames that were left as they are: a check tells which.
    pub frames_damaged: u64,
    /// Bytes on disk before and after.
    pub disk_bytes_before: u64,
    /// See `disk_bytes_before`; the same in a dry run.
    pub disk_bytes_after: u64,
    /// Compressed bytes that the dropped chunks took; in a dry run, about what would be freed.
    pub stored_bytes_dropped: u64,
    /// Frames that were moved into solid blocks, or would be.
    pub deep: DeepReport,
    /// Dead space that could not be given back, for lack of room to write the live bytes beside it.
    pub shortage: Option<Shortage>,
}

/// A collection that is going on. Ends when it is dropped, however it comes to that.
struct CollectionRun<'s> {
    claims: &'s GcPins,
    horizon: ChunkId,
    /// Write generation in which it began: decisions since then are undone by a write that fails.
    generation: Generation,
}

impl Store {
    /// Gives back the space of everything that no image or snapshot can show any more. Can be
    /// interrupted at any point and run again.
    pub fn collect(
        &self,
        options: CollectOptions,
        watch: &dyn Watch,
    ) -> Result<CollectReport, StoreError> {
        let disk_bytes_before = self.inner.folder.disk_usage()?;
        let report = if options.dry_run {
            self.forecast_collection(options, watch)?
        } else {
            let collected = self.collect_again(options, watch);
            // However it ended: before others take it.
            self.refill_reserve();
            collected?
        };
        let disk_bytes_after = if options.dry_run {
            disk_bytes_before
        } else {
            self.inner.folder.disk_usage()?
        };
        Ok(CollectReport {
            disk_bytes_before,
            disk_bytes_after,
            ..report
        })
    }

    /// Collects, and again from the beginning where a write failed meanwhile that had nothing to do
    /// with it: a compaction that met the full disk before space was given up fails the next write
    /// of any caller.
    fn collect_again(
        &self,
        options: CollectOptions,
        watch: &dyn Watch,
    ) -> Result<CollectReport, StoreError> {
        let database = &self.inner.database;
        let mut began = database.write_generation();
        let mut collected = self.collect_now(options, watch);
        for _ in 1..TRIES {
            let now = database.write_generation();
            let has_failed = matches!(
                collected,
                Err(StoreError::Full { .. } | StoreError::Stopped(_) | StoreError::Reopened)
            );
            if !has_failed || now == began {
                break;
            }
            began = now;
            collected = self.collect_now(options, watch);
        }
        collected
    }

    fn collect_now(
        &self,
        options: CollectOptions,
        watch: &dyn Watch,
    ) -> Result<CollectReport, StoreError> {
        self.check_writable()?;
        self.inner.reserve.give_up_if_scarce();
        if self.inner.reserve.is_scarce() {
            self.inner.database.renew_after_failures()?;
            self.check_writable()?;
            // Opening has kept it back again.
            self.inner.reserve.give_up_if_scarce();
        }
        // Waits for a step of tending; keeps it away, not other collections, which are told.
        let _no_tending = self
            .inner
            .tending
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let collection = CollectionRun::begin_collection(self)?;
        let (layers_dropped, layers_merged) = merge::compact_layers(self, watch)?;
        sync::yield_point("tidied");
        let marked = MapScan::begin_scan(self).mark_references(
            &mut |runs| collection.claims.mark_live(runs.iter().copied()),
            collection.horizon,
            watch,
        )?;
        merge::drop_orphans(self, &marked.orphans)?;
        sync::yield_point("marked");
        let mut swept = SweepRun::new(self, &collection, watch).sweep_all()?;
        sync::yield_point("swept");
        let deep = self.tend_blocks(&collection, &mut swept, options, watch)?;
        sync::yield_point("regrouped");
        let reclaimed = compact::compact_dead_ranges(
            self,
            &swept.live,
            marked.page_bytes,
            collection.horizon,
            watch,
        )?;
        solid::compact_blocks(self, &swept.solid);
        let shortage = match (reclaimed, swept.shortage) {
            (Some(shortage), before) => Some(shortage.merge_earlier(before)),
            (None, before) => before,
        };
        self.refill_reserve();
        self.note_freed(swept.stored_bytes_dropped)?;
        // Parity of files that are gone is given back, too.
        self.protect_within(watch)?;
        Ok(CollectReport {
            layers_dropped,
            layers_merged,
            deep,
            shortage,
            ..collection_report(&swept, marked.references)
        })
    }

    /// Gives back solid blocks that nothing needs, and makes new ones if `options` ask for it.
    fn tend_blocks(
        &self,
        collection: &CollectionRun<'_>,
        swept: &mut SweepResult,
        options: CollectOptions,
        watch: &dyn Watch,
    ) -> Result<DeepReport, StoreError> {
        // A header that cannot be read may be that of a block's last member.
        if swept.frames_damaged == 0 {
            let counted = (&mut swept.live, &mut swept.solid);
            solid::reclaim_blocks(self, collection, counted, watch)?;
        }
        let Some(deep) = options.deep else {
            return Ok(DeepReport::default());
        };
        let counted = (&mut swept.live, &mut swept.solid);
        solid::regroup_frames(self, collection, deep, counted, watch)
    }

    /// Records the freed space in the journal, unless the disk is still so full that this could
    /// fail: the space was given back, recorded or not.
    fn note_freed(&self, freed: u64) -> Result<(), StoreError> {
        if freed == 0 || self.check_room(0).is_err() {
            return Ok(());
        }
        let mut batch = Batch::default();
        self.inner.journal.note_entry(
            &self.inner.database,
            &mut batch,
            &UsageEntry::of_freed("collect", freed),
        );
        self.commit_batch(&mut self.tree_mut(), &[], batch)
    }

    /// Result that a collection would have. Changes nothing, blocks no other operation.
    fn forecast_collection(
        &self,
        options: CollectOptions,
        watch: &dyn Watch,
    ) -> Result<CollectReport, StoreError> {
        let horizon = self.inner.chunks.next_chunk();
        let tree = self.tree().clone();
        let tidy = tree.plan_tidy();
        let (live, marked) = MapScan::begin_scan(self).forecast_marks(
            self,
            &CompactedTree::new(&tree, &tidy),
            horizon,
            watch,
        )?;
        let swept = sweep::forecast_sweep(self, &live, horizon, watch)?;
        let deep = options.deep.map_or(Ok(DeepReport::default()), |deep| {
            solid::forecast_regrouping(self, horizon, deep, watch)
        })?;
        let merged = tidy
            .merges
            .iter()
            .map(|merge| merge.sources.len() as u64)
            .sum();
        Ok(CollectReport {
            layers_dropped: tidy.drops.len() as u64,
            layers_merged: merged,
            deep,
            ..collection_report(&swept, marked.references)
        })
    }
}

fn collection_report(swept: &SweepResult, references_marked: u64) -> CollectReport {
    CollectReport {
        references_marked,
        chunks_dropped: swept.chunks_dropped,
        plain_bytes_dropped: swept.plain_bytes_dropped,
        chunks_kept: swept.chunks_kept,
        frames_damaged: swept.frames_damaged,
        stored_bytes_dropped: swept.stored_bytes_dropped,
        ..CollectReport::default()
    }
}

impl<'s> CollectionRun<'s> {
    /// Steps 1 and 2 of the order above.
    fn begin_collection(store: &'s Store) -> Result<Self, StoreError> {
        let (chunks, claims) = (&store.inner.chunks, &store.inner.chunks.claims);
        let generation = store.inner.database.write_generation();
        let horizon = chunks.wait_for_all()?;
        sync::yield_point("horizon known");
        if !claims.begin_collection(horizon) {
            return Err(StoreError::Busy("the store".to_owned()));
        }
        Ok(Self {
            claims,
            horizon,
            generation,
        })
    }

    /// Decides which chunks of `headers`, all that there are below `end`, stay.
    fn decide_chunks(&self, headers: &[&FrameHeader], end: ChunkId) -> Vec<bool> {
        let ids = headers
            .iter()
            .flat_map(|header| header.chunk_hashes().map(|(id, _)| id));
        self.claims
            .decide_range(ids, end)
            .into_iter()
            .map(|decision| decision == SweepDecision::Keep)
            .collect()
    }
}

impl Drop for CollectionRun<'_> {
    fn drop(&mut self) {
        self.claims.end_collection();
    }
}
