//! Receipt of content: takes chunks, then maps, then names. Nothing of it can be seen before all of
//! it is durable; a crash leaves garbage that the next collection takes away.
//!
//! The sender may be wrong or hostile. Chunks come as [`VerifiedChunks`] only, which cannot be made
//! of bytes that do not have their names. Maps name chunks by the ids that this receipt gave for
//! them.

use std::collections::{BTreeMap, HashMap};

use vellum_core::frame::{FrameCodec, PLAIN_LEN_MAX};
use vellum_core::hash::{ChunkHash, hash_chunks};
use vellum_core::id_set::IdSet;
use vellum_core::identity::ContentId;
use vellum_core::page::{Page, PageEntry};
use vellum_core::tree::{Arrival, ArrivingSnapshot, ChainUpdate, Layer, NodeRef, TreeEdit};
use vellum_core::units::{
    ChunkCount, ChunkId, ChunkLen, IMAGE_LEN_MAX, ImageId, LayerId, PageIndex,
};

use crate::chunks::{ChunkCandidate, DedupSession};
use crate::clock::now_ms;
use crate::codec;
use crate::database::{Batch, Durability};
use crate::disk::Disk;
use crate::error::StoreError;
use crate::layer_writer::LayerWriter;
use crate::store::Store;
use crate::store::holds::{LayerHold, UnfinishedLayer};
use crate::usage_history::entry::UsageEntry;

/// Bytes of pages that are gathered for one batch.
const BATCH_LEN: usize = 1 << 20;

/// Chunks whose bytes have their names.
pub struct VerifiedChunks {
    names: Vec<ChunkHash>,
    plain: Vec<u8>,
    chunk_len: usize,
}

/// An image that is there and becomes as what came.
#[derive(Clone, Debug)]
pub struct FollowedImage {
    /// The image.
    pub id: ImageId,
    /// The layer that shows its new state.
    pub top: LayerId,
    /// Its new snapshots, the oldest first.
    pub snapshots: Vec<ArrivingSnapshot>,
}

/// Something on its way into a store.
pub struct ReceiveTransaction<'s> {
    store: &'s Store,
    session: DedupSession<'s>,
    /// The layers of this store whose content is known, and those that were built here.
    layers: HashMap<ContentId, LayerId>,
    /// Layers that are used as they are.
    holds: BTreeMap<LayerId, LayerHold>,
    buildings: Vec<UnfinishedLayer>,
    built: Vec<Layer>,
    /// The layer that is being built.
    open: Option<LayerWriter>,
    batch: Batch,
    is_done: bool,
}

impl VerifiedChunks {
    /// The chunks that `payload` decodes to, if they are `names`. The cost is that of decoding and
    /// hashing: free of any lock.
    pub fn decode_frame(
        chunk_len: ChunkLen,
        names: Vec<ChunkHash>,
        codec: FrameCodec,
        payload: &[u8],
    ) -> Result<Self, String> {
        let plain_len = names.len() as u64 * chunk_len.byte_len();
        if names.is_empty() || plain_len > u64::from(PLAIN_LEN_MAX) {
            return Err(format!("{} chunks in one frame", names.len()));
        }
        Self::of_plain(
            chunk_len,
            names,
            codec::decompress_frame(codec, payload, plain_len as usize)?,
        )
    }

    /// Chunks whose bytes follow each other in `plain`, if they are `names`. The cost is that of
    /// hashing.
    pub fn of_plain(
        chunk_len: ChunkLen,
        names: Vec<ChunkHash>,
        plain: Vec<u8>,
    ) -> Result<Self, String> {
        let len = chunk_len.as_usize();
        if names.is_empty() || plain.len() != names.len() * len {
            return Err(format!("{} bytes for {} chunks", plain.len(), names.len()));
        }
        let chunks: Vec<&[u8]> = plain.chunks_exact(len).collect();
        let wrong = names
            .iter()
            .zip(hash_chunks(&chunks))
            .find(|(name, found)| *name != found);
        match wrong {
            Some((name, _)) => Err(format!("the bytes of chunk {name} do not have its name")),
            None => Ok(Self {
                names,
                plain,
                chunk_len: len,
            }),
        }
    }

    /// Their names, in order.
    #[must_use]
    pub fn names(&self) -> &[ChunkHash] {
        &self.names
    }

    /// The bytes of the chunk at `place`.
    #[must_use]
    pub fn chunk_bytes(&self, place: usize) -> &[u8] {
        &self.plain[place * self.chunk_len..][..self.chunk_len]
    }
}

