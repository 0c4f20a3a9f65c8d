//! A device that is plain bytes, with faults that can be switched on.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};

use vellum_core::device::{
    AllocationStatus, Device, DeviceError, ExportInfo, Exports, Intent, OpenError, TypedRange,
};

/// The grid on which it knows zeros and changes.
pub(crate) const GRID: usize = 4096;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Writes find no room.
    NoSpace,
    /// Reads and writes fail from this byte on.
    Damaged(u64),
    /// Flushes fail.
    FlushFails,
    /// Reads do not end until the fault is changed.
    Hangs,
    /// Reads do not end until so many have begun.
    Gathers(usize),
    /// The device says that it is stopping.
    Stopping,
}

/// Plain bytes.
pub(crate) struct Memory {
    bytes: RwLock<Vec<u8>>,
    durable: RwLock<Vec<u8>>,
    base: Vec<u8>,
    read_only: bool,
    shareable: AtomicBool,
    fault: Mutex<Fault>,
    fault_changed: Condvar,
    read_count: AtomicUsize,
    pub(crate) flush_count: AtomicUsize,
    pub(crate) prefetch_count: AtomicUsize,
    /// The number of times that its guest was said to be switched off.
    pub(crate) left_count: AtomicUsize,
}

impl Memory {
    /// `bytes`, of which the snapshot "before" has the same.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self {
            durable: RwLock::new(bytes.clone()),
            base: bytes.clone(),
            bytes: RwLock::new(bytes),
            read_only: false,
            shareable: AtomicBool::new(false),
            fault: Mutex::new(Fault::None),
            fault_changed: Condvar::new(),
            read_count: AtomicUsize::new(0),
            flush_count: AtomicUsize::new(0),
            prefetch_count: AtomicUsize::new(0),
            left_count: AtomicUsize::new(0),
        }
    }

    pub(crate) fn read_only(bytes: Vec<u8>) -> Self {
        Self {
            read_only: true,
            ..Self::new(bytes)
        }
    }

    /// Several clients may write from now on.
    pub(crate) fn make_shareable(&self) {
        self.shareable.store(true, Ordering::Relaxed);
    }

    pub(crate) fn set_fault(&self, fault: Fault) {
        self.read_count.store(0, Ordering::Relaxed);
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
        self.fault_changed.notify_all();
    }

    pub(crate) fn content(&self) -> Vec<u8> {
        self.bytes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What a power loss now would leave.
    pub(crate) fn durable(&self) -> Vec<u8> {
        self.durable
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn check(&self, offset: u64, len: u64, writing: bool) -> Result<(), DeviceError> {
        let end = self.checked_range(offset, len)?.end;
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = self
            .read_count
            .fetch_add(usize::from(!writing), Ordering::Relaxed)
            + 1;
        if let Fault::Gathers(count) = *fault
            && begun >= count
        {
            self.fault_changed.notify_all();
        }
        let hangs = |fault: &mut Fault| match *fault {
            Fault::Hangs => !writing,
            Fault::Gathers(count) => !writing && self.read_count.load(Ordering::Relaxed) < count,
            _ => false,
        };
        let fault = *self
            .fault_changed
            .wait_while(fault, hangs)
            .unwrap_or_else(PoisonError::into_inner);
        match fault {
            Fault::NoSpace if writing => Err(DeviceError::NoSpace("the memory is full".to_owned())),
            Fault::Damaged(from) if end > from => {
                Err(DeviceError::Io("the memory is damaged".to_owned()))
            }
            Fault::Stopping => Err(DeviceError::Stopping),
            _ if writing && self.read_only => Err(DeviceError::ReadOnly),
            _ => Ok(()),
        }
    }

    fn stretches<K: PartialEq>(
        &self,
        offset: u64,
        len: u64,
        count_max: usize,
        kind: impl Fn(usize, &[u8]) -> K,
    ) -> Vec<TypedRange<K>> {
        let bytes = self.bytes.read().unwrap_or_else(PoisonError::into_inner);
        let (mut at, end) = (offset as usize, (offset + len) as usize);
        let mut found: Vec<TypedRange<K>> = Vec::new();
        while at < end {
            let next = ((at / GRID + 1) * GRID).min(bytes.len());
            let kind = kind(at / GRID * GRID, &bytes[at / GRID * GRID..next]);
            let part = (next.min(end) - at) as u64;
            let count = found.len();
            match found.last_mut() {
                Some(last) if last.kind == kind => last.len += part,
                _ if count == count_max => break,
                _ => found.push(TypedRange {
                    offset: at as u64,
                    len: part,
                    kind,
                }),
            }
            at = next;
        }
        found
    }
}

impl Device for Memory {
    fn len(&self) -> u64 {
        self.base.len() as u64
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn is_shareable(&self) -> bool {
        self.shareable.load(Ordering::Relaxed)
    }

    fn preferred_len(&self) -> u32 {
        GRID as u32
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DeviceError> {
        self.check(offset, buffer.len() as u64, false)?;
        let bytes = self.bytes.read().unwrap_or_else(PoisonError::into_inner);
        buffer.copy_from_slice(&bytes[offset as usize..][..buffer.len()]);
        Ok(())
    }

    fn write_at(&self, written: &[u8], offset: u64) -> Result<(), DeviceError> {
        self.check(offset, written.len() as u64, true)?;
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        bytes[offset as usize..][..written.len()].copy_from_slice(written);
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        self.check(offset, len, true)?;
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        bytes[offset as usize..][..len as usize].fill(0);
        Ok(())
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.flush_count.fetch_add(1, Ordering::Relaxed);
        if *self.fault.lock().unwrap_or_else(PoisonError::into_inner) == Fault::FlushFails {
            return Err(DeviceError::Io("the flush failed".to_owned()));
        }
        let bytes = self.bytes.read().unwrap_or_else(PoisonError::into_inner);
        self.durable
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .copy_from_slice(&bytes);
        Ok(())
    }

    fn allocation(
        &self,
        offset: u64,
        len: u64,
        count_max: usize,
    ) -> Result<Vec<TypedRange<AllocationStatus>>, DeviceError> {
        self.check(offset, len, false)?;
        Ok(self.stretches(offset, len, count_max, |at, now| {
            match (
                now.iter().all(|byte| *byte == 0),
                self.base[at..at + now.len()].iter().all(|byte| *byte == 0),
            ) {
                (false, _) => AllocationStatus::Data,
                (true, false) => AllocationStatus::Zero,
                (true, true) => AllocationStatus::Hole,
            }
        }))
    }

    fn comparable(&self) -> Vec<String> {
        vec!["before".to_owned()]
    }

    fn changes(
        &self,
        since: &str,
        offset: u64,
        len: u64,
        count_max: usize,
    ) -> Result<Vec<TypedRange<bool>>, DeviceError> {
        if since != "before" {
            return Err(DeviceError::Io(format!("there is no snapshot {since}")));
        }
        self.check(offset, len, false)?;
        Ok(self.stretches(offset, len, count_max, |at, now| {
            *now != self.base[at..at + now.len()]
        }))
    }

    fn guest_left(&self) {
        self.left_count.fetch_add(1, Ordering::Relaxed);
    }

    fn prefetch(&self, _: u64, _: u64) {
        self.prefetch_count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Some devices by name; the first is the default.
pub(crate) struct Devices(pub(crate) Vec<(&'static str, Arc<Memory>)>);

impl Devices {
    fn find(&self, name: &str) -> Result<&(&'static str, Arc<Memory>), OpenError> {
        let mut all = self.0.iter();
        all.find(|(own, _)| *own == name || name.is_empty())
            .ok_or_else(|| OpenError::Unknown(name.to_owned()))
    }
}

fn describe((name, device): &(&'static str, Arc<Memory>)) -> ExportInfo {
    let description = format!("{name} in memory");
    ExportInfo {
        name: (*name).to_owned(),
        len: device.len(),
        read_only: device.read_only,
        changed_ns: 0,
        description,
    }
}

impl Exports for Devices {
    fn list_exports(&self) -> Result<Vec<ExportInfo>, DeviceError> {
        Ok(self.0.iter().map(describe).collect())
    }

    fn export_info(&self, name: &str) -> Result<ExportInfo, OpenError> {
        self.find(name).map(describe)
    }

    fn open_export(&self, name: &str, _: Intent) -> Result<Arc<dyn Device>, OpenError> {
        if name == "busy" {
            return Err(OpenError::Refused("somebody else writes to it".to_owned()));
        }
        self.find(name)
            .map(|(_, device)| Arc::clone(device) as Arc<dyn Device>)
    }

    fn revision(&self) -> u64 {
        0
    }
}
