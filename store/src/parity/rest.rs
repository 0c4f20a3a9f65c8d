//! Copy of the database's small files as they were when the store was closed: without them no table
//! can be read, and RocksDB keeps one of each. `parity/rest` has them once more, in whole.
//!
//! It never brings back an earlier state. It holds the greatest number that any file of the
//! database had, and a process that opens the database for writing makes a manifest of a greater
//! one before anything else: then the copy means nothing any more. It is also removed before that.
//! And where the file `CURRENT` names another manifest that is there, the files were replaced by
//! others.
//!
//! ```text
//! offset  size  meaning                                          guards against
//! 0       8     "vlmprest"                                       a file of another kind
//! 8       4     version, 1                                       a newer program's file
//! 12      4     number of files, at most 64                      (bounds what follows)
//! 16      8     the greatest number in a name of the database's  files that are older than the
//!               folder                                           store
//! 24      …     for each file: length of its name, 4; its
//!               length, 4; name; bytes
//! end-8   8     checksum                                         damage
//! ```

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use vellum_core::wire::{DecodeError, WireReader, append_checksum, verify_checksum};

use super::files::{ParityFolder, UnnamedFile, number_of};
use crate::error::StoreError;
use crate::folder::MARKER_TEXT;
use crate::logs;

const MAGIC: &[u8; 8] = b"vlmprest";
const VERSION: u32 = 1;
const FILES_MAX: usize = 64;
const NAME_LEN_MAX: usize = 64;
/// A manifest of a million tables is shorter; a log that is longer waits to become tables.
const FILE_LEN_MAX: u64 = 256 << 20;
/// Logs up to this length are kept; a longer one is made tables of before the store is closed.
pub(crate) const LOG_LEN_MAX: u64 = 4 << 20;
const CONTEXT: &str = "vellum 2026-11 parity rest v1";
/// Beside the database's folder, and inside of it.
const NAMES: [&str; 4] = [
    "vellum.store",
    "commits",
    "database/CURRENT",
    "database/IDENTITY",
];

/// The small files of a closed store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RestCopy {
    /// The greatest number in a name of the database's folder.
    number_max: u64,
    /// Names relative to the store, with what they hold.
    files: Vec<(String, Vec<u8>)>,
}

