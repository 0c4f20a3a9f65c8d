//! Plans changes of machines: always as one list of edits, so that all disks change at once or none
//! does.
//!
//! A snapshot keeps the content and the mode of normal and immutable disks, by a snapshot of each
//! image that has the machine snapshot's name (`SNAPSHOT+MACHINE`, if another machine's snapshot of
//! the same image has it). That of an immutable disk is what its guest saw: with what was written.
//! Those belong to it: they go when it goes and not before, and neither can their images. Disks of
//! other modes take no part; they are only remembered as having been there.
//!
//! Restoring makes the machine's set of disks the earlier one. A disk that joined since leaves the
//! machine and stays an image; one that left comes back. What was written to an immutable disk is
//! again what it was, and that is what the machine starts with from then on.

use std::sync::Arc;

use super::machine::{
    CONFIGURATION_LEN_MAX, Configuration, DISKS_MAX, KeptDisk, VirtualMachine,
    VirtualMachineSnapshot,
};
use super::{Image, Layer, Mode, NodePlan, NodeRef, PlanError, ScratchUse, Tree, TreeEdit};
use crate::name::Name;
use crate::units::{ConfigurationId, ImageId, MachineId};

/// A configuration file to be kept: no more than [`CONFIGURATION_LEN_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewConfiguration(Arc<[u8]>);

impl NewConfiguration {
    /// `bytes`, if they are not too many.
    pub fn new(bytes: &[u8]) -> Result<Self, PlanError> {
        if bytes.len() > CONFIGURATION_LEN_MAX {
            Err(PlanError::ConfigurationTooLong(bytes.len() as u64))
        } else {
            Ok(Self(bytes.into()))
        }
    }
}

impl Tree {
    /// A new machine without disks.
    pub fn plan_machine(
        &mut self,
        name: &Name,
        configuration: Option<NewConfiguration>,
        now_ms: u64,
    ) -> Result<(MachineId, Vec<TreeEdit>), PlanError> {
        if self.machines().machine_named(name).is_some() {
            return Err(PlanError::NameTaken(format!("machine {name}")));
        }
        let id = MachineId(self.allocate_id());
        let (configuration, mut edits) = self.plan_configuration(configuration);
        edits.push(TreeEdit::PutMachine(VirtualMachine {
            id,
            name: name.clone(),
            disks: Vec::new(),
            configuration,
            created_ms: now_ms,
            started_ms: None,
        }));
        Ok((id, edits))
    }

    pub(super) fn plan_configuration(
        &mut self,
        new: Option<NewConfiguration>,
    ) -> (Option<Configuration>, Vec<TreeEdit>) {
        let Some(NewConfiguration(bytes)) = new else {
            return (None, Vec::new());
        };
        let configuration = Configuration {
            id: ConfigurationId(self.allocate_id()),
            len: bytes.len() as u64,
        };
        (
            Some(configuration),
            vec![TreeEdit::PutConfiguration(configuration.id, bytes)],
        )
    }

    /// Gives a machine another configuration file, or none. Its snapshots keep theirs.
    pub fn plan_configure(
        &mut self,
        machine: MachineId,
        new: Option<NewConfiguration>,
    ) -> Result<Vec<TreeEdit>, PlanError> {
        let machine = self.require_machine(machine)?.clone();
        let (configuration, mut edits) = self.plan_configuration(new);
        edits.extend(self.plan_forget(machine.id, machine.configuration, None));
        edits.push(TreeEdit::PutMachine(VirtualMachine {
            configuration,
            ..machine
        }));
        Ok(edits)
    }

    /// Removes `configuration`, which the machine or its snapshot `going` had, if no other snapshot
    /// of it has it.
    fn plan_forget(
        &self,
        machine: MachineId,
        configuration: Option<Configuration>,
        going: Option<u64>,
    ) -> Option<TreeEdit> {
        let configuration = configuration?;
        let mut others = self
            .machines()
            .snapshots_of(machine)
            .filter(|snapshot| Some(snapshot.serial) != going);
        let is_kept = others.any(|snapshot| snapshot.configuration == Some(configuration));
        (!is_kept).then_some(TreeEdit::DropConfiguration(configuration.id))
    }

