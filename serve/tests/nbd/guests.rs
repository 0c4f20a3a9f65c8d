//! A guest over vhost-user, by the letter of virtio: what it writes is there, whatever it puts into
//! its queues the server goes on, and it shares a disk with clients of NBD as those share it.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use vellum_serve::ChangeBoard;
use vellum_serve::nbd::{NbdServer, ServerOptions};
use vellum_serve::vhost_user::{QUEUES_MAX, VhostUserOptions, VhostUserServer};
use vellum_testkit::front_end::{Descriptor, FrontEnd, SLOTS, kind};

use crate::client::{Client, Form, WRITE};
use crate::memory::{Devices, Fault, Memory};
use crate::world::noise;

const DONE: u8 = 0;
const FAILED: u8 = 1;
const UNSUPPORTED: u8 = 2;
const LEN: usize = 1 << 20;
const ROOM: usize = 64 << 10;
const READ_ONLY: u64 = 1 << 5;
/// A test that waits longer has found a hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// Two servers of the same disks: one over NBD, one over vhost-user.
struct Hosts {
    guests: VhostUserServer,
    nbd: NbdServer,
    disk: Arc<Memory>,
    folder: tempfile::TempDir,
}

impl Hosts {
    fn new() -> Self {
        Self::with_options(false)
    }

    fn with_options(read_only: bool) -> Self {
        let disk = Arc::new(Memory::new(noise(LEN, 1)));
        let exports = Arc::new(Devices(vec![
            ("disk", Arc::clone(&disk)),
            ("fixed", Arc::new(Memory::read_only(vec![7; 65536]))),
            ("busy", Arc::new(Memory::new(vec![]))),
        ]));
        let folder = tempfile::TempDir::new().expect("a folder can be made");
        let nbd = NbdServer::start_server(Arc::clone(&exports) as _, ServerOptions::default())
            .expect("a server starts");
        nbd.listen_unix(&folder.path().join("socket"))
            .expect("a fresh socket can be had");
        let options = VhostUserOptions {
            read_only,
            report: None,
            board: Arc::new(ChangeBoard::default()),
        };
        let at = folder.path().join("guests");
        let guests = VhostUserServer::start_server(exports, &at, nbd.writers(), options)
            .expect("a server starts");
        Self {
            guests,
            nbd,
            disk,
            folder,
        }
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.folder
            .path()
            .join("guests")
            .join(format!("{name}.sock"))
    }

    fn guest(&self, queues: usize) -> FrontEnd {
        FrontEnd::connect(&self.socket("disk"), queues, ROOM).expect("it is served")
    }

