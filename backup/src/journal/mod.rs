//! What a repository's records say together: pure, and the same whatever the order in which they
//! are read.
//!
//! # The protocol, and why it is safe
//!
//! All that is asked of the place: once a put has been answered, every listing that begins later
//! shows the object. There are no locks, no clocks, and no conditional writes.
//!
//! *Session* (push, forget, copy, prune): (1) put `sessions/S`; (2) then list and read the journal;
//! (3) work, building on nothing that is condemned or undecided there; (4) put the record; (5) list
//! the journal again: fenced, it did not happen, unless its record was counted; (6) delete
//! `sessions/S`. A session whose record may or may not have been put (the answer was lost) leaves
//! its `sessions/S` behind.
//!
//! *Collection* (a session, too; if another collection is open after it announced itself, it
//! withdraws): (a) finds what nothing needs; (b) puts a record with a *mark*: these objects, and
//! these contents as those sessions said them, are condemned; (c) then lists `sessions/`: those
//! that are open now must end (`Wait`); (d) once a listing shows none of them, reads the journal
//! again and finds from scratch what is needed by points and by *every content that is not
//! condemned*; (e) puts a record with the *sweep*: what is condemned and not needed; (f) deletes
//! it. With (e) the mark is done with: what was condemned and not swept is as it was before.
//!
//! Claim: no sweep takes what a record that counts needs, now or later. Let a record R of session S
//! count, and need a thing t that a mark M condemned. Either `sessions/S` was put before the
//! listing of (c) began: then the collection waits for S, which is gone only after R was put, so
//! the reading of (d) shows R, and t is needed. Or it was put later: then so was (2), which
//! therefore shows M, which was put before (c); so S did not build on t itself, but on something
//! not condemned (a content, an address in a pack) that needs t. What S saw as not condemned is not
//! condemned by M, and was put either before (d), which therefore keeps t, or by a session S' after
//! it: then R' of S' needs t, and the same argument applies to S', which came before S in a finite
//! row. Names never come back: object names begin with random bytes, and contents and points are
//! condemned, swept and forgotten as *one session said them*
//! ([`record::Stamp`](crate::record::Stamp)), so saying them again is another thing that M does not
//! mean.
//!
//! *Fences* end a session that died, for all. The collection C puts F: S is fenced, and these
//! records of it, which C had seen, count. Then it lists the journal, and puts D: S is decided,
//! these records count: those that this listing shows. Between F and D other records of S are
//! *undecided*: people may see what they say, nobody builds on it, nobody takes it away. After D
//! they are *void*. If S put its record before C's second listing, it is counted. If later, then
//! (5) of S comes after F: S sees the fence and reports that it did not happen; and whoever saw its
//! record saw F, too, and did not build on it. A collection that was fenced finds out in (5) before
//! it deletes anything; what it swept counts for all or for none.
//!
//! Two that fence each other: C stops without D if that second listing shows a fence for C itself.
//! If all of a ring C1 → C2 → … → C1 decided, then for each the fence on it was put after its
//! listing, which came after its own fence: a ring of moments each before the next. So at least one
//! stays undecided; a decision that says of an announced fence that it came too late is not
//! hindered by it; and what is left open is not built on, and decided by the next `--fence`.
//!
//! A record that *replaces* others holds all that they said and that still counts, under their
//! stamps, so it may come at any time; they are deleted once its own (5) has shown that it counts.

#[cfg(test)]
mod crosswise_tests;
mod ground;
mod history;
mod state;
mod status;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub use history::{HeadsError, Remembered};
pub use state::{Condition, ContentEntry, MarkState, State};
pub use status::Status;

use crate::objects::{ObjectId, ObjectName};
use crate::record::Record;

/// The name of a record: `COUNTER-ID`. Sorts by counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordName {
    /// One more than the greatest that the writer saw.
    pub counter: u64,
    /// The object's ID.
    pub id: ObjectId,
}

impl RecordName {
    /// The name that `text` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match ObjectName::parse(&format!("journal/{text}"))? {
            ObjectName::Record { counter, id } => Some(Self { counter, id }),
            _ => None,
        }
    }

    /// The object that holds it.
    #[must_use]
    pub fn object(self) -> ObjectName {
        ObjectName::Record {
            counter: self.counter,
            id: self.id,
        }
    }

    /// The first digits of its ID: enough to tell that something known was meant, not to find it.
    fn short(&self) -> String {
        self.id.to_string()[..16].to_owned()
    }
}

impl fmt::Display for RecordName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.counter, self.id)
    }
}

/// The records that a listing showed.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    records: BTreeMap<RecordName, Arc<Record>>,
}

impl Journal {
    /// Adds a record; it is the caller's promise that the name is this record's.
    pub fn add(&mut self, name: RecordName, record: Arc<Record>) {
        self.records.insert(name, record);
    }

    /// A record, if it is there.
    #[must_use]
    pub fn get(&self, name: &RecordName) -> Option<&Arc<Record>> {
        self.records.get(name)
    }

    /// All records by name.
    pub fn iter(&self) -> impl Iterator<Item = (&RecordName, &Arc<Record>)> + Clone {
        self.records.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none: a new repository.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}
