//! Room that is kept back for who gives space back on a full disk: what is taken away is written
//! down first.
//!
//! It is a hidden file whose blocks are allocated. File systems that cannot allocate have none.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags};
use rustix::fs::{fallocate, fstatvfs, openat, statat, unlinkat};
use rustix::io::Errno;

const FILE: &str = ".reserve";
/// Of the room that is free, the reserve takes at most this part: on a disk that is nearly full it
/// is for what people put there.
const FREE_SHARE: u64 = 4;

/// Keeps `len` bytes back in `folder`, unless that is much of what is free.
pub(super) fn keep(folder: &OwnedFd, len: u64, mode: Mode) -> io::Result<()> {
    let there = match statat(folder, FILE, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => u64::try_from(stat.st_size).unwrap_or(0),
        Err(Errno::NOENT) => 0,
        Err(errno) => return Err(errno.into()),
    };
    let room = fstatvfs(folder)?;
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    if there >= len || (len - there) > free / FREE_SHARE {
        return Ok(());
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(openat(folder, FILE, flags, mode)?);
    let allocated = fallocate(&file, FallocateFlags::empty(), 0, len);
    if allocated.is_err() && there == 0 {
        unlinkat(folder, FILE, AtFlags::empty())?;
    }
    Ok(allocated?)
}

/// Gives up what is kept back; true if there was something.
pub(super) fn release(folder: &OwnedFd) -> bool {
    unlinkat(folder, FILE, AtFlags::empty()).is_ok()
}
