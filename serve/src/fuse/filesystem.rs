//! The kernel's requests, put to the tree and to open files. It translates and decides nothing.
//!
//! **The kernel keeps no names and no attributes** (they are valid for no time), so a listing is
//! always that of this moment, and nothing needs to be told to it when exports come and go.
//!
//! **It keeps no bytes of images** (`FOPEN_DIRECT_IO`), because others write them too, over NBD.
//! What a program reads here is what the device says at that moment, and what it wrote is with the
//! device when `write` returns; `fsync` is `flush`. Mappings live in the kernel's memory
//! nevertheless. Each begins afresh, `msync` and `munmap` write it back, reads and writes through
//! the same mount see it; a page that is mapped already shows a write made over NBD since a moment
//! later (`invalidation`).
//!
//! **It keeps the bytes of snapshots**, which never change: reading ahead and reading again are
//! then the kernel's work.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use vellum_core::device::{Device, Exports, Intent};

use super::file::OpenFile;
use super::handles::Handles;
use super::refusal::Refusal;
use super::tree::{ExportFile, ExportFolder, FILE_NAME_LEN_MAX, FileTree, InodeTarget};
use crate::change_board::ChangeBoard;

/// The longest read and write: the most that Linux sends unless an administrator allowed more.
const REQUEST_LEN_MAX: u32 = 1 << 20;
/// Requests of programs that do not wait (read-ahead, asynchronous I/O) that the kernel hands over
/// before it holds some back.
const BACKGROUND_COUNT_MAX: u16 = 64;
/// Time for which the kernel may cache a name or an attribute.
const BELIEVED: Duration = Duration::ZERO;
/// Best length of a request, as `stat` reports it. Larger ones confuse kernels that derive their
/// page handling from it.
const BLOCK_LEN: u32 = 4096;
/// The unit of `st_blocks`, whatever the block length.
const STAT_BLOCK_LEN: u64 = 512;

thread_local! {
    /// Read buffer of a worker: memory for one request, kept from one to the next.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Whom the files belong to and what others may do.
#[derive(Clone, Copy, Debug)]
pub(super) struct FileAccess {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) is_for_all: bool,
}

impl FileAccess {
    fn folder_mode(self) -> u16 {
        if self.is_for_all { 0o555 } else { 0o500 }
    }

    fn file_mode(self, read_only: bool) -> u16 {
        match (self.is_for_all, read_only) {
            (false, false) => 0o600,
            (false, true) => 0o400,
            (true, false) => 0o666,
            (true, true) => 0o444,
        }
    }
}

/// Everything behind the mount.
pub(super) struct Filesystem {
    exports: Arc<dyn Exports>,
    access: FileAccess,
    handles: Arc<Handles>,
    board: Arc<ChangeBoard>,
    tree: Mutex<SeenTree>,
}

/// The tree, and the revision of the exports that it shows.
struct SeenTree {
    tree: FileTree,
    revision: Option<u64>,
}

impl Filesystem {
    pub(super) fn new(
        exports: Arc<dyn Exports>,
        access: FileAccess,
        handles: Arc<Handles>,
        board: Arc<ChangeBoard>,
    ) -> Self {
        let tree = Mutex::new(SeenTree {
            tree: FileTree::new(),
            revision: None,
        });
        Self {
            exports,
            access,
            handles,
            board,
            tree,
        }
    }

