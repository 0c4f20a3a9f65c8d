//! A disk that is being written: changes wait in memory until they are flushed into the image's active layer.
//!
//! A flush is one logged batch of chunks, pages and the layer's record: a crash leaves whole flushes only. Memory that runs full
//! flushes *everything* that waits, so at any moment the image holds a prefix of the writes, in their order.
//!
//! **Snapshots** may be taken by other threads at any time. A snapshot contains what was flushed before it, and nothing that waits: it
//! seals the layer that the last flush wrote to and puts a new one on top, under the lock of the tree. A flush looks the image's layer
//! up under the same lock and holds it until its batch is applied, so each flush is in a snapshot as a whole or not at all. Whoever
//! writes can take a snapshot of all writes with [`LiveDisk::snapshot`].

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vellum_core::device::Allocation;
use vellum_core::hash::{hash_chunks, is_zero};
use vellum_core::name::Name;
use vellum_core::page::{PAGE_SPAN, Run, Slot};
use vellum_core::tree::{Edit, Layer, Node, PageSet, PlanError, Tree, page_of, page_start};
use vellum_core::units::{ChunkId, ChunkIndex, ImageId, PageIndex};

use crate::changes::{Change, Changes};
use crate::chunks::Candidate;
use crate::database::Batch;
use crate::disk::Disk;
use crate::draft::Draft;
use crate::error::StoreError;
use crate::store::{Exclusive, Store};
use crate::stretches::Stretches;

/// Memory for changes that wait. Large enough that a flush's cost is its chunks', small enough that one is soon done.
const WAITING_LEN_MAX: usize = 16 << 20;

/// An image, open for writing. One at a time for each image, shared by as many threads as want to use it. Dropping it forgets what was
/// not flushed.
pub struct LiveDisk {
    store: Store,
    image: ImageId,
    len: u64,
    writing: Mutex<Writing>,
}

/// The image as its writers see it.
struct Writing {
    store: Store,
    image: ImageId,
    /// What was flushed. It also keeps maintenance away from the image's layers.
    disk: Disk,
    waiting: Changes,
    _exclusive: Exclusive,
}

/// What a flush has to do.
struct Flush<'w> {
    /// The positions that get data, in order.
    positions: Vec<u64>,
    /// Their bytes.
    plain: Vec<&'w [u8]>,
    /// Everything that becomes zero.
    zeros: Vec<Range<u64>>,
}

impl Store {
    /// Opens `image` for writing.
    pub fn live(&self, image: ImageId) -> Result<LiveDisk, StoreError> {
        self.check_writable()?;
        let exclusive = self.exclusive(image)?;
        let disk = self.disk(Node::Image(image))?;
        let len = disk.len();
        let writing = Writing { store: self.clone(), image, disk, waiting: Changes::default(), _exclusive: exclusive };
        Ok(LiveDisk { store: self.clone(), image, len, writing: Mutex::new(writing) })
    }
}

impl LiveDisk {
    /// The length in bytes. It cannot change while the disk is open.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The image.
    #[must_use]
    pub fn image(&self) -> ImageId {
        self.image
    }

