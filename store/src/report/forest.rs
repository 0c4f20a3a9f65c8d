//! Forest of all layers and all names for them in one depth-first order, so that everything that
//! stands on a layer is a range of numbers.
//!
//! It knows no page and no chunk.

use std::ops::Range;
use std::sync::Arc;

use vellum_core::page::PAGE_SPAN;
use vellum_core::tree::{Layer, NodeRef, Tree};
use vellum_core::units::{ImageId, LayerId, PageIndex};

/// The forest of layers, each before what stands on it.
pub(super) struct LayerTree {
    pub(super) layers: Vec<LayerSpot>,
    /// Images and snapshots: in the order of their layers, those of one layer with snapshots first.
    pub(super) nodes: Vec<NamedNode>,
}

/// A layer in its place.
pub(super) struct LayerSpot {
    pub(super) layer: Arc<Layer>,
    /// The layer below.
    pub(super) parent: Option<usize>,
    /// The end of the layers that stand on it: they begin after it.
    pub(super) end: usize,
    /// The nodes that stand on it, its own first.
    pub(super) nodes: Range<u32>,
    /// Pages on which it hides something of what lies below by seeing only the beginning of that.
    pub(super) cut: Range<u64>,
}

/// An image or snapshot in its place.
pub(super) struct NamedNode {
    pub(super) node: NodeRef,
    pub(super) image: ImageId,
    /// Its layer's place.
    pub(super) layer: usize,
    /// The node that it was made from.
    pub(super) parent: Option<u32>,
    /// The number of nodes that it stands on.
    pub(super) depth: u32,
    /// The end of the nodes that stand on it: they begin after it.
    pub(super) end: u32,
}

/// The part that can be seen through a layer.
#[derive(Clone, Copy, Default)]
struct VisibleBelow {
    /// The end of the positions that can be seen.
    reach: u64,
    /// The last node of it, or of the first layer below that has one.
    nearest: Option<u32>,
}

/// Next step of the walk.
enum VisitStep {
    Enter(LayerId, Option<usize>),
    Leave(usize),
}

impl LayerTree {
    pub(super) fn from_tree(tree: &Tree) -> Self {
        let mut names: Vec<(LayerId, bool, NodeRef)> = tree
            .all_nodes()
            .filter_map(|node| {
                Some((
                    tree.layer_of(node)?.id,
                    matches!(node, NodeRef::Image(_)),
                    node,
                ))
            })
            .collect();
        names.sort_unstable();
        let mut forest = Self {
            layers: Vec::new(),
            nodes: Vec::new(),
        };
        let mut below = Vec::new();
        let roots = tree
            .layers()
            .filter(|layer| layer.parent.is_none())
            .map(|layer| VisitStep::Enter(layer.id, None));
        let mut visits: Vec<VisitStep> = roots.collect();
        visits.reverse();
        while let Some(visit) = visits.pop() {
            match visit {
                VisitStep::Leave(at) => forest.leave_layer(at),
                VisitStep::Enter(id, parent) => {
                    let Some(layer) = tree.layer(id) else {
                        continue;
                    };
                    let first = names.partition_point(|(layer, ..)| *layer < id);
                    let own = names[first..]
                        .iter()
                        .take_while(|(layer, ..)| *layer == id)
                        .map(|(.., node)| *node);
                    let at = forest.enter_layer(layer, parent, own, &mut below);
                    visits.push(VisitStep::Leave(at));
                    let above: Vec<LayerId> = tree.child_layers(id).collect();
                    visits.extend(
                        above
                            .into_iter()
                            .rev()
                            .map(|child| VisitStep::Enter(child, Some(at))),
                    );
                }
            }
        }
        forest
    }

    fn enter_layer(
        &mut self,
        layer: &Arc<Layer>,
        parent: Option<usize>,
        own: impl Iterator<Item = NodeRef>,
        seen: &mut Vec<VisibleBelow>,
    ) -> usize {
        let (at, first) = (self.layers.len(), self.nodes.len() as u32);
        let VisibleBelow { reach, mut nearest } =
            parent.map_or(VisibleBelow::default(), |parent| seen[parent]);
        let span = u64::from(PAGE_SPAN);
        let is_cut = layer.parent_visible.0 < reach;
        let cut = if is_cut {
            layer.parent_visible.0 / span..reach.div_ceil(span)
        } else {
            0..0
        };
        for node in own {
            let depth = nearest.map_or(0, |below: u32| self.nodes[below as usize].depth + 1);
            self.nodes.push(NamedNode {
                node,
                image: node.image_id(),
                layer: at,
                parent: nearest,
                depth,
                end: 0,
            });
            nearest = Some(self.nodes.len() as u32 - 1);
        }
        let top = layer
            .pages
            .ranges()
            .last()
            .map_or(0, |(_, end)| end.saturating_mul(span));
        seen.push(VisibleBelow {
            reach: top.max(reach.min(layer.parent_visible.0)),
            nearest,
        });
        self.layers.push(LayerSpot {
            layer: Arc::clone(layer),
            parent,
            end: 0,
            nodes: first..first,
            cut,
        });
        at
    }

