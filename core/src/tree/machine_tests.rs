//! Modes and machines against a model: what each image shows, and what each machine's snapshot must
//! bring back.
//!
//! There are no maps here: a written layer holds one number, and a disk shows the number of the
//! first written layer of its chain.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Attachment, DISKS_MAX, Edit, Image, Layer, MachineSnapshot, Mode, NewConfiguration, Node,
    PlanError, Tree,
};
use crate::name::Name;
use crate::units::{ChunkLen, ConfigurationId, ImageId, MachineId, PageIndex};

const MODES: [Mode; 7] = [
    Mode::Normal,
    Mode::Immutable { autoreset: true },
    Mode::Immutable { autoreset: false },
    Mode::Writethrough,
    Mode::Shareable,
    Mode::Readonly,
    Mode::Multiattach,
];

fn name(text: &str) -> Name {
    Name::new(text).expect("a valid name")
}

/// A tree, and the configuration files that a store would hold.
struct World {
    tree: Tree,
    files: BTreeMap<ConfigurationId, Vec<u8>>,
    names: u32,
}

impl World {
    fn new() -> Self {
        Self {
            tree: Tree::new(ChunkLen::DEFAULT),
            files: BTreeMap::new(),
            names: 0,
        }
    }

    fn name(&mut self) -> Name {
        self.names += 1;
        name(&format!("n{}", self.names))
    }

    fn apply(&mut self, edits: &[Edit]) {
        for edit in edits {
            match edit {
                Edit::PutConfiguration(id, bytes) => drop(self.files.insert(*id, bytes.to_vec())),
                Edit::DropConfiguration(id) => {
                    assert!(self.files.remove(id).is_some(), "a file that goes is there");
                }
                _ => {}
            }
        }
        self.tree.apply(edits);
    }

    fn image(&mut self, text: &str, mode: Mode) -> ImageId {
        let planned = self
            .tree
            .plan_create(&name(text), 1 << 20, 0)
            .expect("create");
        self.apply(&planned.edits);
        self.set_mode(planned.node.image(), mode)
            .expect("a new image can have any mode");
        planned.node.image()
    }

    fn set_mode(&mut self, image: ImageId, mode: Mode) -> Result<(), PlanError> {
        self.tree
            .plan_mode(image, mode)
            .map(|edits| self.apply(&edits))
    }

    fn machine(&mut self, text: &str) -> MachineId {
        let file = NewConfiguration::new(text.as_bytes()).expect("a short file");
        let (id, edits) = self
            .tree
            .plan_machine(&name(text), Some(file), 0)
            .expect("a machine");
        self.apply(&edits);
        id
    }

    fn add(&mut self, machine: MachineId, image: ImageId) -> Result<ImageId, PlanError> {
        let (disk, edits) = self.tree.plan_add_disk(machine, image, 0)?;
        self.apply(&edits);
        Ok(disk)
    }

    fn take(&mut self, machine: MachineId, text: &str) -> Result<u64, PlanError> {
        let (serial, edits) = self.tree.plan_machine_snapshot(machine, &name(text), 0)?;
        self.apply(&edits);
        Ok(serial)
    }

    fn restore(
        &mut self,
        machine: MachineId,
        serial: u64,
        save_as: Option<&str>,
    ) -> Result<(), PlanError> {
        let edits =
            self.tree
                .plan_machine_restore(machine, serial, save_as.map(name).as_ref(), 0)?;
        self.apply(&edits);
        Ok(())
    }

    fn configure_with(&mut self, machine: MachineId, text: &[u8]) {
        let file = NewConfiguration::new(text).expect("a short file");
        let edits = self.tree.plan_configure(machine, Some(file));
        self.apply(&edits.expect("configured"));
    }

    fn take_disk_out(&mut self, machine: MachineId, image: ImageId) -> Result<(), PlanError> {
        self.tree
            .plan_remove_disk(machine, image)
            .map(|edits| self.apply(&edits))
    }

    fn rename_image(&mut self, image: ImageId, text: &str) {
        let edits = self.tree.plan_rename(Node::Image(image), &name(text));
        self.apply(&edits.expect("renamed"));
    }

