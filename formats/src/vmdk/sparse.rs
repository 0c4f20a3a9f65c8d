//! A sparse extent of a VMDK: grains under a directory of tables, in three shapes.
//!
//! ```text
//! All numbers are little-endian, places and lengths in sectors of 512 bytes.
//!
//! Hosted ("KDMV"), 512 bytes                                 the failure its check guards
//! 4   4  version, 1 to 3                                     fields that mean something else
//! 8   4  flags: bit 2 grain 1 is zeros, 16 compressed,       a marker taken for a place
//!        17 markers
//! 12  8  capacity                                            sums that overflow
//! 20  8  grain length, a power of two from 8 sectors         a shift too far
//! 28  8  place of the descriptor, 36 8 its length
//! 44  4  entries in a table, 512                             tables of any length
//! 56  8  place of the directory; all ones: in the footer,    a directory outside the file
//!        1,024 bytes before the end
//! 77  2  compression: 1 deflate                              a stream given to the wrong codec
//! Directory and tables: 4 bytes an entry, 0: nothing there.
//! A compressed grain: its first sector (8), length (4), then a zlib stream, whose checksum is
//! verified.
//!
//! COWD: version (4), flags (4), capacity (4), grain length (4), place of the directory (4), its
//! entries (4), from byte 4 on. Tables have 4,096 entries of 4 bytes.
//!
//! seSparse (0xcafebabe): 8 bytes each from byte 8 on: version 0x200000001, capacity, grain length
//! 8, table length 64; place of the directory at 128 and its length at 136, of the tables at 144,
//! of the grains at 192. A directory's entry: 0, or 0x10000000 in the upper half and the number of
//! a table in the lower. A table's: the upper 4 bits 0 nothing, 1 unmapped, 2 zeros, 3 a grain,
//! whose number is bits 48 to 59 below bits 0 to 47.
//! ```

use vellum_core::source::{ClusterCodec, ClusterDecoder, ReadAt, SourceError};
use vellum_core::units::IMAGE_LEN_MAX;

use super::adler32::adler32;
use super::{FORMAT, SECTOR_LEN, unknown_kind};
use crate::claims::BlockClaims;
use crate::entry_table::EntryTable;
use crate::fields::{array_at, le_u16, le_u32, le_u64};
use crate::mapped::PieceLocation;
use crate::{lies_inside, malformed, read_up_to};

const HEADER_LEN: usize = 512;
const COWD_TABLE_ENTRIES: u64 = 4096;
const SESPARSE_MAGIC: u64 = 0xcafe_babe;
const SESPARSE_VERSION: u64 = 0x0000_0002_0000_0001;
const SESPARSE_GRAIN_SECTORS: u64 = 8;
const SESPARSE_TABLE_SECTORS: u64 = 64;
pub(super) const FLAG_ZERO_GRAIN: u32 = 1 << 2;
pub(super) const FLAG_COMPRESSED: u32 = 1 << 16;
pub(super) const FLAG_MARKERS: u32 = 1 << 17;
pub(super) const IN_FOOTER: u64 = u64::MAX;
const FOOTER_FROM_END: u64 = 1024;
/// The same limits as qemu's: 64 Ki entries a table; grains of 64 MiB at most would be nobody's.
const TABLE_ENTRIES_MAX: u64 = 64 << 10;
const GRAIN_LEN_MAX: u64 = 2 << 20;
/// Greatest length of a compressed grain in a marker; with a longer one it is no marker.
const PACKED_LEN_MAX: u64 = 2 * GRAIN_LEN_MAX;
const MARKER_LEN: u64 = 12;
const ZLIB_HEAD_LEN: usize = 2;
const ZLIB_TAIL_LEN: usize = 4;

/// The three shapes of a sparse extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SparseKind {
    Hosted,
    Cowd,
    SeSparse,
}

/// A header, its numbers in bytes and checked.
pub(super) struct SparseHeader {
    kind: SparseKind,
    pub(super) capacity: u64,
    grain_len: u64,
    /// Entries of one table.
    table_entries: u64,
    directory_offset: u64,
    /// Only seSparse numbers its tables and grains.
    tables_offset: u64,
    grains_offset: u64,
    has_zero_grain: bool,
    is_compressed: bool,
    has_markers: bool,
    /// Place of the descriptor, if the extent holds one: offset, length.
    pub(super) descriptor: Option<(u64, u64)>,
}

