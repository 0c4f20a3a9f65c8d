//! The messages of the control socket, as bytes.
//!
//! ```text
//! request: the client's first message. Four descriptors come with its first byte: standard input,
//! output and error, current folder
//! offset  size  meaning
//! 0       8     magic, by which another program's message is told
//! 8       4     length of the rest, at most REQUEST_LEN_MAX
//! 12      ..    texts, each ended by a zero byte, which none of them can contain: the program's
//!               version; the number of words in the command line; these words; every variable as
//!               NAME=VALUE
//!
//! note: one byte, the client's only later message: the number of a signal that it received
//!
//! answer: a server's only message
//! 0       1     kind: 0 accepted, the command begins; 1 ended; 2 refused, nothing was done
//! 1       1     exit code of what ended
//! 2       2     length of the text, at most TEXT_LEN_MAX
//! 4       ..    reason of the refusal, for people
//! ```
//!
//! Integers are little-endian. Only programs of one version work for each other. Magic, lengths,
//! the place of the version and the answer are the same in all versions, so that two programs can
//! find out.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

pub(super) const MAGIC: [u8; 8] = *b"vellum\0c";
pub(super) const REQUEST_HEAD_LEN: usize = 12;
/// The limit of Linux for a command line and its variables together, unless it is set otherwise.
pub(super) const REQUEST_LEN_MAX: usize = 2 << 20;
pub(super) const ANSWER_HEAD_LEN: usize = 4;
/// A sentence or two.
const TEXT_LEN_MAX: usize = 1000;

/// A command that a client wants to have done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CommandRequest {
    pub(super) version: String,
    pub(super) words: Vec<OsString>,
    pub(super) variables: BTreeMap<OsString, OsString>,
}

/// A message of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ServerReply {
    /// The command begins.
    Accepted,
    /// It has ended with this exit code.
    Ended(u8),
    /// The request was refused, for this reason; nothing was done.
    Refused(String),
}

/// The reason why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum MessageError {
    #[error("these are not the words of this program")]
    Foreign,
    #[error("the command line and its variables have more than {REQUEST_LEN_MAX} bytes")]
    TooLong,
    #[error("the message makes no sense")]
    Shape,
}

impl CommandRequest {
    pub(super) fn encode_request(&self) -> Result<Vec<u8>, MessageError> {
        let mut texts = vec![
            self.version.as_bytes().to_vec(),
            self.words.len().to_string().into_bytes(),
        ];
        texts.extend(self.words.iter().map(|word| word.as_bytes().to_vec()));
        texts.extend(
            self.variables
                .iter()
                .map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat()),
        );
        let mut body = Vec::new();
        for text in texts {
            body.extend(text);
            body.push(0);
        }
        let len = u32::try_from(body.len())
            .ok()
            .filter(|len| *len as usize <= REQUEST_LEN_MAX)
            .ok_or(MessageError::TooLong)?;
        Ok([&MAGIC[..], &len.to_le_bytes(), &body].concat())
    }

    /// The length of what follows a request's head.
    pub(super) fn body_len(head: [u8; REQUEST_HEAD_LEN]) -> Result<usize, MessageError> {
        let [magic @ .., a, b, c, d] = head;
        if magic != MAGIC {
            return Err(MessageError::Foreign);
        }
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        if len > REQUEST_LEN_MAX {
            Err(MessageError::TooLong)
        } else {
            Ok(len)
        }
    }

    /// The version of who sent `body`, whichever it is.
    pub(super) fn peer_version(body: &[u8]) -> Result<&str, MessageError> {
        let text = body.split(|byte| *byte == 0).next().unwrap_or_default();
        std::str::from_utf8(text).map_err(|_| MessageError::Shape)
    }

    /// A request of this version.
    pub(super) fn decode_request(body: &[u8]) -> Result<Self, MessageError> {
        let version = Self::peer_version(body)?.to_owned();
        let texts = body.strip_suffix(&[0]).ok_or(MessageError::Shape)?;
        let mut texts = texts.split(|byte| *byte == 0).skip(1);
        let count = texts
            .next()
            .and_then(|text| std::str::from_utf8(text).ok()?.parse().ok())
            .ok_or(MessageError::Shape)?;
        let words: Vec<OsString> = texts.by_ref().take(count).map(os_text).collect();
        let variables = texts
            .map(parse_variable)
            .collect::<Option<_>>()
            .ok_or(MessageError::Shape)?;
        if words.len() == count {
            Ok(Self {
                version,
                words,
                variables,
            })
        } else {
            Err(MessageError::Shape)
        }
    }
}

