//! The newest point of an image: the content that it showed when it was pushed last.

use std::collections::BTreeMap;

use vellum_core::tree::NodeRef;
use vellum_store::{Store, Unwatched};

use super::grower::{name, new_store};
use super::{Client, request};
use crate::copy::{CopyRequest, copy};
use crate::push::{PushReport, PushRequest, PushSelection, push};
use crate::session::Writer;
use crate::testing::seed;

/// Images that are written, snapshotted and taken back to earlier snapshots.
struct Images {
    _dir: tempfile::TempDir,
    store: Store,
    random: fastrand::Rng,
    snapshots: u64,
}

impl Images {
    fn new(seed: u64) -> Self {
        let (dir, store) = new_store();
        for image in ["web", "mail"] {
            store.create_image(&name(image), 1 << 20).expect("an image");
        }
        Self {
            _dir: dir,
            store,
            random: fastrand::Rng::with_seed(seed),
            snapshots: 0,
        }
    }

    fn all(&self) -> Vec<NodeRef> {
        self.store.tree().all_nodes().collect()
    }

    /// One change of one image. Few contents, so that an image meets one again that it had.
    fn step(&mut self) {
        let nodes = self.all();
        let image = nodes[self.random.usize(..nodes.len())].image_id();
        self.snapshots += 1;
        let new = name(&format!("s{}", self.snapshots));
        let serial = nodes.iter().filter_map(|node| match node {
            NodeRef::Snapshot(of, serial) if *of == image => Some(*serial),
            _ => None,
        });
        let serials: Vec<_> = serial.collect();
        match self.random.u8(..4) {
            0 => {
                self.store.take_snapshot(image, &new).expect("a snapshot");
            }
            1 | 2 if !serials.is_empty() => {
                let serial = serials[self.random.usize(..serials.len())];
                let saved = self.random.bool().then_some(&new);
                let back = self.store.restore_snapshot(image, serial, saved);
                back.expect("it goes back");
            }
            _ => {
                let live = self.store.open_live(image).expect("it opens for writing");
                let fill = self.random.u8(1..4);
                live.write_at(&[fill; 4096], 0).expect("a write");
                live.flush().expect("a flush");
            }
        }
    }
}

/// Pushes everything at some time: clocks go wrong, too.
fn push_sometime(client: &Client, images: &mut Images) -> PushReport {
    let request = PushRequest {
        writer: Writer {
            time_ms: images.random.u64(1 << 40..1 << 41),
            ..request(PushSelection::All).writer
        },
        ..request(PushSelection::All)
    };
    let repository = client.open(client.objects()).expect("it opens");
    push(&repository, &images.store, &request, &Unwatched).expect("a push")
}

/// The content of each image's newest point, by the image's name.
fn newest(client: &Client) -> BTreeMap<String, String> {
    let state = client.open(client.objects()).expect("it opens").state();
    let points = state.points_oldest_first().into_iter();
    points
        .map(|point| (point.name.clone(), point.content.clone()))
        .collect()
}

/// The content of each image's own state, as the repository names it.
fn shown(images: &Images, client: &Client) -> BTreeMap<String, String> {
    let state = client.open(client.objects()).expect("it opens").state();
    super::trees::present(&images.store)
        .into_iter()
        .filter(|(_, serial, _)| serial.is_none())
        .filter_map(|(image, _, content)| {
            let mut points = state.points().filter(|point| point.image == image);
            Some((points.next()?.name.clone(), content))
        })
        .collect()
}

/// Whatever snapshots come along with a push, whatever an image went back to, and whatever clocks
/// show: what the image shows is its newest point, in the repository and in a copy that is made now
/// and then; and a push or a copy of what is there already says nothing.
#[test]
fn the_newest_point_of_an_image_is_what_it_shows() {
    let seed = seed();
    for round in 0..6 {
        let mut images = Images::new(seed.wrapping_add(round));
        let (client, other) = (Client::new(false), Client::new(false));
        let follow = || {
            let wish = CopyRequest {
                points: None,
                again: false,
                trust_others: false,
                limit_upload: None,
                writer: request(PushSelection::All).writer,
            };
            let [source, target] =
                [&client, &other].map(|client| client.open(client.objects()).expect("it opens"));
            copy(&source, &target, &wish, &Unwatched).expect("a copy")
        };
        for push in 0..12 {
            for _ in 0..images.random.u8(1..5) {
                images.step();
            }
            push_sometime(&client, &mut images);
            let expected = shown(&images, &client);
            assert_eq!(expected.len(), 2);
            let place = format!("seed {seed}, round {round}, push {push}");
            assert_eq!(newest(&client), expected, "{place}");
            let again = push_sometime(&client, &mut images);
            assert_eq!(
                (again.new_points, again.described_points),
                (0, 0),
                "{place}"
            );
            if images.random.bool() {
                follow();
                assert_eq!(newest(&other), expected, "{place}, in the copy");
                let again = follow();
                assert_eq!(
                    (again.new_points, again.described_points),
                    (0, 0),
                    "{place}"
                );
            }
        }
    }
}
