//! Files of parity, and of the tables that it protects, in a store's folder.
//!
//! ```text
//! parity/NNNNNNNN.group   a group: its tables' block sums, its parity (`group`)
//! parity/rest             the database's small files as they were when the store was closed
//!                         (`rest`)
//! parity/held/NNNNNN.sst  links to the tables of groups while the store is open for writing: a
//!                         table that RocksDB removes stays readable for its group until the group
//!                         is made anew
//! parity/.NAME.partial    left by a crash; the next step removes it
//! ```
//!
//! Links are taken away when the store is closed, but those to tables that are gone otherwise: a
//! copy of a closed store that does not know links is not larger than it. Where the file system has
//! no links, protection has a gap between the removal of a table and the next step, no more.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;

use super::group::{BLOCK_LEN, GroupHead, ParityGroup, SHAPE_LEN_MAX};
use super::shape::GroupShape;
use crate::error::StoreError;

/// Longer records of groups are none.
const RECORD_LEN_MAX: u64 = 1 << 30;
/// Permissions of new files: for their owner only.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// Tells the unfinished files of one process apart.
static UNNAMED: AtomicU64 = AtomicU64::new(0);

/// A store's folder, as parity sees it.
#[derive(Clone, Debug)]
pub(super) struct ParityFolder {
    store: PathBuf,
}

impl ParityFolder {
    pub(super) fn new(store: &Path) -> Self {
        Self {
            store: store.to_owned(),
        }
    }

    pub(super) fn store_dir(&self) -> &Path {
        &self.store
    }

    pub(super) fn database_dir(&self) -> PathBuf {
        self.store.join("database")
    }

    pub(super) fn parity_dir(&self) -> PathBuf {
        self.store.join("parity")
    }

    pub(super) fn rest_path(&self) -> PathBuf {
        self.parity_dir().join("rest")
    }

    pub(super) fn group_path(&self, id: u64) -> PathBuf {
        self.parity_dir().join(format!("{id:08}.group"))
    }

    /// Path of the database's table `number`.
    pub(super) fn table_path(&self, number: u64) -> PathBuf {
        self.database_dir().join(table_name(number))
    }

    /// The link to table `number`, if there is one.
    pub(super) fn held_path(&self, number: u64) -> PathBuf {
        self.parity_dir().join("held").join(table_name(number))
    }

    /// Makes the folder, if it is not there.
    pub(super) fn create_dirs(&self) -> Result<(), StoreError> {
        let held = self.parity_dir().join("held");
        if held.is_dir() {
            return Ok(());
        }
        DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(&held)
            .and_then(|()| File::open(&self.store)?.sync_all())
            .map_err(|source| StoreError::of_file("make the folder", &held, source))
    }

    /// The numbers of all groups' files.
    pub(super) fn group_ids(&self) -> Result<Vec<u64>, StoreError> {
        let mut ids: Vec<u64> = names_in(&self.parity_dir())?
            .iter()
            .filter_map(|name| number_of(name, "group"))
            .collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// The tables that are linked.
    pub(super) fn held_tables(&self) -> Result<Vec<u64>, StoreError> {
        let names = names_in(&self.parity_dir().join("held"))?;
        Ok(names
            .iter()
            .filter_map(|name| number_of(name, "sst"))
            .collect())
    }

    /// The groups whose files begin and end as they should, and those whose files do not.
    pub(super) fn read_shapes(&self) -> Result<(Vec<GroupShape>, Vec<u64>), StoreError> {
        let (mut shapes, mut unreadable) = (Vec::new(), Vec::new());
        for id in self.group_ids()? {
            match self.read_head(id) {
                Some(head) => shapes.push(head.group_shape(id)),
                None => unreadable.push(id),
            }
        }
        Ok((shapes, unreadable))
    }

    fn read_head(&self, id: u64) -> Option<GroupHead> {
        let file = File::open(self.group_path(id)).ok()?;
        let len = file.metadata().ok()?.len();
        let mut bytes = Vec::new();
        file.take(SHAPE_LEN_MAX as u64)
            .read_to_end(&mut bytes)
            .ok()?;
        GroupHead::decode(&bytes)
            .ok()
            .filter(|head| head.file_len() == len)
    }

    /// The record of a group, and its file. `None` if it is not whole.
    pub(super) fn load_group(&self, id: u64) -> Option<(ParityGroup, File)> {
        let path = self.group_path(id);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .or_else(|_| File::open(&path))
            .ok()?;
        let record_len = self.read_head(id)?.record_len();
        if record_len > RECORD_LEN_MAX {
            return None;
        }
        let mut bytes = vec![0; record_len as usize];
        file.read_exact_at(&mut bytes, 0).ok()?;
        Some((ParityGroup::decode(&bytes).ok()?, file))
    }

    /// Links table `number`, so that it stays when the database removes it. Where that cannot be
    /// done, it does not stay.
    pub(super) fn link_table(&self, number: u64) {
        let (table, held) = (self.table_path(number), self.held_path(number));
        let is_same = || {
            let (table, held) = (fs::metadata(&table).ok()?, fs::metadata(&held).ok()?);
            Some(table.ino() == held.ino())
        };
        match fs::hard_link(&table, &held) {
            // A link to another file of that name: of a folder that was copied, say.
            Err(error)
                if error.kind() == io::ErrorKind::AlreadyExists && is_same() == Some(false) =>
            {
                let _ = fs::remove_file(&held).and_then(|()| fs::hard_link(&table, &held));
            }
            _ => {}
        }
    }

    /// Takes away the link to table `number`.
    pub(super) fn unlink_table(&self, number: u64) {
        let _ = fs::remove_file(self.held_path(number));
    }

    /// Takes away the links to tables that are in the database's folder, too.
    pub(super) fn release_present(&self) {
        let present = |number: &u64| {
            fs::metadata(self.table_path(*number)).is_ok_and(|found| found.is_file())
        };
        let held = self.held_tables().unwrap_or_default();
        held.into_iter()
            .filter(present)
            .for_each(|number| self.unlink_table(number));
    }

    /// Table `number` as the database has it, or as it is still held.
    pub(super) fn open_table(&self, number: u64) -> io::Result<File> {
        File::open(self.table_path(number)).or_else(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                File::open(self.held_path(number))
            } else {
                Err(error)
            }
        })
    }

    pub(super) fn remove_group(&self, id: u64) -> Result<(), StoreError> {
        let path = self.group_path(id);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::of_file("remove", &path, source))
            }
            _ => Ok(()),
        }
    }

    /// Removes what a crash left of files that were being written.
    pub(super) fn remove_partial(&self) {
        for name in names_in(&self.parity_dir()).unwrap_or_default() {
            if name.starts_with('.') {
                let _ = fs::remove_file(self.parity_dir().join(name));
            }
        }
    }

    /// Bytes on disk: of groups and what belongs to them, and of tables that only links keep.
    pub(super) fn disk_usage(&self) -> (u64, u64) {
        let blocks = |path: PathBuf| fs::symlink_metadata(path).map_or(0, |found| found.blocks());
        let own = names_in(&self.parity_dir()).unwrap_or_default();
        let own: u64 = own
            .into_iter()
            .map(|name| self.parity_dir().join(name))
            .map(blocks)
            .sum();
        let held = self.held_tables().unwrap_or_default().into_iter();
        let held: u64 = held
            .filter(|number| !self.table_path(*number).exists())
            .map(|number| blocks(self.held_path(number)))
            .sum();
        (own * 512, held * 512)
    }
}

