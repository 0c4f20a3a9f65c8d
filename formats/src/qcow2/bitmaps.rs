//! The persistent bitmaps of a qcow2, as change maps: what was written since a bitmap began is to
//! be read, everything else is as it was then.
//!
//! ```text
//! All numbers are big-endian. Source: qemu docs/interop/qcow2.rst.
//!
//! Extension: bitmaps (4), reserved (4), length (8) and offset (8) of the directory. It counts only
//! if autoclear feature 0 is set: whoever does not know bitmaps clears that, and they are stale.
//!
//! Entry of the directory                                   the failure its check guards
//! 0   8  offset of the bitmap's table, 8 4 its entries     a table outside the file
//! 12  4  flags: 0 in use, 1 enabled, 2 extra data are      a bitmap that its last writer did
//!        compatible                                        not finish
//! 16  1  type, 1: dirty tracking                           bits that mean something else
//! 17  1  log2 of the bytes of a bit                        a shift too far
//! 18  2  length of the name, 20 4 of extra data            texts outside the file
//! 24     extra data, name; up to a multiple of 8
//!
//! Table: 8 bytes an entry: bits 9 to 55 offset of a cluster of bits; without one, bit 0: all ones
//! Bits: the lowest of a byte first
//! ```

use super::header::Qcow2Header;
use super::{malformed, refused};
use crate::fields::{be_u16, be_u32, be_u64};
use crate::{lies_inside, read_up_to};
use vellum_core::change_map::ChangeMap;
use vellum_core::source::{ReadAt, SourceError};

/// qemu's own limits.
const BITMAPS_MAX: u32 = 65_535;
const DIRECTORY_LEN_MAX: u64 = 64 << 20;
const NAME_LEN_MAX: u16 = 1023;
const GRANULARITY_BITS: std::ops::RangeInclusive<u32> = 9..=31;
const ENTRY_LEN: u64 = 24;
const IN_USE: u32 = 1;
const EXTRA_IS_COMPATIBLE: u32 = 4;
const TYPE_DIRTY: u8 = 1;
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Ranges of a map at most, some 16 MiB of text. A bitmap with more is told coarser, since to read
/// too much is right.
const RANGES_MAX: usize = 1 << 19;

/// A bitmap that qemu keeps in an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirtyBitmap {
    /// Its name.
    pub name: String,
    /// Bytes of the disk that one bit stands for.
    pub granularity_len: u64,
    /// True if it is recorded now.
    pub is_enabled: bool,
    /// The place and the entries of its table.
    table: (u64, u32),
    was_closed: bool,
}

/// Lists the bitmaps, in the file's order.
pub(crate) fn list_bitmaps(file: &dyn ReadAt) -> Result<Vec<DirtyBitmap>, SourceError> {
    let header = Qcow2Header::read_from(file)?;
    let Some(directory) = header.bitmap_directory else {
        return Ok(Vec::new());
    };
    let (offset, len) = (directory.offset, directory.len);
    if header.bitmaps > BITMAPS_MAX
        || len > DIRECTORY_LEN_MAX
        || !lies_inside(offset, len, file.len())
    {
        return Err(malformed(format!(
            "the directory of {} bitmaps at byte {offset} of {len} bytes is not inside the file",
            header.bitmaps
        )));
    }
    if !directory.is_current {
        return Err(refused(
            "its bitmaps are stale: it was written by something that does not know them",
        ));
    }
    let (mut found, mut at) = (Vec::new(), offset);
    for number in 0..header.bitmaps {
        let (bitmap, len) = DirtyBitmap::read_entry(file, at, number)?;
        found.push(bitmap);
        at = at.saturating_add(len);
    }
    Ok(found)
}

/// Reads a bitmap as a change map of the disk.
pub(crate) fn change_map(
    file: &dyn ReadAt,
    bitmap: &DirtyBitmap,
) -> Result<ChangeMap, SourceError> {
    if !bitmap.was_closed {
        return Err(refused(format!(
            "the bitmap {:?} was in use when the image was last closed: it may lack changes",
            bitmap.name
        )));
    }
    let header = Qcow2Header::read_from(file)?;
    let mut ranges = DirtyRanges::new(bitmap.granularity_len);
    bitmap.visit_dirty(file, &header, |first, count| ranges.push_bits(first, count))?;
    let text = ranges.change_map_text(header.virtual_len);
    ChangeMap::parse(text.as_bytes()).map_err(|error| malformed(error.to_string()))
}

