//! Heals a parity group: damaged blocks are found by their sums, computed from the rest, held
//! against their sums, and written back.
//!
//! *In place*, since a table never changes: the bytes that are written are those that stood there,
//! and every process that has the file open (RocksDB has them all) reads it whole from then on. A
//! crash in the middle leaves a block damaged that was damaged before. A table that is gone is
//! linked back if it is still held, or computed as a file of another name and renamed.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::code::ParityEncoder;
use super::files::{ParityFolder, UnnamedFile, read_padded};
use super::group::{BLOCK_LEN, ParityGroup, block_sums, blocks_of};
use super::shape::TableFile;
use super::window::{ParityWindow, RestoredBlock, split_windows};
use crate::error::StoreError;
use crate::watch::{Progress, Watch, go_on};

/// Bytes of a table that are read at once when it is looked at by itself.
const LOOK_LEN: usize = 1 << 20;

/// Result of checking, and healing, groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParityHealing {
    /// Bytes of tables that were verified against their sums.
    pub bytes_read: u64,
    /// Blocks of tables that are as they should be again (or would be).
    pub blocks_healed: u64,
    /// Blocks of parity likewise.
    pub parity_blocks_healed: u64,
    /// Files that were gone and are there again, or were replaced whole; relative to the store.
    pub files_restored: Vec<String>,
    /// Files of tables that stay damaged: too much of their group is lost.
    pub files_lost: Vec<String>,
    /// Groups whose own files were not whole: they protect nothing any more.
    pub groups_lost: u64,
}

impl ParityHealing {
    /// True if anything was, or would be, mended.
    #[must_use]
    pub fn is_healed(&self) -> bool {
        self.blocks_healed + self.parity_blocks_healed > 0 || !self.files_restored.is_empty()
    }

    /// True if everything was as it should be.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        !self.is_healed() && self.files_lost.is_empty() && self.groups_lost == 0
    }

    pub(super) fn add_report(&mut self, other: Self) {
        self.bytes_read += other.bytes_read;
        self.blocks_healed += other.blocks_healed;
        self.parity_blocks_healed += other.parity_blocks_healed;
        self.files_restored.extend(other.files_restored);
        self.files_lost.extend(other.files_lost);
        self.groups_lost += other.groups_lost;
    }
}

/// Options of healing.
#[derive(Clone, Copy)]
pub(crate) struct HealOptions<'a> {
    /// Tables that the database needs, if that is known: others are not made anew.
    pub(crate) needed: Option<&'a BTreeSet<u64>>,
    /// True to write nothing.
    pub(crate) is_dry: bool,
    pub(crate) watch: &'a dyn Watch,
}

impl HealOptions<'_> {
    /// True if the database needs table `number`, as far as is known.
    pub(super) fn is_needed(&self, number: u64) -> bool {
        self.needed.is_none_or(|needed| needed.contains(&number))
    }
}

/// A group that is being healed.
struct GroupHealer<'a> {
    folder: &'a ParityFolder,
    group: &'a ParityGroup,
    own: &'a File,
    manner: HealOptions<'a>,
    /// `None`: the table is gone.
    tables: Vec<Option<File>>,
    /// Files in whose place tables are computed that are gone.
    rebuilt: Vec<Option<UnnamedFile>>,
    changed: BTreeSet<usize>,
    lost: BTreeSet<usize>,
    report: ParityHealing,
}

/// The blocks of `table` that are not as they should be; `None` if its file is gone, or has
/// another length.
pub(super) fn damaged_blocks(
    folder: &ParityFolder,
    table: TableFile,
    sums: &[[u8; 8]],
) -> Option<Vec<usize>> {
    let file = File::open(folder.table_path(table.number)).ok()?;
    if file.metadata().ok()?.len() != table.len {
        return None;
    }
    let (mut damaged, mut buffer) = (Vec::new(), vec![0; LOOK_LEN]);
    let blocks_at_once = LOOK_LEN / BLOCK_LEN;
    for start in (0..blocks_of(table.len)).step_by(blocks_at_once) {
        let wanted = &sums[start..sums.len().min(start + blocks_at_once)];
        let bytes = &mut buffer[..wanted.len() * BLOCK_LEN];
        read_padded(&file, bytes, (start * BLOCK_LEN) as u64, table.len);
        let found = block_sums(bytes);
        let differ = found
            .iter()
            .zip(wanted)
            .enumerate()
            .filter(|(_, (a, b))| a != b);
        damaged.extend(differ.map(|(nth, _)| start + nth));
    }
    Some(damaged)
}

/// Heals the blocks in `wanted` of all tables of `group`, whose file is `own`, and of its parity.
pub(super) fn heal_group(
    folder: &ParityFolder,
    group: &ParityGroup,
    own: &File,
    wanted: &[Range<usize>],
    manner: HealOptions<'_>,
) -> Result<ParityHealing, StoreError> {
    let mut surgery = GroupHealer::open_group(folder, group, own, manner)?;
    let total = Some(group.members.iter().map(|table| table.len).sum());
    let mut encoder = ParityEncoder::default();
    for range in wanted
        .iter()
        .flat_map(|wanted| split_windows(&group.members, wanted.clone()))
    {
        go_on(manner.watch)?;
        surgery.report.bytes_read += (range.len() * range.table_count) as u64;
        let window = ParityWindow::read_window(group, range, &surgery.tables, own);
        if !window.is_sound() {
            surgery.heal_window(window, &mut encoder)?;
        }
        manner.watch.report_progress(Progress {
            done: surgery.report.bytes_read,
            total,
        });
    }
    surgery.finish_healing()
}

