//! Seats: who is taken, who waits, and who is crowded out.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use vellum_serve::nbd::ServerOptions;

use crate::client::{
    Client, ERR_POLICY, FIXED, FLUSH, Form, NO_ZEROES, OPT_GO, OPT_INFO, OPT_LIST, READ, WRITE,
    wish,
};
use crate::memory::GRID;
use crate::world::{World, noise};

fn with_seats(clients_max: usize) -> World {
    let options = ServerOptions {
        clients_max,
        ..ServerOptions::default()
    };
    World::with(noise(GRID, 1), options)
}

fn tcp(world: &World) -> SocketAddr {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    world.server.listen_tcp(any).expect("a port is free")
}

#[test]
fn a_seat_is_taken_with_an_export_and_more_clients_wait_for_it() {
    let world = with_seats(1);
    let mut first = Client::greet(world.connect(), FIXED | NO_ZEROES);
    let entered = first.ask(OPT_GO, &wish("disk", &[]));
    assert_eq!(
        entered[0].1[10..],
        0x0c6d_u16.to_be_bytes(),
        "one client is not told to open several connections"
    );
    // Who only looks needs no seat.
    let mut second = Client::greet(world.connect(), FIXED | NO_ZEROES);
    assert_eq!(second.ask(OPT_LIST, b"").len(), 4);
    assert_eq!(second.ask(OPT_INFO, &wish("disk", &[])).len(), 2);
    second.say(&crate::client::option(OPT_GO, &wish("disk", &[])));
    second.stream.set_nonblocking(true).unwrap();
    thread::sleep(Duration::from_millis(50));
    let early = std::io::Read::read(&mut second.stream, &mut [0; 1]);
    assert!(early.is_err(), "it waits");
    second.stream.set_nonblocking(false).unwrap();
    assert_eq!(first.call(0, READ, 0, 1, b"").error, 0);
    drop(first);
    assert_eq!(second.answers(OPT_GO).len(), 2);
    assert_eq!(second.call(0, READ, 0, 1, b"").error, 0);
}

#[test]
fn who_waits_in_vain_for_a_seat_is_told_and_may_go_on() {
    let options = ServerOptions {
        clients_max: 1,
        handshake_time: Duration::from_secs(3),
        ..ServerOptions::default()
    };
    let world = World::with(noise(GRID, 1), options);
    let first = world.enter(Form::Structured);
    let mut second = Client::greet(world.connect(), FIXED | NO_ZEROES);
    assert_eq!(second.ask(OPT_GO, &wish("disk", &[]))[0].0, ERR_POLICY);
    drop(first);
    // What was refused took no seat.
    world.enter(Form::Structured);
}

#[test]
fn an_export_that_is_refused_takes_no_seat() {
    let world = with_seats(1);
    let mut refused = Client::greet(world.connect(), FIXED | NO_ZEROES);
    for _ in 0..3 {
        assert_eq!(refused.ask(OPT_GO, &wish("busy", &[]))[0].0, ERR_POLICY);
    }
    world.enter(Form::Simple);
}

/// More connections that say nothing than there are sockets for all together, on both listeners.
#[test]
fn idle_connections_crowd_out_themselves_and_nobody_else() {
    let options = ServerOptions {
        sockets_max: 64,
        handshake_time: Duration::from_hours(1),
        ..ServerOptions::default()
    };
    let world = World::with(noise(GRID, 1), options);
    let address = tcp(&world);
    let mut guest = world.enter(Form::Structured);
    let idle: Vec<_> = (0..100)
        .map(|_| TcpStream::connect(address).expect("the system keeps some waiting"))
        .collect();
    let silent: Vec<_> = (0..20).map(|_| world.connect()).collect();
    assert_eq!(guest.call(0, WRITE, 0, 5, b"bytes").error, 0);
    assert_eq!(guest.call(0, FLUSH, 0, 0, b"").error, 0);
    // Behind all of them.
    let late = TcpStream::connect(address).expect("it listens");
    let mut late = Client::enter(late, Form::Structured, "disk", &[]);
    assert_eq!(late.call(0, READ, 0, 5, b"").bytes(0, 5), b"bytes");
    world.enter(Form::Simple);
    assert!(world.server.client_count() <= 64);
    drop((idle, silent));
}
