//! Plans the arrival of images and machines from another store as one list of edits: images with
//! their snapshots and modes, machines with theirs.
//!
//! Numbers mean something in one store only, so in an [`Arrival`] images, snapshots and disks are
//! named by their places in its lists. Its writer is not trusted: every place is checked, and a
//! state that no store lets people make is refused.

use std::collections::BTreeSet;

use super::machine::{DISKS_MAX, KeptDisk, VirtualMachine, VirtualMachineSnapshot};
use super::machine_plan::NewConfiguration;
use super::{Image, Layer, Marks, Mode, NodeRef, PlanError, Snapshot, Tree, TreeEdit};
use crate::name::Name;
use crate::units::{ImageId, LayerId, MachineId};

/// The images and machines that come into a tree together.
#[derive(Clone, Debug, Default)]
pub struct Arrival {
    /// Layers that are not there yet: sealed, complete, each after its parent.
    pub layers: Vec<Layer>,
    /// The images.
    pub images: Vec<ArrivingImage>,
    /// The machines that have them.
    pub machines: Vec<ArrivingMachine>,
}

/// An image that comes.
#[derive(Clone, Debug)]
pub struct ArrivingImage {
    /// The name that it gets.
    pub name: Name,
    /// The sealed layer that shows its present state.
    pub layer: LayerId,
    /// Its mode.
    pub mode: Mode,
    /// The image that it was created from.
    pub origin: Option<ArrivingOrigin>,
    /// The time when it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// The marks that people put on it.
    pub marks: Marks,
    /// Its snapshots, the oldest first.
    pub snapshots: Vec<ArrivingSnapshot>,
}

/// The origin of an image that comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArrivingOrigin {
    /// An image that comes with it: its place.
    Arriving(usize),
    /// One that is there.
    Here(ImageId),
}

/// A snapshot that comes.
#[derive(Clone, Debug)]
pub struct ArrivingSnapshot {
    /// Its name.
    pub name: Name,
    /// The sealed layer.
    pub layer: LayerId,
    /// The time when it was taken, in milliseconds since 1970.
    pub created_ms: u64,
    /// The marks that people put on it.
    pub marks: Marks,
}

/// A machine that comes.
#[derive(Clone, Debug)]
pub struct ArrivingMachine {
    /// The name that it gets.
    pub name: Name,
    /// The places of its disks among the images.
    pub disks: Vec<usize>,
    /// Its configuration file.
    pub configuration: Option<NewConfiguration>,
    /// The time when it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// Its snapshots, the oldest first.
    pub snapshots: Vec<ArrivingMachineSnapshot>,
    /// The content that its guest left on immutable disks: the place of the image, and the sealed
    /// layer that shows it.
    pub scratches: Vec<(usize, LayerId)>,
}

/// A machine's snapshot that comes.
#[derive(Clone, Debug)]
pub struct ArrivingMachineSnapshot {
    /// Its name.
    pub name: Name,
    /// The state of each disk: its place among the images, its mode then, and the place of the
    /// image's snapshot if its content was kept.
    pub disks: Vec<(usize, Mode, Option<usize>)>,
    /// Its configuration file.
    pub configuration: Option<NewConfiguration>,
    /// The time when it was taken, in milliseconds since 1970.
    pub created_ms: u64,
}

/// An image of an arrival that has its numbers.
struct NumberedImage {
    id: ImageId,
    serials: Vec<u64>,
}

