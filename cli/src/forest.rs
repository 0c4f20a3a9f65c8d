//! The tree of images and snapshots as a person sees it: a layer without a name is shown as part of
//! its child, or, if it has several children, as a deleted snapshot.

use std::collections::{BTreeMap, BTreeSet};

use vellum_core::tree::{NodeRef, Tree};
use vellum_core::units::LayerId;

/// An image, a snapshot or a deleted one in the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TreeNode {
    /// Its image or snapshot; none for a deleted snapshot with several children.
    pub(crate) node: Option<NodeRef>,
    /// Its layer.
    pub(crate) layer: LayerId,
    /// Its parent.
    pub(crate) parent: Option<usize>,
    /// Its children, by layer.
    pub(crate) children: Vec<usize>,
    /// Chunk positions that it answers for and what it stands on does not.
    pub(crate) own_chunks: u64,
}

/// All that can be seen, by layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeForest {
    pub(crate) plants: Vec<TreeNode>,
}

/// A plant on its way to paper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TreeLine {
    /// The lines and spaces before its name.
    pub(crate) lead: String,
    pub(crate) plant: usize,
    /// True if it has no parent.
    pub(crate) is_root: bool,
}

impl NodeForest {
    /// The forest of `tree`. Cost: each layer a few times.
    pub(crate) fn from_tree(tree: &Tree) -> Self {
        let seen = seen_layers(tree);
        let mut forest = Self::default();
        let mut tops = BTreeMap::new();
        for (layer, nodes) in &seen {
            let bottom = forest.plants.len();
            forest.add_all(*layer, nodes);
            tops.insert(*layer, (bottom, forest.plants.len() - 1));
        }
        for (layer, (bottom, _)) in &tops {
            let hidden = tree
                .chain_from(*layer)
                .enumerate()
                .take_while(|(depth, below)| *depth == 0 || !seen.contains_key(&below.id));
            let (count, own_chunks) = hidden.fold((0, 0), |(count, chunks), (_, layer)| {
                (count + 1, chunks + layer.chunks)
            });
            forest.plants[*bottom].own_chunks = own_chunks;
            if let Some(below) = tree.chain_from(*layer).nth(count) {
                forest.link_child(tops[&below.id].1, *bottom);
            }
        }
        forest
    }

    /// Adds the names of one layer, each standing on the one before: they hold the same.
    fn add_all(&mut self, layer: LayerId, nodes: &[NodeRef]) {
        let names: Vec<Option<NodeRef>> = if nodes.is_empty() {
            vec![None]
        } else {
            nodes.iter().copied().map(Some).collect()
        };
        for (nth, node) in names.into_iter().enumerate() {
            self.plants.push(TreeNode {
                node,
                layer,
                parent: None,
                children: Vec::new(),
                own_chunks: 0,
            });
            let this = self.plants.len() - 1;
            if nth > 0 {
                self.link_child(this - 1, this);
            }
        }
    }

    fn link_child(&mut self, parent: usize, child: usize) {
        self.plants[child].parent = Some(parent);
        self.plants[parent].children.push(child);
    }

    /// The plant that is called `node`.
    pub(crate) fn find_node(&self, node: NodeRef) -> Option<&TreeNode> {
        self.plants.iter().find(|plant| plant.node == Some(node))
    }

    /// All plants that are called something.
    pub(crate) fn by_node(&self) -> BTreeMap<NodeRef, &TreeNode> {
        self.plants
            .iter()
            .filter_map(|plant| Some((plant.node?, plant)))
            .collect()
    }

    /// The plants as a drawing. What an image stands on runs down in one column, so that a thousand
    /// snapshots are no wider than one; side branches are indented.
    pub(crate) fn drawn_lines(&self, tree: &Tree) -> Vec<TreeLine> {
        let roots = (0..self.plants.len()).filter(|plant| self.plants[*plant].parent.is_none());
        let mut waiting: Vec<(usize, String, String)> = roots
            .map(|root| (root, String::new(), String::new()))
            .collect();
        waiting.reverse();
        let mut lines = Vec::new();
        while let Some((plant, lead, margin)) = waiting.pop() {
            lines.push(TreeLine {
                lead,
                plant,
                is_root: self.plants[plant].parent.is_none(),
            });
            let Some(trunk) = self.trunk_child(tree, plant) else {
                continue;
            };
            waiting.push((trunk, margin.clone(), margin.clone()));
            let branches = self.plants[plant]
                .children
                .iter()
                .rev()
                .filter(|child| **child != trunk);
            waiting.extend(
                branches.map(|branch| (*branch, format!("{margin}├─"), format!("{margin}│ "))),
            );
        }
        lines
    }

