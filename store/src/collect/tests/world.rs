//! Model of a store for the collector's tests: small images whose content is a few numbers each,
//! and what must be read from them. It knows nothing of collections.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

use tempfile::TempDir;
use vellum_core::hash::ChunkHash;
use vellum_core::name::Name;
use vellum_core::page::{PageEntry, Run};
use vellum_core::tree::{Layer, NodePlan, NodeRef, TreeEdit, page_of};
use vellum_core::units::{ChunkId, ChunkIndex, ChunkLen, ImageId};

use crate::chunks::{ChunkCandidate, DedupSession};
use crate::clock::now_ms;
use crate::database::Batch;
use crate::error::StoreError;
use crate::{
    Access, CollectOptions, Compression, DeepOptions, Progress, Store, StoreParameters, Watch,
};

pub(crate) const CHUNK_LEN: usize = 4096;

/// Content of an image by position: zeros, or the chunk of a number.
pub(crate) type Content = Vec<Option<u32>>;

pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) model: BTreeMap<NodeRef, Content>,
    next_name: u32,
    dir: TempDir,
}

/// Calls an operation off when it has looked so many times.
pub(crate) struct After(AtomicI64);

impl After {
    pub(crate) fn looks(count: i64) -> Self {
        Self(AtomicI64::new(count))
    }
}

impl Watch for After {
    fn report_progress(&self, _: Progress) {}

    fn is_cancelled(&self) -> bool {
        self.0.fetch_sub(1, Ordering::Relaxed) <= 0
    }
}

