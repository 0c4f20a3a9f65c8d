//! A disk that is being written: changes wait in memory until they are flushed into the image's
//! active layer.
//!
//! **Generations.** Writes go into the generation that is *filling*. A flush freezes it, and a new
//! one takes the writes meanwhile; one generation is flushed at a time, in order, as one logged
//! batch of chunks, pages and the layer's record. So at any moment, and after a crash, the image
//! holds a prefix of the generations, and with that everything that a flush answered for. Who reads
//! looks into the filling one, then the frozen one, then the image, and never waits for a disk to
//! sync.
//!
//! **Who flushes.** The first caller does it, for all callers that come meanwhile: they wait for
//! that flush and need at most one more. A generation that grows large is flushed by a thread of
//! its own, so that writers go on; when memory for all live disks runs out, the writers flush (see
//! `buffer_budget`). A flush that fails leaves its changes waiting, below what came later: nothing
//! is lost, and the next flush tries again.
//!
//! **Versions.** Each flush puts a new `FlushedBase` under the view. Who has taken the old one may
//! find its pages changed or gone: changed only where a write of now went, which it may see or not;
//! on an error it looks whether the base is still the same, and begins again if not. Resolved pages
//! are kept by `layer_resolver`, put there only while the base is the one that they were read from,
//! under the view's lock, and replaced under the same lock when a flush has changed them.
//!
//! **Snapshots** may be taken by other threads at any time. A snapshot contains what was flushed
//! before it, and nothing that waits: it seals the layer that the last flush wrote to and puts a
//! new one on top, under the lock of the tree. A flush looks the image's layer up under the same
//! lock and holds it until its batch is applied, so each flush is in a snapshot as a whole or not
//! at all. Whoever writes can take a snapshot of all writes with [`LiveDisk::take_snapshot`].
//!
//! Locks: control, then view; no lock of the store is taken under either. (The one of `growth` is a
//! flush's alone, and comes last.) To drop a `Disk` takes the lock of the tree, which others hold
//! while they sync: it is never a reader who drops the last one, since the view keeps it until the
//! next flush.

pub(crate) mod buffer_budget;
pub(crate) mod content_time;
mod flush;
mod read_view;
mod requests;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{
    Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
use std::thread::JoinHandle;

use vellum_core::device::AllocationStatus;
use vellum_core::name::Name;
use vellum_core::stretches::RangeCollector;
use vellum_core::tree::{NodeRef, Tree, TreeEdit};
use vellum_core::units::{ChunkIndex, ChunkLen, ImageId, LayerId, PageIndex};

use crate::chunks::sync::lock_unpoisoned;
use crate::clock::now_ns;
use crate::database::Batch;
use crate::disk::Disk;
use crate::error::StoreError;
use crate::sequence_detector::SequenceDetector;
use crate::store::Store;
use crate::store::holds::ImageLock;
use crate::usage_history::appender::RunningEntry;
use crate::usage_history::entry::{Added, UsageEntry};
use crate::write_buffer::WriteBuffer;
use content_time::ContentTime;
use flush::{Flush, PageChanges};
use read_view::ReadView;

/// Limit of tries of a flush: it is done again if a write that was not its own failed meanwhile,
/// and what it had found was gone.
const TRIES_MAX: u32 = 4;
/// Longest part of a write that one check of the write buffer's budget and one turn of the view's
/// lock admit.
const PART_LEN_MAX: u64 = 1 << 20;

/// An image, open for writing. One at a time for each image, shared by as many threads as want to
/// use it. Dropping it forgets what was not flushed.
pub struct LiveDisk {
    shared: Arc<LiveDiskState>,
    /// The thread that flushes a generation which grew large.
    flusher: Mutex<Option<JoinHandle<()>>>,
    reading: SequenceDetector,
    _exclusive: ImageLock,
}

/// State that the threads of a live disk share.
struct LiveDiskState {
    store: Store,
    image: ImageId,
    len: u64,
    chunk_len: ChunkLen,
    /// Under which number `chain` keeps its pages.
    pages_serial: u64,
    view: RwLock<ReadView>,
    /// The time when the content last changed; see [`ContentTime`]. Changes under the view's lock,
    /// with the content: who sees the old time and reads then sees a later time once there is more
    /// to read.
    changed: ContentTime,
    control: Mutex<FlushControl>,
    /// Told when a flush has ended.
    flushed: Condvar,
    /// True if the flusher is at work or about to be.
    is_flusher_busy: AtomicBool,
    /// The journal's record of this disk's flushes; one flush at a time changes it.
    growth: Mutex<Option<RunningEntry>>,
}

/// The turn to flush, and the state of what is durable.
struct FlushControl {
    is_flushing: bool,
    /// The number of the generation that takes the writes.
    filling: u64,
    /// Generations below are durable.
    durable_below: u64,
    /// True if the disk was dropped: nothing more is flushed.
    is_closed: bool,
}

/// The right to flush the frozen generation. However it ends, what was not flushed waits again.
struct FlushTurn<'s> {
    shared: &'s LiveDiskState,
}

