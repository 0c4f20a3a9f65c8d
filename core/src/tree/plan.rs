//! Plans operations on the tree as lists of edits. Decides; it changes only the counter of ids.

use std::sync::Arc;

use super::machine::{CONFIGURATION_LEN_MAX, DISKS_MAX};
use super::{Annotation, Image, Layer, Marks, Mode, NodeRef, PageSet, Snapshot, Tree, TreeEdit};
use crate::name::Name;
use crate::units::{ChunkCount, IMAGE_LEN_MAX, ImageId, LayerId};

const NS_PER_MS: u64 = 1_000_000;

/// The reason why an operation is refused. The tree is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Another image or snapshot has that name.
    #[error("{0} exists already")]
    NameTaken(String),
    /// It is protected against deletion.
    #[error("{0} is pinned")]
    Pinned(String),
    /// Deleting the image or machine would delete its snapshots.
    #[error("{owner} has snapshots ({count})")]
    HasSnapshots {
        /// `image` or `machine`, and its name.
        owner: String,
        /// The number of them.
        count: usize,
    },
    /// No disk can be that long.
    #[error("{0} bytes is longer than any image can be ({IMAGE_LEN_MAX})")]
    TooLong(u64),
    /// The image is shorter than it was.
    #[error("{new} bytes would cut off the end of {image}, which has {old}")]
    WouldShrink {
        /// The image's name.
        image: String,
        /// Its length.
        old: u64,
        /// The length asked for.
        new: u64,
    },
    /// There is no image to commit to.
    #[error("{0} was not created from another image, or that image is gone")]
    NoOrigin(String),
    /// The image to commit to has gone its own way.
    #[error("{origin} has changed since {image} was created from it")]
    OriginChanged {
        /// The image that was to be committed.
        image: String,
        /// The image that it was created from.
        origin: String,
    },
    /// An image would come to stand on itself.
    #[error("{image} cannot be put onto {parent}, which is {image} itself or was created from it")]
    Circle {
        /// The image that was to be moved.
        image: String,
        /// The parent that it was to get.
        parent: String,
    },
    /// The image's mode does not allow it.
    #[error("{image} is {mode}: {reason}")]
    ModeForbids {
        /// The image's name.
        image: String,
        /// Its mode.
        mode: Mode,
        /// The conflict with the mode.
        reason: &'static str,
    },
    /// The image cannot have that mode now.
    #[error("{image} cannot become {mode}: {reason}")]
    ModeConflict {
        /// The image's name.
        image: String,
        /// The mode asked for.
        mode: Mode,
        /// The obstacle.
        reason: String,
    },
    /// The image is no more than what was written to another.
    #[error("{image} holds what is written to {base}, and goes with it")]
    Scratch {
        /// The image's name.
        image: String,
        /// The immutable image.
        base: String,
    },
    /// A name that had to be made out of others is none.
    #[error("{0:?} cannot be a name")]
    NoSuchName(String),
    /// The image is a disk of a machine.
    #[error("{image} is a disk of machine {machine}")]
    InMachine {
        /// The image's name.
        image: String,
        /// The machine's name.
        machine: String,
    },
    /// The image is no disk of the machine.
    #[error("{image} is no disk of machine {machine}")]
    NotInMachine {
        /// The image's name.
        image: String,
        /// The machine's name.
        machine: String,
    },
    /// A machine's snapshot would lose what it keeps.
    #[error("machine snapshot {machine} needs {node}")]
    Kept {
        /// The image or snapshot that was to go.
        node: String,
        /// The machine's snapshot.
        machine: String,
    },
    /// The machine has as many disks as it can have.
    #[error("machine {0} has {DISKS_MAX} disks, and cannot have more")]
    TooManyDisks(String),
    /// A configuration file is longer than any can be.
    #[error("a configuration file has at most {CONFIGURATION_LEN_MAX} bytes, this one has {0}")]
    ConfigurationTooLong(u64),
    /// A guest of an immutable image would write to another content than it has read.
    #[error("{0} started afresh since this guest connected")]
    StartedAfresh(String),
    /// The machine runs.
    #[error("machine {0} runs already")]
    Runs(String),
    /// The machine does not run.
    #[error("machine {0} does not run")]
    RunsNot(String),
    /// It was deleted meanwhile.
    #[error("the image, snapshot or machine is gone")]
    Gone,
}

