//! Mark phase of the collector: finds the chunks that are referred to, from all pages of all layers
//! that exist or are being built, as one consistent view shows them.
//!
//! It decides nothing about chunks; see the collection's order in the module above.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use vellum_core::id_set::IdSet;
use vellum_core::page::{Page, PageEntry, parse_page_key};
use vellum_core::tree::{Layer, LayerMerge, MaintenancePlan, Tree};
use vellum_core::units::{ChunkId, LayerId, PageIndex};

use super::trim::drop_unseen;
use crate::database::{Family, Scan};
use crate::error::StoreError;
use crate::store::Store;
use crate::watch::{Watch, go_on};

/// Runs that are gathered before the claims are locked for them.
const RUNS_PER_LOCK: usize = 4096;

/// Pages between two looks at whether to go on.
const PAGES_PER_LOOK: u64 = 256;

/// Ids in a row: the first, and how many.
pub(super) type IdRun = (ChunkId, u64);

/// All maps, as they are at one moment.
pub(super) struct MapScan<'s> {
    scan: Scan<'s>,
    layers: BTreeMap<LayerId, Arc<Layer>>,
    building: BTreeSet<LayerId>,
}

/// The tree as tidying will leave it, before anything is trimmed.
pub(super) struct CompactedTree<'t> {
    before: &'t Tree,
    after: Tree,
    /// The layers that others become part of, and those others.
    merges: BTreeMap<LayerId, Vec<Arc<Layer>>>,
}

/// Counts and findings of a mark phase.
#[derive(Default)]
pub(super) struct MarkResult {
    /// Pages that belong to a layer.
    pages: u64,
    /// References followed.
    pub(super) references: u64,
    /// Bytes of all pages, keys included, that belong to a layer.
    pub(super) page_bytes: u64,
    /// Layers that have pages and are neither there nor being built.
    pub(super) orphans: Vec<LayerId>,
}

impl<'t> CompactedTree<'t> {
    pub(super) fn new(before: &'t Tree, tidy: &MaintenancePlan) -> Self {
        let sources = |merge: &LayerMerge| {
            merge
                .sources
                .iter()
                .filter_map(|id| before.layer(*id))
                .map(Arc::clone)
                .collect()
        };
        let merges = tidy
            .merges
            .iter()
            .map(|merge| (merge.into, sources(merge)))
            .collect();
        Self {
            before,
            after: before.after_maintenance(tidy),
            merges,
        }
    }

    /// Page `index` of `layer` as it will be once its merges are done.
    fn merged_page(
        &self,
        store: &Store,
        layer: &Layer,
        index: PageIndex,
    ) -> Result<Page, StoreError> {
        match (self.merges.get(&layer.id), self.before.layer(layer.id)) {
            (Some(sources), Some(into)) => store.inner.pages.overlay_into(into, sources, index),
            _ => store.inner.pages.own_page(layer, index),
        }
    }
}

impl<'s> MapScan<'s> {
    /// The moment is now: no commit falls between the list of layers and the pages. A layer that is
    /// being built is listed before its first page is written.
    pub(super) fn begin_scan(store: &'s Store) -> Self {
        let tree = store.tree_mut();
        let scan = store.inner.database.scan_from(Family::Pages, &[]);
        let layers = tree
            .layers()
            .map(|layer| (layer.id, Arc::clone(layer)))
            .collect();
        Self {
            scan,
            layers,
            building: store.unfinished_layers(),
        }
    }

    /// Gives every run of chunks below `horizon` that some page refers to to `sink`.
    pub(super) fn mark_references(
        self,
        sink: &mut dyn FnMut(&[IdRun]),
        horizon: ChunkId,
        watch: &dyn Watch,
    ) -> Result<MarkResult, StoreError> {
        let mut runs = Vec::with_capacity(RUNS_PER_LOCK);
        let marked = self.visit_pages(watch, &mut |_, page| {
            push_runs(page, horizon, &mut runs);
            if runs.len() >= RUNS_PER_LOCK {
                sink(&runs);
                runs.clear();
            }
        })?;
        sink(&runs);
        Ok(marked)
    }

