//! Oracle test of qcow2 against its inventor: our parser must read the bytes that qemu-img converts
//! an image to.
//!
//! The images are made here by qemu-img and qemu-io, so the test needs them (`make test` installs
//! them) and fails without.
#![expect(
    clippy::cast_possible_truncation,
    reason = "the images here are a few MiB"
)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use vellum_core::source::{ExtentKind, ImageSource, ReadAt, SourceError};
use vellum_formats::{self as formats, Format, NoCompanions};
use vellum_store::codec::ClusterCodecs;

/// Odd enough that the last cluster, whatever its length, is cut, and its last sector stands alone.
const IMAGE_LEN: u64 = (9 << 20) + 512;
const SECTOR_LEN: u64 = 512;
const LUKS: &str = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10";
/// A prime number of sectors, so that repetitions of the pattern look different in every cluster.
const PATTERN_LEN: u64 = 131 * SECTOR_LEN;

/// The file system as [`ReadAt`], without holes: those are the importer's.
struct OnDisk(File);

impl ReadAt for OnDisk {
    fn len(&self) -> u64 {
        self.0.metadata().expect("an open file has metadata").len()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }
}

fn open(path: &Path) -> Result<Box<dyn ImageSource>, SourceError> {
    let file = File::open(path).expect("the image was just made");
    formats::open_image(
        Format::Qcow2,
        Arc::new(OnDisk(file)),
        Arc::new(ClusterCodecs),
        &NoCompanions,
    )
}

/// Runs one of qemu's tools.
fn start(tool: &str, arguments: &[&str]) -> Output {
    let done = Command::new(tool).args(arguments).output();
    done.unwrap_or_else(|error| {
        panic!("{tool} cannot be run ({error}); `make test` installs qemu-utils")
    })
}

/// Runs one of qemu's tools, which must succeed, and gives what it printed.
fn run(tool: &str, arguments: &[&str]) -> String {
    let done = start(tool, arguments);
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        done.status.success(),
        "{tool} {arguments:?}: {said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
    said
}

/// A folder, and the path of a file in it as text that qemu's tools take.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self {
            folder: tempfile::tempdir().expect("a folder for the images"),
        };
        // Half a byte of chance in each byte: compressed it is neither tiny nor refused.
        let mut random = fastrand::Rng::with_seed(2);
        let pattern: Vec<u8> = (0..PATTERN_LEN).map(|_| random.u8(..16)).collect();
        std::fs::write(bench.path("pattern"), pattern).expect("the folder takes a file");
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name)
            .to_str()
            .expect("temporary folders have plain names")
            .to_owned()
    }

    fn create(&self, name: &str, options: &str, len: u64) {
        let (path, len) = (self.text(name), len.to_string());
        run(
            "qemu-img",
            &["create", "-q", "-f", "qcow2", "-o", options, &path, &len],
        );
    }

    /// Writes, zeroes and discards at random, as a guest would.
    fn scribble(&self, name: &str, random: &mut fastrand::Rng, len: u64) {
        let pattern = self.text("pattern");
        let commands: Vec<String> = (0..60)
            .map(|_| random_command(random, len, &pattern))
            .collect();
        let mut arguments = vec!["-f", "qcow2", "-d", "unmap"];
        arguments.extend(commands.iter().flat_map(|command| ["-c", command.as_str()]));
        let path = self.text(name);
        arguments.push(&path);
        // qemu refuses to write a compressed cluster over an allocated one: such a command fails
        // alone, and the others count.
        let said = start("qemu-io", &arguments).stdout;
        assert!(
            String::from_utf8_lossy(&said).contains("ops"),
            "no command of {arguments:?} succeeded"
        );
    }

    fn convert(&self, from: &str, options: &[&str], to: &str) {
        let (from, to) = (self.text(from), self.text(to));
        let mut arguments = vec!["convert"];
        arguments.extend(options);
        arguments.extend([from.as_str(), to.as_str()]);
        run("qemu-img", &arguments);
    }

    /// The ranges that no file of the chain has, as qemu-img tells.
    fn absent_ranges(&self, name: &str) -> Vec<(u64, u64)> {
        let map = run(
            "qemu-img",
            &["map", "-f", "qcow2", "--output=json", &self.text(name)],
        );
        let mut ranges = Vec::new();
        for line in map
            .lines()
            .filter(|line| member(line, "present") == "false")
        {
            let [start, len] = ["start", "length"]
                .map(|key| member(line, key).parse::<u64>().expect("a number of bytes"));
            add_range(&mut ranges, (start, start + len));
        }
        ranges
    }

    /// The bytes that qemu reads from the image; `None` where it cannot: now and then `qemu-io`
    /// leaves a compressed cluster that qemu itself answers with an input/output error, and then
    /// there is no oracle.
    fn oracle(&self, name: &str) -> Option<Vec<u8>> {
        let (from, to) = (self.text(name), self.text("oracle.raw"));
        let done = start(
            "qemu-img",
            &["convert", "-f", "qcow2", "-O", "raw", &from, &to],
        );
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(
                said.contains("Input/output error"),
                "qemu-img convert: {said}"
            );
            println!("no oracle for {name}: {said}");
            return None;
        }
        Some(std::fs::read(to).expect("qemu-img wrote it"))
    }
}

