//! The protocol, step by step: every request of every client in any order, with deaths anywhere.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use vellum_store::Unwatched;

use super::*;
use crate::forget::{ForgetWish, forget};
use crate::objects::memory::{Effect, Fault, Memory, Request};
use crate::objects::{ObjectError, ObjectErrorKind, Objects};
use crate::testing::pusher::{Base, Disk, init, open, push, restore, writer};
use crate::testing::seed;
use crate::testing::stage::Stage;

/// The acknowledged disks that were not given up since.
#[derive(Default)]
struct Promises(Mutex<BTreeMap<String, Disk>>);

impl Promises {
    fn make(&self, id: String, disk: Disk) {
        self.0.lock().expect("no test panics here").insert(id, disk);
    }

    fn give_up(&self, id: &str) {
        self.0.lock().expect("no test panics here").remove(id);
    }

    fn some(&self, random: &mut fastrand::Rng) -> Option<String> {
        let promises = self.0.lock().expect("no test panics here");
        let nth = random.usize(..promises.len().max(1));
        promises.keys().nth(nth).cloned()
    }

    /// Every promise can be kept, and whatever can be seen can be restored.
    fn check(&self, memory: &Memory) {
        let repository =
            open(Arc::new(memory.clone())).expect("the journal can be read at every moment");
        let catalog = catalog(&repository).expect("so can the index");
        let state = repository.state();
        let promises = self.0.lock().expect("no test panics here");
        for id in promises.keys() {
            assert!(state.point(id).is_some(), "point {id} is gone");
        }
        for point in state.points() {
            let told = |error| {
                panic!(
                    "point {}: {error}\n{:#?}",
                    point.id,
                    repository.journal().iter().collect::<Vec<_>>()
                )
            };
            let disk = restore(&repository, &catalog, point).unwrap_or_else(told);
            if let Some(expected) = promises.get(&point.id) {
                assert_eq!(disk, *expected, "point {}", point.id);
            }
        }
    }
}

fn options(fence: FenceWish) -> PruneOptions {
    PruneOptions {
        fence,
        ..PruneOptions::default()
    }
}

fn disk(random: &mut fastrand::Rng) -> Disk {
    (0..random.u16(1..6))
        .map(|_| (random.u16(..8), random.u16(1..12)))
        .collect()
}

fn is_harmless(error: &BackupError) -> bool {
    matches!(
        error,
        BackupError::Locked { .. }
            | BackupError::Fenced { .. }
            | BackupError::Objects { .. }
            | BackupError::Uncertain { .. }
            | BackupError::Unconfirmed { .. }
    )
}

/// One client: some operations, one after the other.
fn act(objects: Arc<dyn Objects>, name: usize, seed: u64, promises: &Promises) {
    let mut random = fastrand::Rng::with_seed(seed);
    for nth in 0..random.u64(1..4) {
        let Ok(repository) = open(objects.clone()) else {
            return;
        };
        let image = format!("image-{}", random.u8(..2));
        let outcome = match random.u8(..10) {
            0..=4 => {
                let (disk, serial) = (disk(&mut random), name as u64 * 100 + nth);
                let base = if random.u8(..4) == 0 {
                    Base::None
                } else {
                    Base::Newest
                };
                push(&repository, &image, serial, serial, &disk, base)
                    .map(|id| promises.make(id, disk))
            }
            5..=6 => match promises.some(&mut random) {
                Some(id) => {
                    promises.give_up(&id);
                    forget(&repository, &ForgetWish::Points(vec![id]), writer()).map(drop)
                }
                None => Ok(()),
            },
            7..=8 => prune(&repository, &options(FenceWish::None), writer(), &Unwatched).map(drop),
            _ => prune(&repository, &options(FenceWish::All), writer(), &Unwatched).map(drop),
        };
        match outcome {
            Err(error) if !is_harmless(&error) && !matches!(error, BackupError::Parameter(_)) => {
                panic!("client {name}: {error}")
            }
            _ => {}
        }
    }
}

fn begun() -> (Memory, Promises) {
    let (memory, promises) = (Memory::new(), Promises::default());
    let repository = init(Arc::new(memory.clone()));
    for serial in 0..2 {
        let disk: Disk = [(0, 1 + serial), (1, 2), (2 + serial, 3 + serial)].into();
        let id = push(
            &repository,
            "image-0",
            serial.into(),
            serial.into(),
            &disk,
            Base::Newest,
        )
        .expect("a push");
        promises.make(id, disk);
    }
    (memory, promises)
}

