//! Images and snapshots as files: a folder with `images/NAME.raw` and
//! `snapshots/NAME@SNAPSHOT.raw`, through FUSE.
//!
//! Files have the length of their disks and keep it: what is cut off one becomes zeros, so that a
//! disk can be copied over another. They cannot be made, removed or renamed here.
//! Images can be read, written, mapped, and made sparse (`fallocate`), snapshots and read-only
//! images only read; `SEEK_DATA` and `SEEK_HOLE` find what is stored. A disk is attached while its
//! file is open. What is served, and how what is open is shared with others, is the [`Exports`]'
//! affair.
//!
//! | module | what it knows |
//! | --- | --- |
//! | `tree` | which files there are |
//! | `file` | what requests mean for one open file |
//! | `handles` | which files are open |
//! | `refusal` | why not, and the number that says so |
//! | `invalidation` | mapped pages that an NBD client wrote
//! | `filesystem` | the kernel's requests, and what the kernel may keep |
//! | `mount_table` | what is mounted where |
//! | `unmount` | how a mount ends, whoever ends first |
//!
//! # What this does not do
//!
//! Programs learn nothing of changes by `inotify`. A file closes a moment after its last `close`
//! returned; a disk may be attached for that long. On Linux before 6.6 images cannot be mapped
//! shared. A server killed together with its guard (a whole control group) leaves a dead mount: the
//! next [`Mount::mount_exports`] on that folder takes it away.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fuser::{Config, MountOption, Session, SessionACL};
use vellum_core::device::Exports;

mod file;
mod filesystem;
mod handles;
mod invalidation;
mod mount_table;
mod refusal;
mod tree;
mod unmount;

use crate::change_board::ChangeBoard;
use filesystem::{FileAccess, Filesystem};
use handles::Handles;
use mount_table::MountNumber;
use unmount::{UnmountGuard, UnmountOutcome};

/// Threads that answer. Each waits while its device does, and a flush may take a disk's time: with
/// fewer, a few of them would keep all readers waiting.
const WORKER_COUNT: usize = 16;
/// Interval after which an unmount that met an open file is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// Time that the last requests and the flush of open files may take after the mount is gone.
const LAST_REQUESTS: Duration = Duration::from_secs(10);

/// Receiver of failures that a program only sees as a number: one line each, as often as they
/// happen.
pub type Report = Arc<dyn Fn(&str) + Send + Sync>;

/// Options of a mount.
#[derive(Clone)]
pub struct MountOptions {
    /// True if every user of the machine may read and write the files, instead of only the one who
    /// mounts. Without being root, `/etc/fuse.conf` must allow it.
    pub allow_other: bool,
    /// Receiver of failures. By default they are dropped.
    pub report: Report,
    /// The NBD server's board: what its clients write to the same disks.
    pub board: Arc<ChangeBoard>,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            allow_other: false,
            report: Arc::new(|_| {}),
            board: Arc::default(),
        }
    }
}

/// Reason that a mount did not begin or end.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// Something is in the folder, and would be hidden.
    #[error("{} is not empty: mount on an empty folder", .0.display())]
    NotEmpty(PathBuf),
    /// The folder cannot be had.
    #[error("{}: {source}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// FUSE cannot be had, or refuses.
    #[error(
        "cannot mount: {0} \
         (FUSE needs /dev/fuse and, without root, fusermount3 from the package fuse3)"
    )]
    Fuse(io::Error),
    /// Something else was mounted over it since.
    #[error("{} is covered by another mount: unmount that first", .0.display())]
    Covered(PathBuf),
    /// The mount is gone, but a device has not answered its last request yet.
    #[error("a device does not answer its last request")]
    StillServing,
}

/// A folder that shows exports as files, until it is stopped, dropped, or unmounted from outside.
///
/// If the process is killed, a guard (a small process of its own) unmounts the folder.
pub struct Mount {
    folder: PathBuf,
    number: MountNumber,
    handles: Arc<Handles>,
    served: Arc<ServiceEnd>,
    guard: Option<UnmountGuard>,
}

/// State of the devices behind a mount: still serving it, or done.
#[derive(Default)]
struct ServiceEnd {
    has_ended: Mutex<bool>,
    changed: Condvar,
}

