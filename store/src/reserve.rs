//! Reserve of space, and of names of files, that is kept back for a full disk.
//!
//! Deleting needs room before it gives some: for the log, for the manifest's new edits, for the
//! live rest of a file of which a part is dead. So a store keeps some back that nothing else may
//! use: *allocated* in a file, so that no other user of the disk gets it, and *counted as missing*
//! from the room that commits and imports may take, so that they do not take it either after it was
//! released. It is released by a deletion or a collection on a disk that is nearly full, and where
//! a store could not be opened without; it is filled again, as far as there is room, whenever a
//! store is opened for writing, after deletions and collections, and by background maintenance.
//!
//! The room that deleting needs follows what is stored: a log becomes a table before it goes, and
//! the living half of tables is written anew. So the reserve grows with the store, up to a part of
//! the disk (`sizes`). What is not yet in the file counts as missing from the room all the same.
//!
//! On a file system with a fixed number of files the last ones are as precious. They are kept back
//! as empty files.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, OFlags, StatVfs, fallocate, statvfs};

use crate::error::StoreError;
use crate::folder::layout::DATABASE;
use crate::sizes::{ReserveLen, StoredFiles};

const FILE: &str = "reserve";
const NAMES_FOLDER: &str = "spare";
/// Permissions of what is made here.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;
/// Files that `RocksDB` makes while it opens, takes a deletion and compacts: a log, a manifest and
/// the file that names it, options, its own log, and a table for each family, twice.
const NAMES: u64 = 32;
/// Names of files that commits and imports leave free: those of a log and some tables.
const NAMES_LEFT: u64 = 8;
/// The reserve is filled in steps of this length, so that most of it is there where not all fits.
const STEP_LEN: u64 = 256 << 10;
/// Bytes that filling leaves to others.
const LEFT_LEN: u64 = 128 << 10;

/// Reserve of a store in a folder.
#[derive(Clone, Debug)]
pub(crate) struct Reserve {
    dir: PathBuf,
    len: ReserveLen,
    /// Room below which it is given up to who deletes.
    scarce_len: u64,
}

impl Reserve {
    pub(crate) fn new(dir: &Path, len: ReserveLen, scarce_len: u64) -> Self {
        Self {
            dir: dir.to_owned(),
            len,
            scarce_len,
        }
    }

    /// True if `name`, in the store's folder, is a file of the reserve.
    pub(crate) fn is_file(name: &OsStr) -> bool {
        name == FILE
    }

    /// Gives up what is scarce: space, names of files, or both. For who deletes.
    pub(crate) fn give_up_if_scarce(&self) {
        if self.is_scarce() {
            let _ = fs::remove_file(self.dir.join(FILE));
        }
        if self.has_few_names() {
            self.give_up_names();
        }
    }

    /// True if there is so little room that deletions may use the reserve.
    pub(crate) fn is_scarce(&self) -> bool {
        self.free_bytes()
            .is_ok_and(|free| !self.has_room(free, self.scarce_len))
    }

    /// Gives everything up; whether there was anything.
    pub(crate) fn give_up(&self) -> bool {
        let is_file = fs::remove_file(self.dir.join(FILE)).is_ok();
        self.give_up_names() || is_file
    }

    fn give_up_names(&self) -> bool {
        let folder = self.dir.join(NAMES_FOLDER);
        let gone = (0..NAMES).filter(|nth| fs::remove_file(folder.join(nth.to_string())).is_ok());
        gone.count() > 0
    }

    /// Fills it again as far as there is room. Gives back what a store that has become smaller
    /// needs no more.
    pub(crate) fn refill_reserve(&self) {
        let Ok(space) = statvfs(&self.dir) else {
            return;
        };
        self.refill_file(free_len(&space));
        if space.f_files > 0 {
            self.refill_names(space.f_favail.saturating_sub(NAMES_LEFT));
        }
    }

    fn refill_file(&self, free: u64) {
        let (held, full) = (self.held_len(), self.len());
        let path = self.dir.join(FILE);
        let open = || without_links(OpenOptions::new().create(true).append(true)).open(&path);
        if held > full + STEP_LEN {
            // A file that cannot be shortened now is shortened another time.
            let _ = open().and_then(|file| file.set_len(full));
            return;
        }
        let room = free.saturating_sub(LEFT_LEN);
        let wanted = full.min((held + room) / STEP_LEN * STEP_LEN);
        if wanted <= held {
            return;
        }
        let file = open();
        let made = file.map(|file| fallocate(&file, FallocateFlags::empty(), 0, wanted));
        if !matches!(made, Ok(Ok(()))) && held == 0 {
            let _ = fs::remove_file(&path);
        }
    }

    /// Takes names that are missing, as many as there are for it: up to `room`.
    fn refill_names(&self, room: u64) {
        let folder = self.dir.join(NAMES_FOLDER);
        let missing: Vec<PathBuf> = (0..NAMES)
            .map(|nth| folder.join(nth.to_string()))
            .filter(|path| !path.exists())
            .take(usize::try_from(room).unwrap_or(usize::MAX))
            .collect();
        if missing.is_empty() {
            return;
        }
        let _ = DirBuilder::new().mode(FOLDER_MODE).create(&folder);
        if !fs::symlink_metadata(&folder).is_ok_and(|found| found.is_dir()) {
            return;
        }
        // Files that are missing are made another time.
        let _ = missing.iter().try_for_each(|path| {
            without_links(OpenOptions::new().create(true).append(true))
                .open(path)
                .map(drop)
        });
    }

    /// The allocated bytes of it.
    fn held_len(&self) -> u64 {
        fs::symlink_metadata(self.dir.join(FILE)).map_or(0, |metadata| {
            std::os::unix::fs::MetadataExt::blocks(&metadata) * 512
        })
    }

