//! The image file formats: which there are, and how a file is opened as one of them.
//! What each means is in its own module; what any of them offers is [`ImageSource`].
//!
//! # Why the format is an argument
//!
//! A raw disk holds whatever its guest writes, a qcow2 header in its first sector included. A
//! program that guesses the format then believes the guest: its header could name a file of the
//! host as backing file and read it out (CVE-2024-32498, CVE-2026-24708). So [`open`] never
//! guesses. The caller names the format, from `-f` or from what it stored when the image was made.
//! [`probe`] looks at the signatures only, says what it saw and every doubt, and opens nothing; a
//! caller may follow it for a file that no guest can have written, or to warn.
//!
//! # What every parser here keeps
//!
//! It reads through [`ReadAt`] and opens no other file: a reference to one (backing, data file,
//! extent, parent locator) is [`SourceError::Refused`] with the reference shown. It checks every
//! length against the file and a limit before it reserves memory. No bytes make it panic. Formats
//! that can say "ask the parent" (qcow2 now; differencing VDI, VMDK, VHD and VHDX when they come)
//! say [`crate::source::ExtentKind::Absent`] and leave the answer to whoever knows the parent.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

#[cfg(test)]
mod double;
pub mod probe;
mod qcow2;
mod raw;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::source::{ClusterDecoder, ImageSource, ReadAt, SourceError};

/// The image formats that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// The disk's bytes as they are.
    Raw,
    /// QEMU's qcow2, versions 2 and 3.
    Qcow2,
}

/// Opens `file` as an image in `format`. Compressed clusters go through `decoder`.
///
/// # Errors
///
/// [`SourceError::Malformed`] when the file is not what `format` promises, [`SourceError::Refused`]
/// when it asks for something that is not read here (another file, encryption, an unknown feature).
pub fn open(
    format: Format,
    file: Arc<dyn ReadAt>,
    decoder: Arc<dyn ClusterDecoder>,
) -> Result<Box<dyn ImageSource>, SourceError> {
    Ok(match format {
        Format::Raw => Box::new(raw::Raw::new(file)),
        Format::Qcow2 => Box::new(qcow2::Qcow2::open(file, decoder)?),
    })
}

impl Format {
    /// Every format, in the order a person would be told them.
    pub const ALL: [Self; 2] = [Self::Raw, Self::Qcow2];

    /// The name as `-f` takes it, which is qemu's.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A format name that cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown image format {0:?}: known are raw and qcow2; convert others with `qemu-img convert -O qcow2`"
)]
pub struct UnknownFormat(pub String);

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        let found = Self::ALL.into_iter().find(|format| format.name() == name);
        found.ok_or_else(|| UnknownFormat(name.to_owned()))
    }
}

/// Fills `buffer` from `offset` of the file, and says where it failed.
fn read_exact(file: &dyn ReadAt, buffer: &mut [u8], offset: u64) -> Result<(), SourceError> {
    let done = file.read_exact_at(buffer, offset);
    done.map_err(|source| SourceError::Io { offset, source })
}

/// The bytes of the file from `offset`: `len`, or fewer where the file ends. Reserves no more than
/// it can fill.
fn read_up_to(file: &dyn ReadAt, offset: u64, len: usize) -> Result<Vec<u8>, SourceError> {
    let there = file.len().saturating_sub(offset);
    let len = usize::try_from(there).map_or(len, |there| len.min(there));
    let mut bytes = vec![0; len];
    read_exact(file, &mut bytes, offset)?;
    Ok(bytes)
}

/// Whether `offset` to `offset + len` lies inside `end`, for numbers that may be of any size.
fn lies_inside(offset: u64, len: u64, end: u64) -> bool {
    offset.checked_add(len).is_some_and(|last| last <= end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_found_by_its_exact_name_only() {
        for format in Format::ALL {
            assert_eq!(format.name().parse(), Ok(format));
            assert_eq!(format.to_string(), format.name());
        }
        for name in ["", "RAW", "qcow", "qcow2 ", "vdi", "json:{}"] {
            assert_eq!(name.parse::<Format>(), Err(UnknownFormat(name.to_owned())));
        }
    }
}
