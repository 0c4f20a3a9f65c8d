//! A guest's queue: takes its requests in order, has each done, and puts its result back.
//!
//! Everything that it reads was written by a guest, which may be hostile, and may write while it is
//! read. The crate `virtio-queue` bounds chains of descriptors and checks every address; here a
//! request that has no place for its result is put back unanswered, and a queue that is no queue is
//! left alone until the guest sets it up anew.

use std::hint;
use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use vhost_user_backend::VringState;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT, Reader, Writer};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};

use super::target::DiskTarget;
use super::wire::BlockStatus;

/// A guest's memory, which may be replaced while it is used.
pub(super) type SharedMemory = GuestMemoryAtomic<GuestMemoryMmap>;
/// A guest's memory as it is now.
type PresentMemory = <SharedMemory as GuestAddressSpace>::T;

/// The time for which a thread looks for the next request before it sleeps, as QEMU's threads do.
const POLL_TIME: Duration = Duration::from_micros(32);

/// The queue cannot be used: it is not what the guest said.
#[derive(Debug, thiserror::Error)]
#[error("the guest's queue: {0}")]
pub(super) struct QueueFault(String);

/// Does all requests that are in the queue, and those that come meanwhile. Returns when there is
/// none, and the guest will tell of the next one.
pub(super) fn drain_queue(
    vring: &mut VringState<SharedMemory>,
    memory: &SharedMemory,
    target: &DiskTarget,
    buffer: &mut [u8],
) -> Result<(), QueueFault> {
    loop {
        vring.disable_notification().map_err(fault)?;
        loop {
            let present = memory.memory();
            let queue = vring.get_queue_mut();
            let mut chains = queue.iter(present.clone()).map_err(fault)?;
            let Some(chain) = chains.next() else { break };
            let head = chain.head_index();
            let len = run_chain(chain, &present, target, buffer);
            vring.add_used(head, len).map_err(fault)?;
            if vring.needs_notification().map_err(fault)? {
                vring
                    .signal_used_queue()
                    .map_err(|error| QueueFault(error.to_string()))?;
            }
        }
        if await_request(vring.get_queue(), memory) {
            continue;
        }
        if !vring.enable_notification().map_err(fault)? {
            return Ok(());
        }
    }
}

/// Looks for the next request for a moment, without being told of it: a guest that has one request
/// at a time asks for the next one sooner than a thread wakes. True if there is one.
fn await_request(queue: &Queue, memory: &SharedMemory) -> bool {
    let (memory, begun) = (memory.memory(), Instant::now());
    while begun.elapsed() < POLL_TIME {
        let available = queue.avail_idx(&*memory, Ordering::Acquire);
        if available.is_ok_and(|index| index.0 != queue.next_avail()) {
            return true;
        }
        hint::spin_loop();
    }
    false
}

fn fault(error: virtio_queue::Error) -> QueueFault {
    QueueFault(error.to_string())
}

/// Does the request of one chain; the number of bytes that the guest can read of its answer.
fn run_chain(
    chain: DescriptorChain<PresentMemory>,
    memory: &PresentMemory,
    target: &DiskTarget,
    buffer: &mut [u8],
) -> u32 {
    let Some((mut written, mut answer, mut result)) = split_chain(chain, memory) else {
        return 0;
    };
    let (written_len, answer_len) = (written.available_bytes(), answer.available_bytes());
    let status = target.run_request(&mut written, written_len, &mut answer, answer_len, buffer);
    let told = result.write_all(&[status as u8]).is_ok();
    // What a failed read left unfilled counts: its last byte, the result, is behind it.
    let filled = match status {
        BlockStatus::Done => answer.bytes_written(),
        _ => answer_len,
    };
    u32::try_from(filled).unwrap_or(u32::MAX - 1) + u32::from(told)
}

/// What the guest wrote, the room for what it reads, and for the result; none if there is no room
/// for a result.
fn split_chain(
    chain: DescriptorChain<PresentMemory>,
    memory: &GuestMemoryMmap,
) -> Option<(Reader<'_>, Writer<'_>, Writer<'_>)> {
    let written = chain.clone().reader(memory).ok()?;
    let mut answer = chain.writer(memory).ok()?;
    let answer_len = answer.available_bytes().checked_sub(1)?;
    let result = answer.split_at(answer_len).ok()?;
    Some((written, answer, result))
}
