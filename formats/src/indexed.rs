//! An image whose index was made by walking its file once: archives and streams, whose pieces say
//! themselves where they belong.

use std::sync::Arc;

use vellum_core::source::{ReadAt, SourceError};

use crate::mapped::{BlockMap, MappedPiece, PieceLocation};
use crate::{lies_inside, malformed, refused};

/// 48 MiB of index. An archive in good order takes an entry for some megabytes of disk.
const ENTRIES_MAX: usize = 2 << 20;
/// A place that stands for zeros.
const ZEROS: u64 = u64::MAX;

/// A range of a disk and where its bytes are.
#[derive(Clone, Copy)]
struct IndexedExtent {
    start: u64,
    len: u64,
    place: u64,
}

/// An index under construction.
pub(crate) struct ExtentIndex {
    format: &'static str,
    image_len: u64,
    entries: Vec<IndexedExtent>,
}

/// A disk of indexed extents. What none of them covers is absent.
pub(crate) struct IndexedMap {
    file: Arc<dyn ReadAt>,
    image_len: u64,
    /// By start, without overlaps.
    entries: Vec<IndexedExtent>,
}

impl ExtentIndex {
    pub(crate) fn new(format: &'static str, image_len: u64) -> Self {
        Self {
            format,
            image_len,
            entries: Vec::new(),
        }
    }

    /// Adds `len` bytes of the disk from `start` on, at `place` of the file; `None`: zeros.
    /// What reaches over the disk's end is cut; what begins behind it is an error.
    pub(crate) fn push_extent(
        &mut self,
        start: u64,
        len: u64,
        place: Option<u64>,
    ) -> Result<(), SourceError> {
        if start >= self.image_len {
            return Err(malformed(
                self.format,
                format!("a piece for byte {start} of a disk of {}", self.image_len),
            ));
        }
        let entry = IndexedExtent {
            start,
            len: len.min(self.image_len - start),
            place: place.unwrap_or(ZEROS),
        };
        if let Some(last) = self.entries.last_mut()
            && last.is_continued_by(&entry)
        {
            last.len += entry.len;
            return Ok(());
        }
        if self.entries.len() >= ENTRIES_MAX {
            return Err(refused(
                self.format,
                format!("it is in more than {ENTRIES_MAX} pieces"),
            ));
        }
        if entry.len > 0 {
            self.entries.push(entry);
        }
        Ok(())
    }

    /// The disk over `file`, which holds every stored piece. With `is_whole` none may be missing.
    pub(crate) fn into_map(
        mut self,
        file: Arc<dyn ReadAt>,
        is_whole: bool,
    ) -> Result<IndexedMap, SourceError> {
        self.entries.sort_by_key(|entry| entry.start);
        let mut end = 0;
        for entry in &self.entries {
            if entry.start < end {
                return Err(malformed(
                    self.format,
                    format!("byte {} of the disk is there twice", entry.start),
                ));
            }
            if is_whole && entry.start > end {
                return Err(self.missing_error(end));
            }
            let is_inside = entry.place == ZEROS || lies_inside(entry.place, entry.len, file.len());
            if !is_inside {
                return Err(malformed(
                    self.format,
                    format!("the piece at byte {} leaves the file", entry.place),
                ));
            }
            end = entry.end_offset();
        }
        if is_whole && end < self.image_len {
            return Err(self.missing_error(end));
        }
        Ok(IndexedMap {
            file,
            image_len: self.image_len,
            entries: self.entries,
        })
    }

    fn missing_error(&self, at: u64) -> SourceError {
        malformed(
            self.format,
            format!("byte {at} of the disk is missing: was the file cut off?"),
        )
    }
}

impl IndexedExtent {
    fn end_offset(&self) -> u64 {
        self.start + self.len
    }

    /// True if both are one extent.
    fn is_continued_by(&self, next: &Self) -> bool {
        let is_next = if self.place == ZEROS {
            next.place == ZEROS
        } else {
            next.place != ZEROS && self.place.checked_add(self.len) == Some(next.place)
        };
        self.end_offset() == next.start && is_next
    }
}

impl BlockMap for IndexedMap {
    fn image_len(&self) -> u64 {
        self.image_len
    }

    fn piece_at(&self, offset: u64) -> Result<MappedPiece, SourceError> {
        let index = self
            .entries
            .partition_point(|entry| entry.end_offset() <= offset);
        let piece = match self.entries.get(index) {
            None => MappedPiece {
                len: self.image_len - offset,
                location: PieceLocation::Absent,
            },
            Some(entry) if entry.start > offset => MappedPiece {
                len: entry.start - offset,
                location: PieceLocation::Absent,
            },
            Some(entry) => MappedPiece {
                len: entry.end_offset() - offset,
                location: if entry.place == ZEROS {
                    PieceLocation::Zero
                } else {
                    PieceLocation::Stored {
                        file: 0,
                        offset: entry.place + (offset - entry.start),
                    }
                },
            },
        };
        Ok(piece)
    }

    fn source_file(&self, _: usize) -> &dyn ReadAt {
        &*self.file
    }
}
