//! What a file looks like from its signatures, with every doubt.
//! It decides nothing: see the parent module for why a caller should name the format.

use std::fmt;

use super::{Format, read_up_to};
use vellum_core::source::{ReadAt, SourceError};

/// Looks at the signatures of `file`: a few sectors at its start, one at its end. Follows nothing
/// that it reads.
///
/// # Errors
///
/// Only when the system cannot read the file: every content has an answer.
pub fn probe(file: &dyn ReadAt) -> Result<Probe, SourceError> {
    let head = read_up_to(file, 0, HEAD_LEN)?;
    let tail = read_up_to(
        file,
        file.len().saturating_sub(FOOTER_LEN as u64),
        FOOTER_LEN,
    )?;
    Ok(Probe {
        containers: containers(&head, &tail),
        marks: marks(&head),
    })
}

// Signatures, each at a fixed place. Sources: qemu docs/interop/qcow2.txt, VirtualBox VDICore.h,
// the VMDK 5.0, VHD 1.0 and VHDX 1.00 specifications, UEFI, ECMA-119.
//
// | from  | offset | bytes                          | what                                     |
// | ----- | ------ | ------------------------------ | ---------------------------------------- |
// | start | 0      | "QFI\xfb", then u32 BE         | qcow (1) or qcow2 (everything else)      |
// | start | 64     | 0x7f 0x10 0xda 0xbe, LE        | VDI                                      |
// | start | 0      | "KDMV", "COWD"                 | VMDK, sparse extent                      |
// | start | 0      | "# Disk DescriptorFile"        | VMDK, text that names other files        |
// | start | 0      | "vhdxfile"                     | VHDX                                     |
// | start | 0      | "conectix"                     | VHD, dynamic: a copy of the footer       |
// | end   | -512   | "conectix"                     | VHD, any: the footer (-511: old writers) |
// | start | 510    | 0x55 0xaa                      | a boot sector: a raw disk                |
// | start | 512    | "EFI PART" (4096: 4Kn disks)   | a GPT: a raw disk                        |
// | start | 32769  | "CD001"                        | ISO 9660: a raw disk                     |
const HEAD_LEN: usize = 32_769 + 5;
const FOOTER_LEN: usize = 512;
const QCOW_MAGIC: &[u8] = b"QFI\xfb";
const VDI_MAGIC: &[u8] = &0xbeda_107f_u32.to_le_bytes();
const VHD_MAGIC: &[u8] = b"conectix";

/// A file format that wraps a disk, recognised by its signature.
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

/// What [`probe`] saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The container formats whose signature is there; more than one makes a polyglot.
    pub containers: Vec<Container>,
    /// The signs of a bare disk.
    pub marks: Vec<DiskMark>,
}

/// What a [`Probe`] amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No signature of a container: raw, as far as anyone can tell.
    Raw,
    /// One container, which can be opened.
    Known(Format),
    /// One container, which cannot be imported yet. Importing it as raw would store the container,
    /// not the disk.
    NotYet(Container),
    /// Signatures that contradict each other: only a person can say which is meant.
    Ambiguous,
}

impl Probe {
    /// What the signatures amount to.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match *self.containers.as_slice() {
            [] => Verdict::Raw,
            [container] if self.contradicts(container) => Verdict::Ambiguous,
            [container] => container
                .format()
                .map_or(Verdict::NotYet(container), Verdict::Known),
            _ => Verdict::Ambiguous,
        }
    }

    /// Whether the signs of a bare disk speak against `container`. A fixed VHD is a bare disk with
    /// a footer, so there they do not.
    fn contradicts(&self, container: Container) -> bool {
        !self.marks.is_empty() && container != Container::Vhd
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.verdict() {
            Verdict::Raw => write!(
                f,
                "this carries no signature of an image format and would be read as raw"
            ),
            Verdict::Known(format) => write!(f, "this looks like a {format} image"),
            Verdict::NotYet(container) => write!(
                f,
                "this looks like a {container} image, which cannot be imported yet"
            ),
            Verdict::Ambiguous => write!(
                f,
                "this looks like several things at once: {}; say which with -f",
                self.signs()
            ),
        }
    }
}

