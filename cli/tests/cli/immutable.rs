//! Immutable images under real clients: what was written goes when a machine is switched on, and at
//! no other time.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::sandbox::{PATIENCE, Sandbox, client, client_succeeds};
use crate::server::Served;

const DISK_LEN: usize = 4 << 20;

/// A store with the immutable image `kiosk`, which reads as 1 everywhere.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path("ones.raw"), vec![1; DISK_LEN]).expect("room");
    sandbox.succeed(["import", "ones.raw", "kiosk"]);
    sandbox.succeed(["modify", "kiosk", "--type", "immutable"]);
    sandbox
}

/// Does something with a disk, as a guest that is switched on and off again.
fn guest(sandbox: &Sandbox, uri: &str, command: &str) {
    client_succeeds(sandbox, "qemu-io", &["-f", "raw", "-c", command, uri]);
}

/// True if a disk begins so, for one who reads it.
fn begins(sandbox: &Sandbox, uri: &str, value: u8) -> bool {
    let command = format!("read -P {value} 0 64k");
    let run = client(
        sandbox,
        "qemu-io",
        &["-r", "-f", "raw", "-c", &command, uri],
    );
    run.code == Some(0)
}

/// A goodbye arrives a moment after its client has gone.
fn soon_begins(sandbox: &Sandbox, uri: &str, value: u8) {
    let begun = Instant::now();
    while !begins(sandbox, uri, value) {
        assert!(begun.elapsed() < PATIENCE, "{uri} never reads as {value}");
    }
}

fn written(sandbox: &Sandbox, scratch: &str) -> u8 {
    sandbox.succeed(["export", scratch, "out.raw", "--force"]);
    std::fs::read(sandbox.path("out.raw")).expect("exported")[100]
}

/// A guest that stays: it waits for a server that is gone, and connects again.
struct Running(Child);

impl Running {
    fn start(sandbox: &Sandbox, export: &str) -> Self {
        let socket = sandbox.path("store/nbd.sock");
        let image = format!(
            "driver=nbd,server.type=unix,server.path={},export={export},reconnect-delay=60",
            socket.display()
        );
        let child = Command::new("qemu-io")
            .args(["--image-opts", &image])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("qemu-utils is there");
        Self(child)
    }

