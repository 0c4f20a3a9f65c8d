//! Scratch images: what is written to an immutable image, for each machine that has it.
//!
//! **A session** begins when something is first written, and goes on through any number of
//! connections, and through the end of a server, until its guest is switched off: with `machine
//! stop`, or, as long as nobody says `machine start`, when the client that wrote says goodbye. A
//! scratch image whose session is *over* keeps what was written; who comes next sees the image
//! afresh, and the first write of that session empties it (`autoreset`). `machine start` empties it
//! at once. So nothing that only looks ever changes anything.
//!
//! **Afresh** means: as the machine's last snapshot of that disk is (as virtual-machine managers
//! have it); without one, as the image is.

use std::collections::BTreeMap;

use super::attach::MARK;
use super::{Image, Layer, Mode, NodePlan, NodeRef, PlanError, Tree, TreeEdit};
use crate::name::Name;
use crate::units::{ImageId, LayerId, MachineId};

const SCRATCH: &str = "scratch";

/// One machine's use of an immutable image; none is whoever belongs to no machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScratchUse {
    /// The immutable image.
    pub base: ImageId,
    /// The machine that writes.
    pub machine: Option<MachineId>,
}

/// The content that a guest of an immutable image sees when it connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScratchView {
    /// The image or snapshot that shows it.
    pub node: NodeRef,
    /// The time when that content last changed: another number means another content.
    pub changed_ns: u64,
}

impl Tree {
    /// The use that guests get who ask for immutable image `base` by its name alone: that of the
    /// machine that was made first, of those that have it.
    #[must_use]
    pub fn scratch_use(&self, base: ImageId) -> ScratchUse {
        let machine = self.machines().machines_using(base).next();
        ScratchUse {
            base,
            machine: machine.map(|machine| machine.id),
        }
    }

    /// The images that hold what is written to the immutable image `image`. Cost: all images.
    pub fn scratches_of(&self, image: ImageId) -> impl Iterator<Item = &Image> {
        self.images
            .values()
            .filter(move |scratch| scratch.scratch_of == Some(image))
    }

    /// The scratch image of one use, if something was written. Cost: all images.
    #[must_use]
    pub fn scratch_for(&self, using: ScratchUse) -> Option<&Image> {
        self.scratches_of(using.base)
            .find(|scratch| scratch.scratch_for == using.machine)
    }

    /// The content that a guest sees which connects now.
    pub fn scratch_view(&self, using: ScratchUse) -> Result<ScratchView, PlanError> {
        let base = self.image(using.base).ok_or(PlanError::Gone)?;
        let node = match self.scratch_for(using) {
            Some(scratch) if !starts_afresh(base, scratch) => NodeRef::Image(scratch.id),
            Some(scratch) => self
                .last_kept(base, scratch)
                .map_or(NodeRef::Image(base.id), |serial| {
                    NodeRef::Snapshot(base.id, serial)
                }),
            None => NodeRef::Image(base.id),
        };
        let layer = self.layer_of(node).ok_or(PlanError::Gone)?;
        Ok(ScratchView {
            node,
            changed_ns: layer.changed_ns,
        })
    }

    /// The scratch image of `using`, as a guest that writes finds it: made if there is none, and
    /// emptied if a new session begins. It goes on from `seen`, which the guest has read; anything
    /// else is an error.
    pub fn plan_scratch(
        &mut self,
        using: ScratchUse,
        seen: Option<ScratchView>,
        now_ms: u64,
    ) -> Result<NodePlan, PlanError> {
        if seen.is_some_and(|seen| self.scratch_view(using) != Ok(seen)) {
            let image = self.display_name(NodeRef::Image(using.base));
            return Err(PlanError::StartedAfresh(image));
        }
        let base = self.image(using.base).ok_or(PlanError::Gone)?.clone();
        match self.scratch_for(using).cloned() {
            Some(scratch) => Ok(NodePlan {
                node: NodeRef::Image(scratch.id),
                edits: if starts_afresh(&base, &scratch) {
                    self.plan_scratch_reset(&base, scratch, now_ms)?
                } else {
                    Vec::new()
                },
            }),
            None => self.plan_new_scratch(&base, using.machine, None, now_ms),
        }
    }

