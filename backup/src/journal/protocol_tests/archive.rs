//! Every record that the model's sessions put, and every listing of the journal that they read:
//! each is kept once, folded by the real [`State::of`] once, and has a number from then on. It does
//! not know the protocol.
//!
//! There are far fewer listings than states of the model, so a state is some numbers, and a step
//! that was decided once, from one listing, is a look into a table.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, RwLock};

use crate::journal::{Journal, RecordName, State, Status};
use crate::objects::ObjectId;
use crate::prune::reach::Needed;
use crate::record::Record;

use super::names::{numbers_of, point_of, session};

/// The number of a record in the [`Archive`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RecordNumber(pub(super) u32);

/// The number of a listing of the journal in the [`Archive`]: a set of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ListingNumber(pub(super) u32);

/// The empty listing, of a session that has read nothing.
pub(super) const UNREAD: ListingNumber = ListingNumber(0);
/// The record of nobody.
pub(super) const NO_RECORD: RecordNumber = RecordNumber(0);

/// Sessions and contents of the model: one bit each.
const BITS: u8 = 16;

/// A listing as the real code reads it.
pub(super) struct Listing {
    records: Vec<RecordNumber>,
    pub(super) journal: Journal,
    pub(super) state: State,
    /// Contents whose points are there.
    pub(super) points: u16,
    /// Those of them that nobody can undo.
    pub(super) firm_points: u16,
    /// Objects that points need; none if a content leads nowhere.
    pub(super) needs: Option<u16>,
    /// Sessions that are fenced, decided or not.
    pub(super) fenced: u16,
    /// Sessions whose fences are not decided.
    pub(super) undecided: u16,
    /// Objects that were swept.
    pub(super) swept: u16,
}

impl Listing {
    fn of(records: Vec<RecordNumber>, journal: Journal) -> Self {
        let state = State::of(&journal);
        let bits = |holds: &dyn Fn(u8) -> bool| {
            let set = (0..BITS).filter(|nth| holds(*nth));
            set.fold(0, |all, nth| all | 1 << nth)
        };
        let undecided: Vec<&str> = state.undecided().collect();
        let needed = Needed::by_points(&state);
        let is_whole = needed.missing.is_empty();
        Self {
            points: bits(&|nth| state.point(&point_of(nth).id).is_some()),
            firm_points: bits(&|nth| state.has_firm_point(&point_of(nth).id)),
            needs: is_whole.then(|| numbers_of(&needed.maps())),
            fenced: bits(&|nth| state.is_fenced(&session(nth))),
            undecided: bits(&|nth| undecided.contains(&session(nth).as_str())),
            swept: numbers_of(state.swept()),
            records,
            journal,
            state,
        }
    }
}

/// Values that are kept once, by number.
struct Numbered<K, V> {
    numbers: RwLock<HashMap<K, u32>>,
    values: RwLock<Vec<Arc<V>>>,
}

impl<K: Eq + Hash, V> Numbered<K, V> {
    /// With a first value, number 0, that no key has.
    fn with_first(value: V) -> Self {
        Self {
            numbers: RwLock::default(),
            values: RwLock::new(vec![Arc::new(value)]),
        }
    }

    fn number_of(&self, key: K, make: impl FnOnce(&K) -> V) -> u32 {
        let known = self
            .numbers
            .read()
            .expect("nobody panics")
            .get(&key)
            .copied();
        known.unwrap_or_else(|| {
            let value = Arc::new(make(&key));
            let mut numbers = self.numbers.write().expect("nobody panics");
            *numbers.entry(key).or_insert_with(|| {
                let mut values = self.values.write().expect("nobody panics");
                values.push(value);
                u32::try_from(values.len() - 1).expect("a search ends before that")
            })
        })
    }

    fn get(&self, number: u32) -> Arc<V> {
        self.values.read().expect("nobody panics")[number as usize].clone()
    }

    fn len(&self) -> usize {
        self.values.read().expect("nobody panics").len()
    }
}

/// Answers that were found once.
pub(super) struct Memo<K, V>(RwLock<HashMap<K, V>>);

impl<K, V> Default for Memo<K, V> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<K: Eq + Hash, V: Copy> Memo<K, V> {
    pub(super) fn get_or(&self, key: K, find: impl FnOnce() -> V) -> V {
        let known = self.0.read().expect("nobody panics").get(&key).copied();
        known.unwrap_or_else(|| {
            let found = find();
            self.0.write().expect("nobody panics").insert(key, found);
            found
        })
    }
}

/// All records and listings of a search.
pub(super) struct Archive {
    records: Numbered<RecordName, (RecordName, Arc<Record>)>,
    listings: Numbered<Vec<RecordNumber>, Listing>,
    added: Memo<(ListingNumber, RecordNumber), ListingNumber>,
    removed: Memo<(ListingNumber, ListingNumber), ListingNumber>,
    refused: Memo<(ListingNumber, RecordNumber), bool>,
}

impl Archive {
    pub(super) fn new() -> Self {
        let nobody = RecordName {
            counter: 0,
            id: ObjectId([0; 32]),
        };
        let nothing = Listing::of(Vec::new(), Journal::default());
        Self {
            records: Numbered::with_first((nobody, Arc::default())),
            listings: Numbered::with_first(nothing),
            added: Memo::default(),
            removed: Memo::default(),
            refused: Memo::default(),
        }
    }

    /// The number of a record as it is put.
    pub(super) fn record(&self, record: Record) -> RecordNumber {
        let bytes = serde_json::to_vec(&record).expect("texts and numbers are JSON");
        let name = RecordName {
            counter: record.counter,
            id: ObjectId::of(&bytes),
        };
        let put = |name: &RecordName| (*name, Arc::new(record));
        RecordNumber(self.records.number_of(name, put))
    }

    pub(super) fn read(&self, listing: ListingNumber) -> Arc<Listing> {
        self.listings.get(listing.0)
    }

    fn listing(&self, mut records: Vec<RecordNumber>) -> ListingNumber {
        records.sort_unstable();
        records.dedup();
        let fold = |records: &Vec<RecordNumber>| {
            let mut journal = Journal::default();
            for number in records {
                let put = self.records.get(number.0);
                journal.add(put.0, put.1.clone());
            }
            Listing::of(records.clone(), journal)
        };
        ListingNumber(self.listings.number_of(records, fold))
    }

    /// The listing once a record was put.
    pub(super) fn with(&self, listing: ListingNumber, record: RecordNumber) -> ListingNumber {
        self.added.get_or((listing, record), || {
            let mut records = self.read(listing).records.clone();
            records.push(record);
            self.listing(records)
        })
    }

    /// The listing once the records of another one were deleted.
    pub(super) fn without(&self, listing: ListingNumber, gone: ListingNumber) -> ListingNumber {
        self.removed.get_or((listing, gone), || {
            let gone = self.read(gone);
            let mut records = self.read(listing).records.clone();
            records.retain(|record| !gone.records.contains(record));
            self.listing(records)
        })
    }

    /// True if a session finds in a listing that the record that it put does not count, as
    /// `Session::commit` does.
    pub(super) fn refuses(&self, listing: ListingNumber, record: RecordNumber) -> bool {
        self.refused.get_or((listing, record), || {
            let read = self.read(listing);
            let put = self.records.get(record.0);
            let is_undecided = read.state.undecided().any(|other| other == put.1.session);
            let counts = read.state.status(&put.0) == Some(Status::Counts) && !is_undecided;
            !counts && !read.journal.is_repeated(&put.0, &read.state)
        })
    }

    /// The numbers of records and of listings.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.records.len() - 1, self.listings.len() - 1)
    }
}
