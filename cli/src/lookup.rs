//! From what a person wrote to what a verb needs: an image, a snapshot, or a name that is still
//! free.

use vellum_core::name::{Name, NameError, NodeSpec};
use vellum_core::tree::Node;
use vellum_core::units::{ImageId, MachineId};
use vellum_store::Store;

use crate::failure::Failure;

/// The image that `text` means.
pub(crate) fn image(store: &Store, text: &str) -> Result<ImageId, Failure> {
    match store.find(text)? {
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

/// The snapshot that `text` means.
pub(crate) fn snapshot(store: &Store, text: &str) -> Result<(ImageId, u64), Failure> {
    match store.find(text)? {
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

/// The machine that `text` means, and its whole name.
pub(crate) fn machine(store: &Store, text: &str) -> Result<(MachineId, String), Failure> {
    if text.contains('@') {
        return Err(Failure::usage(
            format!("{text} is a machine's snapshot: this needs a machine"),
            "leave out the @ and what follows",
        ));
    }
    let tree = store.tree();
    let machine = tree.find_machine(text)?;
    Ok((machine.id, machine.name.to_string()))
}

/// The machine's snapshot that `text` means: its machine, its serial, and its whole name.
pub(crate) fn machine_snapshot(
    store: &Store,
    text: &str,
) -> Result<(MachineId, u64, String), Failure> {
    let spec = NodeSpec::parse(text);
    let snapshot = spec.snapshot.ok_or_else(|| no_snapshot(text))?;
    let tree = store.tree();
    let snapshot = tree.find_machine_snapshot(tree.find_machine(&spec.image)?, &snapshot)?;
    Ok((
        snapshot.machine,
        snapshot.serial,
        tree.machines().display(snapshot),
    ))
}

/// The machine before the `@`, its whole name, and the name behind it, which is to be a new
/// snapshot's.
pub(crate) fn new_machine_snapshot(
    store: &Store,
    text: &str,
) -> Result<(MachineId, String, Name), Failure> {
    let spec = NodeSpec::parse(text);
    let snapshot = spec.snapshot.ok_or_else(|| no_snapshot(text))?;
    let snapshot = Name::new(&snapshot).map_err(|error| Failure::name(&snapshot, error))?;
    let (machine, name) = machine(store, &spec.image)?;
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
