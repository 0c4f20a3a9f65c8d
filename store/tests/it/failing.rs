//! Fault injection: one call to the system fails while a store works, the first write, the second,
//! …, each sync, each creation of a file, each renaming; once, or for a while.
//!
//! Acknowledged changes must be there, refused ones must not, in the store that goes on as in the
//! one that is opened next; and it must go on by itself once the calls do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use vellum_core::tree::NodeRef;
use vellum_store::{
    CollectOptions, ImportRequest, ImportTarget, LiveDisk, Store, StoreError, Unwatched,
};

use super::content::Content;
use super::{drive, scratch};

const ROOT: &str = "VELLUM_FAULT_ROOT";
const FAULTS: &str = "VELLUM_FAULTS";
const DISK_LEN: usize = 1 << 20;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const EFBIG: i32 = 27;
const EMFILE: i32 = 24;
/// Time that a store may take to go on after its trouble has passed.
const RECOVERY: Duration = Duration::from_mins(1);

/// Fault to inject: a kind of calls, the first of them, their number, and the error.
#[derive(Clone, Copy, Debug)]
struct Fault {
    kind: char,
    nth: u32,
    count: u32,
    errno: i32,
}

impl Fault {
    /// Asks for it; whether the one that was asked for before was met.
    fn ask(&self) -> bool {
        let Self {
            kind,
            nth,
            count,
            errno,
        } = self;
        let path = format!("/vellum-fault/{kind}/{nth}/{count}/{errno}");
        let answer = fs::File::open(path).expect_err("nothing is opened");
        answer.kind() == std::io::ErrorKind::NotFound
    }

    fn end() -> bool {
        let none = Self {
            kind: 'a',
            nth: 1,
            count: 0,
            errno: 0,
        };
        none.ask()
    }
}

/// Content that a store must hold.
#[derive(Clone, Default)]
struct Books {
    /// Each name with its bytes.
    nodes: Vec<(String, Vec<u8>)>,
    /// Content of the guest's disk if a flush succeeds.
    disk: Vec<u8>,
}

/// The library that makes calls fail.
fn library(folder: &Path) -> PathBuf {
    let library = folder.join("fault.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fault/fault.c");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-o"])
        .args([library.as_os_str(), source.as_ref()])
        .args(["-ldl", "-pthread"])
        .output()
        .expect("a C compiler is there: RocksDB needs one");
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    library
}

/// Runs the faults in a process of their own.
fn disturb(kind: char, errno: i32, count: u32, last: u32) {
    let folder = scratch::folder();
    let root = folder.path().join("root");
    fs::create_dir(&root).expect("a folder");
    let done = Command::new(std::env::current_exe().expect("a test knows its binary"))
        .args(["--exact", "failing::a_store_that_is_disturbed"])
        .args(["--ignored", "--nocapture", "--test-threads=1"])
        .env("LD_PRELOAD", library(folder.path()))
        .env(ROOT, &root)
        .env(FAULTS, format!("{kind} {errno} {count} {last}"))
        .output()
        .expect("the test binary starts itself");
    let (out, error) = (
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr),
    );
    assert!(done.status.success(), "{kind} {errno}: {out}{error}");
    let met = out
        .lines()
        .find_map(|line| line.split_once("met: ")?.1.parse::<u32>().ok())
        .expect("the worker tells");
    println!("failing: {kind} {errno} {count}: {met} of {last} met");
    assert!(met * 2 > last, "most of them fail a call: {met} of {last}");
}

#[test]
fn a_write_that_fails_costs_nothing() {
    disturb('w', EIO, 1, 24);
}

#[test]
fn a_sync_that_fails_and_drops_what_it_could_not_write_costs_nothing() {
    disturb('s', EIO, 1, 24);
}

#[test]
fn a_disk_that_is_full_for_a_moment_costs_nothing() {
    disturb('w', ENOSPC, 6, 12);
}

#[test]
fn a_file_that_may_not_grow_for_a_moment_costs_nothing() {
    disturb('w', EFBIG, 1, 8);
}

#[test]
fn no_descriptor_for_a_moment_costs_nothing() {
    disturb('c', EMFILE, 2, 6);
}

#[test]
fn a_rename_that_fails_costs_nothing() {
    disturb('r', EIO, 1, 4);
}

/// Not a test of its own.
#[test]
#[ignore = "started by the tests of failing calls, with a library that makes them fail"]
fn a_store_that_is_disturbed() {
    let (Some(root), Ok(faults)) = (std::env::var_os(ROOT), std::env::var(FAULTS)) else {
        return;
    };
    let words: Vec<&str> = faults.split(' ').collect();
    let number = |at: usize| words[at].parse::<u32>().expect("a number");
    let mut met = 0;
    for nth in 1..=number(3) {
        let fault = Fault {
            kind: words[0].chars().next().expect("a kind"),
            nth,
            count: number(2),
            errno: words[1].parse().expect("a number"),
        };
        let dir = PathBuf::from(&root).join(format!("store-{nth}"));
        met += u32::from(work(&dir, fault));
        fs::remove_dir_all(&dir).expect("it can go");
    }
    println!("met: {met}");
}

