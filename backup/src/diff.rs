//! Finds the ranges in which two contents of a repository differ: from maps and names alone, no
//! data is read.
//!
//! Both contents inherit the same from a common ancestor, so only pages with entries in the maps
//! above that ancestor are compared: the cost grows with what lies between the two. Where both have
//! an address at a position, the names of the two chunks decide, so that contents which two stores
//! pushed compare as well.

use std::collections::HashSet;

use vellum_core::difference::{
    Difference, DifferenceJoiner, VisitDifference, differing_positions, rest_of_longer,
};
use vellum_core::identity::ContentId;
use vellum_core::page::{PAGE_SPAN, bytes_of};
use vellum_core::tree::{PageSet, page_of, pages_for};
use vellum_core::units::{ChunkId, ChunkIndex, PageIndex};

use crate::error::BackupError;
use crate::reader::{ContentView, Reader};

/// The ranges that differ, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiffReport {
    /// In ranges that differ.
    pub changed: u64,
    /// The part of those in which the second reads as zeros.
    pub zeroed: u64,
    /// In all others: what is the same in both.
    pub same: u64,
}

/// Calls `visit` for each range in which `a` and `b` differ, in order, to the chunk: a range's
/// other bytes may be equal. A shorter content ends in nothing, not in zeros: the rest of the
/// longer one is a difference. Cost: the maps above the common ancestor, and the index.
pub fn diff(
    reader: &Reader<'_>,
    a: ContentId,
    b: ContentId,
    visit: &mut VisitDifference<'_, BackupError>,
) -> Result<DiffReport, BackupError> {
    reader.load_indexes()?;
    let (first, second) = (reader.content(a)?, reader.content(b)?);
    let mut report = DiffReport::default();
    let visit = &mut |difference: Difference| {
        report.changed += difference.len;
        report.zeroed += if difference.becomes_zero {
            difference.len
        } else {
            0
        };
        visit(difference)
    };
    let mut out = DifferenceJoiner::new(visit);
    let chunk_len = reader.chunk_len()?;
    let both = 0..first.len.min(second.len);
    let pages = reader.again_if_missing(|| differing_pages(reader, &first, &second))?;
    let names = |first: ChunkId, count| {
        (0..count)
            .map(|at| reader.name_of(first.advance_by(at)))
            .collect()
    };
    for index in pages
        .pages_within(
            PageIndex(0),
            PageIndex(pages_for(chunk_len.count_for(both.end))),
        )
        .iter()
    {
        for (positions, becomes_zero) in
            differing_positions(&first.page(index)?, &second.page(index)?, names)?
        {
            out.add_range(bytes_of(chunk_len, index, positions, &both), becomes_zero)?;
        }
    }
    let add = &mut |range, becomes_zero| out.add_range(range, becomes_zero);
    rest_of_longer(
        (first.len, second.len),
        chunk_len,
        || second.pages(),
        |index| second.page(index),
        add,
    )?;
    out.flush_pending()?;
    Ok(DiffReport {
        same: first.len.max(second.len) - report.changed,
        ..report
    })
}

/// The pages outside of which both are the same, wherever both have something.
fn differing_pages(
    reader: &Reader<'_>,
    a: &ContentView<'_>,
    b: &ContentView<'_>,
) -> Result<PageSet, BackupError> {
    let of_b: HashSet<ContentId> = b.contents().collect();
    let common = a.contents().find(|content| of_b.contains(content));
    let (mut touched, mut visible) = (PageSet::new(), Vec::new());
    for content in [a, b] {
        // A common ancestor has no entries above itself.
        if Some(content.id) == common {
            visible.push(u64::MAX);
            continue;
        }
        let above = reader.content_over(content.id, |below| Some(below) == common)?;
        touched = touched.union_with(&above.pages()?);
        visible.push(above.base_visible());
    }
    let Some(common) = common else {
        return Ok(touched);
    };
    // On pages where only one of them can see the common content, they differ although neither map
    // has an entry.
    let (low, high) = (visible[0].min(visible[1]), visible[0].max(visible[1]));
    let below = if low < high {
        reader.content(common)?.pages()?
    } else {
        PageSet::new()
    };
    Ok(touched.union_with(&below.pages_within(
        page_of(ChunkIndex(low)).0,
        PageIndex(high.div_ceil(PAGE_SPAN.into())),
    )))
}