impl Tree {
    /// Plans the arrival of all of `arrival`, or fails. Each image gets an active layer with
    /// nothing in it on the layer that it shows.
    pub fn plan_receive(
        &mut self,
        arrival: &Arrival,
        now_ms: u64,
    ) -> Result<(Vec<NodeRef>, Vec<TreeEdit>), PlanError> {
        self.check_arrival(arrival)?;
        let mut edits: Vec<TreeEdit> = arrival
            .layers
            .iter()
            .cloned()
            .map(TreeEdit::PutLayer)
            .collect();
        let ids: Vec<ImageId> = arrival
            .images
            .iter()
            .map(|_| ImageId(self.allocate_id()))
            .collect();
        let mut placed = Vec::with_capacity(ids.len());
        for (id, image) in ids.iter().zip(&arrival.images) {
            let origin = match image.origin {
                Some(ArrivingOrigin::Here(id)) => self.image(id).map(|image| image.id),
                Some(ArrivingOrigin::Arriving(place)) => {
                    Some(*ids.get(place).ok_or(PlanError::Gone)?)
                }
                None => None,
            };
            placed.push(self.plan_arriving_image(
                *id,
                image,
                origin,
                &arrival.layers,
                now_ms,
                &mut edits,
            )?);
        }
        for machine in &arrival.machines {
            let id = self.plan_arriving_machine(machine, &placed, &mut edits)?;
            for (at, layer) in &machine.scratches {
                let place = placed.get(*at).ok_or(PlanError::Gone)?.id;
                let shown = self.arriving_layer(*layer, &arrival.layers)?;
                let scratch = self.plan_arriving_scratch(place, id, &shown, &edits, now_ms)?;
                edits.extend(scratch);
            }
        }
        Ok((ids.into_iter().map(NodeRef::Image).collect(), edits))
    }

    fn plan_arriving_image(
        &mut self,
        id: ImageId,
        image: &ArrivingImage,
        origin: Option<ImageId>,
        layers: &[Layer],
        now_ms: u64,
        edits: &mut Vec<TreeEdit>,
    ) -> Result<NumberedImage, PlanError> {
        let base = self.arriving_layer(image.layer, layers)?;
        let active = self.blank_layer(Some(&base), base.len, now_ms);
        let mut serials = Vec::with_capacity(image.snapshots.len());
        edits.push(TreeEdit::PutImage(Image {
            id,
            name: image.name.clone(),
            layer: active.id,
            mode: image.mode,
            origin,
            created_ms: image.created_ms,
            marks: image.marks.clone(),
            scratch_of: None,
            scratch_for: None,
            is_over: false,
            source_format: None,
        }));
        edits.insert(edits.len() - 1, TreeEdit::PutLayer(active));
        for snapshot in &image.snapshots {
            let (layer, serial) = (
                self.arriving_layer(snapshot.layer, layers)?.id,
                self.allocate_id(),
            );
            serials.push(serial);
            edits.push(TreeEdit::PutSnapshot(Snapshot {
                image: id,
                serial,
                name: snapshot.name.clone(),
                layer,
                created_ms: snapshot.created_ms,
                marks: snapshot.marks.clone(),
            }));
        }
        Ok(NumberedImage { id, serials })
    }

    fn plan_arriving_machine(
        &mut self,
        machine: &ArrivingMachine,
        placed: &[NumberedImage],
        edits: &mut Vec<TreeEdit>,
    ) -> Result<MachineId, PlanError> {
        let place = |at: &usize| placed.get(*at).ok_or(PlanError::Gone);
        let id = MachineId(self.allocate_id());
        let disks = machine
            .disks
            .iter()
            .map(|at| Ok(place(at)?.id))
            .collect::<Result<_, PlanError>>()?;
        let (configuration, added) = self.plan_configuration(machine.configuration.clone());
        edits.extend(added);
        let (name, created_ms) = (machine.name.clone(), machine.created_ms);
        edits.push(TreeEdit::PutMachine(VirtualMachine {
            id,
            name,
            disks,
            configuration,
            created_ms,
            started_ms: None,
        }));
        for snapshot in &machine.snapshots {
            let mut disks = Vec::with_capacity(snapshot.disks.len());
            for (at, mode, kept) in &snapshot.disks {
                let image = place(at)?;
                let serial = kept
                    .map(|kept| image.serials.get(kept).copied().ok_or(PlanError::Gone))
                    .transpose()?;
                disks.push(KeptDisk {
                    image: image.id,
                    mode: *mode,
                    snapshot: serial,
                });
            }
            let serial = self.allocate_id();
            // One file may be the machine's and its snapshots', as it is on the other side.
            let is_same = snapshot.configuration == machine.configuration;
            let (own, added) = if is_same {
                (configuration, Vec::new())
            } else {
                self.plan_configuration(snapshot.configuration.clone())
            };
            edits.extend(added);
            let (name, created_ms) = (snapshot.name.clone(), snapshot.created_ms);
            edits.push(TreeEdit::PutMachineSnapshot(VirtualMachineSnapshot {
                machine: id,
                serial,
                name,
                disks,
                configuration: own,
                created_ms,
            }));
        }
        Ok(id)
    }

