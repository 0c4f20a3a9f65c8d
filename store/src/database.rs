//! `RocksDB`, named in this module only: column families, durability, scans, space.
//!
//! It knows no record: keys and values are bytes. Two kinds of write exist. A *logged* batch is in
//! the write-ahead log and synced when the call returns. A *bulk* batch is in memory until
//! [`Database::flush_bulk`] returns or memory runs full; families flush together (atomic flush), so
//! a crash loses a suffix of the bulk batches, never the middle of one.
//!
//! A write that fails costs the handle through which it went, no more: see `handle`.

pub(crate) mod family;
mod handle;
mod stall;
mod unflushed;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::marker::PhantomData;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use rocksdb::{
    BlockBasedOptions, BottommostLevelCompaction, Cache, ColumnFamily, ColumnFamilyDescriptor,
    CompactOptions, DB, DBCompressionType, DBPinnableSlice, DBRawIterator, DBRecoveryMode,
    ErrorKind, FlushOptions, InfoLogger, LogLevel, Options, Range, ReadOptions, Snapshot,
    WaitForCompactOptions, WriteBatch, WriteOptions,
};

use rustix::fs::{Advice, fadvise};

use crate::chunks::sync::lock_unpoisoned;
use crate::error::StoreError;
use crate::logs;
use crate::parity::{Parity, TableClass, TableFile};
use crate::quarantine::{Quarantine, table_named_in};
use crate::reserve::Reserve;
use crate::sizes::Sizes;
pub(crate) use family::Family;
pub(crate) use handle::Generation;
use handle::{CurrentHandle, Cursor, Handle, IteratorSlot, MemtableFate, Reopen};
use stall::FailedWrite;

/// Bytes that a scan reads ahead.
const SCAN_READAHEAD_LEN: usize = 1 << 20;
/// Limit of retries of one read after files were healed: it may need several.
const HEALED_READS_MAX: u32 = 64;

/// Limit of tries of a write: one more after the handle was replaced, and again where another's
/// failure kept it from being begun, or compactions met one damaged table after the other. What
/// fails oftener fails for a reason that stays.
const TRIES: u32 = 4;
/// Equivalent Bloom bits per key for the Ribbon filter: one false look-up in a hundred, about 7
/// bits a chunk.
const FILTER_BITS: f64 = 9.9;

/// Tables that are open at once where each is opened when it is first read: damage to one then
/// keeps no other from being read.
const LAZY_OPEN_FILES: i32 = 512;

/// Tables of frames that may overlap on a small disk, before they are sorted: what overlaps is
/// rewritten together, for which a full disk must have room.
const LOOSE_TABLES_SMALL: i32 = 2;
/// Tables of the first level that is sorted: RocksDB's own ratio.
const TABLES_IN_FIRST_LEVEL: u64 = 4;

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

/// Bytes that an operation takes in `RocksDB`'s own batch beside its key and value, about.
const OPERATION_OVERHEAD_LEN: usize = 12;

/// Durability of a batch: how it outlives a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Synced when the write returns.
    Logged,
    /// Lost unless [`Database::flush_bulk`] returned after it.
    Bulk,
}

/// Compaction by RocksDB itself: on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compaction {
    AsUsual,
    /// Not now: see [`Database::resume_compactions`].
    Paused,
    None,
}

/// An open database.
pub(crate) struct Database {
    current: CurrentHandle,
    /// The parity that may heal files that cannot be read.
    parity: OnceLock<Arc<Parity>>,
    /// Tables that cannot be read: see [`crate::quarantine`].
    quarantine: Arc<Mutex<Quarantine>>,
    /// True if an unreadable table was found in a family since it was opened.
    has_news: AtomicBool,
    /// True if tables are not compacted by themselves, since it was opened on a disk that was
    /// nearly full.
    is_paused: Arc<AtomicBool>,
    reserve: Reserve,
    is_read_only: bool,
}

/// A database that is opened again where it was.
struct InPlace {
    dir: PathBuf,
    sizes: Sizes,
    reserve: Reserve,
    /// Descriptors that are kept back: where others have taken all, the database is opened again
    /// all the same.
    descriptors: Mutex<Vec<File>>,
    /// Tables that cannot be read, whose families are not compacted.
    quarantine: Arc<Mutex<Quarantine>>,
    /// None where a table cannot even be opened.
    compaction: Compaction,
    /// See [`Database::resume_compactions`].
    is_paused: Arc<AtomicBool>,
}

/// Names the manifest that counts.
const CURRENT: &str = "CURRENT";
/// Descriptors that are kept back: for what `RocksDB` has open at a time beside its tables.
const DESCRIPTORS_KEPT: usize = 24;

/// The state of a family: it changes with every write, and with every table that comes or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Revision {
    last_write: u64,
    tables: u64,
    generation: Generation,
}

/// A table: a file of the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DatabaseTable {
    pub(crate) number: u64,
    /// Its first and its last key.
    pub(crate) first: Vec<u8>,
    pub(crate) last: Vec<u8>,
    pub(crate) len: u64,
    /// True if it is of level 0, whose tables overlap each other and are rewritten together.
    pub(crate) is_loose: bool,
}

/// Changes that become visible and durable as one.
#[derive(Default)]
pub(crate) struct Batch {
    operations: Vec<OperationHead>,
    /// The keys and values of all operations, one after the other: an import puts millions of them.
    bytes: Vec<u8>,
}

enum OperationHead {
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

/// An operation with its keys and values.
enum BatchOperation<'b> {
    Put(Family, &'b [u8], &'b [u8]),
    Delete(Family, &'b [u8]),
    /// From the first key on, up to the second.
    DeleteRange(Family, &'b [u8], &'b [u8]),
}

impl Batch {
    pub(crate) fn put_record(
        &mut self,
        family: Family,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.operations.push(OperationHead::Put {
            family,
            key_len: key.len(),
            value_len: value.len(),
        });
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
    }

