//! What is in the database's folder, and how much of it is whole. Reads everything, changes
//! nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use vellum_core::wire::Reader;

use super::loose::{arrange, leftovers};
use super::manifest::{FamilyRecord, Manifest, TableRecord};
use super::own::is_own;
use super::table::{LostKeys, Salvage, Table, TableEntry, tag_of};
use crate::database::Family;
use crate::error::StoreError;
use crate::logs::{LogContent, read_log};
use crate::watch::{Progress, Watch};

const FAMILY_NAME: &[u8] = b"rocksdb.column.family.name";
const FAMILY_ID: &[u8] = b"rocksdb.column.family.id";
/// Files of the database that are looked at: others mean nothing.
const FILES_MAX: usize = 1 << 20;

/// What is in the database's folder.
pub(super) struct Survey {
    /// What the repaired database is made of: whole tables only.
    pub(super) manifest: Manifest,
    /// Tables of it whose bytes had to be put right.
    pub(super) mended: BTreeMap<u64, Vec<u8>>,
    pub(super) damaged: Vec<DamagedTable>,
    /// By number: those that hold something that is in no table.
    pub(super) logs: Vec<(u64, LogContent)>,
    /// Records of logs that come after something that cannot be read.
    pub(super) later: Vec<Vec<u8>>,
    /// Whether a log ends before it should.
    pub(super) is_cut: bool,
    /// What is wrong with files, and what is done about it.
    pub(super) findings: Vec<String>,
    /// Whether the manifest had to be made from the tables.
    pub(super) is_loose: bool,
    /// Keys of a family that may have been deleted although a table has them.
    pub(super) doubtful: BTreeSet<(&'static str, Vec<u8>)>,
    pub(super) bytes_read: u64,
}

/// A table that RocksDB cannot read, or that is gone.
pub(super) struct DamagedTable {
    pub(super) family: Family,
    pub(super) record: TableRecord,
    pub(super) salvage: Salvage,
}

/// The files of the database's folder, by kind and number.
#[derive(Default)]
struct Files {
    manifests: BTreeMap<u64, PathBuf>,
    tables: BTreeMap<u64, PathBuf>,
    logs: BTreeMap<u64, PathBuf>,
    /// The manifest that counts, as far as is said.
    current: Option<u64>,
}

/// The family of that name.
pub(super) fn family_named(name: &[u8]) -> Option<Family> {
    Family::ALL
        .into_iter()
        .find(|family| family.name().as_bytes() == name)
}

/// Looks at the database in `dir`.
pub(super) fn survey(dir: &Path, watch: &dyn Watch) -> Result<Survey, StoreError> {
    let files = Files::list(dir)?;
    let mut survey = Survey {
        manifest: Manifest::default(),
        mended: BTreeMap::new(),
        damaged: Vec::new(),
        logs: Vec::new(),
        later: Vec::new(),
        is_cut: false,
        findings: Vec::new(),
        is_loose: false,
        doubtful: BTreeSet::new(),
        bytes_read: 0,
    };
    match survey.manifest(&files)? {
        Some(manifest) => {
            survey.manifest = manifest;
            survey.listed_tables(&files, watch)?;
        }
        None => survey.loose_tables(&files, watch)?,
    }
    survey.logs(&files)?;
    Ok(survey)
}

impl Files {
    fn list(dir: &Path) -> Result<Self, StoreError> {
        let fail = |source| StoreError::file("read the folder", dir, source);
        let mut files = Self::default();
        for entry in fs::read_dir(dir).map_err(fail)?.take(FILES_MAX) {
            let path = entry.map_err(fail)?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            let number = |text: &str| text.parse::<u64>().ok();
            if let Some(number) = name.strip_prefix("MANIFEST-").and_then(number) {
                files.manifests.insert(number, path);
            } else if let Some(number) = name.strip_suffix(".sst").and_then(number) {
                files.tables.insert(number, path);
            } else if let Some(number) = name.strip_suffix(".log").and_then(number) {
                files.logs.insert(number, path);
            }
        }
        let current = fs::read_to_string(dir.join("CURRENT")).unwrap_or_default();
        let named = current
            .strip_suffix('\n')
            .and_then(|name| name.strip_prefix("MANIFEST-"));
        files.current = named.and_then(|number| number.parse().ok());
        Ok(files)
    }
}

impl Survey {
    fn read(&mut self, path: &Path) -> Result<Vec<u8>, StoreError> {
        let bytes = fs::read(path).map_err(|source| StoreError::file("read", path, source))?;
        self.bytes_read += bytes.len() as u64;
        Ok(bytes)
    }

