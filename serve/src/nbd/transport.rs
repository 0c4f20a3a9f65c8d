//! One client's socket, plain or under TLS. One thread receives and one sends at a time, both at
//! once; it knows no message.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use rustls::server::{ServerConfig, ServerConnection};

use super::buffers::ReceiveBuffer;
use super::tls::explain_tls_error;

/// Plain bytes that become records at once: what is encrypted but not sent yet.
const TLS_PIECE_LEN: usize = 64 << 10;

/// A connected socket. Dropping the last reference closes it.
#[derive(Debug)]
pub(super) struct Transport {
    socket: OwnedFd,
    /// Until then each call must end, while `hurried`.
    deadline: Instant,
    hurried: AtomicBool,
    tls: OnceLock<TlsSession>,
}

#[derive(Debug)]
struct TlsSession {
    session: Mutex<ServerConnection>,
    /// Records that have arrived and are not decrypted yet: the receiving thread's.
    arrived: Mutex<ReceiveBuffer>,
}

impl Transport {
    /// Whatever is received or sent fails after `deadline`, until [`Transport::take_time`].
    pub(super) fn new(socket: OwnedFd, deadline: Instant) -> Self {
        Self {
            socket,
            deadline,
            hurried: AtomicBool::new(true),
            tls: OnceLock::new(),
        }
    }

    /// Ends the hurry: the client may be idle as long as it likes.
    pub(super) fn take_time(&self) -> io::Result<()> {
        self.hurried.store(false, Ordering::Relaxed);
        set_socket_timeout(&self.socket, Timeout::Recv, None)?;
        Ok(set_socket_timeout(&self.socket, Timeout::Send, None)?)
    }

    /// No more bytes come in, and who waits for some wakes up; or neither in nor out.
    pub(super) fn shut_down(&self, how: Shutdown) {
        // A client that has hung up already needs nothing.
        let _ = rustix::net::shutdown(&self.socket, how);
    }

    /// Some bytes of the client, none when it has no more.
    pub(super) fn receive_bytes(&self, into: &mut [u8]) -> io::Result<usize> {
        match self.tls.get() {
            None => self.receive_raw(into),
            Some(tls) => self.receive_tls(tls, into),
        }
    }

    /// Sends all of `bytes`. Not from two threads at once.
    pub(super) fn send_bytes(&self, bytes: &[u8]) -> io::Result<()> {
        let Some(tls) = self.tls.get() else {
            return self.send_raw(bytes);
        };
        for piece in bytes.chunks(TLS_PIECE_LEN) {
            let mut records = Vec::with_capacity(piece.len() + 256);
            let mut session = lock_unpoisoned(&tls.session);
            session.writer().write_all(piece)?;
            drain_records(&mut session, &mut records)?;
            drop(session);
            self.send_raw(&records)?;
        }
        Ok(())
    }

    /// Does the server's part of a TLS handshake; what follows goes through TLS.
    pub(super) fn start_tls(&self, config: &Arc<ServerConfig>) -> io::Result<()> {
        let mut session = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
        // Written bytes are drained at once, so a limit of the session's own would only split
        // records.
        session.set_buffer_limit(None);
        let mut arrived = ReceiveBuffer::default();
        while session.is_handshaking() {
            if arrived.unread_bytes().is_empty() {
                let len = self.receive_raw(arrived.free_space())?;
                if len == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                arrived.add_arrived(len);
            }
            let understood = feed_records(&mut session, &mut arrived);
            let mut records = Vec::new();
            drain_records(&mut session, &mut records)?;
            // A refusal carries its reason.
            self.send_raw(&records)?;
            understood?;
        }
        let tls = TlsSession {
            session: Mutex::new(session),
            arrived: Mutex::new(arrived),
        };
        self.tls
            .set(tls)
            .map_err(|_| io::Error::other("TLS is there already"))
    }

    /// Tells a TLS client that nothing follows, if that needs no waiting.
    pub(super) fn say_goodbye(&self) {
        let Some(tls) = self.tls.get() else { return };
        let mut records = Vec::new();
        let mut session = lock_unpoisoned(&tls.session);
        session.send_close_notify();
        // It is a courtesy: who has gone already needs none.
        let _ = drain_records(&mut session, &mut records);
        let _ = rustix::net::send(
            &self.socket,
            &records,
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        );
    }

    fn receive_tls(&self, tls: &TlsSession, into: &mut [u8]) -> io::Result<usize> {
        let mut arrived = lock_unpoisoned(&tls.arrived);
        loop {
            {
                let mut session = lock_unpoisoned(&tls.session);
                match session.reader().read(into) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    // A client that hangs up without a word is no attack here: requests have
                    // lengths.
                    Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                    done => return done,
                }
                if !arrived.unread_bytes().is_empty() {
                    feed_records(&mut session, &mut arrived)?;
                    continue;
                }
            }
            let len = self.receive_raw(arrived.free_space())?;
            if len == 0 {
                return Ok(0);
            }
            arrived.add_arrived(len);
        }
    }

    fn receive_raw(&self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            self.limit_wait(Timeout::Recv)?;
            match rustix::net::recv(&self.socket, &mut *into, RecvFlags::empty()) {
                Ok((received, _)) => return Ok(received),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn send_raw(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.limit_wait(Timeout::Send)?;
            match rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Lets the next call wait no longer than the deadline, however slowly bytes trickle in.
    fn limit_wait(&self, which: Timeout) -> io::Result<()> {
        if !self.hurried.load(Ordering::Relaxed) {
            return Ok(());
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.as_micros() == 0 {
            return Err(ErrorKind::TimedOut.into());
        }
        Ok(set_socket_timeout(self.socket.as_fd(), which, Some(left))?)
    }
}

fn feed_records(session: &mut ServerConnection, arrived: &mut ReceiveBuffer) -> io::Result<()> {
    let mut records = arrived.unread_bytes();
    let available = records.len();
    session.read_tls(&mut records)?;
    let taken = available - records.len();
    arrived.consume_bytes(taken);
    session
        .process_new_packets()
        .map_err(|error| io::Error::other(explain_tls_error(&error)))?;
    Ok(())
}

fn drain_records(session: &mut ServerConnection, records: &mut Vec<u8>) -> io::Result<()> {
    while session.wants_write() {
        session.write_tls(records)?;
    }
    Ok(())
}

fn lock_unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The sending end, as a writer.
pub(super) struct SocketWriter(pub(super) Arc<Transport>);

impl Write for SocketWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send_bytes(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
