//! Random collections: whatever is deleted, and however often a collection is called off, the
//! visible content stays as it was.

use std::collections::{BTreeMap, BTreeSet};

use vellum_core::frame::{FrameHeader, parse_frame_key};
use vellum_core::id_set::IdSet;
use vellum_core::page::{PAGE_SPAN, Page, PageEntry, Run, page_key};
use vellum_core::solid::{parse_solid_key, solid_key};
use vellum_core::tree::{Layer, NodeRef, TreeEdit};
use vellum_core::units::{ChunkId, PageIndex, SolidNumber};

use super::super::mark::MapScan;
use super::world::{After, Content, DEEP, World};
use crate::database::{Batch, Family};
use crate::error::StoreError;
use crate::{CheckOptions, CollectOptions, CollectReport, Unwatched};

const COUNT_MAX: usize = 1500;

fn collect(world: &World) -> CollectReport {
    collect_with(world, CollectOptions::default())
}

fn collect_with(world: &World, options: CollectOptions) -> CollectReport {
    world
        .store
        .collect(options, &Unwatched)
        .expect("the store is sound")
}

/// Every chunk id in the store, and its frame.
fn stored(world: &World) -> BTreeMap<ChunkId, ChunkId> {
    let mut scan = world.store.inner.database.scan_from(Family::Headers, &[]);
    let mut all = BTreeMap::new();
    while let Some((key, value)) = scan.next().expect("the store is sound") {
        let first = parse_frame_key(key).expect("a key");
        let header = FrameHeader::decode(first, value).expect("a header");
        all.extend(header.chunk_hashes().map(|(id, _)| (id, first)));
    }
    all
}

/// The solid blocks that are stored.
fn solid_blocks(world: &World) -> Vec<SolidNumber> {
    let database = &world.store.inner.database;
    let mut scan = database.scan_from(Family::Frames, &solid_key(SolidNumber(0)));
    let mut blocks = Vec::new();
    while let Some((key, _)) = scan.next().expect("the store is sound") {
        blocks.push(parse_solid_key(key).expect("a block's key"));
    }
    blocks
}

fn step(world: &mut World, random: &mut fastrand::Rng) {
    let nodes: Vec<NodeRef> = world.model.keys().copied().collect();
    let images: Vec<NodeRef> = nodes
        .iter()
        .copied()
        .filter(|node| matches!(node, NodeRef::Image(_)))
        .collect();
    if images.is_empty() {
        world.create(random.usize(1..COUNT_MAX));
        return;
    }
    let (node, image) = (
        nodes[random.usize(..nodes.len())],
        images[random.usize(..images.len())],
    );
    let len = world.model[&image].len();
    match random.u8(..20) {
        0 if images.len() < 6 => drop(world.create(random.usize(1..COUNT_MAX))),
        1..=7 => {
            let start = random.usize(..len);
            let count = random.usize(1..=(len - start).min(40));
            let content: Content = (0..count)
                .map(|_| random.bool().then(|| random.u32(..300)))
                .collect();
            world.write(image.image_id(), start, &content);
        }
        8..=10 => drop(world.snapshot(image.image_id())),
        11 | 12 if images.len() < 6 => drop(world.child(node, random.usize(1..COUNT_MAX))),
        13 => world.grow(image.image_id(), len + random.usize(..50)),
        14..=17 => world.delete(node),
        18 => {
            let called_off = world
                .store
                .collect(some_options(random), &After::looks(random.i64(..16)));
            assert!(
                matches!(called_off, Ok(_) | Err(StoreError::Interrupted)),
                "{called_off:?}"
            );
        }
        _ => drop(collect_with(world, some_options(random))),
    }
}

fn some_options(random: &mut fastrand::Rng) -> CollectOptions {
    if random.bool() {
        DEEP
    } else {
        CollectOptions::default()
    }
}

