//! The fidelity matrix, qemu-img as the oracle: every format and variant that is written, over
//! disks that are odd in every way, is what qemu-img reads; every variant that qemu-img writes is
//! what is read here.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::codecs::Codecs;
use crate::disk::{MadeDisk, first_difference, layers};
use crate::files::{Beside, open};
use crate::qemu;
use vellum_core::source::ExtentKind::{Data, Zero};
use vellum_core::source::{ImageSource, SourceError};
use vellum_formats::chain::ImageChain;
use vellum_formats::write::{
    ImageWriteError, ParentLink, SeekTarget, TargetFormat, WriteOptions, WrittenImage, write_image,
};
use vellum_formats::{Format, image_facts, open_over_parent};

const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Every variant that is written, in the words of `-O` and `-o`.
const WRITTEN: [(&str, &[&str]); 18] = [
    ("raw", &[]),
    ("qcow2", &[]),
    ("qcow2", &["cluster_size=512"]),
    ("qcow2", &["cluster_size=2097152"]),
    ("qcow2", &["compression_type=zlib"]),
    ("qcow2", &["compression_type=zlib", "cluster_size=4096"]),
    ("qcow2", &["compression_type=zstd"]),
    ("qcow2", &["extended_l2=on"]),
    ("qcow2", &["extended_l2=on", "cluster_size=16384"]),
    ("qcow2", &["extended_l2=on", "compression_type=zstd"]),
    ("qcow2", &["extended_l2=on", "compression_type=zlib"]),
    ("vdi", &[]),
    ("vdi", &["subformat=fixed"]),
    ("vmdk", &[]),
    ("vmdk", &["subformat=streamOptimized"]),
    ("vhd", &[]),
    ("vhd", &["subformat=fixed"]),
    ("vhdx", &[]),
];

/// The disks of the matrix.
fn disks() -> Vec<(&'static str, MadeDisk)> {
    let far = [
        (0, 70_000, Data),
        (GIB + 512, 512, Data),
        (2 * GIB - 4096, 300_000, Data),
        (3 * GIB, 1 << 20, Zero),
        (4 * GIB - 512, 512, Data),
    ];
    vec![
        ("empty", MadeDisk::new(1, 0, &[])),
        ("all absent", MadeDisk::new(1, 3 << 20, &[])),
        ("small", MadeDisk::new(2, 5 << 20, &[(0, 5 << 20, Data)])),
        ("4 GiB sparse", MadeDisk::new(3, 4 * GIB, &far)),
        (
            "odd length",
            MadeDisk::new(4, (3 << 20) + 1001, &[(1 << 20, (2 << 20) + 1001, Data)]),
        ),
        (
            "512-byte tail",
            MadeDisk::new(5, (2 << 20) + 512, &[(0, 4096, Data), (2 << 20, 512, Data)]),
        ),
    ]
}

/// The MiB of the long disk that hold its content, and one that holds none.
const LONG_PIECES: [u64; 5] = [0, (2 << 20) - 1, 2 << 20, 3 << 20, 12_345];

/// The length that only some formats have: 3 TiB and a sector.
fn long_disk() -> MadeDisk {
    let patches = [
        (4096, 8192, Data),
        (2 * TIB - 4096, 8192, Data),
        (3 * TIB, 512, Data),
    ];
    MadeDisk::new(6, 3 * TIB + 512, &patches)
}

fn target(name: &str, options: &[&str]) -> TargetFormat {
    let format = name.parse::<TargetFormat>().expect("a format");
    options
        .iter()
        .try_fold(format, |format, option| format.with_option(option))
        .expect("it has the option")
}

fn write(
    format: TargetFormat,
    disk: &dyn ImageSource,
    options: &WriteOptions,
    path: &Path,
) -> Result<WrittenImage, ImageWriteError> {
    let mut file = SeekTarget::new(File::create(path).expect("made"));
    write_image(format, disk, options, &Codecs, &mut file)
}

fn read(path: &Path, format: Format) -> Result<Arc<dyn ImageSource>, SourceError> {
    let beside = Beside(path.parent().expect("a folder").to_owned());
    let file = Arc::new(open(path).expect("opens"));
    Ok(open_over_parent(format, file, Arc::new(Codecs), &beside)?.into())
}

/// Collects what is wrong, so that one run tells all of it.
#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn note(&mut self, what: &str, done: Result<(), String>) {
        if let Err(reason) = done {
            self.0.push(format!("{what}: {reason}"));
        }
    }

    fn settle(self) {
        assert!(self.0.is_empty(), "{:#?}", self.0);
    }
}

