//! Model test of disks: random operations against a model that is nothing but bytes, one `Vec<u8>`
//! for each image and snapshot.

use std::ops::Range;

use tempfile::TempDir;
use vellum_core::difference::Difference;
use vellum_core::name::Name;
use vellum_core::page::PAGE_SPAN;
use vellum_core::tree::{NodeRef, PlanError};
use vellum_core::units::{ChunkLen, ImageId};

use crate::collect::CollectOptions;
use crate::error::StoreError;
use crate::live::LiveDisk;
use crate::maps::{MapEntry, RebaseMode};
use crate::records::{Compression, StoreParameters};
use crate::store::{Access, Store};
use crate::watch::Unwatched;

const WRITE_LEN_MAX: u64 = 1 << 20;

/// A store and what must be in it.
pub(crate) struct World {
    /// `None` only while it is opened again.
    store: Option<Store>,
    random: fastrand::Rng,
    chunk_len: u64,
    len_max: u64,
    images: Vec<ModelImage>,
    names: u32,
    /// Removed when the store is closed.
    dir: TempDir,
}

struct ModelImage {
    id: ImageId,
    /// The flushed content, and the content that the writer sees.
    flushed: Vec<u8>,
    current: Vec<u8>,
    /// Bytes written since the last flush, never enough for memory to run full.
    waiting: u64,
    live: Option<LiveDisk>,
    snapshots: Vec<(u64, Vec<u8>)>,
}

/// The seed of a random test: printed, and taken from `VELLUM_TEST_SEED` if that is set.
pub(crate) fn seed() -> u64 {
    let seed = std::env::var("VELLUM_TEST_SEED").map_or_else(
        |_| fastrand::u64(..1 << 32),
        |text| text.parse().expect("a number"),
    );
    println!("VELLUM_TEST_SEED={seed}");
    seed
}

pub(crate) fn open(dir: &TempDir) -> Store {
    Store::open_dir(&dir.path().join("store"), Access::ReadWrite, "test")
        .expect("a sound store opens")
}

/// An empty store with chunks of `chunk_len` bytes.
pub(crate) fn new_store(chunk_len: u64) -> (TempDir, Store) {
    new_store_with(chunk_len, 128 << 10)
}

/// An empty store with chunks of `chunk_len` bytes in frames of `frame_len`.
fn new_store_with(chunk_len: u64, frame_len: u32) -> (TempDir, Store) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let chunk_len = ChunkLen::new(chunk_len as u32).expect("a chunk length");
    let parameters = StoreParameters {
        chunk_len,
        frame_len,
        compression: Compression::Lz4,
    };
    Store::init_dir(&dir.path().join("store"), parameters).expect("a new store");
    let store = open(&dir);
    (dir, store)
}

pub(crate) fn read_all(store: &Store, node: NodeRef) -> Vec<u8> {
    let disk = store.open_disk(node).expect("a disk opens");
    let mut bytes = vec![0xaa; disk.len() as usize];
    disk.read_at(&mut bytes, 0).expect("a disk reads");
    bytes
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).expect("a valid name")
}

/// The first place where two disks differ: assertions on whole disks would print megabytes.
pub(crate) fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    let at = found.iter().zip(expected).position(|(a, b)| a != b);
    assert!(at.is_none(), "{what}: differs at {at:?} of {}", found.len());
}

impl World {
    fn new(seed: u64, chunk_len: u64, len_max: u64) -> Self {
        println!("seed {seed}, chunks of {chunk_len}");
        Self::with_store(new_store(chunk_len), seed, chunk_len, len_max)
    }

    /// A store that has seen `steps` random operations. Each of its frames holds one chunk, so that
    /// a collection leaves nothing dead.
    pub(crate) fn grown(seed: u64, chunk_len: u64, len_max: u64, steps: u32) -> Self {
        let mut world = Self::with_store(
            new_store_with(chunk_len, chunk_len as u32),
            seed,
            chunk_len,
            len_max,
        );
        world.create();
        world.create();
        (0..steps).for_each(|_| world.step());
        (0..world.images.len()).for_each(|at| world.close(at));
        world
    }

    fn with_store((dir, store): (TempDir, Store), seed: u64, chunk_len: u64, len_max: u64) -> Self {
        Self {
            dir,
            store: Some(store),
            random: fastrand::Rng::with_seed(seed),
            chunk_len,
            len_max,
            images: Vec::new(),
            names: 0,
        }
    }

    pub(crate) fn store(&self) -> &Store {
        self.store.as_ref().expect("the store is open")
    }

