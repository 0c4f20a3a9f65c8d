//! Finds the blocks of a guest's disk that the guest does not use: reads its partitions, and the
//! free space of the file systems in them.
//!
//! It reads metadata only, changes nothing and mounts nothing. The free blocks are those that the
//! disk stated when the guest last wrote its metadata: a file system that is mounted may have freed
//! or taken some since, or have it in its journal only. That is good enough to say what could be
//! dropped ([`free_space`]). What may be dropped says [`survey_disk`]: it believes only what was
//! unmounted, or has nothing in its journal, is known with every feature that it has, carries one
//! mark, and agrees with its own sums and counts. Whatever is not understood is in use.
//!
//! Every byte is hostile: no content causes a panic, a range of the disk is not read again each
//! time that the content names it, and memory is bounded by one block and one table.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod bits;
mod btrfs;
mod bytes;
mod exfat;
mod ext;
mod ext_journal;
mod fat;
mod free_ranges;
mod lvm;
mod ntfs;
mod partitions;
mod signature;
mod survey;
mod swap;
#[cfg(test)]
mod tests;
mod trimmed;
mod xfs;
mod xfs_log;

pub use free_ranges::FREE_RANGES_MAX;
pub use survey::{DiskPart, FreeSpace, survey_disk};
pub use trimmed::{SourceDisk, TrimmedSource};

use std::io;
use std::ops::Range;

use crate::source::ReadAt;
use partitions::Partition;

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
pub fn list_volumes(disk: &dyn ReadAt) -> Result<Vec<Volume>, GuestError> {
    let table = partitions::read_partitions(disk)?;
    if table.partitions.is_empty() {
        return Ok(vec![Volume::whole_disk(disk)]);
    }
    let found = in_order(disk, table.partitions);
    Ok(found.iter().map(|partition| partition.volume).collect())
}

/// The partitions by their beginnings, without those that [`list_volumes`] leaves out.
fn in_order(disk: &dyn ReadAt, mut found: Vec<Partition>) -> Vec<Partition> {
    found.sort_by_key(|partition| partition.volume.start);
    let mut end = 0;
    found.retain(|partition| {
        let volume = partition.volume;
        let fits = volume.len > 0
            && volume.start >= end
            && volume.end_offset().is_some_and(|end| end <= disk.len());
        if fits {
            end = volume.start + volume.len;
        }
        fits
    });
    found
}

/// The content of a volume, as its metadata states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestFileSystem {
    /// `ext4`, `xfs`, `swap`, …
    pub kind: &'static str,
    /// The trust in what it calls free.
    pub verdict: FreeVerdict,
}

/// The trust in ranges that were found free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FreeVerdict {
    /// Nothing reads them: they may be dropped.
    Free,
    /// All of it is in use, as far as is known here. The reason goes on after its name.
    Kept(String),
    /// They are what was free when it was last written to, and are not to be dropped. The reason
    /// goes on after its name.
    Unclean(String),
}

impl FreeVerdict {
    fn kept_because(reason: &str) -> Self {
        Self::Kept(reason.to_owned())
    }

    fn unclean_because(reason: &str) -> Self {
        Self::Unclean(reason.to_owned())
    }

    /// Unclean for `reason`, unless there was a reason before.
    fn or_unclean(self, reason: &str) -> Self {
        match self {
            Self::Free => Self::unclean_because(reason),
            other => other,
        }
    }
}

/// Reads the free space of one kind of content; `None` if it is another kind.
type FreeSpaceReader =
    fn(&dyn ReadAt, &Volume, Visit<'_>) -> Result<Option<GuestFileSystem>, GuestError>;

const READERS: [FreeSpaceReader; 7] = [
    ext::free_space,
    xfs::free_space,
    ntfs::free_space,
    exfat::free_space,
    btrfs::free_space,
    swap::free_space,
    fat::free_space,
];

/// Calls `visit` for each range that the content of `volume` does not use; `None` if the content is
/// not known. After an error, or if the verdict is [`FreeVerdict::Kept`], what was visited means
/// nothing. Cost: reads the bitmaps or trees of free blocks.
pub fn free_space(
    disk: &dyn ReadAt,
    volume: &Volume,
    visit: Visit<'_>,
) -> Result<Option<GuestFileSystem>, GuestError> {
    for read in READERS {
        if let Some(found) = read(disk, volume, &mut *visit)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

impl Volume {
    fn whole_disk(disk: &dyn ReadAt) -> Self {
        Self {
            partition: None,
            start: 0,
            len: disk.len(),
        }
    }

    /// Its bytes on the disk, which has them.
    fn byte_range(&self) -> Range<u64> {
        self.start..self.start + self.len
    }

    fn end_offset(&self) -> Option<u64> {
        self.start.checked_add(self.len)
    }

    /// Fills `buffer` from byte `at` of the volume; whether it has that many.
    fn try_read_at(&self, disk: &dyn ReadAt, at: u64, buffer: &mut [u8]) -> io::Result<bool> {
        let inside = at
            .checked_add(buffer.len() as u64)
            .is_some_and(|end| end <= self.len);
        if inside {
            disk.read_exact_at(buffer, self.start + at)?;
        }
        Ok(inside)
    }

    /// The bytes `range` of the volume, as far as it has them, on the disk.
    fn disk_range(&self, range: Range<u64>) -> Range<u64> {
        self.start + range.start.min(self.len)..self.start + range.end.min(self.len)
    }
}
