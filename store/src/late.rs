//! Disks that are attached when they are first written: scratch images of immutable images, and
//! children of multiattach images that are not made yet.
//!
//! NBD clients do not say whether they will write, and many only look: nothing may be made or
//! emptied for them. Until somebody writes, such a disk shows what a guest would find; the first
//! write makes that true. All clients of one set of exports share it, so they see the same from the
//! first write on. Should what it shows have been replaced meanwhile (by `machine start`, by
//! `reset`), the write fails: its guest has read what is not there any more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use vellum_core::device::{AllocationStatus, Device, DeviceError, TypedRange};
use vellum_core::name::Name;
use vellum_core::tree::{NodePlan, NodeRef, PlanError, ScratchUse, ScratchView};
use vellum_core::units::ImageId;

use crate::attach::{AttachIntent, AttachedDisk, OwnerId};
use crate::chunks::sync::lock_unpoisoned;
use crate::clock::now_ms;
use crate::device::DiskDevice;
use crate::error::StoreError;
use crate::store::Store;

/// Those of one set of exports.
#[derive(Default)]
pub(crate) struct LateDisks {
    open: Mutex<BTreeMap<LateName, Weak<LateDisk>>>,
}

/// The key that tells them apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum LateName {
    Scratch(ScratchUse),
    Child(ImageId, Name),
}

/// One disk, for all its clients.
pub(crate) struct LateDisk {
    store: Store,
    owner: OwnerId,
    name: LateName,
    seen: ScratchView,
    shown: RwLock<LateDiskState>,
}

enum LateDiskState {
    Looked(Box<DiskDevice>),
    Attached(Arc<AttachedDisk>),
}

impl LateDisks {
    /// The disk for a use of an immutable image.
    pub(crate) fn scratch_disk(
        &self,
        store: &Store,
        owner: OwnerId,
        using: ScratchUse,
    ) -> Result<Arc<dyn Device>, StoreError> {
        self.share_disk(LateName::Scratch(using), || {
            // A guest that comes right back finds what was written, not what was flushed before.
            let scratch = store.tree().scratch_for(using).map(|scratch| scratch.id);
            if let Some(scratch) = scratch {
                store.inner.slots.await_one(scratch);
            }
            let seen = store.tree().scratch_view(using)?;
            LateDisk::open_to_look(store, owner, LateName::Scratch(using), seen, using.base)
        })
    }

    /// The disk for a child `name` of the multiattach image `base`.
    pub(crate) fn child_disk(
        &self,
        store: &Store,
        owner: OwnerId,
        base: ImageId,
        name: Name,
    ) -> Result<Arc<dyn Device>, StoreError> {
        let node = NodeRef::Image(base);
        let changed_ns = store
            .tree()
            .layer_of(node)
            .map_or(0, |layer| layer.changed_ns);
        let seen = ScratchView { node, changed_ns };
        let late = LateName::Child(base, name);
        self.share_disk(late.clone(), || {
            LateDisk::open_to_look(store, owner, late, seen, base)
        })
    }

    fn share_disk(
        &self,
        name: LateName,
        open: impl FnOnce() -> Result<LateDisk, StoreError>,
    ) -> Result<Arc<dyn Device>, StoreError> {
        if let Some(disk) = lock_unpoisoned(&self.open)
            .get(&name)
            .and_then(Weak::upgrade)
        {
            return Ok(disk);
        }
        // Outside of the lock: it may wait for the one before to be detached.
        let disk = Arc::new(open()?);
        let mut all = lock_unpoisoned(&self.open);
        if let Some(faster) = all.get(&name).and_then(Weak::upgrade) {
            drop(all);
            return Ok(faster);
        }
        all.retain(|_, disk| disk.strong_count() > 0);
        all.insert(name, Arc::downgrade(&disk));
        Ok(disk)
    }
}

