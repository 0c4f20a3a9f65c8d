//! Resolves a file name from a person to a destination for writing: follows links and finds out
//! what stands there.
//!
//! A link that a person named is followed, so that its target is written and the link stays. It is
//! not followed where anybody may have put it: in a folder that all may write, the owner of the
//! link must be the user who asks, or own the folder. (That is the kernel's `protected_symlinks`
//! rule, which only sees files being opened.)

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, PROC_SUPER_MAGIC, SeekFrom, fcntl_getfl, fcntl_setfl, seek, statfs};
use rustix::io::Errno;
use rustix::process::geteuid;

/// Reason for refusing to write to a file that a process has open.
pub(crate) const OPEN_ALREADY: &str = "it is a file that is open already: name the file itself";
/// Links that lead on to links: as many as the kernel follows.
const LINKS_MAX: u32 = 40;
/// Mode bits of a folder in which everybody may create files, and only a file's owner may remove it
/// (world-writable and sticky).
const SHARED_FOLDER: u32 = 0o1002;
/// Permissions that a file keeps when it is replaced.
const PERMISSIONS: u32 = 0o777;

/// Destination that a person means by the name of a file.
#[derive(Debug)]
pub enum Destination {
    /// A file: new, or there to be replaced.
    File(FilePlace),
    /// Something that takes bytes as they come: a pipe, a terminal, `/dev/null`.
    Stream(PathBuf),
    /// A block device.
    Device(PathBuf),
    /// A file that a process has open, by that process's number for it: only that process knows how
    /// to go on in it.
    Descriptor(u32),
}

/// Path of a file to be written, with all links followed, and the file that it replaces.
#[derive(Debug)]
pub struct FilePlace {
    pub(crate) path: PathBuf,
    pub(crate) replaced: Option<FileOwnership>,
}

/// Owner and permissions of a file that will be replaced, which its successor gets too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileOwnership {
    pub(crate) mode: u32,
    pub(crate) user: u32,
    pub(crate) group: u32,
}

impl Destination {
    /// The destination that `path` leads to.
    ///
    /// # Errors
    ///
    /// When that is a folder or a socket, or when a link on the way may not be followed.
    pub fn resolve_path(path: &Path) -> io::Result<Self> {
        let mut at = path.to_owned();
        for _ in 0..LINKS_MAX {
            let found = match fs::symlink_metadata(&at) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(Self::File(FilePlace {
                        path: at,
                        replaced: None,
                    }));
                }
                found => found?,
            };
            if !found.is_symlink() {
                return Self::of_existing(at, &found);
            }
            if let Some(number) = descriptor_number(&at) {
                // The kernel's links to what is open lead there directly, whatever they read as.
                let open = fs::metadata(&at)?;
                return if open.is_file() {
                    Ok(Self::Descriptor(number))
                } else {
                    Self::of_existing(at, &open)
                };
            }
            check_link(&at, &found)?;
            at = folder_of(&at).join(fs::read_link(&at)?);
        }
        Err(Errno::LOOP.into())
    }

    fn of_existing(path: PathBuf, found: &Metadata) -> io::Result<Self> {
        let kind = found.file_type();
        if kind.is_dir() {
            Err(io::ErrorKind::IsADirectory.into())
        } else if kind.is_block_device() {
            Ok(Self::Device(path))
        } else if kind.is_fifo() || kind.is_char_device() {
            Ok(Self::Stream(path))
        } else if kind.is_file() {
            let replaced = Some(FileOwnership {
                mode: found.mode() & PERMISSIONS,
                user: found.uid(),
                group: found.gid(),
            });
            Ok(Self::File(FilePlace { path, replaced }))
        } else {
            Err(io::Error::other("it is a socket"))
        }
    }
}

impl FilePlace {
    /// True if a file is there already.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.replaced.is_some()
    }
}

/// Opens a stream to write to. A pipe that nobody reads is an error, not a wait.
pub fn open_stream(path: &Path) -> io::Result<File> {
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let opened = OpenOptions::new()
        .write(true)
        .custom_flags(nonblocking)
        .open(path);
    let file = match opened {
        Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {
            return Err(io::Error::other("nobody reads from it"));
        }
        opened => opened?,
    };
    let flags = fcntl_getfl(&file)?;
    fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
    Ok(file)
}

