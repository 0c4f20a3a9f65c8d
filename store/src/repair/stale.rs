//! Tells a manifest that is older than the tables from one of which a table was lost.
//!
//! RocksDB deletes what a compaction has read once a manifest names what it made. So a manifest
//! whose tables are gone is *stale* if a later table that it does not name has records of a gone
//! one: of its family, among its keys, and in none of the tables and logs that are there. Any other
//! later table is what a compaction or a flush was making when the process was killed, and says
//! nothing of what is gone.

use std::collections::{BTreeMap, HashMap};

use super::batch::{LoggedChange, decode_operations};
use super::block::{EntryKind, TableEntry};
use super::inventory::{DatabaseFiles, DatabaseSurvey, family_named};
use super::manifest::{Manifest, TableRecord};
use super::own::is_own;
use super::table::ExaminedTable;
use super::unlisted::family_of;
use crate::database::Family;
use crate::error::StoreError;
use crate::logs::read_log;

/// Records by their keys: the sequence number and the value of each.
type Known = HashMap<Vec<u8>, Vec<(u64, Vec<u8>)>>;

/// True if `manifest`, the one of that number, is older than the tables that are there.
pub(super) fn is_stale(
    survey: &mut DatabaseSurvey,
    number: u64,
    manifest: &Manifest,
    files: &DatabaseFiles,
) -> Result<bool, StoreError> {
    let mut gone: BTreeMap<&[u8], Vec<&TableRecord>> = BTreeMap::new();
    for family in manifest.families.values() {
        let is_gone = |table: &&TableRecord| !files.tables.contains_key(&table.number);
        let tables: Vec<&TableRecord> = family.tables.values().filter(is_gone).collect();
        if !tables.is_empty() {
            gone.insert(&family.name, tables);
        }
    }
    if gone.is_empty() {
        return Ok(false);
    }
    let is_listed = |number: u64| {
        let mut families = manifest.families.values();
        families.any(|family| family.tables.contains_key(&number))
    };
    for (later, path) in files.tables.range(number..) {
        if is_listed(*later) {
            continue;
        }
        let table = ExaminedTable::examine(survey.read_file(path)?);
        let Some(name) = family_of(&table).filter(|_| table.is_sound()) else {
            continue;
        };
        let (Some(gone), Some(family)) = (gone.get(name.as_slice()), family_named(&name)) else {
            continue;
        };
        let meets = |entry: &TableEntry| {
            let within = |gone: &&TableRecord| {
                (gone.first_key()..=gone.last_key()).contains(&entry.key.as_slice())
            };
            gone.iter().any(within)
        };
        let known = known_records(survey, manifest, files, family)?;
        let salvage = table.salvage_records(&|key, value| is_own(family, key, value));
        let mut puts = salvage
            .entries
            .iter()
            .filter(|entry| entry.kind == EntryKind::Put && meets(entry));
        if puts.any(|entry| !is_known(entry, &known)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The records of `family` in the tables of `manifest` that are there, and in the logs.
fn known_records(
    survey: &mut DatabaseSurvey,
    manifest: &Manifest,
    files: &DatabaseFiles,
    family: Family,
) -> Result<Known, StoreError> {
    let mut known = Known::new();
    let Some((id, record)) = manifest.find_family(family.family_name()) else {
        return Ok(known);
    };
    for path in record
        .tables
        .keys()
        .filter_map(|table| files.tables.get(table))
    {
        let table = ExaminedTable::examine(survey.read_file(path)?);
        for entry in table
            .salvage_records(&|key, value| is_own(family, key, value))
            .entries
        {
            known
                .entry(entry.key)
                .or_default()
                .push((entry.sequence, entry.value));
        }
    }
    for path in files.logs.values() {
        let content = read_log(survey.read_file(path)?);
        let logged = content
            .records
            .iter()
            .flat_map(|record| decode_operations(record));
        for operation in logged.filter(|operation| operation.family == id) {
            if let LoggedChange::Put(value) = operation.change {
                known
                    .entry(operation.key)
                    .or_default()
                    .push((operation.sequence, value));
            }
        }
    }
    Ok(known)
}

/// True if a record is known. One that lies lowest has its number taken away.
fn is_known(entry: &TableEntry, known: &Known) -> bool {
    let others = known.get(&entry.key).into_iter().flatten();
    others
        .into_iter()
        .any(|(sequence, value)| [0, *sequence].contains(&entry.sequence) && *value == entry.value)
}