/// One command for qemu-io: one byte value, the pattern, zeros with and without their cluster,
/// discards, compressed clusters.
fn random_command(random: &mut fastrand::Rng, len: u64, pattern: &str) -> String {
    let unit = [SECTOR_LEN, 4096, 65536][random.usize(..3)];
    let start = random.u64(..len) / unit * unit;
    let end = len.min(start + unit * random.u64(1..24));
    let byte = random.u8(1..);
    // Compressed writes must be whole clusters, so they take the largest cluster's place.
    let (packed_start, packed_end) = (start >> 21 << 21, len.min(((start >> 21) + 1) << 21));
    let (len, packed_len) = (end - start, packed_end - packed_start);
    match random.u8(..10) {
        0..=2 => format!("write -P {byte} {start} {len}"),
        3..=5 => format!("write -s {pattern} {start} {len}"),
        6 => format!("write -z {start} {len}"),
        7 => format!("write -z -u {start} {len}"),
        8 => format!("discard {start} {len}"),
        _ => format!("write -c -s {pattern} {packed_start} {packed_len}"),
    }
}

/// Reads the whole image by extents, then pieces at random, and compares each with the oracle's
/// bytes.
fn check(what: &str, source: &dyn ImageSource, expected: &[u8], random: &mut fastrand::Rng) {
    assert_eq!(source.len(), expected.len() as u64, "{what}: length");
    let mut offset = 0;
    while offset < source.len() {
        let extent = source
            .extent_at(offset)
            .unwrap_or_else(|error| panic!("{what}: extent at {offset}: {error}"));
        assert!(
            extent.start == offset && extent.len > 0 && extent.end_offset() <= source.len(),
            "{what}: {extent:?} at {offset}"
        );
        if extent.kind != ExtentKind::Data {
            let part = &expected[offset as usize..extent.end_offset() as usize];
            assert!(
                part.iter().all(|byte| *byte == 0),
                "{what}: {extent:?} is not zero for qemu"
            );
        }
        same_bytes(what, source, expected, offset, extent.len);
        offset = extent.end_offset();
    }
    same_bytes(what, source, expected, 0, source.len());
    for _ in 0..40 {
        let start = random.u64(..source.len());
        let len = random.u64(..=(source.len() - start).min(1 << 20));
        same_bytes(what, source, expected, start, len);
    }
}

fn same_bytes(what: &str, source: &dyn ImageSource, expected: &[u8], offset: u64, len: u64) {
    let mut found = vec![0xaa; len as usize];
    source
        .read_at(&mut found, offset)
        .unwrap_or_else(|error| panic!("{what}: read at {offset}: {error}"));
    let expected = &expected[offset as usize..][..len as usize];
    if found != expected {
        let at = found
            .iter()
            .zip(expected)
            .position(|(found, expected)| found != expected)
            .expect("they differ");
        panic!(
            "{what}: byte {} differs: {:#x} and not {:#x}",
            offset + at as u64,
            found[at],
            expected[at]
        );
    }
}

