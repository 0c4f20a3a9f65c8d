//! The tree of layers, images and snapshots.
//!
//! It is pure: a change is planned as a list of [`TreeEdit`]s (in `plan`), the store makes them
//! durable in one batch, and only then are they applied here. It does not know the content of the
//! layers' maps; `page` is one span of such a map.

mod attach;
mod chain_update;
mod forest;
#[cfg(test)]
mod forest_tests;
mod keep;
mod lookup;
mod machine;
mod machine_plan;
#[cfg(test)]
mod machine_tests;
mod maintenance;
mod marks;
mod mode;
mod plan;
mod receive;
mod scratch;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::identity::ContentId;
use crate::name::Name;
use crate::page::Page;
use crate::page_grid::positions_in;
use crate::units::{ChunkCount, ChunkLen, ConfigurationId, ImageId, LayerId, MachineId, PageIndex};

pub use attach::{ATTACHMENTS_MAX, Attachment};
pub use chain_update::ChainUpdate;
pub use forest::{NodeForest, TreeNode};
pub use keep::PresentState;
pub use lookup::{LookupError, NodeRef};
pub use machine::{
    CONFIGURATION_LEN_MAX, Configuration, DISKS_MAX, KeptDisk, Machines, VirtualMachine,
    VirtualMachineSnapshot,
};
pub use machine_plan::NewConfiguration;
pub use maintenance::{LayerMerge, MaintenancePlan, SharedLayer};
pub use marks::{
    Annotation, AnnotationError, DESCRIPTION_LEN_MAX, Marks, PROPERTIES_MAX, PROPERTY_LEN_MAX,
};
pub use mode::Mode;
pub use plan::{NewTop, NodePlan, PlanError};
pub use receive::{
    Arrival, ArrivingImage, ArrivingMachine, ArrivingMachineSnapshot, ArrivingOrigin,
    ArrivingSnapshot,
};
pub use scratch::{ScratchUse, ScratchView};

pub use crate::page_grid::{page_of, page_start, pages_for};

/// One differencing image, without its map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its name in the store.
    pub id: LayerId,
    /// The layer to ask where this one is absent.
    pub parent: Option<LayerId>,
    /// A sealed layer's content never changes again.
    pub sealed: bool,
    /// The image's length in bytes while this layer is on top.
    pub len: u64,
    /// The number of positions at which the parent is visible: from there on absent reads as zero.
    /// A disk that shrank and grew again must not show the parent's bytes where it was cut, and
    /// recording the cut costs nothing.
    pub parent_visible: ChunkCount,
    /// The pages of its map that exist.
    pub pages: PageSet,
    /// Positions that it answers with a chunk.
    pub chunks: u64,
    /// Positions that it answers with an explicit zero.
    pub zeros: u64,
    /// The time when it was made, in milliseconds since 1970. For people; nothing is decided by it.
    pub created_ms: u64,
    /// The time when the content of the disk that it is on top of last changed, in nanoseconds
    /// since 1970, or a little later: of one image, two contents never have the same.
    pub changed_ns: u64,
    /// The identity of its content, across stores: given once, when it is sealed, and never to
    /// another content. None of layers that are not sealed, or were before there were identities.
    pub content: Option<ContentId>,
}

/// A set of page indexes, as ranges: half-open, in order, not touching.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageSet {
    ranges: Vec<(u64, u64)>,
}

/// A named disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its name in the store, kept through renames.
    pub id: ImageId,
    /// The name, for people.
    pub name: Name,
    /// Its active layer.
    pub layer: LayerId,
    /// The mode: how it treats writes and snapshots.
    pub mode: Mode,
    /// The image it was created from, where `commit` goes.
    pub origin: Option<ImageId>,
    /// The time when it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// The marks that people put on it.
    pub marks: Marks,
    /// The immutable image whose writes this one holds; it goes when that one goes.
    pub scratch_of: Option<ImageId>,
    /// Of a scratch image: the machine whose writes it holds; none if they are no machine's.
    pub scratch_for: Option<MachineId>,
    /// Of a scratch image: whether the session is over that wrote it.
    pub is_over: bool,
    /// The format of the files that its states are imported from, as `-f` takes it: a property, not
    /// to be guessed again from what a guest wrote. None if it never came from a file, or came
    /// before this was noted.
    pub source_format: Option<Name>,
}

