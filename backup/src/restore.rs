//! Restore: one content of a repository becomes a raw file, or a stream. No store is needed.
//!
//! A file is written pack by pack: each frame is fetched once, decoded and verified on any core,
//! and each of its chunks is written wherever the disk has it. A stream is produced a few pages at
//! a time, in order; the next pages are read while one is written. From a far-away place its frames
//! are fetched before, into a [`Spool`].

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::{
    IntoParallelIterator, IntoParallelRefIterator, ParallelIterator, ParallelSlice,
};
use vellum_core::id_set::IdSet;
use vellum_core::identity::ContentId;
use vellum_core::page::{PAGE_SPAN, Page, PageEntry};
use vellum_core::tree::{page_start, pages_for};
use vellum_core::units::{ChunkId, ChunkLen, PageIndex};
use vellum_store::{
    AtomicFile, Destination, FilePlace, NewFileMode, Progress, Watch, open_device, open_stream,
};

use crate::catalog::{Place, PlainFrame};
use crate::error::BackupError;
use crate::format::address;
use crate::reader::{ContentView, Reader};
use crate::spool::Spool;

/// Pages of a stream that are read at once: 32 MiB of disk at most. One such window is written
/// while the next waits and another is read.
const STREAM_WINDOW: u64 = 8;

/// Frames of a spool that one core decodes in a row: 2 MiB at 128 KiB each.
const SPOOLED_TOGETHER: usize = 16;

/// The target of a restore.
pub enum RestoreTarget {
    /// A new file, which has its name only once it is whole and on disk. Zeros become holes. A link
    /// is followed, a block device written in place, a pipe filled.
    File {
        /// Its name.
        path: PathBuf,
        /// True if a file of that name may be replaced, or a device overwritten.
        overwrite: bool,
    },
    /// A stream, zeros and all.
    Stream(Box<dyn Write + Send>),
}

/// The result of a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoreReport {
    /// The disk's length.
    pub len: u64,
    /// Bytes of it that are not zero.
    pub data_bytes: u64,
}

/// Consecutive chunks, and where the disk has them: never more than a page.
#[derive(Clone, Copy)]
struct Stretch {
    first: ChunkId,
    len: u64,
    /// In chunks.
    position: u64,
}

struct Restorer<'a> {
    reader: &'a Reader<'a>,
    view: &'a ContentView<'a>,
    watch: &'a dyn Watch,
    data_bytes: AtomicU64,
    total: u64,
}

/// Writes `content` to `target`. Every chunk is checked against its name before it is written;
/// damage ends it without a file.
pub fn restore(
    reader: &Reader<'_>,
    content: ContentId,
    target: RestoreTarget,
    watch: &dyn Watch,
) -> Result<RestoreReport, BackupError> {
    let goal = Goal::of(target)?;
    reader.load_indexes()?;
    let view = reader.again_if_missing(|| {
        let view = reader.content(content)?;
        view.pages()?;
        Ok(view)
    })?;
    let mut restorer = Restorer {
        reader,
        view: &view,
        watch,
        data_bytes: AtomicU64::new(0),
        total: 0,
    };
    match goal {
        Goal::Stream(mut stream) => restorer.write_stream(&mut *stream)?,
        Goal::Device(path) => restorer.write_device(&path)?,
        Goal::File {
            place,
            path,
            overwrite,
        } => restorer.write_file(place, &path, overwrite)?,
    }
    Ok(RestoreReport {
        len: view.len,
        data_bytes: restorer.data_bytes.into_inner(),
    })
}

/// A target that was looked at: nothing is overwritten because a name was mistyped.
enum Goal {
    Stream(Box<dyn Write + Send>),
    Device(PathBuf),
    File {
        place: FilePlace,
        /// The path as the user wrote it.
        path: PathBuf,
        overwrite: bool,
    },
}

