//! Restores an image or a machine to the state of a snapshot, and can keep the present state.

use std::collections::BTreeSet;

use vellum_core::name::Name;
use vellum_core::tree::{KeptDisk, Mode, NodeRef, PlanError, PresentState, ScratchUse, Tree};
use vellum_core::units::{ImageId, MachineId};

use crate::clock::now_ms;
use crate::error::StoreError;
use crate::store::Store;
use crate::store::holds::ImageLock;

/// Chooses the name of the snapshot that keeps the replaced state, if one is to be kept: called
/// while nothing can change.
type Keeping<'a> = dyn Fn(&Tree) -> Result<Option<Name>, PlanError> + 'a;

impl Store {
    /// Makes `image` as its snapshot `serial` is. All snapshots stay. The present state is kept as
    /// snapshot `save_as`, or goes.
    pub fn restore_snapshot(
        &self,
        image: ImageId,
        serial: u64,
        save_as: Option<&Name>,
    ) -> Result<NodeRef, StoreError> {
        self.go_back(image, serial, &|_| Ok(save_as.cloned()))
    }

    /// Restores as [`Store::restore_snapshot`], and keeps the present state: returns where.
    pub fn restore_keeping(
        &self,
        image: ImageId,
        serial: u64,
    ) -> Result<PresentState<NodeRef>, StoreError> {
        let kept = std::cell::OnceCell::new();
        self.go_back(image, serial, &|tree| {
            let state = tree.present_state(image)?;
            Ok(kept.get_or_init(|| state).needed_name().cloned())
        })?;
        Ok(kept.into_inner().expect("a restore asks where it is kept"))
    }

    fn go_back(
        &self,
        image: ImageId,
        serial: u64,
        keeping: &Keeping<'_>,
    ) -> Result<NodeRef, StoreError> {
        let _exclusive = self.lock_image(image)?;
        self.plan_and_commit(|tree| {
            let save_as = keeping(tree)?;
            tree.plan_restore(image, serial, save_as.as_ref(), now_ms())
        })
    }

    /// Makes a machine as its snapshot `serial` is: its set of disks, their content and modes, its
    /// configuration file. All its snapshots stay. The present state is kept as snapshot `save_as`,
    /// or goes. No disk that goes back may be attached.
    pub fn restore_machine(
        &self,
        machine: MachineId,
        serial: u64,
        save_as: Option<&Name>,
    ) -> Result<(), StoreError> {
        self.machine_goes_back(machine, serial, &|_| Ok(save_as.cloned()))
    }

    /// Restores as [`Store::restore_machine`], and keeps the present state: returns where.
    pub fn restore_machine_keeping(
        &self,
        machine: MachineId,
        serial: u64,
    ) -> Result<PresentState<u64>, StoreError> {
        let kept = std::cell::OnceCell::new();
        self.machine_goes_back(machine, serial, &|tree| {
            let state = tree.present_machine_state(machine)?;
            Ok(kept.get_or_init(|| state).needed_name().cloned())
        })?;
        Ok(kept.into_inner().expect("a restore asks where it is kept"))
    }

    /// The image whose content changes as `kept` comes back: of an immutable one its machine's
    /// scratch image, if there is one.
    fn restored_image(&self, machine: MachineId, kept: &KeptDisk) -> Option<ImageId> {
        let tree = self.tree();
        let immutable = |mode| matches!(mode, Mode::Immutable { .. });
        if !immutable(kept.mode) || !immutable(tree.image(kept.image)?.mode) {
            return Some(kept.image);
        }
        let using = ScratchUse {
            base: kept.image,
            machine: Some(machine),
        };
        tree.scratch_for(using).map(|scratch| scratch.id)
    }

    fn machine_goes_back(
        &self,
        machine: MachineId,
        serial: u64,
        keeping: &Keeping<'_>,
    ) -> Result<(), StoreError> {
        let kept = self
            .tree()
            .machines()
            .snapshot_with_serial(machine, serial)
            .map(|snapshot| snapshot.disks.clone())
            .unwrap_or_default();
        let _exclusive = kept
            .iter()
            .filter(|disk| disk.snapshot.is_some())
            .filter_map(|disk| self.restored_image(machine, disk))
            .chain(self.scratches_of_machine(machine)?)
            .collect::<BTreeSet<ImageId>>()
            .into_iter()
            .map(|image| self.lock_image(image))
            .collect::<Result<Vec<ImageLock>, _>>()?;
        let kept: Vec<ImageId> = kept.iter().map(|disk: &KeptDisk| disk.image).collect();
        // Those that leave the machine may be in use, and are kept as they are at one moment.
        let mut leaving = self.get_machine(machine)?.disks;
        leaving.retain(|disk| !kept.contains(disk));
        self.with_still(&leaving, || {
            self.change_with(|tree: &mut Tree| {
                let save_as = keeping(tree)?;
                let edits =
                    tree.plan_machine_restore(machine, serial, save_as.as_ref(), now_ms())?;
                Ok::<_, StoreError>(((), edits))
            })
        })
    }
}
