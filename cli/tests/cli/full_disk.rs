//! A disk that fills up while a disk comes in: told in one sentence, and everything that frees
//! space still works.

use std::process::{Command, Stdio};

use crate::sandbox::{Run, Sandbox, VELLUM};

/// Runs in a file system of its own, of 192 MiB: in a much smaller one the store has no room for
/// its reserve.
const SCRIPT: &str = r#"
set -eu
mount -t tmpfs -o size=192m tmpfs "$PWD/small"
export VELLUM_STORE=$PWD/small/store
fails_as_full() {
  if "$VELLUM" "$@" 2>stderr; then echo "vellum $* did not fail"; exit 1; else code=$?; fi
  [ $code = 1 ] && grep -q 'the disk is full' stderr || { echo "vellum $* ended with $code:"; cat stderr; exit 1; }
}
"$VELLUM" -q init
"$VELLUM" -q import little.raw little --snapshot first
"$VELLUM" -q import little.raw second -b little
fails_as_full import large.raw large
[ "$("$VELLUM" list --json | tr , '\n' | grep -c '"name"')" = 2 ]

cat /dev/zero >small/filler 2>/dev/null || true
fails_as_full import large.raw large
"$VELLUM" list >/dev/null
mount -t tmpfs -o size=4k tmpfs "$PWD/tiny"
fails_as_full report --html tiny/page.html
fails_as_full tree --svg tiny/tree.svg
[ -z "$(ls -A tiny)" ]
"$VELLUM" compare little little.raw >/dev/null
"$VELLUM" check --read-data >/dev/null
"$VELLUM" -q rm second little@first
[ "$("$VELLUM" list --snapshots --json | tr , '\n' | grep -c '"name"')" = 1 ]
"$VELLUM" -q gc

rm small/filler
"$VELLUM" -q import little.raw third
"$VELLUM" -q export third small/third.raw
cmp little.raw small/third.raw
"$VELLUM" -q check --read-data
echo all is well
"#;

#[test]
fn a_full_disk_loses_nothing_and_can_be_emptied() {
    let sandbox = Sandbox::empty();
    sandbox.random_file("little.raw", 2 << 20, 1);
    sandbox.random_file("large.raw", 192 << 20, 2);
    std::fs::create_dir(sandbox.path("small")).expect("room");
    std::fs::create_dir(sandbox.path("tiny")).expect("room");
    let allowed = Command::new("unshare")
        .args(["-rm", "true"])
        .stderr(Stdio::null())
        .status();
    if !allowed.is_ok_and(|status| status.success()) {
        eprintln!("skipped: this machine lets nobody mount a small file system");
        return;
    }
    let mut command = Command::new("unshare");
    command
        .args(["-rm", "sh", "-c", SCRIPT])
        .current_dir(sandbox.path(""))
        .env("VELLUM", VELLUM)
        .stdin(Stdio::null());
    let run = Run::of(command.output().expect("util-linux is there"));
    assert_eq!(run.stdout, "all is well\n", "{run:?}");
}
