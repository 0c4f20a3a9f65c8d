//! A client that sends bytes as they are written, and reads what comes back.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::fake_store::FakeManager;

/// The timeout for an answer on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer; a status of 0 is a connection that was closed without one.
#[derive(Clone, Debug, Default)]
pub(crate) struct RawAnswer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl RawAnswer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub(crate) fn open_socket(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).expect("it listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

/// The same under TLS; the handshake is done with the first bytes.
pub(crate) fn open_secure(
    address: SocketAddr,
    tls: &Arc<ClientConfig>,
) -> StreamOwned<ClientConnection, TcpStream> {
    let name = ServerName::try_from("localhost").expect("a name");
    let session = ClientConnection::new(Arc::clone(tls), name).expect("a configuration");
    StreamOwned::new(session, open_socket(address))
}

/// Sends `bytes`, and reads until the other end closes.
pub(crate) fn exchange_bytes(address: SocketAddr, bytes: &[u8]) -> RawAnswer {
    exchange_with(open_socket(address), bytes)
}

pub(crate) fn exchange_with(mut socket: impl Read + Write, bytes: &[u8]) -> RawAnswer {
    // A server that refuses does not read all.
    let _ = socket.write_all(bytes);
    read_answer(&mut socket)
}

fn read_answer(socket: &mut impl Read) -> RawAnswer {
    let mut answer = Vec::new();
    // One that was cut off is what came before.
    let _ = socket.read_to_end(&mut answer);
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return RawAnswer::default();
    };
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let mut body = answer[end + 4..].to_vec();
    if head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked")
    {
        body = joined_chunks(&body);
    }
    RawAnswer {
        status: status.unwrap_or(0),
        head,
        body,
    }
}

fn joined_chunks(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
        let len = std::str::from_utf8(&rest[..end]).ok();
        let len = len
            .and_then(|len| usize::from_str_radix(len, 16).ok())
            .unwrap_or(0);
        if len == 0 || rest.len() < end + 2 + len {
            break;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + len]);
        rest = &rest[(end + 4 + len).min(rest.len())..];
    }
    body
}

/// Bytes as digits of base 16, each pair behind `before`.
pub(crate) fn hex_text(bytes: &[u8], before: &str) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{before}{byte:02x}");
        text
    })
}

/// A browser, which may have signed in.
#[derive(Clone)]
pub(crate) struct Browser {
    pub(crate) address: SocketAddr,
    /// The name by which it calls the server.
    pub(crate) host: String,
    pub(crate) cookie: String,
    /// The authority that it trusts, if it talks TLS.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

impl Browser {
    /// One that has not signed in.
    pub(crate) fn open(manager: &FakeManager) -> Self {
        let address = manager.server.local_address();
        Self {
            address,
            host: address.to_string(),
            cookie: String::new(),
            tls: None,
        }
    }

    pub(crate) fn sign_in(manager: &FakeManager) -> Self {
        let url = manager.server.opening_url();
        let (_, token) = url.split_once("#token=").expect("it has a token");
        let mut browser = Self::open(manager);
        let answer = browser.post("/session", &format!("token={token}"));
        browser.take_session(&answer);
        browser
    }

    /// Keeps the cookie of an answer that let it in; its attributes.
    pub(crate) fn take_session(&mut self, answer: &RawAnswer) -> String {
        assert_eq!(answer.status, 303, "{answer:?}");
        let cookie = answer.header("set-cookie").expect("a session");
        for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
            assert!(cookie.contains(part), "{cookie}");
        }
        let (pair, attributes) = cookie.split_once(';').expect("attributes");
        pair.clone_into(&mut self.cookie);
        attributes.to_owned()
    }

    pub(crate) fn get(&self, path: &str) -> RawAnswer {
        self.get_with(path, "")
    }

    /// The same with more headers: each ends with CR and LF.
    pub(crate) fn get_with(&self, path: &str, headers: &str) -> RawAnswer {
        let Self { host, cookie, .. } = self;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\n{headers}\
             Sec-Fetch-Site: same-origin\r\nConnection: close\r\n\r\n"
        );
        self.exchange(request.as_bytes())
    }

    pub(crate) fn post(&self, path: &str, form: &str) -> RawAnswer {
        self.post_bytes(path, "application/x-www-form-urlencoded", form.as_bytes())
    }

    pub(crate) fn post_bytes(&self, path: &str, kind: &str, body: &[u8]) -> RawAnswer {
        let Self { host, cookie, .. } = self;
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\n\
             Origin: {scheme}://{host}\r\nSec-Fetch-Site: same-origin\r\nConnection: close\r\n\
             Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.exchange(&[head.as_bytes(), body].concat())
    }

    pub(crate) fn exchange(&self, bytes: &[u8]) -> RawAnswer {
        match &self.tls {
            Some(tls) => exchange_with(open_secure(self.address, tls), bytes),
            None => exchange_bytes(self.address, bytes),
        }
    }
}
