//! Tests of healing: damaged chunks of a store are replaced by whole ones that are pulled or
//! received, and readers get them from a repository that has them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use vellum_store::{Access, CheckOptions, Store, StoreError, Unwatched};

use super::grower::{contents, name, new_store};
use super::streams::{received, sent};
use super::{Client, assert_same, request};
use crate::chunk_source::RepositorySource;
use crate::pull::{PullRequest, pull};
use crate::push::{PushRequest, PushSelection, push};
use crate::reader::Reader;

/// The ways to get the right bytes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    PullAfterCheck,
    PullThatVerifies,
    ReceiveAfterCheck,
}

/// A store with two images, and the bytes of both.
fn ward() -> (TempDir, Store, Vec<u8>) {
    let (dir, store) = new_store();
    let mut bytes = vec![0; 600 << 10];
    fastrand::Rng::with_seed(3).fill(&mut bytes);
    for text in ["web", "twin"] {
        let image = store
            .create_image(&name(text), bytes.len() as u64)
            .expect("room")
            .image_id();
        let live = store.open_live(image).expect("live");
        live.write_at(&bytes, 0)
            .and_then(|()| live.flush())
            .expect("written");
        drop(live);
        store
            .take_snapshot(image, &name("monday"))
            .expect("snapshot");
    }
    (dir, store, bytes)
}

/// The table of a closed store that holds its frames.
fn frames_table(dir: &Path) -> PathBuf {
    let tables = fs::read_dir(dir.join("store/database")).expect("readable");
    let tables = tables.map(|entry| entry.expect("readable").path());
    let holds_frames = |path: &PathBuf| {
        let bytes = fs::read(path).expect("readable");
        path.extension().is_some_and(|ext| ext == "sst")
            && bytes.windows(10).any(|part| part == b"nameframes")
    };
    tables
        .filter(holds_frames)
        .max_by_key(|path| fs::metadata(path).map_or(0, |metadata| metadata.len()))
        .expect("frames are in a table")
}

fn reopen(dir: &TempDir) -> Store {
    Store::open_dir(&dir.path().join("store"), Access::ReadWrite, "test").expect("it opens")
}

/// Closes the store and flips a bit in the middle of its frames.
fn wounded(dir: &TempDir, store: Store) -> Store {
    drop(store);
    // Records in the log go into tables.
    drop(reopen(dir));
    let table = frames_table(dir.path());
    let mut bytes = fs::read(&table).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&table, bytes).expect("room");
    reopen(dir)
}

fn damage(store: &Store) -> usize {
    let options = CheckOptions {
        read_data: true,
        subset: None,
    };
    let report = store.check(options, &Unwatched).expect("a check");
    report
        .findings
        .iter()
        .filter(|finding| finding.is_damage)
        .count()
}

fn assert_all_whole(store: &Store, bytes: &[u8], what: &str) {
    let all = contents(store);
    assert!(all.len() >= 4);
    all.iter()
        .for_each(|(text, found)| assert_same(found, bytes, &format!("{what}: {text}")));
}

#[test]
fn what_is_pulled_or_received_heals_what_is_damaged() {
    for is_its_own in [true, false] {
        for way in [
            Way::PullAfterCheck,
            Way::PullThatVerifies,
            Way::ReceiveAfterCheck,
        ] {
            let what = format!("{way:?}, own contents: {is_its_own}");
            let (dir, store, bytes) = ward();
            let (_other_dir, other, _) = ward();
            let from = if is_its_own { &store } else { &other };
            let client = Client::new(true);
            client.push(from).expect("pushed");
            let stream = sent(from, PushSelection::All, &[], None);
            let store = wounded(&dir, store);
            if way != Way::PullThatVerifies {
                assert!(damage(&store) > 0, "{what}: nothing was hit");
            }
            match way {
                Way::ReceiveAfterCheck => {
                    _ = received(&store, &stream, None, "p-").expect("it comes");
                }
                Way::PullAfterCheck | Way::PullThatVerifies => {
                    let repository = client.open(client.objects()).expect("it opens");
                    let reader = Reader::new(&repository);
                    let renamed = |text: &str| format!("p-{text}");
                    let request = PullRequest {
                        verify: way == Way::PullThatVerifies,
                        ..PullRequest::of(&reader, |_| true, true, renamed).expect("a request")
                    };
                    let report = pull(&reader, &store, &request, &Unwatched).expect("pulled");
                    assert!(report.chunks_healed > 0, "{what}: {report:?}");
                }
            }
            assert_all_whole(&store, &bytes, &what);
            assert_eq!(damage(&store), 0, "{what}");
            drop(store);
            assert_all_whole(&reopen(&dir), &bytes, &format!("{what}, later"));
        }
    }
}

