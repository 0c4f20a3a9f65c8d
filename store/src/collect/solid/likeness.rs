//! Likeness of frames: which earlier frame has most in common with one, and an order in which
//! frames that are alike lie beside each other.
//!
//! A chunk is described by three *super-features* (Broder 1997; Shilane et al., "WAN optimized
//! replication of backup datasets using stream-informed delta compression", FAST 2012): a gear hash
//! rolls over its bytes and picks one position in 64 by content alone; each of twelve linear maps
//! of the hashes there keeps its greatest value, and four of these are hashed to one super-feature.
//! Two chunks that share one are very probably alike, wherever in them the common bytes stand.
//!
//! A frame follows the earlier frame with which most of its chunks share a super-feature, if at
//! least one chunk in twenty does. That makes a forest; its depth-first walk is the order.
//!
//! Pure: no store, no clock; the same frames give the same order everywhere.

use std::collections::HashMap;

/// Super-features of a chunk.
const SUPER_FEATURES: usize = 3;
/// Linear maps whose greatest values make one super-feature.
const MAPS_PER_SUPER_FEATURE: usize = 4;
/// A position counts if this many high bits of the hash are zero: one in 64.
const SAMPLE_BITS: u32 = 6;
/// Positions that a chunk needs to be described: fewer say nothing.
const SAMPLES_MIN: u32 = 8;
/// A frame follows another if one of this many of its chunks is like one of the other's.
const LIKE_PART: u32 = 20;
/// Super-features that are remembered at most: some 100 MiB. If there are more, those are that are
/// zero in one more low bit, of all frames alike.
const FEATURES_MAX: usize = 1 << 22;

/// Description of a chunk; `None` if it has too little that could be told apart.
pub(super) type ChunkFeatures = Option<[u64; SUPER_FEATURES]>;

/// Random values for the rolling hash, one for each byte; see [`mix_bits`].
static GEAR: [u64; 256] = make_gear();

const fn make_gear() -> [u64; 256] {
    let (mut gear, mut at) = ([0; 256], 0);
    while at < gear.len() {
        gear[at] = mix_bits(at as u64 + 1);
        at += 1;
    }
    gear
}

