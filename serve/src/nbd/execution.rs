//! Doing what a request asks, and putting its reply in order. It decides nothing about what is
//! allowed: that is `transmission`.
//!
//! A write is answered after the device has taken it, and a flush asks the device after that: so
//! what was answered before a flush is durable when the flush is answered.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use vellum_core::device::{Allocation, Device, DeviceError, Stretch};

use super::buffers::{Outgoing, PIECE_LEN_LARGE, PIECE_LEN_SMALL, Pool};
use super::transmission::{Context, Job, Request, Transmission};
use super::wire::{self, Address, CHUNK_DONE, Errno, Headers, chunk};

/// Shorter reads do not ask where zeros are: sending them costs less than asking.
const SPARSE_LEN_MIN: u32 = 64 << 10;
/// Shorter stretches of zeros are sent as data: a chunk of their own would cost more.
const HOLE_LEN_MIN: u64 = 32 << 10;
/// Stretches told at once; clients ask again for the rest. 32 or 64 KiB of reply a context.
const STRETCH_COUNT_MAX: usize = 4096;
/// Replies that wait for company are sent when they are so many bytes.
const COALESCED_LEN_MAX: usize = 64 << 10;
/// Room for any header, with the offset behind it.
const HEADER_LEN_MAX: usize = 40;

/// The way to a client. Who holds the lock sends whole messages.
pub(super) type Sender = Mutex<Box<dyn Write + Send>>;

/// Where requests of one connection are done.
pub(super) struct Execution<'a> {
    pub(super) device: &'a dyn Device,
    pub(super) transmission: &'a Transmission,
    pub(super) pool: &'a Arc<Pool>,
    pub(super) sender: &'a Sender,
}