/// The edits of an operation, and the node that it makes or changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePlan {
    /// In an order in which each refers only to what is there.
    pub edits: Vec<TreeEdit>,
    /// The node, as it will be called.
    pub node: NodeRef,
}

/// The edits by which an image gets another active layer, or its active layer another record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTop {
    /// The edits.
    pub edits: Vec<TreeEdit>,
    /// The image's active layer afterwards, which is among the edits.
    pub top: LayerId,
}

impl NodePlan {
    /// The same, with the format of what the image comes from noted, if it is known.
    #[must_use]
    pub fn with_source_format(mut self, format: Option<&Name>) -> Self {
        let id = self.node.image_id();
        for edit in &mut self.edits {
            if let (TreeEdit::PutImage(image), Some(format)) = (edit, format)
                && image.id == id
            {
                image.source_format = Some(format.clone());
            }
        }
        self
    }
}

impl Tree {
    /// A new image whose content is layer `layer`'s.
    pub fn plan_image(
        &mut self,
        name: &Name,
        layer: Layer,
        origin: Option<ImageId>,
        now_ms: u64,
    ) -> Result<NodePlan, PlanError> {
        self.check_free(name)?;
        check_len(layer.len)?;
        let id = ImageId(self.allocate_id());
        let image = Image {
            id,
            name: name.clone(),
            layer: layer.id,
            mode: Mode::Normal,
            origin,
            created_ms: now_ms,
            marks: Marks::default(),
            scratch_of: None,
            scratch_for: None,
            is_over: false,
            source_format: None,
        };
        Ok(NodePlan {
            edits: vec![TreeEdit::PutLayer(layer), TreeEdit::PutImage(image)],
            node: NodeRef::Image(id),
        })
    }

    /// A new image of `len` zero bytes.
    pub fn plan_create(
        &mut self,
        name: &Name,
        len: u64,
        now_ms: u64,
    ) -> Result<NodePlan, PlanError> {
        check_len(len)?;
        let layer = self.blank_layer(None, len, now_ms);
        self.plan_image(name, layer, None, now_ms)
    }

    /// A new image that starts as `parent` is now, of its length or of `len`.
    pub fn plan_child(
        &mut self,
        name: &Name,
        parent: NodeRef,
        len: Option<u64>,
        now_ms: u64,
    ) -> Result<NodePlan, PlanError> {
        self.check_free(name)?;
        self.check_parent(parent.image_id())?;
        let (base, mut edits) = self.plan_base(parent, now_ms)?;
        let len = len.unwrap_or(base.len);
        check_len(len)?;
        let layer = self.blank_layer(Some(&base), len, now_ms);
        let planned = self.plan_image(name, layer, Some(parent.image_id()), now_ms)?;
        let origin = self.image(parent.image_id()).ok_or(PlanError::Gone)?;
        let planned = planned.with_source_format(origin.source_format.as_ref());
        edits.extend(planned.edits);
        Ok(NodePlan { edits, ..planned })
    }

    /// A sealed layer with the content of `node`, to build on, and the edits that seal it if it is
    /// not yet.
    pub fn plan_base(
        &mut self,
        node: NodeRef,
        now_ms: u64,
    ) -> Result<(Layer, Vec<TreeEdit>), PlanError> {
        match node {
            NodeRef::Image(id) => {
                let image = self.image(id).ok_or(PlanError::Gone)?.clone();
                Ok(self.plan_seal(&image, now_ms))
            }
            NodeRef::Snapshot(..) => Ok((
                clone_layer(self.layer_of(node).ok_or(PlanError::Gone)?),
                Vec::new(),
            )),
        }
    }

    /// A snapshot of `image` as it is now.
    pub fn plan_snapshot(
        &mut self,
        image: ImageId,
        name: &Name,
        now_ms: u64,
    ) -> Result<NodePlan, PlanError> {
        self.check_snapshots(image)?;
        self.plan_image_snapshot(image, name, now_ms)
    }

