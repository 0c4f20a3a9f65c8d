//! Computes the space that deleting some nodes would free, and chooses nodes to free a given
//! amount.

use std::collections::{BTreeMap, BTreeSet};

use vellum_core::tree::NodeRef;

use super::ReclaimEstimate;
use super::count::Holdings;
use super::reclaim_forecast::ReclaimForecast;
use super::sets::{NodeSetId, Span};
use super::usage_scan::UsageScan;

/// Nodes whose own part is worked out with the collector's rules. Of more, it is their share of
/// frames.
const ALONE_MAX: usize = 64;
/// Rounds in which nodes are chosen: where there are more candidates, several are chosen in each.
const ROUNDS_MAX: usize = 64;
/// Chosen nodes that are tried whether it goes without them.
const TRIES_MAX: usize = 64;

/// Nodes that are to be deleted.
struct DeletionSet {
    /// For each node how many of those before it are to go.
    before: Vec<u32>,
    /// For each node the first from it on that stays.
    next_kept: Vec<u32>,
}

/// Nodes that can only be deleted together: a snapshot, or an image with all its snapshots.
struct DeletionCandidate {
    numbers: Vec<u32>,
    is_image: bool,
    created_ms: u64,
}

impl DeletionSet {
    fn new(count: usize, numbers: impl IntoIterator<Item = u32>) -> Self {
        let mut is_doomed = vec![false; count];
        numbers
            .into_iter()
            .for_each(|number| is_doomed[number as usize] = true);
        let mut before = vec![0; count + 1];
        let mut next_kept = vec![count as u32; count + 1];
        for at in 0..count {
            before[at + 1] = before[at] + u32::from(is_doomed[at]);
        }
        for at in (0..count).rev() {
            next_kept[at] = if is_doomed[at] {
                next_kept[at + 1]
            } else {
                at as u32
            };
        }
        Self { before, next_kept }
    }

    /// The number of nodes of a span that stay.
    fn count_kept(&self, (start, end): Span) -> u32 {
        end - start - (self.before[end as usize] - self.before[start as usize])
    }

    /// The first node of `spans` that stays.
    fn first_kept(&self, spans: &[Span]) -> Option<u32> {
        let mut firsts = spans
            .iter()
            .map(|(start, end)| (self.next_kept[*start as usize], *end));
        firsts
            .find(|(first, end)| first < end)
            .map(|(first, _)| first)
    }
}

impl UsageScan {
    /// Computes the space that deleting exactly `nodes` and collecting would free. Nodes that are
    /// not there count for nothing. Cost: a look at each frame and each run of chunks with the same
    /// holders, some milliseconds for a million chunks.
    #[must_use]
    pub fn estimate_reclaim(&self, nodes: &[NodeRef]) -> ReclaimEstimate {
        let numbers: Vec<u32> = nodes
            .iter()
            .filter_map(|node| self.node_number(*node))
            .collect();
        let held = self.held_by(&numbers);
        let is_few = numbers.len() <= ALONE_MAX;
        let alone = |number: &u32| {
            if is_few {
                self.freed_bytes(&[*number])
            } else {
                self.usage[*number as usize].exclusive.bytes
            }
        };
        ReclaimEstimate {
            nodes: numbers
                .iter()
                .map(|number| self.node_name(*number))
                .collect(),
            chunks: held.chunks,
            plain: held.chunks * self.chunk_len(),
            freed: self.freed_bytes(&numbers),
            alone: numbers.iter().map(alone).collect(),
        }
    }

