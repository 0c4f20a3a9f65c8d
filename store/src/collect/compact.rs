//! Reclaim phase of the collector: gives space back to the file system.
//!
//! `RocksDB` keeps deleted records until it compacts the files they are in, which it does by itself
//! only for files that change much. Those of a store hardly change, so this module decides which to
//! compact.
//!
//! It compares what files take with what is left, so it needs no memory of earlier collections,
//! interrupted ones included.

use std::collections::BTreeMap;
use std::ops::Range;

use vellum_core::frame::frame_key;
use vellum_core::units::ChunkId;

use super::live_bytes::{LiveLengths, REGION_IDS};
use super::tight::{self, Shortage};
use crate::database::Family;
use crate::error::StoreError;
use crate::store::Store;
use crate::watch::{Watch, go_on};

/// Dead bytes below which no range is rewritten.
const DEAD_LEN_MIN: u64 = 1 << 20;
/// The largest live part that is rewritten in one go: an interruption waits that long, and as much
/// free space is needed.
const COMPACTION_LEN_MAX: u64 = 512 << 20;
/// Bytes that the sweep writes before they become a file: see the database's write buffers.
const FILE_LEN: u64 = 64 << 20;
/// Live bytes under a file of the sweep up to which the file's whole range is rewritten if a part
/// of it is worth it.
const REACH_LEN_MAX: u64 = 2 << 30;
/// Headers, or index entries, up to which they are rewritten along with any frames. `RocksDB`
/// rewrites them by itself as soon as a few flushes have left files side by side, so what a
/// collection gives back of them, some hundredths of what it gives back in all, would depend on how
/// often was flushed before it, and could not be forecast.
const ALONG_LEN_MAX: u64 = 512 << 20;
/// Every key is below.
const END: [u8; 17] = [0xff; 17];

/// Rewrites ranges of files that hold too much that is dead, as far as there is room; what is dead
/// and stays for lack of it. What was deleted is flushed.
pub(super) fn compact_dead_ranges(
    store: &Store,
    live: &LiveLengths,
    page_bytes: u64,
    horizon: ChunkId,
    watch: &dyn Watch,
) -> Result<Option<Shortage>, StoreError> {
    let stored_len = |from, to| {
        store
            .inner
            .database
            .stored_len(Family::Frames, &frame_key(from), &frame_key(to))
    };
    let ranges = plan_rewrites(live, horizon, &stored_len);
    let is_rewriting = !ranges.is_empty();
    let mut lacks_room = store.inner.reserve.is_scarce();
    for (from, to, live_len) in ranges {
        go_on(watch)?;
        lacks_room |= !compact_range(
            store,
            Family::Frames,
            &frame_key(from),
            &frame_key(to),
            live_len,
        );
    }
    let shortage = if lacks_room {
        tight::give_back(store, &(ChunkId(0)..horizon), watch)?
    } else {
        None
    };
    go_on(watch)?;
    let database = &store.inner.database;
    for (family, live_len) in [(Family::Headers, live.headers), (Family::Pages, page_bytes)] {
        let table_len = database.table_bytes(family)?;
        if is_worth_it(table_len, live_len)
            || (family == Family::Headers && goes_along(is_rewriting, table_len))
        {
            compact_range(store, family, &[], &END, live_len);
        }
    }
    for family in [Family::Index, Family::Layers, Family::Names] {
        let (table_len, dead_len) = (database.table_bytes(family)?, database.dead_len(family)?);
        let is_due = is_worth_it(table_len, table_len.saturating_sub(dead_len));
        if is_due || (family == Family::Index && goes_along(is_rewriting, table_len)) {
            compact_range(store, family, &[], &END, table_len);
        }
    }
    Ok(shortage)
}

/// Merges the tables of every family but the frames' where the file system has few names of files
/// left: each flush makes one for each family.
pub(super) fn merge_tables_if_names_are_few(store: &Store) {
    if !store.inner.reserve.has_few_names() {
        return;
    }
    let others = Family::ALL
        .into_iter()
        .filter(|family| *family != Family::Frames);
    for family in others {
        store.inner.database.compact_range(family, &[], &END);
    }
}

