//! Import: a source's content becomes a layer.
//!
//! A reader runs ahead (`prepare`) while names are looked up and the map is built here (`build`) and the chunk store compresses and
//! writes. Nothing is named until everything is durable: a failure or a crash at any point leaves at most chunks and pages that the
//! next collection takes away.

use vellum_core::name::Name;
use vellum_core::tree::Node;
use vellum_core::units::ImageId;

use crate::error::StoreError;
use crate::pieces::Input;
use crate::store::Store;
use crate::watch::Watch;

/// What an import makes.
#[derive(Clone, Debug)]
pub enum ImportTarget {
    /// A new image, on a parent if there is one: then only what differs from the parent is kept in its layer.
    New {
        /// Its name.
        name: Name,
        /// Its parent.
        parent: Option<Node>,
    },
    /// The new state of an image that is there.
    Update(ImageId),
}

/// What to import.
#[derive(Clone, Debug)]
pub struct ImportRequest {
    /// What it becomes.
    pub target: ImportTarget,
    /// A snapshot to take of the result, in the same moment.
    pub snapshot: Option<Name>,
}

/// What an import did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImportReport {
    /// The image, or its snapshot if one was asked for.
    pub node: Node,
    /// The disk's length.
    pub len: u64,
    /// Bytes that were not zero and had to be looked at.
    pub read_bytes: u64,
    /// Chunks that are as in the parent, or as before.
    pub same: u64,
    /// Chunks that were in the store already.
    pub known: u64,
    /// Chunks that were not.
    pub new: u64,
    /// Bytes of those.
    pub new_bytes: u64,
}

impl Store {
    /// Imports `input`.
    pub fn import(&self, input: Input, request: &ImportRequest, watch: &dyn Watch) -> Result<ImportReport, StoreError> {
        let _ = (input, request, watch);
        todo!()
    }
}
