//! Rebuilds lost headers from their frames, and entries of the index from headers.
//!
//! Below a record that is lost lies the one that it replaced. So where a part of headers or frames
//! is lost, a header may be of another time than the payload beside it: a collection has moved the
//! frame into a solid block or out of it, has put it together with others, or has deleted it. A
//! payload says itself how it is encoded, so its header is made anew; a header without a payload is
//! of a deleted frame if no payload can be lost.
//!
//! A frame tells how many chunks it holds, and their bytes tell their names. Their ids are sure
//! where the index has a name's id, or where as many ids are free between two that are sure as
//! there are chunks. The id of a chunk is never guessed: under a wrong id it would be wrong bytes.

use std::collections::BTreeMap;
use std::ops::Range;

use vellum_core::frame::{
    FrameHeader, REFERENCE_LEN, SPAN_MAX, SolidMembership, StoredPayload, frame_key,
    parse_frame_key,
};
use vellum_core::hash::{ChunkHash, hash_chunks};
use vellum_core::solid::parse_solid_key;
use vellum_core::units::ChunkId;
use vellum_core::wire::{WireReader, put_varint};

use crate::chunks::{DecodedSolid, payload_mismatch};
use crate::codec;
use crate::database::{Batch, Database, Durability, Family};
use crate::error::StoreError;
use crate::records::StoreParameters;

/// Operations that go into one batch.
const BATCH_LEN: usize = 10_000;

/// Counts of rebuilt records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ContentMends {
    pub(super) headers: u64,
    /// Headers that cannot be read and could not be made anew.
    pub(super) headers_lost: u64,
    /// Headers of frames that were deleted: what deleted them is lost.
    pub(super) headers_stale: u64,
    pub(super) index_entries: u64,
}

/// The families of which a part is lost: below a lost record lies the one that it replaced.
#[derive(Clone, Copy, Debug)]
pub(super) struct HurtFamilies {
    pub(super) headers: bool,
    pub(super) frames: bool,
}

/// Makes headers anew for frames that have none that can be read, or one of another time.
/// `next_chunk` is an id that was not given yet. Unless a part of headers or frames is lost, only
/// those are looked at that are there: to see which frames have none takes reading all frames.
pub(super) fn mend_headers(
    database: &Database,
    parameters: StoreParameters,
    next_chunk: ChunkId,
    hurt: HurtFamilies,
    mends: &mut ContentMends,
) -> Result<(), StoreError> {
    let mut known = KnownHeaders::read_all(database)?;
    if !hurt.headers && !hurt.frames && known.broken.is_empty() {
        return Ok(());
    }
    let frames = compare_frames(database, parameters, &mut known)?;
    let mut batch = Batch::default();
    if hurt.headers && !hurt.frames {
        for first in known.drop_without_payload(&frames) {
            batch.delete_record(Family::Headers, frame_key(first));
            mends.headers_stale += 1;
        }
    }
    for (nth, first) in frames.iter().enumerate() {
        if known.covers(*first) {
            continue;
        }
        let next_frame = frames.get(nth + 1).copied();
        let end = next_frame.into_iter().chain(known.next_after(*first)).min();
        let Some(payload) = database.get(Family::Frames, &frame_key(*first))? else {
            continue;
        };
        let end = end.unwrap_or(next_chunk);
        let other = known.others.get(first);
        if let Some(header) = header_of(database, parameters, *first..end, &payload, other)? {
            batch.put_record(Family::Headers, frame_key(*first), header.encode());
            mends.headers += 1;
        }
    }
    for first in known.broken {
        // A header that was rebuilt has been put above.
        if frames.binary_search(&first).is_err() {
            batch.delete_record(Family::Headers, frame_key(first));
            mends.headers_lost += 1;
        }
    }
    database.write_batch(batch, Durability::Logged)
}

/// The first ids of all frames that have a payload. Headers that were written with other payloads
/// are taken out of `known`.
fn compare_frames(
    database: &Database,
    parameters: StoreParameters,
    known: &mut KnownHeaders,
) -> Result<Vec<ChunkId>, StoreError> {
    let mut frames = Vec::new();
    let mut scan = database.scan_from(Family::Frames, &[]);
    while let Some((key, stored)) = scan.next()? {
        if parse_solid_key(key).is_some() {
            break;
        }
        let Ok(first) = parse_frame_key(key) else {
            continue;
        };
        frames.push(first);
        if !known.whole.contains_key(&first) || StoredPayload::decode(first, stored).is_err() {
            continue;
        }
        let header = database.get(Family::Headers, &frame_key(first))?;
        let header = header.and_then(|header| FrameHeader::decode(first, &header).ok());
        let is_other =
            |header: &FrameHeader| payload_mismatch(header, stored, parameters.chunk_len).is_some();
        if let Some(other) = header.filter(is_other) {
            known.whole.remove(&first);
            known.others.insert(first, other);
        }
    }
    Ok(frames)
}

