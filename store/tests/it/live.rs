//! Concurrent writes: many threads on one live disk, while it is snapshotted, collected and tended:
//! every sector holds a value that its writer may expect.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use vellum_core::tree::NodeRef;
use vellum_core::units::ImageId;
use vellum_store::{CollectOptions, LiveDisk, Store, Unwatched};

use super::{drive, scratch};

const SECTOR_LEN: u64 = 512;
/// Two pages of the map and a cut chunk at the end.
const DISK_LEN: u64 = (5 << 20) + 3 * SECTOR_LEN;
const SECTORS: u64 = DISK_LEN / SECTOR_LEN;
const WRITERS: u64 = 4;

/// A writer owns every fourth sector: all chunks are shared, so each write is a part of a chunk
/// that others write, too.
struct Writer<'d> {
    disk: &'d LiveDisk,
    number: u64,
    random: fastrand::Rng,
    /// For each of its sectors, the rounds that wrote it, last one last; those before the last
    /// flush are forgotten. Round 0 is zeros.
    history: Vec<Vec<u64>>,
}

/// Content of a sector that was written in `round`.
fn sector(number: u64, round: u64) -> Vec<u8> {
    if round == 0 {
        vec![0; SECTOR_LEN as usize]
    } else {
        (round << 8 | number)
            .to_le_bytes()
            .repeat(SECTOR_LEN as usize / 8)
    }
}

impl<'d> Writer<'d> {
    fn new(disk: &'d LiveDisk, number: u64, seed: u64) -> Self {
        let count = (SECTORS - number).div_ceil(WRITERS);
        Self {
            disk,
            number,
            random: fastrand::Rng::with_seed(seed + number),
            history: vec![vec![0]; count as usize],
        }
    }

    fn offset(&self, nth: u64) -> u64 {
        (nth * WRITERS + self.number) * SECTOR_LEN
    }

    fn step(&mut self, round: u64) {
        let nth = if self.random.bool() {
            self.random.u64(..60)
        } else {
            self.random.u64(..self.history.len() as u64)
        };
        let offset = self.offset(nth);
        let history = &mut self.history[nth as usize];
        match self.random.u8(..20) {
            0..10 => {
                self.disk
                    .write_at(&sector(self.number, round), offset)
                    .expect("write");
                history.push(round);
            }
            10..12 => {
                self.disk.write_zeroes(offset, SECTOR_LEN).expect("zeros");
                history.push(0);
            }
            12..19 => {
                let mut seen = vec![0xaa; SECTOR_LEN as usize];
                self.disk.read_at(&mut seen, offset).expect("read");
                assert!(
                    seen == sector(self.number, *history.last().expect("never empty")),
                    "sector {nth} of {} in round {round}",
                    self.number
                );
            }
            _ => {
                self.disk.flush().expect("flush");
                self.history
                    .iter_mut()
                    .for_each(|history| drop(history.drain(..history.len() - 1)));
            }
        }
    }

    /// Checks that its sectors hold values that they may have, once unflushed writes are forgotten.
    fn check(&self, content: &[u8]) {
        for (nth, history) in (0..).zip(&self.history) {
            let offset = self.offset(nth) as usize;
            let seen = &content[offset..offset + SECTOR_LEN as usize];
            assert!(
                history
                    .iter()
                    .any(|round| seen == sector(self.number, *round)),
                "sector {nth} of {}",
                self.number
            );
        }
    }
}

/// Snapshots, collections, tending and another disk with the same content, until the writers are
/// done.
fn disturb(store: &Store, image: ImageId, is_over: &AtomicBool, seed: u64) -> u64 {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut count = 0;
    while !is_over.load(Ordering::SeqCst) {
        count += 1;
        match random.u8(..6) {
            0 => drop(
                store
                    .take_snapshot(image, &drive::name(&format!("s{count}")))
                    .expect("snapshot"),
            ),
            1 => {
                let newest = store
                    .tree()
                    .snapshots_of(image)
                    .map(|snapshot| snapshot.serial)
                    .next();
                newest
                    .into_iter()
                    .for_each(|serial| store.delete_snapshot(image, serial).expect("delete"));
            }
            2 => drop(
                store
                    .collect(CollectOptions::default(), &Unwatched)
                    .expect("collect"),
            ),
            3 => drop(store.compute_stats().expect("stats")),
            _ => drop(store.run_maintenance(&Unwatched).expect("tend")),
        }
    }
    count
}

