//! The bytes of every encoding of the store, kept in `tests/golden/` for ever: see
//! `core/tests/golden.rs` for the rules.
//!
//! Compressed bytes are golden for reading only: another version of a compressor may write others.

#[path = "../../core/tests/golden/files.rs"]
mod files;

use std::collections::BTreeSet;

use vellum_core::frame::FrameCodec;
use vellum_core::identity::{ContentId, StoreId};
use vellum_core::name::Name;
use vellum_core::tree::{
    Annotation, Configuration, Image, KeptDisk, Layer, Marks, Mode, PageSet, Snapshot,
    VirtualMachine, VirtualMachineSnapshot,
};
use vellum_core::units::{ChunkCount, ChunkLen, ConfigurationId, ImageId, LayerId, MachineId};

use files::golden;

use crate::chunks::{DamageRecord, damage_key};
use crate::codec;
use crate::database::Family;
use crate::keys::{
    COMMITS_KEY, COUNTERS_KEY, IDENTITY_KEY, PARAMETERS_KEY, PARITY_KEY, configuration_key,
    image_key, machine_key, machine_snapshot_key, snapshot_key, token_key,
};
use crate::parity::{self, ParityShare};
use crate::records::{
    self, Commits, Compression, ConfigurationFile, Counters, StoreParameters, StoreRecord, Token,
};
use crate::sources::{SOURCES_KEY, SourceEntry, SourceKind, SourceListRecord, SourceSecret};
use crate::usage_history::appender::{SUM_KEY, entry_key};
use crate::usage_history::entry::{Added, UsageEntry};

fn name(text: &str) -> Name {
    Name::new(text).expect("a valid name")
}

fn parameters() -> Vec<(&'static str, StoreParameters)> {
    let coarse = ChunkLen::new(64 << 10).expect("a power of two in bounds");
    vec![
        ("record-parameters-default", FIRST),
        (
            "record-parameters-lz4",
            StoreParameters {
                chunk_len: coarse,
                frame_len: 1 << 20,
                compression: Compression::Lz4,
            },
        ),
        (
            "record-parameters-none",
            StoreParameters {
                compression: Compression::None,
                ..FIRST
            },
        ),
    ]
}

const STORE: StoreId = StoreId([5; 16]);
const COMMITS: Commits = Commits(70_000);
const COUNTERS: Counters = Counters {
    next_id: 300,
    next_chunk: 1 << 40,
};

fn layers() -> Vec<(&'static str, Layer)> {
    let root = Layer {
        id: LayerId(5),
        parent: None,
        sealed: false,
        len: 0,
        parent_visible: ChunkCount(0),
        pages: PageSet::new(),
        chunks: 0,
        zeros: 0,
        created_ms: 0,
        changed_ns: 0,
        content: None,
    };
    let child = Layer {
        id: LayerId(70_000),
        parent: Some(LayerId(5)),
        sealed: true,
        len: (1 << 33) + 513,
        parent_visible: ChunkCount(2_000),
        pages: PageSet::from_ranges(vec![(0, 3), (9, 10), (500, 70_000)]).expect("in order"),
        chunks: 123_456,
        zeros: 7,
        created_ms: 1_793_000_000_000,
        changed_ns: 1_793_000_000_123_456_789,
        content: Some(ContentId([7; 16])),
    };
    vec![
        ("record-layer-3-root", root),
        ("record-layer-3-child", child),
    ]
}

fn image() -> Image {
    let tags: BTreeSet<Name> = [name("prod"), name("Müller")].into();
    Image {
        id: ImageId(9),
        name: name("web-01"),
        layer: LayerId(70_000),
        mode: Mode::Readonly,
        origin: Some(ImageId(4)),
        created_ms: 1_793_000_000_001,
        marks: Marks {
            tags,
            pinned: true,
            ..Marks::default()
        },
        scratch_of: None,
        scratch_for: None,
        is_over: false,
        source_format: Some(name("qcow2")),
    }
}

fn snapshot() -> Snapshot {
    Snapshot {
        image: ImageId(9),
        serial: 77,
        name: name("before"),
        layer: LayerId(5),
        created_ms: 1_793_000_000_002,
        marks: Marks::default(),
    }
}

/// The words of people about an image or a snapshot.
fn annotation() -> Annotation {
    let mut annotation = Annotation::default();
    annotation
        .set_description("before the upgrade\nMüller's")
        .expect("harmless");
    for (key, value) in [("owner", "Müller"), ("ticket:url", "https://example.org/7")] {
        annotation
            .set_property(&name(key), value)
            .expect("harmless");
    }
    annotation
}

