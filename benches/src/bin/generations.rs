//! `vellum-generations`: an encrypted repository after 200 generations with retention, beside
//! itself after 10: restore, push, and what they take. Each figure is measured in a process of its
//! own, so that its peak memory is its own.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use vellum_backup::forget::{ForgetWish, forget};
use vellum_backup::objects::{Folder, ObjectKind};
use vellum_backup::prune::{PruneOptions, prune};
use vellum_backup::push::{PushRequest, PushSelection, push};
use vellum_backup::reader::Reader;
use vellum_backup::restore::{RestoreTarget, restore};
use vellum_backup::seal::{KeyFile, Opener, PasswordCost};
use vellum_backup::{ClientFolders, FirstKey, Repository, Rollback, Writer};
use vellum_benches::{name, new_store, peak_memory_kib, timed};
use vellum_core::identity::ContentId;
use vellum_core::retention::{KeepLimit, RetentionRules};
use vellum_core::units::ChunkLen;
use vellum_store::{Access, CollectOptions, Store, Unwatched};

const GENERATIONS: u64 = 200;
const EARLY: u64 = 10;
const KEPT: u32 = 7;
const DISK_LEN: u64 = 1 << 30;
/// The length of these data in bytes; half of each chunk is noise, so they compress to about half.
const DATA_LEN: u64 = 512 << 20;
/// The writes of a guest between two generations: 160 stretches of 64 KiB, anywhere in the data.
const STRETCHES: u64 = 160;
const STRETCH_LEN: usize = 64 << 10;
const RUNS: usize = 5;

/// The figures of one process.
#[derive(Clone, Copy)]
struct Measured {
    seconds: f64,
    peak_kib: f64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [step, dir, generation] => act(step, Path::new(dir), generation.parse().expect("a number")),
        _ => compare(),
    }
}

fn act(step: &str, dir: &Path, generation: u64) {
    let took = match step {
        "make" => timed(|| make(dir)),
        "write" => timed(|| write(dir, generation)),
        "thin" => timed(|| thin(dir)),
        "push" => {
            let (store, repository) = (open_store(dir), open(dir));
            timed(|| push_all(&repository, &store))
        }
        "restore" => timed(|| restore_newest(dir)),
        other => panic!("steps are make, write, push, thin and restore, not {other}"),
    };
    println!("{} {}", took.as_secs_f64(), peak_memory_kib());
}

/// Lives through all generations, and looks at two of them.
fn compare() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dir = folder.path();
    alone("make", dir, 0);
    let (mut early, mut late) = (Vec::new(), Vec::new());
    for generation in 1..=GENERATIONS {
        alone("write", dir, generation);
        let pushed = alone("push", dir, generation);
        alone("thin", dir, generation);
        // The push of one generation depends on chance: those around it count, too.
        if (EARLY - 4..=EARLY).contains(&generation) {
            early.push(pushed);
        }
        if generation > GENERATIONS - 5 {
            late.push(pushed);
        }
        if generation == EARLY {
            shown(&format!("generation {EARLY}"), dir);
            early = vec![median(early), restored(dir)];
        }
    }
    shown(&format!("generation {GENERATIONS}"), dir);
    late = vec![median(late), restored(dir)];
    println!(
        "generation {GENERATIONS} beside generation {EARLY}, of {} MiB of data, {KEPT} kept:",
        DATA_LEN >> 20
    );
    for (what, (early, late)) in ["push", "restore"]
        .into_iter()
        .zip(early.into_iter().zip(late))
    {
        let (seconds, peak) = (late.seconds / early.seconds, late.peak_kib / early.peak_kib);
        println!(
            "  {what}: {:.2} s and {:.2} s, ratio {seconds:.2}",
            early.seconds, late.seconds
        );
        println!(
            "  {what}: peak memory {:.0} MiB and {:.0} MiB, ratio {peak:.2}",
            early.peak_kib / 1024.0,
            late.peak_kib / 1024.0
        );
    }
}

