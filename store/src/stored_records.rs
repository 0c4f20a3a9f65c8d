//! Records in the database: one put into a batch, one read from its place or from its copy.

use crate::database::{Batch, Database, Family};
use crate::error::StoreError;
use crate::records::{self, StoreRecord};

/// Puts `record` into `batch`.
pub(crate) fn put_record<R: StoreRecord>(
    batch: &mut Batch,
    family: Family,
    key: &[u8],
    record: &R,
) {
    batch.put_record(
        family,
        key,
        records::encode_record(family.family_name(), key, record),
    );
}

/// The record of meta at `key`; why it had to be taken from the copies.
pub(crate) fn load_meta<R: StoreRecord>(
    database: &Database,
    key: &[u8],
    what: &str,
) -> Result<(Option<R>, Option<StoreError>), StoreError> {
    let decode = |value: &[u8]| {
        records::decode_record(Family::Meta.family_name(), key, value)
            .map_err(|error| StoreError::damaged_record(what, error))
    };
    database.record_or_copy(Family::Meta, key, decode)
}
