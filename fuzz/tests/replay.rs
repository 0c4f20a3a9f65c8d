//! Every input of the corpus once, without libFuzzer: what fuzzing once found stays found.

use std::path::Path;

use client::Form;
use vellum_core::frame::{FrameCodec, FrameHeader, FramePayload, encode_reference};
use vellum_core::hash::ChunkHash;
use vellum_core::page::{Page, PageEntry, Run};
use vellum_core::solid::{SolidBlock, SolidMember, SolidPlace};
use vellum_core::units::{ChunkId, LayerId, PageIndex, SolidNumber};
use vellum_fuzz::{encodings, formats, guest, nbd, repository, store_ops};

#[path = "../../serve/tests/nbd/client.rs"]
#[expect(dead_code, reason = "the server's tests use the rest")]
mod client;

type Body = fn(&[u8]);

const TARGETS: [(&str, Body); 31] = [
    ("change_map", formats::change_map),
    ("frame_header", encodings::frame_header),
    ("frame_payload", encodings::frame_payload),
    ("solid_block", encodings::solid_block),
    ("guest", guest::guest),
    ("index_object", repository::index_object),
    ("machine", formats::machine),
    ("map_blob", repository::map_blob),
    ("name", encodings::name),
    ("nbd", nbd::nbd),
    ("ova", formats::ova),
    ("pack_frame", repository::pack_frame),
    ("page", encodings::page),
    ("parallels", formats::parallels),
    ("parity_group", encodings::parity_group),
    ("parity_rest", encodings::parity_rest),
    ("probe", formats::probe),
    ("qcow2", formats::qcow2),
    ("qcow2_states", formats::qcow2_states),
    ("vdi", formats::vdi),
    ("vhd", formats::vhd),
    ("vhdx", formats::vhdx),
    ("vma", formats::vma),
    ("vmdk", formats::vmdk),
    ("records", encodings::records),
    ("repository_file", repository::repository_file),
    ("repository_key", repository::repository_key),
    ("repository_record", repository::repository_record),
    ("sparse_stream", formats::sparse_stream),
    ("store_ops", store_ops::store_ops),
    ("stream", repository::stream),
];

/// Seeds that are golden files of repositories.
const REPOSITORY_SEEDS: [(&str, &str); 14] = [
    ("pack_frame", "frame-zstd"),
    ("pack_frame", "frame-none-gaps"),
    ("pack_frame", "frame-lz4"),
    ("index_object", "index-empty"),
    ("index_object", "index-gaps"),
    ("map_blob", "map-root"),
    ("map_blob", "map-child"),
    ("repository_record", "record"),
    ("repository_record", "envelope-zstd"),
    ("repository_key", "key-password"),
    ("repository_key", "key-file"),
    ("repository_file", "repository-file"),
    ("repository_file", "plain-index"),
    ("repository_file", "plain-pack"),
];

#[test]
fn every_input_of_the_corpus_passes() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, body) in TARGETS {
        let inputs = std::fs::read_dir(corpus.join(target))
            .unwrap_or_else(|error| panic!("{target} has no corpus: {error}"));
        let mut count = 0;
        for input in inputs {
            let path = input.expect("a folder can be read").path();
            println!("{}", path.display());
            body(&std::fs::read(&path).expect("a file can be read"));
            count += 1;
        }
        assert!(count > 0, "{target} has a corpus");
        println!("fuzz: {target}: {count} inputs");
    }
    let targets = std::fs::read_dir(corpus.with_file_name("targets"))
        .expect("the targets are beside the corpus")
        .count();
    assert_eq!(targets, TARGETS.len(), "every target is replayed");
}

