//! A whole tree goes out and comes back somewhere else.

use std::process::Stdio;

use super::{PASSWORD, Site, files};
use crate::bucket::Bucket;
use crate::sandbox::{Run, VELLUM};
use crate::server::Served;

/// The store is gone. On another machine there are the repository and its password, nothing else.
fn disaster(lost: &Site, other: &Site) {
    lost.succeed("backup init");
    lost.grow_tree(1);
    lost.succeed("backup push --all");
    let (contents, shape) = (lost.contents(), lost.shape());
    assert_eq!(contents.len(), 9, "{contents:?}");
    std::fs::remove_dir_all(lost.sandbox.path("store")).expect("it was there");

    other.succeed("backup verify --read-data");
    other.succeed("backup pull --all");
    assert_eq!(other.contents(), contents);
    assert_eq!(other.shape(), shape);
    other.sandbox.succeed(["check", "--read-data"]);
    for name in ["web@first", "web", "child@own", "root@monday"] {
        other
            .sandbox
            .succeed(["export", name, "pulled.raw", "--force"]);
        other.succeed(&format!("backup restore {name} restored.raw --force"));
        assert!(
            std::fs::read(other.sandbox.path("pulled.raw")).ok()
                == std::fs::read(other.sandbox.path("restored.raw")).ok(),
            "{name}"
        );
    }
}

#[test]
fn a_lost_store_comes_back_from_a_folder() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let place = folder.path().join("backup").display().to_string();
    disaster(&Site::new(&place), &Site::new(&place));
}

#[test]
fn a_lost_store_comes_back_from_a_real_s3_server() {
    let bucket = Bucket::start();
    let place = bucket.place();
    disaster(&Site::at(&bucket, &place), &Site::at(&bucket, &place));
}

#[test]
fn an_unchanged_tree_adds_no_object() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let site = Site::new(&folder.path().join("backup").display().to_string());
    site.succeed("backup init");
    site.grow_tree(5);
    let first = site.json("backup push --all");
    assert_eq!(
        (first["new_points"].as_u64(), first["known_points"].as_u64()),
        (Some(9), Some(0)),
        "{first}"
    );
    let before = files(folder.path());
    let again = site.json("backup push --all");
    assert_eq!(
        (again["new_points"].as_u64(), again["known_points"].as_u64()),
        (Some(0), Some(9)),
        "{again}"
    );
    assert_eq!(files(folder.path()), before);
    // Nor does it from a machine that pulled it: contents keep their names.
    let other = Site::new(&folder.path().join("backup").display().to_string());
    other.succeed("backup pull --all");
    let there = other.json("backup push --all");
    assert_eq!(there["chunks_sent"].as_u64(), Some(0), "{there}");
}

#[test]
fn nobody_finds_a_disk_in_an_encrypted_folder() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let site = Site::new(&folder.path().join("backup").display().to_string());
    let text = b"a line that only this disk has: 7d5c1f; ".repeat(4096);
    std::fs::write(site.sandbox.path("disk.raw"), &text).expect("room");
    site.sandbox.succeed(["import", "disk.raw", "telling-name"]);
    site.succeed("backup init");
    site.succeed("backup push telling-name");
    for file in files(folder.path()) {
        let bytes = std::fs::read(&file).expect("it is there");
        for secret in [&text[..40], b"telling-name", PASSWORD.as_bytes()] {
            assert!(
                !bytes.windows(secret.len()).any(|window| window == secret),
                "{}",
                file.display()
            );
        }
    }
}

#[test]
fn a_key_file_opens_what_a_password_made_and_a_removed_password_does_not() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let site = Site::new(&folder.path().join("backup").display().to_string());
    site.grow_tree(7);
    site.succeed("backup init");
    site.succeed("backup push web");
    site.succeed("backup key add --new-key-file backup.key --label machine");
    site.succeed("backup restore web@first a.raw --key-file backup.key");
    let keys = site.json("backup key list");
    let password = keys
        .as_array()
        .expect("a list")
        .iter()
        .find(|key| key["kind"] == "password")
        .expect("the first key");
    site.succeed(&format!(
        "backup key remove {} --key-file backup.key",
        password["id"].as_str().expect("text")
    ));
    site.run("backup list").expect_error(12, "no key");
    site.succeed("backup restore web@first b.raw --key-file backup.key");
    assert!(
        std::fs::read(site.sandbox.path("a.raw")).ok()
            == std::fs::read(site.sandbox.path("b.raw")).ok()
    );
    let last = site.json("backup key list --key-file backup.key")[0]["id"]
        .as_str()
        .expect("text")
        .to_owned();
    site.run(&format!("backup key remove {last} --key-file backup.key"))
        .expect_error(1, "the last key");
}

