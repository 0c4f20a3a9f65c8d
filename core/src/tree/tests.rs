//! Random operations on a tree, against a model that holds for each name the bytes that it shows,
//! one a position.

use std::collections::BTreeMap;

use super::{Image, Layer, LayerMerge, NewTop, NodeRef, PlanError, Tree, TreeEdit};
use crate::name::Name;
use crate::page::{PAGE_SPAN, Page, PageEntry, Run};
use crate::units::{ChunkCount, ChunkId, ChunkLen, ImageId, LayerId, PageIndex};

/// Positions of the longest disk; all lie on the first page.
const POSITIONS_MAX: u64 = 12;
const PAGE: PageIndex = PageIndex(0);

/// A tree, the maps that a store would keep for it, and what must be seen.
struct World {
    tree: Tree,
    random: fastrand::Rng,
    maps: BTreeMap<LayerId, Page>,
    nodes: BTreeMap<NodeRef, Vec<u8>>,
    /// Layers that are held by readers, and the content that these see.
    held: Vec<(LayerId, Vec<u8>)>,
    names: u32,
    written: u8,
}

impl World {
    fn new(seed: u64) -> Self {
        let (random, tree) = (fastrand::Rng::with_seed(seed), Tree::new(ChunkLen::DEFAULT));
        Self {
            tree,
            random,
            maps: BTreeMap::new(),
            nodes: BTreeMap::new(),
            held: Vec::new(),
            names: 0,
            written: 0,
        }
    }

    fn name(&mut self) -> Name {
        self.names += 1;
        Name::new(&format!("n{}", self.names)).expect("a valid name")
    }

    fn len(&mut self) -> u64 {
        self.random.u64(..=POSITIONS_MAX)
    }

    fn any_node(&mut self) -> NodeRef {
        let nth = self.random.usize(..self.nodes.len());
        *self.nodes.keys().nth(nth).expect("one of them")
    }

    fn any_image(&mut self) -> ImageId {
        self.any_node().image_id()
    }

    fn top(&self, node: NodeRef) -> Layer {
        Layer::clone(self.tree.layer_of(node).expect("a node has a layer"))
    }

    fn map(&self, layer: LayerId) -> Page {
        self.maps.get(&layer).cloned().unwrap_or_default()
    }

    /// Applies `edits` as a store does: layers that are dropped lose their maps.
    fn apply(&mut self, edits: &[TreeEdit]) {
        self.tree.apply_edits(edits);
        for edit in edits {
            if let TreeEdit::DropLayer(layer) = edit {
                self.maps.remove(layer);
            }
        }
    }

    /// Gives `layer` a map and the record that goes with it.
    fn with_map(&mut self, mut layer: Layer, map: Page) -> Layer {
        layer.note_page(PAGE, &self.map(layer.id), &map);
        self.maps.insert(layer.id, map);
        layer
    }

    /// The content of the chain from `top`, position by position.
    fn seen(&self, top: LayerId) -> Vec<u8> {
        let len = self
            .tree
            .layer(top)
            .map_or(0, |layer| layer.len / ChunkLen::DEFAULT.byte_len());
        (0..len as u16).map(|at| self.seen_at(top, at)).collect()
    }

    fn seen_at(&self, top: LayerId, at: u16) -> u8 {
        for layer in self.tree.chain_from(top) {
            match self.map(layer.id).entry_at(at) {
                PageEntry::Chunk(id) => return id.0 as u8,
                PageEntry::Zero => return 0,
                PageEntry::Absent if u64::from(at) >= layer.parent_visible.0 => return 0,
                PageEntry::Absent => {}
            }
        }
        0
    }

    fn create(&mut self) {
        let (name, len) = (self.name(), self.len());
        let planned = self.tree.plan_create(&name, bytes(len), 0).expect("create");
        self.apply(&planned.edits);
        self.nodes.insert(planned.node, vec![0; len as usize]);
    }

