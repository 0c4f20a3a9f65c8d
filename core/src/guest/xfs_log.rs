//! The log of XFS: whether it ends with the record that an unmount writes, so that nothing in it is
//! to be replayed.
//!
//! ```text
//! Sector of the log (Linux fs/xfs/libxfs/xfs_log_format.h; big-endian)
//! 0       4     the round in which it was written; in a record's header the round is at 4
//!
//! Header of a record
//! 0       4     0xfeedbabe
//! 8       4     version; 2 may have more than one sector of header
//! 12      4     bytes that follow the header
//! 40      4     operations in it: 1 in that of an unmount
//! 320     4     the longest record, in bytes: a sector of header for each 32 KiB
//!
//! Operation (after the header)
//! 9       1     flags: 0x20 is an unmount
//! ```

use std::ops::Range;

use super::bytes::ByteFields;
use super::{GuestError, Volume};
use crate::source::ReadAt;

const SECTOR_LEN: u64 = 512;
const HEADER_MAGIC: u32 = 0xfeed_babe;
const HEADER_SPAN: u64 = 32 << 10;
/// Sectors of the longest record, with its headers: 256 KiB, and as much to round it up.
const RECORD_SECTORS_MAX: u64 = 1024 + 8;
const UNMOUNT: u8 = 0x20;

struct XfsLog<'d> {
    disk: &'d dyn ReadAt,
    volume: &'d Volume,
    start: u64,
    sectors: u64,
}

/// True if the log of `len` bytes at byte `start` of the volume ends with an unmount. Cost: some
/// thirty sectors, and those of one record.
pub(super) fn is_clean(
    disk: &dyn ReadAt,
    volume: &Volume,
    start: u64,
    len: u64,
) -> Result<bool, GuestError> {
    let log = XfsLog {
        disk,
        volume,
        start,
        sectors: len / SECTOR_LEN,
    };
    let Some(head) = log.find_head()? else {
        return Ok(false);
    };
    // Back from the head to the header of the last record.
    for back in 1..=RECORD_SECTORS_MAX.min(log.sectors) {
        let at = (head + log.sectors - back) % log.sectors;
        let header = log.read_sector(at)?;
        let fields = ByteFields(&header);
        if fields.be32(0) == HEADER_MAGIC {
            return log.is_unmount(at, fields, head);
        }
    }
    Ok(false)
}

impl XfsLog<'_> {
    fn read_sector(&self, at: u64) -> Result<[u8; SECTOR_LEN as usize], GuestError> {
        let mut bytes = [0; SECTOR_LEN as usize];
        self.volume
            .try_read_at(self.disk, self.start + at * SECTOR_LEN, &mut bytes)?;
        Ok(bytes)
    }

    fn cycle_at(&self, at: u64) -> Result<u32, GuestError> {
        let bytes = self.read_sector(at)?;
        let fields = ByteFields(&bytes);
        let is_header = fields.be32(0) == HEADER_MAGIC;
        Ok(fields.be32(if is_header { 4 } else { 0 }))
    }

    /// The sector that would be written next: the first that is of an earlier round than the
    /// log's beginning. `None` if the log makes no sense.
    fn find_head(&self) -> Result<Option<u64>, GuestError> {
        if self.sectors == 0 {
            return Ok(None);
        }
        let (first, last) = (self.cycle_at(0)?, self.cycle_at(self.sectors - 1)?);
        if first == 0 {
            return Ok(None);
        }
        if first == last {
            return Ok(Some(0));
        }
        if last != 0 && last.checked_add(1) != Some(first) {
            return Ok(None);
        }
        let Range { mut start, mut end } = 0..self.sectors - 1;
        while end - start > 1 {
            let middle = start + (end - start) / 2;
            if self.cycle_at(middle)? == first {
                start = middle;
            } else {
                end = middle;
            }
        }
        Ok(Some(end))
    }

    /// True if the record at sector `at` is an unmount and ends at `head`.
    fn is_unmount(&self, at: u64, header: ByteFields<'_>, head: u64) -> Result<bool, GuestError> {
        let longest = u64::from(header.be32(320));
        let header_sectors = if header.be32(8) & 2 == 0 {
            1
        } else {
            longest.div_ceil(HEADER_SPAN).max(1)
        };
        let data = at + header_sectors;
        let end = data + u64::from(header.be32(12)).div_ceil(SECTOR_LEN);
        if header.be32(40) != 1 || end % self.sectors != head {
            return Ok(false);
        }
        let operation = self.read_sector(data % self.sectors)?;
        Ok(ByteFields(&operation).u8(9) & UNMOUNT != 0)
    }
}
