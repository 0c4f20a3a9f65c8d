//! The control socket: its place, the process at its other end, and messages through it within
//! bounds of time and memory.

use std::fs::{self, File, Permissions};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    recvmsg, sendmsg, socket_with,
};
use rustix::process::{Pid, geteuid};

use super::message::{
    ANSWER_HEAD_LEN, CommandRequest, MessageError, REQUEST_HEAD_LEN, ServerReply,
};

/// Standard input, output and error, and the current folder.
pub(super) const DESCRIPTORS: usize = 4;
/// A request that is not whole by then is none: its sender wrote it before it connected.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// An answer is shorter than a socket's buffer, so this is never waited for; if it is, the other
/// end is not ours.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest wait of a client for its place in the queue, and the pause between attempts.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);
const QUEUE_PAUSE: Duration = Duration::from_millis(50);
/// The bytes that are read at once: memory grows with the bytes that came, not with the announced
/// length.
const STEP_LEN: usize = 64 << 10;

/// Listens at `path`, in place of whatever is left there by a server that was killed. Only this
/// user can connect. The caller owns the store, so nobody else does this at the same time.
pub(super) fn listen_at(path: &Path) -> io::Result<UnixListener> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = at_short_path(&new, |path| UnixListener::bind(path))?;
    fs::set_permissions(&new, Permissions::from_mode(0o600))?;
    fs::rename(&new, path)?;
    Ok(listener)
}

/// Connects to the server that listens at `path`, which is a socket itself: a link could lead to
/// anybody's. One that takes nobody in, since it does not run,
/// has a queue that fills up: that is waited for, but not for ever.
pub(super) fn connect_to(path: &Path) -> io::Result<UnixStream> {
    if fs::symlink_metadata(path)?.file_type().is_symlink() {
        return Err(io::Error::other("it is a link, and a store has none"));
    }
    let deadline = Instant::now() + QUEUE_TIMEOUT;
    loop {
        match at_short_path(path, connect_now) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                time_left(deadline)?;
                thread::sleep(QUEUE_PAUSE);
            }
            connected => return connected,
        }
    }
}

fn connect_now(path: &Path) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path).map_err(|errno| match errno {
        Errno::NAMETOOLONG => io::ErrorKind::InvalidInput.into(),
        errno => io::Error::from(errno),
    })?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &address)?;
    let socket = UnixStream::from(socket);
    socket.set_nonblocking(false)?;
    Ok(socket)
}

/// True if the process `pid` was stopped, by a signal or a debugger: it answers nobody until it
/// goes on. Unknown, so false, for a process that cannot be seen from here.
pub(super) fn is_stopped(pid: Pid) -> bool {
    let state = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    // The name before the state may hold anything.
    state.is_ok_and(|text| {
        let state = text.rsplit(')').next().unwrap_or_default().trim_start();
        state.starts_with(['T', 't'])
    })
}

/// The process at the other end, if it is one of this user; else the number of its user.
pub(super) fn peer_process(socket: &UnixStream) -> io::Result<Result<Pid, u32>> {
    let peer = rustix::net::sockopt::socket_peercred(socket)?;
    Ok(if peer.uid == geteuid() {
        Ok(peer.pid)
    } else {
        Err(peer.uid.as_raw())
    })
}

/// A socket's address has room for some hundred bytes; a folder may be deeper, but its descriptor
/// has a short name.
fn at_short_path<T>(path: &Path, act: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
    match (act(path), path.parent(), path.file_name()) {
        (Err(error), Some(folder), Some(name)) if error.kind() == io::ErrorKind::InvalidInput => {
            let folder = File::open(folder)?;
            act(&PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name))
        }
        (done, ..) => done,
    }
}

pub(super) fn send_request(
    socket: &UnixStream,
    request: &[u8],
    descriptors: [BorrowedFd; DESCRIPTORS],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fits = ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    assert!(fits, "there is space for them");
    let sent = sendmsg(
        socket,
        &[IoSlice::new(request)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    (&mut &*socket).write_all(&request[sent..])
}

/// A request's body and the descriptors that came with it.
pub(super) fn receive_request(
    socket: &UnixStream,
) -> Result<(Vec<u8>, [OwnedFd; DESCRIPTORS]), ReceiveError> {
    let deadline = Instant::now() + REQUEST_TIMEOUT;
    let mut head = [0; REQUEST_HEAD_LEN];
    let (taken, descriptors) = receive_descriptors(socket, &mut head, deadline)?;
    receive_exact(socket, &mut head[taken..], deadline)?;
    let body_len = CommandRequest::body_len(head)?;
    let mut body = Vec::new();
    while body.len() < body_len {
        let start = body.len();
        body.resize(body_len.min(start + STEP_LEN), 0);
        receive_exact(socket, &mut body[start..], deadline)?;
    }
    let descriptors = descriptors.try_into().map_err(|_| MessageError::Shape)?;
    Ok((body, descriptors))
}

/// The failure to receive a request.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReceiveError {
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("the message did not arrive: {0}")]
    Io(#[from] io::Error),
}

/// The first bytes, and the descriptors that come with them: later ones, or more than there should
/// be, are closed by the system.
fn receive_descriptors(
    socket: &UnixStream,
    buffer: &mut [u8],
    deadline: Instant,
) -> Result<(usize, Vec<OwnedFd>), ReceiveError> {
    socket.set_read_timeout(Some(time_left(deadline)?))?;
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(buffer)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    );
    let received = received.map_err(io::Error::from)?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    match received.bytes {
        0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        _ if received.flags.contains(ReturnFlags::CTRUNC) => Err(MessageError::Shape.into()),
        len => Ok((len, descriptors)),
    }
}

fn receive_exact(
    mut socket: &UnixStream,
    mut buffer: &mut [u8],
    deadline: Instant,
) -> io::Result<()> {
    while !buffer.is_empty() {
        socket.set_read_timeout(Some(time_left(deadline)?))?;
        match socket.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => buffer = &mut buffer[len..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn time_left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        Err(io::ErrorKind::TimedOut.into())
    } else {
        Ok(left)
    }
}

pub(super) fn send_answer(mut socket: &UnixStream, answer: &ServerReply) -> io::Result<()> {
    socket.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    socket.write_all(&answer.encode_reply())
}

/// The server's next answer, however long its command takes.
pub(super) fn receive_answer(mut socket: &UnixStream) -> Result<ServerReply, ReceiveError> {
    let mut head = [0; ANSWER_HEAD_LEN];
    socket.read_exact(&mut head)?;
    let mut text = vec![0; ServerReply::text_len(head)?];
    socket.read_exact(&mut text)?;
    Ok(ServerReply::decode_reply(head, &text)?)
}
