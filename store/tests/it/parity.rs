//! Damage to every file of a store that has parity: all of it heals.
//!
//! Every image of each damaged copy is read, with the store open for reading only; then the store
//! is healed, written to, and checked. Nothing may be lost, nothing may be wrong, and the check
//! must find nothing any more.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::{IntoParallelRefIterator, ParallelIterator};
use vellum_core::tree::NodeRef;
use vellum_store::parity::{ParityHealing, ParityShare};
use vellum_store::{
    Access, CheckOptions, CollectOptions, ImportRequest, ImportTarget, Store, StoreError,
    Unwatched, heal_closed_store,
};

use super::content::{Content, Pool};
use super::{drive, scratch};

/// Random flips of a test run, beside each file's deletion and truncation.
const FLIPS: usize = 60;
/// Between two flips where all are tried.
const STRIDE: usize = 64;

type Contents = BTreeMap<String, Vec<u8>>;

/// A closed store with parity, and what it holds.
struct Protected {
    folder: tempfile::TempDir,
    contents: Contents,
}

fn share() -> Option<ParityShare> {
    ParityShare::new(20)
}

fn import(store: &Store, name: &str, parent: Option<NodeRef>, bytes: &[u8]) -> NodeRef {
    let target = ImportTarget::New {
        name: drive::name(name),
        parent,
    };
    let request = ImportRequest {
        target,
        snapshot: None,
    };
    let input = drive::input(Content::plain(bytes.to_vec()), false);
    store
        .import(input, &request, &Unwatched)
        .expect("imported")
        .node
}

fn contents(store: &Store) -> Contents {
    let names: Vec<String> = {
        let tree = store.tree();
        tree.all_nodes()
            .map(|node| tree.display_name(node))
            .collect()
    };
    let read = |name: String| {
        let bytes = drive::read(store, &name).unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, bytes)
    };
    names.into_iter().map(read).collect()
}

impl Protected {
    /// An image, a child, a snapshot, something written in place: in tables, and the last of it in
    /// the log.
    fn new() -> Self {
        let folder = scratch::folder();
        let dir = folder.path().join("store");
        let (pool, mut random) = (Pool::new(4096), fastrand::Rng::with_seed(5));
        let store = scratch::store_in(&dir, scratch::ZSTD);
        store.set_parity_share(share()).expect("parity is on");
        let base = pool.fresh(&mut random, 60_000);
        let root = import(&store, "root", None, &base);
        let mut changed = base;
        changed[8192..20_000].fill(0);
        random.fill(&mut changed[30_000..40_000]);
        import(&store, "child", Some(root), &changed);
        store.protect_all(&Unwatched).expect("protected");
        drop(store);
        let store = scratch::open(&dir);
        store
            .take_snapshot(root.image_id(), &drive::name("s"))
            .expect("a snapshot");
        let disk = store.open_live(root.image_id()).expect("live");
        disk.write_at(&[7; 9000], 5_000)
            .and_then(|()| disk.flush())
            .expect("written");
        drop(disk);
        store.protect_all(&Unwatched).expect("protected");
        let status = store.parity_status().expect("told");
        assert_eq!(
            (status.tables_unprotected, status.groups_stale),
            (0, 0),
            "{status:?}"
        );
        let contents = contents(&store);
        drop(store);
        Self { folder, contents }
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// A copy of the store in a folder of its own.
    fn copy(&self) -> (tempfile::TempDir, PathBuf) {
        let folder = scratch::folder();
        let dir = folder.path().join("store");
        scratch::copy(&self.dir(), &dir).expect("a store can be copied");
        (folder, dir)
    }

    /// Puts `bytes`, or nothing, in the place of file `name` of a copy: all of it must heal.
    fn meet(&self, name: &Path, bytes: Option<&[u8]>, context: &str) {
        let (_folder, dir) = self.copy();
        put(&dir.join(name), bytes);
        let store = Store::open_dir(&dir, Access::ReadOnly, "test")
            .unwrap_or_else(|error| panic!("{context}: not open for reading: {error}"));
        assert!(
            store.gravest_fault().is_none(),
            "{context}: {:?}",
            store.gravest_fault()
        );
        assert!(contents(&store) == self.contents, "{context}: read");
        drop(store);
        heal(&dir, context);
        let store = Store::open_dir(&dir, Access::ReadWrite, "test")
            .unwrap_or_else(|error| panic!("{context}: not open for writing: {error}"));
        let node = store
            .create_image(&drive::name("new"), 5000)
            .expect("it can be written to");
        store
            .delete_image(node.image_id(), false)
            .expect("it can be written to");
        store.protect_all(&Unwatched).expect("protected");
        drop(store);
        let store = Store::open_dir(&dir, Access::ReadOnly, "test").expect("it opens");
        let options = CheckOptions {
            read_data: true,
            subset: None,
        };
        let report = store.check(options, &Unwatched).expect("checked");
        assert_eq!(report.findings, [], "{context}");
        let parity = report.parity.expect("it is on");
        assert_eq!(
            (parity.tables_unprotected, parity.groups_damaged),
            (0, 0),
            "{context}"
        );
        assert!(parity.has_small_files, "{context}: {parity:?}");
        assert!(contents(&store) == self.contents, "{context}: healed");
    }
}

fn put(path: &Path, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => fs::write(path, bytes).expect("a file can be written"),
        None => fs::remove_file(path).expect("a file can be removed"),
    }
}

