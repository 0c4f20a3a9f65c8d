//! Set of the names that have been met before: all of them, or a sample that is chosen by the names
//! themselves, in bounded memory.
//!
//! A name is in the sample if it is below a threshold. Names are hashes, so that is chance, the
//! same for each distinct chunk however often it comes: every copy of a sampled chunk is seen, and
//! counts divided by the rate are counts of all without bias. A sample of *positions* would lose
//! most copies and make data look unique.
//!
//! A name here is the first 8 bytes of a hash. Of n distinct ones two agree with a chance of n² /
//! 2^65: for 10^9, which is 4 TB of distinct chunks of 4 KiB, 3 in 100 that a single one is counted
//! wrong.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::filter::Filter;
use super::short_name::ShortName;

/// Names that are kept with what followed them.
type Table = HashMap<ShortName, u32, BuildHasherDefault<MixingHasher>>;

/// Answer about a name that was just met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sighting {
    /// True if it was not there before. Exact as long as everything is kept; later about one new
    /// name in a hundred passes for an old one.
    pub(super) is_new: bool,
    /// True if it is in the sample.
    pub(super) is_kept: bool,
}

/// Names that were met.
pub(super) struct SeenNames {
    table: Table,
    /// Initial value of `kept_up_to`.
    began_up_to: ShortName,
    /// Names up to this one are in the sample.
    kept_up_to: ShortName,
    kept_max: usize,
    /// The number of names that there may be in all.
    expected: u64,
    /// Everything that was met, once not everything is kept.
    filter: Option<Filter>,
}

impl SeenNames {
    /// Keeps `rate` of the names at first (more than 0, at most 1) and `kept_max` at most: when
    /// there are more, half as many. `expected` is how many there may be in all.
    pub(super) fn new(rate: f64, kept_max: usize, expected: u64) -> Self {
        // 2^64 times the rate; the cast holds at the top.
        let up_to = (rate * 2_f64.powi(64)) as u64;
        let filter = (rate < 1.0).then(|| Filter::new(expected));
        Self {
            table: Table::default(),
            began_up_to: up_to.max(1),
            kept_up_to: up_to.max(1),
            kept_max,
            expected,
            filter,
        }
    }

    /// True if `name` is in the sample.
    pub(super) fn is_kept(&self, name: ShortName) -> bool {
        name <= self.kept_up_to
    }

    /// The share of distinct names that is kept.
    pub(super) fn sampling_rate(&self) -> f64 {
        if self.filter.is_none() {
            1.0
        } else {
            (self.kept_up_to as f64 + 1.0) / 2_f64.powi(64)
        }
    }

    /// The number of halvings of the sample that `name` survives: counts made in the name of a
    /// chunk are kept apart by this.
    pub(super) fn sample_level(&self, name: ShortName) -> usize {
        (self.began_up_to / name.max(1)).max(1).ilog2() as usize
    }

    /// The first level that is in the sample now.
    pub(super) fn first_level(&self) -> usize {
        (self.began_up_to / self.kept_up_to).ilog2() as usize
    }

    /// Meets `name`.
    pub(super) fn meet_name(&mut self, name: ShortName) -> Sighting {
        let is_kept = self.is_kept(name);
        let mut is_new = self
            .filter
            .as_mut()
            .is_none_or(|filter| filter.insert(name));
        if is_kept {
            let known = self.table.len();
            self.table.entry(name).or_default();
            is_new = self.table.len() > known;
            if self.table.len() > self.kept_max {
                self.halve_sample();
            }
        }
        Sighting { is_new, is_kept }
    }

    /// Notes that `follower` got the id after `name`'s.
    pub(super) fn note_follower(&mut self, name: ShortName, follower: ShortName) {
        if let Some(noted) = self.table.get_mut(&name) {
            *noted = short_tag(follower);
        }
    }

    /// True if `follower` has the id after `name`'s.
    pub(super) fn is_followed(&self, name: ShortName, follower: ShortName) -> bool {
        self.table.get(&name) == Some(&short_tag(follower))
    }

    fn halve_sample(&mut self) {
        let table = &self.table;
        let filled = || {
            let mut filter = Filter::new(self.expected);
            table.keys().for_each(|name| {
                filter.insert(*name);
            });
            filter
        };
        self.filter.get_or_insert_with(filled);
        self.kept_up_to /= 2;
        let kept_up_to = self.kept_up_to;
        self.table.retain(|name, _| *name <= kept_up_to);
    }
}

/// Enough of a name to tell it from the one that is expected.
fn short_tag(name: ShortName) -> u32 {
    name as u32
}

/// Names are hashes already, but those in a sample are all small: one multiplication spreads them
/// over the table.
#[derive(Default)]
pub(super) struct MixingHasher(u64);

impl Hasher for MixingHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("names are numbers");
    }

    fn write_u64(&mut self, name: u64) {
        let product = u128::from(name).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<ShortName> {
        let mut random = fastrand::Rng::with_seed(5);
        (0..count).map(|_| random.u64(..)).collect()
    }

    #[test]
    fn everything_is_kept_until_there_is_too_much() {
        let mut seen = SeenNames::new(1.0, 1000, 20_000);
        for name in names(1000) {
            assert_eq!(
                seen.meet_name(name),
                Sighting {
                    is_new: true,
                    is_kept: true
                }
            );
            assert_eq!(
                seen.meet_name(name),
                Sighting {
                    is_new: false,
                    is_kept: true
                }
            );
        }
        assert_eq!((seen.sampling_rate(), seen.first_level()), (1.0, 0));
        seen.meet_name(u64::MAX);
        assert_eq!((seen.sampling_rate(), seen.first_level()), (0.5, 1));
        assert!(seen.table.len() < 600);
    }

    #[test]
    fn what_was_met_is_known_however_often_the_sample_was_halved() {
        for rate in [1.0, 0.3] {
            let names = names(20_000);
            let mut seen = SeenNames::new(rate, 1000, 20_000);
            let new = names
                .iter()
                .filter(|name| seen.meet_name(**name).is_new)
                .count();
            assert!(
                seen.table.len() <= 1000 && new > 19_900,
                "{new} new, {} kept",
                seen.table.len()
            );
            assert!(names.iter().all(|name| !seen.meet_name(*name).is_new));
            let kept: Vec<_> = names.iter().filter(|name| seen.is_kept(**name)).collect();
            assert_eq!(kept.len(), seen.table.len());
            assert!(
                kept.iter()
                    .all(|name| seen.sample_level(**name) >= seen.first_level())
            );
            assert!(
                names
                    .iter()
                    .filter(|name| !seen.is_kept(**name))
                    .all(|name| seen.sample_level(*name) < seen.first_level()
                        || *name > seen.began_up_to)
            );
            let expected = 20_000.0 * seen.sampling_rate();
            assert!(
                (kept.len() as f64 - expected).abs() < 6.0 * expected.sqrt(),
                "{} of {expected}",
                kept.len()
            );
        }
    }
}
