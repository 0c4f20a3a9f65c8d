//! Read-ahead: decodes frames before they are read, in the background, up to a bound. It knows no
//! disk, only consecutive ids.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use vellum_core::units::ChunkId;

use super::reader::FrameReader;
use super::sync::lock_unpoisoned;

/// Frames on their way at a time: 2 MiB at the default length. More would only wait for a core.
const FRAMES_MAX: usize = 16;

/// Counts what is on its way, and waits for it at the end: a store that was dropped uses its
/// database no more.
#[derive(Default)]
pub(super) struct ReadAhead(Arc<DecodeCount>);

#[derive(Default)]
struct DecodeCount {
    on_their_way: Mutex<usize>,
    changed: Condvar,
}

impl ReadAhead {
    /// Has the frames decoded that hold some of the `count` chunks from `first` on, `per_frame` to
    /// a frame at most; not those for which there is no place.
    pub(super) fn start_decoding(
        &self,
        reader: &Arc<FrameReader>,
        first: ChunkId,
        count: u64,
        per_frame: u64,
    ) {
        let mut next = first;
        let end = first.advance_by(count);
        while next < end {
            if let Some(frame) = reader.cached_frame(next) {
                next = frame.header.end_id().max(next.advance_by(1));
                continue;
            }
            if !self.0.try_enter() {
                return;
            }
            let (reader, ahead, id) = (Arc::clone(reader), Arc::clone(&self.0), next);
            rayon::spawn(move || {
                // An error is reported to the caller that reads the frame.
                let _ = reader.read_frame_ahead(id);
                drop(reader);
                ahead.leave_one();
            });
            next = next.advance_by(per_frame);
        }
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        let mut on_their_way = lock_unpoisoned(&self.0.on_their_way);
        while *on_their_way > 0 {
            on_their_way = self
                .0
                .changed
                .wait(on_their_way)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl DecodeCount {
    fn try_enter(&self) -> bool {
        let mut on_their_way = lock_unpoisoned(&self.on_their_way);
        let has_place = *on_their_way < FRAMES_MAX;
        *on_their_way += usize::from(has_place);
        has_place
    }

    fn leave_one(&self) {
        *lock_unpoisoned(&self.on_their_way) -= 1;
        self.changed.notify_all();
    }
}
