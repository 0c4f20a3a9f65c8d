//! The descriptor of a VMDK: a text that says which extents make the disk, and who its parent is.
//!
//! ```text
//! # Disk DescriptorFile
//! version=1
//! CID=1a2b3c4d                    this content's id
//! parentCID=ffffffff              the parent's, or ffffffff: none
//! createType="monolithicSparse"
//! parentFileNameHint="base.vmdk"
//!
//! # Extent description: access, sectors, type, file name, first sector (flat ones)
//! RW 4192256 SPARSE "disk-s001.vmdk"
//! RW 63 FLAT "disk-flat.vmdk" 0
//! RW 1024 ZERO
//! ```

use vellum_core::source::{ReadAt, SourceError};
use vellum_core::units::IMAGE_LEN_MAX;

use super::{FORMAT, SECTOR_LEN, text_at, unknown_kind};
use crate::identity::{DiskIdentity, ParentReference};
use crate::malformed;

const HEAD: &str = "# Disk DescriptorFile";
const NO_PARENT: u32 = 0xffff_ffff;

/// One line of the extent description.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ExtentLine {
    /// Bytes of the disk that it makes.
    pub(super) len: u64,
    /// Plain bytes, not grains.
    pub(super) is_flat: bool,
    /// The file it lies in; zeros without one.
    pub(super) file_name: Option<String>,
    /// The first byte in the file, of a flat one.
    pub(super) offset: u64,
}

/// Fields of a descriptor.
#[derive(Debug)]
pub(super) struct VmdkDescriptor {
    pub(super) identity: Option<DiskIdentity>,
    pub(super) parent: Option<ParentReference>,
    pub(super) extents: Vec<ExtentLine>,
    create_type: String,
}

