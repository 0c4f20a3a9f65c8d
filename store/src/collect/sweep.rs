//! Sweep phase of the collector: visits every header in id order, a bounded group at a time, and
//! drops dead chunks.
//!
//! Dead frames go first, so that a full disk gets space before anything is written; then sparse and
//! small frames are rewritten. Ids stay. A frame whose header or content is damaged is left as it
//! is, and no frame is merged over it.

use std::mem::take;
use std::ops::Range;

use rayon::prelude::{IntoParallelIterator, ParallelIterator};
use vellum_core::frame::{FrameHeader, frame_key, parse_frame_key};
use vellum_core::hash::ChunkHash;
use vellum_core::id_set::IdSet;
use vellum_core::units::ChunkId;
use vellum_core::wire::WireReader;

use super::live_bytes::LiveLengths;
use super::repack::{Fate, FrameLiveness, FramePack, Packable, Packer};
use super::solid::SolidUsage;
use super::tight::{self, Shortage};
use super::{CollectionRun, compact};
use crate::chunks::{EncodedFrame, FramePlan, encode_frame, sync};
use crate::database::{Batch, Durability, Family, Generation};
use crate::error::StoreError;
use crate::store::Store;
use crate::watch::{Progress, Watch, go_on};

/// Chunks whose headers are read and decided about at a time: 2 MiB of names.
pub(crate) const CHUNKS_PER_GROUP: usize = 1 << 16;
/// Dead chunks whose index entries one batch deletes: the committer waits as long as these look-ups
/// take, some ten milliseconds.
const DEAD_PER_BATCH: usize = 8192;
/// Frames that are rewritten at a time: 16 MiB of chunks at the default length.
const PACKS_PER_BATCH: usize = 256;
/// Dead bytes in a row from which on it is worth asking for whole files.
const FILES_WORTH_LEN: u64 = 32 << 20;
/// Write buffers full of rewritten frames that may be in memory, not yet in files.
const UNFLUSHED_BUFFERS: u64 = 3;
/// Result of a sweep, or of its dry run.
#[derive(Default)]
pub(super) struct SweepResult {
    pub(super) chunks_dropped: u64,
    pub(super) plain_bytes_dropped: u64,
    pub(super) chunks_kept: u64,
    pub(super) frames_damaged: u64,
    pub(super) stored_bytes_dropped: u64,
    /// Dead bytes in frames that there was no room to write anew.
    pub(super) shortage: Option<Shortage>,
    pub(super) live: LiveLengths,
    /// Solid blocks that frames are part of.
    pub(super) solid: SolidUsage,
}

/// One sweep.
pub(super) struct SweepRun<'s> {
    store: &'s Store,
    collection: &'s CollectionRun<'s>,
    watch: &'s dyn Watch,
    packer: Packer,
    gap: DeadRange,
    swept: SweepResult,
    unflushed_len: u64,
    has_room: bool,
}

/// Some headers, in order: what they say and how long they are, or only the keys of damaged ones.
pub(super) struct HeaderGroup {
    pub(super) entries: Vec<Result<(FrameHeader, usize), ChunkId>>,
    /// First id of the next group; `None` after the last.
    pub(super) next: Option<ChunkId>,
}

/// Ids in a row that are dead.
#[derive(Default)]
pub(crate) struct DeadRange {
    from: ChunkId,
    /// Bytes of the frames that went since it was last looked at.
    stored_len: u64,
}

impl DeadRange {
    /// One more frame goes.
    pub(crate) fn add_frame(&mut self, stored_len: u64) {
        self.stored_len += stored_len;
    }

    /// The ids in a row up to `end` that are dead, if it is worth asking for the files that hold
    /// nothing else.
    pub(crate) fn up_to(&mut self, end: ChunkId) -> Option<Range<ChunkId>> {
        (take(&mut self.stored_len) >= FILES_WORTH_LEN).then_some(self.from..end)
    }

