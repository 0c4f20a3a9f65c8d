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
        let common_len = a.len().min(b.len());
        let chunk_len = a.chunk_len();
        let end = chunk_len.count_for(common_len);
        for index in differing_pages(a, b).within(PageIndex(0), PageIndex(pages_for(end))).iter() {
            for (positions, becomes_zero) in self.page_differences(&*a.page(index)?, &*b.page(index)?)? {
                let place = |at: u16| chunk_len.offset_of(page_start(index).advance(at.into())).min(common_len);
                out.add(place(positions.start)..place(positions.end), becomes_zero)?;
            }
        }
        rest_of_longer(a, b, &mut out)?;
        out.finish()
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
    let below = PageSet::union_of(common.iter().map(|layer| &layer.pages));
    let half_seen = below.within(page_of(ChunkIndex(low.0)).0, PageIndex(pages_for(high)));
    PageSet::union_of(touched.chain([&half_seen]))
}

/// Adds what only the longer disk has.
fn rest_of_longer(a: &Disk, b: &Disk, out: &mut Joiner<'_>) -> Result<(), StoreError> {
    if a.len() >= b.len() {
        return out.add(b.len()..a.len(), false);
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
                    out.add(place(run.start)..place(run.start.advance(run.count)), run.first.is_none())?;
                }
                at = end;
            }
            next => {
                let end = next.map_or(b.len(), |next| place(page_start(next)));
                out.add(at..end, true)?;
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