/// A name for a sealed layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its image.
    pub image: ImageId,
    /// Rises with every snapshot, so that the order of taking is known without a clock.
    pub serial: u64,
    /// The name, for people; unique within its image.
    pub name: Name,
    /// The sealed layer.
    pub layer: LayerId,
    /// The time when it was taken, in milliseconds since 1970.
    pub created_ms: u64,
    /// The marks that people put on it.
    pub marks: Marks,
}

/// One change of one record. A list of them is applied as a whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreeEdit {
    /// Adds or replaces a layer.
    PutLayer(Layer),
    /// Removes a layer and its pages. Nothing may refer to it.
    DropLayer(LayerId),
    /// Adds or replaces an image.
    PutImage(Image),
    /// Removes an image's name.
    DropImage(ImageId),
    /// Adds or replaces a snapshot.
    PutSnapshot(Snapshot),
    /// Removes a snapshot's name.
    DropSnapshot(ImageId, u64),
    /// Adds or replaces a machine.
    PutMachine(VirtualMachine),
    /// Removes a machine.
    DropMachine(MachineId),
    /// Adds or replaces a machine's snapshot.
    PutMachineSnapshot(VirtualMachineSnapshot),
    /// Removes a machine's snapshot, but none of its images' snapshots.
    DropMachineSnapshot(MachineId, u64),
    /// Keeps a machine's configuration file. The tree knows only its id and length.
    PutConfiguration(ConfigurationId, Arc<[u8]>),
    /// Removes a configuration file. Nothing may refer to it.
    DropConfiguration(ConfigurationId),
}

/// All layers, images, snapshots and machines of a store.
#[derive(Clone, Debug)]
pub struct Tree {
    chunk_len: ChunkLen,
    /// Shared with the readers through them.
    layers: BTreeMap<LayerId, Arc<Layer>>,
    images: BTreeMap<ImageId, Image>,
    snapshots: BTreeMap<(ImageId, u64), Snapshot>,
    image_names: BTreeMap<Name, ImageId>,
    snapshot_names: BTreeMap<(ImageId, Name), u64>,
    children: BTreeMap<LayerId, BTreeSet<LayerId>>,
    /// The number of names that stand for a layer.
    names: HashMap<LayerId, u32>,
    /// Layers in use by something that reads or builds on them: maintenance leaves them and what
    /// lies below alone.
    holds: BTreeMap<LayerId, u32>,
    machines: Machines,
    /// Rises with every change that those who list or attach images may see.
    revision: u64,
    /// The next layer id, image id or snapshot serial: one counter, so that no two things ever
    /// share a number.
    next_id: u64,
}

impl Layer {
    /// True if it holds nothing of its own.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.pages.is_empty()
    }

    /// The number of positions of page `index` at which the parent is visible through this layer.
    #[must_use]
    pub fn visible_in(&self, index: PageIndex) -> u16 {
        positions_in(self.parent_visible, index)
    }

    /// Updates the counts and the set of pages for page `index`, which changes from `old` to `new`.
    pub fn note_page(&mut self, index: PageIndex, old: &Page, new: &Page) {
        let ((old_chunks, old_zeros), (chunks, zeros)) = (old.count_entries(), new.count_entries());
        self.chunks = self.chunks + chunks - old_chunks;
        self.zeros = self.zeros + zeros - old_zeros;
        if new.is_empty() {
            self.pages.remove(index);
        } else {
            self.pages.insert(index);
        }
    }

    /// The number of positions of page `index` inside the image.
    #[must_use]
    pub fn positions_in(&self, chunk_len: ChunkLen, index: PageIndex) -> u16 {
        positions_in(chunk_len.count_for(self.len), index)
    }
}

impl PageSet {
    /// The set that holds nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A set from ranges as [`PageSet::ranges`] gives them; `None` if they are empty, touch or are
    /// out of order.
    #[must_use]
    pub fn from_ranges(ranges: Vec<(u64, u64)>) -> Option<Self> {
        let ordered = ranges.windows(2).all(|pair| pair[0].1 < pair[1].0);
        let filled = ranges.iter().all(|(start, end)| start < end);
        (ordered && filled).then_some(Self { ranges })
    }

    /// The ranges, half-open, in order, not touching.
    #[must_use]
    pub fn ranges(&self) -> &[(u64, u64)] {
        &self.ranges
    }