    /// Removes a machine, and its snapshots if `with_snapshots`. Its disks stay as images.
    pub fn plan_delete_machine(
        &self,
        id: MachineId,
        with_snapshots: bool,
    ) -> Result<Vec<TreeEdit>, PlanError> {
        let machine = self.require_machine(id)?;
        let count = self.machines().snapshots_of(id).count();
        if count > 0 && !with_snapshots {
            return Err(PlanError::HasSnapshots {
                owner: format!("machine {}", machine.name),
                count,
            });
        }
        let partings = machine.disks.iter();
        let mut edits: Vec<TreeEdit> = partings
            .filter_map(|disk| self.plan_scratch_parting(*disk, id))
            .collect();
        let mut configurations: Vec<ConfigurationId> = machine
            .configuration
            .iter()
            .map(|configuration| configuration.id)
            .collect();
        for snapshot in self.machines().snapshots_of(id) {
            edits.extend(self.plan_drop_kept(snapshot)?);
            configurations.extend(snapshot.configuration.map(|configuration| configuration.id));
        }
        configurations.sort_unstable();
        configurations.dedup();
        edits.extend(configurations.into_iter().map(TreeEdit::DropConfiguration));
        edits.push(TreeEdit::DropMachine(id));
        Ok(edits)
    }

    /// Adds `image` to a machine's disks, as the last. Of a multiattach image the machine gets a
    /// child, `IMAGE+MACHINE`, made if there is none. The image that was added is returned.
    pub fn plan_add_disk(
        &mut self,
        machine: MachineId,
        image: ImageId,
        now_ms: u64,
    ) -> Result<(ImageId, Vec<TreeEdit>), PlanError> {
        let mut machine = self.require_machine(machine)?.clone();
        let image = self.image(image).ok_or(PlanError::Gone)?.clone();
        self.check_own(image.id)?;
        if machine.disks.len() >= DISKS_MAX {
            return Err(PlanError::TooManyDisks(machine.name.to_string()));
        }
        let (disk, mut edits) = if image.mode == Mode::Multiattach {
            self.plan_own_child(&machine, &image, now_ms)?
        } else {
            (image.id, Vec::new())
        };
        if machine.disks.contains(&disk) {
            return Err(PlanError::InMachine {
                image: self.display_name(NodeRef::Image(disk)),
                machine: machine.name.to_string(),
            });
        }
        let mode = self.image(disk).map_or(Mode::Normal, |disk| disk.mode);
        self.check_usable(disk, mode, &machine)?;
        edits.extend(self.plan_scratch_adoption(disk, machine.id));
        machine.disks.push(disk);
        edits.push(TreeEdit::PutMachine(machine));
        Ok((disk, edits))
    }

    fn plan_own_child(
        &mut self,
        machine: &VirtualMachine,
        base: &Image,
        now_ms: u64,
    ) -> Result<(ImageId, Vec<TreeEdit>), PlanError> {
        let name = self.attached_name(base, machine.name.as_str())?;
        match self.image_named(&name) {
            Some(child) if child.origin == Some(base.id) => Ok((child.id, Vec::new())),
            _ => self
                .plan_attached_child(base.id, &name, now_ms)
                .map(|planned| (planned.node.image_id(), planned.edits)),
        }
    }

    /// Takes `image` out of a machine's disks; it stays an image.
    pub fn plan_remove_disk(
        &self,
        machine: MachineId,
        image: ImageId,
    ) -> Result<Vec<TreeEdit>, PlanError> {
        let mut machine = self.require_machine(machine)?.clone();
        let count = machine.disks.len();
        machine.disks.retain(|disk| *disk != image);
        if machine.disks.len() == count {
            return Err(PlanError::NotInMachine {
                image: self.display_name(NodeRef::Image(image)),
                machine: machine.name.to_string(),
            });
        }
        let parting = self.plan_scratch_parting(image, machine.id);
        let edits = parting.into_iter().chain([TreeEdit::PutMachine(machine)]);
        Ok(edits.collect())
    }

