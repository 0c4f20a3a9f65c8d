//! How much a store holds, and in how little space.

use std::collections::{BTreeMap, HashMap};
use std::iter::successors;
use std::sync::Arc;

use vellum_core::frame::{FrameHeader, parse_frame_key};
use vellum_core::page::PAGE_SPAN;
use vellum_core::tree::{Layer, PageSet};
use vellum_core::units::{ChunkLen, LayerId, PageIndex};

use crate::database::Family;
use crate::error::StoreError;
use crate::store::Store;

/// Sizes of a whole store, in bytes unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Images.
    pub images: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Layers.
    pub layers: u64,
    /// The lengths of all images and snapshots.
    pub logical: u64,
    /// What of that is not zero.
    pub non_zero: u64,
    /// Chunks stored, a number.
    pub chunks: u64,
    /// Their bytes before compression.
    pub unique: u64,
    /// Their bytes after compression.
    pub compressed: u64,
    /// Everything in the store's folder, as `du` counts.
    pub on_disk: u64,
}

impl Store {
    /// Adds everything up. Cost: reads every frame header, and resolves every page of every layer once.
    pub fn stats(&self) -> Result<Stats, StoreError> {
        let mut stats = self.count_frames()?;
        let (layers, nodes) = {
            let tree = self.tree();
            stats.images = tree.image_count() as u64;
            stats.snapshots = tree.snapshot_count() as u64;
            let layers: BTreeMap<LayerId, Arc<Layer>> = tree.layers().map(|layer| (layer.id, Arc::clone(layer))).collect();
            let nodes: Vec<Arc<Layer>> = tree.nodes().filter_map(|node| tree.layer_of(node)).map(Arc::clone).collect();
            (layers, nodes)
        };
        stats.layers = layers.len() as u64;
        stats.logical = nodes.iter().map(|layer| layer.len).sum();
        let mut known = HashMap::new();
        for layer in &nodes {
            let chunks = self.shown_chunks(layer, &layers, &mut known)?;
            stats.non_zero += (chunks * self.parameters().chunk_len.bytes()).min(layer.len);
        }
        stats.on_disk = self.inner.folder.disk_usage()?;
        Ok(stats)
    }

    fn count_frames(&self) -> Result<Stats, StoreError> {
        let mut stats = Stats::default();
        let mut headers = self.inner.database.scan(Family::Headers, &[]);
        while let Some((key, value)) = headers.next()? {
            let first = parse_frame_key(key).map_err(|error| StoreError::damaged("a frame header's key", error))?;
            let header =
                FrameHeader::decode(first, value).map_err(|error| StoreError::damaged(format!("header of frame {first}"), error))?;
            stats.chunks += header.chunk_count() as u64;
            stats.compressed += u64::from(header.payload_len);
        }
        stats.unique = stats.chunks * self.parameters().chunk_len.bytes();
        Ok(stats)
    }

    /// How many chunks can be seen at the top of a layer: as many as of its parent, but for its own pages and those that it cuts off.
    fn shown_chunks(
        &self,
        top: &Arc<Layer>,
        layers: &BTreeMap<LayerId, Arc<Layer>>,
        known: &mut HashMap<LayerId, u64>,
    ) -> Result<u64, StoreError> {
        let chain: Vec<Arc<Layer>> = successors(Some(top), |layer| layers.get(&layer.parent?)).map(Arc::clone).collect();
        let first = chain.iter().position(|layer| known.contains_key(&layer.id)).unwrap_or(chain.len());
        for at in (0..first).rev() {
            let (layer, below) = (&chain[at], &chain[at + 1..]);
            let mut chunks = below.first().map_or(0, |parent| known[&parent.id]);
            for index in differing_pages(layer, below, self.parameters().chunk_len).iter() {
                let before = self.inner.pages.resolve(below, index)?.counts().0;
                chunks = chunks + self.inner.pages.resolve(&chain[at..], index)?.counts().0 - before;
            }
            known.insert(layer.id, chunks);
        }
        Ok(known[&top.id])
    }
}

/// The pages on which a layer can show something else than what lies below.
fn differing_pages(layer: &Layer, below: &[Arc<Layer>], chunk_len: ChunkLen) -> PageSet {
    let Some(parent) = below.first() else { return layer.pages.clone() };
    if layer.parent_visible >= chunk_len.count_for(parent.len) {
        return layer.pages.clone();
    }
    let mut pages = layer.pages.clone();
    let cut = below.iter().fold(PageSet::new(), |pages, layer| pages.union(&layer.pages));
    let hides = |index: &PageIndex| layer.visible_in(*index) < PAGE_SPAN;
    cut.iter().filter(hides).for_each(|index| pages.insert(index));
    pages
}
