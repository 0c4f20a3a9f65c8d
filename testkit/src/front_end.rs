//! A virtual machine without a machine: the front end of vhost-user, and the driver of a virtio
//! block device in memory of its own. It drives any server, Vellum's or `qemu-storage-daemon`.
//!
//! Of each queue the memory holds, one after another: the table of descriptors, the ring of what is
//! available, the ring of what was used, and slots, each a request's header, its result, and room
//! for its bytes. A slot has three descriptors of its own; [`FrontEnd::offer_chain`] takes any
//! others, as a hostile guest would.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{Ordering, fence};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

/// Descriptors of a queue.
pub const QUEUE_SIZE: u16 = 256;
/// Requests that a queue holds at once.
pub const SLOTS: usize = 64;
// A slot has three descriptors.
const _: () = assert!(SLOTS * 3 <= QUEUE_SIZE as usize);
/// Bytes of a slot before its data: header, result, and room to spare.
const SLOT_HEAD: u64 = 4096;
const RESULT_AT: u64 = 16;
/// Bytes of a queue's tables and rings.
const RINGS_LEN: u64 = 16 << 10;
const AVAILABLE_AT: u64 = 4096;
const USED_AT: u64 = 8192;
/// The address of the guest's memory in the front end, as it tells it. No byte is read there.
const USER_BASE: u64 = 1 << 40;
/// Logging of writes, tables of descriptors elsewhere, and event indexes: this driver has none.
const UNUSED_FEATURES: u64 = 1 << 26 | 1 << 28 | 1 << 29;
const NEXT: u16 = 1;
const DEVICE_WRITES: u16 = 2;
const NO_NOTIFY: u16 = 1;
/// A result that no device gives.
const UNANSWERED: u8 = 0xee;

/// The kinds of requests.
pub mod kind {
    /// Reads.
    pub const READ: u32 = 0;
    /// Writes.
    pub const WRITE: u32 = 1;
    /// Makes durable what was written.
    pub const FLUSH: u32 = 4;
    /// Asks for the serial number.
    pub const IDENTIFY: u32 = 8;
    /// Lets bytes go.
    pub const DISCARD: u32 = 11;
    /// Makes bytes zero.
    pub const WRITE_ZEROES: u32 = 13;
}

/// The server, or this machine, refuses.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct FrontEndError(String);

/// A descriptor, as a hostile guest writes it.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// Where its bytes are in the guest's memory.
    pub address: u64,
    /// How many.
    pub len: u32,
    /// 1 next, 2 the device writes, 4 a table of others.
    pub flags: u16,
    /// The next one.
    pub next: u16,
}

/// A guest that has connected, and set up its queues.
pub struct FrontEnd {
    front: Frontend,
    memory: GuestMemoryMmap,
    /// Held as long as the server maps it.
    file: File,
    features: u64,
    data_len: usize,
    queues: Vec<DriverQueue>,
}

struct DriverQueue {
    base: u64,
    kick: EventFd,
    call: EventFd,
    available: u16,
    used: u16,
}

