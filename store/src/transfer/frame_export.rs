//! Supply of chunks for a transfer: hands out the wanted ones in id order, compressed as they are
//! stored where a whole frame of them is wanted.
//!
//! A frame of which a chunk is not wanted, or that is small, goes into a new one together with its
//! neighbours. Every payload is held against its checksum; chunks that are compressed again were
//! held against their names.

use vellum_core::frame::{FrameCodec, FrameHeader, FramePayload, frame_key, parse_frame_key};
use vellum_core::hash::ChunkHash;
use vellum_core::id_set::IdSet;
use vellum_core::units::ChunkId;

use super::point_in_time::PointInTime;
use crate::chunks::compress_chunks;
use crate::database::{Family, Scan};
use crate::error::StoreError;
use crate::store::Store;

/// Frames that are planned, and then read together: 8 MiB at the default length, some milliseconds
/// of work for each core.
const FRAMES_PER_BATCH: usize = 64;
/// A frame with fewer chunks than this part of a full one is not worth being a frame elsewhere.
const SMALL_PART: u64 = 2;

/// A frame that is to go out: what it will hold is certain, its bytes are not read yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedFrame {
    /// Its chunks, in rising id order; their bytes are in the payload in this order.
    pub chunks: Vec<(ChunkId, ChunkHash)>,
    /// True if a frame of the store held just these when it was planned.
    is_stored: bool,
}

impl AsRef<[(ChunkId, ChunkHash)]> for PlannedFrame {
    fn as_ref(&self) -> &[(ChunkId, ChunkHash)] {
        &self.chunks
    }
}

impl From<PlannedFrame> for Vec<(ChunkId, ChunkHash)> {
    fn from(frame: PlannedFrame) -> Self {
        frame.chunks
    }
}

/// The bytes of a frame that goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuppliedFrame<'a> {
    /// The compression of the payload.
    pub codec: FrameCodec,
    /// Its length before that.
    pub plain_len: u32,
    /// The bytes.
    pub payload: &'a [u8],
}

/// Hands out the chunks of a set, a batch of frames at a time.
pub struct FrameExport<'m> {
    store: &'m Store,
    wanted: IdSet,
    next: ChunkId,
    /// Goes through the headers as long as the wanted ones lie close together.
    scan: Option<Scan<'m>>,
}

/// A frame of the store of which something is wanted.
struct WantedFrame {
    chunk_count: usize,
    wanted: Vec<(ChunkId, ChunkHash)>,
}

impl PointInTime {
    /// The chunks of `wanted`, which maps of this moment refer to: the claim on them is the
    /// moment's.
    #[must_use]
    pub fn export_frames(&self, wanted: IdSet) -> FrameExport<'_> {
        FrameExport {
            store: self.store(),
            wanted,
            next: ChunkId(0),
            scan: None,
        }
    }
}

impl FrameExport<'_> {
    /// The next frames, in id order; none if that was all. No payload is read.
    pub fn next_batch(&mut self) -> Result<Vec<PlannedFrame>, StoreError> {
        let per_frame = self.store.inner.chunks.chunks_per_frame();
        let (mut frames, mut parts) = (Vec::new(), Vec::new());
        while frames.len() < FRAMES_PER_BATCH {
            let Some(stored) = self.next_stored()? else {
                break;
            };
            let len = stored.wanted.len() as u64;
            let is_whole =
                stored.wanted.len() == stored.chunk_count && len * SMALL_PART >= per_frame;
            if !parts.is_empty() && (is_whole || parts.len() as u64 + len > per_frame) {
                frames.push(PlannedFrame {
                    chunks: std::mem::take(&mut parts),
                    is_stored: false,
                });
            }
            // A part that is longer than a frame is of a store whose frames were once longer.
            if is_whole || len > per_frame {
                frames.push(PlannedFrame {
                    chunks: stored.wanted,
                    is_stored: is_whole,
                });
            } else {
                parts.extend(stored.wanted);
            }
        }
        if !parts.is_empty() {
            frames.push(PlannedFrame {
                chunks: parts,
                is_stored: false,
            });
        }
        Ok(frames)
    }

    /// Reads a frame that was planned here and gives it to `take`. Many threads may; memory: about
    /// twice a frame for each.
    pub fn read_frame<T>(
        &self,
        frame: &PlannedFrame,
        take: impl FnOnce(SuppliedFrame<'_>) -> T,
    ) -> Result<T, StoreError> {
        self.store.read_planned(frame, take)
    }

    /// The next frame that holds something wanted.
    fn next_stored(&mut self) -> Result<Option<WantedFrame>, StoreError> {
        let Some(id) = self.wanted.next_from(self.next) else {
            return Ok(None);
        };
        let header = self.frame_header(id)?;
        let (mut wanted, mut next) = (Vec::new(), Some(id));
        // Frames do not lie within each other: an id in a gap of this one is in none.
        while let Some(id) = next.filter(|id| *id < header.end_id()) {
            wanted.push((
                id,
                *header
                    .chunk_hash(id)
                    .ok_or_else(|| missing_chunk_error(id))?,
            ));
            next = self.wanted.next_from(id.advance_by(1));
        }
        self.next = header.end_id();
        Ok(Some(WantedFrame {
            chunk_count: header.chunk_count(),
            wanted,
        }))
    }

    /// The header of the frame that holds `id`, mostly the one after the last.
    fn frame_header(&mut self, id: ChunkId) -> Result<FrameHeader, StoreError> {
        let next = match self.scan.as_mut().map(next_header) {
            // By its key it may be found all the same.
            None | Some(Err(StoreError::Damaged(_))) => None,
            Some(next) => next?,
        };
        if let Some(header) = next.filter(|header| header.payload_index(id).is_some()) {
            return Ok(header);
        }
        let header = self
            .store
            .inner
            .chunks
            .frame_header(id)?
            .ok_or_else(|| missing_chunk_error(id))?;
        self.scan = Some(
            self.store
                .inner
                .database
                .scan_from(Family::Headers, &frame_key(header.end_id())),
        );
        Ok(header)
    }
}