/// An extent whose directory lies inside its file.
pub(super) struct SparseExtent {
    header: SparseHeader,
    directory: EntryTable,
    /// The table that was used last.
    last_table: std::sync::Mutex<Option<(u64, std::sync::Arc<EntryTable>)>>,
    claims: BlockClaims,
}

/// The shape that the file's first bytes tell, if it is one of them.
pub(super) fn kind_of(file: &dyn ReadAt) -> Result<Option<SparseKind>, SourceError> {
    let head = read_up_to(file, 0, 8)?;
    Ok(match head.get(..4) {
        Some(b"KDMV") => Some(SparseKind::Hosted),
        Some(b"COWD") => Some(SparseKind::Cowd),
        _ if le_u64(&head, 0) == Some(SESPARSE_MAGIC) => Some(SparseKind::SeSparse),
        _ => None,
    })
}

impl SparseHeader {
    pub(super) fn read_from(file: &dyn ReadAt, kind: SparseKind) -> Result<Self, SourceError> {
        let bytes = read_up_to(file, 0, HEADER_LEN)?;
        let cut = || malformed(FORMAT, "the file ends inside the header");
        let header = match kind {
            SparseKind::Hosted => Self::parse_hosted(file, &bytes)?,
            SparseKind::Cowd => Self::parse_cowd(&bytes).ok_or_else(cut)?,
            SparseKind::SeSparse => Self::parse_sesparse(&bytes)?,
        };
        header.verify_fields()?;
        Ok(header)
    }

    fn parse_hosted(file: &dyn ReadAt, bytes: &[u8]) -> Result<Self, SourceError> {
        let cut = || malformed(FORMAT, "the file ends inside the header");
        let header = Self::hosted_fields(bytes)?;
        if header.directory_offset != IN_FOOTER {
            return Ok(header);
        }
        let at = file.len().checked_sub(FOOTER_FROM_END).ok_or_else(cut)?;
        let footer = read_up_to(file, at, HEADER_LEN)?;
        if !footer.starts_with(b"KDMV") {
            return Err(malformed(
                FORMAT,
                "its footer is gone: the stream was cut off",
            ));
        }
        let footer = Self::hosted_fields(&footer)?;
        Ok(Self {
            directory_offset: footer.directory_offset,
            ..header
        })
    }

    fn hosted_fields(bytes: &[u8]) -> Result<Self, SourceError> {
        let cut = || malformed(FORMAT, "the file ends inside the header");
        let sectors = |at| le_u64(bytes, at).ok_or_else(cut);
        let version = le_u32(bytes, 4).ok_or_else(cut)?;
        if !(1..=3).contains(&version) {
            return Err(unknown_kind(&format!("version {version}")));
        }
        let flags = le_u32(bytes, 8).ok_or_else(cut)?;
        let is_compressed = flags & FLAG_COMPRESSED != 0;
        let method = le_u16(bytes, 77).ok_or_else(cut)?;
        if is_compressed && method != 1 {
            return Err(unknown_kind(&format!("compression method {method}")));
        }
        let directory = sectors(56)?;
        let (place, len) = (bytes_of(sectors(28)?)?, bytes_of(sectors(36)?)?);
        Ok(Self {
            kind: SparseKind::Hosted,
            capacity: bytes_of(sectors(12)?)?,
            grain_len: bytes_of(sectors(20)?)?,
            table_entries: u64::from(le_u32(bytes, 44).ok_or_else(cut)?),
            directory_offset: if directory == IN_FOOTER {
                IN_FOOTER
            } else {
                bytes_of(directory)?
            },
            tables_offset: 0,
            grains_offset: 0,
            has_zero_grain: flags & FLAG_ZERO_GRAIN != 0,
            is_compressed,
            has_markers: flags & FLAG_MARKERS != 0,
            descriptor: (place != 0 && len != 0).then_some((place, len)),
        })
    }

    fn parse_cowd(bytes: &[u8]) -> Option<Self> {
        let sectors = |at| le_u32(bytes, at).map(|sectors| u64::from(sectors) * SECTOR_LEN);
        Some(Self {
            kind: SparseKind::Cowd,
            capacity: sectors(12)?,
            grain_len: sectors(16)?,
            table_entries: COWD_TABLE_ENTRIES,
            directory_offset: sectors(20)?,
            tables_offset: 0,
            grains_offset: 0,
            has_zero_grain: false,
            is_compressed: false,
            has_markers: false,
            descriptor: None,
        })
    }

