//! Chunk content by id: found by name, kept once, written in frames, read back verified.
//!
//! The pieces: `gc_pins` pins chunks that a session skips as "already there" against the collector;
//! `writer` turns new chunks into frames; `reader` turns frames back, `cache` keeps decoded frames,
//! `readahead` decodes them in time, `solid` reads frames that were compressed with others,
//! `warm` counts such reads; `dedup_session` (the importer's and the live disk's view)
//! decides which chunks are new.
//!
//! After damage: `ledger` remembers the chunks that were found damaged, `known` decides which are
//! believed unread, `heal` writes right bytes under the ids that they had, `mend` finds them, in
//! `source`s too.

mod cache;
mod decoded_frame;
mod dedup_session;
mod frames;
mod gc_pins;
mod headers;
mod heal;
mod known;
mod ledger;
mod mend;
mod readahead;
mod reader;
mod solid;
mod source;
pub(crate) mod sync;
mod warm;
mod writer;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, Weak};
use std::time::Duration;

use vellum_core::hash::ChunkHash;
use vellum_core::id_set::IdSet;
use vellum_core::units::{ChunkId, SolidNumber};
use vellum_core::wire;

pub(crate) use decoded_frame::DecodedFrame;
pub(crate) use dedup_session::{ChunkCandidate, DedupSession, SessionCounts, StoredChunks};
pub(crate) use frames::{EncodedFrame, FramePlan, compress_chunks, encode_frame, payload_mismatch};
pub(crate) use gc_pins::{GcPins, SweepDecision};
pub(crate) use headers::HeaderWalk;
#[cfg(test)]
pub(crate) use heal::RightBytes;
#[cfg(test)]
pub(crate) use ledger::damage_key;
pub(crate) use ledger::{DamageKind, DamageLedger, DamageRecord};
pub(crate) use mend::Mender;
pub use mend::Notices;
pub(crate) use solid::{DecodedSolid, share_of_block};
#[cfg(test)]
pub(crate) use source::PATIENCE;
pub(crate) use source::{AskedSource, KnownNames};
pub use source::{ChunkSource, WantedChunks, WantedPage};

use crate::database::{Database, Family, Generation};
use crate::error::StoreError;
use crate::records::StoreParameters;
use crate::reserve::Reserve;
use crate::sizes::Sizes;

/// All chunks of a store.
pub(crate) struct Chunks {
    pub(crate) database: Arc<Database>,
    pub(crate) parameters: StoreParameters,
    pub(crate) claims: GcPins,
    /// Dropped before the reader: it waits for those who use it.
    ahead: readahead::ReadAhead,
    reader: Arc<reader::FrameReader>,
    writer: writer::ChunkWriter,
    /// Held from looking a name up until its new chunk is pending, so that two sessions never both
    /// think a chunk new.
    section: Mutex<()>,
    index: Arc<writer::IndexLock>,
    reserve: Reserve,
    /// Disk that a healed frame leaves free, in bytes.
    commit_margin: u64,
    /// The chunks that were found damaged.
    pub(crate) ledger: Arc<DamageLedger>,
    /// Finds the bytes of damaged chunks.
    pub(crate) mender: Mender,
    /// The look-up of names that sources use; they hold it weakly.
    names: Arc<IndexNames>,
    /// Chunks that were not read for longer than a scrub's round.
    overdue: RwLock<IdSet>,
    has_overdue: AtomicBool,
    /// True if a collection has moved chunks by a batch that is not flushed yet.
    has_unflushed_rewrites: AtomicBool,
    /// Solid blocks have got numbers below this one since the store was opened.
    next_solid: AtomicU64,
}

/// The names that the index has.
struct IndexNames(Arc<Database>);

/// Pause between two looks whether a source still asks for names, when a store is closed: that
/// takes microseconds.
const NAMES_WAIT: Duration = Duration::from_micros(200);