impl<'a> GroupHealer<'a> {
    fn open_group(
        folder: &'a ParityFolder,
        group: &'a ParityGroup,
        own: &'a File,
        manner: HealOptions<'a>,
    ) -> Result<Self, StoreError> {
        let mut surgery = Self {
            folder,
            group,
            own,
            manner,
            tables: Vec::new(),
            rebuilt: Vec::new(),
            changed: BTreeSet::new(),
            lost: BTreeSet::new(),
            report: ParityHealing::default(),
        };
        for table in &group.members {
            let file = surgery.open_table(*table)?;
            let is_due = file.is_none() && surgery.is_needed(table.number) && !manner.is_dry;
            let rebuilt = is_due.then(|| UnnamedFile::create(folder));
            surgery.tables.push(file);
            surgery.rebuilt.push(rebuilt.transpose()?);
        }
        Ok(surgery)
    }

    fn is_needed(&self, number: u64) -> bool {
        self.manner.is_needed(number)
    }

    /// The file of a table with the length that it must have.
    fn open_table(&mut self, table: TableFile) -> Result<Option<File>, StoreError> {
        let (path, held) = (
            self.folder.table_path(table.number),
            self.folder.held_path(table.number),
        );
        let (is_dry, is_needed) = (self.manner.is_dry, self.is_needed(table.number));
        if !path.exists() && held.exists() && is_needed {
            self.report.files_restored.push(name_of(table.number));
            if !is_dry {
                let linked = fs::hard_link(&held, &path).and_then(|()| {
                    File::open(self.folder.database_dir()).and_then(|folder| folder.sync_all())
                });
                linked.map_err(|source| StoreError::of_file("restore", &path, source))?;
            }
        }
        let found_len = fs::metadata(&path).map(|found| found.len());
        if found_len.is_ok_and(|len| len != table.len) {
            // A file of another length counts as one block: bytes behind its end are in none.
            self.report.blocks_healed += 1;
        }
        if is_dry {
            return Ok(self.folder.open_table(table.number).ok());
        }
        let opened = OpenOptions::new().read(true).write(true).open(&path);
        let Ok(file) = opened else {
            // One that is held only, or cannot be written: it helps the others.
            return Ok(self.folder.open_table(table.number).ok());
        };
        if file.metadata().is_ok_and(|found| found.len() != table.len) {
            file.set_len(table.len)
                .map_err(|source| StoreError::of_file("repair", &path, source))?;
            self.changed.insert(self.tables.len());
        }
        Ok(Some(file))
    }

    fn heal_window(
        &mut self,
        mut window: ParityWindow<'_>,
        encoder: &mut ParityEncoder,
    ) -> Result<(), StoreError> {
        let restored = window.restore_blocks()?;
        for block in &restored {
            self.write_back(block)?;
        }
        window.accept_blocks(&restored);
        self.lost
            .extend(window.damaged_blocks().into_iter().map(|(place, _)| place));
        let parity = window.restore_parity(encoder)?;
        self.report.parity_blocks_healed += parity.len() as u64;
        for block in parity.iter().filter(|_| !self.manner.is_dry) {
            let head = self.group.group_head();
            let at = head.record_len()
                + head.parity_len() * block.place as u64
                + (block.block * BLOCK_LEN) as u64;
            self.own
                .write_all_at(&block.bytes, at)
                .map_err(|source| StoreError::of_io("repair a parity group", source))?;
        }
        Ok(())
    }

    fn write_back(&mut self, restored: &RestoredBlock) -> Result<(), StoreError> {
        let table = self.group.members[restored.place];
        let is_gone = self.tables[restored.place].is_none();
        if is_gone && !self.is_needed(table.number) {
            return Ok(());
        }
        if !is_gone {
            self.report.blocks_healed += 1;
        }
        if self.manner.is_dry {
            return Ok(());
        }
        let at = (restored.block * BLOCK_LEN) as u64;
        let len = (BLOCK_LEN as u64).min(table.len - at) as usize;
        let file = match &self.rebuilt[restored.place] {
            Some(rebuilt) => Some(rebuilt.file()),
            None => self.tables[restored.place].as_ref(),
        };
        self.changed.insert(restored.place);
        file.map_or(Ok(()), |file| file.write_all_at(&restored.bytes[..len], at))
            .map_err(|source| {
                StoreError::of_file("repair", &self.folder.table_path(table.number), source)
            })
    }

    /// Makes what was written durable, and tells what stays lost.
    fn finish_healing(mut self) -> Result<ParityHealing, StoreError> {
        for (place, table) in self.group.members.iter().enumerate() {
            let path = self.folder.table_path(table.number);
            let is_lost = self.lost.contains(&place);
            let is_needed = self.is_needed(table.number);
            if is_lost && is_needed {
                self.report.files_lost.push(name_of(table.number));
            }
            if let Some(rebuilt) = self.rebuilt[place].take() {
                if !is_lost && self.changed.contains(&place) {
                    rebuilt.publish_as(&path)?;
                    self.report.files_restored.push(name_of(table.number));
                }
            } else if self.manner.is_dry && self.tables[place].is_none() && is_needed && !is_lost {
                self.report.files_restored.push(name_of(table.number));
            } else if self.changed.contains(&place) && !self.manner.is_dry {
                let synced = self.tables[place].as_ref().map_or(Ok(()), File::sync_all);
                synced.map_err(|source| StoreError::of_file("repair", &path, source))?;
            }
        }
        if self.report.parity_blocks_healed > 0 && !self.manner.is_dry {
            self.own
                .sync_all()
                .map_err(|source| StoreError::of_io("repair a parity group", source))?;
        }
        Ok(self.report)
    }
}

/// A table as people find it.
pub(super) fn name_of(number: u64) -> String {
    format!("database/{number:06}.sst")
}
