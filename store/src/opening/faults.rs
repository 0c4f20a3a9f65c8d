//! Faults that are found while a store is opened: those that prevent writing, and the others.

use crate::error::StoreError;

/// Faults that were found while a store was opened.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Faults that prevent writing.
    pub(crate) blocking: Vec<StoreError>,
    /// Faults that reading goes around, and that writing does not need.
    pub(crate) tolerated: Vec<StoreError>,
}

impl Faults {
    /// Notes damage in `result` as a fault that prevents writing, and goes on with nothing.
    pub(super) fn note_blocking<T>(
        &mut self,
        result: Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error @ StoreError::Damaged(_)) => {
                self.blocking.push(error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
