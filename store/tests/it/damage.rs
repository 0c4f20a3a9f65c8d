//! Damage to every file of a store: flipped bits, missing and surplus bytes, zeros, whole files gone.
//!
//! Whatever happens to the files, a read gives the right bytes or an error that names image and range, never wrong bytes; and a check
//! tells of every damage that a read can meet. Damage to records behind RocksDB's own checksums is tested beside the store's reader.
//!
//! What no checksum can tell is a log that ends early: it looks like a process that was killed before its last commits. Then the
//! store must show one of its own earlier states, whole.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use vellum_core::tree::Node;
use vellum_store::{Access, CheckOptions, ImportRequest, ImportTarget, Store, StoreError, Unwatched};

use super::content::{Content, Pool};
use super::{drive, scratch};

/// Random flips in all files together, beside one of each other kind of damage to each file.
const FLIPS: u64 = 700;
/// What one read asks for: errors must name ranges, so reads are small.
const READ_LEN: usize = 32 << 10;

/// A look takes milliseconds.
const LOOK_TIME_MAX: Duration = Duration::from_secs(15);

type Contents = BTreeMap<String, Vec<u8>>;

/// A closed store, and what it held after each of its commits, the last one last.
struct Original {
    folder: tempfile::TempDir,
    states: Vec<Contents>,
}

/// How damage turned out.
#[derive(Debug, Default)]
struct Outcomes {
    unharmed: u32,
    refused_to_open: u32,
    read_failed: u32,
    only_found_by_check: u32,
    earlier_state: u32,
}

impl Outcomes {
    fn add(&mut self, other: &Self) {
        self.unharmed += other.unharmed;
        self.refused_to_open += other.refused_to_open;
        self.read_failed += other.read_failed;
        self.only_found_by_check += other.only_found_by_check;
        self.earlier_state += other.earlier_state;
    }
}

fn contents(store: &Store) -> Contents {
    let nodes: Vec<Node> = store.tree().nodes().collect();
    let names: Vec<String> = nodes.iter().map(|node| store.tree().display(*node)).collect();
    names
        .into_iter()
        .map(|name| {
            let bytes = drive::read(store, &name).expect("a whole store can be read");
            (name, bytes)
        })
        .collect()
}

/// Images with parents, zeros, snapshots and dead chunks, in tables and in the log.
fn original() -> Original {
    let folder = scratch::folder();
    let dir = folder.path().join("store");
    let (pool, mut random) = (Pool::new(4096), fastrand::Rng::with_seed(11));
    let mut states = vec![Contents::new()];
    let mut store = scratch::store_in(&dir, scratch::ZSTD);
    let import = |store: &Store, name: &str, parent: Option<Node>, bytes: Vec<u8>| {
        let request = ImportRequest { target: ImportTarget::New { name: drive::name(name), parent }, snapshot: None };
        store.import(drive::input(Content::plain(bytes), false), &request, &Unwatched).expect("imported").node
    };
    let base = pool.fresh(&mut random, 400_000);
    let root = import(&store, "root", None, base.clone());
    states.push(contents(&store));
    let mut changed = base;
    pool.change(&mut random, &mut changed);
    changed[100_000..180_000].fill(0);
    import(&store, "child", Some(root), changed);
    states.push(contents(&store));
    import(&store, "other", None, pool.fresh(&mut random, 123_457));
    states.push(contents(&store));
    // What is behind this is in tables; what follows is in the log.
    drop(store);
    store = scratch::open(&dir);
    let image = root.image();
    store.snapshot(image, &drive::name("s")).expect("snapshot");
    states.push(contents(&store));
    let disk = store.live(image).expect("live");
    disk.write_at(&[7; 9000], 50_000).and_then(|()| disk.flush()).expect("written");
    drop(disk);
    states.push(contents(&store));
    store.create(&drive::name("empty"), 5000).expect("created");
    states.push(contents(&store));
    // As a process that is killed leaves it: with a log.
    let copy = folder.path().join("killed");
    scratch::copy_of_a_crash(&dir, &copy);
    drop(store);
    Original { folder, states }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder can be read") {
            let path = entry.expect("a folder can be read").path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.retain(|path| {
        path.file_name().is_some_and(|name| name != "lock" && name != "reserve" && !name.as_encoded_bytes().starts_with(b"LOG"))
    });
    files.sort();
    files
}

