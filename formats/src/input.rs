//! Every format in which a disk may come in: the image formats, and those that are only read. The
//! one door through which a disk is opened whose format is named.
//!
//! It opens nothing but the file that it is given and what [`Companions`] allow. An archive may
//! hold several disks: then one of them has to be named.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use vellum_core::source::{ClusterDecoder, ImageSource, ReadAt, SourceError};

use crate::probe::{Container, FormatVerdict, probe_file};
use crate::vma::VmaArchive;
use crate::{Companions, Format, ImageFacts, image_facts, ova, parallels, refused, sparse_stream};

/// A format in which a disk may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InputFormat {
    /// An image format, which can be written as well.
    Image(Format),
    /// A Parallels disk.
    Parallels,
    /// A tar archive with disks, and a description of their machine.
    Ova,
    /// A Proxmox backup archive.
    Vma,
    /// A stream of virtnbdbackup.
    SparseStream,
}

/// A disk inside an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainedDisk {
    /// The name by which it is chosen, as the archive has it, which may be hostile.
    pub name: String,
    /// The format of its bytes; none where the archive itself is the format.
    pub format: Option<Format>,
    /// Its length in bytes, as a guest sees it.
    pub len: u64,
}

/// A disk that was opened.
pub struct InputDisk {
    /// Facts from its headers.
    pub facts: ImageFacts,
    /// Its content.
    pub source: Box<dyn ImageSource>,
    /// Its name inside its archive.
    pub name: Option<String>,
}

/// The caller's choice of a disk, and of the way to open it.
#[derive(Clone, Copy, Default)]
pub struct InputChoice<'a> {
    /// The disk's name inside an archive; not needed for the only one.
    pub disk: Option<&'a str>,
    /// True if the caller knows the parent: what a differencing image lacks is absent then. Without
    /// it an image that stands on another is refused.
    pub is_over_parent: bool,
}

impl InputFormat {
    /// Every format, in the order a person would be told them.
    pub const ALL: [Self; 10] = [
        Self::Image(Format::Raw),
        Self::Image(Format::Qcow2),
        Self::Image(Format::Vdi),
        Self::Image(Format::Vmdk),
        Self::Image(Format::Vhd),
        Self::Image(Format::Vhdx),
        Self::Parallels,
        Self::Ova,
        Self::Vma,
        Self::SparseStream,
    ];

