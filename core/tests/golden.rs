//! The bytes of every encoding of core, kept in `golden/` for ever: what was written once must be
//! read by every later version, and what is written now must not change by accident.
//!
//! A new version of an encoding adds files and takes none away. `cargo test --release --workspace
//! --test golden -- --ignored` writes files that are missing, and no other.

#[path = "golden/files.rs"]
mod files;

use vellum_core::frame::{
    FrameCodec, FrameHeader, FramePayload, SolidMembership, StoredPayload, encode_reference,
    frame_key, parse_frame_key,
};
use vellum_core::hash::ChunkHash;
use vellum_core::page::{PAGE_SPAN, Page, PageEntry, Run, page_key, parse_page_key};
use vellum_core::solid::{SolidBlock, SolidMember, SolidPlace, parse_solid_key, solid_key};
use vellum_core::units::{ChunkId, LayerId, PageIndex, SolidNumber};

use files::golden;

const LAYER: LayerId = LayerId(0x0102_0304_0506_0708);
const INDEX: PageIndex = PageIndex(9);
const FIRST: ChunkId = ChunkId(0x1122_3344);
const SOLID: SolidNumber = SolidNumber(0x0102_0304_0506);

fn pages() -> Vec<(&'static str, Page)> {
    let page = |runs: &[(u16, u16, PageEntry)]| {
        let mut page = Page::new();
        runs.iter().for_each(|(start, len, slot)| {
            page.push_run(Run {
                start: *start,
                len: *len,
                slot: *slot,
            });
        });
        page
    };
    vec![
        ("page-empty", Page::new()),
        (
            "page-one-run",
            page(&[(0, PAGE_SPAN, PageEntry::Chunk(ChunkId(1 << 40)))]),
        ),
        (
            "page-zeros",
            page(&[(5, 7, PageEntry::Zero), (1000, 24, PageEntry::Zero)]),
        ),
        (
            "page-mixed",
            page(&[
                (0, 16, PageEntry::Chunk(ChunkId(300))),
                (16, 4, PageEntry::Zero),
                (30, 1, PageEntry::Chunk(ChunkId(316))),
                (31, 2, PageEntry::Chunk(ChunkId(2))),
            ]),
        ),
    ]
}

fn headers() -> Vec<(&'static str, FrameHeader)> {
    let header = |offsets: &[u64], payload_len| {
        FrameHeader::new(
            offsets.iter().map(|at| {
                (
                    FIRST.advance_by(*at),
                    ChunkHash::of_chunk(&at.to_le_bytes()),
                )
            }),
            payload_len,
        )
    };
    vec![
        ("frame-header-one", header(&[0], 4110)),
        (
            "frame-header-full",
            header(&(0..16).collect::<Vec<_>>(), 0x0001_0203),
        ),
        ("frame-header-gaps", header(&[0, 1, 7, 8, 200, 4095], 77)),
        (
            "frame-header-solid",
            header(&[0, 1, 9], 0).in_solid_block(
                SolidMembership {
                    block: SOLID,
                    block_len: 0x0002_0304,
                },
                0x0001_0203,
            ),
        ),
    ]
}

const PAYLOADS: [(&str, FrameCodec, u32, &[u8]); 3] = [
    ("frame-payload-none", FrameCodec::None, 5, b"plain"),
    (
        "frame-payload-lz4",
        FrameCodec::Lz4,
        4096,
        b"opaque to core",
    ),
    (
        "frame-payload-zstd",
        FrameCodec::Zstd,
        65536,
        b"opaque to core as well",
    ),
];

fn payload(of: (&'static str, FrameCodec, u32, &'static [u8])) -> FramePayload<'static> {
    FramePayload {
        codec: of.1,
        plain_len: of.2,
        compressed: of.3,
    }
}

fn solid_block() -> SolidBlock<'static> {
    let members = [(FIRST, 8192), (ChunkId(3), 4096)];
    SolidBlock {
        codec: FrameCodec::Zstd,
        members: members
            .into_iter()
            .map(|(first, plain_len)| SolidMember { first, plain_len })
            .collect(),
        compressed: b"opaque to core, too",
    }
}

const PLACE: SolidPlace = SolidPlace {
    block: SOLID,
    offset: 8192,
};

/// Every golden name with what this version writes.
fn written() -> Vec<(&'static str, Vec<u8>)> {
    let pages = pages()
        .into_iter()
        .map(|(name, page)| (name, page.encode(LAYER, INDEX)));
    let headers = headers()
        .into_iter()
        .map(|(name, header)| (name, header.encode()));
    let payloads = PAYLOADS
        .into_iter()
        .map(|of| (of.0, payload(of).encode(FIRST)));
    let keys = [
        ("key-page", page_key(LAYER, INDEX).to_vec()),
        ("key-frame", frame_key(FIRST).to_vec()),
        ("key-solid", solid_key(SOLID).to_vec()),
        ("solid-block", solid_block().encode(SOLID)),
        ("frame-reference", encode_reference(FIRST, PLACE, 4096)),
        (
            "key-index",
            ChunkHash::of_chunk(b"vellum").index_prefix().to_vec(),
        ),
        ("chunk-name", ChunkHash::of_chunk(&[7; 4096]).0.to_vec()),
    ];
    pages.chain(headers).chain(payloads).chain(keys).collect()
}

#[test]
fn what_is_written_now_is_what_was_written_once() {
    for (name, bytes) in written() {
        assert_eq!(bytes, golden(name), "{name}");
    }
}

#[test]
fn what_was_written_once_is_read_now() {
    for (name, page) in pages() {
        assert_eq!(
            Page::decode(LAYER, INDEX, &golden(name)),
            Ok(page),
            "{name}"
        );
    }
    for (name, header) in headers() {
        assert_eq!(
            FrameHeader::decode(FIRST, &golden(name)),
            Ok(header),
            "{name}"
        );
    }
    assert_eq!(
        SolidBlock::decode(SOLID, &golden("solid-block")),
        Ok(solid_block())
    );
    assert_eq!(
        StoredPayload::decode(FIRST, &golden("frame-reference")),
        Ok(StoredPayload::Solid {
            place: PLACE,
            plain_len: 4096
        })
    );
    assert_eq!(parse_solid_key(&golden("key-solid")), Some(SOLID));
    for of in PAYLOADS {
        assert_eq!(
            FramePayload::decode(FIRST, &golden(of.0)),
            Ok(payload(of)),
            "{}",
            of.0
        );
    }
    assert_eq!(parse_page_key(&golden("key-page")), Ok((LAYER, INDEX)));
    assert_eq!(parse_frame_key(&golden("key-frame")), Ok(FIRST));
}

#[test]
#[ignore = "writes into the source tree"]
fn write_missing_files() {
    files::keep(written());
}
