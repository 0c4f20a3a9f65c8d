//! Uploads new chunks: numbers them in segments, seals them on all cores, puts the packs with a few
//! threads, and writes an index object every few packs.
//!
//! Memory: the pack that is being filled, one that waits, and for each thread that puts the frames
//! of one and the object that they become: 6 packs of 32 MiB; beside that a batch of frames.

use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::{IndexedParallelIterator, IntoParallelRefIterator, ParallelIterator};
use vellum_core::hash::ChunkHash;
use vellum_core::identity::SegmentId;
use vellum_core::units::ChunkId;
use vellum_store::transfer::{FrameExport, PlannedFrame, SuppliedFrame};
use vellum_store::{Progress, Watch};

use super::unindexed::{NamesBySegment, UnindexedPacks, index_of};
use crate::error::BackupError;
use crate::format::{
    FilledPack, Frame, INDEX_CHUNK_COUNT_MAX, PACK_LEN_TARGET, PackEntry, PackWriter, Presence,
    SEGMENT_LEN_MAX, SealedFrame, address, new_segment,
};
use crate::known::{Known, Origin};
use crate::objects::{ByteRate, ObjectName};
use crate::reader::Reader;
use crate::repository::Repository;
use crate::seal::Sealer;

/// Threads that put packs: one waits for the place to sync while the other sends.
const UPLOADS: usize = 2;
/// The number of packs in an index object.
const PACKS_PER_INDEX: usize = 8;
/// The same in bytes where the rate is limited, and packs are short.
const SLOW_INDEX_LEN: u64 = 32 << 20;
/// Packs of a limited push are as long as what may go in a second, and at least so long: requests
/// cost, too.
const SLOW_PACK_LEN_MIN: u64 = 256 << 10;

/// The frames to upload: planned one batch after the other, and then read on all cores.
pub(crate) trait Frames: Sync {
    /// A frame that is to go out: the chunks it holds, with the ids that their origin gives them
    /// and their names.
    type Frame: AsRef<[(ChunkId, ChunkHash)]> + Into<Vec<(ChunkId, ChunkHash)>> + Send + Sync;

    /// The next frames; none if that was all.
    fn next_batch(&mut self) -> Result<Vec<Self::Frame>, BackupError>;

    /// Reads a frame that was planned here and gives it to `take`.
    fn read<T>(
        &self,
        frame: &Self::Frame,
        take: impl FnOnce(SuppliedFrame<'_>) -> T,
    ) -> Result<T, BackupError>;
}

impl Frames for FrameExport<'_> {
    type Frame = PlannedFrame;

    fn next_batch(&mut self) -> Result<Vec<PlannedFrame>, BackupError> {
        Ok(FrameExport::next_batch(self)?)
    }

    fn read<T>(
        &self,
        frame: &PlannedFrame,
        take: impl FnOnce(SuppliedFrame<'_>) -> T,
    ) -> Result<T, BackupError> {
        Ok(self.read_frame(frame, take)?)
    }
}

/// The upload options: the watch that is told of progress, and the rate limit.
pub(crate) struct Manner<'w> {
    pub(crate) watch: &'w dyn Watch,
    /// Bytes a second.
    pub(crate) limit: Option<u64>,
}

/// The result of an upload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) chunks: u64,
    /// Bytes of packs and of index objects.
    pub(crate) bytes: u64,
}

/// The addresses of a frame's chunks: its segment, and the address of the first.
#[derive(Clone, Copy)]
struct Numbered {
    segment: SegmentId,
    first: ChunkId,
}

/// Chunks of one frame, with the origin's ids and their names.
struct Named {
    place: Numbered,
    chunks: Vec<(ChunkId, ChunkHash)>,
}

/// A pack's worth of frames.
struct Full {
    pack: FilledPack,
    named: Vec<Named>,
}

/// A pack that is there, with what its index needs.
struct Put {
    entry: PackEntry,
    named: Vec<Named>,
}

/// Numbers frames in segments.
struct Numbers {
    segment: SegmentId,
    next: u32,
}

/// The length of packs at a limit of bytes a second.
fn pack_writer(limit: Option<u64>) -> PackWriter {
    limit.map_or_else(PackWriter::default, |limit| {
        let len = limit.clamp(SLOW_PACK_LEN_MIN, PACK_LEN_TARGET as u64);
        PackWriter::new(len as usize)
    })
}

