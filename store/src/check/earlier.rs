//! Names the images and snapshots that fall back to an earlier state because the database's log is
//! damaged, as far as the records behind the damage can be read.

use std::collections::BTreeSet;

use vellum_core::page::{Page, parse_page_key};
use vellum_core::tree::{Image, Layer, NodeRef, Snapshot, Tree};
use vellum_core::units::{ImageId, LayerId};

use super::{CheckRun, ContentLoss};
use crate::database::Family;
use crate::error::StoreError;
use crate::records;
use crate::repair::{LoggedChange, LoggedOperation, decode_operations};
use crate::store::Access;

impl CheckRun<'_> {
    /// Names what was changed by records of the log that are not shown, since they lie behind one
    /// that cannot be read.
    pub(super) fn report_hidden_changes(&mut self) -> Result<(), StoreError> {
        let is_shown_whole = self.store.gravest_fault().is_none();
        if self.store.access_mode() == Access::ReadWrite || is_shown_whole {
            return Ok(());
        }
        let later = crate::logs::records_behind_damage(&self.store.inner.folder.database_path())?;
        let fallen: BTreeSet<String> = {
            let tree = self.store.tree();
            let changes = later.iter().flat_map(|record| decode_operations(record));
            changes
                .flat_map(|change| changed_nodes(&change, &tree))
                .collect()
        };
        if fallen.is_empty() {
            return Ok(());
        }
        let reason = "what it says behind a damaged record is not shown";
        self.report_damage("the log of the database", reason, ContentLoss::Nothing);
        if let Some(finding) = self.report.findings.last_mut() {
            finding.images = fallen.into_iter().map(|name| (name, 0..u64::MAX)).collect();
        }
        Ok(())
    }
}

/// The images and snapshots that `change` is about. Records prove themselves by their checksums, so
/// which family one is of need not be known.
fn changed_nodes(change: &LoggedOperation, tree: &Tree) -> Vec<String> {
    let key = change.key.as_slice();
    let LoggedChange::Put(value) = &change.change else {
        return node_at(key)
            .filter(|node| tree.layer_of(*node).is_some())
            .map(|node| tree.display_name(node))
            .into_iter()
            .collect();
    };
    if let Ok(image) = records::decode_record::<Image>(Family::Names.family_name(), key, value) {
        let is_news = tree.image(image.id) != Some(&image);
        return is_news
            .then(|| image.name.to_string())
            .into_iter()
            .collect();
    }
    if let Ok(snapshot) =
        records::decode_record::<Snapshot>(Family::Names.family_name(), key, value)
    {
        let image = tree
            .image(snapshot.image)
            .map(|image| image.name.to_string());
        let image = image.unwrap_or_else(|| snapshot.image.to_string());
        let is_news = tree.snapshot(snapshot.image, snapshot.serial) != Some(&snapshot);
        let name = format!("{image}@{}", snapshot.name);
        return is_news.then_some(name).into_iter().collect();
    }
    if let Ok(layer) = records::decode_record::<Layer>(Family::Layers.family_name(), key, value) {
        let shown = tree.layer(layer.id);
        let is_news =
            shown.is_none_or(|shown| shown.pages != layer.pages || shown.len != layer.len);
        return if is_news {
            shown_by(layer.id, tree)
        } else {
            Vec::new()
        };
    }
    match parse_page_key(key) {
        Ok((layer, index)) if Page::decode(layer, index, value).is_ok() => shown_by(layer, tree),
        _ => Vec::new(),
    }
}

/// The image or snapshot whose record is at `key` of the names.
fn node_at(key: &[u8]) -> Option<NodeRef> {
    let (kind, rest) = key.split_first()?;
    let (image, rest) = rest.split_first_chunk::<8>()?;
    let image = ImageId(u64::from_be_bytes(*image));
    match (kind, rest.first_chunk::<8>()) {
        (b'i', None) => Some(NodeRef::Image(image)),
        (b's', Some(serial)) => Some(NodeRef::Snapshot(image, u64::from_be_bytes(*serial))),
        _ => None,
    }
}

/// The images and snapshots whose own layer is `layer`.
fn shown_by(layer: LayerId, tree: &Tree) -> Vec<String> {
    tree.all_nodes()
        .filter(|node| tree.layer_of(*node).is_some_and(|own| own.id == layer))
        .map(|node| tree.display_name(node))
        .collect()
}
