//! Restores map entries whose chunks are lost, from sources that know the content.
//!
//! What a lost page said is nowhere else in the store. But a sealed layer has the identity of the
//! content that it shows, and a source that has the same content (a repository to which it was
//! pushed, a store from which it was pulled) knows which chunk is at each position. So an entry
//! whose chunk cannot be read is replaced by the chunk, or the zero, that the source has there.
//!
//! A layer without a name may have no content that a source knows. Then the contents of those that
//! stand on it are asked: at the positions where all layers between are silent they show what it
//! shows.
//!
//! Content never changes by this: the entry that comes back shows what the identity promises.
//! Entries of layers that are not sealed, and what no source knows, stay lost, unless nothing that
//! has a name shows them: those become zeros, and the layer, which shows other content from then
//! on, gets another identity.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use vellum_core::frame::frame_key;
use vellum_core::hash::ChunkHash;
use vellum_core::id_set::IdSet;
use vellum_core::identity::ContentId;
use vellum_core::page::{PAGE_SPAN, Page, PageEntry, Run};
use vellum_core::tree::{Layer, Tree, TreeEdit};
use vellum_core::units::{ChunkId, LayerId, PageIndex};

use crate::chunks::{ChunkCandidate, WantedPage};
use crate::database::{Batch, Durability, Family};
use crate::error::StoreError;
use crate::store::Store;
use crate::watch::Watch;

/// A sealed layer that shows what another one below it shows where all in between are silent.
struct WitnessLayer {
    content: ContentId,
    view: LayerSight,
}

/// The sight of a layer through those above it.
struct LayerSight {
    /// The layers above the one that is looked at, the top first.
    above: Vec<Arc<Layer>>,
}

/// Entries of a page that are lost, and what the sources know of them.
struct LostEntries {
    layer: Arc<Layer>,
    index: PageIndex,
    page: Page,
    /// The chunks, or zeros, at those of the positions that some source knows.
    found: BTreeMap<u16, Option<ChunkHash>>,
    /// Positions that no source knows, and that no image or snapshot shows.
    unseen: Vec<u16>,
}

/// Result of looking for lost entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BroughtBack {
    /// Positions that a source knew.
    pub(super) positions: u64,
    /// True if anything was written.
    pub(super) has_changes: bool,
}

/// Brings back what sources know of entries whose chunks cannot be read. `lost` has the ids of
/// chunks that cannot be read. Cost: a look at every page, if there are any.
pub(super) fn bring_back(
    store: &Store,
    lost: &IdSet,
    watch: &dyn Watch,
) -> Result<BroughtBack, StoreError> {
    let mut result = BroughtBack::default();
    if lost.next_from(ChunkId(0)).is_none() {
        return Ok(result);
    }
    let layers: Vec<Arc<Layer>> = store.tree().layers().map(Arc::clone).collect();
    for layer in layers {
        let (witnesses, views) = {
            let tree = store.tree();
            (
                find_witnesses(&tree, layer.id),
                named_views(&tree, layer.id),
            )
        };
        for index in layer.pages.iter() {
            if watch.is_cancelled() {
                return Err(StoreError::Interrupted);
            }
            // A commit may have changed its counts.
            let Some(layer) = store.tree().layer(layer.id).map(Arc::clone) else {
                break;
            };
            let page = store.inner.pages.own_page(&layer, index)?;
            let positions = positions_of(&page, lost);
            if positions.is_empty() {
                continue;
            }
            let found = ask_sources(store, &witnesses, index, &positions)?;
            let mut unseen = positions;
            unseen.retain(|position| !found.contains_key(position));
            for view in &views {
                let through = view.looks_through(store, index);
                unseen.retain(|position| through.as_ref().is_ok_and(|through| !through(*position)));
            }
            let (brought_back, has_changes) = put_entries(
                store,
                LostEntries {
                    layer,
                    index,
                    page,
                    found,
                    unseen,
                },
            )?;
            result.positions += brought_back;
            result.has_changes |= has_changes;
        }
    }
    result.has_changes |= forget_unused(store, lost)?;
    Ok(result)
}

