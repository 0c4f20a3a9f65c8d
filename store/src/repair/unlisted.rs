//! Rebuilds a manifest of a database of which none can be read, from the properties of its tables.

use std::collections::BTreeMap;

use vellum_core::wire::WireReader;

use super::block::{TableEntry, tag_of};
use super::inventory::{DamagedTable, DatabaseFiles, DatabaseSurvey, bits, family_named, records};
use super::loose::{arrange_tables, find_leftovers};
use super::manifest::{FamilyRecord, Manifest, TableRecord};
use super::own::is_own;
use super::table::{ExaminedTable, Salvage};
use crate::database::Family;
use crate::error::StoreError;
use crate::watch::Watch;

const FAMILY_NAME: &[u8] = b"rocksdb.column.family.name";
const FAMILY_ID: &[u8] = b"rocksdb.column.family.id";

impl DatabaseSurvey {
    /// Makes a manifest of the tables that are there.
    pub(super) fn loose_tables(
        &mut self,
        files: &DatabaseFiles,
        watch: &dyn Watch,
    ) -> Result<(), StoreError> {
        self.is_loose = true;
        let mut found: BTreeMap<Vec<u8>, (u64, Vec<TableRecord>)> = BTreeMap::new();
        for (number, path) in &files.tables {
            self.go_on(watch)?;
            let bytes = self.read_file(path)?;
            let (table, name) = (ExaminedTable::examine(bytes), format!("{number:06}.sst"));
            let properties = table.read_properties();
            let family = family_of(&table);
            let family = family.as_ref();
            let record = loose_record(*number, &table, &properties);
            let (Some(family), Some(record), true) = (family, record, table.is_sound()) else {
                self.loose_damaged(*number, &table, &name, family);
                continue;
            };
            if table.mended_bits > 0 {
                self.findings
                    .push(format!("{name}: {}", bits(table.mended_bits)));
                self.mended.insert(*number, table.bytes);
            }
            let id = number_of(&properties, FAMILY_ID).unwrap_or(0);
            let tables = found.entry(family.clone()).or_default();
            tables.0 = id;
            tables.1.push(record);
        }
        self.manifest = self.arrange_manifest(found, files)?;
        Ok(())
    }

    /// A table of which nothing tells where it belongs: its records tell, by their checksums.
    fn loose_damaged(
        &mut self,
        number: u64,
        table: &ExaminedTable,
        name: &str,
        said: Option<&Vec<u8>>,
    ) {
        let families = said
            .and_then(|name| family_named(name))
            .map_or(Family::ALL.to_vec(), |family| vec![family]);
        let salvages = families.into_iter().map(|family| {
            (
                family,
                table.salvage_records(&|key, value| is_own(family, key, value)),
            )
        });
        let best = salvages.max_by_key(|(_, salvage)| salvage.entries.len());
        let Some((family, salvage)) = best.filter(|(_, salvage)| !salvage.entries.is_empty())
        else {
            self.findings.push(format!(
                "{name} cannot be read, and nothing tells what it held"
            ));
            return;
        };
        let count = records(salvage.entries.len());
        self.findings.push(format!(
            "{name} ({}) is damaged: {count} of it can be read",
            family.family_name()
        ));
        let sequences = salvage.entries.iter().map(|entry| entry.sequence);
        let record = TableRecord {
            level: 0,
            number,
            len: table.bytes.len() as u64,
            first: Vec::new(),
            last: Vec::new(),
            smallest: sequences.clone().min().unwrap_or(0),
            largest: sequences.max().unwrap_or(0),
            rest: Vec::new(),
        };
        self.damaged.push(DamagedTable {
            family,
            record,
            salvage,
        });
    }

