//! Sealing of packs, index objects, maps and records: encrypts and authenticates them, or adds a
//! checksum in a plain repository.
//!
//! It does not know the meaning of the content. An object is a head and one or more *parts*, each
//! sealed by itself, so that one can be fetched alone:
//!
//! ```text
//! Head, version 1.
//!
//! offset  size    meaning                                    guards against
//! 0       4       "VlmR"                                     other files
//! 4       1       version                                    a newer program's object
//! 5       1       kind: 1 pack, 2 index, 3 maps, 4 record    one kind read as another
//! 6       1       sealing: 0 checksum, 1 XChaCha20-Poly1305  a plain object in an encrypted
//!                                                            repository
//! 7       1       zero
//!
//! Part.
//!
//! offset  size    meaning                                             guards against
//! 0       24      nonce: random, never twice                          (makes every object's name
//!                                                                     new)
//! 24      n       body, encrypted if the repository is
//! 24+n    16      tag over head, repository identity, nonce and body  damage; forgery if
//!                                                                     encrypted; another
//!                                                                     repository's bytes
//!
//! Body of records, index objects and blobs: an envelope.
//!
//! offset  size    meaning                                            guards against
//! 0       1       codec: 0 none, 2 zstd frame                        decoding with another codec
//! 1       4       plain length in bytes, at most PLAIN_LEN_MAX (LE)  bombs: exactly this much is
//!                                                                    decoded
//! 5       4       compressed length in bytes (LE)
//! 9       …       compressed bytes
//! …       …       zeros, up to the padded length (`pad`)             lengths telling what is
//!                                                                    inside
//! ```
//!
//! Encrypted: the key is derived from the master key with BLAKE3 in key derivation mode, one
//! context a kind; head and repository identity are the additional data. Not encrypted: the tag is
//! the first 16 bytes of BLAKE3 in key derivation mode over the same, then nonce and body. It finds
//! damage and misplaced bytes; it proves nothing about who wrote them.
//!
//! A part does not say which object it belongs to or where in it. The content does (a chunk its
//! hash, a map its content), and an object that is fetched whole is checked against its name.

mod bundle;
mod keys;
mod pad;
mod password_hash;
mod secrets;
#[cfg(test)]
mod tests;

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use vellum_core::frame::FrameCodec;
use vellum_core::identity::RepositoryId;
use vellum_core::wire::{DecodeError, WireReader};
use vellum_store::Compression;
use vellum_store::codec;
use zeroize::Zeroizing;

pub use bundle::{Bundle, SealedBundle, bundle_len, bundle_parts};
pub use keys::{
    KEY_COUNT_MAX, KeyError, KeyFile, KeyInfo, KeyRole, OpenedKey, Opener, PasswordCost,
    create_key, create_key_of, key_info, unlock, unlock_any,
};
pub use pad::padded_len;
pub use password_hash::{PasswordHash, PasswordHashError};
pub use secrets::Secrets;

use crate::objects::ObjectId;

/// Bytes of an object's head.
pub const HEAD_LEN: usize = 8;
/// Bytes that sealing adds to a body.
pub const PART_OVERHEAD: usize = NONCE_LEN + TAG_LEN;
/// The longest content of a record, an index object or a blob, once decompressed: bounds what a
/// hostile one makes a reader allocate.
pub const PLAIN_LEN_MAX: usize = 64 << 20;

const MAGIC: [u8; 4] = *b"VlmR";
const VERSION: u8 = 1;
const NONCE_LEN: usize = 24;
const TAG_LEN: usize = 16;
const ENVELOPE_LEN: usize = 9;
const CHECKSUM_CONTEXT: &str = "vellum 2026-11 repository checksum v1";
/// Maps and records are small beside chunks: the level of a store's frames.
const COMPRESSION: Compression = Compression::Zstd(3);

/// A kind of sealed object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealedKind {
    /// Chunks.
    Pack,
    /// The places of chunks, as one part.
    Index,
    /// The maps of contents.
    Maps,
    /// A record of the journal.
    Record,
    /// The places of chunks, in parts by segments.
    IndexParts,
}

impl SealedKind {
    fn code(self) -> u8 {
        match self {
            Self::Pack => 1,
            Self::Index => 2,
            Self::Maps => 3,
            Self::Record => 4,
            Self::IndexParts => 5,
        }
    }

    fn context(self) -> &'static str {
        match self {
            Self::Pack => "vellum 2026-11 repository pack v1",
            Self::Index => "vellum 2026-11 repository index v1",
            Self::Maps => "vellum 2026-11 repository maps v1",
            Self::Record => "vellum 2026-11 repository record v1",
            Self::IndexParts => "vellum 2026-11 repository index-parts v1",
        }
    }
}

