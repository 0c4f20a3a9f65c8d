//! A client that says exactly what it is told, right or wrong, and reads the answers by the letter
//! of the protocol.

use std::io::{Read, Write};

pub(crate) const FIXED: u32 = 1;
pub(crate) const NO_ZEROES: u32 = 2;

pub(crate) const ACK: u32 = 1;
pub(crate) const SERVER: u32 = 2;
pub(crate) const INFO: u32 = 3;
pub(crate) const META_CONTEXT: u32 = 4;
const ERROR_BIT: u32 = 1 << 31;
pub(crate) const ERR_UNSUP: u32 = ERROR_BIT + 1;
pub(crate) const ERR_POLICY: u32 = ERROR_BIT + 2;
pub(crate) const ERR_INVALID: u32 = ERROR_BIT + 3;
pub(crate) const ERR_TLS_REQD: u32 = ERROR_BIT + 5;
pub(crate) const ERR_UNKNOWN: u32 = ERROR_BIT + 6;
pub(crate) const ERR_TOO_BIG: u32 = ERROR_BIT + 9;
pub(crate) const ERR_EXT_HEADER_REQD: u32 = ERROR_BIT + 10;

pub(crate) const OPT_EXPORT_NAME: u32 = 1;
pub(crate) const OPT_ABORT: u32 = 2;
pub(crate) const OPT_LIST: u32 = 3;
pub(crate) const OPT_STARTTLS: u32 = 5;
pub(crate) const OPT_INFO: u32 = 6;
pub(crate) const OPT_GO: u32 = 7;
pub(crate) const OPT_STRUCTURED: u32 = 8;
pub(crate) const OPT_LIST_META: u32 = 9;
pub(crate) const OPT_SET_META: u32 = 10;
pub(crate) const OPT_EXTENDED: u32 = 11;

pub(crate) const READ: u16 = 0;
pub(crate) const WRITE: u16 = 1;
pub(crate) const DISC: u16 = 2;
pub(crate) const FLUSH: u16 = 3;
pub(crate) const TRIM: u16 = 4;
pub(crate) const CACHE: u16 = 5;
pub(crate) const WRITE_ZEROES: u16 = 6;
pub(crate) const BLOCK_STATUS: u16 = 7;

pub(crate) const FUA: u16 = 1;
pub(crate) const NO_HOLE: u16 = 2;
pub(crate) const DF: u16 = 4;
pub(crate) const REQ_ONE: u16 = 8;
pub(crate) const FAST_ZERO: u16 = 16;
pub(crate) const PAYLOAD_LEN: u16 = 32;

/// How messages look, as the client asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Simple,
    Structured,
    Extended,
}

/// The bytes of an option.
pub(crate) fn option(option: u32, data: &[u8]) -> Vec<u8> {
    [
        b"IHAVEOPT",
        &option.to_be_bytes()[..],
        &(data.len() as u32).to_be_bytes(),
        data,
    ]
    .concat()
}

/// The data of INFO and GO.
pub(crate) fn wish(name: &str, kinds: &[u16]) -> Vec<u8> {
    let kinds_bytes: Vec<u8> = kinds.iter().flat_map(|kind| kind.to_be_bytes()).collect();
    [
        &(name.len() as u32).to_be_bytes()[..],
        name.as_bytes(),
        &(kinds.len() as u16).to_be_bytes(),
        &kinds_bytes,
    ]
    .concat()
}

/// The data of an option about contexts.
pub(crate) fn contexts(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = [
        &(name.len() as u32).to_be_bytes()[..],
        name.as_bytes(),
        &(queries.len() as u32).to_be_bytes(),
    ]
    .concat();
    for query in queries {
        data.extend([&(query.len() as u32).to_be_bytes()[..], query.as_bytes()].concat());
    }
    data
}

/// The bytes of a request without payload.
pub(crate) fn request(
    form: Form,
    flags: u16,
    command: u16,
    cookie: u64,
    offset: u64,
    len: u64,
) -> Vec<u8> {
    let magic = if form == Form::Extended {
        0x21e4_1c71_u32
    } else {
        0x2560_9513
    };
    let mut bytes = [
        &magic.to_be_bytes()[..],
        &flags.to_be_bytes(),
        &command.to_be_bytes(),
        &cookie.to_be_bytes(),
    ]
    .concat();
    bytes.extend(offset.to_be_bytes());
    if form == Form::Extended {
        bytes.extend(len.to_be_bytes());
    } else {
        bytes.extend((len as u32).to_be_bytes());
    }
    bytes
}