/// Opens a block device that nothing else uses, to write a disk of `len` bytes over it. One that is
/// too small is refused before anything is written.
pub fn open_device(path: &Path, len: u64) -> io::Result<File> {
    let device = OpenOptions::new()
        .write(true)
        .custom_flags(OFlags::EXCL.bits().cast_signed())
        .open(path)?;
    let capacity = seek(&device, SeekFrom::End(0))?;
    if capacity < len {
        return Err(io::Error::other(format!(
            "it is too small: it has {capacity} bytes, and the disk has {len}"
        )));
    }
    seek(&device, SeekFrom::Start(0))?;
    Ok(device)
}

/// The number of the descriptor that the link at `path` stands for, if it is one of the kernel's.
fn descriptor_number(path: &Path) -> Option<u32> {
    let number = path.file_name()?.to_str()?.parse().ok()?;
    let folder = path.parent()?;
    let is_kernels = statfs(folder).is_ok_and(|found| found.f_type == PROC_SUPER_MAGIC);
    is_kernels.then_some(number)
}

/// Fails if the link at `path` may not be followed.
fn check_link(path: &Path, link: &Metadata) -> io::Result<()> {
    let folder = fs::metadata(folder_of(path))?;
    let is_shared = folder.mode() & SHARED_FOLDER == SHARED_FOLDER;
    let is_trusted = link.uid() == geteuid().as_raw() || link.uid() == folder.uid();
    if is_shared && !is_trusted {
        return Err(io::Error::other(format!(
            "{} is a link that another user put into a folder for all",
            path.display()
        )));
    }
    Ok(())
}

pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    fn file(path: &Path) -> (PathBuf, bool) {
        match Destination::resolve_path(path).expect("it can be written") {
            Destination::File(place) => (place.path.clone(), place.is_taken()),
            other => panic!("no file: {other:?}"),
        }
    }

    #[test]
    fn links_are_followed_to_what_they_lead_to() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("inner")).expect("room");
        fs::write(path("inner/old"), "old").expect("room");
        symlink("inner/old", path("link")).expect("room");
        symlink(path("link"), path("inner/again")).expect("room");
        symlink("../new", path("inner/dangling")).expect("room");
        assert_eq!(file(&path("plain")), (path("plain"), false));
        assert_eq!(file(&path("link")), (path("inner/old"), true));
        assert_eq!(file(&path("inner/again")), (path("inner/old"), true));
        assert_eq!(file(&path("inner/dangling")), (path("inner/../new"), false));
        symlink("turn", path("round")).expect("room");
        symlink("round", path("turn")).expect("room");
        symlink("inner", path("folder")).expect("room");
        for wrong in ["round", "folder", "inner"] {
            assert!(Destination::resolve_path(&path(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_file_is_told_apart() {
        let of =
            |path: &str| Destination::resolve_path(Path::new(path)).expect("it can be written");
        assert!(matches!(of("/dev/null"), Destination::Stream(_)));
        let dir = tempfile::tempdir().expect("a temporary folder");
        let open = File::create(dir.path().join("open")).expect("room");
        let number = std::os::fd::AsRawFd::as_raw_fd(&open).cast_unsigned();
        for name in ["/dev/fd", "/proc/self/fd", "/proc/thread-self/fd"] {
            let found = of(&format!("{name}/{number}"));
            assert!(
                matches!(found, Destination::Descriptor(found) if found == number),
                "{name}: {found:?}"
            );
        }
        let (_reader, writer) = io::pipe().expect("a pipe");
        let number = std::os::fd::AsRawFd::as_raw_fd(&writer);
        let pipe = of(&format!("/dev/fd/{number}"));
        assert!(matches!(pipe, Destination::Stream(_)), "{pipe:?}");
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("room");
        assert!(Destination::resolve_path(&socket).is_err());
    }

    /// Only root can make what is another's.
    #[test]
    fn a_link_that_another_planted_is_not_followed() {
        if !geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().expect("a temporary folder");
        let link = dir.path().join("link");
        symlink(dir.path().join("victim"), &link).expect("room");
        std::os::unix::fs::lchown(&link, Some(65_534), None).expect("root may");
        let allow = |mode| {
            let mode = PermissionsExt::from_mode(mode);
            fs::set_permissions(dir.path(), mode).expect("it is ours");
        };
        for (mode, owner, is_followed) in [
            (0o1777, 0, false),
            (0o1777, 65_534, true),
            (0o777, 0, true),
            (0o755, 0, true),
        ] {
            allow(mode);
            chown(dir.path(), Some(owner), None).expect("root may");
            assert_eq!(
                Destination::resolve_path(&link).is_ok(),
                is_followed,
                "{mode:o} of {owner}"
            );
        }
    }
}
