//! Finds content that guests do not use any more, but their images still hold. Reads the metadata
//! of file systems, and maps.

use std::io;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use vellum_core::guest::{
    FreeVerdict, GuestError, GuestFileSystem, Volume, free_space, list_volumes,
};
use vellum_core::page::{PageEntry, bytes_of};
use vellum_core::source::ReadAt;
use vellum_core::tree::{PageSet, page_of, page_start};
use vellum_core::units::PageIndex;

use super::GuestFreeSpace;
use crate::disk::Disk;
use crate::error::StoreError;
use crate::watch::Watch;

/// A disk as the readers of file systems see it.
struct GuestDisk<'w> {
    disk: Disk,
    mapped: PageSet,
    watch: &'w dyn Watch,
    /// The error that made a read fail: the reader only hears that it failed.
    failed: Mutex<Option<StoreError>>,
}

/// Finds free space in the file systems and swap spaces of an image, one entry for each that is
/// known and sound, and how much of it the image holds as data. Exact as of the guest's last write
/// to its disk, to the chunk. Cost: reads the bitmaps of the file systems, about 1 byte for 32 KiB
/// of disk.
pub(super) fn find_free_space(
    disk: Disk,
    watch: &dyn Watch,
) -> Result<Vec<GuestFreeSpace>, StoreError> {
    let (name, mapped) = (disk.name().to_owned(), disk.mapped_pages());
    let guest = GuestDisk {
        disk,
        mapped,
        watch,
        failed: Mutex::default(),
    };
    let mut found = Vec::new();
    for volume in guest
        .ignore_malformed(list_volumes(&guest))?
        .unwrap_or_default()
    {
        found.extend(guest.volume_free_space(&name, &volume)?);
    }
    Ok(found)
}

impl GuestDisk<'_> {
    fn volume_free_space(
        &self,
        image: &str,
        volume: &Volume,
    ) -> Result<Option<GuestFreeSpace>, StoreError> {
        let (mut free, mut held) = (0, 0);
        let found = free_space(self, volume, &mut |range| {
            free += range.end - range.start;
            held += self
                .held_bytes(&range)
                .map_err(|error| self.keep_error(error))?;
            Ok(())
        });
        let found = self.ignore_malformed(found)?.flatten();
        let is_counted = |found: &GuestFileSystem| !matches!(found.verdict, FreeVerdict::Kept(_));
        let Some(GuestFileSystem { kind, .. }) = found.filter(is_counted) else {
            return Ok(None);
        };
        let Volume {
            partition,
            start,
            len,
        } = *volume;
        Ok(Some(GuestFreeSpace {
            image: image.to_owned(),
            partition,
            start,
            len,
            kind,
            free,
            held,
        }))
    }

    /// The result of a reader; nothing, if it could make no sense of the bytes.
    fn ignore_malformed<T>(&self, result: Result<T, GuestError>) -> Result<Option<T>, StoreError> {
        match result {
            Ok(found) => Ok(Some(found)),
            Err(GuestError::Malformed { .. }) => Ok(None),
            Err(GuestError::Io(source)) => {
                let failed = self
                    .failed
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take();
                Err(failed.unwrap_or_else(|| StoreError::of_io("read a guest's disk", source)))
            }
        }
    }

    /// Bytes of `range` that the image holds as data.
    fn held_bytes(&self, range: &Range<u64>) -> Result<u64, StoreError> {
        let chunk_len = self.disk.chunk_len();
        let mut held = 0;
        let mut at = page_of(chunk_len.index_at(range.start)).0;
        while let Some(index) = self
            .mapped
            .next_from(at)
            .filter(|index| chunk_len.offset_of(page_start(*index)) < range.end)
        {
            let page = self.disk.resolve_page(index)?;
            let data = page
                .runs()
                .iter()
                .filter(|run| matches!(run.slot, PageEntry::Chunk(_)));
            let bytes =
                data.map(|run| bytes_of(chunk_len, index, run.start..run.end_position(), range));
            held += bytes.map(|bytes| bytes.end - bytes.start).sum::<u64>();
            at = PageIndex(index.0 + 1);
        }
        Ok(held)
    }

    /// Keeps `error` for the caller, as the reader can only pass an I/O error.
    fn keep_error(&self, error: StoreError) -> io::Error {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        io::ErrorKind::Other.into()
    }
}

impl ReadAt for GuestDisk<'_> {
    fn len(&self) -> u64 {
        self.disk.len()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if self.watch.is_cancelled() {
            return Err(self.keep_error(StoreError::Interrupted));
        }
        self.disk
            .read_at(buffer, offset)
            .map_err(|error| self.keep_error(error))
    }
}
