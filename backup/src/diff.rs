//! Where two contents of a repository differ: from maps and names alone, no data is read.
//!
//! What both are told relative to is the same in both, so only the pages that the maps above that speak of are looked at: near relatives cost
//! what lies between them. Where two addresses stand at one position, their chunks' names decide, so that what two stores pushed compares as well.

use std::collections::HashSet;
use std::ops::Range;

use vellum_core::identity::ContentId;
use vellum_core::page::{PAGE_SPAN, Page, Run, Slot};
use vellum_core::tree::{PageSet, page_of, page_start, pages_for};
use vellum_core::units::{ChunkId, ChunkIndex, ChunkLen, PageIndex};

use crate::error::BackupError;
use crate::reader::{ContentView, Reader};

/// A range in which two contents differ, or of which only one has a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// Whether the second reads as zeros there.
    pub becomes_zero: bool,
}

/// What was found, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiffReport {
    /// In ranges that differ.
    pub changed: u64,
    /// Of those, where the second reads as zeros.
    pub zeroed: u64,
    /// In all others: what is the same in both.
    pub same: u64,
}

/// Joins differences that touch, counts them and hands them out.
struct Joiner<'v> {
    pending: Option<Difference>,
    report: DiffReport,
    visit: &'v mut dyn FnMut(Difference) -> Result<(), BackupError>,
}

/// Calls `visit` for each range in which `a` and `b` differ, in order, to the chunk: a range's other bytes may be equal. A shorter content ends in
/// nothing, not in zeros: the rest of the longer one is a difference. Cost: the maps above what both are told relative to, and the index.
pub fn diff(
    reader: &Reader<'_>,
    a: ContentId,
    b: ContentId,
    visit: &mut dyn FnMut(Difference) -> Result<(), BackupError>,
) -> Result<DiffReport, BackupError> {
    reader.load_indexes()?;
    let (first, second) = (reader.content(a)?, reader.content(b)?);
    let mut out = Joiner { pending: None, report: DiffReport::default(), visit };
    let chunk_len = reader.chunk_len()?;
    let common_len = first.len.min(second.len);
    let pages = reader.again_if_missing(|| differing_pages(reader, &first, &second))?;
    for index in pages.within(PageIndex(0), PageIndex(pages_for(chunk_len.count_for(common_len)))).iter() {
        for (positions, becomes_zero) in page_differences(reader, &first.page(index)?, &second.page(index)?)? {
            let place = |at: u16| chunk_len.offset_of(page_start(index).advance(at.into())).min(common_len);
            out.add(place(positions.start)..place(positions.end), becomes_zero)?;
        }
    }
    out.add(second.len..first.len, false)?;
    rest(&second, first.len, chunk_len, &mut out)?;
    out.hand_out()?;
    let report = out.report;
    Ok(DiffReport { same: first.len.max(second.len) - report.changed, ..report })
}

/// The pages outside of which both are the same, wherever both have something.
fn differing_pages(reader: &Reader<'_>, a: &ContentView<'_>, b: &ContentView<'_>) -> Result<PageSet, BackupError> {
    let of_b: HashSet<ContentId> = b.contents().collect();
    let common = a.contents().find(|content| of_b.contains(content));
    let (mut touched, mut visible) = (PageSet::new(), Vec::new());
    for content in [a, b] {
        // One that both are told relative to says nothing above itself.
        if Some(content.id) == common {
            visible.push(u64::MAX);
            continue;
        }
        let above = reader.content_over(content.id, |below| Some(below) == common)?;
        touched = touched.union(&above.pages()?);
        visible.push(above.base_visible());
    }
    let Some(common) = common else { return Ok(touched) };
    // Where only one of them can see the common content, they differ on pages of which neither says anything.
    let (low, high) = (visible[0].min(visible[1]), visible[0].max(visible[1]));
    let below = if low < high { reader.content(common)?.pages()? } else { PageSet::new() };
    Ok(touched.union(&below.within(page_of(ChunkIndex(low)).0, PageIndex(high.div_ceil(PAGE_SPAN.into())))))
}

/// Where two resolved pages differ, and whether the second reads as zeros there.
fn page_differences(reader: &Reader<'_>, a: &Page, b: &Page) -> Result<Vec<(Range<u16>, bool)>, BackupError> {
    let mut found = Vec::new();
    for run in b.relative_to(a, PAGE_SPAN).runs() {
        let Slot::Chunk(id) = run.slot else {
            found.push((run.start..run.end(), true));
            continue;
        };
        for before in a.runs_in(run.start, run.end()) {
            differing_chunks(reader, before, id.advance(u64::from(before.start - run.start)), &mut found)?;
        }
    }
    Ok(found)
}

/// Where the chunks of `before` and those from `after` on differ: not where two addresses stand for one name.
fn differing_chunks(reader: &Reader<'_>, before: Run, after: ChunkId, found: &mut Vec<(Range<u16>, bool)>) -> Result<(), BackupError> {
    let Slot::Chunk(first) = before.slot else {
        found.push((before.start..before.end(), false));
        return Ok(());
    };
    for at in 0..before.len {
        if reader.name_of(first.advance(at.into()))? != reader.name_of(after.advance(at.into()))? {
            found.push((before.start + at..before.start + at + 1, false));
        }
    }
    Ok(())
}

/// Adds what `longer` has from byte `start` on.
fn rest(longer: &ContentView<'_>, start: u64, chunk_len: ChunkLen, out: &mut Joiner<'_>) -> Result<(), BackupError> {
    let mut at = start;
    if at >= longer.len {
        return Ok(());
    }
    let pages = longer.pages()?.within(page_of(chunk_len.index_at(start)).0, PageIndex(u64::MAX));
    for index in pages.iter() {
        let place = |position: u16| chunk_len.offset_of(page_start(index).advance(position.into())).clamp(start, longer.len);
        for run in longer.page(index)?.runs().iter().filter(|run| matches!(run.slot, Slot::Chunk(_))) {
            out.add(at..place(run.start), true)?;
            out.add(place(run.start)..place(run.end()), false)?;
            at = at.max(place(run.end()));
        }
    }
    out.add(at..longer.len, true)
}

impl Joiner<'_> {
    fn add(&mut self, range: Range<u64>, becomes_zero: bool) -> Result<(), BackupError> {
        if range.is_empty() {
            return Ok(());
        }
        let len = range.end - range.start;
        self.report.changed += len;
        self.report.zeroed += if becomes_zero { len } else { 0 };
        match &mut self.pending {
            Some(pending) if pending.start + pending.len == range.start && pending.becomes_zero == becomes_zero => pending.len += len,
            _ => {
                self.hand_out()?;
                self.pending = Some(Difference { start: range.start, len, becomes_zero });
            }
        }
        Ok(())
    }

    /// Hands out what is pending.
    fn hand_out(&mut self) -> Result<(), BackupError> {
        self.pending.take().map_or(Ok(()), |pending| (self.visit)(pending))
    }
}
