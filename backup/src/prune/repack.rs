//! Moves needed chunks to new packs under the same addresses, and writes the index objects that
//! name them.

use std::collections::{BTreeMap, BTreeSet};

use vellum_core::hash::ChunkHash;
use vellum_core::id_set::IdSet;
use vellum_core::identity::SegmentId;
use vellum_store::{Compression, codec};

use super::survey::{FrameUse, Survey, Walk};
use crate::catalog::Catalog;
use crate::error::BackupError;
use crate::format::{
    Frame, INDEX_CHUNK_COUNT_MAX, IndexObject, PackEntry, PackWriter, Presence, SealedPack,
    SegmentEntry, decode_frame,
};
use crate::objects::{ObjectId, ObjectName};
use crate::repository::Repository;
use crate::seal::SealedKind;

/// The compression of chunks that lose their neighbours in a frame: as a store does by default.
const COMPRESSION: Compression = Compression::Zstd(3);
/// Plain bytes of a frame that is made of what is left of others: as in a store.
const FRAME_LEN: usize = 128 << 10;
/// The greatest span of the chunks of such a frame, in ordinals: bounds its bitmap, and what is
/// decoded for a neighbour that is not there.
const SPAN_MAX: u32 = 1024;
/// Bytes of chunks that wait to become frames with others of their segments.
const LOOSE_LEN_MAX: usize = 16 << 20;

/// Writes the packs and index objects that a survey asks for.
pub(crate) struct Repacker<'a> {
    repository: &'a Repository,
    catalog: &'a Catalog,
    writer: PackWriter,
    builder: IndexBuilder,
    /// Chunks of frames that lost many of theirs, and of small ones: they become full frames, as
    /// far as their segments go.
    loose: BTreeMap<(SegmentId, u32), Vec<u8>>,
    /// Names of chunks in packs that are not complete yet.
    waiting: BTreeMap<(SegmentId, u32), ChunkHash>,
    indexes: Vec<ObjectId>,
    /// Bytes of the new packs.
    pub(crate) written_len: u64,
}

impl<'a> Repacker<'a> {
    pub(crate) fn new(repository: &'a Repository, catalog: &'a Catalog) -> Self {
        Self {
            repository,
            catalog,
            writer: PackWriter::default(),
            builder: IndexBuilder::default(),
            loose: BTreeMap::new(),
            waiting: BTreeMap::new(),
            indexes: Vec::new(),
            written_len: 0,
        }
    }

    /// Goes through `indexes` as the survey did: chunks of packs that it repacks are copied, packs
    /// that stay get into the new index objects. The new index objects' IDs; everything is durable
    /// then.
    pub(crate) fn run(
        mut self,
        indexes: &BTreeSet<ObjectId>,
        needed: &IdSet,
        survey: &Survey,
    ) -> Result<(Vec<ObjectId>, u64), BackupError> {
        let mut walk = Walk::new(needed);
        for id in indexes {
            let index = self
                .catalog
                .index(id)
                .map_err(|error| super::told(self.repository, error))?;
            for pack in &index.packs {
                if !survey.packs.contains_key(&pack.id) {
                    continue;
                }
                let Some(frames) = walk.pack(self.catalog, pack) else {
                    continue;
                };
                if survey.repack.contains(&pack.id) {
                    self.move_chunks(&index, pack, &frames)?;
                } else if survey.reindex.contains(id) && !survey.dead.contains(&pack.id) {
                    self.keep(&index, pack)?;
                }
            }
        }
        self.gather()?;
        if let Some(pack) = self.writer.finish(self.repository.sealer())? {
            self.put_pack(pack)?;
        }
        self.flush()?;
        Ok((self.indexes, self.written_len))
    }

    fn keep(&mut self, index: &IndexObject, pack: &PackEntry) -> Result<(), BackupError> {
        let names = pack.frames.iter().flat_map(|frame| {
            let entry = &index.segments[&frame.segment];
            frame.ordinals().filter_map(|ordinal| {
                entry
                    .hash(ordinal)
                    .map(|hash| ((frame.segment, ordinal), *hash))
            })
        });
        self.builder.names.extend(names);
        self.builder.packs.push(pack.clone());
        self.flush_if_full()
    }

