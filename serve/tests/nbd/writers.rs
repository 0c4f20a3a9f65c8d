//! Which of several clients may write. Clients are told apart by the addresses that they come from.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use vellum_serve::nbd::ServerOptions;

use crate::client::{
    Client, DISC, FIXED, FLUSH, FUA, Form, NO_ZEROES, OPT_GO, READ, TRIM, WRITE, WRITE_ZEROES, wish,
};
use crate::memory::GRID;
use crate::world::{World, noise};

const EPERM: u32 = 1;
const READ_ONLY: u16 = 2;

struct Host {
    server: SocketAddr,
    own: Ipv4Addr,
}

impl Host {
    fn new(world: &World, last: u8) -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            server: world.server.listen_tcp(any).expect("a port is free"),
            own: Ipv4Addr::new(127, 0, 0, last),
        }
    }

    fn connect(&self) -> TcpStream {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        bind(&socket, &SocketAddr::from((self.own, 0)))
            .expect("all of 127.0.0.0/8 is this machine");
        connect(&socket, &self.server).expect("it listens");
        TcpStream::from(socket)
    }

    fn enter(&self) -> Client<TcpStream> {
        Client::enter(self.connect(), Form::Structured, "disk", &[])
    }

    /// Whether a new client is told that it may only read.
    fn is_told_read_only(&self) -> bool {
        let mut client = Client::greet(self.connect(), FIXED | NO_ZEROES);
        let answer = client.ask(OPT_GO, &wish("disk", &[]));
        let flags = u16::from_be_bytes(answer[0].1[10..12].try_into().expect("two bytes"));
        flags & READ_ONLY != 0
    }
}

fn write(client: &mut Client<TcpStream>) -> u32 {
    client.call(0, WRITE, 0, 5, b"bytes").error
}

#[test]
fn a_second_guest_reads_and_does_not_write() {
    let world = World::new(noise(GRID, 1));
    let (first, second) = (Host::new(&world, 1), Host::new(&world, 2));
    let (mut one, mut other, mut late) = (first.enter(), first.enter(), second.enter());
    assert!(!second.is_told_read_only(), "nobody has written");
    assert_eq!(one.call(FUA, WRITE, 0, 3, b"abc").error, 0);
    assert_eq!(
        write(&mut other),
        0,
        "another connection of the same client"
    );
    for (command, payload) in [(WRITE, &b"x"[..]), (WRITE_ZEROES, b""), (TRIM, b"")] {
        assert_eq!(late.call(0, command, 0, 1, payload).error, EPERM);
    }
    assert_eq!(late.call(0, READ, 0, 5, b"").bytes(0, 5), b"bytes");
    assert_eq!(late.call(0, FLUSH, 0, 0, b"").error, 0);
    assert!(second.is_told_read_only());
    assert!(!first.is_told_read_only());
    // It stays the writer as long as one of its connections does.
    drop(one);
    await_count(&world, 2);
    assert_eq!(write(&mut late), EPERM);
    drop(other);
    await_count(&world, 1);
    assert_eq!(write(&mut late), 0);
    assert!(first.is_told_read_only());
}

/// Large writes are written in pieces: each is one that needs the right.
#[test]
fn a_large_write_of_a_second_guest_writes_nothing() {
    let world = World::new(noise(9 << 20, 1));
    let (first, second) = (Host::new(&world, 1), Host::new(&world, 2));
    let (mut one, mut late) = (first.enter(), second.enter());
    assert_eq!(write(&mut one), 0);
    let before = world.disk.content();
    let payload = vec![7; 9 << 20];
    assert_eq!(late.call(0, WRITE, 0, 9 << 20, &payload).error, EPERM);
    assert!(world.disk.content() == before);
    assert_eq!(late.call(0, READ, 0, 1, b"").error, 0, "it goes on");
}

