//! Reads frames whose bytes are in a solid block: a block is decoded once for the frames that are
//! wanted of it one after the other.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use vellum_core::solid::{SolidBlock, SolidPlace, solid_key};
use vellum_core::units::{ChunkId, SolidNumber};

use crate::codec;
use crate::database::{Database, Family};
use crate::error::StoreError;

/// Blocks that a cache makes room for, before it knows how long they are.
const BLOCKS_EXPECTED: usize = 64;

/// A decoded block. Its chunks are not held against their names yet.
pub(crate) struct DecodedSolid {
    plain: Vec<u8>,
    /// Length of the block as it is kept.
    stored_len: usize,
    /// First chunk of each member, and where its bytes begin.
    members: Vec<(ChunkId, u32)>,
}

/// Decoded blocks up to a budget of bytes.
pub(super) struct SolidReader(Cache<SolidNumber, Arc<DecodedSolid>, SolidWeighter>);

#[derive(Clone)]
struct SolidWeighter;

impl Weighter<SolidNumber, Arc<DecodedSolid>> for SolidWeighter {
    fn weight(&self, _: &SolidNumber, block: &Arc<DecodedSolid>) -> u64 {
        block.plain.len() as u64
    }
}

/// Bytes of a stored block of `stored_len` bytes that a member takes which is `member_len` of its
/// `plain_len` bytes.
pub(crate) fn share_of_block(stored_len: usize, plain_len: u32, member_len: u32) -> u32 {
    let share = stored_len as u64 * u64::from(member_len) / u64::from(plain_len.max(1));
    share as u32
}

impl DecodedSolid {
    /// Reads and decodes block `number`.
    pub(crate) fn read_block(database: &Database, number: SolidNumber) -> Result<Self, StoreError> {
        let damaged =
            |reason: String| StoreError::damaged_record(format!("solid block {number}"), reason);
        let stored = database
            .get(Family::Frames, &solid_key(number))?
            .ok_or_else(|| damaged("it is gone".to_owned()))?;
        let block =
            SolidBlock::decode(number, &stored).map_err(|error| damaged(error.to_string()))?;
        let plain_len = block.plain_len() as usize;
        let plain =
            codec::decompress_frame(block.codec, block.compressed, plain_len).map_err(damaged)?;
        let members = block
            .places()
            .map(|(member, place)| (member.first, place.start))
            .collect();
        Ok(Self {
            stored_len: stored.len(),
            plain,
            members,
        })
    }

    /// Its length in bytes.
    pub(crate) fn plain_len(&self) -> u32 {
        self.plain.len() as u32
    }

    /// Bytes of the stored block that a member of `plain_len` bytes takes.
    pub(crate) fn share_len(&self, plain_len: u32) -> u32 {
        share_of_block(self.stored_len, self.plain_len(), plain_len)
    }

    /// First chunks of the frames that it was made of.
    pub(crate) fn members(&self) -> impl Iterator<Item = ChunkId> + '_ {
        self.members.iter().map(|(first, _)| *first)
    }

    /// The bytes of the frame that begins with `first`, of which a reference says that they are the
    /// `plain_len` bytes from `offset` on.
    pub(crate) fn frame_bytes(&self, first: ChunkId, offset: u32, plain_len: u32) -> Option<&[u8]> {
        let is_member = self.members.contains(&(first, offset));
        let start = offset as usize;
        let bytes = self.plain.get(start..start + plain_len as usize)?;
        is_member.then_some(bytes)
    }
}

impl SolidReader {
    /// `len_max` bytes of decoded blocks are kept.
    pub(super) fn new(len_max: u64) -> Self {
        Self(Cache::with_weighter(
            BLOCKS_EXPECTED,
            len_max,
            SolidWeighter,
        ))
    }

    /// The `plain_len` bytes at `place`, of the frame that begins with `first`. Callers that want
    /// the same block at once wait for one of them to decode it.
    pub(super) fn read_frame_bytes(
        &self,
        database: &Database,
        first: ChunkId,
        place: SolidPlace,
        plain_len: u32,
    ) -> Result<Vec<u8>, StoreError> {
        let block = self.0.get_or_insert_with(&place.block, || {
            DecodedSolid::read_block(database, place.block).map(Arc::new)
        })?;
        let bytes = block.frame_bytes(first, place.offset, plain_len);
        bytes.map(<[u8]>::to_vec).ok_or_else(|| {
            StoreError::damaged_record(
                format!("frame {first}"),
                format!("solid block {} does not have it", place.block),
            )
        })
    }

    /// Forgets block `number`, which is gone.
    pub(super) fn forget_block(&self, number: SolidNumber) {
        self.0.remove(&number);
    }

    #[cfg(test)]
    pub(super) fn forget_all(&self) {
        self.0.clear();
    }
}
