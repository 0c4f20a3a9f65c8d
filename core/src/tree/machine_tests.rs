//! Modes and machines against a model: what each image shows, and what each machine's snapshot must
//! bring back.
//!
//! There are no maps here: a written layer holds one number, and a disk shows the number of the
//! first written layer of its chain.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Attachment, DISKS_MAX, Layer, Mode, NewConfiguration, NodeRef, PlanError, ScratchUse, Tree,
    TreeEdit, VirtualMachineSnapshot,
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

fn used_by(machine: MachineId, base: ImageId) -> ScratchUse {
    ScratchUse {
        base,
        machine: Some(machine),
    }
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

    fn apply(&mut self, edits: &[TreeEdit]) {
        for edit in edits {
            match edit {
                TreeEdit::PutConfiguration(id, bytes) => {
                    drop(self.files.insert(*id, bytes.to_vec()));
                }
                TreeEdit::DropConfiguration(id) => {
                    assert!(self.files.remove(id).is_some(), "a file that goes is there");
                }
                _ => {}
            }
        }
        self.tree.apply_edits(edits);
    }

    fn image(&mut self, text: &str, mode: Mode) -> ImageId {
        let planned = self
            .tree
            .plan_create(&name(text), 1 << 20, 0)
            .expect("create");
        self.apply(&planned.edits);
        self.set_mode(planned.node.image_id(), mode)
            .expect("a new image can have any mode");
        planned.node.image_id()
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

    /// Writes as a guest does that attached `image`: to the image, its scratch, or not at all.
    fn write(&mut self, image: ImageId, value: u64) -> Option<ImageId> {
        let text = self.tree.image(image)?.name.to_string();
        let target = match self.tree.resolve_attachment(&text)? {
            Attachment::Write(image) => image,
            Attachment::Scratch(using) => self.scratch(using),
            Attachment::Read(_) | Attachment::NewChild { .. } => return None,
        };
        self.put(target, value);
        Some(target)
    }

    /// The scratch image, as whoever writes there finds it.
    fn scratch(&mut self, using: ScratchUse) -> ImageId {
        let planned = self
            .tree
            .plan_scratch(using, None, 0)
            .expect("a scratch image");
        self.apply(&planned.edits);
        planned.node.image_id()
    }

    /// Writes as the guest of `machine` does.
    fn write_as(&mut self, machine: MachineId, image: ImageId, value: u64) {
        let has_it = |owner: &super::VirtualMachine| owner.id == machine;
        let mode = self.tree.image(image).map(|image| image.mode);
        if !self.tree.machines().machines_using(image).any(has_it) {
            return;
        }
        match mode {
            Some(Mode::Immutable { .. }) => {
                let scratch = self.scratch(used_by(machine, image));
                self.put(scratch, value);
            }
            _ => drop(self.write(image, value)),
        }
    }

    /// The content that the guest of `machine` would see.
    fn view(&self, machine: MachineId, image: ImageId) -> u64 {
        let mode = self.tree.image(image).map(|image| image.mode);
        if !matches!(mode, Some(Mode::Immutable { .. })) {
            return self.show(image);
        }
        let view = self.tree.scratch_view(used_by(machine, image));
        self.seen(view.expect("it is there").node)
    }

    fn power(&mut self, machine: MachineId, on: bool) -> Result<(), PlanError> {
        let edits = if on {
            self.tree.plan_start(machine, 0)?
        } else {
            self.tree.plan_stop(machine)?
        };
        self.apply(&edits);
        Ok(())
    }

    /// The guest that wrote to the scratch image `id` says goodbye.
    fn end_session(&mut self, id: ImageId) {
        let edits = self.tree.plan_session_end(id);
        self.apply(&edits);
    }

    fn put(&mut self, image: ImageId, value: u64) {
        let mut layer = Layer::clone(self.tree.layer_of(NodeRef::Image(image)).expect("a layer"));
        assert!(!layer.sealed, "what is written is not sealed");
        layer.pages.insert(PageIndex(0));
        layer.chunks = value;
        self.apply(&[TreeEdit::PutLayer(layer)]);
    }

    fn seen(&self, node: NodeRef) -> u64 {
        let layer = self.tree.layer_of(node).expect("a layer").id;
        self.tree
            .chain_from(layer)
            .find(|layer| !layer.is_blank())
            .map_or(0, |layer| layer.chunks)
    }

    fn show(&self, image: ImageId) -> u64 {
        self.seen(NodeRef::Image(image))
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
                self.tree.chain_from(layer.id).count() <= self.tree.layers().count(),
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
            let has_snapshots = self.tree.snapshots_of(image.id).next().is_some();
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
            let using = ScratchUse {
                base: base.id,
                machine: image.scratch_for,
            };
            assert_eq!(
                self.tree.scratch_for(using).map(|one| one.id),
                Some(image.id)
            );
            if let Some(machine) = image.scratch_for {
                let machine = self.tree.machines().get(machine);
                assert!(machine.is_some_and(|machine| machine.disks.contains(&base.id)));
            }
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
                    image.mode.is_for_several() || machines.machines_using(*disk).count() == 1,
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
#[expect(clippy::too_many_lines, reason = "one history, in its order")]
fn going_back_brings_disks_modes_and_configuration_back() {
    let mut world = World::new();
    let images = MODES.map(|mode| {
        world.image(
            &format!(
                "{}{}",
                mode,
                matches!(mode, Mode::Immutable { autoreset: true })
            ),
            mode,
        )
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
    let file = NewConfiguration::new(b"other").expect("short");
    let edits = world
        .tree
        .plan_configure(machine, Some(file))
        .expect("configured");
    world.apply(&edits);
    let joined = world.image("joined", Mode::Normal);
    world.add(machine, joined).expect("added");
    let edits = world
        .tree
        .plan_remove_disk(machine, normal)
        .expect("removed");
    world.apply(&edits);
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
        [1, 1],
        "immutable disks are as their guest saw them"
    );
    let now = world
        .tree
        .machines()
        .get(machine)
        .expect("it is there")
        .clone();
    assert_eq!(
        now.disks, disks,
        "the disk that left is back, the one that joined is out"
    );
    assert_eq!(
        world.tree.image(normal).expect("it is there").mode,
        Mode::Normal
    );
    assert_eq!(
        world.files[&now.configuration.expect("it has one").id],
        b"vm"
    );
    assert!(world.tree.image(joined).is_some(), "and still an image");

    let late = world
        .tree
        .machines()
        .snapshot_named(machine, &name("late"))
        .expect("what was left is kept")
        .serial;
    world.restore(machine, late, None).expect("and forth");
    let now = world
        .tree
        .machines()
        .get(machine)
        .expect("it is there")
        .clone();
    assert!(now.disks.contains(&joined) && !now.disks.contains(&normal));
    assert_eq!(
        (
            world.show(child),
            &world.files[&now.configuration.expect("it has one").id][..]
        ),
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
    let edits = world
        .tree
        .plan_remove_disk(machine, image)
        .expect("removed");
    world.apply(&edits);
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
    let edits = world
        .tree
        .plan_delete_machine_snapshot(machine, serial)
        .expect("deleted");
    world.apply(&edits);
    assert_eq!(world.tree.snapshots_of(image).count(), 0);
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
                    .plan_child(&name("c"), NodeRef::Image(image), None, 0)
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
        let attached = world.tree.resolve_attachment("a").expect("it is there");
        let expected = match mode {
            Mode::Readonly | Mode::Multiattach => Attachment::Read(NodeRef::Image(image)),
            Mode::Immutable { .. } => Attachment::Scratch(ScratchUse {
                base: image,
                machine: None,
            }),
            _ => Attachment::Write(image),
        };
        assert_eq!(attached, expected, "{mode}");
        let child = world.tree.resolve_attachment("a+vm");
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
        .plan_child(&name("c"), NodeRef::Image(base), None, 0)
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
#[expect(clippy::too_many_lines, reason = "one history, in its order")]
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
        world.tree.resolve_attachment("gold+scratch"),
        None,
        "it is no export of its own"
    );
    for refused in [
        world.tree.plan_mode(scratch, Mode::Normal).map(drop),
        world.tree.plan_snapshot(scratch, &name("s"), 0).map(drop),
        world
            .tree
            .plan_rename(NodeRef::Image(scratch), &name("x"))
            .map(drop),
        world.tree.plan_resize(scratch, 1, true, 0).map(drop),
        world.tree.check_rebase(scratch, NodeRef::Image(base)),
    ] {
        assert!(
            matches!(refused, Err(PlanError::Scratch { .. })),
            "{refused:?}"
        );
    }
    let edits = world
        .tree
        .plan_rename(NodeRef::Image(base), &name("silver"))
        .expect("renamed");
    world.apply(&edits);
    assert_eq!(
        world
            .tree
            .image(scratch)
            .expect("it is there")
            .name
            .as_str(),
        "silver+scratch"
    );
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
        (
            world.show(scratch),
            world.tree.image(scratch).expect("stays").scratch_of
        ),
        (8, None),
        "written ones become images"
    );
    world
        .set_mode(base, Mode::Immutable { autoreset: true })
        .expect("immutable again");
    let second = world.write(base, 9).expect("a scratch image");
    assert_eq!(
        world.tree.image(second).expect("it is there").name.as_str(),
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
    let child = |world: &World, text: &str| match world.tree.resolve_attachment(text) {
        Some(Attachment::NewChild { base, name }) => Some((
            world.tree.display_name(NodeRef::Image(base)),
            name.to_string(),
        )),
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
        assert_eq!(world.tree.resolve_attachment(bad), None, "{bad:?}");
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
        matches!(
            world.tree.resolve_attachment("gold+7"),
            Some(Attachment::Write(_))
        ),
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

fn expected(world: &World, snapshot: &VirtualMachineSnapshot) -> Expected {
    let state = |image: ImageId| {
        world
            .tree
            .image(image)
            .map(|image| (image.mode, world.view(snapshot.machine, image.id)))
    };
    snapshot
        .disks
        .iter()
        .map(|disk| (disk.image, disk.snapshot.and_then(|_| state(disk.image))))
        .collect()
}

#[test]
#[expect(clippy::too_many_lines, reason = "one history, in its order")]
fn machines_go_back_to_what_they_were_after_any_operations() {
    for seed in 0..40 {
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::new();
        let machines = [world.machine("vm1"), world.machine("vm2")];
        let mut taken: BTreeMap<(MachineId, u64), Expected> = BTreeMap::new();
        for value in 1..300 {
            let images: Vec<ImageId> = world.tree.images().map(|image| image.id).collect();
            let machine = machines[random.usize(..2)];
            let text = world.name();
            let Some(image) = random.choice(&images).copied() else {
                world.image(text.as_str(), Mode::Normal);
                continue;
            };
            let some = random.choice(taken.keys().copied().collect::<Vec<_>>());
            match random.u8(..24) {
                0..3 => drop(world.write(image, value)),
                3..5 => world.write_as(machine, image, value),
                20..22 => drop(world.power(machine, random.bool())),
                22..24 => world.end_session(image),
                5 if images.len() < 6 => drop(world.image(text.as_str(), Mode::Normal)),
                6..8 => drop(world.set_mode(image, MODES[random.usize(..MODES.len())])),
                8..11 => drop(world.add(machine, image)),
                11 => drop(
                    world
                        .tree
                        .plan_remove_disk(machine, image)
                        .map(|edits| world.apply(&edits)),
                ),
                12..14 => {
                    if let Ok(serial) = world.take(machine, text.as_str()) {
                        let snapshot = world
                            .tree
                            .machines()
                            .snapshot_with_serial(machine, serial)
                            .expect("it was taken")
                            .clone();
                        taken.insert((machine, serial), expected(&world, &snapshot));
                    }
                }
                14..17 => {
                    let Some((machine, serial)) = some else {
                        continue;
                    };
                    let save = random.bool().then_some(text.as_str());
                    if world.restore(machine, serial, save).is_ok() {
                        let snapshot = world
                            .tree
                            .machines()
                            .snapshot_with_serial(machine, serial)
                            .expect("it stays")
                            .clone();
                        let wanted = &taken[&(machine, serial)];
                        assert!(
                            expected(&world, &snapshot).eq(wanted),
                            "seed {seed}: {wanted:?}"
                        );
                        let disks = &world
                            .tree
                            .machines()
                            .get(machine)
                            .expect("it is there")
                            .disks;
                        assert!(
                            disks
                                .iter()
                                .eq(snapshot.disks.iter().map(|disk| &disk.image))
                        );
                    }
                }
                17 => {
                    let Some((machine, serial)) = some else {
                        continue;
                    };
                    let edits = world
                        .tree
                        .plan_delete_machine_snapshot(machine, serial)
                        .expect("nothing is pinned");
                    world.apply(&edits);
                    taken.remove(&(machine, serial));
                }
                18 => {
                    let file = NewConfiguration::new(&[value as u8]).expect("short");
                    let edits = world
                        .tree
                        .plan_configure(machine, Some(file))
                        .expect("configured");
                    world.apply(&edits);
                }
                _ => drop(
                    world
                        .tree
                        .plan_delete_image(image, true)
                        .map(|edits| world.apply(&edits)),
                ),
            }
            // Machines that were restored with a saved state have a snapshot more.
            for snapshot in world.tree.machines().all_snapshots() {
                for (image, serial) in snapshot
                    .disks
                    .iter()
                    .filter_map(|disk| Some((disk.image, disk.snapshot?)))
                {
                    if let Some(Some((_, content))) = taken
                        .get(&(snapshot.machine, snapshot.serial))
                        .map(|known| known[&image])
                    {
                        assert_eq!(
                            world.seen(NodeRef::Snapshot(image, serial)),
                            content,
                            "seed {seed}: a snapshot keeps still"
                        );
                    }
                }
            }
            world.check();
        }
    }
}

#[test]
fn a_scratch_starts_afresh_when_its_guest_is_switched_on_and_not_before() {
    let mut world = World::new();
    let gold = world.image("gold", Mode::Immutable { autoreset: true });
    let nobody = world.tree.scratch_use(gold);
    let view = |world: &World| {
        let view = world.tree.scratch_view(nobody).expect("it is there");
        world.seen(view.node)
    };
    assert_eq!(view(&world), 0);
    let scratch = world.write(gold, 5).expect("a scratch image");
    assert_eq!(
        (world.write(gold, 6), view(&world)),
        (Some(scratch), 6),
        "it goes on"
    );
    let seen = world.tree.scratch_view(nobody).ok();
    world.end_session(scratch);
    assert_eq!(
        (view(&world), world.show(scratch)),
        (0, 6),
        "it can be looked at until somebody writes"
    );
    let stale = world.tree.plan_scratch(nobody, seen, 0);
    assert!(
        matches!(stale, Err(PlanError::StartedAfresh(_))),
        "{stale:?}"
    );
    assert_eq!(world.scratch(nobody), scratch);
    assert_eq!((view(&world), world.show(scratch)), (0, 0));
    world.put(scratch, 7);
    assert_eq!(view(&world), 7);
    // Of one that is kept until it is reset nothing is ever over.
    world
        .set_mode(gold, Mode::Immutable { autoreset: false })
        .expect("changed");
    world.end_session(scratch);
    world.scratch(nobody);
    assert_eq!(view(&world), 7);
    let edits = world.tree.plan_reset(gold, 0).expect("reset");
    world.apply(&edits);
    assert_eq!(view(&world), 0);
    world.check();
}

#[test]
fn each_machine_has_its_own_scratch_until_it_is_switched_on() {
    let mut world = World::new();
    let gold = world.image("gold", Mode::Immutable { autoreset: true });
    let nobodys = world.write(gold, 1).expect("a scratch image");
    let (first, second) = (world.machine("vm1"), world.machine("vm2"));
    world.add(first, gold).expect("added");
    world
        .add(second, gold)
        .expect("an immutable image is for several");
    let scratch = |world: &World, machine| world.tree.scratch_for(used_by(machine, gold)).cloned();
    assert_eq!(
        scratch(&world, first).map(|scratch| scratch.id),
        Some(nobodys),
        "a guest that writes already belongs to the first machine"
    );
    for (text, machine) in [("gold", first), ("gold+vm1", first), ("gold+vm2", second)] {
        let expected = Attachment::Scratch(used_by(machine, gold));
        assert_eq!(
            world.tree.resolve_attachment(text),
            Some(expected),
            "{text}"
        );
    }
    assert_eq!(world.tree.resolve_attachment("gold+vm3"), None);
    world.write_as(second, gold, 2);
    assert_eq!((world.view(first, gold), world.view(second, gold)), (1, 2));
    let name = scratch(&world, second).expect("it wrote").name;
    assert_eq!(name.as_str(), "gold+vm2");
    world.power(second, true).expect("it was off");
    assert!(matches!(world.power(second, true), Err(PlanError::Runs(_))));
    assert_eq!((world.view(first, gold), world.view(second, gold)), (1, 0));
    world.write_as(second, gold, 3);
    world.end_session(scratch(&world, second).expect("it wrote").id);
    assert_eq!(world.view(second, gold), 3, "it runs");
    world.power(second, false).expect("it was on");
    assert!(matches!(
        world.power(second, false),
        Err(PlanError::RunsNot(_))
    ));
    assert_eq!(world.view(second, gold), 0);
    assert_eq!(world.show(scratch(&world, second).expect("it stays").id), 3);
    world.check();
    let edits = world.tree.plan_remove_disk(second, gold).expect("removed");
    world.apply(&edits);
    assert!(scratch(&world, second).is_none());
    let edits = world
        .tree
        .plan_delete_machine(first, false)
        .expect("deleted");
    world.apply(&edits);
    assert_eq!(world.tree.image(nobodys).expect("stays").scratch_for, None);
    world.check();
}

/// As virtual-machine managers have it: the state that a machine is switched on with is that of its
/// last snapshot.
#[test]
fn a_machine_starts_with_its_last_snapshot_of_an_immutable_disk() {
    let mut world = World::new();
    let gold = world.image("gold", Mode::Immutable { autoreset: true });
    let machines = [world.machine("vm1"), world.machine("vm2")];
    for machine in machines {
        world.add(machine, gold).expect("added");
        world.power(machine, true).expect("it was off");
        world.write_as(machine, gold, machine.0);
    }
    let restart = |world: &mut World, machine| {
        world.power(machine, false).expect("it was on");
        world.power(machine, true).expect("it was off");
    };
    let serials = machines.map(|machine| world.take(machine, "s").expect("a snapshot"));
    for machine in machines {
        world.write_as(machine, gold, 50);
        assert_eq!(world.view(machine, gold), 50);
        restart(&mut world, machine);
        assert_eq!(world.view(machine, gold), machine.0, "the snapshot's");
        world.write_as(machine, gold, 60);
    }
    world
        .restore(machines[0], serials[0], Some("late"))
        .expect("restored");
    assert_eq!(
        machines.map(|machine| world.view(machine, gold)),
        [machines[0].0, 60],
        "the other machine has its own"
    );
    let late = world
        .tree
        .machines()
        .snapshot_named(machines[0], &name("late"));
    let late = late.expect("it was kept").serial;
    world.restore(machines[0], late, None).expect("restored");
    restart(&mut world, machines[0]);
    assert_eq!(world.view(machines[0], gold), 60);
    for serial in [late, serials[0]] {
        let edits = world.tree.plan_delete_machine_snapshot(machines[0], serial);
        world.apply(&edits.expect("nothing is pinned"));
    }
    restart(&mut world, machines[0]);
    assert_eq!(
        (world.view(machines[0], gold), world.show(gold)),
        (0, 0),
        "the image's"
    );
    world.check();
}
