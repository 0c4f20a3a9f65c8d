//! Images that follow a repository, or a stream, that they came from before.

use vellum_core::tree::NodeRef;
use vellum_store::{Store, Unwatched};

use super::grower::{contents, name, new_store};
use super::streams::sent;
use super::trees::assert_all_same;
use super::{Client, assert_same};
use crate::error::BackupError;
use crate::pull::{PullReport, PullRequest, pull};
use crate::push::PushSelection;
use crate::reader::Reader;
use crate::stream::receive;

fn follow(client: &Client, store: &Store) -> Result<PullReport, BackupError> {
    let repository = client.open(client.objects())?;
    let reader = Reader::new(&repository);
    let request = PullRequest {
        update: true,
        ..PullRequest::of(&reader, |_| true, true, str::to_owned)?
    };
    pull(&reader, store, &request, &Unwatched)
}

fn write(store: &Store, image: NodeRef, fill: u8) {
    let live = store
        .open_live(image.image_id())
        .expect("it opens for writing");
    live.write_at(&[fill; 5000], 100).expect("a write");
    live.flush().expect("a flush");
}

fn grow(store: &Store, image: NodeRef, fill: u8, snapshot: &str) {
    write(store, image, fill);
    let taken = store.take_snapshot(image.image_id(), &name(snapshot));
    taken.expect("a snapshot");
    write(store, image, fill + 100);
}

fn find(store: &Store, text: &str) -> NodeRef {
    store.find_node(text).expect("there")
}

/// A second pull of an image said that its name is taken.
#[test]
fn a_pulled_image_follows_with_its_new_snapshots_and_state() {
    let client = Client::new(true);
    let ((_dir, store), (_other_dir, other)) = (new_store(), new_store());
    let web = store.create_image(&name("web"), 1 << 20).expect("an image");
    grow(&store, web, 1, "mon");
    client.push(&store).expect("a push");
    follow(&client, &other).expect("what is not there comes");
    assert_all_same(&other, &store, "the first time");
    assert!(
        client.pull(&other, "").is_err(),
        "it is not asked to follow"
    );
    for (fill, text) in [(2, "tue"), (3, "wed")] {
        grow(&store, web, fill, text);
        client.push(&store).expect("a push");
        let report = follow(&client, &other).expect("it follows");
        assert_eq!(report.nodes.len(), 1);
        assert_all_same(&other, &store, text);
        let again = follow(&client, &other).expect("nothing is new");
        assert_eq!(again.contents.0, 0);
        assert_all_same(&other, &store, text);
    }
}

/// Nothing goes that only the store that follows has.
#[test]
fn what_was_changed_or_is_another_disk_does_not_follow() {
    let client = Client::new(false);
    let ((_dir, store), (_other_dir, other)) = (new_store(), new_store());
    let web = store.create_image(&name("web"), 1 << 20).expect("an image");
    grow(&store, web, 1, "mon");
    client.push(&store).expect("a push");
    follow(&client, &other).expect("what is not there comes");
    let here = find(&other, "web");
    write(&other, here, 77);
    grow(&store, web, 2, "tue");
    client.push(&store).expect("a push");
    let before = contents(&other);
    let refused = follow(&client, &other);
    assert!(
        matches!(refused, Err(BackupError::Diverged { .. })),
        "{refused:?}"
    );
    assert_eq!(contents(&other), before);
    let mine = other.take_snapshot(here.image_id(), &name("mine"));
    mine.expect("a snapshot");
    follow(&client, &other).expect("its state is kept");
    assert_same(&contents(&other)["web@mine"], &before["web"], "mine");
    assert_same(
        &contents(&other)["web"],
        &contents(&store)["web"],
        "followed",
    );

    let (_third_dir, third) = new_store();
    let stranger = third.create_image(&name("web"), 1 << 20).expect("an image");
    grow(&third, stranger, 9, "mon");
    let refused = follow(&client, &third);
    assert!(
        matches!(refused, Err(BackupError::Diverged { .. })),
        "{refused:?}"
    );
}

#[test]
fn an_increment_follows_its_base_and_says_what_it_is_without() {
    let ((_dir, store), (_other_dir, other)) = (new_store(), new_store());
    let web = store.create_image(&name("web"), 1 << 20).expect("an image");
    grow(&store, web, 1, "mon");
    let mon = vec![find(&store, "web@mon")];
    let first = sent(&store, PushSelection::Nodes(mon), &[], None);
    let base = store
        .tree()
        .layer_of(find(&store, "web@mon"))
        .and_then(|layer| layer.content);
    let base = base.expect("an identity");
    grow(&store, web, 2, "tue");
    let nodes = vec![find(&store, "web@tue"), web];
    let increment = sent(&store, PushSelection::Nodes(nodes), &[base], None);
    let take = |bytes: &[u8]| {
        let choose = |reader: &Reader<'_>| {
            Ok(PullRequest {
                update: true,
                ..PullRequest::of(reader, |_| true, true, str::to_owned)?
            })
        };
        receive(&other, &mut &*bytes, None, None, &choose, &Unwatched)
    };
    let refused = take(&increment);
    assert!(
        matches!(refused, Err(BackupError::MissingBase { .. })),
        "{refused:?}"
    );
    take(&first).expect("all of it");
    take(&increment).expect("it follows");
    assert_all_same(&other, &store, "followed");
}