    /// A machine is switched on: what was written to its immutable disks goes, unless it is to stay
    /// until it is reset.
    pub fn plan_start(&mut self, id: MachineId, now_ms: u64) -> Result<Vec<TreeEdit>, PlanError> {
        let machine = self.require_machine(id)?.clone();
        if machine.started_ms.is_some() {
            return Err(PlanError::Runs(machine.name.to_string()));
        }
        let mut edits = Vec::new();
        for disk in &machine.disks {
            let image = self.image(*disk).ok_or(PlanError::Gone)?.clone();
            let scratch = self.scratch_for(used_by(id, *disk)).cloned();
            let Some(scratch) = scratch else { continue };
            if image.mode == (Mode::Immutable { autoreset: true }) {
                edits.extend(self.plan_scratch_reset(&image, scratch, now_ms)?);
            }
        }
        edits.push(TreeEdit::PutMachine(VirtualMachine {
            started_ms: Some(now_ms),
            ..machine
        }));
        Ok(edits)
    }

    /// A machine is switched off: the session of its immutable disks is over.
    pub fn plan_stop(&self, id: MachineId) -> Result<Vec<TreeEdit>, PlanError> {
        let machine = self.require_machine(id)?.clone();
        if machine.started_ms.is_none() {
            return Err(PlanError::RunsNot(machine.name.to_string()));
        }
        let scratches = machine.disks.iter();
        let mut edits: Vec<TreeEdit> = scratches
            .filter_map(|disk| self.scratch_for(used_by(id, *disk)))
            .map(|scratch| {
                TreeEdit::PutImage(Image {
                    is_over: true,
                    ..scratch.clone()
                })
            })
            .collect();
        edits.push(TreeEdit::PutMachine(VirtualMachine {
            started_ms: None,
            ..machine
        }));
        Ok(edits)
    }

    /// A snapshot of all disks of a machine as they are now.
    pub fn plan_machine_snapshot(
        &mut self,
        id: MachineId,
        name: &Name,
        now_ms: u64,
    ) -> Result<(u64, Vec<TreeEdit>), PlanError> {
        let machine = self.require_machine(id)?.clone();
        if self.machines().snapshot_named(id, name).is_some() {
            return Err(PlanError::NameTaken(format!(
                "machine snapshot {}@{name}",
                machine.name
            )));
        }
        let (mut disks, mut edits) = (Vec::with_capacity(machine.disks.len()), Vec::new());
        for disk in machine.disks.iter().copied() {
            let mode = self.image(disk).ok_or(PlanError::Gone)?.mode;
            let mut kept = KeptDisk {
                image: disk,
                mode,
                snapshot: None,
            };
            if mode.is_kept() {
                let planned = self.plan_disk_snapshot(&machine.name, id, disk, name, now_ms)?;
                kept.snapshot = if let NodeRef::Snapshot(_, serial) = planned.node {
                    Some(serial)
                } else {
                    None
                };
                edits.extend(planned.edits);
            }
            disks.push(kept);
        }
        let serial = self.allocate_id();
        let configuration = machine.configuration;
        edits.push(TreeEdit::PutMachineSnapshot(VirtualMachineSnapshot {
            machine: id,
            serial,
            name: name.clone(),
            disks,
            configuration,
            created_ms: now_ms,
        }));
        Ok((serial, edits))
    }

    /// A snapshot of `disk` as the guest of machine `id` sees it.
    fn plan_disk_snapshot(
        &mut self,
        machine: &Name,
        id: MachineId,
        disk: ImageId,
        name: &Name,
        now_ms: u64,
    ) -> Result<NodePlan, PlanError> {
        let image = self.image(disk).ok_or(PlanError::Gone)?;
        if !matches!(image.mode, Mode::Immutable { .. }) {
            return self.plan_image_snapshot(disk, name, now_ms);
        }
        let name = match self.check_snapshot_free(disk, name) {
            Err(taken) if self.machines().machines_using(disk).count() > 1 => {
                Name::new(&format!("{name}+{machine}")).map_err(|_| taken)?
            }
            free => free.map(|()| name.clone())?,
        };
        let view = self.scratch_view(used_by(id, disk))?;
        self.plan_named_snapshot(disk, view.node, &name, now_ms)
    }