    fn await_guests(&self, count: usize) {
        let begun = Instant::now();
        while self.guests.guest_count() != count {
            assert!(begun.elapsed() < PATIENCE, "{count} guests never");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn segment(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(sectors.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes
}

#[test]
fn what_a_guest_writes_is_there_and_durable_after_a_flush() {
    let hosts = Hosts::new();
    let mut guest = hosts.guest(1);
    let mut model = hosts.disk.content();
    let config = guest.read_config(60).expect("it has one");
    assert_eq!(config[..8], ((LEN / 512) as u64).to_le_bytes());
    let (result, serial) = guest.request(0, kind::IDENTIFY, 0, &[], 20);
    assert_eq!((result, &serial[..5]), (DONE, &b"disk\0"[..]));
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..400 {
        let len = 512 * random.usize(1..=ROOM / 512);
        let at = 512 * random.usize(0..=(LEN - len) / 512);
        let sector = (at / 512) as u64;
        match random.u8(..5) {
            0 | 1 => {
                let bytes = noise(len, round);
                assert_eq!(guest.request(0, kind::WRITE, sector, &bytes, 0).0, DONE);
                model[at..at + len].copy_from_slice(&bytes);
            }
            2 => {
                let discard = [kind::DISCARD, kind::WRITE_ZEROES][random.usize(..2)];
                let bytes = segment(sector, (len / 512) as u32, 0);
                assert_eq!(guest.request(0, discard, 0, &bytes, 0).0, DONE);
                model[at..at + len].fill(0);
            }
            3 => {
                let (result, bytes) = guest.request(0, kind::READ, sector, &[], len);
                assert_eq!(result, DONE);
                assert!(
                    bytes == model[at..at + len],
                    "round {round}, {len} from {at}"
                );
            }
            _ => {
                assert_eq!(guest.request(0, kind::FLUSH, 0, &[], 0).0, DONE);
                assert!(hosts.disk.durable() == model, "round {round}");
            }
        }
    }
    assert!(hosts.disk.content() == model);
}

#[test]
fn queues_of_one_guest_work_at_once_and_in_order_each() {
    let hosts = Hosts::new();
    let mut guest = hosts.guest(QUEUES_MAX);
    let part = LEN / QUEUES_MAX / 512;
    for queue in 0..QUEUES_MAX {
        for slot in 0..SLOTS {
            // The last write to a sector counts: each queue has its own sectors.
            let sector = (queue * part + slot % 8) as u64;
            let bytes = [(queue * SLOTS + slot) as u8; 512];
            guest.submit(queue, slot, kind::WRITE, sector, &bytes, 0);
        }
    }
    for queue in 0..QUEUES_MAX {
        let mut ended = Vec::new();
        while ended.len() < SLOTS {
            let more = guest.finished(queue);
            if more.is_empty() {
                guest.await_call(queue);
            }
            ended.extend(more);
        }
        let expected: Vec<u16> = (0..SLOTS as u16).map(|slot| slot * 3).collect();
        assert_eq!(ended, expected, "in order");
        assert!((0..SLOTS).all(|slot| guest.result(queue, slot) == DONE));
    }
    let bytes = hosts.disk.content();
    for queue in 0..QUEUES_MAX {
        for place in 0..8 {
            let at = (queue * part + place) * 512;
            let last = (queue * SLOTS + SLOTS - 8 + place) as u8;
            assert_eq!(bytes[at..at + 512], [last; 512]);
        }
    }
}

#[test]
fn what_cannot_be_done_is_said_and_changes_nothing() {
    let hosts = Hosts::new();
    let before = hosts.disk.content();
    let mut guest = hosts.guest(1);
    let end = (LEN / 512) as u64;
    for (request, sector, written, read_len, expected) in [
        (kind::READ, end, vec![], 512, FAILED),
        (kind::READ, u64::MAX, vec![], 512, UNSUPPORTED),
        (kind::WRITE, end - 1, vec![1; 1024], 0, FAILED),
        (kind::DISCARD, 0, segment(end, 1, 0), 0, FAILED),
        (kind::DISCARD, 0, segment(0, 1, 1), 0, UNSUPPORTED),
        (kind::DISCARD, 0, segment(0, 1, 0)[..15].to_vec(), 0, FAILED),
        (
            kind::WRITE_ZEROES,
            0,
            [segment(0, 1, 0), segment(end, 1, 0)].concat(),
            0,
            FAILED,
        ),
        (kind::WRITE_ZEROES, 0, vec![], 0, FAILED),
        (2, 0, vec![], 0, UNSUPPORTED),
        (99, 0, vec![1; 512], 0, UNSUPPORTED),
    ] {
        let (result, _) = guest.request(0, request, sector, &written, read_len);
        assert_eq!(result, expected, "{request} at {sector}, {written:?}");
    }
    hosts.disk.set_fault(Fault::NoSpace);
    assert_eq!(guest.request(0, kind::WRITE, 0, &[1; 512], 0).0, FAILED);
    hosts.disk.set_fault(Fault::FlushFails);
    assert_eq!(guest.request(0, kind::FLUSH, 0, &[], 0).0, FAILED);
    hosts.disk.set_fault(Fault::None);
    assert!(hosts.disk.content() == before);
    assert_eq!(
        guest.request(0, kind::FLUSH, 0, &[], 0).0,
        DONE,
        "it goes on"
    );
}

#[test]
fn a_guest_without_writeback_has_each_write_made_durable() {
    let hosts = Hosts::new();
    let mut guest = hosts.guest(1);
    guest.write_config(32, 0).expect("it may be written");
    assert_eq!(guest.read_config(60).expect("it has one")[32], 0);
    assert_eq!(guest.request(0, kind::WRITE, 3, &[9; 512], 0).0, DONE);
    assert_eq!(hosts.disk.durable()[1536..2048], [9; 512]);
    guest.write_config(32, 1).expect("it may be written");
    assert_eq!(guest.request(0, kind::WRITE, 3, &[8; 512], 0).0, DONE);
    assert_eq!(hosts.disk.durable()[1536..2048], [9; 512]);
}

#[test]
fn one_guest_writes_at_a_time_whichever_way_it_came() {
    let hosts = Hosts::new();
    let mut first = hosts.guest(1);
    assert_eq!(first.request(0, kind::WRITE, 0, &[1; 512], 0).0, DONE);
    let mut second = hosts.guest(1);
    assert_ne!(second.features() & READ_ONLY, 0, "it is told");
    assert_eq!(second.request(0, kind::WRITE, 0, &[2; 512], 0).0, FAILED);
    assert_eq!(
        second.request(0, kind::READ, 0, &[], 512),
        (DONE, vec![1; 512])
    );
    let enter = || {
        let stream = UnixStream::connect(hosts.folder.path().join("socket"));
        Client::enter(stream.expect("it listens"), Form::Simple, "disk", &[])
    };
    let write = |client: &mut Client<UnixStream>| client.call(0, WRITE, 0, 512, &[3; 512]).error;
    assert_ne!(write(&mut enter()), 0, "a client of NBD is refused, too");
    drop((first, second));
    hosts.await_guests(0);
    let mut client = enter();
    assert_eq!(write(&mut client), 0);
    let mut third = hosts.guest(1);
    assert_eq!(third.request(0, kind::WRITE, 0, &[4; 512], 0).0, FAILED);
    assert_eq!(hosts.disk.content()[..512], [3; 512]);
    drop(client);
    assert!(hosts.nbd.client_count() <= 1);
}

#[test]
fn what_can_only_be_read_is_offered_so() {
    let hosts = Hosts::new();
    let mut fixed = FrontEnd::connect(&hosts.socket("fixed"), 1, ROOM).expect("it is served");
    assert_ne!(fixed.features() & READ_ONLY, 0);
    assert_eq!(
        fixed.request(0, kind::READ, 0, &[], 512),
        (DONE, vec![7; 512])
    );
    assert_eq!(fixed.request(0, kind::WRITE, 0, &[1; 512], 0).0, FAILED);
    assert_eq!(fixed.request(0, kind::FLUSH, 0, &[], 0).0, DONE);
    assert!(FrontEnd::connect(&hosts.socket("busy"), 1, ROOM).is_err());
    let closed = Hosts::with_options(true);
    let mut guest = closed.guest(1);
    assert_eq!(guest.request(0, kind::WRITE, 0, &[1; 512], 0).0, FAILED);
}

#[test]
fn a_guest_is_switched_off_when_its_queues_are_stopped_and_not_when_it_dies() {
    let hosts = Hosts::new();
    let left = || hosts.disk.left_count.load(Ordering::Relaxed);
    let mut guest = hosts.guest(2);
    assert_eq!(guest.request(1, kind::WRITE, 0, &[1; 512], 0).0, DONE);
    drop(guest);
    hosts.await_guests(0);
    assert_eq!(left(), 0, "it may come back");
    let mut guest = hosts.guest(2);
    assert_eq!(guest.request(1, kind::WRITE, 0, &[1; 512], 0).0, DONE);
    guest.stop_queues().expect("it answers");
    drop(guest);
    hosts.await_guests(0);
    assert_eq!(left(), 1);
}

/// Chains of descriptors that no driver makes: none ends the server, reaches outside of the guest's
/// memory, or changes the disk.
#[test]
fn hostile_queues_end_nothing_and_change_nothing() {
    let hosts = Hosts::new();
    let before = hosts.disk.content();
    let mut random = fastrand::Rng::with_seed(11);
    for round in 0..300 {
        let mut guest = hosts.guest(1);
        let (len, slot) = (guest.memory_len(), guest.slot_at(0, 1));
        for _ in 0..random.usize(1..8) {
            let places = [0, slot, slot + 16, len - 1, len, u64::MAX, random.u64(..)];
            let lens = [0, 1, 15, 16, 17, 512, u32::MAX, random.u32(..)];
            let chain: Vec<Descriptor> = (0..random.usize(1..6))
                .map(|_| Descriptor {
                    address: places[random.usize(..places.len())],
                    len: lens[random.usize(..lens.len())],
                    flags: random.u16(..8),
                    next: [0, 1, 2, 300, u16::MAX][random.usize(..5)],
                })
                .collect();
            guest.offer_chain(0, random.u16(..8), &chain);
        }
        if random.bool() {
            guest.put_available_index(0, random.u16(..));
            guest.kick(0);
        }
        drop(guest);
        if round % 16 == 0 {
            hosts.await_guests(0);
        }
    }
    let mut guest = hosts.guest(1);
    assert_eq!(
        guest.request(0, kind::READ, 0, &[], 512).0,
        DONE,
        "it goes on"
    );
    assert!(hosts.disk.content() == before, "none of them was a write");
}

/// The server is stopped while requests are under way: those without a result are done again by the
/// next one, from where the queue stands, and none is lost.
#[test]
fn a_guest_goes_on_with_the_next_server() {
    let hosts = Hosts::new();
    let mut guest = hosts.guest(1);
    for slot in 0..SLOTS {
        let bytes = [slot as u8 + 1; 512];
        guest.submit(0, slot, kind::WRITE, slot as u64, &bytes, 0);
    }
    assert_eq!(hosts.guests.stop_within(PATIENCE), 0);
    let done = guest.finished(0).len();
    let disk = hosts.disk.content();
    for slot in 0..done {
        assert_eq!(
            disk[slot * 512..][..512],
            [slot as u8 + 1; 512],
            "what was answered is there"
        );
    }
    assert!(!hosts.socket("disk").exists(), "nobody listens any more");
    let options = VhostUserOptions {
        read_only: false,
        report: None,
        board: Arc::new(ChangeBoard::default()),
    };
    let exports = Arc::new(Devices(vec![("disk", Arc::clone(&hosts.disk))]));
    let at = hosts.folder.path().join("guests");
    let next = VhostUserServer::start_server(exports, &at, hosts.nbd.writers(), options)
        .expect("a server starts");
    guest
        .reconnect(&hosts.socket("disk"))
        .expect("it is served");
    let mut ended = done;
    while ended < SLOTS {
        let more = guest.finished(0).len();
        if more == 0 {
            guest.await_call(0);
        }
        ended += more;
    }
    let disk = hosts.disk.content();
    for slot in 0..SLOTS {
        assert_eq!(disk[slot * 512..][..512], [slot as u8 + 1; 512], "{slot}");
    }
    drop(guest);
    drop(next);
}
