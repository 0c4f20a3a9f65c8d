//! Keys of bulk writes that are perhaps in memory only, to take what they say along to the next
//! handle.
//!
//! A compaction that meets a damaged table ends all writing through the handle, though nothing that
//! was written has failed: what is in memory is whole and can be read. Only where it is cannot be
//! asked for, so the keys are kept. Values are read again, from the old handle's memory, and
//! written to the new one. Logged writes need no keys: the log has them.
//!
//! A key says *somebody wrote here*, no more: the value that is read is the newest, whoever wrote
//! it. So it does not matter that keys are forgotten later than their values reach a file.

use std::sync::Mutex;

use rocksdb::{DB, ReadOptions, ReadTier};

use super::{Batch, BatchOperation, Family, column_family};
use crate::chunks::sync::lock_unpoisoned;

/// Bytes of keys, after which everything is flushed so that they can be forgotten: a hundredth of
/// what was written meanwhile, or less.
const KEYS_LEN_MAX: usize = 8 << 20;
/// Bytes of one batch that is taken along.
const BATCH_LEN: usize = 1 << 20;

/// The keys of a handle's bulk writes since its last flush, in order.
#[derive(Default)]
pub(super) struct UnflushedKeys(Mutex<KeyLog>);

#[derive(Default)]
struct KeyLog {
    /// For each write: its kind, the length of its key, the key.
    bytes: Vec<u8>,
    /// Number of bytes forgotten before them.
    forgotten: u64,
    /// End of the last deletion of a range: none of those can be taken along.
    range_end: u64,
}

/// A place in the order of bulk writes.
#[derive(Clone, Copy)]
pub(super) struct KeyLogEnd(u64);

const PUT: u8 = 0;
const DELETE: u8 = 1;
/// Kind and family, and two bytes of length.
const HEAD_LEN: usize = 4;

impl UnflushedKeys {
    /// Keeps the keys of `batch`, which was written; whether it is time to flush.
    pub(super) fn note_batch(&self, batch: &Batch) -> bool {
        let mut keys = lock_unpoisoned(&self.0);
        for change in batch.list_operations() {
            match change {
                BatchOperation::Put(family, key, _) => keys.push_key(PUT, family, key),
                BatchOperation::Delete(family, key) => keys.push_key(DELETE, family, key),
                BatchOperation::DeleteRange(..) => keys.range_end = keys.end_offset() + 1,
            }
        }
        keys.bytes.len() >= KEYS_LEN_MAX
    }

    /// True if everything that was written in bulk is in files.
    pub(super) fn is_empty(&self) -> bool {
        let keys = lock_unpoisoned(&self.0);
        keys.bytes.is_empty() && keys.range_end == 0
    }

    /// The end of what was written so far.
    pub(super) fn end_mark(&self) -> KeyLogEnd {
        KeyLogEnd(lock_unpoisoned(&self.0).end_offset())
    }

    /// Forgets the keys before `mark`: everything that was written then is in files.
    pub(super) fn forget_before(&self, mark: KeyLogEnd) {
        let mut keys = lock_unpoisoned(&self.0);
        let count = mark.0.saturating_sub(keys.forgotten);
        keys.bytes.drain(..count as usize);
        keys.forgotten += count;
        if keys.range_end <= mark.0 + 1 {
            keys.range_end = 0;
        }
    }

    /// The same changes once more, read from `db`, whose files need not be readable. None if they
    /// cannot all be told.
    pub(super) fn read_batches(&self, db: &DB) -> Option<Vec<Batch>> {
        let keys = lock_unpoisoned(&self.0);
        if keys.range_end > 0 {
            return None;
        }
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::Memtable);
        let (mut batches, mut batch) = (Vec::new(), Batch::default());
        let mut rest = keys.bytes.as_slice();
        while let Some((head, after)) = rest.split_first_chunk::<HEAD_LEN>() {
            let &[kind, family, low, high] = head;
            let (key, after) = after.split_at(usize::from(u16::from_le_bytes([low, high])));
            rest = after;
            let family = Family::ALL[usize::from(family)];
            let column = column_family(db, family);
            if let Some(value) = db.get_pinned_cf_opt(column, key, &options).ok()? {
                batch.put_record(family, key, &value);
            } else if kind == DELETE && db.get_pinned_cf(column, key).ok()?.is_none() {
                batch.delete_record(family, key);
            }
            if batch.len() >= BATCH_LEN {
                batches.push(std::mem::take(&mut batch));
            }
        }
        batches.push(batch);
        Some(batches)
    }
}

impl KeyLog {
    fn end_offset(&self) -> u64 {
        self.forgotten + self.bytes.len() as u64
    }

