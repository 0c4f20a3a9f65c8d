//! Key objects: the master key, wrapped for one password or one key file.
//!
//! A key object is JSON (see [`KeyObject`]) of [`KEY_OBJECT_LEN_MAX`] bytes at most, named by the
//! BLAKE3-256 of its bytes. The wrapping key is argon2id of the password and the salt, or, for a
//! key file, BLAKE3 in key derivation mode ([`KEY_FILE_CONTEXT`]) over its 32 bytes and the salt.
//! With it, the master key is sealed by XChaCha20-Poly1305; the additional data are what the
//! repository's file states and what the key object says of itself, so nobody without the key can
//! change either and go unnoticed.

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::secrets::{KEY_LEN, random};
use super::{NONCE_LEN, SealError, SealedObject, Secrets, TAG_LEN};
use crate::format::RepositoryFile;
use crate::hexadecimal;
use crate::objects::{ObjectError, ObjectId, ObjectKind, ObjectName, Objects, list_kind};

/// Keys that are tried at most: each password costs a second.
pub const KEY_COUNT_MAX: usize = 64;

const VERSION: u32 = 1;
const KEY_OBJECT_LEN_MAX: usize = 16 << 10;
const LABEL_LEN_MAX: usize = 255;
const KEY_FILE_CONTEXT: &str = "vellum 2026-11 repository key file v1";
const KEY_FILE_PREFIX: &str = "vellum-key-1-";
const SALT_LEN: usize = 16;
/// The limits on the work that a hostile key object may demand: 1 GiB of memory, and passes over 8
/// GiB in all.
const MEMORY_KIB_MAX: u32 = 1 << 20;
const WORK_KIB_MAX: u64 = 8 << 20;
const LANES_MAX: u32 = 16;

/// The cost of trying a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes of it, which are filled at the same time by as many processors as there are.
    pub lanes: u32,
}

impl Default for PasswordCost {
    /// 64 MiB in three passes over four lanes, RFC 9106's second recommendation: about a tenth of a
    /// second on two processors, and nothing that a graphics card does many of at once.
    fn default() -> Self {
        Self {
            memory_kib: 64 << 10,
            passes: 3,
            lanes: 4,
        }
    }
}

/// The secret that opens a key object.
#[derive(Clone, Debug)]
pub enum Opener {
    /// A password, which a person knows.
    Password(Zeroizing<String>),
    /// A key file, which a machine has.
    KeyFile(KeyFile),
}

/// The right of who opens the repository with a key. Whoever holds the master key can write
/// anything that the place lets them write: the program asks for the role, and the rights that the
/// place gives must say the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyRole {
    /// All.
    #[default]
    Owner,
    /// To read, and to add points: not to forget, collect, repair, or change policies and keys.
    Writer,
}

impl KeyRole {
    /// The role as it is written.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Writer => "writer",
        }
    }

    /// The role that `word` writes.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        [Self::Owner, Self::Writer]
            .into_iter()
            .find(|role| role.word() == word)
    }
}

/// 32 random bytes in a file of text.
#[derive(Clone)]
pub struct KeyFile(Zeroizing<[u8; KEY_LEN]>);

impl KeyFile {
    /// A new one.
    pub fn generate() -> Result<Self, SealError> {
        Ok(Self(random()?))
    }

    /// Parses the content of a key file: one line, `vellum-key-1-` and 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        hexadecimal::read_exact(text.trim().strip_prefix(KEY_FILE_PREFIX)?)
            .map(Zeroizing::new)
            .map(Self)
    }

    /// The line for a file.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!(
            "{KEY_FILE_PREFIX}{}\n",
            *Zeroizing::new(hexadecimal::write(&*self.0))
        ))
    }
}

impl std::fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyFile(…)")
    }
}

impl std::fmt::Debug for OpenedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpenedKey({}, {}, …)", self.id, self.role.word())
    }
}

/// The failure of a key object to give the master key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Another password or key file, or statements of the repository that were changed.
    #[error("no key of the repository opens with this password or key file")]
    Wrong,
    /// The same, but a key object cannot be used, and may be the one that would have opened.
    #[error("no key of the repository opens with this password or key file, and {0}")]
    WrongOrDamaged(Box<KeyError>),
    /// The object cannot be read, or asks for too much.
    #[error("the key object cannot be used: {0}")]
    Invalid(String),
    /// Random bytes are missing.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The place does not answer.
    #[error(transparent)]
    Objects(#[from] ObjectError),
}

/// A key object as it is written.
#[derive(Serialize, Deserialize)]
struct KeyObject {
    /// 1. Greater is a newer program's.
    version: u32,
    /// `password` or `file`.
    kind: String,
    /// The name that people gave it.
    label: String,
    /// The time when it was made, in milliseconds since 1970.
    time_ms: u64,
    /// `writer`; none for keys that may do anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    role: Option<String>,
    /// The cost of trying a password; none for key files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    argon2id: Option<PasswordCost>,
    /// 16 random bytes.
    salt: String,
    /// 24 random bytes.
    nonce: String,
    /// The master key, sealed, with the tag of 16 bytes behind it.
    wrapped: String,
}