    /// A snapshot of `image` as it is now, whatever its mode.
    pub(super) fn plan_image_snapshot(
        &mut self,
        image: ImageId,
        name: &Name,
        now_ms: u64,
    ) -> Result<NodePlan, PlanError> {
        self.plan_named_snapshot(image, NodeRef::Image(image), name, now_ms)
    }

    /// A snapshot of `image` that shows what `node` does.
    pub(super) fn plan_named_snapshot(
        &mut self,
        image: ImageId,
        node: NodeRef,
        name: &Name,
        now_ms: u64,
    ) -> Result<NodePlan, PlanError> {
        self.check_snapshot_free(image, name)?;
        let (base, mut edits) = self.plan_base(node, now_ms)?;
        let snapshot = self.new_snapshot(image, name, base.id, now_ms);
        let node = NodeRef::Snapshot(image, snapshot.serial);
        edits.push(TreeEdit::PutSnapshot(snapshot));
        Ok(NodePlan { edits, node })
    }

    /// Makes `image` as its snapshot `serial` is. Newer snapshots stay; the present state goes,
    /// unless it is to be saved as a snapshot.
    pub fn plan_restore(
        &mut self,
        image: ImageId,
        serial: u64,
        save_as: Option<&Name>,
        now_ms: u64,
    ) -> Result<NodePlan, PlanError> {
        self.check_snapshots(image)?;
        let target = clone_layer(
            self.layer_of(NodeRef::Snapshot(image, serial))
                .ok_or(PlanError::Gone)?,
        );
        let mut edits = match save_as {
            Some(name) => self.plan_snapshot(image, name, now_ms)?.edits,
            None => Vec::new(),
        };
        let image = self.image(image).ok_or(PlanError::Gone)?.clone();
        let layer = self.blank_layer(Some(&target), target.len, now_ms);
        let layer = self.with_change_time(&image, layer);
        let (node, top) = (NodeRef::Image(image.id), layer.id);
        edits.push(TreeEdit::PutLayer(layer));
        edits.push(TreeEdit::PutImage(Image {
            layer: top,
            ..image
        }));
        Ok(NodePlan { edits, node })
    }

    /// A new image with the content of `layer`, and a snapshot of it if asked for.
    pub fn plan_import(
        &mut self,
        name: &Name,
        layer: Layer,
        origin: Option<ImageId>,
        snapshot: Option<&Name>,
        now_ms: u64,
    ) -> Result<NodePlan, PlanError> {
        let Some(snapshot) = snapshot else {
            return self.plan_image(name, layer, origin, now_ms);
        };
        let sealed = Layer {
            sealed: true,
            ..layer
        };
        let active = self.blank_top(&sealed, now_ms);
        let planned = self.plan_image(name, active, origin, now_ms)?;
        let snapshot = self.new_snapshot(planned.node.image_id(), snapshot, sealed.id, now_ms);
        let node = NodeRef::Snapshot(snapshot.image, snapshot.serial);
        let mut edits = vec![TreeEdit::PutLayer(sealed)];
        edits.extend(planned.edits);
        edits.push(TreeEdit::PutSnapshot(snapshot));
        Ok(NodePlan { edits, node })
    }

    /// Puts `layer`, which was built on the image's present state, on top of `image`, and names the
    /// result if asked to.
    pub fn plan_update(
        &mut self,
        image: ImageId,
        layer: Layer,
        snapshot: Option<&Name>,
        now_ms: u64,
    ) -> Result<NodePlan, PlanError> {
        self.check_update(image, snapshot)?;
        let image = self.image(image).ok_or(PlanError::Gone)?.clone();
        let replaced = self.layers[&image.layer].clone();
        let is_same = self.same_as_parent(&layer).is_some() && layer.len == replaced.len;
        let layer = if is_same {
            Layer {
                changed_ns: replaced.changed_ns,
                ..layer
            }
        } else {
            self.with_change_time(&image, layer)
        };
        let mut planned = NodePlan {
            edits: Vec::new(),
            node: NodeRef::Image(image.id),
        };
        match snapshot {
            None => planned.edits.extend([
                TreeEdit::PutImage(Image {
                    layer: layer.id,
                    ..image
                }),
                TreeEdit::PutLayer(layer),
            ]),
            Some(name) => {
                let sealed = Layer {
                    sealed: true,
                    ..layer
                };
                let active = self.blank_top(&sealed, now_ms);
                let snapshot = self.new_snapshot(image.id, name, sealed.id, now_ms);
                planned.node = NodeRef::Snapshot(image.id, snapshot.serial);
                let image = Image {
                    layer: active.id,
                    ..image
                };
                planned.edits.extend([
                    TreeEdit::PutLayer(sealed),
                    TreeEdit::PutLayer(active),
                    TreeEdit::PutImage(image),
                    TreeEdit::PutSnapshot(snapshot),
                ]);
            }
        }
        // The data that the image had written is below `layer` by now; the active layer that was
        // put on it has nothing of its own. A reader through it keeps it, and by it all that lies
        // below.
        if replaced.is_blank() && !replaced.sealed && !self.is_held(replaced.id) {
            planned.edits.push(TreeEdit::DropLayer(replaced.id));
        }
        Ok(planned)
    }

