//! Points where a test may let another thread go first. In the program these are plain locks, and
//! points that cost nothing.

use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(test)]
pub(crate) mod schedule;

/// A point between two steps that another thread may fall between.
#[cfg(not(test))]
pub(crate) fn yield_point(_: &'static str) {}

#[cfg(test)]
pub(crate) use schedule::yield_point;

/// Locks `mutex`. A panic elsewhere leaves what these locks protect whole: they keep steps apart,
/// or changes that are complete.
pub(crate) fn lock_unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    #[cfg(test)]
    if let Some(guard) = schedule::lock_scheduled(mutex) {
        return guard;
    }
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