impl Chunks {
    /// The chunks in `database`; new ones get ids from `next_chunk` on.
    pub(crate) fn new(
        database: Arc<Database>,
        parameters: StoreParameters,
        next_chunk: ChunkId,
        sizes: &Sizes,
        reserve: &Reserve,
        ledger: Arc<DamageLedger>,
    ) -> Self {
        let index = Arc::default();
        let names = Arc::new(IndexNames(Arc::clone(&database)));
        let mender = Mender::default();
        let weak: Weak<IndexNames> = Arc::downgrade(&names);
        mender.set_names(weak);
        let reader = reader::FrameReader::new(
            Arc::clone(&database),
            parameters,
            sizes.frame_cache,
            Arc::clone(&ledger),
        );
        Self {
            ahead: readahead::ReadAhead::default(),
            reader: Arc::new(reader),
            writer: writer::ChunkWriter::new(
                Arc::clone(&database),
                parameters,
                next_chunk,
                sizes,
                reserve,
                Arc::clone(&index),
            ),
            reserve: reserve.clone(),
            commit_margin: sizes.commit_margin,
            ledger,
            mender,
            names,
            overdue: RwLock::default(),
            has_overdue: AtomicBool::new(false),
            has_unflushed_rewrites: AtomicBool::new(false),
            next_solid: AtomicU64::new(0),
            claims: GcPins::new(),
            section: Mutex::new(()),
            index,
            database,
            parameters,
        }
    }

    /// The id that the next new chunk gets.
    pub(crate) fn next_chunk(&self) -> ChunkId {
        self.writer.next_chunk()
    }

    /// True if all ids below this one outlive a crash.
    pub(crate) fn is_durable(&self, end: ChunkId) -> bool {
        end <= self.writer.durable_below()
    }

    /// Makes every chunk that any session has put so far, and every bulk batch, durable, if all are
    /// there that were written since `generation`.
    pub(crate) fn make_durable(&self, generation: Generation) -> Result<(), StoreError> {
        self.writer.make_durable(generation)
    }

    /// Waits until every chunk that has an id is in the database, or never will be; the id that the
    /// next new one gets.
    pub(crate) fn wait_for_all(&self) -> Result<ChunkId, StoreError> {
        self.writer
            .wait_for_all(sync::lock_unpoisoned(&self.section))
    }