/// What a client says, from its first to its last byte: one of each message.
pub(crate) fn one_of_each(form: Form) -> Vec<u8> {
    let mut bytes = (FIXED | NO_ZEROES).to_be_bytes().to_vec();
    match form {
        Form::Simple => {}
        Form::Structured => bytes.extend(option(8, b"")),
        Form::Extended => bytes.extend(option(11, b"")),
    }
    bytes.extend(option(OPT_LIST, b""));
    bytes.extend(option(9, &contexts("disk", &[])));
    bytes.extend(option(
        10,
        &contexts(
            "disk",
            &["base:allocation", "qemu:dirty-bitmap:since:before"],
        ),
    ));
    bytes.extend(option(OPT_GO, &wish("disk", &[0, 1, 2, 3])));
    for (flags, command, offset, len) in [
        (0, READ, 0, 4096),
        (1, 4, 0, 512),
        (2, 6, 100, 9),
        (0, 5, 0, 1),
        (0, 7, 0, 16384),
        (8, 7, 5, 9),
        (0, 3, 0, 0),
        (4, READ, 1, 2),
    ] {
        bytes.extend(request(form, flags, command, 7, offset, len));
    }
    bytes.extend(request(
        form,
        if form == Form::Extended { 33 } else { 1 },
        WRITE,
        8,
        3,
        5,
    ));
    bytes.extend(b"hello");
    bytes.extend(request(form, 0, 2, 9, 0, 0));
    bytes
}

/// The answer to one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) cookie: u64,
    pub(crate) error: u32,
    /// The byte that failed, if that was said.
    pub(crate) error_offset: Option<u64>,
    /// Pieces of data by offset; `None` is a hole, with its length.
    pub(crate) data: Vec<(u64, Result<Vec<u8>, u32>)>,
    /// Stretches by context: length and flags.
    pub(crate) status: Vec<(u32, Vec<(u64, u64)>)>,
}

impl Reply {
    /// The bytes read from `offset`, holes as zeros.
    pub(crate) fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0xee; len];
        let mut covered = 0;
        for (at, data) in &self.data {
            let at = (at - offset) as usize;
            match data {
                Ok(data) => bytes[at..at + data.len()].copy_from_slice(data),
                Err(hole) => bytes[at..at + *hole as usize].fill(0),
            }
            covered += data.as_ref().map_or_else(|hole| *hole as usize, Vec::len);
        }
        assert_eq!(covered, len, "every byte is told once");
        bytes
    }
}

/// A client in any phase.
pub(crate) struct Client<S> {
    pub(crate) stream: S,
    pub(crate) form: Form,
    next_cookie: u64,
}

impl<S: Read + Write> Client<S> {
    /// Reads the greeting and sends `flags`.
    pub(crate) fn greet(stream: S, flags: u32) -> Self {
        let mut client = Self {
            stream,
            form: Form::Simple,
            next_cookie: 1,
        };
        assert_eq!(&client.take::<16>(), b"NBDMAGICIHAVEOPT");
        assert_eq!(u16::from_be_bytes(client.take()), 3);
        client.say(&flags.to_be_bytes());
        client
    }

    /// Enters `name` in the given form with these contexts.
    pub(crate) fn enter(stream: S, form: Form, name: &str, queries: &[&str]) -> Self {
        let mut client = Self::greet(stream, FIXED | NO_ZEROES);
        match form {
            Form::Simple => {}
            Form::Structured => assert_eq!(client.ask(OPT_STRUCTURED, b""), [(ACK, vec![])]),
            Form::Extended => assert_eq!(client.ask(OPT_EXTENDED, b""), [(ACK, vec![])]),
        }
        client.form = form;
        if !queries.is_empty() {
            assert_eq!(
                client.ask(OPT_SET_META, &contexts(name, queries)).last(),
                Some(&(ACK, vec![]))
            );
        }
        assert_eq!(
            client.ask(OPT_GO, &wish(name, &[])).last(),
            Some(&(ACK, vec![]))
        );
        client
    }

    /// The same client behind another layer.
    pub(crate) fn under<T: Read + Write>(self, wrap: impl FnOnce(S) -> T) -> Client<T> {
        Client {
            stream: wrap(self.stream),
            form: self.form,
            next_cookie: self.next_cookie,
        }
    }

    pub(crate) fn say(&mut self, bytes: &[u8]) {
        self.stream
            .write_all(bytes)
            .expect("the server takes bytes");
    }

