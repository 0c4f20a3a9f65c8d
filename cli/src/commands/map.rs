//! `vellum map`: which layer supplies each range of an image.

use std::collections::HashMap;

use serde::Serialize;
use vellum_core::tree::Tree;
use vellum_core::units::{ChunkId, LayerId};
use vellum_store::{Compression, MapEntry, Store, StoreError};

use crate::failure::{Failure, Outcome};
use crate::output::Entries;
use crate::output::table::Column;
use crate::session::Session;

/// Chunks whose names are asked for at once.
const HASHES_MAX: u64 = 1024;
const RANGES: [Column; 5] = [
    Column::number("START").wide(14),
    Column::number("LENGTH").wide(14),
    Column::number("DEPTH").wide(5),
    Column::text("KIND").wide(4),
    Column::text("FROM"),
];
const CHUNKS: [Column; 3] = [
    Column::number("START").wide(14),
    Column::number("LENGTH").wide(7),
    Column::text("BLAKE3"),
];

/// Show which layer supplies each range, in bytes
#[derive(clap::Args)]
#[command(after_help = "Example:\n  vellum map web --json\n  vellum map web@monday --hashes")]
pub(crate) struct Args {
    /// The image or snapshot
    #[arg(value_name = "IMAGE[@SNAPSHOT]")]
    node: String,
    /// Show the name of every chunk: the hash of its content
    #[arg(long)]
    hashes: bool,
}

/// A range as `qemu-img map` shows it, and where it is in the store.
#[derive(Serialize)]
struct Range {
    start: u64,
    length: u64,
    depth: u32,
    present: bool,
    zero: bool,
    data: bool,
    compressed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    layer: Option<u64>,
    /// The first chunk's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    chunk: Option<u64>,
}

#[derive(Serialize)]
struct Chunk {
    start: u64,
    length: u64,
    hash: String,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    let store = session.open_to_read()?;
    let node = store.find(&args.node)?;
    let signals = session.signals.clone();
    let names = layer_names(&store.tree());
    let compressed = store.parameters().compression != Compression::None;
    let mut entries = session
        .output
        .entries(if args.hashes { &CHUNKS } else { &RANGES });
    let mut shown = Ok(());
    let mapped = store.map(node, &mut |entry| {
        signals.check()?;
        shown = if args.hashes {
            show_chunks(&store, &mut entries, entry)
        } else {
            show_range(&mut entries, entry, &names, compressed)
        };
        // The store hears only that nobody wants more; the reason is in `shown`.
        if shown.is_err() {
            Err(StoreError::Interrupted)
        } else {
            Ok(())
        }
    });
    shown?;
    mapped?;
    entries.finish()?;
    Ok(Outcome::Done)
}

fn show_range(
    entries: &mut Entries,
    entry: MapEntry,
    names: &HashMap<LayerId, String>,
    compressed: bool,
) -> Result<(), Failure> {
    let is_data = entry.first.is_some();
    let range = Range {
        start: entry.start,
        length: entry.len,
        depth: entry.layer.map_or(0, |(depth, _)| depth),
        present: entry.layer.is_some(),
        zero: !is_data,
        data: is_data,
        compressed: is_data && compressed,
        layer: entry.layer.map(|(_, layer)| layer.0),
        chunk: entry.first.map(|chunk| chunk.0),
    };
    let from = entry.layer.map(|(_, layer)| {
        names
            .get(&layer)
            .cloned()
            .unwrap_or_else(|| format!("layer {layer}"))
    });
    let cells = [
        range.start.to_string(),
        range.length.to_string(),
        entry
            .layer
            .map(|(depth, _)| depth.to_string())
            .unwrap_or_default(),
        if is_data { "data" } else { "zero" }.to_owned(),
        from.unwrap_or_default(),
    ];
    entries.push(&range, &cells)
}

fn show_chunks(store: &Store, entries: &mut Entries, entry: MapEntry) -> Result<(), Failure> {
    let Some(first) = entry.first else {
        return Ok(());
    };
    let chunk_len = store.parameters().chunk_len;
    let end = entry.start + entry.len;
    let count = chunk_len.count_for(entry.len).0;
    let mut done = 0;
    while done < count {
        let hashes = store.chunk_hashes(ChunkId(first.0 + done), (count - done).min(HASHES_MAX))?;
        for (nth, hash) in (done..).zip(&hashes) {
            let start = entry.start + nth * chunk_len.bytes();
            let chunk = Chunk {
                start,
                length: chunk_len.bytes().min(end - start),
                hash: hash.to_string(),
            };
            let cells = [
                chunk.start.to_string(),
                chunk.length.to_string(),
                chunk.hash.clone(),
            ];
            entries.push(&chunk, &cells)?;
        }
        done += hashes.len().max(1) as u64;
    }
    Ok(())
}

/// The names of the layers that have some: the first of each.
fn layer_names(tree: &Tree) -> HashMap<LayerId, String> {
    let mut names = HashMap::new();
    for node in tree.nodes() {
        if let Some(layer) = tree.layer_of(node) {
            names.entry(layer.id).or_insert_with(|| tree.display(node));
        }
    }
    names
}
