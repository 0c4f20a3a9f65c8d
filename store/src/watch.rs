//! Progress of long operations, and the request to stop them.

use crate::error::StoreError;

/// Progress of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of image, or records, done so far.
    pub done: u64,
    /// The number that there will be, if known.
    pub total: Option<u64>,
}

/// Observer of an operation.
pub trait Watch: Sync {
    /// Called often, so it must be cheap.
    fn report_progress(&self, progress: Progress);

    /// True to stop as soon as nothing is half done.
    fn is_cancelled(&self) -> bool;
}

/// Observer of nothing.
#[derive(Clone, Copy, Debug)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn report_progress(&self, _: Progress) {}

    fn is_cancelled(&self) -> bool {
        false
    }
}

/// The only way out of an operation that is called off.
pub(crate) fn go_on(watch: &dyn Watch) -> Result<(), StoreError> {
    if watch.is_cancelled() {
        Err(StoreError::Interrupted)
    } else {
        Ok(())
    }
}