#[test]
fn random_trees_keep_their_content_through_collections() {
    for seed in 0..12 {
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::new();
        for nth in 0..150 {
            step(&mut world, &mut random);
            if nth % 10 == 0 {
                world.verify(&format!("seed {seed} step {nth}"));
            }
        }
        world = world.reopen();
        collect(&world);
        world.verify(&format!("seed {seed}, collected"));
        let report = world
            .store
            .check(
                CheckOptions {
                    read_data: true,
                    subset: None,
                },
                &Unwatched,
            )
            .expect("the store is there");
        assert_eq!(
            (report.findings, report.chunks_read),
            (Vec::new(), stored(&world).len() as u64),
            "seed {seed}"
        );
        check_tidy(&world, seed);
        let nodes: Vec<NodeRef> = world
            .model
            .keys()
            .copied()
            .filter(|node| matches!(node, NodeRef::Image(_)))
            .collect();
        nodes.into_iter().for_each(|node| world.delete(node));
        collect(&world);
        assert_eq!(
            stored(&world).len(),
            0,
            "seed {seed}: nothing is left of nothing"
        );
        assert_eq!(solid_blocks(&world), [], "seed {seed}");
        assert_eq!(world.store.tree().layers().count(), 0, "seed {seed}");
    }
}

/// Every layer that is left is named or shared, and a second collection finds nothing more to drop.
fn check_tidy(world: &World, seed: u64) {
    let tree = world.store.tree();
    for layer in tree.layers() {
        assert!(
            tree.name_count(layer.id) > 0 || tree.child_layers(layer.id).count() > 1,
            "seed {seed}: layer {} is needed",
            layer.id
        );
        assert!(
            layer.parent.is_some() || layer.zeros == 0,
            "seed {seed}: zeros of root layer {}",
            layer.id
        );
    }
    drop(tree);
    let stays = stored(world);
    assert!(stays.len() >= world.needed(), "seed {seed}");
    assert!(
        stays.len() <= world.needed() * 4 / 3 + 4,
        "seed {seed}: {} chunks for {}",
        stays.len(),
        world.needed()
    );
    let again = collect(world);
    assert_eq!(
        (
            again.chunks_dropped,
            again.layers_dropped,
            again.layers_merged
        ),
        (0, 0, 0),
        "seed {seed}"
    );
    assert_eq!(
        stored(world),
        stays,
        "seed {seed}: a second collection rewrites nothing"
    );
}

#[test]
fn a_dry_run_foretells_and_changes_nothing() {
    let mut world = World::new();
    let image = world.create(64);
    world.write(image, 0, &(0..32).map(Some).collect::<Content>());
    let first = world.snapshot(image);
    world.write(image, 0, &(100..120).map(Some).collect::<Content>());
    let second = world.snapshot(image);
    world.write(image, 4, &(200..210).map(Some).collect::<Content>());
    world.delete(first);
    world.delete(second);
    let before = stored(&world);
    let foretold = world
        .store
        .collect(
            CollectOptions {
                dry_run: true,
                ..CollectOptions::default()
            },
            &Unwatched,
        )
        .expect("the store is sound");
    assert_eq!(stored(&world), before);
    let done = collect(&world);
    assert_eq!(
        (
            foretold.layers_merged,
            foretold.chunks_dropped,
            foretold.chunks_kept
        ),
        (done.layers_merged, done.chunks_dropped, done.chunks_kept)
    );
    assert!(
        done.layers_merged == 2 && done.chunks_dropped > 0,
        "{done:?}"
    );
    world.verify("after");
}

