//! Images and snapshots as of one point in time, held for a long look: contents with identities,
//! maps, names of chunks.

use std::collections::BTreeMap;
use std::sync::Arc;

use vellum_core::hash::ChunkHash;
use vellum_core::page::Page;
use vellum_core::tree::{Layer, NodeRef, PageSet, PlanError, Tree, TreeEdit};
use vellum_core::units::{ChunkCount, ChunkId, ImageId, LayerId, PageIndex};

use crate::clock::now_ms;
use crate::database::Batch;
use crate::error::StoreError;
use crate::identity::with_identities;
use crate::store::holds::LayerHold;
use crate::store::{Access, Store};

/// Images and snapshots at one moment. While it lives, maintenance leaves their layers alone and
/// collection their chunks.
pub struct PointInTime {
    store: Store,
    /// The tree at that time: the layers of its nodes are in the store as they are here, since they
    /// are held.
    tree: Tree,
    nodes: Vec<(NodeRef, LayerId)>,
    _holds: Vec<LayerHold>,
}

/// Map of a content relative to one below it.
pub struct RelativeMap<'m> {
    moment: &'m PointInTime,
    /// Top first, without the layer that it is relative to.
    layers: Vec<Arc<Layer>>,
    /// The number of positions of that layer that can be seen.
    pub parent_visible: ChunkCount,
}

impl Store {
    /// `nodes` at one moment. What guests were told is written is in it; disks that are attached
    /// stand still together while it is taken. An image in which something was written gets a new
    /// active layer, in constant time.
    pub fn take_point_in_time(&self, nodes: &[NodeRef]) -> Result<PointInTime, StoreError> {
        let mut images: Vec<ImageId> = nodes
            .iter()
            .filter_map(|node| {
                if let NodeRef::Image(id) = node {
                    Some(*id)
                } else {
                    None
                }
            })
            .collect();
        images.sort_unstable();
        images.dedup();
        self.with_still(&images, || self.hold_moment(nodes))
    }

    fn hold_moment(&self, nodes: &[NodeRef]) -> Result<PointInTime, StoreError> {
        let mut tree = self.tree_mut();
        let (mut tops, mut edits, mut planned) =
            (Vec::with_capacity(nodes.len()), Vec::new(), BTreeMap::new());
        for node in nodes {
            if !planned.contains_key(node) {
                let (layer, sealing) = tree.plan_base(*node, now_ms())?;
                edits.extend(sealing);
                planned.insert(*node, layer.id);
            }
            tops.push((*node, planned[node]));
        }
        edits.extend(without_identity(&tree, &tops, &edits));
        if !edits.is_empty() && self.access_mode() == Access::ReadOnly {
            // Only this process sees it, which is all that the moment needs. An identity that
            // cannot be written down is another one the next time.
            let edits = with_identities(&edits)?.into_owned();
            tree.apply_edits(&edits);
        } else if !edits.is_empty() {
            self.check_writable()?;
            self.commit_batch(&mut tree, &edits, Batch::default())?;
        }
        let mut layers: Vec<LayerId> = tops.iter().map(|(_, layer)| *layer).collect();
        layers.sort_unstable();
        layers.dedup();
        let holds = layers
            .into_iter()
            .map(|layer| self.hold_layers(&mut tree, layer))
            .collect();
        Ok(PointInTime {
            store: self.clone(),
            tree: tree.clone(),
            nodes: tops,
            _holds: holds,
        })
    }
}

/// Edits of sealed layers from before there were identities: putting them gives them theirs.
fn without_identity(tree: &Tree, tops: &[(NodeRef, LayerId)], edits: &[TreeEdit]) -> Vec<TreeEdit> {
    let is_put = |id: LayerId| {
        edits
            .iter()
            .any(|edit| matches!(edit, TreeEdit::PutLayer(layer) if layer.id == id))
    };
    let lacks = |layer: &&Arc<Layer>| layer.sealed && layer.content.is_none();
    if !tree.layers().any(|layer| lacks(&layer)) {
        return Vec::new();
    }
    let mut found: Vec<&Arc<Layer>> = tops
        .iter()
        .flat_map(|(_, top)| tree.chain_from(*top))
        .filter(lacks)
        .collect();
    found.sort_unstable_by_key(|layer| layer.id);
    found.dedup_by_key(|layer| layer.id);
    found
        .into_iter()
        .filter(|layer| !is_put(layer.id))
        .map(|layer| TreeEdit::PutLayer(Layer::clone(layer)))
        .collect()
}

