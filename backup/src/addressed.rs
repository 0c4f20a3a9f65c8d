//! Writes chunks under the addresses that they have already: into new packs, with the index objects
//! that name them. Collections move chunks so, and lost ones come back so.

use std::collections::BTreeMap;

use vellum_core::hash::ChunkHash;
use vellum_core::identity::SegmentId;
use vellum_store::{Compression, codec};

use crate::error::BackupError;
use crate::format::{
    Frame, INDEX_CHUNK_COUNT_MAX, IndexObject, PackEntry, PackWriter, Presence, SealedPack,
    SegmentEntry,
};
use crate::objects::ObjectName;
use crate::record::IndexParts;
use crate::repository::Repository;

/// The compression of chunks that lose their neighbours in a frame: as a store does by default.
const COMPRESSION: Compression = Compression::Zstd(3);
/// Plain bytes of a frame that is made of what is left of others: as in a store.
pub(crate) const FRAME_LEN: usize = 128 << 10;
/// The greatest span of the chunks of such a frame, in ordinals: bounds its bitmap, and what is
/// decoded for a neighbour that is not there.
const SPAN_MAX: u32 = 1024;
/// Bytes of chunks that wait to become frames with others of their segments.
const LOOSE_LEN_MAX: usize = 16 << 20;

/// Writes packs and index objects for chunks that have addresses.
pub(crate) struct AddressedWriter<'a> {
    repository: &'a Repository,
    writer: PackWriter,
    builder: IndexBuilder,
    /// Chunks that come alone: they become full frames, as far as their segments go.
    loose: BTreeMap<(SegmentId, u32), Vec<u8>>,
    /// Names of chunks in packs that are not complete yet.
    waiting: BTreeMap<(SegmentId, u32), ChunkHash>,
    indexes: Vec<IndexParts>,
    /// Bytes of the new packs.
    written_len: u64,
}

impl<'a> AddressedWriter<'a> {
    pub(crate) fn new(repository: &'a Repository) -> Self {
        Self {
            repository,
            writer: PackWriter::default(),
            builder: IndexBuilder::default(),
            loose: BTreeMap::new(),
            waiting: BTreeMap::new(),
            indexes: Vec::new(),
            written_len: 0,
        }
    }

    /// Names a pack that is there in the new index objects; `names` are those of its chunks.
    pub(crate) fn add_pack(
        &mut self,
        pack: PackEntry,
        names: impl IntoIterator<Item = ((SegmentId, u32), ChunkHash)>,
    ) -> Result<(), BackupError> {
        self.builder.names.extend(names);
        self.builder.packs.push(pack);
        self.flush_if_full()
    }

    /// Writes a frame as it is; `names` are those of its chunks.
    pub(crate) fn add_frame(
        &mut self,
        frame: &Frame<'_>,
        names: impl IntoIterator<Item = ((SegmentId, u32), ChunkHash)>,
    ) -> Result<(), BackupError> {
        self.waiting.extend(names);
        self.add(frame)
    }

    /// Writes one chunk, in a frame with its neighbours.
    pub(crate) fn add_chunk(
        &mut self,
        address: (SegmentId, u32),
        name: ChunkHash,
        plain: Vec<u8>,
    ) -> Result<(), BackupError> {
        let chunk_len = plain.len();
        self.waiting.insert(address, name);
        self.loose.insert(address, plain);
        if self.loose.len() * chunk_len > LOOSE_LEN_MAX {
            self.gather()?;
        }
        Ok(())
    }

    /// The new index objects, and the length of the new packs in bytes. Everything is durable then.
    pub(crate) fn finish(mut self) -> Result<(Vec<IndexParts>, u64), BackupError> {
        self.gather()?;
        if let Some(pack) = self.writer.finish(self.repository.sealer())? {
            self.put_pack(pack)?;
        }
        self.flush()?;
        Ok((self.indexes, self.written_len))
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
        let sealed = self.repository.put_index(&index)?;
        self.indexes
            .push(IndexParts::of(sealed.object.id, sealed.parts));
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