fn annotated_image() -> Image {
    let mut image = machine_scratch_image();
    image.marks.annotation = annotation();
    image
}

fn annotated_snapshot() -> Snapshot {
    let mut snapshot = snapshot();
    snapshot.marks.annotation = annotation();
    snapshot
}

/// An image as versions from 4 on can describe it.
fn machine_scratch_image() -> Image {
    Image {
        scratch_for: Some(MachineId(80)),
        is_over: true,
        ..scratch_image()
    }
}

/// An image as versions from 2 on can describe it.
fn scratch_image() -> Image {
    Image {
        name: name("gold+scratch"),
        mode: Mode::Immutable { autoreset: false },
        scratch_of: Some(ImageId(300)),
        source_format: None,
        ..image()
    }
}

fn damage() -> DamageRecord {
    DamageRecord {
        damaged: vec![(0, 31), (5000, 0), (65_000, 535)],
        lost: vec![(300, 1)],
    }
}

fn sources() -> SourceListRecord {
    let entry = |kind, place: &str, secret| SourceEntry {
        kind,
        place: place.to_owned(),
        secret,
        odd_offsets: false,
    };
    let password = SourceSecret::PasswordFile("/etc/vellum/password".to_owned());
    let command = SourceSecret::PasswordCommand("pass vellum".to_owned());
    let key = SourceSecret::KeyFile("/etc/vellum/key".to_owned());
    SourceListRecord(vec![
        entry(SourceKind::Repository, "s3://backups/a", Some(password)),
        entry(SourceKind::Repository, "/mnt/backup", Some(command)),
        entry(SourceKind::Repository, "/mnt/other", Some(key)),
        entry(SourceKind::Store, "/srv/store", None),
        SourceEntry {
            odd_offsets: true,
            ..entry(SourceKind::File, "/dev/vg/web", None)
        },
    ])
}

fn machine() -> VirtualMachine {
    let configuration = Some(Configuration {
        id: ConfigurationId(90),
        len: 9,
    });
    let disks = vec![ImageId(9), ImageId(4), ImageId(70_000)];
    VirtualMachine {
        id: MachineId(80),
        name: name("vm"),
        disks,
        configuration,
        created_ms: 1_793_000_000_003,
        started_ms: Some(1_793_000_000_006),
    }
}

fn machine_snapshot() -> VirtualMachineSnapshot {
    let kept = |image, mode, snapshot| KeptDisk {
        image: ImageId(image),
        mode,
        snapshot,
    };
    VirtualMachineSnapshot {
        machine: MachineId(80),
        serial: 81,
        name: name("monday"),
        disks: vec![
            kept(9, Mode::Normal, Some(77)),
            kept(4, Mode::Immutable { autoreset: true }, Some(300)),
            kept(5, Mode::Immutable { autoreset: false }, Some(301)),
            kept(70_000, Mode::Writethrough, None),
        ],
        configuration: None,
        created_ms: 1_793_000_000_004,
    }
}

fn configuration() -> ConfigurationFile {
    ConfigurationFile(b"<domain/>".to_vec())
}

fn entry() -> UsageEntry {
    UsageEntry {
        at_ms: 1_793_000_000_005,
        operation: "import".to_owned(),
        image: Some(ImageId(9)),
        name: "web-01@before".to_owned(),
        layer: Some(LayerId(70_000)),
        added: Added {
            chunks: 300,
            plain: 300 * 4096,
            compressed: 555_555,
        },
        freed: 7,
    }
}

fn encoded<R: StoreRecord>(family: Family, key: &[u8], record: &R) -> Vec<u8> {
    records::encode_record(family.family_name(), key, record)
}

fn layer_key(layer: &Layer) -> [u8; 8] {
    layer.id.0.to_be_bytes()
}

/// Every golden name with the bytes that this version writes.
fn written() -> Vec<(&'static str, Vec<u8>)> {
    [
        written_meta_records(),
        written_name_records(),
        written_keys_and_files(),
    ]
    .concat()
}

