//! Builds the layers of a forest, and gives them, and the images and machines that show them, their
//! names as one change: nothing can be seen of it before all of it is durable.
//!
//! A layer that the store has already is not stored again. Identities of files only say which file
//! is whose parent: a disk keeps its UUID when something writes to it, so content decides. The
//! chunks of a file get the ids that they have, so two layers of the same length on the same parent
//! show the same bytes if their maps are equal.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use vellum_core::name::Name;
use vellum_core::tree::{
    Arrival, ArrivingSnapshot, ChainUpdate, Layer, NodeRef, PlanError, TreeEdit,
};
use vellum_core::units::{ImageId, LayerId};

use super::build::LayerMapBuilder;
use super::forest::{ForestLayer, LayerForest};
use super::{ImportOptions, OnlyCancelled, read_and_build};
use crate::chunks::{DedupSession, SessionCounts};
use crate::clock::now_ms;
use crate::collect::CollectOptions;
use crate::database::Batch;
use crate::disk::Disk;
use crate::error::StoreError;
use crate::image_input::ImageInput;
use crate::store::Store;
use crate::store::holds::{LayerHold, UnfinishedLayer};
use crate::usage_history::entry::UsageEntry;
use crate::watch::{Progress, Watch};

/// Result of building one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerReport {
    /// The disk's length.
    pub len: u64,
    /// True if the store had the layer already.
    pub is_known: bool,
    /// Bytes that were not zero and had to be looked at.
    pub read_bytes: u64,
    /// Chunks that are as in the parent.
    pub same: u64,
    /// Chunks that were in the store already.
    pub known: u64,
    /// Chunks that were not.
    pub new: u64,
    /// Chunks that were in the store, damaged, and are whole again.
    pub healed: u64,
}

/// Layers that are stored and have no names yet: they go unless they get some.
pub struct BuiltForest<'s> {
    store: &'s Store,
    session: DedupSession<'s>,
    buildings: Vec<UnfinishedLayer>,
    /// Layers that were built, and are to be kept.
    built: Vec<Arc<Layer>>,
    /// The place of each among those.
    places: HashMap<LayerId, usize>,
    /// Layers that are used as they are.
    holds: BTreeMap<LayerId, LayerHold>,
    /// The layer at each place.
    ids: Vec<LayerId>,
    reports: Vec<LayerReport>,
    is_done: bool,
}

/// Progress of one layer among all.
struct ProgressShare<'w> {
    watch: &'w dyn Watch,
    before: u64,
    total: u64,
}

impl Store {
    /// Stores the layers of `forest`, those that the store has not; they get names from
    /// [`BuiltForest::commit_arrival`] or [`BuiltForest::update_image`]. One for which there is no
    /// room gives back what it took.
    pub fn build_forest(
        &self,
        forest: LayerForest,
        options: ImportOptions,
        watch: &dyn Watch,
    ) -> Result<BuiltForest<'_>, StoreError> {
        self.check_writable()?;
        let mut session = self.inner.chunks.open_session();
        if options.verify {
            session.verify_all();
        }
        let mut built = BuiltForest {
            store: self,
            session,
            buildings: Vec::new(),
            built: Vec::new(),
            places: HashMap::new(),
            holds: BTreeMap::new(),
            ids: Vec::new(),
            reports: Vec::new(),
            is_done: false,
        };
        let done = built.build_all(forest, watch);
        if matches!(done, Err(StoreError::Full { .. })) {
            drop(built);
            // If this fails, the next collection does it.
            let _ = self.collect(CollectOptions::default(), &OnlyCancelled(watch));
            return Err(done.expect_err("it is full"));
        }
        done.map(|()| built)
    }
}

