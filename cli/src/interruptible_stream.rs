//! Interruptible streams: a blocked read or write cannot see that the person wants to stop, so none
//! is begun before the stream is ready.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vellum_store::StoreError;

use crate::signals::Signals;

/// The longest time that a person waits for an answer to Ctrl-C.
pub(crate) const PATIENCE: Duration = Duration::from_millis(100);
/// A pipe that is ready takes this much without blocking (`PIPE_BUF`); other streams that can block
/// do too.
const READY_LEN: usize = 4096;

/// A stream whose reads and writes end when the person wants to stop.
#[derive(Clone, Debug)]
pub(crate) struct InterruptibleStream<S> {
    stream: S,
    /// True if writing can block, as into a pipe, but not into a file.
    can_block: bool,
    signals: Signals,
}

impl<S: AsFd> InterruptibleStream<S> {
    pub(crate) fn new(stream: S, signals: Signals) -> Self {
        let kind = rustix::fs::fstat(&stream)
            .map(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode));
        Self {
            stream,
            can_block: !kind.is_ok_and(|kind| kind.is_file() || kind.is_block_device()),
            signals,
        }
    }

    /// Returns once the stream is ready for `wanted`, at its end, or broken.
    fn await_ready(&self, wanted: PollFlags) -> io::Result<()> {
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: PATIENCE.subsec_nanos().into(),
        };
        loop {
            match poll(&mut [PollFd::new(&self.stream, wanted)], Some(&timeout)) {
                Ok(0) if self.signals.is_stopped() => {
                    return Err(io::Error::other(StoreError::Interrupted));
                }
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl InterruptibleStream<Arc<File>> {
    pub(crate) fn file(&self) -> &Arc<File> {
        &self.stream
    }
}

impl<S: Read + AsFd> Read for InterruptibleStream<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.await_ready(PollFlags::IN)?;
            match self.stream.read(buffer) {
                // Somebody else was faster.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }
}

impl<S: Write + AsFd> Write for InterruptibleStream<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.can_block {
            return self.stream.write(bytes);
        }
        loop {
            self.await_ready(PollFlags::OUT)?;
            match self.stream.write(&bytes[..bytes.len().min(READY_LEN)]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_pass_and_the_end_stays_the_end() {
        let bytes: Vec<u8> = (0..300_007_u32).map(|nth| (nth % 251) as u8).collect();
        let (reader, writer) = io::pipe().expect("a pipe");
        let source = bytes.clone();
        let writing = std::thread::spawn(move || {
            InterruptibleStream::new(writer, Signals::default()).write_all(&source)
        });
        let mut reader = InterruptibleStream::new(reader, Signals::default());
        let mut out = Vec::new();
        reader.read_to_end(&mut out).expect("a pipe reads");
        writing
            .join()
            .expect("it does not panic")
            .expect("a pipe takes bytes");
        assert!(out == bytes);
        assert_eq!(reader.read(&mut [0; 4]).expect("the end again"), 0);
    }

    #[test]
    fn waiting_ends_when_the_person_has_had_enough() {
        let signals = Signals::default();
        let (reader, writer) = io::pipe().expect("a pipe");
        let (mut reader, mut writer) = (
            InterruptibleStream::new(reader, signals.clone()),
            InterruptibleStream::new(writer, signals.clone()),
        );
        signals.record_signal(2);
        reader.read(&mut [0; 4]).expect_err("nothing comes");
        let stuck = writer
            .write_all(&vec![0; 1 << 20])
            .expect_err("nobody reads");
        assert!(
            stuck
                .get_ref()
                .is_some_and(<dyn std::error::Error + Send + Sync>::is::<StoreError>),
            "{stuck:?}"
        );
        // Bytes that are ready are still taken: a command that was stopped can say so.
        assert_eq!(reader.read(&mut [0; 4]).expect("it was written"), 4);
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_an_error() {
        let (reader, writer) = io::pipe().expect("a pipe");
        drop(reader);
        let error = InterruptibleStream::new(writer, Signals::default())
            .write(b"x")
            .expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