/// Runs one step in a process of its own.
fn alone(step: &str, dir: &Path, generation: u64) -> Measured {
    let program = std::env::current_exe().expect("a running program has a path");
    let output = Command::new(program)
        .arg(step)
        .arg(dir)
        .arg(generation.to_string())
        .output()
        .expect("a program that runs can be run again");
    assert!(
        output.status.success(),
        "{step} {generation} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers: Vec<f64> = text
        .split_whitespace()
        .map(|number| number.parse().expect("a number"))
        .collect();
    Measured {
        seconds: numbers[0],
        peak_kib: numbers[1],
    }
}

fn restored(dir: &Path) -> Measured {
    median((0..RUNS).map(|_| alone("restore", dir, 0)).collect())
}

/// The middle of each figure by itself.
fn median(mut measured: Vec<Measured>) -> Measured {
    let middle = measured.len() / 2;
    measured.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let seconds = measured[middle].seconds;
    measured.sort_by(|a, b| a.peak_kib.total_cmp(&b.peak_kib));
    Measured {
        seconds,
        peak_kib: measured[middle].peak_kib,
    }
}

fn shown(what: &str, dir: &Path) {
    let repository = open(dir);
    let of = |kind| {
        let objects = repository.list(kind).expect("a listing");
        (
            objects.len(),
            objects.iter().map(|(_, len)| len).sum::<u64>(),
        )
    };
    let ((packs, packs_len), (indexes, index_len)) = (of(ObjectKind::Pack), of(ObjectKind::Index));
    let (records, maps) = (of(ObjectKind::Record), of(ObjectKind::Maps));
    println!(
        "{what}: {} points, {packs} packs of {} MiB, {indexes} index objects of {} KiB, {} maps \
         objects of {} KiB, {} records of {} KiB",
        repository.state().points().count(),
        packs_len >> 20,
        index_len >> 10,
        maps.0,
        maps.1 >> 10,
        records.0,
        records.1 >> 10
    );
}

fn opener(dir: &Path) -> Opener {
    let text = std::fs::read_to_string(dir.join("key")).expect("the key was made");
    Opener::KeyFile(KeyFile::parse(&text).expect("a key"))
}

fn folders(dir: &Path) -> ClientFolders {
    ClientFolders {
        cache: Some(dir.join("cache")),
        state: Some(dir.join("state")),
    }
}

fn open(dir: &Path) -> Repository {
    let objects = Arc::new(Folder::new(dir.join("repository")));
    Repository::open(objects, Some(&opener(dir)), folders(dir), Rollback::Refused)
        .expect("it opens")
}

fn open_store(dir: &Path) -> Store {
    Store::open_dir(&dir.join("store"), Access::ReadWrite, "bench").expect("it opens")
}

fn writer() -> Writer {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    Writer {
        name: "bench".to_owned(),
        host: None,
        time_ms: u64::try_from(now.as_millis()).expect("not that late"),
        process: None,
    }
}

fn make(dir: &Path) {
    let key = KeyFile::generate().expect("random bytes");
    std::fs::write(dir.join("key"), key.to_text().as_bytes()).expect("room");
    let first = FirstKey {
        opener: opener(dir),
        label: "bench".to_owned(),
        cost: PasswordCost::default(),
    };
    let objects = Arc::new(Folder::new(dir.join("repository")));
    drop(
        Repository::init(objects, ChunkLen::DEFAULT, Some(&first), 0, folders(dir))
            .expect("a new repository"),
    );
    let store = new_store(&dir.join("store"));
    let image = store
        .create_image(&name("disk"), DISK_LEN)
        .expect("the first image")
        .image_id();
    let live = store.open_live(image).expect("nobody else writes");
    let (mut random, mut piece) = (fastrand::Rng::with_seed(1), vec![0; 1 << 20]);
    for at in (0..DATA_LEN).step_by(1 << 20) {
        piece
            .chunks_mut(128)
            .for_each(|pair| random.fill(&mut pair[..64]));
        live.write_at(&piece, at).expect("room");
    }
    live.flush().expect("room");
    drop(live);
    push_all(&open(dir), &store);
}

/// The work of a guest in a day, and the snapshot in the evening; the store keeps as many as the
/// repository does.
fn write(dir: &Path, generation: u64) {
    let store = open_store(dir);
    let image = store.find_node("disk").expect("it was made").image_id();
    let live = store.open_live(image).expect("nobody else writes");
    let (mut random, mut stretch) = (fastrand::Rng::with_seed(generation), vec![0; STRETCH_LEN]);
    for _ in 0..STRETCHES {
        stretch
            .chunks_mut(128)
            .for_each(|pair| random.fill(&mut pair[..64]));
        live.write_at(
            &stretch,
            random.u64(..DATA_LEN / STRETCH_LEN as u64) * STRETCH_LEN as u64,
        )
        .expect("room");
    }
    live.flush().expect("room");
    drop(live);
    store
        .take_snapshot(image, &name(&format!("g{generation}")))
        .expect("a name that is free");
    let serials: Vec<u64> = store
        .tree()
        .snapshots_of(image)
        .map(|snapshot| snapshot.serial)
        .collect();
    for serial in &serials[..serials.len().saturating_sub(KEPT as usize)] {
        store.delete_snapshot(image, *serial).expect("it is there");
    }
    if generation.is_multiple_of(10) {
        store
            .collect(CollectOptions::default(), &Unwatched)
            .expect("nothing is damaged");
    }
}

fn push_all(repository: &Repository, store: &Store) {
    let request = PushRequest {
        again: false,
        selection: PushSelection::All,
        trust_others: false,
        verify: false,
        limit_upload: None,
        index_fetch_len: vellum_backup::push::INDEX_FETCH_LEN,
        assumed: HashSet::new(),
        writer: writer(),
    };
    push(repository, store, &request, &Unwatched).expect("a push");
}

/// Keeps the newest, and gives the space of the others back.
fn thin(dir: &Path) {
    let repository = open(dir);
    let rules = RetentionRules {
        last: KeepLimit::Newest(KEPT),
        ..RetentionRules::default()
    };
    let wish = ForgetWish::from(rules);
    forget(&repository, &wish, writer()).expect("a policy");
    prune(&repository, &PruneOptions::default(), writer(), &Unwatched).expect("a collection");
}

/// The newest state to a file.
fn restore_newest(dir: &Path) {
    let repository = open(dir);
    let state = repository.state();
    let newest = state
        .points()
        .max_by_key(|point| (point.time_ms, point.snapshot.is_none()))
        .expect("it was pushed");
    let (reader, path) = (Reader::new(&repository), dir.join("out.raw"));
    let content = ContentId::parse(&newest.content).expect("a content");
    restore(
        &reader,
        content,
        RestoreTarget::File {
            path,
            overwrite: true,
        },
        &Unwatched,
    )
    .expect("a restore");
}
