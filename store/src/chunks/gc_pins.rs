//! Pins chunks against the collector: keeps those that a session skipped as "already there" from
//! being dropped before the session's references are committed.
//!
//! The danger: an import finds chunk X in the index and refers to it; a collection that saw no
//! reference to X drops it; the import commits, and its image has a hole. So a reference is made in
//! two steps. The import *claims* X; if the claim is accepted, X stays until the session ends, and
//! by then the reference is committed where the next collection sees it. The collector *decides*
//! about X exactly once, under the same lock as all claims: before that decision a claim makes X
//! live, after it a claim on a dropped X is refused and the import stores its chunk again under a
//! new id.
//!
//! References that a collection must see, and their sources: references committed before it began
//! are in the maps that it marks from; claims of open sessions are merged into its live set when it
//! begins; later claims enter the live set one by one; ids given out after it began are past its
//! horizon and never considered. No clock decides anything.
//!
//! A session has looked X up before it claims it: a header said that X is there. That answer may be
//! out of date: a whole collection may have come and gone in between. So a claim says which
//! [`Epoch`] the look-up belongs to. While the epoch lasts, the running collection knows its
//! decisions; once it has ended, it has forgotten them, and claims from before are refused.
//!
//! Pure state under one lock: no database here.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vellum_core::id_set::IdSet;
use vellum_core::units::ChunkId;

/// One open session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SessionId(u64);

/// The time between the ends of two collections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Epoch(u64);

/// The collector's decision about one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SweepDecision {
    /// Something refers to it, or claimed it in time.
    Keep,
    /// No new reference to it can be made from now on.
    Drop,
}

/// All claims, and the collection that is going on.
#[derive(Default)]
pub(crate) struct GcPins {
    state: Mutex<PinState>,
}

#[derive(Default)]
struct PinState {
    next_session: u64,
    epoch: Epoch,
    sessions: HashMap<SessionId, IdSet>,
    collection: Option<CollectionPins>,
}

struct CollectionPins {
    /// Referred to or claimed.
    live: IdSet,
    /// Chunks from here on are newer than the collection.
    horizon: ChunkId,
    /// Chunks below have been decided about.
    decided_below: ChunkId,
}

impl GcPins {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn lock_state(&self) -> MutexGuard<'_, PinState> {
        // Every change below is complete when it can panic, so a poisoned lock still holds the
        // truth.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn open_session(&self) -> SessionId {
        let mut state = self.lock_state();
        let session = SessionId(state.next_session);
        state.next_session += 1;
        state.sessions.insert(session, IdSet::new());
        session
    }

    /// Ends a session, after what it refers to is committed or given up.
    pub(crate) fn close_session(&self, session: SessionId) {
        self.lock_state().sessions.remove(&session);
    }

    /// The present epoch. What is read from the database after this call may be claimed under it.
    pub(crate) fn current_epoch(&self) -> Epoch {
        self.lock_state().epoch
    }

    /// Claims each of `ids`, which were seen in the database in `epoch`, for `session`; tells which
    /// claims are accepted.
    pub(crate) fn pin_chunks(
        &self,
        session: SessionId,
        epoch: Epoch,
        ids: &[ChunkId],
    ) -> Vec<bool> {
        let state = &mut *self.lock_state();
        if epoch != state.epoch {
            return vec![false; ids.len()];
        }
        let claims = state
            .sessions
            .get_mut(&session)
            .expect("a session claims while it is open");
        let collection = &mut state.collection;
        ids.iter()
            .map(|id| {
                let accepted = collection
                    .as_mut()
                    .is_none_or(|collection| collection.accept_pin(*id));
                if accepted {
                    claims.insert(*id);
                }
                accepted
            })
            .collect()
    }

    /// Claims `count` chunks from `first` on that are on their way into the database. Cannot be
    /// refused: a collection begins only when all chunks below its horizon are written. Called
    /// under the lock under which ids are given out and their arrival is noted, so that none of it
    /// falls between a collection's horizon and its beginning.
    pub(crate) fn pin_new(&self, session: SessionId, first: ChunkId, count: u64) {
        let mut state = self.lock_state();
        state
            .sessions
            .get_mut(&session)
            .expect("a session adds while it is open")
            .insert_run(first, count);
    }

    /// Begins a collection of the chunks below `horizon`; `false` if one is going on. References
    /// committed from now on need not be marked: they were claimed, or are copies of references
    /// that are there now.
    pub(crate) fn begin_collection(&self, horizon: ChunkId) -> bool {
        let mut state = self.lock_state();
        if state.collection.is_some() {
            return false;
        }
        let mut live = IdSet::new();
        state
            .sessions
            .values()
            .for_each(|claims| live.union_with(claims));
        state.collection = Some(CollectionPins {
            live,
            horizon,
            decided_below: ChunkId(0),
        });
        true
    }

    /// Marks runs of referenced chunks, before anything is decided.
    pub(crate) fn mark_live(&self, runs: impl IntoIterator<Item = (ChunkId, u64)>) {
        let mut state = self.lock_state();
        let collection = state
            .collection
            .as_mut()
            .expect("marking happens during a collection");
        runs.into_iter()
            .for_each(|(first, count)| collection.live.insert_run(first, count));
    }

    /// Decides about `ids`, which are all that is stored below `end` and not decided about yet.
    pub(crate) fn decide_range(
        &self,
        ids: impl IntoIterator<Item = ChunkId>,
        end: ChunkId,
    ) -> Vec<SweepDecision> {
        let mut state = self.lock_state();
        let collection = state
            .collection
            .as_mut()
            .expect("decisions are made during a collection");
        let end = end.min(collection.horizon);
        collection.decided_below = collection.decided_below.max(end);
        ids.into_iter()
            .map(|id| collection.decide_chunk(id))
            .collect()
    }

    /// Ends the collection, and with it the epoch. What was decided to drop is gone from the
    /// database by then, or stays.
    pub(crate) fn end_collection(&self) {
        let mut state = self.lock_state();
        state.collection = None;
        state.epoch.0 += 1;
    }
}