fn run(dir: &Path, seed: u64, rounds: u64, waiting_len_max: usize) {
    let store = scratch::store_in(dir, scratch::LZ4);
    store.set_waiting_len_max(waiting_len_max);
    store.set_cache_len(1 << 20);
    let image = store
        .create_image(&drive::name("disk"), DISK_LEN)
        .expect("create")
        .image_id();
    let disk = store.open_live(image).expect("live");
    let (is_over, next_round) = (AtomicBool::new(false), AtomicU64::new(1));
    let (writers, disturbances) = thread::scope(|scope| {
        let disturbing = scope.spawn(|| disturb(&store, image, &is_over, seed));
        let writing: Vec<_> = (0..WRITERS)
            .map(|number| {
                let (disk, next_round) = (&disk, &next_round);
                scope.spawn(move || {
                    let mut writer = Writer::new(disk, number, seed);
                    (0..rounds)
                        .for_each(|_| writer.step(next_round.fetch_add(1, Ordering::Relaxed)));
                    writer
                })
            })
            .collect();
        let writers: Vec<_> = writing
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect();
        is_over.store(true, Ordering::SeqCst);
        let disturbances = disturbing
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let writers: Vec<Writer<'_>> = writers
            .into_iter()
            .map(|writer| writer.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect();
        (writers, disturbances)
    });
    let histories: Vec<(u64, Vec<Vec<u64>>)> = writers
        .into_iter()
        .map(|writer| (writer.number, writer.history))
        .collect();
    drop((disk, store));
    let store = scratch::open(dir);
    let content = drive::read(&store, "disk").expect("readable");
    drive::check(&store, true).expect("checked");
    let disk = store.open_live(image).expect("live");
    for (number, history) in histories {
        Writer {
            disk: &disk,
            number,
            random: fastrand::Rng::new(),
            history,
        }
        .check(&content);
    }
    println!(
        "live: {WRITERS} threads, {rounds} steps each, {disturbances} disturbances, seed {seed}"
    );
}

#[test]
fn every_sector_holds_what_its_writer_may_expect() {
    let seed = std::env::var("VELLUM_TEST_SEED").map_or_else(
        |_| fastrand::u64(..1 << 32),
        |text| text.parse().expect("a number"),
    );
    println!("live: VELLUM_TEST_SEED={seed}");
    for (nth, waiting_len_max) in [(0, 64 << 20), (1, 64 << 10)] {
        let folder = scratch::folder();
        run(
            &folder.path().join("store"),
            seed,
            1500,
            waiting_len_max << nth,
        );
    }
}

#[test]
fn the_frames_of_a_thousand_small_flushes_become_few_and_hold_what_they_held() {
    const FLUSHES: u64 = 1000;
    let folder = scratch::folder();
    let dir = folder.path().join("store");
    let store = scratch::store_in(&dir, scratch::ZSTD);
    let image = store
        .create_image(&drive::name("disk"), 32 << 20)
        .expect("create")
        .image_id();
    let disk = store.open_live(image).expect("live");
    let mut random = fastrand::Rng::with_seed(3);
    let mut expected = vec![0; 32 << 20];
    let mut merged = 0;
    for nth in 0..FLUSHES {
        let offset = random.usize(..expected.len() / 4096) * 4096;
        random.fill(&mut expected[offset..offset + 4096]);
        disk.write_at(&expected[offset..offset + 4096], offset as u64)
            .expect("write");
        disk.flush().expect("flush");
        if nth % 100 == 50 {
            merged += store
                .run_maintenance(&Unwatched)
                .expect("tend")
                .frames_merged;
        }
    }
    while {
        let report = store.run_maintenance(&Unwatched).expect("tend");
        merged += report.frames_merged;
        report.has_more
    } {}
    let frames = drive::check(&store, true).expect("checked").frames;
    // 1,000 chunks in frames of 32; what is too small for a step of its own stays.
    assert!(frames <= 50, "{frames} frames");
    assert!(merged >= FLUSHES - 50, "{merged} merged");
    assert_eq!(
        store
            .run_maintenance(&Unwatched)
            .expect("tend")
            .frames_merged,
        0,
        "nothing is left to do"
    );
    let mut seen = vec![0xaa; expected.len()];
    disk.read_at(&mut seen, 0).expect("read");
    drive::same(&seen, &expected, "the disk");
    drop((disk, store));
    drive::same(
        &drive::read(&scratch::open(&dir), "disk").expect("readable"),
        &expected,
        "opened again",
    );
}

#[test]
fn a_snapshot_that_nobody_needs_is_merged_beside_a_writer() {
    let folder = scratch::folder();
    let store = scratch::store_in(&folder.path().join("store"), scratch::ZSTD);
    let base = store
        .create_image(&drive::name("base"), 1 << 20)
        .expect("create");
    let child = store
        .create_child(&drive::name("child"), base, None)
        .expect("child")
        .image_id();
    for nth in 0..10 {
        let disk = store.open_live(child).expect("live");
        disk.write_at(&[nth + 1; 4096], u64::from(nth) * 4096)
            .and_then(|()| disk.flush())
            .expect("write");
        drop(disk);
        store
            .take_snapshot(child, &drive::name(&format!("s{nth}")))
            .expect("snapshot");
    }
    let serials: Vec<u64> = store
        .tree()
        .snapshots_of(child)
        .map(|snapshot| snapshot.serial)
        .collect();
    let other = store.open_live(base.image_id()).expect("live");
    other.write_at(&[9; 100], 5).expect("write");
    serials
        .into_iter()
        .for_each(|serial| store.delete_snapshot(child, serial).expect("delete"));
    let report = store.run_maintenance(&Unwatched).expect("tend");
    assert!(report.layers_merged >= 9, "{report:?}");
    let content: Vec<u8> = (1..=10).flat_map(|byte| vec![byte; 4096]).collect();
    drive::same(
        &drive::read(&store, "child").expect("readable")[..content.len()],
        &content,
        "child",
    );
    other.flush().expect("flush");
    assert_eq!(
        drive::read(&store, "base").expect("readable")[5..105],
        [9; 100]
    );
    assert!(matches!(store.open_disk(NodeRef::Image(child)), Ok(disk) if disk.chain().len() <= 3));
}
