//! The handle through which the database is used, and its replacement after a failed write.
//!
//! A failed write leaves an unknown state: a record may be in the log in part, whole, or whole and
//! not on disk, and after a failed sync the kernel may have dropped what it could not write and
//! call it clean. **Nothing more is written through the handle that failed.** It is closed, what it
//! had in memory is forgotten, and another one is opened, which reads what is durable, as after a
//! crash.
//!
//! These rules make sure that nothing acknowledged is lost and nothing refused appears:
//!
//! - *Logged* writes go one after the other (`Handle::log_end`), each is acknowledged after its
//!   sync, and after one that failed there is no other. So all that were acknowledged lie in the
//!   log before the one that failed, and their sync succeeded: they are on disk. The sequence
//!   number before the failed write tells where it begins. Before the log is read again it is cut
//!   there (`logs::cut_unacknowledged`), and the cut is synced: a write that was refused cannot
//!   come back, now or after a crash.
//! - A logged write that fails is tried once more with the new handle, since its caller holds the
//!   locks under which it was decided: nothing that it was decided from has changed. (The collector
//!   does not: it would decide anew, so it asks for the handle that it began with.)
//! - *Bulk* writes of the failed handle are lost as in a crash, unless they were flushed. Their
//!   writer says under which [`Generation`] it began, when it asks for them to be made durable;
//!   under another generation it gets the error that they are gone. Ids of lost chunks are never
//!   given again.
//! - Where no write failed, but a compaction met a damaged table, after which RocksDB takes no
//!   writes either, memory is whole: bulk writes are taken along to the next handle
//!   (`unflushed`), the generation stays, and nobody is told anything.
//! - A flush that failed left whole files behind that nothing names, or none.
//! - Tables and manifests are named only after they were synced under that name; a manifest whose
//!   sync failed was never named.
//!
//! **While there is no handle**, its users wait, no longer than [`PATIENCE`] after the failure. If
//! no other can be opened for writing, one is opened for reading, so that reads go on, and it is
//! tried again with growing pauses as long as the store is open.
//!
//! A user of the handle holds it for one call. Iterators live longer; they are taken away from
//! their owners, which get an error when they ask for the next record.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rocksdb::{DB, DBRawIterator, Snapshot, WriteOptions};
use self_cell::self_cell;

use super::unflushed::UnflushedKeys;
use super::{Batch, stall};

use crate::chunks::sync::lock_unpoisoned;
use crate::error::StoreError;

/// Time that users of the database wait for it to be opened again: longer than that takes after a
/// fault that has passed (some tenths of a second, with a full log), shorter than the patience of
/// guests (30 seconds, mostly).
const PATIENCE: Duration = Duration::from_secs(10);
/// Pauses between attempts to open the database again.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Interval of the polls that find out if the last user of a handle has gone.
const LOOK_PAUSE: Duration = Duration::from_millis(1);

/// The time between two failed writes: bulk writes of an earlier one may be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Generation(u64);

/// An open `RocksDB`.
pub(super) struct Handle {
    pub(super) db: DB,
    generation: Generation,
    /// Held during a logged write. Once one has failed: the last sequence number before it.
    pub(super) log_end: Mutex<Option<u64>>,
    pub(super) unflushed: UnflushedKeys,
    iterators: Mutex<Vec<Weak<IteratorSlot>>>,
}

/// Fate of what was in memory when a handle failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemtableFate {
    /// A write failed: of what was written in bulk, some may be on disk and some not.
    Unknown,
    /// It is as it was, and can be read.
    Whole,
}

/// An iterator, and what another one in its place must see: one that met damage keeps what it read.
pub(super) struct Cursor<'a> {
    pub(super) iterator: DBRawIterator<'a>,
    pub(super) snapshot: Snapshot<'a>,
    pub(super) db: &'a DB,
}

self_cell!(
    struct OwnedIterator {
        owner: Arc<Handle>,
        #[covariant]
        dependent: Cursor,
    }
);

/// An iterator that can be taken away.
pub(super) struct IteratorSlot(Mutex<Option<OwnedIterator>>);

/// Opens the database again.
pub(super) trait Reopen: Send + Sync {
    /// For writing, as it was up to the sequence number `acknowledged`, if there is one.
    fn reopen_database(&self, acknowledged: Option<u64>) -> Result<DB, StoreError>;
    /// For reading.
    fn reopen_to_read(&self) -> Result<DB, StoreError>;
}

/// The handle that is used now.
pub(super) struct CurrentHandle {
    shared: Arc<HandleState>,
    replacing: Mutex<Option<JoinHandle<()>>>,
}

struct HandleState {
    state: Mutex<HandleSlot>,
    changed: Condvar,
    reopen: Box<dyn Reopen>,
}

struct HandleSlot {
    handle: Option<Arc<Handle>>,
    generation: Generation,
    /// The write that failed, until another handle takes writes.
    failure: Option<WriteFailure>,
    is_closed: bool,
}

/// A write that failed, and what follows from it.
struct WriteFailure {
    since: Instant,
    /// The write that was tried, if the disk was full: callers that meet the failure are told so,
    /// and what helps.
    full: Option<String>,
    message: String,
    /// The reason that the database could not be opened again so far.
    reopening: Option<String>,
}

