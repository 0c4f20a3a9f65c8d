//! Reasons to refuse a request for a file, and the error number that the program gets for each.

use fuser::Errno;
use vellum_core::device::{DeviceError, OpenError};

/// Reason that a request was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No file of that name.
    Unknown,
    /// The kernel remembers a file that is gone.
    Gone,
    /// A handle that was never given out.
    BadHandle,
    /// The set of files, their lengths and their owners cannot be changed through a mount.
    Fixed,
    /// Opened for writing what can only be read.
    ReadOnly,
    /// A write that begins at the end or past it, or a length past it. Not `ENOSPC`: waiting for
    /// room, as virtual machines do then, would not help.
    PastEnd,
    /// A kind of `fallocate` that a disk of fixed length does not know.
    UnknownMode,
    /// Not one of the values that the call knows.
    Invalid,
    /// Nothing such from here to the end, or the end itself.
    NothingThere,
    /// The device said no.
    Device(DeviceError),
    /// There is no device to ask.
    Open(OpenError),
}

impl From<DeviceError> for Refusal {
    fn from(error: DeviceError) -> Self {
        Self::Device(error)
    }
}

impl From<OpenError> for Refusal {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

impl Refusal {
    pub(super) fn errno(&self) -> Errno {
        match self {
            Self::Unknown => Errno::ENOENT,
            Self::Gone => Errno::ESTALE,
            Self::BadHandle => Errno::EBADF,
            Self::Fixed => Errno::EPERM,
            Self::ReadOnly => Errno::EROFS,
            Self::PastEnd => Errno::EFBIG,
            Self::UnknownMode => Errno::EOPNOTSUPP,
            Self::Invalid => Errno::EINVAL,
            Self::NothingThere => Errno::ENXIO,
            Self::Device(error) => device_errno(error),
            Self::Open(OpenError::Unknown(_)) => Errno::ENOENT,
            Self::Open(OpenError::Refused(_)) => Errno::EBUSY,
            Self::Open(OpenError::Device(error)) => device_errno(error),
        }
    }

    /// Message for the person who runs the server, if the error number cannot say it.
    pub(super) fn operator_message(&self) -> Option<String> {
        match self {
            Self::Device(error @ (DeviceError::Io(_) | DeviceError::NoSpace(_))) => {
                Some(error.to_string())
            }
            Self::Open(error @ (OpenError::Device(_) | OpenError::Refused(_))) => {
                Some(error.to_string())
            }
            _ => None,
        }
    }
}

fn device_errno(error: &DeviceError) -> Errno {
    match error {
        DeviceError::ReadOnly => Errno::EROFS,
        DeviceError::OutOfRange => Errno::EINVAL,
        DeviceError::NoSpace(_) => Errno::ENOSPC,
        DeviceError::Io(_) => Errno::EIO,
        DeviceError::Stopping => Errno::ESHUTDOWN,
    }
}
