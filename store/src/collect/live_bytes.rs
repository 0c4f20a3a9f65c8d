//! Bytes that live chunks take, by ranges of ids: what the sweep counts, and the reclaim phase
//! holds against the files.

use std::collections::BTreeMap;

use vellum_core::units::ChunkId;

/// Ids per entry of [`LiveLengths::payloads`]: about a file's worth of frames at the default
/// lengths.
pub(crate) const REGION_IDS: u64 = 1 << 16;

/// Lengths of what is left.
#[derive(Default)]
pub(crate) struct LiveLengths {
    /// Bytes of payloads, for each [`REGION_IDS`] ids.
    pub(crate) payloads: BTreeMap<u64, u64>,
    /// Bytes of payloads that were written anew, for each [`REGION_IDS`] ids among which something
    /// changed.
    pub(crate) written: BTreeMap<u64, u64>,
    /// Bytes of headers.
    pub(crate) headers: u64,
}

impl LiveLengths {
    pub(crate) fn add_frame(&mut self, first: ChunkId, payload_len: u64, header_len: usize) {
        *self.payloads.entry(first.0 / REGION_IDS).or_default() += payload_len;
        self.headers += header_len as u64;
    }

    /// The payload of the frame that begins with `first` was replaced by another one.
    pub(crate) fn replace_payload(&mut self, first: ChunkId, old_len: u64, new_len: u64) {
        let payloads = self.payloads.entry(first.0 / REGION_IDS).or_default();
        *payloads = payloads.saturating_sub(old_len) + new_len;
        self.note_change(first, new_len);
    }

    /// A frame that began with `first` went, and `written_len` bytes of payload came in its place.
    pub(crate) fn note_change(&mut self, first: ChunkId, written_len: u64) {
        *self.written.entry(first.0 / REGION_IDS).or_default() += written_len;
    }
}
