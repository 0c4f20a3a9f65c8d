//! Keeps the present state of an image or a machine that a restore is about to replace.
//!
//! This happens without a request: a state that no snapshot shows gets a snapshot, under a name
//! that is free.

use super::{
    Image, KeptDisk, Mode, NodeRef, PlanError, ScratchUse, Tree, VirtualMachine,
    VirtualMachineSnapshot,
};
use crate::name::Name;
use crate::units::{ImageId, LayerId, MachineId};

/// Names of states that were kept without being asked for begin so; a number follows.
const KEPT_PREFIX: &str = "before-restore-";

/// The place of the present state of something once it is replaced; `S` is a snapshot that is
/// there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PresentState<S> {
    /// That snapshot shows it already: nothing has changed since.
    Shown(S),
    /// No snapshot does. This name is free for one.
    Unnamed(Name),
}

impl<S> PresentState<S> {
    /// The name for a snapshot of it, if it needs one.
    #[must_use]
    pub fn needed_name(&self) -> Option<&Name> {
        match self {
            Self::Shown(_) => None,
            Self::Unnamed(name) => Some(name),
        }
    }
}

impl Tree {
    /// Finds the present state of `image` for the time after it is replaced.
    pub fn present_state(&self, image: ImageId) -> Result<PresentState<NodeRef>, PlanError> {
        let layer = self.present_layer(image)?;
        // The newest first: it is the one that people know it by.
        let mut snapshots = self.snapshots_of(image).rev();
        let shown = snapshots.find(|snapshot| Some(snapshot.layer) == layer);
        if let Some(snapshot) = shown {
            return Ok(PresentState::Shown(NodeRef::Snapshot(
                image,
                snapshot.serial,
            )));
        }
        let names = self.snapshots_of(image).map(|snapshot| &snapshot.name);
        Ok(PresentState::Unnamed(free_name(names)))
    }

    /// Finds the present state of machine `id` for the time after it is replaced: its disks, their
    /// modes and contents, and its configuration file. A machine's snapshot that shows it is given
    /// by its serial.
    pub fn present_machine_state(&self, id: MachineId) -> Result<PresentState<u64>, PlanError> {
        let machine = self.machines().get(id).ok_or(PlanError::Gone)?;
        let mut snapshots = self.machines().snapshots_of(id).rev();
        if let Some(snapshot) =
            snapshots.find(|snapshot| self.shows_machine_state(snapshot, machine))
        {
            return Ok(PresentState::Shown(snapshot.serial));
        }
        let of_machine = self.machines().snapshots_of(id);
        let of_disks = machine
            .disks
            .iter()
            .flat_map(|disk| self.snapshots_of(*disk));
        let names = of_machine
            .map(|snapshot| &snapshot.name)
            .chain(of_disks.map(|snapshot| &snapshot.name));
        Ok(PresentState::Unnamed(free_name(names)))
    }

    /// The sealed layer with all of an image's present content; none if something was written since
    /// there was one.
    fn present_layer(&self, image: ImageId) -> Result<Option<LayerId>, PlanError> {
        let image = self.image(image).ok_or(PlanError::Gone)?;
        let active = self.layer(image.layer).ok_or(PlanError::Gone)?;
        Ok(self.same_as_parent(active))
    }

    fn shows_machine_state(
        &self,
        snapshot: &VirtualMachineSnapshot,
        machine: &VirtualMachine,
    ) -> bool {
        let kept = snapshot.disks.iter().map(|disk| disk.image);
        snapshot.configuration == machine.configuration
            && kept.eq(machine.disks.iter().copied())
            && snapshot
                .disks
                .iter()
                .all(|disk| self.is_as_kept(machine, disk))
    }

    fn is_as_kept(&self, machine: &VirtualMachine, kept: &KeptDisk) -> bool {
        let Some(image) = self.image(kept.image) else {
            return false;
        };
        let Some(serial) = kept.snapshot else {
            // It takes no part in snapshots, unless it was given another mode since.
            return !image.mode.is_kept();
        };
        let then = self
            .snapshot(kept.image, serial)
            .map(|snapshot| snapshot.layer);
        image.mode == kept.mode && self.shown_layer(machine, image) == then
    }

    /// The sealed layer with all that `machine` sees of its disk `image`; none if there is none.
    fn shown_layer(&self, machine: &VirtualMachine, image: &Image) -> Option<LayerId> {
        if !matches!(image.mode, Mode::Immutable { .. }) {
            return self.present_layer(image.id).ok()?;
        }
        let using = ScratchUse {
            base: image.id,
            machine: Some(machine.id),
        };
        match self.scratch_view(using).ok()?.node {
            NodeRef::Image(shown) => self.present_layer(shown).ok()?,
            NodeRef::Snapshot(id, serial) => Some(self.snapshot(id, serial)?.layer),
        }
    }
}

