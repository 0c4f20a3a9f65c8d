//! Atomic creation of folders: a folder has its name only once all in it is whole and on disk.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::destination::folder_of;
use crate::error::StoreError;

/// Tells the unfinished folders of one process apart.
static FOLDERS: AtomicU64 = AtomicU64::new(0);

/// A folder that is being filled. It goes with all in it unless it is published.
pub struct NewFolder {
    path: PathBuf,
    target: PathBuf,
    is_published: bool,
}

impl NewFolder {
    /// A folder that is to be `target`, which is empty or not there: its owner's alone.
    pub fn create_for(target: &Path) -> Result<Self, StoreError> {
        let fail = |source| StoreError::of_file("write", target, source);
        match fs::read_dir(target) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Err(StoreError::NotEmpty {
                        dir: target.to_owned(),
                    });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(fail(error)),
        }
        let name = target
            .file_name()
            .ok_or_else(|| fail(io::Error::other("it has no name to give to a new folder")))?;
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let mut partial = OsString::from(".");
        partial.push(name);
        partial.push(format!(".{}-{number}.partial", std::process::id()));
        let path = folder_of(target).join(partial);
        DirBuilder::new().mode(0o700).create(&path).map_err(fail)?;
        Ok(Self {
            path,
            target: target.to_owned(),
            is_published: false,
        })
    }

    /// Its path until it is published.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name, and syncs that. The files in it are synced already.
    pub fn publish_folder(mut self) -> Result<(), StoreError> {
        let sync = |folder: &Path| {
            File::open(folder)
                .and_then(|folder| folder.sync_all())
                .map_err(|source| StoreError::of_file("write", folder, source))
        };
        sync(&self.path)?;
        // An empty folder of that name is replaced.
        fs::rename(&self.path, &self.target)
            .map_err(|source| StoreError::of_file("write", &self.target, source))?;
        self.is_published = true;
        sync(folder_of(&self.target))
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if !self.is_published {
            // A leftover has a telling name and hides nothing.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let target = dir.path().join("disks");
        let names = || fs::read_dir(dir.path()).expect("a folder").count();
        let unfinished = NewFolder::create_for(&target).expect("room");
        fs::write(unfinished.path().join("a"), "x").expect("room");
        drop(unfinished);
        assert_eq!(names(), 0);
        fs::create_dir(&target).expect("room");
        let finished = NewFolder::create_for(&target).expect("it is empty");
        fs::write(finished.path().join("a"), "x").expect("room");
        finished.publish_folder().expect("it is empty still");
        assert_eq!(fs::read_to_string(target.join("a")).expect("there"), "x");
        assert_eq!(names(), 1);
        assert!(matches!(
            NewFolder::create_for(&target),
            Err(StoreError::NotEmpty { .. })
        ));
        assert!(
            NewFolder::create_for(&target.join("a")).is_err(),
            "it is a file"
        );
        assert_eq!(names(), 1);
    }
}