    pub(crate) fn delete_record(&mut self, family: Family, key: impl AsRef<[u8]>) {
        let key = key.as_ref();
        self.operations.push(OperationHead::Delete {
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
        self.operations.push(OperationHead::DeleteRange {
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

    /// Its operations in order, with their keys and values.
    fn list_operations(&self) -> impl Iterator<Item = BatchOperation<'_>> {
        let mut rest = self.bytes.as_slice();
        let mut take = move |len: usize| {
            let (taken, after) = rest.split_at(len);
            rest = after;
            taken
        };
        self.operations
            .iter()
            .map(move |operation| match *operation {
                OperationHead::Put {
                    family,
                    key_len,
                    value_len,
                } => BatchOperation::Put(family, take(key_len), take(value_len)),
                OperationHead::Delete { family, key_len } => {
                    BatchOperation::Delete(family, take(key_len))
                }
                OperationHead::DeleteRange {
                    family,
                    from_len,
                    to_len,
                } => BatchOperation::DeleteRange(family, take(from_len), take(to_len)),
            })
    }

    /// The same as `RocksDB` takes it.
    fn operations_for(&self, db: &DB) -> WriteBatch {
        let mut operations = WriteBatch::with_capacity_bytes(
            self.len() + self.operations.len() * OPERATION_OVERHEAD_LEN,
        );
        for change in self.list_operations() {
            match change {
                BatchOperation::Put(family, key, value) => {
                    operations.put_cf(column_family(db, family), key, value);
                    if let Some(tag) = family.copy_tag() {
                        operations.put_cf(
                            column_family(db, Family::Copies),
                            copy_key(tag, key),
                            value,
                        );
                    }
                }
                BatchOperation::Delete(family, key) => {
                    operations.delete_cf(column_family(db, family), key);
                    if let Some(tag) = family.copy_tag() {
                        operations.delete_cf(column_family(db, Family::Copies), copy_key(tag, key));
                    }
                }
                BatchOperation::DeleteRange(family, from, to) => {
                    assert!(
                        family.copy_tag().is_none(),
                        "records that are kept twice are deleted by key"
                    );
                    operations.delete_range_cf(column_family(db, family), from, to);
                }
            }
        }
        operations
    }
}

/// A stored value. It holds no lock of the database: its owner may write.
pub(crate) struct RecordValue<'a> {
    bytes: Vec<u8>,
    database: PhantomData<&'a Database>,
}

impl RecordValue<'_> {
    fn copy_of(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.to_vec(),
            database: PhantomData,
        }
    }
}

impl Deref for RecordValue<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // RocksDB does nothing of the kind by itself, since it would do it after a failed write as
        // well. What is not flushed here is lost as in a crash.
        if !self.current.has_failed()
            && let Ok(handle) = self.current.to_write()
            && !handle.unflushed.is_empty()
        {
            let _ = self.flush_memtables(&handle);
        }
    }
}

impl InPlace {
    fn new(dir: &Path, sizes: &Sizes, reserve: &Reserve, quarantine: Quarantine) -> Self {
        Self {
            dir: dir.to_owned(),
            sizes: *sizes,
            reserve: reserve.clone(),
            descriptors: Mutex::default(),
            quarantine: Arc::new(Mutex::new(quarantine)),
            compaction: Compaction::AsUsual,
            is_paused: Arc::default(),
        }
    }

    /// Keeps descriptors back, as many as there are.
    fn keep_descriptors(&self) {
        let mut kept = lock_unpoisoned(&self.descriptors);
        while kept.len() < DESCRIPTORS_KEPT
            && let Ok(file) = File::open("/dev/null")
        {
            kept.push(file);
        }
    }

    /// Opens the database for reading and writing. What a crash left is recovered. On a full disk
    /// what was kept back is given up for that; if that is not enough, what is in the logs stays
    /// there.
    fn open_database(&self) -> Result<DB, StoreError> {
        logs::check_manifests(&self.dir)?;
        if !logs::cut_torn_end(&self.dir)? {
            logs::check_logs(&self.dir)?;
        }
        let mut options = database_options(&self.sizes);
        if self.compaction == Compaction::None {
            options.set_paranoid_checks(false);
            options.set_max_open_files(LAZY_OPEN_FILES);
        }
        match self.open_or_tidy(&options) {
            Err(StoreError::Full { .. }) => {}
            opened => return opened,
        }
        if self.reserve.give_up() {
            let opened = self.open_or_tidy(&options);
            // Before others take it.
            self.reserve.refill_reserve();
            match opened {
                Err(StoreError::Full { .. }) => {}
                opened => return opened,
            }
        }
        if self.reserve.has_few_names() {
            remove_notes(&self.dir);
        }
        self.open_or_tidy(&set_named(options, "avoid_flush_during_recovery=true"))
    }

    /// Opens the database; if the disk is full, removes what the attempt has made. RocksDB leaves
    /// the tables behind that it makes of its logs, and the next attempt would make more.
    fn open_or_tidy(&self, options: &Options) -> Result<DB, StoreError> {
        let before = OpenedFiles::list_files(&self.dir);
        let opened = self.open_with(options);
        if matches!(opened, Err(StoreError::Full { .. })) {
            before.remove_others(&self.dir);
        }
        opened
    }

    fn open_with(&self, options: &Options) -> Result<DB, StoreError> {
        // On a full disk a compaction takes the room that was given up for deletions, and fails all
        // the same.
        let compaction = match self.compaction {
            Compaction::AsUsual if self.reserve.is_scarce() => Compaction::Paused,
            compaction => compaction,
        };
        let is_paused = compaction == Compaction::Paused;
        self.is_paused.store(is_paused, Ordering::Relaxed);
        let descriptors =
            family_descriptors(&self.sizes, &lock_unpoisoned(&self.quarantine), compaction);
        let db = DB::open_cf_descriptors(options, &self.dir, descriptors)
            .map_err(|error| rocksdb_error("open the database", error))?;
        if let Ok(files) = db.live_files() {
            let live: Vec<u64> = files
                .iter()
                .filter_map(|file| table_named_in(&file.name))
                .collect();
            lock_unpoisoned(&self.quarantine).retain_tables(|number| live.contains(&number));
        }
        Ok(db)
    }
}

impl InPlace {
    fn open_to_read(&self, options: &Options) -> Result<DB, StoreError> {
        let descriptors = family_descriptors(
            &self.sizes,
            &lock_unpoisoned(&self.quarantine),
            Compaction::None,
        );
        DB::open_cf_descriptors_read_only(options, &self.dir, descriptors, false)
            .map_err(|error| rocksdb_error("open the database", error))
    }
}

