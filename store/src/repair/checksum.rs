//! Checks the checksum of a block of a table, and finds the one bit whose flip explains a wrong
//! one.
//!
//! A checksum that does not fit tells more than that something is wrong: if a single bit flipped,
//! flipping it back is the only change of one bit that makes it fit. Trying all of them takes some
//! milliseconds for a block of 4 KiB. Done plainly, it would take half a minute for a frame of 128
//! KiB; but a bit changes two of XXH3's eight lanes only, and those can be followed to the end
//! without hashing everything else again (`Follower`).
//!
//! A wrong guess would have to meet 32 bits of checksum by chance: one in 4,000 for the longest
//! frame, if more than one bit is wrong. Every block that is mended here has checksums of its own
//! inside, which are verified as always.
//!
//! ```text
//! A block is followed by 5 bytes: its kind of compression, and a checksum (LE) of
//! block and kind: the lower half of XXH3-64 of the block, xor kind times 0x6b9083d9, plus a
//! number of the table xor (lower plus upper half of the block's offset).
//! ```
//!
//! Source: RocksDB's `table/format.cc` and `util/xxhash.h`.

use rayon::prelude::{IntoParallelIterator, ParallelIterator};
use twox_hash::XxHash3_64;

/// Bytes behind each block: its kind, its checksum.
pub(super) const TRAILER_LEN: usize = 5;
/// Factor of the last byte under the checksum.
const KIND_PRIME: u32 = 0x6b90_83d9;
/// Above this length XXH3 works in stripes: only then lanes can be followed.
const STRIPED_LEN_MIN: usize = 241;

const STRIPE_LEN: usize = 64;
const STRIPES_PER_PART: usize = 16;
const PART_LEN: usize = STRIPE_LEN * STRIPES_PER_PART;
const LANES: usize = 8;
const SECRET_LEN: usize = 192;
/// Offsets in the secret at which the scrambling of lanes, the last stripe and the merging begin.
const SCRAMBLE_AT: usize = SECRET_LEN - STRIPE_LEN;
const LAST_STRIPE_AT: usize = SECRET_LEN - STRIPE_LEN - 7;
const MERGE_AT: usize = 11;
const PRIME32_1: u64 = 0x9e37_79b1;
const PRIME32_2: u64 = 0x85eb_ca77;
const PRIME32_3: u64 = 0xc2b2_ae3d;
const PRIME64_1: u64 = 0x9e37_79b1_85eb_ca87;
const PRIME64_2: u64 = 0xc2b2_ae3d_27d4_eb4f;
const PRIME64_3: u64 = 0x1656_67b1_9e37_79f9;
const PRIME64_4: u64 = 0x85eb_ca77_c2b2_ae63;
const PRIME64_5: u64 = 0x27d4_eb2f_1656_67c5;
const AVALANCHE: u64 = 0x1656_6791_9e37_79f9;

/// XXH3's own secret.
#[rustfmt::skip]
const SECRET: [u8; SECRET_LEN] = [
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
];

/// The checksum of what `bytes` and `last` are together, in a table of that number, at `offset`.
pub(super) fn block_checksum(number: u32, offset: u64, bytes: &[u8], last: u8) -> u32 {
    let sum = low_word(XxHash3_64::oneshot(bytes)) ^ u32::from(last).wrapping_mul(KIND_PRIME);
    sum.wrapping_add(offset_term(number, offset))
}

/// The number that a table's number adds to checksums at `offset`.
pub(super) fn offset_term(number: u32, offset: u64) -> u32 {
    if number == 0 {
        0
    } else {
        number ^ low_word(offset).wrapping_add((offset >> 32) as u32)
    }
}

/// True if the checksum behind the block at `offset` fits. `sealed` is the block and its trailer.
pub(super) fn checksum_fits(number: u32, offset: u64, sealed: &[u8]) -> bool {
    split_trailer(sealed)
        .is_some_and(|(block, kind, stored)| block_checksum(number, offset, block, kind) == stored)
}

/// Block, kind and stored checksum.
pub(super) fn split_trailer(sealed: &[u8]) -> Option<(&[u8], u8, u32)> {
    let (block, trailer) = sealed.split_last_chunk::<TRAILER_LEN>()?;
    let [kind, sum @ ..] = *trailer;
    Some((block, kind, u32::from_le_bytes(sum)))
}

