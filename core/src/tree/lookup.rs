//! Looks up the image or snapshot that a person's text names.

use std::sync::Arc;

use super::{Image, Layer, Snapshot, Tree, VirtualMachine, VirtualMachineSnapshot};
use crate::name::{LATEST, Name, NodeSpec};
use crate::units::{ImageId, LayerId};

/// An image, or one of its snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NodeRef {
    /// The image's present state.
    Image(ImageId),
    /// The state that a snapshot keeps, by its serial.
    Snapshot(ImageId, u64),
}

impl NodeRef {
    /// The image, also of a snapshot.
    #[must_use]
    pub fn image_id(self) -> ImageId {
        match self {
            Self::Image(image) | Self::Snapshot(image, _) => image,
        }
    }
}

/// The reason why a text means nothing in this tree.
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
        /// The snapshot that was asked for.
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
        /// The snapshot that was asked for.
        snapshot: String,
    },
    /// Names begin with it, but here only a whole one will do.
    #[error("{missing}; did you mean {}?", candidates.join(", "))]
    NotWhole {
        /// The failed lookup of the other part.
        missing: Box<LookupError>,
        /// Some of the names that begin with it.
        candidates: Vec<String>,
    },
    /// Several names begin with it.
    #[error("{prefix:?} could mean {}", candidates.join(", "))]
    Ambiguous {
        /// The prefix that was given.
        prefix: String,
        /// Some of the names that begin with it.
        candidates: Vec<String>,
    },
}

/// Names that an error shows at most.
const CANDIDATES_MAX: usize = 5;

/// The part of a name that has to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spelling {
    /// All of it: for verbs that change, overwrite or delete. A name that is gone must not come to
    /// mean its neighbour.
    Whole,
    /// A prefix that only one name has is enough: for verbs that only read.
    Shortened,
}

impl Tree {
    /// The image or snapshot that `spec` means: by whole name, else by a prefix that only one name
    /// has; `@latest` is the newest.
    pub fn find_node(&self, spec: &NodeSpec) -> Result<NodeRef, LookupError> {
        self.find_spelled(spec, Spelling::Shortened)
    }

    /// Looks up by whole names only; else as [`Tree::find_node`].
    pub fn find_whole(&self, spec: &NodeSpec) -> Result<NodeRef, LookupError> {
        self.find_spelled(spec, Spelling::Whole)
    }

    /// The image that `text` means, or begins.
    pub fn find_image(&self, text: &str) -> Result<&Image, LookupError> {
        self.spelled_image(text, Spelling::Shortened)
    }

    /// The machine that `text` means, or begins.
    pub fn find_machine(&self, text: &str) -> Result<&VirtualMachine, LookupError> {
        self.spelled_machine(text, Spelling::Shortened)
    }

    /// The machine of which `text` is the whole name.
    pub fn find_whole_machine(&self, text: &str) -> Result<&VirtualMachine, LookupError> {
        self.spelled_machine(text, Spelling::Whole)
    }

    /// The snapshot of `machine` that `text` means, or begins.
    pub fn find_machine_snapshot(
        &self,
        machine: &VirtualMachine,
        text: &str,
    ) -> Result<&VirtualMachineSnapshot, LookupError> {
        self.spelled_machine_snapshot(machine, text, Spelling::Shortened)
    }

    /// The snapshot of `machine` of which `text` is the whole name.
    pub fn find_whole_machine_snapshot(
        &self,
        machine: &VirtualMachine,
        text: &str,
    ) -> Result<&VirtualMachineSnapshot, LookupError> {
        self.spelled_machine_snapshot(machine, text, Spelling::Whole)
    }

    fn find_spelled(&self, spec: &NodeSpec, spelling: Spelling) -> Result<NodeRef, LookupError> {
        let image = self.spelled_image(&spec.image, spelling)?;
        match &spec.snapshot {
            None => Ok(NodeRef::Image(image.id)),
            Some(text) => Ok(NodeRef::Snapshot(
                image.id,
                self.spelled_snapshot(image, text, spelling)?.serial,
            )),
        }
    }

    fn spelled_image(&self, text: &str, spelling: Spelling) -> Result<&Image, LookupError> {
        if let Some(image) = Name::new(text)
            .ok()
            .and_then(|name| self.image_named(&name))
        {
            return Ok(image);
        }
        let begun = self
            .images()
            .filter(|image| has_prefix(image.name.as_str(), text));
        let missing = LookupError::NoImage(text.to_owned());
        choose_unique(begun, text, spelling, missing, |image| {
            image.name.to_string()
        })
    }

