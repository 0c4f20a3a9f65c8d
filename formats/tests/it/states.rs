//! Internal snapshots and persistent bitmaps of qcow2 images that qemu made, and its images of more
//! than 2 TiB.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use crate::codecs::Codecs;
use crate::disk::first_difference;
use crate::files::{Beside, open};
use crate::qemu;
use vellum_core::change_map::ChangeKind::{Data, Same};
use vellum_formats::{
    Format, bitmap_changes, dirty_bitmaps, internal_snapshots, open_internal_snapshot,
};

/// Writes into a qcow2 as a guest would.
fn write(image: &Path, command: &str) {
    write_as("qcow2", image, command);
}

fn write_as(format: &str, image: &Path, command: &str) {
    let mut qemu_io = Command::new("qemu-io");
    let status = qemu_io
        .args(["-f", format, "-c", command])
        .arg(image)
        .output();
    let output = status.expect("qemu-io is needed here: install qemu-utils");
    assert!(output.status.success(), "{command}: {output:?}");
}

fn run(words: &[&str]) {
    qemu::run(words).expect("qemu-img does it");
}

#[test]
fn internal_snapshots_are_the_states_that_qemu_kept() {
    for options in [
        "compat=1.1",
        "compat=0.10",
        "extended_l2=on",
        "cluster_size=512",
    ] {
        let room = tempfile::tempdir().expect("a folder");
        let (image, raw) = (room.path().join("image"), room.path().join("raw"));
        let word = qemu::word(&image);
        run(&["create", "-f", "qcow2", "-o", options, word, "20M"]);
        write(&image, "write -P 1 0 3M");
        run(&["snapshot", "-c", "before", word]);
        write(&image, "write -P 2 1M 6M");
        // qemu gives an image of version 2 with snapshots no other length.
        let len = if options == "compat=0.10" { 20 } else { 33 };
        if len > 20 {
            run(&["resize", "-f", "qcow2", word, "33M"]);
        }
        run(&["snapshot", "-c", "with a space", word]);
        write(&image, "write -z 2M 15M");
        let file = Arc::new(open(&image).expect("opens"));
        let snapshots = internal_snapshots(&*file).expect("told");
        let told: Vec<_> = snapshots
            .iter()
            .map(|state| (state.name.as_str(), state.len))
            .collect();
        assert_eq!(
            told,
            [("before", 20 << 20), ("with a space", len << 20)],
            "{options}"
        );
        for state in &snapshots {
            let words = [
                "convert",
                "-f",
                "qcow2",
                "-l",
                &state.name,
                "-O",
                "raw",
                word,
                qemu::word(&raw),
            ];
            run(&words);
            let ours =
                open_internal_snapshot(file.clone(), Arc::new(Codecs), state).expect("opens");
            let theirs = vellum_formats::open_image(
                Format::Raw,
                Arc::new(open(&raw).expect("opens")),
                Arc::new(Codecs),
                &Beside(room.path().to_owned()),
            );
            // qemu-img makes a file of the image's present length, whatever the snapshot's was.
            let found = first_difference(&*ours, &*theirs.expect("raw")).expect("read");
            assert_eq!(
                found.filter(|at| *at < state.len),
                None,
                "{options} {}",
                state.name
            );
            assert!(!ours.is_empty());
        }
    }
}

#[test]
fn a_persistent_bitmap_tells_what_was_written_since() {
    let room = tempfile::tempdir().expect("a folder");
    let image = room.path().join("image");
    let word = qemu::word(&image);
    run(&["create", "-f", "qcow2", word, "10000001K"]);
    write(&image, "write -P 1 0 1M");
    run(&["bitmap", "--add", "-g", "64k", word, "fine"]);
    write(&image, "write -P 1 128k 1");
    run(&["bitmap", "--add", "-g", "1M", word, "coarse"]);
    write(&image, "write -P 1 9G 3M");
    run(&["bitmap", "--add", "--disable", word, "off"]);
    write(&image, "write -P 1 0 1M");
    let file = open(&image).expect("opens");
    let bitmaps = dirty_bitmaps(&file).expect("told");
    let names: Vec<_> = bitmaps
        .iter()
        .map(|bitmap| (bitmap.name.as_str(), bitmap.is_enabled))
        .collect();
    assert_eq!(names, [("fine", true), ("coarse", true), ("off", false)]);
    let len = 10_000_001_u64 << 10;
    let changes = |index: usize| -> Vec<_> {
        let map = bitmap_changes(&file, &bitmaps[index]).expect("told");
        assert_eq!(map.len(), len);
        map.ranges()
            .iter()
            .map(|range| (range.start, range.len, range.kind))
            .collect()
    };
    let after = 9 * (1_u64 << 30) + (3 << 20);
    let ends = |first: u64| {
        vec![
            (0, first, Data),
            (first, (9 << 30) - first, Same),
            (9 << 30, 3 << 20, Data),
            (after, len - after, Same),
        ]
    };
    assert_eq!(changes(0), ends(1 << 20));
    assert_eq!(changes(1), ends(1 << 20));
    assert_eq!(changes(2), [(0, len, Same)]);
}

#[test]
fn disks_of_more_than_2_tib_that_qemu_wrote_are_read() {
    let room = tempfile::tempdir().expect("a folder");
    for (format, len) in [
        ("qcow2", "20T"),
        ("vdi", "3T"),
        ("vmdk", "3T"),
        ("vhdx", "60T"),
    ] {
        let image = room.path().join("image");
        run(&["create", "-f", format, qemu::word(&image), len]);
        let places = [0, (2_u64 << 40) - 512, (3 << 40) - 65_536];
        for place in places {
            write_as(format, &image, &format!("write -P 7 {place} 1k"));
        }
        let file = Arc::new(open(&image).expect("opens"));
        let beside = Beside(room.path().to_owned());
        let format: Format = format.parse().expect("a format");
        let ours =
            vellum_formats::open_image(format, file, Arc::new(Codecs), &beside).expect("opens");
        assert!(ours.len() >= 3 << 40, "{format}: {}", ours.len());
        for place in places {
            let mut bytes = [0; 1026];
            ours.read_at(&mut bytes, place).expect("read");
            assert_eq!(bytes[..1024], [7; 1024], "{format} at {place}");
            assert_eq!(bytes[1024..], [0; 2], "{format} behind {place}");
        }
    }
}
