//! Concurrency: imports that meet in the same chunks, a collection beside them, snapshots between
//! them, other processes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use vellum_core::tree::NodeRef;
use vellum_store::{
    Access, CollectOptions, ImageInput, ImportReport, ImportRequest, ImportTarget, Store,
    StoreError, Unwatched,
};

use super::content::{Choices, Content, Pool};
use super::{drive, scratch};

const MIB: u64 = 1 << 20;

fn import(
    store: &Store,
    name: &str,
    parent: Option<NodeRef>,
    bytes: &[u8],
    as_stream: bool,
) -> Result<ImportReport, StoreError> {
    let request = ImportRequest {
        target: ImportTarget::New {
            name: drive::name(name),
            parent,
        },
        snapshot: None,
    };
    store.import(
        drive::input(Content::plain(bytes.to_vec()), as_stream),
        &request,
        &Unwatched,
    )
}

/// Noise: no two chunks alike, none zero.
fn noise(seed: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

#[test]
fn the_same_disk_imported_by_four_threads_is_stored_once() {
    let folder = scratch::folder();
    let store = scratch::store_in(&folder.path().join("store"), scratch::ZSTD);
    let bytes = noise(1, 12 * MIB + 777);
    let chunks = bytes.len().div_ceil(4096) as u64;
    let reports: Vec<ImportReport> = thread::scope(|scope| {
        let import = |nth: usize| {
            import(
                &store,
                &format!("disk-{nth}"),
                None,
                &bytes,
                nth.is_multiple_of(2),
            )
            .expect("imported")
        };
        let threads: Vec<_> = (0..4).map(|nth| scope.spawn(move || import(nth))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("an import does not panic"))
            .collect()
    });
    let (new, known): (u64, u64) = reports.iter().fold((0, 0), |(new, known), report| {
        (new + report.new, known + report.known)
    });
    assert_eq!(
        store.compute_stats().expect("added up").chunks,
        chunks,
        "each chunk is stored once"
    );
    assert_eq!(
        (new, known),
        (chunks, 3 * chunks),
        "each chunk is new to one import and known to three"
    );
    (0..4).for_each(|nth| {
        drive::same(
            &drive::read(&store, &format!("disk-{nth}")).expect("readable"),
            &bytes,
            "a disk",
        );
    });
    drive::check(&store, true).expect("checked");
    println!("concurrency: {chunks} chunks came four times at once and were stored once");
}

/// Invariant 8: images come and go whose chunks are the same, while a collection runs all the time.
/// A chunk that one import takes for "already there" is the one that the collection is about to
/// drop.
#[test]
fn imports_beside_a_collection_never_lose_a_chunk() {
    const ROUNDS: u64 = 50;
    let seed = std::env::var("VELLUM_TEST_SEED").map_or_else(
        |_| fastrand::u64(..1 << 32),
        |text| text.parse().expect("a number"),
    );
    println!("concurrency: VELLUM_TEST_SEED={seed}");
    let folder = scratch::folder();
    let store = scratch::store_in(&folder.path().join("store"), scratch::ZSTD);
    let (over, pool) = (AtomicBool::new(false), Pool::new(4096));
    let (collections, dropped) = thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let (mut count, mut dropped) = (0, 0);
            while !over.load(Ordering::SeqCst) {
                dropped += store
                    .collect(CollectOptions::default(), &Unwatched)
                    .expect("collects")
                    .chunks_dropped;
                count += 1;
            }
            (count, dropped)
        });
        let importers: Vec<_> = (0..2)
            .map(|nth| {
                scope.spawn({
                    let (store, pool) = (&store, &pool);
                    move || import_and_delete(store, pool, nth, seed, ROUNDS)
                })
            })
            .collect();
        let ended: Vec<_> = importers
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect();
        over.store(true, Ordering::SeqCst);
        let counts = collector.join().expect("a collection does not panic");
        ended
            .into_iter()
            .for_each(|ended| ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        counts
    });
    drive::check(&store, true).expect("checked");
    println!(
        "concurrency: {} imports beside {collections} collections that dropped {dropped} chunks, seed {seed}",
        2 * ROUNDS
    );
}

/// A pipe whose producer takes its time, so that whole collections begin and end while it is read.
struct Slow(std::io::Cursor<Vec<u8>>);

impl std::io::Read for Slow {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        thread::sleep(std::time::Duration::from_millis(4));
        let len = buffer.len().min(256 << 10);
        self.0.read(&mut buffer[..len])
    }
}

fn import_slowly(store: &Store, name: &str, bytes: &[u8]) {
    let request = ImportRequest {
        target: ImportTarget::New {
            name: drive::name(name),
            parent: None,
        },
        snapshot: None,
    };
    let pipe = Slow(std::io::Cursor::new(bytes.to_vec()));
    store
        .import(
            ImageInput::of_stream(Box::new(pipe), "a slow pipe".to_owned()),
            &request,
            &Unwatched,
        )
        .expect("imported");
}

