//! The tree of images and snapshots as a person sees it: a layer without a name is shown as part of
//! what stands on it, or, if several things do, as the base that they share.

use std::collections::{BTreeMap, BTreeSet};

use super::{NodeRef, Tree};
use crate::outline::{OutlineItem, OutlineRow, arrange_outline};
use crate::units::{ImageId, LayerId};

/// Ids that a new image takes before its own: those of its first layer, and of one on top of that.
const IDS_OF_A_NEW_IMAGE: u64 = 2;

/// An image, a snapshot or a shared base in the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeNode {
    /// Its image or snapshot; none for a shared base.
    pub node: Option<NodeRef>,
    /// Its layer.
    pub layer: LayerId,
    /// The place of what it stands on.
    pub parent: Option<usize>,
    /// The places of what stands on it, by layer.
    pub children: Vec<usize>,
    /// Layers that are shown as part of it: its own, and those without a name below that.
    pub layers: usize,
    /// Chunk positions that it answers for and what it stands on does not.
    pub own_chunks: u64,
    /// The image in whose history it is; none for a base that is in no one's.
    pub owner: Option<ImageId>,
    /// The images that go on from a shared base, the oldest first.
    pub sharers: Vec<ImageId>,
}

/// All that can be seen, by layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeForest {
    /// A node's place here is how others name it.
    pub plants: Vec<TreeNode>,
}

/// A layer that is seen: one with names, or one that several seen ones stand on.
#[derive(Debug, Default)]
struct SeenLayer {
    /// Its names, those of each image in the order of taking.
    names: Vec<NodeRef>,
    below: Option<LayerId>,
    above: Vec<LayerId>,
    /// Layers and chunks of it and of all between it and the one below.
    layers: usize,
    chunks: u64,
    owner: Option<ImageId>,
}

/// The plants of a layer.
#[derive(Debug, Default)]
struct LayerPlants {
    /// The one that is nobody's, or none of whose owner's names is left.
    base: Option<usize>,
    /// Those with names, and the age of each.
    named: Vec<(ImageId, u64, usize)>,
}

impl NodeForest {
    /// The forest of `tree`. Cost: each layer a few times.
    #[must_use]
    pub fn from_tree(tree: &Tree) -> Self {
        let mut seen = seen_layers(tree);
        link_layers(tree, &mut seen);
        let order = parents_first(&seen);
        for layer in order.iter().rev() {
            let owner = layer_owner(tree, &seen, *layer);
            seen.entry(*layer).or_default().owner = owner;
        }
        let mut forest = Self::default();
        let mut grown: BTreeMap<LayerId, LayerPlants> = BTreeMap::new();
        for layer in order {
            let plants = forest.add_layer(layer, &seen, &grown);
            grown.insert(layer, plants);
        }
        for base in 0..forest.plants.len() {
            if forest.plants[base].node.is_none() {
                let above = forest.nodes_above(&forest.plants[base]).into_iter();
                let images: BTreeSet<ImageId> = above.map(NodeRef::image_id).collect();
                forest.plants[base].sharers = images.into_iter().collect();
            }
        }
        forest
    }

    /// Adds the plants of `layer`; those of the one below are in `grown`.
    fn add_layer(
        &mut self,
        layer: LayerId,
        seen: &BTreeMap<LayerId, SeenLayer>,
        grown: &BTreeMap<LayerId, LayerPlants>,
    ) -> LayerPlants {
        let spot = &seen[&layer];
        let hold = spot.below.and_then(|below| {
            let age = spot.owner.map_or(layer.0, |owner| owner.0);
            grown[&below].hold_of(seen[&below].owner, spot.owner, age)
        });
        let mut plants = LayerPlants::default();
        let first = self.plants.len();
        let owner_has_name = |owner| spot.names.iter().any(|name| name.image_id() == owner);
        if !spot.owner.is_some_and(owner_has_name) {
            let base = self.add_plant(layer, None, spot.owner, hold);
            plants.base = Some(base);
        }
        let is_owners = |node: &&NodeRef| Some(node.image_id()) == spot.owner;
        let owners = spot.names.iter().filter(is_owners);
        let others = spot.names.iter().filter(|node| !is_owners(node));
        for node in owners.chain(others) {
            let image = node.image_id();
            let below = plants.hold_of(spot.owner, Some(image), image.0).or(hold);
            let place = self.add_plant(layer, Some(*node), Some(image), below);
            plants.named.push((image, name_age(*node), place));
        }
        let bottom = &mut self.plants[first];
        (bottom.layers, bottom.own_chunks) = (spot.layers, spot.chunks);
        plants
    }