/// Removes what RocksDB writes for people: its own log, and the options that it was opened with,
/// which it writes anew whenever it is opened. Each is a name of a file.
fn remove_notes(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_note = |prefix: &str| name.as_encoded_bytes().starts_with(prefix.as_bytes());
        if is_note("LOG") || is_note("OPTIONS-") {
            // One that stays takes a name, nothing else.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// The files of a database before it is opened.
struct OpenedFiles {
    names: BTreeSet<OsString>,
    /// The file `CURRENT`, which names the manifest.
    current: Option<Vec<u8>>,
}

impl OpenedFiles {
    fn list_files(dir: &Path) -> Self {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        Self {
            names: entries.map(|entry| entry.file_name()).collect(),
            current: std::fs::read(dir.join(CURRENT)).ok(),
        }
    }

    /// Removes the files of `dir` that came since. Every change of the manifest makes a new one: as
    /// long as the same is named, nothing names any of them.
    fn remove_others(&self, dir: &Path) {
        let now = Self::list_files(dir);
        if now.current.is_none() || now.current != self.current {
            return;
        }
        for name in now.names.difference(&self.names) {
            // One that stays is removed by the next attempt that succeeds.
            let _ = std::fs::remove_file(dir.join(name));
        }
    }
}

impl Reopen for InPlace {
    fn reopen_database(&self, acknowledged: Option<u64>) -> Result<DB, StoreError> {
        lock_unpoisoned(&self.descriptors).clear();
        let reopened = acknowledged
            .map_or(Ok(()), |last| logs::cut_unacknowledged(&self.dir, last))
            .and_then(|()| self.open_database());
        self.keep_descriptors();
        reopened
    }

    fn reopen_to_read(&self) -> Result<DB, StoreError> {
        self.open_to_read(&read_only_options(&self.sizes))
    }
}

impl Database {
    /// Makes a database in the empty folder `dir`.
    pub(crate) fn create_in(
        dir: &Path,
        sizes: &Sizes,
        reserve: &Reserve,
    ) -> Result<Self, StoreError> {
        let mut options = database_options(sizes);
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_error_if_exists(true);
        let place = InPlace::new(dir, sizes, reserve, Quarantine::default());
        let db = place.open_with(&options)?;
        Ok(Self::from_parts(db, place))
    }

    /// Opens the database in `dir` for reading and writing. What a crash left is recovered. The
    /// families of tables in `quarantine` are not compacted.
    pub(crate) fn open_in(
        dir: &Path,
        sizes: &Sizes,
        reserve: &Reserve,
        quarantine: Quarantine,
    ) -> Result<Self, StoreError> {
        Self::open_place(InPlace::new(dir, sizes, reserve, quarantine))
    }

    /// As [`Database::open_in`], where a table cannot even be opened: it is met when it is read.
    /// Nothing is compacted by itself as long as it is open. The logs must be whole: of those,
    /// RocksDB would pass over what it cannot read.
    pub(crate) fn open_around(
        dir: &Path,
        sizes: &Sizes,
        reserve: &Reserve,
        quarantine: Quarantine,
    ) -> Result<Self, StoreError> {
        let mut place = InPlace::new(dir, sizes, reserve, quarantine);
        place.compaction = Compaction::None;
        Self::open_place(place)
    }

    /// Opens the database in `dir` for reading and writing, and rewrites no table by itself.
    pub(crate) fn open_quietly(
        dir: &Path,
        sizes: &Sizes,
        reserve: &Reserve,
    ) -> Result<Self, StoreError> {
        let mut place = InPlace::new(dir, sizes, reserve, Quarantine::default());
        place.compaction = Compaction::None;
        let db = place.open_with(&database_options(sizes))?;
        Ok(Self::from_parts(db, place))
    }

    fn open_place(place: InPlace) -> Result<Self, StoreError> {
        let db = place.open_database()?;
        place.keep_descriptors();
        Ok(Self::from_parts(db, place))
    }

    fn from_parts(db: DB, place: InPlace) -> Self {
        Self {
            quarantine: Arc::clone(&place.quarantine),
            is_paused: Arc::clone(&place.is_paused),
            reserve: place.reserve.clone(),
            has_news: AtomicBool::new(false),
            is_read_only: false,
            parity: OnceLock::new(),
            current: CurrentHandle::new(db, Box::new(place)),
        }
    }

    /// Opens the database in `dir` as it is now, also while another process writes to it. It never
    /// shows later changes.
    pub(crate) fn open_read_only(
        dir: &Path,
        sizes: &Sizes,
        reserve: &Reserve,
        quarantine: Quarantine,
    ) -> Result<Self, StoreError> {
        let place = InPlace::new(dir, sizes, reserve, quarantine);
        Self::open_read_only_with(place, &read_only_options(sizes))
    }

    fn open_read_only_with(place: InPlace, options: &Options) -> Result<Self, StoreError> {
        let db = place.open_to_read(options)?;
        let mut database = Self::from_parts(db, place);
        database.is_read_only = true;
        Ok(database)
    }

    /// Opens what can be read of the damaged database in `dir`, as it was before the damage if that
    /// is in its log. Which records are hit is found when they are read. `room` is an empty folder
    /// for a copy of the logs; it is not needed any more afterwards.
    pub(crate) fn open_damaged(
        dir: &Path,
        room: &Path,
        sizes: &Sizes,
        reserve: &Reserve,
        quarantine: Quarantine,
    ) -> Result<Self, StoreError> {
        let mut options = read_only_options(sizes);
        // Without paranoid checks RocksDB passes over unreadable tables, but over unreadable
        // records of the log as well, which would be a hole in history. So it gets to see whole
        // logs only.
        logs::copy_whole_part(dir, room)?;
        options.set_wal_dir(room);
        options.set_track_and_verify_wals_in_manifest(false);
        options.set_paranoid_checks(false);
        options.set_max_open_files(LAZY_OPEN_FILES);
        let place = InPlace::new(dir, sizes, reserve, quarantine);
        Self::open_read_only_with(place, &options)
    }

    /// The manifests and their lengths, which change whenever records move from the log to a file,
    /// or files are replaced. A log is only deleted after the manifest says where its records are.
    pub(crate) fn manifest_lens(dir: &Path) -> Result<BTreeMap<OsString, u64>, StoreError> {
        let fail = |source| StoreError::of_file("read the folder", dir, source);
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

    /// The time since the last failed write.
    pub(crate) fn write_generation(&self) -> Generation {
        self.current.write_generation()
    }

    /// Fails if nothing can be written now: a write has failed, and waiting did not help.
    pub(crate) fn check_writable(&self) -> Result<(), StoreError> {
        self.current.to_write().map(drop)
    }

    /// The reason that nothing can be written now, if a write has failed and waiting does not help
    /// any more.
    pub(crate) fn write_trouble(&self) -> Option<StoreError> {
        self.current.write_trouble()
    }

    pub(crate) fn get(
        &self,
        family: Family,
        key: &[u8],
    ) -> Result<Option<RecordValue<'_>>, StoreError> {
        let handle = self.current.to_read()?;
        let db = &handle.db;
        let read = || db.get_pinned_cf_opt(column_family(db, family), key, &read_options(family));
        let value = self.read_healed(db, read);
        Ok(value
            .map_err(|error| self.read_failed(family, error))?
            .map(|value| RecordValue::copy_of(&value)))
    }

    /// The values of `keys`, in their order.
    pub(crate) fn get_many<'k>(
        &self,
        family: Family,
        keys: impl IntoIterator<Item = &'k [u8]>,
    ) -> Result<Vec<Option<RecordValue<'_>>>, StoreError> {
        let handle = self.current.to_read()?;
        let keys: Vec<&[u8]> = keys.into_iter().collect();
        let values = get_batched(&handle.db, family, &keys).into_iter();
        keys.iter()
            .zip(values)
            .map(|(key, value)| match value {
                Ok(value) => Ok(value.map(|value| RecordValue::copy_of(&value))),
                // One by one, they are healed.
                Err(UnreliableBatchRead) => self.get(family, key),
            })
            .collect()
    }

    /// The values of `keys`, in their order, each as far as it can be read.
    pub(crate) fn get_each<'k>(
        &self,
        family: Family,
        keys: impl IntoIterator<Item = &'k [u8]>,
    ) -> Vec<Result<Option<Vec<u8>>, StoreError>> {
        let handle = match self.current.to_read() {
            Ok(handle) => handle,
            Err(error) => {
                // Each is told; why, whoever tries again finds out.
                let first = std::iter::once(Err(error));
                let others = std::iter::repeat_with(|| Err(StoreError::Reopened));
                return first
                    .chain(others)
                    .zip(keys)
                    .map(|(told, _)| told)
                    .collect();
            }
        };
        let keys: Vec<&[u8]> = keys.into_iter().collect();
        let values = get_batched(&handle.db, family, &keys).into_iter();
        let copied = |value: Option<RecordValue<'_>>| value.map(|value| value.to_vec());
        keys.iter()
            .zip(values)
            .map(|(key, value)| match value {
                Ok(value) => Ok(value.map(|value| value.to_vec())),
                Err(UnreliableBatchRead) => self.get(family, key).map(copied),
            })
            .collect()
    }

    /// The revision of a family: what can be read of it may have changed if this has.
    pub(crate) fn revision_of(&self, family: Family) -> Option<Revision> {
        let handle = self.current.to_read().ok()?;
        let version = handle.db.property_int_value_cf(
            column_family(&handle.db, family),
            "rocksdb.current-super-version-number",
        );
        Some(Revision {
            last_write: handle.db.latest_sequence_number(),
            tables: version.ok()??,
            generation: handle.generation(),
        })
    }

    /// The record with the greatest key that is not above `key`.
    pub(crate) fn last_at_or_before(
        &self,
        family: Family,
        key: &[u8],
    ) -> Result<Option<(Vec<u8>, Vec<u8>)>, StoreError> {
        let handle = self.current.to_read()?;
        let db = &handle.db;
        let item = self.read_healed(db, || {
            let mut iterator =
                db.raw_iterator_cf_opt(column_family(db, family), read_options(family));
            iterator.seek_for_prev(key);
            iterator.status()?;
            Ok(iterator
                .item()
                .map(|(key, value)| (key.to_vec(), value.to_vec())))
        });
        item.map_err(|error| self.read_failed(family, error))
    }

    /// The records from `from` on, in key order, as they are now.
    pub(crate) fn scan_from(&self, family: Family, from: &[u8]) -> Scan<'_> {
        let slot = self.current.to_read().map(|handle| {
            handle.new_iterator(|db| {
                let mut cursor = Cursor::new(db, family, SCAN_READAHEAD_LEN);
                cursor.iterator.seek(from);
                cursor
            })
        });
        Scan {
            slot,
            family,
            started: false,
            key: from.to_vec(),
            value: Vec::new(),
            database: self,
        }
    }

    /// The records of `family` as they are now, for looking up here and there.
    pub(crate) fn lookup_in(&self, family: Family) -> Lookup<'_> {
        let slot = self
            .current
            .to_read()
            .map(|handle| handle.new_iterator(|db| Cursor::new(db, family, 0)));
        Lookup {
            slot,
            family,
            key: Vec::new(),
            value: Vec::new(),
            database: self,
        }
    }

    /// The record of `family` at `key` as `decode` sees it; from its copy if it cannot be read
    /// itself, and then why not. `family` is one that is kept twice.
    pub(crate) fn record_or_copy<T>(
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
        let handle = self.current.to_write().expect("nothing has failed");
        let put = handle
            .db
            .put_cf(column_family(&handle.db, family), key, value);
        put.expect("a database for a test takes a record");
    }

    /// Writes `batch` as one. If that fails, the database is opened again, and the batch is written
    /// once more; one in bulk if nothing is gone that was written in bulk before.
    pub(crate) fn write_batch(
        &self,
        batch: Batch,
        durability: Durability,
    ) -> Result<(), StoreError> {
        let mut handle = self.current.to_write()?;
        let mut outcome = self.write_through(&handle, &batch, durability);
        for _ in 1..TRIES {
            if outcome.is_ok() {
                break;
            }
            let generation = handle.generation();
            drop(handle);
            handle = match self.current.to_write()? {
                next if durability == Durability::Bulk && next.generation() != generation => break,
                next => next,
            };
            outcome = self.write_through(&handle, &batch, durability);
        }
        outcome
    }

    /// Writes `batch` as one, if no write has failed since `generation`: for what would have to be
    /// decided anew.
    pub(crate) fn write_in(
        &self,
        generation: Generation,
        batch: Batch,
        durability: Durability,
    ) -> Result<(), StoreError> {
        self.in_generation(generation, |handle| {
            self.write_through(handle, &batch, durability)
        })
    }

    /// Does what `write` does, and once more with the next handle where nothing is gone that was
    /// written since `generation`.
    fn in_generation(
        &self,
        generation: Generation,
        write: impl Fn(&Arc<Handle>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut outcome = write(&self.current.to_write_on(generation)?);
        for _ in 1..TRIES {
            match outcome {
                Err(error) => match self.current.to_write_on(generation) {
                    Ok(handle) => outcome = write(&handle),
                    Err(_) => return Err(error),
                },
                Ok(()) => break,
            }
        }
        outcome
    }

    fn write_through(
        &self,
        handle: &Arc<Handle>,
        batch: &Batch,
        durability: Durability,
    ) -> Result<(), StoreError> {
        let operations = || batch.operations_for(&handle.db);
        let mut options = WriteOptions::default();
        let write = |options: WriteOptions| {
            let written = stall::write_unstalled(&handle.db, operations, options);
            written.map_err(|undone| match undone {
                FailedWrite::Failed(error) => {
                    self.write_failed(handle, "write to the store", error)
                }
                FailedWrite::Stopped(error) => self.writes_stopped(handle, error),
            })
        };
        if durability == Durability::Bulk {
            options.disable_wal(true);
            write(options)?;
            if handle.unflushed.note_batch(batch) {
                // It is written; whoever needs it on disk finds out what became of it.
                let _ = self.flush_memtables(handle);
            }
            return Ok(());
        }
        options.set_sync(true);
        let mut log_end = lock_unpoisoned(&handle.log_end);
        if log_end.is_some() {
            // Records behind a refused one would be cut off with it.
            return Err(StoreError::Reopened);
        }
        let acknowledged = handle.db.latest_sequence_number();
        let written = write(options);
        if written.is_err() {
            *log_end = Some(acknowledged);
        }
        written
    }

    /// A write fails for what a compaction met, too.
    fn write_failed(&self, handle: &Arc<Handle>, what: &str, error: rocksdb::Error) -> StoreError {
        // It is not tried again, but the next open finds what is healed.
        let is_healed = self.is_healed(&handle.db, &error);
        let error = rocksdb_error(what, error);
        let mut memory = MemtableFate::Unknown;
        if let StoreError::Damaged(damage) = &error
            && let Some(number) = table_named_in(&damage.reason)
            && let Some(family) = family_of(&handle.db, number)
        {
            // A table that is being written is not among those that there are.
            memory = MemtableFate::Whole;
            if !is_healed {
                self.set_aside(number, family);
            }
        }
        self.current.replace_failed(handle, &error, memory);
        error
    }

    /// The error of a write whose flush or compaction has failed: for want of room, as a rule, but
    /// `RocksDB` does not say.
    fn writes_stopped(&self, handle: &Arc<Handle>, error: rocksdb::Error) -> StoreError {
        let error = match rocksdb_error("write to the store", error) {
            StoreError::Database { what, .. } if self.reserve.is_scarce() => {
                StoreError::Full { what }
            }
            error => error,
        };
        self.current
            .replace_failed(handle, &error, MemtableFate::Unknown);
        error
    }

    /// Opens the database again if a flush or compaction has failed: on a full disk `RocksDB` tries
    /// again by itself for minutes, and writes wait for that.
    pub(crate) fn renew_after_failures(&self) -> Result<(), StoreError> {
        let handle = self.current.to_write()?;
        if stall::has_failed(&handle.db) {
            let what = "write to the store".to_owned();
            let full = StoreError::Full { what };
            self.current
                .replace_failed(&handle, &full, MemtableFate::Unknown);
        }
        Ok(())
    }

    /// Makes every batch durable that was written since `generation`; fails if some of them may be
    /// gone, since a write has failed.
    pub(crate) fn flush_bulk(&self, generation: Generation) -> Result<(), StoreError> {
        self.in_generation(generation, |handle| self.flush_memtables(handle))
    }

    fn flush_memtables(&self, handle: &Arc<Handle>) -> Result<(), StoreError> {
        let mark = handle.unflushed.end_mark();
        let families = Family::ALL.map(|family| column_family(&handle.db, family));
        let mut options = FlushOptions::default();
        options.set_wait(true);
        handle
            .db
            .flush_cfs_opt(&families, &options)
            .map_err(|error| self.write_failed(handle, "write to the store", error))?;
        handle.unflushed.forget_before(mark);
        Ok(())
    }

    /// Gives back the space of deleted records in `[from, to)` by rewriting what is left of the
    /// files they are in. Everything must be flushed. Nothing is done where one of them cannot be
    /// read.
    pub(crate) fn compact_range(&self, family: Family, from: &[u8], to: &[u8]) {
        if self.has_unreadable(family, from, to) {
            return;
        }
        let mut options = CompactOptions::default();
        options.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
        options.set_exclusive_manual_compaction(false);
        // A range that cannot be compacted now is compacted another time.
        if let Ok(handle) = self.current.to_write() {
            let column = column_family(&handle.db, family);
            handle
                .db
                .compact_range_cf_opt(column, Some(from), Some(to), &options);
        }
    }

    /// Has tables compacted by themselves again, if there is room for that and they are not: on a
    /// disk that is nearly full a database is opened without.
    pub(crate) fn resume_compactions(&self, reserve: &Reserve) {
        if !self.is_paused.load(Ordering::Relaxed) || reserve.is_scarce() {
            return;
        }
        let Ok(handle) = self.current.to_write() else {
            return;
        };
        if !self.is_paused.swap(false, Ordering::Relaxed) {
            return;
        }
        for family in Family::ALL {
            if self.lock_quarantine().has_family(family) {
                continue;
            }
            // A family that stays as it is is compacted after the next opening.
            let compacting = [("disable_auto_compactions", "false")];
            let _ = handle
                .db
                .set_options_cf(column_family(&handle.db, family), &compacting);
        }
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
        let handle = self.current.to_write()?;
        let dropped =
            handle
                .db
                .delete_file_in_range_cf(column_family(&handle.db, family), from, last);
        dropped.map_err(|error| self.write_failed(&handle, "remove files of the store", error))
    }

    /// About how many bytes the records in `[from, to)` take in files, deleted ones included.
    pub(crate) fn stored_len(&self, family: Family, from: &[u8], to: &[u8]) -> u64 {
        self.current.to_read().map_or(0, |handle| {
            handle
                .db
                .get_approximate_sizes_cf(
                    column_family(&handle.db, family),
                    &[Range::new(from, to)],
                )
                .iter()
                .sum()
        })
    }

    /// True if a table of `family` that has keys in `[from, to)` was found unreadable.
    fn has_unreadable(&self, family: Family, from: &[u8], to: &[u8]) -> bool {
        if !self.lock_quarantine().has_family(family) {
            return false;
        }
        // If the tables cannot be listed, any may be the one.
        let Ok(tables) = self.list_tables(family) else {
            return true;
        };
        tables.iter().any(|table| {
            self.lock_quarantine().has_table(table.number)
                && table.last.as_slice() >= from
                && table.first.as_slice() < to
        })
    }

    /// The tables of `family`, whether they can be read or not.
    pub(crate) fn list_tables(&self, family: Family) -> Result<Vec<DatabaseTable>, StoreError> {
        let files = self.live_files(family)?;
        Ok(files
            .into_iter()
            .filter_map(|file| {
                Some(DatabaseTable {
                    number: table_named_in(&file.name)?,
                    first: file.start_key?,
                    last: file.end_key?,
                    len: file.size as u64,
                    is_loose: file.level == 0,
                })
            })
            .collect())
    }

    /// The first and last keys of the tables of `family`, as far as they are known: told without a
    /// look into the tables.
    pub(crate) fn table_bounds(&self, family: Family) -> BTreeSet<Vec<u8>> {
        let tables = self.list_tables(family).unwrap_or_default();
        tables
            .into_iter()
            .flat_map(|table| [table.first, table.last])
            .collect()
    }

    /// Has the tables of `family` that begin in `[from, to)` read from the disk when they are read
    /// next, as far as the system does that.
    pub(crate) fn drop_cached(&self, family: Family, from: &[u8], to: &[u8]) {
        let tables = self.list_tables(family).unwrap_or_default();
        let Ok(handle) = self.current.to_read() else {
            return;
        };
        let due = tables
            .iter()
            .filter(|table| (from..to).contains(&table.first.as_slice()));
        for table in due {
            let path = handle.db.path().join(format!("{:06}.sst", table.number));
            // Without it, what is read may be what is in memory.
            let _ = File::open(path).map(|file| fadvise(&file, 0, None, Advice::DontNeed));
        }
    }

    fn lock_quarantine(&self) -> MutexGuard<'_, Quarantine> {
        lock_unpoisoned(&self.quarantine)
    }

    /// True if a table was found unreadable in a family that had none of them when the database was
    /// opened: then it was opened without knowing what not to compact.
    pub(crate) fn has_news_of_unreadable_tables(&self) -> bool {
        self.has_news.load(Ordering::Relaxed)
    }

    /// The tables that were found unreadable, for opening the database anew.
    pub(crate) fn into_quarantine(self) -> Quarantine {
        self.lock_quarantine().clone()
    }

    /// Has `parity` heal files that cannot be read, from now on.
    pub(crate) fn heal_with(&self, parity: Arc<Parity>) {
        let _ = self.parity.set(parity);
    }

    /// True if the operation that failed with `error` is worth another try: the files that the
    /// error names were healed.
    fn is_healed(&self, db: &DB, error: &rocksdb::Error) -> bool {
        let Some(parity) = self.parity.get() else {
            return false;
        };
        is_damage(error.kind(), error.as_ref()) && {
            let files = db.live_files().unwrap_or_default();
            let numbers = files.iter().filter_map(|file| table_named_in(&file.name));
            parity.heal_named(error.as_ref(), Some(&numbers.collect()))
        }
    }

    /// The result of `read` once the files that it reads are healed, as far as they can be.
    fn read_healed<T>(
        &self,
        db: &DB,
        read: impl Fn() -> Result<T, rocksdb::Error>,
    ) -> Result<T, rocksdb::Error> {
        let mut result = read();
        for _ in 0..HEALED_READS_MAX {
            match &result {
                Err(error) if self.is_healed(db, error) => result = read(),
                _ => break,
            }
        }
        result
    }

    /// Fails if the last step of `cursor` did. If that was because of files that could be healed,
    /// it is at the first record from `key` on, or with `is_passed` after it.
    fn check_step(
        &self,
        cursor: &mut Cursor<'_>,
        family: Family,
        readahead_len: usize,
        key: &[u8],
        is_passed: bool,
    ) -> Result<(), rocksdb::Error> {
        let mut status = cursor.iterator.status();
        for _ in 0..HEALED_READS_MAX {
            match &status {
                Err(error) if self.is_healed(cursor.db, error) => {
                    cursor.renew_iterator(family, readahead_len);
                    cursor.iterator.seek(key);
                    if is_passed && cursor.iterator.key() == Some(key) {
                        cursor.iterator.next();
                    }
                    status = cursor.iterator.status();
                }
                _ => break,
            }
        }
        status
    }

    /// All tables, as parity knows them.
    pub(crate) fn table_files(&self) -> Result<Vec<TableFile>, StoreError> {
        let handle = self.current.to_read()?;
        let files = handle
            .db
            .live_files()
            .map_err(|error| rocksdb_error("list the tables of the store", error))?;
        let table = |file: rocksdb::LiveFile| {
            let class = if file.column_family_name == Family::Frames.family_name() {
                TableClass::Payloads
            } else {
                TableClass::Records
            };
            Some(TableFile {
                number: table_named_in(&file.name)?,
                len: file.size as u64,
                class,
            })
        };
        Ok(files.into_iter().filter_map(table).collect())
    }

    /// Waits until the database has made of its files what it wants to, no longer than `time`.
    pub(crate) fn settle_files(&self, time: Duration) {
        let mut options = WaitForCompactOptions::default();
        options.set_timeout(time.as_micros() as u64);
        // A longer wait is not cut short: the work goes on.
        let _ = self
            .current
            .to_write()
            .map(|handle| handle.db.wait_for_compact(&options));
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

    /// Keeps compactions away from a table that cannot be read.
    fn set_aside(&self, number: u64, family: Family) {
        let mut quarantine = self.lock_quarantine();
        let is_held = quarantine.has_family(family);
        quarantine.add_table(number, family);
        drop(quarantine);
        if !is_held && !self.is_read_only {
            self.has_news.store(true, Ordering::Relaxed);
            // If that fails, the next compaction may end all writing until the store is opened
            // again.
            let _ = self.current.to_read().map(|handle| {
                handle
                    .db
                    .set_options_cf(column_family(&handle.db, family), &NOT_COMPACTED)
            });
        }
    }

    fn live_files(&self, family: Family) -> Result<Vec<rocksdb::LiveFile>, StoreError> {
        let handle = self.current.to_read()?;
        let mut files = handle
            .db
            .live_files()
            .map_err(|error| read_failed(family, error))?;
        files.retain(|file| file.column_family_name == family.family_name());
        Ok(files)
    }

    /// About how many bytes are in memory and not in files yet, of all families.
    pub(crate) fn unflushed_len(&self) -> u64 {
        let Ok(handle) = self.current.to_read() else {
            return 0;
        };
        let len = |family| {
            handle.db.property_int_value_cf(
                column_family(&handle.db, family),
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
        let handle = self.current.to_read()?;
        let bytes = handle.db.property_int_value_cf(
            column_family(&handle.db, family),
            rocksdb::properties::LIVE_SST_FILES_SIZE,
        );
        Ok(bytes
            .map_err(|error| read_failed(family, error))?
            .unwrap_or(0))
    }

    /// About how many bytes of all table files belong to deleted records: each deletion and what it
    /// deletes.
    pub(crate) fn dead_len(&self, family: Family) -> Result<u64, StoreError> {
        let (mut len, mut entries, mut deletions) = (0, 0, 0);
        self.live_files(family)?.iter().for_each(|file| {
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

impl<'a> Cursor<'a> {
    fn new(db: &'a DB, family: Family, readahead_len: usize) -> Self {
        let snapshot = db.snapshot();
        Self {
            iterator: raw_iterator(db, family, readahead_len, &snapshot),
            snapshot,
            db,
        }
    }

    /// Another iterator in the place of one that met damage.
    fn renew_iterator(&mut self, family: Family, readahead_len: usize) {
        self.iterator = raw_iterator(self.db, family, readahead_len, &self.snapshot);
    }
}

fn raw_iterator<'a>(
    db: &'a DB,
    family: Family,
    readahead_len: usize,
    snapshot: &Snapshot<'_>,
) -> DBRawIterator<'a> {
    let mut options = read_options(family);
    options.set_readahead_size(readahead_len);
    options.set_snapshot(snapshot);
    db.raw_iterator_cf_opt(column_family(db, family), options)
}

/// Records in key order, as they were when the scan began.
pub(crate) struct Scan<'a> {
    slot: Result<Arc<IteratorSlot>, StoreError>,
    family: Family,
    started: bool,
    /// That of the last record; at first the one to begin at.
    key: Vec<u8>,
    value: Vec<u8>,
    database: &'a Database,
}

impl Scan<'_> {
    /// The next record.
    pub(crate) fn next(&mut self) -> Result<Option<(&[u8], &[u8])>, StoreError> {
        let Self {
            slot,
            family,
            started,
            key,
            value,
            database,
        } = self;
        // Without a handle it was made in vain: whoever tries again finds out why.
        let slot = slot.as_ref().map_err(|_| StoreError::Reopened)?;
        let started = std::mem::replace(started, true);
        let is_found = slot.with_cursor(|cursor| {
            if started && cursor.iterator.valid() {
                cursor.iterator.next();
            }
            let checked = database.check_step(cursor, *family, SCAN_READAHEAD_LEN, key, started);
            checked.map_err(|error| database.read_failed(*family, error))?;
            Ok::<_, StoreError>(copy_item(cursor.iterator.item(), key, value))
        })??;
        Ok(is_found.then_some((&*key, &*value)))
    }
}

/// Copies a record, if there is one; whether there is.
fn copy_item(item: Option<(&[u8], &[u8])>, key: &mut Vec<u8>, value: &mut Vec<u8>) -> bool {
    key.clear();
    value.clear();
    item.is_some_and(|(found, stored)| {
        key.extend_from_slice(found);
        value.extend_from_slice(stored);
        true
    })
}

/// Records as they were when this was made.
pub(crate) struct Lookup<'a> {
    slot: Result<Arc<IteratorSlot>, StoreError>,
    family: Family,
    key: Vec<u8>,
    value: Vec<u8>,
    database: &'a Database,
}

impl Lookup<'_> {
    /// The record with the smallest key that is not below `key`. Cheap where that is at or right
    /// after the last one.
    pub(crate) fn from(&mut self, key: &[u8]) -> Result<Option<(&[u8], &[u8])>, StoreError> {
        let slot = self.slot.as_ref().map_err(|_| StoreError::Reopened)?;
        let (database, family) = (self.database, &self.family);
        let (found, value) = (&mut self.key, &mut self.value);
        let is_found = slot.with_cursor(|cursor| {
            let iterator = &mut cursor.iterator;
            let is_behind = iterator.key().is_some_and(|last| last < key);
            if is_behind {
                iterator.next();
            }
            // If one step leads from below `key` to it or past it, that is the record, as in a walk
            // over all.
            let is_there = is_behind && iterator.key().is_some_and(|found| found >= key);
            if !is_there {
                iterator.seek(key);
            }
            let checked = database.check_step(cursor, *family, 0, key, false);
            checked.map_err(|error| database.read_failed(*family, error))?;
            Ok::<_, StoreError>(copy_item(cursor.iterator.item(), found, value))
        })??;
        Ok(is_found.then_some((&*found, &*value)))
    }

    /// The record at `key`.
    pub(crate) fn get(&mut self, key: &[u8]) -> Result<Option<&[u8]>, StoreError> {
        Ok(self
            .from(key)?
            .filter(|(found, _)| *found == key)
            .map(|(_, value)| value))
    }
}

