//! A disk that is being written: changes wait in memory until they are flushed into the image's active layer.

use vellum_core::units::ImageId;

use crate::error::StoreError;
use crate::store::Store;

/// An image, open for writing. One at a time for each image.
pub struct LiveDisk {
    _private: (),
}

impl Store {
    /// Opens `image` for writing.
    pub fn live(&self, image: ImageId) -> Result<LiveDisk, StoreError> {
        let _ = image;
        todo!()
    }
}

impl LiveDisk {
    /// The length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        todo!()
    }

    /// Whether it has no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buffer` with the bytes from `offset`, unflushed writes included. The range must lie inside the disk.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), StoreError> {
        let _ = (buffer, offset);
        todo!()
    }

    /// Writes `bytes` at `offset`. Not durable until [`LiveDisk::flush`]. The range must lie inside the disk.
    pub fn write_at(&mut self, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
        let _ = (bytes, offset);
        todo!()
    }

    /// Makes `len` bytes from `offset` zero, whatever the parent holds.
    pub fn write_zeroes(&mut self, offset: u64, len: u64) -> Result<(), StoreError> {
        let _ = (offset, len);
        todo!()
    }

    /// Makes all writes so far durable.
    pub fn flush(&mut self) -> Result<(), StoreError> {
        todo!()
    }
}
