//! Images as files, for programs that do not know that they are disks: backup programs, `cp`,
//! mappings, loop devices.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::process::Signal;

use crate::sandbox::{PATIENCE, Sandbox, client_succeeds, signal};
use crate::server::Served;

const DISK_LEN: usize = 8 << 20;

/// A store with image `web`, served as files in `mnt` and over NBD. `None` without FUSE.
fn mounted() -> Option<(Sandbox, Served)> {
    if !Path::new("/dev/fuse").exists() {
        eprintln!("skipped: this machine has no FUSE");
        return None;
    }
    let sandbox = Sandbox::new();
    sandbox.random_file("disk.raw", DISK_LEN, 1);
    sandbox.succeed(["import", "disk.raw", "web", "--snapshot", "a"]);
    std::fs::create_dir(sandbox.path("mnt")).expect("room");
    let server = Served::run(&sandbox, &["serve", "--mount", "mnt"]);
    Some((sandbox, server))
}

/// In nanoseconds.
fn mtime(sandbox: &Sandbox, file: &str) -> i128 {
    let found = std::fs::metadata(sandbox.path(file)).expect("it is there");
    i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec())
}

#[test]
fn a_backup_program_sees_that_a_guest_has_written() {
    let Some((sandbox, server)) = mounted() else {
        return;
    };
    let (image, snapshot) = ("mnt/images/web.raw", "mnt/snapshots/web@a.raw");
    let backed_up = |sandbox: &Sandbox| {
        let words = [
            "--listed-incremental=seen",
            "-cvf",
            "backup.tar",
            "mnt/images",
        ];
        let said = client_succeeds(sandbox, "tar", &words);
        let is_in = said.lines().any(|line| line == image);
        if is_in {
            client_succeeds(
                sandbox,
                "tar",
                &["-xf", "backup.tar", "--one-top-level=copy"],
            );
            client_succeeds(sandbox, "cmp", &[image, &format!("copy/{image}")]);
        }
        is_in
    };
    let kept = mtime(&sandbox, snapshot);
    let mut last = mtime(&sandbox, image);
    let mut moved = |sandbox: &Sandbox| {
        let now = mtime(sandbox, image);
        assert!(now > last, "{now} after {last}");
        last = now;
    };
    let uri = server.uri("web");
    assert!(backed_up(&sandbox) && !backed_up(&sandbox));
    let write = ["-f", "raw", "-c", "write -P 7 1M 64k", &uri];
    client_succeeds(&sandbox, "qemu-io", &write);
    moved(&sandbox);
    assert!(backed_up(&sandbox) && !backed_up(&sandbox));
    let dd = [
        "if=/dev/zero",
        "of=mnt/images/web.raw",
        "bs=4k",
        "count=1",
        "conv=notrunc",
    ];
    client_succeeds(&sandbox, "dd", &dd);
    moved(&sandbox);
    assert!(backed_up(&sandbox) && !backed_up(&sandbox));
    sandbox.succeed(["snapshot", "take", "web@b"]);
    assert_eq!(mtime(&sandbox, image), last, "a snapshot is no change");
    assert_eq!(mtime(&sandbox, "mnt/snapshots/web@b.raw"), last);
    assert_eq!(mtime(&sandbox, snapshot), kept);
    server.stop();
    let server = Served::run(&sandbox, &["serve", "--mount", "mnt"]);
    assert_eq!(mtime(&sandbox, image), last, "nor is a new server");
    server.stop();
}

#[test]
fn a_disk_is_copied_over_another_with_its_holes() {
    let Some((sandbox, server)) = mounted() else {
        return;
    };
    std::fs::File::create(sandbox.path("sparse.raw"))
        .and_then(|file| file.set_len(DISK_LEN as u64))
        .expect("room");
    let data = [
        "if=disk.raw",
        "of=sparse.raw",
        "bs=1M",
        "seek=3",
        "count=2",
        "conv=notrunc",
    ];
    client_succeeds(&sandbox, "dd", &data);
    let image = "mnt/images/web.raw";
    for sparse in ["--sparse=auto", "--sparse=always", "--sparse=never"] {
        client_succeeds(&sandbox, "cp", &["disk.raw", image]);
        client_succeeds(&sandbox, "cmp", &[image, "disk.raw"]);
        client_succeeds(&sandbox, "cp", &[sparse, "sparse.raw", image]);
        client_succeeds(&sandbox, "cmp", &[image, "sparse.raw"]);
    }
    client_succeeds(&sandbox, "fallocate", &["-l", "8M", image]);
    client_succeeds(&sandbox, "cmp", &[image, "sparse.raw"]);
    client_succeeds(
        &sandbox,
        "fallocate",
        &["-p", "-o", "3M", "-l", "2M", image],
    );
    client_succeeds(&sandbox, "cmp", &["-n", "8388608", image, "/dev/zero"]);
    let room = client_succeeds(&sandbox, "stat", &["-f", "-c", "%b %f %a", "mnt"]);
    let room: Vec<u64> = room
        .split_whitespace()
        .map(|n| n.parse().expect("a number"))
        .collect();
    assert!(room[0] > 0 && room[1] > 0 && room[0] >= room[1], "{room:?}");
    server.stop();
    sandbox.succeed(["check", "--read-data"]);
}

