//! Healing: data that was damaged and comes again, or is found elsewhere, is whole again; and never
//! a wrong byte.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vellum_core::frame::{FrameHeader, parse_frame_key};
use vellum_core::hash::ChunkHash;
use vellum_core::solid::parse_solid_key;
use vellum_core::tree::NodeRef;
use vellum_core::units::ChunkId;

use crate::chunks::RightBytes;
use crate::chunks::sync::schedule;
use crate::database::{Batch, Durability, Family};
use crate::model::{assert_same, name, new_store, open, seed};
use crate::{
    Access, CheckOptions, ChunkSource, CollectOptions, DeepOptions, ImageFileSource, ImageInput,
    ImportOptions, ImportRequest, ImportTarget, OtherStoreSource, Store, StoreError, Unwatched,
    WantedChunks,
};

const CHUNK: usize = 4096;
/// Every how many bytes of a record one is flipped.
const FLIP_STEP: usize = 64;
/// Chunks of the disk: two frames, one of them not full.
const CHUNKS: usize = 40;

/// A store with two images that share what is damaged.
struct Ward {
    dir: TempDir,
    store: Option<Store>,
    content: Vec<u8>,
}

/// The damaged part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wound {
    PayloadFlipped,
    PayloadGone,
    HeaderFlipped,
    IndexFlipped,
    IndexGone,
    BlockFlipped,
    BlockGone,
}

/// Way in which the right bytes come again.
#[derive(Clone, Copy, Debug)]
enum WayIn {
    Import,
    Update,
    Child,
    GuestWrite,
    GuestWriteInPart,
}

const WOUNDS: [Wound; 7] = [
    Wound::PayloadFlipped,
    Wound::PayloadGone,
    Wound::HeaderFlipped,
    Wound::IndexFlipped,
    Wound::IndexGone,
    Wound::BlockFlipped,
    Wound::BlockGone,
];
const WAYS_IN: [WayIn; 5] = [
    WayIn::Import,
    WayIn::Update,
    WayIn::Child,
    WayIn::GuestWrite,
    WayIn::GuestWriteInPart,
];

fn noise(seed: u64, chunks: usize) -> Vec<u8> {
    let mut bytes = vec![0; chunks * CHUNK];
    let mut random = fastrand::Rng::with_seed(seed);
    // A part of each chunk is noise: payloads that are short and that a codec does something with.
    bytes
        .chunks_exact_mut(CHUNK)
        .for_each(|chunk| random.fill(&mut chunk[..CHUNK / 16]));
    bytes
}

fn import_as(
    store: &Store,
    target: ImportTarget,
    bytes: &[u8],
    verify: bool,
) -> Result<NodeRef, StoreError> {
    let request = ImportRequest {
        target,
        snapshot: None,
    };
    let stream = Box::new(std::io::Cursor::new(bytes.to_vec()));
    let input = ImageInput::of_stream(stream, "bytes".to_owned());
    let report = store.import_with(input, &request, ImportOptions { verify }, &Unwatched)?;
    Ok(report.node)
}

fn import(store: &Store, text: &str, bytes: &[u8], verify: bool) -> NodeRef {
    let target = ImportTarget::New {
        name: name(text),
        parent: None,
    };
    import_as(store, target, bytes, verify).expect("imported")
}

impl Wound {
    fn is_of_block(self) -> bool {
        matches!(self, Self::BlockFlipped | Self::BlockGone)
    }
}

impl Ward {
    fn new() -> Self {
        let (dir, store) = new_store(CHUNK as u64);
        let content = noise(1, CHUNKS);
        import(&store, "web", &content, false);
        import(&store, "twin", &content, false);
        Self {
            dir,
            store: Some(store),
            content,
        }
    }

    /// A store that can have `wound`.
    fn for_wound(wound: Wound) -> Self {
        let ward = Self::new();
        if wound.is_of_block() {
            // More than one full frame, which a block takes.
            import(ward.store(), "other", &noise(9, 2 * CHUNKS), false);
            let options = CollectOptions {
                deep: Some(DeepOptions { level: 3 }),
                ..CollectOptions::default()
            };
            let collected = ward.store().collect(options, &Unwatched);
            assert!(collected.expect("sound").deep.blocks > 0);
            ward.store().inner.chunks.forget_frames();
        }
        ward
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("open")
    }

