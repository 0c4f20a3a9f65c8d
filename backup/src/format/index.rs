//! An index object: the names of a repository's chunks, and where each chunk is.
//!
//! It is complete in itself: it has the name of every chunk that its frames hold. A chunk's name
//! stands once in a repository, here (beside copies while a collection is under way, and where two
//! clients sent the same without knowing of each other); packs have none.
//!
//! An index object is a bundle (`seal`) of blobs, its *parts*; those of early repositories are one
//! blob. Each part holds some segments with their
//! names, and those frames of all packs that are of these segments, so that a reader who wants
//! chunks of one segment fetches one part. The record that names the object tells where each part
//! stands, of which segments it is, and a sample of its names ([`IndexPart`]).
//!
//! ```text
//! Content of a part, version 1.
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
//!   varint  number of frames of these segments, at least 1; in the order of their offsets, each:
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
use super::{IndexPart, PACK_LEN_MAX, PartTable, Presence, SEGMENT_LEN_MAX};
use crate::objects::ObjectId;
use crate::seal::{Bundle, SealError, SealedKind, SealedObject, Sealer, bundle_parts};

/// Chunks that one index object should name at most: about 32 MiB of it.
pub const INDEX_CHUNK_COUNT_MAX: usize = 1_000_000;
/// Segments share a part as long as they have no more chunks than this together: what a reader of
/// one of them fetches in vain costs no more than a request.
const SHARED_PART_COUNT_MAX: usize = 1024;
/// Names in the sample of a part. One in ten of its chunks in the hands of a client shows in more
/// than half of all parts, one in four in nine of ten.
pub const SAMPLE_COUNT: usize = 8;

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

/// An index object, ready to be put.
#[derive(Clone, Debug)]
pub struct SealedIndex {
    /// Name and bytes.
    pub object: SealedObject,
    /// Its parts.
    pub parts: PartTable,
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

    /// The object that has this content. Panics if a frame is of a segment that it does not have.
    pub fn seal(&self, sealer: &Sealer) -> Result<SealedIndex, SealError> {
        let mut bundle = Bundle::new(SealedKind::IndexParts);
        let split = self.split();
        for part in &split {
            bundle.push(sealer.seal_blob(SealedKind::IndexParts, &part.encode())?);
        }
        let bundle = bundle.finish(sealer)?;
        let mut parts = PartTable::default();
        for (part, (offset, len)) in split.iter().zip(bundle.ranges) {
            parts.push(IndexPart {
                segments: &part.segments.keys().copied().collect::<Vec<_>>(),
                offset,
                len,
                sample: &part.sample(),
            });
        }
        Ok(SealedIndex {
            parts,
            object: bundle.object,
        })
    }

    /// The content of the object `stored`, which is checked against its name.
    pub fn open(sealer: &Sealer, id: &ObjectId, stored: &[u8]) -> Result<Self, SealError> {
        if sealer.is_of(SealedKind::Index, stored) {
            let plain = sealer.open(SealedKind::Index, id, stored)?;
            return Ok(Self::decode(&plain)?);
        }
        let mut index = Self::default();
        let mut numbers = BTreeMap::new();
        for (offset, len) in bundle_parts(sealer, SealedKind::IndexParts, id, stored)? {
            let part = Self::open_part(sealer, &stored[offset as usize..(offset + len) as usize])?;
            index.add_part(part, &mut numbers)?;
        }
        let packs = index.packs.iter_mut();
        packs.for_each(|pack| pack.frames.sort_by_key(|frame| frame.offset));
        Ok(index)
    }

    /// The content of one part, as it is stored.
    pub fn open_part(sealer: &Sealer, stored: &[u8]) -> Result<Self, SealError> {
        let plain = sealer.open_blob(SealedKind::IndexParts, stored)?;
        Ok(Self::decode(&plain)?)
    }