/// Chunks of a nameless layer that every layer above covers would stay for ever: two children keep
/// the layer from merging.
#[test]
fn a_nameless_layer_keeps_nothing_that_all_above_it_cover() {
    let mut world = World::new();
    let base = world.create(2000);
    world.write(base, 0, &(0..64).map(Some).collect::<Content>());
    world.write(base, 1100, &(64..96).map(Some).collect::<Content>());
    let snapshot = world.snapshot(base);
    let (one, two) = (world.child(snapshot, 2000), world.child(snapshot, 1110));
    world.write(one, 0, &(1000..1032).map(Some).collect::<Content>());
    world.write(two, 0, &[None; 48]);
    // A nameless layer between the base and two more images, which asks for what neither of them
    // shows.
    let between = world.child(snapshot, 2000);
    world.write(between, 40, &(2000..2004).map(Some).collect::<Content>());
    let (three, four) = (
        world.child(NodeRef::Image(between), 2000),
        world.child(NodeRef::Image(between), 2000),
    );
    world.write(three, 0, &[None; 24]);
    world.write(four, 0, &[None; 28]);
    world.write(four, 1105, &[None; 27]);
    world.write(one, 1105, &[None; 27]);
    world.write(three, 1105, &[None; 27]);
    world.delete(NodeRef::Image(between));
    world.delete(NodeRef::Image(base));
    let foretold = world
        .store
        .collect(
            CollectOptions {
                dry_run: true,
                ..CollectOptions::default()
            },
            &Unwatched,
        )
        .expect("the store is sound");
    let done = collect(&world);
    world.verify("trimmed");
    // Positions 0 to 24 are covered by all, and those from 1110 on: what is dead fills frames, or
    // half of one, and goes.
    assert_eq!(stored(&world).len(), world.needed(), "{done:?}");
    assert_eq!(
        (foretold.chunks_dropped, foretold.chunks_kept),
        (done.chunks_dropped, done.chunks_kept)
    );
    let report = world
        .store
        .check(
            CheckOptions {
                read_data: true,
                subset: None,
            },
            &Unwatched,
        )
        .expect("the store is there");
    assert_eq!(report.findings, []);
    world = world.reopen();
    world.verify("opened again");
    // The layer below is gone: removing an entry above must show zeros, also to a disk that was
    // opened before.
    world.write(one, 0, &[None; 32]);
    world.verify("written again");
    assert_eq!(collect(&world).chunks_dropped, 32);
}

/// A disk that shrank and grew must not show what it lost, also when the layer that says so is
/// merged away.
#[test]
fn a_merge_keeps_what_a_shrunken_layer_hid() {
    let mut world = World::new();
    let base = world.create(2000);
    world.write(base, 0, &(0..2000).map(Some).collect::<Content>());
    let child = world.child(NodeRef::Image(base), 700);
    world.grow(child, 1800);
    let middle = world.snapshot(child);
    world.write(child, 10, &[Some(7777), None]);
    world.delete(middle);
    let grandchild = world.child(NodeRef::Image(child), 1400);
    world.delete(NodeRef::Image(child));
    collect(&world);
    world.verify("with the base");
    world.delete(NodeRef::Image(base));
    collect(&world);
    world.verify("without the base");
    assert_eq!(world.store.tree().layers().count(), 1);
    assert_eq!(
        world
            .store
            .tree()
            .layer_of(NodeRef::Image(grandchild))
            .map(|layer| layer.zeros),
        Some(0)
    );
}

#[test]
fn a_sparse_frame_keeps_its_ids_in_less_space() {
    let mut world = World::new();
    let image = world.create(64);
    world.write(image, 0, &(0..64).map(Some).collect::<Content>());
    let before = stored(&world);
    for at in (0..64).filter(|at| at % 4 != 1) {
        world.write(image, at, &[None]);
    }
    let report = collect(&world);
    let after = stored(&world);
    assert_eq!(report.chunks_dropped, 48);
    assert!(after.keys().all(|id| before.contains_key(id)), "ids stay");
    let frames: std::collections::BTreeSet<_> = after.values().collect();
    assert_eq!((after.len(), frames.len()), (16, 4));
    world.verify("rewritten");
}

#[test]
fn a_collection_that_is_called_off_anywhere_goes_on_later() {
    for looks in 0..40 {
        let mut world = World::new();
        let image = world.create(1500);
        for round in 0..4 {
            world.write(
                image,
                round * 300,
                &(0..300)
                    .map(|at| Some(at + 1000 * round as u32))
                    .collect::<Content>(),
            );
            let snapshot = world.snapshot(image);
            world.write(image, round * 200, &[None; 150]);
            world.delete(snapshot);
        }
        let called_off = world
            .store
            .collect(CollectOptions::default(), &After::looks(looks));
        world.verify(&format!("called off at look {looks}"));
        world = world.reopen();
        world.verify(&format!("opened again after look {looks}"));
        collect(&world);
        world.verify(&format!("done after look {looks}"));
        if called_off.is_ok() {
            println!("{looks} looks let it end");
            return;
        }
    }
    panic!("a collection looks 40 times at most here");
}

