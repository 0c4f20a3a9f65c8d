//! Images whose content lies in pieces all over their files: how the answers of a format's tables
//! become extents and bytes.
//!
//! It knows no table: a format says of one offset at a time what is there ([`BlockMap`]), and this
//! joins neighbours, reads, and has compressed grains decoded.

use std::sync::{Arc, Mutex, PoisonError};

use vellum_core::source::{Extent, ExtentKind, ImageSource, ReadAt, SourceError};

use crate::read_exact;

/// A run ends after this many pieces at the latest, so that no question takes longer than a
/// millisecond or so in any image.
const PIECES_MAX: usize = 1 << 14;

/// Place of the bytes of a piece of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PieceLocation {
    /// The image says nothing: the parent's bytes.
    Absent,
    /// Zeros.
    Zero,
    /// In file number `file`, from `offset` on.
    Stored {
        /// Number of the file among the image's files.
        file: usize,
        /// The first byte of the piece.
        offset: u64,
    },
    /// In a compressed grain that begins at `offset` of file number `file`.
    Packed {
        /// Number of the file among the image's files.
        file: usize,
        /// Offset of the grain.
        offset: u64,
        /// Bytes of the decoded grain before the piece.
        skip: u64,
    },
}

/// The answer about one offset, and for how many bytes from there on it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MappedPiece {
    pub(crate) len: u64,
    pub(crate) location: PieceLocation,
}

/// A format's tables.
pub(crate) trait BlockMap: Send + Sync {
    /// The image's length in bytes.
    fn image_len(&self) -> u64;

    /// The piece at `offset`, which is below the image's length. `len` is never zero, and the piece
    /// does not leave the image.
    fn piece_at(&self, offset: u64) -> Result<MappedPiece, SourceError>;

    /// The file of that number.
    fn source_file(&self, number: usize) -> &dyn ReadAt;

    /// The decoded grain at `offset` of file number `file`. Formats without compression have none.
    fn unpack_grain(&self, file: usize, offset: u64) -> Result<Vec<u8>, SourceError> {
        let _ = file;
        Err(SourceError::Malformed {
            format: "image",
            reason: format!("the grain at byte {offset} is compressed"),
        })
    }
}

/// An image over a format's tables.
pub(crate) struct MappedImage<M> {
    map: M,
    /// The grain that was decoded last: readers in small steps would decode each many times.
    unpacked: Mutex<Option<((usize, u64), Arc<Vec<u8>>)>>,
}

impl<M: BlockMap> MappedImage<M> {
    pub(crate) fn new(map: M) -> Self {
        Self {
            map,
            unpacked: Mutex::new(None),
        }
    }

    fn fill_part(&self, part: &mut [u8], location: PieceLocation) -> Result<(), SourceError> {
        match location {
            PieceLocation::Absent | PieceLocation::Zero => part.fill(0),
            PieceLocation::Stored { file, offset } => {
                read_exact(self.map.source_file(file), part, offset)?;
            }
            PieceLocation::Packed { file, offset, skip } => {
                let grain = self.read_grain(file, offset)?;
                let from = usize::try_from(skip)
                    .ok()
                    .and_then(|skip| grain.get(skip..));
                let from = from.and_then(|rest| rest.get(..part.len()));
                part.copy_from_slice(from.ok_or_else(|| SourceError::Malformed {
                    format: "image",
                    reason: format!("the compressed grain at byte {offset} is too short"),
                })?);
            }
        }
        Ok(())
    }

    fn read_grain(&self, file: usize, offset: u64) -> Result<Arc<Vec<u8>>, SourceError> {
        let kept = |unpacked: &Option<((usize, u64), Arc<Vec<u8>>)>| {
            unpacked
                .as_ref()
                .filter(|(key, _)| *key == (file, offset))
                .map(|(_, grain)| Arc::clone(grain))
        };
        if let Some(grain) = kept(&self.unpacked.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(grain);
        }
        let grain = Arc::new(self.map.unpack_grain(file, offset)?);
        *self.unpacked.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(((file, offset), Arc::clone(&grain)));
        Ok(grain)
    }
}

impl<M: BlockMap> ImageSource for MappedImage<M> {
    fn len(&self) -> u64 {
        self.map.image_len()
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, SourceError> {
        let image_len = self.len();
        assert!(
            offset < image_len,
            "byte {offset} lies outside an image of {image_len}"
        );
        let first = self.map.piece_at(offset)?;
        let (kind, mut len) = (kind_of(first.location), first.len);
        for _ in 1..PIECES_MAX {
            if offset + len >= image_len {
                break;
            }
            // A damaged neighbour only ends the run: whoever asks for it gets the error.
            match self.map.piece_at(offset + len) {
                Ok(next) if kind_of(next.location) == kind => len += next.len,
                _ => break,
            }
        }
        Ok(Extent {
            start: offset,
            len: len.min(image_len - offset),
            kind,
        })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), SourceError> {
        let (mut rest, mut offset) = (buffer, offset);
        while !rest.is_empty() {
            let mut piece = self.map.piece_at(offset)?;
            // Neighbours in the file are read at once.
            while piece.len < rest.len() as u64
                && let Ok(next) = self.map.piece_at(offset + piece.len)
                && is_continued_by(&piece, next.location)
            {
                piece.len += next.len;
            }
            let len = usize::try_from(piece.len).map_or(rest.len(), |len| len.min(rest.len()));
            let (part, after) = rest.split_at_mut(len);
            self.fill_part(part, piece.location)?;
            offset += len as u64;
            rest = after;
        }
        Ok(())
    }
}

/// True if one read gets `piece` and what comes after it.
fn is_continued_by(piece: &MappedPiece, next: PieceLocation) -> bool {
    match (piece.location, next) {
        (
            PieceLocation::Stored { file, offset },
            PieceLocation::Stored {
                file: next_file,
                offset: next_offset,
            },
        ) => file == next_file && offset.checked_add(piece.len) == Some(next_offset),
        (PieceLocation::Packed { .. }, _) => false,
        (here, there) => here == there,
    }
}

fn kind_of(location: PieceLocation) -> ExtentKind {
    match location {
        PieceLocation::Absent => ExtentKind::Absent,
        PieceLocation::Zero => ExtentKind::Zero,
        PieceLocation::Stored { .. } | PieceLocation::Packed { .. } => ExtentKind::Data,
    }
}
