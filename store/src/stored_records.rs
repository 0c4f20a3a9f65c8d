//! Records in the database: one put into a batch, one read from its place or from its copy.

use crate::database::{Batch, Database, Family};
use crate::error::StoreError;
use crate::records::{self, Record};

/// Puts `record` into `batch`.
pub(crate) fn put<R: Record>(batch: &mut Batch, family: Family, key: &[u8], record: &R) {
    batch.put(family, key, records::encode(family.name(), key, record));
}

/// The record of meta at `key`; why it had to be taken from the copies.
pub(crate) fn load_meta<R: Record>(
    database: &Database,
    key: &[u8],
    what: &str,
) -> Result<(Option<R>, Option<StoreError>), StoreError> {
    let decode = |value: &[u8]| {
        records::decode(Family::Meta.name(), key, value)
            .map_err(|error| StoreError::damaged(what, error))
    };
    database.record(Family::Meta, key, decode)
}
