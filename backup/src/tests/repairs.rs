//! Damage to every file of a store that was pushed to a repository, and then each of the ways back.
//!
//! However one file is damaged: `repair` with the repository as its source brings everything back
//! that was pushed; what the end of a log held, and an earlier state has to be accepted for, is in
//! the repository and can be pulled. Importing the same disks again, with nothing looked at before
//! but reading what is taken for known, or after a scrub, heals every chunk; what is lost beside
//! chunks is named, and nothing reads as other bytes.
//!
//! `VELLUM_TEST_EVERY=64` deletes each file and flips a bit of every 64th byte of it; without, some
//! of each kind. `VELLUM_TEST_ONLY=TEXT` tries only cases whose description has that text;
//! `VELLUM_TEST_KEEP=FOLDER` keeps the store of the last case, damaged and not yet mended: how
//! records lie in files depends on what was faster. It prints a table.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vellum_core::source::{Extent, ExtentKind, ImageSource, SourceError};
use vellum_core::tree::NodeRef;
use vellum_core::units::ChunkLen;
use vellum_store::{
    Access, CheckFinding, CheckOptions, CollectOptions, Compression, ImageInput, ImportOptions,
    ImportRequest, ImportTarget, RepairOptions, SCRUB_ROUND, ScrubOptions, Store, StoreError,
    StoreParameters, Unwatched,
};

use super::Client;
use super::grower::{contents, name};
use crate::chunk_source::RepositorySource;

/// Flips in all files together, unless every so manieth byte is asked for.
const FLIPS: usize = 24;
const READ_LEN: usize = 4096;

type Contents = BTreeMap<String, Vec<u8>>;

/// A way to get a damaged store well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    RepairFromRepository,
    ImportThatVerifies,
    ImportAfterScrub,
}

/// The result of a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    /// Everything is as it was.
    Healed,
    /// The rest was pulled.
    Pulled,
    /// The store had to be repaired first, since it could not be written to.
    HealedByRepairToo,
    /// Something is lost, and named.
    Named,
}

struct Original {
    folder: tempfile::TempDir,
    client: Client,
    contents: Contents,
}

struct Bytes(Vec<u8>);

impl ImageSource for Bytes {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn extent_at(&self, start: u64) -> Result<Extent, SourceError> {
        Ok(Extent {
            start,
            len: self.len() - start,
            kind: ExtentKind::Data,
        })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), SourceError> {
        buffer.copy_from_slice(&self.0[offset as usize..][..buffer.len()]);
        Ok(())
    }
}

fn import(store: &Store, text: &str, bytes: &[u8], verify: bool) -> Result<(), StoreError> {
    let request = ImportRequest {
        target: ImportTarget::New {
            name: name(text),
            parent: None,
        },
        snapshot: None,
    };
    let input = ImageInput::of_source(Box::new(Bytes(bytes.to_vec())), "a disk".to_owned());
    let options = ImportOptions { verify };
    store
        .import_with(input, &request, options, &Unwatched)
        .map(drop)
}

