//! Targets of an image that is written: a file, or a stream that cannot go back.

use std::io::{self, Seek, SeekFrom, Write};

use super::ImageWriteError;

/// Zeros that a stream gets for what nobody wrote.
const ZEROS_LEN: usize = 16 << 10;

/// A new, empty file that takes bytes at any offset. What nobody writes reads as zeros.
pub trait ImageTarget: Send {
    /// Writes all of `bytes` at `offset`.
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes the file end at `len`, which is not before the last byte written. It is the last call.
    fn finish_file(&mut self, len: u64) -> io::Result<()>;
}

/// A file that can seek. It stays sparse where nobody writes.
pub struct SeekTarget<W> {
    file: W,
    /// Position of the file, so that writing in order asks the system for nothing else.
    position: u64,
    end: u64,
}

/// A pipe, a socket, a compressor: what only goes forward. It takes the formats whose
/// [`super::TargetFormat::is_stream`] says so.
pub struct StreamTarget<W> {
    stream: W,
    position: u64,
}

impl<W: Write + Seek + Send> SeekTarget<W> {
    /// A target over `file`, which is empty and stands at its start.
    pub fn new(file: W) -> Self {
        Self {
            file,
            position: 0,
            end: 0,
        }
    }

    /// The file.
    pub fn into_inner(self) -> W {
        self.file
    }
}

impl<W: Write + Seek + Send> ImageTarget for SeekTarget<W> {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.position != offset {
            self.file.seek(SeekFrom::Start(offset))?;
        }
        self.file.write_all(bytes)?;
        self.position = offset + bytes.len() as u64;
        self.end = self.end.max(self.position);
        Ok(())
    }

    fn finish_file(&mut self, len: u64) -> io::Result<()> {
        if len > self.end {
            self.write_all_at(&[0], len - 1)?;
        }
        self.file.flush()
    }
}

impl<W: Write + Send> StreamTarget<W> {
    /// A target over `stream`.
    pub fn new(stream: W) -> Self {
        Self {
            stream,
            position: 0,
        }
    }

    /// The stream.
    pub fn into_inner(self) -> W {
        self.stream
    }

    fn zeros_to(&mut self, offset: u64) -> io::Result<()> {
        let zeros = [0; ZEROS_LEN];
        while self.position < offset {
            let len = (offset - self.position).min(ZEROS_LEN as u64) as usize;
            self.stream
                .write_all(zeros.get(..len).unwrap_or_default())?;
            self.position += len as u64;
        }
        Ok(())
    }
}

impl<W: Write + Send> ImageTarget for StreamTarget<W> {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if offset < self.position {
            return Err(io::Error::new(
                io::ErrorKind::NotSeekable,
                format!(
                    "byte {offset} comes after byte {}: this format needs a file, not a stream",
                    self.position
                ),
            ));
        }
        self.zeros_to(offset)?;
        self.stream.write_all(bytes)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn finish_file(&mut self, len: u64) -> io::Result<()> {
        self.zeros_to(len)?;
        self.stream.flush()
    }
}

/// A file in memory.
impl ImageTarget for Vec<u8> {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start + bytes.len();
        if self.len() < end {
            self.resize(end, 0);
        }
        let place = self.get_mut(start..end).expect("it was made long enough");
        place.copy_from_slice(bytes);
        Ok(())
    }

    fn finish_file(&mut self, len: u64) -> io::Result<()> {
        self.resize(usize::try_from(len).map_err(io::Error::other)?, 0);
        Ok(())
    }
}

/// Writes, and says where it failed.
pub(crate) fn put_bytes(
    target: &mut dyn ImageTarget,
    bytes: &[u8],
    offset: u64,
) -> Result<(), ImageWriteError> {
    let done = target.write_all_at(bytes, offset);
    done.map_err(|source| ImageWriteError::Target { offset, source })
}

/// Ends the file, and says where it failed.
pub(crate) fn end_file(target: &mut dyn ImageTarget, len: u64) -> Result<(), ImageWriteError> {
    let done = target.finish_file(len);
    done.map_err(|source| ImageWriteError::Target {
        offset: len,
        source,
    })
}
