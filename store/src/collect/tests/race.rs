//! Invariant 8: sessions that find chunks "already there" while a collection drops them.
//!
//! A real store; its threads take turns at the points that the code names, in an order that a seed
//! decides. In every order, every image that was committed reads back. Without the epoch, or with
//! claims that are always accepted, this fails within a few seeds.

use std::sync::Mutex;

use vellum_core::page::PageEntry;
use vellum_core::tree::{NodeRef, page_of};
use vellum_core::units::{ChunkId, ChunkIndex, ImageId};

use super::world::{Content, DEEP, World, import, verify, write};
use crate::chunks::sync::schedule;
use crate::error::StoreError;
use crate::{CollectOptions, Store, Unwatched};

const ROUNDS: u64 = 1200;
/// Few numbers, so that everybody wants the same chunks.
const NUMBERS: u32 = 40;
const LEN: usize = 24;

fn content(random: &mut fastrand::Rng) -> Content {
    let start = random.u32(..NUMBERS);
    (0..LEN as u32)
        .map(|at| {
            if random.u8(..8) == 0 {
                Some(random.u32(..NUMBERS))
            } else {
                Some((start + at) % NUMBERS)
            }
        })
        .collect()
}

/// The ids that an image's positions have: guesses for later, when they may be gone.
fn ids(store: &Store, node: NodeRef) -> Vec<Option<ChunkId>> {
    let disk = store.open_disk(node).expect("the node is there");
    let (index, _) = page_of(ChunkIndex(0));
    let page = disk.resolve_page(index).expect("the map is sound");
    (0..LEN as u16)
        .map(|at| {
            if let PageEntry::Chunk(id) = page.entry_at(at) {
                Some(id)
            } else {
                None
            }
        })
        .collect()
}

fn collect(store: &Store, is_deep: bool) {
    let options = if is_deep {
        DEEP
    } else {
        CollectOptions::default()
    };
    match store.collect(options, &Unwatched) {
        Ok(_) | Err(StoreError::Busy(_)) => {}
        Err(error) => panic!("{error}"),
    }
}

/// A live disk that is written in two steps within one session.
fn write_twice(store: &Store, image: ImageId, content: &Content) {
    let mut session = store.inner.chunks.open_session();
    for (start, part) in content.chunks(LEN / 2).enumerate() {
        write(store, &mut session, image, start * (LEN / 2), part, None)
            .expect("the disk has room");
        schedule::yield_point("written");
    }
}

#[test]
fn a_session_keeps_what_it_found_while_a_collection_drops_it() {
    let mut world = World::new();
    let mut switches = 0;
    println!("seeds 0 to {ROUNDS}");
    for seed in 0..ROUNDS {
        switches += round(&mut world, seed);
        if seed % 100 == 99 {
            world = world.reopen();
        }
    }
    println!("{ROUNDS} interleavings, {switches} switches");
    assert!(switches > ROUNDS * 5, "the threads did take turns");
}

fn round(world: &mut World, seed: u64) -> u64 {
    let random = &mut fastrand::Rng::with_seed(seed);
    // Images that earlier rounds left, some of them deleted; and one image that will be garbage in
    // a moment, whose ids are guessed later.
    let nodes: Vec<NodeRef> = world.model.keys().copied().collect();
    for node in nodes {
        if world.model.len() > 3 || random.bool() {
            world.delete(node);
        }
    }
    let live = world.create(LEN);
    let (name, old) = (world.name(), content(random));
    let doomed = import(&world.store, &name, &old, &[]).expect("the disk has room");
    let guesses = ids(&world.store, doomed);
    world
        .store
        .delete_image(doomed.image_id(), false)
        .expect("not pinned");

    let contents = [old.clone(), content(random), content(random)];
    let names = [world.name(), world.name()];
    let imported = Mutex::new(Vec::new());
    let store = &world.store;
    let import = |nth: usize| {
        let node = import(store, &names[nth], &contents[nth], &guesses).expect("the disk has room");
        imported
            .lock()
            .expect("no panic")
            .push((node, contents[nth].clone()));
    };
    let (import, contents) = (&import, &contents);
    let switches = schedule::run_interleaved(
        seed,
        vec![
            Box::new(move || collect(store, seed % 4 == 1)),
            Box::new(move || import(0)),
            Box::new(move || {
                if seed.is_multiple_of(3) {
                    collect(store, seed % 4 == 2);
                } else {
                    import(1);
                }
            }),
            Box::new(move || write_twice(store, live, &contents[2])),
        ],
    );
    world
        .model
        .insert(NodeRef::Image(live), contents[2].clone());
    let imported = imported.into_inner().expect("no panic");
    store.inner.chunks.forget_frames();
    for (node, content) in &imported {
        verify(store, *node, content, &format!("seed {seed}"));
    }
    world.model.extend(imported);
    world.verify(&format!("seed {seed}"));
    switches
}