impl RestCopy {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.encode_body();
        append_checksum(CONTEXT, &[], &mut bytes);
        bytes
    }

    fn encode_body(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((self.files.len() as u32).to_le_bytes());
        bytes.extend(self.number_max.to_le_bytes());
        for (name, content) in &self.files {
            bytes.extend((name.len() as u32).to_le_bytes());
            bytes.extend((content.len() as u32).to_le_bytes());
            bytes.extend(name.as_bytes());
            bytes.extend(content);
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_body(verify_checksum(CONTEXT, &[], bytes)?)
    }

    fn decode_body(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = WireReader::new(body);
        if reader.read_bytes(MAGIC.len())? != MAGIC {
            return Err(DecodeError::Invalid("magic"));
        }
        let version = reader.read_u32()?;
        if version != VERSION {
            return Err(DecodeError::Version(version.min(255) as u8));
        }
        let count = reader.read_u32()? as usize;
        if count > FILES_MAX {
            return Err(DecodeError::Invalid("number of files"));
        }
        let number_max = u64::from(reader.read_u32()?) | u64::from(reader.read_u32()?) << 32;
        let mut files = Vec::new();
        for _ in 0..count {
            let (name_len, len) = (reader.read_u32()? as usize, reader.read_u32()? as usize);
            let name = std::str::from_utf8(reader.read_bytes(name_len)?)
                .ok()
                .filter(|name| is_small_file(name))
                .ok_or(DecodeError::Invalid("name of a file"))?;
            files.push((name.to_owned(), reader.read_bytes(len)?.to_vec()));
        }
        reader.expect_end()?;
        Ok(Self { number_max, files })
    }

    /// The small files of the store as they are.
    fn copy_from(folder: &ParityFolder) -> Result<Self, StoreError> {
        let mut names: Vec<String> = NAMES.iter().map(|name| (*name).to_owned()).collect();
        let database = folder.database_dir();
        let (mut number_max, mut logs) = (0, Vec::new());
        for name in names_in(&database)? {
            number_max = number_max.max(number_in(&name));
            if number_of(&name, "log").is_some() {
                logs.push(format!("database/{name}"));
            }
        }
        logs.sort();
        names.extend(current_manifest(folder).map(|name| format!("database/{name}")));
        names.extend(logs);
        let mut files = Vec::new();
        for name in names {
            let path = folder.store_dir().join(&name);
            match fs::metadata(&path) {
                Ok(found) if found.len() <= FILE_LEN_MAX => {
                    let bytes = fs::read(&path);
                    let bytes =
                        bytes.map_err(|source| StoreError::of_file("read", &path, source))?;
                    // Damage must not become the truth.
                    if !is_sound(&name, &bytes) {
                        return Err(StoreError::damaged_record(
                            name,
                            "it is not what was written",
                        ));
                    }
                    files.push((name, bytes));
                }
                // A store has no count of commits before its first, or a log is too long.
                _ => {}
            }
        }
        Ok(Self { number_max, files })
    }

    /// The names of files that are not what they were, with what they held; none if the store was
    /// written to since.
    fn differing_files(&self, folder: &ParityFolder) -> Vec<&(String, Vec<u8>)> {
        let Ok(names) = names_in(&folder.database_dir()) else {
            return Vec::new();
        };
        let is_older = names.iter().any(|name| number_in(name) > self.number_max);
        let is_other = current_manifest(folder).is_some_and(|found| {
            let found = format!("database/{found}");
            self.files.iter().all(|(name, _)| *name != found)
                && folder.store_dir().join(found).exists()
        });
        if is_older || is_other {
            return Vec::new();
        }
        let differs = |(name, bytes): &&(String, Vec<u8>)| {
            fs::read(folder.store_dir().join(name)).map_or(true, |found| found != *bytes)
        };
        self.files.iter().filter(differs).collect()
    }
}

/// Writes down the small files of a store whose database was just closed.
pub(super) fn write_rest(folder: &ParityFolder) -> Result<(), StoreError> {
    let path = folder.rest_path();
    let bytes = RestCopy::copy_from(folder)?.encode();
    let partial = UnnamedFile::create(folder)?;
    partial
        .file()
        .write_all(&bytes)
        .map_err(|source| StoreError::of_file("write", &path, source))?;
    partial.publish_as(&path)
}

/// Forgets what was written down: the store is about to be written to.
pub(super) fn remove_rest(folder: &ParityFolder) {
    let _ = fs::remove_file(folder.rest_path());
}

/// Some if a copy of the small files was written; true if it is whole.
pub(super) fn has_rest(folder: &ParityFolder) -> Option<bool> {
    match fs::read(folder.rest_path()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        read => Some(read.is_ok_and(|bytes| RestCopy::decode(&bytes).is_ok())),
    }
}

/// The small files that are not what they were when the store was closed.
pub(super) fn damaged_files(folder: &ParityFolder) -> Vec<String> {
    let rest = read_rest(folder);
    let differing = rest.iter().flat_map(|rest| rest.differing_files(folder));
    differing.map(|(name, _)| name.clone()).collect()
}

/// Makes the small files what they were when the store was closed; which were not. For the one
/// process that may write.
pub(super) fn restore_files(folder: &ParityFolder) -> Result<Vec<String>, StoreError> {
    let Some(rest) = read_rest(folder) else {
        return Ok(Vec::new());
    };
    let mut restored = Vec::new();
    for (name, bytes) in rest.differing_files(folder) {
        let path = folder.store_dir().join(name);
        let partial = UnnamedFile::create(folder)?;
        partial
            .file()
            .write_all(bytes)
            .map_err(|source| StoreError::of_file("restore", &path, source))?;
        partial.publish_as(&path)?;
        restored.push(name.clone());
    }
    Ok(restored)
}

