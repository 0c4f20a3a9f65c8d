//! `RocksDB`, named in this file only: column families, durability, scans, space.
//!
//! It knows no record: keys and values are bytes. Two kinds of write exist. A *logged* batch is in
//! the write-ahead log and synced when the call returns. A *bulk* batch is in memory until
//! [`Database::flush_bulk`] returns or memory runs full; families flush together (atomic flush), so
//! a crash loses a suffix of the bulk batches, never the middle of one.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rocksdb::{
    BlockBasedOptions, BottommostLevelCompaction, Cache, ColumnFamily, ColumnFamilyDescriptor,
    CompactOptions, DB, DBCompressionType, DBPinnableSlice, DBRawIterator, DBRecoveryMode,
    ErrorKind, FlushOptions, InfoLogger, LogLevel, Options, Range, ReadOptions, WriteBatch,
    WriteOptions,
};

use rustix::fs::{Advice, fadvise};

use crate::error::StoreError;
use crate::logs;
use crate::quarantine::{Quarantine, table_named_in};

/// Memory for one family's unflushed writes: large enough that a flush makes files worth having,
/// small enough that import stays within its budget with three of them alive. Small in unit tests:
/// every new log is allocated in this length beforehand.
const WRITE_BUFFER_LEN: usize = if cfg!(test) { 1 << 20 } else { 64 << 20 };
/// Memory for blocks of all families. Frames do not go through it: they are cached decoded.
const BLOCK_CACHE_LEN: usize = 64 << 20;
/// A file of the database: what one deletion of a whole file gives back, and what one compaction
/// rewrites.
const FILE_LEN: u64 = 64 << 20;
/// Equivalent Bloom bits per key for the Ribbon filter: one false look-up in a hundred, about 7
/// bits a chunk.
const FILTER_BITS: f64 = 9.9;

/// Tables that are open at once where each is opened when it is first read: damage to one then
/// keeps no other from being read.
const LAZY_OPEN_FILES: i32 = 512;

/// A family of which a table cannot be read gets more and more files, and no write waits for them
/// to become fewer: this many, each of a flush, are not reached.
const UNCOMPACTED_FILES_MAX: i32 = 1_000_000;
/// The options of such a family, where it is found while the database is open.
const NOT_COMPACTED: [(&str, &str); 5] = [
    ("disable_auto_compactions", "true"),
    ("level0_slowdown_writes_trigger", "1000000"),
    ("level0_stop_writes_trigger", "1000000"),
    ("soft_pending_compaction_bytes_limit", "0"),
    ("hard_pending_compaction_bytes_limit", "0"),
];

/// What an operation takes in `RocksDB`'s own batch beside its key and value, about.
const OPERATION_OVERHEAD_LEN: usize = 12;

/// A part of the database with keys of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// First chunk id → payload.
    Frames,
    /// First chunk id → header.
    Headers,
    /// Hash prefix → chunk id.
    Index,
    /// Layer id → layer record.
    Layers,
    /// Layer id, page index → page.
    Pages,
    /// Kind, id → image or snapshot record.
    Names,
    /// Fixed words → parameters and counters.
    Meta,
    /// The records of layers, names and meta once more: the tag of their family, their key → the
    /// same record.
    Copies,
}

impl Family {
    pub(crate) const ALL: [Self; 8] = [
        Self::Frames,
        Self::Headers,
        Self::Index,
        Self::Layers,
        Self::Pages,
        Self::Names,
        Self::Meta,
        Self::Copies,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Frames => "frames",
            Self::Headers => "headers",
            Self::Index => "index",
            Self::Layers => "layers",
            Self::Pages => "pages",
            Self::Names => "names",
            Self::Meta => "meta",
            Self::Copies => "copies",
        }
    }

    /// What keys begin with in [`Family::Copies`], for the families whose records are few and
    /// without which nothing can be found: they are kept twice, in files of their own, so that no
    /// single file stands between a person and all their disks.
    fn copy_tag(self) -> Option<u8> {
        match self {
            Self::Layers => Some(b'l'),
            Self::Names => Some(b'n'),
            Self::Meta => Some(b'm'),
            Self::Frames | Self::Headers | Self::Index | Self::Pages | Self::Copies => None,
        }
    }
}

/// How a batch outlives a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Synced when the write returns.
    Logged,
    /// Lost unless [`Database::flush_bulk`] returned after it.
    Bulk,
}

