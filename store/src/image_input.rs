//! Reads the content of an import, in order, as pieces on the chunk grid: data, zero, absent, or
//! known to be unchanged.
//!
//! It knows image formats only as [`ImageSource`].

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use vellum_core::change_map::{ChangeKind, ChangeMap};
use vellum_core::source::{Extent, ExtentKind, ImageSource, SourceError};
use vellum_core::units::ChunkLen;
use vellum_formats::Format;
use vellum_formats::input::{InputChoice, InputFormat};

use crate::error::StoreError;
use crate::file_source::FileGuard;
use crate::image_file::ImageFile;

/// Bytes of one piece of data: large enough to keep the lanes of the hash full, small enough that a
/// few of them are little memory.
const PIECE_LEN: u64 = 1 << 20;
/// Buffers kept for reuse; fresh ones cost a page fault for every 4 KiB.
const SPARE_BUFFERS_MAX: usize = 16;

/// Part of an import's content. Starts on the chunk grid; ends on it, or at the end of the disk.
pub(crate) enum Piece {
    /// Bytes. `absent` are ranges within that the source says nothing of, read as zeros: the
    /// parent's bytes belong there.
    Data {
        start: u64,
        bytes: Vec<u8>,
        absent: Vec<Range<usize>>,
    },
    /// Zeros.
    Zero { start: u64, len: u64 },
    /// The source says nothing: the parent's content.
    Absent { start: u64, len: u64 },
    /// Bytes that are still to be read, on whichever thread has time.
    Unread(UnreadPiece),
}

/// Data of an image whose reading costs more than the system's part of it.
pub(crate) struct UnreadPiece {
    source: Arc<dyn ImageSource>,
    name: String,
    range: Range<u64>,
    spare: SpareBuffers,
}

/// A file, device or pipe whose content is to be imported.
pub struct ImageInput {
    name: String,
    /// The format that the file was read as, if it was one.
    format: Option<InputFormat>,
    kind: InputKind,
    spare: Spare,
}

type Spare = Arc<Mutex<Vec<Vec<u8>>>>;

enum InputKind {
    /// Anything that can be read at any place.
    Image {
        source: Arc<dyn ImageSource>,
        at: u64,
        map: Option<ChangeMap>,
        guard: Option<Arc<FileGuard>>,
    },
    /// A pipe: read to its end.
    Stream {
        reader: Box<dyn Read + Send>,
        at: u64,
        ended: bool,
    },
}

impl ImageInput {
    /// Opens `path` as an image of `format`, whole in itself. With a change map, only what the map
    /// says has changed is read: the map is trusted.
    pub fn open_whole(
        path: &Path,
        format: impl Into<InputFormat>,
        map: Option<ChangeMap>,
    ) -> Result<Self, StoreError> {
        Self::open_disk(path, format.into(), InputChoice::default(), map)
    }

    /// Opens as [`ImageInput::open_whole`] the disk that `choice` means; over a parent that the
    /// caller knows to be the right one, ranges that it does not have are the parent's.
    pub fn open_disk(
        path: &Path,
        format: InputFormat,
        choice: InputChoice<'_>,
        map: Option<ChangeMap>,
    ) -> Result<Self, StoreError> {
        let is_stream = std::fs::metadata(path).is_ok_and(|metadata| {
            metadata.file_type().is_fifo() || metadata.file_type().is_char_device()
        });
        if is_stream && format == InputFormat::Image(Format::Raw) {
            let name = path.display().to_string();
            let file = File::open(path).map_err(|source| StoreError::Source {
                name: name.clone(),
                source: SourceError::Io { offset: 0, source },
            })?;
            return Ok(Self::of_stream(Box::new(file), name));
        }
        Self::of_file(ImageFile::open_disk(path, format, choice)?, map)
    }