    /// The manifest that counts, if one is whole and fits what is there.
    fn manifest(&mut self, files: &Files) -> Result<Option<Manifest>, StoreError> {
        let named = files
            .current
            .filter(|number| files.manifests.contains_key(number));
        if named.is_none() {
            self.findings
                .push("CURRENT names no manifest: it is written anew".to_owned());
        }
        let others = files.manifests.keys().rev().copied();
        for number in named
            .into_iter()
            .chain(others.filter(|number| Some(*number) != named))
        {
            let content = read_log(self.read(&files.manifests[&number])?);
            let records = content.records.iter().map(Vec::as_slice);
            let read =
                Manifest::of(records).filter(|manifest| !content.is_cut && is_complete(manifest));
            let Some(manifest) = read else {
                self.findings
                    .push(format!("MANIFEST-{number:06} cannot be read"));
                continue;
            };
            if is_stale(number, &manifest, files) {
                self.findings
                    .push(format!("MANIFEST-{number:06} is older than the tables"));
                continue;
            }
            if content.mended_bits > 0 {
                self.findings
                    .push(format!("MANIFEST-{number:06}: a flipped bit is put right"));
            }
            return Ok(Some(manifest));
        }
        self.findings
            .push("the manifest is made anew from the tables".to_owned());
        Ok(None)
    }

    fn listed_tables(&mut self, files: &Files, watch: &dyn Watch) -> Result<(), StoreError> {
        let families = std::mem::take(&mut self.manifest.families);
        for (id, mut family) in families {
            for (number, record) in std::mem::take(&mut family.tables) {
                self.go_on(watch)?;
                let known = family_named(&family.name);
                let whole = self.listed_table(&record, known, files.tables.get(&number))?;
                if whole {
                    family.tables.insert(number, record);
                }
            }
            self.manifest.families.insert(id, family);
        }
        Ok(())
    }

    /// Looks at a table; whether RocksDB can go on with it.
    fn listed_table(
        &mut self,
        record: &TableRecord,
        family: Option<Family>,
        path: Option<&PathBuf>,
    ) -> Result<bool, StoreError> {
        let (number, Some(family)) = (record.number, family) else {
            return Ok(path.is_some());
        };
        let name = format!("{number:06}.sst ({})", family.name());
        let Some(path) = path else {
            self.findings.push(format!("{name} is gone"));
            let lost = clipped(vec![LostKeys::default()], record);
            let salvage = Salvage {
                lost,
                ..Salvage::default()
            };
            self.damaged.push(DamagedTable {
                family,
                record: record.clone(),
                salvage,
            });
            return Ok(false);
        };
        let mut bytes = self.read(path)?;
        let found_len = bytes.len() as u64;
        bytes.truncate(usize::try_from(record.len).unwrap_or(usize::MAX));
        let table = Table::examine(bytes);
        if table.is_sound() && table.bytes.len() as u64 == record.len {
            if table.mended_bits > 0 {
                self.findings
                    .push(format!("{name}: {}", bits(table.mended_bits)));
            }
            if found_len > record.len {
                self.findings
                    .push(format!("{name}: surplus bytes at its end are cut off"));
            }
            if table.mended_bits > 0 || found_len > record.len {
                self.mended.insert(number, table.bytes);
            }
            return Ok(true);
        }
        let mut salvage = table.salvage(&|key, value| is_own(family, key, value));
        salvage.lost = clipped(salvage.lost, record);
        self.findings.push(format!(
            "{name} is damaged: {} of it can be read",
            records(salvage.entries.len())
        ));
        self.damaged.push(DamagedTable {
            family,
            record: record.clone(),
            salvage,
        });
        Ok(false)
    }