fn heal(dir: &Path, context: &str) -> ParityHealing {
    let report = heal_closed_store(dir, "test", false, &Unwatched).expect("healed");
    assert_eq!(report.files_lost, Vec::<String>::new(), "{context}");
    report
}

/// All files below `dir`, relative to it.
fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder can be read") {
            let path = entry.expect("a folder can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name != "reserve") {
                files.push(path.strip_prefix(dir).expect("inside").to_owned());
            }
        }
    }
    files.sort();
    files
}

fn flipped(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut flipped = bytes.to_vec();
    flipped[bit / 8] ^= 1 << (bit % 8);
    flipped
}

#[test]
fn whatever_file_is_damaged_or_gone_all_of_it_heals() {
    let seed = std::env::var("VELLUM_TEST_SEED").map_or_else(
        |_| fastrand::u64(..1 << 32),
        |text| text.parse().expect("a number"),
    );
    println!("parity: VELLUM_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let protected = Protected::new();
    let names = files(&protected.dir());
    let mut damages: Vec<(PathBuf, Option<Vec<u8>>, String)> = Vec::new();
    for name in &names {
        let bytes = fs::read(protected.dir().join(name)).expect("a file can be read");
        damages.push((name.clone(), None, format!("{} gone", name.display())));
        let mut cut = bytes.clone();
        cut.truncate(bytes.len() / 2);
        damages.push((name.clone(), Some(cut), format!("{} cut", name.display())));
        let zeros = vec![0; bytes.len()];
        damages.push((
            name.clone(),
            Some(zeros),
            format!("{} zeros", name.display()),
        ));
    }
    for _ in 0..FLIPS {
        let name = &names[random.usize(..names.len())];
        let bytes = fs::read(protected.dir().join(name)).expect("a file can be read");
        if !bytes.is_empty() {
            let bit = random.usize(..bytes.len() * 8);
            let what = format!("seed {seed}: bit {bit} of {}", name.display());
            damages.push((name.clone(), Some(flipped(&bytes, bit)), what));
        }
    }
    damages
        .par_iter()
        .for_each(|(name, bytes, what)| protected.meet(name, bytes.as_deref(), what));
    println!(
        "parity: {} damages to {} files healed",
        damages.len(),
        names.len()
    );
}

/// `cargo test --release --workspace --test it every_64th_byte -- --ignored --nocapture` prints the
/// table.
#[test]
#[ignore = "takes minutes"]
fn a_bit_of_every_64th_byte_of_every_file_heals() {
    let protected = Protected::new();
    for name in files(&protected.dir()) {
        let bytes = fs::read(protected.dir().join(&name)).expect("a file can be read");
        let places: Vec<usize> = (0..bytes.len()).step_by(STRIDE).collect();
        places.par_iter().for_each(|at| {
            let bit = at * 8 + at / STRIDE % 8;
            let context = format!("bit {bit} of {}", name.display());
            protected.meet(&name, Some(&flipped(&bytes, bit)), &context);
        });
        protected.meet(&name, None, &format!("{} gone", name.display()));
        println!(
            "parity: {}, {} bytes: {} flips and its deletion healed",
            name.display(),
            bytes.len(),
            places.len()
        );
    }
}

fn tables(dir: &Path) -> Vec<PathBuf> {
    let mut tables = files(dir);
    tables.retain(|name| {
        name.starts_with("database") && name.extension().is_some_and(|extension| extension == "sst")
    });
    tables
}

/// Every byte of a file that somebody has open becomes another.
fn spoil(path: &Path) {
    let bytes = fs::read(path).expect("a file can be read");
    let damaged: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
    let file = fs::OpenOptions::new()
        .write(true)
        .open(path)
        .expect("it is there");
    std::os::unix::fs::FileExt::write_all_at(&file, &damaged, 0).expect("written");
}

#[test]
fn a_guest_reads_on_while_tables_under_it_are_damaged() {
    let protected = Protected::new();
    let (_folder, dir) = protected.copy();
    let store = scratch::open(&dir);
    store.protect_all(&Unwatched).expect("protected");
    store.set_cache_len(0);
    for name in tables(&dir) {
        // Several at once meet the same damage.
        spoil(&dir.join(&name));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let what = name.display();
                    assert!(contents(&store) == protected.contents, "{what}");
                });
            }
        });
        // Records in memory were not read from the disk.
        store.heal_by_parity(false, &Unwatched).expect("healed");
    }
    let notices = store.take_parity_notices();
    assert!(
        notices.iter().any(|text| text.contains("healed")),
        "{notices:?}"
    );
    store.heal_by_parity(false, &Unwatched).expect("healed");
    let report = store
        .check(
            CheckOptions {
                read_data: true,
                subset: None,
            },
            &Unwatched,
        )
        .expect("checked");
    assert_eq!(report.findings, []);
}

