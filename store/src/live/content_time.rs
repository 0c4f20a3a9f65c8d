//! Time at which the content of an attached disk last changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The time when the content of an attached disk last changed, in nanoseconds since 1970: shared
/// with those who are asked for it and hold no disk. Another time for every change.
#[derive(Clone)]
pub(crate) struct ContentTime(pub(super) Arc<AtomicU64>);

impl ContentTime {
    pub(crate) fn changed_ns(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Notes a change. One thread at a time.
    pub(super) fn advance_to(&self, now_ns: u64) {
        let next = now_ns.max(self.changed_ns().saturating_add(1));
        self.0.store(next, Ordering::Release);
    }
}
