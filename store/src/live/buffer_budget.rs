//! The write buffer's budget: memory for unflushed writes of all live disks together.
//!
//! A writer that finds none left flushes itself before it goes on: the disk that has most waiting,
//! even if it is another's. So memory is bounded however many disks there are, a disk that is never
//! flushed keeps no memory from others for ever, and a guest that writes too fast is slowed down.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::LiveDiskState;
use crate::chunks::sync::lock_unpoisoned;
use crate::error::StoreError;
use crate::sizes::Sizes;

/// The room for changes that wait. Each thread that writes may exceed it by one part of a request.
pub(crate) struct BufferBudget {
    len_max: AtomicUsize,
    used_len: AtomicUsize,
    disks: Mutex<Vec<Weak<LiveDiskState>>>,
}

impl BufferBudget {
    pub(crate) fn new(sizes: &Sizes) -> Self {
        Self {
            len_max: AtomicUsize::new(sizes.waiting as usize),
            used_len: AtomicUsize::new(0),
            disks: Mutex::default(),
        }
    }

    /// From now on `len` bytes.
    pub(crate) fn set_len_max(&self, len: usize) {
        self.len_max.store(len, Ordering::Relaxed);
    }

    /// With nothing waiting there is room for a part, however little was allowed.
    fn is_full(&self) -> bool {
        let used_len = self.used_len.load(Ordering::Relaxed);
        used_len > 0 && used_len >= self.len_max.load(Ordering::Relaxed)
    }

    /// Adds a disk whose changes take room here.
    pub(super) fn add_disk(&self, disk: &Arc<LiveDiskState>) {
        let mut disks = lock_unpoisoned(&self.disks);
        disks.retain(|disk| disk.strong_count() > 0);
        disks.push(Arc::downgrade(disk));
    }

    /// Notes that what took `before` bytes takes `after` now.
    pub(super) fn note_change(&self, before: usize, after: usize) {
        if after >= before {
            self.used_len.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.used_len.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    /// Waits until there is room for a little more. An error if no disk's changes can be flushed.
    pub(super) fn wait_for_room(&self) -> Result<(), StoreError> {
        while self.is_full() {
            let mut disks: Vec<Arc<LiveDiskState>> = lock_unpoisoned(&self.disks)
                .iter()
                .filter_map(Weak::upgrade)
                .collect();
            disks.sort_by_cached_key(|disk| std::cmp::Reverse(disk.memory_len()));
            // A disk that cannot be flushed (its map may be damaged) is no reason to refuse writes
            // to another.
            let outcomes = disks.iter().map(|disk| disk.flush_some());
            let mut first_error = None;
            for outcome in outcomes {
                match outcome {
                    Ok(()) => {
                        first_error = None;
                        break;
                    }
                    Err(error) => first_error = first_error.or(Some(error)),
                }
            }
            if let Some(error) = first_error {
                return Err(error);
            }
        }
        Ok(())
    }
}
