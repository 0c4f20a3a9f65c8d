//! Sessions that were left: by the dead of this machine, by others, and by who could not read the
//! journal any more.

use std::sync::Arc;

use vellum_store::{Store, Unwatched};

use super::grower::Grower;
use super::{Client, request};
use crate::error::BackupError;
use crate::forget::{ForgetWish, forget};
use crate::objects::ObjectErrorKind;
use crate::objects::memory::{Effect, Fault, Memory, Request};
use crate::process::ProcessMark;
use crate::prune::{FenceWish, PruneOptions, PruneReport, prune};
use crate::push::{PushReport, PushRequest, PushSelection, push};
use crate::record::{Fence, Record};
use crate::session::{Session, SessionKind, Writer, open_sessions};
use crate::testing::seed;

fn own() -> ProcessMark {
    ProcessMark::own().expect("this system tells enough")
}

/// A process of this machine that is gone.
fn dead() -> ProcessMark {
    let own = own();
    ProcessMark {
        started: own.started + 1,
        ..own
    }
}

/// One of which nothing can be seen from here.
fn elsewhere() -> ProcessMark {
    ProcessMark {
        machine: None,
        boot: "another".to_owned(),
        ..own()
    }
}

fn writer(process: ProcessMark) -> Writer {
    Writer {
        process: Some(process),
        ..request(PushSelection::All).writer
    }
}

/// Announces a session that puts `record`, and is never heard of again.
fn leave(client: &Client, kind: SessionKind, process: ProcessMark, record: Option<Record>) {
    let repository = client.open(client.objects()).expect("it opens");
    let session = Session::begin(&repository, kind, writer(process));
    let mut session = session.expect("it is announced");
    if let Some(record) = record {
        session.commit(record).expect("it counts");
    }
    std::mem::forget(session);
}

fn collect(client: &Client, fence: FenceWish) -> Result<PruneReport, BackupError> {
    let options = PruneOptions {
        fence,
        ..PruneOptions::default()
    };
    let repository = client.open(client.objects())?;
    prune(&repository, &options, writer(own()), &Unwatched)
}

fn open_count(client: &Client) -> usize {
    let repository = client.open(client.objects()).expect("it opens");
    open_sessions(&repository).expect("a listing").len()
}

/// Makes something that a collection would take away: random writes may be nothing new, so it
/// writes until a push brings a content.
fn make_rubbish(client: &Client, grower: &mut Grower) {
    let ids = |client: &Client| -> Vec<String> {
        let state = client.open(client.objects()).expect("it opens").state();
        state.points().map(|point| point.id.clone()).collect()
    };
    let before = ids(client);
    while client.push(&grower.store).expect("a push").contents == 0 {
        grower.write();
    }
    let goes = ids(client);
    let goes = goes.into_iter().filter(|id| !before.contains(id));
    let repository = client.open(client.objects()).expect("it opens");
    let wish = ForgetWish::Points(goes.collect());
    forget(&repository, &wish, request(PushSelection::All).writer).expect("nothing is pinned");
}

fn push_here(client: &Client, store: &Store) -> PushReport {
    let repository = client.open(client.objects()).expect("it opens");
    let request = PushRequest {
        writer: writer(own()),
        ..request(PushSelection::All)
    };
    push(&repository, store, &request, &Unwatched).expect("a push")
}

/// A push or prune that was killed on this machine kept all from working until a person said so
/// (F9).
#[test]
fn the_dead_of_this_machine_are_ended_by_the_next_collection_there() {
    let mut grower = Grower::new(seed());
    let client = Client::new(true);
    client.push(&grower.store).expect("a push");
    for kind in [SessionKind::Push, SessionKind::Prune, SessionKind::Copy] {
        make_rubbish(&client, &mut grower);
        leave(&client, kind, dead(), None);
        let report = collect(&client, FenceWish::None).expect("nobody is in the way");
        assert_eq!(
            (report.fenced.len(), report.waits_for.len()),
            (1, 0),
            "{kind}"
        );
        assert_eq!(open_count(&client), 0, "{kind}");
    }
    // A collection that died between a fence and its decision.
    let announced = Record {
        fenced: vec![Fence {
            session: "00".repeat(16),
            counted: Vec::new(),
            decided: false,
        }],
        ..Record::default()
    };
    leave(&client, SessionKind::Prune, dead(), Some(announced));
    collect(&client, FenceWish::None).expect("it is decided");
    assert_eq!(open_count(&client), 0);
}

