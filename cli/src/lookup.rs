//! Looks up what a verb's words name: an image, a snapshot, or a name that is still free.
//!
//! Verbs that change, overwrite or delete take whole names: the same words a second time must never
//! hit a neighbour whose name only begins so. Verbs that only read (`_to_read`) also take a prefix
//! that only one name has.

use vellum_core::name::{Name, NameError, NodeSpec};
use vellum_core::tree::{MachineSnapshot, Node, Tree};
use vellum_core::units::{ImageId, MachineId};
use vellum_store::Store;

use crate::failure::Failure;

/// The image of which `text` is the whole name: to be changed.
pub(crate) fn image(store: &Store, text: &str) -> Result<ImageId, Failure> {
    only_image(store.find_whole(text)?, text)
}

/// The image that `text` means, or begins: to look at.
pub(crate) fn image_to_read(store: &Store, text: &str) -> Result<ImageId, Failure> {
    only_image(store.find(text)?, text)
}

fn only_image(node: Node, text: &str) -> Result<ImageId, Failure> {
    match node {
        Node::Image(image) => Ok(image),
        Node::Snapshot(..) => {
            let advice = format!("`vellum create NAME -b {text}` makes an image of it");
            Err(Failure::usage(
                format!("{text} is a snapshot, which never changes: this needs an image"),
                advice,
            ))
        }
    }
}

/// The snapshot of which `text` is the whole name: to be changed, or to go back to.
pub(crate) fn snapshot(store: &Store, text: &str) -> Result<(ImageId, u64), Failure> {
    only_snapshot(store.find_whole(text)?, text)
}

/// The snapshot that `text` means, or begins: to look at.
pub(crate) fn snapshot_to_read(store: &Store, text: &str) -> Result<(ImageId, u64), Failure> {
    only_snapshot(store.find(text)?, text)
}

fn only_snapshot(node: Node, text: &str) -> Result<(ImageId, u64), Failure> {
    match node {
        Node::Snapshot(image, serial) => Ok((image, serial)),
        Node::Image(_) => Err(no_snapshot(text)),
    }
}

/// The image before the `@` and the name behind it, which is to be a new snapshot's.
pub(crate) fn new_snapshot(store: &Store, text: &str) -> Result<(ImageId, Name), Failure> {
    let spec = NodeSpec::parse(text);
    let name = spec.snapshot.ok_or_else(|| no_snapshot(text))?;
    let name = Name::new(&name).map_err(|error| Failure::name(&name, error))?;
    Ok((image(store, &spec.image)?, name))
}

/// The machine of which `text` is the whole name, and that: to be changed.
pub(crate) fn machine(store: &Store, text: &str) -> Result<(MachineId, String), Failure> {
    refuse_snapshot(text)?;
    let tree = store.tree();
    let machine = tree.find_whole_machine(text)?;
    Ok((machine.id, machine.name.to_string()))
}

/// The machine that `text` means, or begins, and its whole name: to look at.
pub(crate) fn machine_to_read(store: &Store, text: &str) -> Result<(MachineId, String), Failure> {
    refuse_snapshot(text)?;
    let tree = store.tree();
    let machine = tree.find_machine(text)?;
    Ok((machine.id, machine.name.to_string()))
}

fn refuse_snapshot(text: &str) -> Result<(), Failure> {
    if text.contains('@') {
        return Err(Failure::usage(
            format!("{text} is a machine's snapshot: this needs a machine"),
            "leave out the @ and what follows",
        ));
    }
    Ok(())
}

/// A machine's snapshot: its machine, its serial, and its whole name.
pub(crate) type FoundMachineSnapshot = (MachineId, u64, String);

/// The machine's snapshot of which `text` is the whole name: to be changed, or to go back to.
pub(crate) fn machine_snapshot(store: &Store, text: &str) -> Result<FoundMachineSnapshot, Failure> {
    let (machine, snapshot) = split(text)?;
    let tree = store.tree();
    let machine = tree.find_whole_machine(&machine)?;
    let snapshot = tree.find_whole_machine_snapshot(machine, &snapshot)?;
    Ok(found_machine_snapshot(&tree, snapshot))
}

/// The machine's snapshot that `text` means, or begins: to look at.
pub(crate) fn machine_snapshot_to_read(
    store: &Store,
    text: &str,
) -> Result<FoundMachineSnapshot, Failure> {
    let (machine, snapshot) = split(text)?;
    let tree = store.tree();
    let snapshot = tree.find_machine_snapshot(tree.find_machine(&machine)?, &snapshot)?;
    Ok(found_machine_snapshot(&tree, snapshot))
}

fn found_machine_snapshot(tree: &Tree, snapshot: &MachineSnapshot) -> FoundMachineSnapshot {
    let name = tree.machines().display(snapshot);
    (snapshot.machine, snapshot.serial, name)
}

fn split(text: &str) -> Result<(String, String), Failure> {
    let spec = NodeSpec::parse(text);
    Ok((spec.image, spec.snapshot.ok_or_else(|| no_snapshot(text))?))
}

/// The machine before the `@`, its whole name, and the name behind it, which is to be a new
/// snapshot's.
pub(crate) fn new_machine_snapshot(
    store: &Store,
    text: &str,
) -> Result<(MachineId, String, Name), Failure> {
    let (machine_name, snapshot) = split(text)?;
    let snapshot = Name::new(&snapshot).map_err(|error| Failure::name(&snapshot, error))?;
    let (machine, name) = machine(store, &machine_name)?;
    Ok((machine, name, snapshot))
}

/// A name, for the command line.
pub(crate) fn name(text: &str) -> Result<Name, NameError> {
    Name::new(text)
}

fn no_snapshot(text: &str) -> Failure {
    Failure::usage(
        format!("{text:?} names no snapshot"),
        format!("write {text}@SNAPSHOT"),
    )
}
