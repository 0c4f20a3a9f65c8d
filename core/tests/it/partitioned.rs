//! Whole disks: what lies between partitions goes, boot loaders and the ends of disks stay, and
//! each partition is looked at for itself.

use std::os::unix::fs::FileExt;
use std::path::Path;

use vellum_core::guest::FreeVerdict;

use crate::disks::RECIPES;
use crate::tools::{noise, run, run_with, text};
use crate::trimming::{surveyed, trimmed};

const MIB: u64 = 1 << 20;
/// Kinds and places of partitions, in MiB; numbers as the tables below give them.
const PARTS: [(&str, u64, u64); 5] = [
    ("fat", 2, 48),
    ("ext4", 60, 64),
    ("swap", 130, 20),
    ("LUKS", 152, 16),
    ("unknown content", 170, 4),
];
const DISK_LEN: u64 = 200 * MIB;

/// A disk of noise, with a table of the kind `label`, and partitions.
fn make(disk: &Path, label: &str) {
    noise(disk, DISK_LEN, 9);
    let places = PARTS.map(|(_, start, len)| format!("start={start}MiB, size={len}MiB"));
    let script = if label == "gpt" {
        format!("label: gpt\n{}\n", places.join("\n"))
    } else {
        let [one, two, others @ ..] = &places;
        let extended = "start=128MiB, size=60MiB, type=5";
        format!(
            "label: dos\n{one}\n{two}\n{extended}\n\n{}\n",
            others.join("\n")
        )
    };
    run_with("sfdisk", &["-q", "--wipe", "never", text(disk)], &script);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(disk)
        .expect("there");
    let part = disk.with_extension("part");
    for (kind, start, len) in PARTS {
        noise(&part, len * MIB, start);
        match kind {
            "swap" => drop(run("mkswap", &[text(&part)])),
            "LUKS" => std::fs::write(&part, [b"LUKS\xba\xbe\0\x02", &[7; 4096][..]].concat())
                .expect("room"),
            "unknown content" => {}
            kind => {
                let fits = |one: &&crate::disks::Recipe| one.kind == kind && one.len == len * MIB;
                let recipe = RECIPES.iter().find(fits).expect("there is one");
                recipe.make(&part);
                recipe.fill(&part);
            }
        }
        file.write_all_at(&std::fs::read(&part).expect("readable"), start * MIB)
            .expect("room");
    }
}

fn range(disk: &Path, start: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    let file = std::fs::File::open(disk).expect("there");
    file.read_exact_at(&mut bytes, start).expect("there");
    bytes
}

fn is_zero(disk: &Path, start: u64, len: u64) -> bool {
    range(disk, start, len).iter().all(|byte| *byte == 0)
}

#[test]
fn each_partition_and_the_gaps_are_judged_for_themselves() {
    let folder = tempfile::tempdir().expect("room");
    let disk = folder.path().join("disk");
    for (label, numbers) in [("gpt", [1, 2, 3, 4, 5]), ("dos", [1, 2, 5, 6, 7])] {
        make(&disk, label);
        let space = surveyed(&disk);
        let listed: Vec<_> = space
            .parts()
            .iter()
            .map(|part| (part.name.clone(), part.kind))
            .collect();
        let named = numbers
            .iter()
            .zip(PARTS)
            .map(|(number, (kind, ..))| (format!("partition {number}"), kind));
        let expected: Vec<_> = named
            .chain([("between the partitions".to_owned(), "no partition")])
            .collect();
        assert_eq!(listed, expected, "{label}");
        let copy = trimmed(&disk, &space);
        for (part, (kind, start, len)) in space.parts().iter().zip(PARTS) {
            let (own, kept) = (disk.with_extension("own"), disk.with_extension("kept"));
            std::fs::write(&own, range(&disk, start * MIB, len * MIB)).expect("room");
            std::fs::write(&kept, range(&copy, start * MIB, len * MIB)).expect("room");
            match kind {
                "swap" => {
                    assert_eq!(part.free, len * MIB - 4096);
                    assert_eq!(range(&own, 0, 4096), range(&kept, 0, 4096));
                    assert!(is_zero(&kept, 4096, len * MIB - 4096));
                }
                "LUKS" | "unknown content" => {
                    assert!(matches!(&part.verdict, FreeVerdict::Kept(_)), "{part:?}");
                    assert_eq!(
                        range(&own, 0, len * MIB),
                        range(&kept, 0, len * MIB),
                        "{kind}"
                    );
                }
                kind => {
                    let fits =
                        |one: &&crate::disks::Recipe| one.kind == kind && one.len == len * MIB;
                    let recipe = RECIPES.iter().find(fits).expect("there is one");
                    recipe.check(&kept);
                    assert_eq!(recipe.contents(&own), recipe.contents(&kept));
                    assert_eq!(part.free, surveyed(&own).free_len(), "{kind}");
                }
            }
        }
        // The loader before the first partition, and whatever is at the end.
        assert_eq!(range(&copy, 0, 2 * MIB), range(&disk, 0, 2 * MIB));
        assert_eq!(
            range(&copy, DISK_LEN - MIB, MIB),
            range(&disk, DISK_LEN - MIB, MIB)
        );
        // Between the first two, and behind the last.
        assert!(is_zero(&copy, 50 * MIB, 10 * MIB) && !is_zero(&disk, 50 * MIB, 10 * MIB));
        assert!(is_zero(&copy, 175 * MIB, 24 * MIB), "{label}");
        let table = |disk: &Path| {
            let said = run("sfdisk", &["-d", text(disk)]);
            said.replace(text(disk), "DISK")
        };
        assert_eq!(table(&copy), table(&disk), "{label}");
    }
}

