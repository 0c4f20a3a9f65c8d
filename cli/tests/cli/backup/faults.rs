//! Faults of repositories: an error that names the object or the place, the right exit code, and
//! nothing half done.

use std::os::unix::fs::symlink;

use super::{Site, files};
use crate::sandbox::{Run, copy_folder};

fn pushed() -> (tempfile::TempDir, Site) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let site = Site::new(&folder.path().join("backup").display().to_string());
    site.grow_tree(3);
    site.succeed("backup init");
    site.succeed("backup push --all");
    (folder, site)
}

#[test]
fn each_mistake_is_told_and_changes_nothing() {
    let (folder, site) = pushed();
    let (before, store) = (files(folder.path()), site.sandbox.names());
    std::fs::create_dir(site.sandbox.path("plain")).expect("room");
    symlink("other.raw", site.sandbox.path("link")).expect("room");
    for (code, words, what) in [
        (10, "backup list ./nowhere", "nowhere"),
        (10, "backup push ./nowhere --all", "nowhere"),
        (10, "backup restore ./nowhere web out.raw", "nowhere"),
        (10, "backup list ./plain", "plain"),
        (1, "backup init", "already"),
        (2, "backup push", "nothing is named"),
        (2, "backup push web --all", "--all"),
        (1, "backup push nothing", "\"nothing\""),
        (2, "backup push web@first", "is a snapshot"),
        (1, "backup push --machine nothing", "\"nothing\""),
        (2, "backup pull", "not clear"),
        (1, "backup pull nothing", "\"nothing\""),
        (1, "backup pull web", "web exists already"),
        (2, "backup pull web child --as one", "--as names one image"),
        (1, "backup restore nothing out.raw", "\"nothing\""),
        (1, "backup restore web@nothing out.raw", "\"web@nothing\""),
        (1, "backup restore web other.raw", "other.raw"),
        (1, "backup restore web link", "link"),
        (1, "backup restore web .", "directory"),
        (1, "backup restore web missing/out.raw", "missing"),
        (2, "backup restore web", "other words"),
        (2, "backup forget", "neither rules"),
        (1, "backup forget nothing", "\"nothing\""),
        (1, "backup forget nothing --keep-last 1", "\"nothing\""),
        (1, "backup forget web@first", "pinned"),
        (1, "backup prune --fence 0123", "\"0123\""),
        (1, "backup key remove 0123", "\"0123\""),
        (1, "backup info nothing", "\"nothing\""),
        (2, "backup list s3://", "bucket"),
        (2, "backup list ftp://host/x", "s3://"),
        (2, "backup list s3://key:secret@bucket/x", "credentials"),
        (1, "send nothing", "\"nothing\""),
        (2, "send web@second..@first", "not younger"),
        (1, "receive", "stream"),
    ] {
        let run = site.run(words);
        assert!(!format!("{run:?}").contains("secret"), "{run:?}");
        run.expect_error(code, what);
        assert_eq!(
            (files(folder.path()).len(), site.sandbox.names()),
            (before.len(), store.clone()),
            "vellum {words}"
        );
    }
    assert!(!site.sandbox.path("out.raw").exists());
    assert!(
        files(&site.sandbox.path(""))
            .iter()
            .all(|file| !file.display().to_string().ends_with(".partial"))
    );
}

#[test]
fn a_wrong_key_has_an_exit_code_of_its_own() {
    let (_folder, site) = pushed();
    let with = |password: Option<&str>, words: &str| {
        let mut command = site.command(words);
        match password {
            Some(password) => command.env("VELLUM_PASSWORD", password),
            None => command.env_remove("VELLUM_PASSWORD"),
        };
        Run::of(command.output().expect("it starts"))
    };
    with(Some("wrong"), "backup list").expect_error(12, "no key");
    with(Some("wrong"), "backup push --all").expect_error(12, "no key");
    with(None, "backup list").expect_error(12, "encrypted");
    with(None, "backup init ./new").expect_error(2, "no password");
    assert_eq!(
        with(None, "backup init ./new --no-encryption").code,
        Some(0)
    );
    with(Some("any"), "backup list ./new").expect_error(1, "not encrypted");
    assert_eq!(with(None, "backup list ./new").code, Some(0));
    std::fs::write(site.sandbox.path("no.key"), "not a key").expect("room");
    site.run("backup list --key-file no.key")
        .expect_error(1, "no.key");
}

