//! For the tests of the formats: a file that is mostly a hole, a disk of stretches, and a codec
//! that is none.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::write::ClusterEncoder;
use vellum_core::source::{
    ClusterCodec, ClusterDecoder, Extent, ExtentKind, ImageSource, ReadAt, SourceError,
};

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
    fn decode_cluster(
        &self,
        _: ClusterCodec,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), String> {
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

/// A disk of stretches, each of one kind; data is different in every disk and at every byte, and
/// never zero.
pub(super) struct Patchwork {
    /// The end of each stretch.
    stretches: Vec<(u64, ExtentKind)>,
    seed: u64,
}

impl Patchwork {
    pub(super) fn new(stretches: &[(u64, ExtentKind)]) -> Self {
        let mut end = 0;
        let ends = stretches.iter().map(|(len, kind)| {
            end += len;
            (end, *kind)
        });
        Self {
            stretches: ends.collect(),
            seed: stretches.len() as u64,
        }
    }
}

impl ImageSource for Patchwork {
    fn len(&self) -> u64 {
        self.stretches.last().map_or(0, |(end, _)| *end)
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, SourceError> {
        let found = self.stretches.iter().find(|(end, _)| *end > offset);
        let (end, kind) = *found.expect("the offset is inside the disk");
        Ok(Extent {
            start: offset,
            len: end - offset,
            kind,
        })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), SourceError> {
        for (at, byte) in (offset..).zip(buffer) {
            *byte = match self.extent_at(at)?.kind {
                ExtentKind::Data => ((at * 31 + self.seed * 7) % 255) as u8 + 1,
                _ => 0,
            };
        }
        Ok(())
    }
}

/// The codecs as they are, for what is written and read again.
pub(super) struct RealCodecs;

impl ClusterEncoder for RealCodecs {
    fn encode_cluster(&self, codec: ClusterCodec, plain: &[u8]) -> Result<Vec<u8>, String> {
        let done = match codec {
            ClusterCodec::Deflate => {
                let mut encoder =
                    flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(1));
                encoder.write_all(plain).and_then(|()| encoder.finish())
            }
            ClusterCodec::Zstd => zstd::bulk::compress(plain, 1),
        };
        done.map_err(|error| error.to_string())
    }
}

impl ClusterDecoder for RealCodecs {
    fn decode_cluster(
        &self,
        codec: ClusterCodec,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), String> {
        let done = match codec {
            ClusterCodec::Deflate => flate2::read::DeflateDecoder::new(input).read_exact(output),
            ClusterCodec::Zstd => zstd::stream::read::Decoder::new(input)
                .and_then(|mut decoder| decoder.read_exact(output)),
        };
        done.map_err(|error| error.to_string())
    }
}