/// An eighth of what is left, so that rewriting gives back at least that much of what it costs.
pub(crate) fn is_worth_it(stored_len: u64, live_len: u64) -> bool {
    stored_len.saturating_sub(live_len) > DEAD_LEN_MIN.max(live_len / 8)
}

/// True if headers, or index entries, that take `stored_len` bytes in files are rewritten, however
/// few of them are dead: only along with frames.
pub(crate) fn goes_along(is_rewriting: bool, stored_len: u64) -> bool {
    is_rewriting && stored_len <= ALONG_LEN_MAX
}

/// The ranges of frames below `horizon` to rewrite, in order, and what lives in them. `stored_len`
/// tells what frames in a range of ids take in files.
///
/// Those are the ranges that are worth it. What the sweep itself wrote, deletions included, lies in
/// files that reach over many ranges, and `RocksDB` rewrites most of what such a file reaches over
/// along with any part of it. It is asked for all of that, so that what a collection gives back can
/// be foretold.
pub(crate) fn plan_rewrites(
    live: &LiveLengths,
    horizon: ChunkId,
    stored_len: &dyn Fn(ChunkId, ChunkId) -> u64,
) -> Vec<(ChunkId, ChunkId, u64)> {
    let worthwhile = worthwhile_ranges(live, horizon, stored_len);
    let touches = |file: &Range<u64>| {
        worthwhile
            .iter()
            .any(|range| range.start < file.end && file.start < range.end)
    };
    let reached: Vec<Range<u64>> = files_of(&live.written)
        .into_iter()
        .filter(touches)
        .filter(|file| len_in(live, file) <= REACH_LEN_MAX)
        .collect();
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut all = [worthwhile, reached].concat();
    all.sort_unstable_by_key(|range| range.start);
    for range in all {
        match ranges.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => ranges.push(range),
        }
    }
    let ids = |region: u64| ChunkId(region.saturating_mul(REGION_IDS).min(horizon.0));
    ranges
        .iter()
        .flat_map(|range| split_regions(live, range))
        .map(|(range, len)| (ids(range.start), ids(range.end), len))
        .collect()
}

/// Live bytes in a range of regions.
fn len_in(live: &LiveLengths, regions: &Range<u64>) -> u64 {
    live.payloads
        .range(regions.clone())
        .map(|(_, len)| *len)
        .sum()
}

/// A range of regions in parts of which each can be rewritten in one go.
fn split_regions(live: &LiveLengths, regions: &Range<u64>) -> Vec<(Range<u64>, u64)> {
    let (mut pieces, mut piece, mut len) = (Vec::new(), regions.start..regions.end, 0);
    for (region, live_len) in live.payloads.range(regions.clone()) {
        if len > 0 && len + live_len > COMPACTION_LEN_MAX {
            pieces.push((piece.start..*region, len));
            (piece.start, len) = (*region, 0);
        }
        len += live_len;
    }
    pieces.push((piece, len));
    pieces
}

/// The regions that the files reach over in which ends up what a sweep writes, in the order of ids.
fn files_of(written: &BTreeMap<u64, u64>) -> Vec<Range<u64>> {
    let (mut files, mut len): (Vec<Range<u64>>, u64) = (Vec::new(), 0);
    for (region, bytes) in written {
        match files.last_mut() {
            Some(last) if len < FILE_LEN => last.end = region + 1,
            _ => {
                files.push(*region..region + 1);
                len = 0;
            }
        }
        len += bytes;
    }
    files
}

