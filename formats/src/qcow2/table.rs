//! The tables of a qcow2 image: the L1 table in memory, L2 tables fetched when needed and kept
//! within a budget. What an entry means is `entry`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::entry::L2EntryRules;
use super::header::Qcow2Header;
use super::malformed;
use crate::read_exact;
use vellum_core::source::{ReadAt, SourceError};

/// 16 MiB of L2 tables: they map 128 GiB of an image with 64 KiB clusters, and a reader in order
/// needs one.
const CACHE_LEN: u64 = 16 << 20;
/// With clusters of 512 bytes, 1,024 tables map 32 MiB: the cache's own bookkeeping stays below 32
/// KiB.
const CACHE_SLOTS_MAX: u64 = 1024;
/// The L1 table is read in pieces, so that its bytes and its numbers are not both in memory at
/// once.
const L1_PIECE_LEN: usize = 64 << 10;

/// The L1 table, and the L2 tables that were used last.
pub(super) struct L2Tables {
    header: Qcow2Header,
    rules: L2EntryRules,
    /// The verified offset of each L2 table, zero for none.
    l1: Vec<u64>,
    state: Mutex<TableCache>,
}

/// One L2 table: 64-bit words, two for each entry where the image has subclusters.
pub(super) struct L2Table {
    words: Vec<u64>,
    extended: bool,
}

/// The cache and the claims behind the lock. A table has one slot it can be in, so that finding and
/// replacing cost the same at any size.
struct TableCache {
    slots: Vec<Option<(usize, Arc<L2Table>)>>,
    claims: ClusterClaims,
}

impl L2Tables {
    /// Reads and checks the L1 table.
    pub(super) fn read_from(file: &dyn ReadAt, header: Qcow2Header) -> Result<Self, SourceError> {
        let rules = L2EntryRules::new(header, file.len());
        let slot_count = (CACHE_LEN >> header.cluster_bits)
            .min(CACHE_SLOTS_MAX)
            .min(header.l1_count);
        let l1 = read_l1(file, header, rules)?;
        let claims = ClusterClaims::new(file.len(), header.cluster_len(), l1.len());
        let slots = (0..slot_count).map(|_| None).collect();
        Ok(Self {
            header,
            rules,
            l1,
            state: Mutex::new(TableCache { slots, claims }),
        })
    }

    /// The rules that its entries are read by.
    pub(super) fn entry_rules(&self) -> &L2EntryRules {
        &self.rules
    }

    /// The L2 table that maps the byte at `offset` of the image, `None` when there is none.
    pub(super) fn table_for(
        &self,
        file: &dyn ReadAt,
        offset: u64,
    ) -> Result<Option<Arc<L2Table>>, SourceError> {
        let index = self.index_for(offset);
        let Some(place) = self.l1.get(index).copied().filter(|place| *place != 0) else {
            return Ok(None);
        };
        if let Some(table) = self.lock_state().cached_table(index) {
            return Ok(Some(table));
        }
        // Read outside the lock: two threads may read the same table once, but none waits for
        // another's disk.
        let table = Arc::new(L2Table::read_from(file, place, self.header)?);
        self.lock_state().insert_table(index, &table)?;
        Ok(Some(table))
    }

    /// The first byte after `offset` that has an L2 table, at most `end`. One look at 8 bytes skips
    /// what a whole table would map.
    pub(super) fn gap_end(&self, offset: u64, end: u64) -> u64 {
        let (index, last) = (self.index_for(offset), self.index_for(end));
        let gap = self
            .l1
            .iter()
            .take(last + 1)
            .skip(index)
            .take_while(|place| **place == 0)
            .count();
        end.min(((index + gap) as u64) << self.header.table_span_bits())
    }

    /// End of the range that the table for `offset` maps.
    pub(super) fn table_end(&self, offset: u64) -> u64 {
        (self.index_for(offset) as u64 + 1) << self.header.table_span_bits()
    }

    fn index_for(&self, offset: u64) -> usize {
        usize::try_from(offset >> self.header.table_span_bits()).unwrap_or(usize::MAX)
    }