    fn next_name(&mut self) -> Name {
        self.names += 1;
        name(&format!("n{}", self.names))
    }

    /// A place near something where mistakes are made: chunk and page boundaries, sectors, the
    /// ends.
    fn place(&mut self, len: u64) -> u64 {
        let page_len = self.chunk_len * u64::from(PAGE_SPAN);
        let anchor = match self.random.u8(..6) {
            0 => 0,
            1 => len,
            2 => page_len,
            3 => 2 * page_len,
            _ => self.random.u64(..=len) / self.chunk_len * self.chunk_len,
        };
        let step = [
            0,
            1,
            511,
            512,
            513,
            self.chunk_len - 1,
            self.chunk_len,
            self.chunk_len + 1,
        ][self.random.usize(..8)];
        let place = if self.random.bool() {
            anchor + step
        } else {
            anchor.saturating_sub(step)
        };
        place.min(len)
    }

    fn range(&mut self, len: u64) -> Range<u64> {
        let start = self.place(len);
        let end = match self.random.u8(..8) {
            0 => self.place(len),
            1 => len,
            _ => start + self.random.u64(..4 * self.chunk_len),
        };
        start.min(end).min(len)..start.max(end).min(len)
    }

    /// Bytes of which some occur again and again, and some are zero.
    fn bytes(&mut self, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        match self.random.u8(..6) {
            0 => {}
            1 => bytes.fill(self.random.u8(1..3)),
            2 => {
                let half = bytes.len() / 2;
                bytes[half..].fill(9);
            }
            _ => self.random.fill(&mut bytes),
        }
        bytes
    }

    fn any_image(&mut self) -> usize {
        self.random.usize(..self.images.len())
    }

    /// An image or one of its snapshots, and its content as others see it.
    fn any_node(&mut self) -> (NodeRef, Vec<u8>) {
        let at = self.any_image();
        let image = &self.images[at];
        match self.random.usize(..=image.snapshots.len()) {
            0 => (NodeRef::Image(image.id), image.flushed.clone()),
            nth => {
                let (serial, content) = &image.snapshots[nth - 1];
                (NodeRef::Snapshot(image.id, *serial), content.clone())
            }
        }
    }

    fn add(&mut self, node: NodeRef, content: Vec<u8>) {
        self.images.push(ModelImage {
            id: node.image_id(),
            flushed: content.clone(),
            current: content,
            waiting: 0,
            live: None,
            snapshots: Vec::new(),
        });
    }

    fn create(&mut self) {
        let len = self.place(self.len_max);
        let name = self.next_name();
        let node = self.store().create_image(&name, len).expect("create");
        self.add(node, vec![0; len as usize]);
    }

    fn create_child(&mut self) {
        let (parent, mut content) = self.any_node();
        let len = match self.random.u8(..3) {
            0 => None,
            1 => Some(self.place(self.len_max)),
            _ => Some(self.place(content.len() as u64)),
        };
        let name = self.next_name();
        let node = self
            .store()
            .create_child(&name, parent, len)
            .expect("create a child");
        content.resize(len.unwrap_or(content.len() as u64) as usize, 0);
        self.add(node, content);
    }

    fn live(&mut self, at: usize) -> &LiveDisk {
        let (store, image) = (
            self.store.as_ref().expect("the store is open"),
            &mut self.images[at],
        );
        image.live.get_or_insert_with(|| {
            store
                .open_live(image.id)
                .expect("an image opens for writing")
        })
    }

    fn write(&mut self, at: usize) {
        let range = self.range(self.images[at].current.len() as u64);
        let range = range.start..range.end.min(range.start + WRITE_LEN_MAX);
        if self.images[at].waiting > 4 * WRITE_LEN_MAX {
            self.flush(at);
        }
        self.images[at].waiting += range.end - range.start + 2 * self.chunk_len;
        let bytes = self.bytes(range.end - range.start);
        self.live(at).write_at(&bytes, range.start).expect("write");
        self.images[at].current[range.start as usize..range.end as usize].copy_from_slice(&bytes);
    }

    fn zero(&mut self, at: usize) {
        let range = self.range(self.images[at].current.len() as u64);
        self.live(at)
            .write_zeroes(range.start, range.end - range.start)
            .expect("write zeros");
        self.images[at].current[range.start as usize..range.end as usize].fill(0);
    }

    fn flush(&mut self, at: usize) {
        self.live(at).flush().expect("flush");
        self.images[at].flushed = self.images[at].current.clone();
        self.images[at].waiting = 0;
    }

