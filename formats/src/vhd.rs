//! A VHD image as its content: fixed, dynamic and differencing.
//!
//! A fixed VHD is the disk and a footer. The others have a copy of the footer first, then a header,
//! then a table that says where each block is; a block begins with one bit for each of its sectors.
//! In a differencing image a sector whose bit is not set is the parent's. In a dynamic one the bits
//! are not looked at, as in qemu: some writers leave them unset over data.
//!
//! ```text
//! All numbers are big-endian. Source: Virtual Hard Disk Image Format Specification, version 1.0.
//!
//! Footer, 512 bytes (511 from old writers), at the file's end; a copy at its start if not fixed.
//! offset size  meaning                                    the failure its check guards
//! 0      8     "conectix"                                 another format
//! 12     4     version 1.0: 0x00010000                    fields that mean something else
//! 16     8     offset of the dynamic header               a header outside the file
//! 28     4     the program that made it                   a length that is not the guest's
//! 48     8     current length in bytes                    sums that overflow
//! 56     4     cylinders (2), heads (1), sectors (1)      a length that is not the guest's
//! 60     4     type: 2 fixed, 3 dynamic, 4 differencing   a child read as a whole disk
//! 64     4     checksum                                   damage
//! 68     16    UUID of this image
//!
//! Dynamic header, 1,024 bytes.
//! 0      8     "cxsparse"                                 a header somewhere else
//! 16     8     offset of the table                        a table outside the file
//! 24     4     version 1.0                                fields that mean something else
//! 28     4     entries in the table                       a table too short for the disk
//! 32     4     block length, a power of two from 512      a shift too far
//! 36     4     checksum                                   damage (only a note: real files are
//!                                                         wrong)
//! 40     16    UUID of the parent
//! 64     512   the parent's name, UTF-16 (big-endian)
//! 576    192   eight locators: code (4), space (4), length (4), reserved (4), offset (8)
//!
//! Checksum: the complement of the sum of all bytes but its own.
//! A table's entry: 4 bytes, the block's sector number; 0xffffffff: not allocated.
//! ```

pub(crate) mod writer;

use std::sync::Arc;

use vellum_core::source::{ReadAt, SourceError};
use vellum_core::units::IMAGE_LEN_MAX;

use crate::claims::BlockClaims;
use crate::entry_table::EntryTable;
use crate::fields::{array_at, be_u16, be_u32, be_u64};
use crate::identity::{DiskIdentity, ParentReference};
use crate::mapped::{BlockMap, MappedImage, MappedPiece, PieceLocation};
use crate::{ImageFacts, lies_inside, malformed, read_up_to, refused};

const FORMAT: &str = "vhd";
const SECTOR_LEN: u64 = 512;
const FOOTER_LEN: usize = 512;
const FOOTER_LEN_OLD: u64 = 511;
const HEADER_LEN: usize = 1024;
const COOKIE: &[u8] = b"conectix";
const HEADER_COOKIE: &[u8] = b"cxsparse";
const VERSION_MAJOR: u16 = 1;
const TYPE_FIXED: u32 = 2;
const TYPE_DYNAMIC: u32 = 3;
const TYPE_DIFFERENCING: u32 = 4;
const NOT_ALLOCATED: u32 = 0xffff_ffff;
/// The specification's default is 2 MiB; nobody writes more than this.
const BLOCK_LEN_MAX: u32 = 256 << 20;
/// Programs that mean the geometry: the length a guest sees is cylinders × heads × sectors. All
/// others (Hyper-V "win ", "qem2", "d2v ", "tap", "CTXS", "vbox" …) mean the length field.
const BY_GEOMETRY: [&[u8; 4]; 3] = [b"vpc ", b"vs  ", b"qemu"];
/// The largest geometry there is. It stands for "at least so large": then the length field counts.
const GEOMETRY_MAX: u64 = 65_535 * 16 * 255;
/// The longest locator that is read: a path.
const LOCATOR_LEN_MAX: u32 = 4096;

#[derive(Clone)]
struct VhdFooter {
    kind: u32,
    header_offset: u64,
    creator: [u8; 4],
    current_len: u64,
    cylinders: u16,
    heads: u8,
    sectors: u8,
    identity: [u8; 16],
    /// Oddities that did not matter.
    notes: Vec<String>,
}

struct DynamicHeader {
    bytes: Vec<u8>,
    table_offset: u64,
    entry_count: u32,
    block_len: u32,
}

