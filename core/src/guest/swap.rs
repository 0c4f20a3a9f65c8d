//! Swap space, whose content means nothing once its guest is off.
//!
//! ```text
//! Header (Linux include/linux/swap.h; little-endian)
//! offset         size  meaning
//! 1024           4     version: 1
//! 1028           4     the last page; the first, of this header, is not for use
//! page - 10      10    "SWAPSPACE2"; where, tells how long a page is
//! ```

use std::ops::Range;

use super::bytes::ByteFields;
use super::{FreeVerdict, GuestError, GuestFileSystem, Visit, Volume};
use crate::source::ReadAt;

const MAGIC: &[u8] = b"SWAPSPACE2";
/// Pages of the machines that Linux runs on.
const PAGE_LENS: [u64; 4] = [4 << 10, 8 << 10, 16 << 10, 64 << 10];

pub(super) fn free_space(
    disk: &dyn ReadAt,
    volume: &Volume,
    visit: Visit<'_>,
) -> Result<Option<GuestFileSystem>, GuestError> {
    for page_len in PAGE_LENS {
        let mut magic = [0; MAGIC.len()];
        if volume.try_read_at(disk, page_len - MAGIC.len() as u64, &mut magic)? && magic == MAGIC {
            let range = page_area(disk, volume, page_len)?;
            if range.start < range.end.min(volume.len) {
                visit(volume.disk_range(range))?;
            }
            return Ok(Some(GuestFileSystem {
                kind: "swap",
                verdict: FreeVerdict::Free,
            }));
        }
    }
    Ok(None)
}

/// The bytes that swap pages may take, without the header.
fn page_area(disk: &dyn ReadAt, volume: &Volume, page_len: u64) -> Result<Range<u64>, GuestError> {
    let mut header = [0; 8];
    volume.try_read_at(disk, 1024, &mut header)?;
    let header = ByteFields(&header);
    if header.le32(0) != 1 {
        return Err(GuestError::Malformed {
            kind: "swap",
            reason: "its version is not known",
        });
    }
    Ok(page_len..(u64::from(header.le32(4)) + 1) * page_len)
}
