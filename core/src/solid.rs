//! A solid block: frames from anywhere in a store, compressed together because they are alike.
//!
//! A frame compressed alone is as small as what its own 128 KiB have in common. A collection that
//! is asked to takes frames that hardly change any more, lays those beside each other that are
//! alike, and compresses about a MiB of them as one stream. Each keeps its header, with its ids and
//! names, under its own key; only its bytes move. So no map and no entry of the index changes, and
//! a frame leaves its block by being written as an ordinary frame again.
//!
//! A block never changes. One of which no header speaks any more is garbage.
//!
//! ```text
//! Solid block, version 1. Key in the store: the block's number plus 2^63 (big-endian), among the
//! payloads of frames, whose keys are below.
//!
//! offset  size    meaning                                       guards against
//! 0       1       version                                       a newer program's block
//! 1       1       codec, as in a frame's payload                decoding with another codec
//! 2       4       plain length in bytes, the sum of its         bombs: exactly this much is
//!                 members' (LE), at most SOLID_LEN_MAX          decoded
//! 6       4       members m, at least 1 (LE)
//! 10      12·m    each: first chunk id (8), plain length (4),   a block that nobody can take apart
//!                 both LE, in the order of their bytes          without its headers
//! …       …       the members' chunks, compressed as one
//! end-8   8       checksum over key and all bytes before        damage before a decoder sees it
//! ```

use std::ops::Range;

use crate::frame::{FrameCodec, frame_key};
use crate::units::{ChunkId, SolidNumber};
use crate::wire::{DecodeError, WireReader, append_checksum, verify_checksum};

/// Plain bytes that one block may hold: bounds what a reader allocates and decodes for one chunk.
pub const SOLID_LEN_MAX: u32 = 4 << 20;
/// Members of a block at most: more do not fit, if each has a chunk.
pub const MEMBERS_MAX: u32 = 1024;
/// The least key of a block: no chunk id comes near it.
pub const SOLID_KEY_MIN: ChunkId = ChunkId(1 << 63);

const VERSION: u8 = 1;
const CONTEXT: &str = "vellum 2026-12 solid block v1";

/// One frame in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SolidMember {
    /// Its first chunk: the key of its header.
    pub first: ChunkId,
    /// Its length in bytes, decoded.
    pub plain_len: u32,
}

/// A block as it is kept: compressed, its envelope verified, its content not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SolidBlock<'a> {
    /// Its compression.
    pub codec: FrameCodec,
    /// Its frames, in the order in which they lie in it.
    pub members: Vec<SolidMember>,
    /// The compressed bytes.
    pub compressed: &'a [u8],
}

/// The place of a frame's bytes in a block, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SolidPlace {
    /// The block.
    pub block: SolidNumber,
    /// Byte at which the frame begins in the decoded block.
    pub offset: u32,
}

impl<'a> SolidBlock<'a> {
    /// The length of the decoded block in bytes.
    #[must_use]
    pub fn plain_len(&self) -> u32 {
        self.members.iter().map(|member| member.plain_len).sum()
    }

    /// The members with the bytes at which each lies in the decoded block.
    pub fn places(&self) -> impl Iterator<Item = (SolidMember, Range<u32>)> + '_ {
        self.members.iter().scan(0, |end, member| {
            let start = *end;
            *end += member.plain_len;
            Some((*member, start..*end))
        })
    }

    /// The bytes under which the store keeps it.
    #[must_use]
    pub fn encode(&self, number: SolidNumber) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(18 + 12 * self.members.len() + self.compressed.len());
        bytes.push(VERSION);
        bytes.push(self.codec.to_byte());
        bytes.extend_from_slice(&self.plain_len().to_le_bytes());
        bytes.extend_from_slice(&(self.members.len() as u32).to_le_bytes());
        for member in &self.members {
            bytes.extend_from_slice(&member.first.0.to_le_bytes());
            bytes.extend_from_slice(&member.plain_len.to_le_bytes());
        }
        bytes.extend_from_slice(self.compressed);
        append_checksum(CONTEXT, &[&solid_key(number)], &mut bytes);
        bytes
    }

    /// The block that `bytes` hold, if they are whole and belong to this place.
    pub fn decode(number: SolidNumber, bytes: &'a [u8]) -> Result<Self, DecodeError> {
        Self::decode_body(verify_checksum(CONTEXT, &[&solid_key(number)], bytes)?)
    }

    /// The inside of [`SolidBlock::decode`], without the checksum, so that a fuzzer reaches it.
    pub fn decode_body(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = WireReader::new(body);
        match reader.read_u8()? {
            VERSION => {}
            newer => return Err(DecodeError::Version(newer)),
        }
        let codec = FrameCodec::from_byte(reader.read_u8()?)?;
        let (plain_len, count) = (reader.read_u32()?, reader.read_u32()?);
        if count == 0 || count > MEMBERS_MAX {
            return Err(DecodeError::Invalid("member count"));
        }
        let (records, _) = reader.read_bytes(count as usize * 12)?.as_chunks::<12>();
        let members: Vec<SolidMember> = records.iter().map(parse_member).collect();
        let total: u64 = members
            .iter()
            .map(|member| u64::from(member.plain_len))
            .sum();
        let is_filled = members.iter().all(|member| member.plain_len > 0);
        if total != u64::from(plain_len) || plain_len > SOLID_LEN_MAX || !is_filled {
            return Err(DecodeError::Invalid("plain length"));
        }
        if members.iter().any(|member| member.first >= SOLID_KEY_MIN) {
            return Err(DecodeError::Invalid("member"));
        }
        Ok(Self {
            codec,
            members,
            compressed: reader.read_bytes(reader.remaining_len())?,
        })
    }
}