    /// Keeps everybody else from changing index entries.
    pub(crate) fn lock_index(&self) -> MutexGuard<'_, ()> {
        self.index.lock_index()
    }

    /// Opens a session: as long as it lives, no chunk that it was given an id for is collected.
    pub(crate) fn open_session(&self) -> DedupSession<'_> {
        DedupSession::new(self)
    }

    /// The verified frame that holds `id`: mended, if it is damaged and what it lacks can be found.
    pub(crate) fn verified_frame(&self, id: ChunkId) -> Result<Arc<DecodedFrame>, StoreError> {
        match self.reader.read_frame(id) {
            Ok(frame) if frame.is_whole() => Ok(frame),
            read => self.mend_frame(id, read),
        }
    }

    /// The id that the index has for a name; what it cannot tell is not there, for it is a hint.
    pub(crate) fn indexed_id(&self, name: &ChunkHash) -> Option<ChunkId> {
        let value = self
            .database
            .get(Family::Index, &name.index_prefix())
            .ok()??;
        wire::WireReader::new(&value)
            .read_varint()
            .ok()
            .map(ChunkId)
    }

    /// Looks up many names as [`Chunks::indexed_id`] does one.
    pub(crate) fn indexed_many(
        &self,
        prefixes: &[[u8; 8]],
    ) -> Result<Vec<Option<ChunkId>>, StoreError> {
        let id = |value: &[u8]| wire::WireReader::new(value).read_varint().ok().map(ChunkId);
        let keys = prefixes.iter().map(<[u8; 8]>::as_slice);
        match self.database.get_many(Family::Index, keys) {
            Ok(values) => Ok(values.into_iter().map(|value| id(&value?)).collect()),
            // Only some of them cannot be read.
            Err(StoreError::Damaged(_)) => Ok(prefixes
                .iter()
                .map(|prefix| id(&self.database.get(Family::Index, prefix).ok()??))
                .collect()),
            Err(error) => Err(error),
        }
    }

    /// Fails if there is no room to write a healed frame.
    fn check_room_to_heal(&self) -> Result<(), StoreError> {
        self.reserve
            .check_room(self.database.unflushed_len() + self.commit_margin)
    }

    /// Memory for decoded frames.
    pub(crate) fn set_cache_len(&self, len: u64) {
        self.reader.set_cache_len(len);
    }

    /// Chunks that a full frame holds.
    pub(crate) fn chunks_per_frame(&self) -> u64 {
        u64::from(self.parameters.frame_len) / self.parameters.chunk_len.byte_len()
    }

    /// Has frames decoded in the background that hold some of the `count` chunks from `first` on.
    pub(crate) fn read_ahead(&self, first: ChunkId, count: u64) {
        self.ahead
            .start_decoding(&self.reader, first, count, self.chunks_per_frame());
    }

    /// Reads ahead as [`Chunks::read_ahead`], for a caller that reads all of them and begins at
    /// once with the first.
    pub(crate) fn read_ahead_rest(&self, first: ChunkId, count: u64) {
        let per_frame = self.chunks_per_frame();
        if count > per_frame {
            self.read_ahead(first.advance_by(per_frame), count - per_frame);
        }
    }

    /// The header of the frame that holds `id`, if there is one.
    pub(crate) fn frame_header(
        &self,
        id: ChunkId,
    ) -> Result<Option<vellum_core::frame::FrameHeader>, StoreError> {
        self.reader.frame_header(id)
    }

    /// The frame whose header is `header`, decoded and verified, past all caches.
    pub(crate) fn load_frame(
        &self,
        header: vellum_core::frame::FrameHeader,
    ) -> Result<DecodedFrame, StoreError> {
        self.reader.load_frame(header)
    }

    /// Notes what a frame says of its chunks that was read past all caches: what is damaged, and
    /// what is not any more.
    pub(crate) fn note_frame_state(&self, frame: &DecodedFrame) {
        self.reader.note_frame_state(frame);
    }

    /// The frame that a header and its payload make, verified.
    pub(crate) fn decode_frame(
        &self,
        header: vellum_core::frame::FrameHeader,
        payload: &[u8],
    ) -> Result<DecodedFrame, StoreError> {
        self.reader.decode_frame(header, payload)
    }

    /// True if the frame that holds `id` is in memory: it was read lately.
    pub(crate) fn is_cached(&self, id: ChunkId) -> bool {
        self.reader.cached_frame(id).is_some()
    }

    /// `count` numbers for solid blocks, the first of them: none was given since the store was
    /// opened, and none is `last` or below, the greatest that is stored. So nobody takes a block
    /// for another one that they have in memory. One collection at a time asks.
    pub(crate) fn reserve_solid_numbers(
        &self,
        last: Option<SolidNumber>,
        count: u64,
    ) -> SolidNumber {
        let behind_stored = last.map_or(0, |last| last.0 + 1);
        let first = behind_stored.max(self.next_solid.load(Ordering::Relaxed));
        self.next_solid.store(first + count, Ordering::Relaxed);
        SolidNumber(first)
    }

    /// Up to `max` frames of solid blocks that are read again and again, by first chunk, and
    /// whether there are others.
    pub(crate) fn take_warm_frames(&self, max: usize) -> (Vec<ChunkId>, bool) {
        self.reader.take_warm_frames(max)
    }

    /// Forgets a solid block that is gone.
    pub(crate) fn forget_solid(&self, number: SolidNumber) {
        self.reader.forget_solid(number);
    }

    /// Has `source` asked for damaged chunks before all others.
    pub(crate) fn add_source(&self, source: Arc<dyn ChunkSource>) -> Arc<AskedSource> {
        self.mender.forget_failures();
        self.mender.sources.add_first(source)
    }

    /// Keeps everybody from committing chunks.
    #[cfg(test)]
    pub(crate) fn keep_out(&self) -> MutexGuard<'_, ()> {
        sync::lock_unpoisoned(&self.section)
    }

    /// Forgets decoded frames, so that what is read next comes from disk.
    #[cfg(test)]
    pub(crate) fn forget_frames(&self) {
        self.reader.forget();
    }
}

impl KnownNames for IndexNames {
    fn are_known(&self, names: &[ChunkHash]) -> Vec<bool> {
        let prefixes: Vec<[u8; 8]> = names.iter().map(ChunkHash::index_prefix).collect();
        let keys = prefixes.iter().map(<[u8; 8]>::as_slice);
        match self.0.get_many(Family::Index, keys) {
            Ok(values) => values.iter().map(Option::is_some).collect(),
            Err(_) => vec![false; names.len()],
        }
    }
}

impl Drop for Chunks {
    /// Waits until no source uses the database: once a store is closed, the database's lock is
    /// free.
    fn drop(&mut self) {
        while Arc::strong_count(&self.names) > 1 {
            std::thread::sleep(NAMES_WAIT);
        }
    }
}