    /// The store that it is in.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Fills `buffer` with the bytes from `offset`, unflushed writes included. The range must lie inside the disk.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StoreError> {
        self.writing().read_at(buffer, offset)
    }

    /// Writes `bytes` at `offset`. Not durable until [`LiveDisk::flush`]. The range must lie inside the disk.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
        self.writing().write_at(bytes, offset)
    }

    /// Makes `len` bytes from `offset` zero, whatever the parent holds. Cost: not the length, but what is mapped there.
    pub fn write_zeroes(&self, offset: u64, len: u64) -> Result<(), StoreError> {
        self.writing().write_zeroes(offset, len)
    }

    /// Makes all writes so far durable. After an error they still wait.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.writing().flush()
    }

    /// Flushes, and takes a snapshot of that.
    pub fn snapshot(&self, name: &Name) -> Result<Node, StoreError> {
        self.flush()?;
        self.store.snapshot(self.image, name)
    }

    /// What is stored for the bytes of `range`, unflushed writes included, until `out` is full. No data is read.
    pub(crate) fn allocation(&self, range: Range<u64>, out: &mut Stretches<Allocation>) -> Result<(), StoreError> {
        let writing = self.writing();
        for (part, change) in writing.pieces(range) {
            match change {
                Change::Absent => writing.disk.allocation(part, out)?,
                Change::Zero => out.push(part, Allocation::Zero),
                Change::Data(_) => out.push(part, Allocation::Data),
            }
        }
        Ok(())
    }

    /// Which bytes of `range` may differ from `before`, unflushed writes included, until `out` is full.
    pub(crate) fn changes(&self, before: &Disk, range: Range<u64>, out: &mut Stretches<bool>) -> Result<(), StoreError> {
        let writing = self.writing();
        for (part, change) in writing.pieces(range) {
            match change {
                Change::Absent => self.store.changes(before, &writing.disk, part, out)?,
                Change::Zero | Change::Data(_) => out.push(part, true),
            }
        }
        Ok(())
    }

    fn writing(&self) -> MutexGuard<'_, Writing> {
        // Every change of what waits is complete when it can panic.
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writing {
    fn len(&self) -> u64 {
        self.disk.len()
    }

    /// What waits for the bytes of `range`, which lies inside the disk: in order and gap-free.
    fn pieces(&self, range: Range<u64>) -> Vec<(Range<u64>, Change<'_>)> {
        let chunk_len = self.disk.chunk_len();
        let clip = |position: u64| chunk_len.offset_of(ChunkIndex(position)).clamp(range.start, range.end);
        let positions = chunk_len.index_at(range.start).0..chunk_len.count_for(range.end).0;
        self.waiting.pieces(positions).into_iter().map(|(part, change)| (clip(part.start)..clip(part.end), change)).collect()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StoreError> {
        let end = self.check_range(offset, buffer.len() as u64);
        let chunk_len = self.disk.chunk_len();
        let positions = chunk_len.index_at(offset).0..chunk_len.count_for(end).0;
        for (range, change) in self.waiting.pieces(positions) {
            let first = chunk_len.offset_of(ChunkIndex(range.start));
            let (start, end) = (first.max(offset), chunk_len.offset_of(ChunkIndex(range.end)).min(end));
            let part = &mut buffer[(start - offset) as usize..(end - offset) as usize];
            match change {
                Change::Absent => self.disk.read_at(part, start)?,
                Change::Zero => part.fill(0),
                Change::Data(plain) => part.copy_from_slice(&plain[(start - first) as usize..][..part.len()]),
            }
        }
        Ok(())
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
        let end = self.check_range(offset, bytes.len() as u64);
        let mut at = offset;
        while at < end {
            let part = self.chunk_end(at).min(end);
            self.write_chunk(at, &bytes[(at - offset) as usize..(part - offset) as usize])?;
            at = part;
        }
        Ok(())
    }

    fn write_zeroes(&mut self, offset: u64, len: u64) -> Result<(), StoreError> {
        let end = self.check_range(offset, len);
        let chunk_len = self.disk.chunk_len();
        // The last chunk is whole as soon as everything up to the disk's end is.
        let whole_end = if end == self.len() { chunk_len.count_for(end).0 } else { chunk_len.index_at(end).0 };
        let whole = chunk_len.count_for(offset).0..whole_end;
        if whole.start >= whole.end {
            return self.zero_parts(offset, end);
        }
        self.zero_parts(offset, chunk_len.offset_of(ChunkIndex(whole.start)))?;
        self.zero_parts(chunk_len.offset_of(ChunkIndex(whole.end)).min(end), end)?;
        self.waiting.zero(whole);
        self.relieve()
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.store.check_writable()?;
        let flush = Flush::of(&self.waiting);
        // A disk that is nearly full is told before the store's log is: then nothing has failed half-way, and reading goes on.
        self.store.inner.folder.check_room(self.waiting.memory_len() as u64)?;
        let chunks = flush.plain.iter().zip(hash_chunks(&flush.plain));
        let candidates: Vec<Candidate<'_>> = chunks.map(|(plain, hash)| Candidate { hash, plain, guess: None }).collect();
        self.store.commit_chunks(&candidates, |tree, ids, batch| flush.plan(&self.store, tree, self.image, ids, batch))?;
        self.waiting = Changes::default();
        self.disk = self.store.disk(Node::Image(self.image))?;
        Ok(())
    }

    fn check_range(&self, offset: u64, len: u64) -> u64 {
        let end = offset.checked_add(len).filter(|end| *end <= self.len());
        end.expect("a request lies inside the disk")
    }

    /// The first byte after the chunk that holds the one at `offset`.
    fn chunk_end(&self, offset: u64) -> u64 {
        let chunk_len = self.disk.chunk_len();
        chunk_len.offset_of(chunk_len.index_at(offset).advance(1))
    }

    /// Zeros in `[start, end)`, which holds no whole chunk but may reach into two.
    fn zero_parts(&mut self, start: u64, end: u64) -> Result<(), StoreError> {
        let mut at = start;
        while at < end {
            let part = self.chunk_end(at).min(end);
            self.write_chunk(at, &vec![0; (part - at) as usize])?;
            at = part;
        }
        Ok(())
    }

    /// Writes `bytes`, which lie inside one chunk.
    fn write_chunk(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let chunk_len = self.disk.chunk_len();
        let position = chunk_len.index_at(offset);
        let first = chunk_len.offset_of(position);
        let inside = (offset - first) as usize..(offset - first) as usize + bytes.len();
        if let Some(plain) = self.waiting.data_mut(position.0) {
            plain[inside].copy_from_slice(bytes);
            return Ok(());
        }
        let mut plain = vec![0; chunk_len.as_usize()].into_boxed_slice();
        // Past the disk's end the last chunk holds zeros, whatever was there: see `resize`.
        let seen_len = (self.len() - first).min(chunk_len.bytes()) as usize;
        if inside != (0..seen_len) {
            self.read_at(&mut plain[..seen_len], first)?;
        }
        plain[inside].copy_from_slice(bytes);
        self.waiting.put(position.0, plain);
        self.relieve()
    }

    fn relieve(&mut self) -> Result<(), StoreError> {
        if self.waiting.memory_len() < WAITING_LEN_MAX { Ok(()) } else { self.flush() }
    }
}

impl<'w> Flush<'w> {
    /// Parts what waits into data and zeros; data that is all zero is zeros.
    fn of(waiting: &'w Changes) -> Self {
        let mut flush = Self { positions: Vec::new(), plain: Vec::new(), zeros: waiting.zeros().collect() };
        for (position, plain) in waiting.data() {
            if is_zero(plain) {
                flush.zeros.push(position..position + 1);
            } else {
                flush.positions.push(position);
                flush.plain.push(plain);
            }
        }
        flush
    }

    /// Puts the changed pages of the image's active layer into `batch`; the edit of its record.
    fn plan(&self, store: &Store, tree: &Tree, image: ImageId, ids: &[ChunkId], batch: &mut Batch) -> Result<Vec<Edit>, StoreError> {
        let layer = tree.layer_of(Node::Image(image)).ok_or(PlanError::Gone)?;
        let mut changes: BTreeMap<PageIndex, Vec<Run>> = BTreeMap::new();
        for (position, id) in self.positions.iter().zip(ids) {
            let (index, start) = page_of(ChunkIndex(*position));
            changes.entry(index).or_default().push(Run { start, len: 1, slot: Slot::Chunk(*id) });
        }
        self.add_zeros(tree, layer, &mut changes);
        let mut draft = Draft::new(Layer::clone(layer));
        for (index, mut runs) in changes {
            runs.sort_unstable_by_key(|run| run.start);
            draft.change(&store.inner.pages, index, &runs, batch)?;
        }
        Ok(vec![Edit::PutLayer(draft.layer)])
    }

    /// Adds what becomes zero. Where a layer below could be seen, that is an explicit zero; elsewhere it is nothing at all, and only
    /// an answer that the layer has is taken away. Pages that no layer has are passed over.
    fn add_zeros(&self, tree: &Tree, layer: &Layer, changes: &mut BTreeMap<PageIndex, Vec<Run>>) {
        if self.zeros.is_empty() {
            return;
        }
        let below = PageSet::union_of(layer.parent.into_iter().flat_map(|parent| tree.chain(parent)).map(|layer| &layer.pages));
        let mapped = below.union(&layer.pages);
        for range in &self.zeros {
            let mut next = mapped.next_from(page_of(ChunkIndex(range.start)).0);
            while let Some(index) = next.filter(|index| page_start(*index).0 < range.end) {
                let first = page_start(index).0;
                let clip = |position: u64| position.saturating_sub(first).min(PAGE_SPAN.into()) as u16;
                let hidden = if below.contains(index) { layer.visible_in(index) } else { 0 };
                let (start, end) = (clip(range.start), clip(range.end));
                let middle = hidden.clamp(start, end);
                let parts = [(start, middle, Slot::Zero), (middle, end, Slot::Absent)].into_iter().filter(|(start, end, _)| start < end);
                changes.entry(index).or_default().extend(parts.map(|(start, end, slot)| Run { start, len: end - start, slot }));
                next = mapped.next_from(PageIndex(index.0 + 1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use vellum_core::units::ChunkCount;

    use super::*;
    use crate::model::{assert_same, name, new_store, open, read_all};

    fn image(store: &Store, text: &str, len: u64) -> ImageId {
        store.create(&name(text), len).expect("create").image()
    }

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        fastrand::Rng::with_seed(seed).fill(&mut bytes);
        bytes
    }

    #[test]
    fn what_was_flushed_outlives_the_process_and_what_waited_does_not() {
        let (dir, store) = new_store(4096);
        let id = image(&store, "a", 10_000);
        let live = store.live(id).expect("live");
        live.write_at(b"kept", 4094).expect("write");
        live.flush().expect("flush");
        live.write_at(b"lost", 0).expect("write");
        drop((live, store));
        let mut expected = vec![0; 10_000];
        expected[4094..4098].copy_from_slice(b"kept");
        assert_same(&read_all(&open(&dir), Node::Image(id)), &expected, "after reopening");
    }

    #[test]
    fn memory_that_runs_full_flushes_a_prefix_of_the_writes() {
        let (_dir, store) = new_store(4096);
        let id = image(&store, "a", 40 << 20);
        let live = store.live(id).expect("live");
        let bytes = noise(1, 20 << 20);
        live.write_at(b"first", 39 << 20).expect("write");
        live.write_at(&bytes, 7).expect("write");
        let seen = read_all(&store, Node::Image(id));
        assert_eq!(&seen[39 << 20..][..5], b"first");
        let flushed = seen[7..].iter().zip(&bytes).take_while(|(a, b)| a == b).count();
        assert!((15 << 20..20 << 20).contains(&flushed), "{flushed}");
        assert!(seen[7 + flushed..39 << 20].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn snapshot_between_flushes_keeps_what_was_flushed_and_the_disk_goes_on() {
        let (_dir, store) = new_store(4096);
        let id = image(&store, "a", 8192);
        let live = store.live(id).expect("live");
        live.write_at(&[1; 8192], 0).expect("write");
        live.flush().expect("flush");
        live.write_at(&[2; 100], 0).expect("write");
        let early = store.snapshot(id, &name("early")).expect("snapshot");
        live.write_zeroes(4096, 4096).expect("zero");
        let late = live.snapshot(&name("late")).expect("snapshot");
        assert_same(&read_all(&store, early), &[1; 8192], "early");
        let expected = [vec![2; 100], vec![1; 3996], vec![0; 4096]].concat();
        assert_same(&read_all(&store, late), &expected, "late");
        assert_same(&read_all(&store, Node::Image(id)), &expected, "now");
    }

    #[test]
    fn one_writer_at_a_time() {
        let (_dir, store) = new_store(4096);
        let id = image(&store, "a", 8192);
        let live = store.live(id).expect("live");
        assert!(matches!(store.live(id), Err(StoreError::Busy(_))));
        assert!(matches!(store.resize(id, 1, true), Err(StoreError::Busy(_))));
        drop(live);
        assert!(store.live(id).is_ok());
    }

    #[test]
    fn zeroing_a_huge_sparse_disk_costs_what_is_mapped() {
        let (_dir, store) = new_store(4096);
        let len = 1 << 50;
        let id = image(&store, "a", len);
        let live = store.live(id).expect("live");
        live.write_at(b"x", len / 2).expect("write");
        live.flush().expect("flush");
        let child = store.create_child(&name("b"), Node::Image(id), None).expect("child").image();
        let above = store.live(child).expect("live");
        for disk in [&live, &above] {
            disk.write_zeroes(1, len - 1).expect("zero");
            disk.flush().expect("flush");
        }
        let tree = store.tree();
        for id in [id, child] {
            let layer = tree.layer_of(Node::Image(id)).expect("a layer");
            assert_eq!((layer.pages.len(), layer.chunks, layer.zeros), (1, 0, PAGE_SPAN.into()), "{id}");
        }
    }

    #[test]
    fn data_that_is_zero_and_chunks_that_are_alike_are_not_stored() {
        let (_dir, store) = new_store(4096);
        let id = image(&store, "a", 10 * 4096);
        let live = store.live(id).expect("live");
        live.write_at(&vec![7; 5 * 4096], 0).expect("write");
        live.write_at(&[0; 3 * 4096], 4096).expect("write");
        live.flush().expect("flush");
        assert_eq!(store.inner.chunks.next_chunk(), ChunkId(1));
        let tree = store.tree();
        let layer = tree.layer_of(Node::Image(id)).expect("a layer");
        assert_eq!((layer.chunks, layer.zeros, layer.parent_visible), (2, 0, ChunkCount(0)));
    }

    #[test]
    fn snapshots_by_another_thread_contain_whole_flushes() {
        let (_dir, store) = new_store(4096);
        let id = image(&store, "a", 4 * 4096);
        let snapshots = std::thread::scope(|scope| {
            let taking = scope.spawn(|| {
                let take = |nth| store.snapshot(id, &name(&format!("s{nth}"))).expect("snapshot");
                (0..40).map(take).collect::<Vec<Node>>()
            });
            let live = store.live(id).expect("live");
            for round in 1..=60_u8 {
                live.write_at(&[round; 4 * 4096], 0).expect("write");
                live.flush().expect("flush");
            }
            taking.join().expect("the snapshots are taken")
        });
        let mut last = 0;
        for snapshot in snapshots {
            let seen = read_all(&store, snapshot);
            assert!(seen[0] >= last && seen.iter().all(|byte| *byte == seen[0]), "{} after {last}", seen[0]);
            last = seen[0];
        }
        assert_same(&read_all(&store, Node::Image(id)), &[60; 4 * 4096], "now");
    }
}
