//! A report as one JSON document: every size in bytes, every name stable. New fields may come, old
//! ones stay.

use std::borrow::Cow;

use serde::Serialize;
use vellum_store::report::{
    AttributionRow, ChangeStrip, Growth, GuestFreeSpace, HistogramBucket, NodeUsage, Overlap,
    SharedBase, SharedChunk, SpaceReport, StoreTotals, UncountedItem,
};

use super::{ReportPart, holders, labels};
use crate::description::base_id;
use crate::output::page::ratio_of;
use crate::output::time::format_utc;

/// Names of a set of holders that are written out; the ranges have all.
const NAMES_MAX: usize = 16;

/// The document; a part that was not asked for is not in it.
#[derive(Serialize)]
pub(crate) struct Document<'a> {
    taken: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    totals: Option<TotalsRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nodes: Option<Vec<NodeRecord<'a>>>,
    /// What several of them stand on although it has no name: with the nodes, if there is any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    bases: Vec<BaseRecord<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attribution: Option<Vec<AttributionRecord<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    overlap: Option<OverlapRecord<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    histograms: Option<HistogramsRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shared: Option<Vec<SharedRecord<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    growth: Option<Vec<GrowthRecord<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<Vec<StripRecord<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    droppable: Option<Vec<DroppableRecord<'a>>>,
    /// The records that are in no figure.
    uncounted: Vec<UncountedRecord>,
}

#[derive(Serialize)]
struct TotalsRecord {
    images: u64,
    snapshots: u64,
    layers: u64,
    chunks: u64,
    logical_bytes: u64,
    allocated_bytes: u64,
    nonzero_bytes: u64,
    unique_bytes: u64,
    compressed_bytes: u64,
    disk_bytes: u64,
    header_bytes: u64,
    index_bytes: u64,
    metadata_bytes: u64,
    dead_bytes: u64,
    dedup_ratio: Option<f64>,
    compression_ratio: Option<f64>,
    combined_ratio: Option<f64>,
}

#[derive(Serialize)]
struct NodeRecord<'a> {
    name: &'a str,
    kind: &'static str,
    /// Name or, of a base, id of what it stands on.
    parent: Option<Cow<'a, str>>,
    mode: &'static str,
    created: String,
    own_layers: u64,
    logical_bytes: u64,
    nonzero_bytes: u64,
    added_bytes: Option<u64>,
    exclusive_bytes: u64,
    exclusive_chunks: u64,
    shared_lineage_bytes: u64,
    shared_siblings_bytes: u64,
    shared_others_bytes: u64,
}

#[derive(Serialize)]
struct BaseRecord<'a> {
    id: String,
    parent: Option<Cow<'a, str>>,
    shared_by: &'a [String],
    logical_bytes: u64,
    added_bytes: Option<u64>,
}

#[derive(Serialize)]
struct AttributionRecord<'a> {
    kind: &'static str,
    holders: Option<u64>,
    /// The first of them.
    names: Vec<&'a str>,
    /// All of them: half-open ranges of places in `nodes` of the whole report.
    #[serde(skip_serializing_if = "Option::is_none")]
    node_ranges: Option<&'a [(usize, usize)]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    holders_min: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sets: Option<u64>,
    /// The kind of what is not content.
    #[serde(skip_serializing_if = "Option::is_none")]
    what: Option<&'static str>,
    chunks: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct OverlapRecord<'a> {
    images: &'a [String],
    /// Row by row.
    bytes: Vec<&'a [u64]>,
}

#[derive(Serialize)]
struct HistogramsRecord {
    references: Vec<BucketRecord>,
    /// In tenths of the plain length.
    compressibility: Vec<BucketRecord>,
}

#[derive(Serialize)]
struct BucketRecord {
    from: u64,
    to: Option<u64>,
    chunks: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct SharedRecord<'a> {
    hash: String,
    references: u64,
    holders: u64,
    example: Option<&'a str>,
    offset: Option<u64>,
}

#[derive(Serialize)]
struct GrowthRecord<'a> {
    at: String,
    operation: &'a str,
    image: &'a str,
    chunks: u64,
    plain_bytes: u64,
    compressed_bytes: u64,
    freed_bytes: u64,
}

#[derive(Serialize)]
struct StripRecord<'a> {
    image: &'a str,
    cell_length: u64,
    steps: Vec<StepRecord<'a>>,
}

