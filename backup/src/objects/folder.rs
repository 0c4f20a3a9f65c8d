//! Objects in a folder: a file each, written beside its place and given its name when it is whole.
//!
//! The folder may be on a network's file system or a disk that is carried away, and others may
//! write into it: below the folder itself no link is followed, nothing but plain files is read, and
//! no file is written over. What an interrupted put leaves behind has a name that no listing shows.
//! It says which process of which running system writes it, and who writes it holds a lock on it.
//! It goes when nobody holds the lock, and the process is over or nobody else is at work: locks are
//! not seen from other machines everywhere.

mod partial_file;
mod reserve;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::fs::{fsync, mkdirat, openat, statat, unlinkat};
use rustix::io::Errno;

use partial_file::{PARTIAL_PREFIX, PartialFile, find_leftovers, is_of_the_dead, remove_leftover};

use super::{OBJECT_LEN_MAX, ObjectError, ObjectErrorKind, ObjectName, Objects, direct, exactly};

/// Steps of the longest name: `packs/XX/ID`.
const DEPTH_MAX: usize = 3;

/// A folder with objects.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Folders inside that this process knows to be durable.
    durable: Mutex<BTreeSet<String>>,
    /// The permissions of a repository that is there.
    permissions: OnceLock<Permissions>,
}

impl Folder {
    /// The folder at `path`, made when something is put. Its own path may lead through links: that
    /// is the person's choice.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            durable: Mutex::default(),
            permissions: OnceLock::new(),
        }
    }

    fn root(&self) -> io::Result<OwnedFd> {
        Ok(openat(
            CWD,
            &self.path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?)
    }

    /// The folder that the object `name` is in, and its last step. No link is followed below the
    /// root.
    fn folder_of<'a>(&self, name: &'a str) -> io::Result<(OwnedFd, &'a str)> {
        let (folders, file) = steps(name)?;
        let folder = folders
            .into_iter()
            .try_fold(self.root()?, |at, step| open_folder(&at, step))?;
        Ok((folder, file))
    }

    /// The same, made where it is missing. Every folder on the way is durable when this returns.
    fn make_folder_of<'a>(&self, name: &'a str) -> io::Result<(OwnedFd, &'a str)> {
        let (folders, file) = steps(name)?;
        if !self.path.is_dir() {
            self.path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            make_private(&self.path)?;
            self.path.parent().map_or(Ok(()), sync_folder)?;
        }
        let (mut at, mut so_far) = (self.root()?, String::new());
        for step in folders {
            so_far = format!("{so_far}{step}/");
            at = self.make_folder(&at, step, &so_far)?;
        }
        Ok((at, file))
    }

    /// The permissions of new files: those of the file that says what the repository is, so that
    /// one that was opened to others stays open to them. A new repository is its owner's only.
    fn permissions(&self) -> io::Result<Permissions> {
        if let Some(known) = self.permissions.get() {
            return Ok(*known);
        }
        let name = ObjectName::Repository.to_string();
        match statat(self.root()?, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => Ok(*self
                .permissions
                .get_or_init(|| Permissions::like(Mode::from_raw_mode(stat.st_mode)))),
            _ => Ok(Permissions::like(Mode::empty())),
        }
    }

    fn make_folder(&self, at: &OwnedFd, step: &str, so_far: &str) -> io::Result<OwnedFd> {
        match mkdirat(at, step, self.permissions()?.folder) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let made = open_folder(at, step)?;
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        if !durable.contains(so_far) {
            // Also one that was there: who made it may not have come this far yet.
            fsync(at)?;
            durable.insert(so_far.to_owned());
        }
        Ok(made)
    }

    fn open(&self, name: &str) -> io::Result<(File, u64)> {
        let (folder, file) = self.folder_of(name)?;
        // A pipe that somebody planted would wait for ever.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(&folder, file, flags, Mode::empty())?);
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("this is no plain file"));
        }
        Ok((file, metadata.len()))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let (file, len) = self.open(name)?;
        if len > OBJECT_LEN_MAX {
            return Err(io::Error::other("larger than any object of a repository"));
        }
        let mut bytes = Vec::with_capacity(len as usize);
        file.take(OBJECT_LEN_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let (folder, file) = self.make_folder_of(name)?;
        let partial = PartialFile::create(&folder, self.permissions()?.file)?;
        direct::write_all(&partial.file, bytes)?;
        partial.file.sync_all()?;
        match partial.publish(file) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.hold_against(name, bytes)?;
            }
            other => other?,
        }
        fsync(&folder)?;
        Ok(())
    }

    fn write_over(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let (folder, file) = self.make_folder_of(name)?;
        let partial = PartialFile::create(&folder, self.permissions()?.file)?;
        direct::write_all(&partial.file, bytes)?;
        partial.file.sync_all()?;
        partial.publish_over(file)?;
        Ok(fsync(&folder)?)
    }

    /// Compares the bytes that are there under `name` with these: equal ones mean that the put
    /// changed nothing.
    fn hold_against(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if self.read(name)? == bytes {
            Ok(())
        } else {
            Err(io::ErrorKind::AlreadyExists.into())
        }
    }

    /// Visits the plain files below `folder`, which is called `prefix` with a slash at its end.
    fn walk(
        &self,
        folder: &OwnedFd,
        prefix: &str,
        depth: usize,
        visit: &mut Visit<'_>,
    ) -> Result<(), ObjectError> {
        for (name, kind, len) in entries(folder).map_err(|source| self.error(prefix, source))? {
            let path = format!("{prefix}{name}");
            match kind {
                FileType::RegularFile => visit(&path, len)?,
                FileType::Directory if depth + 1 < DEPTH_MAX => {
                    let inner =
                        open_folder(folder, &name).map_err(|source| self.error(&path, source))?;
                    self.walk(&inner, &format!("{path}/"), depth + 1, visit)?;
                }
                // Links, pipes and devices are nobody's objects.
                _ => {}
            }
        }
        Ok(())
    }

    fn error(&self, name: &str, source: io::Error) -> ObjectError {
        let what = match source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::LOOP) => {
                "a link stands in its place, and links in a repository are not followed".to_owned()
            }
            _ => source.to_string(),
        };
        let name = self.path.join(name).display().to_string();
        ObjectError::new(kind_of(&source), name, what).because(source)
    }
}

