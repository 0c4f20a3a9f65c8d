//! Export: writes an image or snapshot to a raw file, or to a stream.
//!
//! A disk is cut into pages; every core plans, decodes and verifies pages by itself. A file takes
//! pages in any order, each at its offset; a stream takes them in the order of the disk.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::{IntoParallelIterator, IntoParallelRefIterator, ParallelIterator};
use rustix::fs::{FallocateFlags, fallocate};
use vellum_core::page::Page;
use vellum_core::tree::{NodeRef, page_start, pages_for};
use vellum_core::units::PageIndex;

use crate::atomic_file::{AtomicFile, NewFileMode};
use crate::background_sync::synced_along;
use crate::destination::{Destination, FilePlace, OPEN_ALREADY, open_device, open_stream};
use crate::disk::{Disk, Hole, disk_runs};
use crate::error::StoreError;
use crate::store::Store;
use crate::watch::{Progress, Watch};

/// Pages of a stream that are decoded at once: what waits for its turn is a few times 4 MiB.
const STREAM_WINDOW: u64 = 8;

/// Bytes that are written in one call: few calls, and a buffer that stays in the processor's cache.
const WRITE_LEN_MAX: u64 = 256 << 10;

/// Target of an export.
pub enum ExportTarget {
    /// A file, which has its name only once it is whole and on disk. Zeros become holes. A link is
    /// followed, a block device written in place, a pipe filled.
    File {
        /// Its name.
        path: PathBuf,
        /// True if a file of that name may be replaced.
        overwrite: bool,
    },
    /// A stream, zeros and all.
    Stream(Box<dyn Write + Send>),
}

/// Reaction of an export to bytes that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unreadable {
    /// It ends.
    #[default]
    Fail,
    /// It writes zeros, and tells of them.
    Skip,
}

/// Result of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportReport {
    /// The disk's length.
    pub len: u64,
    /// Bytes of it that are not zero.
    pub data_bytes: u64,
    /// Ranges that could not be read, in the order of the disk: none if such a range ends the
    /// export.
    pub holes: Vec<Hole>,
}

/// An export under way.
struct Exporter<'a> {
    disk: &'a Disk,
    watch: &'a dyn Watch,
    unreadable: Unreadable,
    holes: Mutex<Vec<Hole>>,
    done: AtomicU64,
    data_bytes: AtomicU64,
}

impl Store {
    /// Writes the content of `node`. Every chunk is verified before it is written; damage ends the
    /// export without a file.
    pub fn export_image(
        &self,
        node: NodeRef,
        target: ExportTarget,
        watch: &dyn Watch,
    ) -> Result<ExportReport, StoreError> {
        self.export_as_far(node, target, Unreadable::Fail, watch)
    }

    /// Exports as [`Store::export_image`]; `unreadable` decides the reaction to damage.
    pub fn export_as_far(
        &self,
        node: NodeRef,
        target: ExportTarget,
        unreadable: Unreadable,
        watch: &dyn Watch,
    ) -> Result<ExportReport, StoreError> {
        let disk = self.still_disk(node)?;
        let exporter = Exporter {
            disk: &disk,
            watch,
            unreadable,
            holes: Mutex::default(),
            done: AtomicU64::new(0),
            data_bytes: AtomicU64::new(0),
        };
        match target {
            ExportTarget::Stream(mut stream) => exporter.write_stream(stream.as_mut())?,
            ExportTarget::File { path, overwrite } => exporter.write_to(&path, overwrite)?,
        }
        Ok(ExportReport {
            len: disk.len(),
            data_bytes: exporter.data_bytes.into_inner(),
            holes: Hole::join_adjacent(
                exporter
                    .holes
                    .into_inner()
                    .unwrap_or_else(PoisonError::into_inner),
            ),
        })
    }
}

