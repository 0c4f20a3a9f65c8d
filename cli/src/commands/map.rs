//! `vellum map`: which layer supplies each range of an image, and what is where in a file.

use std::collections::HashMap;
use std::path::Path;

use serde::Serialize;
use vellum_core::source::{ExtentKind, ImageSource};
use vellum_core::tree::Tree;
use vellum_core::units::{ChunkId, LayerId};
use vellum_store::{Compression, MapEntry, Store, StoreError};

use crate::command_context::CommandContext;
use crate::disk_argument::{DiskArgument, is_file_word};
use crate::failure::{CommandFailure, Outcome};
use crate::output::table::Column;
use crate::output::{EntryStream, OutputLayout};
use crate::source_format::{self, FileArgs};

/// Chunks whose names are asked for at once.
const HASHES_MAX: u64 = 1024;
const RANGES: [Column; 5] = [
    Column::number_column("START").with_width(14),
    Column::number_column("LENGTH").with_width(14),
    Column::number_column("DEPTH").with_width(5),
    Column::text_column("KIND").with_width(4),
    Column::text_column("FROM"),
];
const CHUNKS: [Column; 3] = [
    Column::number_column("START").with_width(14),
    Column::number_column("LENGTH").with_width(7).giving_way(1),
    Column::text_column("BLAKE3").with_width(64).as_whole(),
];

/// Show which layer supplies each range, in bytes; of a file, which ranges it has
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum map web --json
  vellum map web@monday --hashes
  vellum map disk.vmdk

It is a file if the store has nothing of that name (./NAME is always one).")]
pub(crate) struct Args {
    /// The image or snapshot, or a file
    #[arg(value_name = "IMAGE[@SNAPSHOT]|FILE")]
    node: String,
    /// Show the name of every chunk: the hash of its content
    #[arg(long)]
    hashes: bool,
    #[command(flatten)]
    file: FileArgs,
}

/// A range as `qemu-img map` shows it, and where it is in the store.
#[derive(Serialize)]
struct MapRange {
    start: u64,
    length: u64,
    depth: u32,
    present: bool,
    zero: bool,
    data: bool,
    compressed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    layer: Option<u64>,
    /// The first chunk's id. The others follow it, unless it is repeated.
    #[serde(skip_serializing_if = "Option::is_none")]
    chunk: Option<u64>,
    /// True if all of the range is that one chunk, again and again.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    repeated: bool,
}

/// What people are shown: a range goes on while layer and kind stay, whichever chunks are in it.
struct RangeJoiner<'a> {
    names: HashMap<LayerId, String>,
    compressed: bool,
    is_for_people: bool,
    pending: Option<MapEntry>,
    entries: EntryStream<'a>,
}

#[derive(Serialize)]
struct ChunkRow {
    start: u64,
    length: u64,
    hash: String,
}