    fn parse_sesparse(bytes: &[u8]) -> Result<Self, SourceError> {
        let cut = || malformed(FORMAT, "the file ends inside the header");
        let number = |at| le_u64(bytes, at).ok_or_else(cut);
        let shape = (number(8)?, number(24)?, number(32)?);
        if shape
            != (
                SESPARSE_VERSION,
                SESPARSE_GRAIN_SECTORS,
                SESPARSE_TABLE_SECTORS,
            )
        {
            return Err(unknown_kind(&format!(
                "seSparse of version {:#x} with grains of {} and tables of {} sectors",
                shape.0, shape.1, shape.2
            )));
        }
        Ok(Self {
            kind: SparseKind::SeSparse,
            capacity: bytes_of(number(16)?)?,
            grain_len: SESPARSE_GRAIN_SECTORS * SECTOR_LEN,
            table_entries: SESPARSE_TABLE_SECTORS * SECTOR_LEN / 8,
            directory_offset: bytes_of(number(128)?)?,
            tables_offset: bytes_of(number(144)?)?,
            grains_offset: bytes_of(number(192)?)?,
            has_zero_grain: false,
            is_compressed: false,
            has_markers: false,
            descriptor: None,
        })
    }

    fn verify_fields(&self) -> Result<(), SourceError> {
        let Self {
            capacity,
            grain_len,
            table_entries,
            ..
        } = *self;
        if capacity > IMAGE_LEN_MAX {
            return Err(malformed(
                FORMAT,
                format!("a length of {capacity} bytes is too much"),
            ));
        }
        if !grain_len.is_power_of_two() || !(SECTOR_LEN..=GRAIN_LEN_MAX).contains(&grain_len) {
            return Err(malformed(FORMAT, format!("grains of {grain_len} bytes")));
        }
        if table_entries == 0 || table_entries > TABLE_ENTRIES_MAX {
            return Err(malformed(
                FORMAT,
                format!("tables of {table_entries} entries"),
            ));
        }
        Ok(())
    }

    pub(super) fn variant_name(&self) -> &'static str {
        match self.kind {
            SparseKind::Cowd => "vmfsSparse",
            SparseKind::SeSparse => "seSparse",
            SparseKind::Hosted if self.is_compressed => "streamOptimized",
            SparseKind::Hosted => "monolithicSparse",
        }
    }

    fn entry_len(&self) -> u64 {
        if self.kind == SparseKind::SeSparse {
            8
        } else {
            4
        }
    }
}

impl SparseExtent {
    /// Reads the header of the extent in `file`.
    pub(super) fn open_extent(file: &dyn ReadAt, kind: SparseKind) -> Result<Self, SourceError> {
        let header = SparseHeader::read_from(file, kind)?;
        let per_table = header.grain_len * header.table_entries;
        let count = header.capacity.div_ceil(per_table);
        let directory = EntryTable::new(
            header.directory_offset,
            header.entry_len(),
            count,
            file.len(),
        );
        let directory = directory.ok_or_else(|| {
            malformed(
                FORMAT,
                format!(
                    "its directory of {count} tables at byte {} leaves the file",
                    header.directory_offset
                ),
            )
        })?;
        let unit_len = if header.is_compressed {
            SECTOR_LEN
        } else {
            header.grain_len
        };
        let claims = BlockClaims::new(FORMAT, file.len(), unit_len, 0);
        Ok(Self {
            header,
            directory,
            last_table: std::sync::Mutex::default(),
            claims,
        })
    }

    /// Bytes of the disk that it holds.
    pub(super) fn capacity(&self) -> u64 {
        self.header.capacity
    }

