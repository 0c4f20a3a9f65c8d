//! The lineage of a store that pushes: if it is the one that pushed last under its identity, or one
//! of several that were copied from each other.
//!
//! A copy of a store's folder has the store's identity, so that two machines could push to one
//! repository as if they were one, and their images were mixed up. So every push that says
//! something leaves a *token* in the store, and says it in its record, too. A store that has the
//! token of the last push under its identity is the one that made that push, wherever its folder is
//! now: it may have been moved, and it does not matter if its client's cache is there. One that has
//! not is older than that push. Then it is the same store, brought back from a backup of itself, if
//! it is where the store was that made that push (the same folder of the same machine): two stores
//! cannot be in one place. Else nothing tells a copy from a store that was brought back elsewhere,
//! and both are *parted*: it takes a new identity. That costs no data to be sent, since contents
//! keep theirs, and to mix two stores would cost more than to have the images of one twice.
//!
//! The store keeps two tokens, since a push that is killed may have put its record or not: the one
//! that is not the last push's is replaced, durably, before the record is put.

use std::path::Path;

use vellum_core::identity::{IDENTITY_LEN, RepositoryId, StoreId};
use vellum_store::{Store, StoreError};

use crate::error::BackupError;
use crate::hexadecimal;
use crate::journal::State;
use crate::record::StoreMark;
use crate::repository::Repository;
use crate::session::Writer;

const TOKEN_CONTEXT: &str = "vellum 2026-12 tokens of a repository's pushes v1";
const PLACE_CONTEXT: &str = "vellum 2026-12 place of a store v1";

/// The kinship of a store with the last push under its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lineage {
    /// Nobody pushed under this identity.
    First,
    /// That push was this store's; the nth of its tokens says so.
    Continued(usize),
    /// It is older than that push, and stands where that push came from.
    BroughtBack,
    /// That push was another store's, or of this one before it was brought back somewhere else.
    Copied,
}

/// Decides the lineage of a store that has these tokens, and is at `place`.
fn lineage(last: Option<&StoreMark>, tokens: &[Option<String>; 2], place: Option<&str>) -> Lineage {
    let Some(last) = last else {
        return Lineage::First;
    };
    let own = tokens
        .iter()
        .position(|token| token.as_deref() == Some(last.token.as_str()));
    match (own, last.place.as_deref()) {
        (Some(nth), _) => Lineage::Continued(nth),
        (None, Some(there)) if place == Some(there) => Lineage::BroughtBack,
        (None, _) => Lineage::Copied,
    }
}

/// The slot for the token of the next push: never the one that proves the last.
fn next_slot(lineage: Lineage) -> usize {
    match lineage {
        Lineage::Continued(nth) => 1 - nth,
        Lineage::First | Lineage::BroughtBack | Lineage::Copied => 0,
    }
}

