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

use vellum_core::device::{Allocation, Device, DeviceError, Stretch};
use vellum_core::name::Name;
use vellum_core::tree::{Node, PlanError, Planned, ScratchUse, ScratchView};
use vellum_core::units::ImageId;

use crate::attach::{AttachedDisk, OwnerId, Use};
use crate::chunks::pause::lock;
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
    shown: RwLock<Shown>,
}

enum Shown {
    Looked(Box<DiskDevice>),
    Attached(Arc<AttachedDisk>),
}

impl LateDisks {
    /// The disk for a use of an immutable image.
    pub(crate) fn scratch(
        &self,
        store: &Store,
        owner: OwnerId,
        using: ScratchUse,
    ) -> Result<Arc<dyn Device>, StoreError> {
        self.share(LateName::Scratch(using), || {
            // A guest that comes right back finds what was written, not what was flushed before.
            let scratch = store.tree().scratch_for(using).map(|scratch| scratch.id);
            if let Some(scratch) = scratch {
                store.inner.slots.await_one(scratch);
            }
            let seen = store.tree().scratch_view(using)?;
            LateDisk::look(store, owner, LateName::Scratch(using), seen, using.base)
        })
    }

    /// The disk for a child `name` of the multiattach image `base`.
    pub(crate) fn child(
        &self,
        store: &Store,
        owner: OwnerId,
        base: ImageId,
        name: Name,
    ) -> Result<Arc<dyn Device>, StoreError> {
        let node = Node::Image(base);
        let changed_ns = store
            .tree()
            .layer_of(node)
            .map_or(0, |layer| layer.changed_ns);
        let seen = ScratchView { node, changed_ns };
        let late = LateName::Child(base, name);
        self.share(late.clone(), || {
            LateDisk::look(store, owner, late, seen, base)
        })
    }

    fn share(
        &self,
        name: LateName,
        open: impl FnOnce() -> Result<LateDisk, StoreError>,
    ) -> Result<Arc<dyn Device>, StoreError> {
        if let Some(disk) = lock(&self.open).get(&name).and_then(Weak::upgrade) {
            return Ok(disk);
        }
        // Outside of the lock: it may wait for the one before to be detached.
        let disk = Arc::new(open()?);
        let mut all = lock(&self.open);
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
    fn look(
        store: &Store,
        owner: OwnerId,
        name: LateName,
        seen: ScratchView,
        base: ImageId,
    ) -> Result<Self, StoreError> {
        let disk = store.still_disk(seen.node)?;
        let device = if seen.node == Node::Image(base) {
            DiskDevice::without_snapshots(store, disk)
        } else {
            DiskDevice::of(store, seen.node.image(), disk)
        };
        Ok(Self {
            store: store.clone(),
            owner,
            name,
            seen,
            shown: RwLock::new(Shown::Looked(Box::new(device))),
        })
    }

    fn shown(&self) -> RwLockReadGuard<'_, Shown> {
        self.shown.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn shown_mut(&self) -> RwLockWriteGuard<'_, Shown> {
        self.shown.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk, attached.
    fn attached(&self) -> Result<Arc<AttachedDisk>, DeviceError> {
        if let Shown::Attached(disk) = &*self.shown() {
            return Ok(Arc::clone(disk));
        }
        let mut shown = self.shown_mut();
        if let Shown::Attached(disk) = &*shown {
            return Ok(Arc::clone(disk));
        }
        let disk = self.attach().map_err(refused)?;
        *shown = Shown::Attached(Arc::clone(&disk));
        Ok(disk)
    }

    fn attach(&self) -> Result<Arc<AttachedDisk>, StoreError> {
        match &self.name {
            LateName::Scratch(using) => self.store.attach_scratch(*using, self.seen, self.owner),
            LateName::Child(base, name) => {
                let made = self.store.change(|tree| {
                    match tree.image_named(name).map(|image| image.id) {
                        // Another was faster, or it is there by other means.
                        Some(image) => Ok(Planned {
                            edits: Vec::new(),
                            node: Node::Image(image),
                        }),
                        None => tree.plan_attached_child(*base, name, now_ms()),
                    }
                })?;
                self.store.attach(made.image(), self.owner, Use::Write)
            }
        }
    }

    fn device(shown: &Shown) -> &dyn Device {
        match shown {
            Shown::Looked(device) => &**device,
            Shown::Attached(disk) => &**disk,
        }
    }
}

/// The reason why a guest's first write failed.
fn refused(error: StoreError) -> DeviceError {
    match error {
        StoreError::Plan(error @ PlanError::StartedAfresh(_)) => {
            DeviceError::Io(format!("{error}: connect again"))
        }
        other => other.into(),
    }
}

impl Device for LateDisk {
    fn len(&self) -> u64 {
        Self::device(&self.shown()).len()
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn preferred_len(&self) -> u32 {
        Self::device(&self.shown()).preferred_len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        Self::device(&self.shown()).read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), DeviceError> {
        self.range(offset, bytes.len() as u64)?;
        self.attached()?.write_at(bytes, offset)
    }

    fn write_zeroes(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        self.range(offset, len)?;
        self.attached()?.write_zeroes(offset, len)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        Self::device(&self.shown()).flush()
    }

    fn guest_left(&self) {
        Self::device(&self.shown()).guest_left();
    }

    fn allocation(
        &self,
        offset: u64,
        len: u64,
        count_max: usize,
    ) -> Result<Vec<Stretch<Allocation>>, DeviceError> {
        Self::device(&self.shown()).allocation(offset, len, count_max)
    }

    fn comparable(&self) -> Vec<String> {
        Self::device(&self.shown()).comparable()
    }

    fn changes(
        &self,
        since: &str,
        offset: u64,
        len: u64,
        count_max: usize,
    ) -> Result<Vec<Stretch<bool>>, DeviceError> {
        Self::device(&self.shown()).changes(since, offset, len, count_max)
    }

    fn prefetch(&self, offset: u64, len: u64) {
        Self::device(&self.shown()).prefetch(offset, len);
    }
}