/// An open database.
pub(crate) struct Database {
    db: DB,
    /// Tables that cannot be read: see [`crate::quarantine`].
    quarantine: Mutex<Quarantine>,
    /// Whether a family has one since it was opened.
    has_news: AtomicBool,
    is_read_only: bool,
}

/// A table of the database.
pub(crate) struct Table {
    pub(crate) number: u64,
    pub(crate) first: Vec<u8>,
    pub(crate) last: Vec<u8>,
}

/// Changes that become visible and durable as one.
#[derive(Default)]
pub(crate) struct Batch {
    operations: Vec<Operation>,
    /// The keys and values of all operations, one after the other: an import puts millions of them.
    bytes: Vec<u8>,
}

enum Operation {
    Put {
        family: Family,
        key_len: usize,
        value_len: usize,
    },
    Delete {
        family: Family,
        key_len: usize,
    },
    DeleteRange {
        family: Family,
        from_len: usize,
        to_len: usize,
    },
}

impl Batch {
    pub(crate) fn put(&mut self, family: Family, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.operations.push(Operation::Put {
            family,
            key_len: key.len(),
            value_len: value.len(),
        });
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
    }

    pub(crate) fn delete(&mut self, family: Family, key: impl AsRef<[u8]>) {
        let key = key.as_ref();
        self.operations.push(Operation::Delete {
            family,
            key_len: key.len(),
        });
        self.bytes.extend_from_slice(key);
    }

    /// Deletes every key in `[from, to)`, at a cost that does not depend on how many there are.
    pub(crate) fn delete_range(
        &mut self,
        family: Family,
        from: impl AsRef<[u8]>,
        to: impl AsRef<[u8]>,
    ) {
        let (from, to) = (from.as_ref(), to.as_ref());
        self.operations.push(Operation::DeleteRange {
            family,
            from_len: from.len(),
            to_len: to.len(),
        });
        self.bytes.extend_from_slice(from);
        self.bytes.extend_from_slice(to);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Bytes of all keys and values.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// A value that lies in the database's memory.
pub(crate) struct Value<'a>(DBPinnableSlice<'a>);

impl Deref for Value<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Database {
    /// Makes a database in the empty folder `dir`.
    pub(crate) fn create(dir: &Path) -> Result<Self, StoreError> {
        let mut options = options();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_error_if_exists(true);
        Self::open_with(dir, &options, Quarantine::default())
    }

    /// Opens the database in `dir` for reading and writing. What a crash left is recovered. The
    /// families of tables in `quarantine` are not compacted.
    pub(crate) fn open(dir: &Path, quarantine: Quarantine) -> Result<Self, StoreError> {
        Self::open_with(dir, &options(), quarantine)
    }

    fn open_with(
        dir: &Path,
        options: &Options,
        mut quarantine: Quarantine,
    ) -> Result<Self, StoreError> {
        let db = DB::open_cf_descriptors(options, dir, descriptors(&quarantine))
            .map_err(|error| failed("open the database", error))?;
        if let Ok(files) = db.live_files() {
            let live: Vec<u64> = files
                .iter()
                .filter_map(|file| table_named_in(&file.name))
                .collect();
            quarantine.retain(|number| live.contains(&number));
        }
        Ok(Self {
            db,
            quarantine: Mutex::new(quarantine),
            has_news: AtomicBool::new(false),
            is_read_only: false,
        })
    }

    /// Opens the database in `dir` as it is now, also while another process writes to it. It never
    /// shows later changes.
    pub(crate) fn open_read_only(dir: &Path, quarantine: Quarantine) -> Result<Self, StoreError> {
        Self::open_read_only_with(dir, &read_only_options(), quarantine)
    }

    fn open_read_only_with(
        dir: &Path,
        options: &Options,
        quarantine: Quarantine,
    ) -> Result<Self, StoreError> {
        let descriptors = descriptors(&quarantine);
        let db = DB::open_cf_descriptors_read_only(options, dir, descriptors, false);
        Ok(Self {
            db: db.map_err(|error| failed("open the database", error))?,
            quarantine: Mutex::new(quarantine),
            has_news: AtomicBool::new(false),
            is_read_only: true,
        })
    }