    /// True if it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The number of pages that it holds.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.ranges.iter().map(|(start, end)| end - start).sum()
    }

    /// True if it holds page `index`.
    #[must_use]
    pub fn contains(&self, index: PageIndex) -> bool {
        let at = self.ranges.partition_point(|(_, end)| *end <= index.0);
        self.ranges
            .get(at)
            .is_some_and(|(start, _)| *start <= index.0)
    }

    /// The pages, in order.
    pub fn iter(&self) -> impl Iterator<Item = PageIndex> + '_ {
        self.ranges
            .iter()
            .flat_map(|(start, end)| (*start..*end).map(PageIndex))
    }

    /// Adds page `index`.
    pub fn insert(&mut self, index: PageIndex) {
        if self.contains(index) {
            return;
        }
        let at = self.ranges.partition_point(|(_, end)| *end < index.0);
        let mut merged = (index.0, index.0 + 1);
        let touching = self.ranges[at..]
            .iter()
            .take_while(|(start, _)| *start <= merged.1)
            .count();
        for (start, end) in self.ranges.drain(at..at + touching) {
            merged = (merged.0.min(start), merged.1.max(end));
        }
        self.ranges.insert(at, merged);
    }

    /// Removes page `index`.
    pub fn remove(&mut self, index: PageIndex) {
        if !self.contains(index) {
            return;
        }
        let at = self.ranges.partition_point(|(_, end)| *end <= index.0);
        let (start, end) = self.ranges.remove(at);
        let parts = [(start, index.0), (index.0 + 1, end)];
        self.ranges
            .splice(at..at, parts.into_iter().filter(|(start, end)| start < end));
    }

    /// The first page at or after `from`.
    #[must_use]
    pub fn next_from(&self, from: PageIndex) -> Option<PageIndex> {
        let at = self.ranges.partition_point(|(_, end)| *end <= from.0);
        self.ranges
            .get(at)
            .map(|(start, _)| PageIndex(from.0.max(*start)))
    }

    /// Its pages from `start` on and before `end`.
    #[must_use]
    pub fn pages_within(&self, start: PageIndex, end: PageIndex) -> Self {
        let clipped = self
            .ranges
            .iter()
            .map(|range| (range.0.max(start.0), range.1.min(end.0)));
        Self {
            ranges: clipped.filter(|(start, end)| start < end).collect(),
        }
    }

    /// The pages of either set.
    #[must_use]
    pub fn union_with(&self, other: &Self) -> Self {
        Self::union_of([self, other])
    }

    /// The pages of any of `sets`. Cost: their ranges, sorted once, however many sets there are.
    #[must_use]
    pub fn union_of<'a>(sets: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut all: Vec<_> = sets
            .into_iter()
            .flat_map(|set| &set.ranges)
            .copied()
            .collect();
        all.sort_unstable();
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for (start, end) in all {
            match ranges.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => ranges.push((start, end)),
            }
        }
        Self { ranges }
    }
}

impl Tree {
    /// The tree of a new store.
    #[must_use]
    pub fn new(chunk_len: ChunkLen) -> Self {
        Self {
            chunk_len,
            layers: BTreeMap::new(),
            images: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            image_names: BTreeMap::new(),
            snapshot_names: BTreeMap::new(),
            children: BTreeMap::new(),
            names: HashMap::new(),
            holds: BTreeMap::new(),
            machines: Machines::default(),
            revision: 0,
            next_id: 1,
        }
    }

    /// The length of every chunk.
    #[must_use]
    pub fn chunk_len(&self) -> ChunkLen {
        self.chunk_len
    }

    /// A number that nothing in the store has had.
    pub fn allocate_id(&mut self) -> u64 {
        self.reserve_ids(self.next_id);
        self.next_id - 1
    }

    /// Reserves the ids up to `used`: they are never given out.
    pub fn reserve_ids(&mut self, used: u64) {
        self.next_id = self.next_id.max(used + 1);
    }

    /// The number that [`Tree::allocate_id`] gives next, to be kept with every commit.
    #[must_use]
    pub fn next_id(&self) -> u64 {
        self.next_id
    }

    /// The layer of that id.
    #[must_use]
    pub fn layer(&self, id: LayerId) -> Option<&Arc<Layer>> {
        self.layers.get(&id)
    }

