//! The addresses at which NBD clients connect: as people write them, and as URIs for clients.

use std::fmt::Write as _;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

/// The port that is NBD's.
pub(crate) const NBD_PORT: u16 = 10809;
/// The manager's port, unless it is taken: then any that is free.
pub(crate) const MANAGER_PORT: u16 = 10880;
/// No other machine reaches this address.
pub(crate) const LOOPBACK: &str = "127.0.0.1";

/// A place to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// A Unix socket, by its absolute path.
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// A port, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl HostPort {
    /// `PORT` (on the loopback interface), `HOST` (NBD's port), `HOST:PORT`, `[IPV6]:PORT`.
    pub(crate) fn parse_host_port(text: &str) -> Result<Self, String> {
        Self::parse_with_port(text, NBD_PORT)
    }

    /// The same for the manager, which has a port of its own.
    pub(crate) fn parse_manager_place(text: &str) -> Result<Self, String> {
        Self::parse_with_port(text, MANAGER_PORT)
    }

    fn parse_with_port(text: &str, usual: u16) -> Result<Self, String> {
        let usual = usual.to_string();
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port),
            _ if text.bytes().all(|byte| byte.is_ascii_digit()) => (LOOPBACK, text),
            _ => (text, usual.as_str()),
        };
        let port = port
            .parse()
            .map_err(|_| format!("{port:?} is no port: it is a number up to 65535"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err("write HOST:PORT, or a port alone for this machine only".to_owned());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }

    /// The address to listen at. Asks the resolver if the host is a name.
    pub(crate) fn resolve_address(&self) -> std::io::Result<SocketAddr> {
        let first = (self.host.as_str(), self.port).to_socket_addrs()?.next();
        first.ok_or_else(|| std::io::ErrorKind::AddrNotAvailable.into())
    }
}

impl Endpoint {
    /// The URI of `export` there, as qemu and libnbd take it.
    pub(crate) fn export_uri(&self, tls: bool, export: &str) -> String {
        let scheme = if tls { "nbds" } else { "nbd" };
        let export = percent_encode(export.as_bytes());
        match self {
            Self::Unix(path) => format!(
                "{scheme}+unix:///{export}?socket={}",
                percent_encode(path_bytes(path))
            ),
            Self::Tcp(address) if address.port() == NBD_PORT => {
                format!("{scheme}://{}/{export}", uri_host(*address))
            }
            Self::Tcp(address) => {
                format!(
                    "{scheme}://{}:{}/{export}",
                    uri_host(*address),
                    address.port()
                )
            }
        }
    }

    /// True if other machines may reach it.
    pub(crate) fn is_public(&self) -> bool {
        matches!(self, Self::Tcp(address) if !address.ip().is_loopback())
    }
}

fn uri_host(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    }
}

fn path_bytes(path: &Path) -> &[u8] {
    std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())
}

/// `bytes` with everything as `%XX` that means something in a URI, or to a shell.
fn percent_encode(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._/@+".contains(byte) {
            text.push(char::from(*byte));
        } else {
            // A string takes every byte.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_for_this_machine() {
        for (text, host, port) in [
            ("10810", LOOPBACK, 10810),
            ("0.0.0.0:1", "0.0.0.0", 1),
            ("localhost", "localhost", NBD_PORT),
            ("[::1]:5", "::1", 5),
            ("::1", "::1", NBD_PORT),
            ("[::]", "::", NBD_PORT),
        ] {
            assert_eq!(
                HostPort::parse_host_port(text),
                Ok(HostPort {
                    host: host.to_owned(),
                    port
                }),
                "{text}"
            );
        }
        let manager = HostPort::parse_manager_place("0.0.0.0").expect("an address");
        assert_eq!(manager.port, MANAGER_PORT);
        for text in ["", ":5", "host:port", "host:70000", "70000", "host:"] {
            assert!(HostPort::parse_host_port(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_uri_names_the_place_and_the_export() {
        let unix = Endpoint::Unix("/srv/my images/nbd.sock".into());
        assert_eq!(
            unix.export_uri(false, "web@1"),
            "nbd+unix:///web@1?socket=/srv/my%20images/nbd.sock"
        );
        let tcp = |text: &str| Endpoint::Tcp(text.parse().expect("an address"));
        assert_eq!(
            tcp("127.0.0.1:10809").export_uri(true, "ü"),
            "nbds://127.0.0.1/%C3%BC"
        );
        assert_eq!(tcp("[::1]:5").export_uri(false, ""), "nbd://[::1]:5/");
        assert!(tcp("0.0.0.0:1").is_public() && !tcp("[::1]:1").is_public() && !unix.is_public());
    }
}
