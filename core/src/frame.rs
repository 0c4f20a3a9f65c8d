//! A frame: chunks of nearby ids, stored and compressed together; its header names them apart from
//! its payload.
//!
//! It knows the two encodings, not how a payload is compressed (the codec is a byte to it) nor
//! where they are kept.
//!
//! ```text
//! Header, version 1. Key in the store: first chunk id (big-endian), which the checksum covers.
//!
//! offset  size    meaning                                            guards against
//! 0       1       version                                            a newer program's frame
//! 1       4       payload length in bytes, envelope included (LE)    (lets reports count without
//!                                                                    payloads)
//! 5       2       span: ids from the first to the last, 1 to SPAN_MAX (LE)
//! 7       s       presence bitmap, ceil(span/8) bytes, bit 0 of      ids that collection dropped
//!                 byte 0 = the first id; first and last are
//!                 present, spare bits are zero
//! 7+s     32·n    hash of each present chunk, in id order            a wrong byte anywhere in the
//!                                                                    payload
//! end-8   8       checksum over key and all bytes before             damage, a header in
//!                                                                    another's place
//!
//! Header, version 2: of a frame whose bytes are in a solid block. As version 1, with
//!
//! 1       4       the frame's share of the block's length, and its reference's (LE)
//! 5       8       number of the block (LE)                           (lets collections count what
//! 13      4       plain length of the block in bytes (LE)            lives of a block without it)
//! 17      …       span and all that follows
//!
//! Payload, version 1. Key: the same first chunk id.
//!
//! offset  size    meaning                                       guards against
//! 0       1       version
//! 1       1       codec: 0 none, 1 lz4 block, 2 zstd frame      decoding with another codec
//! 2       4       plain length in bytes: n · chunk length (LE)  bombs: exactly this much is
//!                                                               decoded
//! 6       …       the present chunks in id order, compressed as one
//! end-8   8       checksum over key and all bytes before        damage before a decoder sees it
//!
//! Payload, version 1, of a frame whose bytes are in a solid block: a reference. Codec 3, and from
//! byte 6 on the block's number (8) and the byte of the decoded block where the frame begins (4),
//! both LE.
//! ```

use crate::hash::{ChunkHash, HASH_LEN};
use crate::solid::{SOLID_LEN_MAX, SolidPlace};
use crate::units::{ChunkId, SolidNumber};
use crate::wire::{DecodeError, WireReader, append_checksum, verify_checksum};

/// Ids that one frame may span: bounds the bitmap, and what a look-up reads of ids that are gone.
pub const SPAN_MAX: u16 = 4096;
/// Plain bytes that one frame may hold: bounds what a hostile store can make a reader allocate.
pub const PLAIN_LEN_MAX: u32 = 4 << 20;
/// Bytes that the envelope adds to a payload.
pub const PAYLOAD_OVERHEAD: usize = 6 + 8;

/// Stored length of a payload that is a reference into a solid block.
pub const REFERENCE_LEN: u32 = PAYLOAD_OVERHEAD as u32 + 12;
/// All codecs.
const PAYLOAD_CODECS: [FrameCodec; 3] = [FrameCodec::None, FrameCodec::Lz4, FrameCodec::Zstd];

const VERSION: u8 = 1;
/// Version of the header of a frame whose bytes are in a solid block.
const SOLID_VERSION: u8 = 2;
/// Byte that stands for no codec: what follows is a reference into a solid block.
const REFERENCE_CODEC: u8 = 3;
const HEADER_CONTEXT: &str = "vellum 2026-11 frame header v1";
const PAYLOAD_CONTEXT: &str = "vellum 2026-11 frame payload v1";

/// The chunks that a frame holds, and their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Rising; the first is the frame's key. The last is less than [`SPAN_MAX`] after the first.
    ids: Vec<ChunkId>,
    /// The name of each.
    hashes: Vec<ChunkHash>,
    /// The stored length of the payload, envelope included; for a frame in a solid block its share
    /// of that, and its reference.
    pub payload_len: u32,
    /// The solid block that has its bytes.
    pub solid: Option<SolidMembership>,
}

/// The solid block that a frame is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SolidMembership {
    /// Its number.
    pub block: SolidNumber,
    /// The length of the decoded block in bytes: what lives of it is held against this.
    pub block_len: u32,
}

