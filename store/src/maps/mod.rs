//! What the maps of disks say when they are looked at, compared and put onto each other: all by ids, no chunk is read.

mod diff;
mod map;
mod rebase;

use vellum_core::frame::{FrameHeader, frame_key, parse_frame_key};
use vellum_core::hash::ChunkHash;
use vellum_core::units::ChunkId;

pub use diff::Difference;
pub use map::MapEntry;
pub use rebase::RebaseMode;

use crate::database::Family;
use crate::error::StoreError;
use crate::store::Store;

impl Store {
    /// The names of `count` chunks from `first` on. Takes memory for all of them: ask for long runs in parts.
    pub fn chunk_hashes(&self, first: ChunkId, count: u64) -> Result<Vec<ChunkHash>, StoreError> {
        let end = first.advance(count);
        let mut hashes = Vec::new();
        if count == 0 {
            return Ok(hashes);
        }
        let header = self.inner.chunks.header(first)?.ok_or_else(|| missing(first))?;
        let mut next = take_hashes(&header, first, end, &mut hashes);
        // Ids that follow each other mostly lie in frames that do.
        let mut scan = (next < end).then(|| self.inner.database.scan(Family::Headers, &frame_key(next)));
        while next < end {
            let record = scan.as_mut().map_or(Ok(None), |scan| scan.next())?;
            let (key, value) = record.ok_or_else(|| missing(next))?;
            let place = parse_frame_key(key).map_err(|error| StoreError::damaged("a frame header's key", error))?;
            let header =
                FrameHeader::decode(place, value).map_err(|error| StoreError::damaged(format!("header of frame {place}"), error))?;
            let after = take_hashes(&header, next, end, &mut hashes);
            if after == next {
                return Err(missing(next));
            }
            next = after;
        }
        Ok(hashes)
    }
}

/// Appends the names of the chunks from `next` on that `header` holds without a gap; the first id that it does not.
fn take_hashes(header: &FrameHeader, mut next: ChunkId, end: ChunkId, hashes: &mut Vec<ChunkHash>) -> ChunkId {
    while next < end
        && let Some(hash) = header.hash(next)
    {
        hashes.push(*hash);
        next = next.advance(1);
    }
    next
}

fn missing(id: ChunkId) -> StoreError {
    StoreError::damaged(format!("chunk number {id}"), "no frame holds it")
}
