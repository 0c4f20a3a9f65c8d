//! Background maintenance in small steps while guests run: drops layers that no name reaches, and
//! merges the small frames that flushes leave into full ones.
//!
//! Nothing is marked and no chunk is dropped, so a step costs what it changes. It does a part of a
//! collection's work, in the same order of locks and with the same care: only frames below a
//! horizon are merged, where every id is written that ever will be. It gives way to a collection; a
//! collection waits for the step that is going on.

use rayon::prelude::{IntoParallelIterator, ParallelIterator};

use super::merge;
use super::repack::{FrameLiveness, FramePack, Packer};
use super::sweep::{HeaderGroup, chunks_per_frame, encode_pack};
use super::tending::MaintenanceState;
use crate::database::{Batch, Durability};
use crate::error::StoreError;
use crate::store::Store;
use crate::watch::{Watch, go_on};

/// Frames that one step writes at most: 8 MiB of chunks at the default lengths.
const PACKS_MAX: usize = 64;
/// Frames that the newest full frame is made of at least, if it is not full yet: else every step
/// would write it again.
const LAST_FRAMES_MIN: usize = 8;

/// Result of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaintenanceReport {
    /// Layers that no name reached.
    pub layers_dropped: u64,
    /// Layers that became part of the one above.
    pub layers_merged: u64,
    /// Small frames that became part of larger ones.
    pub frames_merged: u64,
    /// Frames that were read again and again out of solid blocks, and have left them.
    pub frames_moved_back: u64,
    /// True if there may be more to do now. If not, it is worth asking again once something was
    /// written or deleted.
    pub has_more: bool,
}

impl Store {
    /// Does a bounded step of maintenance, for a server that has nothing better to do: some tens of
    /// milliseconds, beside guests that write. Does nothing while a collection is going on, or
    /// where there is no room.
    pub fn run_maintenance(&self, watch: &dyn Watch) -> Result<MaintenanceReport, StoreError> {
        self.check_writable()?;
        self.refill_reserve();
        let Ok(mut tending) = self.inner.tending.try_write() else {
            return Ok(MaintenanceReport::default());
        };
        let (layers_dropped, layers_merged) = merge::compact_layers(self, watch)?;
        let (frames_merged, has_small) = merge_small(self, &mut tending, watch)?;
        let (frames_moved_back, has_warm) = move_back(self)?;
        Ok(MaintenanceReport {
            layers_dropped,
            layers_merged,
            frames_merged,
            frames_moved_back,
            has_more: has_small || has_warm,
        })
    }
}

/// Merges some of the small frames that lie beside each other; how many, and whether more may be
/// left.
fn merge_small(
    store: &Store,
    tending: &mut MaintenanceState,
    watch: &dyn Watch,
) -> Result<(u64, bool), StoreError> {
    let newest = store.inner.chunks.next_chunk();
    if tending.seen == newest {
        return Ok((0, false));
    }
    go_on(watch)?;
    let horizon = store.inner.chunks.wait_for_all()?;
    let group = HeaderGroup::read_group(store, tending.next, horizon)?;
    let next_group = group.next;
    let (mut due, open) = find_packs(group, chunks_per_frame(store));
    let open_first = open.as_ref().map(FramePack::first_id);
    due.extend(open.filter(|open| next_group.is_none() && open.frames.len() >= LAST_FRAMES_MIN));
    let left = due.split_off(due.len().min(PACKS_MAX));
    if store
        .check_room(due.iter().map(FramePack::stored_len).sum())
        .is_err()
    {
        return Ok((0, false));
    }
    let merged = replace_frames(store, due)?;
    // The frame that is not full yet is looked at again: what comes may join it.
    tending.next = left
        .first()
        .map(FramePack::first_id)
        .or(open_first)
        .or(next_group)
        .unwrap_or(horizon);
    let has_more = !left.is_empty() || next_group.is_some();
    if !has_more {
        tending.seen = newest;
    }
    Ok((merged, has_more))
}

/// Makes frames of their own of some that are read again and again out of solid blocks; how many,
/// and whether there are more. What is left of the blocks is a collection's to give back.
fn move_back(store: &Store) -> Result<(u64, bool), StoreError> {
    if store.check_room(0).is_err() {
        return Ok((0, false));
    }
    let (due, has_more) = store.inner.chunks.take_warm_frames(PACKS_MAX);
    let mut packs = Vec::new();
    for first in due {
        let header = store.inner.chunks.frame_header(first)?;
        // It may have moved meanwhile.
        if let Some(header) = header.filter(|header| header.solid.is_some()) {
            let live = vec![true; header.chunk_count()];
            let mut packer = Packer::new(header.chunk_count());
            packs.extend(packer.push_frame(FrameLiveness::new(header, 0, live)));
            packs.extend(packer.close_pack());
        }
    }
    Ok((replace_frames(store, packs)?, has_more))
}

/// The frames of `group` that are worth merging, and those at its end that more may join. Every
/// chunk stays: the maps were not asked which are needed.
fn find_packs(group: HeaderGroup, chunks_per_frame: usize) -> (Vec<FramePack>, Option<FramePack>) {
    let (mut packer, mut complete) = (Packer::new(chunks_per_frame), Vec::new());
    for entry in group.entries {
        match entry {
            Ok((header, len)) => {
                let live = vec![true; header.chunk_count()];
                complete.extend(packer.push_frame(FrameLiveness::new(header, len, live)));
            }
            // No frame is merged over a damaged one.
            Err(_) => complete.extend(packer.close_pack()),
        }
    }
    complete.retain(FramePack::is_worth_it);
    (complete, packer.close_pack())
}

/// Puts one frame in the place of those of each pack, as one batch; how many went into others.
/// Damage is left where it is.
fn replace_frames(store: &Store, packs: Vec<FramePack>) -> Result<u64, StoreError> {
    let encoded: Vec<_> = packs
        .into_par_iter()
        .map(|pack| encode_pack(store, pack))
        .collect();
    let (mut batch, mut merged) = (Batch::default(), 0);
    for result in encoded {
        match result {
            Ok(rewritten) => {
                merged += rewritten.pack.frames.len() as u64;
                rewritten.add_to_batch(&mut batch);
            }
            Err(failed) if matches!(failed.1, StoreError::Damaged(_)) => {}
            Err(failed) => return Err(failed.1),
        }
    }
    if !batch.is_empty() {
        // No healing of a frame while it is being replaced: see `chunks::heal`.
        let _index = store.inner.chunks.lock_index();
        store.inner.database.write_batch(batch, Durability::Bulk)?;
        store.inner.chunks.note_rewritten();
    }
    Ok(merged)
}
