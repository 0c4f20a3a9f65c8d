//! The bytes of every encoding of a repository, kept in `golden/` for ever: what was written once
//! must be read by every later version, and what is written now must not change by accident.
//!
//! What is sealed begins with random bytes, so of that only the reading is held. A new version of
//! an encoding adds files and takes none away. `cargo test --release --workspace --test golden --
//! --ignored` writes files that are missing, and no other.

#[path = "../../core/tests/golden/files.rs"]
mod files;

use std::collections::BTreeMap;

use vellum_backup::format::{
    Frame, FrameEntry, IndexObject, IndexPart, MapBlob, PackEntry, PackWriter, Presence,
    RepositoryFile, SegmentEntry, address, decode_frame, encode_frame,
};
use vellum_backup::objects::ObjectId;
use vellum_backup::seal::{
    KeyFile, KeyRole, Opener, PasswordCost, SealedKind, Sealer, Secrets, bundle_parts, create_key,
    create_key_of, key_info, unenveloped, unlock,
};
use vellum_core::frame::FrameCodec;
use vellum_core::hash::ChunkHash;
use vellum_core::identity::{ContentId, RepositoryId, SegmentId};
use vellum_core::page::{Page, PageEntry, Run};
use vellum_core::units::PageIndex;

use files::golden;

const SEGMENT: SegmentId = SegmentId([0x5e; 16]);
const OTHER: SegmentId = SegmentId([0x6f; 16]);
const RECORD: &[u8] =
    br#"{"version":1,"counter":1,"parents":[],"session":"00","writer":"host","time_ms":2}"#;
const DESCRIBED: &[u8] = br#"{"version":1,"counter":2,"parents":[],"session":"01","writer":"host","time_ms":2,"described":[{"point":"0a","name":"www","snapshot":"first","mode":"normal","origin":"0b-1","time_ms":3,"tags":["release"],"pinned":true,"stamp":{"counter":1,"session":"00"}},{"point":"0c","name":"db","mode":"readonly","time_ms":4,"pinned":false}]}"#;
const ANNOTATED: &[u8] = br#"{"version":1,"counter":3,"parents":[],"session":"02","writer":"host","time_ms":5,"points":[{"id":"0a","image":"0b-2","name":"web","content":"0c","len":4096,"mode":"normal","time_ms":6,"pinned":false,"description":"before the upgrade\nof 13","properties":{"owner":"anna","ticket":""}}]}"#;
const INDEX_PARTS: &[u8] = br#"{"version":1,"counter":4,"parents":[],"session":"03","writer":"host","time_ms":7,"indexes":["3737373737373737373737373737373737373737373737373737373737373737"],"index_parts":[{"index":"3737373737373737373737373737373737373737373737373737373737373737","parts":[{"segments":"5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f","range":[144,300],"sample":"00112233445566778899aabbccddeeff"}]}]}"#;
const KEY_LINE: &str =
    "vellum-key-1-000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";
const COST: PasswordCost = PasswordCost {
    memory_kib: 64,
    passes: 1,
    lanes: 1,
};

fn repository(is_encrypted: bool) -> RepositoryFile {
    RepositoryFile {
        id: RepositoryId([0x11; 16]),
        is_encrypted,
        chunk_len: 4096,
    }
}

fn frames() -> Vec<(&'static str, Frame<'static>)> {
    let frame = |first, offsets: &[u32], codec, payload| Frame {
        segment: SEGMENT,
        first,
        presence: Presence::of(offsets),
        codec,
        payload,
    };
    vec![
        (
            "frame-zstd",
            frame(0, &[0, 1, 2], FrameCodec::Zstd, b"opaque"),
        ),
        (
            "frame-none-gaps",
            frame(
                65_000,
                &[0, 1, 7, 8, 500],
                FrameCodec::None,
                b"opaque as well",
            ),
        ),
        ("frame-lz4", frame(9, &[0], FrameCodec::Lz4, b"")),
    ]
}

fn index() -> IndexObject {
    let names = |ordinals: &[u32]| {
        SegmentEntry::new(
            &ordinals
                .iter()
                .map(|at| (*at, ChunkHash::of_chunk(&at.to_le_bytes())))
                .collect::<Vec<_>>(),
        )
    };
    let entry = |segment, first, offsets: &[u32], codec, offset, len| FrameEntry {
        segment,
        first,
        presence: Presence::of(offsets),
        codec,
        offset,
        len,
    };
    IndexObject {
        segments: BTreeMap::from([(SEGMENT, names(&[0, 1, 2, 300])), (OTHER, names(&[7, 9]))]),
        packs: vec![
            PackEntry {
                id: ObjectId([1; 32]),
                len: 40_000,
                frames: vec![
                    entry(SEGMENT, 0, &[0, 1, 2], FrameCodec::Zstd, 104, 3000),
                    entry(OTHER, 7, &[0, 2], FrameCodec::None, 4000, 8251),
                ],
            },
            PackEntry {
                id: ObjectId([2; 32]),
                len: 5000,
                frames: vec![entry(SEGMENT, 300, &[0], FrameCodec::Lz4, 96, 700)],
            },
        ],
    }
}

