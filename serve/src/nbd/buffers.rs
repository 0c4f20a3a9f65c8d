//! Memory for messages, bounded for all connections together.
//!
//! Small requests use a worker's own buffers. A large one borrows a buffer from the [`Pool`]; if
//! none is left it goes on in small pieces. So clients that read nothing can make others slower,
//! but cannot stop them, nor take more than the pool. A connection's workers beyond the first are
//! counted there too: each has buffers, and a stack.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The bytes of one piece where memory is short, and the most that a request may move in a worker's
/// own buffers.
pub(super) const PIECE_LEN_SMALL: usize = 64 << 10;
/// The bytes of one piece in a borrowed buffer: what `qemu-img convert` asks for at once, so that
/// it stays one request to a device.
pub(super) const PIECE_LEN_LARGE: usize = 2 << 20;
/// Bytes that a pool lends by default.
pub(super) const REQUESTS_LEN: u64 = 256 << 20;
/// Workers beyond the first of each connection, for all together: a thread each.
const EXTRA_WORKER_COUNT_MAX: usize = 256;
/// Of the pool's length, for each such worker: its buffers, what its stack has touched, and leave
/// for the borrowed buffers to be most of it.
const EXTRA_WORKER_LEN: u64 = 1 << 20;
/// Buffers kept for the next: what two busy clients have under way.
const FREE_COUNT_MAX: usize = 8;

/// Bytes on their way out. Grows as needed, and clears only what it never held.
#[derive(Debug, Default)]
pub(super) struct ReplyBuffer {
    bytes: Vec<u8>,
    filled: usize,
}

impl ReplyBuffer {
    /// `len` bytes behind those that are filled, with anything in them.
    pub(super) fn reserve_room(&mut self, len: usize) -> &mut [u8] {
        let end = self.filled + len;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        &mut self.bytes[self.filled..end]
    }

    /// The next `len` bytes are filled now.
    pub(super) fn commit_len(&mut self, len: usize) {
        assert!(
            self.filled + len <= self.bytes.len(),
            "only room that was asked for is filled"
        );
        self.filled += len;
    }

    /// The memory that it keeps.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    pub(super) fn filled_bytes(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    /// Forgets what is filled, keeps the memory.
    pub(super) fn clear(&mut self) {
        self.filled = 0;
    }
}

/// Large buffers for all connections of a server.
#[derive(Debug)]
pub(super) struct Pool {
    free: Mutex<Vec<ReplyBuffer>>,
    leased: AtomicUsize,
    leased_max: usize,
    extra_workers: AtomicUsize,
    extra_workers_max: usize,
}

impl Pool {
    /// One that lends about `len` bytes.
    pub(super) fn new(len: u64) -> Self {
        Self {
            free: Mutex::default(),
            leased: AtomicUsize::new(0),
            leased_max: (len / PIECE_LEN_LARGE as u64).max(1) as usize,
            extra_workers: AtomicUsize::new(0),
            extra_workers_max: EXTRA_WORKER_COUNT_MAX.min((len / EXTRA_WORKER_LEN) as usize),
        }
    }

    /// A buffer for a piece of [`PIECE_LEN_LARGE`], `None` if too many are in use.
    pub(super) fn lease_buffer(self: &Arc<Self>) -> Option<Lease> {
        count_up_to(&self.leased, self.leased_max)?;
        let buffer = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
            .unwrap_or_default();
        Some(Lease {
            pool: Arc::clone(self),
            buffer,
        })
    }

    /// A place for one more worker, if there is one.
    pub(super) fn extra_worker(self: &Arc<Self>) -> Option<ExtraWorker> {
        count_up_to(&self.extra_workers, self.extra_workers_max)?;
        Some(ExtraWorker(Arc::clone(self)))
    }
}

/// Counts one more, if there are less than `max`.
fn count_up_to(counter: &AtomicUsize, max: usize) -> Option<usize> {
    let more = |count| (count < max).then_some(count + 1);
    counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
        .ok()
}

