//! What is dropped is free, and nothing else: by the file system's own checker, by a hash of every
//! file, and by its own count of what is free.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vellum_core::guest::{FreeSpace, FreeVerdict, SourceDisk, TrimmedSource, survey_disk};
use vellum_core::source::{ExtentKind, ImageSource};

use crate::disks::{MARKER, RECIPES, Recipe};
use crate::tools::{FileDisk, noise, run, text};

/// What may be dropped of a file.
pub(crate) fn surveyed(disk: &Path) -> FreeSpace {
    let source = FileDisk::open(disk);
    let disk = SourceDisk::new(&source, &|| false);
    survey_disk(&disk).expect("a file can be read")
}

/// The same disk without what may be dropped, as an import stores it.
pub(crate) fn trimmed(disk: &Path, space: &FreeSpace) -> PathBuf {
    let source = TrimmedSource::new(Arc::new(FileDisk::open(disk)), space.free_ranges().to_vec());
    let out = disk.with_extension("trimmed");
    let file = File::create(&out).expect("room");
    file.set_len(source.len()).expect("room");
    let mut at = 0;
    while at < source.len() {
        let extent = source.extent_at(at).expect("readable");
        let mut bytes = vec![0; extent.len as usize];
        source.read_at(&mut bytes, at).expect("readable");
        match extent.kind {
            ExtentKind::Data => file.write_all_at(&bytes, at).expect("room"),
            _ => assert!(bytes.iter().all(|byte| *byte == 0), "zero at {at}"),
        }
        at = extent.end_offset();
    }
    out
}

pub(crate) fn has_marker(disk: &Path) -> bool {
    let bytes = std::fs::read(disk).expect("readable");
    bytes.windows(MARKER.len()).any(|window| window == MARKER)
}

fn prove(recipe: &Recipe, disk: &Path) {
    let name = recipe.name();
    recipe.make(disk);
    let is_filled = recipe.fill(disk);
    recipe.check(disk);
    assert_eq!(
        has_marker(disk),
        is_filled,
        "{name}: old content lies where nothing is"
    );
    let space = surveyed(disk);
    let [part] = space.parts() else {
        panic!("{name}: {:?}", space.parts());
    };
    assert_eq!(
        (part.kind, &part.verdict),
        (recipe.kind, &FreeVerdict::Free),
        "{name}"
    );
    assert_eq!(part.free, space.free_len(), "{name}");
    println!(
        "{name}: {} of {} bytes are free, filled: {is_filled}",
        part.free, recipe.len
    );
    assert!(
        part.free > recipe.len / 4,
        "{name}: only {} bytes",
        part.free
    );
    if let Some(counted) = recipe.counted(disk) {
        assert_eq!(part.free, counted, "{name}: as its own programs count");
    }
    let copy = trimmed(disk, &space);
    recipe.check(&copy);
    assert!(!has_marker(&copy), "{name}: what was deleted is gone");
    let contents = recipe.contents(disk);
    assert_eq!(contents, recipe.contents(&copy), "{name}");
    let is_known = contents.is_some_and(|contents| contents.len() >= 20);
    assert!(
        is_known || !is_filled,
        "{name}: files were held against each other"
    );
}

fn prove_all(kinds: &[&str]) {
    let folder = tempfile::tempdir().expect("room");
    for recipe in RECIPES.iter().filter(|recipe| kinds.contains(&recipe.kind)) {
        prove(recipe, &folder.path().join("disk"));
    }
}

#[test]
fn what_ext_does_not_use_goes_and_every_file_stays() {
    prove_all(&["ext2", "ext3", "ext4"]);
}

#[test]
fn what_xfs_does_not_use_goes_and_every_file_stays() {
    prove_all(&["xfs"]);
}

#[test]
fn what_ntfs_does_not_use_goes_and_every_file_stays() {
    prove_all(&["ntfs"]);
}

#[test]
fn what_fat_does_not_use_goes_and_every_file_stays() {
    prove_all(&["fat"]);
}

#[test]
fn what_exfat_does_not_use_goes_and_every_file_stays() {
    prove_all(&["exfat"]);
}

#[test]
fn what_btrfs_does_not_use_goes_and_every_file_stays() {
    prove_all(&["btrfs"]);
}

/// Only one device of several is here: what lies on it means nothing alone.
#[test]
fn btrfs_on_several_devices_is_kept_by_name() {
    let folder = tempfile::tempdir().expect("room");
    let disks = ["one", "two"].map(|name| folder.path().join(name));
    disks.iter().for_each(|disk| noise(disk, 256 << 20, 1));
    for profile in ["raid1", "raid0", "single"] {
        let words = [
            "-qfK",
            "-d",
            profile,
            "-m",
            "raid1",
            text(&disks[0]),
            text(&disks[1]),
        ];
        run("mkfs.btrfs", &words);
        for disk in &disks {
            let space = surveyed(disk);
            let kept = FreeVerdict::Kept("it is on several devices".to_owned());
            assert_eq!(
                (space.parts()[0].kind, &space.parts()[0].verdict),
                ("btrfs", &kept)
            );
            assert_eq!(space.free_len(), 0);
        }
    }
}