    /// A scratch image with the content `shown` for machine `user` of the immutable image `base`,
    /// which `edits` put. The session that wrote it is over.
    fn plan_arriving_scratch(
        &mut self,
        base: ImageId,
        user: MachineId,
        shown: &Layer,
        edits: &[TreeEdit],
        now_ms: u64,
    ) -> Result<Vec<TreeEdit>, PlanError> {
        let put = |edit: &TreeEdit| match edit {
            TreeEdit::PutImage(image) if image.id == base => Some(image.clone()),
            _ => None,
        };
        let base = edits.iter().find_map(put).ok_or(PlanError::Gone)?;
        let Mode::Immutable { .. } = base.mode else {
            return Err(base.forbidden_by_mode("what is written to it is its own content"));
        };
        let name = self.free_scratch_name(&base, Some(user))?;
        let is_taken =
            |edit: &TreeEdit| matches!(edit, TreeEdit::PutImage(image) if image.name == name);
        if edits.iter().any(is_taken) {
            return Err(PlanError::NameTaken(format!("image {name}")));
        }
        let active = self.blank_top(shown, now_ms);
        let scratch = Image {
            id: ImageId(self.allocate_id()),
            name,
            layer: active.id,
            mode: Mode::Normal,
            origin: Some(base.id),
            created_ms: now_ms,
            marks: Marks::default(),
            scratch_of: Some(base.id),
            scratch_for: Some(user),
            is_over: true,
            source_format: None,
        };
        Ok(vec![
            TreeEdit::PutLayer(active),
            TreeEdit::PutImage(scratch),
        ])
    }

    /// A layer that comes, or is there.
    pub(super) fn arriving_layer(&self, id: LayerId, layers: &[Layer]) -> Result<Layer, PlanError> {
        let found = layers
            .iter()
            .find(|layer| layer.id == id)
            .or_else(|| self.layer(id).map(AsRef::as_ref));
        found
            .filter(|layer| layer.sealed)
            .cloned()
            .ok_or(PlanError::Gone)
    }

    /// Fails if a name is taken, or something could not have been made here.
    pub fn check_arrival(&self, arrival: &Arrival) -> Result<(), PlanError> {
        let mut names = BTreeSet::new();
        for image in &arrival.images {
            self.check_free(&image.name)?;
            if !names.insert(&image.name) {
                return Err(PlanError::NameTaken(format!("image {}", image.name)));
            }
            check_snapshots(image)?;
        }
        let mut names = BTreeSet::new();
        for machine in &arrival.machines {
            if self.machines().machine_named(&machine.name).is_some()
                || !names.insert(&machine.name)
            {
                return Err(PlanError::NameTaken(format!("machine {}", machine.name)));
            }
            check_machine(machine, arrival)?;
        }
        check_users(arrival)
    }
}

fn check_snapshots(image: &ArrivingImage) -> Result<(), PlanError> {
    let mut names = BTreeSet::new();
    if let Some(twice) = image
        .snapshots
        .iter()
        .find(|snapshot| !names.insert(&snapshot.name))
    {
        return Err(PlanError::NameTaken(format!(
            "snapshot {}@{}",
            image.name, twice.name
        )));
    }
    if image.mode.has_none() && !image.snapshots.is_empty() {
        return Err(mode_conflict(image, "it has snapshots".to_owned()));
    }
    Ok(())
}

