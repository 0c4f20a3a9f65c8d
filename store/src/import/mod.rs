//! Import: reads a source's content into a new layer.
//!
//! A reader runs ahead (`prepare`) while names are looked up and the map is built here (`build`)
//! and the chunk store compresses and writes. Nothing is named until everything is durable: a
//! failure or a crash at any point leaves at most chunks and pages that the next collection takes
//! away.

mod appliance;
mod build;
mod build_forest;
mod forest;
mod parent_search;
mod parents;
mod prepare;

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use vellum_core::name::Name;
use vellum_core::tree::{Layer, NodeRef};
use vellum_core::units::{ChunkLen, ImageId};

pub use appliance::description_in_archive;
pub use build_forest::{BuiltForest, LayerReport};
pub use forest::{ForestLayer, LayerForest};
pub use parents::{ChainFinder, ChainedFile};

use build::{LayerMapBuilder, PositionTally};
use prepare::{PIECES_AHEAD, read_all};

use crate::chunks::SessionCounts;
use crate::clock::now_ms;
use crate::collect::CollectOptions;
use crate::database::{Batch, Durability};
use crate::disk::Disk;
use crate::error::StoreError;
use crate::image_input::ImageInput;
use crate::store::Store;
use crate::store::holds::{ImageLock, UnfinishedLayer};
use crate::usage_history::entry::{Added, UsageEntry};
use crate::watch::{Progress, Watch};

/// Target of an import.
#[derive(Clone, Debug)]
pub enum ImportTarget {
    /// A new image, on a parent if there is one: then only what differs from the parent is kept in
    /// its layer.
    New {
        /// Its name.
        name: Name,
        /// Its parent.
        parent: Option<NodeRef>,
    },
    /// The new state of an image that is there.
    Update(ImageId),
}

/// Request for an import.
#[derive(Clone, Debug)]
pub struct ImportRequest {
    /// The image that is created or updated.
    pub target: ImportTarget,
    /// A snapshot to take of the result, in the same moment.
    pub snapshot: Option<Name>,
}

/// Options of an import.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImportOptions {
    /// Read what the store seems to have before it is believed: each frame once. What is damaged is
    /// written again.
    pub verify: bool,
}

/// Result of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImportReport {
    /// The image, or its snapshot if one was asked for.
    pub node: NodeRef,
    /// The disk's length.
    pub len: u64,
    /// Bytes that were not zero and had to be looked at.
    pub read_bytes: u64,
    /// Chunks that are as in the parent, or as before.
    pub same: u64,
    /// Chunks that were in the store already.
    pub known: u64,
    /// Chunks that were not.
    pub new: u64,
    /// Bytes of those.
    pub new_bytes: u64,
    /// Chunks that were in the store, damaged, and are whole again: for every image that has them.
    pub healed: u64,
}

/// Watches nothing but whether it is time to stop.
struct OnlyCancelled<'w>(&'w dyn Watch);

impl Watch for OnlyCancelled<'_> {
    fn report_progress(&self, _: Progress) {}

    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// State that an import builds on, and the right that keeps it from changing meanwhile.
struct ImportBase {
    disk: Option<Disk>,
    origin: Option<ImageId>,
    _exclusive: Option<ImageLock>,
}

/// Origin of an imported state.
struct Provenance {
    /// The image that it was held against.
    origin: Option<ImageId>,
    /// The format of its file.
    format: Option<Name>,
}

impl Store {
    /// Imports `input`. Nothing can be seen of it until it is complete and durable; then all of it,
    /// and its snapshot, at once. One for which there is no room gives back what it took.
    pub fn import(
        &self,
        input: ImageInput,
        request: &ImportRequest,
        watch: &dyn Watch,
    ) -> Result<ImportReport, StoreError> {
        self.import_with(input, request, ImportOptions::default(), watch)
    }

    /// Imports as [`Store::import`], with options.
    pub fn import_with(
        &self,
        input: ImageInput,
        request: &ImportRequest,
        options: ImportOptions,
        watch: &dyn Watch,
    ) -> Result<ImportReport, StoreError> {
        let imported = self.import_whole(input, request, options, watch);
        if matches!(imported, Err(StoreError::Full { .. })) {
            // Others need the room that it took. What fails here is done by the next collection.
            let _ = self.collect(CollectOptions::default(), &OnlyCancelled(watch));
        }
        imported
    }

