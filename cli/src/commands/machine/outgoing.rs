//! A machine as it goes out: the files that its states become, and the description that uses them.
//!
//! Each state becomes a file on the one that it stands on, all in one folder: what is in no
//! snapshot of the machine is not in it. A `.vbox` gets the tree of snapshots, made of what stands
//! on what: a snapshot's parent is the nearest one whose disks are all below its own. What the
//! machine's kept configuration says of hardware, controllers and identities is taken from there,
//! if it can be read; everything else has one plain default.

use std::collections::BTreeMap;

use vellum_core::hash::ChunkHash;
use vellum_core::name::Name;
use vellum_core::tree::{Mode, NodeRef, PlanError, ScratchUse, Tree, VirtualMachine};
use vellum_core::units::{ImageId, MachineId};
use vellum_formats::machine::{
    DiskAttachment, MachineDescription, MachineLanguage, MachineMedium, MediumMode,
    SnapshotDescription,
};
use vellum_formats::{DiskIdentity, Format};
use vellum_store::{StateFile, Store, WrittenState};

use crate::chain_files::FileNames;
use crate::failure::CommandFailure;

/// A disk of a machine, with the files that its states become.
pub(super) struct OutgoingDisk {
    image: ImageId,
    mode: Mode,
    pub(super) states: Vec<StateFile>,
    /// The place of the present state among them.
    current: Option<usize>,
    /// The place of what each machine snapshot has.
    kept: BTreeMap<u64, usize>,
}

/// A machine as it goes out.
pub(super) struct OutgoingMachine {
    id: MachineId,
    pub(super) name: Name,
    pub(super) disks: Vec<OutgoingDisk>,
    /// Serial, name and time of the snapshots, and the disks that each has.
    snapshots: Vec<OutgoingSnapshot>,
    known: Option<MachineDescription>,
}

struct OutgoingSnapshot {
    serial: u64,
    name: Name,
    created_ms: u64,
    disks: Vec<ImageId>,
}

impl OutgoingMachine {
    /// Machine `id` with its files' names in `format`.
    pub(super) fn from_store(
        store: &Store,
        id: MachineId,
        format: Format,
    ) -> Result<Self, CommandFailure> {
        let (mut machine, configuration) = {
            let tree = store.tree();
            let machine = tree.machines().get(id).ok_or(PlanError::Gone)?;
            (Self::without_disks(&tree, machine), machine.configuration)
        };
        let known = configuration
            .map(|configuration| store.read_configuration(configuration))
            .transpose()?;
        let known = known.and_then(|bytes| String::from_utf8(bytes).ok());
        machine.known =
            known.and_then(|text_until_zero| MachineDescription::parse(&text_until_zero).ok());
        let tree = store.tree();
        let mut names = FileNames::default();
        for image in machine.disk_images(&tree, format) {
            let disk = machine.outgoing_disk(&tree, image, &mut names, format)?;
            machine.disks.push(disk);
        }
        Ok(machine)
    }

    fn without_disks(tree: &Tree, machine: &VirtualMachine) -> Self {
        let snapshots = tree.machines().snapshots_of(machine.id);
        let snapshots = snapshots.map(|snapshot| OutgoingSnapshot {
            serial: snapshot.serial,
            name: snapshot.name.clone(),
            created_ms: snapshot.created_ms,
            disks: snapshot.disks.iter().map(|disk| disk.image).collect(),
        });
        Self {
            id: machine.id,
            name: machine.name.clone(),
            disks: Vec::new(),
            snapshots: snapshots.collect(),
            known: None,
        }
    }

    /// The machine's disks in order, and those that only its snapshots have.
    fn disk_images(&self, tree: &Tree, format: Format) -> Vec<ImageId> {
        let machine = tree.machines().get(self.id);
        let mut images = machine.map_or_else(Vec::new, |machine| machine.disks.clone());
        if format == Format::Vmdk {
            return images;
        }
        for image in self.snapshots.iter().flat_map(|snapshot| &snapshot.disks) {
            if !images.contains(image) {
                images.push(*image);
            }
        }
        images
    }

