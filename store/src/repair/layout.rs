//! Lays out the repaired database's files, beside the damaged one's: whole tables as they are
//! (links, which take no room), others with their bits put right, the whole part of the logs, a
//! manifest.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::inventory::DatabaseSurvey;
use crate::error::StoreError;
use crate::logs::put_record;

/// Makes the database that `survey` found in `source` in `target`, which is an empty folder.
pub(super) fn lay_out(
    survey: &DatabaseSurvey,
    source: &Path,
    target: &Path,
) -> Result<(), StoreError> {
    for family in survey.manifest.families.values() {
        for number in family.tables.keys() {
            let name = table_name(*number);
            match survey.mended.get(number) {
                Some(bytes) => write_durably(&target.join(&name), bytes)?,
                None => link_or_copy(&source.join(&name), &target.join(&name))?,
            }
        }
    }
    for (number, content) in &survey.logs {
        let name = format!("{number:06}.log");
        write_durably(&target.join(name), &content.bytes[..content.whole_len])?;
    }
    let number = survey.manifest.next_file;
    let (name, mut manifest) = (format!("MANIFEST-{number:06}"), survey.manifest.clone());
    manifest.next_file = number + 1;
    let mut bytes = Vec::new();
    manifest
        .encode_edits()
        .iter()
        .for_each(|edit| put_record(&mut bytes, edit));
    write_durably(&target.join(&name), &bytes)?;
    write_durably(&target.join("CURRENT"), format!("{name}\n").as_bytes())?;
    sync_dir(target)
}

pub(super) fn table_name(number: u64) -> String {
    format!("{number:06}.sst")
}

/// Gives a file a second name; where the file system has no such thing, copies it.
fn link_or_copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    match fs::hard_link(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => fs::copy(from, to)
            .and_then(|_| File::open(to)?.sync_all())
            .map_err(|source| StoreError::of_file("copy", from, source)),
        linked => linked.map_err(|source| StoreError::of_file("link", from, source)),
    }
}

/// Writes a new file, durably.
pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let written = File::create_new(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|source| StoreError::of_file("write", path, source))
}

/// Makes the names in a folder durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|source| StoreError::of_file("sync the folder", dir, source))
}
