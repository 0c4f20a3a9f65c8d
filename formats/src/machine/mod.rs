//! Machines as the programs that run them describe them: which disks, on which controllers, with
//! which parents and modes, in which snapshots. Pure descriptions: no file is opened, and places
//! are told as they stand in the text, which may be hostile.
//!
//! | text               | read                                  | written                       |
//! | ------------------ | ------------------------------------- | ----------------------------- |
//! | `.vbox`            | disks, tree of media, snapshots, modes | the same, with plain hardware |
//! | libvirt domain XML | disks, backing chains, modes          | the same, with plain hardware |
//! | OVF                | disks, their files and parents        | the same, with plain hardware |
//!
//! XML is read by `roxmltree`: a tree without `unsafe` and without document types, so that no
//! entity grows and no other file is asked for. (`quick-xml` gives events; a tree of them would be
//! ours to build and to bound.) Texts are written by hand: they have a fixed shape.

mod libvirt;
mod ovf;
#[cfg(test)]
mod tests;
mod vbox;
mod xml;

use crate::identity::DiskIdentity;

/// The longest description in bytes: one of a machine with a thousand snapshots has about 5 MiB.
pub const DESCRIPTION_LEN_MAX: usize = 16 << 20;

/// The languages in which machines are described.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MachineLanguage {
    /// `VirtualBox`'s settings, a `.vbox`.
    Vbox,
    /// A domain of libvirt.
    Libvirt,
    /// The Open Virtualization Format.
    Ovf,
}

/// A machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineDescription {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub identity: Option<DiskIdentity>,
    /// Its memory in MiB, if it is told.
    pub memory_mib: Option<u64>,
    /// Its processors, if they are told.
    pub processor_count: Option<u32>,
    /// The kind of guest, in the language's own words.
    pub guest_kind: Option<String>,
    /// The disks' files, those that others stand on included.
    pub media: Vec<MachineMedium>,
    /// The snapshots, parents before children.
    pub snapshots: Vec<SnapshotDescription>,
    /// The snapshot that the current state stands on: its number in `snapshots`.
    pub current_snapshot: Option<usize>,
    /// The disks of the current state.
    pub attachments: Vec<DiskAttachment>,
}

/// A file that holds a disk, or what a disk differs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineMedium {
    /// The identity that the file has, too.
    pub identity: Option<DiskIdentity>,
    /// Its location, as the text has it: a path, perhaps relative to the text's folder.
    pub location: String,
    /// Its format, in the language's own words in small letters: `vdi`, `qcow2`.
    pub format: Option<String>,
    /// The fate of a guest's writes.
    pub mode: MediumMode,
    /// The medium that it stands on: its number in `media`.
    pub parent: Option<usize>,
    /// The disk's length in bytes, where the language says it.
    pub len: Option<u64>,
}

/// The fate of a guest's writes to a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MediumMode {
    /// It is kept; snapshots freeze it.
    #[default]
    Normal,
    /// It is lost when the guest starts again.
    Immutable,
    /// It is kept; snapshots leave it alone.
    WriteThrough,
    /// Several machines write at once.
    Shareable,
    /// Nothing is written.
    ReadOnly,
    /// Each machine writes into a child of its own.
    MultiAttach,
}

/// A frozen state of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotDescription {
    /// Its UUID.
    pub identity: Option<DiskIdentity>,
    /// Its name.
    pub name: String,
    /// A person's words about it.
    pub description: String,
    /// Its creation time, as the text has it.
    pub time: Option<String>,
    /// The snapshot that it stands on.
    pub parent: Option<usize>,
    /// Its disks.
    pub attachments: Vec<DiskAttachment>,
}

/// A disk at a machine's controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskAttachment {
    /// The controller: its name, or the bus.
    pub controller: String,
    /// The place at the controller.
    pub port: u32,
    /// The place at the port.
    pub device: u32,
    /// The disk: its number in [`MachineDescription::media`].
    pub medium: usize,
}

/// A text that describes no machine that can be understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("this describes no machine: {reason}")]
pub struct DescriptionError {
    /// The fault, and its place.
    pub reason: String,
}

impl MachineLanguage {
    /// The language that a text is in, from its first element; `None` if it is none of them.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let document = xml::parse_document(text).ok()?;
        match document.root_element().tag_name().name() {
            "VirtualBox" => Some(Self::Vbox),
            "domain" => Some(Self::Libvirt),
            "Envelope" => Some(Self::Ovf),
            _ => None,
        }
    }
}

impl MachineDescription {
    /// Reads a description in whichever language it is. Takes memory in proportion to the text.
    ///
    /// ```
    /// use vellum_formats::machine::MachineDescription;
    ///
    /// let text = "<domain><name>web</name><devices>\
    ///     <disk device='disk'><driver type='qcow2'/><source file='/disks/web.qcow2'/>\
    ///     <target dev='vda' bus='virtio'/></disk></devices></domain>";
    /// let machine = MachineDescription::parse(text).expect("a domain");
    /// assert_eq!(machine.media[0].location, "/disks/web.qcow2");
    /// ```
    ///
    /// # Errors
    ///
    /// When it is no XML, in no known language, or refers to a disk that it does not have.
    pub fn parse(text: &str) -> Result<Self, DescriptionError> {
        let document = xml::parse_document(text)?;
        let root = document.root_element();
        match root.tag_name().name() {
            "VirtualBox" => vbox::parse_settings(&document),
            "domain" => libvirt::parse_domain(root),
            "Envelope" => ovf::parse_envelope(root),
            other => Err(description_error(format!(
                "its first element is <{other}>; known are <VirtualBox>, <domain> and <Envelope>"
            ))),
        }
    }

    /// The description as a text. What the language has no words for is left out: libvirt and OVF
    /// describe the current state only.
    ///
    /// # Errors
    ///
    /// When an attachment, parent or snapshot has a number that is none, or a medium lacks what the
    /// language needs (a `.vbox`: its UUID).
    pub fn write_as(&self, language: MachineLanguage) -> Result<String, DescriptionError> {
        self.verify_references()?;
        match language {
            MachineLanguage::Vbox => vbox::write_settings(self),
            MachineLanguage::Libvirt => Ok(libvirt::write_domain(self)),
            MachineLanguage::Ovf => Ok(ovf::write_envelope(self)),
        }
    }

    /// Checks that every number leads to something, and parents come first.
    fn verify_references(&self) -> Result<(), DescriptionError> {
        let states = self.snapshots.iter().map(|snapshot| &snapshot.attachments);
        let mut attachments = states.chain([&self.attachments]).flatten();
        let is_right = attachments.all(|attachment| attachment.medium < self.media.len())
            && comes_first(self.media.iter().map(|medium| medium.parent))
            && comes_first(self.snapshots.iter().map(|snapshot| snapshot.parent))
            && self
                .current_snapshot
                .is_none_or(|number| number < self.snapshots.len());
        if is_right {
            Ok(())
        } else {
            Err(description_error(
                "a number leads nowhere, or a parent comes after its child",
            ))
        }
    }
}

/// True if every parent has a smaller number than its child.
fn comes_first(parents: impl Iterator<Item = Option<usize>>) -> bool {
    parents
        .enumerate()
        .all(|(number, parent)| parent.is_none_or(|parent| parent < number))
}

fn description_error(reason: impl Into<String>) -> DescriptionError {
    DescriptionError {
        reason: reason.into(),
    }
}
