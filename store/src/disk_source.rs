//! A stored disk as the content of an image, to be measured, imported or written; and the identity
//! of content, which is the same for the same bytes on every machine.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::prelude::{IntoParallelRefIterator, ParallelIterator};
use vellum_core::hash::{ChunkHash, is_zero};
use vellum_core::page::PageEntry;
use vellum_core::source::{Extent, ExtentKind, ImageSource, SourceError};
use vellum_core::tree::{NodeRef, PageSet, page_of, page_start};
use vellum_core::units::PageIndex;

use crate::disk::{Disk, Hole};
use crate::error::StoreError;
use crate::export::Unreadable;
use crate::image_input::ImageInput;
use crate::store::Store;
use crate::watch::{Progress, Watch};

/// Bytes that are hashed as a whole.
const PIECE_LEN: u64 = 1 << 20;
/// Pieces that are read at once: a few for every core.
const PIECES_AT_ONCE: usize = 32;

impl Store {
    /// The content of an image or snapshot, as something that can be measured or imported.
    pub fn open_input(&self, node: NodeRef) -> Result<ImageInput, StoreError> {
        let source = DiskSource::new(self.still_disk(node)?, Unreadable::Fail);
        let name = source.disk.name().to_owned();
        Ok(ImageInput::of_source(Box::new(source), name))
    }
}

/// A stored disk as an image.
pub struct DiskSource {
    disk: Disk,
    mapped: PageSet,
    unreadable: Unreadable,
    holes: Mutex<Vec<Hole>>,
}

impl DiskSource {
    /// Of `disk`; `unreadable` decides the reaction to damage.
    #[must_use]
    pub fn new(disk: Disk, unreadable: Unreadable) -> Self {
        Self {
            mapped: disk.mapped_pages(),
            disk,
            unreadable,
            holes: Mutex::default(),
        }
    }

    /// The ranges that could not be read so far, in the order of the disk.
    #[must_use]
    pub fn unreadable_holes(&self) -> Vec<Hole> {
        let mut holes = self.lock_holes().clone();
        holes.sort_by_key(|hole| hole.range.start);
        // A range that was read twice was noted twice.
        let mut end = 0;
        holes.retain_mut(|hole| {
            hole.range.start = hole.range.start.max(end);
            end = end.max(hole.range.end);
            !hole.range.is_empty()
        });
        Hole::join_adjacent(holes)
    }

    fn lock_holes(&self) -> MutexGuard<'_, Vec<Hole>> {
        self.holes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads as far as can be read, zeros in place of the rest.
    fn read_readable(&self, buffer: &mut [u8], offset: u64) -> Result<(), StoreError> {
        let range = offset..offset + buffer.len() as u64;
        let page = |index| {
            let (page, holes) = self.disk.readable_page(index)?;
            let inside = holes.into_iter().filter_map(|hole| hole.clip_to(&range));
            self.lock_holes().extend(inside);
            Ok(page)
        };
        let holes = self.disk.read_readable(&page, buffer, offset)?;
        self.lock_holes().extend(holes);
        Ok(())
    }

    /// The disk.
    #[must_use]
    pub fn disk(&self) -> &Disk {
        &self.disk
    }
}

