//! Export: an image or snapshot becomes a raw file, or a stream.

use std::io::Write;
use std::path::PathBuf;

use vellum_core::tree::Node;

use crate::error::StoreError;
use crate::store::Store;
use crate::watch::Watch;

/// Where an export goes.
pub enum ExportTarget {
    /// A file, which has its name only once it is whole and on disk. Zeros become holes. A block device is written in place.
    File {
        /// Its name.
        path: PathBuf,
        /// Whether a file of that name may be replaced.
        overwrite: bool,
    },
    /// A stream, zeros and all.
    Stream(Box<dyn Write + Send>),
}

/// What an export did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportReport {
    /// The disk's length.
    pub len: u64,
    /// Bytes of it that are not zero.
    pub data_bytes: u64,
}

impl Store {
    /// Writes the content of `node`.
    pub fn export(&self, node: Node, target: ExportTarget, watch: &dyn Watch) -> Result<ExportReport, StoreError> {
        let _ = (node, target, watch);
        todo!()
    }
}