fn family_of(db: &DB, table: u64) -> Option<Family> {
    let files = db.live_files().ok()?;
    let file = files
        .iter()
        .find(|file| table_named_in(&file.name) == Some(table))?;
    Family::ALL
        .into_iter()
        .find(|family| family.family_name() == file.column_family_name)
}

/// A batch's answer for one key does not count: it must be asked for alone.
struct UnreliableBatchRead;

/// The value of each of `keys`. Where RocksDB cannot read the table of one of them, it calls others
/// not there that it did not look for.
fn get_batched<'d>(
    db: &'d DB,
    family: Family,
    keys: &[&[u8]],
) -> Vec<Result<Option<DBPinnableSlice<'d>>, UnreliableBatchRead>> {
    let values = db.batched_multi_get_cf_opt(
        column_family(db, family),
        keys.iter().copied(),
        false,
        &read_options(family),
    );
    let has_failed = values.iter().any(Result::is_err);
    let counts = |value: Option<DBPinnableSlice<'d>>| match value {
        None if has_failed => Err(UnreliableBatchRead),
        value => Ok(value),
    };
    let all = values.into_iter();
    all.map(|value| value.map_err(|_| UnreliableBatchRead).and_then(counts))
        .collect()
}

fn column_family(db: &DB, family: Family) -> &ColumnFamily {
    db.cf_handle(family.family_name())
        .expect("every family is opened with the database")
}