/// Runs clients in a random order; some die, some sleep for long.
fn random_play(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (memory, promises) = begun();
    let stage = Arc::new(Stage::default());
    std::thread::scope(|scope| {
        let _curtain = stage.curtain();
        for name in 1..=random.usize(2..5) {
            let (seed, promises) = (random.u64(..), &promises);
            stage.enter(scope, &memory, move |objects| {
                act(objects, name, seed, promises);
            });
        }
        let mut asleep = BTreeMap::new();
        let mut step = 0_u64;
        loop {
            let waiting = stage.waiting();
            if waiting.is_empty() {
                break;
            }
            step += 1;
            let awake: Vec<_> = waiting
                .iter()
                .filter(|(id, _)| asleep.get(id).is_none_or(|until| *until < step))
                .collect();
            let (id, request) = if awake.is_empty() {
                &waiting[0]
            } else {
                awake[random.usize(..awake.len())]
            };
            let luck = random.u8(..);
            println!(
                "{step}: {id} {request}{}",
                if luck < 2 { ", and dies" } else { "" }
            );
            match luck {
                0..2 => stage.kill(*id),
                2..6 if !awake.is_empty() => drop(asleep.insert(*id, step + random.u64(..200))),
                _ => stage.allow(*id),
            }
            let matters = request.starts_with("delete") || request.starts_with("put journal");
            if matters {
                stage.waiting();
                promises.check(&memory);
            }
        }
    });
    promises.check(&memory);
    // One collection more ends whatever died, and everything that is promised is there.
    let repository = open(Arc::new(memory.clone())).expect("a repository");
    prune(&repository, &options(FenceWish::All), writer(), &Unwatched)
        .expect("a collection after everybody is gone");
    promises.check(&memory);
    assert!(
        repository.state().marks().is_empty(),
        "nobody is waited for"
    );
}