/// The positions of `page` whose chunks are lost.
fn positions_of(page: &Page, lost: &IdSet) -> Vec<u16> {
    let mut positions = Vec::new();
    for run in page.runs() {
        if let PageEntry::Chunk(first) = run.slot {
            let is_lost = |nth: &u16| lost.contains(first.advance_by((*nth).into()));
            positions.extend((0..run.len).filter(is_lost).map(|nth| run.start + nth));
        }
    }
    positions
}

/// The layer itself, and the sealed ones on it, the nearest first.
fn find_witnesses(tree: &Tree, id: LayerId) -> Vec<WitnessLayer> {
    let mut found: Vec<WitnessLayer> = tree
        .layers()
        .filter(|layer| layer.sealed)
        .filter_map(|layer| {
            Some(WitnessLayer {
                content: layer.content?,
                view: LayerSight::from(tree, layer.id, id)?,
            })
        })
        .collect();
    found.sort_by_key(|witness| witness.view.above.len());
    found
}

/// The sights of the layer that images and snapshots have.
fn named_views(tree: &Tree, id: LayerId) -> Vec<LayerSight> {
    let tops = tree.all_nodes().filter_map(|node| tree.layer_of(node));
    tops.filter_map(|top| LayerSight::from(tree, top.id, id))
        .collect()
}

/// Asks the sources for what stands at `positions` of page `index`.
fn ask_sources(
    store: &Store,
    witnesses: &[WitnessLayer],
    index: PageIndex,
    positions: &[u16],
) -> Result<BTreeMap<u16, Option<ChunkHash>>, StoreError> {
    let mut found = BTreeMap::new();
    for witness in witnesses {
        let left: Vec<u16> = positions
            .iter()
            .copied()
            .filter(|position| !found.contains_key(position))
            .collect();
        let through = match witness.view.looks_through(store, index) {
            // It tells nothing if its own map is damaged.
            Err(StoreError::Damaged(_)) => continue,
            through => through?,
        };
        let left: Vec<u16> = left.into_iter().filter(|at| through(*at)).collect();
        if left.is_empty() {
            continue;
        }
        let page = WantedPage {
            content: witness.content,
            index,
            chunk_len: store.parameters().chunk_len,
        };
        let Some(names) = store.inner.chunks.names_in_sources(page) else {
            continue;
        };
        for position in left {
            found.extend(
                names
                    .get(usize::from(position))
                    .map(|name| (position, *name)),
            );
        }
    }
    Ok(found)
}

impl LayerSight {
    /// The sight that `top` has of `layer`, if it stands on it, or is it.
    fn from(tree: &Tree, top: LayerId, layer: LayerId) -> Option<Self> {
        let above: Vec<Arc<Layer>> = tree
            .chain_from(top)
            .take_while(|other| other.id != layer)
            .map(Arc::clone)
            .collect();
        let bottom = above.last().map_or(Some(top), |last| last.parent);
        (bottom == Some(layer)).then_some(Self { above })
    }

    /// Tells of a position of page `index` if it shows what lies below the layers above.
    fn looks_through(
        &self,
        store: &Store,
        index: PageIndex,
    ) -> Result<impl Fn(u16) -> bool + use<>, StoreError> {
        let seen = store.inner.pages.overlay_pages(&self.above, index)?;
        let visible = self.above.iter().map(|layer| layer.visible_in(index)).min();
        let visible = visible.unwrap_or(PAGE_SPAN);
        Ok(move |position| position < visible && seen.entry_at(position) == PageEntry::Absent)
    }
}