    /// All layers, by id.
    pub fn layers(&self) -> impl Iterator<Item = &Arc<Layer>> {
        self.layers.values()
    }

    /// The image of that id.
    #[must_use]
    pub fn image(&self, id: ImageId) -> Option<&Image> {
        self.images.get(&id)
    }

    /// The image that has exactly that name.
    #[must_use]
    pub fn image_named(&self, name: &Name) -> Option<&Image> {
        self.images.get(self.image_names.get(name)?)
    }

    /// All images, by name.
    pub fn images(&self) -> impl Iterator<Item = &Image> {
        self.image_names.values().map(|id| &self.images[id])
    }

    /// The number of images.
    #[must_use]
    pub fn image_count(&self) -> usize {
        self.images.len()
    }

    /// The number of snapshots, of all images.
    #[must_use]
    pub fn snapshot_count(&self) -> usize {
        self.snapshots.len()
    }

    /// The snapshots of an image, in the order of taking.
    #[must_use]
    pub fn snapshots_of(&self, image: ImageId) -> impl DoubleEndedIterator<Item = &Snapshot> {
        self.snapshots
            .range((image, 0)..=(image, u64::MAX))
            .map(|(_, snapshot)| snapshot)
    }

    /// The snapshot of that image and serial.
    #[must_use]
    pub fn snapshot(&self, image: ImageId, serial: u64) -> Option<&Snapshot> {
        self.snapshots.get(&(image, serial))
    }

    /// The snapshot that has exactly that name.
    #[must_use]
    pub fn snapshot_named(&self, image: ImageId, name: &Name) -> Option<&Snapshot> {
        self.snapshots
            .get(&(image, *self.snapshot_names.get(&(image, name.clone()))?))
    }

    /// The machines.
    #[must_use]
    pub fn machines(&self) -> &Machines {
        &self.machines
    }