/// Images on each other, one of them on a layer without a name, all of it pushed; as a killed
/// process leaves it.
fn original(is_collected: bool) -> Original {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("store");
    let parameters = StoreParameters {
        chunk_len: ChunkLen::DEFAULT,
        frame_len: 16 << 10,
        compression: Compression::Zstd(3),
    };
    Store::init_dir(&dir, parameters).expect("a new store");
    let open = || Store::open_dir(&dir, Access::ReadWrite, "test").expect("it opens");
    let mut random = fastrand::Rng::with_seed(7);
    let mut noise = |len: usize| {
        let mut bytes = vec![0; len];
        random.fill(&mut bytes);
        bytes
    };
    let store = open();
    import(&store, "root", &noise(90_000), false).expect("imported");
    import(&store, "gone", &noise(30_000), false).expect("imported");
    let root = store.find_node("root").expect("there").image_id();
    store
        .take_snapshot(root, &name("first"))
        .expect("a snapshot");
    let on_it = store.find_node("root@first").expect("there");
    for (text, at) in [("left", 9000), ("right", 40_000)] {
        let child = store
            .create_child(&name(text), on_it, None)
            .expect("a child")
            .image_id();
        let live = store.open_live(child).expect("live");
        live.write_at(&noise(10_000), at)
            .and_then(|()| live.write_zeroes(20_000, 12_288))
            .and_then(|()| live.flush())
            .expect("written");
        drop(live);
        store.take_snapshot(child, &name("s")).expect("a snapshot");
    }
    if let NodeRef::Snapshot(image, serial) = on_it {
        store.delete_snapshot(image, serial).expect("deleted");
    }
    let gone = store.find_node("gone").expect("there").image_id();
    store.delete_image(gone, true).expect("deleted");
    if is_collected {
        store
            .collect(CollectOptions::default(), &Unwatched)
            .expect("collected");
    }
    drop(store);
    let store = open();
    let client = Client::new(false);
    client.push(&store).expect("pushed");
    drop(store);
    let store = open();
    store.create_image(&name("empty"), 5000).expect("created");
    client.push(&store).expect("pushed");
    let contents = contents(&store);
    copy_still(&dir, &folder.path().join("killed"));
    drop(store);
    Original {
        folder,
        client,
        contents,
    }
}

/// True if a file means something: what RocksDB tells people of its work does not, and the names
/// that are kept back are empty.
fn means_something(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    !name.starts_with("LOG") && !path.components().any(|part| part.as_os_str() == "spare")
}

fn files(dir: &Path) -> BTreeMap<PathBuf, u64> {
    let (mut files, mut folders) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("readable") {
            let path = entry.expect("readable").path();
            let Ok(metadata) = fs::metadata(&path) else {
                continue;
            };
            if metadata.is_dir() {
                folders.push(path);
            } else {
                files.insert(path, metadata.len());
            }
        }
    }
    files
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    for path in files(from)
        .into_keys()
        .filter(|path| !path.ends_with("reserve"))
    {
        let target = to.join(path.strip_prefix(from).expect("inside"));
        fs::create_dir_all(target.parent().expect("a folder"))?;
        fs::copy(&path, &target)?;
    }
    Ok(())
}

/// Copies files that RocksDB may be changing.
fn copy_still(from: &Path, to: &Path) {
    for _ in 0..200 {
        let before = files(from);
        if copy(from, to).is_ok() && before == files(from) {
            return;
        }
        fs::remove_dir_all(to).expect("removed");
    }
    panic!("the store never holds still");
}

fn kind(path: &Path) -> String {
    let extension = path.extension().and_then(|extension| extension.to_str());
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    match extension {
        Some("sst") => {
            let bytes = fs::read(path).expect("readable");
            let families = [
                "frames", "headers", "index", "layers", "pages", "names", "meta", "copies",
            ];
            let says = |family: &&&str| {
                let needle = format!("name{family}");
                bytes
                    .windows(needle.len())
                    .any(|window| window == needle.as_bytes())
            };
            families
                .iter()
                .find(says)
                .map_or_else(|| "table".to_owned(), |family| format!("table of {family}"))
        }
        Some("log") => "log".to_owned(),
        _ => name.split('-').next().unwrap_or(name).to_owned(),
    }
}

fn repair(dir: &Path, original: Option<&Original>, context: &str) -> vellum_store::RepairReport {
    let attach = |store: &Store| {
        if let Some(original) = original {
            let other = original.client.other();
            let open = move || {
                other
                    .open(other.objects())
                    .map_err(|error| error.to_string())
            };
            let source = RepositorySource::new("of the test".to_owned(), Box::new(open));
            store.set_sources(vec![Arc::new(source)]);
        }
    };
    let options = RepairOptions {
        apply: true,
        accept_earlier_state: true,
    };
    Store::repair(dir, options, &attach, "test", &Unwatched)
        .unwrap_or_else(|error| panic!("{context}: refused: {error}"))
}

