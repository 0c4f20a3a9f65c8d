//! Measures a guest's disk in the store itself, with no protocol around it: random reads of 4 KiB
//! and writes into a new overlay, with and without flushes, and long reads and writes. Figures for
//! people; the folder to work in is the only argument.

use std::time::Instant;

use vellum_benches::{MemoryDisk, deepen, import, name, new_store};
use vellum_core::tree::NodeRef;
use vellum_store::{ImageInput, LiveDisk, Store};

const CHUNK_LEN: usize = 4096;
const DISK_LEN: u64 = 1 << 30;
/// The range that is read again and again: a part of the disk that every cache holds.
const WARM_LEN: u64 = 32 << 20;

fn main() {
    let dir = std::env::args()
        .nth(1)
        .map_or_else(std::env::temp_dir, Into::into);
    let folder = tempfile::tempdir_in(dir).expect("a folder to work in");
    let store = new_store(&folder.path().join("store"));
    let base = import(
        &store,
        ImageInput::of_source(
            Box::new(MemoryDisk::half_noise(256 << 20, 1)),
            "noise".to_owned(),
        ),
        "base",
    );
    reads(&store, NodeRef::Image(base));
    writes(&store);
}

fn reads(store: &Store, base: NodeRef) {
    for depth in [1, 1000] {
        let image = store
            .create_child(&name(&format!("deep{depth}")), base, None)
            .expect("a free name")
            .image_id();
        let live = deepen(store, image, depth);
        let mut random = fastrand::Rng::with_seed(depth);
        let mut buffer = [0; CHUNK_LEN];
        let mut read = |at: u64| live.read_at(&mut buffer, at).expect("sound");
        let started = Instant::now();
        (0..(64 << 20) / (1 << 20)).for_each(|nth| read((nth << 20) + (64 << 20)));
        println!(
            "depth {depth}: cold 4 KiB read {:.0} us",
            started.elapsed().as_secs_f64() * 1e6 / 64.0
        );
        (0..WARM_LEN / 4096).for_each(|nth| read(nth * 4096));
        let count = 100_000;
        let started = Instant::now();
        (0..count).for_each(|_| read(random.u64(..WARM_LEN / 4096) * 4096));
        println!(
            "depth {depth}: warm 4 KiB read {:.0} ns",
            started.elapsed().as_secs_f64() * 1e9 / f64::from(count)
        );
        let mut long = vec![0; 1 << 20];
        for round in ["cold", "again"] {
            let started = Instant::now();
            (128..256).for_each(|nth| live.read_at(&mut long, nth << 20).expect("sound"));
            println!(
                "depth {depth}: sequential 1 MiB reads, {round}: {:.0} MB/s",
                mb_per_s(128 << 20, started)
            );
        }
    }
}

fn writes(store: &Store) {
    let mut random = fastrand::Rng::with_seed(9);
    let overlay = |text: &str| {
        let image = store
            .create_image(&name(text), DISK_LEN)
            .expect("a free name")
            .image_id();
        store.open_live(image).expect("nobody else writes")
    };
    for (text, count, every) in [("w-end", 40_000, 0), ("w-32", 6_400, 32), ("w-1", 400, 1)] {
        let live = overlay(text);
        let started = Instant::now();
        for nth in 1..=count {
            write_one(&live, &mut random);
            if every > 0 && nth % every == 0 {
                live.flush().expect("room");
            }
        }
        let written = started.elapsed().as_secs_f64();
        live.flush().expect("room");
        let all = started.elapsed().as_secs_f64();
        println!(
            "random 4 KiB writes, flush every {every}: {:.0} a second ({:.0} before the last \
             flush)",
            f64::from(count) / all,
            f64::from(count) / written
        );
    }
    let live = overlay("w-seq");
    let mut long = vec![0; 1 << 20];
    let started = Instant::now();
    for nth in 0..256 {
        fill(&mut long, &mut random);
        live.write_at(&long, nth << 20).expect("room");
    }
    live.flush().expect("room");
    println!(
        "sequential 1 MiB writes: {:.0} MB/s",
        mb_per_s(256 << 20, started)
    );
}

/// Half noise, so that compression has its usual work.
fn fill(bytes: &mut [u8], random: &mut fastrand::Rng) {
    bytes
        .chunks_mut(128)
        .for_each(|pair| random.fill(&mut pair[..64]));
}

fn write_one(live: &LiveDisk, random: &mut fastrand::Rng) {
    let mut chunk = [0; CHUNK_LEN];
    fill(&mut chunk, random);
    live.write_at(&chunk, random.u64(..DISK_LEN / 4096) * 4096)
        .expect("room");
}

fn mb_per_s(bytes: u64, since: Instant) -> f64 {
    bytes as f64 / 1e6 / since.elapsed().as_secs_f64()
}
