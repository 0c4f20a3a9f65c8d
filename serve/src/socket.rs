//! Sockets that listen: making them, and taking clients from them.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{
    AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags, flock, linkat, renameat_with, statat,
    unlinkat,
};
use rustix::net::sockopt::{
    set_socket_keepalive, set_tcp_nodelay, socket_acceptconn, socket_domain, socket_type,
};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with,
};

use crate::error::ServeError;

/// Clients that the system keeps waiting for us.
const BACKLOG: i32 = 128;
/// Number and distance of the tries to get the lock of another server that is starting in the same
/// folder.
const LOCK_TRIES: u32 = 50;
const LOCK_WAIT: Duration = Duration::from_millis(20);
/// A socket's name before it listens, in the folder of its own.
const NEW_NAME: &str = ".vellum-socket.new";
/// After a refusal of the system (no descriptors, no memory) it is asked again after this.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A listening socket, and its file if it has one that is ours.
#[derive(Debug)]
pub(crate) struct ListeningSocket {
    socket: OwnedFd,
    _file: Option<SocketFile>,
}

/// A socket's file, removed at the end if it is still the same.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if file_identity(&self.path).is_ok_and(|found| found == self.identity) {
            // If it stays, the next server finds that nobody listens.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn file_identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

impl AsFd for ListeningSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl ListeningSocket {
    /// A Unix socket at `path` that only this user may connect to. A dead server's is replaced; a
    /// live one's, or any other file, is refused. The socket listens before it has this name: who
    /// sees the name can connect.
    pub(crate) fn bind_unix(path: &Path) -> Result<Self, ServeError> {
        let failed = |error: io::Error| ServeError::Listen(path.display().to_string(), error);
        let address = SocketAddrUnix::new(path).map_err(|error| failed(error.into()))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(|error| failed(error.into()))?;
        // The file gets the socket's own mode, so there is no moment in which others could connect.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)
            .map_err(|error| failed(error.into()))?;
        let folder = lock_folder(path).map_err(failed)?;
        if fs::symlink_metadata(path).is_ok() {
            replace_dead(path, &address)?;
        }
        // A short name, however long the folder's is; only one server at a time uses it.
        let new = format!("/proc/self/fd/{}/{NEW_NAME}", folder.as_raw_fd());
        remove_new(&folder).map_err(failed)?;
        let new_address = SocketAddrUnix::new(new).map_err(|error| failed(error.into()))?;
        bind(&socket, &new_address).map_err(|error| failed(error.into()))?;
        let file = give_name(&socket, &folder, path).inspect_err(|_| {
            // It is removed by the next server, too.
            let _ = remove_new(&folder);
        });
        Ok(Self {
            socket,
            _file: Some(file.map_err(failed)?),
        })
    }

    /// A TCP socket, and its address with the port that was found if none was given.
    pub(crate) fn bind_tcp(address: SocketAddr) -> Result<(Self, SocketAddr), ServeError> {
        let listen = || {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok((
                Self {
                    socket: listener.into(),
                    _file: None,
                },
                address,
            ))
        };
        listen().map_err(|error| ServeError::Listen(address.to_string(), error))
    }

    /// A socket that somebody else made and listens on, as systemd does. Its file is theirs.
    pub(crate) fn from_inherited(socket: OwnedFd) -> Result<Self, ServeError> {
        let check = || -> rustix::io::Result<bool> {
            let known = [
                AddressFamily::UNIX,
                AddressFamily::INET,
                AddressFamily::INET6,
            ]
            .contains(&socket_domain(&socket)?);
            Ok(known && socket_type(&socket)? == SocketType::STREAM && socket_acceptconn(&socket)?)
        };
        if !check().unwrap_or(false) {
            return Err(ServeError::NotListening);
        }
        rustix::io::ioctl_fionbio(&socket, true)
            .map_err(|error| ServeError::Listen("the inherited socket".to_owned(), error.into()))?;
        Ok(Self {
            socket,
            _file: None,
        })
    }

    /// The next client. `None`: `stop` has become readable.
    pub(crate) fn accept_client(&self, stop: BorrowedFd<'_>) -> Option<OwnedFd> {
        loop {
            let mut watched = [
                PollFd::from_borrowed_fd(stop, PollFlags::IN),
                PollFd::new(&self.socket, PollFlags::IN),
            ];
            let polled = poll(&mut watched, None);
            if !watched[0].revents().is_empty() && polled.is_ok() {
                return None;
            }
            match accept_with(&self.socket, SocketFlags::CLOEXEC) {
                Ok(client) => {
                    prepare_client(&client);
                    return Some(client);
                }
                Err(
                    rustix::io::Errno::AGAIN
                    | rustix::io::Errno::INTR
                    | rustix::io::Errno::CONNABORTED,
                ) => {}
                Err(_) => thread::sleep(ACCEPT_RETRY),
            }
        }
    }
}

fn remove_new(folder: &OwnedFd) -> io::Result<()> {
    match unlinkat(folder, NEW_NAME, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Lets the new socket in `folder` listen, and be found at `path`. What has come there since is
/// left alone.
fn give_name(socket: &OwnedFd, folder: &OwnedFd, path: &Path) -> io::Result<SocketFile> {
    listen(socket, BACKLOG)?;
    let new = statat(folder, NEW_NAME, AtFlags::SYMLINK_NOFOLLOW)?;
    match renameat_with(folder, NEW_NAME, CWD, path, RenameFlags::NOREPLACE) {
        // A file system that cannot keep what is there while it renames.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            linkat(folder, NEW_NAME, CWD, path, AtFlags::empty())?;
            remove_new(folder)?;
        }
        renamed => renamed?,
    }
    Ok(SocketFile {
        path: path.to_owned(),
        identity: (new.st_dev, new.st_ino),
    })
}

/// Small replies go out at once, and a client whose machine has vanished is noticed some day. Unix
/// sockets need neither.
fn prepare_client(client: &OwnedFd) {
    if socket_domain(client).is_ok_and(|domain| domain != AddressFamily::UNIX) {
        // Without either it still works.
        let _ = set_tcp_nodelay(client, true);
        let _ = set_socket_keepalive(client, true);
    }
}

/// Only one server at a time looks whether a socket is alive and takes its place: two would each
/// take the other's away.
fn lock_folder(path: &Path) -> io::Result<OwnedFd> {
    let mut folder = path
        .parent()
        .map(|folder| folder.as_os_str().to_owned())
        .unwrap_or_default();
    if folder.is_empty() {
        folder = OsString::from(".");
    }
    let folder = rustix::fs::open(
        folder,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    for _ in 0..LOCK_TRIES {
        match flock(folder.as_fd(), FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(folder),
            Err(rustix::io::Errno::AGAIN) => thread::sleep(LOCK_WAIT),
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::new(
        ErrorKind::ResourceBusy,
        "another program holds a lock on its folder",
    ))
}

fn replace_dead(path: &Path, address: &SocketAddrUnix) -> Result<(), ServeError> {
    let failed = |error: io::Error| ServeError::Listen(path.display().to_string(), error);
    if !fs::symlink_metadata(path)
        .map_err(failed)?
        .file_type()
        .is_socket()
    {
        return Err(ServeError::NotSocket(path.to_owned()));
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(|error| failed(error.into()))?;
    match connect(&probe, address) {
        Err(rustix::io::Errno::CONNREFUSED) => fs::remove_file(path).map_err(failed),
        // Connected, or its queue is full: somebody listens.
        _ => Err(ServeError::InUse(path.to_owned())),
    }
}
