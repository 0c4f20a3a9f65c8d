//! Compares records that are kept twice: each must be as it was written, and have a copy that says
//! the same.
//!
//! If only one of the two is damaged, nothing is lost as long as the other stays whole; if both
//! are, the record is lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use vellum_core::tree::{NodeRef, Tree};
use vellum_core::units::{ImageId, LayerId};

use super::{CheckRun, ContentLoss};
use crate::database::{Family, key_of_copy};
use crate::error::StoreError;
use crate::records;

/// Records between two looks at whether to go on.
const RECORDS_PER_LOOK: u64 = 1 << 14;
/// Reads after which two records must still differ: a commit that falls between the two reads makes
/// them differ once.
const LOOKS_AGAIN: usize = 3;
/// Images and snapshots that are named of those that stand on a layer.
const NODES_NAMED_MAX: usize = 5;

/// Checksums of the records in one of the two places, by key.
#[derive(Default)]
struct RecordChecksums {
    sums: BTreeMap<Vec<u8>, u64>,
    /// True if every record of the place could be read.
    is_whole: bool,
}

impl CheckRun<'_> {
    pub(super) fn check_copies(&mut self) -> Result<(), StoreError> {
        for family in [Family::Layers, Family::Names, Family::Meta] {
            let own = self.read_checksums(family, family, &[])?;
            let copies = self.read_checksums(family, Family::Copies, &key_of_copy(family, &[]))?;
            self.compare_copies(family, &own, &copies);
        }
        Ok(())
    }

    /// Reads all records of `family` that are in `held_in` behind `prefix`.
    fn read_checksums(
        &mut self,
        family: Family,
        held_in: Family,
        prefix: &[u8],
    ) -> Result<RecordChecksums, StoreError> {
        let mut place = RecordChecksums {
            is_whole: true,
            ..RecordChecksums::default()
        };
        let database = Arc::clone(&self.store.inner.database);
        let mut count: u64 = 0;
        self.each_record(&database, held_in, prefix, &mut |check, read| {
            let (key, value) = match read {
                Ok(record) => record,
                Err(error) => {
                    place.is_whole = false;
                    return check.report_read_error(error, ContentLoss::Nothing);
                }
            };
            count += 1;
            if count.is_multiple_of(RECORDS_PER_LOOK) {
                check.go_on()?;
            }
            let key = &key[prefix.len()..];
            place.sums.insert(key.to_vec(), stored_checksum(value));
            if let Err(error) = records::verify_record(family.family_name(), key, value) {
                let what = check.record_name(family, key);
                let what = if held_in == Family::Copies {
                    format!("copy of {what}")
                } else {
                    what
                };
                check.report_damage(what, error, ContentLoss::Nothing);
            }
            Ok(())
        })?;
        Ok(place)
    }

    fn compare_copies(&mut self, family: Family, own: &RecordChecksums, copies: &RecordChecksums) {
        let keys = own.sums.keys().chain(
            copies
                .sums
                .keys()
                .filter(|key| !own.sums.contains_key(*key)),
        );
        for key in keys {
            let reason = match (own.sums.get(key), copies.sums.get(key)) {
                (Some(sum), Some(other)) if sum == other => continue,
                // A record that cannot be read is reported already.
                (Some(_), None) if !copies.is_whole => continue,
                (None, Some(_)) if !own.is_whole => continue,
                (Some(_), Some(_)) => "its copy says something else",
                (Some(_), None) => "it has no copy",
                (None, _) => "it is gone, and its copy is there",
            };
            // The two were read one after the other, and commits go on.
            if self.differs_still(family, key) {
                let what = self.record_name(family, key);
                self.report_damage(what, reason, ContentLoss::Nothing);
            }
        }
    }

    fn differs_still(&self, family: Family, key: &[u8]) -> bool {
        let database = &self.store.inner.database;
        let read = |family: Family, key: &[u8]| {
            let value = database.get(family, key).ok()?;
            value.map(|value| value.to_vec())
        };
        (0..LOOKS_AGAIN)
            .all(|_| read(family, key) != read(Family::Copies, &key_of_copy(family, key)))
    }

    /// Display name of the record at `key`.
    fn record_name(&self, family: Family, key: &[u8]) -> String {
        let tree = self.store.tree();
        let named = match family {
            Family::Names => node_of(key)
                .filter(|node| tree.layer_of(*node).is_some())
                .map(|node| format!("record of {}", tree.display_name(node))),
            Family::Layers => key
                .try_into()
                .ok()
                .map(|id| LayerId(u64::from_be_bytes(id)))
                .map(|layer| layer_name(&tree, layer)),
            _ => None,
        };
        named.unwrap_or_else(|| format!("{} record {}", family.family_name(), key.escape_ascii()))
    }
}

/// A layer, with what stands on it.
fn layer_name(tree: &Tree, layer: LayerId) -> String {
    let nodes: Vec<String> = tree
        .all_nodes()
        .filter(|node| {
            let top = tree.layer_of(*node).map(|layer| layer.id);
            top.is_some_and(|top| tree.chain_from(top).any(|below| below.id == layer))
        })
        .map(|node| tree.display_name(node))
        .collect();
    match nodes.len() {
        0 => format!("record of layer {layer}"),
        count if count > NODES_NAMED_MAX => format!(
            "record of layer {layer} (of {} and {} more)",
            nodes[..NODES_NAMED_MAX].join(", "),
            count - NODES_NAMED_MAX
        ),
        _ => format!("record of layer {layer} (of {})", nodes.join(", ")),
    }
}

/// The image or snapshot whose record is at `key`.
fn node_of(key: &[u8]) -> Option<NodeRef> {
    let (kind, rest) = key.split_first()?;
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_be_bytes);
    match kind {
        b'i' => Some(NodeRef::Image(ImageId(number(rest)?))),
        b's' => {
            let (image, serial) = rest.split_at_checked(8)?;
            Some(NodeRef::Snapshot(ImageId(number(image)?), number(serial)?))
        }
        _ => None,
    }
}

/// The checksum that a record ends in: two intact records say the same if it is the same.
fn stored_checksum(value: &[u8]) -> u64 {
    value
        .last_chunk::<8>()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
