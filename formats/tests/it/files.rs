//! Files on disk for these tests: read with their holes, found beside each other.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vellum_core::source::{ReadAt, SourceError};
use vellum_formats::Companions;

/// A file and its length.
pub(crate) struct OpenFile(pub(crate) File, pub(crate) u64);

impl ReadAt for OpenFile {
    fn len(&self) -> u64 {
        self.1
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        use rustix::fs::{SeekFrom, seek};
        match seek(&self.0, SeekFrom::Data(offset)) {
            Ok(start) => Ok(Some((start, seek(&self.0, SeekFrom::Hole(start))?))),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Plain names in one folder.
pub(crate) struct Beside(pub(crate) PathBuf);

impl Companions for Beside {
    fn open_companion(
        &self,
        format: &'static str,
        name: &str,
    ) -> Result<Arc<dyn ReadAt>, SourceError> {
        let is_plain = !name.contains('/')
            && Path::new(name)
                .extension()
                .is_some_and(|ending| ending == "vmdk");
        let file = is_plain.then(|| open(&self.0.join(name)).ok()).flatten();
        let file = file.ok_or_else(|| SourceError::Refused {
            format,
            reason: format!("{name:?} is not beside it"),
        })?;
        Ok(Arc::new(file))
    }
}

/// Opens a file for reading.
pub(crate) fn open(path: &Path) -> io::Result<OpenFile> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    Ok(OpenFile(file, len))
}
