//! Waiting for bytes without being deaf: a read that blocks cannot see that the person wants to stop, so another thread does it.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use crate::signals::Signals;

/// What one read takes: as much as a pipe holds.
const BLOCK_LEN: usize = 64 << 10;
/// Blocks that may wait: enough that neither side waits for the other's every step.
const BLOCKS_AHEAD: usize = 16;
/// How long a person waits for an answer to Ctrl-C at most.
const PATIENCE: Duration = Duration::from_millis(100);

/// A reader whose reads end when the person wants to stop.
pub(crate) struct Pump {
    blocks: Receiver<io::Result<Vec<u8>>>,
    block: Vec<u8>,
    /// How much of the block has been given.
    at: usize,
    ended: bool,
    signals: Signals,
}

impl Pump {
    /// Starts to read what `open` opens. Opening a pipe may block as well, so that is done over there too.
    pub(crate) fn start<R: Read>(open: impl FnOnce() -> io::Result<R> + Send + 'static, signals: Signals) -> Self {
        let (sender, blocks) = sync_channel(BLOCKS_AHEAD);
        // It ends at the source's end, with the receiver, or with the process.
        thread::spawn(move || match open() {
            Ok(reader) => pump(reader, &sender),
            Err(error) => drop(sender.send(Err(error))),
        });
        Self { blocks, block: Vec::new(), at: 0, ended: false, signals }
    }

    /// Waits for the next block; an empty one is the end.
    fn next_block(&mut self) -> io::Result<()> {
        loop {
            match self.blocks.recv_timeout(PATIENCE) {
                Ok(block) => {
                    (self.block, self.at) = (block?, 0);
                    self.ended = self.block.is_empty();
                    return Ok(());
                }
                Err(RecvTimeoutError::Timeout) if self.signals.is_stopped() => return Err(io::Error::other("interrupted")),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("the reading thread is gone")),
            }
        }
    }
}

impl Read for Pump {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.block.len() && !self.ended {
            self.next_block()?;
        }
        let len = (&self.block[self.at..]).read(buffer)?;
        self.at += len;
        Ok(len)
    }
}

/// Reads to the end, an error, or until nobody wants more.
fn pump(mut reader: impl Read, sender: &SyncSender<io::Result<Vec<u8>>>) {
    loop {
        let mut block = vec![0; BLOCK_LEN];
        let read = match reader.read(&mut block) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read,
        };
        let last = !matches!(read, Ok(len) if len > 0);
        let read = read.map(|len| {
            block.truncate(len);
            block
        });
        if sender.send(read).is_err() || last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_come_in_order_and_the_end_stays_the_end() {
        let bytes: Vec<u8> = (0..3 * BLOCK_LEN + 7).map(|nth| (nth % 251) as u8).collect();
        let source = bytes.clone();
        let mut pump = Pump::start(move || Ok(io::Cursor::new(source)), Signals::default());
        let mut out = Vec::new();
        pump.read_to_end(&mut out).expect("memory reads");
        assert!(out == bytes);
        assert_eq!(pump.read(&mut [0; 4]).expect("the end again"), 0);
    }

    #[test]
    fn an_error_of_opening_or_reading_arrives() {
        let fail = || -> io::Result<io::Empty> { Err(io::ErrorKind::NotFound.into()) };
        let error = Pump::start(fail, Signals::default()).read(&mut [0; 4]).expect_err("it does not open");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
