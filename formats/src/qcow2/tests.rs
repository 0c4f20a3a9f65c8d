//! Images made by hand, good and hostile. That good ones read as qemu reads them is shown by
//! `store/tests/it/qcow2_oracle.rs`.
#![expect(
    clippy::cast_possible_truncation,
    reason = "the images here are a few KiB"
)]

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::double::{RepeatFirst, Sparse};
use ExtentKind::{Absent, Data, Zero};
use vellum_core::source::ClusterCodec;

/// Header, L1 table, L2 table; then content clusters, each filled with its own number.
const L1_CLUSTER: u64 = 1;
const L2_CLUSTER: u64 = 2;
const CONTENT_CLUSTER: u64 = 3;
const CONTENT_CLUSTER_COUNT: u64 = 4;

const BACKING_AT: usize = 8;
const CLUSTER_BITS_AT: usize = 20;
const VIRTUAL_LEN_AT: usize = 24;
const ENCRYPTION_AT: usize = 32;
const L1_COUNT_AT: usize = 36;
const L1_OFFSET_AT: usize = 40;
const FEATURES_AT: usize = 72;
const HEADER_LEN_AT: usize = 100;
const COMPRESSION_TYPE_AT: usize = 104;
const EXTENSIONS_AT: usize = 112;

const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;

/// A qcow2 file under construction.
#[derive(Clone)]
struct Image {
    bytes: Vec<u8>,
    cluster_len: u64,
}

impl Image {
    /// An image of eight clusters, all unallocated.
    fn new(version: u32, cluster_bits: u32) -> Self {
        let cluster_len = 1 << cluster_bits;
        let count = CONTENT_CLUSTER + CONTENT_CLUSTER_COUNT;
        let bytes = (0..count).flat_map(|cluster| {
            vec![
                if cluster < CONTENT_CLUSTER {
                    0
                } else {
                    cluster as u8
                };
                cluster_len as usize
            ]
        });
        let mut image = Self {
            bytes: bytes.collect(),
            cluster_len,
        };
        image
            .put(0, b"QFI\xfb")
            .put_u32(4, version)
            .put_u32(CLUSTER_BITS_AT, cluster_bits);
        image
            .put_u64(VIRTUAL_LEN_AT, 8 * cluster_len)
            .put_u32(L1_COUNT_AT, 1)
            .put_u64(L1_OFFSET_AT, L1_CLUSTER * cluster_len);
        if version == 3 {
            image
                .put_u32(96, 4)
                .put_u32(HEADER_LEN_AT, EXTENSIONS_AT as u32);
        }
        image.put_u64(
            (L1_CLUSTER * cluster_len) as usize,
            (L2_CLUSTER * cluster_len) | COPIED,
        );
        image
    }

    /// One of each kind: plain, zero, absent, compressed, plain and adjacent to the next,
    /// preallocated zero, absent.
    fn mixed() -> Self {
        let mut image = Self::new(3, 9);
        let at = |cluster: u64| (cluster * 512) | COPIED;
        for (index, entry) in [
            at(3),
            1,
            0,
            COMPRESSED | (4 * 512 + 7),
            at(5),
            at(6),
            at(3) | 1,
        ]
        .into_iter()
        .enumerate()
        {
            image.entry(index, entry);
        }
        image
    }

    /// One cluster of 16 KiB with 32 subclusters of 512 bytes.
    fn extended(entry: u64, bitmap: u64) -> Self {
        let mut image = Self::new(3, 14);
        image
            .put_u64(FEATURES_AT, 1 << 4)
            .put_u64(VIRTUAL_LEN_AT, 16384);
        image
            .put_u64(2 * 16384, entry)
            .put_u64(2 * 16384 + 8, bitmap);
        image
    }