/// Works with a store while a call fails; whether it did.
fn work(dir: &Path, fault: Fault) -> bool {
    let store = scratch::store_in(dir, scratch::LZ4);
    let mut random = fastrand::Rng::with_seed(u64::from(fault.nth));
    let mut books = Books {
        disk: vec![0; DISK_LEN],
        ..Books::default()
    };
    let image = store
        .create_image(&drive::name("guest"), DISK_LEN as u64)
        .expect("nothing fails yet")
        .image_id();
    books.nodes.push(("guest".to_owned(), books.disk.clone()));
    let live = store.open_live(image).expect("live");
    fault.ask();
    for step in 0..6 {
        // Once the fault has passed, a second one meets a store that was opened anew.
        step_of(&store, &live, step, &mut random, &mut books, fault);
    }
    let met = Fault::end();
    recover(&live, &mut books, fault);
    for step in 6..9 {
        step_of(&store, &live, step, &mut random, &mut books, fault);
    }
    recover(&live, &mut books, fault);
    agree(&store, &books, fault);
    drop((live, store));
    let store = scratch::open(dir);
    agree(&store, &books, fault);
    met
}

/// A guest writes and flushes, a snapshot is taken, a disk comes in, one goes, space comes back:
/// whatever is answered is booked.
fn step_of(
    store: &Store,
    live: &LiveDisk,
    step: u32,
    random: &mut fastrand::Rng,
    books: &mut Books,
    fault: Fault,
) {
    for _ in 0..4 {
        let at = random.usize(..DISK_LEN - 40_000);
        let mut bytes = vec![0; random.usize(1..40_000)];
        random.fill(&mut bytes);
        live.write_at(&bytes, at as u64)
            .expect("memory has room, and nothing is read that could fail");
        books.disk[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    if accept(live.flush(), fault) {
        books.put("guest", books.disk.clone());
        let snapshot = format!("s{step}");
        let taken = store.take_snapshot(live.image(), &drive::name(&snapshot));
        if accept(taken.map(drop), fault) {
            books.put(&format!("guest@{snapshot}"), books.disk.clone());
        }
    }
    let (name, mut bytes) = (format!("disk{step}"), vec![0; 300_000]);
    random.fill(&mut bytes);
    let request = ImportRequest {
        target: ImportTarget::New {
            name: drive::name(&name),
            parent: None,
        },
        snapshot: None,
    };
    let input = drive::input(Content::plain(bytes.clone()), false);
    if accept(store.import(input, &request, &Unwatched).map(drop), fault) {
        books.put(&name, bytes);
    }
    if step % 2 == 1 {
        let old = format!("disk{}", step - 1);
        let found = books.nodes.iter().any(|(name, _)| *name == old);
        let deleted = drive::image(store, &old).and_then(|image| store.delete_image(image, true));
        if !found {
            assert!(deleted.is_err(), "{old} was refused");
        } else if accept(deleted, fault) {
            books.nodes.retain(|(name, _)| *name != old);
        }
        accept(
            store
                .collect(CollectOptions::default(), &Unwatched)
                .map(drop),
            fault,
        );
    }
}

impl Books {
    fn put(&mut self, name: &str, bytes: Vec<u8>) {
        self.nodes.retain(|(known, _)| known != name);
        self.nodes.push((name.to_owned(), bytes));
    }
}

/// True if the operation was done; a refusal must say why.
fn accept(outcome: Result<(), StoreError>, fault: Fault) -> bool {
    match outcome {
        Ok(()) => true,
        Err(
            StoreError::Full { .. }
            | StoreError::TooLong { .. }
            | StoreError::Database { .. }
            | StoreError::Stopped(_)
            | StoreError::Reopened
            | StoreError::Damaged(_),
        ) => false,
        Err(error) => panic!("{fault:?}: {error:?}"),
    }
}

/// The guest goes on: its flush succeeds before long, by itself.
fn recover(live: &LiveDisk, books: &mut Books, fault: Fault) {
    let since = Instant::now();
    while let Err(error) = live.flush() {
        assert!(since.elapsed() < RECOVERY, "{fault:?}: {error}");
        std::thread::sleep(Duration::from_millis(20));
    }
    books.put("guest", books.disk.clone());
}

/// True if the store holds the content of the books, no more and no less.
fn agree(store: &Store, books: &Books, fault: Fault) {
    let tree = store.tree();
    let mut names: Vec<String> = tree.images().map(|image| image.name.to_string()).collect();
    let image = tree
        .images()
        .find(|image| &*image.name.to_string() == "guest");
    let id = image.expect("the guest's image is there").id;
    names.extend(
        tree.snapshots_of(id)
            .map(|snapshot| format!("guest@{}", snapshot.name)),
    );
    drop(tree);
    names.sort();
    let mut booked: Vec<String> = books.nodes.iter().map(|(name, _)| name.clone()).collect();
    booked.sort();
    assert_eq!(names, booked, "{fault:?}");
    for (name, bytes) in &books.nodes {
        let node: NodeRef = drive::node(store, name).expect("just listed");
        let disk = store.open_disk(node).expect("readable");
        let mut seen = vec![0xaa; bytes.len()];
        disk.read_at(&mut seen, 0)
            .unwrap_or_else(|error| panic!("{fault:?}: {name}: {error}"));
        assert!(seen == *bytes, "{fault:?}: {name} holds other bytes");
    }
    drive::check(store, true).unwrap_or_else(|error| panic!("{fault:?}: {error}"));
}
