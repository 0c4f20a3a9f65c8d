//! Mounts that the kernel really sees, over disks in memory.
//!
//! Where there is no FUSE these tests pass without a test and say so on standard error.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod endings;
mod files;

mod memory;
mod programs;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use memory::{Disk, Disks};
use tempfile::TempDir;
use vellum_serve::fuse::{Mount, MountOptions};

/// What a test may wait for that only a broken program does not do.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// Disks, mounted. The mount ends before its folder is removed.
pub(crate) struct Shown {
    pub(crate) disks: Arc<Disks>,
    pub(crate) mount: Option<Mount>,
    pub(crate) folder: TempDir,
}

impl Shown {
    /// Mounts `disks`, or says that it cannot.
    pub(crate) fn new(disks: &[(&str, &Arc<Disk>)]) -> Option<Self> {
        if !fuse_is_here() {
            return None;
        }
        let all = Arc::new(Disks::default());
        disks
            .iter()
            .for_each(|(name, disk)| all.add(name, 1_000_000_000_123, disk));
        let folder = tempfile::tempdir().unwrap();
        let mount = Mount::mount_exports(
            Arc::clone(&all) as Arc<_>,
            folder.path(),
            MountOptions::default(),
        )
        .unwrap();
        Some(Self {
            disks: all,
            mount: Some(mount),
            folder,
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn open(&self, name: &str) -> File {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path(name))
            .unwrap()
    }

    pub(crate) fn open_with(&self, name: &str, flags: rustix::fs::OFlags) -> File {
        let flags = flags.bits().cast_signed();
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(self.path(name))
            .unwrap()
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        drop(self.mount.take());
    }
}

/// Whether this machine and user can mount. The test harness swallows what `eprintln` says, so it
/// is told to standard error itself.
pub(crate) fn fuse_is_here() -> bool {
    let can_open = OpenOptions::new().read(true).write(true).open("/dev/fuse");
    let can_mount = rustix::process::geteuid().is_root()
        || std::process::Command::new("fusermount3")
            .arg("-V")
            .output()
            .is_ok();
    match can_open {
        Ok(_) if can_mount => return true,
        Ok(_) => skipped("there is no fusermount3 (package fuse3)"),
        Err(error) => skipped(&format!("/dev/fuse: {error}")),
    }
    false
}

pub(crate) fn skipped(why: &str) {
    let name = std::thread::current().name().unwrap_or("?").to_owned();
    let _ = writeln!(io::stderr(), "SKIPPED, NOT TESTED: {name}: {why}");
}

/// Waits for what comes soon but not at once.
pub(crate) fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
