//! The clients of a server: state that all their connections share, and the membership of each.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::Shutdown;
use vellum_core::device::Exports;

use super::buffers::Pool;
use super::client_log::{ClientLog, Report};
use super::negotiation::Policy;
use super::seats::{SeatOutcome, Seats};
use super::tls::TlsIdentity;
use crate::change_board::ChangeBoard;
use crate::peer::Peer;
use crate::writers::Writers;

/// State that all connections of a server share.
pub(super) struct ServerState {
    pub(super) exports: Arc<dyn Exports>,
    pub(super) policy: Policy,
    pub(super) tls: Option<TlsIdentity>,
    pub(super) pool: Arc<Pool>,
    pub(super) writers: Arc<Writers>,
    pub(super) board: Arc<ChangeBoard>,
    pub(super) report: Option<Report>,
    pub(super) clients_max: usize,
    pub(super) handshake_time: Duration,
    pub(super) stopping: AtomicBool,
    pub(super) clients: Mutex<ClientTable>,
    /// A client came, took a seat or left, or the server stops.
    pub(super) changed: Condvar,
    pub(super) stop: OwnedFd,
}

pub(super) struct ClientTable {
    pub(super) seats: Seats,
    /// True if a client that had entered an export has left.
    pub(super) left: bool,
    pub(super) listener_count: usize,
}

impl ServerState {
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    pub(super) fn lock_clients(&self) -> MutexGuard<'_, ClientTable> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The clients, after one came or left, or `time` is over.
    pub(super) fn wait_for_change<'a>(
        &self,
        clients: MutexGuard<'a, ClientTable>,
        time: Duration,
    ) -> MutexGuard<'a, ClientTable> {
        let waited = self.changed.wait_timeout(clients, time);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Waits until no client is connected, at most until `deadline`. Returns how many are.
    pub(super) fn wait_gone(&self, deadline: Instant) -> usize {
        let time = deadline.saturating_duration_since(Instant::now());
        let connected = |clients: &mut ClientTable| !clients.seats.is_empty();
        let waited = self
            .changed
            .wait_timeout_while(self.lock_clients(), time, connected);
        waited.unwrap_or_else(PoisonError::into_inner).0.seats.len()
    }

    pub(super) fn shut_all(&self, how: Shutdown) {
        self.lock_clients()
            .seats
            .all_transports()
            .for_each(|transport| transport.shut_down(how));
    }
}

/// That a client is connected; dropping it says that it has left.
pub(super) struct ClientGuard {
    pub(super) log: ClientLog,
    pub(super) peer: Peer,
    pub(super) shared: Arc<ServerState>,
    pub(super) id: u64,
    pub(super) seat_deadline: Instant,
    pub(super) entered: AtomicBool,
}

impl ClientGuard {
    /// Waits for a seat for this client. An error, for people: there is none in time.
    pub(super) fn take_seat(&self) -> Result<(), String> {
        let mut clients = self.shared.lock_clients();
        loop {
            let why = match clients.seats.take_seat(self.id) {
                SeatOutcome::Taken => return Ok(()),
                SeatOutcome::Gone => return Err("this client was given up for another".to_owned()),
                SeatOutcome::Full => format!("all {} seats are taken", self.shared.clients_max),
                SeatOutcome::ShareUsed => {
                    "this client has as many seats as one client gets".to_owned()
                }
            };
            let left = self.seat_deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.shared.is_stopping() {
                return Err(why);
            }
            clients = self.shared.wait_for_change(clients, left);
        }
    }

    /// The client did not get what it wanted the seat for.
    pub(super) fn give_seat_back(&self) {
        self.shared.lock_clients().seats.give_back(self.id);
        self.shared.changed.notify_all();
    }

    /// The client has entered an export.
    pub(super) fn mark_entered(&self) {
        self.entered.store(true, Ordering::Relaxed);
    }
}

impl Drop for ClientGuard {
    fn drop(&mut self) {
        self.log.log_left();
        let mut clients = self.shared.lock_clients();
        clients.seats.remove_client(self.id);
        clients.left |= self.entered.load(Ordering::Relaxed);
        drop(clients);
        self.shared.changed.notify_all();
    }
}
