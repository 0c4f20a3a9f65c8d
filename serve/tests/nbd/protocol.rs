//! What the protocol's description says, sentence by sentence.

use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;

use crate::client::{
    ACK, BLOCK_STATUS, CACHE, Client, DF, DISC, ERR_EXT_HEADER_REQD, ERR_INVALID, ERR_POLICY,
    ERR_TOO_BIG, ERR_UNKNOWN, ERR_UNSUP, FAST_ZERO, FIXED, FLUSH, FUA, Form, INFO, META_CONTEXT,
    NO_HOLE, NO_ZEROES, OPT_ABORT, OPT_EXPORT_NAME, OPT_EXTENDED, OPT_GO, OPT_INFO, OPT_LIST,
    OPT_LIST_META, OPT_SET_META, OPT_STARTTLS, OPT_STRUCTURED, PAYLOAD_LEN, READ, REQ_ONE, SERVER,
    TRIM, WRITE, WRITE_ZEROES, contexts, option, wish,
};
use crate::memory::{Fault, GRID};
use crate::world::{World, noise};

const FORMS: [Form; 3] = [Form::Simple, Form::Structured, Form::Extended];
const EPERM: u32 = 1;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const EOVERFLOW: u32 = 75;
const SINCE: &str = "qemu:dirty-bitmap:since:before";

fn last(answers: &[(u32, Vec<u8>)]) -> u32 {
    answers.last().expect("there is an answer").0
}

#[test]
fn a_wrong_option_is_refused_and_the_next_one_served() {
    let world = World::new(noise(GRID, 1));
    let mut client = Client::greet(world.connect(), FIXED | NO_ZEROES);
    let lying = [&100_u32.to_be_bytes()[..], b"disk", &[0, 0]].concat();
    let trailing = [&wish("disk", &[])[..], b"x"].concat();
    let many_kinds = [&4_u32.to_be_bytes()[..], b"disk", &[0xff, 0xff]].concat();
    let long_name = wish(&"x".repeat(4097), &[]);
    let many_queries = [&4_u32.to_be_bytes()[..], b"disk", &[0xff; 4]].concat();
    for (number, data, expected) in [
        (99, &b""[..], ERR_UNSUP),
        (4, b"", ERR_UNSUP),
        (OPT_LIST, b"x", ERR_INVALID),
        (OPT_STARTTLS, b"", ERR_POLICY),
        (OPT_STARTTLS, b"x", ERR_INVALID),
        (OPT_INFO, b"", ERR_INVALID),
        (OPT_INFO, &lying, ERR_INVALID),
        (OPT_GO, &trailing, ERR_INVALID),
        (OPT_GO, &many_kinds, ERR_INVALID),
        (OPT_GO, &long_name, ERR_INVALID),
        (OPT_GO, &[0, 0, 0, 1, 0xff, 0, 0], ERR_INVALID),
        (OPT_INFO, &wish("nothing", &[]), ERR_UNKNOWN),
        (OPT_GO, &wish("nothing", &[]), ERR_UNKNOWN),
        (OPT_GO, &wish("busy", &[]), ERR_POLICY),
        (OPT_GO, &vec![0; 40_000], ERR_TOO_BIG),
        (
            OPT_SET_META,
            &contexts("disk", &["base:allocation"]),
            ERR_INVALID,
        ),
        (OPT_LIST_META, &contexts("disk", &[]), ERR_INVALID),
        (OPT_STRUCTURED, b"x", ERR_INVALID),
        (OPT_STRUCTURED, b"", ACK),
        (OPT_STRUCTURED, b"", ERR_INVALID),
        (OPT_SET_META, &many_queries, ERR_INVALID),
        (OPT_SET_META, &contexts("disk", &["no-colon"]), ERR_INVALID),
        (
            OPT_SET_META,
            &contexts("nothing", &["base:allocation"]),
            ERR_UNKNOWN,
        ),
        (OPT_SET_META, &contexts("nothing", &["qemu:x"]), ERR_UNKNOWN),
        (OPT_EXTENDED, b"x", ERR_INVALID),
        (OPT_EXTENDED, b"", ACK),
        (OPT_EXTENDED, b"", ERR_INVALID),
        (OPT_STRUCTURED, b"", ERR_EXT_HEADER_REQD),
        (OPT_LIST, b"", ACK),
        (OPT_INFO, &wish("", &[]), ACK),
    ] {
        assert_eq!(
            last(&client.ask(number, data)),
            expected,
            "option {number} with {} bytes",
            data.len()
        );
    }
    assert_eq!(client.ask(OPT_ABORT, b""), [(ACK, vec![])]);
    assert!(client.is_closed());
}

