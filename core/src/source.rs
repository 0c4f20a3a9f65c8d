//! Image sources: the content of an image file as byte ranges that are data, zero, or absent.
//!
//! It knows no format (those are in `formats`), and no file: a format reads through [`ReadAt`].

use std::io;

/// Random access to the bytes of a file that an image format lies in.
///
/// Implementors promise that `len` does not change the meaning of earlier reads; a file that
/// shrinks gives [`io::ErrorKind::UnexpectedEof`].
pub trait ReadAt: Send + Sync {
    /// The length in bytes when it was opened.
    fn len(&self) -> u64;

    /// True if there is nothing to read.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buffer` from `offset`, or fails with the system's error.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// The first range of allocated bytes that ends after `offset`, `None` when only a hole is
    /// left. The default knows no holes.
    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        Ok((offset < self.len()).then(|| (offset, self.len())))
    }
}

/// A file in memory.
impl ReadAt for Vec<u8> {
    fn len(&self) -> u64 {
        Vec::len(self) as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let found = self.get(start..).and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// The kind of a range of an image: three answers, never an `Option` whose `None` must be
/// remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentKind {
    /// The file has bytes for it; they may still all be zero.
    Data,
    /// It reads as zeros, whatever a parent holds.
    Zero,
    /// The file has no entry: the parent's bytes, or zeros without one.
    Absent,
}

/// A range of an image's content of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first byte.
    pub start: u64,
    /// The length in bytes, never zero.
    pub len: u64,
    /// The kind of the range.
    pub kind: ExtentKind,
}

impl Extent {
    /// The first byte after it.
    #[must_use]
    pub fn end_offset(&self) -> u64 {
        self.start + self.len
    }
}

/// An image in some file format, as its content.
pub trait ImageSource: Send + Sync {
    /// The image's length in bytes, as a guest sees it.
    fn len(&self) -> u64;

    /// True if the image holds no byte at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The extent that starts at `offset` (below `len`), as long as it can be told at once.
    /// Neighbours may be of the same kind.
    fn extent_at(&self, offset: u64) -> Result<Extent, SourceError>;

    /// The parts of the file beside the disk, which reading leaves behind: a sentence for each,
    /// which goes on after the file's name.
    fn left_behind(&self) -> Vec<String> {
        Vec::new()
    }

    /// Fills `buffer` with the content from `offset`; absent ranges read as zeros. The range must
    /// lie inside the image.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), SourceError>;
}

/// The reason why a source cannot be read or believed.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The system could not read the file.
    #[error("cannot read the source at byte {offset}")]
    Io {
        /// The offset in the file, in bytes.
        offset: u64,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The file is not a valid image of its format.
    #[error("not a valid {format} image: {reason}")]
    Malformed {
        /// The format's name as `-f` takes it.
        format: &'static str,
        /// The fault, and its place in the file.
        reason: String,
    },
    /// The file is valid, but says something that this reader does not follow: a reference to
    /// another file, an unknown feature.
    #[error("this {format} image cannot be read here: {reason}")]
    Refused {
        /// The format's name as `-f` takes it.
        format: &'static str,
        /// The thing that the file asks for, with the reference shown, and what to do instead.
        reason: String,
    },
}

/// The compression of a compressed cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterCodec {
    /// Raw deflate, as qcow2 (without a zlib header) has it.
    Deflate,
    /// One zstd frame, perhaps followed by padding.
    Zstd,
}

/// Decodes compressed clusters for the formats, so that core needs no codec of its own.
pub trait ClusterDecoder: Send + Sync {
    /// Decodes `input` into `output` and requires that it fills `output` exactly; bytes of `input`
    /// after that are padding.
    fn decode_cluster(
        &self,
        codec: ClusterCodec,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), String>;
}
