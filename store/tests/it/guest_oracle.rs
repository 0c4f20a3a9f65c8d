//! Oracle tests of guests' free space, against the tools that make and read their disks: `mke2fs`
//! and `debugfs`, `mkfs.xfs` and `xfs_db`, `mkswap` and `sfdisk`.
//!
//! The disks are made here, so the test needs the tools (`make test` installs them) and fails
//! without. Nothing is mounted.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};

use vellum_core::guest::{FreeVerdict, GuestError, Volume, free_space, list_volumes};
use vellum_core::source::ReadAt;
use vellum_core::units::ImageId;
use vellum_formats::Format;
use vellum_store::report::{GuestFreeSpace, ReportOptions};
use vellum_store::{FileSource, ImageInput, ImportRequest, ImportTarget, Store, Unwatched};

use super::{drive, scratch};

/// Runs a tool, which must succeed, and gives what it printed.
fn run(tool: &str, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(tool)
        .args(arguments)
        .env(
            "PATH",
            format!(
                "/usr/sbin:/sbin:{}",
                std::env::var("PATH").unwrap_or_default()
            ),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!(
                "{tool} cannot be run ({error}); `make test` installs e2fsprogs, xfsprogs and fdisk"
            )
        });
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(input.as_bytes())
        .expect("the tool reads");
    let done = child.wait_with_output().expect("the tool ends");
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        done.status.success(),
        "{tool} {arguments:?}: {said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
    said
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

/// An empty file of `len` bytes.
fn empty(path: &Path, len: u64) {
    std::fs::File::create(path)
        .and_then(|file| file.set_len(len))
        .expect("room");
}

/// Free ranges of a file that is one file system.
fn free(path: &Path) -> (Option<&'static str>, Vec<Range<u64>>) {
    let disk = FileSource::open_file(path).expect("opens");
    let whole = Volume {
        partition: None,
        start: 0,
        len: disk.len(),
    };
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let kind = free_space(&disk, &whole, &mut |range| {
        assert!(
            range.start < range.end && range.end <= disk.len(),
            "{range:?}"
        );
        assert!(
            ranges.last().is_none_or(|last| last.end <= range.start),
            "{range:?} after {:?}",
            ranges.last()
        );
        match ranges.last_mut().filter(|last| last.end == range.start) {
            Some(last) => last.end = range.end,
            None => ranges.push(range),
        }
        Ok(())
    });
    let found = kind.expect("sound");
    let verdict = found.as_ref().map(|found| &found.verdict);
    assert!(
        matches!(verdict, None | Some(FreeVerdict::Free)),
        "{verdict:?}"
    );
    (found.map(|found| found.kind), ranges)
}

/// The free ranges that `dumpe2fs` prints for each group, in bytes; it knows blocks, or clusters.
fn dumped(path: &Path) -> Vec<Range<u64>> {
    let said = run("dumpe2fs", &[text(path)], "");
    let number = |key: &str| {
        said.lines()
            .find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok())
    };
    let block_len = number("Block size:").expect("dumpe2fs says it");
    let cluster_blocks = number("Cluster size:").map_or(1, |len| len / block_len);
    let end = number("Block count:").expect("dumpe2fs says it");
    let mut free = BTreeMap::new();
    for line in said
        .lines()
        .filter_map(|line| line.strip_prefix("  Free blocks: "))
    {
        for part in line.split(", ").filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let block = |text: &str| text.trim().parse::<u64>().expect("a block's number");
            // A cluster is called by its first block.
            free.insert(
                block(first) * block_len,
                (block(last) + cluster_blocks).min(end) * block_len,
            );
        }
    }
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for (start, end) in free {
        match ranges.last_mut().filter(|range| range.end == start) {
            Some(range) => range.end = end,
            None => ranges.push(start..end),
        }
    }
    ranges
}

/// Puts files of many lengths into a file system, and takes some away again.
fn fill(path: &Path, file: &Path) {
    std::fs::write(file, vec![7; 300_000]).expect("room");
    let write = (0..40).map(|nth| format!("write {} f{nth}", text(file)));
    let remove = (0..40).step_by(3).map(|nth| format!("rm f{nth}"));
    let script: Vec<String> = write.chain(remove).collect();
    run(
        "debugfs",
        &["-w", "-f", "-", text(path)],
        &script.join("\n"),
    );
}