impl FrameHeader {
    /// A header for `chunks`, in rising id order. Panics if they are none, out of order or too far
    /// apart.
    #[must_use]
    pub fn new(chunks: impl IntoIterator<Item = (ChunkId, ChunkHash)>, payload_len: u32) -> Self {
        let (ids, hashes): (Vec<ChunkId>, Vec<ChunkHash>) = chunks.into_iter().unzip();
        assert!(
            !ids.is_empty() && ids.is_sorted_by(|a, b| a < b),
            "a frame holds chunks in rising order"
        );
        assert!(
            ids[ids.len() - 1].0 - ids[0].0 < u64::from(SPAN_MAX),
            "a frame holds nearby chunks"
        );
        Self {
            ids,
            hashes,
            payload_len,
            solid: None,
        }
    }

    /// The same frame, its bytes in a solid block.
    #[must_use]
    pub fn in_solid_block(self, membership: SolidMembership, share_len: u32) -> Self {
        Self {
            payload_len: share_len,
            solid: Some(membership),
            ..self
        }
    }

    /// Bytes of the record under the frame's own key among the payloads.
    #[must_use]
    pub fn own_payload_len(&self) -> u32 {
        self.solid.map_or(self.payload_len, |_| REFERENCE_LEN)
    }

    /// The id of the first chunk: the frame's key.
    #[must_use]
    pub fn first_id(&self) -> ChunkId {
        self.ids[0]
    }

    /// The id after the last chunk.
    #[must_use]
    pub fn end_id(&self) -> ChunkId {
        self.ids[self.ids.len() - 1].advance_by(1)
    }

    /// The number of chunks that it holds.
    #[must_use]
    pub fn chunk_count(&self) -> usize {
        self.ids.len()
    }

    /// The chunks and their names, in id order.
    pub fn chunk_hashes(&self) -> impl Iterator<Item = (ChunkId, &ChunkHash)> {
        self.ids.iter().copied().zip(&self.hashes)
    }

    /// The place of `id` among the chunks in the payload.
    #[must_use]
    pub fn payload_index(&self, id: ChunkId) -> Option<usize> {
        let guess = usize::try_from(id.0.checked_sub(self.first_id().0)?).ok()?;
        if self.ids.get(guess) == Some(&id) {
            Some(guess)
        } else {
            self.ids.binary_search(&id).ok()
        }
    }

    /// The name of `id`, if it is here.
    #[must_use]
    pub fn chunk_hash(&self, id: ChunkId) -> Option<&ChunkHash> {
        self.payload_index(id).map(|rank| &self.hashes[rank])
    }

    /// The bytes under which the store keeps it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let span = (self.end_id().0 - self.first_id().0) as usize;
        let hashes_len = self.hashes.len() * HASH_LEN;
        let mut bytes = Vec::with_capacity(19 + span.div_ceil(8) + hashes_len + 8);
        bytes.push(self.solid.map_or(VERSION, |_| SOLID_VERSION));
        bytes.extend_from_slice(&self.payload_len.to_le_bytes());
        if let Some(solid) = self.solid {
            bytes.extend_from_slice(&solid.block.0.to_le_bytes());
            bytes.extend_from_slice(&solid.block_len.to_le_bytes());
        }
        bytes.extend_from_slice(&(span as u16).to_le_bytes());
        let mut bitmap = vec![0_u8; span.div_ceil(8)];
        for id in &self.ids {
            let at = (id.0 - self.first_id().0) as usize;
            bitmap[at / 8] |= 1 << (at % 8);
        }
        bytes.extend_from_slice(&bitmap);
        self.hashes
            .iter()
            .for_each(|hash| bytes.extend_from_slice(&hash.0));
        append_checksum(HEADER_CONTEXT, &[&frame_key(self.first_id())], &mut bytes);
        bytes
    }

    /// The header that `bytes` hold, if they are whole and belong to this place.
    pub fn decode(first: ChunkId, bytes: &[u8]) -> Result<Self, DecodeError> {
        let body = verify_checksum(HEADER_CONTEXT, &[&frame_key(first)], bytes)?;
        Self::decode_body(first, body)
    }

    /// The inside of [`FrameHeader::decode`], without the checksum, so that a fuzzer reaches it.
    pub fn decode_body(first: ChunkId, body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = WireReader::new(body);
        let is_solid = match reader.read_u8()? {
            VERSION => false,
            SOLID_VERSION => true,
            newer => return Err(DecodeError::Version(newer)),
        };
        let payload_len = reader.read_u32()?;
        let solid = is_solid
            .then(|| SolidMembership::decode_from(&mut reader))
            .transpose()?;
        let span = u16::from_le_bytes([reader.read_u8()?, reader.read_u8()?]);
        if span == 0 || span > SPAN_MAX || first.0.checked_add(span.into()).is_none() {
            return Err(DecodeError::Invalid("span"));
        }
        let bitmap = reader.read_bytes(usize::from(span).div_ceil(8))?;
        let is_present = |at: u16| bitmap[usize::from(at) / 8] >> (at % 8) & 1 == 1;
        let spare_bits = (span..span.next_multiple_of(8)).any(is_present);
        if !is_present(0) || !is_present(span - 1) || spare_bits {
            return Err(DecodeError::Invalid("presence bitmap"));
        }
        let ids: Vec<ChunkId> = (0..span)
            .filter(|at| is_present(*at))
            .map(|at| first.advance_by(at.into()))
            .collect();
        let (hashes, _) = reader
            .read_bytes(ids.len() * HASH_LEN)?
            .as_chunks::<HASH_LEN>();
        let hashes = hashes.iter().copied().map(ChunkHash).collect();
        reader.expect_end()?;
        Ok(Self {
            ids,
            hashes,
            payload_len,
            solid,
        })
    }
}

