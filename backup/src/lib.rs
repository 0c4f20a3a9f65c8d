//! Repositories: incremental backups of whole trees of images to a folder or an object store, with
//! no server of ours.
//!
//! A repository is a set of *objects* that are put once under new names and never changed. Its
//! state is told by its *journal*: a few small records, each written last, after everything that it
//! refers to. So a crash leaks objects, and never leaves a name without its thing.
//!
//! ```text
//! vellum.repository            what this is: format, identity, whether it is encrypted
//! keys/ID                      the master key, wrapped for one passphrase or key file
//! packs/XX/ID                  chunks: frames, each compressed and sealed by itself, one after the
//!                              other
//! index/ID                     which chunks are in which frame of which pack, and their names
//! maps/ID                      what layers say of their positions
//! journal/COUNTER-ID           what was pushed, forgotten, collected: see `record`
//! sessions/ID                  a process that is changing the repository now
//! copies/NAME                  everything but packs and sessions, once more
//! ```
//!
//! **Addresses.** A push puts its new chunks into *segments*: numbered lists of chunks. Maps name a
//! chunk by segment and ordinal, so a freshly pushed disk is a handful of runs. Collection moves
//! chunks between packs and keeps their addresses: no map is rewritten for it.
//!
//! **Contents.** What a sealed layer shows never changes, whatever becomes of the layers below it.
//! That content has an identity of 16 random bytes ([`vellum_core::identity::ContentId`]), which
//! goes with it from store to repository to store. A repository keeps for each content a map
//! relative to another content. What people see are *points*: an image, or a snapshot of it, as it
//! was when it was pushed.
//!
//! **Modules.** `objects` stores bytes; `seal` encrypts and authenticates them; `format` encodes
//! them; `record` and `journal` decide what a repository holds, which sessions may still write and
//! what can go (pure); `repository` opens one; `catalog` finds chunks; `push`, `pull`, `restore`,
//! `forget`, `prune`, `verify`, `copy`, `diff` and `stream` are the commands of these names; `heal`
//! brings back what is lost.
//!
//! # What this does not do
//!
//! It formats nothing for people and reads no environment; it names no database. The async runtime
//! ends in `objects::cloud`.
#![forbid(unsafe_code)]

mod addressed;
pub mod catalog;
pub mod chunk_source;
pub mod clock;
pub mod contents;
pub mod copy;
pub mod device;
pub mod diff;
pub mod error;
pub mod forget;
pub mod format;
pub mod heal;
mod hexadecimal;
mod hit;
pub mod journal;
mod known;
mod lineage;
mod memory;
pub mod objects;
pub mod policy;
pub mod process;
pub mod prune;
pub mod pull;
pub mod push;
pub mod reader;
pub mod record;
pub mod repository;
pub mod restore;
pub mod seal;
pub mod session;
mod spool;
pub mod stream;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod translation;
pub mod verify;
#[cfg(test)]
mod verify_tests;
mod wording;

pub use error::BackupError;
pub use repository::{ClientFolders, FirstKey, Repository, Rollback};
pub use session::{Committed, OpenSession, Session, SessionKind, Writer};