impl Probe {
    fn signs(&self) -> String {
        let containers = self
            .containers
            .iter()
            .map(|container| format!("a {container} image"));
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
    pub fn format(self) -> Option<Format> {
        match self {
            Self::Qcow1 => None,
            Self::Qcow2 => Some(Format::Qcow2),
            Self::Vdi => Some(Format::Vdi),
            Self::Vmdk => Some(Format::Vmdk),
            Self::Vhd => Some(Format::Vhd),
            Self::Vhdx => Some(Format::Vhdx),
        }
    }
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Qcow1 => "qcow (version 1)",
            Self::Qcow2 => "qcow2",
            Self::Vdi => "VDI",
            Self::Vmdk => "VMDK",
            Self::Vhd => "VHD",
            Self::Vhdx => "VHDX",
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

fn containers(head: &[u8], tail: &[u8]) -> Vec<Container> {
    let vmdk = [&b"KDMV"[..], b"COWD", b"# Disk DescriptorFile"];
    let vhd = holds(head, 0, VHD_MAGIC) || holds(tail, 0, VHD_MAGIC) || holds(tail, 1, VHD_MAGIC);
    let qcow = holds(head, 0, QCOW_MAGIC);
    let qcow1 = qcow && holds(head, 4, &1_u32.to_be_bytes());
    let seen = [
        (Container::Qcow1, qcow1),
        (Container::Qcow2, qcow && !qcow1),
        (Container::Vdi, holds(head, 64, VDI_MAGIC)),
        (
            Container::Vmdk,
            vmdk.iter().any(|magic| holds(head, 0, magic)),
        ),
        (Container::Vhd, vhd),
        (Container::Vhdx, holds(head, 0, b"vhdxfile")),
    ];
    seen.into_iter()
        .filter_map(|(container, seen)| seen.then_some(container))
        .collect()
}

fn marks(head: &[u8]) -> Vec<DiskMark> {
    let seen = [
        (DiskMark::BootSector, holds(head, 510, &[0x55, 0xaa])),
        (
            DiskMark::Gpt,
            holds(head, 512, b"EFI PART") || holds(head, 4096, b"EFI PART"),
        ),
        (DiskMark::Iso9660, holds(head, 32_769, b"CD001")),
    ];
    seen.into_iter()
        .filter_map(|(mark, seen)| seen.then_some(mark))
        .collect()
}

fn holds(bytes: &[u8], offset: usize, magic: &[u8]) -> bool {
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
        let known = Verdict::Known;
        let cases: [(Signs, Verdict); 15] = [
            (&[], Verdict::Raw),
            (&[(510, b"\x55\xaa"), (512, b"EFI PART")], Verdict::Raw),
            (&[(0, b"QFI\xfb\0\0\0\x02")], Verdict::Known(Format::Qcow2)),
            (&[(0, b"QFI\xfb\0\0\0\x03")], Verdict::Known(Format::Qcow2)),
            (
                &[(0, b"QFI\xfb\0\0\0\x01")],
                Verdict::NotYet(Container::Qcow1),
            ),
            (&[(512, b"QFI\xfb\0\0\0\x03")], Verdict::Raw),
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
                probe(&file(65_536, signs)).expect("memory reads").verdict(),
                verdict,
                "{signs:?}"
            );
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
            let probe = probe(&file(65_536, &[qcow2, other])).expect("memory reads");
            assert_eq!(probe.verdict(), Verdict::Ambiguous, "{other:?}");
            assert!(probe.to_string().contains("-f"), "{probe}");
        }
    }

    #[test]
    fn a_file_of_any_length_has_an_answer() {
        for len in (0..600).chain([HEAD_LEN - 1, HEAD_LEN, HEAD_LEN + 1]) {
            assert_eq!(
                probe(&file(len, &[])).expect("memory reads").verdict(),
                Verdict::Raw,
                "{len}"
            );
        }
    }
}
