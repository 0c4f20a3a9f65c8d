//! Tests of transfer: random trees carried from store to store must be as they were, byte for byte;
//! and no identity may ever stand for two contents.

#[path = "grower.rs"]
#[expect(dead_code, reason = "the tests of repositories use the rest")]
mod grower;

use std::collections::{BTreeMap, HashMap};

use vellum_core::id_set::IdSet;
use vellum_core::identity::ContentId;
use vellum_core::page::PageEntry;
use vellum_core::tree::{Arrival, ArrivingImage, ArrivingSnapshot, NodeRef};
use vellum_core::units::{ChunkId, ImageId, LayerId};

use grower::Grower;

use super::{PointInTime, ReceiveTransaction, SuppliedFrame, VerifiedChunks};
use crate::collect::CollectOptions;
use crate::model::{assert_same, name, new_store, open, read_all, seed};
use crate::store::Store;
use crate::watch::Unwatched;

const CHUNK: u64 = 4096;

/// Carries `nodes` over, images under their names with `prefix` before them.
fn carry(from: &Store, to: &Store, nodes: &[NodeRef], prefix: &str) -> Vec<NodeRef> {
    let moment = from.take_point_in_time(nodes).expect("a moment");
    let mut receipt = to.begin_receive().expect("a receipt");
    let mut tops: Vec<LayerId> = moment.nodes().iter().map(|(_, layer)| *layer).collect();
    tops.sort_unstable_by_key(|top| moment.tree().chain_from(*top).count());
    let layers: HashMap<LayerId, LayerId> = tops
        .into_iter()
        .map(|top| (top, carry_layer(&moment, &mut receipt, top)))
        .collect();
    let arrival = Arrival {
        images: arriving(&moment, &layers, prefix),
        ..Arrival::default()
    };
    receipt
        .finish_receive(arrival)
        .expect("room and free names")
}

fn carry_layer(
    moment: &PointInTime,
    receipt: &mut ReceiveTransaction<'_>,
    top: LayerId,
) -> LayerId {
    let tree = moment.tree();
    let content = |id: LayerId| tree.layer(id).and_then(|layer| layer.content);
    if let Some(there) = content(top).and_then(|content| receipt.layer_showing(content)) {
        return there;
    }
    let base = tree
        .chain_from(top)
        .skip(1)
        .find_map(|layer| Some((layer.id, receipt.layer_showing(layer.content?)?)));
    let map = moment
        .relative_map(top, base.map(|(id, _)| id))
        .expect("a map");
    let pages: Vec<_> = map
        .mapped_pages()
        .iter()
        .map(|index| (index, map.relative_page(index).expect("a page")))
        .collect();
    let mut wanted = IdSet::new();
    for run in pages.iter().flat_map(|(_, page)| page.runs()) {
        if let PageEntry::Chunk(first) = run.slot {
            wanted.insert_run(first, run.len.into());
        }
    }
    let count = wanted.len();
    let ids = carry_chunks(moment, receipt, wanted);
    assert_eq!(ids.len() as u64, count, "every chunk is supplied once");
    let layer = tree.layer(top).expect("held");
    let sealed = layer.content.expect("sealed layers have identities");
    receipt
        .begin_layer(
            sealed,
            base.map(|(_, there)| there),
            layer.len,
            map.parent_visible,
        )
        .expect("a layer");
    for (index, page) in pages {
        let page = page
            .with_translated_ids(|id, _| Some((*ids.get(&id)?, 1)))
            .expect("every chunk came");
        receipt.put_page(index, &page).expect("room");
    }
    receipt.end_layer().expect("room")
}

fn carry_chunks(
    moment: &PointInTime,
    receipt: &mut ReceiveTransaction<'_>,
    wanted: IdSet,
) -> HashMap<ChunkId, ChunkId> {
    let (mut ids, mut supply) = (HashMap::new(), moment.export_frames(wanted));
    let chunk_len = moment.store().parameters().chunk_len;
    loop {
        let frames = supply.next_batch().expect("sound headers");
        if frames.is_empty() {
            return ids;
        }
        for frame in frames {
            let names = frame.chunks.iter().map(|(_, name)| *name).collect();
            let decode = |supplied: SuppliedFrame<'_>| {
                VerifiedChunks::decode_frame(chunk_len, names, supplied.codec, supplied.payload)
            };
            let chunks = supply
                .read_frame(&frame, decode)
                .expect("a sound frame")
                .expect("what was stored");
            let there = receipt.store_chunks(&chunks).expect("room");
            ids.extend(frame.chunks.iter().map(|(id, _)| *id).zip(there));
        }
    }
}

