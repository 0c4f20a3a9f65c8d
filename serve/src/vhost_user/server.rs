//! The sockets of a folder, one for each export, and the connections of VMMs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use vellum_core::device::{Exports, Intent};
use vhost_user_backend::{ShutdownHandle, VhostUserDaemon};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

use super::backend::{DiskBackend, IS_OVER};
use super::target::{DiskTarget, TargetParts};
use crate::change_board::ChangeBoard;
use crate::error::ServeError;
use crate::nbd::Report;
use crate::peer::Peer;
use crate::socket::ListeningSocket;
use crate::writers::{WriteRight, Writers};

/// The end of a socket's name, behind the export's.
const ENDING: &str = ".sock";
/// Sockets of a folder: each is a descriptor.
const SOCKETS_MAX: usize = 1024;
/// Guests at once: each costs a thread, one more for each queue, and their buffers.
const GUESTS_MAX: usize = 256;
/// The pause after which the list of exports is looked at again.
const LOOK_PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 250_000_000,
};

/// Options of a server.
#[derive(Clone)]
pub struct VhostUserOptions {
    /// No guest may write, whatever the exports allow.
    pub read_only: bool,
    /// Is told in a line of each guest that comes and leaves, and of requests that fail.
    pub report: Option<Report>,
    /// Is told what guests write, for mounts that show the same disks.
    pub board: Arc<ChangeBoard>,
}

/// A folder of sockets to which VMMs connect. Dropping it stops it without grace.
pub struct VhostUserServer {
    shared: Arc<SharedState>,
    acceptor: Mutex<Option<JoinHandle<()>>>,
}

struct SharedState {
    exports: Arc<dyn Exports>,
    folder: PathBuf,
    writers: Arc<Writers>,
    options: VhostUserOptions,
    /// Wakes the thread that takes guests.
    wake: OwnedFd,
    guests: Mutex<GuestTable>,
    changed: Condvar,
    guest_count: AtomicU64,
}

/// The guests that are connected.
#[derive(Default)]
struct GuestTable {
    connected: BTreeMap<u64, Option<ShutdownHandle>>,
    /// Exports with a guest that waits at the socket while its thread opens the disk.
    admitting: BTreeSet<String>,
    is_stopping: bool,
}