    fn reopen(&mut self) {
        self.store = None;
        self.store = Some(open(&self.dir));
    }

    fn node(&self, text: &str) -> NodeRef {
        self.store().find_node(text).expect("it is there")
    }

    fn records(&self, family: Family) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut scan = self.store().inner.database.scan_from(family, &[]);
        let mut records = Vec::new();
        while let Some((key, value)) = scan.next().expect("readable") {
            records.push((key.to_vec(), value.to_vec()));
        }
        records
    }

    fn write(&self, change: impl FnOnce(&mut Batch)) {
        let mut batch = Batch::default();
        change(&mut batch);
        let database = &self.store().inner.database;
        database
            .write_batch(batch, Durability::Logged)
            .expect("room");
        self.store().inner.chunks.forget_frames();
    }

    fn wound(&self, wound: Wound) {
        let (family, is_gone) = match wound {
            Wound::PayloadFlipped => (Family::Frames, false),
            Wound::PayloadGone => (Family::Frames, true),
            Wound::HeaderFlipped => (Family::Headers, false),
            Wound::IndexFlipped => (Family::Index, false),
            Wound::IndexGone => (Family::Index, true),
            Wound::BlockFlipped => (Family::Frames, false),
            Wound::BlockGone => (Family::Frames, true),
        };
        // Of the index many, since each is one chunk's.
        let count = if family == Family::Index { 20 } else { 1 };
        let is_meant = |(key, _): &(Vec<u8>, Vec<u8>)| {
            parse_solid_key(key).is_some() == wound.is_of_block() || family != Family::Frames
        };
        let records = self.records(family).into_iter().filter(is_meant);
        for (key, value) in records.take(count) {
            self.write(|batch| {
                if is_gone {
                    batch.delete_record(family, key);
                } else if family == Family::Index {
                    // No number has so many bytes.
                    batch.put_record(family, key, [0xff; 12]);
                } else {
                    batch.put_record(family, key, flipped(&value, value.len() / 2));
                }
            });
        }
    }

    /// Damages a byte of every payload.
    fn flip_payloads(&self, at: usize) {
        for (key, value) in self.records(Family::Frames) {
            self.write(|batch| batch.put_record(Family::Frames, key, flipped(&value, at)));
        }
    }

    /// Damages a random byte of about every second payload.
    fn flip_some_payloads(&self, random: &mut fastrand::Rng) {
        for (key, value) in self.records(Family::Frames) {
            if random.bool() {
                let at = random.usize(..value.len());
                self.write(|batch| batch.put_record(Family::Frames, key, flipped(&value, at)));
            }
        }
    }

    /// Adds small frames that tending merges, and dead ones.
    fn add_small_and_dead_frames(&self) {
        let store = self.store();
        let doomed = import(store, "doomed", &noise(7, 20), false);
        for nth in 0..6 {
            let live = store.open_live(self.node("web").image_id()).expect("live");
            let bytes = &self.content[nth * 3 * CHUNK..][..2 * CHUNK];
            live.write_at(bytes, 0)
                .and_then(|()| live.flush())
                .expect("written");
            live.write_at(&self.content[..2 * CHUNK], 0)
                .and_then(|()| live.flush())
                .expect("written");
        }
        store
            .delete_image(doomed.image_id(), false)
            .expect("deleted");
    }

    /// The store that would be there if the process were killed now.
    fn after_crash(&self) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        copy_of_a_crash(&self.dir.path().join("store"), &dir.path().join("store"));
        Self {
            store: Some(open(&dir)),
            dir,
            content: self.content.clone(),
        }
    }

    fn check(&self) -> usize {
        let options = CheckOptions {
            read_data: true,
            subset: None,
        };
        let report = self.store().check(options, &Unwatched).expect("a check");
        let damage = report.findings.iter().filter(|finding| finding.is_damage);
        damage.count()
    }

    /// Reads an image chunk by chunk: right bytes or damage. Whether all of it was there.
    fn look(&self, text: &str, what: &str) -> bool {
        let disk = self.store().open_disk(self.node(text)).expect("it opens");
        let mut is_whole = true;
        for (at, expected) in self.content.chunks_exact(CHUNK).enumerate() {
            let mut seen = vec![0xaa; CHUNK];
            match disk.read_at(&mut seen, (at * CHUNK) as u64) {
                Ok(()) => assert_same(&seen, expected, &format!("{what}: {text}, chunk {at}")),
                Err(StoreError::Damaged(_)) => is_whole = false,
                Err(error) => panic!("{what}: {error}"),
            }
        }
        is_whole
    }

    fn bring(&self, way: WayIn) -> &'static str {
        let (store, content) = (self.store(), &self.content);
        let image = self.node("web").image_id();
        match way {
            WayIn::Import => {
                import(store, "again", content, false);
                return "again";
            }
            WayIn::Child => {
                let parent = Some(self.node("web"));
                let target = ImportTarget::New {
                    name: name("again"),
                    parent,
                };
                import_as(store, target, content, false).expect("imported");
                return "again";
            }
            WayIn::Update => {
                import_as(store, ImportTarget::Update(image), content, false).expect("imported");
            }
            WayIn::GuestWrite => {
                let live = store.open_live(image).expect("live");
                live.write_at(content, 0)
                    .and_then(|()| live.flush())
                    .expect("written");
            }
            WayIn::GuestWriteInPart => {
                let live = store.open_live(image).expect("live");
                for (at, part) in content.chunks(7 * CHUNK).enumerate() {
                    live.write_at(part, (at * 7 * CHUNK) as u64)
                        .expect("written");
                    live.flush().expect("flushed");
                }
            }
        }
        "web"
    }
}

fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let at = at % bytes.len();
    bytes[at] ^= 1;
    bytes
}

#[test]
fn every_way_in_heals_what_was_found_damaged() {
    for wound in WOUNDS {
        for way in WAYS_IN {
            let what = format!("{wound:?}, {way:?}");
            let mut ward = Ward::for_wound(wound);
            ward.wound(wound);
            ward.check();
            // Bytes that were found outlive the process.
            ward.reopen();
            let brought = ward.bring(way);
            if wound.is_of_block() {
                // Its block had others' frames, too.
                import(ward.store(), "others", &noise(9, 2 * CHUNKS), false);
            }
            ward.store().inner.chunks.forget_frames();
            assert!(
                ward.look(brought, &what),
                "{what}: what was brought does not read"
            );
            let is_shared = ward.look("twin", &what);
            // A header that is gone takes the names with it: nobody can tell what is the same.
            assert!(
                is_shared || wound == Wound::HeaderFlipped,
                "{what}: the twin does not read"
            );
            if wound != Wound::HeaderFlipped {
                let damage = ward.store().known_damage();
                assert!(damage.damaged.is_empty(), "{what}: still doubted");
                assert_eq!(ward.check(), 0, "{what}");
            }
            ward.reopen();
            assert!(ward.look(brought, &what), "{what}: not durable");
        }
    }
}

#[test]
fn what_nobody_looked_at_is_healed_by_an_import_that_verifies() {
    for wound in [
        Wound::PayloadFlipped,
        Wound::PayloadGone,
        Wound::HeaderFlipped,
        Wound::BlockFlipped,
    ] {
        let ward = Ward::for_wound(wound);
        ward.wound(wound);
        import(ward.store(), "again", &ward.content, true);
        ward.store().inner.chunks.forget_frames();
        assert!(ward.look("again", &format!("{wound:?}")), "{wound:?}");
    }
}