/// Makes first seeds for the encodings, where there are none yet.
#[test]
#[ignore = "writes into the source tree"]
fn write_seeds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let put = |target: &str, name: &str, bytes: &[u8]| {
        let folder = corpus.join(target);
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        if !folder.join(name).exists() {
            std::fs::write(folder.join(name), bytes).expect("a file can be written");
        }
    };
    put_page_seeds(&put);
    put_frame_seeds(&put);
    put_solid_seeds(&put);
    put_name_seeds(&put);
    put_record_seeds(&put);
    put_nbd_seeds(&put);
    put_repository_seeds(&put);
    put_stream_seeds(&put);
    put_operation_seeds(&put);
}

/// Writes a seed: its target, its name, its bytes.
type PutSeed<'a> = &'a dyn Fn(&str, &str, &[u8]);

/// An encoding without its checksum, which the target adds.
fn encoded_body(encoded: Vec<u8>) -> Vec<u8> {
    encoded[..encoded.len() - 8].to_vec()
}

fn put_page_seeds(put: PutSeed<'_>) {
    let mut page = Page::new();
    put(
        "page",
        "empty",
        &encoded_body(page.encode(LayerId(1), PageIndex(0))),
    );
    page.push_run(Run {
        start: 0,
        len: 16,
        slot: PageEntry::Chunk(ChunkId(300)),
    });
    page.push_run(Run {
        start: 20,
        len: 4,
        slot: PageEntry::Zero,
    });
    page.push_run(Run {
        start: 24,
        len: 1000,
        slot: PageEntry::Chunk(ChunkId(7)),
    });
    put(
        "page",
        "three-runs",
        &encoded_body(page.encode(LayerId(1), PageIndex(0))),
    );
}

fn put_frame_seeds(put: PutSeed<'_>) {
    for (name, ids) in [("one", &[5][..]), ("gaps", &[5, 6, 9, 70, 4100])] {
        let chunks = ids
            .iter()
            .map(|id: &u64| (ChunkId(*id), ChunkHash::of_chunk(&id.to_le_bytes())));
        let seed = [
            &5_u64.to_be_bytes()[..],
            &encoded_body(FrameHeader::new(chunks, 99).encode()),
        ]
        .concat();
        put("frame_header", name, &seed);
    }
    for (name, codec, plain_len, compressed) in [
        ("none", FrameCodec::None, 5, &b"hello"[..]),
        ("lz4", FrameCodec::Lz4, 5, b"\x50hello"),
        (
            "zstd",
            FrameCodec::Zstd,
            5,
            b"\x28\xb5\x2f\xfd\x20\x05\x29\x00\x00hello",
        ),
        ("short", FrameCodec::Zstd, 4096, b""),
    ] {
        put(
            "frame_payload",
            name,
            &encoded_body(
                FramePayload {
                    codec,
                    plain_len,
                    compressed,
                }
                .encode(ChunkId(1)),
            ),
        );
    }
}

fn put_solid_seeds(put: PutSeed<'_>) {
    let place = SolidPlace {
        block: SolidNumber(3),
        offset: 4096,
    };
    let reference = encode_reference(ChunkId(1), place, 8192);
    put("frame_payload", "reference", &encoded_body(reference));
    let members = [4, 1].map(|plain_len| SolidMember {
        first: ChunkId(u64::from(plain_len)),
        plain_len,
    });
    let block = SolidBlock {
        codec: FrameCodec::Lz4,
        members: members.to_vec(),
        compressed: b"\x50hello",
    };
    let block = block.encode(SolidNumber(1));
    put("solid_block", "two", &encoded_body(block));
}

fn put_name_seeds(put: PutSeed<'_>) {
    for (nth, text) in [
        "web-01",
        "web-01@latest",
        "..",
        "Müller",
        "a@b@c",
        "-x",
        "\u{202e}x",
    ]
    .into_iter()
    .enumerate()
    {
        put("name", &format!("text-{nth}"), text.as_bytes());
    }
}

