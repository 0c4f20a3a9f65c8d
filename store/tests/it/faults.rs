//! Faults of the world while a store works: a disk that fills up at any point, sources that fail,
//! shrink or change.
//!
//! Each must end in an error that says so, with no half-visible image, and in a store that the next
//! command opens.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use vellum_core::source::SourceError;
use vellum_core::tree::{Annotation, NodeRef};
use vellum_formats::Format;
use vellum_store::{
    CollectOptions, FileSource, ImageInput, ImportRequest, ImportTarget, Store, StoreError,
    Unwatched,
};

use super::content::{Content, Pool};
use super::{drive, scratch};

const MIB: usize = 1 << 20;

fn new_image(name: &str) -> ImportRequest {
    ImportRequest {
        target: ImportTarget::New {
            name: drive::name(name),
            parent: None,
        },
        snapshot: None,
    }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// The images of a store, and that it is whole.
fn assert_images(store: &Store, expected: &[(&str, &[u8])]) {
    let names: Vec<String> = store
        .tree()
        .images()
        .map(|image| image.name.to_string())
        .collect();
    assert_eq!(
        names,
        expected.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        "the images that can be seen"
    );
    for (name, bytes) in expected {
        drive::same(
            &drive::read(store, name).expect("a whole store can be read"),
            bytes,
            name,
        );
    }
    drive::check(store, true).expect("a store can be checked after a fault");
}

// ---- sources ----

/// Fails, or ends, after some bytes.
struct Faulty {
    left: usize,
    random: fastrand::Rng,
    then: Option<io::ErrorKind>,
}

impl Read for Faulty {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return self.then.map_or(Ok(0), |kind| Err(kind.into()));
        }
        let len = buffer.len().min(self.left).min(70_000);
        self.random.fill(&mut buffer[..len]);
        self.left -= len;
        Ok(len)
    }
}

#[test]
fn a_pipe_that_fails_anywhere_leaves_no_image() {
    let folder = scratch::folder();
    let store = scratch::store_in(&folder.path().join("store"), scratch::ZSTD);
    let lens = [
        0,
        1,
        4095,
        4096,
        70_000,
        MIB - 1,
        MIB,
        MIB + 1,
        3 * MIB + 17,
        9 * MIB,
    ];
    for (nth, left) in lens.into_iter().enumerate() {
        let reader = Faulty {
            left,
            random: fastrand::Rng::with_seed(nth as u64),
            then: Some(io::ErrorKind::BrokenPipe),
        };
        let error = store.import(
            ImageInput::of_stream(Box::new(reader), "a pipe".to_owned()),
            &new_image("disk"),
            &Unwatched,
        );
        match error {
            Err(StoreError::Source {
                name,
                source: SourceError::Io { offset, .. },
            }) => {
                assert_eq!(
                    (name.as_str(), offset),
                    ("a pipe", left as u64),
                    "the error tells where"
                );
            }
            other => panic!("{other:?} after {left} bytes"),
        }
        assert_images(&store, &[]);
    }
    // Chunks of the failed imports are known to the next, and the name is free.
    let whole = Faulty {
        left: MIB,
        random: fastrand::Rng::with_seed(6),
        then: None,
    };
    let mut bytes = Vec::new();
    Faulty {
        left: MIB,
        random: fastrand::Rng::with_seed(6),
        then: None,
    }
    .read_to_end(&mut bytes)
    .expect("it ends");
    store
        .import(
            ImageInput::of_stream(Box::new(whole), "a pipe".to_owned()),
            &new_image("disk"),
            &Unwatched,
        )
        .expect("a whole pipe is imported");
    assert_images(&store, &[("disk", &bytes)]);
    println!(
        "faults: a pipe failed after {} different lengths",
        lens.len()
    );
}

/// An image whose bytes cannot be read from somewhere on.
struct Unreadable {
    content: Content,
    from: u64,
}

impl vellum_core::source::ImageSource for Unreadable {
    fn len(&self) -> u64 {
        self.content.len()
    }

