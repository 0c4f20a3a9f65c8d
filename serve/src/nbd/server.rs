//! All clients of a server, from the first to a bounded end.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::net::Shutdown;
use vellum_core::device::Exports;

use super::buffers::{Pool, REQUESTS_LEN};
use super::client_log::{ClientLog, Report};
use super::clients::{ClientGuard, ClientTable, ServerState};
use super::connection::STACK_LEN;
use super::entrance;
use super::negotiation::Policy;
use super::seats::{ListenerRoom, SeatLimits, Seats};
use super::tls::TlsIdentity;
use super::transport::Transport;
use crate::change_board::ChangeBoard;
use crate::error::ServeError;
use crate::peer::Peer;
use crate::socket::ListeningSocket;
use crate::writers::Writers;

/// Time in which cut-off connections must notice it. Only a call into a device can take longer.
const CUT_TIME: Duration = Duration::from_secs(1);
/// More grace than anybody waits for, and a time that every clock can add.
const GRACE_MAX: Duration = Duration::from_hours(1);

/// Options of a server.
#[derive(Clone)]
pub struct ServerOptions {
    /// With an identity every client must start TLS first, on every socket; without, there is none.
    pub tls: Option<TlsIdentity>,
    /// No client may write, whatever the exports allow.
    pub read_only: bool,
    /// The client that writes last to an export becomes its writer, and the one before is refused
    /// from then on; otherwise the first one stays its writer for as long as it is connected.
    pub takeover: bool,
    /// Clients in exports at once, at least 1, and at most half of [`ServerOptions::sockets_max`];
    /// more wait for a while until one leaves. With 1, clients are told not to open several
    /// connections.
    pub clients_max: usize,
    /// Sockets of clients at once, those included that have not chosen an export yet.
    pub sockets_max: usize,
    /// A client that has not chosen an export after this is cut off.
    pub handshake_time: Duration,
    /// Memory for requests of more than 64 KiB, for all clients together. Where it is used up,
    /// requests go on in small pieces.
    pub requests_len: u64,
    /// Is told in a line of each client that comes and leaves, of requests that fail, and of slow
    /// ones.
    pub report: Option<Report>,
    /// Is told what clients write, for mounts that show the same disks.
    pub board: Arc<ChangeBoard>,
}

impl Default for ServerOptions {
    /// No TLS, writable, 1,024 clients on 4,096 sockets, 30 seconds, 256 MiB, silent.
    fn default() -> Self {
        Self {
            tls: None,
            read_only: false,
            takeover: false,
            clients_max: 1024,
            sockets_max: 4096,
            handshake_time: Duration::from_secs(30),
            requests_len: REQUESTS_LEN,
            report: None,
            board: Arc::default(),
        }
    }
}

impl ServerState {
    /// Waits until one more client of `listener` can be taken. `false`: the server stops.
    fn await_room(&self, listener: usize) -> bool {
        let mut clients = self.lock_clients();
        while !self.is_stopping() {
            match clients.seats.make_room(listener, Instant::now()) {
                ListenerRoom::Free => return true,
                ListenerRoom::Given(transport) => transport.shut_down(Shutdown::Both),
                ListenerRoom::After(time) => clients = self.wait_for_change(clients, time),
            }
        }
        false
    }

    /// Begins to serve one more client. `false`: the server stops.
    fn admit_socket(self: &Arc<Self>, socket: OwnedFd, listener: usize) -> bool {
        let (now, peer) = (Instant::now(), Peer::of_socket(&socket));
        let deadline = now + self.handshake_time;
        let transport = Arc::new(Transport::new(socket, deadline));
        let mut clients = self.lock_clients();
        // Under the lock: `stop` either sees this client or has been seen here.
        if self.is_stopping() {
            return false;
        }
        let id = clients
            .seats
            .admit_client(Arc::clone(&transport), peer.clone(), listener, now);
        drop(clients);
        let membership = ClientGuard {
            log: ClientLog::new(self.report.clone(), &peer),
            peer,
            shared: Arc::clone(self),
            id,
            // The client is told while it still listens.
            seat_deadline: now + self.handshake_time / 10 * 9,
            entered: AtomicBool::new(false),
        };
        let shared = Arc::clone(self);
        let serve = move || entrance::serve_socket(&shared, transport, membership);
        // Without a thread the client is dropped, and sees the connection closed.
        let _ = thread::Builder::new()
            .name("nbd-client".to_owned())
            .stack_size(STACK_LEN)
            .spawn(serve);
        true
    }

    fn accept_all(self: &Arc<Self>, listening: &ListeningSocket, listener: usize) {
        while self.await_room(listener)
            && listening
                .accept_client(self.stop.as_fd())
                .is_some_and(|socket| self.admit_socket(socket, listener))
        {}
    }
}

/// Outcome of a wait for the last client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastClientWait {
    /// Some client had entered an export, and now none is connected.
    All,
    /// The server stops or has stopped.
    Stopping,
    /// The time is over.
    NotYet,
}

/// State that is left after a server has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoppedServer {
    /// Clients that were still connected when the grace was over, and were cut off.
    pub cut_off: usize,
    /// Of these, those whose request a device has not ended yet: a thread of each still holds its
    /// device.
    pub unfinished: usize,
}

/// An NBD server. It may be used from many threads; dropping it stops it without grace.
pub struct NbdServer {
    shared: Arc<ServerState>,
    acceptors: Mutex<Vec<JoinHandle<()>>>,
}