impl Store {
    /// Opens `image` for writing.
    pub fn open_live(&self, image: ImageId) -> Result<LiveDisk, StoreError> {
        self.check_writable()?;
        let exclusive = self.lock_image(image)?;
        self.leave_to_readers(image)?;
        let disk = self.open_disk(NodeRef::Image(image))?;
        let changed_ns = disk.chain().first().map_or(0, |layer| layer.changed_ns);
        let control = FlushControl {
            is_flushing: false,
            filling: 0,
            durable_below: 0,
            is_closed: false,
        };
        let shared = Arc::new(LiveDiskState {
            store: self.clone(),
            image,
            len: disk.len(),
            chunk_len: disk.chunk_len(),
            pages_serial: self.inner.pages.live_serial(),
            view: RwLock::new(ReadView::new(disk)),
            changed: ContentTime(Arc::new(AtomicU64::new(changed_ns))),
            control: Mutex::new(control),
            flushed: Condvar::new(),
            is_flusher_busy: AtomicBool::new(false),
            growth: Mutex::default(),
        });
        self.inner.room.add_disk(&shared);
        Ok(LiveDisk {
            shared,
            flusher: Mutex::default(),
            reading: SequenceDetector::default(),
            _exclusive: exclusive,
        })
    }

    /// Memory for writes that wait to be flushed, of all live disks together.
    pub fn set_waiting_len_max(&self, len: usize) {
        self.inner.room.set_len_max(len);
    }
}