/// The public fields of a key, read without opening it. Nothing proves it before it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// The key object.
    pub id: ObjectId,
    /// The name that people gave it.
    pub label: String,
    /// True if a password opens it; else a key file does.
    pub is_password: bool,
    /// The right of who opens the repository with it.
    pub role: KeyRole,
    /// The time when it was made, in milliseconds since 1970.
    pub time_ms: u64,
}

/// A key that opened a repository.
pub struct OpenedKey {
    /// The key object.
    pub id: ObjectId,
    /// The right that it gives.
    pub role: KeyRole,
    /// The master key.
    pub secrets: Secrets,
}

/// A key object for `keys/`, which gives `secrets` to the holder of `opener`, with every right.
/// Takes the time of `cost`.
pub fn create_key(
    secrets: &Secrets,
    repository: &RepositoryFile,
    opener: &Opener,
    label: &str,
    time_ms: u64,
    cost: PasswordCost,
) -> Result<SealedObject, KeyError> {
    create_key_of(
        KeyRole::Owner,
        secrets,
        repository,
        opener,
        label,
        time_ms,
        cost,
    )
}

/// The same, with the right of a role.
pub fn create_key_of(
    role: KeyRole,
    secrets: &Secrets,
    repository: &RepositoryFile,
    opener: &Opener,
    label: &str,
    time_ms: u64,
    cost: PasswordCost,
) -> Result<SealedObject, KeyError> {
    if label.len() > LABEL_LEN_MAX || label.chars().any(char::is_control) {
        return Err(KeyError::Invalid(format!(
            "a label has at most {LABEL_LEN_MAX} bytes and no control characters"
        )));
    }
    let (salt, nonce) = (random::<SALT_LEN>()?, random::<NONCE_LEN>()?);
    let (kind, argon2id) = match opener {
        Opener::Password(_) => ("password", Some(cost)),
        Opener::KeyFile(_) => ("file", None),
    };
    let mut key = KeyObject {
        version: VERSION,
        kind: kind.to_owned(),
        label: label.to_owned(),
        time_ms,
        role: (role != KeyRole::Owner).then(|| role.word().to_owned()),
        argon2id,
        salt: hexadecimal::write(&*salt),
        nonce: hexadecimal::write(&*nonce),
        wrapped: String::new(),
    };
    let mut wrapped = Zeroizing::new(*secrets.0);
    let cipher = key.cipher(opener)?;
    let tag = cipher.encrypt_inout_detached(
        &XNonce::from(*nonce),
        key.statement(repository).as_bytes(),
        wrapped.as_mut_slice().into(),
    );
    let tag: [u8; TAG_LEN] = tag.expect("32 bytes are not too long to be sealed").into();
    key.wrapped = hexadecimal::write(&[&wrapped[..], &tag].concat());
    let bytes = serde_json::to_vec(&key).expect("texts and numbers are JSON");
    Ok(SealedObject {
        id: ObjectId::of(&bytes),
        bytes,
    })
}

/// The master key in the key object `stored`.
pub fn unlock(
    repository: &RepositoryFile,
    stored: &[u8],
    opener: &Opener,
) -> Result<Secrets, KeyError> {
    let key = KeyObject::parse(stored)?;
    let invalid = |what: &str| KeyError::Invalid(format!("its {what} cannot be read"));
    let nonce: [u8; NONCE_LEN] =
        hexadecimal::read_exact(&key.nonce).ok_or_else(|| invalid("nonce"))?;
    let sealed: [u8; KEY_LEN + TAG_LEN] =
        hexadecimal::read_exact(&key.wrapped).ok_or_else(|| invalid("wrapped key"))?;
    let (wrapped, tag) = sealed
        .split_first_chunk::<KEY_LEN>()
        .expect("a key and a tag");
    let tag: [u8; TAG_LEN] = tag.try_into().expect("what is left is a tag");
    let mut wrapped = Zeroizing::new(*wrapped);
    let statement = key.statement(repository);
    let cipher = key.cipher(opener)?;
    let result = cipher.decrypt_inout_detached(
        &nonce.into(),
        statement.as_bytes(),
        wrapped.as_mut_slice().into(),
        &Tag::from(tag),
    );
    result.map_err(|_| KeyError::Wrong)?;
    Ok(Secrets(wrapped))
}

/// The master key, from the first of the repository's keys that `opener` opens. A key object that
/// cannot be read is passed over: it may be another's, or damaged, and must not lock out those
/// whose own is whole.
pub fn unlock_any(
    objects: &dyn Objects,
    repository: &RepositoryFile,
    opener: &Opener,
) -> Result<OpenedKey, KeyError> {
    let mut unreadable = None;
    let mut is_wrong = false;
    for id in key_ids(objects)? {
        let object = ObjectName::Key(id).to_string();
        let stored = objects.get(&object)?;
        let named = |reason: String| Some(KeyError::Invalid(format!("{object}: {reason}")));
        if ObjectId::of(&stored) != id {
            unreadable = named(SealError::Name.to_string());
            continue;
        }
        match unlock(repository, &stored, opener) {
            Ok(secrets) => {
                let role = KeyObject::parse(&stored)?.role()?;
                return Ok(OpenedKey { id, role, secrets });
            }
            Err(KeyError::Wrong) => is_wrong = true,
            Err(KeyError::Invalid(reason)) => unreadable = named(reason),
            Err(error) => unreadable = Some(error),
        }
    }
    Err(match unreadable {
        Some(error) if is_wrong => KeyError::WrongOrDamaged(Box::new(error)),
        Some(error) => error,
        None => KeyError::Wrong,
    })
}