/// Gives `store` a new identity if it is a copy of one that pushes to the repository, too; returns
/// it. One that cannot be written stays as it is. Cost: no request.
pub(crate) fn part_if_copied(
    repository: &Repository,
    store: &Store,
    writer: &Writer,
) -> Result<Option<StoreId>, BackupError> {
    if !repository.objects().keeps_copies()
        || of_store(&repository.state(), repository, store, writer)? != Lineage::Copied
    {
        return Ok(None);
    }
    match store.take_new_identity() {
        Ok(id) => Ok(Some(id)),
        Err(StoreError::ReadOnly) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Leaves the token of a push in `store`, and returns what its record says of it; none if nothing
/// can be left there, or the repository is a stream, to which nobody pushes twice.
pub(crate) fn leave_mark(
    state: &State,
    repository: &Repository,
    store: &Store,
    writer: &Writer,
) -> Result<Option<StoreMark>, BackupError> {
    let Some(id) = store.id().filter(|_| repository.objects().keeps_copies()) else {
        return Ok(None);
    };
    let slot = next_slot(of_store(state, repository, store, writer)?);
    match store.leave_token(&owner(repository.id(), slot)) {
        Ok(token) => Ok(Some(StoreMark {
            store: id.to_string(),
            token: hexadecimal::write(&token),
            place: place(writer, store.dir()),
        })),
        Err(StoreError::ReadOnly) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn of_store(
    state: &State,
    repository: &Repository,
    store: &Store,
    writer: &Writer,
) -> Result<Lineage, BackupError> {
    let last = store
        .id()
        .and_then(|id| state.last_push_of(&id.to_string()));
    let token = |slot| -> Result<Option<String>, BackupError> {
        let token = store.owner_token(&owner(repository.id(), slot))?;
        Ok(token.map(|token| hexadecimal::write(&token)))
    };
    let place = place(writer, store.dir());
    Ok(lineage(last, &[token(0)?, token(1)?], place.as_deref()))
}

/// The name under which a store keeps a token for a repository.
fn owner(repository: RepositoryId, slot: usize) -> [u8; IDENTITY_LEN] {
    short_hash(TOKEN_CONTEXT, &[&repository.0[..], &[slot as u8]].concat())
}

/// A machine and a folder in a few bytes that tell neither.
fn place(writer: &Writer, folder: &Path) -> Option<String> {
    let machine = writer.process.as_ref()?.machine.as_ref()?;
    let folder = folder.canonicalize().ok()?;
    let both = [machine.as_bytes(), folder.as_os_str().as_encoded_bytes()].join(&0);
    Some(hexadecimal::write(&short_hash(PLACE_CONTEXT, &both)))
}

fn short_hash(context: &str, bytes: &[u8]) -> [u8; IDENTITY_LEN] {
    let mut short = [0; IDENTITY_LEN];
    short.copy_from_slice(&blake3::derive_key(context, bytes)[..IDENTITY_LEN]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One row for each thing that happens to a folder.
    #[test]
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn only_what_cannot_be_the_same_store_is_a_copy() {
        let last = |place: Option<&str>| {
            Some(StoreMark {
                store: "s".to_owned(),
                token: "new".to_owned(),
                place: place.map(str::to_owned),
            })
        };
        let here = Some("here");
        let table = [
            ("never pushed", None, [None, None], here, Lineage::First),
            (
                "as it was",
                last(here),
                [Some("new"), None],
                here,
                Lineage::Continued(0),
            ),
            (
                "killed before its record",
                last(here),
                [Some("new"), Some("unsaid")],
                here,
                Lineage::Continued(0),
            ),
            (
                "killed after it",
                last(here),
                [Some("old"), Some("new")],
                here,
                Lineage::Continued(1),
            ),
            (
                "moved",
                last(Some("there")),
                [Some("new"), Some("old")],
                here,
                Lineage::Continued(0),
            ),
            (
                "of a machine without identity",
                last(None),
                [Some("new"), None],
                None,
                Lineage::Continued(0),
            ),
            (
                "brought back",
                last(here),
                [Some("old"), None],
                here,
                Lineage::BroughtBack,
            ),
            (
                "brought back from before its first push",
                last(here),
                [None, None],
                here,
                Lineage::BroughtBack,
            ),
            (
                "brought back elsewhere, or a copy",
                last(Some("there")),
                [Some("old"), None],
                here,
                Lineage::Copied,
            ),
            (
                "copied before its first push",
                last(Some("there")),
                [None, None],
                here,
                Lineage::Copied,
            ),
            (
                "a copy, on machines without identity",
                last(None),
                [Some("old"), None],
                None,
                Lineage::Copied,
            ),
        ];
        for (what, last, tokens, place, expected) in table {
            let tokens = tokens.map(|token| token.map(str::to_owned));
            assert_eq!(lineage(last.as_ref(), &tokens, place), expected, "{what}");
        }
    }

    #[test]
    fn the_token_that_proves_the_last_push_is_not_replaced() {
        for nth in 0..2 {
            assert_ne!(next_slot(Lineage::Continued(nth)), nth);
        }
    }
}