impl Goal {
    fn of(target: RestoreTarget) -> Result<Self, BackupError> {
        let (path, overwrite) = match target {
            RestoreTarget::Stream(stream) => return Ok(Self::Stream(stream)),
            RestoreTarget::File { path, overwrite } => (path, overwrite),
        };
        let fail = |source| write_failed(&path, source);
        let taken = |what| Err(fail(io::Error::new(io::ErrorKind::AlreadyExists, what)));
        match Destination::resolve_path(&path).map_err(fail)? {
            Destination::File(place) if place.is_taken() && !overwrite => {
                taken("there is a file already")
            }
            Destination::Device(_) if !overwrite => taken("it is a block device"),
            Destination::File(place) => Ok(Self::File {
                place,
                path,
                overwrite,
            }),
            Destination::Device(device) => Ok(Self::Device(device)),
            Destination::Stream(stream) => {
                let stream = open_stream(&stream).map_err(fail)?;
                Ok(Self::Stream(Box::new(stream)))
            }
            Destination::Descriptor(_) => Err(fail(io::Error::other(
                "it is a file that is open already: name the file itself",
            ))),
        }
    }
}

fn write_failed(path: &Path, source: io::Error) -> BackupError {
    BackupError::Io {
        what: format!("write {}", path.display()),
        source,
    }
}

