//! Random trees, pushed as they change, pulled and restored.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vellum_core::device::{Exports, Intent};
use vellum_core::identity::ContentId;
use vellum_core::tree::{Mode, NodeRef};
use vellum_core::units::MachineId;
use vellum_store::{Store, Unwatched};

use super::copied_stores::push_on;
use super::grower::{self, Grower, contents, name, new_store, shape};
use super::streams::Sink;
use super::{Client, assert_same, request};
use crate::objects::memory::Request;
use crate::push::{PushRequest, PushSelection, push};
use crate::reader::Reader;
use crate::record::Point;
use crate::restore::{RestoreTarget, restore};
use crate::session::Writer;
use crate::testing::seed;

pub(super) fn assert_all_same(found: &Store, expected: &Store, what: &str) {
    let (found, expected) = (contents(found), contents(expected));
    assert!(
        found.keys().eq(expected.keys()),
        "{what}: {:?} became {:?}",
        expected.keys(),
        found.keys()
    );
    expected
        .iter()
        .for_each(|(text, bytes)| assert_same(&found[text], bytes, &format!("{what}: {text}")));
}

#[test]
fn what_is_pushed_comes_back_into_empty_stores_and_into_those_that_have_some() {
    let seed = seed();
    for round in 0..3 {
        let mut grower = Grower::new(seed.wrapping_add(round));
        let client = Client::new(round % 2 == 0);
        let (_dir, kept) = new_store();
        for generation in 0..4 {
            (0..8).for_each(|_| grower.step());
            client.push(&grower.store).expect("a push");
            let (before, expected) = (client.place.snapshot(), contents(&grower.store));
            client.place.take_log();
            let again = client.push(&grower.store).expect("a push of nothing new");
            assert_eq!(
                (
                    again.new_points,
                    again.bytes,
                    again.machines,
                    again.described_points
                ),
                (0, 0, 0, 0)
            );
            let log = client.place.take_log();
            let asked = |request| log.iter().filter(|(other, _)| *other == request).count();
            // Opening an encrypted repository takes a listing of its keys.
            let keys = log
                .iter()
                .filter(|(request, name)| *request == Request::List && name == "keys/")
                .count();
            assert_eq!(
                (
                    asked(Request::Put),
                    asked(Request::List) - keys,
                    asked(Request::GetRange)
                ),
                (0, 1, 0),
                "{log:?}"
            );
            assert_eq!(before.len(), client.place.snapshot().len());
            // Names that are gone in the store stay in the repository: only what is there now is
            // compared.
            let (_dir, empty) = new_store();
            let pulled = pull_present(&client, &empty, &grower.store, "");
            assert_all_same(&empty, &grower.store, "pulled");
            assert_eq!(shape(&empty), shape(&grower.store));
            assert!(pulled > 0);
            let (dir, prefix) = (
                tempfile::tempdir().expect("a folder"),
                format!("g{generation}-"),
            );
            pull_present(&client, &kept, &grower.store, &prefix);
            let found = contents(&kept);
            for (text, bytes) in &expected {
                assert_same(
                    &found[&format!("{prefix}{text}")],
                    bytes,
                    &format!("{prefix}{text}"),
                );
            }
            restore_all(&client, &grower.store, dir.path());
        }
        // Everything once more, from a client without a cache.
        let (_dir, empty) = new_store();
        pull_present(&client.other(), &empty, &grower.store, "");
        assert_all_same(&empty, &grower.store, "pulled without a cache");
    }
}

/// Pulls the points that `source` has now; how many contents came.
pub(super) fn pull_present(client: &Client, store: &Store, source: &Store, prefix: &str) -> u64 {
    let repository = client.open(client.objects()).expect("it opens");
    let reader = Reader::new(&repository);
    let present = present(source);
    let is_present = |point: &Point| {
        present.contains(&(
            point.image.clone(),
            point.snapshot.as_ref().map(|snapshot| snapshot.serial),
            point.content.clone(),
        ))
    };
    let mut request =
        crate::pull::PullRequest::of(&reader, is_present, true, |text| format!("{prefix}{text}"))
            .expect("points");
    let names: Vec<String> = source
        .tree()
        .machines()
        .iter()
        .map(|machine| format!("{prefix}{}", machine.name))
        .collect();
    request
        .machines
        .retain(|(name, _)| names.contains(&name.to_string()));
    let report = crate::pull::pull(&reader, store, &request, &Unwatched).expect("a pull");
    assert_eq!(report.lost_machine_snapshots, Vec::<String>::new());
    report.contents.0 + report.contents.1
}