struct FixedMap {
    file: Arc<dyn ReadAt>,
    image_len: u64,
}

struct VhdMap {
    file: Arc<dyn ReadAt>,
    image_len: u64,
    block_len: u64,
    /// Bytes of sector bits before each block's data.
    bitmap_len: u64,
    is_differencing: bool,
    table: EntryTable,
}

/// Opens a VHD. What a differencing one does not have is absent.
pub(super) fn open_image(
    file: Arc<dyn ReadAt>,
) -> Result<Box<dyn vellum_core::source::ImageSource>, SourceError> {
    let footer = VhdFooter::read_from(&*file)?;
    if footer.kind == TYPE_FIXED {
        let image_len = footer.image_len();
        if image_len > file.len() {
            return Err(malformed(
                FORMAT,
                format!("a disk of {image_len} bytes in a file of {}", file.len()),
            ));
        }
        return Ok(Box::new(MappedImage::new(FixedMap { file, image_len })));
    }
    let header = DynamicHeader::read_from(&*file, &footer)?;
    Ok(Box::new(MappedImage::new(VhdMap::new(
        file, &footer, &header,
    )?)))
}

/// Tells an image's identity and its parent's.
pub(super) fn read_facts(file: &dyn ReadAt) -> Result<ImageFacts, SourceError> {
    let footer = VhdFooter::read_from(file)?;
    let mut notes = footer.notes.clone();
    let mut parent = None;
    if footer.kind != TYPE_FIXED {
        let header = DynamicHeader::read_from(file, &footer)?;
        if !is_sound(&header.bytes, 36) {
            notes.push("the checksum of its header is wrong; everything else fits".to_owned());
        }
        parent = (footer.kind == TYPE_DIFFERENCING).then(|| header.parent_reference(file));
    }
    Ok(ImageFacts {
        len: footer.image_len(),
        variant: match footer.kind {
            TYPE_FIXED => "fixed",
            TYPE_DIFFERENCING => "differencing",
            _ => "dynamic",
        },
        identity: DiskIdentity::Uuid(footer.identity).if_set(),
        parent,
        notes,
    })
}

impl VhdFooter {
    /// Reads the footer at the end; its copy at the start if that one is damaged or gone.
    fn read_from(file: &dyn ReadAt) -> Result<Self, SourceError> {
        let len = file.len();
        let at_end = [SECTOR_LEN, FOOTER_LEN_OLD]
            .into_iter()
            .filter_map(|back| len.checked_sub(back));
        let mut unsound = None;
        for offset in at_end.chain([0]) {
            let mut bytes = read_up_to(file, offset, FOOTER_LEN)?;
            if !bytes.starts_with(COOKIE) {
                continue;
            }
            bytes.resize(FOOTER_LEN, 0);
            let footer = Self::parse_fields(&bytes).expect("a footer has all its bytes");
            if !is_sound(&bytes, 64) {
                unsound.get_or_insert(footer);
                continue;
            }
            return footer.verify_fields(be_u16(&bytes, 12));
        }
        let Some(mut footer) = unsound else {
            return Err(malformed(
                FORMAT,
                "no VHD footer at either end: is it in another format?",
            ));
        };
        footer
            .notes
            .push("the checksum of its footer is wrong, and there is no sound copy".to_owned());
        footer.verify_fields(Some(VERSION_MAJOR))
    }

    fn parse_fields(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            header_offset: be_u64(bytes, 16)?,
            creator: array_at(bytes, 28)?,
            current_len: be_u64(bytes, 48)?,
            cylinders: be_u16(bytes, 56)?,
            heads: *bytes.get(58)?,
            sectors: *bytes.get(59)?,
            kind: be_u32(bytes, 60)?,
            identity: array_at(bytes, 68)?,
            notes: Vec::new(),
        })
    }

    fn verify_fields(self, version: Option<u16>) -> Result<Self, SourceError> {
        if version != Some(VERSION_MAJOR) {
            let version = version.unwrap_or_default();
            return Err(refused(
                FORMAT,
                format!("version {version} is unknown; known is 1"),
            ));
        }
        if !(TYPE_FIXED..=TYPE_DIFFERENCING).contains(&self.kind) {
            return Err(refused(FORMAT, format!("type {} is unknown", self.kind)));
        }
        if self.current_len > IMAGE_LEN_MAX {
            return Err(malformed(
                FORMAT,
                format!("a length of {} bytes is too much", self.current_len),
            ));
        }
        Ok(self)
    }

    /// The length that a guest sees: of two that disagree, the one that the program that made the
    /// image goes by.
    fn image_len(&self) -> u64 {
        let by_geometry =
            u64::from(self.cylinders) * u64::from(self.heads) * u64::from(self.sectors);
        let counts =
            BY_GEOMETRY.contains(&&self.creator) && by_geometry != 0 && by_geometry != GEOMETRY_MAX;
        if counts {
            by_geometry * SECTOR_LEN
        } else {
            self.current_len / SECTOR_LEN * SECTOR_LEN
        }
    }
}

