//! Reclaims space on a disk that is nearly full, where there is little room to write: dead frames
//! lie in tables beside live ones, and the live ones must be rewritten before a table can go.
//!
//! `RocksDB` rewrites overlapping tables together. So tables are taken in *clusters*, each a table
//! and those that are rewritten along with it. The cluster that needs the least room comes first:
//! the space that it gives back is room for the next. Space that was released from the reserve may
//! be used for that; guests and imports stay out of it.
//!
//! Deletions are records, too, and the table that a flush makes of them reaches from the first to
//! the last, over everything in between. So the sweep deletes, flushes and rewrites the range of
//! one table after the other where space is scarce.

use std::collections::HashMap;
use std::ops::Range;

use vellum_core::frame::{FrameHeader, frame_key, parse_frame_key};
use vellum_core::solid::SOLID_KEY_MIN;
use vellum_core::units::ChunkId;

use crate::database::{DatabaseTable, Family};
use crate::error::StoreError;
use crate::store::Store;
use crate::watch::{Watch, go_on};

/// Bytes that must be dead of a cluster.
const DEAD_LEN_MIN: u64 = 64 << 10;
/// Bytes that rewriting takes beside the live ones: a manifest, indices of tables, and errors of
/// the estimate.
const STEP_LEN: u64 = 192 << 10;
/// Bytes that a frame takes in a table beside its payload, about.
const FRAME_OVERHEAD_LEN: u64 = 32;

/// Space that could not be given back, as there is no room to write what lives beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Dead bytes that are left.
    pub dead_bytes: u64,
    /// Free bytes that the next step needs.
    pub needed_bytes: u64,
    /// Free bytes that there are for it.
    pub free_bytes: u64,
}

/// A table of frames and those that are rewritten along with it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cluster {
    /// The first ids of the first and of the last frame.
    first: ChunkId,
    last: ChunkId,
    len: u64,
}

/// The first ids of the first and of the last frame of a table, and how long it is.
#[derive(Clone, Debug)]
struct TableSpan {
    first: ChunkId,
    last: ChunkId,
    len: u64,
    is_loose: bool,
}

/// Live bytes of ranges, each counted once.
#[derive(Default)]
struct LiveByteCache(HashMap<(ChunkId, ChunkId), u64>);

impl Shortage {
    pub(super) fn new(dead_bytes: u64, needed_bytes: u64, free_bytes: u64) -> Self {
        Self {
            dead_bytes,
            needed_bytes,
            free_bytes,
        }
    }

    /// This and another that was found before.
    pub(super) fn merge_earlier(self, before: Option<Self>) -> Self {
        let Some(before) = before else {
            return self;
        };
        Self {
            dead_bytes: self.dead_bytes + before.dead_bytes,
            needed_bytes: self.needed_bytes.min(before.needed_bytes),
            free_bytes: self.free_bytes,
        }
    }
}

impl TableSpan {
    fn overlaps(&self, first: ChunkId, last: ChunkId) -> bool {
        self.first <= last && first <= self.last
    }
}

impl Cluster {
    fn dead_len(&self, live_len: u64) -> Option<u64> {
        let dead = self.len.saturating_sub(live_len);
        (dead >= DEAD_LEN_MIN && dead * 8 > live_len).then_some(dead)
    }
}

fn table_spans(store: &Store) -> Result<Vec<TableSpan>, StoreError> {
    let tables = store.inner.database.list_tables(Family::Frames)?;
    let span = |table: DatabaseTable| {
        Some(TableSpan {
            first: parse_frame_key(&table.first).ok()?,
            last: parse_frame_key(&table.last).ok()?,
            len: table.len,
            is_loose: table.is_loose,
        })
    };
    Ok(tables.into_iter().filter_map(span).collect())
}

/// Last frames of the tables, in order: deletions between two of them lie in one table of each
/// level.
pub(super) fn table_ends(store: &Store) -> Result<Vec<ChunkId>, StoreError> {
    let mut ends: Vec<ChunkId> = table_spans(store)?.iter().map(|span| span.last).collect();
    ends.sort_unstable();
    ends.dedup();
    Ok(ends)
}

/// The clusters of the tables that meet `range`.
fn find_clusters(spans: &[TableSpan], range: &Range<ChunkId>) -> Vec<Cluster> {
    let meets = |span: &&TableSpan| span.last >= range.start && span.first < range.end;
    let mut all: Vec<Cluster> = spans
        .iter()
        .filter(meets)
        .map(|span| cluster_around(spans, span))
        .collect();
    all.sort_unstable_by_key(|cluster| (cluster.first, cluster.last));
    all.dedup();
    all
}

fn cluster_around(spans: &[TableSpan], seed: &TableSpan) -> Cluster {
    let (mut first, mut last) = (seed.first, seed.last);
    // Those that overlap each other are rewritten together, and what they reach.
    loop {
        let before = (first, last);
        for span in spans
            .iter()
            .filter(|span| span.is_loose && span.overlaps(before.0, before.1))
        {
            (first, last) = (first.min(span.first), last.max(span.last));
        }
        if (first, last) == before {
            break;
        }
    }
    let along: Vec<&TableSpan> = spans
        .iter()
        .filter(|span| span.overlaps(first, last))
        .collect();
    Cluster {
        first: along.iter().map(|span| span.first).min().unwrap_or(first),
        last: along.iter().map(|span| span.last).max().unwrap_or(last),
        len: along.iter().map(|span| span.len).sum(),
    }
}