/// One parity stretch, and two tables without their links.
#[test]
fn more_than_parity_can_heal_is_told_and_the_rest_is_served() {
    let protected = Protected::new();
    let (_folder, dir) = protected.copy();
    let names = tables(&dir);
    let report = {
        let store = Store::open_dir(&dir, Access::ReadOnly, "test").expect("it opens");
        store.parity_status().expect("told")
    };
    assert!(report.groups >= 1 && names.len() > 2, "{report:?}");
    names
        .iter()
        .for_each(|name| fs::remove_file(dir.join(name)).expect("removed"));
    let told = heal_closed_store(&dir, "test", true, &Unwatched).expect("told");
    assert!(told.files_lost.len() > 1, "{told:?}");
    let report = heal_closed_store(&dir, "test", false, &Unwatched).expect("told");
    assert_eq!(report.files_lost, told.files_lost);
    let error = Store::open_dir(&dir, Access::ReadWrite, "test")
        .err()
        .expect("tables are gone");
    assert!(matches!(error, StoreError::Damaged(_)), "{error}");
    // Files that come back, from wherever, are all that was missing.
    names.iter().for_each(|name| {
        fs::copy(protected.dir().join(name), dir.join(name)).expect("copied");
    });
    assert!(contents(&scratch::open(&dir)) == protected.contents);
}