/// The headers that are there.
struct KnownHeaders {
    /// Those that can be read, with where each ends.
    whole: BTreeMap<ChunkId, ChunkId>,
    /// The keys of those that cannot.
    broken: Vec<ChunkId>,
    /// Those that were written with another payload than the one that is there.
    others: BTreeMap<ChunkId, FrameHeader>,
}

impl KnownHeaders {
    fn read_all(database: &Database) -> Result<Self, StoreError> {
        let (mut whole, mut broken) = (BTreeMap::new(), Vec::new());
        let mut scan = database.scan_from(Family::Headers, &[]);
        while let Some((key, value)) = scan.next()? {
            let Ok(first) = parse_frame_key(key) else {
                continue;
            };
            match FrameHeader::decode(first, value) {
                Ok(header) => drop(whole.insert(first, header.end_id())),
                Err(_) => broken.push(first),
            }
        }
        Ok(Self {
            whole,
            broken,
            others: BTreeMap::new(),
        })
    }

    /// Takes out the headers without a payload, of which all are there: their deletion is lost.
    fn drop_without_payload(&mut self, frames: &[ChunkId]) -> Vec<ChunkId> {
        let stale = self.whole.keys().copied();
        let stale: Vec<ChunkId> = stale
            .filter(|first| frames.binary_search(first).is_err())
            .collect();
        self.whole
            .retain(|first, _| frames.binary_search(first).is_ok());
        stale
    }

    /// True if a header holds `id`, or could.
    fn covers(&self, id: ChunkId) -> bool {
        let known = self.whole.range(..=id).next_back();
        known.is_some_and(|(_, end)| *end > id)
    }

    fn next_after(&self, id: ChunkId) -> Option<ChunkId> {
        let mut after = self.whole.range(id.advance_by(1)..);
        after.next().map(|(first, _)| *first)
    }
}

/// The header of the frame whose ids are within `ids`, and begin with the first of them, as far as
/// it is sure. `other` is a header that was written with another payload: it knows the ids if the
/// chunks are the same.
fn header_of(
    database: &Database,
    parameters: StoreParameters,
    ids: Range<ChunkId>,
    payload: &[u8],
    other: Option<&FrameHeader>,
) -> Result<Option<FrameHeader>, StoreError> {
    let first = ids.start;
    let chunk_len = parameters.chunk_len.byte_len() as usize;
    let decoded = decode_payload(database, first, payload);
    let Some((plain, solid)) =
        decoded.filter(|(plain, _)| !plain.is_empty() && plain.len().is_multiple_of(chunk_len))
    else {
        return Ok(None);
    };
    let chunks: Vec<&[u8]> = plain.chunks_exact(chunk_len).collect();
    let hashes = hash_chunks(&chunks);
    let has_same = |other: &&FrameHeader| other.chunk_hashes().map(|(_, hash)| hash).eq(&hashes);
    let ids = if let Some(other) = other.filter(has_same) {
        Some(other.chunk_hashes().map(|(id, _)| id).collect())
    } else {
        let end = ids.end.min(first.advance_by(SPAN_MAX.into()));
        assign_ids(first, end, &indexed_ids(database, &hashes)?)
    };
    Ok(ids.map(|ids: Vec<ChunkId>| {
        let chunks = ids.into_iter().zip(hashes);
        let header = FrameHeader::new(chunks, payload.len() as u32);
        match solid {
            Some((membership, share_len)) => header.in_solid_block(membership, share_len),
            None => header,
        }
    }))
}

/// The ids that the index has for names.
fn indexed_ids(
    database: &Database,
    hashes: &[ChunkHash],
) -> Result<Vec<Option<ChunkId>>, StoreError> {
    let mut found = Vec::with_capacity(hashes.len());
    for hash in hashes {
        let entry = database.get(Family::Index, &hash.index_prefix())?;
        let id = entry.and_then(|value| WireReader::new(&value).read_varint().ok());
        found.push(id.map(ChunkId));
    }
    Ok(found)
}