/// A file in parity's folder that gets its name in the store once it is whole. Removed unless it
/// does.
pub(super) struct UnnamedFile {
    file: File,
    path: PathBuf,
    is_named: bool,
}

impl UnnamedFile {
    pub(super) fn create(folder: &ParityFolder) -> Result<Self, StoreError> {
        let number = UNNAMED.fetch_add(1, Ordering::Relaxed);
        let name = format!(".{}-{number}.partial", std::process::id());
        let path = folder.parity_dir().join(name);
        let mut options = OpenOptions::new();
        options
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        let opened = options.open(&path);
        Ok(Self {
            file: opened.map_err(|source| StoreError::of_file("make", &path, source))?,
            path,
            is_named: false,
        })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Contents first, name last: syncs it, gives it the name `target`, and syncs that.
    pub(super) fn publish_as(mut self, target: &Path) -> Result<(), StoreError> {
        let folder = target.parent().unwrap_or(Path::new("."));
        let named = self
            .file
            .sync_all()
            .and_then(|()| fs::rename(&self.path, target))
            .and_then(|()| {
                self.is_named = true;
                File::open(folder)?.sync_all()
            });
        named.map_err(|source| StoreError::of_file("write", target, source))
    }
}

impl Drop for UnnamedFile {
    fn drop(&mut self) {
        if !self.is_named {
            // The next step removes what is left of it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Names in `dir`; none if it is not there.
fn names_in(dir: &Path) -> Result<Vec<String>, StoreError> {
    let fail = |source| StoreError::of_file("read the folder", dir, source);
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(fail)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(fail)?.file_name().into_string());
    }
    Ok(names)
}

fn table_name(number: u64) -> String {
    format!("{number:06}.sst")
}

/// The number of a file that is called so.
pub(super) fn number_of(name: &str, extension: &str) -> Option<u64> {
    let digits = name.strip_suffix(extension)?.strip_suffix('.')?;
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| digits.parse().ok())?
}

/// Fills `buffer` with `len` bytes of `file` from `at` on, and zeros behind them. Whether all could
/// be read: what could not is zero.
pub(super) fn read_padded(file: &File, buffer: &mut [u8], at: u64, len: u64) -> bool {
    let wanted = usize::try_from(len.saturating_sub(at))
        .unwrap_or(0)
        .min(buffer.len());
    let (bytes, rest) = buffer.split_at_mut(wanted);
    rest.fill(0);
    if file.read_exact_at(bytes, at).is_ok() {
        return true;
    }
    // Some sectors of it: each by itself.
    for (nth, block) in bytes.chunks_mut(BLOCK_LEN).enumerate() {
        if file
            .read_exact_at(block, at + (nth * BLOCK_LEN) as u64)
            .is_err()
        {
            read_part(file, block, at + (nth * BLOCK_LEN) as u64);
        }
    }
    false
}

/// Reads as much of a block as there is, zeros after it: a file that was cut ends in one.
fn read_part(file: &File, block: &mut [u8], at: u64) {
    let mut done = 0;
    while let Ok(read @ 1..) = file.read_at(&mut block[done..], at + done as u64) {
        done += read;
    }
    block[done..].fill(0);
}
