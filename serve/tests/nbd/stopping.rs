//! Sockets and ends: a server takes its place once, and leaves it in bounded time whatever its
//! clients do.

use std::fs;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use vellum_serve::ServeError;
use vellum_serve::nbd::{LastClientWait, NbdServer, ServerOptions, SingleExport, StoppedServer};

use crate::client::{Client, DISC, FIXED, FLUSH, Form, OPT_GO, OPT_LIST, READ, wish};
use crate::memory::{Devices, Fault, GRID, Memory};
use crate::world::{World, noise};

const GRACE: Duration = Duration::from_mins(2);
const SHORT: Duration = Duration::from_millis(50);
const CLEAN: StoppedServer = StoppedServer {
    cut_off: 0,
    unfinished: 0,
};

fn server() -> NbdServer {
    let exports = Devices(vec![("disk", Arc::new(Memory::new(noise(GRID, 1))))]);
    NbdServer::start_server(Arc::new(exports), ServerOptions::default()).expect("a server starts")
}

#[test]
fn a_socket_is_for_its_owner_and_goes_with_its_server() {
    let world = World::new(noise(GRID, 1));
    let path = world.socket();
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(
        matches!(server().listen_unix(&path), Err(ServeError::InUse(_))),
        "a live server keeps its socket"
    );
    assert_eq!(world.server.stop_within(GRACE), CLEAN);
    assert!(!path.exists());
    assert!(matches!(
        world.server.listen_unix(&path),
        Err(ServeError::Stopping)
    ));
    assert!(!path.exists(), "what was refused leaves nothing");
}

/// A socket that nobody listens at. It is shut down, not only closed: what another test starts may
/// have it open for a moment.
fn leave_dead_socket(path: &Path) {
    let listener = UnixListener::bind(path).expect("a fresh folder");
    UnixStream::from(OwnedFd::from(listener))
        .shutdown(Shutdown::Both)
        .expect("it listens");
}

#[test]
fn a_dead_servers_socket_is_replaced_and_no_other_file() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("socket");
    leave_dead_socket(&path);
    let living = server();
    living.listen_unix(&path).expect("nobody listens there");
    Client::enter(
        UnixStream::connect(&path).unwrap(),
        Form::Simple,
        "disk",
        &[],
    );
    let file = folder.path().join("file");
    fs::write(&file, "precious").unwrap();
    assert!(matches!(
        living.listen_unix(&file),
        Err(ServeError::NotSocket(_))
    ));
    std::os::unix::fs::symlink(&file, folder.path().join("link")).unwrap();
    assert!(matches!(
        living.listen_unix(&folder.path().join("link")),
        Err(ServeError::NotSocket(_))
    ));
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    let long = folder.path().join("x".repeat(200));
    assert!(matches!(
        living.listen_unix(&long),
        Err(ServeError::Listen(..))
    ));
    // Somebody else's socket in our place is not ours to remove.
    fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    living.stop_within(GRACE);
    assert!(path.exists());
    drop(other);
}

/// Who waits for the name and then connects finds a server: the socket listens before it is named.
#[test]
fn a_socket_that_has_its_name_can_be_connected_to() {
    for _ in 0..300 {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("socket");
        let server = server();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                while !path.exists() {
                    std::hint::spin_loop();
                }
                UnixStream::connect(&path)
            });
            server.listen_unix(&path).unwrap();
            waiting.join().unwrap().expect("it listens");
        });
        let files = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(files, 1, "its first name is gone");
    }
}