/// Bitmaps, block for block, of every arrangement that mke2fs knows: short last groups, groups that
/// were never touched, descriptors at the front and spread out.
#[test]
fn free_blocks_of_ext_are_those_of_dumpe2fs_however_it_was_made() {
    let folder = scratch::folder();
    let (disk, file) = (folder.path().join("disk"), folder.path().join("file"));
    let made: [(&str, u64, &[&str]); 13] = [
        ("ext4", 64 << 20, &["-b", "1024"]),
        ("ext4", (300 << 20) + 5 * 4096, &["-b", "4096"]),
        ("ext4", 1 << 30, &["-b", "4096", "-O", "^64bit"]),
        (
            "ext4",
            1 << 30,
            &["-b", "4096", "-O", "^flex_bg,^resize_inode"],
        ),
        (
            "ext4",
            200 << 20,
            &["-b", "1024", "-O", "meta_bg,^resize_inode"],
        ),
        (
            "ext4",
            200 << 20,
            &["-b", "1024", "-O", "meta_bg,^resize_inode,^64bit,^flex_bg"],
        ),
        ("ext4", 200 << 20, &["-b", "2048", "-O", "sparse_super2"]),
        (
            "ext4",
            200 << 20,
            &["-b", "1024", "-O", "^sparse_super,^resize_inode"],
        ),
        (
            "ext4",
            300 << 20,
            &["-b", "4096", "-O", "^metadata_csum,uninit_bg"],
        ),
        (
            "ext4",
            400 << 20,
            &["-b", "4096", "-O", "bigalloc", "-C", "65536"],
        ),
        ("ext4", 90 << 20, &["-b", "1024", "-g", "1024"]),
        ("ext3", 100 << 20, &["-b", "1024"]),
        ("ext2", 50 << 20, &["-b", "4096", "-r", "1"]),
    ];
    for (kind, len, options) in made {
        empty(&disk, len);
        run(
            "mke2fs",
            &[&["-q", "-F", "-t", kind], options, &[text(&disk)]].concat(),
            "",
        );
        for what in ["new", "used"] {
            let (found, ranges) = free(&disk);
            assert_eq!(found, Some(kind), "{options:?}");
            assert_eq!(ranges, dumped(&disk), "{kind} {options:?}, {what}");
            fill(&disk, &file);
        }
    }
}

/// Bytes that the headers of the allocation groups call free.
fn xfs_free(path: &Path) -> u64 {
    let number = |command: &str, field: &str| {
        let said = run(
            "xfs_db",
            &[
                "-r",
                "-c",
                command,
                "-c",
                &format!("print {field}"),
                text(path),
            ],
            "",
        );
        said.trim()
            .rsplit(' ')
            .next()
            .and_then(|number| number.parse::<u64>().ok())
            .expect("a number")
    };
    let groups = number("sb 0", "agcount");
    (0..groups)
        .map(|group| number(&format!("agf {group}"), "freeblks"))
        .sum::<u64>()
        * number("sb 0", "blocksize")
}

#[test]
fn free_blocks_of_xfs_are_those_of_xfs_db() {
    let folder = scratch::folder();
    let (disk, proto, file) = (
        folder.path().join("disk"),
        folder.path().join("proto"),
        folder.path().join("file"),
    );
    std::fs::write(&file, vec![7; 99_000]).expect("room");
    for options in [&["-m", "crc=1"][..], &["-m", "crc=0"]] {
        empty(&disk, 400 << 20);
        let files: Vec<String> = (0..300)
            .map(|nth| format!("f{nth} ---644 0 0 {}", text(&file)))
            .collect();
        std::fs::write(
            &proto,
            format!("/boot 0 0\nd--755 0 0\n{}\n$\n", files.join("\n")),
        )
        .expect("room");
        run(
            "mkfs.xfs",
            &[&["-q", "-f", "-p", text(&proto)], options, &[text(&disk)]].concat(),
            "",
        );
        let (kind, ranges) = free(&disk);
        assert_eq!(kind, Some("xfs"));
        assert_eq!(
            ranges
                .iter()
                .map(|range| range.end - range.start)
                .sum::<u64>(),
            xfs_free(&disk),
            "{options:?}"
        );
    }
}

/// A disk with all that is known, in GPT or MBR partitions, filled so that a part of what is free
/// is held as data.
#[test]
fn what_could_be_dropped_is_what_is_free_and_data() {
    let folder = scratch::folder();
    let store: Store = scratch::store_in(&folder.path().join("store"), scratch::ZSTD);
    let (disk, part) = (folder.path().join("disk"), folder.path().join("part"));
    for (label, numbers) in [("gpt", [1, 2, 3]), ("dos", [1, 5, 6])] {
        let found = partitioned(&disk, label);
        assert_eq!(
            found
                .iter()
                .filter_map(|volume| volume.partition)
                .collect::<Vec<_>>(),
            numbers,
            "{label}"
        );
        format_volume(&disk, &found[0], &part, "mke2fs");
        let (free_len, held_len) = free_and_held(&part);
        format_volume(&disk, &found[1], &part, "mkswap");
        let image = import_disk(&store, &disk, label);
        let swap_len = found[1].len - 4096;
        assert_eq!(
            droppable(&store, label),
            [
                expected_entry(label, &found[0], "ext4", (free_len, held_len)),
                expected_entry(label, &found[1], "swap", (swap_len, swap_len))
            ],
            "{label}"
        );
        // A guest that drops it all.
        let live = store.open_live(image).expect("live");
        live.write_zeroes(found[1].start, found[1].len - 8192)
            .and_then(|()| live.write_zeroes(found[0].start + (50 << 20), 40 << 20))
            .expect("zeroed");
        live.flush().expect("room");
        drop(live);
        let left = droppable(&store, label);
        assert!(
            left.iter()
                .all(|entry| entry.kind == "ext4" && entry.held < entry.free)
        );
    }
}

