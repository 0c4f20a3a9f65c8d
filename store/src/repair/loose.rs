//! Tables of which no manifest tells: which of them make up the database, and how they lie over
//! each other. Pure.
//!
//! Of two records of one key the one with the greater sequence number counts. RocksDB finds it
//! without comparing if tables that share keys lie on levels, or in an order on level 0, such that
//! all of one are newer. So the oldest tables that share no keys go to the lowest level, and what
//! lies over them to level 0. Tables that share keys and are not one older than the other are
//! *apart*: their records are written anew.
//!
//! A table may also be what a compaction had read and a crash kept from being deleted. Then all
//! that it holds is in tables that are newer, at least one record as it was: it is left out. If
//! some of it is not, it may be what was deleted since, or the only place where it is: it stays,
//! and where such a record is kept twice, it counts only if the other place has it, too.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::block::{EntryKind, TableEntry};
use super::manifest::TableRecord;

/// The level of tables that have no older ones below them.
const LOWEST_LEVEL: u64 = 6;

/// Order in which the tables of one family overlay each other.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Arrangement {
    pub(super) placed: Vec<TableRecord>,
    /// Tables whose records are to be written anew.
    pub(super) apart: BTreeSet<u64>,
}

/// Arranges the `tables` of a family. Only where records change under their keys (`is_exact`) it
/// matters which of two is newer.
pub(super) fn arrange_tables(mut tables: Vec<TableRecord>, is_exact: bool) -> Arrangement {
    tables.sort_by_key(|table| (table.largest, table.number));
    let mut arrangement = Arrangement::default();
    for (at, table) in tables.iter().enumerate() {
        let older: Vec<&TableRecord> = tables[..at]
            .iter()
            .filter(|older| older.shares_keys_with(table))
            .collect();
        let mixed = older.iter().filter(|older| older.largest >= table.smallest);
        let mixed: Vec<u64> = mixed.map(|older| older.number).collect();
        if is_exact && !mixed.is_empty() {
            arrangement.apart.extend(mixed);
            arrangement.apart.insert(table.number);
        }
        let level = if older.is_empty() { LOWEST_LEVEL } else { 0 };
        let placed = TableRecord {
            level,
            ..table.clone()
        };
        // Level 0 is ordered by it; the first two mean something else.
        arrangement.placed.push(placed.with_epoch(at as u64 + 3));
    }
    let apart = &arrangement.apart;
    arrangement
        .placed
        .retain(|table| !apart.contains(&table.number));
    arrangement
}

/// Remains of a compaction: tables that it may have read and not deleted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Leftovers {
    /// Tables of which nothing is needed.
    pub(super) tables: BTreeSet<u64>,
    /// Keys that only such a table has: they may have been deleted since.
    pub(super) doubtful: BTreeSet<Vec<u8>>,
}

/// Finds what a compaction may have left among `tables`, which are all of one family, by number.
pub(super) fn find_leftovers(tables: &BTreeMap<u64, Vec<TableEntry>>) -> Leftovers {
    let mut newer: HashMap<&[u8], Vec<(u64, &[u8])>> = HashMap::new();
    let mut left = Leftovers::default();
    for (number, entries) in tables.iter().rev() {
        let puts = || entries.iter().filter(|entry| entry.kind == EntryKind::Put);
        let is_read =
            puts().any(|entry| other_versions(entry, &newer).any(|other| is_same(entry, other)));
        let missing: Vec<&TableEntry> = puts().filter(|entry| !is_covered(entry, &newer)).collect();
        if is_read && missing.is_empty() {
            left.tables.insert(*number);
        } else if is_read {
            left.doubtful
                .extend(missing.into_iter().map(|entry| entry.key.clone()));
        }
        // Those of a table that is left out as well: a compaction read several, and what it made
        // has only the newest of each key.
        for entry in entries {
            newer
                .entry(&entry.key)
                .or_default()
                .push((entry.sequence, &entry.value));
        }
    }
    left
}

