//! Disks in memory that count what is done to them, and a list of them that can change.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::Duration;

use vellum_core::device::{
    AllocationStatus, Device, DeviceError, ExportInfo, ExportSpace, Exports, Intent, OpenError,
    TypedRange,
};

/// What is zeroed in whole blocks of this length is a hole, the rest is data.
pub(crate) const BLOCK_LEN: usize = 4096;

/// The bytes of one disk, and what happened to it.
#[derive(Default)]
pub(crate) struct Disk {
    content: Mutex<Content>,
    read_only: AtomicBool,
    pub(crate) flush_count: AtomicUsize,
    pub(crate) attached_count: AtomicUsize,
    pub(crate) longest_write: AtomicUsize,
    /// What every request is answered with, if set.
    pub(crate) failure: Mutex<Option<DeviceError>>,
    /// While set, a flush waits until a read has been answered.
    pub(crate) flush_awaits_read: AtomicBool,
    read_count: Mutex<usize>,
    was_read: Condvar,
}

#[derive(Default)]
struct Content {
    bytes: Vec<u8>,
    is_data: Vec<bool>,
}

impl Disk {
    pub(crate) fn new(len: usize) -> Arc<Self> {
        let content = Content {
            bytes: vec![0; len],
            is_data: vec![false; len.div_ceil(BLOCK_LEN)],
        };
        Arc::new(Self {
            content: Mutex::new(content),
            ..Self::default()
        })
    }

    pub(crate) fn read_only(len: usize, byte: u8) -> Arc<Self> {
        let disk = Self::new(len);
        disk.write(&vec![byte; len], 0);
        disk.seal();
        disk
    }

    /// From now on it can only be read.
    pub(crate) fn seal(&self) {
        self.read_only.store(true, Ordering::SeqCst);
    }

    /// As another server would.
    pub(crate) fn write(&self, bytes: &[u8], offset: usize) {
        let mut content = self.content();
        content.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        content.is_data[offset / BLOCK_LEN..(offset + bytes.len()).div_ceil(BLOCK_LEN)].fill(true);
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.content().bytes.clone()
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap()
    }

