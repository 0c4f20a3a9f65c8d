//! Mends records that are kept twice, in `layers`, `names` and `meta` and in `copies`: one that is
//! lost or unsure in one place comes from the other.

use std::collections::{BTreeMap, BTreeSet};

use super::block::EntryKind;
use super::history::FamilyHistory;
use super::own::{is_own, split_copy_key};
use crate::database::{Batch, Database, Family, key_of_copy};
use crate::error::StoreError;

/// The families whose records are kept twice.
const TWINS: [Family; 3] = [Family::Layers, Family::Names, Family::Meta];

/// State of a record in one of its two places.
#[derive(Clone, Debug, PartialEq, Eq)]
enum CopyState {
    /// This is the record; none: there is none.
    Sure(Option<Vec<u8>>),
    /// This may have been the record.
    Unsure(Option<Vec<u8>>),
}

/// Decision about a record.
#[derive(Debug, PartialEq, Eq)]
struct CopyVerdict {
    value: Option<Vec<u8>>,
    /// True if it may be older than the acknowledged one.
    is_earlier: bool,
}

/// Result of mending the records that are kept twice.
#[derive(Default)]
pub(super) struct TwinMends {
    pub(super) batch: Batch,
    /// The number of records that were brought back, by family.
    pub(super) mended: BTreeMap<&'static str, u64>,
    /// Records that may be older than what was acknowledged.
    pub(super) earlier: Vec<(Family, Vec<u8>)>,
}

/// Compares all records with their copies. One that is in one place only, and there in `doubtful`
/// (family and key), is one that was deleted.
pub(super) fn mend_twins(
    database: &Database,
    histories: &BTreeMap<&'static str, FamilyHistory>,
    doubtful: &BTreeSet<(&'static str, Vec<u8>)>,
) -> Result<TwinMends, StoreError> {
    let mut mends = TwinMends::default();
    let stored_copies = read_all_records(database, Family::Copies)?;
    let of_copies = histories.get(Family::Copies.family_name());
    let copies = with_left(&stored_copies, of_copies);
    for family in TWINS {
        let (stored, history) = (
            read_all_records(database, family)?,
            histories.get(family.family_name()),
        );
        let records = with_left(&stored, history);
        let tagged = copies.keys().chain(stored_copies.keys());
        let tagged = tagged.filter_map(|key| split_copy_key(key));
        let keys: BTreeSet<Vec<u8>> = tagged
            .filter(|(of, _)| *of == family)
            .map(|(_, key)| key.to_vec())
            .chain(records.keys().chain(stored.keys()).cloned())
            .collect();
        for key in keys {
            let copy_key = key_of_copy(family, &key);
            let own = copy_state(family, &key, records.get(&key), history, &key);
            let copy = copy_state(family, &key, copies.get(&copy_key), of_copies, &copy_key);
            let is_doubtful = doubtful.contains(&(family.family_name(), key.clone()))
                || doubtful.contains(&(Family::Copies.family_name(), copy_key.clone()));
            let verdict = decide_verdict(own, copy, is_doubtful);
            let is_right = stored.get(&key) == verdict.value.as_ref()
                && stored_copies.get(&copy_key) == verdict.value.as_ref();
            mends.apply_verdict(family, key, verdict, is_right);
        }
    }
    Ok(mends)
}

impl TwinMends {
    fn apply_verdict(
        &mut self,
        family: Family,
        key: Vec<u8>,
        verdict: CopyVerdict,
        is_right: bool,
    ) {
        if !is_right {
            match &verdict.value {
                Some(value) => self.batch.put_record(family, &key, value),
                None => self.batch.delete_record(family, &key),
            }
            *self.mended.entry(family.family_name()).or_default() += 1;
        }
        if verdict.is_earlier {
            self.earlier.push((family, key));
        }
    }
}

type Stored = BTreeMap<Vec<u8>, Vec<u8>>;

/// Records of a place, together with those that are left of its damaged tables.
fn with_left(stored: &Stored, history: Option<&FamilyHistory>) -> Stored {
    let mut all = stored.clone();
    for entry in history.into_iter().flat_map(FamilyHistory::winning_records) {
        match entry.kind {
            EntryKind::Put => drop(all.insert(entry.key.clone(), entry.value.clone())),
            EntryKind::Delete => drop(all.remove(&entry.key)),
        }
    }
    all
}

fn read_all_records(database: &Database, family: Family) -> Result<Stored, StoreError> {
    let (mut scan, mut records) = (database.scan_from(family, &[]), Stored::new());
    while let Some((key, value)) = scan.next()? {
        records.insert(key.to_vec(), value.to_vec());
    }
    Ok(records)
}

/// State of a record in a place, which is in a family of that history under the key `place`.
fn copy_state(
    family: Family,
    key: &[u8],
    value: Option<&Vec<u8>>,
    history: Option<&FamilyHistory>,
    place: &[u8],
) -> CopyState {
    let whole = value.filter(|value| is_own(family, key, value)).cloned();
    let is_unsure = history.is_some_and(|history| history.is_unsure(place));
    if is_unsure || whole.is_none() && value.is_some() {
        CopyState::Unsure(whole)
    } else {
        CopyState::Sure(whole)
    }
}

fn decide_verdict(own: CopyState, copy: CopyState, is_doubtful: bool) -> CopyVerdict {
    let (value, is_earlier) = match (own, copy) {
        (CopyState::Sure(own), CopyState::Sure(copy))
            if is_doubtful && (own.is_none() || copy.is_none()) =>
        {
            (None, false)
        }
        (CopyState::Sure(own), CopyState::Sure(copy)) => (own.or(copy), false),
        (CopyState::Sure(sure), CopyState::Unsure(_))
        | (CopyState::Unsure(_), CopyState::Sure(sure)) => (sure, false),
        (CopyState::Unsure(own), CopyState::Unsure(copy)) => {
            let value = own.or(copy);
            let is_earlier = value.is_some();
            (value, is_earlier)
        }
    };
    CopyVerdict { value, is_earlier }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sure_decides() {
        let (old, new) = (|| Some(b"old".to_vec()), || Some(b"new".to_vec()));
        let table = [
            (CopyState::Sure(new()), CopyState::Sure(new()), new(), false),
            (CopyState::Sure(new()), CopyState::Sure(None), new(), false),
            (
                CopyState::Sure(new()),
                CopyState::Unsure(old()),
                new(),
                false,
            ),
            (
                CopyState::Unsure(old()),
                CopyState::Sure(new()),
                new(),
                false,
            ),
            (
                CopyState::Unsure(None),
                CopyState::Sure(new()),
                new(),
                false,
            ),
            (CopyState::Unsure(old()), CopyState::Sure(None), None, false),
            (CopyState::Unsure(None), CopyState::Sure(None), None, false),
            (
                CopyState::Unsure(old()),
                CopyState::Unsure(None),
                old(),
                true,
            ),
            (
                CopyState::Unsure(None),
                CopyState::Unsure(None),
                None,
                false,
            ),
        ];
        for (own, copy, value, is_earlier) in table {
            let what = format!("{own:?} {copy:?}");
            assert_eq!(
                decide_verdict(own, copy, false),
                CopyVerdict { value, is_earlier },
                "{what}"
            );
        }
        let deleted = || CopyVerdict {
            value: None,
            is_earlier: false,
        };
        assert_eq!(
            decide_verdict(CopyState::Sure(new()), CopyState::Sure(None), true),
            deleted()
        );
        assert_eq!(
            decide_verdict(CopyState::Sure(None), CopyState::Sure(new()), true),
            deleted()
        );
    }
}
