//! The parts of a disk, and which of their bytes may be dropped: decides, and drops nothing.

use std::io;
use std::ops::Range;

use super::free_ranges::{FREE_RANGES_MAX, FreeRanges};
use super::partitions::{self, Partition, PartitionTable};
use super::{
    FreeVerdict, GuestError, GuestFileSystem, Volume, free_space, in_order, lvm, signature,
};
use crate::source::ReadAt;

/// The bytes at a disk's end that descriptions of RAIDs and dynamic disks take, beside partitions.
const END_LEN: u64 = 1 << 20;
const UNKNOWN: &str = "unknown content";
const PARTITION_TABLE: &str = "a partition table";

/// The content of a disk, and the parts of it that no file system reads.
#[derive(Debug)]
pub struct FreeSpace {
    parts: Vec<DiskPart>,
    ranges: Vec<Range<u64>>,
}

/// A partition, a logical volume, or what lies between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskPart {
    /// `partition 2`, `logical volume group/root`, …
    pub name: String,
    /// Its content: `ext4`, `LUKS`, `unknown content`, …
    pub kind: &'static str,
    /// Its length in bytes.
    pub len: u64,
    /// The bytes that may be dropped; none, unless the verdict is [`FreeVerdict::Free`].
    pub free: u64,
    /// The trust in that.
    pub verdict: FreeVerdict,
}

impl FreeSpace {
    /// The parts, in the order in which they were found.
    #[must_use]
    pub fn parts(&self) -> &[DiskPart] {
        &self.parts
    }

    /// The parts that are mounted, or were not unmounted: as long as there is one, nothing is to be
    /// dropped.
    pub fn unclean_parts(&self) -> impl Iterator<Item = &DiskPart> {
        let is_unclean = |part: &&DiskPart| matches!(part.verdict, FreeVerdict::Unclean(_));
        self.parts.iter().filter(is_unclean)
    }

    /// The bytes that may be dropped.
    #[must_use]
    pub fn free_len(&self) -> u64 {
        self.ranges
            .iter()
            .map(|range| range.end - range.start)
            .sum()
    }

    /// The same as ranges of the disk: in order, apart from each other.
    #[must_use]
    pub fn free_ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }
}

/// Looks at every part of `disk`. Cost: reads the bitmaps or trees of free blocks of its file
/// systems; memory for at most [`FREE_RANGES_MAX`] ranges.
///
/// # Errors
///
/// Only when the disk cannot be read: what makes no sense is in use.
pub fn survey_disk(disk: &dyn ReadAt) -> Result<FreeSpace, GuestError> {
    let table = partitions::read_partitions(disk)?;
    let mut surveyor = Surveyor {
        disk,
        parts: Vec::new(),
        ranges: FreeRanges::new(FREE_RANGES_MAX),
    };
    if table.is_damaged {
        surveyor.keep_part(
            "the disk",
            "GPT",
            disk.len(),
            "its partition table is damaged",
        );
    } else if table.partitions.is_empty() {
        surveyor.survey_volume("the disk", &Volume::whole_disk(disk))?;
    } else if let mut marks = signature::find_marks(disk, &Volume::whole_disk(disk))?
        && !marks.is_empty()
    {
        marks.insert(0, PARTITION_TABLE);
        surveyor.keep_ambiguous("the disk", &marks, disk.len());
    } else {
        let partitions = in_order(disk, table.partitions.clone());
        for Partition { volume, foreign } in &partitions {
            let name = format!("partition {}", volume.partition.unwrap_or_default());
            match foreign {
                Some(kind) => {
                    surveyor.keep_part(&name, kind, volume.len, "it is a piece of something else");
                }
                None => surveyor.survey_volume(&name, volume)?,
            }
        }
        surveyor.survey_gaps(&table, &partitions);
    }
    Ok(surveyor.into_free_space())
}

struct Surveyor<'d> {
    disk: &'d dyn ReadAt,
    parts: Vec<DiskPart>,
    ranges: FreeRanges,
}

