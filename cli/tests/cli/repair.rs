//! Tests of `vellum repair`: its output, its exit codes, and the remains when it is killed. The
//! repairs themselves are tested beside the store.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::sandbox::{Run, Sandbox, copy_folder};
use crate::server::Served;

const DISK_LEN: usize = 700 << 10;
/// Repairs that are killed, each a little later than the one before.
const KILLS: u32 = 25;

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.random_file("web.raw", DISK_LEN, 1);
    sandbox.succeed(["import", "web.raw", "web", "--snapshot", "mon"]);
    sandbox.succeed(["create", "child", "-b", "web@mon"]);
    sandbox
}

/// The files of the store's database whose names begin or end so.
fn files(sandbox: &Sandbox, part: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(sandbox.path("store/database")).expect("a database");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let has = |path: &PathBuf| path.to_string_lossy().contains(part);
    paths.filter(has).collect()
}

fn table_of(sandbox: &Sandbox, family: &str) -> PathBuf {
    let name = format!("name{family}");
    let has = |path: &PathBuf| {
        let bytes = fs::read(path).expect("it reads");
        bytes
            .windows(name.len())
            .any(|part| part == name.as_bytes())
    };
    let tables = files(sandbox, ".sst").into_iter().filter(has);
    tables
        .max_by_key(|path| path.metadata().map_or(0, |metadata| metadata.len()))
        .expect("every family has a table")
}

fn zero(path: &Path, from: usize, len: usize) {
    let mut bytes = fs::read(path).expect("it reads");
    bytes[from..from + len].fill(0);
    fs::write(path, bytes).expect("room");
}

/// Holds the store against what was imported, and writes to it.
fn expect_whole(sandbox: &Sandbox) {
    sandbox.succeed(["compare", "web", "web.raw"]);
    sandbox.succeed(["compare", "child", "web.raw"]);
    sandbox.succeed(["check", "--read-data"]);
    sandbox.succeed(["snapshot", "take", "web@after"]);
}

fn expect(run: &Run, code: i32, words: &[&str]) {
    assert_eq!(run.code, Some(code), "{run:?}");
    for word in words {
        assert!(run.stdout.contains(word), "{word:?} is not in {run:?}");
    }
}

#[test]
fn a_lost_manifest_is_made_anew_after_a_dry_run_that_changes_nothing() {
    let sandbox = sandbox();
    for path in files(&sandbox, "MANIFEST")
        .into_iter()
        .chain(files(&sandbox, "CURRENT"))
    {
        fs::remove_file(path).expect("it is there");
    }
    let refused = sandbox.run(["list"]);
    assert!(
        refused.code == Some(1) && refused.stderr.contains("vellum repair"),
        "{refused:?}"
    );
    let dry = sandbox.run(["repair"]);
    expect(
        &dry,
        4,
        &[
            "would repair: ",
            "nothing was changed; next: vellum repair --yes",
        ],
    );
    assert!(sandbox.run(["list"]).code == Some(1) && !sandbox.path("store/repair.new").exists());
    let repaired = sandbox.run(["repair", "--yes"]);
    expect(
        &repaired,
        0,
        &["repaired: ", "what was replaced", "then rm -r"],
    );
    expect_whole(&sandbox);
    expect(&sandbox.run(["repair", "--yes"]), 0, &["nothing to repair"]);
    let kept = fs::read_dir(sandbox.path("store")).expect("a folder");
    let kept = kept.filter(|entry| {
        let name = entry.as_ref().expect("an entry").file_name();
        name.to_string_lossy().starts_with("replaced-")
    });
    assert_eq!(kept.count(), 1, "what was replaced is kept, once");
}

