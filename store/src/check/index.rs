//! Checks that every name in the index stands for a chunk that has this name.
//!
//! Names come in hash order, chunks in id order: comparing them one by one would be a random read
//! each. So both sides are added up by ranges of ids first, and only ranges whose sums differ are
//! looked at one by one. They differ where chunks share a name, or are not in the index, too: that
//! is no fault, it only finds less to share.

use std::collections::BTreeMap;
use std::sync::Arc;

use vellum_core::units::ChunkId;
use vellum_core::wire::WireReader;

use super::{CheckRun, ContentLoss};
use crate::database::Family;
use crate::error::StoreError;

/// Ids that are added up together.
const RANGE_IDS: u64 = 1 << 16;
/// Entries between two looks at whether to go on.
const ENTRIES_PER_LOOK: u64 = 1 << 16;

/// Sums of the names of chunks, by range of ids.
#[derive(Default, PartialEq, Eq)]
pub(super) struct NameSums(BTreeMap<u64, u64>);

impl NameSums {
    pub(super) fn add_name(&mut self, id: ChunkId, prefix: [u8; 8]) {
        let sum = self.0.entry(id.0 / RANGE_IDS).or_default();
        *sum = sum.wrapping_add(mix_bits(u64::from_le_bytes(prefix) ^ mix_bits(id.0)));
    }
}

/// A number that tells nothing of the one it is made from, but is as unique (splitmix64's finish).
fn mix_bits(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

impl CheckRun<'_> {
    pub(super) fn check_index(&mut self, names: &NameSums) -> Result<(), StoreError> {
        let mut found = NameSums::default();
        self.each_entry(&mut |_, id, prefix| {
            found.add_name(id, prefix);
        })?;
        if found == *names {
            return Ok(());
        }
        self.each_entry(&mut |check, id, prefix| {
            let range = id.0 / RANGE_IDS;
            let is_sound = found.0.get(&range) == names.0.get(&range) || check.has_name(id, prefix);
            if !is_sound {
                let name = u64::from_be_bytes(prefix);
                check.report_leak(
                    format!("index entry {name:016x}"),
                    format!("it stands for chunk number {id}, which is gone or has another name"),
                );
            }
        })
    }

    fn has_name(&self, id: ChunkId, prefix: [u8; 8]) -> bool {
        // A header that cannot be read has its own finding.
        let header = self.store.inner.chunks.frame_header(id);
        header.map_or(true, |header| {
            header.is_some_and(|header| {
                header
                    .chunk_hash(id)
                    .is_some_and(|hash| hash.index_prefix() == prefix)
            })
        })
    }

    /// Visits every entry for a chunk below the horizon.
    fn each_entry(
        &mut self,
        visit: &mut dyn FnMut(&mut Self, ChunkId, [u8; 8]),
    ) -> Result<(), StoreError> {
        let database = Arc::clone(&self.store.inner.database);
        let mut count: u64 = 0;
        self.each_record(&database, Family::Index, &[], &mut |check, read| {
            let (key, value) = match read {
                Ok(entry) => entry,
                Err(error) => return check.report_read_error(error, ContentLoss::Nothing),
            };
            count += 1;
            if count.is_multiple_of(ENTRIES_PER_LOOK) {
                check.go_on()?;
            }
            match (
                <[u8; 8]>::try_from(key),
                WireReader::new(value).read_varint(),
            ) {
                (Ok(prefix), Ok(id)) if id < check.horizon.0 => visit(check, ChunkId(id), prefix),
                (Ok(_), Ok(_)) => {}
                _ => check.report_leak(
                    format!("index entry {}", key.escape_ascii()),
                    "it cannot be read",
                ),
            }
            Ok(())
        })
    }
}