/// The permissions of new files and folders; the umask can take from them.
#[derive(Clone, Copy, Debug)]
struct Permissions {
    file: Mode,
    folder: Mode,
}

impl Permissions {
    /// The permissions of `other` to read and write, and the owner's in any case.
    fn like(other: Mode) -> Self {
        let to_read = Mode::RUSR | Mode::RGRP | Mode::ROTH;
        let to_write = Mode::WUSR | Mode::WGRP | Mode::WOTH;
        let file = (other & (to_read | to_write)) | Mode::RUSR | Mode::WUSR;
        // Users who may read a folder's files must be able to enter it.
        let to_enter = Mode::from_raw_mode((file & to_read).as_raw_mode() >> 2);
        Self {
            file,
            folder: file | to_enter,
        }
    }
}

fn make_private(path: &std::path::Path) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

type Visit<'a> = dyn FnMut(&str, u64) -> Result<(), ObjectError> + 'a;

impl Objects for Folder {
    fn get(&self, name: &str) -> Result<Vec<u8>, ObjectError> {
        self.read(name).map_err(|source| self.error(name, source))
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>, ObjectError> {
        let read = || {
            let (file, len) = self.open(name)?;
            if range.start > range.end
                || range.end > len
                || range.end - range.start > OBJECT_LEN_MAX
            {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("the file has {len} bytes, and {range:?} were asked for"),
                ));
            }
            let mut bytes = vec![0; (range.end - range.start) as usize];
            file.read_exact_at(&mut bytes, range.start)?;
            Ok(bytes)
        };
        let bytes = read().map_err(|source| self.error(name, source))?;
        exactly(name, &range, bytes)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        self.write(name, bytes)
            .map_err(|source| self.error(name, source))
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        self.write_over(name, bytes)
            .map_err(|source| self.error(name, source))
    }

    fn list(&self, prefix: &str, visit: &mut Visit<'_>) -> Result<(), ObjectError> {
        let mut at = match self.root() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            root => root.map_err(|source| self.error("", source))?,
        };
        for (depth, step) in prefix.split_terminator('/').enumerate() {
            at = match open_folder(&at, step) {
                Ok(folder) if depth < DEPTH_MAX => folder,
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(self.error(prefix, error));
                }
                _ => return Ok(()),
            };
        }
        self.walk(&at, prefix, prefix.matches('/').count(), visit)
    }

    fn delete(&self, name: &str) -> Result<(), ObjectError> {
        let removed = self.folder_of(name).and_then(|(folder, file)| {
            unlinkat(&folder, file, AtFlags::empty())?;
            Ok(fsync(&folder)?)
        });
        match removed {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(self.error(name, source))
            }
            _ => Ok(()),
        }
    }

    fn leftovers(&self) -> Result<Vec<String>, ObjectError> {
        let mut found = Vec::new();
        match self.root() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            root => root
                .and_then(|root| find_leftovers(&root, "", 0, &mut found))
                .map_err(|source| self.error("", source))?,
        }
        Ok(found)
    }

    fn remove_leftover(&self, name: &str, is_alone: bool) -> Result<bool, ObjectError> {
        let (folders, file) = name.rsplit_once('/').unwrap_or(("", name));
        if !file.starts_with(PARTIAL_PREFIX) || !(is_alone || is_of_the_dead(file)) {
            return Ok(false);
        }
        let remove = || {
            let folder = folders
                .split_terminator('/')
                .try_fold(self.root()?, |at, step| open_folder(&at, step))?;
            remove_leftover(&folder, file)
        };
        remove().map_err(|source| self.error(name, source))
    }

    fn keep_reserve(&self, len: u64) {
        // Without it the repository is as good, while its disk is not full.
        let kept = || reserve::keep(&self.root()?, len, self.permissions()?.file);
        drop(kept());
    }

    fn release_reserve(&self) -> bool {
        self.root().is_ok_and(|root| reserve::release(&root))
    }

    fn describe(&self) -> String {
        self.path.display().to_string()
    }
}