impl LiveDisk {
    /// The length in bytes. It cannot change while the disk is open.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.shared.len
    }

    /// True if it has no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shared.len == 0
    }

    /// The image.
    #[must_use]
    pub fn image(&self) -> ImageId {
        self.shared.image
    }

    /// The store that it is in.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// The time when its content last changed, unflushed writes included.
    pub(crate) fn content_time(&self) -> &ContentTime {
        &self.shared.changed
    }

    /// Fills `buffer` with the bytes from `offset`, unflushed writes included. The range must lie
    /// inside the disk.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StoreError> {
        let end = self.shared.check_range(offset, buffer.len() as u64);
        if let Some(ahead) = self.reading.note_read(offset..end, self.shared.len) {
            self.prefetch(ahead);
        }
        self.shared.read_at(buffer, offset)
    }

    /// Writes `bytes` at `offset`. Not durable until [`LiveDisk::flush`]. The range must lie inside
    /// the disk. Whole chunks cost a copy; of a chunk that is written in part, the rest is read.
    /// Waits for a flush if memory for unflushed writes has run out.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
        let shared = &self.shared;
        let end = shared.check_range(offset, bytes.len() as u64);
        let mut at = offset;
        while at < end {
            let next = shared.part_end(at, end);
            let part = &bytes[(at - offset) as usize..(next - offset) as usize];
            shared.store.inner.room.wait_for_room()?;
            if shared.is_chunk_start(at) && shared.is_chunk_start(next) {
                shared.write_whole(part, at);
            } else {
                shared.write_part(part, at)?;
            }
            self.flush_if_large();
            at = next;
        }
        Ok(())
    }

    /// Makes `len` bytes from `offset` zero, whatever the parent holds. Cost: not the length, but
    /// what is mapped there.
    pub fn write_zeroes(&self, offset: u64, len: u64) -> Result<(), StoreError> {
        let shared = &self.shared;
        let (chunk_len, end) = (shared.chunk_len, shared.check_range(offset, len));
        shared.store.inner.room.wait_for_room()?;
        // The last chunk is whole as soon as everything up to the disk's end is.
        let whole_end = if end == self.len() {
            chunk_len.count_for(end).0
        } else {
            chunk_len.index_at(end).0
        };
        let whole = chunk_len.count_for(offset).0..whole_end;
        if whole.start >= whole.end {
            return shared.zero_parts(offset, end);
        }
        shared.zero_parts(offset, chunk_len.offset_of(ChunkIndex(whole.start)))?;
        shared.zero_parts(chunk_len.offset_of(ChunkIndex(whole.end)).min(end), end)?;
        shared.change_buffer(|waiting| waiting.zero_range(whole));
        self.flush_if_large();
        Ok(())
    }

    /// Makes all writes so far durable. After an error they still wait.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.shared.flush_all()
    }

    /// Flushes, and takes a snapshot of that.
    pub fn take_snapshot(&self, name: &Name) -> Result<NodeRef, StoreError> {
        self.flush()?;
        self.shared.store.take_snapshot(self.shared.image, name)
    }

    /// Has what is stored for `range` decoded, in the background.
    pub(crate) fn prefetch(&self, range: Range<u64>) {
        let base = self.shared.read_view().base.clone();
        // A read error is reported to the caller that reads the range.
        let _ = base
            .disk
            .prefetch_range(&|index| self.shared.base_page(&base, index), range);
    }

    /// Allocation of the bytes of `range`, unflushed writes included, until `out` is full. No data
    /// is read.
    pub(crate) fn allocation(
        &self,
        range: Range<u64>,
        count_max: usize,
    ) -> Result<RangeCollector<AllocationStatus>, StoreError> {
        self.shared
            .describe_range(range, count_max, |base, part, waiting, out| match waiting {
                None => base.allocation_of(part, out),
                Some(kind) => {
                    out.push_range(part, kind);
                    Ok(())
                }
            })
    }

    /// Ranges of `range` whose bytes may differ from `before`, unflushed writes included, until
    /// `out` is full.
    pub(crate) fn changes(
        &self,
        before: &Disk,
        range: Range<u64>,
        count_max: usize,
    ) -> Result<RangeCollector<bool>, StoreError> {
        self.shared
            .describe_range(range, count_max, |base, part, waiting, out| {
                if waiting.is_none() {
                    return self.shared.store.find_changes(before, base, part, out);
                }
                out.push_range(part, true);
                Ok(())
            })
    }

    /// Has the generation that takes the writes flushed in the background if it has grown large.
    fn flush_if_large(&self) {
        // Large enough that a flush's cost is its chunks', small enough that one is soon done.
        let large_len = self.shared.store.inner.sizes.generation as usize;
        let is_large = self.shared.read_view().filling.memory_len() >= large_len;
        if !is_large || self.shared.is_flusher_busy.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut flusher = lock_unpoisoned(&self.flusher);
        if let Some(last) = flusher.take() {
            join_flusher(last);
        }
        let shared = Arc::clone(&self.shared);
        *flusher = Some(std::thread::spawn(move || {
            if shared.flush_some().is_ok() {
                shared.is_flusher_busy.store(false, Ordering::Release);
            }
            // After a failure it is the writers who try again, once there is no room left: they
            // have somebody to tell.
        }));
    }
}

impl Drop for LiveDisk {
    fn drop(&mut self) {
        self.shared.discard_unflushed();
        if let Some(flusher) = lock_unpoisoned(&self.flusher).take() {
            join_flusher(flusher);
        }
    }
}

fn join_flusher(flusher: JoinHandle<()>) {
    // A panic in there was reported when it happened.
    let _ = flusher.join();
}

impl LiveDiskState {
    fn read_view(&self) -> RwLockReadGuard<'_, ReadView> {
        // Every change of the view is complete when it can panic.
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn view_mut(&self) -> RwLockWriteGuard<'_, ReadView> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// About how many bytes wait.
    fn memory_len(&self) -> usize {
        self.read_view().memory_len()
    }