fn import_and_delete(store: &Store, pool: &Pool, nth: u64, seed: u64, rounds: u64) {
    let mut random = fastrand::Rng::with_seed(seed + nth);
    let mut kept: Vec<(String, Vec<u8>)> = Vec::new();
    for round in 0..rounds {
        let name = format!("disk-{nth}-{round}");
        let len = random.below(5 * MIB);
        let bytes = pool.fresh(&mut random, len);
        if random.bool() {
            import_slowly(store, &name, &bytes);
        } else {
            import(store, &name, None, &bytes, false).expect("imported");
        }
        kept.push((name, bytes));
        for (name, bytes) in &kept {
            drive::same(
                &drive::read(store, name).expect("what was imported can be read"),
                bytes,
                name,
            );
        }
        while kept.len() > 2 {
            let (name, _) = kept.swap_remove(random.usize(..kept.len()));
            store
                .delete_image(drive::image(store, &name).expect("it is there"), false)
                .expect("deleted");
        }
    }
    // Some stay for the last check.
    for (name, bytes) in &kept {
        drive::same(
            &drive::read(store, name).expect("what was imported can be read"),
            bytes,
            name,
        );
    }
}

#[test]
fn snapshots_and_children_of_one_image_while_another_is_imported() {
    let folder = scratch::folder();
    let store = scratch::store_in(&folder.path().join("store"), scratch::ZSTD);
    let (quiet, busy) = (noise(2, MIB), noise(3, 24 * MIB));
    import(&store, "quiet", None, &quiet, false).expect("imported");
    let image = drive::image(&store, "quiet").expect("just imported");
    let taken = thread::scope(|scope| {
        let importer = scope.spawn(|| import(&store, "busy", None, &busy, true));
        let mut taken = 0;
        while !importer.is_finished() && taken < 500 {
            store
                .take_snapshot(image, &drive::name(&format!("s{taken}")))
                .expect("snapshot while another image is imported");
            let child = store
                .create_child(
                    &drive::name(&format!("child-{taken}")),
                    NodeRef::Image(image),
                    None,
                )
                .expect("child");
            drive::same(
                &drive::read(&store, &format!("child-{taken}")).expect("readable"),
                &quiet,
                "a child",
            );
            store
                .delete_image(child.image_id(), false)
                .expect("deleted");
            taken += 1;
        }
        importer
            .join()
            .expect("an import does not panic")
            .expect("imported");
        taken
    });
    drive::same(
        &drive::read(&store, "busy").expect("readable"),
        &busy,
        "busy",
    );
    drive::check(&store, true).expect("checked");
    println!("concurrency: {taken} snapshots and children during one import");
}

#[test]
fn one_image_is_changed_by_one_at_a_time() {
    let folder = scratch::folder();
    let store = scratch::store_in(&folder.path().join("store"), scratch::ZSTD);
    import(&store, "disk", None, &noise(4, MIB), false).expect("imported");
    let image = drive::image(&store, "disk").expect("just imported");
    let disk = store.open_live(image).expect("opens for writing");
    let busy = |outcome: Result<(), StoreError>| {
        assert!(matches!(outcome, Err(StoreError::Busy(_))), "{outcome:?}");
    };
    busy(store.open_live(image).map(drop));
    busy(store.delete_image(image, true));
    busy(store.flatten(image, &Unwatched));
    busy(store.resize_image(image, 10, true));
    let request = ImportRequest {
        target: ImportTarget::Update(image),
        snapshot: None,
    };
    busy(
        store
            .import(
                drive::input(Content::plain(vec![1; 10]), false),
                &request,
                &Unwatched,
            )
            .map(drop),
    );
    drop(disk);
    store
        .open_live(image)
        .map(drop)
        .expect("opens again once it is free");
}

#[test]
fn a_second_process_is_told_who_has_the_store_and_may_read_it() {
    let folder = scratch::folder();
    let dir = folder.path().join("store");
    let store = scratch::store_in(&dir, scratch::ZSTD);
    let bytes = noise(5, 3 * MIB);
    import(&store, "before", None, &bytes, false).expect("imported");
    // Another open of the lock file stands for another process: flock belongs to the open file.
    let error = Store::open_dir(&dir, Access::ReadWrite, "second")
        .err()
        .expect("in use");
    let by = if let StoreError::InUse { by, .. } = &error {
        by.clone()
    } else {
        panic!("{error:?}")
    };
    assert!(
        by.contains(&std::process::id().to_string()) && by.contains("test"),
        "{by}"
    );
    let opened = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for nth in 0..40 {
                import(
                    &store,
                    &format!("disk-{nth}"),
                    None,
                    &noise(100 + nth, MIB),
                    false,
                )
                .expect("imported");
                let image = drive::image(&store, &format!("disk-{nth}")).expect("just imported");
                if nth % 3 == 1 {
                    store.delete_image(image, false).expect("deleted");
                    store
                        .collect(CollectOptions::default(), &Unwatched)
                        .expect("collected");
                }
            }
        });
        let mut opened = 0;
        while !writer.is_finished() {
            let reader = Store::open_dir(&dir, Access::ReadOnly, "reader")
                .expect("opens for reading while another writes");
            let names: Vec<String> = reader
                .tree()
                .images()
                .map(|image| image.name.to_string())
                .collect();
            drive::same(
                &drive::read(&reader, "before").expect("readable"),
                &bytes,
                "before",
            );
            for name in names.iter().filter(|name| name.starts_with("disk-")) {
                let seed: u64 = name[5..].parse().expect("a number");
                drive::same(
                    &drive::read(&reader, name).expect("what is listed can be read"),
                    &noise(100 + seed, MIB),
                    name,
                );
            }
            opened += 1;
        }
        writer.join().expect("the writer does not panic");
        opened
    });
    println!("concurrency: opened {opened} times for reading while another wrote");
    drop(store);
    scratch::open(&dir);
}
