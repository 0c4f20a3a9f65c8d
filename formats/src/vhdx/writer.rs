//! A VHDX that is written: dynamic, differencing.
//!
//! ```text
//! byte     what
//! 0        signature, the maker's name
//! 64 Ki    header; the second one at 128 Ki, which counts
//! 192 Ki   region table; the same at 256 Ki
//! 1 Mi     log, 1 MiB, empty
//! 2 Mi     metadata, 1 MiB: the table, then the items from 64 Ki on
//! 3 Mi     block table, up to a whole MiB
//! behind   blocks in the order in which they get content
//!
//! Metadata items, as they lie: file parameters (8), disk length (8), disk GUID (16), logical
//! sector (4), physical sector (4), parent locator
//! ```
//!
//! A differencing image has whole blocks: one that it has in part is completed from its parent, so
//! no sector bitmap is there. Zeros over a parent's data are the state "zero".

use super::metadata::{
    BLOCK_LEN_MAX, DISK_IDENTITY, DISK_SIZE, FILE_PARAMETERS, FLAG_REQUIRED, FLAG_USER,
    LOGICAL_SECTOR, PARENT_LOCATOR, PHYSICAL_SECTOR, VHDX_LOCATOR,
};
use super::structure::{
    HEADER_LEN, HEADERS_AT, METADATA_REGION, SIGNATURE, TABLE_LEN, TABLE_REGION, TABLES_AT,
    masked_checksum,
};
use super::{BLOCK_PRESENT, BLOCK_ZERO, FORMAT, MIB, SECTORS_PER_BITMAP};
use crate::Format;
use crate::identity::DiskIdentity;
use crate::write::blocks::{BlockLayout, BlockRules, BlockWriter};
use crate::write::flow::CellFlow;
use crate::write::table::OrderedTable;
use crate::write::{
    CellGrid, HeaderBytes, ImageWriteError, SECTOR_LEN, WriteJob, WrittenImage, end_file,
    impossible_image, put_bytes,
};

const LOG_OFFSET: u64 = MIB;
const METADATA_OFFSET: u64 = 2 * MIB;
const BLOCK_TABLE_OFFSET: u64 = 3 * MIB;
const REGION_LEN: u32 = MIB as u32;
/// The format's own limit.
const IMAGE_LEN_MAX: u64 = 64 << 40;
const BLOCK_LEN: u64 = 2 << 20;
/// Longer disks get longer blocks, so that a table has 8 MiB at most.
const BLOCKS_MAX: u64 = 1 << 20;
/// Zeros are looked for at this length.
const CELL_LEN: u64 = 64 << 10;
const MAKER: &str = "Vellum";
const PHYSICAL_SECTOR_LEN: u32 = 4096;
const FLAG_DISK: u32 = 2;
const HAS_PARENT: u32 = 2;
/// Offset of the first item in the metadata region.
const ITEMS_AT: usize = 64 << 10;

struct VhdxRules {
    chunk_ratio: u64,
}

impl BlockRules<8> for VhdxRules {
    fn entry_index(&self, block: u64) -> u64 {
        block + block / self.chunk_ratio
    }

    fn stored_entry(&self, place: u64) -> [u8; 8] {
        (((place / MIB) << 20) | BLOCK_PRESENT).to_le_bytes()
    }

    fn zero_entry(&self) -> Option<[u8; 8]> {
        Some(BLOCK_ZERO.to_le_bytes())
    }
}

pub(crate) fn write_image(job: &mut WriteJob) -> Result<WrittenImage, ImageWriteError> {
    let image_len = job.sector_len();
    if image_len > IMAGE_LEN_MAX {
        return Err(impossible_image(
            FORMAT,
            format!("{image_len} bytes are more than 64 TiB"),
        ));
    }
    job.refuse_empty(Format::Vhdx)?;
    job.options.verify_names(FORMAT)?;
    let has_parent = job.has_parent();
    let block_len = BLOCK_LEN.max(image_len.div_ceil(BLOCKS_MAX).next_power_of_two());
    debug_assert!(block_len <= u64::from(BLOCK_LEN_MAX));
    let chunk_ratio = SECTORS_PER_BITMAP * SECTOR_LEN / block_len;
    let blocks = image_len.div_ceil(block_len);
    let entries = if has_parent {
        blocks.div_ceil(chunk_ratio) * (chunk_ratio + 1)
    } else {
        blocks + blocks.saturating_sub(1) / chunk_ratio
    };
    let table_len = (8 * entries).next_multiple_of(MIB).max(MIB);
    write_structure(job, table_len)?;
    let metadata = metadata_region(job, block_len)?;
    put_bytes(&mut *job.target, metadata.as_slice(), METADATA_OFFSET)?;
    let layout = BlockLayout {
        block_len,
        data_offset: BLOCK_TABLE_OFFSET + table_len,
        bitmap_len: 0,
        has_parent,
    };
    let table = OrderedTable::new(BLOCK_TABLE_OFFSET, entries, [0; 8]);
    let flow = CellFlow {
        source: job.source,
        grid: CellGrid::whole_blocks(block_len, CELL_LEN, has_parent),
        packing: None,
    };
    let mut writer = BlockWriter::new(&mut *job.target, VhdxRules { chunk_ratio }, table, layout);
    flow.copy_to(&mut writer)?;
    let file_len = writer.finish_table()?;
    end_file(&mut *job.target, file_len)?;
    Ok(WrittenImage {
        file_len,
        image_len,
        identity: Some(DiskIdentity::Uuid(job.options.image_uuid())),
    })
}

