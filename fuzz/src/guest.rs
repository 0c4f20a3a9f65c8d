//! A fuzz body for what core reads of guests' disks: partition tables and the free space of file
//! systems.
//!
//! The input is a sparse disk, since real ones are mostly zeros: runs of sectors, each with its
//! place before it.

use std::collections::BTreeMap;
use std::io;

use vellum_core::guest::{free_space, list_volumes, survey_disk};
use vellum_core::source::ReadAt;

const SECTOR_LEN: usize = 512;
/// Long enough for numbers that overflow when somebody multiplies them without care.
const DISK_LEN: u64 = 1 << 56;
/// Free ranges that a run looks at: a bitmap may have a million.
const RANGES_MAX: usize = 10_000;

/// A disk that is zero but for some sectors, and does not go on for ever.
struct Sparse {
    sectors: BTreeMap<u64, Vec<u8>>,
    reads: std::sync::atomic::AtomicUsize,
}

impl Sparse {
    /// The disk that `data` describes: a sector's number in 4 bytes, a count of sectors in 1, then
    /// their bytes; and again.
    fn parse(mut data: &[u8]) -> Self {
        let mut sectors = BTreeMap::new();
        while let Some((head, rest)) = data.split_first_chunk::<5>() {
            let first = u64::from(u32::from_le_bytes([head[0], head[1], head[2], head[3]]));
            let (content, after) = rest.split_at(rest.len().min(usize::from(head[4]) * SECTOR_LEN));
            for (nth, bytes) in (0..).zip(content.chunks(SECTOR_LEN)) {
                let mut sector = bytes.to_vec();
                sector.resize(SECTOR_LEN, 0);
                sectors.insert(first + nth, sector);
            }
            data = after;
        }
        Self {
            sectors,
            reads: 0.into(),
        }
    }
}

impl ReadAt for Sparse {
    fn len(&self) -> u64 {
        DISK_LEN
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset
            .checked_add(buffer.len() as u64)
            .expect("no read goes round the end");
        assert!(end <= DISK_LEN, "no read goes past the end");
        // Millions of groups of which each says that all is free: an input's time, not a promise
        // that is broken.
        if self
            .reads
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed)
            > RANGES_MAX
        {
            return Err(io::ErrorKind::TimedOut.into());
        }
        buffer.fill(0);
        for (nth, sector) in self
            .sectors
            .range(offset / SECTOR_LEN as u64..end.div_ceil(SECTOR_LEN as u64))
        {
            for (at, byte) in (nth * SECTOR_LEN as u64..).zip(sector) {
                if (offset..end).contains(&at) {
                    buffer[(at - offset) as usize] = *byte;
                }
            }
        }
        Ok(())
    }
}

/// Volumes lie in order beside each other, and free ranges in order inside their volume, whatever
/// is on the disk. So do the ranges that may be dropped.
pub fn guest(data: &[u8]) {
    let disk = Sparse::parse(data);
    if let Ok(space) = survey_disk(&disk) {
        let ranges = space.free_ranges();
        assert!(ranges.is_sorted_by(|one, next| one.end < next.start));
        assert!(
            ranges
                .iter()
                .all(|one| one.start < one.end && one.end <= DISK_LEN)
        );
        let parts: u64 = space.parts().iter().map(|part| part.free).sum();
        assert_eq!(parts, space.free_len(), "each range is one part's");
    }
    let disk = Sparse::parse(data);
    let Ok(found) = list_volumes(&disk) else {
        return;
    };
    let mut end = 0;
    for volume in found {
        assert!(
            volume.start >= end && volume.len <= DISK_LEN - volume.start,
            "{volume:?} after {end}"
        );
        end = volume.start + volume.len;
        let (mut at, mut count) = (volume.start, 0);
        let _ = free_space(&disk, &volume, &mut |range| {
            assert!(
                range.start >= at && range.start < range.end && range.end <= end,
                "{range:?} after {at} in {volume:?}"
            );
            (at, count) = (range.end, count + 1);
            if count < RANGES_MAX {
                Ok(())
            } else {
                Err(io::ErrorKind::TimedOut.into())
            }
        });
    }
}
