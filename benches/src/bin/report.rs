//! `vellum-report`: a full report of a store with 10,000 snapshots and 10 million chunks, in a
//! process of its own, so that its peak memory is its own.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use vellum_benches::{name, peak_memory_kib, timed};
use vellum_core::tree::NodeRef;
use vellum_store::report::ReportOptions;
use vellum_store::{Access, CollectOptions, Compression, Store, StoreParameters, Unwatched};

const SNAPSHOTS: u64 = 10_000;
/// The writes of a guest between two snapshots: so many stretches, anywhere, of so many chunks
/// each: 10 million in all.
const STRETCHES: u64 = 20;
const STRETCH_CHUNKS: u64 = 50;
const DISK_CHUNKS: u64 = 1 << 20;
const CHUNK_LEN: usize = 4096;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [step, dir] if step == "make" => make(Path::new(dir)),
        [step, dir] if step == "report" => report(Path::new(dir)),
        _ => {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let store = folder.path().join("store");
            ["make", "report"]
                .iter()
                .for_each(|step| run_alone(step, &store));
        }
    }
}

fn run_alone(step: &str, dir: &Path) {
    let program = std::env::current_exe().expect("a running program has a path");
    let status = Command::new(program)
        .arg(step)
        .arg(dir)
        .status()
        .expect("a program that runs can be run again");
    assert!(status.success(), "{step} failed");
}

/// Writes the store as a guest would, in `dir`.
fn make(dir: &Path) {
    Store::init_dir(
        dir,
        StoreParameters {
            compression: Compression::Lz4,
            ..StoreParameters::DEFAULT
        },
    )
    .expect("a new folder");
    let store = Store::open_dir(dir, Access::ReadWrite, "bench").expect("a new store opens");
    let image = store
        .create_image(&name("disk"), DISK_CHUNKS * CHUNK_LEN as u64)
        .expect("the first image")
        .image_id();
    let mut random = fastrand::Rng::with_seed(6);
    let mut next = 0_u64;
    let started = Instant::now();
    let live = store.open_live(image).expect("nobody else writes");
    for nth in 0..SNAPSHOTS {
        for _ in 0..STRETCHES {
            let mut stretch = vec![0; STRETCH_CHUNKS as usize * CHUNK_LEN];
            for chunk in stretch.chunks_mut(CHUNK_LEN) {
                next += 1;
                chunk[..8].copy_from_slice(&next.to_le_bytes());
            }
            live.write_at(
                &stretch,
                random.u64(..DISK_CHUNKS - STRETCH_CHUNKS) * CHUNK_LEN as u64,
            )
            .expect("inside");
        }
        live.flush().expect("there is room");
        store
            .take_snapshot(image, &name(&format!("s{nth}")))
            .expect("a free name");
    }
    println!(
        "  10,000 times 1,000 chunks, a flush and a snapshot: {:.1} s",
        started.elapsed().as_secs_f64()
    );
}

fn report(dir: &Path) {
    let store = Store::open_dir(dir, Access::ReadWrite, "bench").expect("a sound store");
    let options = ReportOptions {
        rows_max: 1000,
        most_shared_max: 20,
        strip_cells: 200,
        file_systems: false,
    };
    let started = Instant::now();
    let report = store.report_space(&options, &Unwatched).expect("sound");
    let (took, totals) = (started.elapsed(), report.totals);
    println!(
        "  report of {} snapshots, {} chunks, {} on disk: {:.1} s",
        totals.snapshots,
        totals.chunks,
        totals.on_disk,
        took.as_secs_f64()
    );
    println!("  peak memory {} MiB", peak_memory_kib() / 1024);
    let started = Instant::now();
    let census = store.scan_usage(&Unwatched).expect("sound");
    println!("  counting alone: {:.1} s", started.elapsed().as_secs_f64());
    let nodes: Vec<NodeRef> = store.tree().all_nodes().collect();
    let sets = nodes.chunks(100).take(100);
    let count = sets.len() as f64;
    let took =
        timed(|| sets.for_each(|set| drop(std::hint::black_box(census.estimate_reclaim(set)))));
    println!(
        "  what deleting 100 nodes frees: {:.1} ms",
        took.as_secs_f64() * 1e3 / count
    );
    let target = totals.compressed / 10;
    let took = timed(|| {
        drop(std::hint::black_box(
            census.reclaim_target(target, &|_| false),
        ));
    });
    println!(
        "  which deletions free a tenth: {:.1} s",
        took.as_secs_f64()
    );
    println!("  peak memory {} MiB", peak_memory_kib() / 1024);
    drop(census);
    let took = timed(|| {
        drop(store.collect(
            CollectOptions {
                dry_run: true,
                ..CollectOptions::default()
            },
            &Unwatched,
        ));
    });
    println!(
        "  beside it, a collection's dry run: {:.1} s",
        took.as_secs_f64()
    );
}
