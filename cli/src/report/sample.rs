//! Reports for tests: everything that is rendered, in one that has hostile names, one that is
//! empty, and one that is large.

use std::collections::BTreeMap;

use vellum_core::hash::ChunkHash;
use vellum_core::outline::{OutlineItem, OutlineRow, arrange_outline};
use vellum_store::report::{
    AttributionRow, ChangeStep, ChangeStrip, Growth, GuestFreeSpace, HistogramBucket, Holder,
    NodeUsage, Overlap, SharedChunk, SpaceReport, StoreTotals, UncountedItem,
};

/// Names that no store takes beside those that it does: a report must not depend on somebody else's
/// check.
pub(crate) const HOSTILE: [&str; 10] = [
    "<script>alert(1)</script>",
    "\"quoted\" & 'quoted'",
    "--></svg></style><img src=x onerror=alert(1)>",
    "=HYPERLINK(\"http://x.example\",\"y\")",
    "שרת־דואר",
    "control\u{1b}[31m\u{7}\r\nred",
    "turned\u{202e}dnuora",
    "back\\slash\\\"",
    "日本のサーバー日本のサーバー日本のサーバー日本のサーバー",
    "a-name-of-which-nobody-knows-where-it-ends-because-whoever-gave-it-wanted-to-see-what-happens-\
     WWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWW",
];

/// A usual store: two servers on a golden image, which is renewed, and a database with its days.
const USUAL: [(&str, Option<usize>); 12] = [
    ("golden@v1", None),
    ("web-01", Some(0)),
    ("web-02@before upgrade", Some(0)),
    ("web-02", Some(2)),
    ("golden@v2", Some(0)),
    ("build-agent", Some(4)),
    ("golden", Some(4)),
    ("db@monday", None),
    ("db@tuesday", Some(7)),
    ("db-copy", Some(8)),
    ("db@wednesday", Some(8)),
    ("db", Some(10)),
];

/// A moment in 2026.
const NOW_MS: u64 = 1_795_000_000_000;
const DAY_MS: u64 = 86_400_000;

/// Nodes with names and parents, all else made up.
pub(crate) fn sample_nodes(named: &[(&str, Option<usize>)]) -> Vec<NodeUsage> {
    let node = |(nth, (name, parent)): (usize, &(&str, Option<usize>))| {
        sample_node(nth as u64, name, *parent)
    };
    named.iter().enumerate().map(node).collect()
}

fn sample_node(nth: u64, name: &str, parent: Option<usize>) -> NodeUsage {
    let some = |factor: u64| (nth * 7919 + factor * 104_729) % 977 * (factor << 16);
    let is_snapshot = name.contains('@');
    NodeUsage {
        name: name.to_owned(),
        parent,
        is_snapshot,
        mode: ["normal", "immutable", "multiattach"][nth as usize % 3],
        own_layers: 1,
        created_ms: NOW_MS - 100 * DAY_MS + nth * DAY_MS,
        logical: 40 << 30,
        non_zero: 3 << 30,
        added: (nth % 4 != 3).then(|| some(5)),
        exclusive: some(1),
        exclusive_chunks: some(1) >> 12,
        shared_lineage: some(9),
        shared_siblings: some(2),
        shared_others: some(4),
    }
}

/// A small store without surprises.
pub(crate) fn usual_report() -> SpaceReport {
    report_of(&USUAL)
}

/// The same with one image of each hostile name.
pub(crate) fn hostile_report() -> SpaceReport {
    let mut named: Vec<(String, Option<usize>)> = USUAL
        .iter()
        .map(|(name, parent)| ((*name).to_owned(), *parent))
        .collect();
    for (nth, name) in HOSTILE.iter().enumerate() {
        named.push((
            format!("{name}@{name}"),
            (nth % 2 == 0).then_some(named.len() - 1),
        ));
        named.push(((*name).to_owned(), Some(named.len() - 1)));
    }
    let named: Vec<(&str, Option<usize>)> = named
        .iter()
        .map(|(name, parent)| (name.as_str(), *parent))
        .collect();
    report_of(&named)
}

