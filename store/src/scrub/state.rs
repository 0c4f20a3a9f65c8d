//! State of the scrub, which an open store keeps from one step to the next.

use std::sync::Mutex;
use std::time::Instant;

use super::record::ScrubRecord;

/// The scrub of an open store.
#[derive(Default)]
pub(crate) struct Scrub(pub(super) Mutex<ScrubState>);

#[derive(Default)]
pub(super) struct ScrubState {
    pub(super) record: Option<ScrubRecord>,
    pub(super) kept: Option<Instant>,
}
