//! Decides which chunks a session may take for "already there" without storing their bytes: known
//! means readable.
//!
//! A header that names a chunk says that it was stored, not that it can still be read. Taken at its
//! word, it would make the one import that brings lost bytes back throw them away. To read every
//! known chunk would make an import of known data as slow as reading all of the store. So:
//!
//! 1. A chunk is *doubted* if the damage ledger has an entry for it (a check, a read, a scrub or
//!    the log found its frame damaged, or a repair gave it up), if its header cannot be read, or,
//!    where a scrub is kept, if it was not read for longer than a round ([`Chunks::set_overdue`]).
//! 2. A chunk that is not doubted is believed unread.
//! 3. A session that *verifies* believes nothing unread. It decodes each frame once.
//! 4. A doubted chunk is read. If it has the bytes of its name, it is known, and leaves the ledger.
//!    If not, the bytes at hand are written under its id (`heal`), and every image that shares it
//!    is whole again. A chunk whose frame cannot be found any more is stored under a new id.
//!
//! *Proof that this is enough.* Let a session refer to chunk X without storing it, and let X be
//! unreadable when the session commits. Either X was read whole in this session (3, 4): then it was
//! damaged within the session, which only a second read could tell. Or it was believed (2): then no
//! check, read, scrub or log had found it damaged before it was looked up. For each of them makes
//! an entry durable before it answers, and an entry goes only in the batch that heals X, with X
//! when it is collected, or when X was read whole. So the only damage that is believed wrongly is
//! damage that no read has met; where a scrub is kept, it is younger than its round.
//!
//! *Cost.* Where the ledger is empty and nothing is overdue, the question is two loads of a flag
//! for each page of an image.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use rayon::prelude::{IntoParallelIterator, ParallelIterator};
use vellum_core::frame::FrameHeader;
use vellum_core::hash::ChunkHash;
use vellum_core::id_set::IdSet;
use vellum_core::units::ChunkId;

use super::heal::RightBytes;
use super::ledger::DamageKind;
use super::{ChunkCandidate, Chunks, DedupSession};
use crate::error::StoreError;

/// Frames that are read at a time: 8 MiB of chunks at the default lengths.
const FRAMES_TOGETHER: usize = 64;

/// A frame and those of its chunks that are doubted: where in the question they are.
struct DoubtedFrame {
    header: FrameHeader,
    places: Vec<usize>,
}

impl Chunks {
    /// Marks these chunks as overdue: from now on they are not believed unread, as they were not
    /// read for longer than a scrub's round.
    pub(crate) fn set_overdue(&self, ids: IdSet) {
        let is_empty = ids.next_from(ChunkId(0)).is_none();
        let mut overdue = self.overdue.write().unwrap_or_else(PoisonError::into_inner);
        *overdue = ids;
        self.has_overdue.store(!is_empty, Ordering::Release);
    }

    /// True if some chunk is doubted.
    fn has_doubts(&self) -> bool {
        !self.ledger.is_empty() || self.has_overdue.load(Ordering::Acquire)
    }

    /// True if `id` is doubted.
    pub(crate) fn is_doubted(&self, id: ChunkId) -> bool {
        let is_overdue = || {
            let overdue = self.overdue.read().unwrap_or_else(PoisonError::into_inner);
            overdue.contains(id)
        };
        self.ledger.contains(id) || (self.has_overdue.load(Ordering::Acquire) && is_overdue())
    }

    /// Reads the frames of `chunks` from the disk, each once, on all cores: for each chunk whether
    /// it has the bytes of its name. What else was found whole is added to `verified`. What was
    /// found damaged is in the ledger when this returns.
    pub(crate) fn read_sound(
        &self,
        chunks: &[(ChunkId, ChunkHash)],
        verified: &mut IdSet,
    ) -> Result<Vec<bool>, StoreError> {
        let mut sound = vec![false; chunks.len()];
        let frames = self.frames_of(chunks, &mut sound)?;
        let read: Vec<(DoubtedFrame, Result<Vec<ChunkId>, StoreError>)> = frames
            .into_par_iter()
            .map(|frame| {
                let whole = self.whole_chunks(&frame.header);
                (frame, whole)
            })
            .collect();
        for (frame, whole) in read {
            let whole = whole?;
            whole.iter().for_each(|id| verified.insert(*id));
            for at in frame.places {
                let (id, name) = &chunks[at];
                let has_name = frame.header.chunk_hash(*id) == Some(name);
                sound[at] = has_name && whole.binary_search(id).is_ok();
            }
        }
        Ok(sound)
    }

