//! A Parallels disk image as its content: one file of an expandable disk.
//!
//! ```text
//! All numbers are little-endian. Source: qemu docs/interop/parallels.rst.
//!
//! offset size  meaning                                      the failure its check guards
//! 0      16    "WithoutFreeSpace" or "WithouFreSpacExt"     another format
//! 16     4     version, 2                                   fields that mean something else
//! 20     8     heads, cylinders                             –
//! 28     4     block length in sectors                      blocks of any length
//! 32     4     entries in the table                         a table too short, or outside the file
//! 36     8     disk length in sectors (the first kind: 4)   sums that overflow
//! 44     4     "YnoT": was not closed                       (a note)
//! 48     4     first sector of data                         –
//! 52     12    flags, place of an extension                 –
//! 64           table: 4 bytes an entry, 0: nothing there; else a sector (first kind) or a block
//!              (second kind) of the file                    blocks outside the file
//! ```

use std::sync::Arc;

use vellum_core::source::{ImageSource, ReadAt, SourceError};
use vellum_core::units::IMAGE_LEN_MAX;

use crate::claims::BlockClaims;
use crate::entry_table::EntryTable;
use crate::fields::{le_u32, le_u64};
use crate::mapped::{BlockMap, MappedImage, MappedPiece, PieceLocation};
use crate::{ImageFacts, lies_inside, malformed, read_up_to, refused};

const FORMAT: &str = "parallels";
const HEADER_LEN: usize = 64;
const SECTOR_LEN: u64 = 512;
const MAGIC: &[u8] = b"WithoutFreeSpace";
const MAGIC_EXTENDED: &[u8] = b"WithouFreSpacExt";
const VERSION: u32 = 2;
const NOT_CLOSED: u32 = 0x746f_6e59;
/// Parallels writes 1 MiB. More than this would only make a hostile header's promises larger.
const BLOCK_LEN_MAX: u64 = 256 << 20;

struct ParallelsHeader {
    image_len: u64,
    block_len: u64,
    /// Bytes that an entry counts.
    unit_len: u64,
    entry_count: u32,
    was_closed: bool,
}

struct ParallelsMap {
    file: Arc<dyn ReadAt>,
    header: ParallelsHeader,
    table: EntryTable,
}

/// Opens a Parallels image. What it does not allocate is absent.
///
/// # Errors
///
/// [`SourceError::Malformed`] when the file is none, [`SourceError::Refused`] for a version that is
/// not known.
pub fn open_image(file: Arc<dyn ReadAt>) -> Result<Box<dyn ImageSource>, SourceError> {
    let header = ParallelsHeader::read_from(&*file)?;
    let count = u64::from(header.entry_count);
    let table = EntryTable::new(HEADER_LEN as u64, 4, count, file.len()).ok_or_else(|| {
        malformed(
            FORMAT,
            format!("its table of {count} entries leaves the file"),
        )
    })?;
    let claims = BlockClaims::new(FORMAT, file.len(), header.block_len, 0);
    let table = table.with_claims(claims, |entry| le_u32(entry, 0) != Some(0));
    Ok(Box::new(MappedImage::new(ParallelsMap {
        file,
        header,
        table,
    })))
}

/// Tells what the header says.
///
/// # Errors
///
/// As [`open_image`].
pub fn read_facts(file: &dyn ReadAt) -> Result<ImageFacts, SourceError> {
    let header = ParallelsHeader::read_from(file)?;
    let mut facts = ImageFacts::whole_image(header.image_len, "expandable");
    if !header.was_closed {
        let note = "it was not closed by its last writer, and is read as it stands";
        facts.notes.push(note.to_owned());
    }
    Ok(facts)
}