    /// Opens what can be read of the damaged database in `dir`, as it was before the damage if that
    /// is in its log. Which records are hit is found when they are read. `room` is an empty folder
    /// for a copy of the logs; it is not needed any more afterwards.
    pub(crate) fn open_damaged(
        dir: &Path,
        room: &Path,
        quarantine: Quarantine,
    ) -> Result<Self, StoreError> {
        let mut options = read_only_options();
        // Without paranoid checks RocksDB passes over unreadable tables, but over unreadable
        // records of the log as well, which would be a hole in history. So it gets to see whole
        // logs only.
        logs::copy_whole_part(dir, room)?;
        options.set_wal_dir(room);
        options.set_track_and_verify_wals_in_manifest(false);
        options.set_paranoid_checks(false);
        options.set_max_open_files(LAZY_OPEN_FILES);
        Self::open_read_only_with(dir, &options, quarantine)
    }

    /// What changes whenever records move from the log to a file, or files are replaced: the
    /// manifests and their lengths. A log is only deleted after the manifest says where its records
    /// are.
    pub(crate) fn revision(dir: &Path) -> Result<BTreeMap<OsString, u64>, StoreError> {
        let fail = |source| StoreError::file("read the folder", dir, source);
        let mut revision = BTreeMap::new();
        for entry in std::fs::read_dir(dir).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            if entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(b"MANIFEST-")
            {
                // One that is being replaced has no length any more.
                let len = entry.metadata().map_or(0, |metadata| metadata.len());
                revision.insert(entry.file_name(), len);
            }
        }
        Ok(revision)
    }

    fn family(&self, family: Family) -> &ColumnFamily {
        self.db
            .cf_handle(family.name())
            .expect("every family is opened with the database")
    }