impl Restorer<'_> {
    /// Writes over a block device, zeros and all: nobody knows what was there.
    fn write_device(&mut self, path: &Path) -> Result<(), BackupError> {
        let fail = |source| write_failed(path, source);
        let mut device = open_device(path, self.view.len).map_err(fail)?;
        self.write_stream(&mut device)?;
        device.sync_all().map_err(fail)
    }

    fn write_file(
        &mut self,
        place: FilePlace,
        path: &Path,
        overwrite: bool,
    ) -> Result<(), BackupError> {
        let fail = |source| write_failed(path, source);
        let partial = AtomicFile::create_beside(place, NewFileMode::Private)?;
        partial.file().set_len(self.view.len).map_err(fail)?;
        let stretches = self.stretches()?;
        self.total = stretches.iter().map(|stretch| stretch.len).sum::<u64>()
            * self.reader.chunk_len()?.byte_len();
        let groups = self.groups(&stretches)?;
        self.reader.each_group(&groups, &|frames| {
            for (number, frame) in frames {
                self.write_frame(number, &frame, &stretches, partial.file())
                    .map_err(|error| error.told(fail))?;
            }
            self.go_on()
        })?;
        Ok(partial.publish_file(overwrite)?)
    }

    /// All chunks of the disk, by address.
    fn stretches(&self) -> Result<Vec<Stretch>, BackupError> {
        let mut stretches = Vec::new();
        for index in self.view.pages()?.iter() {
            for run in self.view.page(index)?.runs() {
                if let PageEntry::Chunk(first) = run.slot {
                    let position = page_start(index).0 + u64::from(run.start);
                    stretches.push(Stretch {
                        first,
                        len: run.len.into(),
                        position,
                    });
                }
            }
        }
        stretches.sort_unstable_by_key(|stretch| stretch.first);
        Ok(stretches)
    }

    /// The frames that hold these chunks, neighbours in a pack together.
    fn groups(&self, stretches: &[Stretch]) -> Result<Vec<Vec<Place>>, BackupError> {
        let mut wanted = IdSet::new();
        stretches
            .iter()
            .for_each(|stretch| wanted.insert_run(stretch.first, stretch.len));
        self.reader.places_by_pack(&wanted)
    }

    /// Writes the chunks of a frame wherever the disk has them.
    fn write_frame(
        &self,
        number: u32,
        frame: &PlainFrame,
        stretches: &[Stretch],
        file: &fs::File,
    ) -> Result<(), WriteError> {
        let chunk_len = u64::from(self.reader.repository().file().chunk_len);
        let chunks: Vec<(ChunkId, &[u8])> = frame
            .chunks()
            .map(|(ordinal, plain)| (address(number, ordinal), plain))
            .collect();
        let (Some(first), Some(last)) = (chunks.first(), chunks.last()) else {
            return Ok(());
        };
        // No stretch is longer than a page, so none that begins earlier reaches the frame.
        let start = stretches
            .partition_point(|stretch| stretch.first.0 + u64::from(PAGE_SPAN) <= first.0.0);
        let end = stretches.partition_point(|stretch| stretch.first <= last.0);
        let mut buffer = Vec::new();
        for stretch in &stretches[start..end] {
            let from = chunks.partition_point(|(id, _)| *id < stretch.first);
            let inside = chunks[from..]
                .iter()
                .take_while(|(id, _)| id.0 < stretch.first.0 + stretch.len);
            let inside: Vec<&(ChunkId, &[u8])> = inside.collect();
            for run in inside.chunk_by(|a, b| a.0.advance_by(1) == b.0) {
                buffer.clear();
                run.iter()
                    .for_each(|(_, plain)| buffer.extend_from_slice(plain));
                let at = (stretch.position + run[0].0.0 - stretch.first.0) * chunk_len;
                // The last chunk of a disk may reach past its end.
                buffer.truncate(self.view.len.saturating_sub(at).min(buffer.len() as u64) as usize);
                file.write_all_at(&buffer, at).map_err(WriteError)?;
                self.data_bytes
                    .fetch_add(buffer.len() as u64, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn write_stream(&self, stream: &mut dyn Write) -> Result<(), BackupError> {
        let fail = |source| BackupError::Io {
            what: "write to the output".to_owned(),
            source,
        };
        let chunk_len = self.reader.chunk_len()?;
        let zeros = vec![0; page_len(chunk_len)];
        let spool = self.spool()?;
        let spool = spool.as_ref();
        let (ready, windows) = sync_channel::<Result<Window, BackupError>>(1);
        let (used, spare) = channel::<Vec<u8>>();
        std::thread::scope(|scope| {
            scope.spawn(move || self.read_windows(spool, &ready, &spare));
            for window in windows {
                for (index, bytes) in window? {
                    let start = chunk_len.offset_of(page_start(index));
                    let len = (self.view.len - start).min(zeros.len() as u64) as usize;
                    stream
                        .write_all(&bytes.as_ref().unwrap_or(&zeros)[..len])
                        .map_err(fail)?;
                    self.watch.report_progress(Progress {
                        done: start + len as u64,
                        total: Some(self.view.len),
                    });
                    // If nobody reads any more, all is read.
                    if let Some(bytes) = bytes {
                        drop(used.send(bytes));
                    }
                }
                if self.watch.is_cancelled() {
                    return Err(BackupError::Interrupted);
                }
            }
            stream.flush().map_err(fail)
        })
    }

    /// All frames, if the place is far away and the disk more than a window.
    fn spool(&self) -> Result<Option<Spool>, BackupError> {
        let is_far = self.reader.repository().objects().requests_together() > 1;
        let pages = pages_for(self.reader.chunk_len()?.count_for(self.view.len));
        if !is_far || pages <= STREAM_WINDOW {
            return Ok(None);
        }
        let groups = self.groups(&self.stretches()?)?;
        Spool::fetch(self.reader, &groups, self.watch)
    }

    /// Reads one window after the other, until there are no more or nobody wants them. `spare`
    /// brings back what they were read into.
    fn read_windows(
        &self,
        spool: Option<&Spool>,
        ready: &SyncSender<Result<Window, BackupError>>,
        spare: &Receiver<Vec<u8>>,
    ) {
        let read = || -> Result<(), BackupError> {
            let (chunk_len, mapped) = (self.reader.chunk_len()?, self.view.pages()?);
            let pages = pages_for(chunk_len.count_for(self.view.len));
            for first in (0..pages).step_by(STREAM_WINDOW as usize) {
                let buffer = |index: &PageIndex| {
                    let new = || {
                        spare
                            .try_recv()
                            .unwrap_or_else(|_| vec![0; page_len(chunk_len)])
                    };
                    mapped.contains(*index).then(new)
                };
                let mut window: Window = (first..pages.min(first + STREAM_WINDOW))
                    .map(PageIndex)
                    .map(|index| (index, buffer(&index)))
                    .collect();
                self.fill(&mut window, spool)?;
                if ready.send(Ok(window)).is_err() {
                    break;
                }
            }
            Ok(())
        };
        if let Err(error) = read() {
            // A receiver that hung up has an error of its own.
            drop(ready.send(Err(error)));
        }
    }

    /// Reads those pages of `window` that have memory, zeros included.
    fn fill(&self, window: &mut Window, spool: Option<&Spool>) -> Result<(), BackupError> {
        let chunk_len = self.reader.chunk_len()?.as_usize();
        let filled: Vec<(Page, &mut Vec<u8>)> = window
            .iter_mut()
            .filter_map(|(index, bytes)| Some((*index, bytes.as_mut()?)))
            .map(|(index, bytes)| Ok((self.view.page(index)?, bytes)))
            .collect::<Result<_, BackupError>>()?;
        let mut wanted = IdSet::new();
        for run in filled.iter().flat_map(|(page, _)| page.runs()) {
            if let PageEntry::Chunk(first) = run.slot {
                wanted.insert_run(first, run.len.into());
            }
        }
        let groups = self.reader.places_by_pack(&wanted)?;
        let frames = self.frames(&groups, spool)?;
        let chunks = frames.iter().flat_map(|(number, frame)| {
            frame
                .chunks()
                .map(|(at, plain)| (address(*number, at), plain))
        });
        let chunks: HashMap<ChunkId, &[u8]> =
            chunks.filter(|(id, _)| wanted.contains(*id)).collect();
        filled.into_par_iter().try_for_each(|(page, bytes)| {
            let mut end = 0;
            for run in page.runs() {
                let PageEntry::Chunk(first) = run.slot else {
                    continue;
                };
                let start = usize::from(run.start) * chunk_len;
                bytes[end..start].fill(0);
                end = start + usize::from(run.len) * chunk_len;
                for (nth, bytes) in bytes[start..end].chunks_exact_mut(chunk_len).enumerate() {
                    let id = first.advance_by(nth as u64);
                    bytes.copy_from_slice(chunks.get(&id).ok_or_else(|| self.missing(id))?);
                }
                self.data_bytes
                    .fetch_add((end - start) as u64, Ordering::Relaxed);
            }
            bytes[end..].fill(0);
            Ok(())
        })
    }

    fn frames(
        &self,
        groups: &[Vec<Place>],
        spool: Option<&Spool>,
    ) -> Result<Vec<(u32, PlainFrame)>, BackupError> {
        if let Some(spool) = spool {
            let frames = groups
                .par_iter()
                .flat_map(|group| group.par_chunks(SPOOLED_TOGETHER));
            let frames: Vec<Vec<(u32, PlainFrame)>> = frames
                .map(|group| spool.frames(self.reader, group))
                .collect::<Result<_, _>>()?;
            return Ok(frames.into_iter().flatten().collect());
        }
        let frames = Mutex::new(Vec::new());
        self.reader.each_group(groups, &|some| {
            let mut frames = frames.lock().unwrap_or_else(PoisonError::into_inner);
            frames.extend(some);
            Ok(())
        })?;
        Ok(frames.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn missing(&self, id: ChunkId) -> BackupError {
        self.reader.told(self.reader.catalog().unknown(id))
    }

    fn go_on(&self) -> Result<(), BackupError> {
        self.watch.report_progress(Progress {
            done: self.data_bytes.load(Ordering::Relaxed),
            total: Some(self.total),
        });
        if self.watch.is_cancelled() {
            Err(BackupError::Interrupted)
        } else {
            Ok(())
        }
    }
}

/// Some pages of a disk in order, with their bytes; without, if they are zero.
type Window = Vec<(PageIndex, Option<Vec<u8>>)>;

/// Bytes of a whole page.
fn page_len(chunk_len: ChunkLen) -> usize {
    chunk_len.as_usize() * usize::from(PAGE_SPAN)
}

struct WriteError(io::Error);

impl WriteError {
    fn told(self, tell: impl Fn(io::Error) -> BackupError) -> BackupError {
        tell(self.0)
    }
}
