//! Sets of nodes, each kept once under a number: half-open spans of node numbers.
//!
//! It knows no chunk. Stores have few different sets, but a hostile one may have many: past a
//! limit, sets of several nodes are told apart by their size alone.

use std::collections::HashMap;

/// Sets that are told apart: 30 to 50 bytes each.
const SETS_MAX: usize = 1 << 22;
/// Spans of all sets together: 8 bytes each.
const SPANS_MAX: usize = 1 << 23;
/// Unions that are remembered.
const UNIONS_MAX: usize = 1 << 20;
/// A set past the limit has the number of its size: a power of two and more, up to the next.
const LUMPS: u32 = 33;

/// Half-open ranges of node numbers: not empty, in order, not touching.
pub(super) type Span = (u32, u32);

/// The number of a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NodeSetId(pub(super) u32);

impl NodeSetId {
    /// The empty set.
    pub(super) const EMPTY: Self = Self(0);
}

/// All sets so far.
pub(super) struct NodeSets {
    spans: Vec<Span>,
    /// For each set where its spans end; they begin where those of the one before end.
    ends: Vec<u32>,
    /// Numbers by hash of their spans, 0 where there is none; a power of two, at most half full.
    table: Vec<u32>,
    unions: HashMap<(NodeSetId, NodeSetId), NodeSetId>,
    /// Sets of several nodes that are told apart.
    limit: usize,
    scratch: Vec<Span>,
}

impl Default for NodeSets {
    fn default() -> Self {
        Self::with_limit(SETS_MAX)
    }
}

impl NodeSets {
    fn with_limit(limit: usize) -> Self {
        let reserved = LUMPS as usize + 1;
        Self {
            spans: Vec::new(),
            ends: vec![0; reserved],
            table: vec![0; 1024],
            unions: HashMap::new(),
            limit,
            scratch: Vec::new(),
        }
    }

    /// The number of sets.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// All numbers.
    pub(super) fn set_ids(&self) -> impl Iterator<Item = NodeSetId> + use<> {
        (0..self.ends.len() as u32).map(NodeSetId)
    }

    /// The nodes of a set; nothing if they are not told apart any more.
    pub(super) fn set_spans(&self, id: NodeSetId) -> Option<&[Span]> {
        if id != NodeSetId::EMPTY && id.0 <= LUMPS {
            return None;
        }
        let start =
            id.0.checked_sub(1)
                .map_or(0, |before| self.ends[before as usize]);
        Some(&self.spans[start as usize..self.ends[id.0 as usize] as usize])
    }

    /// The number of nodes of a set, at least.
    pub(super) fn set_size(&self, id: NodeSetId) -> u64 {
        self.set_spans(id)
            .map_or_else(|| 1 << (id.0 - 1), count_nodes)
    }

    /// The one node of a set of one.
    pub(super) fn single_node(&self, id: NodeSetId) -> Option<u32> {
        match self.set_spans(id)? {
            [(start, end)] if end - start == 1 => Some(*start),
            _ => None,
        }
    }

    /// The number of the set of `spans`.
    pub(super) fn intern_set(&mut self, spans: &[Span]) -> NodeSetId {
        if spans.is_empty() {
            return NodeSetId::EMPTY;
        }
        let place = self.table_slot(spans);
        if self.table[place] != 0 {
            return NodeSetId(self.table[place]);
        }
        let is_single = matches!(spans, [(start, end)] if end - start == 1);
        if !is_single
            && (self.ends.len() >= self.limit || self.spans.len() + spans.len() > SPANS_MAX)
        {
            return lump_id(count_nodes(spans));
        }
        let id = self.ends.len() as u32;
        self.spans.extend_from_slice(spans);
        self.ends.push(self.spans.len() as u32);
        self.table[place] = id;
        if self.ends.len() * 2 > self.table.len() {
            self.grow_table();
        }
        NodeSetId(id)
    }

