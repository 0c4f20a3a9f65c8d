//! Detection of formats from their signatures, with every doubt: the one place that knows them. It
//! decides nothing: see the parent module for why a caller should name the format.
//!
//! A disk that is stored as it is although it is something else is worse than none: it comes back,
//! and does not boot. So also archives, compressed files and streams are known here, although none
//! of them is ever opened.

use std::fmt;

use super::{Format, read_up_to};
use vellum_core::source::{ReadAt, SourceError};

/// Looks at the signatures of `file`: a few sectors at its start, one at its end. Follows nothing
/// that it reads.
///
/// # Errors
///
/// Only when the system cannot read the file: every content has an answer.
pub fn probe_file(file: &dyn ReadAt) -> Result<Probe, SourceError> {
    let head = read_up_to(file, 0, HEAD_LEN)?;
    let tail = read_up_to(file, file.len().saturating_sub(TAIL_LEN as u64), TAIL_LEN)?;
    Ok(Probe::from_head_and_tail(&head, &tail))
}

// Signatures, each at a fixed place. Sources: qemu docs/interop (qcow2, qed, parallels) and block/
// (bochs, cloop, dmg), VirtualBox VDICore.h, the VMDK 5.0, VHD 1.0 and VHDX 1.00 specifications,
// UEFI, ECMA-119, POSIX pax, RFC 1952 and 8878, the file formats of xz, bzip2, lz4, zip and 7z.
//
// | from  | offset | bytes                           | what                                     |
// | ----- | ------ | ------------------------------- | ---------------------------------------- |
// | start | 0      | "QFI\xfb", then u32 BE          | qcow (1) or qcow2 (everything else)      |
// | start | 64     | 0x7f 0x10 0xda 0xbe, LE         | VDI                                      |
// | start | 0      | "KDMV", "COWD", 0xcafebabe (LE) | VMDK, sparse extent                      |
// | start | 0      | "# Disk DescriptorFile"         | VMDK, text that names other files        |
// | start | 0      | "vhdxfile"                      | VHDX                                     |
// | start | 0      | "conectix"                      | VHD, dynamic: a copy of the footer       |
// | end   | -512   | "conectix"                      | VHD, any: the footer (-511: old writers) |
// | end   | -512   | "koly"                          | DMG: the footer                          |
// | start | 257    | "ustar"                         | tar, and so OVA                          |
// | start |        | PLAIN_SIGNATURES, below         | everything that is told at one place     |
// | start | 510    | 0x55 0xaa                       | a boot sector: a raw disk                |
// | start | 512    | "EFI PART" (4096: 4Kn disks)    | a GPT: a raw disk                        |
// | start | 32769  | "CD001"                         | ISO 9660: a raw disk                     |

/// Bytes at the start of a file that hold signatures.
pub const HEAD_LEN: usize = 32_769 + 5;
/// Bytes at the end of a file that hold signatures.
pub const TAIL_LEN: usize = 512;
const QCOW_MAGIC: &[u8] = b"QFI\xfb";
const VDI_MAGIC: &[u8] = &0xbeda_107f_u32.to_le_bytes();
const VHD_MAGIC: &[u8] = b"conectix";

/// Signatures at the start that say all alone what follows.
const PLAIN_SIGNATURES: [(&[u8], Container); 38] = [
    (b"QED\0", Container::Qed),
    (b"WithoutFreeSpace", Container::Parallels),
    (b"WithouFreSpacExt", Container::Parallels),
    (b"Bochs Virtual HD Image", Container::Bochs),
    (b"#!/bin/sh\n#V2.0 Format", Container::Cloop),
    (b"VMA\0", Container::Vma),
    (b"meta 0000000000000000 ", Container::SparseStream),
    (b"EVF\x09\x0d\x0a\xff\0", Container::Ewf),
    (b"MSWIM\0\0\0", Container::Wim),
    (b"\x3a\xff\x26\xed", Container::AndroidSparse),
    (b"partclone-image", Container::Partclone),
    (b"\0ntfsclone-image", Container::Partclone),
    (b"MComprHD", Container::Chd),
    (b"btrfs-stream\0", Container::BtrfsSend),
    (b"VlmStrm", Container::VellumStream),
    (b"\xfd7zXZ\0", Container::Xz),
    (b"BZh11AY&SY", Container::Bzip2),
    (b"BZh21AY&SY", Container::Bzip2),
    (b"BZh31AY&SY", Container::Bzip2),
    (b"BZh41AY&SY", Container::Bzip2),
    (b"BZh51AY&SY", Container::Bzip2),
    (b"BZh61AY&SY", Container::Bzip2),
    (b"BZh71AY&SY", Container::Bzip2),
    (b"BZh81AY&SY", Container::Bzip2),
    (b"BZh91AY&SY", Container::Bzip2),
    (b"\x28\xb5\x2f\xfd", Container::Zstd),
    (b"\x04\x22\x4d\x18", Container::Lz4),
    (b"\x02\x21\x4c\x18", Container::Lz4),
    (b"\x89LZO\0\r\n\x1a\n", Container::Lzop),
    (b"LZIP\x01", Container::Lzip),
    (b"LRZI", Container::Lrzip),
    (b"PK\x03\x04", Container::Zip),
    (b"PK\x05\x06", Container::Zip),
    (b"7z\xbc\xaf\x27\x1c", Container::SevenZip),
    (b"Rar!\x1a\x07", Container::Rar),
    (b"070701", Container::Cpio),
    (b"<?xml", Container::Xml),
    (b"<domain ", Container::Xml),
];

