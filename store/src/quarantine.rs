//! Quarantine of tables that RocksDB could not read: their family is not compacted.
//!
//! One unreadable block ends a compaction, and RocksDB then takes no write any more until it is
//! opened again, when the same compaction begins anew: one flipped bit would end all writing for
//! ever. Reads go around the block; so do writes, if no compaction asks for it. So the family's own
//! compactions stay off, and those that a collection asks for keep away from the table, for as long
//! as the table is there.
//!
//! The quarantine is a hint, in the file `quarantine` of the store's folder. If it is lost, the
//! process that meets the table first cannot write until it opens the store again.
//!
//! ```text
//! One line for each table: its number, a space, the name of its family.
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::database::family::Family;

const QUARANTINE: &str = "quarantine";
const NEW_QUARANTINE: &str = "quarantine.new";
/// Tables that are remembered: more are met again.
const TABLES_MAX: usize = 1024;
/// The longest file that is read.
const LEN_MAX: u64 = 64 << 10;
const MODE: u32 = 0o600;

/// The tables that were found unreadable, by number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quarantine {
    /// None keeps them for this process only.
    dir: Option<PathBuf>,
    tables: BTreeMap<u64, Family>,
}

impl Quarantine {
    /// Reads the quarantine from the store's folder `dir`.
    pub(crate) fn load_from(dir: &Path) -> Self {
        let mut text = String::new();
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
            .open(dir.join(QUARANTINE));
        // A table that is missing here because of an error is met again.
        let _ = opened.map(|file| file.take(LEN_MAX).read_to_string(&mut text));
        let tables = text
            .lines()
            .filter_map(parse_line)
            .take(TABLES_MAX)
            .collect();
        Self {
            dir: Some(dir.to_owned()),
            tables,
        }
    }

    /// True if one of the tables of `family` cannot be read.
    pub(crate) fn has_family(&self, family: Family) -> bool {
        self.tables.values().any(|of| *of == family)
    }

    /// True if table `number` cannot be read.
    pub(crate) fn has_table(&self, number: u64) -> bool {
        self.tables.contains_key(&number)
    }

    /// Remembers that table `number` of `family` cannot be read; whether that is news.
    pub(crate) fn add_table(&mut self, number: u64, family: Family) -> bool {
        let is_new = self.tables.len() < TABLES_MAX && self.tables.insert(number, family).is_none();
        if is_new {
            self.save_file();
        }
        is_new
    }

    /// Forgets the tables that are not there any more.
    pub(crate) fn retain_tables(&mut self, is_there: impl Fn(u64) -> bool) {
        let before = self.tables.len();
        self.tables.retain(|number, _| is_there(*number));
        if self.tables.len() < before {
            self.save_file();
        }
    }

    /// Writes the file anew. Where that fails, what it would say is met again.
    fn save_file(&self) {
        let Some(dir) = &self.dir else { return };
        let path = dir.join(QUARANTINE);
        if self.tables.is_empty() {
            let _ = fs::remove_file(path);
            return;
        }
        let new = dir.join(NEW_QUARANTINE);
        let _ = fs::remove_file(&new);
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(MODE)
            .open(&new);
        let _ = made
            .and_then(|file| self.write_lines(file))
            .and_then(|()| fs::rename(&new, path));
    }

    fn write_lines(&self, mut file: File) -> std::io::Result<()> {
        let mut text = Vec::new();
        for (number, family) in &self.tables {
            writeln!(text, "{number:06} {}", family.family_name())?;
        }
        file.write_all(&text)
    }
}

fn parse_line(line: &str) -> Option<(u64, Family)> {
    let (number, name) = line.split_once(' ')?;
    let family = Family::ALL
        .into_iter()
        .find(|family| family.family_name() == name)?;
    Some((number.parse().ok()?, family))
}

/// The number of the table that RocksDB's words name, as in `… in /store/database/000012.sst …`.
pub(crate) fn table_named_in(text: &str) -> Option<u64> {
    let end = text.find(".sst")?;
    let start = text[..end]
        .rfind(|letter: char| !letter.is_ascii_digit())
        .map_or(0, |before| before + 1);
    text[start..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_remembered_until_they_are_gone() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut quarantine = Quarantine::load_from(dir.path());
        assert!(!quarantine.has_family(Family::Index));
        assert!(quarantine.add_table(12, Family::Index) && quarantine.add_table(9, Family::Copies));
        assert!(!quarantine.add_table(12, Family::Index), "it is known");
        let mut again = Quarantine::load_from(dir.path());
        assert!(
            again.has_family(Family::Index)
                && again.has_family(Family::Copies)
                && again.has_table(9)
        );
        again.retain_tables(|number| number == 9);
        let again = Quarantine::load_from(dir.path());
        assert!(!again.has_family(Family::Index) && again.has_family(Family::Copies));
        Quarantine::load_from(dir.path()).retain_tables(|_| false);
        assert!(!dir.path().join(QUARANTINE).exists());
    }

    #[test]
    fn what_the_file_does_not_say_is_not_believed() {
        let dir = tempfile::tempdir().expect("a folder");
        let text = "x index\n12 nothing\n\n7 index more\n000003 names\n12";
        fs::write(dir.path().join(QUARANTINE), text).expect("written");
        let quarantine = Quarantine::load_from(dir.path());
        assert!(quarantine.has_family(Family::Names) && quarantine.has_table(3));
        assert_eq!(quarantine.tables.len(), 1);
        fs::write(dir.path().join(QUARANTINE), [0xff; 3]).expect("written");
        assert!(Quarantine::load_from(dir.path()).tables.is_empty());
    }

    #[test]
    fn rocksdbs_words_name_the_table() {
        for (text, number) in [
            (
                "mismatch in /a/database/000012.sst offset 0 size 93",
                Some(12),
            ),
            ("000345.sst: No such file or directory", Some(345)),
            ("truncated in x.sst", None),
            ("no table", None),
        ] {
            assert_eq!(table_named_in(text), number, "{text}");
        }
    }
}
