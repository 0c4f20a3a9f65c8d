//! New chunks on their way up: numbered in segments, sealed on all cores, put by a few threads, told in index objects every so often.
//!
//! Memory: the pack that is being filled, one that waits, one for each thread that puts, and copies of the first two while they are finished:
//! 6 packs of 32 MiB; beside that two batches of frames.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rayon::prelude::{IntoParallelRefIterator, ParallelIterator};
use vellum_core::hash::ChunkHash;
use vellum_core::identity::SegmentId;
use vellum_core::units::ChunkId;
use vellum_store::transfer::{SuppliedFrame, Supply};
use vellum_store::{Progress, Watch};

use crate::error::BackupError;
use crate::format::{
    Frame, INDEX_CHUNK_COUNT_MAX, IndexObject, PackEntry, PackWriter, Presence, SEGMENT_LEN_MAX, SealedPack, SegmentEntry, address,
    new_segment,
};
use crate::known::{Known, Origin};
use crate::objects::{ObjectId, ObjectName};
use crate::reader::Reader;
use crate::repository::Repository;
use crate::seal::SealedKind;

/// Threads that put packs: one waits for the place to sync while the other sends.
const UPLOADS: usize = 2;
/// Packs after which an index object tells of them: what an interrupted push loses at most.
const PACKS_PER_INDEX: usize = 8;

/// What goes up: chunks with the ids that their origin gives them, in batches of frames.
pub(crate) trait Frames {
    /// The next frames; none if that was all.
    fn next_batch(&mut self) -> Result<Option<Vec<SuppliedFrame>>, BackupError>;
}

impl Frames for Supply<'_> {
    fn next_batch(&mut self) -> Result<Option<Vec<SuppliedFrame>>, BackupError> {
        Ok(Supply::next_batch(self)?)
    }
}

/// Who waits, and how fast it may go.
pub(crate) struct Manner<'w> {
    pub(crate) watch: &'w dyn Watch,
    /// Bytes a second.
    pub(crate) limit: Option<u64>,
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) chunks: u64,
    /// Bytes of packs and of index objects.
    pub(crate) bytes: u64,
}

/// Chunks of one frame: the origin's ids and their names; the first one's address.
struct Named {
    segment: SegmentId,
    first: ChunkId,
    chunks: Vec<(ChunkId, ChunkHash)>,
}

/// A pack with the names that its index needs.
struct Full {
    pack: SealedPack,
    named: Vec<Named>,
}

/// Numbers frames in segments.
struct Numbers {
    segment: SegmentId,
    next: u32,
}

/// Keeps to a number of bytes a second, for all threads together.
struct Pace {
    limit: Option<u64>,
    free_at: Mutex<Instant>,
}

impl Pace {
    /// Waits until `len` more bytes may go.
    fn wait(&self, len: usize) {
        let Some(limit) = self.limit else { return };
        let until = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let start = (*free_at).max(Instant::now());
            *free_at = start + Duration::from_secs_f64(len as f64 / limit.max(1) as f64);
            start
        };
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
    }
}

/// Sends the chunks that `supply` has, `total` of them, and adds them to `known`. The index objects that speak of them are pending there.
pub(crate) fn send(
    reader: &Reader<'_>,
    origin: &dyn Origin,
    supply: &mut dyn Frames,
    total: u64,
    known: &mut Known,
    manner: &Manner<'_>,
) -> Result<Sent, BackupError> {
    let (packs, waiting) = sync_channel::<Full>(1);
    let (done, finished) = channel();
    let waiting = Mutex::new(waiting);
    let pace = Pace { limit: manner.limit, free_at: Mutex::new(Instant::now()) };
    std::thread::scope(|scope| {
        for _ in 0..UPLOADS {
            let (done, waiting, pace) = (done.clone(), &waiting, &pace);
            scope.spawn(move || put_packs(reader.repository(), waiting, pace, done));
        }
        drop(done);
        let mut telling =
            Telling { reader, origin, known, index: IndexObject::default(), names: BTreeMap::new(), runs: Vec::new(), bytes: 0 };
        let filled = fill(reader, supply, total, manner, &mut |full| {
            finished.try_iter().try_for_each(|put: Result<Full, BackupError>| telling.tell(put?))?;
            // If nobody takes it any more, somebody failed: the results say why.
            drop(packs.send(full));
            Ok(())
        });
        drop(packs);
        let told = finished.iter().try_for_each(|put| telling.tell(put?)).and_then(|()| telling.put());
        let chunks = filled?;
        told?;
        Ok(Sent { chunks, bytes: telling.bytes })
    })
}

