//! Chooses which of many objects to write anew: the emptiest, until the unneeded share is small
//! enough, and small ones that can become one. Pure.

use std::collections::BTreeSet;

/// The needed share of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ObjectUse {
    /// Its length in bytes.
    pub(crate) len: u64,
    /// The bytes of its parts, needed or not; the rest of its length is what every object has
    /// around them.
    pub(crate) parts_len: u64,
    /// The needed bytes of its parts, as far as parts can be divided.
    pub(crate) used_len: u64,
}

/// The limits of writing objects anew.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Worth {
    /// The greatest share of all parts that may be unneeded, in percent.
    pub(crate) max_unused_percent: u32,
    /// The greatest number of needed bytes to write; none for no limit.
    pub(crate) limit: Option<u64>,
    /// Shorter objects become one with others.
    pub(crate) small_len: u64,
    /// True if another object is written anyway, which small ones can be part of.
    pub(crate) is_writing: bool,
}

/// The objects to write anew.
pub(crate) fn chosen<K: Copy + Ord>(
    objects: impl Iterator<Item = (K, ObjectUse)>,
    worth: &Worth,
) -> BTreeSet<K> {
    let mut emptiest: Vec<(K, ObjectUse)> = objects.collect();
    emptiest.sort_by_key(|(id, of)| (of.used_len.saturating_mul(1000) / of.parts_len.max(1), *id));
    let gain = |of: &ObjectUse| of.parts_len - of.used_len.min(of.parts_len);
    let all: u64 = emptiest.iter().map(|(_, of)| of.parts_len).sum();
    let allowed = all / 100 * u64::from(worth.max_unused_percent)
        + all % 100 * u64::from(worth.max_unused_percent) / 100;
    let mut unused: u64 = emptiest.iter().map(|(_, of)| gain(of)).sum();
    let mut left = worth.limit.unwrap_or(u64::MAX);
    let mut chosen = BTreeSet::new();
    for (id, of) in &emptiest {
        if unused <= allowed || of.used_len > left {
            break;
        }
        unused -= gain(of);
        left -= of.used_len;
        chosen.insert(*id);
    }
    let small: Vec<(K, ObjectUse)> = emptiest
        .into_iter()
        .filter(|(id, of)| of.len < worth.small_len && !chosen.contains(id))
        .collect();
    if small.len() + usize::from(worth.is_writing || !chosen.is_empty()) > 1 {
        for (id, of) in small {
            if of.used_len <= left {
                left -= of.used_len;
                chosen.insert(id);
            }
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORTH: Worth = Worth {
        max_unused_percent: 10,
        limit: None,
        small_len: 50,
        is_writing: false,
    };

    fn check(objects: &[(u64, u64, u64)], worth: Worth, expected: &[usize]) {
        let objects = objects.iter().map(|(len, parts_len, used_len)| ObjectUse {
            len: *len,
            parts_len: *parts_len,
            used_len: *used_len,
        });
        assert_eq!(
            chosen(objects.enumerate(), &worth)
                .into_iter()
                .collect::<Vec<_>>(),
            expected
        );
    }

    /// Writing anew must come to an end: what was just written is left alone, padding and all.
    #[test]
    fn what_is_full_enough_stays() {
        check(&[], WORTH, &[]);
        check(&[(100, 80, 80), (100, 90, 90)], WORTH, &[]);
        check(&[(100, 100, 90), (100, 100, 90)], WORTH, &[]);
        check(&[(100, 100, 90), (100, 100, 89)], WORTH, &[1]);
        check(&[(49, 40, 40), (100, 100, 100)], WORTH, &[]);
        check(&[(49, 40, 40), (50, 40, 40)], WORTH, &[]);
    }

    #[test]
    fn the_emptiest_go_first_and_small_ones_become_one() {
        check(
            &[(100, 100, 60), (100, 100, 20), (100, 100, 100)],
            WORTH,
            &[0, 1],
        );
        check(
            &[(100, 100, 75), (100, 100, 20), (100, 100, 100)],
            WORTH,
            &[1],
        );
        check(&[(49, 40, 40), (49, 40, 40), (50, 40, 40)], WORTH, &[0, 1]);
        check(&[(49, 40, 40), (100, 100, 20)], WORTH, &[0, 1]);
        check(
            &[(49, 40, 40)],
            Worth {
                is_writing: true,
                ..WORTH
            },
            &[0],
        );
        check(
            &[(100, 100, 20), (100, 100, 30), (49, 40, 40)],
            Worth {
                limit: Some(45),
                ..WORTH
            },
            &[0],
        );
        check(
            &[(100, 100, 0), (100, 100, 0)],
            Worth {
                limit: Some(0),
                ..WORTH
            },
            &[0, 1],
        );
    }
}
