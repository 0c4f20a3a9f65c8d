//! A machine as it comes in: which images its disks' files become, and which states of them its
//! snapshots keep.
//!
//! # How a tree of snapshots is kept
//!
//! A disk's files form a tree; its root becomes an image, and each file a layer on its parent's, so
//! branches are where they were. A snapshot of the machine names one file for each disk: it becomes
//! a machine snapshot that keeps a snapshot of each image, of that file's layer, under one name.
//! Machine snapshots are a list, and say nothing of each other: which one stands on which follows
//! from their layers, and `machine export` makes the tree of them again.
//!
//! | there                    | here                                                            |
//! | ------------------------ | --------------------------------------------------------------- |
//! | normal disk              | image; its present state is the current file's                  |
//! | immutable disk           | immutable image of the root; what was written is its scratch    |
//! | write-through, shareable | image of that mode, in no snapshot                              |
//! | read-only disk           | readonly image                                                  |
//! | multi-attach disk        | multiattach image of the root; `IMAGE+MACHINE` of what is on it |
//!
//! Files that no state uses stay out, and are told. The text stays the machine's configuration.

use std::collections::{BTreeMap, BTreeSet};

use vellum_core::name::Name;
use vellum_core::name_maker::NameMaker;
use vellum_core::tree::{
    Arrival, ArrivingImage, ArrivingMachine, ArrivingMachineSnapshot, ArrivingOrigin, Marks, Mode,
    NewConfiguration,
};
use vellum_core::units::LayerId;
use vellum_formats::machine::{DiskAttachment, MachineDescription, MediumMode};
use vellum_store::{ChainFinder, Store};

use crate::chains;
use crate::failure::CommandFailure;

/// A description and the files of its disks.
pub(super) struct OpenedMachine {
    pub(super) description: MachineDescription,
    pub(super) name: Name,
    /// The file of each medium, if it was opened.
    pub(super) files: Vec<Option<usize>>,
}

/// A disk of a machine: an image to be.
struct MachineDisk {
    /// The file at the bottom.
    root: usize,
    mode: Mode,
    /// True if the mode is said of the file on top, as a domain does: what is written is lost from
    /// there on.
    is_mode_of_top: bool,
    /// True if it is a machine's own child of a multiattach image.
    is_own_child: bool,
    name: Name,
}

/// A state of a machine: for each of its disks, in order, the disk and the file.
type MachineState = Vec<(usize, usize)>;

/// The layer that each opened file shows.
pub(super) struct ShownFiles<'a> {
    pub(super) layers: &'a BTreeMap<usize, (Vec<chains::ChainState>, usize)>,
    pub(super) ids: &'a [LayerId],
}

impl ShownFiles<'_> {
    fn layer_of_file(&self, file: usize) -> LayerId {
        self.ids[self.layers[&file].1]
    }
}

/// Images and states of a machine to be.
pub(super) struct MachinePlan {
    disks: Vec<MachineDisk>,
    current: MachineState,
    snapshots: Vec<MachineState>,
}

pub(super) fn plan_machine(
    machine: &OpenedMachine,
    finder: &ChainFinder,
    store: &Store,
) -> Result<MachinePlan, CommandFailure> {
    let tree = store.tree();
    let mut names = NameMaker::new(tree.images().map(|image| image.name.clone()));
    let mut disks = disks_of(machine, finder, &mut names);
    let root = |file: usize| root_of(finder, file);
    let disk_of = |file: usize| {
        // A multiattach image's own child is behind it.
        let of_root = |disk: &MachineDisk| disk.root == root(file);
        disks
            .iter()
            .rposition(of_root)
            .expect("every file has a disk")
    };
    let state = |attachments: &[DiskAttachment]| -> MachineState {
        let mut sorted: Vec<&DiskAttachment> = attachments.iter().collect();
        sorted.sort_by_key(|at| (&at.controller, at.port, at.device));
        let files = sorted.iter().filter_map(|at| machine.files[at.medium]);
        files.map(|file| (disk_of(file), file)).collect()
    };
    let current = state(&machine.description.attachments);
    let snapshots: Vec<MachineState> = machine
        .description
        .snapshots
        .iter()
        .map(|snapshot| state(&snapshot.attachments))
        .collect();
    refuse_twice(&current, &disks, &machine.name)?;
    // Writes there are in no snapshot, so no snapshot can be based on them.
    for (at, disk) in disks.iter_mut().enumerate() {
        let stands_on_some = snapshots
            .iter()
            .chain([&current])
            .flatten()
            .any(|(of, file)| *of == at && *file != disk.root);
        if stands_on_some && matches!(disk.mode, Mode::Writethrough | Mode::Shareable) {
            disk.mode = Mode::Normal;
        }
    }
    Ok(MachinePlan {
        disks,
        current,
        snapshots,
    })
}

