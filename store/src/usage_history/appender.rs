//! Numbers of the growth journal's entries, and how entries are appended, continued and added up.

use std::sync::Mutex;

use super::entry::UsageEntry;
use crate::chunks::sync::lock_unpoisoned;
use crate::database::{Batch, Database, Family, key_of_copy};
use crate::error::StoreError;
use crate::opening::faults::Faults;
use crate::records;

/// Entries that are kept one by one: an import every five minutes for a year. Each takes some 75
/// bytes, and as many for its copy.
pub(super) const ENTRIES_MAX: u64 = if cfg!(test) { 60 } else { 100_000 };
/// Entries that are added up at a time, once there are so many too many: to read them takes about
/// as long as a commit.
pub(super) const FOLD_COUNT: u64 = if cfg!(test) { 20 } else { 256 };
/// Age after which the flushes of an attached disk make another entry, so that growth over time can
/// be seen.
const RUNNING_MS_MAX: u64 = 24 * 3_600_000;

pub(crate) const SUM_KEY: &[u8] = b"journal";

/// The entry that the flushes of an attached disk write again and again.
#[derive(Clone, Debug)]
pub(crate) struct RunningEntry {
    number: u64,
    began_ms: u64,
    entry: UsageEntry,
}

/// The numbers of the entries that are there.
#[derive(Debug, Default)]
pub(crate) struct UsageHistory(Mutex<EntryNumbers>);

#[derive(Clone, Copy, Debug, Default)]
struct EntryNumbers {
    first: u64,
    next: u64,
}

impl UsageHistory {
    /// The journal in `database`. Reads its first and its last key: of the copies, if the records
    /// cannot be read.
    pub(crate) fn load_from(database: &Database, faults: &mut Faults) -> Result<Self, StoreError> {
        let numbers = match entry_numbers(database, Family::Meta, &[]) {
            Err(error @ StoreError::Damaged(_)) => {
                let tag = key_of_copy(Family::Meta, &[]);
                if let Ok(numbers) = entry_numbers(database, Family::Copies, &tag) {
                    faults.tolerated.push(error);
                    numbers
                } else {
                    faults.blocking.push(error);
                    None
                }
            }
            numbers => numbers?,
        };
        Ok(Self(Mutex::new(numbers.unwrap_or_default())))
    }

    /// Puts an entry into `batch`, which is written next, or never.
    pub(crate) fn note_entry(&self, database: &Database, batch: &mut Batch, entry: &UsageEntry) {
        self.append_entry(database, batch, entry);
    }

    /// Notes one of many small additions: they share an entry, unlike those of
    /// [`UsageHistory::note_entry`], as long as they go to one layer on one day.
    pub(crate) fn note_running(
        &self,
        database: &Database,
        batch: &mut Batch,
        running: &mut Option<RunningEntry>,
        entry: UsageEntry,
    ) {
        let first = lock_unpoisoned(&self.0).first;
        let goes_on = |running: &&mut RunningEntry| {
            let is_young = entry.at_ms.saturating_sub(running.began_ms) < RUNNING_MS_MAX;
            running.entry.layer == entry.layer && is_young && running.number >= first
        };
        if let Some(running) = running.as_mut().filter(goes_on) {
            let added = running.entry.added.saturating_plus(entry.added);
            running.entry = UsageEntry { added, ..entry };
            put_entry(batch, &entry_key(running.number), &running.entry);
        } else {
            let number = self.append_entry(database, batch, &entry);
            *running = Some(RunningEntry {
                number,
                began_ms: entry.at_ms,
                entry,
            });
        }
    }

    fn append_entry(&self, database: &Database, batch: &mut Batch, entry: &UsageEntry) -> u64 {
        let mut numbers = lock_unpoisoned(&self.0);
        let number = numbers.next;
        numbers.next += 1;
        put_entry(batch, &entry_key(number), entry);
        if numbers.next - numbers.first >= ENTRIES_MAX + FOLD_COUNT {
            let end = numbers.first + FOLD_COUNT;
            fold_entries(database, batch, numbers.first..end);
            numbers.first = end;
        }
        number
    }
}

/// The numbers of the entries in `family`, where `prefix` stands before every key.
fn entry_numbers(
    database: &Database,
    family: Family,
    prefix: &[u8],
) -> Result<Option<EntryNumbers>, StoreError> {
    let number = |key: &[u8]| number_of(key.strip_prefix(prefix)?);
    let first = database
        .scan_from(family, &[prefix, &entry_key(0)].concat())
        .next()?
        .and_then(|(key, _)| number(key));
    let last = database
        .last_at_or_before(family, &[prefix, &entry_key(u64::MAX)].concat())?
        .and_then(|(key, _)| number(&key));
    Ok(first.zip(last).map(|(first, last)| EntryNumbers {
        first,
        next: last.saturating_add(1),
    }))
}

/// Adds the entries of `numbers` up. One that cannot be read is lost: no disk depends on it.
fn fold_entries(database: &Database, batch: &mut Batch, numbers: std::ops::Range<u64>) {
    let read = |key: &[u8]| {
        database
            .record_or_copy(Family::Meta, key, |value| decode_entry(key, value))
            .ok()
            .and_then(|(entry, _)| entry)
    };
    let mut sum = read(SUM_KEY).unwrap_or_else(UsageEntry::earlier_sum);
    for number in numbers {
        let key = entry_key(number);
        read(&key).iter().for_each(|entry| sum.add_up(entry));
        batch.delete_record(Family::Meta, key);
    }
    put_entry(batch, SUM_KEY, &sum);
}

pub(super) fn decode_entry(key: &[u8], value: &[u8]) -> Result<UsageEntry, StoreError> {
    records::decode_record(Family::Meta.family_name(), key, value)
        .map_err(|error| StoreError::damaged_record("the growth journal", error))
}

fn put_entry(batch: &mut Batch, key: &[u8], entry: &UsageEntry) {
    batch.put_record(
        Family::Meta,
        key,
        records::encode_record(Family::Meta.family_name(), key, entry),
    );
}

pub(crate) fn entry_key(number: u64) -> Vec<u8> {
    [SUM_KEY, &number.to_be_bytes()].concat()
}

fn number_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(
        key.strip_prefix(SUM_KEY)?.try_into().ok()?,
    ))
}