fn key_ids(objects: &dyn Objects) -> Result<Vec<ObjectId>, KeyError> {
    let mut ids = Vec::new();
    list_kind(objects, ObjectKind::Key, &mut |name, _| {
        ids.extend(name.id());
        Ok(())
    })?;
    // In one order for everybody.
    ids.sort_unstable();
    ids.truncate(KEY_COUNT_MAX);
    Ok(ids)
}

/// Reads the public fields of the key object `stored`.
pub fn key_info(id: ObjectId, stored: &[u8]) -> Result<KeyInfo, KeyError> {
    let key = KeyObject::parse(stored)?;
    Ok(KeyInfo {
        id,
        is_password: key.kind == "password",
        role: key.role()?,
        label: key.label,
        time_ms: key.time_ms,
    })
}

impl KeyObject {
    fn parse(stored: &[u8]) -> Result<Self, KeyError> {
        if stored.len() > KEY_OBJECT_LEN_MAX {
            return Err(KeyError::Invalid(format!("it has {} bytes", stored.len())));
        }
        let key: Self =
            serde_json::from_slice(stored).map_err(|error| KeyError::Invalid(error.to_string()))?;
        if key.version != VERSION {
            return Err(KeyError::Invalid(
                SealError::Version(key.version.try_into().unwrap_or(u8::MAX)).to_string(),
            ));
        }
        if key.label.len() > LABEL_LEN_MAX || key.label.chars().any(char::is_control) {
            return Err(KeyError::Invalid(
                "its label is not text of one line".to_owned(),
            ));
        }
        key.role()?;
        Ok(key)
    }

    fn role(&self) -> Result<KeyRole, KeyError> {
        let unknown = |word: &str| KeyError::Invalid(format!("its role {word:?} is not known"));
        self.role.as_deref().map_or(Ok(KeyRole::Owner), |word| {
            KeyRole::of_word(word).ok_or_else(|| unknown(word))
        })
    }

    /// The statement that the wrapping proves beside the key. A label has one line, so a role is
    /// never taken for a part of it.
    fn statement(&self, repository: &RepositoryFile) -> String {
        let (kind, time_ms, label) = (&self.kind, self.time_ms, &self.label);
        let role = self.role.iter().map(|role| format!("\nrole {role}"));
        format!(
            "vellum 2026-11 repository key v1\n{}{kind}\n{time_ms}\n{label}{}",
            repository.statement(),
            role.collect::<String>()
        )
    }

    fn cipher(&self, opener: &Opener) -> Result<XChaCha20Poly1305, KeyError> {
        let salt: [u8; SALT_LEN] = hexadecimal::read_exact(&self.salt)
            .ok_or_else(|| KeyError::Invalid("its salt cannot be read".to_owned()))?;
        let key = match (opener, self.kind.as_str(), self.argon2id) {
            (Opener::Password(password), "password", Some(cost)) => {
                stretched(password, &salt, cost)?
            }
            (Opener::KeyFile(file), "file", None) => {
                let input = Zeroizing::new([&file.0[..], &salt].concat());
                Zeroizing::new(blake3::derive_key(KEY_FILE_CONTEXT, &input))
            }
            // A password for a key file's object, or the reverse.
            _ => return Err(KeyError::Wrong),
        };
        Ok(XChaCha20Poly1305::new(&(*key).into()))
    }
}

fn stretched(
    password: &str,
    salt: &[u8],
    cost: PasswordCost,
) -> Result<Zeroizing<[u8; KEY_LEN]>, KeyError> {
    let mut key = Zeroizing::new([0; KEY_LEN]);
    let hasher = cost.hasher(KEY_LEN).map_err(KeyError::Invalid)?;
    hasher
        .hash_password_into(password.as_bytes(), salt, &mut *key)
        .map_err(|error| KeyError::Invalid(format!("argon2id: {error}")))?;
    Ok(key)
}

impl PasswordCost {
    /// The work of this cost, whose result has `len` bytes. An error, for people: it is more than a
    /// password is worth, or the figures contradict each other.
    pub(super) fn hasher(self, len: usize) -> Result<Argon2<'static>, String> {
        let work = u64::from(self.memory_kib) * u64::from(self.passes);
        if self.memory_kib > MEMORY_KIB_MAX || work > WORK_KIB_MAX || self.lanes > LANES_MAX {
            return Err("it asks for more memory or time than a password is worth".to_owned());
        }
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(len))
            .map_err(|error| format!("argon2id: {error}"))?;
        Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
    }
}