fn read_rest(folder: &ParityFolder) -> Option<RestCopy> {
    let mut bytes = Vec::new();
    let file = File::open(folder.rest_path()).ok()?;
    file.take(FILE_LEN_MAX * 2).read_to_end(&mut bytes).ok()?;
    RestCopy::decode(&bytes).ok()
}

fn names_in(dir: &Path) -> Result<Vec<String>, StoreError> {
    let fail = |source| StoreError::of_file("read the folder", dir, source);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(fail)? {
        names.extend(entry.map_err(fail)?.file_name().into_string());
    }
    Ok(names)
}

/// The manifest that `CURRENT` names, if it names one.
fn current_manifest(folder: &ParityFolder) -> Option<String> {
    let text = fs::read_to_string(folder.database_dir().join("CURRENT")).ok()?;
    let name = text.strip_suffix('\n')?;
    is_manifest(name).then(|| name.to_owned())
}

fn is_manifest(name: &str) -> bool {
    name.strip_prefix("MANIFEST-").is_some_and(is_number)
}

fn is_number(text: &str) -> bool {
    (6..=20).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// True if `name` is one of a file that is kept here: no other is ever written.
fn is_small_file(name: &str) -> bool {
    let in_database =
        |name: &str| is_manifest(name) || name.strip_suffix(".log").is_some_and(is_number);
    name.len() <= NAME_LEN_MAX
        && (NAMES.contains(&name) || name.strip_prefix("database/").is_some_and(in_database))
}

/// True if a small file looks as it was written, as far as can be told.
fn is_sound(name: &str, bytes: &[u8]) -> bool {
    match name {
        "vellum.store" => bytes.starts_with(MARKER_TEXT.as_bytes()),
        "commits" | "database/IDENTITY" => !bytes.is_empty(),
        "database/CURRENT" => {
            let text = std::str::from_utf8(bytes).ok();
            text.and_then(|text| text.strip_suffix('\n'))
                .is_some_and(is_manifest)
        }
        _ => logs::is_whole(bytes),
    }
}

/// The number that the database gave a file of this name; 0 if it gave none.
fn number_in(name: &str) -> u64 {
    let digits = ["sst", "log"]
        .iter()
        .find_map(|extension| number_of(name, extension));
    let manifest = || {
        name.strip_prefix("MANIFEST-")
            .filter(|digits| is_number(digits))?
            .parse()
            .ok()
    };
    digits.or_else(manifest).unwrap_or(0)
}

/// Decodes `body` as what was written down of a closed store, without the checksum: total on any
/// bytes. For fuzzing; whether it is that.
#[must_use]
pub fn decode_any_rest(body: &[u8]) -> bool {
    let Ok(rest) = RestCopy::decode_body(body) else {
        return false;
    };
    assert_eq!(rest.encode_body(), body, "one copy has one encoding");
    rest.files.iter().all(|(name, _)| is_small_file(name))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The copy's bytes for a small store, for golden bytes.
    pub(crate) fn example() -> Vec<u8> {
        let file = |name: &str, bytes: &[u8]| (name.to_owned(), bytes.to_vec());
        let rest = RestCopy {
            number_max: 70_000,
            files: vec![
                file("vellum.store", b"vellum store format 1\n"),
                file("database/CURRENT", b"MANIFEST-069999\n"),
                file("database/MANIFEST-069999", &[0, 1, 2, 255]),
                file("database/070000.log", b""),
            ],
        };
        let bytes = rest.encode();
        assert_eq!(RestCopy::decode(&bytes), Ok(rest));
        bytes
    }

    #[test]
    fn every_flipped_bit_is_noticed_and_no_other_file_is_named() {
        let bytes = example();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(RestCopy::decode(&damaged).is_err(), "{bit}");
        }
        for name in [
            "",
            "lock",
            "/etc/passwd",
            "../vellum.store",
            "database/../lock",
            "database/000001.sst",
            "database/MANIFEST-",
            "database/MANIFEST-00001x",
            "database/x/000001.log",
        ] {
            assert!(!is_small_file(name), "{name}");
        }
    }

    fn store() -> (tempfile::TempDir, ParityFolder) {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = ParityFolder::new(dir.path());
        folder.create_dirs().expect("made");
        fs::create_dir(folder.database_dir()).expect("made");
        put(&folder, "vellum.store", "vellum store format 1\n");
        put(&folder, "database/CURRENT", "MANIFEST-000005\n");
        put(&folder, "database/MANIFEST-000005", record("five"));
        put(&folder, "database/000004.log", record("four"));
        put(&folder, "database/000006.sst", "six");
        write_rest(&folder).expect("written");
        (dir, folder)
    }

    /// A whole log of one record.
    fn record(text: &str) -> Vec<u8> {
        let sum = [b"\x01", text.as_bytes()].concat();
        let sum = crc32c::crc32c(&sum)
            .rotate_right(15)
            .wrapping_add(0xa282_ead8);
        let len = (text.len() as u16).to_le_bytes();
        [&sum.to_le_bytes()[..], &len, b"\x01", text.as_bytes()].concat()
    }

    fn put(folder: &ParityFolder, name: &str, text: impl AsRef<[u8]>) {
        fs::write(folder.store_dir().join(name), text).expect("room");
    }

    fn has(folder: &ParityFolder, name: &str, text: impl AsRef<[u8]>) -> bool {
        fs::read(folder.store_dir().join(name)).is_ok_and(|found| found == text.as_ref())
    }

    #[test]
    fn a_small_file_that_is_gone_or_damaged_is_restored() {
        for (name, text) in [
            ("vellum.store", b"vellum store format 1\n".to_vec()),
            ("database/CURRENT", b"MANIFEST-000005\n".to_vec()),
            ("database/MANIFEST-000005", record("five")),
            ("database/000004.log", record("four")),
        ] {
            for damage in [None, Some(""), Some("MANIFEST-000007\n"), Some("other")] {
                let (_dir, folder) = store();
                assert_eq!(damaged_files(&folder), Vec::<String>::new());
                match damage {
                    None => fs::remove_file(folder.store_dir().join(name)).expect("removed"),
                    Some(damage) => put(&folder, name, damage),
                }
                assert_eq!(damaged_files(&folder), [name]);
                assert_eq!(restore_files(&folder).expect("restored"), [name]);
                assert!(has(&folder, name, &text), "{name} {damage:?}");
            }
        }
    }

    #[test]
    fn a_store_that_was_written_to_since_is_left_as_it_is() {
        for (name, text) in [
            ("database/MANIFEST-000007", "seven"),
            ("database/000007.log", "seven"),
            ("database/000007.sst", "seven"),
        ] {
            let (_dir, folder) = store();
            put(&folder, name, text);
            put(&folder, "database/000004.log", "more");
            assert_eq!(
                restore_files(&folder).expect("nothing to do"),
                Vec::<String>::new()
            );
            assert!(has(&folder, "database/000004.log", "more"), "{name}");
        }
    }

    /// A folder that was brought back from an older copy, but not what parity keeps.
    #[test]
    fn an_older_database_is_not_made_a_newer_one() {
        let (_dir, folder) = store();
        fs::remove_file(folder.database_dir().join("MANIFEST-000005")).expect("removed");
        put(&folder, "database/CURRENT", "MANIFEST-000003\n");
        put(&folder, "database/MANIFEST-000003", "three");
        assert_eq!(
            restore_files(&folder).expect("nothing to do"),
            Vec::<String>::new()
        );
        assert!(has(&folder, "database/CURRENT", "MANIFEST-000003\n"));
    }
}
