//! Finds the header of a chunk's frame: mostly the record before the chunk's id, found in one step.
//!
//! RocksDB goes through records in the order of their keys only where it can read every table that
//! may have the next one: a table that is lost, or a block of one, would take headers along that
//! are in others. A record whose key is known is read all the same. So where going through them
//! fails, every key is asked for at which the chunk's frame may begin.

use std::ops::RangeInclusive;
use std::sync::Mutex;

use vellum_core::frame::{FrameHeader, SPAN_MAX, frame_key, parse_frame_key};
use vellum_core::units::ChunkId;

use super::sync::lock_unpoisoned;
use crate::database::{Database, Family, Revision, Scan};
use crate::error::StoreError;

/// Keys that are asked for at once: mostly the frame begins within the first of them.
const KEYS_PER_LOOK: u64 = 64;

/// Finds headers, around what cannot be read.
#[derive(Default)]
pub(super) struct HeaderFinder {
    unreadable: Mutex<Option<UnreadableIds>>,
}

/// Ids whose header was sought last and cannot be read: their neighbours' are not sought again, as
/// long as the database is what it was.
struct UnreadableIds {
    ids: RangeInclusive<u64>,
    revision: Option<Revision>,
}

/// All headers in id order, also those behind a table that cannot be read.
pub(crate) struct HeaderWalk<'d> {
    database: &'d Database,
    records: Scan<'d>,
    /// Source of keys once the scan of the records has failed: the keys of payloads.
    keys: Option<Scan<'d>>,
    /// Below the next key.
    from: ChunkId,
    has_ended: bool,
}

impl<'d> HeaderWalk<'d> {
    /// The headers of frames that begin at `from` or later.
    pub(crate) fn new(database: &'d Database, from: ChunkId) -> Self {
        Self {
            database,
            records: database.scan_from(Family::Headers, &frame_key(from)),
            keys: None,
            from,
            has_ended: false,
        }
    }

    /// The first id of the next frame, and its header as it is stored. After damage that it tells,
    /// once for each family, it goes on behind it, as far as anything can be read.
    pub(crate) fn next(&mut self) -> Result<Option<(ChunkId, Vec<u8>)>, StoreError> {
        if self.has_ended {
            return Ok(None);
        }
        let next = match &mut self.keys {
            None => self.records.next().and_then(|item| {
                let owned =
                    |(key, value): (&[u8], &[u8])| Ok((parse_header_key(key)?, value.to_vec()));
                item.map(owned).transpose()
            }),
            Some(keys) => next_by_key(self.database, keys),
        };
        match next {
            Ok(Some((first, header))) => {
                self.from = first.advance_by(1);
                Ok(Some((first, header)))
            }
            Ok(None) => {
                self.has_ended = true;
                Ok(None)
            }
            Err(error) => {
                if self.keys.is_some() {
                    self.has_ended = true;
                } else {
                    let from = frame_key(self.from);
                    self.keys = Some(self.database.scan_from(Family::Frames, &from));
                }
                Err(error)
            }
        }
    }
}

/// The next header of those whose payloads' `keys` are known. One that cannot be read is passed
/// over: it was told what is damaged.
fn next_by_key(
    database: &Database,
    keys: &mut Scan<'_>,
) -> Result<Option<(ChunkId, Vec<u8>)>, StoreError> {
    while let Some((key, _)) = keys.next()? {
        match database.get(Family::Headers, key) {
            Ok(Some(header)) => return Ok(Some((parse_header_key(key)?, header.to_vec()))),
            Ok(None) | Err(StoreError::Damaged(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn parse_header_key(key: &[u8]) -> Result<ChunkId, StoreError> {
    parse_frame_key(key).map_err(|error| StoreError::damaged_record("a frame header's key", error))
}

impl HeaderFinder {
    /// The header of the frame that holds `id`.
    pub(super) fn find_header(
        &self,
        database: &Database,
        id: ChunkId,
    ) -> Result<Option<FrameHeader>, StoreError> {
        match database.last_at_or_before(Family::Headers, &frame_key(id)) {
            Ok(None) => Ok(None),
            Ok(Some((key, value))) => {
                let first = parse_header_key(&key)?;
                let header = decode_header(first, &value)?;
                Ok(header.payload_index(id).is_some().then_some(header))
            }
            Err(error @ StoreError::Damaged(_)) => self.find_by_key(database, id, error),
            Err(error) => Err(error),
        }
    }

    fn find_by_key(
        &self,
        database: &Database,
        id: ChunkId,
        error: StoreError,
    ) -> Result<Option<FrameHeader>, StoreError> {
        let lowest = id.0.saturating_sub(u64::from(SPAN_MAX) - 1);
        let revision = database.revision_of(Family::Headers);
        let known = lock_unpoisoned(&self.unreadable)
            .as_ref()
            .filter(|known| known.revision.is_some() && known.revision == revision)
            .map(|known| known.ids.clone());
        let note = |ids: RangeInclusive<u64>| {
            *lock_unpoisoned(&self.unreadable) = Some(UnreadableIds { ids, revision });
        };
        let (mut end, mut is_gap_free) = (id.0 + 1, true);
        while end > lowest {
            if let Some(known) = known.as_ref().filter(|known| known.contains(&(end - 1))) {
                // A frame that begins below it ends below it, too: the search began there.
                note(*known.start()..=id.0.max(*known.end()));
                return Err(error);
            }
            let start = end.saturating_sub(KEYS_PER_LOOK).max(lowest);
            for (first, value) in header_records(database, start..end) {
                match value {
                    Ok(None) => {}
                    Err(StoreError::Damaged(_)) => is_gap_free = false,
                    Err(error) => return Err(error),
                    Ok(Some(value)) => {
                        let header = decode_header(first, &value)?;
                        let is_it = header.payload_index(id).is_some();
                        // Frames do not lie within each other.
                        if is_it || header.end_id() > id || is_gap_free {
                            return Ok(is_it.then_some(header));
                        }
                        note(header.end_id().0..=id.0);
                        return Err(error);
                    }
                }
            }
            end = start;
        }
        if is_gap_free {
            return Ok(None);
        }
        note(lowest..=id.0);
        Err(error)
    }
}

/// Records at the keys of `ids`, the last one first.
fn header_records(
    database: &Database,
    ids: std::ops::Range<u64>,
) -> impl Iterator<Item = (ChunkId, Result<Option<Vec<u8>>, StoreError>)> {
    let keys: Vec<_> = ids.clone().rev().map(|id| frame_key(ChunkId(id))).collect();
    let values = database.get_each(Family::Headers, keys.iter().map(AsRef::as_ref));
    ids.rev().map(ChunkId).zip(values)
}

fn decode_header(first: ChunkId, value: &[u8]) -> Result<FrameHeader, StoreError> {
    FrameHeader::decode(first, value)
        .map_err(|error| StoreError::damaged_record(format!("header of frame {first}"), error))
}