    fn arrange_manifest(
        &mut self,
        found: BTreeMap<Vec<u8>, (u64, Vec<TableRecord>)>,
        files: &DatabaseFiles,
    ) -> Result<Manifest, StoreError> {
        let mut manifest =
            Manifest::from_edits([]).expect("no edit is one that cannot be understood");
        let first_log = files.logs.keys().next().copied().unwrap_or(0);
        for (nth, family) in Family::ALL.into_iter().enumerate() {
            let name = family.family_name().as_bytes().to_vec();
            let (id, tables) = found
                .get(&name)
                .cloned()
                .unwrap_or((nth as u64 + 1, Vec::new()));
            let record = FamilyRecord {
                name,
                log_number: first_log,
                tables: self.family_tables(family, tables, files)?,
            };
            manifest.families.insert(id, record);
        }
        let all = manifest
            .families
            .values()
            .flat_map(|family| family.tables.values());
        let salvaged = self.damaged.iter().map(|table| table.record.largest);
        manifest.last_sequence = all
            .map(|table| table.largest)
            .chain(salvaged)
            .max()
            .unwrap_or(0);
        let numbers = files
            .tables
            .keys()
            .chain(files.logs.keys())
            .chain(files.manifests.keys());
        manifest.next_file = numbers.max().map_or(1, |number| number + 1);
        Ok(manifest)
    }

    fn family_tables(
        &mut self,
        family: Family,
        mut tables: Vec<TableRecord>,
        files: &DatabaseFiles,
    ) -> Result<BTreeMap<u64, TableRecord>, StoreError> {
        let is_exact = !matches!(family, Family::Frames | Family::Headers | Family::Index);
        if is_exact || family == Family::Headers {
            let mut entries: BTreeMap<u64, Vec<TableEntry>> = BTreeMap::new();
            for table in &tables {
                entries.insert(
                    table.number,
                    self.salvage_of(family, table.number, files)?.entries,
                );
            }
            let left = find_leftovers(&entries);
            for number in &left.tables {
                self.findings.push(format!(
                    "{number:06}.sst is what a compaction left: it stays out"
                ));
            }
            tables.retain(|table| !left.tables.contains(&table.number));
            let doubtful = left
                .doubtful
                .into_iter()
                .map(|key| (family.family_name(), key));
            self.doubtful.extend(doubtful);
        }
        let arrangement = arrange_tables(tables.clone(), is_exact);
        for record in tables
            .into_iter()
            .filter(|table| arrangement.apart.contains(&table.number))
        {
            let salvage = self.salvage_of(family, record.number, files)?;
            self.damaged.push(DamagedTable {
                family,
                record,
                salvage,
            });
        }
        let placed = arrangement.placed.into_iter();
        Ok(placed.map(|table| (table.number, table)).collect())
    }

    fn salvage_of(
        &mut self,
        family: Family,
        number: u64,
        files: &DatabaseFiles,
    ) -> Result<Salvage, StoreError> {
        let bytes = match self.mended.get(&number) {
            Some(bytes) => bytes.clone(),
            None => self.read_file(&files.tables[&number])?,
        };
        Ok(ExaminedTable::examine(bytes).salvage_records(&|key, value| is_own(family, key, value)))
    }
}

/// The name of the family that a table says that it belongs to.
pub(super) fn family_of(table: &ExaminedTable) -> Option<Vec<u8>> {
    let name = table.read_properties().remove(FAMILY_NAME)?;
    family_named(&name).is_some().then_some(name)
}

/// The record that a manifest would have of a table.
fn loose_record(
    number: u64,
    table: &ExaminedTable,
    properties: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Option<TableRecord> {
    let (first, last) = table.key_bounds()?;
    let smallest = number_of(properties, b"rocksdb.key.smallest.seqno");
    let largest = number_of(properties, b"rocksdb.key.largest.seqno");
    let (smallest, largest) = if let Some(numbers) = smallest.zip(largest) {
        numbers
    } else {
        let salvage = table.salvage_records(&|_, _| true);
        let of_ranges = salvage.deletions.iter().map(|deletion| deletion.sequence);
        let all = salvage
            .entries
            .iter()
            .map(|entry| entry.sequence)
            .chain(of_ranges);
        (all.clone().min()?, all.max()?)
    };
    tag_of(&first)?;
    Some(TableRecord {
        level: 0,
        number,
        len: table.bytes.len() as u64,
        first,
        last,
        smallest,
        largest,
        rest: Vec::new(),
    })
}

fn number_of(properties: &BTreeMap<Vec<u8>, Vec<u8>>, name: &[u8]) -> Option<u64> {
    WireReader::new(properties.get(name)?).read_varint().ok()
}
