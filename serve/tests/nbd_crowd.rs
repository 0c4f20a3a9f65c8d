//! Crowds of clients cost little: idle ones, and greedy ones. In a process of its own, since it
//! counts memory.

use std::fs;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use client::{Client, FIXED, Form, READ, WRITE};
use memory::{Devices, Memory};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vellum_serve::nbd::{NbdServer, ServerOptions, StoppedServer};

#[path = "nbd/client.rs"]
#[expect(dead_code, reason = "the other tests use the rest")]
mod client;
#[path = "nbd/memory.rs"]
#[expect(dead_code, reason = "the other tests use the rest")]
mod memory;

/// What one measures the other must not add to.
static ALONE: Mutex<()> = Mutex::new(());

const CROWD: usize = 1000;
/// A thread's touched stack, its buffers, and the test's own side.
const KIB_PER_CLIENT_MAX: usize = 128;

fn resident_kib() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("it has a size");
    line.trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("it is a number")
}

#[test]
fn a_thousand_idle_clients_cost_little_and_keep_nobody_out() {
    let _alone = ALONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    )
    .expect("the soft limit can be raised");
    let disk = Arc::new(Memory::new(vec![1; 8 << 20]));
    // Some of them never end their handshake, however long the others take.
    let options = ServerOptions {
        handshake_time: Duration::from_hours(1),
        ..ServerOptions::default()
    };
    let server = NbdServer::start_server(Arc::new(Devices(vec![("disk", disk)])), options)
        .expect("a server starts");
    let folder = tempfile::TempDir::new().expect("a folder can be made");
    server
        .listen_unix(&folder.path().join("s"))
        .expect("a fresh socket can be had");
    let connect = || UnixStream::connect(folder.path().join("s")).expect("the server listens");
    let before = resident_kib();
    // The others have worked before they fell idle: what they used is given back.
    let crowd: Vec<_> = (0..CROWD)
        .map(|nth| {
            if nth % 5 == 0 {
                return Client::greet(connect(), FIXED);
            }
            let mut client = Client::enter(connect(), Form::Structured, "disk", &[]);
            for len in [4096, 60_000, 2 << 20] {
                assert_eq!(client.call(0, READ, 0, len, b"").error, 0);
            }
            client
        })
        .collect();
    assert_eq!(server.client_count(), CROWD);
    let grown = resident_kib() - before;
    println!("{CROWD} idle clients: {grown} KiB");
    assert!(grown < CROWD * KIB_PER_CLIENT_MAX, "{grown} KiB");
    let mut late = Client::enter(connect(), Form::Structured, "disk", &[]);
    assert_eq!(late.call(0, READ, 0, 4096, b"").error, 0);
    assert_eq!(
        server.stop_within(Duration::from_mins(1)),
        StoppedServer {
            cut_off: 0,
            unfinished: 0
        }
    );
    drop((crowd, late));
}

const GREEDY: usize = 200;
const REQUEST_LEN: u64 = 32 << 20;
const REQUESTS_LEN: u64 = 16 << 20;

/// Each has a request of 32 MiB under way that does not end: half of them never read what they
/// asked for, half stop in the middle of what they write.
#[test]
fn greedy_clients_take_no_more_than_the_budget() {
    let _alone = ALONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let disk = Arc::new(Memory::new(vec![1; REQUEST_LEN as usize]));
    let options = ServerOptions {
        requests_len: REQUESTS_LEN,
        ..ServerOptions::default()
    };
    let server = NbdServer::start_server(Arc::new(Devices(vec![("disk", disk)])), options)
        .expect("a server starts");
    let folder = tempfile::TempDir::new().expect("a folder can be made");
    server
        .listen_unix(&folder.path().join("s"))
        .expect("a fresh socket can be had");
    let connect = || UnixStream::connect(folder.path().join("s")).expect("the server listens");
    let before = resident_kib();
    let half = vec![2; 3 << 20];
    let crowd: Vec<_> = (0..GREEDY)
        .map(|nth| {
            let mut client = Client::enter(connect(), Form::Structured, "disk", &[]);
            if nth % 2 == 0 {
                for _ in 0..4 {
                    client.send(0, READ, 0, REQUEST_LEN, b"");
                }
            } else {
                client.send(0, WRITE, 0, REQUEST_LEN, &half);
            }
            client
        })
        .collect();
    let mut honest = Client::enter(connect(), Form::Structured, "disk", &[]);
    for len in [4096, 100_000, 4 << 20] {
        assert_eq!(honest.call(0, READ, 0, len, b"").error, 0);
    }
    // What an earlier test took may have been given back meanwhile.
    let grown = resident_kib().saturating_sub(before);
    println!("{GREEDY} greedy clients: {grown} KiB");
    // What every client may have of its own, and twice the budget for what the allocator keeps.
    let allowed = GREEDY * 2 * KIB_PER_CLIENT_MAX + 2 * REQUESTS_LEN as usize / 1024;
    assert!(grown < allowed, "{grown} KiB");
    server.stop_within(Duration::ZERO);
    drop((crowd, honest));
}