    /// Makes a manifest of the tables that are there.
    fn loose_tables(&mut self, files: &Files, watch: &dyn Watch) -> Result<(), StoreError> {
        self.is_loose = true;
        let mut found: BTreeMap<Vec<u8>, (u64, Vec<TableRecord>)> = BTreeMap::new();
        for (number, path) in &files.tables {
            self.go_on(watch)?;
            let bytes = self.read(path)?;
            let (table, name) = (Table::examine(bytes), format!("{number:06}.sst"));
            let properties = table.properties();
            let family = properties
                .get(FAMILY_NAME)
                .filter(|name| family_named(name).is_some());
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
        self.manifest = self.arranged(found, files)?;
        Ok(())
    }

    /// A table of which nothing tells where it belongs: its records tell, by their checksums.
    fn loose_damaged(&mut self, number: u64, table: &Table, name: &str, said: Option<&Vec<u8>>) {
        let families = said
            .and_then(|name| family_named(name))
            .map_or(Family::ALL.to_vec(), |family| vec![family]);
        let salvages = families.into_iter().map(|family| {
            (
                family,
                table.salvage(&|key, value| is_own(family, key, value)),
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
            family.name()
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

    fn arranged(
        &mut self,
        found: BTreeMap<Vec<u8>, (u64, Vec<TableRecord>)>,
        files: &Files,
    ) -> Result<Manifest, StoreError> {
        let mut manifest = Manifest::of([]).expect("no edit is one that cannot be understood");
        let first_log = files.logs.keys().next().copied().unwrap_or(0);
        for (nth, family) in Family::ALL.into_iter().enumerate() {
            let name = family.name().as_bytes().to_vec();
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
        files: &Files,
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
            let left = leftovers(&entries);
            for number in &left.tables {
                self.findings.push(format!(
                    "{number:06}.sst is what a compaction left: it stays out"
                ));
            }
            tables.retain(|table| !left.tables.contains(&table.number));
            let doubtful = left.doubtful.into_iter().map(|key| (family.name(), key));
            self.doubtful.extend(doubtful);
        }
        let arrangement = arrange(tables.clone(), is_exact);
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
        files: &Files,
    ) -> Result<Salvage, StoreError> {
        let bytes = match self.mended.get(&number) {
            Some(bytes) => bytes.clone(),
            None => self.read(&files.tables[&number])?,
        };
        Ok(Table::examine(bytes).salvage(&|key, value| is_own(family, key, value)))
    }

    fn logs(&mut self, files: &Files) -> Result<(), StoreError> {
        let first = if self.is_loose {
            0
        } else {
            self.manifest.first_log()
        };
        for (number, path) in files.logs.range(first..) {
            let content = read_log(self.read(path)?);
            if self.is_cut {
                self.later.extend(content.records);
                self.later.extend(content.later);
                continue;
            }
            if content.mended_bits > 0 {
                self.findings
                    .push(format!("{number:06}.log: {}", bits(content.mended_bits)));
            }
            self.later.clone_from(&content.later);
            self.is_cut = content.is_cut;
            if content.is_cut {
                self.findings.push(format!(
                    "{number:06}.log cannot be read from byte {} on",
                    content.whole_len
                ));
            }
            self.logs.push((*number, content));
        }
        let newest = self.logs.last().map_or(0, |(number, _)| number + 1);
        self.manifest.next_file = self.manifest.next_file.max(newest);
        Ok(())
    }

    fn go_on(&self, watch: &dyn Watch) -> Result<(), StoreError> {
        watch.progress(Progress {
            done: self.bytes_read,
            total: None,
        });
        if watch.is_cancelled() {
            Err(StoreError::Interrupted)
        } else {
            Ok(())
        }
    }
}

/// Whether every family is in it.
fn is_complete(manifest: &Manifest) -> bool {
    Family::ALL
        .iter()
        .all(|family| manifest.family(family.name()).is_some())
}

/// Whether the manifest of that number tells of a time before the files that are there: a table
/// that it names is gone, and there are later ones that it does not name.
fn is_stale(number: u64, manifest: &Manifest, files: &Files) -> bool {
    let families = manifest.families.values();
    let listed: BTreeSet<u64> = families
        .flat_map(|family| family.tables.keys().copied())
        .collect();
    let is_gone = |table: &u64| !files.tables.contains_key(table);
    let mut later = files.tables.range(number..).map(|(table, _)| table);
    listed.iter().any(is_gone) && later.any(|table| !listed.contains(table))
}

/// What a manifest would have of a table.
fn loose_record(
    number: u64,
    table: &Table,
    properties: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Option<TableRecord> {
    let (first, last) = table.bounds()?;
    let smallest = number_of(properties, b"rocksdb.key.smallest.seqno");
    let largest = number_of(properties, b"rocksdb.key.largest.seqno");
    let (smallest, largest) = match smallest.zip(largest) {
        Some(numbers) => numbers,
        None => {
            let salvage = table.salvage(&|_, _| true);
            let of_ranges = salvage.deletions.iter().map(|deletion| deletion.sequence);
            let all = salvage
                .entries
                .iter()
                .map(|entry| entry.sequence)
                .chain(of_ranges);
            (all.clone().min()?, all.max()?)
        }
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
    Reader::new(properties.get(name)?).varint().ok()
}

/// Lost keys within what a table can have held.
fn clipped(lost: Vec<LostKeys>, record: &TableRecord) -> Vec<LostKeys> {
    let (first, last) = (record.first_key(), record.last_key());
    let clip = |lost: LostKeys| {
        let end = lost
            .last
            .filter(|end| end.as_slice() < last)
            .unwrap_or(last.to_vec());
        let is_empty = lost.after.as_ref().is_some_and(|after| *after >= end);
        (!is_empty).then_some(LostKeys {
            after: lost.after,
            first: Some(first.to_vec()),
            last: Some(end),
        })
    };
    lost.into_iter().filter_map(clip).collect()
}

fn bits(count: usize) -> String {
    if count == 1 {
        "a flipped bit is put right".to_owned()
    } else {
        format!("{count} flipped bits are put right")
    }
}

fn records(count: usize) -> String {
    if count == 1 {
        "1 record".to_owned()
    } else {
        format!("{count} records")
    }
}
