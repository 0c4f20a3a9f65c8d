//! The image file formats: which there are, and how a file is opened as one of them.
//! What each means is in its own module; what any of them offers is [`ImageSource`].
//!
//! # Why the format is an argument
//!
//! A raw disk holds whatever its guest writes, a qcow2 header in its first sector included. A
//! program that guesses the format then believes the guest: its header could name a file of the
//! host as backing file and read it out (CVE-2024-32498, CVE-2026-24708). So [`open_image`] never
//! guesses. The caller names the format, from `-f` or from what it stored when the image was made.
//! [`probe_file`] looks at the signatures only, says what it saw and every doubt, and opens
//! nothing; a caller may follow it for a file that no guest can have written, or to warn.
//!
//! # What every parser here keeps
//!
//! It reads through [`ReadAt`] and opens no other file: a reference to one (backing, data file,
//! extent, parent locator) is [`SourceError::Refused`] with the reference shown, unless the caller
//! allows it. It checks every
//! length against the file and a limit before it reserves memory. No bytes make it panic. Formats
//! that can say "ask the parent" (differencing VDI, VMDK, VHD and VHDX) say
//! [`vellum_core::source::ExtentKind::Absent`] and leave the answer to whoever knows the parent;
//! [`image_facts`] tells how the child names it. Extents of a VMDK that lie in other files come
//! through [`Companions`], which the caller gives.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

pub mod chain;
mod claims;
#[cfg(test)]
mod double;
mod entry_table;
mod fields;
mod identity;
mod indexed;
pub mod input;
pub mod machine;
mod mapped;
pub mod ova;
pub mod parallels;
pub mod probe;
mod qcow2;
mod raw;
pub mod sparse_stream;
mod vdi;
mod vhd;
mod vhdx;
pub mod vma;
mod vmdk;
pub mod write;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

pub use identity::{DiskIdentity, ParentReference};
pub use qcow2::bitmaps::DirtyBitmap;
pub use qcow2::snapshots::InternalSnapshot;
use vellum_core::change_map::ChangeMap;
use vellum_core::source::{ClusterDecoder, ImageSource, ReadAt, SourceError};

/// The image formats that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// The disk's bytes as they are.
    Raw,
    /// QEMU's qcow2, versions 2 and 3.
    Qcow2,
    /// `VirtualBox`'s VDI.
    Vdi,
    /// `VMware`'s VMDK.
    Vmdk,
    /// Microsoft's VHD, which qemu calls vpc.
    Vhd,
    /// Microsoft's VHDX.
    Vhdx,
}

/// Files beside an image that it needs: the extents of a VMDK.
pub trait Companions: Send + Sync {
    /// The file that an image in `format` calls `name`, or why it is not opened. The name is as the
    /// header has it and may be hostile.
    fn open_companion(
        &self,
        format: &'static str,
        name: &str,
    ) -> Result<Arc<dyn ReadAt>, SourceError>;
}

/// No companions: every reference to another file is refused.
pub struct NoCompanions;

/// Facts about an image file, read from its headers alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFacts {
    /// The image's length in bytes, as a guest sees it.
    pub len: u64,
    /// The variant of its format: `dynamic`, `fixed`, `differencing`, a VMDK's create type.
    pub variant: &'static str,
    /// The image's identity, if the format has one.
    pub identity: Option<DiskIdentity>,
    /// The image that this one stands on.
    pub parent: Option<ParentReference>,
    /// Oddities that do not keep it from being read.
    pub notes: Vec<String>,
}

/// Opens `file` as an image in `format`. Compressed clusters go through `decoder`; other files that
/// it consists of come from `companions`.
///
/// # Errors
///
/// [`SourceError::Malformed`] when the file is not what `format` promises, [`SourceError::Refused`]
/// when it asks for something that is not read here (a parent, another file, encryption, an unknown
/// feature).
pub fn open_image(
    format: Format,
    file: Arc<dyn ReadAt>,
    decoder: Arc<dyn ClusterDecoder>,
    companions: &dyn Companions,
) -> Result<Box<dyn ImageSource>, SourceError> {
    if let Some(parent) = image_facts(format, Arc::clone(&file))?.parent {
        return Err(refused(
            format.format_name(),
            format!(
                "it stands on its backing file, {parent}, which is not opened on a file's word: \
                 import that one first and this one over it, or convert both to one file"
            ),
        ));
    }
    open_over_parent(format, file, decoder, companions)
}

/// As [`open_image`], for whoever knows the parent: a differencing image opens too, and what it
/// does not have is [`vellum_core::source::ExtentKind::Absent`]. [`image_facts`] tells how it names
/// its parent; holding that against the one at hand is up to the caller.
///
/// # Errors
///
/// As [`open_image`].
pub fn open_over_parent(
    format: Format,
    file: Arc<dyn ReadAt>,
    decoder: Arc<dyn ClusterDecoder>,
    companions: &dyn Companions,
) -> Result<Box<dyn ImageSource>, SourceError> {
    Ok(match format {
        Format::Raw => Box::new(raw::RawImage::new(file)),
        Format::Qcow2 => Box::new(qcow2::Qcow2::open_active(file, decoder)?),
        Format::Vdi => Box::new(vdi::open_image(file)?),
        Format::Vmdk => Box::new(vmdk::open_image(file, decoder, companions)?),
        Format::Vhd => vhd::open_image(file)?,
        Format::Vhdx => Box::new(vhdx::open_image(file)?),
    })
}