/// The bit of `sealed` that makes its checksum fit when it is flipped, if there is one.
pub(super) fn flipped_bit(number: u32, offset: u64, sealed: &[u8]) -> Option<usize> {
    let (block, kind, stored) = split_trailer(sealed)?;
    let hash = low_word(XxHash3_64::oneshot(block));
    let place = offset_term(number, offset);
    let found = (hash ^ u32::from(kind).wrapping_mul(KIND_PRIME)).wrapping_add(place);
    if (found ^ stored).is_power_of_two() {
        return Some((block.len() + 1) * 8 + (found ^ stored).trailing_zeros() as usize);
    }
    // The hash that the block itself must have had.
    let wanted = |kind: u8| stored.wrapping_sub(place) ^ u32::from(kind).wrapping_mul(KIND_PRIME);
    if let Some(bit) = (0..8).find(|bit| hash == wanted(kind ^ 1 << bit)) {
        return Some(block.len() * 8 + bit);
    }
    flip_to(block, wanted(kind))
}

/// The bit of `block` that gives it this (lower half of a) hash when it is flipped.
fn flip_to(block: &[u8], wanted: u32) -> Option<usize> {
    if block.len() < STRIPED_LEN_MIN {
        return (0..block.len() * 8).find(|bit| hash_flipped(block, *bit) == wanted);
    }
    let last_stripe = block.len() - STRIPE_LEN;
    // The last stripe overlaps the one before it: its few bits are tried plainly.
    let in_last = (last_stripe * 8..block.len() * 8).into_par_iter();
    if let Some(bit) = in_last.find_any(|bit| hash_flipped(block, *bit) == wanted) {
        return Some(bit);
    }
    let follower = Follower::new(block);
    (0..last_stripe.div_ceil(8))
        .into_par_iter()
        .find_map_any(|word| follower.flip_in(word, wanted))
        .filter(|bit| *bit < last_stripe * 8)
}

fn hash_flipped(block: &[u8], bit: usize) -> u32 {
    let mut block = block.to_vec();
    block[bit / 8] ^= 1 << (bit % 8);
    low_word(XxHash3_64::oneshot(&block))
}

/// The hash of a long block, with what it takes to follow two lanes from any stripe to the end.
struct Follower<'b> {
    block: &'b [u8],
    /// The lanes where each part of the block begins, and at the end.
    starts: Vec<[u64; LANES]>,
    /// Sums that the stripes of each part add to the lanes; the last stripe's in the last.
    sums: Vec<[u64; LANES]>,
}

impl<'b> Follower<'b> {
    fn new(block: &'b [u8]) -> Self {
        let parts = (block.len() - 1) / PART_LEN;
        let mut lanes = [
            PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1,
        ];
        let (mut starts, mut sums) = (vec![lanes], Vec::new());
        for part in 0..=parts {
            let begin = part * PART_LEN;
            let end = if part < parts {
                begin + PART_LEN
            } else {
                block.len() - 1
            };
            let mut sum = [0; LANES];
            let stripes = block[begin..end].chunks_exact(STRIPE_LEN);
            for (nth, stripe) in stripes.enumerate() {
                add_stripe(&mut sum, stripe, nth * 8);
            }
            if part == parts {
                add_stripe(&mut sum, &block[block.len() - STRIPE_LEN..], LAST_STRIPE_AT);
            }
            for (lane, added) in lanes.iter_mut().zip(sum) {
                *lane = lane.wrapping_add(added);
            }
            if part < parts {
                for (nth, lane) in lanes.iter_mut().enumerate() {
                    *lane = scramble_lane(*lane, nth);
                }
            }
            starts.push(lanes);
            sums.push(sum);
        }
        Self {
            block,
            starts,
            sums,
        }
    }

    /// The bit of the block's word of that number that gives `wanted`.
    fn flip_in(&self, word: usize, wanted: u32) -> Option<usize> {
        let (part, stripe) = (word * 8 / PART_LEN, word * 8 % PART_LEN / STRIPE_LEN);
        let lane = word % LANES;
        let value = word_at(self.block, word * 8);
        let key = word_at(&SECRET, stripe * 8 + lane * 8);
        let without = halves_product(value ^ key);
        (0..64)
            .map(|bit| (bit, value ^ 1 << bit))
            .find_map(|(bit, flipped)| {
                let own = halves_product(flipped ^ key).wrapping_sub(without);
                let other = flipped.wrapping_sub(value);
                (self.final_hash(part, lane, own, other) == wanted).then_some(word * 64 + bit)
            })
    }

