//! The end of a server's threads, seen from outside of them.
//!
//! A thread that has said that it is over still drops what it holds. If that is the last owner of
//! the devices behind a server, it closes what they stand on, and the process must not end under
//! it.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// The pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(1);
/// The time that a thread takes at most between its last word and its end.
const ENDING_TIME: Duration = Duration::from_secs(1);

/// Waits until nobody else owns `shared`, in bounded time.
pub(crate) fn await_last_owner<T>(shared: &Arc<T>) {
    let begun = Instant::now();
    while Arc::strong_count(shared) > 1 && begun.elapsed() < ENDING_TIME {
        thread::sleep(LOOK_PAUSE);
    }
}
