//! An index object: the names of a repository's chunks, and where each chunk is.
//!
//! It is complete in itself: it has the name of every chunk that its frames hold. A chunk's name
//! stands once in a repository, here (beside copies while a collection is under way); packs have
//! none.
//!
//! ```text
//! Content of an index object, version 1.
//!
//! size    meaning                                         guards against
//! 1       version                                         a newer program's index
//! varint  number of segments, each:
//!   16    identity; rising
//!   varint  span: ordinals from 0 to the last that is there, at most SEGMENT_LEN_MAX
//!   varint  the first ordinal that is there
//!   …     presence of the ordinals from there on (`presence`)
//!   32·n  the name of each chunk that is there, in order  a wrong byte anywhere in a frame
//! varint  number of packs, each:
//!   32    ID
//!   varint  length in bytes                               a pack that lost its end, seen in a
//!                                                         listing
//!   varint  number of frames, at least 1; in the order of their offsets, each:
//!     varint  segment: its place in the list above
//!     varint  first ordinal
//!     varint  span, 1 to SPAN_MAX
//!     …     presence (`presence`): each chunk of it is there in the segment
//!     1     codec: 0 none, 1 lz4 block, 2 zstd frame
//!     varint  offset of its part in the pack, minus the end of the frame before it (the first:
//!             minus 0)
//!     varint  length of its part
//! ```

use std::collections::BTreeMap;

use vellum_core::frame::FrameCodec;
use vellum_core::hash::{ChunkHash, HASH_LEN};
use vellum_core::identity::SegmentId;
use vellum_core::wire::{DecodeError, WireReader, put_varint};

use super::frame::{codec_byte, codec_of, decode_place};
use super::{PACK_LEN_MAX, Presence, SEGMENT_LEN_MAX};
use crate::objects::ObjectId;

/// Chunks that one index object should name at most: about 32 MiB of it.
pub const INDEX_CHUNK_COUNT_MAX: usize = 1_000_000;

const VERSION: u8 = 1;

/// The content of an index object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexObject {
    /// The chunks' names, by segment.
    pub segments: BTreeMap<SegmentId, SegmentEntry>,
    /// The packs, with their frames.
    pub packs: Vec<PackEntry>,
}

/// Names of chunks of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentEntry {
    /// The first ordinal that is there.
    pub first: u32,
    /// The ordinals from there on that are present.
    pub presence: Presence,
    /// Their names, in order.
    pub hashes: Vec<ChunkHash>,
}

/// The frames of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackEntry {
    /// Its name.
    pub id: ObjectId,
    /// Its length in bytes.
    pub len: u64,
    /// Its frames, in the order of their offsets.
    pub frames: Vec<FrameEntry>,
}

/// The location of some chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameEntry {
    /// Their segment.
    pub segment: SegmentId,
    /// The first one's ordinal.
    pub first: u32,
    /// The ordinals from there on that are present.
    pub presence: Presence,
    /// Their codec.
    pub codec: FrameCodec,
    /// The offset of their part in the pack, in bytes.
    pub offset: u64,
    /// The length of their part in bytes.
    pub len: u32,
}

impl SegmentEntry {
    /// The names of these chunks, in rising order. Panics if they are none or out of order.
    #[must_use]
    pub fn new(chunks: &[(u32, ChunkHash)]) -> Self {
        let first = chunks[0].0;
        let offsets: Vec<u32> = chunks.iter().map(|(ordinal, _)| ordinal - first).collect();
        Self {
            first,
            presence: Presence::of(&offsets),
            hashes: chunks.iter().map(|(_, hash)| *hash).collect(),
        }
    }

    /// The chunks that are there, with their names.
    pub fn chunks(&self) -> impl Iterator<Item = (u32, &ChunkHash)> {
        self.presence
            .offsets()
            .map(|at| self.first + at)
            .zip(&self.hashes)
    }

    /// Encodes these names by themselves: the entry of the segment `id` in an index object.
    pub(crate) fn encode(&self, id: SegmentId) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HASH_LEN * (self.hashes.len() + 1));
        encode_segment(&mut bytes, id, self);
        bytes
    }

    /// Decodes the bytes of [`SegmentEntry::encode`].
    pub(crate) fn decode(bytes: &[u8]) -> Result<(SegmentId, Self), DecodeError> {
        let mut reader = WireReader::new(bytes);
        let segment = decode_segment(&mut reader)?;
        reader.expect_end()?;
        Ok(segment)
    }

    /// The name of one chunk.
    #[must_use]
    pub fn hash(&self, ordinal: u32) -> Option<&ChunkHash> {
        let at = ordinal
            .checked_sub(self.first)
            .filter(|at| self.presence.has(*at))?;
        self.hashes.get(self.presence.rank(at) as usize)
    }
}

impl FrameEntry {
    /// The ordinals of its chunks.
    pub fn ordinals(&self) -> impl Iterator<Item = u32> + '_ {
        self.presence.offsets().map(|at| self.first + at)
    }
}

impl IndexObject {
    /// The number of chunks that it names.
    #[must_use]
    pub fn chunk_count(&self) -> usize {
        self.segments
            .values()
            .map(|segment| segment.hashes.len())
            .sum()
    }

