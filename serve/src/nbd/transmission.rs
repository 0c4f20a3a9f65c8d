//! Requests that are valid for an agreed export. Pure: it decides, `execution` does.
//!
//! A client that asks is told of requests of 32 MiB at most. One that does not ask may send longer
//! ones, and some do: as no request is ever whole in memory, they are served as far as other
//! servers do, and further where a reply has chunks.

use super::wire::{
    self, BadMagic, Errno, Headers, RawRequest, ReplyAddress, command, command_flag,
};

/// The longest write, and read in one piece: what nbdkit takes. A client that means to send more is
/// broken.
const WHOLE_LEN_MAX: u64 = 64 << 20;
/// The longest read whose reply has chunks.
const READ_LEN_MAX: u64 = u32::MAX as u64;

/// A metadata context of BLOCK_STATUS. Its number on the wire is its place among the contexts
/// selected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MetadataContext {
    /// Data, zeros or a hole.
    Allocation,
    /// The ranges that may differ from this snapshot.
    Since(String),
}

/// The agreed parameters of the transmission phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Transmission {
    /// Layout of messages.
    pub(super) headers: Headers,
    /// The length of the export.
    pub(super) len: u64,
    /// True if every write is refused.
    pub(super) read_only: bool,
    /// Contexts that BLOCK_STATUS reports.
    pub(super) contexts: Vec<MetadataContext>,
}

/// One request, judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NbdRequest {
    /// Destination of its reply.
    pub(super) address: ReplyAddress,
    /// So many bytes follow it, wanted or not.
    pub(super) payload_len: u64,
    /// The work to do.
    pub(super) job: RequestJob,
}

/// Work of a request. Ranges lie inside of the export, `len` is at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestJob {
    Read {
        offset: u64,
        len: u32,
        /// In one chunk.
        whole: bool,
    },
    Write {
        offset: u64,
        len: u32,
        durable: bool,
    },
    Zero {
        offset: u64,
        len: u64,
        durable: bool,
    },
    Flush,
    Prefetch {
        offset: u64,
        len: u64,
    },
    Status {
        offset: u64,
        len: u64,
        /// One stretch a context.
        one: bool,
    },
    /// Say no.
    Refuse(Errno, &'static str),
    /// Answer what is under way, then close.
    Disconnect,
}

impl Transmission {
    /// The first request in `input` and the length of its header, `None` if it is not whole yet.
    /// `stopping`: the server is about to end, and does nothing new.
    pub(super) fn next(
        &self,
        input: &[u8],
        stopping: bool,
    ) -> Result<Option<(NbdRequest, usize)>, BadMagic> {
        let Some(raw) = wire::parse_request(self.headers, input)? else {
            return Ok(None);
        };
        let job = match self.judge_request(&raw) {
            Ok(RequestJob::Disconnect) => RequestJob::Disconnect,
            Ok(_) if stopping => RequestJob::Refuse(Errno::Shutdown, "the server is stopping"),
            Ok(job) => job,
            Err((errno, text)) => RequestJob::Refuse(errno, text),
        };
        let has_payload = raw.command == command::WRITE
            || (self.is_extended() && raw.flags & command_flag::PAYLOAD_LEN != 0);
        let payload_len = if has_payload { raw.len } else { 0 };
        let address = ReplyAddress {
            cookie: raw.cookie,
            offset: raw.offset,
        };
        Ok(Some((
            NbdRequest {
                address,
                payload_len,
                job,
            },
            self.headers.request_len(),
        )))
    }

    fn is_extended(&self) -> bool {
        self.headers == Headers::Extended
    }

