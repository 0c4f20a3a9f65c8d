//! Attachment by name: the image that a guest's writes go to, and what has to be made first.
//!
//! **A name is an attachment.** Connections come and go: a client opens several at once, or comes
//! back after the server was restarted, and must then find the disk that it wrote to. So the name
//! alone identifies the attachment.
//!
//! - A *normal*, *writethrough* or *shareable* image is its own attachment.
//! - An *immutable* image has one attachment for each machine that has it, a scratch image:
//!   `IMAGE+MACHINE`. `IMAGE` itself is that of the machine that was made first, or the one of all
//!   who belong to no machine.
//! - A *multiattach* image has as many as are asked for: `IMAGE+WHO`, each a child image of that
//!   name, made when it is first attached and kept until it is deleted. `IMAGE` itself can only be
//!   read.
//! - A *readonly* image and every snapshot can only be read.

use super::{Image, Mode, NodePlan, NodeRef, PlanError, ScratchUse, Tree};
use crate::name::Name;
use crate::units::ImageId;

/// Between an image's name and that of one of its attachments.
pub(super) const MARK: char = '+';
/// Children that attachments can make of one base: a client that makes up names must not fill the
/// store with them. No host that we know runs that many guests.
pub const ATTACHMENTS_MAX: usize = 1024;

/// The meaning of a name that can be attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// It can only be read.
    Read(NodeRef),
    /// Writes go to the image itself.
    Write(ImageId),
    /// Writes go to the scratch image for this use of an immutable image, which may have to be
    /// made, or emptied, first.
    Scratch(ScratchUse),
    /// Writes go to a child of this multiattach image; it is not there yet.
    NewChild {
        /// The image that becomes its parent.
        base: ImageId,
        /// The name that it gets.
        name: Name,
    },
}

impl Tree {
    /// The meaning of the whole name `text`, as a client sent it; `None` if there is none. A prefix
    /// of a name has no meaning here.
    #[must_use]
    pub fn resolve_attachment(&self, text: &str) -> Option<Attachment> {
        if let Some((image, snapshot)) = text.split_once('@') {
            let image = self.image_named(&Name::new(image).ok()?)?.id;
            let snapshot = self.snapshot_named(image, &Name::new(snapshot).ok()?)?;
            return Some(Attachment::Read(NodeRef::Snapshot(image, snapshot.serial)));
        }
        let name = Name::new(text).ok()?;
        match self.image_named(&name) {
            Some(image) if image.scratch_of.is_none() => Some(self.attachment_of(image)),
            _ => self
                .scratch_named(&name)
                .map(Attachment::Scratch)
                .or_else(|| self.new_child(name)),
        }
    }

    /// The use of an immutable image by a machine, as `IMAGE+MACHINE` names it.
    fn scratch_named(&self, name: &Name) -> Option<ScratchUse> {
        name.as_str().rmatch_indices(MARK).find_map(|(at, _)| {
            let (base, machine) = name.as_str().split_at(at);
            let base = self.image_named(&Name::new(base).ok()?)?;
            let machine = Name::new(machine.strip_prefix(MARK)?).ok()?;
            let machine = self.machines().machine_named(&machine)?;
            let has_it = machine.disks.contains(&base.id);
            (has_it && matches!(base.mode, Mode::Immutable { .. })).then_some(ScratchUse {
                base: base.id,
                machine: Some(machine.id),
            })
        })
    }

    fn attachment_of(&self, image: &Image) -> Attachment {
        match image.mode {
            Mode::Normal | Mode::Writethrough | Mode::Shareable => Attachment::Write(image.id),
            Mode::Immutable { .. } => Attachment::Scratch(self.scratch_use(image.id)),
            Mode::Readonly | Mode::Multiattach => Attachment::Read(NodeRef::Image(image.id)),
        }
    }

    /// A multiattach image whose name and the mark `name` begins with: the one with the longest
    /// name.
    fn new_child(&self, name: Name) -> Option<Attachment> {
        if self.image_named(&name).is_some() {
            return None;
        }
        let marks = name
            .as_str()
            .rmatch_indices(MARK)
            .map(|(at, _)| &name.as_str()[..at]);
        let mut bases = marks.filter_map(|base| self.image_named(&Name::new(base).ok()?));
        let base = bases
            .find(|base| {
                base.mode == Mode::Multiattach && base.name.as_str().len() + 1 < name.as_str().len()
            })?
            .id;
        Some(Attachment::NewChild { base, name })
    }

    /// The child `name` of the multiattach image `base`, for an attachment.
    pub fn plan_attached_child(
        &mut self,
        base: ImageId,
        name: &Name,
        now_ms: u64,
    ) -> Result<NodePlan, PlanError> {
        let image = self.image(base).ok_or(PlanError::Gone)?;
        if self
            .images()
            .filter(|child| child.origin == Some(base))
            .count()
            >= ATTACHMENTS_MAX
        {
            return Err(image.forbidden_by_mode("it has as many attachments as it can have"));
        }
        self.plan_child(name, NodeRef::Image(base), None, now_ms)
    }

    /// The name of the attachment `who` of `base`.
    pub fn attached_name(&self, base: &Image, who: &str) -> Result<Name, PlanError> {
        let text = format!("{}{MARK}{who}", base.name);
        Name::new(&text).map_err(|_| PlanError::NoSuchName(text))
    }
}
