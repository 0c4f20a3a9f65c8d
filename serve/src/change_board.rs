//! The parts of disks that clients have written, for mounts that show the same disks to a kernel
//! that caches what it reads. It does not know the mounts.
//!
//! The kernel keeps the pages of a file that is mapped. What an NBD client writes to the same disk
//! would never be seen through such a mapping: so the NBD server tells this board what it wrote, a
//! mount waits for it and has the kernel forget the pages. The two are not in step: a mapping shows
//! a write a moment after it was answered. A writer that waited for the kernel could wait for
//! itself, since the kernel writes mapped pages back before it forgets them.
//!
//! A disk is known by its address in memory, as long as a watch guard keeps it alive.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vellum_core::device::Device;

/// The disks that are watched, and what was written to each since it was last asked.
#[derive(Debug, Default)]
pub struct ChangeBoard {
    watched: Mutex<HashMap<DeviceAddress, WatchedDisk>>,
    /// The number of them: most servers show no files, and their writes must cost nothing here.
    watched_count: AtomicUsize,
    written: Condvar,
}

/// The place of a device in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DeviceAddress(usize);

#[derive(Debug, Default)]
struct WatchedDisk {
    watcher_count: usize,
    /// One range around all that was written.
    written: Option<Range<u64>>,
}

/// Has the board remember what is written to a disk, until dropped. The disk must live longer.
#[derive(Debug)]
pub(crate) struct WatchGuard {
    board: Arc<ChangeBoard>,
    address: DeviceAddress,
}

impl DeviceAddress {
    pub(crate) fn of_device(device: &dyn Device) -> Self {
        Self(std::ptr::from_ref(device).cast::<()>() as usize)
    }
}

impl ChangeBoard {
    pub(crate) fn watch_device(self: &Arc<Self>, device: &Arc<dyn Device>) -> WatchGuard {
        let address = DeviceAddress::of_device(&**device);
        let mut watched = self.lock_watched();
        watched.entry(address).or_default().watcher_count += 1;
        self.watched_count.store(watched.len(), Ordering::SeqCst);
        drop(watched);
        WatchGuard {
            board: Arc::clone(self),
            address,
        }
    }

    /// Notes that `len` bytes from `offset` were written to `device`.
    pub(crate) fn note_write(&self, device: &dyn Device, offset: u64, len: u64) {
        if len == 0 || self.watched_count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut watched = self.lock_watched();
        let Some(disk) = watched.get_mut(&DeviceAddress::of_device(device)) else {
            return;
        };
        let new = offset..offset.saturating_add(len);
        disk.written = Some(match disk.written.take() {
            Some(old) => old.start.min(new.start)..old.end.max(new.end),
            None => new,
        });
        drop(watched);
        self.written.notify_all();
    }

    /// Takes what was written since the last call; waits for it, at most for `limit`.
    pub(crate) fn take_writes(&self, limit: Duration) -> Vec<(DeviceAddress, Range<u64>)> {
        let is_quiet = |watched: &mut HashMap<DeviceAddress, WatchedDisk>| {
            watched.values().all(|disk| disk.written.is_none())
        };
        let (mut watched, _) = self
            .written
            .wait_timeout_while(self.lock_watched(), limit, is_quiet)
            .unwrap_or_else(PoisonError::into_inner);
        watched
            .iter_mut()
            .filter_map(|(address, disk)| Some((*address, disk.written.take()?)))
            .collect()
    }

    fn lock_watched(&self) -> MutexGuard<'_, HashMap<DeviceAddress, WatchedDisk>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for WatchGuard {
    fn drop(&mut self) {
        let mut watched = self.board.lock_watched();
        if let Some(disk) = watched.get_mut(&self.address) {
            disk.watcher_count -= 1;
            if disk.watcher_count == 0 {
                watched.remove(&self.address);
            }
        }
        self.board
            .watched_count
            .store(watched.len(), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blank_device::Blank;

    #[test]
    fn what_is_written_is_told_of_watched_disks_once_as_one_range() {
        let board = Arc::new(ChangeBoard::default());
        let disks: [Arc<dyn Device>; 2] = [Arc::new(Blank(1)), Arc::new(Blank(2))];
        let take = || board.take_writes(Duration::ZERO);
        board.note_write(&*disks[0], 0, 10);
        let watched = board.watch_device(&disks[0]);
        let again = board.watch_device(&disks[0]);
        assert!(take().is_empty(), "written before it was watched");
        board.note_write(&*disks[0], 100, 10);
        board.note_write(&*disks[0], 5, 10);
        board.note_write(&*disks[0], 7, 0);
        board.note_write(&*disks[1], 0, 10);
        assert_eq!(take(), [(DeviceAddress::of_device(&*disks[0]), 5..110)]);
        assert!(take().is_empty());
        drop(watched);
        board.note_write(&*disks[0], 0, 1);
        assert_eq!(take().len(), 1, "somebody watches still");
        drop(again);
        board.note_write(&*disks[0], 0, 1);
        assert!(take().is_empty() && board.lock_watched().is_empty());
    }
}