/// Signature, headers and region tables.
fn write_structure(job: &mut WriteJob, table_len: u64) -> Result<(), ImageWriteError> {
    let maker: Vec<u8> = MAKER.encode_utf16().flat_map(u16::to_le_bytes).collect();
    put_bytes(&mut *job.target, &[SIGNATURE, &maker].concat(), 0)?;
    for (number, offset) in HEADERS_AT.into_iter().enumerate() {
        let mut header = HeaderBytes::new(HEADER_LEN);
        header
            .put_field(0, b"head")
            .le_u64(8, number as u64 + 1)
            .put_field(
                16,
                &DiskIdentity::swap_guid(job.options.uuid_for("file write")),
            )
            .put_field(32, &DiskIdentity::swap_guid(job.options.image_uuid()))
            .le_u16(66, 1)
            .le_u32(68, REGION_LEN)
            .le_u64(72, LOG_OFFSET);
        let sum = masked_checksum(header.as_slice());
        header.le_u32(4, sum);
        put_bytes(&mut *job.target, header.as_slice(), offset)?;
    }
    let mut regions = HeaderBytes::new(TABLE_LEN);
    regions.put_field(0, b"regi").le_u32(8, 2);
    for (at, guid, offset, len) in [
        (16, TABLE_REGION, BLOCK_TABLE_OFFSET, table_len as u32),
        (48, METADATA_REGION, METADATA_OFFSET, REGION_LEN),
    ] {
        regions
            .put_field(at, &guid)
            .le_u64(at + 16, offset)
            .le_u32(at + 24, len)
            .le_u32(at + 28, 1);
    }
    let sum = masked_checksum(regions.as_slice());
    regions.le_u32(4, sum);
    for offset in TABLES_AT {
        put_bytes(&mut *job.target, regions.as_slice(), offset)?;
    }
    Ok(())
}

/// The metadata region up to its last item.
fn metadata_region(job: &WriteJob, block_len: u64) -> Result<HeaderBytes, ImageWriteError> {
    let flags = if job.has_parent() { HAS_PARENT } else { 0 };
    let parameters = [(block_len as u32).to_le_bytes(), flags.to_le_bytes()].concat();
    let disk_identity = DiskIdentity::swap_guid(job.options.uuid_for("disk"));
    let disk = FLAG_DISK | FLAG_REQUIRED;
    let mut items = vec![
        (FILE_PARAMETERS, parameters, FLAG_REQUIRED),
        (DISK_SIZE, job.sector_len().to_le_bytes().to_vec(), disk),
        (DISK_IDENTITY, disk_identity.to_vec(), disk),
        (
            LOGICAL_SECTOR,
            (SECTOR_LEN as u32).to_le_bytes().to_vec(),
            disk,
        ),
        (
            PHYSICAL_SECTOR,
            PHYSICAL_SECTOR_LEN.to_le_bytes().to_vec(),
            disk,
        ),
    ];
    if let Some(locator) = parent_locator(job)? {
        items.push((PARENT_LOCATOR, locator, FLAG_REQUIRED));
    }
    debug_assert!(items.iter().all(|(.., flags)| flags & FLAG_USER == 0));
    let items_len: usize = items.iter().map(|(_, item, _)| item.len()).sum();
    let mut region = HeaderBytes::new(ITEMS_AT + items_len);
    region
        .put_field(0, b"metadata")
        .le_u16(10, items.len() as u16);
    let mut place = ITEMS_AT;
    for (number, (guid, item, flags)) in items.iter().enumerate() {
        let at = 32 + 32 * number;
        region
            .put_field(at, guid)
            .le_u32(at + 16, place as u32)
            .le_u32(at + 20, item.len() as u32)
            .le_u32(at + 24, *flags)
            .put_field(place, item);
        place += item.len();
    }
    Ok(region)
}

/// The parent by the GUID of its last write and by its relative path.
fn parent_locator(job: &WriteJob) -> Result<Option<Vec<u8>>, ImageWriteError> {
    let Some(parent) = &job.options.parent else {
        return Ok(None);
    };
    let identity = DiskIdentity::Uuid(job.options.parent_uuid(FORMAT)?);
    let pairs = [
        ("parent_linkage", format!("{{{identity}}}")),
        (
            "relative_path",
            format!(".\\{}", parent.path.replace('/', "\\")),
        ),
    ];
    let utf16 =
        |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
    let mut head = VHDX_LOCATOR.to_vec();
    head.extend([0; 2]);
    head.extend((pairs.len() as u16).to_le_bytes());
    let mut texts = Vec::new();
    for (key, value) in &pairs {
        let (key, value) = (utf16(key), utf16(value));
        let place = 20 + 12 * pairs.len() + texts.len();
        head.extend((place as u32).to_le_bytes());
        head.extend(((place + key.len()) as u32).to_le_bytes());
        head.extend((key.len() as u16).to_le_bytes());
        head.extend((value.len() as u16).to_le_bytes());
        texts.extend([key, value].concat());
    }
    Ok(Some([head, texts].concat()))
}
