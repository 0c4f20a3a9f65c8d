//! Parity: restores tables that are damaged or gone, without a second copy of them.
//!
//! RocksDB's tables never change. Some of them together are a *group* (`plan`): a file with a sum
//! of each of their blocks, and with parity computed over them (`encode`), from which lost blocks
//! of a few of them are computed again (`heal`). Everything in tables heals so: payloads, headers,
//! maps, names, the index. The database's small files are kept once more as they were when the
//! store was closed (`rest`). RocksDB knows nothing of it, and nothing of it is needed to open or
//! read a store that is whole.
//!
//! # Why it never makes a store worse
//!
//! - *A group is right for ever.* Its tables have numbers that are never given twice, and bytes
//!   that never change. Before it writes a block into a table, the block is held against the sum of
//!   the one that stood there. While the store is open for writing, tables of groups are linked
//!   (`files`), so that a group keeps all of its tables whatever RocksDB removes.
//! - *Content first, name last.* A group's file is written whole, synced and renamed; then the
//!   groups whose place it takes are removed, then links that no group needs. A crash or a loss of
//!   power in between leaves a file without a name, or two groups with one table: both are right,
//!   and the next step removes the older. A group's name cannot be durable before its bytes: they
//!   were synced first.
//! - *A table that gets a new group is not taken as it is.* One that was in a group must still have
//!   the sums that it had there, else it is healed first: damage does not become the truth.
//! - *The small files* are written down after the database was closed, and mean nothing as soon as
//!   it is opened again (`rest`).
//! - *A full disk.* Where there is no room, groups that lost tables are removed before others are
//!   made, so that deleted tables give their space back; then less is protected for a while, and
//!   the status says how much.
//! - *Damage to parity itself* is found by its sums. Its tables are protected anew.
//!
//! # What it cannot do
//!
//! Tables that were written since the last step are not protected yet: a command takes one at its
//! end, a server every minute. Of a store that is open, or was not closed in order, manifest and
//! log are not kept. Losing more blocks at one place of a group than it has parity is reported, not
//! mended.

mod code;
mod encode;
mod files;
mod group;
mod heal;
mod plan;
mod protect;
mod rest;
mod shape;
#[cfg(test)]
mod tests;
mod window;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::StoreError;
use crate::folder::{OwnerLock, StoreFolder};
use crate::watch::{Unwatched, Watch};

use files::{ParityFolder, number_of};
use group::BLOCK_LEN;
pub use group::decode_any as decode_any_group;
pub(crate) use heal::HealOptions;
pub use heal::ParityHealing;
use heal::{damaged_blocks, heal_group};
pub use plan::foreseen_parity_len;
pub use protect::ProtectReport;
pub(crate) use rest::LOG_LEN_MAX;
pub use rest::decode_any_rest;
pub(crate) use shape::{TableClass, TableFile};

#[cfg(test)]
pub(crate) use {
    code::tests::example as golden_code, group::tests::example as golden_group,
    rest::tests::example as golden_rest,
};

/// Retries of reads that met damage in a table which was healed meanwhile, for each healing of the
/// table.
const RETRIES_MAX: u32 = 256;

/// Share of parity: its length relative to the tables, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ParityShare(u16);

/// State of a store's protection by parity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParityStatus {
    /// The share that was asked for; none: parity is off.
    pub share: Option<ParityShare>,
    /// Groups.
    pub groups: u64,
    /// Tables in groups.
    pub tables_protected: u64,
    /// Their bytes.
    pub bytes_protected: u64,
    /// Tables that are in no group yet.
    pub tables_unprotected: u64,
    /// Their bytes.
    pub bytes_unprotected: u64,
    /// Groups that lost a table to the database, and are to be made anew.
    pub groups_stale: u64,
    /// Groups' files that are damaged: they protect nothing.
    pub groups_damaged: u64,
    /// Bytes of parity on disk.
    pub bytes_on_disk: u64,
    /// Bytes on disk of tables that the database does not need any more, but groups do.
    pub bytes_held: u64,
    /// True if manifest, log and marker are kept; only of a store that no process writes to.
    pub has_small_files: bool,
}

/// Position of a look at all that is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ParityPosition {
    /// Number of the group, or of one before it.
    group: u64,
    /// Block in it.
    block: u64,
}

impl ParityPosition {
    /// The bytes that a scrub keeps.
    pub(crate) fn to_key(self) -> Vec<u8> {
        [self.group.to_be_bytes(), self.block.to_be_bytes()].concat()
    }

