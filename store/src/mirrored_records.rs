//! Reads records that are kept twice from both places: a record that one place cannot give, the
//! other may.
//!
//! Where a place cannot be read, reading goes on behind the damage, at the next key that is known
//! from the other place or from the bounds of tables. A record is missing for certain only if its
//! key is known and neither place has it; it may be missing where the unreadable stretches of both
//! overlap. It knows keys, no record.

use std::collections::{BTreeMap, BTreeSet};

use crate::database::{Database, Family, key_of_copy};
use crate::error::StoreError;

/// Records from both places.
pub(crate) struct MirroredRecords<T> {
    /// Records that could be read, in key order.
    pub(crate) records: Vec<T>,
    /// Errors for which some of them had to be taken from the other place.
    pub(crate) hurt: Vec<StoreError>,
    /// The error for which some of them are, or may be, missing.
    pub(crate) missing: Option<StoreError>,
}

/// One of the two places.
struct MirrorSide<T> {
    family: Family,
    /// Prefix of every key there.
    prefix: Vec<u8>,
    found: BTreeMap<Vec<u8>, T>,
    /// Keys whose record is not what was written.
    bad: BTreeSet<Vec<u8>>,
    gaps: Vec<UnreadableKeys>,
    errors: Vec<StoreError>,
}

/// A stretch of keys that could not be read, its ends not included; none is the end of all.
#[derive(Clone, Debug, PartialEq, Eq)]
struct UnreadableKeys {
    after: Option<Vec<u8>>,
    before: Option<Vec<u8>>,
}

/// Every record of `family`, which is one that is kept twice, as `decode` sees it. The copies are
/// read only if the records themselves cannot be. Reads all into memory.
pub(crate) fn read_twins<T>(
    database: &Database,
    family: Family,
    decode: &dyn Fn(&[u8], &[u8]) -> Result<T, StoreError>,
) -> Result<MirroredRecords<T>, StoreError> {
    let bounds = database.table_bounds(family);
    let mut own = MirrorSide::read_side(database, family, Vec::new(), &bounds, decode)?;
    if own.errors.is_empty() {
        return Ok(MirroredRecords {
            records: own.found.into_values().collect(),
            hurt: Vec::new(),
            missing: None,
        });
    }
    let prefix = key_of_copy(family, &[]);
    let bounds = database.table_bounds(Family::Copies);
    let known: BTreeSet<Vec<u8>> = bounds
        .iter()
        .filter_map(|key| Some(key.strip_prefix(prefix.as_slice())?.to_vec()))
        .chain(own.found.keys().cloned())
        .collect();
    let copies = MirrorSide::read_side(database, Family::Copies, prefix, &known, decode)?;
    if !own.gaps.is_empty() {
        let known = copies
            .found
            .keys()
            .chain(&copies.bad)
            .chain(own.found.keys());
        let known = known.cloned().collect();
        own = MirrorSide::read_side(database, family, Vec::new(), &known, decode)?;
    }
    Ok(merge_sides(own, copies))
}

fn merge_sides<T>(own: MirrorSide<T>, copies: MirrorSide<T>) -> MirroredRecords<T> {
    let is_missing = {
        let lost = |a: &MirrorSide<T>, b: &MirrorSide<T>| {
            a.bad.iter().any(|key| !b.found.contains_key(key))
        };
        let overlap = own
            .gaps
            .iter()
            .any(|gap| copies.gaps.iter().any(|other| gap.overlaps_gap(other)));
        lost(&own, &copies) || lost(&copies, &own) || overlap
    };
    let mut hurt = own.errors;
    let mut records = copies.found;
    records.extend(own.found);
    let mut errors = copies.errors.into_iter();
    let missing = is_missing
        .then(|| errors.next().or_else(|| hurt.pop()))
        .flatten();
    hurt.extend(errors);
    MirroredRecords {
        records: records.into_values().collect(),
        hurt,
        missing,
    }
}

