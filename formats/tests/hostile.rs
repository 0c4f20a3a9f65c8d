//! A hostile corpus, made here, in a process of its own: every field of every header at 0, 1 and
//! its greatest value, tables that cannot be, chains in circles and without end. Each is read or
//! refused in words, in milliseconds, within 64 MiB for all of them.
#![cfg(target_os = "linux")]

#[path = "it/codecs.rs"]
mod codecs;
#[path = "it/disk.rs"]
#[expect(dead_code, reason = "the other tests use the rest")]
mod disk;

use std::sync::Arc;
use std::time::{Duration, Instant};

use codecs::Codecs;
use disk::MadeDisk;
use vellum_core::source::ExtentKind::{Data, Zero};
use vellum_core::source::{ClusterDecoder, SourceError};
use vellum_formats::chain::{CHAIN_LAYERS_MAX, open_chain};
use vellum_formats::write::{ParentLink, TargetFormat, WriteOptions, write_image};
use vellum_formats::{DiskIdentity, Format, NoCompanions, image_facts, open_over_parent};

const MEMORY_MAX: u64 = 64 << 20;
/// A refusal takes milliseconds; this leaves room for a machine that does other things.
const TIME_MAX: Duration = Duration::from_millis(1500);

/// How a format protects its headers, so that damage gets past it.
type Reseal = fn(&mut [u8], usize);

/// A part of an image whose fields are all tried: first byte, length.
struct Header {
    name: &'static str,
    options: &'static [&'static str],
    is_child: bool,
    parts: &'static [(usize, usize)],
    reseal: Reseal,
}

const HEADERS: [Header; 10] = [
    Header {
        name: "qcow2",
        options: &[],
        is_child: true,
        parts: &[(0, 176), (65_536, 16), (131_072, 64)],
        reseal: |_, _| {},
    },
    Header {
        name: "qcow2",
        options: &["compression_type=zlib"],
        is_child: false,
        parts: &[(0, 120), (65_536, 16)],
        reseal: |_, _| {},
    },
    Header {
        name: "qcow2",
        options: &["extended_l2=on"],
        is_child: false,
        parts: &[(0, 120)],
        reseal: |_, _| {},
    },
    Header {
        name: "vdi",
        options: &[],
        is_child: true,
        parts: &[(64, 480)],
        reseal: |_, _| {},
    },
    Header {
        name: "vdi",
        options: &["subformat=fixed"],
        is_child: false,
        parts: &[(64, 480)],
        reseal: |_, _| {},
    },
    Header {
        name: "vmdk",
        options: &[],
        is_child: true,
        parts: &[(0, 80), (21 * 512, 8), (22 * 512, 16)],
        reseal: |_, _| {},
    },
    Header {
        name: "vmdk",
        options: &["subformat=streamOptimized"],
        is_child: false,
        parts: &[(0, 80), (65_536, 16)],
        reseal: |_, _| {},
    },
    Header {
        name: "vhd",
        options: &[],
        is_child: true,
        parts: &[(0, 88), (512, 64), (1088, 220), (1536, 16)],
        reseal: reseal_vhd,
    },
    Header {
        name: "vhd",
        options: &["subformat=fixed"],
        is_child: false,
        parts: &[],
        reseal: |_, _| {},
    },
    Header {
        name: "vhdx",
        options: &[],
        is_child: true,
        parts: &[
            (65_536, 80),
            (131_072, 80),
            (196_608, 80),
            (262_144, 80),
            (2 << 20, 240),
            ((2 << 20) + 65_536, 120),
            (3 << 20, 64),
        ],
        reseal: reseal_vhdx,
    },
];

/// The most memory that this process ever had, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells it");
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<u64>().ok())
        .expect("a number")
        * 1024
}

fn reseal_vhd(bytes: &mut [u8], _: usize) {
    for (start, end, at) in [(0, 512, 64), (512, 1536, 548)] {
        bytes[at..at + 4].fill(0);
        let sum: u32 = bytes[start..end].iter().map(|byte| u32::from(*byte)).sum();
        bytes[at..at + 4].copy_from_slice(&(!sum).to_be_bytes());
    }
    // The footer at the end is asked first.
    let footer = bytes[..512].to_vec();
    let at = bytes.len() - 512;
    bytes[at..].copy_from_slice(&footer);
}

