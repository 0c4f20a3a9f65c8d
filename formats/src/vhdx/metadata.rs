//! The metadata of a VHDX: lengths, and how the parent is named.
//!
//! ```text
//! Metadata table, 64 KiB: "metadata", reserved (2), entries (2), reserved (20), then entries of
//! 32: GUID (16), offset in the region (4), length (4), flags (4: bit 0 user, bit 1 disk, bit 2
//! required), reserved (4).
//!
//! item                 value                                   the failure its check guards
//! file parameters      block length (4), flags (4): bit 0      a shift too far; a child read as a
//!                      fixed, bit 1 has a parent               whole disk
//! virtual disk size    bytes (8)                               sums that overflow
//! page 83 data         GUID of the disk (16)                   –
//! logical sector       512 or 4,096 (4)                        bitmaps read at another scale
//! physical sector      512 or 4,096 (4)                        –
//! parent locator       GUID of its kind (16), reserved (2), pairs (2), then for each pair: offset
//!                      of the key (4), of the value (4), their lengths (2, 2); UTF-16
//! ```

use vellum_core::source::{ReadAt, SourceError};
use vellum_core::units::IMAGE_LEN_MAX;

use super::FORMAT;
use crate::fields::{array_at, le_u16, le_u32, le_u64};
use crate::identity::{DiskIdentity, ParentReference};
use crate::{malformed, read_up_to, refused};

const TABLE_LEN: usize = 64 << 10;
const ENTRIES_MAX: u16 = 2047;
/// Items are small: the longest is a parent locator with a few paths.
const ITEM_LEN_MAX: u32 = 64 << 10;
const PAIRS_MAX: u16 = 64;
const BLOCK_LEN_MIN: u32 = 1 << 20;
pub(super) const BLOCK_LEN_MAX: u32 = 256 << 20;
pub(super) const FLAG_USER: u32 = 1;
pub(super) const FLAG_REQUIRED: u32 = 4;

pub(super) const FILE_PARAMETERS: [u8; 16] =
    *b"\x37\x67\xa1\xca\x36\xfa\x43\x4d\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b";
pub(super) const DISK_SIZE: [u8; 16] =
    *b"\x24\x42\xa5\x2f\x1b\xcd\x76\x48\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8";
pub(super) const DISK_IDENTITY: [u8; 16] =
    *b"\xab\x12\xca\xbe\xe6\xb2\x23\x45\x93\xef\xc3\x09\xe0\x00\xc7\x46";
pub(super) const LOGICAL_SECTOR: [u8; 16] =
    *b"\x1d\xbf\x41\x81\x6f\xa9\x09\x47\xba\x47\xf2\x33\xa8\xfa\xab\x5f";
pub(super) const PHYSICAL_SECTOR: [u8; 16] =
    *b"\xc7\x48\xa3\xcd\x5d\x44\x71\x44\x9c\xc9\xe9\x88\x52\x51\xc5\x56";
pub(super) const PARENT_LOCATOR: [u8; 16] =
    *b"\x2d\x5f\xd3\xa8\x0b\xb3\x4d\x45\xab\xf7\xd3\xd8\x48\x34\xab\x0c";
pub(super) const VHDX_LOCATOR: [u8; 16] =
    *b"\xb7\xef\x4a\xb0\x9e\xd1\x81\x4a\xb7\x89\x25\xb8\xe9\x44\x59\x13";

/// The content of the metadata, checked.
pub(super) struct VhdxMetadata {
    pub(super) image_len: u64,
    pub(super) block_len: u64,
    pub(super) sector_len: u64,
    pub(super) is_fixed: bool,
    pub(super) has_parent: bool,
    /// The GUID of the last write to the content: a child's locator names this one.
    pub(super) identity: Option<DiskIdentity>,
    pub(super) parent: Option<ParentReference>,
}

#[derive(Default)]
struct MetadataItems {
    parameters: Option<(u32, u32)>,
    image_len: Option<u64>,
    sector_len: Option<u32>,
    parent: Option<ParentReference>,
}