/// Sends the chunks that `supply` has, `total` of them, and adds them to `known`. The index objects
/// that speak of them are pending there.
pub(crate) fn send<F: Frames>(
    reader: &Reader<'_>,
    origin: &dyn Origin,
    supply: &mut F,
    total: u64,
    known: &mut Known,
    manner: &Manner<'_>,
) -> Result<Sent, BackupError> {
    let (packs, waiting) = sync_channel::<Full>(1);
    let (done, finished) = channel();
    let waiting = Mutex::new(waiting);
    let rate = manner.limit.map(ByteRate::new);
    let pace = |len: usize| {
        let is_cancelled = || manner.watch.is_cancelled();
        let goes = |rate: &ByteRate| rate.wait(len as u64, &is_cancelled);
        rate.as_ref().is_none_or(goes)
    };
    std::thread::scope(|scope| {
        for _ in 0..UPLOADS {
            let (done, waiting, pace) = (done.clone(), &waiting, &pace);
            scope.spawn(move || put_packs(reader.repository(), waiting, pace, done));
        }
        drop(done);
        let mut telling = Telling {
            reader,
            origin,
            known,
            notes: UnindexedPacks::open(reader.repository(), origin),
            packs: Vec::new(),
            names: NamesBySegment::new(),
            runs: Vec::new(),
            bytes: 0,
            is_slow: manner.limit.is_some(),
        };
        let filled = fill(reader, supply, total, manner, &mut |full| {
            finished
                .try_iter()
                .try_for_each(|put: Result<Put, BackupError>| telling.tell(put?))?;
            // If nobody takes it any more, somebody failed: the results say why.
            drop(packs.send(full));
            Ok(())
        });
        drop(packs);
        let told = finished
            .iter()
            .try_for_each(|put| telling.tell(put?))
            .and_then(|()| telling.put());
        let chunks = filled?;
        told?;
        Ok(Sent {
            chunks,
            bytes: telling.bytes,
        })
    })
}

/// Fills packs and gives them to `full`, until there is nothing more; how many chunks there were.
fn fill<F: Frames>(
    reader: &Reader<'_>,
    supply: &mut F,
    total: u64,
    manner: &Manner<'_>,
    full: &mut dyn FnMut(Full) -> Result<(), BackupError>,
) -> Result<u64, BackupError> {
    let sealer = reader.repository().sealer();
    let chunk_len = u64::from(reader.repository().file().chunk_len);
    let (mut writer, mut waiting, mut chunks) = (pack_writer(manner.limit), Vec::new(), 0);
    let mut numbers = Numbers {
        segment: new_segment()?,
        next: 0,
    };
    loop {
        let planned = supply.next_batch()?;
        if planned.is_empty() {
            break;
        }
        let places = planned
            .iter()
            .map(|frame| numbers.number(reader, frame.as_ref().len()))
            .collect::<Result<Vec<_>, _>>()?;
        let frames: &F = supply;
        let seal = |(frame, place): (&F::Frame, &Numbered)| seal(frames, sealer, frame, *place);
        let parts = planned
            .par_iter()
            .zip(&places)
            .map(seal)
            .collect::<Result<Vec<_>, _>>()?;
        for ((frame, place), part) in planned.into_iter().zip(places).zip(parts) {
            if let Some(pack) = writer.fill(part) {
                full(Full {
                    pack,
                    named: std::mem::take(&mut waiting),
                })?;
            }
            let named = Named {
                place,
                chunks: frame.into(),
            };
            chunks += named.chunks.len() as u64;
            waiting.push(named);
        }
        manner.watch.report_progress(Progress {
            done: chunks * chunk_len,
            total: Some(total * chunk_len),
        });
        if manner.watch.is_cancelled() {
            return Err(BackupError::Interrupted);
        }
    }
    if let Some(pack) = writer.take() {
        full(Full {
            pack,
            named: waiting,
        })?;
    }
    Ok(chunks)
}

/// Reads a frame and seals it.
fn seal<F: Frames>(
    frames: &F,
    sealer: &Sealer,
    frame: &F::Frame,
    place: Numbered,
) -> Result<SealedFrame, BackupError> {
    let Numbered { segment, first } = place;
    let (first, presence) = (first.0 as u32, Presence::all(frame.as_ref().len() as u32));
    let seal = |supplied: SuppliedFrame<'_>| {
        let SuppliedFrame { codec, payload, .. } = supplied;
        PackWriter::seal_frame(
            sealer,
            &Frame {
                segment,
                first,
                presence,
                codec,
                payload,
            },
        )
    };
    Ok(frames.read(frame, seal)??)
}