impl SolidMembership {
    fn decode_from(reader: &mut WireReader<'_>) -> Result<Self, DecodeError> {
        let (block, block_len) = (read_block_number(reader)?, reader.read_u32()?);
        if block_len == 0 || block_len > SOLID_LEN_MAX {
            return Err(DecodeError::Invalid("length of a solid block"));
        }
        Ok(Self { block, block_len })
    }
}

fn read_block_number(reader: &mut WireReader<'_>) -> Result<SolidNumber, DecodeError> {
    let number = u64::from_le_bytes(
        reader
            .read_bytes(8)?
            .try_into()
            .map_err(|_| DecodeError::Invalid("number of a solid block"))?,
    );
    if number >> 63 != 0 {
        return Err(DecodeError::Invalid("number of a solid block"));
    }
    Ok(SolidNumber(number))
}

/// The compression of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameCodec {
    /// Not at all.
    None,
    /// One LZ4 block.
    Lz4,
    /// One zstd frame.
    Zstd,
}

impl FrameCodec {
    /// The byte that stands for it.
    #[must_use]
    pub fn to_byte(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Lz4 => 1,
            Self::Zstd => 2,
        }
    }

    /// The codec that `byte` stands for.
    pub fn from_byte(byte: u8) -> Result<Self, DecodeError> {
        PAYLOAD_CODECS
            .into_iter()
            .find(|codec| codec.to_byte() == byte)
            .ok_or(DecodeError::Invalid("codec"))
    }
}

/// The record under a frame's key among the payloads: its bytes, or where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredPayload<'a> {
    /// Its bytes.
    Own(FramePayload<'a>),
    /// A reference to them.
    Solid {
        /// Where they are.
        place: SolidPlace,
        /// How many they are.
        plain_len: u32,
    },
}

impl<'a> StoredPayload<'a> {
    /// The solid block that has its bytes; none if it has them itself.
    #[must_use]
    pub fn block(&self) -> Option<SolidNumber> {
        match self {
            Self::Own(_) => None,
            Self::Solid { place, .. } => Some(place.block),
        }
    }

    /// The record that `bytes` hold, if they are whole and belong to this place.
    pub fn decode(first: ChunkId, bytes: &'a [u8]) -> Result<Self, DecodeError> {
        Self::decode_body(verify_checksum(
            PAYLOAD_CONTEXT,
            &[&frame_key(first)],
            bytes,
        )?)
    }

    /// The inside of [`StoredPayload::decode`], without the checksum, so that a fuzzer reaches it.
    pub fn decode_body(body: &'a [u8]) -> Result<Self, DecodeError> {
        if body.get(1) != Some(&REFERENCE_CODEC) {
            return FramePayload::decode_body(body).map(Self::Own);
        }
        let mut reader = WireReader::new(body);
        check_version(&mut reader)?;
        let _codec = reader.read_u8()?;
        let plain_len = reader.read_u32()?;
        let (block, offset) = (read_block_number(&mut reader)?, reader.read_u32()?);
        reader.expect_end()?;
        let end = offset.checked_add(plain_len);
        if plain_len == 0 || plain_len > PLAIN_LEN_MAX || end.is_none_or(|end| end > SOLID_LEN_MAX)
        {
            return Err(DecodeError::Invalid("place in a solid block"));
        }
        let place = SolidPlace { block, offset };
        Ok(Self::Solid { place, plain_len })
    }

