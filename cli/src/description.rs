//! An image or snapshot as answers describe it.

use std::collections::BTreeMap;

use serde::Serialize;
use vellum_core::tree::{Marks, Mode, NodeForest, NodeRef, Tree, TreeNode};
use vellum_core::units::LayerId;

use crate::forest::LineKind;
use crate::output::time::Rfc3339Time;

/// Images that the title of a shared base names.
const SHARERS_MAX: usize = 3;

/// An image or snapshot.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct NodeDescription {
    /// `image` or `image@snapshot`; a base that several share has none.
    pub(crate) name: Option<String>,
    /// A name for a shared base, which no image or snapshot can have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    /// `image`, `snapshot` or `base`.
    pub(crate) kind: &'static str,
    /// Name or id of what it stands on.
    pub(crate) parent: Option<String>,
    /// The same for people.
    #[serde(skip)]
    pub(crate) stands_on: Option<String>,
    /// The images that share a base.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) shared_by: Option<Vec<String>>,
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
    /// The words of people; empty if there are none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) description: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) properties: BTreeMap<String, String>,
}

impl NodeDescription {
    pub(crate) fn from_tree_node(tree: &Tree, forest: &NodeForest, plant: &TreeNode) -> Self {
        let parent = plant.parent.map(|parent| &forest.plants[parent]);
        let layer = tree.layer(plant.layer);
        let key = |plant: &TreeNode| match plant.node {
            Some(node) => tree.display_name(node),
            None => base_id(plant.layer),
        };
        let is_base = plant.node.is_none();
        let mut description = Self {
            name: plant.node.map(|node| tree.display_name(node)),
            id: is_base.then(|| base_id(plant.layer)),
            kind: "base",
            parent: parent.map(key),
            stands_on: parent.map(|parent| plant_title(tree, parent)),
            shared_by: is_base.then(|| image_names(tree, plant).collect()),
            size: layer.map_or(0, |layer| layer.len),
            own_bytes: plant.own_chunks * tree.chunk_len().byte_len(),
            mode: None,
            autoreset: None,
            created: None,
            tags: Vec::new(),
            pinned: false,
            description: String::new(),
            properties: BTreeMap::new(),
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
        self.add_marks(&image.marks);
    }

    fn add_snapshot(&mut self, snapshot: Option<&vellum_core::tree::Snapshot>) {
        let Some(snapshot) = snapshot else { return };
        self.kind = "snapshot";
        self.created = Some(Rfc3339Time::new(snapshot.created_ms));
        self.add_marks(&snapshot.marks);
    }

    fn add_marks(&mut self, marks: &Marks) {
        self.tags = marks.tags.iter().map(ToString::to_string).collect();
        self.pinned = marks.pinned;
        marks
            .annotation
            .description()
            .clone_into(&mut self.description);
        self.properties = marks.annotation.property_texts();
    }

    /// The first line of the description.
    pub(crate) fn first_line(&self) -> &str {
        self.description.lines().next().unwrap_or_default()
    }

    /// The name, for people.
    pub(crate) fn display_title(&self) -> String {
        let shared_by = self.shared_by.as_deref().unwrap_or_default();
        self.name
            .clone()
            .unwrap_or_else(|| base_title(shared_by.iter()))
    }

    pub(crate) fn line_kind(&self) -> LineKind {
        match self.kind {
            "image" => LineKind::Image,
            "snapshot" => LineKind::Snapshot,
            _ => LineKind::Base,
        }
    }

    /// Pin and tags, in one cell.
    pub(crate) fn pin_and_tags(&self) -> String {
        let pin = self.pinned.then_some("pinned".to_owned());
        let tags = self.tags.iter().map(|tag| format!("+{tag}"));
        pin.into_iter().chain(tags).collect::<Vec<_>>().join(" ")
    }
}

/// A name for a base without one. No image's has a slash.
pub(crate) fn base_id(layer: LayerId) -> String {
    format!("layer/{layer}")
}

/// `shared base of web, web2`, of those who share it.
pub(crate) fn base_title<S: AsRef<str>>(sharers: impl ExactSizeIterator<Item = S>) -> String {
    let count = sharers.len();
    let first: Vec<S> = sharers.take(SHARERS_MAX).collect();
    let more = match count - first.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let names: Vec<&str> = first.iter().map(AsRef::as_ref).collect();
    format!("shared base of {}{more}", names.join(", "))
}

/// The name of a plant, for people.
pub(crate) fn plant_title(tree: &Tree, plant: &TreeNode) -> String {
    match plant.node {
        Some(node) => tree.display_name(node),
        None => base_title(image_names(tree, plant)),
    }
}

fn image_names(tree: &Tree, base: &TreeNode) -> impl ExactSizeIterator<Item = String> {
    let images = base.sharers.iter();
    images.map(|image| tree.display_name(NodeRef::Image(*image)))
}