fn arriving(
    moment: &PointInTime,
    layers: &HashMap<LayerId, LayerId>,
    prefix: &str,
) -> Vec<ArrivingImage> {
    let layer_of = |node: NodeRef| {
        let (_, layer) = moment.nodes().iter().find(|(other, _)| *other == node)?;
        Some(layers[layer])
    };
    let images = moment.nodes().iter().filter_map(|(node, _)| {
        moment
            .tree()
            .image(node.image_id())
            .filter(|_| matches!(node, NodeRef::Image(_)))
    });
    images
        .map(|image| {
            let snapshots = moment.tree().snapshots_of(image.id).filter_map(|snapshot| {
                let layer = layer_of(NodeRef::Snapshot(image.id, snapshot.serial))?;
                Some(ArrivingSnapshot {
                    name: snapshot.name.clone(),
                    layer,
                    created_ms: snapshot.created_ms,
                    marks: snapshot.marks.clone(),
                })
            });
            ArrivingImage {
                name: name(&format!("{prefix}{}", image.name)),
                layer: layer_of(NodeRef::Image(image.id)).expect("asked for"),
                mode: image.mode,
                origin: None,
                created_ms: image.created_ms,
                marks: image.marks.clone(),
                snapshots: snapshots.collect(),
            }
        })
        .collect()
}

/// Content of every node, by its name.
fn contents(store: &Store, prefix: &str) -> BTreeMap<String, Vec<u8>> {
    let nodes: Vec<(NodeRef, String)> = store
        .tree()
        .all_nodes()
        .map(|node| (node, store.tree().display_name(node)))
        .collect();
    let own = nodes.into_iter().filter_map(|(node, text)| {
        Some((text.strip_prefix(prefix)?.to_owned(), read_all(store, node)))
    });
    own.collect()
}

fn assert_carried(from: &Store, to: &Store, prefix: &str) {
    let (expected, found) = (contents(from, ""), contents(to, prefix));
    assert!(
        expected.keys().eq(found.keys()),
        "{:?} became {:?}",
        expected.keys(),
        found.keys()
    );
    expected
        .iter()
        .for_each(|(text, bytes)| assert_same(&found[text], bytes, text));
}

#[test]
fn random_trees_arrive_as_they_were_and_what_is_there_is_not_copied() {
    let seed = seed();
    for round in 0..6 {
        let mut grower = Grower::new(seed.wrapping_add(round));
        (0..30).for_each(|_| grower.step());
        let all: Vec<NodeRef> = grower.store.tree().all_nodes().collect();
        let (dir, to) = new_store(CHUNK);
        // A part first: the rest builds on it.
        let some: Vec<NodeRef> = all
            .iter()
            .copied()
            .filter(|node| node.image_id() == grower.images()[0])
            .collect();
        if !some.is_empty() {
            carry(&grower.store, &to, &some, "a-");
        }
        carry(&grower.store, &to, &all, "b-");
        assert_carried(&grower.store, &to, "b-");
        let next_chunk = to.inner.chunks.next_chunk();
        let layers = to.tree().layers().filter(|layer| layer.sealed).count();
        carry(&grower.store, &to, &all, "c-");
        assert_eq!(
            to.inner.chunks.next_chunk(),
            next_chunk,
            "chunks were stored twice"
        );
        assert_eq!(
            to.tree().layers().filter(|layer| layer.sealed).count(),
            layers,
            "layers were copied"
        );
        to.collect(CollectOptions::default(), &Unwatched)
            .expect("collect");
        drop(to);
        let to = open(&dir);
        assert_carried(&grower.store, &to, "c-");
        let report = to
            .check(
                crate::CheckOptions {
                    read_data: true,
                    subset: None,
                },
                &Unwatched,
            )
            .expect("a check");
        assert!(
            report.findings.iter().all(|finding| !finding.is_damage),
            "{:?}",
            report.findings
        );
    }
}

#[test]
fn no_identity_ever_stands_for_two_contents() {
    let seed = seed();
    for round in 0..4 {
        let mut grower = Grower::new(seed.wrapping_add(round));
        let mut known: HashMap<ContentId, blake3_of::Digest> = HashMap::new();
        for _ in 0..60 {
            grower.step();
            assert!(
                grower
                    .store
                    .tree()
                    .layers()
                    .all(|layer| layer.sealed || layer.content.is_none()),
                "an active layer has none"
            );
            for (content, digest) in identities(&grower.store) {
                assert_eq!(*known.entry(content).or_insert(digest), digest, "{content}");
            }
        }
    }
}

