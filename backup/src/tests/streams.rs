//! Points sent as one file, and what happens to files on their way.

use std::sync::{Arc, Mutex};

use vellum_core::identity::ContentId;
use vellum_core::tree::NodeRef;
use vellum_store::{Store, Unwatched};

use super::grower::{Grower, contents, name, new_store, read_all, shape};
use super::{assert_same, request};
use crate::error::BackupError;
use crate::pull::{PullReport, PullRequest};
use crate::push::PushSelection;
use crate::reader::Reader;
use crate::repository::FirstKey;
use crate::seal::{KeyFile, Opener, PasswordCost};
use crate::stream::{receive, send};
use crate::testing::seed;

/// A stream in memory.
#[derive(Clone, Default)]
pub(super) struct Sink(pub(super) Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .lock()
            .expect("nobody panicked")
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(super) fn sent(
    store: &Store,
    selection: PushSelection,
    assumed: &[ContentId],
    key: Option<&FirstKey>,
) -> Vec<u8> {
    let sink = Sink::default();
    let request = crate::push::PushRequest {
        assumed: assumed.iter().copied().collect(),
        ..request(selection)
    };
    send(store, &request, key, Box::new(sink.clone()), &Unwatched).expect("a stream");
    std::mem::take(&mut *sink.0.lock().expect("nobody panicked"))
}

pub(super) fn received(
    store: &Store,
    bytes: &[u8],
    opener: Option<&Opener>,
    prefix: &str,
) -> Result<PullReport, BackupError> {
    let choose = |reader: &Reader<'_>| {
        PullRequest::of(reader, |_| true, true, |text| format!("{prefix}{text}"))
    };
    receive(store, &mut &*bytes, opener, None, &choose, &Unwatched)
}

fn key() -> FirstKey {
    FirstKey {
        opener: Opener::KeyFile(KeyFile::generate().expect("random bytes")),
        label: "s".to_owned(),
        cost: PasswordCost::default(),
    }
}

#[test]
fn whole_trees_and_increments_arrive() {
    let mut grower = Grower::new(seed());
    (0..15).for_each(|_| grower.step());
    let source = &grower.store;
    let key = key();
    let (_dir, store) = new_store();
    received(
        &store,
        &sent(source, PushSelection::All, &[], Some(&key)),
        Some(&key.opener),
        "",
    )
    .expect("it arrives");
    let (found, expected) = (contents(&store), contents(source));
    assert!(found.keys().eq(expected.keys()));
    expected
        .iter()
        .for_each(|(text, bytes)| assert_same(&found[text], bytes, text));
    assert_eq!(shape(&store), shape(source));

    // An increment from one snapshot to the next.
    let image = source
        .create_image(&name("increment"), 8 << 20)
        .expect("create")
        .image_id();
    let write = |byte: u8, at: u64| {
        let live = source.open_live(image).expect("live");
        live.write_at(&vec![byte; 300_000], at)
            .and_then(|()| live.flush())
            .expect("write");
    };
    write(1, 0);
    let first = source.take_snapshot(image, &name("a")).expect("snapshot");
    write(2, 1 << 20);
    let second = source.take_snapshot(image, &name("b")).expect("snapshot");
    let content = source
        .tree()
        .layer_of(first)
        .and_then(|layer| layer.content)
        .expect("an identity");
    let increment = sent(source, PushSelection::Nodes(vec![second]), &[content], None);
    let refused = received(&store, &increment, None, "b-");
    assert!(
        matches!(refused, Err(BackupError::MissingBase { .. })),
        "without the first: {refused:?}"
    );
    assert!(store.tree().image_named(&name("b-increment")).is_none());
    received(
        &store,
        &sent(source, PushSelection::Nodes(vec![first]), &[], None),
        None,
        "a-",
    )
    .expect("the first");
    let report = received(&store, &increment, None, "b-").expect("the increment");
    assert!(
        report.chunks.0 + report.chunks.1 < 100,
        "it has what is new only: {report:?}"
    );
    let there = store.find_node("b-increment").expect("it is there");
    assert_same(
        &read_all(&store, there),
        &read_all(source, second),
        "increment",
    );
}

#[test]
fn damaged_and_cut_streams_are_refused_with_nothing_done() {
    let mut grower = Grower::new(seed());
    let image = grower
        .store
        .create_image(&name("small"), 70_000)
        .expect("create")
        .image_id();
    grower
        .store
        .open_live(image)
        .and_then(|live| {
            live.write_at(b"some bytes", 5000)
                .and_then(|()| live.flush())
        })
        .expect("write");
    let whole = sent(
        &grower.store,
        PushSelection::Nodes(vec![NodeRef::Image(image)]),
        &[],
        None,
    );
    let (_dir, store) = new_store();
    let refuse = |bytes: &[u8], what: &str| {
        let refused = received(&store, bytes, None, "");
        assert!(
            refused.is_err() && store.tree().image_count() == 0,
            "{what}: {refused:?}"
        );
    };
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << grower.random.u8(..8);
        refuse(&damaged, &format!("a flipped bit at {at}"));
    }
    (0..whole.len())
        .step_by(7)
        .for_each(|len| refuse(&whole[..len], &format!("{len} bytes")));
    refuse(&[&whole[..], b"x"].concat(), "one byte more");
    received(&store, &whole, None, "").expect("the whole one");
}
