//! Doing what a request asks, and putting its reply in order; `reads` has the replies with data. It
//! decides nothing about what is allowed: that is `transmission`.
//!
//! A write is answered after the device has taken it, and a flush asks the device after that: so
//! what was answered before a flush is durable when the flush is answered.

use std::cell::RefCell;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use vellum_core::device::{AllocationStatus, Device, DeviceError, TypedRange};

use super::buffers::{Pool, ReplyBuffer};
use super::transmission::{MetadataContext, NbdRequest, RequestJob, Transmission};
use super::wire::{self, CHUNK_DONE, Errno, Headers, ReplyAddress, chunk};
use crate::change_board::ChangeBoard;
use crate::peer::Peer;
use crate::writers::WriteRight;

/// Stretches told at once; clients ask again for the rest. 32 or 64 KiB of reply a context.
pub(super) const STRETCH_COUNT_MAX: usize = 4096;
/// Replies that wait for company are sent when they are so many bytes.
pub(super) const COALESCED_LEN_MAX: usize = 64 << 10;
/// Room for any header, with the offset behind it.
pub(super) const HEADER_LEN_MAX: usize = 40;

/// The way to a client. Who holds the lock sends whole messages.
pub(super) type Sender = Mutex<Box<dyn Write + Send>>;

/// Execution of the requests of one connection.
pub(super) struct Execution<'a> {
    pub(super) device: &'a dyn Device,
    pub(super) transmission: &'a Transmission,
    pub(super) pool: &'a Arc<Pool>,
    pub(super) sender: &'a Sender,
    /// `None`: everybody may write.
    right: Option<&'a WriteRight>,
    /// Is told what was written.
    board: Option<&'a ChangeBoard>,
    /// Message of the last request's failure, if it failed.
    failure: RefCell<Option<String>>,
}

impl<'a> Execution<'a> {
    pub(super) fn new(
        device: &'a dyn Device,
        transmission: &'a Transmission,
        pool: &'a Arc<Pool>,
        sender: &'a Sender,
    ) -> Self {
        Self {
            device,
            transmission,
            pool,
            sender,
            right: None,
            board: None,
            failure: RefCell::new(None),
        }
    }

    /// The same for a client that may write only with this right.
    pub(super) fn with_right(self, right: Option<&'a WriteRight>) -> Self {
        Self { right, ..self }
    }

    /// The same, and `board` is told what is written.
    pub(super) fn with_board(self, board: &'a ChangeBoard) -> Self {
        Self {
            board: Some(board),
            ..self
        }
    }

    /// Takes the message of the last request's failure, if it failed.
    pub(super) fn take_failure(&self) -> Option<String> {
        self.failure.take()
    }

    /// Does `request` and puts its reply into `out`, sending when that is much. `payload` is a
    /// write's, else empty. An error: the connection is lost.
    pub(super) fn run_request(
        &self,
        request: &NbdRequest,
        payload: &[u8],
        out: &mut ReplyBuffer,
    ) -> io::Result<()> {
        let address = request.address;
        match request.job {
            RequestJob::Read { offset, len, whole } => {
                self.read_and_reply(address, offset, len, whole, out)?;
            }
            RequestJob::Write {
                offset, durable, ..
            } => {
                let done = self.write_at(payload, offset);
                self.finish_write(address, done, durable, out);
            }
            RequestJob::Zero {
                offset,
                len,
                durable,
            } => {
                let done = self.write_guarded(|| self.device.write_zeroes(offset, len));
                self.note_write(offset, len);
                self.finish_write(address, done, durable, out);
            }
            RequestJob::Flush => self.finish_write(address, Ok(()), true, out),
            RequestJob::Prefetch { offset, len } => {
                self.device.prefetch(offset, len);
                self.put_done(address, out);
            }
            RequestJob::Status { offset, len, one } => {
                self.reply_block_status(address, offset, len, one, out);
            }
            RequestJob::Refuse(errno, text) => self.put_error(address, errno, text, None, out),
            RequestJob::Disconnect => {}
        }
        if out.filled_bytes().len() >= COALESCED_LEN_MAX {
            self.send_buffer(out)
        } else {
            Ok(())
        }
    }