impl<T> MirrorSide<T> {
    /// Reads all of it that can be read; where that ends, at one of `known` behind.
    fn read_side(
        database: &Database,
        family: Family,
        prefix: Vec<u8>,
        known: &BTreeSet<Vec<u8>>,
        decode: &dyn Fn(&[u8], &[u8]) -> Result<T, StoreError>,
    ) -> Result<Self, StoreError> {
        let mut side = Self {
            family,
            prefix,
            found: BTreeMap::new(),
            bad: BTreeSet::new(),
            gaps: Vec::new(),
            errors: Vec::new(),
        };
        let mut next = Some(Vec::new());
        while let Some(from) = next.take() {
            match side.read_from(database, &from, decode) {
                Ok(()) => break,
                Err((last, error @ StoreError::Damaged(_))) => {
                    side.errors.push(error);
                    next = side.next_readable(database, last.as_ref(), known);
                    side.gaps.push(UnreadableKeys {
                        after: last,
                        before: next.clone(),
                    });
                }
                Err((_, error)) => return Err(error),
            }
        }
        Ok(side)
    }

    /// Reads on from `from` to the end; the last key that could be read, where that is not all.
    fn read_from(
        &mut self,
        database: &Database,
        from: &[u8],
        decode: &dyn Fn(&[u8], &[u8]) -> Result<T, StoreError>,
    ) -> Result<(), (Option<Vec<u8>>, StoreError)> {
        let mut scan = database.scan_from(self.family, &[&self.prefix, from].concat());
        let mut last = (!from.is_empty()).then(|| from.to_vec());
        loop {
            let (key, value) = match scan.next() {
                Ok(Some((key, value))) => (key, value),
                Ok(None) => return Ok(()),
                Err(error) => return Err((last, error)),
            };
            let Some(key) = key.strip_prefix(self.prefix.as_slice()) else {
                return Ok(());
            };
            match decode(key, value) {
                Ok(record) => drop(self.found.insert(key.to_vec(), record)),
                Err(error) => {
                    self.bad.insert(key.to_vec());
                    self.errors.push(error);
                }
            }
            last = Some(key.to_vec());
        }
    }

    /// The first key behind `last` that can be read, as far as one is known.
    fn next_readable(
        &self,
        database: &Database,
        last: Option<&Vec<u8>>,
        known: &BTreeSet<Vec<u8>>,
    ) -> Option<Vec<u8>> {
        known
            .iter()
            .filter(|key| last.is_none_or(|last| *key > last))
            .find_map(|key| {
                let mut scan =
                    database.scan_from(self.family, &[&self.prefix, key.as_slice()].concat());
                let (found, _) = scan.next().ok()??;
                Some(found.strip_prefix(self.prefix.as_slice())?.to_vec())
            })
    }
}

impl UnreadableKeys {
    fn overlaps_gap(&self, other: &Self) -> bool {
        let begins_before_end = |gap: &Self, end: Option<&Vec<u8>>| match (&gap.after, end) {
            (_, None) => true,
            (None, Some(_)) => true,
            (Some(after), Some(end)) => after < end,
        };
        begins_before_end(self, other.before.as_ref())
            && begins_before_end(other, self.before.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(after: &str, before: &str) -> UnreadableKeys {
        let end = |text: &str| (!text.is_empty()).then(|| text.as_bytes().to_vec());
        UnreadableKeys {
            after: end(after),
            before: end(before),
        }
    }

    #[test]
    fn gaps_overlap_where_a_key_may_lie_in_both() {
        for (a, b, overlaps) in [
            (gap("", ""), gap("b", "c"), true),
            (gap("a", "c"), gap("b", "d"), true),
            (gap("a", "b"), gap("b", "c"), false),
            (gap("a", "b"), gap("c", ""), false),
            (gap("", "b"), gap("a", ""), true),
            (gap("", "b"), gap("b", ""), false),
        ] {
            assert_eq!(a.overlaps_gap(&b), overlaps, "{a:?} {b:?}");
            assert_eq!(b.overlaps_gap(&a), overlaps, "{b:?} {a:?}");
        }
    }
}
