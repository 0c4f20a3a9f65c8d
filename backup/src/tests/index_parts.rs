//! The index by parts: a client fetches what it needs of it, and no more; what it passes over costs
//! room, never content.

use tempfile::TempDir;
use vellum_store::{Store, Unwatched};

use super::grower::{contents, name, new_store};
use super::{Client, request};
use crate::BackupError;
use crate::objects::memory::{Memory, Request};
use crate::prune::{FenceWish, PruneOptions, prune};
use crate::pull::{PullRequest, pull};
use crate::push::{PushReport, PushRequest, PushSelection, push};
use crate::reader::Reader;
use crate::verify::{VerifyOptions, verify};

/// More chunks than share a part of an index object.
const CHUNKS: usize = 1_200;
const CHUNK: usize = 4096;

/// A store with an image `disk` of these chunks, each of its own random bytes.
fn store_of(image: &str, chunks: &[u64]) -> (TempDir, Store) {
    let (dir, store) = new_store();
    let len = (chunks.len() * CHUNK) as u64;
    let id = store.create_image(&name(image), len).expect("an image");
    let live = store.open_live(id.image_id()).expect("it opens");
    for (at, chunk) in chunks.iter().enumerate() {
        let mut bytes = vec![0; CHUNK];
        fastrand::Rng::with_seed(*chunk).fill(&mut bytes);
        live.write_at(&bytes, (at * CHUNK) as u64).expect("a write");
    }
    live.flush().expect("a flush");
    drop(live);
    (dir, store)
}

fn range(first: u64) -> Vec<u64> {
    (first..first + CHUNKS as u64).collect()
}

/// A repository with eight stores that have nothing in common, of one index object each, or of one
/// for all.
fn eight(is_encrypted: bool, is_merged: bool) -> (Client, Vec<(TempDir, Store)>) {
    let client = Client::new(is_encrypted);
    let stores: Vec<_> = (0..8_u64)
        .map(|nth| store_of(&format!("disk{nth}"), &range(nth << 32)))
        .collect();
    for (_, store) in &stores {
        client.other_folders().push(store).expect("a push");
    }
    if is_merged {
        let repository = client.open(client.objects()).expect("it opens");
        let options = PruneOptions {
            fence: FenceWish::None,
            ..PruneOptions::default()
        };
        let writer = request(PushSelection::All).writer;
        prune(&repository, &options, writer, &Unwatched).expect("a collection");
        let repository = client.open(client.objects()).expect("it opens");
        assert_eq!(repository.state().indexes().len(), 1, "they are not merged");
    }
    client.place.take_log();
    (client, stores)
}

/// The requests for index objects so far: whole ones, and parts.
fn asked(place: &Memory) -> (usize, usize) {
    let log = place.take_log();
    let count = |wanted: Request| {
        let of_index = log
            .iter()
            .filter(|(request, name)| *request == wanted && name.starts_with("index/"));
        of_index.count()
    };
    (count(Request::Get), count(Request::GetRange))
}

fn push_with(
    client: &Client,
    store: &Store,
    index_fetch_len: u64,
) -> Result<PushReport, BackupError> {
    let request = PushRequest {
        index_fetch_len,
        ..request(PushSelection::All)
    };
    push(&client.open(client.objects())?, store, &request, &Unwatched)
}

#[test]
fn a_reader_fetches_the_parts_of_the_segments_that_it_needs() {
    for (is_encrypted, is_merged) in [(true, true), (false, true), (true, false)] {
        let (client, stores) = eight(is_encrypted, is_merged);
        let reader = client.other_folders();
        for round in 0..2 {
            let repository = reader.open(reader.objects()).expect("it opens");
            let wanted = Reader::new(&repository);
            let only = |text: &str| text == "disk3";
            let request = PullRequest::of(&wanted, |point| only(&point.name), true, str::to_owned)
                .expect("a name");
            let (_dir, store) = new_store();
            pull(&wanted, &store, &request, &Unwatched).expect("a pull");
            assert_eq!(contents(&store)["disk3"], contents(&stores[3].1)["disk3"]);
            // The client keeps the part.
            assert_eq!(asked(&reader.place), (0, 1 - round), "round {round}");
        }
    }
}