    /// A scratch image that is `content` so far, or as `base` is.
    pub(super) fn plan_new_scratch(
        &mut self,
        base: &Image,
        machine: Option<MachineId>,
        content: Option<&Layer>,
        now_ms: u64,
    ) -> Result<NodePlan, PlanError> {
        let name = self.free_scratch_name(base, machine)?;
        let (below, mut edits) = match content {
            Some(content) => (content.clone(), Vec::new()),
            None => self.plan_base(NodeRef::Image(base.id), now_ms)?,
        };
        let layer = self.blank_top(&below, now_ms);
        let planned = self.plan_image(&name, layer, Some(base.id), now_ms)?;
        edits.extend(planned.edits);
        for edit in &mut edits {
            if let TreeEdit::PutImage(image) = edit
                && NodeRef::Image(image.id) == planned.node
            {
                image.scratch_of = Some(base.id);
                image.scratch_for = machine;
                image.source_format.clone_from(&base.source_format);
            }
        }
        Ok(NodePlan {
            edits,
            node: planned.node,
        })
    }

    /// The session that wrote to the scratch image `id` is over, unless its machine runs.
    #[must_use]
    pub fn plan_session_end(&self, id: ImageId) -> Vec<TreeEdit> {
        let Some(scratch) = self.image(id) else {
            return Vec::new();
        };
        let machine = scratch.scratch_for.and_then(|id| self.machines().get(id));
        let runs = machine.is_some_and(|machine| machine.started_ms.is_some());
        if runs || scratch.is_over || scratch.scratch_of.is_none() {
            return Vec::new();
        }
        vec![TreeEdit::PutImage(Image {
            is_over: true,
            ..scratch.clone()
        })]
    }

    /// Forgets what was written to the immutable image `image`, whoever wrote it.
    pub fn plan_reset(&mut self, image: ImageId, now_ms: u64) -> Result<Vec<TreeEdit>, PlanError> {
        let image = self.image(image).ok_or(PlanError::Gone)?.clone();
        self.check_own(image.id)?;
        let Mode::Immutable { .. } = image.mode else {
            return Err(
                image.forbidden_by_mode("there is nothing to reset: what is written to it stays")
            );
        };
        let scratches: Vec<Image> = self.scratches_of(image.id).cloned().collect();
        let mut edits = Vec::new();
        for scratch in scratches {
            edits.extend(self.plan_scratch_reset(&image, scratch, now_ms)?);
        }
        Ok(edits)
    }

    /// A blank layer for `scratch`, if something is in it, and a session that has not written.
    pub(super) fn plan_scratch_reset(
        &mut self,
        image: &Image,
        scratch: Image,
        now_ms: u64,
    ) -> Result<Vec<TreeEdit>, PlanError> {
        let node = self
            .last_kept(image, &scratch)
            .map_or(NodeRef::Image(image.id), |serial| {
                NodeRef::Snapshot(image.id, serial)
            });
        let (base, mut edits) = self.plan_base(node, now_ms)?;
        if self.same_as_parent(&self.layers[&scratch.layer]) == Some(base.id) {
            if scratch.is_over {
                edits.push(TreeEdit::PutImage(Image {
                    is_over: false,
                    ..scratch
                }));
            }
            return Ok(edits);
        }
        edits.extend(self.plan_scratch_as(&base, scratch, now_ms));
        Ok(edits)
    }

    /// Makes `scratch` as the sealed layer `content` is.
    pub(super) fn plan_scratch_as(
        &mut self,
        content: &Layer,
        scratch: Image,
        now_ms: u64,
    ) -> [TreeEdit; 2] {
        let layer = self.blank_layer(Some(content), content.len, now_ms);
        let layer = self.with_change_time(&scratch, layer);
        let top = layer.id;
        [
            TreeEdit::PutLayer(layer),
            TreeEdit::PutImage(Image {
                layer: top,
                is_over: false,
                ..scratch
            }),
        ]
    }

