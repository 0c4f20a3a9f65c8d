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
        free.push(surveyed(&part).free_len());
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
    assert_eq!(space.free_len(), free.iter().sum::<u64>());
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
    assert_eq!(space.free_len(), (counts[0] - counts[1]) * EXTENT_LEN);
    let reason = |name: &str| {
        let part = space.parts().iter().find(|part| part.name.ends_with(name));
        part.map(|part| part.verdict.clone()).expect("listed")
    };
    let kept = FreeVerdict::Kept("a part of it is on another volume".to_owned());
    assert_eq!(reason("/striped"), kept);
    assert_eq!(reason("/long"), kept);
}

/// CRC-32 as LVM computes it.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0xf597_a6cf, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc: u32, _| {
            crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}

const UUID: &str = "abcdef-0123-4567-89ab-cdef-0123-456789";

/// The first bytes of a physical volume of 16 MiB whose description is `text`: it begins at
/// `text_at` of the ring, and goes on at its front if there is no room behind.
pub(crate) fn physical_volume(text: &str, text_at: u64) -> Vec<u8> {
    const AREA_AT: usize = 4096;
    const AREA_LEN: usize = 64 << 10;
    let mut bytes = vec![0; 16 << 20];
    let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
    put(512, b"LABELONE");
    put(520, &1_u64.to_le_bytes());
    put(532, &32_u32.to_le_bytes());
    put(536, b"LVM2 001");
    let places = [1 << 20, 0, 0, 0, AREA_AT as u64, AREA_LEN as u64];
    put(544, UUID.replace('-', "").as_bytes());
    put(576, &(16_u64 << 20).to_le_bytes());
    put(584, &places.map(u64::to_le_bytes).concat());
    put(AREA_AT + 4, b" LVM2 x[5A%r0N*>");
    put(AREA_AT + 20, &1_u32.to_le_bytes());
    let numbers = [AREA_AT as u64, AREA_LEN as u64, text_at, text.len() as u64];
    put(AREA_AT + 24, &numbers.map(u64::to_le_bytes).concat());
    put(AREA_AT + 56, &checksum(text.as_bytes()).to_le_bytes());
    let (first, rest) = text
        .as_bytes()
        .split_at(text.len().min(AREA_LEN - text_at as usize));
    put(AREA_AT + text_at as usize, first);
    put(AREA_AT + 512, rest);
    let (area, label) = (
        checksum(&bytes[AREA_AT + 4..AREA_AT + 512]),
        checksum(&bytes[532..1024]),
    );
    bytes[AREA_AT..AREA_AT + 4].copy_from_slice(&area.to_le_bytes());
    bytes[528..532].copy_from_slice(&label.to_le_bytes());
    bytes
}

/// A description with these logical volumes; an extent is 1 MiB, and there are 15.
pub(crate) fn description(volumes: &str) -> String {
    format!(
        "group {{\nid = \"x\"\nseqno = 4\nextent_size = 2048\nphysical_volumes {{\n\
         pv0 {{\nid = \"{UUID}\"\npe_start = 2048\npe_count = 15\n}}\n\
         pv1 {{\nid = \"y\"\npe_start = 2048\npe_count = 15\n}}\n}}\n\
         logical_volumes {{\n{volumes}\n}}\n}}\nversion = 1 # said by lvm2\n\0"
    )
}

fn segment(nth: u64, start: u64, count: u64, how: &str) -> String {
    format!("segment{nth} {{\nstart_extent = {start}\nextent_count = {count}\n{how}\n}}\n")
}

fn straight(place: &str) -> String {
    format!("type = \"striped\"\nstripe_count = 1\nstripes = [\n{place}\n]")
}

fn logical(name: &str, segments: &str) -> String {
    format!(
        "{name} {{\nid = \"{name}\"\nstatus = [\"READ\", \"WRITE\", \"VISIBLE\"]\n{segments}}}\n"
    )
}