impl BuiltForest<'_> {
    /// The layer at each place of the forest.
    #[must_use]
    pub fn layer_ids(&self) -> &[LayerId] {
        &self.ids
    }

    /// Result of building each layer, in the order of the forest.
    #[must_use]
    pub fn layer_reports(&self) -> &[LayerReport] {
        &self.reports
    }

    fn build_all(&mut self, forest: LayerForest, watch: &dyn Watch) -> Result<(), StoreError> {
        let total = forest.layers.iter().map(|layer| layer.image.len()).sum();
        let mut before = 0;
        for layer in forest.layers {
            let share = ProgressShare {
                watch,
                before,
                total,
            };
            before += layer.image.len();
            self.build_layer(layer, &share)?;
        }
        Ok(())
    }

    /// Stores one layer, or finds it.
    fn build_layer(&mut self, layer: ForestLayer, watch: &dyn Watch) -> Result<(), StoreError> {
        let parent = layer.parent.map(|place| self.ids[place]);
        if parent.is_some() {
            // Chunks that the parent has in part are completed from it, and may be on their way.
            self.store.inner.chunks.wait_for_all()?;
        }
        let base = parent.map(|id| self.layer_disk(id, &layer.name));
        let building = self.store.build_layer();
        let chunk_len = self.store.parameters().chunk_len;
        let mut input = ImageInput::of_guarded(layer.image, layer.name, layer.guard);
        let session = std::mem::replace(&mut self.session, self.store.inner.chunks.open_session());
        let before = session.counts;
        let mut builder = LayerMapBuilder::new(
            Arc::clone(&self.store.inner.database),
            chunk_len,
            building.layer,
            base,
            session,
            input.spare_buffers(),
        );
        self.buildings.push(building);
        read_and_build(&mut input, &mut builder, chunk_len, watch)?;
        let len = input.finish_reading()?;
        let (built, ties) = builder.finish_map(len, layer.changed_ms)?;
        self.session = ties.session;
        let counts = self.session.counts;
        let sealed = Layer {
            sealed: true,
            ..built.layer
        };
        let twin = self.twin_of(&sealed)?;
        let is_known = twin.is_some_and(|twin| self.holds.contains_key(&twin));
        if let Some(twin) = twin {
            self.ids.push(twin);
            let unused = self.buildings.pop().expect("it was just begun");
            self.store.forget_pages(&unused, !sealed.pages.is_empty());
        } else {
            self.ids.push(sealed.id);
            self.places.insert(sealed.id, self.built.len());
            self.built.push(Arc::new(sealed));
        }
        let since = |count: fn(&SessionCounts) -> u64| count(&counts) - count(&before);
        self.reports.push(LayerReport {
            len,
            is_known,
            read_bytes: built.positions.read_bytes,
            same: built.positions.same,
            known: since(|counts| counts.known) - built.positions.same,
            new: since(|counts| counts.new),
            healed: since(|counts| counts.healed),
        });
        Ok(())
    }

    /// A layer that was built here and is to be kept.
    fn own_layer(&self, id: LayerId) -> Option<&Arc<Layer>> {
        self.places.get(&id).map(|place| &self.built[*place])
    }

    /// A disk of a layer that was built here, or is held.
    fn layer_disk(&self, id: LayerId, name: &str) -> Disk {
        let (mut chain, mut next) = (Vec::new(), Some(id));
        while let Some(own) = next.and_then(|id| self.own_layer(id)) {
            chain.push(Arc::clone(own));
            next = own.parent;
        }
        if let Some(id) = next {
            chain.extend(self.store.tree().chain_from(id).map(Arc::clone));
        }
        Disk::of_chain(self.store, name.to_owned(), chain)
    }

    /// A layer with the same parent and the same map: its content is the same.
    fn twin_of(&mut self, layer: &Layer) -> Result<Option<LayerId>, StoreError> {
        if let Some(parent) = layer.parent.filter(|_| layer.is_blank()) {
            let len = self.len_of(parent);
            let shows_all = self.store.parameters().chunk_len.count_for(layer.len);
            if len == Some(layer.len) && layer.parent_visible == shows_all {
                return Ok(Some(parent));
            }
        }
        for own in &self.built {
            if looks_like(own, layer) && self.has_same_map(own, layer)? {
                return Ok(Some(own.id));
            }
        }
        let candidates: Vec<Layer> = {
            let tree = self.store.tree();
            let alike = tree.layers().filter(|found| looks_like(found, layer));
            alike.map(|found| Layer::clone(found)).collect()
        };
        for candidate in candidates {
            let hold = {
                let mut tree = self.store.tree_mut();
                let is_there = tree.layer(candidate.id).is_some();
                is_there.then(|| self.store.hold_layers(&mut tree, candidate.id))
            };
            let Some(hold) = hold else { continue };
            if !self.has_same_map(&candidate, layer)? {
                continue;
            }
            let is_usable = candidate.sealed || self.seal_active_layer(&candidate, layer)?;
            if is_usable {
                self.holds.insert(candidate.id, hold);
                return Ok(Some(candidate.id));
            }
        }
        Ok(None)
    }

    fn len_of(&self, id: LayerId) -> Option<u64> {
        let own = self.own_layer(id).map(|layer| layer.len);
        own.or_else(|| Some(self.store.tree().layer(id)?.len))
    }

    /// Seals the active layer of an image, if it still is as `wanted` when it is sealed.
    fn seal_active_layer(&self, candidate: &Layer, wanted: &Layer) -> Result<bool, StoreError> {
        let image = {
            let tree = self.store.tree();
            let is_its = tree.images().find(|image| image.layer == candidate.id);
            is_its.map(|image| image.id)
        };
        let is_written = |image: &ImageId| self.store.busy_images().contains(image);
        let Some(image) = image.filter(|image| !is_written(image)) else {
            return Ok(false);
        };
        let disk = self.store.sealed_base(NodeRef::Image(image))?;
        match disk.chain().first() {
            Some(sealed) if sealed.id == candidate.id && looks_like(sealed, wanted) => {
                self.has_same_map(sealed, wanted)
            }
            _ => Ok(false),
        }
    }

    fn has_same_map(&self, one: &Layer, other: &Layer) -> Result<bool, StoreError> {
        let pages = &self.store.inner.pages;
        for index in one.pages.iter() {
            let mine = match pages.own_page(one, index) {
                // Damage is a reason to store it again.
                Err(StoreError::Damaged(_)) => return Ok(false),
                page => page?,
            };
            if mine != pages.own_page(other, index)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Gives the layers their names: `arrival`, whose own layers are left out, with the format that
    /// each image comes from.
    pub fn commit_arrival(
        mut self,
        arrival: Arrival,
        formats: &[Option<Name>],
    ) -> Result<Vec<NodeRef>, StoreError> {
        self.settle_chunks()?;
        let arrival = Arrival {
            layers: self.clone_layers(),
            ..arrival
        };
        let mut tree = self.store.tree_mut();
        let (nodes, mut edits) = tree.plan_receive(&arrival, now_ms())?;
        for edit in &mut edits {
            let TreeEdit::PutImage(image) = edit else {
                continue;
            };
            let place = nodes
                .iter()
                .position(|node| *node == NodeRef::Image(image.id));
            let format = place.and_then(|place| formats.get(place));
            image.source_format = format.cloned().flatten();
        }
        let mut batch = Batch::default();
        if let (Some(node), Some(image)) = (nodes.first(), arrival.images.first()) {
            self.record_growth(
                "import",
                node.image_id(),
                image.name.to_string(),
                &mut batch,
            );
        }
        self.store.commit_batch(&mut tree, &edits, batch)?;
        drop(tree);
        self.is_done = true;
        Ok(nodes)
    }

    /// Makes `image` as layer `top` is, with new snapshots.
    pub fn update_image(
        mut self,
        image: ImageId,
        top: LayerId,
        snapshots: Vec<ArrivingSnapshot>,
        format: Option<&Name>,
    ) -> Result<(), StoreError> {
        let _exclusive = self.store.lock_image(image)?;
        self.settle_chunks()?;
        let update = ChainUpdate {
            layers: self.clone_layers(),
            top,
            snapshots,
        };
        let mut tree = self.store.tree_mut();
        let mut edits = tree.plan_chain_update(image, &update, now_ms())?;
        let mut noted = tree.image(image).ok_or(PlanError::Gone)?.clone();
        for edit in &mut edits {
            if let TreeEdit::PutImage(put) = edit {
                put.source_format = format.cloned();
                noted = put.clone();
            }
        }
        if noted.source_format.as_ref() != format {
            noted.source_format = format.cloned();
            edits.push(TreeEdit::PutImage(noted));
        }
        let mut batch = Batch::default();
        let name = tree.display_name(NodeRef::Image(image));
        self.record_growth("update", image, name, &mut batch);
        if !edits.is_empty() {
            self.store.commit_batch(&mut tree, &edits, batch)?;
        }
        drop(tree);
        self.is_done = true;
        Ok(())
    }

    fn clone_layers(&self) -> Vec<Layer> {
        let own = self.built.iter();
        own.map(|layer| Layer::clone(layer)).collect()
    }

    fn settle_chunks(&self) -> Result<(), StoreError> {
        // The first was begun before anything was written.
        match self.buildings.first() {
            Some(first) => self.store.inner.chunks.make_durable(first.generation),
            None => self.session.make_durable(),
        }
    }

    /// One entry for all that came as one.
    fn record_growth(&self, what: &str, image: ImageId, name: String, batch: &mut Batch) {
        let layer = match self.built.as_slice() {
            [only] => Some(only.id),
            _ => None,
        };
        let entry = UsageEntry::new(what, image, name, layer, self.session.added_totals());
        let inner = &self.store.inner;
        inner.journal.note_entry(&inner.database, batch, &entry);
    }
}

/// True if a look at the maps is worth it.
fn looks_like(one: &Layer, other: &Layer) -> bool {
    one.parent == other.parent
        && one.len == other.len
        && one.parent_visible == other.parent_visible
        && one.chunks == other.chunks
        && one.zeros == other.zeros
        && one.pages == other.pages
        && one.id != other.id
}

impl Drop for BuiltForest<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.buildings
                .iter()
                .for_each(|building| self.store.forget_pages(building, true));
        }
    }
}

impl Watch for ProgressShare<'_> {
    fn report_progress(&self, progress: Progress) {
        self.watch.report_progress(Progress {
            done: self.before + progress.done,
            total: Some(self.total),
        });
    }

    fn is_cancelled(&self) -> bool {
        self.watch.is_cancelled()
    }
}