impl Handle {
    fn new(db: DB, generation: Generation, unflushed: UnflushedKeys) -> Arc<Self> {
        Arc::new(Self {
            db,
            generation,
            log_end: Mutex::default(),
            unflushed,
            iterators: Mutex::default(),
        })
    }

    /// An iterator that `make` makes. It goes when the handle does.
    pub(super) fn new_iterator(
        self: Arc<Self>,
        make: impl FnOnce(&DB) -> Cursor<'_>,
    ) -> Arc<IteratorSlot> {
        let iterator = OwnedIterator::new(Arc::clone(&self), |handle| make(&handle.db));
        let slot = Arc::new(IteratorSlot(Mutex::new(Some(iterator))));
        let mut iterators = lock_unpoisoned(&self.iterators);
        if iterators.len().is_power_of_two() {
            iterators.retain(|slot| slot.strong_count() > 0);
        }
        iterators.push(Arc::downgrade(&slot));
        slot
    }

    pub(super) fn generation(&self) -> Generation {
        self.generation
    }

    /// Waits until it has no other user.
    fn wait_for_users(self: &Arc<Self>) {
        // Whoever flushes or compacts comes back, and nothing of what is in memory is written.
        self.db.cancel_all_background_work(false);
        while Arc::strong_count(self) > 1 {
            // Again and again: somebody may be making one just now.
            let iterators: Vec<_> = lock_unpoisoned(&self.iterators).drain(..).collect();
            iterators
                .iter()
                .filter_map(Weak::upgrade)
                .for_each(|slot| drop(lock_unpoisoned(&slot.0).take()));
            thread::sleep(LOOK_PAUSE);
        }
    }
}

/// Writes `batches` to `db` in bulk; their keys, if that worked.
fn write_again(db: &DB, batches: &[Batch]) -> Option<UnflushedKeys> {
    let unflushed = UnflushedKeys::default();
    for batch in batches {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        stall::write_unstalled(db, || batch.operations_for(db), options).ok()?;
        unflushed.note_batch(batch);
    }
    Some(unflushed)
}

impl IteratorSlot {
    /// Does something with the iterator, if it was not taken away.
    pub(super) fn with_cursor<T>(
        &self,
        act: impl for<'i> FnOnce(&mut Cursor<'i>) -> T,
    ) -> Result<T, StoreError> {
        match lock_unpoisoned(&self.0).as_mut() {
            Some(iterator) => Ok(iterator.with_dependent_mut(|_, iterator| act(iterator))),
            None => Err(StoreError::Reopened),
        }
    }
}

impl CurrentHandle {
    pub(super) fn new(db: DB, reopen: Box<dyn Reopen>) -> Self {
        let generation = Generation(0);
        let state = HandleSlot {
            handle: Some(Handle::new(db, generation, UnflushedKeys::default())),
            generation,
            failure: None,
            is_closed: false,
        };
        Self {
            shared: Arc::new(HandleState {
                state: Mutex::new(state),
                changed: Condvar::new(),
                reopen,
            }),
            replacing: Mutex::default(),
        }
    }

    /// The handle, to read.
    pub(super) fn to_read(&self) -> Result<Arc<Handle>, StoreError> {
        self.shared.wait_for_handle(|state| state.handle.clone())
    }

    /// The handle, to write, and while it is used.
    pub(super) fn to_write(&self) -> Result<Arc<Handle>, StoreError> {
        self.shared.wait_for_handle(HandleSlot::writable_handle)
    }

    /// As [`CurrentHandle::to_write`], if no write has failed since `generation`.
    pub(super) fn to_write_on(&self, generation: Generation) -> Result<Arc<Handle>, StoreError> {
        let handle = self.to_write()?;
        if handle.generation == generation {
            Ok(handle)
        } else {
            Err(StoreError::Reopened)
        }
    }

    /// The time since the last failed write.
    pub(super) fn write_generation(&self) -> Generation {
        self.shared.lock_state().generation
    }

    /// The reason that nothing can be written now, if a write has failed and waiting does not help
    /// any more.
    pub(super) fn write_trouble(&self) -> Option<StoreError> {
        let state = self.shared.lock_state();
        let failure = state.failure.as_ref()?;
        state.remaining_wait().is_none().then(|| failure.to_error())
    }

    /// True if a write has failed that could not be made good yet.
    pub(super) fn has_failed(&self) -> bool {
        self.shared.lock_state().failure.is_some()
    }

