//! A block device as a server sees it, and the list of devices on offer.
//!
//! Servers know these two traits and nothing of stores. All methods take `&self` and may be called
//! from many threads at once; a device orders what overlaps as it arrives. Offsets and lengths are
//! bytes; no alignment is asked for, [`Device::preferred_len`] says what costs least.

use std::ops::Range;
use std::sync::Arc;

/// The failure of a device operation. The kinds are those that a guest can be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// It was opened for reading, or can only be read.
    #[error("it can only be read")]
    ReadOnly,
    /// The range reaches past the end.
    #[error("the range lies outside of the device")]
    OutOfRange,
    /// No space for the written data. Nothing acknowledged is lost; writing goes on once there is
    /// room.
    #[error("no space: {0}")]
    NoSpace(String),
    /// Content is damaged, or the system refused.
    #[error("{0}")]
    Io(String),
    /// The server is about to end.
    #[error("the server is stopping")]
    Stopping,
}

/// The reason why an export is not available.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// There is none of that name.
    #[error("there is no export \"{0}\"")]
    Unknown(String),
    /// Another client writes to it, or its mode forbids it.
    #[error("{0}")]
    Refused(String),
    /// It could not be opened.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Consecutive bytes of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypedRange<K> {
    /// The first byte.
    pub offset: u64,
    /// The number of bytes, at least one.
    pub len: u64,
    /// Their kind.
    pub kind: K,
}

/// The allocation state of a stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AllocationStatus {
    /// Data.
    Data,
    /// An explicit zero of the image itself.
    Zero,
    /// Reads as zeros, and nothing is kept for it anywhere.
    Hole,
}

/// A disk that can be read, and written if [`Device::is_read_only`] says no.
pub trait Device: Send + Sync {
    /// The length in bytes.
    fn len(&self) -> u64;

    /// True if it has no byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True if every write is refused.
    fn is_read_only(&self) -> bool;

    /// True if clients that know of each other may write to it at once, as those of a cluster's
    /// file system do. One client at a time writes to any other.
    fn is_shareable(&self) -> bool {
        false
    }

    /// Requests that begin and end at multiples of this many bytes (a power of two) cost least.
    fn preferred_len(&self) -> u32;

    /// The bytes from `offset`, which must lie inside.
    fn checked_range(&self, offset: u64, len: u64) -> Result<Range<u64>, DeviceError> {
        let end = offset
            .checked_add(len)
            .filter(|end| *end <= self.len())
            .ok_or(DeviceError::OutOfRange)?;
        Ok(offset..end)
    }

    /// Fills `buffer` with the bytes from `offset`, earlier writes included.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DeviceError>;

    /// Writes `bytes` at `offset`. Durable after [`Device::flush`]. Refused, where a device does
    /// not say how.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), DeviceError> {
        let _ = (bytes, offset);
        Err(DeviceError::ReadOnly)
    }

    /// Makes `len` bytes from `offset` zero. Cost: what is mapped there, not the length. Durable
    /// after [`Device::flush`]. Refused, where a device does not say how.
    fn write_zeroes(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        let _ = (offset, len);
        Err(DeviceError::ReadOnly)
    }

    /// Makes every write that was answered before this call durable.
    fn flush(&self) -> Result<(), DeviceError>;

    /// Says that the guest which wrote to it was switched off, as far as its client can tell: it
    /// said goodbye. It may not be the only one; who writes later is another guest.
    fn guest_left(&self) {}

    /// Lists the allocation states of the bytes from `offset`, gap-free: at least one stretch, at
    /// most `count_max`, and not past `offset + len`. `len` is at least 1.
    fn allocation(
        &self,
        offset: u64,
        len: u64,
        count_max: usize,
    ) -> Result<Vec<TypedRange<AllocationStatus>>, DeviceError>;

    /// The snapshots that [`Device::changes`] can compare with, oldest first.
    fn comparable(&self) -> Vec<String>;

    /// Lists the bytes from `offset` that may differ from the same disk's snapshot `since`: bounds
    /// as for [`Device::allocation`]. `true` is "may differ"; an error if there is no such snapshot
    /// any more.
    fn changes(
        &self,
        since: &str,
        offset: u64,
        len: u64,
        count_max: usize,
    ) -> Result<Vec<TypedRange<bool>>, DeviceError>;

    /// Announces that these bytes will be read soon (read-ahead). May do nothing.
    fn prefetch(&self, offset: u64, len: u64) {
        let _ = (offset, len);
    }
}

