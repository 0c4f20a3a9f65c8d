//! Guests and programs on disks of the store: over NBD and as files, with the clients that people
//! use, while commands go on.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::process::Signal;

use crate::sandbox::{PATIENCE, Run, Sandbox, VELLUM, client, client_succeeds, signal};
use crate::server::Served;

const DISK_LEN: usize = 16 << 20;

/// A store with image `web`, which is `disk.raw`, and its snapshot `web@a`; `other.raw` has the
/// same length and other bytes.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.random_file("disk.raw", DISK_LEN, 1);
    sandbox.random_file("other.raw", DISK_LEN, 2);
    sandbox.succeed(["import", "disk.raw", "web", "--snapshot", "a"]);
    sandbox
}

#[test]
fn what_a_guest_writes_is_what_commands_see() {
    let sandbox = sandbox();
    let server = Served::start(&sandbox);
    let listing: serde_json::Value = serde_json::from_str(&client_succeeds(
        &sandbox,
        "nbdinfo",
        &["--list", "--json", &server.uri("")],
    ))
    .expect("JSON");
    let exports = listing["exports"].as_array().expect("a list");
    let seen: Vec<_> = exports
        .iter()
        .map(|export| {
            (
                export["export-name"].as_str(),
                export["is_read_only"].as_bool(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [(Some("web"), Some(false)), (Some("web@a"), Some(true))]
    );

    // Without a flush: it is in the server's memory, where only the server can find it.
    client_succeeds(&sandbox, "nbdcopy", &["other.raw", &server.uri("web")]);
    sandbox.succeed(["compare", "web", "other.raw"]);
    sandbox.succeed(["compare", "web@a", "disk.raw"]);
    client_succeeds(&sandbox, "nbdcopy", &[&server.uri("web@a"), "out.raw"]);
    assert!(
        std::fs::read(sandbox.path("out.raw")).expect("copied")
            == std::fs::read(sandbox.path("disk.raw")).expect("it is there")
    );
    assert_ne!(
        client(&sandbox, "nbdcopy", &["other.raw", &server.uri("web@a")]).code,
        Some(0)
    );

    sandbox.succeed(["create", "child", "-b", "web@a"]);
    client_succeeds(
        &sandbox,
        "qemu-img",
        &["compare", "-f", "raw", &server.uri("child"), "disk.raw"],
    );
    server.stop();
    sandbox.succeed(["compare", "web", "other.raw"]);
    sandbox.succeed(["check", "--read-data"]);
}

/// Each block holds its old bytes or its new ones, whatever moment the snapshot met, and goes on
/// doing so.
#[test]
fn a_snapshot_under_a_writing_guest_holds_still() {
    const BLOCK_LEN: usize = 64 << 10;
    let sandbox = sandbox();
    let server = Served::start(&sandbox);
    let mut command = Command::new("nbdcopy");
    let uri = server.uri("web");
    command
        .args([
            "--flush",
            "--requests=4",
            "--request-size=65536",
            "other.raw",
            &uri,
        ])
        .current_dir(sandbox.path(""));
    let mut writer = command.spawn().expect("libnbd is there");
    let mut taken = 0;
    while taken < 3 || writer.try_wait().expect("it was started here").is_none() {
        taken += 1;
        sandbox.succeed(["snapshot", "take", &format!("web@t{taken}")]);
        sandbox.succeed(["export", &format!("web@t{taken}"), &format!("t{taken}.raw")]);
    }
    assert!(writer.wait().expect("it was started here").success());
    sandbox.succeed(["compare", "web", "other.raw"]);
    let read = |name: &str| std::fs::read(sandbox.path(name)).expect("it is there");
    let (old, new) = (read("disk.raw"), read("other.raw"));
    for nth in 1..=taken {
        let snapshot = read(&format!("t{nth}.raw"));
        let blocks = snapshot
            .chunks(BLOCK_LEN)
            .zip(old.chunks(BLOCK_LEN))
            .zip(new.chunks(BLOCK_LEN));
        for (at, ((block, old), new)) in blocks.enumerate() {
            assert!(
                block == old || block == new,
                "block {at} of snapshot {nth} of {taken}"
            );
        }
        sandbox.succeed(["compare", &format!("web@t{nth}"), &format!("t{nth}.raw")]);
    }
    server.stop();
    sandbox.succeed(["check", "--read-data"]);
}

#[test]
fn one_image_is_offered_until_its_client_leaves() {
    let sandbox = sandbox();
    let uri = |name: &str| format!("nbd+unix:///{name}?socket=n.sock");
    // A client that only asks for the list of exports does not count.
    let server = Served::run(&sandbox, &["nbd", "web", "-k", "n.sock", "-x", "disk"]);
    assert!(
        client_succeeds(&sandbox, "nbdinfo", &["--list", &uri("")]).contains("export=\"disk\"")
    );
    sandbox.succeed(["snapshot", "take", "web@b"]);
    sandbox.run(["nbd", "web@b"]).expect_error(11, "in use");
    client_succeeds(&sandbox, "nbdcopy", &["other.raw", &uri("disk")]);
    server.ended();
    assert!(!sandbox.path("n.sock").exists());
    sandbox.succeed(["compare", "web", "other.raw"]);
    // It stays with -t, and nobody writes with -r.
    let server = Served::run(
        &sandbox,
        &["nbd", "web", "-k", "n.sock", "-r", "-t", "-e", "2"],
    );
    assert_ne!(
        client(&sandbox, "nbdcopy", &["disk.raw", &uri("web")]).code,
        Some(0)
    );
    assert_eq!(
        client_succeeds(&sandbox, "nbdinfo", &["--size", &uri("")]).trim(),
        DISK_LEN.to_string()
    );
    server.stop();
    // At any free port.
    let server = Served::run(&sandbox, &["nbd", "web@a", "-p", "0", "-t"]);
    let uri = server.greeting["uri"]
        .as_str()
        .expect("it says where it listens");
    assert!(uri.starts_with("nbd://127.0.0.1:"), "{uri}");
    client_succeeds(
        &sandbox,
        "qemu-img",
        &["compare", "-f", "raw", uri, "disk.raw"],
    );
    server.stop();
    sandbox
        .run(["nbd", "nothing", "-k", "n.sock"])
        .expect_error(1, "\"nothing\"");
    sandbox
        .run(["nbd", "web", "-k", "disk.raw"])
        .expect_error(1, "no socket");
}

/// libnbd hands a socket over as systemd does.
#[test]
fn a_socket_that_is_handed_over_is_served() {
    let sandbox = sandbox();
    client_succeeds(
        &sandbox,
        "nbdcopy",
        &["--", "[", VELLUM, "nbd", "web@a", "-q", "]", "out.raw"],
    );
    sandbox.succeed(["compare", "web@a", "out.raw"]);
    let listing = client_succeeds(
        &sandbox,
        "nbdinfo",
        &["--list", "--", "[", VELLUM, "serve", "-q", "]"],
    );
    assert!(listing.contains("export=\"web@a\""), "{listing}");
}

#[test]
fn a_server_at_a_port_for_strangers_warns() {
    let sandbox = sandbox();
    let server = Served::run(&sandbox, &["serve", "--listen", "0", "--cache", "128M"]);
    assert!(server.uri("web").starts_with("nbd://127.0.0.1:"));
    assert!(!sandbox.path("store/nbd.sock").exists());
    server.stop();
    let mut server = Served::run(
        &sandbox,
        &["serve", "--listen", "0.0.0.0:0", "--socket", "s"],
    );
    let uris = server.greeting["uris"].as_array().map_or(0, Vec::len);
    assert_eq!((uris, Path::new("s").is_absolute()), (2, false));
    let stderr = server.child.stderr.take().expect("it was asked for");
    server.kill();
    let said = std::io::read_to_string(stderr).expect("text");
    assert!(said.contains("whoever reaches this machine"), "{said}");
    sandbox
        .run(["serve", "--tls-certs", "nowhere"])
        .expect_error(1, "nowhere");
    sandbox
        .run(["serve", "--listen", "here:there"])
        .expect_usage("is no port");
    sandbox.succeed(["check"]);
}

impl Run {
    /// Requires that the command line was refused for this reason.
    fn expect_usage(&self, what: &str) {
        assert!(
            self.code == Some(2) && self.stderr.contains(what),
            "{self:?}"
        );
    }
}

#[test]
fn images_and_snapshots_are_files_while_they_are_mounted() {
    let sandbox = sandbox();
    if !Path::new("/dev/fuse").exists() {
        eprintln!("skipped: this machine has no FUSE");
        return;
    }
    std::fs::create_dir(sandbox.path("mnt")).expect("room");
    let server = Served::run(&sandbox, &["mount", "mnt"]);
    client_succeeds(&sandbox, "cmp", &["mnt/snapshots/web@a.raw", "disk.raw"]);
    client_succeeds(
        &sandbox,
        "dd",
        &[
            "if=other.raw",
            "of=mnt/images/web.raw",
            "bs=1M",
            "conv=notrunc,fsync",
            "status=none",
        ],
    );
    sandbox.succeed(["compare", "web", "other.raw"]);
    sandbox.succeed(["snapshot", "take", "web@b"]);
    client_succeeds(&sandbox, "cmp", &["mnt/snapshots/web@b.raw", "other.raw"]);
    server.stop();
    assert_eq!(
        std::fs::read_dir(sandbox.path("mnt"))
            .expect("it is there")
            .count(),
        0
    );
    // It also ends when somebody unmounts it, and shows the same disks as NBD.
    let server = Served::run(&sandbox, &["mount", "mnt"]);
    client_succeeds(&sandbox, "umount", &["mnt"]);
    server.ended();
    let server = Served::run(&sandbox, &["serve", "--mount", "mnt"]);
    client_succeeds(
        &sandbox,
        "nbdcopy",
        &["--flush", "disk.raw", &server.uri("web")],
    );
    client_succeeds(&sandbox, "cmp", &["mnt/images/web.raw", "disk.raw"]);
    server.stop();
    sandbox.run(["mount", "store"]).expect_error(1, "not empty");
}

/// A guest: `qemu-io` with a disk that it has written to, until dropped.
struct Guest(Child);

impl Guest {
    fn start(sandbox: &Sandbox, uri: &str) -> Self {
        let mut child = Command::new("qemu-io")
            .args(["-f", "raw", uri])
            .current_dir(sandbox.path(""))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("qemu-utils is there");
        Self::ask(&mut child, "write -P 1 0 4k\nflush\n", "wrote 4096/4096");
        Self(child)
    }

    /// Types `words`, and reads until a line has `expected` in it.
    fn ask(child: &mut Child, words: &str, expected: &str) {
        let stdin = child.stdin.as_mut().expect("it was asked for");
        stdin.write_all(words.as_bytes()).expect("it listens");
        stdin.flush().expect("it listens");
        let stdout = child.stdout.as_mut().expect("it was asked for");
        let mut reader = BufReader::with_capacity(1, stdout);
        let mut line = String::new();
        while !line.contains(expected) {
            line.clear();
            let len = reader.read_line(&mut line).expect("text");
            assert!(len > 0, "it never said {expected:?}");
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_second_guest_of_an_image_does_not_start_and_readers_do() {
    let sandbox = sandbox();
    let server = Served::run(&sandbox, &["serve", "-v"]);
    let uri = server.uri("web");
    let mut first = Guest::start(&sandbox, &uri);
    let write = ["-f", "raw", "-c", "write -P 2 4k 4k", &uri];
    let second = client(&sandbox, "qemu-io", &write);
    assert_ne!(second.code, Some(0), "{second:?}");
    assert!(second.stderr.contains("Permission denied"), "{second:?}");
    assert_ne!(
        client(&sandbox, "nbdcopy", &["disk.raw", &uri]).code,
        Some(0)
    );
    // A client that only reads it is no guest.
    client_succeeds(&sandbox, "qemu-img", &["info", "-f", "raw", &uri]);
    client_succeeds(
        &sandbox,
        "qemu-io",
        &["-r", "-f", "raw", "-c", "read -P 1 0 4k", &uri],
    );
    client_succeeds(&sandbox, "nbdcopy", &[&uri, "out.raw"]);
    client_succeeds(&sandbox, "nbdinfo", &["--map", &uri]);
    Guest::ask(&mut first.0, "write -P 3 0 4k\n", "wrote 4096/4096");
    // Another image is another disk.
    sandbox.succeed(["create", "other", "-b", "web@a"]);
    client_succeeds(&sandbox, "nbdcopy", &["other.raw", &server.uri("other")]);
    drop(first);
    // Its connection may outlive it by a moment.
    let begun = Instant::now();
    while client(&sandbox, "qemu-io", &write).code != Some(0) {
        assert!(begun.elapsed() < PATIENCE, "the image stays taken");
    }
    let pid = server.child.id();
    signal(&server.child, Signal::TERM);
    let said = server.ended_saying();
    for expected in [
        "(qemu-io) of user ",
        ": attached web, to write",
        ": web can only be read: process ",
        ": left web after ",
        ": attached other, to write",
    ] {
        assert!(said.contains(expected), "{expected:?} is not in\n{said}");
    }
    let is_event =
        |line: &str| line.starts_with("{\"message_type\":\"event\",\"message\":\"process ");
    assert!(said.lines().all(is_event), "{pid}: {said}");
}

/// Live migration: the target opens the disk while the source has it, and writes when the source
/// has stopped.
#[test]
fn a_guest_that_moves_takes_its_image_along() {
    let sandbox = sandbox();
    let server = Served::run(&sandbox, &["serve", "--takeover"]);
    let uri = server.uri("web");
    let mut source = Guest::start(&sandbox, &uri);
    let target = Guest::start(&sandbox, &uri);
    Guest::ask(
        &mut source.0,
        "write -P 3 0 4k\n",
        "write failed: Operation not permitted",
    );
    drop(source);
    drop(target);
    server.stop();
    sandbox.succeed(["check", "--read-data"]);
}

/// Programs that only ask leave the store as it was: nothing is made, nothing is held.
#[test]
fn who_only_looks_changes_nothing() {
    let sandbox = sandbox();
    sandbox.succeed(["clone", "web", "gold"]);
    sandbox.succeed(["modify", "gold", "--type", "multiattach"]);
    let server = Served::start(&sandbox);
    let before = sandbox.names();
    client_succeeds(&sandbox, "nbdinfo", &["--list", &server.uri("")]);
    client_succeeds(
        &sandbox,
        "nbdinfo",
        &["--no-content", &server.uri("gold+one")],
    );
    assert_eq!(sandbox.names(), before);
    server.stop();
}
