//! The figures of a report in the table of each part.

use std::collections::BTreeMap;

use vellum_store::report::{
    ChangeStrip, HistogramBucket, NodeUsage, SharedBase, SpaceReport, StoreTotals,
};

use super::sheet::{Cell, RowLimit, Sheet, SheetColumn};
use super::{ReportPart, holders, labels};
use crate::description::base_title;
use crate::output::page;

/// Hex digits of a chunk's name that tell it from others, for people.
const HASH_DIGITS: usize = 16;
/// Columns of the table of nodes.
const NODE_COLUMNS: usize = 14;

/// The table of `part`.
pub(crate) fn part_sheet(report: &SpaceReport, part: ReportPart, extent: RowLimit) -> Sheet {
    match part {
        ReportPart::Totals => totals_sheet(&report.totals),
        ReportPart::Nodes => nodes_sheet(report, extent),
        ReportPart::Attribution => attribution_sheet(report, extent),
        ReportPart::Overlap => overlap_sheet(report, extent),
        ReportPart::Histograms => histogram_rows(report),
        ReportPart::Shared => shared_sheet(report, extent),
        ReportPart::Growth => growth_sheet(report, extent),
        ReportPart::Changes => changes_sheet(report, extent),
        ReportPart::Droppable => droppable_sheet(report, extent),
    }
}

