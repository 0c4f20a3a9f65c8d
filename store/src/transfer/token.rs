//! Tokens: detect that a store is not the one that a program's books elsewhere are about.
//!
//! Ids are never given twice, but a store whose folder was copied, or brought back from an earlier
//! day, goes on giving those that the other one gave. A program that remembers ids leaves a token
//! in the store whenever the books are closed, and writes the same into the books. A store that has
//! another token, or none, is not that one; one that has it knows every id that the books speak of,
//! since they speak of none that was given later.

use vellum_core::identity::IDENTITY_LEN;

use crate::database::{Batch, Durability, Family};
use crate::error::StoreError;
use crate::identity::random_identity;
use crate::keys::token_key;
use crate::records::Token;
use crate::store::Store;
use crate::stored_records::{load_meta, put_record};

impl Store {
    /// The token that was last left for `owner`.
    pub fn owner_token(
        &self,
        owner: &[u8; IDENTITY_LEN],
    ) -> Result<Option<[u8; IDENTITY_LEN]>, StoreError> {
        let (token, _) = load_meta::<Token>(&self.inner.database, &token_key(owner), "a token")?;
        Ok(token.map(|token| token.0))
    }

    /// Leaves a new token for `owner`: durable when this returns.
    pub fn leave_token(
        &self,
        owner: &[u8; IDENTITY_LEN],
    ) -> Result<[u8; IDENTITY_LEN], StoreError> {
        self.check_writable()?;
        let (token, mut batch) = (Token(random_identity()?), Batch::default());
        put_record(&mut batch, Family::Meta, &token_key(owner), &token);
        self.inner.database.write_batch(batch, Durability::Logged)?;
        Ok(token.0)
    }
}
