//! Damage to every file of a store, and then a repair without help from outside.
//!
//! However one file is damaged: the repair ends, the store can be written, no byte is wrong, lost
//! content is named with image and range, a check finds that and no more, and a second repair finds
//! nothing to do. One flipped bit loses nothing, wherever it is. Whole files lose only records that
//! are nowhere else: frames, pages, and the end of the log, which is given up only if that is
//! accepted.
//!
//! `VELLUM_TEST_EVERY=64` does everything to every file, and flips a bit of every 64th byte of it;
//! without, some of each kind. `VELLUM_TEST_ONLY=TEXT` tries only cases whose description has that
//! text.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use vellum_core::tree::NodeRef;
use vellum_store::{
    Access, CheckOptions, CollectOptions, Compression, DeepOptions, ImportRequest, ImportTarget,
    RepairOptions, RepairReport, Store, StoreParameters, Unwatched,
};

use super::content::{Content, Pool};
use super::{drive, scratch};

/// Flips in all files of a store together, unless every so manieth byte is asked for.
const FLIPS: usize = 40;
/// Name of the damage of a flipped bit.
const FLIPPED: &str = "a bit flipped at";
/// Bytes of one read.
const READ_LEN: usize = 4096;

type Contents = BTreeMap<String, Vec<u8>>;

/// A store that was killed, and what it held.
struct Original {
    folder: tempfile::TempDir,
    contents: Contents,
}

/// Frames of four chunks: many of them in few bytes.
fn parameters() -> StoreParameters {
    StoreParameters {
        frame_len: 16 << 10,
        compression: Compression::Zstd(3),
        ..scratch::ZSTD
    }
}

fn import(store: &Store, name: &str, parent: Option<NodeRef>, bytes: Vec<u8>) -> NodeRef {
    let request = ImportRequest {
        target: ImportTarget::New {
            name: drive::name(name),
            parent,
        },
        snapshot: None,
    };
    let input = drive::input(Content::plain(bytes), false);
    store
        .import(input, &request, &Unwatched)
        .expect("imported")
        .node
}

fn contents(store: &Store) -> Contents {
    let nodes: Vec<NodeRef> = store.tree().all_nodes().collect();
    let names: Vec<String> = nodes
        .iter()
        .map(|node| store.tree().display_name(*node))
        .collect();
    let read = |name: String| {
        let bytes = drive::read(store, &name).expect("a whole store can be read");
        (name, bytes)
    };
    names.into_iter().map(read).collect()
}

/// Images with snapshots and children and a machine, in tables and in the log; after a collection
/// if `is_collected`.
fn original(is_collected: bool) -> Original {
    let folder = scratch::folder();
    let dir = folder.path().join("store");
    let (pool, mut random) = (Pool::new(4096), fastrand::Rng::with_seed(5));
    let mut store = scratch::store_in(&dir, parameters());
    let base = pool.fresh(&mut random, 90_000);
    let root = import(&store, "root", None, base.clone());
    let gone = import(&store, "gone", None, pool.fresh(&mut random, 60_000));
    store
        .take_snapshot(root.image_id(), &drive::name("first"))
        .expect("snapshot");
    drop(store);
    store = scratch::open(&dir);
    let mut changed = base;
    pool.change(&mut random, &mut changed);
    changed[20_000..50_000].fill(0);
    import(&store, "child", Some(root), changed);
    store.delete_image(gone.image_id(), true).expect("deleted");
    if is_collected {
        import(&store, "alike", None, alike());
        let options = CollectOptions {
            deep: Some(DeepOptions { level: 3 }),
            ..CollectOptions::default()
        };
        let report = store.collect(options, &Unwatched).expect("collected");
        assert!(report.deep.blocks > 0, "{report:?}");
    }
    drop(store);
    store = scratch::open(&dir);
    let machine = store
        .create_machine(&drive::name("vm"), Some(b"memory=1G"))
        .expect("a machine");
    store
        .add_disk(machine, root.image_id())
        .expect("a disk of it");
    store
        .snapshot_machine(machine, &drive::name("all"))
        .expect("a machine's snapshot");
    let disk = store.open_live(root.image_id()).expect("live");
    disk.write_at(&[7; 9000], 50_000)
        .and_then(|()| disk.flush())
        .expect("written");
    drop(disk);
    store
        .create_image(&drive::name("empty"), 5000)
        .expect("created");
    let contents = contents(&store);
    // The store as a process that is killed leaves it: with a log.
    scratch::copy_of_a_crash(&dir, &folder.path().join("killed"));
    drop(store);
    Original { folder, contents }
}