    /// The piece at `offset` of the extent, which lies in file number `number`.
    pub(super) fn piece_at(
        &self,
        file: &dyn ReadAt,
        number: usize,
        offset: u64,
    ) -> Result<(u64, PieceLocation), SourceError> {
        let header = &self.header;
        let (grain, within) = (offset / header.grain_len, offset % header.grain_len);
        let len = (header.grain_len - within).min(header.capacity - offset);
        let table_number = grain / header.table_entries;
        let Some(table) = self.read_table(file, table_number)? else {
            let end = (table_number + 1) * header.table_entries * header.grain_len;
            return Ok((end.min(header.capacity) - offset, PieceLocation::Absent));
        };
        let (entry, alike) = self.read_run(file, &table, grain % header.table_entries)?;
        let alike_len = (alike * header.grain_len - within).min(header.capacity - offset);
        let place = match self.grain_place(grain, entry)? {
            GrainPlace::Absent => return Ok((alike_len, PieceLocation::Absent)),
            GrainPlace::Zero => return Ok((alike_len, PieceLocation::Zero)),
            GrainPlace::At(place) => place,
        };
        let outside = || {
            malformed(
                FORMAT,
                format!("grain {grain} is said to be at byte {place}, outside the file"),
            )
        };
        if header.is_compressed {
            lies_inside(place, 1, file.len())
                .then_some(())
                .ok_or_else(outside)?;
            let location = PieceLocation::Packed {
                file: number,
                offset: place,
                skip: within,
            };
            return Ok((len, location));
        }
        lies_inside(place + within, len, file.len())
            .then_some(())
            .ok_or_else(outside)?;
        let location = PieceLocation::Stored {
            file: number,
            offset: place + within,
        };
        Ok((len, location))
    }

    /// The table of that number, `None` if there is none.
    fn read_table(
        &self,
        file: &dyn ReadAt,
        number: u64,
    ) -> Result<Option<std::sync::Arc<EntryTable>>, SourceError> {
        let lock = || {
            self.last_table
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
        };
        if let Some((found, table)) = &*lock()
            && *found == number
        {
            return Ok(Some(std::sync::Arc::clone(table)));
        }
        let entry = self.read_entry(file, &self.directory, number)?;
        let Some(offset) = self.table_offset(number, entry)? else {
            return Ok(None);
        };
        let header = &self.header;
        let table = EntryTable::new(offset, header.entry_len(), header.table_entries, file.len());
        let table = table.ok_or_else(|| {
            malformed(
                FORMAT,
                format!("table {number} at byte {offset} leaves the file"),
            )
        })?;
        if self.claims.is_new(number) {
            self.claims
                .claim_part(number, self.grains_of(file, &table)?)?;
        }
        let table = std::sync::Arc::new(table);
        *lock() = Some((number, std::sync::Arc::clone(&table)));
        Ok(Some(table))
    }

    /// An entry of a table, and how many from there on are the same.
    fn read_run(
        &self,
        file: &dyn ReadAt,
        table: &EntryTable,
        index: u64,
    ) -> Result<(u64, u64), SourceError> {
        let run = if self.header.entry_len() == 8 {
            let run = table.read_run(file, index)?;
            run.map(|(entry, alike)| (u64::from_le_bytes(entry), alike))
        } else {
            let run = table.read_run(file, index)?;
            run.map(|(entry, alike)| (u64::from(u32::from_le_bytes(entry)), alike))
        };
        Ok(run.unwrap_or((0, 1)))
    }

    /// Counts the grains of the file that a table names.
    fn grains_of(&self, file: &dyn ReadAt, table: &EntryTable) -> Result<u64, SourceError> {
        let mut count = 0;
        for index in 0..table.entry_count() {
            let entry = self.read_entry(file, table, index)?;
            // An entry that is wrong is told where it is asked for.
            count += u64::from(matches!(self.grain_place(0, entry), Ok(GrainPlace::At(_))));
        }
        Ok(count)
    }

    fn read_entry(
        &self,
        file: &dyn ReadAt,
        table: &EntryTable,
        index: u64,
    ) -> Result<u64, SourceError> {
        Ok(if self.header.entry_len() == 8 {
            table
                .read_entry(file, index)?
                .map(u64::from_le_bytes)
                .unwrap_or_default()
        } else {
            table
                .read_entry(file, index)?
                .map(u32::from_le_bytes)
                .unwrap_or_default()
                .into()
        })
    }

    fn table_offset(&self, number: u64, entry: u64) -> Result<Option<u64>, SourceError> {
        if entry == 0 {
            return Ok(None);
        }
        if self.header.kind != SparseKind::SeSparse {
            return Ok(Some(entry * SECTOR_LEN));
        }
        if entry >> 32 != 0x1000_0000 {
            return Err(malformed(
                FORMAT,
                format!("entry {number} of its directory is {entry:#x}"),
            ));
        }
        let table_len = SESPARSE_TABLE_SECTORS * SECTOR_LEN;
        Ok(Some(
            self.header
                .tables_offset
                .saturating_add((entry & 0xffff_ffff) * table_len),
        ))
    }

