//! Machines: several images that are changed in one batch. The tree decides the effect of a change;
//! here it is written.
//!
//! **A snapshot of a running machine** stops the writes of all its live disks together, flushes
//! them, and commits before any of them goes on. So it is consistent: whatever the order of a
//! guest's writes, on however many disks, the snapshot has exactly those up to one point in time.

use vellum_core::name::Name;
use vellum_core::tree::{
    Configuration, NewConfiguration, Tree, TreeEdit, VirtualMachine, VirtualMachineSnapshot,
};
use vellum_core::units::{ImageId, MachineId};

use crate::clock::now_ms;
use crate::error::StoreError;
use crate::keys::configuration_key;
use crate::records::ConfigurationFile;
use crate::store::Store;
use crate::stored_records::load_meta;

impl Store {
    /// A new machine without disks. A configuration file has at most
    /// [`vellum_core::tree::CONFIGURATION_LEN_MAX`] bytes.
    pub fn create_machine(
        &self,
        name: &Name,
        configuration: Option<&[u8]>,
    ) -> Result<MachineId, StoreError> {
        let configuration = configuration.map(NewConfiguration::new).transpose()?;
        self.change_with(|tree| tree.plan_machine(name, configuration, now_ms()))
    }

    /// Gives a machine another configuration file, or none. Its snapshots keep theirs.
    pub fn configure_machine(
        &self,
        machine: MachineId,
        configuration: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        let configuration = configuration.map(NewConfiguration::new).transpose()?;
        self.change_with(|tree| {
            Ok::<_, StoreError>(((), tree.plan_configure(machine, configuration)?))
        })
    }

    /// The bytes of a configuration file.
    pub fn read_configuration(&self, configuration: Configuration) -> Result<Vec<u8>, StoreError> {
        let what = format!("configuration file {}", configuration.id);
        let (file, _) = load_meta::<ConfigurationFile>(
            &self.inner.database,
            &configuration_key(configuration.id),
            &what,
        )?;
        let file = file.ok_or_else(|| StoreError::damaged_record(what, "it is gone"))?;
        Ok(file.0)
    }

    /// Deletes a machine, and its snapshots if `with_snapshots`; without, having some is an error.
    /// Its disks stay as images.
    pub fn delete_machine(
        &self,
        machine: MachineId,
        with_snapshots: bool,
    ) -> Result<(), StoreError> {
        let _exclusive = self.exclusive_scratches(machine)?;
        self.commit_edits(|tree| tree.plan_delete_machine(machine, with_snapshots))
    }

    /// Adds `image`, or a new child of it if it is a multiattach image, to a machine's disks;
    /// returns the image that was added.
    pub fn add_disk(&self, machine: MachineId, image: ImageId) -> Result<ImageId, StoreError> {
        self.change_with(|tree| tree.plan_add_disk(machine, image, now_ms()))
    }

    /// Takes an image out of a machine's disks. It stays an image.
    pub fn remove_disk(&self, machine: MachineId, image: ImageId) -> Result<(), StoreError> {
        let _exclusive = self.exclusive_scratches(machine)?;
        self.commit_edits(|tree| tree.plan_remove_disk(machine, image))
    }

    /// A snapshot of all disks of a machine at one moment, also while guests write to them; returns
    /// its serial. What each guest was told is written is in it.
    pub fn snapshot_machine(&self, machine: MachineId, name: &Name) -> Result<u64, StoreError> {
        let mut disks = self.get_machine(machine)?.disks;
        disks.extend(self.scratches_of_machine(machine)?);
        self.with_still(&disks, || {
            self.change_with(|tree| tree.plan_machine_snapshot(machine, name, now_ms()))
        })
    }

    /// Deletes a machine's snapshot, and the snapshots of its images that belong to it.
    pub fn delete_machine_snapshot(
        &self,
        machine: MachineId,
        serial: u64,
    ) -> Result<(), StoreError> {
        self.commit_edits(|tree| tree.plan_delete_machine_snapshot(machine, serial))
    }

    pub(crate) fn get_machine(&self, id: MachineId) -> Result<VirtualMachine, StoreError> {
        Ok(self
            .tree()
            .machines()
            .get(id)
            .cloned()
            .ok_or(vellum_core::tree::PlanError::Gone)?)
    }
}

/// Takes machines, and snapshots of them, out of `tree` that refer to what is not there; `found`
/// gets why.
pub(crate) fn drop_unsound(tree: &mut Tree, found: &mut Vec<StoreError>) {
    let mut edits = Vec::new();
    for machine in tree.machines().iter() {
        let record = || format!("machine {}", machine.name);
        let unsound = machine
            .disks
            .iter()
            .try_for_each(|disk| check_image(tree, *disk, record));
        if let Err(error) = unsound {
            found.push(error);
            edits.push(TreeEdit::DropMachine(machine.id));
        }
    }
    tree.apply_edits(&edits);
    edits.clear();
    for snapshot in tree.machines().all_snapshots() {
        if let Err(error) = check_snapshot(tree, snapshot) {
            found.push(error);
            edits.push(TreeEdit::DropMachineSnapshot(
                snapshot.machine,
                snapshot.serial,
            ));
        }
    }
    tree.apply_edits(&edits);
}

fn check_snapshot(tree: &Tree, snapshot: &VirtualMachineSnapshot) -> Result<(), StoreError> {
    let record = || {
        format!(
            "machine snapshot {}",
            tree.machines().snapshot_display_name(snapshot)
        )
    };
    if tree.machines().get(snapshot.machine).is_none() {
        return Err(StoreError::damaged_record(record(), "its machine is gone"));
    }
    for disk in &snapshot.disks {
        check_image(tree, disk.image, record)?;
        if disk
            .snapshot
            .is_some_and(|serial| tree.snapshot(disk.image, serial).is_none())
        {
            return Err(StoreError::damaged_record(
                record(),
                format!(
                    "a snapshot of image {} that it refers to is gone",
                    disk.image
                ),
            ));
        }
    }
    Ok(())
}

fn check_image(tree: &Tree, image: ImageId, record: impl Fn() -> String) -> Result<(), StoreError> {
    let gone = || {
        StoreError::damaged_record(
            record(),
            format!("it refers to image {image}, which is gone"),
        )
    };
    tree.image(image).map(drop).ok_or_else(gone)
}