fn maps() -> Vec<(&'static str, MapBlob)> {
    let mut page = Page::new();
    page.push_run(Run {
        start: 3,
        len: 20,
        slot: PageEntry::Chunk(address(0, 5)),
    });
    page.push_run(Run {
        start: 23,
        len: 2,
        slot: PageEntry::Zero,
    });
    page.push_run(Run {
        start: 1000,
        len: 24,
        slot: PageEntry::Chunk(address(1, 65_512)),
    });
    let blob = |parent: Option<ContentId>, pages| MapBlob {
        content: ContentId([3; 16]),
        parent,
        parent_visible: parent.map_or(0, |_| 1 << 40),
        segments: vec![SEGMENT, OTHER],
        pages,
    };
    vec![
        ("map-root", blob(None, vec![(PageIndex(0), page.clone())])),
        (
            "map-child",
            blob(
                Some(ContentId([4; 16])),
                vec![
                    (PageIndex(2), page.clone()),
                    (PageIndex(300), Page::new()),
                    (PageIndex(301), page),
                ],
            ),
        ),
    ]
}

/// Every golden name with what this version writes.
fn written() -> Vec<(&'static str, Vec<u8>)> {
    let frames = frames()
        .into_iter()
        .map(|(name, frame)| (name, encode_frame(&frame)));
    let maps = maps().into_iter().map(|(name, map)| (name, map.encode()));
    let others = [
        ("index-empty", IndexObject::default().encode()),
        ("index-gaps", index().encode()),
        ("repository-file", repository(true).encode()),
        ("record", RECORD.to_vec()),
        ("record-described", DESCRIBED.to_vec()),
        ("record-annotated", ANNOTATED.to_vec()),
        ("record-index-parts", INDEX_PARTS.to_vec()),
    ];
    frames.chain(maps).chain(others).collect()
}

/// A key of role writer for what the first files were sealed with.
fn writers_key() -> Vec<u8> {
    let file = repository(true);
    let secrets = unlock(&file, &golden("key-password"), &password()).expect("it opens");
    let role = KeyRole::Writer;
    let key = create_key_of(role, &secrets, &file, &key_file(), "a label", 3, COST);
    key.expect("a key").bytes
}

/// Encodings with random bytes in them: names with what could be written today.
fn sealed() -> Vec<(&'static str, Vec<u8>)> {
    let secrets = Secrets::generate().expect("random bytes");
    let key = |opener| {
        create_key(&secrets, &repository(true), &opener, "a label", 3, COST)
            .expect("a key")
            .bytes
    };
    let mut sealed = vec![
        ("key-password", key(password())),
        ("key-file", key(key_file())),
    ];
    for (sealer, names) in [
        (
            Sealer::plain(repository(false).id),
            ["plain-index", "plain-record", "plain-pack"],
        ),
        (
            Sealer::encrypted(repository(true).id, &secrets),
            ["sealed-index", "sealed-record", "sealed-pack"],
        ),
    ] {
        let mut pack = PackWriter::default();
        for (_, frame) in self::frames() {
            pack.add(
                &sealer,
                PackWriter::seal_frame(&sealer, &frame).expect("sealed"),
            )
            .expect("sealed");
        }
        sealed.push((
            names[0],
            sealer
                .seal(SealedKind::Index, &index().encode())
                .expect("sealed")
                .bytes,
        ));
        sealed.push((
            names[1],
            sealer
                .seal(SealedKind::Record, RECORD)
                .expect("sealed")
                .bytes,
        ));
        sealed.push((
            names[2],
            pack.finish(&sealer)
                .expect("sealed")
                .expect("not empty")
                .object
                .bytes,
        ));
    }
    let body = sealed
        .iter()
        .find(|(name, _)| *name == "plain-index")
        .expect("just made")
        .1
        .clone();
    sealed.push(("envelope-zstd", body[8 + 24..body.len() - 16].to_vec()));
    sealed
}

/// Encodings of a later day, which the keys that are kept open.
fn sealed_later() -> Vec<(&'static str, Vec<u8>)> {
    let key = golden("key-password");
    let secrets = unlock(&repository(true), &key, &password()).expect("the password opens it");
    let sealers = [
        (Sealer::plain(repository(false).id), "plain-index-parts"),
        (
            Sealer::encrypted(repository(true).id, &secrets),
            "sealed-index-parts",
        ),
    ];
    let sealed = sealers.into_iter().map(|(sealer, name)| {
        let index = index().seal(&sealer).expect("sealed");
        (name, index.object.bytes)
    });
    sealed.collect()
}

fn password() -> Opener {
    Opener::Password("correct horse".to_owned().into())
}

fn key_file() -> Opener {
    Opener::KeyFile(KeyFile::parse(KEY_LINE).expect("a key file"))
}

#[test]
fn what_is_written_now_is_what_was_written_once() {
    for (name, bytes) in written() {
        assert_eq!(bytes, golden(name), "{name}");
    }
}