    /// The position that `key` is, or the beginning.
    pub(crate) fn of_key(key: &[u8]) -> Self {
        let number = |at: usize| {
            let bytes = key.get(at..at + 8)?.try_into().ok()?;
            Some(u64::from_be_bytes(bytes))
        };
        let position = number(0).zip(number(8));
        position.map_or_else(Self::default, |(group, block)| Self { group, block })
    }

    fn first_block_of(self, group: u64) -> usize {
        if group == self.group {
            usize::try_from(self.block).unwrap_or(usize::MAX)
        } else {
            0
        }
    }
}

/// The parity of one store. Whatever is done with it, one thing is at a time.
pub(crate) struct Parity {
    folder: ParityFolder,
    right: ParityWriteRight,
    state: Mutex<ParityState>,
    notices: Mutex<Vec<String>>,
}

/// Right by which files are written.
enum ParityWriteRight {
    /// This process has the store open for writing.
    Owner,
    /// It is asked for each time.
    Asked(StoreFolder),
}

/// Right to write; if a lock had to be taken for it, held until this is dropped.
struct ParityRightGuard {
    _lock: Option<OwnerLock>,
}

#[derive(Default)]
struct ParityState {
    share: Option<ParityShare>,
    /// Tables that stay damaged, so that not every read of them tries anew.
    hopeless: BTreeSet<u64>,
    /// Tables that were healed, and how many that met the damage may still try again: what the
    /// database takes for damaged and parity does not would else be read for ever.
    mended: BTreeMap<u64, u32>,
    /// True if the database is open for writing.
    is_writing: bool,
    /// True if all tables were looked at because of an error that named none.
    was_swept: bool,
}

impl ParityShare {
    /// `per_mille` thousandths, 10 to 1,000: a hundredth up to a mirror.
    #[must_use]
    pub fn new(per_mille: u16) -> Option<Self> {
        (10..=1000).contains(&per_mille).then_some(Self(per_mille))
    }

    /// Thousandths.
    #[must_use]
    pub fn per_mille(self) -> u64 {
        self.0.into()
    }
}

impl Parity {
    /// The parity of the store in `folder`. `is_owner`: this process has it open for writing.
    pub(crate) fn new(folder: &StoreFolder, is_owner: bool) -> Self {
        Self {
            folder: ParityFolder::new(folder.path()),
            right: if is_owner {
                ParityWriteRight::Owner
            } else {
                ParityWriteRight::Asked(folder.clone())
            },
            state: Mutex::default(),
            notices: Mutex::default(),
        }
    }

