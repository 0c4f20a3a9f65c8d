//! A monolithicSparse VMDK that is written, with or without a parent.
//!
//! ```text
//! sector        what
//! 0             header
//! 1             descriptor, 20 sectors
//! 21            second directory, then the tables that it names
//! behind them   directory, then the tables that it names: the same entries
//! a multiple    grains of 64 KiB in the order in which they get content
//! of 128
//! ```
//!
//! All tables are there from the start, as `VMware` makes them; those without entries are holes.
//! Zeros over a parent's data are "grain 1", which the header's flag bit 2 allows.

use super::description::{DESCRIPTOR_SECTORS, DescriptorText};
use super::hosted::{
    FLAG_NEWLINES, FLAG_SECOND_DIRECTORY, GRAIN_LEN, HostedHeader, PLACE_SECTORS_MAX,
    TABLE_ENTRIES, TABLE_SECTORS, directory_entries,
};
use super::sparse::FLAG_ZERO_GRAIN;
use super::{FORMAT, SECTOR_LEN};
use crate::Format;
use crate::identity::DiskIdentity;
use crate::write::flow::{CellFlow, CellSink};
use crate::write::table::OrderedTable;
use crate::write::{
    CellGap, CellGrid, ImageTarget, ImageWriteError, WriteJob, WrittenImage, end_file,
    impossible_image, put_bytes,
};

const ZERO_GRAIN: u32 = 1;

/// Places of all parts of the file, in sectors.
struct SparseLayout {
    tables: u64,
    second_directory: u64,
    second_tables: u64,
    directory: u64,
    first_tables: u64,
    grains: u64,
}

struct SparseWriter<'t> {
    target: &'t mut dyn ImageTarget,
    tables: [OrderedTable<4>; 2],
    next_place: u64,
}

pub(crate) fn write_image(job: &mut WriteJob) -> Result<WrittenImage, ImageWriteError> {
    job.refuse_empty(Format::Vmdk)?;
    let image_len = job.sector_len();
    let layout = SparseLayout::for_len(image_len);
    if layout.grains > PLACE_SECTORS_MAX {
        return Err(impossible_image(
            FORMAT,
            format!("tables for {image_len} bytes leave no room for grains"),
        ));
    }
    let description = DescriptorText::for_job(job, "monolithicSparse")?;
    write_directories(job, &layout)?;
    let flow = CellFlow {
        source: job.source,
        grid: CellGrid::single_cells(GRAIN_LEN, job.has_parent()),
        packing: None,
    };
    let entries = layout.tables * TABLE_ENTRIES;
    let table = |sector| OrderedTable::new(sector * SECTOR_LEN, entries, [0; 4]);
    let mut writer = SparseWriter {
        target: &mut *job.target,
        tables: [table(layout.second_tables), table(layout.first_tables)],
        next_place: layout.grains,
    };
    flow.copy_to(&mut writer)?;
    let file_len = writer.finish_tables()? * SECTOR_LEN;
    let zero_flag = if job.has_parent() { FLAG_ZERO_GRAIN } else { 0 };
    let header = HostedHeader {
        version: if job.has_parent() { 2 } else { 1 },
        flags: FLAG_NEWLINES | FLAG_SECOND_DIRECTORY | zero_flag,
        capacity: image_len / SECTOR_LEN,
        second_directory: layout.second_directory,
        directory: layout.directory,
        overhead: layout.grains,
        compression: 0,
    };
    put_bytes(&mut *job.target, &header.to_bytes(), 0)?;
    put_bytes(&mut *job.target, description.as_bytes(), SECTOR_LEN)?;
    end_file(&mut *job.target, file_len)?;
    Ok(WrittenImage {
        file_len,
        image_len,
        identity: Some(DiskIdentity::ContentId(job.options.content_id())),
    })
}

impl SparseLayout {
    fn for_len(image_len: u64) -> Self {
        let tables = directory_entries(image_len);
        let directory_sectors = (4 * tables).div_ceil(SECTOR_LEN);
        let second_directory = 1 + DESCRIPTOR_SECTORS;
        let second_tables = second_directory + directory_sectors;
        let directory = second_tables + tables * TABLE_SECTORS;
        let first_tables = directory + directory_sectors;
        let end = first_tables + tables * TABLE_SECTORS;
        Self {
            tables,
            second_directory,
            second_tables,
            directory,
            first_tables,
            grains: end.next_multiple_of(GRAIN_LEN / SECTOR_LEN),
        }
    }
}

/// Both directories: the places of tables that lie one after the other.
fn write_directories(job: &mut WriteJob, layout: &SparseLayout) -> Result<(), ImageWriteError> {
    for (directory, tables) in [
        (layout.second_directory, layout.second_tables),
        (layout.directory, layout.first_tables),
    ] {
        let mut entries = OrderedTable::new(directory * SECTOR_LEN, layout.tables, [0; 4]);
        for number in 0..layout.tables {
            let sector = (tables + number * TABLE_SECTORS) as u32;
            entries.write_entry(&mut *job.target, number, sector.to_le_bytes())?;
        }
        entries.finish_entries(&mut *job.target)?;
    }
    Ok(())
}

impl SparseWriter<'_> {
    fn set_entry(&mut self, grain: u64, entry: u32) -> Result<(), ImageWriteError> {
        for table in &mut self.tables {
            table.write_entry(&mut *self.target, grain, entry.to_le_bytes())?;
        }
        Ok(())
    }

    /// The sector behind the last grain.
    fn finish_tables(self) -> Result<u64, ImageWriteError> {
        for table in self.tables {
            table.finish_entries(&mut *self.target)?;
        }
        Ok(self.next_place)
    }
}

impl CellSink for SparseWriter<'_> {
    fn write_gap(&mut self, start: u64, len: u64, gap: CellGap) -> Result<(), ImageWriteError> {
        if gap == CellGap::Zero {
            for grain in start / GRAIN_LEN..(start + len) / GRAIN_LEN {
                self.set_entry(grain, ZERO_GRAIN)?;
            }
        }
        Ok(())
    }

    fn write_data(&mut self, start: u64, bytes: &[u8]) -> Result<(), ImageWriteError> {
        put_bytes(&mut *self.target, bytes, self.next_place * SECTOR_LEN)?;
        let grains = bytes.len() as u64 / GRAIN_LEN;
        for number in 0..grains {
            if self.next_place > PLACE_SECTORS_MAX {
                return Err(impossible_image(
                    FORMAT,
                    "its content takes more than 2 TiB",
                ));
            }
            self.set_entry(start / GRAIN_LEN + number, self.next_place as u32)?;
            self.next_place += GRAIN_LEN / SECTOR_LEN;
        }
        Ok(())
    }
}
