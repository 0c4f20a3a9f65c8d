//! A VDI image as its content: `VirtualBox`'s own format, fixed, dynamic, undo and differencing.
//!
//! A table has one entry a block: where its bytes are, that it is zero, or that the image says
//! nothing of it, which asks the parent. The parent is told by UUID only and not opened.
//!
//! ```text
//! All numbers are little-endian. Source: VirtualBox, src/VBox/Storage/VDICore.h.
//!
//! offset size  meaning                                         the failure its check guards
//! 0      64    text, for people                                –
//! 64     4     signature 0xbeda107f                            another format
//! 68     4     version, 1.1: 0x00010001                        fields that mean something else
//! 72     4     length of the header from here on, 384 or more  fields that are not there
//! 76     4     type: 1 dynamic, 2 fixed, 3 undo, 4 differencing  a child read as a whole disk
//! 80     4     flags                                           (free to ignore)
//! 84     256   comment                                         –
//! 340    4     offset of the table of blocks                   a table outside the file
//! 344    4     offset of the first block's data                blocks outside the file
//! 348    16    geometry; sector length at 360: 512             a grid that is not ours
//! 368    8     disk length in bytes                            sums that overflow
//! 376    4     block length, a power of two from 4 KiB         a shift too far
//! 380    4     extra bytes before each block                   blocks read from the wrong place
//! 384    4     number of blocks                                a table too short for the disk
//! 388    4     number of blocks that have data                 –
//! 392    16    UUID of this image, its first three fields
//!              little-endian; so are the others
//! 408    16    UUID of its last change
//! 424    16    UUID of the parent
//! 440    16    UUID of the parent's last change
//!
//! An entry: 4 bytes. 0xffffffff: not allocated; 0xfffffffe: zeros; else the block's number in the
//! file.
//! ```

pub(crate) mod writer;

use std::sync::Arc;

use vellum_core::source::{ReadAt, SourceError};
use vellum_core::units::IMAGE_LEN_MAX;

use crate::claims::BlockClaims;
use crate::entry_table::EntryTable;
use crate::fields::{array_at, le_u32, le_u64};
use crate::identity::{DiskIdentity, ParentReference};
use crate::mapped::{BlockMap, MappedImage, MappedPiece, PieceLocation};
use crate::{ImageFacts, lies_inside, malformed, read_up_to, refused};

const FORMAT: &str = "vdi";
const HEADER_LEN: usize = 456;
/// Least header length in version 1.1, counted from byte 72 on.
const HEADER_LEN_MIN: u32 = 384;
const SIGNATURE: u32 = 0xbeda_107f;
const VERSION: u32 = 0x0001_0001;
const TYPE_DYNAMIC: u32 = 1;
const TYPE_FIXED: u32 = 2;
const TYPE_UNDO: u32 = 3;
const TYPE_DIFFERENCING: u32 = 4;
/// Smaller blocks were never written.
const BLOCK_LEN_MIN: u32 = 4 << 10;
/// `VirtualBox` writes 1 MiB; larger ones would only make a hostile header's promises larger.
const BLOCK_LEN_MAX: u32 = 256 << 20;
const NOT_ALLOCATED: u32 = 0xffff_ffff;
const ZERO: u32 = 0xffff_fffe;

/// A header whose numbers were checked against each other and the file.
struct VdiHeader {
    kind: u32,
    table_offset: u32,
    data_offset: u32,
    image_len: u64,
    block_len: u32,
    extra_len: u32,
    block_count: u32,
    identity: DiskIdentity,
    parent: DiskIdentity,
}

struct VdiMap {
    file: Arc<dyn ReadAt>,
    header: VdiHeader,
    table: EntryTable,
}

/// Opens a VDI. What it does not allocate is absent.
pub(super) fn open_image(file: Arc<dyn ReadAt>) -> Result<MappedImage<impl BlockMap>, SourceError> {
    let header = VdiHeader::read_from(&*file)?;
    let table = EntryTable::new(
        u64::from(header.table_offset),
        4,
        u64::from(header.block_count),
        file.len(),
    );
    let table = table.ok_or_else(|| {
        malformed(
            FORMAT,
            format!(
                "its table of {} blocks at byte {} leaves the file",
                header.block_count, header.table_offset
            ),
        )
    })?;
    let data_len = file.len().saturating_sub(u64::from(header.data_offset));
    let stride = u64::from(header.block_len) + u64::from(header.extra_len);
    let claims = BlockClaims::new(FORMAT, data_len, stride, 0);
    let table = table.with_claims(claims, |entry| {
        le_u32(entry, 0).is_some_and(|entry| entry < ZERO)
    });
    Ok(MappedImage::new(VdiMap {
        file,
        header,
        table,
    }))
}