    fn spelled_snapshot(
        &self,
        image: &Image,
        text: &str,
        spelling: Spelling,
    ) -> Result<&Snapshot, LookupError> {
        let missing = LookupError::NoSnapshot {
            image: image.name.to_string(),
            snapshot: text.to_owned(),
        };
        if text == LATEST {
            return self.snapshots_of(image.id).next_back().ok_or(missing);
        }
        if let Some(snapshot) = Name::new(text)
            .ok()
            .and_then(|name| self.snapshot_named(image.id, &name))
        {
            return Ok(snapshot);
        }
        let begun = self
            .snapshots_of(image.id)
            .filter(|snapshot| has_prefix(snapshot.name.as_str(), text));
        choose_unique(begun, text, spelling, missing, |snapshot| {
            format!("{}@{}", image.name, snapshot.name)
        })
    }

    fn spelled_machine(
        &self,
        text: &str,
        spelling: Spelling,
    ) -> Result<&VirtualMachine, LookupError> {
        if let Some(machine) = Name::new(text)
            .ok()
            .and_then(|name| self.machines().machine_named(&name))
        {
            return Ok(machine);
        }
        let all = self.machines().iter();
        let begun = all.filter(|machine| has_prefix(machine.name.as_str(), text));
        let missing = LookupError::NoMachine(text.to_owned());
        choose_unique(begun, text, spelling, missing, |machine| {
            machine.name.to_string()
        })
    }

    fn spelled_machine_snapshot(
        &self,
        machine: &VirtualMachine,
        text: &str,
        spelling: Spelling,
    ) -> Result<&VirtualMachineSnapshot, LookupError> {
        let missing = LookupError::NoMachineSnapshot {
            machine: machine.name.to_string(),
            snapshot: text.to_owned(),
        };
        let mut all = self.machines().snapshots_of(machine.id);
        if text == LATEST {
            return all.next_back().ok_or(missing);
        }
        if let Some(snapshot) = Name::new(text)
            .ok()
            .and_then(|name| self.machines().snapshot_named(machine.id, &name))
        {
            return Ok(snapshot);
        }
        let begun = all.filter(|snapshot| has_prefix(snapshot.name.as_str(), text));
        choose_unique(begun, text, spelling, missing, |snapshot| {
            format!("{}@{}", machine.name, snapshot.name)
        })
    }

    /// The layer whose content a node shows.
    #[must_use]
    pub fn layer_of(&self, node: NodeRef) -> Option<&Arc<Layer>> {
        let id: LayerId = match node {
            NodeRef::Image(image) => self.image(image)?.layer,
            NodeRef::Snapshot(image, serial) => self.snapshot(image, serial)?.layer,
        };
        self.layer(id)
    }

    /// `image` or `image@snapshot`, as people write it.
    #[must_use]
    pub fn display_name(&self, node: NodeRef) -> String {
        let image = self
            .image(node.image_id())
            .map_or("(deleted)", |image| image.name.as_str());
        match node {
            NodeRef::Image(_) => image.to_owned(),
            NodeRef::Snapshot(id, serial) => {
                let snapshot = self
                    .snapshot(id, serial)
                    .map_or("(deleted)", |snapshot| snapshot.name.as_str());
                format!("{image}@{snapshot}")
            }
        }
    }

    /// Every image and every snapshot, images by name and each followed by its snapshots in the
    /// order of taking.
    pub fn all_nodes(&self) -> impl Iterator<Item = NodeRef> + '_ {
        self.images().flat_map(|image| {
            let snapshots = self
                .snapshots_of(image.id)
                .map(|snapshot| NodeRef::Snapshot(image.id, snapshot.serial));
            std::iter::once(NodeRef::Image(image.id)).chain(snapshots)
        })
    }
}

/// True if `name` begins with `text`. An empty text begins no name.
fn has_prefix(name: &str, text: &str) -> bool {
    !text.is_empty() && name.starts_with(text)
}

/// The only one of those whose names begin with `text`, if `spelling` lets it stand for that.
fn choose_unique<'a, T>(
    mut begun: impl Iterator<Item = &'a T>,
    text: &str,
    spelling: Spelling,
    missing: LookupError,
    name: impl Fn(&T) -> String,
) -> Result<&'a T, LookupError> {
    let Some(first) = begun.next() else {
        return Err(missing);
    };
    let mut candidates = vec![name(first)];
    candidates.extend(begun.take(CANDIDATES_MAX - 1).map(&name));
    match (spelling, candidates.len()) {
        (Spelling::Shortened, 1) => Ok(first),
        (Spelling::Shortened, _) => Err(LookupError::Ambiguous {
            prefix: text.to_owned(),
            candidates,
        }),
        (Spelling::Whole, _) => Err(LookupError::NotWhole {
            missing: Box::new(missing),
            candidates,
        }),
    }
}
