//! All frames at one point in time, and every chunk's rank: its number among the chunks that are
//! there, in the order of ids.

use std::ops::Range;

use vellum_core::frame::{FrameHeader, SolidMembership};
use vellum_core::units::ChunkId;

/// Ids of one segment of [`ChunkRanks`]: 10 KiB.
const SEGMENT_IDS: u64 = 1 << 16;
const WORDS: usize = (SEGMENT_IDS / 64) as usize;

/// A frame, without names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameSummary {
    pub(crate) first: ChunkId,
    /// Bytes that its chunks take, wherever they are.
    pub(crate) payload_len: u32,
    /// Bytes of them among the payloads of frames.
    pub(crate) own_payload_len: u32,
    /// The solid block that has the others.
    pub(crate) solid: Option<SolidMembership>,
    /// Ids from the first to the last.
    pub(crate) span: u16,
    /// Chunks that are there.
    pub(crate) count: u16,
}

/// Map from ids to ranks: a bit for each id, and counts of them, in segments that exist only where
/// a bit is set.
#[derive(Default)]
pub(super) struct ChunkRanks {
    segments: Vec<RankSegment>,
    len: u64,
}

struct RankSegment {
    number: u64,
    /// Chunks in the segments before.
    before: u64,
    bits: Box<[u64; WORDS]>,
    /// Chunks of this segment before each word.
    counts: Box<[u16; WORDS]>,
}

impl FrameSummary {
    pub(super) fn from_header(header: &FrameHeader) -> Self {
        let span = header.end_id().0 - header.first_id().0;
        Self {
            first: header.first_id(),
            payload_len: header.payload_len,
            own_payload_len: header.own_payload_len(),
            solid: header.solid,
            span: span as u16,
            count: header.chunk_count() as u16,
        }
    }

    /// The id after its last chunk.
    pub(crate) fn end_id(&self) -> ChunkId {
        self.first.advance_by(self.span.into())
    }

    /// The bytes of its payload that chunk `nth` takes: of all together, the payload's length.
    pub(super) fn chunk_share(&self, nth: u16) -> u64 {
        self.share_before(nth + 1) - self.share_before(nth)
    }

    /// The bytes of its payload that the chunks before `nth` take.
    pub(super) fn share_before(&self, nth: u16) -> u64 {
        u64::from(self.payload_len) * u64::from(nth) / u64::from(self.count)
    }
}

impl ChunkRanks {
    /// Adds the chunks of the next frame.
    pub(super) fn push_frame(&mut self, header: &FrameHeader) {
        for (id, _) in header.chunk_hashes() {
            let (number, within) = (id.0 / SEGMENT_IDS, id.0 % SEGMENT_IDS);
            if self.segments.last().is_none_or(|last| last.number < number) {
                let (bits, counts) = (Box::new([0; WORDS]), Box::new([0; WORDS]));
                self.segments.push(RankSegment {
                    number,
                    before: self.len,
                    bits,
                    counts,
                });
            }
            let segment = self.segments.last_mut().expect("there is one for this id");
            segment.bits[within as usize / 64] |= 1 << (within % 64);
            self.len += 1;
        }
    }

    /// Counts, once all frames are there.
    pub(super) fn finish_counts(&mut self) {
        for segment in &mut self.segments {
            let mut count = 0_u32;
            for (word, before) in segment.bits.iter().zip(segment.counts.iter_mut()) {
                // Before the last word of a full segment there are less than 2^16.
                *before = count as u16;
                count += word.count_ones();
            }
        }
    }

    /// The rank of `id`.
    fn rank_of(&self, id: ChunkId) -> Option<u64> {
        let (number, within) = (id.0 / SEGMENT_IDS, id.0 % SEGMENT_IDS);
        let at = self
            .segments
            .binary_search_by_key(&number, |segment| segment.number)
            .ok()?;
        let (segment, word, bit) = (&self.segments[at], within as usize / 64, within % 64);
        let is_there = segment.bits[word] >> bit & 1 == 1;
        let below = segment.bits[word] & ((1 << bit) - 1);
        is_there.then(|| {
            segment.before + u64::from(segment.counts[word]) + u64::from(below.count_ones())
        })
    }

    /// The ranks of the `count` chunks from `first` on, as ranges; how many of them are not there.
    pub(super) fn visit_ranks(
        &self,
        first: ChunkId,
        count: u16,
        mut visit: impl FnMut(Range<u64>),
    ) -> u64 {
        let last = ChunkId(first.0.saturating_add(u64::from(count) - 1));
        if let (Some(from), Some(to)) = (self.rank_of(first), self.rank_of(last))
            && to - from == u64::from(count) - 1
        {
            visit(from..to + 1);
            return 0;
        }
        let mut missing = 0;
        for nth in 0..u64::from(count) {
            match self.rank_of(ChunkId(first.0.saturating_add(nth))) {
                Some(rank) => visit(rank..rank + 1),
                None => missing += 1,
            }
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use vellum_core::hash::ChunkHash;

    use super::*;

    #[test]
    fn ranks_count_what_is_there_and_tell_what_is_not() {
        let mut random = fastrand::Rng::with_seed(31);
        let (mut ranks, mut model, mut next) = (ChunkRanks::default(), BTreeMap::new(), 0_u64);
        for _ in 0..3000 {
            next += if random.u8(..50) == 0 {
                random.u64(..200_000)
            } else {
                random.u64(..3)
            };
            let count = random.u64(1..40);
            let ids: Vec<ChunkId> = (next..next + count)
                .filter(|id| *id == next || random.u8(..4) > 0)
                .map(ChunkId)
                .collect();
            let header =
                FrameHeader::new(ids.iter().map(|id| (*id, ChunkHash::of_chunk(b""))), 1000);
            ranks.push_frame(&header);
            for id in ids {
                model.insert(id.0, model.len() as u64);
            }
            next += count;
        }
        ranks.finish_counts();
        assert_eq!(ranks.len, model.len() as u64);
        for _ in 0..5000 {
            let (first, count) = (random.u64(..next + 100), random.u16(1..60));
            let mut found = Vec::new();
            let missing = ranks.visit_ranks(ChunkId(first), count, |range| found.extend(range));
            let expected: Vec<u64> = (first..first + u64::from(count))
                .filter_map(|id| model.get(&id).copied())
                .collect();
            assert_eq!(found, expected);
            assert_eq!(missing, u64::from(count) - expected.len() as u64);
        }
    }

    #[test]
    fn the_shares_of_a_frame_add_up_to_it() {
        for (payload_len, count) in [(0, 1), (1, 3), (1000, 7), (131_086, 32), (u32::MAX, 4096)] {
            let frame = FrameSummary {
                first: ChunkId(5),
                payload_len,
                own_payload_len: payload_len,
                solid: None,
                span: count,
                count,
            };
            assert_eq!(
                (0..count).map(|nth| frame.chunk_share(nth)).sum::<u64>(),
                u64::from(payload_len)
            );
        }
    }
}