    /// Writes a payload, or a piece of one.
    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), GuardedWriteError> {
        let done = self.write_guarded(|| self.device.write_at(bytes, offset));
        self.note_write(offset, bytes.len() as u64);
        done
    }

    /// Says that something was written, also where that failed: a part of it may be there.
    fn note_write(&self, offset: u64, len: u64) {
        if let Some(board) = self.board {
            board.note_write(self.device, offset, len);
        }
    }

    fn write_guarded(
        &self,
        act: impl FnOnce() -> Result<(), DeviceError>,
    ) -> Result<(), GuardedWriteError> {
        match self.right {
            None => Ok(act()?),
            Some(right) => Ok(right
                .write_exclusively(act)
                .map_err(GuardedWriteError::Held)??),
        }
    }

    /// Answers a write that the device has taken, or not: durably if asked.
    pub(super) fn finish_write(
        &self,
        address: ReplyAddress,
        done: Result<(), GuardedWriteError>,
        durable: bool,
        out: &mut ReplyBuffer,
    ) {
        let flush = durable && !self.transmission.read_only;
        let flushed = || Ok(self.device.flush()?);
        match done.and_then(|()| if flush { flushed() } else { Ok(()) }) {
            Ok(()) => self.put_done(address, out),
            Err(error) => self.put_error(address, error.nbd_errno(), &error.to_string(), None, out),
        }
    }

    /// Sends what is in `out`.
    pub(super) fn send_buffer(&self, out: &mut ReplyBuffer) -> io::Result<()> {
        if out.filled_bytes().is_empty() {
            return Ok(());
        }
        let sent = self
            .sender
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(out.filled_bytes());
        out.clear();
        sent
    }

    fn reply_block_status(
        &self,
        address: ReplyAddress,
        offset: u64,
        len: u64,
        one: bool,
        out: &mut ReplyBuffer,
    ) {
        // All are found before one is told: a failure is the whole reply.
        let told: Result<Vec<Vec<TypedRange<u32>>>, DeviceError> = self
            .transmission
            .contexts
            .iter()
            .map(|context| self.context_stretches(context, offset, len, one))
            .collect();
        let told = match told {
            Ok(told) => told,
            Err(error) => {
                return self.put_error(
                    address,
                    device_errno(&error),
                    &error.to_string(),
                    None,
                    out,
                );
            }
        };
        let count = told.len();
        for (id, stretches) in told.iter().enumerate() {
            self.put_status(
                address,
                id as u32,
                stretches,
                done_flag(id + 1 == count),
                out,
            );
        }
    }

    fn context_stretches(
        &self,
        context: &MetadataContext,
        offset: u64,
        len: u64,
        one: bool,
    ) -> Result<Vec<TypedRange<u32>>, DeviceError> {
        // Compact replies have lengths of 32 bits.
        let len = if self.transmission.headers == Headers::Extended {
            len
        } else {
            len.min(u64::from(u32::MAX))
        };
        let found = match context {
            MetadataContext::Allocation => {
                let found = self.device.allocation(offset, len, STRETCH_COUNT_MAX)?;
                join_stretches(found.into_iter().map(|one| TypedRange {
                    offset: one.offset,
                    len: one.len,
                    kind: allocation_flags(one.kind),
                }))
            }
            MetadataContext::Since(snapshot) => {
                let found = self
                    .device
                    .changes(snapshot, offset, len, STRETCH_COUNT_MAX)?;
                join_stretches(found.into_iter().map(|one| TypedRange {
                    offset: one.offset,
                    len: one.len,
                    kind: u32::from(one.kind),
                }))
            }
        };
        if found.is_empty() {
            return Err(DeviceError::Io("nothing is known of this range".to_owned()));
        }
        Ok(if one { found[..1].to_vec() } else { found })
    }

    fn put_status(
        &self,
        address: ReplyAddress,
        id: u32,
        stretches: &[TypedRange<u32>],
        done: u16,
        out: &mut ReplyBuffer,
    ) {
        let mut payload = id.to_be_bytes().to_vec();
        let kind = if self.transmission.headers == Headers::Extended {
            payload.extend((stretches.len() as u32).to_be_bytes());
            stretches.iter().for_each(|one| {
                payload.extend(
                    [one.len, u64::from(one.kind)]
                        .map(u64::to_be_bytes)
                        .concat(),
                );
            });
            chunk::BLOCK_STATUS_EXT
        } else {
            stretches.iter().for_each(|one| {
                payload.extend([one.len as u32, one.kind].map(u32::to_be_bytes).concat());
            });
            chunk::BLOCK_STATUS
        };
        self.put_payload(address, done, kind, &payload, out);
    }

    fn put_done(&self, address: ReplyAddress, out: &mut ReplyBuffer) {
        if self.transmission.headers == Headers::Extended {
            return self.put_payload(address, CHUNK_DONE, chunk::NONE, &[], out);
        }
        let len = wire::put_simple(out.reserve_room(HEADER_LEN_MAX), 0, address.cookie);
        out.commit_len(len);
    }

    /// Says that a request failed, `at` which byte if that is known.
    pub(super) fn put_error(
        &self,
        address: ReplyAddress,
        errno: Errno,
        text: &str,
        at: Option<u64>,
        out: &mut ReplyBuffer,
    ) {
        self.failure.replace(Some(text.to_owned()));
        if self.transmission.headers == Headers::Simple {
            let len = wire::put_simple(
                out.reserve_room(HEADER_LEN_MAX),
                errno as u32,
                address.cookie,
            );
            return out.commit_len(len);
        }
        let text = super::negotiation::clip_text(text);
        let mut payload = (errno as u32).to_be_bytes().to_vec();
        payload.extend((text.len() as u16).to_be_bytes());
        payload.extend(text.as_bytes());
        payload.extend(at.iter().flat_map(|offset| offset.to_be_bytes()));
        let kind = if at.is_some() {
            chunk::ERROR_OFFSET
        } else {
            chunk::ERROR
        };
        self.put_payload(address, CHUNK_DONE, kind, &payload, out);
    }

    pub(super) fn put_payload(
        &self,
        address: ReplyAddress,
        flags: u16,
        kind: u16,
        payload: &[u8],
        out: &mut ReplyBuffer,
    ) {
        let room = out.reserve_room(HEADER_LEN_MAX + payload.len());
        let at = wire::put_chunk(
            room,
            self.transmission.headers,
            flags,
            kind,
            address,
            payload.len() as u64,
        );
        room[at..at + payload.len()].copy_from_slice(payload);
        out.commit_len(at + payload.len());
    }
}