fn written_meta_records() -> Vec<(&'static str, Vec<u8>)> {
    let mut all: Vec<(&'static str, Vec<u8>)> = Vec::new();
    all.extend(
        parameters()
            .iter()
            .map(|(name, record)| (*name, encoded(Family::Meta, PARAMETERS_KEY, record))),
    );
    all.extend(
        layers()
            .iter()
            .map(|(name, record)| (*name, encoded(Family::Layers, &layer_key(record), record))),
    );
    all.push((
        "record-identity",
        encoded(Family::Meta, IDENTITY_KEY, &STORE),
    ));
    all.push((
        "record-token",
        encoded(Family::Meta, &token_key(&[3; 16]), &Token([4; 16])),
    ));
    all.push((
        "record-damage",
        encoded(Family::Meta, &damage_key(7), &damage()),
    ));
    all.push((
        "record-sources",
        encoded(Family::Meta, SOURCES_KEY, &sources()),
    ));
    all.push((
        "record-counters",
        encoded(Family::Meta, COUNTERS_KEY, &COUNTERS),
    ));
    all.push((
        "record-commits",
        encoded(Family::Meta, COMMITS_KEY, &COMMITS),
    ));
    all.push((
        "record-configuration",
        encoded(
            Family::Meta,
            &configuration_key(ConfigurationId(90)),
            &configuration(),
        ),
    ));
    all.push((
        "record-journal",
        encoded(Family::Meta, &entry_key(300), &entry()),
    ));
    all
}

fn written_name_records() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (
            "record-image-5",
            encoded(Family::Names, &image_key(ImageId(9)), &image()),
        ),
        (
            "record-image-5-annotated",
            encoded(Family::Names, &image_key(ImageId(9)), &annotated_image()),
        ),
        (
            "record-machine-2",
            encoded(Family::Names, &machine_key(MachineId(80)), &machine()),
        ),
        (
            "record-machine-snapshot",
            encoded(
                Family::Names,
                &machine_snapshot_key(MachineId(80), 81),
                &machine_snapshot(),
            ),
        ),
        (
            "record-snapshot-2",
            encoded(
                Family::Names,
                &snapshot_key(ImageId(9), 77),
                &annotated_snapshot(),
            ),
        ),
    ]
}

fn written_keys_and_files() -> Vec<(&'static str, Vec<u8>)> {
    let share = ParityShare::new(25).expect("in bounds");
    let family = Family::Meta.family_name();
    vec![
        ("key-parameters", PARAMETERS_KEY.to_vec()),
        ("key-identity", IDENTITY_KEY.to_vec()),
        ("key-token", token_key(&[3; 16])),
        ("key-damage", damage_key(7)),
        ("key-sources", SOURCES_KEY.to_vec()),
        ("key-counters", COUNTERS_KEY.to_vec()),
        ("key-commits", COMMITS_KEY.to_vec()),
        ("key-parity", PARITY_KEY.to_vec()),
        (
            "record-parity",
            records::encode_record(family, PARITY_KEY, &share),
        ),
        ("parity-code", parity::golden_code()),
        ("parity-group", parity::golden_group()),
        ("parity-rest", parity::golden_rest()),
        (
            "witness",
            crate::folder::CommitCounterFile::encode_count(COMMITS.0),
        ),
        ("key-image", image_key(ImageId(9))),
        ("key-snapshot", snapshot_key(ImageId(9), 77)),
        ("key-machine", machine_key(MachineId(80))),
        (
            "key-machine-snapshot",
            machine_snapshot_key(MachineId(80), 81),
        ),
        ("key-configuration", configuration_key(ConfigurationId(90))),
        ("key-journal", entry_key(300)),
        ("key-journal-sum", SUM_KEY.to_vec()),
        (
            "marker",
            format!("vellum store format {}\n", crate::folder::FORMAT).into_bytes(),
        ),
    ]
}

/// Plain bytes behind the compressed golden bytes.
fn plain() -> Vec<u8> {
    b"vellum keeps disk images. ".repeat(200)
}