/// A report of nodes with these names and parents.
pub(crate) fn report_of(named: &[(&str, Option<usize>)]) -> SpaceReport {
    filled_report(sample_nodes(named))
}

/// A hundred images with a hundredth of `count` states each.
pub(crate) fn large_report(count: usize) -> SpaceReport {
    let states = (count / 100).max(1);
    let name = |nth: usize| {
        let image = format!("machine-{:03}", nth / states);
        if nth % states == states - 1 {
            image
        } else {
            format!("{image}@day-{:03}", nth % states)
        }
    };
    let nodes = (0..count)
        .map(|nth| sample_node(nth as u64, &name(nth), (nth % states > 0).then(|| nth - 1)));
    filled_report(nodes.collect())
}

/// A report of what `nodes` are, whose rows add up.
fn filled_report(nodes: Vec<NodeUsage>) -> SpaceReport {
    let images: Vec<String> = nodes
        .iter()
        .filter(|node| !node.is_snapshot)
        .map(|node| node.name.clone())
        .collect();
    let attribution = sample_attribution(&nodes);
    let on_disk = attribution.iter().map(|row| row.bytes).sum();
    SpaceReport {
        taken_ms: NOW_MS,
        totals: StoreTotals {
            images: images.len() as u64,
            snapshots: (nodes.len() - images.len()) as u64,
            layers: nodes.len() as u64,
            chunks: 1_234_567,
            logical: nodes.iter().map(|node| node.logical).sum(),
            allocated: 60 << 30,
            non_zero: 50 << 30,
            unique: 5 << 30,
            compressed: 2 << 30,
            on_disk,
            headers: 60 << 20,
            index: 30 << 20,
            metadata: 9 << 20,
            dead: 77 << 20,
        },
        bases: Vec::new(),
        outline: sample_outline(&nodes),
        attribution,
        overlap: sample_overlap(&images),
        references: sample_buckets(&[0, 630_000, 200_000, 100_000, 30_000, 4_000, 500, 60, 7]),
        compressibility: sample_tenths(),
        most_shared: most_shared(nodes.len()),
        growth: sample_growth(&images),
        changes: images
            .iter()
            .enumerate()
            .map(|(nth, image)| sample_strip(image, nth as u64))
            .collect(),
        droppable: images
            .iter()
            .take(3)
            .enumerate()
            .map(|(nth, image)| sample_droppable(image, nth as u64))
            .collect(),
        uncounted: vec![UncountedItem {
            subject: format!("layer 17 of {}", nodes[0].name),
            what: "page 3 is damaged".to_owned(),
        }],
        nodes,
    }
}

fn sample_outline(nodes: &[NodeUsage]) -> Vec<OutlineRow> {
    let mut images = BTreeMap::new();
    let item = |(nth, node): (usize, &NodeUsage)| {
        // Of hostile names the whole is the image, as far as it is one.
        let image = node.name.split('@').next().unwrap_or_default().to_owned();
        let next = images.len() as u64;
        OutlineItem {
            image: Some(*images.entry(image).or_insert(next)),
            is_image: !node.is_snapshot,
            stands_on: node.parent.filter(|parent| *parent < nodes.len()),
            age: (nth as u64, 0),
            block_age: nth as u64,
            made_from: None,
        }
    };
    let items: Vec<OutlineItem> = nodes.iter().enumerate().map(item).collect();
    arrange_outline(&items)
}