/// The nodes of `store` as points name them: image, serial, content.
pub(super) fn present(store: &Store) -> Vec<(String, Option<u64>, String)> {
    let (nodes, id) = (
        store.tree().all_nodes().collect::<Vec<_>>(),
        store.id().expect("an identity"),
    );
    let moment = store.take_point_in_time(&nodes).expect("a moment");
    let of = |(node, layer): &(NodeRef, _)| {
        let serial = if let NodeRef::Snapshot(_, serial) = node {
            Some(*serial)
        } else {
            None
        };
        let content = moment.layer_by_id(*layer).ok()?.content?;
        Some((
            format!("{id}-{}", node.image_id()),
            serial,
            content.to_string(),
        ))
    };
    moment.nodes().iter().filter_map(of).collect()
}

fn restore_all(client: &Client, source: &Store, dir: &std::path::Path) {
    let repository = client.open(client.objects()).expect("it opens");
    let reader = Reader::new(&repository);
    let nodes: Vec<NodeRef> = source.tree().all_nodes().collect();
    for (nth, ((_, _, content), node)) in present(source).into_iter().zip(nodes).enumerate() {
        let (content, expected) = (
            ContentId::parse(&content).expect("an identity"),
            super::grower::read_all(source, node),
        );
        let path = dir.join(format!("{nth}.raw"));
        let target = RestoreTarget::File {
            path: path.clone(),
            overwrite: false,
        };
        restore(&reader, content, target, &Unwatched).expect("a restore");
        assert_same(
            &std::fs::read(&path).expect("it is there"),
            &expected,
            "restored",
        );
        let sink = Sink::default();
        restore(
            &reader,
            content,
            RestoreTarget::Stream(Box::new(sink.clone())),
            &Unwatched,
        )
        .expect("a restore");
        assert_same(
            &sink.0.lock().expect("nobody panicked"),
            &expected,
            "streamed",
        );
    }
}

/// A store whose image `web` was pushed in two states, the first of which has a snapshot and a
/// child; and its machine.
fn store_to_rename(client: &Client) -> (tempfile::TempDir, Store, [NodeRef; 2], MachineId) {
    let (dir, store) = new_store();
    let web = store.create_image(&name("web"), 1 << 20).expect("create");
    let write = |byte: u8| {
        let live = store.open_live(web.image_id()).expect("live");
        live.write_at(&[byte; 9000], 0)
            .and_then(|()| live.flush())
            .expect("write");
    };
    write(1);
    let first = store
        .take_snapshot(web.image_id(), &name("first"))
        .expect("snapshot");
    store
        .create_child(&name("child"), first, None)
        .expect("child");
    let machine = store
        .create_machine(&name("rack"), Some(b"old"))
        .expect("a machine");
    store.set_pinned(web, true).expect("pin");
    client.push(&store).expect("a push");
    write(2);
    client.push(&store).expect("a push");
    (dir, store, [web, first], machine)
}

/// Renames and marks the image, its snapshot and the machine.
fn rename_all(store: &Store, [web, first]: [NodeRef; 2], machine: MachineId) {
    store.rename_node(web, &name("www")).expect("rename");
    store.rename_node(first, &name("begin")).expect("rename");
    store
        .change_tags(first, &[name("release")], &[])
        .expect("tag");
    store.set_pinned(first, true).expect("pin");
    store
        .annotate_node(first, grower::words(&name("new")))
        .expect("words");
    store.set_pinned(web, false).expect("pin");
    store
        .set_mode(web.image_id(), Mode::Readonly)
        .expect("mode");
    store
        .configure_machine(machine, Some(b"new"))
        .expect("a file");
    store.add_disk(machine, web.image_id()).expect("a disk");
}

/// The points with the name of an image: their snapshots, modes and pins.
fn points_named(client: &Client, image: &str) -> Vec<(Option<String>, String, bool)> {
    let state = client.open(client.objects()).expect("it opens").state();
    let points = state.points().filter(|point| point.name == image);
    points
        .map(|point| {
            let snapshot = point.snapshot.as_ref();
            let snapshot = snapshot.map(|snapshot| snapshot.name.clone());
            (snapshot, point.mode.clone(), point.pinned)
        })
        .collect()
}

/// The folders into which objects were put since the log was taken the last time.
fn put_folders(client: &Client) -> Vec<String> {
    let log = client.place.take_log().into_iter();
    log.filter(|(request, _)| *request == Request::Put)
        .filter_map(|(_, name)| Some(name.rsplit_once('/')?.0.to_owned()))
        .collect()
}

