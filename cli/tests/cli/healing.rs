//! Healing of damaged chunks of a store that are somewhere else: brought again, or found in a
//! source.

use std::fs;
use std::path::{Path, PathBuf};

use crate::sandbox::Sandbox;
use crate::server::Served;

const DISK_LEN: usize = 3 << 20;

/// A store with a disk in it, of which the file is there.
fn sandbox() -> (Sandbox, PathBuf) {
    let sandbox = Sandbox::new();
    let disk = sandbox.random_file("disk.raw", DISK_LEN, 5);
    sandbox.succeed(["import", "disk.raw", "web", "--snapshot", "mon"]);
    (sandbox, disk)
}

/// The table of a store's frames.
fn frames_table(store: &Path) -> PathBuf {
    let entries = fs::read_dir(store.join("database")).expect("a store has a database");
    let tables = entries.map(|entry| entry.expect("readable").path());
    let holds_frames = |path: &PathBuf| {
        let bytes = fs::read(path).expect("readable");
        path.extension().is_some_and(|ext| ext == "sst")
            && bytes.windows(10).any(|part| part == b"nameframes")
    };
    let len = |path: &PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.len());
    tables
        .filter(holds_frames)
        .max_by_key(len)
        .expect("frames are in a table")
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).expect("room");
}

fn wound(sandbox: &Sandbox) {
    flip(&frames_table(&sandbox.path("store")));
}

fn assert_whole(sandbox: &Sandbox, disk: &Path, node: &str) {
    sandbox.succeed(["export", node, "out.raw", "--force"]);
    let (found, expected) = (fs::read(sandbox.path("out.raw")), fs::read(disk));
    assert!(
        found.expect("exported") == expected.expect("it is there"),
        "{node}"
    );
    sandbox.succeed(["check", "--read-data"]);
}

/// The reproduction of the issue: everything that brought the right bytes again said success, and
/// stored nothing.
#[test]
fn importing_what_is_damaged_again_heals_it() {
    let ways: [(&[&str], &[&str]); 4] = [
        (&["check", "--read-data"], &["import", "disk.raw", "again"]),
        (
            &["export", "web", "x.raw"],
            &["import", "disk.raw", "again"],
        ),
        (&[], &["import", "disk.raw", "again", "--verify"]),
        (
            &["check", "--read-data"],
            &["import", "disk.raw", "web", "--update"],
        ),
    ];
    for (look, bring) in ways {
        let (sandbox, disk) = sandbox();
        wound(&sandbox);
        if !look.is_empty() {
            assert_ne!(sandbox.run(look).code, Some(0), "{look:?} found nothing");
        }
        let told = sandbox.succeed(bring);
        assert!(told.contains("healed"), "{bring:?}: {told}");
        assert_whole(&sandbox, &disk, "web@mon");
    }
}

#[test]
fn a_store_a_repository_and_a_file_are_sources() {
    for kind in ["store", "repository", "file"] {
        let (sandbox, disk) = sandbox();
        let place = match kind {
            "store" => {
                sandbox.succeed(["init", "--store", "other"]);
                sandbox.succeed(["import", "disk.raw", "same", "--store", "other"]);
                "other"
            }
            "repository" => {
                fs::write(sandbox.path("password"), "secret\n").expect("room");
                sandbox.succeed(["backup", "init", "repo", "--password-file", "password"]);
                sandbox.succeed([
                    "backup",
                    "push",
                    "repo",
                    "--all",
                    "--password-file",
                    "password",
                ]);
                "repo"
            }
            _ => "disk.raw",
        };
        let add = ["source", "add", place];
        let secret: &[&str] = match kind {
            "repository" => &["--password-file", "password"],
            _ => &[],
        };
        sandbox.succeed(add.iter().chain(secret));
        assert!(sandbox.succeed(["source", "list"]).contains(kind));
        wound(&sandbox);
        let run = sandbox.run(["export", "web", "out.raw"]);
        assert_eq!(run.code, Some(0), "{kind}: {}", run.stderr);
        assert!(run.stderr.contains("come from"), "{kind}: {}", run.stderr);
        // Only read so far: the next who writes heals it, and without the source it stays healed.
        let server = Served::start(&sandbox);
        let run = sandbox.run(["compare", "web", "disk.raw"]);
        assert_eq!(run.code, Some(0), "{kind}: {}", run.stderr);
        // It says so where it runs.
        assert!(server.stop_saying().contains("healed"), "{kind}");
        sandbox.succeed(["source", "remove", place]);
        assert!(sandbox.succeed(["source", "list"]).contains("no sources"));
        assert_whole(&sandbox, &disk, "web@mon");
    }
}

#[test]
fn sources_that_cannot_be_are_refused() {
    let (sandbox, _) = sandbox();
    sandbox
        .run(["source", "add", "missing"])
        .expect_error(1, "missing");
    sandbox
        .run(["source", "add", "store"])
        .expect_error(2, "a store is no source of its own");
    sandbox
        .run(["source", "add", "disk.raw", "--password-file", "p"])
        .expect_error(2, "password");
    sandbox.succeed(["source", "add", "disk.raw"]);
    sandbox
        .run(["source", "add", "./disk.raw"])
        .expect_error(1, "already");
    sandbox
        .run(["source", "remove", "other"])
        .expect_error(1, "no source");
    sandbox.succeed(["source", "add", "--file", "later.raw", "--unseen"]);
    let list: serde_json::Value =
        serde_json::from_str(&sandbox.succeed(["source", "list", "--json"])).expect("JSON");
    assert_eq!(list["sources"].as_array().map(Vec::len), Some(2), "{list}");
}