    fn delete_snapshot_of(&mut self, machine: MachineId, serial: u64) {
        let edits = self.tree.plan_delete_machine_snapshot(machine, serial);
        self.apply(&edits.expect("nothing is pinned"));
    }

    fn image_now(&self, image: ImageId) -> &Image {
        self.tree.image(image).expect("it is there")
    }

    fn disks_of(&self, machine: MachineId) -> &[ImageId] {
        let machines = self.tree.machines();
        &machines.get(machine).expect("it is there").disks
    }

    fn configuration_of(&self, machine: MachineId) -> &[u8] {
        let machine = self.tree.machines().get(machine).expect("it is there");
        &self.files[&machine.configuration.expect("it has one").id]
    }

    fn snapshot_of_machine(&self, machine: MachineId, serial: u64) -> &MachineSnapshot {
        let taken = self.tree.machines().snapshot(machine, serial);
        taken.expect("it was taken")
    }

    /// Writes as a guest does that attached `image`: to the image, its scratch, or not at all.
    fn write(&mut self, image: ImageId, value: u64) -> Option<ImageId> {
        let text = self.tree.image(image)?.name.to_string();
        let target = match self.tree.attachment(&text)? {
            Attachment::Write(image) => image,
            Attachment::Scratch(base) => {
                let planned = self.tree.plan_scratch(base, 0).expect("a scratch image");
                self.apply(&planned.edits);
                planned.node.image()
            }
            Attachment::Read(_) | Attachment::NewChild { .. } => return None,
        };
        self.put(target, value);
        Some(target)
    }

    fn put(&mut self, image: ImageId, value: u64) {
        let mut layer = Layer::clone(self.tree.layer_of(Node::Image(image)).expect("a layer"));
        assert!(!layer.sealed, "what is written is not sealed");
        layer.pages.insert(PageIndex(0));
        layer.chunks = value;
        self.apply(&[Edit::PutLayer(layer)]);
    }

    fn seen(&self, node: Node) -> u64 {
        let layer = self.tree.layer_of(node).expect("a layer").id;
        self.tree
            .chain(layer)
            .find(|layer| !layer.is_blank())
            .map_or(0, |layer| layer.chunks)
    }

    fn show(&self, image: ImageId) -> u64 {
        self.seen(Node::Image(image))
    }

    /// Checks the invariants of every tree, whatever was done.
    fn check(&self) {
        for layer in self.tree.layers() {
            let parent = layer
                .parent
                .map(|parent| self.tree.layer(parent).expect("a parent is there"));
            assert!(
                parent.is_none_or(|parent| parent.sealed),
                "a parent is sealed before it has a child"
            );
            assert!(
                self.tree.chain(layer.id).count() <= self.tree.layers().count(),
                "a chain ends"
            );
        }
        let tops: Vec<_> = self.tree.images().map(|image| image.layer).collect();
        assert_eq!(
            tops.iter().collect::<BTreeSet<_>>().len(),
            tops.len(),
            "each image writes to its own layer"
        );
        assert!(
            tops.iter()
                .all(|top| self.tree.layer(*top).is_some_and(|layer| !layer.sealed))
        );
        self.check_modes();
        self.check_machines();
    }

    fn check_modes(&self) {
        for image in self.tree.images() {
            let has_snapshots = self.tree.snapshots(image.id).next().is_some();
            assert!(
                !(matches!(image.mode, Mode::Writethrough | Mode::Shareable) && has_snapshots),
                "{} has snapshots",
                image.mode
            );
            let Some(base) = image.scratch_of else {
                continue;
            };
            let base = self
                .tree
                .image(base)
                .expect("a scratch image goes with its base");
            assert!(
                matches!(base.mode, Mode::Immutable { .. }),
                "only immutable images have scratch images"
            );
            assert!(!has_snapshots);
        }
    }

