//! Encodes the records that are read once and written seldom: layers, images, snapshots, machines,
//! parameters and counters.
//!
//! bincode is named in this file only, with fixed settings. Hot encodings (pages, frames) are in
//! core, by hand.
//!
//! ```text
//! offset  size  meaning                                             guards against
//! 0       1     version: 5 for images, 3 for layers, 2 for          a newer program's record
//!               snapshots and machines, 1 for all others
//! 1       …     the record's fields in order, bincode 2 standard    (see the structs below)
//!               settings
//! end-8   8     checksum over family name, key and all bytes        damage, a record in
//!               before                                              another's place
//! ```
//!
//! Older versions are read for ever. An image of version 4 has the fields of version 5 but for what
//! people wrote about it, and so has a snapshot of version 1; an image of version 3 has the fields
//! of version 4 but for the machine and the session of a scratch image, which goes on; one of
//! version 2 has the fields of version 3 but for the format of its source, one of version 1 those
//! of version 2 but for the last two. A layer of version 2 changed when it was made, as far as is
//! known, and one of version 1 has no identity of its content either. A machine of version 1 does
//! not run.

mod any_kind;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use vellum_core::identity::{ContentId, IDENTITY_LEN, StoreId};
use vellum_core::name::Name;
use vellum_core::tree::{
    Annotation, CONFIGURATION_LEN_MAX, Configuration, DISKS_MAX, Image, KeptDisk, Layer, Marks,
    Mode, PageSet, Snapshot, VirtualMachine, VirtualMachineSnapshot,
};
use vellum_core::units::{ChunkCount, ChunkLen, ConfigurationId, ImageId, LayerId, MachineId};
use vellum_core::wire::{DecodeError, append_checksum, verify_checksum};

use crate::error::StoreError;
use crate::parity::ParityShare;

pub use any_kind::decode_any;

const CONTEXT: &str = "vellum 2026-11 record v1";
/// The longest record: a layer whose every second page exists, on the largest disk that is cut
/// finest, would need more; it is refused when it is written, not when it is read.
const RECORD_LEN_MAX: usize = 64 << 20;

/// Parameters that a store was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreParameters {
    /// The length of every chunk.
    pub chunk_len: ChunkLen,
    /// Plain bytes that a frame holds: a multiple of the chunk length.
    pub frame_len: u32,
    /// The compression of frames.
    pub compression: Compression,
}

impl StoreParameters {
    /// 4 KiB chunks in 128 KiB frames, zstd level 3: see ARCHITECTURE.md for the measurements.
    pub const DEFAULT: Self = Self {
        chunk_len: vellum_core::units::ChunkLen::DEFAULT,
        frame_len: 128 << 10,
        compression: Compression::Zstd(3),
    };

    /// Fails unless a store can have these parameters.
    pub fn check_valid(&self) -> Result<(), StoreError> {
        let chunk_len = self.chunk_len.byte_len() as u32;
        let fits = self.frame_len.is_multiple_of(chunk_len)
            && (chunk_len..=vellum_core::frame::PLAIN_LEN_MAX).contains(&self.frame_len);
        if !fits {
            let limit = vellum_core::frame::PLAIN_LEN_MAX;
            return Err(StoreError::Parameter(format!(
                "the frame size must be a multiple of the chunk size ({chunk_len}), at most {limit}"
            )));
        }
        match self.compression {
            Compression::Zstd(level) if !(1..=22).contains(&level) => {
                Err(StoreError::Parameter("zstd has levels 1 to 22".to_owned()))
            }
            _ => Ok(()),
        }
    }
}

/// Compression of frames.
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
    /// The next id of layers, images and snapshots.
    pub next_id: u64,
    /// The next id of chunks.
    pub next_chunk: u64,
}

/// The number of commits that the store has had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Commits(pub u64);

/// Token that was last left in a store by a program that keeps books about it elsewhere; see
/// [`crate::Store::leave_token`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token(pub [u8; IDENTITY_LEN]);

/// A kind of record: the domain type that it stands for, and the fields that are written.
pub(crate) trait StoreRecord: Sized {
    /// The version that is written.
    const VERSION: u8 = 1;

    /// The fields, in order. Adding one is a new version.
    type Fields: Serialize + for<'de> Deserialize<'de>;

    /// The fields that the bytes of an older version stand for, and how many bytes they were.
    fn from_older(version: u8, _: &[u8]) -> Result<(Self::Fields, usize), DecodeError> {
        Err(DecodeError::Version(version))
    }