    fn add_plant(
        &mut self,
        layer: LayerId,
        node: Option<NodeRef>,
        owner: Option<ImageId>,
        parent: Option<usize>,
    ) -> usize {
        let place = self.plants.len();
        self.plants.push(TreeNode {
            node,
            layer,
            parent,
            children: Vec::new(),
            layers: 0,
            own_chunks: 0,
            owner,
            sharers: Vec::new(),
        });
        if let Some(parent) = parent {
            self.plants[parent].children.push(place);
        }
        place
    }

    /// The images and snapshots that stand on `plant` with nothing that has a name between.
    #[must_use]
    pub fn nodes_above(&self, plant: &TreeNode) -> Vec<NodeRef> {
        let (mut nodes, mut waiting) = (Vec::new(), vec![plant]);
        while let Some(below) = waiting.pop() {
            for child in &below.children {
                let child = &self.plants[*child];
                match child.node {
                    Some(node) => nodes.push(node),
                    None => waiting.push(child),
                }
            }
        }
        nodes
    }

    /// The plant that is called `node`.
    #[must_use]
    pub fn find_node(&self, node: NodeRef) -> Option<&TreeNode> {
        self.plants.iter().find(|plant| plant.node == Some(node))
    }

    /// All plants that are called something.
    #[must_use]
    pub fn by_node(&self) -> BTreeMap<NodeRef, &TreeNode> {
        self.plants
            .iter()
            .filter_map(|plant| Some((plant.node?, plant)))
            .collect()
    }

    /// The lines of a drawing, whose items are places of plants.
    #[must_use]
    pub fn outline(&self, tree: &Tree) -> Vec<OutlineRow> {
        let items: Vec<OutlineItem> = self
            .plants
            .iter()
            .map(|plant| outline_item(tree, plant))
            .collect();
        arrange_outline(&items)
    }
}

impl LayerPlants {
    /// The plant that something of image `of` stands on, which is that old: a name of its own, else
    /// the name that was the newest of the layer's `owner` then, else the base.
    fn hold_of(&self, owner: Option<ImageId>, of: Option<ImageId>, age: u64) -> Option<usize> {
        let names_of = |image: Option<ImageId>| {
            let named = self.named.iter();
            named.filter(move |(other, ..)| Some(*other) == image)
        };
        let older = names_of(owner).rfind(|(_, taken, _)| *taken < age);
        names_of(of)
            .next_back()
            .or(older)
            .map(|(.., place)| *place)
            .or(self.base)
            .or_else(|| names_of(owner).next().map(|(.., place)| *place))
    }
}

fn name_age(node: NodeRef) -> u64 {
    match node {
        NodeRef::Snapshot(_, serial) => serial,
        NodeRef::Image(image) => image.0,
    }
}