    /// Says `words`, one line, and reads the answer: all lines up to one with `last` in it.
    fn ask(&mut self, words: &str, last: &str) -> String {
        let stdin = self.0.stdin.as_mut().expect("it was asked for");
        writeln!(stdin, "{words}")
            .and_then(|()| stdin.flush())
            .expect("it listens");
        let mut reader = BufReader::with_capacity(1, self.0.stdout.as_mut().expect("asked for"));
        let mut said = String::new();
        while !said.contains(last) {
            let len = reader.read_line(&mut said).expect("text");
            assert!(len > 0, "{words}: it never said {last:?}, but {said}");
        }
        said
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_running_guest_finds_its_writes_after_the_server_was_restarted() {
    let sandbox = sandbox();
    let server = Served::start(&sandbox);
    let mut guest = Running::start(&sandbox, "kiosk");
    let mut server = Some(server);
    for (value, kills) in [(7, true), (8, false), (9, true)] {
        guest.ask(&format!("write -f -P {value} 0 64k"), "wrote 65536");
        let last = server.take().expect("one runs");
        if kills {
            last.kill();
        } else {
            last.stop();
        }
        server = Some(Served::start(&sandbox));
        let said = guest.ask(&format!("read -P {value} 0 64k"), "read 65536");
        assert!(!said.contains("failed"), "{said}");
        assert_eq!(written(&sandbox, "kiosk+scratch"), value);
    }
    // One that crashed, and is started again, finds them as well: nobody switched it off.
    drop(guest);
    let server = server.expect("one runs");
    assert!(begins(&sandbox, &server.uri("kiosk"), 9));
    server.stop();
    sandbox.succeed(["check", "--read-data"]);
}

#[test]
fn what_was_written_goes_with_the_next_guest_that_writes_and_with_nobody_who_looks() {
    let sandbox = sandbox();
    sandbox.succeed(["clone", "kiosk", "gold"]);
    sandbox.succeed(["modify", "gold", "--type", "multiattach"]);
    let server = Served::start(&sandbox);
    let uri = server.uri("kiosk");
    guest(&sandbox, &uri, "write -P 7 0 64k");
    soon_begins(&sandbox, &uri, 1);
    let before = sandbox.names();
    for _ in 0..2 {
        client_succeeds(&sandbox, "nbdinfo", &[&uri]);
        client_succeeds(&sandbox, "nbdinfo", &["--map", &uri]);
        client_succeeds(&sandbox, "nbdinfo", &["--list", &server.uri("")]);
        client_succeeds(&sandbox, "qemu-img", &["info", "-f", "raw", &uri]);
        client_succeeds(&sandbox, "qemu-img", &["map", "-f", "raw", &uri]);
        client_succeeds(&sandbox, "nbdcopy", &[&uri, "copy.raw"]);
        client_succeeds(&sandbox, "cmp", &["copy.raw", "ones.raw"]);
        // Opened to write, and left without.
        guest(&sandbox, &uri, "read -P 1 0 64k");
        guest(&sandbox, &uri, "flush");
        client_succeeds(&sandbox, "nbdinfo", &[&server.uri("gold+one")]);
    }
    assert_eq!(sandbox.names(), before, "nothing was made");
    assert_eq!(written(&sandbox, "kiosk+scratch"), 7, "nothing was reset");
    guest(&sandbox, &uri, "write -P 8 1M 64k");
    assert_eq!(written(&sandbox, "kiosk+scratch"), 1);
    server.stop();
    sandbox.succeed(["check", "--read-data"]);
}

#[test]
fn each_machine_writes_to_its_own_until_it_is_switched_on() {
    let sandbox = sandbox();
    for machine in ["vm1", "vm2"] {
        sandbox.succeed(["machine", "create", machine]);
        sandbox.succeed(["machine", "add-disk", machine, "kiosk"]);
        sandbox.succeed(["machine", "start", machine]);
    }
    sandbox
        .run(["machine", "start", "vm1"])
        .expect_error(1, "runs already");
    let server = Served::start(&sandbox);
    let exports = ["vm1", "vm2"].map(|machine| {
        let run_args = ["machine", "run-args", machine, "--socket", "s", "--json"];
        let answer: serde_json::Value =
            serde_json::from_str(&sandbox.succeed(run_args)).expect("JSON");
        let block = answer["arguments"][1].as_str().expect("a word");
        let block: serde_json::Value = serde_json::from_str(block).expect("JSON");
        block["export"].as_str().expect("a name").to_owned()
    });
    assert_eq!(exports, ["kiosk", "kiosk+vm2"]);
    let uris = exports.each_ref().map(|export| server.uri(export));
    // Several programs are one guest, as long as its machine runs.
    for (uri, value) in uris.iter().zip([7, 8]) {
        guest(&sandbox, uri, &format!("write -P {value} 0 64k"));
        guest(&sandbox, uri, &format!("read -P {value} 0 64k"));
    }
    guest(&sandbox, &uris[0], "write -P 7 1M 64k");
    assert!(begins(&sandbox, &uris[0], 7) && begins(&sandbox, &uris[1], 8));
    sandbox.succeed(["machine", "snapshot", "take", "vm1@online"]);
    guest(&sandbox, &uris[0], "write -P 9 0 64k");
    sandbox.succeed(["machine", "stop", "vm1"]);
    sandbox.succeed(["machine", "snapshot", "restore", "vm1@online"]);
    assert!(begins(&sandbox, &uris[0], 7), "what it had at the snapshot");
    sandbox.succeed(["machine", "start", "vm1"]);
    assert!(begins(&sandbox, &uris[0], 7), "and what it starts with");
    sandbox.succeed(["machine", "stop", "vm2"]);
    sandbox.succeed(["machine", "start", "vm2"]);
    assert!(begins(&sandbox, &uris[1], 1), "it starts with the image");
    sandbox
        .run(["machine", "stop", "vm3"])
        .expect_error(1, "vm3");
    server.stop();
    sandbox.succeed(["check", "--read-data"]);
}

#[test]
fn a_machine_whose_guest_writes_cannot_be_switched_on() {
    let sandbox = sandbox();
    sandbox.succeed(["machine", "create", "vm"]);
    sandbox.succeed(["machine", "add-disk", "vm", "kiosk"]);
    let server = Served::start(&sandbox);
    let mut guest = Running::start(&sandbox, "kiosk");
    guest.ask("read -P 1 0 64k", "read 65536");
    guest.ask("write -P 7 0 64k", "wrote 65536");
    sandbox
        .run(["machine", "start", "vm"])
        .expect_error(1, "attached");
    sandbox
        .run(["machine", "remove-disk", "vm", "kiosk"])
        .expect_error(1, "attached");
    guest.ask("read -P 7 0 64k", "read 65536");
    drop(guest);
    let begun = Instant::now();
    while sandbox.run(["machine", "start", "vm"]).code != Some(0) {
        assert!(begun.elapsed() < PATIENCE, "it stays attached");
    }
    assert!(begins(&sandbox, &server.uri("kiosk"), 1));
    server.stop();
}
