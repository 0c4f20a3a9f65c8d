//! Tidies the layers: drops those that no name reaches and merges nameless ones into their only
//! child, all by edits of maps.
//!
//! A merge copies entries of its sources into absent positions of the layer above, page by page. A
//! position that gets the entry that it resolved to anyway resolves as before, so the store may
//! stop after any batch; the last one takes the sources out of the chain. The content of a batch is
//! worked out without a lock, from sealed layers, which do not change. Under the tree's lock it is
//! written only if the merge can still be made and the layer is as it was: its sources may have
//! been named, held or built on meanwhile.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use vellum_core::page::Page;
use vellum_core::tree::{Layer, LayerMerge, PageSet, Tree, TreeEdit};
use vellum_core::units::{ChunkCount, LayerId, PageIndex};

use super::trim;
use crate::chunks::sync;
use crate::database::{Batch, Durability};
use crate::error::StoreError;
use crate::store::Store;
use crate::watch::{Watch, go_on};

/// Layers that one batch drops at most: at 256 pages deleted by key, a MiB or two.
const DROPS_PER_BATCH: usize = 256;
/// Pages that one batch works out at most: 2 MiB at the worst, some milliseconds of work.
const PAGES_PER_BATCH: usize = 256;
/// Layers that are merged at a time. The rest of a longer chain follows in the next round.
const SOURCES_PER_MERGE: usize = 128;

/// A merge on its way. With no sources: the explicit zeros of a root layer are to become absent, as
/// nothing lies below.
struct LayerMergeWalk {
    merge: LayerMerge,
    next: PageIndex,
}

/// A part of a merge, worked out.
struct MergeStep {
    merge: LayerMerge,
    /// The layer as it was.
    into: Arc<Layer>,
    /// The layer as it will be.
    layer: Layer,
    pages: Vec<(PageIndex, Page)>,
    /// First page of the next step; `None` if this one takes the sources away.
    next: Option<PageIndex>,
}

/// Drops, merges and trims; how many layers were dropped, and how many merged.
pub(super) fn compact_layers(store: &Store, watch: &dyn Watch) -> Result<(u64, u64), StoreError> {
    let dropped = drop_layers(store, watch)?;
    let mut merged = 0;
    loop {
        let walks = plan_merge_walks(&store.tree());
        let round = merge_layers(store, walks, watch)?;
        merged += round.sources;
        if round.commits == 0 {
            break;
        }
    }
    trim::trim_shared_layers(store, watch)?;
    Ok((dropped, merged))
}

/// Deletes the pages of layers that are neither there nor being built: ids are never given twice,
/// so nothing refers to them.
pub(super) fn drop_orphans(store: &Store, orphans: &[LayerId]) -> Result<(), StoreError> {
    let mut batch = Batch::default();
    orphans.iter().for_each(|layer| batch.delete_pages(*layer));
    store.inner.database.write_batch(batch, Durability::Bulk)
}

fn drop_layers(store: &Store, watch: &dyn Watch) -> Result<u64, StoreError> {
    let mut dropped = 0;
    loop {
        go_on(watch)?;
        let mut tree = store.tree_mut();
        let mut drops = tree.from_tops(&tree.plan_tidy().drops);
        drops.truncate(DROPS_PER_BATCH);
        if drops.is_empty() {
            return Ok(dropped);
        }
        dropped += drops.len() as u64;
        let edits: Vec<TreeEdit> = drops.into_iter().map(TreeEdit::DropLayer).collect();
        store.commit_batch(&mut tree, &edits, Batch::default())?;
    }
}

/// The merges to do; and the root layers outside of every merge that have zeros, which hide nothing
/// there.
fn plan_merge_walks(tree: &Tree) -> VecDeque<LayerMergeWalk> {
    let mut merges = tree.plan_tidy().merges;
    let parts: BTreeSet<LayerId> = merges
        .iter()
        .flat_map(|merge| merge.sources.iter().copied().chain([merge.into]))
        .collect();
    merges
        .iter_mut()
        .for_each(|merge| merge.sources.truncate(SOURCES_PER_MERGE));
    let roots = tree
        .layers()
        .filter(|layer| layer.parent.is_none() && layer.zeros > 0 && !parts.contains(&layer.id));
    let trims = roots.map(|root| LayerMerge {
        into: root.id,
        sources: Vec::new(),
    });
    merges
        .into_iter()
        .chain(trims)
        .map(|merge| LayerMergeWalk {
            merge,
            next: PageIndex(0),
        })
        .collect()
}

/// Result of a round.
#[derive(Default)]
struct MergeRound {
    sources: u64,
    commits: u64,
}

fn merge_layers(
    store: &Store,
    mut walks: VecDeque<LayerMergeWalk>,
    watch: &dyn Watch,
) -> Result<MergeRound, StoreError> {
    let mut round = MergeRound::default();
    while !walks.is_empty() {
        go_on(watch)?;
        let steps = plan_steps(store, &mut walks)?;
        sync::yield_point("merge planned");
        let done = commit_steps(store, &steps)?;
        for (step, done) in steps.iter().zip(done) {
            round.commits += u64::from(done && step.has_effect());
            match step.next {
                Some(next) if done => walks.push_front(LayerMergeWalk {
                    merge: step.merge.clone(),
                    next,
                }),
                None if done => round.sources += step.merge.sources.len() as u64,
                // The sources are needed as they are, or the layer was changed: left to the next
                // round, or to the next collection.
                _ => {}
            }
        }
    }
    Ok(round)
}

