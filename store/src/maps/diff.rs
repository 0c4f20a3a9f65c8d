//! Compares two disks by their layers.
//!
//! Pages that both have from the same layer are equal, so only the pages that a layer above the
//! first common one touches are looked at: near relatives on a large parent cost what they wrote.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use vellum_core::difference::{
    DifferenceJoiner, VisitDifference, differing_positions, rest_of_longer,
};
use vellum_core::page::{PAGE_SPAN, Page, bytes_of};
use vellum_core::stretches::RangeCollector;
use vellum_core::tree::{Layer, NodeRef, PageSet, page_of, pages_for};
use vellum_core::units::{ChunkCount, ChunkIndex, LayerId, PageIndex};

use crate::disk::Disk;
use crate::error::StoreError;
use crate::store::Store;

/// Step from one disk to another.
struct DiffStep<'d> {
    from: &'d Disk,
    to: &'d Disk,
    /// Pages that may differ, as far as both reach.
    pages: PageSet,
    /// The layers that the second has on top of all of the first's, if it has those.
    above: Option<&'d [Arc<Layer>]>,
}

impl<'d> DiffStep<'d> {
    fn new(from: &'d Disk, to: &'d Disk) -> Self {
        let end = from.chunk_len().count_for(from.len().min(to.len()));
        let pages = differing_pages(from, to).pages_within(PageIndex(0), PageIndex(pages_for(end)));
        let count = to.chain().len().checked_sub(from.chain().len());
        let above = count.map(|count| to.chain().split_at(count));
        let above = above.filter(|(_, below)| {
            below.first().map(|layer| layer.id) == from.chain().first().map(|layer| layer.id)
        });
        Self {
            from,
            to,
            pages,
            above: above.map(|(above, _)| above),
        }
    }

    fn is_as_long(&self) -> bool {
        self.from.len() == self.to.len()
    }

    /// The bytes of positions on a page, as far as both reach.
    fn bytes_of(&self, index: PageIndex, positions: Range<u16>) -> Range<u64> {
        bytes_of(
            self.from.chunk_len(),
            index,
            positions,
            &(0..self.from.len().min(self.to.len())),
        )
    }
}

impl Store {
    /// Calls `visit` for each range in which `a` and `b` differ, in order, to the chunk: a range's
    /// other bytes may be equal. A shorter disk ends in nothing, not in zeros: the rest of the
    /// longer one is a difference.
    pub fn diff(
        &self,
        a: NodeRef,
        b: NodeRef,
        visit: &mut VisitDifference<'_, StoreError>,
    ) -> Result<(), StoreError> {
        let mut out = DifferenceJoiner::new(visit);
        self.diff_states(
            &[&self.still_disk(a)?, &self.still_disk(b)?],
            &mut |_, range, becomes_zero| out.add_range(range, becomes_zero),
        )?;
        out.flush_pending()
    }

    /// Calls `visit` with the ranges in which each of `states` differs from the next, and whether
    /// that one reads as zeros there: page by page, and what only the longer one has at the end. Of
    /// a history, in which states stand on each other, each layer is looked at once.
    pub(crate) fn diff_states(
        &self,
        states: &[&Disk],
        visit: &mut dyn FnMut(usize, Range<u64>, bool) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let steps: Vec<DiffStep<'_>> = states
            .windows(2)
            .map(|pair| DiffStep::new(pair[0], pair[1]))
            .collect();
        for index in PageSet::union_of(steps.iter().map(|step| &step.pages)).iter() {
            let mut before = None;
            for (nth, step) in steps.iter().enumerate() {
                if step.pages.contains(index) {
                    let from = before.map_or_else(|| step.from.resolve_page(index), Ok)?;
                    let to = self.page_after(step, &from, index)?;
                    for (positions, becomes_zero) in self.differing_positions(&from, &to)? {
                        visit(nth, step.bytes_of(index, positions), becomes_zero)?;
                    }
                    before = Some(to);
                }
                // Otherwise both show the same page, if they reach equally far.
                before = before.filter(|_| step.is_as_long());
            }
        }
        steps
            .iter()
            .enumerate()
            .try_for_each(|(nth, DiffStep { from, to, .. })| {
                let add = &mut |range, becomes_zero| visit(nth, range, becomes_zero);
                rest_of_longer(
                    (from.len(), to.len()),
                    to.chunk_len(),
                    || Ok(to.mapped_pages()),
                    |index| to.resolve_page(index),
                    add,
                )
            })
    }