#[test]
fn a_lost_marker_is_written_anew() {
    let sandbox = sandbox();
    fs::remove_file(sandbox.path("store/vellum.store")).expect("it is there");
    let refused = sandbox.run(["list"]);
    assert!(refused.stderr.contains("vellum repair"), "{refused:?}");
    expect(&sandbox.run(["repair"]), 4, &["would repair: vellum.store"]);
    expect(
        &sandbox.run(["repair", "--yes"]),
        0,
        &["repaired: vellum.store"],
    );
    expect_whole(&sandbox);
    let elsewhere = sandbox.run(["repair", "--store", "nowhere"]);
    assert_eq!(elsewhere.code, Some(10), "{elsewhere:?}");
}

#[test]
fn what_is_lost_is_named_until_another_store_has_it() {
    let sandbox = sandbox();
    copy_folder(&sandbox.path("store"), &sandbox.path("other"));
    zero(&table_of(&sandbox, "frames"), 150_000, 600);
    let lost = sandbox.run(["repair", "--yes"]);
    expect(
        &lost,
        3,
        &[
            "stays lost: ",
            "  hits web, bytes ",
            "  hits web@mon, bytes ",
        ],
    );
    assert!(sandbox.run(["export", "web", "web.out"]).code != Some(0));
    expect(
        &sandbox.run(["repair"]),
        3,
        &["stays lost: ", "nothing to repair"],
    );
    let healed = sandbox.run(["repair", "--yes", "--from", "other"]);
    expect(&healed, 0, &["healed from elsewhere"]);
    expect_whole(&sandbox);
}

#[test]
fn an_earlier_state_is_taken_only_if_it_is_accepted() {
    let sandbox = sandbox();
    let served = Served::start(&sandbox);
    for name in ["a", "b", "c", "d"] {
        sandbox.succeed(["snapshot", "take", &format!("web@{name}")]);
    }
    served.kill();
    let log = files(&sandbox, ".log");
    let log = log
        .iter()
        .max_by_key(|path| path.metadata().map_or(0, |data| data.len()));
    let log = log.expect("a log");
    let len = log.metadata().expect("it is there").len() as usize;
    zero(log, len / 2, 40);
    let refused = sandbox.run(["check", "--accept-earlier-state"]);
    assert!(refused.stderr.contains("vellum repair"), "{refused:?}");
    let dry = sandbox.run(["repair", "--yes"]);
    expect(
        &dry,
        4,
        &[
            "falls back: the last ",
            "snapshot web@d",
            "nothing was changed",
        ],
    );
    let accepted = sandbox.run(["repair", "--yes", "--accept-earlier-state"]);
    expect(&accepted, 0, &["falls back: snapshot web@d"]);
    assert!(!sandbox.names().contains(&"web@d".to_owned()));
    expect_whole(&sandbox);
}

#[test]
fn a_repair_that_is_killed_leaves_the_store_for_the_next() {
    let sandbox = sandbox();
    fs::remove_file(table_of(&sandbox, "layers")).expect("it is there");
    zero(&table_of(&sandbox, "headers"), 10, 20);
    copy_folder(&sandbox.path("store"), &sandbox.path("damaged"));
    for nth in 0..KILLS {
        fs::remove_dir_all(sandbox.path("store")).expect("a folder");
        copy_folder(&sandbox.path("damaged"), &sandbox.path("store"));
        let mut child = sandbox
            .command(["repair", "--yes", "--quiet"])
            .spawn()
            .expect("it starts");
        std::thread::sleep(Duration::from_millis(4 * u64::from(nth)));
        // It may have ended.
        let _ = child.kill();
        child.wait().expect("it was started here");
        let next = sandbox.run(["repair", "--yes"]);
        assert_eq!(next.code, Some(0), "{nth}: {next:?}");
        assert!(!sandbox.path("store/repair.new").exists(), "{nth}");
        expect(&sandbox.run(["repair"]), 0, &["nothing to repair"]);
        if nth % 5 == 0 {
            expect_whole(&sandbox);
        }
    }
}

#[test]
fn a_store_in_use_is_not_repaired() {
    let sandbox = sandbox();
    let _served = Served::start(&sandbox);
    sandbox.run(["repair"]).expect_error(11, "in use");
}