#[test]
fn a_list_has_every_name_and_what_is_asked_of_one() {
    let world = World::new(noise(3 * GRID, 1));
    let mut client = Client::greet(world.connect(), FIXED);
    let listed = client.ask(OPT_LIST, b"");
    assert_eq!(
        listed[0],
        (SERVER, b"\0\0\0\x04diskdisk in memory".to_vec())
    );
    assert_eq!(listed.len(), 4);
    let facts = client.ask(OPT_INFO, &wish("", &[1, 2, 3, 77]));
    let flags = 0x0d6d_u16; // flags, flush, FUA, trim, write zeroes, several connections, cache, fast zero
    assert_eq!(
        facts[0],
        (
            INFO,
            [
                &[0, 0][..],
                &(3 * GRID as u64).to_be_bytes(),
                &flags.to_be_bytes()
            ]
            .concat()
        )
    );
    assert_eq!(facts[1], (INFO, b"\0\x01disk".to_vec()));
    assert_eq!(facts[2], (INFO, b"\0\x02disk in memory".to_vec()));
    assert_eq!(
        facts[3],
        (INFO, [0, 3, 0, 0, 0, 1, 0, 0, 0x10, 0, 2, 0, 0, 0].to_vec())
    );
    assert_eq!(facts.len(), 5, "what is not known is not told");
    let fixed = client.ask(OPT_INFO, &wish("fixed", &[]));
    assert_eq!(
        fixed[0].1[10..],
        0x050f_u16.to_be_bytes(),
        "read only, no trim, no zeroes"
    );
}

#[test]
fn a_client_that_cannot_be_told_is_let_go() {
    let world = World::new(noise(GRID, 1));
    for flags in [4, FIXED | 8, 1 << 31] {
        assert!(
            Client::greet(world.connect(), flags).is_closed(),
            "flags {flags}"
        );
    }
    for bytes in [
        option(OPT_EXPORT_NAME, b"nothing"),
        option(OPT_EXPORT_NAME, b"busy"),
        option(OPT_EXPORT_NAME, &[0xff]),
        option(OPT_EXPORT_NAME, &[b'x'; 4097]),
        b"IHAVEOPX\0\0\0\x03\0\0\0\0".to_vec(),
    ] {
        let mut client = Client::greet(world.connect(), FIXED);
        client.say(&bytes);
        assert!(client.is_closed(), "{bytes:?}");
    }
    let mut old = Client::greet(world.connect(), 0);
    old.say(&option(OPT_LIST, b""));
    assert!(
        old.is_closed(),
        "without fixed newstyle there is one option"
    );
}

#[test]
fn export_name_enters_with_and_without_padding() {
    let world = World::new(noise(GRID, 1));
    for (flags, padding) in [(0, 124), (FIXED, 124), (FIXED | NO_ZEROES, 0)] {
        let mut client = Client::greet(world.connect(), flags);
        client.say(&option(OPT_EXPORT_NAME, b"disk"));
        assert_eq!(u64::from_be_bytes(client.take()), GRID as u64);
        assert_eq!(u16::from_be_bytes(client.take()), 0x0d6d);
        assert!(client.take_vec(padding).iter().all(|byte| *byte == 0));
        assert_eq!(
            client.call(0, READ, 0, 512, b"").data,
            [(0, Ok(world.disk.content()[..512].to_vec()))]
        );
    }
}