/// What is damaged, and the names of what does not read as it was, each of which is told.
fn look(store: &Store, original: &Original, context: &str) -> (Vec<CheckFinding>, Vec<String>) {
    let options = CheckOptions {
        read_data: true,
        subset: None,
    };
    let report = store.check(options, &Unwatched).expect("a check goes on");
    let mut damage = report.findings;
    damage.retain(|finding| finding.is_damage);
    let named: Vec<String> = damage
        .iter()
        .flat_map(|finding| finding.images.iter().map(|(name, _)| name.clone()))
        .collect();
    let mut missing = Vec::new();
    for (text, bytes) in &original.contents {
        let Ok(node) = store.find_node(text) else {
            missing.push(text.clone());
            continue;
        };
        let disk = store.open_disk(node).expect("a listed node opens");
        for (nth, expected) in bytes.chunks(READ_LEN).enumerate() {
            let mut seen = vec![0; expected.len()];
            match disk.read_at(&mut seen, (nth * READ_LEN) as u64) {
                Ok(()) => assert!(seen == expected, "{context}: wrong bytes in {text}"),
                Err(error @ StoreError::Damaged(_)) => {
                    assert!(
                        named.contains(text),
                        "{context}: {text} is not named: {error}; found {damage:?}",
                    );
                    missing.push(text.clone());
                    break;
                }
                Err(error) => panic!("{context}: {text}: {error}"),
            }
        }
    }
    (damage, missing)
}

fn open(dir: &Path) -> Result<Store, StoreError> {
    Store::open_dir(dir, Access::ReadWrite, "test")
}

fn repaired_from_repository(original: &Original, dir: &Path, context: &str) -> Verdict {
    let done = repair(dir, Some(original), context);
    let store = open(dir).unwrap_or_else(|error| panic!("{context}: {error}; {done:?}"));
    let (damage, missing) = look(&store, original, context);
    assert!(damage.is_empty(), "{context}: {damage:?}: {done:?}");
    import(&store, "new", &vec![9; 20_000], false).expect("it can be written");
    let verdict = if missing.is_empty() {
        Verdict::Healed
    } else {
        let is_told = done.lost_changes > 0 || !done.earlier.is_empty();
        assert!(
            is_told || !done.names_lost.is_empty(),
            "{context}: {missing:?}: {done:?}"
        );
        original
            .client
            .pull(&store, "pulled-")
            .unwrap_or_else(|error| panic!("{context}: {error}"));
        let all = contents(&store);
        for text in &missing {
            assert!(
                all.get(&format!("pulled-{text}")) == original.contents.get(text),
                "{context}: {text} was not pulled"
            );
        }
        Verdict::Pulled
    };
    drop(store);
    let again = repair(dir, None, context);
    assert!(
        again.is_sound() && again.lost.is_empty(),
        "{context}: {again:?}"
    );
    verdict
}

fn imported_again(original: &Original, dir: &Path, way: Way, context: &str) -> Verdict {
    let mut is_repaired = false;
    let store = open(dir).unwrap_or_else(|_| {
        is_repaired = true;
        repair(dir, None, context);
        open(dir).unwrap_or_else(|error| panic!("{context}: {error}"))
    });
    let verify = way == Way::ImportThatVerifies;
    if !verify {
        let options = ScrubOptions {
            bytes_max: u64::MAX,
            all_cores: false,
            round: SCRUB_ROUND,
        };
        store
            .scrub(&options, &Unwatched)
            .unwrap_or_else(|error| panic!("{context}: the scrub: {error}"));
    }
    for (nth, bytes) in original.contents.values().enumerate() {
        import(&store, &format!("again-{nth}"), bytes, verify)
            .unwrap_or_else(|error| panic!("{context}: the import: {error}"));
    }
    let (_, missing) = look(&store, original, context);
    for (nth, bytes) in original.contents.values().enumerate() {
        let disk = store
            .find_node(&format!("again-{nth}"))
            .and_then(|node| store.open_disk(node));
        let (disk, mut seen) = (disk.expect("it is there"), vec![0; bytes.len()]);
        disk.read_at(&mut seen, 0)
            .unwrap_or_else(|error| panic!("{context}: imported, and not readable: {error}"));
        assert!(seen == *bytes, "{context}: imported, and other bytes");
    }
    match (missing.is_empty(), is_repaired) {
        (true, false) => Verdict::Healed,
        (true, true) => Verdict::HealedByRepairToo,
        (false, _) => Verdict::Named,
    }
}

