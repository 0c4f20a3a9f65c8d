//! File systems with old content where they are free, and ways to look at what is in use.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use vellum_core::hash::ChunkHash;

use crate::tools::{Mounted, noise, run, run_with, text};

/// The content of files that are deleted again.
pub(crate) const MARKER: &[u8] = b"-- what nobody reads any more --";
const FILES: usize = 40;

/// Names of files, and the hash of each.
pub(crate) type Contents = BTreeMap<String, String>;

/// A way to make a file system.
pub(crate) struct Recipe {
    /// The kind that is found in it.
    pub(crate) kind: &'static str,
    pub(crate) len: u64,
    program: &'static str,
    options: &'static [&'static str],
}

const fn recipe(
    kind: &'static str,
    mebibytes: u64,
    program: &'static str,
    options: &'static [&'static str],
) -> Recipe {
    Recipe {
        kind,
        len: mebibytes << 20,
        program,
        options,
    }
}

pub(crate) const RECIPES: &[Recipe] = &[
    recipe(
        "ext4",
        64,
        "mke2fs",
        &["-qF", "-t", "ext4", "-E", "nodiscard"],
    ),
    recipe(
        "ext4",
        64,
        "mke2fs",
        &[
            "-qF",
            "-t",
            "ext4",
            "-b1024",
            "-O^metadata_csum",
            "-Enodiscard",
        ],
    ),
    recipe(
        "ext4",
        96,
        "mke2fs",
        &["-qF", "-t", "ext4", "-Obigalloc", "-C16384", "-Enodiscard"],
    ),
    recipe(
        "ext3",
        48,
        "mke2fs",
        &["-qF", "-t", "ext3", "-E", "nodiscard"],
    ),
    recipe(
        "ext2",
        48,
        "mke2fs",
        &["-qF", "-t", "ext2", "-E", "nodiscard"],
    ),
    recipe("xfs", 320, "mkfs.xfs", &["-qfK"]),
    recipe(
        "xfs",
        320,
        "mkfs.xfs",
        &["-qfK", "-m", "crc=0", "-b", "size=1024"],
    ),
    recipe(
        "xfs",
        320,
        "mkfs.xfs",
        &["-qfK", "-m", "rmapbt=1,reflink=1", "-s", "size=4096"],
    ),
    recipe("ntfs", 64, "mkntfs", &["-F", "-Q", "-q"]),
    recipe("ntfs", 64, "mkntfs", &["-F", "-Q", "-q", "-c", "65536"]),
    recipe("ntfs", 32, "mkntfs", &["-F", "-Q", "-q", "-c", "512"]),
    recipe("fat", 8, "mkfs.vfat", &["-F12", "-s8"]),
    recipe("fat", 48, "mkfs.vfat", &["-F16"]),
    recipe("fat", 96, "mkfs.vfat", &["-F32", "-s1"]),
    recipe("fat", 96, "mkfs.vfat", &["-F32", "-S1024", "-s1", "-f1"]),
    recipe("exfat", 64, "mkfs.exfat", &[]),
    recipe("exfat", 64, "mkfs.exfat", &["-c", "512"]),
    recipe("btrfs", 256, "mkfs.btrfs", &["-qfK"]),
    recipe("btrfs", 128, "mkfs.btrfs", &["-qfK", "--mixed"]),
    recipe(
        "btrfs",
        256,
        "mkfs.btrfs",
        &[
            "-qfK",
            "-m",
            "single",
            "-O",
            "^no-holes",
            "-R",
            "^free-space-tree",
        ],
    ),
    recipe(
        "btrfs",
        256,
        "mkfs.btrfs",
        &["-qfK", "--csum", "xxhash", "-d", "dup"],
    ),
];

impl Recipe {
    /// Makes the file system on noise, so that what is free is not zero.
    pub(crate) fn make(&self, disk: &Path) {
        noise(disk, self.len, self.len);
        self.format(disk);
    }

    /// Makes the file system on zeros.
    pub(crate) fn make_on_zeros(&self, disk: &Path) {
        let file = std::fs::File::create(disk);
        file.and_then(|file| file.set_len(self.len)).expect("room");
        self.format(disk);
    }

    fn format(&self, disk: &Path) {
        run(self.program, &[self.options, &[text(disk)]].concat());
    }

    pub(crate) fn name(&self) -> String {
        format!("{} {:?}", self.program, self.options)
    }

    /// Puts files into the file system, deletes some, and says whether that could be done.
    pub(crate) fn fill(&self, disk: &Path) -> bool {
        match self.kind {
            "ext2" | "ext3" | "ext4" => fill_ext(disk),
            "fat" => fill_fat(disk),
            kind => {
                let Some(mounted) = Mounted::new(disk, kind, "rw") else {
                    return false;
                };
                fill_folder(&mounted.folder);
            }
        }
        true
    }

    /// The files that can be read; `None` where that is not possible.
    pub(crate) fn contents(&self, disk: &Path) -> Option<Contents> {
        let folder = tempfile::tempdir().expect("room");
        let out = text(folder.path());
        match self.kind {
            "ext2" | "ext3" | "ext4" => {
                run("debugfs", &["-R", &format!("rdump / {out}"), text(disk)]);
            }
            "fat" => {
                run("mcopy", &["-s", "-n", "-i", text(disk), "::/", out]);
            }
            "btrfs" => {
                run("btrfs", &["restore", text(disk), out]);
                // The copies of the superblock are in no extent.
                let said = run(
                    "btrfs",
                    &["inspect-internal", "dump-super", "-a", text(disk)],
                );
                let said = said.replace(text(disk), "DISK");
                assert!(said.matches("[match]").count() > 3, "{said}");
                std::fs::write(folder.path().join("superblocks"), said).expect("room");
            }
            kind => {
                let mounted = Mounted::new(
                    disk,
                    kind,
                    if kind == "xfs" { "ro,norecovery" } else { "ro" },
                )?;
                return Some(hashes(&mounted.folder));
            }
        }
        Some(hashes(folder.path()))
    }

