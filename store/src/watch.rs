//! How long work tells how far it is, and hears that it should stop.

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of image, or records, done so far.
    pub done: u64,
    /// How many there will be, if known.
    pub total: Option<u64>,
}

/// Somebody who waits for an operation.
pub trait Watch: Sync {
    /// Called often, so it must be cheap.
    fn progress(&self, progress: Progress);

    /// Whether to stop as soon as nothing is half done.
    fn is_cancelled(&self) -> bool;
}

/// Nobody waits.
#[derive(Clone, Copy, Debug)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn progress(&self, _: Progress) {}

    fn is_cancelled(&self) -> bool {
        false
    }
}
