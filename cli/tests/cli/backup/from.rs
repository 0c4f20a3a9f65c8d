//! Tests of guests and programs that read a repository without a store, with the cache in every
//! state.

use std::path::Path;
use std::process::{Command, Stdio};

use super::Site;
use crate::sandbox::{Run, VELLUM};

/// Reads every byte of an image and of a snapshot, through the clients that people use.
const READ: &str = r#"
set -eu
socket_reader() {
  "$VELLUM" -q serve --from "$VELLUM_REPOSITORY" --socket "$PWD/sock" "$@" & served=$!
  for _ in $(seq 1200); do [ -S sock ] && break; sleep 0.1; done
  qemu-img compare -q -f raw "nbd+unix:///web?socket=$PWD/sock" web.raw
  nbdcopy "nbd+unix:///child?socket=$PWD/sock" out.raw
  cmp out.raw child.raw
  kill $served; wait $served
}
one_reader() {
  nbdcopy -- [ "$VELLUM" nbd -q --from "$VELLUM_REPOSITORY" "$@" web@first ] out.raw
  cmp out.raw first.raw
}
read_all() { one_reader "$@"; socket_reader "$@"; }
"#;

/// The states of the cache: empty, full, in ruins, on a full disk, on one that cannot be written,
/// and not wanted.
const STATES: &str = r#"
export VELLUM_CACHE_DIR=$PWD/kept
read_all; echo cold
mv "$VELLUM_REPOSITORY/packs" "$VELLUM_REPOSITORY/maps" .
read_all; echo warm
mv packs maps "$VELLUM_REPOSITORY"
for file in kept/*/parts/*; do head -c "$(stat -c %s "$file")" /dev/urandom >"$file"; done
read_all
for file in kept/*/parts/*; do truncate -s 5000 "$file"; done
read_all; echo damaged
mount -t tmpfs -o size=1m tmpfs small
cat /dev/zero >small/filler 2>/dev/null || true
VELLUM_CACHE_DIR=$PWD/small read_all; echo full
rm small/filler
VELLUM_CACHE_DIR=$PWD/small read_all; echo "full soon"
mount -o remount,ro small
VELLUM_CACHE_DIR=$PWD/small read_all; echo "read only"
VELLUM_CACHE_DIR=$PWD/none read_all --cache-size 0; [ ! -e none/*/parts ]; echo none
VELLUM_CACHE_DIR=$PWD/some read_all --cache-size 1M; [ "$(du -sm some/*/parts | cut -f1)" -le 2 ]; echo some
"#;

const MOUNTED: &str = r#"
mkdir mnt
for round in cold warm; do
  "$VELLUM" -q backup mount "$VELLUM_REPOSITORY" mnt & served=$!
  for _ in $(seq 1200); do mountpoint -q mnt && break; sleep 0.1; done
  cmp mnt/images/web.raw web.raw
  cmp mnt/snapshots/web@first.raw first.raw
  umount mnt; wait $served
  echo $round
  rm -rf "$VELLUM_REPOSITORY/packs"
done
"#;

fn pushed() -> (tempfile::TempDir, Site) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let site = Site::new(&folder.path().join("backup").display().to_string());
    site.grow_tree(11);
    site.succeed("backup init");
    site.succeed("backup push --all");
    for (node, file) in [
        ("web", "web.raw"),
        ("web@first", "first.raw"),
        ("child", "child.raw"),
    ] {
        site.sandbox.succeed(["export", node, file, "--force"]);
    }
    std::fs::remove_dir_all(site.sandbox.path("store")).expect("it was there");
    std::fs::create_dir(site.sandbox.path("small")).expect("room");
    (folder, site)
}

fn play(site: &Site, program: &[&str], script: &str) -> Run {
    let mut command = Command::new(program[0]);
    command
        .args(&program[1..])
        .arg(format!("{READ}{script}"))
        .env("VELLUM", VELLUM);
    command.envs(
        site.command("")
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    Run::of(
        command
            .current_dir(site.sandbox.path(""))
            .stdin(Stdio::null())
            .output()
            .expect("it starts"),
    )
}

#[test]
fn every_byte_is_right_whatever_became_of_what_is_kept() {
    let allowed = Command::new("unshare")
        .args(["-rm", "true"])
        .stderr(Stdio::null())
        .status();
    if !allowed.is_ok_and(|status| status.success()) {
        eprintln!("skipped: this machine lets nobody mount a small file system");
        return;
    }
    let (_folder, site) = pushed();
    let run = play(&site, &["unshare", "-rm", "sh", "-c"], STATES);
    let states = [
        "cold",
        "warm",
        "damaged",
        "full",
        "full soon",
        "read only",
        "none",
        "some",
    ];
    assert_eq!(
        (run.code, run.stdout.lines().collect::<Vec<_>>().as_slice()),
        (Some(0), &states[..]),
        "{run:?}"
    );
}

#[test]
fn a_repository_is_files_while_it_is_mounted_and_what_was_read_stays() {
    if !Path::new("/dev/fuse").exists() {
        eprintln!("skipped: this machine has no FUSE");
        return;
    }
    let (_folder, site) = pushed();
    let run = play(&site, &["sh", "-c"], MOUNTED);
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(0), "cold\nwarm\n"),
        "{run:?}"
    );
    let refused = site.run("nbd web --cache-size 1G");
    assert!(
        refused.code == Some(2) && refused.stderr.contains("--from"),
        "{refused:?}"
    );
}
