//! Resolves a chain of layers to what a guest sees: the pages of its layers, overlaid top first.
//!
//! A sealed layer never changes, so its resolved pages stay valid for ever and are cached: while
//! they are cached, a chain of a thousand layers costs what one layer costs.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use vellum_core::page::{PAGE_SPAN, Page, PageEntry, page_key};
use vellum_core::tree::Layer;
use vellum_core::units::PageIndex;

use crate::database::{Database, Family};
use crate::error::StoreError;

/// Memory for resolved pages: the maps of some tens of GiB of disk.
const CACHE_LEN: u64 = 32 << 20;
/// Memory that a cached page takes beside its runs, in bytes.
const PAGE_OVERHEAD_LEN: u64 = 128;

#[derive(Clone)]
struct MemoryLen;

impl Weighter<(u64, u64), Arc<Page>> for MemoryLen {
    fn weight(&self, _: &(u64, u64), page: &Arc<Page>) -> u64 {
        PAGE_OVERHEAD_LEN + size_of_val(page.runs()) as u64
    }
}

/// Reads and resolves pages.
pub(crate) struct LayerResolver {
    database: Arc<Database>,
    /// Resolved pages by layer and page; those of live disks, by their number and page.
    resolved: Cache<(u64, u64), Arc<Page>, MemoryLen>,
    /// The number that the next live disk gets: from the end, where no layer's is.
    next_live: AtomicU64,
}

impl LayerResolver {
    pub(crate) fn new(database: Arc<Database>) -> Self {
        let resolved = Cache::with_weighter(
            (CACHE_LEN / PAGE_OVERHEAD_LEN) as usize,
            CACHE_LEN,
            MemoryLen,
        );
        Self {
            database,
            resolved,
            next_live: AtomicU64::new(u64::MAX),
        }
    }

    /// A number under which a live disk may keep pages. They are its own business: what is kept for
    /// an active layer must be replaced with every change of that.
    pub(crate) fn live_serial(&self) -> u64 {
        self.next_live.fetch_sub(1, Ordering::Relaxed)
    }

    /// The cached page `index` of the live disk `serial`.
    pub(crate) fn cached_live_page(&self, serial: u64, index: PageIndex) -> Option<Arc<Page>> {
        self.resolved.get(&(serial, index.0))
    }

    /// Keeps page `index` of a live disk, as far as memory allows.
    pub(crate) fn keep_live(&self, serial: u64, index: PageIndex, page: &Arc<Page>) {
        self.resolved.insert((serial, index.0), Arc::clone(page));
    }

    /// Forgets page `index` of a live disk.
    pub(crate) fn forget_live(&self, serial: u64, index: PageIndex) {
        self.resolved.remove(&(serial, index.0));
    }

    /// Forgets every resolved page: a layer below what nobody sees of it has changed.
    pub(crate) fn forget_resolved(&self) {
        self.resolved.clear();
    }

    /// Page `index` as `layer` itself has it, without the layers below.
    pub(crate) fn own_page(&self, layer: &Layer, index: PageIndex) -> Result<Page, StoreError> {
        if !layer.pages.contains(index) {
            return Ok(Page::new());
        }
        let record = || format!("page {index} of layer {}", layer.id);
        let bytes = self
            .database
            .get(Family::Pages, &page_key(layer.id, index))?;
        let bytes = bytes.ok_or_else(|| StoreError::damaged_record(record(), "it is gone"))?;
        Page::decode(layer.id, index, &bytes)
            .map_err(|error| StoreError::damaged_record(record(), error))
    }