/// Spreads `value` over all bits (the finalizer of splitmix64; Steele et al., OOPSLA 2014).
const fn mix_bits(value: u64) -> u64 {
    let value = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Describes a chunk. Cost: some microseconds for 4 KiB.
pub(super) fn describe_chunk(plain: &[u8]) -> ChunkFeatures {
    const MAPS: usize = SUPER_FEATURES * MAPS_PER_SUPER_FEATURE;
    let (mut hash, mut samples, mut greatest) = (0_u64, 0, [0_u64; MAPS]);
    for byte in plain {
        hash = (hash << 1).wrapping_add(GEAR[usize::from(*byte)]);
        if hash >> (u64::BITS - SAMPLE_BITS) == 0 {
            samples += 1;
            for (nth, greatest) in greatest.iter_mut().enumerate() {
                let factor = GEAR[nth] | 1;
                *greatest = (*greatest).max(hash.wrapping_mul(factor).wrapping_add(GEAR[nth + 64]));
            }
        }
    }
    (samples >= SAMPLES_MIN).then(|| {
        let mut features = [0; SUPER_FEATURES];
        let (maps, _) = greatest.as_chunks::<MAPS_PER_SUPER_FEATURE>();
        for (nth, (feature, maps)) in features.iter_mut().zip(maps).enumerate() {
            *feature = maps
                .iter()
                .fold(nth as u64, |sum, value| mix_bits(sum ^ *value));
        }
        features
    })
}

/// Frames in the order in which they come, and which earlier one each follows.
#[derive(Default)]
pub(super) struct LikenessForest {
    /// The last frame that has a super-feature.
    holders: HashMap<u64, u32>,
    /// Super-features are remembered if these bits of them are zero.
    mask: u64,
    /// The frame that each follows.
    followed: Vec<Option<u32>>,
}

impl LikenessForest {
    /// Adds the next frame by the descriptions of its chunks.
    pub(super) fn push_frame(&mut self, chunks: &[ChunkFeatures]) {
        let number = self.followed.len() as u32;
        self.followed.push(self.most_alike(chunks));
        for feature in chunks.iter().flatten().flatten() {
            if feature & self.mask == 0 {
                self.holders.insert(*feature, number);
            }
        }
        while self.holders.len() > FEATURES_MAX {
            self.mask = self.mask << 1 | 1;
            let mask = self.mask;
            self.holders.retain(|feature, _| feature & mask == 0);
        }
    }

    /// The earlier frame that most of `chunks` are like.
    fn most_alike(&self, chunks: &[ChunkFeatures]) -> Option<u32> {
        let mut votes: HashMap<u32, u32> = HashMap::new();
        for features in chunks.iter().flatten() {
            let mut holders = features.map(|feature| self.holders.get(&feature).copied());
            holders.sort_unstable();
            let mut seen = None;
            for holder in holders.into_iter().flatten() {
                if seen != Some(holder) {
                    *votes.entry(holder).or_default() += 1;
                    seen = Some(holder);
                }
            }
        }
        let (holder, count) = votes
            .into_iter()
            .max_by_key(|(holder, count)| (*count, *holder))?;
        (count * LIKE_PART >= chunks.len() as u32).then_some(holder)
    }

    /// True for each frame that follows another, or is followed.
    pub(super) fn has_likes(&self) -> Vec<bool> {
        let mut has: Vec<bool> = self.followed.iter().map(Option::is_some).collect();
        for followed in self.followed.iter().flatten() {
            has[*followed as usize] = true;
        }
        has
    }

    /// All frames, by number, each behind the one that it follows or what follows that, too.
    pub(super) fn walk_order(&self) -> Vec<u32> {
        let count = self.followed.len();
        // Followers of each as a list through all frames, the first one first.
        let (mut first, mut next) = (vec![None; count], vec![None; count]);
        for (number, followed) in self.followed.iter().enumerate().rev() {
            if let Some(followed) = followed {
                next[number] = first[*followed as usize].replace(number as u32);
            }
        }
        let mut order = Vec::with_capacity(count);
        for (root, _) in self
            .followed
            .iter()
            .enumerate()
            .filter(|(_, of)| of.is_none())
        {
            let mut stack = vec![root as u32];
            while let Some(number) = stack.pop() {
                order.push(number);
                // Behind its followers comes its next sibling.
                stack.extend(next[number as usize]);
                stack.extend(first[number as usize]);
            }
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        fastrand::Rng::with_seed(seed).fill(&mut bytes);
        bytes
    }

    fn describe(bytes: &[u8]) -> Vec<ChunkFeatures> {
        bytes.chunks_exact(4096).map(describe_chunk).collect()
    }

    #[test]
    fn shifted_and_changed_bytes_are_alike_and_others_are_not() {
        let plain = noise(1, 8 * 4096);
        let mut shifted = vec![9; 100];
        shifted.extend_from_slice(&plain[..plain.len() - 100]);
        let mut changed = plain.clone();
        (0..8).for_each(|nth| changed[nth * 4096 + 1000] ^= 1);
        let shares = |other: &[u8]| {
            let pairs = describe(&plain).into_iter().zip(describe(other));
            pairs
                .filter(|(one, other)| match (one, other) {
                    (Some(one), Some(other)) => one.iter().any(|feature| other.contains(feature)),
                    _ => false,
                })
                .count()
        };
        assert!(shares(&shifted) >= 6, "{}", shares(&shifted));
        assert!(shares(&changed) >= 6, "{}", shares(&changed));
        assert_eq!(shares(&noise(2, 8 * 4096)), 0);
        assert_eq!(describe_chunk(&[0; 4096]), None, "nothing to tell apart");
        assert_eq!(describe_chunk(b"short"), None);
    }

    #[test]
    fn the_order_is_a_walk_of_what_follows_what() {
        let mut random = fastrand::Rng::with_seed(7);
        for count in [0, 1, 2, 50, 400] {
            let followed: Vec<Option<u32>> = (0..count)
                .map(|number| (number > 0 && random.bool()).then(|| random.u32(..number)))
                .collect();
            let forest = LikenessForest {
                followed: followed.clone(),
                ..LikenessForest::default()
            };
            let order = forest.walk_order();
            let place = |number: u32| order.iter().position(|at| *at == number);
            assert_eq!(order.len(), count as usize);
            for (number, of) in followed.iter().enumerate() {
                let at = place(number as u32).expect("each is there");
                // Between it and what it follows stand only others that follow that, at last.
                let Some(of) = of else { continue };
                let from = place(*of).expect("it is there");
                assert!(from < at);
                for between in &order[from + 1..at] {
                    let mut above = *between;
                    while let Some(next) = followed[above as usize] {
                        above = next;
                        if above == *of {
                            break;
                        }
                    }
                    assert_eq!(above, *of);
                }
            }
        }
    }

    #[test]
    fn families_of_frames_come_together() {
        let families: Vec<Vec<u8>> = (0..5).map(|seed| noise(seed, 8 * 4096)).collect();
        let mut forest = LikenessForest::default();
        let mut random = fastrand::Rng::with_seed(3);
        let mut family_of = Vec::new();
        for nth in 0..40 {
            let family = nth % families.len();
            let mut bytes = families[family].clone();
            let at = random.usize(..bytes.len());
            bytes[at] ^= 0x55;
            forest.push_frame(&describe(&bytes));
            family_of.push(family);
        }
        let order = forest.walk_order();
        let changes = order
            .windows(2)
            .filter(|pair| family_of[pair[0] as usize] != family_of[pair[1] as usize]);
        assert_eq!(changes.count(), families.len() - 1);
        assert!(forest.has_likes().iter().all(|has| *has));
    }

    #[test]
    fn a_frame_of_which_too_little_is_alike_follows_none() {
        for (alike, is_followed) in [(1, false), (2, true)] {
            let mut forest = LikenessForest::default();
            forest.push_frame(&describe(&noise(1, 40 * 4096)));
            let mut bytes = noise(99 + alike as u64, 40 * 4096);
            bytes[..alike * 4096].copy_from_slice(&noise(1, 40 * 4096)[..alike * 4096]);
            forest.push_frame(&describe(&bytes));
            assert_eq!(
                forest.followed.last().copied().flatten().is_some(),
                is_followed,
                "{alike}"
            );
        }
    }
}
