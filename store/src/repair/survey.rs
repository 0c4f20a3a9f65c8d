//! Surveys the files in the database's folder, and how much of each is whole. Reads everything,
//! changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::inventory::{DamagedTable, DatabaseFiles, DatabaseSurvey, bits, family_named, records};
use super::manifest::{Manifest, TableRecord};
use super::own::is_own;
use super::stale::is_stale;
use super::table::{ExaminedTable, LostKeys, Salvage};
use crate::database::Family;
use crate::error::StoreError;
use crate::logs::read_log;
use crate::watch::Watch;

/// Looks at the database in `dir`.
pub(super) fn survey_database(dir: &Path, watch: &dyn Watch) -> Result<DatabaseSurvey, StoreError> {
    let files = DatabaseFiles::list_dir(dir)?;
    let mut survey = DatabaseSurvey {
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
    match survey.choose_manifest(&files)? {
        Some(manifest) => {
            survey.manifest = manifest;
            survey.listed_tables(&files, watch)?;
        }
        None => survey.loose_tables(&files, watch)?,
    }
    survey.read_logs(&files)?;
    Ok(survey)
}

impl DatabaseSurvey {
    /// The manifest that counts, if one is whole and fits what is there.
    fn choose_manifest(&mut self, files: &DatabaseFiles) -> Result<Option<Manifest>, StoreError> {
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
            let content = read_log(self.read_file(&files.manifests[&number])?);
            let records = content.records.iter().map(Vec::as_slice);
            let read = Manifest::from_edits(records)
                .filter(|manifest| !content.is_cut && is_complete(manifest));
            let Some(manifest) = read else {
                self.findings
                    .push(format!("MANIFEST-{number:06} cannot be read"));
                continue;
            };
            if is_stale(self, number, &manifest, files)? {
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

    fn listed_tables(
        &mut self,
        files: &DatabaseFiles,
        watch: &dyn Watch,
    ) -> Result<(), StoreError> {
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
        let name = format!("{number:06}.sst ({})", family.family_name());
        let Some(path) = path else {
            self.findings.push(format!("{name} is gone"));
            let lost = clip_lost_keys(vec![LostKeys::default()], record);
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
        let mut bytes = self.read_file(path)?;
        let found_len = bytes.len() as u64;
        bytes.truncate(usize::try_from(record.len).unwrap_or(usize::MAX));
        let table = ExaminedTable::examine(bytes);
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
        let mut salvage = table.salvage_records(&|key, value| is_own(family, key, value));
        salvage.lost = clip_lost_keys(salvage.lost, record);
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

    fn read_logs(&mut self, files: &DatabaseFiles) -> Result<(), StoreError> {
        let first = if self.is_loose {
            0
        } else {
            self.manifest.first_log()
        };
        for (number, path) in files.logs.range(first..) {
            let content = read_log(self.read_file(path)?);
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
}

/// True if every family is in it.
fn is_complete(manifest: &Manifest) -> bool {
    Family::ALL
        .iter()
        .all(|family| manifest.find_family(family.family_name()).is_some())
}

/// Lost keys within what a table can have held.
fn clip_lost_keys(lost: Vec<LostKeys>, record: &TableRecord) -> Vec<LostKeys> {
    let (first_key, last_key) = (record.first_key(), record.last_key());
    let clip = |lost: LostKeys| {
        let end = lost
            .last
            .filter(|end| end.as_slice() < last_key)
            .unwrap_or(last_key.to_vec());
        let is_empty = lost.after.as_ref().is_some_and(|after| *after >= end);
        (!is_empty).then_some(LostKeys {
            after: lost.after,
            first: Some(first_key.to_vec()),
            last: Some(end),
        })
    };
    lost.into_iter().filter_map(clip).collect()
}
