//! A VHD that is written: dynamic, fixed, differencing. A fixed one streams.
//!
//! ```text
//! fixed         the disk, then the footer
//! others
//! byte          what
//! 0             a copy of the footer
//! 512           dynamic header
//! 1,536         table, up to a whole sector
//! behind it     differencing: the parent's relative path, UTF-16 (little-endian), up to a sector
//! behind it     blocks: 512 bytes of sector bits, 2 MiB of data; at the end the footer
//!
//! Footer: what is not named in the reader's table
//! 8   4  features: 2, always set        24  4  seconds since 2000
//! 32  4  version of the maker           36  4  "Wi2k"
//! 40  8  length when it was made
//!
//! Dynamic header
//! 8   8  all ones                       56  4  seconds since 2000 of the parent's last change
//! ```
//!
//! The maker is "win ", Hyper-V's name: qemu goes by the geometry, which is shorter than the disk,
//! for every maker that it does not know. A differencing image has single sectors; zeros over a
//! parent's data are stored, as a hole.

use super::{
    COOKIE, FOOTER_LEN, FORMAT, HEADER_COOKIE, HEADER_LEN, NOT_ALLOCATED, TYPE_DIFFERENCING,
    TYPE_DYNAMIC, TYPE_FIXED,
};
use crate::Format;
use crate::identity::DiskIdentity;
use crate::write::blocks::{BlockLayout, BlockRules, BlockWriter, FlatWriter};
use crate::write::flow::CellFlow;
use crate::write::table::OrderedTable;
use crate::write::{
    Allocation, CellGrid, HeaderBytes, ImageWriteError, SECTOR_LEN, WriteJob, WrittenImage,
    end_file, impossible_image, put_bytes,
};

const HEADER_OFFSET: u64 = 512;
const TABLE_OFFSET: u64 = 1536;
/// The specification's default.
const BLOCK_LEN: u64 = 2 << 20;
const BITMAP_LEN: u64 = 512;
/// Zeros are looked for at this length.
const CELL_LEN: u64 = 64 << 10;
/// 2,040 GiB: the format's own limit, since a table counts sectors in 32 bits.
const IMAGE_SECTORS_MAX: u64 = 0xff00_0000;
/// The parent's name in the header, in UTF-16 units.
const NAME_UNITS_MAX: usize = 255;
const FEATURES_RESERVED: u32 = 2;
const VERSION: u32 = 0x0001_0000;
const NO_OFFSET: u64 = u64::MAX;

struct VhdRules;

impl BlockRules<4> for VhdRules {
    fn entry_index(&self, block: u64) -> u64 {
        block
    }

    fn stored_entry(&self, place: u64) -> [u8; 4] {
        ((place / SECTOR_LEN) as u32).to_be_bytes()
    }

    fn zero_entry(&self) -> Option<[u8; 4]> {
        None
    }
}

pub(crate) fn write_image(
    allocation: Allocation,
    job: &mut WriteJob,
) -> Result<WrittenImage, ImageWriteError> {
    let image_len = job.sector_len();
    if image_len / SECTOR_LEN > IMAGE_SECTORS_MAX {
        return Err(impossible_image(
            FORMAT,
            format!("{image_len} bytes are more than 2040 GiB; VHDX holds 64 TiB"),
        ));
    }
    job.refuse_empty(Format::Vhd)?;
    job.options.verify_names(FORMAT)?;
    let file_len = match allocation {
        Allocation::Dynamic => write_sparse(job, image_len)?,
        Allocation::Fixed => write_fixed(job, image_len)?,
    };
    Ok(WrittenImage {
        file_len,
        image_len,
        identity: Some(DiskIdentity::Uuid(job.options.image_uuid())),
    })
}

fn write_fixed(job: &mut WriteJob, image_len: u64) -> Result<u64, ImageWriteError> {
    job.refuse_parent(Format::Vhd, "fixed")?;
    let flow = CellFlow {
        source: job.source,
        grid: CellGrid::single_cells(CELL_LEN, false),
        packing: None,
    };
    flow.copy_to(&mut FlatWriter {
        target: &mut *job.target,
        offset: 0,
        len: image_len,
    })?;
    let footer = vhd_footer(job, TYPE_FIXED);
    put_bytes(&mut *job.target, footer.as_slice(), image_len)?;
    let file_len = image_len + FOOTER_LEN as u64;
    end_file(&mut *job.target, file_len)?;
    Ok(file_len)
}

