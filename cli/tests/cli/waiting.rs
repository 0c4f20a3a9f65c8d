//! `--wait`: a command waits for the store that another process is changing, says so once, and ends
//! when it may, when it must, or when it is told to.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::sandbox::{PATIENCE, Run, Sandbox, signal};
use crate::server::Served;

/// Long enough that an import of it tells more of its progress than a pipe has room for.
const DISK_LEN: usize = 128 << 20;

/// A store that an import holds as long as nobody reads what it says.
fn held_store() -> (Sandbox, Child) {
    let sandbox = Sandbox::new();
    sandbox.random_file("disk.raw", DISK_LEN, 1);
    let holder = sandbox.held_up(["import", "disk.raw", "web"]);
    (sandbox, holder)
}

fn start(sandbox: &Sandbox, line: &str) -> Child {
    let mut command = sandbox.command(line.split(' '));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("it starts")
}

fn finished(child: Child) -> Run {
    Run::of(child.wait_with_output().expect("it ends"))
}

#[test]
fn a_command_waits_until_the_store_is_free_and_says_for_whom() {
    let (sandbox, holder) = held_store();
    let mut waiting = start(&sandbox, "create new 1M --wait");
    let mut told = String::new();
    let mut errors = BufReader::new(waiting.stderr.take().expect("it is piped"));
    errors.read_line(&mut told).expect("it says that it waits");
    assert!(
        told.starts_with("waiting: ")
            && told.contains(&format!("process {}", holder.id()))
            && told.contains("vellum import disk.raw web"),
        "{told}"
    );
    let quiet = start(&sandbox, "create other 1M --wait=100 -q");
    // What only looks does not wait.
    assert_eq!(sandbox.succeed(["list", "--wait", "--json"]).trim(), "[]");
    assert_eq!(finished(holder).code, Some(0));
    assert_eq!(waiting.wait().expect("it ends").code(), Some(0));
    told.clear();
    errors.read_line(&mut told).expect("it ended");
    assert_eq!(told, "", "it is said once");
    let quiet = finished(quiet);
    assert_eq!((quiet.code, quiet.stderr.as_str()), (Some(0), ""));
    assert_eq!(sandbox.names(), ["new", "other", "web"]);
}

#[test]
fn a_wait_ends_with_its_time_or_a_signal() {
    let (sandbox, holder) = held_store();
    let at_once = sandbox.run(["create", "new", "1M"]);
    at_once.expect_error(11, "is in use by process");
    assert!(at_once.stderr.contains("--wait"), "{at_once:?}");
    let begun = Instant::now();
    let run = sandbox.run(["create", "new", "1M", "--wait=1"]);
    assert!(begun.elapsed() >= Duration::from_secs(1), "{run:?}");
    assert_eq!(run.code, Some(11), "{run:?}");
    assert_eq!(run.stderr.matches("waiting: ").count(), 1, "{run:?}");
    let run = sandbox.run(["create", "new", "1M", "--wait=1", "--json"]);
    let first = run.stderr.lines().next().unwrap_or_default();
    let event: serde_json::Value = serde_json::from_str(first).expect("JSON");
    assert_eq!(event["message_type"], "event", "{run:?}");
    let mut waiting = start(&sandbox, "create new 1M --wait");
    let mut told = String::new();
    let errors = waiting.stderr.take().expect("it is piped");
    BufReader::new(errors)
        .read_line(&mut told)
        .expect("it waits");
    signal(&waiting, Signal::INT);
    assert_eq!(waiting.wait().expect("it ends").code(), Some(130));
    assert_eq!(finished(holder).code, Some(0));
    assert_eq!(sandbox.names(), ["web"]);
}

/// Where a server's socket is that nobody answers, each look is an attempt: it is said once
/// nevertheless.
#[test]
fn many_attempts_are_told_once() {
    let (sandbox, holder) = held_store();
    std::fs::write(sandbox.path("store/control"), "").expect("room");
    let begun = Instant::now();
    let run = sandbox.run(["create", "new", "1M", "--wait=2"]);
    assert!(begun.elapsed() >= Duration::from_secs(2), "{run:?}");
    assert_eq!(run.code, Some(11), "{run:?}");
    assert_eq!(run.stderr.matches("waiting: ").count(), 1, "{run:?}");
    assert_eq!(finished(holder).code, Some(0));
}

/// Nobody waits for a server, which does the command.
#[test]
fn a_served_store_is_free() {
    let sandbox = Sandbox::new();
    let server = Served::start(&sandbox);
    let run = sandbox.run(["create", "new", "1M", "--wait"]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    server.stop();
}

/// A server may get the store before those who waited longer: then it does their commands.
#[test]
fn a_server_that_waited_too_does_the_others_commands() {
    let (sandbox, holder) = held_store();
    let server = start(&sandbox, "serve --wait -q");
    let waiting: Vec<Child> = (0..4)
        .map(|nth| start(&sandbox, &format!("create new{nth} 1M --wait=100 -q")))
        .collect();
    assert_eq!(finished(holder).code, Some(0));
    for child in waiting {
        let run = finished(child);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    }
    let begun = Instant::now();
    while !sandbox.path("store/control").exists() {
        assert!(begun.elapsed() < PATIENCE, "no server");
        std::thread::sleep(Duration::from_millis(10));
    }
    signal(&server, Signal::TERM);
    assert_eq!(finished(server).code, Some(0));
    assert_eq!(sandbox.names().len(), 5);
}