    /// The states of one disk, first those that others must stand on; of an archive the present one
    /// alone.
    fn outgoing_disk(
        &self,
        tree: &Tree,
        image: ImageId,
        names: &mut FileNames,
        format: Format,
    ) -> Result<OutgoingDisk, CommandFailure> {
        let found = tree.image(image).ok_or(PlanError::Gone)?;
        let machine = tree.machines().get(self.id).ok_or(PlanError::Gone)?;
        if format == Format::Vmdk {
            let file_name = names.unique_name(found.name.as_str(), format.format_name());
            let node = NodeRef::Image(image);
            let state = StateFile { node, file_name };
            return Ok(OutgoingDisk::present_state_only(image, state));
        }
        let mut disk = OutgoingDisk {
            image,
            mode: found.mode,
            states: Vec::new(),
            current: None,
            kept: BTreeMap::new(),
        };
        // Nodes, and what tells their files from the image's.
        let mut nodes: Vec<(NodeRef, String)> = Vec::new();
        let base = found.origin.and_then(|base| tree.image(base));
        let base = base.filter(|base| base.mode == Mode::Multiattach);
        let is_immutable = matches!(found.mode, Mode::Immutable { .. });
        if let Some(base) = base {
            disk.mode = Mode::Multiattach;
            nodes.push((NodeRef::Image(base.id), "base".to_owned()));
        } else if is_immutable {
            nodes.push((NodeRef::Image(image), "base".to_owned()));
        }
        for snapshot in tree.machines().snapshots_of(self.id) {
            let kept = snapshot.disks.iter().find(|kept| kept.image == image);
            if let Some(serial) = kept.and_then(|kept| kept.snapshot) {
                disk.kept.insert(snapshot.serial, nodes.len());
                nodes.push((NodeRef::Snapshot(image, serial), snapshot.name.to_string()));
            }
        }
        if is_immutable && format == Format::Qcow2 {
            // A domain has the disk itself, and loses what is written.
            disk.current = Some(0);
        } else if machine.disks.contains(&image) || nodes.is_empty() {
            let using = ScratchUse {
                base: image,
                machine: Some(self.id),
            };
            let scratch = tree.scratch_for(using).filter(|_| is_immutable);
            disk.current = Some(nodes.len());
            let node = NodeRef::Image(scratch.map_or(image, |scratch| scratch.id));
            nodes.push((node, "current".to_owned()));
        }
        let root = root_of(tree, &nodes);
        let owner = base.map_or(&found.name, |base| &base.name);
        let stem = |(at, text): (usize, &str)| {
            if at == root {
                owner.to_string()
            } else {
                format!("{}-{text}", found.name)
            }
        };
        for (at, (node, text)) in nodes.iter().enumerate() {
            let file_name = names.unique_name(&stem((at, text)), format.format_name());
            let node = *node;
            disk.states.push(StateFile { node, file_name });
        }
        Ok(disk)
    }

    /// The machine as a description of `written`.
    pub(super) fn machine_description(
        &self,
        written: &[Vec<WrittenState>],
        format: Format,
        language: MachineLanguage,
    ) -> MachineDescription {
        let known = self.known.clone().unwrap_or_default();
        let (media, first) = self.machine_media(written, format, language);
        let slots = self.disk_attachments(&known);
        let attachment = |disk: usize, state: usize| DiskAttachment {
            medium: first[disk][state],
            ..slots[disk].clone()
        };
        let current = self.disks.iter().enumerate();
        let current = current.filter_map(|(at, disk)| Some(attachment(at, disk.current?)));
        let parents = self.snapshot_parents(written);
        // An archive has no snapshots, and its disks keep what is written.
        let has_snapshots = language != MachineLanguage::Ovf;
        let snapshots = self.snapshots.iter().zip(&parents.snapshots);
        let snapshots = snapshots.filter(|_| has_snapshots);
        let snapshots = snapshots.map(|(snapshot, parent)| {
            let disks = self.disks.iter().enumerate();
            let of_snapshot = disks.filter(|(_, disk)| snapshot.disks.contains(&disk.image));
            // A disk that the snapshot leaves alone is there as it is.
            let attachments = of_snapshot.filter_map(|(at, disk)| {
                let state = disk.kept.get(&snapshot.serial).copied().or(disk.current)?;
                Some(attachment(at, state))
            });
            self.machine_snapshot(snapshot, *parent, attachments.collect(), &known)
        });
        MachineDescription {
            name: self.name.to_string(),
            identity: known
                .identity
                .or_else(|| Some(self.derived_identity("machine"))),
            memory_mib: known.memory_mib,
            processor_count: known.processor_count,
            guest_kind: known
                .guest_kind
                .clone()
                .filter(|_| is_of_language(&known, language)),
            snapshots: snapshots.collect(),
            current_snapshot: parents.current.filter(|_| has_snapshots),
            attachments: current.collect(),
            media,
        }
    }

