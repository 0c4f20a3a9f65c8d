//! Looks up what a verb's words name: an image, a snapshot, or a name that is still free.
//!
//! Verbs that change, overwrite or delete take whole names: the same words a second time must never
//! hit a neighbour whose name only begins so. Verbs that only read (`_to_read`) also take a prefix
//! that only one name has.

use vellum_core::name::{Name, NameError, NodeSpec};
use vellum_core::tree::{NodeRef, Tree, VirtualMachineSnapshot};
use vellum_core::units::{ImageId, MachineId};
use vellum_store::Store;

use crate::failure::CommandFailure;

/// The image of which `text` is the whole name: to be changed.
pub(crate) fn find_image(store: &Store, text: &str) -> Result<ImageId, CommandFailure> {
    only_image(store.find_whole(text)?, text)
}

/// The image that `text` means, or begins: to look at.
pub(crate) fn image_to_read(store: &Store, text: &str) -> Result<ImageId, CommandFailure> {
    only_image(store.find_node(text)?, text)
}

fn only_image(node: NodeRef, text: &str) -> Result<ImageId, CommandFailure> {
    match node {
        NodeRef::Image(image) => Ok(image),
        NodeRef::Snapshot(..) => {
            let advice = format!("`vellum create NAME -b {text}` makes an image of it");
            Err(CommandFailure::usage_error(
                format!("{text} is a snapshot, which never changes: this needs an image"),
                advice,
            ))
        }
    }
}

/// The snapshot of which `text` is the whole name: to be changed, or to go back to.
pub(crate) fn find_snapshot(store: &Store, text: &str) -> Result<(ImageId, u64), CommandFailure> {
    only_snapshot(store.find_whole(text)?, text)
}

/// The nodes that `text` names by whole names: one, or, as `IMAGE@FIRST..@LAST`, the snapshots from
/// the first to the last, those two included.
pub(crate) fn nodes_in_range(store: &Store, text: &str) -> Result<Vec<NodeRef>, CommandFailure> {
    let Some((from, last)) = text.split_once("..@") else {
        return Ok(vec![store.find_whole(text)?]);
    };
    let (image, first) = find_snapshot(store, from)?;
    let name = NodeSpec::parse(from).image;
    let (_, last) = find_snapshot(store, &format!("{name}@{last}"))?;
    if first > last {
        return Err(CommandFailure::usage_error(
            format!("{text}: the second snapshot is older than the first"),
            "write the older one first",
        ));
    }
    let tree = store.tree();
    let inside = tree
        .snapshots_of(image)
        .filter(|snapshot| (first..=last).contains(&snapshot.serial));
    Ok(inside
        .map(|snapshot| NodeRef::Snapshot(image, snapshot.serial))
        .collect())
}

/// The snapshot that `text` means, or begins: to look at.
pub(crate) fn snapshot_to_read(
    store: &Store,
    text: &str,
) -> Result<(ImageId, u64), CommandFailure> {
    only_snapshot(store.find_node(text)?, text)
}

fn only_snapshot(node: NodeRef, text: &str) -> Result<(ImageId, u64), CommandFailure> {
    match node {
        NodeRef::Snapshot(image, serial) => Ok((image, serial)),
        NodeRef::Image(_) => Err(no_snapshot(text)),
    }
}

/// The image before the `@` and the name behind it, which is to be a new snapshot's.
pub(crate) fn new_snapshot(store: &Store, text: &str) -> Result<(ImageId, Name), CommandFailure> {
    let spec = NodeSpec::parse(text);
    let name = spec.snapshot.ok_or_else(|| no_snapshot(text))?;
    let name = Name::new(&name).map_err(|error| CommandFailure::invalid_name(&name, error))?;
    Ok((find_image(store, &spec.image)?, name))
}

/// The machine of which `text` is the whole name, and that: to be changed.
pub(crate) fn find_machine(
    store: &Store,
    text: &str,
) -> Result<(MachineId, String), CommandFailure> {
    refuse_snapshot(text)?;
    let tree = store.tree();
    let machine = tree.find_whole_machine(text)?;
    Ok((machine.id, machine.name.to_string()))
}

/// The machine that `text` means, or begins, and its whole name: to look at.
pub(crate) fn machine_to_read(
    store: &Store,
    text: &str,
) -> Result<(MachineId, String), CommandFailure> {
    refuse_snapshot(text)?;
    let tree = store.tree();
    let machine = tree.find_machine(text)?;
    Ok((machine.id, machine.name.to_string()))
}

fn refuse_snapshot(text: &str) -> Result<(), CommandFailure> {
    if text.contains('@') {
        return Err(CommandFailure::usage_error(
            format!("{text} is a machine's snapshot: this needs a machine"),
            "leave out the @ and what follows",
        ));
    }
    Ok(())
}

/// A machine's snapshot: its machine, its serial, and its whole name.
pub(crate) type FoundMachineSnapshot = (MachineId, u64, String);

/// The machine's snapshot of which `text` is the whole name: to be changed, or to go back to.
pub(crate) fn machine_snapshot(
    store: &Store,
    text: &str,
) -> Result<FoundMachineSnapshot, CommandFailure> {
    let (machine, snapshot) = split_snapshot_name(text)?;
    let tree = store.tree();
    let machine = tree.find_whole_machine(&machine)?;
    let snapshot = tree.find_whole_machine_snapshot(machine, &snapshot)?;
    Ok(found_machine_snapshot(&tree, snapshot))
}

/// The machine's snapshot that `text` means, or begins: to look at.
pub(crate) fn machine_snapshot_to_read(
    store: &Store,
    text: &str,
) -> Result<FoundMachineSnapshot, CommandFailure> {
    let (machine, snapshot) = split_snapshot_name(text)?;
    let tree = store.tree();
    let snapshot = tree.find_machine_snapshot(tree.find_machine(&machine)?, &snapshot)?;
    Ok(found_machine_snapshot(&tree, snapshot))
}

fn found_machine_snapshot(tree: &Tree, snapshot: &VirtualMachineSnapshot) -> FoundMachineSnapshot {
    let name = tree.machines().snapshot_display_name(snapshot);
    (snapshot.machine, snapshot.serial, name)
}

fn split_snapshot_name(text: &str) -> Result<(String, String), CommandFailure> {
    let spec = NodeSpec::parse(text);
    Ok((spec.image, spec.snapshot.ok_or_else(|| no_snapshot(text))?))
}

/// The machine before the `@`, its whole name, and the name behind it, which is to be a new
/// snapshot's.
pub(crate) fn new_machine_snapshot(
    store: &Store,
    text: &str,
) -> Result<(MachineId, String, Name), CommandFailure> {
    let (machine_name, snapshot) = split_snapshot_name(text)?;
    let snapshot =
        Name::new(&snapshot).map_err(|error| CommandFailure::invalid_name(&snapshot, error))?;
    let (machine, name) = find_machine(store, &machine_name)?;
    Ok((machine, name, snapshot))
}

/// A name, for the command line.
pub(crate) fn parse_name(text: &str) -> Result<Name, NameError> {
    Name::new(text)
}

fn no_snapshot(text: &str) -> CommandFailure {
    CommandFailure::usage_error(
        format!("{text:?} names no snapshot"),
        format!("write {text}@SNAPSHOT"),
    )
}
