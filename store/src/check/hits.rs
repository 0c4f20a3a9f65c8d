//! Finds the images and snapshots that show lost content, with the ranges. Walks every map, so it
//! is done only if something is.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use vellum_core::page::{PAGE_SPAN, Page, PageEntry, Run, bytes_of};
use vellum_core::tree::{Layer, PageSet};
use vellum_core::units::{ChunkId, LayerId, PageIndex};

use super::{CheckRun, ContentLoss};
use crate::error::StoreError;

/// Lost chunks and pages, each with the number of the finding that took it.
#[derive(Default)]
struct LostContent {
    chunks: HashMap<ChunkId, usize>,
    pages: BTreeMap<(LayerId, PageIndex), usize>,
}

/// A range of positions on a page, and the finding that hits it.
type Hit = (usize, Range<u16>);

impl CheckRun<'_> {
    pub(super) fn find_affected_nodes(&mut self) -> Result<(), StoreError> {
        let lost = self.lost_by_finding();
        let nodes: Vec<(String, Vec<Arc<Layer>>)> = {
            let tree = self.store.tree();
            let chain = |node| {
                tree.layer_of(node)
                    .map(|layer| tree.chain_from(layer.id).map(Arc::clone).collect())
                    .unwrap_or_default()
            };
            tree.all_nodes()
                .map(|node| (tree.display_name(node), chain(node)))
                .collect()
        };
        for (name, chain) in nodes {
            self.go_on()?;
            let pages = chain.iter().fold(PageSet::new(), |pages, layer| {
                pages.union_with(&layer.pages)
            });
            for index in pages.iter() {
                for (finding, positions) in self.page_hits(&chain, index, &lost) {
                    self.add_hit(finding, &name, chain[0].len, index, positions);
                }
            }
        }
        Ok(())
    }

    fn lost_by_finding(&self) -> LostContent {
        let mut lost = LostContent::default();
        for (finding, loss) in self.losses.iter().enumerate() {
            match loss {
                ContentLoss::Nothing => {}
                ContentLoss::Chunks(ids) => lost.chunks.extend(ids.iter().map(|id| (*id, finding))),
                ContentLoss::Page(layer, index) => {
                    lost.pages.insert((*layer, *index), finding);
                }
            }
        }
        lost
    }

    /// Parts of page `index` of a chain, top first, that show lost content.
    fn page_hits(&self, chain: &[Arc<Layer>], index: PageIndex, lost: &LostContent) -> Vec<Hit> {
        let (mut seen, mut visible, mut hits) = (Page::new(), PAGE_SPAN, Vec::new());
        for layer in chain
            .iter()
            .filter(|layer| layer.pages.contains(index) || layer.visible_in(index) < PAGE_SPAN)
        {
            if let Some(finding) = lost.pages.get(&(layer.id, index)) {
                let hidden = |run: &Run| run.slot == PageEntry::Absent;
                hits.extend(
                    seen.runs_in(0, visible)
                        .filter(hidden)
                        .map(|run| (*finding, run.start..run.end_position())),
                );
                break;
            }
            // A page that cannot be read now, and could before, has no finding that it belongs to.
            let Ok(page) = self.store.inner.pages.own_page(layer, index) else {
                break;
            };
            seen = seen.overlay_on(&page, visible);
            visible = visible.min(layer.visible_in(index));
        }
        for run in seen.runs() {
            let PageEntry::Chunk(first) = run.slot else {
                continue;
            };
            let of = |nth: &u16| {
                lost.chunks
                    .get(&first.advance_by(u64::from(*nth)))
                    .map(|finding| (*finding, run.start + nth))
            };
            hits.extend(
                (0..run.len)
                    .filter_map(|nth| of(&nth))
                    .map(|(finding, at)| (finding, at..at + 1)),
            );
        }
        hits.sort_by_key(|(finding, positions)| (*finding, positions.start));
        hits
    }

    /// Notes a hit, as one with the last if it goes on where that ends.
    fn add_hit(
        &mut self,
        finding: usize,
        name: &str,
        len: u64,
        index: PageIndex,
        positions: Range<u16>,
    ) {
        let chunk_len = self.store.parameters().chunk_len;
        let bytes = bytes_of(chunk_len, index, positions, &(0..len));
        if bytes.is_empty() {
            return;
        }
        let images = &mut self.report.findings[finding].images;
        match images.last_mut() {
            Some((last, range)) if last == name && range.end == bytes.start => {
                range.end = bytes.end;
            }
            _ => images.push((name.to_owned(), bytes)),
        }
    }
}
