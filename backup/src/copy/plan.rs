//! Plans a copy: which contents have to be described in the target, and which content each is best
//! relative to. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use vellum_core::identity::ContentId;

use crate::contents::parent_of;
use crate::journal::State;
use crate::record::Point;

/// A content that the target does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NewContent {
    pub(super) content: ContentId,
    /// The first one below it in the source that the target has, or will have by then.
    pub(super) base: Option<ContentId>,
}

/// The contents that the target has and may build on, down to one without a parent: the parent of a
/// content that is there may be condemned, or missing.
struct There<'s> {
    target: &'s State,
    known: HashMap<ContentId, bool>,
}

impl There<'_> {
    fn has(&mut self, content: ContentId) -> bool {
        let (mut path, mut next, mut is_firm) = (Vec::new(), Some(content), true);
        while let Some(id) = next {
            if let Some(known) = self.known.get(&id) {
                is_firm = *known;
                break;
            }
            // A walk that comes back to it goes round in a ring.
            self.known.insert(id, false);
            path.push(id);
            is_firm = self.target.may_build_on(id);
            next = self
                .target
                .content(id)
                .filter(|_| is_firm)
                .and_then(|entry| parent_of(&entry.content));
        }
        self.known.extend(path.into_iter().map(|id| (id, is_firm)));
        is_firm
    }
}

/// The contents of `points`, and those below them that several are built on: what nobody names and
/// one is built on becomes part of that one. Each comes after its base. Cost: each content of the
/// source once.
pub(super) fn new_contents(source: &State, target: &State, points: &[Point]) -> Vec<NewContent> {
    let mut there = There {
        target,
        known: HashMap::new(),
    };
    let below = |id: ContentId| {
        source
            .content(id)
            .and_then(|entry| parent_of(&entry.content))
    };
    let named = points
        .iter()
        .filter_map(|point| ContentId::parse(&point.content));
    let named: BTreeSet<ContentId> = named
        .filter(|content| !target.may_build_on(*content))
        .collect();
    let paths = paths(&named, below, |id| there.has(id));
    let branches = branches(&paths, below);
    let is_new = |id: &ContentId| named.contains(id) || branches.contains(id);
    let order: Vec<ContentId> = paths.into_iter().filter(is_new).collect();
    let mut base = |id: ContentId| {
        let mut seen = HashSet::new();
        std::iter::successors(below(id), |next| below(*next))
            .take_while(|id| seen.insert(*id))
            .find(|id| is_new(id) || there.has(*id))
    };
    order
        .into_iter()
        .map(|content| NewContent {
            content,
            base: base(content),
        })
        .collect()
}

/// The contents from `named` down to one that `is_there`: each after the one below it.
fn paths(
    named: &BTreeSet<ContentId>,
    below: impl Fn(ContentId) -> Option<ContentId>,
    mut is_there: impl FnMut(ContentId) -> bool,
) -> Vec<ContentId> {
    let (mut all, mut seen) = (Vec::new(), HashSet::new());
    for top in named {
        let (mut path, mut next) = (Vec::new(), Some(*top));
        while let Some(id) = next.filter(|id| !is_there(*id) && seen.insert(*id)) {
            path.push(id);
            next = below(id);
        }
        all.extend(path.into_iter().rev());
    }
    all
}

/// The contents that are the base of several of `paths`.
fn branches(
    paths: &[ContentId],
    below: impl Fn(ContentId) -> Option<ContentId>,
) -> HashSet<ContentId> {
    let mut children = BTreeMap::<ContentId, u32>::new();
    paths
        .iter()
        .filter_map(|id| below(*id))
        .for_each(|parent| *children.entry(parent).or_default() += 1);
    let known: HashSet<ContentId> = paths.iter().copied().collect();
    children
        .into_iter()
        .filter(|(id, count)| *count > 1 && known.contains(id))
        .map(|(id, _)| id)
        .collect()
}