/// Puts what was found in the place of the entries that are lost; how many positions that were, and
/// whether anything was written.
fn put_entries(store: &Store, lost: LostEntries) -> Result<(u64, bool), StoreError> {
    let mut names: Vec<ChunkHash> = lost.found.values().flatten().copied().collect();
    names.sort_unstable_by_key(|name| name.0);
    names.dedup();
    let mut session = store.inner.chunks.open_session();
    // Chunks that the index knows by hash are lost as often as not: read them.
    session.verify_all();
    let mut ids: HashMap<ChunkHash, ChunkId> = HashMap::new();
    let there = session.find_ids(&names)?;
    ids.extend(
        names
            .iter()
            .zip(there)
            .filter_map(|(name, id)| Some((*name, id?))),
    );
    names.retain(|name| !ids.contains_key(name));
    let plain = store.inner.chunks.plain_in_sources(&names);
    let candidates: Vec<ChunkCandidate<'_>> = plain
        .iter()
        .map(|(hash, plain)| ChunkCandidate {
            hash: *hash,
            plain,
            guess: None,
        })
        .collect();
    let stored = session.store_chunks(&candidates)?;
    ids.extend(
        candidates
            .iter()
            .map(|candidate| candidate.hash)
            .zip(stored),
    );
    session.make_durable()?;
    let slot = |name: &Option<ChunkHash>| match name {
        None => Some(PageEntry::Zero),
        Some(name) => ids.get(name).map(|id| PageEntry::Chunk(*id)),
    };
    let found = lost.found.iter();
    let mut changes: Vec<Run> = found
        .filter_map(|(position, name)| Some(single_run(*position, slot(name)?)))
        .collect();
    let brought_back = changes.len() as u64;
    let unseen = lost.unseen.iter();
    changes.extend(unseen.map(|position| single_run(*position, PageEntry::Zero)));
    changes.sort_by_key(|change| change.start);
    if changes.is_empty() {
        return Ok((0, false));
    }
    let (page, mut layer) = (lost.page.with_changes(&changes), Layer::clone(&lost.layer));
    let ((old_chunks, old_zeros), (chunks, zeros)) =
        (lost.page.count_entries(), page.count_entries());
    layer.chunks = layer.chunks + chunks - old_chunks;
    layer.zeros = layer.zeros + zeros - old_zeros;
    let mut batch = Batch::default();
    batch.put_page(layer.id, lost.index, &page);
    let (mut tree, mut edits) = (store.tree_mut(), Vec::new());
    if !lost.unseen.is_empty() {
        layer.content = None;
        let above = tree.unseen_above(layer.id, &tree.held_layers());
        edits.extend(above.into_iter().map(TreeEdit::PutLayer));
    }
    edits.push(TreeEdit::PutLayer(layer));
    store.commit_batch(&mut tree, &edits, batch)?;
    drop(tree);
    // Layers above resolve to it.
    store.inner.pages.forget_resolved();
    Ok((brought_back, true))
}

fn single_run(position: u16, slot: PageEntry) -> Run {
    Run {
        start: position,
        len: 1,
        slot,
    }
}

/// Nothing speaks any more of chunks that no map refers to: most were never there. A header that
/// came back without its frame, which was collected, goes. Tells whether there were any.
fn forget_unused(store: &Store, lost: &IdSet) -> Result<bool, StoreError> {
    let mut unused = lost.clone();
    let layers: Vec<Arc<Layer>> = store.tree().layers().map(Arc::clone).collect();
    for layer in layers {
        for index in layer.pages.iter() {
            for run in store.inner.pages.own_page(&layer, index)?.runs() {
                let PageEntry::Chunk(first) = run.slot else {
                    continue;
                };
                for nth in 0..run.len {
                    unused.remove(first.advance_by(nth.into()));
                }
            }
        }
    }
    let runs = unused.id_runs();
    let ids: Vec<ChunkId> = runs
        .flat_map(|(first, count)| (0..count).map(move |nth| first.advance_by(nth)))
        .collect();
    let (chunks, database) = (&store.inner.chunks, &store.inner.database);
    let (mut batch, mut after) = (Batch::default(), ChunkId(0));
    let _index = chunks.lock_index();
    for id in &ids {
        let header = chunks.readable_header(*id)?.filter(|_| *id >= after);
        let Some(header) = header else { continue };
        after = header.end_id();
        let key = frame_key(header.first_id());
        let is_unused = header.chunk_hashes().all(|(id, _)| unused.contains(id));
        if is_unused && database.get(Family::Frames, &key)?.is_none() {
            batch.delete_record(Family::Headers, key);
        }
    }
    database.write_batch(batch, Durability::Logged)?;
    let has_unused = !ids.is_empty();
    chunks.ledger.clear_entries(ids);
    Ok(has_unused)
}
