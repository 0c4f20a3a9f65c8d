//! Plans the maintenance of layers: which ones nobody can see any more, and which could be merged.
//!
//! Deleting takes only a name away. A layer that is left without a name is dropped if no layer is
//! built on it; merged into the child if there is one; or, if several layers are built on it,
//! trimmed to the positions that they need. All of this edits maps, never data.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Layer, PageSet, Tree, TreeEdit};
use crate::page::Page;
use crate::positions::PositionSet;
use crate::units::{ChunkCount, ImageId, LayerId, PageIndex};

/// The work of maintenance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MaintenancePlan {
    /// Layers that no name reaches.
    pub drops: Vec<LayerId>,
    /// Layers that only one child reaches.
    pub merges: Vec<LayerMerge>,
}

/// Nameless layers that become part of the layer above them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerMerge {
    /// The layer that stays.
    pub into: LayerId,
    /// The layers that go, from the top down: the first is the parent of `into`.
    pub sources: Vec<LayerId>,
}

/// A nameless layer that several others stand on, and all that decides what of it can be seen.
#[derive(Clone, Debug)]
pub struct SharedLayer {
    /// The layer.
    pub layer: Arc<Layer>,
    /// The layers above it, up to the first on each path that shows all it has: parents before
    /// children.
    askers: Vec<DependentLayer>,
}

/// A layer that asks its parent where it is absent.
#[derive(Clone, Debug)]
struct DependentLayer {
    layer: Arc<Layer>,
    /// The place of its parent among the askers; none if that is the shared layer.
    parent: Option<usize>,
    /// True if an image or a snapshot shows all of it. Otherwise only the positions that its askers
    /// need matter.
    is_seen: bool,
}

impl Tree {
    /// Plans the maintenance that is due now. Layers that are held, and all that lies below them,
    /// are left for later.
    #[must_use]
    pub fn plan_tidy(&self) -> MaintenancePlan {
        let held = self.reachable_layers(self.holds.keys().copied());
        let mut live = self.reachable_layers(self.names.keys().copied());
        live.extend(&held);
        let drops = self
            .layers
            .keys()
            .copied()
            .filter(|id| !live.contains(id))
            .collect();
        let merges = live
            .iter()
            .filter_map(|into| self.plan_merge(*into, &live, &held))
            .collect();
        MaintenancePlan { drops, merges }
    }

    /// The merge that ends in `into`, if `into` stays and its parent need not.
    fn plan_merge(
        &self,
        into: LayerId,
        live: &BTreeSet<LayerId>,
        held: &BTreeSet<LayerId>,
    ) -> Option<LayerMerge> {
        let goes = |layer: &&Arc<Layer>| {
            let only_child = self
                .child_layers(layer.id)
                .filter(|child| live.contains(child))
                .count()
                == 1;
            only_child && self.name_count(layer.id) == 0 && !held.contains(&layer.id)
        };
        if self.layer(into).as_ref().is_some_and(goes) {
            return None;
        }
        let sources: Vec<LayerId> = self
            .chain_from(into)
            .skip(1)
            .take_while(goes)
            .map(|layer| layer.id)
            .collect();
        (!sources.is_empty()).then_some(LayerMerge { into, sources })
    }

    /// Checks which of `merges`, planned a while ago, can still be made: no source was named, held
    /// or built on since.
    #[must_use]
    pub fn still_mergeable(&self, merges: &[&LayerMerge]) -> Vec<bool> {
        let held = self.reachable_layers(self.holds.keys().copied());
        merges
            .iter()
            .map(|merge| self.can_merge(merge, &held))
            .collect()
    }

    fn can_merge(&self, merge: &LayerMerge, held: &BTreeSet<LayerId>) -> bool {
        let mut above = merge.into;
        let is_free = !held.contains(&merge.into);
        is_free
            && merge.sources.iter().all(|source| {
                let is_between = self
                    .layer(above)
                    .is_some_and(|layer| layer.parent == Some(*source))
                    && self.child_layers(*source).eq([above]);
                above = *source;
                is_between
                    && self.layer(*source).is_some()
                    && self.name_count(*source) == 0
                    && !held.contains(source)
            })
    }

