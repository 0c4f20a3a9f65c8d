//! Clients that mean harm, or are broken: they harm themselves.

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use vellum_serve::nbd::{ServerOptions, StoppedServer, replies_to};

use crate::client::{
    Client, FIXED, Form, OPT_GO, OPT_LIST, READ, WRITE, one_of_each, option, request, wish,
};
use crate::memory::{Devices, GRID, Memory};
use crate::world::{World, noise};

/// Short for a test, and long for the few messages of a handshake, also on a busy machine.
const HURRY: Duration = Duration::from_secs(3);

fn hurried() -> World {
    World::with(
        noise(GRID, 1),
        ServerOptions {
            handshake_time: HURRY,
            ..ServerOptions::default()
        },
    )
}

#[test]
fn a_client_that_says_nothing_is_let_go() {
    let world = hurried();
    let mut silent = world.connect();
    let mut said = Vec::new();
    silent.read_to_end(&mut said).expect("the server closes");
    assert_eq!(said.len(), 18);
    let mut half = Client::greet(world.connect(), FIXED);
    half.say(&option(OPT_GO, &wish("disk", &[]))[..20]);
    assert!(half.is_closed());
}

/// One byte at a time, each within any time that a single call could be given.
#[test]
fn a_client_that_trickles_is_let_go() {
    let world = hurried();
    let mut stream = world.connect();
    let mut trickle = vec![0, 0, 0, 3];
    (0..1000).for_each(|_| trickle.extend(option(99, b"")));
    let cut = trickle.iter().any(|byte| {
        thread::sleep(HURRY / 10);
        stream.write_all(&[*byte]).is_err()
    });
    assert!(cut, "the deadline is for the whole handshake");
}

#[test]
fn a_client_that_has_entered_may_be_idle() {
    let world = hurried();
    let mut client = world.enter(Form::Structured);
    thread::sleep(HURRY + HURRY / 4);
    assert_eq!(client.call(0, READ, 0, 512, b"").error, 0);
}

#[test]
fn an_option_of_4_gib_reserves_nothing() {
    let world = World::new(noise(GRID, 1));
    let mut client = Client::greet(world.connect(), FIXED);
    client.say(
        &[
            b"IHAVEOPT",
            &OPT_LIST.to_be_bytes()[..],
            &u32::MAX.to_be_bytes(),
        ]
        .concat(),
    );
    client.say(&vec![0; 1 << 20]);
    // It still waits for the rest, without keeping any.
    assert_eq!(world.server.client_count(), 1);
}

#[test]
fn a_write_of_4_gib_is_skipped_and_refused() {
    let world = World::new(noise(GRID, 1));
    let mut client = world.enter(Form::Structured);
    let len = 33 << 20;
    client.send(0, WRITE, 0, len, &[]);
    (0..33).for_each(|_| client.say(&vec![0; 1 << 20]));
    assert_eq!(client.reply(0).error, 28, "it lies outside as well");
    assert_eq!(client.call(0, READ, 0, 1, b"").error, 0);
    client.send(0, WRITE, 0, u64::from(u32::MAX), &[1; 100]);
    drop(client);
    assert_eq!(
        world.server.stop_within(Duration::from_mins(2)),
        StoppedServer {
            cut_off: 0,
            unfinished: 0
        }
    );
}

#[test]
fn a_client_that_never_reads_holds_up_neither_others_nor_the_end() {
    let world = World::new(noise(32 << 20, 1));
    let mut greedy: Vec<_> = (0..8).map(|_| world.enter(Form::Structured)).collect();
    for client in &mut greedy {
        for _ in 0..64 {
            client.send(0, READ, 0, 32 << 20, b"");
        }
    }
    let mut listing = Client::greet(world.connect(), FIXED);
    (0..64).for_each(|_| listing.say(&option(OPT_LIST, b"")));
    let mut honest = world.enter(Form::Structured);
    for len in [4096, 65537, 4 << 20] {
        let reply = honest.call(0, READ, 0, len, b"");
        assert!(
            reply.bytes(0, len as usize) == world.disk.content()[..len as usize],
            "small pieces when no buffer is left"
        );
    }
    drop(honest);
    let stopped = world.server.stop_within(Duration::from_millis(100));
    assert!(stopped.cut_off >= 8, "{stopped:?}");
    // Their threads end by themselves, as soon as the machine lets them.
    world.await_empty();
}

#[test]
fn a_client_that_stops_in_the_middle_of_a_write_holds_up_nobody() {
    let world = World::new(noise(4 << 20, 1));
    let before = world.disk.content();
    let halves: Vec<_> = [4096, 100_000, 4 << 20]
        .map(|len| {
            let mut client = world.enter(Form::Structured);
            client.send(0, WRITE, 0, len, &[9; 2000]);
            client
        })
        .into();
    assert_eq!(
        world.enter(Form::Simple).call(0, READ, 0, 512, b"").error,
        0
    );
    drop(halves);
    assert_eq!(
        world.server.stop_within(Duration::from_mins(2)).unfinished,
        0
    );
    assert!(world.disk.content() == before, "half a write is none");
}

#[test]
fn after_a_wrong_magic_nothing_is_served() {
    let world = World::new(noise(GRID, 1));
    for form in [Form::Simple, Form::Structured, Form::Extended] {
        let mut client = world.enter(form);
        let good = request(form, 0, READ, 1, 0, 512);
        let mut bad = good.clone();
        bad[0] ^= 1;
        client.say(&[good, bad].concat());
        assert_eq!(
            client.reply(512).cookie,
            1,
            "what was done before it is answered"
        );
        assert!(client.is_closed());
    }
}

/// Every message of a long replies_to, cut at every byte, and with every byte changed: an answer or
/// none, never a panic.
#[test]
fn no_cut_and_no_changed_byte_of_a_dialogue_breaks_the_server() {
    let exports = || {
        Devices(vec![(
            "disk",
            std::sync::Arc::new(Memory::new(noise(4 * GRID, 1))),
        )])
    };
    for form in [Form::Simple, Form::Structured, Form::Extended] {
        let whole = one_of_each(form);
        assert!(replies_to(&exports(), &whole).len() > 4096);
        for at in 0..whole.len() {
            let _ = replies_to(&exports(), &whole[..at]);
            for change in [0xff, 0x01, 0x80] {
                let mut changed = whole.clone();
                changed[at] ^= change;
                let _ = replies_to(&exports(), &changed);
            }
        }
    }
}