    /// The name as `-f` takes it.
    #[must_use]
    pub fn format_name(self) -> &'static str {
        match self {
            Self::Image(format) => format.format_name(),
            Self::Parallels => "parallels",
            Self::Ova => "ova",
            Self::Vma => "vma",
            Self::SparseStream => "virtnbdbackup",
        }
    }

    /// The image format, if it is one.
    #[must_use]
    pub fn image_format(self) -> Option<Format> {
        if let Self::Image(format) = self {
            Some(format)
        } else {
            None
        }
    }

    /// True if it may hold several disks.
    #[must_use]
    pub fn is_archive(self) -> bool {
        matches!(self, Self::Ova | Self::Vma)
    }

    /// The disks of an archive, in its order; none for the other formats.
    ///
    /// # Errors
    ///
    /// [`SourceError::Malformed`] when it is no such archive.
    pub fn list_disks(self, file: &Arc<dyn ReadAt>) -> Result<Vec<ContainedDisk>, SourceError> {
        match self {
            Self::Ova => ova_disks(file),
            Self::Vma => Ok(vma_disks(&VmaArchive::open_archive(Arc::clone(file))?)),
            _ => Ok(Vec::new()),
        }
    }

    /// Tells what the headers of `file` say of the disk that `choice` means. Opens nothing else.
    ///
    /// # Errors
    ///
    /// As [`InputFormat::open_disk`].
    pub fn read_facts(
        self,
        file: Arc<dyn ReadAt>,
        choice: InputChoice<'_>,
    ) -> Result<ImageFacts, SourceError> {
        match self {
            Self::Image(format) => image_facts(format, file),
            Self::Parallels => parallels::read_facts(&*file),
            Self::SparseStream => sparse_stream::read_facts(&*file),
            Self::Ova | Self::Vma => {
                let disk = choose_disk(self, self.list_disks(&file)?, choice.disk)?;
                Ok(ImageFacts::whole_image(disk.len, "archive"))
            }
        }
    }

    /// Opens the disk that `choice` means.
    ///
    /// # Errors
    ///
    /// As [`crate::open`]; [`SourceError::Refused`] also when an archive has several disks and none
    /// is chosen, or not the chosen one.
    pub fn open_disk(
        self,
        file: Arc<dyn ReadAt>,
        choice: InputChoice<'_>,
        decoder: Arc<dyn ClusterDecoder>,
        companions: &dyn Companions,
    ) -> Result<InputDisk, SourceError> {
        if !self.is_archive() && choice.disk.is_some() {
            return Err(refused(
                self.format_name(),
                "it is one disk, and so none is chosen inside of it",
            ));
        }
        let facts = self.read_facts(Arc::clone(&file), choice)?;
        let mut name = None;
        let source = match self {
            Self::Image(format) if choice.is_over_parent => {
                crate::open_over_parent(format, file, decoder, companions)?
            }
            Self::Image(format) => crate::open_image(format, file, decoder, companions)?,
            Self::Parallels => parallels::open_image(file)?,
            Self::SparseStream => {
                if let Some(parent) = facts.parent.as_ref().filter(|_| !choice.is_over_parent) {
                    return Err(refused(
                        self.format_name(),
                        format!(
                            "it is an incremental backup on {parent}: import that one first and \
                             this one over it"
                        ),
                    ));
                }
                sparse_stream::open_image(file)?
            }
            Self::Ova => {
                let disk = choose_disk(self, ova_disks(&file)?, choice.disk)?;
                let source = open_ova_disk(&file, &disk, decoder, companions)?;
                name = Some(disk.name);
                source
            }
            Self::Vma => {
                let archive = VmaArchive::open_archive(file)?;
                let disk = choose_disk(self, vma_disks(&archive), choice.disk)?;
                let found = archive.disks().iter().find(|found| found.name == disk.name);
                let number = found.map_or(0, |found| found.number);
                name = Some(disk.name);
                archive.open_disk(number)?
            }
        };
        Ok(InputDisk {
            facts,
            source,
            name,
        })
    }
}

/// The disk called `name`, or the only one.
fn choose_disk(
    format: InputFormat,
    disks: Vec<ContainedDisk>,
    name: Option<&str>,
) -> Result<ContainedDisk, SourceError> {
    let listed: Vec<_> = disks
        .iter()
        .map(|disk| format!("{:?}", disk.name))
        .collect();
    let listed = listed.join(", ");
    let refuse = |reason: String| Err(refused(format.format_name(), reason));
    let Some(name) = name else {
        let mut disks = disks.into_iter();
        return match (disks.next(), disks.next()) {
            (Some(disk), None) => Ok(disk),
            (None, _) => refuse("it holds no disk in a format that is read".to_owned()),
            _ => refuse(format!(
                "it holds several disks, and one has to be chosen: {listed}"
            )),
        };
    };
    match disks.into_iter().find(|disk| disk.name == name) {
        Some(disk) => Ok(disk),
        None => refuse(format!("it holds no disk {name:?}; it holds {listed}")),
    }
}

/// The members of an OVA that are disks by their signatures.
fn ova_disks(file: &Arc<dyn ReadAt>) -> Result<Vec<ContainedDisk>, SourceError> {
    let mut disks = Vec::new();
    for member in ova::list_members(&**file)? {
        let content: Arc<dyn ReadAt> = Arc::new(ova::open_member(Arc::clone(file), &member));
        let FormatVerdict::Known(format) = probe_file(&*content)?.verdict() else {
            continue;
        };
        let facts = image_facts(format, content)?;
        disks.push(ContainedDisk {
            name: member.name,
            format: Some(format),
            len: facts.len,
        });
    }
    Ok(disks)
}

