//! The figures of a report in the table of each part.

use std::collections::BTreeMap;

use vellum_store::report::{Bucket, ChangeStrip, NodeUsage, Report, Totals};

use super::sheet::{Cell, Extent, Head, Sheet};
use super::{Part, holders, labels};
use crate::output::page;

/// Hex digits of a chunk's name that tell it from others, for people.
const HASH_DIGITS: usize = 16;

/// The table of `part`.
pub(crate) fn sheet(report: &Report, part: Part, extent: Extent) -> Sheet {
    match part {
        Part::Totals => totals(&report.totals),
        Part::Nodes => nodes(report, extent),
        Part::Attribution => attribution(report, extent),
        Part::Overlap => overlap(report, extent),
        Part::Histograms => histogram_rows(report),
        Part::Shared => shared(report, extent),
        Part::Growth => growth(report, extent),
        Part::Changes => changes(report, extent),
        Part::Droppable => droppable(report, extent),
    }
}

fn totals(totals: &Totals) -> Sheet {
    let counts = [
        ("images", "images", totals.images, ""),
        ("snapshots", "snapshots", totals.snapshots, ""),
        ("layers", "layers", totals.layers, ""),
        ("chunks", "chunks", totals.chunks, "each stored once"),
    ];
    let bytes = [
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
    ];
    let ratio = |of: u64, to: u64| page::ratio(of, to).map_or(Cell::Nothing, Cell::Ratio);
    let ratios = [
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
    ];
    let counts = counts.map(|(key, name, count, meaning)| (key, name, Cell::Count(count), meaning));
    let bytes = bytes.map(|(key, name, bytes, meaning)| (key, name, Cell::Bytes(bytes), meaning));
    let cells = counts.into_iter().chain(bytes).chain(ratios);
    Sheet {
        part: Part::Totals,
        heads: vec![
            Head::hidden("figure"),
            Head::text("name", "FIGURE"),
            Head::number("value", "VALUE"),
            Head::text("meaning", "MEANS"),
        ],
        rows: cells
            .map(|(key, name, cell, meaning)| {
                vec![Cell::text(key), Cell::text(name), cell, Cell::text(meaning)]
            })
            .collect(),
        left_out: 0,
        advice: (totals.dead > 0).then(|| "`vellum gc` gives back what is dead".to_owned()),
    }
}

fn nodes(report: &Report, extent: Extent) -> Sheet {
    let (chosen, left_out) = extent.choose(report.nodes.iter().collect(), |node: &&NodeUsage| {
        node.exclusive
    });
    Sheet {
        part: Part::Nodes,
        heads: vec![
            Head::text("name", "NAME"),
            Head::hidden("kind"),
            Head::hidden("parent"),
            Head::hidden("mode"),
            Head::hidden("created"),
            Head::hidden("own_layers"),
            Head::number("logical_bytes", "SIZE"),
            Head::number("nonzero_bytes", "NOT ZERO"),
            Head::number("added_bytes", "ADDED"),
            Head::number("exclusive_bytes", "ALONE"),
            Head::hidden("exclusive_chunks"),
            Head::number("shared_lineage_bytes", "LINEAGE"),
            Head::number("shared_siblings_bytes", "SIBLINGS"),
            Head::number("shared_others_bytes", "OTHERS"),
        ],
        rows: chosen
            .into_iter()
            .map(|node| node_cells(report, node))
            .collect(),
        left_out,
        advice: (report.nodes.len() > 1).then(|| {
            "`vellum report --reclaim NAME…` tells what deleting several frees together".to_owned()
        }),
    }
}

