//! Forgetting that dies at every request.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::grower::{Grower, contents, new_store};
use super::{Client, assert_same, request};
use crate::error::BackupError;
use crate::forget::{ForgetWish, forget};
use crate::objects::Objects;
use crate::objects::memory::{Effect, Fault, Memory};
use crate::push::PushSelection;
use crate::testing::seed;

fn points(client: &Client) -> BTreeSet<String> {
    let repository = client.open(client.objects()).expect("it opens");
    repository
        .state()
        .points()
        .map(|point| point.id.clone())
        .collect()
}

fn forget_through(
    client: &Client,
    place: Arc<dyn Objects>,
    ids: &BTreeSet<String>,
) -> Result<(), BackupError> {
    let wish = ForgetWish::Points(ids.iter().cloned().collect());
    forget(
        &client.open(place)?,
        &wish,
        request(PushSelection::All).writer,
    )
    .map(drop)
}

#[test]
fn a_forget_that_dies_at_any_request_takes_all_or_nothing_and_the_next_one_completes_it() {
    let mut grower = Grower::new(seed());
    let client = Client::new(grower.random.bool());
    client.push(&grower.store).expect("a push");
    let mut died = 0;
    for nth in 0.. {
        let old = points(&client);
        grower.write();
        client.push(&grower.store).expect("a push");
        let before = points(&client);
        // Of each image what it showed before: two at least go together.
        let goes: BTreeSet<String> = old.into_iter().take(2).collect();
        let place = Arc::new(Memory::clone(&client.place));
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
        let outcome = forget_through(&client, place.clone(), &goes);
        died += u64::from(outcome.is_err());
        let kept: BTreeSet<String> = before.difference(&goes).cloned().collect();
        let after = points(&client.other());
        assert!(
            after == before || after == kept,
            "request {nth}: {before:?} became {after:?} without {goes:?}"
        );
        if outcome.is_ok() {
            assert_eq!(after, kept, "request {nth}: it was said to be done");
        } else if after == before {
            forget_through(&client, client.objects(), &goes).expect("the next one completes it");
        }
        assert_eq!(points(&client), kept);
        client.push(&grower.store).expect("the next push");
        let (_dir, store) = new_store();
        super::trees::pull_present(&client, &store, &grower.store, "");
        let (found, expected) = (contents(&store), contents(&grower.store));
        expected.iter().for_each(|(text, bytes)| {
            assert_same(&found[text], bytes, &format!("{text} after request {nth}"));
        });
        if place.take_log().len() as u64 <= nth {
            break;
        }
    }
    assert!(died > 4, "only {died} met a fault");
}