fn reseal_vhdx(bytes: &mut [u8], _: usize) {
    for (start, len) in [
        (65_536, 4096),
        (131_072, 4096),
        (196_608, 65_536),
        (262_144, 65_536),
    ] {
        bytes[start + 4..start + 8].fill(0);
        let sum = crc32c::crc32c(&bytes[start..start + len]);
        bytes[start + 4..start + 8].copy_from_slice(&sum.to_le_bytes());
    }
}

fn target(name: &str, options: &[&str]) -> TargetFormat {
    let format = name.parse::<TargetFormat>().expect("a format");
    options
        .iter()
        .try_fold(format, |format, option| format.with_option(option))
        .expect("it has the option")
}

fn image(header: &Header) -> Vec<u8> {
    let disk = MadeDisk::new(
        1,
        3 << 20,
        &[
            (0, 4096, Data),
            (1 << 20, 65_536, Zero),
            (2 << 20, 512, Data),
        ],
    );
    let mut options = WriteOptions::new([1; 32]);
    let is_vmdk = header.name == "vmdk";
    options.parent = header.is_child.then(|| ParentLink {
        path: "base".to_owned(),
        identity: Some(if is_vmdk {
            DiskIdentity::ContentId(7)
        } else {
            DiskIdentity::Uuid([7; 16])
        }),
        format: Some("raw".to_owned()),
    });
    let mut file = Vec::new();
    let format = target(header.name, header.options);
    write_image(format, &disk, &options, &Codecs, &mut file).expect("written");
    file
}

/// Reads what can be read of a file in a few steps; tells why it cannot.
fn explore(format: Format, file: &Arc<Vec<u8>>) -> Result<(), SourceError> {
    image_facts(format, file.clone())?;
    let image = open_over_parent(format, file.clone(), Arc::new(Codecs), &NoCompanions)?;
    let (mut at, mut buffer) = (0, [0; 4096]);
    for _ in 0..64 {
        if at >= image.len() {
            break;
        }
        let len = (image.len() - at).min(4096) as usize;
        image.read_at(&mut buffer[..len], at)?;
        at = image.extent_at(at)?.end_offset();
    }
    Ok(())
}

/// Requires that a file is read or refused in words and in time.
fn check(what: &str, format: Format, file: Vec<u8>) -> bool {
    let (file, started) = (Arc::new(file), Instant::now());
    let done = explore(format, &file);
    let taken = started.elapsed();
    assert!(taken < TIME_MAX, "{what}: {taken:?}");
    if let Err(error) = &done {
        let words = error.to_string();
        assert!(
            words.len() > 30 && !matches!(error, SourceError::Io { .. }),
            "{what}: {words}"
        );
    }
    done.is_err()
}