    fn check_range(&self, offset: u64, len: u64) -> u64 {
        let end = offset.checked_add(len).filter(|end| *end <= self.len);
        end.expect("a request lies inside the disk")
    }

    fn is_chunk_start(&self, offset: u64) -> bool {
        offset.is_multiple_of(self.chunk_len.byte_len())
    }

    /// End of the part of a write to `[at, end)` that goes on at `at`: after whole chunks, or
    /// inside one.
    fn part_end(&self, at: u64, end: u64) -> u64 {
        let start_of = |offset: u64| self.chunk_len.offset_of(self.chunk_len.index_at(offset));
        let whole_end = start_of(end.min(at + PART_LEN_MAX));
        if self.is_chunk_start(at) && whole_end > at {
            whole_end
        } else {
            (start_of(at) + self.chunk_len.byte_len()).min(end)
        }
    }

    /// Changes what waits, and keeps count of it.
    fn change_buffer(&self, change: impl FnOnce(&mut WriteBuffer)) {
        let now_ns = now_ns();
        self.change_view(|view| {
            change(&mut view.filling);
            self.changed.advance_to(now_ns);
        });
    }

    fn change_view<T>(&self, change: impl FnOnce(&mut ReadView) -> T) -> T {
        let mut view = self.view_mut();
        let before = view.memory_len();
        let result = change(&mut view);
        self.store.inner.room.note_change(before, view.memory_len());
        result
    }

    fn lock_control(&self) -> MutexGuard<'_, FlushControl> {
        lock_unpoisoned(&self.control)
    }

    /// Waits for the end of the flush that is going on.
    fn wait_for_flush<'c>(
        &self,
        control: MutexGuard<'c, FlushControl>,
    ) -> MutexGuard<'c, FlushControl> {
        self.flushed
            .wait(control)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes all writes so far durable.
    fn flush_all(&self) -> Result<(), StoreError> {
        let mut control = self.lock_control();
        // Everything written before this call is in this generation or in an earlier one.
        let wanted = control.filling;
        while control.is_flushing && control.durable_below <= wanted {
            control = self.wait_for_flush(control);
        }
        if control.durable_below > wanted {
            Ok(())
        } else {
            self.flush_next(control)
        }
    }

    /// Has some of what waits flushed: by the thread that flushes already, else by this one.
    fn flush_some(&self) -> Result<(), StoreError> {
        let control = self.lock_control();
        if control.is_flushing {
            drop(self.wait_for_flush(control));
            return Ok(());
        }
        self.flush_next(control)
    }

    /// Flushes the generation that takes the writes; nothing else is being flushed.
    fn flush_next(&self, mut control: MutexGuard<'_, FlushControl>) -> Result<(), StoreError> {
        if control.is_closed || self.read_view().is_clean() {
            return Ok(());
        }
        self.store.check_writable()?;
        let number = control.filling;
        control.filling += 1;
        control.is_flushing = true;
        let turn = FlushTurn { shared: self };
        let (frozen, changed_ns, retired) = {
            let mut view = self.view_mut();
            (
                view.freeze_buffer(),
                self.changed.changed_ns(),
                view.take_retired(),
            )
        };
        drop(control);
        drop(retired);
        let (disk, changed) = self.commit_again(&frozen, changed_ns)?;
        drop(frozen);
        self.publish_flushed(disk, changed);
        self.lock_control().durable_below = number + 1;
        self.is_flusher_busy.store(false, Ordering::Release);
        drop(turn);
        Ok(())
    }

    /// As [`LiveDiskState::commit_changes`], again if the store was opened anew meanwhile. What was
    /// not committed adds nothing to the journal.
    fn commit_again(
        &self,
        waiting: &WriteBuffer,
        changed_ns: u64,
    ) -> Result<(Disk, PageChanges), StoreError> {
        let before = lock_unpoisoned(&self.growth).clone();
        let mut outcome = Err(StoreError::Reopened);
        for _ in 0..TRIES_MAX {
            outcome = self.commit_changes(waiting, changed_ns);
            if outcome.is_err() {
                lock_unpoisoned(&self.growth).clone_from(&before);
            }
            if !matches!(outcome, Err(StoreError::Reopened)) {
                break;
            }
        }
        outcome
    }

    /// Makes `waiting` durable in the image's active layer; what the image holds by then, and which
    /// pages changed. Its content changed last at `changed_ns`.
    fn commit_changes(
        &self,
        waiting: &WriteBuffer,
        changed_ns: u64,
    ) -> Result<(Disk, PageChanges), StoreError> {
        let flush = Flush::from_buffer(waiting);
        let mut changed = PageChanges::new();
        self.store
            .commit_chunks(&flush.chunk_candidates(), |tree, stored, batch| {
                let (mut layer, runs) =
                    flush.plan_pages(&self.store, tree, self.image, stored.ids, batch)?;
                layer.changed_ns = changed_ns;
                self.note_growth(tree, layer.id, stored.added, batch);
                let edit = TreeEdit::PutLayer(layer);
                changed = runs;
                Ok::<_, StoreError>(vec![edit])
            })?;
        Ok((self.store.open_disk(NodeRef::Image(self.image))?, changed))
    }

    /// Notes in `batch` what a flush added, with what those before it did.
    fn note_growth(&self, tree: &Tree, layer: LayerId, added: Added, batch: &mut Batch) {
        if added.chunks == 0 {
            return;
        }
        let entry = UsageEntry::new(
            "write",
            self.image,
            tree.display_name(NodeRef::Image(self.image)),
            Some(layer),
            added,
        );
        let inner = &self.store.inner;
        inner.journal.note_running(
            &inner.database,
            batch,
            &mut lock_unpoisoned(&self.growth),
            entry,
        );
    }

    /// Lets everybody see the flushed generation in the image, and resolved pages with it.
    fn publish_flushed(&self, disk: Disk, changed: PageChanges) {
        let (pages, serial) = (&self.store.inner.pages, self.pages_serial);
        let change = |(index, runs): (PageIndex, Vec<_>)| {
            let old = pages.cached_live_page(serial, index);
            (
                index,
                old.map(|old| Arc::new(old.with_changes(&runs).resolved_at_root())),
            )
        };
        let changed: Vec<_> = changed.into_iter().map(change).collect();
        self.change_view(|view| {
            for (index, page) in changed {
                match page {
                    Some(page) => pages.keep_live(serial, index, &page),
                    None => pages.forget_live(serial, index),
                }
            }
            view.publish_base(disk);
        });
    }

    /// Forgets what was not flushed, for ever.
    fn discard_unflushed(&self) {
        let mut control = self.lock_control();
        control.is_closed = true;
        while control.is_flushing {
            control = self.wait_for_flush(control);
        }
        self.change_view(ReadView::forget_unflushed);
    }
}

