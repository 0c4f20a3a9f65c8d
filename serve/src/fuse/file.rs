//! One open file: what reads, writes, `fallocate` and `lseek` mean for a device, whose length is
//! fixed. It does not know where requests come from.

use std::sync::Arc;

use rustix::fs::{FallocateFlags, OFlags};
use vellum_core::device::{AllocationStatus, Device, DeviceError, TypedRange};

use super::refusal::Refusal;
use crate::change_board::WatchGuard;

/// Stretches asked for at a time while seeking: a page of them, so that a disk in a million pieces
/// costs no more memory.
const STRETCH_COUNT_MAX: usize = 256;
/// Values of `whence` for `lseek` on Linux.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

/// A device behind a file handle. It stays attached until the handle is closed.
pub(super) struct OpenFile {
    pub(super) inode: u64,
    pub(super) export: String,
    /// Others may write the disk, and the kernel is told so.
    pub(super) _watched: Option<WatchGuard>,
    pub(super) device: Arc<dyn Device>,
}

impl OpenFile {
    /// Reads up to `len` bytes into `buffer`, which becomes as long as what there is.
    pub(super) fn read_range(
        &self,
        offset: u64,
        len: u32,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let len = on_device(offset, len.into(), self.device.len());
        buffer.resize(len as usize, 0);
        if len > 0 {
            self.device.read_at(buffer, offset)?;
        }
        Ok(())
    }

    /// Writes what fits in front of the end and returns how much that was. With the flags of
    /// `O_DSYNC` or `O_SYNC` it is durable: the kernel leaves that to us.
    pub(super) fn write_range(
        &self,
        offset: u64,
        bytes: &[u8],
        flags: i32,
    ) -> Result<u32, Refusal> {
        let len = on_device(offset, bytes.len() as u64, self.device.len());
        if len == 0 && !bytes.is_empty() {
            return Err(Refusal::PastEnd);
        }
        self.device.write_at(&bytes[..len as usize], offset)?;
        if OFlags::from_bits_retain(flags.cast_unsigned()).contains(OFlags::DSYNC) {
            self.device.flush()?;
        }
        Ok(len as u32)
    }

    /// Makes every answered write durable.
    pub(super) fn sync_data(&self) -> Result<(), Refusal> {
        if self.device.is_read_only() {
            Ok(())
        } else {
            Ok(self.device.flush()?)
        }
    }

    /// Makes what lies behind `len` zero: the length of a disk does not change, but what is cut off
    /// its file is gone.
    pub(super) fn zero_tail(&self, len: u64) -> Result<(), Refusal> {
        let device_len = self.device.len();
        if len > device_len {
            return Err(Refusal::PastEnd);
        }
        if len < device_len {
            self.device.write_zeroes(len, device_len - len)?;
        }
        Ok(())
    }

    /// Punches holes and zeroes ranges; keeping room for what is inside is promised and costs
    /// nothing, as wherever nothing is written in place.
    pub(super) fn zero_or_punch(&self, offset: u64, len: u64, mode: i32) -> Result<(), Refusal> {
        if let Some(len) = zeroed_len(offset, len, mode, self.device.len())? {
            self.device.write_zeroes(offset, len)?;
        }
        Ok(())
    }

    /// The next data or hole from `offset`. Zeros that nothing is stored for are holes, however
    /// they were made; the end is one too.
    pub(super) fn seek_data_or_hole(&self, offset: i64, whence: i32) -> Result<i64, Refusal> {
        let wants_data = match whence {
            SEEK_DATA => true,
            SEEK_HOLE => false,
            _ => return Err(Refusal::Invalid),
        };
        let start = u64::try_from(offset).map_err(|_| Refusal::NothingThere)?;
        let found = find_data_or_hole(start, self.device.len(), wants_data, |offset, len| {
            self.device.allocation(offset, len, STRETCH_COUNT_MAX)
        })?;
        i64::try_from(found.ok_or(Refusal::NothingThere)?).map_err(|_| Refusal::Invalid)
    }
}

/// Number of bytes of the `len` from `offset` that a device of `device_len` bytes has.
fn on_device(offset: u64, len: u64, device_len: u64) -> u64 {
    len.min(device_len.saturating_sub(offset))
}

/// Number of bytes from `offset` that a `fallocate` makes zero, if any. The length stays as it is:
/// a range past the end is cut off where the mode says that the length shall stay, and refused
/// where it would grow. Nothing is zeroed where only room is asked for.
fn zeroed_len(offset: u64, len: u64, mode: i32, device_len: u64) -> Result<Option<u64>, Refusal> {
    let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
    let keeps_len = mode.contains(FallocateFlags::KEEP_SIZE);
    let kind = mode.difference(FallocateFlags::KEEP_SIZE);
    let zeroes =
        kind == FallocateFlags::ZERO_RANGE || (kind == FallocateFlags::PUNCH_HOLE && keeps_len);
    if !zeroes && !kind.is_empty() {
        return Err(Refusal::UnknownMode);
    }
    let inside = on_device(offset, len, device_len);
    if inside < len && !keeps_len {
        return Err(Refusal::PastEnd);
    }
    Ok((zeroes && inside > 0).then_some(inside))
}