fn check_machine(machine: &ArrivingMachine, arrival: &Arrival) -> Result<(), PlanError> {
    let mut names = BTreeSet::new();
    let lists = machine
        .snapshots
        .iter()
        .map(|snapshot| snapshot.disks.iter().map(|disk| disk.0).collect());
    for disks in std::iter::once(machine.disks.clone()).chain(lists) {
        let each: BTreeSet<usize> = disks.iter().copied().collect();
        if disks.len() > DISKS_MAX {
            return Err(PlanError::TooManyDisks(machine.name.to_string()));
        }
        if let Some(twice) = disks.first().filter(|_| each.len() < disks.len()) {
            let image = arrival
                .images
                .get(*twice)
                .map_or_else(String::new, |image| image.name.to_string());
            return Err(PlanError::InMachine {
                image,
                machine: machine.name.to_string(),
            });
        }
    }
    match machine
        .snapshots
        .iter()
        .find(|snapshot| !names.insert(&snapshot.name))
    {
        Some(twice) => Err(PlanError::NameTaken(format!(
            "machine snapshot {}@{}",
            machine.name, twice.name
        ))),
        None => Ok(()),
    }
}

/// Fails if an image's mode does not let it be a disk of as many machines as have it.
fn check_users(arrival: &Arrival) -> Result<(), PlanError> {
    for (at, image) in arrival.images.iter().enumerate() {
        let mut users = arrival
            .machines
            .iter()
            .filter(|machine| machine.disks.contains(&at))
            .map(|machine| &machine.name);
        match (users.next(), users.next()) {
            (Some(user), _) if image.mode == Mode::Multiattach => {
                return Err(mode_conflict(
                    image,
                    format!(
                        "machine {user} has the image itself among its disks, not a child of it"
                    ),
                ));
            }
            (Some(first), Some(second)) if !image.mode.is_for_several() => {
                return Err(mode_conflict(
                    image,
                    format!("machines {first} and {second} both have it"),
                ));
            }
            _ => {}
        }
        let is_parent = |child: &ArrivingImage| child.origin == Some(ArrivingOrigin::Arriving(at));
        if let (Mode::Shareable, Some(child)) = (
            image.mode,
            arrival.images.iter().find(|child| is_parent(child)),
        ) {
            return Err(mode_conflict(
                image,
                format!("{} was created from it", child.name),
            ));
        }
    }
    Ok(())
}

