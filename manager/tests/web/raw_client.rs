//! A client that sends bytes as they are written, and reads what comes back.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

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

/// Sends `bytes`, and reads until the other end closes.
pub(crate) fn exchange_bytes(address: SocketAddr, bytes: &[u8]) -> RawAnswer {
    let mut socket = TcpStream::connect(address).expect("it listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    // A server that refuses does not read all.
    let _ = socket.write_all(bytes);
    read_answer(&mut socket)
}

pub(crate) fn read_answer(socket: &mut TcpStream) -> RawAnswer {
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

/// A browser that has signed in.
pub(crate) struct Browser {
    pub(crate) address: SocketAddr,
    pub(crate) cookie: String,
}

impl Browser {
    pub(crate) fn sign_in(manager: &FakeManager) -> Self {
        let url = manager.server.opening_url();
        let (_, token) = url.split_once("#token=").expect("it has a token");
        let mut browser = Self {
            address: manager.server.local_address(),
            cookie: String::new(),
        };
        let answer = browser.post("/session", &format!("token={token}"));
        assert_eq!(answer.status, 303, "{answer:?}");
        let cookie = answer.header("set-cookie").expect("a session");
        for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
            assert!(cookie.contains(part), "{cookie}");
        }
        cookie
            .split(';')
            .next()
            .expect("a pair")
            .clone_into(&mut browser.cookie);
        browser
    }

    pub(crate) fn get(&self, path: &str) -> RawAnswer {
        let Self { address, cookie } = self;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nCookie: {cookie}\r\n\
             Sec-Fetch-Site: same-origin\r\nConnection: close\r\n\r\n"
        );
        exchange_bytes(*address, request.as_bytes())
    }

    pub(crate) fn post(&self, path: &str, form: &str) -> RawAnswer {
        self.post_bytes(path, "application/x-www-form-urlencoded", form.as_bytes())
    }

    pub(crate) fn post_bytes(&self, path: &str, kind: &str, body: &[u8]) -> RawAnswer {
        let Self { address, cookie } = self;
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nCookie: {cookie}\r\n\
             Origin: http://{address}\r\nSec-Fetch-Site: same-origin\r\nConnection: close\r\n\
             Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        exchange_bytes(*address, &[head.as_bytes(), body].concat())
    }
}