impl Store {
    /// Begins to take something in.
    pub fn begin_receive(&self) -> Result<ReceiveTransaction<'_>, StoreError> {
        self.check_writable()?;
        let tree = self.tree();
        let layers = tree
            .layers()
            .filter_map(|layer| Some((layer.content?, layer.id)))
            .collect();
        drop(tree);
        Ok(ReceiveTransaction {
            store: self,
            session: self.inner.chunks.open_session(),
            layers,
            holds: BTreeMap::new(),
            buildings: Vec::new(),
            built: Vec::new(),
            open: None,
            batch: Batch::default(),
            is_done: false,
        })
    }
}

impl ReceiveTransaction<'_> {
    /// The layer that shows `content`, if there is one: it is kept as long as this receipt lives.
    pub fn layer_showing(&mut self, content: ContentId) -> Option<LayerId> {
        let id = *self.layers.get(&content)?;
        if self.built.iter().any(|layer| layer.id == id) || self.holds.contains_key(&id) {
            return Some(id);
        }
        let hold = {
            let mut tree = self.store.tree_mut();
            // It may have become part of another since the receipt began.
            let is_there = tree
                .layer(id)
                .is_some_and(|layer| layer.content == Some(content));
            is_there.then(|| self.store.hold_layers(&mut tree, id))
        };
        match hold {
            Some(hold) => _ = self.holds.insert(id, hold),
            None => _ = self.layers.remove(&content),
        }
        self.layers.get(&content).copied()
    }

    /// Makes the receipt believe no chunk of the store readable before it was read, from now on.
    pub fn verify_chunks(&mut self) {
        self.session.verify_all();
    }

    /// True if all that [`ReceiveTransaction::layer_showing`] gives for `content` can be read, as
    /// far as is known; doubted chunks are read, and mended if possible. If not, the layer counts
    /// as missing from now on, so that `content` can be built anew. Costs nothing where nothing is
    /// doubted, and else a look at its map.
    pub fn can_rely_on(&mut self, content: ContentId) -> Result<bool, StoreError> {
        let Some(layer) = self.layer_showing(content) else {
            return Ok(false);
        };
        if self.session.believes_all() || self.built.iter().any(|built| built.id == layer) {
            return Ok(true);
        }
        let disk = {
            let mut tree = self.store.tree_mut();
            self.store
                .disk_at(&mut tree, layer, format!("content {content}"))
        };
        let is_readable = match chunks_of(&disk) {
            Ok(ids) => self.session.unreadable_refs(&ids)?.is_empty(),
            Err(StoreError::Damaged(_)) => false,
            Err(error) => return Err(error),
        };
        if !is_readable {
            self.layers.remove(&content);
        }
        Ok(is_readable)
    }

    /// The number of chunks that were damaged and are whole again.
    #[must_use]
    pub fn healed_count(&self) -> u64 {
        self.session.counts.healed
    }

    /// The length of a layer that [`ReceiveTransaction::layer_showing`] or
    /// [`ReceiveTransaction::end_layer`] gave.
    fn layer_len(&self, id: LayerId) -> Option<u64> {
        let built = self
            .built
            .iter()
            .find(|layer| layer.id == id)
            .map(|layer| layer.len);
        built.or_else(|| self.store.tree().layer(id).map(|layer| layer.len))
    }

    /// The ids of those of `names` that the store has: they stay as long as this receipt lives.
    pub fn find_chunks(&mut self, names: &[ChunkHash]) -> Result<Vec<Option<ChunkId>>, StoreError> {
        self.session.find_ids(names)
    }

    /// Stores `chunks`; the id of each. What the store has is not stored again.
    pub fn store_chunks(&mut self, chunks: &VerifiedChunks) -> Result<Vec<ChunkId>, StoreError> {
        let candidate = |(place, hash): (usize, &ChunkHash)| ChunkCandidate {
            hash: *hash,
            plain: chunks.chunk_bytes(place),
            guess: None,
        };
        let candidates: Vec<ChunkCandidate<'_>> =
            chunks.names.iter().enumerate().map(candidate).collect();
        self.session.store_chunks(&candidates)
    }

    /// The number of chunks that were stored, and of those that were there.
    #[must_use]
    pub fn chunk_counts(&self) -> (u64, u64) {
        (self.session.counts.new, self.session.counts.known)
    }

    /// Begins the layer that shows `content`: of `len` bytes, over `parent`, of which at most
    /// `parent_visible` positions are seen.
    pub fn begin_layer(
        &mut self,
        content: ContentId,
        parent: Option<LayerId>,
        len: u64,
        parent_visible: ChunkCount,
    ) -> Result<(), StoreError> {
        assert!(self.open.is_none(), "one layer after the other");
        if len > IMAGE_LEN_MAX {
            return Err(vellum_core::tree::PlanError::TooLong(len).into());
        }
        let chunk_len = self.store.parameters().chunk_len;
        let below = parent
            .and_then(|parent| self.layer_len(parent))
            .unwrap_or(0);
        let building = self.store.build_layer();
        let layer = Layer {
            id: building.layer,
            parent,
            parent_visible: parent_visible.min(chunk_len.count_for(below.min(len))),
            sealed: true,
            content: Some(content),
            ..self.store.tree_mut().blank_layer(None, len, now_ms())
        };
        self.buildings.push(building);
        self.open = Some(LayerWriter::new(layer));
        Ok(())
    }

    /// Adds what the layer says on page `index`, in chunk ids that this receipt gave. What lies
    /// past the disk's end is left away.
    pub fn put_page(&mut self, index: PageIndex, page: &Page) -> Result<(), StoreError> {
        let draft = self
            .open
            .as_mut()
            .expect("a page belongs to a layer that was begun");
        let inside = draft
            .layer
            .positions_in(self.store.parameters().chunk_len, index);
        draft.put_page(
            index,
            &Page::new(),
            &page.clipped_to(inside),
            &mut self.batch,
        );
        if self.batch.len() >= BATCH_LEN {
            self.write_batch()
        } else {
            Ok(())
        }
    }

    /// Ends the layer that was begun; its id, for other layers and for names.
    pub fn end_layer(&mut self) -> Result<LayerId, StoreError> {
        let layer = self.open.take().expect("a layer that ends was begun").layer;
        self.write_batch()?;
        let id = layer.id;
        self.layers
            .extend(layer.content.map(|content| (content, id)));
        self.built.push(layer);
        Ok(id)
    }

    fn write_batch(&mut self) -> Result<(), StoreError> {
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(());
        }
        self.session.check_room(batch.len() as u64)?;
        self.store
            .inner
            .database
            .write_batch(batch, Durability::Bulk)
    }

    /// Makes everything durable and gives it its names, in one batch. `arrival` has no layers: they
    /// are those that were built.
    pub fn finish_receive(self, arrival: Arrival) -> Result<Vec<NodeRef>, StoreError> {
        self.finish_following(arrival, Vec::new())
    }

    /// The same, and images that are there become as what came; nobody may be writing to them.
    /// Returns the images that came, then those.
    pub fn finish_following(
        mut self,
        arrival: Arrival,
        followed: Vec<FollowedImage>,
    ) -> Result<Vec<NodeRef>, StoreError> {
        let _exclusive = followed
            .iter()
            .map(|followed| self.store.lock_image(followed.id))
            .collect::<Result<Vec<_>, _>>()?;
        // The session began before anything was written.
        self.session.make_durable()?;
        let arrival = Arrival {
            layers: self.built.clone(),
            ..arrival
        };
        let mut tree = self.store.tree_mut();
        let (mut nodes, mut edits) = tree.plan_receive(&arrival, now_ms())?;
        nodes.extend(followed.iter().map(|followed| NodeRef::Image(followed.id)));
        for FollowedImage { id, top, snapshots } in followed {
            let update = ChainUpdate {
                layers: arrival.layers.clone(),
                top,
                snapshots,
            };
            let planned = tree.plan_chain_update(id, &update, now_ms())?;
            // Those that came are put once for all.
            let is_put = |edit: &TreeEdit| {
                matches!(edit, TreeEdit::PutLayer(layer)
                    if arrival.layers.iter().any(|came| came.id == layer.id))
            };
            edits.extend(planned.into_iter().filter(|edit| !is_put(edit)));
        }
        let mut batch = Batch::default();
        // One entry for all that came as one.
        if let Some(node) = nodes.first() {
            let arriving = arrival.images.first().map(|image| image.name.to_string());
            let entry = UsageEntry::new(
                "receive",
                node.image_id(),
                arriving.unwrap_or_else(|| tree.display_name(*node)),
                None,
                self.session.added_totals(),
            );
            self.store
                .inner
                .journal
                .note_entry(&self.store.inner.database, &mut batch, &entry);
        }
        self.store.commit_batch(&mut tree, &edits, batch)?;
        drop(tree);
        self.is_done = true;
        Ok(nodes)
    }
}

/// The chunks that a disk shows.
fn chunks_of(disk: &Disk) -> Result<IdSet, StoreError> {
    let mut ids = IdSet::new();
    for index in disk.mapped_pages().iter() {
        for run in disk.resolve_page(index)?.runs() {
            if let PageEntry::Chunk(first) = run.slot {
                ids.insert_run(first, run.len.into());
            }
        }
    }
    Ok(ids)
}

impl Drop for ReceiveTransaction<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.buildings
                .iter()
                .for_each(|building| self.store.forget_pages(building, true));
        }
    }
}