/// Each byte of a step of every frame, by each of the ways in turn.
#[test]
fn frames_flipped_anywhere_heal_by_reimport_and_from_every_kind_of_source() {
    let ward = Ward::new();
    let whole = ward.records(Family::Frames);
    let len = whole
        .iter()
        .map(|(_, payload)| payload.len())
        .max()
        .expect("frames");
    let (other_dir, other) = new_store(CHUNK as u64);
    import(&other, "copy", &ward.content, false);
    drop(other);
    let files = tempfile::tempdir().expect("a folder");
    let (plain, odd) = (files.path().join("plain.raw"), files.path().join("odd.bin"));
    fs::write(&plain, &ward.content).expect("room");
    let shifted = [&[0x5a; 12_345][..], &ward.content, &[7; 99]].concat();
    fs::write(&odd, shifted).expect("room");
    let sources: [Arc<dyn ChunkSource>; 3] = [
        Arc::new(OtherStoreSource::new(&other_dir.path().join("store"))),
        Arc::new(ImageFileSource::new(&plain, false)),
        Arc::new(ImageFileSource::new(&odd, true)),
    ];
    let mut count = 0;
    for at in (0..len).step_by(FLIP_STEP) {
        let way = at / FLIP_STEP % 5;
        let what = format!("byte {at}, way {way}");
        ward.write(|batch| {
            for (key, value) in &whole {
                batch.put_record(Family::Frames, key.clone(), flipped(value, at));
            }
        });
        match way {
            0 => {
                assert!(ward.check() > 0, "{what}: nothing was found");
                import_as(
                    ward.store(),
                    ImportTarget::Update(ward.node("web").image_id()),
                    &ward.content,
                    false,
                )
                .expect("imported");
            }
            1 => {
                let image = ward.node("web").image_id();
                import_as(
                    ward.store(),
                    ImportTarget::Update(image),
                    &ward.content,
                    true,
                )
                .expect("imported");
            }
            nth => {
                let _asked = ward.store().ask_source(Arc::clone(&sources[nth - 2]));
                assert!(ward.look("web", &what), "{what}: the source was not used");
            }
        }
        ward.store().inner.chunks.forget_frames();
        assert!(ward.look("twin", &what), "{what}: not healed");
        assert_eq!(ward.check(), 0, "{what}");
        assert!(
            ward.store().known_damage().damaged.is_empty(),
            "{what}: still doubted"
        );
        count += 1;
    }
    println!("{count} flips in each of {} frames", whole.len());
}

