//! Every NBD message as bytes, and back. It knows no meaning: what may follow what is
//! `negotiation`, what a request may ask is `transmission`. Everything is big-endian. Decoders are
//! total: too few bytes are "not yet", wrong bytes an error, never a panic.

/// Protocol error, which ends a dialogue: the other side does not speak this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message of the NBD protocol")]
pub(super) struct BadMagic;

// ---- Handshake ----
//
// Greeting (server)                            Client flags (client)
// offset size                                  offset size
// 0      8    "NBDMAGIC"                       0      4    flags, of those offered
// 8      8    "IHAVEOPT"
// 16     2    flags: what the handshake can do
//
// Option (client)                              Reply to an option (server)
// offset size                                  offset size
// 0      8    "IHAVEOPT"                       0      8    REPLY_MAGIC
// 8      4    option                           8      4    option answered
// 12     4    length of the data               12     4    kind of reply; bit 31: an error
// 16     n    data                             16     4    length of the data
//                                              20     n    data

const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// Flags of the handshake, the same bits in both directions: options may follow each other, and no
/// 124 zeros at the end.
pub(super) const FIXED_NEWSTYLE: u16 = 1 << 0;
pub(super) const NO_ZEROES: u16 = 1 << 1;

/// The length of the client's flags.
pub(super) const CLIENT_FLAGS_LEN: usize = 4;
/// The length of an option without its data.
pub(super) const OPTION_HEADER_LEN: usize = 16;
/// Zeros that old clients get behind the description of an export.
pub(super) const PADDING_LEN: usize = 124;
/// No string of the protocol is longer.
pub(super) const STRING_LEN_MAX: usize = 4096;

/// Options of the client.
pub(super) mod option {
    pub(in super::super) const EXPORT_NAME: u32 = 1;
    pub(in super::super) const ABORT: u32 = 2;
    pub(in super::super) const LIST: u32 = 3;
    pub(in super::super) const STARTTLS: u32 = 5;
    pub(in super::super) const INFO: u32 = 6;
    pub(in super::super) const GO: u32 = 7;
    pub(in super::super) const STRUCTURED_REPLY: u32 = 8;
    pub(in super::super) const LIST_META_CONTEXT: u32 = 9;
    pub(in super::super) const SET_META_CONTEXT: u32 = 10;
    pub(in super::super) const EXTENDED_HEADERS: u32 = 11;
}

/// Kinds of reply to an option.
pub(super) mod reply {
    pub(in super::super) const ACK: u32 = 1;
    pub(in super::super) const SERVER: u32 = 2;
    pub(in super::super) const INFO: u32 = 3;
    pub(in super::super) const META_CONTEXT: u32 = 4;
    pub(in super::super) const ERR_UNSUP: u32 = 0x8000_0001;
    pub(in super::super) const ERR_POLICY: u32 = 0x8000_0002;
    pub(in super::super) const ERR_INVALID: u32 = 0x8000_0003;
    pub(in super::super) const ERR_PLATFORM: u32 = 0x8000_0004;
    pub(in super::super) const ERR_TLS_REQD: u32 = 0x8000_0005;
    pub(in super::super) const ERR_UNKNOWN: u32 = 0x8000_0006;
    pub(in super::super) const ERR_SHUTDOWN: u32 = 0x8000_0007;
    pub(in super::super) const ERR_TOO_BIG: u32 = 0x8000_0009;
    pub(in super::super) const ERR_EXT_HEADER_REQD: u32 = 0x8000_000a;
}

/// Kinds of information about an export.
pub(super) mod info {
    pub(in super::super) const EXPORT: u16 = 0;
    pub(in super::super) const NAME: u16 = 1;
    pub(in super::super) const DESCRIPTION: u16 = 2;
    pub(in super::super) const BLOCK_SIZE: u16 = 3;
}

