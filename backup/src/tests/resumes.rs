//! Pushes that were killed go on with the packs that they had put.

use std::sync::Arc;

use vellum_core::units::ChunkLen;
use vellum_store::{Store, Unwatched};

use super::Client;
use super::grower::{contents, name, new_store};
use crate::objects::Objects;
use crate::objects::memory::{Effect, Fault, Memory, Request};
use crate::push::{PushReport, PushSelection, push};

const DISK_LEN: u64 = 4 << 20;
/// The packs of a push that is limited so are as long as what may go in a second.
const LIMIT: u64 = 1 << 20;

/// A store with one disk of bytes that do not compress.
fn full_store() -> (tempfile::TempDir, Store) {
    let (dir, store) = new_store();
    store
        .create_image(&name("web"), DISK_LEN)
        .expect("a new image");
    let image = store.tree().images().next().expect("it is there").id;
    let live = store.open_live(image).expect("it opens");
    let mut bytes = vec![0; DISK_LEN as usize];
    fastrand::Rng::with_seed(1).fill(&mut bytes);
    live.write_at(&bytes, 0).expect("room");
    live.flush().expect("room");
    drop(live);
    (dir, store)
}

/// A push that dies when its third pack is put: packs of 1 MiB, one after the other.
fn killed_push(client: &Client, store: &Store) {
    let place = Memory::clone(&client.place);
    // The announcement and two packs.
    place.fail(Fault {
        request: Some(Request::Put),
        after: 3,
        effect: Effect::Dead,
    });
    let mut request = super::request(PushSelection::All);
    request.limit_upload = Some(LIMIT);
    let repository = client.open(Arc::new(place)).expect("it opens");
    push(&repository, store, &request, &Unwatched).expect_err("it is dead");
    assert_eq!(count(client, "packs/"), 2);
    assert_eq!(count(client, "index/"), 0, "nothing tells of the packs");
}

fn count(client: &Client, prefix: &str) -> usize {
    let objects = client.place.snapshot();
    objects.keys().filter(|at| at.starts_with(prefix)).count()
}

/// The chunks of whole packs of 1 MiB, at least.
fn chunks_of(packs: u64) -> u64 {
    packs * (LIMIT - (128 << 10)) / u64::from(ChunkLen::DEFAULT.byte_len() as u32)
}

fn next_push(client: &Client, store: &Store) -> PushReport {
    let report = client.push(store).expect("a push");
    let (_dir, restored) = new_store();
    client.pull(&restored, "").expect("everything is whole");
    assert!(contents(&restored) == contents(store));
    report
}

#[test]
fn a_killed_push_sends_no_pack_again_that_it_had_put() {
    let all = DISK_LEN / ChunkLen::DEFAULT.byte_len();
    for is_encrypted in [false, true] {
        let (client, (_dir, store)) = (Client::new(is_encrypted), full_store());
        killed_push(&client, &store);
        let report = next_push(&client, &store);
        assert!(
            report.chunks > 0 && report.chunks <= all - chunks_of(2),
            "{report:?}"
        );
        let repository = client.open(client.objects()).expect("it opens");
        let options = crate::prune::PruneOptions::default();
        let writer = super::request(PushSelection::All).writer;
        let pruned = crate::prune::prune(&repository, &options, writer, &Unwatched);
        let pruned = pruned.expect("a collection");
        assert_eq!(pruned.freed_len, 0, "a chunk was there twice");
    }
}

/// A note that was cut off is none, and packs that are gone are sent.
#[test]
fn what_became_of_noted_packs_is_looked_at() {
    let all = DISK_LEN / ChunkLen::DEFAULT.byte_len();
    let (client, (_dir, store)) = (Client::new(true), full_store());
    killed_push(&client, &store);
    let cache = client.folders.path().join("cache");
    let mut notes = walk(&cache);
    notes.retain(|path| path.to_string_lossy().ends_with("-packs"));
    let bytes = std::fs::read(&notes[0]).expect("notes");
    std::fs::write(&notes[0], &bytes[..bytes.len() - 1]).expect("room");
    let lost = client.place.snapshot();
    let lost: Vec<_> = lost.keys().filter(|at| at.starts_with("packs/")).collect();
    client.place.delete(lost[0]).expect("it was there");
    let report = next_push(&client, &store);
    assert!(report.chunks > all - 2 * chunks_of(1), "{report:?}");
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(walk(&path));
        } else {
            files.push(path);
        }
    }
    files
}