impl ParallelsHeader {
    fn read_from(file: &dyn ReadAt) -> Result<Self, SourceError> {
        let bytes = read_up_to(file, 0, HEADER_LEN)?;
        let is_extended = bytes.starts_with(MAGIC_EXTENDED);
        if !is_extended && !bytes.starts_with(MAGIC) {
            return Err(malformed(
                FORMAT,
                "no Parallels signature at byte 0: is it in another format?",
            ));
        }
        let cut = || malformed(FORMAT, "the file ends inside the header");
        let version = le_u32(&bytes, 16).ok_or_else(cut)?;
        if version != VERSION {
            return Err(refused(
                FORMAT,
                format!("version {version} at byte 16 is unknown; known is 2"),
            ));
        }
        let block_len = u64::from(le_u32(&bytes, 28).ok_or_else(cut)?) * SECTOR_LEN;
        if block_len == 0 || block_len > BLOCK_LEN_MAX {
            return Err(malformed(
                FORMAT,
                format!("blocks of {block_len} bytes, by the field at byte 28"),
            ));
        }
        let entry_count = le_u32(&bytes, 32).ok_or_else(cut)?;
        let mut sectors = le_u64(&bytes, 36).ok_or_else(cut)?;
        if !is_extended {
            sectors &= 0xffff_ffff;
        }
        let image_len = sectors.checked_mul(SECTOR_LEN);
        let image_len = image_len.filter(|len| *len <= IMAGE_LEN_MAX);
        let image_len = image_len.ok_or_else(|| {
            malformed(
                FORMAT,
                format!("the length at byte 36 is {sectors} sectors, which is too much"),
            )
        })?;
        if image_len.div_ceil(block_len) > u64::from(entry_count) {
            return Err(malformed(
                FORMAT,
                format!("{entry_count} entries (byte 32) for a disk of {image_len} bytes"),
            ));
        }
        Ok(Self {
            image_len,
            block_len,
            unit_len: if is_extended { block_len } else { SECTOR_LEN },
            entry_count,
            was_closed: le_u32(&bytes, 44) != Some(NOT_CLOSED),
        })
    }
}

impl BlockMap for ParallelsMap {
    fn image_len(&self) -> u64 {
        self.header.image_len
    }

    fn piece_at(&self, offset: u64) -> Result<MappedPiece, SourceError> {
        let header = &self.header;
        let (index, within) = (offset / header.block_len, offset % header.block_len);
        let len = (header.block_len - within).min(header.image_len - offset);
        let entry = self.table.read_entry(&*self.file, index)?;
        let entry = entry.map(u32::from_le_bytes).unwrap_or_default();
        if entry == 0 {
            return Ok(MappedPiece {
                len,
                location: PieceLocation::Absent,
            });
        }
        // Below 2^32 · 2^28 + 2^28: no overflow.
        let place = u64::from(entry) * header.unit_len + within;
        if !lies_inside(place, len, self.file.len()) {
            return Err(malformed(
                FORMAT,
                format!("block {index} is said to be at byte {place}, which leaves the file"),
            ));
        }
        Ok(MappedPiece {
            len,
            location: PieceLocation::Stored {
                file: 0,
                offset: place,
            },
        })
    }

    fn source_file(&self, _: usize) -> &dyn ReadAt {
        &*self.file
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vellum_core::source::ExtentKind;

    fn image(magic: &[u8], entries: [u32; 3]) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, magic);
        put(16, &2_u32.to_le_bytes());
        put(28, &8_u32.to_le_bytes());
        put(32, &3_u32.to_le_bytes());
        put(36, &20_u64.to_le_bytes());
        for (number, entry) in entries.into_iter().enumerate() {
            put(64 + 4 * number, &entry.to_le_bytes());
        }
        bytes.extend([0xaa; 4096]);
        bytes.extend([0xbb; 4096]);
        bytes
    }

    #[test]
    fn both_kinds_of_entries_lead_to_their_blocks() {
        for (magic, entries) in [(MAGIC, [16, 0, 8]), (MAGIC_EXTENDED, [2, 0, 1])] {
            let image = open_image(Arc::new(image(magic, entries))).expect("opens");
            assert_eq!(image.len(), 10_240);
            let mut content = vec![1; 10_240];
            image.read_at(&mut content, 0).expect("read");
            assert!(content[..4096].iter().all(|byte| *byte == 0xbb));
            assert!(content[4096..8192].iter().all(|byte| *byte == 0));
            assert!(content[8192..].iter().all(|byte| *byte == 0xaa));
            let extent = image.extent_at(4096).expect("told");
            assert_eq!((extent.len, extent.kind), (4096, ExtentKind::Absent));
        }
    }
}
