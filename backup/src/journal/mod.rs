//! The state of a repository from all its records: pure, and the same in whatever order they are
//! read.
//!
//! # The protocol, and why it is safe
//!
//! The place has to guarantee one thing: once a put has been answered, every listing that begins
//! later shows the object. There are no locks, no clocks, and no conditional writes.
//!
//! A *session* (push, forget, copy, prune) takes these steps:
//!
//! 1. It puts `sessions/S`.
//! 2. After that, it lists and reads the journal.
//! 3. It works, building on nothing that is condemned or undecided there.
//! 4. It puts its record.
//! 5. It lists the journal again. If a fence on it is there, the change did not happen, unless its
//!    record was counted.
//! 6. It deletes `sessions/S`.
//!
//! A session whose record may or may not have been put (the answer was lost) leaves its
//! `sessions/S` behind.
//!
//! A *collection* is a session, too. If another collection is open after it announced itself, it
//! withdraws. Else:
//!
//! - (a) It finds what nothing needs.
//! - (b) It puts a record with a *mark*: these objects, and these contents as those sessions said
//!   them, are condemned.
//! - (c) After that, it lists `sessions/`: those that are open now must end (`Wait`).
//! - (d) Once a listing shows none of them, it reads the journal again and finds from scratch what
//!   is needed by points and by *every content that stays*: that no mark condemns, or one that is
//!   not swept now.
//! - (e) It puts a record with the *sweep*: what is condemned and not needed.
//! - (f) It deletes what was swept.
//!
//! With (e) the mark is done with: what was condemned and not swept is as it was before.
//!
//! **Claim: no sweep takes what a record that counts needs, now or later.** Let a record R of
//! session S count, and need a thing t that a mark M condemned. There are two cases:
//!
//! - `sessions/S` was put before the listing of (c) began. Then the collection waits for S, which
//!   is gone only after R was put. So the reading of (d) shows R, and t is needed.
//! - `sessions/S` was put later. Then S read the journal (2) later still, so its reading shows M,
//!   which was put before (c). So S did not build on t itself, but on something not condemned (a
//!   content, an address in a pack) that needs t. What S saw as not condemned is not condemned by
//!   M. Either it was put before (d), or a session S' put it after (d). If before, it stays, and
//!   (d) keeps t, unless another mark M' condemned it in the meantime and is done with or swept
//!   now: then M' did not wait for S any more, so R was there before (d), too. If after, the record
//!   R' of S' needs t, and the same argument applies to S', which came before S in a finite row.
//!
//! Names never come back: object names begin with random bytes, and contents and points are
//! condemned, swept and forgotten as *one session said them*
//! ([`record::Stamp`](crate::record::Stamp)), so saying them again is another thing that M does not
//! mean.
//!
//! *Fences* end a session S that died, for all clients. A collection C first puts the announcement
//! F: S is fenced, and these records of S, which C had seen, count. Then C lists the journal, and
//! puts the decision D: S is decided, and these records of S count: those that this listing shows.
//! Between F and D other records of S are *undecided*: they may be shown to people, but no session
//! builds on them, and no collection takes away what they need. After D they are *void*. If S put
//! its record before C's second listing, the record is counted. If S put it later, then step (5) of
//! S comes after F: S sees the fence and reports that the change did not happen. A client that saw
//! that record saw F, too, and did not build on it. A collection that was fenced finds out in (5)
//! before it deletes anything; what it swept counts for all or for none.
//!
//! *Collections that fence each other:* C stops without D if its second listing shows a fence on C
//! itself. Suppose that all of a ring C1 → C2 → … → C1 decided. Then for each the fence on it was
//! put after its listing, which came after its own fence: a ring of times each before the next,
//! which cannot be. So at least one stays undecided. A decision whose record says that an announced
//! fence came too late is not hindered by that fence. An undecided session is not built on, and the
//! next `--fence` decides it.
//!
//! A record that *replaces* others holds everything that they said and that still counts, under
//! their stamps, so it may come at any time. They are deleted once its own step (5) has shown that
//! it counts.

#[cfg(test)]
mod crosswise_tests;
mod ground;
mod history;
#[cfg(test)]
mod protocol_tests;
mod state;
mod status;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub use history::{HeadsError, Remembered};
pub use state::{Condition, ContentEntry, MarkState, PointAge, State};
pub use status::Status;

use crate::objects::{ObjectId, ObjectName};
use crate::record::{Fence, Record};

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
        Self::of_object(&ObjectName::parse(&format!("journal/{text}"))?)
    }

    /// The record that the object `name` is, if it is one.
    #[must_use]
    pub fn of_object(name: &ObjectName) -> Option<Self> {
        match *name {
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
    pub(crate) fn short(&self) -> String {
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

    /// The number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// True if there are none: a new repository.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// True if a record that counts in `state` repeats what this one said: it names only records
    /// that counted, while [`Past`](crate::record::Past) names void ones, too.
    pub(crate) fn is_repeated(&self, name: &RecordName, state: &State) -> bool {
        let text = name.to_string();
        let counts =
            |by: &RecordName| matches!(state.status(by), Some(Status::Counts | Status::Replaced));
        self.iter()
            .any(|(by, record)| counts(by) && record.replaces.contains(&text))
    }

    /// The fences on `sessions`: the records of theirs that are here count. A record that another
    /// decision made void stays so.
    pub(crate) fn fences(&self, sessions: &[String], decided: bool) -> Vec<Fence> {
        let counted = |session: &String| {
            let own = self.iter().filter(|(_, record)| record.session == *session);
            own.map(|(name, _)| name.to_string()).collect()
        };
        let fence = |session: &String| Fence {
            session: session.clone(),
            counted: counted(session),
            decided,
        };
        sessions.iter().map(fence).collect()
    }
}