/// The bytes of a frame, if they can be read, and its place in a solid block, with its share of
/// that, if they are there.
fn decode_payload(
    database: &Database,
    first: ChunkId,
    payload: &[u8],
) -> Option<(Vec<u8>, Option<(SolidMembership, u32)>)> {
    match StoredPayload::decode(first, payload).ok()? {
        StoredPayload::Own(own) => {
            let plain_len = own.plain_len as usize;
            let plain = codec::decompress_frame(own.codec, own.compressed, plain_len).ok()?;
            Some((plain, None))
        }
        StoredPayload::Solid { place, plain_len } => {
            let block = DecodedSolid::read_block(database, place.block).ok()?;
            let plain = block.frame_bytes(first, place.offset, plain_len)?.to_vec();
            let membership = SolidMembership {
                block: place.block,
                block_len: block.plain_len(),
            };
            let share_len = REFERENCE_LEN + block.share_len(plain_len);
            Some((plain, Some((membership, share_len))))
        }
    }
}

/// The ids of the chunks of a frame, if all are sure: `found` has what the index says of each.
fn assign_ids(first: ChunkId, end: ChunkId, found: &[Option<ChunkId>]) -> Option<Vec<ChunkId>> {
    let mut ids: Vec<Option<ChunkId>> = vec![None; found.len()];
    *ids.first_mut()? = Some(first);
    let mut last = (0, first);
    for (nth, id) in found.iter().enumerate().skip(1) {
        // A chunk that is there twice has one entry, which may be the other's.
        let fits =
            |id: &ChunkId| *id > last.1 && *id < end && id.0 - last.1.0 >= (nth - last.0) as u64;
        if let Some(id) = id.filter(fits) {
            ids[nth] = Some(id);
            last = (nth, id);
        }
    }
    let mut from = 0;
    while let Some(gap) = (from..ids.len()).find(|nth| ids[*nth].is_none()) {
        let until = (gap..ids.len())
            .find(|nth| ids[*nth].is_some())
            .unwrap_or(ids.len());
        let before = ids[gap - 1]?;
        let after = ids.get(until).copied().flatten().unwrap_or(end);
        if after.0.checked_sub(before.0 + 1)? != (until - gap) as u64 {
            return None;
        }
        for (nth, id) in ids[gap..until].iter_mut().enumerate() {
            *id = Some(before.advance_by(nth as u64 + 1));
        }
        from = until;
    }
    ids.into_iter().collect()
}

/// Puts every name that the headers know and the index does not into the index.
pub(super) fn mend_index(database: &Database, mends: &mut ContentMends) -> Result<(), StoreError> {
    let (mut scan, mut batch) = (database.scan_from(Family::Headers, &[]), Batch::default());
    let (mut value, mut waiting) = (Vec::new(), 0);
    while let Some((key, bytes)) = scan.next()? {
        let header = parse_frame_key(key).and_then(|first| FrameHeader::decode(first, bytes));
        for (id, hash) in header.iter().flat_map(FrameHeader::chunk_hashes) {
            if database.get(Family::Index, &hash.index_prefix())?.is_some() {
                continue;
            }
            value.clear();
            put_varint(&mut value, id.0);
            batch.put_record(Family::Index, hash.index_prefix(), &value);
            (waiting, mends.index_entries) = (waiting + 1, mends.index_entries + 1);
        }
        if waiting >= BATCH_LEN {
            database.write_batch(std::mem::take(&mut batch), Durability::Bulk)?;
            waiting = 0;
        }
    }
    drop(scan);
    database.write_batch(batch, Durability::Bulk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_that_are_sure_are_given() {
        let id = |id: u64| Some(ChunkId(id));
        let table = [
            (10, 20, vec![None], Some(vec![10])),
            (10, 13, vec![None, None, None], Some(vec![10, 11, 12])),
            (10, 14, vec![None, None, None], None),
            (10, 99, vec![id(10), id(14), id(15)], Some(vec![10, 14, 15])),
            (
                10,
                99,
                vec![id(10), None, id(12), id(40)],
                Some(vec![10, 11, 12, 40]),
            ),
            (10, 99, vec![id(10), None, id(13), id(40)], None),
            // Entries of other frames say nothing.
            (10, 13, vec![id(3), id(2000), id(4)], Some(vec![10, 11, 12])),
            // Too near for what lies in between.
            (10, 13, vec![id(10), None, id(11)], Some(vec![10, 11, 12])),
        ];
        for (first, end, found, wanted) in table {
            let ids = assign_ids(ChunkId(first), ChunkId(end), &found);
            let ids = ids.map(|ids| ids.iter().map(|id| id.0).collect::<Vec<_>>());
            assert_eq!(ids, wanted, "{found:?}");
        }
    }
}
