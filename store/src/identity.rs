//! Random identities of stores and of content, so that no two stores ever give the same one.
//!
//! A sealed layer gets its content's identity in the batch that seals it. It keeps the identity
//! when it is written again (a merge completes its map with its parent's entries), since it shows
//! the same content. A layer that takes another's place (flatten, rebase) is an active one: it has
//! none, and gets another when it is sealed. A nameless layer that is trimmed shows other content
//! from then on, as do the nameless layers above it: they get others, too.

use std::borrow::Cow;
use std::io;

use vellum_core::identity::{ContentId, IDENTITY_LEN, StoreId};
use vellum_core::tree::TreeEdit;

use crate::database::{Batch, Database, Durability, Family};
use crate::error::StoreError;
use crate::keys::IDENTITY_KEY;
use crate::stored_records::put_record;

/// Random bytes that nobody can foresee.
pub(crate) fn random_identity() -> Result<[u8; IDENTITY_LEN], StoreError> {
    let mut bytes = [0; IDENTITY_LEN];
    getrandom::fill(&mut bytes).map_err(|error| {
        StoreError::of_io("get random bytes", io::Error::other(error.to_string()))
    })?;
    Ok(bytes)
}

/// Gives a store an identity that no other has: durable when this returns.
pub(crate) fn put_new_identity(database: &Database) -> Result<StoreId, StoreError> {
    let (id, mut batch) = (StoreId(random_identity()?), Batch::default());
    put_record(&mut batch, Family::Meta, IDENTITY_KEY, &id);
    database.write_batch(batch, Durability::Logged)?;
    Ok(id)
}

/// `edits`, in which every sealed layer has an identity.
pub(crate) fn with_identities(edits: &[TreeEdit]) -> Result<Cow<'_, [TreeEdit]>, StoreError> {
    let lacks = |edit: &TreeEdit| {
        matches!(
            edit,
            TreeEdit::PutLayer(layer) if layer.sealed && layer.content.is_none()
        )
    };
    if !edits.iter().any(lacks) {
        return Ok(Cow::Borrowed(edits));
    }
    let mut edits = edits.to_vec();
    for edit in &mut edits {
        if let TreeEdit::PutLayer(layer) = edit
            && layer.sealed
            && layer.content.is_none()
        {
            layer.content = Some(ContentId(random_identity()?));
        }
    }
    Ok(Cow::Owned(edits))
}