    /// The length that it should have now.
    fn len(&self) -> u64 {
        self.len.for_files(count_stored(&self.dir, self.len))
    }

    /// True if there are `len` of the `free` bytes that the reserve does not need.
    fn has_room(&self, free: u64, len: u64) -> bool {
        let held = self.held_len();
        let has = |reserve: u64| free.saturating_sub(reserve.saturating_sub(held)) >= len;
        // Stored bytes are counted only when they matter.
        has(self.len.most) || has(self.len())
    }

    /// Fails unless there are `len` bytes of room, and names of files.
    pub(crate) fn check_room(&self, len: u64) -> Result<(), StoreError> {
        // If the file system does not say how full it is, writing finds it out.
        let is_full = self
            .file_system_space()
            .is_ok_and(|space| !self.has_room(free_len(&space), len) || !self.has_names(&space));
        if is_full {
            return Err(StoreError::Full {
                what: format!("write to {}", self.dir.display()),
            });
        }
        Ok(())
    }

    /// True if the file system has a fixed number of names of files, and few are left.
    pub(crate) fn has_few_names(&self) -> bool {
        self.file_system_space()
            .is_ok_and(|space| has_few_names(&space))
    }

    /// True if there are names of files beside those that the reserve still needs.
    fn has_names(&self, space: &StatVfs) -> bool {
        if space.f_files == 0 || space.f_favail >= NAMES + NAMES_LEFT {
            return true;
        }
        let folder = self.dir.join(NAMES_FOLDER);
        let missing = (0..NAMES).filter(|nth| !folder.join(nth.to_string()).exists());
        space.f_favail >= missing.count() as u64 + NAMES_LEFT
    }

    /// Free space, for who may use what was given up.
    pub(crate) fn free_bytes(&self) -> Result<u64, StoreError> {
        Ok(free_len(&self.file_system_space()?))
    }

    fn file_system_space(&self) -> Result<StatVfs, StoreError> {
        statvfs(&self.dir).map_err(|errno| {
            StoreError::of_file("ask for the free space of", &self.dir, errno.into())
        })
    }
}

/// Bytes of the database's files in the store's folder `dir`, counted until they make the reserve
/// as long as it gets.
fn count_stored(dir: &Path, len: ReserveLen) -> StoredFiles {
    let mut stored = StoredFiles::default();
    // Files come and go while we look, and what cannot be seen needs no room.
    let files = fs::read_dir(dir.join(DATABASE)).into_iter().flatten();
    for file in files.flatten() {
        let taken = file.metadata().map_or(0, |metadata| {
            std::os::unix::fs::MetadataExt::blocks(&metadata) * 512
        });
        if Path::new(&file.file_name()).extension() == Some(OsStr::new("log")) {
            stored.logs += taken;
        } else {
            stored.tables += taken;
        }
        if len.is_most(stored) {
            break;
        }
    }
    stored
}

/// Options as `options`, to open a file of the store: a link that was put in its place is not
/// followed.
fn without_links(options: &mut OpenOptions) -> &mut OpenOptions {
    options
        .mode(FILE_MODE)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
}

fn free_len(space: &StatVfs) -> u64 {
    space.f_bavail.saturating_mul(space.f_frsize)
}

/// True if a file system that has a fixed number of files has few left.
fn has_few_names(space: &StatVfs) -> bool {
    space.f_files > 0 && space.f_favail < NAMES
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: ReserveLen = ReserveLen {
        least: 4 << 20,
        most: 8 << 20,
    };

    #[test]
    fn what_was_given_up_is_missing_from_the_room_until_it_is_filled() {
        let dir = tempfile::tempdir().expect("a folder");
        let reserve = Reserve::new(dir.path(), LEN, 0);
        // Others use the disk meanwhile.
        let has_all_but = |missing: u64| {
            let free = reserve.free_bytes().expect("free");
            let has = |len| reserve.has_room(reserve.free_bytes().expect("free"), len);
            has(free - missing - (2 << 20)) && !has(free - missing + (2 << 20))
        };
        reserve.refill_reserve();
        assert!(reserve.held_len() >= 4 << 20 && has_all_but(0));
        reserve.give_up_if_scarce();
        assert!(reserve.held_len() > 0, "nothing is scarce");
        Reserve::new(dir.path(), LEN, u64::MAX).give_up_if_scarce();
        assert_eq!(reserve.held_len(), 0, "a deletion needs it");
        reserve.refill_reserve();
        assert!(reserve.give_up(), "there was something");
        assert!(!reserve.give_up(), "now there is not");
        assert!(reserve.held_len() == 0 && has_all_but(4 << 20));
    }

    #[test]
    fn it_grows_and_shrinks_with_what_is_stored() {
        let dir = tempfile::tempdir().expect("a folder");
        let database = dir.path().join(DATABASE);
        fs::create_dir(&database).expect("a folder");
        let reserve = Reserve::new(dir.path(), LEN, 0);
        let write = |name: &str, len: usize| {
            fs::write(database.join(name), vec![1; len]).expect("a file");
            reserve.refill_reserve();
            reserve.held_len() >> 20
        };
        assert_eq!(write("1.sst", 1 << 20), 4);
        assert_eq!(write("2.sst", 11 << 20), 6);
        assert_eq!(write("3.log", 1 << 20), 7);
        assert_eq!(write("4.sst", 40 << 20), 8, "and no longer than that");
        fs::remove_file(database.join("4.sst")).expect("it is there");
        assert_eq!(write("1.sst", 1 << 20), 7);
        fs::remove_file(database.join("2.sst")).expect("it is there");
        assert_eq!(write("1.sst", 1 << 20), 4);
    }
}
