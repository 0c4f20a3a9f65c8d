//! The damage ledger: chunks that are doubted, which a session must read before it believes them.
//!
//! A check, a read or the log found their frame damaged (*damaged*), or a repair gave them up
//! (*lost*). An entry is a warning, not a verdict: a session that meets one reads the chunk before
//! it believes it, so an entry too many costs a read, and no entry ever makes a chunk unreadable.
//! Entries go when the chunk was read whole, healed or collected.
//!
//! Where the store is open for writing, the ledger is kept in the family `meta` (and so in its
//! copies), one record for each [`REGION_IDS`] ids that have an entry:
//!
//! ```text
//! key                  value
//! "damage", region 8   runs of ids in the region: those that are damaged, those that are lost
//! ```
//!
//! An entry is durable before the next one is noted, and goes in the batch that heals the chunk, so
//! a crash never leaves a damaged chunk without the entry that it had. A process that only reads
//! keeps entries in memory and leaves them in the file `suspects` of the store's folder, if it can
//! be written; the next process that opens the store for writing takes them over.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};
use vellum_core::id_set::IdSet;
use vellum_core::units::ChunkId;

use super::sync::lock_unpoisoned;
use crate::database::{Batch, Database, Durability, Family};
use crate::folder::StoreFolder;
use crate::records::{self, StoreRecord};
use crate::stored_records::put_record;

/// Prefix of the ledger's keys.
const KEY_PREFIX: &[u8] = b"damage";
/// Ids that one record speaks of: it is written again for each new entry, and takes 128 KiB at
/// most.
const REGION_IDS: u64 = 1 << 16;

/// Reason for a chunk's entry in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DamageKind {
    /// Its frame, or its bytes in it, were found damaged.
    Damaged,
    /// A repair gave it up: nothing that was at hand had it.
    Lost,
}

/// The chunks that something speaks against.
pub(crate) struct DamageLedger {
    database: Arc<Database>,
    keeping: LedgerTarget,
    state: Mutex<LedgerState>,
    /// True if there is an entry: the question of nearly every caller, answered without the lock.
    has_entries: AtomicBool,
    /// Held while records are written, so that they come in the order of the changes.
    writing: Mutex<()>,
}

/// Destination of entries.
enum LedgerTarget {
    /// Into the database.
    Database,
    /// Into the folder, for the next process that writes.
    Suspects(StoreFolder),
}

#[derive(Clone, Default)]
struct LedgerState {
    damaged: IdSet,
    lost: IdSet,
}

/// Entries of one region, as the database keeps them: runs of first id (from the region's first)
/// and count less one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DamageRecord {
    pub(crate) damaged: Vec<(u16, u16)>,
    pub(crate) lost: Vec<(u16, u16)>,
}

/// Entries that are about to go, with the batch that heals what they speak of.
pub(crate) struct PendingClear<'l> {
    ledger: &'l DamageLedger,
    cleared: Vec<ChunkId>,
    _writing: MutexGuard<'l, ()>,
}

impl StoreRecord for DamageRecord {
    type Fields = Self;

    fn to_fields(&self) -> Self {
        self.clone()
    }

    fn from_fields(fields: Self) -> Option<Self> {
        let in_order = |runs: &[(u16, u16)]| {
            let ends = runs.iter().map(|run| u64::from(run.0) + u64::from(run.1));
            runs.is_sorted_by(|a, b| u32::from(a.0) + u32::from(a.1) + 1 < u32::from(b.0))
                && ends.max().is_none_or(|last| last < REGION_IDS)
        };
        (in_order(&fields.damaged) && in_order(&fields.lost)).then_some(fields)
    }
}

impl DamageLedger {
    /// The ledger of a store that is open for writing. A record of it that cannot be read is left
    /// out: it is a warning only. What readers left in `folder` is taken over.
    pub(crate) fn load_writable(database: Arc<Database>, folder: &StoreFolder) -> Self {
        let ledger = Self::with_target(database, LedgerTarget::Database);
        let suspects = folder.read_suspects();
        let ids = suspects
            .into_iter()
            .flat_map(|(first, count)| (0..count).map(move |nth| first.advance_by(nth)));
        ledger.note_damage(ids, DamageKind::Damaged);
        folder.forget_suspects();
        ledger
    }

