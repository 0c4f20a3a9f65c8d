//! History of the records of a family that has damaged tables: decides which records of the damaged
//! tables count, and of which keys newer records may be lost.
//!
//! A record that is left of a damaged table counts if nothing newer is known of its key. A record
//! of another table is *unsure* if a damaged table lies over it and may have had a newer one for
//! that key: showing it might show a state that was overwritten.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::batch::{LoggedChange, decode_operations};
use super::block::TableEntry;
use super::inventory::DatabaseSurvey;
use super::layout::table_name;
use super::manifest::TableRecord;
use super::own::is_own;
use super::table::{ExaminedTable, LostKeys, RangeDeletion};
use crate::database::Family;
use crate::error::StoreError;

/// Known records of a family.
#[derive(Default)]
pub(super) struct FamilyHistory {
    /// All known records of the keys that concern damaged tables.
    versions: HashMap<Vec<u8>, Vec<RecordVersion>>,
    deletions: Vec<RangeDeletion>,
    damaged: Vec<(TableAge, Vec<LostKeys>)>,
    /// The newest record of each key that is left of damaged tables.
    left: BTreeMap<Vec<u8>, TableEntry>,
}

struct RecordVersion {
    sequence: u64,
    /// Table that holds it; none: a log.
    place: Option<TableAge>,
}

/// Position of a table in the order of ages.
#[derive(Clone, Copy, PartialEq, Eq)]
struct TableAge {
    number: u64,
    level: u64,
    smallest: u64,
    largest: u64,
}

impl TableAge {
    fn from_record(record: &TableRecord) -> Self {
        Self {
            number: record.number,
            level: record.level,
            smallest: record.smallest,
            largest: record.largest,
        }
    }

    /// True if records here are newer than another table's for the same key.
    fn is_over(&self, other: &Self) -> bool {
        self.level < other.level || self.level == other.level && self.smallest > other.largest
    }
}

impl FamilyHistory {
    /// Reads the history of `family`; none if all of its tables are whole. `dir` has the tables.
    pub(super) fn read_family(
        survey: &DatabaseSurvey,
        dir: &Path,
        family: Family,
    ) -> Result<Option<Self>, StoreError> {
        let mut history = Self::default();
        for table in survey.damaged.iter().filter(|table| table.family == family) {
            history.add_damaged(&table.record, &table.salvage.entries, &table.salvage.lost);
            history
                .deletions
                .extend(table.salvage.deletions.iter().cloned());
        }
        if history.damaged.is_empty() {
            return Ok(None);
        }
        let Some((id, record)) = survey.manifest.find_family(family.family_name()) else {
            return Ok(Some(history));
        };
        for table in record.tables.values() {
            let bytes = if let Some(bytes) = survey.mended.get(&table.number) {
                bytes.clone()
            } else {
                let path = dir.join(table_name(table.number));
                std::fs::read(&path).map_err(|source| StoreError::of_file("read", &path, source))?
            };
            let salvage = ExaminedTable::examine(bytes)
                .salvage_records(&|key, value| is_own(family, key, value));
            history.add_entries(TableAge::from_record(table), &salvage.entries);
            history.deletions.extend(salvage.deletions);
        }
        let logged = survey.logs.iter().flat_map(|(_, content)| &content.records);
        logged.for_each(|record| history.add_logged(id, record));
        Ok(Some(history))
    }

    fn add_damaged(&mut self, record: &TableRecord, entries: &[TableEntry], lost: &[LostKeys]) {
        let place = TableAge::from_record(record);
        self.damaged.push((place, lost.to_vec()));
        for entry in entries {
            let version = RecordVersion {
                sequence: entry.sequence,
                place: Some(place),
            };
            self.versions
                .entry(entry.key.clone())
                .or_default()
                .push(version);
            let known = self.left.get(&entry.key);
            if known.is_none_or(|known| known.sequence < entry.sequence) {
                self.left.insert(entry.key.clone(), entry.clone());
            }
        }
    }

    fn concerns_key(&self, key: &[u8]) -> bool {
        self.left.contains_key(key)
            || self
                .damaged
                .iter()
                .any(|(_, lost)| lost.iter().any(|lost| lost.contains(key)))
    }

    fn add_entries(&mut self, place: TableAge, entries: &[TableEntry]) {
        for entry in entries
            .iter()
            .filter(|entry| self.concerns_key(&entry.key))
            .collect::<Vec<_>>()
        {
            let version = RecordVersion {
                sequence: entry.sequence,
                place: Some(place),
            };
            self.versions
                .entry(entry.key.clone())
                .or_default()
                .push(version);
        }
    }

    fn add_logged(&mut self, id: u64, record: &[u8]) {
        for operation in decode_operations(record)
            .into_iter()
            .filter(|operation| operation.family == id)
        {
            if let LoggedChange::DeleteRange(to) = operation.change {
                self.deletions.push(RangeDeletion {
                    from: operation.key,
                    to,
                    sequence: operation.sequence,
                });
            } else if self.concerns_key(&operation.key) {
                let version = RecordVersion {
                    sequence: operation.sequence,
                    place: None,
                };
                self.versions
                    .entry(operation.key)
                    .or_default()
                    .push(version);
            }
        }
    }

    /// The records left of damaged tables that count.
    pub(super) fn winning_records(&self) -> impl Iterator<Item = &TableEntry> {
        self.left.values().filter(|entry| {
            let newer = |version: &RecordVersion| version.sequence > entry.sequence;
            let is_outdated = self.versions[&entry.key].iter().any(newer);
            let is_deleted = self.deletions.iter().any(|deletion| {
                deletion.sequence > entry.sequence
                    && (deletion.from.as_slice()..&deletion.to).contains(&entry.key.as_slice())
            });
            !is_outdated && !is_deleted
        })
    }

    /// True if a record of `key` may be lost that is newer than all that are known.
    pub(super) fn is_unsure(&self, key: &[u8]) -> bool {
        let versions = self.versions.get(key);
        let mut over = self
            .damaged
            .iter()
            .filter(|(_, lost)| lost.iter().any(|lost| lost.contains(key)));
        over.any(|(damaged, _)| {
            let is_newer = |version: &RecordVersion| {
                version.sequence > damaged.largest
                    || version
                        .place
                        .is_none_or(|place| place == *damaged || place.is_over(damaged))
            };
            !versions.is_some_and(|versions| versions.iter().any(is_newer))
        })
    }
}
