//! File systems that were copied while they were mounted, or that say of themselves that they are
//! not sound: refused by name, unless what is on the disk is whole without their journal.

use std::os::unix::fs::FileExt;
use std::path::Path;

use vellum_core::guest::FreeVerdict;

use crate::disks::{MARKER, RECIPES, Recipe, fill_folder};
use crate::tools::{Mounted, output, run, text};
use crate::trimming::{surveyed, trimmed};

/// The first recipe of a kind.
fn recipe_of(kind: &str) -> &'static Recipe {
    let found = RECIPES.iter().find(|recipe| recipe.kind == kind);
    found.expect("there is one")
}

/// The reason why nothing of `disk` may be dropped.
#[track_caller]
fn refused(disk: &Path) -> String {
    let space = surveyed(disk);
    assert_eq!(
        space.free_len(),
        0,
        "nothing is offered: {:?}",
        space.parts()
    );
    let reasons: Vec<String> = space
        .unclean_parts()
        .map(|part| match &part.verdict {
            FreeVerdict::Unclean(reason) => format!("{}: {reason}", part.kind),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(reasons.len(), 1, "{:?}", space.parts());
    reasons.concat()
}

fn write(disk: &Path, at: u64, bytes: &[u8]) {
    let file = std::fs::OpenOptions::new().write(true).open(disk);
    file.and_then(|file| file.write_all_at(bytes, at))
        .expect("room");
}

/// A copy of the disk that is taken while files are written and deleted on it.
fn copied_while_mounted(kind: &str, disk: &Path) -> bool {
    recipe_of(kind).make(disk);
    let Some(mounted) = Mounted::new(disk, kind, "rw") else {
        return false;
    };
    fill_folder(&mounted.folder);
    std::fs::copy(disk, disk.with_extension("copy")).expect("room");
    true
}

#[test]
fn copies_of_mounted_file_systems_are_refused_by_name() {
    let folder = tempfile::tempdir().expect("room");
    let (disk, copy) = (folder.path().join("disk"), folder.path().join("disk.copy"));
    for (kind, expected) in [
        (
            "ext4",
            "ext4: it is mounted, or was not unmounted: its journal is not empty",
        ),
        (
            "ext3",
            "ext3: it is mounted, or was not unmounted: its journal is not empty",
        ),
        ("ext2", "ext2: it is mounted, or was not unmounted"),
        (
            "xfs",
            "xfs: it is mounted, or was not unmounted: its log is not empty",
        ),
        ("exfat", "exfat: it is mounted, or was not unmounted"),
    ] {
        if copied_while_mounted(kind, &disk) {
            assert_eq!(refused(&copy), expected);
            // Once it was unmounted, it is not.
            assert!(surveyed(&disk).free_len() > 0, "{kind}");
        }
    }
}

/// What a commit of btrfs wrote needs no journal; what was only synced file by file does.
#[test]
fn a_mounted_btrfs_is_refused_only_with_a_log() {
    let folder = tempfile::tempdir().expect("room");
    let (disk, copy) = (folder.path().join("disk"), folder.path().join("disk.copy"));
    let recipe = recipe_of("btrfs");
    if !copied_while_mounted("btrfs", &disk) {
        return;
    }
    let space = surveyed(&copy);
    assert!(space.free_len() > 0, "{:?}", space.parts());
    let out = trimmed(&copy, &space);
    recipe.check(&out);
    assert_eq!(recipe.contents(&out), recipe.contents(&copy));
    let mounted = Mounted::new(&disk, "btrfs", "rw").expect("mounted before");
    let file = std::fs::File::create(mounted.folder.join("synced")).expect("room");
    file.write_all_at(MARKER, 0).expect("room");
    run("sync", &["-f", text(&mounted.folder)]);
    // The first may be a commit; the next is something for the log.
    for at in [1, 2, 3].map(|nth| nth * (1 << 20)) {
        file.write_all_at(&MARKER.repeat(5000), at)
            .and_then(|()| file.sync_all())
            .expect("room");
    }
    std::fs::copy(&disk, &copy).expect("room");
    assert_eq!(
        refused(&copy),
        "btrfs: it is mounted, or was not unmounted: its log is not empty"
    );
}

/// ext4 calls itself in need of its journal from the moment on at which it is mounted; as long as
/// nothing is in that, the disk is whole.
#[test]
fn an_empty_journal_allows_what_a_full_one_does_not() {
    let folder = tempfile::tempdir().expect("room");
    let (disk, copy) = (folder.path().join("disk"), folder.path().join("disk.copy"));
    let recipe = recipe_of("ext4");
    recipe.make(&disk);
    recipe.fill(&disk);
    let Some(mounted) = Mounted::new(&disk, "ext4", "rw,noatime") else {
        return;
    };
    run("sync", &["-f", text(&mounted.folder)]);
    std::fs::copy(&disk, &copy).expect("room");
    let said =
        String::from_utf8_lossy(&output("dumpe2fs", &["-h", text(&copy)], "").stdout).into_owned();
    assert!(said.contains("needs_recovery"), "{said}");
    if !said
        .lines()
        .any(|line| line.starts_with("Journal start:") && line.trim_end().ends_with(" 0"))
    {
        println!("left out: this kernel writes to the journal when it mounts");
        return;
    }
    let space = surveyed(&copy);
    assert!(space.free_len() > 0, "{:?}", space.parts());
    let out = trimmed(&copy, &space);
    assert_eq!(recipe.contents(&out), recipe.contents(&copy));
}

#[test]
fn marks_of_trouble_are_read() {
    let folder = tempfile::tempdir().expect("room");
    let disk = folder.path().join("disk");
    recipe_of("ntfs").make(&disk);
    run("ntfsfix", &[text(&disk)]);
    assert_eq!(refused(&disk), "ntfs: it is marked as dirty");
    recipe_of("ext2").make(&disk);
    write(&disk, 1024 + 0x3a, &[3, 0]);
    assert_eq!(refused(&disk), "ext2: it has noted errors");
    write(&disk, 1024 + 0x3a, &[0, 0]);
    assert_eq!(refused(&disk), "ext2: it is mounted, or was not unmounted");
    for (nth, boot_at) in [(0, 0x25), (1, 0x25), (2, 0x41)] {
        let recipes: Vec<_> = RECIPES.iter().filter(|one| one.kind == "fat").collect();
        recipes[nth].make(&disk);
        write(&disk, boot_at, &[1]);
        assert_eq!(refused(&disk), "fat: it is mounted, or was not unmounted");
        write(&disk, boot_at, &[0]);
        assert!(surveyed(&disk).free_len() > 0);
    }
    recipe_of("exfat").make(&disk);
    write(&disk, 106, &[2]);
    assert_eq!(refused(&disk), "exfat: it is mounted, or was not unmounted");
    write(&disk, 106, &[4]);
    assert_eq!(refused(&disk), "exfat: it has noted errors");
}

/// A bitmap that was changed, by a bit that rotted or by a program that did not count.
#[test]
fn bitmaps_that_do_not_agree_with_their_sums_are_refused() {
    let folder = tempfile::tempdir().expect("room");
    let disk = folder.path().join("disk");
    for (kind, options) in [("ext4", "metadata_csum"), ("ext4", "^metadata_csum")] {
        let recipe = recipe_of(kind);
        recipe.make(&disk);
        let made = [
            "-qF",
            "-t",
            "ext4",
            "-b4096",
            "-Enodiscard",
            "-O",
            options,
            text(&disk),
        ];
        run("mke2fs", &made);
        let said = run("dumpe2fs", &[text(&disk)]);
        let line = said
            .lines()
            .find(|line| line.contains("Block bitmap at"))
            .expect("said");
        let block = line
            .split_whitespace()
            .nth(3)
            .and_then(|word| word.parse::<u64>().ok());
        let at = block.expect("a number") * 4096;
        // The first bits, of the superblock and its neighbours.
        write(&disk, at, &[0]);
        assert_eq!(
            refused(&disk),
            "ext4: the bitmap of a group is not what its descriptor says",
            "{options}"
        );
    }
}

/// A restart page of the journal of NTFS: its number, what clients use it, its flags, its version.
fn restart_page(number: u64, in_use: u16, flags: u16, version: u16) -> Vec<u8> {
    let mut page = vec![0; 4096];
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"RSTR");
    put(0x10, &4096_u32.to_le_bytes());
    put(0x18, &0x30_u16.to_le_bytes());
    put(0x1c, &version.to_le_bytes());
    put(0x30, &number.to_le_bytes());
    put(0x3c, &in_use.to_le_bytes());
    put(0x3e, &flags.to_le_bytes());
    page
}

/// Windows closes the journal when it unmounts; until then, and while it sleeps with the volume, it
/// is open, or of the version that only Windows 8 and later have.
#[test]
fn an_open_journal_of_ntfs_is_refused() {
    const NONE: u16 = 0xffff;
    let folder = tempfile::tempdir().expect("room");
    let disk = folder.path().join("disk");
    recipe_of("ntfs").make(&disk);
    let said = run("ntfsinfo", &["-i", "2", "-v", text(&disk)]);
    let runs = said.lines().skip_while(|line| !line.contains("Runlist:"));
    let cluster = runs.skip(1).find_map(|line| line.split_whitespace().nth(1));
    let cluster = cluster.and_then(|text| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok());
    let at = cluster.expect("the journal's place") * 4096;
    let closed = restart_page(7, NONE, 0, 1);
    for (first, second, is_closed) in [
        (closed.clone(), restart_page(6, 0, 0, 1), true),
        (closed.clone(), restart_page(8, 0, 0, 1), false),
        (restart_page(6, 0, 0, 1), closed.clone(), true),
        (restart_page(8, 0, 0, 1), closed.clone(), false),
        (restart_page(9, 0, 2, 1), closed.clone(), true),
        (restart_page(9, NONE, 2, 2), closed.clone(), false),
        (vec![0; 4096], closed.clone(), false),
        (vec![0; 4096], vec![0; 4096], false),
        (vec![0xff; 4096], closed, true),
    ] {
        write(&disk, at, &[first, second].concat());
        if is_closed {
            assert!(surveyed(&disk).free_len() > 0);
        } else {
            let reason = refused(&disk);
            assert!(reason.ends_with("its journal is open"), "{reason}");
        }
    }
}