pub(super) fn run_map(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let Some((store, node)) = DiskArgument::find_node(&args.node, &args.file, session)? else {
        return map_file(args, session);
    };
    let signals = session.signals.clone();
    let is_for_people = session.output.layout == OutputLayout::Human;
    let mut ranges = RangeJoiner {
        names: layer_names(&store.tree()),
        compressed: store.parameters().compression != Compression::None,
        is_for_people,
        pending: None,
        entries: session
            .output
            .begin_entries(if args.hashes { &CHUNKS } else { &RANGES }),
    };
    let mut shown = Ok(());
    let mapped = store.map(node, &mut |entry| {
        signals.fail_if_stopped()?;
        shown = if args.hashes {
            show_chunks(&store, &mut ranges.entries, entry)
        } else {
            ranges.add_range(entry)
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
    ranges.show_pending()?;
    ranges.entries.finish_entries()?;
    Ok(Outcome::Done)
}

/// Shows the ranges of a file. What it leaves to its parent is not present.
fn map_file(args: &Args, session: &mut CommandContext) -> Result<Outcome, CommandFailure> {
    if args.hashes {
        return Err(CommandFailure::usage_error(
            "a file has no chunks with names",
            "import it, and map the image",
        ));
    }
    let (path, expected) = (Path::new(&args.node), args.file.expected_file());
    let file = source_format::open_as(path, &args.file, &expected, true, session)?;
    let (source, signals) = (file.source(), session.signals.clone());
    let mut entries = session.output.begin_entries(&RANGES);
    let mut at = 0;
    while at < source.len() {
        signals.fail_if_stopped()?;
        let (kind, end) = joined_extent(&**source, at)
            .map_err(|error| StoreError::of_source(&args.node, error))?;
        let is_data = kind == ExtentKind::Data;
        let range = MapRange {
            start: at,
            length: end - at,
            depth: 0,
            present: kind != ExtentKind::Absent,
            zero: !is_data,
            data: is_data,
            compressed: false,
            layer: None,
            chunk: None,
            repeated: false,
        };
        let word = match kind {
            ExtentKind::Data => "data",
            ExtentKind::Zero => "zero",
            ExtentKind::Absent => "absent",
        };
        let cells = [
            at.to_string(),
            range.length.to_string(),
            "0".to_owned(),
            word.to_owned(),
            args.node.clone(),
        ];
        entries.push_entry(&range, &cells)?;
        at = end;
    }
    entries.finish_entries()?;
    Ok(Outcome::Done)
}

/// The kind at `at`, and the end of all that is alike from there on.
fn joined_extent(
    source: &dyn ImageSource,
    at: u64,
) -> Result<(ExtentKind, u64), vellum_core::source::SourceError> {
    let first = source.extent_at(at)?;
    let mut end = first.end_offset();
    while end < source.len() {
        let next = source.extent_at(end)?;
        if next.kind != first.kind {
            break;
        }
        end = next.end_offset();
    }
    Ok((first.kind, end))
}

impl Args {
    /// Tells if a store is needed.
    pub(super) fn needs_store(&self) -> bool {
        !is_file_word(&self.node, &self.file)
    }
}

impl RangeJoiner<'_> {
    fn add_range(&mut self, entry: MapEntry) -> Result<(), CommandFailure> {
        if let Some(pending) = &mut self.pending
            && self.is_for_people
            && pending.layer == entry.layer
            && pending.first.is_some() == entry.first.is_some()
        {
            pending.len += entry.len;
            return Ok(());
        }
        self.show_pending()?;
        self.pending = Some(entry);
        Ok(())
    }

    fn show_pending(&mut self) -> Result<(), CommandFailure> {
        let Some(entry) = self.pending.take() else {
            return Ok(());
        };
        show_range(&mut self.entries, entry, &self.names, self.compressed)
    }
}

fn show_range(
    entries: &mut EntryStream,
    entry: MapEntry,
    names: &HashMap<LayerId, String>,
    compressed: bool,
) -> Result<(), CommandFailure> {
    let is_data = entry.first.is_some();
    let range = MapRange {
        start: entry.start,
        length: entry.len,
        depth: entry.layer.map_or(0, |(depth, _)| depth),
        present: entry.layer.is_some(),
        zero: !is_data,
        data: is_data,
        compressed: is_data && compressed,
        layer: entry.layer.map(|(_, layer)| layer.0),
        chunk: entry.first.map(|chunk| chunk.0),
        repeated: entry.is_repeat,
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
    entries.push_entry(&range, &cells)
}

fn show_chunks(
    store: &Store,
    entries: &mut EntryStream,
    entry: MapEntry,
) -> Result<(), CommandFailure> {
    let Some(first) = entry.first else {
        return Ok(());
    };
    let chunk_len = store.parameters().chunk_len;
    let end = entry.start + entry.len;
    let count = chunk_len.count_for(entry.len).0;
    let mut done = 0;
    while done < count {
        let wanted = (count - done).min(HASHES_MAX);
        let hashes = if entry.is_repeat {
            let one = store.chunk_hashes(first, 1)?;
            one.repeat(wanted as usize)
        } else {
            store.chunk_hashes(ChunkId(first.0 + done), wanted)?
        };
        for (nth, hash) in (done..).zip(&hashes) {
            let start = entry.start + nth * chunk_len.byte_len();
            let chunk = ChunkRow {
                start,
                length: chunk_len.byte_len().min(end - start),
                hash: hash.to_string(),
            };
            let cells = [
                chunk.start.to_string(),
                chunk.length.to_string(),
                chunk.hash.clone(),
            ];
            entries.push_entry(&chunk, &cells)?;
        }
        done += hashes.len().max(1) as u64;
    }
    Ok(())
}

/// The names of the layers that have some: the first of each.
fn layer_names(tree: &Tree) -> HashMap<LayerId, String> {
    let mut names = HashMap::new();
    for node in tree.all_nodes() {
        if let Some(layer) = tree.layer_of(node) {
            names
                .entry(layer.id)
                .or_insert_with(|| tree.display_name(node));
        }
    }
    names
}