    /// The media, parents first, and the number of each disk's states among them.
    fn machine_media(
        &self,
        written: &[Vec<WrittenState>],
        format: Format,
        language: MachineLanguage,
    ) -> (Vec<MachineMedium>, Vec<Vec<usize>>) {
        let (mut media, mut numbers) = (Vec::new(), Vec::new());
        for (disk, states) in self.disks.iter().zip(written) {
            let mut own = vec![0; states.len()];
            for at in in_order(states) {
                let state = &states[at];
                // A domain says of the file on top what becomes of writes, a .vbox of the root.
                let says_it = match language {
                    MachineLanguage::Vbox => state.parent.is_none(),
                    _ => disk.current == Some(at),
                };
                own[at] = media.len();
                media.push(MachineMedium {
                    identity: state.identity,
                    location: state.file_name.clone(),
                    format: Some(format.format_name().to_owned()),
                    mode: if says_it {
                        medium_mode(disk.mode)
                    } else {
                        MediumMode::Normal
                    },
                    parent: state.parent.map(|parent| own[parent]),
                    len: Some(state.len),
                });
            }
            numbers.push(own);
        }
        (media, numbers)
    }

    /// The controller and place of each disk: as the known description has them, if it has as many.
    fn disk_attachments(&self, known: &MachineDescription) -> Vec<DiskAttachment> {
        let mut slots = known.attachments.clone();
        slots.sort_by(|a, b| {
            (&a.controller, a.port, a.device).cmp(&(&b.controller, b.port, b.device))
        });
        let current = self
            .disks
            .iter()
            .filter(|disk| disk.current.is_some())
            .count();
        if slots.len() != current {
            slots.clear();
        }
        let mut port = slots
            .iter()
            .filter(|slot| slot.controller == PLAIN_CONTROLLER)
            .map(|slot| slot.port + 1)
            .max()
            .unwrap_or(0);
        while slots.len() < self.disks.len() {
            slots.push(DiskAttachment {
                controller: PLAIN_CONTROLLER.to_owned(),
                port,
                device: 0,
                medium: 0,
            });
            port += 1;
        }
        slots
    }

    fn machine_snapshot(
        &self,
        snapshot: &OutgoingSnapshot,
        parent: Option<usize>,
        attachments: Vec<DiskAttachment>,
        known: &MachineDescription,
    ) -> SnapshotDescription {
        let mut same = known
            .snapshots
            .iter()
            .filter(|known| known.name == snapshot.name.as_str());
        let same = same.next().filter(|_| same.next().is_none());
        let time = i64::try_from(snapshot.created_ms / 1000).ok();
        let time = time.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
        SnapshotDescription {
            identity: same
                .and_then(|same| same.identity)
                .or_else(|| Some(self.derived_identity(snapshot.name.as_str()))),
            name: snapshot.name.to_string(),
            description: same.map_or_else(String::new, |same| same.description.clone()),
            time: time.map(|time| time.to_string()),
            parent,
            attachments,
        }
    }