    fn extent_at(&self, offset: u64) -> Result<vellum_core::source::Extent, SourceError> {
        self.content.extent_at(offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), SourceError> {
        if offset + buffer.len() as u64 > self.from {
            return Err(SourceError::Io {
                offset: self.from,
                source: io::Error::from_raw_os_error(5),
            });
        }
        self.content.read_at(buffer, offset)
    }
}

#[test]
fn a_source_that_fails_anywhere_leaves_the_image_as_it_was() {
    let folder = scratch::folder();
    let store = scratch::store_in(&folder.path().join("store"), scratch::ZSTD);
    let old = noise(1, 2 * MIB);
    store
        .import(
            drive::input(Content::plain(old.clone()), false),
            &new_image("disk"),
            &Unwatched,
        )
        .expect("imported");
    let image = drive::image(&store, "disk").expect("just imported");
    let mut count = 0;
    for from in (0..5 * MIB as u64).step_by(300_001) {
        let content = Content::plain(noise(2, 5 * MIB));
        let source = Box::new(Unreadable { content, from });
        let request = ImportRequest {
            target: ImportTarget::Update(image),
            snapshot: Some(drive::name("s")),
        };
        let outcome = store.import(
            ImageInput::of_source(source, "a device".to_owned()),
            &request,
            &Unwatched,
        );
        assert!(
            matches!(
                &outcome,
                Err(StoreError::Source {
                    source: SourceError::Io { .. },
                    ..
                })
            ),
            "{outcome:?} from {from}"
        );
        assert_images(&store, &[("disk", &old)]);
        assert_eq!(
            store.tree().snapshots_of(image).count(),
            0,
            "no snapshot of what is not there"
        );
        count += 1;
    }
    store
        .collect(CollectOptions::default(), &Unwatched)
        .expect("rubbish is collected");
    let report = drive::check(&store, true).expect("checked");
    assert_eq!(
        (report.chunks_unreferenced, report.findings),
        (0, vec![]),
        "a failed import leaves nothing for ever"
    );
    println!("faults: an update failed at {count} different places");
}

/// A file that somebody changes once reading it has begun.
struct Meddler {
    path: PathBuf,
    deed: fn(&Path),
    is_done: std::sync::atomic::AtomicBool,
}

impl vellum_store::Watch for Meddler {
    fn report_progress(&self, progress: vellum_store::Progress) {
        if progress.done > 0 && !self.is_done.swap(true, std::sync::atomic::Ordering::SeqCst) {
            (self.deed)(&self.path);
        }
    }

