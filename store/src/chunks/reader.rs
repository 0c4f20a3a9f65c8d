//! Reads chunks by id: every chunk is verified against its hash before a caller sees it. A chunk
//! that is found damaged enters the ledger, one that is found whole leaves it.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use vellum_core::frame::{FrameHeader, StoredPayload, frame_key};
use vellum_core::hash::hash_chunks;
use vellum_core::units::{ChunkId, SolidNumber};

use super::cache::FrameCache;
use super::decoded_frame::{DecodedFrame, missing_chunk};
use super::headers::HeaderFinder;
use super::ledger::{DamageKind, DamageLedger};
use super::solid::SolidReader;
use super::sync::lock_unpoisoned;
use super::warm::WarmFrames;
use crate::codec;
use crate::database::{Database, Family};
use crate::error::StoreError;
use crate::records::StoreParameters;

/// Decoded solid blocks may take this part of the memory for decoded frames, beside it.
const SOLID_CACHE_PART: u64 = 4;

/// Reads frames.
pub(crate) struct FrameReader {
    database: Arc<Database>,
    parameters: StoreParameters,
    cache: FrameCache,
    solid: SolidReader,
    warm: WarmFrames,
    ledger: Arc<DamageLedger>,
    headers: HeaderFinder,
    /// Frames that are being decoded: other threads that want one of them wait for it.
    loading: Mutex<BTreeSet<ChunkId>>,
    loaded: Condvar,
}

/// The right to decode a frame.
struct Loading<'r> {
    reader: &'r FrameReader,
    first: ChunkId,
}

impl FrameReader {
    /// `cache_len` is the memory for decoded frames, unless somebody wishes otherwise.
    pub(crate) fn new(
        database: Arc<Database>,
        parameters: StoreParameters,
        cache_len: u64,
        ledger: Arc<DamageLedger>,
    ) -> Self {
        Self {
            warm: WarmFrames::default(),
            database,
            parameters,
            ledger,
            cache: FrameCache::new(cache_len),
            solid: SolidReader::new(cache_len / SOLID_CACHE_PART),
            headers: HeaderFinder::default(),
            loading: Mutex::default(),
            loaded: Condvar::new(),
        }
    }

    /// Memory for decoded frames.
    pub(crate) fn set_cache_len(&self, len: u64) {
        self.cache.set_len_max(len);
    }

    /// The frame that holds `id`, if it is in memory.
    pub(crate) fn cached_frame(&self, id: ChunkId) -> Option<Arc<DecodedFrame>> {
        self.cache.get(id)
    }

    /// Forgets decoded frames, so that what is read next comes from disk.
    #[cfg(test)]
    pub(crate) fn forget(&self) {
        self.cache.clear();
        self.solid.forget_all();
    }

    /// Up to `max` frames of solid blocks that are read again and again; and whether there are
    /// others.
    pub(super) fn take_warm_frames(&self, max: usize) -> (Vec<ChunkId>, bool) {
        self.warm.take_due(max)
    }

    /// Forgets a solid block that is gone.
    pub(super) fn forget_solid(&self, number: SolidNumber) {
        self.solid.forget_block(number);
    }

    /// The header of the frame that holds `id`.
    pub(crate) fn frame_header(&self, id: ChunkId) -> Result<Option<FrameHeader>, StoreError> {
        self.headers.find_header(&self.database, id)
    }

    /// The frame that holds `id`.
    pub(crate) fn read_frame(&self, id: ChunkId) -> Result<Arc<DecodedFrame>, StoreError> {
        if let Some(frame) = self.cache.get(id) {
            return Ok(frame);
        }
        let frame = self.read_frame_ahead(id)?;
        if frame.header.solid.is_some() {
            self.warm.note_read(frame.header.first_id());
        }
        Ok(frame)
    }

    /// The frame that holds `id`, before somebody wants it.
    pub(super) fn read_frame_ahead(&self, id: ChunkId) -> Result<Arc<DecodedFrame>, StoreError> {
        match self.try_frame(id) {
            // Collection may have put the chunk into another frame between our two reads: once
            // more, then it is damage.
            Err(StoreError::Damaged(_)) => self
                .try_frame(id)
                .inspect_err(|error| self.note_damage(id, error)),
            other => other,
        }
    }

    /// Notes what cannot be read for `error`, which reading chunk `id` gave: all of its frame, if
    /// it is known what is in there.
    fn note_damage(&self, id: ChunkId, error: &StoreError) {
        if !matches!(error, StoreError::Damaged(_)) {
            return;
        }
        match self.frame_header(id) {
            Ok(Some(header)) => {
                let ids = header.chunk_hashes().map(|(id, _)| id);
                self.ledger.note_damage(ids, DamageKind::Damaged);
            }
            _ => self.ledger.note_damage([id], DamageKind::Damaged),
        }
    }