    fn create_child(&mut self) {
        let (name, parent, len) = (self.name(), self.any_node(), self.len());
        let len = self.random.bool().then_some(len);
        let mut content = self.nodes[&parent].clone();
        let planned = self
            .tree
            .plan_child(&name, parent, len.map(bytes), 0)
            .expect("create a child");
        self.apply(&planned.edits);
        content.resize(len.unwrap_or(content.len() as u64) as usize, 0);
        self.nodes.insert(planned.node, content);
    }

    fn write(&mut self) {
        let image = self.any_image();
        let (node, layer) = (NodeRef::Image(image), self.top(NodeRef::Image(image)));
        let count = self.nodes[&node].len() as u16;
        if count == 0 {
            return;
        }
        let start = self.random.u16(..count);
        let len = self.random.u16(1..=count - start);
        self.written = self.written % 200 + 1;
        let slot = if self.random.bool() {
            PageEntry::Zero
        } else {
            PageEntry::Chunk(ChunkId(self.written.into()))
        };
        let mut map = self.map(layer.id);
        let content = self
            .nodes
            .get_mut(&node)
            .expect("the model knows every node");
        for at in start..start + len {
            // All of a write is one chunk's content again and again.
            map.set_run(Run {
                start: at,
                len: 1,
                slot,
            });
            content[usize::from(at)] = if let PageEntry::Chunk(id) = slot {
                id.0 as u8
            } else {
                0
            };
        }
        // Readers through the active layer itself see what is written to it.
        let content = content.clone();
        self.held
            .iter_mut()
            .filter(|(held, _)| *held == layer.id)
            .for_each(|(_, seen)| seen.clone_from(&content));
        let layer = self.with_map(layer, map);
        self.apply(&[TreeEdit::PutLayer(layer)]);
    }

    fn snapshot(&mut self) {
        let (image, name) = (self.any_image(), self.name());
        let planned = self.tree.plan_snapshot(image, &name, 0).expect("snapshot");
        self.apply(&planned.edits);
        self.nodes
            .insert(planned.node, self.nodes[&NodeRef::Image(image)].clone());
    }

    fn restore(&mut self) {
        let snapshot @ NodeRef::Snapshot(image, serial) = self.any_node() else {
            return;
        };
        let save_as = if self.random.bool() {
            Some(self.name())
        } else {
            None
        };
        let planned = self
            .tree
            .plan_restore(image, serial, save_as.as_ref(), 0)
            .expect("restore");
        self.apply(&planned.edits);
        if let Some(name) = save_as {
            let serial = self
                .tree
                .snapshot_named(image, &name)
                .expect("the saved state")
                .serial;
            self.nodes.insert(
                NodeRef::Snapshot(image, serial),
                self.nodes[&NodeRef::Image(image)].clone(),
            );
        }
        self.nodes
            .insert(NodeRef::Image(image), self.nodes[&snapshot].clone());
    }

    /// An import on top: a layer built on the present state, with the entries that differ.
    fn update(&mut self) {
        let image = self.any_image();
        let (base, edits) = self.tree.plan_base(NodeRef::Image(image), 0).expect("seal");
        self.apply(&edits);
        let mut content = self.nodes[&NodeRef::Image(image)].clone();
        content.iter_mut().for_each(|byte| {
            *byte = if self.random.bool() {
                self.random.u8(..4)
            } else {
                *byte
            }
        });
        let len = self.len();
        content.resize(len as usize, 0);
        let layer = self.tree.blank_layer(Some(&base), bytes(len), 0);
        let below = page(&self.seen(base.id));
        let map = page(&content).relative_to(&below, layer.visible_in(PAGE));
        let layer = self.with_map(layer, map);
        let name = if self.random.bool() {
            Some(self.name())
        } else {
            None
        };
        let planned = self
            .tree
            .plan_update(image, layer, name.as_ref(), 0)
            .expect("update");
        self.apply(&planned.edits);
        self.nodes.insert(NodeRef::Image(image), content.clone());
        self.nodes.insert(planned.node, content);
    }