/// `options`, and what is only known by name.
fn set_named(mut options: Options, named: &str) -> Options {
    options
        .get_options_from_string(named)
        .expect("RocksDB knows its own options")
}

fn database_options(sizes: &Sizes) -> Options {
    // Every new log would claim its whole length (64 MiB) at once: on a nearly full disk that takes
    // the room from what is to be written, and where claiming means zeroing (tmpfs) or copying
    // (btrfs) it costs more than the log.
    //
    // And every change of the manifest makes a new one, of which nothing is seen before it is
    // synced and `CURRENT` names it. Appended to the old one, a change that a loss of power tears
    // would be damage, to RocksDB, and the store would not open.
    //
    // After a failed write nothing more is to be written, neither by an attempt to go on nor when
    // the database is closed.
    let mut options = set_named(
        Options::default(),
        "allow_fallocate=false;max_manifest_file_size=1;max_manifest_space_amp_pct=0;\
         avoid_flush_during_shutdown=true;max_bgerror_resume_count=0",
    );
    options.set_atomic_flush(true);
    // A log that is damaged in its middle must not pass for one that ends there: acknowledged
    // commits would vanish silently.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_paranoid_checks(true);
    // Every file stays open, as far as there are descriptors, so that a reading process keeps what
    // it has seen while the owner compacts.
    options.set_max_open_files(
        sizes
            .open_tables
            .map_or(-1, |count| i32::try_from(count).unwrap_or(i32::MAX)),
    );
    options.set_max_file_opening_threads(sizes.opening_threads as i32);
    options.set_max_background_jobs(2);
    options.set_bytes_per_sync(4 << 20);
    options.set_max_total_wal_size(sizes.logs);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options.set_log_level(LogLevel::Warn);
    options.set_stats_dump_period_sec(0);
    options
}

