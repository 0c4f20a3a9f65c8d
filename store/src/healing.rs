//! What a store is told of damage and of where to find what is damaged, and what it tells.

use std::sync::Arc;

use vellum_core::id_set::IdSet;

use crate::chunks::{AskedSource, ChunkSource, DamageKind, Notices, PayloadRebuilder};
use crate::store::Store;

/// What is known of a store's damaged chunks.
#[derive(Clone, Default)]
pub struct KnownDamage {
    /// Found damaged by a check, a read, a scrub or the log, and not healed since.
    pub damaged: IdSet,
    /// Given up by a repair.
    pub lost: IdSet,
}

/// Has a source asked until it is dropped.
pub struct SourceGuard {
    store: Store,
    source: Arc<AskedSource>,
}

impl Store {
    /// What is known of its damaged chunks, without looking at any.
    #[must_use]
    pub fn known_damage(&self) -> KnownDamage {
        let (damaged, lost) = self.inner.chunks.ledger.list();
        KnownDamage { damaged, lost }
    }

    /// Has `sources` asked, in this order, for chunks that are found damaged: what they have is
    /// served, and written back if the store is open for writing.
    pub fn set_sources(&self, sources: Vec<Arc<dyn ChunkSource>>) {
        let mender = &self.inner.chunks.mender;
        mender.sources.set(sources);
        mender.forget_failures();
    }

    /// Has `source` asked before all others while the guard lives.
    #[must_use]
    pub fn ask_source(&self, source: Arc<dyn ChunkSource>) -> SourceGuard {
        SourceGuard {
            store: self.clone(),
            source: self.inner.chunks.add_source(source),
        }
    }

    /// Has `parity` asked for damaged frames, before all sources.
    pub fn set_parity(&self, parity: Arc<dyn PayloadRebuilder>) {
        self.inner.chunks.mender.set_parity(parity);
    }

    /// From now on these chunks are not taken for known unread: they were not read for longer than
    /// a scrub's round.
    pub fn set_overdue(&self, ids: IdSet) {
        self.inner.chunks.set_overdue(ids);
    }

    /// Notes that nothing at hand has these chunks, which are damaged: they are known as lost until
    /// their bytes come again.
    pub fn note_lost(&self, ids: &IdSet) {
        let runs = ids.runs();
        let each = runs.flat_map(|(first, count)| (0..count).map(move |nth| first.advance(nth)));
        self.inner.chunks.ledger.note(each, DamageKind::Lost);
    }

    /// Gives `notices` what a person should know of healing: a line for each frame that was healed,
    /// and for each source that cannot be asked.
    pub fn set_notices(&self, notices: Notices) {
        self.inner.chunks.mender.set_notices(notices);
    }
}

impl Drop for SourceGuard {
    fn drop(&mut self) {
        self.store.inner.chunks.mender.sources.remove(&self.source);
    }
}