#[test]
fn every_field_of_every_header_at_0_1_and_max_is_read_or_refused() {
    for header in &HEADERS {
        let (whole, format) = (
            image(header),
            target(header.name, header.options).image_format(),
        );
        let what = format!("{} {:?}", header.name, header.options);
        assert!(!check(&what, format, whole.clone()), "{what} is whole");
        let (mut refused, mut tried) = (0, 0);
        // A fixed VHD has its header at the end.
        let at_end = [(whole.len() - 512, 88)];
        let parts = if header.parts.is_empty() {
            &at_end[..]
        } else {
            header.parts
        };
        for (start, len) in parts {
            for at in (*start..start + len).step_by(2) {
                for field_len in [2, 4, 8] {
                    for value in [
                        0_u64,
                        1,
                        1 << 56,
                        u64::MAX,
                        u64::MAX >> 1,
                        0xffff_ff7f_ffff_ff7f,
                    ] {
                        let mut file = whole.clone();
                        let end = (at + field_len).min(file.len());
                        file[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
                        (header.reseal)(&mut file, at);
                        let what = format!("{what}, {field_len} bytes at {at}: {value:#x}");
                        refused += usize::from(check(&what, format, file));
                        tried += 1;
                    }
                }
            }
        }
        println!("{what}: {refused} of {tried} refused; {} MiB", peak() >> 20);
        assert!(refused > 20, "{what}: {refused}");
    }
    assert!(peak() <= MEMORY_MAX, "{} bytes", peak());
}

#[test]
fn files_that_end_anywhere_are_refused_or_read() {
    for header in &HEADERS {
        let (whole, format) = (
            image(header),
            target(header.name, header.options).image_format(),
        );
        let ends = (0..4096)
            .step_by(61)
            .chain((4096..whole.len()).step_by(65_521));
        for end in ends {
            let what = format!("{} {:?} that ends at {end}", header.name, header.options);
            check(&what, format, whole[..end].to_vec());
        }
    }
}

#[test]
fn a_block_that_is_named_again_and_again_is_refused() {
    let disk = MadeDisk::new(1, 2 << 30, &[(0, 65_536, Data)]);
    // Name, where its table is, entries of it, their length.
    for (name, table, count, entry_len) in [
        ("vdi", 512, 2048, 4),
        ("vhd", 1536, 1024, 4),
        ("vhdx", 3 << 20, 1024, 8),
        ("vmdk", (22 + 64 * 4 + 1) * 512, 32_768, 4),
    ] {
        let mut file = Vec::new();
        let options = WriteOptions::new([1; 32]);
        write_image(target(name, &[]), &disk, &options, &Codecs, &mut file).expect("written");
        let format = name.parse().expect("a format");
        assert!(!check(name, format, file.clone()), "{name} is whole");
        let first = file[table..table + entry_len].to_vec();
        assert!(
            first.iter().any(|byte| *byte != 0) || name == "vdi",
            "{name}: {first:?}"
        );
        for number in 1..count {
            let at = table + number * entry_len;
            file[at..at + entry_len].copy_from_slice(&first);
        }
        let file = Arc::new(file);
        let error = explore(format, &file).expect_err("a bomb").to_string();
        assert!(error.contains("named twice"), "{name}: {error}");
    }
}

fn overlay(name: &str, parent: u8) -> Vec<u8> {
    let disk = MadeDisk::new(1, 1 << 20, &[(0, 512, Data)]);
    let mut options = WriteOptions::new([1; 32]);
    options.identity = Some(DiskIdentity::Uuid([1; 16]));
    options.parent = Some(ParentLink {
        path: "again".to_owned(),
        identity: Some(DiskIdentity::Uuid([parent; 16])),
        format: Some(name.to_owned()),
    });
    let mut file = Vec::new();
    write_image(target(name, &[]), &disk, &options, &Codecs, &mut file).expect("written");
    file
}

#[test]
fn a_circle_and_a_chain_without_end_are_refused_in_milliseconds() {
    let decoder: Arc<dyn ClusterDecoder> = Arc::new(Codecs);
    for name in ["qcow2", "vdi", "vhd", "vhdx"] {
        let format: Format = name.parse().expect("a format");
        let file = Arc::new(overlay(name, 1));
        let (mut opened, started) = (0, Instant::now());
        let done = open_chain(
            (format, file.clone()),
            &decoder,
            &NoCompanions,
            &mut |parent| {
                assert!(parent.hints.is_empty() || parent.hints[0].contains("again"));
                opened += 1;
                Ok((format, file.clone()))
            },
        );
        let error = done.err().expect("it has no end").to_string();
        assert!(error.contains("circle"), "{error}");
        assert_eq!(opened, CHAIN_LAYERS_MAX);
        assert!(
            started.elapsed() < TIME_MAX,
            "{name}: {:?}",
            started.elapsed()
        );
    }
}

#[test]
fn a_parent_that_is_another_image_is_refused_by_its_identity() {
    let decoder: Arc<dyn ClusterDecoder> = Arc::new(Codecs);
    for name in ["vdi", "vhd", "vhdx"] {
        let format: Format = name.parse().expect("a format");
        let (child, other) = (Arc::new(overlay(name, 9)), Arc::new(overlay(name, 1)));
        let done = open_chain((format, child), &decoder, &NoCompanions, &mut |_| {
            Ok((format, other.clone()))
        });
        let error = done.err().expect("another image").to_string();
        assert!(
            error.contains("09090909") && error.contains("01010101"),
            "{error}"
        );
    }
}

#[test]
fn streams_that_grow_without_end_fill_no_memory() {
    // Zeros compress a thousandfold; a cluster is read into its own length, whatever follows.
    let disk = MadeDisk::new(1, 1 << 20, &[(0, 1 << 20, Data)]);
    let mut file = Vec::new();
    let format = target("qcow2", &["compression_type=zlib"]);
    write_image(
        format,
        &disk,
        &WriteOptions::new([1; 32]),
        &Codecs,
        &mut file,
    )
    .expect("written");
    let bomb = vellum_formats::write::ClusterEncoder::encode_cluster(
        &Codecs,
        vellum_core::source::ClusterCodec::Deflate,
        &vec![0; 32 << 20],
    );
    let bomb = bomb.expect("compressed");
    let len = bomb.len().min(40_000);
    file[131_072..131_072 + len].copy_from_slice(&bomb[..len]);
    check("a bomb", Format::Qcow2, file);
    assert!(peak() <= MEMORY_MAX + (33 << 20), "{} bytes", peak());
}
