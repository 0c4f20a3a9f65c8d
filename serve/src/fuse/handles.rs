//! File handles: which files are open, until all are closed at once when the mount ends.
//!
//! The kernel may send requests even after that, if the mount could not be removed: they fail
//! because the server is stopping.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use vellum_core::device::DeviceError;

use super::Report;
use super::file::OpenFile;
use super::refusal::Refusal;
use crate::change_board::DeviceAddress;

/// Interval of the polls that find out if the last request for a file has been answered.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// Handles and the files behind them.
pub(super) struct Handles {
    open: RwLock<HandleTable>,
    /// Held while all are closed: who asks for it a second time waits until they are.
    closing: Mutex<()>,
    report: Report,
}

#[derive(Default)]
struct HandleTable {
    files: HashMap<u64, Arc<OpenFile>>,
    next: u64,
    is_over: bool,
}

impl Handles {
    pub(super) fn new(report: Report) -> Self {
        Self {
            open: RwLock::default(),
            closing: Mutex::default(),
            report,
        }
    }

    /// A handle for `file`, not given out before.
    pub(super) fn add_file(&self, file: OpenFile) -> Result<u64, Refusal> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if open.is_over {
            return Err(DeviceError::Stopping.into());
        }
        let handle = open.next;
        open.next += 1;
        open.files.insert(handle, Arc::new(file));
        Ok(handle)
    }

    /// Puts a request to an open file.
    pub(super) fn request_from<T>(
        &self,
        handle: u64,
        request: impl FnOnce(&OpenFile) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let file = self.get(handle)?;
        request(&file).inspect_err(|refusal| self.report_refusal(&file.export, refusal))
    }

    /// Any open file with this inode.
    pub(super) fn any_open_file(&self, inode: u64) -> Option<Arc<OpenFile>> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.files
            .values()
            .find(|file| file.inode == inode)
            .map(Arc::clone)
    }

    /// The inodes that are open and show `device`.
    pub(super) fn inodes_of_device(&self, device: DeviceAddress) -> BTreeSet<u64> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let files = open.files.values();
        files
            .filter(|file| DeviceAddress::of_device(&*file.device) == device)
            .map(|file| file.inode)
            .collect()
    }

    /// Closes one. Its device goes with the last request for it.
    pub(super) fn remove(&self, handle: u64) {
        let removed = self
            .open
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .files
            .remove(&handle);
        // Outside of the lock: a device may have work to do as it goes.
        drop(removed);
    }

    /// Closes all: no more requests, the last ones are waited for, and what was written is made
    /// durable for programs that could not ask for it any more. Waits as long as devices let it.
    pub(super) fn close_all(&self) {
        let _closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        let files = {
            let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
            open.is_over = true;
            std::mem::take(&mut open.files)
        };
        for file in files.into_values() {
            while Arc::strong_count(&file) > 1 {
                thread::sleep(LOOK_INTERVAL);
            }
            if let Err(refusal) = file.sync_data() {
                self.report_refusal(&file.export, &refusal);
            }
        }
    }

    /// Tells the person who runs the server something.
    pub(super) fn report_line(&self, line: &str) {
        (self.report)(line);
    }

    /// Tells the person who runs the server what the program that asked cannot be told.
    pub(super) fn report_refusal(&self, export: &str, refusal: &Refusal) {
        if let Some(news) = refusal.operator_message() {
            (self.report)(&format!("{export}: {news}"));
        }
    }

    fn get(&self, handle: u64) -> Result<Arc<OpenFile>, Refusal> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        match open.files.get(&handle) {
            Some(file) => Ok(Arc::clone(file)),
            None if open.is_over => Err(DeviceError::Stopping.into()),
            None => Err(Refusal::BadHandle),
        }
    }
}
