//! Bloom filter of names: tells whether a name was probably met before, in a few bits for each, of
//! which each name touches one cache line.
//!
//! It never forgets a name. It takes a new one for an old one now and then; its users must tolerate
//! losing a few at random.

use super::short_name::ShortName;

/// One cache line.
const LINE_WORDS: usize = 8;
/// Bits that a name sets in its line.
const PROBES: u32 = 6;
/// Bytes for each name that is expected: with 12 bits, about one new name in a hundred passes for
/// an old one.
const LEN_PER_NAME: f64 = 1.5;
/// The memory of one filter: enough for 350 GiB of distinct chunks of 4 KiB. With more it takes
/// more and more new names for old ones, and what is compressed tells more of the beginning than of
/// the end.
const LEN_MAX: f64 = 128.0 * 1024.0 * 1024.0;

pub(super) struct Filter {
    lines: Vec<[u64; LINE_WORDS]>,
}

impl Filter {
    /// A filter for about `expected` names.
    pub(super) fn new(expected: u64) -> Self {
        let lines =
            (expected as f64 * LEN_PER_NAME).min(LEN_MAX) as usize / size_of::<[u64; LINE_WORDS]>();
        Self {
            lines: vec![[0; LINE_WORDS]; lines.max(1)],
        }
    }

    /// Adds `name`; whether it was certainly not there before.
    pub(super) fn insert(&mut self, name: ShortName) -> bool {
        // Names of a sample share their first bits, so line and bits are taken from a product with
        // all of them.
        let mixed = u128::from(name).wrapping_mul(0xd6e8_feb8_6659_fd93_a511_9eaf_2d35_6b17);
        let (place, mut bits) = ((mixed >> 64) as u64, mixed as u64);
        let at = (u128::from(place) * self.lines.len() as u128) >> 64;
        let line = &mut self.lines[at as usize];
        let mut is_new = false;
        for _ in 0..PROBES {
            let (word, bit) = ((bits >> 6) as usize % LINE_WORDS, 1 << (bits % 64));
            is_new |= line[word] & bit == 0;
            line[word] |= bit;
            bits >>= 9;
        }
        is_new
    }
}