#[test]
fn damaged_files_never_give_wrong_bytes() {
    let seed = std::env::var("VELLUM_TEST_SEED").map_or_else(|_| fastrand::u64(..1 << 32), |text| text.parse().expect("a number"));
    println!("damage: VELLUM_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let original = Arc::new(original());
    let source = original.folder.path().join("killed");
    let names: Vec<PathBuf> = files(&source).iter().map(|path| path.strip_prefix(&source).expect("inside").to_owned()).collect();
    let mut outcomes = Outcomes::default();
    let mut count = 0;
    let mut inflict = |name: &Path, what: &str, damage: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = fs::read(source.join(name)).expect("a file can be read");
        damage(&mut bytes);
        let context = format!("seed {seed}: {} of {}", what, name.display());
        meet(&original, name, Some(&bytes), &context, &mut outcomes);
        count += 1;
    };
    for name in &names {
        let len = fs::metadata(source.join(name)).expect("a file has a length").len() as usize;
        for part in [0, 1, len / 2, len.saturating_sub(1)] {
            inflict(name, &format!("truncation to {part} bytes"), &|bytes| bytes.truncate(part));
        }
        inflict(name, "surplus", &|bytes| bytes.extend_from_slice(&[0x55; 1000]));
        inflict(name, "surplus zeros", &|bytes| bytes.resize(len + 1000, 0));
        inflict(name, "zeros everywhere", &|bytes| bytes.fill(0));
        inflict(name, "zeros in the middle", &|bytes| bytes[len / 3..len - len / 3].fill(0));
    }
    for _ in 0..FLIPS {
        let name = &names[random.usize(..names.len())];
        let len = fs::metadata(source.join(name)).expect("a file has a length").len();
        if len > 0 {
            let bit = random.u64(..len * 8) as usize;
            inflict(name, &format!("flipped bit {bit}"), &|bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        }
    }
    for name in &names {
        meet(&original, name, None, &format!("seed {seed}: {} gone", name.display()), &mut outcomes);
        count += 1;
    }
    println!("damage: {count} damages to {} files, seed {seed}: {outcomes:?}", names.len());
    assert!(outcomes.read_failed > 0 && outcomes.refused_to_open > 0, "damage was met: {outcomes:?}");
}

/// Puts `bytes` (or nothing) in the place of file `name` of a copy, and looks at everything.
fn meet(original: &Arc<Original>, name: &Path, bytes: Option<&[u8]>, context: &str, outcomes: &mut Outcomes) {
    let folder = scratch::folder();
    let dir = folder.path().join("store");
    scratch::copy(&original.folder.path().join("killed"), &dir).expect("a store can be copied");
    match bytes {
        Some(bytes) => fs::write(dir.join(name), bytes).expect("a file can be written"),
        None => fs::remove_file(dir.join(name)).expect("a file can be removed"),
    }
    // In a thread of its own: a store that hangs must not hang the test, and says which damage it was.
    let (sender, receiver) = channel();
    let looking = {
        let (original, context) = (Arc::clone(original), context.to_owned());
        std::thread::spawn(move || {
            let mut outcomes = Outcomes::default();
            look(&original, &dir, &context, &mut outcomes);
            drop(sender.send(outcomes));
        })
    };
    match receiver.recv_timeout(LOOK_TIME_MAX) {
        Ok(outcome) => outcomes.add(&outcome),
        Err(RecvTimeoutError::Timeout) => panic!("{context}: no end after {LOOK_TIME_MAX:?}"),
        Err(RecvTimeoutError::Disconnected) => {
            eprintln!("{context}");
            std::panic::resume_unwind(looking.join().expect_err("it panicked"));
        }
    }
}

fn look(original: &Original, dir: &Path, context: &str, outcomes: &mut Outcomes) {
    let store = match Store::open(dir, Access::ReadWrite, "test") {
        Ok(store) => store,
        Err(StoreError::InUse { .. } | StoreError::Busy(_)) => panic!("{context}: damage is not somebody else"),
        Err(_) => {
            outcomes.refused_to_open += 1;
            return;
        }
    };
    let expected = state_of(original, &store, context);
    let (failed, is_last) =
        (read_all(&store, expected, context), std::ptr::eq(expected, original.states.last().expect("there are states")));
    let report = store.check(CheckOptions { read_data: true, subset: None }, &Unwatched);
    let found = match &report {
        Ok(report) => report.findings.iter().any(|finding| finding.is_damage),
        Err(_) => true,
    };
    assert!(found || failed.is_empty(), "{context}: reads failed, the check found nothing: {failed:?}");
    if let Ok(report) = &report {
        let told = |name: &String| report.findings.iter().any(|finding| finding.images.iter().any(|(image, _)| image == name));
        let untold: Vec<&String> = failed.iter().filter(|name| !told(name)).collect();
        // What RocksDB itself refuses to read, a check cannot tell the images of.
        assert!(
            untold.is_empty() || report.findings.iter().any(|finding| finding.record.contains("database")),
            "{context}: {untold:?} not told: {:?}",
            report.findings
        );
    }
    match (failed.is_empty(), found, is_last) {
        (false, ..) => outcomes.read_failed += 1,
        (true, true, _) => outcomes.only_found_by_check += 1,
        (true, false, false) => outcomes.earlier_state += 1,
        (true, false, true) => outcomes.unharmed += 1,
    }
}

/// The state that the store shows, by its names and what can be read of them: the last, or one before it.
fn state_of<'o>(original: &'o Original, store: &Store, context: &str) -> &'o Contents {
    let names: Vec<String> = {
        let tree = store.tree();
        tree.nodes().map(|node| tree.display(node)).collect()
    };
    let mut matching = original.states.iter().rev().filter(|state| state.keys().eq(sorted(&names).iter().copied()));
    // States with the same names differ in content: the latest that the readable bytes fit.
    let fits = |state: &&Contents| state.iter().all(|(name, bytes)| drive::read(store, name).map_or(true, |seen| seen == *bytes));
    let found: Vec<&Contents> = matching.by_ref().collect();
    assert!(!found.is_empty(), "{context}: names of no state: {names:?}");
    found.iter().copied().find(|state| fits(state)).unwrap_or(found[0])
}