/// A name after all of its kind among `taken`, so that their numbers tell their order.
fn free_name<'a>(taken: impl Iterator<Item = &'a Name>) -> Name {
    let number = |name: &Name| -> Option<u64> {
        let number = name.as_str().strip_prefix(KEPT_PREFIX)?;
        number.parse().ok().filter(|number| *number < u64::MAX)
    };
    let last = taken.filter_map(number).max().unwrap_or(0);
    Name::new(&format!("{KEPT_PREFIX}{}", last + 1)).expect("letters and a number are a name")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Mode, TreeEdit};
    use crate::units::ChunkLen;

    fn name(text: &str) -> Name {
        Name::new(text).expect("a name")
    }

    fn applied<T>(tree: &mut Tree, (done, edits): (T, Vec<TreeEdit>)) -> T {
        tree.apply_edits(&edits);
        done
    }

    /// A tree with image `web`.
    fn tree() -> (Tree, ImageId) {
        let mut tree = Tree::new(ChunkLen::DEFAULT);
        let planned = tree.plan_create(&name("web"), 1 << 20, 0).expect("free");
        tree.apply_edits(&planned.edits);
        (tree, planned.node.image_id())
    }

    fn take(tree: &mut Tree, image: ImageId, text: &str) -> u64 {
        let planned = tree.plan_snapshot(image, &name(text), 0).expect("free");
        tree.apply_edits(&planned.edits);
        let NodeRef::Snapshot(_, serial) = planned.node else {
            unreachable!("a snapshot was taken")
        };
        serial
    }

    /// Writes to the image as a guest would.
    fn write(tree: &mut Tree, image: ImageId) {
        let layer = tree.image(image).expect("it is there").layer;
        let mut layer = crate::tree::Layer::clone(tree.layer(layer).expect("it is there"));
        layer.pages.insert(crate::units::PageIndex(0));
        tree.apply_edits(&[TreeEdit::PutLayer(layer)]);
    }

    #[test]
    fn a_state_is_kept_unless_a_snapshot_shows_it() {
        let (mut tree, web) = tree();
        let unnamed = |text| Ok(PresentState::Unnamed(name(text)));
        assert_eq!(tree.present_state(web), unnamed("before-restore-1"));
        let first = take(&mut tree, web, "first");
        let shown = Ok(PresentState::Shown(NodeRef::Snapshot(web, first)));
        assert_eq!(tree.present_state(web), shown);
        write(&mut tree, web);
        assert_eq!(tree.present_state(web), unnamed("before-restore-1"));
        // Names of the kind that are there, in any order and of any length.
        for taken in ["before-restore-9", "before-restore-007", "before-restore-x"] {
            take(&mut tree, web, taken);
        }
        write(&mut tree, web);
        assert_eq!(tree.present_state(web), unnamed("before-restore-10"));
        take(&mut tree, web, "before-restore-18446744073709551615");
        write(&mut tree, web);
        assert_eq!(tree.present_state(web), unnamed("before-restore-10"));
    }

    #[test]
    fn another_length_is_another_state() {
        let (mut tree, web) = tree();
        take(&mut tree, web, "first");
        let layer = tree.image(web).expect("it is there").layer;
        let mut longer = crate::tree::Layer::clone(tree.layer(layer).expect("it is there"));
        longer.len *= 2;
        tree.apply_edits(&[TreeEdit::PutLayer(longer)]);
        assert!(matches!(
            tree.present_state(web),
            Ok(PresentState::Unnamed(_))
        ));
    }

    #[test]
    fn a_machine_is_kept_unless_all_of_it_is_as_a_snapshot_shows() {
        let (mut tree, web) = tree();
        let planned = tree.plan_machine(&name("vm"), None, 0);
        let vm = applied(&mut tree, planned.expect("free"));
        let planned = tree.plan_add_disk(vm, web, 0);
        applied(&mut tree, planned.expect("no disk of another"));
        // A snapshot of the image alone has the first name already.
        take(&mut tree, web, "before-restore-1");
        let unnamed = Ok(PresentState::Unnamed(name("before-restore-2")));
        assert_eq!(tree.present_machine_state(vm), unnamed);
        let planned = tree.plan_machine_snapshot(vm, &name("monday"), 0);
        let monday = applied(&mut tree, planned.expect("free"));
        let shown = Ok(PresentState::Shown(monday));
        assert_eq!(tree.present_machine_state(vm), shown);
        let before = tree.clone();
        write(&mut tree, web);
        assert_eq!(tree.present_machine_state(vm), unnamed, "content");
        tree = before.clone();
        let edits = tree.plan_mode(web, Mode::Readonly).expect("it may be");
        tree.apply_edits(&edits);
        assert_eq!(tree.present_machine_state(vm), unnamed, "mode");
        tree = before.clone();
        let edits = tree.plan_remove_disk(vm, web).expect("it has it");
        tree.apply_edits(&edits);
        assert!(tree.present_machine_state(vm) != shown, "disks");
        tree = before;
        let file = crate::tree::NewConfiguration::new(b"new").expect("short");
        let edits = tree.plan_configure(vm, Some(file)).expect("it is there");
        tree.apply_edits(&edits);
        assert_eq!(tree.present_machine_state(vm), unnamed, "configuration");
    }
}