fn write_sparse(job: &mut WriteJob, image_len: u64) -> Result<u64, ImageWriteError> {
    let has_parent = job.has_parent();
    let blocks = image_len.div_ceil(BLOCK_LEN);
    let locator_offset = (TABLE_OFFSET + 4 * blocks).next_multiple_of(SECTOR_LEN);
    let locator = parent_locator(job);
    let locator_len = (locator.len() as u64).next_multiple_of(SECTOR_LEN);
    let kind = if has_parent {
        TYPE_DIFFERENCING
    } else {
        TYPE_DYNAMIC
    };
    let footer = vhd_footer(job, kind);
    let header = dynamic_header(job, blocks, locator_offset, &locator)?;
    put_bytes(&mut *job.target, footer.as_slice(), 0)?;
    put_bytes(&mut *job.target, header.as_slice(), HEADER_OFFSET)?;
    put_bytes(&mut *job.target, &locator, locator_offset)?;
    let layout = BlockLayout {
        block_len: BLOCK_LEN,
        data_offset: locator_offset + locator_len,
        bitmap_len: BITMAP_LEN,
        has_parent,
    };
    let cell_len = if has_parent { SECTOR_LEN } else { CELL_LEN };
    let flow = CellFlow {
        source: job.source,
        grid: CellGrid::single_cells(cell_len, has_parent),
        packing: None,
    };
    let padded = (4 * blocks).next_multiple_of(SECTOR_LEN) / 4;
    let table = OrderedTable::new(TABLE_OFFSET, padded, NOT_ALLOCATED.to_be_bytes());
    let mut writer = BlockWriter::new(&mut *job.target, VhdRules, table, layout);
    flow.copy_to(&mut writer)?;
    let blocks_end = writer.finish_table()?;
    put_bytes(&mut *job.target, footer.as_slice(), blocks_end)?;
    let file_len = blocks_end + FOOTER_LEN as u64;
    end_file(&mut *job.target, file_len)?;
    Ok(file_len)
}

fn vhd_footer(job: &WriteJob, kind: u32) -> HeaderBytes {
    let sectors = job.sector_len() / SECTOR_LEN;
    let (cylinders, heads, sectors_per_track) = chs_geometry(sectors);
    let mut footer = HeaderBytes::new(FOOTER_LEN);
    footer
        .put_field(0, COOKIE)
        .be_u32(8, FEATURES_RESERVED)
        .be_u32(12, VERSION)
        .be_u64(
            16,
            if kind == TYPE_FIXED {
                NO_OFFSET
            } else {
                HEADER_OFFSET
            },
        )
        .be_u32(24, job.options.seconds_since_2000)
        .put_field(28, b"win ")
        .be_u32(32, 0x000a_0000)
        .put_field(36, b"Wi2k")
        .be_u64(40, sectors * SECTOR_LEN)
        .be_u64(48, sectors * SECTOR_LEN)
        .put_field(56, &cylinders.to_be_bytes())
        .put_field(58, &[heads, sectors_per_track])
        .be_u32(60, kind)
        .put_field(68, &job.options.image_uuid());
    let sum = complement_checksum(footer.as_slice());
    footer.be_u32(64, sum);
    footer
}

fn dynamic_header(
    job: &WriteJob,
    blocks: u64,
    locator_offset: u64,
    locator: &[u8],
) -> Result<HeaderBytes, ImageWriteError> {
    let mut header = HeaderBytes::new(HEADER_LEN);
    header
        .put_field(0, HEADER_COOKIE)
        .be_u64(8, NO_OFFSET)
        .be_u64(16, TABLE_OFFSET)
        .be_u32(24, VERSION)
        .be_u32(28, blocks as u32)
        .be_u32(32, BLOCK_LEN as u32);
    if let Some(parent) = &job.options.parent {
        let name: Vec<u8> = parent
            .path
            .encode_utf16()
            .take(NAME_UNITS_MAX)
            .flat_map(u16::to_be_bytes)
            .collect();
        header
            .put_field(40, &job.options.parent_uuid(FORMAT)?)
            .be_u32(56, job.options.seconds_since_2000)
            .put_field(64, &name)
            .put_field(576, b"W2ru")
            .be_u32(
                580,
                (locator.len() as u32).next_multiple_of(SECTOR_LEN as u32),
            )
            .be_u32(584, locator.len() as u32)
            .be_u64(592, locator_offset);
    }
    let sum = complement_checksum(header.as_slice());
    header.be_u32(36, sum);
    Ok(header)
}

/// The parent's path as Windows writes it: relative paths begin with `.\`.
fn parent_locator(job: &WriteJob) -> Vec<u8> {
    let Some(parent) = &job.options.parent else {
        return Vec::new();
    };
    let path = format!(".\\{}", parent.path.replace('/', "\\"));
    path.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// The complement of the sum of all bytes; the checksum's own are still zero.
fn complement_checksum(bytes: &[u8]) -> u32 {
    let sum = bytes.iter().map(|byte| u32::from(*byte));
    !sum.fold(0, u32::wrapping_add)
}

/// Cylinders, heads and sectors, as the specification's appendix computes them.
fn chs_geometry(sectors: u64) -> (u16, u8, u8) {
    let sectors = sectors.min(65_535 * 16 * 255);
    let (per_track, heads, tracks);
    if sectors >= 65_535 * 16 * 63 {
        (per_track, heads, tracks) = (255, 16, sectors / 255);
    } else {
        let by_17 = sectors / 17;
        let heads_17 = by_17.div_ceil(1024).max(4);
        if by_17 < heads_17 * 1024 && heads_17 <= 16 {
            (per_track, heads, tracks) = (17, heads_17, by_17);
        } else if sectors / 31 < 16 * 1024 {
            (per_track, heads, tracks) = (31, 16, sectors / 31);
        } else {
            (per_track, heads, tracks) = (63, 16, sectors / 63);
        }
    }
    ((tracks / heads) as u16, heads as u8, per_track as u8)
}