/// The server has the store, so it does the push; the password, the folder and the environment are
/// the caller's all the same.
#[test]
fn a_store_that_is_served_is_pushed_and_pulled_by_its_server() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let site = Site::new("./backup");
    site.grow_tree(11);
    let server = Served::start(&site.sandbox);
    site.succeed("backup init");
    let pushed = site.json("backup push --all");
    assert_eq!(pushed["new_points"].as_u64(), Some(9), "{pushed}");
    site.succeed("backup pull web@first --as again");
    server.stop();
    assert!(
        site.sandbox.path("backup/vellum.repository").exists(),
        "it is in the caller's folder"
    );
    assert!(site.sandbox.names().contains(&"again".to_owned()));
    drop(folder);
}

#[test]
fn what_was_sent_is_received_whole_or_not_at_all() {
    let (from, to) = (Site::new("unused"), Site::new("unused"));
    from.grow_tree(13);
    let sent = from
        .command("send web@first")
        .stdout(Stdio::piped())
        .output()
        .expect("it starts")
        .stdout;
    let increment = from
        .command("send web@first..@second")
        .stdout(Stdio::piped())
        .output()
        .expect("it starts")
        .stdout;
    let receive = |stream: &[u8], words: &str| {
        std::fs::write(to.sandbox.path("stream"), stream).expect("room");
        let file = std::fs::File::open(to.sandbox.path("stream")).expect("it was written");
        Run::of(to.command(words).stdin(file).output().expect("it starts"))
    };
    // The increment needs what it stands on.
    assert_eq!(receive(&increment, "receive --as early").code, Some(1));
    for cut in [0, 1, sent.len() / 2, sent.len() - 1] {
        assert_eq!(
            receive(&sent[..cut], "receive").code,
            Some(1),
            "{cut} bytes"
        );
    }
    let mut damaged = sent.clone();
    damaged[sent.len() / 2] ^= 1;
    assert_eq!(receive(&damaged, "receive").code, Some(1));
    assert_eq!(to.sandbox.names(), Vec::<String>::new());

    assert_eq!(receive(&sent, "receive").code, Some(0));
    let run = receive(&increment, "receive --as later");
    assert_eq!(run.code, Some(0), "{run:?}");
    for (name, theirs) in [("web@first", "web@first"), ("later@second", "web@second")] {
        to.sandbox.succeed(["export", name, "out.raw", "--force"]);
        from.sandbox
            .succeed(["export", theirs, "out.raw", "--force"]);
        assert!(
            std::fs::read(to.sandbox.path("out.raw")).ok()
                == std::fs::read(from.sandbox.path("out.raw")).ok(),
            "{name}"
        );
    }
}

/// A guest gets a point without a store: its bytes, its holes, and no right to write.
#[test]
fn a_guest_reads_a_point_straight_from_the_repository() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let site = Site::new(&folder.path().join("backup").display().to_string());
    let mut disk = vec![0; 9 << 20];
    fastrand::Rng::with_seed(17).fill(&mut disk[5 << 20..(5 << 20) + 300_001]);
    std::fs::write(site.sandbox.path("holes.raw"), &disk).expect("room");
    site.sandbox
        .succeed(["import", "holes.raw", "holes", "--snapshot", "a"]);
    site.succeed("backup init");
    site.succeed("backup push holes");
    std::fs::remove_dir_all(site.sandbox.path("store")).expect("it was there");
    let script = format!(
        "nbdcopy -- [ {VELLUM} nbd -q --from \"$VELLUM_REPOSITORY\" holes@a ] out.raw && nbdinfo --map -- [ {VELLUM} nbd -q --from \"$VELLUM_REPOSITORY\" holes ]"
    );
    let mut command = site.command("");
    let environment: Vec<_> = command
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect();
    command = std::process::Command::new("sh");
    command
        .args(["-c", &script])
        .current_dir(site.sandbox.path(""))
        .envs(environment)
        .stdin(Stdio::null());
    let run = Run::of(command.output().expect("sh is there"));
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(std::fs::read(site.sandbox.path("out.raw")).expect("it was copied") == disk);
    let kinds: Vec<&str> = run
        .stdout
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2))
        .collect();
    assert_eq!(kinds, ["3", "0", "3"], "{run:?}");
}