    /// Fails if `image` may not get another content, or a snapshot called `snapshot` of it.
    pub fn check_update(&self, image: ImageId, snapshot: Option<&Name>) -> Result<(), PlanError> {
        self.check_changes(image)?;
        let Some(name) = snapshot else { return Ok(()) };
        self.check_snapshots(image)?;
        self.check_snapshot_free(image, name)
    }

    /// Takes a snapshot's name away.
    pub fn plan_delete_snapshot(
        &self,
        image: ImageId,
        serial: u64,
    ) -> Result<Vec<TreeEdit>, PlanError> {
        self.check_not_kept(image, serial)?;
        self.plan_drop_snapshot(image, serial)
    }

    /// Takes a snapshot's name away, also if a machine's snapshot keeps it.
    pub(super) fn plan_drop_snapshot(
        &self,
        image: ImageId,
        serial: u64,
    ) -> Result<Vec<TreeEdit>, PlanError> {
        let snapshot = self.snapshot(image, serial).ok_or(PlanError::Gone)?;
        self.check_unpinned(snapshot.marks.pinned, NodeRef::Snapshot(image, serial))?;
        Ok(vec![TreeEdit::DropSnapshot(image, serial)])
    }

    /// Takes an image's name away, and those of its snapshots if `with_snapshots`. Images created
    /// from it stay as they are; the scratch image of an immutable image goes with it.
    pub fn plan_delete_image(
        &self,
        id: ImageId,
        with_snapshots: bool,
    ) -> Result<Vec<TreeEdit>, PlanError> {
        let image = self.image(id).ok_or(PlanError::Gone)?;
        self.check_unpinned(image.marks.pinned, NodeRef::Image(id))?;
        self.check_unused(image)?;
        let count = self.snapshots_of(id).count();
        if count > 0 && !with_snapshots {
            return Err(PlanError::HasSnapshots {
                owner: format!("image {}", image.name),
                count,
            });
        }
        let mut edits = Vec::with_capacity(count + 1);
        for snapshot in self.snapshots_of(id) {
            edits.extend(self.plan_delete_snapshot(id, snapshot.serial)?);
        }
        for scratch in self.scratches_of(id) {
            edits.extend(self.plan_delete_image(scratch.id, false)?);
        }
        edits.push(TreeEdit::DropImage(id));
        Ok(edits)
    }

    /// Calls `node` by another name. Nothing else refers to names, so nothing else changes; but an
    /// immutable image's scratch image is called after it.
    pub fn plan_rename(&self, node: NodeRef, name: &Name) -> Result<Vec<TreeEdit>, PlanError> {
        match node {
            NodeRef::Image(id) => {
                self.check_own(id)?;
                self.check_free(name)?;
                let image = self.image(id).ok_or(PlanError::Gone)?.clone();
                let renamed = Image {
                    name: name.clone(),
                    ..image
                };
                let mut edits = Vec::new();
                for scratch in self.scratches_of(id) {
                    let name = self.free_scratch_name(&renamed, scratch.scratch_for)?;
                    edits.push(TreeEdit::PutImage(Image {
                        name,
                        ..scratch.clone()
                    }));
                }
                edits.insert(0, TreeEdit::PutImage(renamed));
                Ok(edits)
            }
            NodeRef::Snapshot(id, serial) => {
                self.check_snapshot_free(id, name)?;
                let snapshot = self.snapshot(id, serial).ok_or(PlanError::Gone)?.clone();
                Ok(vec![TreeEdit::PutSnapshot(Snapshot {
                    name: name.clone(),
                    ..snapshot
                })])
            }
        }
    }