    /// The tree as of now. The revision is read first: a change while the list is made is seen the
    /// next time.
    fn current_tree(&self) -> Result<MutexGuard<'_, SeenTree>, Refusal> {
        let mut seen = self.tree.lock().unwrap_or_else(PoisonError::into_inner);
        let revision = self.exports.revision();
        if seen.revision != Some(revision) {
            let exports = self.exports.list_exports()?;
            for line in seen.tree.update_files(&exports) {
                self.handles.report_line(&line);
            }
            seen.revision = Some(revision);
        }
        Ok(seen)
    }

    fn node_of(&self, inode: u64) -> Result<InodeTarget, Refusal> {
        self.current_tree()?
            .tree
            .node_of(inode)
            .ok_or(Refusal::Gone)
    }

    fn file_of(&self, inode: u64) -> Result<Arc<ExportFile>, Refusal> {
        match self.node_of(inode)? {
            InodeTarget::File(file) => Ok(file),
            InodeTarget::Root | InodeTarget::Folder(_) => Err(Refusal::Invalid),
        }
    }

    fn look_up_name(&self, parent: u64, name: &OsStr) -> Result<FileAttr, Refusal> {
        let inode = self
            .current_tree()?
            .tree
            .look_up_name(parent, name)
            .ok_or(Refusal::Unknown)?;
        self.node_attributes(inode)
    }

    /// Asked of the exports each time: lengths and times change without a new revision.
    fn node_attributes(&self, inode: u64) -> Result<FileAttr, Refusal> {
        match self.node_of(inode) {
            Ok(InodeTarget::Root) => Ok(self.folder_attributes(inode, 4)),
            Ok(InodeTarget::Folder(_)) => Ok(self.folder_attributes(inode, 2)),
            Ok(InodeTarget::File(file)) => {
                let info = self.exports.export_info(&file.export)?;
                let changed = UNIX_EPOCH
                    .checked_add(Duration::from_nanos(info.changed_ns))
                    .unwrap_or(UNIX_EPOCH);
                Ok(self.file_attributes(inode, info.len, info.read_only, changed))
            }
            Err(refusal) => self.nameless_attributes(inode).ok_or(refusal),
        }
    }

    /// Those of a file that is open, though its name is gone.
    fn nameless_attributes(&self, inode: u64) -> Option<FileAttr> {
        let device = &self.handles.any_open_file(inode)?.device;
        Some(FileAttr {
            nlink: 0,
            ..self.file_attributes(inode, device.len(), device.is_read_only(), UNIX_EPOCH)
        })
    }

    fn folder_attributes(&self, inode: u64, link_count: u32) -> FileAttr {
        let file = self.file_attributes(inode, 0, true, UNIX_EPOCH);
        FileAttr {
            kind: FileType::Directory,
            perm: self.access.folder_mode(),
            nlink: link_count,
            ..file
        }
    }

    fn file_attributes(
        &self,
        inode: u64,
        len: u64,
        read_only: bool,
        changed: SystemTime,
    ) -> FileAttr {
        FileAttr {
            ino: INodeNo(inode),
            size: len,
            blocks: block_count(len),
            atime: changed,
            mtime: changed,
            ctime: changed,
            crtime: changed,
            kind: FileType::RegularFile,
            perm: self.access.file_mode(read_only),
            nlink: 1,
            uid: self.access.uid,
            gid: self.access.gid,
            rdev: 0,
            blksize: BLOCK_LEN,
            flags: 0,
        }
    }

    fn open_file(&self, inode: u64, flags: OpenFlags) -> Result<(FileHandle, FopenFlags), Refusal> {
        let file = self.file_of(inode)?;
        let intent = if flags.acc_mode() == OpenAccMode::O_RDONLY {
            Intent::Read
        } else {
            Intent::ReadWrite
        };
        let device = self.open_device(&file, intent)?;
        // The file was opened by name, and another may have got that name in between: check that
        // the inode still stands for the same file.
        if self.file_of(inode)? != file {
            return Err(Refusal::Gone);
        }
        let never_changes = file.folder == ExportFolder::Snapshots && device.is_read_only();
        let handle = self.handles.add_file(OpenFile {
            inode,
            export: file.export.clone(),
            _watched: (!never_changes).then(|| self.board.watch_device(&device)),
            device,
        })?;
        let kept = if never_changes {
            FopenFlags::FOPEN_KEEP_CACHE
        } else {
            FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
        };
        Ok((FileHandle(handle), kept))
    }

    fn open_device(&self, file: &ExportFile, intent: Intent) -> Result<Arc<dyn Device>, Refusal> {
        let opened = self
            .exports
            .open_export(&file.export, intent)
            .map_err(Refusal::from);
        let device =
            opened.inspect_err(|refusal| self.handles.report_refusal(&file.export, refusal))?;
        if intent == Intent::ReadWrite && device.is_read_only() {
            return Err(Refusal::ReadOnly);
        }
        Ok(device)
    }

    /// Cuts a file to a length, or leaves it as it is; its length stays, as that of a block device
    /// does. Nothing else can be set.
    fn set_len(
        &self,
        inode: u64,
        handle: Option<FileHandle>,
        len: Option<u64>,
        changes_more: bool,
    ) -> Result<FileAttr, Refusal> {
        let Some(len) = len.filter(|_| !changes_more) else {
            return Err(Refusal::Fixed);
        };
        if len != self.node_attributes(inode)?.size {
            match handle {
                Some(handle) => self
                    .handles
                    .request_from(handle.0, |file| self.truncate_file(file, len))?,
                None => self.truncate_file(&self.open_to_write(inode)?, len)?,
            }
        }
        self.node_attributes(inode)
    }

    /// Cuts a file. The kernel forgets mapped pages only where a file becomes shorter.
    fn truncate_file(&self, file: &OpenFile, len: u64) -> Result<(), Refusal> {
        file.zero_tail(len)?;
        let cut_len = file.device.len().saturating_sub(len);
        self.board.note_write(&*file.device, len, cut_len);
        Ok(())
    }

    /// The file behind `inode`, for one request that comes without a handle.
    fn open_to_write(&self, inode: u64) -> Result<OpenFile, Refusal> {
        let file = self.file_of(inode)?;
        let device = self.open_device(&file, Intent::ReadWrite)?;
        Ok(OpenFile {
            inode,
            export: file.export.clone(),
            _watched: None,
            device,
        })
    }

    fn list_folder(
        &self,
        inode: u64,
        cookie: u64,
        reply: &mut ReplyDirectory,
    ) -> Result<(), Refusal> {
        let seen = self.current_tree()?;
        for entry in seen.tree.list_entries(inode, cookie).ok_or(Refusal::Gone)? {
            let kind = if entry.is_folder {
                FileType::Directory
            } else {
                FileType::RegularFile
            };
            if reply.add(INodeNo(entry.inode), entry.cookie, kind, entry.name) {
                break;
            }
        }
        Ok(())
    }
}