fn put(disk: &Path, bytes: &[u8], at: u64) {
    let file = std::fs::OpenOptions::new().write(true).open(disk);
    file.and_then(|file| file.write_all_at(bytes, at))
        .expect("room");
}

/// What is said of the space between the partitions: bytes that are free, and the verdict.
fn gaps(disk: &Path) -> (u64, FreeVerdict) {
    let space = surveyed(disk);
    let mut parts = space.parts().iter();
    let part = parts
        .find(|part| part.kind == "no partition")
        .expect("listed");
    (part.free, part.verdict.clone())
}

fn kept(reason: &str) -> (u64, FreeVerdict) {
    (0, FreeVerdict::Kept(reason.to_owned()))
}

/// A disk whose two tables differ, that is a member of a RAID, or that was a file system itself.
#[test]
fn disks_that_may_be_something_else_stay() {
    let folder = tempfile::tempdir().expect("room");
    let (disk, made) = (folder.path().join("disk"), folder.path().join("made"));
    make(&made, "gpt");
    for (what, at) in [
        (&b"_BHRfS_M"[..], 65_536 + 64),
        (&[0xfc, 0x4e, 0x2b, 0xa9], DISK_LEN - 65_536),
        (b"CD001", 32_769),
    ] {
        std::fs::copy(&made, &disk).expect("room");
        assert!(gaps(&disk).0 > 0);
        put(&disk, what, at);
        let space = surveyed(&disk);
        let [part] = space.parts() else {
            panic!("{what:?}: {:?}", space.parts());
        };
        let FreeVerdict::Kept(reason) = &part.verdict else {
            panic!("{what:?}: {part:?}");
        };
        let expected = "it carries the marks of a partition table and ";
        assert!(reason.starts_with(expected), "{reason}");
        assert_eq!(space.free_len(), 0);
    }
    std::fs::copy(&made, &disk).expect("room");
    put(&disk, &[0; 512], DISK_LEN - 512);
    let reason = "the copy of its partition table is not like it";
    assert_eq!(gaps(&disk), kept(reason));
    put(&disk, &[0; 512], 512);
    let space = surveyed(&disk);
    assert_eq!((space.free_len(), space.parts().len()), (0, 1));
    let verdict = &space.parts()[0].verdict;
    assert_eq!(*verdict, kept("its partition table is damaged").1);
}

/// A partition that is a piece of a dynamic disk, that has two marks, that goes past the end; and
/// partitions that may lie somewhere else.
#[test]
fn partitions_that_may_be_something_else_stay() {
    let folder = tempfile::tempdir().expect("room");
    let (disk, made) = (folder.path().join("disk"), folder.path().join("made"));
    make(&made, "dos");
    std::fs::copy(&made, &disk).expect("room");
    put(&disk, &[0x42], 446 + 4);
    put(&disk, b"SWAPSPACE2", 60 * MIB + 4086);
    assert_eq!(gaps(&disk), kept("the disk is a piece of something else"));
    let space = surveyed(&disk);
    let parts = space.parts()[..2].iter().map(|part| (part.kind, part.free));
    let expected = [("dynamic disk", 0), ("unknown content", 0)];
    assert_eq!(parts.collect::<Vec<_>>(), expected);
    let reason = "it carries the marks of ext4 and swap";
    assert_eq!(space.parts()[1].verdict, kept(reason).1);
    // One that goes past the end.
    put(&made, &u32::MAX.to_le_bytes(), 446 + 12);
    let reason = "its partitions overlap, or go past its end";
    assert_eq!(gaps(&made), kept(reason));
    // With sectors of 4096 bytes, of which an MBR says nothing, partitions are elsewhere.
    noise(&disk, DISK_LEN, 4);
    let lost = "label: dos\nstart=3MiB, size=20MiB\n";
    run_with("sfdisk", &["-q", "--wipe", "never", text(&disk)], lost);
    assert_eq!(gaps(&disk), kept("no partition is understood"));
}

/// Shadow copies of NTFS read clusters that are free now.
#[test]
fn ntfs_with_shadow_copies_is_kept() {
    let folder = tempfile::tempdir().expect("room");
    let disk = folder.path().join("disk");
    let recipe = RECIPES
        .iter()
        .find(|one| one.kind == "ntfs")
        .expect("there is one");
    recipe.make(&disk);
    let header = [
        &0x3808_876b_u32.to_le_bytes()[..],
        &0xc176_u16.to_le_bytes(),
        &0x4e48_u16.to_le_bytes(),
        &[0xb7, 0xae, 0x04, 0x04, 0x6e, 0x6c, 0xc7, 0x52],
        &[0; 32],
        &0x10_0000_u64.to_le_bytes(),
    ]
    .concat();
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&disk)
        .expect("there");
    file.write_all_at(&header, 0x1e00).expect("room");
    let space = surveyed(&disk);
    let reason = "it has shadow copies, which read clusters that are free";
    assert_eq!(
        space.parts()[0].verdict,
        FreeVerdict::Kept(reason.to_owned())
    );
    assert_eq!(space.free_len(), 0);
    file.write_all_at(&[0; 8], 0x1e30).expect("room");
    assert!(surveyed(&disk).free_len() > 0, "their list is empty");
}
