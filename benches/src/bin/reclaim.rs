//! `vellum-reclaim CORPUS [SETS [STORE]]`: compares the forecast of a report with what deletions
//! free. It imports the raw disks of a folder as a tree of images, snapshots and clones, then
//! deletes SETS (50) random sets of nodes, each in a copy of its own, collects, and compares the
//! space that the folder loses with the forecast. STORE is where the tree is made, and kept, or was
//! made before. `VELLUM_TEST_SEED` repeats a run.

use std::fs;
use std::path::{Path, PathBuf};

use vellum_benches::{disk_usage, name};
use vellum_core::tree::NodeRef;
use vellum_formats::Format;
use vellum_store::report::{Holder, ReportOptions, UsageScan};
use vellum_store::{
    Access, CollectOptions, ImageInput, ImportRequest, ImportTarget, Store, StoreParameters,
    Unwatched,
};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let corpus = arguments
        .first()
        .expect("usage: vellum-reclaim CORPUS [SETS]");
    let sets: u64 = arguments
        .get(1)
        .map_or(50, |count| count.parse().expect("SETS is a number"));
    let seed = std::env::var("VELLUM_TEST_SEED").map_or_else(
        |_| fastrand::u64(..1 << 32),
        |text| text.parse().expect("a number"),
    );
    println!("VELLUM_TEST_SEED={seed}");
    // One for the store and one for the sets, so that the same sets are tried on a store that was
    // kept.
    let (mut random, mut of_sets) = (
        fastrand::Rng::with_seed(seed),
        fastrand::Rng::with_seed(seed.wrapping_add(1)),
    );
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dir = arguments
        .get(2)
        .map_or_else(|| folder.path().join("store"), PathBuf::from);
    if !dir.exists() {
        make(Path::new(corpus), &dir, &mut random);
    }
    let census = attribute(&dir);
    let checked = (0..sets).map(|nth| {
        check(
            &census,
            &dir,
            &folder.path().join(format!("copy{nth}")),
            &mut of_sets,
        )
    });
    let checked: Vec<(f64, f64)> = checked.collect();
    print_errors("sets", checked.iter().map(|(_, error)| *error));
    print_errors(
        "of them that free something",
        checked
            .iter()
            .filter(|(freed, _)| *freed > 0.0)
            .map(|(_, error)| *error),
    );
}

fn open(dir: &Path) -> Store {
    Store::open_dir(dir, Access::ReadWrite, "bench").expect("a sound store opens")
}

/// The disks of the corpus in order: of those that begin with the same letter, each is the next
/// state of the one before, kept by a snapshot; every second one also gets clones that guests write
/// to.
fn make(corpus: &Path, dir: &Path, random: &mut fastrand::Rng) {
    Store::init_dir(dir, StoreParameters::DEFAULT).expect("a new folder");
    let store = open(dir);
    let entries = fs::read_dir(corpus)
        .expect("a folder of disks")
        .filter_map(Result::ok)
        .map(|entry| entry.path());
    let mut disks: Vec<PathBuf> = entries
        .filter(|path| path.extension().is_some_and(|extension| extension == "raw"))
        .collect();
    disks.sort();
    for (nth, disk) in disks.iter().enumerate() {
        let stem = disk
            .file_stem()
            .and_then(|stem| stem.to_str())
            .expect("disks have names");
        let image = store
            .tree()
            .image_named(&name(&stem[..1]))
            .map(|image| image.id);
        let input = ImageInput::open_whole(disk, Format::Raw, None).expect("a disk opens");
        let target = image.map_or_else(
            || ImportTarget::New {
                name: name(&stem[..1]),
                parent: None,
            },
            ImportTarget::Update,
        );
        let request = ImportRequest {
            target,
            snapshot: Some(name(stem)),
        };
        let node = store
            .import(input, &request, &Unwatched)
            .expect("a sound disk is imported")
            .node;
        if nth.is_multiple_of(2) {
            let snapshot = store
                .tree()
                .snapshots_of(node.image_id())
                .next_back()
                .map(|snapshot| snapshot.serial)
                .expect("just taken");
            clone(
                &store,
                NodeRef::Snapshot(node.image_id(), snapshot),
                &format!("clone-{stem}"),
                random,
            );
        }
    }
    store
        .collect(CollectOptions::default(), &Unwatched)
        .expect("sound");
}

