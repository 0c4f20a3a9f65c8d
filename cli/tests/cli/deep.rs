//! Tests of `gc --deep`: what is alike takes less, disks stay as they are, and everything that
//! comes after works on it as before.

use crate::full_disk::with_mounts;
use crate::sandbox::{Sandbox, client_line};

/// A store of disks whose blocks are alike, some of them shifted.
fn alike_disks() -> Sandbox {
    let sandbox = Sandbox::new();
    let family = sandbox.random_file("family", 1 << 20, 1);
    let family = std::fs::read(family).expect("just written");
    for (nth, name) in ["one", "two", "three"].into_iter().enumerate() {
        let mut bytes = vec![nth as u8; nth * 777];
        for part in family.chunks(4000) {
            bytes.extend_from_slice(part);
            bytes.extend_from_slice(&[nth as u8 + 1; 96]);
        }
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        std::fs::write(sandbox.path(format!("{name}.raw")), bytes).expect("room");
        sandbox.succeed(["import", &format!("{name}.raw"), name, "--snapshot", "a"]);
    }
    sandbox
}

fn deep(sandbox: &Sandbox, args: &[&str]) -> serde_json::Value {
    let words = [&["--json", "gc", "--deep", "--level", "6"], args].concat();
    let answer = sandbox.succeed(words);
    serde_json::from_str(&answer).expect("one document")
}

fn assert_disks(sandbox: &Sandbox, names: &[&str]) {
    for name in names {
        client_line(sandbox, &format!("rm -f out-{name}.raw"));
        sandbox.succeed(["export", name, &format!("out-{name}.raw")]);
        client_line(sandbox, &format!("cmp {name}.raw out-{name}.raw"));
    }
    sandbox.succeed(["check", "--read-data"]);
}

#[test]
fn what_is_alike_takes_less_and_stays_what_it_is() {
    let sandbox = alike_disks();
    let foretold = deep(&sandbox, &["-n"]);
    let done = deep(&sandbox, &[]);
    let bytes =
        |answer: &serde_json::Value, field: &str| answer["deep"][field].as_u64().expect("a number");
    assert!(
        bytes(&done, "bytes_after") * 2 < bytes(&done, "bytes_before"),
        "{done}"
    );
    assert_eq!(bytes(&foretold, "bytes_after"), bytes(&done, "bytes_after"));
    assert!(
        done["disk_bytes_after"].as_u64() < done["disk_bytes_before"].as_u64(),
        "{done}"
    );
    assert_disks(&sandbox, &["one", "two", "three"]);
    let again = deep(&sandbox, &[]);
    assert_eq!(bytes(&again, "frames"), 0, "{again}");
    assert!(again["deep"]["lacks_room"] == false, "{again}");
}

/// Pushes, pulls, streams, scrubs, healing and deletions see nothing of where bytes are.
#[test]
fn all_that_comes_after_works_on_it() {
    let sandbox = alike_disks();
    deep(&sandbox, &[]);
    sandbox.succeed(["backup", "init", "repo", "--no-encryption"]);
    sandbox.succeed(["backup", "push", "repo", "--all"]);
    sandbox.succeed(["backup", "verify", "repo", "--read-data"]);
    sandbox.succeed(["backup", "restore", "repo", "two@a", "restored.raw"]);
    client_line(&sandbox, "cmp two.raw restored.raw");
    sandbox.succeed(["check", "--scrub"]);
    sandbox.succeed(["rm", "one", "two", "--with-snapshots", "-q"]);
    sandbox.succeed(["gc"]);
    assert_disks(&sandbox, &["three"]);
    sandbox.succeed(["import", "one.raw", "one", "--snapshot", "a"]);
    deep(&sandbox, &[]);
    assert_disks(&sandbox, &["one", "three"]);
}

/// File systems with more and less room beside the store. Where there is little, a part is done
/// after the other; where there is next to none, nothing is; and the store is never larger after it
/// than by what its reserve grows.
const SCARCE_SCRIPT: &str = r#"
set -eu
for size in 400 128 100 84; do
  mount -t tmpfs -o size=${size}m tmpfs "$PWD/small"
  export VELLUM_STORE=$PWD/small/store
  "$VELLUM" -q init
  "$VELLUM" -q import disk.raw disk
  before=$(du -sk "$VELLUM_STORE" | cut -f1)
  "$VELLUM" gc --deep --level 3 >said
  after=$(du -sk "$VELLUM_STORE" | cut -f1)
  [ "$after" -le $((before + 8192)) ] || { echo "$size: $before KiB and then $after:"; cat said; exit 1; }
  if [ $size = 400 ]; then
    [ "$after" -le $((before * 3 / 4)) ] || { echo "$size: $before KiB and then $after:"; cat said; exit 1; }
  fi
  "$VELLUM" -q check --read-data
  "$VELLUM" -q export disk - | cmp - disk.raw
  umount "$PWD/small"
done
echo all is well
"#;

#[test]
fn where_room_is_scarce_it_takes_no_more_than_before() {
    let sandbox = Sandbox::empty();
    std::fs::create_dir(sandbox.path("small")).expect("room");
    // Twice the same noise, shifted: half of it goes.
    let noise = sandbox.random_file("noise", 24 << 20, 1);
    let noise = std::fs::read(noise).expect("just written");
    let disk = [&noise[..], &[7; 512], &noise, &[0; 512]].concat();
    std::fs::write(sandbox.path("disk.raw"), disk).expect("room");
    let Some(run) = with_mounts(&sandbox, &["sh", "-c", SCARCE_SCRIPT]) else {
        return;
    };
    assert_eq!(run.stdout, "all is well\n", "{run:?}");
}

#[test]
fn a_level_is_one_that_there_is_and_of_a_deep_collection() {
    let sandbox = alike_disks();
    for line in [
        "gc --level 3",
        "gc --deep --level 0",
        "gc --deep --level 23",
    ] {
        let run = sandbox.run(line.split(' '));
        assert_eq!(run.code, Some(2), "{run:?}");
        assert!(
            run.stderr.contains("--level") || run.stderr.contains("--deep"),
            "{run:?}"
        );
    }
}
