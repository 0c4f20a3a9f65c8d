//! Damage to every file of a store: flipped bits, missing and surplus bytes, zeros, whole files
//! gone.
//!
//! However the files are damaged, a read gives the right bytes or an error that names image and
//! range, never wrong bytes; and a check reports every damage that a read can meet. Damage to
//! records behind RocksDB's own checksums is tested beside the store's reader.
//!
//! A damaged store may refuse to be written to; then it must open for reading, say so, and show
//! everything that can be read. If it does not refuse, it must take new writes, keep them, and
//! still show all the rest. Only the files that RocksDB cannot begin without (its manifest, the
//! file that names it) and the store's own marker keep it shut, with an error that names the file.
//! A log that ends early looks like a process that was killed before its last commits: then the
//! store may show one of its own earlier states, whole, and must say that it is one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use vellum_core::tree::NodeRef;
use vellum_store::{
    Access, CheckOptions, CheckReport, ImportRequest, ImportTarget, Store, StoreError, Unwatched,
};

use super::content::{Content, Pool};
use super::{drive, scratch};

/// Random flips in all files together, beside one of each other kind of damage to each file.
const FLIPS: u64 = 700;
/// Bytes of one read: errors must name ranges, so reads are small.
const READ_LEN: usize = 32 << 10;

/// A look takes milliseconds, on a busy machine some seconds: whoever takes longer hangs.
const LOOK_TIME_MAX: Duration = Duration::from_mins(2);

/// Imports into a store with damage: RocksDB makes one file of four.
const WRITES: u32 = 6;

type Contents = BTreeMap<String, Vec<u8>>;

/// A closed store, and what it held after each of its commits, the last one last.
struct Original {
    folder: tempfile::TempDir,
    states: Vec<Contents>,
}

/// Counts of the outcomes of damage.
#[derive(Debug, Default)]
struct Outcomes {
    unharmed: u32,
    /// By the file that was damaged.
    shut: BTreeMap<String, u32>,
    /// Open for reading only, with all content of the last state there.
    readable: u32,
    /// Open for writing although something was found, and written to.
    written: u32,
    read_failed: u32,
    only_found_by_check: u32,
    earlier_state: u32,
}

impl Outcomes {
    fn total(&self) -> u32 {
        let shut: u32 = self.shut.values().sum();
        self.unharmed
            + shut
            + self.readable
            + self.read_failed
            + self.only_found_by_check
            + self.earlier_state
    }

    fn add(&mut self, other: Self) {
        self.unharmed += other.unharmed;
        other
            .shut
            .into_iter()
            .for_each(|(file, count)| *self.shut.entry(file).or_default() += count);
        self.readable += other.readable;
        self.written += other.written;
        self.read_failed += other.read_failed;
        self.only_found_by_check += other.only_found_by_check;
        self.earlier_state += other.earlier_state;
    }

    /// Only what nothing can be read without has kept a store shut.
    fn assert_shut_by_few(&self) {
        let may = |file: &String| {
            file.contains("MANIFEST") || file.contains("CURRENT") || file == "vellum.store"
        };
        assert!(self.shut.keys().all(may), "{self:?}");
    }
}