    /// Notes what a frame that comes from the disk says of its chunks.
    pub(crate) fn note_frame_state(&self, frame: &DecodedFrame) {
        if !frame.is_whole() {
            let unsound = frame.unsound_chunks().map(|(id, _)| id);
            self.ledger.note_damage(unsound, DamageKind::Damaged);
        }
        let (first, end) = (frame.header.first_id(), frame.header.end_id());
        if self.ledger.meets_range(first, end.0 - first.0) {
            let sound = frame.header.chunk_hashes().zip(&frame.sound);
            let sound = sound.filter(|(_, sound)| **sound).map(|((id, _), _)| id);
            self.ledger.clear_entries(sound);
        }
    }

    /// Keeps a frame that was put together from elsewhere, as if it had been read.
    pub(super) fn cache_frame(&self, frame: &Arc<DecodedFrame>) {
        self.cache.insert(frame);
    }

    /// Forgets what is in memory of the ids in `[first, end)`: something else was written there.
    pub(super) fn evict_range(&self, first: ChunkId, end: ChunkId) {
        self.cache.evict_range(first, end);
    }

    fn try_frame(&self, id: ChunkId) -> Result<Arc<DecodedFrame>, StoreError> {
        if let Some(frame) = self.cache.get(id) {
            return Ok(frame);
        }
        let header = self.frame_header(id)?.ok_or_else(|| missing_chunk(id))?;
        let _loading = self.begin_loading(header.first_id());
        if let Some(frame) = self.cache.get(id) {
            return Ok(frame);
        }
        let frame = Arc::new(self.load_frame(header)?);
        self.note_frame_state(&frame);
        self.cache.insert(&frame);
        Ok(frame)
    }

    /// Waits until nobody else decodes the frame that begins with `first`.
    fn begin_loading(&self, first: ChunkId) -> Loading<'_> {
        let mut loading = lock_unpoisoned(&self.loading);
        while !loading.insert(first) {
            loading = self
                .loaded
                .wait(loading)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Loading {
            reader: self,
            first,
        }
    }

    /// Reads, decodes and verifies the payload of `header`, without a look at the cache.
    pub(crate) fn load_frame(&self, header: FrameHeader) -> Result<DecodedFrame, StoreError> {
        let first = header.first_id();
        let damaged = |reason: String| StoreError::damaged_record(format!("frame {first}"), reason);
        let stored = self
            .stored_payload(first)?
            .ok_or_else(|| damaged("it is gone".to_owned()))?;
        self.decode_frame(header, &stored)
    }

    /// The payload of the frame that begins with `first`, as it is stored.
    pub(super) fn stored_payload(
        &self,
        first: ChunkId,
    ) -> Result<Option<impl Deref<Target = [u8]>>, StoreError> {
        self.database.get(Family::Frames, &frame_key(first))
    }

    /// The chunks of the payload `stored` of the frame that begins with `first`, one after another
    /// and not verified: as many as it says itself, whatever its header says.
    pub(super) fn decode_payload(
        &self,
        first: ChunkId,
        stored: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        let damaged = |reason: String| StoreError::damaged_record(format!("frame {first}"), reason);
        let payload =
            StoredPayload::decode(first, stored).map_err(|error| damaged(error.to_string()))?;
        match payload {
            StoredPayload::Own(own) => {
                codec::decompress_frame(own.codec, own.compressed, own.plain_len as usize)
                    .map_err(damaged)
            }
            StoredPayload::Solid { place, plain_len } => {
                self.solid
                    .read_frame_bytes(&self.database, first, place, plain_len)
            }
        }
    }

    /// The frame that `header` and the payload `stored` make, its chunks verified against their
    /// hashes.
    pub(crate) fn decode_frame(
        &self,
        header: FrameHeader,
        stored: &[u8],
    ) -> Result<DecodedFrame, StoreError> {
        let first = header.first_id();
        let damaged = |reason: String| StoreError::damaged_record(format!("frame {first}"), reason);
        let payload =
            StoredPayload::decode(first, stored).map_err(|error| damaged(error.to_string()))?;
        let chunk_len = self.parameters.chunk_len.as_usize();
        let plain_len = header.chunk_count() * chunk_len;
        if payload.plain_len() as usize != plain_len {
            return Err(damaged(format!(
                "{} bytes where its header says {plain_len}",
                payload.plain_len()
            )));
        }
        let plain = self.decode_payload(first, stored)?;
        let chunks: Vec<&[u8]> = plain.chunks_exact(chunk_len).collect();
        let sound: Vec<bool> = header
            .chunk_hashes()
            .zip(hash_chunks(&chunks))
            .map(|((_, name), found)| *name == found)
            .collect();
        Ok(DecodedFrame {
            is_whole: sound.iter().all(|sound| *sound),
            header,
            plain,
            chunk_len,
            sound,
        })
    }
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        lock_unpoisoned(&self.reader.loading).remove(&self.first);
        self.reader.loaded.notify_all();
    }
}