fn parse_member(record: &[u8; 12]) -> SolidMember {
    let (mut first, mut plain_len) = ([0; 8], [0; 4]);
    first.copy_from_slice(&record[..8]);
    plain_len.copy_from_slice(&record[8..]);
    SolidMember {
        first: ChunkId(u64::from_le_bytes(first)),
        plain_len: u32::from_le_bytes(plain_len),
    }
}

/// The key under which the store keeps a block, among the payloads of frames.
#[must_use]
pub fn solid_key(number: SolidNumber) -> [u8; 8] {
    frame_key(ChunkId(SOLID_KEY_MIN.0 | number.0))
}

/// The number of the block at `key` among the payloads of frames; `None` if a frame is there.
#[must_use]
pub fn parse_solid_key(key: &[u8]) -> Option<SolidNumber> {
    let key = u64::from_be_bytes(key.try_into().ok()?);
    (key >= SOLID_KEY_MIN.0).then_some(SolidNumber(key & !SOLID_KEY_MIN.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBER: SolidNumber = SolidNumber(7);

    fn members(lens: &[u32]) -> Vec<SolidMember> {
        let nth = |(nth, len): (usize, &u32)| SolidMember {
            first: ChunkId(nth as u64 * 1000),
            plain_len: *len,
        };
        lens.iter().enumerate().map(nth).collect()
    }

    fn block(lens: &[u32]) -> SolidBlock<'static> {
        SolidBlock {
            codec: FrameCodec::Zstd,
            members: members(lens),
            compressed: b"abc",
        }
    }

    #[test]
    fn blocks_come_back_and_say_where_their_members_lie() {
        let block = block(&[4096, 8192, 4096]);
        assert_eq!(
            SolidBlock::decode(NUMBER, &block.encode(NUMBER)),
            Ok(block.clone())
        );
        let places: Vec<_> = block.places().map(|(_, place)| place).collect();
        assert_eq!(places, [0..4096, 4096..12288, 12288..16384]);
        assert_eq!(block.plain_len(), 16384);
    }

    #[test]
    fn every_flipped_bit_is_refused_and_so_is_another_place() {
        let bytes = block(&[4096, 4096]).encode(NUMBER);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(SolidBlock::decode(NUMBER, &damaged).is_err(), "bit {bit}");
        }
        assert!(SolidBlock::decode(SolidNumber(8), &bytes).is_err());
    }

    /// One below, at and one above each limit, behind a checksum that fits.
    #[test]
    fn lengths_behind_their_limits_are_refused() {
        let is_read = |lens: &[u32]| {
            let encoded = block(lens).encode(NUMBER);
            SolidBlock::decode(NUMBER, &encoded).is_ok()
        };
        assert!(is_read(&[SOLID_LEN_MAX]));
        assert!(!is_read(&[SOLID_LEN_MAX, 1]));
        assert!(!is_read(&[]));
        assert!(!is_read(&[4096, 0]));
        assert!(is_read(&vec![1; MEMBERS_MAX as usize]));
        assert!(!is_read(&vec![1; MEMBERS_MAX as usize + 1]));
        let mut far = block(&[1]);
        far.members[0].first = SOLID_KEY_MIN;
        assert!(SolidBlock::decode(NUMBER, &far.encode(NUMBER)).is_err());
    }

    #[test]
    fn keys_of_blocks_come_behind_those_of_frames() {
        assert_eq!(parse_solid_key(&solid_key(NUMBER)), Some(NUMBER));
        assert_eq!(parse_solid_key(&frame_key(ChunkId(u64::MAX >> 1))), None);
        assert!(solid_key(SolidNumber(0)) > frame_key(ChunkId(u64::MAX >> 1)));
        assert_eq!(parse_solid_key(b"short"), None);
    }
}
