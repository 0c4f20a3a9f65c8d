//! `vellum-scale`: measures the costs that grow with a store, at a size where they would hurt. Each
//! figure is measured in a process of its own, so that its peak memory is its own.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use vellum_benches::{deep_image, import, name, new_store, peak_memory_kib, timed};
use vellum_core::tree::NodeRef;
use vellum_core::units::{ImageId, PageIndex};
use vellum_formats::Format;
use vellum_store::{Access, CollectOptions, ImageInput, Store, Unwatched};

const STEPS: [(&str, fn(&Path)); 3] = [
    ("sparse", sparse),
    ("chain", chain),
    ("snapshots", snapshots),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [step, dir] => {
            let run = STEPS
                .iter()
                .find(|(name, _)| name == step)
                .expect("steps are sparse, chain and snapshots")
                .1;
            run(Path::new(dir));
            println!("  peak memory {} MiB", peak_memory_kib() / 1024);
        }
        _ => STEPS.iter().for_each(|(step, _)| run_alone(step)),
    }
}

/// Runs one step in a process and a folder of its own.
fn run_alone(step: &str) {
    println!("{step}:");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = std::env::current_exe().expect("a running program has a path");
    let status = Command::new(program)
        .arg(step)
        .arg(folder.path())
        .status()
        .expect("a program that runs can be run again");
    assert!(status.success(), "{step} failed");
}

/// A disk of 1 TiB with 2 GB of data, in pieces of 1 MiB all over it.
fn sparse(dir: &Path) {
    const DISK_LEN: u64 = 1 << 40;
    const PIECES: u64 = 2000;
    let path = dir.join("disk.raw");
    let file = File::create(&path).expect("room for a sparse file");
    file.set_len(DISK_LEN)
        .expect("a file system with large files");
    let mut random = fastrand::Rng::with_seed(1);
    let mut piece = vec![0; 1 << 20];
    for nth in 0..PIECES {
        piece
            .chunks_mut(128)
            .for_each(|pair| random.fill(&mut pair[..64]));
        file.write_all_at(&piece, nth * (DISK_LEN / PIECES) / 4096 * 4096)
            .expect("room for 2 GB");
    }
    drop(file);
    let store = new_store(&dir.join("store"));
    let input = || ImageInput::open_whole(&path, Format::Raw, None).expect("just written");
    let took = timed(|| import(&store, input(), "new"));
    println!(
        "  import of 1 TiB sparse, 2 GB data, new: {:.2} s",
        took.as_secs_f64()
    );
    let took = timed(|| import(&store, input(), "again"));
    println!("  the same, already stored: {:.2} s", took.as_secs_f64());
}

/// A chain of 1,000 layers: making it, resolving through it, deleting in its middle, merging it.
fn chain(dir: &Path) {
    let store = new_store(&dir.join("store"));
    let took = timed(|| deep_image(&store, "deep", 1 << 30, 1000));
    println!(
        "  1,000 layers, each one chunk and a flush: {:.2} s",
        took.as_secs_f64()
    );
    let deep = store.find_node("deep").expect("just made");
    let (shallow, deep_end) = flattened(&store, deep);
    let (at_1, at_1000) = (resolve(&store, shallow), resolve(&store, deep_end));
    println!(
        "  resolving a page of the same content, warm: {at_1:.0} ns in 1 layer, {at_1000:.0} ns \
         in 1,000, ratio {:.3}",
        at_1000 / at_1
    );
    let serials: Vec<u64> = store
        .tree()
        .snapshots_of(deep.image_id())
        .map(|snapshot| snapshot.serial)
        .collect();
    let deletions: Vec<Duration> = serials
        .iter()
        .step_by(2)
        .map(|serial| {
            timed(|| {
                store
                    .delete_snapshot(deep.image_id(), *serial)
                    .expect("it is there");
            })
        })
        .collect();
    print_times("deletion of a node in the chain", deletions);
    let took = timed(|| {
        store
            .collect(CollectOptions::default(), &Unwatched)
            .expect("nothing is damaged")
    });
    println!(
        "  collection that merges 500 layers: {:.2} s",
        took.as_secs_f64()
    );
}