impl Surveyor<'_> {
    fn keep_part(&mut self, name: &str, kind: &'static str, len: u64, reason: &str) {
        self.add_part(name, len, kind, FreeVerdict::Kept(reason.to_owned()));
    }

    /// Adds a part, for whose number free ranges have come.
    fn add_part(&mut self, name: &str, len: u64, kind: &'static str, verdict: FreeVerdict) {
        if verdict != FreeVerdict::Free {
            self.ranges.take_back(self.parts.len());
        }
        self.parts.push(DiskPart {
            name: name.to_owned(),
            kind,
            len,
            free: 0,
            verdict,
        });
    }

    /// Looks at a volume of the disk, and into it.
    fn survey_volume(&mut self, name: &str, volume: &Volume) -> Result<(), GuestError> {
        let whole = LinearDisk::new(self.disk, vec![volume.byte_range()]);
        match volume_marks(&whole)?[..] {
            ["LVM2"] => self.physical_volume(name, volume),
            [kind] => self.survey_content(name, kind, &whole),
            ref kinds => {
                self.keep_ambiguous(name, kinds, volume.len);
                Ok(())
            }
        }
    }

    /// Keeps what has no mark, or several.
    fn keep_ambiguous(&mut self, name: &str, kinds: &[&'static str], len: u64) {
        let reason = if kinds.is_empty() {
            "it is not known here".to_owned()
        } else {
            format!("it carries the marks of {}", kinds.join(" and "))
        };
        self.keep_part(name, UNKNOWN, len, &reason);
    }

    /// Looks at the content of what may lie in pieces on the disk; its mark is `kind`'s.
    fn survey_content(
        &mut self,
        name: &str,
        kind: &'static str,
        linear: &LinearDisk<'_>,
    ) -> Result<(), GuestError> {
        let (part, ranges) = (self.parts.len(), &mut self.ranges);
        let found = free_space(linear, &Volume::whole_disk(linear), &mut |range| {
            linear.each_piece(&range, &mut |piece| ranges.push_range(piece, part));
            Ok(())
        });
        let (kind, verdict) = match found {
            Ok(Some(GuestFileSystem { kind: own, verdict })) if is_marked(kind, own) => {
                (own, verdict)
            }
            Ok(_) => (kind, FreeVerdict::kept_because("it is not looked into")),
            Err(GuestError::Io(error)) => return Err(error.into()),
            Err(error) => (kind, FreeVerdict::Kept(error.to_string())),
        };
        self.add_part(name, linear.len, kind, verdict);
        Ok(())
    }

    /// Looks at the logical volumes on a physical one, and drops what is in none.
    fn physical_volume(&mut self, name: &str, volume: &Volume) -> Result<(), GuestError> {
        let layout = match lvm::read_physical_volume(self.disk, volume)? {
            Some(Ok(layout)) => layout,
            Some(Err(reason)) => {
                self.keep_part(name, "LVM2", volume.len, reason);
                return Ok(());
            }
            None => {
                self.keep_part(name, "LVM2", volume.len, "its label is damaged");
                return Ok(());
            }
        };
        let part = self.parts.len();
        for range in &layout.free {
            self.ranges
                .push_range(volume.disk_range(range.clone()), part);
        }
        self.add_part(name, volume.len, "LVM2", FreeVerdict::Free);
        for logical in layout.volumes {
            let name = format!("logical volume {}/{}", layout.name, logical.name);
            let len =
                |pieces: &[Range<u64>]| pieces.iter().map(|piece| piece.end - piece.start).sum();
            match logical.pieces {
                Err(reason) => self.keep_part(&name, "LVM2", 0, reason),
                Ok(pieces) => {
                    let pieces = pieces
                        .into_iter()
                        .map(|piece| volume.disk_range(piece))
                        .collect();
                    let linear = LinearDisk::new(self.disk, pieces);
                    match volume_marks(&linear)?[..] {
                        [kind] => self.survey_content(&name, kind, &linear)?,
                        ref kinds => self.keep_ambiguous(&name, kinds, len(&linear.pieces)),
                    }
                }
            }
        }
        Ok(())
    }

    /// Drops what lies between partitions, but neither what comes before the first nor the end of
    /// the disk: boot loaders and others live there.
    fn survey_gaps(&mut self, table: &PartitionTable, found: &[Partition]) {
        let name = "between the partitions";
        let disk_len = self.disk.len();
        let is_piece = |one: &Partition| one.foreign.is_some();
        let is_understood = |part: &DiskPart| part.kind != UNKNOWN;
        let reason = if table.doubt.is_some() {
            table.doubt
        } else if found.len() != table.partitions.len() {
            Some("its partitions overlap, or go past its end")
        } else if table.partitions.iter().any(is_piece) {
            Some("the disk is a piece of something else")
        } else if !table.knows_sectors && !self.parts.iter().any(is_understood) {
            Some("no partition is understood")
        } else {
            None
        };
        let end = disk_len.saturating_sub(END_LEN);
        let mut used: Vec<Range<u64>> = found
            .iter()
            .map(|one| one.volume.byte_range())
            .chain(table.tables.iter().cloned())
            .chain(std::iter::once(end..disk_len))
            .collect();
        used.sort_unstable_by_key(|range| range.start);
        let (mut at, mut len, part) = (
            found.first().map_or(0, |one| one.volume.start),
            0,
            self.parts.len(),
        );
        for range in used {
            if at < range.start {
                len += range.start - at;
                self.ranges.push_range(at..range.start, part);
            }
            at = at.max(range.end);
        }
        if len > 0 {
            let verdict = reason.map_or(FreeVerdict::Free, FreeVerdict::kept_because);
            self.add_part(name, len, "no partition", verdict);
        }
    }

    fn into_free_space(mut self) -> FreeSpace {
        let lens = self.ranges.part_lens(self.parts.len());
        for (part, len) in self.parts.iter_mut().zip(lens) {
            part.free = len;
        }
        FreeSpace {
            parts: self.parts,
            ranges: self.ranges.into_ranges(),
        }
    }
}

