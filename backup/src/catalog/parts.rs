//! Fetches parts of packs for random-access readers: out of what was fetched a moment ago, out of
//! the local folder, or from the repository, with read-ahead.
//!
//! The bytes it returns are not verified: the catalog opens them and checks them against names, and
//! asks for another fetch if they are wrong. Nothing is fetched twice at once: a thread that wants
//! what another one is fetching waits for that.
//!
//! **Memory.** What was fetched: [`FETCHED_LEN_MAX`]. What is being fetched: [`IN_FLIGHT_LEN_MAX`],
//! and a frame for each thread beyond that.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::ahead::{Streams, WINDOW_LEN_MAX};
use super::copies::Copies;
use super::{Place, Stretch};
use crate::format::address;
use crate::objects::{ObjectError, ObjectErrorKind, ObjectId, ObjectName, Objects};

/// Memory for what was fetched: two packs of an encrypted repository, where there is no folder.
const FETCHED_LEN_MAX: usize = 8 * WINDOW_LEN_MAX as usize;
/// The bytes that may be in flight ahead at once: beyond that, each reader gets its frame alone.
const IN_FLIGHT_LEN_MAX: u64 = 8 * WINDOW_LEN_MAX;

/// Parts of packs. Shared by threads.
pub(super) struct Parts {
    copies: Option<Copies>,
    state: Mutex<State>,
    landed: Condvar,
}

#[derive(Default)]
struct State {
    streams: Streams,
    flights: Vec<Flight>,
    flight_count: u64,
    /// The newest is last.
    fetched: VecDeque<Fetched>,
}

/// A fetch under way.
struct Flight {
    nth: u64,
    pack: ObjectId,
    range: Range<u64>,
}

/// Bytes of a pack.
struct Fetched {
    pack: ObjectId,
    start: u64,
    bytes: Arc<Vec<u8>>,
}

/// The right to fetch some frames of a pack, and the duty.
pub(super) struct Claim<'p> {
    parts: &'p Parts,
    nth: u64,
    pack: ObjectId,
    /// The frame that is wanted.
    wanted: Range<u64>,
    /// The range to fetch: the frame with the bytes around it.
    range: Range<u64>,
}

impl Parts {
    pub(super) fn new(copies: Option<Copies>) -> Self {
        Self {
            copies,
            state: Mutex::default(),
            landed: Condvar::new(),
        }
    }

    pub(super) fn copies(&self) -> Option<&Copies> {
        self.copies.as_ref()
    }

    /// The bytes at the place of the part, from memory; unverified.
    pub(super) fn fetched(&self, place: &Place) -> Option<Vec<u8>> {
        let found = self.state().fetched.iter().rev().find_map(|fetched| {
            let at = usize::try_from(place.offset.checked_sub(fetched.start)?).ok()?;
            let is_there = fetched.pack == place.pack
                && fetched.bytes.len().checked_sub(at)? >= place.len as usize;
            is_there.then(|| (at, Arc::clone(&fetched.bytes)))
        });
        found.map(|(at, bytes)| bytes[at..at + place.len as usize].to_vec())
    }

    /// The same, from the local folder.
    pub(super) fn copied(&self, place: &Place) -> Option<Vec<u8>> {
        self.copies
            .as_ref()?
            .take(&place.pack, place.offset..place.end())
    }

    /// The right to fetch `place` with the bytes that `around` chooses, given a length. None if
    /// another thread fetched it, and is done now: it may be there.
    pub(super) fn claim(
        &self,
        place: &Place,
        around: impl FnOnce(u64) -> Stretch,
    ) -> Option<Claim<'_>> {
        let mut state = self.state();
        let wanted = place.offset..place.end();
        let covers = |flight: &&Flight| {
            flight.pack == place.pack
                && flight.range.start <= wanted.start
                && wanted.end <= flight.range.end
        };
        if let Some(nth) = state.flights.iter().find(covers).map(|flight| flight.nth) {
            while state.flights.iter().any(|flight| flight.nth == nth) {
                state = self
                    .landed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            return None;
        }
        let start = address(place.segment, place.first);
        let in_flight_len: u64 = state
            .flights
            .iter()
            .map(|flight| flight.range.end - flight.range.start)
            .sum();
        let has_room = in_flight_len + WINDOW_LEN_MAX <= IN_FLIGHT_LEN_MAX;
        let Stretch { range, behind } = around(if has_room {
            state.streams.window_len(start)
        } else {
            0
        });
        state.streams.fetch(start..behind);
        let nth = state.flight_count;
        state.flight_count += 1;
        state.flights.push(Flight {
            nth,
            pack: place.pack,
            range: range.clone(),
        });
        Some(Claim {
            parts: self,
            nth,
            pack: place.pack,
            wanted,
            range,
        })
    }

    fn keep(&self, pack: ObjectId, start: u64, bytes: Vec<u8>) {
        if let Some(copies) = &self.copies {
            copies.keep(&pack, start, &bytes);
        }
        let mut state = self.state();
        state.fetched.push_back(Fetched {
            pack,
            start,
            bytes: Arc::new(bytes),
        });
        while state
            .fetched
            .iter()
            .map(|fetched| fetched.bytes.len())
            .sum::<usize>()
            > FETCHED_LEN_MAX
        {
            state.fetched.pop_front();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim<'_> {
    /// The part that is wanted, as the repository has it; what came with it is kept.
    pub(super) fn fetch(self, objects: &dyn Objects) -> Result<Vec<u8>, ObjectError> {
        let name = ObjectName::Pack(self.pack).to_string();
        let (start, bytes) = match objects.get_range(&name, self.range.clone()) {
            // The bytes around it may be what fails: a pack that lost its end still has its
            // beginning.
            Err(error) if self.range != self.wanted && may_do_alone(error.kind) => (
                self.wanted.start,
                objects.get_range(&name, self.wanted.clone())?,
            ),
            done => (self.range.start, done?),
        };
        let part = bytes[(self.wanted.start - start) as usize..(self.wanted.end - start) as usize]
            .to_vec();
        self.parts.keep(self.pack, start, bytes);
        Ok(part)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.parts
            .state()
            .flights
            .retain(|flight| flight.nth != self.nth);
        self.parts.landed.notify_all();
    }
}

fn may_do_alone(kind: ObjectErrorKind) -> bool {
    matches!(
        kind,
        ObjectErrorKind::Passing | ObjectErrorKind::Doubtful | ObjectErrorKind::Failed
    )
}
