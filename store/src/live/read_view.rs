//! The view that users of a live disk have: changes that wait, over those that are being flushed,
//! over what was flushed.

use std::ops::Range;
use std::sync::Arc;

use crate::disk::Disk;
use crate::write_buffer::{PendingChange, WriteBuffer};

/// The flushed state of a disk.
#[derive(Clone)]
pub(super) struct FlushedBase {
    pub(super) disk: Arc<Disk>,
    /// Rises with every flush.
    pub(super) version: u64,
}

/// All that a read has to look at, newest first. At any time it shows every write that was
/// answered.
pub(super) struct ReadView {
    /// The generation that takes the writes.
    pub(super) filling: WriteBuffer,
    /// The generation that is being flushed, if one is. It does not change.
    flushing: Option<Arc<WriteBuffer>>,
    pub(super) base: FlushedBase,
    /// Former bases that may still be read from.
    retired: Vec<Arc<Disk>>,
}

impl ReadView {
    pub(super) fn new(disk: Disk) -> Self {
        Self {
            filling: WriteBuffer::default(),
            flushing: None,
            base: FlushedBase {
                disk: Arc::new(disk),
                version: 0,
            },
            retired: Vec::new(),
        }
    }

    /// About how many bytes of memory the changes take.
    pub(super) fn memory_len(&self) -> usize {
        self.filling.memory_len()
            + self
                .flushing
                .as_ref()
                .map_or(0, |changes| changes.memory_len())
    }

    /// True if everything was flushed.
    pub(super) fn is_clean(&self) -> bool {
        self.filling.is_empty() && self.flushing.is_none()
    }

    /// The unflushed change of one chunk.
    pub(super) fn chunk_change(&self, position: u64) -> PendingChange<'_> {
        match (self.filling.pending_change(position), &self.flushing) {
            (PendingChange::Absent, Some(flushing)) => flushing.pending_change(position),
            (change, _) => change,
        }
    }

    /// The unflushed changes of the positions of `range`, in order and gap-free.
    pub(super) fn changes_in(&self, range: Range<u64>) -> Vec<(Range<u64>, PendingChange<'_>)> {
        let newest = self.filling.changes_in(range);
        let Some(flushing) = &self.flushing else {
            return newest;
        };
        let below = |(part, change): (Range<u64>, _)| {
            if change == PendingChange::Absent {
                flushing.changes_in(part)
            } else {
                vec![(part, change)]
            }
        };
        newest.into_iter().flat_map(below).collect()
    }

    /// Ends the generation that takes the writes; from here on it is the one that is being flushed.
    pub(super) fn freeze_buffer(&mut self) -> Arc<WriteBuffer> {
        assert!(
            self.flushing.is_none(),
            "one generation is flushed at a time"
        );
        let frozen = Arc::new(std::mem::take(&mut self.filling));
        self.flushing = Some(Arc::clone(&frozen));
        frozen
    }

    /// The generation was flushed: `disk` has it.
    pub(super) fn publish_base(&mut self, disk: Disk) {
        self.flushing = None;
        let base = FlushedBase {
            disk: Arc::new(disk),
            version: self.base.version + 1,
        };
        self.retired
            .push(std::mem::replace(&mut self.base, base).disk);
    }

    /// Former bases that nobody reads from any more: to be dropped under no lock.
    pub(super) fn take_retired(&mut self) -> Vec<Arc<Disk>> {
        let (free, used) = std::mem::take(&mut self.retired)
            .into_iter()
            .partition(|disk| Arc::strong_count(disk) == 1);
        self.retired = used;
        free
    }

    /// The generation was not flushed: it waits again, below what came later.
    pub(super) fn thaw_buffer(&mut self) {
        let Some(older) = self.flushing.take() else {
            return;
        };
        let newer = std::mem::replace(&mut self.filling, Arc::unwrap_or_clone(older));
        self.filling.apply_newer(newer);
    }

    /// Forgets everything that was not flushed.
    pub(super) fn forget_unflushed(&mut self) {
        (self.filling, self.flushing) = (WriteBuffer::default(), None);
    }
}
