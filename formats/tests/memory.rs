//! The memory that writers take, in a process of its own: 64 MiB at most for any disk.
#![cfg(target_os = "linux")]

#[path = "it/codecs.rs"]
mod codecs;
#[path = "it/disk.rs"]
#[expect(dead_code, reason = "the other tests use the rest")]
mod disk;

use std::fs::File;

use codecs::Codecs;
use disk::MadeDisk;

use vellum_core::source::ExtentKind::Data;
use vellum_formats::write::{SeekTarget, TargetFormat, WriteOptions, write_image};

const TIB: u64 = 1 << 40;
const MEMORY_MAX: u64 = 64 << 20;

/// The most memory that this process ever had, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells it");
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<u64>().ok())
        .expect("a number")
        * 1024
}

#[test]
fn no_disk_takes_more_than_64_mib_to_write() {
    let room = tempfile::tempdir().expect("a folder");
    for (len, formats) in [
        (
            20 * TIB,
            &[
                "qcow2",
                "qcow2 extended_l2=on",
                "qcow2 compression_type=zstd",
                "vdi",
                "vmdk",
                "vmdk subformat=streamOptimized",
                "vhdx",
            ][..],
        ),
        (
            TIB,
            &["raw", "vhd", "vhd subformat=fixed", "vdi subformat=fixed"],
        ),
    ] {
        let patches = [
            (0, 100 << 20, Data),
            (len / 2, 100 << 20, Data),
            (len - 512, 512, Data),
        ];
        let disk = MadeDisk::new(1, len, &patches);
        for name in formats {
            let mut words = name.split(' ');
            let format = words
                .next()
                .and_then(|name| name.parse::<TargetFormat>().ok());
            let format = words.fold(format.expect("a format"), |format, option| {
                format.with_option(option).expect("it has the option")
            });
            let path = room.path().join("image");
            let mut file = SeekTarget::new(File::create(&path).expect("made"));
            let options = WriteOptions::new([1; 32]);
            write_image(format, &disk, &options, &Codecs, &mut file).expect("written");
            std::fs::remove_file(path).expect("removed");
            let taken = peak();
            println!("{name} of {len} bytes: {} MiB", taken >> 20);
            assert!(taken <= MEMORY_MAX, "{name} of {len} bytes: {taken}");
        }
    }
}