/// The whole frame is unreadable, and only some of its chunks come.
#[test]
fn a_frame_that_is_healed_in_part_reads_right_there_and_as_damage_elsewhere() {
    let mut ward = Ward::new();
    ward.flip_payloads(100);
    assert!(ward.check() > 0);
    let some = [3 * CHUNK..5 * CHUNK, 38 * CHUNK..39 * CHUNK];
    for part in &some {
        let live = ward
            .store()
            .open_live(ward.node("web").image_id())
            .expect("live");
        live.write_at(&ward.content[part.clone()], part.start as u64)
            .and_then(|()| live.flush())
            .expect("written");
    }
    for _ in 0..2 {
        let disk = ward.store().open_disk(ward.node("twin")).expect("it opens");
        for at in 0..CHUNKS {
            let mut seen = vec![0xaa; CHUNK];
            let read = disk.read_at(&mut seen, (at * CHUNK) as u64);
            let is_healed = some.iter().any(|part| part.contains(&(at * CHUNK)));
            match read {
                Ok(()) => {
                    assert!(is_healed, "chunk {at} came from nowhere");
                    assert_same(&seen, &ward.content[at * CHUNK..][..CHUNK], "healed");
                }
                Err(StoreError::Damaged(damage)) => {
                    assert!(!is_healed && damage.image.is_some(), "chunk {at}: {damage}");
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert!(ward.check() > 0, "what is missing is still damage");
        let doubted = ward.store().known_damage().damaged.len();
        assert_eq!(doubted, CHUNKS as u64 - 3);
        drop(disk);
        ward.reopen();
    }
    // Nothing of it is sent on as if it were whole.
    let moment = ward
        .store()
        .take_point_in_time(&[ward.node("twin")])
        .expect("a moment");
    let mut wanted = vellum_core::id_set::IdSet::new();
    wanted.insert_run(ChunkId(0), CHUNKS as u64);
    let mut supply = moment.export_frames(wanted);
    let planned = supply.next_batch().expect("sound headers");
    assert!(
        planned
            .iter()
            .all(|frame| supply.read_frame(frame, |_| ()).is_err())
    );
    drop(supply);
    drop(moment);
    import(ward.store(), "again", &ward.content, false);
    assert!(ward.look("twin", "all came") && ward.check() == 0);
}

#[test]
fn what_a_reader_found_is_known_to_whoever_writes_next() {
    let mut ward = Ward::new();
    ward.wound(Wound::PayloadFlipped);
    ward.store = None;
    let dir = ward.dir.path().join("store");
    let reader = Store::open_dir(&dir, Access::ReadOnly, "").expect("it opens");
    let disk = reader
        .open_disk(reader.find_node("web").expect("it is there"))
        .expect("opens");
    let mut bytes = vec![0; ward.content.len()];
    assert!(disk.read_at(&mut bytes, 0).is_err());
    assert!(!reader.known_damage().damaged.is_empty());
    drop((disk, reader));
    ward.reopen();
    assert!(!ward.store().known_damage().damaged.is_empty());
    ward.reopen();
    assert!(
        !ward.store().known_damage().damaged.is_empty(),
        "it is kept"
    );
    import(ward.store(), "again", &ward.content, false);
    assert!(ward.look("twin", "after the import"));
}

/// A source that never answers, and one that lies.
#[test]
fn a_source_that_hangs_or_lies_costs_a_bounded_time_and_no_wrong_byte() {
    struct Hanging(AtomicUsize);
    struct Lying;
    impl ChunkSource for Hanging {
        fn source_name(&self) -> String {
            "a source that hangs".to_owned()
        }
        fn fetch_chunks(&self, _: &WantedChunks<'_>) -> Result<Vec<Option<Vec<u8>>>, String> {
            self.0.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(crate::chunks::PATIENCE * 20);
            Err("late".to_owned())
        }
    }
    impl ChunkSource for Lying {
        fn source_name(&self) -> String {
            "a source that lies".to_owned()
        }
        fn fetch_chunks(&self, wanted: &WantedChunks<'_>) -> Result<Vec<Option<Vec<u8>>>, String> {
            Ok(vec![
                Some(vec![1; wanted.chunk_len.as_usize()]);
                wanted.names.len()
            ])
        }
    }
    let ward = Ward::new();
    ward.flip_payloads(100);
    let hanging = Arc::new(Hanging(AtomicUsize::new(0)));
    ward.store()
        .set_sources(vec![hanging.clone(), Arc::new(Lying)]);
    let begun = Instant::now();
    assert!(!ward.look("web", "no source has it"));
    // Bounded by what it would be if every chunk were waited for.
    assert!(begun.elapsed() < crate::chunks::PATIENCE * 19);
    assert_eq!(hanging.0.load(Ordering::Relaxed), 1, "it is left alone");
    import(ward.store(), "again", &ward.content, false);
    assert!(ward.look("twin", "after the import"));
}

#[test]
fn another_copy_in_the_store_heals() {
    let ward = Ward::new();
    // Without index entries the same bytes are stored once more.
    let index = ward.records(Family::Index);
    ward.write(|batch| {
        index
            .iter()
            .for_each(|(key, _)| batch.delete_record(Family::Index, key.clone()));
    });
    import(ward.store(), "copy", &ward.content, false);
    let frames = ward.records(Family::Frames);
    let (key, value) = &frames[0];
    assert!(parse_frame_key(key).expect("a key") == ChunkId(0));
    ward.write(|batch| batch.put_record(Family::Frames, key.clone(), flipped(value, 77)));
    assert!(ward.look("web", "from the copy"));
    assert_eq!(ward.check(), 0);
}

/// A damaged chunk that is collected leaves the ledger.
#[test]
fn the_ledger_forgets_what_is_collected() {
    let mut ward = Ward::new();
    ward.flip_payloads(100);
    ward.check();
    for text in ["web", "twin"] {
        let image = ward.node(text).image_id();
        ward.store().delete_image(image, true).expect("deleted");
    }
    ward.store()
        .collect(CollectOptions::default(), &Unwatched)
        .expect("collected");
    assert!(ward.store().known_damage().damaged.is_empty());
    ward.reopen();
    assert!(ward.store().known_damage().damaged.is_empty());
    assert_eq!(ward.check(), 0);
}

#[test]
fn what_is_overdue_is_read_before_it_is_believed() {
    let ward = Ward::new();
    ward.wound(Wound::PayloadFlipped);
    let mut overdue = vellum_core::id_set::IdSet::new();
    overdue.insert_run(ChunkId(0), 1000);
    ward.store().inner.chunks.set_overdue(overdue);
    import(ward.store(), "again", &ward.content, false);
    assert!(ward.look("twin", "after the import"));
}

/// Bytes are never written under another name, nor a chunk that is gone.
#[test]
fn healing_writes_nothing_under_a_name_that_the_frame_does_not_have() {
    let ward = Ward::new();
    ward.flip_payloads(50);
    ward.check();
    let plain = noise(99, 1);
    let name = ChunkHash::of_chunk(&plain);
    let chunks = [0, 5, 9999].map(|id| RightBytes {
        id: ChunkId(id),
        name,
        plain: &plain,
    });
    let healed = ward
        .store()
        .inner
        .chunks
        .heal_chunks(&chunks)
        .expect("it ends");
    assert_eq!(healed, [false; 3]);
    assert!(!ward.look("web", "nothing was healed"));
}

/// Imports that heal, collections and steps of tending in every order: what is referred to reads
/// right, frames never overlap, and what was healed stays healed over a crash.
#[test]
fn healing_beside_collections_leaves_every_chunk_once() {
    let seed = seed();
    for round in 0..8 {
        let seed = seed.wrapping_add(round);
        let random = &mut fastrand::Rng::with_seed(seed);
        let ward = Ward::new();
        let store = ward.store();
        ward.add_small_and_dead_frames();
        ward.flip_some_payloads(random);
        ward.check();
        let (content, collect) = (&ward.content, || {
            match store.collect(CollectOptions::default(), &Unwatched) {
                Ok(_) | Err(StoreError::Busy(_)) => {}
                Err(error) => panic!("{error}"),
            }
        });
        // They keep each other away by a lock that knows no turns.
        let maintain: Box<dyn FnOnce() + Send + '_> = if round.is_multiple_of(2) {
            Box::new(&collect)
        } else {
            Box::new(|| _ = store.run_maintenance(&Unwatched).expect("tended"))
        };
        schedule::run_interleaved(
            seed,
            vec![
                maintain,
                Box::new(|| _ = import(store, "again", content, false)),
                Box::new(|| _ = import(store, "more", &content[CHUNK..], true)),
            ],
        );
        store.inner.chunks.forget_frames();
        let what = format!("seed {seed}");
        assert_healed(&ward, &what);
        assert_frames_apart(&ward, &what);
        // Chunks that are damaged and dead are brought again by nobody: they go.
        collect();
        assert_eq!(ward.check(), 0, "{what}");
        assert_healed(&ward, &what);
        let (ward, what) = (ward.after_crash(), format!("{what}, after a crash"));
        assert_healed(&ward, &what);
        assert_frames_apart(&ward, &what);
    }
}

/// All that was imported reads right.
fn assert_healed(ward: &Ward, what: &str) {
    assert!(
        ward.look("again", what) && ward.look("twin", what),
        "{what}: not healed"
    );
}

/// No two frames hold the same id.
fn assert_frames_apart(ward: &Ward, what: &str) {
    let mut end = ChunkId(0);
    let mut names: HashMap<ChunkId, ChunkHash> = HashMap::new();
    for (key, value) in ward.records(Family::Headers) {
        let first = parse_frame_key(&key).expect("a key");
        let header = FrameHeader::decode(first, &value).expect("a whole header");
        assert!(
            header.first_id() >= end,
            "{what}: frames overlap at {first}"
        );
        end = header.end_id();
        names.extend(header.chunk_hashes().map(|(id, name)| (id, *name)));
    }
    assert!(!names.is_empty());
}

/// The files of a store and their lengths.
fn inventory(dir: &Path) -> Option<BTreeMap<PathBuf, u64>> {
    let mut files = BTreeMap::new();
    for folder in [dir.to_owned(), dir.join("database")] {
        for entry in fs::read_dir(folder).ok()? {
            let entry = entry.ok()?;
            if entry.file_type().ok()?.is_file() {
                files.insert(entry.path(), entry.metadata().ok()?.len());
            }
        }
    }
    Some(files)
}

/// Copies the state that the disk would have if the process were killed now. `RocksDB` works in the
/// background: files that change while they are copied are copied again.
fn copy_of_a_crash(from: &Path, to: &Path) {
    for _ in 0..200 {
        fs::create_dir_all(to.join("database")).expect("a folder");
        let before = inventory(from);
        let copied = before.iter().flatten().try_for_each(|(path, _)| {
            let within = path.strip_prefix(from).expect("it is inside");
            fs::copy(path, to.join(within)).map(drop)
        });
        if copied.is_ok() && before.is_some() && before == inventory(from) {
            return;
        }
        fs::remove_dir_all(to).expect("a copy can be thrown away");
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("the files of {} never hold still", from.display());
}