/// A point is known by what it shows. So what people change about it must come on its own, as
/// little as that is, and only once.
#[test]
fn what_is_renamed_or_marked_after_a_push_is_so_in_the_repository_after_the_next() {
    let client = Client::new(true);
    let (_dir, store, nodes, machine) = store_to_rename(&client);
    rename_all(&store, nodes, machine);
    client.place.take_log();
    let report = client.push(&store).expect("a push of words");
    // The image, the state that it had before, its snapshot; the child is as it was.
    assert_eq!(
        (
            report.new_points,
            report.described_points,
            report.machines,
            report.bytes
        ),
        (0, 3, 1, 0)
    );
    assert_eq!(
        put_folders(&client),
        ["sessions", "journal", "copies/journal"]
    );
    let again = client.push(&store).expect("a push of nothing");
    assert_eq!(
        (again.described_points, again.machines),
        (0, 0),
        "what was said once is said again"
    );
    assert!(
        client
            .place
            .take_log()
            .iter()
            .all(|(request, _)| *request != Request::Put)
    );

    assert_eq!(points_named(&client, "web"), [], "an image has one name");
    let mut www = points_named(&client, "www");
    www.sort();
    let readonly = "readonly".to_owned();
    assert_eq!(
        www,
        [
            (None, readonly.clone(), false),
            (None, readonly.clone(), false),
            (Some("begin".to_owned()), readonly, true)
        ]
    );
    let (_dir, empty) = new_store();
    pull_present(&client.other(), &empty, &store, "");
    assert_eq!(shape(&empty), shape(&store));

    // Collections keep the words, deletions in the store take nothing away.
    let repository = client.open(client.objects()).expect("it opens");
    crate::prune::prune(
        &repository,
        &crate::prune::PruneOptions::default(),
        request(PushSelection::All).writer,
        &Unwatched,
    )
    .expect("a collection");
    store
        .delete_image(
            store.find_node("child").expect("it is there").image_id(),
            false,
        )
        .expect("delete");
    client.push(&store).expect("a push");
    assert_eq!(
        (
            points_named(&client, "www").len(),
            points_named(&client, "child").len()
        ),
        (3, 1)
    );
}

/// The content that an image shows now is its newest state in the repository, also if it showed
/// that once before.
#[test]
fn an_image_that_went_back_is_not_restored_as_what_it_was_in_between() {
    let (_dir, store) = new_store();
    let client = Client::new(false);
    let web = store.create_image(&name("web"), 1 << 20).expect("create");
    let first = store
        .take_snapshot(web.image_id(), &name("first"))
        .expect("snapshot");
    client.push(&store).expect("a push");
    let live = store.open_live(web.image_id()).expect("live");
    live.write_at(&[7; 9000], 0)
        .and_then(|()| live.flush())
        .expect("write");
    drop(live);
    client.push(&store).expect("a push");
    let NodeRef::Snapshot(image, serial) = first else {
        panic!("a snapshot")
    };
    store
        .restore_snapshot(image, serial, None)
        .expect("restore");
    assert_eq!(client.push(&store).expect("a push").described_points, 1);
    assert_eq!(client.push(&store).expect("a push").described_points, 0);
    let (_dir, empty) = new_store();
    client.pull(&empty, "").expect("a pull");
    assert_all_same(&empty, &store, "pulled");
}

#[test]
fn two_stores_share_what_they_have_in_common_and_nothing_is_believed_unseen() {
    let mut grower = Grower::new(seed());
    (0..10).for_each(|_| grower.step());
    let client = Client::new(true);
    client.push(&grower.store).expect("a push");
    // The second store has the same chunks, but its images were made there.
    let (_dir, second) = new_store();
    for (text, bytes) in contents(&grower.store)
        .into_iter()
        .filter(|(text, _)| !text.contains('@'))
    {
        let image = second
            .create_image(&name(&text), bytes.len() as u64)
            .expect("create")
            .image_id();
        second
            .open_live(image)
            .and_then(|live| live.write_at(&bytes, 0).and_then(|()| live.flush()))
            .expect("write");
    }
    let other = client.other();
    let report = other.push(&second).expect("a push");
    assert_eq!(report.chunks, 0, "everything is there already");
    let read = other
        .place
        .take_log()
        .iter()
        .filter(|(request, name)| *request == Request::GetRange && name.starts_with("packs/"))
        .count();
    assert!(read > 0, "it was relied upon without a look");
    let (_dir, empty) = new_store();
    pull_present(&other, &empty, &second, "");
    assert_all_same(&empty, &second, "pulled");
}