/// A snapshot of the content of `deep` in one layer, and one of `deep` itself.
fn flattened(store: &Store, deep: NodeRef) -> (NodeRef, NodeRef) {
    let flat = store
        .create_child(&name("flat"), deep, None)
        .expect("a free name");
    store
        .flatten(flat.image_id(), &Unwatched)
        .expect("nothing is damaged");
    let snapshot = |image| {
        store
            .take_snapshot(image, &name("end"))
            .expect("a free name")
    };
    (snapshot(flat.image_id()), snapshot(deep.image_id()))
}

/// Nanoseconds for one warm look at a page of `node`: the median of many rounds over all pages.
fn resolve(store: &Store, node: NodeRef) -> f64 {
    let disk = store.open_disk(node).expect("just made");
    let pages = 256;
    let mut rounds: Vec<f64> = (0..101)
        .map(|_| {
            let took = timed(|| {
                (0..pages).for_each(|page| {
                    drop(std::hint::black_box(
                        disk.resolve_page(PageIndex(page)).expect("sound"),
                    ));
                });
            });
            took.as_secs_f64() * 1e9 / pages as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

/// 10,000 snapshots of one image.
fn snapshots(dir: &Path) {
    const COUNT: u64 = 10_000;
    let store_dir = dir.join("store");
    let store = new_store(&store_dir);
    let node = store
        .create_image(&name("disk"), 1 << 30)
        .expect("the first image");
    let mut random = fastrand::Rng::with_seed(2);
    let mut times = Vec::new();
    let started = Instant::now();
    for nth in 0..COUNT {
        write_chunk(&store, node.image_id(), &mut random);
        times.push(timed(|| {
            store
                .take_snapshot(node.image_id(), &name(&format!("s{nth}")))
                .expect("a free name")
        }));
    }
    println!(
        "  10,000 times a chunk, a flush and a snapshot: {:.2} s",
        started.elapsed().as_secs_f64()
    );
    let last = times.split_off(times.len() - 1000);
    print_times("snapshot, the last 1,000 of 10,000", last);
    drop(store);
    let took = timed(|| {
        drop(Store::open_dir(&store_dir, Access::ReadOnly, "bench").expect("a sound store"));
    });
    println!("  opening the store: {:.3} s", took.as_secs_f64());
    let store = Store::open_dir(&store_dir, Access::ReadWrite, "bench").expect("a sound store");
    let serials: Vec<u64> = store
        .tree()
        .snapshots_of(node.image_id())
        .map(|snapshot| snapshot.serial)
        .collect();
    let some = serials.iter().step_by(10);
    print_times(
        "deletion of any of them",
        some.map(|serial| {
            timed(|| {
                store
                    .delete_snapshot(node.image_id(), *serial)
                    .expect("there");
            })
        })
        .collect(),
    );
    let created = (0..100).map(|nth| {
        timed(|| {
            store
                .create_child(&name(&format!("child{nth}")), node, None)
                .expect("a free name")
        })
    });
    print_times("creation of a child", created.collect());
}

fn write_chunk(store: &Store, image: ImageId, random: &mut fastrand::Rng) {
    let mut chunk = [0; 4096];
    random.fill(&mut chunk);
    let disk = store.open_live(image).expect("nobody else writes");
    disk.write_at(&chunk, random.u64(..1 << 18) * 4096)
        .expect("inside");
    disk.flush().expect("there is room");
}

fn print_times(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let millis = |nth: usize| times[nth].as_secs_f64() * 1e3;
    println!(
        "  {what}: median {:.2} ms, slowest {:.2} ms",
        millis(times.len() / 2),
        millis(times.len() - 1)
    );
}
