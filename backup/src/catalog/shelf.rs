//! A disk cache of index objects in a local folder, so that each is fetched once. They stay sealed:
//! the folder tells no more than the repository.
//!
//! Nothing depends on the folder: a missing or damaged file is fetched again, and a failed write is
//! ignored.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::objects::ObjectId;

/// A folder with one file an index object.
#[derive(Debug)]
pub(super) struct Shelf {
    folder: Option<PathBuf>,
}

impl Shelf {
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        Self { folder }
    }

    /// The bytes of an object, if they are here and whole.
    pub(super) fn take(&self, id: &ObjectId) -> Option<Vec<u8>> {
        let bytes = fs::read(self.folder.as_ref()?.join(id.to_string())).ok()?;
        (ObjectId::of(&bytes) == *id).then_some(bytes)
    }

    /// Keeps an object.
    pub(super) fn keep(&self, id: &ObjectId, bytes: &[u8]) {
        if let Some(folder) = &self.folder {
            // A full disk costs speed, nothing else.
            let _ = write(folder, id, bytes);
        }
    }

    /// Drops all objects but these.
    pub(super) fn keep_only(&self, wanted: &BTreeSet<ObjectId>) {
        let Some(entries) = self
            .folder
            .as_ref()
            .and_then(|folder| fs::read_dir(folder).ok())
        else {
            return;
        };
        for entry in entries.flatten() {
            let id = entry.file_name().to_str().and_then(ObjectId::parse);
            if id.is_some_and(|id| !wanted.contains(&id)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn write(folder: &Path, id: &ObjectId, bytes: &[u8]) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.persist(folder.join(id.to_string()))?;
    Ok(())
}