fn decoded<R: StoreRecord>(family: Family, key: &[u8], name: &str) -> R {
    records::decode_record(family.family_name(), key, &golden(name))
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Parameters of the store that wrote the first golden files, whatever the defaults are by now.
const FIRST: StoreParameters = StoreParameters {
    frame_len: 64 << 10,
    ..StoreParameters::DEFAULT
};

#[test]
fn what_is_written_now_is_what_was_written_once() {
    for (name, bytes) in written() {
        assert_eq!(bytes, golden(name), "{name}");
    }
    let folder = tempfile::TempDir::new().expect("a folder for a test can be made");
    let dir = folder.path().join("store");
    crate::Store::init_dir(&dir, StoreParameters::DEFAULT)
        .expect("an empty folder becomes a store");
    assert_eq!(
        std::fs::read(dir.join("vellum.store")).expect("a store has a marker"),
        golden("marker")
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "one line for each golden record")]
fn what_was_written_once_is_read_now() {
    for (name, record) in parameters() {
        assert_eq!(
            decoded::<StoreParameters>(Family::Meta, PARAMETERS_KEY, name),
            record,
            "{name}"
        );
    }
    for (name, record) in layers() {
        assert_eq!(
            decoded::<Layer>(Family::Layers, &layer_key(&record), name),
            record,
            "{name}"
        );
        // The files of versions 1 and 2 changed when version 3 was made; version 1 has no identity
        // either.
        let second = Layer {
            changed_ns: record.created_ms * 1_000_000,
            ..record.clone()
        };
        let first = Layer {
            content: None,
            ..second.clone()
        };
        for (version, expected) in [("-2", second), ("", first)] {
            let older = name.replace("-3", version);
            assert_eq!(
                decoded::<Layer>(Family::Layers, &layer_key(&record), &older),
                expected,
                "{older}"
            );
        }
    }
    assert_eq!(
        decoded::<StoreId>(Family::Meta, IDENTITY_KEY, "record-identity"),
        STORE
    );
    assert_eq!(
        decoded::<Counters>(Family::Meta, COUNTERS_KEY, "record-counters"),
        COUNTERS
    );
    assert_eq!(
        decoded::<Commits>(Family::Meta, COMMITS_KEY, "record-commits"),
        COMMITS
    );
    // Version 1 wrote the first, version 2 the next: they know no format of a source.
    let older = Image {
        source_format: None,
        ..image()
    };
    for (name, record) in [
        ("record-image", older.clone()),
        ("record-image-2", older),
        ("record-image-2-scratch", scratch_image()),
        ("record-image-3", image()),
        ("record-image-3-scratch", scratch_image()),
        ("record-image-4", image()),
        ("record-image-4-scratch", machine_scratch_image()),
        ("record-image-5", image()),
        ("record-image-5-annotated", annotated_image()),
    ] {
        assert_eq!(
            decoded::<Image>(Family::Names, &image_key(ImageId(9)), name),
            record,
            "{name}"
        );
    }
    let first = VirtualMachine {
        started_ms: None,
        ..machine()
    };
    for (name, record) in [("record-machine", first), ("record-machine-2", machine())] {
        assert_eq!(
            decoded::<VirtualMachine>(Family::Names, &machine_key(MachineId(80)), name),
            record,
            "{name}"
        );
    }
    let key = machine_snapshot_key(MachineId(80), 81);
    assert_eq!(
        decoded::<VirtualMachineSnapshot>(Family::Names, &key, "record-machine-snapshot"),
        machine_snapshot()
    );
    let key = configuration_key(ConfigurationId(90));
    assert_eq!(
        decoded::<ConfigurationFile>(Family::Meta, &key, "record-configuration"),
        configuration()
    );
    assert_eq!(
        decoded::<UsageEntry>(Family::Meta, &entry_key(300), "record-journal"),
        entry()
    );
    assert_eq!(
        decoded::<DamageRecord>(Family::Meta, &damage_key(7), "record-damage"),
        damage()
    );
    assert_eq!(
        decoded::<SourceListRecord>(Family::Meta, SOURCES_KEY, "record-sources"),
        sources()
    );
    for (name, record) in [
        ("record-snapshot", snapshot()),
        ("record-snapshot-2", annotated_snapshot()),
    ] {
        assert_eq!(
            decoded::<Snapshot>(Family::Names, &snapshot_key(ImageId(9), 77), name),
            record,
            "{name}"
        );
    }
    for (name, codec) in [
        ("compressed-lz4", FrameCodec::Lz4),
        ("compressed-zstd", FrameCodec::Zstd),
    ] {
        assert_eq!(
            codec::decompress_frame(codec, &golden(name), plain().len()),
            Ok(plain()),
            "{name}"
        );
    }
}

#[test]
fn families_keep_their_names() {
    let names = Family::ALL.map(Family::family_name);
    assert_eq!(
        names,
        [
            "frames", "headers", "index", "layers", "pages", "names", "meta", "copies"
        ]
    );
}

#[test]
#[ignore = "writes into the source tree"]
fn write_missing_files() {
    let compressed = [
        (
            "compressed-lz4",
            codec::compress_frame(Compression::Lz4, &plain()).1,
        ),
        (
            "compressed-zstd",
            codec::compress_frame(Compression::Zstd(3), &plain()).1,
        ),
    ];
    files::keep(written().into_iter().chain(compressed));
}
