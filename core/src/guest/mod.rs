//! Finds the blocks of a guest's disk that the guest does not use: reads its partitions, and the
//! free space of the file systems in them.
//!
//! It reads metadata only, changes nothing and mounts nothing. The free blocks are those that the
//! disk stated when the guest last wrote its metadata: a file system that is mounted may have freed
//! or taken some since, or have it in its journal only. That is good enough to say what could be
//! dropped, and not to drop it.
//!
//! Every byte is hostile: no content causes a panic, a range of the disk is not read again each
//! time that the content names it, and memory is bounded by one block and one table of partitions.
//!
//! # Why there is no crate for it
//!
//! The Rust crates that read ext4 are drivers: they open files by path, and lay structures over
//! bytes. None lets its caller walk the block bitmaps alone, and none promises to survive hostile
//! bytes. Partition tables are a page each.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod bytes;
mod ext;
mod partitions;
mod swap;
#[cfg(test)]
mod tests;
mod xfs;

use std::io;
use std::ops::Range;

use crate::source::ReadAt;

/// A part of a disk that may hold a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The partition's number, from 1; `None` is the whole of a disk without partitions.
    pub partition: Option<u32>,
    /// Its first byte on the disk.
    pub start: u64,
    /// Its length in bytes.
    pub len: u64,
}

/// The reason why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The disk cannot be read, or the caller cancelled the walk.
    #[error("cannot read the disk")]
    Io(#[from] io::Error),
    /// The structures contradict each other.
    #[error("not a valid {kind}: {reason}")]
    Malformed {
        /// The kind that it claims to be.
        kind: &'static str,
        /// The contradiction.
        reason: &'static str,
    },
}

/// The callback for free ranges, as bytes of the disk: in order, inside the volume. An error ends
/// the walk.
type Visit<'v> = &'v mut dyn FnMut(Range<u64>) -> io::Result<()>;

/// The partitions of `disk` by their beginnings, or all of it if it has none. A partition that
/// overlaps an earlier one, or goes past the disk's end, is left out.
pub fn volumes(disk: &dyn ReadAt) -> Result<Vec<Volume>, GuestError> {
    let mut found = partitions::read(disk)?;
    if found.is_empty() {
        return Ok(vec![Volume {
            partition: None,
            start: 0,
            len: disk.len(),
        }]);
    }
    found.sort_by_key(|volume| volume.start);
    let mut end = 0;
    found.retain(|volume| {
        let fits = volume.len > 0
            && volume.start >= end
            && volume.end().is_some_and(|end| end <= disk.len());
        if fits {
            end = volume.start + volume.len;
        }
        fits
    });
    Ok(found)
}

/// Calls `visit` for each range that the content of `volume` does not use, and returns the kind of
/// content: `ext4`, `xfs`, `swap`, …; `None` if it is not known. After an error, what was visited
/// means nothing. Cost: reads the bitmaps or trees of free blocks.
pub fn free_space(
    disk: &dyn ReadAt,
    volume: &Volume,
    visit: Visit<'_>,
) -> Result<Option<&'static str>, GuestError> {
    for read in [ext::free_space, xfs::free_space, swap::free_space] {
        if let Some(kind) = read(disk, volume, &mut *visit)? {
            return Ok(Some(kind));
        }
    }
    Ok(None)
}

impl Volume {
    fn end(&self) -> Option<u64> {
        self.start.checked_add(self.len)
    }

    /// Fills `buffer` from byte `at` of the volume; whether it has that many.
    fn read(&self, disk: &dyn ReadAt, at: u64, buffer: &mut [u8]) -> io::Result<bool> {
        let inside = at
            .checked_add(buffer.len() as u64)
            .is_some_and(|end| end <= self.len);
        if inside {
            disk.read_exact_at(buffer, self.start + at)?;
        }
        Ok(inside)
    }

    /// The bytes `range` of the volume, as far as it has them, on the disk.
    fn place(&self, range: Range<u64>) -> Range<u64> {
        self.start + range.start.min(self.len)..self.start + range.end.min(self.len)
    }
}