    fn is_cancelled(&self) -> bool {
        false
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_refused() {
    let shrink: fn(&Path) = |path| {
        open_for_writing(path)
            .set_len(5 * MIB as u64)
            .expect("a file can shrink");
    };
    let cut: fn(&Path) = |path| {
        open_for_writing(path)
            .set_len(0)
            .expect("a file can shrink");
    };
    let grow: fn(&Path) = |path| {
        open_for_writing(path)
            .set_len(100 * MIB as u64)
            .expect("a file can grow");
    };
    let write: fn(&Path) = |path| {
        // Past the granularity of file times.
        std::thread::sleep(std::time::Duration::from_millis(20));
        let mut file = open_for_writing(path);
        file.seek(SeekFrom::Start(39 * MIB as u64))
            .and_then(|_| file.write_all(b"changed"))
            .expect("a file can be written");
    };
    let folder = scratch::folder();
    let store = scratch::store_in(&folder.path().join("store"), scratch::ZSTD);
    for (what, deed) in [
        ("shrinks", shrink),
        ("is cut", cut),
        ("grows", grow),
        ("is written", write),
    ] {
        let path = folder.path().join("disk.raw");
        std::fs::write(&path, noise(3, 40 * MIB)).expect("a file can be made");
        let meddler = Meddler {
            path: path.clone(),
            deed,
            is_done: false.into(),
        };
        let input = ImageInput::open_whole(&path, Format::Raw, None).expect("a file opens");
        let outcome = store.import(input, &new_image("disk"), &meddler);
        assert!(
            meddler.is_done.into_inner(),
            "the file was changed while it was read"
        );
        let fits = matches!(
            &outcome,
            Err(StoreError::SourceChanged { .. }
                | StoreError::Source {
                    source: SourceError::Io { .. },
                    ..
                })
        );
        assert!(fits, "{outcome:?} when the file {what}");
        assert_images(&store, &[]);
    }
}

fn open_for_writing(path: &Path) -> std::fs::File {
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .expect("a file opens")
}

#[test]
fn what_cannot_be_a_source_is_an_error_that_names_it() {
    let folder = scratch::folder();
    for path in [folder.path().to_owned(), folder.path().join("missing")] {
        let error = FileSource::open_file(&path)
            .expect_err("not a source")
            .to_string();
        assert!(
            error.contains(path.to_str().expect("a test's path is text")),
            "{error}"
        );
        let error = ImageInput::open_whole(&path, Format::Raw, None)
            .err()
            .expect("not a source")
            .to_string();
        assert!(
            error.contains(path.to_str().expect("a test's path is text")),
            "{error}"
        );
    }
}

/// Calls everything off.
struct Impatient;

impl vellum_store::Watch for Impatient {
    fn report_progress(&self, _: vellum_store::Progress) {}

    fn is_cancelled(&self) -> bool {
        true
    }
}

#[test]
fn an_interrupted_import_leaves_no_image() {
    let folder = scratch::folder();
    let store = scratch::store_in(&folder.path().join("store"), scratch::ZSTD);
    let outcome = store.import(
        drive::input(Content::plain(noise(4, 8 * MIB)), true),
        &new_image("disk"),
        &Impatient,
    );
    assert!(
        matches!(outcome, Err(StoreError::Interrupted)),
        "{outcome:?}"
    );
    assert_images(&store, &[]);
}

// ---- a full disk ----

const DISK: &str = "VELLUM_FULL_DISK";
const ROOM: &str = "VELLUM_FULL_DISK_ROOM";
/// Large enough that a new store keeps its reserve.
const DISK_LEN_MIB: usize = 192;
/// Space that others leave free, in MiB, before an import of [`SECOND_LEN`] begins: nothing, up to
/// more than it takes.
const ROOMS_MIB: [usize; 12] = [0, 1, 3, 6, 10, 18, 26, 34, 44, 54, 70, 110];
const SECOND_LEN: usize = 40 * MIB;

#[test]
fn a_disk_that_fills_up_at_any_point_costs_no_image_and_can_be_emptied() {
    let Some(outcomes) = on_small_disks("faults::on_a_small_disk", &ROOMS_MIB) else {
        return;
    };
    let met = |words: &str| outcomes.iter().any(|outcome| outcome.contains(words));
    assert!(
        met("full") && met("imported"),
        "both ends of the scale are met: {outcomes:?}"
    );
}

/// A guest's disk is thin: here the guest writes until there is no room, and goes on once there is.
#[test]
fn a_guest_that_fills_the_disk_loses_nothing_that_was_answered_and_writes_on_with_room() {
    let Some(outcomes) = on_small_disks("faults::a_guest_on_a_small_disk", &[0, 20, 40, 80]) else {
        return;
    };
    assert!(
        outcomes.iter().all(|outcome| outcome.contains("full")),
        "{outcomes:?}"
    );
}

/// Runs the test `worker` in small file systems of its own, with so many MiB left by others; what
/// it tells. `None` if the machine mounts none.
fn on_small_disks(worker: &str, rooms_mib: &[usize]) -> Option<Vec<String>> {
    let mut outcomes = Vec::new();
    for room in rooms_mib {
        // A file system of its own, seen by this process and its children only.
        let mounted = format!(
            "mount -t tmpfs -o size={DISK_LEN_MIB}m vellum-test \"$1\" && shift && exec \"$@\""
        );
        let folder = tempfile::TempDir::new().expect("a folder for a test can be made");
        let done = Command::new("unshare")
            .args([
                "--user",
                "--map-root-user",
                "--mount",
                "sh",
                "-c",
                &mounted,
                "sh",
            ])
            .arg(folder.path())
            .arg(std::env::current_exe().expect("a test knows its binary"))
            .args([
                "--exact",
                worker,
                "--ignored",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(DISK, folder.path())
            .env(ROOM, room.to_string())
            .output()
            .expect("unshare is part of every Linux");
        let (out, error) = (
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr),
        );
        if error.contains("unshare: ") || error.contains("mount: ") {
            println!("faults: SKIPPED, no file system can be mounted here: {error}");
            return None;
        }
        assert!(done.status.success(), "{room} MiB left: {out}{error}");
        let told = out
            .lines()
            .find_map(|line| Some(line.split_once("outcome: ")?.1.to_owned()))
            .expect("the worker tells");
        outcomes.push(format!("{room} MiB left: {told}"));
    }
    println!("faults: {}", outcomes.join(" · "));
    Some(outcomes)
}

/// Not a test of its own: writes to a live disk in a folder that is a disk of its own, and small.
#[test]
#[ignore = "started by the test of a guest that fills the disk, in a small file system"]
fn a_guest_on_a_small_disk() {
    let Some(disk) = std::env::var_os(DISK) else {
        return;
    };
    let room = std::env::var(ROOM)
        .expect("the room comes with the folder")
        .parse()
        .expect("a number");
    println!("outcome: {}", write_until_full(Path::new(&disk), room));
}

fn write_until_full(disk: &Path, room: usize) -> String {
    const STEP: usize = 256 << 10;
    let dir = disk.join("store");
    let store = scratch::store_in(&dir, scratch::PLAIN);
    store.set_waiting_len_max(4 * MIB);
    let mut expected = noise(8, 128 * MIB);
    let image = store
        .create_image(&drive::name("disk"), expected.len() as u64)
        .expect("room for a name")
        .image_id();
    let live = store.open_live(image).expect("live");
    fill(disk, room);
    let mut answered = 0;
    let refusal = loop {
        assert!(answered < expected.len(), "the disk was to be too small");
        // Not on the grid of chunks, so that a part of one waits, too.
        let end = (answered + STEP + 100).min(expected.len());
        if let Err(error) = live.write_at(&expected[answered..end], answered as u64) {
            break error;
        }
        answered = end;
        if answered % (MIB / 2) < STEP
            && let Err(error) = live.flush()
        {
            break error;
        }
    };
    assert!(matches!(refusal, StoreError::Full { .. }), "{refusal:?}");
    // A refused write may be there in part, so it is written again below.
    let mut seen = vec![0; answered];
    live.read_at(&mut seen, 0).expect("reading goes on");
    drive::same(&seen, &expected[..answered], "what was answered");
    assert!(
        matches!(live.flush(), Err(StoreError::Full { .. }) | Ok(())),
        "still full, or just so not"
    );
    std::fs::remove_file(disk.join("filler")).expect("the others leave");
    live.flush()
        .unwrap_or_else(|error| panic!("flushing once there is room: {error}"));
    live.write_zeroes(answered as u64, (expected.len() - answered) as u64)
        .expect("the rest");
    expected[answered..].fill(0);
    let end = (answered + STEP).min(expected.len());
    expected[answered..end].fill(7);
    live.write_at(&expected[answered..end], answered as u64)
        .and_then(|()| live.flush())
        .expect("writing once there is room");
    drop((live, store));
    let store =
        Store::open_dir(&dir, vellum_store::Access::ReadWrite, "test").expect("opens again");
    assert_images(&store, &[("disk", &expected)]);
    format!("full after {} MiB", answered / MIB)
}

/// Not a test of its own: works in a folder that is a disk of its own, and small.
#[test]
#[ignore = "started by the full-disk test, in a small file system"]
fn on_a_small_disk() {
    let Some(disk) = std::env::var_os(DISK) else {
        return;
    };
    let room = std::env::var(ROOM)
        .expect("the room comes with the folder")
        .parse()
        .expect("a number");
    println!("outcome: {}", fill_up(Path::new(&disk), room));
}

/// Others write to the disk until `room` MiB are left.
fn fill(disk: &Path, room: usize) {
    let space = rustix::fs::statvfs(disk).expect("a disk has a size");
    let len = (space.f_bavail * space.f_frsize).saturating_sub((room * MIB) as u64);
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(disk.join("filler"));
    // With no room at all, the last write may fall short.
    let _ = file.and_then(|mut file| io::copy(&mut io::repeat(1).take(len), &mut file));
}

fn fill_up(disk: &Path, room: usize) -> String {
    let dir = disk.join("store");
    Store::init_dir(&dir, scratch::PLAIN).expect("there is room for a new store");
    let (first, second) = (noise(5, 6 * MIB), noise(6, SECOND_LEN));
    let import = |store: &Store, name: &str, bytes: &[u8]| {
        store
            .import(
                drive::input(Content::plain(bytes.to_vec()), false),
                &new_image(name),
                &Unwatched,
            )
            .map(drop)
    };
    let open = |what: &str| {
        Store::open_dir(&dir, vellum_store::Access::ReadWrite, "test")
            .unwrap_or_else(|error| panic!("opening {what}: {error}"))
    };
    let store = open("a new store");
    import(&store, "first", &first).expect("there is room for the first");
    fill(disk, room);
    let outcome = import(&store, "second", &second);
    if let Err(error) = &outcome {
        assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
        assert_eq!(
            store.tree().image_count(),
            1,
            "what did not fit is not there"
        );
    }
    drop(store);
    let store = open("after the import");
    let images: [(&str, &[u8]); 2] = [("first", &first), ("second", &second)];
    assert_images(
        &store,
        if outcome.is_ok() {
            &images
        } else {
            &images[..1]
        },
    );
    drop(store);
    empty_full_disk(disk, &open);
    std::fs::remove_file(disk.join("filler")).expect("the others leave");
    let store = open("with room again");
    import(&store, "third", &first)
        .unwrap_or_else(|error| panic!("importing once there is room: {error}"));
    assert_images(&store, &[("third", &first)]);
    if outcome.is_ok() {
        "imported".to_owned()
    } else {
        "full".to_owned()
    }
}

/// Others fill the disk to the last byte; everything is listed, deleted and collected all the same.
fn empty_full_disk(disk: &Path, open: &dyn Fn(&str) -> Store) {
    // The reserve is enough for one full disk: once it is given up, it comes back only with room.
    if disk.join("store/reserve").exists() {
        fill(disk, 0);
    }
    let store = open("on a full disk");
    let images: Vec<_> = store.tree().images().map(|image| image.id).collect();
    for image in images {
        store
            .delete_image(image, false)
            .unwrap_or_else(|error| panic!("deleting on a full disk: {error}"));
    }
    drop(store);
    let store = open("after deleting on a full disk");
    assert_eq!(store.tree().image_count(), 0, "deleted is deleted");
    store
        .collect(CollectOptions::default(), &Unwatched)
        .unwrap_or_else(|error| panic!("collecting on a full disk: {error}"));
    drop(store);
}

// ---- a store that was opened for reading ----

#[test]
fn a_store_opened_for_reading_refuses_every_change() {
    let folder = scratch::folder();
    let dir = folder.path().join("store");
    let store = scratch::store_in(&dir, scratch::ZSTD);
    let bytes = Pool::new(4096).fresh(&mut fastrand::Rng::with_seed(7), MIB as u64);
    store
        .import(
            drive::input(Content::plain(bytes.clone()), false),
            &new_image("disk"),
            &Unwatched,
        )
        .expect("imported");
    drop(store);
    let store =
        Store::open_dir(&dir, vellum_store::Access::ReadOnly, "test").expect("opens for reading");
    let id = drive::image(&store, "disk").expect("just imported");
    let parent = NodeRef::Image(id);
    let name = || drive::name("new");
    let outcomes = [
        store.create_image(&name(), 1).map(drop),
        store.create_child(&name(), parent, None).map(drop),
        store.take_snapshot(id, &name()).map(drop),
        store.delete_image(id, true),
        store.rename_node(parent, &name()),
        store.set_pinned(parent, true),
        store.change_tags(parent, &[name()], &[]),
        store.annotate_node(parent, Annotation::default()),
        store.flatten(id, &Unwatched),
        store.rebase(
            id,
            parent,
            vellum_store::RebaseMode::KeepContent,
            &Unwatched,
        ),
        store.resize_image(id, 1, true),
        store.open_live(id).map(drop),
        store
            .import(
                drive::input(Content::plain(vec![1; 5000]), false),
                &new_image("new"),
                &Unwatched,
            )
            .map(drop),
        store
            .collect(CollectOptions::default(), &Unwatched)
            .map(drop),
    ];
    for (nth, outcome) in outcomes.into_iter().enumerate() {
        assert!(
            matches!(outcome, Err(StoreError::ReadOnly)),
            "change {nth}: {outcome:?}"
        );
    }
    assert_images(&store, &[("disk", &bytes)]);
}
