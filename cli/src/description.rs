//! An image or snapshot as answers describe it.

use serde::Serialize;
use vellum_core::tree::{Mode, NodeRef, Tree};

use crate::forest::{NodeForest, TreeNode};
use crate::output::time::Rfc3339Time;

/// An image or snapshot.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct NodeDescription {
    /// `image` or `image@snapshot`; a deleted snapshot that others stand on has none.
    pub(crate) name: Option<String>,
    pub(crate) kind: &'static str,
    /// Its parent's name.
    pub(crate) parent: Option<String>,
    pub(crate) size: u64,
    /// Bytes of its map that are not its parent's, before deduplication and compression.
    pub(crate) own_bytes: u64,
    pub(crate) mode: Option<&'static str>,
    /// Of an immutable image: whether what is written goes when its guest is switched on anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) autoreset: Option<bool>,
    pub(crate) created: Option<Rfc3339Time>,
    pub(crate) tags: Vec<String>,
    pub(crate) pinned: bool,
}

impl NodeDescription {
    pub(crate) fn from_tree_node(tree: &Tree, forest: &NodeForest, plant: &TreeNode) -> Self {
        let parent = plant.parent.map(|parent| &forest.plants[parent]);
        let layer = tree.layer(plant.layer);
        let mut description = Self {
            name: plant.node.map(|node| tree.display_name(node)),
            kind: "deleted",
            parent: parent
                .and_then(|parent| parent.node)
                .map(|node| tree.display_name(node)),
            size: layer.map_or(0, |layer| layer.len),
            own_bytes: plant.own_chunks * tree.chunk_len().byte_len(),
            mode: None,
            autoreset: None,
            created: None,
            tags: Vec::new(),
            pinned: false,
        };
        match plant.node {
            Some(NodeRef::Image(image)) => description.add_image(tree.image(image)),
            Some(NodeRef::Snapshot(image, serial)) => {
                description.add_snapshot(tree.snapshot(image, serial));
            }
            None => {}
        }
        description
    }

    fn add_image(&mut self, image: Option<&vellum_core::tree::Image>) {
        let Some(image) = image else { return };
        self.kind = "image";
        self.mode = Some(image.mode.mode_name());
        self.autoreset = if let Mode::Immutable { autoreset } = image.mode {
            Some(autoreset)
        } else {
            None
        };
        self.created = Some(Rfc3339Time::new(image.created_ms));
        self.tags = image.tags.iter().map(ToString::to_string).collect();
        self.pinned = image.pinned;
    }

    fn add_snapshot(&mut self, snapshot: Option<&vellum_core::tree::Snapshot>) {
        let Some(snapshot) = snapshot else { return };
        self.kind = "snapshot";
        self.created = Some(Rfc3339Time::new(snapshot.created_ms));
        self.tags = snapshot.tags.iter().map(ToString::to_string).collect();
        self.pinned = snapshot.pinned;
    }

    /// The name, for people.
    pub(crate) fn display_title(&self) -> &str {
        self.name.as_deref().unwrap_or("(deleted)")
    }

    /// Pin and tags, in one cell.
    pub(crate) fn pin_and_tags(&self) -> String {
        let pin = self.pinned.then_some("pinned".to_owned());
        let tags = self.tags.iter().map(|tag| format!("+{tag}"));
        pin.into_iter().chain(tags).collect::<Vec<_>>().join(" ")
    }
}