/// A part that is damaged, in the place or in the client's cache, is taken from the whole object,
/// and that from its copy.
#[test]
fn a_damaged_part_is_read_from_the_copy() {
    let (client, stores) = eight(true, true);
    let index = client
        .place
        .snapshot()
        .into_iter()
        .find(|(name, _)| name.starts_with("index/"))
        .expect("it is there");
    let mut bytes = index.1.to_vec();
    let from = bytes.len() / 16;
    bytes[from..].iter_mut().for_each(|byte| *byte ^= 1);
    client.place.plant(&index.0, &bytes);
    let (_dir, store) = new_store();
    client.other_folders().pull(&store, "").expect("a pull");
    for (nth, (_, expected)) in stores.iter().enumerate() {
        let disk = format!("disk{nth}");
        assert_eq!(contents(&store)[&disk], contents(expected)[&disk]);
    }
    assert_eq!(
        client.place.snapshot()[&index.0],
        index.1,
        "it was not put back"
    );
}

#[test]
fn a_push_fetches_the_parts_that_its_samples_show() {
    for is_merged in [true, false] {
        let (client, _stores) = eight(true, is_merged);
        // Half of what the third store has, and as much of its own.
        let half: Vec<u64> = (0..CHUNKS as u64)
            .map(|nth| {
                if nth % 2 == 0 {
                    (2 << 32) + nth
                } else {
                    (77 << 32) + nth
                }
            })
            .collect();
        let (_dir, store) = store_of("half", &half);
        let pusher = client.other_folders();
        let report = push_with(&pusher, &store, 0).expect("a push");
        let (whole, parts) = asked(&client.place);
        assert_eq!((whole, parts), (0, 1), "of eight parts one is of use");
        assert_eq!(
            report.chunks,
            CHUNKS as u64 / 2,
            "what is there is not sent"
        );
        let (_other_dir, other) = new_store();
        client.other_folders().pull(&other, "").expect("a pull");
        assert_eq!(contents(&other)["half"], contents(&store)["half"]);
        // The next one knows what it looked at.
        client.place.take_log();
        let image = store.tree().all_nodes().next().expect("the image");
        let live = store.open_live(image.image_id()).expect("it opens");
        live.write_at(&[7; CHUNK], 0).expect("a write");
        live.flush().expect("a flush");
        drop(live);
        let report = push_with(&pusher, &store, 0).expect("a push");
        assert_eq!((report.chunks, asked(&client.place)), (1, (0, 0)));
    }
}

/// One chunk in common does not show in a sample, as a rule: it is sent again, and nothing is
/// wrong.
#[test]
fn what_is_passed_over_is_sent_a_second_time() {
    let (client, _stores) = eight(true, true);
    let few: Vec<u64> = (0..8_u64)
        .map(|nth| (nth << 32) + 500)
        .chain(range(99 << 32))
        .collect();
    let (_dir, store) = store_of("few", &few);
    let report = push_with(&client.other_folders(), &store, 0).expect("a push");
    assert!(report.chunks >= CHUNKS as u64, "{report:?}");
    let (_other_dir, other) = new_store();
    client.other_folders().pull(&other, "").expect("a pull");
    assert_eq!(contents(&other)["few"], contents(&store)["few"]);
    let repository = client.open(client.objects()).expect("it opens");
    let options = VerifyOptions {
        read_data: true,
        ..VerifyOptions::default()
    };
    let report = verify(&repository, &options, &Unwatched).expect("a check");
    assert!(report.findings.is_empty(), "{report:?}");
}

/// What a client may fetch unseen, it fetches: nothing is sent twice.
#[test]
fn a_small_index_is_looked_through() {
    let (client, _stores) = eight(true, true);
    let few: Vec<u64> = (0..8_u64).map(|nth| (nth << 32) + 500).collect();
    let (_dir, store) = store_of("few", &few);
    let report = client.other_folders().push(&store).expect("a push");
    assert_eq!(report.chunks, 0);
}
