//! Census: the count of one point in time, and the report that it makes.

use std::collections::HashMap;

use vellum_core::outline::OutlineRow;
use vellum_core::tree::{NodeForest, NodeRef, Tree, TreeNode};
use vellum_core::units::{ImageId, LayerId};

use super::attribution::{
    attribution_rows, by_powers, by_tenths, compressed_bytes, image_overlap, on_disk,
};
use super::count::{ChunkCounts, CommonChunk, ScanLimits};
use super::disks_point_in_time::DisksPointInTime;
use super::forest::LayerTree;
use super::reclaim_forecast::ReclaimForecast;
use super::scan_point_in_time::ScanPointInTime;
use super::sets::NodeSetId;
use super::usage::{PayloadUsage, UsageSums};
use super::{
    NodeUsage, Overlap, ReportOptions, SharedBase, SharedChunk, SpaceReport, StoreTotals,
    UncountedItem, change_map, guest_free_space,
};
use crate::error::StoreError;
use crate::store::Store;
use crate::watch::Watch;

/// Count of a store at one point in time, for any number of questions about the space that
/// deletions would free. Later changes do not show.
pub struct UsageScan {
    pub(super) tree: Tree,
    pub(super) forest: LayerTree,
    pub(super) counted: ChunkCounts,
    /// For each node, by number.
    pub(super) usage: Vec<PayloadUsage>,
    /// Outlook of a collection if nothing were deleted.
    pub(super) untouched: ReclaimForecast,
    /// The store that was counted.
    pub(super) store: Store,
    numbers: HashMap<NodeRef, u32>,
    taken_ms: u64,
}

impl Store {
    /// Counts who holds which chunk, at one moment: what guests have written to attached disks
    /// until now is in it. What cannot be read is noted, and the rest counted. Cost: reads every
    /// frame's header and every page, none of the content.
    pub fn scan_usage(&self, watch: &dyn Watch) -> Result<UsageScan, StoreError> {
        self.count_usage(
            ScanPointInTime::take_now(self)?,
            ScanLimits::default(),
            watch,
        )
    }

    /// A census and its report, all of it of one moment. An image that a guest writes gets a new
    /// active layer, as for a snapshot. Cost: as for a census, and the pages between the states of
    /// each image.
    pub fn report_space(
        &self,
        options: &ReportOptions,
        watch: &dyn Watch,
    ) -> Result<SpaceReport, StoreError> {
        let (moment, still) = ScanPointInTime::take_with_disks(self)?;
        self.count_usage(moment, ScanLimits::default(), watch)?
            .build_report(still, options, watch)
    }

    pub(super) fn count_usage(
        &self,
        mut moment: ScanPointInTime<'_>,
        limits: ScanLimits,
        watch: &dyn Watch,
    ) -> Result<UsageScan, StoreError> {
        let forest = LayerTree::from_tree(&moment.tree);
        let counted = ChunkCounts::count_all(self, &mut moment, &forest, limits, watch)?;
        let mut usages = UsageSums::new(&forest);
        let sets = counted.sets.set_ids().zip(&counted.totals);
        sets.filter_map(|(id, held)| Some((counted.sets.set_spans(id)?, held)))
            .for_each(|(spans, held)| usages.add_holdings(spans, *held));
        let usage = usages.node_usages();
        let numbers = forest
            .nodes
            .iter()
            .zip(0..)
            .map(|(named, number)| (named.node, number))
            .collect();
        let (tree, taken_ms) = (moment.tree.clone(), moment.taken_ms);
        let mut census = UsageScan {
            tree,
            forest,
            counted,
            usage,
            untouched: ReclaimForecast::default(),
            store: self.clone(),
            numbers,
            taken_ms,
        };
        census.untouched = census.forecast_without(&[]);
        Ok(census)
    }
}

/// Bytes that were added by these layers, if any of that was recorded.
fn bytes_added(
    layers: impl Iterator<Item = LayerId>,
    by_layer: &HashMap<LayerId, u64>,
) -> Option<u64> {
    let recorded = layers.filter_map(|layer| by_layer.get(&layer));
    recorded.fold(None, |sum, added| Some(sum.unwrap_or(0) + added))
}