impl NbdServer {
    /// A server for `exports` that listens nowhere yet. An error: the system refuses a descriptor.
    pub fn start_server(
        exports: Arc<dyn Exports>,
        options: ServerOptions,
    ) -> Result<Self, ServeError> {
        let limits = SeatLimits::new(options.clients_max, options.sockets_max);
        let clients_max = limits.clients_max();
        let policy = Policy {
            tls_required: options.tls.is_some(),
            read_only: options.read_only,
            multi_conn: clients_max > 1,
        };
        let stop =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from)?;
        let shared = ServerState {
            exports,
            policy,
            tls: options.tls,
            pool: Arc::new(Pool::new(options.requests_len)),
            writers: Arc::new(Writers::new(options.takeover)),
            board: options.board,
            report: options.report,
            clients_max,
            handshake_time: options.handshake_time,
            stopping: AtomicBool::new(false),
            clients: Mutex::new(ClientTable {
                seats: Seats::new(limits),
                left: false,
                listener_count: 0,
            }),
            changed: Condvar::new(),
            stop,
        };
        Ok(Self {
            shared: Arc::new(shared),
            acceptors: Mutex::default(),
        })
    }

    /// Listens on a Unix socket at `path`, which only this user may connect to. The socket of a
    /// server that has died is replaced, and the file is removed in the end. An error: a live
    /// server listens there, another kind of file is in the way, the path is too long for a socket
    /// (107 bytes), or the system refuses.
    pub fn listen_unix(&self, path: &Path) -> Result<(), ServeError> {
        self.start_listener(ListeningSocket::bind_unix(path)?)
    }

    /// Listens on a TCP port, of any free number if `address` has 0. Returns the address. An error:
    /// it is taken or not ours.
    pub fn listen_tcp(&self, address: SocketAddr) -> Result<SocketAddr, ServeError> {
        let (listening, address) = ListeningSocket::bind_tcp(address)?;
        self.start_listener(listening)?;
        Ok(address)
    }

    /// Takes clients from a socket that somebody else made and listens on, as systemd hands over.
    /// It becomes non-blocking, for all who share it. An error: it is no listening stream socket,
    /// Unix or TCP.
    pub fn listen_on(&self, socket: OwnedFd) -> Result<(), ServeError> {
        self.start_listener(ListeningSocket::from_inherited(socket)?)
    }

    fn start_listener(&self, listening: ListeningSocket) -> Result<(), ServeError> {
        let mut acceptors = self
            .acceptors
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if self.shared.is_stopping() {
            return Err(ServeError::Stopping);
        }
        let listener = {
            let mut clients = self.shared.lock_clients();
            clients.listener_count += 1;
            clients.listener_count
        };
        let shared = Arc::clone(&self.shared);
        let accept = move || shared.accept_all(&listening, listener);
        acceptors.push(
            thread::Builder::new()
                .name("nbd-accept".to_owned())
                .spawn(accept)?,
        );
        Ok(())
    }

    /// True if no client may write.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.shared.policy.read_only
    }

    /// The writers of its exports, for a server of the same exports over another protocol.
    #[must_use]
    pub fn writers(&self) -> Arc<Writers> {
        Arc::clone(&self.shared.writers)
    }

    /// Number of connected clients.
    #[must_use]
    pub fn client_count(&self) -> usize {
        self.shared.lock_clients().seats.len()
    }

    /// Limit of clients in exports at once: the one asked for, or what descriptors allow.
    #[must_use]
    pub fn clients_max(&self) -> usize {
        self.shared.clients_max
    }

    /// Waits until some client has entered an export and none is connected any more, the server
    /// stops, or `time` is over; without `time` as long as it takes. For servers that leave with
    /// their last client: a client that only lists does not count.
    #[must_use]
    pub fn wait_left(&self, time: Option<Duration>) -> LastClientWait {
        let deadline = time.and_then(|time| Instant::now().checked_add(time));
        let mut clients = self.shared.lock_clients();
        loop {
            if self.shared.is_stopping() {
                return LastClientWait::Stopping;
            }
            if clients.left && clients.seats.is_empty() {
                return LastClientWait::All;
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            clients = match left {
                Some(Duration::ZERO) => return LastClientWait::NotYet,
                Some(left) => {
                    self.shared
                        .changed
                        .wait_timeout(clients, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
                None => self
                    .shared
                    .changed
                    .wait(clients)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Ends the service: takes no more clients, answers requests that come with "stopping", lets
    /// those under way end and their replies go out, and after `grace` cuts off who is left. Takes
    /// at most `grace` and a second, whatever clients do. Idle clients cost no time. A second call
    /// waits for the same end.
    pub fn stop_within(&self, grace: Duration) -> StoppedServer {
        let deadline = Instant::now() + grace.min(GRACE_MAX);
        {
            // Under the lock, so that who decides to wait has seen it or is woken.
            let _clients = self.shared.lock_clients();
            self.shared.stopping.store(true, Ordering::Relaxed);
        }
        self.shared.changed.notify_all();
        // The counter can overflow only after 2^64 stops.
        let _ = rustix::io::write(&self.shared.stop, &1_u64.to_ne_bytes());
        let acceptors = std::mem::take(
            &mut *self
                .acceptors
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        // An acceptor that has panicked has closed its socket.
        acceptors
            .into_iter()
            .for_each(|acceptor| drop(acceptor.join()));
        self.shared.shut_all(Shutdown::Read);
        let cut_off = self.shared.wait_gone(deadline);
        self.shared.shut_all(Shutdown::Both);
        let unfinished = if cut_off == 0 {
            0
        } else {
            self.shared.wait_gone(Instant::now() + CUT_TIME)
        };
        StoppedServer {
            cut_off,
            unfinished,
        }
    }
}

impl Drop for NbdServer {
    fn drop(&mut self) {
        self.stop_within(Duration::ZERO);
    }
}
