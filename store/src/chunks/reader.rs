//! From chunk ids back to bytes: every chunk is held against its name before anybody sees it.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use vellum_core::frame::{FrameHeader, FramePayload, frame_key, parse_frame_key};
use vellum_core::hash::hash_chunks;
use vellum_core::units::ChunkId;

use crate::codec;
use crate::database::{Database, Family};
use crate::error::StoreError;
use crate::records::StoreParameters;

/// Plain bytes of decoded frames that are kept for whoever reads their neighbours next.
const CACHE_LEN: u64 = 64 << 20;

/// A decoded frame.
pub(crate) struct Frame {
    /// Which chunks it holds.
    pub(crate) header: FrameHeader,
    plain: Vec<u8>,
    chunk_len: usize,
    /// For each chunk whether its bytes have its name.
    sound: Vec<bool>,
}

impl Frame {
    /// The bytes of chunk `id`, which is in the header: verified, or damage.
    pub(crate) fn chunk(&self, id: ChunkId) -> Result<&[u8], StoreError> {
        let rank = self.header.rank(id).ok_or_else(|| missing(id))?;
        if !self.sound[rank] {
            let hash = self.header.hash(id).expect("a chunk with a rank has a name");
            return Err(StoreError::damaged(format!("chunk {hash}"), "its bytes do not have its name"));
        }
        Ok(&self.plain[rank * self.chunk_len..][..self.chunk_len])
    }
}

#[derive(Clone)]
struct PlainLen;

impl Weighter<u64, Arc<Frame>> for PlainLen {
    fn weight(&self, _: &u64, frame: &Arc<Frame>) -> u64 {
        frame.plain.len() as u64
    }
}

/// Reads frames.
pub(crate) struct Reader {
    database: Arc<Database>,
    parameters: StoreParameters,
    cache: Cache<u64, Arc<Frame>, PlainLen>,
}

impl Reader {
    pub(crate) fn new(database: Arc<Database>, parameters: StoreParameters) -> Self {
        let expected = CACHE_LEN / u64::from(parameters.frame_len);
        Self { database, parameters, cache: Cache::with_weighter(expected as usize, CACHE_LEN, PlainLen) }
    }

    /// Forgets decoded frames, so that what is read next comes from disk.
    #[cfg(test)]
    pub(crate) fn forget(&self) {
        self.cache.clear();
    }

    /// The header of the frame that holds `id`.
    pub(crate) fn header(&self, id: ChunkId) -> Result<Option<FrameHeader>, StoreError> {
        let Some((key, value)) = self.database.last_at_or_before(Family::Headers, &frame_key(id))? else { return Ok(None) };
        let first = parse_frame_key(&key).map_err(|error| StoreError::damaged("a frame header's key", error))?;
        let header = FrameHeader::decode(first, &value).map_err(|error| StoreError::damaged(format!("header of frame {first}"), error))?;
        Ok(header.rank(id).is_some().then_some(header))
    }

    /// The frame that holds `id`.
    pub(crate) fn frame(&self, id: ChunkId) -> Result<Arc<Frame>, StoreError> {
        match self.try_frame(id) {
            // Collection may have put the chunk into another frame between our two reads: once more, then it is damage.
            Err(StoreError::Damaged(_)) => self.try_frame(id),
            other => other,
        }
    }

    fn try_frame(&self, id: ChunkId) -> Result<Arc<Frame>, StoreError> {
        let header = self.header(id)?.ok_or_else(|| missing(id))?;
        let key = header.first();
        if let Some(frame) = self.cache.get(&key.0).filter(|frame| frame.header.rank(id).is_some()) {
            return Ok(frame);
        }
        let frame = Arc::new(self.load(header)?);
        self.cache.insert(key.0, Arc::clone(&frame));
        Ok(frame)
    }

    /// Reads, decodes and verifies the payload of `header`, without a look at the cache.
    pub(crate) fn load(&self, header: FrameHeader) -> Result<Frame, StoreError> {
        let first = header.first();
        let damaged = |reason: String| StoreError::damaged(format!("frame {first}"), reason);
        let stored = self.database.get(Family::Frames, &frame_key(first))?.ok_or_else(|| damaged("it is gone".to_owned()))?;
        self.decode(header, &stored)
    }

    /// The frame that `header` and the payload `stored` make, its chunks held against their names.
    pub(crate) fn decode(&self, header: FrameHeader, stored: &[u8]) -> Result<Frame, StoreError> {
        let first = header.first();
        let damaged = |reason: String| StoreError::damaged(format!("frame {first}"), reason);
        let payload = FramePayload::decode(first, stored).map_err(|error| damaged(error.to_string()))?;
        let chunk_len = self.parameters.chunk_len.as_usize();
        let plain_len = header.chunk_count() * chunk_len;
        if payload.plain_len as usize != plain_len {
            return Err(damaged(format!("{} bytes where its header says {plain_len}", payload.plain_len)));
        }
        let plain = codec::decompress(payload.codec, payload.compressed, plain_len).map_err(damaged)?;
        let chunks: Vec<&[u8]> = plain.chunks_exact(chunk_len).collect();
        let sound = header.chunks().zip(hash_chunks(&chunks)).map(|((_, name), found)| *name == found).collect();
        Ok(Frame { header, plain, chunk_len, sound })
    }
}

fn missing(id: ChunkId) -> StoreError {
    StoreError::damaged(format!("chunk number {id}"), "no frame holds it")
}