/// The server's first message.
pub(super) fn server_greeting() -> [u8; 18] {
    let mut bytes = [0; 18];
    bytes[..8].copy_from_slice(&NBD_MAGIC.to_be_bytes());
    bytes[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
    bytes[16..].copy_from_slice(&(FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
    bytes
}

/// An option without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OptionHeader {
    pub(super) option: u32,
    pub(super) data_len: u32,
}

/// The option header at the start of `input`, `None` if it is not whole yet.
pub(super) fn option_header(input: &[u8]) -> Result<Option<OptionHeader>, BadMagic> {
    let Some(header) = input.get(..OPTION_HEADER_LEN) else {
        return Ok(None);
    };
    let mut fields = FieldReader(header);
    if fields.take_u64() != Some(OPTION_MAGIC) {
        return Err(BadMagic);
    }
    Ok(fields
        .take_u32()
        .zip(fields.take_u32())
        .map(|(option, data_len)| OptionHeader { option, data_len }))
}

/// Appends a reply to `option`.
pub(super) fn put_option_reply(out: &mut Vec<u8>, option: u32, kind: u32, data: &[&[u8]]) {
    let data_len: usize = data.iter().map(|part| part.len()).sum();
    out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&(data_len as u32).to_be_bytes());
    data.iter().for_each(|part| out.extend_from_slice(part));
}

/// The big-endian fields of a message, each `None` where it ends too early.
#[derive(Clone, Copy, Debug)]
pub(super) struct FieldReader<'a>(pub(super) &'a [u8]);

impl<'a> FieldReader<'a> {
    fn take_array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn take_u16(&mut self) -> Option<u16> {
        self.take_array().map(u16::from_be_bytes)
    }

    pub(super) fn take_u32(&mut self) -> Option<u32> {
        self.take_array().map(u32::from_be_bytes)
    }

    pub(super) fn take_u64(&mut self) -> Option<u64> {
        self.take_array().map(u64::from_be_bytes)
    }

    /// A length of 32 bits, and so many bytes of UTF-8, at most [`STRING_LEN_MAX`].
    pub(super) fn take_string(&mut self) -> Option<&'a str> {
        let len = self.take_u32()? as usize;
        let (taken, rest) = self
            .0
            .split_at_checked(len)
            .filter(|_| len <= STRING_LEN_MAX)?;
        self.0 = rest;
        std::str::from_utf8(taken).ok()
    }

    /// Something, if nothing is left behind it.
    pub(super) fn expect_end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

// ---- Transmission ----
//
// Request, compact                             Request, extended
// offset size                                  offset size
// 0      4    REQUEST_MAGIC                    0      4    EXTENDED_REQUEST_MAGIC
// 4      2    flags                            4      2    flags
// 6      2    command                          6      2    command
// 8      8    cookie: names the request        8      8    cookie
// 16     8    offset                           16     8    offset
// 24     4    length                           24     8    length
// 28     n    payload of a write               32     n    payload of a write, or if PAYLOAD_LEN
//                                                          is set
//
// Simple reply          Chunk of a structured reply          Chunk of an extended reply
// offset size           offset size                          offset size
// 0      4    magic     0      4    magic                    0      4    magic
// 4      4    error     4      2    flags: bit 0, the last   4      2    flags: bit 0, the last
// 8      8    cookie    6      2    kind; bit 15: an error   6      2    kind; bit 15: an error
// 16     n    data      8      8    cookie                   8      8    cookie
//                       16     4    length of the payload    16     8    offset of the request
//                       20     n    payload                  24     8    length of the payload
//                                                            32     n    payload
//
// Payloads of chunks
// NONE                empty
// OFFSET_DATA         offset 8, data
// OFFSET_HOLE         offset 8, length 4
// BLOCK_STATUS        context 4, then per stretch: length 4, flags 4
// BLOCK_STATUS_EXT    context 4, count 4, then per stretch: length 8, flags 8
// ERROR               error 4, length 2, text
// ERROR_OFFSET        error 4, length 2, text, offset 8

