//! Files that are not whole yet, and those that killed processes left.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::fs::{flock, linkat, openat, renameat, renameat_with, statat, unlinkat};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use super::{DEPTH_MAX, names, open_folder};

/// The prefix of the names of files that are not whole yet.
pub(super) const PARTIAL_PREFIX: &str = ".partial-";

/// A file that has no name yet that anybody looks for. Taken away unless it is published.
pub(super) struct PartialFile<'a> {
    folder: &'a OwnedFd,
    pub(super) file: File,
    name: String,
    is_published: bool,
}

impl<'a> PartialFile<'a> {
    pub(super) fn create(folder: &'a OwnedFd, mode: Mode) -> io::Result<Self> {
        let name = format!(
            "{PARTIAL_PREFIX}{}-{}-{:016x}",
            running_system(),
            std::process::id(),
            getrandom::u64().map_err(io::Error::other)?
        );
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(folder, &name, flags, mode)?);
        // Only so that it is not taken for a leftover: file systems without locks do without.
        let _ = flock(&file, FlockOperation::NonBlockingLockExclusive);
        Ok(Self {
            folder,
            file,
            name,
            is_published: false,
        })
    }

    /// Gives it its name, unless something has that name.
    pub(super) fn publish(mut self, name: &str) -> io::Result<()> {
        match renameat_with(
            self.folder,
            &self.name,
            self.folder,
            name,
            RenameFlags::NOREPLACE,
        ) {
            // NFS, FAT and others do not know the flag.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => self.publish_by_link(name)?,
            other => other?,
        }
        self.is_published = true;
        Ok(())
    }

    /// Gives it a name, whatever has it.
    pub(super) fn publish_over(mut self, name: &str) -> io::Result<()> {
        renameat(self.folder, &self.name, self.folder, name)?;
        self.is_published = true;
        Ok(())
    }

    /// The same as [`PartialFile::publish`] where renaming always replaces. Where there are no
    /// links either, what is there is looked for first: names derive from random bytes, so nobody
    /// else is about to put this one, except the one file that says what the repository is.
    fn publish_by_link(&self, name: &str) -> io::Result<()> {
        match linkat(self.folder, &self.name, self.folder, name, AtFlags::empty()) {
            Ok(()) => Ok(unlinkat(self.folder, &self.name, AtFlags::empty())?),
            Err(Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP | Errno::MLINK) => {
                match statat(self.folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => Ok(renameat(self.folder, &self.name, self.folder, name)?),
                    Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
                    Err(errno) => Err(errno.into()),
                }
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for PartialFile<'_> {
    fn drop(&mut self) {
        if !self.is_published {
            // A partial file that cannot be removed has a telling name, and hides nothing.
            let _ = unlinkat(self.folder, &self.name, AtFlags::empty());
        }
    }
}

/// Finds the files below `folder`, which is called `prefix`, that are not whole.
pub(super) fn find_leftovers(
    folder: &OwnedFd,
    prefix: &str,
    depth: usize,
    found: &mut Vec<String>,
) -> io::Result<()> {
    for name in names(folder)? {
        if name.starts_with(PARTIAL_PREFIX) {
            found.push(format!("{prefix}{name}"));
        } else if !name.starts_with('.') && depth + 1 < DEPTH_MAX {
            // Links and files are no folders, and are left alone.
            if let Ok(inner) = open_folder(folder, &name) {
                find_leftovers(&inner, &format!("{prefix}{name}/"), depth + 1, found)?;
            }
        }
    }
    Ok(())
}

/// True if the process that the partial file's name tells of was one of this running system, and is
/// over.
pub(super) fn is_of_the_dead(partial: &str) -> bool {
    let mut parts = partial[PARTIAL_PREFIX.len()..].split('-');
    let (system, process) = (parts.next(), parts.next());
    let process = process.and_then(|text| Pid::from_raw(text.parse().ok()?));
    system == Some(running_system())
        && process.is_some_and(|process| test_kill_process(process) == Err(Errno::SRCH))
}

/// A name of this machine since it was started: eight digits.
fn running_system() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let boot = boot.unwrap_or_default();
        let digits = boot.chars().filter(char::is_ascii_hexdigit);
        format!("{:0>8}", digits.take(8).collect::<String>())
    })
}

/// Removes a partial file that no process writes; true if there was one.
pub(super) fn remove_leftover(folder: &OwnedFd, name: &str) -> io::Result<bool> {
    // For writing: NFS locks nothing else.
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(folder, name, flags, Mode::empty()) {
        Ok(file) => file,
        // Gone, or nothing that a put makes, or another user's.
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::ISDIR | Errno::ACCESS) => {
            return Ok(false);
        }
        Err(errno) => return Err(errno.into()),
    };
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(false);
    }
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