    fn lock_state(&self) -> MutexGuard<'_, ParityState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn share(&self) -> Option<ParityShare> {
        self.lock_state().share
    }

    pub(crate) fn set_share(&self, share: Option<ParityShare>) {
        self.lock_state().share = share;
    }

    /// Adds `text` to the notices, which the caller may ask for.
    pub(crate) fn add_notice(&self, text: String) {
        self.notices
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(text);
    }

    /// Takes the notices of healings since the last call, in words.
    pub(crate) fn take_notices(&self) -> Vec<String> {
        std::mem::take(&mut *self.notices.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn notice_healing(&self, report: &ParityHealing) {
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        notices.extend(
            report
                .files_restored
                .iter()
                .map(|name| format!("{name} was restored by parity")),
        );
        if report.blocks_healed > 0 {
            notices.push(format!(
                "parity healed {} damaged blocks of 4 KiB",
                report.blocks_healed
            ));
        }
    }

    /// The right to write, if it can be had.
    fn acquire_right(&self) -> Option<ParityRightGuard> {
        let lock = match &self.right {
            ParityWriteRight::Owner => None,
            ParityWriteRight::Asked(folder) => Some(folder.lock_for_writing("vellum parity").ok()?),
        };
        Some(ParityRightGuard { _lock: lock })
    }

    /// Heals the tables that `message`, an error of the database's, names; if it names none, or
    /// nothing was wrong with them, all tables, once. `needed` are the tables that the database
    /// needs, if it can tell: others are not made anew. Whether anything was healed: then what
    /// failed is worth another try.
    pub(crate) fn heal_named(&self, message: &str, needed: Option<&BTreeSet<u64>>) -> bool {
        let named = tables_named(message).into_iter();
        if named
            .filter(|number| self.heal_table(*number, needed))
            .count()
            > 0
        {
            return true;
        }
        if std::mem::replace(&mut self.lock_state().was_swept, true) {
            return false;
        }
        let healed = self.heal_all(needed, false, &Unwatched);
        healed.is_ok_and(|report| report.is_healed())
    }

    /// Heals table `number`. Whether anything of it was healed.
    pub(crate) fn heal_table(&self, number: u64, needed: Option<&BTreeSet<u64>>) -> bool {
        let mut state = self.lock_state();
        if state.hopeless.contains(&number) {
            return false;
        }
        let Some(_right) = self.acquire_right() else {
            return false;
        };
        let healed = self.try_heal_table(number, needed);
        if let Ok(report) = &healed {
            self.notice_healing(report);
        }
        if healed.is_ok_and(|report| report.is_healed()) {
            state.mended.insert(number, RETRIES_MAX);
            return true;
        }
        // A read that met the damage while another healed it finds the table whole, and is tried
        // again.
        if let Some(retries @ 1..) = state.mended.get_mut(&number) {
            *retries -= 1;
            return true;
        }
        state.hopeless.insert(number);
        false
    }

    fn try_heal_table(
        &self,
        number: u64,
        needed: Option<&BTreeSet<u64>>,
    ) -> Result<ParityHealing, StoreError> {
        let (shapes, _) = self.folder.read_shapes()?;
        let mut report = ParityHealing::default();
        for shape in shapes.iter().rev() {
            let Some(place) = shape
                .members
                .iter()
                .position(|table| table.number == number)
            else {
                continue;
            };
            let Some((group, own)) = self.folder.load_group(shape.id) else {
                continue;
            };
            let (table, sums) = (group.members[place], &group.member_sums[place]);
            let all_blocks = 0..group::blocks_of(table.len);
            let wanted: Vec<_> = match damaged_blocks(&self.folder, table, sums) {
                Some(blocks) => blocks.into_iter().map(|block| block..block + 1).collect(),
                None => vec![all_blocks],
            };
            if wanted.is_empty() {
                break;
            }
            let manner = HealOptions {
                needed,
                is_dry: false,
                watch: &Unwatched,
            };
            report.add_report(heal_group(&self.folder, &group, &own, &wanted, manner)?);
            if report.files_lost.is_empty() {
                break;
            }
        }
        Ok(report)
    }

    /// Looks at every table of every group, and heals what is not as it should be; `is_dry`: only
    /// tells. `needed` are the tables that the database needs, if it can tell.
    pub(crate) fn heal_all(
        &self,
        needed: Option<&BTreeSet<u64>>,
        is_dry: bool,
        watch: &dyn Watch,
    ) -> Result<ParityHealing, StoreError> {
        let mut state = self.lock_state();
        let _right = if is_dry {
            None
        } else {
            Some(self.acquire_right().ok_or(StoreError::ReadOnly)?)
        };
        state.hopeless.clear();
        let (shapes, unreadable) = self.folder.read_shapes()?;
        let mut report = ParityHealing {
            groups_lost: unreadable.len() as u64,
            ..ParityHealing::default()
        };
        for shape in shapes {
            let Some((group, own)) = self.folder.load_group(shape.id) else {
                report.groups_lost += 1;
                if !is_dry {
                    self.folder.remove_group(shape.id)?;
                }
                continue;
            };
            let manner = HealOptions {
                needed,
                is_dry,
                watch,
            };
            let whole = 0..group.block_count();
            report.add_report(heal_group(&self.folder, &group, &own, &[whole], manner)?);
        }
        if !is_dry {
            unreadable
                .into_iter()
                .try_for_each(|id| self.folder.remove_group(id))?;
            self.notice_healing(&report);
        }
        Ok(report)
    }

    /// Looks at a part of what is protected as [`Parity::heal_all`] does at all of it: from `from`
    /// on, about `len_max` bytes of one group; a group of which a table is gone is looked at whole.
    /// Where the next part begins; `None` if this was the last.
    pub(crate) fn heal_part(
        &self,
        from: ParityPosition,
        len_max: u64,
        manner: HealOptions<'_>,
    ) -> Result<(ParityHealing, Option<ParityPosition>), StoreError> {
        let _state = self.lock_state();
        let _right = if manner.is_dry {
            None
        } else {
            Some(self.acquire_right().ok_or(StoreError::ReadOnly)?)
        };
        let ids = self.folder.group_ids()?;
        let Some(id) = ids.into_iter().filter(|id| *id >= from.group).min() else {
            return Ok((ParityHealing::default(), None));
        };
        let next_group = ParityPosition {
            group: id + 1,
            block: 0,
        };
        // Those that cannot be read go when all are looked at.
        let Some((group, own)) = self.folder.load_group(id) else {
            return Ok((ParityHealing::default(), Some(next_group)));
        };
        let (count, first) = (group.block_count(), from.first_block_of(id));
        let is_gone = |table: &TableFile| {
            let len =
                std::fs::metadata(self.folder.table_path(table.number)).map(|found| found.len());
            manner.is_needed(table.number) && !len.is_ok_and(|len| len == table.len)
        };
        let wanted = if group.members.iter().any(is_gone) {
            0..count
        } else {
            let across = (group.members.len() * BLOCK_LEN) as u64;
            let some = (len_max / across).max(1) as usize;
            first.min(count)..count.min(first.saturating_add(some))
        };
        let next = if wanted.end < count {
            ParityPosition {
                group: id,
                block: wanted.end as u64,
            }
        } else {
            next_group
        };
        let report = heal_group(&self.folder, &group, &own, &[wanted], manner)?;
        self.notice_healing(&report);
        Ok((report, Some(next)))
    }

    /// State of the protection of the tables `live`.
    pub(crate) fn protection_status(&self, live: &[TableFile]) -> Result<ParityStatus, StoreError> {
        let (shapes, unreadable) = self.folder.read_shapes()?;
        let live_set: BTreeSet<TableFile> = live.iter().copied().collect();
        let unprotected = plan::unprotected_tables(live, &shapes);
        let (bytes_on_disk, bytes_held) = self.folder.disk_usage();
        let bytes_unprotected = unprotected.iter().map(|table| table.len).sum();
        let is_stale = |shape: &&shape::GroupShape| {
            shape.members.iter().any(|table| !live_set.contains(table))
        };
        Ok(ParityStatus {
            share: self.share(),
            groups: shapes.len() as u64,
            tables_protected: (live.len() - unprotected.len()) as u64,
            bytes_protected: live.iter().map(|table| table.len).sum::<u64>() - bytes_unprotected,
            tables_unprotected: unprotected.len() as u64,
            bytes_unprotected,
            groups_stale: shapes.iter().filter(is_stale).count() as u64,
            groups_damaged: unreadable.len() as u64,
            bytes_on_disk,
            bytes_held,
            has_small_files: rest::has_rest(&self.folder) == Some(true),
        })
    }

    /// Removes everything that parity has in the folder.
    pub(crate) fn remove_all(&self) -> Result<(), StoreError> {
        let _state = self.lock_state();
        let dir = self.folder.parity_dir();
        match std::fs::remove_dir_all(&dir) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(StoreError::of_file("remove", &dir, source))
            }
            _ => Ok(()),
        }
    }

    /// Forgets what was written down of the small files: the database is open for writing.
    pub(crate) fn begin_writing(&self) {
        rest::remove_rest(&self.folder);
        self.lock_state().is_writing = true;
    }

    /// Keeps the tables of groups, whatever the database removes from now on.
    pub(crate) fn hold_tables(&self) {
        let Ok((shapes, _)) = self.folder.read_shapes() else {
            return;
        };
        let tables = shapes.iter().flat_map(|shape| &shape.members);
        tables.for_each(|table| self.folder.link_table(table.number));
    }
}