#[test]
fn a_damaged_page_ends_a_collection_before_anything_is_dropped() {
    let mut world = World::new();
    let image = world.create(64);
    world.write(image, 0, &(0..32).map(Some).collect::<Content>());
    let other = world.create(64);
    world.write(other, 0, &(100..132).map(Some).collect::<Content>());
    world.delete(NodeRef::Image(other));
    let layer = world
        .store
        .tree()
        .layer_of(NodeRef::Image(image))
        .expect("known")
        .id;
    let key = vellum_core::page::page_key(layer, vellum_core::units::PageIndex(0));
    for damage in [Some(&b"nonsense"[..]), None] {
        let mut batch = crate::database::Batch::default();
        match damage {
            Some(bytes) => batch.put_record(Family::Pages, key, bytes),
            None => batch.delete_record(Family::Pages, key),
        }
        world
            .store
            .inner
            .database
            .write_batch(batch, crate::database::Durability::Logged)
            .expect("room");
        let result = world.store.collect(CollectOptions::default(), &Unwatched);
        assert!(matches!(result, Err(StoreError::Damaged(_))), "{result:?}");
        assert_eq!(stored(&world).len(), 64);
    }
}

/// Every position is a run of its own: each is handed over once, and many at a time, for each time
/// the claims are locked.
#[test]
fn marking_hands_over_each_run_of_the_worst_maps_once_and_locks_seldom() {
    const PAGES: usize = 64;
    let mut world = World::new();
    let image = world.create(PAGES * usize::from(PAGE_SPAN));
    let random = &mut fastrand::Rng::with_seed(1);
    let slots: Vec<PageEntry> = (0..PAGES * usize::from(PAGE_SPAN))
        .map(|_| PageEntry::Chunk(ChunkId(random.u64(..1 << 28))))
        .collect();
    let mut layer = Layer::clone(
        world
            .store
            .tree()
            .layer_of(NodeRef::Image(image))
            .expect("known"),
    );
    let mut batch = Batch::default();
    for (nth, slots) in slots.chunks(PAGE_SPAN.into()).enumerate() {
        let mut page = Page::new();
        slots.iter().zip(0..).for_each(|(slot, start)| {
            page.push_run(Run {
                start,
                len: 1,
                slot: *slot,
            });
        });
        let index = PageIndex(nth as u64);
        layer.pages.insert(index);
        batch.put_record(
            Family::Pages,
            page_key(layer.id, index),
            page.encode(layer.id, index),
        );
    }
    world
        .store
        .commit_batch(
            &mut world.store.tree_mut(),
            &[TreeEdit::PutLayer(layer)],
            batch,
        )
        .expect("room");
    let (mut live, mut runs_seen, mut calls) = (IdSet::new(), 0, 0);
    let mut mark = |runs: &[(ChunkId, u64)]| {
        (runs_seen, calls) = (runs_seen + runs.len(), calls + 1);
        runs.iter()
            .for_each(|(first, count)| live.insert_run(*first, *count));
    };
    let marked = MapScan::begin_scan(&world.store)
        .mark_references(&mut mark, ChunkId(u64::MAX), &Unwatched)
        .expect("the map is sound");
    assert_eq!(
        (marked.references, runs_seen),
        (slots.len() as u64, slots.len())
    );
    let expected: BTreeSet<ChunkId> = slots
        .iter()
        .filter_map(|slot| match slot {
            PageEntry::Chunk(id) => Some(*id),
            _ => None,
        })
        .collect();
    assert!(
        expected.iter().all(|id| live.contains(*id)) && live.len() == expected.len() as u64,
        "marked is what is referred to"
    );
    assert!(
        calls <= PAGES / 2,
        "the claims were locked {calls} times for {PAGES} pages"
    );
}

/// Bytes that the database's files of frames take.
fn frame_bytes(world: &World) -> u64 {
    let database = &world.store.inner.database;
    database
        .table_bytes(Family::Frames)
        .expect("files are listed")
}

/// A store whose frames are of families that are alike, some of which lie far apart.
fn alike_world() -> (World, Vec<NodeRef>) {
    let mut world = World::new();
    let images: Vec<NodeRef> = (0..4)
        .map(|nth| {
            let image = world.create(4000);
            let content = (0..4000).map(|at| Some(at * 4 + nth)).collect::<Content>();
            world.write(image, 0, &content);
            NodeRef::Image(image)
        })
        .collect();
    collect(&world);
    (world, images)
}

