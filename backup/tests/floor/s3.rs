//! A small server that speaks as much of S3 as this project asks for, and misbehaves on request.
//! Real servers are tried elsewhere; none of them loses an answer when one wants it to.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Keys a page of a listing has: few, so that every listing has pages.
const PAGE_LEN: usize = 3;

/// The trouble with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The server answers with this status and does nothing.
    Status(u16),
    /// It is done, and the connection breaks off before an answer.
    AnswerLost,
    /// The body ends early, and the connection with it.
    BodyCut,
    /// Every byte of the object comes, whatever range was asked for.
    RangeIgnored,
    /// A range begins elsewhere than asked.
    OtherRange,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Vec<u8>>,
    /// The next troubles, for requests of each method.
    troubles: BTreeMap<&'static str, VecDeque<Trouble>>,
    log: Vec<String>,
    knows_conditions: bool,
}

/// The server. Its threads end with the test's process.
pub(crate) struct Server {
    pub(crate) address: String,
    state: Arc<Mutex<State>>,
}

struct Asked {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Server {
    pub(crate) fn start(knows_conditions: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let state = Arc::new(Mutex::new(State {
            knows_conditions,
            ..State::default()
        }));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Self { address, state }
    }

    pub(crate) fn trouble(&self, method: &'static str, troubles: &[Trouble]) {
        self.state
            .lock()
            .expect("whole")
            .troubles
            .insert(method, troubles.iter().copied().collect());
    }

    pub(crate) fn plant(&self, key: &str, bytes: &[u8]) {
        self.state
            .lock()
            .expect("whole")
            .objects
            .insert(key.to_owned(), bytes.to_vec());
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.state
            .lock()
            .expect("whole")
            .objects
            .keys()
            .cloned()
            .collect()
    }

    /// The requests since the last call: method, and what was asked.
    pub(crate) fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().expect("whole").log)
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
    while let Some(asked) = receive(&mut reader) {
        let (trouble, answer) = {
            let mut state = state.lock().expect("whole");
            state.log.push(format!("{} {}", asked.method, asked.path));
            let trouble = state
                .troubles
                .get_mut(asked.method.as_str())
                .and_then(VecDeque::pop_front);
            (trouble, answer(&mut state, &asked, trouble))
        };
        if trouble == Some(Trouble::AnswerLost)
            || send(&stream, &answer, trouble == Some(Trouble::BodyCut)).is_none()
        {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

fn receive(reader: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|len| *len > 0)?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((key, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(key.to_ascii_lowercase(), value.trim().to_owned());
    }
    let len = headers
        .get("content-length")
        .and_then(|len| len.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; len];
    reader.read_exact(&mut body).ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let query = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), decoded(value)))
        .collect();
    Some(Asked {
        method,
        path: decoded(path),
        query,
        headers,
        body,
    })
}

fn decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let digits = if byte == b'%' {
            [bytes.next(), bytes.next()].into_iter().flatten().collect()
        } else {
            Vec::new()
        };
        let code = std::str::from_utf8(&digits)
            .ok()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(code.unwrap_or(byte));
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Status, more headers, body.
type Answer = (u16, String, Vec<u8>);

fn answer(state: &mut State, asked: &Asked, trouble: Option<Trouble>) -> Answer {
    if let Some(Trouble::Status(status)) = trouble {
        return (
            status,
            String::new(),
            format!("<Error><Code>Trouble{status}</Code><Message>x</Message></Error>").into_bytes(),
        );
    }
    let key = asked
        .path
        .trim_start_matches('/')
        .split_once('/')
        .map_or("", |(_, key)| key)
        .to_owned();
    match asked.method.as_str() {
        "GET" if key.is_empty() => list(state, asked),
        "GET" => get(state, asked, &key, trouble),
        "PUT" => put(state, asked, key),
        "DELETE" => {
            state.objects.remove(&key);
            (204, String::new(), Vec::new())
        }
        _ => (400, String::new(), Vec::new()),
    }
}

fn put(state: &mut State, asked: &Asked, key: String) -> Answer {
    if asked.headers.contains_key("if-none-match") {
        if !state.knows_conditions {
            return (
                501,
                String::new(),
                b"<Error><Code>NotImplemented</Code></Error>".to_vec(),
            );
        }
        if state.objects.contains_key(&key) {
            return (
                412,
                String::new(),
                b"<Error><Code>PreconditionFailed</Code></Error>".to_vec(),
            );
        }
    }
    state.objects.insert(key, asked.body.clone());
    (200, "ETag: \"x\"\r\n".to_owned(), Vec::new())
}

fn get(state: &State, asked: &Asked, key: &str, trouble: Option<Trouble>) -> Answer {
    let Some(bytes) = state.objects.get(key) else {
        return (
            404,
            String::new(),
            b"<Error><Code>NoSuchKey</Code></Error>".to_vec(),
        );
    };
    let headers = "ETag: \"x\"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n".to_owned();
    let range = asked
        .headers
        .get("range")
        .and_then(|text| text.strip_prefix("bytes=")?.split_once('-'));
    let range = range.and_then(|(start, end)| {
        Some((start.parse::<usize>().ok()?, end.parse::<usize>().ok()? + 1))
    });
    match range.filter(|_| trouble != Some(Trouble::RangeIgnored)) {
        Some((start, _)) if start >= bytes.len() => (416, headers, Vec::new()),
        Some((start, end)) => {
            let (start, end) = if trouble == Some(Trouble::OtherRange) {
                (start + 1, end + 1)
            } else {
                (start, end)
            };
            let end = end.min(bytes.len());
            (
                206,
                format!(
                    "{headers}Content-Range: bytes {start}-{}/{}\r\n",
                    end - 1,
                    bytes.len()
                ),
                bytes[start..end].to_vec(),
            )
        }
        None => (200, headers, bytes.clone()),
    }
}

fn list(state: &State, asked: &Asked) -> Answer {
    let prefix = asked.query.get("prefix").cloned().unwrap_or_default();
    let after = asked
        .query
        .get("continuation-token")
        .cloned()
        .unwrap_or_default();
    let mut found = state
        .objects
        .iter()
        .filter(|(key, _)| key.starts_with(&prefix) && **key > after);
    let page: Vec<_> = found.by_ref().take(PAGE_LEN).collect();
    let mut body = "<ListBucketResult>".to_owned();
    for (key, bytes) in &page {
        let _ = write!(
            body,
            "<Contents><Key>{key}</Key><Size>{}</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>x</ETag></Contents>",
            bytes.len()
        );
    }
    if let (Some((key, _)), true) = (page.last(), found.next().is_some()) {
        let _ = write!(body, "<NextContinuationToken>{key}</NextContinuationToken>");
    }
    body.push_str("</ListBucketResult>");
    (200, String::new(), body.into_bytes())
}

/// Sends an answer; none if the connection ends here.
fn send(mut stream: &TcpStream, (status, headers, body): &Answer, is_cut: bool) -> Option<()> {
    let shown = if is_cut { body.len() / 2 } else { body.len() };
    write!(
        stream,
        "HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    )
    .ok()?;
    stream.write_all(&body[..shown]).ok()?;
    (!is_cut).then_some(())
}