/// The volumes of a new disk, in partitions of the kind that `label` names.
fn partitioned(disk: &Path, label: &str) -> Vec<Volume> {
    empty(disk, 256 << 20);
    let second = if label == "dos" {
        "start=206848, type=5\n start=208896, size=20480\n start=231424, size=20480"
    } else {
        "size=20480\n size=20480"
    };
    run(
        "sfdisk",
        &["-q", text(disk)],
        &format!("label: {label}\n size=204800\n {second}\n"),
    );
    let source = FileSource::open_file(disk).expect("opens");
    list_volumes(&source).expect("readable")
}

/// Lets `tool` format `part`, a file of a volume's length full of noise, and puts it into the
/// volume.
fn format_volume(disk: &Path, volume: &Volume, part: &Path, tool: &str) {
    empty(part, volume.len);
    // Noise where nothing will be: blocks that a file system never wrote, and would not read.
    let mut bytes = vec![0; volume.len as usize];
    fastrand::Rng::with_seed(volume.start).fill(&mut bytes);
    std::fs::write(part, &bytes).expect("room");
    let options: &[&str] = if tool == "mke2fs" {
        &["-q", "-F", "-t", "ext4", "-b", "4096", "-E", "nodiscard"]
    } else {
        &[]
    };
    run(tool, &[options, &[text(part)]].concat(), "");
    std::fs::File::open(part)
        .and_then(|mut part| part.read_exact(&mut bytes))
        .expect("readable");
    let mut whole = std::fs::OpenOptions::new()
        .write(true)
        .open(disk)
        .expect("opens");
    whole
        .seek(SeekFrom::Start(volume.start))
        .and_then(|_| whole.write_all(&bytes))
        .expect("room");
}

/// Bytes of a file system that are free, and bytes of those chunks of them that are not zero.
fn free_and_held(part: &Path) -> (u64, u64) {
    let bytes = std::fs::read(part).expect("readable");
    let (_, ranges) = free(part);
    let chunks = ranges.into_iter().flat_map(|range| range.step_by(4096));
    let (mut free_len, mut held_len) = (0, 0);
    for chunk in chunks.map(|at| &bytes[at as usize..][..4096]) {
        free_len += 4096;
        held_len += if chunk.iter().any(|byte| *byte != 0) {
            4096
        } else {
            0
        };
    }
    (free_len, held_len)
}

fn import_disk(store: &Store, disk: &Path, text: &str) -> ImageId {
    let input = ImageInput::open_whole(disk, Format::Raw, None).expect("opens");
    let request = ImportRequest {
        target: ImportTarget::New {
            name: drive::name(text),
            parent: None,
        },
        snapshot: None,
    };
    let report = store.import(input, &request, &Unwatched).expect("imported");
    report.node.image_id()
}

/// Droppable volumes of one image, as the report lists them.
fn droppable(store: &Store, image: &str) -> Vec<GuestFreeSpace> {
    let options = ReportOptions {
        rows_max: 1,
        most_shared_max: 0,
        strip_cells: 1,
        file_systems: true,
    };
    let report = store.report_space(&options, &Unwatched).expect("readable");
    let entries = report.droppable.into_iter();
    entries.filter(|entry| entry.image == image).collect()
}

fn expected_entry(
    image: &str,
    volume: &Volume,
    kind: &'static str,
    (free, held): (u64, u64),
) -> GuestFreeSpace {
    GuestFreeSpace {
        image: image.to_owned(),
        partition: volume.partition,
        start: volume.start,
        len: volume.len,
        kind,
        free,
        held,
    }
}

/// A few changed bytes in a real file system: an answer or an error, in bounds, and soon.
#[test]
fn a_damaged_file_system_is_refused_or_read_in_bounds() {
    let seed = std::env::var("VELLUM_TEST_SEED")
        .map_or_else(|_| fastrand::u64(..), |seed| seed.parse().expect("a seed"));
    println!("VELLUM_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = scratch::folder();
    let disk = folder.path().join("disk");
    empty(&disk, 8 << 20);
    run(
        "mke2fs",
        &[
            "-q",
            "-F",
            "-t",
            "ext4",
            "-b",
            "1024",
            "-g",
            "1024",
            text(&disk),
        ],
        "",
    );
    let good = std::fs::read(&disk).expect("readable");
    for _ in 0..300 {
        let mut bytes = good.clone();
        for _ in 0..random.usize(1..6) {
            // The superblock, or the descriptors behind it.
            let at = if random.bool() {
                1024 + random.usize(..360)
            } else {
                2048 + random.usize(..1024)
            };
            bytes[at] = random.u8(..);
        }
        std::fs::write(&disk, &bytes).expect("room");
        let source = FileSource::open_file(&disk).expect("opens");
        let whole = Volume {
            partition: None,
            start: 0,
            len: source.len(),
        };
        let mut end = 0;
        let done = free_space(&source, &whole, &mut |range| {
            assert!(
                range.start >= end && range.start < range.end && range.end <= whole.len,
                "{range:?} after {end}"
            );
            end = range.end;
            Ok(())
        });
        assert!(!matches!(done, Err(GuestError::Io(_))), "{done:?}");
    }
}