/// One figure of the whole store: its key, its name, the figure itself, its meaning.
type TotalFigure = (&'static str, &'static str, Cell, &'static str);

fn totals_sheet(totals: &StoreTotals) -> Sheet {
    let figures = counted_totals(totals)
        .into_iter()
        .chain(measured_totals(totals))
        .chain(total_ratios(totals));
    Sheet {
        part: ReportPart::Totals,
        heads: vec![
            SheetColumn::hidden_column("figure"),
            SheetColumn::text_column("name", "FIGURE"),
            SheetColumn::number_column("value", "VALUE"),
            SheetColumn::text_column("meaning", "MEANS").as_prose(),
        ],
        rows: figures
            .map(|(key, name, cell, meaning)| {
                vec![
                    Cell::text_cell(key),
                    Cell::text_cell(name),
                    cell,
                    Cell::text_cell(meaning),
                ]
            })
            .collect(),
        left_out: 0,
        advice: (totals.dead > 0).then(|| "`vellum gc` gives back what is dead".to_owned()),
    }
}

fn counted_totals(totals: &StoreTotals) -> [TotalFigure; 4] {
    [
        ("images", "images", totals.images, ""),
        ("snapshots", "snapshots", totals.snapshots, ""),
        ("layers", "layers", totals.layers, ""),
        ("chunks", "chunks", totals.chunks, "each stored once"),
    ]
    .map(|(key, name, count, meaning)| (key, name, Cell::Count(count), meaning))
}

fn measured_totals(totals: &StoreTotals) -> [TotalFigure; 10] {
    [
        (
            "logical_bytes",
            "logical",
            totals.logical,
            "the lengths of all images and snapshots",
        ),
        (
            "allocated_bytes",
            "allocated",
            totals.allocated,
            "what of that maps mention",
        ),
        (
            "nonzero_bytes",
            "not zero",
            totals.non_zero,
            "what of that is not zero",
        ),
        (
            "unique_bytes",
            "unique",
            totals.unique,
            "chunks before compression",
        ),
        (
            "compressed_bytes",
            "compressed",
            totals.compressed,
            "chunks after compression",
        ),
        (
            "disk_bytes",
            "on disk",
            totals.on_disk,
            "everything in the store's folder",
        ),
        (
            "header_bytes",
            "headers",
            totals.headers,
            "of that: which chunks are in which frame",
        ),
        (
            "index_bytes",
            "index",
            totals.index,
            "of that: from names to chunks",
        ),
        (
            "metadata_bytes",
            "metadata",
            totals.metadata,
            "of that: maps and records",
        ),
        (
            "dead_bytes",
            "dead",
            totals.dead,
            "compressed chunks that nothing shows",
        ),
    ]
    .map(|(key, name, bytes, meaning)| (key, name, Cell::Bytes(bytes), meaning))
}

fn total_ratios(totals: &StoreTotals) -> [TotalFigure; 3] {
    let ratio = |of: u64, to: u64| page::ratio_of(of, to).map_or(Cell::Nothing, Cell::Ratio);
    [
        (
            "dedup_ratio",
            "dedup",
            ratio(totals.non_zero, totals.unique),
            "not zero, to unique",
        ),
        (
            "compression_ratio",
            "compression",
            ratio(totals.unique, totals.compressed),
            "unique, to compressed",
        ),
        (
            "combined_ratio",
            "combined",
            ratio(totals.non_zero, totals.on_disk),
            "not zero, to on disk",
        ),
    ]
}

fn nodes_sheet(report: &SpaceReport, extent: RowLimit) -> Sheet {
    let parents = labels::item_parents(report);
    let nodes = report.nodes.iter().zip(&parents).collect();
    let (chosen, left_out) = extent.choose_rows(nodes, |(node, _)| node.exclusive);
    let nodes = chosen
        .into_iter()
        .map(|(node, parent)| node_cells(node, parent.as_deref()));
    let bases = report.bases.iter().zip(&parents[report.nodes.len()..]);
    let (bases, bases_left_out) = extent.choose_rows(bases.collect(), |(base, _)| base.added);
    let bases = bases
        .into_iter()
        .map(|(base, parent)| base_cells(base, parent.as_deref()));
    Sheet {
        part: ReportPart::Nodes,
        heads: vec![
            SheetColumn::text_column("name", "NAME"),
            SheetColumn::hidden_column("kind"),
            SheetColumn::hidden_column("parent"),
            SheetColumn::hidden_column("mode"),
            SheetColumn::hidden_column("created"),
            SheetColumn::hidden_column("own_layers"),
            SheetColumn::number_column("logical_bytes", "SIZE").giving_way(4),
            SheetColumn::number_column("nonzero_bytes", "NOT ZERO").giving_way(1),
            SheetColumn::number_column("added_bytes", "ADDED").giving_way(6),
            SheetColumn::number_column("exclusive_bytes", "ALONE"),
            SheetColumn::hidden_column("exclusive_chunks"),
            SheetColumn::number_column("shared_lineage_bytes", "LINEAGE").giving_way(3),
            SheetColumn::number_column("shared_siblings_bytes", "SIBLINGS").giving_way(2),
            SheetColumn::number_column("shared_others_bytes", "OTHERS").giving_way(5),
        ],
        rows: nodes.chain(bases).collect(),
        left_out: left_out + bases_left_out,
        advice: (report.nodes.len() > 1).then(|| {
            "`vellum report --reclaim NAME…` tells what deleting several frees together".to_owned()
        }),
    }
}

/// A base holds nothing that nodes do not hold; that it was added is counted once, here.
fn base_cells(base: &SharedBase, parent: Option<&str>) -> Vec<Cell> {
    let mut cells = vec![Cell::Nothing; NODE_COLUMNS];
    cells[0] = Cell::Text(base_title(base.shared_by.iter()));
    cells[1] = Cell::text_cell("base");
    cells[2] = parent.map_or(Cell::Nothing, Cell::text_cell);
    cells[6] = Cell::Bytes(base.logical);
    cells[8] = base.added.map_or(Cell::Nothing, Cell::Bytes);
    cells
}

fn node_cells(node: &NodeUsage, parent: Option<&str>) -> Vec<Cell> {
    vec![
        Cell::text_cell(&node.name),
        Cell::text_cell(if node.is_snapshot {
            "snapshot"
        } else {
            "image"
        }),
        parent.map_or(Cell::Nothing, Cell::text_cell),
        Cell::text_cell(node.mode),
        Cell::Moment(node.created_ms),
        Cell::Count(node.own_layers),
        Cell::Bytes(node.logical),
        Cell::Bytes(node.non_zero),
        node.added.map_or(Cell::Nothing, Cell::Bytes),
        Cell::Bytes(node.exclusive),
        Cell::Count(node.exclusive_chunks),
        Cell::Bytes(node.shared_lineage),
        Cell::Bytes(node.shared_siblings),
        Cell::Bytes(node.shared_others),
    ]
}

fn attribution_sheet(report: &SpaceReport, extent: RowLimit) -> Sheet {
    let (chosen, left_out) =
        extent.choose_rows(report.attribution.iter().collect(), |row| row.bytes);
    let row = |row: &vellum_store::report::AttributionRow| {
        vec![
            Cell::text_cell(holders::holder_key(&row.holder)),
            Cell::text_cell(holders::holder_label(&row.holder, &report.nodes)),
            holders::holder_count(&row.holder).map_or(Cell::Nothing, Cell::Count),
            Cell::Count(row.chunks),
            Cell::Bytes(row.bytes),
            Cell::Share(row.bytes, report.totals.on_disk),
        ]
    };
    Sheet {
        part: ReportPart::Attribution,
        heads: vec![
            SheetColumn::text_column("kind", "KIND"),
            SheetColumn::text_column("holder", "HOLDER").as_prose(),
            SheetColumn::number_column("holders", "HOLDERS").giving_way(1),
            SheetColumn::number_column("chunks", "CHUNKS").giving_way(2),
            SheetColumn::number_column("bytes", "BYTES"),
            SheetColumn::number_column("share", "OF THE DISK").giving_way(3),
        ],
        rows: chosen.into_iter().map(row).collect(),
        left_out,
        advice: None,
    }
}

fn overlap_sheet(report: &SpaceReport, extent: RowLimit) -> Sheet {
    let overlap = &report.overlap;
    let count = overlap.images.len();
    let both =
        |one: usize, other: usize| overlap.bytes.get(one * count + other).copied().unwrap_or(0);
    let pairs = (0..count).flat_map(|one| (one + 1..count).map(move |other| (one, other)));
    let pairs: Vec<_> = pairs
        .filter(|(one, other)| both(*one, *other) > 0)
        .collect();
    let (chosen, left_out) = extent.choose_rows(pairs, |(one, other)| both(*one, *other));
    let row = |(one, other): (usize, usize)| {
        vec![
            Cell::text_cell(&overlap.images[one]),
            Cell::text_cell(&overlap.images[other]),
            Cell::Bytes(both(one, other)),
            Cell::Share(both(one, other), both(one, one)),
            Cell::Share(both(one, other), both(other, other)),
        ]
    };
    Sheet {
        part: ReportPart::Overlap,
        heads: vec![
            SheetColumn::text_column("image", "IMAGE"),
            SheetColumn::text_column("other", "AND"),
            SheetColumn::number_column("bytes", "BOTH HOLD"),
            SheetColumn::number_column("share_of_image", "OF THE FIRST").giving_way(2),
            SheetColumn::number_column("share_of_other", "OF THE SECOND").giving_way(1),
        ],
        rows: chosen.into_iter().map(row).collect(),
        left_out,
        advice: None,
    }
}

fn histogram_rows(report: &SpaceReport) -> Sheet {
    let row = |name: &str, bucket: &HistogramBucket, label: String| {
        vec![
            Cell::text_cell(name),
            Cell::Count(bucket.from),
            bucket.to.map_or(Cell::Nothing, Cell::Count),
            Cell::Text(label),
            Cell::Count(bucket.chunks),
            Cell::Bytes(bucket.bytes),
        ]
    };
    let references = report
        .references
        .iter()
        .map(|bucket| row("references", bucket, labels::reference_label(bucket)));
    let compressed = report
        .compressibility
        .iter()
        .map(|bucket| row("compressed to", bucket, labels::compression_label(bucket)));
    Sheet {
        part: ReportPart::Histograms,
        heads: vec![
            SheetColumn::text_column("histogram", "HISTOGRAM"),
            SheetColumn::hidden_column("from"),
            SheetColumn::hidden_column("to"),
            SheetColumn::text_column("label", "FROM–TO"),
            SheetColumn::number_column("chunks", "CHUNKS"),
            SheetColumn::number_column("bytes", "COMPRESSED"),
        ],
        rows: references.chain(compressed).collect(),
        left_out: 0,
        advice: None,
    }
}

fn shared_sheet(report: &SpaceReport, extent: RowLimit) -> Sheet {
    let (chosen, left_out) = extent.choose_rows(report.most_shared.iter().collect(), |chunk| {
        chunk.references
    });
    let row = |chunk: &vellum_store::report::SharedChunk| {
        let hash = chunk.hash.to_string();
        let example = chunk
            .example
            .and_then(|(node, offset)| Some((report.nodes.get(node)?, offset)));
        vec![
            Cell::text_cell(&hash[..HASH_DIGITS]),
            Cell::text_cell(&hash),
            Cell::Count(chunk.references),
            Cell::Count(chunk.holders),
            example.map_or(Cell::Nothing, |(node, _)| Cell::text_cell(&node.name)),
            example.map_or(Cell::Nothing, |(_, offset)| Cell::Count(offset)),
        ]
    };
    Sheet {
        part: ReportPart::Shared,
        heads: vec![
            SheetColumn::text_column("chunk", "CHUNK"),
            SheetColumn::hidden_column("hash"),
            SheetColumn::number_column("references", "REFERENCES"),
            SheetColumn::number_column("holders", "HOLDERS").giving_way(1),
            SheetColumn::text_column("example", "FOR EXAMPLE IN"),
            SheetColumn::number_column("offset", "AT BYTE").giving_way(2),
        ],
        rows: chosen.into_iter().map(row).collect(),
        left_out,
        advice: None,
    }
}

fn growth_sheet(report: &SpaceReport, extent: RowLimit) -> Sheet {
    let entries: Vec<_> = report.growth.iter().enumerate().collect();
    let (mut chosen, left_out) = extent.choose_rows(entries, |(nth, _)| *nth);
    chosen.sort_by_key(|(nth, _)| *nth);
    let row = |(_, entry): (usize, &vellum_store::report::Growth)| {
        vec![
            Cell::Moment(entry.at_ms),
            Cell::text_cell(&entry.operation),
            Cell::text_cell(&entry.image),
            Cell::Count(entry.chunks),
            Cell::Bytes(entry.plain),
            Cell::Bytes(entry.compressed),
            Cell::Bytes(entry.freed),
        ]
    };
    Sheet {
        part: ReportPart::Growth,
        heads: vec![
            SheetColumn::text_column("at", "WHEN").as_time(),
            SheetColumn::text_column("operation", "WHAT"),
            SheetColumn::text_column("image", "IMAGE"),
            SheetColumn::number_column("chunks", "NEW CHUNKS").giving_way(2),
            SheetColumn::number_column("plain_bytes", "BYTES").giving_way(3),
            SheetColumn::number_column("compressed_bytes", "COMPRESSED"),
            SheetColumn::number_column("freed_bytes", "GIVEN BACK").giving_way(1),
        ],
        rows: chosen.into_iter().map(row).collect(),
        left_out,
        advice: None,
    }
}

fn changes_sheet(report: &SpaceReport, extent: RowLimit) -> Sheet {
    let regions: Vec<_> = report
        .changes
        .iter()
        .flat_map(|strip| {
            changed_regions(strip)
                .into_iter()
                .map(move |region| (strip, region))
        })
        .collect();
    let (chosen, left_out) = extent.choose_rows(regions, |(_, region)| region.changed);
    let row = |(strip, region): (&ChangeStrip, ChangedRegion)| {
        vec![
            Cell::text_cell(&strip.image),
            Cell::Count(strip.cell_len.saturating_mul(region.cell as u64)),
            Cell::Bytes(strip.cell_len),
            Cell::Bytes(region.changed),
            Cell::Count(region.steps),
            Cell::Count(strip.steps.len() as u64),
        ]
    };
    Sheet {
        part: ReportPart::Changes,
        heads: vec![
            SheetColumn::text_column("image", "IMAGE"),
            SheetColumn::number_column("start", "FROM BYTE"),
            SheetColumn::number_column("length", "LENGTH").giving_way(2),
            SheetColumn::number_column("changed_bytes", "CHANGED"),
            SheetColumn::number_column("changed_steps", "IN STEPS"),
            SheetColumn::number_column("steps", "OF"),
        ],
        rows: chosen.into_iter().map(row).collect(),
        left_out,
        advice: None,
    }
}

/// A stretch of disk in which something changed.
#[derive(Clone, Copy, Debug, Default)]
struct ChangedRegion {
    cell: usize,
    changed: u64,
    steps: u64,
}

fn changed_regions(strip: &ChangeStrip) -> Vec<ChangedRegion> {
    let mut regions: BTreeMap<usize, ChangedRegion> = BTreeMap::new();
    for step in &strip.steps {
        for (cell, changed) in step
            .cells
            .iter()
            .enumerate()
            .filter(|(_, changed)| **changed > 0)
        {
            let region = regions.entry(cell).or_insert(ChangedRegion {
                cell,
                ..ChangedRegion::default()
            });
            region.changed = region.changed.saturating_add(*changed);
            region.steps += 1;
        }
    }
    regions.into_values().collect()
}

fn droppable_sheet(report: &SpaceReport, extent: RowLimit) -> Sheet {
    let (chosen, left_out) =
        extent.choose_rows(report.droppable.iter().collect(), |found| found.held);
    let row = |found: &vellum_store::report::GuestFreeSpace| {
        vec![
            Cell::text_cell(&found.image),
            found
                .partition
                .map_or(Cell::Nothing, |partition| Cell::Count(partition.into())),
            Cell::text_cell(found.kind),
            Cell::Count(found.start),
            Cell::Bytes(found.len),
            Cell::Bytes(found.free),
            Cell::Bytes(found.held),
        ]
    };
    let held: u64 = report
        .droppable
        .iter()
        .fold(0, |sum, found| sum.saturating_add(found.held));
    Sheet {
        part: ReportPart::Droppable,
        heads: vec![
            SheetColumn::text_column("image", "IMAGE"),
            SheetColumn::number_column("partition", "PARTITION").giving_way(1),
            SheetColumn::text_column("kind", "KIND"),
            SheetColumn::hidden_column("start"),
            SheetColumn::number_column("length", "LENGTH").giving_way(2),
            SheetColumn::number_column("free_bytes", "FREE"),
            SheetColumn::number_column("held_bytes", "HELD"),
        ],
        rows: chosen.into_iter().map(row).collect(),
        left_out,
        advice: (held > 0).then(|| {
            "`fstrim` in the guest, while it runs from the store, gives this back".to_owned()
        }),
    }
}
