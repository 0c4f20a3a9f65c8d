//! Writes new chunks: sessions fill frames, all cores compress them, and one thread writes them to
//! the database in id order.
//!
//! A chunk that was given an id is written even if the session that brought it fails: another
//! session may have found it *pending* and refer to it. If no map refers to it in the end, a
//! collection drops it.
//!
//! **A disk that is nearly full** is reported to a session before its chunks get ids: it alone
//! fails. For a chunk that has an id there is room.
//!
//! **After a failed write** the frames at hand are written again, to the database that was opened
//! anew (`database::handle`); those that were written before in bulk, and not flushed, may be gone.
//! Their sessions learn of it when they ask for durability: each knows since which generation it
//! counts on them. A session that began later has found none of them: not in the new database; and
//! a frame is *pending* until it is written and no write has failed meanwhile.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use vellum_core::hash::ChunkHash;
use vellum_core::units::ChunkId;

use super::frames::{EncodedFrame, FramePlan, encode_frame, put_names};
use super::gc_pins::{GcPins, SessionId};
use super::sync::lock_unpoisoned;
use crate::database::{Batch, Database, Durability, Generation};
use crate::error::StoreError;
use crate::records::StoreParameters;
use crate::reserve::Reserve;
use crate::sizes::Sizes;

/// Pause between two looks of a waiter at whether writes still go through, and before a failed
/// write is tried again.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// Write buffers that the database has in memory at most, mostly.
const UNFLUSHED_BUFFERS: u64 = 3;

/// Held while index entries are written or deleted: what the collector saw of an entry still stands
/// when it deletes it. Taken last.
#[derive(Debug, Default)]
pub(crate) struct IndexLock(Mutex<()>);

impl IndexLock {
    pub(crate) fn lock_index(&self) -> MutexGuard<'_, ()> {
        lock_unpoisoned(&self.0)
    }
}

/// Writes new chunks.
pub(crate) struct ChunkWriter {
    shared: Arc<WriterShared>,
    /// Queue of compressed frames; `None` only while the writer ends.
    frames: Option<Sender<(u64, EncodedFrame)>>,
    committer: Option<JoinHandle<()>>,
}

struct WriterShared {
    database: Arc<Database>,
    parameters: StoreParameters,
    reserve: Reserve,
    /// Plain bytes between sessions and the database: enough to keep every core compressing while
    /// the committer writes.
    in_flight_len_max: usize,
    /// Bytes of frames that one batch holds at most: large enough that its cost is theirs.
    batch_len_max: usize,
    /// Bytes that the database keeps in memory at most: older ones are on disk.
    unflushed_len_max: u64,
    /// Bytes that stay free whatever is imported.
    margin_len: u64,
    index: Arc<IndexLock>,
    state: Mutex<WriterState>,
    /// Told when `state` has less in flight.
    changed: Condvar,
    /// No caller waits for frames any more.
    is_ending: AtomicBool,
}

struct WriterState {
    next_chunk: ChunkId,
    /// Ids below outlive a crash.
    durable_below: ChunkId,
    /// The frame that each session is filling.
    open: HashMap<SessionId, OpenFrame>,
    /// Chunks that have an id, and are not in the index yet.
    pending: HashMap<ChunkHash, ChunkId>,
    /// Frames closed so far: the next one's place in the order of writing.
    closed: u64,
    /// Frames written so far.
    written: u64,
    in_flight_len: usize,
    /// Bytes written but perhaps not on disk yet.
    unflushed_len: u64,
}

/// A frame that is being filled, and where to add what it comes to.
struct OpenFrame {
    plan: FramePlan,
    stored_len: Arc<AtomicU64>,
}