fn mode_conflict(image: &ArrivingImage, reason: String) -> PlanError {
    PlanError::ModeConflict {
        image: image.name.to_string(),
        mode: image.mode,
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::ContentId;
    use crate::units::ChunkLen;

    fn name(text: &str) -> Name {
        Name::new(text).expect("a name")
    }

    /// A layer as an arrival brings it.
    fn sealed(tree: &mut Tree, len: u64) -> Layer {
        Layer {
            sealed: true,
            content: Some(ContentId([len as u8; 16])),
            ..tree.blank_layer(None, len, 0)
        }
    }

    fn image(text: &str, layer: LayerId) -> ArrivingImage {
        let snapshot = ArrivingSnapshot {
            name: name("s"),
            layer,
            created_ms: 1,
            marks: Marks {
                pinned: true,
                ..Marks::default()
            },
        };
        ArrivingImage {
            name: name(text),
            layer,
            mode: Mode::Normal,
            origin: None,
            created_ms: 0,
            marks: Marks {
                tags: [name("t")].into(),
                ..Marks::default()
            },
            snapshots: vec![snapshot],
        }
    }

    fn machine(disks: Vec<usize>) -> ArrivingMachine {
        let disk = (0, Mode::Normal, Some(0));
        let configuration = NewConfiguration::new(b"cpus: 1").ok();
        let snapshot = ArrivingMachineSnapshot {
            name: name("s"),
            disks: vec![disk],
            configuration: configuration.clone(),
            created_ms: 3,
        };
        ArrivingMachine {
            name: name("m"),
            disks,
            configuration,
            created_ms: 2,
            snapshots: vec![snapshot],
            scratches: Vec::new(),
        }
    }

    fn arrival(tree: &mut Tree) -> Arrival {
        let layers = vec![sealed(tree, 4096), sealed(tree, 8192)];
        let mut images = vec![image("a", layers[0].id), image("b", layers[1].id)];
        images[1].origin = Some(ArrivingOrigin::Arriving(0));
        Arrival {
            layers,
            images,
            machines: vec![machine(vec![0])],
        }
    }

    #[test]
    fn shape_names_and_marks_arrive() {
        let mut tree = Tree::new(ChunkLen::DEFAULT);
        let arrival = arrival(&mut tree);
        let (nodes, edits) = tree.plan_receive(&arrival, 9).expect("free");
        tree.apply_edits(&edits);
        let (a, b) = (nodes[0].image_id(), nodes[1].image_id());
        assert_eq!(tree.image(b).and_then(|image| image.origin), Some(a));
        let snapshot = tree
            .snapshot_named(a, &name("s"))
            .expect("a snapshot")
            .clone();
        assert!(
            snapshot.marks.pinned
                && tree
                    .layer(snapshot.layer)
                    .is_some_and(|layer| layer.content.is_some())
        );
        assert_eq!(
            tree.layer_of(nodes[1])
                .map(|layer| (layer.len, layer.sealed, layer.content)),
            Some((8192, false, None))
        );
        let machine = tree
            .machines()
            .machine_named(&name("m"))
            .expect("a machine")
            .clone();
        let kept = tree
            .machines()
            .snapshots_of(machine.id)
            .next()
            .expect("its snapshot");
        assert_eq!(
            (machine.disks, kept.disks[0].snapshot),
            (vec![a], Some(snapshot.serial))
        );
        assert_eq!(
            kept.configuration, machine.configuration,
            "one file for both"
        );
        assert!(
            matches!(tree.plan_receive(&arrival, 9), Err(PlanError::NameTaken(_))),
            "a second time"
        );
    }

    #[test]
    fn what_could_not_be_made_here_does_not_arrive() {
        let hostile: [(&str, fn(&mut Arrival)); 15] = [
            ("twice", |arrival| arrival.images[1].name = name("a")),
            ("snapshot twice", |arrival| {
                let again = arrival.images[0].snapshots[0].clone();
                arrival.images[0].snapshots.push(again);
            }),
            ("no such layer", |arrival| {
                arrival.images[0].layer = LayerId(99);
            }),
            ("no such snapshot layer", |arrival| {
                arrival.images[0].snapshots[0].layer = LayerId(99);
            }),
            ("an active layer", |arrival| {
                arrival.layers[0].sealed = false;
            }),
            ("no such origin", |arrival| {
                arrival.images[1].origin = Some(ArrivingOrigin::Arriving(2));
            }),
            ("no such disk", |arrival| {
                arrival.machines[0].disks = vec![2];
            }),
            ("a disk twice", |arrival| {
                arrival.machines[0].disks = vec![0, 0];
            }),
            ("no such kept snapshot", |arrival| {
                arrival.machines[0].snapshots[0].disks[0].2 = Some(1);
            }),
            ("a machine twice", |arrival| {
                arrival.machines.push(machine(vec![1]));
            }),
            ("a shared disk", |arrival| {
                arrival.machines.push(ArrivingMachine {
                    name: name("n"),
                    ..machine(vec![0])
                });
            }),
            ("a shareable parent", |arrival| {
                arrival.images[0].snapshots.clear();
                arrival.machines.clear();
                arrival.images[0].mode = Mode::Shareable;
            }),
            ("what was written to a disk that keeps it", |arrival| {
                arrival.machines[0].scratches = vec![(0, arrival.layers[0].id)];
            }),
            ("no such written layer", |arrival| {
                arrival.images[0].mode = Mode::Immutable { autoreset: true };
                arrival.machines[0].scratches = vec![(0, LayerId(99))];
            }),
            ("a multiattach disk", |arrival| {
                arrival.images[0].mode = Mode::Multiattach;
            }),
        ];
        for (what, spoil) in hostile {
            let mut tree = Tree::new(ChunkLen::DEFAULT);
            let mut arrival = arrival(&mut tree);
            spoil(&mut arrival);
            assert!(tree.plan_receive(&arrival, 9).is_err(), "{what}");
        }
    }
}