    /// What it says of one segment.
    #[must_use]
    pub fn of_segment(&self, segment: SegmentId) -> Self {
        let entry = self.segments.get(&segment).cloned();
        let mut part = Self {
            segments: entry.map(|entry| (segment, entry)).into_iter().collect(),
            packs: Vec::new(),
        };
        for pack in &self.packs {
            let of_it = |frame: &&FrameEntry| frame.segment == segment;
            for frame in pack.frames.iter().filter(of_it) {
                part.add_frame(pack, frame);
            }
        }
        part
    }

    /// The contents of its parts: of one segment each, or of a few that are small.
    fn split(&self) -> Vec<Self> {
        let (mut parts, mut numbers) = (Vec::<Self>::new(), BTreeMap::new());
        let mut count = usize::MAX;
        for (id, segment) in &self.segments {
            count = count.saturating_add(segment.hashes.len());
            if count > SHARED_PART_COUNT_MAX {
                parts.push(Self::default());
                count = segment.hashes.len();
            }
            let number = parts.len() - 1;
            parts[number].segments.insert(*id, segment.clone());
            numbers.insert(*id, number);
        }
        for pack in &self.packs {
            for frame in &pack.frames {
                parts[numbers[&frame.segment]].add_frame(pack, frame);
            }
        }
        parts
    }

    /// Adds a frame of `pack` behind those that it has.
    fn add_frame(&mut self, pack: &PackEntry, frame: &FrameEntry) {
        if self.packs.last().is_none_or(|last| last.id != pack.id) {
            self.packs.push(PackEntry {
                frames: Vec::new(),
                ..*pack
            });
        }
        let frames = self.packs.last_mut().map(|last| &mut last.frames);
        frames
            .into_iter()
            .for_each(|frames| frames.push(frame.clone()));
    }

    /// Adds what a part says. `numbers` are the places of the packs so far.
    fn add_part(
        &mut self,
        part: Self,
        numbers: &mut BTreeMap<ObjectId, usize>,
    ) -> Result<(), DecodeError> {
        for (id, segment) in part.segments {
            if self.segments.insert(id, segment).is_some() {
                return Err(DecodeError::Invalid("segment of two parts"));
            }
        }
        for pack in part.packs {
            let number = *numbers.entry(pack.id).or_insert(self.packs.len());
            match self.packs.get_mut(number) {
                None => self.packs.push(pack),
                Some(known) if known.len == pack.len => known.frames.extend(pack.frames),
                Some(_) => return Err(DecodeError::Invalid("length of a pack")),
            }
        }
        Ok(())
    }

    fn sample(&self) -> Vec<u64> {
        let hashes = self.segments.values().flat_map(|segment| &segment.hashes);
        let mut least: Vec<u64> = hashes
            .map(|hash| u64::from_be_bytes(hash.index_prefix()))
            .collect();
        let count = least.len().min(SAMPLE_COUNT);
        if count < least.len() {
            least.select_nth_unstable(count);
            least.truncate(count);
        }
        least.sort_unstable();
        least
    }

    /// The content of a part, to be sealed as a blob of [`SealedKind::IndexParts`]. Panics if a
    /// frame is of a segment that it does not have.
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

    /// The content of a part that `bytes` are.
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

#[cfg(test)]
mod tests {
    use vellum_core::identity::RepositoryId;

    use super::*;
    use crate::seal::Secrets;
    use crate::testing::seed;