    /// Has the file system's own checker look at it.
    pub(crate) fn check(&self, disk: &Path) {
        let disk = text(disk);
        match self.kind {
            "ext2" | "ext3" | "ext4" => run("e2fsck", &["-fn", disk]),
            "xfs" => run("xfs_repair", &["-n", "-f", disk]),
            "ntfs" => run("ntfsfix", &["-n", disk]),
            "fat" => run("fsck.vfat", &["-n", disk]),
            "exfat" => run("fsck.exfat", &["-n", disk]),
            _ => run("btrfs", &["check", "--check-data-csum", disk]),
        };
    }

    /// The free bytes as the file system's own programs count them, where they do.
    pub(crate) fn counted(&self, disk: &Path) -> Option<u64> {
        let disk = text(disk);
        let number = |said: &str, key: &str| {
            let line = said.lines().find(|line| line.trim_start().starts_with(key));
            let line = line.unwrap_or_else(|| panic!("{key} in {said}"));
            let digits = line
                .rsplit(key)
                .next()
                .expect("there")
                .trim_start_matches([':', ' ', '\t', '=']);
            let end = digits.find(|letter: char| !letter.is_ascii_digit());
            digits[..end.unwrap_or(digits.len())]
                .parse::<u64>()
                .expect("a number")
        };
        match self.kind {
            "ext2" | "ext3" | "ext4" => {
                let said = run("dumpe2fs", &["-h", disk]);
                Some(number(&said, "Free blocks:") * number(&said, "Block size:"))
            }
            "ntfs" => {
                let said = run("ntfsinfo", &["-m", disk]);
                Some(number(&said, "Free Clusters:") * number(&said, "Cluster Size:"))
            }
            "fat" => {
                let said = run("fsck.vfat", &["-n", "-v", disk]);
                let last = said.lines().last().expect("it says how many");
                let counts = last
                    .rsplit(' ')
                    .nth(1)
                    .and_then(|counts| counts.split_once('/'))
                    .expect("used/all");
                let count = |text: &str| text.parse::<u64>().expect("a number");
                let len = said
                    .lines()
                    .find(|line| line.contains("bytes per cluster"))
                    .expect("said");
                let len = count(len.split_whitespace().next().expect("a number"));
                Some((count(counts.1) - count(counts.0)) * len)
            }
            "exfat" => {
                let said = run("dump.exfat", &[disk]);
                Some(number(&said, "Free Clusters:") * number(&said, "Cluster size:"))
            }
            _ => None,
        }
    }
}

fn fill_ext(disk: &Path) {
    let folder = tempfile::tempdir().expect("room");
    fill_folder_with(folder.path(), &[]);
    let files = files(folder.path());
    let write = files
        .iter()
        .map(|(name, path)| format!("write {} {name}", text(path)));
    let remove = files
        .keys()
        .filter(|name| is_deleted(name))
        .map(|name| format!("rm {name}"));
    let script: Vec<String> = write.chain(remove).collect();
    run_with(
        "debugfs",
        &["-w", "-f", "-", text(disk)],
        &script.join("\n"),
    );
}

fn fill_fat(disk: &Path) {
    let folder = tempfile::tempdir().expect("room");
    fill_folder_with(folder.path(), &[]);
    for (name, path) in files(folder.path()) {
        run(
            "mcopy",
            &["-i", text(disk), text(&path), &format!("::{name}")],
        );
    }
    for name in files(folder.path()).keys().filter(|name| is_deleted(name)) {
        run("mdel", &["-i", text(disk), &format!("::{name}")]);
    }
}

fn is_deleted(name: &str) -> bool {
    name.starts_with("gone")
}

/// Files of many lengths, every third of them to be deleted.
fn fill_folder_with(folder: &Path, skip: &[&str]) {
    let mut random = fastrand::Rng::with_seed(7);
    for nth in 0..FILES {
        let len = 1 << random.u32(4..18);
        let name = if nth % 3 == 0 {
            format!("gone{nth}")
        } else {
            format!("kept{nth}")
        };
        let mut bytes: Vec<u8> = (0..len).map(|_| random.u8(..)).collect();
        if is_deleted(&name) {
            bytes = MARKER.repeat(2000);
        }
        if !skip.contains(&name.as_str()) {
            std::fs::write(folder.join(name), bytes).expect("room");
        }
    }
}

/// Writes files, has them on the disk, and deletes some.
pub(crate) fn fill_folder(folder: &Path) {
    fill_folder_with(folder, &[]);
    run("sync", &["-f", text(folder)]);
    for (_, path) in files(folder).iter().filter(|(name, _)| is_deleted(name)) {
        std::fs::remove_file(path).expect("there");
    }
    run("sync", &["-f", text(folder)]);
}

/// Every file below a folder, by its name in it.
fn files(folder: &Path) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path
                    .strip_prefix(folder)
                    .expect("below")
                    .display()
                    .to_string();
                found.insert(name, path);
            }
        }
    }
    found
}

pub(crate) fn hashes(folder: &Path) -> Contents {
    let hash = |path: PathBuf| ChunkHash::of_chunk(&std::fs::read(path).expect("readable"));
    let named = files(folder).into_iter();
    named
        .map(|(name, path)| (name, format!("{:?}", hash(path))))
        .collect()
}