#[test]
fn contexts_are_listed_by_family_and_set_by_name() {
    let world = World::new(noise(GRID, 1));
    let mut client = Client::greet(world.connect(), FIXED);
    client.ask(OPT_STRUCTURED, b"");
    let (allocation, since) = ("base:allocation", SINCE);
    for (number, queries, expected) in [
        (OPT_LIST_META, &[][..], &[allocation, since][..]),
        (OPT_LIST_META, &["base:"], &[allocation]),
        (OPT_LIST_META, &["qemu:"], &[since]),
        (OPT_LIST_META, &["qemu:dirty-bitmap:"], &[since]),
        (OPT_LIST_META, &["x-other:"], &[]),
        (OPT_SET_META, &[], &[]),
        (OPT_SET_META, &["base:"], &[]),
        (OPT_SET_META, &["qemu:dirty-bitmap:since:after"], &[]),
        (
            OPT_SET_META,
            &[since, "x-other:y", allocation, allocation],
            &[allocation, since],
        ),
    ] {
        let answers = client.ask(number, &contexts("disk", queries));
        let found: Vec<_> = answers
            .iter()
            .filter(|(kind, _)| *kind == META_CONTEXT)
            .map(|(_, data)| data[4..].to_vec())
            .collect();
        assert_eq!(
            found,
            expected
                .iter()
                .map(|name| name.as_bytes().to_vec())
                .collect::<Vec<_>>(),
            "{number} {queries:?}"
        );
    }
}

#[test]
fn contexts_of_another_export_are_not_selected() {
    let world = World::new(noise(GRID, 1));
    let mut client = Client::greet(world.connect(), FIXED);
    client.ask(OPT_STRUCTURED, b"");
    client.ask(OPT_SET_META, &contexts("fixed", &["base:allocation"]));
    client.ask(OPT_GO, &wish("disk", &[]));
    client.form = Form::Structured;
    assert_eq!(client.call(0, BLOCK_STATUS, 0, 512, b"").error, EINVAL);
}

#[test]
fn every_command_does_its_work_in_every_form() {
    for form in FORMS {
        let world = World::new(noise(64 * GRID, 1));
        let mut expected = world.disk.content();
        let mut client = world.enter(form);
        let payload_flag = if form == Form::Extended {
            PAYLOAD_LEN
        } else {
            0
        };
        for (offset, len) in [
            (0_usize, 1_usize),
            (511, 4097),
            (GRID, GRID),
            (0, 64 * GRID),
            (64 * GRID - 1, 1),
        ] {
            let written = noise(len, offset as u64);
            assert_eq!(
                client
                    .call(payload_flag, WRITE, offset as u64, len as u64, &written)
                    .error,
                0
            );
            expected[offset..offset + len].copy_from_slice(&written);
        }
        for (flags, command, offset, len) in [
            (0, TRIM, 3, 5),
            (NO_HOLE, WRITE_ZEROES, 100, 900),
            (FAST_ZERO | FUA, WRITE_ZEROES, 8192, 70_000),
        ] {
            assert_eq!(
                client
                    .call(flags, command, offset as u64, len as u64, b"")
                    .error,
                0
            );
            expected[offset..offset + len].fill(0);
        }
        assert_eq!(client.call(0, CACHE, 0, 4096, b"").error, 0);
        assert_eq!(world.disk.prefetch_count.load(Ordering::Relaxed), 1);
        for (offset, len) in [
            (0_u64, 1_usize),
            (1, 65536),
            (0, 65537),
            (0, 64 * GRID),
            (8000, 70_000),
        ] {
            let reply = client.call(0, READ, offset, len as u64, b"");
            let start = if form == Form::Simple { 0 } else { offset };
            assert!(
                reply.bytes(start, len) == expected[offset as usize..offset as usize + len],
                "{form:?} {offset} {len}"
            );
        }
        assert_eq!(client.call(0, FLUSH, 0, 0, b"").error, 0);
        client.send(0, DISC, 0, 0, b"");
        assert!(client.is_closed());
        assert!(world.disk.durable() == expected);
    }
}

