//! Recorded block devices: files of a FUSE mount that log every write and flush, so that a loop
//! device can stand on them and a real file system on that.
//!
//! The requests of the file system above arrive here in the order in which the kernel sends them:
//! writes, and flushes as `fsync`. Discarding and punching are refused, so that there is no third
//! kind of change.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, Session, WriteFlags,
};

use crate::block::{BlockContent, BlockEvent, BlockTrace};

/// The longest request that the kernel sends.
const REQUEST_LEN_MAX: u32 = 1 << 20;
/// The kernel's number of the folder.
const ROOT: u64 = 1;
/// The preferred length of a request in `stat`, in bytes.
const BLOCK_LEN: u32 = 4096;

/// A folder whose files are block devices. Unmounted when dropped.
pub struct DeviceFolder {
    path: PathBuf,
    devices: Arc<Devices>,
    next: AtomicU64,
    session: Option<BackgroundSession>,
}

/// A block device in a [`DeviceFolder`].
pub struct RecordedDevice {
    state: Mutex<Recorded>,
}

struct Recorded {
    content: BlockContent,
    trace: BlockTrace,
}

#[derive(Default)]
struct Devices(Mutex<BTreeMap<u64, Arc<RecordedDevice>>>);

struct DeviceFilesystem {
    devices: Arc<Devices>,
}

impl DeviceFolder {
    /// Mounts an empty folder of devices at `path`, which must be an empty folder.
    pub fn mount(path: &Path) -> io::Result<Self> {
        let devices = Arc::new(Devices::default());
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("vellum-power".to_owned()),
            MountOption::NoAtime,
        ];
        // One: the order of arrival is the order of the trace.
        config.n_threads = Some(1);
        let filesystem = DeviceFilesystem {
            devices: Arc::clone(&devices),
        };
        let session = Session::new(filesystem, path, &config)?.spawn()?;
        Ok(Self {
            path: path.to_owned(),
            devices,
            next: AtomicU64::new(ROOT + 1),
            session: Some(session),
        })
    }

    /// A new device that holds `content`, and the file that it is.
    pub fn add(&self, content: BlockContent) -> (PathBuf, Arc<RecordedDevice>) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let trace = BlockTrace {
            start: content.clone(),
            events: Vec::new(),
        };
        let device = Arc::new(RecordedDevice {
            state: Mutex::new(Recorded { content, trace }),
        });
        self.devices.lock().insert(number, Arc::clone(&device));
        (self.path.join(number.to_string()), device)
    }

    /// Takes the device at `path` away.
    pub fn remove(&self, path: &Path) {
        let number = path.file_name().and_then(number_of);
        number.and_then(|number| self.devices.lock().remove(&number));
    }
}

impl Drop for DeviceFolder {
    fn drop(&mut self) {
        // Its last users get errors: it is for tests, which have ended.
        let path = self.path.clone();
        let _ = rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH);
        drop(self.session.take());
    }
}

impl Devices {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<RecordedDevice>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RecordedDevice {
    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that this is moment `moment`: everything that happened before is before it.
    pub fn note(&self, moment: u64) {
        self.lock().trace.events.push(BlockEvent::Moment(moment));
    }

    /// All that happened so far.
    #[must_use]
    pub fn trace(&self) -> BlockTrace {
        self.lock().trace.clone()
    }

    fn len(&self) -> u64 {
        self.lock().content.len()
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        let mut recorded = self.lock();
        recorded.content.write(offset, bytes);
        recorded.trace.events.push(BlockEvent::Write {
            offset,
            bytes: bytes.into(),
        });
    }
}

impl DeviceFilesystem {
    fn device(&self, inode: INodeNo) -> Result<Arc<RecordedDevice>, Errno> {
        self.devices
            .lock()
            .get(&inode.0)
            .cloned()
            .ok_or(Errno::ENOENT)
    }

    fn attributes(&self, inode: INodeNo) -> Result<FileAttr, Errno> {
        if inode.0 == ROOT {
            return Ok(attributes(inode, FileType::Directory, 0o700, 0));
        }
        let len = self.device(inode)?.len();
        Ok(attributes(inode, FileType::RegularFile, 0o600, len))
    }
}

fn number_of(name: &OsStr) -> Option<u64> {
    name.to_str()?.parse().ok()
}

fn attributes(inode: INodeNo, kind: FileType, perm: u16, size: u64) -> FileAttr {
    FileAttr {
        ino: inode,
        size,
        blocks: size / 512,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_LEN,
        flags: 0,
    }
}

impl fuser::Filesystem for DeviceFilesystem {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        let _ = config.set_max_write(REQUEST_LEN_MAX);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let number = number_of(name).filter(|_| parent.0 == ROOT);
        let found = number
            .ok_or(Errno::ENOENT)
            .and_then(|number| self.attributes(INodeNo(number)));
        match found {
            Ok(found) => reply.entry(&Duration::ZERO, &found, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        match self.attributes(inode) {
            Ok(found) => reply.attr(&Duration::ZERO, &found),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _cookie: u64,
        reply: ReplyDirectory,
    ) {
        reply.ok();
    }

    fn open(&self, _request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.device(inode) {
            Ok(_) => reply.opened(FileHandle(inode.0), FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        len: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.device(inode) {
            Ok(device) => {
                let bytes = device.lock().content.read(offset, len as usize);
                reply.data(&bytes);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        bytes: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.device(inode) {
            Ok(device) => {
                device.write(offset, bytes);
                reply.written(bytes.len() as u32);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn fsync(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        match self.device(inode) {
            Ok(device) => {
                device.lock().trace.events.push(BlockEvent::Flush);
                reply.ok();
            }
            Err(errno) => reply.error(errno),
        }
    }

    /// One of perhaps many closes, and no promise.
    fn flush(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fallocate(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _offset: u64,
        _len: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EOPNOTSUPP);
    }
}