/// One worker more than the first of its connection; dropping it makes place for another.
pub(super) struct ExtraWorker(Arc<Pool>);

impl Drop for ExtraWorker {
    fn drop(&mut self) {
        self.0.extra_workers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A borrowed buffer, empty at first.
#[derive(Debug)]
pub(super) struct Lease {
    pool: Arc<Pool>,
    buffer: ReplyBuffer,
}

impl Deref for Lease {
    type Target = ReplyBuffer;

    fn deref(&self) -> &ReplyBuffer {
        &self.buffer
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut ReplyBuffer {
        &mut self.buffer
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let mut free = self
            .pool
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if free.len() < FREE_COUNT_MAX {
            free.push(buffer);
        }
        self.pool.leased.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes that have arrived and are not understood yet.
#[derive(Debug, Default)]
pub(super) struct ReceiveBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

/// Bytes that one system call may receive: some writes of 4 KiB, thousands of reads.
const INPUT_LEN: usize = 32 << 10;

impl ReceiveBuffer {
    pub(super) fn unread_bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(super) fn consume_bytes(&mut self, len: usize) {
        assert!(
            len <= self.end - self.start,
            "only what has arrived is consumed"
        );
        self.start += len;
    }

    /// Moves up to `into.len()` bytes out. Returns how many.
    pub(super) fn take_bytes(&mut self, into: &mut [u8]) -> usize {
        let len = into.len().min(self.end - self.start);
        into[..len].copy_from_slice(&self.unread_bytes()[..len]);
        self.consume_bytes(len);
        len
    }

    /// Free space for arriving bytes: not empty if at most 32 KiB are waiting for their end.
    /// [`ReceiveBuffer::add_arrived`] says how many came.
    pub(super) fn free_space(&mut self) -> &mut [u8] {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        // The longest message of the handshake, with room behind it.
        let len = if self.end < INPUT_LEN {
            INPUT_LEN
        } else {
            self.end + INPUT_LEN
        };
        if self.bytes.len() < len {
            self.bytes.resize(len, 0);
        }
        &mut self.bytes[self.end..]
    }

    pub(super) fn add_arrived(&mut self, len: usize) {
        assert!(
            self.end + len <= self.bytes.len(),
            "bytes arrive in the space for them"
        );
        self.end += len;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Pool, ReceiveBuffer, ReplyBuffer};

    #[test]
    fn the_pool_lends_no_more_than_its_limit_and_takes_back() {
        let pool = Arc::new(Pool::new(32 << 20));
        let workers: Vec<_> = (0..32)
            .map(|_| pool.extra_worker().expect("below the limit"))
            .collect();
        assert!(pool.extra_worker().is_none());
        drop(workers);
        assert!(pool.extra_worker().is_some());
        let leases: Vec<_> = (0..16)
            .map(|_| pool.lease_buffer().expect("below the limit"))
            .collect();
        assert!(pool.lease_buffer().is_none());
        drop(leases);
        assert!(pool.lease_buffer().is_some());
    }

    #[test]
    fn uncommitted_room_is_forgotten() {
        let mut out = ReplyBuffer::default();
        out.reserve_room(4).copy_from_slice(b"done");
        out.commit_len(4);
        out.reserve_room(4).copy_from_slice(b"torn");
        assert_eq!(out.filled_bytes(), b"done");
        out.reserve_room(1)[0] = b'!';
        out.commit_len(1);
        assert_eq!(out.filled_bytes(), b"done!");
    }

    #[test]
    fn bytes_come_out_of_an_input_as_they_came() {
        let mut input = ReceiveBuffer::default();
        for round in 0..100_u8 {
            input.free_space()[..3].fill(round);
            input.add_arrived(3);
            let mut taken = [0; 2];
            assert_eq!(input.take_bytes(&mut taken), 2);
        }
        assert_eq!(input.unread_bytes().len(), 100);
        assert_eq!(input.unread_bytes()[99], 99);
    }
}