impl VmdkDescriptor {
    /// Reads the descriptor at `offset`, of `len` bytes at most.
    pub(super) fn read_from(file: &dyn ReadAt, offset: u64, len: u64) -> Result<Self, SourceError> {
        let text = text_at(file, offset, len)?;
        if !text.trim_start().starts_with(HEAD) {
            return Err(malformed(
                FORMAT,
                format!("no VMDK signature at byte {offset}: is it in another format?"),
            ));
        }
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self, SourceError> {
        let (mut identity, mut parent_id, mut hint) = (None, NO_PARENT, None);
        let (mut create_type, mut extents) = (String::new(), Vec::new());
        for line in text.lines().map(str::trim) {
            if let Some(extent) = ExtentLine::parse(line)? {
                extents.push(extent);
                continue;
            }
            let Some((key, value)) = line.split_once('=') else {
                continue;
            };
            let value = value.trim().trim_matches('"');
            match key.trim().to_ascii_lowercase().as_str() {
                "version" if !matches!(value, "1" | "2" | "3" | "4") => {
                    return Err(unknown_kind(&format!("a descriptor of version {value}")));
                }
                "cid" => {
                    identity = u32::from_str_radix(value, 16)
                        .ok()
                        .map(DiskIdentity::ContentId);
                }
                "parentcid" => parent_id = u32::from_str_radix(value, 16).unwrap_or(NO_PARENT),
                "parentfilenamehint" => hint = Some(value.to_owned()),
                "createtype" => value.clone_into(&mut create_type),
                _ => {}
            }
        }
        let has_parent = parent_id != NO_PARENT || hint.is_some();
        let parent = has_parent.then(|| ParentReference {
            identity: (parent_id != NO_PARENT).then_some(DiskIdentity::ContentId(parent_id)),
            hints: hint.into_iter().collect(),
            format: Some(FORMAT.to_owned()),
        });
        Ok(Self {
            identity,
            parent,
            extents,
            create_type,
        })
    }

    /// The variant's name as `VMware` has it; `fallback` for one that says none.
    pub(super) fn variant_name(&self, fallback: &'static str) -> &'static str {
        const KNOWN: [&str; 10] = [
            "monolithicSparse",
            "monolithicFlat",
            "twoGbMaxExtentSparse",
            "twoGbMaxExtentFlat",
            "streamOptimized",
            "vmfs",
            "vmfsSparse",
            "seSparse",
            "vmfsThin",
            "custom",
        ];
        let same = |known: &&str| known.eq_ignore_ascii_case(&self.create_type);
        KNOWN.into_iter().find(same).unwrap_or(fallback)
    }
}

impl ExtentLine {
    /// The line as an extent, `None` if it is none.
    fn parse(line: &str) -> Result<Option<Self>, SourceError> {
        let mut words = line.splitn(4, char::is_whitespace);
        if !matches!(words.next(), Some("RW" | "RDONLY" | "NOACCESS")) {
            return Ok(None);
        }
        let wrong = || malformed(FORMAT, format!("the extent line {line:?} cannot be read"));
        let sectors: u64 = words
            .next()
            .and_then(|word| word.parse().ok())
            .ok_or_else(wrong)?;
        let len = sectors
            .checked_mul(SECTOR_LEN)
            .filter(|len| *len <= IMAGE_LEN_MAX);
        let len = len.ok_or_else(wrong)?;
        let kind = words.next().ok_or_else(wrong)?;
        let rest = words.next().unwrap_or_default().trim();
        let is_flat = match kind {
            "ZERO" => {
                return Ok(Some(Self {
                    len,
                    is_flat: false,
                    file_name: None,
                    offset: 0,
                }));
            }
            "FLAT" | "VMFS" => true,
            "SPARSE" | "VMFSSPARSE" | "SESPARSE" => false,
            other => return Err(unknown_kind(&format!("an extent of type {other}"))),
        };
        let (name, after) = rest
            .strip_prefix('"')
            .and_then(|rest| rest.split_once('"'))
            .ok_or_else(wrong)?;
        let first: u64 = match after.split_whitespace().next() {
            Some(word) if is_flat => word.parse().map_err(|_| wrong())?,
            _ => 0,
        };
        Ok(Some(Self {
            len,
            is_flat,
            file_name: Some(name.to_owned()),
            offset: first.checked_mul(SECTOR_LEN).ok_or_else(wrong)?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_tells_its_extents_and_its_parent() {
        let text = "# Disk DescriptorFile\nversion=1\nCID=0a0b0c0d\nparentCID=01020304\n\
            createType=\"twoGbMaxExtentSparse\"\nparentFileNameHint=\"base disk.vmdk\"\n\
            RW 100 SPARSE \"a b-s001.vmdk\"\nRW 7 FLAT \"f.vmdk\" 9\nRW 1 ZERO\n#DDB\n";
        let descriptor = VmdkDescriptor::parse(text).expect("parsed");
        assert_eq!(
            descriptor.identity,
            Some(DiskIdentity::ContentId(0x0a0b_0c0d))
        );
        let parent = descriptor.parent.as_ref().expect("a parent");
        assert_eq!(parent.identity, Some(DiskIdentity::ContentId(0x0102_0304)));
        assert_eq!(parent.hints, ["base disk.vmdk"]);
        assert_eq!(descriptor.variant_name("?"), "twoGbMaxExtentSparse");
        let told: Vec<_> = descriptor
            .extents
            .iter()
            .map(|line| {
                (
                    line.len,
                    line.is_flat,
                    line.file_name.as_deref(),
                    line.offset,
                )
            })
            .collect();
        let expected = [
            (51_200, false, Some("a b-s001.vmdk"), 0),
            (3584, true, Some("f.vmdk"), 4608),
            (512, false, None, 0),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn an_extent_line_that_cannot_be_followed_is_an_error() {
        for line in [
            "RW",
            "RW x SPARSE \"a\"",
            "RW 99999999999999999999 SPARSE \"a\"",
            "RW 36028797018963968 SPARSE \"a\"",
            "RW 1 SPARSE",
            "RW 1 SPARSE a.vmdk",
            "RW 1 FLAT \"a\" -1",
            "RW 1 FLAT \"a\" 36028797018963968",
            "RW 1 VMFSRDM \"a\"",
            "RW 1 WHATEVER \"a\"",
        ] {
            assert!(ExtentLine::parse(line).is_err(), "{line}");
        }
        assert_eq!(ExtentLine::parse("RWX 1 SPARSE").expect("no extent"), None);
    }
}
