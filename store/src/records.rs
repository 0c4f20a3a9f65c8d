//! The records that are read once and written seldom: how layers, images, snapshots, parameters and counters become bytes.
//!
//! bincode is named in this file only, with fixed settings. Hot encodings (pages, frames) are in core, by hand.
//!
//! ```text
//! offset  size    meaning                                                     guards against
//! 0       1       version: 1                                                  a newer program's record
//! 1       …       the record's fields in order, bincode 2 standard settings   (see the structs below)
//! end-8   8       checksum over family name, key and all bytes before         damage, a record in another's place
//! ```

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use vellum_core::name::Name;
use vellum_core::tree::{Image, Layer, Mode, PageSet, Snapshot};
use vellum_core::units::{ChunkCount, ChunkLen, ImageId, LayerId};
use vellum_core::wire::{DecodeError, seal, verified};

const VERSION: u8 = 1;
const CONTEXT: &str = "vellum 2026-11 record v1";
/// The longest record: a layer whose every second page exists, on the largest disk that is cut finest, would need more; it is
/// refused when it is written, not when it is read.
const RECORD_LEN_MAX: usize = 64 << 20;

/// What a store was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreParameters {
    /// The length of every chunk.
    pub chunk_len: ChunkLen,
    /// Plain bytes that a frame holds: a multiple of the chunk length.
    pub frame_len: u32,
    /// How frames are compressed.
    pub compression: Compression,
}

/// How frames are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compression {
    /// Not at all.
    None,
    /// LZ4, fast.
    Lz4,
    /// zstd at this level, 1 to 22.
    Zstd(u8),
}

/// Numbers that must not be given twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counters {
    /// For layers, images and snapshots.
    pub next_id: u64,
    /// For chunks.
    pub next_chunk: u64,
}

/// How many commits the store has had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Commits(pub u64);

/// A kind of record: the domain type that it stands for, and the fields that are written.
pub(crate) trait Record: Sized {
    /// The fields, in order. Adding one is a new version.
    type Fields: Serialize + for<'de> Deserialize<'de>;

    fn to_fields(&self) -> Self::Fields;

    /// The value, if the fields make sense together.
    fn from_fields(fields: Self::Fields) -> Option<Self>;
}

/// The bytes under which the store keeps `record` at `key` of the family called `family`.
pub(crate) fn encode<R: Record>(family: &str, key: &[u8], record: &R) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bincode::serde::encode_into_std_write(record.to_fields(), &mut bytes, bincode::config::standard())
        .expect("a record in memory can be written to memory");
    assert!(bytes.len() <= RECORD_LEN_MAX, "a record is bounded by the disk that it describes");
    seal(CONTEXT, &[family.as_bytes(), key], &mut bytes);
    bytes
}

/// The record that `bytes` hold, if they are whole and belong to this place.
pub(crate) fn decode<R: Record>(family: &str, key: &[u8], bytes: &[u8]) -> Result<R, DecodeError> {
    decode_body(verified(CONTEXT, &[family.as_bytes(), key], bytes)?)
}

/// The inside of [`decode`], without the checksum, so that a fuzzer reaches it.
fn decode_body<R: Record>(body: &[u8]) -> Result<R, DecodeError> {
    let (version, fields) = body.split_first().ok_or(DecodeError::Truncated)?;
    if *version != VERSION {
        return Err(DecodeError::Version(*version));
    }
    let config = bincode::config::standard().with_limit::<RECORD_LEN_MAX>();
    let (fields, read) = bincode::serde::decode_from_slice(fields, config).map_err(|_| DecodeError::Invalid("record"))?;
    if read + 1 != body.len() {
        return Err(DecodeError::TooLong(body.len() - read - 1));
    }
    R::from_fields(fields).ok_or(DecodeError::Invalid("record"))
}

/// Decodes `body` as each kind of record: total on any bytes. For fuzzing.
#[must_use]
pub fn decode_any(body: &[u8]) -> usize {
    let decoded = [
        decode_body::<StoreParameters>(body).is_ok(),
        decode_body::<Counters>(body).is_ok(),
        decode_body::<Commits>(body).is_ok(),
        decode_body::<Layer>(body).is_ok(),
        decode_body::<Image>(body).is_ok(),
        decode_body::<Snapshot>(body).is_ok(),
    ];
    decoded.into_iter().filter(|ok| *ok).count()
}

/// `chunk_len`, `frame_len`, compression.
#[derive(Serialize, Deserialize)]
pub(crate) struct ParameterFields(u32, u32, Compression);

impl Record for StoreParameters {
    type Fields = ParameterFields;

    fn to_fields(&self) -> ParameterFields {
        ParameterFields(self.chunk_len.bytes() as u32, self.frame_len, self.compression)
    }

