//! The header that `VMware`'s hosted sparse extents have, as it is written. The reader's table says
//! which field is where; beside those there are:
//!
//! ```text
//! 48  8  place of the second directory, 0: none
//! 64  8  sectors before the first grain
//! 73  4  line ends "\n \r\n", changed by a transfer as text
//! ```

use super::SECTOR_LEN;
use super::description::DESCRIPTOR_SECTORS;
use crate::write::HeaderBytes;

pub(super) const FLAG_NEWLINES: u32 = 1 << 0;
pub(super) const FLAG_SECOND_DIRECTORY: u32 = 1 << 1;
/// 64 KiB, as everybody has it.
pub(super) const GRAIN_LEN: u64 = 64 << 10;
/// Entries of a table; the only number that `VMware` takes.
pub(super) const TABLE_ENTRIES: u64 = 512;
pub(super) const TABLE_SECTORS: u64 = TABLE_ENTRIES * 4 / SECTOR_LEN;
/// A place is a sector in 32 bits: grains begin below 2 TiB.
pub(super) const PLACE_SECTORS_MAX: u64 = u32::MAX as u64;
const LINE_ENDS: &[u8] = b"\n \r\n";

/// A header, places and lengths in sectors.
pub(super) struct HostedHeader {
    pub(super) version: u32,
    pub(super) flags: u32,
    pub(super) capacity: u64,
    pub(super) second_directory: u64,
    pub(super) directory: u64,
    pub(super) overhead: u64,
    pub(super) compression: u16,
}

/// Number of tables of a disk.
pub(super) fn directory_entries(image_len: u64) -> u64 {
    image_len.div_ceil(GRAIN_LEN * TABLE_ENTRIES)
}

impl HostedHeader {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut header = HeaderBytes::new(SECTOR_LEN as usize);
        header
            .put_field(0, b"KDMV")
            .le_u32(4, self.version)
            .le_u32(8, self.flags)
            .le_u64(12, self.capacity)
            .le_u64(20, GRAIN_LEN / SECTOR_LEN)
            .le_u64(28, 1)
            .le_u64(36, DESCRIPTOR_SECTORS)
            .le_u32(44, TABLE_ENTRIES as u32)
            .le_u64(48, self.second_directory)
            .le_u64(56, self.directory)
            .le_u64(64, self.overhead)
            .put_field(73, LINE_ENDS)
            .le_u16(77, self.compression);
        header.as_slice().to_vec()
    }
}