    /// Resolves page `index` of the chain, top first: chunks where there are some, absent where it
    /// reads as zeros.
    pub(crate) fn resolve_page(
        &self,
        chain: &[Arc<Layer>],
        index: PageIndex,
    ) -> Result<Arc<Page>, StoreError> {
        let Some((top, below)) = chain.split_first() else {
            return Ok(Arc::new(Page::new()));
        };
        if top.sealed {
            return self.resolve_sealed(chain, index);
        }
        let own = self.own_page(top, index)?;
        if below.is_empty() || own.covers_up_to(PAGE_SPAN) {
            return Ok(Arc::new(own.resolved_at_root()));
        }
        let parent = self.resolve_sealed(below, index)?;
        let is_transparent = own.is_empty() && top.visible_in(index) == PAGE_SPAN;
        Ok(if is_transparent {
            parent
        } else {
            Arc::new(
                own.overlay_on(&parent, top.visible_in(index))
                    .resolved_at_root(),
            )
        })
    }

    fn resolve_sealed(
        &self,
        chain: &[Arc<Layer>],
        index: PageIndex,
    ) -> Result<Arc<Page>, StoreError> {
        let key = |layer: &Layer| (layer.id.0, index.0);
        if let Some(page) = self.resolved.get(&key(&chain[0])) {
            return Ok(page);
        }
        // Layers that say nothing of this page and hide nothing show what the first one below that
        // does shows: one page for all.
        let opaque =
            |layer: &Arc<Layer>| layer.pages.contains(index) || layer.visible_in(index) < PAGE_SPAN;
        let first = chain.iter().position(opaque).unwrap_or(chain.len() - 1);
        let page = match self.resolved.get(&key(&chain[first])) {
            Some(page) => page,
            None => Arc::new(
                self.overlay_pages(&chain[first..], index)?
                    .resolved_at_root(),
            ),
        };
        self.resolved.insert(key(&chain[first]), Arc::clone(&page));
        self.resolved.insert(key(&chain[0]), Arc::clone(&page));
        Ok(page)
    }

    /// Lays the pages of a chain over each other, from the top down until nothing below can be
    /// seen; explicit zeros are kept.
    pub(crate) fn overlay_pages(
        &self,
        chain: &[Arc<Layer>],
        index: PageIndex,
    ) -> Result<Page, StoreError> {
        let (mut seen, mut visible) = (Page::new(), PAGE_SPAN);
        for layer in chain {
            if layer.pages.contains(index) {
                seen = seen.overlay_on(&self.own_page(layer, index)?, visible);
            }
            visible = visible.min(layer.visible_in(index));
            if seen.covers_up_to(visible) {
                break;
            }
        }
        Ok(seen)
    }

    /// Overlays pages as [`Pages::seen`] does, down to the first damaged page. Positions that this
    /// page and those below it would have answered stay open; they are returned with the error.
    pub(crate) fn seen_as_far_as_readable(
        &self,
        chain: &[Arc<Layer>],
        index: PageIndex,
    ) -> Result<(Page, Option<(StoreError, Vec<Range<u16>>)>), StoreError> {
        let (mut seen, mut visible) = (Page::new(), PAGE_SPAN);
        for layer in chain {
            if layer.pages.contains(index) {
                match self.own_page(layer, index) {
                    Ok(page) => seen = seen.overlay_on(&page, visible),
                    Err(error @ StoreError::Damaged(_)) => {
                        let open = seen
                            .runs_in(0, visible)
                            .filter(|run| run.slot == PageEntry::Absent)
                            .map(|run| run.start..run.end_position())
                            .collect();
                        return Ok((seen, Some((error, open))));
                    }
                    Err(error) => return Err(error),
                }
            }
            visible = visible.min(layer.visible_in(index));
            if seen.covers_up_to(visible) {
                break;
            }
        }
        Ok((seen, None))
    }

    /// Merges the pages of `sources`, top first, into what `into` says: the answers of all as one
    /// layer's, explicit zeros kept.
    pub(crate) fn overlay_into(
        &self,
        into: &Layer,
        sources: &[Arc<Layer>],
        index: PageIndex,
    ) -> Result<Page, StoreError> {
        let mut page = self.own_page(into, index)?;
        let mut visible = into.visible_in(index);
        for layer in sources {
            page = page.overlay_on(&self.own_page(layer, index)?, visible);
            visible = visible.min(layer.visible_in(index));
        }
        Ok(page)
    }
}