    /// The layers that `drops` names, each before its parent: after any number of them, no layer
    /// has lost its parent.
    #[must_use]
    pub fn from_tops(&self, drops: &[LayerId]) -> Vec<LayerId> {
        let mut left: BTreeMap<LayerId, usize> = drops
            .iter()
            .map(|id| (*id, self.child_layers(*id).count()))
            .collect();
        let mut ordered: Vec<LayerId> = left
            .iter()
            .filter(|(_, children)| **children == 0)
            .map(|(id, _)| *id)
            .collect();
        let mut next = 0;
        while let Some(id) = ordered.get(next) {
            next += 1;
            let Some(parent) = self.layer(*id).and_then(|layer| layer.parent) else {
                continue;
            };
            let Some(children) = left.get_mut(&parent) else {
                continue;
            };
            *children -= 1;
            if *children == 0 {
                ordered.push(parent);
            }
        }
        ordered
    }

    /// The layers that make up what `image` itself holds, top first: its active layer, and nameless
    /// ones below that only it reaches. Maintenance makes them one sooner or later, so nothing that
    /// a person sees may depend on how many they are.
    #[must_use]
    pub fn own_layers(&self, image: ImageId) -> Vec<Arc<Layer>> {
        let Some(image) = self.image(image) else {
            return Vec::new();
        };
        let named = self.reachable_layers(self.names.keys().copied());
        let merge = self.plan_merge(image.layer, &named, &BTreeSet::new());
        let below = merge.into_iter().flat_map(|merge| merge.sources);
        std::iter::once(image.layer)
            .chain(below)
            .filter_map(|id| self.layer(id).cloned())
            .collect()
    }

    /// The tree as it will be once `tidy` is done, but for the pages and counts of layers that
    /// others become part of: those have at most the pages that are listed.
    #[must_use]
    pub fn after_maintenance(&self, tidy: &MaintenancePlan) -> Self {
        let mut tree = self.clone();
        for merge in &tidy.merges {
            let Some(into) = self.layer(merge.into) else {
                continue;
            };
            let sources = merge.sources.iter().filter_map(|id| self.layer(*id));
            let pages = PageSet::union_of(sources.map(|layer| &layer.pages).chain([&into.pages]));
            let (parent, parent_visible) = self.merged_parent(merge);
            tree.apply_edits(&[TreeEdit::PutLayer(Layer {
                parent,
                parent_visible,
                pages,
                ..Layer::clone(into)
            })]);
        }
        let sources = tidy
            .merges
            .iter()
            .flat_map(|merge| merge.sources.iter().copied());
        let gone: Vec<LayerId> = self
            .from_tops(&tidy.drops)
            .into_iter()
            .chain(sources)
            .collect();
        tree.apply_edits(
            &gone
                .into_iter()
                .map(TreeEdit::DropLayer)
                .collect::<Vec<_>>(),
        );
        tree
    }

    /// The nameless layers with several children that may be trimmed now. Those that are held, and
    /// all below them, are left for later.
    #[must_use]
    pub fn shared_layers(&self) -> Vec<LayerId> {
        let held = self.held_layers();
        self.layers
            .keys()
            .copied()
            .filter(|id| self.can_trim(*id, &held))
            .collect()
    }

    /// The layers that are held, and all below them.
    #[must_use]
    pub fn held_layers(&self) -> BTreeSet<LayerId> {
        self.reachable_layers(self.holds.keys().copied())
    }

    /// Layer `id` and who asks it, if it may be trimmed.
    #[must_use]
    pub fn shared_layer(&self, id: LayerId, held: &BTreeSet<LayerId>) -> Option<SharedLayer> {
        let layer = Arc::clone(self.layer(id).filter(|_| self.can_trim(id, held))?);
        let askers = self.dependent_layers(id, held);
        Some(SharedLayer { layer, askers })
    }

