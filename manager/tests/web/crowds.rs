//! Many connections, and slow ones: the server goes on for who is signed in.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::fake_store::FakeManager;
use crate::raw_client::Browser;

/// A bounded time for one page on a busy machine.
const ANSWER_TIME: Duration = Duration::from_secs(10);

#[test]
fn ten_thousand_connections_keep_nobody_out() {
    let manager = FakeManager::open();
    let browser = Browser::sign_in(&manager);
    let address = manager.server.local_address();
    let mut held = Vec::new();
    for nth in 0..10_000 {
        if let Ok(mut socket) = TcpStream::connect(address) {
            let _ = socket.write_all(b"GET / HTTP/1.1\r\nHost: ");
            held.push(socket);
        }
        // Descriptors of this process are few; those that are closed here count as well.
        if held.len() > 500 {
            held.drain(..250);
        }
        if nth % 2500 == 0 {
            let asked = Instant::now();
            assert_eq!(browser.get("/rows").status, 200);
            assert!(asked.elapsed() < ANSWER_TIME, "{:?}", asked.elapsed());
        }
    }
    assert_eq!(browser.get("/rows").status, 200);
}

#[test]
fn slow_requests_hold_up_nobody() {
    let manager = FakeManager::open();
    let browser = Browser::sign_in(&manager);
    let address = manager.server.local_address();
    let slow_body = format!(
        "POST /run HTTP/1.1\r\nHost: {address}\r\nCookie: {}\r\nOrigin: http://{address}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000\r\n\r\ndo=delete",
        browser.cookie
    );
    let mut slow = Vec::new();
    for _ in 0..64 {
        for start in ["GET / HTTP/1.1\r\nHo", &slow_body] {
            let mut socket = TcpStream::connect(address).expect("it listens");
            socket.write_all(start.as_bytes()).expect("it reads");
            slow.push(socket);
        }
    }
    let asked = Instant::now();
    assert_eq!(browser.get("/rows").status, 200);
    assert!(asked.elapsed() < ANSWER_TIME, "{:?}", asked.elapsed());
    assert_eq!(manager.store.commands(), Vec::<Vec<String>>::new());
}

#[test]
fn a_head_that_does_not_come_is_given_up() {
    let manager = FakeManager::open();
    let mut socket = TcpStream::connect(manager.server.local_address()).expect("it listens");
    socket.write_all(b"GET / HTTP/1.1\r\n").expect("it reads");
    socket
        .set_read_timeout(Some(Duration::from_mins(1)))
        .expect("a timeout");
    let mut rest = Vec::new();
    let ended = socket.read_to_end(&mut rest);
    assert!(
        ended.is_ok(),
        "it was closed, with or without a word: {ended:?}"
    );
}

#[test]
fn a_manager_ends_although_windows_listen_and_jobs_run() {
    let manager = FakeManager::open();
    let browser = Browser::sign_in(&manager);
    let address = manager.server.local_address();
    let mut window = TcpStream::connect(address).expect("it listens");
    let request = format!(
        "GET /events HTTP/1.1\r\nHost: {address}\r\nCookie: {}\r\nSec-Fetch-Site: same-origin\r\n\r\n",
        browser.cookie
    );
    window.write_all(request.as_bytes()).expect("it reads");
    let mut first = [0; 64];
    assert!(window.read(&mut first).expect("it answers") > 0);
    assert_eq!(browser.post("/run", "do=flatten&node=web").status, 303);
    let ending = Instant::now();
    assert!(manager.server.stop_within(Duration::from_secs(5)));
    assert!(
        ending.elapsed() < Duration::from_secs(10),
        "{:?}",
        ending.elapsed()
    );
    assert!(TcpStream::connect(address).is_err());
}