#[test]
fn who_reads_a_damaged_chunk_gets_it_from_the_repository_and_the_store_is_healed() {
    for encrypted in [false, true] {
        let (dir, store, bytes) = ward();
        let client = Client::new(encrypted);
        client.push(&store).expect("pushed");
        let store = wounded(&dir, store);
        let source = || {
            let other = client.other();
            let open = move || {
                other
                    .open(other.objects())
                    .map_err(|error| error.to_string())
            };
            RepositorySource::new("of the test".to_owned(), Box::new(open))
        };
        // One that is only read is served, and stays as it is.
        let path = dir.path().join("store");
        let reader = Store::open_dir(&path, Access::ReadOnly, "").expect("it opens");
        reader.set_sources(vec![Arc::new(source())]);
        assert_all_whole(&reader, &bytes, "read only");
        drop(reader);
        assert!(damage(&store) > 0, "nobody wrote");
        store.set_sources(vec![Arc::new(source())]);
        let live = store
            .open_live(store.find_node("web").expect("there").image_id())
            .expect("live");
        let mut seen = vec![0; bytes.len()];
        live.read_at(&mut seen, 0).expect("a guest reads");
        assert_same(&seen, &bytes, "a guest");
        drop(live);
        store.set_sources(Vec::new());
        assert_eq!(damage(&store), 0);
        drop(store);
        assert_all_whole(&reopen(&dir), &bytes, "later");
    }
}

/// A repository that has what is wanted only in a pack that is damaged itself.
#[test]
fn a_repository_that_is_damaged_itself_gives_no_wrong_byte() {
    let (dir, store, bytes) = ward();
    let client = Client::new(false);
    client.push(&store).expect("pushed");
    let mut place = client.place.snapshot();
    for (object, stored) in &mut place {
        if object.starts_with("packs/") {
            let flipped = stored.iter().enumerate();
            *stored = flipped
                .map(|(at, byte)| byte ^ u8::from(at % 5000 == 4999))
                .collect();
        }
    }
    client.place.replace_all(place);
    let store = wounded(&dir, store);
    let open = move || {
        client
            .open(client.objects())
            .map_err(|error| error.to_string())
    };
    let source = RepositorySource::new("of the test".to_owned(), Box::new(open));
    store.set_sources(vec![Arc::new(source)]);
    let disk = store
        .open_disk(store.find_node("web").expect("there"))
        .expect("opens");
    let mut failed = 0;
    for (at, expected) in bytes.chunks(4096).enumerate() {
        let mut seen = vec![0; expected.len()];
        match disk.read_at(&mut seen, at as u64 * 4096) {
            Ok(()) => assert_same(&seen, expected, "from a damaged repository"),
            Err(StoreError::Damaged(_)) => failed += 1,
            Err(error) => panic!("{error}"),
        }
    }
    println!("{failed} chunks stay lost");
}

#[test]
fn a_push_that_verifies_sends_what_is_damaged_there_again() {
    for verify in [false, true] {
        let (_dir, store, bytes) = ward();
        let client = Client::new(false);
        client.push(&store).expect("pushed");
        let mut place = client.place.snapshot();
        for (object, stored) in &mut place {
            if object.starts_with("packs/") {
                let middle = stored.len() / 2;
                let flipped = stored.iter().enumerate();
                *stored = flipped
                    .map(|(at, byte)| byte ^ u8::from(at == middle))
                    .collect();
            }
        }
        client.place.replace_all(place);
        // The same disk again: its map needs every chunk.
        let image = store
            .create_image(&name("again"), bytes.len() as u64)
            .expect("room")
            .image_id();
        let live = store.open_live(image).expect("live");
        live.write_at(&bytes, 0)
            .and_then(|()| live.flush())
            .expect("written");
        drop(live);
        let repository = client.open(client.objects()).expect("it opens");
        let request = PushRequest {
            verify,
            ..request(PushSelection::Nodes(vec![
                store.find_node("again").expect("there"),
            ]))
        };
        let report = push(&repository, &store, &request, &Unwatched).expect("pushed");
        assert_eq!(report.chunks > 0, verify, "{report:?}");
        let (_other_dir, other) = new_store();
        let repository = client.open(client.objects()).expect("it opens");
        let reader = Reader::new(&repository);
        let only = PullRequest::of(&reader, |point| point.name == "again", false, str::to_owned);
        let pulled = pull(&reader, &other, &only.expect("a request"), &Unwatched);
        assert_eq!(pulled.is_ok(), verify, "{:?}", pulled.err());
        if verify {
            assert_same(&contents(&other)["again"], &bytes, "pulled");
        }
    }
}