    fn judge_request(&self, raw: &RawRequest) -> Result<RequestJob, (Errno, &'static str)> {
        let RawRequest { offset, len, .. } = *raw;
        self.check_flags(raw)?;
        let durable = raw.flags & command_flag::FUA != 0;
        match raw.command {
            command::READ => {
                self.check_range(raw, Errno::Invalid)?;
                let whole = raw.flags & command_flag::DF != 0;
                Ok(RequestJob::Read {
                    offset,
                    len: self.read_len(len, whole)?,
                    whole,
                })
            }
            command::WRITE => {
                self.check_writable()?;
                self.check_range(raw, Errno::NoSpace)?;
                Ok(RequestJob::Write {
                    offset,
                    len: moved_len(len, WHOLE_LEN_MAX, Errno::Invalid)?,
                    durable,
                })
            }
            command::WRITE_ZEROES | command::TRIM => {
                self.check_writable()?;
                self.check_range(
                    raw,
                    if raw.command == command::TRIM {
                        Errno::Invalid
                    } else {
                        Errno::NoSpace
                    },
                )?;
                Ok(RequestJob::Zero {
                    offset,
                    len,
                    durable,
                })
            }
            command::DISC => Ok(RequestJob::Disconnect),
            command::FLUSH if offset == 0 && len == 0 => Ok(RequestJob::Flush),
            command::FLUSH => Err((Errno::Invalid, "a flush has no range")),
            command::CACHE => {
                self.check_range(raw, Errno::Invalid)?;
                Ok(RequestJob::Prefetch { offset, len })
            }
            command::BLOCK_STATUS if self.contexts.is_empty() => {
                Err((Errno::Invalid, "no context was selected"))
            }
            command::BLOCK_STATUS => {
                self.check_range(raw, Errno::Invalid)?;
                Ok(RequestJob::Status {
                    offset,
                    len,
                    one: raw.flags & command_flag::REQ_ONE != 0,
                })
            }
            _ => Err((Errno::Invalid, "this command is not known here")),
        }
    }

    /// FUA goes with every command, other flags only where they mean something.
    fn check_flags(&self, raw: &RawRequest) -> Result<(), (Errno, &'static str)> {
        let own = match raw.command {
            command::READ if self.headers > Headers::Simple => command_flag::DF,
            command::WRITE if self.is_extended() => command_flag::PAYLOAD_LEN,
            command::WRITE_ZEROES => command_flag::NO_HOLE | command_flag::FAST_ZERO,
            command::BLOCK_STATUS => command_flag::REQ_ONE,
            _ => 0,
        };
        let unknown = raw.flags & !(own | command_flag::FUA);
        if unknown == 0 || raw.command == command::DISC {
            Ok(())
        } else {
            Err((Errno::Invalid, "a flag is not known for this command"))
        }
    }

    /// A reply without chunks says before its first byte whether all of it can be read.
    fn read_len(&self, len: u64, whole: bool) -> Result<u32, (Errno, &'static str)> {
        match self.headers {
            Headers::Simple => moved_len(len, WHOLE_LEN_MAX, Errno::Invalid),
            _ if whole => moved_len(len, WHOLE_LEN_MAX, Errno::Overflow),
            _ => moved_len(len, READ_LEN_MAX, Errno::Overflow),
        }
    }

    fn check_writable(&self) -> Result<(), (Errno, &'static str)> {
        if self.read_only {
            Err((Errno::Permission, "the export can only be read"))
        } else {
            Ok(())
        }
    }

    fn check_range(&self, raw: &RawRequest, outside: Errno) -> Result<(), (Errno, &'static str)> {
        if raw.len == 0 {
            return Err((Errno::Invalid, "the range is empty"));
        }
        let inside = raw
            .offset
            .checked_add(raw.len)
            .is_some_and(|end| end <= self.len);
        if inside {
            Ok(())
        } else {
            Err((outside, "the range reaches past the end of the export"))
        }
    }
}

/// The length of a request that moves bytes.
fn moved_len(len: u64, max: u64, too_long: Errno) -> Result<u32, (Errno, &'static str)> {
    let fits = u32::try_from(len).ok().filter(|_| len <= max);
    fits.ok_or((too_long, "the request is too long"))
}

#[cfg(test)]
mod tests {
    use super::{Errno, Headers, RequestJob, Transmission};

    fn request(command: u16) -> Vec<u8> {
        let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
        bytes.extend([0, 0, 0, command as u8]);
        bytes.extend([7_u64, 0].map(u64::to_be_bytes).concat());
        bytes.extend(512_u32.to_be_bytes());
        bytes
    }

    #[test]
    fn a_stopping_server_does_nothing_new_and_lets_clients_go() {
        let transmission = Transmission {
            headers: Headers::Structured,
            len: 4096,
            read_only: false,
            contexts: Vec::new(),
        };
        for command in [0, 1, 4, 5, 6] {
            let (request, _) = transmission
                .next(&request(command), true)
                .expect("a request")
                .expect("a whole one");
            assert!(
                matches!(request.job, RequestJob::Refuse(Errno::Shutdown, _)),
                "command {command}"
            );
            assert_eq!(
                request.payload_len,
                if command == 1 { 512 } else { 0 },
                "what follows is still skipped"
            );
        }
        let (request, _) = transmission
            .next(&request(2), true)
            .expect("a request")
            .expect("a whole one");
        assert_eq!(request.job, RequestJob::Disconnect);
    }
}
