//! An import without what its guest does not use: what may be left out, and the input without it.

use std::io;
use std::sync::Arc;

use vellum_core::guest::{FreeSpace, GuestError, SourceDisk, TrimmedSource, survey_disk};
use vellum_core::source::SourceError;

use crate::error::StoreError;
use crate::image_input::ImageInput;
use crate::watch::Watch;

impl ImageInput {
    /// Space that the file systems on the disk do not use; `None` for a stream, which goes by once.
    /// Reads their metadata.
    ///
    /// # Errors
    ///
    /// [`SourceError::Refused`] when that is in a parent which the input does not have.
    pub fn free_space(&self, watch: &dyn Watch) -> Result<Option<FreeSpace>, StoreError> {
        let Some(source) = self.random_access() else {
            return Ok(None);
        };
        let is_cancelled = || watch.is_cancelled();
        let disk = SourceDisk::new(source, &is_cancelled);
        let found = survey_disk(&disk);
        if watch.is_cancelled() {
            return Err(StoreError::Interrupted);
        }
        found.map(Some).map_err(|error| {
            let source = match error {
                GuestError::Io(error) => source_error(error),
                error @ GuestError::Malformed { .. } => source_error(io::Error::other(error)),
            };
            StoreError::Source {
                name: self.name().to_owned(),
                source,
            }
        })
    }

    /// The input with zeros in place of `space`, which was found in it and has nothing unclean; and
    /// how many of those bytes were data. A stream stays as it is.
    ///
    /// # Errors
    ///
    /// When the source's tables cannot be read.
    pub fn without_free_space(self, space: &FreeSpace) -> Result<(Self, u64), StoreError> {
        assert!(
            space.unclean_parts().next().is_none(),
            "what is mounted is refused before"
        );
        let (ranges, name) = (space.free_ranges().to_vec(), self.name().to_owned());
        let mut data = Ok(0);
        let input = self.map_image(|source| {
            let trimmed = TrimmedSource::new(source, ranges);
            data = trimmed.dropped_data();
            Arc::new(trimmed)
        });
        match data {
            Ok(data) => Ok((input, data)),
            Err(source) => Err(StoreError::Source { name, source }),
        }
    }
}

/// The error of a source that came through one of the system's.
fn source_error(error: io::Error) -> SourceError {
    error
        .downcast::<SourceError>()
        .unwrap_or_else(|source| SourceError::Io { offset: 0, source })
}