#[test]
fn what_was_written_once_is_read_now() {
    for (name, frame) in frames() {
        assert_eq!(decode_frame(&golden(name)), Ok(frame), "{name}");
    }
    for (name, map) in maps() {
        assert_eq!(MapBlob::decode(&golden(name)), Ok(map), "{name}");
    }
    assert_eq!(IndexObject::decode(&golden("index-gaps")), Ok(index()));
    assert_eq!(
        IndexObject::decode(&golden("index-empty")),
        Ok(IndexObject::default())
    );
    assert_eq!(
        RepositoryFile::decode(&golden("repository-file")),
        Ok(repository(true))
    );
    assert_eq!(unenveloped(&golden("envelope-zstd")), Ok(index().encode()));
    let record: vellum_backup::record::Record =
        serde_json::from_slice(&golden("record")).expect("a record");
    assert_eq!((record.counter, record.writer.as_str()), (1, "host"));
    let described: vellum_backup::record::Record =
        serde_json::from_slice(&golden("record-described")).expect("a record");
    let [first, second] = &described.described[..] else {
        panic!("two descriptions")
    };
    assert_eq!(
        (
            first.value.snapshot.as_deref(),
            first.value.pinned,
            first.stamp.is_some()
        ),
        (Some("first"), true, true)
    );
    assert_eq!(
        (
            second.value.name.as_str(),
            second.value.mode.as_str(),
            second.stamp.is_some()
        ),
        ("db", "readonly", false)
    );
    assert_eq!(
        serde_json::to_vec(&described).expect("JSON"),
        DESCRIBED,
        "what is written now is what was written once"
    );
    let annotated: vellum_backup::record::Record =
        serde_json::from_slice(&golden("record-annotated")).expect("a record");
    let point = &annotated.points[0].value;
    assert_eq!(
        (point.description.as_str(), point.properties.len()),
        ("before the upgrade\nof 13", 2)
    );
    assert_eq!(serde_json::to_vec(&annotated).expect("JSON"), ANNOTATED);
    let record: vellum_backup::record::Record =
        serde_json::from_slice(&golden("record-index-parts")).expect("a record");
    let part = IndexPart {
        segments: &[SEGMENT, OTHER],
        offset: 144,
        len: 300,
        sample: &[0x0011_2233_4455_6677, 0x8899_aabb_ccdd_eeff],
    };
    assert_eq!(
        record.index_parts[0].index,
        ObjectId([0x37; 32]).to_string()
    );
    assert!(record.index_parts[0].parts.iter().eq([part]));
    assert_eq!(serde_json::to_vec(&record).expect("JSON"), INDEX_PARTS);
}

#[test]
fn what_was_sealed_once_is_opened_now() {
    let secrets = unlock(&repository(true), &golden("key-password"), &password())
        .expect("the password opens it");
    for (name, role) in [
        ("key-file", KeyRole::Owner),
        ("key-writer", KeyRole::Writer),
    ] {
        let stored = golden(name);
        let secrets = unlock(&repository(true), &stored, &key_file()).expect("it opens");
        let record = golden("sealed-record");
        let sealer = Sealer::encrypted(repository(true).id, &secrets);
        let record = sealer.open(SealedKind::Record, &ObjectId::of(&record), &record);
        assert_eq!(record.expect("one master key"), RECORD);
        let info = key_info(ObjectId::of(&stored), &stored).expect("readable");
        assert_eq!(info.role, role);
    }
    for (sealer, prefix) in [
        (Sealer::plain(repository(false).id), "plain"),
        (Sealer::encrypted(repository(true).id, &secrets), "sealed"),
    ] {
        let open = |kind, name: &str| {
            let stored = golden(&format!("{prefix}-{name}"));
            sealer
                .open(kind, &ObjectId::of(&stored), &stored)
                .expect(name)
        };
        assert_eq!(
            IndexObject::decode(&open(SealedKind::Index, "index")),
            Ok(index())
        );
        let stored = golden(&format!("{prefix}-index-parts"));
        assert_eq!(
            IndexObject::open(&sealer, &ObjectId::of(&stored), &stored),
            Ok(index())
        );
        assert_eq!(open(SealedKind::Record, "record"), RECORD);
        let pack = golden(&format!("{prefix}-pack"));
        let parts =
            bundle_parts(&sealer, SealedKind::Pack, &ObjectId::of(&pack), &pack).expect("a pack");
        let part = |(offset, len): (u64, u64)| &pack[offset as usize..(offset + len) as usize];
        let mut found: Vec<Vec<u8>> = parts
            .into_iter()
            .map(|range| {
                sealer
                    .open_part(SealedKind::Pack, part(range))
                    .expect("a frame")
            })
            .collect();
        let mut expected: Vec<Vec<u8>> = frames()
            .iter()
            .map(|(_, frame)| encode_frame(frame))
            .collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
    }
}

#[test]
#[ignore = "writes into the source tree"]
fn write_missing_files() {
    let sealed = sealed();
    // One key opens them all: they are written together or not at all.
    let are_missing = sealed.iter().all(|(name, _)| files::is_missing(name));
    files::keep(
        written()
            .into_iter()
            .chain(sealed.into_iter().filter(|_| are_missing)),
    );
    files::keep(sealed_later());
    files::keep([("key-writer", writers_key())]);
}
