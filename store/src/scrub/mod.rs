//! The scrub: reads all that is stored, a part at a time, so that damage is found while there is
//! still something to heal it from.
//!
//! A round reads every record of every family, then every frame (each chunk verified by its hash).
//! Its last stage, for files beside the database, reads nothing yet. The position of the scrub
//! outlives the process (`record`), and so do the times at which each range of chunks was last read
//! whole (`verified`). Damage goes where every read puts it: a frame is mended if its missing
//! chunks can be found, and chunks that stay damaged are in the damage ledger. A record that is
//! kept twice is written again from the one that is whole.
//!
//! Each step reads from the disk, not from the system's cache, as far as that can be arranged: the
//! tables that it goes through are dropped from there first.

mod record;
pub(crate) mod state;
mod verified;
mod walk;

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use vellum_core::id_set::IdSet;
use vellum_core::units::ChunkId;

use crate::check::CheckFinding;
use crate::clock::now_s;
use crate::error::StoreError;
use crate::store::Store;
use crate::watch::Watch;
pub(crate) use record::{ScrubRecord, ScrubStage};
use state::ScrubState;

/// Shortest time between two writes of the scrub's position: so much is read again after a crash.
const KEEP_PAUSE: Duration = Duration::from_secs(5);
/// A scrub that has not ended a round for so many rounds counts as abandoned.
const ABANDONED_ROUNDS: u64 = 4;
/// Time that a round may take, unless another is asked for.
pub const SCRUB_ROUND: Duration = Duration::from_hours(30 * 24);

/// Options of a step of a scrub.
#[derive(Clone, Copy, Debug)]
pub struct ScrubOptions {
    /// Stored bytes that are read, about.
    pub bytes_max: u64,
    /// True to work on all cores, false for one.
    pub all_cores: bool,
    /// Time that a round may take: a chunk that was not read for longer is not relied upon unread.
    pub round: Duration,
}

/// Result of a step of a scrub.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Stored bytes that were read.
    pub bytes: u64,
    /// Chunks that were verified against their hashes.
    pub chunks: u64,
    /// Damage that was not healed. Images are not named yet: see [`Store::name_images`].
    pub findings: Vec<CheckFinding>,
    /// Chunks, and records, that were damaged and are whole again.
    pub healed: u64,
    /// True if this was the last step of the round.
    pub is_over: bool,
    /// For each finding the chunks that it takes away.
    lost: Vec<Vec<ChunkId>>,
}

/// Times of the last reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubStatus {
    /// Rounds that were finished.
    pub rounds: u64,
    /// The time when the round that goes on began, if one does. All times are in seconds since
    /// 1970.
    pub began_s: Option<u64>,
    /// The time when the last whole round ended.
    pub last_ended_s: Option<u64>,
    /// The times when all records, all chunks, and all that is beside the database, had been read
    /// whole last.
    pub records_read_s: Option<u64>,
    /// See `records_read_s`.
    pub chunks_read_s: Option<u64>,
    /// See `records_read_s`.
    pub beside_read_s: Option<u64>,
    /// Ranges of chunk ids, each with when all of it had been read whole last.
    pub ranges: Vec<(std::ops::Range<u64>, u64)>,
    /// The id after the last chunk: what no range has was never read whole.
    pub end: u64,
    /// Stored bytes that the round that goes on, or the last one, has read.
    pub bytes: u64,
    /// Damage that it found and could not heal, a number.
    pub findings: u64,
    /// Chunks and records that it healed, a number.
    pub healed: u64,
}

impl Store {
    /// Reads on where the scrub of this store is; begins a round if none goes on. Damage is in the
    /// report, not an error. Steps of several threads come one after the other.
    pub fn scrub(
        &self,
        options: &ScrubOptions,
        watch: &dyn Watch,
    ) -> Result<ScrubReport, StoreError> {
        let scrub = &self.inner.scrub.0;
        let mut state = scrub.lock().unwrap_or_else(PoisonError::into_inner);
        let ScrubState { record, kept } = &mut *state;
        let record = record.get_or_insert_with(|| ScrubRecord::load_from(self.dir()));
        if record.began_s == 0 || record.position.stage == ScrubStage::Done {
            record.begin_round(now_s(), options.round);
        }
        let mut report = ScrubReport::default();
        let walked = walk::ScrubWalk::new(self, options, watch, record, &mut report).run_steps();
        record.bytes += report.bytes;
        record.findings += report.findings.len() as u64;
        record.healed += report.healed;
        report.is_over = record.position.stage == ScrubStage::Done;
        if report.is_over {
            record.end_round(now_s());
        }
        if report.is_over {
            self.inner.chunks.set_overdue(record.overdue_ids(now_s()));
        }
        let is_due = kept.is_none_or(|kept| kept.elapsed() > KEEP_PAUSE);
        if is_due || report.is_over || walked.is_err() {
            record.save_to(self.dir());
            *kept = Some(Instant::now());
        }
        walked.map(|()| report)
    }