/// Writes down a store's small files when it is dropped, which must be after its database was.
pub(crate) struct SmallFileSaver(pub(crate) std::sync::Arc<Parity>);

impl Drop for SmallFileSaver {
    fn drop(&mut self) {
        let state = self.0.lock_state();
        if state.share.is_none() || !state.is_writing {
            return;
        }
        // Without it the small files are not protected, which the status says.
        self.0.folder.release_present();
        let _ = rest::write_rest(&self.0.folder);
    }
}

/// Restores the small files of a store, before it is opened, to what they were when it was closed,
/// if they differ and nothing was written since. Returns the names of those that differed.
pub(crate) fn restore_small_files(dir: &Path) -> Result<Vec<String>, StoreError> {
    let folder = ParityFolder::new(dir);
    if rest::damaged_files(&folder).is_empty() {
        return Ok(Vec::new());
    }
    // Another process may be writing right now: then the files are its own.
    let _lock = StoreFolder::of_damaged(dir).lock_for_writing("vellum parity")?;
    rest::restore_files(&folder)
}

/// Names the files that [`restore_small_files`] would restore.
pub(crate) fn damaged_small_files(dir: &Path) -> Vec<String> {
    rest::damaged_files(&ParityFolder::new(dir))
}

/// The numbers of the tables that an error of the database's names.
fn tables_named(message: &str) -> BTreeSet<u64> {
    let words = message.split(|c: char| !c.is_ascii_alphanumeric() && c != '.');
    words.filter_map(|word| number_of(word, "sst")).collect()
}