    fn from_fields(fields: ParameterFields) -> Option<Self> {
        let parameters = Self { chunk_len: ChunkLen::new(fields.0)?, frame_len: fields.1, compression: fields.2 };
        parameters.check().ok()?;
        Some(parameters)
    }
}

impl Record for Counters {
    type Fields = Self;

    fn to_fields(&self) -> Self {
        *self
    }

    fn from_fields(fields: Self) -> Option<Self> {
        Some(fields)
    }
}

impl Record for Commits {
    type Fields = u64;

    fn to_fields(&self) -> u64 {
        self.0
    }

    fn from_fields(fields: u64) -> Option<Self> {
        Some(Self(fields))
    }
}

/// A layer's fields, the page ranges last.
#[derive(Serialize, Deserialize)]
pub(crate) struct LayerFields {
    id: u64,
    parent: Option<u64>,
    sealed: bool,
    len: u64,
    parent_visible: u64,
    chunks: u64,
    zeros: u64,
    created_ms: u64,
    pages: Vec<(u64, u64)>,
}

impl Record for Layer {
    type Fields = LayerFields;

    fn to_fields(&self) -> LayerFields {
        LayerFields {
            id: self.id.0,
            parent: self.parent.map(|parent| parent.0),
            sealed: self.sealed,
            len: self.len,
            parent_visible: self.parent_visible.0,
            chunks: self.chunks,
            zeros: self.zeros,
            created_ms: self.created_ms,
            pages: self.pages.ranges().to_vec(),
        }
    }

    fn from_fields(fields: LayerFields) -> Option<Self> {
        Some(Self {
            id: LayerId(fields.id),
            parent: fields.parent.map(LayerId),
            sealed: fields.sealed,
            len: fields.len,
            parent_visible: ChunkCount(fields.parent_visible),
            pages: PageSet::from_ranges(fields.pages)?,
            chunks: fields.chunks,
            zeros: fields.zeros,
            created_ms: fields.created_ms,
        })
    }
}

/// An image's fields.
#[derive(Serialize, Deserialize)]
pub(crate) struct ImageFields {
    id: u64,
    name: String,
    layer: u64,
    mode: u8,
    origin: Option<u64>,
    created_ms: u64,
    tags: Vec<String>,
    pinned: bool,
}

/// The modes, in the order of their codes.
const MODES: [Mode; 6] = [Mode::Normal, Mode::Immutable, Mode::Writethrough, Mode::Shareable, Mode::Readonly, Mode::Multiattach];

impl Record for Image {
    type Fields = ImageFields;

    fn to_fields(&self) -> ImageFields {
        ImageFields {
            id: self.id.0,
            name: self.name.to_string(),
            layer: self.layer.0,
            mode: MODES.iter().position(|mode| *mode == self.mode).expect("every mode has a code") as u8,
            origin: self.origin.map(|origin| origin.0),
            created_ms: self.created_ms,
            tags: self.tags.iter().map(Name::to_string).collect(),
            pinned: self.pinned,
        }
    }

    fn from_fields(fields: ImageFields) -> Option<Self> {
        Some(Self {
            id: ImageId(fields.id),
            name: Name::new(&fields.name).ok()?,
            layer: LayerId(fields.layer),
            mode: *MODES.get(usize::from(fields.mode))?,
            origin: fields.origin.map(ImageId),
            created_ms: fields.created_ms,
            tags: tags(fields.tags)?,
            pinned: fields.pinned,
        })
    }
}

/// A snapshot's fields.
#[derive(Serialize, Deserialize)]
pub(crate) struct SnapshotFields {
    image: u64,
    serial: u64,
    name: String,
    layer: u64,
    created_ms: u64,
    tags: Vec<String>,
    pinned: bool,
}

impl Record for Snapshot {
    type Fields = SnapshotFields;

    fn to_fields(&self) -> SnapshotFields {
        SnapshotFields {
            image: self.image.0,
            serial: self.serial,
            name: self.name.to_string(),
            layer: self.layer.0,
            created_ms: self.created_ms,
            tags: self.tags.iter().map(Name::to_string).collect(),
            pinned: self.pinned,
        }
    }

    fn from_fields(fields: SnapshotFields) -> Option<Self> {
        Some(Self {
            image: ImageId(fields.image),
            serial: fields.serial,
            name: Name::new(&fields.name).ok()?,
            layer: LayerId(fields.layer),
            created_ms: fields.created_ms,
            tags: tags(fields.tags)?,
            pinned: fields.pinned,
        })
    }
}

fn tags(texts: Vec<String>) -> Option<BTreeSet<Name>> {
    texts.iter().map(|text| Name::new(text).ok()).collect()
}
