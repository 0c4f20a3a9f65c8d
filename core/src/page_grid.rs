//! The grid of pages over an image's chunk positions: which page answers for a position, and which
//! positions a page has.

use crate::units::{ChunkCount, ChunkIndex, PageIndex};

/// The number of chunk positions of a page: 4 MiB of disk at 4 KiB chunks. Small enough that a
/// random write rewrites little (7 KiB at worst), large enough that a sequential disk costs a few
/// bytes per megabyte.
pub const PAGE_SPAN: u16 = 1024;

/// The number of positions on page `index` among the first `count` of an image.
pub(crate) fn positions_in(count: ChunkCount, index: PageIndex) -> u16 {
    let before = index.0.saturating_mul(u64::from(PAGE_SPAN));
    count.0.saturating_sub(before).min(u64::from(PAGE_SPAN)) as u16
}

/// The page that answers for a position, and the place on it.
#[must_use]
pub fn page_of(position: ChunkIndex) -> (PageIndex, u16) {
    (
        PageIndex(position.0 / u64::from(PAGE_SPAN)),
        (position.0 % u64::from(PAGE_SPAN)) as u16,
    )
}

/// The first position of a page.
#[must_use]
pub fn page_start(index: PageIndex) -> ChunkIndex {
    ChunkIndex(index.0 * u64::from(PAGE_SPAN))
}

/// The number of pages for `count` positions.
#[must_use]
pub fn pages_for(count: ChunkCount) -> u64 {
    count.0.div_ceil(u64::from(PAGE_SPAN))
}
