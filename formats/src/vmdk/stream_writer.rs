//! A streamOptimized VMDK that is written: compressed grains in the disk's order, as in an OVA. It
//! streams.
//!
//! ```text
//! sector        what
//! 0             header; its directory's place is all ones: see the footer
//! 1             descriptor, 20 sectors
//! 128           grains: first sector (8), length (4), zlib stream; up to a whole sector.
//!               Behind the grains of each table: a marker, the table of 512 places.
//! at the end    a marker, the directory; a marker, the footer; a marker of zeros
//!
//! Marker: a sector: how many follow (8), 0 (4), kind (4): 0 end, 1 table, 2 directory, 3 footer
//! ```
//!
//! A table without grains is not there. Grains are whole, the disk's last one too: zeros follow.

use super::adler32::adler32;
use super::description::DescriptorText;
use super::hosted::{
    FLAG_NEWLINES, GRAIN_LEN, HostedHeader, PLACE_SECTORS_MAX, TABLE_ENTRIES, TABLE_SECTORS,
    directory_entries,
};
use super::sparse::{FLAG_COMPRESSED, FLAG_MARKERS, IN_FOOTER};
use super::{FORMAT, SECTOR_LEN};
use crate::Format;
use crate::identity::DiskIdentity;
use crate::write::flow::{CellFlow, CellPacking, CellSink};
use crate::write::{
    CellGap, CellGrid, ClusterEncoder, HeaderBytes, ImageTarget, ImageWriteError, WriteJob,
    WrittenImage, end_file, impossible_image, put_bytes,
};
use vellum_core::source::ClusterCodec;

const OVERHEAD_SECTORS: u64 = 128;
const VERSION: u32 = 3;
const COMPRESSION_DEFLATE: u16 = 1;
const MARKER_TABLE: u32 = 1;
const MARKER_DIRECTORY: u32 = 2;
const MARKER_FOOTER: u32 = 3;
/// zlib's head for a window of 32 KiB, no dictionary, the usual level.
const ZLIB_HEAD: [u8; 2] = [0x78, 0x9c];

/// Makes zlib streams of an encoder's deflate streams.
struct ZlibEncoder<'a>(&'a dyn ClusterEncoder);

struct StreamWriter<'t> {
    target: &'t mut dyn ImageTarget,
    /// The sector that comes next.
    next: u64,
    directory: Vec<u32>,
    table: Option<OpenTable>,
    /// The grain under construction.
    grain: Vec<u8>,
}

/// The table that is filling.
struct OpenTable {
    number: u64,
    entries: Vec<u32>,
}

pub(crate) fn write_image(job: &mut WriteJob) -> Result<WrittenImage, ImageWriteError> {
    job.refuse_empty(Format::Vmdk)?;
    job.refuse_parent(Format::Vmdk, "streamOptimized")?;
    let image_len = job.sector_len();
    let description = DescriptorText::for_job(job, "streamOptimized")?;
    let header = |directory| HostedHeader {
        version: VERSION,
        flags: FLAG_NEWLINES | FLAG_COMPRESSED | FLAG_MARKERS,
        capacity: image_len / SECTOR_LEN,
        second_directory: 0,
        directory,
        overhead: OVERHEAD_SECTORS,
        compression: COMPRESSION_DEFLATE,
    };
    put_bytes(&mut *job.target, &header(IN_FOOTER).to_bytes(), 0)?;
    put_bytes(&mut *job.target, description.as_bytes(), SECTOR_LEN)?;
    let encoder = ZlibEncoder(job.encoder);
    let flow = CellFlow {
        source: job.source,
        grid: CellGrid::single_cells(GRAIN_LEN, false),
        packing: Some(CellPacking {
            codec: ClusterCodec::Deflate,
            encoder: &encoder,
            is_always: true,
        }),
    };
    let mut writer = StreamWriter {
        target: &mut *job.target,
        next: OVERHEAD_SECTORS,
        directory: vec![0; directory_entries(image_len) as usize],
        table: None,
        grain: Vec::new(),
    };
    flow.copy_to(&mut writer)?;
    let directory = writer.close_directory()?;
    writer.write_marker(MARKER_FOOTER, 1)?;
    writer.write_sectors(&header(directory).to_bytes())?;
    writer.write_marker(0, 0)?;
    let file_len = writer.next * SECTOR_LEN;
    end_file(&mut *job.target, file_len)?;
    Ok(WrittenImage {
        file_len,
        image_len,
        identity: Some(DiskIdentity::ContentId(job.options.content_id())),
    })
}