    fn fail(&self) -> Result<(), DeviceError> {
        self.failure.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

/// A disk that somebody has opened.
struct Attached(Arc<Disk>);

impl Drop for Attached {
    fn drop(&mut self) {
        self.0.attached_count.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Device for Attached {
    fn len(&self) -> u64 {
        self.0.content().bytes.len() as u64
    }

    fn is_read_only(&self) -> bool {
        self.0.read_only.load(Ordering::SeqCst)
    }

    fn preferred_len(&self) -> u32 {
        BLOCK_LEN as u32
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        self.0.fail()?;
        let offset = offset as usize;
        buffer.copy_from_slice(
            self.0
                .content()
                .bytes
                .get(offset..offset + buffer.len())
                .ok_or(DeviceError::OutOfRange)?,
        );
        *self.0.read_count.lock().unwrap() += 1;
        self.0.was_read.notify_all();
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), DeviceError> {
        self.0.fail()?;
        if self.is_read_only() {
            return Err(DeviceError::ReadOnly);
        }
        self.0
            .longest_write
            .fetch_max(bytes.len(), Ordering::SeqCst);
        self.0.write(bytes, offset as usize);
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        self.0.fail()?;
        let (start, end) = (offset as usize, (offset + len) as usize);
        let mut content = self.0.content();
        let disk_len = content.bytes.len();
        content
            .bytes
            .get_mut(start..end)
            .ok_or(DeviceError::OutOfRange)?
            .fill(0);
        let whole = start.div_ceil(BLOCK_LEN)..if end == disk_len {
            end.div_ceil(BLOCK_LEN)
        } else {
            end / BLOCK_LEN
        };
        if !whole.is_empty() {
            content.is_data[whole].fill(false);
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.0.fail()?;
        if self.0.flush_awaits_read.load(Ordering::SeqCst) {
            let reads = self.0.read_count.lock().unwrap();
            let before = *reads;
            let limit = Duration::from_mins(2);
            let (reads, waited) = self
                .0
                .was_read
                .wait_timeout_while(reads, limit, |reads| *reads == before)
                .unwrap();
            drop(reads);
            if waited.timed_out() {
                return Err(DeviceError::Io("no read came through".to_owned()));
            }
        }
        self.0.flush_count.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn allocation(
        &self,
        offset: u64,
        len: u64,
        count_max: usize,
    ) -> Result<Vec<TypedRange<AllocationStatus>>, DeviceError> {
        self.0.fail()?;
        let content = self.0.content();
        let end = offset + len;
        let mut stretches: Vec<TypedRange<AllocationStatus>> = Vec::new();
        let mut at = offset;
        while at < end {
            let block = at as usize / BLOCK_LEN;
            let next = ((block + 1) * BLOCK_LEN) as u64;
            let kind = if content.is_data[block] {
                AllocationStatus::Data
            } else {
                [AllocationStatus::Zero, AllocationStatus::Hole][block % 2]
            };
            let len = next.min(end) - at;
            let is_full = stretches.len() == count_max;
            match stretches.last_mut() {
                Some(last) if last.kind == kind => last.len += len,
                _ if is_full => break,
                _ => stretches.push(TypedRange {
                    offset: at,
                    len,
                    kind,
                }),
            }
            at += len;
        }
        Ok(stretches)
    }

    fn comparable(&self) -> Vec<String> {
        Vec::new()
    }

    fn changes(
        &self,
        since: &str,
        _offset: u64,
        _len: u64,
        _count_max: usize,
    ) -> Result<Vec<TypedRange<bool>>, DeviceError> {
        Err(DeviceError::Io(format!("no {since}")))
    }
}

/// Disks by name.
#[derive(Default)]
pub(crate) struct Disks {
    by_name: Mutex<BTreeMap<String, (Arc<Disk>, u64)>>,
    attached: Mutex<BTreeMap<String, Weak<Attached>>>,
    revision: AtomicU64,
    /// The room under them, if anything is to be said of it.
    pub(crate) space: Mutex<Option<ExportSpace>>,
    /// Names that somebody else writes to.
    pub(crate) refused: Mutex<Vec<String>>,
}

impl Disks {
    pub(crate) fn add(&self, name: &str, changed_ms: u64, disk: &Arc<Disk>) {
        self.by_name
            .lock()
            .unwrap()
            .insert(name.to_owned(), (Arc::clone(disk), changed_ms));
        self.revision.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn remove(&self, name: &str) {
        self.by_name.lock().unwrap().remove(name);
        self.revision.fetch_add(1, Ordering::SeqCst);
    }
}

fn export_info(name: &str, disk: &Disk, changed_ms: u64) -> ExportInfo {
    let read_only = disk.read_only.load(Ordering::SeqCst);
    ExportInfo {
        name: name.to_owned(),
        len: disk.content().bytes.len() as u64,
        read_only,
        changed_ns: changed_ms * 1_000_000,
        description: String::new(),
    }
}

impl Exports for Disks {
    fn list_exports(&self) -> Result<Vec<ExportInfo>, DeviceError> {
        Ok(self
            .by_name
            .lock()
            .unwrap()
            .iter()
            .map(|(name, (disk, changed_ms))| export_info(name, disk, *changed_ms))
            .collect())
    }

    fn export_info(&self, name: &str) -> Result<ExportInfo, OpenError> {
        let disks = self.by_name.lock().unwrap();
        disks
            .get(name)
            .map(|(disk, changed_ms)| export_info(name, disk, *changed_ms))
            .ok_or_else(|| OpenError::Unknown(name.to_owned()))
    }

    fn open_export(&self, name: &str, intent: Intent) -> Result<Arc<dyn Device>, OpenError> {
        if intent == Intent::ReadWrite
            && self
                .refused
                .lock()
                .unwrap()
                .iter()
                .any(|refused| refused == name)
        {
            return Err(OpenError::Refused("somebody else writes to it".to_owned()));
        }
        let disk = self
            .by_name
            .lock()
            .unwrap()
            .get(name)
            .map(|(disk, _)| Arc::clone(disk))
            .ok_or_else(|| OpenError::Unknown(name.to_owned()))?;
        let mut attached = self.attached.lock().unwrap();
        // The kernel tells of a close only some time after it: another disk may have the name by
        // then.
        if let Some(open) = attached
            .get(name)
            .and_then(Weak::upgrade)
            .filter(|open| Arc::ptr_eq(&open.0, &disk))
        {
            return Ok(open);
        }
        disk.attached_count.fetch_add(1, Ordering::SeqCst);
        let open = Arc::new(Attached(disk));
        attached.insert(name.to_owned(), Arc::downgrade(&open));
        Ok(open)
    }

    fn space_info(&self) -> Result<ExportSpace, DeviceError> {
        let lens = self
            .list_exports()?
            .into_iter()
            .map(|export| export.len)
            .sum();
        Ok(self.space.lock().unwrap().unwrap_or(ExportSpace {
            len: lens,
            free_len: 0,
            usable_len: 0,
        }))
    }

    fn revision(&self) -> u64 {
        self.revision.load(Ordering::SeqCst)
    }
}
