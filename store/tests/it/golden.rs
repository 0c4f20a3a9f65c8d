//! Golden store: a whole store that the first version wrote, kept for ever: every later version
//! must open it, find nothing wrong and show the same.
//!
//! `cargo test --release --workspace --test it -- --ignored write_golden_store` makes it if it is
//! not there. Before the first release, a format may still change: then delete the folder and make
//! it again. Afterwards a new format gets a folder of its own.

use std::path::{Path, PathBuf};

use vellum_core::hash::ChunkHash;
use vellum_core::tree::NodeRef;
use vellum_store::{Access, ExportTarget, ImportRequest, ImportTarget, Store, Unwatched};

use super::content::{Content, Pool};
use super::{drive, scratch};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// `name length hash` of everything in a store, as its exports are.
fn contents(store: &Store) -> String {
    let nodes: Vec<NodeRef> = store.tree().all_nodes().collect();
    let line = |node: NodeRef| {
        let sink = drive::Sink::default();
        store
            .export_image(
                node,
                ExportTarget::Stream(Box::new(sink.clone())),
                &Unwatched,
            )
            .expect("a whole store can be exported");
        let bytes = std::mem::take(&mut *sink.0.lock().expect("no writer panics"));
        format!(
            "{} {} {}",
            store.tree().display_name(node),
            bytes.len(),
            ChunkHash::of_chunk(&bytes)
        )
    };
    nodes
        .into_iter()
        .map(line)
        .collect::<Vec<String>>()
        .join("\n")
        + "\n"
}

#[test]
fn the_store_of_version_1_is_opened_checked_and_exported_identically() {
    let expected = std::fs::read_to_string(golden().join("store-1.txt"))
        .expect("the golden store has its list");
    let folder = scratch::folder();
    let dir = folder.path().join("store");
    scratch::copy(&golden().join("store-1"), &dir).expect("a store can be copied");
    let reading = Store::open_dir(&dir, Access::ReadOnly, "test").expect("opens for reading");
    assert_eq!(contents(&reading), expected);
    drop(reading);
    let store = scratch::open(&dir);
    let report = drive::check(&store, true).expect("checked");
    assert_eq!(report.findings, []);
    assert!(report.chunks_read > 0);
    assert_eq!(contents(&store), expected);
    // It can be gone on with.
    let image = drive::image(&store, "root").expect("it is there");
    store
        .take_snapshot(image, &drive::name("today"))
        .expect("a snapshot");
}

#[test]
#[ignore = "writes into the source tree"]
fn write_golden_store() {
    let dir = golden().join("store-1");
    if dir.exists() {
        return;
    }
    let store = scratch::store_in(&dir, scratch::ZSTD);
    let (pool, mut random) = (Pool::new(4096), fastrand::Rng::with_seed(2026));
    let import = |name: &str, parent, bytes: Vec<u8>| {
        let request = ImportRequest {
            target: ImportTarget::New {
                name: drive::name(name),
                parent,
            },
            snapshot: None,
        };
        store
            .import(
                drive::input(Content::plain(bytes), false),
                &request,
                &Unwatched,
            )
            .expect("imported")
            .node
    };
    let mut bytes = vec![0; 150_001];
    (0..3).for_each(|_| pool.change(&mut random, &mut bytes[..60_000]));
    fastrand::Rng::with_seed(1).fill(&mut bytes[70_000..95_000]);
    let root = import("root", None, bytes.clone());
    bytes[..9000].fill(0);
    bytes[140_000..].fill(9);
    import("child", Some(root), bytes);
    store
        .take_snapshot(root.image_id(), &drive::name("first"))
        .expect("a snapshot");
    let disk = store.open_live(root.image_id()).expect("opens for writing");
    disk.write_at(b"written in place", 5000)
        .and_then(|()| disk.write_zeroes(10_000, 30_000))
        .and_then(|()| disk.flush())
        .expect("written");
    drop(disk);
    store
        .change_tags(root, &[drive::name("golden")], &[])
        .expect("tagged");
    store
        .create_image(&drive::name("empty"), 777)
        .expect("created");
    std::fs::write(golden().join("store-1.txt"), contents(&store)).expect("a file can be written");
    drop(store);
    // A version that opens it needs none of these.
    for entry in std::fs::read_dir(dir.join("database"))
        .expect("a folder")
        .chain(std::fs::read_dir(&dir).expect("a folder"))
    {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        if ["LOG", "OPTIONS", "LOCK", "lock", "reserve"]
            .iter()
            .any(|start| name.starts_with(start))
        {
            std::fs::remove_file(path).expect("a file can be removed");
        }
    }
}