/// Tells an image's identity and its parent's without reading its tables.
pub(super) fn read_facts(file: &dyn ReadAt) -> Result<ImageFacts, SourceError> {
    let header = VdiHeader::read_from(file)?;
    Ok(ImageFacts {
        len: header.image_len,
        variant: match header.kind {
            TYPE_FIXED => "fixed",
            TYPE_UNDO => "undo",
            TYPE_DIFFERENCING => "differencing",
            _ => "dynamic",
        },
        identity: header.identity.if_set(),
        parent: header.has_parent().then(|| ParentReference {
            identity: header.parent.if_set(),
            hints: Vec::new(),
            format: None,
        }),
        notes: Vec::new(),
    })
}

impl VdiHeader {
    fn read_from(file: &dyn ReadAt) -> Result<Self, SourceError> {
        let bytes = read_up_to(file, 0, HEADER_LEN)?;
        let cut = || {
            malformed(
                FORMAT,
                format!("the file ends inside the header, at byte {}", bytes.len()),
            )
        };
        if le_u32(&bytes, 64) != Some(SIGNATURE) {
            return Err(malformed(
                FORMAT,
                "no VDI signature at byte 64: is it in another format?",
            ));
        }
        let version = le_u32(&bytes, 68).ok_or_else(cut)?;
        if version != VERSION {
            let (major, minor) = (version >> 16, version & 0xffff);
            return Err(refused(
                FORMAT,
                format!("version {major}.{minor} is unknown; known is 1.1"),
            ));
        }
        let header = Self::parse_fields(&bytes).ok_or_else(cut)?;
        let header_len = le_u32(&bytes, 72).unwrap_or_default();
        if header_len < HEADER_LEN_MIN {
            return Err(malformed(
                FORMAT,
                format!("a header of {header_len} bytes lacks fields"),
            ));
        }
        header.verify_fields(le_u32(&bytes, 360).unwrap_or_default())?;
        Ok(header)
    }

    fn parse_fields(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            kind: le_u32(bytes, 76)?,
            table_offset: le_u32(bytes, 340)?,
            data_offset: le_u32(bytes, 344)?,
            image_len: le_u64(bytes, 368)?,
            block_len: le_u32(bytes, 376)?,
            extra_len: le_u32(bytes, 380)?,
            block_count: le_u32(bytes, 384)?,
            identity: array_at(bytes, 392).map(DiskIdentity::from_guid)?,
            parent: array_at(bytes, 424).map(DiskIdentity::from_guid)?,
        })
    }

    fn verify_fields(&self, sector_len: u32) -> Result<(), SourceError> {
        let wrong = |reason: String| Err(malformed(FORMAT, reason));
        if !(TYPE_DYNAMIC..=TYPE_DIFFERENCING).contains(&self.kind) {
            return Err(refused(FORMAT, format!("type {} is unknown", self.kind)));
        }
        if sector_len != 512 && sector_len != 0 {
            return Err(refused(
                FORMAT,
                format!("sectors of {sector_len} bytes are not read"),
            ));
        }
        if self.image_len > IMAGE_LEN_MAX {
            return wrong(format!("a length of {} bytes is too much", self.image_len));
        }
        let block_len = self.block_len;
        if !block_len.is_power_of_two() || !(BLOCK_LEN_MIN..=BLOCK_LEN_MAX).contains(&block_len) {
            return wrong(format!("blocks of {block_len} bytes"));
        }
        if self.extra_len > block_len {
            return wrong(format!(
                "{} extra bytes before a block of {block_len}",
                self.extra_len
            ));
        }
        if self.image_len.div_ceil(u64::from(block_len)) > u64::from(self.block_count) {
            return wrong(format!(
                "{} blocks of {block_len} bytes for a disk of {}",
                self.block_count, self.image_len
            ));
        }
        Ok(())
    }

    fn has_parent(&self) -> bool {
        matches!(self.kind, TYPE_UNDO | TYPE_DIFFERENCING)
    }
}

impl BlockMap for VdiMap {
    fn image_len(&self) -> u64 {
        self.header.image_len
    }

    fn piece_at(&self, offset: u64) -> Result<MappedPiece, SourceError> {
        let block_len = u64::from(self.header.block_len);
        let (index, within) = (offset / block_len, offset % block_len);
        let rest = self.header.image_len - offset;
        let len = (block_len - within).min(rest);
        let (entry, alike) = self
            .table
            .read_run(&*self.file, index)?
            .map_or((NOT_ALLOCATED, 1), |(entry, alike)| {
                (u32::from_le_bytes(entry), alike)
            });
        let location = match entry {
            NOT_ALLOCATED => PieceLocation::Absent,
            ZERO => PieceLocation::Zero,
            number => {
                let location = self.stored_location(index, number, within, len)?;
                return Ok(MappedPiece { len, location });
            }
        };
        let len = (alike * block_len - within).min(rest);
        Ok(MappedPiece { len, location })
    }

