//! Numbers of the growth journal's entries, and how entries are appended, continued and added up.

use std::sync::Mutex;

use super::entry::Entry;
use crate::chunks::pause::lock;
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
pub(crate) struct Running {
    number: u64,
    began_ms: u64,
    entry: Entry,
}

/// The numbers of the entries that are there.
#[derive(Debug, Default)]
pub(crate) struct Journal(Mutex<Numbers>);

#[derive(Clone, Copy, Debug, Default)]
struct Numbers {
    first: u64,
    next: u64,
}

impl Journal {
    /// The journal in `database`. Reads its first and its last key: of the copies, if the records
    /// cannot be read.
    pub(crate) fn load(database: &Database, faults: &mut Faults) -> Result<Self, StoreError> {
        let numbers = match numbers(database, Family::Meta, &[]) {
            Err(error @ StoreError::Damaged(_)) => {
                let tag = key_of_copy(Family::Meta, &[]);
                if let Ok(numbers) = numbers(database, Family::Copies, &tag) {
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
    pub(crate) fn note(&self, database: &Database, batch: &mut Batch, entry: &Entry) {
        self.append(database, batch, entry);
    }

    /// Notes one of many small additions: they share an entry, unlike those of [`Journal::note`],
    /// as long as they go to one layer on one day.
    pub(crate) fn note_running(
        &self,
        database: &Database,
        batch: &mut Batch,
        running: &mut Option<Running>,
        entry: Entry,
    ) {
        let first = lock(&self.0).first;
        let goes_on = |running: &&mut Running| {
            let is_young = entry.at_ms.saturating_sub(running.began_ms) < RUNNING_MS_MAX;
            running.entry.layer == entry.layer && is_young && running.number >= first
        };
        if let Some(running) = running.as_mut().filter(goes_on) {
            let added = running.entry.added.plus(entry.added);
            running.entry = Entry { added, ..entry };
            put(batch, &entry_key(running.number), &running.entry);
        } else {
            let number = self.append(database, batch, &entry);
            *running = Some(Running {
                number,
                began_ms: entry.at_ms,
                entry,
            });
        }
    }

    fn append(&self, database: &Database, batch: &mut Batch, entry: &Entry) -> u64 {
        let mut numbers = lock(&self.0);
        let number = numbers.next;
        numbers.next += 1;
        put(batch, &entry_key(number), entry);
        if numbers.next - numbers.first >= ENTRIES_MAX + FOLD_COUNT {
            let end = numbers.first + FOLD_COUNT;
            fold(database, batch, numbers.first..end);
            numbers.first = end;
        }
        number
    }
}

/// The numbers of the entries in `family`, where `prefix` stands before every key.
fn numbers(
    database: &Database,
    family: Family,
    prefix: &[u8],
) -> Result<Option<Numbers>, StoreError> {
    let number = |key: &[u8]| number_of(key.strip_prefix(prefix)?);
    let first = database
        .scan(family, &[prefix, &entry_key(0)].concat())
        .next()?
        .and_then(|(key, _)| number(key));
    let last = database
        .last_at_or_before(family, &[prefix, &entry_key(u64::MAX)].concat())?
        .and_then(|(key, _)| number(&key));
    Ok(first.zip(last).map(|(first, last)| Numbers {
        first,
        next: last.saturating_add(1),
    }))
}

/// Adds the entries of `numbers` up. One that cannot be read is lost: no disk depends on it.
fn fold(database: &Database, batch: &mut Batch, numbers: std::ops::Range<u64>) {
    let read = |key: &[u8]| {
        database
            .record(Family::Meta, key, |value| decode(key, value))
            .ok()
            .and_then(|(entry, _)| entry)
    };
    let mut sum = read(SUM_KEY).unwrap_or_else(Entry::earlier);
    for number in numbers {
        let key = entry_key(number);
        read(&key).iter().for_each(|entry| sum.add(entry));
        batch.delete(Family::Meta, key);
    }
    put(batch, SUM_KEY, &sum);
}

pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<Entry, StoreError> {
    records::decode(Family::Meta.name(), key, value)
        .map_err(|error| StoreError::damaged("the growth journal", error))
}

fn put(batch: &mut Batch, key: &[u8], entry: &Entry) {
    batch.put(
        Family::Meta,
        key,
        records::encode(Family::Meta.name(), key, entry),
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