    fn delete(&mut self) {
        match self.any_node() {
            node @ NodeRef::Snapshot(image, serial) => {
                let edits = self
                    .tree
                    .plan_delete_snapshot(image, serial)
                    .expect("delete a snapshot");
                self.apply(&edits);
                self.nodes.remove(&node);
            }
            NodeRef::Image(image) if self.tree.image_count() > 1 => {
                let edits = self
                    .tree
                    .plan_delete_image(image, true)
                    .expect("delete an image");
                self.apply(&edits);
                self.nodes.retain(|node, _| node.image_id() != image);
            }
            NodeRef::Image(_) => {}
        }
    }

    fn rename(&mut self) {
        let (node, name) = (self.any_node(), self.name());
        let edits = self.tree.plan_rename(node, &name).expect("rename");
        self.apply(&edits);
    }

    fn resize(&mut self) {
        let (image, len) = (self.any_image(), self.len());
        let NewTop { edits, .. } = self
            .tree
            .plan_resize(image, bytes(len), true, 0)
            .expect("resize");
        let top = self.top(NodeRef::Image(image)).id;
        self.apply(&edits);
        self.nodes
            .get_mut(&NodeRef::Image(image))
            .expect("the model knows every node")
            .resize(len as usize, 0);
        let content = self.nodes[&NodeRef::Image(image)].clone();
        // A reader of the active layer sees it resized if that is the same layer.
        let is_same = self.top(NodeRef::Image(image)).id == top;
        self.held
            .iter_mut()
            .filter(|(held, _)| is_same && *held == top)
            .for_each(|(_, seen)| seen.clone_from(&content));
    }

