//! A file that has its name only once it is whole and on disk.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::error::StoreError;

/// Tells the unfinished files of one process apart.
static PARTIALS: AtomicU64 = AtomicU64::new(0);

/// Writes `content` to a file of the name `path`, which is new unless `overwrite` allows that one
/// is replaced. Whoever reads it sees all of it or what was there before; a failure leaves nothing.
/// What is there and no file is never replaced.
pub fn write_whole_file(path: &Path, content: &[u8], overwrite: bool) -> Result<(), StoreError> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => {
            return Err(StoreError::file(
                "write",
                path,
                io::ErrorKind::IsADirectory.into(),
            ));
        }
        Ok(found) if !found.is_file() => {
            return Err(StoreError::file(
                "replace",
                path,
                io::Error::other("it is no file"),
            ));
        }
        // Told before the work is done; publishing finds what comes meanwhile.
        Ok(_) if !overwrite => {
            return Err(StoreError::file(
                "write",
                path,
                io::ErrorKind::AlreadyExists.into(),
            ));
        }
        _ => {}
    }
    let mut partial = PartialFile::create(path)?;
    partial
        .file
        .write_all(content)
        .map_err(|source| StoreError::file("write", path, source))?;
    partial.publish(path, overwrite)
}

/// A file that is not whole yet, beside the place it is to have. Removed unless it is published.
pub struct PartialFile {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    published: bool,
}

impl PartialFile {
    /// A new file beside `target`, which nobody else has open and no link leads to.
    pub fn create(target: &Path) -> Result<Self, StoreError> {
        let name = target
            .file_name()
            .ok_or_else(|| StoreError::file("write", target, io::ErrorKind::InvalidInput.into()))?;
        // One process may write several files for one place, of which the first to end wins.
        let number = PARTIALS.fetch_add(1, Ordering::Relaxed);
        let mut partial = OsString::from(".");
        partial.push(name);
        partial.push(format!(".{}-{number}.partial", std::process::id()));
        let path = target.with_file_name(partial);
        let mut options = OpenOptions::new();
        // Never through a link that somebody planted.
        options
            .write(true)
            .create_new(true)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
        let file = options
            .open(&path)
            .map_err(|source| StoreError::file("write", target, source))?;
        Ok(Self {
            file,
            path,
            published: false,
        })
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Contents first, name last: syncs it, gives it the name `target`, and syncs that. Without
    /// `overwrite` nothing may have that name.
    pub fn publish(mut self, target: &Path, overwrite: bool) -> Result<(), StoreError> {
        self.file
            .sync_all()
            .map_err(|source| StoreError::file("write", &self.path, source))?;
        let flags = if overwrite {
            RenameFlags::empty()
        } else {
            RenameFlags::NOREPLACE
        };
        let renamed = renameat_with(CWD, &self.path, CWD, target, flags);
        renamed.map_err(|errno| StoreError::file("write", target, errno.into()))?;
        self.published = true;
        let folder = target
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|source| StoreError::file("write", folder, source))
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if !self.published {
            // A leftover has a telling name and hides nothing.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(folder: &Path) -> Vec<OsString> {
        fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name())
            .collect()
    }

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("page.html");
        write_whole_file(&path, b"one", false).expect("it is new");
        let refused = write_whole_file(&path, b"two", false).expect_err("it is there");
        assert!(refused.to_string().contains("page.html"), "{refused}");
        assert_eq!(fs::read(&path).expect("it is there"), b"one");
        write_whole_file(&path, b"two", true).expect("it may be replaced");
        assert_eq!(fs::read(&path).expect("it is there"), b"two");
        assert_eq!(entries(folder.path()), ["page.html"]);
    }

    #[test]
    fn a_link_a_folder_and_a_device_stay_what_they_are() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        fs::write(&target, "kept").expect("room");
        std::os::unix::fs::symlink(&target, &link).expect("a link");
        for path in [link.as_path(), folder.path(), Path::new("/dev/null")] {
            write_whole_file(path, b"new", true).expect_err("it is no file");
        }
        assert_eq!(fs::read(&target).expect("it is there"), b"kept");
        assert_eq!(entries(folder.path()).len(), 2);
    }
}
