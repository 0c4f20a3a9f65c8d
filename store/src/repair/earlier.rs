//! Finds the images and snapshots that fall back when the end of the log is given up, as far as the
//! records that can still be read tell.

use std::collections::BTreeSet;

use vellum_core::page::parse_page_key;
use vellum_core::tree::{Image, Layer, Snapshot, VirtualMachine, VirtualMachineSnapshot};
use vellum_core::units::LayerId;

use super::batch::{LoggedChange, LoggedOperation, decode_operations};
use super::inventory::family_named;
use super::manifest::Manifest;
use super::maps::RecordCatalog;
use crate::database::Family;
use crate::records;

/// Describes the changes in `later` for the user; `books` has the names and numbers that the store
/// shows without them.
pub(super) fn fallen_back(
    later: &[Vec<u8>],
    manifest: &Manifest,
    books: &RecordCatalog,
) -> Vec<String> {
    let mut told = BTreeSet::new();
    for operation in later.iter().flat_map(|record| decode_operations(record)) {
        let family = manifest.families.get(&operation.family);
        match family.and_then(|family| family_named(&family.name)) {
            Some(Family::Names) => told.extend(name_of(&operation, books)),
            Some(Family::Layers) => told.extend(shown_by(&operation, books)),
            Some(Family::Pages) => {
                let page = parse_page_key(&operation.key).into_iter();
                let names = page.flat_map(|(layer, _)| books.shown_by(layer));
                told.extend(names.map(|name| describe_write(&name)));
            }
            _ => {}
        }
    }
    told.into_iter().collect()
}

fn describe_write(name: &str) -> String {
    format!("{name}: what was written to it last")
}

/// Describes a change of a name.
fn name_of(operation: &LoggedOperation, books: &RecordCatalog) -> Option<String> {
    let (key, family) = (operation.key.as_slice(), Family::Names.family_name());
    let LoggedChange::Put(value) = &operation.change else {
        return describe_deletion(key, books);
    };
    match key.first()? {
        b'i' => {
            let image = records::decode_record::<Image>(family, key, value).ok()?;
            let known = books.images.get(&image.id);
            (known != Some(&image)).then(|| match known {
                None => format!("image {}: its creation", image.name),
                Some(_) => format!("image {}: its last changes", image.name),
            })
        }
        b's' => {
            let snapshot = records::decode_record::<Snapshot>(family, key, value).ok()?;
            Some(format!("snapshot {}", books.snapshot_name(&snapshot)))
        }
        b'm' => {
            let machine = records::decode_record::<VirtualMachine>(family, key, value).ok()?;
            Some(format!("machine {}: its last changes", machine.name))
        }
        b't' => {
            let kept = records::decode_record::<VirtualMachineSnapshot>(family, key, value).ok()?;
            let machine = books
                .machines
                .iter()
                .find(|machine| machine.id == kept.machine);
            let name = machine.map_or_else(
                || kept.machine.to_string(),
                |machine| machine.name.to_string(),
            );
            Some(format!("machine snapshot {name}@{}", kept.name))
        }
        _ => None,
    }
}

/// Describes the image or snapshot that comes back because its deletion is given up.
fn describe_deletion(key: &[u8], books: &RecordCatalog) -> Option<String> {
    let (kind, rest) = key.split_first()?;
    let (id, rest) = rest.split_first_chunk::<8>()?;
    let id = vellum_core::units::ImageId(u64::from_be_bytes(*id));
    match kind {
        b'i' => {
            let image = books.images.get(&id)?;
            Some(format!("image {}: its deletion", image.name))
        }
        b's' => {
            let serial = u64::from_be_bytes(*rest.first_chunk::<8>()?);
            let snapshot = books.snapshots.get(&(id, serial))?;
            Some(format!(
                "snapshot {}: its deletion",
                books.snapshot_name(snapshot)
            ))
        }
        _ => None,
    }
}

fn shown_by(operation: &LoggedOperation, books: &RecordCatalog) -> Vec<String> {
    let Some(id) = operation
        .key
        .first_chunk::<8>()
        .map(|id| LayerId(u64::from_be_bytes(*id)))
    else {
        return Vec::new();
    };
    if let LoggedChange::Put(value) = &operation.change {
        let layer =
            records::decode_record::<Layer>(Family::Layers.family_name(), &operation.key, value)
                .ok();
        // Sealing changes nothing that is shown.
        let content = |layer: &Layer| (layer.pages.clone(), layer.chunks, layer.zeros, layer.len);
        if layer.as_ref().map(content) == books.layers.get(&id).map(content) {
            return Vec::new();
        }
    }
    books
        .shown_by(id)
        .iter()
        .map(|name| describe_write(name))
        .collect()
}
