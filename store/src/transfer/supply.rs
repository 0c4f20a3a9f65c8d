//! Chunks on their way out: the wanted ones in id order, compressed as they are stored where a whole frame of them is wanted.
//!
//! A frame of which something is missing, or that is small, goes into a new one together with its neighbours. Every payload is held
//! against its checksum; what is compressed again was held against its names.

use rayon::prelude::{IntoParallelRefIterator, ParallelIterator};
use vellum_core::frame::{FrameCodec, FrameHeader, FramePayload, frame_key, parse_frame_key};
use vellum_core::hash::ChunkHash;
use vellum_core::id_set::IdSet;
use vellum_core::units::ChunkId;

use super::moment::Moment;
use crate::chunks::pack;
use crate::database::{Family, Scan};
use crate::error::StoreError;
use crate::store::Store;

/// Frames that are read, decoded and compressed at once: 8 MiB at the default length, some milliseconds of work for each core.
const FRAMES_PER_BATCH: usize = 64;
/// A frame with fewer chunks than this part of a full one is not worth being a frame elsewhere.
const SMALL_PART: u64 = 2;

/// Chunks that go out as one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuppliedFrame {
    /// Which chunks, in rising id order; their bytes are in the payload in this order.
    pub chunks: Vec<(ChunkId, ChunkHash)>,
    /// How the payload is compressed.
    pub codec: FrameCodec,
    /// Its length before that.
    pub plain_len: u32,
    /// The bytes.
    pub payload: Vec<u8>,
}

/// Hands out the chunks of a set, a batch of frames at a time.
pub struct Supply<'m> {
    store: &'m Store,
    wanted: IdSet,
    next: ChunkId,
    /// Goes through the headers as long as the wanted ones lie close together.
    scan: Option<Scan<'m>>,
}

/// A frame of the store of which something is wanted.
struct Stored {
    header: FrameHeader,
    wanted: Vec<(ChunkId, ChunkHash)>,
}

/// What becomes one frame.
enum Unit {
    /// A stored frame as it is.
    Whole(FrameHeader),
    /// Parts of stored frames.
    Parts(Vec<Stored>),
}

impl Moment {
    /// The chunks of `wanted`, which maps of this moment refer to: the claim on them is the moment's.
    #[must_use]
    pub fn supply(&self, wanted: IdSet) -> Supply<'_> {
        Supply { store: self.store(), wanted, next: ChunkId(0), scan: None }
    }
}

impl Supply<'_> {
    /// The next frames, in id order; none if that was all. Memory: about twice [`FRAMES_PER_BATCH`] frames.
    pub fn next_batch(&mut self) -> Result<Option<Vec<SuppliedFrame>>, StoreError> {
        let units = self.plan()?;
        if units.is_empty() {
            return Ok(None);
        }
        units.par_iter().map(|unit| self.store.supplied(unit)).collect::<Result<_, _>>().map(Some)
    }

    fn plan(&mut self) -> Result<Vec<Unit>, StoreError> {
        let per_frame = self.store.inner.chunks.chunks_per_frame();
        let (mut units, mut parts, mut count) = (Vec::new(), Vec::new(), 0);
        while units.len() < FRAMES_PER_BATCH {
            let Some(stored) = self.next_stored()? else { break };
            let len = stored.wanted.len() as u64;
            let is_whole = stored.wanted.len() == stored.header.chunk_count() && len * SMALL_PART >= per_frame;
            if count > 0 && (is_whole || count + len > per_frame) {
                units.push(Unit::Parts(std::mem::take(&mut parts)));
                count = 0;
            }
            if is_whole {
                units.push(Unit::Whole(stored.header));
            } else if len > per_frame {
                // Of a store whose frames were once longer.
                units.push(Unit::Parts(vec![stored]));
            } else {
                count += len;
                parts.push(stored);
            }
        }
        units.extend((count > 0).then_some(Unit::Parts(parts)));
        Ok(units)
    }

    /// The next frame that holds something wanted.
    fn next_stored(&mut self) -> Result<Option<Stored>, StoreError> {
        let Some(id) = self.wanted.next_from(self.next) else { return Ok(None) };
        let header = self.header(id)?;
        let (mut wanted, mut next) = (Vec::new(), Some(id));
        // Frames do not lie within each other: an id in a gap of this one is in none.
        while let Some(id) = next.filter(|id| *id < header.end()) {
            wanted.push((id, *header.hash(id).ok_or_else(|| missing(id))?));
            next = self.wanted.next_from(id.advance(1));
        }
        self.next = header.end();
        Ok(Some(Stored { header, wanted }))
    }

    /// The header of the frame that holds `id`, mostly the one after the last.
    fn header(&mut self, id: ChunkId) -> Result<FrameHeader, StoreError> {
        let next = match &mut self.scan {
            Some(scan) => next_header(scan)?,
            None => None,
        };
        if let Some(header) = next.filter(|header| header.rank(id).is_some()) {
            return Ok(header);
        }
        let header = self.store.inner.chunks.header(id)?.ok_or_else(|| missing(id))?;
        self.scan = Some(self.store.inner.database.scan(Family::Headers, &frame_key(header.end())));
        Ok(header)
    }
}

