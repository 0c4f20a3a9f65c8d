//! Identities by which image files know each other, and how a child names its parent.

use std::fmt;

/// The identity of an image file, as its format has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiskIdentity {
    /// A UUID (VDI, VHD) or GUID (VHDX), in the order in which it is printed.
    Uuid([u8; 16]),
    /// A VMDK's content id, which changes when the content does.
    ContentId(u32),
}

/// A differencing image's reference to its parent image. No part of it is followed here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentReference {
    /// The parent's identity, if the format has one.
    pub identity: Option<DiskIdentity>,
    /// Names under which the parent was known where the child was made: hints, never opened on the
    /// word of a header.
    pub hints: Vec<String>,
    /// The parent's format, if the child says it.
    pub format: Option<String>,
}

impl fmt::Display for ParentReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.identity, self.hints.first()) {
            (Some(identity), Some(hint)) => write!(f, "{hint:?} ({identity})"),
            (Some(identity), None) => write!(f, "the image {identity}"),
            (None, Some(hint)) => write!(f, "{hint:?}"),
            (None, None) => f.write_str("a parent that it does not name"),
        }
    }
}

impl DiskIdentity {
    /// A GUID as it is stored by VHDX and VDI: the first three fields are little-endian.
    pub(crate) fn from_guid(bytes: [u8; 16]) -> Self {
        Self::Uuid(Self::swap_guid(bytes))
    }

    /// From the order in which a GUID is stored to the one in which it is printed, or back.
    pub(crate) fn swap_guid(bytes: [u8; 16]) -> [u8; 16] {
        let [low @ .., _, _, _, _, _, _, _, _] = bytes;
        let mut uuid = bytes;
        let order = [3, 2, 1, 0, 5, 4, 7, 6];
        for (to, from) in uuid.iter_mut().zip(order) {
            *to = low.get(from).copied().unwrap_or_default();
        }
        uuid
    }

    /// The identity, unless it is all zeros, which means none.
    pub(crate) fn if_set(self) -> Option<Self> {
        (self != Self::Uuid([0; 16])).then_some(self)
    }
}

impl fmt::Display for DiskIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ContentId(id) => write!(f, "{id:08x}"),
            Self::Uuid(bytes) => {
                for (at, byte) in bytes.iter().enumerate() {
                    let dash = if matches!(at, 4 | 6 | 8 | 10) {
                        "-"
                    } else {
                        ""
                    };
                    write!(f, "{dash}{byte:02x}")?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guid_is_printed_as_windows_prints_it() {
        let guid = *b"\x66\x77\xc2\x2d\x23\xf6\x00\x42\x9d\x64\x11\x5e\x9b\xfd\x4a\x08";
        let identity = DiskIdentity::from_guid(guid);
        assert_eq!(identity.to_string(), "2dc27766-f623-4200-9d64-115e9bfd4a08");
        assert_eq!(DiskIdentity::from_guid([0; 16]).if_set(), None);
        assert_eq!(DiskIdentity::ContentId(0xab).to_string(), "000000ab");
    }
}