    fn move_chunks(
        &mut self,
        index: &IndexObject,
        pack: &PackEntry,
        frames: &[FrameUse],
    ) -> Result<(), BackupError> {
        for (entry, of) in pack
            .frames
            .iter()
            .zip(frames)
            .filter(|(_, of)| of.count() > 0)
        {
            let names = &index.segments[&entry.segment];
            let body = self
                .catalog
                .frame_body(&self.catalog.place(pack, entry))
                .map_err(|error| super::told(self.repository, error))?;
            let damaged = |reason: String| BackupError::Damaged {
                object: format!("{}, frame at {}", ObjectName::Pack(pack.id), entry.offset),
                reason,
                points: Vec::new(),
            };
            let frame = decode_frame(&body).map_err(|error| damaged(error.to_string()))?;
            let chunk_len = self.repository.file().chunk_len;
            // Never moves on what is damaged, so that a damaged chunk stays where `verify` finds
            // it.
            let plain = frame
                .chunks(chunk_len, |ordinal| names.hash(ordinal).copied())
                .map_err(|error| damaged(error.to_string()))?;
            if frame.segment != entry.segment
                || frame.first != entry.first
                || frame.presence != entry.presence
            {
                return Err(damaged("another frame stands in its place".to_owned()));
            }
            let wanted: Vec<(u32, &[u8])> = entry
                .ordinals()
                .zip(plain.chunks_exact(chunk_len as usize))
                .zip(&of.wanted)
                .filter(|(_, wanted)| **wanted)
                .map(|(chunk, _)| chunk)
                .collect();
            let moved = wanted.iter().filter_map(|(ordinal, _)| {
                names
                    .hash(*ordinal)
                    .map(|hash| ((entry.segment, *ordinal), *hash))
            });
            self.waiting.extend(moved);
            if wanted.len() == of.wanted.len() && plain.len() > FRAME_LEN / 2 {
                self.add(&frame)?;
                continue;
            }
            self.loose.extend(
                wanted
                    .into_iter()
                    .map(|(ordinal, chunk)| ((entry.segment, ordinal), chunk.to_vec())),
            );
            if self.loose.len() * chunk_len as usize > LOOSE_LEN_MAX {
                self.gather()?;
            }
        }
        Ok(())
    }

    /// Makes frames of what is loose, segment by segment, in order.
    fn gather(&mut self) -> Result<(), BackupError> {
        let count_max = (FRAME_LEN / self.repository.file().chunk_len as usize).max(1);
        let loose: Vec<((SegmentId, u32), Vec<u8>)> =
            std::mem::take(&mut self.loose).into_iter().collect();
        let mut rest = &loose[..];
        while let Some(((segment, first), _)) = rest.first() {
            let fits = |((other, ordinal), _): &&((SegmentId, u32), Vec<u8>)| {
                other == segment && ordinal - first < SPAN_MAX
            };
            let (some, others) =
                rest.split_at(rest.iter().take(count_max).take_while(fits).count());
            self.add_some(*segment, *first, some)?;
            rest = others;
        }
        Ok(())
    }

    fn add_some(
        &mut self,
        segment: SegmentId,
        first: u32,
        chunks: &[((SegmentId, u32), Vec<u8>)],
    ) -> Result<(), BackupError> {
        let offsets: Vec<u32> = chunks
            .iter()
            .map(|((_, ordinal), _)| ordinal - first)
            .collect();
        let plain: Vec<u8> = chunks
            .iter()
            .flat_map(|(_, chunk)| chunk)
            .copied()
            .collect();
        let (codec, payload) = codec::compress_frame(COMPRESSION, &plain);
        self.add(&Frame {
            segment,
            first,
            presence: Presence::of(&offsets),
            codec,
            payload: &payload,
        })
    }

    fn add(&mut self, frame: &Frame<'_>) -> Result<(), BackupError> {
        let sealer = self.repository.sealer();
        let part = PackWriter::seal_frame(sealer, frame)?;
        match self.writer.add(sealer, part)? {
            Some(full) => self.put_pack(full),
            None => Ok(()),
        }
    }

    fn put_pack(&mut self, pack: SealedPack) -> Result<(), BackupError> {
        self.repository
            .put(&ObjectName::Pack(pack.object.id), &pack.object.bytes)?;
        self.written_len += pack.object.bytes.len() as u64;
        for frame in &pack.entry.frames {
            for ordinal in frame.ordinals() {
                // The last frame that was added waits for the next pack: its names stay.
                if let Some(hash) = self.waiting.remove(&(frame.segment, ordinal)) {
                    self.builder.names.insert((frame.segment, ordinal), hash);
                }
            }
        }
        self.builder.packs.push(pack.entry);
        self.flush_if_full()
    }

    fn flush_if_full(&mut self) -> Result<(), BackupError> {
        if self.builder.names.len() >= INDEX_CHUNK_COUNT_MAX {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<(), BackupError> {
        let Some(index) = std::mem::take(&mut self.builder).finish() else {
            return Ok(());
        };
        let sealed = self
            .repository
            .sealer()
            .seal(SealedKind::Index, &index.encode())?;
        self.repository
            .put(&ObjectName::Index(sealed.id), &sealed.bytes)?;
        self.indexes.push(sealed.id);
        Ok(())
    }
}

/// The content of an index object under construction.
#[derive(Default)]
struct IndexBuilder {
    names: BTreeMap<(SegmentId, u32), ChunkHash>,
    packs: Vec<PackEntry>,
}

impl IndexBuilder {
    fn finish(self) -> Option<IndexObject> {
        let mut chunks = BTreeMap::<SegmentId, Vec<(u32, ChunkHash)>>::new();
        self.names
            .into_iter()
            .for_each(|((segment, ordinal), hash)| {
                chunks.entry(segment).or_default().push((ordinal, hash));
            });
        let segments = chunks
            .into_iter()
            .map(|(segment, chunks)| (segment, SegmentEntry::new(&chunks)))
            .collect();
        (!self.packs.is_empty()).then_some(IndexObject {
            segments,
            packs: self.packs,
        })
    }
}