#[test]
fn a_wrong_request_is_refused_with_its_number_and_the_next_one_served() {
    let end = 16 * GRID as u64;
    for form in FORMS {
        let world = World::new(noise(16 * GRID, 1));
        let before = world.disk.content();
        let mut client = Client::enter(
            world.connect(),
            form,
            "disk",
            if form == Form::Simple {
                &[]
            } else {
                &["base:allocation"]
            },
        );
        let mut fixed = Client::enter(world.connect(), form, "fixed", &[]);
        for (flags, command, offset, len, expected) in [
            (0, READ, end, 1, EINVAL),
            (0, READ, end - 1, 2, EINVAL),
            (0, READ, u64::MAX, 2, EINVAL),
            (0, READ, 0, 0, EINVAL),
            (0, READ, 0, (32 << 20) + 1, EINVAL),
            (0, READ, 0, u64::from(u32::MAX), EINVAL),
            (0, TRIM, end - 1, 2, EINVAL),
            (0, CACHE, end - 1, 2, EINVAL),
            (0, WRITE_ZEROES, end - 1, 2, ENOSPC),
            (0, WRITE_ZEROES, u64::MAX - 1, 2, ENOSPC),
            (0, FLUSH, 1, 0, EINVAL),
            (0, 8, 0, 0, EINVAL),
            (0, 999, 0, 0, EINVAL),
            (NO_HOLE, READ, 0, 1, EINVAL),
            (REQ_ONE, WRITE_ZEROES, 0, 1, EINVAL),
            (FAST_ZERO, TRIM, 0, 1, EINVAL),
            (1 << 15, FLUSH, 0, 0, EINVAL),
            (0, BLOCK_STATUS, 0, 0, EINVAL),
            (0, BLOCK_STATUS, end, 1, EINVAL),
        ] {
            let cookie = client.send(flags, command, offset, len, b"");
            let reply = client.reply(0);
            assert_eq!(
                (reply.cookie, reply.error),
                (cookie, expected),
                "{form:?}: {flags} {command} {offset} {len}"
            );
        }
        assert_wrong_writes_refused(&mut client, end);
        assert_read_only_export_refuses(&mut fixed);
        assert_eq!(fixed.call(0, FLUSH, 0, 0, b"").error, 0);
        assert_eq!(
            client.call(FUA, READ, 0, 1, b"").error,
            0,
            "FUA goes with everything"
        );
        assert!(
            world.disk.content() == before,
            "what was refused was not done"
        );
    }
}

fn assert_wrong_writes_refused(client: &mut Client<UnixStream>, end: u64) {
    for (flags, offset, len, expected) in [
        (0, end - 1, 2, ENOSPC),
        (DF, 0, 4096, EINVAL),
        (0, 1, 0, EINVAL),
        (0, u64::MAX, 9, ENOSPC),
    ] {
        assert_eq!(
            client
                .call(flags, WRITE, offset, len, &vec![9; len as usize])
                .error,
            expected,
            "{:?}: write {offset} {len}",
            client.form
        );
    }
}

fn assert_read_only_export_refuses(fixed: &mut Client<UnixStream>) {
    for (command, len) in [(WRITE, 5000), (TRIM, 1), (WRITE_ZEROES, 1)] {
        let payload = if command == WRITE {
            vec![1; len as usize]
        } else {
            Vec::new()
        };
        assert_eq!(fixed.call(0, command, 0, len, &payload).error, EPERM);
    }
}

#[test]
fn a_payload_that_nobody_asked_for_is_skipped() {
    let world = World::new(noise(GRID, 1));
    let mut client = world.enter(Form::Extended);
    for command in [READ, FLUSH, TRIM, BLOCK_STATUS, 999] {
        assert_eq!(
            client
                .call(PAYLOAD_LEN, command, 0, 100_000, &vec![0x25; 100_000])
                .error,
            EINVAL
        );
    }
    assert_eq!(client.call(0, READ, 0, 1, b"").error, 0);
}

#[test]
fn a_forced_read_only_server_lets_nobody_write() {
    let options = vellum_serve::nbd::ServerOptions {
        read_only: true,
        ..Default::default()
    };
    let world = World::with(noise(GRID, 1), options);
    let mut client = world.enter(Form::Structured);
    assert_eq!(client.call(0, WRITE, 0, 1, b"x").error, EPERM);
    assert_eq!(client.call(0, READ, 0, 1, b"").error, 0);
}

/// 2 MiB: data, zeros, data, with 4 KiB of zeros lost in the second half.
fn holey() -> Vec<u8> {
    let mut bytes = noise(2 << 20, 5);
    bytes[1 << 19..1 << 20].fill(0);
    bytes[1_200_128..1_208_320].fill(0);
    bytes
}

