//! Work that is stopped halfway leaves nothing half visible, and a store that the next command
//! opens.

use std::io::Write;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::sandbox::{PATIENCE, Run, Sandbox, VELLUM, signal};
use crate::server::Served;

/// Long enough that work on it tells more of its progress than a pipe has room for.
const DISK_LEN: usize = 128 << 20;

/// An import of `file` that has begun and is not done.
fn import_under_way(sandbox: &Sandbox, file: &str, name: &str) -> Child {
    sandbox.held_up(["import", file, name, "--snapshot", "whole"])
}

fn finished(child: Child) -> Run {
    Run::of(child.wait_with_output().expect("it ends"))
}

/// Requires that the store is as before `name` was begun, and takes it now.
fn assert_begun_again(sandbox: &Sandbox, name: &str) {
    assert_eq!(sandbox.names(), Vec::<String>::new());
    sandbox.succeed(["import", "disk.raw", name]);
    sandbox.succeed(["compare", name, "disk.raw"]);
    sandbox.succeed(["check", "--read-data"]);
}

#[test]
fn an_import_stopped_by_a_signal_leaves_no_image() {
    for (number, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let sandbox = Sandbox::new();
        sandbox.random_file("disk.raw", DISK_LEN, 1);
        let child = import_under_way(&sandbox, "disk.raw", "web");
        signal(&child, number);
        let run = finished(child);
        assert_eq!(run.code, Some(code), "{run:?}");
        assert!(run.stderr.contains("\"interrupted\""), "{run:?}");
        assert_begun_again(&sandbox, "web");
    }
}

#[test]
fn an_import_that_is_killed_leaves_no_image() {
    let sandbox = Sandbox::new();
    sandbox.random_file("disk.raw", DISK_LEN, 1);
    let child = import_under_way(&sandbox, "disk.raw", "web");
    signal(&child, Signal::KILL);
    assert_eq!(finished(child).code, None);
    assert_begun_again(&sandbox, "web");
}

#[test]
fn an_export_stopped_by_a_signal_leaves_no_file() {
    let sandbox = Sandbox::new();
    sandbox.random_file("disk.raw", DISK_LEN, 1);
    sandbox.succeed(["import", "disk.raw", "web"]);
    std::fs::remove_file(sandbox.path("disk.raw")).expect("it is there");
    std::fs::create_dir(sandbox.path("out")).expect("a folder");
    let child = sandbox.held_up(["export", "web", "out/web.raw"]);
    signal(&child, Signal::INT);
    let run = finished(child);
    assert_eq!(run.code, Some(130), "{run:?}");
    assert_eq!(
        std::fs::read_dir(sandbox.path("out"))
            .expect("a folder")
            .count(),
        0
    );
}