fn os_text(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

/// A name and its value. A name may begin with `=`.
fn parse_variable(text: &[u8]) -> Option<(OsString, OsString)> {
    let (first, rest) = text.split_first()?;
    let equals = rest.iter().position(|byte| *byte == b'=')?;
    let name = [&[*first], &rest[..equals]].concat();
    Some((OsString::from_vec(name), os_text(&rest[equals + 1..])))
}

impl ServerReply {
    pub(super) fn encode_reply(&self) -> Vec<u8> {
        let (kind, code, text) = match self {
            Self::Accepted => (0, 0, ""),
            Self::Ended(code) => (1, *code, ""),
            Self::Refused(text) => (2, 0, &text[..text.floor_char_boundary(TEXT_LEN_MAX)]),
        };
        [
            &[kind, code],
            &(text.len() as u16).to_le_bytes()[..],
            text.as_bytes(),
        ]
        .concat()
    }

    /// The length of what follows an answer's head.
    pub(super) fn text_len(head: [u8; ANSWER_HEAD_LEN]) -> Result<usize, MessageError> {
        let len = u16::from_le_bytes([head[2], head[3]]).into();
        if len > TEXT_LEN_MAX {
            Err(MessageError::Shape)
        } else {
            Ok(len)
        }
    }

    pub(super) fn decode_reply(
        head: [u8; ANSWER_HEAD_LEN],
        text: &[u8],
    ) -> Result<Self, MessageError> {
        match head[0] {
            0 => Ok(Self::Accepted),
            1 => Ok(Self::Ended(head[1])),
            2 => Ok(Self::Refused(String::from_utf8_lossy(text).into_owned())),
            _ => Err(MessageError::Shape),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> CommandRequest {
        let words = ["vellum", "import", "", "ünï", "a=b"]
            .map(OsString::from)
            .into_iter()
            .chain([os_text(b"\xff\n")])
            .collect();
        let variables = [("A", "1"), ("EMPTY", ""), ("=odd", "x=y")]
            .map(|(name, value)| (name.into(), value.into()))
            .into();
        CommandRequest {
            version: "1.2.3".to_owned(),
            words,
            variables,
        }
    }

    fn body(request: &CommandRequest) -> Vec<u8> {
        let bytes = request.encode_request().expect("it is short");
        let head = bytes[..REQUEST_HEAD_LEN].try_into().expect("a head");
        assert_eq!(
            CommandRequest::body_len(head),
            Ok(bytes.len() - REQUEST_HEAD_LEN)
        );
        bytes[REQUEST_HEAD_LEN..].to_vec()
    }

    #[test]
    fn a_request_arrives_as_it_was() {
        for request in [
            request(),
            CommandRequest {
                words: Vec::new(),
                variables: BTreeMap::new(),
                ..request()
            },
        ] {
            assert_eq!(CommandRequest::decode_request(&body(&request)), Ok(request));
        }
    }

    #[test]
    fn no_bytes_panic_and_no_part_of_a_request_is_another() {
        let whole = body(&request());
        let words_end = whole
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == 0)
            .nth(7)
            .expect("version, count, six words")
            .0
            + 1;
        for len in 0..whole.len() {
            let decoded = CommandRequest::decode_request(&whole[..len]);
            // Whole variables may be missing: the length in front tells that they are.
            let whole_texts = len >= words_end && whole[len - 1] == 0;
            assert_eq!(decoded.is_ok(), whole_texts, "{len}");
        }
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let mut bytes = whole.clone();
            for _ in 0..random.usize(1..6) {
                let at = random.usize(..bytes.len());
                let any = random.u8(..);
                bytes[at] = random
                    .choice([0, b'=', b'9', 0xff, any])
                    .expect("there are some");
            }
            let _ = CommandRequest::decode_request(&bytes);
        }
    }

    #[test]
    fn what_cannot_be_a_request_is_refused_before_it_is_read() {
        let head = |magic: &[u8; 8], len: u32| {
            CommandRequest::body_len(
                [&magic[..], &len.to_le_bytes()]
                    .concat()
                    .try_into()
                    .expect("12 bytes"),
            )
        };
        assert_eq!(head(b"GET / HT", 5), Err(MessageError::Foreign));
        assert_eq!(head(&MAGIC, REQUEST_LEN_MAX as u32), Ok(REQUEST_LEN_MAX));
        assert_eq!(
            head(&MAGIC, REQUEST_LEN_MAX as u32 + 1),
            Err(MessageError::TooLong)
        );
        assert_eq!(head(&MAGIC, u32::MAX), Err(MessageError::TooLong));
        for texts in [
            &b""[..],
            b"v",
            b"v\0",
            b"v\0x\0",
            b"v\0-1\0",
            b"v\x001\0",
            b"v\099999999999999999999\0",
            b"v\x000\0novalue\0",
            b"v\x000\0\0",
        ] {
            assert_eq!(
                CommandRequest::decode_request(texts),
                Err(MessageError::Shape),
                "{texts:?}"
            );
        }
        let huge = CommandRequest {
            words: vec!["x".repeat(REQUEST_LEN_MAX).into()],
            ..request()
        };
        assert_eq!(huge.encode_request(), Err(MessageError::TooLong));
    }

    #[test]
    fn an_answer_arrives_as_it_was() {
        for answer in [
            ServerReply::Accepted,
            ServerReply::Ended(0),
            ServerReply::Ended(143),
            ServerReply::Refused("no".to_owned()),
        ] {
            let bytes = answer.encode_reply();
            let (head, text) = bytes.split_first_chunk().expect("a head");
            assert_eq!(ServerReply::text_len(*head), Ok(text.len()));
            assert_eq!(ServerReply::decode_reply(*head, text), Ok(answer));
        }
        let long = ServerReply::Refused("ö".repeat(TEXT_LEN_MAX)).encode_reply();
        assert_eq!(long.len(), ANSWER_HEAD_LEN + TEXT_LEN_MAX);
        assert_eq!(
            ServerReply::decode_reply([3, 0, 0, 0], b""),
            Err(MessageError::Shape)
        );
        assert_eq!(
            ServerReply::text_len([2, 0, 0xff, 0xff]),
            Err(MessageError::Shape)
        );
    }
}