#[test]
fn holes_travel_as_holes_and_one_chunk_is_one_chunk() {
    for form in [Form::Structured, Form::Extended] {
        let world = World::new(holey());
        let content = world.disk.content();
        let mut client = world.enter(form);
        let reply = client.call(0, READ, 0, 2 << 20, b"");
        assert!(reply.bytes(0, 2 << 20) == content);
        let holes: Vec<_> = reply
            .data
            .iter()
            .filter_map(|(at, data)| data.as_ref().err().map(|len| (*at, *len)))
            .collect();
        assert_eq!(
            holes,
            [(1 << 19, 1 << 19)],
            "short zeros are cheaper as data"
        );
        let whole = client.call(DF, READ, 0, 2 << 20, b"");
        assert_eq!(
            (whole.data.len(), whole.bytes(0, 2 << 20) == content),
            (1, true)
        );
        assert_eq!(
            client.call(DF, READ, 1 << 19, 1 << 19, b"").data,
            [(1 << 19, Err(1 << 19))]
        );
    }
    let world = World::new(noise(3 << 20, 1));
    let mut client = world.enter(Form::Structured);
    let reply = client.call(0, READ, 0, 3 << 20, b"");
    assert!(reply.data.len() == 2 && reply.bytes(0, 3 << 20) == world.disk.content());
}

/// A reply in one chunk is longer than any buffer: it is sent as it is read, and what is wrong with
/// it is told behind it.
#[test]
fn one_chunk_that_is_longer_than_a_buffer_is_whole_or_says_from_where_it_is_not() {
    const LEN: usize = (5 << 20) + 12345;
    for form in [Form::Structured, Form::Extended] {
        let world = World::new(noise(LEN, 1));
        let content = world.disk.content();
        let mut client = world.enter(form);
        let whole = client.call(DF, READ, 0, LEN as u64, b"");
        assert_eq!((whole.error, whole.data.len()), (0, 1));
        assert!(whole.bytes(0, LEN) == content);
        let good = 3 << 20;
        world.disk.set_fault(Fault::Damaged(good as u64 + 5));
        let torn = client.call(DF, READ, 0, LEN as u64, b"");
        assert_eq!((torn.error, torn.data.len()), (EIO, 1));
        let from = torn.error_offset.expect("it is told") as usize;
        assert!(from <= good + 5, "{from}");
        let bytes = torn.bytes(0, LEN);
        assert!(bytes[..from] == content[..from] && bytes[from..].iter().all(|byte| *byte == 0));
        let none = client.call(DF, READ, good as u64, 2 << 20, b"");
        assert_eq!((none.error, none.data.len()), (EIO, 0));
        world.disk.set_fault(Fault::None);
        assert_eq!(client.call(0, READ, 0, 1, b"").error, 0);
    }
}

/// Clients that were told no limit send more than 32 MiB, as `nbd-tester-client` does in its tests
/// of integrity: several at once, of any length.
#[test]
fn requests_longer_than_anybody_promised_are_served() {
    const LEN: usize = 100 << 20;
    let mut random = fastrand::Rng::with_seed(33);
    for form in FORMS {
        let world = World::new(vec![0; LEN]);
        let mut model = vec![0_u8; LEN];
        let mut client = world.enter(form);
        for round in 1..=4_u8 {
            let (from, len) = (
                random.usize(..LEN - (64 << 20)),
                (64 << 20) - random.usize(..4096),
            );
            let written = vec![round; len];
            assert_eq!(
                client
                    .call(0, WRITE, from as u64, len as u64, &written)
                    .error,
                0
            );
            model[from..from + len].fill(round);
            let (at, read_len) = (
                random.usize(..1 << 20),
                (33 << 20) + random.usize(..31 << 20),
            );
            let reply = client.call(0, READ, at as u64, read_len as u64, b"");
            let offset = if form == Form::Simple { 0 } else { at as u64 };
            assert!(
                reply.bytes(offset, read_len) == model[at..at + read_len],
                "{form:?}"
            );
        }
        // Only a reply in chunks can have no end in sight.
        let (long, too_long) = (client.call_failing(LEN as u64), (64 << 20) + 1);
        assert_eq!(long, if form == Form::Simple { EINVAL } else { 0 });
        let refused = if form == Form::Simple { 0 } else { DF };
        let expected = if form == Form::Simple {
            EINVAL
        } else {
            EOVERFLOW
        };
        let cookie = client.send(refused, READ, 0, too_long, b"");
        let reply = client.reply(0);
        assert_eq!((reply.cookie, reply.error), (cookie, expected));
        let payload = vec![9; too_long as usize];
        assert_eq!(client.call(0, WRITE, 0, too_long, &payload).error, EINVAL);
        assert!(world.disk.content() == model, "{form:?}");
    }
}

