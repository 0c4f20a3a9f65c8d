//! Attachment by name: the image that a guest's writes go to, and what has to be made first.
//!
//! **A name is an attachment.** Connections come and go: a client opens several at once, or comes
//! back after the server was restarted, and must then find the disk that it wrote to. So the name
//! alone identifies the attachment.
//!
//! - A *normal*, *writethrough* or *shareable* image is its own attachment.
//! - An *immutable* image has one attachment: its scratch image, `IMAGE+scratch`.
//! - A *multiattach* image has as many as are asked for: `IMAGE+WHO`, each a child image of that
//!   name, made when it is first attached and kept until it is deleted. `IMAGE` itself can only be
//!   read.
//! - A *readonly* image and every snapshot can only be read.

use super::{Edit, Image, Mode, Node, PlanError, Planned, Tree};
use crate::name::Name;
use crate::units::ImageId;

/// The separator between an image's name and that of one of its attachments.
const MARK: char = '+';
const SCRATCH: &str = "scratch";
/// Children that attachments can make of one base: a client that makes up names must not fill the
/// store with them. No host that we know runs that many guests.
pub const ATTACHMENTS_MAX: usize = 1024;

/// The meaning of a name that can be attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// It can only be read.
    Read(Node),
    /// Writes go to the image itself.
    Write(ImageId),
    /// Writes go to the scratch image of this immutable image, which may have to be made, or
    /// emptied, first.
    Scratch(ImageId),
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
    pub fn attachment(&self, text: &str) -> Option<Attachment> {
        if let Some((image, snapshot)) = text.split_once('@') {
            let image = self.image_named(&Name::new(image).ok()?)?.id;
            let snapshot = self.snapshot_named(image, &Name::new(snapshot).ok()?)?;
            return Some(Attachment::Read(Node::Snapshot(image, snapshot.serial)));
        }
        let name = Name::new(text).ok()?;
        match self.image_named(&name) {
            Some(image) if image.scratch_of.is_some() => None,
            Some(image) => Some(attachment_of(image)),
            None => self.new_child(name),
        }
    }

    /// A multiattach image whose name and the mark `name` begins with: the one with the longest
    /// name.
    fn new_child(&self, name: Name) -> Option<Attachment> {
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
    ) -> Result<Planned, PlanError> {
        let image = self.image(base).ok_or(PlanError::Gone)?;
        if self
            .images()
            .filter(|child| child.origin == Some(base))
            .count()
            >= ATTACHMENTS_MAX
        {
            return Err(image.forbids("it has as many attachments as it can have"));
        }
        self.plan_child(name, Node::Image(base), None, now_ms)
    }

    /// The name of the attachment `who` of `base`.
    pub fn attached_name(&self, base: &Image, who: &str) -> Result<Name, PlanError> {
        let text = format!("{}{MARK}{who}", base.name);
        Name::new(&text).map_err(|_| PlanError::NoSuchName(text))
    }

    /// The scratch image of the immutable image `base` as an attachment finds it: made if there is
    /// none, blank if it starts afresh.
    pub fn plan_scratch(&mut self, base: ImageId, now_ms: u64) -> Result<Planned, PlanError> {
        let base = self.image(base).ok_or(PlanError::Gone)?.clone();
        match (
            self.scratch_of(base.id).map(|scratch| scratch.id),
            base.mode,
        ) {
            (Some(scratch), Mode::Immutable { autoreset: false }) => Ok(Planned {
                edits: Vec::new(),
                node: Node::Image(scratch),
            }),
            (Some(scratch), _) => Ok(Planned {
                edits: self.plan_scratch_reset(&base, now_ms)?,
                node: Node::Image(scratch),
            }),
            (None, _) => self.plan_new_scratch(&base, now_ms),
        }
    }

    fn plan_new_scratch(&mut self, base: &Image, now_ms: u64) -> Result<Planned, PlanError> {
        let name = self.free_scratch_name(base)?;
        let mut planned = self.plan_child(&name, Node::Image(base.id), None, now_ms)?;
        let made = planned.edits.iter_mut().find_map(|edit| match edit {
            Edit::PutImage(image) if Node::Image(image.id) == planned.node => Some(image),
            _ => None,
        });
        made.expect("a child that is planned is put").scratch_of = Some(base.id);
        Ok(planned)
    }

    /// `BASE+scratch`; if that name is taken, `BASE+scratch2` and so on.
    pub(super) fn free_scratch_name(&self, base: &Image) -> Result<Name, PlanError> {
        let mut name = self.attached_name(base, SCRATCH)?;
        let mut nth = 1_usize;
        while self.image_named(&name).is_some() {
            nth += 1;
            name = self.attached_name(base, &format!("{SCRATCH}{nth}"))?;
        }
        Ok(name)
    }
}

fn attachment_of(image: &Image) -> Attachment {
    match image.mode {
        Mode::Normal | Mode::Writethrough | Mode::Shareable => Attachment::Write(image.id),
        Mode::Immutable { .. } => Attachment::Scratch(image.id),
        Mode::Readonly | Mode::Multiattach => Attachment::Read(Node::Image(image.id)),
    }
}