impl Drop for FlushTurn<'_> {
    fn drop(&mut self) {
        let mut control = self.shared.lock_control();
        self.shared.change_view(ReadView::thaw_buffer);
        control.is_flushing = false;
        self.shared.flushed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use vellum_core::page::PAGE_SPAN;
    use vellum_core::units::{ChunkCount, ChunkId};

    use super::*;
    use crate::model::{assert_same, name, new_store, open, read_all};

    fn image(store: &Store, text: &str, len: u64) -> ImageId {
        store
            .create_image(&name(text), len)
            .expect("create")
            .image_id()
    }

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        fastrand::Rng::with_seed(seed).fill(&mut bytes);
        bytes
    }

    #[test]
    fn a_long_look_shows_one_moment_whether_it_begins_before_or_under_a_guest() {
        let (_dir, store) = new_store(4096);
        let id = image(&store, "a", 8 << 20);
        let write = |live: &LiveDisk, byte: u8| {
            live.write_at(&vec![byte; 8 << 20], 0)
                .and_then(|()| live.flush())
                .expect("written");
        };
        write(&store.open_live(id).expect("live"), 1);
        let before = store.still_disk(NodeRef::Image(id)).expect("opens");
        let live = store.open_live(id).expect("live");
        write(&live, 2);
        let under = store.still_disk(NodeRef::Image(id)).expect("opens");
        write(&live, 3);
        for (disk, byte) in [(before, 1), (under, 2)] {
            let mut seen = vec![0; 8 << 20];
            disk.read_at(&mut seen, 0).expect("readable");
            assert!(seen.iter().all(|seen| *seen == byte), "{byte}");
        }
        assert_same(
            &read_all(&store, NodeRef::Image(id)),
            &vec![3; 8 << 20],
            "now",
        );
    }

    #[test]
    fn what_was_flushed_outlives_the_process_and_what_waited_does_not() {
        let (dir, store) = new_store(4096);
        let id = image(&store, "a", 10_000);
        let live = store.open_live(id).expect("live");
        live.write_at(b"kept", 4094).expect("write");
        live.flush().expect("flush");
        live.write_at(b"lost", 0).expect("write");
        drop((live, store));
        let mut expected = vec![0; 10_000];
        expected[4094..4098].copy_from_slice(b"kept");
        assert_same(
            &read_all(&open(&dir), NodeRef::Image(id)),
            &expected,
            "after reopening",
        );
    }

    #[test]
    fn memory_that_runs_full_flushes_a_prefix_of_the_writes() {
        let (_dir, store) = new_store(4096);
        let id = image(&store, "a", 40 << 20);
        let live = store.open_live(id).expect("live");
        let bytes = noise(1, 20 << 20);
        live.write_at(b"first", 39 << 20).expect("write");
        live.write_at(&bytes, 7).expect("write");
        // Nobody asked for a flush; the one in the background ends. What came after it is
        // forgotten.
        while live.shared.read_view().base.version == 0 {
            std::thread::yield_now();
        }
        drop(live);
        let seen = read_all(&store, NodeRef::Image(id));
        assert_eq!(&seen[39 << 20..][..5], b"first");
        let flushed = seen[7..]
            .iter()
            .zip(&bytes)
            .take_while(|(a, b)| a == b)
            .count();
        assert!((15 << 20..=20 << 20).contains(&flushed), "{flushed}");
        assert!(seen[7 + flushed..39 << 20].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn snapshot_between_flushes_keeps_what_was_flushed_and_the_disk_goes_on() {
        let (_dir, store) = new_store(4096);
        let id = image(&store, "a", 8192);
        let live = store.open_live(id).expect("live");
        live.write_at(&[1; 8192], 0).expect("write");
        live.flush().expect("flush");
        live.write_at(&[2; 100], 0).expect("write");
        let early = store.take_snapshot(id, &name("early")).expect("snapshot");
        live.write_zeroes(4096, 4096).expect("zero");
        let late = live.take_snapshot(&name("late")).expect("snapshot");
        assert_same(&read_all(&store, early), &[1; 8192], "early");
        let expected = [vec![2; 100], vec![1; 3996], vec![0; 4096]].concat();
        assert_same(&read_all(&store, late), &expected, "late");
        assert_same(&read_all(&store, NodeRef::Image(id)), &expected, "now");
    }

    #[test]
    fn one_writer_at_a_time() {
        let (_dir, store) = new_store(4096);
        let id = image(&store, "a", 8192);
        let live = store.open_live(id).expect("live");
        assert!(matches!(store.open_live(id), Err(StoreError::Busy(_))));
        assert!(matches!(
            store.resize_image(id, 1, true),
            Err(StoreError::Busy(_))
        ));
        drop(live);
        assert!(store.open_live(id).is_ok());
    }

    #[test]
    fn zeroing_a_huge_sparse_disk_costs_what_is_mapped() {
        let (_dir, store) = new_store(4096);
        let len = 1 << 50;
        let id = image(&store, "a", len);
        let live = store.open_live(id).expect("live");
        live.write_at(b"x", len / 2).expect("write");
        live.flush().expect("flush");
        let child = store
            .create_child(&name("b"), NodeRef::Image(id), None)
            .expect("child")
            .image_id();
        let above = store.open_live(child).expect("live");
        for disk in [&live, &above] {
            disk.write_zeroes(1, len - 1).expect("zero");
            disk.flush().expect("flush");
        }
        let tree = store.tree();
        for id in [id, child] {
            let layer = tree.layer_of(NodeRef::Image(id)).expect("a layer");
            assert_eq!(
                (layer.pages.len(), layer.chunks, layer.zeros),
                (1, 0, PAGE_SPAN.into()),
                "{id}"
            );
        }
    }

    #[test]
    fn data_that_is_zero_and_chunks_that_are_alike_are_not_stored() {
        let (_dir, store) = new_store(4096);
        let id = image(&store, "a", 10 * 4096);
        let live = store.open_live(id).expect("live");
        live.write_at(&vec![7; 5 * 4096], 0).expect("write");
        live.write_at(&[0; 3 * 4096], 4096).expect("write");
        live.flush().expect("flush");
        assert_eq!(store.inner.chunks.next_chunk(), ChunkId(1));
        let tree = store.tree();
        let layer = tree.layer_of(NodeRef::Image(id)).expect("a layer");
        assert_eq!(
            (layer.chunks, layer.zeros, layer.parent_visible),
            (2, 0, ChunkCount(0))
        );
    }

    #[test]
    fn snapshots_by_another_thread_contain_whole_flushes() {
        let (_dir, store) = new_store(4096);
        let id = image(&store, "a", 4 * 4096);
        let snapshots = std::thread::scope(|scope| {
            let taking = scope.spawn(|| {
                let take = |nth| {
                    store
                        .take_snapshot(id, &name(&format!("s{nth}")))
                        .expect("snapshot")
                };
                (0..40).map(take).collect::<Vec<NodeRef>>()
            });
            let live = store.open_live(id).expect("live");
            for round in 1..=60_u8 {
                live.write_at(&[round; 4 * 4096], 0).expect("write");
                live.flush().expect("flush");
            }
            taking.join().expect("the snapshots are taken")
        });
        let mut last = 0;
        for snapshot in snapshots {
            let seen = read_all(&store, snapshot);
            assert!(
                seen[0] >= last && seen.iter().all(|byte| *byte == seen[0]),
                "{} after {last}",
                seen[0]
            );
            last = seen[0];
        }
        assert_same(
            &read_all(&store, NodeRef::Image(id)),
            &[60; 4 * 4096],
            "now",
        );
    }

    /// Waits until a flush has frozen its generation.
    fn await_flush(live: &LiveDisk) {
        while !live.shared.lock_control().is_flushing {
            std::thread::yield_now();
        }
    }

    #[test]
    fn reads_and_writes_go_on_while_a_flush_cannot_and_the_next_flush_has_them() {
        let (dir, store) = new_store(4096);
        let id = image(&store, "a", 4 * 4096);
        let live = store.open_live(id).expect("live");
        live.write_at(&[1; 8192], 0).expect("write");
        std::thread::scope(|scope| {
            // Every commit needs this section: the flush waits until it is given back.
            let section = store.inner.chunks.keep_out();
            let first = scope.spawn(|| live.flush());
            await_flush(&live);
            live.write_at(&[2; 100], 4000)
                .expect("a write while a flush goes on");
            live.write_zeroes(8192, 10)
                .expect("zeros while a flush goes on");
            live.write_at(&[3; 4096], 8192)
                .expect("a write while a flush goes on");
            let second = scope.spawn(|| live.flush());
            let mut seen = vec![0xaa; 4 * 4096];
            live.read_at(&mut seen, 0)
                .expect("a read while a flush goes on");
            let expected = [
                vec![1; 4000],
                vec![2; 100],
                vec![1; 4092],
                vec![3; 4096],
                vec![0; 4096],
            ]
            .concat();
            assert_same(&seen, &expected, "waiting");
            assert_same(
                &read_all(&store, NodeRef::Image(id)),
                &[0; 4 * 4096],
                "nothing is flushed yet",
            );
            drop(section);
            first.join().expect("no panic").expect("flush");
            second.join().expect("no panic").expect("flush");
            assert!(live.shared.read_view().is_clean());
            assert_same(&read_all(&store, NodeRef::Image(id)), &expected, "flushed");
            live.read_at(&mut seen, 0).expect("read");
            assert_same(&seen, &expected, "through the disk");
        });
        drop((live, store));
        assert_eq!(
            read_all(&open(&dir), NodeRef::Image(id))[4000..4100],
            [2; 100]
        );
    }

    #[test]
    fn who_asks_for_a_flush_meanwhile_shares_the_next_one() {
        const ASKING: u64 = 8;
        let (_dir, store) = new_store(4096);
        let id = image(&store, "a", 1 << 20);
        let live = store.open_live(id).expect("live");
        live.write_at(&[1; 4096], 0).expect("write");
        std::thread::scope(|scope| {
            let section = store.inner.chunks.keep_out();
            let first = scope.spawn(|| live.flush());
            await_flush(&live);
            (1..=ASKING).for_each(|nth| live.write_at(&[1; 10], nth * 4096).expect("write"));
            let asking: Vec<_> = (0..ASKING).map(|_| scope.spawn(|| live.flush())).collect();
            drop(section);
            first.join().expect("no panic").expect("flush");
            asking
                .into_iter()
                .for_each(|asking| asking.join().expect("no panic").expect("flush"));
        });
        assert_eq!(
            live.shared.read_view().base.version,
            2,
            "{} flushes are two",
            ASKING + 1
        );
    }

    #[test]
    fn what_cannot_be_flushed_waits_below_what_comes_later() {
        use crate::database::{Batch, Durability, Family};
        use vellum_core::page::page_key;
        let (_dir, store) = new_store(4096);
        let id = image(&store, "a", 3 * 4096);
        let live = store.open_live(id).expect("live");
        live.write_at(&[1; 3 * 4096], 0)
            .and_then(|()| live.flush())
            .expect("write");
        let layer = store
            .tree()
            .layer_of(NodeRef::Image(id))
            .expect("a layer")
            .id;
        let (key, database) = (page_key(layer, PageIndex(0)), &store.inner.database);
        let page = database
            .get(Family::Pages, &key)
            .expect("readable")
            .expect("there")
            .to_vec();
        let put = |page: Option<&[u8]>| {
            let mut batch = Batch::default();
            match page {
                Some(page) => batch.put_record(Family::Pages, key, page),
                None => batch.delete_record(Family::Pages, key),
            }
            database
                .write_batch(batch, Durability::Logged)
                .expect("writable");
        };
        let seen = |what: &str, expected: &[u8]| {
            let mut bytes = vec![0xaa; expected.len()];
            live.read_at(&mut bytes, 0).expect("what waits can be read");
            assert_same(&bytes, expected, what);
        };
        live.write_at(&[2; 2 * 4096], 0).expect("write");
        put(None);
        assert!(
            matches!(live.flush(), Err(StoreError::Damaged(_))),
            "the map of the layer is not there"
        );
        live.write_at(&[3; 100], 4096).expect("write");
        let expected = [vec![2; 4096], vec![3; 100], vec![2; 3996]].concat();
        seen("after one failure", &expected);
        assert!(live.flush().is_err());
        seen("after two failures", &expected);
        put(Some(&page));
        live.flush().expect("flush");
        assert_same(
            &read_all(&store, NodeRef::Image(id)),
            &[expected, vec![1; 4096]].concat(),
            "once it goes again",
        );
        assert_eq!(live.shared.memory_len(), 0);
    }

    #[test]
    fn memory_for_all_disks_is_bounded_and_an_idle_disk_keeps_none_from_others() {
        const LEN_MAX: usize = 2 << 20;
        let (_dir, store) = new_store(4096);
        store.set_waiting_len_max(LEN_MAX);
        let disks = ["a", "b", "c"]
            .map(|text| store.open_live(image(&store, text, 4 << 20)).expect("live"));
        let used = || {
            disks
                .iter()
                .map(|disk| disk.shared.memory_len())
                .sum::<usize>()
        };
        let contents = [1, 2, 3].map(|seed| noise(seed, 4 << 20));
        // The first fills all memory, and then nobody flushes it.
        for (disk, content) in disks.iter().zip(&contents) {
            for (nth, part) in (0..).zip(content.chunks(100_000)) {
                disk.write_at(part, nth * 100_000).expect("write");
                assert!(used() <= LEN_MAX + 100_000 + 2 * 4096, "{}", used());
            }
        }
        for (disk, content) in disks.iter().zip(&contents) {
            disk.flush().expect("flush");
            assert_same(
                &read_all(&store, NodeRef::Image(disk.image())),
                content,
                "a disk",
            );
        }
        assert_eq!(used(), 0);
    }
}