/// The first byte from `start` that is data, or is not. `stretches` answers as
/// [`Device::allocation`] does.
fn find_data_or_hole(
    start: u64,
    end: u64,
    wants_data: bool,
    mut stretches: impl FnMut(u64, u64) -> Result<Vec<TypedRange<AllocationStatus>>, DeviceError>,
) -> Result<Option<u64>, Refusal> {
    let mut offset = start;
    while offset < end {
        let part = stretches(offset, end - offset)?;
        if let Some(found) = part
            .iter()
            .find(|stretch| (stretch.kind == AllocationStatus::Data) == wants_data)
        {
            return Ok(Some(found.offset.max(start)));
        }
        let after = part
            .last()
            .map_or(offset, |last| last.offset.saturating_add(last.len));
        if after <= offset {
            return Err(Refusal::Device(DeviceError::Io(
                "the map of the disk has a gap".to_owned(),
            )));
        }
        offset = after;
    }
    Ok((start < end && !wants_data).then_some(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: i32 = 1;
    const PUNCH: i32 = 2;
    const ZERO: i32 = 16;
    const COLLAPSE: i32 = 8;

    #[test]
    fn what_lies_past_the_end_is_cut_off() {
        for (offset, len, expected) in [
            (0, 10, 10),
            (0, 101, 100),
            (99, 2, 1),
            (100, 1, 0),
            (u64::MAX, 5, 0),
        ] {
            assert_eq!(on_device(offset, len, 100), expected, "{offset} {len}");
        }
    }

    #[test]
    fn fallocate_zeroes_what_it_names_and_never_grows() {
        for (offset, len, mode, expected) in [
            (0, 100, PUNCH | KEEP, Ok(Some(100))),
            (90, 11, PUNCH | KEEP, Ok(Some(10))),
            (100, 1, PUNCH | KEEP, Ok(None)),
            (u64::MAX, u64::MAX, PUNCH | KEEP, Ok(None)),
            (0, 100, ZERO, Ok(Some(100))),
            (90, 11, ZERO, Err(Refusal::PastEnd)),
            (90, 11, ZERO | KEEP, Ok(Some(10))),
            (0, 100, 0, Ok(None)),
            (90, 11, 0, Err(Refusal::PastEnd)),
            (90, 11, KEEP, Ok(None)),
            (0, 10, PUNCH, Err(Refusal::UnknownMode)),
            (0, 10, COLLAPSE, Err(Refusal::UnknownMode)),
            (0, 10, PUNCH | ZERO | KEEP, Err(Refusal::UnknownMode)),
            (0, 10, -1, Err(Refusal::UnknownMode)),
        ] {
            assert_eq!(
                zeroed_len(offset, len, mode, 100),
                expected,
                "{offset} {len} {mode}"
            );
        }
    }

    /// A map in which each letter is ten bytes, answered two stretches at a time.
    fn seek(map: &str, start: u64, wants_data: bool) -> Option<u64> {
        let kinds: Vec<_> = map
            .chars()
            .map(|letter| match letter {
                'd' => AllocationStatus::Data,
                'z' => AllocationStatus::Zero,
                _ => AllocationStatus::Hole,
            })
            .collect();
        let end = kinds.len() as u64 * 10;
        let stretches = |offset: u64, len: u64| {
            assert!(len > 0 && offset + len == end);
            let cells = (offset / 10)..kinds.len() as u64;
            let whole = cells.map(|cell| TypedRange {
                offset: (cell * 10).max(offset),
                len: 10 - offset.saturating_sub(cell * 10),
                kind: kinds[cell as usize],
            });
            Ok(whole.take(2).collect())
        };
        find_data_or_hole(start, end, wants_data, stretches).unwrap()
    }

    #[test]
    fn seek_finds_data_and_holes_across_parts_of_the_map() {
        for (map, start, data, hole) in [
            ("ddhhzd", 0, Some(0), Some(20)),
            ("ddhhzd", 15, Some(15), Some(20)),
            ("ddhhzd", 20, Some(50), Some(20)),
            ("ddhhzd", 29, Some(50), Some(29)),
            ("ddhhzd", 59, Some(59), Some(60)),
            ("ddhhzd", 60, None, None),
            ("hzhzh", 3, None, Some(3)),
            ("ddddd", 3, Some(3), Some(50)),
            ("", 0, None, None),
        ] {
            assert_eq!(seek(map, start, true), data, "data in {map} from {start}");
            assert_eq!(seek(map, start, false), hole, "hole in {map} from {start}");
        }
    }

    #[test]
    fn a_map_that_stands_still_ends_the_search() {
        for stuck in [
            vec![],
            vec![TypedRange {
                offset: 0,
                len: 0,
                kind: AllocationStatus::Hole,
            }],
        ] {
            assert!(find_data_or_hole(0, 10, true, |_, _| Ok(stuck.clone())).is_err());
        }
    }
}
