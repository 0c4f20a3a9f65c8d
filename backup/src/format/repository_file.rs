//! The file that says what a repository is: `vellum.repository`, read before anything else.
//!
//! Plain JSON, so that any tool and any later version can tell what it has before it. Nothing in it
//! is secret. In an encrypted repository every key object proves these statements; in a plain one
//! nothing does, and what a client saw last time is what it expects the next time.

use serde::{Deserialize, Serialize};
use vellum_core::identity::RepositoryId;

/// Bytes that the file has at most.
pub const REPOSITORY_FILE_LEN_MAX: usize = 4096;

/// The format that this program writes, and the newest that it reads.
pub const FORMAT: u32 = 1;
/// The limits are those of a store.
const CHUNK_LEN_MIN: u32 = 4 << 10;
const CHUNK_LEN_MAX: u32 = 1 << 20;

/// The file that says what a repository is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryFile {
    /// Its identity.
    pub id: RepositoryId,
    /// True if objects are encrypted.
    pub is_encrypted: bool,
    /// The length of chunks in bytes.
    pub chunk_len: u32,
}

/// The reason why a repository's file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RepositoryFileError {
    /// A newer program made the repository.
    #[error("format {0} is not known to this program: use a newer one")]
    Version(u32),
    /// It is something else, or damaged.
    #[error("this does not say what a repository is: {0}")]
    Invalid(String),
}

#[derive(Serialize, Deserialize)]
struct Written {
    format: u32,
    id: String,
    encrypted: bool,
    chunk_len: u32,
}

impl RepositoryFile {
    /// The file of a new repository, with a new identity.
    pub fn new(is_encrypted: bool, chunk_len: u32) -> Result<Self, crate::seal::SealError> {
        let mut id = [0; 16];
        getrandom::fill(&mut id)
            .map_err(|error| crate::seal::SealError::Random(error.to_string()))?;
        Ok(Self {
            id: RepositoryId(id),
            is_encrypted,
            chunk_len,
        })
    }

    /// The bytes of the file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let written = Written {
            format: FORMAT,
            id: self.id.to_string(),
            encrypted: self.is_encrypted,
            chunk_len: self.chunk_len,
        };
        let mut bytes = serde_json::to_vec(&written).expect("texts and numbers are JSON");
        bytes.push(b'\n');
        bytes
    }

    /// Decodes `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, RepositoryFileError> {
        let invalid = |what: &str| RepositoryFileError::Invalid(what.to_owned());
        if bytes.len() > REPOSITORY_FILE_LEN_MAX {
            return Err(invalid("it is too long"));
        }
        let json: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|error| invalid(&error.to_string()))?;
        match json.get("format").and_then(serde_json::Value::as_u64) {
            Some(format) if format == u64::from(FORMAT) => {}
            Some(newer) if newer > u64::from(FORMAT) => {
                return Err(RepositoryFileError::Version(
                    newer.try_into().unwrap_or(u32::MAX),
                ));
            }
            _ => return Err(invalid("it names no format")),
        }
        let written: Written =
            serde_json::from_value(json).map_err(|error| invalid(&error.to_string()))?;
        let id = RepositoryId::parse(&written.id).ok_or_else(|| invalid("its identity is none"))?;
        if !written.chunk_len.is_power_of_two()
            || !(CHUNK_LEN_MIN..=CHUNK_LEN_MAX).contains(&written.chunk_len)
        {
            return Err(invalid("its chunk length is none"));
        }
        Ok(Self {
            id,
            is_encrypted: written.encrypted,
            chunk_len: written.chunk_len,
        })
    }

    /// The statement that key objects prove: one line a field.
    pub(crate) fn statement(&self) -> String {
        format!(
            "format {FORMAT}\nid {}\nencrypted {}\nchunk_len {}\n",
            self.id, self.is_encrypted, self.chunk_len
        )
    }
}
