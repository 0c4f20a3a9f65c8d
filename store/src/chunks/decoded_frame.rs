//! A decoded frame in memory, each of its chunks held against its name.

use vellum_core::frame::FrameHeader;
use vellum_core::hash::ChunkHash;
use vellum_core::units::ChunkId;

use crate::error::StoreError;

/// Memory that a chunk of a decoded frame takes beside its bytes: its id, its name, whether it is
/// sound.
const CHUNK_OVERHEAD_LEN: u64 = 41;

/// A decoded frame.
pub(crate) struct DecodedFrame {
    /// Ids and names of the chunks that it holds.
    pub(crate) header: FrameHeader,
    pub(super) plain: Vec<u8>,
    pub(super) chunk_len: usize,
    /// For each chunk whether its bytes have its name.
    pub(super) sound: Vec<bool>,
    /// True if all have.
    pub(super) is_whole: bool,
}

impl DecodedFrame {
    /// Bytes of memory.
    pub(super) fn memory_len(&self) -> u64 {
        self.plain.len() as u64 + self.sound.len() as u64 * CHUNK_OVERHEAD_LEN
    }

    #[cfg(test)]
    pub(super) fn for_test(header: FrameHeader, plain: Vec<u8>, chunk_len: usize) -> Self {
        let sound = vec![true; header.chunk_count()];
        Self {
            header,
            plain,
            chunk_len,
            sound,
            is_whole: true,
        }
    }

    /// A frame of which `found` says what is there: the bytes of each chunk of `header`, in order,
    /// each held against its name by whoever found it.
    pub(super) fn of_found(header: FrameHeader, found: &[Option<&[u8]>], chunk_len: usize) -> Self {
        let mut plain = Vec::with_capacity(found.len() * chunk_len);
        for bytes in found {
            match bytes {
                Some(bytes) => plain.extend_from_slice(bytes),
                None => plain.resize(plain.len() + chunk_len, 0),
            }
        }
        Self {
            sound: found.iter().map(Option::is_some).collect(),
            is_whole: found.iter().all(Option::is_some),
            header,
            plain,
            chunk_len,
        }
    }

    /// Bytes of all its chunks.
    pub(crate) fn plain_len(&self) -> usize {
        self.plain.len()
    }

    /// The bytes of each chunk, in id order, right or wrong.
    pub(crate) fn plain_chunks(&self) -> impl Iterator<Item = &[u8]> {
        self.plain.chunks_exact(self.chunk_len)
    }

    /// True if every chunk has the bytes of its name.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// The chunks that do not have the bytes of their names.
    pub(crate) fn unsound_chunks(&self) -> impl Iterator<Item = (ChunkId, &ChunkHash)> {
        let chunks = self.header.chunk_hashes().zip(&self.sound);
        chunks.filter(|(_, sound)| !**sound).map(|(chunk, _)| chunk)
    }

    /// The bytes of chunk `id`, which is in the header: verified, or damage.
    pub(crate) fn chunk_bytes(&self, id: ChunkId) -> Result<&[u8], StoreError> {
        let rank = self
            .header
            .payload_index(id)
            .ok_or_else(|| missing_chunk(id))?;
        if !self.sound[rank] {
            let hash = self
                .header
                .chunk_hash(id)
                .expect("a chunk with a rank has a name");
            return Err(StoreError::damaged_record(
                format!("chunk {hash}"),
                "its bytes do not have its name",
            ));
        }
        Ok(&self.plain[rank * self.chunk_len..][..self.chunk_len])
    }
}

pub(super) fn missing_chunk(id: ChunkId) -> StoreError {
    StoreError::damaged_record(format!("chunk number {id}"), "no frame holds it")
}
