//! Decides the fate of a frame by how much of it is live: pure, for the sweep and for the dry run
//! alike.

use std::ops::Range;

use vellum_core::frame::{FrameHeader, SPAN_MAX};
use vellum_core::hash::ChunkHash;
use vellum_core::units::ChunkId;

/// Properties of a frame that decide its fate.
pub(crate) trait Packable {
    /// The id of its first chunk, and the id after its last.
    fn id_range(&self) -> Range<ChunkId>;

    /// The number of chunks in it.
    fn chunk_count(&self) -> usize;

    /// The number of live chunks in it.
    fn live_count(&self) -> usize;

    /// Bytes that its chunks take, wherever they are.
    fn payload_len(&self) -> u64;

    /// True if a dead chunk of it was found damaged: written again without it, it is whole, and
    /// checks find nothing.
    fn has_damage_to_drop(&self) -> bool {
        false
    }

    /// The fate of the frame. With a threshold of 3/4, dead chunks that stay take at most a third
    /// of the live ones, and taking one of four disks away rewrites little.
    fn decide_fate(&self, chunks_per_frame: usize) -> Fate {
        match self.live_count() {
            0 => Fate::Drop,
            live if live * 4 < self.chunk_count() * 3 => Fate::Sparse,
            _ if self.has_damage_to_drop() => Fate::Sparse,
            live if live * 2 <= chunks_per_frame => Fate::Small,
            _ => Fate::Keep,
        }
    }
}

/// A frame's header, and which of its chunks are live.
pub(crate) struct FrameLiveness {
    pub(super) header: FrameHeader,
    /// The length of the header as it is kept.
    pub(super) header_len: usize,
    live: Vec<bool>,
    live_count: usize,
    has_damage_to_drop: bool,
}

/// Fate of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// None of its chunks is live.
    Drop,
    /// It has so many dead chunks that it is worth writing again.
    Sparse,
    /// It is so small that it is better part of a neighbour.
    Small,
    /// It stays as it is.
    Keep,
}

/// Frames next to each other that are to become one.
pub(crate) struct FramePack<F = FrameLiveness> {
    pub(crate) frames: Vec<F>,
    live_count: usize,
    has_sparse: bool,
}

/// Puts frames, which come in id order, into packs.
pub(crate) struct Packer<F = FrameLiveness> {
    pub(super) chunks_per_frame: usize,
    open: FramePack<F>,
}

impl FrameLiveness {
    pub(super) fn new(header: FrameHeader, header_len: usize, live: Vec<bool>) -> Self {
        assert_eq!(
            header.chunk_count(),
            live.len(),
            "there is a decision about every chunk"
        );
        let live_count = live.iter().filter(|live| **live).count();
        Self {
            header,
            header_len,
            live,
            live_count,
            has_damage_to_drop: false,
        }
    }

    /// The same, with the chunks that `is_damaged` says were found damaged.
    pub(super) fn with_damage(mut self, is_damaged: impl Fn(ChunkId) -> bool) -> Self {
        let has_damage = self.select_chunks(false).any(|(id, _)| is_damaged(id));
        self.has_damage_to_drop = has_damage;
        self
    }

    /// The chunks that are live, or those that are not.
    pub(super) fn select_chunks(
        &self,
        live: bool,
    ) -> impl Iterator<Item = (ChunkId, ChunkHash)> + '_ {
        let chosen = self.live.iter().map(move |is_live| *is_live == live);
        self.header
            .chunk_hashes()
            .zip(chosen)
            .filter(|(_, chosen)| *chosen)
            .map(|((id, hash), _)| (id, *hash))
    }

    pub(super) fn dead_count(&self) -> usize {
        self.live.len() - self.live_count
    }
}

impl Packable for FrameLiveness {
    fn id_range(&self) -> Range<ChunkId> {
        self.header.first_id()..self.header.end_id()
    }

    fn chunk_count(&self) -> usize {
        self.live.len()
    }

    fn live_count(&self) -> usize {
        self.live_count
    }

    fn payload_len(&self) -> u64 {
        self.header.payload_len.into()
    }

    fn has_damage_to_drop(&self) -> bool {
        self.has_damage_to_drop
    }
}

impl<F> Default for FramePack<F> {
    fn default() -> Self {
        Self {
            frames: Vec::new(),
            live_count: 0,
            has_sparse: false,
        }
    }
}

impl<F: Packable> FramePack<F> {
    /// True if the frames would be fewer or shorter.
    pub(crate) fn is_worth_it(&self) -> bool {
        self.has_sparse || self.frames.len() > 1
    }

