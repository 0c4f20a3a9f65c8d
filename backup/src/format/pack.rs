//! A pack: frames that were put together, as one object. Its bytes are a bundle's (`seal`), each
//! part a frame (`frame`).

use vellum_core::frame::FrameCodec;
use vellum_core::hash::{ChunkHash, hash_chunks};
use vellum_core::identity::SegmentId;

use super::frame::{body_len_max, put_frame};
use super::{Frame, FrameEntry, PackEntry, Presence, decode_frame};
use crate::objects::ObjectId;
use crate::seal::{Bundle, SealError, SealedKind, SealedObject, Sealer, bundle_parts};

/// The length at which a pack is full: long enough that an object store's latency and price for
/// each request hardly count, short enough that a few wait in memory at once, and that repacking
/// one costs little.
pub const PACK_LEN_TARGET: usize = 32 << 20;
/// The longest pack that is read.
pub const PACK_LEN_MAX: u64 = 64 << 20;

/// A frame whose part is sealed, waiting for its pack.
#[derive(Debug)]
struct Waiting {
    segment: SegmentId,
    first: u32,
    presence: Presence,
    codec: FrameCodec,
}

/// Frames that are a pack's worth.
#[derive(Debug)]
pub struct FilledPack {
    bundle: Bundle,
    waiting: Vec<Waiting>,
}

/// Collects frames until a pack is full. Sealing a frame ([`PackWriter::seal_frame`]) needs no
/// writer, so many threads can do it.
#[derive(Debug)]
pub struct PackWriter {
    bundle: Bundle,
    waiting: Vec<Waiting>,
    len_target: usize,
}

/// A frame, sealed.
#[derive(Debug)]
pub struct SealedFrame {
    waiting: Waiting,
    part: Vec<u8>,
}

/// A pack ready to be put, and its entry for an index object.
#[derive(Clone, Debug)]
pub struct SealedPack {
    /// Name and bytes.
    pub object: SealedObject,
    /// Its place in an index.
    pub entry: PackEntry,
}

impl Default for PackWriter {
    fn default() -> Self {
        Self::new(PACK_LEN_TARGET)
    }
}

impl PackWriter {
    /// A writer of packs of at most `len_target` bytes (a single larger frame still gets its own).
    #[must_use]
    pub fn new(len_target: usize) -> Self {
        Self {
            bundle: Bundle::new(SealedKind::Pack),
            waiting: Vec::new(),
            len_target,
        }
    }

    /// Seals one frame.
    pub fn seal_frame(sealer: &Sealer, frame: &Frame<'_>) -> Result<SealedFrame, SealError> {
        let part = sealer.seal_part_with(SealedKind::Pack, body_len_max(frame), |part| {
            put_frame(part, frame);
        })?;
        let Frame {
            segment,
            first,
            presence,
            codec,
            ..
        } = frame.clone();
        Ok(SealedFrame {
            waiting: Waiting {
                segment,
                first,
                presence,
                codec,
            },
            part,
        })
    }

    /// Adds a frame. The pack that had no room for it any more comes back, complete: filled to less
    /// than a frame below its target.
    pub fn add(
        &mut self,
        sealer: &Sealer,
        frame: SealedFrame,
    ) -> Result<Option<SealedPack>, SealError> {
        self.fill(frame)
            .map(|full| full.seal(sealer, Vec::new()))
            .transpose()
    }

    /// The same, but for its sealing, which another thread may do.
    pub fn fill(&mut self, frame: SealedFrame) -> Option<FilledPack> {
        let is_full = self.bundle.len_with(frame.part.len()) > self.len_target
            && self.bundle.part_count() > 0;
        let full = if is_full { self.take() } else { None };
        self.bundle.push(frame.part);
        self.waiting.push(frame.waiting);
        full
    }

    /// The pack of what is left, if anything is.
    pub fn finish(&mut self, sealer: &Sealer) -> Result<Option<SealedPack>, SealError> {
        self.take()
            .map(|full| full.seal(sealer, Vec::new()))
            .transpose()
    }

    /// The same, but for its sealing.
    pub fn take(&mut self) -> Option<FilledPack> {
        let bundle = std::mem::replace(&mut self.bundle, Bundle::new(SealedKind::Pack));
        let waiting = std::mem::take(&mut self.waiting);
        (!waiting.is_empty()).then_some(FilledPack { bundle, waiting })
    }

    /// The number of frames that wait.
    #[must_use]
    pub fn frame_count(&self) -> usize {
        self.waiting.len()
    }
}

impl FilledPack {
    /// The pack, in the memory of `buffer`, whatever that held. Cost: copying and hashing it.
    pub fn seal(self, sealer: &Sealer, buffer: Vec<u8>) -> Result<SealedPack, SealError> {
        let bundle = self.bundle.finish_in(sealer, buffer)?;
        let entry = |(waiting, (offset, len)): (Waiting, (u64, u64))| {
            let Waiting {
                segment,
                first,
                presence,
                codec,
            } = waiting;
            FrameEntry {
                segment,
                first,
                presence,
                codec,
                offset,
                len: len as u32,
            }
        };
        let mut frames: Vec<FrameEntry> = self
            .waiting
            .into_iter()
            .zip(bundle.ranges)
            .map(entry)
            .collect();
        frames.sort_unstable_by_key(|frame| frame.offset);
        let entry = PackEntry {
            id: bundle.object.id,
            len: bundle.object.bytes.len() as u64,
            frames,
        };
        Ok(SealedPack {
            object: bundle.object,
            entry,
        })
    }
}

/// Rebuilds the index entry of the pack `stored` from the pack alone: for a repository that has
/// lost its index. Gives its entry, and segment, ordinal and name of each of its chunks. Cost:
/// decoding and hashing all of it.
pub fn read_pack(
    sealer: &Sealer,
    id: ObjectId,
    stored: &[u8],
    chunk_len: u32,
) -> Result<(PackEntry, Vec<(SegmentId, u32, ChunkHash)>), SealError> {
    let (mut frames, mut names) = (Vec::new(), Vec::new());
    for (offset, len) in bundle_parts(sealer, SealedKind::Pack, &id, stored)? {
        let body = sealer.open_part(
            SealedKind::Pack,
            &stored[offset as usize..(offset + len) as usize],
        )?;
        let frame = decode_frame(&body)?;
        let plain = frame
            .decompressed(chunk_len)
            .map_err(|error| SealError::Content(error.to_string()))?;
        let chunks: Vec<&[u8]> = plain.chunks_exact(chunk_len as usize).collect();
        let ordinals = frame.presence.offsets().map(|at| frame.first + at);
        names.extend(
            ordinals
                .zip(hash_chunks(&chunks))
                .map(|(ordinal, hash)| (frame.segment, ordinal, hash)),
        );
        let Frame {
            segment,
            first,
            presence,
            codec,
            ..
        } = frame;
        frames.push(FrameEntry {
            segment,
            first,
            presence,
            codec,
            offset,
            len: len as u32,
        });
    }
    Ok((
        PackEntry {
            id,
            len: stored.len() as u64,
            frames,
        },
        names,
    ))
}