impl UsageScan {
    /// Everything that is known, as far as `options` ask for it. `still` is of the census's moment.
    pub(super) fn build_report(
        &self,
        still: DisksPointInTime<'_>,
        options: &ReportOptions,
        watch: &dyn Watch,
    ) -> Result<SpaceReport, StoreError> {
        crate::watch::go_on(watch)?;
        let mut uncounted = self.counted.uncounted.clone();
        let changes = self.each_image("changes of", &mut uncounted, |image| {
            let strip =
                change_map::compute_strip(&self.store, &still, image, options.strip_cells, watch)?;
            Ok((!strip.steps.is_empty()).then_some(strip))
        })?;
        let look = |image| {
            if options.file_systems {
                guest_free_space::find_free_space(still.disk_of(NodeRef::Image(image))?, watch)
            } else {
                Ok(Vec::new())
            }
        };
        let droppable = self.each_image("file systems of", &mut uncounted, look)?;
        let journal = or_uncounted(
            still.journal.read_entries(),
            "what was added when",
            &mut uncounted,
        )?;
        let added = journal.added_by_layer();
        let most_shared = self
            .counted
            .most_shared
            .iter()
            .take(options.most_shared_max);
        let shown = NodeForest::from_tree(&self.tree);
        Ok(SpaceReport {
            taken_ms: self.taken_ms,
            totals: self.store_totals(),
            bases: self.shared_bases(&shown, &added),
            outline: self.outline(&shown),
            nodes: (0..self.forest.nodes.len() as u32)
                .map(|number| self.node_usage(number, &added))
                .collect(),
            attribution: attribution_rows(&self.counted, options.rows_max),
            overlap: self.image_overlap(),
            references: by_powers(&self.counted.references),
            compressibility: by_tenths(&self.counted.compressibility),
            most_shared: most_shared
                .filter_map(|common| self.shared_chunk(common))
                .collect(),
            growth: journal.list_growth(),
            changes,
            droppable,
            uncounted,
        })
    }

    /// Collects the results of `look` for every image. An image that cannot be read is noted, and
    /// the others are looked at.
    fn each_image<T, I: IntoIterator<Item = T> + Default>(
        &self,
        what: &str,
        uncounted: &mut Vec<UncountedItem>,
        look: impl Fn(ImageId) -> Result<I, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut found = Vec::new();
        for image in self.tree.images() {
            found.extend(or_uncounted(
                look(image.id),
                &format!("{what} {}", image.name),
                uncounted,
            )?);
        }
        Ok(found)
    }

    fn shared_bases(&self, shown: &NodeForest, added: &HashMap<LayerId, u64>) -> Vec<SharedBase> {
        let bases = shown.plants.iter().filter(|plant| plant.node.is_none());
        let layers = self.forest.layers.iter().enumerate();
        let place_of: HashMap<LayerId, usize> =
            layers.map(|(place, spot)| (spot.layer.id, place)).collect();
        let layers_of = |base: &TreeNode| {
            let top = place_of.get(&base.layer).copied();
            self.forest.unshared_from(top)
        };
        let image_name = |image: &ImageId| self.tree.display_name(NodeRef::Image(*image));
        let base = |plant: &TreeNode| SharedBase {
            layer: plant.layer,
            shared_by: plant.sharers.iter().map(image_name).collect(),
            logical: self.tree.layer(plant.layer).map_or(0, |layer| layer.len),
            added: bytes_added(layers_of(plant), added),
        };
        bases.map(base).collect()
    }

    /// The lines of a drawing, with nodes by number and bases after them.
    fn outline(&self, shown: &NodeForest) -> Vec<OutlineRow> {
        let mut next_base = self.forest.nodes.len();
        let mut number = |plant: &TreeNode| {
            let named = plant.node.and_then(|node| self.node_number(node));
            named.map_or_else(
                || {
                    next_base += 1;
                    next_base - 1
                },
                |number| number as usize,
            )
        };
        let numbers: Vec<usize> = shown.plants.iter().map(&mut number).collect();
        let mut rows = shown.outline(&self.tree);
        for row in &mut rows {
            row.item = numbers[row.item];
        }
        rows
    }

    /// The sizes of the whole store.
    #[must_use]
    pub fn store_totals(&self) -> StoreTotals {
        let (counted, space) = (&self.counted, &self.counted.space);
        let held = |set: NodeSetId| {
            counted
                .totals
                .get(set.0 as usize)
                .copied()
                .unwrap_or_default()
        };
        let chunks = counted
            .frames
            .iter()
            .map(|frame| u64::from(frame.count))
            .sum();
        let nodes = 0..self.forest.nodes.len() as u32;
        StoreTotals {
            images: self.tree.image_count() as u64,
            snapshots: self.tree.snapshot_count() as u64,
            layers: self.forest.layers.len() as u64,
            chunks,
            logical: nodes.clone().map(|number| self.len(number)).sum(),
            allocated: nodes.clone().map(|number| self.seen_bytes(number).1).sum(),
            non_zero: nodes.map(|number| self.seen_bytes(number).0).sum(),
            unique: chunks * self.chunk_len(),
            compressed: compressed_bytes(counted),
            on_disk: on_disk(counted),
            headers: space.headers,
            index: space.index,
            metadata: space.pages + space.records,
            dead: held(NodeSetId::EMPTY).bytes,
        }
    }