    /// The first chunk of its first frame.
    pub(crate) fn first_id(&self) -> ChunkId {
        self.frames[0].id_range().start
    }

    /// The id after its last chunk.
    pub(crate) fn end_id(&self) -> ChunkId {
        self.frames[self.frames.len() - 1].id_range().end
    }

    pub(crate) fn stored_len(&self) -> u64 {
        self.frames.iter().map(Packable::payload_len).sum()
    }

    fn has_room_for(&self, found: &F, chunks_per_frame: usize) -> bool {
        let ids = found.id_range();
        let first = self
            .frames
            .first()
            .map_or(ids.start, |frame| frame.id_range().start);
        self.live_count + found.live_count() <= chunks_per_frame
            && ids.end.0 - first.0 <= u64::from(SPAN_MAX)
    }
}

impl<F: Packable> Packer<F> {
    pub(crate) fn new(chunks_per_frame: usize) -> Self {
        Self {
            chunks_per_frame,
            open: FramePack::default(),
        }
    }

    /// Adds the next frame that is not dropped; the packs that are complete by that, one of them
    /// perhaps a frame that stays alone.
    pub(crate) fn push_frame(&mut self, found: F) -> Vec<FramePack<F>> {
        let fate = found.decide_fate(self.chunks_per_frame);
        let mut complete = Vec::new();
        if fate == Fate::Keep || !self.open.has_room_for(&found, self.chunks_per_frame) {
            complete.extend(self.close_pack());
        }
        self.open.live_count += found.live_count();
        self.open.has_sparse |= fate == Fate::Sparse;
        self.open.frames.push(found);
        if fate == Fate::Keep {
            complete.extend(self.close_pack());
        }
        complete
    }

    /// Ends the pack that is open: nothing that follows can be part of it.
    pub(crate) fn close_pack(&mut self) -> Option<FramePack<F>> {
        let pack = std::mem::take(&mut self.open);
        (!pack.frames.is_empty()).then_some(pack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame from id `first` on, of which the chunks marked `x` are live.
    fn found(first: u64, live: &str) -> FrameLiveness {
        let chunks = (0..live.len() as u64).map(|nth| {
            (
                ChunkId(first + nth),
                ChunkHash::of_chunk(&nth.to_le_bytes()),
            )
        });
        FrameLiveness::new(
            FrameHeader::new(chunks, 1),
            1,
            live.chars().map(|mark| mark == 'x').collect(),
        )
    }

    #[test]
    fn frames_are_packed_by_what_is_live() {
        let damaged = |live: &str, at: u64| {
            let found = found(0, live).with_damage(|id| id == ChunkId(at));
            found.decide_fate(8) == Fate::Sparse
        };
        assert!(damaged("xxxxxxx-", 7), "it is whole without its dead chunk");
        assert!(!damaged("xxxxxxx-", 3), "a live one is not left out");
        let table: &[(&[(u64, &str)], &[(usize, bool)])] = &[
            (&[(0, "xxxxxxxx")], &[(1, false)]),
            (&[(0, "xxx")], &[(1, false)]),
            (&[(0, "xxx"), (5, "xxx")], &[(2, true)]),
            (
                &[(0, "xxxx"), (5, "xxxx"), (10, "x")],
                &[(2, true), (1, false)],
            ),
            (
                &[(0, "xx"), (5, "xxxxxx"), (20, "xx")],
                &[(1, false), (1, false), (1, false)],
            ),
            (&[(0, "xxxxxx..")], &[(1, false)]),
            (&[(0, "xxxxx...")], &[(1, true)]),
            (
                &[(0, "xx......"), (8, "......xx"), (4096, "x")],
                &[(2, true), (1, false)],
            ),
            (&[(0, "x"), (4095, "x")], &[(2, true)]),
            (&[(0, "x"), (4096, "x")], &[(1, false), (1, false)]),
        ];
        for (frames, expected) in table {
            let mut packer = Packer::new(8);
            let mut packs: Vec<FramePack> = frames
                .iter()
                .flat_map(|(first, live)| packer.push_frame(found(*first, live)))
                .collect();
            packs.extend(packer.close_pack());
            let packs: Vec<(usize, bool)> = packs
                .iter()
                .map(|pack| (pack.frames.len(), pack.is_worth_it()))
                .collect();
            assert_eq!(packs, *expected, "{frames:?}");
        }
    }
}
