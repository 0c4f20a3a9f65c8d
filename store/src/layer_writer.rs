//! Writes changes to a layer's map: pages go into a batch, and the layer's record keeps count of
//! them.
//!
//! It does not know why the map changes, nor when the batch is written.

use vellum_core::page::{Page, Run, page_key};
use vellum_core::tree::{Layer, page_of};
use vellum_core::units::{ChunkIndex, LayerId, PageIndex};

use crate::database::{Batch, Family};
use crate::error::StoreError;
use crate::layer_resolver::LayerResolver;

/// One layer, being changed.
pub(crate) struct LayerWriter {
    /// The record as it will be, to be committed with the batch or after it.
    pub(crate) layer: Layer,
}

impl LayerWriter {
    /// A draft of the layer as it is.
    pub(crate) fn new(layer: Layer) -> Self {
        Self { layer }
    }

    /// Changes what the layer says on page `index`; see [`Page::with_changes`].
    pub(crate) fn change_page(
        &mut self,
        pages: &LayerResolver,
        index: PageIndex,
        changes: &[Run],
        batch: &mut Batch,
    ) -> Result<(), StoreError> {
        let old = pages.own_page(&self.layer, index)?;
        self.put_page(index, &old, &old.with_changes(changes), batch);
        Ok(())
    }

    /// Changes what the layer says of one position.
    pub(crate) fn change_one(
        &mut self,
        pages: &LayerResolver,
        position: ChunkIndex,
        slot: vellum_core::page::PageEntry,
        batch: &mut Batch,
    ) -> Result<(), StoreError> {
        let (index, start) = page_of(position);
        self.change_page(
            pages,
            index,
            &[Run {
                start,
                len: 1,
                slot,
            }],
            batch,
        )
    }

    /// Puts `new` in the place of `old`.
    pub(crate) fn put_page(&mut self, index: PageIndex, old: &Page, new: &Page, batch: &mut Batch) {
        if old == new {
            return;
        }
        batch.put_page(self.layer.id, index, new);
        self.layer.note_page(index, old, new);
    }
}

impl Batch {
    /// Replaces a page of `layer`: an empty one is not kept.
    pub(crate) fn put_page(&mut self, layer: LayerId, index: PageIndex, page: &Page) {
        let key = page_key(layer, index);
        if page.is_empty() {
            self.delete_record(Family::Pages, key);
        } else {
            self.put_record(Family::Pages, key, page.encode(layer, index));
        }
    }

    /// Deletes all pages of `layer`, at a cost that does not depend on how many there are.
    pub(crate) fn delete_pages(&mut self, layer: LayerId) {
        self.delete_range(
            Family::Pages,
            page_key(layer, PageIndex(0)),
            page_key(LayerId(layer.0 + 1), PageIndex(0)),
        );
    }
}
