//! How fast images are written, beside `qemu-img convert`, with all files in the page cache. Not a
//! test: figures for whoever changes the writers.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::codecs::Codecs;
use crate::disk::MadeDisk;
use crate::files::open;
use crate::qemu;
use vellum_core::source::ExtentKind::Data;
use vellum_formats::write::{SeekTarget, TargetFormat, WriteOptions, write_image};
use vellum_formats::{Format, NoCompanions};

const GIB: u64 = 1 << 30;
const ROUNDS: usize = 3;

fn target(name: &str, option: Option<&str>) -> TargetFormat {
    let format = name.parse::<TargetFormat>().expect("a format");
    option.map_or(format, |option| {
        format.with_option(option).expect("it has the option")
    })
}

fn ours(from: &Path, format: Format, kind: TargetFormat, to: &Path) {
    let file = Arc::new(open(from).expect("opens"));
    let source = vellum_formats::open_image(format, file, Arc::new(Codecs), &NoCompanions);
    let source = source.expect("an image");
    let mut file = SeekTarget::new(File::create(to).expect("made"));
    write_image(
        kind,
        &*source,
        &WriteOptions::new([1; 32]),
        &Codecs,
        &mut file,
    )
    .expect("written");
}

/// Processor time of this process and of the children that it waited for, in hundredths of a
/// second: what a busy machine does not change.
fn processor_time() -> (u64, u64) {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux tells it");
    let fields: Vec<_> = stat.split_whitespace().collect();
    let field = |number: usize| fields[number].parse::<u64>().expect("a number");
    (field(13) + field(14), field(15) + field(16))
}

fn median(mut run: impl FnMut()) -> Duration {
    let mut times = [(); ROUNDS].map(|()| {
        let started = Instant::now();
        run();
        started.elapsed()
    });
    times.sort();
    times[ROUNDS / 2]
}

#[test]
#[ignore = "figures, not a test; a minute"]
fn figures_beside_qemu_img() {
    let room = tempfile::tempdir().expect("a folder");
    let (raw, packed, image) = (
        room.path().join("raw"),
        room.path().join("packed"),
        room.path().join("image"),
    );
    let disk = MadeDisk::new(1, 2 * GIB, &[(0, GIB / 2, Data), (GIB, GIB / 2, Data)]);
    let mut file = SeekTarget::new(File::create(&raw).expect("made"));
    let options = WriteOptions::new([1; 32]);
    write_image(TargetFormat::Raw, &disk, &options, &Codecs, &mut file).expect("written");
    ours(
        &raw,
        Format::Raw,
        target("qcow2", Some("compression_type=zlib")),
        &packed,
    );
    for (from, from_format, name, option, qemu_words) in [
        (&raw, "raw", "qcow2", None, &[][..]),
        (&raw, "raw", "vdi", None, &[]),
        (&raw, "raw", "vhdx", None, &[]),
        (&raw, "raw", "qcow2", Some("compression_type=zlib"), &["-c"]),
        (&packed, "qcow2", "raw", None, &[]),
        (
            &packed,
            "qcow2",
            "vmdk",
            Some("subformat=streamOptimized"),
            &[],
        ),
    ] {
        let kind = target(name, option);
        let format = from_format.parse().expect("a format");
        let before = processor_time();
        let by_us = median(|| {
            let _ = std::fs::remove_file(&image);
            ours(from, format, kind, &image);
        });
        let own_len = std::fs::metadata(&image).expect("written").len();
        let by_qemu = median(|| {
            let _ = std::fs::remove_file(&image);
            let mut words = vec!["convert", "-f", from_format, "-O", name];
            words.extend(option.into_iter().flat_map(|option| ["-o", option]));
            words.extend(qemu_words);
            words.extend([qemu::word(from), qemu::word(&image)]);
            qemu::run(&words).expect("converted");
        });
        let after = processor_time();
        let ratio = (after.1 - before.1) as f64 / (after.0 - before.0) as f64;
        println!(
            "{from_format} to {name} {option:?}: {:.2} s, qemu-img {:.2} s, ratio {:.2}; \
             processor time {ratio:.2}; length {:.3}",
            by_us.as_secs_f64(),
            by_qemu.as_secs_f64(),
            by_qemu.as_secs_f64() / by_us.as_secs_f64(),
            own_len as f64 / std::fs::metadata(&image).expect("written").len() as f64,
        );
    }
}