    /// The layers above `id`, up to the first on each path that shows all it has: parents before
    /// children.
    fn dependent_layers(&self, id: LayerId, held: &BTreeSet<LayerId>) -> Vec<DependentLayer> {
        let mut askers: Vec<DependentLayer> = Vec::new();
        let ask = |id: LayerId, parent: Option<usize>| {
            let layer = self.layer(id).map(Arc::clone).expect("a child is there");
            let is_seen = self.name_count(id) > 0 || held.contains(&id);
            DependentLayer {
                layer,
                parent,
                is_seen,
            }
        };
        askers.extend(self.child_layers(id).map(|child| ask(child, None)));
        let mut next = 0;
        while let Some(asker) = askers.get(next) {
            if !asker.is_seen {
                let above: Vec<DependentLayer> = self
                    .child_layers(asker.layer.id)
                    .map(|child| ask(child, Some(next)))
                    .collect();
                askers.extend(above);
            }
            next += 1;
        }
        askers
    }

    /// The layers above `id` that no name shows whole, as they are once entries of `id` are gone
    /// that only they showed: with other content, so without the identity of what they had.
    #[must_use]
    pub fn unseen_above(&self, id: LayerId, held: &BTreeSet<LayerId>) -> Vec<Layer> {
        let askers = self.dependent_layers(id, held);
        let unseen = askers.iter().filter(|asker| !asker.is_seen);
        unseen
            .map(|asker| Layer {
                content: None,
                ..Layer::clone(&asker.layer)
            })
            .collect()
    }

    fn can_trim(&self, id: LayerId, held: &BTreeSet<LayerId>) -> bool {
        self.name_count(id) == 0 && self.child_layers(id).count() > 1 && !held.contains(&id)
    }

    /// The layers of `tops` and all below them. Cost: each layer once.
    fn reachable_layers(&self, tops: impl Iterator<Item = LayerId>) -> BTreeSet<LayerId> {
        let mut reached = BTreeSet::new();
        for top in tops {
            for layer in self.chain_from(top) {
                if !reached.insert(layer.id) {
                    break;
                }
            }
        }
        reached
    }

    /// The new parent of `into` once `sources` are part of it, and the number of its positions that
    /// are visible: the parent of the last source, of which only as much is visible as was through
    /// all of them.
    #[must_use]
    pub fn merged_parent(&self, merge: &LayerMerge) -> (Option<LayerId>, ChunkCount) {
        let sources = || merge.sources.iter().filter_map(|id| self.layer(*id));
        let own = self.layer(merge.into).map(|layer| layer.parent_visible);
        let visible = sources()
            .map(|layer| layer.parent_visible)
            .chain(own)
            .min()
            .unwrap_or_default();
        (
            sources().next_back().and_then(|layer| layer.parent),
            visible,
        )
    }
}

impl SharedLayer {
    /// The positions of page `index` at which this layer is visible through one of its askers.
    /// `own` gives a layer's own entries there. Cost: the pages of all askers, until it is known
    /// that everything is asked.
    pub fn visible_positions<E>(
        &self,
        index: PageIndex,
        mut own: impl FnMut(&Layer) -> Result<Page, E>,
    ) -> Result<PositionSet, E> {
        // The last place is the shared layer's.
        let mut asked = vec![PositionSet::NONE; self.askers.len() + 1];
        for (nth, asker) in self.askers.iter().enumerate().rev() {
            let parent = asker.parent.unwrap_or(self.askers.len());
            let matters = if asker.is_seen {
                PositionSet::ALL
            } else {
                asked[nth]
            };
            let open = matters
                .intersect_with(&PositionSet::all_before(asker.layer.visible_in(index)))
                .difference_with(&asked[parent]);
            if open == PositionSet::NONE {
                continue;
            }
            let hidden = if asker.layer.pages.contains(index) {
                own(&asker.layer)?.mapped_positions()
            } else {
                PositionSet::NONE
            };
            asked[parent] = asked[parent].union_with(&open.difference_with(&hidden));
        }
        Ok(asked[self.askers.len()])
    }

    /// True if `other`, of the same tree at another time, is about the same layer and the same
    /// askers, none of them changed since.
    #[must_use]
    pub fn is_as(&self, other: &Self) -> bool {
        let layers = |shared: &Self| {
            shared
                .askers
                .iter()
                .map(|asker| (Arc::as_ptr(&asker.layer), asker.is_seen))
                .collect::<Vec<_>>()
        };
        Arc::ptr_eq(&self.layer, &other.layer) && layers(self) == layers(other)
    }
}
