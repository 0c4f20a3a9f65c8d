//! Attached disks, each with the one writer of its image, and the modes that say how images may be
//! attached.
//!
//! An attached disk belongs to the object that attached it (its *owner*, one set of exports): all
//! its clients share the one disk, and nobody else may write to the image, unless it is shareable.
//! An attached image is busy for everybody who would change it as a whole: deleting, restoring,
//! resizing it, or giving it another mode is refused. Snapshots, and children of it, can be made:
//! what its guest was told is written is flushed first, so they have it.
//!
//! **The last user's drop detaches a disk**: it is flushed, then released. Until that is done the
//! image's slot stays taken, and a client that wants to attach it waits for that: a client that
//! comes right back finds its disk, not an error.
//!
//! **A scratch image** is attached when its guest first writes ([`crate::late`]). Meanwhile all of
//! an immutable image's attached scratch images together hold that image. A guest that is switched
//! off ([`Device::guest_left`]) ends its session as its disk is detached; one whose connection or
//! server ends does not.

pub(crate) mod slots;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use vellum_core::device::{AllocationStatus, Device, DeviceError, TypedRange};
use vellum_core::tree::{Image, Mode, NodeRef, PlanError, ScratchUse, ScratchView, Tree};
use vellum_core::units::{ImageId, MachineId};

use crate::chunks::sync::lock_unpoisoned;
use crate::clock::now_ms;
use crate::error::StoreError;
use crate::live::LiveDisk;
use crate::live::content_time::ContentTime;
use crate::store::Store;
use crate::store::holds::ImageLock;
use slots::AttachSlot;

/// Identity of an owner, which attaches disks and shares them among its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnerId(pub(crate) u64);

/// Purpose for which a user attaches a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttachIntent {
    Read,
    Write,
}

/// A disk that is attached for writing. Its fields are dropped in this order: the slot is free when
/// everything else is.
pub(crate) struct AttachedDisk {
    disk: LiveDisk,
    is_shareable: bool,
    /// Held shared by writes while they go on; held exclusively by an operation that must see none.
    gate: RwLock<()>,
    /// Of a scratch image: its immutable image, and whether its guest was switched off.
    scratch: Option<ScratchHold>,
    _slot: TakenSlot,
}

/// A part in holding an immutable image.
struct ScratchHold {
    store: Store,
    base: ImageId,
    is_left: AtomicBool,
}

/// An entry of [`AttachSlots`].
struct TakenSlot {
    store: Store,
    image: ImageId,
}

impl Store {
    /// Switches `machine` on: what was written to its immutable disks goes, unless it is to stay.
    /// None of these may be attached.
    pub fn start_machine(&self, machine: MachineId) -> Result<(), StoreError> {
        let _exclusive = self.exclusive_scratches(machine)?;
        self.change_with(|tree| Ok::<_, PlanError>(((), tree.plan_start(machine, now_ms())?)))
    }

    /// Switches `machine` off: the next guest that writes to one of its immutable disks starts
    /// afresh.
    pub fn stop_machine(&self, machine: MachineId) -> Result<(), StoreError> {
        self.commit_edits(|tree| tree.plan_stop(machine))
    }

    /// The right to change what `machine` wrote to its immutable disks.
    pub(crate) fn exclusive_scratches(
        &self,
        machine: MachineId,
    ) -> Result<Vec<ImageLock>, StoreError> {
        let scratches = self.scratches_of_machine(machine)?;
        scratches
            .into_iter()
            .map(|scratch| self.lock_image(scratch))
            .collect()
    }

    /// The images with what `machine` wrote to its immutable disks.
    pub(crate) fn scratches_of_machine(
        &self,
        machine: MachineId,
    ) -> Result<Vec<ImageId>, StoreError> {
        let disks = self.get_machine(machine)?.disks;
        let tree = self.tree();
        let scratch = |disk: ImageId| {
            let using = ScratchUse {
                base: disk,
                machine: Some(machine),
            };
            tree.scratch_for(using).map(|scratch| scratch.id)
        };
        Ok(disks.into_iter().filter_map(scratch).collect())
    }

    /// Gives `image` another mode. It must not be attached, nor be changed by anything else.
    pub fn set_mode(&self, image: ImageId, mode: Mode) -> Result<(), StoreError> {
        let _exclusive = self.lock_image(image)?;
        self.commit_edits(|tree| tree.plan_mode(image, mode))
    }

    /// Forgets what was written to the immutable image `image`, which must not be attached.
    pub fn reset_scratch(&self, image: ImageId) -> Result<(), StoreError> {
        let _exclusive = self.lock_image(image)?;
        self.change_with(|tree| Ok::<_, PlanError>(((), tree.plan_reset(image, now_ms())?)))
    }

    /// Attaches `image` for writing, or gives the disk that `owner` has attached already. Waits for
    /// one that is being detached.
    pub(crate) fn attach_disk(
        &self,
        image: ImageId,
        owner: OwnerId,
        to: AttachIntent,
    ) -> Result<Arc<AttachedDisk>, StoreError> {
        if let Some(disk) = self.attached_or_taken(image, owner, to)? {
            return Ok(disk);
        }
        let slot = TakenSlot {
            store: self.clone(),
            image,
        };
        self.attach_in(image, slot, None)
    }