/// The chunk of a number: eight in a row are alike, so that solid blocks are worth it.
pub(crate) fn plain(number: u32) -> Vec<u8> {
    let mut bytes = vec![0; CHUNK_LEN];
    fastrand::Rng::with_seed((number / 8).into()).fill(&mut bytes[..2048]);
    bytes[2048..2052].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// Moves every frame into a solid block that is worth it.
pub(crate) const DEEP: CollectOptions = CollectOptions {
    dry_run: false,
    deep: Some(DeepOptions { level: 3 }),
};

impl World {
    pub(crate) fn new() -> Self {
        // In memory where there is such a folder: these tests are about order, not about the disk,
        // and sync a thousand times.
        let in_memory = tempfile::tempdir_in("/dev/shm");
        let dir = in_memory
            .or_else(|_| tempfile::tempdir())
            .expect("a folder for the store");
        let parameters = StoreParameters {
            chunk_len: ChunkLen::DEFAULT,
            frame_len: 4 * CHUNK_LEN as u32,
            compression: Compression::Lz4,
        };
        Store::init_dir(&dir.path().join("store"), parameters).expect("the folder is empty");
        let store = Store::open_dir(&dir.path().join("store"), Access::ReadWrite, "test")
            .expect("the store is new");
        Self {
            store,
            model: BTreeMap::new(),
            next_name: 0,
            dir,
        }
    }

    pub(crate) fn reopen(self) -> Self {
        let Self {
            store,
            model,
            next_name,
            dir,
        } = self;
        drop(store);
        let store = Store::open_dir(&dir.path().join("store"), Access::ReadWrite, "test")
            .expect("the store is sound");
        Self {
            store,
            model,
            next_name,
            dir,
        }
    }

    pub(crate) fn name(&mut self) -> Name {
        self.next_name += 1;
        Name::new(&format!("n{}", self.next_name)).expect("a valid name")
    }

    pub(crate) fn create(&mut self, count: usize) -> ImageId {
        let name = self.name();
        let node = self
            .store
            .create_image(&name, (count * CHUNK_LEN) as u64)
            .expect("the name is free");
        self.model.insert(node, vec![None; count]);
        node.image_id()
    }

    pub(crate) fn snapshot(&mut self, image: ImageId) -> NodeRef {
        let name = self.name();
        let node = self
            .store
            .take_snapshot(image, &name)
            .expect("the name is free");
        self.model
            .insert(node, self.model[&NodeRef::Image(image)].clone());
        node
    }

    pub(crate) fn child(&mut self, parent: NodeRef, count: usize) -> ImageId {
        let name = self.name();
        let mut tree = self.store.tree_mut();
        let NodePlan { edits, node } = tree
            .plan_child(&name, parent, Some((count * CHUNK_LEN) as u64), 0)
            .expect("the parent is there");
        self.store
            .commit_batch(&mut tree, &edits, Batch::default())
            .expect("the disk has room");
        drop(tree);
        let mut content = self.model[&parent].clone();
        content.resize(count, None);
        self.model.insert(node, content);
        node.image_id()
    }

    pub(crate) fn grow(&mut self, image: ImageId, count: usize) {
        let mut tree = self.store.tree_mut();
        let resized = tree
            .plan_resize(image, (count * CHUNK_LEN) as u64, false, 0)
            .expect("it grows");
        self.store
            .commit_batch(&mut tree, &resized.edits, Batch::default())
            .expect("the disk has room");
        self.model
            .get_mut(&NodeRef::Image(image))
            .expect("known")
            .resize(count, None);
    }

    pub(crate) fn delete(&mut self, node: NodeRef) {
        match node {
            NodeRef::Image(image) => {
                self.store.delete_image(image, true).expect("not pinned");
                self.model.retain(|other, _| other.image_id() != image);
            }
            NodeRef::Snapshot(image, serial) => {
                self.store
                    .delete_snapshot(image, serial)
                    .expect("not pinned");
                self.model.remove(&node);
            }
        }
    }

    /// Writes what `content` says from position `start` on, as a live disk does.
    pub(crate) fn write(&mut self, image: ImageId, start: usize, content: &[Option<u32>]) {
        let mut session = self.store.inner.chunks.open_session();
        write(&self.store, &mut session, image, start, content, None).expect("the disk has room");
        drop(session);
        let model = self.model.get_mut(&NodeRef::Image(image)).expect("known");
        model[start..start + content.len()].copy_from_slice(content);
    }

    /// Holds every image and snapshot against the model, from disk.
    pub(crate) fn verify(&self, what: &str) {
        self.store.inner.chunks.forget_frames();
        for (node, content) in &self.model {
            verify(&self.store, *node, content, what);
        }
    }

    /// The chunks that some image needs.
    pub(crate) fn needed(&self) -> usize {
        let numbers: std::collections::BTreeSet<u32> =
            self.model.values().flatten().flatten().copied().collect();
        numbers.len()
    }
}

pub(crate) fn verify(store: &Store, node: NodeRef, content: &[Option<u32>], what: &str) {
    let disk = store.open_disk(node).expect("the node is there");
    assert_eq!(
        disk.len(),
        (content.len() * CHUNK_LEN) as u64,
        "{what}: length of {}",
        disk.name()
    );
    let mut bytes = vec![0; content.len() * CHUNK_LEN];
    disk.read_at(&mut bytes, 0)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    for (at, (found, number)) in bytes.chunks(CHUNK_LEN).zip(content).enumerate() {
        let expected = number.map_or_else(|| vec![0; CHUNK_LEN], plain);
        assert!(
            found == expected,
            "{what}: {} at {at} is not {number:?}",
            disk.name()
        );
    }
}

/// One logged batch with the chunks and the map that refers to them.
pub(crate) fn write(
    store: &Store,
    session: &mut DedupSession<'_>,
    image: ImageId,
    start: usize,
    content: &[Option<u32>],
    guess: Option<ChunkId>,
) -> Result<(), StoreError> {
    let chunks: Vec<Vec<u8>> = content
        .iter()
        .flatten()
        .map(|number| plain(*number))
        .collect();
    let candidates: Vec<ChunkCandidate<'_>> = chunks
        .iter()
        .map(|plain| ChunkCandidate {
            hash: ChunkHash::of_chunk(plain),
            plain,
            guess,
        })
        .collect();
    let mut written = None;
    session.commit_chunks(&candidates, |stored, batch| {
        let tree = store.tree();
        let mut layer = Layer::clone(
            tree.layer_of(NodeRef::Image(image))
                .expect("the image is there"),
        );
        let mut ids = stored.ids.iter();
        let slots: Vec<PageEntry> = content
            .iter()
            .map(|number| {
                number.map_or(PageEntry::Zero, |_| {
                    PageEntry::Chunk(*ids.next().expect("one each"))
                })
            })
            .collect();
        put_slots(store, &mut layer, start, &slots, batch)?;
        store.put_edits(&tree, &[TreeEdit::PutLayer(layer.clone())], batch);
        written = Some(layer);
        Ok(())
    })?;
    store
        .tree_mut()
        .apply_edits(&[TreeEdit::PutLayer(written.expect("the batch was built"))]);
    Ok(())
}

/// Puts `slots` into the map of `layer` from position `start` on.
pub(crate) fn put_slots(
    store: &Store,
    layer: &mut Layer,
    start: usize,
    slots: &[PageEntry],
    batch: &mut Batch,
) -> Result<(), StoreError> {
    let mut pages = BTreeMap::new();
    for (at, slot) in slots.iter().enumerate() {
        let (index, position) = page_of(ChunkIndex((start + at) as u64));
        let page = match pages.entry(index) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(store.inner.pages.own_page(layer, index)?)
            }
        };
        let before = page.count_entries();
        page.set_run(Run {
            start: position,
            len: 1,
            slot: *slot,
        });
        let after = page.count_entries();
        layer.chunks = layer.chunks + after.0 - before.0;
        layer.zeros = layer.zeros + after.1 - before.1;
    }
    for (index, page) in pages {
        layer.pages.insert(index);
        batch.put_page(layer.id, index, &page);
    }
    Ok(())
}

