//! Checks maps: every layer and page on its own, then that the chunks they refer to are there.

use std::collections::BTreeMap;
use std::sync::Arc;

use vellum_core::frame::frame_key;
use vellum_core::id_set::IdSet;
use vellum_core::page::{Page, PageEntry, page_key, parse_page_key};
use vellum_core::tree::Layer;
use vellum_core::units::{ChunkId, LayerId, PageIndex};

use super::index::NameSums;
use super::{CheckRun, ContentLoss};
use crate::database::Family;
use crate::error::StoreError;

/// Pages between two looks at whether to go on.
const PAGES_PER_LOOK: u64 = 256;

impl CheckRun<'_> {
    pub(super) fn check_maps(&mut self) -> Result<(), StoreError> {
        let layers: BTreeMap<LayerId, Arc<Layer>> = {
            let tree = self.store.tree();
            tree.layers()
                .map(|layer| (layer.id, Arc::clone(layer)))
                .collect()
        };
        let mut referenced = IdSet::new();
        for layer in layers.values() {
            self.check_layer(layer, &layers, &mut referenced)?;
        }
        self.report.chunks_unreferenced = self.present.len() - referenced.len();
        self.check_stray_pages()
    }

    /// Pages that no layer has. What a layer got since it was looked at is asked for again.
    fn check_stray_pages(&mut self) -> Result<(), StoreError> {
        let database = Arc::clone(&self.store.inner.database);
        self.each_record(&database, Family::Pages, &[], &mut |check, read| {
            let key = match read {
                Ok((key, _)) => key,
                Err(error) => return check.report_read_error(error, ContentLoss::Nothing),
            };
            match parse_page_key(key) {
                Err(error) => check.report_leak("a page's key", error),
                Ok((layer, index)) => {
                    if !check.has_page(layer, index) {
                        check.report_leak(
                            format!("page {index} of layer {layer}"),
                            "no layer has it",
                        );
                    }
                }
            }
            Ok(())
        })
    }

    /// True if page `index` of `layer` belongs to a layer, or has gone since it was seen.
    fn has_page(&self, layer: LayerId, index: PageIndex) -> bool {
        // In this order: a layer's record is there before its building ends.
        if self.store.unfinished_layers().contains(&layer) {
            return true;
        }
        let is_known = self
            .store
            .tree()
            .layer(layer)
            .is_some_and(|layer| layer.pages.contains(index));
        let key = page_key(layer, index);
        is_known || matches!(self.store.inner.database.get(Family::Pages, &key), Ok(None))
    }

    fn check_layer(
        &mut self,
        layer: &Layer,
        layers: &BTreeMap<LayerId, Arc<Layer>>,
        referenced: &mut IdSet,
    ) -> Result<(), StoreError> {
        self.report.layers += 1;
        let parent = layer.parent.and_then(|parent| layers.get(&parent));
        if parent.is_some_and(|parent| !parent.sealed) {
            self.report_damage(
                format!("layer {}", layer.id),
                "its parent is not sealed",
                ContentLoss::Nothing,
            );
        }
        let (mut chunks, mut zeros, mut is_whole) = (0, 0, true);
        for index in layer.pages.iter() {
            match self.store.inner.pages.own_page(layer, index) {
                Ok(page) => {
                    let counts = page.count_entries();
                    (chunks, zeros) = (chunks + counts.0, zeros + counts.1);
                    self.check_page(layer, index, &page, referenced)?;
                }
                // The layer was written to, or removed, since it was listed.
                Err(_)
                    if !self
                        .store
                        .tree()
                        .layer(layer.id)
                        .is_some_and(|now| **now == *layer) =>
                {
                    return Ok(());
                }
                Err(error) => {
                    is_whole = false;
                    self.report_read_error(error, ContentLoss::Page(layer.id, index))?;
                }
            }
            self.report.pages += 1;
            if self.report.pages.is_multiple_of(PAGES_PER_LOOK) {
                self.go_on()?;
            }
        }
        let is_unchanged = self
            .store
            .tree()
            .layer(layer.id)
            .is_some_and(|now| **now == *layer);
        if is_whole && is_unchanged && (chunks, zeros) != (layer.chunks, layer.zeros) {
            let says = format!(
                "it counts {} chunks and {} zeros, its pages hold {chunks} and {zeros}",
                layer.chunks, layer.zeros
            );
            self.report_leak(format!("layer {}", layer.id), says);
        }
        Ok(())
    }

    fn check_page(
        &mut self,
        layer: &Layer,
        index: PageIndex,
        page: &Page,
        referenced: &mut IdSet,
    ) -> Result<(), StoreError> {
        let end = layer.positions_in(self.store.parameters().chunk_len, index);
        if page
            .runs()
            .last()
            .is_some_and(|run| run.end_position() > end)
        {
            self.report_leak(
                format!("page {index} of layer {}", layer.id),
                "it says something past the end of the disk",
            );
        }
        let mut missing: Vec<ChunkId> = Vec::new();
        // Ids past the horizon are newer than this check; ids past the next one to be assigned
        // belong to no chunk.
        let not_given = self.store.inner.chunks.next_chunk();
        let horizon = self.horizon;
        let concerns = |id: &ChunkId| *id < horizon || *id >= not_given;
        for run in page.runs() {
            let PageEntry::Chunk(first) = run.slot else {
                continue;
            };
            for id in (0..u64::from(run.len))
                .map(|nth| first.advance_by(nth))
                .filter(concerns)
            {
                if self.present.contains(id) || self.is_found_aside(id)? {
                    referenced.insert(id);
                } else if !self.lost.contains(id) {
                    missing.push(id);
                }
            }
        }
        if let Some(first) = missing.first() {
            let reason = format!(
                "page {index} of layer {} refers to it, and no frame holds it",
                layer.id
            );
            let record = if missing.len() == 1 {
                format!("chunk number {first}")
            } else {
                format!("{} chunks, the first is number {first}", missing.len())
            };
            self.report_damage(record, reason, ContentLoss::Chunks(missing));
        }
        Ok(())
    }

    /// True if a reader finds chunk `id`, although the scan of the headers did not: some of them
    /// could not be read. Its frame is then checked here.
    fn is_found_aside(&mut self, id: ChunkId) -> Result<bool, StoreError> {
        let Ok(Some(header)) = self.store.inner.chunks.frame_header(id) else {
            return Ok(false);
        };
        let database = Arc::clone(&self.store.inner.database);
        let payload = database.get(Family::Frames, &frame_key(header.first_id()));
        let payload = payload.map(|payload| payload.map(|bytes| bytes.to_vec()));
        let pair = self.admit_frame(header, payload, &mut NameSums::default());
        self.look_at(vec![pair])?;
        Ok(true)
    }
}