fn node_cells(report: &Report, node: &NodeUsage) -> Vec<Cell> {
    let parent = node.parent.and_then(|parent| report.nodes.get(parent));
    vec![
        Cell::text(&node.name),
        Cell::text(if node.is_snapshot {
            "snapshot"
        } else {
            "image"
        }),
        parent.map_or(Cell::Nothing, |parent| Cell::text(&parent.name)),
        Cell::text(node.mode),
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

fn attribution(report: &Report, extent: Extent) -> Sheet {
    let (chosen, left_out) = extent.choose(report.attribution.iter().collect(), |row| row.bytes);
    let row = |row: &vellum_store::report::AttributionRow| {
        vec![
            Cell::text(holders::kind(&row.holder)),
            Cell::text(holders::label(&row.holder, &report.nodes)),
            holders::count(&row.holder).map_or(Cell::Nothing, Cell::Count),
            Cell::Count(row.chunks),
            Cell::Bytes(row.bytes),
            Cell::Share(row.bytes, report.totals.on_disk),
        ]
    };
    Sheet {
        part: Part::Attribution,
        heads: vec![
            Head::text("kind", "KIND"),
            Head::text("holder", "HOLDER"),
            Head::number("holders", "HOLDERS"),
            Head::number("chunks", "CHUNKS"),
            Head::number("bytes", "BYTES"),
            Head::number("share", "OF THE DISK"),
        ],
        rows: chosen.into_iter().map(row).collect(),
        left_out,
        advice: None,
    }
}

fn overlap(report: &Report, extent: Extent) -> Sheet {
    let overlap = &report.overlap;
    let count = overlap.images.len();
    let both =
        |one: usize, other: usize| overlap.bytes.get(one * count + other).copied().unwrap_or(0);
    let pairs = (0..count).flat_map(|one| (one + 1..count).map(move |other| (one, other)));
    let pairs: Vec<_> = pairs
        .filter(|(one, other)| both(*one, *other) > 0)
        .collect();
    let (chosen, left_out) = extent.choose(pairs, |(one, other)| both(*one, *other));
    let row = |(one, other): (usize, usize)| {
        vec![
            Cell::text(&overlap.images[one]),
            Cell::text(&overlap.images[other]),
            Cell::Bytes(both(one, other)),
            Cell::Share(both(one, other), both(one, one)),
            Cell::Share(both(one, other), both(other, other)),
        ]
    };
    Sheet {
        part: Part::Overlap,
        heads: vec![
            Head::text("image", "IMAGE"),
            Head::text("other", "AND"),
            Head::number("bytes", "BOTH HOLD"),
            Head::number("share_of_image", "OF THE FIRST"),
            Head::number("share_of_other", "OF THE SECOND"),
        ],
        rows: chosen.into_iter().map(row).collect(),
        left_out,
        advice: None,
    }
}

fn histogram_rows(report: &Report) -> Sheet {
    let row = |name: &str, bucket: &Bucket, label: String| {
        vec![
            Cell::text(name),
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
        .map(|bucket| row("references", bucket, labels::references(bucket)));
    let compressed = report
        .compressibility
        .iter()
        .map(|bucket| row("compressed to", bucket, labels::compressibility(bucket)));
    Sheet {
        part: Part::Histograms,
        heads: vec![
            Head::text("histogram", "HISTOGRAM"),
            Head::hidden("from"),
            Head::hidden("to"),
            Head::text("label", "FROM–TO"),
            Head::number("chunks", "CHUNKS"),
            Head::number("bytes", "COMPRESSED"),
        ],
        rows: references.chain(compressed).collect(),
        left_out: 0,
        advice: None,
    }
}

fn shared(report: &Report, extent: Extent) -> Sheet {
    let (chosen, left_out) = extent.choose(report.most_shared.iter().collect(), |chunk| {
        chunk.references
    });
    let row = |chunk: &vellum_store::report::SharedChunk| {
        let hash = chunk.hash.to_string();
        let example = chunk
            .example
            .and_then(|(node, offset)| Some((report.nodes.get(node)?, offset)));
        vec![
            Cell::text(&hash[..HASH_DIGITS]),
            Cell::text(&hash),
            Cell::Count(chunk.references),
            Cell::Count(chunk.holders),
            example.map_or(Cell::Nothing, |(node, _)| Cell::text(&node.name)),
            example.map_or(Cell::Nothing, |(_, offset)| Cell::Count(offset)),
        ]
    };
    Sheet {
        part: Part::Shared,
        heads: vec![
            Head::text("chunk", "CHUNK"),
            Head::hidden("hash"),
            Head::number("references", "REFERENCES"),
            Head::number("holders", "HOLDERS"),
            Head::text("example", "FOR EXAMPLE IN"),
            Head::number("offset", "AT BYTE"),
        ],
        rows: chosen.into_iter().map(row).collect(),
        left_out,
        advice: None,
    }
}

fn growth(report: &Report, extent: Extent) -> Sheet {
    let entries: Vec<_> = report.growth.iter().enumerate().collect();
    let (mut chosen, left_out) = extent.choose(entries, |(nth, _)| *nth);
    chosen.sort_by_key(|(nth, _)| *nth);
    let row = |(_, entry): (usize, &vellum_store::report::Growth)| {
        vec![
            Cell::Moment(entry.at_ms),
            Cell::text(&entry.operation),
            Cell::text(&entry.image),
            Cell::Count(entry.chunks),
            Cell::Bytes(entry.plain),
            Cell::Bytes(entry.compressed),
            Cell::Bytes(entry.freed),
        ]
    };
    Sheet {
        part: Part::Growth,
        heads: vec![
            Head::text("at", "WHEN"),
            Head::text("operation", "WHAT"),
            Head::text("image", "IMAGE"),
            Head::number("chunks", "NEW CHUNKS"),
            Head::number("plain_bytes", "BYTES"),
            Head::number("compressed_bytes", "COMPRESSED"),
            Head::number("freed_bytes", "GIVEN BACK"),
        ],
        rows: chosen.into_iter().map(row).collect(),
        left_out,
        advice: None,
    }
}

fn changes(report: &Report, extent: Extent) -> Sheet {
    let regions: Vec<_> = report
        .changes
        .iter()
        .flat_map(|strip| {
            regions(strip)
                .into_iter()
                .map(move |region| (strip, region))
        })
        .collect();
    let (chosen, left_out) = extent.choose(regions, |(_, region)| region.changed);
    let row = |(strip, region): (&ChangeStrip, Region)| {
        vec![
            Cell::text(&strip.image),
            Cell::Count(strip.cell_len.saturating_mul(region.cell as u64)),
            Cell::Bytes(strip.cell_len),
            Cell::Bytes(region.changed),
            Cell::Count(region.steps),
            Cell::Count(strip.steps.len() as u64),
        ]
    };
    Sheet {
        part: Part::Changes,
        heads: vec![
            Head::text("image", "IMAGE"),
            Head::number("start", "FROM BYTE"),
            Head::number("length", "LENGTH"),
            Head::number("changed_bytes", "CHANGED"),
            Head::number("changed_steps", "IN STEPS"),
            Head::number("steps", "OF"),
        ],
        rows: chosen.into_iter().map(row).collect(),
        left_out,
        advice: None,
    }
}

/// A stretch of disk in which something changed.
#[derive(Clone, Copy, Debug, Default)]
struct Region {
    cell: usize,
    changed: u64,
    steps: u64,
}

fn regions(strip: &ChangeStrip) -> Vec<Region> {
    let mut regions: BTreeMap<usize, Region> = BTreeMap::new();
    for step in &strip.steps {
        for (cell, changed) in step
            .cells
            .iter()
            .enumerate()
            .filter(|(_, changed)| **changed > 0)
        {
            let region = regions.entry(cell).or_insert(Region {
                cell,
                ..Region::default()
            });
            region.changed = region.changed.saturating_add(*changed);
            region.steps += 1;
        }
    }
    regions.into_values().collect()
}

fn droppable(report: &Report, extent: Extent) -> Sheet {
    let (chosen, left_out) = extent.choose(report.droppable.iter().collect(), |found| found.held);
    let row = |found: &vellum_store::report::Droppable| {
        vec![
            Cell::text(&found.image),
            found
                .partition
                .map_or(Cell::Nothing, |partition| Cell::Count(partition.into())),
            Cell::text(found.kind),
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
        part: Part::Droppable,
        heads: vec![
            Head::text("image", "IMAGE"),
            Head::number("partition", "PARTITION"),
            Head::text("kind", "KIND"),
            Head::hidden("start"),
            Head::number("length", "LENGTH"),
            Head::number("free_bytes", "FREE"),
            Head::number("held_bytes", "HELD"),
        ],
        rows: chosen.into_iter().map(row).collect(),
        left_out,
        advice: (held > 0).then(|| {
            "`fstrim` in the guest, while it runs from the store, gives this back".to_owned()
        }),
    }
}
