//! LVM2: which extents of a physical volume no logical volume has, and which logical volumes lie
//! on it in straight pieces, so that their content can be looked at.
//!
//! ```text
//! Label (in one of the first four sectors; lvm2 lib/format_text/layout.h; little-endian)
//! 0       8     "LABELONE"
//! 8       8     its own sector                                     a label that was copied
//! 16      4     checksum of what follows 20
//! 20      4     place of the header of the physical volume
//! 24      8     "LVM2 001"
//!
//! Header of the physical volume
//! 0       32    its UUID, without hyphens
//! 32      8     its length in bytes
//! 40      n×16  place and length of data areas, then a place of 0
//!         m×16  the same of metadata areas
//!
//! Head of a metadata area (512 bytes, then a ring of texts)
//! 0       4     checksum of what follows 4
//! 4       16    " LVM2 x[5A%r0N*>"
//! 20      4     version 1
//! 24      16    its own place and length                           a head that was copied
//! 40      8     place of the text in the area
//! 48      8     its length
//! 56      4     checksum of the text
//! 60      4     1: the text is on other volumes only
//! ```

mod layout;
mod text;

use super::bytes::ByteFields;
use super::partitions::crc32_from;
use super::{GuestError, Volume};
use crate::source::ReadAt;
pub(super) use layout::GroupLayout;

const SECTOR_LEN: u64 = 512;
/// Sectors in which a label may be.
const LABEL_SECTORS: u64 = 4;
const LABEL: &[u8] = b"LABELONE";
const AREA_MAGIC: &[u8] = b" LVM2 x[5A%r0N*>";
const CHECKSUM_START: u32 = 0xf597_a6cf;
/// Areas in one list: there are at most two of metadata.
const AREAS_MAX: usize = 8;
/// The longest text; the default area of 1 MiB has room for some hundred volumes.
const TEXT_LEN_MAX: u64 = 16 << 20;

/// A reason to keep all of it.
pub(super) type LvmKept = &'static str;

/// Reads the contents of the physical volume in `volume`: `None` if it is none, the reason if it is
/// not understood.
pub(super) fn read_physical_volume(
    disk: &dyn ReadAt,
    volume: &Volume,
) -> Result<Option<Result<GroupLayout, LvmKept>>, GuestError> {
    let mut label = None;
    for nth in 0..LABEL_SECTORS {
        let mut sector = [0; SECTOR_LEN as usize];
        if volume.try_read_at(disk, nth * SECTOR_LEN, &mut sector)? && sector.starts_with(LABEL) {
            label = label.or(Some((nth, sector)));
        }
    }
    let Some((nth, sector)) = label else {
        return Ok(None);
    };
    let fields = ByteFields(&sector);
    let sum = crc32_from(CHECKSUM_START, fields.slice_of(20..sector.len()));
    if sum != fields.le32(16) || fields.le64(8) != nth || !fields.starts_with(24, b"LVM2 001") {
        return Ok(Some(Err("its label is damaged")));
    }
    let header = ByteFields(fields.slice_of(fields.le32(20) as usize..sector.len()));
    let uuid = header.slice_of(0..32);
    let (_, behind_data) = parse_areas(header, 40);
    let (areas, _) = parse_areas(header, behind_data);
    let mut texts = Vec::new();
    for (place, len) in areas {
        match area_text(disk, volume, place, len)? {
            Ok(text) => texts.push(text),
            Err(reason) => return Ok(Some(Err(reason))),
        }
    }
    let Some(first) = texts.first() else {
        return Ok(Some(Err("its description is on other volumes only")));
    };
    if texts.iter().any(|text| text != first) {
        return Ok(Some(Err("its descriptions are not alike")));
    }
    Ok(Some(GroupLayout::parse(first, uuid, volume.len)))
}

/// The areas of a list that begins at `at`, and the place behind it.
fn parse_areas(header: ByteFields<'_>, at: usize) -> (Vec<(u64, u64)>, usize) {
    let entry = |nth: usize| (header.le64(at + 16 * nth), header.le64(at + 16 * nth + 8));
    let found: Vec<_> = (0..AREAS_MAX)
        .map(entry)
        .take_while(|(place, _)| *place != 0)
        .collect();
    let behind = at + 16 * (found.len() + 1);
    (found, behind)
}

/// The text that an area's head names.
fn area_text(
    disk: &dyn ReadAt,
    volume: &Volume,
    place: u64,
    len: u64,
) -> Result<Result<Vec<u8>, LvmKept>, GuestError> {
    let mut head = [0; SECTOR_LEN as usize];
    let damaged = Ok(Err("its description is damaged"));
    if !volume.try_read_at(disk, place, &mut head)? {
        return damaged;
    }
    let fields = ByteFields(&head);
    let sum = crc32_from(CHECKSUM_START, fields.slice_of(4..head.len()));
    let is_head = sum == fields.le32(0)
        && fields.starts_with(4, AREA_MAGIC)
        && fields.le32(20) == 1
        && (fields.le64(24), fields.le64(32)) == (place, len);
    let (text_at, text_len) = (fields.le64(40), fields.le64(48));
    if fields.le32(60) & 1 != 0 || is_head && text_at == 0 {
        return Ok(Err("its description is on other volumes only"));
    }
    let fits = text_len <= TEXT_LEN_MAX && (SECTOR_LEN..len).contains(&text_at);
    if !is_head || !fits || text_len > len - SECTOR_LEN {
        return damaged;
    }
    // The ring goes on behind the head.
    let mut text = vec![0; text_len as usize];
    let (before_end, wrapped) = text.split_at_mut(text_len.min(len - text_at) as usize);
    let at = |inside: u64| place.saturating_add(inside);
    let is_whole = volume.try_read_at(disk, at(text_at), before_end)?
        && volume.try_read_at(disk, at(SECTOR_LEN), wrapped)?;
    if is_whole && crc32_from(CHECKSUM_START, &text) == fields.le32(56) {
        Ok(Ok(text))
    } else {
        damaged
    }
}