    fn check_machines(&self) {
        let machines = self.tree.machines();
        let mut needed = BTreeSet::new();
        for machine in machines.iter() {
            needed.extend(machine.configuration.map(|configuration| configuration.id));
            for disk in &machine.disks {
                let image = self.tree.image(*disk).expect("a machine's disk is there");
                assert!(
                    image.mode.is_for_several() || machines.users(*disk).count() == 1,
                    "{} has two machines",
                    image.name
                );
            }
        }
        for snapshot in machines.all_snapshots() {
            needed.extend(snapshot.configuration.map(|configuration| configuration.id));
            for disk in &snapshot.disks {
                assert!(
                    self.tree.image(disk.image).is_some(),
                    "what a snapshot needs is there"
                );
                assert!(
                    disk.snapshot
                        .is_none_or(|serial| self.tree.snapshot(disk.image, serial).is_some())
                );
                assert_eq!(disk.snapshot.is_some(), disk.mode.is_kept());
            }
        }
        assert!(
            self.files.keys().eq(&needed),
            "the files that are needed, and no other"
        );
    }
}

#[test]
fn going_back_brings_disks_modes_and_configuration_back() {
    let mut world = World::new();
    let images = MODES.map(|mode| {
        let text = world.name();
        world.image(text.as_str(), mode)
    });
    let machine = world.machine("vm");
    let disks = images.map(|image| {
        world
            .add(machine, image)
            .expect("an image of any mode can be a disk")
    });
    let [normal, afresh, kept, through, shared, read, child] = disks;
    assert_ne!(
        child, images[6],
        "of a multiattach image the machine gets a child"
    );
    for (image, value) in [(normal, 1), (through, 1), (shared, 1), (child, 1)] {
        assert_eq!(world.write(image, value), Some(image));
    }
    let scratches = [afresh, kept].map(|image| world.write(image, 1).expect("a scratch image"));
    assert_eq!(world.write(read, 1), None);
    let early = world.take(machine, "early").expect("a snapshot");
    for (value, image) in (20..).zip([normal, afresh, kept, through, shared, child]) {
        world.write(image, value);
    }
    world.configure_with(machine, b"other");
    let joined = world.image("joined", Mode::Normal);
    world.add(machine, joined).expect("added");
    world.take_disk_out(machine, normal).expect("removed");
    world
        .set_mode(normal, Mode::Readonly)
        .expect("another mode");

    world
        .restore(machine, early, Some("late"))
        .expect("restored");
    world.check();
    let shown = [normal, afresh, kept, through, shared, read, child].map(|image| world.show(image));
    assert_eq!(shown, [1, 0, 0, 23, 24, 0, 1]);
    assert_eq!(
        scratches.map(|scratch| world.show(scratch)),
        [0, 0],
        "what was written to immutable disks is forgotten"
    );
    assert_eq!(
        world.disks_of(machine),
        disks,
        "the disk that left is back, the one that joined is out"
    );
    assert_eq!(world.image_now(normal).mode, Mode::Normal);
    assert_eq!(world.configuration_of(machine), b"vm");
    assert!(world.tree.image(joined).is_some(), "and still an image");

    let late = world
        .tree
        .machines()
        .snapshot_named(machine, &name("late"))
        .expect("what was left is kept")
        .serial;
    world.restore(machine, late, None).expect("and forth");
    let disks = world.disks_of(machine);
    assert!(disks.contains(&joined) && !disks.contains(&normal));
    assert_eq!(
        (world.show(child), world.configuration_of(machine)),
        (25, &b"other"[..])
    );
    world.check();
}

#[test]
fn what_a_machine_snapshot_needs_cannot_be_deleted_and_goes_with_it() {
    let mut world = World::new();
    let (image, machine) = (world.image("a", Mode::Normal), world.machine("vm"));
    world.add(machine, image).expect("added");
    assert!(matches!(
        world.tree.plan_delete_image(image, true),
        Err(PlanError::InMachine { .. })
    ));
    let serial = world.take(machine, "s").expect("taken");
    let kept = world
        .tree
        .snapshot_named(image, &name("s"))
        .expect("the image has it too")
        .serial;
    world.take_disk_out(machine, image).expect("removed");
    assert!(matches!(
        world.tree.plan_delete_image(image, true),
        Err(PlanError::Kept { .. })
    ));
    assert!(matches!(
        world.tree.plan_delete_snapshot(image, kept),
        Err(PlanError::Kept { .. })
    ));
    assert!(matches!(
        world.set_mode(image, Mode::Writethrough),
        Err(PlanError::ModeConflict { .. })
    ));
    assert!(matches!(
        world.tree.plan_delete_machine(machine, false),
        Err(PlanError::HasSnapshots { .. })
    ));
    world.delete_snapshot_of(machine, serial);
    assert_eq!(world.tree.snapshots(image).count(), 0);
    let edits = world
        .tree
        .plan_delete_image(image, false)
        .expect("nobody needs it");
    world.apply(&edits);
    let edits = world
        .tree
        .plan_delete_machine(machine, false)
        .expect("deleted");
    world.apply(&edits);
    world.check();
    assert!(world.files.is_empty());
}

