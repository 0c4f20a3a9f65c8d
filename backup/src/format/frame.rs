//! A frame of a pack: some chunks of one segment, compressed as one. It says which chunks they are,
//! so that a lost index can be made again.
//!
//! ```text
//! Body of a part of a pack (`seal`), version 1.
//!
//! offset  size    meaning                                        guards against
//! 0       1       version                                        a newer program's frame
//! 1       1       codec: 0 none, 1 lz4 block, 2 zstd frame       decoding with another codec
//! 2       16      segment                                        another frame in this one's place
//! 18      varint  first ordinal, below SEGMENT_LEN_MAX
//! …       varint  span: ordinals from the first to the last, 1 to SPAN_MAX
//! …       …       presence (`presence`)
//! …       …       payload: the chunks that are there in order, compressed as one. Their plain
//!                 length is their number times the repository's chunk length, PLAIN_LEN_MAX at
//!                 most; exactly that is decoded
//! ```

use vellum_core::frame::{FrameCodec, PLAIN_LEN_MAX, SPAN_MAX};
use vellum_core::hash::{ChunkHash, hash_chunks};
use vellum_core::identity::SegmentId;
use vellum_core::wire::{DecodeError, WireReader, put_varint};
use vellum_store::codec;

use super::{Presence, SEGMENT_LEN_MAX};

const VERSION: u8 = 1;

/// A frame, its payload still compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The segment of its chunks.
    pub segment: SegmentId,
    /// The ordinal of the first.
    pub first: u32,
    /// The ordinals from there on that are present.
    pub presence: Presence,
    /// The codec of the payload.
    pub codec: FrameCodec,
    /// The chunks that are there, in order, compressed as one.
    pub payload: &'a [u8],
}

/// The failure of a frame to give its chunks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Its bytes are not a frame.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The payload cannot be decompressed.
    #[error("its chunks cannot be decompressed: {0}")]
    Payload(String),
    /// It is another frame than the index says.
    #[error("another frame stands in its place")]
    Misplaced,
    /// A chunk is not what its name says.
    #[error("chunk {0} of its segment is not what its name says")]
    Chunk(u32),
}

/// The body of the part.
#[must_use]
pub fn encode_frame(frame: &Frame<'_>) -> Vec<u8> {
    let mut body = Vec::with_capacity(body_len_max(frame));
    put_frame(&mut body, frame);
    body
}

/// The upper bound of the body's length in bytes, and hardly more than it.
pub(super) fn body_len_max(frame: &Frame<'_>) -> usize {
    32 + frame.presence.heap_len() + frame.payload.len()
}

/// Appends the body of the part.
pub(super) fn put_frame(body: &mut Vec<u8>, frame: &Frame<'_>) {
    body.push(VERSION);
    body.push(codec_byte(frame.codec));
    body.extend_from_slice(&frame.segment.0);
    put_varint(body, frame.first.into());
    put_varint(body, frame.presence.span().into());
    frame.presence.encode(body);
    body.extend_from_slice(frame.payload);
}

/// The frame that `body` holds.
pub fn decode_frame(body: &[u8]) -> Result<Frame<'_>, DecodeError> {
    let mut reader = WireReader::new(body);
    reader.read_version(VERSION)?;
    let codec = codec_of(reader.read_u8()?)?;
    let segment = SegmentId(
        reader
            .read_bytes(16)?
            .try_into()
            .expect("sixteen bytes were taken"),
    );
    let (first, span) = decode_place(&mut reader)?;
    let presence = Presence::decode(&mut reader, span)?;
    let payload = reader.read_bytes(reader.remaining_len())?;
    Ok(Frame {
        segment,
        first,
        presence,
        codec,
        payload,
    })
}

impl Frame<'_> {
    /// The plain chunks, checked against their names: `name_of` gives that of an ordinal.
    pub fn chunks(
        &self,
        chunk_len: u32,
        name_of: impl Fn(u32) -> Option<ChunkHash>,
    ) -> Result<Vec<u8>, FrameError> {
        let plain = self.decompressed(chunk_len)?;
        let chunks: Vec<&[u8]> = plain.chunks_exact(chunk_len as usize).collect();
        for (at, hash) in self.presence.offsets().zip(hash_chunks(&chunks)) {
            if name_of(self.first + at) != Some(hash) {
                return Err(FrameError::Chunk(self.first + at));
            }
        }
        Ok(plain)
    }

    /// The plain chunks, unchecked: for making an index.
    pub fn decompressed(&self, chunk_len: u32) -> Result<Vec<u8>, FrameError> {
        let plain_len = u64::from(self.presence.count()) * u64::from(chunk_len);
        if plain_len > PLAIN_LEN_MAX.into() {
            return Err(DecodeError::Invalid("plain length").into());
        }
        codec::decompress_frame(self.codec, self.payload, plain_len as usize)
            .map_err(FrameError::Payload)
    }
}

/// First ordinal and span, of a frame that lies inside its segment.
pub(super) fn decode_place(reader: &mut WireReader<'_>) -> Result<(u32, u32), DecodeError> {
    let (first, span) = (reader.read_varint()?, reader.read_varint()?);
    let fits = span > 0
        && span <= u64::from(SPAN_MAX)
        && first < u64::from(SEGMENT_LEN_MAX)
        && first + span <= u64::from(SEGMENT_LEN_MAX);
    if fits {
        Ok((first as u32, span as u32))
    } else {
        Err(DecodeError::Invalid("ordinals of a frame"))
    }
}

pub(super) fn codec_byte(codec: FrameCodec) -> u8 {
    match codec {
        FrameCodec::None => 0,
        FrameCodec::Lz4 => 1,
        FrameCodec::Zstd => 2,
    }
}

pub(super) fn codec_of(byte: u8) -> Result<FrameCodec, DecodeError> {
    match byte {
        0 => Ok(FrameCodec::None),
        1 => Ok(FrameCodec::Lz4),
        2 => Ok(FrameCodec::Zstd),
        _ => Err(DecodeError::Invalid("codec")),
    }
}