    /// An index object of segments with these numbers of chunks, in packs whose frames are of any
    /// segment.
    fn index(random: &mut fastrand::Rng, counts: &[u32]) -> IndexObject {
        let mut index = IndexObject::default();
        for (nth, count) in (0_u8..).zip(counts) {
            let name = |ordinal| {
                let mut name = [0; 32];
                random.fill(&mut name);
                (ordinal, ChunkHash(name))
            };
            let names: Vec<(u32, ChunkHash)> = (0..*count).map(name).collect();
            let entry = SegmentEntry::new(&names);
            index.segments.insert(SegmentId([nth; 16]), entry);
        }
        let mut frames: Vec<FrameEntry> = Vec::new();
        for (segment, entry) in &index.segments {
            for first in (0..entry.hashes.len() as u32).step_by(16) {
                let count = (entry.hashes.len() as u32 - first).min(16);
                frames.push(FrameEntry {
                    segment: *segment,
                    first,
                    presence: Presence::all(count),
                    codec: FrameCodec::Zstd,
                    offset: 0,
                    len: 100,
                });
            }
        }
        random.shuffle(&mut frames);
        for (nth, some) in (0_u8..).zip(frames.chunks(50)) {
            let placed = some.iter().zip(0..).map(|(frame, at)| FrameEntry {
                offset: at * 100,
                ..frame.clone()
            });
            index.packs.push(PackEntry {
                id: ObjectId([nth; 32]),
                len: 5_000,
                frames: placed.collect(),
            });
        }
        index
    }

    /// The same with packs in the order of their names.
    fn sorted(mut index: IndexObject) -> IndexObject {
        index.packs.sort_by_key(|pack| pack.id);
        index
    }

    #[test]
    fn parts_together_are_the_whole_and_each_is_complete_in_itself() {
        let mut random = fastrand::Rng::with_seed(seed());
        let id = RepositoryId([9; 16]);
        let secrets = Secrets::generate().expect("random bytes");
        for sealer in [Sealer::plain(id), Sealer::encrypted(id, &secrets)] {
            let index = index(&mut random, &[1, 700, 300, 2_000, 40, 1_024, 3, 5]);
            let SealedIndex { object, parts } = index.seal(&sealer).expect("it seals");
            let opened = IndexObject::open(&sealer, &object.id, &object.bytes);
            assert_eq!(sorted(opened.expect("it opens")), sorted(index.clone()));
            let shared: Vec<usize> = parts.iter().map(|part| part.segments.len()).collect();
            assert_eq!(shared, [3, 1, 1, 1, 2], "few share a part");
            let mut told: Vec<&SegmentId> = Vec::new();
            for part in parts.iter() {
                let range = part.offset as usize..(part.offset + part.len) as usize;
                let alone = IndexObject::open_part(&sealer, &object.bytes[range]);
                let alone = alone.expect("a part opens");
                assert!(part.segments.iter().eq(alone.segments.keys()));
                for segment in part.segments {
                    assert_eq!(alone.of_segment(*segment), index.of_segment(*segment));
                }
                let names = alone.segments.values().flat_map(|entry| &entry.hashes);
                let mut least: Vec<u64> = names
                    .map(|name| u64::from_be_bytes(name.index_prefix()))
                    .collect();
                least.sort_unstable();
                least.truncate(SAMPLE_COUNT);
                assert_eq!(part.sample, least);
                told.extend(part.segments);
            }
            assert!(told.into_iter().eq(index.segments.keys()));
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let mut random = fastrand::Rng::with_seed(seed());
        let sealer = Sealer::plain(RepositoryId([9; 16]));
        let (one, other) = (index(&mut random, &[2_000]), index(&mut random, &[1_500]));
        let mut long = other.clone();
        long.segments = [(
            SegmentId([8; 16]),
            other.segments[&SegmentId([0; 16])].clone(),
        )]
        .into();
        for pack in &mut long.packs {
            pack.len += 1;
            let frames = pack.frames.iter_mut();
            frames.for_each(|frame| frame.segment = SegmentId([8; 16]));
        }
        for (parts, reason) in [([&one, &other], "segment"), ([&one, &long], "length")] {
            let mut bundle = Bundle::new(SealedKind::IndexParts);
            for part in parts {
                let blob = sealer.seal_blob(SealedKind::IndexParts, &part.encode());
                bundle.push(blob.expect("it seals"));
            }
            let object = bundle.finish(&sealer).expect("it seals").object;
            let opened = IndexObject::open(&sealer, &object.id, &object.bytes);
            let told = opened.expect_err("it contradicts itself").to_string();
            assert!(told.contains(reason), "{told}");
        }
    }
}