impl VhdxMetadata {
    /// Reads the metadata in `region` (offset, length).
    pub(super) fn read_from(
        file: &dyn ReadAt,
        region: (u64, u64),
        data_identity: [u8; 16],
    ) -> Result<Self, SourceError> {
        let items = MetadataItems::read_from(file, region)?;
        let missing = |what: &str| malformed(FORMAT, format!("its metadata lacks the {what}"));
        let (block_len, flags) = items.parameters.ok_or_else(|| missing("file parameters"))?;
        let image_len = items.image_len.ok_or_else(|| missing("disk's length"))?;
        let sector_len = items.sector_len.ok_or_else(|| missing("sector length"))?;
        if !block_len.is_power_of_two() || !(BLOCK_LEN_MIN..=BLOCK_LEN_MAX).contains(&block_len) {
            return Err(malformed(FORMAT, format!("blocks of {block_len} bytes")));
        }
        if !matches!(sector_len, 512 | 4096) {
            return Err(malformed(FORMAT, format!("sectors of {sector_len} bytes")));
        }
        if image_len > IMAGE_LEN_MAX {
            return Err(malformed(
                FORMAT,
                format!("a length of {image_len} bytes is too much"),
            ));
        }
        let has_parent = flags & 2 != 0;
        let unnamed = ParentReference {
            identity: None,
            hints: Vec::new(),
            format: Some(FORMAT.to_owned()),
        };
        Ok(Self {
            image_len,
            block_len: u64::from(block_len),
            sector_len: u64::from(sector_len),
            is_fixed: flags & 1 != 0,
            has_parent,
            identity: DiskIdentity::from_guid(data_identity).if_set(),
            parent: has_parent.then(|| items.parent.unwrap_or(unnamed)),
        })
    }
}

impl MetadataItems {
    fn read_from(file: &dyn ReadAt, (offset, len): (u64, u64)) -> Result<Self, SourceError> {
        let table = read_up_to(file, offset, TABLE_LEN.min(len as usize))?;
        if !table.starts_with(b"metadata") {
            return Err(malformed(
                FORMAT,
                format!("no metadata table at byte {offset}"),
            ));
        }
        let count = le_u16(&table, 10).unwrap_or_default();
        if count > ENTRIES_MAX {
            return Err(malformed(
                FORMAT,
                format!("a metadata table with {count} entries"),
            ));
        }
        let mut items = Self::default();
        for number in 0..usize::from(count) {
            let entry = table
                .get(32 + 32 * number..64 + 32 * number)
                .unwrap_or_default();
            items.take_item(file, (offset, len), entry)?;
        }
        Ok(items)
    }

    fn take_item(
        &mut self,
        file: &dyn ReadAt,
        region: (u64, u64),
        entry: &[u8],
    ) -> Result<(), SourceError> {
        let (Some(guid), Some(at), Some(len), Some(flags)) = (
            array_at::<16>(entry, 0),
            le_u32(entry, 16),
            le_u32(entry, 20),
            le_u32(entry, 24),
        ) else {
            return Err(malformed(FORMAT, "a metadata table that is cut short"));
        };
        if len > ITEM_LEN_MAX || u64::from(at) + u64::from(len) > region.1 {
            return Err(malformed(
                FORMAT,
                format!("a metadata item of {len} bytes at {at} of its region"),
            ));
        }
        let value = read_up_to(file, region.0 + u64::from(at), len as usize)?;
        match guid {
            FILE_PARAMETERS => self.parameters = le_u32(&value, 0).zip(le_u32(&value, 4)),
            DISK_SIZE => self.image_len = le_u64(&value, 0),
            LOGICAL_SECTOR => self.sector_len = le_u32(&value, 0),
            PARENT_LOCATOR => self.parent = Some(parent_of(&value)?),
            DISK_IDENTITY | PHYSICAL_SECTOR => {}
            _ if flags & FLAG_REQUIRED != 0 && flags & FLAG_USER == 0 => {
                return Err(refused(
                    FORMAT,
                    "it needs metadata of a kind that is not known",
                ));
            }
            _ => {}
        }
        Ok(())
    }
}

/// The parent as a locator names it.
fn parent_of(value: &[u8]) -> Result<ParentReference, SourceError> {
    if array_at(value, 0) != Some(VHDX_LOCATOR) {
        return Err(refused(
            FORMAT,
            "its parent is named in a way that is not known",
        ));
    }
    let count = le_u16(value, 18).unwrap_or_default().min(PAIRS_MAX);
    let mut parent = ParentReference {
        identity: None,
        hints: Vec::new(),
        format: Some(FORMAT.to_owned()),
    };
    for number in 0..usize::from(count) {
        let at = 20 + 12 * number;
        let text = |offset: usize, len: usize| {
            let start = le_u32(value, at + offset)? as usize;
            let len = usize::from(le_u16(value, at + len)?);
            let units = value
                .get(start..start.checked_add(len)?)?
                .as_chunks::<2>()
                .0
                .iter();
            let units: Vec<u16> = units.map(|pair| u16::from_le_bytes(*pair)).collect();
            Some(String::from_utf16_lossy(&units))
        };
        let (Some(key), Some(content)) = (text(0, 8), text(4, 10)) else {
            continue;
        };
        match key.as_str() {
            "parent_linkage" => parent.identity = uuid_of(&content),
            "relative_path" | "volume_path" | "absolute_win32_path" => parent.hints.push(content),
            _ => {}
        }
    }
    Ok(parent)
}

/// A GUID as text, in braces or not.
fn uuid_of(text: &str) -> Option<DiskIdentity> {
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let mut uuid = [0; 16];
    for (at, byte) in uuid.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    DiskIdentity::Uuid(uuid).if_set()
}