    /// Ends the gap at a frame that stays, with the answer of [`DeadRange::up_to`].
    pub(crate) fn close_gap(&mut self, stays: ChunkId) -> Option<Range<ChunkId>> {
        let gap = self.up_to(stays);
        self.from = stays.advance_by(1);
        gap
    }
}

/// A pack, written anew.
pub(super) struct RewrittenPack {
    pub(super) pack: FramePack,
    frame: EncodedFrame,
}

impl<'s> SweepRun<'s> {
    pub(super) fn new(
        store: &'s Store,
        collection: &'s CollectionRun<'s>,
        watch: &'s dyn Watch,
    ) -> Self {
        let packer = Packer::new(chunks_per_frame(store));
        Self {
            store,
            collection,
            watch,
            packer,
            gap: DeadRange::default(),
            swept: SweepResult::default(),
            unflushed_len: 0,
            has_room: true,
        }
    }

    /// Sweeps all that is below the horizon, and makes it durable.
    pub(super) fn sweep_all(mut self) -> Result<SweepResult, StoreError> {
        let horizon = self.collection.horizon;
        let mut next = Some(ChunkId(0));
        while let Some(from) = next {
            go_on(self.watch)?;
            self.watch.report_progress(Progress {
                done: from.0,
                total: Some(horizon.0),
            });
            let group = HeaderGroup::read_group(self.store, from, horizon)?;
            next = group.next;
            self.sweep_group(group)?;
        }
        let last = self.packer.close_pack();
        self.rewrite_packs(last.into_iter().collect())?;
        self.flush_bulk()?;
        Ok(self.swept)
    }

    fn sweep_group(&mut self, group: HeaderGroup) -> Result<(), StoreError> {
        let decide = |headers: &[&FrameHeader]| {
            self.collection
                .decide_chunks(headers, group.next.unwrap_or(self.collection.horizon))
        };
        let entries = judge_entries(self.store, group.entries, decide);
        sync::yield_point("decided");
        let per_frame = chunks_per_frame(self.store);
        let is_dead = |entry: &&Result<FrameLiveness, ChunkId>| {
            entry
                .as_ref()
                .is_ok_and(|found| found.decide_fate(per_frame) == Fate::Drop)
        };
        let dead: Vec<&FrameLiveness> = entries
            .iter()
            .filter(is_dead)
            .filter_map(|entry| entry.as_ref().ok())
            .collect();
        self.drop_frames(&dead)?;
        sync::yield_point("dropped");
        self.drop_files(&entries, per_frame, group.next)?;
        let packs = pack_survivors(entries, &mut self.packer, &mut self.swept);
        self.rewrite_packs(packs)
    }

    fn flush_bulk(&self) -> Result<(), StoreError> {
        let database = &self.store.inner.database;
        database.flush_bulk(self.collection.generation)
    }

    /// Deletes dead frames: durable when this returns. Where space is scarce, it is given back
    /// before more is deleted: deletions take space themselves.
    fn drop_frames(&mut self, dead: &[&FrameLiveness]) -> Result<(), StoreError> {
        if dead.is_empty() || !self.store.inner.reserve.is_scarce() {
            return self.drop_durably(dead);
        }
        let mut left = dead;
        for end in tight::table_ends(self.store)? {
            let inside = left.partition_point(|found| found.header.first_id() <= end);
            let (now, later) = left.split_at(inside);
            left = later;
            if let (Some(first), Some(last)) = (now.first(), now.last()) {
                let range = first.header.first_id()..last.header.first_id().advance_by(1);
                self.drop_durably(now)?;
                self.flush_bulk()?;
                compact::merge_tables_if_names_are_few(self.store);
                tight::give_back(self.store, &range, self.watch)?;
            }
        }
        self.drop_durably(left)
    }

