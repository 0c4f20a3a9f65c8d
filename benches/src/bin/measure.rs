//! `vellum-measure CORPUS [DISK…]`: compares the forecast of `measure` with what an import stores.
//! It measures the raw disks of a folder (all, or those with these names) at every chunk length
//! that a store can have, imports them at each into a store of its own, and compares the size of
//! the folder with the forecast; then the same for a sample of 5 %, whose ranges must hold it.

use std::fs;
use std::path::{Path, PathBuf};

use vellum_benches::{disk_usage, name};
use vellum_core::units::ChunkLen;
use vellum_formats::Format;
use vellum_store::measure::{Estimate, LengthReport, MeasureOptions, measure};
use vellum_store::{
    Access, ImageInput, ImportRequest, ImportTarget, Store, StoreParameters, Unwatched,
};

/// Chunk lengths, in bytes.
const CHUNK_LENS: [u64; 6] = [4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 1 << 20];

/// The size of a store in the end, in bytes.
struct Stored {
    unique: u64,
    on_disk: u64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (corpus, names) = arguments
        .split_first()
        .expect("usage: vellum-measure CORPUS [DISK…]");
    let disks = disks(Path::new(corpus), names);
    let (whole, sample) = (foretold(&disks, 1.0), foretold(&disks, 0.05));
    println!(
        "{} disks; chunk length: foretold, imported bytes on disk; is the truth in the ranges of \
         a sample of 5 %?",
        disks.len()
    );
    for ((chunk_len, whole), sample) in CHUNK_LENS.iter().zip(&whole).zip(&sample) {
        let stored = import(&disks, whole);
        let off = (whole.on_disk.value as f64 - stored.on_disk as f64) / stored.on_disk as f64;
        println!(
            "  {:>4} KiB: {}, {}: {:+.2} %",
            chunk_len >> 10,
            whole.on_disk.value,
            stored.on_disk,
            off * 1e2
        );
        tell("unique", sample.unique, stored.unique);
        tell("on disk", sample.on_disk, stored.on_disk);
    }
}

/// The disks of the folder in order.
fn disks(corpus: &Path, names: &[String]) -> Vec<PathBuf> {
    let entries = fs::read_dir(corpus)
        .expect("a folder of disks")
        .filter_map(Result::ok)
        .map(|entry| entry.path());
    let is_wanted = |path: &PathBuf| {
        let stem = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or_default();
        path.extension().is_some_and(|extension| extension == "raw")
            && (names.is_empty() || names.iter().any(|name| name == stem))
    };
    let mut disks: Vec<PathBuf> = entries.filter(is_wanted).collect();
    disks.sort();
    disks
}

fn input(disk: &Path) -> ImageInput {
    ImageInput::open_whole(disk, Format::Raw, None).expect("a disk opens")
}

fn foretold(disks: &[PathBuf], sample: f64) -> Vec<LengthReport> {
    let options = MeasureOptions {
        chunk_lens: CHUNK_LENS.into(),
        sample,
        tries_all: false,
        ..MeasureOptions::usual()
    };
    measure(
        disks.iter().map(|disk| input(disk)).collect(),
        None,
        None,
        &options,
        &Unwatched,
    )
    .expect("sound disks")
    .lengths
}

/// Imports the disks at the chunk and frame length of `length`; returns the size of the store.
fn import(disks: &[PathBuf], length: &LengthReport) -> Stored {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dir = folder.path().join("store");
    let chunk_len = ChunkLen::new(length.chunk_len as u32).expect("a store can have it");
    Store::init_dir(
        &dir,
        StoreParameters {
            chunk_len,
            frame_len: length.frame_len as u32,
            ..StoreParameters::DEFAULT
        },
    )
    .expect("a new folder");
    let store = Store::open_dir(&dir, Access::ReadWrite, "bench").expect("a sound store opens");
    for (nth, disk) in disks.iter().enumerate() {
        let target = ImportTarget::New {
            name: name(&format!("disk{nth}")),
            parent: None,
        };
        store
            .import(
                input(disk),
                &ImportRequest {
                    target,
                    snapshot: None,
                },
                &Unwatched,
            )
            .expect("a sound disk is imported");
    }
    let stats = store.compute_stats().expect("sound");
    drop(store);
    Stored {
        unique: stats.unique,
        on_disk: disk_usage(&dir),
    }
}

fn tell(what: &str, range: Estimate, truth: u64) {
    let is_held = if range.holds(truth) {
        "holds"
    } else {
        "DOES NOT HOLD"
    };
    let reach = (range.high - range.low) as f64 / 2.0 / truth.max(1) as f64;
    println!(
        "            {what}: {} to {} (± {:.2} %) {is_held} {truth}",
        range.low,
        range.high,
        reach * 1e2
    );
}
