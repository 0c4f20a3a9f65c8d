//! Atomic creation of files: a file has its name only once it is whole and on disk.
//!
//! Until then it is hidden beside its place, locked by the process that writes it. What a killed
//! process left there goes when the same place is written again: its lock is free, and on this
//! machine no process has its number. A process takes the lock right after it has made the file, so
//! that only one on another machine, in that moment, could be mistaken for dead.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;
use rustix::process::{Pid, geteuid, test_kill_process};

use crate::destination::{
    Destination, FileOwnership, FilePlace, OPEN_ALREADY, folder_of, open_stream,
};
use crate::error::StoreError;

/// The permissions of what only its owner may use, and of what the umask alone limits.
const PRIVATE: u32 = 0o600;
const USUAL: u32 = 0o666;

/// Tells the unfinished files of one process apart.
static PARTIALS: AtomicU64 = AtomicU64::new(0);

/// Permissions of a new file. One that replaces another is as that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewFileMode {
    /// Only its owner: it holds what was stored.
    Private,
    /// All users that the person's umask lets: it tells of what is stored.
    Usual,
}

/// The longest name that a file can have.
const FILE_NAME_LEN_MAX: usize = 255;

/// Writes `content` to what the name `path` leads to. A file is new unless `overwrite` allows that
/// one is replaced; whoever reads it sees all of it or what was there before, and a failure leaves
/// nothing. A pipe or a terminal takes it as it comes. Folders and disks are never replaced.
pub fn write_whole_file(
    path: &Path,
    content: &[u8],
    overwrite: bool,
    mode: NewFileMode,
) -> Result<(), StoreError> {
    let fail = |source| StoreError::of_file("write", path, source);
    match Destination::resolve_path(path).map_err(fail)? {
        // Told before the work is done; publishing finds what comes meanwhile.
        Destination::File(place) if place.is_taken() && !overwrite => {
            Err(fail(io::ErrorKind::AlreadyExists.into()))
        }
        Destination::File(place) => {
            let mut partial = AtomicFile::create_beside(place, mode)?;
            partial.file.write_all(content).map_err(fail)?;
            partial.publish_file(overwrite)
        }
        Destination::Stream(stream) => open_stream(&stream)
            .and_then(|mut stream| stream.write_all(content))
            .map_err(fail),
        Destination::Device(_) => Err(fail(io::Error::other("it is a disk"))),
        Destination::Descriptor(_) => Err(fail(io::Error::other(OPEN_ALREADY))),
    }
}

/// A file that is not whole yet, beside the place it is to have. Removed unless it is published.
pub struct AtomicFile {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    target: PathBuf,
    published: bool,
}

impl AtomicFile {
    /// A new file beside `place`, which nobody else has open and no link leads to. It is whose the
    /// file was that it will replace, and who could use that can use it.
    pub fn create_beside(place: FilePlace, mode: NewFileMode) -> Result<Self, StoreError> {
        let FilePlace {
            path: target,
            replaced,
        } = place;
        let fail = |source| StoreError::of_file("write", &target, source);
        let name = target
            .file_name()
            .ok_or_else(|| fail(io::ErrorKind::InvalidInput.into()))?;
        remove_leftovers(&target, name);
        let path = target.with_file_name(partial_name(name));
        let is_private = mode == NewFileMode::Private || replaced.is_some();
        let mut options = OpenOptions::new();
        // Never through a link that was planted.
        options
            .write(true)
            .create_new(true)
            .mode(if is_private { PRIVATE } else { USUAL })
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
        let file = options.open(&path).map_err(fail)?;
        // If files cannot be locked, leftovers stay.
        let _ = flock(&file, FlockOperation::NonBlockingLockExclusive);
        let partial = Self {
            file,
            path,
            target: target.clone(),
            published: false,
        };
        replaced
            .map_or(Ok(()), |replaced| partial.become_as(replaced))
            .map_err(fail)?;
        Ok(partial)
    }