    /// The chunks of `ids` that cannot be read under the names that their headers have, and that
    /// nothing at hand could mend. Reads those that are not in `verified`, each frame once.
    pub(crate) fn unreadable_chunks(
        &self,
        ids: &IdSet,
        verified: &mut IdSet,
    ) -> Result<IdSet, StoreError> {
        let mut unreadable = IdSet::new();
        let mut next = ids.next_from(ChunkId(0));
        while next.is_some() {
            let mut headers = Vec::with_capacity(FRAMES_TOGETHER);
            while let Some(id) = next.filter(|_| headers.len() < FRAMES_TOGETHER) {
                let header = self.readable_header(id)?;
                next = ids.next_from(
                    header
                        .as_ref()
                        .map_or(id.advance_by(1), FrameHeader::end_id),
                );
                match header {
                    Some(header) => headers.push(header),
                    None => unreadable.insert(id),
                }
            }
            let read: Vec<(FrameHeader, Result<Vec<ChunkId>, StoreError>)> = headers
                .into_par_iter()
                .map(|header| {
                    let whole = self.whole_chunks(&header);
                    (header, whole)
                })
                .collect();
            for (header, whole) in read {
                let whole = whole?;
                whole.iter().for_each(|id| verified.insert(*id));
                let wanted = header
                    .chunk_hashes()
                    .map(|(id, _)| id)
                    .filter(|id| ids.contains(*id));
                wanted
                    .filter(|id| whole.binary_search(id).is_err() && !self.is_mended(*id))
                    .for_each(|id| unreadable.insert(id));
            }
        }
        Ok(unreadable)
    }

    /// True if `id` can be read after all, with the help of sources, and is whole in the store now.
    fn is_mended(&self, id: ChunkId) -> bool {
        let frame = self.verified_frame(id);
        frame.is_ok_and(|frame| frame.chunk_bytes(id).is_ok()) && !self.ledger.contains(id)
    }

    /// The frames that hold `chunks`. A chunk that is still on its way into the database is sound:
    /// its bytes are in memory.
    fn frames_of(
        &self,
        chunks: &[(ChunkId, ChunkHash)],
        sound: &mut [bool],
    ) -> Result<Vec<DoubtedFrame>, StoreError> {
        let mut order: Vec<usize> = (0..chunks.len()).collect();
        order.sort_unstable_by_key(|at| chunks[*at].0);
        let mut frames: Vec<DoubtedFrame> = Vec::new();
        for at in order {
            let (id, name) = &chunks[at];
            match frames
                .last_mut()
                .filter(|last| last.header.payload_index(*id).is_some())
            {
                Some(last) => last.places.push(at),
                None if self.writer.pending_ids(&[*name])[0] == Some(*id) => sound[at] = true,
                None => match self.readable_header(*id)? {
                    Some(header) => frames.push(DoubtedFrame {
                        header,
                        places: vec![at],
                    }),
                    None => self.ledger.note_damage([*id], DamageKind::Damaged),
                },
            }
        }
        Ok(frames)
    }

    /// The header of the frame that holds `id`; none if it cannot be read or is not there.
    pub(crate) fn readable_header(&self, id: ChunkId) -> Result<Option<FrameHeader>, StoreError> {
        match self.reader.frame_header(id) {
            Err(StoreError::Damaged(_)) => Ok(None),
            read => read,
        }
    }

    /// The chunks of a frame that have the bytes of their names, in order. A collection may have
    /// moved them meanwhile: then they are looked for once more.
    fn whole_chunks(&self, header: &FrameHeader) -> Result<Vec<ChunkId>, StoreError> {
        let load = || match self.reader.load_frame(header.clone()) {
            Ok(frame) => Ok(Some(frame)),
            Err(StoreError::Damaged(_)) => Ok(None),
            Err(error) => Err(error),
        };
        if let Some(frame) = load()? {
            self.reader.note_frame_state(&frame);
            return Ok(header
                .chunk_hashes()
                .map(|(id, _)| id)
                .filter(|id| frame.chunk_bytes(*id).is_ok())
                .collect());
        }
        let has_moved = self
            .readable_header(header.first_id())?
            .is_none_or(|now| now != *header);
        let ids = header.chunk_hashes().map(|(id, _)| id);
        if has_moved {
            let reads = |id: &ChunkId| {
                let frame = self.reader.read_frame(*id);
                frame.is_ok_and(|frame| frame.chunk_bytes(*id).is_ok())
            };
            return Ok(ids.filter(reads).collect());
        }
        self.ledger.note_damage(ids, DamageKind::Damaged);
        Ok(Vec::new())
    }
}