fn sorted(names: &[String]) -> Vec<&String> {
    let mut names: Vec<&String> = names.iter().collect();
    names.sort();
    names
}

/// Reads everything in small parts; the names of what could not be read everywhere.
fn read_all(store: &Store, expected: &Contents, context: &str) -> Vec<String> {
    let mut failed = Vec::new();
    for (name, bytes) in expected {
        let node = store.find(name).expect("names were compared");
        let disk = store.disk(node).expect("a listed node opens");
        assert_eq!(disk.len(), bytes.len() as u64, "{context}: {name}");
        for (nth, part) in bytes.chunks(READ_LEN).enumerate() {
            let start = (nth * READ_LEN) as u64;
            let mut seen = vec![0xaa; part.len()];
            match disk.read_at(&mut seen, start) {
                Ok(()) => drive::same(&seen, part, &format!("{context}: {name} from {start}")),
                Err(StoreError::Damaged(damage)) => {
                    let (image, range) = damage.image.clone().unwrap_or_else(|| panic!("{context}: no image in {damage}"));
                    let end = start + part.len() as u64;
                    assert!(image == *name && range.start < end && range.end > start, "{context}: {damage} for {name}, {start} to {end}");
                    if failed.last() != Some(name) {
                        failed.push(name.clone());
                    }
                }
                Err(other) => panic!("{context}: {name} from {start}: not told as damage: {other:?}"),
            }
        }
    }
    failed
}