    pub(crate) fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream
            .read_exact(&mut bytes)
            .expect("the server answers");
        bytes
    }

    pub(crate) fn take_vec(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream
            .read_exact(&mut bytes)
            .expect("the server answers");
        bytes
    }

    /// Whether the server has closed, with nothing more to say.
    pub(crate) fn is_closed(&mut self) -> bool {
        // A reset is a close too: the server did not read what we sent.
        !matches!(self.stream.read(&mut [0; 1]), Ok(1))
    }

    /// One option and all its replies.
    pub(crate) fn ask(&mut self, number: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.say(&option(number, data));
        self.answers(number)
    }

    pub(crate) fn answers(&mut self, number: u32) -> Vec<(u32, Vec<u8>)> {
        let mut answers = Vec::new();
        loop {
            assert_eq!(u64::from_be_bytes(self.take()), 0x0003_e889_0455_65a9);
            assert_eq!(u32::from_be_bytes(self.take()), number);
            let kind = u32::from_be_bytes(self.take());
            let len = u32::from_be_bytes(self.take());
            let data = self.take_vec(len as usize);
            let last = kind == ACK || kind & ERROR_BIT != 0;
            answers.push((
                kind,
                if kind & ERROR_BIT != 0 {
                    Vec::new()
                } else {
                    data
                },
            ));
            if last {
                return answers;
            }
        }
    }

    /// Sends a request, returns its cookie.
    pub(crate) fn send(
        &mut self,
        flags: u16,
        command: u16,
        offset: u64,
        len: u64,
        payload: &[u8],
    ) -> u64 {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let mut bytes = request(self.form, flags, command, cookie, offset, len);
        bytes.extend(payload);
        self.say(&bytes);
        cookie
    }

    /// One request and its reply.
    pub(crate) fn call(
        &mut self,
        flags: u16,
        command: u16,
        offset: u64,
        len: u64,
        payload: &[u8],
    ) -> Reply {
        let cookie = self.send(flags, command, offset, len, payload);
        let reply = self.reply(if command == READ { len as usize } else { 0 });
        assert_eq!(reply.cookie, cookie);
        reply
    }

    /// The error of a read from the start that may fail.
    pub(crate) fn call_failing(&mut self, len: u64) -> u32 {
        let cookie = self.send(0, READ, 0, len, b"");
        // Without chunks nothing follows an error.
        let reply = self.reply(0);
        assert_eq!(reply.cookie, cookie);
        reply.error
    }

    /// The next reply, all its chunks. `read_len`: how many bytes follow a simple reply without
    /// error.
    pub(crate) fn reply(&mut self, read_len: usize) -> Reply {
        let mut reply = Reply::default();
        loop {
            match u32::from_be_bytes(self.take()) {
                0x6744_6698 => {
                    assert_ne!(self.form, Form::Extended, "all replies are extended");
                    reply.error = u32::from_be_bytes(self.take());
                    reply.cookie = u64::from_be_bytes(self.take());
                    assert!(
                        self.form == Form::Simple || read_len == 0,
                        "a read is answered in chunks"
                    );
                    if reply.error == 0 && read_len > 0 {
                        let data = self.take_vec(read_len);
                        reply.data.push((0, Ok(data)));
                    }
                    return reply;
                }
                0x668e_33ef => {
                    assert_eq!(self.form, Form::Structured);
                    let (flags, kind) = (
                        u16::from_be_bytes(self.take()),
                        u16::from_be_bytes(self.take()),
                    );
                    reply.cookie = u64::from_be_bytes(self.take());
                    let len = u64::from(u32::from_be_bytes(self.take()));
                    self.chunk(kind, len, &mut reply);
                    if flags & 1 != 0 {
                        return reply;
                    }
                }
                0x6e8a_278c => {
                    assert_eq!(self.form, Form::Extended);
                    let (flags, kind) = (
                        u16::from_be_bytes(self.take()),
                        u16::from_be_bytes(self.take()),
                    );
                    reply.cookie = u64::from_be_bytes(self.take());
                    let _offset = u64::from_be_bytes(self.take());
                    let len = u64::from_be_bytes(self.take());
                    self.chunk(kind, len, &mut reply);
                    if flags & 1 != 0 {
                        return reply;
                    }
                }
                other => panic!("{other:#x} begins no reply"),
            }
        }
    }

    fn chunk(&mut self, kind: u16, len: u64, reply: &mut Reply) {
        let payload = self.take_vec(len as usize);
        let word =
            |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().expect("four bytes"));
        let long =
            |at: usize| u64::from_be_bytes(payload[at..at + 8].try_into().expect("eight bytes"));
        match kind {
            0 => assert!(payload.is_empty()),
            1 => reply.data.push((long(0), Ok(payload[8..].to_vec()))),
            2 => {
                assert_eq!(len, 12);
                reply.data.push((long(0), Err(word(8))));
            }
            5 => {
                let stretches = (4..payload.len())
                    .step_by(8)
                    .map(|at| (u64::from(word(at)), u64::from(word(at + 4))));
                reply.status.push((word(0), stretches.collect()));
            }
            6 => {
                let stretches: Vec<_> = (8..payload.len())
                    .step_by(16)
                    .map(|at| (long(at), long(at + 8)))
                    .collect();
                assert_eq!(stretches.len(), word(4) as usize);
                reply.status.push((word(0), stretches));
            }
            0x8001 | 0x8002 => {
                reply.error = word(0);
                let text_len = usize::from(u16::from_be_bytes([payload[4], payload[5]]));
                assert_eq!(
                    payload.len(),
                    6 + text_len + if kind == 0x8002 { 8 } else { 0 }
                );
                reply.error_offset = (kind == 0x8002).then(|| long(6 + text_len));
            }
            other => panic!("{other} is no kind of chunk"),
        }
    }
}