    /// The number of the nodes of either set.
    pub(super) fn union_sets(&mut self, a: NodeSetId, b: NodeSetId) -> NodeSetId {
        let (a, b) = (a.min(b), a.max(b));
        if a == b || a == NodeSetId::EMPTY {
            return b;
        }
        if let Some(known) = self.unions.get(&(a, b)) {
            return *known;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let union = match (self.set_spans(a), self.set_spans(b)) {
            (Some(first), Some(second)) => {
                merge_spans(first, second, &mut scratch);
                self.intern_set(&scratch)
            }
            // At least as many as the larger of the two.
            _ => lump_id(self.set_size(a).max(self.set_size(b))),
        };
        self.scratch = scratch;
        if self.unions.len() >= UNIONS_MAX {
            self.unions.clear();
        }
        self.unions.insert((a, b), union);
        union
    }

    /// Forgets what only making sets needs.
    pub(super) fn drop_index(&mut self) {
        self.unions = HashMap::new();
        self.table = vec![0; 1024];
    }

    /// The place in the table that `spans` have, or would have.
    fn table_slot(&self, spans: &[Span]) -> usize {
        let mask = self.table.len() - 1;
        let mut place = hash_spans(spans) as usize & mask;
        while self.table[place] != 0 && self.set_spans(NodeSetId(self.table[place])) != Some(spans)
        {
            place = (place + 1) & mask;
        }
        place
    }

    fn grow_table(&mut self) {
        self.table = vec![0; self.table.len() * 2];
        for id in LUMPS + 1..self.ends.len() as u32 {
            let place = self
                .set_spans(NodeSetId(id))
                .map(|spans| self.table_slot(spans));
            self.table[place.expect("only sets past the limit have no spans")] = id;
        }
    }
}

fn lump_id(size: u64) -> NodeSetId {
    NodeSetId((size.max(1).ilog2() + 1).min(LUMPS))
}

fn count_nodes(spans: &[Span]) -> u64 {
    spans
        .iter()
        .map(|(start, end)| u64::from(end - start))
        .sum()
}

fn hash_spans(spans: &[Span]) -> u64 {
    let mixed = spans
        .iter()
        .fold(0x9e37_79b9_7f4a_7c15_u64, |sum, (start, end)| {
            let word = u64::from(*start) << 32 | u64::from(*end);
            (sum ^ word)
                .wrapping_mul(0xff51_afd7_ed55_8ccd)
                .rotate_left(29)
        });
    mixed ^ mixed >> 32
}

/// The spans of both, in order and joined where they touch.
fn merge_spans(a: &[Span], b: &[Span], out: &mut Vec<Span>) {
    out.clear();
    let (mut a, mut b) = (a.iter().copied().peekable(), b.iter().copied().peekable());
    loop {
        let next = match (a.peek(), b.peek()) {
            (Some(first), Some(second)) if first <= second => a.next(),
            (_, Some(_)) => b.next(),
            _ => a.next(),
        };
        let Some(next) = next else { return };
        match out.last_mut() {
            Some(last) if next.0 <= last.1 => last.1 = last.1.max(next.1),
            _ => out.push(next),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn spans_of(set: &BTreeSet<u32>) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        for number in set {
            match spans.last_mut() {
                Some(last) if last.1 == *number => last.1 += 1,
                _ => spans.push((*number, number + 1)),
            }
        }
        spans
    }

    fn random_set(random: &mut fastrand::Rng) -> BTreeSet<u32> {
        (0..random.usize(..6)).map(|_| random.u32(..14)).collect()
    }

    #[test]
    fn unions_agree_with_plain_sets_and_equal_sets_have_one_number() {
        let mut random = fastrand::Rng::with_seed(23);
        let (mut sets, mut known) = (NodeSets::default(), BTreeMap::new());
        for _ in 0..20_000 {
            let (a, b) = (random_set(&mut random), random_set(&mut random));
            let (first, second) = (
                sets.intern_set(&spans_of(&a)),
                sets.intern_set(&spans_of(&b)),
            );
            let union = sets.union_sets(first, second);
            let expected: BTreeSet<u32> = a.union(&b).copied().collect();
            assert_eq!(sets.set_spans(union), Some(spans_of(&expected).as_slice()));
            assert_eq!(*known.entry(expected.clone()).or_insert(union), union);
            assert_eq!(sets.set_size(union), expected.len() as u64);
        }
    }

    #[test]
    fn past_the_limit_only_sets_of_one_are_told_apart() {
        let mut sets = NodeSets::with_limit(40);
        let many: Vec<NodeSetId> = (0..100)
            .map(|nth| sets.intern_set(&[(nth * 10, nth * 10 + 5)]))
            .collect();
        let single = sets.intern_set(&[(7, 8)]);
        assert_eq!(
            (
                sets.single_node(single),
                sets.set_spans(many[99]),
                sets.set_size(many[99])
            ),
            (Some(7), None, 4)
        );
        let union = sets.union_sets(single, many[99]);
        assert_eq!((sets.single_node(union), sets.set_size(union)), (None, 4));
    }
}
