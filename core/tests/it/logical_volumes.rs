//! LVM2 against its own programs: what they call free is dropped, and what is free in file systems
//! that lie in pieces on a physical volume. No logical volume is activated: their bytes are put
//! where the programs say that they are.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use vellum_core::guest::FreeVerdict;

use crate::disks::{RECIPES, Recipe};
use crate::tools::{noise, output, run, text};
use crate::trimming::{has_marker, surveyed, trimmed};

const DISK_LEN: u64 = 256 << 20;
const EXTENT_LEN: u64 = 4 << 20;
const GROUP: &str = "vellum-test";

/// A file as a block device until this is dropped.
struct Loop {
    device: String,
}

impl Loop {
    fn new(file: &Path) -> Option<Self> {
        let done = output("losetup", &["--show", "-f", text(file)], "");
        if done.status.success() {
            let device = String::from_utf8_lossy(&done.stdout).trim().to_owned();
            return Some(Self { device });
        }
        println!(
            "left out: there are no loop devices: {}",
            String::from_utf8_lossy(&done.stderr).trim()
        );
        None
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        output("losetup", &["-d", &self.device], "");
    }
}

/// Runs LVM on `devices` alone, without the kernel's device mapper.
fn lvm(devices: &[&Loop], words: &str) -> String {
    let mut arguments: Vec<&str> = words.split(' ').collect();
    for one in devices {
        arguments.extend(["--devices", &one.device]);
    }
    arguments.extend(["--driverloaded", "n"]);
    arguments.extend(["--config", "backup{backup=0 archive=0}"]);
    run("lvm", &arguments)
}

/// The bytes of the first physical volume that each segment of a logical volume has.
fn pieces(devices: &[&Loop], volume: &str) -> Vec<Range<u64>> {
    let words = format!("lvs --noheadings --segments -o seg_pe_ranges {GROUP}/{volume}");
    let said = lvm(devices, &words);
    let piece = |line: &str| {
        let (_, range) = line.trim().rsplit_once(':').expect("DEVICE:FIRST-LAST");
        let (first, last) = range.split_once('-').expect("FIRST-LAST");
        let extent = |text: &str| text.parse::<u64>().expect("a number");
        let place = |extent: u64| (1 << 20) + extent * EXTENT_LEN;
        place(extent(first))..place(extent(last) + 1)
    };
    said.lines().map(piece).collect()
}

/// The bytes of a disk that lie in `pieces`, as a file.
fn gathered(disk: &Path, pieces: &[Range<u64>], out: &Path) {
    let bytes = std::fs::read(disk).expect("readable");
    let all: Vec<&[u8]> = pieces
        .iter()
        .map(|piece| &bytes[piece.start as usize..piece.end as usize])
        .collect();
    std::fs::write(out, all.concat()).expect("room");
}

fn scattered(from: &Path, pieces: &[Range<u64>], disk: &Path) {
    let bytes = std::fs::read(from).expect("readable");
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(disk)
        .expect("there");
    let mut at = 0;
    for piece in pieces {
        let len = (piece.end - piece.start) as usize;
        file.write_all_at(&bytes[at..at + len], piece.start)
            .expect("room");
        at += len;
    }
    assert_eq!(at, bytes.len(), "it fills its pieces");
}

/// Two volumes, one of them in two pieces because another stood in its way once.
fn make(device: &Loop) {
    let devices = [device];
    lvm(&devices, &format!("pvcreate -qq -y {}", device.device));
    lvm(&devices, &format!("vgcreate -qq {GROUP} {}", device.device));
    for (name, extents) in [("a", 5), ("gone", 7), ("c", 12)] {
        lvm(
            &devices,
            &format!("lvcreate -qq -an -Zn -Wn -y -l {extents} -n {name} {GROUP}"),
        );
    }
    lvm(&devices, &format!("lvremove -qq -y {GROUP}/gone"));
    lvm(&devices, &format!("lvextend -qq -l +11 {GROUP}/a"));
}

