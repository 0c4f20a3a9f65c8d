//! Points that go from one repository to another.

use std::collections::BTreeSet;
use std::sync::Arc;

use vellum_store::Unwatched;

use super::grower::{Grower, contents, name, new_store, shape};
use super::trees::{assert_all_same, pull_present};
use super::{Client, assert_same, request};
use crate::copy::{CopyRequest, copy};
use crate::error::BackupError;
use crate::objects::ObjectName;
use crate::objects::memory::{Effect, Fault, Memory, Request};
use crate::objects::twice::copy_of;
use crate::push::{PushReport, PushSelection};
use crate::reader::Reader;
use crate::testing::seed;
use crate::verify::{Finding, VerifyOptions, verify};

fn wish(points: Option<BTreeSet<String>>) -> CopyRequest {
    CopyRequest {
        points,
        again: false,
        trust_others: false,
        limit_upload: None,
        writer: request(PushSelection::All).writer,
    }
}

/// Copies everything, the places asked through `from` and `to`.
fn copy_through(
    source: &Client,
    from: Arc<Memory>,
    target: &Client,
    to: Arc<Memory>,
) -> Result<PushReport, BackupError> {
    copy(
        &source.open(from)?,
        &target.open(to)?,
        &wish(None),
        &Unwatched,
    )
}

fn copy_all(source: &Client, target: &Client) -> Result<PushReport, BackupError> {
    copy_through(source, source.place.clone(), target, target.place.clone())
}

/// The points that a client sees, by id.
fn points(client: &Client) -> BTreeSet<String> {
    let repository = client.open(client.objects()).expect("it opens");
    repository
        .state()
        .points()
        .map(|point| point.id.clone())
        .collect()
}

/// All descriptions of points and machines.
fn told(client: &Client) -> BTreeSet<String> {
    let state = client.open(client.objects()).expect("it opens").state();
    let points = state.points().map(|point| format!("{point:?}"));
    points
        .chain(state.machines().map(|machine| format!("{machine:?}")))
        .collect()
}

fn names_of(client: &Client, folder: &str) -> Vec<String> {
    client
        .place
        .snapshot()
        .into_keys()
        .filter(|name| name.starts_with(folder))
        .collect()
}