#[test]
fn a_deep_collection_makes_the_store_smaller_and_changes_no_content() {
    let (mut world, _) = alike_world();
    let (before, before_bytes) = (stored(&world), frame_bytes(&world));
    let foretold = collect_with(
        &world,
        CollectOptions {
            dry_run: true,
            ..DEEP
        },
    );
    assert_eq!(solid_blocks(&world), [], "a dry run changes nothing");
    let done = collect_with(&world, DEEP);
    assert_eq!(stored(&world), before, "no id has moved");
    assert!(done.deep.frames > 3000 && done.deep.blocks > 30, "{done:?}");
    let near = |foretold: u64, done: u64| foretold.abs_diff(done) * 20 < done;
    assert!(
        near(foretold.deep.frames, done.deep.frames)
            && near(foretold.deep.blocks, done.deep.blocks)
            && near(foretold.deep.bytes_after, done.deep.bytes_after),
        "{foretold:?} {done:?}"
    );
    assert!(
        done.deep.bytes_after * 3 < done.deep.bytes_before,
        "{done:?}"
    );
    assert!(
        frame_bytes(&world) * 3 < before_bytes,
        "{} of {before_bytes}",
        frame_bytes(&world)
    );
    world.verify("deep");
    world = world.reopen();
    world.verify("deep, opened again");
    let again = collect_with(&world, DEEP);
    assert_eq!(again.deep.frames, 0, "there is nothing new");
    assert_eq!(collect(&world).chunks_dropped, 0);
    world.verify("collected again");
}

/// What lives of a block that has lost most of its frames becomes frames again; a block that has
/// lost all of them goes, and its space comes back.
#[test]
fn blocks_go_with_what_was_in_them() {
    let (mut world, images) = alike_world();
    let deep = collect_with(&world, DEEP).deep;
    let full = frame_bytes(&world);
    let blocks = solid_blocks(&world);
    assert_eq!(blocks.len() as u64, deep.blocks);
    world.delete(images[0]);
    collect(&world);
    world.verify("a quarter is gone");
    images[1..3].iter().for_each(|image| world.delete(*image));
    collect(&world);
    world.verify("most is gone");
    let left = solid_blocks(&world);
    assert!(
        left.len() < blocks.len(),
        "{} of {}",
        left.len(),
        blocks.len()
    );
    world.delete(images[3]);
    collect(&world);
    assert_eq!(solid_blocks(&world), []);
    assert!(
        frame_bytes(&world) * 2 < full,
        "{} of {full}",
        frame_bytes(&world)
    );
    // Numbers are not given again while somebody may have old blocks in memory.
    let image = world.create(4000);
    world.write(image, 0, &(0..4000).map(Some).collect::<Content>());
    collect_with(&world, DEEP);
    let newest = solid_blocks(&world);
    assert!(
        newest.iter().all(|block| !blocks.contains(block)),
        "{newest:?}"
    );
    world.verify("new blocks");
}

/// A collection that is called off in the middle leaves what it did, and the next one goes on.
#[test]
fn a_deep_collection_that_is_called_off_goes_on_where_it_was() {
    for looks in 0..40 {
        let (world, _) = alike_world();
        let called_off = world.store.collect(DEEP, &After::looks(looks));
        assert!(
            matches!(called_off, Ok(_) | Err(StoreError::Interrupted)),
            "{called_off:?}"
        );
        world.verify(&format!("called off after {looks}"));
        let world = world.reopen();
        collect_with(&world, DEEP);
        world.verify(&format!("gone on after {looks}"));
        if called_off.is_ok() {
            return;
        }
    }
    panic!("it never ends");
}