fn read_only_options(sizes: &Sizes) -> Options {
    let mut options = database_options(sizes);
    // RocksDB's own log is a file in the folder, which is not ours to write to.
    options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Fatal, |_, _| {}));
    options
}

fn family_descriptors(
    sizes: &Sizes,
    quarantine: &Quarantine,
    compaction: Compaction,
) -> Vec<ColumnFamilyDescriptor> {
    // Frames do not go through it: they are cached decoded.
    let cache = Cache::new_lru_cache(sizes.block_cache as usize);
    let describe = |family: Family| {
        let mut options = family_options(family, &cache, sizes);
        let is_compacted = compaction == Compaction::AsUsual && !quarantine.has_family(family);
        options.set_disable_auto_compactions(!is_compacted);
        // A flush must not wait for compactions that there are not, or for which a full disk has no
        // room.
        if !is_compacted || sizes.has_small_tables() {
            options.set_level_zero_slowdown_writes_trigger(UNCOMPACTED_FILES_MAX);
            options.set_level_zero_stop_writes_trigger(UNCOMPACTED_FILES_MAX);
            options.set_soft_pending_compaction_bytes_limit(0);
            options.set_hard_pending_compaction_bytes_limit(0);
        }
        ColumnFamilyDescriptor::new(family.family_name(), options)
    };
    let mut all: Vec<_> = Family::ALL.map(describe).into();
    all.push(ColumnFamilyDescriptor::new("default", Options::default()));
    all
}