/// What a survey says of the disk with that description: bytes that are free, and of each part its
/// name and why it is kept.
fn judged(volumes: &str, text_at: u64) -> (u64, Vec<(String, Option<String>)>) {
    let disk = physical_volume(&description(volumes), text_at);
    let space = vellum_core::guest::survey_disk(&disk).expect("in memory");
    let reason = |verdict: &FreeVerdict| match verdict {
        FreeVerdict::Free => None,
        FreeVerdict::Kept(reason) | FreeVerdict::Unclean(reason) => Some(reason.clone()),
    };
    let parts = space.parts().iter();
    let parts = parts
        .map(|part| (part.name.clone(), reason(&part.verdict)))
        .collect();
    (space.free_len(), parts)
}

/// The judgement of a disk of which all is kept.
fn whole(reason: &str) -> (u64, Vec<(String, Option<String>)>) {
    (0, vec![("the disk".to_owned(), Some(reason.to_owned()))])
}

fn root() -> String {
    logical("root", &segment(1, 0, 4, &straight("\"pv0\", 2")))
}

#[test]
fn volumes_that_are_not_simple_are_kept() {
    const MIB: u64 = 1 << 20;
    let with = |free: u64, parts: &[(&str, &str)]| {
        let named = |(name, reason): &(&str, &str)| {
            (
                format!("logical volume group/{name}"),
                Some((*reason).to_owned()),
            )
        };
        let disk = ("the disk".to_owned(), None);
        let parts = std::iter::once(disk)
            .chain(parts.iter().map(named))
            .collect();
        (free * MIB, parts)
    };
    let root = root();
    let unknown = "it is not known here";
    assert_eq!(judged("", 512), with(15, &[]));
    assert_eq!(judged(&root, 512), with(11, &[("root", unknown)]));
    // The ring's end is in the midst of it.
    assert_eq!(
        judged(&root, (64 << 10) - 100),
        with(11, &[("root", unknown)])
    );
    let snapshot = logical("cow", &segment(1, 0, 2, &straight("\"pv0\", 9")))
        + &logical(
            "snapshot0",
            &segment(
                1,
                0,
                4,
                "type = \"snapshot\"\norigin = \"root\"\ncow_store = \"cow\"",
            ),
        );
    let part = "another logical volume is made of it";
    assert_eq!(
        judged(&(root.clone() + &snapshot), 512),
        with(9, &[("root", part), ("cow", part)])
    );
    let elsewhere = logical("far", &segment(1, 0, 4, &straight("\"pv1\", 2")));
    assert_eq!(judged(&elsewhere, 512), with(15, &[]));
}

#[test]
fn descriptions_that_are_not_understood_keep_all() {
    let moving = logical(
        "pvmove0",
        &segment(
            1,
            0,
            4,
            "type = \"mirror\"\nmirrors = [\n\"pv0\", 2,\n\"pv1\", 3\n]",
        ),
    );
    assert_eq!(
        judged(&moving, 512),
        whole("it has segments that are not known here")
    );
    let over = root() + &logical("other", &segment(1, 0, 1, &straight("\"pv0\", 5")));
    assert_eq!(judged(&over, 512), whole("its logical volumes overlap"));
    for broken in [
        segment(1, 0, 4, &straight("\"pv0\", 12")),
        segment(1, 0, u64::MAX, &straight("\"pv0\", 2")),
        segment(1, u64::MAX, 1, &straight("\"pv0\", 2")),
        segment(
            1,
            0,
            4,
            "type = \"striped\"\nstripe_count = 2\nstripes = [\n\"pv0\", 2\n]",
        ),
        segment(
            1,
            0,
            4,
            "type = \"striped\"\nstripe_count = 0\nstripes = []",
        ),
        segment(1, 0, 4, &straight("2, \"pv0\"")),
    ] {
        let broken = logical("broken", &broken);
        assert_eq!(
            judged(&broken, 512),
            whole("its description is not understood"),
            "{broken}"
        );
    }
    // Sums that are wrong.
    for at in [600, 4096 + 30, 4096 + 600] {
        let mut disk = physical_volume(&description(&root()), 512);
        disk[at] ^= 1;
        let space = vellum_core::guest::survey_disk(&disk).expect("in memory");
        assert_eq!((space.free_len(), space.parts().len()), (0, 1), "{at}");
    }
}
