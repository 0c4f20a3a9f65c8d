//! Giving space back to the file system: `RocksDB` keeps deleted records until it rewrites the files they are in, which it does for those
//! that change much. Ours hardly do, so here is said which to rewrite.
//!
//! It compares what files take with what is left, so it needs no memory of earlier collections, interrupted ones included.

use vellum_core::frame::frame_key;
use vellum_core::units::ChunkId;

use super::go_on;
use super::sweep::{Live, REGION_IDS};
use crate::database::Family;
use crate::error::StoreError;
use crate::store::Store;
use crate::watch::Watch;

/// Dead bytes below which no range is rewritten.
const DEAD_LEN_MIN: u64 = 1 << 20;
/// The largest live part that is rewritten in one go: an interruption waits that long, and as much free space is needed.
const COMPACTION_LEN_MAX: u64 = 512 << 20;
/// Every key is below.
const END: [u8; 17] = [0xff; 17];

/// Rewrites ranges of files that hold too much that is dead. What was deleted is flushed.
pub(super) fn reclaim(store: &Store, live: &Live, page_bytes: u64, horizon: ChunkId, watch: &dyn Watch) -> Result<(), StoreError> {
    for (from, to, live_len) in worthwhile(store, live, horizon) {
        go_on(watch)?;
        compact(store, Family::Frames, &frame_key(from), &frame_key(to), live_len);
    }
    go_on(watch)?;
    let database = &store.inner.database;
    for (family, live_len) in [(Family::Headers, live.headers), (Family::Pages, page_bytes)] {
        if is_worth_it(database.table_bytes(family)?, live_len) {
            compact(store, family, &[], &END, live_len);
        }
    }
    for family in [Family::Index, Family::Layers, Family::Names] {
        let (table_len, dead_len) = (database.table_bytes(family)?, database.dead_len(family)?);
        if is_worth_it(table_len, table_len.saturating_sub(dead_len)) {
            compact(store, family, &[], &END, table_len);
        }
    }
    Ok(())
}

/// An eighth of what is left, so that rewriting gives back at least that much of what it costs.
fn is_worth_it(stored_len: u64, live_len: u64) -> bool {
    stored_len.saturating_sub(live_len) > DEAD_LEN_MIN.max(live_len / 8)
}

/// The ranges of frames below `horizon` that are worth rewriting, neighbours joined, and what lives in them.
fn worthwhile(store: &Store, live: &Live, horizon: ChunkId) -> Vec<(ChunkId, ChunkId, u64)> {
    let mut ranges: Vec<(ChunkId, ChunkId, u64)> = Vec::new();
    let mut at = 0;
    let regions = live.payloads.iter().map(|(region, len)| (region * REGION_IDS, *len));
    // Where nothing lives there is no region: each range begins where the last one ends.
    for (start, live_len) in regions.chain([(horizon.0, 0)]) {
        let gap = (at < start).then_some((at, start, 0));
        let end = (start + REGION_IDS).min(horizon.0);
        for (from, to, live_len) in gap.into_iter().chain([(start, end, live_len)]) {
            let (from, to) = (ChunkId(from), ChunkId(to));
            let stored_len = store.inner.database.stored_len(Family::Frames, &frame_key(from), &frame_key(to));
            if !is_worth_it(stored_len, live_len) {
                continue;
            }
            match ranges.last_mut() {
                Some(last) if last.1 == from && last.2 + live_len <= COMPACTION_LEN_MAX => *last = (last.0, to, last.2 + live_len),
                _ => ranges.push((from, to, live_len)),
            }
        }
        at = end;
    }
    ranges
}

/// Rewrites a range, if there is room for what lives in it.
fn compact(store: &Store, family: Family, from: &[u8], to: &[u8], live_len: u64) {
    if store.inner.folder.check_room(live_len.min(COMPACTION_LEN_MAX)).is_ok() {
        store.inner.database.compact(family, from, to);
    }
}
