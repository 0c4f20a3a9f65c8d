//! Tests of the bytes that collections leave and free: both stay bounded.

use std::collections::BTreeMap;
use std::sync::Arc;

use vellum_core::identity::SegmentId;
use vellum_store::Unwatched;

use super::*;
use crate::forget::{ForgetWish, forget, freed_len, plan};
use crate::format::IndexObject;
use crate::objects::memory::Memory;
use crate::testing::pusher::{Base, Disk, init, open, push, restore, writer};
use crate::testing::seed;

fn collect(memory: &Memory) -> PruneReport {
    let repository = open(Arc::new(memory.clone())).expect("a repository");
    prune(&repository, &PruneOptions::default(), writer(), &Unwatched).expect("a collection")
}

fn forget_points(memory: &Memory, ids: Vec<String>) {
    let repository = open(Arc::new(memory.clone())).expect("a repository");
    forget(&repository, &ForgetWish::Points(ids), writer()).expect("points to forget");
}

/// Number and bytes of a repository's objects, by kind.
fn amounts(memory: &Memory) -> BTreeMap<&'static str, (u64, u64)> {
    let repository = open(Arc::new(memory.clone())).expect("a repository");
    let kinds = [
        ("packs", ObjectKind::Pack),
        ("index", ObjectKind::Index),
        ("maps", ObjectKind::Maps),
        ("journal", ObjectKind::Record),
    ];
    let of = |kind| {
        let listed = repository.list(kind).expect("a listing");
        (listed.len() as u64, listed.iter().map(|(_, len)| len).sum())
    };
    kinds.map(|(name, kind)| (name, of(kind))).into()
}

/// Segment, first ordinal and count of the chunks of every frame that an index names.
fn frames(memory: &Memory) -> Vec<(SegmentId, u32, u32)> {
    let repository = open(Arc::new(memory.clone())).expect("a repository");
    let catalog = catalog(&repository).expect("an index");
    let indexes: Vec<IndexObject> = catalog
        .indexes()
        .iter()
        .map(|id| catalog.index(id).expect("an index"))
        .collect();
    let frames = indexes
        .iter()
        .flat_map(|index| &index.packs)
        .flat_map(|pack| &pack.frames);
    frames
        .map(|frame| (frame.segment, frame.first, frame.presence.count()))
        .collect()
}

/// A collection that was alone leaves nothing that no point needs, and everything that one does: of
/// packs, maps and index objects alike.
#[test]
fn what_no_point_needs_is_gone_after_a_collection_and_nothing_else() {
    let memory = Memory::new();
    let repository = init(Arc::new(memory.clone()));
    let disk = |first: u16| -> Disk { (0..40).map(|at| (at, first + at)).collect() };
    let gone = push(&repository, "gone", 1, 1, &disk(1), Base::None).expect("a push");
    let contents = |memory: &Memory| -> BTreeSet<String> {
        memory
            .snapshot()
            .into_keys()
            .filter(|name| name.starts_with("packs/") || name.starts_with("maps/"))
            .collect()
    };
    let of_gone = contents(&memory);
    assert_eq!(of_gone.len(), 2);
    let kept = push(&repository, "kept", 1, 1, &disk(1000), Base::None).expect("a push");
    let both = contents(&memory);
    memory.plant(
        &format!("packs/ab/{}", "ab".repeat(32)),
        b"what a push left that died",
    );
    forget_points(&memory, vec![gone]);
    let report = collect(&memory);
    // Two index objects became one.
    assert_eq!(report.swept.count, 2 + 2 + 1, "{report:?}");
    assert_eq!(
        contents(&memory),
        both.difference(&of_gone).cloned().collect()
    );
    assert_eq!(amounts(&memory)["index"].0, 1);
    let repository = open(Arc::new(memory.clone())).expect("a repository");
    let point = repository.state().point(&kept).expect("it is kept").clone();
    let found = restore(
        &repository,
        &catalog(&repository).expect("an index"),
        &point,
    )
    .expect("it is whole");
    assert_eq!(found, disk(1000));
}