#[test]
fn each_mode_allows_what_its_table_says() {
    for mode in MODES {
        let mut world = World::new();
        let image = world.image("a", mode);
        let stands_still = matches!(
            mode,
            Mode::Immutable { .. } | Mode::Readonly | Mode::Multiattach
        );
        let forbidden =
            |result: Result<(), PlanError>| matches!(result, Err(PlanError::ModeForbids { .. }));
        assert_eq!(
            forbidden(world.tree.plan_resize(image, 1, true, 0).map(drop)),
            stands_still,
            "resize {mode}"
        );
        assert_eq!(
            forbidden(world.tree.check_update(image, None)),
            stands_still,
            "update {mode}"
        );
        assert_eq!(
            forbidden(world.tree.plan_snapshot(image, &name("s"), 0).map(drop)),
            mode != Mode::Normal,
            "snapshot {mode}"
        );
        assert_eq!(
            forbidden(
                world
                    .tree
                    .plan_child(&name("c"), Node::Image(image), None, 0)
                    .map(drop)
            ),
            mode == Mode::Shareable,
            "{mode}"
        );
        let is_immutable = matches!(mode, Mode::Immutable { .. });
        assert_eq!(
            forbidden(world.tree.plan_reset(image, 0).map(drop)),
            !is_immutable,
            "reset {mode}"
        );
        let attached = world.tree.attachment("a").expect("it is there");
        let expected = match mode {
            Mode::Readonly | Mode::Multiattach => Attachment::Read(Node::Image(image)),
            Mode::Immutable { .. } => Attachment::Scratch(image),
            _ => Attachment::Write(image),
        };
        assert_eq!(attached, expected, "{mode}");
        let child = world.tree.attachment("a+vm");
        assert_eq!(child.is_some(), mode == Mode::Multiattach, "{mode}");
    }
}