impl DynamicHeader {
    fn read_from(file: &dyn ReadAt, footer: &VhdFooter) -> Result<Self, SourceError> {
        let bytes = read_up_to(file, footer.header_offset, HEADER_LEN)?;
        if bytes.len() < HEADER_LEN || !bytes.starts_with(HEADER_COOKIE) {
            return Err(malformed(
                FORMAT,
                format!("no dynamic header at byte {}", footer.header_offset),
            ));
        }
        let version = be_u16(&bytes, 24).unwrap_or_default();
        if version != VERSION_MAJOR {
            return Err(refused(
                FORMAT,
                format!("a header of version {version} is unknown"),
            ));
        }
        let number = |at| be_u32(&bytes, at).unwrap_or_default();
        let (entry_count, block_len) = (number(28), number(32));
        let table_offset = be_u64(&bytes, 16).unwrap_or_default();
        if !block_len.is_power_of_two() || !(SECTOR_LEN as u32..=BLOCK_LEN_MAX).contains(&block_len)
        {
            return Err(malformed(FORMAT, format!("blocks of {block_len} bytes")));
        }
        Ok(Self {
            bytes,
            table_offset,
            entry_count,
            block_len,
        })
    }

    /// The parent as the header and its locators name it.
    fn parent_reference(&self, file: &dyn ReadAt) -> ParentReference {
        let name = self.bytes.get(64..576).unwrap_or_default();
        let mut hints = vec![utf16_text(name, u16::from_be_bytes)];
        for number in 0..8 {
            hints.extend(self.locator_path(file, 576 + 24 * number));
        }
        hints.retain(|hint| !hint.is_empty());
        hints.dedup();
        let identity = array_at(&self.bytes, 40).unwrap_or_default();
        ParentReference {
            identity: DiskIdentity::Uuid(identity).if_set(),
            hints,
            format: Some(FORMAT.to_owned()),
        }
    }

    /// A path of a Windows locator (relative "W2ru", absolute "W2ku").
    fn locator_path(&self, file: &dyn ReadAt, at: usize) -> Option<String> {
        let code: [u8; 4] = array_at(&self.bytes, at)?;
        let len = be_u32(&self.bytes, at + 8)?.min(LOCATOR_LEN_MAX);
        let offset = be_u64(&self.bytes, at + 16)?;
        let is_path = matches!(&code, b"W2ru" | b"W2ku");
        let bytes = is_path.then(|| read_up_to(file, offset, len as usize).ok())??;
        Some(utf16_text(&bytes, u16::from_le_bytes))
    }
}

impl VhdMap {
    fn new(
        file: Arc<dyn ReadAt>,
        footer: &VhdFooter,
        header: &DynamicHeader,
    ) -> Result<Self, SourceError> {
        let image_len = footer.image_len();
        let block_len = u64::from(header.block_len);
        let table = EntryTable::new(
            header.table_offset,
            4,
            u64::from(header.entry_count),
            file.len(),
        );
        let table = table.ok_or_else(|| {
            malformed(
                FORMAT,
                format!(
                    "its table of {} entries at byte {} leaves the file",
                    header.entry_count, header.table_offset
                ),
            )
        })?;
        if image_len.div_ceil(block_len) > table.entry_count() {
            return Err(malformed(
                FORMAT,
                format!(
                    "{} blocks of {block_len} bytes for a disk of {image_len}",
                    table.entry_count()
                ),
            ));
        }
        let bitmap_len = (block_len / SECTOR_LEN)
            .div_ceil(8)
            .next_multiple_of(SECTOR_LEN);
        let claims = BlockClaims::new(FORMAT, file.len(), block_len + bitmap_len, 0);
        let table = table.with_claims(claims, |entry| be_u32(entry, 0) != Some(NOT_ALLOCATED));
        Ok(Self {
            file,
            image_len,
            block_len,
            bitmap_len,
            is_differencing: footer.kind == TYPE_DIFFERENCING,
            table,
        })
    }

