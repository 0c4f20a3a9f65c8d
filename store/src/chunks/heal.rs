//! Heals damaged frames: writes right bytes under the ids that they had, taken from the intact
//! chunks of the frame and from copies found elsewhere.
//!
//! **Ids never change**, so no map is touched, and every image that shares a chunk is healed with
//! it. The new frame holds the ids of the old one, under the names that the old header has. A chunk
//! that is still missing keeps its place and its name over bytes that do not have that name
//! (zeros): it reads as damage, never as other bytes, and can be healed later. It stays in the
//! ledger.
//!
//! **No other writer touches the frame meanwhile.** Every put, replacement or deletion of an
//! existing frame happens under the index lock. Here header and payload are read, put together and
//! written under one hold of that lock, so the new frame replaces exactly the one that was read; a
//! chunk that was collected or moved before is not found, or found where it is now. A rewriting
//! collection reads before it takes the lock: it then writes chunks that it verified, under the
//! same ids, whichever of the two comes first.
//!
//! **Crashes.** One logged batch writes the new frame and removes its chunks from the ledger. A
//! collection's rewriting is in memory until its end, while logged batches outlive a crash: a frame
//! that was healed after it was moved would come back beside the one that it was moved from. So
//! rewritten frames are flushed before any frame is healed ([`Chunks::note_rewritten`]).

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;

use vellum_core::frame::FrameHeader;
use vellum_core::hash::{ChunkHash, hash_chunks};
use vellum_core::units::ChunkId;

use super::Chunks;
use super::decoded_frame::DecodedFrame;
use super::frames::{FramePlan, encode_frame, payload_mismatch};
use super::ledger::DamageKind;
use crate::database::{Batch, Durability};
use crate::error::StoreError;

/// A chunk's name and bytes that have it.
#[derive(Clone, Copy)]
pub(crate) struct RightBytes<'a> {
    pub(crate) id: ChunkId,
    pub(crate) name: ChunkHash,
    /// Verified against the hash by the caller.
    pub(crate) plain: &'a [u8],
}

