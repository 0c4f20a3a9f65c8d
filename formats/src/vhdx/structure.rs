//! The fixed places of a VHDX file: its signature, two headers, two region tables.
//!
//! ```text
//! All numbers are little-endian.
//!
//! byte     what
//! 0        "vhdxfile", then the maker's name in UTF-16
//! 64 Ki    header, 4,096 bytes; a second one at 128 Ki
//! 192 Ki   region table, 64 KiB; a second one at 256 Ki
//!
//! Header                                                    the failure its check guards
//! 0   4    "head"                                           –
//! 4   4    CRC-32C of the 4,096 bytes, this field zero      damage, a torn write
//! 8   8    sequence number: the greater one counts          the older header
//! 16  16   GUID of the last write to the file
//! 32  16   GUID of the last write to the content
//! 48  16   GUID of the log's entries; zeros: nothing to replay  another log's remains
//! 64  2    version of the log, 0                            entries that mean something else
//! 66  2    version, 1                                       fields that mean something else
//! 68  4    length of the log, a multiple of 1 MiB           a log outside the file
//! 72  8    offset of the log
//!
//! Region table: "regi", CRC-32C of the 64 KiB (4), entries (4), reserved (4), then entries of 32:
//! GUID (16), offset (8), length (4), bit 0: required (4).
//! ```

use vellum_core::source::{ReadAt, SourceError};

use super::FORMAT;
use crate::fields::{array_at, le_u16, le_u32, le_u64};
use crate::{lies_inside, malformed, read_up_to, refused};

pub(super) const SIGNATURE: &[u8] = b"vhdxfile";
pub(super) const HEADERS_AT: [u64; 2] = [64 << 10, 128 << 10];
pub(super) const HEADER_LEN: usize = 4096;
pub(super) const TABLES_AT: [u64; 2] = [192 << 10, 256 << 10];
pub(super) const TABLE_LEN: usize = 64 << 10;
/// So many fit into a region table.
const ENTRIES_MAX: u32 = 2047;
pub(super) const TABLE_REGION: [u8; 16] =
    *b"\x66\x77\xc2\x2d\x23\xf6\x00\x42\x9d\x64\x11\x5e\x9b\xfd\x4a\x08";
pub(super) const METADATA_REGION: [u8; 16] =
    *b"\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e";

/// The header that counts.
pub(super) struct VhdxHeader {
    sequence: u64,
    pub(super) data_identity: [u8; 16],
    pub(super) log_identity: [u8; 16],
    pub(super) log_offset: u64,
    pub(super) log_len: u64,
}

/// Places of the two regions: offset and length.
pub(super) struct VhdxRegions {
    pub(super) table: (u64, u64),
    pub(super) metadata: (u64, u64),
}

/// Reads both headers; the whole one with the greater sequence number.
pub(super) fn current_header(file: &dyn ReadAt) -> Result<VhdxHeader, SourceError> {
    if read_up_to(file, 0, SIGNATURE.len())? != SIGNATURE {
        return Err(malformed(
            FORMAT,
            "no VHDX signature at byte 0: is it in another format?",
        ));
    }
    let mut found: Option<VhdxHeader> = None;
    for offset in HEADERS_AT {
        let bytes = read_up_to(file, offset, HEADER_LEN)?;
        if !bytes.starts_with(b"head") || !is_sound(&bytes, HEADER_LEN) {
            continue;
        }
        let versions = (le_u16(&bytes, 64), le_u16(&bytes, 66));
        if versions != (Some(0), Some(1)) {
            return Err(refused(
                FORMAT,
                format!("a version other than 1 at byte {}", offset + 64),
            ));
        }
        if let Some(header) = VhdxHeader::parse_fields(&bytes)
            && found
                .as_ref()
                .is_none_or(|other| other.sequence < header.sequence)
        {
            found = Some(header);
        }
    }
    let header = found.ok_or_else(|| malformed(FORMAT, "neither of its two headers is whole"))?;
    if header.has_log() && !lies_inside(header.log_offset, header.log_len, file.len()) {
        return Err(malformed(
            FORMAT,
            format!(
                "its log of {} bytes at byte {} leaves the file",
                header.log_len, header.log_offset
            ),
        ));
    }
    Ok(header)
}

impl VhdxHeader {
    fn parse_fields(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            sequence: le_u64(bytes, 8)?,
            data_identity: array_at(bytes, 32)?,
            log_identity: array_at(bytes, 48)?,
            log_len: u64::from(le_u32(bytes, 68)?),
            log_offset: le_u64(bytes, 72)?,
        })
    }

    /// True if there may be something to replay.
    pub(super) fn has_log(&self) -> bool {
        self.log_identity != [0; 16]
    }
}

impl VhdxRegions {
    /// Reads the first region table that is whole.
    pub(super) fn read_from(file: &dyn ReadAt) -> Result<Self, SourceError> {
        for offset in TABLES_AT {
            let bytes = read_up_to(file, offset, TABLE_LEN)?;
            if bytes.starts_with(b"regi") && is_sound(&bytes, TABLE_LEN) {
                return Self::parse(&bytes, file.len());
            }
        }
        Err(malformed(
            FORMAT,
            "neither of its two region tables is whole",
        ))
    }

    fn parse(bytes: &[u8], file_len: u64) -> Result<Self, SourceError> {
        let count = le_u32(bytes, 8).unwrap_or_default();
        if count > ENTRIES_MAX {
            return Err(malformed(
                FORMAT,
                format!("a region table with {count} entries"),
            ));
        }
        let (mut table, mut metadata) = (None, None);
        for number in 0..count as usize {
            let at = 16 + 32 * number;
            let (Some(guid), Some(offset), Some(len), Some(flags)) = (
                array_at::<16>(bytes, at),
                le_u64(bytes, at + 16),
                le_u32(bytes, at + 24),
                le_u32(bytes, at + 28),
            ) else {
                return Err(malformed(FORMAT, "a region table that is cut short"));
            };
            let region = (offset, u64::from(len));
            if !lies_inside(offset, region.1, file_len) {
                return Err(malformed(
                    FORMAT,
                    format!("a region at byte {offset} leaves the file"),
                ));
            }
            match guid {
                TABLE_REGION => table = Some(region),
                METADATA_REGION => metadata = Some(region),
                _ if flags & 1 != 0 => {
                    return Err(refused(
                        FORMAT,
                        "it needs a region of a kind that is not known",
                    ));
                }
                _ => {}
            }
        }
        let missing = || malformed(FORMAT, "its block table or its metadata has no region");
        Ok(Self {
            table: table.ok_or_else(missing)?,
            metadata: metadata.ok_or_else(missing)?,
        })
    }
}

/// True if the `len` bytes have the CRC-32C that stands among them at byte 4.
pub(super) fn is_sound(bytes: &[u8], len: usize) -> bool {
    let bytes = bytes.get(..len).filter(|bytes| bytes.len() >= 8);
    bytes.is_some_and(|bytes| le_u32(bytes, 4) == Some(masked_checksum(bytes)))
}

/// The CRC-32C of the bytes, those at 4 to 7 taken as zeros: there it stands.
pub(super) fn masked_checksum(bytes: &[u8]) -> u32 {
    let (before, rest) = bytes.split_at(bytes.len().min(4));
    let sum = crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]);
    crc32c::crc32c_append(sum, rest.get(4..).unwrap_or_default())
}