/// Yesterday's folder in place of today's: somebody restored it, or hides what came since.
#[test]
fn yesterdays_repository_is_refused() {
    let (folder, site) = pushed();
    let (today, yesterday) = (
        folder.path().join("backup"),
        folder.path().join("yesterday"),
    );
    copy_folder(&today, &yesterday);
    site.sandbox.succeed([
        "import",
        "other.raw",
        "web",
        "--update",
        "--snapshot",
        "third",
    ]);
    site.succeed("backup push web");
    std::fs::remove_dir_all(&today).expect("it was there");
    std::fs::rename(&yesterday, &today).expect("the same file system");
    for words in [
        "backup list",
        "backup push web",
        "backup restore web@first out.raw",
    ] {
        site.run(words).expect_error(1, "earlier state");
    }
    assert!(!site.sandbox.path("out.raw").exists());
    site.succeed("backup list --allow-rollback");
    site.succeed("backup push web");
    site.succeed("backup restore web@third out.raw");
}

/// A push to another repository under the same name, which everybody can read, would give the disks
/// away.
#[test]
fn an_exchanged_repository_is_refused() {
    let (folder, site) = pushed();
    std::fs::rename(folder.path().join("backup"), folder.path().join("hidden"))
        .expect("the same file system");
    let mut command = site.command("backup init --no-encryption");
    command
        .env_remove("VELLUM_PASSWORD")
        .env("XDG_STATE_HOME", site.sandbox.path("elsewhere"));
    assert!(command.output().expect("it starts").status.success());
    let mut command = site.command("backup push --all");
    command.env_remove("VELLUM_PASSWORD");
    Run::of(command.output().expect("it starts")).expect_error(1, "before");
}

/// One bit of one object: whatever is hit is named, and nothing wrong comes out.
#[test]
fn damage_is_told_by_object_and_point() {
    let (folder, site) = pushed();
    site.sandbox.succeed(["export", "web@first", "good.raw"]);
    let good = std::fs::read(site.sandbox.path("good.raw")).expect("it was exported");
    let largest = files(&folder.path().join("backup/packs"))
        .into_iter()
        .max_by_key(|file| std::fs::metadata(file).map_or(0, |meta| meta.len()));
    let pack = largest.expect("there is a pack");
    let whole = std::fs::read(&pack).expect("it reads");
    let mut seen = 0;
    // The place of a chunk in its pack is left to chance.
    for nth in 1..64 {
        if nth > 7 && seen > 0 {
            break;
        }
        let mut bytes = whole.clone();
        bytes[whole.len() / 64 * (nth * 9 % 64)] ^= 1;
        std::fs::write(&pack, bytes).expect("room");
        let restored = site.run("backup restore web@first out.raw --force");
        if restored.code == Some(0) {
            assert!(std::fs::read(site.sandbox.path("out.raw")).expect("it was restored") == good);
        } else {
            assert!(
                restored.stderr.contains("packs/") && restored.stderr.contains("web@first"),
                "{restored:?}"
            );
            seen += 1;
        }
        // Once it is noted that the pack is damaged, only what hits a point is told.
        let verified = site.run("backup verify --read-data");
        let may_be_clean = nth > 1 && restored.code == Some(0);
        assert!(
            verified.code == Some(4) || may_be_clean && verified.code == Some(0),
            "{verified:?}"
        );
    }
    assert!(seen > 0, "the point needs some of the pack");
    std::fs::write(&pack, whole).expect("room");
    site.succeed("backup verify --read-data");
}

#[test]
fn a_newer_format_is_refused_untouched() {
    let (folder, site) = pushed();
    let path = folder.path().join("backup/vellum.repository");
    let text = std::fs::read_to_string(&path).expect("text");
    let newer = text.replace("\"format\":1", "\"format\":2");
    assert_ne!(text, newer);
    std::fs::write(&path, newer).expect("room");
    let run = site.run("backup push --all");
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(
        run.stderr.contains("vellum.repository")
            || run.stderr.contains("version 2")
            || run.stderr.contains("format 2"),
        "{run:?}"
    );
}