/// A device tells at most so many stretches at once: what lies behind them is read all the same.
#[test]
fn a_read_of_more_stretches_than_are_told_at_once_is_whole() {
    let mut bytes = vec![1; 24 << 20];
    bytes
        .chunks_mut(2 * GRID)
        .for_each(|pair| pair[..GRID].fill(0));
    let world = World::new(bytes);
    for form in FORMS {
        let reply = world.enter(form).call(0, READ, 0, 24 << 20, b"");
        assert!(reply.bytes(0, 24 << 20) == world.disk.content(), "{form:?}");
    }
}

#[test]
fn block_status_tells_zeros_and_changes_side_by_side() {
    for form in [Form::Structured, Form::Extended] {
        let mut bytes = noise(8 * GRID, 1);
        bytes[2 * GRID..4 * GRID].fill(0);
        let world = World::new(bytes);
        let mut client = Client::enter(world.connect(), form, "disk", &["base:allocation", SINCE]);
        client.call(0, WRITE_ZEROES, 4 * GRID as u64, GRID as u64, b"");
        client.call(0, WRITE, 0, 1, b"\0");
        let grid = GRID as u64;
        let reply = client.call(0, BLOCK_STATUS, 0, 8 * grid, b"");
        assert_eq!(
            reply.status[0],
            (
                0,
                vec![(2 * grid, 0), (2 * grid, 3), (grid, 2), (3 * grid, 0)]
            )
        );
        assert_eq!(
            reply.status[1],
            (1, vec![(grid, 1), (3 * grid, 0), (grid, 1), (3 * grid, 0)])
        );
        let one = client.call(REQ_ONE, BLOCK_STATUS, 2 * grid + 7, 4 * grid, b"");
        assert_eq!(
            one.status,
            [(0, vec![(2 * grid - 7, 3)]), (1, vec![(2 * grid - 7, 0)])]
        );
        let short = client.call(REQ_ONE, BLOCK_STATUS, 0, 512, b"");
        assert_eq!(short.status, [(0, vec![(512, 0)]), (1, vec![(512, 1)])]);
    }
}

#[test]
fn what_fails_in_the_device_fails_for_the_client_and_only_that() {
    for form in FORMS {
        let world = World::new(noise(4 << 20, 1));
        let mut client = world.enter(form);
        world.disk.set_fault(Fault::NoSpace);
        assert_eq!(client.call(0, WRITE, 0, 4096, &[1; 4096]).error, ENOSPC);
        assert_eq!(
            client.call(0, WRITE, 0, 3 << 20, &vec![1; 3 << 20]).error,
            ENOSPC,
            "a write that is done in pieces"
        );
        assert_eq!(client.call(0, WRITE_ZEROES, 0, 4096, b"").error, ENOSPC);
        world.disk.set_fault(Fault::FlushFails);
        assert_eq!(client.call(0, FLUSH, 0, 0, b"").error, EIO);
        assert_eq!(
            client.call(FUA, WRITE, 0, 4096, &[1; 4096]).error,
            EIO,
            "written, but not durable"
        );
        assert_eq!(client.call(0, WRITE, 0, 4096, &[2; 4096]).error, 0);
        world.disk.set_fault(Fault::Damaged(1 << 20));
        let failed = client.send(0, READ, (1 << 20) - 512, 1024, b"");
        let reply = client.reply(0);
        assert_eq!((reply.cookie, reply.error), (failed, EIO));
        assert_eq!(
            reply.error_offset,
            (form != Form::Simple).then_some((1 << 20) - 512)
        );
        assert_eq!(client.call(0, READ, 0, 4096, b"").error, 0);
        world.disk.set_fault(Fault::Stopping);
        client.send(0, READ, 0, 512, b"");
        assert_eq!(client.reply(0).error, 108);
        world.disk.set_fault(Fault::None);
        assert_eq!(
            client.call(0, WRITE, 0, 3 << 20, &vec![3; 3 << 20]).error,
            0,
            "it goes on once there is room"
        );
        assert!(
            world.disk.content()[..3 << 20]
                .iter()
                .all(|byte| *byte == 3)
        );
    }
}