    fn drop_durably(&mut self, dead: &[&FrameLiveness]) -> Result<(), StoreError> {
        let mut left = dead;
        while !left.is_empty() {
            let mut chunks = 0;
            let some = left
                .iter()
                .take_while(|found| {
                    chunks += found.dead_count();
                    chunks <= DEAD_PER_BATCH
                })
                .count()
                .max(1);
            let (now, later) = left.split_at(some);
            left = later;
            let mut batch = Batch::default();
            for found in now {
                batch.delete_record(Family::Headers, frame_key(found.header.first_id()));
                batch.delete_record(Family::Frames, frame_key(found.header.first_id()));
                self.swept.count_dropped(
                    self.store,
                    found.dead_count(),
                    found.header.payload_len.into(),
                );
                self.swept.live.note_change(found.header.first_id(), 0);
            }
            write_without(
                self.store,
                self.collection.generation,
                now.iter().flat_map(|found| found.select_chunks(false)),
                batch,
                Durability::Logged,
            )?;
        }
        Ok(())
    }

    /// Gives whole files back that held nothing but dropped frames.
    fn drop_files(
        &mut self,
        entries: &[Result<FrameLiveness, ChunkId>],
        per_frame: usize,
        next: Option<ChunkId>,
    ) -> Result<(), StoreError> {
        for entry in entries {
            let stays = match entry {
                Ok(found) if found.decide_fate(per_frame) == Fate::Drop => {
                    self.gap.add_frame(found.header.own_payload_len().into());
                    continue;
                }
                Ok(found) => found.header.first_id(),
                Err(first) => *first,
            };
            let gap = self.gap.close_gap(stays);
            self.drop_gap(gap)?;
        }
        let gap = self.gap.up_to(next.unwrap_or(self.collection.horizon));
        self.drop_gap(gap)
    }

    /// Everything in the gap is dead. The deletion that follows the files takes away what comes
    /// back without them; if a crash keeps it from being durable, payloads without headers are
    /// left, which are never read.
    fn drop_gap(&self, gap: Option<Range<ChunkId>>) -> Result<(), StoreError> {
        let Some(Range { start, end }) = gap else {
            return Ok(());
        };
        let (from, last) = (frame_key(start), frame_key(ChunkId(end.0 - 1)));
        let database = &self.store.inner.database;
        database.drop_files(Family::Frames, &from, &last)?;
        let mut batch = Batch::default();
        batch.delete_range(Family::Frames, from, frame_key(end));
        database.write_in(self.collection.generation, batch, Durability::Bulk)
    }

    /// Rewrites those of `packs` that are worth it, if there is room.
    fn rewrite_packs(&mut self, packs: Vec<FramePack>) -> Result<(), StoreError> {
        let (due, stay): (Vec<FramePack>, Vec<FramePack>) =
            packs.into_iter().partition(FramePack::is_worth_it);
        stay.iter().for_each(|pack| self.swept.count_kept(pack));
        let mut due = due.into_iter().peekable();
        while due.peek().is_some() {
            go_on(self.watch)?;
            let packs: Vec<FramePack> = due.by_ref().take(PACKS_PER_BATCH).collect();
            let stored_len: u64 = packs.iter().map(FramePack::stored_len).sum();
            let sizes = &self.store.inner.sizes;
            let unflushed_len_max = sizes.write_buffer * UNFLUSHED_BUFFERS;
            self.unflushed_len = (self.unflushed_len + stored_len).min(unflushed_len_max);
            let needed = self.unflushed_len + sizes.import_margin;
            self.has_room = self.has_room && self.store.inner.reserve.check_room(needed).is_ok();
            if self.has_room {
                self.rewrite_now(packs)?;
                sync::yield_point("rewritten");
            } else {
                self.rewrite_tightly(packs)?;
            }
        }
        Ok(())
    }

