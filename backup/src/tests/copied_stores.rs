//! Stores whose folders are copied, moved and brought back: only what may be two stores becomes two.

use std::path::{Path, PathBuf};

use vellum_core::tree::NodeRef;
use vellum_store::{Access, Store, Unwatched};

use super::grower::{contents, name, new_store};
use super::trees::copy_folder;
use super::{Client, assert_same, request};
use crate::process::ProcessMark;
use crate::prune::{PruneOptions, prune};
use crate::push::{PushReport, PushRequest, PushSelection, push};
use crate::record::StoreMark;
use crate::session::Writer;

/// Pushes everything, as a process of that machine.
pub(super) fn push_on(client: &Client, machine: &str, store: &Store) -> PushReport {
    let process = ProcessMark {
        machine: Some(machine.to_owned()),
        boot: machine.to_owned(),
        namespace: "1".to_owned(),
        pid: 1,
        started: 1,
    };
    let request = PushRequest {
        writer: Writer {
            host: Some(machine.to_owned()),
            process: Some(process),
            ..request(PushSelection::All).writer
        },
        ..request(PushSelection::All)
    };
    let repository = client.open(client.objects()).expect("it opens");
    push(&repository, store, &request, &Unwatched).expect("a push")
}

fn open(path: &Path) -> Store {
    Store::open_dir(path, Access::ReadWrite, "test").expect("it opens")
}

fn write(store: &Store, byte: u8) {
    let web = store.tree().images().next().map(|image| image.id);
    let live = store.open_live(web.expect("an image")).expect("it opens");
    live.write_at(&[byte; 9000], 0).expect("a write");
    live.flush().expect("a flush");
}

/// A store with a disk that was pushed from the machine "one", closed: the folder around it, and it.
fn pushed(client: &Client) -> (tempfile::TempDir, PathBuf) {
    let (dir, store) = new_store();
    let web = store.create_image(&name("web"), 1 << 20).expect("an image");
    write(&store, 1);
    let taken = store.take_snapshot(web.image_id(), &name("first"));
    taken.expect("a snapshot");
    assert_eq!(push_on(client, "one", &store).parted, None);
    drop(store);
    let path = dir.path().join("store");
    (dir, path)
}

/// Two machines with one store's folder counted as one store (F6).
#[test]
fn of_two_copies_the_second_to_push_becomes_a_store_of_its_own() {
    for encrypted in [false, true] {
        let client = Client::new(encrypted);
        let (dir, path) = pushed(&client);
        let other = dir.path().join("copy");
        copy_folder(&path, &other);
        let (first, second) = (open(&path), open(&other));
        write(&first, 2);
        assert_eq!(push_on(&client, "one", &first).parted, None);
        // Also if it has nothing new to say.
        let report = push_on(&client.other(), "two", &second);
        assert_eq!(report.parted, second.id());
        assert_ne!(first.id(), second.id());
        assert_eq!(
            (report.new_points, report.chunks),
            (2, 0),
            "its images are its own"
        );
        // From then on each is itself.
        for (machine, store, byte) in [("one", &first, 3), ("two", &second, 4)] {
            write(store, byte);
            assert_eq!(push_on(&client, machine, store).parted, None, "{machine}");
        }
        let repository = client.open(client.objects()).expect("it opens");
        let state = repository.state();
        for (machine, store) in [("one", &first), ("two", &second)] {
            let id = store.id().expect("it has one").to_string();
            let own = state.points().filter(|point| point.image.starts_with(&id));
            let hosts: Vec<_> = own.filter_map(|point| point.host.clone()).collect();
            assert!(hosts.iter().all(|host| host == machine), "{hosts:?}");
            assert!(hosts.len() >= 3, "points stay: {hosts:?}");
        }
        let image = second.tree().images().next().map(|image| image.id);
        let shown = contents(&second)["web"].clone();
        let (_dir, empty) = new_store();
        let id = second.id().expect("it has one").to_string();
        let reader = crate::reader::Reader::new(&repository);
        let all = crate::pull::PullRequest::of(
            &reader,
            |point| point.image.starts_with(&id),
            true,
            ToOwned::to_owned,
        );
        crate::pull::pull(&reader, &empty, &all.expect("points"), &Unwatched).expect("a pull");
        let web = empty.tree().images().next().map(|image| image.id);
        let web = web.expect("it came");
        let found = super::grower::read_all(&empty, NodeRef::Image(web));
        assert_same(&found, &shown, &format!("{image:?}"));
    }
}

/// A folder that went elsewhere is the store that it was, whatever became of the client's cache.
#[test]
fn a_store_that_was_moved_or_lost_its_cache_is_no_copy() {
    let client = Client::new(true);
    let (dir, path) = pushed(&client);
    let moved = dir.path().join("moved");
    std::fs::rename(&path, &moved).expect("a folder");
    let store = open(&moved);
    let id = store.id();
    for (machine, byte) in [("one", 2), ("two", 3), ("two", 4), ("one", 5)] {
        write(&store, byte);
        assert_eq!(push_on(&client.other(), machine, &store).parted, None);
        assert_eq!(store.id(), id);
    }
}

/// An older state of the store, where it was; and one elsewhere, which may be a copy.
#[test]
fn a_store_that_was_brought_back_where_it_was_is_no_copy() {
    let client = Client::new(true);
    let (dir, path) = pushed(&client);
    let kept = dir.path().join("kept");
    copy_folder(&path, &kept);
    let store = open(&path);
    for byte in 2..4 {
        write(&store, byte);
        push_on(&client, "one", &store);
    }
    let id = store.id();
    drop(store);
    std::fs::rename(&path, dir.path().join("broken")).expect("a folder");
    copy_folder(&kept, &path);
    let back = open(&path);
    for byte in 7..9 {
        write(&back, byte);
        assert_eq!(push_on(&client, "one", &back).parted, None);
    }
    assert_eq!(back.id(), id);
    let elsewhere = open(&kept);
    assert_eq!(push_on(&client, "one", &elsewhere).parted, elsewhere.id());
}

/// A collection that writes the journal down anew keeps who pushed last; an unchanged push says
/// nothing and asks for nothing more.
#[test]
fn the_last_push_of_a_store_outlives_its_record() {
    let client = Client::new(true);
    let (dir, path) = pushed(&client);
    copy_folder(&path, &dir.path().join("copy"));
    let (store, copy) = (open(&path), open(&dir.path().join("copy")));
    for byte in 2..12 {
        write(&store, byte);
        push_on(&client, "one", &store);
    }
    let repository = client.open(client.objects()).expect("it opens");
    let last = |repository: &crate::Repository| -> Option<StoreMark> {
        let id = store.id().expect("it has one").to_string();
        repository.state().last_push_of(&id).cloned()
    };
    let before = last(&repository);
    let writer = request(PushSelection::All).writer;
    let report = prune(&repository, &PruneOptions::default(), writer, &Unwatched);
    assert!(report.expect("a collection").replaced_records > 0);
    assert!(before.is_some() && last(&repository) == before);
    client.place.take_log();
    let unchanged = push_on(&client, "one", &store);
    assert_eq!((unchanged.new_points, unchanged.parted), (0, None));
    let asked = client.place.take_log();
    assert!(asked.len() <= 4, "{asked:?}");
    assert_eq!(push_on(&client.other(), "two", &copy).parted, copy.id());
}
