//! A word that means a disk: an image or snapshot of the store, or a file of any format.
//!
//! What has the word for its whole name comes first, then a file, then what begins so: no file that
//! somebody puts into a folder changes what a name means. A word with a slash, and one whose format
//! is given, is always a file.

use std::path::Path;
use std::sync::Arc;

use vellum_core::source::ImageSource;
use vellum_core::tree::NodeRef;
use vellum_store::{DiskSource, ImageFile, Store, StoreError, Unreadable};

use crate::command_context::CommandContext;
use crate::failure::CommandFailure;
use crate::source_format::{self, FileArgs};

/// A disk that a word means.
pub(crate) enum DiskArgument {
    /// An image or snapshot.
    Node(Store, NodeRef),
    /// A file.
    File(Box<ImageFile>),
}

/// A disk that is read, wherever it is.
pub(crate) struct ReadDisk {
    /// The name that users give it.
    pub(crate) name: String,
    pub(crate) source: Arc<dyn ImageSource>,
}

impl DiskArgument {
    /// Finds and opens what `word` means.
    pub(crate) fn open_argument(
        word: &str,
        args: &FileArgs,
        session: &CommandContext,
    ) -> Result<Self, CommandFailure> {
        if let Some((store, node)) = Self::find_node(word, args, session)? {
            return Ok(Self::Node(store, node));
        }
        let (path, expected) = (Path::new(word), args.expected_file());
        let file = source_format::open_disk_file(path, args, &expected, session)?;
        Ok(Self::File(Box::new(file)))
    }

    /// The image or snapshot that `word` means; none if it means a file.
    pub(crate) fn find_node(
        word: &str,
        args: &FileArgs,
        session: &CommandContext,
    ) -> Result<Option<(Store, NodeRef)>, CommandFailure> {
        if is_file_word(word, args) {
            return Ok(None);
        }
        let is_there = session.caller.resolve_path(Path::new(word)).exists();
        let store = match session.open_to_read() {
            Ok(store) => store,
            Err(CommandFailure::Store(StoreError::NoStore { .. })) if is_there => return Ok(None),
            Err(failure) => return Err(failure),
        };
        if let Ok(node) = store.find_whole(word) {
            return Ok(Some((store, node)));
        }
        if is_there {
            return Ok(None);
        }
        let node = store.find_node(word)?;
        Ok(Some((store, node)))
    }

    /// The disk, to be read.
    pub(crate) fn into_read_disk(self, word: &str) -> Result<ReadDisk, CommandFailure> {
        Ok(match self {
            Self::Node(store, node) => {
                let disk = store.still_disk(node)?;
                ReadDisk {
                    name: disk.name().to_owned(),
                    source: Arc::new(DiskSource::new(disk, Unreadable::Fail)),
                }
            }
            Self::File(file) => ReadDisk {
                name: word.to_owned(),
                source: Arc::clone(file.source()),
            },
        })
    }
}

/// True if `word` means a file, whatever a store holds.
pub(crate) fn is_file_word(word: &str, args: &FileArgs) -> bool {
    args.format.is_some() || args.disk.is_some() || word.contains('/')
}