#[test]
fn what_is_written_is_what_qemu_img_reads() {
    let room = tempfile::tempdir().expect("a folder");
    let (raw, image) = (room.path().join("raw"), room.path().join("image"));
    let options = WriteOptions::new([1; 32]);
    let mut faults = Faults::default();
    for (name, disk) in disks().into_iter().chain([("over 2 TiB", long_disk())]) {
        write(TargetFormat::Raw, &disk, &options, &raw).expect("written");
        for (format, words) in WRITTEN {
            let kind = target(format, words);
            // Tables of small clusters, or all blocks of a fixed VDI: terabytes to look at.
            let is_slow = ["cluster_size=512", "cluster_size=4096"]
                .iter()
                .any(|word| words.contains(word))
                || (format, words) == ("vdi", &["subformat=fixed"]);
            if is_slow && disk.len() > TIB {
                continue;
            }
            let what = format!("{name} as {format} {words:?}");
            let written = write(kind, &disk, &options, &image);
            let holds_none = matches!(
                kind.image_format(),
                Format::Vmdk | Format::Vhd | Format::Vhdx
            );
            if disk.len() > 2 * TIB && kind.image_format() == Format::Vhd
                || disk.is_empty() && holds_none
            {
                assert!(
                    matches!(written, Err(ImageWriteError::Impossible { .. })),
                    "{what}"
                );
                continue;
            }
            faults.note(&what, written.map(drop).map_err(|error| error.to_string()));
            let theirs = qemu::name(kind.image_format());
            let pair = ((&*raw, "raw"), (&*image, theirs));
            faults.note(&what, compare(pair, &disk, &LONG_PIECES));
            // qemu-img looks at every grain of a VMDK, one by one.
            if disk.len() < TIB || kind.image_format() != Format::Vmdk {
                faults.note(&what, qemu::check(&image, theirs));
            }
            let ours = read(&image, kind.image_format())
                .and_then(|image| first_difference(&*image, &disk));
            faults.note(&what, same(ours));
        }
    }
    faults.settle();
}

/// Compares whole disks, or pieces where qemu-img knows no holes and the disk is long.
fn compare(
    (left, right): ((&Path, &str), (&Path, &str)),
    disk: &MadeDisk,
    pieces: &[u64],
) -> Result<(), String> {
    if disk.len() < TIB || matches!(right.1, "raw" | "qcow2") {
        qemu::compare(left, right)
    } else {
        qemu::compare_pieces(left, right, pieces)
    }
}