    /// Counts the bytes from `within` a block on that have the same bit in the block's map, and
    /// tells if the image has them.
    fn sectors_alike(&self, block: u64, within: u64, len: u64) -> Result<(u64, bool), SourceError> {
        let first = within / SECTOR_LEN;
        let last = (within + len - 1) / SECTOR_LEN;
        let bits = read_up_to(
            &*self.file,
            block + first / 8,
            (last / 8 - first / 8 + 1) as usize,
        )?;
        let bit = |sector: u64| {
            let byte = bits
                .get((sector / 8 - first / 8) as usize)
                .copied()
                .unwrap_or_default();
            byte & (0x80 >> (sector % 8)) != 0
        };
        let has = bit(first);
        let end = (first..=last)
            .find(|sector| bit(*sector) != has)
            .unwrap_or(last + 1);
        Ok(((end * SECTOR_LEN - within).min(len), has))
    }
}

impl BlockMap for VhdMap {
    fn image_len(&self) -> u64 {
        self.image_len
    }

    fn piece_at(&self, offset: u64) -> Result<MappedPiece, SourceError> {
        let (index, within) = (offset / self.block_len, offset % self.block_len);
        let mut len = (self.block_len - within).min(self.image_len - offset);
        let (sector, alike) = self
            .table
            .read_run(&*self.file, index)?
            .map_or((NOT_ALLOCATED, 1), |(entry, alike)| {
                (u32::from_be_bytes(entry), alike)
            });
        if sector == NOT_ALLOCATED {
            let alike_len = alike * self.block_len - within;
            return Ok(MappedPiece {
                len: alike_len.min(self.image_len - offset),
                location: PieceLocation::Absent,
            });
        }
        let block = u64::from(sector) * SECTOR_LEN;
        if self.is_differencing {
            let (alike_len, has) = self.sectors_alike(block, within, len)?;
            len = alike_len;
            if !has {
                return Ok(MappedPiece {
                    len,
                    location: PieceLocation::Absent,
                });
            }
        }
        let at = block + self.bitmap_len + within;
        if !lies_inside(at, len, self.file.len()) {
            return Err(malformed(
                FORMAT,
                format!("block {index} is said to be at sector {sector}, which leaves the file"),
            ));
        }
        Ok(MappedPiece {
            len,
            location: PieceLocation::Stored {
                file: 0,
                offset: at,
            },
        })
    }

    fn source_file(&self, _: usize) -> &dyn ReadAt {
        &*self.file
    }
}

impl BlockMap for FixedMap {
    fn image_len(&self) -> u64 {
        self.image_len
    }

    /// A hole of the file is zeros, as in a raw image.
    fn piece_at(&self, offset: u64) -> Result<MappedPiece, SourceError> {
        let data = self
            .file
            .next_data(offset)
            .map_err(|source| SourceError::Io { offset, source })?;
        let rest = self.image_len - offset;
        let (len, location) = match data {
            None => (rest, PieceLocation::Zero),
            Some((start, _)) if start > offset => (rest.min(start - offset), PieceLocation::Zero),
            Some((_, end)) if end > offset => (
                rest.min(end - offset),
                PieceLocation::Stored { file: 0, offset },
            ),
            Some(_) => (rest, PieceLocation::Stored { file: 0, offset }),
        };
        Ok(MappedPiece { len, location })
    }

    fn source_file(&self, _: usize) -> &dyn ReadAt {
        &*self.file
    }
}

/// True if the bytes have the checksum that stands among them at `at`.
fn is_sound(bytes: &[u8], at: usize) -> bool {
    let sum = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| u32::from(*byte))
            .fold(0, u32::wrapping_add)
    };
    let own = sum(bytes.get(at..at + 4).unwrap_or_default());
    be_u32(bytes, at) == Some(!sum(bytes).wrapping_sub(own))
}

/// The text of UTF-16 units up to the first zero.
fn utf16_text(bytes: &[u8], unit: impl Fn([u8; 2]) -> u16) -> String {
    let units = bytes.as_chunks::<2>().0.iter().map(|pair| unit(*pair));
    let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    String::from_utf16_lossy(&units)
}

#[cfg(test)]
mod tests;