    fn to_fields(&self) -> Self::Fields;

    /// The value, if the fields make sense together.
    fn from_fields(fields: Self::Fields) -> Option<Self>;
}

/// The bytes under which the store keeps `record` at `key` of the family called `family`.
pub(crate) fn encode_record<R: StoreRecord>(family: &str, key: &[u8], record: &R) -> Vec<u8> {
    let mut bytes = vec![R::VERSION];
    bincode::serde::encode_into_std_write(
        record.to_fields(),
        &mut bytes,
        bincode::config::standard(),
    )
    .expect("a record in memory can be written to memory");
    assert!(
        bytes.len() <= RECORD_LEN_MAX,
        "a record is bounded by the disk that it describes"
    );
    append_checksum(CONTEXT, &[family.as_bytes(), key], &mut bytes);
    bytes
}

/// The record that `bytes` hold, if they are whole and belong to this place.
pub(crate) fn decode_record<R: StoreRecord>(
    family: &str,
    key: &[u8],
    bytes: &[u8],
) -> Result<R, DecodeError> {
    decode_body(verify_checksum(CONTEXT, &[family.as_bytes(), key], bytes)?)
}

/// Fails unless `bytes` are as they were written at `key` of the family called `family`, for any
/// kind of record.
pub(crate) fn verify_record(family: &str, key: &[u8], bytes: &[u8]) -> Result<(), DecodeError> {
    verify_checksum(CONTEXT, &[family.as_bytes(), key], bytes).map(drop)
}

/// The inside of [`decode_record`], without the checksum, so that a fuzzer reaches it.
fn decode_body<R: StoreRecord>(body: &[u8]) -> Result<R, DecodeError> {
    let (version, fields) = body.split_first().ok_or(DecodeError::Truncated)?;
    let (fields, read) = if *version == R::VERSION {
        decode_fields(fields)?
    } else {
        R::from_older(*version, fields)?
    };
    if read + 1 != body.len() {
        return Err(DecodeError::TooLong(body.len() - read - 1));
    }
    R::from_fields(fields).ok_or(DecodeError::Invalid("record"))
}

/// Fields from the beginning of `bytes`, and how many bytes they were.
fn decode_fields<F: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<(F, usize), DecodeError> {
    let config = bincode::config::standard().with_limit::<RECORD_LEN_MAX>();
    bincode::serde::decode_from_slice(bytes, config).map_err(|_| DecodeError::Invalid("record"))
}

/// `chunk_len`, `frame_len`, compression.
#[derive(Serialize, Deserialize)]
pub(crate) struct ParameterFields(u32, u32, Compression);

impl StoreRecord for StoreParameters {
    type Fields = ParameterFields;

    fn to_fields(&self) -> ParameterFields {
        ParameterFields(
            self.chunk_len.byte_len() as u32,
            self.frame_len,
            self.compression,
        )
    }

    fn from_fields(fields: ParameterFields) -> Option<Self> {
        let parameters = Self {
            chunk_len: ChunkLen::new(fields.0)?,
            frame_len: fields.1,
            compression: fields.2,
        };
        parameters.check_valid().ok()?;
        Some(parameters)
    }
}

impl StoreRecord for Counters {
    type Fields = Self;

    fn to_fields(&self) -> Self {
        *self
    }

    fn from_fields(fields: Self) -> Option<Self> {
        Some(fields)
    }
}

impl StoreRecord for Commits {
    type Fields = u64;

    fn to_fields(&self) -> u64 {
        self.0
    }

    fn from_fields(fields: u64) -> Option<Self> {
        Some(Self(fields))
    }
}

impl StoreRecord for ParityShare {
    type Fields = u16;

    fn to_fields(&self) -> u16 {
        self.per_mille() as u16
    }

    fn from_fields(fields: u16) -> Option<Self> {
        Self::new(fields)
    }
}

impl StoreRecord for StoreId {
    type Fields = [u8; IDENTITY_LEN];

    fn to_fields(&self) -> Self::Fields {
        self.0
    }

    fn from_fields(fields: Self::Fields) -> Option<Self> {
        Some(Self(fields))
    }
}

impl StoreRecord for Token {
    type Fields = [u8; IDENTITY_LEN];

    fn to_fields(&self) -> Self::Fields {
        self.0
    }