    /// Rewrites `packs` where room is scarce: those of one table after the other, as far as there
    /// is room to give back at once what they leave dead.
    fn rewrite_tightly(&mut self, packs: Vec<FramePack>) -> Result<(), StoreError> {
        let mut left = packs.into_iter().peekable();
        while let Some(first) = left.peek().map(FramePack::first_id) {
            go_on(self.watch)?;
            let ends = tight::table_ends(self.store)?;
            let end = ends.get(ends.partition_point(|end| *end < first));
            let is_inside = |pack: &FramePack| end.is_none_or(|end| pack.first_id() <= *end);
            let mut now = Vec::new();
            while now.len() < PACKS_PER_BATCH
                && let Some(pack) = left.next_if(|pack| now.is_empty() || is_inside(pack))
            {
                now.push(pack);
            }
            let range = first..now.last().map_or(first, FramePack::end_id);
            let stored_len: u64 = now.iter().map(FramePack::stored_len).sum();
            let needed = stored_len + tight::room_needed(self.store, &range)?;
            let free = self.store.inner.reserve.free_bytes()?;
            if needed > free {
                let dead_bytes = now.iter().map(dead_len).sum();
                self.swept
                    .add_shortage(Shortage::new(dead_bytes, needed, free));
                now.iter().for_each(|pack| self.swept.count_kept(pack));
                continue;
            }
            self.rewrite_now(now)?;
            self.flush_bulk()?;
            tight::give_back(self.store, &range, self.watch)?;
        }
        Ok(())
    }

    /// Puts new frames in the place of old ones, as one batch.
    fn rewrite_now(&mut self, packs: Vec<FramePack>) -> Result<(), StoreError> {
        let store = self.store;
        let rewritten: Vec<Result<RewrittenPack, Box<(FramePack, StoreError)>>> = packs
            .into_par_iter()
            .map(|pack| encode_pack(store, pack))
            .collect();
        let (mut batch, mut dead) = (Batch::default(), Vec::new());
        for result in rewritten {
            match result {
                Ok(rewritten) => {
                    self.swept.count_rewritten(store, &rewritten);
                    for found in &rewritten.pack.frames {
                        dead.extend(found.select_chunks(false));
                    }
                    rewritten.add_to_batch(&mut batch);
                }
                Err(failed) => match *failed {
                    (pack, StoreError::Damaged(_)) => {
                        self.swept.frames_damaged += 1;
                        self.swept.count_kept(&pack);
                    }
                    (_, error) => return Err(error),
                },
            }
        }
        let generation = self.collection.generation;
        write_without(store, generation, dead.into_iter(), batch, Durability::Bulk)
    }
}

/// Bytes of a pack's frames that hold what is dead, about.
fn dead_len(pack: &FramePack) -> u64 {
    let dead = |found: &FrameLiveness| {
        let chunks = found.chunk_count() as u64;
        found.payload_len() * found.dead_count() as u64 / chunks.max(1)
    };
    pack.frames.iter().map(dead).sum()
}

impl RewrittenPack {
    /// Puts the new frame into `batch`, in the place of those that it is made of.
    pub(super) fn add_to_batch(&self, batch: &mut Batch) {
        for found in &self.pack.frames {
            batch.delete_record(Family::Headers, frame_key(found.header.first_id()));
            batch.delete_record(Family::Frames, frame_key(found.header.first_id()));
        }
        self.frame.put_content(batch);
    }
}

impl HeaderGroup {
    pub(super) fn read_group(
        store: &Store,
        from: ChunkId,
        horizon: ChunkId,
    ) -> Result<Self, StoreError> {
        let mut scan = store
            .inner
            .database
            .scan_from(Family::Headers, &frame_key(from));
        let (mut entries, mut chunks) = (Vec::new(), 0);
        while let Some((key, value)) = scan.next()? {
            let first = parse_frame_key(key)
                .map_err(|error| StoreError::damaged_record("a frame header's key", error))?;
            if first >= horizon {
                break;
            }
            if chunks >= CHUNKS_PER_GROUP {
                return Ok(Self {
                    entries,
                    next: Some(first),
                });
            }
            let header = FrameHeader::decode(first, value);
            chunks += header.as_ref().map_or(1, FrameHeader::chunk_count);
            entries.push(
                header
                    .map(|header| (header, value.len()))
                    .map_err(|_| first),
            );
        }
        Ok(Self {
            entries,
            next: None,
        })
    }
}

