//! A raw file: the disk's bytes, with holes where it has none. It streams.

use crate::Format;
use crate::write::blocks::FlatWriter;
use crate::write::flow::CellFlow;
use crate::write::{CellGrid, ImageWriteError, WriteJob, WrittenImage, end_file};

/// Holes are told at the length of a page: below that a file system keeps none.
const CELL_LEN: u64 = 4096;

pub(crate) fn write_image(job: &mut WriteJob) -> Result<WrittenImage, ImageWriteError> {
    job.refuse_parent(Format::Raw, "raw")?;
    let len = job.source.len();
    let flow = CellFlow {
        source: job.source,
        grid: CellGrid::single_cells(CELL_LEN, false),
        packing: None,
    };
    flow.copy_to(&mut FlatWriter {
        target: &mut *job.target,
        offset: 0,
        len,
    })?;
    end_file(&mut *job.target, len)?;
    Ok(WrittenImage {
        file_len: len,
        image_len: len,
        identity: None,
    })
}
