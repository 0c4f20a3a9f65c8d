//! After a failed durable write, no more writes: what is in memory may be ahead of what is on disk.

use std::sync::OnceLock;

use crate::error::StoreError;

/// Remembers the first failed write of a store.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    reason: OnceLock<String>,
}

impl Stop {
    /// Fails if a write has failed.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        match self.reason.get() {
            Some(reason) => Err(StoreError::Stopped(reason.clone())),
            None => Ok(()),
        }
    }

    /// Remembers `error`, if it is the first, and passes it on.
    pub(crate) fn failed(&self, error: StoreError) -> StoreError {
        let _ = self.reason.set(error.to_string());
        error
    }

    /// Runs a durable write, unless one has failed; remembers if it fails.
    pub(crate) fn guard<T>(&self, write: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.check()?;
        write().map_err(|error| self.failed(error))
    }
}