/// A file format that wraps a disk, or something else than a disk, recognised by its signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Container {
    /// QEMU's first format, long superseded.
    Qcow1,
    /// QEMU's qcow2.
    Qcow2,
    /// `VirtualBox`.
    Vdi,
    /// `VMware`.
    Vmdk,
    /// Microsoft Virtual PC; qemu calls it vpc.
    Vhd,
    /// Microsoft Hyper-V.
    Vhdx,
    /// QEMU's enhanced disk.
    Qed,
    /// Parallels.
    Parallels,
    /// The Bochs emulator.
    Bochs,
    /// A compressed loop device.
    Cloop,
    /// Apple's disk image.
    Dmg,
    /// Proxmox's backup archive.
    Vma,
    /// Written by virtnbdbackup.
    SparseStream,
    /// Expert Witness, of forensic tools.
    Ewf,
    /// Windows Imaging.
    Wim,
    /// Android's sparse image.
    AndroidSparse,
    /// Written by partclone and ntfsclone.
    Partclone,
    /// Compressed hunks of data, of emulators.
    Chd,
    /// Written by `btrfs send`.
    BtrfsSend,
    /// Written by `vellum send`.
    VellumStream,
    /// gzip.
    Gzip,
    /// xz.
    Xz,
    /// bzip2.
    Bzip2,
    /// Zstandard.
    Zstd,
    /// LZ4.
    Lz4,
    /// lzop.
    Lzop,
    /// lzip.
    Lzip,
    /// lrzip.
    Lrzip,
    /// tar, which an OVA is.
    Tar,
    /// cpio.
    Cpio,
    /// zip.
    Zip,
    /// 7z.
    SevenZip,
    /// RAR.
    Rar,
    /// Text in XML, as an OVF or a Parallels descriptor is.
    Xml,
}

/// The use that can be made of a [`Container`] that cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContainerKind {
    /// An image of one disk: another tool converts it.
    Image,
    /// One compressed file, or an archive of files: it has to be unpacked.
    Packed,
    /// Something that another program takes, or that only describes a disk.
    Other,
}

/// A sign that the first sectors are those of a disk itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiskMark {
    /// An MBR or another boot sector.
    BootSector,
    /// A GUID partition table.
    Gpt,
    /// An optical disc's file system, often together with the others.
    Iso9660,
}

/// The signatures that [`probe_file`] saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probe {
    /// The container formats whose signature is there; more than one makes a polyglot.
    pub containers: Vec<Container>,
    /// The signs of a bare disk.
    pub marks: Vec<DiskMark>,
}

/// The conclusion from a [`Probe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatVerdict {
    /// No signature of a container: raw, as far as anyone can tell.
    Raw,
    /// One container, which can be opened.
    Known(Format),
    /// One container, which is no image format. Importing it as raw would store the container, not
    /// the disk. [`Container::input_format`] tells in which way it comes in, if in any.
    NotYet(Container),
    /// Signatures that contradict each other: only a person can say which is meant.
    Ambiguous,
}

impl Probe {
    /// Of a file whose first [`HEAD_LEN`] bytes are `head` and whose last [`TAIL_LEN`] are `tail`,
    /// each shorter if the file is.
    #[must_use]
    pub fn from_head_and_tail(head: &[u8], tail: &[u8]) -> Self {
        Self {
            containers: find_containers(head, tail),
            marks: find_marks(head),
        }
    }