fn family_options(family: Family, cache: &Cache, sizes: &Sizes) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_format_version(6);
    if matches!(
        family,
        Family::Index | Family::Frames | Family::Headers | Family::Pages
    ) {
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
    if family == Family::Frames && sizes.has_small_tables() {
        options.set_level_zero_file_num_compaction_trigger(LOOSE_TABLES_SMALL);
    }
    options.set_write_buffer_size(sizes.write_buffer as usize);
    stall::stop_at_once(&mut options);
    options.set_target_file_size_base(sizes.table);
    options.set_max_bytes_for_level_base(sizes.table * TABLES_IN_FIRST_LEVEL);
    // Frames come compressed, hashes and ids do not compress.
    options.set_compression_type(match family {
        Family::Layers | Family::Pages | Family::Names | Family::Meta | Family::Copies => {
            DBCompressionType::Lz4
        }
        Family::Frames | Family::Headers | Family::Index => DBCompressionType::None,
    });
    if family == Family::Index {
        // There every entry ends in eight zeros, which RocksDB keeps for the number of its write.
        options.set_bottommost_compression_type(DBCompressionType::Lz4);
    }
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
    rocksdb_error(
        &format!("read {} from the store", family.family_name()),
        error,
    )
}

/// Key of the copy of the record at `key` of `family`, which must be a family that is kept twice.
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