    /// The hash if a part adds so much more to a lane and to its neighbour.
    fn final_hash(&self, part: usize, lane: usize, own: u64, other: u64) -> u32 {
        let last = self.sums.len() - 1;
        let follow = |lane: usize, more: u64| {
            let mut value = self.starts[part][lane]
                .wrapping_add(self.sums[part][lane])
                .wrapping_add(more);
            for sum in &self.sums[part + 1..] {
                value = scramble_lane(value, lane).wrapping_add(sum[lane]);
            }
            value
        };
        let mut lanes = self.starts[last + 1];
        lanes[lane] = follow(lane, own);
        lanes[lane ^ 1] = follow(lane ^ 1, other);
        low_word(merge_lanes(&lanes, self.block.len()))
    }
}

fn add_stripe(lanes: &mut [u64; LANES], stripe: &[u8], secret_at: usize) {
    for lane in 0..LANES {
        let value = word_at(stripe, lane * 8);
        let key = word_at(&SECRET, secret_at + lane * 8);
        lanes[lane ^ 1] = lanes[lane ^ 1].wrapping_add(value);
        lanes[lane] = lanes[lane].wrapping_add(halves_product(value ^ key));
    }
}

fn halves_product(value: u64) -> u64 {
    (value & 0xffff_ffff).wrapping_mul(value >> 32)
}

fn scramble_lane(lane: u64, nth: usize) -> u64 {
    ((lane ^ lane >> 47) ^ word_at(&SECRET, SCRAMBLE_AT + nth * 8)).wrapping_mul(PRIME32_1)
}

fn merge_lanes(lanes: &[u64; LANES], len: usize) -> u64 {
    let mut hash = (len as u64).wrapping_mul(PRIME64_1);
    for (nth, pair) in lanes.chunks_exact(2).enumerate() {
        let left = pair[0] ^ word_at(&SECRET, MERGE_AT + nth * 16);
        let right = pair[1] ^ word_at(&SECRET, MERGE_AT + nth * 16 + 8);
        let wide = u128::from(left) * u128::from(right);
        hash = hash.wrapping_add(wide as u64 ^ (wide >> 64) as u64);
    }
    let hash = (hash ^ hash >> 37).wrapping_mul(AVALANCHE);
    hash ^ hash >> 32
}

fn word_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    let end = bytes.len().min(at + 8);
    word[..end - at].copy_from_slice(&bytes[at..end]);
    u64::from_le_bytes(word)
}

fn low_word(hash: u64) -> u32 {
    hash as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        fastrand::Rng::with_seed(len as u64).fill(&mut bytes);
        bytes
    }

    #[test]
    fn followed_lanes_end_where_hashing_does() {
        for len in [241, 1000, 1024, 1025, 1088, 1089, 2048, 2049, 5000, 140_000] {
            let block = noise(len);
            let follower = Follower::new(&block);
            let lanes = follower.starts.last().expect("there is an end");
            assert_eq!(
                merge_lanes(lanes, len),
                XxHash3_64::oneshot(&block),
                "{len}"
            );
        }
    }

    #[test]
    fn every_flipped_bit_of_a_block_is_found() {
        for len in [1, 5, 40, 200, 240, 241, 300, 1024, 1030, 2100] {
            let block = noise(len);
            let mut sealed = block.clone();
            sealed.push(4);
            sealed.extend(block_checksum(77, 4096, &block, 4).to_le_bytes());
            assert!(checksum_fits(77, 4096, &sealed));
            for bit in 0..sealed.len() * 8 {
                let mut flipped = sealed.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(!checksum_fits(77, 4096, &flipped), "{len}, {bit}");
                assert_eq!(flipped_bit(77, 4096, &flipped), Some(bit), "{len}");
            }
        }
    }

    #[test]
    fn a_flipped_bit_of_a_long_frame_is_found_and_two_are_not() {
        let block = noise(131_000);
        let mut sealed = block.clone();
        sealed.push(0);
        sealed.extend(block_checksum(5, 1 << 33, &block, 0).to_le_bytes());
        sealed[70_001] ^= 0x20;
        assert_eq!(flipped_bit(5, 1 << 33, &sealed), Some(70_001 * 8 + 5));
        sealed[3] ^= 1;
        assert_eq!(flipped_bit(5, 1 << 33, &sealed), None);
    }
}
