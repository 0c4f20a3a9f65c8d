//! Codecs for these tests, both ways.

use std::io::{Read, Write};

use vellum_core::source::{ClusterCodec, ClusterDecoder};
use vellum_formats::write::ClusterEncoder;

/// The codecs that compressed clusters need, both ways.
pub(crate) struct Codecs;

impl ClusterDecoder for Codecs {
    fn decode_cluster(
        &self,
        codec: ClusterCodec,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), String> {
        match codec {
            ClusterCodec::Deflate => flate2::read::DeflateDecoder::new(input)
                .read_exact(output)
                .map_err(|error| error.to_string()),
            ClusterCodec::Zstd => zstd::stream::read::Decoder::new(input)
                .and_then(|mut decoder| decoder.read_exact(output))
                .map_err(|error| error.to_string()),
        }
    }
}

impl ClusterEncoder for Codecs {
    fn encode_cluster(&self, codec: ClusterCodec, plain: &[u8]) -> Result<Vec<u8>, String> {
        let done = match codec {
            ClusterCodec::Deflate => {
                let level = flate2::Compression::new(1);
                let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), level);
                encoder.write_all(plain).and_then(|()| encoder.finish())
            }
            ClusterCodec::Zstd => zstd::bulk::compress(plain, 1),
        };
        done.map_err(|error| error.to_string())
    }
}