#[test]
fn with_takeover_the_target_of_a_migration_writes_and_the_source_no_more() {
    let options = ServerOptions {
        takeover: true,
        ..ServerOptions::default()
    };
    let world = World::with(noise(GRID, 1), options);
    let (source_host, target_host) = (Host::new(&world, 1), Host::new(&world, 2));
    let mut source = source_host.enter();
    assert_eq!(write(&mut source), 0);
    assert!(
        !target_host.is_told_read_only(),
        "it opens while the source holds"
    );
    let mut target = target_host.enter();
    assert_eq!(write(&mut source), 0);
    assert_eq!(target.call(0, WRITE, 0, 5, b"moved").error, 0);
    assert_eq!(write(&mut source), EPERM);
    assert_eq!(source.call(0, READ, 0, 5, b"").bytes(0, 5), b"moved");
    assert!(source_host.is_told_read_only());
}

#[test]
fn a_disk_that_is_made_for_several_writers_has_them() {
    let world = World::new(noise(GRID, 1));
    world.disk.make_shareable();
    let (first, second) = (Host::new(&world, 1), Host::new(&world, 2));
    let (mut one, mut other) = (first.enter(), second.enter());
    for client in [&mut one, &mut other] {
        assert_eq!(write(client), 0);
    }
    assert!(!second.is_told_read_only());
}

#[test]
fn whoever_watches_hears_who_comes_goes_and_fails() {
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = Arc::clone(&lines);
    let options = ServerOptions {
        report: Some(Arc::new(move |line: &str| {
            kept.lock().unwrap().push(line.to_owned());
        })),
        ..ServerOptions::default()
    };
    let world = World::with(noise(GRID, 1), options);
    let (first, second) = (Host::new(&world, 1), Host::new(&world, 2));
    let (mut one, mut late) = (first.enter(), second.enter());
    assert_eq!(write(&mut one), 0);
    assert_eq!(write(&mut late), EPERM);
    assert_eq!(one.call(0, READ, 0, 1000, b"").error, 0);
    assert_eq!(one.call(0, READ, GRID as u64, 1, b"").error, 22);
    drop(one);
    await_count(&world, 1);
    drop(late);
    let mut lost = Client::greet(second.connect(), FIXED | NO_ZEROES);
    lost.ask(OPT_GO, &wish("nothing", &[]));
    drop(lost);
    world.await_empty();
    let lines = lines.lock().unwrap().join("\n");
    for expected in [
        "127.0.0.1: attached disk, to write",
        "127.0.0.2: disk: writing 5 bytes at 0 failed: 127.0.0.1 writes to it, and only one client",
        "127.0.0.1: disk: a request at 4096 failed: the range reaches past the end of the export",
        "127.0.0.1: left disk after ",
        ": 1000 bytes read, 5 written, 1 requests failed",
        "127.0.0.2: there is no export \"nothing\"",
    ] {
        assert!(lines.contains(expected), "{expected} is not in\n{lines}");
    }
}

/// Waits until so many clients are left.
fn await_count(world: &World, count: usize) {
    while world.server.client_count() > count {
        std::thread::yield_now();
    }
}

/// Only who wrote, and says goodbye, is a guest that was switched off: who reads, who is lost and
/// who leaves a server that stops are not.
#[test]
fn a_writer_that_says_goodbye_is_a_guest_that_is_switched_off() {
    let world = World::new(noise(GRID, 1));
    let (first, second) = (Host::new(&world, 1), Host::new(&world, 2));
    let left = || world.disk.left_count.load(Ordering::Relaxed);
    let goodbye = |mut client: Client<TcpStream>| {
        client.send(0, DISC, 0, 0, b"");
        assert!(client.is_closed());
    };
    goodbye(first.enter());
    let (mut writer, reader) = (first.enter(), second.enter());
    assert_eq!(write(&mut writer), 0);
    goodbye(reader);
    drop(writer);
    world.await_empty();
    assert_eq!(left(), 0);
    let mut writer = first.enter();
    assert_eq!(write(&mut writer), 0);
    goodbye(writer);
    world.await_empty();
    assert_eq!(left(), 1);
}
