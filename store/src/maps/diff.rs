//! Where two disks differ.
//!
//! What both have from the same layer is the same, so only the pages that a layer above the first common one touches are looked at:
//! near relatives on a large parent cost what they wrote.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use vellum_core::page::{PAGE_SPAN, Page, Run, Slot};
use vellum_core::tree::{Layer, Node, PageSet, page_of, page_start, pages_for};
use vellum_core::units::{ChunkCount, ChunkId, ChunkIndex, LayerId, PageIndex};

use crate::disk::Disk;
use crate::error::StoreError;
use crate::store::Store;
use crate::stretches::Stretches;

/// A range in which two disks differ, or of which only one disk has a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// Whether the second disk reads as zeros there.
    pub becomes_zero: bool,
}

/// Joins differences that touch, and hands them out.
struct Joiner<'v> {
    pending: Option<(Range<u64>, bool)>,
    visit: &'v mut dyn FnMut(Difference) -> Result<(), StoreError>,
}

/// From one disk to another.
struct Step<'d> {
    from: &'d Disk,
    to: &'d Disk,
    /// Where both have something that may differ.
    pages: PageSet,
    /// The layers that the second has on top of all of the first's, if it has those.
    above: Option<&'d [Arc<Layer>]>,
}

impl<'d> Step<'d> {
    fn new(from: &'d Disk, to: &'d Disk) -> Self {
        let end = from.chunk_len().count_for(from.len().min(to.len()));
        let pages = differing_pages(from, to).within(PageIndex(0), PageIndex(pages_for(end)));
        let count = to.chain().len().checked_sub(from.chain().len());
        let above = count.map(|count| to.chain().split_at(count));
        let above = above.filter(|(_, below)| below.first().map(|layer| layer.id) == from.chain().first().map(|layer| layer.id));
        Self { from, to, pages, above: above.map(|(above, _)| above) }
    }

    fn is_as_long(&self) -> bool {
        self.from.len() == self.to.len()
    }

    /// The bytes of positions on a page, as far as both reach.
    fn bytes_of(&self, index: PageIndex, positions: Range<u16>) -> Range<u64> {
        let place = |at: u16| self.from.chunk_len().offset_of(page_start(index).advance(at.into()));
        let common_len = self.from.len().min(self.to.len());
        place(positions.start).min(common_len)..place(positions.end).min(common_len)
    }
}

impl Store {
    /// Calls `visit` for each range in which `a` and `b` differ, in order, to the chunk: a range's other bytes may be equal. A shorter
    /// disk ends in nothing, not in zeros: the rest of the longer one is a difference.
    pub fn diff(&self, a: Node, b: Node, visit: &mut dyn FnMut(Difference) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.diff_disks(&self.still_disk(a)?, &self.still_disk(b)?, visit)
    }

    /// As [`Store::diff`], for disks that are open.
    pub(crate) fn diff_disks(
        &self,
        a: &Disk,
        b: &Disk,
        visit: &mut dyn FnMut(Difference) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut out = Joiner { pending: None, visit };
        self.diff_states(&[a, b], &mut |_, range, becomes_zero| out.add(range, becomes_zero))?;
        out.finish()
    }

    /// Calls `visit` with the ranges in which each of `states` differs from the next, and whether that one reads as zeros there: page by
    /// page, and what only the longer one has at the end. Of a history, in which states stand on each other, each layer is looked at once.
    pub(crate) fn diff_states(
        &self,
        states: &[&Disk],
        visit: &mut dyn FnMut(usize, Range<u64>, bool) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let steps: Vec<Step<'_>> = states.windows(2).map(|pair| Step::new(pair[0], pair[1])).collect();
        for index in PageSet::union_of(steps.iter().map(|step| &step.pages)).iter() {
            let mut before = None;
            for (nth, step) in steps.iter().enumerate() {
                if step.pages.contains(index) {
                    let from = before.map_or_else(|| step.from.page(index), Ok)?;
                    let to = self.page_after(step, &from, index)?;
                    for (positions, becomes_zero) in self.page_differences(&from, &to)? {
                        visit(nth, step.bytes_of(index, positions), becomes_zero)?;
                    }
                    before = Some(to);
                }
                // Otherwise both show the same page, if they reach equally far.
                before = before.filter(|_| step.is_as_long());
            }
        }
        steps.iter().enumerate().try_for_each(|(nth, step)| rest_of_longer(step.from, step.to, &mut |range, zero| visit(nth, range, zero)))
    }

    /// What the second state of `step` shows on a page, of which the first shows `from`.
    fn page_after(&self, step: &Step<'_>, from: &Page, index: PageIndex) -> Result<Arc<Page>, StoreError> {
        let Some(above) = step.above.filter(|_| step.is_as_long()) else { return step.to.page(index) };
        let visible = above.iter().map(|layer| layer.visible_in(index)).min().unwrap_or(PAGE_SPAN);
        let (chunk_len, start) = (step.to.chunk_len(), page_start(index));
        let own = self.inner.pages.seen(above, index).map_err(|error| {
            let end = page_start(PageIndex(index.0 + 1));
            error.in_image(step.to.name(), chunk_len.offset_of(start)..chunk_len.offset_of(end))
        })?;
        Ok(Arc::new(own.over(from, visible).resolved()))
    }