    fn source_file(&self, _: usize) -> &dyn ReadAt {
        &*self.file
    }
}

impl VdiMap {
    fn stored_location(
        &self,
        index: u64,
        number: u32,
        within: u64,
        len: u64,
    ) -> Result<PieceLocation, SourceError> {
        let header = &self.header;
        let stride = u64::from(header.block_len) + u64::from(header.extra_len);
        // Below 2^32 · 2^29 + 2^33: no overflow.
        let block = u64::from(header.data_offset) + u64::from(number) * stride;
        let offset = block + u64::from(header.extra_len) + within;
        if !lies_inside(offset, len, self.file.len()) {
            return Err(malformed(
                FORMAT,
                format!("block {index} is said to be number {number}, which leaves the file"),
            ));
        }
        Ok(PieceLocation::Stored { file: 0, offset })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vellum_core::source::{ExtentKind, ImageSource};

    /// An image of three and a half blocks of 4 KiB: stored, zero, not allocated, stored.
    fn image(kind: u32) -> Vec<u8> {
        let mut bytes = vec![0_u8; 512];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(64, &SIGNATURE.to_le_bytes());
        put(68, &VERSION.to_le_bytes());
        put(72, &400_u32.to_le_bytes());
        put(76, &kind.to_le_bytes());
        put(340, &512_u32.to_le_bytes());
        put(344, &1024_u32.to_le_bytes());
        put(360, &512_u32.to_le_bytes());
        put(368, &(3 * 4096_u64 + 2048).to_le_bytes());
        put(376, &4096_u32.to_le_bytes());
        put(384, &4_u32.to_le_bytes());
        put(392, &[7; 16]);
        put(424, &[9; 16]);
        for entry in [1, ZERO, NOT_ALLOCATED, 0_u32] {
            bytes.extend(entry.to_le_bytes());
        }
        bytes.resize(1024, 0);
        bytes.extend([0xaa; 4096]);
        bytes.extend([0xbb; 4096]);
        bytes
    }

    #[test]
    fn zero_is_told_apart_from_not_allocated() {
        let image = open_image(Arc::new(image(TYPE_DIFFERENCING))).expect("opens");
        assert_eq!(image.len(), 14_336);
        let kinds: Vec<_> = (0..4)
            .map(|block| image.extent_at(block * 4096 + 5).expect("told"))
            .map(|extent| (extent.len, extent.kind))
            .collect();
        let expected = [
            (4091, ExtentKind::Data),
            (4091, ExtentKind::Zero),
            (4091, ExtentKind::Absent),
            (2043, ExtentKind::Data),
        ];
        assert_eq!(kinds, expected);
        let mut content = vec![1; 14_336];
        image.read_at(&mut content, 0).expect("read");
        assert!(content[..4096].iter().all(|byte| *byte == 0xbb));
        assert!(content[4096..12_288].iter().all(|byte| *byte == 0));
        assert!(content[12_288..].iter().all(|byte| *byte == 0xaa));
    }

    #[test]
    fn a_parent_is_told_by_uuid_and_only_by_children() {
        let facts_of = |kind| read_facts(&image(kind)).expect("told");
        let parent = facts_of(TYPE_DIFFERENCING).parent.expect("a parent");
        assert_eq!(parent.identity, Some(DiskIdentity::Uuid([9; 16])));
        assert_eq!(facts_of(TYPE_DYNAMIC).parent, None);
    }

    #[test]
    fn no_number_in_a_header_leads_out_of_the_file_or_panics() {
        let whole = image(TYPE_DYNAMIC);
        for at in (64..528).step_by(4) {
            for value in [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_fffd, u32::MAX] {
                let mut bytes = whole.clone();
                bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
                let Ok(image) = open_image(Arc::new(bytes)) else {
                    continue;
                };
                let mut content = vec![0; 4096];
                for offset in [0, 4096, 8192, 12_288] {
                    if offset + 4096 <= image.len() {
                        let _ = image.read_at(&mut content, offset);
                        let _ = image.extent_at(offset);
                    }
                }
            }
        }
        for len in 0..whole.len() {
            let _ = open_image(Arc::new(whole[..len].to_vec()))
                .map(|image| image.read_at(&mut [0; 64], 0));
        }
    }
}