    /// The page that the second state of `step` shows, given that the first shows `from`.
    fn page_after(
        &self,
        step: &DiffStep<'_>,
        from: &Page,
        index: PageIndex,
    ) -> Result<Arc<Page>, StoreError> {
        let Some(above) = step.above.filter(|_| step.is_as_long()) else {
            return step.to.resolve_page(index);
        };
        let visible = above
            .iter()
            .map(|layer| layer.visible_in(index))
            .min()
            .unwrap_or(PAGE_SPAN);
        let own = self
            .inner
            .pages
            .overlay_pages(above, index)
            .map_err(|error| error.in_image(step.to.name(), step.to.bytes_of_page(index)))?;
        Ok(Arc::new(own.overlay_on(from, visible).resolved_at_root()))
    }

    /// Tells for the bytes of `range`, which lies inside `b`, whether they may differ from those of
    /// `a`: to the chunk, until `out` is full. What `a` does not reach may.
    pub(crate) fn find_changes(
        &self,
        a: &Disk,
        b: &Disk,
        range: Range<u64>,
        out: &mut RangeCollector<bool>,
    ) -> Result<(), StoreError> {
        let chunk_len = b.chunk_len();
        let common_end = a.len().clamp(range.start, range.end);
        let (first, end) = (
            page_of(chunk_len.index_at(range.start)).0,
            PageIndex(pages_for(chunk_len.count_for(common_end))),
        );
        let mut at = range.start;
        for index in differing_pages(a, b).pages_within(first, end).iter() {
            for (positions, _) in
                self.differing_positions(&*a.resolve_page(index)?, &*b.resolve_page(index)?)?
            {
                let changed = bytes_of(chunk_len, index, positions, &(at..common_end));
                out.push_range(at..changed.start, false);
                at = changed.end;
                out.push_range(changed, true);
            }
            if out.is_full() {
                return Ok(());
            }
        }
        out.push_range(at..common_end, false);
        out.push_range(common_end..range.end, true);
        Ok(())
    }

    /// The positions at which the pages `from` and `to` differ, each with whether the second reads
    /// as zeros there.
    fn differing_positions(
        &self,
        from: &Page,
        to: &Page,
    ) -> Result<Vec<(Range<u16>, bool)>, StoreError> {
        differing_positions(from, to, |first, count| self.chunk_hashes(first, count))
    }
}

/// The pages outside of which `a` and `b` are the same, wherever both have something.
pub(super) fn differing_pages(a: &Disk, b: &Disk) -> PageSet {
    let in_b: HashSet<LayerId> = b.chain().iter().map(|layer| layer.id).collect();
    let met = a
        .chain()
        .iter()
        .position(|layer| in_b.contains(&layer.id))
        .unwrap_or(a.chain().len());
    let (above_a, common) = a.chain().split_at(met);
    // Two chains that meet go on as one.
    let above_b = &b.chain()[..b.chain().len() - common.len()];
    let touched = above_a.iter().chain(above_b).map(|layer| &layer.pages);
    let visible = |above: &[Arc<Layer>]| {
        above
            .iter()
            .map(|layer| layer.parent_visible)
            .min()
            .unwrap_or(ChunkCount(u64::MAX))
    };
    // The range in which only one of them can see the common layers.
    let (low, high) = (
        visible(above_a).min(visible(above_b)),
        visible(above_a).max(visible(above_b)),
    );
    let (start, end) = (page_of(ChunkIndex(low.0)).0, PageIndex(pages_for(high)));
    let below: Vec<PageSet> = common
        .iter()
        .map(|layer| layer.pages.pages_within(start, end))
        .filter(|pages| !pages.is_empty())
        .collect();
    let half_seen = PageSet::union_of(&below);
    PageSet::union_of(touched.chain([&half_seen]))
}
