//! Healing: the damage that is known of a store, and the sources that are asked for damaged chunks.

use std::sync::Arc;

use vellum_core::id_set::IdSet;
use vellum_core::units::ChunkId;

use crate::chunks::{AskedSource, ChunkSource, DamageKind, Notices};
use crate::store::Store;

/// Damaged chunks of a store, as far as they are known.
#[derive(Clone, Default)]
pub struct KnownDamage {
    /// Found damaged by a check, a read, a scrub or the log, and not healed since.
    pub damaged: IdSet,
    /// Given up by a repair.
    pub lost: IdSet,
}

impl KnownDamage {
    /// Every chunk that something speaks against.
    #[must_use]
    pub fn all_chunks(&self) -> IdSet {
        let mut all = self.damaged.clone();
        all.union_with(&self.lost);
        all
    }
}

/// Has a source asked until it is dropped.
pub struct SourceGuard {
    store: Store,
    source: Arc<AskedSource>,
}

impl Store {
    /// Lists the chunks that are known to be damaged, without reading any.
    #[must_use]
    pub fn known_damage(&self) -> KnownDamage {
        let (damaged, lost) = self.inner.chunks.ledger.all_entries();
        KnownDamage { damaged, lost }
    }

    /// Has `sources` asked, in this order, for chunks that are found damaged: what they have is
    /// served, and written back if the store is open for writing.
    pub fn set_sources(&self, sources: Vec<Arc<dyn ChunkSource>>) {
        let mender = &self.inner.chunks.mender;
        mender.sources.set_sources(sources);
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

    /// Marks these chunks as overdue: from now on they are not believed unread, as they were not
    /// read for longer than a scrub's round.
    pub fn set_overdue(&self, ids: IdSet) {
        self.inner.chunks.set_overdue(ids);
    }

    /// True if chunk `id` can be read whole, from the store or from a source, which heals it.
    pub(crate) fn can_read(&self, id: ChunkId) -> bool {
        let frame = self.inner.chunks.verified_frame(id);
        frame.is_ok_and(|frame| frame.chunk_bytes(id).is_ok())
    }

    /// Notes that nothing at hand has these chunks, which are damaged: they are known as lost until
    /// their bytes come again.
    pub fn note_lost(&self, ids: &IdSet) {
        let runs = ids.id_runs();
        let each = runs.flat_map(|(first, count)| (0..count).map(move |nth| first.advance_by(nth)));
        self.inner.chunks.ledger.note_damage(each, DamageKind::Lost);
    }

    /// Gives `notices` what a person should know of healing: a line for each frame that was healed,
    /// and for each source that cannot be asked.
    pub fn set_notices(&self, notices: Notices) {
        self.inner.chunks.mender.set_notices(notices);
    }
}

impl Drop for SourceGuard {
    fn drop(&mut self) {
        self.store
            .inner
            .chunks
            .mender
            .sources
            .remove_source(&self.source);
    }
}
