//! A VHDX image as its content: Hyper-V's format, fixed, dynamic and differencing.
//!
//! The newer of two headers counts. Two region tables say where the block allocation table and the
//! metadata are. A log that was not applied yet is replayed in memory ([`log`]), never into the
//! file.
//!
//! Source: MS-VHDX, Virtual Hard Disk v2 (VHDX) File Format.

mod log;
mod metadata;
mod structure;
#[cfg(test)]
mod tests;
pub(crate) mod writer;

use std::sync::Arc;

use vellum_core::source::{ReadAt, SourceError};

use crate::claims::BlockClaims;
use crate::entry_table::EntryTable;
use crate::fields::le_u64;
use crate::mapped::{BlockMap, MappedImage, MappedPiece, PieceLocation};
use crate::{ImageFacts, lies_inside, malformed, read_up_to};
use metadata::VhdxMetadata;
use structure::{VhdxRegions, current_header};

const FORMAT: &str = "vhdx";
const MIB: u64 = 1 << 20;
/// A sector bitmap block has a bit for each of so many sectors.
const SECTORS_PER_BITMAP: u64 = 1 << 23;

// Block allocation table, entries of 8 bytes: state in bits 0 to 2, offset in MiB in bits 20 to 63.
// After every `chunk ratio` blocks stands the entry of a sector bitmap block.
const BLOCK_NOT_PRESENT: u64 = 0;
const BLOCK_UNDEFINED: u64 = 1;
const BLOCK_ZERO: u64 = 2;
const BLOCK_UNMAPPED: u64 = 3;
const BLOCK_PRESENT: u64 = 6;
const BLOCK_PARTLY_PRESENT: u64 = 7;
const STATE_MASK: u64 = 7;

struct VhdxMap {
    file: Arc<dyn ReadAt>,
    metadata: VhdxMetadata,
    table: EntryTable,
    /// Payload blocks between two entries of bitmap blocks.
    chunk_ratio: u64,
}

/// Opens a VHDX, its log replayed in memory. What a differencing one does not have is absent.
pub(super) fn open_image(file: Arc<dyn ReadAt>) -> Result<MappedImage<impl BlockMap>, SourceError> {
    let (file, metadata, regions, _) = read_all(file)?;
    let chunk_ratio = SECTORS_PER_BITMAP * metadata.sector_len / metadata.block_len;
    let blocks = metadata.image_len.div_ceil(metadata.block_len);
    let needed = if metadata.has_parent {
        blocks.div_ceil(chunk_ratio) * (chunk_ratio + 1)
    } else {
        blocks + blocks.saturating_sub(1) / chunk_ratio
    };
    let (offset, len) = regions.table;
    let table = EntryTable::new(offset, 8, len / 8, file.len())
        .filter(|table| table.entry_count() >= needed)
        .ok_or_else(|| {
            malformed(
                FORMAT,
                format!(
                    "a table of {len} bytes at byte {offset} where {needed} entries are needed"
                ),
            )
        })?;
    // A bitmap block is shorter than the others.
    let bitmaps = blocks.div_ceil(chunk_ratio);
    let claims = BlockClaims::new(FORMAT, file.len(), metadata.block_len, bitmaps);
    let table = table.with_claims(claims, |entry| {
        let state = le_u64(entry, 0).map(|entry| entry & STATE_MASK);
        matches!(state, Some(BLOCK_PRESENT | BLOCK_PARTLY_PRESENT))
    });
    Ok(MappedImage::new(VhdxMap {
        file,
        metadata,
        table,
        chunk_ratio,
    }))
}

/// Tells an image's identity and its parent's.
pub(super) fn read_facts(file: Arc<dyn ReadAt>) -> Result<ImageFacts, SourceError> {
    let (_, metadata, _, was_replayed) = read_all(file)?;
    let notes = was_replayed.then(|| {
        "its log holds changes that were not applied yet: they are read from it".to_owned()
    });
    Ok(ImageFacts {
        len: metadata.image_len,
        variant: match (metadata.has_parent, metadata.is_fixed) {
            (true, _) => "differencing",
            (false, true) => "fixed",
            (false, false) => "dynamic",
        },
        identity: metadata.identity,
        parent: metadata.parent,
        notes: notes.into_iter().collect(),
    })
}

