//! Random growth of a store's tree, with machines, and the content that each of its nodes must
//! show. The tests of repositories use it, too.

use std::collections::BTreeMap;
use std::fmt::Write;

use tempfile::TempDir;
use vellum_core::name::Name;
use vellum_core::tree::{Annotation, NodeRef};
use vellum_core::units::{ChunkLen, ImageId, MachineId};
use vellum_store::{
    Access, CollectOptions, Compression, RebaseMode, Store, StoreParameters, Unwatched,
};

pub(super) const CHUNK: u64 = 4096;
const PAGE_LEN: u64 = 1024 * CHUNK;

pub(super) fn new_store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("store");
    let parameters = StoreParameters {
        chunk_len: ChunkLen::DEFAULT,
        frame_len: 128 << 10,
        compression: Compression::Lz4,
    };
    Store::init_dir(&path, parameters).expect("a new store");
    let store = Store::open_dir(&path, Access::ReadWrite, "test").expect("it opens");
    (dir, store)
}

pub(super) fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

/// A description and a property that say `text`.
pub(super) fn words(text: &Name) -> Annotation {
    let mut annotation = Annotation::default();
    annotation
        .set_description(&format!("this is {text}\nor so"))
        .expect("harmless");
    annotation
        .set_property(&name("called"), text.as_str())
        .expect("harmless");
    annotation
}

pub(super) fn read_all(store: &Store, node: NodeRef) -> Vec<u8> {
    let disk = store.open_disk(node).expect("a disk opens");
    let mut bytes = vec![0xaa; disk.len() as usize];
    disk.read_at(&mut bytes, 0).expect("a disk reads");
    bytes
}

/// Content of every node, by its name.
pub(super) fn contents(store: &Store) -> BTreeMap<String, Vec<u8>> {
    let nodes: Vec<(NodeRef, String)> = store
        .tree()
        .all_nodes()
        .map(|node| (node, store.tree().display_name(node)))
        .collect();
    nodes
        .into_iter()
        .map(|(node, text)| (text, read_all(store, node)))
        .collect()
}

/// The shape of a tree in words: names, modes, origins, marks, machines with their snapshots.
/// Serials and layers mean something in one store.
pub(super) fn shape(store: &Store) -> String {
    let tree = store.tree();
    let mut text = String::new();
    for image in tree.images() {
        let origin = image
            .origin
            .and_then(|origin| tree.image(origin))
            .map(|origin| origin.name.to_string());
        _ = writeln!(
            text,
            "{} {:?} {origin:?} {:?}",
            image.name, image.mode, image.marks
        );
        for snapshot in tree.snapshots_of(image.id) {
            _ = writeln!(
                text,
                "  @{} {} {:?}",
                snapshot.name, snapshot.created_ms, snapshot.marks
            );
        }
    }
    let name = |id: ImageId| tree.image(id).map(|image| image.name.to_string());
    let file = |file: Option<_>| file.map(|file| store.read_configuration(file).expect("a file"));
    for machine in tree.machines().iter() {
        let disks: Vec<_> = machine.disks.iter().map(|disk| name(*disk)).collect();
        _ = writeln!(
            text,
            "{} {disks:?} {:?}",
            machine.name,
            file(machine.configuration)
        );
        for snapshot in tree.machines().snapshots_of(machine.id) {
            let kept = |disk: &vellum_core::tree::KeptDisk| {
                let snapshot = disk
                    .snapshot
                    .and_then(|serial| tree.snapshot(disk.image, serial))
                    .map(|snapshot| snapshot.name.to_string());
                (name(disk.image), disk.mode, snapshot)
            };
            let disks: Vec<_> = snapshot.disks.iter().map(kept).collect();
            _ = writeln!(
                text,
                "  @{} {} {disks:?} {:?}",
                snapshot.name,
                snapshot.created_ms,
                file(snapshot.configuration)
            );
        }
    }
    text
}

pub(super) struct Grower {
    pub(super) store: Store,
    pub(super) random: fastrand::Rng,
    names: u32,
    /// Removed when the store is closed.
    pub(super) dir: TempDir,
}

impl Grower {
    pub(super) fn new(seed: u64) -> Self {
        let (dir, store) = new_store();
        let mut grower = Self {
            dir,
            store,
            random: fastrand::Rng::with_seed(seed),
            names: 0,
        };
        let text = grower.name();
        // One that is never empty: there is something to write.
        grower
            .store
            .create_image(&text, 2 * PAGE_LEN + 700)
            .expect("create");
        (0..3).for_each(|_| grower.write());
        grower.create();
        grower.machine();
        (0..5).for_each(|_| grower.write());
        grower
    }

    fn name(&mut self) -> Name {
        self.names += 1;
        name(&format!("n{}", self.names))
    }

    fn len(&mut self) -> u64 {
        let near =
            [0, 1, CHUNK, PAGE_LEN - 1, PAGE_LEN, PAGE_LEN + CHUNK + 513][self.random.usize(..6)];
        near + self.random.u64(..3) * 511
    }

