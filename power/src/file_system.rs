//! Real file systems on recorded devices: the kinds, and how one is made and mounted.
//!
//! Commands do the work (`mkfs`, `losetup`, `mount`, `umount`): the process that serves the device
//! must never wait for a file system that stands on it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::block::BlockContent;

/// The number of attempts to unmount a device that is just being let go.
const TRIES: u32 = 50;
const TRY_INTERVAL: Duration = Duration::from_millis(20);

/// A kind of file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileSystem {
    /// Ext4: a journal of metadata; data are written before it.
    Ext4,
    /// XFS: a log of metadata.
    Xfs,
    /// Copies on write.
    Btrfs,
}

/// A file system on a loop device on a file. Unmounted when dropped, by force if need be.
pub struct Mounted {
    folder: PathBuf,
    device: Option<PathBuf>,
}

impl FileSystem {
    /// All.
    pub const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    /// The name that `mount` uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// The one that `mount` calls `name`.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Room for a store, a repository and some disks; XFS takes no less.
    fn len(self) -> u64 {
        match self {
            Self::Ext4 | Self::Btrfs => 256 << 20,
            Self::Xfs => 320 << 20,
        }
    }

    fn maker(self) -> &'static [&'static str] {
        match self {
            Self::Ext4 => &[
                "mkfs.ext4",
                "-q",
                "-F",
                "-m0",
                "-J",
                "size=8",
                "-E",
                "lazy_itable_init=0,lazy_journal_init=0,nodiscard",
            ],
            Self::Xfs => &["mkfs.xfs", "-q", "-f", "-K"],
            // Small ones keep data and metadata together; else one of them runs full alone.
            Self::Btrfs => &["mkfs.btrfs", "-q", "-f", "-K", "--mixed"],
        }
    }

    /// An empty one, made by its own program in `scratch`. Fails with the reason if it cannot be
    /// made.
    pub fn make(self, scratch: &Path) -> Result<BlockContent, String> {
        let path = scratch.join(format!("{}.new", self.name()));
        let made = File::create(&path).and_then(|file| file.set_len(self.len()));
        made.map_err(|error| format!("{}: {error}", path.display()))?;
        let (program, words) = self.maker().split_first().expect("a command has a program");
        let told = run(Command::new(program).args(words).arg(&path));
        let content = told.and_then(|_| {
            BlockContent::load(&path).map_err(|error| format!("{}: {error}", path.display()))
        });
        // A leftover in the folder of a test goes with it.
        let _ = std::fs::remove_file(&path);
        content
    }
}

impl Mounted {
    /// Mounts the file system in the file `file` at `folder`. What a loss of power left is
    /// recovered by the kernel now.
    pub fn new(kind: FileSystem, file: &Path, folder: &Path) -> Result<Self, String> {
        let attach = ["--find", "--show", "--direct-io=on", "--sector-size=512"];
        let device = run(Command::new("losetup").args(attach).arg(file))?;
        let mut mounted = Self {
            folder: folder.to_owned(),
            device: Some(PathBuf::from(device.trim())),
        };
        let device = Path::new(device.trim());
        run(Command::new("mount")
            .args(["-t", kind.name(), "-o", "noatime"])
            .arg(device)
            .arg(folder))?;
        // From here on the kernel lets it go with the mount, whatever becomes of us.
        run(Command::new("losetup").arg("-d").arg(device))?;
        mounted.device = None;
        Ok(mounted)
    }

    /// The folder at which it is mounted.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Unmounts it.
    pub fn unmount(mut self) -> Result<(), String> {
        let mut last = String::new();
        for _ in 0..TRIES {
            match run(Command::new("umount").arg(&self.folder)) {
                Ok(_) => {
                    self.folder = PathBuf::new();
                    return Ok(());
                }
                Err(error) => last = error,
            }
            thread::sleep(TRY_INTERVAL);
        }
        Err(last)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if !self.folder.as_os_str().is_empty() {
            let _ = run(Command::new("umount").arg("-l").arg(&self.folder));
        }
        if let Some(device) = &self.device {
            let _ = run(Command::new("losetup").arg("-d").arg(device));
        }
    }
}

/// Runs `command` and returns its output; the error is what it wrote to standard error.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(format!(
            "{}: {}",
            command.get_program().display(),
            said.trim()
        ))
    }
}

/// The reason why no file system can stand on a recorded device here; none if one can.
#[must_use]
pub fn lacking() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("mounting a file system needs root".to_owned());
    }
    for path in ["/dev/fuse", "/dev/loop-control"] {
        if !Path::new(path).exists() {
            return Some(format!("there is no {path}"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Unflushed;
    use crate::block_device::DeviceFolder;
    use crate::disk::Writes;

    fn shell(script: &str, folder: &Path) {
        run(Command::new("sh").args(["-c", script]).current_dir(folder)).expect("a shell");
    }

    /// The instrument itself: what was synced is found whatever is lost, what was not is lost if
    /// everything is that may be.
    #[test]
    fn a_cut_takes_what_was_not_synced_and_nothing_else() {
        if let Some(why) = lacking() {
            assert!(
                std::env::var_os("CI").is_none(),
                "this must run in CI: {why}"
            );
            eprintln!("skipped: {why}");
            return;
        }
        let scratch = tempfile::tempdir().expect("a folder");
        let (devices, folder) = (
            scratch.path().join("devices"),
            scratch.path().join("folder"),
        );
        std::fs::create_dir(&devices).expect("room");
        std::fs::create_dir(&folder).expect("room");
        let devices = DeviceFolder::mount(&devices).expect("FUSE is there");
        for kind in FileSystem::ALL {
            let empty = match kind.make(scratch.path()) {
                Ok(empty) => empty,
                Err(why) => {
                    assert!(std::env::var_os("CI").is_none(), "{why}");
                    eprintln!("skipped: {why}");
                    continue;
                }
            };
            let (path, device) = devices.add(empty);
            let mounted = Mounted::new(kind, &path, &folder).expect("it mounts");
            shell("echo one >synced; sync synced; sync .", &folder);
            device.note(1);
            shell("echo two >lazy", &folder);
            device.note(2);
            mounted.unmount().expect("nobody uses it");
            devices.remove(&path);
            let trace = device.trace();
            let (flushes, written) = trace.volume();
            assert!(
                flushes > 0 && written > 0,
                "{flushes} flushes of {written} bytes"
            );
            for moment in [1, 2] {
                let at = (0..trace.events.len())
                    .find(|at| trace.moment(at + 1) == moment)
                    .expect("it was noted")
                    + 1;
                for seed in 0..4 {
                    let mut chance = fastrand::Rng::with_seed(seed);
                    let loss = if seed == 0 {
                        Unflushed::Torn(Writes::Synced)
                    } else {
                        Unflushed::random(&mut chance)
                    };
                    let (path, _device) = devices.add(trace.cut(at, loss, &mut chance));
                    let mounted = Mounted::new(kind, &path, &folder).expect("it recovers");
                    shell("[ \"$(cat synced)\" = one ]", &folder);
                    if seed == 0 {
                        shell("[ ! -s lazy ]", &folder);
                    }
                    mounted.unmount().expect("nobody uses it");
                    devices.remove(&path);
                }
            }
        }
    }
}