fn contents(store: &Store) -> Contents {
    let nodes: Vec<NodeRef> = store.tree().all_nodes().collect();
    let names: Vec<String> = nodes
        .iter()
        .map(|node| store.tree().display_name(*node))
        .collect();
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
    let import = |store: &Store, name: &str, parent: Option<NodeRef>, bytes: Vec<u8>| {
        let request = ImportRequest {
            target: ImportTarget::New {
                name: drive::name(name),
                parent,
            },
            snapshot: None,
        };
        store
            .import(
                drive::input(Content::plain(bytes), false),
                &request,
                &Unwatched,
            )
            .expect("imported")
            .node
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
    // Earlier changes are in tables from here on; later ones are in the log.
    drop(store);
    store = scratch::open(&dir);
    let image = root.image_id();
    store
        .take_snapshot(image, &drive::name("s"))
        .expect("snapshot");
    states.push(contents(&store));
    let disk = store.open_live(image).expect("live");
    disk.write_at(&[7; 9000], 50_000)
        .and_then(|()| disk.flush())
        .expect("written");
    drop(disk);
    states.push(contents(&store));
    store
        .create_image(&drive::name("empty"), 5000)
        .expect("created");
    states.push(contents(&store));
    // The store as a process that is killed leaves it: with a log.
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
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.retain(|path| {
        path.file_name().is_some_and(|name| {
            name != "lock" && name != "reserve" && !name.as_encoded_bytes().starts_with(b"LOG")
        }) && path
            .parent()
            .is_none_or(|folder| !folder.ends_with("spare"))
    });
    files.sort();
    files
}

#[test]
fn damaged_files_never_give_wrong_bytes() {
    let seed = std::env::var("VELLUM_TEST_SEED").map_or_else(
        |_| fastrand::u64(..1 << 32),
        |text| text.parse().expect("a number"),
    );
    println!("damage: VELLUM_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let original = Arc::new(original());
    let source = original.folder.path().join("killed");
    let names: Vec<PathBuf> = files(&source)
        .iter()
        .map(|path| path.strip_prefix(&source).expect("inside").to_owned())
        .collect();
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
        for (what, damage) in coarse_damages(len_of(&source.join(name)) as usize) {
            inflict(name, &what, &damage);
        }
    }
    for _ in 0..FLIPS {
        let name = &names[random.usize(..names.len())];
        let len = len_of(&source.join(name));
        if len > 0 {
            let bit = random.u64(..len * 8) as usize;
            inflict(name, &format!("flipped bit {bit}"), &|bytes| {
                bytes[bit / 8] ^= 1 << (bit % 8);
            });
        }
    }
    for name in &names {
        meet(
            &original,
            name,
            None,
            &format!("seed {seed}: {} gone", name.display()),
            &mut outcomes,
        );
        count += 1;
    }
    println!(
        "damage: {count} damages to {} files, seed {seed}: {outcomes:?}",
        names.len()
    );
    outcomes.assert_shut_by_few();
    assert!(
        outcomes.read_failed > 0
            && outcomes.readable > 0
            && outcomes.written > 0
            && outcomes.earlier_state > 0,
        "damage was met: {outcomes:?}"
    );
}

fn len_of(path: &Path) -> u64 {
    fs::metadata(path).expect("a file has a length").len()
}

type Damage = Box<dyn Fn(&mut Vec<u8>)>;

/// Damages to long stretches of a file of `len` bytes, with their names.
fn coarse_damages(len: usize) -> Vec<(String, Damage)> {
    let truncation = |part: usize| -> (String, Damage) {
        let cut = move |bytes: &mut Vec<u8>| bytes.truncate(part);
        (format!("truncation to {part} bytes"), Box::new(cut))
    };
    let others: [(&str, Damage); 4] = [
        (
            "surplus",
            Box::new(|bytes| bytes.extend_from_slice(&[0x55; 1000])),
        ),
        (
            "surplus zeros",
            Box::new(move |bytes| bytes.resize(len + 1000, 0)),
        ),
        ("zeros everywhere", Box::new(|bytes| bytes.fill(0))),
        (
            "zeros in the middle",
            Box::new(move |bytes| bytes[len / 3..len - len / 3].fill(0)),
        ),
    ];
    let others = others.map(|(what, damage)| (what.to_owned(), damage));
    [0, 1, len / 2, len.saturating_sub(1)]
        .map(truncation)
        .into_iter()
        .chain(others)
        .collect()
}

/// Puts `bytes` (or nothing) in the place of file `name` of a copy, and looks at everything.
fn meet(
    original: &Arc<Original>,
    name: &Path,
    bytes: Option<&[u8]>,
    context: &str,
    outcomes: &mut Outcomes,
) {
    let folder = scratch::folder();
    let dir = folder.path().join("store");
    scratch::copy(&original.folder.path().join("killed"), &dir).expect("a store can be copied");
    match bytes {
        Some(bytes) => fs::write(dir.join(name), bytes).expect("a file can be written"),
        None => fs::remove_file(dir.join(name)).expect("a file can be removed"),
    }
    // In a thread of its own: a store that hangs must not hang the test, and says which damage it
    // was.
    let (sender, receiver) = channel();
    let looking = {
        let (original, context, name) = (
            Arc::clone(original),
            context.to_owned(),
            name.display().to_string(),
        );
        std::thread::spawn(move || {
            let mut outcomes = Outcomes::default();
            look(&original, &dir, &name, &context, &mut outcomes);
            drop(sender.send(outcomes));
        })
    };
    match receiver.recv_timeout(LOOK_TIME_MAX) {
        Ok(outcome) => outcomes.add(outcome),
        Err(RecvTimeoutError::Timeout) => panic!("{context}: no end after {LOOK_TIME_MAX:?}"),
        Err(RecvTimeoutError::Disconnected) => {
            eprintln!("{context}");
            std::panic::resume_unwind(looking.join().expect_err("it panicked"));
        }
    }
}

fn look(original: &Original, dir: &Path, name: &str, context: &str, outcomes: &mut Outcomes) {
    let Some((store, is_writable)) = open_damaged(dir, context) else {
        *outcomes.shut.entry(name.to_owned()).or_default() += 1;
        return;
    };
    let expected = state_of(original, &store, context);
    let is_last = std::ptr::eq(expected, original.states.last().expect("there are states"));
    assert!(
        is_last || !is_writable,
        "{context}: acknowledged commits went without a word"
    );
    let failed = read_all(&store, expected, context);
    let report = store.check(
        CheckOptions {
            read_data: true,
            subset: None,
        },
        &Unwatched,
    );
    let found = match &report {
        Ok(report) => report.findings.iter().any(|finding| finding.is_damage),
        Err(_) => true,
    };
    assert!(
        found || failed.is_empty(),
        "{context}: reads failed, the check found nothing: {failed:?}"
    );
    if let Ok(report) = &report {
        assert_failures_told(report, &failed, context);
    }
    assert!(
        is_writable || found,
        "{context}: not open for writing, and the check finds nothing"
    );
    let count = match (failed.is_empty(), is_last, is_writable) {
        (false, ..) => &mut outcomes.read_failed,
        (true, false, _) => &mut outcomes.earlier_state,
        (true, true, false) => &mut outcomes.readable,
        (true, true, true) if found => &mut outcomes.only_found_by_check,
        (true, true, true) => &mut outcomes.unharmed,
    };
    *count += 1;
    if is_writable && store.gravest_fault().is_some() {
        drop(store);
        write_on(dir, expected, context);
        outcomes.written += 1;
    }
}

/// Opens a store for writing, or else for reading; whether it is for writing. None if it stays
/// shut.
fn open_damaged(dir: &Path, context: &str) -> Option<(Store, bool)> {
    match Store::open_dir(dir, Access::ReadWrite, "test") {
        Ok(store) => Some((store, true)),
        Err(StoreError::InUse { .. } | StoreError::Busy(_)) => {
            panic!("{context}: damage is not somebody else")
        }
        Err(refused) => {
            let store = Store::open_dir(dir, Access::ReadOnly, "test").ok()?;
            assert!(
                store.gravest_fault().is_some(),
                "{context}: not open for writing ({refused}), and reading does not say why"
            );
            Some((store, false))
        }
    }
}

/// A check names every image of which a read `failed`.
fn assert_failures_told(report: &CheckReport, failed: &[String], context: &str) {
    let told = |name: &String| {
        report
            .findings
            .iter()
            .any(|finding| finding.images.iter().any(|(image, _)| image == name))
    };
    let untold: Vec<&String> = failed.iter().filter(|name| !told(name)).collect();
    // A check cannot name the images of files that RocksDB itself refuses to read.
    assert!(
        untold.is_empty()
            || report
                .findings
                .iter()
                .any(|finding| finding.record.contains("database")),
        "{context}: {untold:?} not told: {:?}",
        report.findings
    );
}

/// Writes to a store with damage that does not keep it from being written: some processes, each of
/// which leaves new tables, so that RocksDB would rather have fewer.
fn write_on(dir: &Path, expected: &Contents, context: &str) {
    let (pool, mut random) = (Pool::new(4096), fastrand::Rng::with_seed(12));
    let mut expected = expected.clone();
    let import = |name: &str, bytes: &[u8]| {
        let store = Store::open_dir(dir, Access::ReadWrite, "test");
        let store = store.unwrap_or_else(|error| panic!("{context}: opening for {name}: {error}"));
        let request = ImportRequest {
            target: ImportTarget::New {
                name: drive::name(name),
                parent: None,
            },
            snapshot: None,
        };
        let input = drive::input(Content::plain(bytes.to_vec()), false);
        store.import(input, &request, &Unwatched).map(drop)
    };
    for nth in 0..WRITES {
        let (name, bytes) = (format!("new-{nth}"), pool.fresh(&mut random, 50_000));
        // A table that nobody has read yet is met by a compaction first: that ends the writing of
        // one process, and no more.
        if let Err(StoreError::Damaged(_)) = import(&name, &bytes) {
            let imported = import(&name, &bytes);
            imported.unwrap_or_else(|error| panic!("{context}: {name} again: {error}"));
        }
        expected.insert(name, bytes);
    }
    let store = Store::open_dir(dir, Access::ReadWrite, "test");
    let store = store.unwrap_or_else(|error| panic!("{context}: open at the end: {error}"));
    let failed = read_all(&store, &expected, context);
    let lost = failed.iter().filter(|name| name.starts_with("new-"));
    assert_eq!(
        lost.count(),
        0,
        "{context}: what was written is there: {failed:?}"
    );
}

/// The state that the store shows, by its names and what can be read of them: the last, or one
/// before it.
fn state_of<'o>(original: &'o Original, store: &Store, context: &str) -> &'o Contents {
    let names: Vec<String> = {
        let tree = store.tree();
        tree.all_nodes()
            .map(|node| tree.display_name(node))
            .collect()
    };
    let mut matching = original
        .states
        .iter()
        .rev()
        .filter(|state| state.keys().eq(sorted(&names).iter().copied()));
    // States with the same names differ in content: the latest that the readable bytes fit.
    let fits = |state: &&Contents| {
        state
            .iter()
            .all(|(name, bytes)| drive::read(store, name).map_or(true, |seen| seen == *bytes))
    };
    let found: Vec<&Contents> = matching.by_ref().collect();
    assert!(!found.is_empty(), "{context}: names of no state: {names:?}");
    found
        .iter()
        .copied()
        .find(|state| fits(state))
        .unwrap_or(found[0])
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
        let node = store.find_node(name).expect("names were compared");
        let disk = store.open_disk(node).expect("a listed node opens");
        assert_eq!(disk.len(), bytes.len() as u64, "{context}: {name}");
        for (nth, part) in bytes.chunks(READ_LEN).enumerate() {
            let start = (nth * READ_LEN) as u64;
            let mut seen = vec![0xaa; part.len()];
            match disk.read_at(&mut seen, start) {
                Ok(()) => drive::same(&seen, part, &format!("{context}: {name} from {start}")),
                Err(StoreError::Damaged(damage)) => {
                    let (image, range) = damage
                        .image
                        .clone()
                        .unwrap_or_else(|| panic!("{context}: no image in {damage}"));
                    let end = start + part.len() as u64;
                    assert!(
                        image == *name && range.start < end && range.end > start,
                        "{context}: {damage} for {name}, {start} to {end}"
                    );
                    if failed.last() != Some(name) {
                        failed.push(name.clone());
                    }
                }
                Err(other) => {
                    panic!("{context}: {name} from {start}: not told as damage: {other:?}")
                }
            }
        }
    }
    failed
}

/// A bit of a record's type, flipped in the manifest, once made RocksDB read the same record for
/// ever (see `log_shape`): all of them.
#[test]
fn a_flipped_record_type_in_a_manifest_or_log_never_hangs() {
    let original = Arc::new(original());
    let source = original.folder.path().join("killed");
    let mut outcomes = Outcomes::default();
    for path in files(&source) {
        let name = path.strip_prefix(&source).expect("inside").to_owned();
        let whole = fs::read(&path).expect("a file can be read");
        let is_log = name.to_string_lossy().contains("MANIFEST")
            || name.extension().is_some_and(|extension| extension == "log");
        let mut at = 0;
        while is_log && at + 7 <= whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at + 6] ^= 1 << bit;
                let context = format!(
                    "bit {bit} of the type of the record at {at} of {}",
                    name.display()
                );
                meet(&original, &name, Some(&bytes), &context, &mut outcomes);
            }
            at += 7 + usize::from(u16::from_le_bytes([whole[at + 4], whole[at + 5]]));
        }
    }
    println!(
        "damage: {} record types flipped: {outcomes:?}",
        outcomes.total()
    );
    assert!(
        outcomes.total() > 50,
        "a store has a manifest and a log: {outcomes:?}"
    );
}