    fn import_whole(
        &self,
        mut input: ImageInput,
        request: &ImportRequest,
        options: ImportOptions,
        watch: &dyn Watch,
    ) -> Result<ImportReport, StoreError> {
        self.check_writable()?;
        let base = self.import_base(request)?;
        let building = self.build_layer();
        let chunk_len = self.parameters().chunk_len;
        let database = Arc::clone(&self.inner.database);
        let mut session = self.inner.chunks.open_session();
        if options.verify {
            session.verify_all();
        }
        let mut builder = LayerMapBuilder::new(
            database,
            chunk_len,
            building.layer,
            base.disk,
            session,
            input.spare_buffers(),
        );
        let built = read_and_build(&mut input, &mut builder, chunk_len, watch)
            .and_then(|()| input.finish_reading());
        let result = match built {
            Ok(len) => builder.finish_map(len, now_ms()).and_then(|(built, ties)| {
                // Chunks that were written since the layer was begun, which was before all else.
                self.inner.chunks.make_durable(building.generation)?;
                let source = Provenance {
                    origin: base.origin,
                    format: input
                        .format()
                        .and_then(|format| Name::new(format.format_name()).ok()),
                };
                let node =
                    self.commit_import(request, source, built.layer, ties.session.added_totals())?;
                drop(ties);
                Ok(import_report(
                    node,
                    len,
                    built.positions,
                    built.counts,
                    chunk_len,
                ))
            }),
            Err(error) => {
                self.forget_pages(&building, builder.has_written());
                Err(error)
            }
        };
        drop(building);
        result
    }

    /// Checks early what can be checked, and finds (or seals) the layer to build on.
    fn import_base(&self, request: &ImportRequest) -> Result<ImportBase, StoreError> {
        let (parent, exclusive) = match &request.target {
            ImportTarget::New { name, parent } => {
                self.tree().check_free(name)?;
                parent.map_or(Ok(()), |parent| self.tree().check_parent(parent.image_id()))?;
                (*parent, None)
            }
            ImportTarget::Update(image) => {
                self.tree()
                    .check_update(*image, request.snapshot.as_ref())?;
                (Some(NodeRef::Image(*image)), Some(self.lock_image(*image)?))
            }
        };
        let Some(parent) = parent else {
            return Ok(ImportBase {
                disk: None,
                origin: None,
                _exclusive: None,
            });
        };
        Ok(ImportBase {
            disk: Some(self.sealed_base(parent)?),
            origin: Some(parent.image_id()),
            _exclusive: exclusive,
        })
    }

    /// Gives a finished layer its names: the moment in which the import happens.
    fn commit_import(
        &self,
        request: &ImportRequest,
        source: Provenance,
        layer: Layer,
        added: Added,
    ) -> Result<NodeRef, StoreError> {
        let mut tree = self.tree_mut();
        let (id, snapshot) = (layer.id, request.snapshot.as_ref());
        let planned = match &request.target {
            ImportTarget::New { name, .. } => {
                tree.plan_import(name, layer, source.origin, snapshot, now_ms())?
            }
            ImportTarget::Update(image) => tree.plan_update(*image, layer, snapshot, now_ms())?,
        };
        let planned = planned.with_source_format(source.format.as_ref());
        let image = planned.node.image_id();
        let entry = match &request.target {
            // The tree does not know it yet.
            ImportTarget::New { name, .. } => {
                UsageEntry::new("import", image, name.to_string(), Some(id), added)
            }
            ImportTarget::Update(_) => UsageEntry::new(
                "update",
                image,
                tree.display_name(NodeRef::Image(image)),
                Some(id),
                added,
            ),
        };
        let mut batch = Batch::default();
        self.inner
            .journal
            .note_entry(&self.inner.database, &mut batch, &entry);
        self.commit_batch(&mut tree, &planned.edits, batch)?;
        Ok(planned.node)
    }

    /// Takes away the pages of an import that failed. If this fails as well, the next collection
    /// does it.
    pub(crate) fn forget_pages(&self, building: &UnfinishedLayer, has_written: bool) {
        if has_written {
            let mut batch = Batch::default();
            batch.delete_pages(building.layer);
            let _ = self.inner.database.write_batch(batch, Durability::Bulk);
        }
    }
}

/// Reads on one thread, hashes on all, builds on this one.
fn read_and_build(
    input: &mut ImageInput,
    builder: &mut LayerMapBuilder<'_>,
    chunk_len: ChunkLen,
    watch: &dyn Watch,
) -> Result<(), StoreError> {
    let total = input.len();
    std::thread::scope(|scope| {
        let (sender, pieces) = sync_channel(PIECES_AHEAD);
        scope.spawn(move || read_all(input, chunk_len, &sender));
        for piece in pieces {
            let done = builder.add_piece(piece?)?;
            watch.report_progress(Progress {
                done: total.map_or(done, |total| done.min(total)),
                total,
            });
            if watch.is_cancelled() {
                return Err(StoreError::Interrupted);
            }
        }
        Ok(())
    })
}

fn import_report(
    node: NodeRef,
    len: u64,
    positions: PositionTally,
    counts: SessionCounts,
    chunk_len: ChunkLen,
) -> ImportReport {
    ImportReport {
        node,
        len,
        read_bytes: positions.read_bytes,
        same: positions.same,
        known: counts.known - positions.same,
        new: counts.new,
        new_bytes: counts.new * chunk_len.byte_len(),
        healed: counts.healed,
    }
}