    fn attach_in(
        &self,
        image: ImageId,
        slot: TakenSlot,
        scratch: Option<ScratchHold>,
    ) -> Result<Arc<AttachedDisk>, StoreError> {
        let disk = Arc::new(self.open_attached(image, slot, scratch)?);
        let slots = &self.inner.slots;
        slots.lock_slots().entry(image).and_modify(|slot| {
            slot.disk = Arc::downgrade(&disk);
            slot.changed = Some(disk.disk.content_time().clone());
        });
        slots.changed.notify_all();
        Ok(disk)
    }

    /// The attached disk, if `owner` may use it; or nothing, and the slot is taken for it.
    fn attached_or_taken(
        &self,
        image: ImageId,
        owner: OwnerId,
        to: AttachIntent,
    ) -> Result<Option<Arc<AttachedDisk>>, StoreError> {
        let slots = &self.inner.slots;
        let mut locked = slots.lock_slots();
        let (found, its_owner) = loop {
            let Some(slot) = locked.get(&image) else {
                locked.insert(
                    image,
                    AttachSlot {
                        owner,
                        changed: None,
                        disk: Weak::new(),
                    },
                );
                return Ok(None);
            };
            match slot.disk.upgrade() {
                Some(disk) => break (disk, slot.owner),
                None => {
                    locked = slots
                        .changed
                        .wait(locked)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        };
        // Before `found` can be dropped: that may be the last.
        drop(locked);
        let is_shareable = self
            .tree()
            .image(image)
            .is_some_and(|image| image.mode == Mode::Shareable);
        if its_owner == owner || to == AttachIntent::Read || is_shareable {
            return Ok(Some(found));
        }
        Err(StoreError::Attached(
            self.tree().display_name(NodeRef::Image(image)),
        ))
    }

    fn open_attached(
        &self,
        image: ImageId,
        slot: TakenSlot,
        scratch: Option<ScratchHold>,
    ) -> Result<AttachedDisk, StoreError> {
        let mode = self.tree().image(image).ok_or(PlanError::Gone)?.mode;
        let disk = self.open_live(image)?;
        if scratch.is_none() {
            // It may have got another mode just before this made that impossible.
            self.tree().check_changes(image)?;
        }
        Ok(AttachedDisk {
            disk,
            is_shareable: mode == Mode::Shareable,
            gate: RwLock::default(),
            scratch,
            _slot: slot,
        })
    }

    /// Attaches the scratch image for `using`, for a guest that has read what `seen` says and now
    /// writes. It is made, or emptied, if it has to be.
    pub(crate) fn attach_scratch(
        &self,
        using: ScratchUse,
        seen: ScratchView,
        owner: OwnerId,
    ) -> Result<Arc<AttachedDisk>, StoreError> {
        let hold = self.hold_base(using.base)?;
        let plan = |tree: &mut Tree| {
            let is_immutable = |image: &Image| matches!(image.mode, Mode::Immutable { .. });
            if !tree.image(using.base).is_some_and(is_immutable) {
                return Err(PlanError::Gone);
            }
            tree.plan_scratch(using, Some(seen), now_ms())
        };
        let found = self.tree().scratch_for(using).map(|scratch| scratch.id);
        let (scratch, is_new) = match found {
            Some(scratch) => (scratch, false),
            None => (self.plan_and_commit(plan)?.image_id(), true),
        };
        if let Some(disk) = self.attached_or_taken(scratch, owner, AttachIntent::Write)? {
            return Ok(disk);
        }
        let slot = TakenSlot {
            store: self.clone(),
            image: scratch,
        };
        if !is_new {
            // Under the slot: nobody has it attached while it is emptied.
            self.plan_and_commit(plan)?;
        }
        self.attach_in(scratch, slot, Some(hold))
    }

    /// The right that nobody else changes the immutable image `base`, shared by its scratch images.
    fn hold_base(&self, base: ImageId) -> Result<ScratchHold, StoreError> {
        let slots = &self.inner.slots;
        let _taking = lock_unpoisoned(&slots.taking_base);
        let is_held = slots
            .lock_bases()
            .get_mut(&base)
            .map(|(count, _)| *count += 1)
            .is_some();
        if !is_held {
            let exclusive = self.lock_image(base)?;
            slots.lock_bases().insert(base, (1, exclusive));
        }
        Ok(ScratchHold {
            store: self.clone(),
            base,
            is_left: AtomicBool::new(false),
        })
    }

    /// True if somebody has attached `image`, or writes to it through another.
    pub(crate) fn is_attached(&self, image: ImageId) -> bool {
        self.inner
            .slots
            .attached_disks()
            .iter()
            .any(|disk| disk.disk.image() == image)
            || self.inner.slots.lock_bases().contains_key(&image)
    }

    /// The images that somebody has attached, or writes to through others.
    #[must_use]
    pub fn attached_images(&self) -> BTreeSet<ImageId> {
        let disks = self.inner.slots.attached_disks();
        let images = disks.iter().map(|disk| disk.disk.image());
        let bases: Vec<ImageId> = self.inner.slots.lock_bases().keys().copied().collect();
        images.chain(bases).collect()
    }

    /// The time when the content of the disk that is attached as `image` last changed, in
    /// nanoseconds since 1970; none if none is.
    pub(crate) fn attached_changed_ns(&self, image: ImageId) -> Option<u64> {
        let slots = self.inner.slots.lock_slots();
        let changed = slots.get(&image)?.changed.as_ref();
        changed.map(ContentTime::changed_ns)
    }

    /// Makes what guests have written to attached disks part of their images, where whoever looks
    /// at the store sees it. Cost: as for a flush of each, nothing if nothing waits.
    pub fn flush_attached(&self) -> Result<(), StoreError> {
        self.inner
            .slots
            .attached_disks()
            .iter()
            .try_for_each(|disk| disk.disk.flush())?;
        self.inner.slots.await_detached();
        Ok(())
    }

    /// As [`Store::with_still`], for all that are attached.
    pub(crate) fn with_all_still<T>(
        &self,
        act: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let images: Vec<ImageId> = self
            .inner
            .slots
            .attached_disks()
            .iter()
            .map(|disk| disk.disk.image())
            .collect();
        self.with_still(&images, act)
    }

    /// Does `act` while no attached disk of `images` takes a write, and all that was written to
    /// them is flushed.
    ///
    /// The disks are held in the order of their images, so that two who do this never wait for each
    /// other.
    pub(crate) fn with_still<T>(
        &self,
        images: &[ImageId],
        act: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut disks = self.inner.slots.attached_disks();
        disks.retain(|disk| images.contains(&disk.disk.image()));
        disks.sort_by_key(|disk| disk.disk.image());
        // Most of the work is done before anybody has to wait for it.
        disks.iter().try_for_each(|disk| disk.disk.flush())?;
        let _still: Vec<_> = disks.iter().map(|disk| disk.close_gate()).collect();
        disks.iter().try_for_each(|disk| disk.disk.flush())?;
        act()
    }
}

impl AttachedDisk {
    fn pass_gate(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes whether the guest that wrote is switched off.
    fn set_left(&self, is_left: bool) {
        if let Some(scratch) = &self.scratch {
            scratch.is_left.store(is_left, Ordering::Relaxed);
        }
    }

    fn close_gate(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AttachedDisk {
    fn drop(&mut self) {
        // Whoever had to know whether it is durable has asked for a flush, and was told.
        let _ = self.disk.flush();
        if self.scratch.as_ref().is_some_and(ScratchHold::is_left) {
            let (store, image) = (self.disk.store(), self.disk.image());
            // If that fails, the next guest finds what this one wrote: nothing is lost.
            let _ = store.commit_edits(|tree| Ok::<_, PlanError>(tree.plan_session_end(image)));
        }
    }
}

impl ScratchHold {
    fn is_left(&self) -> bool {
        self.is_left.load(Ordering::Relaxed)
    }
}

impl Drop for ScratchHold {
    fn drop(&mut self) {
        let mut bases = self.store.inner.slots.lock_bases();
        if let Some((count, _)) = bases.get_mut(&self.base) {
            *count -= 1;
            if *count == 0 {
                bases.remove(&self.base);
            }
        }
    }
}

impl Drop for TakenSlot {
    fn drop(&mut self) {
        let slots = &self.store.inner.slots;
        slots.lock_slots().remove(&self.image);
        slots.changed.notify_all();
    }
}

impl Device for AttachedDisk {
    fn len(&self) -> u64 {
        Device::len(&self.disk)
    }

    fn is_read_only(&self) -> bool {
        self.disk.is_read_only()
    }

    fn is_shareable(&self) -> bool {
        self.is_shareable
    }

    fn preferred_len(&self) -> u32 {
        self.disk.preferred_len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        Device::read_at(&self.disk, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), DeviceError> {
        let _passed = self.pass_gate();
        self.set_left(false);
        Device::write_at(&self.disk, bytes, offset)
    }

    fn write_zeroes(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        let _passed = self.pass_gate();
        self.set_left(false);
        Device::write_zeroes(&self.disk, offset, len)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        Device::flush(&self.disk)
    }

    fn guest_left(&self) {
        self.set_left(true);
    }

    fn allocation(
        &self,
        offset: u64,
        len: u64,
        count_max: usize,
    ) -> Result<Vec<TypedRange<AllocationStatus>>, DeviceError> {
        Device::allocation(&self.disk, offset, len, count_max)
    }

    fn comparable(&self) -> Vec<String> {
        self.disk.comparable()
    }

    fn changes(
        &self,
        since: &str,
        offset: u64,
        len: u64,
        count_max: usize,
    ) -> Result<Vec<TypedRange<bool>>, DeviceError> {
        Device::changes(&self.disk, since, offset, len, count_max)
    }

    fn prefetch(&self, offset: u64, len: u64) {
        Device::prefetch(&self.disk, offset, len);
    }
}
