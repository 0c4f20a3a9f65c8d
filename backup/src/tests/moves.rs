//! Readers beside collections that move what they read.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use vellum_core::device::{Exports, Intent};
use vellum_store::{Store, Unwatched};

use super::grower::{contents, name, new_store};
use super::{Client, assert_same, request};
use crate::device::RepositoryExports;
use crate::forget::{ForgetWish, forget};
use crate::objects::memory::{Memory, Request};
use crate::objects::{ObjectError, Objects};
use crate::prune::{PruneOptions, prune};
use crate::push::PushSelection;
use crate::reader::CacheLimits;
use crate::verify::{VerifyOptions, verify};

/// A place that does something once, before the first request whose name begins so.
struct Interposed {
    place: Arc<Memory>,
    at: &'static str,
    act: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Interposed {
    fn meet(&self, name: &str) {
        if name.starts_with(self.at)
            && let Some(act) = self.act.lock().expect("nobody panics here").take()
        {
            act();
        }
    }
}

impl Objects for Interposed {
    fn get(&self, name: &str) -> Result<Vec<u8>, ObjectError> {
        self.meet(name);
        self.place.get(name)
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>, ObjectError> {
        self.meet(name);
        self.place.get_range(name, range)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        self.place.put(name, bytes)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        self.place.replace(name, bytes)
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(&str, u64) -> Result<(), ObjectError>,
    ) -> Result<(), ObjectError> {
        self.place.list(prefix, visit)
    }

    fn delete(&self, name: &str) -> Result<(), ObjectError> {
        self.place.delete(name)
    }

    fn describe(&self) -> String {
        self.place.describe()
    }
}

/// Generations of one disk, each with something of its own.
fn grow(client: &Client, store: &Store) {
    let mut random = fastrand::Rng::with_seed(7);
    let web = store.create_image(&name("web"), 1 << 20).expect("an image");
    for generation in 0..6_u64 {
        let live = store
            .open_live(web.image_id())
            .expect("it opens for writing");
        let mut bytes = vec![0; 90_000];
        random.fill(&mut bytes);
        live.write_at(&bytes, generation * 60_000).expect("a write");
        live.flush().expect("a flush");
        drop(live);
        let text = name(&format!("g{generation}"));
        store
            .take_snapshot(web.image_id(), &text)
            .expect("a snapshot");
        client.push(store).expect("a push");
    }
}

/// Forgets all but the newest points, and moves what they need.
fn collect(client: &Client) {
    let repository = client.open(client.objects()).expect("it opens");
    let state = repository.state();
    let goes = state.points().filter(|point| {
        let snapshot = point.snapshot.as_ref().map(|snapshot| snapshot.serial);
        let all = state.points().filter_map(|point| point.snapshot.as_ref());
        snapshot.is_some() && snapshot != all.map(|snapshot| snapshot.serial).max()
    });
    let wish = ForgetWish::Points(goes.map(|point| point.id.clone()).collect());
    let writer = request(PushSelection::All).writer;
    forget(&repository, &wish, writer.clone()).expect("nothing is pinned");
    let options = PruneOptions {
        max_unused_percent: 0,
        ..PruneOptions::default()
    };
    for _ in 0..2 {
        prune(&repository, &options, writer.clone(), &Unwatched).expect("a collection");
    }
}

/// A mounted point that stays could not be opened after a collection.
#[test]
fn points_that_stay_are_opened_and_read_after_collections() {
    let (_dir, store) = new_store();
    let client = Client::new(true);
    grow(&client, &store);
    let expected = &contents(&store)["web@g5"];
    let reader = client.other();
    let repository = reader.open(reader.objects()).expect("it opens");
    let exports = RepositoryExports::new(repository, CacheLimits::default()).expect("exports");
    collect(&client);
    let device = exports
        .open_export("web@g5", Intent::Read)
        .expect("it is there");
    let mut bytes = vec![0; expected.len()];
    device.read_at(&mut bytes, 0).expect("it reads");
    assert_same(&bytes, expected, "after a collection");
}

/// A verification beside a collection found damage where there was none.
#[test]
fn a_verification_beside_a_collection_finds_nothing() {
    for at in ["maps/", "packs/", "index/", "journal/"] {
        let (_dir, store) = new_store();
        let client = Client::new(true);
        grow(&client, &store);
        let reader = client.other();
        let other = client.other();
        let place = Arc::new(Interposed {
            place: reader.place.clone(),
            at,
            act: Mutex::default(),
        });
        let repository = reader.open(place.clone()).expect("it opens");
        *place.act.lock().expect("nobody panics here") = Some(Box::new(move || collect(&other)));
        let options = VerifyOptions {
            read_data: true,
            ..VerifyOptions::default()
        };
        let report = verify(&repository, &options, &Unwatched).expect("the place answers");
        assert_eq!(report.findings, [], "{at}");
    }
}

/// A pack that is written anew is fetched, not asked for frame by frame.
#[test]
fn a_collection_reads_a_pack_in_few_requests() {
    let (_dir, store) = new_store();
    let client = Client::new(true);
    grow(&client, &store);
    let count = |folder: &str| {
        let objects = client.place.snapshot();
        objects
            .keys()
            .filter(|name| name.starts_with(folder))
            .count()
    };
    let packs = count("packs/");
    client.place.take_log();
    collect(&client);
    assert!(count("packs/") < packs, "nothing moved");
    let log = client.place.take_log();
    let asked = log
        .iter()
        .filter(|(request, name)| *request == Request::GetRange && name.starts_with("packs/"));
    let asked = asked.count();
    assert!(asked <= packs, "{asked} requests for {packs} packs");
}
