//! Places that answer several requests at once, as object stores do: nothing is asked for twice.

use std::io::{self, Write};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use vellum_core::identity::ContentId;
use vellum_store::{Store, Unwatched};

use super::grower::{name, new_store};
use super::{Client, assert_same};
use crate::BackupError;
use crate::objects::memory::{Memory, Request};
use crate::objects::{ObjectError, ObjectName, Objects};
use crate::reader::Reader;
use crate::restore::{RestoreTarget, restore};

const LEN: u64 = 256 << 20;
const CHUNK: usize = 4096;

/// A place in memory that says that it is far away.
struct Far(Arc<Memory>);

impl Objects for Far {
    fn get(&self, name: &str) -> Result<Vec<u8>, ObjectError> {
        self.0.get(name)
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>, ObjectError> {
        self.0.get_range(name, range)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        self.0.put(name, bytes)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        self.0.replace(name, bytes)
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(&str, u64) -> Result<(), ObjectError>,
    ) -> Result<(), ObjectError> {
        self.0.list(prefix, visit)
    }

    fn delete(&self, name: &str) -> Result<(), ObjectError> {
        self.0.delete(name)
    }

    fn requests_together(&self) -> usize {
        8
    }

    fn describe(&self) -> String {
        "far".to_owned()
    }
}

/// A stream that is looked at afterwards.
#[derive(Clone, Default)]
struct Stream(Arc<Mutex<Vec<u8>>>);

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("nobody panics").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A disk with some random chunks in every window of a stream, and its bytes.
fn scattered(store: &Store) -> Vec<u8> {
    let image = store.create_image(&name("web"), LEN).expect("an image");
    let live = store.open_live(image.image_id()).expect("it opens");
    let mut random = fastrand::Rng::with_seed(3);
    let mut bytes = vec![0; LEN as usize];
    for chunk in (0..LEN as usize / CHUNK).step_by(128) {
        let at = chunk * CHUNK;
        random.fill(&mut bytes[at..at + CHUNK]);
        live.write_at(&bytes[at..at + CHUNK], at as u64)
            .expect("a write");
    }
    live.flush().expect("a flush");
    bytes
}

fn restore_to_stream(client: &Client) -> Result<Vec<u8>, BackupError> {
    let repository = client.open(Arc::new(Far(client.place.clone())))?;
    let state = repository.state();
    let content = &state.points().next().expect("it was pushed").content;
    let content = ContentId::parse(content).expect("a content");
    let stream = Stream::default();
    let target = RestoreTarget::Stream(Box::new(stream.clone()));
    client.place.take_log();
    restore(&Reader::new(&repository), content, target, &Unwatched)?;
    drop(repository);
    let bytes = std::mem::take(&mut *stream.0.lock().expect("nobody panics"));
    Ok(bytes)
}

#[test]
fn a_stream_is_restored_with_one_request_for_neighbours_in_a_pack() {
    let (_dir, store) = new_store();
    let expected = scattered(&store);
    let client = Client::new(true);
    client.push(&store).expect("a push");
    let found = restore_to_stream(&client).expect("a restore");
    assert_same(&found, &expected, "from far away");
    let is_pack = |(request, name): &(Request, String)| {
        *request == Request::GetRange && name.starts_with("packs/")
    };
    let log = client.place.take_log();
    let ranges = log.iter().filter(|asked| is_pack(asked)).count();
    let packs = client.place.snapshot();
    let packs = packs.keys().filter(|name| name.starts_with("packs/"));
    assert_eq!(ranges, packs.count(), "each pack is short: {log:?}");
}

#[test]
fn a_stream_of_a_damaged_pack_ends_with_its_name() {
    let (_dir, store) = new_store();
    scattered(&store);
    let client = Client::new(true);
    client.push(&store).expect("a push");
    let names = client.place.snapshot().into_keys();
    let packs = names.filter(|name| matches!(ObjectName::parse(name), Some(ObjectName::Pack(_))));
    let packs: Vec<String> = packs.collect();
    for pack in &packs {
        let mut bytes = client.place.get(pack).expect("it is there");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        client.place.replace(pack, &bytes).expect("it takes it");
    }
    let error = restore_to_stream(&client).expect_err("damage");
    let told = error.to_string();
    assert!(packs.iter().any(|pack| told.contains(pack)), "{told}");
    for pack in &packs {
        client.place.delete(pack).expect("it takes it");
    }
    let error = restore_to_stream(&client).expect_err("damage");
    let told = error.to_string();
    assert!(packs.iter().any(|pack| told.contains(pack)), "{told}");
}