    fn from_fields(fields: Self::Fields) -> Option<Self> {
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

/// Field that version 2 added: the identity of a sealed layer's content.
type ContentFields = Option<[u8; IDENTITY_LEN]>;

/// Field that version 3 added: the time when the content changed, in nanoseconds since 1970.
type ChangedFields = u64;

impl StoreRecord for Layer {
    const VERSION: u8 = 3;

    type Fields = (LayerFields, ContentFields, ChangedFields);

    fn from_older(version: u8, bytes: &[u8]) -> Result<(Self::Fields, usize), DecodeError> {
        let ((fields, content), read) = match version {
            1 => {
                let (fields, read) = decode_fields::<LayerFields>(bytes)?;
                ((fields, None), read)
            }
            2 => decode_fields::<(LayerFields, ContentFields)>(bytes)?,
            version => return Err(DecodeError::Version(version)),
        };
        let changed_ns = fields.created_ms.saturating_mul(1_000_000);
        Ok(((fields, content, changed_ns), read))
    }

    fn to_fields(&self) -> Self::Fields {
        let fields = LayerFields {
            id: self.id.0,
            parent: self.parent.map(|parent| parent.0),
            sealed: self.sealed,
            len: self.len,
            parent_visible: self.parent_visible.0,
            chunks: self.chunks,
            zeros: self.zeros,
            created_ms: self.created_ms,
            pages: self.pages.ranges().to_vec(),
        };
        let content = self.content.map(|content| content.0);
        (fields, content, self.changed_ns)
    }

    fn from_fields((fields, content, changed_ns): Self::Fields) -> Option<Self> {
        let is_sound = fields.sealed || content.is_none();
        is_sound.then_some(Self {
            id: LayerId(fields.id),
            parent: fields.parent.map(LayerId),
            sealed: fields.sealed,
            len: fields.len,
            parent_visible: ChunkCount(fields.parent_visible),
            pages: PageSet::from_ranges(fields.pages)?,
            chunks: fields.chunks,
            zeros: fields.zeros,
            created_ms: fields.created_ms,
            changed_ns,
            content: content.map(ContentId),
        })
    }
}

/// An image's fields, as version 1 had them.
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

/// Fields that version 2 added.
#[derive(Serialize, Deserialize)]
pub(crate) struct ImageFields2 {
    /// True if the next attachment of an immutable image starts afresh; false in all others.
    autoreset: bool,
    scratch_of: Option<u64>,
}

/// Field that version 3 added.
#[derive(Serialize, Deserialize)]
pub(crate) struct ImageFields3 {
    source_format: Option<String>,
}

/// Fields that version 4 added, of a scratch image.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct ImageFields4 {
    scratch_for: Option<u64>,
    is_over: bool,
}

/// Fields that version 5 of images and version 2 of snapshots added: the words of people. The
/// properties come in order of their keys.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct AnnotationFields {
    description: String,
    properties: Vec<(String, String)>,
}

fn annotation_to_fields(annotation: &Annotation) -> AnnotationFields {
    AnnotationFields {
        description: annotation.description().to_owned(),
        properties: annotation.property_texts().into_iter().collect(),
    }
}

fn annotation_from_fields(fields: &AnnotationFields) -> Option<Annotation> {
    let mut annotation = Annotation::default();
    annotation.set_description(&fields.description).ok()?;
    for (key, value) in &fields.properties {
        let key = Name::new(key).ok()?;
        annotation.set_property(&key, value).ok()?;
    }
    Some(annotation)
}

/// The codes of the modes, in their order. An immutable image of version 1 starts afresh at each
/// attachment.
const MODES: [Mode; 6] = [
    Mode::Normal,
    Mode::Immutable { autoreset: true },
    Mode::Writethrough,
    Mode::Shareable,
    Mode::Readonly,
    Mode::Multiattach,
];

/// The code of a mode, and its autoreset.
fn mode_to_fields(mode: Mode) -> (u8, bool) {
    let code = MODES
        .iter()
        .position(|coded| coded.mode_name() == mode.mode_name())
        .expect("every mode has a code");
    (code as u8, mode == Mode::Immutable { autoreset: true })
}

fn mode_from_fields((code, autoreset): (u8, bool)) -> Option<Mode> {
    match MODES.get(usize::from(code))? {
        Mode::Immutable { .. } => Some(Mode::Immutable { autoreset }),
        mode => (!autoreset).then_some(*mode),
    }
}

impl StoreRecord for Image {
    const VERSION: u8 = 5;

    type Fields = (
        ImageFields,
        ImageFields2,
        ImageFields3,
        ImageFields4,
        AnnotationFields,
    );