/// An image for each root file, and one for what a machine wrote over a multiattach image.
fn disks_of(
    machine: &OpenedMachine,
    finder: &ChainFinder,
    names: &mut NameMaker,
) -> Vec<MachineDisk> {
    let mut disks: Vec<MachineDisk> = Vec::new();
    for file in machine.files.iter().flatten() {
        let root = root_of(finder, *file);
        if disks.iter().any(|disk| disk.root == root) {
            continue;
        }
        let medium = machine.files.iter().position(|found| *found == Some(root));
        let mode = medium.map(|number| machine.description.media[number].mode);
        // A domain says it of the file on top.
        let on_top =
            machine.description.attachments.iter().find(|at| {
                machine.files[at.medium].map(|file| root_of(finder, file)) == Some(root)
            });
        let on_top = on_top.map(|at| machine.description.media[at.medium].mode);
        let of_root = mode.filter(|mode| *mode != MediumMode::Normal);
        let mode = of_root.or(on_top).unwrap_or_default();
        let name = names.unique_name(&finder.files()[root].file_stem());
        let disk = |name, mode, is_own_child| MachineDisk {
            root,
            mode,
            is_mode_of_top: of_root.is_none(),
            is_own_child,
            name,
        };
        if mode == MediumMode::MultiAttach {
            let own = names.unique_name(&format!("{name}+{}", machine.name));
            disks.push(disk(name, Mode::Multiattach, false));
            disks.push(disk(own, Mode::Normal, true));
        } else {
            disks.push(disk(name, mode_of(mode), false));
        }
    }
    disks
}

fn mode_of(mode: MediumMode) -> Mode {
    match mode {
        MediumMode::Normal => Mode::Normal,
        MediumMode::Immutable => Mode::Immutable { autoreset: true },
        MediumMode::WriteThrough => Mode::Writethrough,
        MediumMode::Shareable => Mode::Shareable,
        MediumMode::ReadOnly => Mode::Readonly,
        MediumMode::MultiAttach => Mode::Multiattach,
    }
}

fn root_of(finder: &ChainFinder, file: usize) -> usize {
    let parent = |file: &usize| finder.files()[*file].parent;
    std::iter::successors(Some(file), parent)
        .last()
        .unwrap_or(file)
}

fn refuse_twice(
    state: &MachineState,
    disks: &[MachineDisk],
    name: &Name,
) -> Result<(), CommandFailure> {
    let mut seen = BTreeSet::new();
    match state.iter().find(|(disk, _)| !seen.insert(*disk)) {
        Some((disk, _)) => Err(CommandFailure::with_hint(
            format!(
                "machine {name} has two disks that stand on {}: they would be one image",
                disks[*disk].name
            ),
            "import each with `vellum import --chain`, and make the machine of them",
        )),
        None => Ok(()),
    }
}

impl MachinePlan {
    /// The files that show something, and what they stand on comes with them.
    pub(super) fn shown_files(&self) -> BTreeSet<usize> {
        let states = self.snapshots.iter().chain([&self.current]);
        let shown = states.flatten().map(|(_, file)| *file);
        shown
            .chain(self.disks.iter().map(|disk| disk.root))
            .collect()
    }

    pub(super) fn noted_formats(&self, finder: &ChainFinder) -> Vec<Option<Name>> {
        let format =
            |disk: &MachineDisk| Name::new(finder.files()[disk.root].format.format_name()).ok();
        self.disks.iter().map(format).collect()
    }

