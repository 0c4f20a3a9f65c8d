//! Chunk content by id: found by name, kept once, written in frames, read back verified.
//!
//! The pieces: `claims` is the treaty between those who skip a chunk as "already there" and the
//! collector; `writer` turns new chunks into frames; `reader` turns frames back, `cache` keeps what
//! it made, `ahead` has it made in time; `sessions` (the importer's and the live disk's view)
//! decides which chunks are new.

mod ahead;
mod cache;
mod claims;
mod frames;
mod headers;
pub(crate) mod pause;
mod reader;
mod session;
mod stop;
mod writer;

use std::sync::{Arc, Mutex, MutexGuard};

use vellum_core::units::ChunkId;

pub(crate) use claims::{Claims, Decision};
pub(crate) use frames::{EncodedFrame, FramePlan, encode_frame, pack};
pub(crate) use reader::Frame;
pub(crate) use session::{Candidate, Session, SessionCounts, Stored};
pub(crate) use stop::Stop;

use crate::database::Database;
use crate::error::StoreError;
use crate::folder::Folder;
use crate::records::StoreParameters;

/// All chunks of a store.
pub(crate) struct Chunks {
    pub(crate) database: Arc<Database>,
    pub(crate) parameters: StoreParameters,
    pub(crate) claims: Claims,
    /// Whether writes still go through.
    pub(crate) stop: Arc<Stop>,
    /// Dropped before the reader: it waits for those who use it.
    ahead: ahead::ReadAhead,
    reader: Arc<reader::Reader>,
    writer: writer::Writer,
    /// Held from looking a name up until its new chunk is pending, so that two sessions never both
    /// think a chunk new.
    section: Mutex<()>,
    index: Arc<writer::IndexLock>,
}

impl Chunks {
    /// The chunks in `database`; new ones get ids from `next_chunk` on.
    pub(crate) fn new(
        database: Arc<Database>,
        parameters: StoreParameters,
        next_chunk: ChunkId,
        stop: Arc<Stop>,
        folder: Folder,
    ) -> Self {
        let index = Arc::default();
        Self {
            ahead: ahead::ReadAhead::default(),
            reader: Arc::new(reader::Reader::new(Arc::clone(&database), parameters)),
            writer: writer::Writer::new(
                Arc::clone(&database),
                parameters,
                next_chunk,
                Arc::clone(&stop),
                folder,
                Arc::clone(&index),
            ),
            stop,
            claims: Claims::new(),
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

    /// Whether all ids below this one outlive a crash.
    pub(crate) fn is_durable(&self, end: ChunkId) -> bool {
        end <= self.writer.durable_below()
    }

    /// Makes every chunk that any session has put so far, and every bulk batch, durable.
    pub(crate) fn settle(&self) -> Result<(), StoreError> {
        self.writer.settle()
    }

    /// Waits until every chunk that has an id is in the database, or never will be; the id that the
    /// next new one gets.
    pub(crate) fn barrier(&self) -> Result<ChunkId, StoreError> {
        self.writer.barrier(pause::lock(&self.section))
    }

    /// Keeps everybody else from changing index entries.
    pub(crate) fn lock_index(&self) -> MutexGuard<'_, ()> {
        self.index.lock()
    }

    /// Opens a session: as long as it lives, no chunk that it was given an id for is collected.
    pub(crate) fn session(&self) -> Session<'_> {
        Session::new(self)
    }

    /// The verified frame that holds `id`.
    pub(crate) fn frame(&self, id: ChunkId) -> Result<Arc<Frame>, StoreError> {
        self.reader.frame(id)
    }

    /// Memory for decoded frames.
    pub(crate) fn set_cache_len(&self, len: u64) {
        self.reader.set_cache_len(len);
    }

    /// How many chunks a frame holds that is full.
    pub(crate) fn chunks_per_frame(&self) -> u64 {
        u64::from(self.parameters.frame_len) / self.parameters.chunk_len.bytes()
    }

    /// Has frames decoded in the background that hold some of the `count` chunks from `first` on.
    pub(crate) fn read_ahead(&self, first: ChunkId, count: u64) {
        self.ahead
            .start(&self.reader, first, count, self.chunks_per_frame());
    }

    /// As [`Chunks::read_ahead`], for somebody who reads all of them and begins at once with the
    /// first.
    pub(crate) fn read_ahead_rest(&self, first: ChunkId, count: u64) {
        let per_frame = self.chunks_per_frame();
        if count > per_frame {
            self.read_ahead(first.advance(per_frame), count - per_frame);
        }
    }

    /// The header of the frame that holds `id`, if there is one.
    pub(crate) fn header(
        &self,
        id: ChunkId,
    ) -> Result<Option<vellum_core::frame::FrameHeader>, StoreError> {
        self.reader.header(id)
    }

    /// The frame whose header is `header`, decoded and verified, past all caches.
    pub(crate) fn load(
        &self,
        header: vellum_core::frame::FrameHeader,
    ) -> Result<Frame, StoreError> {
        self.reader.load(header)
    }

    /// The frame that a header and its payload make, verified.
    pub(crate) fn decode(
        &self,
        header: vellum_core::frame::FrameHeader,
        payload: &[u8],
    ) -> Result<Frame, StoreError> {
        self.reader.decode(header, payload)
    }

    /// Keeps everybody from committing chunks.
    #[cfg(test)]
    pub(crate) fn keep_out(&self) -> MutexGuard<'_, ()> {
        pause::lock(&self.section)
    }

    /// Forgets decoded frames, so that what is read next comes from disk.
    #[cfg(test)]
    pub(crate) fn forget_frames(&self) {
        self.reader.forget();
    }
}