    /// The ledger of a store that is only read.
    pub(crate) fn load_read_only(database: Arc<Database>, folder: StoreFolder) -> Self {
        Self::with_target(database, LedgerTarget::Suspects(folder))
    }

    fn with_target(database: Arc<Database>, keeping: LedgerTarget) -> Self {
        let state = LedgerState::load_entries(&database);
        Self {
            has_entries: AtomicBool::new(!state.is_empty()),
            state: Mutex::new(state),
            database,
            keeping,
            writing: Mutex::default(),
        }
    }

    /// True if the ledger has no entry.
    pub(crate) fn is_empty(&self) -> bool {
        !self.has_entries.load(Ordering::Acquire)
    }

    /// True if `id` has an entry.
    pub(crate) fn contains(&self, id: ChunkId) -> bool {
        !self.is_empty() && lock_unpoisoned(&self.state).contains(id)
    }

    /// True if one of the `count` chunks from `first` on has an entry.
    pub(crate) fn meets_range(&self, first: ChunkId, count: u64) -> bool {
        !self.is_empty() && {
            let state = lock_unpoisoned(&self.state);
            state.damaged.contains_any(first, count) || state.lost.contains_any(first, count)
        }
    }

    /// All chunks that something speaks against: damaged, and given up.
    pub(crate) fn all_entries(&self) -> (IdSet, IdSet) {
        let state = lock_unpoisoned(&self.state).clone();
        (state.damaged, state.lost)
    }

    /// Notes that something speaks against `ids`: durable when this returns, if it can be. Where
    /// that fails it holds as long as the process: the chunk is no better for it.
    pub(crate) fn note_damage(&self, ids: impl IntoIterator<Item = ChunkId>, kind: DamageKind) {
        let writing = lock_unpoisoned(&self.writing);
        let mut state = lock_unpoisoned(&self.state);
        let new: Vec<ChunkId> = ids
            .into_iter()
            .filter(|id| state.add_entry(*id, kind))
            .collect();
        if new.is_empty() {
            return;
        }
        self.has_entries.store(true, Ordering::Release);
        match &self.keeping {
            LedgerTarget::Suspects(folder) => {
                drop(state);
                let mut set = IdSet::new();
                new.iter().for_each(|id| set.insert(*id));
                folder.leave_suspects(set.id_runs());
            }
            LedgerTarget::Database => {
                let mut batch = Batch::default();
                state.put_regions(&new, &mut batch);
                drop(state);
                // A hint that is not written down is found again by whoever reads.
                let _ = self.database.write_batch(batch, Durability::Logged);
            }
        }
        drop(writing);
    }

    /// Puts into `batch` that nothing speaks against `ids` any more. It holds once that is written
    /// and [`PendingClear::finish_clear`].
    pub(crate) fn clear_with(
        &self,
        ids: impl IntoIterator<Item = ChunkId>,
        batch: &mut Batch,
    ) -> PendingClear<'_> {
        let writing = lock_unpoisoned(&self.writing);
        let mut after = lock_unpoisoned(&self.state).clone();
        let cleared: Vec<ChunkId> = ids.into_iter().filter(|id| after.remove(*id)).collect();
        if matches!(self.keeping, LedgerTarget::Database) {
            after.put_regions(&cleared, batch);
        }
        PendingClear {
            ledger: self,
            cleared,
            _writing: writing,
        }
    }

    /// Removes the entries of `ids`: they were read whole, or are gone.
    pub(crate) fn clear_entries(&self, ids: impl IntoIterator<Item = ChunkId>) {
        if self.is_empty() {
            return;
        }
        let mut batch = Batch::default();
        let clearing = self.clear_with(ids, &mut batch);
        if !batch.is_empty() {
            // An error is ignored: an entry too many costs a read.
            let _ = self.database.write_batch(batch, Durability::Logged);
        }
        clearing.finish_clear();
    }
}