/// The small files are those of a closed store: after a crash they are nobody's, and never an
/// earlier state.
#[test]
fn an_earlier_state_is_never_brought_back() {
    let protected = Protected::new();
    let (_folder, dir) = protected.copy();
    let rest = fs::read(dir.join("parity/rest")).expect("the store was closed");
    let store = scratch::open(&dir);
    assert!(!dir.join("parity/rest").exists(), "it is open for writing");
    store
        .create_image(&drive::name("later"), 5000)
        .expect("created");
    store.protect_all(&Unwatched).expect("protected");
    let after = contents(&store);
    let crashed = scratch::folder();
    let crashed_dir = crashed.path().join("store");
    scratch::copy_of_a_crash(&dir, &crashed_dir);
    drop(store);
    for dir in [&dir, &crashed_dir] {
        fs::write(dir.join("parity/rest"), &rest).expect("room");
        let dry = heal_closed_store(dir, "test", true, &Unwatched).expect("told");
        assert_eq!(dry.files_restored, Vec::<String>::new());
        assert!(contents(&scratch::open(dir)) == after, "{}", dir.display());
    }
}

/// A process that is killed leaves groups that are right, whatever it was doing.
#[test]
fn tables_of_a_killed_process_heal() {
    let protected = Protected::new();
    let (_folder, dir) = protected.copy();
    let (pool, mut random) = (Pool::new(4096), fastrand::Rng::with_seed(9));
    let store = scratch::open(&dir);
    let mut images = 0;
    for round in 0..6 {
        let bytes = pool.fresh(&mut random, 50_000);
        import(&store, &format!("more-{round}"), None, &bytes);
        if round % 2 == 1 {
            store.protect_all(&Unwatched).expect("protected");
        }
        let expected = contents(&store);
        let crashed = scratch::folder();
        let copy = crashed.path().join("store");
        scratch::copy_of_a_crash(&dir, &copy);
        let status = Store::open_dir(&copy, Access::ReadOnly, "test")
            .and_then(|store| store.parity_status())
            .expect("it opens");
        // All tables of a copy that are protected, each once.
        for name in tables(&copy) {
            let whole = fs::read(copy.join(&name)).expect("a table can be read");
            let before = heal(&copy, "nothing is damaged");
            assert_eq!(before.blocks_healed, 0);
            fs::write(copy.join(&name), flipped(&whole, whole.len() * 4)).expect("room");
            let report = heal(&copy, "a table is damaged");
            images += report.blocks_healed;
            fs::write(copy.join(&name), &whole).expect("room");
        }
        assert!(
            contents(&scratch::open(&copy)) == expected,
            "round {round}: {status:?}"
        );
    }
    assert!(images > 20, "{images} tables healed");
}

#[test]
fn what_is_deleted_gives_its_space_back() {
    let folder = scratch::folder();
    let dir = folder.path().join("store");
    let store = scratch::store_in(&dir, scratch::PLAIN);
    store.set_parity_share(share()).expect("parity is on");
    let mut bytes = vec![0; 24 << 20];
    fastrand::Rng::with_seed(3).fill(&mut bytes);
    let node = import(&store, "large", None, &bytes);
    import(&store, "small", None, &bytes[..100_000]);
    store.protect_all(&Unwatched).expect("protected");
    let full = store.parity_status().expect("told");
    assert!(
        full.bytes_on_disk > 20 << 20,
        "a store of one table has a mirror: {full:?}"
    );
    store.delete_image(node.image_id(), false).expect("deleted");
    let report = store
        .collect(CollectOptions::default(), &Unwatched)
        .expect("collected");
    let freed = report.disk_bytes_before - report.disk_bytes_after;
    assert!(freed > 40 << 20, "{freed} of a table and its mirror");
    let status = store.parity_status().expect("told");
    assert_eq!(
        (status.bytes_held, status.tables_unprotected),
        (0, 0),
        "{status:?}"
    );
    store.set_parity_share(None).expect("parity is off");
    assert!(!dir.join("parity").exists());
}