    /// Tells for the bytes of `range`, which lies inside `b`, whether they may differ from those of `a`: to the chunk, until `out` is
    /// full. What `a` does not reach may.
    pub(crate) fn changes(&self, a: &Disk, b: &Disk, range: Range<u64>, out: &mut Stretches<bool>) -> Result<(), StoreError> {
        let chunk_len = b.chunk_len();
        let common_end = a.len().clamp(range.start, range.end);
        let (first, end) = (page_of(chunk_len.index_at(range.start)).0, PageIndex(pages_for(chunk_len.count_for(common_end))));
        let mut at = range.start;
        for index in differing_pages(a, b).within(first, end).iter() {
            for (positions, _) in self.page_differences(&*a.page(index)?, &*b.page(index)?)? {
                let place = |nth: u16| chunk_len.offset_of(page_start(index).advance(nth.into())).clamp(at, common_end);
                let (start, end) = (place(positions.start), place(positions.end));
                out.push(at..start, false);
                out.push(start..end, true);
                at = end;
            }
            if out.is_full() {
                return Ok(());
            }
        }
        out.push(at..common_end, false);
        out.push(common_end..range.end, true);
        Ok(())
    }

    /// Where two resolved pages differ, and whether the second reads as zeros there.
    fn page_differences(&self, a: &Page, b: &Page) -> Result<Vec<(Range<u16>, bool)>, StoreError> {
        let mut found = Vec::new();
        // Where `b` is as `a`, this has nothing to say; zeros are where only `a` has a chunk.
        for run in b.relative_to(a, PAGE_SPAN).runs() {
            let Slot::Chunk(id) = run.slot else {
                found.push((run.start..run.end(), true));
                continue;
            };
            for before in a.runs_in(run.start, run.end()) {
                let id = id.advance(u64::from(before.start - run.start));
                self.differing_chunks(before, id, &mut found)?;
            }
        }
        Ok(found)
    }

    /// Where the chunks of `before` and those from `after` on differ: not where two ids stand for one name.
    fn differing_chunks(&self, before: Run, after: ChunkId, found: &mut Vec<(Range<u16>, bool)>) -> Result<(), StoreError> {
        let Slot::Chunk(first) = before.slot else {
            found.push((before.start..before.end(), false));
            return Ok(());
        };
        let count = u64::from(before.len);
        let names = self.chunk_hashes(first, count)?.into_iter().zip(self.chunk_hashes(after, count)?);
        let unequal = (before.start..).zip(names).filter(|(_, (a, b))| a != b);
        found.extend(unequal.map(|(at, _)| (at..at + 1, false)));
        Ok(())
    }
}

/// The pages outside of which `a` and `b` are the same, wherever both have something.
pub(super) fn differing_pages(a: &Disk, b: &Disk) -> PageSet {
    let in_b: HashSet<LayerId> = b.chain().iter().map(|layer| layer.id).collect();
    let met = a.chain().iter().position(|layer| in_b.contains(&layer.id)).unwrap_or(a.chain().len());
    let (above_a, common) = a.chain().split_at(met);
    // Two chains that meet go on as one.
    let above_b = &b.chain()[..b.chain().len() - common.len()];
    let touched = above_a.iter().chain(above_b).map(|layer| &layer.pages);
    let visible = |above: &[Arc<Layer>]| above.iter().map(|layer| layer.parent_visible).min().unwrap_or(ChunkCount(u64::MAX));
    // Where only one of them can see the common layers.
    let (low, high) = (visible(above_a).min(visible(above_b)), visible(above_a).max(visible(above_b)));
    let (start, end) = (page_of(ChunkIndex(low.0)).0, PageIndex(pages_for(high)));
    let below: Vec<PageSet> = common.iter().map(|layer| layer.pages.within(start, end)).filter(|pages| !pages.is_empty()).collect();
    let half_seen = PageSet::union_of(&below);
    PageSet::union_of(touched.chain([&half_seen]))
}

/// Adds what only the longer disk has.
fn rest_of_longer(a: &Disk, b: &Disk, add: &mut dyn FnMut(Range<u64>, bool) -> Result<(), StoreError>) -> Result<(), StoreError> {
    if a.len() >= b.len() {
        return add(b.len()..a.len(), false);
    }
    let chunk_len = b.chunk_len();
    let mapped = b.mapped_pages();
    let mut at = a.len();
    while at < b.len() {
        let index = page_of(chunk_len.index_at(at)).0;
        let place = |position: ChunkIndex| chunk_len.offset_of(position).clamp(at, b.len());
        match mapped.next_from(index) {
            Some(mapped) if mapped == index => {
                let end = place(page_start(PageIndex(index.0 + 1)));
                for run in b.page_runs(index, 0, PAGE_SPAN)? {
                    add(place(run.start)..place(run.start.advance(run.count)), run.first.is_none())?;
                }
                at = end;
            }
            next => {
                let end = next.map_or(b.len(), |next| place(page_start(next)));
                add(at..end, true)?;
                at = end;
            }
        }
    }
    Ok(())
}

impl Joiner<'_> {
    fn add(&mut self, range: Range<u64>, becomes_zero: bool) -> Result<(), StoreError> {
        if range.is_empty() {
            return Ok(());
        }
        match &mut self.pending {
            Some((pending, zero)) if pending.end == range.start && *zero == becomes_zero => pending.end = range.end,
            _ => {
                self.finish()?;
                self.pending = Some((range, becomes_zero));
            }
        }
        Ok(())
    }

    /// Hands out what is pending.
    fn finish(&mut self) -> Result<(), StoreError> {
        let Some((range, becomes_zero)) = self.pending.take() else { return Ok(()) };
        (self.visit)(Difference { start: range.start, len: range.end - range.start, becomes_zero })
    }
}
