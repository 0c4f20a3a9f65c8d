//! The interface to systemd: sockets that it handed over, and notices that the service is ready or
//! stops. Without systemd it does nothing.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use rustix::net::sockopt::socket_acceptconn;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use crate::failure::CommandFailure;
use crate::invocation::Invocation;

/// The first descriptor that is handed over; the others follow.
const FIRST: i32 = 3;
/// The greatest number of sockets: more than any unit has.
const SOCKETS_MAX: i32 = 64;

/// The sockets that systemd listens on for this process.
pub(crate) fn activated_sockets(caller: &Invocation) -> io::Result<Vec<OwnedFd>> {
    let number = |name| {
        caller
            .variable(name)
            .and_then(|text| text.to_str()?.parse::<i32>().ok())
    };
    if number("LISTEN_PID") != Some(getpid().as_raw_pid()) {
        return Ok(Vec::new());
    }
    let count = number("LISTEN_FDS").unwrap_or(0).clamp(0, SOCKETS_MAX);
    // These descriptors belong to nothing in this process, so they are taken as another process's
    // would be.
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    (FIRST..FIRST + count)
        .map(|descriptor| Ok(pidfd_getfd(&own, descriptor, PidfdGetfdFlags::empty())?))
        .collect()
}

/// The one socket at which a command is to listen, if it was handed one: by systemd to this
/// process, or as the caller's standard input, which is how a client hands its own on to the
/// server.
pub(crate) fn handed_socket(caller: &Invocation) -> io::Result<Option<OwnedFd>> {
    let mut sockets = activated_sockets(caller)?;
    if sockets.len() > 1 {
        let count = sockets.len();
        return Err(io::Error::other(format!(
            "they are {count}, and one is listened at"
        )));
    }
    if let Some(socket) = sockets.pop() {
        return Ok(Some(socket));
    }
    let input = caller.streams.input.file().as_fd();
    if socket_acceptconn(input).unwrap_or(false) {
        return input.try_clone_to_owned().map(Some);
    }
    Ok(None)
}

/// The failure to take what was handed over.
pub(crate) fn socket_failure(error: io::Error) -> CommandFailure {
    CommandFailure::io_error("take the sockets that were handed over", error)
}

/// Notifies systemd that the service can be used.
pub(crate) fn notify_ready(caller: &Invocation) {
    send_state(caller, "READY=1");
}

/// Notifies systemd that the service stops, in order.
pub(crate) fn notify_stopping(caller: &Invocation) {
    send_state(caller, "STOPPING=1");
}

/// Sends `state` to the service manager. It may not listen; that harms nobody.
fn send_state(caller: &Invocation, state: &str) {
    let Some(path) = caller.variable("NOTIFY_SOCKET") else {
        return;
    };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(path),
    };
    let _ = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
}