    pub(super) fn images(&self) -> Vec<ImageId> {
        self.store.tree().images().map(|image| image.id).collect()
    }

    fn image(&mut self) -> ImageId {
        let images = self.images();
        images[self.random.usize(..images.len())]
    }

    fn node(&mut self) -> NodeRef {
        let nodes: Vec<NodeRef> = self.store.tree().all_nodes().collect();
        nodes[self.random.usize(..nodes.len())]
    }

    fn create(&mut self) {
        let (text, len) = (self.name(), self.len());
        self.store.create_image(&text, len).expect("create");
    }

    fn machine(&mut self) -> MachineId {
        let text = self.name();
        let machine = self
            .store
            .create_machine(&text, Some(text.as_str().as_bytes()))
            .expect("a machine");
        // A disk of another machine is refused, and that is fine.
        let image = self.image();
        drop(self.store.add_disk(machine, image));
        machine
    }

    pub(super) fn write(&mut self) {
        let image = self.image();
        let live = self
            .store
            .open_live(image)
            .expect("an image opens for writing");
        for _ in 0..self.random.u8(1..6) {
            let Some(start) = live
                .len()
                .checked_sub(1)
                .map(|last| self.random.u64(..=last))
            else {
                return;
            };
            let len = self.random.u64(..40 * CHUNK).min(live.len() - start);
            if self.random.u8(..3) == 0 {
                live.write_zeroes(start, len).expect("zeros");
            } else {
                let mut bytes = vec![self.random.u8(..4); len as usize];
                let half = bytes.len() / 2;
                self.random.fill(&mut bytes[half..]);
                live.write_at(&bytes, start).expect("write");
            }
        }
        live.flush().expect("flush");
    }

    pub(super) fn step(&mut self) {
        let (text, image) = (self.name(), self.image());
        match self.random.u8(..28) {
            0..9 => self.write(),
            9..12 => self.snapshot_and_mark(image, &text),
            12 if self.images().len() < 6 => self.create(),
            13 | 14 if self.images().len() < 8 => {
                let (parent, len) = (self.node(), Some(self.len()).filter(|_| self.random.bool()));
                self.store.create_child(&text, parent, len).expect("child");
            }
            15 => {
                let len = self.len();
                self.store.resize_image(image, len, true).expect("resize");
            }
            16 => self.store.flatten(image, &Unwatched).expect("flatten"),
            17 => {
                let parent = self.node();
                drop(
                    self.store
                        .rebase(image, parent, RebaseMode::KeepContent, &Unwatched),
                );
            }
            18 => self.delete_oldest_snapshot(image),
            19 => {
                let machine = self.first_machine().into_iter();
                machine.for_each(|machine| drop(self.store.snapshot_machine(machine, &text)));
            }
            20 => _ = self.machine(),
            21 => self.restore_newest_snapshot(image),
            22 => self.rename_or_mark(text),
            23 => self.configure_first_machine(&text),
            _ => drop(
                self.store
                    .collect(CollectOptions::default(), &Unwatched)
                    .expect("collect"),
            ),
        }
    }

    fn snapshot_and_mark(&mut self, image: ImageId, text: &Name) {
        let snapshot = self.store.take_snapshot(image, text).expect("snapshot");
        drop(self.store.change_tags(snapshot, &[name("tag")], &[]));
        drop(self.store.set_pinned(snapshot, self.random.u8(..4) == 0));
    }

    fn delete_oldest_snapshot(&self, image: ImageId) {
        let tree = self.store.tree();
        let oldest = tree
            .snapshots_of(image)
            .next()
            .map(|snapshot| snapshot.serial);
        drop(tree);
        // A pinned one, or one that a machine keeps, stays.
        oldest
            .into_iter()
            .for_each(|serial| drop(self.store.delete_snapshot(image, serial)));
    }

    fn restore_newest_snapshot(&self, image: ImageId) {
        let tree = self.store.tree();
        let newest = tree.snapshots_of(image).next_back();
        let newest = newest.map(|snapshot| snapshot.serial);
        drop(tree);
        newest.into_iter().for_each(|serial| {
            _ = self
                .store
                .restore_snapshot(image, serial, None)
                .expect("restore");
        });
    }

    fn rename_or_mark(&mut self, text: Name) {
        let (node, random) = (self.node(), self.random.u8(..8));
        match random {
            0..3 => self.store.rename_node(node, &text).expect("rename"),
            3 => self
                .store
                .change_tags(node, &[text], &[name("tag")])
                .expect("tag"),
            4 | 5 => self.store.annotate_node(node, words(&text)).expect("words"),
            _ => self.store.set_pinned(node, random == 6).expect("pin"),
        }
    }

    fn first_machine(&self) -> Option<MachineId> {
        let tree = self.store.tree();
        tree.machines().iter().next().map(|machine| machine.id)
    }

    fn configure_first_machine(&self, text: &Name) {
        self.first_machine().into_iter().for_each(|machine| {
            self.store
                .configure_machine(machine, Some(text.as_str().as_bytes()))
                .expect("a file");
        });
    }
}