    /// Concludes from the signatures.
    #[must_use]
    pub fn verdict(&self) -> FormatVerdict {
        match *self.containers.as_slice() {
            [] => FormatVerdict::Raw,
            [container] if self.marks_contradict(container) => FormatVerdict::Ambiguous,
            [container] => container
                .image_format()
                .map_or(FormatVerdict::NotYet(container), FormatVerdict::Known),
            _ => FormatVerdict::Ambiguous,
        }
    }

    /// True if the signs of a bare disk speak against `container`. A fixed VHD is a bare disk with
    /// a footer, and so may a DMG be: for these the signs do not.
    fn marks_contradict(&self, container: Container) -> bool {
        !self.marks.is_empty() && ![Container::Vhd, Container::Dmg].contains(&container)
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.verdict() {
            FormatVerdict::Raw => write!(
                f,
                "this carries no signature of an image format and would be read as raw"
            ),
            FormatVerdict::Known(format) => write!(f, "this looks like a {format} image"),
            FormatVerdict::NotYet(container) if container.input_format().is_some() => {
                write!(f, "this looks like {container}")
            }
            FormatVerdict::NotYet(container)
                if container.container_kind() == ContainerKind::Image =>
            {
                write!(
                    f,
                    "this looks like {container}, which cannot be imported yet"
                )
            }
            FormatVerdict::NotYet(container) => {
                write!(f, "this looks like {container}, not like a disk")
            }
            FormatVerdict::Ambiguous => write!(
                f,
                "this looks like several things at once: {}; say which with -f",
                self.describe_signs()
            ),
        }
    }
}

impl Probe {
    fn describe_signs(&self) -> String {
        let containers = self.containers.iter().map(ToString::to_string);
        let marks = self
            .marks
            .iter()
            .map(|mark| format!("a raw disk with {mark}"));
        containers.chain(marks).collect::<Vec<_>>().join(", ")
    }
}

impl Container {
    /// The format that opens it, if there is one yet.
    #[must_use]
    pub fn image_format(self) -> Option<Format> {
        match self {
            Self::Qcow2 => Some(Format::Qcow2),
            Self::Vdi => Some(Format::Vdi),
            Self::Vmdk => Some(Format::Vmdk),
            Self::Vhd => Some(Format::Vhd),
            Self::Vhdx => Some(Format::Vhdx),
            _ => None,
        }
    }

    /// The use that can be made of it.
    #[must_use]
    pub fn container_kind(self) -> ContainerKind {
        match self {
            Self::Qcow1
            | Self::Qcow2
            | Self::Vdi
            | Self::Vmdk
            | Self::Vhd
            | Self::Vhdx
            | Self::Qed
            | Self::Parallels
            | Self::Bochs
            | Self::Cloop
            | Self::Dmg
            | Self::SparseStream => ContainerKind::Image,
            Self::Gzip
            | Self::Xz
            | Self::Bzip2
            | Self::Zstd
            | Self::Lz4
            | Self::Lzop
            | Self::Lzip
            | Self::Lrzip
            | Self::Tar
            | Self::Cpio
            | Self::Zip
            | Self::SevenZip
            | Self::Rar => ContainerKind::Packed,
            Self::Vma
            | Self::Ewf
            | Self::Wim
            | Self::AndroidSparse
            | Self::Partclone
            | Self::Chd
            | Self::BtrfsSend
            | Self::VellumStream
            | Self::Xml => ContainerKind::Other,
        }
    }
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Qcow1 => "a qcow (version 1) image",
            Self::Qcow2 => "a qcow2 image",
            Self::Vdi => "a VDI image",
            Self::Vmdk => "a VMDK image",
            Self::Vhd => "a VHD image",
            Self::Vhdx => "a VHDX image",
            Self::Qed => "a QED image",
            Self::Parallels => "a Parallels image",
            Self::Bochs => "a Bochs image",
            Self::Cloop => "a cloop image",
            Self::Dmg => "a DMG image",
            Self::Vma => "a VMA archive",
            Self::SparseStream => "a backup of virtnbdbackup",
            Self::Ewf => "an EWF (E01) image (`ewfexport` gives its disk)",
            Self::Wim => "a WIM archive",
            Self::AndroidSparse => "an Android sparse image (`simg2img` gives its disk)",
            Self::Partclone => "a partclone or ntfsclone image (they restore it to a disk)",
            Self::Chd => "a CHD image (`chdman extracthd` gives its disk)",
            Self::BtrfsSend => "what `btrfs send` writes",
            Self::VellumStream => "what `vellum send` writes (`vellum receive` takes it)",
            Self::Gzip => "a gzip file",
            Self::Xz => "an xz file",
            Self::Bzip2 => "a bzip2 file",
            Self::Zstd => "a zstd file",
            Self::Lz4 => "an LZ4 file",
            Self::Lzop => "an lzop file",
            Self::Lzip => "an lzip file",
            Self::Lrzip => "an lrzip file",
            Self::Tar => "a tar archive (such as an OVA)",
            Self::Cpio => "a cpio archive",
            Self::Zip => "a zip archive",
            Self::SevenZip => "a 7z archive",
            Self::Rar => "a RAR archive",
            Self::Xml => "text in XML (such as an OVF)",
        })
    }
}