    /// The images and the machine, as the store takes them.
    pub(super) fn build_arrival(
        &self,
        machine: &OpenedMachine,
        finder: &ChainFinder,
        shown: &ShownFiles<'_>,
        configuration: Option<NewConfiguration>,
    ) -> Arrival {
        let now_ms = now_ms();
        let mut names = NameMaker::default();
        let mut images: Vec<ArrivingImage> = self
            .disks
            .iter()
            .enumerate()
            .map(|(at, disk)| self.arriving_image(at, disk, shown, now_ms))
            .collect();
        let mut snapshots = Vec::new();
        for (state, told) in self.snapshots.iter().zip(&machine.description.snapshots) {
            let name = names.unique_name(&told.name);
            let created_ms = told.time.as_deref().and_then(since_1970_ms);
            let created_ms = created_ms.unwrap_or(now_ms);
            let mut kept = Vec::new();
            for (disk, file) in state {
                let image = &mut images[*disk];
                let place = image.mode.is_kept().then(|| {
                    let layer = shown.layer_of_file(*file);
                    let snapshot = chains::arriving_snapshot(name.clone(), layer, created_ms);
                    image.snapshots.push(snapshot);
                    image.snapshots.len() - 1
                });
                kept.push((*disk, image.mode, place));
            }
            snapshots.push(ArrivingMachineSnapshot {
                name,
                disks: kept,
                configuration: configuration.clone(),
                created_ms,
            });
        }
        self.name_the_rest(&mut images, finder, shown);
        let is_immutable = |disk: usize| {
            let disk = &self.disks[disk];
            matches!(disk.mode, Mode::Immutable { .. }) && !disk.is_mode_of_top
        };
        let scratches = self
            .current
            .iter()
            .filter(|(disk, file)| {
                is_immutable(*disk)
                    && shown.layer_of_file(*file) != shown.layer_of_file(self.disks[*disk].root)
            })
            .map(|(disk, file)| (*disk, shown.layer_of_file(*file)));
        let machine = ArrivingMachine {
            name: machine.name.clone(),
            disks: self.current.iter().map(|(disk, _)| *disk).collect(),
            configuration,
            created_ms: now_ms,
            snapshots,
            scratches: scratches.collect(),
        };
        Arrival {
            images,
            machines: vec![machine],
            ..Arrival::default()
        }
    }

    /// The image of a disk, without snapshots.
    fn arriving_image(
        &self,
        at: usize,
        disk: &MachineDisk,
        shown: &ShownFiles<'_>,
        now_ms: u64,
    ) -> ArrivingImage {
        // A disk that the current state lacks is as in the last state that had it.
        let states = self.snapshots.iter().chain([&self.current]);
        let last = states.flatten().rfind(|(of, _)| *of == at);
        let file = match disk.mode {
            Mode::Immutable { .. } | Mode::Multiattach if !disk.is_mode_of_top => disk.root,
            _ => last.map_or(disk.root, |(_, file)| *file),
        };
        let origin = (disk.is_own_child && at > 0).then(|| ArrivingOrigin::Arriving(at - 1));
        ArrivingImage {
            name: disk.name.clone(),
            layer: shown.layer_of_file(file),
            mode: disk.mode,
            origin,
            created_ms: now_ms,
            marks: Marks::default(),
            snapshots: Vec::new(),
        }
    }

    /// Names for states that no snapshot of the machine has: files in between, and what a qcow2
    /// keeps inside.
    fn name_the_rest(
        &self,
        images: &mut [ArrivingImage],
        finder: &ChainFinder,
        shown: &ShownFiles<'_>,
    ) {
        for (file, (states, _)) in shown.layers {
            let root = root_of(finder, *file);
            let of_root = |disk: &MachineDisk| disk.root == root;
            let (Some(first), Some(last)) = (
                self.disks.iter().position(of_root),
                self.disks.iter().rposition(of_root),
            ) else {
                continue;
            };
            let has = |layer: LayerId| {
                images[first..=last].iter().any(|image| {
                    image.layer == layer
                        || image
                            .snapshots
                            .iter()
                            .any(|snapshot| snapshot.layer == layer)
                })
            };
            let unnamed: Vec<_> = states
                .iter()
                .filter(|state| !has(shown.ids[state.place]))
                .collect();
            let image = &mut images[last];
            if matches!(image.mode, Mode::Writethrough | Mode::Shareable) {
                continue;
            }
            let taken = image.snapshots.iter().map(|snapshot| snapshot.name.clone());
            let mut names = NameMaker::new(taken);
            for state in unnamed {
                let (name, layer) = (names.unique_name(&state.name), shown.ids[state.place]);
                image
                    .snapshots
                    .push(chains::arriving_snapshot(name, layer, state.changed_ms));
            }
        }
    }
}

/// The time that a `.vbox` writes as RFC 3339.
fn since_1970_ms(text: &str) -> Option<u64> {
    let time: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_millisecond()).ok()
}

fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}