    /// The length of the frame's chunks, decoded, in bytes.
    #[must_use]
    pub fn plain_len(&self) -> u32 {
        match self {
            Self::Own(payload) => payload.plain_len,
            Self::Solid { plain_len, .. } => *plain_len,
        }
    }
}

/// The record of a frame that begins with `first` and whose `plain_len` bytes are in a solid block.
#[must_use]
pub fn encode_reference(first: ChunkId, place: SolidPlace, plain_len: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(REFERENCE_LEN as usize);
    bytes.extend_from_slice(&[VERSION, REFERENCE_CODEC]);
    bytes.extend_from_slice(&plain_len.to_le_bytes());
    bytes.extend_from_slice(&place.block.0.to_le_bytes());
    bytes.extend_from_slice(&place.offset.to_le_bytes());
    append_checksum(PAYLOAD_CONTEXT, &[&frame_key(first)], &mut bytes);
    bytes
}

/// A payload as it is kept: compressed, its envelope verified, its content not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FramePayload<'a> {
    /// Its compression.
    pub codec: FrameCodec,
    /// The length of the chunks once decoded, at most [`PLAIN_LEN_MAX`].
    pub plain_len: u32,
    /// The compressed bytes.
    pub compressed: &'a [u8],
}

impl<'a> FramePayload<'a> {
    /// The bytes under which the store keeps it.
    #[must_use]
    pub fn encode(&self, first: ChunkId) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.compressed.len() + PAYLOAD_OVERHEAD);
        bytes.push(VERSION);
        bytes.push(self.codec.to_byte());
        bytes.extend_from_slice(&self.plain_len.to_le_bytes());
        bytes.extend_from_slice(self.compressed);
        append_checksum(PAYLOAD_CONTEXT, &[&frame_key(first)], &mut bytes);
        bytes
    }

    /// The payload that `bytes` hold, if they are whole and belong to this place.
    pub fn decode(first: ChunkId, bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let body = verify_checksum(PAYLOAD_CONTEXT, &[&frame_key(first)], bytes)?;
        Self::decode_body(body)
    }

    /// The inside of [`FramePayload::decode`], without the checksum, so that a fuzzer reaches it.
    pub fn decode_body(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = WireReader::new(body);
        check_version(&mut reader)?;
        let codec = FrameCodec::from_byte(reader.read_u8()?)?;
        let plain_len = reader.read_u32()?;
        if plain_len > PLAIN_LEN_MAX {
            return Err(DecodeError::Invalid("plain length"));
        }
        let compressed = reader.read_bytes(reader.remaining_len())?;
        Ok(Self {
            codec,
            plain_len,
            compressed,
        })
    }
}

fn check_version(reader: &mut WireReader<'_>) -> Result<(), DecodeError> {
    match reader.read_u8()? {
        VERSION => Ok(()),
        newer => Err(DecodeError::Version(newer)),
    }
}

/// The key under which the store keeps a frame's header and payload.
#[must_use]
pub fn frame_key(first: ChunkId) -> [u8; 8] {
    first.0.to_be_bytes()
}

