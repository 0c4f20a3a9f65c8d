//! Attribution of every byte to exactly one row, overlap of images, and bounds of histograms: from
//! the holdings of sets of nodes, pure.

use std::collections::{BTreeMap, HashMap};

use vellum_core::units::ImageId;

use super::count::{ChunkCounts, Holdings};
use super::forest::LayerTree;
use super::scan_point_in_time::FileSpace;
use super::sets::NodeSetId;
use super::usage::{PayloadUsage, UsageSums};
use super::{AttributionRow, HistogramBucket, Holder};

/// Images whose overlap is told: those that hold most. As many as a mask has bits; a matrix of more
/// is not for people.
const IMAGES_MAX: usize = 128;

/// All rows: who holds what, then what is not chunk content.
pub(super) fn attribution_rows(counted: &ChunkCounts, rows_max: usize) -> Vec<AttributionRow> {
    let mut rows = holder_rows(counted, rows_max);
    rows.extend(overhead_rows(&counted.space, compressed_bytes(counted)));
    rows
}

/// The sum of all rows.
pub(super) fn on_disk(counted: &ChunkCounts) -> u64 {
    let compressed = compressed_bytes(counted);
    compressed
        + overhead_rows(&counted.space, compressed)
            .iter()
            .map(|row| row.bytes)
            .sum::<u64>()
}

/// The payloads of all frames.
pub(super) fn compressed_bytes(counted: &ChunkCounts) -> u64 {
    counted.totals.iter().map(|held| held.bytes).sum()
}

fn holder_rows(counted: &ChunkCounts, rows_max: usize) -> Vec<AttributionRow> {
    let sets = &counted.sets;
    let held = |id: NodeSetId| {
        counted
            .totals
            .get(id.0 as usize)
            .copied()
            .unwrap_or_default()
    };
    let mut some: Vec<NodeSetId> = sets
        .set_ids()
        .filter(|id| *id != NodeSetId::EMPTY && held(*id).chunks > 0)
        .collect();
    some.sort_unstable_by_key(|id| (std::cmp::Reverse(held(*id).bytes), *id));
    let (mut rows, mut others) = (Vec::new(), BTreeMap::<u64, (u64, Holdings)>::new());
    for id in some {
        let Holdings { chunks, bytes } = held(id);
        let holder = match (sets.single_node(id), sets.set_spans(id)) {
            (Some(node), _) => Some(Holder::Exclusive(node as usize)),
            (_, Some(spans)) => Some(Holder::Shared(
                spans
                    .iter()
                    .map(|(start, end)| (*start as usize, *end as usize))
                    .collect(),
            )),
            _ => None,
        };
        if let Some(holder) = holder.filter(|_| rows.len() < rows_max) {
            rows.push(AttributionRow {
                holder,
                chunks,
                bytes,
            });
        } else {
            let (count, sum) = others.entry(1 << sets.set_size(id).ilog2()).or_default();
            *count += 1;
            *sum = Holdings {
                chunks: sum.chunks + chunks,
                bytes: sum.bytes + bytes,
            };
        }
    }
    rows.extend(
        others
            .into_iter()
            .map(
                |(holders_min, (sets, Holdings { chunks, bytes }))| AttributionRow {
                    holder: Holder::OtherSets { holders_min, sets },
                    chunks,
                    bytes,
                },
            ),
    );
    let Holdings { chunks, bytes } = held(NodeSetId::EMPTY);
    rows.push(AttributionRow {
        holder: Holder::Unreferenced,
        chunks,
        bytes,
    });
    rows
}

