//! The caller's options for an image that is to be written, beside its content and format.

use super::ImageWriteError;
use super::impossible_image;
use crate::identity::DiskIdentity;
use vellum_core::hash::ChunkHash;

/// The longest name of a parent or file: qcow2's own limit, and more than any other format holds.
const NAME_LEN_MAX: usize = 1023;

/// A child's reference to its parent image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentLink {
    /// The parent's name, as seen from the child's folder. It goes into the file as it is: give no
    /// path of this machine.
    pub path: String,
    /// The parent's identity, [`super::WrittenImage::identity`]. Formats that have one need it.
    pub identity: Option<DiskIdentity>,
    /// The parent's format as qemu names it, for qcow2: without it a reader would have to guess.
    pub format: Option<String>,
}

/// Options that all formats share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteOptions {
    /// Names the content. What a format wants to be unique is derived from it, so the same content
    /// gets the same UUIDs everywhere, and no other does.
    pub content_identity: [u8; 32],
    /// The image's identity; derived if there is none.
    pub identity: Option<DiskIdentity>,
    /// The image that this one stands on.
    pub parent: Option<ParentLink>,
    /// The file's own name, which a VMDK says in its descriptor.
    pub file_name: Option<String>,
    /// Seconds since 2000-01-01 00:00 UTC, for the formats that say when a file was made (VHD).
    pub seconds_since_2000: u32,
}

impl WriteOptions {
    /// The options of a whole disk of that content, everything else by default.
    #[must_use]
    pub fn new(content_identity: [u8; 32]) -> Self {
        Self {
            content_identity,
            identity: None,
            parent: None,
            file_name: None,
            seconds_since_2000: 0,
        }
    }

    /// A UUID for `purpose` that only this content has: version 8 of RFC 9562, bits from BLAKE3.
    pub(crate) fn uuid_for(&self, purpose: &str) -> [u8; 16] {
        let hash = self.derive_bytes(purpose);
        let mut uuid = *hash.first_chunk::<16>().expect("a hash has 32 bytes");
        let [_, _, _, _, _, _, version, _, variant, ..] = &mut uuid;
        *version = (*version & 0x0f) | 0x80;
        *variant = (*variant & 0x3f) | 0x80;
        uuid
    }

    /// The image's own UUID.
    pub(crate) fn image_uuid(&self) -> [u8; 16] {
        match self.identity {
            Some(DiskIdentity::Uuid(uuid)) => uuid,
            _ => self.uuid_for("image"),
        }
    }

    /// The image's own content id, as VMDK has it; the two greatest numbers mean something else.
    pub(crate) fn content_id(&self) -> u32 {
        if let Some(DiskIdentity::ContentId(id)) = self.identity {
            return id;
        }
        let hash = self.derive_bytes("content id");
        let [a, b, c, d] = *hash.first_chunk::<4>().expect("a hash has 32 bytes");
        u32::from_le_bytes([a, b, c, d]) & 0x7fff_ffff
    }

    /// The parent's UUID, zeros without a parent.
    pub(crate) fn parent_uuid(&self, format: &'static str) -> Result<[u8; 16], ImageWriteError> {
        match self.parent.as_ref().map(|parent| parent.identity) {
            None => Ok([0; 16]),
            Some(Some(DiskIdentity::Uuid(uuid))) => Ok(uuid),
            Some(_) => Err(impossible_image(
                format,
                "it names its parent by UUID, and that one's is not given",
            )),
        }
    }

    /// Refuses names that no format could hold, or that would mean something else in a text.
    pub(crate) fn verify_names(&self, format: &'static str) -> Result<(), ImageWriteError> {
        let parent = self.parent.as_ref().map(|parent| parent.path.as_str());
        for name in parent.into_iter().chain(self.file_name.as_deref()) {
            let is_odd = name.chars().any(|c| c.is_control() || c == '"');
            if name.is_empty() || name.len() > NAME_LEN_MAX || is_odd {
                return Err(impossible_image(
                    format,
                    format!("the name {name:?} cannot stand in it"),
                ));
            }
        }
        Ok(())
    }

    fn derive_bytes(&self, purpose: &str) -> [u8; 32] {
        let words = [&self.content_identity[..], purpose.as_bytes()].concat();
        ChunkHash::of_chunk(&words).0
    }
}

/// The UUID of an image's last change, which a child names beside its parent's own: derived from
/// that, so that whoever writes the child knows it.
pub(crate) fn change_uuid(uuid: [u8; 16]) -> [u8; 16] {
    let mut content_identity = [0; 32];
    let (own, _) = content_identity.split_at_mut(16);
    own.copy_from_slice(&uuid);
    WriteOptions::new(content_identity).uuid_for("last change")
}
