//! Refcounts of a qcow2 that is written from front to back: blocks that no later cluster can change
//! are written at once, so that two are in memory whatever the file's length.
//!
//! ```text
//! Refcount table: 8 bytes an entry, the place of a block. Block: a cluster of 16-bit numbers, one
//! for each cluster of the file, big-endian.
//! ```

use crate::write::{ImageTarget, ImageWriteError, put_bytes};

/// The counts of a file's clusters so far.
pub(super) struct RefcountWriter {
    cluster_bits: u32,
    /// The first cluster of `counts`.
    first: u64,
    counts: Vec<u16>,
    /// Places of the blocks that are written.
    blocks: Vec<u64>,
}

/// Places of the last blocks and of the table.
pub(super) struct RefcountEnd {
    /// The file's length in clusters.
    pub(super) clusters: u64,
    pub(super) table_place: u64,
    pub(super) table_clusters: u64,
}

impl RefcountWriter {
    pub(super) fn new(cluster_bits: u32) -> Self {
        Self {
            cluster_bits,
            first: 0,
            counts: Vec::new(),
            blocks: Vec::new(),
        }
    }

    /// Clusters that one block counts.
    fn block_entries(&self) -> u64 {
        1 << (self.cluster_bits - 1)
    }

    /// Counts one more user of a cluster, which is not before the last block that was written.
    pub(super) fn add_user(&mut self, cluster: u64) {
        let index = (cluster - self.first) as usize;
        if self.counts.len() <= index {
            self.counts.resize(index + 1, 0);
        }
        let count = self.counts.get_mut(index).expect("it was made long enough");
        *count = count.checked_add(1).expect("`is_full` was asked before");
    }

    /// True if a cluster cannot take another user.
    pub(super) fn is_full(&self, cluster: u64) -> bool {
        let index = (cluster - self.first) as usize;
        self.counts
            .get(index)
            .is_some_and(|count| *count == u16::MAX)
    }

    /// True if a block is complete when the file has `clusters`: then [`Self::write_block`] needs a
    /// cluster for it. The last cluster may still get users.
    pub(super) fn is_due(&self, clusters: u64) -> bool {
        clusters > self.first + self.block_entries() + 1
    }

    /// Writes the oldest block to `place`, whose own cluster was counted.
    pub(super) fn write_block(
        &mut self,
        target: &mut dyn ImageTarget,
        place: u64,
    ) -> Result<(), ImageWriteError> {
        let entries = self.block_entries() as usize;
        let rest = self.counts.split_off(entries.min(self.counts.len()));
        let mut block: Vec<u8> = self
            .counts
            .iter()
            .flat_map(|count| count.to_be_bytes())
            .collect();
        block.resize(2 * entries, 0);
        put_bytes(target, &block, place)?;
        self.counts = rest;
        self.first += entries as u64;
        self.blocks.push(place);
        Ok(())
    }

    /// Writes what is left behind the file's `clusters`: blocks, then the table.
    pub(super) fn write_rest(
        mut self,
        target: &mut dyn ImageTarget,
        clusters: u64,
    ) -> Result<RefcountEnd, ImageWriteError> {
        let cluster_len = 1_u64 << self.cluster_bits;
        let mut end = clusters;
        // The blocks count themselves and the table: more of them until they all do.
        let (block_count, table_clusters) = loop {
            let blocks = (end - self.first).div_ceil(self.block_entries());
            let table = (8 * (self.blocks.len() as u64 + blocks)).div_ceil(cluster_len);
            let next = clusters + blocks + table;
            if next == end {
                break (blocks, table);
            }
            end = next;
        };
        for cluster in clusters..end {
            self.add_user(cluster);
        }
        for number in 0..block_count {
            self.write_block(target, (clusters + number) * cluster_len)?;
        }
        let table: Vec<u8> = self
            .blocks
            .iter()
            .flat_map(|place| place.to_be_bytes())
            .collect();
        let table_place = (clusters + block_count) * cluster_len;
        put_bytes(target, &table, table_place)?;
        Ok(RefcountEnd {
            clusters: end,
            table_place,
            table_clusters,
        })
    }
}