/// Takes merges off the queue and works out as much as goes into one batch.
fn plan_steps(
    store: &Store,
    walks: &mut VecDeque<LayerMergeWalk>,
) -> Result<Vec<MergeStep>, StoreError> {
    let (mut steps, mut left) = (Vec::new(), PAGES_PER_BATCH);
    while left > 0
        && let Some(walk) = walks.pop_front()
    {
        let (into, sources) = (walk.merge.into, walk.merge.sources.len());
        let before = store.tree().layer(into).map(Arc::clone);
        match plan_step(store, walk, &mut left) {
            // The layer was changed while it was read; what is gone may be meant to be.
            Err(StoreError::Damaged(_)) if !is_same(store.tree().layer(into), before.as_ref()) => {}
            planned => steps.extend(planned?),
        }
        left = left.saturating_sub(1 + sources);
    }
    Ok(steps)
}

fn is_same(now: Option<&Arc<Layer>>, before: Option<&Arc<Layer>>) -> bool {
    now.zip(before)
        .is_some_and(|(now, before)| Arc::ptr_eq(now, before))
}

/// The next part of a merge, of at most `left` pages; nothing if a layer of it is gone.
fn plan_step(
    store: &Store,
    walk: LayerMergeWalk,
    left: &mut usize,
) -> Result<Option<MergeStep>, StoreError> {
    let LayerMergeWalk { merge, next } = walk;
    let (into, sources, (parent, visible)) = {
        let tree = store.tree();
        let Some(into) = tree.layer(merge.into).map(Arc::clone) else {
            return Ok(None);
        };
        let sources: Vec<Arc<Layer>> = merge
            .sources
            .iter()
            .filter_map(|id| tree.layer(*id))
            .map(Arc::clone)
            .collect();
        let (into, parent) = if sources.is_empty() {
            (into, (None, ChunkCount(0)))
        } else {
            (into, tree.merged_parent(&merge))
        };
        (into, sources, parent)
    };
    let pages = match sources.as_slice() {
        [] => into.pages.clone(),
        sources => sources.iter().fold(PageSet::new(), |pages, source| {
            pages.union_with(&source.pages)
        }),
    };
    let mut step = MergeStep {
        layer: Layer::clone(&into),
        merge,
        into,
        pages: Vec::new(),
        next: None,
    };
    let mut at = next;
    while let Some(index) = pages.next_from(at) {
        if *left == 0 {
            step.next = Some(index);
            return Ok(Some(step));
        }
        *left -= 1;
        step.add_page(store, &sources, index)?;
        at = PageIndex(index.0 + 1);
    }
    step.layer.parent = parent;
    step.layer.parent_visible = if parent.is_some() {
        visible
    } else {
        ChunkCount(0)
    };
    Ok(Some(step))
}

impl MergeStep {
    /// Works out page `index`.
    fn add_page(
        &mut self,
        store: &Store,
        sources: &[Arc<Layer>],
        index: PageIndex,
    ) -> Result<(), StoreError> {
        let old = store.inner.pages.own_page(&self.into, index)?;
        let new = if sources.is_empty() {
            old.resolved_at_root()
        } else {
            store.inner.pages.overlay_into(&self.into, sources, index)?
        };
        if new == old {
            return Ok(());
        }
        let ((old_chunks, old_zeros), (chunks, zeros)) = (old.count_entries(), new.count_entries());
        self.layer.chunks = self.layer.chunks + chunks - old_chunks;
        self.layer.zeros = self.layer.zeros + zeros - old_zeros;
        if new.is_empty() {
            self.layer.pages.remove(index);
        } else {
            self.layer.pages.insert(index);
        }
        self.pages.push((index, new));
        Ok(())
    }

    fn has_effect(&self) -> bool {
        !self.pages.is_empty() || (self.next.is_none() && !self.merge.sources.is_empty())
    }

    fn add_to_batch(&self, batch: &mut Batch, edits: &mut Vec<TreeEdit>) {
        for (index, page) in &self.pages {
            batch.put_page(self.layer.id, *index, page);
        }
        edits.push(TreeEdit::PutLayer(self.layer.clone()));
        if self.next.is_none() {
            edits.extend(self.merge.sources.iter().copied().map(TreeEdit::DropLayer));
        }
    }
}

/// Writes those of `steps` that still hold, as one batch; tells which.
fn commit_steps(store: &Store, steps: &[MergeStep]) -> Result<Vec<bool>, StoreError> {
    let mut tree = store.tree_mut();
    let busy: BTreeSet<LayerId> = store
        .busy_images()
        .into_iter()
        .filter_map(|image| Some(tree.image(image)?.layer))
        .collect();
    let merges: Vec<&LayerMerge> = steps.iter().map(|step| &step.merge).collect();
    let mut done = tree.still_mergeable(&merges);
    let (mut batch, mut edits) = (Batch::default(), Vec::new());
    for (step, done) in steps.iter().zip(&mut done) {
        let as_it_was = is_same(tree.layer(step.merge.into), Some(&step.into));
        *done &= as_it_was && !busy.contains(&step.merge.into);
        if *done && step.has_effect() {
            step.add_to_batch(&mut batch, &mut edits);
        }
    }
    if !edits.is_empty() {
        store.commit_batch(&mut tree, &edits, batch)?;
    }
    Ok(done)
}