    /// Adds and removes tags.
    pub fn plan_tags(
        &self,
        node: NodeRef,
        add: &[Name],
        remove: &[Name],
    ) -> Result<Vec<TreeEdit>, PlanError> {
        self.plan_marks(node, |marks| {
            marks.tags.retain(|tag| !remove.contains(tag));
            marks.tags.extend(add.iter().cloned());
        })
    }

    /// Protects `node` against deletion, or ends that.
    pub fn plan_pin(&self, node: NodeRef, pinned: bool) -> Result<Vec<TreeEdit>, PlanError> {
        self.plan_marks(node, |marks| marks.pinned = pinned)
    }

    /// Gives `node` a description and properties.
    pub fn plan_annotation(
        &self,
        node: NodeRef,
        annotation: Annotation,
    ) -> Result<Vec<TreeEdit>, PlanError> {
        self.plan_marks(node, |marks| marks.annotation = annotation)
    }

    /// The marks of an image or snapshot.
    #[must_use]
    pub fn marks(&self, node: NodeRef) -> Option<&Marks> {
        match node {
            NodeRef::Image(image) => self.image(image).map(|image| &image.marks),
            NodeRef::Snapshot(image, serial) => {
                self.snapshot(image, serial).map(|snapshot| &snapshot.marks)
            }
        }
    }

    fn plan_marks(
        &self,
        node: NodeRef,
        change: impl FnOnce(&mut Marks),
    ) -> Result<Vec<TreeEdit>, PlanError> {
        let edit = match node {
            NodeRef::Image(id) => {
                let mut image = self.image(id).ok_or(PlanError::Gone)?.clone();
                change(&mut image.marks);
                TreeEdit::PutImage(image)
            }
            NodeRef::Snapshot(id, serial) => {
                let mut snapshot = self.snapshot(id, serial).ok_or(PlanError::Gone)?.clone();
                change(&mut snapshot.marks);
                TreeEdit::PutSnapshot(snapshot)
            }
        };
        Ok(vec![edit])
    }

    /// Gives `image` another length. It grows by its record alone, since what lies past the old end
    /// is not visible. It shrinks by a new layer that sees less of the old one: no map is read,
    /// whatever is cut off, and maintenance clips when it merges the two. A last chunk that is cut
    /// is for the store to put into [`NewTop::top`].
    pub fn plan_resize(
        &mut self,
        image: ImageId,
        len: u64,
        may_shrink: bool,
        now_ms: u64,
    ) -> Result<NewTop, PlanError> {
        check_len(len)?;
        self.check_changes(image)?;
        let image = self.image(image).ok_or(PlanError::Gone)?.clone();
        let active = clone_layer(&self.layers[&image.layer]);
        if len < active.len && !may_shrink {
            return Err(PlanError::WouldShrink {
                image: image.name.to_string(),
                old: active.len,
                new: len,
            });
        }
        if len >= active.len || active.is_blank() {
            let parent_visible = active.parent_visible.min(self.chunk_len().count_for(len));
            let before = active.changed_ns;
            let changed_ns = if len == active.len {
                before
            } else {
                now_ms
                    .saturating_mul(NS_PER_MS)
                    .max(before.saturating_add(1))
            };
            let layer = Layer {
                len,
                parent_visible,
                changed_ns,
                ..active
            };
            return Ok(NewTop {
                top: layer.id,
                edits: vec![TreeEdit::PutLayer(layer)],
            });
        }
        let sealed = Layer {
            sealed: true,
            ..active
        };
        let layer = self.blank_layer(Some(&sealed), len, now_ms);
        let layer = self.with_change_time(&image, layer);
        let (top, image) = (
            layer.id,
            Image {
                layer: layer.id,
                ..image
            },
        );
        Ok(NewTop {
            top,
            edits: vec![
                TreeEdit::PutLayer(sealed),
                TreeEdit::PutLayer(layer),
                TreeEdit::PutImage(image),
            ],
        })
    }

