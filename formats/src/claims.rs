//! The part of a file that its tables claim so far.
//!
//! A small file could name one block a million times and keep a reader busy for petabytes. No
//! writer maps a block twice, so all claims together fit the file, and what can be read is no more
//! than the file holds. Parts of tables are counted when they are read first; their numbers come
//! from tables that lie inside the file, so the list is shorter than the file.

use std::sync::{Mutex, MutexGuard, PoisonError};

use vellum_core::source::SourceError;

use crate::malformed;

/// The claims of one image's tables.
pub(crate) struct BlockClaims {
    format: &'static str,
    /// Blocks that the file has room for, a last one in part included.
    room: u64,
    state: Mutex<ClaimedParts>,
}

#[derive(Default)]
struct ClaimedParts {
    claimed: u64,
    /// Parts of the tables that were counted already.
    counted: Vec<bool>,
}

impl BlockClaims {
    /// Claims in a file of `file_len` bytes on blocks of `block_len`, and on `more` smaller things.
    pub(crate) fn new(format: &'static str, file_len: u64, block_len: u64, more: u64) -> Self {
        Self {
            format,
            room: file_len.div_ceil(block_len).saturating_add(more),
            state: Mutex::default(),
        }
    }

    /// True if part `number` was not counted yet.
    pub(crate) fn is_new(&self, number: u64) -> bool {
        let state = self.lock_state();
        !state.counted.get(number as usize).copied().unwrap_or(false)
    }

    /// Counts part `number` of the tables, which names `count` blocks, unless it was counted.
    pub(crate) fn claim_part(&self, number: u64, count: u64) -> Result<(), SourceError> {
        let mut state = self.lock_state();
        let index = number as usize;
        if state.counted.len() <= index {
            state.counted.resize(index + 1, false);
        }
        if let Some(is_counted) = state.counted.get_mut(index)
            && !std::mem::replace(is_counted, true)
        {
            state.claimed += count;
        }
        if state.claimed > self.room {
            return Err(malformed(
                self.format,
                format!(
                    "its tables name {} blocks or more, and the file holds {}: some are named \
                     twice",
                    state.claimed, self.room
                ),
            ));
        }
        Ok(())
    }

    /// A panic of another thread leaves the list whole: each change of it is one assignment.
    fn lock_state(&self) -> MutexGuard<'_, ClaimedParts> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