impl DirtyBitmap {
    fn read_entry(file: &dyn ReadAt, at: u64, number: u32) -> Result<(Self, u64), SourceError> {
        let cut = || malformed(format!("bitmap {number} at byte {at} leaves the file"));
        let fixed = read_up_to(file, at, ENTRY_LEN as usize)?;
        let [kind, granularity_bits] = crate::fields::array_at(&fixed, 16).ok_or_else(cut)?;
        let granularity_bits = u32::from(granularity_bits);
        let flags = be_u32(&fixed, 12).ok_or_else(cut)?;
        let name_len = be_u16(&fixed, 18).ok_or_else(cut)?;
        let extra_len = be_u32(&fixed, 20).ok_or_else(cut)?;
        if kind != TYPE_DIRTY || extra_len > 0 && flags & EXTRA_IS_COMPATIBLE == 0 {
            return Err(refused(format!(
                "bitmap {number} is of a kind that is not known"
            )));
        }
        if !GRANULARITY_BITS.contains(&granularity_bits) || name_len > NAME_LEN_MAX {
            return Err(malformed(format!(
                "bitmap {number} has bits for 2^{granularity_bits} bytes and a name of {name_len}"
            )));
        }
        let name_at = at
            .saturating_add(ENTRY_LEN)
            .saturating_add(u64::from(extra_len));
        let name = read_up_to(file, name_at, usize::from(name_len))?;
        if name.len() < usize::from(name_len) {
            return Err(cut());
        }
        let len = ENTRY_LEN + u64::from(extra_len) + u64::from(name_len);
        let bitmap = Self {
            name: String::from_utf8_lossy(&name).into_owned(),
            granularity_len: 1 << granularity_bits,
            is_enabled: flags & 2 != 0,
            table: be_u64(&fixed, 0).zip(be_u32(&fixed, 8)).ok_or_else(cut)?,
            was_closed: flags & IN_USE == 0,
        };
        Ok((bitmap, len.next_multiple_of(8)))
    }

    /// Tells `found` each run of set bits inside a byte or a cluster, in order.
    fn visit_dirty(
        &self,
        file: &dyn ReadAt,
        header: &Qcow2Header,
        mut found: impl FnMut(u64, u64),
    ) -> Result<(), SourceError> {
        let cluster_len = header.cluster_len();
        let bits = header.virtual_len.div_ceil(self.granularity_len);
        let needed = bits.div_ceil(8).div_ceil(cluster_len);
        let (table_offset, entries) = self.table;
        let table_len = u64::from(entries) * 8;
        if u64::from(entries) != needed || !lies_inside(table_offset, table_len, file.len()) {
            return Err(malformed(format!(
                "the table of bitmap {:?} at byte {table_offset} has {entries} entries; {needed} \
                 are needed",
                self.name
            )));
        }
        for number in 0..needed {
            let entry = read_up_to(file, table_offset + 8 * number, 8)?;
            let entry = be_u64(&entry, 0).unwrap_or_default();
            let first = number * cluster_len * 8;
            match entry & OFFSET_MASK {
                0 if entry & 1 == 1 => found(first, cluster_len * 8),
                0 => {}
                offset if !lies_inside(offset, cluster_len, file.len()) => {
                    return Err(malformed(format!("bits at byte {offset} leave the file")));
                }
                offset => {
                    let bytes = read_up_to(file, offset, cluster_len as usize)?;
                    for (at, byte) in bytes.iter().enumerate().filter(|(_, byte)| **byte != 0) {
                        let bit_at = first + at as u64 * 8;
                        (0..8)
                            .filter(|bit| (byte >> bit) & 1 == 1)
                            .for_each(|bit| found(bit_at + bit, 1));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Ranges of set bits, joined; coarser when there are too many.
struct DirtyRanges {
    granularity_len: u64,
    /// Half-open, in bytes.
    ranges: Vec<(u64, u64)>,
    /// Gaps up to this many bytes are read too.
    gap_len: u64,
}

impl DirtyRanges {
    fn new(granularity_len: u64) -> Self {
        Self {
            granularity_len,
            ranges: Vec::new(),
            gap_len: 0,
        }
    }

    fn push_bits(&mut self, first: u64, count: u64) {
        let start = first * self.granularity_len;
        let end = start + count * self.granularity_len;
        self.add_range(start, end);
        if self.ranges.len() > RANGES_MAX {
            self.gap_len = (2 * self.gap_len).max(self.granularity_len);
            let fine = std::mem::take(&mut self.ranges);
            fine.into_iter()
                .for_each(|(start, end)| self.add_range(start, end));
        }
    }

    fn add_range(&mut self, start: u64, end: u64) {
        match self.ranges.last_mut() {
            Some((_, last)) if start <= last.saturating_add(self.gap_len) => *last = end,
            _ => self.ranges.push((start, end)),
        }
    }

    /// The ranges in the notation of change maps, up to the disk's end.
    fn change_map_text(&self, image_len: u64) -> String {
        use std::fmt::Write as _;
        let (mut text, mut at) = (String::new(), 0);
        let mut line = |start: u64, end: u64, kind: &str| {
            let (start, end) = (start.min(image_len), end.min(image_len));
            if start < end {
                let done = writeln!(text, "{start} {} {kind}", end - start);
                done.expect("a text in memory takes all that is written");
            }
        };
        for (start, end) in &self.ranges {
            line(at, *start, "same");
            line(*start, *end, "data");
            at = *end;
        }
        line(at, image_len, "same");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_joined_and_told_coarser_when_there_are_too_many() {
        let mut ranges = DirtyRanges::new(512);
        for bit in [0, 1, 5] {
            ranges.push_bits(bit, 1);
        }
        assert_eq!(
            ranges.change_map_text(4000),
            "0 1024 data\n1024 1536 same\n2560 512 data\n3072 928 same\n"
        );
        let mut ranges = DirtyRanges::new(512);
        for bit in 0..2 * RANGES_MAX as u64 {
            ranges.push_bits(2 * bit, 1);
        }
        assert!(ranges.ranges.len() <= RANGES_MAX);
        assert_eq!(ranges.ranges.first().map(|range| range.0), Some(0));
        let last = ranges.ranges.last().map(|range| range.1);
        assert_eq!(last, Some((4 * RANGES_MAX as u64 - 1) * 512));
    }
}