    fn leave_layer(&mut self, at: usize) {
        let (end, nodes_end) = (self.layers.len(), self.nodes.len() as u32);
        let spot = &mut self.layers[at];
        (spot.end, spot.nodes.end) = (end, nodes_end);
        let own = self.nodes[spot.nodes.start as usize..]
            .iter_mut()
            .take_while(|node| node.layer == at);
        own.for_each(|node| node.end = nodes_end);
    }

    /// The layers that only node `number` stands on, top first.
    pub(super) fn own_layers(&self, number: u32) -> impl Iterator<Item = LayerId> + '_ {
        let own = move |at: &usize| self.layers[*at].nodes == (number..number + 1);
        let top = Some(self.nodes[number as usize].layer).filter(own);
        std::iter::successors(top, move |at| self.layers[*at].parent.filter(own))
            .map(|at| self.layers[at].layer.id)
    }

    /// The layers between node `number` and what it stands on, a node or a base that it shares:
    /// what was written from that one's making to its own. None if both stand on the same layer.
    pub(super) fn made_layers(&self, number: u32) -> impl Iterator<Item = LayerId> + '_ {
        let node = &self.nodes[number as usize];
        let is_first = node
            .parent
            .is_none_or(|below| self.nodes[below as usize].layer != node.layer);
        self.unshared_from(is_first.then_some(node.layer))
    }

    /// The layers from place `top` down to the first that has a name or carries something else.
    pub(super) fn unshared_from(&self, top: Option<usize>) -> impl Iterator<Item = LayerId> + '_ {
        let is_named = |at: usize| {
            let first = self.layers[at].nodes.clone().next();
            first.is_some_and(|first| self.nodes[first as usize].layer == at)
        };
        let below = move |at: &usize| {
            let nodes = &self.layers[*at].nodes;
            let parent = self.layers[*at].parent?;
            (!is_named(parent) && self.layers[parent].nodes == *nodes).then_some(parent)
        };
        std::iter::successors(top, below).map(|at| self.layers[at].layer.id)
    }

    /// The layers that have something to say, or to hide, on each page: in page order, stretches of
    /// pages with the same layers.
    pub(super) fn page_stretches(&self) -> PageStretches {
        let mut events = Vec::new();
        for (at, spot) in self.layers.iter().enumerate() {
            let cut = (spot.cut.start, spot.cut.end);
            for (start, end) in spot
                .layer
                .pages
                .ranges()
                .iter()
                .copied()
                .chain([cut])
                .filter(|(start, end)| start < end)
            {
                events.push((start, true, at as u32));
                events.push((end, false, at as u32));
            }
        }
        events.sort_unstable();
        PageStretches {
            events,
            next: 0,
            active: Vec::new(),
        }
    }
}

/// See [`LayerTree::page_stretches`].
pub(super) struct PageStretches {
    /// A page, whether a layer begins or ends to matter there, and which.
    events: Vec<(u64, bool, u32)>,
    next: usize,
    /// In order, once for each reason to matter.
    active: Vec<u32>,
}

impl PageStretches {
    /// The next pages, and the layers that matter there, in order; some perhaps twice.
    pub(super) fn next(&mut self) -> Option<(Range<u64>, &[u32])> {
        loop {
            let (start, ..) = *self.events.get(self.next)?;
            while let Some((_, begins, layer)) =
                self.events.get(self.next).filter(|(at, ..)| *at == start)
            {
                let place = self.active.partition_point(|active| active < layer);
                if *begins {
                    self.active.insert(place, *layer);
                } else {
                    self.active.remove(place);
                }
                self.next += 1;
            }
            if !self.active.is_empty() {
                let (end, ..) = self.events[self.next];
                return Some((start..end, &self.active));
            }
        }
    }
}

impl LayerSpot {
    /// True if it has page `index`.
    pub(super) fn has_page(&self, index: PageIndex) -> bool {
        self.layer.pages.contains(index)
    }
}
