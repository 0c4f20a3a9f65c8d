//! `vellum compare`: compares the bytes of an image and a file. Reads both.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use vellum_core::source::{ExtentKind, ImageSource, SourceError};
use vellum_core::tree::{PageSet, page_of, page_start};
use vellum_core::units::ChunkLen;
use vellum_formats::{self as formats, Format};
use vellum_store::codec::ClusterCodecs;
use vellum_store::{Disk, FileSource, FolderCompanions, Progress, StoreError, Watch};

use crate::failure::{Failure, Outcome};
use crate::output::Answer;
use crate::output::page::Page;
use crate::session::Session;
use crate::source_format::{self, Expected, ExpectedImage};

/// The bytes that are compared at once.
const STEP_LEN: u64 = 1 << 20;
/// The greatest number of threads: more would wait for each other's reads.
const THREADS_MAX: usize = 16;

/// Compare an image or snapshot with a file, byte by byte; exit code 1 if they differ, 2 if they
/// cannot be compared
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum compare web@monday monday.raw")]
pub(crate) struct Args {
    /// The image or snapshot
    #[arg(value_name = "IMAGE[@SNAPSHOT]")]
    node: String,
    /// The file
    file: PathBuf,
    /// raw, qcow2, vdi, vmdk, vhd or vhdx; without it what the image was imported from, else what the file's signature
    /// says
    #[arg(short, long)]
    format: Option<Format>,
}

#[derive(Serialize)]
struct Comparison {
    identical: bool,
    name: String,
    file: String,
    /// The first byte that differs; with lengths that differ, perhaps where the shorter ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    size: u64,
    file_size: u64,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    let store = session.open_to_read()?;
    let node = store.find(&args.node)?;
    let disk = store.still_disk(node)?;
    let file = args.file.display().to_string();
    let path = session.caller.path(&args.file);
    let image = ExpectedImage::of(&store.tree(), node, true);
    let expected = Expected {
        said: args.format,
        // The given format overrules the noted one, also where that cannot be read.
        image: args.format.map_or_else(|| image.map(Some), |_| Ok(None))?,
    };
    let format = source_format::of_file(&path, &file, &expected, session)?;
    let source = open(format, &path, &file).map_err(|error| {
        Failure::from(error).hinted("name a file that can be read, and its format with -f")
    })?;
    let meter = session.watch_bytes(&format!("comparing {}", disk.name()));
    let pair = Pair {
        disk: &disk,
        source: source.as_ref(),
        file: &file,
        mapped: disk.mapped_pages(),
        chunk_len: store.parameters().chunk_len,
        next: AtomicU64::new(0),
        found: AtomicU64::new(u64::MAX),
    };
    let offset = pair.first_difference(&meter)?;
    drop(meter);
    let name = disk.name().to_owned();
    let comparison = Comparison {
        identical: offset.is_none(),
        name,
        file: file.clone(),
        offset,
        size: disk.len(),
        file_size: source.len(),
    };
    session.output.confirm(&comparison)?;
    Ok(if comparison.identical {
        Outcome::Done
    } else {
        Outcome::Different
    })
}

fn open(format: Format, path: &Path, file: &str) -> Result<Box<dyn ImageSource>, StoreError> {
    let source = Arc::new(FileSource::open(path)?);
    let companions = FolderCompanions::beside(path);
    formats::open(format, source, Arc::new(ClusterCodecs), &companions).map_err(|source| {
        StoreError::Source {
            name: file.to_owned(),
            source,
        }
    })
}

/// The disk and the file that are compared, by several threads: each takes the next step of both.
struct Pair<'a> {
    disk: &'a Disk,
    source: &'a dyn ImageSource,
    file: &'a str,
    mapped: PageSet,
    chunk_len: ChunkLen,
    /// The place where the next step begins.
    next: AtomicU64,
    /// The first difference so far.
    found: AtomicU64,
}

impl Pair<'_> {
    /// The first byte that differs, or that only one has.
    fn first_difference(&self, watch: &dyn Watch) -> Result<Option<u64>, StoreError> {
        let end = self.disk.len().min(self.source.len());
        let threads = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(THREADS_MAX);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|_| scope.spawn(|| self.work(end, watch)))
                .collect();
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().expect("a worker ends with a result"))
        })?;
        let found = self.found.load(Ordering::Relaxed);
        let cut = (self.disk.len() != self.source.len()).then_some(end);
        Ok(if found == u64::MAX { cut } else { Some(found) })
    }

    /// Takes steps until there is none left before the end or the first difference. Steps are taken
    /// in order, so all before a difference are taken by somebody who finishes them.
    fn work(&self, end: u64, watch: &dyn Watch) -> Result<(), StoreError> {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        loop {
            let start = self.next.fetch_add(STEP_LEN, Ordering::Relaxed);
            if start >= end.min(self.found.load(Ordering::Relaxed)) {
                return Ok(());
            }
            if watch.is_cancelled() {
                return Err(StoreError::Interrupted);
            }
            watch.progress(Progress {
                done: start,
                total: Some(end),
            });
            let step_end = end.min(start + STEP_LEN);
            let zeros_end = self.zeros_end(start)?;
            if zeros_end >= step_end {
                self.next
                    .fetch_max(zeros_end - zeros_end % STEP_LEN, Ordering::Relaxed);
                continue;
            }
            ours.resize((step_end - start) as usize, 0);
            theirs.resize(ours.len(), 0);
            self.disk.read_at(&mut ours, start)?;
            self.source
                .read_at(&mut theirs, start)
                .map_err(|error| self.unreadable(error))?;
            if let Some(nth) = first_mismatch(&ours, &theirs) {
                self.found.fetch_min(start + nth as u64, Ordering::Relaxed);
            }
        }
    }

    /// The end of the range from `start` on in which both are known to be zero without reading: a
    /// sparse disk is mostly that.
    fn zeros_end(&self, start: u64) -> Result<u64, StoreError> {
        let extent = self
            .source
            .extent_at(start)
            .map_err(|error| self.unreadable(error))?;
        if extent.kind == ExtentKind::Data {
            return Ok(start);
        }
        let (page, _) = page_of(self.chunk_len.index_at(start));
        let mapped = self
            .mapped
            .next_from(page)
            .map(|page| self.chunk_len.offset_of(page_start(page)));
        Ok(mapped.unwrap_or(u64::MAX).min(extent.end()))
    }

    fn unreadable(&self, source: SourceError) -> StoreError {
        StoreError::Source {
            name: self.file.to_owned(),
            source,
        }
    }
}

/// Compares as memory does, and looks for the byte only once there is one.
fn first_mismatch(ours: &[u8], theirs: &[u8]) -> Option<usize> {
    if ours == theirs {
        None
    } else {
        ours.iter()
            .zip(theirs)
            .position(|(our, their)| our != their)
    }
}

impl Answer for Comparison {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        let Some(offset) = self.offset else {
            return page.line(format!("{} and {} are identical", self.name, self.file));
        };
        if self.size != self.file_size {
            page.line(format!(
                "{} has {} bytes, {} has {}",
                self.name, self.size, self.file, self.file_size
            ))?;
        }
        page.line(format!(
            "{} and {} differ at byte {offset}",
            self.name, self.file
        ))
    }
}
