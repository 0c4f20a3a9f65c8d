//! Requests of a guest, done on a device. It knows no guest memory: a request is a reader of what
//! the guest wrote, and a writer of what it is to read.
//!
//! A write is answered after the device has taken it, and a flush asks the device after that: so
//! what was answered before a flush is durable when the flush is answered. Where the guest has
//! switched writeback off, each write is flushed before it is answered.

use std::fmt;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vellum_core::device::{Device, DeviceError};

use super::wire::{
    self, BlockOperation, BlockStatus, DiskConfig, HEADER_LEN, SEGMENT_LEN, SEGMENTS_MAX,
    SERIAL_LEN, feature,
};
use crate::change_board::ChangeBoard;
use crate::nbd::Report;
use crate::peer::Peer;
use crate::writers::WriteRight;

/// Bytes that are moved at once.
pub(super) const PIECE_LEN: usize = 256 << 10;
/// Failures of one guest that are told one by one: it repeats what fails, for ever.
const FAILURES_MAX: u64 = 100;

/// A device as one guest sees it.
pub(super) struct DiskTarget {
    device: Arc<dyn Device>,
    /// None: everybody may write.
    right: Option<WriteRight>,
    board: Arc<ChangeBoard>,
    is_read_only: bool,
    is_writeback: AtomicBool,
    serial: [u8; SERIAL_LEN],
    failures: AtomicU64,
    report: Option<Report>,
    name: String,
}

/// The parts of a device that a guest's request is done with.
pub(super) struct TargetParts {
    pub(super) name: String,
    pub(super) device: Arc<dyn Device>,
    pub(super) right: Option<WriteRight>,
    pub(super) board: Arc<ChangeBoard>,
    pub(super) is_read_only: bool,
    pub(super) report: Option<Report>,
}

/// The reason why a request failed.
#[derive(Debug)]
enum RequestFault {
    /// The guest asks for something that no request may.
    Malformed,
    /// The guest's memory is not where it says.
    Memory(io::Error),
    Device(DeviceError),
    /// Another client writes to the disk.
    Held(Peer),
    Unsupported,
}

impl DiskTarget {
    pub(super) fn new(parts: TargetParts) -> Self {
        Self {
            serial: serial_of(&parts.name),
            device: parts.device,
            right: parts.right,
            board: parts.board,
            is_read_only: parts.is_read_only,
            is_writeback: AtomicBool::new(true),
            failures: AtomicU64::new(0),
            report: parts.report,
            name: parts.name,
        }
    }

    /// The features of the device itself.
    pub(super) fn features(&self) -> u64 {
        let usual = feature::SEG_MAX
            | feature::BLK_SIZE
            | feature::TOPOLOGY
            | feature::FLUSH
            | feature::CONFIG_WCE
            | feature::MULTI_QUEUE;
        if self.is_read_only {
            usual | feature::READ_ONLY
        } else {
            usual | feature::DISCARD | feature::WRITE_ZEROES
        }
    }

    pub(super) fn config(&self) -> DiskConfig {
        DiskConfig {
            len: self.device.len(),
            preferred_len: self.device.preferred_len(),
            is_writeback: self.is_writeback.load(Ordering::Relaxed),
        }
    }

    pub(super) fn set_writeback(&self, is_writeback: bool) {
        self.is_writeback.store(is_writeback, Ordering::Relaxed);
    }

    /// The guest was switched off, or has let go of the disk.
    pub(super) fn note_left(&self) {
        self.device.guest_left();
    }

    /// Does the request that `written` holds: its header, and `written_len` bytes in all. The bytes
    /// that the guest reads go to `answer`, which has room for `answer_len`. `buffer` is of
    /// [`PIECE_LEN`].
    pub(super) fn run_request(
        &self,
        written: &mut impl Read,
        written_len: usize,
        answer: &mut impl Write,
        answer_len: usize,
        buffer: &mut [u8],
    ) -> BlockStatus {
        match self.try_request(written, written_len, answer, answer_len, buffer) {
            Ok(()) => BlockStatus::Done,
            Err(RequestFault::Unsupported) => BlockStatus::Unsupported,
            Err(fault) => {
                self.report_failure(&fault);
                BlockStatus::Failed
            }
        }
    }

    fn try_request(
        &self,
        written: &mut impl Read,
        written_len: usize,
        answer: &mut impl Write,
        answer_len: usize,
        buffer: &mut [u8],
    ) -> Result<(), RequestFault> {
        let mut header = [0; HEADER_LEN];
        written
            .read_exact(&mut header)
            .map_err(RequestFault::Memory)?;
        let data_len = written_len.saturating_sub(HEADER_LEN);
        match BlockOperation::parse_header(header) {
            BlockOperation::Read(offset) => self.read_range(offset, answer_len, answer, buffer),
            BlockOperation::Write(offset) => self.write_range(offset, data_len, written, buffer),
            BlockOperation::Flush => self.flush(),
            BlockOperation::Identify => self.identify(answer, answer_len),
            BlockOperation::Discard => self.zero_segments(written, data_len, false),
            BlockOperation::WriteZeroes => self.zero_segments(written, data_len, true),
            BlockOperation::Unknown => Err(RequestFault::Unsupported),
        }
    }

