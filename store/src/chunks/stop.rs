//! After a failed durable write, no more writes: what is in memory may be ahead of what is on disk.

use std::sync::OnceLock;

use crate::error::StoreError;

/// Remembers the first failed write of a store.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    first: OnceLock<Failure>,
}

#[derive(Debug)]
struct Failure {
    message: String,
    /// What was tried, if the disk was full: who meets the stop is told so, and what helps.
    full: Option<String>,
}

impl Stop {
    /// Fails if a write has failed.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        match self.first.get() {
            None => Ok(()),
            Some(Failure {
                full: Some(what), ..
            }) => Err(StoreError::Full { what: what.clone() }),
            Some(Failure { message, .. }) => Err(StoreError::Stopped(message.clone())),
        }
    }

    /// Runs a durable write, unless one has failed; remembers if it fails.
    pub(crate) fn guard<T>(
        &self,
        write: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.check()?;
        write().inspect_err(|error| {
            let full = if let StoreError::Full { what } = error {
                Some(what.clone())
            } else {
                None
            };
            // Only the first failure counts: later ones follow from it.
            let _ = self.first.set(Failure {
                message: error.to_string(),
                full,
            });
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failed_write_nothing_more_is_written() {
        let stop = Stop::default();
        assert!(stop.guard(|| Ok(())).is_ok());
        let failed = stop.guard(|| Err::<(), _>(StoreError::Interrupted));
        assert!(failed.is_err() && stop.check().is_err());
        assert!(matches!(
            stop.guard(|| -> Result<(), StoreError> {
                unreachable!("no write after a failed one")
            }),
            Err(StoreError::Stopped(_))
        ));
    }

    #[test]
    fn a_full_disk_is_still_called_one_by_those_who_come_later() {
        let stop = Stop::default();
        let full = || StoreError::Full {
            what: "write".to_owned(),
        };
        assert!(stop.guard(|| Err::<(), _>(full())).is_err());
        assert!(matches!(stop.check(), Err(StoreError::Full { .. })));
    }
}
