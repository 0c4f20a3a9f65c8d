//! Forgetting: by rules, for good, and with deaths at every request.

use std::collections::BTreeSet;
use std::sync::Arc;

use vellum_core::retention::{AgeRule, KeepLimit, RetentionRules};
use vellum_core::tree::NodeRef;
use vellum_store::{Store, Unwatched};

use super::grower::name;
use super::grower::{Grower, contents, new_store};
use super::{Client, assert_same, request};
use crate::error::BackupError;
use crate::forget::{
    Decision, ForgetWish, Grouping, PointFilter, RuleSource, RuleWish, forget, plan,
};
use crate::journal::State;
use crate::objects::Objects;
use crate::objects::memory::{Effect, Fault, Memory};
use crate::policy::set_policies;
use crate::prune::{PruneOptions, prune};
use crate::push::{PushReport, PushRequest, PushSelection, push};
use crate::record::{Policy, PolicyScope};
use crate::session::Writer;
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
        push_again(&client, &grower.store);
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

/// Pushes what was forgotten, too.
fn push_again(client: &Client, store: &Store) -> PushReport {
    let request = PushRequest {
        again: true,
        ..request(PushSelection::All)
    };
    let repository = client.open(client.objects()).expect("it opens");
    push(&repository, store, &request, &Unwatched).expect("a push")
}

fn write(store: &Store, image: NodeRef, fill: u8) {
    let live = store
        .open_live(image.image_id())
        .expect("it opens for writing");
    live.write_at(&[fill; 4096], 0).expect("a write");
    live.flush().expect("a flush");
}

/// The points as people call them.
fn titles(client: &Client) -> Vec<String> {
    let state = client.open(client.objects()).expect("it opens").state();
    let mut titles: Vec<String> = state.points().map(|point| title(point)).collect();
    titles.sort_unstable();
    titles
}

fn title(point: &crate::record::Point) -> String {
    match &point.snapshot {
        Some(snapshot) => format!("{}@{}", point.name, snapshot.name),
        None => point.name.clone(),
    }
}

fn collect(client: &Client) {
    let repository = client.open(client.objects()).expect("it opens");
    let writer = request(PushSelection::All).writer;
    prune(&repository, &PruneOptions::default(), writer, &Unwatched).expect("a collection");
}

/// What was forgotten came back with the next push, every night (F2). It must stay away, also once
/// a collection has replaced the record that forgot it, and from a client that never saw that.
#[test]
fn what_was_forgotten_stays_away_until_somebody_asks_for_it() {
    let (_dir, store) = new_store();
    let client = Client::new(true);
    let web = store.create_image(&name("web"), 1 << 20).expect("an image");
    for (fill, text) in [(1, "mon"), (2, "tue"), (3, "wed")] {
        write(&store, web, fill);
        store
            .take_snapshot(web.image_id(), &name(text))
            .expect("a snapshot");
    }
    client.push(&store).expect("a push");
    let all = titles(&client);
    assert_eq!(all, ["web", "web@mon", "web@tue", "web@wed"]);
    let repository = client.open(client.objects()).expect("it opens");
    let goes = repository.state();
    let goes = goes.points().filter(|point| title(point) != "web@wed");
    let goes: BTreeSet<String> = goes.map(|point| point.id.clone()).collect();
    forget_through(&client, client.objects(), &goes).expect("nothing is pinned");
    for round in 0..3 {
        for pusher in [&client, &client.other()] {
            let report = pusher.push(&store).expect("a push");
            let counts = (
                report.new_points,
                report.withheld_points,
                report.known_points,
            );
            assert_eq!(counts, (0, 3, 1), "round {round}");
        }
        assert_eq!(titles(&client), ["web@wed"], "round {round}");
        collect(&client);
    }
    let report = push_again(&client, &store);
    assert_eq!((report.new_points, report.withheld_points), (3, 0));
    assert_eq!(titles(&client), all);
    let report = client.push(&store).expect("a push");
    assert_eq!((report.known_points, report.withheld_points), (4, 0));
    let (_other_dir, other) = new_store();
    super::trees::pull_present(&client, &other, &store, "");
    super::trees::assert_all_same(&other, &store, "brought back");
    // And it can be forgotten once more.
    forget_through(&client, client.objects(), &goes).expect("nothing is pinned");
    collect(&client);
    client.push(&store).expect("a push");
    assert_eq!(titles(&client), ["web@wed"]);
}