#[test]
fn a_pipe_that_says_nothing_can_be_left() {
    let sandbox = Sandbox::new();
    for silent in ["-", "pipe"] {
        if silent == "pipe" {
            rustix::fs::mknodat(
                rustix::fs::CWD,
                sandbox.path("pipe"),
                rustix::fs::FileType::Fifo,
                0o600.into(),
                0,
            )
            .expect("a pipe");
        }
        let mut command = sandbox.command(["import", silent, "web"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let _open = child.stdin.take();
        await_ownership(&sandbox, &child);
        signal(&child, Signal::INT);
        assert_eq!(finished(child).code, Some(130));
        assert_eq!(sandbox.names(), Vec::<String>::new());
    }
}

/// Waits until `child` has the store. To try for it would keep the child from getting it.
fn await_ownership(sandbox: &Sandbox, child: &Child) {
    let started = Instant::now();
    let owner = || std::fs::read_to_string(sandbox.path("store/lock")).unwrap_or_default();
    while !owner().contains(&format!("process {} ", child.id())) {
        assert!(started.elapsed() < PATIENCE, "the store has {:?}", owner());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_store_that_another_process_changes_can_still_be_read() {
    let sandbox = Sandbox::new();
    sandbox.random_file("disk.raw", 1 << 20, 1);
    sandbox.succeed(["import", "disk.raw", "web"]);
    let mut command = sandbox.command(["import", "-", "piped"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    await_ownership(&sandbox, &child);
    sandbox.run(["gc"]).expect_error(
        11,
        &format!("in use by process {} (vellum import - piped)", child.id()),
    );
    assert_eq!(sandbox.names(), ["web"]);
    for command in [
        "tree",
        "info web",
        "map web",
        "compare web disk.raw",
        "export web out.raw",
        "check --read-data",
        "gc -n",
        "stats",
    ] {
        sandbox.succeed(command.split_whitespace());
    }
    child
        .stdin
        .take()
        .expect("it has one")
        .write_all(b"the rest")
        .expect("it reads");
    assert_eq!(finished(child).code, Some(0));
    assert_eq!(sandbox.names(), ["piped", "web"]);
}

#[test]
fn a_pipe_whose_producer_fails_stores_nothing() {
    let sandbox = Sandbox::new();
    for (command, why) in [
        (
            &["import", "-", "web", "--", "sh", "-c", "echo some; exit 3"][..],
            "exit status: 3",
        ),
        (
            &[
                "import",
                "-",
                "web",
                "--",
                "sh",
                "-c",
                "echo some; kill -9 $$",
            ],
            "signal: 9",
        ),
        (
            &["import", "-", "web", "--", "/no/such/program"],
            "/no/such/program",
        ),
        (
            &["import", "-", "web", "--size", "1M", "--", "echo", "some"],
            "after 5 of 1048576 bytes",
        ),
        (
            &["import", "-", "web", "--size", "4", "--", "echo", "some"],
            "more than the 4 bytes",
        ),
        (
            &["import", "-", "web", "--", "true"],
            "before its first byte",
        ),
        (&["import", "-", "web"], "before its first byte"),
    ] {
        sandbox.run(command.iter()).expect_error(1, why);
        assert_eq!(sandbox.names(), Vec::<String>::new());
    }
}

#[test]
fn a_source_that_shrinks_while_it_is_read_stores_nothing() {
    let sandbox = Sandbox::new();
    let path = sandbox.random_file("disk.raw", DISK_LEN, 1);
    let child = import_under_way(&sandbox, "disk.raw", "web");
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|file| file.set_len(1 << 20))
        .expect("it is ours");
    let run = finished(child);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert_eq!(sandbox.names(), Vec::<String>::new());
}

#[test]
fn a_source_that_is_written_while_it_is_read_stores_nothing() {
    let sandbox = Sandbox::new();
    let path = sandbox.random_file("disk.raw", DISK_LEN, 1);
    let child = import_under_way(&sandbox, "disk.raw", "web");
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(b"new"))
        .expect("it is ours");
    let run = finished(child);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("changed while it was read"), "{run:?}");
    assert_eq!(sandbox.names(), Vec::<String>::new());
}

#[test]
fn who_asks_is_told_how_far_it_is() {
    let sandbox = Sandbox::new();
    sandbox.random_file("disk.raw", DISK_LEN, 1);
    let child = import_under_way(&sandbox, "disk.raw", "web");
    signal(&child, Signal::USR1);
    let run = finished(child);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(
        run.stderr.starts_with("importing web: ") && run.stderr.contains(" of 128 MiB"),
        "{run:?}"
    );
    assert!(
        run.stdout
            .lines()
            .last()
            .is_some_and(|line| line.contains("\"summary\"")),
        "{run:?}"
    );
}

/// A terminal that goes sends its hangup more than once.
#[test]
fn a_hangup_stops_a_server_in_order_unless_it_is_to_be_ignored() {
    let sandbox = Sandbox::new();
    sandbox.succeed(["create", "web", "1G"]);
    let server = Served::start(&sandbox);
    (0..3).for_each(|_| signal(&server.child, Signal::HUP));
    server.ended();
    assert!(!sandbox.path("store/nbd.sock").exists());
    assert!(!sandbox.path("store/control").exists());

    let script = "trap '' HUP; exec \"$0\" serve --json";
    let server = Served::of(sandbox.command_line("sh", ["-c", script, VELLUM]));
    signal(&server.child, Signal::HUP);
    // It would have noticed by the time it has done a command.
    sandbox.succeed(["snapshot", "take", "web@a"]);
    std::thread::sleep(Duration::from_millis(300));
    sandbox.succeed(["snapshot", "take", "web@b"]);
    assert!(sandbox.path("store/nbd.sock").exists());
    server.stop();
}

/// A server that takes requests and never answers: a command that asked it waited a minute for its
/// end after SIGTERM.
#[test]
fn a_request_that_hangs_holds_no_command_that_is_to_stop() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("it is bound"));
    let (asked, is_asked) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming().flatten() {
            held.push(stream);
            let _ = asked.send(());
        }
    });
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(["backup", "list", "s3://disks/a"]);
    command
        .env("AWS_ENDPOINT", address)
        .env("AWS_ALLOW_HTTP", "true")
        .env("AWS_ACCESS_KEY_ID", "somebody")
        .env("AWS_SECRET_ACCESS_KEY", "something")
        .env("AWS_REGION", "here")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().expect("it starts");
    is_asked.recv_timeout(PATIENCE).expect("it asks");
    let begun = Instant::now();
    signal(&child, Signal::TERM);
    let run = finished(child);
    assert_eq!(run.code, Some(143), "{run:?}");
    assert!(run.stderr.contains("interrupted"), "{run:?}");
    assert!(begun.elapsed() < Duration::from_secs(4), "{begun:?}");
}