fn same(found: Result<Option<u64>, SourceError>) -> Result<(), String> {
    match found {
        Ok(None) => Ok(()),
        Ok(Some(at)) => Err(format!("differs at byte {at}")),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn disks_that_no_raw_file_can_hold_agree_across_formats() {
    let room = tempfile::tempdir().expect("a folder");
    let (first, image) = (room.path().join("first"), room.path().join("image"));
    let options = WriteOptions::new([1; 32]);
    let patches = [
        (0, 4096, Data),
        (16 * TIB - 512, 1024, Data),
        (20 * TIB - 512, 512, Data),
    ];
    let disk = MadeDisk::new(7, 20 * TIB, &patches);
    write(target("qcow2", &[]), &disk, &options, &first).expect("written");
    qemu::check(&first, "qcow2").expect("sound");
    let mut faults = Faults::default();
    for (format, words) in [
        ("qcow2", &["extended_l2=on"][..]),
        ("qcow2", &["compression_type=zstd"]),
        ("vdi", &[]),
        ("vmdk", &[]),
        ("vmdk", &["subformat=streamOptimized"]),
        ("vhdx", &[]),
    ] {
        let kind = target(format, words);
        write(kind, &disk, &options, &image).expect("written");
        let pieces = [0, 16 << 20, (20 << 20) - 1, 54_321];
        let pair = ((&*first, "qcow2"), (&*image, format));
        faults.note(format, compare(pair, &disk, &pieces));
        let ours =
            read(&image, kind.image_format()).and_then(|image| first_difference(&*image, &disk));
        faults.note(format, same(ours));
    }
    faults.settle();
}

/// Three layers, top first: zeros over the parents' data, a length that grows, patches that begin
/// and end inside sectors and clusters.
fn chain() -> Vec<Arc<dyn ImageSource>> {
    let base = MadeDisk::new(11, 9 << 20, &[(0, 7 << 20, Data)]);
    let middle = [
        (1 << 20, 1 << 20, Zero),
        (3 << 20, 700, Data),
        ((4 << 20) + 65_536, 65_536, Zero),
        ((6 << 20) + 512, 512, Zero),
        (8 << 20, 4096, Data),
    ];
    let top = [
        (512, 512, Data),
        ((1 << 20) + 5000, 5000, Data),
        (2 << 20, 1 << 20, Zero),
        (9 << 20, 100_000, Data),
    ];
    layers([
        MadeDisk::new(13, 11 << 20, &top),
        MadeDisk::new(12, 9 << 20, &middle),
        base,
    ])
}

/// Writes the chain, base first; the file names, base first.
fn write_chain(format: TargetFormat, room: &Path) -> Result<Vec<PathBuf>, ImageWriteError> {
    let sources = chain();
    let mut parent = None;
    let mut paths = Vec::new();
    for depth in 0..sources.len() {
        let layers = sources[sources.len() - 1 - depth..].to_vec();
        let child = ImageChain::for_child(layers)?;
        let path = room.join(format!("layer-{depth}.img"));
        let mut options = WriteOptions::new([depth as u8; 32]);
        options.parent = parent.take();
        let written = write(format, &child, &options, &path)?;
        parent = Some(ParentLink {
            path: format!("layer-{depth}.img"),
            identity: written.identity,
            format: Some(qemu::name(format.image_format()).to_owned()),
        });
        paths.push(path);
    }
    Ok(paths)
}

#[test]
fn a_chain_that_is_written_is_what_qemu_img_and_this_reader_see() {
    let mut faults = Faults::default();
    for (format, words) in [
        ("qcow2", &[][..]),
        ("qcow2", &["cluster_size=512"]),
        ("qcow2", &["extended_l2=on"]),
        ("qcow2", &["compression_type=zlib"]),
        ("qcow2", &["compression_type=zstd", "extended_l2=on"]),
        ("vmdk", &[]),
        ("vdi", &[]),
        ("vhd", &[]),
        ("vhdx", &[]),
    ] {
        let kind = target(format, words);
        let room = tempfile::tempdir().expect("a folder");
        let what = format!("{format} {words:?}");
        let paths = write_chain(kind, room.path()).expect("written");
        let whole = ImageChain::for_whole_disk(chain()).expect("three layers");
        let images = paths
            .iter()
            .rev()
            .map(|path| read(path, kind.image_format()));
        let images = images.collect::<Result<Vec<_>, _>>().expect("they open");
        let ours = ImageChain::for_whole_disk(images).expect("three layers");
        faults.note(&what, same(first_difference(&ours, &whole)));
        for (child, parent) in paths.iter().skip(1).zip(&paths) {
            let facts = image_facts(kind.image_format(), Arc::new(open(child).expect("opens")));
            let named = facts.expect("told").parent.expect("it has a parent");
            let parent_facts =
                image_facts(kind.image_format(), Arc::new(open(parent).expect("opens")));
            assert_eq!(
                named.identity,
                parent_facts.expect("told").identity,
                "{what}"
            );
        }
        // qemu-img reads no differencing VDI, VHD or VHDX.
        if matches!(kind.image_format(), Format::Qcow2 | Format::Vmdk) {
            let raw = room.path().join("raw");
            write(TargetFormat::Raw, &whole, &WriteOptions::new([0; 32]), &raw).expect("written");
            let top = paths.last().expect("three files");
            faults.note(&what, qemu::compare((&raw, "raw"), (top, format)));
            for path in &paths {
                faults.note(&what, qemu::check(path, format));
            }
        }
    }
    faults.settle();
}

/// What qemu-img writes: format, options, whether content is compressed.
const BY_QEMU: [(&str, &str, bool); 43] = [
    ("raw", "preallocation=off", false),
    ("raw", "preallocation=full", false),
    ("qcow2", "compat=0.10", false),
    ("qcow2", "compat=1.1", false),
    ("qcow2", "compat=0.10", true),
    ("qcow2", "compression_type=zlib", true),
    ("qcow2", "compression_type=zstd", true),
    ("qcow2", "cluster_size=512", false),
    ("qcow2", "cluster_size=4096", true),
    ("qcow2", "cluster_size=2M", false),
    ("qcow2", "cluster_size=2M,compression_type=zstd", true),
    ("qcow2", "extended_l2=on", false),
    ("qcow2", "extended_l2=on,cluster_size=16k", false),
    ("qcow2", "extended_l2=on,compression_type=zstd", true),
    ("qcow2", "preallocation=metadata", false),
    ("qcow2", "preallocation=falloc", false),
    ("qcow2", "preallocation=full", false),
    ("qcow2", "lazy_refcounts=on", false),
    ("qcow2", "refcount_bits=1", false),
    ("qcow2", "refcount_bits=64", true),
    ("vdi", "static=off", false),
    ("vdi", "static=on", false),
    ("vmdk", "subformat=monolithicSparse", false),
    ("vmdk", "subformat=monolithicSparse,zeroed_grain=on", false),
    ("vmdk", "subformat=monolithicSparse,compat6=on", false),
    ("vmdk", "subformat=monolithicSparse,hwversion=10", false),
    ("vmdk", "subformat=monolithicSparse,adapter_type=ide", false),
    (
        "vmdk",
        "subformat=monolithicSparse,adapter_type=buslogic",
        false,
    ),
    ("vmdk", "subformat=monolithicFlat", false),
    ("vmdk", "subformat=twoGbMaxExtentSparse", false),
    ("vmdk", "subformat=twoGbMaxExtentFlat", false),
    ("vmdk", "subformat=streamOptimized", true),
    ("vpc", "subformat=dynamic", false),
    ("vpc", "subformat=dynamic,force_size=on", false),
    ("vpc", "subformat=fixed", false),
    ("vpc", "subformat=fixed,force_size=on", false),
    ("vhdx", "subformat=dynamic", false),
    ("vhdx", "subformat=fixed", false),
    ("vhdx", "block_size=1M", false),
    ("vhdx", "block_size=256M", false),
    ("vhdx", "block_state_zero=off", false),
    ("vhdx", "log_size=4M", false),
    ("vhdx", "subformat=fixed,block_size=2M", false),
];

#[test]
fn what_qemu_img_writes_with_any_option_is_what_is_read() {
    let room = tempfile::tempdir().expect("a folder");
    let raw = room.path().join("raw");
    let mut faults = Faults::default();
    for (name, disk) in disks() {
        write(TargetFormat::Raw, &disk, &WriteOptions::new([0; 32]), &raw).expect("written");
        for (number, (format, options, is_packed)) in BY_QEMU.into_iter().enumerate() {
            // Room for 4 GiB in full takes seconds and shows nothing more.
            let is_full = ["full", "fixed", "static=on", "falloc", "=metadata", "Flat"];
            if disk.len() > GIB && is_full.iter().any(|word| options.contains(word)) {
                continue;
            }
            let what = format!("{name} by qemu-img as {format} {options}");
            let image = room.path().join(format!("image-{number}.vmdk"));
            let mut words = vec!["convert", "-f", "raw", "-O", format, "-o", options];
            words.extend(is_packed.then_some("-c"));
            words.extend([qemu::word(&raw), qemu::word(&image)]);
            if let Err(reason) = qemu::run(&words) {
                // It makes no VHD and no VHDX without content, and says so.
                let is_refused = disk.is_empty() && matches!(format, "vpc" | "vhdx" | "vmdk");
                assert!(is_refused, "{what}: {reason}");
                continue;
            }
            let format = format.parse::<Format>().expect("a format");
            let ours = read(&image, format).and_then(|image| first_difference(&*image, &disk));
            faults.note(&what, same(ours));
        }
    }
    faults.settle();
}

#[test]
fn a_chain_by_qemu_img_is_read_as_one_disk() {
    let room = tempfile::tempdir().expect("a folder");
    let path = |name: &str| room.path().join(name);
    let raw = path("raw");
    let sources = chain();
    for (format, options) in [
        ("qcow2", "cluster_size=64k"),
        ("qcow2", "extended_l2=on"),
        ("qcow2", "compat=1.1,cluster_size=512"),
        ("vmdk", "subformat=monolithicSparse"),
    ] {
        let mut layers = Vec::new();
        for depth in 0..sources.len() {
            // Each state as a whole, from which qemu-img makes the file that differs.
            let stack = sources[sources.len() - 1 - depth..].to_vec();
            let whole = ImageChain::for_whole_disk(stack).expect("few layers");
            write(TargetFormat::Raw, &whole, &WriteOptions::new([0; 32]), &raw).expect("written");
            let image = path(&format!("{format}-{depth}.vmdk"));
            let below = format!("{format}-{}.vmdk", depth.wrapping_sub(1));
            let is_base = depth == 0;
            let mut words = vec!["convert", "-f", "raw", "-O", format, "-o", options];
            if !is_base {
                words.extend(["-B", &below, "-F", format]);
            }
            words.extend([qemu::word(&raw), qemu::word(&image)]);
            qemu::run(&words).expect("qemu-img makes it");
            layers.insert(
                0,
                read(&image, format.parse().expect("a format")).expect("opens"),
            );
            let ours = ImageChain::for_whole_disk(layers.clone()).expect("few layers");
            let found = first_difference(&ours, &whole).expect("read");
            assert_eq!(found, None, "{format} {options} at depth {depth}");
        }
    }
}