    /// The deletions that free at least `bytes` at the least loss: few nodes, old ones, and such as
    /// hold little alone. What `protect` names, what is pinned, belongs to a machine or is kept by
    /// its snapshots stays. `None` if no deletion can free so much.
    ///
    /// A good choice, not the best that there is: that would mean trying all sets.
    #[must_use]
    pub fn reclaim_target(
        &self,
        bytes: u64,
        protect: &dyn Fn(NodeRef) -> bool,
    ) -> Option<ReclaimEstimate> {
        let candidates = self.deletion_candidates(protect);
        let mut left: BTreeSet<usize> = (0..candidates.len()).collect();
        let mut chosen: Vec<usize> = Vec::new();
        let per_round = candidates.len().div_ceil(ROUNDS_MAX).max(1);
        let numbers_of = |chosen: &[usize]| {
            chosen
                .iter()
                .flat_map(|at| candidates[*at].numbers.clone())
                .collect::<Vec<u32>>()
        };
        let mut freed = 0;
        while freed < bytes {
            if left.is_empty() {
                return None;
            }
            let mut ranked = self.rank_candidates(&candidates, &left, &numbers_of(&chosen));
            ranked.truncate(per_round);
            left.retain(|at| !ranked.contains(at));
            chosen.extend(ranked);
            freed = self.freed_bytes(&numbers_of(&chosen));
        }
        self.clean_up(&candidates, &mut chosen, bytes);
        let mut numbers = numbers_of(&chosen);
        numbers.sort_unstable();
        numbers.dedup();
        let nodes: Vec<NodeRef> = numbers
            .iter()
            .map(|number| self.forest.nodes[*number as usize].node)
            .collect();
        Some(self.estimate_reclaim(&nodes))
    }

    /// Takes back what is not needed to free `bytes`, the newest first.
    fn clean_up(&self, candidates: &[DeletionCandidate], chosen: &mut Vec<usize>, bytes: u64) {
        let mut tries: Vec<usize> = chosen.clone();
        tries.sort_by_key(|at| {
            std::cmp::Reverse((
                candidates[*at].is_image,
                candidates[*at].numbers.len(),
                candidates[*at].created_ms,
            ))
        });
        for without in tries.into_iter().take(TRIES_MAX) {
            let rest: Vec<u32> = chosen
                .iter()
                .filter(|at| **at != without)
                .flat_map(|at| candidates[*at].numbers.clone())
                .collect();
            if self.freed_bytes(&rest) >= bytes {
                chosen.retain(|at| *at != without);
            }
        }
    }

    /// The candidates that are left, the best first: what frees most beside what is chosen already,
    /// for each node that is lost; where that is the same, snapshots before images, and the oldest
    /// first.
    fn rank_candidates(
        &self,
        candidates: &[DeletionCandidate],
        left: &BTreeSet<usize>,
        chosen: &[u32],
    ) -> Vec<usize> {
        let doomed = DeletionSet::new(self.forest.nodes.len(), chosen.iter().copied());
        // For each candidate that is left what else goes with it, and for each node which
        // candidates that is with.
        let stays = |number: &u32| doomed.count_kept((*number, number + 1)) > 0;
        let (mut news, mut of_node) = (BTreeMap::new(), BTreeMap::<u32, Vec<usize>>::new());
        for at in left {
            let mut numbers: Vec<u32> = candidates[*at]
                .numbers
                .iter()
                .copied()
                .filter(stays)
                .collect();
            numbers.sort_unstable();
            numbers
                .iter()
                .for_each(|number| of_node.entry(*number).or_default().push(*at));
            news.insert(*at, numbers);
        }
        let mut gains = vec![0_u64; candidates.len()];
        for (set, held) in self
            .counted
            .sets
            .set_ids()
            .zip(&self.counted.totals)
            .filter(|(_, held)| held.bytes > 0)
        {
            let Some(spans) = self.counted.sets.set_spans(set) else {
                continue;
            };
            let Some(first) = doomed.first_kept(spans) else {
                continue;
            };
            let kept: u32 = spans.iter().map(|span| doomed.count_kept(*span)).sum();
            for at in of_node.get(&first).into_iter().flatten() {
                let numbers = &news[at];
                let below = |end: u32| numbers.partition_point(|number| *number < end);
                let within: usize = spans
                    .iter()
                    .map(|(start, end)| below(*end) - below(*start))
                    .sum();
                gains[*at] += if within == kept as usize {
                    held.bytes
                } else {
                    0
                };
            }
        }
        let mut ranked: Vec<usize> = left.iter().copied().collect();
        ranked.sort_by_key(|at| {
            let candidate = &candidates[*at];
            (
                std::cmp::Reverse(gains[*at] / candidate.numbers.len() as u64),
                candidate.is_image,
                candidate.created_ms,
            )
        });
        ranked
    }