/// The reason why something was not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum GuardedWriteError {
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Another client writes to the disk.
    #[error("{0} writes to it, and only one client does")]
    Held(Peer),
}

impl GuardedWriteError {
    fn nbd_errno(&self) -> Errno {
        match self {
            Self::Device(DeviceError::OutOfRange) => Errno::NoSpace,
            Self::Device(error) => device_errno(error),
            Self::Held(_) => Errno::Permission,
        }
    }
}

pub(super) fn done_flag(last: bool) -> u16 {
    if last { CHUNK_DONE } else { 0 }
}

/// Neighbours of one kind become one.
pub(super) fn join_stretches<K: PartialEq>(
    stretches: impl Iterator<Item = TypedRange<K>>,
) -> Vec<TypedRange<K>> {
    let mut joined: Vec<TypedRange<K>> = Vec::new();
    for stretch in stretches {
        match joined.last_mut() {
            Some(last) if last.kind == stretch.kind => last.len += stretch.len,
            _ => joined.push(stretch),
        }
    }
    joined
}

/// Bit 0: nothing is kept for it; bit 1: it reads as zeros.
fn allocation_flags(kind: AllocationStatus) -> u32 {
    match kind {
        AllocationStatus::Data => 0,
        AllocationStatus::Zero => 0b10,
        AllocationStatus::Hole => 0b11,
    }
}

pub(super) fn device_errno(error: &DeviceError) -> Errno {
    match error {
        DeviceError::ReadOnly => Errno::Permission,
        DeviceError::OutOfRange => Errno::Invalid,
        DeviceError::NoSpace(_) => Errno::NoSpace,
        DeviceError::Io(_) => Errno::Io,
        DeviceError::Stopping => Errno::Shutdown,
    }
}
