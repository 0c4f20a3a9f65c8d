//! Builds one frame of the database from chunks and their names.

use vellum_core::frame::{FrameCodec, FrameHeader, FramePayload, StoredPayload, frame_key};
use vellum_core::hash::ChunkHash;
use vellum_core::units::{ChunkId, ChunkLen};
use vellum_core::wire::put_varint;

use crate::codec;
use crate::database::{Batch, Family};
use crate::records::Compression;

/// The chunks that one frame will hold.
pub(crate) struct FramePlan {
    /// In rising id order.
    pub(crate) chunks: Vec<(ChunkId, ChunkHash)>,
    /// Their bytes, in the same order.
    pub(crate) plain: Vec<u8>,
}

/// A frame as the database keeps it.
pub(crate) struct EncodedFrame {
    first: ChunkId,
    header: Vec<u8>,
    payload: Vec<u8>,
    /// The names and ids that the index learns.
    pub(crate) chunks: Vec<(ChunkId, ChunkHash)>,
    /// Bytes before compression.
    pub(crate) plain_len: usize,
}

/// The bytes of a frame, compressed: it gets its ids later.
pub(crate) struct CompressedFrame {
    codec: FrameCodec,
    compressed: Vec<u8>,
    plain_len: usize,
}

/// The difference between a payload, as it is stored, and what its header says of it, in words;
/// none if they belong together. A payload that is damaged differs.
pub(crate) fn payload_mismatch(
    header: &FrameHeader,
    stored: &[u8],
    chunk_len: ChunkLen,
) -> Option<String> {
    if stored.len() as u64 != u64::from(header.own_payload_len()) {
        return Some(format!(
            "{} bytes where its header says {}",
            stored.len(),
            header.own_payload_len()
        ));
    }
    let payload = match StoredPayload::decode(header.first_id(), stored) {
        Ok(payload) => payload,
        Err(error) => return Some(error.to_string()),
    };
    let plain_len = header.chunk_count() as u64 * chunk_len.byte_len();
    if u64::from(payload.plain_len()) != plain_len {
        return Some(format!(
            "{} plain bytes where its header says {plain_len}",
            payload.plain_len()
        ));
    }
    (payload.block() != header.solid.map(|solid| solid.block))
        .then(|| "its header says another solid block".to_owned())
}

/// Compresses the bytes of one frame: the expensive step, free of any lock.
pub(crate) fn compress_chunks(compression: Compression, plain: &[u8]) -> CompressedFrame {
    let (codec, compressed) = codec::compress_frame(compression, plain);
    CompressedFrame {
        codec,
        compressed,
        plain_len: plain.len(),
    }
}

impl CompressedFrame {
    /// The codec, the compressed bytes, and how many they were before.
    pub(crate) fn into_parts(self) -> (FrameCodec, Vec<u8>, usize) {
        (self.codec, self.compressed, self.plain_len)
    }

    /// The frame that holds these bytes as `chunks`, which are as many as were packed.
    pub(crate) fn encode_frame(&self, chunks: Vec<(ChunkId, ChunkHash)>) -> EncodedFrame {
        let first = chunks[0].0;
        let plain_len = u32::try_from(self.plain_len)
            .expect("a frame's length is bounded by the store's parameters");
        let payload = FramePayload {
            codec: self.codec,
            plain_len,
            compressed: &self.compressed,
        }
        .encode(first);
        let payload_len = u32::try_from(payload.len())
            .expect("a payload is no longer than its plain bytes and its envelope");
        let header = FrameHeader::new(chunks.iter().copied(), payload_len).encode();
        EncodedFrame {
            first,
            header,
            payload,
            chunks,
            plain_len: self.plain_len,
        }
    }
}

/// Compresses and encodes one frame.
pub(crate) fn encode_frame(compression: Compression, plan: FramePlan) -> EncodedFrame {
    compress_chunks(compression, &plan.plain).encode_frame(plan.chunks)
}

impl EncodedFrame {
    /// Bytes that it takes in a batch.
    pub(crate) fn len(&self) -> usize {
        self.header.len() + self.payload.len()
    }

    pub(crate) fn payload_len(&self) -> usize {
        self.payload.len()
    }

    pub(crate) fn header_len(&self) -> usize {
        self.header.len()
    }

    /// Puts header and payload into `batch`.
    pub(crate) fn put_content(&self, batch: &mut Batch) {
        batch.put_record(Family::Headers, frame_key(self.first), &self.header);
        batch.put_record(Family::Frames, frame_key(self.first), &self.payload);
    }
}

/// Puts the names of all chunks of `frames` into `batch`: with or after their content, never
/// before. In order, which is how the database takes them fastest.
pub(crate) fn put_names(frames: &[EncodedFrame], batch: &mut Batch) {
    let mut names: Vec<([u8; 8], ChunkId)> = frames
        .iter()
        .flat_map(|frame| &frame.chunks)
        .map(|(id, hash)| (hash.index_prefix(), *id))
        .collect();
    names.sort_unstable();
    let mut value = Vec::with_capacity(10);
    for (prefix, id) in names {
        value.clear();
        put_varint(&mut value, id.0);
        batch.put_record(Family::Index, prefix, &value);
    }
}