/// A child of `parent` with a snapshot between two times of writing.
fn clone(store: &Store, parent: NodeRef, text: &str, random: &mut fastrand::Rng) {
    let image = store
        .create_child(&name(text), parent, None)
        .expect("a free name")
        .image_id();
    for round in 0..2 {
        let live = store.open_live(image).expect("nobody else writes");
        for _ in 0..40 {
            let mut stretch = vec![0; random.usize(1..256) * 4096];
            stretch
                .chunks_mut(128)
                .for_each(|pair| random.fill(&mut pair[..48]));
            live.write_at(
                &stretch,
                random.u64(..live.len() - stretch.len() as u64) / 4096 * 4096,
            )
            .expect("inside");
        }
        live.flush().expect("there is room");
        drop(live);
        if round == 0 {
            store
                .take_snapshot(image, &name("middle"))
                .expect("a free name");
        }
    }
}

/// Holds what a report's rows add up to against what the store takes.
fn attribute(dir: &Path) -> UsageScan {
    let store = open(dir);
    let options = ReportOptions {
        rows_max: 10_000,
        most_shared_max: 10,
        strip_cells: 10,
        file_systems: false,
    };
    let report = store.report_space(&options, &Unwatched).expect("sound");
    let sum: u64 = report.attribution.iter().map(|row| row.bytes).sum();
    let taken = disk_usage(dir);
    let off = (sum as f64 - taken as f64).abs() / taken as f64;
    println!(
        "{} nodes; {} rows add up to {sum} of {taken} bytes on disk, {:.3} % off",
        report.nodes.len(),
        report.attribution.len(),
        off * 1e2
    );
    for row in report
        .attribution
        .iter()
        .filter(|row| matches!(row.holder, Holder::Overhead(_) | Holder::Unreferenced))
    {
        println!("  {:?}: {}", row.holder, row.bytes);
    }
    store.scan_usage(&Unwatched).expect("sound")
}

fn print_errors(what: &str, errors: impl Iterator<Item = f64>) {
    let mut errors: Vec<f64> = errors.collect();
    errors.sort_by(f64::total_cmp);
    if let (Some(median), Some(worst)) = (errors.get(errors.len() / 2), errors.last()) {
        println!(
            "{} {what}: median error {:.2} %, worst {:.2} %",
            errors.len(),
            median * 1e2,
            worst * 1e2
        );
    }
}

/// Deletes a set of chance in a copy; the bytes that became free, and how far off what was foretold
/// is.
fn check(census: &UsageScan, dir: &Path, copy: &Path, random: &mut fastrand::Rng) -> (f64, f64) {
    copy_store(dir, copy);
    let before = disk_usage(copy);
    let store = open(copy);
    let nodes = some_nodes(&store, random);
    let foretold = census.estimate_reclaim(&nodes);
    for node in &nodes {
        match node {
            NodeRef::Snapshot(image, serial) => {
                store.delete_snapshot(*image, *serial).expect("not pinned");
            }
            NodeRef::Image(image) => store
                .delete_image(*image, false)
                .expect("its snapshots went first"),
        }
    }
    let done = store
        .collect(CollectOptions::default(), &Unwatched)
        .expect("sound");
    drop(store);
    // The bytes that a collection writes itself may be more than those that become free: then none
    // do.
    let less = before as f64 - disk_usage(copy) as f64;
    let freed = less.max(0.0);
    let error = (foretold.freed as f64 - freed).abs() / freed.max(1.0);
    fs::remove_dir_all(copy).expect("our own");
    println!(
        "  {} nodes: foretold {} ({} chunks), freed {less} ({} chunks dropped), {:.2} % off",
        nodes.len(),
        foretold.freed,
        foretold.chunks,
        done.chunks_dropped,
        error * 1e2
    );
    (freed, error)
}

/// A random set of nodes, between one and most of them; images only with their snapshots, which
/// come first.
fn some_nodes(store: &Store, random: &mut fastrand::Rng) -> Vec<NodeRef> {
    let tree = store.tree();
    let share = random.f64();
    let mut nodes = Vec::new();
    while nodes.is_empty() {
        for image in tree.images() {
            let takes_image = random.f64() < share / 2.0;
            let snapshots = tree
                .snapshots_of(image.id)
                .map(|snapshot| NodeRef::Snapshot(image.id, snapshot.serial));
            nodes.extend(snapshots.filter(|_| takes_image || random.f64() < share));
            nodes.extend(takes_image.then_some(NodeRef::Image(image.id)));
        }
    }
    nodes
}

/// A copy of a store that nobody has open. Tables never change, so they are shared.
fn copy_store(from: &Path, to: &Path) {
    fs::create_dir(to).expect("room for a folder");
    for entry in fs::read_dir(from)
        .expect("a store's folder")
        .map(|entry| entry.expect("it can be read").path())
    {
        let target = to.join(entry.file_name().expect("an entry has a name"));
        if entry.is_dir() {
            copy_store(&entry, &target);
        } else if entry
            .extension()
            .is_some_and(|extension| extension == "sst")
        {
            fs::hard_link(&entry, &target).expect("one file system");
        } else {
            fs::copy(&entry, &target).expect("room for a small file");
        }
    }
}