fn next_header(scan: &mut Scan<'_>) -> Result<Option<FrameHeader>, StoreError> {
    let Some((key, value)) = scan.next()? else {
        return Ok(None);
    };
    let first = parse_frame_key(key)
        .map_err(|error| StoreError::damaged_record("a frame header's key", error))?;
    let header = FrameHeader::decode(first, value)
        .map_err(|error| StoreError::damaged_record(format!("header of frame {first}"), error))?;
    Ok(Some(header))
}

impl Store {
    fn read_planned<T>(
        &self,
        frame: &PlannedFrame,
        take: impl FnOnce(SuppliedFrame<'_>) -> T,
    ) -> Result<T, StoreError> {
        // A frame that was healed in part is whole on the outside.
        let is_doubted = |(id, _): &(ChunkId, ChunkHash)| self.inner.chunks.ledger.contains(*id);
        if frame.is_stored && !frame.chunks.iter().any(is_doubted) {
            match self
                .inner
                .database
                .get(Family::Frames, &frame_key(frame.chunks[0].0))
            {
                Ok(Some(stored)) => {
                    if let Some(supplied) = self.as_stored(frame, &stored) {
                        return Ok(take(supplied));
                    }
                }
                Ok(None) | Err(StoreError::Damaged(_)) => {}
                Err(error) => return Err(error),
            }
        }
        // Collection may have put the chunks into another frame since the header was read; damage
        // is told by this as well.
        self.pack_chunks(&frame.chunks, take)
    }

    /// The stored payload at the place of `frame`, if it is whole and as long as that.
    fn as_stored<'a>(&self, frame: &PlannedFrame, stored: &'a [u8]) -> Option<SuppliedFrame<'a>> {
        let FramePayload {
            codec,
            plain_len,
            compressed,
        } = FramePayload::decode(frame.chunks[0].0, stored).ok()?;
        let expected = frame.chunks.len() as u64 * self.parameters().chunk_len.byte_len();
        (u64::from(plain_len) == expected).then_some(SuppliedFrame {
            codec,
            plain_len,
            payload: compressed,
        })
    }

    /// `chunks`, verified and compressed as one.
    fn pack_chunks<T>(
        &self,
        chunks: &[(ChunkId, ChunkHash)],
        take: impl FnOnce(SuppliedFrame<'_>) -> T,
    ) -> Result<T, StoreError> {
        let mut plain = Vec::with_capacity(chunks.len() * self.parameters().chunk_len.as_usize());
        let mut frame = None;
        for (id, hash) in chunks {
            let holder = match &mut frame {
                Some(frame) => frame,
                slot => slot.insert(self.inner.chunks.verified_frame(*id)?),
            };
            if holder.header.payload_index(*id).is_none() {
                *holder = self.inner.chunks.verified_frame(*id)?;
            }
            if holder.header.chunk_hash(*id) != Some(hash) {
                return Err(StoreError::damaged_record(
                    format!("chunk number {id}"),
                    "its frame was replaced by one with another name",
                ));
            }
            plain.extend_from_slice(holder.chunk_bytes(*id)?);
        }
        let (codec, payload, plain_len) =
            compress_chunks(self.parameters().compression, &plain).into_parts();
        let plain_len = u32::try_from(plain_len)
            .expect("a frame's length is bounded by the store's parameters");
        Ok(take(SuppliedFrame {
            codec,
            plain_len,
            payload: &payload,
        }))
    }
}

fn missing_chunk_error(id: ChunkId) -> StoreError {
    StoreError::damaged_record(format!("chunk number {id}"), "no frame holds it")
}
