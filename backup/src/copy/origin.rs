//! The source's chunks as a chunk origin: finds by name those that the target has, a bounded number
//! at a time.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{PoisonError, RwLock};

use vellum_core::hash::ChunkHash;
use vellum_core::id_set::IdSet;
use vellum_core::identity::{IDENTITY_LEN, RepositoryId, SegmentId};
use vellum_core::units::ChunkId;

use crate::error::BackupError;
use crate::journal::State;
use crate::known::{Known, Origin};
use crate::reader::Reader;

/// Names that are looked for in one pass over the target's index: about 100 MB of memory, and 8 GiB
/// of disk at 4 KiB a chunk.
pub(super) const NAMES_TOGETHER: usize = 1 << 21;

/// Chunks of a repository that go to another one. Their ids are the addresses that the source's
/// catalog gives them; they last as long as the process, so a file of them lists the segments in
/// the order of their numbers.
pub(super) struct SourceChunks<'r> {
    source: &'r Reader<'r>,
    /// The chunks that are looked for now.
    names: RwLock<HashMap<ChunkHash, ChunkId>>,
}

/// Chunks of which none is like another, and those that are like one of them.
#[derive(Default)]
pub(super) struct Distinct {
    pub(super) chunks: IdSet,
    /// The pairs of chunks with the same content.
    twins: Vec<(ChunkId, ChunkId)>,
}

impl<'r> SourceChunks<'r> {
    pub(super) fn new(source: &'r Reader<'r>) -> Self {
        Self {
            source,
            names: RwLock::default(),
        }
    }

    /// Looks for the chunks of `needed` in the target, and adds what is found to `known`. Cost: one
    /// pass over the target's index, which the client mostly has in its cache, for each
    /// [`NAMES_TOGETHER`] chunks that are not known yet.
    pub(super) fn look(
        &self,
        needed: &IdSet,
        known: &mut Known,
        target: &Reader<'_>,
        state: &State,
    ) -> Result<Distinct, BackupError> {
        let mut distinct = Distinct::default();
        let mut next = needed.next_from(ChunkId(0));
        while next.is_some() {
            let mut names = HashMap::new();
            while let Some(address) = next.filter(|_| names.len() < NAMES_TOGETHER) {
                next = needed.next_from(address.advance_by(1));
                if known.get(address, 1).is_some() {
                    distinct.chunks.insert(address);
                    continue;
                }
                match names.entry(self.source.name_of(address)?) {
                    Entry::Occupied(like) => distinct.twins.push((address, *like.get())),
                    Entry::Vacant(free) => {
                        free.insert(address);
                        distinct.chunks.insert(address);
                    }
                }
            }
            if !names.is_empty() {
                *self.names.write().unwrap_or_else(PoisonError::into_inner) = names;
                known.look(target, self, state)?;
            }
        }
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = HashMap::new();
        Ok(distinct)
    }
}

impl Distinct {
    /// Gives the twins the addresses of the chunks that they are like.
    pub(super) fn settle(&self, known: &mut Known) {
        self.twins
            .iter()
            .for_each(|(twin, like)| known.set_alike(*twin, *like));
    }
}

impl Origin for SourceChunks<'_> {
    fn file_name(&self) -> Option<String> {
        Some(format!("copied-{}", self.source.repository().id()))
    }

    /// Gives the segments the numbers that they had, if they have no others yet.
    fn recognises(&self, _: &RepositoryId, mark: &[u8]) -> Result<bool, BackupError> {
        let (ids, rest) = mark.as_chunks::<IDENTITY_LEN>();
        let catalog = self.source.catalog();
        Ok(rest.is_empty()
            && ids
                .iter()
                .zip(0..)
                .all(|(id, number)| catalog.number_of(SegmentId(*id)) == number))
    }

    fn mark(&self, _: &RepositoryId) -> Result<Vec<u8>, BackupError> {
        let segments = (0..).map_while(|number| self.source.catalog().segment_of(number));
        Ok(segments.flat_map(|segment| segment.0).collect())
    }

    fn find(&self, names: &[ChunkHash]) -> Result<Vec<Option<ChunkId>>, BackupError> {
        let wanted = self.names.read().unwrap_or_else(PoisonError::into_inner);
        Ok(names.iter().map(|name| wanted.get(name).copied()).collect())
    }
}

/// Visits what is in a set, in runs.
pub(super) fn each_run(set: &IdSet, visit: &mut dyn FnMut(ChunkId, u64)) {
    let mut next = set.next_from(ChunkId(0));
    while let Some(first) = next {
        let mut end = first.advance_by(1);
        while set.contains(end) {
            end = end.advance_by(1);
        }
        visit(first, end.0 - first.0);
        next = set.next_from(end);
    }
}