    fn read_range(
        &self,
        offset: u64,
        len: usize,
        answer: &mut impl Write,
        buffer: &mut [u8],
    ) -> Result<(), RequestFault> {
        let range = self.device.checked_range(offset, len as u64)?;
        for piece in pieces(range) {
            let bytes = &mut buffer[..piece.1];
            self.device.read_at(bytes, piece.0)?;
            answer.write_all(bytes).map_err(RequestFault::Memory)?;
        }
        Ok(())
    }

    fn write_range(
        &self,
        offset: u64,
        len: usize,
        written: &mut impl Read,
        buffer: &mut [u8],
    ) -> Result<(), RequestFault> {
        let range = self.device.checked_range(offset, len as u64)?;
        for piece in pieces(range) {
            let bytes = &mut buffer[..piece.1];
            written.read_exact(bytes).map_err(RequestFault::Memory)?;
            self.change_range(piece.0, piece.1 as u64, || {
                self.device.write_at(bytes, piece.0)
            })?;
        }
        self.finish_write()
    }

    /// Makes all segments zero, or, if one is not sound, none of them.
    fn zero_segments(
        &self,
        written: &mut impl Read,
        len: usize,
        may_unmap: bool,
    ) -> Result<(), RequestFault> {
        if len > SEGMENT_LEN * SEGMENTS_MAX as usize {
            return Err(RequestFault::Malformed);
        }
        let mut bytes = vec![0; len];
        written
            .read_exact(&mut bytes)
            .map_err(RequestFault::Memory)?;
        let segments = wire::parse_segments(&bytes, may_unmap).map_err(|status| match status {
            BlockStatus::Unsupported => RequestFault::Unsupported,
            _ => RequestFault::Malformed,
        })?;
        for segment in &segments {
            let len = segment.end - segment.start;
            self.device.checked_range(segment.start, len)?;
        }
        for segment in segments {
            let len = segment.end - segment.start;
            self.change_range(segment.start, len, || {
                self.device.write_zeroes(segment.start, len)
            })?;
        }
        self.finish_write()
    }

    fn change_range(
        &self,
        offset: u64,
        len: u64,
        act: impl FnOnce() -> Result<(), DeviceError>,
    ) -> Result<(), RequestFault> {
        if self.is_read_only {
            return Err(DeviceError::ReadOnly.into());
        }
        let done = match &self.right {
            None => act(),
            Some(right) => right.write_exclusively(act).map_err(RequestFault::Held)?,
        };
        // Also where it failed: a part of it may be there.
        self.board.note_write(&*self.device, offset, len);
        Ok(done?)
    }

    fn finish_write(&self) -> Result<(), RequestFault> {
        if self.is_writeback.load(Ordering::Relaxed) {
            Ok(())
        } else {
            self.flush()
        }
    }

    fn flush(&self) -> Result<(), RequestFault> {
        if self.is_read_only {
            return Ok(());
        }
        Ok(self.device.flush()?)
    }

    fn identify(&self, answer: &mut impl Write, len: usize) -> Result<(), RequestFault> {
        let serial = &self.serial[..len.min(SERIAL_LEN)];
        answer.write_all(serial).map_err(RequestFault::Memory)
    }

    /// Says that a queue cannot be used.
    pub(super) fn report_fault(&self, fault: &dyn fmt::Display) {
        if let Some(report) = &self.report {
            report(&format!("{}: {fault}", self.name));
        }
    }

    fn report_failure(&self, fault: &RequestFault) {
        if let Some(report) = &self.report
            && self.failures.fetch_add(1, Ordering::Relaxed) < FAILURES_MAX
        {
            report(&format!("{}: a guest's request failed: {fault}", self.name));
        }
    }
}

/// The pieces of a range: offset and length.
fn pieces(range: Range<u64>) -> impl Iterator<Item = (u64, usize)> {
    let end = range.end;
    range.step_by(PIECE_LEN).map(move |start| {
        let len = (end - start).min(PIECE_LEN as u64) as usize;
        (start, len)
    })
}

/// A name as a serial number: its first bytes, if they are plain text, which a guest's
/// `/dev/disk/by-id` shows.
fn serial_of(name: &str) -> [u8; SERIAL_LEN] {
    let mut serial = [0; SERIAL_LEN];
    let plain = name.bytes().map(|byte| {
        let is_plain = byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
        if is_plain { byte } else { b'_' }
    });
    serial
        .iter_mut()
        .zip(plain)
        .for_each(|(to, byte)| *to = byte);
    serial
}

impl From<DeviceError> for RequestFault {
    fn from(error: DeviceError) -> Self {
        Self::Device(error)
    }
}

impl fmt::Display for RequestFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => write!(out, "it is malformed"),
            Self::Memory(error) => write!(out, "its memory: {error}"),
            Self::Device(error) => write!(out, "{error}"),
            Self::Held(peer) => write!(out, "{peer} writes to it, and only one client does"),
            Self::Unsupported => write!(out, "it is not known"),
        }
    }
}