    /// The disk of an open file; of a change map as in [`ImageInput::open_whole`].
    pub fn of_file(file: ImageFile, map: Option<ChangeMap>) -> Result<Self, StoreError> {
        let (name, format, source, guard) = file.into_parts();
        let misfit =
            |error| StoreError::Parameter(format!("the change map does not fit {name}: {error}"));
        let map = map
            .map(|map| map.for_image(source.len()))
            .transpose()
            .map_err(misfit)?;
        Ok(Self {
            name,
            format: Some(format),
            kind: InputKind::Image {
                source,
                at: 0,
                map,
                guard: Some(Arc::new(guard)),
            },
            spare: Spare::default(),
        })
    }

    /// Content that is read to its end, such as standard input; raw.
    #[must_use]
    pub fn of_stream(reader: Box<dyn Read + Send>, name: String) -> Self {
        Self {
            name,
            format: Some(InputFormat::Image(Format::Raw)),
            kind: InputKind::Stream {
                reader,
                at: 0,
                ended: false,
            },
            spare: Spare::default(),
        }
    }

    /// An image that is not a file, for tests and for those who read through something else.
    #[must_use]
    pub fn of_source(source: Box<dyn ImageSource>, name: String) -> Self {
        Self::of_guarded(source.into(), name, None)
    }

    /// An image of a file that others have open, too, and that must not change.
    pub(crate) fn of_guarded(
        source: Arc<dyn ImageSource>,
        name: String,
        guard: Option<Arc<FileGuard>>,
    ) -> Self {
        Self {
            name,
            format: None,
            kind: InputKind::Image {
                source,
                at: 0,
                map: None,
                guard,
            },
            spare: Spare::default(),
        }
    }

    /// Its name in errors.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The format that it is read as, if it comes from a file or through a pipe.
    #[must_use]
    pub fn format(&self) -> Option<InputFormat> {
        self.format
    }

    /// Parts of the file beside the disk, which are left behind: a sentence for each.
    #[must_use]
    pub fn left_behind(&self) -> Vec<String> {
        match &self.kind {
            InputKind::Image { source, .. } => source.left_behind(),
            InputKind::Stream { .. } => Vec::new(),
        }
    }

    /// The image, if it can be read at any place.
    pub(crate) fn random_access(&self) -> Option<&dyn ImageSource> {
        match &self.kind {
            InputKind::Image { source, .. } => Some(source.as_ref()),
            InputKind::Stream { .. } => None,
        }
    }

    /// The same input with another image in the place of its own. A stream has none.
    pub(crate) fn map_image(
        self,
        change: impl FnOnce(Arc<dyn ImageSource>) -> Arc<dyn ImageSource>,
    ) -> Self {
        let kind = match self.kind {
            InputKind::Image {
                source,
                at,
                map,
                guard,
            } => InputKind::Image {
                source: change(source),
                at,
                map,
                guard,
            },
            stream @ InputKind::Stream { .. } => stream,
        };
        Self { kind, ..self }
    }

    /// The length in bytes, if it is known before the end.
    #[must_use]
    pub fn len(&self) -> Option<u64> {
        match &self.kind {
            InputKind::Image { source, .. } => Some(source.len()),
            InputKind::Stream { .. } => None,
        }
    }

    /// True if it is known to hold nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }

    /// The pool that takes buffers of pieces that are done with.
    pub(crate) fn spare_buffers(&self) -> SpareBuffers {
        SpareBuffers(Arc::clone(&self.spare))
    }

    /// The next piece as [`ImageInput::next`]; data that has to be decoded is left unread.
    pub(crate) fn next_unread(&mut self, chunk_len: ChunkLen) -> Result<Option<Piece>, StoreError> {
        let is_plain = self.format == Some(InputFormat::Image(Format::Raw));
        self.next_piece(chunk_len, !is_plain)
    }

    /// The next piece, in order and gap-free but for what a change map says is the same.
    pub(crate) fn next(&mut self, chunk_len: ChunkLen) -> Result<Option<Piece>, StoreError> {
        self.next_piece(chunk_len, false)
    }