    /// Fails if `parent` cannot become the parent of `image`. Its own snapshots are allowed; an
    /// image that was created from it is not, since it would become its own origin. (The chain of
    /// layers could not close in any case: a rebased image gets a new layer, and nothing stands on
    /// that.)
    pub fn check_rebase(&self, image: ImageId, parent: NodeRef) -> Result<(), PlanError> {
        self.check_own(image)?;
        self.check_parent(parent.image_id())?;
        let origin = |id: &ImageId| self.image(*id).and_then(|image| image.origin);
        let mut origins =
            std::iter::successors(Some(parent.image_id()), origin).take(self.image_count() + 1);
        let is_own_snapshot = matches!(parent, NodeRef::Snapshot(own, _) if own == image);
        if !is_own_snapshot && origins.any(|id| id == image) {
            return Err(PlanError::Circle {
                image: self.display_name(NodeRef::Image(image)),
                parent: self.display_name(parent),
            });
        }
        Ok(())
    }

    /// Makes `layer`, which is complete, the active layer of `image`, and `origin` the image that
    /// it comes from. A layer that says that it changed when the image did has the same content.
    pub fn plan_replace(
        &self,
        image: ImageId,
        layer: Layer,
        origin: Option<ImageId>,
    ) -> Result<NewTop, PlanError> {
        let image = self.image(image).ok_or(PlanError::Gone)?.clone();
        let layer = if layer.changed_ns == self.changed_ns(&image) {
            layer
        } else {
            self.with_change_time(&image, layer)
        };
        let image = Image {
            layer: layer.id,
            origin,
            ..image
        };
        Ok(NewTop {
            top: layer.id,
            edits: vec![TreeEdit::PutLayer(layer), TreeEdit::PutImage(image)],
        })
    }

    /// Makes the image that `image` was created from as `image` is now: both then stand on the same
    /// sealed layer. Nothing is copied.
    pub fn plan_commit(&mut self, image: ImageId, now_ms: u64) -> Result<NodePlan, PlanError> {
        let (image, origin) = self.commit_pair(image)?;
        let (sealed, mut edits) = self.plan_seal(&image, now_ms);
        let layer = self.blank_layer(Some(&sealed), sealed.len, now_ms);
        let layer = self.with_change_time(&origin, layer);
        let node = NodeRef::Image(origin.id);
        let origin = Image {
            layer: layer.id,
            ..origin
        };
        edits.extend([TreeEdit::PutLayer(layer), TreeEdit::PutImage(origin)]);
        Ok(NodePlan { edits, node })
    }

    /// An image and the one it can be committed to: its origin, if that is still what `image` was
    /// built on.
    fn commit_pair(&self, image: ImageId) -> Result<(Image, Image), PlanError> {
        let image = self.image(image).ok_or(PlanError::Gone)?;
        let origin = image
            .origin
            .and_then(|id| self.image(id))
            .ok_or_else(|| PlanError::NoOrigin(image.name.to_string()))?;
        self.check_changes(origin.id)?;
        let base = self.same_as_parent(&self.layers[&origin.layer]);
        let built_on =
            base.is_some_and(|base| self.chain_from(image.layer).any(|layer| layer.id == base));
        if !built_on {
            return Err(PlanError::OriginChanged {
                image: image.name.to_string(),
                origin: origin.name.to_string(),
            });
        }
        Ok((image.clone(), origin.clone()))
    }

    /// A sealed layer with the present content of `image`, and the edits that make it: none if
    /// nothing was written since the last.
    fn plan_seal(&mut self, image: &Image, now_ms: u64) -> (Layer, Vec<TreeEdit>) {
        let active = clone_layer(&self.layers[&image.layer]);
        if let Some(parent) = self.same_as_parent(&active) {
            return (clone_layer(&self.layers[&parent]), Vec::new());
        }
        let sealed = Layer {
            sealed: true,
            ..active
        };
        let layer = self.blank_top(&sealed, now_ms);
        let image = Image {
            layer: layer.id,
            ..image.clone()
        };
        let edits = vec![
            TreeEdit::PutLayer(sealed.clone()),
            TreeEdit::PutLayer(layer),
            TreeEdit::PutImage(image),
        ];
        (sealed, edits)
    }