impl Chunks {
    /// Writes `chunks` under their ids, where their frames do not have them whole: durable when
    /// this returns. Those that are readable under their ids and names by then, in order.
    ///
    /// Locks: takes the index lock, so none that comes after it may be held.
    pub(crate) fn heal_chunks(&self, chunks: &[RightBytes<'_>]) -> Result<Vec<bool>, StoreError> {
        let mut order: Vec<usize> = (0..chunks.len()).collect();
        order.sort_unstable_by_key(|at| chunks[*at].id);
        let mut healed = vec![false; chunks.len()];
        let mut left = order.as_slice();
        while let Some(at) = left.first() {
            let next = self.heal_frame(chunks[*at].id, chunks, left, &mut healed)?;
            // A chunk that no frame holds takes nobody else with it.
            left = &left[next.max(1)..];
        }
        Ok(healed)
    }

    /// Heals the frame that holds `id`, the first of `left`; how many of `left` it holds.
    fn heal_frame(
        &self,
        id: ChunkId,
        chunks: &[RightBytes<'_>],
        left: &[usize],
        healed: &mut [bool],
    ) -> Result<usize, StoreError> {
        let _index = self.lock_index_flushed()?;
        let Some(header) = self.readable_header(id)? else {
            return Ok(0);
        };
        let inside = left
            .iter()
            .take_while(|at| chunks[**at].id < header.end_id())
            .count();
        let right: BTreeMap<ChunkId, &RightBytes<'_>> = left[..inside]
            .iter()
            .map(|at| &chunks[*at])
            .filter(|chunk| header.chunk_hash(chunk.id) == Some(&chunk.name))
            .map(|chunk| (chunk.id, chunk))
            .collect();
        if !right.is_empty() {
            let old = self.reader.load_frame(header.clone());
            let old = old.map(Some).or_else(only_damage)?;
            self.put_healed(&header, old.as_ref(), &right)?;
            left[..inside]
                .iter()
                .for_each(|at| healed[*at] = right.contains_key(&chunks[*at].id));
        }
        Ok(inside)
    }

    /// Writes the frame that holds `id` anew if its payload is not the one that its header was
    /// written with, but has chunks of it. A lost table leaves such a pair: below it lies the
    /// record that one of the two replaced, and both times the frame held the same chunks, or more.
    /// True if it was written, and the id behind the frame.
    ///
    /// Locks: as [`Chunks::heal_chunks`].
    pub(crate) fn reunite_frame(&self, id: ChunkId) -> Result<(bool, ChunkId), StoreError> {
        let _index = self.lock_index_flushed()?;
        let Some(header) = self.readable_header(id)? else {
            return Ok((false, id.advance_by(1)));
        };
        let (first, end) = (header.first_id(), header.end_id());
        let stored = self.reader.stored_payload(first)?;
        let chunk_len = self.parameters.chunk_len;
        let is_other = |stored: &_| payload_mismatch(&header, stored, chunk_len).is_some();
        let Some(stored) = stored.filter(|stored| is_other(stored)) else {
            return Ok((false, end));
        };
        let plain = self.reader.decode_payload(first, &stored);
        let plain = plain.map(Some).or_else(only_damage)?.unwrap_or_default();
        let pieces: Vec<&[u8]> = plain.chunks_exact(chunk_len.as_usize()).collect();
        let found = hash_chunks(&pieces).into_iter().zip(pieces);
        let found: HashMap<ChunkHash, &[u8]> = found.collect();
        let right = header.chunk_hashes().filter_map(|(id, name)| {
            let (name, plain) = (*name, *found.get(name)?);
            Some(RightBytes { id, name, plain })
        });
        let right: Vec<RightBytes<'_>> = right.collect();
        if right.is_empty() {
            return Ok((false, end));
        }
        let right = right.iter().map(|chunk| (chunk.id, chunk)).collect();
        self.put_healed(&header, None, &right)?;
        Ok((true, end))
    }

    /// Writes the frame of `header` with what is whole of it in `old`, and `right`. Under the index
    /// lock.
    fn put_healed(
        &self,
        header: &FrameHeader,
        old: Option<&DecodedFrame>,
        right: &BTreeMap<ChunkId, &RightBytes<'_>>,
    ) -> Result<(), StoreError> {
        let chunk_len = self.parameters.chunk_len.as_usize();
        let mut plan = FramePlan {
            chunks: Vec::with_capacity(header.chunk_count()),
            plain: Vec::with_capacity(header.chunk_count() * chunk_len),
        };
        let (mut whole, mut missing) = (Vec::new(), Vec::new());
        for (id, name) in header.chunk_hashes() {
            plan.chunks.push((id, *name));
            let kept = old.and_then(|old| old.chunk_bytes(id).ok());
            let bytes = kept.or_else(|| right.get(&id).map(|chunk| chunk.plain));
            if let Some(bytes) = bytes {
                plan.plain.extend_from_slice(bytes);
                whole.push(id);
            } else {
                plan.plain.resize(plan.plain.len() + chunk_len, 0);
                missing.push(id);
            }
        }
        // Before the placeholders can be taken for what they stand for.
        self.ledger.note_damage(missing, DamageKind::Damaged);
        let frame = encode_frame(self.parameters.compression, plan);
        let mut batch = Batch::default();
        frame.put_content(&mut batch);
        let clearing = self.ledger.clear_with(whole, &mut batch);
        self.database.write_batch(batch, Durability::Logged)?;
        clearing.finish_clear();
        self.reader.evict_range(header.first_id(), header.end_id());
        Ok(())
    }

    /// Frames were rewritten by a batch that is not logged. Noted after it was written, under the
    /// same hold of the index lock.
    pub(crate) fn note_rewritten(&self) {
        self.has_unflushed_rewrites.store(true, Ordering::Release);
    }

    /// The index lock, while everything that was rewritten is durable.
    fn lock_index_flushed(&self) -> Result<std::sync::MutexGuard<'_, ()>, StoreError> {
        loop {
            if self.has_unflushed_rewrites.swap(false, Ordering::AcqRel) {
                self.database.flush_bulk(self.database.write_generation())?;
            }
            let index = self.lock_index();
            if !self.has_unflushed_rewrites.load(Ordering::Acquire) {
                return Ok(index);
            }
        }
    }
}

/// Turns damage into `None`; other errors stay errors.
fn only_damage<T>(error: StoreError) -> Result<Option<T>, StoreError> {
    match error {
        StoreError::Damaged(_) => Ok(None),
        error => Err(error),
    }
}