/// The image whose state layer `id` was: the oldest that goes on from it, and was made from no
/// other that does. If several go on, and the layer is older than that one, it was the state of the
/// one that that was made from, which is gone.
fn layer_owner(tree: &Tree, seen: &BTreeMap<LayerId, SeenLayer>, id: LayerId) -> Option<ImageId> {
    let spot = &seen[&id];
    let named = spot.names.iter().map(|node| node.image_id());
    let above = spot.above.iter().filter_map(|above| seen[above].owner);
    let images: BTreeSet<ImageId> = named.chain(above).collect();
    let origin = |image: &ImageId| tree.image(*image)?.origin;
    let mut oldest = images
        .iter()
        .filter(|image| origin(image).is_none_or(|origin| !images.contains(&origin)));
    let first = oldest.next()?;
    let is_nobodys = |above: &LayerId| seen[above].owner.is_none();
    let is_shared = images.len() > 1 || spot.above.iter().any(is_nobodys);
    let is_older = id.0 + IDS_OF_A_NEW_IMAGE < first.0;
    let is_anothers = is_older && is_shared && origin(first).is_some();
    (!is_anothers).then_some(*first)
}

/// Notes of each layer what it stands on, and what lies between.
fn link_layers(tree: &Tree, seen: &mut BTreeMap<LayerId, SeenLayer>) {
    let ids: Vec<LayerId> = seen.keys().copied().collect();
    for id in ids {
        let mut chain = tree.chain_from(id);
        let (mut layers, mut chunks, mut below) = (0, 0, None);
        for layer in chain.by_ref() {
            if layers > 0 && seen.contains_key(&layer.id) {
                below = Some(layer.id);
                break;
            }
            (layers, chunks) = (layers + 1, chunks + layer.chunks);
        }
        if let Some(below) = below.and_then(|below| seen.get_mut(&below)) {
            below.above.push(id);
        }
        if let Some(spot) = seen.get_mut(&id) {
            (spot.layers, spot.chunks, spot.below) = (layers, chunks, below);
        }
    }
}

fn parents_first(seen: &BTreeMap<LayerId, SeenLayer>) -> Vec<LayerId> {
    let roots = seen.iter().filter(|(_, spot)| spot.below.is_none());
    let mut order: Vec<LayerId> = roots.map(|(id, _)| *id).collect();
    let mut next = 0;
    while let Some(id) = order.get(next) {
        order.extend(&seen[id].above);
        next += 1;
    }
    order
}

fn outline_item(tree: &Tree, plant: &TreeNode) -> OutlineItem {
    let serial = match plant.node {
        Some(NodeRef::Snapshot(_, serial)) => serial,
        Some(NodeRef::Image(_)) | None => 0,
    };
    let image = plant.node.and_then(|node| match node {
        NodeRef::Image(image) => tree.image(image),
        NodeRef::Snapshot(..) => None,
    });
    OutlineItem {
        image: plant.owner.map(|image| image.0),
        is_image: matches!(plant.node, Some(NodeRef::Image(_))),
        stands_on: plant.parent,
        age: (plant.layer.0, serial),
        block_age: match (image, plant.owner) {
            (Some(image), _) => image.id.0,
            (None, Some(_)) => u64::MAX,
            // Ids of layers and images come from one counter.
            (None, None) => plant.layer.0,
        },
        made_from: image.and_then(|image| Some(image.origin?.0)),
    }
}

/// The layers that have names, and nameless ones that several seen ones stand on.
fn seen_layers(tree: &Tree) -> BTreeMap<LayerId, SeenLayer> {
    let mut seen: BTreeMap<LayerId, SeenLayer> = BTreeMap::new();
    for node in tree.all_nodes() {
        if let Some(layer) = tree.layer_of(node) {
            seen.entry(layer.id).or_default().names.push(node);
        }
    }
    for spot in seen.values_mut() {
        // Not by the names of images, which change; an image comes after its snapshots.
        spot.names.sort_by_key(|node| match node {
            NodeRef::Snapshot(image, serial) => (*image, false, *serial),
            NodeRef::Image(image) => (*image, true, 0),
        });
    }
    let tops: Vec<LayerId> = seen.keys().copied().collect();
    let mut visited = BTreeSet::new();
    for top in tops {
        for layer in tree.chain_from(top) {
            if !visited.insert(layer.id) {
                // Somebody came this way before, from another child or from a name.
                seen.entry(layer.id).or_default();
                break;
            }
        }
    }
    seen
}
