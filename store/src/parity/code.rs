//! Reed–Solomon code, named in this file only: computes parity of some stretches of bytes, and lost
//! stretches from those that are left of both.
//!
//! Byte `n` of every parity stretch depends on bytes of the data stretches that lie in the same 64
//! bytes, and on how many data and parity stretches there are. So long stretches can be done in
//! pieces, of which each is a multiple of 64 bytes long. The crate's version is part of the format:
//! a golden file holds it to its bytes.

use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};

use crate::error::StoreError;

/// Encodes one piece after another, in the same memory.
#[derive(Default)]
pub(super) struct ParityEncoder(Option<ReedSolomonEncoder>);

impl ParityEncoder {
    /// The parity, `count` stretches, of `data`, which are of one length, a multiple of 64.
    pub(super) fn encode_parity(
        &mut self,
        data: &[&[u8]],
        count: usize,
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        let len = data.first().map_or(0, |stretch| stretch.len());
        let encoder = match &mut self.0 {
            Some(encoder) => {
                encoder
                    .reset(data.len(), count, len)
                    .map_err(encoder_error)?;
                encoder
            }
            none => {
                none.insert(ReedSolomonEncoder::new(data.len(), count, len).map_err(encoder_error)?)
            }
        };
        for stretch in data {
            encoder.add_original_shard(stretch).map_err(encoder_error)?;
        }
        let parity = encoder.encode().map_err(encoder_error)?;
        Ok(parity.recovery_iter().map(<[u8]>::to_vec).collect())
    }
}

/// Data stretches and their parity after a loss: `None` is lost.
pub(super) struct StripeRemains<'a> {
    pub(super) data: Vec<Option<&'a [u8]>>,
    pub(super) parity: Vec<Option<&'a [u8]>>,
}

impl StripeRemains<'_> {
    /// The lost data stretches, with their places. `None` if too much is lost.
    pub(super) fn restore_lost(&self) -> Result<Option<Vec<(usize, Vec<u8>)>>, StoreError> {
        let lost = self.data.iter().filter(|stretch| stretch.is_none()).count();
        let helpers = self.parity.iter().flatten().count();
        let Some(len) = self
            .data
            .iter()
            .chain(&self.parity)
            .flatten()
            .map(|s| s.len())
            .next()
        else {
            return Ok(None);
        };
        if lost == 0 || lost > helpers {
            return Ok((lost == 0).then(Vec::new));
        }
        let mut decoder = ReedSolomonDecoder::new(self.data.len(), self.parity.len(), len)
            .map_err(encoder_error)?;
        for (at, stretch) in self.data.iter().enumerate() {
            if let Some(stretch) = stretch {
                decoder
                    .add_original_shard(at, stretch)
                    .map_err(encoder_error)?;
            }
        }
        for (at, stretch) in self.parity.iter().enumerate() {
            if let Some(stretch) = stretch {
                decoder
                    .add_recovery_shard(at, stretch)
                    .map_err(encoder_error)?;
            }
        }
        let restored = decoder.decode().map_err(encoder_error)?;
        Ok(Some(
            restored
                .restored_original_iter()
                .map(|(at, stretch)| (at, stretch.to_vec()))
                .collect(),
        ))
    }
}

fn encoder_error(error: reed_solomon_simd::Error) -> StoreError {
    StoreError::damaged_record("a parity group", error)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Parity of known bytes, for golden bytes.
    pub(crate) fn example() -> Vec<u8> {
        let stretch = |nth: usize| (0..64).map(|at| (at * 7 + nth * 31) as u8).collect();
        let data: Vec<Vec<u8>> = (0..5).map(stretch).collect();
        let mut encoder = ParityEncoder::default();
        let mut encode = |count, of: usize| encoder.encode_parity(&slices(&data[..of]), count);
        let all = [encode(1, 1), encode(1, 5), encode(3, 5)];
        all.into_iter()
            .flat_map(|parity| parity.expect("encoded").concat())
            .collect()
    }

    fn stretches(count: usize, len: usize) -> Vec<Vec<u8>> {
        let mut random = fastrand::Rng::with_seed((count * len) as u64);
        let mut all = vec![vec![0; len]; count];
        all.iter_mut().for_each(|stretch| random.fill(stretch));
        all
    }

    fn slices(stretches: &[Vec<u8>]) -> Vec<&[u8]> {
        stretches.iter().map(Vec::as_slice).collect()
    }

    #[test]
    fn whatever_is_lost_comes_back_up_to_the_number_of_parity_stretches() {
        let mut random = fastrand::Rng::with_seed(1);
        for (count, parity_count) in [(1, 1), (2, 1), (50, 1), (3, 2), (20, 3), (60, 6), (1, 4)] {
            let data = stretches(count, 256);
            let parity = ParityEncoder::default()
                .encode_parity(&slices(&data), parity_count)
                .expect("encoded");
            assert_eq!(parity.len(), parity_count);
            for lost_count in 0..=(parity_count + 1).min(count + parity_count) {
                let mut places: Vec<usize> = (0..count + parity_count).collect();
                random.shuffle(&mut places);
                let is_lost = |place: usize| places[..lost_count].contains(&place);
                let left = |all: &'_ [Vec<u8>], from: usize| -> Vec<Option<Vec<u8>>> {
                    let kept = |(at, stretch): (usize, &Vec<u8>)| {
                        (!is_lost(from + at)).then(|| stretch.clone())
                    };
                    all.iter().enumerate().map(kept).collect()
                };
                let (data_left, parity_left) = (left(&data, 0), left(&parity, count));
                let remains = StripeRemains {
                    data: data_left.iter().map(Option::as_deref).collect(),
                    parity: parity_left.iter().map(Option::as_deref).collect(),
                };
                let restored = remains.restore_lost().expect("decoded");
                assert_eq!(
                    restored.is_some(),
                    lost_count <= parity_count,
                    "{lost_count}"
                );
                for (at, stretch) in restored.unwrap_or_default() {
                    assert!(stretch == data[at], "{count} {parity_count} {lost_count}");
                }
            }
        }
    }

    #[test]
    fn pieces_have_the_parity_of_the_whole() {
        let (data, mut encoder) = (stretches(7, 1024), ParityEncoder::default());
        let whole = encoder.encode_parity(&slices(&data), 2).expect("encoded");
        let mut pieces = vec![Vec::new(); 2];
        for range in [0..64, 64..512, 512..1024] {
            let part: Vec<&[u8]> = data.iter().map(|stretch| &stretch[range.clone()]).collect();
            let parity = encoder.encode_parity(&part, 2).expect("encoded");
            pieces
                .iter_mut()
                .zip(parity)
                .for_each(|(all, piece)| all.extend(piece));
        }
        assert!(pieces == whole);
    }
}