    /// The layer that shows `node`, below an active one that adds nothing.
    #[must_use]
    pub fn content_layer(&self, node: NodeRef) -> Option<LayerId> {
        let layer = self.layer_of(node)?;
        let is_active = matches!(node, NodeRef::Image(_));
        let below = self.same_as_parent(layer).filter(|_| is_active);
        Some(below.unwrap_or(layer.id))
    }

    /// The parent, if `layer` adds nothing to it and hides nothing of it.
    #[must_use]
    pub fn same_as_parent(&self, layer: &Layer) -> Option<LayerId> {
        let parent = self.layer(layer.parent?)?;
        let shows_all = layer.len == parent.len
            && layer.parent_visible >= self.chunk_len().count_for(parent.len);
        (layer.is_blank() && shows_all).then_some(parent.id)
    }

    /// An active layer without entries, on `parent` if there is one.
    pub fn blank_layer(&mut self, parent: Option<&Layer>, len: u64, now_ms: u64) -> Layer {
        let visible = parent.map_or(0, |parent| parent.len.min(len));
        Layer {
            id: LayerId(self.allocate_id()),
            parent: parent.map(|parent| parent.id),
            sealed: false,
            len,
            parent_visible: if parent.is_some() {
                self.chunk_len().count_for(visible)
            } else {
                ChunkCount(0)
            },
            pages: PageSet::new(),
            chunks: 0,
            zeros: 0,
            created_ms: now_ms,
            changed_ns: now_ms.saturating_mul(NS_PER_MS),
            content: None,
        }
    }

    /// An active layer for a disk that goes on as `sealed` is: its content has not changed.
    pub(super) fn blank_top(&mut self, sealed: &Layer, now_ms: u64) -> Layer {
        Layer {
            changed_ns: sealed.changed_ns,
            ..self.blank_layer(Some(sealed), sealed.len, now_ms)
        }
    }

    /// The time when the content of `image` last changed.
    fn changed_ns(&self, image: &Image) -> u64 {
        self.layers[&image.layer].changed_ns
    }

    /// `layer`, which gives `image` another content, with a time after that of the present one.
    pub(super) fn with_change_time(&self, image: &Image, layer: Layer) -> Layer {
        let after = self.changed_ns(image).saturating_add(1);
        Layer {
            changed_ns: layer.changed_ns.max(after),
            ..layer
        }
    }

    fn new_snapshot(
        &mut self,
        image: ImageId,
        name: &Name,
        layer: LayerId,
        now_ms: u64,
    ) -> Snapshot {
        let serial = self.allocate_id();
        Snapshot {
            image,
            serial,
            name: name.clone(),
            layer,
            created_ms: now_ms,
            marks: Marks::default(),
        }
    }

    /// Fails if an image has that name already.
    pub fn check_free(&self, name: &Name) -> Result<(), PlanError> {
        match self.image_named(name) {
            Some(_) => Err(PlanError::NameTaken(format!("image {name}"))),
            None => Ok(()),
        }
    }

    /// Fails if a snapshot of `image` has that name already.
    pub fn check_snapshot_free(&self, image: ImageId, name: &Name) -> Result<(), PlanError> {
        match self.snapshot_named(image, name) {
            Some(_) => Err(PlanError::NameTaken(format!(
                "snapshot {}@{name}",
                self.display_name(NodeRef::Image(image))
            ))),
            None => Ok(()),
        }
    }

    fn check_unpinned(&self, pinned: bool, node: NodeRef) -> Result<(), PlanError> {
        if pinned {
            Err(PlanError::Pinned(self.display_name(node)))
        } else {
            Ok(())
        }
    }
}

/// A copy that can be changed.
fn clone_layer(layer: &Arc<Layer>) -> Layer {
    Layer::clone(layer)
}

fn check_len(len: u64) -> Result<(), PlanError> {
    if len > IMAGE_LEN_MAX {
        Err(PlanError::TooLong(len))
    } else {
        Ok(())
    }
}