/// The marks of what `linear` holds. A partition table in it is one, too.
fn volume_marks(linear: &LinearDisk<'_>) -> Result<Vec<&'static str>, GuestError> {
    let mut found = signature::find_marks(linear, &Volume::whole_disk(linear))?;
    let table = partitions::read_partitions(linear)?;
    if table.is_damaged || !table.partitions.is_empty() {
        found.push(PARTITION_TABLE);
    }
    Ok(found)
}

/// True if `mark` is the mark of content of `kind`: those of ext2 to ext4 have one.
fn is_marked(mark: &str, kind: &str) -> bool {
    mark == kind || mark == "ext4" && ["ext2", "ext3"].contains(&kind)
}

/// Pieces of a disk, one after the other, as a disk of their own.
struct LinearDisk<'d> {
    disk: &'d dyn ReadAt,
    pieces: Vec<Range<u64>>,
    /// The first byte of each piece in it.
    starts: Vec<u64>,
    len: u64,
}

impl<'d> LinearDisk<'d> {
    fn new(disk: &'d dyn ReadAt, pieces: Vec<Range<u64>>) -> Self {
        let mut len = 0;
        let starts = pieces.iter().map(|piece| {
            let start = len;
            len += piece.end - piece.start;
            start
        });
        Self {
            starts: starts.collect(),
            disk,
            pieces,
            len,
        }
    }

    /// Visits the places of `range` on the disk.
    fn each_piece(&self, range: &Range<u64>, visit: &mut dyn FnMut(Range<u64>)) {
        let first = self.starts.partition_point(|start| *start <= range.start);
        let from = first.saturating_sub(1);
        for (start, piece) in self.starts.iter().zip(&self.pieces).skip(from) {
            if *start >= range.end {
                break;
            }
            let end = start + (piece.end - piece.start);
            let (inside, until) = (range.start.max(*start), range.end.min(end));
            if inside < until {
                visit(piece.start + (inside - start)..piece.start + (until - start));
            }
        }
    }
}

impl ReadAt for LinearDisk<'_> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        let end = end.filter(|end| *end <= self.len);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let (mut rest, mut result) = (buffer, Ok(()));
        self.each_piece(&(offset..end), &mut |piece| {
            let (part, after) =
                std::mem::take(&mut rest).split_at_mut((piece.end - piece.start) as usize);
            if result.is_ok() {
                result = self.disk.read_exact_at(part, piece.start);
            }
            rest = after;
        });
        result
    }
}