#[test]
fn what_logical_volumes_and_the_file_systems_in_them_do_not_use_goes() {
    let folder = tempfile::tempdir().expect("room");
    let (disk, part) = (folder.path().join("disk"), folder.path().join("part"));
    noise(&disk, DISK_LEN, 3);
    let Some(device) = Loop::new(&disk) else {
        return;
    };
    make(&device);
    let volumes = [("a", "ext4", 16), ("c", "fat", 12)].map(|(volume, kind, extents)| {
        let fits = |one: &&Recipe| one.kind == kind && one.len == extents * EXTENT_LEN;
        let recipe = RECIPES.iter().find(fits).expect("there is one");
        (volume, pieces(&[&device], volume), recipe)
    });
    assert_eq!(volumes[0].1.len(), 2, "one lies in two pieces");
    let extents_free = lvm(
        &[&device],
        &format!("vgs --noheadings -o vg_free_count {GROUP}"),
    );
    let group_free = extents_free.trim().parse::<u64>().expect("a number") * EXTENT_LEN;
    drop(device);
    let mut free = vec![group_free];
    for (_, pieces, recipe) in &volumes {
        recipe.make(&part);
        assert!(recipe.fill(&part));
        scattered(&part, pieces, &disk);
        free.push(surveyed(&part).free());
    }
    let space = surveyed(&disk);
    let found: Vec<_> = space
        .parts()
        .iter()
        .map(|part| (part.name.as_str(), part.kind, part.free))
        .collect();
    assert_eq!(
        found,
        [
            ("the disk", "LVM2", free[0]),
            ("logical volume vellum-test/a", "ext4", free[1]),
            ("logical volume vellum-test/c", "fat", free[2]),
        ]
    );
    assert_eq!(space.free(), free.iter().sum::<u64>());
    let copy = trimmed(&disk, &space);
    assert!(has_marker(&disk) && !has_marker(&copy));
    let (own, kept) = (folder.path().join("own"), folder.path().join("kept"));
    for (_, pieces, recipe) in &volumes {
        gathered(&disk, pieces, &own);
        gathered(&copy, pieces, &kept);
        recipe.check(&kept);
        assert_eq!(recipe.contents(&own), recipe.contents(&kept));
    }
    let device = Loop::new(&copy).expect("there was one before");
    lvm(&[&device], &format!("vgck {GROUP}"));
    lvm(&[&device], &format!("pvck {}", device.device));
}

/// Volumes that are on two disks, in stripes or in pieces, are in use whole; what the group calls
/// free goes.
#[test]
fn volumes_on_several_disks_are_kept() {
    let folder = tempfile::tempdir().expect("room");
    let disks: Vec<PathBuf> = ["one", "two"]
        .iter()
        .map(|name| folder.path().join(name))
        .collect();
    disks.iter().for_each(|disk| noise(disk, DISK_LEN / 4, 5));
    let (Some(one), Some(two)) = (Loop::new(&disks[0]), Loop::new(&disks[1])) else {
        return;
    };
    let both = [&one, &two];
    lvm(
        &both,
        &format!("pvcreate -qq -y {} {}", one.device, two.device),
    );
    lvm(
        &both,
        &format!("vgcreate -qq {GROUP} {} {}", one.device, two.device),
    );
    for (name, how) in [
        ("striped", "-i2 -l 4"),
        ("long", "-l 14"),
        ("short", "-l 1"),
    ] {
        lvm(
            &both,
            &format!("lvcreate -qq -an -Zn -Wn -y {how} -n {name} {GROUP}"),
        );
    }
    let said = lvm(
        &both,
        &format!(
            "pvs --noheadings -o pv_pe_count,pv_pe_alloc_count {}",
            one.device
        ),
    );
    let counts: Vec<u64> = said
        .split_whitespace()
        .map(|word| word.parse().expect("a number"))
        .collect();
    let space = surveyed(&disks[0]);
    assert_eq!(space.free(), (counts[0] - counts[1]) * EXTENT_LEN);
    let reason = |name: &str| {
        let part = space.parts().iter().find(|part| part.name.ends_with(name));
        part.map(|part| part.verdict.clone()).expect("listed")
    };
    let kept = FreeVerdict::Kept("a part of it is on another volume".to_owned());
    assert_eq!(reason("/striped"), kept);
    assert_eq!(reason("/long"), kept);
}