    /// Parts that could not be read, and are in no figure.
    #[must_use]
    pub fn uncounted_items(&self) -> &[UncountedItem] {
        &self.counted.uncounted
    }

    pub(super) fn chunk_len(&self) -> u64 {
        self.store.parameters().chunk_len.byte_len()
    }

    /// The number of a node: its index in [`SpaceReport::nodes`].
    pub(super) fn node_number(&self, node: NodeRef) -> Option<u32> {
        self.numbers.get(&node).copied()
    }

    /// Display name of node `number`.
    pub(super) fn node_name(&self, number: u32) -> String {
        self.tree
            .display_name(self.forest.nodes[number as usize].node)
    }

    /// The time when node `number` was made.
    pub(super) fn created_ms(&self, number: u32) -> u64 {
        match self.forest.nodes[number as usize].node {
            NodeRef::Image(image) => self.tree.image(image).map_or(0, |image| image.created_ms),
            NodeRef::Snapshot(image, serial) => self
                .tree
                .snapshot(image, serial)
                .map_or(0, |snapshot| snapshot.created_ms),
        }
    }

    fn len(&self, number: u32) -> u64 {
        let named = &self.forest.nodes[number as usize];
        self.forest.layers[named.layer].layer.len
    }

    /// Bytes of a node that are not zero, and those that its maps mention.
    fn seen_bytes(&self, number: u32) -> (u64, u64) {
        let (chunks, zeros) = self.counted.seen[number as usize];
        let bytes = |positions: u64| (positions * self.chunk_len()).min(self.len(number));
        (bytes(chunks), bytes(chunks + zeros))
    }

    fn node_usage(&self, number: u32, added: &HashMap<LayerId, u64>) -> NodeUsage {
        let (named, usage) = (
            &self.forest.nodes[number as usize],
            &self.usage[number as usize],
        );
        NodeUsage {
            name: self.node_name(number),
            parent: named.parent.map(|parent| parent as usize),
            is_snapshot: matches!(named.node, NodeRef::Snapshot(..)),
            mode: self
                .tree
                .image(named.image)
                .map_or("", |image| image.mode.mode_name()),
            own_layers: self.forest.own_layers(number).count() as u64,
            created_ms: self.created_ms(number),
            logical: self.len(number),
            non_zero: self.seen_bytes(number).0,
            added: bytes_added(self.forest.made_layers(number), added),
            exclusive: usage.exclusive.bytes,
            exclusive_chunks: usage.exclusive.chunks,
            shared_lineage: usage.lineage,
            shared_siblings: usage.siblings,
            shared_others: usage.others,
        }
    }

    fn image_overlap(&self) -> Overlap {
        let (images, bytes) = image_overlap(
            &self.counted,
            &self.forest,
            &UsageSums::new(&self.forest),
            &self.usage,
        );
        Overlap {
            images: images
                .into_iter()
                .map(|image| self.tree.display_name(NodeRef::Image(image)))
                .collect(),
            bytes,
        }
    }

    fn shared_chunk(&self, common: &CommonChunk) -> Option<SharedChunk> {
        let example = common
            .example
            .map(|(node, position)| (node as usize, position.0 * self.chunk_len()));
        let holders = self.counted.sets.set_size(common.set);
        let holders = if common.set == NodeSetId::EMPTY {
            0
        } else {
            holders
        };
        Some(SharedChunk {
            hash: common.hash?,
            references: common.references,
            holders,
            example,
        })
    }
}

/// The result, or nothing and a note of the damage.
fn or_uncounted<T: Default>(
    found: Result<T, StoreError>,
    subject: &str,
    uncounted: &mut Vec<UncountedItem>,
) -> Result<T, StoreError> {
    match found {
        Err(StoreError::Damaged(damage)) => {
            uncounted.push(UncountedItem {
                subject: subject.to_owned(),
                what: damage.to_string(),
            });
            Ok(T::default())
        }
        found => found,
    }
}