/// The forecast and the collection name the same number; asking changes nothing.
#[test]
fn forgetting_foretells_what_the_next_collection_frees() {
    let seed = seed();
    for round in 0..30 {
        let mut random = fastrand::Rng::with_seed(seed.wrapping_add(round));
        let memory = Memory::new();
        let repository = init(Arc::new(memory.clone()));
        let mut points = Vec::new();
        let mut disk: Disk = (0..random.u16(1..200))
            .map(|at| (at, random.u16(1..)))
            .collect();
        for serial in 0..random.u64(2..8) {
            (0..random.u16(..60)).for_each(|_| _ = disk.insert(random.u16(..300), random.u16(1..)));
            points.push(
                push(&repository, "image", serial, serial, &disk, Base::Newest).expect("a push"),
            );
            if random.u8(..3) == 0 {
                collect(&memory);
            }
        }
        let goes: Vec<String> = points.into_iter().filter(|_| random.bool()).collect();
        let repository = open(Arc::new(memory.clone())).expect("a repository");
        let before = memory.snapshot();
        let decisions =
            plan(&repository.state(), &ForgetWish::Points(goes.clone())).expect("a plan");
        let foretold = freed_len(&repository, &decisions)
            .expect("nothing is lost")
            .expect("nothing is lost");
        assert_eq!(memory.snapshot(), before, "asking changed something");
        forget_points(&memory, goes);
        let dry = PruneOptions {
            is_dry_run: true,
            ..PruneOptions::default()
        };
        let dry = prune(
            &open(Arc::new(memory.clone())).expect("a repository"),
            &dry,
            writer(),
            &Unwatched,
        )
        .expect("a dry run");
        let done = collect(&memory);
        assert_eq!(
            (foretold, dry.freed_len),
            (done.freed_len, done.freed_len),
            "round {round}"
        );
        assert_eq!(
            (dry.condemned.count, dry.moved_len > 0),
            (done.condemned.count, done.moved_len > 0),
            "round {round}: objects that go"
        );
        assert_eq!(
            freed_len(&open(Arc::new(memory.clone())).expect("a repository"), &[]).expect("whole"),
            Some(0),
            "round {round}"
        );
    }
}

/// Condemned objects that wait for a session are freed by the next collection: the forecast counts
/// them as well.
#[test]
fn what_waits_to_be_swept_is_foretold() {
    let memory = Memory::new();
    let repository = init(Arc::new(memory.clone()));
    let disk: Disk = (0..40).map(|at| (at, 1 + at)).collect();
    let gone = push(&repository, "gone", 1, 1, &disk, Base::None).expect("a push");
    forget_points(&memory, vec![gone]);
    let open_one = Session::begin(&repository, SessionKind::Push, writer()).expect("a session");
    let marked = collect(&memory);
    assert_eq!((marked.waits_for.len(), marked.swept.count), (1, 0));
    open_one.end().expect("it ends");
    let foretold = freed_len(&open(Arc::new(memory.clone())).expect("a repository"), &[])
        .expect("whole")
        .expect("whole");
    assert!(foretold > 40 * 4096, "{foretold}");
    assert_eq!(collect(&memory).freed_len, foretold);
}

/// A repository that lost something can still forget the points that needed it, and reports no
/// number that it cannot know.
#[test]
fn what_is_lost_is_no_obstacle_to_forgetting() {
    let memory = Memory::new();
    let repository = init(Arc::new(memory.clone()));
    let disk: Disk = (0..40).map(|at| (at, 1 + at)).collect();
    let ids: Vec<String> = (0..2)
        .map(|serial| {
            push(
                &repository,
                &format!("image-{serial}"),
                serial,
                serial,
                &disk,
                Base::None,
            )
            .expect("a push")
        })
        .collect();
    let maps = memory
        .snapshot()
        .into_keys()
        .find(|name| name.starts_with("maps/"))
        .expect("maps");
    repository.objects().delete(&maps).expect("it is there");
    let decisions = plan(&repository.state(), &ForgetWish::Points(vec![])).expect("a plan");
    assert_eq!(freed_len(&repository, &decisions).expect("an answer"), None);
    forget_points(&memory, ids);
    let repository = open(Arc::new(memory.clone())).expect("a repository");
    assert!(freed_len(&repository, &[]).expect("an answer").is_some());
}