    fn put(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn put_u32(&mut self, at: usize, value: u32) -> &mut Self {
        self.put(at, &value.to_be_bytes())
    }

    fn put_u64(&mut self, at: usize, value: u64) -> &mut Self {
        self.put(at, &value.to_be_bytes())
    }

    /// Sets L2 entry `index` (of 8 bytes).
    fn entry(&mut self, index: usize, value: u64) -> &mut Self {
        self.put_u64((L2_CLUSTER * self.cluster_len) as usize + 8 * index, value)
    }

    fn open(&self) -> Result<Qcow2, SourceError> {
        Qcow2::open_active(Arc::new(self.bytes.clone()), Arc::new(RepeatFirst))
    }
}

#[test]
fn what_is_left_behind_is_told() {
    let told = |image: &Image| image.open().expect("it is whole").left_behind();
    assert_eq!(told(&Image::mixed()), Vec::<String>::new());
    let mut image = Image::mixed();
    image
        .put_u32(60, 2)
        .put_u64(FEATURES_AT, 1)
        .put_u32(EXTENSIONS_AT, 0x2385_2875)
        .put_u32(EXTENSIONS_AT + 4, 24)
        .put_u32(EXTENSIONS_AT + 8, 1);
    let told = told(&image);
    for (sentence, words) in
        told.iter()
            .zip(["2 internal snapshots", "1 persistent bitmap,", "closed"])
    {
        assert!(sentence.contains(words), "{sentence}");
    }
    assert_eq!(told.len(), 3, "{told:?}");
}

/// The error's text, with all that it is caused by.
fn reason(error: &SourceError) -> String {
    match error {
        SourceError::Io { offset, source } => format!("{offset}: {source}"),
        SourceError::Malformed { reason, .. } | SourceError::Refused { reason, .. } => {
            reason.clone()
        }
    }
}

/// Walks the first extents of an image and reads at both ends of each; panics only where the walk
/// makes no progress.
fn explore(source: &Qcow2) {
    let mut offset = 0;
    for _ in 0..200 {
        if offset >= source.len() {
            return;
        }
        let Ok(extent) = source.extent_at(offset) else {
            offset += source.header.cluster_len();
            continue;
        };
        assert!(
            extent.start == offset && extent.len > 0 && extent.end_offset() <= source.len(),
            "{extent:?}"
        );
        let mut buffer = [0xaa; 700];
        let len = extent.len.min(700);
        let _ = source.read_at(&mut buffer[..len as usize], offset);
        let _ = source.read_at(&mut buffer[..len as usize], extent.end_offset() - len);
        offset = extent.end_offset();
    }
}

fn walk(source: &Qcow2) -> Vec<(u64, ExtentKind)> {
    let mut extents = Vec::new();
    let mut offset = 0;
    while offset < source.len() {
        let extent = source.extent_at(offset).expect("the image is whole");
        extents.push((extent.len, extent.kind));
        offset = extent.end_offset();
    }
    extents
}

fn content(source: &Qcow2) -> Vec<u8> {
    let mut bytes = vec![0xaa; source.len() as usize];
    source.read_at(&mut bytes, 0).expect("the image is whole");
    bytes
}

#[test]
fn each_kind_of_cluster_reads_as_what_it_is() {
    let source = Image::mixed().open().expect("the image is good");
    let extents = [
        (512, Data),
        (512, Zero),
        (512, Absent),
        (1536, Data),
        (512, Zero),
        (512, Absent),
    ];
    assert_eq!(walk(&source), extents);
    let expected: Vec<u8> = [3, 0, 0, 4, 5, 6, 0, 0]
        .into_iter()
        .flat_map(|byte| [byte; 512])
        .collect();
    assert_eq!(content(&source), expected);
}

#[test]
fn reading_any_range_gives_the_same_bytes_as_reading_all() {
    let source = Image::mixed().open().expect("the image is good");
    let all = content(&source);
    for start in (0..all.len()).step_by(61) {
        for len in [0, 1, 511, 512, 513, 1025, 4096] {
            let len = len.min(all.len() - start);
            let mut part = vec![0xaa; len];
            source
                .read_at(&mut part, start as u64)
                .expect("the image is good");
            assert_eq!(part, all[start..start + len], "{len} bytes from {start}");
        }
    }
}

#[test]
fn an_extent_asked_for_in_its_middle_is_the_rest_of_it() {
    let source = Image::mixed().open().expect("the image is good");
    for offset in 0..source.len() {
        let extent = source.extent_at(offset).expect("the image is good");
        let around = walk(&source).into_iter().scan(0, |end, (len, kind)| {
            *end += len;
            Some((*end, kind))
        });
        let (end, kind) = around
            .into_iter()
            .find(|(end, _)| *end > offset)
            .expect("extents cover the image");
        assert_eq!(
            (extent.start, extent.end_offset(), extent.kind),
            (offset, end, kind)
        );
    }
}

#[test]
fn the_dirty_bit_does_not_keep_a_reader_out() {
    let mut image = Image::mixed();
    let clean = content(&image.open().expect("the image is good"));
    image.put_u64(FEATURES_AT, 1);
    assert_eq!(
        content(&image.open().expect("refcounts are not read")),
        clean
    );
}

#[test]
fn a_cut_last_cluster_needs_only_its_visible_bytes() {
    let mut image = Image::new(3, 9);
    image.put_u64(VIRTUAL_LEN_AT, 1024 + 100).entry(2, 6 * 512);
    image.bytes.truncate(6 * 512 + 100);
    let source = image.open().expect("what the guest sees is there");
    assert_eq!(walk(&source), [(1024, Absent), (100, Data)]);
    assert_eq!(content(&source)[1024..], [6; 100]);
    image.bytes.pop();
    assert!(
        image
            .open()
            .expect("the tables are there")
            .extent_at(1024)
            .is_err()
    );
}

#[test]
fn subclusters_are_told_apart() {
    let cluster = 3 * 16384;
    // Two allocated, one zero, one absent, then 28 zero.
    let source = Image::extended(cluster, 0b0011 | 0xffff_fff4 << 32)
        .open()
        .expect("the image is good");
    assert_eq!(
        walk(&source),
        [(1024, Data), (512, Zero), (512, Absent), (28 * 512, Zero)]
    );
    // Without a cluster: zeros and nothing.
    let source = Image::extended(0, 1 << 63)
        .open()
        .expect("the image is good");
    assert_eq!(walk(&source), [(31 * 512, Absent), (512, Zero)]);
    // Compressed: the bitmap says nothing.
    let source = Image::extended(COMPRESSED | cluster, u64::MAX)
        .open()
        .expect("the image is good");
    assert_eq!(
        (walk(&source), content(&source)),
        (vec![(16384, Data)], vec![3; 16384])
    );
    for (entry, bitmap, why) in [
        (cluster, 1 | 1 << 32, "both"),
        (0, 1, "no cluster"),
        (cluster | 1, 1, "reserved"),
        (cluster | 512, 1, "on a cluster"),
    ] {
        let error = Image::extended(entry, bitmap)
            .open()
            .expect("the header is good")
            .extent_at(0)
            .expect_err(why);
        assert!(reason(&error).contains(why), "{error:?}");
    }
}

#[test]
fn hostile_entries_are_errors_where_they_stand_and_nowhere_else() {
    for (entry, why) in [
        (COPIED, "offset"),
        (512 * 3 + 2, "reserved"),
        ((1 << 56) | (512 * 3), "reserved"),
        (512, "L1 table"),
        (COMPRESSED, "header"),
        (COMPRESSED | 511, "header"),
        (COMPRESSED | 512, "L1 table"),
        (512 * 7, "end of the file"),
        (COMPRESSED | (512 * 7), "end of the file"),
        (COMPRESSED | 1 << 56, "reserved"),
        (0x00ff_ffff_ffff_fe00, "end of the file"),
        (COMPRESSED | ((1 << 56) - 1), "end of the file"),
    ] {
        let mut image = Image::mixed();
        image.entry(1, entry);
        let source = image.open().expect("the header is good");
        assert_eq!(
            source.extent_at(0).expect("the entry before is good").len,
            512,
            "{entry:#x}"
        );
        let error = source.extent_at(512).expect_err("a hostile entry");
        assert!(reason(&error).contains(why), "{entry:#x}: {error:?}");
        assert!(source.read_at(&mut [0; 8], 700).is_err());
        assert_eq!(
            source
                .extent_at(1024)
                .expect("the entry after is good")
                .kind,
            Absent
        );
    }
    // Version 2 has no zero flag: bit 0 is reserved.
    let mut image = Image::new(2, 9);
    assert!(
        image
            .entry(0, 1)
            .open()
            .expect("the header is good")
            .extent_at(0)
            .is_err()
    );
}

#[test]
fn a_compressed_cluster_that_reaches_behind_the_file_is_given_what_is_there() {
    let mut image = Image::new(3, 9);
    // Its last sector count says one sector more than the file has: qemu writes such images.
    image.entry(0, COMPRESSED | 1 << 61 | (7 * 512 - 10));
    assert_eq!(
        content(&image.open().expect("the image is good"))[..512],
        [6; 512]
    );
    // A stream that does not decode is an error that names its place.
    image.put(7 * 512 - 10, &[0xff]);
    let error = image
        .open()
        .expect("the header is good")
        .read_at(&mut [0; 10], 0)
        .expect_err("a bad stream");
    assert!(reason(&error).contains("3574: a bad stream"), "{error:?}");
}

/// A change to an image that makes it hostile.
type Damage = fn(&mut Image);

/// Damage of each field of the header, and what the error says of it.
const HEADER_DAMAGE: [(Damage, &str); 24] = [
    (|image| _ = image.put(0, b"QFI\xfa"), "magic"),
    (|image| _ = image.put_u32(4, 1), "version 1"),
    (|image| _ = image.put_u32(4, 4), "version 4"),
    (
        |image| _ = image.put_u32(CLUSTER_BITS_AT, 0),
        "cluster_bits",
    ),
    (
        |image| _ = image.put_u32(CLUSTER_BITS_AT, 8),
        "cluster_bits",
    ),
    (
        |image| _ = image.put_u32(CLUSTER_BITS_AT, 22),
        "cluster_bits",
    ),
    (
        |image| _ = image.put_u32(CLUSTER_BITS_AT, 63),
        "cluster_bits",
    ),
    (
        |image| _ = image.put_u32(CLUSTER_BITS_AT, u32::MAX),
        "cluster_bits",
    ),
    (
        |image| _ = image.put_u64(VIRTUAL_LEN_AT, 1 << 63),
        "virtual length",
    ),
    (
        |image| _ = image.put_u64(VIRTUAL_LEN_AT, u64::MAX),
        "virtual length",
    ),
    (
        |image| _ = image.put_u64(VIRTUAL_LEN_AT, 64 * 512 + 1),
        "needs 2",
    ),
    (|image| _ = image.put_u32(L1_COUNT_AT, 0), "needs 1"),
    (
        |image| _ = image.put_u32(L1_COUNT_AT, 1000),
        "inside the file",
    ),
    (
        |image| _ = image.put_u32(L1_COUNT_AT, u32::MAX),
        "longer than",
    ),
    (
        |image| _ = image.put_u64(L1_OFFSET_AT, 0),
        "inside the file",
    ),
    (|image| _ = image.put_u64(L1_OFFSET_AT, 513), "on a cluster"),
    (
        |image| _ = image.put_u64(L1_OFFSET_AT, u64::MAX - 511),
        "inside the file",
    ),
    (|image| _ = image.put_u32(ENCRYPTION_AT, 2), "encrypted"),
    (|image| _ = image.put_u64(FEATURES_AT, 2), "corrupt"),
    (
        |image| _ = image.put_u64(FEATURES_AT, 1 << 63),
        "feature 63",
    ),
    (
        |image| _ = image.put_u64(FEATURES_AT, 1 << 3),
        "compression type",
    ),
    (
        |image| {
            _ = image
                .put_u64(FEATURES_AT, 1 << 3)
                .put(COMPRESSION_TYPE_AT, &[2]);
        },
        "compression type 2",
    ),
    (
        |image| _ = image.put_u64(FEATURES_AT, 1 << 4),
        "cluster_bits",
    ),
    (
        |image| _ = image.put_u32(HEADER_LEN_AT, 103),
        "header length",
    ),
];

#[test]
fn hostile_headers_are_errors_that_name_the_field() {
    for (change, why) in HEADER_DAMAGE {
        let mut image = Image::mixed();
        change(&mut image);
        let error = image
            .open()
            .err()
            .unwrap_or_else(|| panic!("{why}: opened"));
        assert!(reason(&error).contains(why), "{why}: {error:?}");
    }
}

#[test]
fn hostile_l1_entries_are_refused_at_the_door() {
    for (entry, why) in [
        (1, "reserved"),
        (1 << 56, "reserved"),
        (512, "L1 table"),
        (7 * 512, "end of the file"),
        (1 << 55, "end of the file"),
    ] {
        let mut image = Image::mixed();
        image.put_u64(512, entry);
        let error = image
            .open()
            .err()
            .unwrap_or_else(|| panic!("{entry:#x}: opened"));
        assert!(
            reason(&error).contains("L1 entry 0 ") && reason(&error).contains(why),
            "{error:?}"
        );
    }
}

/// CVE-2024-32498 and its kin: a name in the header never becomes an open file, and what is shown
/// of it acts on no terminal.
#[test]
fn references_are_refused_with_their_name_shown() {
    let backing = |image: &mut Image, at: u64, len: u32| {
        image
            .put_u64(BACKING_AT, at)
            .put_u32(16, len)
            .put(200, b"/etc/pass\x1b]wd");
    };
    for (at, len, shown) in [
        (200, 13, r#""/etc/pass\u{1b}]wd""#),
        (200, 0, r#""""#),
        (500, 13, "does not name"),
        (u64::MAX, 13, "does not name"),
        (200, 1024, "does not name"),
        (200, u32::MAX, "does not name"),
    ] {
        let mut image = Image::mixed();
        backing(&mut image, at, len);
        let (file, decoder) = (Arc::new(image.bytes), Arc::new(RepeatFirst));
        let opened = crate::open_image(crate::Format::Qcow2, file, decoder, &crate::NoCompanions);
        let error = opened.err().expect("a reference");
        assert!(
            matches!(&error, SourceError::Refused { reason, .. } if reason.contains(shown)),
            "{error:?}"
        );
    }
    for (features, kind, shown) in [
        (4, 0x4441_5441, r#""/dev/sda""#),
        (0, 0x4441_5441, r#""/dev/sda""#),
        (4, 7, "without a name"),
        (0, 0x0537_be77, "encrypted"),
    ] {
        let mut image = Image::mixed();
        image
            .put_u64(FEATURES_AT, features)
            .put_u32(EXTENSIONS_AT, kind)
            .put_u32(EXTENSIONS_AT + 4, 8)
            .put(EXTENSIONS_AT + 8, b"/dev/sda");
        let error = image.open().err().expect("a reference");
        assert!(
            matches!(&error, SourceError::Refused { reason, .. } if reason.contains(shown)),
            "{error:?}"
        );
    }
}

#[test]
fn extensions_that_lie_about_their_length_are_errors() {
    for len in [512 - 112 - 8 + 1, u32::MAX] {
        let mut image = Image::mixed();
        image
            .put_u32(EXTENSIONS_AT, 7)
            .put_u32(EXTENSIONS_AT + 4, len);
        assert!(reason(&image.open().err().expect("a lie")).contains("leaves the first cluster"));
    }
    let mut image = Image::mixed();
    image
        .put_u32(EXTENSIONS_AT, 7)
        .put_u32(EXTENSIONS_AT + 4, 512 - 112 - 8);
    image.open().expect("an extension may fill the cluster");
}

#[test]
fn an_unknown_feature_is_called_by_the_name_the_image_gives_it() {
    let mut image = Image::mixed();
    image
        .put_u64(FEATURES_AT, 1 << 9)
        .put_u32(EXTENSIONS_AT, 0x6803_f857)
        .put_u32(EXTENSIONS_AT + 4, 96);
    image
        .put(EXTENSIONS_AT + 8, b"\0\x08wrong")
        .put(EXTENSIONS_AT + 8 + 48, b"\0\x09time travel");
    assert!(reason(&image.open().err().expect("unknown")).contains(r#"feature 9 ("time travel")"#));
}

#[test]
fn any_byte_of_the_header_or_the_tables_may_be_anything() {
    for good in [
        Image::mixed(),
        Image::extended(3 * 16384, 0xf0f0),
        Image::new(2, 9),
    ] {
        let tables = (L1_CLUSTER * good.cluster_len) as usize..;
        let places = (0..160)
            .chain(tables.clone().take(16))
            .chain(tables.skip(good.cluster_len as usize).take(80));
        for at in places {
            for byte in [0, 1, 2, 0x3f, 0x40, 0x7f, 0x80, 0xfe, 0xff] {
                let mut image = good.clone();
                image.bytes[at] = byte;
                if let Ok(source) = image.open() {
                    explore(&source);
                }
            }
        }
    }
}

#[test]
fn fields_of_chance_meet_no_panic() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..20_000 {
        let mut image = Image::mixed();
        for _ in 0..random.usize(1..4) {
            let at = random
                .choice([
                    4, 8, 16, 20, 24, 32, 36, 40, 72, 100, 112, 116, 512, 1024, 1032, 1040, 1048,
                ])
                .expect("not empty");
            let value = random.u64(..) >> random.u32(..64) << random.u32(..64);
            image.put_u64(at, value);
        }
        if let Ok(source) = image.open() {
            explore(&source);
        }
    }
}

/// A download that broke off must not pass for a disk with zeros at its end.
#[test]
fn a_truncated_file_gives_errors_but_never_other_bytes() {
    let good = Image::mixed();
    let whole = content(&good.open().expect("the image is good"));
    for len in 0..good.bytes.len() {
        let mut image = good.clone();
        image.bytes.truncate(len);
        let Ok(source) = image.open() else { continue };
        let mut missing = 0;
        for offset in (0..whole.len()).step_by(256) {
            let mut part = [0xaa; 256];
            match source.read_at(&mut part, offset as u64) {
                Ok(()) => assert_eq!(
                    part,
                    whole[offset..offset + 256],
                    "{offset} of a file cut to {len}"
                ),
                Err(_) => missing += 1,
            }
        }
        assert!(missing > 0, "a file cut to {len} misses nothing");
    }
}

/// The header asks for the largest tables there are, in a file that is as long as it says and holds
/// nothing.
#[test]
fn a_huge_sparse_file_costs_no_more_than_the_limits() {
    let mut image = Image::new(3, 16);
    image
        .put_u64(VIRTUAL_LEN_AT, 1 << 51)
        .put_u32(L1_COUNT_AT, 4 << 20)
        .put_u64(L1_OFFSET_AT, 1 << 30);
    let file = Arc::new(Sparse {
        head: image.bytes,
        len: 1 << 50,
        read_len: AtomicU64::new(0),
    });
    let source = Qcow2::open_active(Arc::<Sparse>::clone(&file), Arc::new(RepeatFirst))
        .expect("it is empty, but valid");
    assert_eq!(walk(&source), [(1 << 51, Absent)]);
    assert!(file.read_len.load(Ordering::Relaxed) <= 34 << 20);
}

/// Without a bound a file of some KiB would name one cluster for petabytes, each of which somebody
/// would read.
#[test]
fn one_cluster_named_many_times_is_an_error() {
    let mut image = Image::new(3, 9);
    for index in 0..8 {
        image.entry(index, 3 * 512);
    }
    let error = image
        .open()
        .expect("the header is good")
        .extent_at(0)
        .expect_err("8 claims");
    assert!(reason(&error).contains("named twice"), "{error:?}");
    // And so is one table: here by 64 L1 entries.
    let mut image = Image::new(3, 9);
    image
        .put_u64(VIRTUAL_LEN_AT, 64 * 64 * 512)
        .put_u32(L1_COUNT_AT, 64);
    for index in 0..64 {
        image.put_u64(512 + 8 * index, 2 * 512);
    }
    let source = image.open().expect("each entry alone is good");
    let refused_count = (0..64)
        .filter(|table| source.extent_at(table * 64 * 512).is_err())
        .count();
    assert!(refused_count > 32, "{refused_count}");
}

/// Counts what it decodes.
struct Counting(AtomicU64);

impl ClusterDecoder for Counting {
    fn decode_cluster(
        &self,
        codec: ClusterCodec,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), String> {
        self.0.fetch_add(1, Ordering::Relaxed);
        RepeatFirst.decode_cluster(codec, input, output)
    }
}

#[test]
fn small_steps_through_a_compressed_cluster_decode_it_once() {
    let mut image = Image::new(3, 16);
    image
        .entry(0, COMPRESSED | (3 * 65536))
        .entry(1, COMPRESSED | (4 * 65536));
    let decoder = Arc::new(Counting(AtomicU64::new(0)));
    let source = Qcow2::open_active(Arc::new(image.bytes), Arc::<Counting>::clone(&decoder))
        .expect("the image is good");
    for offset in (0..2 * 65536).step_by(4096) {
        source
            .read_at(&mut [0; 4096], offset)
            .expect("the image is good");
    }
    assert_eq!(decoder.0.load(Ordering::Relaxed), 2);
}

#[test]
fn many_threads_read_the_same_bytes() {
    let source = Image::mixed().open().expect("the image is good");
    let all = content(&source);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (source, all) = (&source, &all);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread);
                for _ in 0..2000 {
                    let start = random.usize(..all.len());
                    let mut part = vec![0; random.usize(..=all.len() - start)];
                    source
                        .read_at(&mut part, start as u64)
                        .expect("the image is good");
                    assert_eq!(part, all[start..start + part.len()]);
                }
            });
        }
    });
}

