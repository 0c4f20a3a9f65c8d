//! The work of one flush: chunks to store, pages to change. It does not know when it happens.

use std::collections::BTreeMap;
use std::ops::Range;

use rayon::prelude::{ParallelIterator, ParallelSlice};
use vellum_core::hash::{ChunkHash, hash_chunks, is_zero};
use vellum_core::page::{PAGE_SPAN, PageEntry, Run};
use vellum_core::tree::{Layer, NodeRef, PageSet, PlanError, Tree, page_of, page_start};
use vellum_core::units::{ChunkId, ChunkIndex, ImageId, PageIndex};

use crate::chunks::ChunkCandidate;
use crate::database::Batch;
use crate::error::StoreError;
use crate::layer_writer::LayerWriter;
use crate::store::Store;
use crate::write_buffer::WriteBuffer;

/// Chunks that one core names at a time: some 100 microseconds of work.
const CHUNKS_PER_TASK: usize = 128;

/// New entries of each page, in order; see [`vellum_core::page::Page::with_changes`].
pub(super) type PageChanges = BTreeMap<PageIndex, Vec<Run>>;

/// The work of a flush.
pub(super) struct Flush<'w> {
    /// The positions that get data, in order.
    positions: Vec<u64>,
    /// Their bytes.
    plain: Vec<&'w [u8]>,
    /// Everything that becomes zero.
    zeros: Vec<Range<u64>>,
}

impl<'w> Flush<'w> {
    /// Parts what waits into data and zeros; data that is all zero is zeros.
    pub(super) fn from_buffer(waiting: &'w WriteBuffer) -> Self {
        let mut flush = Self {
            positions: Vec::new(),
            plain: Vec::new(),
            zeros: waiting.zero_ranges().collect(),
        };
        for (position, plain) in waiting.pending_chunks() {
            if is_zero(plain) {
                flush.zeros.push(position..position + 1);
            } else {
                flush.positions.push(position);
                flush.plain.push(plain);
            }
        }
        flush
    }

    /// The chunks to store. Names them on all cores.
    pub(super) fn chunk_candidates(&self) -> Vec<ChunkCandidate<'w>> {
        let names: Vec<ChunkHash> = if self.plain.len() <= CHUNKS_PER_TASK {
            hash_chunks(&self.plain)
        } else {
            self.plain
                .par_chunks(CHUNKS_PER_TASK)
                .flat_map_iter(hash_chunks)
                .collect()
        };
        self.plain
            .iter()
            .zip(names)
            .map(|(plain, hash)| ChunkCandidate {
                hash,
                plain,
                guess: None,
            })
            .collect()
    }

    /// Puts the changed pages of the image's active layer into `batch`; its record as it will be,
    /// and what changed.
    pub(super) fn plan_pages(
        &self,
        store: &Store,
        tree: &Tree,
        image: ImageId,
        ids: &[ChunkId],
        batch: &mut Batch,
    ) -> Result<(Layer, PageChanges), StoreError> {
        let layer = tree
            .layer_of(NodeRef::Image(image))
            .ok_or(PlanError::Gone)?;
        let mut changes = PageChanges::new();
        for (position, id) in self.positions.iter().zip(ids) {
            let (index, start) = page_of(ChunkIndex(*position));
            changes.entry(index).or_default().push(Run {
                start,
                len: 1,
                slot: PageEntry::Chunk(*id),
            });
        }
        self.add_zeros(tree, layer, &mut changes);
        let mut draft = LayerWriter::new(Layer::clone(layer));
        for (index, runs) in &mut changes {
            runs.sort_unstable_by_key(|run| run.start);
            draft.change_page(&store.inner.pages, *index, runs, batch)?;
        }
        Ok((draft.layer, changes))
    }

    /// Adds what becomes zero. Where a layer below could be seen, that is an explicit zero;
    /// elsewhere it is nothing at all, and only an answer that the layer has is taken away. Pages
    /// that no layer has are passed over.
    fn add_zeros(&self, tree: &Tree, layer: &Layer, changes: &mut PageChanges) {
        if self.zeros.is_empty() {
            return;
        }
        let below = PageSet::union_of(
            layer
                .parent
                .into_iter()
                .flat_map(|parent| tree.chain_from(parent))
                .map(|layer| &layer.pages),
        );
        let mapped = below.union_with(&layer.pages);
        for range in &self.zeros {
            let mut next = mapped.next_from(page_of(ChunkIndex(range.start)).0);
            while let Some(index) = next.filter(|index| page_start(*index).0 < range.end) {
                let first = page_start(index).0;
                let clip =
                    |position: u64| position.saturating_sub(first).min(PAGE_SPAN.into()) as u16;
                let hidden = if below.contains(index) {
                    layer.visible_in(index)
                } else {
                    0
                };
                let (start, end) = (clip(range.start), clip(range.end));
                let middle = hidden.clamp(start, end);
                let parts = [
                    (start, middle, PageEntry::Zero),
                    (middle, end, PageEntry::Absent),
                ]
                .into_iter()
                .filter(|(start, end, _)| start < end);
                changes
                    .entry(index)
                    .or_default()
                    .extend(parts.map(|(start, end, slot)| Run {
                        start,
                        len: end - start,
                        slot,
                    }));
                next = mapped.next_from(PageIndex(index.0 + 1));
            }
        }
    }
}
