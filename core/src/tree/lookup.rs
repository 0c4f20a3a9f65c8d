//! From what a person wrote to the image or snapshot that it means.

use std::sync::Arc;

use super::{Image, Layer, Machine, MachineSnapshot, Snapshot, Tree};
use crate::name::{LATEST, Name, NodeSpec};
use crate::units::{ImageId, LayerId};

/// An image, or one of its snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Node {
    /// The image's present state.
    Image(ImageId),
    /// The state that a snapshot keeps, by its serial.
    Snapshot(ImageId, u64),
}

impl Node {
    /// The image, also of a snapshot.
    #[must_use]
    pub fn image(self) -> ImageId {
        match self {
            Self::Image(image) | Self::Snapshot(image, _) => image,
        }
    }
}

/// Why a text means nothing in this tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// No image has that name or begins with it.
    #[error("no image is called {0:?}")]
    NoImage(String),
    /// The image has no snapshot of that name.
    #[error("image {image} has no snapshot called {snapshot:?}")]
    NoSnapshot {
        /// The image's whole name.
        image: String,
        /// What was asked for.
        snapshot: String,
    },
    /// No machine has that name or begins with it.
    #[error("no machine is called {0:?}")]
    NoMachine(String),
    /// The machine has no snapshot of that name.
    #[error("machine {machine} has no snapshot called {snapshot:?}")]
    NoMachineSnapshot {
        /// The machine's whole name.
        machine: String,
        /// What was asked for.
        snapshot: String,
    },
    /// Several names begin with it.
    #[error("{prefix:?} could mean {}", candidates.join(", "))]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// Some of the names that begin with it.
        candidates: Vec<String>,
    },
}

/// Names that an error shows at most.
const CANDIDATES_MAX: usize = 5;

impl Tree {
    /// The image or snapshot that `spec` means: by whole name, else by a prefix that only one name
    /// has; `@latest` is the newest.
    pub fn find(&self, spec: &NodeSpec) -> Result<Node, LookupError> {
        let image = self.find_image(&spec.image)?;
        match &spec.snapshot {
            None => Ok(Node::Image(image.id)),
            Some(text) => Ok(Node::Snapshot(
                image.id,
                self.find_snapshot(image, text)?.serial,
            )),
        }
    }

    /// The image that `text` means.
    pub fn find_image(&self, text: &str) -> Result<&Image, LookupError> {
        if let Some(image) = Name::new(text)
            .ok()
            .and_then(|name| self.image_named(&name))
        {
            return Ok(image);
        }
        let candidates = self
            .images()
            .filter(|image| !text.is_empty() && image.name.as_str().starts_with(text));
        unique(text, candidates, |image| image.name.to_string())?
            .ok_or_else(|| LookupError::NoImage(text.to_owned()))
    }

    /// The snapshot of `image` that `text` means.
    pub fn find_snapshot(&self, image: &Image, text: &str) -> Result<&Snapshot, LookupError> {
        let missing = || LookupError::NoSnapshot {
            image: image.name.to_string(),
            snapshot: text.to_owned(),
        };
        if text == LATEST {
            return self.snapshots(image.id).next_back().ok_or_else(missing);
        }
        if let Some(snapshot) = Name::new(text)
            .ok()
            .and_then(|name| self.snapshot_named(image.id, &name))
        {
            return Ok(snapshot);
        }
        let candidates = self
            .snapshots(image.id)
            .filter(|snapshot| !text.is_empty() && snapshot.name.as_str().starts_with(text));
        unique(text, candidates, |snapshot| {
            format!("{}@{}", image.name, snapshot.name)
        })?
        .ok_or_else(missing)
    }

    /// The machine that `text` means.
    pub fn find_machine(&self, text: &str) -> Result<&Machine, LookupError> {
        if let Some(machine) = Name::new(text)
            .ok()
            .and_then(|name| self.machines().named(&name))
        {
            return Ok(machine);
        }
        let candidates = self
            .machines()
            .iter()
            .filter(|machine| !text.is_empty() && machine.name.as_str().starts_with(text));
        unique(text, candidates, |machine| machine.name.to_string())?
            .ok_or_else(|| LookupError::NoMachine(text.to_owned()))
    }

    /// The snapshot of `machine` that `text` means.
    pub fn find_machine_snapshot(
        &self,
        machine: &Machine,
        text: &str,
    ) -> Result<&MachineSnapshot, LookupError> {
        let missing = || LookupError::NoMachineSnapshot {
            machine: machine.name.to_string(),
            snapshot: text.to_owned(),
        };
        let mut all = self.machines().snapshots(machine.id);
        if text == LATEST {
            return all.next_back().ok_or_else(missing);
        }
        if let Some(snapshot) = Name::new(text)
            .ok()
            .and_then(|name| self.machines().snapshot_named(machine.id, &name))
        {
            return Ok(snapshot);
        }
        let candidates =
            all.filter(|snapshot| !text.is_empty() && snapshot.name.as_str().starts_with(text));
        unique(text, candidates, |snapshot| {
            format!("{}@{}", machine.name, snapshot.name)
        })?
        .ok_or_else(missing)
    }

    /// The layer whose content a node shows.
    #[must_use]
    pub fn layer_of(&self, node: Node) -> Option<&Arc<Layer>> {
        let id: LayerId = match node {
            Node::Image(image) => self.image(image)?.layer,
            Node::Snapshot(image, serial) => self.snapshot(image, serial)?.layer,
        };
        self.layer(id)
    }

    /// `image` or `image@snapshot`, as people write it.
    #[must_use]
    pub fn display(&self, node: Node) -> String {
        let image = self
            .image(node.image())
            .map_or("(deleted)", |image| image.name.as_str());
        match node {
            Node::Image(_) => image.to_owned(),
            Node::Snapshot(id, serial) => {
                let snapshot = self
                    .snapshot(id, serial)
                    .map_or("(deleted)", |snapshot| snapshot.name.as_str());
                format!("{image}@{snapshot}")
            }
        }
    }

    /// Every image and every snapshot, images by name and each followed by its snapshots in the
    /// order of taking.
    pub fn nodes(&self) -> impl Iterator<Item = Node> + '_ {
        self.images().flat_map(|image| {
            let snapshots = self
                .snapshots(image.id)
                .map(|snapshot| Node::Snapshot(image.id, snapshot.serial));
            std::iter::once(Node::Image(image.id)).chain(snapshots)
        })
    }
}

/// The only candidate, or none.
fn unique<'a, T>(
    prefix: &str,
    mut candidates: impl Iterator<Item = &'a T>,
    name: impl Fn(&T) -> String,
) -> Result<Option<&'a T>, LookupError> {
    let first = candidates.next();
    let others: Vec<String> = candidates.take(CANDIDATES_MAX - 1).map(&name).collect();
    match first {
        Some(first) if !others.is_empty() => {
            let candidates = std::iter::once(name(first)).chain(others).collect();
            Err(LookupError::Ambiguous {
                prefix: prefix.to_owned(),
                candidates,
            })
        }
        first => Ok(first),
    }
}