impl ServiceEnd {
    fn mark_ended(&self) {
        *self
            .has_ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Waits until it has ended, at most for `limit`, and says whether it has.
    fn wait_until_ended(&self, limit: Duration) -> bool {
        let has_ended = self
            .has_ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (has_ended, _) = self
            .changed
            .wait_timeout_while(has_ended, limit, |has_ended| !*has_ended)
            .unwrap_or_else(PoisonError::into_inner);
        *has_ended
    }
}

impl Mount {
    /// Shows `exports` in `folder`, which must be an empty folder. It can be used when this
    /// returns.
    pub fn mount_exports(
        exports: Arc<dyn Exports>,
        folder: &Path,
        options: MountOptions,
    ) -> Result<Self, MountError> {
        let folder = empty_folder(folder)?;
        let access = FileAccess {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            is_for_all: options.allow_other,
        };
        let handles = Arc::new(Handles::new(options.report));
        let filesystem = Filesystem::new(
            exports,
            access,
            Arc::clone(&handles),
            Arc::clone(&options.board),
        );
        let mut guard = UnmountGuard::spawn_guard(&folder).map_err(MountError::Fuse)?;
        let session = Session::new(filesystem, &folder, &mount_config(options.allow_other))
            .map_err(MountError::Fuse)?;
        let number = unmount::mount_number(&folder).map_err(MountError::Fuse)?;
        guard.guard_mount(number).map_err(MountError::Fuse)?;
        let served = Arc::new(ServiceEnd::default());
        invalidation::start_invalidation(
            options.board,
            Arc::clone(&handles),
            session.notifier(),
            Arc::clone(&served),
        )
        .map_err(MountError::Fuse)?;
        spawn_service(session, Arc::clone(&served)).map_err(MountError::Fuse)?;
        Ok(Self {
            folder,
            number,
            handles,
            served,
            guard: Some(guard),
        })
    }

    /// The folder, as an absolute path without links.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Waits until somebody unmounts the folder, at most for `limit`, and says whether it is
    /// unmounted and everything is closed.
    #[must_use]
    pub fn wait_unmounted(&self, limit: Duration) -> bool {
        self.served.wait_until_ended(limit)
    }

    /// Unmounts the folder. While files are open it waits for up to `grace`; then it takes them
    /// away from whoever uses them, as a power failure would, except that what was written is
    /// flushed. Returns when every device is closed, at the latest about ten seconds after `grace`.
    pub fn stop_within(mut self, grace: Duration) -> Result<(), MountError> {
        self.unmount_within(grace)
    }

    fn unmount_within(&mut self, grace: Duration) -> Result<(), MountError> {
        let asked = Instant::now();
        loop {
            let is_busy = self.is_busy()?;
            if self.served.wait_until_ended(RETRY_INTERVAL) {
                break;
            }
            if asked.elapsed() >= grace {
                self.cut_off(is_busy)
                    .map_err(|source| self.folder_error(source))?;
                break;
            }
        }
        self.guard = None;
        if self.served.wait_until_ended(LAST_REQUESTS) {
            Ok(())
        } else {
            Err(MountError::StillServing)
        }
    }

    /// Frees the folder and closes what is open, though the kernel may still ask for it: without
    /// root, and after somebody else unmounted lazily, it cannot be kept from that everywhere.
    fn cut_off(&self, is_busy: bool) -> io::Result<()> {
        if is_busy {
            unmount::by_force(&self.folder, self.number)?;
        }
        let (handles, served) = (Arc::clone(&self.handles), Arc::clone(&self.served));
        let closing = move || {
            handles.close_all();
            served.mark_ended();
        };
        thread::Builder::new()
            .name("fuse-close".to_owned())
            .spawn(closing)
            .map(drop)
    }

    /// Tries to unmount.
    fn is_busy(&self) -> Result<bool, MountError> {
        match unmount::unmount_if_idle(&self.folder, self.number)
            .map_err(|source| self.folder_error(source))?
        {
            UnmountOutcome::Unmounted => Ok(false),
            UnmountOutcome::Busy => Ok(true),
            UnmountOutcome::Covered => Err(MountError::Covered(self.folder.clone())),
        }
    }

    fn folder_error(&self, source: io::Error) -> MountError {
        MountError::Folder {
            folder: self.folder.clone(),
            source,
        }
    }
}

impl Drop for Mount {
    /// As [`Mount::stop_within`] without grace. After a stop there is nothing left to do.
    fn drop(&mut self) {
        if self.guard.is_some() {
            let _ = self.unmount_within(Duration::ZERO);
        }
    }
}

fn mount_config(allow_other: bool) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(unmount::SOURCE.to_owned()),
        MountOption::DefaultPermissions,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoExec,
        MountOption::NoAtime,
    ];
    config.acl = if allow_other {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    config.n_threads = Some(WORKER_COUNT);
    config.clone_fd = true;
    config
}

/// Answers the kernel until the mount is gone. The devices are closed before `served` says that it
/// has ended.
fn spawn_service(session: Session<Filesystem>, served: Arc<ServiceEnd>) -> io::Result<()> {
    let serving = move || {
        // It ends with an error only when the kernel breaks its own rules, and the mount is then
        // gone all the same.
        let _ = session.run();
        served.mark_ended();
    };
    thread::Builder::new()
        .name("fuse".to_owned())
        .spawn(serving)
        .map(drop)
}

/// `folder` without links, freed of a dead mount and empty.
fn empty_folder(folder: &Path) -> Result<PathBuf, MountError> {
    let fail = |source| MountError::Folder {
        folder: folder.to_path_buf(),
        source,
    };
    unmount::the_dead(folder).map_err(fail)?;
    let folder = folder.canonicalize().map_err(fail)?;
    let is_empty = fs::read_dir(&folder).map_err(fail)?.next().is_none();
    if is_empty {
        Ok(folder)
    } else {
        Err(MountError::NotEmpty(folder))
    }
}
