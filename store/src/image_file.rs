//! A disk in a file that a person named: the file is opened, in whichever format, and watched for
//! changes while it is read.
//!
//! The format is the caller's to say (`vellum_formats::probe` helps). Of other files only a VMDK's
//! extents beside it are opened.

use std::path::Path;
use std::sync::Arc;

use vellum_core::source::{ImageSource, ReadAt};
use vellum_formats::ImageFacts;
use vellum_formats::input::{ContainedDisk, InputChoice, InputFormat};

use crate::baseless_image::BaselessImage;
use crate::codec::ClusterCodecs;
use crate::companions::FolderCompanions;
use crate::error::StoreError;
use crate::file_source::{FileGuard, FileSource};

/// A disk whose file is open.
pub struct ImageFile {
    name: String,
    format: InputFormat,
    facts: ImageFacts,
    disk: Option<String>,
    source: Arc<dyn ImageSource>,
    guard: FileGuard,
}

impl ImageFile {
    /// Opens the disk that `choice` means of the file at `path`, which is of `format`.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened or is not what `format` promises; when it stands on another
    /// and `choice` does not say that its parent is known; when it holds several disks and none is
    /// chosen.
    pub fn open_disk(
        path: &Path,
        format: InputFormat,
        choice: InputChoice<'_>,
    ) -> Result<Self, StoreError> {
        let name = path.display().to_string();
        let file = FileSource::open_file(path)?;
        let guard = FileGuard::new(&file, path)?;
        let companions = FolderCompanions::beside_image(path);
        let opened = format.open_disk(Arc::new(file), choice, Arc::new(ClusterCodecs), &companions);
        let opened = opened.map_err(|source| StoreError::Source {
            name: name.clone(),
            source,
        })?;
        Ok(Self {
            name,
            format,
            facts: opened.facts,
            disk: opened.name,
            source: if choice.is_over_parent {
                opened.source.into()
            } else {
                Arc::new(BaselessImage(opened.source.into()))
            },
            guard,
        })
    }

    /// The file's name, for people.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The format as which it was opened.
    #[must_use]
    pub fn format(&self) -> InputFormat {
        self.format
    }

    /// Facts from its headers.
    #[must_use]
    pub fn facts(&self) -> &ImageFacts {
        &self.facts
    }

    /// The disk's name inside its archive.
    #[must_use]
    pub fn disk_name(&self) -> Option<&str> {
        self.disk.as_deref()
    }

    /// The disk.
    #[must_use]
    pub fn source(&self) -> &Arc<dyn ImageSource> {
        &self.source
    }

    /// Fails if the file is not what it was when it was opened.
    ///
    /// # Errors
    ///
    /// [`StoreError::SourceChanged`].
    pub fn verify_unchanged(&self) -> Result<(), StoreError> {
        self.guard.check_unchanged()
    }

    pub(crate) fn into_parts(self) -> (String, InputFormat, Arc<dyn ImageSource>, FileGuard) {
        (self.name, self.format, self.source, self.guard)
    }
}

/// The disks inside the archive at `path`; none if `format` is no archive's.
///
/// # Errors
///
/// When the file is no such archive.
pub fn contained_disks(path: &Path, format: InputFormat) -> Result<Vec<ContainedDisk>, StoreError> {
    let file: Arc<dyn ReadAt> = Arc::new(FileSource::open_file(path)?);
    format
        .list_disks(&file)
        .map_err(|source| StoreError::Source {
            name: path.display().to_string(),
            source,
        })
}