    pub(crate) fn get(&self, family: Family, key: &[u8]) -> Result<Option<Value<'_>>, StoreError> {
        let value = self
            .db
            .get_pinned_cf_opt(self.family(family), key, &read_options(family));
        Ok(value
            .map_err(|error| self.read_failed(family, error))?
            .map(Value))
    }

    /// The values of `keys`, in their order.
    pub(crate) fn get_many<'k>(
        &self,
        family: Family,
        keys: impl IntoIterator<Item = &'k [u8]>,
    ) -> Result<Vec<Option<Value<'_>>>, StoreError> {
        let values = self.db.batched_multi_get_cf_opt(
            self.family(family),
            keys,
            false,
            &read_options(family),
        );
        values
            .into_iter()
            .map(|value| {
                Ok(value
                    .map_err(|error| self.read_failed(family, error))?
                    .map(Value))
            })
            .collect()
    }

    /// The values of `keys`, in their order, each as far as it can be read.
    pub(crate) fn get_each<'k>(
        &self,
        family: Family,
        keys: impl IntoIterator<Item = &'k [u8]>,
    ) -> Vec<Result<Option<Vec<u8>>, StoreError>> {
        let values = self.db.batched_multi_get_cf_opt(
            self.family(family),
            keys,
            false,
            &read_options(family),
        );
        values
            .into_iter()
            .map(|value| match value {
                Ok(value) => Ok(value.map(|value| value.to_vec())),
                Err(error) => Err(self.read_failed(family, error)),
            })
            .collect()
    }

    /// The record with the greatest key that is not above `key`.
    pub(crate) fn last_at_or_before(
        &self,
        family: Family,
        key: &[u8],
    ) -> Result<Option<(Vec<u8>, Vec<u8>)>, StoreError> {
        let mut iterator = self
            .db
            .raw_iterator_cf_opt(self.family(family), read_options(family));
        iterator.seek_for_prev(key);
        iterator
            .status()
            .map_err(|error| self.read_failed(family, error))?;
        Ok(iterator
            .item()
            .map(|(key, value)| (key.to_vec(), value.to_vec())))
    }

    /// The records from `from` on, in key order, as they are now.
    pub(crate) fn scan(&self, family: Family, from: &[u8]) -> Scan<'_> {
        let mut options = read_options(family);
        options.set_readahead_size(1 << 20);
        let mut iterator = self.db.raw_iterator_cf_opt(self.family(family), options);
        iterator.seek(from);
        Scan {
            database: self,
            iterator,
            family,
            started: false,
        }
    }

    /// The records of `family` as they are now, for looking up here and there.
    pub(crate) fn lookup(&self, family: Family) -> Lookup<'_> {
        Lookup {
            database: self,
            iterator: self
                .db
                .raw_iterator_cf_opt(self.family(family), read_options(family)),
            family,
        }
    }

    /// The record of `family` at `key` as `decode` sees it; from its copy if it cannot be read
    /// itself, and then why not. `family` is one that is kept twice.
    pub(crate) fn record<T>(
        &self,
        family: Family,
        key: &[u8],
        decode: impl Fn(&[u8]) -> Result<T, StoreError>,
    ) -> Result<(Option<T>, Option<StoreError>), StoreError> {
        let tag = family.copy_tag().expect("the family is kept twice");
        let read = |family: Family, key: &[u8]| {
            self.get(family, key)?
                .map(|value| decode(&value))
                .transpose()
        };
        match read(family, key) {
            Ok(record) => Ok((record, None)),
            Err(error @ StoreError::Damaged(_)) => {
                match read(Family::Copies, &copy_key(tag, key)) {
                    Ok(record) => Ok((record, Some(error))),
                    Err(_) => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Writes one record past its copy, or a copy past its record.
    #[cfg(test)]
    pub(crate) fn put_alone(&self, family: Family, key: &[u8], value: &[u8]) {
        let put = self.db.put_cf(self.family(family), key, value);
        put.expect("a database for a test takes a record");
    }

    /// Writes `batch` as one.
    pub(crate) fn write(&self, batch: Batch, durability: Durability) -> Result<(), StoreError> {
        let mut operations = WriteBatch::with_capacity_bytes(
            batch.len() + batch.operations.len() * OPERATION_OVERHEAD_LEN,
        );
        let mut rest = batch.bytes.as_slice();
        let mut take = |len: usize| {
            let (taken, after) = rest.split_at(len);
            rest = after;
            taken
        };
        for operation in batch.operations {
            match operation {
                Operation::Put {
                    family,
                    key_len,
                    value_len,
                } => {
                    let (key, value) = (take(key_len), take(value_len));
                    operations.put_cf(self.family(family), key, value);
                    if let Some(tag) = family.copy_tag() {
                        operations.put_cf(self.family(Family::Copies), copy_key(tag, key), value);
                    }
                }
                Operation::Delete { family, key_len } => {
                    let key = take(key_len);
                    operations.delete_cf(self.family(family), key);
                    if let Some(tag) = family.copy_tag() {
                        operations.delete_cf(self.family(Family::Copies), copy_key(tag, key));
                    }
                }
                Operation::DeleteRange {
                    family,
                    from_len,
                    to_len,
                } => {
                    assert!(
                        family.copy_tag().is_none(),
                        "records that are kept twice are deleted by key"
                    );
                    operations.delete_range_cf(self.family(family), take(from_len), take(to_len));
                }
            }
        }
        let mut options = WriteOptions::default();
        match durability {
            Durability::Logged => options.set_sync(true),
            Durability::Bulk => options.disable_wal(true),
        }
        self.db
            .write_opt(operations, &options)
            .map_err(|error| self.write_failed(error))
    }

    /// Makes every batch so far durable.
    pub(crate) fn flush_bulk(&self) -> Result<(), StoreError> {
        let families = Family::ALL.map(|family| self.family(family));
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db
            .flush_cfs_opt(&families, &options)
            .map_err(|error| self.write_failed(error))
    }

    /// Gives back the space of deleted records in `[from, to)` by rewriting what is left of the
    /// files they are in. Everything must be flushed. Nothing is done where one of them cannot be
    /// read.
    pub(crate) fn compact(&self, family: Family, from: &[u8], to: &[u8]) {
        if self.has_unreadable(family, from, to) {
            return;
        }
        let mut options = CompactOptions::default();
        options.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
        options.set_exclusive_manual_compaction(false);
        self.db
            .compact_range_cf_opt(self.family(family), Some(from), Some(to), &options);
    }

    /// Removes the files that hold nothing outside `[from, last]`, at once and durably, and with no
    /// space needed. Records deleted there may come back, where the file that held the deletion
    /// goes and an older one does not: for ranges whose records nobody looks for.
    pub(crate) fn drop_files(
        &self,
        family: Family,
        from: &[u8],
        last: &[u8],
    ) -> Result<(), StoreError> {
        let dropped = self
            .db
            .delete_file_in_range_cf(self.family(family), from, last);
        dropped.map_err(|error| failed("remove files of the store", error))
    }

    /// About how many bytes the records in `[from, to)` take in files, deleted ones included.
    pub(crate) fn stored_len(&self, family: Family, from: &[u8], to: &[u8]) -> u64 {
        self.db
            .get_approximate_sizes_cf(self.family(family), &[Range::new(from, to)])
            .iter()
            .sum()
    }

    /// Whether a table of `family` that has keys in `[from, to)` was found unreadable.
    fn has_unreadable(&self, family: Family, from: &[u8], to: &[u8]) -> bool {
        if !self.quarantine().holds(family) {
            return false;
        }
        // Where nobody tells which tables there are, any may be the one.
        let Ok(tables) = self.table_list(family) else {
            return true;
        };
        tables.iter().any(|table| {
            self.quarantine().has(table.number)
                && table.last.as_slice() >= from
                && table.first.as_slice() < to
        })
    }

    /// The tables of `family`, whether they can be read or not.
    pub(crate) fn table_list(&self, family: Family) -> Result<Vec<Table>, StoreError> {
        let files = self
            .db
            .live_files()
            .map_err(|error| read_failed(family, error))?;
        let own = files
            .into_iter()
            .filter(|file| file.column_family_name == family.name());
        Ok(own
            .filter_map(|file| {
                Some(Table {
                    number: table_named_in(&file.name)?,
                    first: file.start_key?,
                    last: file.end_key?,
                })
            })
            .collect())
    }

    /// The first and last keys of the tables of `family`, as far as they are known: told without a
    /// look into the tables.
    pub(crate) fn table_bounds(&self, family: Family) -> BTreeSet<Vec<u8>> {
        let tables = self.table_list(family).unwrap_or_default();
        tables
            .into_iter()
            .flat_map(|table| [table.first, table.last])
            .collect()
    }

    /// Has the tables of `family` that begin in `[from, to)` read from the disk when they are read
    /// next, as far as the system does that.
    pub(crate) fn drop_cached(&self, family: Family, from: &[u8], to: &[u8]) {
        let tables = self.table_list(family).unwrap_or_default();
        let due = tables
            .iter()
            .filter(|table| (from..to).contains(&table.first.as_slice()));
        for table in due {
            let path = self.db.path().join(format!("{:06}.sst", table.number));
            // Without it, what is read may be what is in memory.
            let _ = File::open(path).map(|file| fadvise(&file, 0, None, Advice::DontNeed));
        }
    }

    fn quarantine(&self) -> MutexGuard<'_, Quarantine> {
        self.quarantine
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a table was found unreadable in a family that had none of them when the database was
    /// opened: then it was opened without knowing what not to compact.
    pub(crate) fn has_news_of_unreadable_tables(&self) -> bool {
        self.has_news.load(Ordering::Relaxed)
    }

    /// The tables that were found unreadable, for opening the database anew.
    pub(crate) fn into_quarantine(self) -> Quarantine {
        self.quarantine
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn read_failed(&self, family: Family, error: rocksdb::Error) -> StoreError {
        let failed = read_failed(family, error);
        if let StoreError::Damaged(damage) = &failed
            && let Some(number) = table_named_in(&damage.reason)
        {
            self.set_aside(number, family);
        }
        failed
    }

    /// A write fails for what a compaction met, too.
    fn write_failed(&self, error: rocksdb::Error) -> StoreError {
        let failed = failed("write to the store", error);
        if let StoreError::Damaged(damage) = &failed
            && let Some(number) = table_named_in(&damage.reason)
            && let Some(family) = self.family_of(number)
        {
            self.set_aside(number, family);
        }
        failed
    }

    fn family_of(&self, number: u64) -> Option<Family> {
        let files = self.db.live_files().ok()?;
        let file = files
            .iter()
            .find(|file| table_named_in(&file.name) == Some(number))?;
        Family::ALL
            .into_iter()
            .find(|family| family.name() == file.column_family_name)
    }

    /// Keeps compactions away from a table that cannot be read.
    fn set_aside(&self, number: u64, family: Family) {
        let mut quarantine = self.quarantine();
        let is_held = quarantine.holds(family);
        quarantine.add(number, family);
        drop(quarantine);
        if !is_held && !self.is_read_only {
            self.has_news.store(true, Ordering::Relaxed);
            // Where that fails, the next compaction may end all writing until the store is opened
            // again.
            let _ = self.db.set_options_cf(self.family(family), &NOT_COMPACTED);
        }
    }

    /// The tables of `family`: the first and the last key of each, and its length.
    pub(crate) fn tables(
        &self,
        family: Family,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>, u64)>, StoreError> {
        let files = self
            .db
            .live_files()
            .map_err(|error| read_failed(family, error))?;
        let own = files
            .into_iter()
            .filter(|file| file.column_family_name == family.name());
        Ok(own
            .filter_map(|file| Some((file.start_key?, file.end_key?, file.size as u64)))
            .collect())
    }

    /// About how many bytes are in memory and not in files yet, of all families.
    pub(crate) fn unflushed_len(&self) -> u64 {
        let len = |family| {
            self.db.property_int_value_cf(
                self.family(family),
                rocksdb::properties::CUR_SIZE_ALL_MEM_TABLES,
            )
        };
        Family::ALL
            .into_iter()
            .map(|family| len(family).ok().flatten().unwrap_or(0))
            .sum()
    }

    /// Bytes of all table files that hold live versions of the data.
    pub(crate) fn table_bytes(&self, family: Family) -> Result<u64, StoreError> {
        let bytes = self.db.property_int_value_cf(
            self.family(family),
            rocksdb::properties::LIVE_SST_FILES_SIZE,
        );
        Ok(bytes
            .map_err(|error| read_failed(family, error))?
            .unwrap_or(0))
    }

    /// About how many bytes of all table files belong to deleted records: each deletion and what it
    /// deletes.
    pub(crate) fn dead_len(&self, family: Family) -> Result<u64, StoreError> {
        let files = self
            .db
            .live_files()
            .map_err(|error| read_failed(family, error))?;
        let files = files
            .iter()
            .filter(|file| file.column_family_name == family.name());
        let (mut len, mut entries, mut deletions) = (0, 0, 0);
        files.for_each(|file| {
            (len, entries, deletions) = (
                len + file.size as u64,
                entries + file.num_entries,
                deletions + file.num_deletions,
            );
        });
        Ok((len * 2 * deletions)
            .checked_div(entries)
            .unwrap_or(0)
            .min(len))
    }
}

/// Records in key order, as they were when the scan began.
pub(crate) struct Scan<'a> {
    database: &'a Database,
    iterator: DBRawIterator<'a>,
    family: Family,
    started: bool,
}

impl Scan<'_> {
    /// The next record.
    pub(crate) fn next(&mut self) -> Result<Option<(&[u8], &[u8])>, StoreError> {
        if self.started && self.iterator.valid() {
            self.iterator.next();
        }
        self.started = true;
        self.iterator
            .status()
            .map_err(|error| self.database.read_failed(self.family, error))?;
        Ok(self.iterator.item())
    }
}

/// Records as they were when this was made.
pub(crate) struct Lookup<'a> {
    database: &'a Database,
    iterator: DBRawIterator<'a>,
    family: Family,
}

impl Lookup<'_> {
    /// The record with the smallest key that is not below `key`. Cheap where that is at or right
    /// after the last one.
    pub(crate) fn from(&mut self, key: &[u8]) -> Result<Option<(&[u8], &[u8])>, StoreError> {
        let is_behind = self.iterator.key().is_some_and(|last| last < key);
        if is_behind {
            self.iterator.next();
        }
        // Where one step leads from below to there or past it, that is it, as in a walk over all.
        let is_found = is_behind && self.iterator.key().is_some_and(|found| found >= key);
        if !is_found {
            self.iterator.seek(key);
        }
        self.iterator
            .status()
            .map_err(|error| self.database.read_failed(self.family, error))?;
        Ok(self.iterator.item())
    }

    /// The record at `key`.
    pub(crate) fn get(&mut self, key: &[u8]) -> Result<Option<&[u8]>, StoreError> {
        Ok(self
            .from(key)?
            .filter(|(found, _)| *found == key)
            .map(|(_, value)| value))
    }
}