    /// Its content, to be sealed as a [`crate::seal::SealedKind::Index`]. Panics if a frame is of a
    /// segment that it does not have.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        put_varint(&mut bytes, self.segments.len() as u64);
        self.segments
            .iter()
            .for_each(|(id, segment)| encode_segment(&mut bytes, *id, segment));
        let places: BTreeMap<SegmentId, u64> = self.segments.keys().copied().zip(0..).collect();
        put_varint(&mut bytes, self.packs.len() as u64);
        self.packs
            .iter()
            .for_each(|pack| encode_pack(&mut bytes, pack, &places));
        bytes
    }

    /// The index that `bytes` are.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = WireReader::new(bytes);
        reader.read_version(VERSION)?;
        let mut index = Self::default();
        let mut last = None;
        for _ in 0..reader.read_varint()? {
            let (id, segment) = decode_segment(&mut reader)?;
            if last.replace(id).is_some_and(|last| last >= id) {
                return Err(DecodeError::Invalid("order of segments"));
            }
            index.segments.insert(id, segment);
        }
        let ids: Vec<SegmentId> = index.segments.keys().copied().collect();
        for _ in 0..reader.read_varint()? {
            index
                .packs
                .push(decode_pack(&mut reader, &ids, &index.segments)?);
        }
        reader.expect_end()?;
        Ok(index)
    }
}

fn encode_segment(bytes: &mut Vec<u8>, id: SegmentId, segment: &SegmentEntry) {
    bytes.extend_from_slice(&id.0);
    put_varint(bytes, u64::from(segment.first + segment.presence.span()));
    put_varint(bytes, segment.first.into());
    segment.presence.encode(bytes);
    segment
        .hashes
        .iter()
        .for_each(|hash| bytes.extend_from_slice(&hash.0));
}

fn decode_segment(reader: &mut WireReader<'_>) -> Result<(SegmentId, SegmentEntry), DecodeError> {
    let id = SegmentId(
        reader
            .read_bytes(16)?
            .try_into()
            .expect("sixteen bytes were taken"),
    );
    let (end, first) = (reader.read_varint()?, reader.read_varint()?);
    if end > u64::from(SEGMENT_LEN_MAX) || first >= end {
        return Err(DecodeError::Invalid("ordinals of a segment"));
    }
    let presence = Presence::decode(reader, (end - first) as u32)?;
    let (hashes, _) = reader
        .read_bytes(presence.count() as usize * HASH_LEN)?
        .as_chunks::<HASH_LEN>();
    let hashes = hashes.iter().copied().map(ChunkHash).collect();
    Ok((
        id,
        SegmentEntry {
            first: first as u32,
            presence,
            hashes,
        },
    ))
}

fn encode_pack(bytes: &mut Vec<u8>, pack: &PackEntry, places: &BTreeMap<SegmentId, u64>) {
    bytes.extend_from_slice(&pack.id.0);
    put_varint(bytes, pack.len);
    put_varint(bytes, pack.frames.len() as u64);
    let mut end = 0;
    for frame in &pack.frames {
        put_varint(bytes, places[&frame.segment]);
        put_varint(bytes, frame.first.into());
        put_varint(bytes, frame.presence.span().into());
        frame.presence.encode(bytes);
        bytes.push(codec_byte(frame.codec));
        put_varint(bytes, frame.offset - end);
        put_varint(bytes, frame.len.into());
        end = frame.offset + u64::from(frame.len);
    }
}

fn decode_pack(
    reader: &mut WireReader<'_>,
    ids: &[SegmentId],
    segments: &BTreeMap<SegmentId, SegmentEntry>,
) -> Result<PackEntry, DecodeError> {
    let id = ObjectId(
        reader
            .read_bytes(32)?
            .try_into()
            .expect("thirty-two bytes were taken"),
    );
    let len = reader.read_varint()?;
    if len > PACK_LEN_MAX {
        return Err(DecodeError::Invalid("length of a pack"));
    }
    let (mut frames, mut end) = (Vec::new(), 0);
    for _ in 0..reader.read_varint()? {
        let frame = decode_frame_entry(reader, ids, end)?;
        end = frame.offset + u64::from(frame.len);
        let segment = &segments[&frame.segment];
        if end > len || !segment.has_all_of(&frame) {
            return Err(DecodeError::Invalid("frame"));
        }
        frames.push(frame);
    }
    if frames.is_empty() {
        Err(DecodeError::Invalid("pack without frames"))
    } else {
        Ok(PackEntry { id, len, frames })
    }
}

fn decode_frame_entry(
    reader: &mut WireReader<'_>,
    ids: &[SegmentId],
    last_end: u64,
) -> Result<FrameEntry, DecodeError> {
    let place = usize::try_from(reader.read_varint()?).ok();
    let segment = *place
        .and_then(|place| ids.get(place))
        .ok_or(DecodeError::Invalid("segment of a frame"))?;
    let (first, span) = decode_place(reader)?;
    let presence = Presence::decode(reader, span)?;
    let codec = codec_of(reader.read_u8()?)?;
    let (gap, len) = (reader.read_varint()?, reader.read_varint()?);
    if gap > PACK_LEN_MAX || len > PACK_LEN_MAX {
        return Err(DecodeError::Invalid("place of a frame"));
    }
    Ok(FrameEntry {
        segment,
        first,
        presence,
        codec,
        offset: last_end + gap,
        len: len as u32,
    })
}

impl SegmentEntry {
    /// True if every chunk of `frame` has its name here. Counts, so that one long frame of few
    /// bytes costs little.
    fn has_all_of(&self, frame: &FrameEntry) -> bool {
        let Some(at) = frame.first.checked_sub(self.first) else {
            return false;
        };
        let end = at + frame.presence.span();
        let is_dense = self.presence.rank(end) - self.presence.rank(at) == frame.presence.span();
        end <= self.presence.span()
            && (is_dense
                || frame
                    .ordinals()
                    .all(|ordinal| self.presence.has(ordinal - self.first)))
    }
}