/// Nothing is damaged. A client that died behind a record has not put its copy: who verifies does.
fn assert_clean(client: &Client) {
    let repository = client.open(client.objects()).expect("it opens");
    let report = verify(
        &repository,
        &VerifyOptions {
            read_data: true,
            ..VerifyOptions::default()
        },
        &Unwatched,
    )
    .expect("a verify");
    let is_left = |finding: &&Finding| !finding.is_mended;
    let left: Vec<&Finding> = report.findings.iter().filter(is_left).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn growing_trees_are_copied_and_their_store_finds_its_points_in_the_copy() {
    let seed = seed();
    for round in 0..4 {
        let mut grower = Grower::new(seed.wrapping_add(round));
        let (source, target) = (
            Client::new(round % 2 == 0),
            Client::new(grower.random.bool()),
        );
        for _ in 0..4 {
            (0..8).for_each(|_| grower.step());
            source.push(&grower.store).expect("a push");
            let is_pushed_to_both = round > 1 && grower.random.u8(..3) == 0;
            if is_pushed_to_both {
                target
                    .push(&grower.store)
                    .expect("a push straight to the target");
            }
            copy_all(&source, &target).expect("a copy");
            source.place.take_log();
            target.place.take_log();
            let again = copy_all(&source, &target).expect("a copy of nothing new");
            assert_eq!((again.new_points, again.bytes, again.machines), (0, 0, 0));
            for client in [&source, &target] {
                let log = client.place.take_log();
                let lists = log
                    .iter()
                    .filter(|(request, name)| *request == Request::List && name != "keys/")
                    .count();
                let others = log
                    .iter()
                    .filter(|(request, _)| matches!(request, Request::Put | Request::GetRange))
                    .count();
                assert_eq!((lists, others), (1, 0), "{log:?}");
            }
            assert!(points(&target).is_superset(&points(&source)));
            assert!(
                round > 1 || told(&target) == told(&source),
                "names, times, marks or machines became others"
            );
            let (_dir, empty) = new_store();
            pull_present(&target.other(), &empty, &grower.store, "");
            assert_all_same(&empty, &grower.store, "pulled from the copy");
            assert_eq!(shape(&empty), shape(&grower.store));
            let pushed = target
                .push(&grower.store)
                .expect("a push of what was copied");
            assert_eq!(
                (pushed.new_points, pushed.bytes),
                (0, 0),
                "the store does not know its points"
            );
        }
        assert_clean(&target);
        let other = target.other();
        assert_eq!(points(&other), points(&target));
    }
}

#[test]
fn a_repository_that_has_the_chunks_from_others_gets_none_and_looks_at_them_once() {
    let mut grower = Grower::new(seed());
    (0..10).for_each(|_| grower.step());
    // One disk here is certainly long enough to be hit below, whatever chance has made.
    let sure = grower
        .store
        .create_image(&name("sure"), 1 << 20)
        .expect("create")
        .image_id();
    let mut bytes = vec![0; 9 * 4096];
    grower.random.fill(&mut bytes);
    grower
        .store
        .open_live(sure)
        .and_then(|live| live.write_at(&bytes, 0).and_then(|()| live.flush()))
        .expect("write");
    let (source, target) = (Client::new(true), Client::new(true));
    source.push(&grower.store).expect("a push");
    // The same disks, from a store of its own: nothing but the chunks is the same.
    let (_dir, second) = new_store();
    for (text, bytes) in contents(&grower.store) {
        let image = second
            .create_image(&name(&text.replace('@', "-")), bytes.len() as u64)
            .expect("create")
            .image_id();
        second
            .open_live(image)
            .and_then(|live| live.write_at(&bytes, 0).and_then(|()| live.flush()))
            .expect("write");
    }
    target.push(&second).expect("a push");
    target.place.take_log();
    let report = copy_all(&source, &target.other()).expect("a copy");
    assert_eq!(report.chunks, 0, "what is there was sent");
    let (_dir, empty) = new_store();
    pull_present(&target, &empty, &grower.store, "");
    assert_all_same(&empty, &grower.store, "pulled");
    // Of what lies in the target under those names nothing is believed.
    let damaged = Client::new(true);
    damaged.push(&second).expect("a push");
    for pack in names_of(&damaged, "packs/") {
        let mut bytes = damaged.place.snapshot()[&pack].to_vec();
        bytes.iter_mut().step_by(997).for_each(|byte| *byte ^= 1);
        damaged.place.plant(&pack, &bytes);
    }
    assert!(
        copy_all(&source, &damaged).expect("a copy").chunks > 0,
        "damaged chunks were relied upon"
    );
    let (_dir, empty) = new_store();
    pull_present(&damaged, &empty, &grower.store, "");
    assert_all_same(&empty, &grower.store, "pulled");
}

#[test]
fn one_image_takes_nothing_of_others_along_and_the_rest_follows() {
    let mut grower = Grower::new(seed());
    let mut bytes = |len: usize| {
        let mut bytes = vec![0; len];
        grower.random.fill(&mut bytes);
        bytes
    };
    // Two disks in one store whose chunks come in turns, so that frames hold some of both.
    let (_dir, store) = new_store();
    let parts: Vec<Vec<u8>> = (0..40).map(|_| bytes(3 * 4096)).collect();
    let images = ["one", "two"].map(|text| {
        store
            .create_image(&name(text), 1 << 20)
            .expect("create")
            .image_id()
    });
    let live = images.map(|image| store.open_live(image).expect("live"));
    for (nth, part) in parts.iter().enumerate() {
        let live = &live[nth % 2];
        live.write_at(part, (nth / 2 * part.len()) as u64)
            .and_then(|()| live.flush())
            .expect("write");
    }
    drop(live);
    while store.run_maintenance(&Unwatched).expect("tended").has_more {}
    let (source, target) = (Client::new(true), Client::new(false));
    source.push(&store).expect("a push");
    let id = source
        .open(source.objects())
        .expect("it opens")
        .state()
        .points()
        .find(|point| point.name == "one")
        .map(|p| p.id.clone());
    let wish = wish(Some(id.into_iter().collect()));
    let (from, to) = (
        source.open(source.objects()).expect("it opens"),
        target.open(target.objects()).expect("it opens"),
    );
    let report = copy(&from, &to, &wish, &Unwatched).expect("a copy of one");
    assert_eq!(
        (report.new_points, report.chunks, report.machines),
        (1, 60, 0)
    );
    let held: Vec<u8> = target
        .place
        .snapshot()
        .into_iter()
        .filter(|(name, _)| name.starts_with("packs/"))
        .flat_map(|(_, b)| b.to_vec())
        .collect();
    let lies_there = |part: &[u8]| held.windows(64).any(|window| *window == part[..64]);
    for (nth, part) in parts.iter().enumerate() {
        assert_eq!(
            lies_there(part),
            nth % 2 == 0,
            "part {nth} of disk {}",
            nth % 2
        );
    }
    let rest = copy_all(&source, &target).expect("the rest");
    assert_eq!(
        (rest.new_points, rest.known_points, rest.chunks),
        (1, 1, 60)
    );
    let (_dir, empty) = new_store();
    target.pull(&empty, "").expect("a pull");
    assert_all_same(&empty, &store, "pulled");
}

/// The codec and the number of chunks of each frame.
fn frames(client: &Client) -> Vec<(String, u32)> {
    let repository = client.open(client.objects()).expect("it opens");
    let reader = Reader::new(&repository);
    reader.load_indexes().expect("indexes");
    let indexes = reader
        .catalog()
        .indexes()
        .into_iter()
        .map(|id| reader.catalog().index(&id).expect("an index"));
    let packs: Vec<_> = indexes.flat_map(|index| index.packs).collect();
    let frames = packs.iter().flat_map(|pack| &pack.frames);
    let mut frames: Vec<_> = frames
        .map(|frame| (format!("{:?}", frame.codec), frame.presence.count()))
        .collect();
    frames.sort();
    frames
}

#[test]
fn frames_that_are_wanted_whole_go_on_as_they_are() {
    let mut grower = Grower::new(seed());
    (0..10).for_each(|_| grower.step());
    let (source, target) = (Client::new(true), Client::new(true));
    source.push(&grower.store).expect("a push");
    copy_all(&source, &target).expect("a copy");
    // Compressed anew they would be of another codec.
    assert_eq!(frames(&target), frames(&source));
}

#[test]
fn a_damaged_source_is_told_with_its_points_and_leaves_nothing_to_see() {
    let mut grower = Grower::new(seed());
    (0..10).for_each(|_| grower.write());
    let source = Client::new(grower.random.bool());
    source.push(&grower.store).expect("a push");
    let whole = source.place.snapshot();
    for folder in ["packs/", "maps/"] {
        for name in names_of(&source, folder) {
            let mut bytes = whole[&name].to_vec();
            // Everywhere, so that something that counts is hit.
            bytes
                .iter_mut()
                .skip(64)
                .step_by(64)
                .for_each(|byte| *byte ^= 4);
            let copy = ObjectName::parse(&name).and_then(|object| copy_of(&object));
            let both = || [Some(&name), copy.as_ref()].into_iter().flatten();
            both().for_each(|name| source.place.plant(name, &bytes));
            let target = Client::new(grower.random.bool());
            match copy_all(&source, &target) {
                Err(BackupError::Damaged { object, points, .. }) => {
                    assert!(
                        object.starts_with(&name),
                        "{object} is told, and {name} was damaged"
                    );
                    let source = source.open(source.objects()).expect("it opens");
                    assert!(
                        !points.is_empty()
                            && points.iter().all(|id| source.state().point(id).is_some()),
                        "{object}: {points:?}"
                    );
                }
                other => panic!("damage in {name} was not noticed: {other:?}"),
            }
            assert!(points(&target).is_empty() && names_of(&target, "sessions/").is_empty());
            both().for_each(|name| source.place.plant(name, &whole[name]));
            copy_all(&source, &target).expect("a copy of what is whole again");
            assert_clean(&target);
        }
    }
}

#[test]
fn a_copy_that_dies_at_any_request_of_either_side_leaves_what_was_there_and_the_next_one_completes_it()
 {
    let mut grower = Grower::new(seed());
    let (source, target) = (
        Client::new(grower.random.bool()),
        Client::new(grower.random.bool()),
    );
    source.push(&grower.store).expect("a push");
    copy_all(&source, &target).expect("a copy");
    for is_source in [true, false] {
        let (mut died, mut met) = (0, 0);
        for nth in 0.. {
            // A copy of names alone would be over after few requests, and so would be this.
            while source.push(&grower.store).expect("a push").chunks == 0 {
                (0..2).for_each(|_| grower.step());
                grower.write();
            }
            let (from, to) = (
                Arc::new(Memory::clone(&source.place)),
                Arc::new(Memory::clone(&target.place)),
            );
            // A lost answer to a read is asked for again, so those kill few copies.
            let effect = if nth % 2 == 0 {
                Effect::Dead
            } else {
                Effect::AnswerLost
            };
            let place = if is_source { &from } else { &to };
            place.fail(Fault {
                request: None,
                after: nth,
                effect,
            });
            let before = points(&target);
            let outcome = copy_through(&source, from.clone(), &target, to.clone());
            died += u64::from(outcome.is_err());
            // A client that remembers nothing sees the same.
            let (after, all) = (points(&target.other()), points(&source));
            assert!(
                after.is_superset(&before),
                "points were lost at request {nth}"
            );
            assert!(
                after == before || after.is_superset(&all),
                "a part of it can be seen after request {nth}"
            );
            if outcome.is_err() {
                copy_all(&source, &target).expect("the next copy completes it");
            }
            assert!(points(&target).is_superset(&all));
            let (_dir, store) = new_store();
            pull_present(&target, &store, &grower.store, "");
            assert_all_same(&store, &grower.store, &format!("after request {nth}"));
            if place.take_log().len() as u64 <= nth {
                break;
            }
            met += 1;
        }
        // The least of a plain source: its file, the journal, a record, a map; most have chunks to
        // read as well.
        assert!(met > 3, "only {met} copies met a fault");
        assert!(died > 1, "only {died} copies died of it");
    }
    assert_clean(&target);
}

#[test]
fn what_an_interrupted_copy_sent_is_not_sent_again() {
    let mut grower = Grower::new(seed());
    (0..10).for_each(|_| grower.write());
    let (source, target) = (Client::new(true), Client::new(true));
    source.push(&grower.store).expect("a push");
    let to = Memory::clone(&target.place);
    // Everything but the record arrives: the announcement, a pack, an index and a map with their
    // copies.
    to.fail(Fault {
        request: Some(Request::Put),
        after: 6,
        effect: Effect::Refused(crate::objects::ObjectErrorKind::Denied),
    });
    copy_through(&source, source.place.clone(), &target, Arc::new(to))
        .expect_err("the record is refused");
    assert_eq!(names_of(&target, "packs/").len(), 1);
    let report = copy_all(&source, &target).expect("a copy");
    assert_eq!(report.chunks, 0, "chunks were sent again");
    // A client without the deduplication index of that copy finds the chunks nowhere that counts.
    let (_dir, store) = new_store();
    target.pull(&store, "").expect("everything is whole");
    let (found, expected) = (contents(&store), contents(&grower.store));
    expected
        .iter()
        .for_each(|(text, bytes)| assert_same(&found[text], bytes, text));
}

#[test]
fn a_repository_is_not_copied_to_itself() {
    let grower = Grower::new(seed());
    let client = Client::new(false);
    client.push(&grower.store).expect("a push");
    let before = client.place.snapshot().len();
    assert!(matches!(
        copy_all(&client, &client),
        Err(BackupError::Parameter(_))
    ));
    assert_eq!(client.place.snapshot().len(), before);
    let repository = client.open(client.objects()).expect("it opens");
    assert!(Reader::new(&repository).load_indexes().is_ok());
}