/// Rows for bytes on the disk beside chunk content. The latest writes may still be in the log, or
/// in memory, so parts may be more than files take: the last rows take up the difference.
fn overhead_rows(space: &FileSpace, compressed: u64) -> Vec<AttributionRow> {
    let slack = space.frames.saturating_sub(compressed);
    let mut rows = vec![
        ("frame slack", slack),
        ("headers", space.headers),
        ("index", space.index),
        ("maps", space.pages),
        ("records", space.records),
        ("reserve", space.usage.reserve),
    ];
    if space.usage.parity > 0 {
        rows.push(("parity", space.usage.parity));
    }
    let named: u64 = compressed + rows.iter().map(|(_, bytes)| bytes).sum::<u64>();
    let rest = space.usage.total.saturating_sub(named);
    let logs = rest.min(space.usage.logs);
    rows.extend([("logs", logs), ("other files", rest - logs)]);
    rows.into_iter()
        .map(|(what, bytes)| AttributionRow {
            holder: Holder::Overhead(what),
            chunks: 0,
            bytes,
        })
        .collect()
}

/// For each pair of the images that hold most what both hold, row by row, in the order of `images`'
/// names.
pub(super) fn image_overlap(
    counted: &ChunkCounts,
    forest: &LayerTree,
    usages: &UsageSums<'_>,
    usage: &[PayloadUsage],
) -> (Vec<ImageId>, Vec<u64>) {
    let images = largest_images(forest, usage);
    let place: HashMap<ImageId, usize> = images
        .iter()
        .enumerate()
        .map(|(at, image)| (*image, at))
        .collect();
    let mut of_mask: HashMap<u128, u64> = HashMap::new();
    for (id, held) in counted
        .sets
        .set_ids()
        .zip(&counted.totals)
        .filter(|(_, held)| held.bytes > 0)
    {
        let mut mask = 0_u128;
        let spans = counted.sets.set_spans(id).unwrap_or_default();
        usages.images_of(spans, |image| {
            mask |= place.get(&image).map_or(0, |at| 1 << at);
        });
        *of_mask.entry(mask).or_default() += held.bytes;
    }
    let mut bytes = vec![0; images.len() * images.len()];
    for (mask, sum) in of_mask {
        let members: Vec<usize> = (0..images.len()).filter(|at| mask >> at & 1 == 1).collect();
        for (row, column) in members
            .iter()
            .flat_map(|row| members.iter().map(move |column| (row, column)))
        {
            bytes[row * images.len() + column] += sum;
        }
    }
    (images, bytes)
}

/// The images that hold most, in the order in which their nodes come.
fn largest_images(forest: &LayerTree, usage: &[PayloadUsage]) -> Vec<ImageId> {
    let mut sizes: BTreeMap<ImageId, u64> = BTreeMap::new();
    for (named, usage) in forest.nodes.iter().zip(usage) {
        *sizes.entry(named.image).or_default() +=
            usage.exclusive.bytes + usage.lineage + usage.siblings + usage.others;
    }
    let mut images: Vec<(u64, ImageId)> = sizes
        .into_iter()
        .map(|(image, size)| (size, image))
        .collect();
    images.sort_unstable_by_key(|(size, image)| (std::cmp::Reverse(*size), *image));
    images.truncate(IMAGES_MAX);
    images.into_iter().map(|(_, image)| image).collect()
}

/// Buckets by powers of two: none, 1, 2 to 3, 4 to 7, …
pub(super) fn by_powers(buckets: &[HistogramBucket]) -> Vec<HistogramBucket> {
    let bound = |at: usize| at.checked_sub(1).map_or(0, |power| 1 << power);
    let with_bounds = buckets
        .iter()
        .enumerate()
        .map(|(at, bucket)| HistogramBucket {
            from: bound(at),
            to: Some(bound(at + 1)),
            ..bucket.clone()
        });
    with_bounds.collect()
}

/// Buckets by tenths; the last has all that is ten tenths and more.
pub(super) fn by_tenths(buckets: &[HistogramBucket]) -> Vec<HistogramBucket> {
    let to = |at: u64| (at < 10).then_some(at + 1);
    (0..)
        .zip(buckets)
        .map(|(at, bucket)| HistogramBucket {
            from: at,
            to: to(at),
            ..bucket.clone()
        })
        .collect()
}
