//! `vellum-fleet`: requests and bytes of one client of a repository, as ever more hosts push to it.
//! Each host has a disk of its own, half of which all have in common; chunks compress to little, so
//! that what is counted is the journal, the index and the maps. The place is in memory: no figure
//! is a time.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use vellum_backup::format::{IndexPart, PartTable};
use vellum_backup::objects::folder::Folder;
use vellum_backup::objects::memory::Memory;
use vellum_backup::objects::{ObjectError, ObjectId, Objects};
use vellum_backup::prune::{PruneOptions, prune};
use vellum_backup::push::{INDEX_FETCH_LEN, PushReport, PushRequest, PushSelection, push};
use vellum_backup::reader::Reader;
use vellum_backup::record::{IndexParts, Record};
use vellum_backup::restore::{RestoreTarget, restore};
use vellum_backup::{ClientFolders, Repository, Rollback, Session, SessionKind, Writer};
use vellum_benches::{name, new_store, peak_memory_kib};
use vellum_core::identity::{ContentId, SegmentId};
use vellum_core::units::ChunkLen;
use vellum_store::{Store, Unwatched};

/// The numbers of hosts at which figures are taken.
const FLEETS: [u64; 3] = [10, 100, 1_000];
const CHUNK: usize = 4096;
/// Chunks of a disk that all hosts have, and as many of its own.
const HALF: u64 = 2_048;

/// Unique data in TB at which a client's memory is measured.
const UNIQUE_TB: [u64; 4] = [0, 1, 10, 50];
/// Segments of a TB: 65,536 chunks each.
const SEGMENTS_OF_TB: u64 = 1_000_000_000_000 / (65_536 * CHUNK as u64);
/// Parts of an index object, each of one segment.
const PARTS: u64 = 256;

/// Requests and bytes, by the first part of the objects' names.
type Counts = BTreeMap<String, (u64, u64)>;

/// A place that counts.
struct Counted {
    place: Arc<Memory>,
    counts: Mutex<Counts>,
}

impl Counted {
    fn new(place: &Arc<Memory>) -> Arc<Self> {
        Arc::new(Self {
            place: Arc::clone(place),
            counts: Mutex::default(),
        })
    }

    fn count(&self, name: &str, bytes: usize) {
        let name = name.strip_prefix("copies/").unwrap_or(name);
        let kind = name.split('/').next().unwrap_or_default().to_owned();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(kind).or_default();
        *count = (count.0 + 1, count.1 + bytes as u64);
    }