    /// Ends writing: what was not flushed is forgotten.
    fn close(&mut self, at: usize) {
        self.images[at].live = None;
        self.images[at].current = self.images[at].flushed.clone();
        self.images[at].waiting = 0;
    }

    fn resize(&mut self, at: usize) {
        self.close(at);
        let len = if self.random.bool() {
            self.place(self.len_max)
        } else {
            self.place(self.images[at].flushed.len() as u64)
        };
        self.store()
            .resize_image(self.images[at].id, len, true)
            .expect("resize");
        self.images[at].flushed.resize(len as usize, 0);
        self.close(at);
    }

    fn snapshot(&mut self, at: usize) {
        let name = self.next_name();
        let NodeRef::Snapshot(_, serial) = self
            .store()
            .take_snapshot(self.images[at].id, &name)
            .expect("snapshot")
        else {
            panic!("a snapshot is a snapshot");
        };
        let content = self.images[at].flushed.clone();
        self.images[at].snapshots.push((serial, content));
    }

    fn restore(&mut self, at: usize) {
        self.close(at);
        let image = &self.images[at];
        let Some((serial, content)) = self.random.choice(&image.snapshots).cloned() else {
            return;
        };
        self.store()
            .restore_snapshot(image.id, serial, None)
            .expect("restore");
        self.images[at].flushed = content;
        self.close(at);
    }

    fn delete(&mut self, at: usize) {
        self.close(at);
        let (id, count) = (self.images[at].id, self.images[at].snapshots.len());
        if count > 0 && self.random.bool() {
            let (serial, _) = self.images[at]
                .snapshots
                .swap_remove(self.random.usize(..count));
            self.store()
                .delete_snapshot(id, serial)
                .expect("delete a snapshot");
        } else if self.images.len() > 3 {
            let image = self.images.swap_remove(at);
            self.store()
                .delete_image(image.id, true)
                .expect("delete an image");
        }
    }

    fn flatten(&mut self, at: usize) {
        self.close(at);
        let id = self.images[at].id;
        self.store().flatten(id, &Unwatched).expect("flatten");
        let tree = self.store().tree();
        let layer = tree.layer_of(NodeRef::Image(id)).expect("a layer");
        assert_eq!(
            (layer.parent, layer.zeros),
            (None, 0),
            "a flat image stands alone"
        );
    }

    fn rebase(&mut self, at: usize) {
        self.close(at);
        let (parent, _) = self.any_node();
        let id = self.images[at].id;
        match self
            .store()
            .rebase(id, parent, RebaseMode::KeepContent, &Unwatched)
        {
            Ok(()) => assert!(parent != NodeRef::Image(id), "an image stood on itself"),
            Err(StoreError::Plan(PlanError::Circle { .. })) => {}
            Err(error) => panic!("rebase: {error}"),
        }
    }

    /// Difference of two disks, chunk by chunk, as `Store::diff` would report it.
    fn differences(&self, a: &[u8], b: &[u8]) -> Vec<Option<bool>> {
        let chunk_len = self.chunk_len as usize;
        let chunk = |bytes: &[u8], at: usize| {
            let mut padded = bytes[at.min(bytes.len())..(at + chunk_len).min(bytes.len())].to_vec();
            padded.resize(chunk_len, 0);
            padded
        };
        let (common, all) = (a.len().min(b.len()), a.len().max(b.len()));
        let mut found = vec![None; all];
        for at in (0..all).step_by(chunk_len) {
            let (before, after) = (chunk(a, at), chunk(b, at));
            let is_zero = after.iter().all(|byte| *byte == 0);
            let end = (at + chunk_len).min(all);
            let cut = common.clamp(at, end);
            found[at..cut].fill((before != after).then_some(is_zero));
            found[cut..end].fill(Some(is_zero && b.len() > common));
        }
        found
    }

    fn check_diff(&mut self) {
        let ((a, content_a), (b, content_b)) = (self.any_node(), self.any_node());
        let mut found = vec![None; content_a.len().max(content_b.len())];
        let mut last: Option<Difference> = None;
        let visit = &mut |next: Difference| {
            if let Some(last) = last {
                let end = last.start + last.len;
                assert!(
                    end < next.start
                        || (end == next.start && last.becomes_zero != next.becomes_zero),
                    "in order and joined"
                );
            }
            last = Some(next);
            found[next.start as usize..(next.start + next.len) as usize]
                .fill(Some(next.becomes_zero));
            Ok(())
        };
        self.store().diff(a, b, visit).expect("diff");
        let expected = self.differences(&content_a, &content_b);
        let at = found.iter().zip(&expected).position(|(a, b)| a != b);
        assert!(at.is_none(), "differences differ at {at:?}");
    }