/// Value of `st_blocks`: one block less than full. The true count would cost a walk through the
/// map, and `cp` and `tar` look for holes only in files that seem to have some; but a file without
/// any block is all hole to them.
fn block_count(len: u64) -> u64 {
    let full = len.div_ceil(STAT_BLOCK_LEN);
    full.saturating_sub(1).max(full.min(1))
}

fn answer_empty(reply: ReplyEmpty, result: Result<(), Refusal>) {
    match result {
        Ok(()) => reply.ok(),
        Err(refusal) => reply.error(refusal.errno()),
    }
}

fn answer_attributes(reply: ReplyAttr, result: Result<FileAttr, Refusal>) {
    match result {
        Ok(attributes) => reply.attr(&BELIEVED, &attributes),
        Err(refusal) => reply.error(refusal.errno()),
    }
}

impl fuser::Filesystem for Filesystem {
    /// Capabilities that the kernel lacks are left out: the rest works without them.
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for wanted in [
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        ] {
            let _ = config.add_capabilities(wanted);
        }
        let _ = config.set_max_write(REQUEST_LEN_MAX);
        let _ = config.set_max_background(BACKGROUND_COUNT_MAX);
        Ok(())
    }

    /// The kernel does not say goodbye to files that were open to the last.
    fn destroy(&mut self) {
        self.handles.close_all();
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.look_up_name(parent.0, name) {
            Ok(attributes) => reply.entry(&BELIEVED, &attributes, Generation(0)),
            Err(refusal) => reply.error(refusal.errno()),
        }
    }

    fn getattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        answer_attributes(reply, self.node_attributes(inode.0));
    }

    fn setattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let owner = mode.is_some() || uid.is_some() || gid.is_some();
        let times = size.is_none() && (atime.is_some() || mtime.is_some());
        answer_attributes(reply, self.set_len(inode.0, handle, size, owner || times));
    }

    fn readdir(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        cookie: u64,
        mut reply: ReplyDirectory,
    ) {
        match self.list_folder(inode.0, cookie, &mut reply) {
            Ok(()) => reply.ok(),
            Err(refusal) => reply.error(refusal.errno()),
        }
    }

    fn open(&self, _request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.open_file(inode.0, flags) {
            Ok((handle, kept)) => reply.opened(handle, kept),
            Err(refusal) => reply.error(refusal.errno()),
        }
    }

    fn read(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        len: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        BUFFER.with_borrow_mut(|buffer| {
            match self
                .handles
                .request_from(handle.0, |file| file.read_range(offset, len, buffer))
            {
                Ok(()) => reply.data(buffer),
                Err(refusal) => reply.error(refusal.errno()),
            }
        });
    }

    fn write(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        bytes: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self
            .handles
            .request_from(handle.0, |file| file.write_range(offset, bytes, flags.0))
        {
            Ok(len) => reply.written(len),
            Err(refusal) => reply.error(refusal.errno()),
        }
    }

    fn fsync(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        answer_empty(
            reply,
            self.handles.request_from(handle.0, OpenFile::sync_data),
        );
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    /// One of perhaps many closes, and no promise; saying so here makes the kernel write mapped
    /// pages back first.
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

    fn release(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.handles.remove(handle.0);
        reply.ok();
    }

    fn fallocate(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        answer_empty(
            reply,
            self.handles
                .request_from(handle.0, |file| file.zero_or_punch(offset, len, mode)),
        );
    }

    fn lseek(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        match self
            .handles
            .request_from(handle.0, |file| file.seek_data_or_hole(offset, whence))
        {
            Ok(offset) => reply.offset(offset),
            Err(refusal) => reply.error(refusal.errno()),
        }
    }

    /// Tells the room under the disks: where nothing can be written, they are full. Files cannot be
    /// made, so there is room for none.
    fn statfs(&self, _request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        let answer = self.current_tree().and_then(|seen| {
            let count = seen.tree.file_count();
            drop(seen);
            Ok((self.exports.space_info()?, count))
        });
        let blocks = |len: u64| len / u64::from(BLOCK_LEN);
        match answer {
            Ok((space, count)) => reply.statfs(
                blocks(space.len),
                blocks(space.free_len),
                blocks(space.usable_len),
                count,
                0,
                BLOCK_LEN,
                FILE_NAME_LEN_MAX as u32,
                BLOCK_LEN,
            ),
            Err(refusal) => reply.error(refusal.errno()),
        }
    }

    fn create(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(Refusal::Fixed.errno());
    }

    fn mknod(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _device: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Refusal::Fixed.errno());
    }

    fn mkdir(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Refusal::Fixed.errno());
    }

    fn symlink(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _target: &Path,
        reply: ReplyEntry,
    ) {
        reply.error(Refusal::Fixed.errno());
    }

    fn link(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _parent: INodeNo,
        _name: &OsStr,
        reply: ReplyEntry,
    ) {
        reply.error(Refusal::Fixed.errno());
    }

    fn unlink(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Refusal::Fixed.errno());
    }

    fn rmdir(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Refusal::Fixed.errno());
    }

    fn rename(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _new_parent: INodeNo,
        _new_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Refusal::Fixed.errno());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_seems_sparse_but_never_all_hole() {
        for (len, blocks) in [
            (0, 0),
            (1, 1),
            (512, 1),
            (513, 1),
            (1024, 1),
            (1025, 2),
            (1 << 20, 2047),
            (u64::MAX, (1 << 55) - 1),
        ] {
            assert_eq!(block_count(len), blocks, "{len}");
        }
    }
}
