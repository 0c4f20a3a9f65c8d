//! For the tests of the formats: a file that is mostly a hole, and a codec that is none.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use vellum_core::source::{ClusterCodec, ClusterDecoder, ReadAt};

/// A file of any length that is zero but for its start, and counts what is read of it.
pub(super) struct Sparse {
    pub(super) head: Vec<u8>,
    pub(super) len: u64,
    pub(super) read_len: AtomicU64,
}

impl ReadAt for Sparse {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read_len
            .fetch_add(buffer.len() as u64, Ordering::Relaxed);
        buffer.fill(0);
        let head = usize::try_from(offset)
            .ok()
            .and_then(|start| self.head.get(start..));
        for (to, from) in buffer.iter_mut().zip(head.unwrap_or_default()) {
            *to = *from;
        }
        Ok(())
    }
}

/// Decodes by repeating the first byte; a first byte of 0xff is an error.
pub(super) struct RepeatFirst;

impl ClusterDecoder for RepeatFirst {
    fn decode(&self, _: ClusterCodec, input: &[u8], output: &mut [u8]) -> Result<(), String> {
        match input.first() {
            None => Err("nothing to decode".to_owned()),
            Some(0xff) => Err("a bad stream".to_owned()),
            Some(byte) => {
                output.fill(*byte);
                Ok(())
            }
        }
    }
}