/// The identity of every sealed layer, and the content that it stands for.
fn identities(store: &Store) -> Vec<(ContentId, blake3_of::Digest)> {
    let sealed: Vec<(ContentId, LayerId)> = store
        .tree()
        .layers()
        .filter(|layer| layer.sealed)
        .map(|layer| (layer.content.expect("an identity"), layer.id))
        .collect();
    let digest = |layer: LayerId| {
        let disk = store.disk_at(&mut store.tree_mut(), layer, String::new());
        let mut bytes = vec![0; disk.len() as usize];
        disk.read_at(&mut bytes, 0).expect("a disk reads");
        blake3_of::digest(&bytes)
    };
    sealed
        .into_iter()
        .map(|(content, layer)| (content, digest(layer)))
        .collect()
}

/// Trimmed content is missing in the nameless layers above, too, which have nothing of their own
/// there.
#[test]
fn layers_above_a_trimmed_one_are_never_taken_for_what_they_were() {
    let (_dir, store) = new_store(CHUNK);
    let write = |image: ImageId, value: u8, chunks: std::ops::Range<u64>| {
        let bytes = vec![value; ((chunks.end - chunks.start) * CHUNK) as usize];
        let live = store.open_live(image).expect("an image opens for writing");
        live.write_at(&bytes, chunks.start * CHUNK)
            .and_then(|()| live.flush())
            .expect("written");
    };
    let child = |text: &str, parent: NodeRef| {
        let child = store.create_child(&name(text), parent, None);
        child.expect("create").image_id()
    };
    let base = store
        .create_image(&name("base"), 4 * CHUNK)
        .expect("create");
    write(base.image_id(), 1, 0..4);
    let low = store
        .take_snapshot(base.image_id(), &name("s"))
        .expect("snapshot");
    let middle = child("middle", low);
    write(middle, 5, 3..4);
    let high = store.take_snapshot(middle, &name("s")).expect("snapshot");
    for (value, (text, parent)) in [("a", high), ("b", high), ("c", low)]
        .into_iter()
        .enumerate()
    {
        write(child(text, parent), 2 + value as u8, 0..2);
    }
    for image in [middle, base.image_id()] {
        store.delete_image(image, true).expect("deleted");
    }
    let before: BTreeMap<_, _> = identities(&store).into_iter().collect();
    store
        .collect(CollectOptions::default(), &Unwatched)
        .expect("collect");
    let after = identities(&store);
    assert!(
        before.len() == 2 && after.len() == 2,
        "{before:?}: {after:?}"
    );
    for (content, digest) in after {
        assert!(before.get(&content).is_none_or(|known| *known == digest));
        assert!(
            !before.values().any(|known| *known == digest),
            "it is trimmed"
        );
    }
}

/// A trimmed layer no longer has what nobody here sees. Who comes from elsewhere and stands on what
/// it was sees it.
#[test]
fn a_trimmed_layer_is_never_taken_for_what_it_was() {
    let ((_here, here), (_there, there)) = (new_store(CHUNK), new_store(CHUNK));
    let write = |store: &Store, image: ImageId, seed: u64, chunks: usize| {
        let mut bytes = vec![0; chunks * CHUNK as usize];
        fastrand::Rng::with_seed(seed).fill(&mut bytes);
        store
            .open_live(image)
            .and_then(|live| live.write_at(&bytes, 0).and_then(|()| live.flush()))
            .expect("written");
    };
    let base = here
        .create_image(&name("base"), 64 * CHUNK)
        .expect("create")
        .image_id();
    write(&here, base, 1, 64);
    let snapshot = here.take_snapshot(base, &name("s")).expect("snapshot");
    carry(&here, &there, &[NodeRef::Image(base), snapshot], "");
    let is_there = |text: &str| there.find_node(text).expect("it was carried");
    let guest = there
        .create_child(&name("guest"), is_there("base@s"), None)
        .expect("create")
        .image_id();
    write(&there, guest, 2, 1);
    for (nth, text) in ["one", "two"].iter().enumerate() {
        let child = here
            .create_child(&name(text), snapshot, None)
            .expect("create")
            .image_id();
        write(&here, child, 3 + nth as u64, 32);
    }
    let (layer, known) = here
        .tree()
        .layer_of(snapshot)
        .map(|layer| (layer.id, layer.content))
        .expect("it is named");
    here.delete_image(base, true).expect("deleted");
    let dropped = here
        .collect(CollectOptions::default(), &Unwatched)
        .expect("collect")
        .chunks_dropped;
    let trimmed = here.tree().layer(layer).cloned().expect("two stand on it");
    assert!(
        dropped == 32 && trimmed.content.is_some() && trimmed.content != known,
        "{dropped}: {trimmed:?}"
    );
    let carried = carry(&there, &here, &[NodeRef::Image(guest)], "back-");
    assert!(
        read_all(&here, carried[0]) == read_all(&there, NodeRef::Image(guest)),
        "32 chunks are not here any more"
    );
}