#[test]
fn what_another_machine_left_is_waited_for_until_a_person_ends_it() {
    let mut grower = Grower::new(seed());
    let client = Client::new(false);
    client.push(&grower.store).expect("a push");
    make_rubbish(&client, &mut grower);
    leave(&client, SessionKind::Push, elsewhere(), None);
    let report = collect(&client, FenceWish::None).expect("it waits");
    assert_eq!((report.fenced.len(), report.waits_for.len()), (0, 1));
    leave(&client, SessionKind::Prune, elsewhere(), None);
    let locked = collect(&client, FenceWish::None);
    assert!(
        matches!(locked, Err(BackupError::Locked { .. })),
        "{locked:?}"
    );
    assert_eq!(open_count(&client), 2);
    let report = collect(&client, FenceWish::All).expect("a person knows");
    assert_eq!((report.fenced.len(), open_count(&client)), (2, 0));
}

#[test]
fn the_next_push_of_this_machine_ends_its_dead_and_nobody_else() {
    let mut grower = Grower::new(seed());
    let client = Client::new(true);
    push_here(&client, &grower.store);
    leave(&client, SessionKind::Push, dead(), None);
    leave(&client, SessionKind::Push, elsewhere(), None);
    leave(&client, SessionKind::Push, own(), None);
    while push_here(&client, &grower.store).new_points == 0 {
        grower.write();
    }
    assert_eq!(open_count(&client), 2, "those that may live");
}

/// A record that was put is there, whatever becomes of the listing after it: the session that
/// stayed announced kept collections waiting (F7).
#[test]
fn a_listing_that_fails_after_the_record_leaves_no_session() {
    let mut grower = Grower::new(seed());
    let client = Client::new(true);
    client.push(&grower.store).expect("a push");
    let mut unconfirmed = 0;
    for nth in 0..12 {
        let outcome = loop {
            grower.write();
            let place = Arc::new(Memory::clone(&client.place));
            place.fail(Fault {
                request: Some(Request::List),
                after: nth,
                effect: Effect::Refused(ObjectErrorKind::Failed),
            });
            match client.push_through(place, &grower.store) {
                Ok(report) if report.new_points == 0 => {}
                other => break other,
            }
        };
        assert_eq!(open_count(&client), 0, "listing {nth} failed");
        if matches!(outcome, Err(BackupError::Unconfirmed { .. })) {
            unconfirmed += 1;
            let report = client.push(&grower.store).expect("a push");
            assert_eq!(report.new_points, 0, "it was there");
        }
    }
    assert!(unconfirmed > 0, "no listing after a record failed");
}

/// Each request of a push fails a few times, listings, too, and the push does not.
#[test]
fn a_place_that_is_asked_again_fails_nothing() {
    let mut grower = Grower::new(seed());
    let client = Client::new(true);
    client.push(&grower.store).expect("a push");
    (0..4).for_each(|_| grower.write());
    let memory = Arc::new(Memory::clone(&client.place));
    for after in 0..40 {
        let kinds = [ObjectErrorKind::Passing, ObjectErrorKind::Doubtful];
        memory.fail(Fault {
            request: None,
            after: after * 2,
            effect: Effect::Refused(kinds[(after % 2) as usize]),
        });
    }
    client
        .push_through(super::persistent(memory), &grower.store)
        .expect("a push through all that");
    assert_eq!(open_count(&client), 0);
    let (_dir, store) = super::grower::new_store();
    super::trees::pull_present(&client, &store, &grower.store, "");
    super::trees::assert_all_same(&store, &grower.store, "pulled");
}
