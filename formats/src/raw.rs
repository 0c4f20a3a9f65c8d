//! A raw image: the file's bytes are the disk's bytes.
//!
//! A hole of the file is [`ExtentKind::Zero`], not absent: a raw file is a whole disk, and its
//! holes read as zeros whatever a parent holds. It knows no structure inside the disk, a qcow2
//! header in the first sector included.

pub(crate) mod writer;

use std::sync::Arc;

use super::read_exact;
use vellum_core::source::{Extent, ExtentKind, ImageSource, ReadAt, SourceError};

/// A file read as a raw disk.
pub(super) struct RawImage {
    file: Arc<dyn ReadAt>,
}

impl RawImage {
    /// Every file is a valid raw disk.
    pub(super) fn new(file: Arc<dyn ReadAt>) -> Self {
        Self { file }
    }
}

impl ImageSource for RawImage {
    fn len(&self) -> u64 {
        self.file.len()
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, SourceError> {
        let len = self.len();
        assert!(offset < len, "byte {offset} lies outside an image of {len}");
        let data = self
            .file
            .next_data(offset)
            .map_err(|source| SourceError::Io { offset, source })?;
        Ok(extent_from_data(offset, len, data))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), SourceError> {
        read_exact(&*self.file, buffer, offset)
    }
}

/// The extent at `offset` when the next allocated range is `data`. A range that does not reach past
/// `offset` is a lie of the system: then everything is data, since reading is always right and only
/// slower.
fn extent_from_data(offset: u64, len: u64, data: Option<(u64, u64)>) -> Extent {
    let (end, kind) = match data {
        None => (len, ExtentKind::Zero),
        Some((start, _)) if start > offset => (start.min(len), ExtentKind::Zero),
        Some((_, end)) if end > offset => (end.min(len), ExtentKind::Data),
        Some(_) => (len, ExtentKind::Data),
    };
    Extent {
        start: offset,
        len: end - offset,
        kind,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ExtentKind::{Data, Zero};

    #[test]
    fn every_answer_about_holes_gives_an_extent_that_makes_progress() {
        for (data, len, kind) in [
            (None, 90, Zero),
            (Some((10, 20)), 10, Data),
            (Some((0, 20)), 10, Data),
            (Some((0, 11)), 1, Data),
            (Some((11, 20)), 1, Zero),
            (Some((99, 100)), 89, Zero),
            // A file that grew since it was opened: the image keeps its length.
            (Some((100, 200)), 90, Zero),
            (Some((0, 200)), 90, Data),
            // Answers that no honest system gives.
            (Some((0, 10)), 90, Data),
            (Some((5, 3)), 90, Data),
        ] {
            assert_eq!(
                extent_from_data(10, 100, data),
                Extent {
                    start: 10,
                    len,
                    kind
                },
                "{data:?}"
            );
        }
    }
}