fn open_ova_disk(
    file: &Arc<dyn ReadAt>,
    disk: &ContainedDisk,
    decoder: Arc<dyn ClusterDecoder>,
    companions: &dyn Companions,
) -> Result<Box<dyn ImageSource>, SourceError> {
    let members = ova::list_members(&**file)?;
    let member = members.iter().find(|member| member.name == disk.name);
    let (Some(member), Some(format)) = (member, disk.format) else {
        return Err(refused("ova", format!("it lost its disk {:?}", disk.name)));
    };
    let content = Arc::new(ova::open_member(Arc::clone(file), member));
    crate::open_image(format, content, decoder, companions)
}

fn vma_disks(archive: &VmaArchive) -> Vec<ContainedDisk> {
    let disks = archive.disks().iter();
    disks
        .map(|disk| ContainedDisk {
            name: disk.name.clone(),
            format: None,
            len: disk.len,
        })
        .collect()
}

impl From<Format> for InputFormat {
    fn from(format: Format) -> Self {
        Self::Image(format)
    }
}

impl fmt::Display for InputFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.format_name())
    }
}

/// A format name that cannot be read, among all that come in.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown disk format {0:?}: known are raw, qcow2, vdi, vmdk, vhd (vpc), vhdx, parallels, ova, \
     vma and virtnbdbackup"
)]
pub struct UnknownInputFormat(pub String);

impl FromStr for InputFormat {
    type Err = UnknownInputFormat;

    fn from_str(name: &str) -> Result<Self, UnknownInputFormat> {
        if let Ok(format) = name.parse() {
            return Ok(Self::Image(format));
        }
        let found = Self::ALL
            .into_iter()
            .find(|format| format.format_name() == name);
        found.ok_or_else(|| UnknownInputFormat(name.to_owned()))
    }
}

impl FormatVerdict {
    /// The format in which a file of this look can be opened, if there is one.
    #[must_use]
    pub fn input_format(self) -> Option<InputFormat> {
        match self {
            Self::Raw => Some(InputFormat::Image(Format::Raw)),
            Self::Known(format) => Some(InputFormat::Image(format)),
            Self::NotYet(container) => container.input_format(),
            Self::Ambiguous => None,
        }
    }
}

impl Container {
    /// The format in which it comes in, if there is one. A tar archive may be an OVA.
    #[must_use]
    pub fn input_format(self) -> Option<InputFormat> {
        match self {
            Self::Parallels => Some(InputFormat::Parallels),
            Self::Tar => Some(InputFormat::Ova),
            Self::Vma => Some(InputFormat::Vma),
            Self::SparseStream => Some(InputFormat::SparseStream),
            _ => self.image_format().map(InputFormat::Image),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_is_found_by_its_name() {
        for format in InputFormat::ALL {
            assert_eq!(format.format_name().parse(), Ok(format));
        }
        assert_eq!("vpc".parse(), Ok(InputFormat::Image(Format::Vhd)));
        for name in ["", "OVA", "tar", "raw "] {
            assert_eq!(
                name.parse::<InputFormat>(),
                Err(UnknownInputFormat(name.to_owned()))
            );
        }
    }

    #[test]
    fn one_of_several_disks_has_to_be_named() {
        let disk = |name: &str| ContainedDisk {
            name: name.to_owned(),
            format: None,
            len: 512,
        };
        let choose = |disks: &[&str], name| {
            let disks = disks.iter().map(|name| disk(name)).collect();
            choose_disk(InputFormat::Vma, disks, name).map(|disk| disk.name)
        };
        assert_eq!(choose(&["a"], None).ok().as_deref(), Some("a"));
        assert_eq!(choose(&["a", "b"], Some("b")).ok().as_deref(), Some("b"));
        for (disks, name, said) in [
            (&["a", "b"][..], None, "\"a\", \"b\""),
            (&["a"], Some("b"), "no disk \"b\""),
            (&[], None, "no disk"),
        ] {
            let error = choose(disks, name).expect_err("it is refused").to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
