//! Tests of a server within the limits of its process: few descriptors, little memory, and hostile
//! clients.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::sandbox::{PATIENCE, Sandbox, VELLUM};
use crate::server::Served;

const DISK_LEN: usize = 8 << 20;
const READ: u16 = 0;
const WRITE: u16 = 1;
const FLUSH: u16 = 3;

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.random_file("disk.raw", DISK_LEN, 1);
    sandbox.random_file("other.raw", DISK_LEN, 2);
    sandbox.succeed(["import", "disk.raw", "web", "--snapshot", "a"]);
    sandbox
}

/// A client with simple replies that says exactly what it is told.
struct Plain(UnixStream);

impl Plain {
    fn enter(sandbox: &Sandbox, export: &str) -> Self {
        let socket = UnixStream::connect(sandbox.path("store/nbd.sock")).expect("it listens");
        socket
            .set_read_timeout(Some(PATIENCE))
            .expect("a limit can be set");
        let mut client = Self(socket);
        client.take(18);
        let name_len = export.len() as u32;
        let data = [&name_len.to_be_bytes()[..], export.as_bytes(), &[0, 0]].concat();
        let data_len = data.len() as u32;
        client.say(&[&3_u32.to_be_bytes()[..], b"IHAVEOPT", &7_u32.to_be_bytes()].concat());
        client.say(&[&data_len.to_be_bytes()[..], &data].concat());
        loop {
            let head = client.take(20);
            let word =
                |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().expect("four bytes"));
            client.take(word(16) as usize);
            match word(12) {
                1 => return client,
                3 => {}
                refused => panic!("{refused:#x}"),
            }
        }
    }

    fn say(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("the server takes bytes");
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).expect("the server answers");
        bytes
    }

    fn send(&mut self, command: u16, offset: u64, len: u32) {
        let mut bytes = [0x25, 0x60, 0x95, 0x13, 0, 0].to_vec();
        bytes.extend(command.to_be_bytes());
        bytes.extend([[0; 8], offset.to_be_bytes()].concat());
        bytes.extend(len.to_be_bytes());
        self.say(&bytes);
    }

    /// One request; its error, and the bytes that it read.
    fn call(&mut self, command: u16, offset: u64, len: u32, payload: &[u8]) -> (u32, Vec<u8>) {
        self.send(command, offset, len);
        self.say(payload);
        let head = self.take(16);
        let error = u32::from_be_bytes(head[4..8].try_into().expect("four bytes"));
        let read_len = if command == READ && error == 0 {
            len
        } else {
            0
        };
        (error, self.take(read_len as usize))
    }
}

/// Raises this process's soft limit of descriptors; returns how many of `count` it may open.
fn may_open(count: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).expect("the soft limit can be raised");
    let most = limit.maximum.map_or(count, |most| most as usize);
    count.min(most.saturating_sub(300))
}

/// Idle connections, more of them than the process has descriptors, while a guest works: it and all
/// commands notice nothing.
#[test]
fn idle_connections_take_no_descriptor_that_the_store_needs() {
    let sandbox = sandbox();
    let script = "ulimit -n 1024; exec \"$0\" serve -k store/nbd.sock --listen 0 --json";
    let server = Served::of(sandbox.command_line("sh", ["-c", script, VELLUM]));
    let port = server.greeting["uris"][1].as_str().expect("it listens");
    let address = port["nbd://".len()..].trim_end_matches("/IMAGE");
    let address = address.parse().expect("an address");
    let mut guest = Plain::enter(&sandbox, "web");
    assert_eq!(guest.call(WRITE, 0, 5, b"begun").0, 0);
    let wait = Duration::from_millis(500);
    let idle: Vec<_> = (0..may_open(1100))
        .filter_map(|_| TcpStream::connect_timeout(&address, wait).ok())
        .collect();
    let other = fs::read(sandbox.path("other.raw")).expect("it is there");
    for (nth, part) in other.chunks(1 << 20).enumerate() {
        let (offset, len) = ((nth << 20) as u64, part.len() as u32);
        assert_eq!(guest.call(WRITE, offset, len, part).0, 0);
        assert_eq!(guest.call(FLUSH, 0, 0, b"").0, 0);
    }
    sandbox.succeed(["snapshot", "take", "web@b"]);
    sandbox.succeed(["import", "disk.raw", "copy"]);
    sandbox.succeed(["rm", "copy"]);
    sandbox.succeed(["gc"]);
    sandbox.succeed(["compare", "web@b", "other.raw"]);
    // One more at each listener, behind all of them.
    assert_eq!(Plain::enter(&sandbox, "web@a").call(READ, 0, 1, b"").0, 0);
    let mut late = TcpStream::connect(address).expect("it listens");
    late.read_exact(&mut [0; 18]).expect("it is greeted");
    drop(idle);
    assert_eq!(guest.call(FLUSH, 0, 0, b"").0, 0);
    drop(guest);
    server.stop();
    sandbox.succeed(["check", "--read-data"]);
}

/// A control group of its own with little memory, gone when dropped.
struct Group(PathBuf);

impl Group {
    /// `None`: this machine, or this user, cannot make one.
    fn with_memory(len: u64) -> Option<Self> {
        let name = format!("vellum-test-{}", std::process::id());
        for (root, file) in [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ] {
            let group = Self(PathBuf::from(root).join(&name));
            if fs::create_dir(&group.0).is_ok()
                && group.0.join(file).exists()
                && fs::write(group.0.join(file), len.to_string()).is_ok()
            {
                return Some(group);
            }
        }
        None
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Each of 200 clients has a request of 32 MiB under way that does not end, and a guest works.
#[test]
fn two_hundred_greedy_clients_fit_into_256_mib() {
    let Some(group) = Group::with_memory(256 << 20) else {
        eprintln!("skipped: no control group with a limit of memory can be made here");
        return;
    };
    let sandbox = sandbox();
    sandbox.succeed(["create", "large", "256M"]);
    let procs = group.0.join("cgroup.procs");
    let script = "echo $$ > \"$1\" && exec \"$0\" serve --json";
    let words = ["-c", script, VELLUM, procs.to_str().expect("it is text")];
    let server = Served::of(sandbox.command_line("sh", words));
    may_open(1000);
    let begun = vec![7; 256 << 10];
    let greedy: Vec<_> = (0..200)
        .map(|nth| {
            let mut client = Plain::enter(&sandbox, "large");
            if nth % 2 == 0 {
                (0..2).for_each(|_| client.send(READ, 0, 32 << 20));
            } else {
                client.send(WRITE, 0, 32 << 20);
                client.say(&begun);
            }
            client
        })
        .collect();
    let mut guest = Plain::enter(&sandbox, "large");
    let mut random = fastrand::Rng::with_seed(5);
    let mut written = vec![0; 4 << 20];
    for nth in 8..24_u64 {
        random.fill(&mut written);
        let (offset, len) = (nth << 22, written.len() as u32);
        assert_eq!(guest.call(WRITE, offset, len, &written).0, 0);
        assert_eq!(guest.call(FLUSH, 0, 0, b"").0, 0);
        assert!(guest.call(READ, offset, len, b"") == (0, written.clone()));
    }
    sandbox.succeed(["snapshot", "take", "large@a"]);
    drop((greedy, guest));
    server.stop();
    sandbox.succeed(["check", "--read-data"]);
}
