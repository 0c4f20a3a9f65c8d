//! Sources for the chunks that are damaged in a store: the list that is kept with it, and the
//! sources that need no repository.
//!
//! The list is one record of the family `meta`:
//!
//! ```text
//! key        value
//! "sources"  the sources, in the order in which they are asked
//! ```
//!
//! No secret is in it: only where one can be had.

mod image_file;
mod other_store;

use serde::{Deserialize, Serialize};

pub use image_file::ImageFileSource;
pub use other_store::OtherStoreSource;

use crate::database::{Batch, Durability, Family};
use crate::error::StoreError;
use crate::records::StoreRecord;
use crate::store::Store;
use crate::stored_records::{load_meta, put_record};

pub(crate) const SOURCES_KEY: &[u8] = b"sources";
/// Sources that a store has at most: each that cannot be asked costs a guest its patience once.
pub const SOURCES_MAX: usize = 16;
/// The longest place or secret, in bytes: longer than any path or address.
const TEXT_LEN_MAX: usize = 8192;

/// Kind of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceKind {
    /// A repository of backups.
    Repository,
    /// The folder of another store.
    Store,
    /// A file, or a block device, that may hold the same chunks.
    File,
}

/// Place of the secret that opens a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceSecret {
    /// A file whose first line is the password.
    PasswordFile(String),
    /// A command that prints the password.
    PasswordCommand(String),
    /// A key file.
    KeyFile(String),
}

/// A source as the store remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceEntry {
    /// Its kind.
    pub kind: SourceKind,
    /// Its whole path, or its address.
    pub place: String,
    /// The place of the secret that opens it; none if it needs none, or takes it from the
    /// environment of the calling process.
    pub secret: Option<SourceSecret>,
    /// True to look for chunks of a file also where they do not lie on the grid.
    pub odd_offsets: bool,
}

/// The list as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SourceListRecord(pub(crate) Vec<SourceEntry>);

impl StoreRecord for SourceListRecord {
    type Fields = Vec<SourceEntry>;

    fn to_fields(&self) -> Self::Fields {
        self.0.clone()
    }

    fn from_fields(fields: Self::Fields) -> Option<Self> {
        let fits = |entry: &SourceEntry| {
            let secret = match &entry.secret {
                None => 0,
                Some(
                    SourceSecret::PasswordFile(text)
                    | SourceSecret::PasswordCommand(text)
                    | SourceSecret::KeyFile(text),
                ) => text.len(),
            };
            entry.place.len() <= TEXT_LEN_MAX && secret <= TEXT_LEN_MAX
        };
        (fields.len() <= SOURCES_MAX && fields.iter().all(fits)).then_some(Self(fields))
    }
}

impl Store {
    /// The sources that are kept with the store, in the order in which they are asked. That a store
    /// remembers them does not have them asked: see [`Store::set_sources`].
    pub fn source_entries(&self) -> Result<Vec<SourceEntry>, StoreError> {
        let (list, _) = load_meta::<SourceListRecord>(
            &self.inner.database,
            SOURCES_KEY,
            "the list of chunk sources",
        )?;
        Ok(list.unwrap_or_default().0)
    }

    /// Keeps `entries` with the store in the place of those that it had: durable when this returns.
    pub fn keep_source_entries(&self, entries: Vec<SourceEntry>) -> Result<(), StoreError> {
        self.check_writable()?;
        let list = SourceListRecord::from_fields(entries).ok_or_else(|| {
            StoreError::Parameter(format!(
                "a store has at most {SOURCES_MAX} sources, each of at most {TEXT_LEN_MAX} bytes"
            ))
        })?;
        let mut batch = Batch::default();
        if list.0.is_empty() {
            batch.delete_record(Family::Meta, SOURCES_KEY);
        } else {
            put_record(&mut batch, Family::Meta, SOURCES_KEY, &list);
        }
        self.inner.database.write_batch(batch, Durability::Logged)
    }
}