    /// The newest of the snapshots of `base` that the scratch image's machine keeps and that
    /// `scratch` stands on.
    fn last_kept(&self, base: &Image, scratch: &Image) -> Option<u64> {
        let machine = scratch.scratch_for?;
        let snapshots = self.machines().snapshots_of(machine);
        let kept: BTreeMap<LayerId, u64> = snapshots
            .flat_map(|snapshot| &snapshot.disks)
            .filter(|disk| disk.image == base.id && matches!(disk.mode, Mode::Immutable { .. }))
            .filter_map(|disk| {
                let serial = disk.snapshot?;
                Some((self.snapshot(base.id, serial)?.layer, serial))
            })
            .collect();
        if kept.is_empty() {
            return None;
        }
        let own = self.layer(base.layer)?;
        let own = self.same_as_parent(own).unwrap_or(own.id);
        // Layers below the image's own content are older than that content, so they do not count.
        let chain: Vec<LayerId> = self
            .chain_from(scratch.layer)
            .map(|layer| layer.id)
            .collect();
        let stands_on_own = chain.contains(&own);
        let is_later = |serial: u64| stands_on_own || serial > scratch.id.0;
        chain
            .iter()
            .take_while(|layer| **layer != own)
            .find_map(|layer| kept.get(layer).copied())
            .filter(|serial| is_later(*serial))
    }

    /// The edits after which `image` has no scratch images: what is in one becomes an image as
    /// others are.
    pub(super) fn plan_scratches_end(&self, image: ImageId) -> Vec<TreeEdit> {
        let scratches = self.scratches_of(image);
        scratches
            .map(|scratch| self.plan_scratch_end(scratch))
            .collect()
    }

    fn plan_scratch_end(&self, scratch: &Image) -> TreeEdit {
        let is_blank = self
            .layer(scratch.layer)
            .is_some_and(|layer| layer.is_blank());
        if is_blank {
            return TreeEdit::DropImage(scratch.id);
        }
        TreeEdit::PutImage(Image {
            scratch_of: None,
            scratch_for: None,
            is_over: false,
            ..scratch.clone()
        })
    }

    /// Gives the writes of guests of no machine to the first machine that gets `image`.
    pub(super) fn plan_scratch_adoption(
        &self,
        image: ImageId,
        machine: MachineId,
    ) -> Option<TreeEdit> {
        let nobody = ScratchUse {
            base: image,
            machine: None,
        };
        let is_first = self.machines().machines_using(image).next().is_none();
        let scratch = self.scratch_for(nobody).filter(|_| is_first)?;
        Some(TreeEdit::PutImage(Image {
            scratch_for: Some(machine),
            ..scratch.clone()
        }))
    }

    /// Parts `machine` from its writes to `image`: if no other machine has the image, they are
    /// nobody's; otherwise they go, or become an image if they were to stay.
    pub(super) fn plan_scratch_parting(
        &self,
        image: ImageId,
        machine: MachineId,
    ) -> Option<TreeEdit> {
        let using = ScratchUse {
            base: image,
            machine: Some(machine),
        };
        let scratch = self.scratch_for(using)?;
        let base = self.image(image)?;
        let nobody = ScratchUse {
            machine: None,
            ..using
        };
        if self.machines().machines_using(image).count() == 1 && self.scratch_for(nobody).is_none()
        {
            return Some(TreeEdit::PutImage(Image {
                scratch_for: None,
                ..scratch.clone()
            }));
        }
        Some(if base.mode == (Mode::Immutable { autoreset: true }) {
            TreeEdit::DropImage(scratch.id)
        } else {
            self.plan_scratch_end(scratch)
        })
    }

    /// `BASE+scratch` for the machine that was made first, `BASE+MACHINE` for others; if somebody
    /// has that name, or it is too long, `BASE+scratch2` and so on.
    pub(super) fn free_scratch_name(
        &self,
        base: &Image,
        machine: Option<MachineId>,
    ) -> Result<Name, PlanError> {
        let others = machine.filter(|_| self.scratch_use(base.id).machine != machine);
        let others = others.and_then(|id| self.machines().get(id));
        if let Some(machine) = others
            && let Ok(name) = Name::new(&format!("{}{MARK}{}", base.name, machine.name))
            && self.image_named(&name).is_none()
        {
            return Ok(name);
        }
        let mut name = self.attached_name(base, SCRATCH)?;
        let mut nth = 1_usize;
        while self.image_named(&name).is_some() {
            nth += 1;
            name = self.attached_name(base, &format!("{SCRATCH}{nth}"))?;
        }
        Ok(name)
    }
}

/// True if the next write to `scratch` begins a session.
fn starts_afresh(base: &Image, scratch: &Image) -> bool {
    scratch.is_over && base.mode == (Mode::Immutable { autoreset: true })
}
