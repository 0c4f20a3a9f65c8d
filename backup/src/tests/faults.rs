//! Pushes that die at every request, and places that answer wrongly.

use std::sync::Arc;

use vellum_store::Unwatched;

use super::Client;
use super::grower::{Grower, contents, new_store};
use crate::objects::memory::{Effect, Fault, Memory, Request};
use crate::objects::twice::copy_of;
use crate::objects::{ObjectErrorKind, ObjectName};
use crate::pull::{PullRequest, pull};
use crate::reader::Reader;
use crate::testing::seed;

#[test]
fn a_push_that_dies_at_any_request_leaves_what_was_there_and_the_next_one_completes_it() {
    let mut grower = Grower::new(seed());
    let client = Client::new(grower.random.bool());
    client.push(&grower.store).expect("a push");
    let mut died = 0;
    for nth in 0.. {
        // Random writes may be nothing new: a push of that would be over after few requests, and so
        // would be this.
        let mut bytes = vec![0; 10_000];
        grower.random.fill(&mut bytes);
        let live = grower
            .store
            .open_live(grower.images()[0])
            .expect("the one that is never empty");
        live.write_at(&bytes, 700)
            .and_then(|()| live.flush())
            .expect("write");
        drop(live);
        grower.write();
        let place = Memory::clone(&client.place);
        let effect = if grower.random.bool() {
            Effect::Dead
        } else {
            Effect::AnswerLost
        };
        place.fail(Fault {
            request: None,
            after: nth,
            effect,
        });
        let place = Arc::new(place);
        let before = points(&client);
        let outcome = client.push_through(place.clone(), &grower.store);
        died += u64::from(outcome.is_err());
        let after = points(&client);
        assert!(
            before.iter().all(|point| after.contains(point)),
            "points were lost at request {nth}"
        );
        if outcome.is_err() {
            client
                .push(&grower.store)
                .expect("the next push completes it");
        }
        let (_dir, store) = new_store();
        client.pull(&store, "").expect("everything is whole");
        let (found, expected) = (contents(&store), contents(&grower.store));
        expected.iter().for_each(|(text, bytes)| {
            super::assert_same(&found[text], bytes, &format!("{text} after request {nth}"));
        });
        if place.take_log().len() as u64 <= nth {
            break;
        }
    }
    assert!(died > 5, "only {died} pushes met a fault");
}

fn points(client: &Client) -> Vec<String> {
    let repository = client.open(client.objects()).expect("it opens");
    repository
        .state()
        .points()
        .map(|point| point.id.clone())
        .collect()
}

#[test]
fn what_an_interrupted_push_sent_is_not_sent_again() {
    let mut grower = Grower::new(seed());
    (0..10).for_each(|_| grower.write());
    let client = Client::new(true);
    // Everything but the record arrives: the announcement, a pack, an index and a map with their
    // copies.
    let place = Memory::clone(&client.place);
    let records = client
        .place
        .snapshot()
        .keys()
        .filter(|name| name.starts_with("journal/"))
        .count();
    assert_eq!(records, 0);
    place.fail(Fault {
        request: Some(Request::Put),
        after: 6,
        effect: Effect::Refused(ObjectErrorKind::Denied),
    });
    client
        .push_through(Arc::new(place), &grower.store)
        .expect_err("the record is refused");
    let sent = client
        .place
        .snapshot()
        .keys()
        .filter(|name| name.starts_with("packs/"))
        .count();
    let report = client.push(&grower.store).expect("a push");
    assert_eq!((report.chunks, sent), (0, 1), "chunks were sent again");
    let (_dir, store) = new_store();
    client.pull(&store, "").expect("everything is whole");
}

/// What came wrong on the way is asked for again. Other wrong answers are errors, unless there is a
/// copy or a second look to help.
#[test]
fn wrong_answers_are_asked_for_again_or_are_errors_and_leave_nothing_in_the_store() {
    let mut grower = Grower::new(seed());
    (0..10).for_each(|_| grower.step());
    let client = Client::new(grower.random.bool());
    client.push(&grower.store).expect("a push");
    let expected = contents(&grower.store);
    for effect in [
        Effect::Flipped,
        Effect::Truncated,
        Effect::Refused(ObjectErrorKind::Missing),
        Effect::Refused(ObjectErrorKind::Failed),
    ] {
        for request in [Request::Get, Request::GetRange] {
            for nth in 0.. {
                let (_dir, store) = new_store();
                let other = client.other();
                let place = Arc::new(Memory::clone(&client.place));
                place.fail(Fault {
                    request: Some(request),
                    after: nth,
                    effect,
                });
                let outcome = other
                    .open(super::persistent(place.clone()))
                    .and_then(|repository| {
                        let reader = Reader::new(&repository);
                        let request = PullRequest::of(&reader, |_| true, true, str::to_owned)?;
                        pull(&reader, &store, &request, &Unwatched)
                    });
                let asked: Vec<_> = place
                    .take_log()
                    .into_iter()
                    .filter(|(other, _)| *other == request)
                    .map(|(_, name)| name)
                    .collect();
                let hit = asked
                    .get(nth as usize)
                    .and_then(|name| ObjectName::parse(name));
                let has_copy = hit.is_some_and(|name| copy_of(&name).is_some());
                if let Err(error) = outcome {
                    let is_way = matches!(effect, Effect::Flipped | Effect::Truncated);
                    assert!(
                        !has_copy && !is_way,
                        "{effect:?} of {request:?} {nth}: {error}"
                    );
                    assert_eq!(
                        store.tree().image_count(),
                        0,
                        "{effect:?} of {request:?} {nth} left something"
                    );
                    continue;
                }
                // An object that was missing once may be found at a second look.
                let is_last = asked.len() as u64 <= nth;
                let may_pass =
                    is_last || has_copy || effect != Effect::Refused(ObjectErrorKind::Failed);
                assert!(may_pass, "{effect:?} of {request:?} {nth} was believed");
                let found = contents(&store);
                expected
                    .iter()
                    .for_each(|(text, bytes)| super::assert_same(&found[text], bytes, text));
                if is_last {
                    break;
                }
            }
        }
    }
}