    /// The child that goes on in the column of `plant`: of the same image, if one is, and the last
    /// of those.
    fn trunk_child(&self, tree: &Tree, plant: usize) -> Option<usize> {
        let image = |plant: usize| self.plants[plant].node.map(NodeRef::image_id);
        let top = |plant: usize| {
            image(plant)
                .and_then(|image| tree.image(image))
                .map(|image| image.layer)
        };
        let children = &self.plants[plant].children;
        let same = |child: &&usize| image(**child).is_some() && image(**child) == image(plant);
        let current = |child: &&usize| top(**child) == Some(self.plants[**child].layer);
        let mut of_image = children.iter().filter(same);
        of_image
            .clone()
            .find(current)
            .or_else(|| of_image.next_back())
            .or_else(|| children.last())
            .copied()
    }
}

/// The layers that have names, those in the order of taking, and nameless ones that several named
/// things stand on.
fn seen_layers(tree: &Tree) -> BTreeMap<LayerId, Vec<NodeRef>> {
    let mut seen: BTreeMap<LayerId, Vec<NodeRef>> = BTreeMap::new();
    for node in tree.all_nodes() {
        if let Some(layer) = tree.layer_of(node) {
            seen.entry(layer.id).or_default().push(node);
        }
    }
    let mut visited = BTreeSet::new();
    let mut forks = BTreeSet::new();
    for top in seen.keys() {
        for layer in tree.chain_from(*top) {
            if !visited.insert(layer.id) {
                // Somebody came this way before, from another child or from a name.
                forks.insert(layer.id);
                break;
            }
        }
    }
    for fork in forks {
        seen.entry(fork).or_default();
    }
    seen
}

#[cfg(test)]
mod tests {
    use vellum_core::name::Name;
    use vellum_core::tree::{NodePlan, PlanError};
    use vellum_core::units::ChunkLen;

    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).expect("a valid name")
    }

    fn drawn(tree: &Tree) -> Vec<String> {
        let forest = NodeForest::from_tree(tree);
        let shown = |line: &TreeLine| match forest.plants[line.plant].node {
            Some(node) => format!("{}{}", line.lead, tree.display_name(node)),
            None => format!("{}?", line.lead),
        };
        forest.drawn_lines(tree).iter().map(shown).collect()
    }

    /// Image `web` with snapshot `a`, and image `side` on `a`.
    fn grown() -> Tree {
        let mut tree = Tree::new(ChunkLen::DEFAULT);
        let web = apply(&mut tree, |tree| tree.plan_create(&name("web"), 1 << 20, 0));
        let a = apply(&mut tree, |tree| {
            tree.plan_snapshot(web.image_id(), &name("a"), 0)
        });
        apply(&mut tree, |tree| tree.plan_child(&name("side"), a, None, 0));
        tree
    }

    fn apply(
        tree: &mut Tree,
        plan: impl FnOnce(&mut Tree) -> Result<NodePlan, PlanError>,
    ) -> NodeRef {
        let planned = plan(tree).expect("a possible wish");
        tree.apply_edits(&planned.edits);
        planned.node
    }

    #[test]
    fn an_image_goes_on_in_the_column_of_its_snapshots() {
        assert_eq!(drawn(&grown()), ["web@a", "├─side", "web"]);
    }

    #[test]
    fn two_names_of_one_layer_are_both_drawn() {
        let mut tree = grown();
        let web = tree.image_named(&name("web")).expect("it is there").id;
        apply(&mut tree, |tree| tree.plan_snapshot(web, &name("b"), 0));
        assert_eq!(drawn(&tree), ["web@a", "web@b", "├─side", "web"]);
    }

    #[test]
    fn a_deleted_snapshot_that_two_images_share_is_still_seen() {
        let mut tree = grown();
        let web = tree.image_named(&name("web")).expect("it is there").id;
        let serial = tree
            .snapshot_named(web, &name("a"))
            .expect("it is there")
            .serial;
        let edits = tree.plan_delete_snapshot(web, serial).expect("not pinned");
        tree.apply_edits(&edits);
        assert_eq!(drawn(&tree), ["?", "├─web", "side"]);
    }

    #[test]
    fn a_deep_tree_of_branches_needs_no_deep_stack() {
        let mut tree = Tree::new(ChunkLen::DEFAULT);
        let mut top = apply(&mut tree, |tree| tree.plan_create(&name("0"), 1 << 20, 0));
        for nth in 1..2000 {
            let base = apply(&mut tree, |tree| {
                tree.plan_snapshot(top.image_id(), &name("s"), 0)
            });
            top = apply(&mut tree, |tree| {
                tree.plan_child(&name(&nth.to_string()), base, None, 0)
            });
        }
        assert_eq!(drawn(&tree).len(), 2 * 2000 - 1);
    }
}