/// An image that returns to a state that was forgotten long ago shows something that is to be
/// backed up.
#[test]
fn an_image_that_returns_to_a_forgotten_state_is_pushed_again() {
    let (_dir, store) = new_store();
    let client = Client::new(false);
    let web = store.create_image(&name("web"), 1 << 20).expect("an image");
    write(&store, web, 1);
    let clean = store
        .take_snapshot(web.image_id(), &name("clean"))
        .expect("a snapshot");
    client.push(&store).expect("a push");
    let own = |client: &Client| -> BTreeSet<String> {
        let state = client.open(client.objects()).expect("it opens").state();
        let own = state.points().filter(|point| point.snapshot.is_none());
        own.map(|point| point.id.clone()).collect()
    };
    let first = own(&client);
    forget_through(&client, client.objects(), &first).expect("nothing is pinned");
    assert_eq!(client.push(&store).expect("a push").new_points, 0);
    write(&store, web, 2);
    assert_eq!(client.push(&store).expect("a push").new_points, 1);
    let NodeRef::Snapshot(_, serial) = clean else {
        unreachable!("a snapshot was taken")
    };
    let back = store.restore_snapshot(web.image_id(), serial, None);
    back.expect("back to the first state");
    collect(&client);
    let report = client.push(&store).expect("a push");
    assert_eq!((report.new_points, report.withheld_points), (1, 0));
    assert!(own(&client).is_superset(&first));
}

/// The decisions on `state` by rules, in words; `now_ms` is the time of who asks.
fn decided(state: &State, rules: RetentionRules) -> Vec<String> {
    let wish = ForgetWish::from(rules);
    let stays = |decision: &Decision| (!decision.goes()).then(|| title(&decision.point));
    let decisions = plan(state, &wish).expect("rules");
    decisions.iter().filter_map(stays).collect()
}

fn push_at(client: &Client, store: &Store, time_ms: u64) -> PushReport {
    let repository = client.open(client.objects()).expect("it opens");
    let request = PushRequest {
        writer: Writer {
            time_ms,
            ..request(PushSelection::All).writer
        },
        ..request(PushSelection::All)
    };
    push(&repository, store, &request, &Unwatched).expect("a push")
}

const DAY_MS: u64 = 24 * 3_600_000;
const NOW_MS: u64 = 1_800_000_000_000;

fn last(count: u32) -> RetentionRules {
    RetentionRules {
        last: KeepLimit::Newest(count),
        ..RetentionRules::default()
    }
}

/// `--keep-last 2` left one snapshot, since the image's own state, as it was pushed, took the place
/// of the other.
#[test]
fn rules_count_snapshots_and_states_by_themselves() {
    let (_dir, store) = new_store();
    let client = Client::new(false);
    let web = store.create_image(&name("web"), 1 << 20).expect("an image");
    let db = store.create_image(&name("db"), 1 << 20).expect("an image");
    for day in 0..4_u8 {
        write(&store, web, day + 1);
        let text = name(&format!("day-{day}"));
        store
            .take_snapshot(web.image_id(), &text)
            .expect("a snapshot");
        write(&store, web, day + 101);
        write(&store, db, day + 1);
        push_at(&client, &store, NOW_MS + u64::from(day) * DAY_MS);
    }
    let state = client.open(client.objects()).expect("it opens").state();
    let of_two = ["web@day-2", "web", "web@day-3", "web", "db", "db"];
    assert_eq!(decided(&state, last(2)), of_two, "the oldest first");
    assert_eq!(decided(&state, last(1)), ["web@day-3", "web", "db"]);
    let daily = RetentionRules {
        daily: KeepLimit::Newest(3),
        ..RetentionRules::default()
    };
    let states = decided(&state, daily);
    assert_eq!(states.iter().filter(|text| *text == "db").count(), 3);
    assert_eq!(states.iter().filter(|text| *text == "web").count(), 3);
}

/// One push by a clock of 2099 made its state the newest for ever, and rules dropped all later ones
/// (F5).
#[test]
fn a_clock_in_the_future_makes_nothing_the_newest() {
    let (_dir, store) = new_store();
    let client = Client::new(false);
    let web = store.create_image(&name("web"), 1 << 20).expect("an image");
    let future_ms = NOW_MS + 70 * 366 * DAY_MS;
    let mut doubts = Vec::new();
    for (fill, time_ms) in [
        (1, NOW_MS),
        (2, future_ms),
        (3, NOW_MS + DAY_MS),
        (4, NOW_MS + 2 * DAY_MS),
    ] {
        write(&store, web, fill);
        let report = push_at(&client, &store, time_ms);
        doubts.push(report.clock.map(|doubt| doubt.latest_ms));
    }
    // Told by who is ahead, and by who comes after; then it is forgotten.
    assert_eq!(doubts, [None, Some(NOW_MS), Some(future_ms), None]);
    let state = client.open(client.objects()).expect("it opens").state();
    let daily = RetentionRules {
        daily: KeepLimit::Newest(1),
        ..RetentionRules::default()
    };
    let within = RetentionRules {
        within: Some(AgeRule {
            span: "1d".parse().expect("a span"),
            now_ms: NOW_MS + 2 * DAY_MS,
        }),
        ..RetentionRules::default()
    };
    let times = |rules| -> Vec<u64> {
        let decisions = plan(&state, &ForgetWish::from(rules)).expect("rules");
        let stays = decisions.iter().filter(|decision| !decision.goes());
        stays.map(|decision| decision.point.time_ms).collect()
    };
    let newest = NOW_MS + 2 * DAY_MS;
    assert_eq!(times(last(1)), [newest]);
    assert_eq!(times(daily), [newest]);
    assert!(times(within).contains(&newest));
    let order: Vec<u64> = state
        .points_oldest_first()
        .iter()
        .map(|point| point.time_ms)
        .collect();
    assert_eq!(order, [NOW_MS, future_ms, NOW_MS + DAY_MS, newest]);
}

