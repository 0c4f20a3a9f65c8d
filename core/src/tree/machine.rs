//! Machines and their snapshots: named sets of images that change as one. It knows which exist and
//! which images they use; `machine_plan` knows their operations.

use std::collections::{BTreeMap, BTreeSet};

use super::Mode;
use crate::name::Name;
use crate::units::{ConfigurationId, ImageId, MachineId};

/// Disks of one machine: no bus that guests know takes more without bridges, and one batch holds a
/// snapshot of all.
pub const DISKS_MAX: usize = 256;
/// Bytes of a machine's configuration file: the largest domain description that we know of has a
/// tenth.
pub const CONFIGURATION_LEN_MAX: usize = 1 << 20;

/// A named set of images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualMachine {
    /// Its name in the store.
    pub id: MachineId,
    /// The name, for people. Machines and images may have the same names.
    pub name: Name,
    /// Its disks, in the order in which the guest sees them.
    pub disks: Vec<ImageId>,
    /// Its configuration file.
    pub configuration: Option<Configuration>,
    /// The time when it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// The time when it was switched on, in milliseconds since 1970, if it runs.
    pub started_ms: Option<u64>,
}

/// A machine's configuration file, of which nothing is understood. It never changes: another
/// content is another file, so that a machine and its snapshots can share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// Its name in the store.
    pub id: ConfigurationId,
    /// The length in bytes.
    pub len: u64,
}

/// A state of all disks of a machine, taken at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualMachineSnapshot {
    /// Its machine.
    pub machine: MachineId,
    /// Rises with every snapshot.
    pub serial: u64,
    /// The name, for people; unique within its machine.
    pub name: Name,
    /// The machine's disks, and what is kept of each.
    pub disks: Vec<KeptDisk>,
    /// The machine's configuration file.
    pub configuration: Option<Configuration>,
    /// The time when it was taken, in milliseconds since 1970.
    pub created_ms: u64,
}

/// The part of a disk that a machine's snapshot keeps. The image cannot be deleted while it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptDisk {
    /// The image.
    pub image: ImageId,
    /// Its mode then.
    pub mode: Mode,
    /// The image's snapshot with its content; none of disks that take no part in snapshots.
    pub snapshot: Option<u64>,
}

/// All machines of a store.
#[derive(Clone, Debug, Default)]
pub struct Machines {
    by_id: BTreeMap<MachineId, VirtualMachine>,
    names: BTreeMap<Name, MachineId>,
    snapshots: BTreeMap<(MachineId, u64), VirtualMachineSnapshot>,
    snapshot_names: BTreeMap<(MachineId, Name), u64>,
    /// The machines that have an image among their disks.
    users: BTreeMap<ImageId, BTreeSet<MachineId>>,
    /// The machine snapshots that keep an image, each with the image's snapshot.
    keepers: BTreeMap<ImageId, BTreeSet<(MachineId, u64)>>,
}

impl Machines {
    /// The machine of that id.
    #[must_use]
    pub fn get(&self, id: MachineId) -> Option<&VirtualMachine> {
        self.by_id.get(&id)
    }

    /// The machine that has exactly that name.
    #[must_use]
    pub fn machine_named(&self, name: &Name) -> Option<&VirtualMachine> {
        self.get(*self.names.get(name)?)
    }

    /// All machines, by name.
    pub fn iter(&self) -> impl Iterator<Item = &VirtualMachine> {
        self.names.values().map(|id| &self.by_id[id])
    }

    /// The snapshot of that machine and serial.
    #[must_use]
    pub fn snapshot_with_serial(
        &self,
        machine: MachineId,
        serial: u64,
    ) -> Option<&VirtualMachineSnapshot> {
        self.snapshots.get(&(machine, serial))
    }

    /// The snapshot that has exactly that name.
    #[must_use]
    pub fn snapshot_named(
        &self,
        machine: MachineId,
        name: &Name,
    ) -> Option<&VirtualMachineSnapshot> {
        self.snapshot_with_serial(machine, *self.snapshot_names.get(&(machine, name.clone()))?)
    }

    /// The snapshots of a machine, in the order of taking.
    #[must_use]
    pub fn snapshots_of(
        &self,
        machine: MachineId,
    ) -> impl DoubleEndedIterator<Item = &VirtualMachineSnapshot> {
        self.snapshots
            .range((machine, 0)..=(machine, u64::MAX))
            .map(|(_, snapshot)| snapshot)
    }

    /// All snapshots of all machines.
    pub fn all_snapshots(&self) -> impl Iterator<Item = &VirtualMachineSnapshot> {
        self.snapshots.values()
    }

    /// The machines that have `image` among their disks.
    pub fn machines_using(&self, image: ImageId) -> impl Iterator<Item = &VirtualMachine> {
        self.users
            .get(&image)
            .into_iter()
            .flatten()
            .map(|id| &self.by_id[id])
    }

    /// The machine snapshots that keep `image`.
    pub fn snapshots_keeping(
        &self,
        image: ImageId,
    ) -> impl Iterator<Item = &VirtualMachineSnapshot> {
        self.keepers
            .get(&image)
            .into_iter()
            .flatten()
            .map(|id| &self.snapshots[id])
    }

    /// `machine@snapshot`, as people write it.
    #[must_use]
    pub fn snapshot_display_name(&self, snapshot: &VirtualMachineSnapshot) -> String {
        let machine = self
            .get(snapshot.machine)
            .map_or("(deleted)", |machine| machine.name.as_str());
        format!("{machine}@{}", snapshot.name)
    }

    pub(super) fn put_machine(&mut self, machine: VirtualMachine) {
        self.remove(machine.id);
        for disk in &machine.disks {
            self.users.entry(*disk).or_default().insert(machine.id);
        }
        self.names.insert(machine.name.clone(), machine.id);
        self.by_id.insert(machine.id, machine);
    }

    pub(super) fn remove(&mut self, id: MachineId) {
        let Some(old) = self.by_id.remove(&id) else {
            return;
        };
        self.names.remove(&old.name);
        old.disks
            .iter()
            .for_each(|disk| take_away(&mut self.users, *disk, &id));
    }

    pub(super) fn put_snapshot(&mut self, snapshot: VirtualMachineSnapshot) {
        let id = (snapshot.machine, snapshot.serial);
        self.remove_snapshot(id.0, id.1);
        for disk in &snapshot.disks {
            self.keepers.entry(disk.image).or_default().insert(id);
        }
        self.snapshot_names
            .insert((id.0, snapshot.name.clone()), id.1);
        self.snapshots.insert(id, snapshot);
    }

    pub(super) fn remove_snapshot(&mut self, machine: MachineId, serial: u64) {
        let Some(old) = self.snapshots.remove(&(machine, serial)) else {
            return;
        };
        self.snapshot_names.remove(&(machine, old.name));
        old.disks
            .iter()
            .for_each(|disk| take_away(&mut self.keepers, disk.image, &(machine, serial)));
    }
}

fn take_away<T: Ord>(sets: &mut BTreeMap<ImageId, BTreeSet<T>>, image: ImageId, value: &T) {
    if let Some(set) = sets.get_mut(&image) {
        set.remove(value);
        if set.is_empty() {
            sets.remove(&image);
        }
    }
}