fn next_header(scan: &mut Scan<'_>) -> Result<Option<FrameHeader>, StoreError> {
    let Some((key, value)) = scan.next()? else { return Ok(None) };
    let first = parse_frame_key(key).map_err(|error| StoreError::damaged("a frame header's key", error))?;
    let header = FrameHeader::decode(first, value).map_err(|error| StoreError::damaged(format!("header of frame {first}"), error))?;
    Ok(Some(header))
}

impl Store {
    fn supplied(&self, unit: &Unit) -> Result<SuppliedFrame, StoreError> {
        match unit {
            Unit::Whole(header) => match self.stored_payload(header) {
                Ok(frame) => Ok(frame),
                // Collection may have put the chunks into another frame since the header was read; damage is found by this as well.
                Err(StoreError::Damaged(_)) => self.packed(&[header.chunks().map(|(id, hash)| (id, *hash)).collect()]),
                Err(error) => Err(error),
            },
            Unit::Parts(parts) => self.packed(&parts.iter().map(|part| part.wanted.clone()).collect::<Vec<_>>()),
        }
    }

    fn stored_payload(&self, header: &FrameHeader) -> Result<SuppliedFrame, StoreError> {
        let first = header.first();
        let damaged = |reason: String| StoreError::damaged(format!("frame {first}"), reason);
        let stored = self.inner.database.get(Family::Frames, &frame_key(first))?.ok_or_else(|| damaged("it is gone".to_owned()))?;
        let payload = FramePayload::decode(first, &stored).map_err(|error| damaged(error.to_string()))?;
        if u64::from(payload.plain_len) != header.chunk_count() as u64 * self.parameters().chunk_len.bytes() {
            return Err(damaged("another length than its header says".to_owned()));
        }
        Ok(SuppliedFrame {
            chunks: header.chunks().map(|(id, hash)| (id, *hash)).collect(),
            codec: payload.codec,
            plain_len: payload.plain_len,
            payload: payload.compressed.to_vec(),
        })
    }

    /// The chunks of `parts`, verified and compressed as one.
    fn packed(&self, parts: &[Vec<(ChunkId, ChunkHash)>]) -> Result<SuppliedFrame, StoreError> {
        let chunks: Vec<(ChunkId, ChunkHash)> = parts.iter().flatten().copied().collect();
        let mut plain = Vec::with_capacity(chunks.len() * self.parameters().chunk_len.as_usize());
        for part in parts {
            let mut frame = None;
            for (id, hash) in part {
                let holder = match &mut frame {
                    Some(frame) => frame,
                    slot => slot.insert(self.inner.chunks.frame(*id)?),
                };
                if holder.header.rank(*id).is_none() {
                    *holder = self.inner.chunks.frame(*id)?;
                }
                if holder.header.hash(*id) != Some(hash) {
                    return Err(StoreError::damaged(format!("chunk number {id}"), "its frame was replaced by one with another name"));
                }
                plain.extend_from_slice(holder.chunk(*id)?);
            }
        }
        let (codec, payload, plain_len) = pack(self.parameters().compression, &plain).into_parts();
        let plain_len = u32::try_from(plain_len).expect("a frame's length is bounded by the store's parameters");
        Ok(SuppliedFrame { chunks, codec, plain_len, payload })
    }
}

fn missing(id: ChunkId) -> StoreError {
    StoreError::damaged(format!("chunk number {id}"), "no frame holds it")
}