impl fmt::Display for DiskMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BootSector => "a boot sector",
            Self::Gpt => "a GPT",
            Self::Iso9660 => "an ISO 9660 file system",
        })
    }
}

fn find_containers(head: &[u8], tail: &[u8]) -> Vec<Container> {
    let vmdk = [
        &b"KDMV"[..],
        b"COWD",
        b"\xbe\xba\xfe\xca\0\0\0\0",
        b"# Disk DescriptorFile",
    ];
    let vhd = has_magic(head, 0, VHD_MAGIC)
        || has_magic(tail, 0, VHD_MAGIC)
        || has_magic(tail, 1, VHD_MAGIC);
    let qcow = has_magic(head, 0, QCOW_MAGIC);
    let qcow1 = qcow && has_magic(head, 4, &1_u32.to_be_bytes());
    let seen = [
        (Container::Qcow1, qcow1),
        (Container::Qcow2, qcow && !qcow1),
        (Container::Vdi, has_magic(head, 64, VDI_MAGIC)),
        (
            Container::Vmdk,
            vmdk.iter().any(|magic| has_magic(head, 0, magic)),
        ),
        (Container::Vhd, vhd),
        (Container::Vhdx, has_magic(head, 0, b"vhdxfile")),
        (Container::Dmg, has_magic(tail, 0, b"koly")),
        (Container::Tar, has_magic(head, 257, b"ustar")),
        (Container::Gzip, is_gzip(head)),
        (Container::Zstd, is_zstd_skippable(head)),
    ];
    let plain = PLAIN_SIGNATURES
        .into_iter()
        .filter_map(|(magic, container)| has_magic(head, 0, magic).then_some(container));
    seen.into_iter()
        .filter_map(|(container, seen)| seen.then_some(container))
        .chain(plain)
        .collect()
}

/// gzip's magic, its only method, and no flag that means nothing.
fn is_gzip(head: &[u8]) -> bool {
    matches!(head, [0x1f, 0x8b, 8, flags, ..] if flags & 0xe0 == 0)
}

