//! A file, or a block device, that image formats read through, and a guard that tells whether it
//! was written meanwhile.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, seek};
use vellum_core::source::ReadAt;

use crate::error::StoreError;

/// A file that formats read through.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    len: u64,
}

/// State of a file when it was opened, to be compared with the one at the end.
pub(crate) struct FileGuard {
    file: File,
    path: PathBuf,
    opened: Metadata,
}

impl FileSource {
    /// Opens a regular file or block device.
    pub fn open_file(path: &Path) -> Result<Self, StoreError> {
        File::open(path)
            .and_then(Self::of_file)
            .map_err(|source| StoreError::of_file("open", path, source))
    }

    /// The regular file or block device that `file` is.
    pub(crate) fn of_file(file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let len = if kind.is_block_device() {
            seek(&file, SeekFrom::End(0))?
        } else {
            metadata.len()
        };
        Ok(Self { file, len })
    }
}

impl ReadAt for FileSource {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        if offset >= self.len {
            return Ok(None);
        }
        let start = match seek(&self.file, SeekFrom::Data(offset)) {
            Ok(start) => start,
            // Only a hole is left.
            Err(rustix::io::Errno::NXIO) => return Ok(None),
            // A device, or a file system that knows no holes.
            Err(_) => return Ok(Some((offset, self.len))),
        };
        if start >= self.len {
            return Ok(None);
        }
        let end = seek(&self.file, SeekFrom::Hole(start)).map_or(self.len, |end| end.min(self.len));
        Ok(Some((start, end)))
    }
}

impl FileGuard {
    pub(crate) fn new(source: &FileSource, path: &Path) -> Result<Self, StoreError> {
        let fail = |error| StoreError::of_file("read", path, error);
        let file = source.file.try_clone().map_err(fail)?;
        let opened = file.metadata().map_err(fail)?;
        Ok(Self {
            file,
            path: path.to_owned(),
            opened,
        })
    }

    /// The file, whatever its name: its device and its number there.
    pub(crate) fn file_key(&self) -> (u64, u64) {
        (self.opened.dev(), self.opened.ino())
    }

    /// Time of the last write to it, in milliseconds since 1970.
    pub(crate) fn changed_ms(&self) -> u64 {
        let seconds = u64::try_from(self.opened.mtime()).unwrap_or(0);
        seconds.saturating_mul(1000)
    }

    pub(crate) fn check_unchanged(&self) -> Result<(), StoreError> {
        let now = self
            .file
            .metadata()
            .map_err(|source| StoreError::of_file("read", &self.path, source))?;
        let changed = |what: &str| {
            Err(StoreError::SourceChanged {
                name: self.path.display().to_string(),
                what: what.to_owned(),
            })
        };
        // A device's times are those of its node; only files can be held to theirs.
        if !now.is_file() {
            return Ok(());
        }
        if now.len() != self.opened.len() {
            return changed(&format!(
                "it had {} bytes and has {}",
                self.opened.len(),
                now.len()
            ));
        }
        let times = |metadata: &Metadata| (metadata.mtime(), metadata.mtime_nsec());
        if times(&now) == times(&self.opened) {
            Ok(())
        } else {
            changed("something wrote to it")
        }
    }
}