/// Tells what the headers of `file` say of the image: its length, identity and parent. Opens
/// nothing else.
///
/// # Errors
///
/// As [`open_image`].
pub fn image_facts(format: Format, file: Arc<dyn ReadAt>) -> Result<ImageFacts, SourceError> {
    match format {
        Format::Raw => Ok(ImageFacts::whole_image(file.len(), "raw")),
        Format::Qcow2 => qcow2::read_facts(&*file),
        Format::Vdi => vdi::read_facts(&*file),
        Format::Vmdk => vmdk::read_facts(&*file),
        Format::Vhd => vhd::read_facts(&*file),
        Format::Vhdx => vhdx::read_facts(file),
    }
}

/// Lists the states of the disk that a qcow2 keeps beside the present one.
///
/// # Errors
///
/// As [`open_image`].
pub fn internal_snapshots(file: &dyn ReadAt) -> Result<Vec<InternalSnapshot>, SourceError> {
    qcow2::snapshots::list_snapshots(file)
}

/// Opens one of the states that [`internal_snapshots`] told of; a backing file is the caller's
/// affair, as in [`open_over_parent`].
///
/// # Errors
///
/// As [`open_image`].
pub fn open_internal_snapshot(
    file: Arc<dyn ReadAt>,
    decoder: Arc<dyn ClusterDecoder>,
    snapshot: &InternalSnapshot,
) -> Result<Box<dyn ImageSource>, SourceError> {
    Ok(Box::new(qcow2::snapshots::open_snapshot(
        file, decoder, snapshot,
    )?))
}

/// Lists the persistent bitmaps of a qcow2.
///
/// # Errors
///
/// As [`open_image`]; [`SourceError::Refused`] when they are stale.
pub fn dirty_bitmaps(file: &dyn ReadAt) -> Result<Vec<DirtyBitmap>, SourceError> {
    qcow2::bitmaps::list_bitmaps(file)
}

/// Changes since a bitmap began, as a change map: the rest is the same.
///
/// # Errors
///
/// As [`open_image`]; [`SourceError::Refused`] when it was in use when the image was last closed.
pub fn bitmap_changes(file: &dyn ReadAt, bitmap: &DirtyBitmap) -> Result<ChangeMap, SourceError> {
    qcow2::bitmaps::change_map(file, bitmap)
}

impl Companions for NoCompanions {
    fn open_companion(
        &self,
        format: &'static str,
        name: &str,
    ) -> Result<Arc<dyn ReadAt>, SourceError> {
        Err(refused(
            format,
            format!("it consists of other files, among them {name:?}"),
        ))
    }
}

impl ImageFacts {
    /// A whole image without identity or parent.
    fn whole_image(len: u64, variant: &'static str) -> Self {
        Self {
            len,
            variant,
            identity: None,
            parent: None,
            notes: Vec::new(),
        }
    }
}

impl Format {
    /// Every format, in the order a person would be told them.
    pub const ALL: [Self; 6] = [
        Self::Raw,
        Self::Qcow2,
        Self::Vdi,
        Self::Vmdk,
        Self::Vhd,
        Self::Vhdx,
    ];

    /// The name as `-f` takes it: qemu's, and `VirtualBox`'s where they differ.
    #[must_use]
    pub fn format_name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vdi => "vdi",
            Self::Vmdk => "vmdk",
            Self::Vhd => "vhd",
            Self::Vhdx => "vhdx",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.format_name())
    }
}

/// A format name that cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown image format {0:?}: known are raw, qcow2, vdi, vmdk, vhd (vpc) and vhdx")]
pub struct UnknownFormat(pub String);

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        let found = match name {
            "vpc" => Some(Self::Vhd),
            _ => Self::ALL
                .into_iter()
                .find(|format| format.format_name() == name),
        };
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
    if len > 0 {
        read_exact(file, &mut bytes, offset)?;
    }
    Ok(bytes)
}

fn malformed(format: &'static str, reason: impl Into<String>) -> SourceError {
    SourceError::Malformed {
        format,
        reason: reason.into(),
    }
}

fn refused(format: &'static str, reason: impl Into<String>) -> SourceError {
    SourceError::Refused {
        format,
        reason: reason.into(),
    }
}

/// True if `offset` to `offset + len` lies inside `end`, for numbers that may be of any size.
fn lies_inside(offset: u64, len: u64, end: u64) -> bool {
    offset.checked_add(len).is_some_and(|last| last <= end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_found_by_its_exact_name_only() {
        for format in Format::ALL {
            assert_eq!(format.format_name().parse(), Ok(format));
            assert_eq!(format.to_string(), format.format_name());
        }
        assert_eq!("vpc".parse(), Ok(Format::Vhd));
        for name in ["", "RAW", "qcow", "qcow2 ", "VDI", "json:{}"] {
            assert_eq!(name.parse::<Format>(), Err(UnknownFormat(name.to_owned())));
        }
    }
}