/// The reason why bytes are not what their place says they are, or could not be sealed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Other bytes have the name.
    #[error("its bytes are not those it is named after: it was damaged or exchanged")]
    Name,
    /// It begins with something else.
    #[error("this is no object of a repository of that kind")]
    Head,
    /// A newer program wrote it.
    #[error("version {0} is not known to this program: use a newer one")]
    Version(u8),
    /// A plain object in an encrypted repository, or the reverse.
    #[error("it is not sealed the way this repository seals: it comes from another one")]
    Sealing,
    /// The tag does not fit.
    #[error("its seal is broken: it was damaged, or comes from another repository or key")]
    Tag,
    /// The inside is not what a writer writes.
    #[error("its content cannot be read: {0}")]
    Content(String),
    /// The kernel has no randomness.
    #[error("no random bytes from the system: {0}")]
    Random(String),
}

impl From<DecodeError> for SealError {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Version(version) => Self::Version(version),
            other => Self::Content(other.to_string()),
        }
    }
}

/// An object ready to be put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedObject {
    /// Its name.
    pub id: ObjectId,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Seals and opens the objects of one repository. Shared by threads.
pub struct Sealer {
    repository: RepositoryId,
    /// The keys of each kind, if the repository is encrypted.
    keys: Option<[Zeroizing<[u8; 32]>; 5]>,
}

impl Sealer {
    /// A sealer for a repository that is not encrypted.
    #[must_use]
    pub fn plain(repository: RepositoryId) -> Self {
        Self {
            repository,
            keys: None,
        }
    }

    /// A sealer for an encrypted repository.
    #[must_use]
    pub fn encrypted(repository: RepositoryId, secrets: &Secrets) -> Self {
        let kinds = [
            SealedKind::Pack,
            SealedKind::Index,
            SealedKind::Maps,
            SealedKind::Record,
            SealedKind::IndexParts,
        ];
        Self {
            repository,
            keys: Some(kinds.map(|kind| secrets.derive(kind.context()))),
        }
    }

