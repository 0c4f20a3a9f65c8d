//! Writing a disk as an image file, in any format that is written: to a file that is whole or not
//! there, a block device, or a stream.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, fallocate};
use vellum_core::source::{Extent, ImageSource, SourceError};
use vellum_formats::Format;
use vellum_formats::write::{
    ImageTarget, ImageWriteError, SeekTarget, StreamTarget, TargetFormat, WriteOptions,
    WrittenImage, write_image,
};

use crate::atomic_file::{AtomicFile, NewFileMode};
use crate::background_sync::{BackgroundSync, synced_along};
use crate::codec::ClusterCodecs;
use crate::destination::{Destination, FilePlace, OPEN_ALREADY, open_device, open_stream};
use crate::error::StoreError;
use crate::export::ExportTarget;
use crate::watch::{Progress, Watch};

/// Bytes that gather before a stream gets them.
const STREAM_BUFFER_LEN: usize = 256 << 10;

/// A disk that is to be written as an image file.
pub struct ImageWriting<'a> {
    /// The disk. For a child ([`WriteOptions::parent`]) what it calls absent is the parent's.
    pub source: &'a dyn ImageSource,
    /// Its name, for errors.
    pub name: &'a str,
    /// The format to write.
    pub format: TargetFormat,
    /// The rest.
    pub options: &'a WriteOptions,
    /// Checks the source once all was read: a file gets its name only if that finds nothing.
    pub verify: &'a dyn Fn() -> Result<(), StoreError>,
}

/// True if files of `format` carry an identity, so that [`WriteOptions::content_identity`] counts.
#[must_use]
pub fn carries_identity(format: TargetFormat) -> bool {
    !matches!(format.image_format(), Format::Raw | Format::Qcow2)
}

impl ImageWriting<'_> {
    /// Writes it to `target`. A file has its name only once it is whole and on disk; it is its
    /// owner's alone, or whose the file was that it replaces.
    ///
    /// # Errors
    ///
    /// When the source cannot be read or has changed, the target does not take it, or the format
    /// cannot hold it.
    pub fn write_to(
        &self,
        target: ExportTarget,
        watch: &dyn Watch,
    ) -> Result<WrittenImage, StoreError> {
        let (path, overwrite) = match target {
            ExportTarget::Stream(stream) => return self.write_stream(stream, watch),
            ExportTarget::File { path, overwrite } => (path, overwrite),
        };
        let fail = |source| StoreError::of_file("write", &path, source);
        match Destination::resolve_path(&path).map_err(fail)? {
            Destination::File(place) if place.is_taken() && !overwrite => {
                Err(fail(io::ErrorKind::AlreadyExists.into()))
            }
            Destination::File(place) => self.write_file(place, &path, overwrite, watch),
            Destination::Stream(stream) => {
                self.write_stream(Box::new(open_stream(&stream).map_err(fail)?), watch)
            }
            Destination::Device(device) => self.write_device(&device, &path, watch),
            Destination::Descriptor(_) => Err(fail(io::Error::other(OPEN_ALREADY))),
        }
    }

    fn write_file(
        &self,
        place: FilePlace,
        path: &Path,
        overwrite: bool,
        watch: &dyn Watch,
    ) -> Result<WrittenImage, StoreError> {
        let fail = |source| StoreError::of_file("write", path, source);
        let partial = AtomicFile::create_beside(place, NewFileMode::Private)?;
        let file = partial.file();
        let written = synced_along(file, fail, |bell| {
            let mut target = SeekTarget::new(SyncedFile { file, bell });
            self.write_into(&mut target, &fail, watch)
        })?;
        (self.verify)()?;
        partial.publish_file(overwrite)?;
        Ok(written)
    }

    /// Writes over a block device that is long enough, zeros too: nobody knows what was there.
    fn write_device(
        &self,
        device: &Path,
        path: &Path,
        watch: &dyn Watch,
    ) -> Result<WrittenImage, StoreError> {
        let fail = |source| StoreError::of_file("write", path, source);
        if self.format != TargetFormat::Raw {
            return Err(fail(io::Error::other(format!(
                "it is a block device, which holds a raw disk and no {} file",
                self.format.image_format()
            ))));
        }
        let len = self.source.len();
        let device = open_device(device, len).map_err(fail)?;
        let wipe = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        let written = if fallocate(&device, wipe, 0, len).is_ok() {
            self.write_into(&mut SeekTarget::new(&device), &fail, watch)?
        } else {
            self.write_into(&mut StreamTarget::new(&device), &fail, watch)?
        };
        (self.verify)()?;
        device.sync_all().map_err(fail)?;
        Ok(written)
    }

    fn write_stream(
        &self,
        stream: Box<dyn Write + Send>,
        watch: &dyn Watch,
    ) -> Result<WrittenImage, StoreError> {
        if !self.format.is_stream() {
            return Err(StoreError::Parameter(format!(
                "a {} file is written here and there, and a stream only goes forward",
                self.format.image_format()
            )));
        }
        let fail = |source| StoreError::of_io("write to the output", source);
        let stream = BufWriter::with_capacity(STREAM_BUFFER_LEN, stream);
        let written = self.write_into(&mut StreamTarget::new(stream), &fail, watch)?;
        (self.verify)()?;
        Ok(written)
    }

    fn write_into(
        &self,
        target: &mut dyn ImageTarget,
        fail: &dyn Fn(io::Error) -> StoreError,
        watch: &dyn Watch,
    ) -> Result<WrittenImage, StoreError> {
        let source = WatchedSource {
            source: self.source,
            watch,
            done: AtomicU64::new(0),
        };
        let written = write_image(self.format, &source, self.options, &ClusterCodecs, target);
        written.map_err(|error| match error {
            ImageWriteError::Source(error) => StoreError::of_source(self.name, error),
            ImageWriteError::Target { source, .. } => fail(source),
            impossible @ ImageWriteError::Impossible { .. } => {
                StoreError::Parameter(impossible.to_string())
            }
            ImageWriteError::Encoder(reason) => fail(io::Error::other(reason)),
        })
    }
}

/// A source whose reader tells how far it is, and can be called off.
struct WatchedSource<'a> {
    source: &'a dyn ImageSource,
    watch: &'a dyn Watch,
    done: AtomicU64,
}

impl ImageSource for WatchedSource<'_> {
    fn len(&self) -> u64 {
        self.source.len()
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, SourceError> {
        self.source.extent_at(offset)
    }

    fn left_behind(&self) -> Vec<String> {
        self.source.left_behind()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), SourceError> {
        if self.watch.is_cancelled() {
            return Err(SourceError::Io {
                offset,
                source: io::Error::other(StoreError::Interrupted),
            });
        }
        self.source.read_at(buffer, offset)?;
        let end = offset + buffer.len() as u64;
        let done = self.done.fetch_max(end, Ordering::Relaxed).max(end);
        self.watch.report_progress(Progress {
            done,
            total: Some(self.len()),
        });
        Ok(())
    }
}

/// A file that is synced while it is written.
struct SyncedFile<'a> {
    file: &'a File,
    bell: &'a BackgroundSync,
}

impl Write for SyncedFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.file.write(bytes)?;
        self.bell.note_written(len as u64);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for SyncedFile<'_> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.file.seek(position)
    }
}
