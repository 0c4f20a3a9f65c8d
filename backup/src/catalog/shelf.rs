//! A disk cache of index objects, and of parts of them, in a local folder, so that each is fetched
//! once. They stay sealed: the folder tells no more than the repository.
//!
//! Nothing depends on the folder: a missing or damaged file is fetched again, and a failed write is
//! ignored.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::objects::ObjectId;

/// A folder with one file an index object, `ID`, or part of one, `ID-OFFSET`.
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
        self.write(&id.to_string(), bytes);
    }

    /// Some bytes of an object, if they or the whole are here. The caller sees whether they are
    /// sound.
    pub(super) fn take_part(&self, id: &ObjectId, range: Range<u64>) -> Option<Vec<u8>> {
        let folder = self.folder.as_ref()?;
        if let Ok(bytes) = fs::read(folder.join(part_name(id, range.start))) {
            return Some(bytes);
        }
        let file = fs::File::open(folder.join(id.to_string())).ok()?;
        let mut bytes = vec![0; usize::try_from(range.end - range.start).ok()?];
        file.read_exact_at(&mut bytes, range.start).ok()?;
        Some(bytes)
    }

    /// Keeps some bytes of an object.
    pub(super) fn keep_part(&self, id: &ObjectId, offset: u64, bytes: &[u8]) {
        self.write(&part_name(id, offset), bytes);
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        if let Some(folder) = &self.folder {
            // A full disk costs speed, nothing else.
            let _ = write(folder, name, bytes);
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
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.split('-').next());
            let id = id.and_then(ObjectId::parse);
            if id.is_some_and(|id| !wanted.contains(&id)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn part_name(id: &ObjectId, offset: u64) -> String {
    format!("{id}-{offset}")
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.persist(folder.join(name))?;
    Ok(())
}
