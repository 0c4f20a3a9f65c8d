//! Tests of the check: every kind of damaged record is found, and the images that it hits are named
//! with exactly their ranges.

use std::ops::Range;

use vellum_core::frame::frame_key;
use vellum_core::page::page_key;
use vellum_core::tree::NodeRef;
use vellum_core::units::{ChunkId, LayerId, PageIndex};

use crate::collect::tests::world::{CHUNK_LEN, Content, World};
use crate::database::{Batch, Durability, Family};
use crate::{CheckOptions, CheckReport, Unwatched};

/// An image `n1` of 64 chunks with a snapshot `n2` taken before chunks 8 to 16 were written over,
/// and its child `n3` of the snapshot, where zeros hide chunks 0 to 2. Frames hold four chunks
/// each.
fn world() -> (World, LayerId) {
    let mut world = World::new();
    let image = world.create(64);
    world.write(image, 0, &(0..32).map(Some).collect::<Content>());
    let snapshot = world.snapshot(image);
    world.write(image, 8, &(100..108).map(Some).collect::<Content>());
    let child = world.child(snapshot, 64);
    world.write(child, 0, &[None, None]);
    let layer = world.store.tree().layer_of(snapshot).expect("known").id;
    (world, layer)
}

fn check(world: &World, read_data: bool, subset: Option<(u64, u64)>) -> CheckReport {
    world
        .store
        .check(CheckOptions { read_data, subset }, &Unwatched)
        .expect("a check goes on")
}

fn change(world: &World, family: Family, key: &[u8], change: impl FnOnce(&mut Vec<u8>) -> bool) {
    let mut value = world
        .store
        .inner
        .database
        .get(family, key)
        .expect("readable")
        .map(|value| value.to_vec())
        .unwrap_or_default();
    let mut batch = Batch::default();
    if change(&mut value) {
        batch.put_record(family, key, value);
    } else {
        batch.delete_record(family, key);
    }
    world
        .store
        .inner
        .database
        .write_batch(batch, Durability::Logged)
        .expect("room");
}

#[expect(
    clippy::ptr_arg,
    reason = "it is one of several changes, some of which change the length"
)]
fn flip(value: &mut Vec<u8>) -> bool {
    let middle = value.len() / 2;
    value[middle] ^= 1;
    true
}

fn bytes(chunks: Range<u64>) -> Range<u64> {
    chunks.start * CHUNK_LEN as u64..chunks.end * CHUNK_LEN as u64
}

#[test]
fn a_sound_store_has_no_findings() {
    let (world, _) = world();
    let report = check(&world, true, None);
    assert_eq!(report.findings, []);
    assert_eq!(
        (
            report.chunks,
            report.chunks_read,
            report.chunks_unreferenced,
            report.frames
        ),
        (40, 40, 0, 10)
    );
    let parts: Vec<u64> = (1..=3)
        .map(|part| check(&world, true, Some((part, 3))).chunks_read)
        .collect();
    assert_eq!(
        parts,
        [16, 12, 12],
        "all parts together read everything once"
    );
}

/// Does the damage.
type Damage = fn(&World, LayerId);
/// Names of images, each with a range of bytes.
type ImageHits = Vec<(String, Range<u64>)>;

fn image_hits(chunks: &[(&str, Range<u64>)]) -> ImageHits {
    chunks
        .iter()
        .map(|(name, range)| ((*name).to_owned(), bytes(range.clone())))
        .collect()
}

/// Damages to frames and their headers, with what they hit.
fn frame_damages() -> Vec<(&'static str, Damage, ImageHits)> {
    let low = image_hits(&[("n1", 0..4), ("n1@n2", 0..4), ("n3", 2..4)]);
    let overwritten = image_hits(&[("n1@n2", 8..12), ("n3", 8..12)]);
    vec![
        (
            "payload",
            |world, _| change(world, Family::Frames, &frame_key(ChunkId(0)), flip),
            low.clone(),
        ),
        (
            "no payload",
            |world, _| change(world, Family::Frames, &frame_key(ChunkId(8)), |_| false),
            overwritten.clone(),
        ),
        (
            "short payload",
            |world, _| {
                change(world, Family::Frames, &frame_key(ChunkId(8)), |value| {
                    value.pop().is_some()
                });
            },
            overwritten.clone(),
        ),
        (
            "header",
            |world, _| change(world, Family::Headers, &frame_key(ChunkId(0)), flip),
            low,
        ),
        (
            "no header",
            |world, _| change(world, Family::Headers, &frame_key(ChunkId(8)), |_| false),
            overwritten,
        ),
    ]
}

/// Damages to a page of the map that all images have in common, with what they hit.
fn page_damages() -> Vec<(&'static str, Damage, ImageHits)> {
    let mapped = image_hits(&[
        ("n1", 0..8),
        ("n1", 16..64),
        ("n1@n2", 0..64),
        ("n3", 2..64),
    ]);
    vec![
        (
            "page",
            |world, layer| change(world, Family::Pages, &page_key(layer, PageIndex(0)), flip),
            mapped.clone(),
        ),
        (
            "no page",
            |world, layer| {
                change(world, Family::Pages, &page_key(layer, PageIndex(0)), |_| {
                    false
                });
            },
            mapped,
        ),
    ]
}

#[test]
fn each_damage_names_its_images_and_ranges() {
    for (what, damage, hits) in frame_damages().into_iter().chain(page_damages()) {
        let (world, layer) = world();
        damage(&world, layer);
        let report = check(&world, false, None);
        let images: Vec<_> = report
            .findings
            .iter()
            .flat_map(|finding| finding.images.clone())
            .collect();
        assert!(
            report.findings.iter().any(|finding| finding.is_damage),
            "{what}: {:?}",
            report.findings
        );
        assert_eq!(images, hits, "{what}: {:?}", report.findings);
    }
}

#[test]
fn what_nobody_needs_is_a_leak() {
    type Leak = fn(&World);
    let table: [(&str, Leak); 3] = [
        ("stray payload", |world| {
            change(world, Family::Frames, &frame_key(ChunkId(38)), |value| {
                value.is_empty()
            });
        }),
        ("stray page", |world| {
            change(
                world,
                Family::Pages,
                &page_key(LayerId(999), PageIndex(3)),
                |value| value.is_empty(),
            );
        }),
        ("index entry of another chunk", |world| {
            change(world, Family::Index, b"abcdefgh", |value| {
                value.push(7);
                true
            });
        }),
    ];
    for (what, leak) in table {
        let (world, _) = world();
        leak(&world);
        let report = check(&world, true, None);
        assert_eq!(report.findings.len(), 1, "{what}: {:?}", report.findings);
        assert!(
            report.findings.iter().all(|finding| !finding.is_damage),
            "{what}: {:?}",
            report.findings
        );
    }
}

#[test]
fn unused_chunks_are_counted_and_are_no_fault() {
    let (mut world, _) = world();
    let nodes: Vec<NodeRef> = world
        .model
        .keys()
        .copied()
        .filter(|node| matches!(node, NodeRef::Image(_)))
        .collect();
    nodes.into_iter().for_each(|node| world.delete(node));
    let report = check(&world, false, None);
    // Their layers are there until a collection drops them, and refer to them.
    assert_eq!((report.findings.len(), report.chunks_unreferenced), (0, 0));
}