    fn from_older(version: u8, bytes: &[u8]) -> Result<(Self::Fields, usize), DecodeError> {
        let unknown = || ImageFields3 {
            source_format: None,
        };
        let ((fields, second, third, fourth), read) = match version {
            1 => {
                let (fields, read) = decode_fields::<ImageFields>(bytes)?;
                let mode = MODES.get(usize::from(fields.mode));
                let second = ImageFields2 {
                    autoreset: matches!(mode, Some(Mode::Immutable { .. })),
                    scratch_of: None,
                };
                ((fields, second, unknown(), ImageFields4::default()), read)
            }
            2 => {
                let ((fields, second), read) = decode_fields(bytes)?;
                ((fields, second, unknown(), ImageFields4::default()), read)
            }
            3 => {
                let ((fields, second, third), read) = decode_fields(bytes)?;
                ((fields, second, third, ImageFields4::default()), read)
            }
            4 => decode_fields(bytes)?,
            version => return Err(DecodeError::Version(version)),
        };
        let fields = (fields, second, third, fourth, AnnotationFields::default());
        Ok((fields, read))
    }

    fn to_fields(&self) -> Self::Fields {
        let (mode, autoreset) = mode_to_fields(self.mode);
        let fields = ImageFields {
            id: self.id.0,
            name: self.name.to_string(),
            layer: self.layer.0,
            mode,
            origin: self.origin.map(|origin| origin.0),
            created_ms: self.created_ms,
            tags: self.marks.tags.iter().map(Name::to_string).collect(),
            pinned: self.marks.pinned,
        };
        let added = ImageFields2 {
            autoreset,
            scratch_of: self.scratch_of.map(|base| base.0),
        };
        let source_format = self.source_format.as_ref().map(Name::to_string);
        let fourth = ImageFields4 {
            scratch_for: self.scratch_for.map(|machine| machine.0),
            is_over: self.is_over,
        };
        let third = ImageFields3 { source_format };
        let annotation = annotation_to_fields(&self.marks.annotation);
        (fields, added, third, fourth, annotation)
    }