impl StreamWriter<'_> {
    /// Writes whole sectors at the end; returns where they begin.
    fn write_sectors(&mut self, bytes: &[u8]) -> Result<u64, ImageWriteError> {
        let place = self.next;
        put_bytes(&mut *self.target, bytes, place * SECTOR_LEN)?;
        self.next += (bytes.len() as u64).div_ceil(SECTOR_LEN);
        Ok(place)
    }

    fn write_marker(&mut self, kind: u32, follow: u64) -> Result<(), ImageWriteError> {
        let mut marker = HeaderBytes::new(SECTOR_LEN as usize);
        marker.le_u64(0, follow).le_u32(12, kind);
        self.write_sectors(marker.as_slice()).map(drop)
    }

    fn close_table(&mut self) -> Result<(), ImageWriteError> {
        let Some(table) = self.table.take() else {
            return Ok(());
        };
        self.write_marker(MARKER_TABLE, TABLE_SECTORS)?;
        let place = self.write_sectors(&le_bytes(&table.entries))?;
        let place = place_of(place)?;
        let entry = self.directory.get_mut(table.number as usize);
        *entry.expect("the directory has an entry for each table of the disk") = place;
        Ok(())
    }

    /// Writes the last table and the directory; tells its sector.
    fn close_directory(&mut self) -> Result<u64, ImageWriteError> {
        self.close_table()?;
        let directory = std::mem::take(&mut self.directory);
        let mut bytes = le_bytes(&directory);
        bytes.resize(bytes.len().next_multiple_of(SECTOR_LEN as usize), 0);
        self.write_marker(MARKER_DIRECTORY, bytes.len() as u64 / SECTOR_LEN)?;
        self.write_sectors(&bytes)
    }

    fn set_entry(&mut self, grain: u64, entry: u32) -> Result<(), ImageWriteError> {
        let number = grain / TABLE_ENTRIES;
        if self
            .table
            .as_ref()
            .is_none_or(|table| table.number != number)
        {
            self.close_table()?;
        }
        let table = self.table.get_or_insert_with(|| OpenTable {
            number,
            entries: vec![0; TABLE_ENTRIES as usize],
        });
        let place = table.entries.get_mut((grain % TABLE_ENTRIES) as usize);
        *place.expect("a table has an entry for each of its grains") = entry;
        Ok(())
    }
}

impl CellSink for StreamWriter<'_> {
    fn write_gap(&mut self, _: u64, _: u64, _: CellGap) -> Result<(), ImageWriteError> {
        Ok(())
    }

    fn write_data(&mut self, _: u64, _: &[u8]) -> Result<(), ImageWriteError> {
        Err(ImageWriteError::Encoder(
            "a grain was not compressed".to_owned(),
        ))
    }

    fn write_packed(&mut self, start: u64, bytes: &[u8]) -> Result<(), ImageWriteError> {
        // A table that is full goes before the next grain.
        let grain = start / GRAIN_LEN;
        let number = grain / TABLE_ENTRIES;
        if self
            .table
            .as_ref()
            .is_some_and(|table| table.number != number)
        {
            self.close_table()?;
        }
        let mut buffer = std::mem::take(&mut self.grain);
        buffer.clear();
        buffer.extend_from_slice(&(start / SECTOR_LEN).to_le_bytes());
        buffer.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        buffer.extend_from_slice(bytes);
        buffer.resize(buffer.len().next_multiple_of(SECTOR_LEN as usize), 0);
        let place = self.write_sectors(&buffer)?;
        self.grain = buffer;
        self.set_entry(grain, place_of(place)?)
    }
}

impl ClusterEncoder for ZlibEncoder<'_> {
    fn encode_cluster(&self, codec: ClusterCodec, plain: &[u8]) -> Result<Vec<u8>, String> {
        let deflated = self.0.encode_cluster(codec, plain)?;
        Ok([&ZLIB_HEAD[..], &deflated, &adler32(plain).to_be_bytes()].concat())
    }
}

fn place_of(sector: u64) -> Result<u32, ImageWriteError> {
    u32::try_from(sector)
        .ok()
        .filter(|sector| u64::from(*sector) <= PLACE_SECTORS_MAX)
        .ok_or_else(|| impossible_image(FORMAT, "its compressed content takes more than 2 TiB"))
}

fn le_bytes(entries: &[u32]) -> Vec<u8> {
    entries
        .iter()
        .flat_map(|entry| entry.to_le_bytes())
        .collect()
}