impl PendingClear<'_> {
    /// The batch is durable.
    pub(crate) fn finish_clear(self) {
        let mut state = lock_unpoisoned(&self.ledger.state);
        self.cleared.iter().for_each(|id| _ = state.remove(*id));
        self.ledger
            .has_entries
            .store(!state.is_empty(), Ordering::Release);
    }
}

impl LedgerState {
    fn load_entries(database: &Database) -> Self {
        let mut state = Self::default();
        let mut keys = Vec::new();
        let mut scan = database.scan_from(Family::Meta, KEY_PREFIX);
        // A hint that cannot be read is no hint.
        while let Ok(Some((key, _))) = scan.next() {
            let Some(region) = region_of(key) else { break };
            keys.push((key.to_vec(), region));
        }
        drop(scan);
        for (key, region) in keys {
            let decode = |value: &[u8]| {
                records::decode_record::<DamageRecord>(Family::Meta.family_name(), &key, value)
                    .map_err(|error| {
                        crate::error::StoreError::damaged_record("the damage ledger", error)
                    })
            };
            if let Ok((Some(record), _)) = database.record_or_copy(Family::Meta, &key, decode) {
                state.add_region(region, &record);
            }
        }
        state
    }

    fn add_region(&mut self, region: u64, record: &DamageRecord) {
        let Some(base) = region.checked_mul(REGION_IDS).map(ChunkId) else {
            return;
        };
        for (runs, set) in [
            (&record.damaged, &mut self.damaged),
            (&record.lost, &mut self.lost),
        ] {
            for (first, rest) in runs {
                set.insert_run(base.advance_by((*first).into()), u64::from(*rest) + 1);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.damaged.next_from(ChunkId(0)).is_none() && self.lost.next_from(ChunkId(0)).is_none()
    }

    fn contains(&self, id: ChunkId) -> bool {
        self.damaged.contains(id) || self.lost.contains(id)
    }

    /// Adds an entry; whether it is new.
    fn add_entry(&mut self, id: ChunkId, kind: DamageKind) -> bool {
        let set = match kind {
            DamageKind::Damaged => &mut self.damaged,
            DamageKind::Lost => &mut self.lost,
        };
        let is_new = !set.contains(id);
        set.insert(id);
        is_new
    }

    fn remove(&mut self, id: ChunkId) -> bool {
        let (damaged, lost) = (self.damaged.remove(id), self.lost.remove(id));
        damaged || lost
    }

    /// Puts the records of the regions that `changed` lie in into `batch`.
    fn put_regions(&self, changed: &[ChunkId], batch: &mut Batch) {
        let regions: BTreeSet<u64> = changed.iter().map(|id| id.0 / REGION_IDS).collect();
        for region in regions {
            let record = DamageRecord {
                damaged: runs_in(&self.damaged, region),
                lost: runs_in(&self.lost, region),
            };
            if record == DamageRecord::default() {
                batch.delete_record(Family::Meta, damage_key(region));
            } else {
                put_record(batch, Family::Meta, &damage_key(region), &record);
            }
        }
    }
}

/// The runs of `set` in a region, as a record has them.
fn runs_in(set: &IdSet, region: u64) -> Vec<(u16, u16)> {
    let base = region * REGION_IDS;
    let mut runs = Vec::new();
    let mut next = set.next_from(ChunkId(base));
    while let Some(first) = next.filter(|id| id.0 / REGION_IDS == region) {
        let mut last = first;
        while last.advance_by(1).0 / REGION_IDS == region && set.contains(last.advance_by(1)) {
            last = last.advance_by(1);
        }
        runs.push(((first.0 - base) as u16, (last.0 - first.0) as u16));
        next = set.next_from(last.advance_by(1));
    }
    runs
}

/// Key of a region's record.
pub(crate) fn damage_key(region: u64) -> Vec<u8> {
    [KEY_PREFIX, &region.to_be_bytes()].concat()
}

fn region_of(key: &[u8]) -> Option<u64> {
    let rest = key.strip_prefix(KEY_PREFIX)?;
    rest.try_into().ok().map(u64::from_be_bytes)
}