    /// Marks chunks that were not read for longer than a round as overdue, where a scrub is kept.
    pub(crate) fn load_overdue(&self) {
        let overdue = ScrubRecord::load_from(self.dir()).overdue_ids(now_s());
        self.inner.chunks.set_overdue(overdue);
    }

    /// Names the images and snapshots that what `report` tells of hits, as far as chunks are lost.
    /// Walks every map, if there is something.
    pub fn name_images(
        &self,
        report: &mut ScrubReport,
        watch: &dyn Watch,
    ) -> Result<(), StoreError> {
        let lost = std::mem::take(&mut report.lost);
        if lost.iter().all(Vec::is_empty) {
            return Ok(());
        }
        crate::check::name_images(self, &mut report.findings, lost, watch)
    }

    /// Saves the position of the scrub, for a process that ends before the round does.
    pub fn keep_scrub(&self) {
        let state = self.inner.scrub.0.lock();
        let state = state.unwrap_or_else(PoisonError::into_inner);
        state
            .record
            .iter()
            .for_each(|record| record.save_to(self.dir()));
    }

    /// The times of the last reads, as far as they are known.
    #[must_use]
    pub fn scrub_status(&self) -> ScrubStatus {
        let state = self.inner.scrub.0.lock();
        let state = state.unwrap_or_else(PoisonError::into_inner);
        let record = match &state.record {
            Some(record) => record.clone(),
            None => ScrubRecord::load_from(self.dir()),
        };
        drop(state);
        let known = |at_s: u64| (at_s > 0).then_some(at_s);
        let goes_on = record.position.stage != ScrubStage::Done;
        ScrubStatus {
            rounds: record.rounds,
            began_s: known(record.began_s).filter(|_| goes_on),
            last_ended_s: known(record.last_ended_s),
            records_read_s: known(record.read_s[0]),
            chunks_read_s: known(record.read_s[1]),
            beside_read_s: known(record.read_s[2]),
            ranges: record
                .verified
                .iter()
                .map(|range| (range.ids.clone(), range.at_s))
                .collect(),
            end: self.inner.chunks.next_chunk().0,
            bytes: record.bytes,
            findings: record.findings,
            healed: record.healed,
        }
    }
}

impl ScrubReport {
    /// Adds what the next step did.
    pub fn add_step(&mut self, next: Self) {
        self.bytes += next.bytes;
        self.chunks += next.chunks;
        self.findings.extend(next.findings);
        self.healed += next.healed;
        self.is_over = next.is_over;
        self.lost.extend(next.lost);
    }
}

impl ScrubRecord {
    fn begin_round(&mut self, at_s: u64, round: Duration) {
        self.began_s = at_s;
        self.round_s = round.as_secs();
        self.position = record::ScrubPosition::default();
        (self.bytes, self.findings, self.healed) = (0, 0, 0);
    }

    fn end_round(&mut self, at_s: u64) {
        self.rounds += 1;
        self.last_began_s = self.began_s;
        self.last_ended_s = at_s;
        self.last_end = self.verified.iter().last().map_or(0, |last| last.ids.end);
    }

    /// Chunks that were not read whole for longer than a round, where a scrub is kept at all: runs
    /// of ids.
    fn overdue_chunks(&self, at_s: u64) -> Vec<std::ops::Range<u64>> {
        let kept_since_s = at_s.saturating_sub(self.round_s.saturating_mul(ABANDONED_ROUNDS));
        if self.rounds == 0 || self.last_ended_s < kept_since_s {
            return Vec::new();
        }
        // Two reads, one at the beginning of a round and one at the end of the next, are two rounds
        // apart.
        let since_s = at_s.saturating_sub(self.round_s.saturating_mul(2));
        self.verified.overdue_ids(since_s, ChunkId(self.last_end))
    }
}

impl ScrubRecord {
    fn overdue_ids(&self, at_s: u64) -> IdSet {
        let mut ids = IdSet::new();
        for run in self.overdue_chunks(at_s) {
            ids.insert_run(ChunkId(run.start), run.end - run.start);
        }
        ids
    }
}

#[cfg(test)]
mod tests;
