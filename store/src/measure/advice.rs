//! Advises the parameters for a new store, from a measurement, with the reasons.

use super::{LengthReport, SettingReport};
use crate::records::{Compression, StoreParameters};

/// Share that another chunk length than the usual must save: later imports share most in short
/// chunks.
const OTHER_CHUNK_GAIN: f64 = 0.02;
/// Share that each doubling of the usual frame must save: a chunk that is read alone has its whole
/// frame decoded.
const LONGER_FRAME_GAIN: f64 = 0.04;
/// Share that a higher level than the usual must save: it takes several times as long.
const HIGHER_LEVEL_GAIN: f64 = 0.08;
/// Share that a lower level, or LZ4, may cost more: where little compresses, little is lost.
const LOWER_LEVEL_LOSS: f64 = 0.02;

/// Advised parameters for a store.
#[derive(Clone, Debug, PartialEq)]
pub struct Advice {
    /// The parameters.
    pub parameters: StoreParameters,
    /// Bytes that the inputs would take in it, about.
    pub on_disk: u64,
    /// The reasons, in the order of the parameters: chunk, frame, compression.
    pub reasons: [AdviceReason; 3],
}

/// Reason for a parameter. Shares are of the whole store: 0.1 is ten percent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AdviceReason {
    /// No other value was measured.
    OnlyOne,
    /// It takes least; the second best takes `more`.
    Least {
        /// The share.
        more: f64,
    },
    /// It takes hardly `more` than the best, and is cheaper to use.
    NearlyLeast {
        /// The share.
        more: f64,
    },
    /// It is the usual, and no other saves more than `gain`, which is too little for what it costs.
    Usual {
        /// The share; zero or less if the usual is best.
        gain: f64,
    },
    /// It saves `gain` of what the usual takes.
    Saves {
        /// The share.
        gain: f64,
    },
}

/// The advice, from chunk lengths at the usual frames and compression, and ways of compressing at
/// the shortest.
pub(super) fn advise_parameters(
    lengths: &[LengthReport],
    settings: &[SettingReport],
) -> Option<Advice> {
    let possible: Vec<&LengthReport> = lengths
        .iter()
        .filter(|length| length.is_possible && length.unique.value > 0)
        .collect();
    let usual = StoreParameters::DEFAULT;
    // Chunks longer than the usual frame compress better because their frames are longer, which
    // shorter chunks can have as well.
    let alike: Vec<&LengthReport> = possible
        .iter()
        .copied()
        .filter(|length| length.frame_len == u64::from(usual.frame_len))
        .collect();
    let (length, chunk_reason) = choose_length(if alike.is_empty() { &possible } else { &alike })?;
    let mut parameters = StoreParameters {
        chunk_len: length.chunk_len_parameter()?,
        frame_len: u32::try_from(length.frame_len).ok()?,
        compression: usual.compression,
    };
    // Trials at one chunk length say little of another.
    let tried: Vec<&SettingReport> = settings
        .iter()
        .filter(|setting| setting.chunk_len == length.chunk_len)
        .collect();
    let frames: Vec<(u64, u64)> = tried
        .iter()
        .filter(|way| way.compression == usual.compression)
        .map(|way| (way.frame_len, way.compressed.value + way.metadata.value))
        .collect();
    let (frame_len, frame_reason) = choose_frame(&frames, length.frame_len);
    parameters.frame_len = u32::try_from(frame_len).ok()?;
    let levels: Vec<(Compression, u64)> = tried
        .iter()
        .filter(|way| way.frame_len == frame_len)
        .map(|way| (way.compression, way.compressed.value + way.metadata.value))
        .collect();
    let (compression, compression_reason) = choose_compression(&levels, usual.compression);
    parameters.compression = compression;
    let way = tried
        .iter()
        .find(|way| way.frame_len == frame_len && way.compression == compression);
    let on_disk = way.map_or(length.on_disk.value, |way| way.on_disk.value);
    Some(Advice {
        parameters,
        on_disk,
        reasons: [chunk_reason, frame_reason, compression_reason],
    })
}

impl LengthReport {
    /// Bytes of the parts whose length depends on the chunk length.
    fn bytes_taken(&self) -> u64 {
        self.compressed.value + self.metadata.value
    }

    fn chunk_len_parameter(&self) -> Option<vellum_core::units::ChunkLen> {
        vellum_core::units::ChunkLen::new(u32::try_from(self.chunk_len).ok()?)
    }
}

