//! A word that means a disk: an image or snapshot of the store, or a file of any format.
//!
//! What has the word for its whole name comes first, then a file, then what begins so: no file that
//! somebody puts into a folder changes what a name means. A word with a slash, and one whose format
//! is given, is always a file.

use std::path::Path;
use std::sync::Arc;

use vellum_core::source::ImageSource;
use vellum_core::tree::Node;
use vellum_store::{DiskSource, ImageFile, Store, StoreError, Unreadable};

use crate::failure::Failure;
use crate::session::Session;
use crate::source_format::{self, FileArgs};

/// A disk that a word means.
pub(crate) enum DiskArgument {
    /// An image or snapshot.
    Node(Store, Node),
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
    pub(crate) fn find(word: &str, args: &FileArgs, session: &Session) -> Result<Self, Failure> {
        if let Some((store, node)) = Self::find_node(word, args, session)? {
            return Ok(Self::Node(store, node));
        }
        let (path, expected) = (Path::new(word), args.expected());
        let file = source_format::open(path, args, &expected, session)?;
        Ok(Self::File(Box::new(file)))
    }

    /// The image or snapshot that `word` means; none if it means a file.
    pub(crate) fn find_node(
        word: &str,
        args: &FileArgs,
        session: &Session,
    ) -> Result<Option<(Store, Node)>, Failure> {
        if is_file_word(word, args) {
            return Ok(None);
        }
        let is_there = session.caller.path(Path::new(word)).exists();
        let store = match session.open_to_read() {
            Ok(store) => store,
            Err(Failure::Store(StoreError::NoStore { .. })) if is_there => return Ok(None),
            Err(failure) => return Err(failure),
        };
        if let Ok(node) = store.find_whole(word) {
            return Ok(Some((store, node)));
        }
        if is_there {
            return Ok(None);
        }
        let node = store.find(word)?;
        Ok(Some((store, node)))
    }

    /// The disk, to be read.
    pub(crate) fn read(self, word: &str) -> Result<ReadDisk, Failure> {
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