#[derive(Serialize)]
struct StepRecord<'a> {
    from: &'a str,
    to: &'a str,
    changed_bytes: &'a [u64],
}

#[derive(Serialize)]
struct DroppableRecord<'a> {
    image: &'a str,
    partition: Option<u32>,
    start: u64,
    length: u64,
    kind: &'static str,
    free_bytes: u64,
    held_bytes: u64,
}

/// A record that could not be read.
#[derive(Serialize)]
pub(crate) struct UncountedRecord {
    subject: String,
    what: String,
}

impl<'a> Document<'a> {
    /// The document of `parts`.
    pub(crate) fn new(report: &'a SpaceReport, parts: &[ReportPart]) -> Self {
        let asked = |part: ReportPart| parts.contains(&part).then_some(report);
        Self {
            taken: format_utc(report.taken_ms),
            totals: asked(ReportPart::Totals).map(|report| TotalsRecord::new(&report.totals)),
            nodes: asked(ReportPart::Nodes).map(|report| {
                let parents = labels::item_parents(report);
                let nodes = report.nodes.iter().zip(parents);
                nodes
                    .map(|(node, parent)| NodeRecord::new(node, parent))
                    .collect()
            }),
            bases: asked(ReportPart::Nodes).map_or_else(Vec::new, |report| {
                let parents = labels::item_parents(report).into_iter();
                let bases = report.bases.iter().zip(parents.skip(report.nodes.len()));
                bases
                    .map(|(base, parent)| BaseRecord::new(base, parent))
                    .collect()
            }),
            attribution: asked(ReportPart::Attribution).map(|report| {
                report
                    .attribution
                    .iter()
                    .map(|row| AttributionRecord::new(row, &report.nodes))
                    .collect()
            }),
            overlap: asked(ReportPart::Overlap).map(|report| OverlapRecord::new(&report.overlap)),
            histograms: asked(ReportPart::Histograms).map(HistogramsRecord::new),
            shared: asked(ReportPart::Shared).map(|report| {
                report
                    .most_shared
                    .iter()
                    .map(|chunk| SharedRecord::new(chunk, &report.nodes))
                    .collect()
            }),
            growth: asked(ReportPart::Growth)
                .map(|report| report.growth.iter().map(GrowthRecord::new).collect()),
            changes: asked(ReportPart::Changes)
                .map(|report| report.changes.iter().map(StripRecord::new).collect()),
            droppable: asked(ReportPart::Droppable)
                .map(|report| report.droppable.iter().map(DroppableRecord::new).collect()),
            uncounted: report.uncounted.iter().map(UncountedRecord::new).collect(),
        }
    }
}

impl TotalsRecord {
    fn new(totals: &StoreTotals) -> Self {
        Self {
            images: totals.images,
            snapshots: totals.snapshots,
            layers: totals.layers,
            chunks: totals.chunks,
            logical_bytes: totals.logical,
            allocated_bytes: totals.allocated,
            nonzero_bytes: totals.non_zero,
            unique_bytes: totals.unique,
            compressed_bytes: totals.compressed,
            disk_bytes: totals.on_disk,
            header_bytes: totals.headers,
            index_bytes: totals.index,
            metadata_bytes: totals.metadata,
            dead_bytes: totals.dead,
            dedup_ratio: ratio_of(totals.non_zero, totals.unique),
            compression_ratio: ratio_of(totals.unique, totals.compressed),
            combined_ratio: ratio_of(totals.non_zero, totals.on_disk),
        }
    }
}

impl<'a> NodeRecord<'a> {
    fn new(node: &'a NodeUsage, parent: Option<Cow<'a, str>>) -> Self {
        Self {
            name: &node.name,
            kind: if node.is_snapshot {
                "snapshot"
            } else {
                "image"
            },
            parent,
            mode: node.mode,
            created: format_utc(node.created_ms),
            own_layers: node.own_layers,
            logical_bytes: node.logical,
            nonzero_bytes: node.non_zero,
            added_bytes: node.added,
            exclusive_bytes: node.exclusive,
            exclusive_chunks: node.exclusive_chunks,
            shared_lineage_bytes: node.shared_lineage,
            shared_siblings_bytes: node.shared_siblings,
            shared_others_bytes: node.shared_others,
        }
    }
}

impl<'a> BaseRecord<'a> {
    fn new(base: &'a SharedBase, parent: Option<Cow<'a, str>>) -> Self {
        Self {
            id: base_id(base.layer),
            parent,
            shared_by: &base.shared_by,
            logical_bytes: base.logical,
            added_bytes: base.added,
        }
    }
}