impl Numbers {
    /// The place of the next `count` chunks.
    fn number(&mut self, reader: &Reader<'_>, count: usize) -> Result<Numbered, BackupError> {
        let count = count as u32;
        if self.next + count > SEGMENT_LEN_MAX {
            *self = Self {
                segment: new_segment()?,
                next: 0,
            };
        }
        let first = address(reader.catalog().number_of(self.segment), self.next);
        self.next += count;
        Ok(Numbered {
            segment: self.segment,
            first,
        })
    }
}

fn put_packs(
    repository: &Repository,
    waiting: &Mutex<Receiver<Full>>,
    pace: &(dyn Fn(usize) -> bool + Sync),
    done: Sender<Result<Put, BackupError>>,
) {
    let mut memory = Vec::new();
    loop {
        let next = waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv();
        let Ok(full) = next else { return };
        let put = put_pack(repository, full, pace, &mut memory);
        let failed = put.is_err();
        // The one who listens leaves last.
        drop(done.send(put));
        if failed {
            return;
        }
    }
}

/// Seals and puts a pack, in `memory` that the one before it used.
fn put_pack(
    repository: &Repository,
    full: Full,
    pace: &(dyn Fn(usize) -> bool + Sync),
    memory: &mut Vec<u8>,
) -> Result<Put, BackupError> {
    let sealed = full
        .pack
        .seal(repository.sealer(), std::mem::take(memory))?;
    if !pace(sealed.object.bytes.len()) {
        return Err(BackupError::Interrupted);
    }
    repository.put(&ObjectName::Pack(sealed.object.id), &sealed.object.bytes)?;
    *memory = sealed.object.bytes;
    Ok(Put {
        entry: sealed.entry,
        named: full.named,
    })
}

/// Collects the entries of packs that are there, for index objects.
struct Telling<'t, 'r> {
    reader: &'t Reader<'r>,
    origin: &'t dyn Origin,
    known: &'t mut Known,
    notes: UnindexedPacks,
    packs: Vec<PackEntry>,
    names: NamesBySegment,
    runs: Vec<(ChunkId, ChunkId, u64)>,
    bytes: u64,
    is_slow: bool,
}

impl Telling<'_, '_> {
    fn tell(&mut self, put: Put) -> Result<(), BackupError> {
        let coming: usize = put.named.iter().map(|named| named.chunks.len()).sum();
        let count: usize = self.names.values().map(Vec::len).sum();
        if self.is_due() || (count > 0 && count + coming > INDEX_CHUNK_COUNT_MAX) {
            self.put()?;
        }
        self.bytes += put.entry.len;
        let mut names = NamesBySegment::new();
        for Named {
            place: Numbered { segment, first },
            chunks,
        } in put.named
        {
            let numbered = chunks.iter().zip(first.0 as u32..);
            let numbered = numbered.map(|((_, name), ordinal)| (ordinal, *name));
            names.entry(segment).or_default().extend(numbered);
            let runs = chunks
                .chunk_by(|a, b| a.0.advance_by(1) == b.0)
                .scan(first, |to, run| {
                    let start = *to;
                    *to = start.advance_by(run.len() as u64);
                    Some((run[0].0, start, run.len() as u64))
                });
            self.runs.extend(runs);
        }
        let sealer = self.reader.repository().sealer();
        self.notes.note(sealer, &put.entry, &names);
        for (segment, chunks) in names {
            self.names.entry(segment).or_default().extend(chunks);
        }
        self.packs.push(put.entry);
        Ok(())
    }

    /// True if there are packs enough for an index object.
    fn is_due(&self) -> bool {
        if self.is_slow {
            let len: u64 = self.packs.iter().map(|pack| pack.len).sum();
            len >= SLOW_INDEX_LEN
        } else {
            self.packs.len() >= PACKS_PER_INDEX
        }
    }

    /// Puts the index object of the entries so far.
    fn put(&mut self) -> Result<(), BackupError> {
        if self.packs.is_empty() {
            return Ok(());
        }
        let packs = std::mem::take(&mut self.packs);
        let index = index_of(packs, std::mem::take(&mut self.names));
        let sealed = self.reader.repository().put_index(&index)?;
        self.bytes += sealed.object.bytes.len() as u64;
        let runs = std::mem::take(&mut self.runs);
        self.known.add(sealed, &index, &runs);
        self.known.keep(self.reader, self.origin)?;
        self.notes.clear();
        Ok(())
    }
}