fn options() -> Options {
    // Every new log would claim its whole length (64 MiB) at once: on a nearly full disk that takes
    // the room from what is to be written, and where claiming means zeroing (tmpfs) or copying
    // (btrfs) it costs more than the log.
    //
    // And every change of the manifest makes a new one, of which nothing is seen before it is
    // synced and `CURRENT` names it. Appended to the old one, a change that a loss of power tears
    // would be damage, to RocksDB, and the store would not open.
    let named = "allow_fallocate=false;max_manifest_file_size=1;max_manifest_space_amp_pct=0";
    let mut options = Options::default()
        .get_options_from_string(named)
        .expect("RocksDB knows its own options");
    options.set_atomic_flush(true);
    // A log that is damaged in its middle must not pass for one that ends there: acknowledged
    // commits would vanish silently.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_paranoid_checks(true);
    // Every file stays open, so that a reading process keeps what it has seen while the owner
    // compacts.
    options.set_max_open_files(-1);
    options.set_max_background_jobs(2);
    options.set_bytes_per_sync(4 << 20);
    options.set_max_total_wal_size(64 << 20);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options.set_log_level(LogLevel::Warn);
    options.set_stats_dump_period_sec(0);
    options
}

fn read_only_options() -> Options {
    let mut options = options();
    // RocksDB's own log is a file in the folder, which is not ours to write to.
    options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Fatal, |_, _| {}));
    options
}