type VhdxParts = (Arc<dyn ReadAt>, VhdxMetadata, VhdxRegions, bool);

fn read_all(file: Arc<dyn ReadAt>) -> Result<VhdxParts, SourceError> {
    let header = current_header(&*file)?;
    let identity = header.data_identity;
    let (file, was_replayed) = log::replay_log(file, &header)?;
    let regions = VhdxRegions::read_from(&*file)?;
    let metadata = VhdxMetadata::read_from(&*file, regions.metadata, identity)?;
    Ok((file, metadata, regions, was_replayed))
}

impl VhdxMap {
    fn read_entry(&self, index: u64) -> Result<u64, SourceError> {
        let entry = self.table.read_entry(&*self.file, index)?;
        Ok(entry.map(u64::from_le_bytes).unwrap_or_default())
    }

    /// The file offset of what `entry` leads to, `len` bytes from `within` on.
    fn block_offset(&self, entry: u64, within: u64, len: u64) -> Result<u64, SourceError> {
        let offset = (entry >> 20) * MIB;
        let place = offset.checked_add(within);
        place
            .filter(|place| lies_inside(*place, len, self.file.len()))
            .ok_or_else(|| {
                malformed(
                    FORMAT,
                    format!("a block is said to be at byte {offset}, which leaves the file"),
                )
            })
    }

    /// Counts the bytes of the block from `within` on that are alike in the sector bitmap, and
    /// tells if the image has them.
    fn sectors_alike(&self, block: u64, within: u64, len: u64) -> Result<(u64, bool), SourceError> {
        let sector_len = self.metadata.sector_len;
        let chunk = block / self.chunk_ratio;
        let bitmap = self.read_entry(chunk * (self.chunk_ratio + 1) + self.chunk_ratio)?;
        if bitmap & STATE_MASK != BLOCK_PRESENT {
            return Err(malformed(
                FORMAT,
                format!("block {block} is partly there, its sector bitmap is not"),
            ));
        }
        let in_chunk = (block % self.chunk_ratio) * self.metadata.block_len + within;
        let (first, last) = (in_chunk / sector_len, (in_chunk + len - 1) / sector_len);
        let bytes_len = last / 8 - first / 8 + 1;
        let at = self.block_offset(bitmap, first / 8, bytes_len)?;
        let bits = read_up_to(&*self.file, at, bytes_len as usize)?;
        let bit = |sector: u64| {
            let byte = bits
                .get((sector / 8 - first / 8) as usize)
                .copied()
                .unwrap_or_default();
            byte & (1 << (sector % 8)) != 0
        };
        let has = bit(first);
        let end = (first..=last)
            .find(|sector| bit(*sector) != has)
            .unwrap_or(last + 1);
        Ok(((end * sector_len - in_chunk).min(len), has))
    }
}

impl BlockMap for VhdxMap {
    fn image_len(&self) -> u64 {
        self.metadata.image_len
    }

    fn piece_at(&self, offset: u64) -> Result<MappedPiece, SourceError> {
        let block_len = self.metadata.block_len;
        let (block, within) = (offset / block_len, offset % block_len);
        let mut len = (block_len - within).min(self.metadata.image_len - offset);
        let entry = self.read_entry(block + block / self.chunk_ratio)?;
        let location = match entry & STATE_MASK {
            BLOCK_NOT_PRESENT => PieceLocation::Absent,
            BLOCK_UNDEFINED | BLOCK_ZERO | BLOCK_UNMAPPED => PieceLocation::Zero,
            BLOCK_PRESENT => PieceLocation::Stored {
                file: 0,
                offset: self.block_offset(entry, within, len)?,
            },
            BLOCK_PARTLY_PRESENT if self.metadata.has_parent => {
                let (alike_len, has) = self.sectors_alike(block, within, len)?;
                len = alike_len;
                let place = self.block_offset(entry, within, len)?;
                if has {
                    PieceLocation::Stored {
                        file: 0,
                        offset: place,
                    }
                } else {
                    PieceLocation::Absent
                }
            }
            state => {
                return Err(malformed(
                    FORMAT,
                    format!("block {block} has the state {state}"),
                ));
            }
        };
        Ok(MappedPiece { len, location })
    }

    fn source_file(&self, _: usize) -> &dyn ReadAt {
        &*self.file
    }
}
