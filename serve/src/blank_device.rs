//! A device without content, for tests of what is kept about devices.

use vellum_core::device::{AllocationStatus, Device, DeviceError, TypedRange};

/// A device of so many bytes that can be told from another one.
pub(crate) struct Blank(pub(crate) u64);

impl Device for Blank {
    fn len(&self) -> u64 {
        self.0
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn preferred_len(&self) -> u32 {
        512
    }

    fn read_at(&self, _: &mut [u8], _: u64) -> Result<(), DeviceError> {
        Ok(())
    }

    fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn allocation(
        &self,
        _: u64,
        _: u64,
        _: usize,
    ) -> Result<Vec<TypedRange<AllocationStatus>>, DeviceError> {
        Ok(Vec::new())
    }

    fn comparable(&self) -> Vec<String> {
        Vec::new()
    }

    fn changes(
        &self,
        _: &str,
        _: u64,
        _: u64,
        _: usize,
    ) -> Result<Vec<TypedRange<bool>>, DeviceError> {
        Ok(Vec::new())
    }
}