    /// Makes a machine as its snapshot `serial` is. All its snapshots stay. The present state is
    /// kept as snapshot `save_as`, or goes.
    pub fn plan_machine_restore(
        &mut self,
        id: MachineId,
        serial: u64,
        save_as: Option<&Name>,
        now_ms: u64,
    ) -> Result<Vec<TreeEdit>, PlanError> {
        let target = self
            .machines()
            .snapshot_with_serial(id, serial)
            .ok_or(PlanError::Gone)?
            .clone();
        let machine = self.require_machine(id)?.clone();
        let mut edits = match save_as {
            Some(name) => self.plan_machine_snapshot(id, name, now_ms)?.1,
            None => Vec::new(),
        };
        for disk in &target.disks {
            let mode = self.image(disk.image).ok_or(PlanError::Gone)?.mode;
            self.check_usable(
                disk.image,
                if disk.snapshot.is_some() {
                    disk.mode
                } else {
                    mode
                },
                &machine,
            )?;
            let restored = self.plan_restore_kept(id, disk, now_ms)?;
            let restored = self.on_top_of(&edits, restored);
            edits.extend(restored);
        }
        let stays = |disk: &ImageId| target.disks.iter().any(|kept| kept.image == *disk);
        let leaving = machine.disks.iter().filter(|disk| !stays(disk));
        let partings: Vec<TreeEdit> = leaving
            .filter_map(|disk| self.plan_scratch_parting(*disk, id))
            .collect();
        let partings = self.on_top_of(&edits, partings);
        edits.extend(partings);
        let is_kept = save_as.is_some() || machine.configuration == target.configuration;
        edits.extend(if is_kept {
            None
        } else {
            self.plan_forget(id, machine.configuration, None)
        });
        let disks = target.disks.iter().map(|disk| disk.image).collect();
        edits.push(TreeEdit::PutMachine(VirtualMachine {
            disks,
            configuration: target.configuration,
            ..machine
        }));
        Ok(edits)
    }

    /// `later`, which were planned without knowing of `edits`: an image whose layer they leave
    /// alone keeps the one that `edits` give it.
    fn on_top_of(&self, edits: &[TreeEdit], mut later: Vec<TreeEdit>) -> Vec<TreeEdit> {
        let put = |id: ImageId| {
            edits.iter().rev().find_map(|edit| match edit {
                TreeEdit::PutImage(image) if image.id == id => Some(image.layer),
                _ => None,
            })
        };
        for edit in &mut later {
            let TreeEdit::PutImage(image) = edit else {
                continue;
            };
            let is_left = self
                .image(image.id)
                .is_some_and(|now| now.layer == image.layer);
            if let Some(layer) = put(image.id).filter(|_| is_left) {
                image.layer = layer;
            }
        }
        later
    }

    /// Makes a disk of machine `id` as `kept` says. Its image gets no new layer if it is as it was.
    fn plan_restore_kept(
        &mut self,
        id: MachineId,
        kept: &KeptDisk,
        now_ms: u64,
    ) -> Result<Vec<TreeEdit>, PlanError> {
        let Some(serial) = kept.snapshot else {
            return Ok(Vec::new());
        };
        let image = self.image(kept.image).ok_or(PlanError::Gone)?.clone();
        let node = NodeRef::Snapshot(image.id, serial);
        let target = Layer::clone(self.layer_of(node).ok_or(PlanError::Gone)?);
        let immutable = |mode| matches!(mode, Mode::Immutable { .. });
        let mut restored = Image {
            mode: kept.mode,
            ..image.clone()
        };
        if immutable(kept.mode) && immutable(image.mode) {
            let mut edits = vec![TreeEdit::PutImage(restored)];
            edits.extend(self.plan_restore_scratch(id, &image, &target, now_ms)?);
            return Ok(edits);
        }
        let mut edits = Vec::new();
        if self.same_as_parent(&self.layers[&image.layer]) != Some(target.id) {
            let layer = self.blank_layer(Some(&target), target.len, now_ms);
            let layer = self.with_change_time(&image, layer);
            restored.layer = layer.id;
            edits.push(TreeEdit::PutLayer(layer));
        }
        edits.extend(self.plan_scratches_end(image.id));
        edits.push(TreeEdit::PutImage(restored));
        Ok(edits)
    }