impl ChunkWriter {
    pub(crate) fn new(
        database: Arc<Database>,
        parameters: StoreParameters,
        next_chunk: ChunkId,
        sizes: &Sizes,
        reserve: &Reserve,
        index: Arc<IndexLock>,
    ) -> Self {
        let state = WriterState {
            next_chunk,
            durable_below: next_chunk,
            open: HashMap::new(),
            pending: HashMap::new(),
            closed: 0,
            written: 0,
            in_flight_len: 0,
            unflushed_len: 0,
        };
        let shared = Arc::new(WriterShared {
            database,
            parameters,
            reserve: reserve.clone(),
            in_flight_len_max: sizes.in_flight as usize,
            batch_len_max: sizes.batch as usize,
            unflushed_len_max: sizes.write_buffer * UNFLUSHED_BUFFERS,
            margin_len: sizes.import_margin,
            index,
            state: Mutex::new(state),
            changed: Condvar::new(),
            is_ending: AtomicBool::new(false),
        });
        let (frames, incoming) = channel();
        let committer = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.commit_all(&incoming))
        };
        Self {
            shared,
            frames: Some(frames),
            committer: Some(committer),
        }
    }

    pub(crate) fn next_chunk(&self) -> ChunkId {
        self.shared.lock_state().next_chunk
    }

    pub(crate) fn durable_below(&self) -> ChunkId {
        self.shared.lock_state().durable_below
    }

    /// The ids of those of `hashes` that are on their way to the index.
    pub(crate) fn pending_ids(&self, hashes: &[ChunkHash]) -> Vec<Option<ChunkId>> {
        let state = self.shared.lock_state();
        hashes
            .iter()
            .map(|hash| state.pending.get(hash).copied())
            .collect()
    }

    /// Gives each of `chunks` that is not pending an id and a place in a frame; the ids of all, in
    /// order, and which are new. All are the session's before anybody can begin a collection. Waits
    /// while too much is in flight. The payloads of the frames that are made of them are added to
    /// `stored_len`: all are once the store is settled.
    pub(crate) fn put_chunks(
        &self,
        claims: &GcPins,
        session: SessionId,
        chunks: &[(ChunkHash, &[u8])],
        stored_len: &Arc<AtomicU64>,
    ) -> Result<Vec<(ChunkId, bool)>, StoreError> {
        let plain_len: usize = chunks.iter().map(|(_, plain)| plain.len()).sum();
        let shared = &self.shared;
        let mut state =
            shared.wait_until(|state| state.in_flight_len < shared.in_flight_len_max)?;
        if shared.check_room(&state, plain_len as u64).is_err() {
            // Compressed it may be less: what is on its way is looked at when it is there.
            drop(state);
            state = shared.wait_until(|state| state.in_flight_len == 0)?;
            shared.check_room(&state, plain_len as u64)?;
        }
        let first = state.next_chunk;
        let put: Vec<_> = chunks
            .iter()
            .map(|(hash, plain)| self.put_one(&mut state, session, *hash, plain, stored_len))
            .collect();
        claims.pin_new(session, first, state.next_chunk.0 - first.0);
        put.iter()
            .filter(|(id, _)| *id < first)
            .for_each(|(pending, _)| claims.pin_new(session, *pending, 1));
        Ok(put)
    }

    fn put_one(
        &self,
        state: &mut WriterState,
        session: SessionId,
        hash: ChunkHash,
        plain: &[u8],
        stored_len: &Arc<AtomicU64>,
    ) -> (ChunkId, bool) {
        if let Some(id) = state.pending.get(&hash) {
            return (*id, false);
        }
        let id = state.next_chunk;
        state.next_chunk = id.advance_by(1);
        state.pending.insert(hash, id);
        // Another session took the ids in between: this frame would have a gap, and its order in
        // the database would suffer.
        let goes_on = state.open.get(&session).is_some_and(|open| {
            open.plan
                .chunks
                .last()
                .is_some_and(|last| last.0.advance_by(1) == id)
        });
        if !goes_on {
            self.close_frame(state, session);
        }
        let frame_len = self.shared.parameters.frame_len as usize;
        let empty = || FramePlan {
            chunks: Vec::new(),
            plain: Vec::with_capacity(frame_len),
        };
        let frame = state.open.entry(session).or_insert_with(|| OpenFrame {
            plan: empty(),
            stored_len: Arc::clone(stored_len),
        });
        let frame = &mut frame.plan;
        frame.chunks.push((id, hash));
        frame.plain.extend_from_slice(plain);
        if frame.plain.len() + plain.len() > frame_len {
            self.close_frame(state, session);
        }
        (id, true)
    }

    /// Ends the frame that `session` is filling, and has it compressed.
    pub(crate) fn close_session(&self, session: SessionId) {
        self.close_frame(&mut self.shared.lock_state(), session);
    }

    fn close_frame(&self, state: &mut WriterState, session: SessionId) {
        let Some(OpenFrame { plan, stored_len }) = state.open.remove(&session) else {
            return;
        };
        let sequence = state.closed;
        state.closed += 1;
        state.in_flight_len += plan.plain.len();
        let compression = self.shared.parameters.compression;
        let frames = self
            .frames
            .clone()
            .expect("sessions end before the writer does");
        rayon::spawn(move || {
            let frame = encode_frame(compression, plan);
            stored_len.fetch_add(frame.payload_len() as u64, Ordering::Relaxed);
            // The committer only leaves when every sender is gone.
            let _ = frames.send((sequence, frame));
        });
    }

    /// Makes every chunk so far, and every bulk batch so far, durable, if all are there that were
    /// written since `generation`.
    pub(crate) fn make_durable(&self, generation: Generation) -> Result<(), StoreError> {
        let (closed, end) = self.close_all();
        drop(self.shared.wait_until(|state| state.written >= closed)?);
        self.shared.database.flush_bulk(generation)?;
        let mut state = self.shared.lock_state();
        state.durable_below = state.durable_below.max(end);
        state.unflushed_len = 0;
        Ok(())
    }

    /// Fails unless there is room for `len` bytes more, and for what is on its way.
    pub(crate) fn check_room(&self, len: u64) -> Result<(), StoreError> {
        self.shared.check_room(&self.shared.lock_state(), len)
    }

    /// Waits until every chunk that has an id is in the database; the id that the next one gets.
    /// `section` keeps those away that write their own chunks.
    pub(crate) fn wait_for_all(&self, section: MutexGuard<'_, ()>) -> Result<ChunkId, StoreError> {
        let (closed, end) = self.close_all();
        drop(section);
        drop(self.shared.wait_until(|state| state.written >= closed)?);
        Ok(end)
    }

    /// Ends every frame that is being filled; how many frames there are by now, and the next id.
    fn close_all(&self) -> (u64, ChunkId) {
        let mut state = self.shared.lock_state();
        let sessions: Vec<SessionId> = state.open.keys().copied().collect();
        sessions
            .into_iter()
            .for_each(|session| self.close_frame(&mut state, session));
        (state.closed, state.next_chunk)
    }

    /// Ids for `count` chunks that their caller writes itself, at once, with the references to
    /// them. They are the session's.
    pub(crate) fn reserve_ids(&self, claims: &GcPins, session: SessionId, count: u64) -> ChunkId {
        let mut state = self.shared.lock_state();
        let first = state.next_chunk;
        state.next_chunk = first.advance_by(count);
        claims.pin_new(session, first, count);
        first
    }

    /// Notes that `count` reserved chunks from `first` on are durable. If all before them are, so
    /// is everything up to their end.
    pub(crate) fn note_durable(&self, first: ChunkId, count: u64) {
        let mut state = self.shared.lock_state();
        if state.durable_below == first {
            state.durable_below = first.advance_by(count);
        }
    }
}