impl SweepResult {
    fn count_dropped(&mut self, store: &Store, chunks: usize, stored_len: u64) {
        self.chunks_dropped += chunks as u64;
        self.plain_bytes_dropped += chunks as u64 * store.parameters().chunk_len.byte_len();
        self.stored_bytes_dropped += stored_len;
    }

    fn add_shortage(&mut self, shortage: Shortage) {
        self.shortage = Some(shortage.merge_earlier(self.shortage));
    }

    fn count_kept(&mut self, pack: &FramePack) {
        for found in &pack.frames {
            self.chunks_kept += found.header.chunk_count() as u64;
            self.live.add_frame(
                found.header.first_id(),
                found.header.own_payload_len().into(),
                found.header_len,
            );
            self.solid.count_member(&found.header);
        }
    }

    fn count_rewritten(&mut self, store: &Store, rewritten: &RewrittenPack) {
        let frame = &rewritten.frame;
        let dead = rewritten
            .pack
            .frames
            .iter()
            .map(FrameLiveness::dead_count)
            .sum();
        self.count_dropped(
            store,
            dead,
            rewritten
                .pack
                .stored_len()
                .saturating_sub(frame.payload_len() as u64),
        );
        self.chunks_kept += frame.chunks.len() as u64;
        self.live.add_frame(
            frame.chunks[0].0,
            frame.payload_len() as u64,
            frame.header_len(),
        );
        self.live
            .note_change(frame.chunks[0].0, frame.payload_len() as u64);
    }
}

/// Result that a sweep would have if `live` were all live chunks.
pub(super) fn forecast_sweep(
    store: &Store,
    live: &IdSet,
    horizon: ChunkId,
    watch: &dyn Watch,
) -> Result<SweepResult, StoreError> {
    let (mut swept, mut packer) = (SweepResult::default(), Packer::new(chunks_per_frame(store)));
    let mut next = Some(ChunkId(0));
    while let Some(from) = next {
        go_on(watch)?;
        watch.report_progress(Progress {
            done: from.0,
            total: Some(horizon.0),
        });
        let group = HeaderGroup::read_group(store, from, horizon)?;
        next = group.next;
        let decide = |headers: &[&FrameHeader]| {
            headers
                .iter()
                .flat_map(|header| header.chunk_hashes())
                .map(|(id, _)| live.contains(id))
                .collect()
        };
        let mut packs = Vec::new();
        for entry in judge_entries(store, group.entries, decide) {
            match entry {
                Ok(found) if found.decide_fate(chunks_per_frame(store)) == Fate::Drop => {
                    swept.count_dropped(store, found.dead_count(), found.header.payload_len.into());
                }
                entry => packs.extend(pack_survivors(vec![entry], &mut packer, &mut swept)),
            }
        }
        packs
            .iter()
            .for_each(|pack| swept.forecast_pack(store, pack));
    }
    packer
        .close_pack()
        .iter()
        .for_each(|pack| swept.forecast_pack(store, pack));
    Ok(swept)
}

impl SweepResult {
    fn forecast_pack(&mut self, store: &Store, pack: &FramePack) {
        for found in &pack.frames {
            let (dead, all) = (found.dead_count(), found.header.chunk_count());
            let goes = if pack.is_worth_it() { dead } else { 0 };
            self.count_dropped(
                store,
                goes,
                u64::from(found.header.payload_len) * goes as u64 / all as u64,
            );
            self.chunks_kept += (all - goes) as u64;
        }
    }
}