/// The name of a whole disk.
mod blake3_of {
    use vellum_core::hash::ChunkHash;

    pub(super) type Digest = (usize, ChunkHash);

    pub(super) fn digest(bytes: &[u8]) -> Digest {
        (bytes.len(), ChunkHash::of_chunk(bytes))
    }
}

#[test]
fn layers_from_before_identities_get_one_when_they_are_looked_at() {
    let (_dir, store) = new_store(CHUNK);
    let image = store
        .create_image(&name("a"), CHUNK)
        .expect("create")
        .image_id();
    let snapshot = store.take_snapshot(image, &name("s")).expect("snapshot");
    let layer = vellum_core::tree::Layer::clone(store.tree().layer_of(snapshot).expect("a layer"));
    // A layer as version 1 of the record had it: not through a commit, which would give it another
    // identity.
    store
        .tree_mut()
        .apply_edits(&[vellum_core::tree::TreeEdit::PutLayer(
            vellum_core::tree::Layer {
                content: None,
                ..layer
            },
        )]);
    let moment = store.take_point_in_time(&[snapshot]).expect("a moment");
    let content = moment
        .layer_by_id(moment.nodes()[0].1)
        .expect("held")
        .content;
    assert!(content.is_some());
    assert_eq!(
        store
            .tree()
            .layer_of(snapshot)
            .and_then(|layer| layer.content),
        content
    );
}

#[test]
fn what_does_not_have_its_name_is_not_taken() {
    let chunk_len = vellum_core::units::ChunkLen::DEFAULT;
    let plain = vec![7; 2 * CHUNK as usize];
    let good = vellum_core::hash::ChunkHash::of_chunk(&plain[..CHUNK as usize]);
    let decode = |names, payload: &[u8]| {
        VerifiedChunks::decode_frame(
            chunk_len,
            names,
            vellum_core::frame::FrameCodec::None,
            payload,
        )
    };
    assert!(decode(vec![good, good], &plain).is_ok());
    let bad = vellum_core::hash::ChunkHash([0; 32]);
    assert!(
        decode(vec![good, bad], &plain).is_err()
            && decode(vec![good], &plain).is_err()
            && decode(vec![], &[]).is_err()
    );
    assert!(
        decode(vec![good; 2000], &plain).is_err(),
        "more than any frame holds"
    );
}

#[test]
fn a_receipt_that_is_dropped_leaves_nothing_that_can_be_seen() {
    let mut grower = Grower::new(seed());
    (0..10).for_each(|_| grower.write());
    let (_dir, to) = new_store(CHUNK);
    let before = to.tree().revision();
    let moment = grower
        .store
        .take_point_in_time(&[NodeRef::Image(grower.images()[0])])
        .expect("a moment");
    let mut receipt = to.begin_receive().expect("a receipt");
    carry_layer(&moment, &mut receipt, moment.nodes()[0].1);
    drop(receipt);
    assert_eq!(
        (
            to.tree().revision(),
            to.tree().layers().count(),
            to.unfinished_layers().len()
        ),
        (before, 0, 0)
    );
    let report = to
        .collect(CollectOptions::default(), &Unwatched)
        .expect("collect");
    assert_eq!(report.chunks_kept, 0, "nothing is left of it");
}

#[test]
fn a_store_keeps_the_new_identity_that_it_took() {
    let (dir, store) = new_store(CHUNK);
    let (old, new) = (store.id(), store.take_new_identity().expect("room"));
    assert!(old != Some(new) && store.id() == Some(new));
    drop(store);
    assert_eq!(open(&dir).id(), Some(new));
}

#[test]
fn a_token_tells_a_store_from_its_copies() {
    let (dir, store) = new_store(CHUNK);
    let (owner, other) = ([1; 16], [2; 16]);
    assert_eq!(store.owner_token(&owner).expect("read"), None);
    let first = store.leave_token(&owner).expect("room");
    let second = store.leave_token(&owner).expect("room");
    assert_ne!(first, second);
    let id = store.id();
    drop(store);
    let store = open(&dir);
    assert_eq!(
        (
            store.owner_token(&owner).expect("read"),
            store.owner_token(&other).expect("read")
        ),
        (Some(second), None)
    );
    assert!(id.is_some() && store.id() == id);
}