    /// Marks what would be referred to once `tidy` is done, and what is shared then is trimmed.
    pub(super) fn forecast_marks(
        self,
        store: &Store,
        tidy: &CompactedTree<'_>,
        horizon: ChunkId,
        watch: &dyn Watch,
    ) -> Result<(IdSet, MarkResult), StoreError> {
        let (mut live, mut runs) = (IdSet::new(), Vec::new());
        let mut mark = |page: &Page| {
            push_runs(page, horizon, &mut runs);
            runs.drain(..)
                .for_each(|(first, count)| live.insert_run(first, count));
        };
        let shared = tidy.after.shared_layers();
        let merged = tidy
            .merges
            .keys()
            .filter(|into| !shared.contains(into))
            .filter_map(|into| tidy.after.layer(*into));
        for layer in merged {
            go_on(watch)?;
            for index in layer.pages.iter() {
                mark(&tidy.merged_page(store, layer, index)?);
            }
        }
        let held = tidy.after.held_layers();
        for shared in shared
            .iter()
            .filter_map(|id| tidy.after.shared_layer(*id, &held))
        {
            for index in shared.layer.pages.iter() {
                go_on(watch)?;
                let asked = shared
                    .visible_positions(index, |layer| tidy.merged_page(store, layer, index))?;
                let page = tidy.merged_page(store, &shared.layer, index)?;
                mark(&drop_unseen(&page, &asked).unwrap_or(page));
            }
        }
        let stays = |id: &LayerId| {
            tidy.after.layer(*id).is_some() && !tidy.merges.contains_key(id) && !shared.contains(id)
        };
        let stay: BTreeSet<LayerId> = self
            .layers
            .keys()
            .copied()
            .filter(stays)
            .chain(self.building.iter().copied())
            .collect();
        let marked = self.visit_pages(watch, &mut |layer, page| {
            if stay.contains(&layer) {
                mark(page);
            }
        })?;
        Ok((live, marked))
    }

    /// Visits every page that belongs to a layer. A page that cannot be read, or is missing, ends
    /// it: what it refers to is unknown.
    fn visit_pages(
        mut self,
        watch: &dyn Watch,
        visit: &mut dyn FnMut(LayerId, &Page),
    ) -> Result<MarkResult, StoreError> {
        let mut marked = MarkResult::default();
        let mut found: BTreeMap<LayerId, u64> = BTreeMap::new();
        while let Some((key, value)) = self.scan.next()? {
            let (layer, index) = parse_page_key(key)
                .map_err(|error| StoreError::damaged_record("a page's key", error))?;
            let listed = self.layers.get(&layer);
            if listed.is_none() && !self.building.contains(&layer) {
                if marked.orphans.last() != Some(&layer) {
                    marked.orphans.push(layer);
                }
                continue;
            }
            let page = Page::decode(layer, index, value).map_err(|error| {
                StoreError::damaged_record(format!("page {index} of layer {layer}"), error)
            })?;
            visit(layer, &page);
            marked.references += page.count_entries().0;
            marked.page_bytes += (key.len() + value.len()) as u64;
            if listed.is_some_and(|listed| listed.pages.contains(index)) {
                *found.entry(layer).or_default() += 1;
            }
            marked.pages += 1;
            if marked.pages.is_multiple_of(PAGES_PER_LOOK) {
                go_on(watch)?;
            }
        }
        self.check_complete(&found)?;
        Ok(marked)
    }

    fn check_complete(&self, found: &BTreeMap<LayerId, u64>) -> Result<(), StoreError> {
        for layer in self.layers.values() {
            let (expected, found) = (
                layer.pages.len(),
                found.get(&layer.id).copied().unwrap_or(0),
            );
            if found != expected {
                return Err(StoreError::damaged_record(
                    format!("the map of layer {}", layer.id),
                    format!("{found} of its {expected} pages are there"),
                ));
            }
        }
        Ok(())
    }
}

/// The runs of chunks below `horizon` on `page`: what lies past it is kept anyway.
fn push_runs(page: &Page, horizon: ChunkId, runs: &mut Vec<IdRun>) {
    for run in page.runs() {
        if let PageEntry::Chunk(first) = run.slot {
            let count = u64::from(run.len).min(horizon.0.saturating_sub(first.0));
            runs.push((first, count));
        }
    }
}