    fn from_fields((fields, added, third, fourth, annotation): Self::Fields) -> Option<Self> {
        let source_format = match third.source_format {
            Some(format) => Some(Name::new(&format).ok()?),
            None => None,
        };
        Some(Self {
            id: ImageId(fields.id),
            name: Name::new(&fields.name).ok()?,
            layer: LayerId(fields.layer),
            mode: mode_from_fields((fields.mode, added.autoreset))?,
            origin: fields.origin.map(ImageId),
            created_ms: fields.created_ms,
            marks: marks_from_fields(fields.tags, fields.pinned, &annotation)?,
            scratch_of: added.scratch_of.map(ImageId),
            scratch_for: fourth.scratch_for.map(MachineId),
            is_over: fourth.is_over,
            source_format,
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

impl StoreRecord for Snapshot {
    const VERSION: u8 = 2;

    type Fields = (SnapshotFields, AnnotationFields);

    fn from_older(version: u8, bytes: &[u8]) -> Result<(Self::Fields, usize), DecodeError> {
        if version != 1 {
            return Err(DecodeError::Version(version));
        }
        let (fields, read) = decode_fields(bytes)?;
        Ok(((fields, AnnotationFields::default()), read))
    }

    fn to_fields(&self) -> Self::Fields {
        let fields = SnapshotFields {
            image: self.image.0,
            serial: self.serial,
            name: self.name.to_string(),
            layer: self.layer.0,
            created_ms: self.created_ms,
            tags: self.marks.tags.iter().map(Name::to_string).collect(),
            pinned: self.marks.pinned,
        };
        (fields, annotation_to_fields(&self.marks.annotation))
    }

    fn from_fields((fields, annotation): Self::Fields) -> Option<Self> {
        Some(Self {
            image: ImageId(fields.image),
            serial: fields.serial,
            name: Name::new(&fields.name).ok()?,
            layer: LayerId(fields.layer),
            created_ms: fields.created_ms,
            marks: marks_from_fields(fields.tags, fields.pinned, &annotation)?,
        })
    }
}

/// A configuration file: its id and its length.
type ConfigurationFields = Option<(u64, u64)>;

fn configuration_to_fields(configuration: Option<Configuration>) -> ConfigurationFields {
    configuration.map(|configuration| (configuration.id.0, configuration.len))
}

fn configuration_from_fields(fields: ConfigurationFields) -> Option<Configuration> {
    fields.map(|(id, len)| Configuration {
        id: ConfigurationId(id),
        len,
    })
}

/// A machine's fields.
#[derive(Serialize, Deserialize)]
pub(crate) struct MachineFields {
    id: u64,
    name: String,
    disks: Vec<u64>,
    configuration: ConfigurationFields,
    created_ms: u64,
}

/// Field that version 2 added: the time when it was switched on, if it runs.
type StartedFields = Option<u64>;

impl StoreRecord for VirtualMachine {
    const VERSION: u8 = 2;

    type Fields = (MachineFields, StartedFields);

    fn from_older(version: u8, bytes: &[u8]) -> Result<(Self::Fields, usize), DecodeError> {
        if version != 1 {
            return Err(DecodeError::Version(version));
        }
        let (fields, read) = decode_fields::<MachineFields>(bytes)?;
        Ok(((fields, None), read))
    }

    fn to_fields(&self) -> Self::Fields {
        let fields = MachineFields {
            id: self.id.0,
            name: self.name.to_string(),
            disks: self.disks.iter().map(|disk| disk.0).collect(),
            configuration: configuration_to_fields(self.configuration),
            created_ms: self.created_ms,
        };
        (fields, self.started_ms)
    }

    fn from_fields((fields, started_ms): Self::Fields) -> Option<Self> {
        Some(Self {
            id: MachineId(fields.id),
            name: Name::new(&fields.name).ok()?,
            disks: each_once(fields.disks.into_iter().map(ImageId).collect(), |disk| {
                *disk
            })?,
            configuration: configuration_from_fields(fields.configuration),
            created_ms: fields.created_ms,
            started_ms,
        })
    }
}

/// A machine snapshot's fields.
#[derive(Serialize, Deserialize)]
pub(crate) struct MachineSnapshotFields {
    machine: u64,
    serial: u64,
    name: String,
    disks: Vec<KeptDiskFields>,
    configuration: ConfigurationFields,
    created_ms: u64,
}

/// A kept disk: image, mode and autoreset, serial of the image's snapshot.
#[derive(Serialize, Deserialize)]
pub(crate) struct KeptDiskFields(u64, (u8, bool), Option<u64>);

impl StoreRecord for VirtualMachineSnapshot {
    type Fields = MachineSnapshotFields;

    fn to_fields(&self) -> MachineSnapshotFields {
        MachineSnapshotFields {
            machine: self.machine.0,
            serial: self.serial,
            name: self.name.to_string(),
            disks: self
                .disks
                .iter()
                .map(|disk| KeptDiskFields(disk.image.0, mode_to_fields(disk.mode), disk.snapshot))
                .collect(),
            configuration: configuration_to_fields(self.configuration),
            created_ms: self.created_ms,
        }
    }

    fn from_fields(fields: MachineSnapshotFields) -> Option<Self> {
        let kept = |disk: KeptDiskFields| {
            Some(KeptDisk {
                image: ImageId(disk.0),
                mode: mode_from_fields(disk.1)?,
                snapshot: disk.2,
            })
        };
        let disks = fields
            .disks
            .into_iter()
            .map(kept)
            .collect::<Option<Vec<KeptDisk>>>()?;
        Some(Self {
            machine: MachineId(fields.machine),
            serial: fields.serial,
            name: Name::new(&fields.name).ok()?,
            disks: each_once(disks, |disk| disk.image)?,
            configuration: configuration_from_fields(fields.configuration),
            created_ms: fields.created_ms,
        })
    }
}

/// `disks`, if they are not too many and no image is there twice.
fn each_once<D>(disks: Vec<D>, image: impl Fn(&D) -> ImageId) -> Option<Vec<D>> {
    let images: BTreeSet<ImageId> = disks.iter().map(image).collect();
    (disks.len() <= DISKS_MAX && images.len() == disks.len()).then_some(disks)
}

/// The bytes of a machine's configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfigurationFile(pub(crate) Vec<u8>);

impl StoreRecord for ConfigurationFile {
    type Fields = Vec<u8>;

    fn to_fields(&self) -> Vec<u8> {
        self.0.clone()
    }

    fn from_fields(bytes: Vec<u8>) -> Option<Self> {
        (bytes.len() <= CONFIGURATION_LEN_MAX).then_some(Self(bytes))
    }
}

fn marks_from_fields(
    tags: Vec<String>,
    pinned: bool,
    annotation: &AnnotationFields,
) -> Option<Marks> {
    let tags: Option<BTreeSet<Name>> = tags.iter().map(|text| Name::new(text).ok()).collect();
    Some(Marks {
        tags: tags?,
        pinned,
        annotation: annotation_from_fields(annotation)?,
    })
}
