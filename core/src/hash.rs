//! The name of a chunk: the BLAKE3-256 of its plain bytes, computed for many chunks at once.
//!
//! One 4 KiB input leaves most of a wide vector unit idle; sixteen of them share its lanes.
//! `blake3::hash` cannot know that more inputs are waiting, so [`hash_chunks`] drives the same
//! compression function over a whole batch, level by level of the hash tree (BLAKE3 specification,
//! sections 2.1 and 2.5). The call it uses is hidden from blake3's documentation: the version is
//! pinned exactly, and a property test holds the result equal to `blake3::hash`.

use std::fmt;

use blake3::IncrementCounter;
use blake3::platform::Platform;

/// The length of a chunk's name in bytes.
pub const HASH_LEN: usize = 32;

/// BLAKE3's own leaf, which its specification calls a chunk.
const LEAF_LEN: usize = 1024;
/// The input of a parent node: two chaining values.
const PARENT_LEN: usize = 2 * HASH_LEN;
/// Inputs that one call of the vector code takes at most on any platform.
const LANES_MAX: usize = blake3::platform::MAX_SIMD_DEGREE;
/// Longer inputs fill the lanes by themselves, and `blake3::hash` is as fast.
const BATCHED_LEN_MAX: usize = 16 << 10;

const CHUNK_START: u8 = 1 << 0;
const CHUNK_END: u8 = 1 << 1;
const PARENT: u8 = 1 << 2;
const ROOT: u8 = 1 << 3;
const IV: [u32; 8] = [
    0x6A09_E667,
    0xBB67_AE85,
    0x3C6E_F372,
    0xA54F_F53A,
    0x510E_527F,
    0x9B05_688C,
    0x1F83_D9AB,
    0x5BE0_CD19,
];

/// The name of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkHash(pub [u8; HASH_LEN]);

impl ChunkHash {
    /// The name of one chunk.
    #[must_use]
    pub fn of_chunk(plain: &[u8]) -> Self {
        Self(*blake3::hash(plain).as_bytes())
    }

    /// The first eight bytes, under which the index keeps it.
    #[must_use]
    pub fn index_prefix(&self) -> [u8; 8] {
        self.0[..8]
            .try_into()
            .expect("a hash has more than eight bytes")
    }
}

impl fmt::Display for ChunkHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ChunkHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkHash({self})")
    }
}

/// The names of `chunks`, in order. All have the same length; they need not lie side by side.
#[must_use]
pub fn hash_chunks(chunks: &[&[u8]]) -> Vec<ChunkHash> {
    let chunk_len = chunks.first().map_or(0, |chunk| chunk.len());
    assert!(
        chunks.iter().all(|chunk| chunk.len() == chunk_len),
        "chunks hashed together have one length"
    );
    let batched =
        chunk_len.is_power_of_two() && (2 * LEAF_LEN..=BATCHED_LEN_MAX).contains(&chunk_len);
    if !batched {
        return chunks
            .iter()
            .map(|chunk| ChunkHash::of_chunk(chunk))
            .collect();
    }
    let platform = Platform::detect();
    let mut names = Vec::with_capacity(chunks.len());
    for group in chunks.chunks(LANES_MAX) {
        hash_group(platform, group, &mut names);
    }
    names
}

/// Hashes at most [`LANES_MAX`] chunks side by side.
fn hash_group(platform: Platform, group: &[&[u8]], names: &mut Vec<ChunkHash>) {
    let mut nodes = leaf_level(platform, group);
    let mut nodes_per_chunk = group[0].len() / LEAF_LEN;
    while nodes_per_chunk > 1 {
        nodes_per_chunk /= 2;
        let flags = if nodes_per_chunk == 1 {
            PARENT | ROOT
        } else {
            PARENT
        };
        nodes = parent_level(platform, &nodes, flags);
    }
    names.extend(
        nodes
            .as_chunks::<HASH_LEN>()
            .0
            .iter()
            .copied()
            .map(ChunkHash),
    );
}