const REQUEST_MAGIC: u32 = 0x2560_9513;
const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Abilities of an export, as the client is told.
pub(super) mod transmission_flag {
    pub(in super::super) const HAS_FLAGS: u16 = 1 << 0;
    pub(in super::super) const READ_ONLY: u16 = 1 << 1;
    pub(in super::super) const SEND_FLUSH: u16 = 1 << 2;
    pub(in super::super) const SEND_FUA: u16 = 1 << 3;
    pub(in super::super) const SEND_TRIM: u16 = 1 << 5;
    pub(in super::super) const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub(in super::super) const SEND_DF: u16 = 1 << 7;
    pub(in super::super) const CAN_MULTI_CONN: u16 = 1 << 8;
    pub(in super::super) const SEND_CACHE: u16 = 1 << 10;
    pub(in super::super) const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Commands of the client.
pub(super) mod command {
    pub(in super::super) const READ: u16 = 0;
    pub(in super::super) const WRITE: u16 = 1;
    pub(in super::super) const DISC: u16 = 2;
    pub(in super::super) const FLUSH: u16 = 3;
    pub(in super::super) const TRIM: u16 = 4;
    pub(in super::super) const CACHE: u16 = 5;
    pub(in super::super) const WRITE_ZEROES: u16 = 6;
    pub(in super::super) const BLOCK_STATUS: u16 = 7;
}

/// Flags of a command.
pub(super) mod command_flag {
    pub(in super::super) const FUA: u16 = 1 << 0;
    pub(in super::super) const NO_HOLE: u16 = 1 << 1;
    pub(in super::super) const DF: u16 = 1 << 2;
    pub(in super::super) const REQ_ONE: u16 = 1 << 3;
    pub(in super::super) const FAST_ZERO: u16 = 1 << 4;
    pub(in super::super) const PAYLOAD_LEN: u16 = 1 << 5;
}

/// The last chunk of a reply.
pub(super) const CHUNK_DONE: u16 = 1 << 0;

/// Kinds of chunk.
pub(super) mod chunk {
    pub(in super::super) const NONE: u16 = 0;
    pub(in super::super) const OFFSET_DATA: u16 = 1;
    pub(in super::super) const OFFSET_HOLE: u16 = 2;
    pub(in super::super) const BLOCK_STATUS: u16 = 5;
    pub(in super::super) const BLOCK_STATUS_EXT: u16 = 6;
    pub(in super::super) const ERROR: u16 = (1 << 15) + 1;
    pub(in super::super) const ERROR_OFFSET: u16 = (1 << 15) + 2;
}

/// Reason that a request failed, as the client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Errno {
    Permission = 1,
    Io = 5,
    Invalid = 22,
    NoSpace = 28,
    Overflow = 75,
    Shutdown = 108,
}

/// Agreed layout of requests and replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Headers {
    /// Compact requests, simple replies.
    Simple,
    /// Compact requests; replies to reads, and errors, in chunks.
    Structured,
    /// Requests and chunks with 64-bit lengths.
    Extended,
}

impl Headers {
    /// The length of a request without payload.
    pub(super) fn request_len(self) -> usize {
        if self == Self::Extended { 32 } else { 28 }
    }

    /// The length of a reply or chunk without payload.
    pub(super) fn reply_len(self) -> usize {
        match self {
            Self::Simple => 16,
            Self::Structured => 20,
            Self::Extended => 32,
        }
    }
}

/// A request as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RawRequest {
    pub(super) flags: u16,
    pub(super) command: u16,
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// The request at the start of `input`, `None` if it is not whole yet.
pub(super) fn parse_request(
    headers: Headers,
    input: &[u8],
) -> Result<Option<RawRequest>, BadMagic> {
    let Some(header) = input.get(..headers.request_len()) else {
        return Ok(None);
    };
    let mut fields = FieldReader(header);
    let expected = if headers == Headers::Extended {
        EXTENDED_REQUEST_MAGIC
    } else {
        REQUEST_MAGIC
    };
    if fields.take_u32() != Some(expected) {
        return Err(BadMagic);
    }
    let mut decode = || {
        let (flags, command, cookie, offset) = (
            fields.take_u16()?,
            fields.take_u16()?,
            fields.take_u64()?,
            fields.take_u64()?,
        );
        let len = if headers == Headers::Extended {
            fields.take_u64()?
        } else {
            u64::from(fields.take_u32()?)
        };
        Some(RawRequest {
            flags,
            command,
            cookie,
            offset,
            len,
        })
    };
    Ok(decode())
}

