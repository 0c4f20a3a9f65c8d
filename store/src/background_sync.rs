//! Syncing a file while it is written: the disk works while the cores do, and little is left for
//! the end.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};

/// Bytes after which a file is synced: enough for the disk to write in long runs.
const SYNC_LEN: u64 = 64 << 20;

/// Counts what was written, and wakes the thread that syncs.
pub(crate) struct BackgroundSync {
    wake: SyncSender<()>,
    written: AtomicU64,
}

impl BackgroundSync {
    /// Notes that `len` more bytes were written.
    pub(crate) fn note_written(&self, len: u64) {
        let before = self.written.fetch_add(len, Ordering::Relaxed);
        if before / SYNC_LEN != (before + len) / SYNC_LEN {
            // One that is at work already, or has failed, needs no other.
            let _ = self.wake.try_send(());
        }
    }
}

/// Does `work`, which writes to `file`, while that is synced. An error of the system's is told
/// once, here: who syncs the file later hears nothing of it.
pub(crate) fn synced_along<T, E>(
    file: &File,
    fail: impl FnOnce(io::Error) -> E,
    work: impl FnOnce(&BackgroundSync) -> Result<T, E>,
) -> Result<T, E> {
    std::thread::scope(|scope| {
        let (wake, woken) = sync_channel(1);
        let syncing = scope.spawn(move || woken.into_iter().try_for_each(|()| file.sync_data()));
        let bell = BackgroundSync {
            wake,
            written: AtomicU64::new(0),
        };
        let done = work(&bell);
        drop(bell);
        let synced = syncing
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        done.and_then(|done| synced.map(|()| done).map_err(fail))
    })
}
