//! Reading: a reply in one piece or in chunks, with what is zero sent as holes. No request is ever
//! whole in memory.

use std::io;
use std::sync::PoisonError;

use vellum_core::device::{AllocationStatus, TypedRange};

use super::buffers::{PIECE_LEN_LARGE, PIECE_LEN_SMALL, ReplyBuffer};
use super::execution::{
    COALESCED_LEN_MAX, Execution, HEADER_LEN_MAX, STRETCH_COUNT_MAX, device_errno, done_flag,
    join_stretches,
};
use super::wire::{self, CHUNK_DONE, Headers, ReplyAddress, chunk};

/// Shorter reads do not ask where zeros are: sending them costs less than asking.
const SPARSE_LEN_MIN: u32 = 64 << 10;
/// Shorter stretches of zeros are sent as data: a chunk of their own would cost more.
const HOLE_LEN_MIN: u64 = 32 << 10;

impl Execution<'_> {
    pub(super) fn read_and_reply(
        &self,
        address: ReplyAddress,
        offset: u64,
        len: u32,
        whole: bool,
        out: &mut ReplyBuffer,
    ) -> io::Result<()> {
        if len as usize <= PIECE_LEN_SMALL {
            return self.read_pieces(address, offset, len, whole, PIECE_LEN_SMALL, out);
        }
        let Some(mut lease) = self.pool.lease_buffer() else {
            return self.read_pieces(address, offset, len, whole, PIECE_LEN_SMALL, out);
        };
        self.read_pieces(address, offset, len, whole, PIECE_LEN_LARGE, &mut lease)?;
        self.send_buffer(&mut lease)
    }

    fn read_pieces(
        &self,
        address: ReplyAddress,
        offset: u64,
        len: u32,
        whole: bool,
        piece_len: usize,
        out: &mut ReplyBuffer,
    ) -> io::Result<()> {
        if self.transmission.headers == Headers::Simple {
            return self.read_simple(address.cookie, offset, len as usize, piece_len, out);
        }
        if whole && len as usize > piece_len {
            return self.read_whole(address, offset, len as usize, piece_len, out);
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
        out: &mut ReplyBuffer,
    ) -> io::Result<()> {
        let first_len = len.min(piece_len);
        let room = out.reserve_room(16 + first_len);
        if let Err(error) = self.device.read_at(&mut room[16..], offset) {
            let address = ReplyAddress { cookie, offset };
            self.put_error(address, device_errno(&error), &error.to_string(), None, out);
            return Ok(());
        }
        wire::put_simple(room, 0, cookie);
        out.commit_len(16 + first_len);
        if first_len == len {
            return Ok(());
        }
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = first_len;
        sender.write_all(out.filled_bytes())?;
        out.clear();
        while done < len {
            let room = out.reserve_room(piece_len.min(len - done));
            self.device
                .read_at(room, offset + done as u64)
                .map_err(io::Error::other)?;
            done += room.len();
            sender.write_all(room)?;
        }
        Ok(())
    }

    /// One chunk of data that is longer than a piece, and then whether it is good: what could not
    /// be read is zeros, and the client is told from where on.
    fn read_whole(
        &self,
        address: ReplyAddress,
        offset: u64,
        len: usize,
        piece_len: usize,
        out: &mut ReplyBuffer,
    ) -> io::Result<()> {
        let headers = self.transmission.headers;
        let data_at = headers.reply_len() + 8;
        let room = out.reserve_room(data_at + piece_len);
        if let Err(error) = self.device.read_at(&mut room[data_at..], offset) {
            let (errno, text) = (device_errno(&error), error.to_string());
            self.put_error(address, errno, &text, Some(offset), out);
            return Ok(());
        }
        let at = wire::put_chunk(
            room,
            headers,
            0,
            chunk::OFFSET_DATA,
            address,
            8 + len as u64,
        );
        room[at..data_at].copy_from_slice(&offset.to_be_bytes());
        out.commit_len(data_at + piece_len);
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        sender.write_all(out.filled_bytes())?;
        out.clear();
        let (mut done, mut failed) = (piece_len, None);
        while done < len {
            let room = out.reserve_room(piece_len.min(len - done));
            let at = offset + done as u64;
            if failed.is_none() {
                failed = self.device.read_at(room, at).err().map(|error| (at, error));
            }
            if failed.is_some() {
                room.fill(0);
            }
            done += room.len();
            sender.write_all(room)?;
        }
        drop(sender);
        match failed {
            None => self.put_payload(address, CHUNK_DONE, chunk::NONE, &[], out),
            Some((at, error)) => {
                self.put_error(
                    address,
                    device_errno(&error),
                    &error.to_string(),
                    Some(at),
                    out,
                );
            }
        }
        Ok(())
    }

    /// Chunks of data and of zeros.
    fn read_sparse(
        &self,
        address: ReplyAddress,
        offset: u64,
        end: u64,
        whole: bool,
        piece_len: usize,
        out: &mut ReplyBuffer,
    ) -> io::Result<()> {
        let stretches = self.zeros_and_data(offset, end);
        let one_data = [TypedRange {
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
                let room = out.reserve_room(HEADER_LEN_MAX + 12);
                let at = wire::put_chunk(room, headers, done, chunk::OFFSET_HOLE, address, 12);
                room[at..at + 8].copy_from_slice(&stretch.offset.to_be_bytes());
                room[at + 8..at + 12].copy_from_slice(&(stretch.len as u32).to_be_bytes());
                out.commit_len(at + 12);
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
        address: ReplyAddress,
        offset: u64,
        data_end: u64,
        end: u64,
        piece_len: usize,
        out: &mut ReplyBuffer,
    ) -> io::Result<bool> {
        let mut offset = offset;
        while offset < data_end {
            if out.filled_bytes().len() >= COALESCED_LEN_MAX {
                self.send_buffer(out)?;
            }
            let len = (data_end - offset).min(piece_len as u64) as usize;
            let data_at = self.transmission.headers.reply_len() + 8;
            let room = out.reserve_room(data_at + len);
            if let Err(error) = self.device.read_at(&mut room[data_at..], offset) {
                self.put_error(
                    address,
                    device_errno(&error),
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
            out.commit_len(data_at + len);
            offset += len as u64;
        }
        Ok(true)
    }

    /// Stretches of zeros (`true`) and of data, gap-free. Unknown stretches count as data.
    fn zeros_and_data(&self, offset: u64, end: u64) -> Vec<TypedRange<bool>> {
        let known = self
            .device
            .allocation(offset, end - offset, STRETCH_COUNT_MAX)
            .unwrap_or_default();
        let mut stretches: Vec<TypedRange<bool>> = Vec::new();
        let mut put = |stretch: TypedRange<bool>| match stretches.last_mut() {
            Some(last) if last.kind == stretch.kind => last.len += stretch.len,
            _ => stretches.push(stretch),
        };
        let mut at = offset;
        for zeros in join_stretches(known.iter().map(|one| TypedRange {
            offset: one.offset,
            len: one.len,
            kind: one.kind != AllocationStatus::Data,
        })) {
            put(TypedRange {
                kind: zeros.kind && zeros.len >= HOLE_LEN_MIN,
                ..zeros
            });
            at = zeros.offset + zeros.len;
        }
        if at < end {
            put(TypedRange {
                offset: at,
                len: end - at,
                kind: false,
            });
        }
        stretches
    }
}
