//! Deduplicates the chunks of an image that is being stored: finds the id that each chunk has, or
//! gives it a new one.
//!
//! Cheap guesses come first: the id that the parent has at the same position, then the id after the
//! last hit. About 96 in 100 shared chunks are found by one of them, against a header that is
//! already in memory. Only the rest ask the index.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::{ParallelIterator, ParallelSlice};
use vellum_core::frame::FrameHeader;
use vellum_core::hash::ChunkHash;
use vellum_core::id_set::IdSet;
use vellum_core::units::ChunkId;

use super::Chunks;
use super::frames::{CompressedFrame, compress_chunks, put_names};
use super::gc_pins::{Epoch, SessionId};
use super::sync::{self, lock_unpoisoned};
use crate::database::{Batch, Durability, Generation};
use crate::error::StoreError;
use crate::usage_history::entry::Added;

/// Neighbours that are tried in a row without a hit: they mostly lie in the header at hand, so
/// trying costs little.
const MISSES_MAX: u32 = 8;

/// A chunk to be stored, and the id that it may well have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunkCandidate<'a> {
    pub(crate) hash: ChunkHash,
    pub(crate) plain: &'a [u8],
    pub(crate) guess: Option<ChunkId>,
}

/// Counts of a session so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SessionCounts {
    /// Chunks that were not in the store.
    pub(crate) new: u64,
    /// Chunks that were.
    pub(crate) known: u64,
    /// Of those: chunks that were damaged, and were written again under their ids.
    pub(crate) healed: u64,
}

/// An import's, or a live disk's, dealings with the chunk store. What it was given ids for stays
/// until it is dropped.
pub(crate) struct DedupSession<'s> {
    pub(super) chunks: &'s Chunks,
    id: SessionId,
    /// Write generation in which it began: frames that were written for it may be gone under a
    /// later one.
    generation: Generation,
    /// The header that the last guess was found in.
    header: Option<FrameHeader>,
    /// Epoch in which the header was read.
    epoch: Epoch,
    /// The id after the last hit, as long as it is worth trying.
    neighbour: Option<ChunkId>,
    /// Neighbours in a row that missed.
    misses: u32,
    pub(crate) counts: SessionCounts,
    /// True if nothing is believed unread: see `known`.
    pub(super) verifies: bool,
    /// Chunks that were read whole for this session.
    pub(super) verified: IdSet,
    /// Payloads of the frames that hold its new chunks.
    stored_len: Arc<AtomicU64>,
    /// One above the greatest id that was given out.
    end: ChunkId,
}

/// Chunks that a commit has stored.
pub(crate) struct StoredChunks<'i> {
    /// The ids of its candidates, in order.
    pub(crate) ids: &'i [ChunkId],
    /// The share of them that was new.
    pub(crate) added: Added,
}

/// Chunks that get ids in a commit, compressed in frames.
struct NewChunks<'c, 'a> {
    chunks: Vec<&'c ChunkCandidate<'a>>,
    /// Position in `chunks` by name.
    places: HashMap<ChunkHash, u64>,
    frames: Vec<CompressedFrame>,
    per_frame: usize,
}

impl<'s> DedupSession<'s> {
    pub(crate) fn new(chunks: &'s Chunks) -> Self {
        let id = chunks.claims.open_session();
        // Before anything is looked at: what is found is there, or on its way, from then on.
        let generation = chunks.database.write_generation();
        let epoch = chunks.claims.current_epoch();
        Self {
            chunks,
            id,
            generation,
            header: None,
            epoch,
            neighbour: None,
            misses: 0,
            counts: SessionCounts::default(),
            verifies: false,
            verified: IdSet::new(),
            stored_len: Arc::default(),
            end: ChunkId(0),
        }
    }