fn descriptors(quarantine: &Quarantine) -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(BLOCK_CACHE_LEN);
    let options = |family| {
        let mut options = family_options(family, &cache);
        if quarantine.holds(family) {
            options.set_disable_auto_compactions(true);
            options.set_level_zero_slowdown_writes_trigger(UNCOMPACTED_FILES_MAX);
            options.set_level_zero_stop_writes_trigger(UNCOMPACTED_FILES_MAX);
            options.set_soft_pending_compaction_bytes_limit(0);
            options.set_hard_pending_compaction_bytes_limit(0);
        }
        ColumnFamilyDescriptor::new(family.name(), options)
    };
    let mut all: Vec<_> = Family::ALL.map(options).into();
    all.push(ColumnFamilyDescriptor::new("default", Options::default()));
    all
}

fn family_options(family: Family, cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_format_version(6);
    if matches!(family, Family::Index | Family::Frames | Family::Pages) {
        blocks.set_ribbon_filter(FILTER_BITS);
        blocks.set_optimize_filters_for_memory(true);
    }
    if family == Family::Headers {
        blocks.set_block_size(16 << 10);
    }
    let mut options = Options::default();
    if family == Family::Index {
        // Most look-ups of an import are for chunks that are not there: a filter answers them for
        // the newest entries, too.
        options.set_memtable_whole_key_filtering(true);
        options.set_memtable_prefix_bloom_ratio(0.1);
    }
    options.set_block_based_table_factory(&blocks);
    options.set_write_buffer_size(WRITE_BUFFER_LEN);
    options.set_target_file_size_base(FILE_LEN);
    // Frames come compressed, hashes and ids do not compress.
    options.set_compression_type(match family {
        Family::Layers | Family::Pages | Family::Names | Family::Meta | Family::Copies => {
            DBCompressionType::Lz4
        }
        Family::Frames | Family::Headers | Family::Index => DBCompressionType::None,
    });
    options
}

