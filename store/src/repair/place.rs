//! Place of the repaired database: makes it, exchanges it with the damaged one in one step, and
//! tidies up after a repair that was cut off.
//!
//! ```text
//! repair.new/              while a repair goes on: a store's folder of its own
//! repair.new/database/     the repaired database, with the empty file `unfinished`; once it has
//!                          been exchanged with the store's own, that one
//! replaced-DATE/           repair.new under the name that it keeps after the exchange
//! ```

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::layout::{sync_dir, write_durably};
use crate::error::StoreError;
use crate::folder::StoreFolder;

const PLACE: &str = "repair.new";
/// File that marks the folder of a database which is not the store's yet.
const UNFINISHED: &str = "unfinished";
/// The damaged database, where two folders cannot be exchanged in one step.
const ASIDE: &str = "aside";
const DAY_S: u64 = 86_400;

/// Folder in which a repaired database is made.
pub(super) struct RepairPlace {
    store: PathBuf,
    dir: PathBuf,
}

impl RepairPlace {
    /// An empty place in the store's folder. What an earlier repair left is tidied up first: its
    /// work is thrown away, what it had replaced is kept.
    pub(super) fn create_empty(folder: &StoreFolder) -> Result<Self, StoreError> {
        let store = folder.path().to_owned();
        let place = Self {
            dir: store.join(PLACE),
            store,
        };
        place.clean_up_earlier()?;
        let dir = place.database_dir();
        fs::create_dir_all(&dir)
            .map_err(|source| StoreError::of_file("make the folder", &dir, source))?;
        write_durably(&dir.join(UNFINISHED), b"")?;
        StoreFolder::of_damaged(&place.dir).write_marker()?;
        Ok(place)
    }

    /// The folder, which is a store's once the database is made.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn database_dir(&self) -> PathBuf {
        self.dir.join("database")
    }

    fn own_database(&self) -> PathBuf {
        self.store.join("database")
    }

    /// Finishes or undoes what an earlier repair left.
    fn clean_up_earlier(&self) -> Result<(), StoreError> {
        let aside = self.dir.join(ASIDE);
        if aside.exists() && !self.own_database().exists() {
            rename_path(&aside, &self.own_database())?;
            sync_dir(&self.store)?;
        }
        if !self.dir.exists() {
            return self.remove_mark();
        }
        let has_database =
            fs::read_dir(self.database_dir()).is_ok_and(|mut names| names.next().is_some());
        let is_unfinished = self.database_dir().join(UNFINISHED).exists();
        let holds_replaced = aside.exists() || has_database && !is_unfinished;
        if holds_replaced {
            self.keep_replaced().map(drop)?;
            return self.remove_mark();
        }
        self.discard_database()
    }

    /// Throws the repaired database away.
    pub(super) fn discard_database(&self) -> Result<(), StoreError> {
        // The mark last: until it is gone, this is work that may be thrown away.
        for name in fs::read_dir(self.database_dir())
            .into_iter()
            .flatten()
            .flatten()
        {
            if name.file_name() != UNFINISHED {
                remove_path(&name.path())?;
            }
        }
        fs::remove_dir_all(&self.dir)
            .map_err(|source| StoreError::of_file("remove the folder", &self.dir, source))
    }

    /// Puts the repaired database in the place of the store's; where that one is kept.
    pub(super) fn exchange_databases(&self) -> Result<PathBuf, StoreError> {
        let (new, old) = (self.database_dir(), self.own_database());
        sync_dir(&new)?;
        sync_dir(&self.dir)?;
        match renameat_with(CWD, &new, CWD, &old, RenameFlags::EXCHANGE) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOSYS) => {
                rename_path(&old, &self.dir.join(ASIDE))?;
                rename_path(&new, &old)?;
            }
            Err(errno) => return Err(StoreError::of_file("exchange", &old, errno.into())),
        }
        sync_dir(&self.dir)?;
        sync_dir(&self.store)?;
        let kept = self.keep_replaced()?;
        self.remove_mark()?;
        Ok(kept)
    }

    /// Gives the folder with what was replaced the name that it keeps.
    fn keep_replaced(&self) -> Result<PathBuf, StoreError> {
        let (aside, database) = (self.dir.join(ASIDE), self.database_dir());
        if aside.exists() && !database.exists() {
            rename_path(&aside, &database)?;
        }
        for name in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if name.file_name() != "database" && name.file_name() != ASIDE {
                remove_path(&name.path())?;
            }
        }
        let base = format!("replaced-{}", format_date(crate::clock::now_ms() / 1000));
        let names = std::iter::once(base.clone()).chain((2..).map(|nth| format!("{base}-{nth}")));
        let free = names
            .map(|name| self.store.join(name))
            .find(|path| !path.exists());
        let kept = free.unwrap_or_else(|| self.store.join(base));
        rename_path(&self.dir, &kept)?;
        sync_dir(&self.store)?;
        Ok(kept)
    }

    /// The store's database is the store's.
    fn remove_mark(&self) -> Result<(), StoreError> {
        remove_path(&self.own_database().join(UNFINISHED))
    }
}

/// Bytes on disk that go when what was replaced is removed: what has no other name.
pub(super) fn own_len(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let len = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => own_len(&entry.path()),
        Ok(metadata) if metadata.nlink() == 1 => metadata.blocks() * 512,
        _ => 0,
    };
    entries.map(len).sum()
}

fn rename_path(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(|source| StoreError::of_file("rename", from, source))
}

fn remove_path(path: &Path) -> Result<(), StoreError> {
    let removed = if path.is_dir() && !path.is_symlink() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|source| StoreError::of_file("remove", path, source)),
    }
}

/// A moment as part of a file's name, in UTC. The days are counted as by Howard Hinnant's
/// `civil_from_days`.
fn format_date(seconds: u64) -> String {
    let (days, second) = (seconds / DAY_S + 719_468, seconds % DAY_S);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_the_calendars() {
        assert_eq!(format_date(0), "19700101-000000");
        assert_eq!(format_date(951_782_400), "20000229-000000");
        assert_eq!(format_date(1_795_951_925), "20261129-113205");
    }
}