    fn grain_place(&self, grain: u64, entry: u64) -> Result<GrainPlace, SourceError> {
        let header = &self.header;
        if header.kind != SparseKind::SeSparse {
            return Ok(match entry {
                0 => GrainPlace::Absent,
                1 if header.has_zero_grain => GrainPlace::Zero,
                sector => GrainPlace::At(sector * SECTOR_LEN),
            });
        }
        match entry >> 60 {
            0 if entry == 0 => Ok(GrainPlace::Absent),
            1 | 2 => Ok(GrainPlace::Zero),
            3 => {
                let number = ((entry >> 48) & 0xfff) | ((entry & 0xffff_ffff_ffff) << 12);
                let place = number.checked_mul(header.grain_len);
                let place = place.and_then(|place| place.checked_add(header.grains_offset));
                place.map(GrainPlace::At).ok_or_else(|| {
                    malformed(FORMAT, format!("grain {grain} has the number {number}"))
                })
            }
            _ => Err(malformed(
                FORMAT,
                format!("the entry of grain {grain} is {entry:#x}"),
            )),
        }
    }

    /// The decoded grain whose marker (or stream) begins at `offset`.
    pub(super) fn unpack_grain(
        &self,
        file: &dyn ReadAt,
        offset: u64,
        decoder: &dyn ClusterDecoder,
    ) -> Result<Vec<u8>, SourceError> {
        let grain_len = self.header.grain_len;
        let (start, len, visible_len) = if self.header.has_markers {
            let marker = read_up_to(file, offset, MARKER_LEN as usize)?;
            let len = le_u32(&marker, 8).map_or(0, u64::from);
            (offset + MARKER_LEN, len, self.visible_len(&marker))
        } else {
            (offset, 2 * grain_len, Some(grain_len))
        };
        let wrong = |reason: String| {
            malformed(
                FORMAT,
                format!("the compressed grain at byte {offset}: {reason}"),
            )
        };
        if len == 0 || len > PACKED_LEN_MAX {
            return Err(wrong(format!("{len} bytes")));
        }
        let visible_len = visible_len
            .ok_or_else(|| wrong("its marker names a sector behind the disk".to_owned()))?;
        let packed = read_up_to(file, start, len as usize)?;
        let stream = deflate_stream(&packed).ok_or_else(|| wrong("no zlib stream".to_owned()))?;
        let mut grain = vec![0; grain_len as usize];
        let (visible, _) = grain.split_at_mut(visible_len as usize);
        decoder
            .decode_cluster(ClusterCodec::Deflate, stream, visible)
            .map_err(wrong)?;
        if carries_sum(&packed, visible) || carries_sum(&packed, &grain) {
            Ok(grain)
        } else {
            Err(wrong("its checksum is not that of its content".to_owned()))
        }
    }

    /// Length of the part that the disk shows of the grain that a marker begins: qemu compresses no
    /// more of the last one, others all of it. `None` if the marker's sector is not the disk's.
    fn visible_len(&self, marker: &[u8]) -> Option<u64> {
        let start = le_u64(marker, 0)?.checked_mul(SECTOR_LEN)?;
        let rest = self.header.capacity.checked_sub(start)?;
        (rest > 0).then_some(rest.min(self.header.grain_len))
    }
}

enum GrainPlace {
    Absent,
    Zero,
    At(u64),
}

/// The bytes between the head and the checksum of a zlib stream.
fn deflate_stream(packed: &[u8]) -> Option<&[u8]> {
    let [method, flags] = array_at(packed, 0)?;
    let is_zlib = method & 0x0f == 8
        && u16::from_be_bytes([method, flags]).is_multiple_of(31)
        && flags & 0x20 == 0;
    (is_zlib && packed.len() > ZLIB_HEAD_LEN + ZLIB_TAIL_LEN)
        .then(|| packed.get(ZLIB_HEAD_LEN..))?
}

/// True if a zlib stream has the checksum of `plain` behind it. The exact place is not known:
/// padding may follow.
fn carries_sum(packed: &[u8], plain: &[u8]) -> bool {
    let sum = adler32(plain).to_be_bytes();
    packed.ends_with(&sum) || packed.windows(sum.len()).any(|bytes| bytes == sum)
}

/// Sectors as bytes, within what an image can be long.
fn bytes_of(sectors: u64) -> Result<u64, SourceError> {
    sectors
        .checked_mul(SECTOR_LEN)
        .ok_or_else(|| malformed(FORMAT, format!("{sectors} sectors are too much")))
}