/// True if an error of `RocksDB`'s is about files that are damaged or gone.
fn is_damage(kind: ErrorKind, message: &str) -> bool {
    let says = |words: &str| message.contains(words);
    kind == ErrorKind::Corruption || says("No such file or directory") || says("Input/output error")
}

/// `RocksDB` tells a full disk, a file that is gone and a disk that fails only by their words.
fn rocksdb_error(what: &str, error: rocksdb::Error) -> StoreError {
    let (what, kind, message) = (what.to_owned(), error.kind(), error.into_string());
    // It suspects the manifest of whatever it cannot open.
    let message = match message.split_once("  The file ") {
        Some((said, rest)) if rest.ends_with("may be corrupted.") => said.to_owned(),
        _ => message,
    };
    let says = |words: &[&str]| words.iter().any(|words| message.contains(words));
    match kind {
        _ if says(&["No space left on device", "Disk quota exceeded", "NoSpace"]) => {
            StoreError::Full { what }
        }
        _ if says(&["File too large"]) => StoreError::TooLong { what },
        _ if is_damage(kind, &message) => {
            StoreError::damaged_record("the database", format!("cannot {what}: {message}"))
        }
        _ => StoreError::Database { what, message },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_to_open_that_failed_leaves_nothing_unless_it_named_a_manifest() {
        for names_another in [false, true] {
            let dir = tempfile::tempdir().expect("a folder");
            let write = |name: &str, bytes: &[u8]| {
                std::fs::write(dir.path().join(name), bytes).expect("room");
            };
            write(CURRENT, b"MANIFEST-000004");
            write("000003.log", b"acknowledged");
            let before = OpenedFiles::list_files(dir.path());
            write("000005.sst", b"of the log");
            write("MANIFEST-000006", b"names it");
            if names_another {
                write(CURRENT, b"MANIFEST-000006");
            }
            before.remove_others(dir.path());
            let left = OpenedFiles::list_files(dir.path()).names.len();
            assert_eq!(left, if names_another { 4 } else { 2 });
            assert!(dir.path().join("000003.log").exists());
        }
    }
}
