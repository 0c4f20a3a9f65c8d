//! Slots of attached disks: which images are attached, by whom, and which immutable images are
//! held by it.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use vellum_core::units::ImageId;

use super::{AttachedDisk, OwnerId};
use crate::live::content_time::ContentTime;
use crate::store::holds::ImageLock;

/// The disks that are attached for writing, by the image that was asked for.
#[derive(Default)]
pub(crate) struct AttachSlots {
    by_image: Mutex<BTreeMap<ImageId, AttachSlot>>,
    pub(super) changed: Condvar,
    /// The number of attached scratch images that hold each immutable image.
    bases: Mutex<BTreeMap<ImageId, (usize, ImageLock)>>,
    /// Held while one of them is taken, and its lock is not: taking one may ask for all.
    pub(super) taking_base: Mutex<()>,
}

/// A place of an image among those that are attached.
pub(super) struct AttachSlot {
    pub(super) owner: OwnerId,
    /// The time of its content, once it is open.
    pub(super) changed: Option<ContentTime>,
    /// Gives nothing while the disk is being opened, and once its last user has gone.
    pub(super) disk: Weak<AttachedDisk>,
}

impl AttachSlots {
    pub(super) fn lock_slots(&self) -> MutexGuard<'_, BTreeMap<ImageId, AttachSlot>> {
        self.by_image.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock_bases(&self) -> MutexGuard<'_, BTreeMap<ImageId, (usize, ImageLock)>> {
        self.bases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All disks that are attached now. They are dropped outside of the lock: the last user's drop
    /// takes it.
    pub(super) fn attached_disks(&self) -> Vec<Arc<AttachedDisk>> {
        self.lock_slots()
            .values()
            .filter_map(|slot| slot.disk.upgrade())
            .collect()
    }

    /// Waits until `image` is not being detached.
    pub(crate) fn await_one(&self, image: ImageId) {
        let is_leaving = |slots: &mut BTreeMap<ImageId, AttachSlot>| {
            let slot = slots.get(&image);
            slot.is_some_and(|slot| slot.changed.is_some() && slot.disk.strong_count() == 0)
        };
        drop(
            self.changed
                .wait_while(self.lock_slots(), is_leaving)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Waits for the disks that are being detached, and so flushed, at this moment.
    pub(super) fn await_detached(&self) {
        let is_detached = |slots: &BTreeMap<ImageId, AttachSlot>, image: &ImageId| {
            slots
                .get(image)
                .is_none_or(|slot| slot.disk.strong_count() > 0)
        };
        let mut locked = self.lock_slots();
        let mut leaving: Vec<ImageId> = locked.keys().copied().collect();
        loop {
            leaving.retain(|image| !is_detached(&locked, image));
            if leaving.is_empty() {
                return;
            }
            locked = self
                .changed
                .wait(locked)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}