/// The usual chunk, unless another saves enough.
fn choose_length<'l>(possible: &[&'l LengthReport]) -> Option<(&'l LengthReport, AdviceReason)> {
    let least = *possible.iter().min_by_key(|length| length.bytes_taken())?;
    let usual = possible
        .iter()
        .find(|length| length.chunk_len == StoreParameters::DEFAULT.chunk_len.byte_len());
    let Some(usual) = usual.filter(|usual| usual.chunk_len != least.chunk_len) else {
        let others = possible
            .iter()
            .filter(|length| length.chunk_len != least.chunk_len);
        let second = others
            .map(|length| relative_excess(length.bytes_taken(), least.bytes_taken()))
            .min_by(f64::total_cmp);
        return Some((
            least,
            second.map_or(AdviceReason::OnlyOne, |more| AdviceReason::Least { more }),
        ));
    };
    let gain = -relative_excess(least.bytes_taken(), usual.bytes_taken());
    Some(if gain < OTHER_CHUNK_GAIN {
        (usual, AdviceReason::Usual { gain })
    } else {
        (least, AdviceReason::Saves { gain })
    })
}

/// The usual frame, or the shortest longer one that saves enough.
fn choose_frame(frames: &[(u64, u64)], usual: u64) -> (u64, AdviceReason) {
    let Some((_, at_usual)) = frames
        .iter()
        .find(|(len, _)| *len == usual)
        .filter(|_| frames.len() > 1)
    else {
        return (usual, AdviceReason::OnlyOne);
    };
    let gain = |on_disk: u64| -relative_excess(on_disk, *at_usual);
    let longer = frames.iter().filter(|(len, _)| *len > usual);
    match longer.clone().find(|(len, on_disk)| {
        gain(*on_disk) >= LONGER_FRAME_GAIN * f64::from((len / usual).ilog2())
    }) {
        Some((len, on_disk)) => (
            *len,
            AdviceReason::Saves {
                gain: gain(*on_disk),
            },
        ),
        None => (
            usual,
            AdviceReason::Usual {
                gain: longer
                    .map(|(_, on_disk)| gain(*on_disk))
                    .fold(0.0, f64::max),
            },
        ),
    }
}

/// The usual compression, the first higher level that saves enough, or the fastest that costs
/// hardly more. `levels` get slower.
fn choose_compression(
    levels: &[(Compression, u64)],
    usual: Compression,
) -> (Compression, AdviceReason) {
    let Some(at) = levels
        .iter()
        .position(|(compression, _)| *compression == usual)
        .filter(|_| levels.len() > 1)
    else {
        return (usual, AdviceReason::OnlyOne);
    };
    let more = |on_disk: u64| relative_excess(on_disk, levels[at].1);
    if let Some((faster, on_disk)) = levels[..at]
        .iter()
        .find(|(_, on_disk)| more(*on_disk) <= LOWER_LEVEL_LOSS)
    {
        return (
            *faster,
            AdviceReason::NearlyLeast {
                more: more(*on_disk).max(0.0),
            },
        );
    }
    match levels[at + 1..]
        .iter()
        .find(|(_, on_disk)| -more(*on_disk) >= HIGHER_LEVEL_GAIN)
    {
        Some((slower, on_disk)) => (
            *slower,
            AdviceReason::Saves {
                gain: -more(*on_disk),
            },
        ),
        None => (
            usual,
            AdviceReason::Usual {
                gain: levels[at + 1..]
                    .iter()
                    .map(|(_, on_disk)| -more(*on_disk))
                    .fold(0.0, f64::max),
            },
        ),
    }
}

/// The share by which `this` is more than `that`.
fn relative_excess(this: u64, that: u64) -> f64 {
    this as f64 / that.max(1) as f64 - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_stays_unless_another_is_worth_its_cost() {
        let frames =
            |of_long: u64| choose_frame(&[(16, 120), (128, 100), (256, 97), (1024, of_long)], 128);
        assert_eq!(
            frames(89),
            (
                128,
                AdviceReason::Usual {
                    gain: -relative_excess(89, 100)
                }
            )
        );
        assert_eq!(
            frames(87),
            (
                1024,
                AdviceReason::Saves {
                    gain: -relative_excess(87, 100)
                }
            )
        );
        assert_eq!(
            choose_frame(&[(128, 100)], 128),
            (128, AdviceReason::OnlyOne)
        );
        assert_eq!(
            choose_frame(&[(64, 90), (256, 80)], 128),
            (128, AdviceReason::OnlyOne),
            "without the usual there is nothing to compare with"
        );
        let usual = Compression::Zstd(3);
        let levels = |lz4: u64, high: u64| {
            choose_compression(
                &[
                    (Compression::Lz4, lz4),
                    (usual, 100),
                    (Compression::Zstd(12), high),
                ],
                usual,
            )
            .0
        };
        assert_eq!(levels(130, 93), usual);
        assert_eq!(levels(130, 91), Compression::Zstd(12));
        assert_eq!(levels(101, 91), Compression::Lz4);
    }
}
