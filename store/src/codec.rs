//! Compression: zstd, LZ4 and deflate, named in this file only.
//!
//! Decoding always goes into a buffer whose length is known beforehand and must fill it exactly, so
//! no stream can ask for memory.

use std::cell::RefCell;
use std::io::Write;

use libdeflater::{DecompressionError, Decompressor};
use vellum_core::frame::FrameCodec;
use vellum_core::source::{ClusterCodec, ClusterDecoder};
use vellum_formats::write::ClusterEncoder;

use crate::records::Compression;

thread_local! {
    /// Contexts are large (a few MiB) and slow to make: one a thread.
    static COMPRESSOR: RefCell<Option<(i32, zstd::bulk::Compressor<'static>)>> =
        const { RefCell::new(None) };
    static INFLATER: RefCell<Decompressor> = RefCell::new(Decompressor::new());
    static PATIENT_INFLATER: RefCell<flate2::Decompress> =
        RefCell::new(flate2::Decompress::new(false));
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> =
        const { RefCell::new(None) };
}

/// `plain` compressed, and the codec to undo it with: none if nothing is gained.
#[must_use]
pub fn compress_frame(compression: Compression, plain: &[u8]) -> (FrameCodec, Vec<u8>) {
    let (codec, compressed) = match compression {
        Compression::None => return (FrameCodec::None, plain.to_vec()),
        Compression::Lz4 => (FrameCodec::Lz4, lz4_flex::block::compress(plain)),
        Compression::Zstd(level) => (FrameCodec::Zstd, compress_zstd(level.into(), plain)),
    };
    if compressed.len() < plain.len() {
        (codec, compressed)
    } else {
        (FrameCodec::None, plain.to_vec())
    }
}

fn compress_zstd(level: i32, plain: &[u8]) -> Vec<u8> {
    COMPRESSOR.with_borrow_mut(|slot| {
        let fits = slot.as_ref().is_some_and(|(current, _)| *current == level);
        if !fits {
            *slot = Some((
                level,
                zstd::bulk::Compressor::new(level)
                    .expect("the level was checked when the store was made"),
            ));
        }
        let (_, compressor) = slot.as_mut().expect("just put there");
        compressor
            .compress(plain)
            .expect("zstd compresses any bytes into a buffer of its own bound")
    })
}

/// Undoes [`compress_frame`] into exactly `plain_len` bytes, or says why it cannot.
pub fn decompress_frame(
    codec: FrameCodec,
    compressed: &[u8],
    plain_len: usize,
) -> Result<Vec<u8>, String> {
    let plain = match codec {
        FrameCodec::None => compressed.to_vec(),
        FrameCodec::Lz4 => {
            lz4_flex::block::decompress(compressed, plain_len).map_err(|error| error.to_string())?
        }
        FrameCodec::Zstd => decompress_zstd(compressed, plain_len)?,
    };
    if plain.len() == plain_len {
        Ok(plain)
    } else {
        Err(format!("{} bytes instead of {plain_len}", plain.len()))
    }
}

fn decompress_zstd(compressed: &[u8], plain_len: usize) -> Result<Vec<u8>, String> {
    with_decompressor(|decompressor| {
        let mut plain = Vec::with_capacity(plain_len);
        decompressor
            .decompress_to_buffer(compressed, &mut plain)
            .map_err(|error| error.to_string())?;
        Ok(plain)
    })
}

/// Lends this thread's context.
fn with_decompressor<T>(
    work: impl FnOnce(&mut zstd::bulk::Decompressor<'static>) -> Result<T, String>,
) -> Result<T, String> {
    DECOMPRESSOR.with_borrow_mut(|slot| {
        let decompressor = match slot {
            Some(decompressor) => decompressor,
            None => {
                slot.insert(zstd::bulk::Decompressor::new().map_err(|error| error.to_string())?)
            }
        };
        work(decompressor)
    })
}

/// Level of deflate in image files that are written: zlib's usual level makes files a sixth shorter
/// and takes six times as long.
const DEFLATE_LEVEL: u32 = 1;
/// Level of zstd in image files that are written: zstd's own default.
const CLUSTER_ZSTD_LEVEL: i32 = 3;

/// Decodes and encodes the compressed clusters of foreign image formats.
#[derive(Clone, Copy, Debug)]
pub struct ClusterCodecs;

impl ClusterDecoder for ClusterCodecs {
    fn decode_cluster(
        &self,
        codec: ClusterCodec,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), String> {
        match codec {
            ClusterCodec::Deflate => inflate_raw(input, output),
            ClusterCodec::Zstd => {
                let len = zstd::zstd_safe::find_frame_compressed_size(input)
                    .map_err(|code| zstd::zstd_safe::get_error_name(code).to_owned())?;
                let frame = input.get(..len).ok_or("the frame was cut off")?;
                with_decompressor(|decompressor| {
                    let len = decompressor.decompress_to_buffer(frame, output);
                    expect_len(len.map_err(|error| error.to_string())?, output.len())
                })
            }
        }
    }
}

/// Undoes raw deflate. What follows the stream in `input` is passed over; so is what the stream
/// gives beyond `output`, as qemu and zlib's other users do.
fn inflate_raw(input: &[u8], output: &mut [u8]) -> Result<(), String> {
    let done = INFLATER.with_borrow_mut(|inflater| inflater.deflate_decompress(input, output));
    match done {
        Ok(len) => expect_len(len, output.len()),
        // It stops before the buffer is full.
        Err(DecompressionError::InsufficientSpace) => inflate_beginning(input, output),
        Err(DecompressionError::BadData) => Err("it is no deflate stream".to_owned()),
    }
}

/// Undoes the beginning of raw deflate that gives more than `output`, with the slower decoder.
fn inflate_beginning(input: &[u8], output: &mut [u8]) -> Result<(), String> {
    PATIENT_INFLATER.with_borrow_mut(|inflater| {
        inflater.reset(false);
        let done = inflater.decompress(input, output, flate2::FlushDecompress::Finish);
        done.map_err(|error| error.to_string())?;
        expect_len(inflater.total_out() as usize, output.len())
    })
}

fn expect_len(len: usize, expected: usize) -> Result<(), String> {
    if len == expected {
        Ok(())
    } else {
        Err(format!("{len} bytes instead of {expected}"))
    }
}

/// The bytes are the same on every machine: neither encoder looks at the processor.
impl ClusterEncoder for ClusterCodecs {
    fn encode_cluster(&self, codec: ClusterCodec, plain: &[u8]) -> Result<Vec<u8>, String> {
        match codec {
            ClusterCodec::Deflate => {
                let level = flate2::Compression::new(DEFLATE_LEVEL);
                let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), level);
                let done = encoder.write_all(plain).and_then(|()| encoder.finish());
                done.map_err(|error| error.to_string())
            }
            ClusterCodec::Zstd => Ok(compress_zstd(CLUSTER_ZSTD_LEVEL, plain)),
        }
    }
}