#[test]
fn a_store_that_was_brought_back_does_not_believe_the_books_of_its_future() {
    let mut grower = Grower::new(seed());
    let client = Client::new(false);
    push_on(&client, "one", &grower.store);
    // The folder as it was, and then a future in which ids are given to other chunks.
    let path = grower.dir.path().join("store");
    copy_folder(&path, &grower.dir.path().join("kept"));
    (0..5).for_each(|_| grower.write());
    push_on(&client, "one", &grower.store);
    drop(grower.store);
    std::fs::remove_dir_all(&path).expect("a folder");
    std::fs::rename(grower.dir.path().join("kept"), &path).expect("a folder");
    let back =
        Store::open_dir(&path, vellum_store::Access::ReadWrite, "test").expect("the copy opens");
    let image = back
        .tree()
        .images()
        .next()
        .map(|image| (image.id, image.name.clone()))
        .expect("an image");
    let live = back
        .create_image(&name("other"), 1 << 20)
        .and_then(|node| back.open_live(node.image_id()))
        .expect("an image");
    let mut bytes = vec![0; 1 << 20];
    grower.random.fill(&mut bytes);
    live.write_at(&bytes, 0)
        .and_then(|()| live.flush())
        .expect("write");
    drop(live);
    assert_eq!(push_on(&client, "one", &back).parted, None);
    let (_dir, empty) = new_store();
    pull_present(&client, &empty, &back, "");
    assert_all_same(&empty, &back, &format!("pulled, {image:?}"));
}

/// A copy of a store that is open: what its database had in memory only is not in it, as after a
/// loss of power. Its database may still be deleting files: a copy counts if none came or went.
pub(super) fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    for _ in 0..100 {
        let before = files_below(from);
        if copy_files(from, to).is_ok() && files_below(from) == before {
            return;
        }
        std::fs::remove_dir_all(to).expect("a folder");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("the store is never idle");
}

fn copy_files(from: &std::path::Path, to: &std::path::Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)?.flatten() {
        let target = to.join(entry.file_name());
        match entry.file_type()? {
            kind if kind.is_dir() => copy_files(&entry.path(), &target)?,
            kind if kind.is_file() => _ = std::fs::copy(entry.path(), target)?,
            _ => {}
        }
    }
    Ok(())
}

/// Paths and lengths of the files below `folder`.
fn files_below(folder: &std::path::Path) -> std::collections::BTreeMap<std::path::PathBuf, u64> {
    let mut files = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => files.extend(files_below(&entry.path())),
            Ok(metadata) => _ = files.insert(entry.path(), metadata.len()),
            Err(_) => {}
        }
    }
    files
}

#[test]
fn disks_that_guests_write_are_pushed_as_of_one_moment() {
    let (_dir, store) = new_store();
    let client = Client::new(false);
    for text in ["a", "b"] {
        store.create_image(&name(text), 1 << 20).expect("create");
    }
    let exports = store.exports();
    let disks = ["a", "b"].map(|text| {
        exports
            .open_export(text, Intent::ReadWrite)
            .expect("it is attached")
    });
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for count in 1_u64.. {
                disks
                    .iter()
                    .for_each(|disk| disk.write_at(&count.to_le_bytes(), 0).expect("write"));
                written.store(count, Ordering::Relaxed);
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        for round in 0..8 {
            // The guest is at work whenever a push begins, however few cores there are.
            let before = written.load(Ordering::Relaxed);
            while written.load(Ordering::Relaxed) == before {
                std::thread::yield_now();
            }
            push_at(&client, &store, round);
        }
        stop.store(true, Ordering::Relaxed);
    });
    let repository = client.open(client.objects()).expect("it opens");
    let reader = Reader::new(&repository);
    let mut last = BTreeMap::from([("a".to_owned(), 0), ("b".to_owned(), 0)]);
    for round in 0..8 {
        for point in repository
            .state()
            .points()
            .filter(|point| point.time_ms == round)
        {
            last.insert(point.name.clone(), first_number(&reader, point));
        }
        let (a, b) = (last["a"], last["b"]);
        assert!(
            a == b || a == b + 1,
            "round {round}: {a} on the first disk, {b} on the second"
        );
    }
    assert!(last["a"] > 0, "nothing was written");
}

/// Pushes everything at the time `time_ms`.
fn push_at(client: &Client, store: &Store, time_ms: u64) {
    let repository = client.open(client.objects()).expect("it opens");
    let writer = Writer {
        name: "test".to_owned(),
        host: None,
        time_ms,
        process: None,
    };
    let request = PushRequest {
        writer,
        ..request(PushSelection::All)
    };
    push(&repository, store, &request, &Unwatched).expect("a push");
}

/// The number in the first eight bytes of a point's disk.
fn first_number(reader: &Reader<'_>, point: &Point) -> u64 {
    let sink = Sink::default();
    let content = ContentId::parse(&point.content).expect("an identity");
    let target = RestoreTarget::Stream(Box::new(sink.clone()));
    restore(reader, content, target, &Unwatched).expect("a restore");
    let bytes = sink.0.lock().expect("nobody panicked");
    u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))
}
