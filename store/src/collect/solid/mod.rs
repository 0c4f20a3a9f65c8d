//! Solid blocks: frames that are alike, from anywhere in the store, compressed together
//! ([`vellum_core::solid`]).
//!
//! `likeness` decides which frames belong together, `regroup` moves them into blocks, `reclaim`
//! gives back the space of blocks that have lost their frames.
//!
//! **Who may move a frame.** Only a collection, or a step of maintenance, of which one runs at a
//! time; and a healing, which writes a frame under the key, with the ids and names that it has. All
//! write under the index lock. What is moved was held against its names before, so whichever of
//! the two comes last, the frame is right.
//!
//! **What a crash leaves.** A block, and the headers and references of its members, are one batch;
//! so are the deletion of a block and its last members as frames of their own. None is logged, all
//! are in the order in which the database makes such batches durable: a reference without its
//! block never survives. A block to which no header leads may, and the next collection deletes it.
//!
//! **Who may delete a block.** A collection that has read every header, and found none that is
//! damaged: a header that cannot be read may be a member's.

mod likeness;
mod reclaim;
mod regroup;

use std::collections::BTreeMap;

use vellum_core::frame::{FrameHeader, REFERENCE_LEN};
use vellum_core::units::SolidNumber;

pub(super) use reclaim::{compact_blocks, reclaim_blocks};
pub use regroup::{DeepOptions, DeepReport};
pub(super) use regroup::{forecast_regrouping, regroup_frames};

/// A block is taken apart when less than one part in this many of it lives.
pub(crate) const LIVE_PART_MIN: u64 = 2;

/// The solid blocks that live frames are part of.
#[derive(Default)]
pub(super) struct SolidUsage {
    blocks: BTreeMap<SolidNumber, BlockUsage>,
}

/// The part of a block that lives.
#[derive(Clone, Copy, Debug, Default)]
struct BlockUsage {
    live_chunks: u64,
    /// Bytes of the decoded block.
    block_len: u64,
    /// Bytes that the live part takes in the stored block.
    share_len: u64,
}

impl SolidUsage {
    /// Counts a frame that stays, if it is in a block.
    pub(super) fn count_member(&mut self, header: &FrameHeader) {
        let Some(solid) = header.solid else {
            return;
        };
        let usage = self.blocks.entry(solid.block).or_default();
        usage.live_chunks += header.chunk_count() as u64;
        usage.block_len = solid.block_len.into();
        usage.share_len += u64::from(header.payload_len.saturating_sub(REFERENCE_LEN));
    }
}

impl BlockUsage {
    /// True if the block takes more than what lives of it is worth.
    fn is_sparse(&self, chunk_len: u64) -> bool {
        self.live_chunks * chunk_len * LIVE_PART_MIN < self.block_len
    }

    /// Bytes of the stored block, about.
    fn stored_len(&self, chunk_len: u64) -> u64 {
        let live_len = self.live_chunks * chunk_len;
        (u128::from(self.share_len) * u128::from(self.block_len) / u128::from(live_len.max(1)))
            as u64
    }
}