    fn commit(&mut self) {
        let image = self.any_image();
        match self.tree.plan_commit(image, 0) {
            Ok(planned) => {
                self.apply(&planned.edits);
                self.nodes
                    .insert(planned.node, self.nodes[&NodeRef::Image(image)].clone());
            }
            Err(PlanError::NoOrigin(_) | PlanError::OriginChanged { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// An image on another parent, its content kept.
    fn rebase(&mut self) {
        let (image, parent) = (self.any_image(), self.any_node());
        if self.tree.check_rebase(image, parent).is_err() {
            return;
        }
        let (base, edits) = self.tree.plan_base(parent, 0).expect("seal");
        self.apply(&edits);
        let content = self.nodes[&NodeRef::Image(image)].clone();
        let layer = self
            .tree
            .blank_layer(Some(&base), bytes(content.len() as u64), 0);
        let map = page(&content).relative_to(&page(&self.seen(base.id)), layer.visible_in(PAGE));
        let layer = self.with_map(layer, map);
        let replaced = self
            .tree
            .plan_replace(image, layer, Some(parent.image_id()))
            .expect("rebase");
        self.apply(&replaced.edits);
    }

    fn hold(&mut self) {
        if self.held.len() > 3 {
            let (layer, _) = self.held.swap_remove(self.random.usize(..self.held.len()));
            self.tree.release_layer(layer);
            return;
        }
        let node = self.any_node();
        let top = self.top(node).id;
        self.tree.hold_layer(top);
        self.held.push((top, self.seen(top)));
    }

    /// Drops and merges what maintenance would.
    fn tidy(&mut self) {
        let drops = self.tree.from_tops(&self.tree.plan_tidy().drops);
        self.apply(
            &drops
                .into_iter()
                .map(TreeEdit::DropLayer)
                .collect::<Vec<_>>(),
        );
        for merge in self.tree.plan_tidy().merges {
            assert_eq!(
                self.tree.still_mergeable(&[&merge]),
                [true],
                "what was just planned can be done"
            );
            self.merge(&merge);
        }
        let left = self.tree.plan_tidy();
        assert!(
            left.drops.is_empty() && left.merges.is_empty(),
            "once is enough: {left:?}"
        );
    }

    fn merge(&mut self, merge: &LayerMerge) {
        let into = Layer::clone(self.tree.layer(merge.into).expect("the layer that stays"));
        let (mut map, mut visible) = (self.map(into.id), into.visible_in(PAGE));
        for source in &merge.sources {
            map = map.overlay_on(&self.map(*source), visible);
            visible = visible.min(self.tree.layer(*source).expect("a source").visible_in(PAGE));
        }
        let (parent, parent_visible) = self.tree.merged_parent(merge);
        let into = self.with_map(into, map);
        let mut edits = vec![TreeEdit::PutLayer(Layer {
            parent,
            parent_visible,
            ..into
        })];
        edits.extend(merge.sources.iter().copied().map(TreeEdit::DropLayer));
        self.apply(&edits);
    }

    fn step(&mut self) {
        match self.random.u8(..40) {
            0..12 => self.write(),
            12..16 => self.snapshot(),
            16..19 if self.tree.image_count() < 8 => self.create_child(),
            19 if self.tree.image_count() < 8 => self.create(),
            20..22 => self.restore(),
            22..24 => self.update(),
            24..28 => self.delete(),
            28 => self.rename(),
            29..32 => self.resize(),
            32 => self.commit(),
            33..35 => self.rebase(),
            35..37 => self.hold(),
            37..39 => self.tidy(),
            _ => self.write(),
        }
    }

    fn check(&self) {
        assert!(
            self.tree
                .all_nodes()
                .collect::<std::collections::BTreeSet<_>>()
                .iter()
                .eq(self.nodes.keys()),
            "the names that there are"
        );
        for (node, content) in &self.nodes {
            assert_eq!(
                &self.seen(self.top(*node).id),
                content,
                "{}",
                self.tree.display_name(*node)
            );
        }
        for (layer, content) in &self.held {
            assert_eq!(
                &self.seen(*layer),
                content,
                "what is read through held layer {layer}"
            );
        }
        self.check_layers();
    }

    fn check_layers(&self) {
        for layer in self.tree.layers() {
            let map = self.map(layer.id);
            assert_eq!((layer.chunks, layer.zeros), map.count_entries());
            assert_eq!(layer.is_blank(), map.is_empty());
            assert!(
                self.tree.chain_from(layer.id).count() <= self.tree.layers().count(),
                "a chain ends"
            );
            let Some(parent) = layer.parent else { continue };
            assert!(
                self.tree.layer(parent).expect("a parent is there").sealed,
                "a parent is sealed before it has a child"
            );
            assert!(
                self.tree
                    .child_layers(parent)
                    .any(|child| child == layer.id)
            );
        }
        let mut tops: Vec<LayerId> = self
            .tree
            .images()
            .map(|Image { layer, .. }| *layer)
            .collect();
        assert!(
            tops.iter()
                .all(|top| self.tree.layer(*top).is_some_and(|layer| !layer.sealed)),
            "images write to active layers"
        );
        tops.sort_unstable();
        assert!(
            tops.windows(2).all(|pair| pair[0] != pair[1]),
            "each to its own"
        );
    }
}

fn bytes(positions: u64) -> u64 {
    ChunkLen::DEFAULT.bytes_in(ChunkCount(positions))
}

/// The page that shows `content`.
fn page(content: &[u8]) -> Page {
    let mut page = Page::new();
    for (at, byte) in (0..PAGE_SPAN).zip(content) {
        let slot = if *byte == 0 {
            PageEntry::Absent
        } else {
            PageEntry::Chunk(ChunkId((*byte).into()))
        };
        page.push_run(Run {
            start: at,
            len: 1,
            slot,
        });
    }
    page
}

#[test]
fn everybody_sees_what_the_model_says_after_any_operations() {
    for seed in 0..60 {
        println!("seed {seed}");
        let mut world = World::new(seed);
        world.create();
        for _ in 0..400 {
            world.step();
            world.check();
        }
        for (layer, _) in std::mem::take(&mut world.held) {
            world.tree.release_layer(layer);
        }
        world.tidy();
        world.check();
        let nameless = world
            .tree
            .layers()
            .filter(|layer| world.tree.name_count(layer.id) == 0);
        assert!(
            nameless
                .map(|layer| world.tree.child_layers(layer.id).count())
                .all(|children| children > 1),
            "only forks stay nameless"
        );
    }
}
