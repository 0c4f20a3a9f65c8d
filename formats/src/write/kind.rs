//! The formats that can be written, their variants, and their names: qemu's and `VirtualBox`'s.

use std::str::FromStr;

use crate::{Format, UnknownFormat};
use vellum_core::source::ClusterCodec;

/// A format with its variant. A differencing image is a dynamic one with a parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TargetFormat {
    /// The disk's bytes as they are.
    Raw,
    /// qcow2, version 3.
    Qcow2(Qcow2Kind),
    /// VDI; differencing with a parent.
    Vdi(Allocation),
    /// VMDK in one file.
    Vmdk(VmdkKind),
    /// VHD; differencing with a parent.
    Vhd(Allocation),
    /// VHDX, dynamic; differencing with a parent.
    Vhdx,
}

/// Layout of a qcow2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Qcow2Kind {
    /// Compresses clusters; plain without.
    pub codec: Option<ClusterCodecName>,
    /// True if L2 entries have a bitmap of subclusters.
    pub has_extended_l2: bool,
    /// log2 of the cluster length, 9 to 21 (14 to 21 with extended L2); `None`: 64 KiB, more for a
    /// disk that is too long for it.
    pub cluster_bits: Option<u32>,
}

/// The codecs of a qcow2, as a value that can be compared and hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClusterCodecName {
    /// Deflate.
    Zlib,
    /// Zstandard.
    Zstd,
}

/// Tells if a file has room for the whole disk from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Allocation {
    /// A block gets room when it has content.
    Dynamic,
    /// All of it.
    Fixed,
}

/// The variants of VMDK that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VmdkKind {
    /// One file of grains.
    MonolithicSparse,
    /// One stream of compressed grains, as in an OVA.
    StreamOptimized,
}

/// An option that a format does not have, or a value that it cannot take.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{format} has no option {option:?}: {known}")]
pub struct UnknownOption {
    /// The format's name.
    pub format: &'static str,
    /// The option that was asked for.
    pub option: String,
    /// The options that there are.
    pub known: &'static str,
}

impl TargetFormat {
    /// The usual variant of a format: dynamic, sparse, plain.
    #[must_use]
    pub fn default_variant(format: Format) -> Self {
        match format {
            Format::Raw => Self::Raw,
            Format::Qcow2 => Self::Qcow2(Qcow2Kind {
                codec: None,
                has_extended_l2: false,
                cluster_bits: None,
            }),
            Format::Vdi => Self::Vdi(Allocation::Dynamic),
            Format::Vmdk => Self::Vmdk(VmdkKind::MonolithicSparse),
            Format::Vhd => Self::Vhd(Allocation::Dynamic),
            Format::Vhdx => Self::Vhdx,
        }
    }

    /// The format.
    #[must_use]
    pub fn image_format(self) -> Format {
        match self {
            Self::Raw => Format::Raw,
            Self::Qcow2(_) => Format::Qcow2,
            Self::Vdi(_) => Format::Vdi,
            Self::Vmdk(_) => Format::Vmdk,
            Self::Vhd(_) => Format::Vhd,
            Self::Vhdx => Format::Vhdx,
        }
    }

    /// True if it is written from front to back, so that [`super::StreamTarget`] takes it.
    #[must_use]
    pub fn is_stream(self) -> bool {
        matches!(
            self,
            Self::Raw
                | Self::Vdi(Allocation::Fixed)
                | Self::Vhd(Allocation::Fixed)
                | Self::Vmdk(VmdkKind::StreamOptimized)
        )
    }

    /// The same with one of qemu's `-o` options, `key=value`: `subformat`, `static`,
    /// `compression_type`, `extended_l2`, `cluster_size`.
    ///
    /// # Errors
    ///
    /// When the format has no such option or value.
    pub fn with_option(self, option: &str) -> Result<Self, UnknownOption> {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        let found = match self {
            Self::Qcow2(kind) => kind.with_option(key, value).map(Self::Qcow2),
            Self::Vdi(_) => match (key, value) {
                ("static", "on") => Some(Self::Vdi(Allocation::Fixed)),
                ("static", "off") => Some(Self::Vdi(Allocation::Dynamic)),
                _ => parse_allocation(key, value).map(Self::Vdi),
            },
            Self::Vhd(_) => parse_allocation(key, value).map(Self::Vhd),
            Self::Vmdk(_) => match (key, value) {
                ("subformat", "monolithicSparse") => Some(Self::Vmdk(VmdkKind::MonolithicSparse)),
                ("subformat", "streamOptimized") => Some(Self::Vmdk(VmdkKind::StreamOptimized)),
                _ => None,
            },
            Self::Vhdx => matches!((key, value), ("subformat", "dynamic")).then_some(self),
            Self::Raw => None,
        };
        found.ok_or_else(|| UnknownOption {
            format: self.image_format().format_name(),
            option: option.to_owned(),
            known: self.known_options(),
        })
    }

    fn known_options(self) -> &'static str {
        match self {
            Self::Raw => "there is none",
            Self::Qcow2(_) => {
                "there are compression_type=none|zlib|zstd, extended_l2=on|off, cluster_size=BYTES"
            }
            Self::Vdi(_) => "there are subformat=dynamic|fixed and static=on|off",
            Self::Vmdk(_) => "there is subformat=monolithicSparse|streamOptimized",
            Self::Vhd(_) => "there is subformat=dynamic|fixed",
            Self::Vhdx => "there is subformat=dynamic",
        }
    }
}

impl Qcow2Kind {
    fn with_option(mut self, key: &str, value: &str) -> Option<Self> {
        match (key, value) {
            ("compression_type", "none") => self.codec = None,
            ("compression_type", "zlib") => self.codec = Some(ClusterCodecName::Zlib),
            ("compression_type", "zstd") => self.codec = Some(ClusterCodecName::Zstd),
            ("extended_l2", "on") => self.has_extended_l2 = true,
            ("extended_l2", "off") => self.has_extended_l2 = false,
            ("cluster_size", bytes) => {
                let len = bytes
                    .parse::<u32>()
                    .ok()
                    .filter(|len| len.is_power_of_two())?;
                let bits = len.trailing_zeros();
                self.cluster_bits = (9..=21).contains(&bits).then_some(Some(bits))?;
            }
            _ => return None,
        }
        Some(self)
    }
}

fn parse_allocation(key: &str, value: &str) -> Option<Allocation> {
    match (key, value) {
        ("subformat", "dynamic") => Some(Allocation::Dynamic),
        ("subformat", "fixed") => Some(Allocation::Fixed),
        _ => None,
    }
}

impl ClusterCodecName {
    pub(crate) fn cluster_codec(self) -> ClusterCodec {
        match self {
            Self::Zlib => ClusterCodec::Deflate,
            Self::Zstd => ClusterCodec::Zstd,
        }
    }
}

impl FromStr for TargetFormat {
    type Err = UnknownFormat;

    /// A format by the names that [`Format`] knows, in its usual variant.
    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        name.parse().map(Self::default_variant)
    }
}