    /// A panic of another thread leaves the cache whole: each change of it is one assignment.
    fn lock_state(&self) -> MutexGuard<'_, TableCache> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TableCache {
    fn slot_for(&mut self, index: usize) -> Option<&mut Option<(usize, Arc<L2Table>)>> {
        let slot_count = self.slots.len();
        self.slots.get_mut(index.checked_rem(slot_count)?)
    }

    fn cached_table(&mut self, index: usize) -> Option<Arc<L2Table>> {
        let (found, table) = self.slot_for(index)?.as_ref()?;
        (*found == index).then(|| Arc::clone(table))
    }

    fn insert_table(&mut self, index: usize, table: &Arc<L2Table>) -> Result<(), SourceError> {
        self.claims.claim_table(index, table)?;
        if let Some(slot) = self.slot_for(index) {
            *slot = Some((index, Arc::clone(table)));
        }
        Ok(())
    }
}

impl L2Table {
    fn read_from(file: &dyn ReadAt, offset: u64, header: Qcow2Header) -> Result<Self, SourceError> {
        let mut bytes = vec![0; 1 << header.cluster_bits];
        read_exact(file, &mut bytes, offset)?;
        Ok(Self {
            words: be_words(&bytes).collect(),
            extended: header.extended,
        })
    }

    /// Entry number `index`, its second word zero where entries have one.
    pub(super) fn entry_words(&self, index: usize) -> [u64; 2] {
        let word = |at: usize| self.words.get(at).copied().unwrap_or_default();
        if self.extended {
            [word(2 * index), word(2 * index + 1)]
        } else {
            [word(index), 0]
        }
    }

    fn cluster_claims(&self) -> u64 {
        let step = if self.extended { 2 } else { 1 };
        self.words
            .iter()
            .step_by(step)
            .filter(|entry| L2EntryRules::claims_cluster(**entry))
            .count() as u64
    }
}

/// The part of the file that the tables claim so far.
///
/// A small file could name one cluster, or one table, a million times and keep a reader busy for
/// petabytes. qemu never maps a cluster twice in the active table, so all claims together fit the
/// file, and so what can be read of plain clusters is no more than the file holds. A compressed
/// cluster may be shorter than any bound worth checking; each costs its entry at least, in a table
/// that is claimed.
struct ClusterClaims {
    /// Clusters that the file has room for, a last one in part included.
    room: u64,
    claimed: u64,
    /// L2 tables that were counted already.
    counted: Vec<bool>,
}

impl ClusterClaims {
    fn new(file_len: u64, cluster_len: u64, table_count: usize) -> Self {
        Self {
            room: file_len.div_ceil(cluster_len),
            claimed: 0,
            counted: vec![false; table_count],
        }
    }

    fn claim_table(&mut self, index: usize, table: &L2Table) -> Result<(), SourceError> {
        let counted = self
            .counted
            .get_mut(index)
            .expect("a table was read for an entry of the L1 table");
        if !*counted {
            *counted = true;
            self.claimed += 1 + table.cluster_claims();
        }
        if self.claimed > self.room {
            return Err(malformed(format!(
                "its tables name {} clusters or more, and the file holds {}: some are named twice",
                self.claimed, self.room
            )));
        }
        Ok(())
    }
}

fn read_l1(
    file: &dyn ReadAt,
    header: Qcow2Header,
    rules: L2EntryRules,
) -> Result<Vec<u64>, SourceError> {
    let mut left_len =
        usize::try_from(header.l1_count * 8).expect("the header's check bounds it to 32 MiB");
    let mut l1 = Vec::with_capacity(left_len / 8);
    let mut offset = header.l1_offset;
    while left_len > 0 {
        let mut piece = vec![0; left_len.min(L1_PIECE_LEN)];
        read_exact(file, &mut piece, offset)?;
        for entry in be_words(&piece) {
            let place = rules.table_offset(entry);
            l1.push(place.map_err(|reason| malformed(format!("L1 entry {} {reason}", l1.len())))?);
        }
        left_len -= piece.len();
        offset += piece.len() as u64;
    }
    Ok(l1)
}

fn be_words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|word| u64::from_be_bytes(*word))
}