/// A new image with `content`, stored as an import does: chunks and pages in bulk, the name last.
pub(crate) fn import(
    store: &Store,
    name: &Name,
    content: &[Option<u32>],
    guesses: &[Option<ChunkId>],
) -> Result<NodeRef, StoreError> {
    let building = store.build_layer();
    let mut session = store.inner.chunks.open_session();
    let mut layer = Layer {
        len: (content.len() * CHUNK_LEN) as u64,
        ..store.tree_mut().blank_layer(None, 0, now_ms())
    };
    layer.id = building.layer;
    for (nth, part) in content.chunks(5).enumerate() {
        let chunks: Vec<Vec<u8>> = part.iter().flatten().map(|number| plain(*number)).collect();
        let candidates: Vec<ChunkCandidate<'_>> = chunks
            .iter()
            .enumerate()
            .map(|(at, plain)| ChunkCandidate {
                hash: ChunkHash::of_chunk(plain),
                plain,
                guess: guesses.get(nth * 5 + at).copied().flatten(),
            })
            .collect();
        let mut ids = session.store_chunks(&candidates)?.into_iter();
        let slots: Vec<PageEntry> = part
            .iter()
            .map(|number| {
                number.map_or(PageEntry::Absent, |_| {
                    PageEntry::Chunk(ids.next().expect("one each"))
                })
            })
            .collect();
        let mut batch = Batch::default();
        put_slots(store, &mut layer, nth * 5, &slots, &mut batch)?;
        crate::chunks::sync::yield_point("map in memory");
        store
            .inner
            .database
            .write_batch(batch, crate::database::Durability::Bulk)?;
        crate::chunks::sync::yield_point("map written");
    }
    store
        .inner
        .chunks
        .make_durable(store.inner.database.write_generation())?;
    crate::chunks::sync::yield_point("settled");
    let mut tree = store.tree_mut();
    let NodePlan { edits, node } = tree.plan_image(name, layer, None, now_ms())?;
    store.commit_batch(&mut tree, &edits, Batch::default())?;
    Ok(node)
}