/// A server that was killed between the two names of its socket.
#[test]
fn a_socket_that_never_got_its_name_is_no_obstacle() {
    let folder = tempfile::TempDir::new().unwrap();
    leave_dead_socket(&folder.path().join(".vellum-socket.new"));
    let (path, server) = (folder.path().join("socket"), server());
    server.listen_unix(&path).unwrap();
    UnixStream::connect(&path).expect("it listens");
    drop(server);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn of_servers_that_start_at_once_one_gets_the_socket() {
    const RIVALS: usize = 4;
    for _ in 0..100 {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("socket");
        leave_dead_socket(&path);
        let (rivals, gun) = ([(); RIVALS].map(|()| server()), Barrier::new(RIVALS));
        let start = &|rival: &NbdServer| {
            gun.wait();
            rival.listen_unix(&path).is_ok()
        };
        let got = thread::scope(|scope| {
            let starting: Vec<_> = rivals
                .iter()
                .map(|rival| scope.spawn(move || start(rival)))
                .collect();
            starting
                .into_iter()
                .map(|started| started.join().unwrap())
                .filter(|got| *got)
                .count()
        });
        assert_eq!(got, 1);
        Client::enter(
            UnixStream::connect(&path).unwrap(),
            Form::Simple,
            "disk",
            &[],
        );
    }
}

#[test]
fn sockets_of_all_kinds_serve() {
    let server = server();
    let address = server.listen_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut client = Client::enter(
        std::net::TcpStream::connect(address).unwrap(),
        Form::Structured,
        "disk",
        &[],
    );
    assert_eq!(client.call(0, READ, 0, 512, b"").error, 0);
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("inherited");
    let inherited = UnixListener::bind(&path).unwrap();
    server.listen_on(OwnedFd::from(inherited)).unwrap();
    let mut client = Client::enter(
        UnixStream::connect(&path).unwrap(),
        Form::Structured,
        "disk",
        &[],
    );
    assert_eq!(client.call(0, READ, 0, 512, b"").error, 0);
    let (one, _other) = UnixStream::pair().unwrap();
    assert!(matches!(
        server.listen_on(OwnedFd::from(one)),
        Err(ServeError::NotListening)
    ));
    let file = fs::File::open("/dev/null").unwrap();
    assert!(matches!(
        server.listen_on(OwnedFd::from(file)),
        Err(ServeError::NotListening)
    ));
    drop(client);
    server.stop_within(SHORT);
    assert!(
        path.exists(),
        "an inherited socket's file is somebody else's"
    );
}

#[test]
fn idle_and_half_open_clients_do_not_hold_up_the_end() {
    let world = World::new(noise(GRID, 1));
    let entered: Vec<_> = (0..10).map(|_| world.enter(Form::Structured)).collect();
    let greeted: Vec<_> = (0..10)
        .map(|_| Client::greet(world.connect(), FIXED))
        .collect();
    let silent: Vec<_> = (0..10).map(|_| world.connect()).collect();
    assert_eq!(world.server.stop_within(GRACE), CLEAN);
    drop((entered, greeted, silent));
}

#[test]
fn a_request_under_way_is_answered_and_later_ones_are_told() {
    let world = World::new(noise(1 << 20, 1));
    let mut client = world.enter(Form::Structured);
    world.disk.set_fault(Fault::Hangs);
    let hanging = client.send(0, READ, 0, 1 << 20, b"");
    // The flush is answered: the long read before it has begun.
    let flush = client.send(0, FLUSH, 0, 0, b"");
    assert_eq!(client.reply(0).cookie, flush);
    let stopped = thread::scope(|scope| {
        let stopping = scope.spawn(|| world.server.stop_within(GRACE));
        // The listener goes after "stopping" has been said.
        while world.socket().exists() {
            thread::yield_now();
        }
        world.disk.set_fault(Fault::None);
        let reply = client.reply(0);
        assert_eq!((reply.cookie, reply.error), (hanging, 0));
        assert!(reply.bytes(0, 1 << 20) == world.disk.content());
        stopping.join().unwrap()
    });
    assert_eq!(stopped, CLEAN);
    assert!(client.is_closed());
}

#[test]
fn a_device_that_hangs_does_not_hold_up_the_end() {
    let world = World::new(noise(1 << 20, 1));
    let mut client = world.enter(Form::Structured);
    world.disk.set_fault(Fault::Hangs);
    client.send(0, READ, 0, 1 << 20, b"");
    let flush = client.send(0, FLUSH, 0, 0, b"");
    assert_eq!(
        client.reply(0).cookie,
        flush,
        "another request is served meanwhile"
    );
    assert_eq!(
        world.server.stop_within(SHORT),
        StoppedServer {
            cut_off: 1,
            unfinished: 1
        }
    );
    world.disk.set_fault(Fault::None);
}

#[test]
fn the_last_client_that_entered_ends_a_wait() {
    let world = World::new(noise(GRID, 1));
    let mut listing = Client::greet(world.connect(), FIXED);
    listing.ask(OPT_LIST, b"");
    drop(listing);
    assert_eq!(
        world.server.wait_left(Some(SHORT)),
        LastClientWait::NotYet,
        "who only lists does not count"
    );
    let (mut first, second) = (world.enter(Form::Simple), world.enter(Form::Simple));
    first.send(0, DISC, 0, 0, b"");
    assert_eq!(world.server.wait_left(Some(SHORT)), LastClientWait::NotYet);
    drop(second);
    assert_eq!(world.server.wait_left(None), LastClientWait::All);
    assert_eq!(
        Arc::strong_count(&world.disk),
        2,
        "the devices are let go by then"
    );
    world.server.stop_within(GRACE);
    assert_eq!(world.server.wait_left(None), LastClientWait::Stopping);
}

#[test]
fn one_export_of_many_has_its_own_name() {
    let disk = Arc::new(Memory::new(noise(GRID, 1)));
    let all = Devices(vec![
        ("other", Arc::new(Memory::new(vec![]))),
        ("disk", Arc::clone(&disk)),
    ]);
    let single = SingleExport::new(Arc::new(all), "disk", "mine");
    let server = NbdServer::start_server(Arc::new(single), ServerOptions::default()).unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    server.listen_unix(&folder.path().join("s")).unwrap();
    let connect = || UnixStream::connect(folder.path().join("s")).unwrap();
    let listed = Client::greet(connect(), FIXED).ask(OPT_LIST, b"");
    assert_eq!(listed[0].1, b"\0\0\0\x04minedisk in memory");
    assert_eq!(listed.len(), 2);
    for (name, found) in [
        ("mine", true),
        ("", true),
        ("disk", false),
        ("other", false),
    ] {
        assert_eq!(
            Client::greet(connect(), FIXED)
                .ask(OPT_GO, &wish(name, &[]))
                .len()
                > 1,
            found,
            "{name}"
        );
    }
}