#[cfg(test)]
mod tests {
    use vellum_core::hash::ChunkHash;

    use super::*;

    /// Half noise and half text, the same for ever.
    fn cluster() -> Vec<u8> {
        let mut plain = vec![0; 65536];
        fastrand::Rng::with_seed(3).fill(&mut plain[..30000]);
        for (at, byte) in plain.iter_mut().enumerate().skip(30000) {
            *byte = b"a disk image "[at % 13] ^ (at >> 12) as u8;
        }
        plain
    }

    #[test]
    fn every_cluster_codec_undoes_itself() {
        let plain = cluster();
        for codec in [ClusterCodec::Deflate, ClusterCodec::Zstd] {
            let packed = ClusterCodecs
                .encode_cluster(codec, &plain)
                .expect("encoded");
            assert!(packed.len() < plain.len(), "{codec:?}");
            let mut again = vec![0; plain.len()];
            ClusterCodecs
                .decode_cluster(codec, &packed, &mut again)
                .expect("decoded");
            assert!(again == plain, "{codec:?}");
            let cut = &packed[..packed.len() / 2];
            assert!(
                ClusterCodecs
                    .decode_cluster(codec, cut, &mut again)
                    .is_err(),
                "{codec:?}"
            );
        }
    }

    /// qemu pads clusters to sectors, and some writers give more than a cluster.
    #[test]
    fn what_lies_behind_a_cluster_is_passed_over() {
        let plain = cluster();
        let packed = ClusterCodecs.encode_cluster(ClusterCodec::Deflate, &plain);
        let padded = [packed.expect("encoded"), vec![0xa5; 511]].concat();
        for len in [plain.len(), plain.len() - 1, 512] {
            let mut begin = vec![0; len];
            ClusterCodecs
                .decode_cluster(ClusterCodec::Deflate, &padded, &mut begin)
                .expect("decoded");
            assert!(begin == plain[..len], "{len}");
        }
        let mut longer = vec![0; plain.len() + 1];
        let decoded = ClusterCodecs.decode_cluster(ClusterCodec::Deflate, &padded, &mut longer);
        assert!(decoded.is_err(), "it is not filled");
    }

    /// Files are the same on every machine and with every build: another backend of flate2, which
    /// some dependency may switch on for all, would write other bytes.
    #[test]
    fn clusters_have_the_bytes_that_they_always_had() {
        let named = |codec| {
            let packed = ClusterCodecs
                .encode_cluster(codec, &cluster())
                .expect("encoded");
            ChunkHash::of_chunk(&packed).to_string()
        };
        assert_eq!(
            named(ClusterCodec::Deflate),
            "dfda39ebf34310d6c8d41e8125b96aefd2c1768b2da0bf1b69cc9966a8e0c415"
        );
        assert_eq!(
            named(ClusterCodec::Zstd),
            "e07de1292c31428c24bc6583492272082618c911d563a12964d3446f1472d35b"
        );
    }

    #[test]
    fn every_codec_undoes_itself_and_refuses_another_length() {
        let mut plain = vec![7; 65536];
        fastrand::Rng::with_seed(1).fill(&mut plain[..30000]);
        for compression in [
            Compression::None,
            Compression::Lz4,
            Compression::Zstd(1),
            Compression::Zstd(19),
        ] {
            let (codec, compressed) = compress_frame(compression, &plain);
            assert_eq!(
                decompress_frame(codec, &compressed, plain.len()).as_ref(),
                Ok(&plain),
                "{compression:?}"
            );
            assert!(
                decompress_frame(codec, &compressed, plain.len() - 1).is_err(),
                "{compression:?}"
            );
            assert!(
                decompress_frame(codec, &compressed, plain.len() + 1).is_err(),
                "{compression:?}"
            );
        }
    }

    #[test]
    fn what_does_not_shrink_is_kept_plain() {
        let mut noise = vec![0; 4096];
        fastrand::Rng::with_seed(2).fill(&mut noise);
        assert_eq!(
            compress_frame(Compression::Zstd(3), &noise),
            (FrameCodec::None, noise)
        );
    }
}