    /// The nodes that may be deleted, each with those that go with it.
    fn deletion_candidates(&self, protect: &dyn Fn(NodeRef) -> bool) -> Vec<DeletionCandidate> {
        let mut candidates = Vec::new();
        for (at, named) in self.forest.nodes.iter().enumerate() {
            let is_image = matches!(named.node, NodeRef::Image(_));
            let with = self.goes_with(named.node).unwrap_or_default();
            if with.is_empty() || with.iter().any(|node| protect(*node)) {
                continue;
            }
            let numbers = with
                .iter()
                .filter_map(|node| self.node_number(*node))
                .collect();
            candidates.push(DeletionCandidate {
                numbers,
                is_image,
                created_ms: self.created_ms(at as u32),
            });
        }
        candidates
    }

    /// All that is deleted with `node`, itself included; nothing if it cannot be deleted.
    fn goes_with(&self, node: NodeRef) -> Option<Vec<NodeRef>> {
        match node {
            NodeRef::Snapshot(image, serial) => self
                .tree
                .plan_delete_snapshot(image, serial)
                .ok()
                .map(|_| vec![node]),
            NodeRef::Image(image) => {
                self.tree.plan_delete_image(image, true).ok()?;
                let snapshots = self
                    .tree
                    .snapshots_of(image)
                    .map(|snapshot| NodeRef::Snapshot(image, snapshot.serial));
                let scratches = self
                    .tree
                    .scratches_of(image)
                    .map(|scratch| NodeRef::Image(scratch.id));
                Some(snapshots.chain(scratches).chain([node]).collect())
            }
        }
    }

    /// Bytes on disk that deleting `numbers` and collecting frees.
    fn freed_bytes(&self, numbers: &[u32]) -> u64 {
        self.untouched
            .total_bytes()
            .saturating_sub(self.forecast_without(numbers).total_bytes())
    }

    /// Outlook of a collection without `numbers`.
    pub(super) fn forecast_without(&self, numbers: &[u32]) -> ReclaimForecast {
        let doomed = DeletionSet::new(self.forest.nodes.len(), numbers.iter().copied());
        let dead: Vec<bool> = self
            .counted
            .sets
            .set_ids()
            .map(|set| self.is_dead(set, &doomed))
            .collect();
        let layers = self.forest.layers.iter().zip(&self.counted.page_bytes);
        let stays =
            layers.filter(|(spot, _)| doomed.count_kept((spot.nodes.start, spot.nodes.end)) > 0);
        let pages_len = stays.map(|(_, len)| *len).sum();
        let chunks_per_frame = self.store.inner.chunks.chunks_per_frame() as usize;
        ReclaimForecast::for_dead_sets(
            &self.counted,
            chunks_per_frame,
            &|set| dead[set.0 as usize],
            pages_len,
        )
    }

    /// True if no node that stays holds the chunks of `set`.
    fn is_dead(&self, set: NodeSetId, doomed: &DeletionSet) -> bool {
        self.counted
            .sets
            .set_spans(set)
            .is_some_and(|spans| doomed.first_kept(spans).is_none())
    }

    /// The chunks that only `numbers` hold, with their share of frames.
    fn held_by(&self, numbers: &[u32]) -> Holdings {
        let doomed = DeletionSet::new(self.forest.nodes.len(), numbers.iter().copied());
        let sets = self
            .counted
            .sets
            .set_ids()
            .zip(&self.counted.totals)
            .filter(|(set, _)| *set != NodeSetId::EMPTY);
        let gone = sets.filter(|(set, _)| self.is_dead(*set, &doomed));
        gone.fold(Holdings::default(), |sum, (_, held)| Holdings {
            chunks: sum.chunks + held.chunks,
            bytes: sum.bytes + held.bytes,
        })
    }
}