/// The seed of a run: another one from the environment.
fn seeded() -> fastrand::Rng {
    let seed = std::env::var("VELLUM_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(1);
    println!("VELLUM_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

#[test]
fn images_with_whole_clusters_read_as_qemu_reads_them() {
    let mut random = seeded();
    for cluster in ["512", "4k", "64k", "2M"] {
        for version in [
            "compat=0.10",
            "compat=v3",
            "compat=v3,compression_type=zstd",
        ] {
            check_variant(&format!("{version},cluster_size={cluster}"), &mut random);
        }
    }
    check_variant("compat=v3,lazy_refcounts=on,refcount_bits=1", &mut random);
    check_variant("compat=v3,preallocation=metadata", &mut random);
}

#[test]
fn images_with_subclusters_read_as_qemu_reads_them() {
    let mut random = seeded();
    for cluster in ["16k", "64k", "2M"] {
        for codec in ["zlib", "zstd"] {
            check_variant(
                &format!("extended_l2=on,cluster_size={cluster},compression_type={codec}"),
                &mut random,
            );
        }
    }
    check_variant("extended_l2=on,preallocation=metadata", &mut random);
    check_variant("extended_l2=on,preallocation=falloc", &mut random);
}

/// Makes images with these options in every state that qemu leaves one in, and reads each.
fn check_variant(options: &str, random: &mut fastrand::Rng) {
    let bench = Bench::new();
    // qemu takes long over tiny clusters.
    let len = if options.ends_with("=512") {
        (1 << 20) + SECTOR_LEN
    } else {
        IMAGE_LEN
    };
    bench.create("image", options, len);
    check_now(&bench, &format!("{options}, empty"), "image", random);
    bench.scribble("image", random, len);
    if !check_now(&bench, options, "image", random) {
        // An image that qemu cannot read, it cannot pack either.
        return;
    }
    // Everything compressed: by one writer in order, and by several out of order.
    let plain = options
        .split(',')
        .filter(|option| !option.starts_with("preallocation"))
        .collect::<Vec<_>>()
        .join(",");
    bench.convert("image", &["-c", "-O", "qcow2", "-o", &plain], "packed");
    check_now(&bench, &format!("{plain}, packed"), "packed", random);
    bench.convert(
        "image",
        &["-c", "-W", "-m", "8", "-O", "qcow2", "-o", &plain],
        "shuffled",
    );
    check_now(&bench, &format!("{plain}, shuffled"), "shuffled", random);
    // Plain and zero clusters between compressed ones.
    bench.scribble("packed", random, len);
    check_now(
        &bench,
        &format!("{plain}, packed and written to"),
        "packed",
        random,
    );
}

/// Reads an image as qemu does; `false` if qemu cannot.
fn check_now(bench: &Bench, what: &str, name: &str, random: &mut fastrand::Rng) -> bool {
    let source = open(&bench.path(name)).unwrap_or_else(|error| panic!("{what}: {error}"));
    let Some(expected) = bench.oracle(name) else {
        return false;
    };
    check(what, &*source, &expected, random);
    assert_eq!(
        absent_ranges(&*source),
        bench.absent_ranges(name),
        "{what}: what is absent"
    );
    true
}

/// The ranges that our parser leaves to a parent. Content alone cannot tell them from zeros, and
/// with a parent they differ.
fn absent_ranges(source: &dyn ImageSource) -> Vec<(u64, u64)> {
    let mut ranges = Vec::new();
    let mut offset = 0;
    while offset < source.len() {
        let extent = source.extent_at(offset).expect("it was walked before");
        offset = extent.end_offset();
        if extent.kind == ExtentKind::Absent {
            add_range(&mut ranges, (extent.start, offset));
        }
    }
    ranges
}

/// Neither side promises to say neighbours in one piece.
fn add_range(ranges: &mut Vec<(u64, u64)>, range: (u64, u64)) {
    match ranges.last_mut() {
        Some((_, end)) if *end == range.0 => *end = range.1,
        _ => ranges.push(range),
    }
}

/// The value of a member in one line of what `qemu-img map` writes.
fn member<'a>(line: &'a str, key: &str) -> &'a str {
    let (_, rest) = line
        .split_once(&format!("\"{key}\": "))
        .expect("qemu-img writes this member");
    rest.split([',', '}'])
        .next()
        .expect("split gives at least one part")
}

#[test]
fn images_of_any_length_read_to_their_last_sector() {
    let mut random = seeded();
    for cluster in [512, 65536, 2 << 20] {
        for len in [
            0,
            SECTOR_LEN,
            cluster - SECTOR_LEN,
            cluster,
            cluster + SECTOR_LEN,
            3 * cluster,
        ] {
            let bench = Bench::new();
            bench.create("image", &format!("cluster_size={cluster}"), len);
            if len > 0 {
                bench.scribble("image", &mut random, len);
            }
            let source = open(&bench.path("image")).expect("a plain image opens");
            assert_eq!(source.len(), len);
            if let Some(expected) = bench.oracle("image").filter(|_| len > 0) {
                check(
                    &format!("{len} bytes in clusters of {cluster}"),
                    &*source,
                    &expected,
                    &mut random,
                );
            }
        }
    }
}

#[test]
fn snapshots_inside_do_not_change_what_is_read() {
    let mut random = seeded();
    let bench = Bench::new();
    bench.create("image", "compat=v3", IMAGE_LEN);
    for name in ["first", "second"] {
        bench.scribble("image", &mut random, IMAGE_LEN);
        run("qemu-img", &["snapshot", "-c", name, &bench.text("image")]);
    }
    bench.scribble("image", &mut random, IMAGE_LEN);
    check_now(&bench, "with snapshots", "image", &mut random);
    run(
        "qemu-img",
        &["snapshot", "-a", "first", &bench.text("image")],
    );
    check_now(&bench, "after going back", "image", &mut random);
}

#[test]
fn a_resized_image_reads_to_its_new_end() {
    let mut random = seeded();
    let bench = Bench::new();
    bench.create("image", "cluster_size=4k", IMAGE_LEN);
    bench.scribble("image", &mut random, IMAGE_LEN);
    for (how, len) in [("grown", IMAGE_LEN * 5), ("shrunk", IMAGE_LEN / 1024 * 512)] {
        run(
            "qemu-img",
            &[
                "resize",
                "-q",
                "-f",
                "qcow2",
                "--shrink",
                &bench.text("image"),
                &len.to_string(),
            ],
        );
        check_now(&bench, how, "image", &mut random);
    }
}

#[test]
fn references_to_other_files_are_refused_with_their_name() {
    let bench = Bench::new();
    bench.create("base", "compat=v3", IMAGE_LEN);
    let (base, overlay) = (bench.text("base"), bench.text("overlay"));
    run(
        "qemu-img",
        &[
            "create", "-q", "-f", "qcow2", "-b", &base, "-F", "qcow2", &overlay,
        ],
    );
    bench.create(
        "outside",
        &format!("data_file={}", bench.text("secret")),
        IMAGE_LEN,
    );
    let luks = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "--object",
        "secret,id=key,data=x",
        "-o",
        LUKS,
        &bench.text("luks"),
        "1M",
    ];
    run("qemu-img", &luks);
    for (name, shown) in [
        ("overlay", base.as_str()),
        ("outside", "secret"),
        ("luks", "encrypted"),
    ] {
        match open(&bench.path(name)).map(|_| ()) {
            Err(SourceError::Refused { reason, .. }) => {
                assert!(reason.contains(shown), "{name}: {reason}");
            }
            other => panic!("{name} was not refused: {other:?}"),
        }
    }
}

