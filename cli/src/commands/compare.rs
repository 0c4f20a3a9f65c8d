//! `vellum compare`: whether an image and a file hold the same bytes. Reads both.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use vellum_core::formats::{self, Format};
use vellum_core::source::{Extent, ExtentKind, ImageSource, SourceError};
use vellum_core::tree::{PageSet, page_of, page_start};
use vellum_core::units::{ChunkLen, PageIndex};
use vellum_store::codec::ClusterCodecs;
use vellum_store::{Disk, FileSource, Progress, StoreError, Watch};

use crate::failure::{Failure, Outcome};
use crate::output::Answer;
use crate::output::page::Page;
use crate::session::Session;

/// Bytes that are held against each other at once.
const STEP_LEN: u64 = 1 << 20;

/// Compare an image or snapshot with a file, byte by byte; exit code 1 if they differ
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum compare web@monday monday.raw")]
pub(crate) struct Args {
    /// The image or snapshot
    #[arg(value_name = "IMAGE[@SNAPSHOT]")]
    node: String,
    /// The file
    file: PathBuf,
    /// The file's format: raw or qcow2
    #[arg(short, long, default_value = "raw")]
    format: Format,
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
    let disk = store.disk(store.find(&args.node)?)?;
    let file = args.file.display().to_string();
    let fail = |source: SourceError| StoreError::Source { name: file.clone(), source };
    let opened =
        FileSource::open(&args.file).and_then(|source| formats::open(args.format, Arc::new(source), Arc::new(ClusterCodecs)).map_err(fail));
    let source = opened.map_err(|error| Failure::from(error).hinted("name a file that can be read, and its format with -f"))?;
    let meter = session.watch_bytes(&format!("comparing {}", disk.name()));
    let pair = Pair { disk: &disk, source: source.as_ref(), mapped: disk.mapped_pages(), chunk_len: store.parameters().chunk_len };
    let offset = pair.first_difference(&meter, &fail)?;
    drop(meter);
    let name = disk.name().to_owned();
    let comparison =
        Comparison { identical: offset.is_none(), name, file: file.clone(), offset, size: disk.len(), file_size: source.len() };
    session.output.confirm(&comparison)?;
    Ok(if comparison.identical { Outcome::Done } else { Outcome::Different })
}

/// What is held against each other.
struct Pair<'a> {
    disk: &'a Disk,
    source: &'a dyn ImageSource,
    mapped: PageSet,
    chunk_len: ChunkLen,
}

impl Pair<'_> {
    /// The first byte that differs, or that only one has.
    fn first_difference(&self, watch: &dyn Watch, fail: &dyn Fn(SourceError) -> StoreError) -> Result<Option<u64>, StoreError> {
        let end = self.disk.len().min(self.source.len());
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let mut at = 0;
        while at < end {
            if watch.is_cancelled() {
                return Err(StoreError::Interrupted);
            }
            watch.progress(Progress { done: at, total: Some(end) });
            let extent = self.source.extent_at(at).map_err(fail)?;
            at = at.max(self.zeros_until(at, extent).min(end));
            let len = STEP_LEN.min(end - at) as usize;
            ours.resize(len, 0);
            theirs.resize(len, 0);
            self.disk.read_at(&mut ours, at)?;
            self.source.read_at(&mut theirs, at).map_err(fail)?;
            if let Some(nth) = first_mismatch(&ours, &theirs) {
                return Ok(Some(at + nth as u64));
            }
            at += len as u64;
        }
        Ok((self.disk.len() != self.source.len()).then_some(end))
    }

    /// How far both are known to be zero from `at` on, without reading: a sparse disk is mostly that.
    fn zeros_until(&self, at: u64, extent: Extent) -> u64 {
        if extent.kind == ExtentKind::Data {
            return at;
        }
        let (page, _) = page_of(self.chunk_len.index_at(at));
        let mapped = self.mapped.next_from(page).map(|PageIndex(page)| self.chunk_len.offset_of(page_start(PageIndex(page))));
        mapped.unwrap_or(u64::MAX).min(extent.end())
    }
}

/// Compares as memory does, and looks for the byte only once there is one.
fn first_mismatch(ours: &[u8], theirs: &[u8]) -> Option<usize> {
    if ours == theirs { None } else { ours.iter().zip(theirs).position(|(our, their)| our != their) }
}

impl Answer for Comparison {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        let Some(offset) = self.offset else {
            return page.line(format!("{} and {} are identical", self.name, self.file));
        };
        if self.size != self.file_size {
            page.line(format!("{} has {} bytes, {} has {}", self.name, self.size, self.file, self.file_size))?;
        }
        page.line(format!("{} and {} differ at byte {offset}", self.name, self.file))
    }
}