/// The chaining values of all leaves, chunk after chunk. Leaf `n` of every chunk is hashed in one
/// call: they share their counter.
fn leaf_level(platform: Platform, group: &[&[u8]]) -> Vec<u8> {
    let leaves_per_chunk = group[0].len() / LEAF_LEN;
    let mut nodes = vec![0; group.len() * leaves_per_chunk * HASH_LEN];
    let mut values = [0; LANES_MAX * HASH_LEN];
    let values = &mut values[..group.len() * HASH_LEN];
    for leaf in 0..leaves_per_chunk {
        let mut inputs = [&[0; LEAF_LEN]; LANES_MAX];
        for (input, chunk) in inputs.iter_mut().zip(group) {
            *input = &chunk.as_chunks::<LEAF_LEN>().0[leaf];
        }
        platform.hash_many(
            &inputs[..group.len()],
            &IV,
            leaf as u64,
            IncrementCounter::No,
            0,
            CHUNK_START,
            CHUNK_END,
            values,
        );
        for (chunk, value) in values.chunks_exact(HASH_LEN).enumerate() {
            let at = (chunk * leaves_per_chunk + leaf) * HASH_LEN;
            nodes[at..at + HASH_LEN].copy_from_slice(value);
        }
    }
    nodes
}

/// The level above `nodes`: each two neighbours become one.
fn parent_level(platform: Platform, nodes: &[u8], flags: u8) -> Vec<u8> {
    let (pairs, _) = nodes.as_chunks::<PARENT_LEN>();
    let mut above = vec![0; pairs.len() * HASH_LEN];
    for (group, out) in pairs
        .chunks(LANES_MAX)
        .zip(above.chunks_mut(LANES_MAX * HASH_LEN))
    {
        let mut inputs = [&group[0]; LANES_MAX];
        for (input, pair) in inputs.iter_mut().zip(group) {
            *input = pair;
        }
        platform.hash_many(
            &inputs[..group.len()],
            &IV,
            0,
            IncrementCounter::No,
            flags,
            0,
            0,
            out,
        );
    }
    above
}

/// A checksum of `parts` under `key`, the record's place: it guards stored records against damage
/// *and* misdirection (a valid record that stands in another's place). 64 bits of BLAKE3 in its key
/// derivation mode; not a name, and not a proof against forgery.
#[must_use]
pub fn keyed_checksum(context: &str, parts: &[&[u8]]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().as_bytes()[..8]
        .try_into()
        .expect("a hash has more than eight bytes")
}

/// True if every byte of `plain` is zero. Looks at 64 bytes at a time, so that data is told from
/// zeros at its first difference.
#[must_use]
pub fn is_zero(plain: &[u8]) -> bool {
    let (blocks, tail) = plain.as_chunks::<64>();
    blocks
        .iter()
        .all(|block| block.iter().fold(0, |bits, byte| bits | byte) == 0)
        && tail.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batched_names_equal_blake3_for_every_chunk_length_and_batch_size() {
        let mut random = fastrand::Rng::with_seed(1);
        for chunk_len in [1, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 3000] {
            for count in [0, 1, 2, 15, 16, 17, 33] {
                let mut plain = vec![0; chunk_len * count];
                random.fill(&mut plain);
                let mut chunks: Vec<&[u8]> = plain.chunks_exact(chunk_len).collect();
                random.shuffle(&mut chunks);
                let expected: Vec<_> = chunks
                    .iter()
                    .map(|chunk| ChunkHash::of_chunk(chunk))
                    .collect();
                assert_eq!(
                    hash_chunks(&chunks),
                    expected,
                    "{count} chunks of {chunk_len}"
                );
            }
        }
    }

    #[test]
    fn one_set_bit_anywhere_is_not_zero() {
        for len in [0, 1, 63, 64, 65, 4096] {
            let mut plain = vec![0; len];
            assert!(is_zero(&plain), "{len}");
            for at in 0..len {
                plain[at] = 0x80;
                assert!(!is_zero(&plain), "{at} of {len}");
                plain[at] = 0;
            }
        }
    }

    #[test]
    fn a_checksum_depends_on_its_context_and_its_parts() {
        let sum = keyed_checksum("vellum test a", &[b"key", b"body"]);
        assert_eq!(sum, keyed_checksum("vellum test a", &[b"keybody"]));
        assert_ne!(sum, keyed_checksum("vellum test b", &[b"key", b"body"]));
        assert_ne!(sum, keyed_checksum("vellum test a", &[b"key", b"bodz"]));
    }
}
