//! Which layers nobody can see any more, and which could be one.
//!
//! Deleting takes only a name away. What then stands nameless is dropped if nothing is built on it, or merged into the one child
//! that is: both by edits of maps, never of data.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Layer, Tree};
use crate::units::{ChunkCount, ImageId, LayerId};

/// What maintenance has to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tidy {
    /// Layers that no name reaches.
    pub drops: Vec<LayerId>,
    /// Layers that only one child reaches.
    pub merges: Vec<Merge>,
}

/// Nameless layers that become part of the layer above them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merge {
    /// The layer that stays.
    pub into: LayerId,
    /// The layers that go, from the top down: the first is the parent of `into`.
    pub sources: Vec<LayerId>,
}

impl Tree {
    /// What there is to tidy now. Layers that are held, and all that lies below them, are left for later.
    #[must_use]
    pub fn plan_tidy(&self) -> Tidy {
        let held = self.reached(self.holds.keys().copied());
        let mut live = self.reached(self.names.keys().copied());
        live.extend(&held);
        let drops = self.layers.keys().copied().filter(|id| !live.contains(id)).collect();
        let merges = live.iter().filter_map(|into| self.plan_merge(*into, &live, &held)).collect();
        Tidy { drops, merges }
    }

    /// The merge that ends in `into`, if `into` stays and its parent need not.
    fn plan_merge(&self, into: LayerId, live: &BTreeSet<LayerId>, held: &BTreeSet<LayerId>) -> Option<Merge> {
        let goes = |layer: &&Arc<Layer>| {
            let only_child = self.children(layer.id).filter(|child| live.contains(child)).count() == 1;
            only_child && self.name_count(layer.id) == 0 && !held.contains(&layer.id)
        };
        if self.layer(into).as_ref().is_some_and(goes) {
            return None;
        }
        let sources: Vec<LayerId> = self.chain(into).skip(1).take_while(goes).map(|layer| layer.id).collect();
        (!sources.is_empty()).then_some(Merge { into, sources })
    }

    /// Which of `merges`, planned a while ago, can still be made: nobody has named, held or built on a source since.
    #[must_use]
    pub fn mergeable(&self, merges: &[&Merge]) -> Vec<bool> {
        let held = self.reached(self.holds.keys().copied());
        merges.iter().map(|merge| self.can_merge(merge, &held)).collect()
    }

    fn can_merge(&self, merge: &Merge, held: &BTreeSet<LayerId>) -> bool {
        let mut above = merge.into;
        let is_free = !held.contains(&merge.into);
        is_free
            && merge.sources.iter().all(|source| {
                let is_between = self.layer(above).is_some_and(|layer| layer.parent == Some(*source)) && self.children(*source).eq([above]);
                above = *source;
                is_between && self.layer(*source).is_some() && self.name_count(*source) == 0 && !held.contains(source)
            })
    }

    /// The layers that `drops` names, each before its parent: after any number of them, no layer has lost its parent.
    #[must_use]
    pub fn from_tops(&self, drops: &[LayerId]) -> Vec<LayerId> {
        let mut left: BTreeMap<LayerId, usize> = drops.iter().map(|id| (*id, self.children(*id).count())).collect();
        let mut ordered: Vec<LayerId> = left.iter().filter(|(_, children)| **children == 0).map(|(id, _)| *id).collect();
        let mut next = 0;
        while let Some(id) = ordered.get(next) {
            next += 1;
            let Some(parent) = self.layer(*id).and_then(|layer| layer.parent) else { continue };
            let Some(children) = left.get_mut(&parent) else { continue };
            *children -= 1;
            if *children == 0 {
                ordered.push(parent);
            }
        }
        ordered
    }

    /// The layers that make up what `image` itself holds, top first: its active layer, and nameless ones below that only it reaches.
    /// Maintenance makes them one sooner or later, so nothing that a person sees may depend on how many they are.
    #[must_use]
    pub fn own_layers(&self, image: ImageId) -> Vec<Arc<Layer>> {
        let Some(image) = self.image(image) else { return Vec::new() };
        let named = self.reached(self.names.keys().copied());
        let merge = self.plan_merge(image.layer, &named, &BTreeSet::new());
        let below = merge.into_iter().flat_map(|merge| merge.sources);
        std::iter::once(image.layer).chain(below).filter_map(|id| self.layer(id).cloned()).collect()
    }

    /// The layers of `tops` and all below them. Cost: each layer once.
    fn reached(&self, tops: impl Iterator<Item = LayerId>) -> BTreeSet<LayerId> {
        let mut reached = BTreeSet::new();
        for top in tops {
            for layer in self.chain(top) {
                if !reached.insert(layer.id) {
                    break;
                }
            }
        }
        reached
    }

    /// What `into` becomes, but for its pages and counts, once `sources` are part of it: the parent of the last, of which only as
    /// much is visible as was through all of them.
    #[must_use]
    pub fn merged_parent(&self, merge: &Merge) -> (Option<LayerId>, ChunkCount) {
        let sources = || merge.sources.iter().filter_map(|id| self.layer(*id));
        let own = self.layer(merge.into).map(|layer| layer.parent_visible);
        let visible = sources().map(|layer| layer.parent_visible).chain(own).min().unwrap_or_default();
        (sources().next_back().and_then(|layer| layer.parent), visible)
    }
}