/// The first chunk id that a key names.
pub fn parse_frame_key(key: &[u8]) -> Result<ChunkId, DecodeError> {
    key.try_into()
        .map(u64::from_be_bytes)
        .map(ChunkId)
        .map_err(|_| DecodeError::Invalid("frame key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(offsets: &[u64]) -> FrameHeader {
        FrameHeader::new(
            offsets
                .iter()
                .map(|at| (ChunkId(1000 + at), ChunkHash::of_chunk(&at.to_le_bytes()))),
            77,
        )
    }

    #[test]
    fn headers_with_and_without_gaps_come_back() {
        for offsets in [
            &[0][..],
            &[0, 1, 2],
            &[0, 7, 8, 9, 63, 64],
            &[0, u64::from(SPAN_MAX) - 1],
        ] {
            let header = header(offsets);
            assert_eq!(
                FrameHeader::decode(ChunkId(1000), &header.encode()),
                Ok(header.clone())
            );
            for (rank, at) in offsets.iter().enumerate() {
                assert_eq!(header.payload_index(ChunkId(1000 + at)), Some(rank));
            }
            assert_eq!(header.payload_index(ChunkId(999)), None);
            assert_eq!(header.payload_index(header.end_id()), None);
        }
    }

    const MEMBERSHIP: SolidMembership = SolidMembership {
        block: SolidNumber(9),
        block_len: 1 << 20,
    };

    #[test]
    fn headers_and_references_of_solid_frames_come_back() {
        let header = header(&[0, 1, 5]).in_solid_block(MEMBERSHIP, 300);
        let decoded = FrameHeader::decode(ChunkId(1000), &header.encode());
        assert_eq!(decoded, Ok(header.clone()));
        assert_eq!(
            (header.payload_len, header.own_payload_len()),
            (300, REFERENCE_LEN)
        );
        let place = SolidPlace {
            block: SolidNumber(9),
            offset: 4096,
        };
        let bytes = encode_reference(ChunkId(1000), place, 12288);
        assert_eq!(bytes.len() as u32, REFERENCE_LEN);
        assert_eq!(
            StoredPayload::decode(ChunkId(1000), &bytes),
            Ok(StoredPayload::Solid {
                place,
                plain_len: 12288
            })
        );
        assert!(
            FramePayload::decode(ChunkId(1000), &bytes).is_err(),
            "a reference is no payload"
        );
        for (offset, plain_len) in [(0, 0), (SOLID_LEN_MAX, 1), (u32::MAX, 2), (0, u32::MAX)] {
            let place = SolidPlace { offset, ..place };
            let bytes = encode_reference(ChunkId(1), place, plain_len);
            assert!(
                StoredPayload::decode(ChunkId(1), &bytes).is_err(),
                "{offset} {plain_len}"
            );
        }
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let solid = header(&[0, 1, 5]).in_solid_block(MEMBERSHIP, 300).encode();
        for bit in 0..solid.len() * 8 {
            let mut damaged = solid.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(
                FrameHeader::decode(ChunkId(1000), &damaged).is_err(),
                "header bit {bit}"
            );
        }
        let bytes = header(&[0, 1, 5]).encode();
        let payload = FramePayload {
            codec: FrameCodec::Zstd,
            plain_len: 3,
            compressed: b"abc",
        }
        .encode(ChunkId(4));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(
                FrameHeader::decode(ChunkId(1000), &damaged).is_err(),
                "header bit {bit}"
            );
        }
        for bit in 0..payload.len() * 8 {
            let mut damaged = payload.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(
                FramePayload::decode(ChunkId(4), &damaged).is_err(),
                "payload bit {bit}"
            );
        }
        assert!(
            FramePayload::decode(ChunkId(5), &payload).is_err(),
            "in another's place"
        );
    }

    /// One below, at and one above each limit, behind a checksum that fits.
    #[test]
    fn lengths_behind_their_limits_are_refused() {
        let header = |first: u64, span: u16| {
            let len = usize::from(span).div_ceil(8);
            let mut bitmap = vec![0_u8; len];
            for at in [0, span.saturating_sub(1)] {
                if let Some(byte) = bitmap.get_mut(usize::from(at) / 8) {
                    *byte |= 1 << (at % 8);
                }
            }
            let count = bitmap.iter().map(|byte| byte.count_ones()).sum::<u32>() as usize;
            let body = [
                &[VERSION][..],
                &77_u32.to_le_bytes(),
                &span.to_le_bytes(),
                &bitmap,
                &vec![9; count * HASH_LEN],
            ]
            .concat();
            FrameHeader::decode_body(ChunkId(first), &body).map(|header| header.chunk_count())
        };
        assert_eq!(header(5, SPAN_MAX), Ok(2));
        for (first, span) in [(5, 0), (5, SPAN_MAX + 1), (u64::MAX - 9, 10)] {
            assert_eq!(header(first, span), Err(DecodeError::Invalid("span")));
        }
        assert_eq!(header(u64::MAX - 10, 10), Ok(2));
        for (plain_len, is_allowed) in [
            (PLAIN_LEN_MAX - 1, true),
            (PLAIN_LEN_MAX, true),
            (PLAIN_LEN_MAX + 1, false),
            (u32::MAX, false),
        ] {
            let body = [&[VERSION, 0][..], &plain_len.to_le_bytes()].concat();
            assert_eq!(FramePayload::decode_body(&body).is_ok(), is_allowed);
        }
    }

    #[test]
    fn an_envelope_is_as_long_as_it_says() {
        let payload = FramePayload {
            codec: FrameCodec::None,
            plain_len: 3,
            compressed: b"abc",
        };
        assert_eq!(payload.encode(ChunkId(1)).len(), 3 + PAYLOAD_OVERHEAD);
    }
}
