//! A VDI that is written: dynamic, fixed, differencing. A fixed one streams.
//!
//! ```text
//! byte            what
//! 0               header, 512 bytes; what is not named in the reader's table:
//!                 472 bytes are used: 360 and 468 sector length 512, 72 their length from there on
//! 512             table of blocks
//! a multiple of   blocks of 1 MiB in the order in which they get content, or all
//! 1 MiB
//! ```
//!
//! A differencing image has whole blocks: one that it has in part is completed from its parent.

use super::{
    FORMAT, NOT_ALLOCATED, SIGNATURE, TYPE_DIFFERENCING, TYPE_DYNAMIC, TYPE_FIXED, VERSION, ZERO,
};
use crate::Format;
use crate::identity::DiskIdentity;
use crate::write::blocks::{BlockLayout, BlockRules, BlockWriter, FlatWriter};
use crate::write::flow::CellFlow;
use crate::write::table::OrderedTable;
use crate::write::{
    Allocation, CellGrid, HeaderBytes, ImageWriteError, SECTOR_LEN, WriteJob, WrittenImage,
    change_uuid, end_file, impossible_image, put_bytes,
};

const HEADER_LEN: usize = 512;
const TABLE_OFFSET: u64 = 512;
/// `VirtualBox`'s and qemu's; qemu reads no other.
const BLOCK_LEN: u64 = 1 << 20;
/// Zeros are looked for at this length.
const CELL_LEN: u64 = 64 << 10;
/// 512 TiB: with more the blocks would begin behind what the header's 32 bits can say.
const BLOCKS_MAX: u64 = 1 << 29;
const LEN_FIELD: u32 = 400;
const TEXT: &[u8] = b"<<< Oracle VM VirtualBox Disk Image >>>\n";

struct VdiRules {
    data_offset: u64,
}

impl BlockRules<4> for VdiRules {
    fn entry_index(&self, block: u64) -> u64 {
        block
    }

    fn stored_entry(&self, place: u64) -> [u8; 4] {
        (((place - self.data_offset) / BLOCK_LEN) as u32).to_le_bytes()
    }

    fn zero_entry(&self) -> Option<[u8; 4]> {
        Some(ZERO.to_le_bytes())
    }
}

pub(crate) fn write_image(
    allocation: Allocation,
    job: &mut WriteJob,
) -> Result<WrittenImage, ImageWriteError> {
    let image_len = job.sector_len();
    let blocks = image_len.div_ceil(BLOCK_LEN);
    if blocks > BLOCKS_MAX {
        return Err(impossible_image(
            FORMAT,
            format!("{image_len} bytes are more than {BLOCKS_MAX} MiB"),
        ));
    }
    job.options.verify_names(FORMAT)?;
    let data_offset = (TABLE_OFFSET + 4 * blocks).next_multiple_of(BLOCK_LEN);
    let file_len = match allocation {
        Allocation::Dynamic => write_dynamic(job, blocks, data_offset)?,
        Allocation::Fixed => write_fixed(job, blocks, data_offset)?,
    };
    Ok(WrittenImage {
        file_len,
        image_len,
        identity: Some(DiskIdentity::Uuid(job.options.image_uuid())),
    })
}

fn write_dynamic(
    job: &mut WriteJob,
    blocks: u64,
    data_offset: u64,
) -> Result<u64, ImageWriteError> {
    let has_parent = job.has_parent();
    let layout = BlockLayout {
        block_len: BLOCK_LEN,
        data_offset,
        bitmap_len: 0,
        has_parent,
    };
    let table = OrderedTable::new(TABLE_OFFSET, blocks, NOT_ALLOCATED.to_le_bytes());
    let flow = CellFlow {
        source: job.source,
        grid: CellGrid::whole_blocks(BLOCK_LEN, CELL_LEN, has_parent),
        packing: None,
    };
    let rules = VdiRules { data_offset };
    let mut writer = BlockWriter::new(&mut *job.target, rules, table, layout);
    flow.copy_to(&mut writer)?;
    let file_len = writer.finish_table()?;
    let allocated = (file_len - data_offset) / BLOCK_LEN;
    let kind = if has_parent {
        TYPE_DIFFERENCING
    } else {
        TYPE_DYNAMIC
    };
    let header = vdi_header(job, kind, blocks, allocated, data_offset)?;
    put_bytes(&mut *job.target, header.as_slice(), 0)?;
    end_file(&mut *job.target, file_len)?;
    Ok(file_len)
}

fn write_fixed(job: &mut WriteJob, blocks: u64, data_offset: u64) -> Result<u64, ImageWriteError> {
    job.refuse_parent(Format::Vdi, "fixed")?;
    let header = vdi_header(job, TYPE_FIXED, blocks, blocks, data_offset)?;
    put_bytes(&mut *job.target, header.as_slice(), 0)?;
    let mut table = OrderedTable::new(TABLE_OFFSET, blocks, NOT_ALLOCATED.to_le_bytes());
    for block in 0..blocks {
        table.write_entry(&mut *job.target, block, (block as u32).to_le_bytes())?;
    }
    table.finish_entries(&mut *job.target)?;
    let flow = CellFlow {
        source: job.source,
        grid: CellGrid::single_cells(CELL_LEN, false),
        packing: None,
    };
    flow.copy_to(&mut FlatWriter {
        target: &mut *job.target,
        offset: data_offset,
        len: blocks * BLOCK_LEN,
    })?;
    let file_len = data_offset + blocks * BLOCK_LEN;
    end_file(&mut *job.target, file_len)?;
    Ok(file_len)
}

fn vdi_header(
    job: &WriteJob,
    kind: u32,
    blocks: u64,
    allocated: u64,
    data_offset: u64,
) -> Result<HeaderBytes, ImageWriteError> {
    let options = job.options;
    let stored = |uuid| DiskIdentity::swap_guid(uuid);
    let parent = options.parent_uuid(FORMAT)?;
    let parent_change = if job.has_parent() {
        change_uuid(parent)
    } else {
        [0; 16]
    };
    let mut header = HeaderBytes::new(HEADER_LEN);
    header
        .put_field(0, TEXT)
        .le_u32(64, SIGNATURE)
        .le_u32(68, VERSION)
        .le_u32(72, LEN_FIELD)
        .le_u32(76, kind)
        .le_u32(340, TABLE_OFFSET as u32)
        .le_u32(344, data_offset as u32)
        .le_u32(360, SECTOR_LEN as u32)
        .le_u64(368, job.sector_len())
        .le_u32(376, BLOCK_LEN as u32)
        .le_u32(384, blocks as u32)
        .le_u32(388, allocated as u32)
        .put_field(392, &stored(options.image_uuid()))
        .put_field(408, &stored(change_uuid(options.image_uuid())))
        .put_field(424, &stored(parent))
        .put_field(440, &stored(parent_change))
        .le_u32(468, SECTOR_LEN as u32);
    Ok(header)
}
