//! Answers a measurement's question to a store: which names it has.

use vellum_core::hash::ChunkHash;

use crate::database::Family;
use crate::error::StoreError;
use crate::store::Store;

impl Store {
    /// Tells for each of `hashes`, in order, whether it seems to be the name of a stored chunk.
    /// Asks the index alone, which knows 8 bytes of each name: good for counting, not for skipping
    /// a chunk as "already there". Cost: one look-up in the database for each.
    pub fn seem_stored(&self, hashes: &[ChunkHash]) -> Result<Vec<bool>, StoreError> {
        let prefixes: Vec<[u8; 8]> = hashes.iter().map(ChunkHash::index_prefix).collect();
        let found = self
            .inner
            .database
            .get_many(Family::Index, prefixes.iter().map(<[u8; 8]>::as_slice))?;
        Ok(found.iter().map(Option::is_some).collect())
    }
}