impl CollectionPins {
    fn accept_pin(&mut self, id: ChunkId) -> bool {
        let dropped = self.decide_chunk(id) == SweepDecision::Drop && id < self.decided_below;
        if !dropped {
            self.live.insert(id);
        }
        !dropped
    }

    fn decide_chunk(&self, id: ChunkId) -> SweepDecision {
        if id >= self.horizon || self.live.contains(id) {
            SweepDecision::Keep
        } else {
            SweepDecision::Drop
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u64]) -> Vec<ChunkId> {
        ids.iter().copied().map(ChunkId).collect()
    }

    #[test]
    fn a_claim_before_the_decision_keeps_the_chunk_and_one_after_it_is_refused() {
        let claims = GcPins::new();
        let session = claims.open_session();
        assert!(claims.begin_collection(ChunkId(100)));
        claims.mark_live([(ChunkId(10), 2)]);
        assert_eq!(
            claims.pin_chunks(session, claims.current_epoch(), &ids(&[20])),
            [true]
        );
        let decisions = claims.decide_range(ids(&[10, 11, 20, 21]), ChunkId(50));
        assert_eq!(
            decisions,
            [
                SweepDecision::Keep,
                SweepDecision::Keep,
                SweepDecision::Keep,
                SweepDecision::Drop
            ]
        );
        assert_eq!(
            claims.pin_chunks(
                session,
                claims.current_epoch(),
                &ids(&[10, 20, 21, 60, 100])
            ),
            [true, true, false, true, true]
        );
        assert_eq!(
            claims.decide_range(ids(&[60, 61]), ChunkId(100)),
            [SweepDecision::Keep, SweepDecision::Drop]
        );
    }

    #[test]
    fn claims_made_before_a_collection_count_in_it_until_their_session_ends() {
        let claims = GcPins::new();
        let (open, ended) = (claims.open_session(), claims.open_session());
        let epoch = claims.current_epoch();
        claims.pin_chunks(open, epoch, &ids(&[1]));
        claims.pin_new(open, ChunkId(7), 2);
        claims.pin_chunks(ended, epoch, &ids(&[2]));
        claims.close_session(ended);
        assert!(claims.begin_collection(ChunkId(9)));
        assert!(
            !claims.begin_collection(ChunkId(9)),
            "one collection at a time"
        );
        let decisions = claims.decide_range(ids(&[1, 2, 7, 8]), ChunkId(9));
        assert_eq!(
            decisions,
            [
                SweepDecision::Keep,
                SweepDecision::Drop,
                SweepDecision::Keep,
                SweepDecision::Keep
            ]
        );
        claims.end_collection();
        assert_eq!(
            claims.pin_chunks(open, epoch, &ids(&[2])),
            [false],
            "what was seen before the collection ended may be gone"
        );
        assert_eq!(
            claims.pin_chunks(open, claims.current_epoch(), &ids(&[2])),
            [true],
            "without a collection every claim stands"
        );
    }
}