type Newer<'e> = HashMap<&'e [u8], Vec<(u64, &'e [u8])>>;

fn other_versions<'n, 'e>(
    entry: &TableEntry,
    newer: &'n Newer<'e>,
) -> impl Iterator<Item = (u64, &'e [u8])> + use<'n, 'e> {
    newer
        .get(entry.key.as_slice())
        .into_iter()
        .flatten()
        .copied()
}

/// True if a record is that entry. On the lowest level records have lost their sequence number.
fn is_same(entry: &TableEntry, (sequence, value): (u64, &[u8])) -> bool {
    [entry.sequence, 0].contains(&sequence) && *value == entry.value
}

fn is_covered(entry: &TableEntry, newer: &Newer<'_>) -> bool {
    other_versions(entry, newer).any(|other| other.0 > entry.sequence || is_same(entry, other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(number: u64, keys: (&str, &str), numbers: (u64, u64)) -> TableRecord {
        let internal = |key: &str| [key.as_bytes(), &[1, 0, 0, 0, 0, 0, 0, 0]].concat();
        TableRecord {
            level: 0,
            number,
            len: 1,
            first: internal(keys.0),
            last: internal(keys.1),
            smallest: numbers.0,
            largest: numbers.1,
            rest: Vec::new(),
        }
    }

    fn levels(tables: &[TableRecord], is_exact: bool) -> (Vec<(u64, u64)>, Vec<u64>) {
        let arrangement = arrange_tables(tables.to_vec(), is_exact);
        let placed = arrangement
            .placed
            .iter()
            .map(|table| (table.number, table.level));
        (placed.collect(), arrangement.apart.into_iter().collect())
    }

    #[test]
    fn what_is_older_lies_lower() {
        let tables = [
            table(9, ("a", "m"), (0, 0)),
            table(11, ("n", "z"), (0, 40)),
            table(20, ("c", "p"), (41, 50)),
            table(15, ("zz", "zzz"), (30, 60)),
            table(30, ("a", "z"), (51, 70)),
        ];
        let placed = vec![(9, 6), (11, 6), (20, 0), (15, 6), (30, 0)];
        assert_eq!(levels(&tables, true), (placed, vec![]));
    }

    #[test]
    fn tables_that_are_not_one_older_than_the_other_are_written_anew() {
        let tables = [
            table(9, ("a", "m"), (0, 45)),
            table(20, ("c", "p"), (41, 50)),
            table(30, ("q", "r"), (1, 50)),
        ];
        assert_eq!(levels(&tables, true), (vec![(30, 6)], vec![9, 20]));
        assert_eq!(
            levels(&tables, false),
            (vec![(9, 6), (20, 0), (30, 6)], vec![])
        );
    }

    fn entry(key: &str, sequence: u64, value: &str) -> TableEntry {
        TableEntry {
            key: key.into(),
            sequence,
            kind: if value.is_empty() {
                EntryKind::Delete
            } else {
                EntryKind::Put
            },
            value: value.into(),
        }
    }

    #[test]
    fn what_a_compaction_read_is_left_out_unless_something_would_be_missing() {
        let read = [
            (1, vec![entry("a", 5, "x"), entry("b", 6, "y")]),
            (2, vec![entry("a", 9, "z")]),
        ];
        let made = (7, vec![entry("a", 0, "z"), entry("b", 0, "y")]);
        let of =
            |tables: &[(u64, Vec<TableEntry>)]| find_leftovers(&tables.iter().cloned().collect());
        let with = |table: (u64, Vec<TableEntry>)| of(&[read.to_vec(), vec![table]].concat());
        let both = Leftovers {
            tables: [1, 2].into(),
            doubtful: BTreeSet::new(),
        };
        assert_eq!(with(made.clone()), both);
        // A newer table that only has the same key is none that was made of it.
        let flushed = (7, vec![entry("a", 12, "w"), entry("b", 13, "v")]);
        assert_eq!(with(flushed), Leftovers::default());
        // A flush under a compaction that was made of others.
        let flushed = (6, vec![entry("a", 12, "w"), entry("b", 13, "y")]);
        let doubtful = [b"a".to_vec()].into();
        let left = Leftovers {
            tables: BTreeSet::new(),
            doubtful,
        };
        assert_eq!(of(&[flushed, made]), left);
    }
}