#[test]
fn a_sparse_terabyte_is_walked_in_a_few_steps() {
    let bench = Bench::new();
    bench.create("image", "compat=v3", 1 << 40);
    run(
        "qemu-io",
        &[
            "-f",
            "qcow2",
            "-c",
            "write -P 7 700G 64k",
            &bench.text("image"),
        ],
    );
    let source = open(&bench.path("image")).expect("a plain image opens");
    let mut kinds = Vec::new();
    let mut offset = 0;
    while offset < source.len() {
        let extent = source.extent_at(offset).expect("the image is whole");
        kinds.push(extent.kind);
        offset = extent.end_offset();
    }
    let data_count = kinds
        .iter()
        .filter(|kind| **kind == ExtentKind::Data)
        .count();
    assert!(kinds.len() <= 6 && data_count == 1, "{kinds:?}");
}

/// A map that qemu writes of an image covers it, and calls nothing zero that holds data.
#[test]
fn the_map_of_qemu_img_agrees_with_the_content() {
    use vellum_core::change_map::{ChangeKind, ChangeMap};
    let mut random = seeded();
    let bench = Bench::new();
    bench.create("image", "compat=v3", IMAGE_LEN);
    bench.scribble("image", &mut random, IMAGE_LEN);
    let Some(expected) = bench.oracle("image") else {
        return;
    };
    let text = run(
        "qemu-img",
        &["map", "-f", "qcow2", "--output=json", &bench.text("image")],
    );
    let map = ChangeMap::parse(text.as_bytes())
        .and_then(|map| map.for_image(IMAGE_LEN))
        .expect("qemu's own map");
    for range in map
        .ranges()
        .iter()
        .filter(|range| range.kind == ChangeKind::Zero)
    {
        let part = &expected[range.start as usize..range.end_offset() as usize];
        assert!(part.iter().all(|byte| *byte == 0), "{range:?}");
    }
    assert!(
        map.ranges()
            .iter()
            .any(|range| range.kind == ChangeKind::Data)
    );
}