    fn become_as(&self, replaced: FileOwnership) -> io::Result<()> {
        let now = self.file.metadata()?;
        if (now.uid(), now.gid()) != (replaced.user, replaced.group) {
            fchown(&self.file, Some(replaced.user), Some(replaced.group)).map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("it belongs to another user or group, which cannot be kept: {error}"),
                )
            })?;
        }
        self.file
            .set_permissions(Permissions::from_mode(replaced.mode))
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Contents first, name last: syncs it, gives it its name, and syncs that. Without `overwrite`
    /// nothing may have that name.
    pub fn publish_file(mut self, overwrite: bool) -> Result<(), StoreError> {
        self.file
            .sync_all()
            .map_err(|source| StoreError::of_file("write", &self.path, source))?;
        if overwrite {
            fs::rename(&self.path, &self.target)
        } else {
            rename_to_nothing(&self.path, &self.target)
        }
        .map_err(|source| StoreError::of_file("write", &self.target, source))?;
        self.published = true;
        let folder = folder_of(&self.target);
        sync_folder(folder).map_err(|source| StoreError::of_file("write", folder, source))
    }
}

/// Gives the file `path` the name `target`, which nothing may have. File systems that cannot do
/// that at once (NFS, SMB, FUSE) give it a second name, or, where a file has only one, look first:
/// then what comes in between is replaced.
fn rename_to_nothing(path: &Path, target: &Path) -> io::Result<()> {
    match renameat_with(CWD, path, CWD, target, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        renamed => return Ok(renamed?),
    }
    match fs::hard_link(path, target) {
        Ok(()) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        Err(_) => match fs::symlink_metadata(target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::rename(path, target),
            found => found.and(Err(io::ErrorKind::AlreadyExists.into())),
        },
    }
}

/// Makes the names in `folder` durable, where it has a way to do so: some file systems (SMB) know
/// no sync of a folder.
fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => Ok(()),
        synced => synced,
    }
}