#[test]
fn modes_that_go_with_nothing_are_refused_with_the_reason() {
    let conflict = |result: Result<(), PlanError>| match result {
        Err(PlanError::ModeConflict { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    let mut world = World::new();
    let image = world.image("a", Mode::Normal);
    let planned = world
        .tree
        .plan_snapshot(image, &name("s"), 0)
        .expect("a snapshot");
    world.apply(&planned.edits);
    assert_eq!(
        conflict(world.set_mode(image, Mode::Shareable)),
        "it has snapshots"
    );
    assert_eq!(
        conflict(world.set_mode(image, Mode::Writethrough)),
        "it has snapshots"
    );
    let base = world.image("b", Mode::Normal);
    let planned = world
        .tree
        .plan_child(&name("c"), Node::Image(base), None, 0)
        .expect("a child");
    world.apply(&planned.edits);
    assert_eq!(
        conflict(world.set_mode(base, Mode::Shareable)),
        "c was created from it"
    );
    let (first, second) = (world.machine("vm1"), world.machine("vm2"));
    world.add(first, image).expect("added");
    assert!(
        matches!(world.add(second, image), Err(PlanError::InMachine { .. })),
        "one writer"
    );
    assert!(conflict(world.set_mode(image, Mode::Multiattach)).contains("machine vm1"));
    world
        .set_mode(image, Mode::Readonly)
        .expect("nobody writes");
    world.add(second, image).expect("then it is for several");
    assert!(conflict(world.set_mode(image, Mode::Normal)).contains("machines vm1 and vm2"));
    world.check();
}

#[test]
fn a_scratch_image_lives_and_goes_with_its_base() {
    let mut world = World::new();
    let base = world.image("gold", Mode::Immutable { autoreset: false });
    let scratch = world.write(base, 5).expect("a scratch image");
    assert_eq!(
        (world.write(base, 6), world.show(base), world.show(scratch)),
        (Some(scratch), 0, 6),
        "the same one again"
    );
    assert_eq!(
        world.tree.attachment("gold+scratch"),
        None,
        "it is no export of its own"
    );
    for refused in [
        world.tree.plan_mode(scratch, Mode::Normal).map(drop),
        world.tree.plan_snapshot(scratch, &name("s"), 0).map(drop),
        world
            .tree
            .plan_rename(Node::Image(scratch), &name("x"))
            .map(drop),
        world.tree.plan_resize(scratch, 1, true, 0).map(drop),
        world.tree.check_rebase(scratch, Node::Image(base)),
    ] {
        assert!(
            matches!(refused, Err(PlanError::Scratch { .. })),
            "{refused:?}"
        );
    }
    world.rename_image(base, "silver");
    assert_eq!(world.image_now(scratch).name.as_str(), "silver+scratch");
    let edits = world.tree.plan_reset(base, 0).expect("reset");
    world.apply(&edits);
    assert_eq!(world.show(scratch), 0);
    world.set_mode(base, Mode::Normal).expect("normal");
    assert!(world.tree.image(scratch).is_none(), "a blank one goes");
    world
        .set_mode(base, Mode::Immutable { autoreset: true })
        .expect("immutable again");
    let scratch = world.write(base, 7).expect("a scratch image");
    world.write(base, 0);
    world.put(scratch, 8);
    world.set_mode(base, Mode::Normal).expect("normal");
    assert_eq!(
        (world.show(scratch), world.image_now(scratch).scratch_of),
        (8, None),
        "written ones become images"
    );
    world
        .set_mode(base, Mode::Immutable { autoreset: true })
        .expect("immutable again");
    let second = world.write(base, 9).expect("a scratch image");
    assert_eq!(
        world.image_now(second).name.as_str(),
        "silver+scratch2",
        "the name was taken"
    );
    let edits = world.tree.plan_delete_image(base, false).expect("deleted");
    world.apply(&edits);
    assert!(world.tree.image(second).is_none(), "it goes with its base");
    world.check();
}

#[test]
fn attachments_of_a_base_have_names_and_a_limit() {
    let mut world = World::new();
    let base = world.image("gold", Mode::Multiattach);
    world.image("gold+plus", Mode::Multiattach);
    let child = |world: &World, text: &str| match world.tree.attachment(text) {
        Some(Attachment::NewChild { base, name }) => {
            Some((world.tree.display(Node::Image(base)), name.to_string()))
        }
        _ => None,
    };
    assert_eq!(
        child(&world, "gold+vm"),
        Some(("gold".to_owned(), "gold+vm".to_owned()))
    );
    assert_eq!(
        child(&world, "gold+plus+vm").expect("a child").0,
        "gold+plus",
        "the longest name"
    );
    for bad in [
        "gold+",
        "gold+@x",
        "gold+/etc",
        "+vm",
        "",
        "gol",
        "gold+vm@x",
        "gold@",
        "@",
        &format!("gold+{}", "x".repeat(255)),
    ] {
        assert_eq!(world.tree.attachment(bad), None, "{bad:?}");
    }
    for nth in 0..super::ATTACHMENTS_MAX {
        let planned = world
            .tree
            .plan_attached_child(base, &name(&format!("gold+{nth}")), 0)
            .expect("room");
        world.apply(&planned.edits);
    }
    assert!(
        world
            .tree
            .plan_attached_child(base, &name("gold+more"), 0)
            .is_err()
    );
    assert!(
        matches!(world.tree.attachment("gold+7"), Some(Attachment::Write(_))),
        "one that is there is an image like others"
    );
    let machine = world.machine("vm");
    for nth in 0..DISKS_MAX {
        let image = world.image(&format!("d{nth}"), Mode::Normal);
        world.add(machine, image).expect("room");
    }
    let image = world.image("more", Mode::Normal);
    assert!(matches!(
        world.add(machine, image),
        Err(PlanError::TooManyDisks(_))
    ));
    assert!(NewConfiguration::new(&vec![0; super::CONFIGURATION_LEN_MAX + 1]).is_err());
    world.check();
}

/// The model's knowledge of a machine's snapshot: each disk, and what must come back of those that
/// are kept.
type Expected = BTreeMap<ImageId, Option<(Mode, u64)>>;

fn expected(world: &World, snapshot: &MachineSnapshot) -> Expected {
    let state = |image: ImageId| {
        world
            .tree
            .image(image)
            .map(|image| (image.mode, world.show(image.id)))
    };
    snapshot
        .disks
        .iter()
        .map(|disk| (disk.image, disk.snapshot.and_then(|_| state(disk.image))))
        .collect()
}

/// The model's knowledge of every machine's snapshot that was taken and not deleted.
type TakenSnapshots = BTreeMap<(MachineId, u64), Expected>;

#[test]
fn machines_go_back_to_what_they_were_after_any_operations() {
    for seed in 0..40 {
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::new();
        let machines = [world.machine("vm1"), world.machine("vm2")];
        let mut taken = TakenSnapshots::new();
        for value in 1..300 {
            let machine = machines[random.usize(..2)];
            change_at_random(&mut world, &mut taken, machine, value, &mut random);
            assert_snapshots_keep_still(&world, &taken);
            world.check();
        }
    }
}

/// Does one operation, to the world and to what the model knows of it.
fn change_at_random(
    world: &mut World,
    taken: &mut TakenSnapshots,
    machine: MachineId,
    value: u64,
    random: &mut fastrand::Rng,
) {
    let images: Vec<ImageId> = world.tree.images().map(|image| image.id).collect();
    let text = world.name();
    let Some(image) = random.choice(&images).copied() else {
        world.image(text.as_str(), Mode::Normal);
        return;
    };
    let some = random.choice(taken.keys().copied().collect::<Vec<_>>());
    match random.u8(..20) {
        0..5 => drop(world.write(image, value)),
        5 if images.len() < 6 => drop(world.image(text.as_str(), Mode::Normal)),
        6..8 => drop(world.set_mode(image, MODES[random.usize(..MODES.len())])),
        8..11 => drop(world.add(machine, image)),
        11 => drop(world.take_disk_out(machine, image)),
        12..14 => {
            if let Ok(serial) = world.take(machine, text.as_str()) {
                let state = expected(world, world.snapshot_of_machine(machine, serial));
                taken.insert((machine, serial), state);
            }
        }
        14..17 => {
            let Some((machine, serial)) = some else {
                return;
            };
            let save = random.bool().then_some(text.as_str());
            if world.restore(machine, serial, save).is_ok() {
                assert_machine_is_back(world, machine, serial, &taken[&(machine, serial)]);
            }
        }
        17 => {
            let Some((machine, serial)) = some else {
                return;
            };
            world.delete_snapshot_of(machine, serial);
            taken.remove(&(machine, serial));
        }
        18 => world.configure_with(machine, &[value as u8]),
        _ => drop(
            world
                .tree
                .plan_delete_image(image, true)
                .map(|edits| world.apply(&edits)),
        ),
    }
}

fn assert_machine_is_back(world: &World, machine: MachineId, serial: u64, wanted: &Expected) {
    let snapshot = world.snapshot_of_machine(machine, serial);
    assert_eq!(expected(world, snapshot), *wanted);
    let disks = snapshot.disks.iter().map(|disk| &disk.image);
    assert!(world.disks_of(machine).iter().eq(disks));
}

/// Asserts that snapshots show what they showed. Machines that were restored with a saved state
/// have a snapshot more.
fn assert_snapshots_keep_still(world: &World, taken: &TakenSnapshots) {
    for snapshot in world.tree.machines().all_snapshots() {
        let Some(known) = taken.get(&(snapshot.machine, snapshot.serial)) else {
            continue;
        };
        for disk in &snapshot.disks {
            if let (Some(serial), Some((_, content))) = (disk.snapshot, known[&disk.image]) {
                let node = Node::Snapshot(disk.image, serial);
                assert_eq!(world.seen(node), content, "a snapshot keeps still");
            }
        }
    }
}