#[test]
fn no_order_of_requests_and_deaths_loses_a_point() {
    let seed = seed();
    let rounds = std::env::var("VELLUM_TEST_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(150);
    for round in 0..rounds {
        println!("round {round}: {}", seed.wrapping_add(round));
        random_play(seed.wrapping_add(round));
    }
}

fn first() -> String {
    crate::testing::pusher::point_id("image-0", 1)
}

fn pushed(objects: Arc<dyn Objects>, serial: u64, disk: &Disk) -> Result<String, BackupError> {
    push(
        &open(objects)?,
        "image-0",
        serial,
        serial,
        disk,
        Base::Newest,
    )
}

fn forgotten(memory: &Memory, promises: &Promises, id: &str) {
    promises.give_up(id);
    let repository = open(Arc::new(memory.clone())).expect("a repository");
    forget(
        &repository,
        &ForgetWish::Points(vec![id.to_owned()]),
        writer(),
    )
    .expect("a point to forget");
}

fn collect(memory: &Memory, fence: FenceWish) -> Result<PruneReport, BackupError> {
    prune(
        &open(Arc::new(memory.clone()))?,
        &options(fence),
        writer(),
        &Unwatched,
    )
}

/// PSA-2025-00019-1 of Proxmox Backup Server: a collection is under way, a push relative to S0
/// begins, S0 is forgotten, the collection takes away what S0 needed; the push is reported as done.
/// Here with both stopped before their requests in turn, and either going on first.
#[test]
fn a_base_that_is_forgotten_while_a_collection_is_under_way_is_not_taken_from_a_push() {
    for collecting in [
        "put sessions",
        "list packs",
        "put journal",
        "list sessions",
        "list journal",
        "delete",
    ] {
        for nth in 0..4 {
            for pushing in ["put sessions", "list journal", "get index", "put journal"] {
                for goes_first in [0, 1] {
                    push_beside_collection((collecting, nth), pushing, goes_first);
                }
            }
        }
    }
}

fn push_beside_collection((collecting, nth): (&str, usize), pushing: &str, goes_first: usize) {
    let (memory, promises) = begun();
    let stage = Arc::new(Stage::default());
    let disk: Disk = [(0, 2), (1, 2), (3, 4), (5, 9)].into();
    std::thread::scope(|scope| {
        let _curtain = stage.curtain();
        stage.enter(scope, &memory, |objects| {
            drop(open(objects).map(|repository| {
                prune(&repository, &options(FenceWish::None), writer(), &Unwatched)
            }));
        });
        stage.enter(scope, &memory, |objects| {
            promises.make(pushed(objects, 9, &disk).expect("a push"), disk.clone());
        });
        stage.until(1, pushing);
        if pushing != "put sessions" && pushing != "put journal" {
            // That was the one for opening the repository.
            stage.allow(1);
            stage.until(1, pushing);
        }
        forgotten(&memory, &promises, &first());
        for _ in 0..nth {
            stage.until(0, collecting);
            stage.allow(0);
        }
        stage.until(0, collecting);
        stage.finish(goes_first);
        stage.finish(1 - goes_first);
    });
    promises.check(&memory);
    collect(&memory, FenceWish::None).expect("a collection");
    promises.check(&memory);
}

/// A push that slept through its fence must not come back with a point that was built on what is
/// gone.
#[test]
fn a_fenced_push_that_wakes_up_hears_that_it_failed() {
    let (memory, promises) = begun();
    let stage = Arc::new(Stage::default());
    let outcome = Mutex::new(None);
    let disk: Disk = [(0, 2), (1, 2), (3, 4)].into();
    std::thread::scope(|scope| {
        let _curtain = stage.curtain();
        stage.enter(scope, &memory, |objects| {
            *outcome.lock().expect("a lock") = Some(pushed(objects, 9, &disk));
        });
        stage.until(0, "put journal");
        forgotten(&memory, &promises, &first());
        let report = collect(&memory, FenceWish::All).expect("a collection");
        assert_eq!((report.fenced.len(), report.waits_for.len()), (1, 0));
        stage.finish(0);
    });
    assert!(matches!(
        outcome.into_inner().expect("a lock"),
        Some(Err(BackupError::Fenced { .. }))
    ));
    promises.check(&memory);
    let repository = open(Arc::new(memory.clone())).expect("a repository");
    assert!(
        repository
            .state()
            .point(&crate::testing::pusher::point_id("image-0", 9))
            .is_none(),
        "half of a push is visible"
    );
    collect(&memory, FenceWish::None).expect("a collection");
    promises.check(&memory);
}

/// A push whose record came in time counts, although it was fenced while it slept.
#[test]
fn a_fenced_push_whose_record_was_there_counts() {
    let (memory, promises) = begun();
    let stage = Arc::new(Stage::default());
    let disk: Disk = [(0, 7), (3, 4)].into();
    std::thread::scope(|scope| {
        let _curtain = stage.curtain();
        stage.enter(scope, &memory, |objects| {
            promises.make(
                pushed(objects, 9, &disk).expect("it was counted"),
                disk.clone(),
            );
        });
        stage.until(0, "put journal");
        stage.allow(0);
        stage.waiting();
        collect(&memory, FenceWish::All).expect("a collection");
        stage.finish(0);
    });
    promises.check(&memory);
    assert_eq!(promises.0.lock().expect("a lock").len(), 3);
}

/// A collection that slept through its fence deletes nothing any more: what it condemned may be
/// built on by now.
#[test]
fn a_fenced_collection_that_wakes_up_deletes_nothing() {
    for request in [
        "put packs",
        "put maps",
        "put index",
        "put journal",
        "list sessions",
        "list journal",
        "delete",
    ] {
        for nth in 0..3 {
            let (memory, promises) = begun();
            forgotten(&memory, &promises, &first());
            let stage = Arc::new(Stage::default());
            std::thread::scope(|scope| {
                let _curtain = stage.curtain();
                stage.enter(scope, &memory, |objects| {
                    drop(open(objects).map(|repository| {
                        prune(&repository, &options(FenceWish::None), writer(), &Unwatched)
                    }));
                });
                for _ in 0..nth {
                    stage.until(0, request);
                    stage.allow(0);
                }
                stage.until(0, request);
                collect(&memory, FenceWish::All).expect("a collection");
                let disk: Disk = [(0, 2), (2, 4), (7, 7)].into();
                promises.make(
                    pushed(Arc::new(memory.clone()), 9, &disk).expect("a push"),
                    disk,
                );
                stage.finish(0);
            });
            promises.check(&memory);
            collect(&memory, FenceWish::All).expect("a collection");
            promises.check(&memory);
        }
    }
}

/// A push may rest on what is condemned, and another one on that push: what only a content needs
/// that no point names any more is not swept while somebody may be building on it.
#[test]
fn a_sweep_leaves_what_a_firm_content_needs_that_no_point_names() {
    let (memory, promises) = begun();
    let stage = Arc::new(Stage::default());
    let (rests, builds): (Disk, Disk) = (
        [(0, 2), (1, 2), (3, 4), (5, 9)].into(),
        [(0, 2), (1, 2), (3, 4), (6, 11)].into(),
    );
    std::thread::scope(|scope| {
        let _curtain = stage.curtain();
        stage.enter(scope, &memory, |objects| {
            drop(pushed(objects, 9, &rests).expect("a push"));
        });
        stage.until(0, "put journal");
        for serial in 0..2 {
            forgotten(
                &memory,
                &promises,
                &crate::testing::pusher::point_id("image-0", serial),
            );
        }
        assert_eq!(
            collect(&memory, FenceWish::None)
                .expect("a mark")
                .waits_for
                .len(),
            1
        );
        stage.finish(0);
        stage.enter(scope, &memory, |objects| {
            promises.make(
                pushed(objects, 10, &builds).expect("a push"),
                builds.clone(),
            );
        });
        stage.until(1, "put journal");
        forgotten(
            &memory,
            &promises,
            &crate::testing::pusher::point_id("image-0", 9),
        );
        collect(&memory, FenceWish::None).expect("a sweep");
        stage.finish(1);
    });
    promises.check(&memory);
    collect(&memory, FenceWish::None).expect("a collection");
    promises.check(&memory);
    assert_no_rubbish(&memory);
}

/// A push may come in time between the reading of a collection that fences it and the collection's
/// decision, and another may build on it: records that the collection had not read yet must count.
/// So fences are announced, and decided by a listing after that.
#[test]
fn a_push_that_another_built_on_before_it_was_fenced_counts() {
    let (memory, promises) = begun();
    let stage = Arc::new(Stage::default());
    let (first, second): (Disk, Disk) = ([(0, 7), (3, 4)].into(), [(0, 7), (3, 4), (5, 5)].into());
    std::thread::scope(|scope| {
        let _curtain = stage.curtain();
        stage.enter(scope, &memory, |objects| {
            promises.make(
                pushed(objects, 9, &first).expect("it was counted"),
                first.clone(),
            );
        });
        stage.until(0, "put journal");
        stage.enter(scope, &memory, |objects| {
            let repository = open(objects).expect("a repository");
            prune(&repository, &options(FenceWish::All), writer(), &Unwatched)
                .expect("a collection");
        });
        stage.until(1, "put journal");
        stage.allow(0);
        stage.waiting();
        promises.make(
            pushed(Arc::new(memory.clone()), 10, &second).expect("a push"),
            second.clone(),
        );
        stage.finish(1);
        stage.finish(0);
    });
    promises.check(&memory);
    assert_eq!(promises.0.lock().expect("a lock").len(), 4);
    collect(&memory, FenceWish::All).expect("a collection");
    promises.check(&memory);
}

/// Of two collections at once at least one withdraws.
#[test]
fn two_collections_at_once_are_one_or_none() {
    for first in [
        "list journal",
        "list sessions",
        "list packs",
        "put journal",
        "delete",
    ] {
        let (memory, promises) = begun();
        let stage = Arc::new(Stage::default());
        let locked = Mutex::new(0);
        std::thread::scope(|scope| {
            let _curtain = stage.curtain();
            let act = |objects| {
                let outcome = open(objects).and_then(|repository| {
                    prune(&repository, &options(FenceWish::None), writer(), &Unwatched)
                });
                *locked.lock().expect("a lock") +=
                    i32::from(matches!(outcome, Err(BackupError::Locked { .. })));
            };
            stage.enter(scope, &memory, act);
            stage.enter(scope, &memory, act);
            stage.until(0, "put sessions");
            stage.allow(0);
            stage.until(0, first);
            stage.finish(1);
            stage.finish(0);
        });
        assert!(*locked.lock().expect("a lock") >= 1, "both worked");
        promises.check(&memory);
    }
}

/// A collection may fail at any request, done or not: nothing is lost, and the next collection
/// completes.
#[test]
fn a_collection_that_fails_at_any_request_leaves_everything_to_the_next() {
    for is_done in [false, true] {
        for nth in 0.. {
            let (memory, promises) = begun();
            forgotten(&memory, &promises, &first());
            let client = memory.clone();
            let repository = open(Arc::new(client.clone())).expect("a repository");
            let effect = if is_done {
                Effect::AnswerLost
            } else {
                Effect::Dead
            };
            let faulty = FailsAt {
                memory: client,
                nth: Mutex::new(nth),
                effect,
            };
            drop(repository);
            let outcome = open(Arc::new(faulty)).and_then(|repository| {
                prune(&repository, &options(FenceWish::None), writer(), &Unwatched)
            });
            promises.check(&memory);
            let report = collect(&memory, FenceWish::All).expect("the next collection");
            assert!(report.waits_for.is_empty());
            promises.check(&memory);
            assert_no_rubbish(&memory);
            if outcome.is_ok() {
                println!("{nth} requests");
                break;
            }
        }
    }
}

/// Asserts that every listed object is needed, once a collection was alone.
fn assert_no_rubbish(memory: &Memory) {
    let report = collect(memory, FenceWish::None).expect("another collection");
    assert_eq!(
        (report.condemned.count, report.swept.count),
        (0, 0),
        "the last collection left something"
    );
}

/// A client one of whose requests fails.
struct FailsAt {
    memory: Memory,
    nth: Mutex<u64>,
    effect: Effect,
}

impl FailsAt {
    /// True if this request is to fail; a client that died fails for ever.
    fn fails(&self) -> bool {
        let mut nth = self.nth.lock().expect("a lock");
        let fails = *nth == 0;
        if !fails || self.effect == Effect::AnswerLost {
            *nth = nth.wrapping_sub(1);
        }
        fails
    }

    fn around<T>(&self, act: impl FnOnce() -> Result<T, ObjectError>) -> Result<T, ObjectError> {
        if !self.fails() {
            return act();
        }
        if self.effect == Effect::AnswerLost {
            drop(act());
        }
        Err(ObjectError::new(
            ObjectErrorKind::Failed,
            "client",
            "the test says so",
        ))
    }
}

impl Objects for FailsAt {
    fn get(&self, name: &str) -> Result<Vec<u8>, ObjectError> {
        self.around(|| self.memory.get(name))
    }

    fn get_range(&self, name: &str, range: std::ops::Range<u64>) -> Result<Vec<u8>, ObjectError> {
        self.around(|| self.memory.get_range(name, range))
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        self.around(|| self.memory.put(name, bytes))
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        self.around(|| self.memory.replace(name, bytes))
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(&str, u64) -> Result<(), ObjectError>,
    ) -> Result<(), ObjectError> {
        self.around(|| self.memory.list(prefix, visit))
    }

    fn delete(&self, name: &str) -> Result<(), ObjectError> {
        self.around(|| self.memory.delete(name))
    }

    fn describe(&self) -> String {
        "a place that fails".to_owned()
    }
}

/// The size of a repository, by kinds of objects.
#[derive(Debug)]
struct Shape {
    packs: usize,
    index_len: u64,
    records: usize,
    maps: usize,
    chain: usize,
}

fn shape(memory: &Memory) -> Shape {
    let repository = open(Arc::new(memory.clone())).expect("a repository");
    let of = |kind| repository.list(kind).expect("a listing");
    let state = repository.state();
    let chains = state
        .points()
        .filter_map(|point| vellum_core::identity::ContentId::parse(&point.content))
        .map(|id| state.chain(id).len());
    Shape {
        packs: of(ObjectKind::Pack).len(),
        index_len: of(ObjectKind::Index).iter().map(|(_, len)| len).sum(),
        records: of(ObjectKind::Record).len(),
        maps: of(ObjectKind::Maps).len(),
        chain: chains.max().unwrap_or(0),
    }
}

/// Two hundred generations with a policy are no more than ten: packs, index, journal and chains
/// stay as they are.
#[test]
fn many_generations_leave_a_repository_as_few_do() {
    let memory = Memory::new();
    let repository = init(Arc::new(memory.clone()));
    let mut random = fastrand::Rng::with_seed(seed());
    let mut disk: Disk = (0..900).map(|at| (at, random.u16(1..))).collect();
    let promises = Promises::default();
    let rules = vellum_core::retention::RetentionRules {
        last: vellum_core::retention::KeepLimit::Newest(7),
        ..Default::default()
    };
    let mut early = None;
    for generation in 0..200_u64 {
        for _ in 0..20 {
            disk.insert(random.u16(..900), random.u16(1..));
        }
        let id = push(
            &repository,
            "image",
            generation,
            generation,
            &disk,
            Base::Newest,
        )
        .expect("a push");
        promises.make(id, disk.clone());
        let wish = ForgetWish::from(rules.clone());
        for decision in forget(&repository, &wish, writer())
            .expect("a policy")
            .iter()
            .filter(|decision| decision.goes())
        {
            promises.give_up(&decision.point.id);
        }
        collect(&memory, FenceWish::None).expect("a collection");
        if generation == 10 {
            early = Some(shape(&memory));
        }
    }
    promises.check(&memory);
    let (early, late) = (early.expect("ten generations"), shape(&memory));
    println!("{early:?}\n{late:?}");
    assert_eq!(promises.0.lock().expect("a lock").len(), 7);
    assert!(
        late.packs <= early.packs + early.packs / 5 + 1,
        "{early:?} {late:?}"
    );
    assert!(
        late.index_len <= early.index_len * 6 / 5,
        "{early:?} {late:?}"
    );
    assert!(
        late.records <= early.records && late.chain <= early.chain,
        "{early:?} {late:?}"
    );
    assert!(
        late.maps <= early.maps + early.maps / 5 + 1,
        "{early:?} {late:?}"
    );
}

/// A repository of six images that share chunks, three of which are forgotten.
fn half_forgotten(promises: &Promises) -> Memory {
    let memory = Memory::new();
    let repository = init(Arc::new(memory.clone()));
    let disk = |image: u16| -> Disk { (0..6).map(|at| (at, image * 6 + at + 1)).collect() };
    for image in 0..6 {
        let (serial, name) = (u64::from(image), format!("image-{image}"));
        let mut both = disk(image);
        both.extend(disk(0).iter().map(|(at, fill)| (at + 8, *fill)));
        let id = push(&repository, &name, serial, serial, &both, Base::None).expect("a push");
        if image < 3 {
            forget(&repository, &ForgetWish::Points(vec![id]), writer()).expect("it is there");
        } else {
            promises.make(id, both);
        }
    }
    memory
}

/// A client of `memory` whose put with this number finds no room.
fn full_once(memory: &Memory, nth: u64) -> Arc<Memory> {
    // Requests and faults are each client's own, objects are everybody's.
    let full = Arc::new(memory.clone());
    full.fail(Fault {
        request: Some(Request::Put),
        after: nth,
        effect: Effect::Refused(ObjectErrorKind::Full),
    });
    full
}

fn count_puts(memory: &Memory) -> u64 {
    let asked = memory.take_log().into_iter();
    asked
        .filter(|(request, _)| *request == Request::Put)
        .count() as u64
}

/// A collection that finds no room at one of its puts begins again without moving, and then moves
/// what there is room for: nothing is left over.
#[test]
fn a_collection_that_finds_no_room_once_leaves_nothing_to_the_next() {
    let mut done = 0;
    for nth in 0.. {
        let promises = Promises::default();
        let memory = half_forgotten(&promises);
        let collect = |memory: Arc<Memory>| {
            let repository = open(memory).expect("it opens");
            prune(&repository, &options(FenceWish::None), writer(), &Unwatched)
        };
        let full = full_once(&memory, nth);
        let outcome = collect(full.clone());
        promises.check(&memory);
        if count_puts(&full) <= nth {
            break;
        }
        if outcome.is_err() {
            continue;
        }
        done += 1;
        let next = collect(Arc::new(memory.clone())).expect("there is room");
        let left = (next.condemned.count, next.swept.count, next.freed_len);
        assert_eq!(left, (0, 0, 0), "after no room at put {nth}");
        promises.check(&memory);
    }
    assert!(done > 0, "no collection went on");
}

/// Who waits for a mark is said by its name. A session that began after the first mark of a
/// collection may not have seen its second: that has a name, and waits, of its own.
#[test]
fn a_collection_that_marks_twice_gives_each_mark_its_name_and_its_waits() {
    let mut twice = 0;
    for nth in 0.. {
        let promises = Promises::default();
        let memory = half_forgotten(&promises);
        let repository = open(Arc::new(memory.clone())).expect("it opens");
        let waited = Session::begin(&repository, SessionKind::Push, writer()).expect("a session");
        let full = full_once(&memory, nth);
        let collecting = open(full.clone()).expect("it opens");
        let outcome = prune(&collecting, &options(FenceWish::None), writer(), &Unwatched);
        if count_puts(&full) <= nth {
            break;
        }
        if outcome.is_err() {
            continue;
        }
        let state = repository.refresh().expect("it is read");
        let of_objects = |mark: &&MarkState| !mark.objects.is_empty();
        let marks: Vec<&MarkState> = state.marks().values().filter(of_objects).collect();
        // One whose wait found no room goes once nobody is open.
        assert!(marks.iter().all(|mark| mark.waits.len() < 2), "{marks:?}");
        twice += u64::from(marks.len() > 1);
        waited.end().expect("it ends");
        promises.check(&memory);
    }
    assert!(twice > 0, "no collection marked twice");
}