impl DedupSession<'_> {
    /// Makes the session believe nothing unread from now on.
    pub(crate) fn verify_all(&mut self) {
        self.verifies = true;
    }

    /// Makes sure of `ids`, which were found for `candidates`: those that are doubted are read, and
    /// healed if they are damaged. What cannot be is not known.
    pub(super) fn check_doubted(
        &mut self,
        candidates: &[ChunkCandidate<'_>],
        ids: &mut [Option<ChunkId>],
    ) -> Result<(), StoreError> {
        if self.believes_all() {
            return Ok(());
        }
        let doubted: Vec<(usize, ChunkId)> = ids
            .iter()
            .enumerate()
            .filter_map(|(at, id)| Some((at, (*id)?)))
            .filter(|(_, id)| self.is_in_doubt(*id))
            .collect();
        if doubted.is_empty() {
            return Ok(());
        }
        let named: Vec<(ChunkId, ChunkHash)> = doubted
            .iter()
            .map(|(at, id)| (*id, candidates[*at].hash))
            .collect();
        let sound = self.chunks.read_sound(&named, &mut self.verified)?;
        let mut unsound: Vec<(usize, ChunkId)> = doubted
            .into_iter()
            .zip(sound)
            .filter_map(|(found, sound)| (!sound).then_some(found))
            .collect();
        self.heal_at_hand(candidates, &mut unsound)?;
        for (at, id) in unsound {
            // Without bytes at hand there may be sources; with them, this frame is gone.
            let has_source = candidates[at].plain.is_empty() && self.chunks.is_mended(id);
            if !has_source {
                ids[at] = None;
                self.counts.known -= 1;
            }
        }
        Ok(())
    }

    fn is_in_doubt(&self, id: ChunkId) -> bool {
        (self.verifies && !self.verified.contains(id)) || self.chunks.is_doubted(id)
    }

    /// Writes the bytes at hand under the ids of damaged chunks; what is healed leaves `unsound`.
    fn heal_at_hand(
        &mut self,
        candidates: &[ChunkCandidate<'_>],
        unsound: &mut Vec<(usize, ChunkId)>,
    ) -> Result<(), StoreError> {
        let right: Vec<RightBytes<'_>> = unsound
            .iter()
            .filter(|(at, _)| !candidates[*at].plain.is_empty())
            .map(|(at, id)| RightBytes {
                id: *id,
                name: candidates[*at].hash,
                plain: candidates[*at].plain,
            })
            .collect();
        if right.is_empty() {
            return Ok(());
        }
        let healed = self.chunks.heal_chunks(&right)?;
        let mut is_healed = IdSet::new();
        for (chunk, _) in right.iter().zip(healed).filter(|(_, healed)| *healed) {
            is_healed.insert(chunk.id);
            self.verified.insert(chunk.id);
        }
        self.counts.healed += is_healed.len();
        unsound.retain(|(_, id)| !is_healed.contains(*id));
        Ok(())
    }

    /// The chunks of `ids`, which a map refers to, that cannot be believed to be readable: see the
    /// module's comment.
    pub(crate) fn unreadable_refs(&mut self, ids: &IdSet) -> Result<IdSet, StoreError> {
        let mut doubted = IdSet::new();
        for (first, count) in ids.id_runs() {
            let of_run = (0..count).map(|nth| first.advance_by(nth));
            of_run
                .filter(|id| self.is_in_doubt(*id))
                .for_each(|id| doubted.insert(id));
        }
        self.chunks.unreadable_chunks(&doubted, &mut self.verified)
    }

    /// True if the session believes every chunk unread.
    pub(crate) fn believes_all(&self) -> bool {
        !self.verifies && !self.chunks.has_doubts()
    }
}