fn sample_attribution(nodes: &[NodeUsage]) -> Vec<AttributionRow> {
    let row = |holder, bytes: u64| AttributionRow {
        holder,
        chunks: bytes >> 12,
        bytes,
    };
    let alone = nodes
        .iter()
        .enumerate()
        .map(|(nth, node)| row(Holder::Exclusive(nth), node.exclusive));
    let shared = (1..nodes.len().min(40)).map(|nth| {
        row(
            Holder::Shared(vec![(0, nth), (nth, nth + 1)]),
            (nth as u64 * 37 % 41) << 21,
        )
    });
    let rest = [
        row(
            Holder::OtherSets {
                holders_min: 2,
                sets: 12,
            },
            5 << 20,
        ),
        row(
            Holder::OtherSets {
                holders_min: 1,
                sets: 1,
            },
            3 << 20,
        ),
        row(Holder::Unreferenced, 77 << 20),
        AttributionRow {
            holder: Holder::Overhead("frame headers"),
            chunks: 0,
            bytes: 60 << 20,
        },
        AttributionRow {
            holder: Holder::Overhead("index"),
            chunks: 0,
            bytes: 30 << 20,
        },
    ];
    alone.chain(shared).chain(rest).collect()
}

fn sample_overlap(images: &[String]) -> Overlap {
    let count = images.len() as u64;
    let both = |one: u64, other: u64| {
        if one == other {
            900 << 20
        } else {
            ((one * other * 53 + one + other) % 900) << 20
        }
    };
    let bytes = (0..count)
        .flat_map(|one| (0..count).map(move |other| both(one, other)))
        .collect();
    Overlap {
        images: images.to_vec(),
        bytes,
    }
}

fn sample_buckets(chunks: &[u64]) -> Vec<HistogramBucket> {
    let last = chunks.len() - 1;
    let bucket = |(nth, chunks): (usize, &u64)| HistogramBucket {
        from: if nth == 0 { 0 } else { 1 << (nth - 1) },
        to: (nth < last).then_some(1 << nth),
        chunks: *chunks,
        bytes: chunks * 1700,
    };
    chunks.iter().enumerate().map(bucket).collect()
}

fn sample_tenths() -> Vec<HistogramBucket> {
    let bucket = |tenth: u64| HistogramBucket {
        from: tenth,
        to: Some(tenth + 1),
        chunks: (tenth * 91_237 + 500) % 300_000,
        bytes: (tenth * 410) << 20,
    };
    (0..10).map(bucket).collect()
}

fn most_shared(nodes: usize) -> Vec<SharedChunk> {
    let chunk = |nth: u64| SharedChunk {
        hash: ChunkHash::of_chunk(&nth.to_le_bytes()),
        references: 100_000 / (nth + 1),
        holders: 12,
        example: (nth % 3 != 2).then(|| (nth as usize % nodes, nth << 20)),
    };
    (0..12).map(chunk).collect()
}

fn sample_growth(images: &[String]) -> Vec<Growth> {
    let entry = |nth: u64| Growth {
        at_ms: NOW_MS - (60 - nth) * DAY_MS,
        operation: ["import", "write", "update"][nth as usize % 3].to_owned(),
        image: images[nth as usize % images.len()].clone(),
        chunks: (nth * 7919) % 5000,
        plain: ((nth * 7919) % 5000) << 12,
        compressed: ((nth * 7919) % 5000) << 11,
        freed: if nth % 20 == 19 { 30 << 20 } else { 0 },
    };
    (0..60).map(entry).collect()
}

fn sample_strip(image: &str, nth: u64) -> ChangeStrip {
    let cell = |step: u64, cell: u64| {
        if (cell * (nth + 3) + step * step) % 11 < 4 {
            ((cell * 37 + step * 11 + nth) % 64) << 20
        } else {
            0
        }
    };
    let step = |step: u64| ChangeStep {
        from: format!("{image}@{step}"),
        to: if step == 4 {
            image.to_owned()
        } else {
            format!("{image}@{}", step + 1)
        },
        cells: (0..64).map(|at| cell(step, at)).collect(),
    };
    ChangeStrip {
        image: image.to_owned(),
        cell_len: 64 << 20,
        steps: (0..5).map(step).collect(),
    }
}

fn sample_droppable(image: &str, nth: u64) -> GuestFreeSpace {
    GuestFreeSpace {
        image: image.to_owned(),
        partition: (nth > 0).then_some(nth as u32),
        start: 1 << 20,
        len: 3 << 30,
        kind: ["ext4", "swap"][nth as usize % 2],
        free: 2 << 30,
        held: nth << 27,
    }
}