/// Removes the unfinished files for `target`, whose last part is `name`, of processes that were
/// killed. What cannot be looked at stays.
fn remove_leftovers(target: &Path, name: &OsStr) {
    for entry in fs::read_dir(folder_of(target)).into_iter().flatten() {
        let Ok(entry) = entry else { continue };
        let is_left = process_of(name, &entry.file_name())
            .is_some_and(|process| test_kill_process(process) == Err(Errno::SRCH));
        if is_left && is_unlocked(&entry.path()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The process whose unfinished file for `name` that is, if it is one.
fn process_of(name: &OsStr, partial: &OsStr) -> Option<Pid> {
    let inner = partial.as_bytes().strip_prefix(b".")?;
    let inner = str::from_utf8(inner.strip_suffix(b".partial")?).ok()?;
    let (whole, end) = inner.rsplit_once('.')?;
    let (process, _) = end.split_once('-')?;
    let is_whole = OsStr::new(whole) == name;
    Pid::from_raw(process.parse().ok()?).filter(|_| is_whole)
}

/// True if a file of this user's is there that nobody has locked.
fn is_unlocked(path: &Path) -> bool {
    let mut options = OpenOptions::new();
    // For writing: NFS locks nothing else.
    let opened = options
        .write(true)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path);
    opened.is_ok_and(|file| {
        let is_ours = file
            .metadata()
            .is_ok_and(|found| found.is_file() && found.uid() == geteuid().as_raw());
        is_ours && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
    })
}

/// A hidden name that tells what it was to become. One process may write several files for one
/// place, of which the first to end wins.
fn partial_name(name: &OsStr) -> OsString {
    let number = PARTIALS.fetch_add(1, Ordering::Relaxed);
    let end = format!(".{}-{number}.partial", std::process::id());
    let room = FILE_NAME_LEN_MAX - end.len() - 1;
    let name = name.as_bytes();
    let mut partial = OsString::from(".");
    partial.push(OsStr::from_bytes(&name[..name.len().min(room)]));
    partial.push(end);
    partial
}

impl Drop for AtomicFile {
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

    fn write(path: &Path, content: &str, overwrite: bool) -> Result<(), StoreError> {
        write_whole_file(path, content.as_bytes(), overwrite, NewFileMode::Usual)
    }

    fn read(path: &Path) -> String {
        fs::read_to_string(path).expect("it is there")
    }

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("page.html");
        write(&path, "one", false).expect("it is new");
        let refused = write(&path, "two", false).expect_err("it is there");
        assert!(refused.to_string().contains("page.html"), "{refused}");
        assert_eq!(read(&path), "one");
        write(&path, "two", true).expect("it may be replaced");
        assert_eq!(read(&path), "two");
        assert_eq!(entries(folder.path()), ["page.html"]);
    }

    #[test]
    fn a_link_stays_and_what_it_leads_to_is_written() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("inner")).expect("room");
        fs::write(path("inner/target"), "old").expect("room");
        std::os::unix::fs::symlink("inner/target", path("link")).expect("a link");
        write(&path("link"), "new", false).expect_err("what it leads to is there");
        assert_eq!(read(&path("inner/target")), "old");
        write(&path("link"), "new", true).expect("it may be replaced");
        assert_eq!(read(&path("inner/target")), "new");
        assert!(path("link").is_symlink());
        assert_eq!(entries(&path("inner")), ["target"]);
    }

    #[test]
    fn what_is_no_file_is_not_replaced() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        write(folder.path(), "new", true).expect_err("it is a folder");
        let pipe = folder.path().join("pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).expect("a pipe");
        let told = write(&pipe, "new", true).expect_err("nobody reads");
        assert!(told.to_string().contains("nobody reads"), "{told}");
        write(Path::new("/dev/null"), "new", false).expect("it takes everything");
        write(Path::new("/dev/full"), "new", false).expect_err("it takes nothing");
        assert_eq!(entries(folder.path()).len(), 1);
    }

    #[test]
    fn a_file_that_is_replaced_keeps_whose_it_is() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("disk.raw");
        let is_root = rustix::process::geteuid().is_root();
        for mode in [0o600, 0o640, 0o444, 0o666] {
            fs::write(&path, "old").expect("room");
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("it is ours");
            let owner = if is_root {
                65_534
            } else {
                rustix::process::geteuid().as_raw()
            };
            std::os::unix::fs::chown(&path, Some(owner), None).expect("root may");
            write(&path, "new", true).expect("it may be replaced");
            let found = fs::metadata(&path).expect("it is there");
            assert_eq!(
                (found.mode() & 0o7777, found.uid()),
                (mode, owner),
                "{mode:o}"
            );
            fs::remove_file(&path).expect("it is ours");
        }
    }

    #[test]
    fn what_was_stored_is_for_nobody_else() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("disk.raw");
        write_whole_file(&path, b"new", false, NewFileMode::Private).expect("it is new");
        let mode = fs::metadata(&path).expect("it is there").mode();
        assert_eq!(mode & 0o777 & !PRIVATE, 0, "{mode:o}");
    }

    #[test]
    fn what_comes_while_a_file_is_written_stays() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("disk.raw");
        let Ok(Destination::File(place)) = Destination::resolve_path(&path) else {
            panic!("nothing is there yet");
        };
        let partial = AtomicFile::create_beside(place, NewFileMode::Usual).expect("room");
        fs::write(&path, "another's").expect("room");
        partial.publish_file(false).expect_err("it is there");
        assert_eq!(read(&path), "another's");
    }

    #[test]
    fn what_a_killed_process_left_goes_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        let mut child = std::process::Command::new("true").spawn().expect("a child");
        let dead = child.id();
        child.wait().expect("it ends");
        let own = std::process::id();
        let (left, locked) = (
            format!(".disk.{dead}-0.partial"),
            format!(".disk.{dead}-1.partial"),
        );
        let others = [
            format!(".disk.{own}-999.partial"),
            format!(".disk2.{dead}-0.partial"),
            format!(".disk.{dead}.partial"),
            format!(".disk.x{dead}-0.partial"),
            format!("disk.{dead}-0.partial"),
        ];
        for name in others.iter().chain([&left, &locked]) {
            fs::write(path(name), "half").expect("room");
        }
        let held = File::open(path(&locked)).expect("it is there");
        flock(&held, FlockOperation::LockExclusive).expect("nobody has it");
        write(&path("disk"), "new", false).expect("it is new");
        assert!(!path(&left).exists());
        assert!(
            others
                .iter()
                .chain([&locked])
                .all(|name| path(name).exists())
        );
    }

    #[test]
    fn a_name_is_given_where_none_can_be_kept_from_being_replaced() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        fs::write(path("one"), "one").expect("room");
        fs::write(path("two"), "two").expect("room");
        let refused = rename_to_nothing(&path("one"), &path("two")).expect_err("it is there");
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        rename_to_nothing(&path("one"), &path("three")).expect("nothing has it");
        assert_eq!(
            (read(&path("two")), read(&path("three"))),
            ("two".into(), "one".into())
        );
    }

    #[test]
    fn the_longest_name_has_a_partial_file_too() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("n".repeat(FILE_NAME_LEN_MAX));
        write(&path, "new", false).expect("it is new");
        assert_eq!(read(&path), "new");
    }
}
