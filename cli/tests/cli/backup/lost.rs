//! What a person sees of a repository that lost something: the damage is told, the next push or a
//! repair brings it back and says so, and what stays lost is told by its exit code.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::{Site, files};

/// A repository with one disk in it, and its packs.
fn pushed() -> (TempDir, Site, Vec<PathBuf>) {
    let folder = tempfile::tempdir().expect("a folder");
    let site = Site::new(&folder.path().join("backup").display().to_string());
    site.sandbox.random_file("disk.raw", 1 << 20, 7);
    let words = ["import", "disk.raw", "web", "--snapshot", "monday"];
    site.sandbox.succeed(words);
    site.succeed("backup init");
    site.succeed("backup push --all");
    let packs = files(&folder.path().join("backup/packs"));
    assert_eq!(packs.len(), 1);
    (folder, site, packs)
}

fn flip(path: &PathBuf) {
    let mut bytes = fs::read(path).expect("it reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).expect("room");
}

fn restores(site: &Site) {
    site.succeed("backup restore web@monday out.raw --force");
    let (out, disk) = (site.sandbox.path("out.raw"), site.sandbox.path("disk.raw"));
    assert!(fs::read(out).expect("restored") == fs::read(disk).expect("it is there"));
}

/// A flipped bit is found by who reads all, and comes back with the next push, new or not.
#[test]
fn what_rots_comes_back_with_the_next_push_after_a_verification() {
    let (_folder, site, packs) = pushed();
    flip(&packs[0]);
    assert_eq!(site.run("backup verify").code, Some(0), "nobody read it");
    let found = site.run("backup verify --read-data");
    assert!(
        found.code == Some(4) && found.stdout.contains("web@monday"),
        "{found:?}"
    );
    let told = site.run("backup verify");
    assert_eq!(told.code, Some(4), "it was noted: {told:?}");
    let shown = site.succeed("backup push --all");
    assert!(
        shown.starts_with("sent 1") && shown.contains("MiB again that the repository had lost"),
        "{shown}"
    );
    assert!(shown.contains("nothing is new"), "{shown}");
    restores(&site);
    site.succeed("backup verify --read-data");
    site.succeed("backup prune");
    assert!(!packs[0].exists(), "what rotted is of no use any more");
    site.succeed("backup verify --read-data");
    restores(&site);
}

/// A file that is gone or cut is seen by the next push of something new; by a repair, too.
#[test]
fn what_is_gone_or_cut_comes_back_with_the_next_push_of_something_new_or_a_repair() {
    for is_repair in [false, true] {
        for is_cut in [false, true] {
            let (_folder, site, packs) = pushed();
            if is_cut {
                let file = fs::OpenOptions::new().write(true).open(&packs[0]);
                file.and_then(|file| file.set_len(1000))
                    .expect("it is there");
            } else {
                fs::remove_file(&packs[0]).expect("it is there");
            }
            let shown = if is_repair {
                let store = site.sandbox.path("store").display().to_string();
                site.succeed(&format!("backup verify --repair --from {store}"))
            } else {
                site.sandbox.succeed(["snapshot", "take", "web@tuesday"]);
                site.sandbox.random_file("new.raw", 1 << 16, 8);
                site.sandbox.succeed(["import", "new.raw", "new"]);
                site.succeed("backup push --all")
            };
            assert!(
                shown.contains("again that the repository had lost"),
                "{shown}"
            );
            restores(&site);
            site.succeed("backup verify --read-data");
        }
    }
}

/// What nobody has any more is told by every command that meets it.
#[test]
fn what_stays_lost_is_told() {
    let (_folder, site, packs) = pushed();
    fs::remove_file(&packs[0]).expect("it is there");
    site.sandbox.succeed(["rm", "web@monday"]);
    site.sandbox.succeed(["rm", "web"]);
    site.sandbox.succeed(["gc"]);
    site.sandbox.random_file("new.raw", 1 << 16, 8);
    site.sandbox.succeed(["import", "new.raw", "new"]);
    let pushed = site.run("backup push --all");
    assert!(
        pushed.code == Some(0) && pushed.stderr.contains("may not restore"),
        "{pushed:?}"
    );
    let store = site.sandbox.path("store").display().to_string();
    let repaired = site.run(&format!("backup verify --repair --from {store}"));
    assert!(
        repaired.code == Some(4) && repaired.stdout.contains("web@monday"),
        "{repaired:?}"
    );
    site.run("backup prune").expect_error(1, "verify");
}

/// Files of puts that were killed go with the next push, prune or verification.
#[test]
fn files_of_killed_puts_go() {
    for words in ["backup prune", "backup verify", "backup push --all"] {
        let (_folder, site, packs) = pushed();
        let left = packs[0].with_file_name(".partial-0123456789abcdef");
        fs::write(&left, "half").expect("room");
        site.sandbox.random_file("new.raw", 1 << 16, 8);
        site.sandbox.succeed(["import", "new.raw", "new"]);
        site.succeed(words);
        assert!(!left.exists(), "{words}");
    }
}