/// The entries of a group with the decisions about them.
fn judge_entries(
    store: &Store,
    entries: Vec<Result<(FrameHeader, usize), ChunkId>>,
    decide: impl FnOnce(&[&FrameHeader]) -> Vec<bool>,
) -> Vec<Result<FrameLiveness, ChunkId>> {
    let headers: Vec<&FrameHeader> = entries
        .iter()
        .filter_map(|entry| entry.as_ref().ok())
        .map(|(header, _)| header)
        .collect();
    let mut decisions = decide(&headers).into_iter();
    let ledger = &store.inner.chunks.ledger;
    let with_decisions = |(header, len): (FrameHeader, usize)| {
        let live = decisions.by_ref().take(header.chunk_count()).collect();
        FrameLiveness::new(header, len, live).with_damage(|id| ledger.contains(id))
    };
    let mut with_decisions = with_decisions;
    entries
        .into_iter()
        .map(|entry| entry.map(&mut with_decisions))
        .collect()
}

/// The packs that the frames which stay make.
fn pack_survivors(
    entries: Vec<Result<FrameLiveness, ChunkId>>,
    packer: &mut Packer,
    swept: &mut SweepResult,
) -> Vec<FramePack> {
    let mut packs = Vec::new();
    for entry in entries {
        match entry {
            Ok(found) if found.decide_fate(packer.chunks_per_frame) == Fate::Drop => {}
            Ok(found) => packs.extend(packer.push_frame(found)),
            Err(_) => {
                swept.frames_damaged += 1;
                packs.extend(packer.close_pack());
            }
        }
    }
    packs
}

pub(crate) fn chunks_per_frame(store: &Store) -> usize {
    store.inner.chunks.chunks_per_frame() as usize
}

/// The live chunks of a pack as one frame. Each is held against its name first: damage is left
/// where it is.
pub(super) fn encode_pack(
    store: &Store,
    pack: FramePack,
) -> Result<RewrittenPack, Box<(FramePack, StoreError)>> {
    let mut plan = FramePlan {
        chunks: Vec::new(),
        plain: Vec::new(),
    };
    let gathered = pack.frames.iter().try_for_each(|found| {
        let frame = store.inner.chunks.load_frame(found.header.clone())?;
        for (id, hash) in found.select_chunks(true) {
            plan.plain.extend_from_slice(frame.chunk_bytes(id)?);
            plan.chunks.push((id, hash));
        }
        Ok(())
    });
    match gathered {
        Ok(()) => Ok(RewrittenPack {
            frame: encode_frame(store.parameters().compression, plan),
            pack,
        }),
        Err(error) => Err(Box::new((pack, error))),
    }
}

/// Writes `batch` and, as part of it, deletes the index entries of `dead` chunks, unless they stand
/// for others by now.
fn write_without(
    store: &Store,
    generation: Generation,
    dead: impl Iterator<Item = (ChunkId, ChunkHash)>,
    mut batch: Batch,
    durability: Durability,
) -> Result<(), StoreError> {
    let inner = &store.inner;
    let dead: Vec<(ChunkId, [u8; 8])> = dead.map(|(id, hash)| (id, hash.index_prefix())).collect();
    let _index = inner.chunks.lock_index();
    let entries = inner.database.get_many(
        Family::Index,
        dead.iter().map(|(_, prefix)| prefix.as_slice()),
    )?;
    for ((id, prefix), entry) in dead.iter().zip(&entries) {
        let stands_for = entry
            .as_ref()
            .and_then(|entry| WireReader::new(entry).read_varint().ok());
        if stands_for == Some(id.0) {
            batch.delete_record(Family::Index, *prefix);
        }
    }
    drop(entries);
    inner.database.write_in(generation, batch, durability)?;
    if durability == Durability::Bulk {
        inner.chunks.note_rewritten();
    }
    inner
        .chunks
        .ledger
        .clear_entries(dead.into_iter().map(|(id, _)| id));
    Ok(())
}
