//! A map of chunk ids, stored as runs: from the ids of one side (a store) to those of the other (a
//! repository), for the same chunks.
//!
//! Memory: about 60 bytes a run. Chunks that arrived together on one side mostly did so on the
//! other; at the worst each chunk is a run.

use std::collections::BTreeMap;

use vellum_core::units::ChunkId;

/// The id on the other side for each chunk id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Translation {
    /// The runs, by the first id: the id that stands for it, and the number of ids at the same
    /// distance. They do not overlap.
    runs: BTreeMap<u64, (u64, u64)>,
}

impl Translation {
    /// The id that stands for `from`, and the number of ids from there on at the same distance,
    /// `count` at most.
    pub(crate) fn get(&self, from: ChunkId, count: u64) -> Option<(ChunkId, u64)> {
        let (first, (to, len)) = self.runs.range(..=from.0).next_back()?;
        let skipped = from.0 - first;
        (skipped < *len).then(|| (ChunkId(to + skipped), (len - skipped).min(count)))
    }

    /// The number of ids from `from` on that have no translation, `count` at most.
    pub(crate) fn gap(&self, from: ChunkId, count: u64) -> u64 {
        if self.get(from, 1).is_some() {
            return 0;
        }
        self.runs
            .range(from.0..)
            .next()
            .map_or(count, |(next, _)| (next - from.0).min(count))
    }

    /// Maps the `count` ids from `from` on to those from `to` on. Ids that have a translation keep
    /// it.
    pub(crate) fn insert(&mut self, mut from: ChunkId, mut to: ChunkId, mut count: u64) {
        while count > 0 {
            let covered = self.get(from, count).map_or(0, |(_, covered)| covered);
            let free = if covered > 0 {
                0
            } else {
                self.gap(from, count)
            };
            if free > 0 {
                self.insert_free(from.0, to.0, free);
            }
            let done = covered + free;
            (from, to, count) = (from.advance_by(done), to.advance_by(done), count - done);
        }
    }

    fn insert_free(&mut self, from: u64, to: u64, mut len: u64) {
        if let Some((_, next_len)) = self
            .runs
            .get(&(from + len))
            .copied()
            .filter(|(next, _)| *next == to + len)
        {
            self.runs.remove(&(from + len));
            len += next_len;
        }
        match self.runs.range_mut(..from).next_back() {
            Some((first, (start, before))) if first + *before == from && *start + *before == to => {
                *before += len;
            }
            _ => _ = self.runs.insert(from, (to, len)),
        }
    }

    /// The runs, in order: first id, what stands for it, how many.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (ChunkId, ChunkId, u64)> + '_ {
        self.runs
            .iter()
            .map(|(from, (to, len))| (ChunkId(*from), ChunkId(*to), *len))
    }

    /// The number of runs.
    pub(crate) fn run_count(&self) -> usize {
        self.runs.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_runs_agree_with_a_plain_map() {
        let mut random = fastrand::Rng::with_seed(9);
        let (mut translation, mut model) = (Translation::default(), BTreeMap::new());
        for _ in 0..500 {
            let (from, count) = (random.u64(..2000), random.u64(1..20));
            // Mostly one distance, so that runs meet and become one.
            let to = from + [10_000, 10_000, 50_000][random.usize(..3)];
            translation.insert(ChunkId(from), ChunkId(to), count);
            (0..count).for_each(|nth| _ = model.entry(from + nth).or_insert(to + nth));
        }
        for from in 0..2100 {
            let found = translation.get(ChunkId(from), 7);
            assert_eq!(
                found.map(|(to, _)| to.0),
                model.get(&from).copied(),
                "{from}"
            );
            let holds = |(to, count): (ChunkId, u64)| {
                (0..count).all(|nth| model.get(&(from + nth)) == Some(&(to.0 + nth)))
            };
            assert!(
                found.is_none_or(|(to, count)| (1..=7).contains(&count) && holds((to, count))),
                "{from}"
            );
            let gap = (from..from + 7)
                .take_while(|at| !model.contains_key(at))
                .count() as u64;
            assert_eq!(translation.gap(ChunkId(from), 7), gap, "{from}");
        }
        let ids: u64 = translation.runs().map(|(_, _, len)| len).sum();
        assert_eq!(ids, model.len() as u64);
        let ends: Vec<_> = translation
            .runs()
            .map(|(from, to, len)| (from.0 + len, to.0 + len))
            .collect();
        let starts: Vec<_> = translation
            .runs()
            .map(|(from, to, _)| (from.0, to.0))
            .skip(1)
            .collect();
        assert!(
            ends.iter().zip(&starts).all(|(end, start)| end != start),
            "what goes on is one run"
        );
    }
}
