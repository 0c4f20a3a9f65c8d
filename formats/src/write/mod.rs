//! Writing an image file: the one door (`image`), and what every format's writer has to be.
//!
//! A writer takes a disk as an [`ImageSource`] and fills an [`ImageTarget`]. The same disk with the
//! same options gives the same bytes on every machine: nothing comes from a clock or from chance,
//! identities are the caller's or derived from the content identity that the caller gives, and what
//! is where in the file depends on the disk alone, never on which thread was first.
//!
//! # A child
//!
//! With [`WriteOptions::parent`] the file holds what differs: what the source calls absent is left
//! to the parent, what it calls zero hides it. Formats without a bit for every sector complete a
//! block that the child has in part, so the source's `read_at` must then give the parent's bytes
//! for what is absent: [`crate::chain::ImageChain`] does. Without a parent absent and zero are one.
//!
//! # Lengths
//!
//! Every format but raw counts in sectors of 512 bytes: a disk of another length is followed by
//! zeros up to the next sector, as `qemu-img convert` does.
//!
//! # Cost
//!
//! A few batches of [`flow::BATCH_LEN`] are in memory, and of tables a page or the one that is
//! filling; only directories (8 bytes for 512 MiB in qcow2, 4 for 32 MiB in VMDK) are there whole.
//! Reading, looking for zeros and compression use all cores; writing goes on beside them, in order.

pub(crate) mod blocks;
pub(crate) mod flow;
mod header;
mod image;
mod kind;
mod options;
pub(crate) mod table;
mod target;
#[cfg(test)]
mod tests;
mod walk;

use std::io;

pub(crate) use header::HeaderBytes;
pub use image::write_image;
pub use kind::{Allocation, ClusterCodecName, Qcow2Kind, TargetFormat, UnknownOption, VmdkKind};
pub(crate) use options::change_uuid;
pub use options::{ParentLink, WriteOptions};
pub use target::{ImageTarget, SeekTarget, StreamTarget};
pub(crate) use target::{end_file, put_bytes};
pub(crate) use walk::{CellGap, CellGrid};

use crate::Format;
use crate::identity::DiskIdentity;
use vellum_core::source::{ClusterCodec, ImageSource, SourceError};

/// The unit in which all formats but raw count a disk's length.
pub(crate) const SECTOR_LEN: u64 = 512;

/// Compresses clusters for the writers, so that this crate needs no codec of its own.
///
/// The result decides the file's bytes: it must be the same for the same input on every machine.
/// (An encoder that looks at what the processor can do, as zlib-rs and zlib-ng do, is none.)
pub trait ClusterEncoder: Send + Sync {
    /// `plain` compressed: one raw deflate stream or one zstd frame.
    fn encode_cluster(&self, codec: ClusterCodec, plain: &[u8]) -> Result<Vec<u8>, String>;
}

/// No codec: compressing formats are an error.
pub struct NoEncoder;

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenImage {
    /// The file's length in bytes.
    pub file_len: u64,
    /// The disk's length in bytes, as a guest sees it.
    pub image_len: u64,
    /// The identity by which a child names this image, if the format has one.
    pub identity: Option<DiskIdentity>,
}

/// Reason for which an image could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ImageWriteError {
    /// The disk could not be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The target did not take what was written.
    #[error("cannot write the image at byte {offset}")]
    Target {
        /// Offset in the file.
        offset: u64,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The format cannot hold this disk, or these options.
    #[error("this disk cannot be written as {format}: {reason}")]
    Impossible {
        /// The format's name as `-O` takes it.
        format: &'static str,
        /// The part that it cannot hold, and what to do instead.
        reason: String,
    },
    /// The encoder failed.
    #[error("a cluster cannot be compressed: {0}")]
    Encoder(String),
}

/// Input of a format's writer.
pub(crate) struct WriteJob<'a> {
    pub(crate) source: &'a dyn ImageSource,
    pub(crate) options: &'a WriteOptions,
    pub(crate) encoder: &'a dyn ClusterEncoder,
    pub(crate) target: &'a mut dyn ImageTarget,
}

impl WriteJob<'_> {
    /// The disk's length in whole sectors, in bytes.
    pub(crate) fn sector_len(&self) -> u64 {
        self.source.len().next_multiple_of(SECTOR_LEN)
    }

    pub(crate) fn has_parent(&self) -> bool {
        self.options.parent.is_some()
    }

    /// Refuses a disk without bytes, of which other readers of the format make nothing.
    pub(crate) fn refuse_empty(&self, format: Format) -> Result<(), ImageWriteError> {
        if self.source.is_empty() {
            return Err(impossible_image(
                format.format_name(),
                "it has no byte, and nothing reads such an image: write it as raw, qcow2 or VDI",
            ));
        }
        Ok(())
    }

    /// Refuses a parent where the format has no way to name one.
    pub(crate) fn refuse_parent(
        &self,
        format: Format,
        variant: &str,
    ) -> Result<(), ImageWriteError> {
        if self.has_parent() {
            return Err(impossible_image(
                format.format_name(),
                format!("a {variant} image stands on no other: write it whole, without a parent"),
            ));
        }
        Ok(())
    }
}

impl ClusterEncoder for NoEncoder {
    fn encode_cluster(&self, codec: ClusterCodec, _: &[u8]) -> Result<Vec<u8>, String> {
        Err(format!("there is no encoder for {codec:?}"))
    }
}

pub(crate) fn impossible_image(format: &'static str, reason: impl Into<String>) -> ImageWriteError {
    ImageWriteError::Impossible {
        format,
        reason: reason.into(),
    }
}