impl LiveByteCache {
    fn live_bytes_of(&mut self, store: &Store, cluster: &Cluster) -> Result<u64, StoreError> {
        let key = (cluster.first, cluster.last);
        if let Some(len) = self.0.get(&key) {
            return Ok(*len);
        }
        let len = live_len(store, cluster.first..cluster.last.advance_by(1))?;
        self.0.insert(key, len);
        Ok(len)
    }
}

/// Bytes of the frames that begin in `range` and have a header: a dead frame has none.
fn live_len(store: &Store, range: Range<ChunkId>) -> Result<u64, StoreError> {
    let mut scan = store
        .inner
        .database
        .scan_from(Family::Headers, &frame_key(range.start));
    let mut len = 0;
    while let Some((key, value)) = scan.next()? {
        let Ok(first) = parse_frame_key(key) else {
            continue;
        };
        if first >= range.end {
            break;
        }
        // A frame with a damaged header stays as it is; its length is unknown.
        let payload = FrameHeader::decode(first, value)
            .map_or(u64::from(vellum_core::frame::PLAIN_LEN_MAX), |header| {
                header.own_payload_len().into()
            });
        len += payload + FRAME_OVERHEAD_LEN;
    }
    if range.end > SOLID_KEY_MIN {
        // Which of them live is not known here.
        let (start, end) = (range.start.max(SOLID_KEY_MIN), range.end);
        let database = &store.inner.database;
        len += database.stored_len(Family::Frames, &frame_key(start), &frame_key(end));
    }
    Ok(len)
}

/// Free bytes that it takes to rewrite `live` bytes.
fn with_step(live: u64) -> u64 {
    live + live / 16 + STEP_LEN
}

/// Free bytes that it takes to give back what is dead in `range`: those of its largest cluster.
pub(super) fn room_needed(store: &Store, range: &Range<ChunkId>) -> Result<u64, StoreError> {
    let mut most = 0;
    for cluster in find_clusters(&table_spans(store)?, range) {
        most = most.max(live_len(store, cluster.first..cluster.last.advance_by(1))?);
    }
    Ok(with_step(most))
}

/// Rewrites clusters that meet `range` as long as there is room for one that is worth it. What is
/// deleted must be flushed. What could not be given back.
pub(super) fn give_back(
    store: &Store,
    range: &Range<ChunkId>,
    watch: &dyn Watch,
) -> Result<Option<Shortage>, StoreError> {
    let (mut living, mut tried) = (LiveByteCache::default(), Vec::new());
    loop {
        go_on(watch)?;
        let free = store.inner.reserve.free_bytes()?;
        let (mut best, mut shortage): (Option<(u64, Cluster)>, Option<Shortage>) = (None, None);
        for cluster in find_clusters(&table_spans(store)?, range) {
            if tried.contains(&cluster) {
                continue;
            }
            let live = living.live_bytes_of(store, &cluster)?;
            let Some(dead) = cluster.dead_len(live) else {
                continue;
            };
            let needed = with_step(live);
            if needed <= free {
                if best.as_ref().is_none_or(|(least, _)| needed < *least) {
                    best = Some((needed, cluster));
                }
                continue;
            }
            shortage = Some(Shortage::new(dead, needed, free).merge_earlier(shortage));
        }
        let Some((_, cluster)) = best else {
            return Ok(shortage);
        };
        store.inner.database.compact_range(
            Family::Frames,
            &frame_key(cluster.first),
            &frame_key(cluster.last.advance_by(1)),
        );
        // One that stays what it is would be rewritten for ever.
        tried.push(cluster);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_overlaps_is_rewritten_together() {
        let span = |first: u64, last: u64, is_loose: bool| TableSpan {
            first: ChunkId(first),
            last: ChunkId(last),
            len: 10,
            is_loose,
        };
        let spans = [
            span(0, 9, false),
            span(10, 19, false),
            span(5, 14, false),
            span(40, 50, true),
            span(48, 60, true),
            span(55, 70, false),
            span(69, 80, false),
        ];
        let found = |range: Range<u64>| -> Vec<(u64, u64, u64)> {
            find_clusters(&spans, &(ChunkId(range.start)..ChunkId(range.end)))
                .iter()
                .map(|cluster| (cluster.first.0, cluster.last.0, cluster.len))
                .collect()
        };
        assert_eq!(
            found(0..3),
            [(0, 14, 20)],
            "a table and what lies below or above it"
        );
        assert_eq!(found(12..13), [(0, 19, 30), (5, 19, 20)]);
        assert_eq!(
            found(41..42),
            [(40, 70, 30)],
            "loose ones pull each other in"
        );
        assert_eq!(found(75..76), [(55, 80, 20)]);
        assert_eq!(found(20..40), []);
    }
}