    /// A number that is another one after a name, a length, a mode or the list of images or
    /// snapshots changed. What is written to a disk does not change it.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The layers right above `id`.
    pub fn child_layers(&self, id: LayerId) -> impl Iterator<Item = LayerId> + '_ {
        self.children.get(&id).into_iter().flatten().copied()
    }

    /// The number of images and snapshots that stand for layer `id`.
    #[must_use]
    pub fn name_count(&self, id: LayerId) -> u32 {
        self.names.get(&id).copied().unwrap_or(0)
    }

    /// The layers from `top` down to its root. There is no cycle: every parent was sealed before
    /// its child was made.
    pub fn chain_from(&self, top: LayerId) -> impl Iterator<Item = &Arc<Layer>> {
        std::iter::successors(self.layers.get(&top), |layer| {
            self.layers.get(&layer.parent?)
        })
    }

    /// Keeps maintenance away from `layer` and all below until as many [`Tree::release_layer`]s.
    pub fn hold_layer(&mut self, layer: LayerId) {
        *self.holds.entry(layer).or_default() += 1;
    }

    /// Ends one [`Tree::hold_layer`].
    pub fn release_layer(&mut self, layer: LayerId) {
        let count = self
            .holds
            .get_mut(&layer)
            .expect("a layer is released as often as it was held");
        *count -= 1;
        if *count == 0 {
            self.holds.remove(&layer);
        }
    }

    /// True if `layer` itself is held.
    #[must_use]
    pub fn is_held(&self, layer: LayerId) -> bool {
        self.holds.contains_key(&layer)
    }

    /// Applies edits that are durable. Panics if one refers to what is not there: plans are made
    /// under the same lock.
    pub fn apply_edits(&mut self, edits: &[TreeEdit]) {
        edits.iter().for_each(|edit| self.apply_one(edit));
    }

    fn apply_one(&mut self, edit: &TreeEdit) {
        self.revision += u64::from(self.is_seen(edit));
        match edit {
            TreeEdit::PutLayer(layer) => self.put_layer(layer.clone()),
            TreeEdit::DropLayer(id) => self.drop_layer(*id),
            TreeEdit::PutImage(image) => self.put_image(image.clone()),
            TreeEdit::DropImage(id) => self.drop_image(*id),
            TreeEdit::PutSnapshot(snapshot) => self.put_snapshot(snapshot.clone()),
            TreeEdit::DropSnapshot(image, serial) => self.drop_snapshot(*image, *serial),
            TreeEdit::PutMachine(machine) => {
                self.reserve_ids(machine.id.0);
                self.machines.put_machine(machine.clone());
            }
            TreeEdit::DropMachine(id) => self.machines.remove(*id),
            TreeEdit::PutMachineSnapshot(snapshot) => {
                self.reserve_ids(snapshot.serial);
                self.machines.put_snapshot(snapshot.clone());
            }
            TreeEdit::DropMachineSnapshot(id, serial) => {
                self.machines.remove_snapshot(*id, *serial);
            }
            TreeEdit::PutConfiguration(id, _) => self.reserve_ids(id.0),
            TreeEdit::DropConfiguration(_) => {}
        }
    }

    /// True if `edit` changes what [`Tree::revision`] watches over: everything but layers that keep
    /// their length.
    fn is_seen(&self, edit: &TreeEdit) -> bool {
        match edit {
            TreeEdit::PutLayer(layer) => self
                .layers
                .get(&layer.id)
                .is_some_and(|old| old.len != layer.len),
            TreeEdit::DropLayer(_) => false,
            _ => true,
        }
    }

    fn put_layer(&mut self, layer: Layer) {
        self.reserve_ids(layer.id.0);
        let old_parent = self.layers.get(&layer.id).and_then(|old| old.parent);
        if old_parent != layer.parent {
            self.unlink_child(old_parent, layer.id);
        }
        if let Some(parent) = layer.parent {
            self.children.entry(parent).or_default().insert(layer.id);
        }
        self.layers.insert(layer.id, Arc::new(layer));
    }

    fn drop_layer(&mut self, id: LayerId) {
        let layer = self
            .layers
            .remove(&id)
            .expect("a layer that is dropped is there");
        self.unlink_child(layer.parent, id);
    }

    fn unlink_child(&mut self, parent: Option<LayerId>, child: LayerId) {
        let Some(parent) = parent else { return };
        if let Some(siblings) = self.children.get_mut(&parent) {
            siblings.remove(&child);
            if siblings.is_empty() {
                self.children.remove(&parent);
            }
        }
    }

    fn put_image(&mut self, image: Image) {
        self.drop_image(image.id);
        self.reserve_ids(image.id.0);
        *self.names.entry(image.layer).or_default() += 1;
        self.image_names.insert(image.name.clone(), image.id);
        self.images.insert(image.id, image);
    }

    fn drop_image(&mut self, id: ImageId) {
        if let Some(old) = self.images.remove(&id) {
            self.image_names.remove(&old.name);
            self.remove_name(old.layer);
        }
    }

    fn put_snapshot(&mut self, snapshot: Snapshot) {
        self.drop_snapshot(snapshot.image, snapshot.serial);
        self.reserve_ids(snapshot.serial);
        *self.names.entry(snapshot.layer).or_default() += 1;
        self.snapshot_names
            .insert((snapshot.image, snapshot.name.clone()), snapshot.serial);
        self.snapshots
            .insert((snapshot.image, snapshot.serial), snapshot);
    }

    fn drop_snapshot(&mut self, image: ImageId, serial: u64) {
        if let Some(old) = self.snapshots.remove(&(image, serial)) {
            self.snapshot_names.remove(&(image, old.name));
            self.remove_name(old.layer);
        }
    }

    fn remove_name(&mut self, layer: LayerId) {
        let count = self
            .names
            .get_mut(&layer)
            .expect("a name's layer is counted");
        *count -= 1;
        if *count == 0 {
            self.names.remove(&layer);
        }
    }
}

#[cfg(test)]
mod page_set_tests {
    use super::*;

    #[test]
    fn page_sets_agree_with_a_plain_set() {
        let mut random = fastrand::Rng::with_seed(3);
        let (mut set, mut model) = (PageSet::new(), BTreeSet::new());
        for _ in 0..2000 {
            let index = random.u64(..60);
            if random.bool() {
                set.insert(PageIndex(index));
                model.insert(index);
            } else {
                set.remove(PageIndex(index));
                model.remove(&index);
            }
            assert!(set.iter().map(|index| index.0).eq(model.iter().copied()));
            assert_eq!(
                PageSet::from_ranges(set.ranges().to_vec()).as_ref(),
                Some(&set)
            );
            assert_eq!(set.len(), model.len() as u64);
        }
    }
}
