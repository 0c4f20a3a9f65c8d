//! Numbers that wear their unit, and the only conversions between them.
//!
//! Offsets and lengths are bytes; indexes and counts are positions and amounts on an image's chunk
//! grid; ids are codes that the store gave out. None converts into another outside this file.

use std::fmt;

/// The smallest chunk: the page size of every file system that Vellum's users run, and where
/// deduplication finds most.
pub const CHUNK_LEN_MIN: u32 = 4 << 10;
/// The largest chunk: above it a single changed sector costs more than a frame.
pub const CHUNK_LEN_MAX: u32 = 1 << 20;
/// The largest image: 2^56 bytes (64 PiB), far above qemu's and every file system's limit, low
/// enough that no sum of a few overflows.
pub const IMAGE_LEN_MAX: u64 = 1 << 56;

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

unit!(
    /// A position on the chunk grid of an image: chunk `i` covers the bytes from `i * chunk_len`.
    ChunkIndex
);
unit!(
    /// An amount of chunks.
    ChunkCount
);
unit!(
    /// The store's dictionary code for a chunk hash, given in arrival order and never given twice.
    ChunkId
);
unit!(
    /// The number of a solid block inside one store.
    SolidNumber
);
unit!(
    /// The name of a layer inside one store, never given twice.
    LayerId
);
unit!(
    /// The name of an image inside one store that stays when the image is renamed; never given
    /// twice.
    ImageId
);
unit!(
    /// The name of a machine inside one store; never given twice.
    MachineId
);
unit!(
    /// The name of a machine's configuration file inside one store; never given twice.
    ConfigurationId
);
unit!(
    /// A position among the pages of a layer: page `p` covers the chunk positions from `p *
    /// PAGE_SPAN`.
    PageIndex
);

impl ChunkIndex {
    /// The position `count` further on.
    #[must_use]
    pub fn advance_by(self, count: u64) -> Self {
        Self(self.0 + count)
    }
}

impl ChunkId {
    /// The id `count` further on.
    #[must_use]
    pub fn advance_by(self, count: u64) -> Self {
        Self(self.0 + count)
    }
}

/// The length of every chunk of a store: a power of two from 4 KiB to 1 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkLen(u32);

impl ChunkLen {
    /// The default: see the measurements in ARCHITECTURE.md.
    pub const DEFAULT: Self = Self(CHUNK_LEN_MIN);

    /// `bytes` as a chunk length, if it is a power of two in bounds.
    #[must_use]
    pub fn new(bytes: u32) -> Option<Self> {
        let fits = bytes.is_power_of_two() && (CHUNK_LEN_MIN..=CHUNK_LEN_MAX).contains(&bytes);
        fits.then_some(Self(bytes))
    }

    /// The length in bytes.
    #[must_use]
    pub fn byte_len(self) -> u64 {
        u64::from(self.0)
    }

    /// The length in bytes, for slices.
    #[must_use]
    pub fn as_usize(self) -> usize {
        self.0 as usize
    }

    /// The position of the chunk that holds the byte at `offset`.
    #[must_use]
    pub fn index_at(self, offset: u64) -> ChunkIndex {
        ChunkIndex(offset / self.byte_len())
    }

    /// The first byte of the chunk at `index`. Panics past 2^64 bytes, which no verified image
    /// reaches.
    #[must_use]
    pub fn offset_of(self, index: ChunkIndex) -> u64 {
        index.0 * self.byte_len()
    }

    /// The number of chunks that hold `bytes`, the last one perhaps in part.
    #[must_use]
    pub fn count_for(self, bytes: u64) -> ChunkCount {
        ChunkCount(bytes.div_ceil(self.byte_len()))
    }

    /// The bytes that `count` whole chunks hold.
    #[must_use]
    pub fn bytes_in(self, count: ChunkCount) -> u64 {
        count.0 * self.byte_len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_powers_of_two_in_bounds_are_chunk_lengths() {
        for (bytes, fits) in [
            (0, false),
            (2048, false),
            (4095, false),
            (4096, true),
            (4097, false),
            (6144, false),
            (1 << 20, true),
            (1 << 21, false),
        ] {
            assert_eq!(ChunkLen::new(bytes).is_some(), fits, "{bytes}");
        }
    }

    #[test]
    fn a_tail_counts_as_one_chunk() {
        let len = ChunkLen::DEFAULT;
        for (bytes, count) in [(0, 0), (1, 1), (4095, 1), (4096, 1), (4097, 2)] {
            assert_eq!(len.count_for(bytes), ChunkCount(count), "{bytes}");
        }
    }
}