/// Images of one identity that two hosts pushed (of a store that was moved, or copied before copies
/// were told apart): the points of the one pushed out those of the other (F6).
#[test]
fn hosts_with_images_of_one_identity_keep_points_of_their_own() {
    let (_dir, store) = new_store();
    let client = Client::new(false);
    let web = store.create_image(&name("web"), 1 << 20).expect("an image");
    write(&store, web, 1);
    for host in ["alpha", "beta"] {
        for round in 1..4 {
            write(&store, web, round * 10 + host.as_bytes()[0]);
            let request = PushRequest {
                writer: Writer {
                    host: Some(host.to_owned()),
                    ..request(PushSelection::All).writer
                },
                ..request(PushSelection::All)
            };
            let repository = client.open(client.objects()).expect("it opens");
            push(&repository, &store, &request, &Unwatched).expect("a push");
        }
    }
    let state = client.open(client.objects()).expect("it opens").state();
    let images: BTreeSet<&str> = state.points().map(|point| point.image.as_str()).collect();
    assert_eq!(images.len(), 1, "one identity");
    let stays = |host: Option<&str>| -> Vec<String> {
        let wish = ForgetWish::Rules(RuleWish {
            rules: RuleSource::Given(last(2)),
            filter: PointFilter {
                host: host.map(str::to_owned),
                ..PointFilter::default()
            },
            ..RuleWish::default()
        });
        let decisions = plan(&state, &wish).expect("rules");
        let stays = decisions.iter().filter(|decision| !decision.goes());
        stays
            .filter_map(|decision| decision.point.host.clone())
            .collect()
    };
    assert_eq!(stays(None), ["alpha", "alpha", "beta", "beta"]);
    assert_eq!(stays(Some("beta")), ["beta", "beta"]);
}

/// Each point is forgotten by the policy of its image, else its tag's, else its host's, else the
/// repository's; a collection keeps the policies, and one without rules takes another back.
#[test]
fn policies_that_the_repository_keeps_decide() {
    let (_dir, store) = new_store();
    let client = Client::new(true);
    for image in ["web", "mail"] {
        let image = store.create_image(&name(image), 1 << 20).expect("an image");
        for day in 1..=4 {
            write(&store, image, day);
            let taken = store.take_snapshot(image.image_id(), &name(&format!("day{day}")));
            taken.expect("a snapshot");
        }
    }
    client.push(&store).expect("a push");
    let policy = |scope, count| Policy::new(scope, &last(count));
    let set = |policies| {
        let repository = client.open(client.objects()).expect("it opens");
        let writer = request(PushSelection::All).writer;
        set_policies(&repository, policies, writer).expect("they are kept");
    };
    let stays = |wish: RuleWish| -> Vec<String> {
        let state = client.open(client.objects()).expect("it opens").state();
        let decisions = plan(&state, &ForgetWish::Rules(wish)).expect("rules");
        let stays = decisions.iter().filter(|decision| !decision.goes());
        let mut stays: Vec<String> = stays.map(|decision| title(&decision.point)).collect();
        stays.retain(|title| title.contains('@'));
        stays.sort();
        stays
    };
    let by_policies = || RuleWish {
        rules: RuleSource::Policies { now_ms: NOW_MS },
        ..RuleWish::default()
    };
    assert_eq!(stays(by_policies()).len(), 8, "there are no policies");
    let state = client.open(client.objects()).expect("it opens").state();
    let web = state.points().find(|point| point.name == "web");
    let scope = PolicyScope {
        image: web.map(|point| point.image.clone()),
        ..PolicyScope::default()
    };
    set(vec![policy(scope.clone(), 3)]);
    assert_eq!(stays(by_policies()).len(), 3 + 4, "mail has no policy");
    set(vec![policy(PolicyScope::default(), 1)]);
    let both = ["mail@day4", "web@day2", "web@day3", "web@day4"];
    assert_eq!(stays(by_policies()), both);
    collect(&client);
    assert_eq!(stays(by_policies()), both, "a collection took a policy");
    set(vec![policy(scope, 0)]);
    assert_eq!(stays(by_policies()), ["mail@day4", "web@day4"]);
    let together = RuleWish {
        rules: RuleSource::Given(last(1)),
        grouping: Grouping {
            image: false,
            ..Grouping::default()
        },
        ..RuleWish::default()
    };
    assert_eq!(stays(together).len(), 1, "all images are counted together");
}