impl Drop for ChunkWriter {
    fn drop(&mut self) {
        self.frames = None;
        self.shared.is_ending.store(true, Ordering::Relaxed);
        if let Some(committer) = self.committer.take() {
            // A panic in the committer was reported when it happened.
            let _ = committer.join();
        }
    }
}

impl WriterShared {
    fn lock_state(&self) -> MutexGuard<'_, WriterState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails unless there is room for `len` bytes more, and for what is on its way.
    fn check_room(&self, state: &WriterState, len: u64) -> Result<(), StoreError> {
        let on_its_way = state.in_flight_len as u64 + state.unflushed_len;
        self.reserve.check_room(on_its_way + len + self.margin_len)
    }

    /// Waits until `ready`, as long as there is hope.
    fn wait_until(
        &self,
        ready: impl Fn(&WriterState) -> bool,
    ) -> Result<MutexGuard<'_, WriterState>, StoreError> {
        let mut state = self.lock_state();
        loop {
            if ready(&state) {
                return Ok(state);
            }
            if let Some(trouble) = self.database.write_trouble() {
                return Err(trouble);
            }
            state = self
                .changed
                .wait_timeout(state, LOOK_PAUSE)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// The committer's life: takes frames as they come, writes them in order.
    fn commit_all(&self, incoming: &Receiver<(u64, EncodedFrame)>) {
        let mut waiting: BTreeMap<u64, EncodedFrame> = BTreeMap::new();
        let mut next = 0;
        while let Ok((sequence, frame)) = incoming.recv() {
            waiting.insert(sequence, frame);
            waiting.extend(incoming.try_iter());
            while waiting.contains_key(&next) {
                let frames = take_batch(&mut waiting, &mut next, self.batch_len_max);
                while !self.commit_frames(&frames) {
                    if self.is_ending.load(Ordering::Relaxed) {
                        return;
                    }
                    std::thread::sleep(LOOK_PAUSE);
                }
                let _lock = self.lock_state();
                self.changed.notify_all();
            }
        }
    }

    /// Writes `frames`; true if that worked. If not, those that wait get the reason from the
    /// database.
    fn commit_frames(&self, frames: &[EncodedFrame]) -> bool {
        let stored_len: usize = frames.iter().map(EncodedFrame::len).sum();
        loop {
            let generation = self.database.write_generation();
            let mut batch = Batch::default();
            frames
                .iter()
                .for_each(|frame| frame.put_content(&mut batch));
            put_names(frames, &mut batch);
            {
                let _index = self.index.lock_index();
                if self.database.write_batch(batch, Durability::Bulk).is_err() {
                    return false;
                }
            }
            let mut state = self.lock_state();
            // After a write that failed meanwhile, these frames may be gone: they stay pending for
            // look-ups, and are written again.
            if self.database.write_generation() == generation {
                state.note_written(frames, stored_len as u64, self.unflushed_len_max);
                return true;
            }
        }
    }
}

impl WriterState {
    fn note_written(&mut self, frames: &[EncodedFrame], len: u64, unflushed_len_max: u64) {
        for frame in frames {
            self.in_flight_len -= frame.plain_len;
            for (_, hash) in &frame.chunks {
                self.pending.remove(hash);
            }
        }
        self.written += frames.len() as u64;
        // The database keeps at most a few write buffers; what is older is on disk and no longer
        // counts.
        self.unflushed_len = (self.unflushed_len + len).min(unflushed_len_max);
    }
}

/// The frames that are next in order, up to a batch's length.
fn take_batch(
    waiting: &mut BTreeMap<u64, EncodedFrame>,
    next: &mut u64,
    len_max: usize,
) -> Vec<EncodedFrame> {
    let (mut frames, mut len) = (Vec::new(), 0);
    while len < len_max
        && let Some(frame) = waiting.remove(next)
    {
        *next += 1;
        len += frame.len();
        frames.push(frame);
    }
    frames
}
