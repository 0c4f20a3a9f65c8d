//! Visits all records of a family, and goes on behind those that cannot be read.

use std::collections::BTreeSet;

use super::CheckRun;
use crate::database::{Database, Family};
use crate::error::StoreError;

/// Takes a record, or why some could not be read.
pub(super) type VisitRecord<'v, 's> =
    dyn FnMut(&mut CheckRun<'s>, Result<(&[u8], &[u8]), StoreError>) -> Result<(), StoreError> + 'v;

impl<'s> CheckRun<'s> {
    /// Visits the records of `family` whose keys begin with `prefix`.
    pub(super) fn each_record(
        &mut self,
        database: &Database,
        family: Family,
        prefix: &[u8],
        visit: &mut VisitRecord<'_, 's>,
    ) -> Result<(), StoreError> {
        let mut next = Some(prefix.to_vec());
        while let Some(from) = next.take() {
            let mut scan = database.scan_from(family, &from);
            let mut last = from;
            loop {
                match scan.next() {
                    Ok(Some((key, value))) if key.starts_with(prefix) => {
                        last.clear();
                        last.extend_from_slice(key);
                        visit(self, Ok((key, value)))?;
                    }
                    Ok(_) => return Ok(()),
                    Err(error) => {
                        visit(self, Err(error))?;
                        next = next_readable_key(database, family, &last);
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The first key after `last` that can be read, as far as it is found: at the bounds of tables, and
/// in growing steps through the numbers that keys begin with.
pub(crate) fn next_readable_key(
    database: &Database,
    family: Family,
    last: &[u8],
) -> Option<Vec<u8>> {
    let mut tries: BTreeSet<Vec<u8>> = database.table_bounds(family);
    if let Some((head, _)) = last.split_first_chunk::<8>() {
        let number = u64::from_be_bytes(*head);
        let steps = (0..u64::BITS).filter_map(|bit| number.checked_add(1 << bit));
        tries.extend(steps.map(|number| number.to_be_bytes().to_vec()));
    }
    tries
        .into_iter()
        .filter(|from| from.as_slice() > last)
        .find_map(|from| {
            let mut scan = database.scan_from(family, &from);
            let (key, _) = scan.next().ok()??;
            Some(key.to_vec())
        })
}