impl ImageSource for DiskSource {
    fn len(&self) -> u64 {
        self.disk.len()
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, SourceError> {
        let chunk_len = self.disk.chunk_len();
        let begin_of = |page: PageIndex| chunk_len.offset_of(page_start(page));
        let (page, _) = page_of(chunk_len.index_at(offset));
        let next = self.mapped.next_from(page);
        let (end, kind) = match next {
            Some(next) if next == page => (begin_of(PageIndex(page.0 + 1)), ExtentKind::Data),
            Some(next) => (begin_of(next), ExtentKind::Zero),
            None => (u64::MAX, ExtentKind::Zero),
        };
        Ok(Extent {
            start: offset,
            len: end.min(self.len()) - offset,
            kind,
        })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), SourceError> {
        let read = match self.unreadable {
            Unreadable::Fail => self.disk.read_at(buffer, offset),
            Unreadable::Skip => self.read_readable(buffer, offset),
        };
        read.map_err(|error| SourceError::Io {
            offset,
            source: io::Error::other(error),
        })
    }
}

impl Disk {
    /// The identity of the content, from the names of its chunks alone: the same for the same bytes
    /// in every store with chunks of this length. Cost: maps and headers; no data is read.
    ///
    /// # Errors
    ///
    /// When maps or headers are damaged.
    pub fn content_identity(&self) -> Result<[u8; 32], StoreError> {
        let mut rolling = RollingIdentity::new(self.len());
        for index in self.mapped_pages().iter() {
            let mut names = Vec::new();
            for run in self.resolve_page(index)?.runs() {
                let PageEntry::Chunk(first) = run.slot else {
                    continue;
                };
                names.extend_from_slice(&run.start.to_le_bytes());
                for name in self.chunk_names(first, run.len.into())? {
                    names.extend_from_slice(&name.0);
                }
            }
            if !names.is_empty() {
                rolling.add_chunk(index.0, &ChunkHash::of_chunk(&names));
            }
        }
        Ok(rolling.finish_hash())
    }
}

/// The identity of the content of `source`, which errors call `name`: the same for the same bytes,
/// in whichever format. Cost: all that is not known to be zero is read.
///
/// # Errors
///
/// When it cannot be read, or `watch` calls it off.
pub fn content_identity(
    source: &dyn ImageSource,
    name: &str,
    watch: &dyn Watch,
) -> Result<[u8; 32], StoreError> {
    let mut rolling = RollingIdentity::new(source.len());
    let (mut at, mut pieces) = (0, Vec::new());
    while at < source.len() || !pieces.is_empty() {
        if at < source.len() && pieces.len() < PIECES_AT_ONCE {
            let extent = source
                .extent_at(at)
                .map_err(|error| StoreError::of_source(name, error))?;
            let piece_end = (at + PIECE_LEN).min(source.len());
            if extent.kind != ExtentKind::Data && extent.end_offset() >= piece_end {
                at = piece_end.max(extent.end_offset() / PIECE_LEN * PIECE_LEN);
            } else {
                pieces.push(at..piece_end);
                at = piece_end;
            }
            continue;
        }
        let hashed: Vec<_> = pieces
            .par_iter()
            .map(|piece| {
                let mut bytes = vec![0; (piece.end - piece.start) as usize];
                source.read_at(&mut bytes, piece.start)?;
                Ok((!is_zero(&bytes)).then(|| ChunkHash::of_chunk(&bytes)))
            })
            .collect::<Result<_, _>>()
            .map_err(|error| StoreError::of_source(name, error))?;
        for (piece, hash) in pieces.drain(..).zip(hashed) {
            if let Some(hash) = hash {
                rolling.add_chunk(piece.start / PIECE_LEN, &hash);
            }
        }
        watch.report_progress(Progress {
            done: at,
            total: Some(source.len()),
        });
        if watch.is_cancelled() {
            return Err(StoreError::Interrupted);
        }
    }
    Ok(rolling.finish_hash())
}

/// A hash over places and the hashes of what is there.
struct RollingIdentity([u8; 32]);

impl RollingIdentity {
    fn new(len: u64) -> Self {
        Self(ChunkHash::of_chunk(&len.to_le_bytes()).0)
    }

    fn add_chunk(&mut self, place: u64, hash: &ChunkHash) {
        let words = [&self.0[..], &place.to_le_bytes(), &hash.0].concat();
        self.0 = ChunkHash::of_chunk(&words).0;
    }

    fn finish_hash(self) -> [u8; 32] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vellum_formats::input::{InputChoice, InputFormat};
    use vellum_formats::{Format, NoCompanions};

    use super::*;
    use crate::codec::ClusterCodecs;
    use crate::watch::Unwatched;

    fn identity(bytes: &[u8]) -> [u8; 32] {
        let raw = InputFormat::Image(Format::Raw);
        let file = Arc::new(bytes.to_vec());
        let opened = raw.open_disk(
            file,
            InputChoice::default(),
            Arc::new(ClusterCodecs),
            &NoCompanions,
        );
        let source = opened.expect("every file is a raw disk").source;
        content_identity(&*source, "disk", &Unwatched).expect("memory reads")
    }

    #[test]
    fn content_has_one_identity_and_no_other_has_it() {
        let mut bytes = vec![0; 3 << 20];
        bytes[5 << 18] = 1;
        let first = identity(&bytes);
        assert_eq!(first, identity(&bytes));
        let longer = [&bytes[..], &[0]].concat();
        assert_ne!(first, identity(&longer), "another length");
        bytes.swap(5 << 18, 9 << 18);
        assert_ne!(first, identity(&bytes), "another place");
        bytes[9 << 18] = 2;
        assert_ne!(first, identity(&bytes), "another byte");
    }
}