/// A disk whose chunks are alike: a deep collection makes a solid block of their frames.
fn alike() -> Vec<u8> {
    let chunk = |nth: u64| {
        let mut bytes = vec![0; 4096];
        fastrand::Rng::with_seed(nth / 8).fill(&mut bytes[..2048]);
        bytes[2048..2056].copy_from_slice(&nth.to_le_bytes());
        bytes
    };
    (0..48).flat_map(chunk).collect()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder can be read") {
            let path = entry.expect("a folder can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// Kind of a file, for the table: the family of a table, the kind of others.
fn kind(path: &Path) -> String {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let extension = path.extension().and_then(|extension| extension.to_str());
    if extension == Some("sst") {
        let bytes = fs::read(path).expect("a file can be read");
        let families = [
            "frames", "headers", "index", "layers", "pages", "names", "meta", "copies",
        ];
        let says = |family: &&&str| {
            let needle = format!("name{family}");
            bytes
                .windows(needle.len())
                .any(|window| window == needle.as_bytes())
        };
        return families
            .iter()
            .find(says)
            .map_or_else(|| "table".to_owned(), |family| format!("table of {family}"));
    }
    if extension == Some("log") {
        return "log".to_owned();
    }
    name.split('-').next().unwrap_or(name).to_owned()
}

/// A file of a store.
struct Damageable {
    name: PathBuf,
    kind: String,
    len: usize,
}

fn damageable(source: &Path) -> Vec<Damageable> {
    let file = |path: PathBuf| Damageable {
        name: path.strip_prefix(source).expect("inside").to_owned(),
        kind: kind(&path),
        len: fs::metadata(&path).expect("it is there").len() as usize,
    };
    files(source).into_iter().map(file).collect()
}

/// Outcome of a repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Healed,
    /// Something is lost, and named.
    Lost,
    /// An earlier state had to be accepted.
    FellBack,
}

/// Does the damage to a copy of the store, repairs it, and holds it against what it held.
fn meet(original: &Original, name: &Path, damage: &dyn Fn(&Path), context: &str) -> Verdict {
    let folder = scratch::folder();
    let dir = folder.path().join("store");
    scratch::copy(&original.folder.path().join("killed"), &dir).expect("a store can be copied");
    damage(&dir.join(name));
    let repair = |options: RepairOptions| {
        Store::repair(&dir, options, &|_| {}, "test", &Unwatched)
            .unwrap_or_else(|error| panic!("{context}: refused: {error}"))
    };
    let before = inventory(&dir);
    let dry = repair(RepairOptions::default());
    assert!(!dry.applied, "{context}");
    assert_eq!(
        inventory(&dir),
        before,
        "{context}: a dry run changes nothing"
    );
    let apply = RepairOptions {
        apply: true,
        accept_earlier_state: dry.needs_acceptance,
    };
    let done = repair(apply);
    assert_eq!(
        (&done.mends, &done.lost),
        (&dry.mends, &dry.lost),
        "{context}: told before"
    );
    let verdict = look(original, &dir, &done, context);
    let again = repair(RepairOptions::default());
    assert!(again.is_sound(), "{context}: a second repair: {again:?}");
    assert_eq!(again.lost, done.lost, "{context}: a second repair");
    use_it(&dir, context);
    verdict
}

/// Files and what is in them; but for what tells who had the store last.
fn inventory(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all: Vec<_> = files(dir)
        .into_iter()
        .map(|path| (path.clone(), fs::read(path).expect("read")))
        .collect();
    all.retain(|(path, _)| !path.ends_with("lock") && !path.ends_with("reserve"));
    all
}

fn look(original: &Original, dir: &Path, done: &RepairReport, context: &str) -> Verdict {
    let store = Store::open_dir(dir, Access::ReadWrite, "test")
        .unwrap_or_else(|error| panic!("{context}: not writable: {error}; {done:?}"));
    let options = CheckOptions {
        read_data: true,
        subset: None,
    };
    let report = store.check(options, &Unwatched).expect("a check goes on");
    let damage: Vec<_> = report
        .findings
        .iter()
        .filter(|finding| finding.is_damage)
        .cloned()
        .collect();
    assert_eq!(
        damage, done.lost,
        "{context}: a check finds what is lost and no more"
    );
    let told: Vec<&(String, Range<u64>)> = done
        .lost
        .iter()
        .flat_map(|finding| &finding.images)
        .collect();
    let mut is_lost = !done.lost.is_empty() || !done.names_lost.is_empty();
    for (name, bytes) in &original.contents {
        let Ok(node) = store.find_node(name) else {
            let is_named = done
                .earlier
                .iter()
                .chain(&done.names_lost)
                .any(|line| line.contains(name.as_str()));
            assert!(
                is_named || done.lost_changes > 0,
                "{context}: {name} is gone without a word: {done:?}"
            );
            is_lost = true;
            continue;
        };
        let disk = store.open_disk(node).expect("a listed node opens");
        let len = disk.len().min(bytes.len() as u64);
        for start in (0..len as usize).step_by(READ_LEN) {
            let end = bytes.len().min(start + READ_LEN);
            let mut seen = vec![0; end - start];
            match disk.read_at(&mut seen, start as u64) {
                Ok(()) if seen == bytes[start..end] => {}
                Ok(()) => assert!(
                    done.needs_acceptance,
                    "{context}: wrong bytes in {name} from {start} on: {done:?}"
                ),
                Err(error) => {
                    let covers = |hit: &&&(String, Range<u64>)| {
                        hit.0 == *name && hit.1.start <= start as u64 && hit.1.end >= end as u64
                    };
                    assert!(
                        told.iter().any(|hit| covers(&hit)),
                        "{context}: {name} at {start}: {error}; told {told:?}"
                    );
                }
            }
        }
    }
    match (done.needs_acceptance, is_lost) {
        (true, _) => Verdict::FellBack,
        (false, true) => {
            println!("{context}: lost {:?} {:?}", done.lost, done.names_lost);
            Verdict::Lost
        }
        (false, false) => Verdict::Healed,
    }
}

/// Writes to the repaired store, collects, and reads what was written.
fn use_it(dir: &Path, context: &str) {
    let store = scratch::open(dir);
    let bytes: Vec<u8> = (0..50_000_u32).map(|nth| (nth * nth % 251) as u8).collect();
    let node = import(&store, "new", None, bytes.clone());
    store
        .take_snapshot(node.image_id(), &drive::name("s"))
        .unwrap_or_else(|error| panic!("{context}: {error}"));
    store
        .collect(CollectOptions::default(), &Unwatched)
        .unwrap_or_else(|error| panic!("{context}: collection: {error}"));
    drop(store);
    let store = scratch::open(dir);
    assert!(
        drive::read(&store, "new@s").expect("read") == bytes,
        "{context}"
    );
}

/// Damages to a whole file.
fn whole_file() -> Vec<(&'static str, Box<dyn Fn(&Path)>)> {
    let change = |change: fn(&mut Vec<u8>)| {
        move |path: &Path| {
            let mut bytes = fs::read(path).expect("read");
            change(&mut bytes);
            fs::write(path, bytes).expect("written");
        }
    };
    vec![
        (
            "deleted",
            Box::new(|path: &Path| fs::remove_file(path).expect("removed")),
        ),
        ("emptied", Box::new(change(Vec::clear))),
        (
            "cut in half",
            Box::new(change(|bytes| bytes.truncate(bytes.len() / 2))),
        ),
        (
            "64 bytes zeroed",
            Box::new(change(|bytes| {
                let (from, to) = (bytes.len() / 3, bytes.len().min(bytes.len() / 3 + 64));
                bytes[from..to].fill(0);
            })),
        ),
        (
            "longer",
            Box::new(change(|bytes| bytes.extend_from_slice(&[0x55; 700]))),
        ),
    ]
}

/// True if damage to a whole file may have this outcome.
fn may_be(kind: &str, what: &str, verdict: Verdict) -> bool {
    if what == FLIPPED {
        return verdict == Verdict::Healed;
    }
    let has_no_copy = ["table of frames", "table of pages"].contains(&kind);
    match (kind, what, verdict) {
        (_, _, Verdict::Healed) => true,
        (_, "longer", _) => kind == "log",
        ("log", _, Verdict::FellBack) => true,
        (_, _, Verdict::Lost) => has_no_copy,
        _ => false,
    }
}

fn flip(at: usize) -> impl Fn(&Path) {
    move |path: &Path| {
        let mut bytes = fs::read(path).expect("read");
        bytes[at] ^= 1 << (at / 64 % 8);
        fs::write(path, bytes).expect("written");
    }
}

/// Damages and repairs one original in many ways, and reports the outcomes.
fn campaign(what: &str, is_collected: bool) {
    let every = std::env::var("VELLUM_TEST_EVERY")
        .ok()
        .and_then(|text| text.parse::<usize>().ok());
    let seed = std::env::var("VELLUM_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    println!("repair: {what}: VELLUM_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let only = std::env::var("VELLUM_TEST_ONLY").unwrap_or_default();
    let original = original(is_collected);
    let source = original.folder.path().join("killed");
    let mut table: BTreeMap<(String, String), BTreeMap<Verdict, u32>> = BTreeMap::new();
    let mut wrong = BTreeSet::new();
    let mut try_one = |file: &Damageable, what: &str, damage: &dyn Fn(&Path), place: usize| {
        let context = format!(
            "seed {seed}: {} ({}) {what} {place}",
            file.name.display(),
            file.kind
        );
        if !context.contains(&only) {
            return;
        }
        // All of a campaign is told, also what comes after a failure.
        let met = catch_unwind(AssertUnwindSafe(|| {
            meet(&original, &file.name, damage, &context)
        }));
        let Ok(verdict) = met else {
            wrong.insert(format!("{context}: see above"));
            return;
        };
        if !may_be(&file.kind, what, verdict) {
            wrong.insert(format!("{context}: {verdict:?}"));
        }
        let row = table
            .entry((file.kind.clone(), what.to_owned()))
            .or_default();
        *row.entry(verdict).or_default() += 1;
    };
    let files = damageable(&source);
    for (what, damage) in whole_file() {
        let mut kinds = BTreeSet::new();
        let mut files: Vec<&Damageable> = files.iter().collect();
        random.shuffle(&mut files);
        // One of each kind, unless all are asked for.
        files.retain(|file| every.is_some() || kinds.insert(&file.kind));
        files
            .into_iter()
            .for_each(|file| try_one(file, what, &damage, 0));
    }
    for file in files.iter().filter(|_| every.is_some()) {
        for at in (0..file.len).step_by(every.unwrap_or(1)) {
            try_one(file, FLIPPED, &flip(at), at);
        }
    }
    let total: usize = files.iter().map(|file| file.len).sum();
    for _ in 0..if every.is_some() { 0 } else { FLIPS } {
        let mut at = random.usize(..total);
        let hit = files.iter().find(|file| {
            let is_here = at < file.len;
            at -= if is_here { 0 } else { file.len };
            is_here
        });
        let file = hit.expect("it is within all files");
        try_one(file, FLIPPED, &flip(at), at);
    }
    for ((kind, damage), verdicts) in &table {
        println!("repair: {what}: {kind:18} {damage:16} {verdicts:?}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_damaged_file_is_repaired_or_what_it_held_is_named() {
    campaign("killed", false);
}

#[test]
fn a_damaged_file_is_repaired_after_a_collection_too() {
    campaign("collected and killed", true);
}

/// A process may be killed while a compaction is making a table that no manifest names yet. A table
/// of another family that is lost then is lost, not replaced by it: what lies below it is old.
#[test]
fn a_table_that_was_being_made_stands_for_no_lost_one() {
    const UNLISTED: &str = "999999.sst";
    let original = original(false);
    let files = damageable(&original.folder.path().join("killed"));
    // The newest of each: what lies below it is old.
    let of_kinds = |kinds: &[&str]| -> Vec<&Damageable> {
        let newest = |family: &&str| {
            let mut tables = files.iter().rev();
            tables.find(|file| file.kind.strip_prefix("table of ") == Some(family))
        };
        kinds.iter().filter_map(newest).collect()
    };
    let mut tried = 0;
    for lost in of_kinds(&["layers", "names", "meta", "copies"]) {
        for made in of_kinds(&["layers", "names", "meta", "pages", "copies"]) {
            if lost.name == made.name {
                continue;
            }
            let damage = |path: &Path| {
                let (dir, name) = (path.with_file_name(""), made.name.file_name());
                fs::copy(dir.join(name.expect("a file")), dir.join(UNLISTED)).expect("copied");
                fs::remove_file(path).expect("removed");
            };
            let context = format!(
                "{} is gone, {} was being made again",
                lost.name.display(),
                made.name.display()
            );
            let verdict = meet(&original, &lost.name, &damage, &context);
            assert_eq!(verdict, Verdict::Healed, "{context}");
            tried += 1;
        }
    }
    assert!(tried > 0, "there are tables of more than one family");
}
