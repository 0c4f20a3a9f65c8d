//! Costs of a store beside compressed chunks: on disk, and in memory while it is open.
//!
//! The lengths of records are those of their encodings (`core::frame`, `core::page`); the
//! database's share was measured on stores of real disks, and a test holds the sum against one.

use super::estimate::Guess;

/// Plain bytes of a frame unless the user sets another length; longer chunks have frames of their
/// own.
pub(super) const FRAME_LEN: u64 = crate::records::StoreParameters::DEFAULT.frame_len as u64;

/// A hash in a header, and its bit.
const HEADER_CHUNK_LEN: f64 = 32.125;
/// An index entry: 8 bytes of hash of which the database leaves out what neighbours share, its own
/// 11, 3 or 4 of id; and the filter's bits.
const INDEX_CHUNK_LEN: f64 = 22.0;
/// Of a frame, whatever is in it: two keys, two envelopes, two checksums, two entries in the
/// database's own index, the filter's bits.
const FRAME_OVERHEAD_LEN: f64 = 104.0;
/// A run of a map.
const RUN_LEN: f64 = 5.0;
/// A page of a map: its key, envelope, checksum and the database's own.
const PAGE_LEN: f64 = 45.0;
/// The database's logs and manifests in an empty store. What it keeps back for a full disk is
/// no cost of what is stored, and is told apart ([`crate::Store::kept_back`]).
pub(super) const EMPTY_LEN: f64 = 440_000.0;
/// Memory for each chunk: the index's filter, and where its blocks begin.
const MEMORY_CHUNK_LEN: f64 = 1.2;
/// Memory for each frame: where the blocks of payloads and headers begin, and a filter.
const MEMORY_FRAME_LEN: f64 = 40.0;

/// Everything that takes space beside compressed bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Amounts {
    /// New chunks.
    pub(super) chunks: Guess,
    /// The frames that they make.
    pub(super) frames: Guess,
    /// Runs in the maps of the inputs, as images without parents.
    pub(super) runs: Guess,
    /// Pages in those maps.
    pub(super) pages: u64,
}

impl Amounts {
    /// Bytes on disk.
    pub(super) fn on_disk(&self) -> Guess {
        let content = self
            .chunks
            .scaled(HEADER_CHUNK_LEN + INDEX_CHUNK_LEN)
            .plus(self.frames.scaled(FRAME_OVERHEAD_LEN));
        content
            .plus(self.runs.scaled(RUN_LEN))
            .plus(Guess::exact(self.pages as f64 * PAGE_LEN))
    }

    /// Bytes of memory while the store is open.
    pub(super) fn in_memory(&self) -> Guess {
        self.chunks
            .scaled(MEMORY_CHUNK_LEN)
            .plus(self.frames.scaled(MEMORY_FRAME_LEN))
    }
}