#[test]
fn a_flush_makes_durable_what_was_answered_on_any_connection() {
    let world = World::new(noise(16 * GRID, 1));
    let (mut writer, mut flusher) = (world.enter(Form::Structured), world.enter(Form::Simple));
    for round in 0..16_u64 {
        let written = noise(GRID, round);
        assert_eq!(
            writer
                .call(0, WRITE, round * GRID as u64, GRID as u64, &written)
                .error,
            0
        );
        assert_eq!(flusher.call(0, FLUSH, 0, 0, b"").error, 0);
        assert!(world.disk.durable()[round as usize * GRID..][..GRID] == written);
        let changed = noise(GRID, round + 100);
        assert_eq!(
            writer
                .call(FUA, WRITE, round * GRID as u64, GRID as u64, &changed)
                .error,
            0
        );
        assert!(
            world.disk.durable()[round as usize * GRID..][..GRID] == changed,
            "FUA needs no flush"
        );
    }
}

#[test]
fn many_requests_at_once_are_each_answered_once() {
    let world = World::new(noise(256 * GRID, 1));
    let content = world.disk.content();
    let mut client = world.enter(Form::Structured);
    let mut random = fastrand::Rng::with_seed(2);
    let mut open = std::collections::HashMap::new();
    for _ in 0..50 {
        for _ in 0..40 {
            // Small ones are done in turn, long ones and flushes beside them.
            let (command, len) =
                [(READ, 4096), (READ, 300_000), (FLUSH, 0), (CACHE, 512)][random.usize(..4)];
            let offset = if command == FLUSH {
                0
            } else {
                random.u64(..256 * GRID as u64 - len)
            };
            open.insert(
                client.send(0, command, offset, len, b""),
                (command, offset, len),
            );
        }
        while !open.is_empty() {
            let reply = collect(&mut client, &mut open, &content);
            assert_eq!(reply, 0);
        }
    }
}

/// Reads that end only when all have begun: so many workers are at it at the same time, or the test
/// hangs.
#[test]
fn slow_reads_of_one_connection_are_done_beside_each_other() {
    let world = World::new(noise(4 << 20, 1));
    let mut client = world.enter(Form::Structured);
    for len in [300_000, 4096] {
        world.disk.set_fault(Fault::Gathers(16));
        let mut open: std::collections::HashMap<_, _> = (0..16)
            .map(|nth| {
                (
                    client.send(0, READ, nth * 5000, len, b""),
                    (READ, nth * 5000, len),
                )
            })
            .collect();
        let content = world.disk.content();
        while !open.is_empty() {
            assert_eq!(collect(&mut client, &mut open, &content), 0);
        }
        // A small read is slow only after a slow one: the long ones were, waiting for each other.
    }
}

/// Reads one chunk or reply; chunks of several replies may be mixed.
fn collect(
    client: &mut Client<std::os::unix::net::UnixStream>,
    open: &mut std::collections::HashMap<u64, (u16, u64, u64)>,
    content: &[u8],
) -> u32 {
    match u32::from_be_bytes(client.take()) {
        0x6744_6698 => {
            let error = u32::from_be_bytes(client.take());
            let answered = open.remove(&u64::from_be_bytes(client.take()));
            assert!(answered.is_some_and(|(command, ..)| command != READ));
            error
        }
        0x668e_33ef => {
            let (flags, kind) = (
                u16::from_be_bytes(client.take()),
                u16::from_be_bytes(client.take()),
            );
            let cookie = u64::from_be_bytes(client.take());
            let len = u32::from_be_bytes(client.take()) as usize;
            assert_eq!(kind, 1, "the disk has no holes");
            let at = u64::from_be_bytes(client.take()) as usize;
            let data = client.take_vec(len - 8);
            assert!(data == content[at..at + data.len()]);
            let (_, offset, read_len) = if flags & 1 != 0 {
                open.remove(&cookie)
            } else {
                open.get(&cookie).copied()
            }
            .expect("it was asked");
            assert!(at as u64 >= offset && (at + data.len()) as u64 <= offset + read_len);
            0
        }
        other => panic!("{other:#x} begins no reply"),
    }
}