/// True if damage of this kind may have this outcome on this way.
fn may_be(way: Way, kind: &str, is_flip: bool, verdict: Verdict) -> bool {
    match (way, verdict) {
        (_, Verdict::Healed) => true,
        (Way::RepairFromRepository, Verdict::Pulled) => kind == "log" && !is_flip,
        (Way::RepairFromRepository, _) | (_, Verdict::Pulled) => false,
        (_, Verdict::HealedByRepairToo) => true,
        // What is lost beside chunks does not come back by importing.
        (_, Verdict::Named) => kind != "table of frames",
    }
}

/// Removes the file, or flips a bit of the byte at that place.
fn damage(path: &Path, at: Option<usize>) {
    let Some(at) = at else {
        fs::remove_file(path).expect("removed");
        return;
    };
    let mut bytes = fs::read(path).expect("readable");
    bytes[at] ^= 1 << (at / 64 % 8);
    fs::write(path, bytes).expect("written");
}

fn keep(dir: &Path, is_collected: bool) {
    if let Some(keep) = std::env::var_os("VELLUM_TEST_KEEP") {
        let kept = Path::new(&keep).join(format!("damaged-{is_collected}"));
        let _ = fs::remove_dir_all(&kept);
        copy(dir, &kept).expect("kept");
    }
}

fn campaign(is_collected: bool) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let every = number("VELLUM_TEST_EVERY").map(|every: u64| every as usize);
    let seed = number("VELLUM_TEST_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    println!("repairs: VELLUM_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let original = original(is_collected);
    let source = original.folder.path().join("killed");
    let files: Vec<(PathBuf, u64)> = files(&source)
        .into_iter()
        .filter(|(path, _)| means_something(path))
        .collect();
    let mut cases: Vec<(usize, Option<usize>)> =
        (0..files.len()).map(|file| (file, None)).collect();
    for (file, (_, len)) in files.iter().enumerate() {
        let places = (0..*len as usize).step_by(every.unwrap_or(1));
        cases.extend(places.map(|at| (file, Some(at))));
    }
    if every.is_none() {
        let flips = cases.split_off(files.len());
        random.shuffle(&mut cases);
        cases.truncate(FLIPS);
        cases.extend(random.choose_multiple(flips, FLIPS));
    }
    let mut table: BTreeMap<(Way, String, bool), BTreeMap<Verdict, u32>> = BTreeMap::new();
    let ways = [
        Way::RepairFromRepository,
        Way::ImportThatVerifies,
        Way::ImportAfterScrub,
    ];
    let only = std::env::var("VELLUM_TEST_ONLY").unwrap_or_default();
    for way in ways {
        for (file, at) in &cases {
            let (path, kind) = (&files[*file].0, kind(&files[*file].0));
            let name = path.strip_prefix(&source).expect("inside");
            let context = format!(
                "seed {seed}, {way:?}: {} ({kind}) at {at:?}",
                name.display()
            );
            if !context.contains(&only) {
                continue;
            }
            let folder = tempfile::tempdir().expect("a folder");
            let dir = folder.path().join("store");
            copy(&source, &dir).expect("copied");
            damage(&dir.join(name), *at);
            keep(&dir, is_collected);
            let verdict = match way {
                Way::RepairFromRepository => repaired_from_repository(&original, &dir, &context),
                _ => imported_again(&original, &dir, way, &context),
            };
            assert!(
                may_be(way, &kind, at.is_some(), verdict),
                "{context}: {verdict:?}"
            );
            let row = table.entry((way, kind, at.is_some())).or_default();
            *row.entry(verdict).or_default() += 1;
        }
    }
    for ((way, kind, is_flip), verdicts) in &table {
        let what = if *is_flip { "flipped" } else { "deleted" };
        println!("repairs: {way:?} {kind:18} {what} {verdicts:?}");
    }
}

#[test]
fn a_pushed_store_gets_well_whatever_is_damaged() {
    campaign(false);
}

#[test]
fn a_pushed_store_gets_well_after_a_collection_too() {
    campaign(true);
}