/// Several images, each with a policy: number and bytes of all objects are after two hundred
/// generations what they were after ten.
#[test]
fn no_kind_of_object_piles_up_over_generations() {
    let memory = Memory::new();
    let repository = init(Arc::new(memory.clone()));
    let mut random = fastrand::Rng::with_seed(seed());
    let mut disks: Vec<Disk> = (0..3)
        .map(|_| (0..200).map(|at| (at, random.u16(1..))).collect())
        .collect();
    let rules = vellum_core::retention::RetentionRules {
        last: vellum_core::retention::KeepLimit::Newest(7),
        ..Default::default()
    };
    let wish = ForgetWish::from(rules);
    let mut early = BTreeMap::new();
    for generation in 0..200_u64 {
        for (nth, disk) in disks.iter_mut().enumerate() {
            (0..6).for_each(|_| _ = disk.insert(random.u16(..200), random.u16(1..)));
            push(
                &repository,
                &format!("image-{nth}"),
                generation,
                generation,
                disk,
                Base::Newest,
            )
            .expect("a push");
        }
        forget(&repository, &wish, writer()).expect("a policy");
        collect(&memory);
        if [10, 50, 100, 199].contains(&generation) {
            println!(
                "{generation}: {:?}, {} frames",
                amounts(&memory),
                frames(&memory).len()
            );
        }
        if generation == 10 {
            early = amounts(&memory);
        }
    }
    let late = amounts(&memory);
    for (kind, (count, _)) in &late {
        assert!(
            *count <= early[kind].0 && *count <= 2,
            "{kind}: {} objects became {count}",
            early[kind].0
        );
    }
    let bytes =
        |amounts: &BTreeMap<&str, (u64, u64)>| amounts.values().map(|(_, len)| len).sum::<u64>();
    assert!(
        bytes(&late) <= bytes(&early) * 6 / 5,
        "{early:?} became {late:?}"
    );
}

/// Maps of several contents share an object: what is dead in it goes although something in it
/// lives.
#[test]
fn a_maps_object_that_is_partly_dead_is_written_anew() {
    let memory = Memory::new();
    let repository = init(Arc::new(memory.clone()));
    let mut random = fastrand::Rng::with_seed(seed());
    // Half of the positions: many runs.
    let mut disk = || -> Disk {
        (0..1000)
            .filter(|_| random.bool())
            .collect::<Vec<_>>()
            .into_iter()
            .map(|at| (at, random.u16(1..)))
            .collect()
    };
    let (lost, shown) = (disk(), disk());
    let gone = push(&repository, "gone", 1, 1, &lost, Base::None).expect("a push");
    let kept = push(&repository, "kept", 1, 1, &shown, Base::None).expect("a push");
    collect(&memory);
    let (count, both_len) = amounts(&memory)["maps"];
    assert_eq!(count, 1, "two small ones are one");
    forget_points(&memory, vec![gone]);
    collect(&memory);
    let (count, len) = amounts(&memory)["maps"];
    assert!(
        count == 1 && len * 3 < both_len * 2,
        "{both_len} bytes became {len}"
    );
    assert_eq!(
        collect(&memory).condemned.count,
        0,
        "it is written anew again and again"
    );
    let repository = open(Arc::new(memory.clone())).expect("a repository");
    let point = repository.state().point(&kept).expect("it is kept").clone();
    assert_eq!(
        restore(
            &repository,
            &catalog(&repository).expect("an index"),
            &point
        )
        .expect("it is whole"),
        shown
    );
}

/// Frames that lost most of their chunks become full ones again, and the chunks keep their
/// addresses.
#[test]
fn what_is_left_of_many_frames_becomes_few() {
    let memory = Memory::new();
    let repository = init(Arc::new(memory.clone()));
    let first: Disk = (0..240).map(|at| (at, 1 + at)).collect();
    let gone = push(&repository, "image", 1, 1, &first, Base::None).expect("a push");
    assert_eq!(frames(&memory).len(), 60);
    let mut second: Disk = first
        .iter()
        .filter(|(at, _)| **at % 4 == 1)
        .map(|(at, fill)| (*at, *fill))
        .collect();
    second.insert(900, 5000);
    let kept = push(&repository, "image", 2, 2, &second, Base::Newest).expect("a push");
    forget_points(&memory, vec![gone]);
    collect(&memory);
    let left = frames(&memory);
    assert_eq!(
        left.iter().map(|(.., count)| count).sum::<u32>(),
        61,
        "{left:?}"
    );
    assert_eq!(
        left.len(),
        3,
        "sixty chunks of one segment fill two frames, one of another is alone: {left:?}"
    );
    let repository = open(Arc::new(memory.clone())).expect("a repository");
    let point = repository.state().point(&kept).expect("it is kept").clone();
    assert_eq!(
        restore(
            &repository,
            &catalog(&repository).expect("an index"),
            &point
        )
        .expect("it is whole"),
        second
    );
}