    /// Makes what machine `id` sees of the immutable image `image` as the sealed layer `target` is.
    fn plan_restore_scratch(
        &mut self,
        id: MachineId,
        image: &Image,
        target: &Layer,
        now_ms: u64,
    ) -> Result<Vec<TreeEdit>, PlanError> {
        let adopted = || match self.plan_scratch_adoption(image.id, id) {
            Some(TreeEdit::PutImage(scratch)) => Some(scratch),
            _ => None,
        };
        let own = self.scratch_for(used_by(id, image.id)).cloned();
        match own.or_else(adopted) {
            Some(scratch) => Ok(self.plan_scratch_as(target, scratch, now_ms).into()),
            None if self.same_as_parent(&self.layers[&image.layer]) == Some(target.id) => {
                Ok(Vec::new())
            }
            None => Ok(self
                .plan_new_scratch(image, Some(id), Some(target), now_ms)?
                .edits),
        }
    }

    /// Removes a machine's snapshot, and the snapshots of its images that belong to it.
    pub fn plan_delete_machine_snapshot(
        &self,
        id: MachineId,
        serial: u64,
    ) -> Result<Vec<TreeEdit>, PlanError> {
        let snapshot = self
            .machines()
            .snapshot_with_serial(id, serial)
            .ok_or(PlanError::Gone)?;
        let mut edits = self.plan_drop_kept(snapshot)?;
        if self.require_machine(id)?.configuration != snapshot.configuration {
            edits.extend(self.plan_forget(id, snapshot.configuration, Some(serial)));
        }
        Ok(edits)
    }

    fn plan_drop_kept(
        &self,
        snapshot: &VirtualMachineSnapshot,
    ) -> Result<Vec<TreeEdit>, PlanError> {
        let mut edits = Vec::with_capacity(snapshot.disks.len() + 1);
        for (image, serial) in snapshot
            .disks
            .iter()
            .filter_map(|disk| Some((disk.image, disk.snapshot?)))
        {
            edits.extend(self.plan_drop_snapshot(image, serial)?);
        }
        edits.push(TreeEdit::DropMachineSnapshot(
            snapshot.machine,
            snapshot.serial,
        ));
        Ok(edits)
    }

    /// Fails if a machine's snapshot keeps snapshot `serial` of `image`.
    pub(super) fn check_not_kept(&self, image: ImageId, serial: u64) -> Result<(), PlanError> {
        let keeps = |keeper: &&VirtualMachineSnapshot| {
            keeper
                .disks
                .iter()
                .any(|disk| disk.image == image && disk.snapshot == Some(serial))
        };
        let keeper = self.machines().snapshots_keeping(image).find(keeps);
        keeper.map_or(Ok(()), |keeper| {
            let (node, machine) = (
                self.display_name(NodeRef::Snapshot(image, serial)),
                self.machines().snapshot_display_name(keeper),
            );
            Err(PlanError::Kept { node, machine })
        })
    }

    /// Fails if a machine or a machine's snapshot needs `image`.
    pub(super) fn check_unused(&self, image: &Image) -> Result<(), PlanError> {
        if let Some(machine) = self.machines().machines_using(image.id).next() {
            return Err(PlanError::InMachine {
                image: image.name.to_string(),
                machine: machine.name.to_string(),
            });
        }
        match self.machines().snapshots_keeping(image.id).next() {
            Some(keeper) => Err(PlanError::Kept {
                node: image.name.to_string(),
                machine: self.machines().snapshot_display_name(keeper),
            }),
            None => Ok(()),
        }
    }

    /// Fails if `machine` may not have `image`, in mode `mode`, among its disks: another one has
    /// it, and the mode is not for several.
    fn check_usable(
        &self,
        image: ImageId,
        mode: Mode,
        machine: &VirtualMachine,
    ) -> Result<(), PlanError> {
        match self
            .machines()
            .machines_using(image)
            .find(|user| user.id != machine.id)
        {
            Some(user) if !mode.is_for_several() => Err(PlanError::InMachine {
                image: self.display_name(NodeRef::Image(image)),
                machine: user.name.to_string(),
            }),
            _ => Ok(()),
        }
    }

    fn require_machine(&self, id: MachineId) -> Result<&VirtualMachine, PlanError> {
        self.machines().get(id).ok_or(PlanError::Gone)
    }
}

/// A machine's use of one of its disks, should that be immutable.
fn used_by(machine: MachineId, disk: ImageId) -> ScratchUse {
    ScratchUse {
        base: disk,
        machine: Some(machine),
    }
}