/// The intended use of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// A look at it without being its guest: nothing is attached, made, reset or kept from others.
    /// The bytes are those of some moment since it was opened; it cannot be written.
    Look,
    /// Reading; it need not be writable.
    Read,
    /// Writing if it can be written, else reading: for an NBD client that does not say.
    ReadWrite,
}

/// One export, without opening it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// `IMAGE` or `IMAGE@SNAPSHOT`.
    pub name: String,
    /// The length in bytes.
    pub len: u64,
    /// True if it can only be read.
    pub read_only: bool,
    /// The time when its content last changed, in nanoseconds since 1970: another time for every
    /// content.
    pub changed_ns: u64,
    /// One line for people.
    pub description: String,
}

/// The room under the devices, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportSpace {
    /// All that there is, used or not.
    pub len: u64,
    /// The free part of it.
    pub free_len: u64,
    /// The part of that which may be used: systems keep some back.
    pub usable_len: u64,
}

/// The devices that a server offers. All clients of one export share one device: its last drop
/// detaches it.
pub trait Exports: Send + Sync {
    /// All of them, by name.
    fn list_exports(&self) -> Result<Vec<ExportInfo>, DeviceError>;

    /// One of them. An empty name is the export that is meant when none is named, if there is such.
    fn export_info(&self, name: &str) -> Result<ExportInfo, OpenError>;

    /// Opens one, or hands out the device that is open already.
    fn open_export(&self, name: &str, intent: Intent) -> Result<Arc<dyn Device>, OpenError>;

    /// The room under them. Without a better answer: they fill it.
    fn space_info(&self) -> Result<ExportSpace, DeviceError> {
        let lens = self.list_exports()?.into_iter().map(|export| export.len);
        Ok(ExportSpace {
            len: lens.fold(0, u64::saturating_add),
            free_len: 0,
            usable_len: 0,
        })
    }

    /// A number that differs from an earlier one if the list, a length or a name may have changed
    /// since.
    fn revision(&self) -> u64;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device of so many bytes with only the required methods.
    struct Bare(u64);

    impl Device for Bare {
        fn len(&self) -> u64 {
            self.0
        }

        fn is_read_only(&self) -> bool {
            true
        }

        fn preferred_len(&self) -> u32 {
            512
        }

        fn read_at(&self, _buffer: &mut [u8], _offset: u64) -> Result<(), DeviceError> {
            Ok(())
        }

        fn flush(&self) -> Result<(), DeviceError> {
            Ok(())
        }

        fn allocation(
            &self,
            _offset: u64,
            _len: u64,
            _count_max: usize,
        ) -> Result<Vec<TypedRange<AllocationStatus>>, DeviceError> {
            Ok(Vec::new())
        }

        fn comparable(&self) -> Vec<String> {
            Vec::new()
        }

        fn changes(
            &self,
            _since: &str,
            _offset: u64,
            _len: u64,
            _count_max: usize,
        ) -> Result<Vec<TypedRange<bool>>, DeviceError> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn ranges_end_at_the_last_byte() {
        let device = Bare(10);
        for (offset, len, is_inside) in [
            (0, 0, true),
            (0, 9, true),
            (0, 10, true),
            (0, 11, false),
            (10, 0, true),
            (10, 1, false),
            (11, 0, false),
            (u64::MAX, 2, false),
        ] {
            let found = device.checked_range(offset, len);
            let expected = is_inside.then(|| offset..offset + len);
            assert_eq!(found.ok(), expected, "{offset}, {len}");
        }
        assert!(!device.is_empty() && Bare(0).is_empty());
    }

    #[test]
    fn a_device_that_does_not_say_how_to_write_refuses_it() {
        let device = Bare(10);
        assert_eq!(device.write_at(b"x", 0), Err(DeviceError::ReadOnly));
        assert_eq!(device.write_zeroes(0, 1), Err(DeviceError::ReadOnly));
    }
}