/// Frames that guests read again and again leave their blocks; reading all once moves nothing.
#[test]
fn what_becomes_warm_is_a_frame_of_its_own_again() {
    let (mut world, images) = alike_world();
    collect_with(&world, DEEP);
    let solid = |world: &World| {
        let mut scan = world.store.inner.database.scan_from(Family::Headers, &[]);
        let mut count = 0;
        while let Some((key, value)) = scan.next().expect("readable") {
            let first = parse_frame_key(key).expect("a key");
            let header = FrameHeader::decode(first, value).expect("a header");
            count += u64::from(header.solid.is_some());
        }
        count
    };
    let before = solid(&world);
    (0..3).for_each(|_| world.verify("all of it"));
    let step = |world: &World| world.store.run_maintenance(&Unwatched).expect("sound");
    assert_eq!(step(&world).frames_moved_back, 0);
    let disk = world.store.open_disk(images[0]).expect("there");
    for _ in 0..8 {
        world.store.inner.chunks.forget_frames();
        let mut bytes = vec![0; 4096];
        disk.read_at(&mut bytes, 100 * 4096).expect("readable");
    }
    drop(disk);
    let moved = step(&world).frames_moved_back;
    assert!((1..4).contains(&moved), "{moved}");
    assert_eq!(solid(&world), before - moved);
    world.verify("moved back");
    world = world.reopen();
    collect(&world);
    world.verify("collected");
}

/// Writes a record as it is.
fn put_raw(world: &World, family: Family, key: &[u8], value: &[u8]) {
    let mut batch = Batch::default();
    batch.put_record(family, key, value);
    let database = &world.store.inner.database;
    database
        .write_batch(batch, crate::database::Durability::Logged)
        .expect("room");
    world.store.inner.chunks.forget_frames();
}

/// A block is read as a whole: damage to it is damage of all its frames, never other bytes.
#[test]
fn damage_to_blocks_and_their_members_is_found() {
    let (world, _) = alike_world();
    collect_with(&world, DEEP);
    let block = solid_blocks(&world)[0];
    let database = &world.store.inner.database;
    let put = |family, key: &[u8], value: &[u8]| put_raw(&world, family, key, value);
    let findings = |read_data| {
        let options = CheckOptions {
            read_data,
            subset: None,
        };
        let report = world.store.check(options, &Unwatched).expect("readable");
        report
            .findings
            .iter()
            .filter(|finding| finding.is_damage)
            .count()
    };
    let key = solid_key(block);
    let whole = database
        .get(Family::Frames, &key)
        .expect("readable")
        .expect("there")
        .to_vec();
    for at in [0, whole.len() / 2, whole.len() - 1] {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        put(Family::Frames, &key, &flipped);
        for read_data in [false, true] {
            assert!(findings(read_data) > 0, "byte {at}");
        }
    }
    put(Family::Frames, &key, &whole);
    assert_eq!(findings(true), 0);
    let nameless = SolidNumber(block.0 + 100_000);
    put(Family::Frames, &solid_key(nameless), b"left by a crash");
    let report = world
        .store
        .check(CheckOptions::default(), &Unwatched)
        .expect("readable");
    assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
    assert!(!report.findings[0].is_damage, "{:?}", report.findings);
    collect(&world);
    assert!(!solid_blocks(&world).contains(&nameless));
    world.verify("whole again");
}

/// A collection beside damaged headers deletes no block: they may be those of all its members.
#[test]
fn a_block_whose_headers_cannot_be_read_stays() {
    let (world, _) = alike_world();
    collect_with(&world, DEEP);
    let block = solid_blocks(&world)[0];
    let database = &world.store.inner.database;
    let mut scan = database.scan_from(Family::Headers, &[]);
    let mut members = Vec::new();
    while let Some((key, value)) = scan.next().expect("readable") {
        let first = parse_frame_key(key).expect("a key");
        let header = FrameHeader::decode(first, value).expect("a header");
        if header.solid.is_some_and(|solid| solid.block == block) {
            members.push((key.to_vec(), value.to_vec()));
        }
    }
    drop(scan);
    assert!(members.len() > 1);
    for (key, header) in &members {
        let mut flipped = header.clone();
        flipped[20] ^= 1;
        put_raw(&world, Family::Headers, key, &flipped);
    }
    let before = solid_blocks(&world);
    collect(&world);
    assert_eq!(solid_blocks(&world), before);
    for (key, header) in &members {
        put_raw(&world, Family::Headers, key, header);
    }
    world.verify("the headers are back");
}