    fn counts(&self) -> Counts {
        self.counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Objects for Counted {
    fn get(&self, name: &str) -> Result<Vec<u8>, ObjectError> {
        let bytes = self.place.get(name)?;
        self.count(name, bytes.len());
        Ok(bytes)
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>, ObjectError> {
        let bytes = self.place.get_range(name, range)?;
        self.count(name, bytes.len());
        Ok(bytes)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        self.count(name, bytes.len());
        self.place.put(name, bytes)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        self.count(name, bytes.len());
        self.place.replace(name, bytes)
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(&str, u64) -> Result<(), ObjectError>,
    ) -> Result<(), ObjectError> {
        self.count("listings", 0);
        self.place.list(prefix, visit)
    }

    fn delete(&self, name: &str) -> Result<(), ObjectError> {
        self.count(name, 0);
        self.place.delete(name)
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["client", job, dir] => client(Path::new(dir), job),
        ["memory"] => measure_memory(),
        _ => measure_fleets(),
    }
}

fn measure_fleets() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = Arc::new(Memory::new());
    let folders = ClientFolders::default();
    Repository::init(place.clone(), ChunkLen::DEFAULT, None, 0, folders).expect("a repository");
    println!("| hosts | job | requests | journal | index | maps | packs | MiB |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let mut hosts = 0;
    for fleet in FLEETS {
        while hosts < fleet {
            let host = Host::new(dir.path(), hosts);
            host.push(&open(&Counted::new(&place), &host.folders));
            host.remove();
            hosts += 1;
        }
        measure(dir.path(), &place, fleet, "");
        let counted = Counted::new(&place);
        let repository = open(&counted, &folders_in(&dir.path().join("pruner")));
        let options = PruneOptions::default();
        prune(&repository, &options, writer(), &Unwatched).expect("a collection");
        show(fleet, "prune", &counted.counts());
        measure(dir.path(), &place, fleet, " after it");
    }
}

/// The peak memory of clients without a cache, each in a process of its own.
fn measure_memory() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = || -> Arc<dyn Objects> { Arc::new(Folder::new(dir.path().join("repository"))) };
    let folders = ClientFolders::default;
    Repository::init(place(), ChunkLen::DEFAULT, None, 0, folders()).expect("a repository");
    let open = || Repository::open(place(), None, folders(), Rollback::Refused);
    let host = Host::new(dir.path(), 0);
    host.push(&open().expect("it opens"));
    host.remove();
    println!("| TB | job | peak MiB |");
    println!("| --- | --- | --- |");
    let mut segments = 0;
    for unique in UNIQUE_TB {
        let wanted = unique * SEGMENTS_OF_TB;
        grow_index(&open().expect("it opens"), segments..wanted);
        segments = wanted;
        for job in ["list", "restore", "push"] {
            let program = std::env::current_exe().expect("a process knows its program");
            let client = Command::new(program)
                .args(["client", job])
                .arg(dir.path())
                .output();
            let client = client.expect("it starts");
            assert!(client.status.success(), "{client:?}");
            let told = String::from_utf8_lossy(&client.stdout);
            println!("| {unique} | {job} | {} |", told.trim());
        }
    }
}

/// Tells of index objects with a part for each of these segments.
fn grow_index(repository: &Repository, segments: Range<u64>) {
    let mut random = fastrand::Rng::with_seed(segments.start);
    let session = Session::begin(repository, SessionKind::Push, writer());
    let mut session = session.expect("nobody else is there");
    let mut record = Record::default();
    for first in segments.clone().step_by(PARTS as usize) {
        let mut bytes = [0; 32];
        random.fill(&mut bytes);
        let mut parts = PartTable::default();
        (first..segments.end.min(first + PARTS)).for_each(|_| add_part(&mut parts, &mut random));
        let parts = IndexParts::of(ObjectId(bytes), parts);
        record.indexes.push(parts.index.clone());
        record.index_parts.push(parts);
    }
    session.commit_in_parts(record).expect("it is counted");
    session.end().expect("it ends");
}

fn add_part(parts: &mut PartTable, random: &mut fastrand::Rng) {
    let mut segment = SegmentId([0; 16]);
    random.fill(&mut segment.0);
    let mut sample: Vec<u64> = (0..8).map(|_| random.u64(..)).collect();
    sample.sort_unstable();
    parts.push(IndexPart {
        segments: &[segment],
        offset: random.u64(..1 << 40),
        len: 2 << 20,
        sample: &sample,
    });
}

/// One client's work in `dir`, and its peak.
fn client(dir: &Path, job: &str) {
    let place: Arc<dyn Objects> = Arc::new(Folder::new(dir.join("repository")));
    let folders = ClientFolders::default();
    let repository = Repository::open(place, None, folders, Rollback::Refused).expect("it opens");
    match job {
        "restore" => restore_one(dir, &repository, 0),
        "push" => {
            let host = Host::new(dir, u64::from(std::process::id()));
            host.push_within(&repository, 0);
            host.remove();
        }
        _ => {}
    }
    println!("{}", peak_memory_kib() / 1024);
}

/// The figures of clients that have no cache, but for the last.
fn measure(dir: &Path, place: &Arc<Memory>, fleet: u64, when: &str) {
    let place = copy_of(place);
    let counted = Counted::new(&place);
    drop(open(&counted, &ClientFolders::default()));
    show(fleet, &format!("list{when}"), &counted.counts());

    let counted = Counted::new(&place);
    let repository = open(&counted, &ClientFolders::default());
    restore_one(dir, &repository, fleet / 2);
    show(
        fleet,
        &format!("restore of a disk{when}"),
        &counted.counts(),
    );

    let host = Host::new(dir, u64::MAX >> 33);
    for (job, limit) in [("first push", INDEX_FETCH_LEN), ("the same by samples", 0)] {
        let place = copy_of(&place);
        let counted = Counted::new(&place);
        let folders = ClientFolders::default();
        let report = host.push_within(&open(&counted, &folders), limit);
        let job = format!("{job}{when}: {} of {} chunks", report.chunks, HALF * 2);
        show(fleet, &job, &counted.counts());
    }
    host.push(&open(&Counted::new(&place), &host.folders));
    let counted = Counted::new(&place);
    host.push(&open(&counted, &host.folders));
    show(fleet, &format!("unchanged push{when}"), &counted.counts());
    host.remove();
}

fn show(fleet: u64, job: &str, counts: &Counts) {
    let requests: u64 = counts.values().map(|(requests, _)| requests).sum();
    let bytes: u64 = counts.values().map(|(_, bytes)| bytes).sum();
    let of = |kind: &str| {
        let (requests, bytes) = counts.get(kind).copied().unwrap_or_default();
        format!("{requests}: {:.3}", bytes as f64 / f64::from(1 << 20))
    };
    println!(
        "| {fleet} | {job} | {requests} | {} | {} | {} | {} | {:.3} |",
        of("journal"),
        of("index"),
        of("maps"),
        of("packs"),
        bytes as f64 / f64::from(1 << 20)
    );
}

/// A host: its store, and its client's folders.
struct Host {
    dir: std::path::PathBuf,
    store: Store,
    folders: ClientFolders,
}

impl Host {
    fn new(dir: &Path, number: u64) -> Self {
        let dir = dir.join(format!("host{number}"));
        std::fs::create_dir(&dir).expect("room");
        let store = new_store(&dir.join("store"));
        let text = name(&format!("disk{number}"));
        let image = store.create_image(&text, HALF * 2 * CHUNK as u64);
        let live = store.open_live(image.expect("a name that is free").image_id());
        let live = live.expect("nobody else writes");
        let own = (number + 1) << 32;
        for (chunk, at) in (0..HALF).chain(own..own + HALF).zip(0_u64..) {
            let bytes = (chunk + 1).to_le_bytes().repeat(CHUNK / 8);
            live.write_at(&bytes, at * CHUNK as u64).expect("room");
        }
        live.flush().expect("room");
        drop(live);
        Self {
            folders: folders_in(&dir),
            dir,
            store,
        }
    }

    fn push(&self, repository: &Repository) -> PushReport {
        self.push_within(repository, INDEX_FETCH_LEN)
    }

    fn push_within(&self, repository: &Repository, index_fetch_len: u64) -> PushReport {
        let request = PushRequest {
            again: false,
            selection: PushSelection::All,
            trust_others: true,
            verify: false,
            limit_upload: None,
            index_fetch_len,
            assumed: HashSet::new(),
            writer: writer(),
        };
        push(repository, &self.store, &request, &Unwatched).expect("a push")
    }

    fn remove(self) {
        let Self { dir, store, .. } = self;
        drop(store);
        std::fs::remove_dir_all(dir).expect("it is there");
    }
}

fn folders_in(dir: &Path) -> ClientFolders {
    ClientFolders {
        cache: Some(dir.join("cache")),
        state: Some(dir.join("state")),
    }
}

/// A place with the same objects: what is put there is not in the first.
fn copy_of(place: &Memory) -> Arc<Memory> {
    let copy = Memory::new();
    copy.replace_all(place.snapshot());
    Arc::new(copy)
}

fn open(counted: &Arc<Counted>, folders: &ClientFolders) -> Repository {
    let objects: Arc<dyn Objects> = counted.clone();
    Repository::open(objects, None, folders.clone(), Rollback::Refused).expect("it opens")
}

fn writer() -> Writer {
    Writer {
        name: "bench".to_owned(),
        host: None,
        time_ms: 1_800_000_000_000,
        process: None,
    }
}

fn restore_one(dir: &Path, repository: &Repository, number: u64) {
    let state = repository.state();
    let wanted = format!("disk{number}");
    let point = state.points().find(|point| point.name == wanted);
    let content = ContentId::parse(&point.expect("it was pushed").content);
    let path = dir.join("out.raw");
    let target = RestoreTarget::File {
        path,
        overwrite: true,
    };
    let reader = Reader::new(repository);
    restore(&reader, content.expect("a content"), target, &Unwatched).expect("a restore");
}
