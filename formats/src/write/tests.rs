//! Images that are written read as their sources did, whatever they are written to. That other
//! programs read them so too is shown by `tests/it/fidelity.rs`.

use std::io::Cursor;
use std::sync::Arc;

use super::*;
use crate::double::{Patchwork, RealCodecs};
use crate::{NoCompanions, image_facts, open_over_parent};
use vellum_core::source::ExtentKind::{self, Absent, Data, Zero};

/// Every variant, in the words of `-O` and `-o`.
const VARIANTS: [(&str, &[&str]); 17] = [
    ("raw", &[]),
    ("qcow2", &[]),
    ("qcow2", &["cluster_size=512"]),
    ("qcow2", &["cluster_size=2097152"]),
    ("qcow2", &["compression_type=zlib"]),
    ("qcow2", &["compression_type=zstd"]),
    ("qcow2", &["compression_type=zlib", "cluster_size=4096"]),
    ("qcow2", &["extended_l2=on"]),
    ("qcow2", &["extended_l2=on", "cluster_size=16384"]),
    ("qcow2", &["extended_l2=on", "compression_type=zstd"]),
    ("vdi", &[]),
    ("vdi", &["static=on"]),
    ("vmdk", &[]),
    ("vmdk", &["subformat=streamOptimized"]),
    ("vhd", &[]),
    ("vpc", &["subformat=fixed"]),
    ("vhdx", &[]),
];

fn variants() -> impl Iterator<Item = TargetFormat> {
    VARIANTS.into_iter().map(|(name, options)| {
        let format = name.parse::<TargetFormat>().expect("a format");
        options
            .iter()
            .try_fold(format, |format, option| format.with_option(option))
            .expect("it has the option")
    })
}

fn holds_no_empty_disk(format: TargetFormat) -> bool {
    matches!(
        format,
        TargetFormat::Vmdk(_) | TargetFormat::Vhd(_) | TargetFormat::Vhdx
    )
}

fn is_compressed(format: TargetFormat) -> bool {
    matches!(format, TargetFormat::Qcow2(kind) if kind.codec.is_some())
        || format == TargetFormat::Vmdk(VmdkKind::StreamOptimized)
}

fn written(format: TargetFormat, disk: &dyn ImageSource, options: &WriteOptions) -> Vec<u8> {
    let mut file = Vec::new();
    let told = write_image(format, disk, options, &RealCodecs, &mut file)
        .unwrap_or_else(|error| panic!("{format:?}: {error}"));
    assert_eq!(told.file_len, file.len() as u64, "{format:?}");
    file
}

fn opened(format: TargetFormat, file: Vec<u8>) -> Arc<dyn ImageSource> {
    let codecs = Arc::new(RealCodecs);
    open_over_parent(format.image_format(), Arc::new(file), codecs, &NoCompanions)
        .unwrap_or_else(|error| panic!("{format:?}: {error}"))
        .into()
}

/// The first byte at which they differ; `right` may be shorter, then zeros follow.
fn first_difference(left: &dyn ImageSource, right: &dyn ImageSource) -> Option<u64> {
    let whole = |source: &dyn ImageSource| {
        let mut bytes = vec![0; source.len() as usize];
        source.read_at(&mut bytes, 0).expect("read");
        bytes.resize(left.len() as usize, 0);
        bytes
    };
    let pairs = whole(left).into_iter().zip(whole(right));
    pairs
        .enumerate()
        .find(|(_, (a, b))| a != b)
        .map(|(at, _)| at as u64)
}

fn disks() -> Vec<Patchwork> {
    let all: [&[(u64, ExtentKind)]; 7] = [
        &[],
        &[(1, Data)],
        &[(1000, Zero), (11, Data), (513, Absent)],
        &[(3 << 20, Absent)],
        &[
            (100_000, Data),
            (3 << 20, Absent),
            (70_000, Data),
            (1 << 20, Zero),
        ],
        &[(1 << 20, Data), (1 << 20, Zero), (1 << 20, Data)],
        &[
            (4096, Data),
            (4096, Zero),
            (512, Data),
            (2 << 20, Absent),
            (512, Data),
        ],
    ];
    all.map(Patchwork::new).into()
}

#[test]
fn what_is_written_reads_as_it_was() {
    for format in variants() {
        for (number, disk) in disks().into_iter().enumerate() {
            if disk.is_empty() && holds_no_empty_disk(format) {
                continue;
            }
            let image = opened(format, written(format, &disk, &WriteOptions::new([3; 32])));
            let unit = if format == TargetFormat::Raw { 1 } else { 512 };
            assert_eq!(
                image.len(),
                disk.len().next_multiple_of(unit),
                "{format:?} {number}"
            );
            let difference = first_difference(&*image, &disk);
            assert_eq!(difference, None, "{format:?}, disk {number}");
        }
    }
}