impl LateDisk {
    fn open_to_look(
        store: &Store,
        owner: OwnerId,
        name: LateName,
        seen: ScratchView,
        base: ImageId,
    ) -> Result<Self, StoreError> {
        let disk = store.still_disk(seen.node)?;
        let device = if seen.node == NodeRef::Image(base) {
            DiskDevice::without_snapshots(store, disk)
        } else {
            DiskDevice::of_disk(store, seen.node.image_id(), disk)
        };
        Ok(Self {
            store: store.clone(),
            owner,
            name,
            seen,
            shown: RwLock::new(LateDiskState::Looked(Box::new(device))),
        })
    }

    fn read_state(&self) -> RwLockReadGuard<'_, LateDiskState> {
        self.shown.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn shown_mut(&self) -> RwLockWriteGuard<'_, LateDiskState> {
        self.shown.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk, attached.
    fn attached_disk(&self) -> Result<Arc<AttachedDisk>, DeviceError> {
        if let LateDiskState::Attached(disk) = &*self.read_state() {
            return Ok(Arc::clone(disk));
        }
        let mut shown = self.shown_mut();
        if let LateDiskState::Attached(disk) = &*shown {
            return Ok(Arc::clone(disk));
        }
        let disk = self.attach_now().map_err(first_write_error)?;
        *shown = LateDiskState::Attached(Arc::clone(&disk));
        Ok(disk)
    }

    fn attach_now(&self) -> Result<Arc<AttachedDisk>, StoreError> {
        match &self.name {
            LateName::Scratch(using) => self.store.attach_scratch(*using, self.seen, self.owner),
            LateName::Child(base, name) => {
                let made = self.store.plan_and_commit(|tree| {
                    match tree.image_named(name).map(|image| image.id) {
                        // Another was faster, or it is there by other means.
                        Some(image) => Ok(NodePlan {
                            edits: Vec::new(),
                            node: NodeRef::Image(image),
                        }),
                        None => tree.plan_attached_child(*base, name, now_ms()),
                    }
                })?;
                self.store
                    .attach_disk(made.image_id(), self.owner, AttachIntent::Write)
            }
        }
    }

    fn current_device(shown: &LateDiskState) -> &dyn Device {
        match shown {
            LateDiskState::Looked(device) => &**device,
            LateDiskState::Attached(disk) => &**disk,
        }
    }
}

/// The reason why a guest's first write failed.
fn first_write_error(error: StoreError) -> DeviceError {
    match error {
        StoreError::Plan(error @ PlanError::StartedAfresh(_)) => {
            DeviceError::Io(format!("{error}: connect again"))
        }
        other => other.into(),
    }
}

impl Device for LateDisk {
    fn len(&self) -> u64 {
        Self::current_device(&self.read_state()).len()
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn preferred_len(&self) -> u32 {
        Self::current_device(&self.read_state()).preferred_len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        Self::current_device(&self.read_state()).read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), DeviceError> {
        self.checked_range(offset, bytes.len() as u64)?;
        self.attached_disk()?.write_at(bytes, offset)
    }

    fn write_zeroes(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        self.checked_range(offset, len)?;
        self.attached_disk()?.write_zeroes(offset, len)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        Self::current_device(&self.read_state()).flush()
    }

    fn guest_left(&self) {
        Self::current_device(&self.read_state()).guest_left();
    }

    fn allocation(
        &self,
        offset: u64,
        len: u64,
        count_max: usize,
    ) -> Result<Vec<TypedRange<AllocationStatus>>, DeviceError> {
        Self::current_device(&self.read_state()).allocation(offset, len, count_max)
    }

    fn comparable(&self) -> Vec<String> {
        Self::current_device(&self.read_state()).comparable()
    }

    fn changes(
        &self,
        since: &str,
        offset: u64,
        len: u64,
        count_max: usize,
    ) -> Result<Vec<TypedRange<bool>>, DeviceError> {
        Self::current_device(&self.read_state()).changes(since, offset, len, count_max)
    }

    fn prefetch(&self, offset: u64, len: u64) {
        Self::current_device(&self.read_state()).prefetch(offset, len);
    }
}