    fn next_piece(
        &mut self,
        chunk_len: ChunkLen,
        may_be_unread: bool,
    ) -> Result<Option<Piece>, StoreError> {
        let name = &self.name;
        let fail = |error| StoreError::of_source(name, error);
        let spare = SpareBuffers(Arc::clone(&self.spare));
        match &mut self.kind {
            InputKind::Image {
                source, at, map, ..
            } => {
                let read = |range: Range<u64>| {
                    let unread = UnreadPiece {
                        source: Arc::clone(source),
                        name: name.clone(),
                        range,
                        spare: spare.clone(),
                    };
                    if may_be_unread {
                        Ok(Piece::Unread(unread))
                    } else {
                        unread.read_now()
                    }
                };
                next_of_image(source.as_ref(), at, map.as_ref(), chunk_len, &spare, &read)
                    .map_err(fail)
            }
            InputKind::Stream { reader, at, ended } => {
                next_of_stream(reader.as_mut(), at, ended, chunk_len, &spare).map_err(fail)
            }
        }
    }

    /// The whole length, once everything was read; fails if the file is not what it was when it was
    /// opened.
    pub(crate) fn finish_reading(&self) -> Result<u64, StoreError> {
        match &self.kind {
            InputKind::Stream { at, .. } => Ok(*at),
            InputKind::Image { source, guard, .. } => {
                guard
                    .as_deref()
                    .map_or(Ok(()), FileGuard::check_unchanged)?;
                Ok(source.len())
            }
        }
    }
}

/// Takes buffers back for reuse.
#[derive(Clone)]
pub(crate) struct SpareBuffers(Spare);

impl SpareBuffers {
    pub(crate) fn put_back(&self, buffer: Vec<u8>) {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_BUFFERS_MAX {
            spare.push(buffer);
        }
    }

    /// A buffer of `len` bytes, with whatever it held before.
    fn take_buffer(&self, len: usize) -> Vec<u8> {
        let mut buffer = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
            .unwrap_or_default();
        buffer.resize(len, 0);
        buffer
    }
}

fn next_of_image(
    source: &dyn ImageSource,
    at: &mut u64,
    map: Option<&ChangeMap>,
    chunk_len: ChunkLen,
    spare: &SpareBuffers,
    read: &dyn Fn(Range<u64>) -> Result<Piece, SourceError>,
) -> Result<Option<Piece>, SourceError> {
    while *at < source.len() {
        let start = *at;
        let extent = extent_of(source, map, start)?;
        let whole_end = whole_end(&extent, source.len(), chunk_len);
        let piece = match extent.kind {
            // Less than a chunk of one kind: read the chunk whole, whatever is in it.
            _ if whole_end <= start => read_mixed(source, map, start, chunk_len, spare)?,
            RangeKind::Data => read(start..whole_end.min(start + PIECE_LEN))?,
            RangeKind::Zero => Piece::Zero {
                start,
                len: whole_end - start,
            },
            RangeKind::Absent => Piece::Absent {
                start,
                len: whole_end - start,
            },
            RangeKind::Same => {
                *at = whole_end;
                continue;
            }
        };
        *at = piece.end();
        return Ok(Some(piece));
    }
    Ok(None)
}

/// End of the whole chunks of an extent. Data may end with the disk; a last chunk in part that is
/// not data is read as well, since what lies below may have bytes past the disk's end.
fn whole_end(extent: &KnownRange, len: u64, chunk_len: ChunkLen) -> u64 {
    match extent.kind {
        RangeKind::Data if extent.end >= len => len,
        _ => extent.end - extent.end % chunk_len.byte_len(),
    }
}

/// Kind of a range, by source and change map together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RangeKind {
    Data,
    Zero,
    Absent,
    Same,
}

struct KnownRange {
    end: u64,
    kind: RangeKind,
}