    fn check_map(&mut self) {
        let (node, content) = self.any_node();
        let (mut end, mut found) = (
            0,
            vec![0; content.len().next_multiple_of(self.chunk_len as usize)],
        );
        // Under a guest, looking seals what is looked at: as the map does.
        let chain = self
            .store()
            .still_disk(node)
            .expect("a disk")
            .chain()
            .to_vec();
        let visit = &mut |entry: MapEntry| {
            assert_eq!(entry.start, end, "gap-free");
            end += entry.len;
            if let Some((depth, layer)) = entry.layer {
                assert_eq!(chain[depth as usize].id, layer);
            }
            if let Some(first) = entry.first {
                let places =
                    found[entry.start as usize..].chunks_exact_mut(self.chunk_len as usize);
                for (nth, place) in (0..entry.len.div_ceil(self.chunk_len)).zip(places) {
                    let id = first.advance_by(if entry.is_repeat { 0 } else { nth });
                    place.copy_from_slice(
                        self.store()
                            .inner
                            .chunks
                            .verified_frame(id)?
                            .chunk_bytes(id)?,
                    );
                }
            }
            Ok(())
        };
        self.store().map(node, visit).expect("map");
        found.truncate(content.len());
        assert_eq!(end, content.len() as u64);
        assert_same(&found, &content, "map");
    }

    /// Effects of maintenance and collection must not be seen, not even by disks that are written
    /// meanwhile.
    fn collect(&mut self) {
        self.store()
            .collect(CollectOptions::default(), &Unwatched)
            .expect("collect");
    }

    fn reopen(&mut self) {
        (0..self.images.len()).for_each(|at| self.close(at));
        self.store = None;
        self.store = Some(open(&self.dir));
    }

    fn check_live(&mut self, at: usize) {
        let range = self.range(self.images[at].current.len() as u64);
        let mut found = vec![0xbb; (range.end - range.start) as usize];
        self.live(at)
            .read_at(&mut found, range.start)
            .expect("read");
        assert_same(
            &found,
            &self.images[at].current[range.start as usize..range.end as usize],
            "unflushed",
        );
    }

    fn check_all(&self) {
        for image in &self.images {
            assert_same(
                &read_all(self.store(), NodeRef::Image(image.id)),
                &image.flushed,
                "image",
            );
            for (serial, content) in &image.snapshots {
                assert_same(
                    &read_all(self.store(), NodeRef::Snapshot(image.id, *serial)),
                    content,
                    "snapshot",
                );
            }
        }
    }

    fn step(&mut self) {
        let at = self.any_image();
        match self.random.u8(..53) {
            50..53 => self.collect(),
            40..42 => self.flatten(at),
            42..46 => self.rebase(at),
            46..48 => self.check_map(),
            48..50 => self.check_diff(),
            0..12 => self.write(at),
            12..18 => self.zero(at),
            18..22 => self.flush(at),
            22..26 => self.check_live(at),
            26..28 => self.close(at),
            28..31 => self.resize(at),
            31..34 => self.snapshot(at),
            34 => self.restore(at),
            35 => self.delete(at),
            36 if self.images.len() < 5 => self.create(),
            37 if self.images.len() < 5 => self.create_child(),
            38 => self.reopen(),
            _ => self.check_live(at),
        }
    }
}

fn run(seed: u64, chunk_len: u64, len_max: u64, steps: u32) {
    let mut world = World::new(seed, chunk_len, len_max);
    world.create();
    world.create();
    for step in 0..steps {
        world.step();
        if step % 20 == 19 {
            world.check_all();
        }
    }
    world.reopen();
    world.check_all();
}

#[test]
fn random_operations_agree_with_plain_bytes() {
    // More in an afternoon: SEEDS=100:200.
    let seeds = std::env::var("SEEDS").ok();
    let (from, to) = seeds
        .as_deref()
        .and_then(|seeds| seeds.split_once(':'))
        .unwrap_or(("1", "4"));
    for seed in from.parse().expect("a number")..to.parse().expect("a number") {
        run(seed, 4096, (4 << 20) + 70_000, 200);
        run(seed, 65536, 1 << 20, 200);
    }
    run(1, 65536, (64 << 20) + 70_000, 40);
}