/// Fills packs and gives them to `full`, until there is nothing more; how many chunks there were.
fn fill(
    reader: &Reader<'_>,
    supply: &mut dyn Frames,
    total: u64,
    manner: &Manner<'_>,
    full: &mut dyn FnMut(Full) -> Result<(), BackupError>,
) -> Result<u64, BackupError> {
    let sealer = reader.repository().sealer();
    let chunk_len = u64::from(reader.repository().file().chunk_len);
    let (mut writer, mut named, mut chunks) = (PackWriter::default(), Vec::new(), 0);
    let mut numbers = Numbers { segment: new_segment()?, next: 0 };
    while let Some(frames) = supply.next_batch()? {
        let numbered =
            frames.into_iter().map(|frame| Ok((numbers.number(reader, &frame)?, frame))).collect::<Result<Vec<_>, BackupError>>()?;
        let seal = |(own, frame): &(Named, SuppliedFrame)| {
            let presence = Presence::all(own.chunks.len() as u32);
            let first = own.first.0 as u32;
            PackWriter::seal_frame(sealer, &Frame { segment: own.segment, first, presence, codec: frame.codec, payload: &frame.payload })
        };
        let parts = numbered.par_iter().map(seal).collect::<Result<Vec<_>, _>>()?;
        for ((own, _), frame) in numbered.into_iter().zip(parts) {
            if let Some(pack) = writer.add(sealer, frame)? {
                full(Full { pack, named: std::mem::take(&mut named) })?;
            }
            chunks += own.chunks.len() as u64;
            named.push(own);
        }
        manner.watch.progress(Progress { done: chunks * chunk_len, total: Some(total * chunk_len) });
        if manner.watch.is_cancelled() {
            return Err(BackupError::Interrupted);
        }
    }
    if let Some(pack) = writer.finish(sealer)? {
        full(Full { pack, named })?;
    }
    Ok(chunks)
}

impl Numbers {
    fn number(&mut self, reader: &Reader<'_>, frame: &SuppliedFrame) -> Result<Named, BackupError> {
        let count = frame.chunks.len() as u32;
        if self.next + count > SEGMENT_LEN_MAX {
            *self = Self { segment: new_segment()?, next: 0 };
        }
        let first = address(reader.catalog().number_of(self.segment), self.next);
        self.next += count;
        Ok(Named { segment: self.segment, first, chunks: frame.chunks.clone() })
    }
}

fn put_packs(repository: &Repository, waiting: &Mutex<Receiver<Full>>, pace: &Pace, done: Sender<Result<Full, BackupError>>) {
    loop {
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(mut full) = next else { return };
        pace.wait(full.pack.object.bytes.len());
        let put = repository.put(&ObjectName::Pack(full.pack.object.id), &full.pack.object.bytes);
        full.pack.object.bytes = Vec::new();
        let failed = put.is_err();
        // The one who listens leaves last.
        drop(done.send(put.map(|()| full)));
        if failed {
            return;
        }
    }
}

/// Collects what index objects say of packs that are there.
struct Telling<'t, 'r> {
    reader: &'t Reader<'r>,
    origin: &'t dyn Origin,
    known: &'t mut Known,
    index: IndexObject,
    names: BTreeMap<SegmentId, Vec<(u32, ChunkHash)>>,
    runs: Vec<(ChunkId, ChunkId, u64)>,
    bytes: u64,
}

impl Telling<'_, '_> {
    fn tell(&mut self, full: Full) -> Result<(), BackupError> {
        let coming: usize = full.named.iter().map(|named| named.chunks.len()).sum();
        let count: usize = self.names.values().map(Vec::len).sum();
        if self.index.packs.len() >= PACKS_PER_INDEX || (count > 0 && count + coming > INDEX_CHUNK_COUNT_MAX) {
            self.put()?;
        }
        let PackEntry { len, .. } = full.pack.entry;
        self.bytes += len;
        self.index.packs.push(full.pack.entry);
        for named in full.named {
            let (own, first) = (self.names.entry(named.segment).or_default(), named.first.0 as u32);
            own.extend(named.chunks.iter().zip(first..).map(|((_, name), ordinal)| (ordinal, *name)));
            let runs = named.chunks.chunk_by(|a, b| a.0.advance(1) == b.0).scan(named.first, |to, run| {
                let start = *to;
                *to = start.advance(run.len() as u64);
                Some((run[0].0, start, run.len() as u64))
            });
            self.runs.extend(runs);
        }
        Ok(())
    }

    /// Puts the index object of what was told so far.
    fn put(&mut self) -> Result<(), BackupError> {
        if self.index.packs.is_empty() {
            return Ok(());
        }
        let mut index = std::mem::take(&mut self.index);
        for (segment, mut chunks) in std::mem::take(&mut self.names) {
            chunks.sort_unstable_by_key(|(ordinal, _)| *ordinal);
            index.segments.insert(segment, SegmentEntry::new(&chunks));
        }
        let sealed = self.reader.repository().sealer().seal(SealedKind::Index, &index.encode())?;
        let id: ObjectId = sealed.id;
        self.reader.repository().put(&ObjectName::Index(id), &sealed.bytes)?;
        self.bytes += sealed.bytes.len() as u64;
        self.known.add(id, &std::mem::take(&mut self.runs));
        self.known.keep(self.reader, self.origin)
    }
}