impl Execution<'_> {
    /// Does `request` and puts its reply into `out`, sending when that is much. `payload` is a
    /// write's, else empty. An error: the connection is lost.
    pub(super) fn run(
        &self,
        request: &Request,
        payload: &[u8],
        out: &mut Outgoing,
    ) -> io::Result<()> {
        let address = request.address;
        match request.job {
            Job::Read { offset, len, whole } => self.read(address, offset, len, whole, out)?,
            Job::Write {
                offset, durable, ..
            } => {
                let done = self.device.write_at(payload, offset);
                self.finish_write(address, done, durable, out);
            }
            Job::Zero {
                offset,
                len,
                durable,
            } => {
                let done = self.device.write_zeroes(offset, len);
                self.finish_write(address, done, durable, out);
            }
            Job::Flush => self.finish_write(address, Ok(()), true, out),
            Job::Prefetch { offset, len } => {
                self.device.prefetch(offset, len);
                self.put_done(address, out);
            }
            Job::Status { offset, len, one } => self.status(address, offset, len, one, out),
            Job::Refuse(errno, text) => self.put_error(address, errno, text, None, out),
            Job::Disconnect => {}
        }
        if out.filled().len() >= COALESCED_LEN_MAX {
            self.send(out)
        } else {
            Ok(())
        }
    }

    /// Answers a write that the device has taken, or not: durably if asked.
    pub(super) fn finish_write(
        &self,
        address: Address,
        done: Result<(), DeviceError>,
        durable: bool,
        out: &mut Outgoing,
    ) {
        let flush = durable && !self.transmission.read_only;
        match done.and_then(|()| if flush { self.device.flush() } else { Ok(()) }) {
            Ok(()) => self.put_done(address, out),
            Err(error) => {
                let errno = if error == DeviceError::OutOfRange {
                    Errno::NoSpace
                } else {
                    errno(&error)
                };
                self.put_error(address, errno, &error.to_string(), None, out);
            }
        }
    }

    /// Sends what is in `out`.
    pub(super) fn send(&self, out: &mut Outgoing) -> io::Result<()> {
        if out.filled().is_empty() {
            return Ok(());
        }
        let sent = self
            .sender
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(out.filled());
        out.clear();
        sent
    }

    fn read(
        &self,
        address: Address,
        offset: u64,
        len: u32,
        whole: bool,
        out: &mut Outgoing,
    ) -> io::Result<()> {
        if len as usize <= PIECE_LEN_SMALL {
            return self.read_pieces(address, offset, len, whole, PIECE_LEN_SMALL, out);
        }
        let Some(mut lease) = self.pool.lease() else {
            return self.read_pieces(address, offset, len, whole, PIECE_LEN_SMALL, out);
        };
        self.read_pieces(address, offset, len, whole, PIECE_LEN_LARGE, &mut lease)?;
        self.send(&mut lease)
    }

    fn read_pieces(
        &self,
        address: Address,
        offset: u64,
        len: u32,
        whole: bool,
        piece_len: usize,
        out: &mut Outgoing,
    ) -> io::Result<()> {
        if self.transmission.headers == Headers::Simple {
            return self.read_simple(address.cookie, offset, len as usize, piece_len, out);
        }
        if whole && len as usize > piece_len {
            self.put_error(
                address,
                Errno::Overflow,
                "too long for one chunk now",
                None,
                out,
            );
            return Ok(());
        }
        let end = offset + u64::from(len);
        if len < SPARSE_LEN_MIN {
            self.read_data(address, offset, end, end, piece_len, out)
                .map(|_| ())
        } else {
            self.read_sparse(address, offset, end, whole, piece_len, out)
        }
    }

    /// A reply without chunks: if it is longer than a piece, a failure in the middle can only be
    /// told by hanging up.
    fn read_simple(
        &self,
        cookie: u64,
        offset: u64,
        len: usize,
        piece_len: usize,
        out: &mut Outgoing,
    ) -> io::Result<()> {
        let first_len = len.min(piece_len);
        let room = out.room(16 + first_len);
        if let Err(error) = self.device.read_at(&mut room[16..], offset) {
            self.put_error(Address { cookie, offset }, errno(&error), "", None, out);
            return Ok(());
        }
        wire::put_simple(room, 0, cookie);
        out.commit(16 + first_len);
        if first_len == len {
            return Ok(());
        }
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = first_len;
        sender.write_all(out.filled())?;
        out.clear();
        while done < len {
            let room = out.room(piece_len.min(len - done));
            self.device
                .read_at(room, offset + done as u64)
                .map_err(io::Error::other)?;
            done += room.len();
            sender.write_all(room)?;
        }
        Ok(())
    }

    /// Chunks of data and of zeros.
    fn read_sparse(
        &self,
        address: Address,
        offset: u64,
        end: u64,
        whole: bool,
        piece_len: usize,
        out: &mut Outgoing,
    ) -> io::Result<()> {
        let stretches = self.zeros_and_data(offset, end);
        let one_data = [Stretch {
            offset,
            len: end - offset,
            kind: false,
        }];
        let stretches = if whole && stretches.len() > 1 {
            &one_data[..]
        } else {
            &stretches
        };
        for stretch in stretches {
            let stretch_end = stretch.offset + stretch.len;
            if stretch.kind {
                let (done, headers) = (done_flag(stretch_end == end), self.transmission.headers);
                let room = out.room(HEADER_LEN_MAX + 12);
                let at = wire::put_chunk(room, headers, done, chunk::OFFSET_HOLE, address, 12);
                room[at..at + 8].copy_from_slice(&stretch.offset.to_be_bytes());
                room[at + 8..at + 12].copy_from_slice(&(stretch.len as u32).to_be_bytes());
                out.commit(at + 12);
            } else if !self.read_data(address, stretch.offset, stretch_end, end, piece_len, out)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Chunks of data from `offset` to `data_end`, the last one marked if the read is done there.
    /// `false`: it failed, the client knows.
    fn read_data(
        &self,
        address: Address,
        offset: u64,
        data_end: u64,
        end: u64,
        piece_len: usize,
        out: &mut Outgoing,
    ) -> io::Result<bool> {
        let mut offset = offset;
        while offset < data_end {
            if out.filled().len() >= COALESCED_LEN_MAX {
                self.send(out)?;
            }
            let len = (data_end - offset).min(piece_len as u64) as usize;
            let data_at = self.transmission.headers.reply_len() + 8;
            let room = out.room(data_at + len);
            if let Err(error) = self.device.read_at(&mut room[data_at..], offset) {
                self.put_error(
                    address,
                    errno(&error),
                    &error.to_string(),
                    Some(offset),
                    out,
                );
                return Ok(false);
            }
            let done = done_flag(offset + len as u64 == end);
            let at = wire::put_chunk(
                room,
                self.transmission.headers,
                done,
                chunk::OFFSET_DATA,
                address,
                8 + len as u64,
            );
            room[at..data_at].copy_from_slice(&offset.to_be_bytes());
            out.commit(data_at + len);
            offset += len as u64;
        }
        Ok(true)
    }

    /// Where zeros are (`true`), gap-free. What is not known is data.
    fn zeros_and_data(&self, offset: u64, end: u64) -> Vec<Stretch<bool>> {
        let known = self
            .device
            .allocation(offset, end - offset, STRETCH_COUNT_MAX)
            .unwrap_or_default();
        let mut stretches: Vec<Stretch<bool>> = Vec::new();
        let mut put = |stretch: Stretch<bool>| match stretches.last_mut() {
            Some(last) if last.kind == stretch.kind => last.len += stretch.len,
            _ => stretches.push(stretch),
        };
        let mut at = offset;
        for zeros in joined(known.iter().map(|one| Stretch {
            offset: one.offset,
            len: one.len,
            kind: one.kind != Allocation::Data,
        })) {
            put(Stretch {
                kind: zeros.kind && zeros.len >= HOLE_LEN_MIN,
                ..zeros
            });
            at = zeros.offset + zeros.len;
        }
        if at < end {
            put(Stretch {
                offset: at,
                len: end - at,
                kind: false,
            });
        }
        stretches
    }

    fn status(&self, address: Address, offset: u64, len: u64, one: bool, out: &mut Outgoing) {
        // All are found before one is told: a failure is the whole reply.
        let told: Result<Vec<Vec<Stretch<u32>>>, DeviceError> = self
            .transmission
            .contexts
            .iter()
            .map(|context| self.stretches(context, offset, len, one))
            .collect();
        let told = match told {
            Ok(told) => told,
            Err(error) => {
                return self.put_error(address, errno(&error), &error.to_string(), None, out);
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

    fn stretches(
        &self,
        context: &Context,
        offset: u64,
        len: u64,
        one: bool,
    ) -> Result<Vec<Stretch<u32>>, DeviceError> {
        // Compact replies have lengths of 32 bits.
        let len = if self.transmission.headers == Headers::Extended {
            len
        } else {
            len.min(u64::from(u32::MAX))
        };
        let found = match context {
            Context::Allocation => {
                let found = self.device.allocation(offset, len, STRETCH_COUNT_MAX)?;
                joined(found.into_iter().map(|one| Stretch {
                    offset: one.offset,
                    len: one.len,
                    kind: allocation_flags(one.kind),
                }))
            }
            Context::Since(snapshot) => {
                let found = self
                    .device
                    .changes(snapshot, offset, len, STRETCH_COUNT_MAX)?;
                joined(found.into_iter().map(|one| Stretch {
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
        address: Address,
        id: u32,
        stretches: &[Stretch<u32>],
        done: u16,
        out: &mut Outgoing,
    ) {
        let mut payload = id.to_be_bytes().to_vec();
        let kind = if self.transmission.headers == Headers::Extended {
            payload.extend((stretches.len() as u32).to_be_bytes());
            stretches.iter().for_each(|one| {
                payload.extend(
                    [one.len, u64::from(one.kind)]
                        .map(u64::to_be_bytes)
                        .concat(),
                )
            });
            chunk::BLOCK_STATUS_EXT
        } else {
            stretches.iter().for_each(|one| {
                payload.extend([one.len as u32, one.kind].map(u32::to_be_bytes).concat())
            });
            chunk::BLOCK_STATUS
        };
        self.put_payload(address, done, kind, &payload, out);
    }

    fn put_done(&self, address: Address, out: &mut Outgoing) {
        if self.transmission.headers == Headers::Extended {
            return self.put_payload(address, CHUNK_DONE, chunk::NONE, &[], out);
        }
        let len = wire::put_simple(out.room(HEADER_LEN_MAX), 0, address.cookie);
        out.commit(len);
    }

    /// Says that a request failed, `at` which byte if that is known.
    fn put_error(
        &self,
        address: Address,
        errno: Errno,
        text: &str,
        at: Option<u64>,
        out: &mut Outgoing,
    ) {
        if self.transmission.headers == Headers::Simple {
            let len = wire::put_simple(out.room(HEADER_LEN_MAX), errno as u32, address.cookie);
            return out.commit(len);
        }
        let text = super::negotiation::clipped(text);
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

    fn put_payload(
        &self,
        address: Address,
        flags: u16,
        kind: u16,
        payload: &[u8],
        out: &mut Outgoing,
    ) {
        let room = out.room(HEADER_LEN_MAX + payload.len());
        let at = wire::put_chunk(
            room,
            self.transmission.headers,
            flags,
            kind,
            address,
            payload.len() as u64,
        );
        room[at..at + payload.len()].copy_from_slice(payload);
        out.commit(at + payload.len());
    }
}

fn done_flag(last: bool) -> u16 {
    if last { CHUNK_DONE } else { 0 }
}

/// Neighbours of one kind become one.
fn joined<K: PartialEq>(stretches: impl Iterator<Item = Stretch<K>>) -> Vec<Stretch<K>> {
    let mut joined: Vec<Stretch<K>> = Vec::new();
    for stretch in stretches {
        match joined.last_mut() {
            Some(last) if last.kind == stretch.kind => last.len += stretch.len,
            _ => joined.push(stretch),
        }
    }
    joined
}

/// Bit 0: nothing is kept for it; bit 1: it reads as zeros.
fn allocation_flags(kind: Allocation) -> u32 {
    match kind {
        Allocation::Data => 0,
        Allocation::Zero => 0b10,
        Allocation::Hole => 0b11,
    }
}

fn errno(error: &DeviceError) -> Errno {
    match error {
        DeviceError::ReadOnly => Errno::Permission,
        DeviceError::OutOfRange => Errno::Invalid,
        DeviceError::NoSpace(_) => Errno::NoSpace,
        DeviceError::Io(_) => Errno::Io,
        DeviceError::Stopping => Errno::Shutdown,
    }
}