#[test]
fn every_target_gets_the_same_bytes() {
    for format in variants() {
        let (disk, options) = (&disks()[4], WriteOptions::new([3; 32]));
        let expected = written(format, disk, &options);
        let mut file = SeekTarget::new(Cursor::new(Vec::new()));
        write_image(format, disk, &options, &RealCodecs, &mut file).expect("written");
        assert!(
            file.into_inner().into_inner() == expected,
            "{format:?} to a file"
        );
        let mut stream = StreamTarget::new(Vec::new());
        let done = write_image(format, disk, &options, &RealCodecs, &mut stream);
        assert_eq!(done.is_ok(), format.is_stream(), "{format:?} to a stream");
        if format.is_stream() {
            assert!(stream.into_inner() == expected, "{format:?} to a stream");
        }
        let needs_codec = write_image(format, disk, &options, &NoEncoder, &mut Vec::new());
        assert_eq!(needs_codec.is_err(), is_compressed(format), "{format:?}");
    }
}

/// Layers as a writer gets them: `below` first.
fn chain() -> Vec<Arc<dyn ImageSource>> {
    let base: &[_] = &[(2 << 20, Data), (512 << 10, Absent), (5 << 20, Data)];
    let middle: &[_] = &[
        (700, Absent),
        (900, Data),
        (1 << 20, Zero),
        (6 << 20, Absent),
    ];
    let top: &[_] = &[
        (1 << 20, Absent),
        (512, Zero),
        (513, Data),
        (4 << 20, Absent),
        (3 << 20, Zero),
    ];
    [base, middle, top]
        .map(|stretches| Arc::new(Patchwork::new(stretches)) as Arc<dyn ImageSource>)
        .into()
}

#[test]
fn a_chain_of_children_reads_as_the_layers_they_were_made_of() {
    for format in ["qcow2", "vdi", "vmdk", "vhd", "vhdx"].map(|name| name.parse().expect("known")) {
        let mut formats = vec![format];
        formats.extend(TargetFormat::with_option(format, "extended_l2=on"));
        formats.extend(TargetFormat::with_option(format, "compression_type=zlib"));
        for format in formats {
            check_chain(format);
        }
    }
}

fn check_chain(format: TargetFormat) {
    let sources = chain();
    let mut parent: Option<ParentLink> = None;
    let mut layers: Vec<Arc<dyn ImageSource>> = Vec::new();
    for depth in 0..sources.len() {
        let stack: Vec<_> = sources[..=depth].iter().rev().cloned().collect();
        let child = crate::chain::ImageChain::for_child(stack.clone()).expect("few layers");
        let mut options = WriteOptions::new([depth as u8; 32]);
        options.parent = parent.take();
        let mut file = Vec::new();
        let told = write_image(format, &child, &options, &RealCodecs, &mut file).expect("written");
        let facts = image_facts(format.image_format(), Arc::new(file.clone())).expect("told");
        assert_eq!(facts.identity, told.identity, "{format:?}");
        let named = facts.parent.map(|parent| parent.identity);
        let given = options.parent.map(|parent| parent.identity);
        assert_eq!(named, given, "{format:?}");
        layers.insert(0, opened(format, file));
        let ours = crate::chain::ImageChain::for_whole_disk(layers.clone()).expect("few layers");
        let theirs = crate::chain::ImageChain::for_whole_disk(stack).expect("few layers");
        assert_eq!(
            first_difference(&ours, &theirs),
            None,
            "{format:?} at depth {depth}"
        );
        parent = Some(ParentLink {
            path: format!("layer-{depth}"),
            identity: told.identity,
            format: Some(format.image_format().format_name().to_owned()),
        });
    }
    // A file that holds only what differs is not longer than one that holds everything.
    assert!(
        layers[0].extent_at(2 << 20).expect("told").kind == Absent,
        "{format:?}"
    );
}

#[test]
fn a_fixed_image_or_a_stream_has_no_parent_and_a_name_no_quotes() {
    let mut options = WriteOptions::new([1; 32]);
    options.parent = Some(ParentLink {
        path: "base".to_owned(),
        identity: Some(DiskIdentity::Uuid([1; 16])),
        format: None,
    });
    let refused = |format, options: &WriteOptions| {
        let mut file = Vec::new();
        let done = write_image(format, &disks()[1], options, &RealCodecs, &mut file);
        matches!(done, Err(ImageWriteError::Impossible { .. })) && file.is_empty()
    };
    assert!(refused(TargetFormat::Raw, &options));
    assert!(refused(TargetFormat::Vdi(Allocation::Fixed), &options));
    assert!(refused(TargetFormat::Vhd(Allocation::Fixed), &options));
    assert!(refused(
        TargetFormat::Vmdk(VmdkKind::StreamOptimized),
        &options
    ));
    let sparse = TargetFormat::Vmdk(VmdkKind::MonolithicSparse);
    assert!(refused(sparse, &options), "its parent has no content id");
    options.parent = None;
    options.file_name = Some("a\"b".to_owned());
    assert!(refused(sparse, &options));
}

#[test]
fn an_option_that_a_format_does_not_have_is_refused_with_those_that_it_has() {
    for (format, option) in [
        ("raw", "subformat=fixed"),
        ("vdi", "on"),
        ("vhd", "=on"),
        ("vhd", "static=on"),
        ("qcow2", "cluster_size=3"),
        ("qcow2", "cluster_size=4194304"),
        ("qcow2", "compression_type=lzma"),
        ("vmdk", "subformat=monolithicFlat"),
        ("vhdx", "subformat=fixed"),
    ] {
        let format = format.parse::<TargetFormat>().expect("a format");
        let error = format.with_option(option).expect_err("refused");
        assert!(error.to_string().contains("there is") || error.to_string().contains("there are"));
    }
}