/// Identity of the request that a reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReplyAddress {
    pub(super) cookie: u64,
    pub(super) offset: u64,
}

/// Writes the header of a simple reply to the start of `out`, which must have room. Returns its
/// length.
pub(super) fn put_simple(out: &mut [u8], error: u32, cookie: u64) -> usize {
    out[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    out[4..8].copy_from_slice(&error.to_be_bytes());
    out[8..16].copy_from_slice(&cookie.to_be_bytes());
    16
}

/// Writes the header of a chunk to the start of `out`, which must have room. Returns its length.
/// `headers` is not simple.
pub(super) fn put_chunk(
    out: &mut [u8],
    headers: Headers,
    flags: u16,
    kind: u16,
    address: ReplyAddress,
    payload_len: u64,
) -> usize {
    let magic = if headers == Headers::Extended {
        EXTENDED_REPLY_MAGIC
    } else {
        STRUCTURED_REPLY_MAGIC
    };
    out[..4].copy_from_slice(&magic.to_be_bytes());
    out[4..6].copy_from_slice(&flags.to_be_bytes());
    out[6..8].copy_from_slice(&kind.to_be_bytes());
    out[8..16].copy_from_slice(&address.cookie.to_be_bytes());
    if headers == Headers::Extended {
        out[16..24].copy_from_slice(&address.offset.to_be_bytes());
        out[24..32].copy_from_slice(&payload_len.to_be_bytes());
    } else {
        out[16..20].copy_from_slice(&(payload_len as u32).to_be_bytes());
    }
    headers.reply_len()
}

#[cfg(test)]
mod tests {
    use super::{
        BadMagic, FieldReader, Headers, OPTION_MAGIC, REQUEST_MAGIC, option_header, parse_request,
    };

    #[test]
    fn a_message_cut_anywhere_is_not_yet_one() {
        let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
        bytes.extend([0, 0, 0, 7, 0xff, 0xff, 0xff, 0xff]);
        for len in 0..bytes.len() {
            assert_eq!(option_header(&bytes[..len]), Ok(None));
        }
        assert_eq!(
            option_header(&bytes).map(|header| header.map(|header| header.data_len)),
            Ok(Some(u32::MAX))
        );
        let mut bytes = REQUEST_MAGIC.to_be_bytes().to_vec();
        bytes.resize(28, 0xff);
        for len in 0..bytes.len() {
            assert_eq!(parse_request(Headers::Structured, &bytes[..len]), Ok(None));
        }
        assert_eq!(
            parse_request(Headers::Simple, &bytes)
                .map(|request| request.map(|request| request.len)),
            Ok(Some(u64::from(u32::MAX)))
        );
    }

    #[test]
    fn another_magic_is_an_error() {
        assert_eq!(option_header(&[0; 16]), Err(BadMagic));
        assert_eq!(parse_request(Headers::Simple, &[0; 28]), Err(BadMagic));
        let mut compact = REQUEST_MAGIC.to_be_bytes().to_vec();
        compact.resize(32, 0);
        assert_eq!(
            parse_request(Headers::Extended, &compact),
            Err(BadMagic),
            "a compact request where extended ones were agreed"
        );
    }

    #[test]
    fn a_string_is_never_longer_than_its_bytes_or_its_limit() {
        for (bytes, expected) in [
            (&[0, 0, 0, 2, b'a', b'b'][..], Some("ab")),
            (&[0, 0, 0, 3, b'a', b'b'], None),
            (&[0, 0, 0], None),
        ] {
            assert_eq!(FieldReader(bytes).take_string(), expected);
        }
        assert_eq!(
            FieldReader(&[0, 0, 0, 1, 0xff]).take_string(),
            None,
            "not UTF-8"
        );
        for (len, fits) in [(4096_usize, true), (4097, false)] {
            let bytes = [&(len as u32).to_be_bytes()[..], &vec![b'x'; len]].concat();
            assert_eq!(FieldReader(&bytes).take_string().is_some(), fits, "{len}");
        }
    }
}
