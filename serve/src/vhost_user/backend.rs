//! A guest's device as the crate `vhost-user-backend` calls it: one thread for each queue.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackend, VringMutex, VringT};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::QueueT;
use vmm_sys_util::epoll::EventSet;

use super::queue::{SharedMemory, drain_queue};
use super::target::{DiskTarget, PIECE_LEN};
use super::wire::{QUEUE_SIZE, QUEUES_MAX, parse_writeback};

/// The event that says that the connection is over: behind those of the queues, and the crate's.
pub(super) const IS_OVER: u16 = QUEUES_MAX as u16 + 1;

/// A device of one connection.
pub(super) struct DiskBackend {
    target: DiskTarget,
    memory: SharedMemory,
    /// A thread's buffer is its own: nobody waits for it.
    buffers: [Mutex<Vec<u8>>; QUEUES_MAX],
    /// A bit for each queue that has had an event and was not stopped since.
    started: AtomicU64,
    /// A bit for each queue that ever had one.
    used: AtomicU64,
}

impl DiskBackend {
    pub(super) fn new(target: DiskTarget, memory: SharedMemory) -> Self {
        Self {
            target,
            memory,
            buffers: [const { Mutex::new(Vec::new()) }; QUEUES_MAX],
            started: AtomicU64::new(0),
            used: AtomicU64::new(0),
        }
    }

    pub(super) fn memory(&self) -> &SharedMemory {
        &self.memory
    }

    /// The connection is over. A front end that has stopped all queues has switched its guest off;
    /// another one has died, and may come back.
    pub(super) fn note_end(&self) {
        let is_stopped = self.started.load(Ordering::Relaxed) == 0;
        if is_stopped && self.used.load(Ordering::Relaxed) != 0 {
            self.target.note_left();
        }
    }
}

impl VhostUserBackend for DiskBackend {
    type Bitmap = ();
    type Vring = VringMutex;

    fn num_queues(&self) -> usize {
        QUEUES_MAX
    }

    fn max_queue_size(&self) -> usize {
        QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        self.target.features()
            | 1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
    }

    /// The queues know it themselves.
    fn set_event_idx(&self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        self.target.config().read_space(offset, size)
    }

    fn set_config(&self, offset: u32, bytes: &[u8]) -> io::Result<()> {
        let is_writeback = parse_writeback(offset, bytes).ok_or(io::ErrorKind::InvalidInput)?;
        self.target.set_writeback(is_writeback);
        Ok(())
    }

    /// The memory is replaced in place.
    fn update_memory(&self, _memory: SharedMemory) -> io::Result<()> {
        Ok(())
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        (0..QUEUES_MAX).map(|queue| 1 << queue).collect()
    }

    /// The queue's thread holds it while it does requests, so none is under way here.
    fn stop_vring(&self, queue: u32) -> io::Result<()> {
        let bit = 1_u64.checked_shl(queue).unwrap_or(0);
        self.started.fetch_and(!bit, Ordering::Relaxed);
        Ok(())
    }

    fn handle_event(
        &self,
        event: u16,
        _events: EventSet,
        vrings: &[VringMutex],
        thread: usize,
    ) -> io::Result<()> {
        if event == IS_OVER {
            // An error ends the thread.
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let (Some(vring), Some(buffer)) =
            (vrings.get(usize::from(event)), self.buffers.get(thread))
        else {
            return Ok(());
        };
        self.used.fetch_or(1 << thread, Ordering::Relaxed);
        self.started.fetch_or(1 << thread, Ordering::Relaxed);
        let mut buffer = buffer.lock().unwrap_or_else(PoisonError::into_inner);
        buffer.resize(PIECE_LEN, 0);
        let mut vring = vring.get_mut();
        // Between the event and here it may have been stopped.
        if !vring.is_enabled() || !vring.get_queue().ready() {
            return Ok(());
        }
        if let Err(fault) = drain_queue(&mut vring, &self.memory, &self.target, &mut buffer) {
            // The thread lives: the guest may set the queue up anew.
            self.target.report_fault(&fault);
        }
        Ok(())
    }
}
