//! A client's identity, as the system tells it: all connections of one process, or from one
//! address, are one client's.

use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::os::fd::AsFd;

use rustix::net::getpeername;
use rustix::net::sockopt::socket_peercred;

/// Bytes of a program's name that are shown; Linux keeps 15.
const PROGRAM_LEN_MAX: usize = 15;

/// One client, whatever the number of its connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Peer {
    /// A process on this machine, behind a Unix socket.
    Process { pid: i32, user: u32 },
    /// A machine, behind TCP. Its programs cannot be told apart.
    Machine(IpAddr),
    /// A virtual machine that shares its memory: the number of its connection.
    Guest(u64),
    /// The system does not tell.
    Unknown,
}

impl Peer {
    /// The other end of a connected socket.
    pub(crate) fn of_socket(socket: impl AsFd) -> Self {
        let address = getpeername(&socket)
            .ok()
            .flatten()
            .and_then(|address| std::net::SocketAddr::try_from(address).ok());
        if let Some(address) = address {
            return Self::Machine(address.ip().to_canonical());
        }
        socket_peercred(&socket).map_or(Self::Unknown, |peer| Self::Process {
            pid: peer.pid.as_raw_pid(),
            user: peer.uid.as_raw(),
        })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine(address) => write!(out, "{address}"),
            Self::Guest(_) => write!(out, "a guest over vhost-user"),
            Self::Unknown => write!(out, "an unknown client"),
            Self::Process { pid, user } => match program_name(*pid) {
                Some(program) => write!(out, "process {pid} ({program}) of user {user}"),
                None => write!(out, "process {pid} of user {user}"),
            },
        }
    }
}

/// The name of a process's program, without what would disturb a line of text.
fn program_name(pid: i32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    let shown: String = name
        .trim_end()
        .chars()
        .filter(|character| !character.is_control())
        .take(PROGRAM_LEN_MAX)
        .collect();
    (!shown.is_empty()).then_some(shown)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use super::Peer;

    #[test]
    fn a_process_is_one_peer_on_all_its_connections() {
        let ((one, _one), (other, _other)) = (
            UnixStream::pair().expect("a pair"),
            UnixStream::pair().expect("a pair"),
        );
        let peer = Peer::of_socket(&one);
        assert_eq!(peer, Peer::of_socket(&other));
        let pid = std::process::id();
        assert!(peer.to_string().starts_with(&format!("process {pid} (")));
    }

    #[test]
    fn a_machine_is_one_peer_whatever_its_ports() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let streams = [(); 2].map(|()| TcpStream::connect(address).expect("it listens"));
        let peers = [(); 2].map(|()| Peer::of_socket(&listener.accept().expect("it came").0));
        assert_eq!(peers[0], peers[1]);
        assert_eq!(peers[0].to_string(), "127.0.0.1");
        drop(streams);
    }
}