#[test]
fn gaps_between_tables_end_where_a_table_begins() {
    const SPAN: u64 = 64 * 512;
    let mut image = Image::new(3, 9);
    image
        .put_u64(VIRTUAL_LEN_AT, 9 * SPAN + 100)
        .put_u32(L1_COUNT_AT, 10)
        .put_u64(512, 0);
    image
        .put_u64(512 + 8 * 5, 2 * 512)
        .entry(0, 3 * 512)
        .entry(63, 4 * 512);
    let source = image.open().expect("the image is good");
    assert_eq!(
        walk(&source),
        [
            (5 * SPAN, Absent),
            (512, Data),
            (62 * 512, Absent),
            (512, Data),
            (3 * SPAN + 100, Absent)
        ]
    );
    let all = content(&source);
    let expected = |at: usize| match at as u64 / 512 {
        320 => 3,
        383 => 4,
        _ => 0,
    };
    assert!(
        all.iter()
            .enumerate()
            .all(|(at, byte)| *byte == expected(at))
    );
    for len in [
        1,
        511,
        513,
        SPAN as usize,
        SPAN as usize + 1,
        3 * SPAN as usize,
    ] {
        for start in (0..all.len() - len).step_by(797) {
            let mut part = vec![0xaa; len];
            source
                .read_at(&mut part, start as u64)
                .expect("the image is good");
            assert!(part == all[start..start + len], "{len} bytes from {start}");
        }
    }
}

/// More tables than the cache has slots, in an order that evicts.
#[test]
fn tables_that_were_evicted_are_read_again() {
    const TABLE_COUNT: u64 = 3000;
    let first_table = 64;
    let mut image = Image::new(3, 9);
    image
        .bytes
        .resize(((first_table + TABLE_COUNT) * 512) as usize, 0);
    image
        .put_u64(VIRTUAL_LEN_AT, TABLE_COUNT * 64 * 512)
        .put_u32(L1_COUNT_AT, TABLE_COUNT as u32)
        .put_u64(L1_OFFSET_AT, 512 * 8);
    for table in 0..TABLE_COUNT {
        let at = (first_table + table) * 512;
        image.put_u64((512 * 8 + 8 * table) as usize, at);
        // Entry `table % 64` reads as zeros, the rest is absent.
        image.put_u64((at + 8 * (table % 64)) as usize, 1);
    }
    let source = image.open().expect("the image is good");
    for table in (0..TABLE_COUNT).chain((0..TABLE_COUNT).rev().step_by(7)) {
        let zero = source
            .extent_at((table * 64 + table % 64) * 512)
            .expect("the image is good");
        assert_eq!((zero.len, zero.kind), (512, Zero), "table {table}");
    }
}
