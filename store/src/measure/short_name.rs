//! Name of a chunk, shortened for counting.

use vellum_core::hash::ChunkHash;

/// The first eight bytes of a hash, as a number.
pub(super) type ShortName = u64;

/// A name, shortened for counting.
pub(super) fn shortened(name: &ChunkHash) -> ShortName {
    u64::from_be_bytes(name.index_prefix())
}