    /// A write through `handle` failed with `error`: nobody gets this handle any more, and another
    /// is opened. `memory` is what is known of its bulk writes.
    pub(super) fn replace_failed(
        &self,
        handle: &Arc<Handle>,
        error: &StoreError,
        memory: MemtableFate,
    ) {
        let mut state = self.shared.lock_state();
        let is_current = |current: &mut Arc<Handle>| Arc::ptr_eq(current, handle);
        if state.is_closed || state.failure.is_some() {
            return;
        }
        let Some(failed) = state.handle.take_if(is_current) else {
            return;
        };
        if memory == MemtableFate::Unknown {
            state.generation.0 += 1;
        }
        state.failure = Some(WriteFailure::new(error));
        drop(state);
        self.shared.changed.notify_all();
        let shared = Arc::clone(&self.shared);
        let replace = move || shared.reopen_handle(failed, memory);
        let mut replacing = lock_unpoisoned(&self.replacing);
        if let Some(last) = replacing.take() {
            // It has done its work: the handle that failed now was its.
            let _ = last.join();
        }
        match thread::Builder::new()
            .name("reopen".to_owned())
            .spawn(replace)
        {
            Ok(started) => *replacing = Some(started),
            // Without threads nothing goes on here; the store is as good as closed, and whole.
            Err(error) => {
                if let Some(failure) = &mut self.shared.lock_state().failure {
                    failure.reopening = Some(error.to_string());
                }
            }
        }
    }
}

impl Drop for CurrentHandle {
    fn drop(&mut self) {
        self.shared.lock_state().is_closed = true;
        self.shared.changed.notify_all();
        if let Some(replacing) = lock_unpoisoned(&self.replacing).take() {
            // A panic in there was reported when it happened.
            let _ = replacing.join();
        }
    }
}

impl HandleState {
    fn lock_state(&self) -> MutexGuard<'_, HandleSlot> {
        lock_unpoisoned(&self.state)
    }

    /// The handle that `choose` finds, once there is one: not for ever.
    fn wait_for_handle(
        &self,
        choose: impl Fn(&HandleSlot) -> Option<Arc<Handle>>,
    ) -> Result<Arc<Handle>, StoreError> {
        let mut state = self.lock_state();
        loop {
            if let Some(handle) = choose(&state) {
                return Ok(handle);
            }
            let left = state.remaining_wait();
            let Some(left) = left.filter(|_| !state.is_closed) else {
                return Err(state
                    .failure
                    .as_ref()
                    .map_or(StoreError::Reopened, WriteFailure::to_error));
            };
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .0;
        }
    }

    /// Closes the handle that failed and opens another one, however long that takes.
    fn reopen_handle(&self, failed: Arc<Handle>, memory: MemtableFate) {
        failed.wait_for_users();
        // Sequence number at which the log is to be cut, if a logged write failed.
        let acknowledged = *lock_unpoisoned(&failed.log_end);
        let batches = match memory {
            MemtableFate::Whole => failed.unflushed.read_batches(&failed.db),
            MemtableFate::Unknown => Some(Vec::new()),
        };
        drop(failed);
        let mut pause = PAUSE_MIN;
        loop {
            let opened = self.reopen.reopen_database(acknowledged).map(|db| {
                let unflushed = batches
                    .as_ref()
                    .and_then(|batches| write_again(&db, batches));
                (db, unflushed)
            });
            let mut state = self.lock_state();
            match opened {
                Ok((db, unflushed)) => {
                    if unflushed.is_none() {
                        state.generation.0 += 1;
                    }
                    let handle = Handle::new(db, state.generation, unflushed.unwrap_or_default());
                    state.handle = Some(handle);
                    state.failure = None;
                    drop(state);
                    self.changed.notify_all();
                    return;
                }
                Err(error) => {
                    let failure = state
                        .failure
                        .as_mut()
                        .expect("it is what is made good here");
                    failure.reopening = Some(error.to_string());
                }
            }
            let (reads, generation) = (state.handle.is_some(), state.generation);
            drop(state);
            if !reads && let Ok(db) = self.reopen.reopen_to_read() {
                let handle = Handle::new(db, generation, UnflushedKeys::default());
                self.lock_state().handle = Some(handle);
            }
            self.changed.notify_all();
            if self.wait_for_retry(pause) {
                return;
            }
            pause = PAUSE_MAX.min(pause * 2);
        }
    }

    /// Waits before the next attempt; whether there is none, since the store was closed.
    fn wait_for_retry(&self, pause: Duration) -> bool {
        let rested = self
            .changed
            .wait_timeout_while(self.lock_state(), pause, |state| !state.is_closed);
        rested
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .0
            .is_closed
    }
}

impl HandleSlot {
    fn writable_handle(&self) -> Option<Arc<Handle>> {
        self.handle.clone().filter(|_| self.failure.is_none())
    }

    /// Time that its users go on waiting.
    fn remaining_wait(&self) -> Option<Duration> {
        let since = self.failure.as_ref()?.since;
        PATIENCE
            .checked_sub(since.elapsed())
            .filter(|left| !left.is_zero())
    }
}

impl WriteFailure {
    fn new(error: &StoreError) -> Self {
        let full = if let StoreError::Full { what } = error {
            Some(what.clone())
        } else {
            None
        };
        Self {
            since: Instant::now(),
            full,
            message: error.to_string(),
            reopening: None,
        }
    }

    fn to_error(&self) -> StoreError {
        if let Some(what) = &self.full {
            return StoreError::Full { what: what.clone() };
        }
        let message = &self.message;
        StoreError::Stopped(match &self.reopening {
            Some(reason) => format!("{message}; it cannot be opened again yet: {reason}"),
            None => format!("{message}; it is being opened again"),
        })
    }
}