fn extent_of(
    source: &dyn ImageSource,
    map: Option<&ChangeMap>,
    at: u64,
) -> Result<KnownRange, SourceError> {
    let Some(range) = map.and_then(|map| map.range_at(at)) else {
        let extent = source.extent_at(at)?;
        return Ok(KnownRange {
            end: extent.end_offset(),
            kind: kind_of(extent),
        });
    };
    let end = range.end_offset();
    Ok(match range.kind {
        ChangeKind::Same => KnownRange {
            end,
            kind: RangeKind::Same,
        },
        ChangeKind::Zero => KnownRange {
            end,
            kind: RangeKind::Zero,
        },
        // The map says it changed; the source may know that it is a hole.
        ChangeKind::Data => {
            let extent = source.extent_at(at)?;
            KnownRange {
                end: end.min(extent.end_offset()),
                kind: kind_of(extent),
            }
        }
    })
}

fn kind_of(extent: Extent) -> RangeKind {
    match extent.kind {
        ExtentKind::Data => RangeKind::Data,
        ExtentKind::Zero => RangeKind::Zero,
        ExtentKind::Absent => RangeKind::Absent,
    }
}

impl UnreadPiece {
    /// Offset of its begin.
    pub(crate) fn start(&self) -> u64 {
        self.range.start
    }

    /// Its bytes.
    pub(crate) fn read_bytes(self) -> Result<Vec<u8>, StoreError> {
        self.try_read_bytes()
            .map_err(|error| StoreError::of_source(&self.name, error))
    }

    fn read_now(self) -> Result<Piece, SourceError> {
        Ok(Piece::Data {
            start: self.range.start,
            bytes: self.try_read_bytes()?,
            absent: Vec::new(),
        })
    }

    fn try_read_bytes(&self) -> Result<Vec<u8>, SourceError> {
        let len = self.range.end - self.range.start;
        let mut bytes = self.spare.take_buffer(len as usize);
        self.source.read_at(&mut bytes, self.range.start)?;
        Ok(bytes)
    }
}

/// One chunk in which extents of several kinds meet.
fn read_mixed(
    source: &dyn ImageSource,
    map: Option<&ChangeMap>,
    start: u64,
    chunk_len: ChunkLen,
    spare: &SpareBuffers,
) -> Result<Piece, SourceError> {
    let end = (start + chunk_len.byte_len()).min(source.len());
    let mut bytes = spare.take_buffer((end - start) as usize);
    source.read_at(&mut bytes, start)?;
    let mut absent = Vec::new();
    let mut at = start;
    while at < end {
        let known = extent_of(source, map, at)?;
        let range = (at - start) as usize..(known.end.min(end) - start) as usize;
        match known.kind {
            RangeKind::Data | RangeKind::Same => {}
            RangeKind::Zero => bytes[range].fill(0),
            RangeKind::Absent => absent.push(range),
        }
        at = known.end;
    }
    Ok(Piece::Data {
        start,
        bytes,
        absent,
    })
}

fn next_of_stream(
    reader: &mut dyn Read,
    at: &mut u64,
    ended: &mut bool,
    chunk_len: ChunkLen,
    spare: &SpareBuffers,
) -> Result<Option<Piece>, SourceError> {
    if *ended {
        return Ok(None);
    }
    let len = PIECE_LEN.max(chunk_len.byte_len());
    let mut bytes = spare.take_buffer(len as usize);
    let mut filled = 0;
    while filled < bytes.len() {
        match reader.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                return Err(SourceError::Io {
                    offset: *at + filled as u64,
                    source,
                });
            }
        }
    }
    *ended = filled < bytes.len();
    bytes.truncate(filled);
    let start = *at;
    *at += filled as u64;
    Ok((filled > 0).then_some(Piece::Data {
        start,
        bytes,
        absent: Vec::new(),
    }))
}

impl Piece {
    /// The first byte after it.
    pub(crate) fn end(&self) -> u64 {
        match self {
            Self::Data { start, bytes, .. } => start + bytes.len() as u64,
            Self::Zero { start, len } | Self::Absent { start, len } => start + len,
            Self::Unread(unread) => unread.range.end,
        }
    }
}