    /// The ids of `candidates`, in order; new chunks are on their way to disk, durable once the
    /// store is settled.
    pub(crate) fn store_chunks(
        &mut self,
        candidates: &[ChunkCandidate<'_>],
    ) -> Result<Vec<ChunkId>, StoreError> {
        let mut ids = self.guess_all(candidates)?;
        if self.verifies {
            // Under no lock, since it reads.
            self.look_up(candidates, &mut ids)?;
        }
        self.check_doubted(candidates, &mut ids)?;
        if ids.iter().any(Option::is_none) {
            let _section = lock_unpoisoned(&self.chunks.section);
            self.look_up_readable(candidates, &mut ids)?;
            sync::yield_point("looked up");
            let new = unresolved_candidates(candidates, &ids);
            let chunks: Vec<_> = new
                .iter()
                .map(|(_, candidate)| (candidate.hash, candidate.plain))
                .collect();
            let put = self.chunks.writer.put_chunks(
                &self.chunks.claims,
                self.id,
                &chunks,
                &self.stored_len,
            )?;
            for ((at, _), (id, is_new)) in new.iter().zip(put) {
                self.counts.new += u64::from(is_new);
                self.counts.known += u64::from(!is_new);
                ids[*at] = Some(id);
            }
        }
        Ok(self.finish_call(&ids))
    }

    /// Stores `candidates` and whatever `build` adds to the batch from what became of them, as one
    /// logged batch: durable when this returns. What seems new is compressed first, on all cores
    /// and under no lock; then the names are looked up again, if others stored something meanwhile.
    pub(crate) fn commit_chunks(
        &mut self,
        candidates: &[ChunkCandidate<'_>],
        build: impl FnOnce(&StoredChunks<'_>, &mut Batch) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut ids = self.guess_all(candidates)?;
        let seen_below = self.chunks.next_chunk();
        self.look_up(candidates, &mut ids)?;
        self.check_doubted(candidates, &mut ids)?;
        sync::yield_point("looked up, compressing");
        let mut new = NewChunks::compress_new(self.chunks, candidates, &ids);
        let _section = lock_unpoisoned(&self.chunks.section);
        // Ids are given out under the section only. If none was since, what was not found then is
        // not there now.
        if self.chunks.next_chunk() != seen_below && self.find_more(candidates, &mut ids)? {
            new = NewChunks::compress_new(self.chunks, candidates, &ids);
        }
        sync::yield_point("looked up");
        let mut batch = Batch::default();
        let first =
            self.chunks
                .writer
                .reserve_ids(&self.chunks.claims, self.id, new.chunks.len() as u64);
        self.counts.new += new.chunks.len() as u64;
        let stored_len = new.assign_ids(first, candidates, &mut ids, &mut batch);
        let ids = self.finish_call(&ids);
        let refers_to_bulk = ids
            .iter()
            .any(|id| *id < first && !self.chunks.is_durable(id.advance_by(1)));
        if refers_to_bulk {
            self.chunks.make_durable(self.generation)?;
        }
        // After the settling, which takes its time: `build` locks the tree until the batch is
        // written.
        let added = self.added_in_commit(new.chunks.len() as u64, stored_len);
        build(&StoredChunks { ids: &ids, added }, &mut batch)?;
        {
            let _index = self.chunks.lock_index();
            self.chunks
                .database
                .write_batch(batch, Durability::Logged)?;
        }
        self.chunks
            .writer
            .note_durable(first, new.chunks.len() as u64);
        Ok(())
    }

    /// Makes what it has stored durable, and everything else that was written in bulk since it
    /// began.
    pub(crate) fn make_durable(&self) -> Result<(), StoreError> {
        self.chunks.make_durable(self.generation)
    }

    /// Fails unless there is room for `len` bytes more that are written in bulk.
    pub(crate) fn check_room(&self, len: u64) -> Result<(), StoreError> {
        self.chunks.writer.check_room(len)
    }

    fn added_in_commit(&self, chunks: u64, compressed: u64) -> Added {
        Added {
            chunks,
            plain: chunks * self.chunks.parameters.chunk_len.byte_len(),
            compressed,
        }
    }

    /// The chunks that [`DedupSession::store_chunks`] added, once the store is settled.
    pub(crate) fn added_totals(&self) -> Added {
        self.added_in_commit(self.counts.new, self.stored_len.load(Ordering::Relaxed))
    }

    /// The ids of those of `names` that are there. They are the session's.
    pub(crate) fn find_ids(
        &mut self,
        names: &[ChunkHash],
    ) -> Result<Vec<Option<ChunkId>>, StoreError> {
        let candidates: Vec<ChunkCandidate<'_>> = names
            .iter()
            .map(|hash| ChunkCandidate {
                hash: *hash,
                plain: &[],
                guess: None,
            })
            .collect();
        let mut ids = self.guess_all(&candidates)?;
        self.look_up(&candidates, &mut ids)?;
        self.check_doubted(&candidates, &mut ids)?;
        Ok(ids)
    }

    /// Looks up what was not found, and makes sure of what is found now.
    fn look_up_readable(
        &mut self,
        candidates: &[ChunkCandidate<'_>],
        ids: &mut [Option<ChunkId>],
    ) -> Result<(), StoreError> {
        let places: Vec<usize> = (0..ids.len()).filter(|at| ids[*at].is_none()).collect();
        let left: Vec<ChunkCandidate<'_>> = places.iter().map(|at| candidates[*at]).collect();
        let mut found = vec![None; left.len()];
        self.look_up(&left, &mut found)?;
        self.check_doubted(&left, &mut found)?;
        places.iter().zip(found).for_each(|(at, id)| ids[*at] = id);
        Ok(())
    }

    /// Looks the chunks up again that were not found; whether some were found now.
    fn find_more(
        &mut self,
        candidates: &[ChunkCandidate<'_>],
        ids: &mut [Option<ChunkId>],
    ) -> Result<bool, StoreError> {
        let missing = |ids: &[Option<ChunkId>]| ids.iter().filter(|id| id.is_none()).count();
        let before = missing(ids);
        self.look_up_readable(candidates, ids)?;
        Ok(missing(ids) < before)
    }

    /// Notes the outcome of a call and gives the ids, all of which are known by now.
    fn finish_call(&mut self, ids: &[Option<ChunkId>]) -> Vec<ChunkId> {
        let ids: Vec<ChunkId> = ids
            .iter()
            .map(|id| id.expect("every candidate has an id"))
            .collect();
        self.end = ids
            .iter()
            .map(|id| id.advance_by(1))
            .max()
            .unwrap_or_default()
            .max(self.end);
        ids
    }

    /// Tries the guesses, and claims those that are right.
    fn guess_all(
        &mut self,
        candidates: &[ChunkCandidate<'_>],
    ) -> Result<Vec<Option<ChunkId>>, StoreError> {
        self.look_afresh();
        let mut ids = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            let hit = match candidate.guess {
                Some(guess) if self.has_name(guess, &candidate.hash)? => Some(guess),
                _ => self.try_neighbour(&candidate.hash)?,
            };
            if let Some(id) = hit {
                self.expect_after(id);
            }
            ids.push(hit);
        }
        self.pin_found(&mut ids);
        Ok(ids)
    }

    /// Forgets what was seen of the database before the present epoch.
    fn look_afresh(&mut self) {
        let epoch = self.chunks.claims.current_epoch();
        if self.epoch != epoch {
            self.header = None;
            self.epoch = epoch;
        }
    }

    fn expect_after(&mut self, id: ChunkId) {
        self.neighbour = Some(id.advance_by(1));
        self.misses = 0;
    }

    /// Tries the neighbour of the last hit. A miss may be one changed chunk among many that are
    /// known: the next chunk is compared with the next neighbour, a few times.
    fn try_neighbour(&mut self, hash: &ChunkHash) -> Result<Option<ChunkId>, StoreError> {
        let Some(neighbour) = self.neighbour else {
            return Ok(None);
        };
        if self.has_name(neighbour, hash)? {
            return Ok(Some(neighbour));
        }
        self.misses += 1;
        self.neighbour = (self.misses < MISSES_MAX).then_some(neighbour.advance_by(1));
        Ok(None)
    }

    /// True if chunk `id` is there and has the name `hash`.
    fn has_name(&mut self, id: ChunkId, hash: &ChunkHash) -> Result<bool, StoreError> {
        let in_hand = self
            .header
            .as_ref()
            .is_some_and(|header| (header.first_id()..header.end_id()).contains(&id));
        if !in_hand {
            // One that cannot be read speaks against its chunks: see `known`.
            match self.chunks.readable_header(id)? {
                Some(header) => self.header = Some(header),
                None => return Ok(false),
            }
        }
        Ok(self
            .header
            .as_ref()
            .and_then(|header| header.chunk_hash(id))
            == Some(hash))
    }

    /// Asks for what the guesses did not find: first what is pending, then the index. In this
    /// order, a chunk that moves from the one to the other meanwhile is seen.
    fn look_up(
        &mut self,
        candidates: &[ChunkCandidate<'_>],
        ids: &mut [Option<ChunkId>],
    ) -> Result<(), StoreError> {
        self.look_afresh();
        let places: Vec<usize> = (0..ids.len()).filter(|at| ids[*at].is_none()).collect();
        let hashes: Vec<ChunkHash> = places.iter().map(|at| candidates[*at].hash).collect();
        let mut found = self.chunks.writer.pending_ids(&hashes);
        let absent: Vec<usize> = (0..found.len())
            .filter(|nth| found[*nth].is_none())
            .collect();
        let prefixes: Vec<[u8; 8]> = absent
            .iter()
            .map(|nth| hashes[*nth].index_prefix())
            .collect();
        let indexed = self.chunks.indexed_many(&prefixes)?;
        for (nth, id) in absent.iter().zip(indexed) {
            let Some(id) = id else { continue };
            if self.has_name(id, &hashes[*nth])? {
                found[*nth] = Some(id);
                self.expect_after(id);
            }
        }
        self.pin_found(&mut found);
        places.iter().zip(found).for_each(|(at, id)| ids[*at] = id);
        Ok(())
    }

    /// Claims what was found; what the collector has dropped counts as not found.
    fn pin_found(&mut self, found: &mut [Option<ChunkId>]) {
        let hits: Vec<ChunkId> = found.iter().flatten().copied().collect();
        sync::yield_point("seen, not claimed");
        let accepted = self.chunks.claims.pin_chunks(self.id, self.epoch, &hits);
        sync::yield_point("claimed");
        for (slot, accepted) in found.iter_mut().filter(|slot| slot.is_some()).zip(accepted) {
            if accepted {
                self.counts.known += 1;
            } else {
                *slot = None;
            }
        }
    }
}

impl Drop for DedupSession<'_> {
    fn drop(&mut self) {
        self.chunks.writer.close_session(self.id);
        self.chunks.claims.close_session(self.id);
    }
}

impl<'c, 'a> NewChunks<'c, 'a> {
    /// Compresses those of `candidates` that have no id, each name once.
    fn compress_new(
        chunks: &Chunks,
        candidates: &'c [ChunkCandidate<'a>],
        ids: &[Option<ChunkId>],
    ) -> Self {
        let (mut new, mut places) = (Vec::new(), HashMap::new());
        for (_, candidate) in unresolved_candidates(candidates, ids) {
            places.entry(candidate.hash).or_insert_with(|| {
                new.push(candidate);
                new.len() as u64 - 1
            });
        }
        let per_frame = chunks.chunks_per_frame() as usize;
        let pack = |group: &[&ChunkCandidate<'_>]| {
            let plain: Vec<u8> = group
                .iter()
                .flat_map(|candidate| candidate.plain)
                .copied()
                .collect();
            compress_chunks(chunks.parameters.compression, &plain)
        };
        let frames = if new.len() <= per_frame {
            new.chunks(per_frame).map(pack).collect()
        } else {
            new.par_chunks(per_frame).map(pack).collect()
        };
        Self {
            chunks: new,
            places,
            frames,
            per_frame,
        }
    }

    /// Gives the chunks the ids from `first` on, and puts their frames into `batch`; the bytes of
    /// their payloads.
    fn assign_ids(
        &self,
        first: ChunkId,
        candidates: &[ChunkCandidate<'_>],
        ids: &mut [Option<ChunkId>],
        batch: &mut Batch,
    ) -> u64 {
        for (candidate, id) in candidates.iter().zip(ids) {
            id.get_or_insert_with(|| first.advance_by(self.places[&candidate.hash]));
        }
        let mut next = first;
        let mut frames = Vec::with_capacity(self.frames.len());
        for (group, packed) in self.chunks.chunks(self.per_frame).zip(&self.frames) {
            let chunks = group
                .iter()
                .zip(0..)
                .map(|(candidate, nth)| (next.advance_by(nth), candidate.hash))
                .collect();
            let frame = packed.encode_frame(chunks);
            frame.put_content(batch);
            frames.push(frame);
            next = next.advance_by(group.len() as u64);
        }
        put_names(&frames, batch);
        frames.iter().map(|frame| frame.payload_len() as u64).sum()
    }
}

fn unresolved_candidates<'c, 'a>(
    candidates: &'c [ChunkCandidate<'a>],
    ids: &[Option<ChunkId>],
) -> Vec<(usize, &'c ChunkCandidate<'a>)> {
    candidates
        .iter()
        .enumerate()
        .filter(|(at, _)| ids[*at].is_none())
        .collect()
}