impl PointInTime {
    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The tree as it was at that moment.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The nodes that it was taken of, in that order, each with the sealed layer that shows it.
    #[must_use]
    pub fn nodes(&self) -> &[(NodeRef, LayerId)] {
        &self.nodes
    }

    /// The ids of those of `names` that the store has now. Nothing keeps them there: the caller
    /// knows what its own maps refer to. Cost: a look into the index for each, and one into a
    /// header for each that is there.
    pub fn find_chunks(&self, names: &[ChunkHash]) -> Result<Vec<Option<ChunkId>>, StoreError> {
        self.store.inner.chunks.open_session().find_ids(names)
    }

    /// True for each of `prefixes`, the first eight bytes of chunks' names as a big-endian number,
    /// that the store's index has. A hint: a chunk may be on its way out, or of another name.
    pub fn has_prefixes(&self, prefixes: &[u64]) -> Result<Vec<bool>, StoreError> {
        let prefixes: Vec<[u8; 8]> = prefixes.iter().map(|prefix| prefix.to_be_bytes()).collect();
        let indexed = self.store.inner.chunks.indexed_many(&prefixes)?;
        Ok(indexed.iter().map(Option::is_some).collect())
    }

    /// The layer of that id, which is one that a node of this moment stands on: sealed, and so with
    /// an identity.
    pub fn layer_by_id(&self, id: LayerId) -> Result<&Arc<Layer>, StoreError> {
        Ok(self.tree.layer(id).ok_or(PlanError::Gone)?)
    }

    /// The map of `top` relative to the layer `base` below it; with no `base`, all that `top`
    /// shows. No chunk is read.
    pub fn relative_map(
        &self,
        top: LayerId,
        base: Option<LayerId>,
    ) -> Result<RelativeMap<'_>, StoreError> {
        let layers: Vec<Arc<Layer>> = self
            .tree
            .chain_from(top)
            .take_while(|layer| Some(layer.id) != base)
            .cloned()
            .collect();
        let reached = layers.last().ok_or(PlanError::Gone)?.parent;
        if reached != base {
            return Err(PlanError::Gone.into());
        }
        let visible = layers
            .iter()
            .map(|layer| layer.parent_visible)
            .min()
            .unwrap_or_default();
        Ok(RelativeMap {
            moment: self,
            layers,
            parent_visible: if base.is_some() {
                visible
            } else {
                ChunkCount(0)
            },
        })
    }
}

impl RelativeMap<'_> {
    /// The pages that may say something, inside the disk.
    #[must_use]
    pub fn mapped_pages(&self) -> PageSet {
        let chunk_len = self.moment.store.parameters().chunk_len;
        let end = vellum_core::tree::pages_for(chunk_len.count_for(self.layers[0].len));
        PageSet::union_of(self.layers.iter().map(|layer| &layer.pages))
            .pages_within(PageIndex(0), PageIndex(end))
    }

    /// Its entries on page `index`, explicit zeros included; where it is relative to nothing, zeros
    /// are absent.
    pub fn relative_page(&self, index: PageIndex) -> Result<Page, StoreError> {
        let (top, below) = self.layers.split_first().expect("a map has a layer");
        let page = self
            .moment
            .store
            .inner
            .pages
            .overlay_into(top, below, index)?;
        let page =
            page.clipped_to(top.positions_in(self.moment.store.parameters().chunk_len, index));
        let is_root = self.layers.last().is_some_and(|last| last.parent.is_none());
        Ok(if is_root {
            page.resolved_at_root()
        } else {
            page
        })
    }

    /// All that shows on page `index`, chunks and silence only, whatever it is relative to.
    pub fn visible_page(&self, index: PageIndex) -> Result<Page, StoreError> {
        let chain: Vec<Arc<Layer>> = self
            .moment
            .tree
            .chain_from(self.layers[0].id)
            .cloned()
            .collect();
        let page = self.moment.store.inner.pages.resolve_page(&chain, index)?;
        Ok(page.clipped_to(
            self.layers[0].positions_in(self.moment.store.parameters().chunk_len, index),
        ))
    }
}
