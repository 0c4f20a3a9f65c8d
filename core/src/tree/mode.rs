//! The modes of images: the operations that each mode allows, and changes from one mode to another.
//!
//! | mode | content | own snapshots | in a machine's snapshot | writers |
//! | --- | --- | --- | --- | --- |
//! | normal | changes | yes | kept, comes back | one |
//! | immutable | read-only | stay, none new | kept with what was written | one for each machine |
//! | writethrough | changes | none | left alone | one |
//! | shareable | changes | none, and no children | left alone | several at once |
//! | readonly | read-only | stay, none new | left alone | none |
//! | multiattach | read-only | stay, none new | its children are in it | each has its own child |
//!
//! An image whose content is read-only changes only after it gets another mode, so images that were
//! built on it keep their content.

use std::fmt;

use super::{Image, PlanError, Tree, TreeEdit};
use crate::name::Name;
use crate::units::ImageId;

/// The treatment of writes and snapshots by an image, as virtual-machine managers name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Writes go to the active layer.
    Normal,
    /// Writes go to a scratch image.
    Immutable {
        /// True if the scratch image starts afresh when its machine, or its guest, is switched on;
        /// otherwise it is kept until it is reset.
        autoreset: bool,
    },
    /// Takes no part in snapshots.
    Writethrough,
    /// Several writers, no snapshots.
    Shareable,
    /// No writes.
    Readonly,
    /// A base that each attachment gets its own child of.
    Multiattach,
}

impl Mode {
    /// The mode's name, as virtual-machine managers write it.
    #[must_use]
    pub fn mode_name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Immutable { .. } => "immutable",
            Self::Writethrough => "writethrough",
            Self::Shareable => "shareable",
            Self::Readonly => "readonly",
            Self::Multiattach => "multiattach",
        }
    }

    /// True if the image's own content can change.
    #[must_use]
    pub fn allows_changes(self) -> bool {
        matches!(self, Self::Normal | Self::Writethrough | Self::Shareable)
    }

    /// True if a machine's snapshot keeps the image's content and mode, and brings them back.
    #[must_use]
    pub fn is_kept(self) -> bool {
        matches!(self, Self::Normal | Self::Immutable { .. })
    }

    /// True if several machines may have the image among their disks: nothing that one of them does
    /// then surprises another.
    #[must_use]
    pub fn is_for_several(self) -> bool {
        matches!(
            self,
            Self::Readonly | Self::Shareable | Self::Immutable { .. }
        )
    }

    /// True if the image has no snapshots at all.
    pub(super) fn has_none(self) -> bool {
        matches!(self, Self::Writethrough | Self::Shareable)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.mode_name())
    }
}

impl Tree {
    /// Gives `image` another mode. What was written to an immutable image is not lost when that
    /// ends: its scratch image becomes an image as others are, unless it is blank.
    pub fn plan_mode(&self, image: ImageId, mode: Mode) -> Result<Vec<TreeEdit>, PlanError> {
        let image = self.image(image).ok_or(PlanError::Gone)?;
        self.check_no_scratch(image)?;
        self.check_mode(image, mode)?;
        let mut edits = vec![TreeEdit::PutImage(Image {
            mode,
            ..image.clone()
        })];
        if !matches!(mode, Mode::Immutable { .. }) {
            edits.extend(self.plan_scratches_end(image.id));
        }
        Ok(edits)
    }

    fn check_mode(&self, image: &Image, mode: Mode) -> Result<(), PlanError> {
        let conflict = |reason: String| {
            Err(PlanError::ModeConflict {
                image: image.name.to_string(),
                mode,
                reason,
            })
        };
        if mode.has_none() && self.snapshots_of(image.id).next().is_some() {
            return conflict("it has snapshots".to_owned());
        }
        if let (Mode::Shareable, Some(child)) = (
            mode,
            self.images().find(|child| child.origin == Some(image.id)),
        ) {
            return conflict(format!("{} was created from it", child.name));
        }
        let users: Vec<&Name> = self
            .machines()
            .machines_using(image.id)
            .map(|machine| &machine.name)
            .collect();
        match (mode, users.as_slice()) {
            (Mode::Multiattach, [user, ..]) => conflict(format!(
                "machine {user} has the image itself among its disks, not a child of it"
            )),
            (mode, [first, second, ..]) if !mode.is_for_several() => {
                conflict(format!("machines {first} and {second} both have it"))
            }
            _ => Ok(()),
        }
    }

    /// Fails if the content of `image` may not be changed: restored, cut, replaced. (What is
    /// written to an attached disk goes where [`super::Attachment`] says.)
    pub fn check_changes(&self, image: ImageId) -> Result<(), PlanError> {
        let image = self.image(image).ok_or(PlanError::Gone)?;
        self.check_no_scratch(image)?;
        if image.mode.allows_changes() {
            Ok(())
        } else {
            Err(image.forbidden_by_mode("its content does not change"))
        }
    }

    /// Fails if snapshots of `image` alone may not be taken, or gone back to.
    pub fn check_snapshots(&self, image: ImageId) -> Result<(), PlanError> {
        let image = self.image(image).ok_or(PlanError::Gone)?;
        self.check_no_scratch(image)?;
        match image.mode {
            Mode::Normal => Ok(()),
            mode if mode.has_none() => {
                Err(image.forbidden_by_mode("it takes no part in snapshots"))
            }
            _ => Err(image.forbidden_by_mode(
                "its content does not change, so there is nothing to take or to go back to",
            )),
        }
    }

    /// Fails if other images may not be built on `image` as it is now.
    pub fn check_parent(&self, image: ImageId) -> Result<(), PlanError> {
        let image = self.image(image).ok_or(PlanError::Gone)?;
        if image.mode == Mode::Shareable {
            Err(image.forbidden_by_mode("nothing can stand on it"))
        } else {
            Ok(())
        }
    }

    /// Fails if `image` is the scratch of another.
    pub fn check_own(&self, image: ImageId) -> Result<(), PlanError> {
        self.check_no_scratch(self.image(image).ok_or(PlanError::Gone)?)
    }

    fn check_no_scratch(&self, image: &Image) -> Result<(), PlanError> {
        let Some(base) = image.scratch_of.and_then(|base| self.image(base)) else {
            return Ok(());
        };
        Err(PlanError::Scratch {
            image: image.name.to_string(),
            base: base.name.to_string(),
        })
    }
}

impl Image {
    /// The refusal of something that its mode does not allow.
    pub(super) fn forbidden_by_mode(&self, reason: &'static str) -> PlanError {
        PlanError::ModeForbids {
            image: self.name.to_string(),
            mode: self.mode,
            reason,
        }
    }
}