impl<'a> AttributionRecord<'a> {
    fn new(row: &'a AttributionRow, nodes: &'a [NodeUsage]) -> Self {
        use vellum_store::report::Holder;
        let (holders_min, sets) = match row.holder {
            Holder::OtherSets { holders_min, sets } => (Some(holders_min), Some(sets)),
            _ => (None, None),
        };
        Self {
            kind: holders::holder_key(&row.holder),
            holders: holders::holder_count(&row.holder),
            names: holders::holder_names(&row.holder, nodes, NAMES_MAX),
            node_ranges: if let Holder::Shared(ranges) = &row.holder {
                Some(ranges)
            } else {
                None
            },
            holders_min,
            sets,
            what: if let Holder::Overhead(what) = row.holder {
                Some(what)
            } else {
                None
            },
            chunks: row.chunks,
            bytes: row.bytes,
        }
    }
}

impl<'a> OverlapRecord<'a> {
    fn new(overlap: &'a Overlap) -> Self {
        Self {
            images: &overlap.images,
            bytes: overlap.bytes.chunks(overlap.images.len().max(1)).collect(),
        }
    }
}

impl HistogramsRecord {
    fn new(report: &SpaceReport) -> Self {
        let buckets = |buckets: &[HistogramBucket]| buckets.iter().map(BucketRecord::new).collect();
        Self {
            references: buckets(&report.references),
            compressibility: buckets(&report.compressibility),
        }
    }
}

impl BucketRecord {
    fn new(bucket: &HistogramBucket) -> Self {
        Self {
            from: bucket.from,
            to: bucket.to,
            chunks: bucket.chunks,
            bytes: bucket.bytes,
        }
    }
}

impl<'a> SharedRecord<'a> {
    fn new(chunk: &SharedChunk, nodes: &'a [NodeUsage]) -> Self {
        Self {
            hash: chunk.hash.to_string(),
            references: chunk.references,
            holders: chunk.holders,
            example: chunk
                .example
                .and_then(|(node, _)| nodes.get(node))
                .map(|node| node.name.as_str()),
            offset: chunk.example.map(|(_, offset)| offset),
        }
    }
}

impl<'a> GrowthRecord<'a> {
    fn new(entry: &'a Growth) -> Self {
        Self {
            at: format_utc(entry.at_ms),
            operation: &entry.operation,
            image: &entry.image,
            chunks: entry.chunks,
            plain_bytes: entry.plain,
            compressed_bytes: entry.compressed,
            freed_bytes: entry.freed,
        }
    }
}

impl<'a> StripRecord<'a> {
    fn new(strip: &'a ChangeStrip) -> Self {
        let steps = strip.steps.iter().map(|step| StepRecord {
            from: &step.from,
            to: &step.to,
            changed_bytes: &step.cells,
        });
        Self {
            image: &strip.image,
            cell_length: strip.cell_len,
            steps: steps.collect(),
        }
    }
}

impl<'a> DroppableRecord<'a> {
    fn new(found: &'a GuestFreeSpace) -> Self {
        Self {
            image: &found.image,
            partition: found.partition,
            start: found.start,
            length: found.len,
            kind: found.kind,
            free_bytes: found.free,
            held_bytes: found.held,
        }
    }
}

impl UncountedRecord {
    pub(crate) fn new(uncounted: &UncountedItem) -> Self {
        Self {
            subject: uncounted.subject.clone(),
            what: uncounted.what.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn a_document_has_what_was_asked_for_and_hostile_names_whole() {
        let report = sample::hostile_report();
        let json =
            serde_json::to_value(Document::new(&report, &ReportPart::ALL)).expect("JSON takes it");
        for part in ReportPart::ALL {
            assert!(json.get(part.part_key()).is_some(), "{}", part.part_key());
        }
        let names: Vec<&str> = json["nodes"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|node| node["name"].as_str())
            .collect();
        assert_eq!(
            names,
            report
                .nodes
                .iter()
                .map(|node| node.name.as_str())
                .collect::<Vec<_>>()
        );
        let totals = serde_json::to_value(Document::new(&report, &[ReportPart::Totals]))
            .expect("JSON takes it");
        assert_eq!(
            totals
                .as_object()
                .expect("an object")
                .keys()
                .collect::<Vec<_>>(),
            ["taken", "totals", "uncounted"]
        );
    }
}