impl From<vhost::Error> for FrontEndError {
    fn from(error: vhost::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<std::io::Error> for FrontEndError {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

impl FrontEnd {
    /// Connects to the server at `socket` with `queues` queues, whose slots have room for
    /// `data_len` bytes, and starts them.
    pub fn connect(socket: &Path, queues: usize, data_len: usize) -> Result<Self, FrontEndError> {
        let queue_len = queue_len(data_len);
        let file = shared_file(queue_len * queues as u64)?;
        let backing = FileOffset::new(file.try_clone()?, 0);
        let len = (queue_len * queues as u64) as usize;
        let memory =
            GuestMemoryMmap::from_ranges_with_files([(GuestAddress(0), len, Some(backing))])
                .map_err(|error| FrontEndError(error.to_string()))?;
        let (front, features) = negotiate(socket, &file, queues)?;
        let queue = |nth: usize| {
            Ok(DriverQueue {
                base: nth as u64 * queue_len,
                kick: EventFd::new(0)?,
                call: EventFd::new(0)?,
                available: 0,
                used: 0,
            })
        };
        let queues: Result<Vec<DriverQueue>, FrontEndError> = (0..queues).map(queue).collect();
        let guest = Self {
            front,
            memory,
            file,
            features,
            data_len,
            queues: queues?,
        };
        guest.start_queues()?;
        Ok(guest)
    }

    /// Connects to another server, as a VMM does whose server has gone: with the same memory, and
    /// the queues as they stand.
    pub fn reconnect(&mut self, socket: &Path) -> Result<(), FrontEndError> {
        (self.front, self.features) = negotiate(socket, &self.file, self.queues.len())?;
        self.start_queues()?;
        (0..self.queues.len()).for_each(|queue| self.kick(queue));
        Ok(())
    }

    fn start_queues(&self) -> Result<(), FrontEndError> {
        for (nth, queue) in self.queues.iter().enumerate() {
            let base = queue.base;
            self.front.set_vring_num(nth, QUEUE_SIZE)?;
            // What has a result is done: what comes behind it is next.
            self.front
                .set_vring_base(nth, self.word(base + USED_AT + 2))?;
            let user = USER_BASE + base;
            self.front.set_vring_addr(
                nth,
                &VringConfigData {
                    queue_max_size: QUEUE_SIZE,
                    queue_size: QUEUE_SIZE,
                    flags: 0,
                    desc_table_addr: user,
                    used_ring_addr: user + USED_AT,
                    avail_ring_addr: user + AVAILABLE_AT,
                    log_addr: None,
                },
            )?;
            self.front.set_vring_call(nth, &queue.call)?;
            self.front.set_vring_kick(nth, &queue.kick)?;
        }
        let mut front = self.front.clone();
        for nth in 0..self.queues.len() {
            front.set_vring_enable(nth, true)?;
        }
        Ok(())
    }

    /// The features that both ends have.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.features
    }

    /// The first `len` bytes of the configuration space.
    pub fn read_config(&mut self, len: u32) -> Result<Vec<u8>, FrontEndError> {
        let empty = vec![0; len as usize];
        let flags = VhostUserConfigFlags::empty();
        Ok(self.front.get_config(0, len, flags, &empty)?.1)
    }

    /// Writes a byte of the configuration space, and waits until the server has taken it, as QEMU
    /// does: requests go another way, and might come first.
    pub fn write_config(&mut self, offset: u32, byte: u8) -> Result<(), FrontEndError> {
        self.front.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        let flags = VhostUserConfigFlags::WRITABLE;
        let written = self.front.set_config(offset, flags, &[byte]);
        self.front.set_hdr_flags(VhostUserHeaderFlag::empty());
        Ok(written?)
    }

    /// Does one request and waits for it: its result, and the bytes that it read. `written` is a
    /// write's bytes, or segments; `read_len` the bytes to read.
    pub fn request(
        &mut self,
        queue: usize,
        kind: u32,
        sector: u64,
        written: &[u8],
        read_len: usize,
    ) -> (u8, Vec<u8>) {
        self.submit(queue, 0, kind, sector, written, read_len);
        while self.finished(queue).is_empty() {
            self.await_call(queue);
        }
        let bytes = self.answer(queue, 0, read_len);
        (self.result(queue, 0), bytes)
    }

    /// Begins a request in a slot that has none. The server is told.
    pub fn submit(
        &mut self,
        queue: usize,
        slot: usize,
        kind: u32,
        sector: u64,
        written: &[u8],
        read_len: usize,
    ) {
        let at = self.slot_at(queue, slot);
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.put(at, &header);
        self.put(at + RESULT_AT, &[UNANSWERED]);
        self.put(at + SLOT_HEAD, written);
        let first = (slot * 3) as u16;
        let data_len = written.len().max(read_len) as u32;
        let data_flags = if read_len > 0 { DEVICE_WRITES } else { 0 };
        let mut chain = vec![(at, 16, 0)];
        if data_len > 0 {
            chain.push((at + SLOT_HEAD, data_len, data_flags));
        }
        chain.push((at + RESULT_AT, 1, DEVICE_WRITES));
        let last = chain.len() - 1;
        let chain = chain.into_iter().enumerate();
        let chain = chain.map(|(nth, (address, len, flags))| Descriptor {
            address,
            len,
            flags: flags | if nth < last { NEXT } else { 0 },
            next: first + nth as u16 + 1,
        });
        let chain: Vec<Descriptor> = chain.collect();
        self.offer_chain(queue, first, &chain);
    }

    /// Writes descriptors from number `first` on, and makes them available as one request.
    pub fn offer_chain(&mut self, queue: usize, first: u16, chain: &[Descriptor]) {
        let base = self.queues[queue].base;
        for (nth, descriptor) in chain.iter().enumerate() {
            let mut bytes = descriptor.address.to_le_bytes().to_vec();
            bytes.extend(descriptor.len.to_le_bytes());
            bytes.extend(descriptor.flags.to_le_bytes());
            bytes.extend(descriptor.next.to_le_bytes());
            self.put(base + 16 * (u64::from(first) + nth as u64), &bytes);
        }
        let available = self.queues[queue].available;
        let entry = u64::from(available % QUEUE_SIZE);
        self.put(base + AVAILABLE_AT + 4 + 2 * entry, &first.to_le_bytes());
        self.queues[queue].available = available.wrapping_add(1);
        self.put_available_index(queue, available.wrapping_add(1));
        self.kick(queue);
    }

    /// Says how many requests were made available, whether that is true or not.
    pub fn put_available_index(&mut self, queue: usize, index: u16) {
        let base = self.queues[queue].base;
        // The entry is there before it is counted, and counted before the flags are read.
        fence(Ordering::SeqCst);
        self.put(base + AVAILABLE_AT + 2, &index.to_le_bytes());
        fence(Ordering::SeqCst);
    }

    /// Tells the server that there is something to do, unless it looks by itself.
    pub fn kick(&mut self, queue: usize) {
        let queue = &self.queues[queue];
        if self.word(queue.base + USED_AT) & NO_NOTIFY == 0 {
            queue.kick.write(1).expect("a counter takes a one");
        }
    }

    /// The first descriptors of the requests that have ended since the last call.
    pub fn finished(&mut self, queue: usize) -> Vec<u16> {
        let base = self.queues[queue].base;
        let index = self.word(base + USED_AT + 2);
        fence(Ordering::SeqCst);
        let mut ended = Vec::new();
        while self.queues[queue].used != index {
            let entry = u64::from(self.queues[queue].used % QUEUE_SIZE);
            ended.push(self.word(base + USED_AT + 4 + 8 * entry));
            self.queues[queue].used = self.queues[queue].used.wrapping_add(1);
        }
        ended
    }

    /// Waits until the server says that something has ended.
    pub fn await_call(&self, queue: usize) {
        // Some servers make it non-blocking: with them this looks until it is called.
        while self.queues[queue].call.read().is_err() {
            std::thread::yield_now();
        }
    }

    /// The result in a slot.
    #[must_use]
    pub fn result(&self, queue: usize, slot: usize) -> u8 {
        let mut result = [0];
        self.get(&mut result, self.slot_at(queue, slot) + RESULT_AT);
        result[0]
    }

    /// The bytes that a slot's request read.
    #[must_use]
    pub fn answer(&self, queue: usize, slot: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.get(&mut bytes, self.slot_at(queue, slot) + SLOT_HEAD);
        bytes
    }

    /// The bytes of the guest's memory.
    #[must_use]
    pub fn memory_len(&self) -> u64 {
        queue_len(self.data_len) * self.queues.len() as u64
    }

    /// The place of a slot in the guest's memory.
    #[must_use]
    pub fn slot_at(&self, queue: usize, slot: usize) -> u64 {
        let slot_len = SLOT_HEAD + self.data_len as u64;
        self.queues[queue].base + RINGS_LEN + slot as u64 * slot_len
    }

    /// Stops all queues, as a guest does that is switched off.
    pub fn stop_queues(&mut self) -> Result<(), FrontEndError> {
        for queue in 0..self.queues.len() {
            self.front.get_vring_base(queue)?;
        }
        Ok(())
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.memory
            .write_slice(bytes, GuestAddress(at))
            .expect("it is within the memory");
    }

    fn get(&self, bytes: &mut [u8], at: u64) {
        self.memory
            .read_slice(bytes, GuestAddress(at))
            .expect("it is within the memory");
    }

    fn word(&self, at: u64) -> u16 {
        let mut bytes = [0; 2];
        self.get(&mut bytes, at);
        u16::from_le_bytes(bytes)
    }
}

/// A connection whose server has the guest's memory, and the features that both have.
fn negotiate(socket: &Path, file: &File, queues: usize) -> Result<(Frontend, u64), FrontEndError> {
    let mut front = Frontend::connect(socket, queues as u64)?;
    front.set_owner()?;
    let features = front.get_features()? & !UNUSED_FEATURES;
    let known = VhostUserProtocolFeatures::CONFIG
        | VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::REPLY_ACK;
    let protocol = front.get_protocol_features()? & known;
    front.set_protocol_features(protocol)?;
    front.set_features(features)?;
    front.set_mem_table(&[VhostUserMemoryRegionInfo {
        guest_phys_addr: 0,
        memory_size: file.metadata()?.len(),
        userspace_addr: USER_BASE,
        mmap_offset: 0,
        mmap_handle: file.as_raw_fd(),
    }])?;
    Ok((front, features))
}

fn queue_len(data_len: usize) -> u64 {
    let len = RINGS_LEN + SLOTS as u64 * (SLOT_HEAD + data_len as u64);
    len.next_multiple_of(4096)
}

fn shared_file(len: u64) -> Result<File, FrontEndError> {
    let make = || -> rustix::io::Result<OwnedFd> {
        let file = memfd_create("guest", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, len)?;
        Ok(file)
    };
    Ok(make().map_err(std::io::Error::from)?.into())
}