    fn push_key(&mut self, kind: u8, family: Family, key: &[u8]) {
        let len = u16::try_from(key.len()).expect("keys are short");
        self.bytes.extend_from_slice(&[kind, family as u8]);
        self.bytes.extend_from_slice(&len.to_le_bytes());
        self.bytes.extend_from_slice(key);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::{Database, Durability};
    use super::*;
    use crate::limits;
    use crate::reserve::Reserve;
    use crate::sizes::{ReserveLen, Sizes};

    fn key(nth: u32) -> Vec<u8> {
        [b"key".as_slice(), &nth.to_be_bytes()].concat()
    }

    fn put(database: &Database, nth: u32, value: &[u8], durability: Durability) {
        let mut batch = Batch::default();
        batch.put_record(Family::Index, key(nth), value);
        database.write_batch(batch, durability).expect("written");
    }

    fn database(dir: &std::path::Path) -> Database {
        let sizes = Sizes::for_system(&limits::read_system_limits(dir));
        Database::create_in(dir, &sizes, &Reserve::new(dir, ReserveLen::default(), 0))
            .expect("a new database")
    }

    /// A compaction is begun by the fourth table, and meets a flipped bit in the first; meanwhile
    /// and afterwards somebody writes.
    #[test]
    fn a_compaction_that_meets_damage_takes_nothing_that_was_written() {
        let dir = tempfile::tempdir().expect("a folder");
        let database = database(dir.path());
        let began = database.write_generation();
        put(&database, 1_000_000, b"changed", Durability::Bulk);
        for nth in 0..3 {
            put(&database, nth, &[7; 4000], Durability::Bulk);
            database.flush_bulk(began).expect("flushed");
        }
        let tables = database.list_tables(Family::Index).expect("tables");
        let first = tables.iter().find(|table| table.first == key(0));
        let first = first.expect("it was flushed first");
        let path = dir.path().join(format!("{:06}.sst", first.number));
        let mut bytes = std::fs::read(&path).expect("it is there");
        bytes[2000] ^= 1;
        std::fs::write(&path, bytes).expect("room");
        let until = Instant::now() + Duration::from_mins(1);
        let mut nth = 10;
        while !database.has_news_of_unreadable_tables() {
            assert!(Instant::now() < until, "no compaction met the damage");
            if nth == 20 {
                database.flush_bulk(began).expect("flushed");
            }
            put(&database, nth, &nth.to_be_bytes(), Durability::Bulk);
            nth += 1;
        }
        // The newest value counts, whoever wrote it.
        put(&database, 15, b"logged", Durability::Logged);
        let mut batch = Batch::default();
        batch.delete_record(Family::Index, key(1_000_000));
        database
            .write_batch(batch, Durability::Bulk)
            .expect("written");
        database.flush_bulk(began).expect("nothing is gone");
        assert_eq!(database.write_generation(), began);
        for at in 10..nth {
            let value = database.get(Family::Index, &key(at)).expect("readable");
            let value = value.expect("it was written").to_vec();
            let expected = at.to_be_bytes();
            let expected: &[u8] = if at == 15 { b"logged" } else { &expected };
            assert_eq!(value, expected, "{at} of {nth}");
        }
        let gone = database.get(Family::Index, &key(1_000_000));
        assert!(gone.expect("readable").is_none());
    }

    #[test]
    fn what_a_handle_had_in_memory_can_be_told_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let database = database(dir.path());
        let handle = database.current.to_read().expect("open");
        for nth in 0..3 {
            put(&database, nth, b"flushed", Durability::Bulk);
        }
        database.flush_bulk(handle.generation()).expect("flushed");
        let told = || {
            handle.unflushed.read_batches(&handle.db).map(|batches| {
                batches
                    .iter()
                    .map(|batch| batch.operations.len())
                    .sum::<usize>()
            })
        };
        assert_eq!(told(), Some(0), "it is in files");
        let mut batch = Batch::default();
        batch.put_record(Family::Index, key(0), b"new");
        batch.delete_record(Family::Index, key(1));
        batch.put_record(Family::Names, b"name", b"kept twice");
        database
            .write_batch(batch, Durability::Bulk)
            .expect("written");
        assert_eq!(told(), Some(3));
        put(&database, 1, b"there again", Durability::Bulk);
        assert_eq!(told(), Some(4), "one of them twice");
        let mut batch = Batch::default();
        batch.delete_range(Family::Index, key(0), key(1));
        database
            .write_batch(batch, Durability::Bulk)
            .expect("written");
        assert_eq!(told(), None, "a range cannot be told");
        database.flush_bulk(handle.generation()).expect("flushed");
        assert_eq!(told(), Some(0));
    }
}
