//! Tests of a disk that fills up: one sentence tells it, everything that frees space still works,
//! and a refused command costs no other anything.

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
    let Some(run) = with_mounts(&sandbox, &["sh", "-c", SCRIPT]) else {
        return;
    };
    assert_eq!(run.stdout, "all is well\n", "{run:?}");
}

/// A repository fills its disk: the push fails, what was pushed stays, and points go and give their
/// space back. Half of each pack is needed still: it is written anew where there is room again.
const REPOSITORY_SCRIPT: &str = r#"
set -eu
mount -t tmpfs -o size=96m tmpfs "$PWD/small"
export VELLUM_STORE=$PWD/store VELLUM_REPOSITORY=$PWD/small/repo
"$VELLUM" -q init
"$VELLUM" -q import one.raw one
"$VELLUM" -q backup init --no-encryption
"$VELLUM" -q backup push one
"$VELLUM" -q import two.raw one --update --snapshot second
"$VELLUM" -q backup push one
"$VELLUM" -q import large.raw large
if "$VELLUM" backup push --all 2>stderr; then echo "there was room"; exit 1; fi
grep -qi 'no space\|full' stderr || { cat stderr; exit 1; }
cat /dev/zero >small/filler 2>/dev/null || true
first=$("$VELLUM" backup list --json | tr '{' '\n' | grep '"kind":"image"' | head -n1 | cut -d'"' -f4)
"$VELLUM" -q backup forget "$first"
"$VELLUM" -q backup prune
rm small/filler
"$VELLUM" -q backup prune
"$VELLUM" -q backup verify --read-data
"$VELLUM" -q backup restore one@second again.raw
cmp again.raw two.raw
echo all is well
"#;

#[test]
fn a_full_repository_can_be_emptied() {
    let sandbox = Sandbox::empty();
    // The halves of the two disks differ; what they have in common is in the first one's packs.
    sandbox.random_file("one.raw", 32 << 20, 1);
    let mut two = std::fs::read(sandbox.path("one.raw")).expect("it is there");
    for at in (0..two.len()).step_by(256 << 10) {
        let end = at + (128 << 10);
        fastrand::Rng::with_seed(at as u64 + 2).fill(&mut two[at..end]);
    }
    std::fs::write(sandbox.path("two.raw"), two).expect("room");
    sandbox.random_file("large.raw", 192 << 20, 3);
    std::fs::create_dir(sandbox.path("small")).expect("room");
    let Some(run) = with_mounts(&sandbox, &["sh", "-c", REPOSITORY_SCRIPT]) else {
        return;
    };
    assert_eq!(run.stdout, "all is well\n", "{run:?}");
}

/// Runs `words` where file systems may be mounted that nobody else sees, if this machine allows it.
pub(crate) fn with_mounts(sandbox: &Sandbox, words: &[&str]) -> Option<Run> {
    let allowed = Command::new("unshare")
        .args(["-rm", "true"])
        .stderr(Stdio::null())
        .status();
    if !allowed.is_ok_and(|status| status.success()) {
        eprintln!("skipped: this machine lets nobody mount a small file system");
        return None;
    }
    let mut command = Command::new("unshare");
    command
        .arg("-rm")
        .args(words)
        .current_dir(sandbox.path(""))
        .env("VELLUM", VELLUM)
        .env("VELLUM_NO_LOOP", "1")
        .env("TMPDIR", sandbox.path(""))
        .stdin(Stdio::null());
    Some(Run::of(command.output().expect("util-linux is there")))
}

/// A sample of `dev/full-disk`, which tells what it holds a store to.
#[test]
fn small_disks_fill_up_and_are_emptied_while_a_guest_works() {
    let sandbox = Sandbox::empty();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../dev/full-disk");
    let words = [
        script,
        "--only",
        "tmpfs:24,tmpfs:64",
        "--schedules",
        "3",
        "--steps",
        "12",
    ];
    let Some(run) = with_mounts(&sandbox, &words) else {
        return;
    };
    println!("{}", run.stdout);
    assert!(run.stdout.ends_with("3 schedules, 0 wrong\n"), "{run:?}");
}

/// A limit on the length of files is an error with words, not the end of the process.
#[test]
fn a_file_that_may_not_grow_is_told_and_the_store_is_whole() {
    let sandbox = Sandbox::empty();
    sandbox.random_file("disk.raw", 8 << 20, 3);
    let script = r#"
        export VELLUM_STORE=$PWD/store
        "$VELLUM" -q init && "$VELLUM" -q create kept 1M
        (ulimit -f 1024; "$VELLUM" -q import disk.raw web) 2>stderr && echo imported
        (ulimit -f 1; "$VELLUM" -q export kept kept.raw) 2>>stderr; echo "code $?"
        grep -c 'a file may not grow that long' stderr
        "$VELLUM" -q check --read-data && "$VELLUM" -q create new 1M && echo whole
    "#;
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .current_dir(sandbox.path(""))
        .env("VELLUM", VELLUM)
        .stdin(Stdio::null());
    let run = Run::of(command.output().expect("a shell is there"));
    assert!(run.stdout.ends_with("whole\n"), "{run:?}");
    assert!(
        !run.stdout.contains("code 153"),
        "not killed by a signal: {run:?}"
    );
}

/// A server that was stopped answers nobody: whoever wants something is told so, and is not kept.
#[test]
fn a_server_that_was_stopped_keeps_no_command() {
    let sandbox = Sandbox::empty();
    let script = r#"
        export VELLUM_STORE=$PWD/store
        "$VELLUM" -q init && "$VELLUM" -q create web 1M
        "$VELLUM" -q serve 2>/dev/null & server=$!
        while ! [ -S store/control ]; do sleep 0.05; done
        kill -STOP $server
        "$VELLUM" list 2>stderr; echo "code $?"
        grep -c "process $server) was stopped" stderr
        kill -CONT $server
        "$VELLUM" -q rename web other && echo goes on
        kill $server; wait $server
    "#;
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .current_dir(sandbox.path(""))
        .env("VELLUM", VELLUM)
        .stdin(Stdio::null());
    let run = Run::of(command.output().expect("a shell is there"));
    assert_eq!(run.stdout, "code 11\n1\ngoes on\n", "{run:?}");
}