/// Prints the first byte of a mapping of a file, whenever it is asked to.
const MAPPING: &str = "
import mmap, os, sys
file = os.open(sys.argv[1], os.O_RDWR)
pages = mmap.mmap(file, 1 << 20)
for line in sys.stdin:
    print(pages[0], pages[(1 << 20) - 1], flush=True)
";

#[test]
fn a_mapping_shows_what_a_guest_writes_later() {
    let Some((sandbox, server)) = mounted() else {
        return;
    };
    let mut mapping = Command::new("python3")
        .args(["-c", MAPPING, "mnt/images/web.raw"])
        .current_dir(sandbox.path(""))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is there");
    let mut asked = mapping.stdin.take().expect("it was asked for");
    let mut said = BufReader::new(mapping.stdout.take().expect("it was asked for"));
    let mut look = || {
        writeln!(asked)
            .and_then(|()| asked.flush())
            .expect("it listens");
        let mut line = String::new();
        said.read_line(&mut line).expect("it answers");
        line.trim().to_owned()
    };
    look();
    for value in [7, 8, 9] {
        for command in [
            format!("write -P {value} 0 1M"),
            format!("write -P {value} 4095 1"),
        ] {
            let uri = server.uri("web");
            client_succeeds(&sandbox, "qemu-io", &["-f", "raw", "-c", &command, &uri]);
            let (begun, expected) = (Instant::now(), format!("{value} {value}"));
            while look() != expected {
                assert!(begun.elapsed() < PATIENCE, "{} for ever", look());
            }
        }
    }
    client_succeeds(&sandbox, "truncate", &["-s", "0", "mnt/images/web.raw"]);
    let begun = Instant::now();
    while look() != "0 0" {
        assert!(begun.elapsed() < PATIENCE, "{} for ever", look());
    }
    drop(asked);
    assert!(mapping.wait().expect("it ends").success());
    server.stop();
    sandbox.succeed(["check", "--read-data"]);
}

#[test]
fn long_names_are_shown_and_told() {
    let Some((sandbox, server)) = mounted() else {
        return;
    };
    let (image, snapshot) = ("n".repeat(255), "s".repeat(255));
    sandbox.succeed(["clone", "web", &image]);
    sandbox.succeed(["snapshot", "take", &format!("{image}@{snapshot}")]);
    client_succeeds(
        &sandbox,
        "cmp",
        &[&format!("mnt/images/{image}"), "disk.raw"],
    );
    let names = client_succeeds(&sandbox, "ls", &["mnt/snapshots"]);
    let shown = names
        .lines()
        .find(|name| name.starts_with("nnn"))
        .expect("it is shown");
    client_succeeds(
        &sandbox,
        "cmp",
        &[&format!("mnt/snapshots/{shown}"), "disk.raw"],
    );
    let said = server.stop_saying();
    assert!(
        said.contains(&format!("is shown as images/{image}")),
        "{said}"
    );
    assert!(
        said.contains(&format!("is shown as snapshots/{shown}")),
        "{said}"
    );
}

#[test]
fn a_mount_that_is_stopped_with_an_open_file_keeps_what_was_written() {
    let Some((sandbox, server)) = mounted() else {
        return;
    };
    server.stop();
    let server = Served::run(&sandbox, &["mount", "mnt"]);
    let path = sandbox.path("mnt/images/web.raw");
    let mut open = std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .expect("it opens");
    open.write_all(&[9; 5000]).expect("it is written");
    signal(&server.child, Signal::TERM);
    server.ended();
    drop(open);
    sandbox.succeed(["export", "web", "out.raw"]);
    let bytes = std::fs::read(sandbox.path("out.raw")).expect("exported");
    assert!(bytes[..5000].iter().all(|byte| *byte == 9));
}