fn put_record_seeds(put: PutSeed<'_>) {
    // Parameters of a new store; counters; a layer with two ranges of pages; an image with a tag; a
    // snapshot.
    put(
        "records",
        "parameters",
        &[1, 0xfb, 0x00, 0x10, 0xfc, 0x00, 0x00, 0x01, 0x00, 2, 3],
    );
    put("records", "counters", &[1, 9, 0xfb, 0xe8, 0x03]);
    put(
        "records",
        "layer",
        &[1, 4, 1, 3, 1, 0xfb, 0x00, 0x20, 2, 5, 1, 77, 2, 0, 1, 3, 4],
    );
    put(
        "records",
        "image",
        &[1, 2, 1, b'a', 4, 0, 0, 77, 1, 1, b't', 0],
    );
    put("records", "snapshot", &[1, 2, 3, 1, b's', 4, 77, 0, 1]);
    put(
        "records",
        "journal",
        &[
            1, 77, 5, b'w', b'r', b'i', b't', b'e', 1, 9, 3, b'a', b'@', b'b', 1, 4, 3, 2, 1, 0,
        ],
    );
}

fn put_nbd_seeds(put: PutSeed<'_>) {
    for (name, form) in [
        ("simple", Form::Simple),
        ("structured", Form::Structured),
        ("extended", Form::Extended),
    ] {
        put("nbd", name, &client::one_of_each(form));
    }
    put(
        "nbd",
        "old",
        &[
            &[0, 0, 0, 0][..],
            &client::option(1, b""),
            &client::request(Form::Simple, 0, 0, 1, 0, 70_000),
        ]
        .concat(),
    );
    put(
        "nbd",
        "refused",
        &[
            &[0, 0, 0, 3][..],
            &client::option(5, b""),
            &client::option(99, b"?"),
            &client::option(2, b""),
        ]
        .concat(),
    );
}

fn put_repository_seeds(put: PutSeed<'_>) {
    for (target, name) in REPOSITORY_SEEDS {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../backup/tests/golden")
            .join(format!("{name}.hex"));
        let text = std::fs::read_to_string(golden).expect("golden files are there first");
        let digits: Vec<u8> = text
            .bytes()
            .filter_map(|digit| (digit as char).to_digit(16))
            .map(|digit| digit as u8)
            .collect();
        put(
            target,
            name,
            &digits
                .chunks(2)
                .map(|pair| pair[0] << 4 | pair[1])
                .collect::<Vec<u8>>(),
        );
    }
}

fn put_stream_seeds(put: PutSeed<'_>) {
    // Without their digests, which the body adds.
    let object = |name: &str, bytes: &[u8]| {
        [
            &(name.len() as u16).to_le_bytes()[..],
            name.as_bytes(),
            &(bytes.len() as u64).to_le_bytes(),
            bytes,
        ]
        .concat()
    };
    let (id, magic) = ("ab".repeat(32), &b"VlmStrm1"[..]);
    let objects = [
        object("vellum.repository", b"{}"),
        object(&format!("packs/ab/{id}"), &[1; 300]),
        object(&format!("journal/0000000000000001-{id}"), b""),
    ];
    put("stream", "empty", &[magic, &[0, 0]].concat());
    put(
        "stream",
        "objects",
        &[magic, &objects.concat(), &[0, 0]].concat(),
    );
    put(
        "stream",
        "twice",
        &[magic, &objects[0], &objects[0], &[0, 0]].concat(),
    );
    put(
        "stream",
        "hostile",
        &[magic, &object("packs/../../etc", b"x"), &[0, 0]].concat(),
    );
    put(
        "stream",
        "too-long",
        &[magic, &objects[0][..19], &u64::MAX.to_le_bytes()].concat(),
    );
}

fn put_operation_seeds(put: PutSeed<'_>) {
    for seed in 0..8_u64 {
        let mut bytes = vec![0; 400];
        fastrand::Rng::with_seed(seed).fill(&mut bytes);
        put("store_ops", &format!("seed-{seed}"), &bytes);
    }
}
