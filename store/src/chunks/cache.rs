//! Cache of decoded frames in memory, found by any chunk that they hold. It knows frames by their
//! ids only, not where they come from.
//!
//! A chunk id always stands for the same bytes, so a cached frame stays valid for ever, also after
//! the collector has moved its chunks into another frame. Only a damaged frame is evicted when it
//! is healed. Readers share the lock; it is held exclusively only while a frame is put in, which
//! follows some 100 microseconds of decoding.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use vellum_core::units::ChunkId;

use super::decoded_frame::DecodedFrame;

/// Frames up to a budget of bytes.
pub(super) struct FrameCache(RwLock<CacheState>);

struct CacheState {
    /// Frames by their first id. Seldom overlapping: what the collector has merged is replaced.
    frames: BTreeMap<ChunkId, CachedFrame>,
    len: u64,
    len_max: u64,
    /// Position of the clock hand, from which the search for an unused frame goes on: it passes
    /// every frame once before it comes back.
    hand: ChunkId,
}

struct CachedFrame {
    frame: Arc<DecodedFrame>,
    /// True if it was asked for since the hand passed.
    is_used: AtomicBool,
}

impl FrameCache {
    pub(super) fn new(len_max: u64) -> Self {
        Self(RwLock::new(CacheState {
            frames: BTreeMap::new(),
            len: 0,
            len_max,
            hand: ChunkId(0),
        }))
    }

    /// Limits the cache to `len` bytes from now on.
    pub(super) fn set_len_max(&self, len: u64) {
        self.change_state(|state| state.len_max = len);
    }

    /// The frame that holds `id`, if it is here.
    pub(super) fn get(&self, id: ChunkId) -> Option<Arc<DecodedFrame>> {
        let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let (_, entry) = state.frames.range(..=id).next_back()?;
        entry.frame.header.payload_index(id)?;
        // Written only when it changes: readers on several cores share the line.
        if !entry.is_used.load(Ordering::Relaxed) {
            entry.is_used.store(true, Ordering::Relaxed);
        }
        Some(Arc::clone(&entry.frame))
    }

    /// Keeps `frame` until room is needed for others. Frames that it was made of go.
    pub(super) fn insert(&self, frame: &Arc<DecodedFrame>) {
        let (first, end) = (frame.header.first_id(), frame.header.end_id());
        self.change_state(|state| {
            while let Some((old, _)) = state.frames.range(first..end).next() {
                let old = *old;
                state.remove_frame(old);
            }
            state.len += frame.memory_len();
            state.frames.insert(
                first,
                CachedFrame {
                    frame: Arc::clone(frame),
                    is_used: AtomicBool::new(false),
                },
            );
        });
    }

    /// Forgets the frames that hold some of the ids in `[first, end)`.
    pub(super) fn evict_range(&self, first: ChunkId, end: ChunkId) {
        self.change_state(|state| {
            let reaches = |(start, entry): (&ChunkId, &CachedFrame)| {
                (entry.frame.header.end_id() > first).then_some(*start)
            };
            let before = state.frames.range(..first).next_back().and_then(reaches);
            let inside = state.frames.range(first..end).map(|(start, _)| *start);
            let gone: Vec<ChunkId> = before.into_iter().chain(inside).collect();
            gone.into_iter().for_each(|start| state.remove_frame(start));
        });
    }

    /// Forgets all frames.
    #[cfg(test)]
    pub(super) fn clear(&self) {
        self.change_state(|state| (state.frames, state.len) = (BTreeMap::new(), 0));
    }

    fn change_state(&self, change: impl FnOnce(&mut CacheState)) {
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        state.evict_to_budget();
    }
}

impl CacheState {
    fn remove_frame(&mut self, first: ChunkId) {
        if let Some(entry) = self.frames.remove(&first) {
            self.len -= entry.frame.memory_len();
        }
    }

    /// Removes frames until the others are within the budget: those first that were not used since
    /// the hand last came by.
    fn evict_to_budget(&mut self) {
        while self.len > self.len_max {
            let next = self
                .frames
                .range((Bound::Excluded(self.hand), Bound::Unbounded))
                .next();
            let Some((first, entry)) = next.or_else(|| self.frames.first_key_value()) else {
                return;
            };
            self.hand = *first;
            if !entry.is_used.swap(false, Ordering::Relaxed) {
                self.remove_frame(self.hand);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use vellum_core::frame::FrameHeader;
    use vellum_core::hash::ChunkHash;

    use super::*;

    fn frame(ids: &[u64]) -> Arc<DecodedFrame> {
        let chunks = ids
            .iter()
            .map(|id| (ChunkId(*id), ChunkHash::of_chunk(&id.to_le_bytes())));
        Arc::new(DecodedFrame::for_test(
            FrameHeader::new(chunks, 1),
            vec![0; ids.len() * 4096],
            4096,
        ))
    }

    #[test]
    fn a_frame_is_found_by_what_it_holds_and_replaced_by_what_it_became() {
        let cache = FrameCache::new(1 << 30);
        cache.insert(&frame(&[10, 11, 14]));
        cache.insert(&frame(&[20, 21]));
        for (id, found) in [
            (9, None),
            (10, Some(10)),
            (11, Some(10)),
            (12, None),
            (14, Some(10)),
            (15, None),
            (21, Some(20)),
            (22, None),
        ] {
            assert_eq!(
                cache
                    .get(ChunkId(id))
                    .map(|frame| frame.header.first_id().0),
                found,
                "{id}"
            );
        }
        cache.insert(&frame(&[10, 14, 21]));
        assert!(
            cache.get(ChunkId(20)).is_none()
                && cache
                    .get(ChunkId(21))
                    .is_some_and(|frame| frame.header.first_id() == ChunkId(10))
        );
        assert_eq!(cache.0.read().expect("sound").frames.len(), 1);
        cache.insert(&frame(&[30, 31]));
        cache.evict_range(ChunkId(31), ChunkId(40));
        assert!(cache.get(ChunkId(30)).is_none() && cache.get(ChunkId(10)).is_some());
        cache.evict_range(ChunkId(9), ChunkId(11));
        assert_eq!(cache.0.read().expect("sound").len, 0);
    }

    #[test]
    fn memory_is_bounded_and_what_is_used_stays() {
        let one_len = frame(&[1]).memory_len();
        let cache = FrameCache::new(10 * one_len);
        for id in 0..1000 {
            cache.insert(&frame(&[id]));
            assert!(
                cache.get(ChunkId(0)).is_some(),
                "the one that is used all the time is there after {id}"
            );
            assert!(cache.0.read().expect("sound").len <= 10 * one_len);
        }
        cache.set_len_max(one_len - 1);
        assert_eq!(cache.0.read().expect("sound").len, 0);
        cache.insert(&frame(&[5]));
        assert!(
            cache.get(ChunkId(5)).is_none(),
            "what is larger than the budget is not kept"
        );
    }
}