fn read_options(family: Family) -> ReadOptions {
    let mut options = ReadOptions::default();
    // Decoded frames have their own cache; their compressed form would only push out what has none.
    options.fill_cache(family != Family::Frames);
    options.set_verify_checksums(true);
    options
}

fn read_failed(family: Family, error: rocksdb::Error) -> StoreError {
    failed(&format!("read {} from the store", family.name()), error)
}

/// Where the copy of the record at `key` of `family` is, which is one that is kept twice.
pub(crate) fn key_of_copy(family: Family, key: &[u8]) -> Vec<u8> {
    copy_key(family.copy_tag().expect("the family is kept twice"), key)
}

/// The family and the key of the record that the one at `key` of [`Family::Copies`] is a copy of.
pub(crate) fn original_of_copy(key: &[u8]) -> Option<(Family, &[u8])> {
    let (tag, key) = key.split_first()?;
    let family = Family::ALL
        .into_iter()
        .find(|family| family.copy_tag() == Some(*tag))?;
    Some((family, key))
}

fn copy_key(tag: u8, key: &[u8]) -> Vec<u8> {
    [&[tag], key].concat()
}

/// `RocksDB` tells a full disk, a file that is gone and a disk that fails only by their words.
fn failed(what: &str, error: rocksdb::Error) -> StoreError {
    let (what, kind, message) = (what.to_owned(), error.kind(), error.into_string());
    let says = |words: &[&str]| words.iter().any(|words| message.contains(words));
    match kind {
        _ if says(&[
            "No space left on device",
            "Disk quota exceeded",
            "File too large",
            "NoSpace",
        ]) =>
        {
            StoreError::Full { what }
        }
        _ if kind == ErrorKind::Corruption
            || says(&["No such file or directory", "Input/output error"]) =>
        {
            StoreError::damaged("the database", format!("cannot {what}: {message}"))
        }
        _ => StoreError::Database { what, message },
    }
}