/// The ranges of regions that are worth rewriting.
fn worthwhile_ranges(
    live: &LiveLengths,
    horizon: ChunkId,
    stored_len: &dyn Fn(ChunkId, ChunkId) -> u64,
) -> Vec<Range<u64>> {
    let (mut ranges, mut at) = (Vec::new(), 0);
    let regions = live.payloads.iter().map(|(region, len)| (*region, *len));
    // A region without live bytes is not listed: each range begins where the last one ends.
    for (region, live_len) in regions.chain([(horizon.0.div_ceil(REGION_IDS), 0)]) {
        for (range, live_len) in [(at..region, 0), (region..region + 1, live_len)] {
            let ids = |region: u64| ChunkId((region * REGION_IDS).min(horizon.0));
            let (from, to) = (ids(range.start), ids(range.end));
            if from < to && is_worth_it(stored_len(from, to), live_len) {
                ranges.push(range);
            }
        }
        at = region + 1;
    }
    ranges
}

/// Rewrites a range, if there is room for what lives in it; whether there was.
pub(super) fn compact_range(
    store: &Store,
    family: Family,
    from: &[u8],
    to: &[u8],
    live_len: u64,
) -> bool {
    let needed = live_len.min(COMPACTION_LEN_MAX) + store.inner.sizes.commit_margin;
    let has_room = store.inner.reserve.check_room(needed).is_ok();
    if has_room {
        store.inner.database.compact_range(family, from, to);
    }
    has_room
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Ranges that are rewritten, with their live mebibytes, of regions of which each takes
    /// `stored`, `live` and `written` mebibytes.
    fn rewritten(regions: &[(u64, u64, Option<u64>)]) -> Vec<(u64, u64, u64)> {
        let mut live = LiveLengths::default();
        for (region, (_, left, written)) in (0..).zip(regions) {
            if *left > 0 {
                live.add_frame(ChunkId(region * REGION_IDS), left * MIB, 0);
            }
            written
                .iter()
                .for_each(|written| live.note_change(ChunkId(region * REGION_IDS), written * MIB));
        }
        let stored_len = |from: ChunkId, to: ChunkId| -> u64 {
            let range = (from.0 / REGION_IDS) as usize..to.0.div_ceil(REGION_IDS) as usize;
            regions[range].iter().map(|(stored, ..)| stored * MIB).sum()
        };
        let horizon = ChunkId(regions.len() as u64 * REGION_IDS - 5);
        let found = plan_rewrites(&live, horizon, &stored_len);
        assert!(
            found.windows(2).all(|pair| pair[0].1 <= pair[1].0),
            "no range is rewritten twice"
        );
        found
            .iter()
            .map(|(from, to, len)| (from.0 / REGION_IDS, to.0.div_ceil(REGION_IDS), len / MIB))
            .collect()
    }

    #[test]
    fn what_is_worth_it_is_rewritten_with_all_that_the_same_file_reaches() {
        type Case<'c> = (&'c [(u64, u64, Option<u64>)], &'c [(u64, u64, u64)]);
        let table: &[Case<'_>] = &[
            (&[(100, 100, None), (100, 95, Some(0))], &[]),
            (
                &[(100, 100, None), (100, 80, Some(0)), (100, 100, None)],
                &[(1, 2, 80)],
            ),
            (
                &[
                    (100, 99, Some(1)),
                    (100, 100, None),
                    (100, 80, Some(0)),
                    (100, 100, None),
                ],
                &[(0, 3, 279)],
            ),
            (
                &[
                    (100, 99, Some(70)),
                    (100, 100, None),
                    (100, 80, Some(0)),
                    (100, 100, None),
                ],
                &[(2, 3, 80)],
            ),
            (
                &[
                    (100, 100, None),
                    (50, 0, Some(0)),
                    (100, 100, None),
                    (0, 0, None),
                ],
                &[(1, 2, 0)],
            ),
            (
                &[(300, 299, Some(0)), (300, 300, None), (300, 200, Some(0))],
                &[(0, 1, 299), (1, 3, 500)],
            ),
            (
                &[(1500, 1499, Some(0)), (800, 800, None), (300, 200, Some(0))],
                &[(2, 3, 200)],
            ),
        ];
        for (regions, expected) in table {
            assert_eq!(rewritten(regions), *expected, "{regions:?}");
        }
    }
}