    /// True if only holders of the key can read what it seals.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.keys.is_some()
    }

    /// The repository.
    #[must_use]
    pub fn repository(&self) -> RepositoryId {
        self.repository
    }

    /// The object of one part that holds `plain`: an index object or a record. Compressed; padded
    /// if encrypted.
    pub fn seal(&self, kind: SealedKind, plain: &[u8]) -> Result<SealedObject, SealError> {
        let mut body = enveloped(plain)?;
        if self.is_encrypted() {
            let around = HEAD_LEN + PART_OVERHEAD;
            body.resize(padded_len(around + body.len()) - around, 0);
        }
        let mut bytes = self.head(kind).to_vec();
        bytes.extend_from_slice(&self.seal_part(kind, &body)?);
        Ok(SealedObject {
            id: ObjectId::of(&bytes),
            bytes,
        })
    }

    /// Opens the object `stored`, which [`Sealer::seal`] sealed under this id.
    pub fn open(
        &self,
        kind: SealedKind,
        id: &ObjectId,
        stored: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        if ObjectId::of(stored) != *id {
            return Err(SealError::Name);
        }
        self.open_blob(kind, self.headless(kind, stored)?)
    }

    /// A blob: an enveloped part, to stand in an object beside others.
    pub fn seal_blob(&self, kind: SealedKind, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        self.seal_part(kind, &enveloped(plain)?)
    }

    /// Opens a part that [`Sealer::seal_blob`] sealed.
    pub fn open_blob(&self, kind: SealedKind, part: &[u8]) -> Result<Vec<u8>, SealError> {
        unenveloped(&self.open_part(kind, part)?)
    }

    /// A part with this body as it is.
    pub fn seal_part(&self, kind: SealedKind, body: &[u8]) -> Result<Vec<u8>, SealError> {
        self.seal_part_with(kind, body.len(), |part| part.extend_from_slice(body))
    }

    /// A part whose body, of `body_len` bytes or some fewer, `append` writes behind what is there:
    /// a frame of a pack, of which no copies are made.
    pub fn seal_part_with(
        &self,
        kind: SealedKind,
        body_len: usize,
        append: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(|error| SealError::Random(error.to_string()))?;
        let mut part = Vec::with_capacity(body_len + PART_OVERHEAD);
        part.extend_from_slice(&nonce);
        append(&mut part);
        let tag = self.lock(kind, &nonce, &mut part[NONCE_LEN..])?;
        part.extend_from_slice(&tag);
        Ok(part)
    }

    /// The body of a part.
    pub fn open_part(&self, kind: SealedKind, part: &[u8]) -> Result<Vec<u8>, SealError> {
        let too_short = || SealError::Content("truncated".to_owned());
        let (nonce, rest) = part
            .split_first_chunk::<NONCE_LEN>()
            .ok_or_else(too_short)?;
        let (body, tag) = rest.split_last_chunk::<TAG_LEN>().ok_or_else(too_short)?;
        let mut body = body.to_vec();
        self.unlock(kind, nonce, &mut body, tag)?;
        Ok(body)
    }

    /// The head of objects of this kind.
    #[must_use]
    pub fn head(&self, kind: SealedKind) -> [u8; HEAD_LEN] {
        let [a, b, c, d] = MAGIC;
        [
            a,
            b,
            c,
            d,
            VERSION,
            kind.code(),
            u8::from(self.is_encrypted()),
            0,
        ]
    }

    /// True if `stored` begins as an object of this kind.
    #[must_use]
    pub fn is_of(&self, kind: SealedKind, stored: &[u8]) -> bool {
        stored.starts_with(&self.head(kind))
    }

    /// The parts of an object, once its head is found to be right.
    pub(crate) fn headless<'a>(
        &self,
        kind: SealedKind,
        stored: &'a [u8],
    ) -> Result<&'a [u8], SealError> {
        let (head, rest) = stored
            .split_first_chunk::<HEAD_LEN>()
            .ok_or(SealError::Head)?;
        let expected = self.head(kind);
        if *head == expected {
            return Ok(rest);
        }
        Err(match head {
            [a, b, c, d, ..] if [*a, *b, *c, *d] != MAGIC => SealError::Head,
            [_, _, _, _, version, ..] if *version != VERSION => SealError::Version(*version),
            [_, _, _, _, _, kind, ..] if *kind != expected[5] => SealError::Head,
            _ => SealError::Sealing,
        })
    }

    fn lock(
        &self,
        kind: SealedKind,
        nonce: &[u8; NONCE_LEN],
        body: &mut [u8],
    ) -> Result<[u8; TAG_LEN], SealError> {
        let Some(cipher) = self.cipher(kind) else {
            return Ok(self.checksum(kind, nonce, body));
        };
        let tag = cipher.encrypt_inout_detached(
            &XNonce::from(*nonce),
            &self.additional(kind),
            body.into(),
        );
        tag.map(Into::into)
            .map_err(|_| SealError::Content("too long to be sealed".to_owned()))
    }

    fn unlock(
        &self,
        kind: SealedKind,
        nonce: &[u8; NONCE_LEN],
        body: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), SealError> {
        match self.cipher(kind) {
            Some(cipher) => {
                let opened = cipher.decrypt_inout_detached(
                    &XNonce::from(*nonce),
                    &self.additional(kind),
                    body.into(),
                    &Tag::from(*tag),
                );
                opened.map_err(|_| SealError::Tag)
            }
            None if self.checksum(kind, nonce, body) == *tag => Ok(()),
            None => Err(SealError::Tag),
        }
    }

    fn cipher(&self, kind: SealedKind) -> Option<XChaCha20Poly1305> {
        let keys = self.keys.as_ref()?;
        Some(XChaCha20Poly1305::new(
            &(*keys[usize::from(kind.code()) - 1]).into(),
        ))
    }

    /// The bytes that a seal covers beside nonce and body.
    fn additional(&self, kind: SealedKind) -> [u8; HEAD_LEN + 16] {
        let mut bytes = [0; HEAD_LEN + 16];
        bytes[..HEAD_LEN].copy_from_slice(&self.head(kind));
        bytes[HEAD_LEN..].copy_from_slice(&self.repository.0);
        bytes
    }

    fn checksum(&self, kind: SealedKind, nonce: &[u8], body: &[u8]) -> [u8; TAG_LEN] {
        let mut hasher = blake3::Hasher::new_derive_key(CHECKSUM_CONTEXT);
        hasher
            .update(&self.additional(kind))
            .update(nonce)
            .update(body);
        hasher.finalize().as_bytes()[..TAG_LEN]
            .try_into()
            .expect("a hash has more than sixteen bytes")
    }
}

fn enveloped(plain: &[u8]) -> Result<Vec<u8>, SealError> {
    if plain.len() > PLAIN_LEN_MAX {
        return Err(SealError::Content(format!(
            "{} bytes are more than one object may hold",
            plain.len()
        )));
    }
    let (codec, compressed) = codec::compress_frame(COMPRESSION, plain);
    let mut body = Vec::with_capacity(ENVELOPE_LEN + compressed.len());
    body.push(if codec == FrameCodec::Zstd { 2 } else { 0 });
    body.extend_from_slice(&(plain.len() as u32).to_le_bytes());
    body.extend_from_slice(&(compressed.len() as u32).to_le_bytes());
    body.extend_from_slice(&compressed);
    Ok(body)
}

/// The content of an envelope.
pub fn unenveloped(body: &[u8]) -> Result<Vec<u8>, SealError> {
    let mut reader = WireReader::new(body);
    let codec = match reader.read_u8()? {
        0 => FrameCodec::None,
        2 => FrameCodec::Zstd,
        _ => return Err(DecodeError::Invalid("codec").into()),
    };
    let (plain_len, compressed_len) = (reader.read_u32()? as usize, reader.read_u32()? as usize);
    if plain_len > PLAIN_LEN_MAX {
        return Err(DecodeError::Invalid("plain length").into());
    }
    let compressed = reader.read_bytes(compressed_len)?;
    if reader
        .read_bytes(reader.remaining_len())?
        .iter()
        .any(|byte| *byte != 0)
    {
        return Err(DecodeError::Invalid("padding").into());
    }
    codec::decompress_frame(codec, compressed, plain_len).map_err(SealError::Content)
}
