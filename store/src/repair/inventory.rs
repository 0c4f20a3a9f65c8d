//! Inventory of the database's folder: its files by kind and number, and what a survey has found of
//! them so far.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::manifest::{Manifest, TableRecord};
use super::table::Salvage;
use crate::database::Family;
use crate::error::StoreError;
use crate::logs::LogContent;
use crate::watch::{Progress, Watch};

/// Files of the database that are looked at: others mean nothing.
const FILES_MAX: usize = 1 << 20;

/// Files in the database's folder, and what is left of damaged ones.
pub(super) struct DatabaseSurvey {
    /// Manifest of the repaired database: whole tables only.
    pub(super) manifest: Manifest,
    /// Tables of it whose bytes had to be put right.
    pub(super) mended: BTreeMap<u64, Vec<u8>>,
    pub(super) damaged: Vec<DamagedTable>,
    /// Logs by number: those with records that are in no table.
    pub(super) logs: Vec<(u64, LogContent)>,
    /// Records of logs that come after something that cannot be read.
    pub(super) later: Vec<Vec<u8>>,
    /// True if a log ends before it should.
    pub(super) is_cut: bool,
    /// Faults of files, and their repairs, in words for the user.
    pub(super) findings: Vec<String>,
    /// True if the manifest had to be made from the tables.
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
pub(super) struct DatabaseFiles {
    pub(super) manifests: BTreeMap<u64, PathBuf>,
    pub(super) tables: BTreeMap<u64, PathBuf>,
    pub(super) logs: BTreeMap<u64, PathBuf>,
    /// The manifest that counts, as far as is said.
    pub(super) current: Option<u64>,
}

/// The family of that name.
pub(super) fn family_named(name: &[u8]) -> Option<Family> {
    Family::ALL
        .into_iter()
        .find(|family| family.family_name().as_bytes() == name)
}

impl DatabaseFiles {
    pub(super) fn list_dir(dir: &Path) -> Result<Self, StoreError> {
        let fail = |source| StoreError::of_file("read the folder", dir, source);
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

impl DatabaseSurvey {
    pub(super) fn read_file(&mut self, path: &Path) -> Result<Vec<u8>, StoreError> {
        let bytes = fs::read(path).map_err(|source| StoreError::of_file("read", path, source))?;
        self.bytes_read += bytes.len() as u64;
        Ok(bytes)
    }

    pub(super) fn go_on(&self, watch: &dyn Watch) -> Result<(), StoreError> {
        watch.report_progress(Progress {
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

pub(super) fn bits(count: usize) -> String {
    if count == 1 {
        "a flipped bit is put right".to_owned()
    } else {
        format!("{count} flipped bits are put right")
    }
}

pub(super) fn records(count: usize) -> String {
    if count == 1 {
        "1 record".to_owned()
    } else {
        format!("{count} records")
    }
}