    /// A UUID that comes from names alone.
    fn derived_identity(&self, what: &str) -> DiskIdentity {
        let hash = ChunkHash::of_chunk(format!("{}\n{what}", self.name).as_bytes()).0;
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&hash[..16]);
        uuid[6] = (uuid[6] & 0x0f) | 0x80;
        uuid[8] = (uuid[8] & 0x3f) | 0x80;
        DiskIdentity::Uuid(uuid)
    }

    /// The parent of each snapshot and of the present state. Immutable disks start afresh, so they
    /// are asked only if there are no others.
    fn snapshot_parents(&self, written: &[Vec<WrittenState>]) -> SnapshotParents {
        let is_immutable = |disk: &OutgoingDisk| matches!(disk.mode, Mode::Immutable { .. });
        let tells = |disk: &OutgoingDisk| !disk.kept.is_empty() && !is_immutable(disk);
        let has_telling = self.disks.iter().any(tells);
        let counts = |disk: &OutgoingDisk| tells(disk) || !has_telling;
        let ways: Vec<BTreeMap<usize, Vec<usize>>> = self
            .snapshots
            .iter()
            .map(|snapshot| {
                self.file_chains(written, |disk| {
                    let kept = disk.kept.get(&snapshot.serial).copied();
                    kept.filter(|_| counts(disk))
                })
            })
            .collect();
        let current = self.file_chains(written, |disk| disk.current.filter(|_| counts(disk)));
        let parent = |way: &BTreeMap<usize, Vec<usize>>, before: usize| {
            let candidates = ways.iter().enumerate().take(before);
            let below = candidates.filter(|(_, other)| stands_on(way, other));
            // The nearest; of several alike the last.
            let height =
                |way: &BTreeMap<usize, Vec<usize>>| way.values().map(Vec::len).sum::<usize>();
            below
                .max_by_key(|(number, other)| (height(other), *number))
                .map(|(number, _)| number)
        };
        SnapshotParents {
            snapshots: (0..ways.len()).map(|at| parent(&ways[at], at)).collect(),
            current: parent(&current, ways.len()),
        }
    }

    /// For each disk of a state: its file and all below it, top first.
    fn file_chains(
        &self,
        written: &[Vec<WrittenState>],
        state_of: impl Fn(&OutgoingDisk) -> Option<usize>,
    ) -> BTreeMap<usize, Vec<usize>> {
        let disks = self.disks.iter().zip(written).enumerate();
        let way = disks.filter_map(|(at, (disk, states))| {
            let next = |state: &usize| states[*state].parent;
            Some((
                at,
                std::iter::successors(Some(state_of(disk)?), next).collect(),
            ))
        });
        way.collect()
    }
}

/// The controller of disks of which nothing is known.
const PLAIN_CONTROLLER: &str = "SATA";

struct SnapshotParents {
    snapshots: Vec<Option<usize>>,
    current: Option<usize>,
}

/// True if every disk that both states have stands on the other's, and they have one.
fn stands_on(way: &BTreeMap<usize, Vec<usize>>, other: &BTreeMap<usize, Vec<usize>>) -> bool {
    let mut common = way
        .iter()
        .filter_map(|(disk, files)| Some((files, other.get(disk)?)))
        .peekable();
    common.peek().is_some()
        && common.all(|(files, below)| below.first().is_some_and(|top| files.contains(top)))
}

/// The places of `states`, each after its parent's.
fn in_order(states: &[WrittenState]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..states.len()).collect();
    let depth = |at: &usize| {
        let parent = |at: &usize| states[*at].parent;
        std::iter::successors(Some(*at), parent).count()
    };
    order.sort_by_key(depth);
    order
}

/// True if a description is of the language that is written: guests' kinds are its own words.
fn is_of_language(known: &MachineDescription, language: MachineLanguage) -> bool {
    let has_disk_identities = known.media.iter().any(|medium| medium.identity.is_some());
    match language {
        MachineLanguage::Vbox => has_disk_identities,
        _ => !has_disk_identities,
    }
}

fn medium_mode(mode: Mode) -> MediumMode {
    match mode {
        Mode::Normal => MediumMode::Normal,
        Mode::Immutable { .. } => MediumMode::Immutable,
        Mode::Writethrough => MediumMode::WriteThrough,
        Mode::Shareable => MediumMode::Shareable,
        Mode::Readonly => MediumMode::ReadOnly,
        Mode::Multiattach => MediumMode::MultiAttach,
    }
}

/// The place of the first of `nodes` that stands on none of the others.
fn root_of(tree: &Tree, nodes: &[(NodeRef, String)]) -> usize {
    let shown: Vec<_> = nodes
        .iter()
        .map(|(node, _)| tree.content_layer(*node))
        .collect();
    let is_root = |at: &usize| {
        let same = shown[..*at].contains(&shown[*at]);
        let mut below = shown[*at]
            .into_iter()
            .flat_map(|top| tree.chain_from(top).skip(1));
        !same && !below.any(|layer| shown.contains(&Some(layer.id)))
    };
    (0..nodes.len()).find(is_root).unwrap_or(0)
}

impl OutgoingDisk {
    /// A disk of which only the present state goes out.
    fn present_state_only(image: ImageId, state: StateFile) -> Self {
        Self {
            image,
            mode: Mode::Normal,
            states: vec![state],
            current: Some(0),
            kept: BTreeMap::new(),
        }
    }
}