impl VhostUserServer {
    /// Keeps a socket for each export in `folder`, which is made if it is not there, and takes
    /// guests from now on. `writers` are those of the NBD server that offers the same exports. An
    /// error: the folder cannot be made, or the system refuses.
    pub fn start_server(
        exports: Arc<dyn Exports>,
        folder: &Path,
        writers: Arc<Writers>,
        options: VhostUserOptions,
    ) -> Result<Self, ServeError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| ServeError::Listen(folder.display().to_string(), error))?;
        let wake = new_event()?;
        let shared = Arc::new(SharedState {
            exports,
            folder: folder.to_owned(),
            writers,
            options,
            wake,
            guests: Mutex::default(),
            changed: Condvar::new(),
            guest_count: AtomicU64::new(0),
        });
        // The sockets are there when this returns.
        let mut sockets = SocketFolder::default();
        sockets.follow_exports(&shared);
        let for_thread = Arc::clone(&shared);
        let acceptor = thread::Builder::new()
            .name("vhost-accept".to_owned())
            .spawn(move || accept_guests(&for_thread, sockets))?;
        Ok(Self {
            shared,
            acceptor: Mutex::new(Some(acceptor)),
        })
    }

    /// Number of connected guests.
    #[must_use]
    pub fn guest_count(&self) -> usize {
        self.shared.lock_guests().connected.len()
    }

    /// Ends the service: removes the sockets, lets requests under way end and their results go into
    /// the queues, and cuts the connections; a front end that reconnects goes on with another
    /// server. The number of guests whose request a device has not ended after `grace`.
    pub fn stop_within(&self, grace: Duration) -> usize {
        let deadline = Instant::now() + grace.min(Duration::from_hours(1));
        let handles: Vec<ShutdownHandle> = {
            let mut guests = self.shared.lock_guests();
            guests.is_stopping = true;
            guests.connected.values().flatten().cloned().collect()
        };
        self.shared.wake_acceptor();
        let mut acceptor = self.acceptor.lock().unwrap_or_else(PoisonError::into_inner);
        // An acceptor that has panicked has closed its sockets.
        acceptor
            .take()
            .into_iter()
            .for_each(|thread| drop(thread.join()));
        handles.iter().for_each(ShutdownHandle::shutdown);
        let mut guests = self.shared.lock_guests();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if guests.connected.is_empty() || left.is_zero() {
                return guests.connected.len();
            }
            guests = self
                .shared
                .changed
                .wait_timeout(guests, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Drop for VhostUserServer {
    fn drop(&mut self) {
        self.stop_within(Duration::ZERO);
    }
}

impl SharedState {
    fn lock_guests(&self) -> MutexGuard<'_, GuestTable> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the connection of guest `id`, so that it can be cut; cuts it if the server stops.
    fn note_guest(&self, id: u64, daemon: &VhostUserDaemon<Arc<DiskBackend>>) {
        let mut guests = self.lock_guests();
        guests.connected.insert(id, daemon.shutdown_handle());
        if guests.is_stopping {
            daemon.request_shutdown();
        }
    }

    fn wake_acceptor(&self) {
        // The counter is read long before it is full.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// The guest that waited at `name` was taken, or turned away: the next one can be.
    fn end_admission(&self, name: &str) {
        self.lock_guests().admitting.remove(name);
        self.wake_acceptor();
    }

    fn report_line(&self, line: impl FnOnce() -> String) {
        if let Some(report) = &self.options.report {
            report(&line());
        }
    }
}

/// The sockets that are there.
#[derive(Default)]
struct SocketFolder {
    /// The revision of the exports that they were made for.
    revision: Option<u64>,
    sockets: BTreeMap<String, ListeningSocket>,
}

impl SocketFolder {
    /// Makes the sockets of new exports, and removes those of exports that are gone.
    fn follow_exports(&mut self, shared: &SharedState) {
        let revision = shared.exports.revision();
        if self.revision == Some(revision) {
            return;
        }
        let Ok(exports) = shared.exports.list_exports() else {
            return;
        };
        self.revision = Some(revision);
        let mut before = std::mem::take(&mut self.sockets);
        // Images before their snapshots, where there are more than fit.
        let (snapshots, images): (Vec<_>, Vec<_>) = exports
            .into_iter()
            .partition(|export| export.name.contains('@'));
        let names = images.into_iter().chain(snapshots);
        for name in names.map(|export| export.name).take(SOCKETS_MAX) {
            if let Some(socket) = before.remove(&name) {
                self.sockets.insert(name, socket);
                continue;
            }
            let path = shared.folder.join(format!("{name}{ENDING}"));
            match ListeningSocket::bind_unix(&path) {
                Ok(socket) => _ = self.sockets.insert(name, socket),
                Err(error) => shared.report_line(|| error.to_string()),
            }
        }
    }

    /// The exports at whose sockets a guest waits that no thread takes yet. Waits for a moment.
    fn await_guests(&self, shared: &SharedState) -> Vec<String> {
        let admitting = shared.lock_guests().admitting.clone();
        let idle = self.sockets.iter();
        let idle: Vec<_> = idle
            .filter(|(name, _)| !admitting.contains(*name))
            .collect();
        let readable = |socket| PollFd::from_borrowed_fd(socket, PollFlags::IN);
        let mut watched = vec![readable(shared.wake.as_fd())];
        watched.extend(idle.iter().map(|(_, socket)| readable(socket.as_fd())));
        let is_polled = poll(&mut watched, Some(&LOOK_PAUSE)).is_ok();
        // It says nothing but that something has changed.
        let _ = rustix::io::read(&shared.wake, &mut [0; 8]);
        let waiting = idle.iter().zip(&watched[1..]);
        let waiting = waiting.filter(|(_, watched)| is_polled && !watched.revents().is_empty());
        waiting.map(|((name, _), _)| (*name).clone()).collect()
    }
}

/// Takes guests until the server stops. The sockets are removed then.
fn accept_guests(shared: &Arc<SharedState>, mut sockets: SocketFolder) {
    while !shared.lock_guests().is_stopping {
        sockets.follow_exports(shared);
        for name in sockets.await_guests(shared) {
            let socket = sockets.sockets.get(&name);
            let listener = socket.and_then(|socket| socket.as_fd().try_clone_to_owned().ok());
            if let Some(listener) = listener {
                admit_guest(shared, name, listener.into());
            }
        }
    }
}

/// Gives the guest that waits at `listener` a thread.
fn admit_guest(shared: &Arc<SharedState>, name: String, listener: UnixListener) {
    let id = shared.guest_count.fetch_add(1, Ordering::Relaxed);
    {
        let mut guests = shared.lock_guests();
        if guests.is_stopping || guests.connected.len() >= GUESTS_MAX {
            drop(guests);
            // Refused: taken and closed, so that it does not wait for ever.
            drop(listener.accept());
            return;
        }
        guests.connected.insert(id, None);
        guests.admitting.insert(name.clone());
    }
    let for_thread = Arc::clone(shared);
    let serve = move || {
        if let Err(why) = serve_guest(&for_thread, id, &name, listener) {
            for_thread.report_line(|| format!("{name}: a guest was turned away: {why}"));
            for_thread.end_admission(&name);
        }
        for_thread.lock_guests().connected.remove(&id);
        for_thread.changed.notify_all();
    };
    let thread = thread::Builder::new()
        .name("vhost-guest".to_owned())
        .spawn(serve);
    if thread.is_err() {
        let mut guests = shared.lock_guests();
        guests.connected.remove(&id);
        // The next look finds it where it waits, and perhaps there is memory then.
        guests.admitting.clear();
    }
}

/// Serves a guest until it leaves, or the server stops.
fn serve_guest(
    shared: &Arc<SharedState>,
    id: u64,
    name: &str,
    listener: UnixListener,
) -> Result<(), String> {
    let backend = match open_backend(shared, id, name) {
        Ok(backend) => Arc::new(backend),
        Err(why) => {
            drop(listener.accept());
            return Err(why);
        }
    };
    // Before the threads that it ends, and dropped after them.
    let over = QueueThreads(new_event().map_err(|error| error.to_string())?);
    let memory = backend.memory().clone();
    let mut daemon = VhostUserDaemon::new("vhost-guest".to_owned(), Arc::clone(&backend), memory)
        .map_err(|error| error.to_string())?;
    let begun = over
        .watch_threads(&daemon)
        .map_err(|error| error.to_string());
    // It waits there already.
    let begun = begun.and_then(|()| {
        let started = daemon.start(&mut listener.into());
        started.map_err(|error| error.to_string())
    });
    shared.end_admission(name);
    if begun.is_ok() {
        shared.note_guest(id, &daemon);
        shared.report_line(|| format!("a guest attached {name} over vhost-user"));
        // How a front end leaves is no concern: it may be killed at any byte.
        let _ = daemon.wait();
    }
    over.end_threads();
    // It waits for them.
    drop(daemon);
    if begun.is_ok() {
        backend.note_end();
        shared.report_line(|| format!("a guest left {name}"));
    }
    begun
}

/// The event that ends the threads of a device's queues. It must be there until they have ended.
/// (The crate's own event for that leaves a descriptor behind for each thread.)
struct QueueThreads(OwnedFd);

impl QueueThreads {
    fn watch_threads(&self, daemon: &VhostUserDaemon<Arc<DiskBackend>>) -> io::Result<()> {
        let mut handlers = daemon.get_epoll_handlers().into_iter();
        handlers.try_for_each(|handler| {
            handler.register_listener(self.0.as_raw_fd(), EventSet::IN, u64::from(IS_OVER))
        })
    }

    fn end_threads(&self) {
        // Never read: it is seen by all.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

fn new_event() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

fn open_backend(shared: &SharedState, id: u64, name: &str) -> Result<DiskBackend, String> {
    let intent = if shared.options.read_only {
        Intent::Read
    } else {
        Intent::ReadWrite
    };
    let device = shared
        .exports
        .open_export(name, intent)
        .map_err(|error| error.to_string())?;
    let peer = Peer::Guest(id);
    let right = (!device.is_shareable()).then(|| shared.writers.enter_disk(&device, &peer));
    let writer = right.as_ref().and_then(WriteRight::blocking_writer);
    let is_read_only = shared.options.read_only || device.is_read_only() || writer.is_some();
    let target = DiskTarget::new(TargetParts {
        name: name.to_owned(),
        device,
        right,
        board: Arc::clone(&shared.options.board),
        is_read_only,
        report: shared.options.report.clone(),
    });
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    Ok(DiskBackend::new(target, memory))
}