impl Exporter<'_> {
    /// Writes to whatever `path` leads to.
    fn write_to(&self, path: &Path, overwrite: bool) -> Result<(), StoreError> {
        let fail = |source| StoreError::of_file("write", path, source);
        match Destination::resolve_path(path).map_err(fail)? {
            Destination::File(place) if place.is_taken() && !overwrite => {
                Err(fail(io::ErrorKind::AlreadyExists.into()))
            }
            Destination::File(place) => self.write_file(place, path, overwrite),
            Destination::Stream(stream) => {
                self.write_stream(&mut open_stream(&stream).map_err(fail)?)
            }
            Destination::Device(device) => {
                let device = open_device(&device, self.disk.len()).map_err(fail)?;
                self.write_device(&device, path)
            }
            Destination::Descriptor(_) => Err(fail(io::Error::other(OPEN_ALREADY))),
        }
    }

    /// Writes a new file beside `place`, and gives it its name when it is whole.
    fn write_file(&self, place: FilePlace, path: &Path, overwrite: bool) -> Result<(), StoreError> {
        let partial = AtomicFile::create_beside(place, NewFileMode::Private)?;
        partial
            .file
            .set_len(self.disk.len())
            .map_err(|source| StoreError::of_file("write", &partial.path, source))?;
        self.fill_file(&partial.file, path)?;
        partial.publish_file(overwrite)
    }

    /// Writes over a block device that is long enough; zeros are written too, since nobody knows
    /// what was there.
    fn write_device(&self, device: &File, path: &Path) -> Result<(), StoreError> {
        let wipe = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        if fallocate(device, wipe, 0, self.disk.len()).is_ok() {
            self.fill_file(device, path)?;
        } else {
            self.write_stream(&mut &*device)?;
        }
        device
            .sync_all()
            .map_err(|source| StoreError::of_file("write", path, source))
    }

    /// Writes all data at its place into a file that reads as zeros.
    fn fill_file(&self, file: &File, path: &Path) -> Result<(), StoreError> {
        let fail = |source| StoreError::of_file("write", path, source);
        let pages: Vec<PageIndex> = self.disk.mapped_pages().iter().collect();
        synced_along(file, fail, |bell| {
            pages
                .into_par_iter()
                .try_for_each_init(Vec::new, |buffer, index| {
                    let page = self.resolved_page(index)?;
                    for piece in self.data_pieces(&page, index) {
                        self.read_into(&page, &piece, buffer)?;
                        file.write_all_at(buffer, piece.start).map_err(fail)?;
                        bell.note_written(buffer.len() as u64);
                    }
                    self.advance_progress(index)
                })
        })
    }

    fn write_stream(&self, stream: &mut dyn Write) -> Result<(), StoreError> {
        let fail = |source| StoreError::of_io("write to the output", source);
        let pages = pages_for(self.disk.chunk_len().count_for(self.disk.len()));
        for window in (0..pages).step_by(STREAM_WINDOW as usize) {
            let window: Vec<PageIndex> = (window..pages.min(window + STREAM_WINDOW))
                .map(PageIndex)
                .collect();
            let contents: Vec<Vec<u8>> = window
                .par_iter()
                .map(|index| self.page_bytes(*index))
                .collect::<Result<_, StoreError>>()?;
            for (index, bytes) in window.into_iter().zip(contents) {
                stream.write_all(&bytes).map_err(fail)?;
                self.advance_progress(index)?;
            }
        }
        stream.flush().map_err(fail)
    }

    /// All bytes of page `index`, zeros included.
    fn page_bytes(&self, index: PageIndex) -> Result<Vec<u8>, StoreError> {
        let (start, end) = self.page_range(index);
        let mut bytes = vec![0; (end - start) as usize];
        let page = self.resolved_page(index)?;
        for piece in self.data_pieces(&page, index) {
            let place = (piece.start - start) as usize..(piece.end - start) as usize;
            self.read_page(&page, &mut bytes[place], piece.start)?;
            self.data_bytes
                .fetch_add(piece.end - piece.start, Ordering::Relaxed);
        }
        Ok(bytes)
    }

    /// The bytes of the disk that page `index` answers for.
    fn page_range(&self, index: PageIndex) -> (u64, u64) {
        let chunk_len = self.disk.chunk_len();
        let offset = |index: u64| {
            chunk_len
                .offset_of(page_start(PageIndex(index)))
                .min(self.disk.len())
        };
        (offset(index.0), offset(index.0 + 1))
    }

    /// The byte ranges of page `index` that hold data, none longer than [`WRITE_LEN_MAX`].
    fn data_pieces(&self, page: &Page, index: PageIndex) -> Vec<Range<u64>> {
        let (start, end) = self.page_range(index);
        if start >= end {
            return Vec::new();
        }
        let chunk_len = self.disk.chunk_len();
        let runs = disk_runs(page, index, 0, chunk_len.count_for(end - start).0 as u16);
        let stretches = runs
            .chunk_by(|a, b| a.first.is_some() == b.first.is_some())
            .filter(|runs| runs[0].first.is_some());
        let ranges = stretches.map(|runs| {
            let count: u64 = runs.iter().map(|run| run.count).sum();
            chunk_len.offset_of(runs[0].start)
                ..chunk_len
                    .offset_of(runs[0].start.advance_by(count))
                    .min(end)
        });
        ranges
            .flat_map(|range| {
                range
                    .clone()
                    .step_by(WRITE_LEN_MAX as usize)
                    .map(move |at| at..(at + WRITE_LEN_MAX).min(range.end))
            })
            .collect()
    }

    /// Page `index`, resolved.
    fn resolved_page(&self, index: PageIndex) -> Result<Arc<Page>, StoreError> {
        match self.unreadable {
            Unreadable::Fail => self.disk.resolve_page(index),
            Unreadable::Skip => {
                let (page, holes) = self.disk.readable_page(index)?;
                self.note_holes(holes);
                Ok(page)
            }
        }
    }

    /// Fills `buffer` with the bytes from `offset`, which lie on `page`, decoded and verified.
    fn read_page(
        &self,
        page: &Arc<Page>,
        buffer: &mut [u8],
        offset: u64,
    ) -> Result<(), StoreError> {
        let source = |_| Ok(Arc::clone(page));
        match self.unreadable {
            Unreadable::Fail => self.disk.read_through(&source, buffer, offset),
            Unreadable::Skip => {
                let holes = self.disk.read_readable(&source, buffer, offset)?;
                self.note_holes(holes);
                Ok(())
            }
        }
    }

    fn note_holes(&self, holes: Vec<Hole>) {
        if !holes.is_empty() {
            self.holes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend(holes);
        }
    }

    /// Fills `buffer` with the bytes of `range`, which lie on `page`.
    fn read_into(
        &self,
        page: &Arc<Page>,
        range: &Range<u64>,
        buffer: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let len = range.end - range.start;
        buffer.resize(len as usize, 0);
        self.read_page(page, buffer, range.start)?;
        self.data_bytes.fetch_add(len, Ordering::Relaxed);
        Ok(())
    }

    fn advance_progress(&self, index: PageIndex) -> Result<(), StoreError> {
        let (start, end) = self.page_range(index);
        let done = self.done.fetch_add(end - start, Ordering::Relaxed) + end - start;
        self.watch.report_progress(Progress {
            done,
            total: Some(self.disk.len()),
        });
        if self.watch.is_cancelled() {
            Err(StoreError::Interrupted)
        } else {
            Ok(())
        }
    }
}