/// The folders of `name`, and its last step.
fn steps(name: &str) -> io::Result<(Vec<&str>, &str)> {
    let mut steps: Vec<&str> = name.split('/').collect();
    let is_plain = |step: &&str| !step.is_empty() && !step.starts_with('.') && !step.contains('\0');
    if steps.len() > DEPTH_MAX || !steps.iter().all(is_plain) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "no name of an object",
        ));
    }
    let file = steps.pop().expect("splitting gives one step at least");
    Ok((steps, file))
}

fn open_folder(at: &OwnedFd, step: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(at, step, flags, Mode::empty()) {
        // With O_DIRECTORY the kernel says "not a folder" of a link.
        Err(Errno::NOTDIR) if is_link(at, step) => Err(Errno::LOOP.into()),
        other => Ok(other?),
    }
}

fn is_link(at: &OwnedFd, step: &str) -> bool {
    statat(at, step, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}

fn sync_folder(path: &std::path::Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() {
        std::path::Path::new(".")
    } else {
        path
    };
    File::open(path)?.sync_all()
}

/// The entries of `folder` with names that are text and not hidden: name, kind and length.
fn entries(folder: &OwnedFd) -> io::Result<Vec<(String, FileType, u64)>> {
    let mut found = Vec::new();
    for name in names(folder)? {
        if name.starts_with('.') {
            continue;
        }
        match statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => found.push((
                name,
                FileType::from_raw_mode(stat.st_mode),
                u64::try_from(stat.st_size).unwrap_or(0),
            )),
            // Deleted since.
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(found)
}

fn names(folder: &OwnedFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        if let Ok(name) = entry?.file_name().to_str() {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn kind_of(error: &io::Error) -> ObjectErrorKind {
    match error.kind() {
        io::ErrorKind::NotFound => ObjectErrorKind::Missing,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            ObjectErrorKind::Denied
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            ObjectErrorKind::Full
        }
        io::ErrorKind::Interrupted
        | io::ErrorKind::TimedOut
        | io::ErrorKind::StaleNetworkFileHandle
        | io::ErrorKind::NotConnected
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown => ObjectErrorKind::Passing,
        _ if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => ObjectErrorKind::Doubtful,
        _ => ObjectErrorKind::Failed,
    }
}
