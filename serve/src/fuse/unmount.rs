//! Taking a mount away: gently, by force, and when its server is dead already.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use super::mount_table::{self, MountNumber};

/// Linux's table of mounts.
const TABLE: &str = "/proc/self/mountinfo";
/// Source name of our mounts, by which they are recognised.
pub(super) const SOURCE: &str = "vellum";
/// Those that may unmount what their user mounted. The second is what older systems call it.
const HELPERS: [&str; 2] = ["fusermount3", "fusermount"];

/// Waits until the server is gone, in whatever way: then the pipe it holds ends. If its mount,
/// known by its number, is still in the table, it is dead and nobody else will take it away. It
/// outlives what a terminal or a service manager sends to the server and its kin.
const GUARD: &str = r#"trap '' INT TERM HUP QUIT
read -r number || exit 0
read -r nothing
while read -r id parent mounted rest; do
  if [ "$mounted" = "$number" ]; then
    umount -l -- "$0" || fusermount3 -u -q -z -- "$0" || fusermount -u -q -z -- "$0"
    exit
  fi
done < /proc/self/mountinfo"#;

/// Outcome of an attempt to unmount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnmountOutcome {
    /// It is not mounted any more.
    Unmounted,
    /// Somebody has a file or folder of it open.
    Busy,
    /// Something else was mounted over it.
    Covered,
}

/// The number of what is mounted at `folder`, which need not answer.
pub(super) fn mount_number(folder: &Path) -> io::Result<MountNumber> {
    let mounted = mount_table::topmost_mount_at(&fs::read(TABLE)?, folder);
    mounted
        .map(|mounted| mounted.number)
        .ok_or_else(|| io::Error::other(format!("the mount is not in {TABLE}")))
}

/// Unmounts `number` from `folder` if nobody uses it.
pub(super) fn unmount_if_idle(folder: &Path, number: MountNumber) -> io::Result<UnmountOutcome> {
    let table = fs::read(TABLE)?;
    if !mount_table::parse_table(&table).any(|mounted| mounted.number == number) {
        return Ok(UnmountOutcome::Unmounted);
    }
    if mount_table::topmost_mount_at(&table, folder).is_some_and(|mounted| mounted.number != number)
    {
        return Ok(UnmountOutcome::Covered);
    }
    match unmount(folder, UnmountFlags::empty()) {
        Ok(()) => Ok(UnmountOutcome::Unmounted),
        Err(Errno::BUSY) => Ok(UnmountOutcome::Busy),
        Err(Errno::PERM) => Ok(if ask_helper(folder, &["-u", "-q"]) {
            UnmountOutcome::Unmounted
        } else {
            UnmountOutcome::Busy
        }),
        Err(Errno::INVAL) => Ok(UnmountOutcome::Unmounted),
        Err(error) => Err(error.into()),
    }
}

/// Takes `folder` away from those who use it: what they ask from now on fails, the folder is free
/// at once.
pub(super) fn by_force(folder: &Path, number: MountNumber) -> io::Result<()> {
    // Without the right to force, its user may cut the connection, where the system shows
    // connections at all.
    let _ = fs::write(
        format!("/sys/fs/fuse/connections/{}/abort", number.minor),
        b"1",
    );
    match unmount(folder, UnmountFlags::FORCE | UnmountFlags::DETACH) {
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(Errno::PERM) if ask_helper(folder, &["-u", "-q", "-z"]) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Frees `folder` from a mount of ours whose server died together with its guard. What is not ours
/// or alive is left alone.
pub(super) fn the_dead(folder: &Path) -> io::Result<()> {
    let is_dead = fs::metadata(folder)
        .is_err_and(|error| error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error()));
    if !is_dead {
        return Ok(());
    }
    let table = fs::read(TABLE)?;
    match mount_table::topmost_mount_at(&table, &std::path::absolute(folder)?) {
        Some(mounted) if mounted.kind.starts_with("fuse") && mounted.source == SOURCE => {
            by_force(folder, mounted.number)
        }
        _ => Ok(()),
    }
}

fn ask_helper(folder: &Path, options: &[&str]) -> bool {
    HELPERS.iter().any(|helper| {
        let mut command = Command::new(helper);
        command
            .args(options)
            .arg("--")
            .arg(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    })
}

/// A process that takes the mount away if the server cannot any more, because it was killed.
#[derive(Debug)]
pub(super) struct UnmountGuard {
    process: Child,
    pipe: Option<ChildStdin>,
}

impl UnmountGuard {
    /// Posts a guard for what will be mounted at `folder`. It begins before there is a connection
    /// to the kernel, so that it cannot hold it open.
    pub(super) fn spawn_guard(folder: &Path) -> io::Result<Self> {
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(GUARD)
            .arg(folder)
            .current_dir("/")
            .process_group(0);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut process = command.spawn()?;
        let pipe = process.stdin.take();
        Ok(Self { process, pipe })
    }

    /// Tells it what to look for.
    pub(super) fn guard_mount(&mut self, number: MountNumber) -> io::Result<()> {
        use io::Write;
        self.pipe.as_mut().map_or(Ok(()), |pipe| {
            writeln!(pipe, "{}:{}", number.major, number.minor)
        })
    }
}

impl Drop for UnmountGuard {
    /// Nothing is left to guard. It is killed before its pipe ends, for it must not act now.
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        drop(self.pipe.take());
    }
}