/// A frame that decoders skip, which parallel compressors write first.
fn is_zstd_skippable(head: &[u8]) -> bool {
    matches!(head, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

fn find_marks(head: &[u8]) -> Vec<DiskMark> {
    let seen = [
        (DiskMark::BootSector, has_magic(head, 510, &[0x55, 0xaa])),
        (
            DiskMark::Gpt,
            has_magic(head, 512, b"EFI PART") || has_magic(head, 4096, b"EFI PART"),
        ),
        (DiskMark::Iso9660, has_magic(head, 32_769, b"CD001")),
    ];
    seen.into_iter()
        .filter_map(|(mark, seen)| seen.then_some(mark))
        .collect()
}

fn has_magic(bytes: &[u8], offset: usize, magic: &[u8]) -> bool {
    bytes
        .get(offset..)
        .is_some_and(|rest| rest.starts_with(magic))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes and where they stand.
    type Signs<'a> = &'a [(usize, &'a [u8])];

    /// A file of `len` zeros with `signs` written into it.
    fn file(len: usize, signs: Signs) -> Vec<u8> {
        let mut bytes = vec![0; len];
        for (at, sign) in signs {
            bytes[*at..at + sign.len()].copy_from_slice(sign);
        }
        bytes
    }

    #[test]
    fn each_signature_is_recognised_where_it_stands() {
        let known = FormatVerdict::Known;
        let cases: [(Signs, FormatVerdict); 15] = [
            (&[], FormatVerdict::Raw),
            (
                &[(510, b"\x55\xaa"), (512, b"EFI PART")],
                FormatVerdict::Raw,
            ),
            (
                &[(0, b"QFI\xfb\0\0\0\x02")],
                FormatVerdict::Known(Format::Qcow2),
            ),
            (
                &[(0, b"QFI\xfb\0\0\0\x03")],
                FormatVerdict::Known(Format::Qcow2),
            ),
            (
                &[(0, b"QFI\xfb\0\0\0\x01")],
                FormatVerdict::NotYet(Container::Qcow1),
            ),
            (&[(512, b"QFI\xfb\0\0\0\x03")], FormatVerdict::Raw),
            (&[(64, b"\x7f\x10\xda\xbe")], known(Format::Vdi)),
            (&[(0, b"KDMV")], known(Format::Vmdk)),
            (&[(0, b"COWD")], known(Format::Vmdk)),
            (&[(0, b"# Disk DescriptorFile\n")], known(Format::Vmdk)),
            (&[(0, b"vhdxfile")], known(Format::Vhdx)),
            (&[(0, b"conectix")], known(Format::Vhd)),
            (&[(65_536 - 512, b"conectix")], known(Format::Vhd)),
            (&[(65_536 - 511, b"conectix")], known(Format::Vhd)),
            // A fixed VHD is a bare disk and a footer.
            (
                &[(510, b"\x55\xaa"), (65_536 - 512, b"conectix")],
                known(Format::Vhd),
            ),
        ];
        for (signs, verdict) in cases {
            assert_eq!(
                probe_file(&file(65_536, signs))
                    .expect("memory reads")
                    .verdict(),
                verdict,
                "{signs:?}"
            );
        }
    }

    #[test]
    fn what_is_no_disk_is_never_raw() {
        for (magic, container) in PLAIN_SIGNATURES {
            let probe = probe_file(&file(65_536, &[(0, magic)])).expect("memory reads");
            assert_eq!(
                probe.verdict(),
                FormatVerdict::NotYet(container),
                "{magic:?}"
            );
            // In front of the disk's own signs nobody can tell.
            let both =
                Probe::from_head_and_tail(&file(1024, &[(0, magic), (510, b"\x55\xaa")]), &[]);
            assert_eq!(both.verdict(), FormatVerdict::Ambiguous, "{magic:?}");
            // Elsewhere it is content.
            let inside = Probe::from_head_and_tail(&file(1024, &[(512, magic)]), &[]);
            assert_eq!(inside.verdict(), FormatVerdict::Raw, "{magic:?}");
        }
        let cases: [(Signs, FormatVerdict); 8] = [
            (
                &[(0, b"\x1f\x8b\x08\x08")],
                FormatVerdict::NotYet(Container::Gzip),
            ),
            (&[(0, b"\x1f\x8b\x08\xe0")], FormatVerdict::Raw),
            (&[(0, b"\x1f\x8b\x07\0")], FormatVerdict::Raw),
            (
                &[(0, b"\x53\x2a\x4d\x18")],
                FormatVerdict::NotYet(Container::Zstd),
            ),
            (&[(257, b"ustar\0")], FormatVerdict::NotYet(Container::Tar)),
            (
                &[(257, b"ustar  \0")],
                FormatVerdict::NotYet(Container::Tar),
            ),
            (
                &[(65_536 - 512, b"koly")],
                FormatVerdict::NotYet(Container::Dmg),
            ),
            (
                &[(0, b"LUKS\xba\xbe"), (1080, b"\x53\xef")],
                FormatVerdict::Raw,
            ),
        ];
        for (signs, verdict) in cases {
            let probe = probe_file(&file(65_536, signs)).expect("memory reads");
            assert_eq!(probe.verdict(), verdict, "{signs:?}");
        }
    }

    #[test]
    fn a_polyglot_is_never_taken_for_one_of_its_faces() {
        let qcow2: (usize, &[u8]) = (0, b"QFI\xfb\0\0\0\x03");
        for other in [
            (65_536 - 512, &b"conectix"[..]),
            (64, b"\x7f\x10\xda\xbe"),
            (510, b"\x55\xaa"),
            (512, b"EFI PART"),
            (4096, b"EFI PART"),
            (32_769, b"CD001"),
        ] {
            let probe = probe_file(&file(65_536, &[qcow2, other])).expect("memory reads");
            assert_eq!(probe.verdict(), FormatVerdict::Ambiguous, "{other:?}");
            assert!(probe.to_string().contains("-f"), "{probe}");
        }
    }

    #[test]
    fn a_file_of_any_length_has_an_answer() {
        for len in (0..600).chain([HEAD_LEN - 1, HEAD_LEN, HEAD_LEN + 1]) {
            assert_eq!(
                probe_file(&file(len, &[])).expect("memory reads").verdict(),
                FormatVerdict::Raw,
                "{len}"
            );
        }
    }
}
