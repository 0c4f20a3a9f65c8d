//! The threads of a client in an export, until it leaves.
//!
//! Workers take turns: who has the turn receives. As long as the device answers at once, one worker
//! does everything itself, one request after the other, and sends replies together when no request
//! is left waiting: no thread hands anything to another. When a request may take long, or those
//! before it did, the worker passes the turn on first, so that the next requests are done beside
//! it. Workers are started when the turn finds nobody waiting for it, and leave after a while
//! without one.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::Shutdown;
use vellum_core::device::Device;

use super::buffers::{Lease, PIECE_LEN_LARGE, PIECE_LEN_SMALL, ReceiveBuffer, ReplyBuffer};
use super::clients::{ClientGuard, ServerState};
use super::execution::{Execution, GuardedWriteError, Sender};
use super::transmission::{NbdRequest, RequestJob, Transmission};
use super::transport::{SocketWriter, Transport};
use crate::writers::WriteRight;

/// Workers of one connection: enough to keep both a disk and a few cores busy; a client's queue is
/// rarely deeper.
const WORKER_COUNT_MAX: usize = 16;
/// A request that took longer did more than copy from memory: passing the turn costs some
/// microseconds.
const SLOW: Duration = Duration::from_micros(60);
/// So many requests are done beside each other after a slow one.
const SLOW_CREDIT: u32 = 64;
/// Longer requests are done beside others: copying alone takes them longer than passing the turn.
const LONG_LEN: u64 = 256 << 10;
/// Number of replies that are sent together: more would leave the client idle while the server
/// works.
const COMPANY_MAX: usize = 8;
/// Time that a worker waits for a turn before it leaves.
const LINGER: Duration = Duration::from_secs(2);
/// The stack of a worker, touched only as far as a device's calls are deep. It counts where
/// addresses are limited.
pub(super) const STACK_LEN: usize = 512 << 10;
/// Idle connections keep buffers up to this; longer ones are given back.
const KEPT_LEN_MAX: usize = PIECE_LEN_SMALL * 2 + 4096;

/// A client that has entered an export. The fields are dropped in this order: the device is let go
/// before the client counts as gone.
pub(super) struct AttachedClient {
    pub(super) right: Option<WriteRight>,
    pub(super) device: Arc<dyn Device>,
    pub(super) transmission: Transmission,
    pub(super) transport: Arc<Transport>,
    pub(super) membership: ClientGuard,
}

/// Serves a client until it leaves, or is cut off. What it has sent already is in `input`.
pub(super) fn serve_client(guest: AttachedClient, shared: &Arc<ServerState>, input: ReceiveBuffer) {
    let sender = Mutex::new(Box::new(SocketWriter(Arc::clone(&guest.transport))) as Box<_>);
    let turn = Mutex::new(ReceiveTurn {
        state: TurnState::Free(input),
        waiting: 0,
        workers: 1,
    });
    let connection = Connection {
        guest,
        sender,
        turn,
        passed: Condvar::new(),
        slow: AtomicU32::new(0),
        said_goodbye: AtomicBool::new(false),
        shared: Arc::clone(shared),
    };
    Arc::new(connection).run_worker();
}

struct Connection {
    guest: AttachedClient,
    sender: Sender,
    turn: Mutex<ReceiveTurn>,
    passed: Condvar,
    /// Number of coming requests that are expected to be slow.
    slow: AtomicU32,
    /// True once the client has said goodbye.
    said_goodbye: AtomicBool,
    shared: Arc<ServerState>,
}

struct ReceiveTurn {
    state: TurnState,
    /// Workers that wait for it.
    waiting: usize,
    workers: usize,
}

enum TurnState {
    /// Nobody receives; what has arrived is here.
    Free(ReceiveBuffer),
    Taken,
    /// There is nothing more to receive.
    Over,
}

/// A worker's own buffers.
#[derive(Default)]
struct WorkerBuffers {
    out: ReplyBuffer,
    /// Number of replies in `out`.
    company: usize,
    payload: Vec<u8>,
}

/// The end of a turn.
enum TurnEnd {
    /// This request is done with the turn passed on.
    Pass(NbdRequest, Payload),
    /// The client has no more requests, or is lost.
    Over,
}

/// Location of a request's payload.
enum Payload {
    /// In the worker's buffer, so many bytes.
    Small(usize),
    Large(Lease),
    /// The device has it already, in pieces, or has failed at one; and how long that took.
    Written(Result<(), GuardedWriteError>, Duration),
}

impl Payload {
    /// Time that the device has worked on it already.
    fn time_spent(&self) -> Duration {
        if let Self::Written(_, took) = self {
            *took
        } else {
            Duration::ZERO
        }
    }
}

impl Connection {
    fn run_worker(self: Arc<Self>) {
        let mut desk = WorkerBuffers::default();
        while let Some(mut input) = self.take_turn() {
            match self.serve_turn(&mut input, &mut desk) {
                Ok(TurnEnd::Pass(request, payload)) => {
                    self.pass_turn(input);
                    let started = Instant::now();
                    let done = self.run_request(&request, &payload, &mut desk);
                    self.judge_pace(started.elapsed());
                    if done.and_then(|()| self.send_replies(&mut desk)).is_err() {
                        // The worker that receives finds it out at once.
                        self.guest.transport.shut_down(Shutdown::Both);
                    }
                }
                Ok(TurnEnd::Over) => self.end_receiving(),
                Err(_) => {
                    self.guest.transport.shut_down(Shutdown::Both);
                    self.end_receiving();
                }
            }
        }
    }

    /// Receives requests and does them, until one is better done without the turn. An error: the
    /// client is lost.
    fn serve_turn(
        &self,
        input: &mut ReceiveBuffer,
        desk: &mut WorkerBuffers,
    ) -> io::Result<TurnEnd> {
        loop {
            let Ok(next) = self
                .guest
                .transmission
                .next(input.unread_bytes(), self.shared.is_stopping())
            else {
                // Requests that were done before the client broke the protocol are still answered.
                return self.send_replies(desk).map(|()| TurnEnd::Over);
            };
            let Some((request, header_len)) = next else {
                if !self.receive_more(input, desk)? {
                    return Ok(TurnEnd::Over);
                }
                continue;
            };
            input.consume_bytes(header_len);
            if request.job == RequestJob::Disconnect {
                self.said_goodbye.store(true, Ordering::Relaxed);
                return self.send_replies(desk).map(|()| TurnEnd::Over);
            }
            let payload = self.receive_payload(&request, input, desk)?;
            if self.is_slow(&request) {
                return self
                    .send_replies(desk)
                    .map(|()| TurnEnd::Pass(request, payload));
            }
            let started = Instant::now();
            self.run_request(&request, &payload, desk)?;
            if started.elapsed() > SLOW {
                self.slow.store(SLOW_CREDIT, Ordering::Relaxed);
            }
            desk.company += 1;
            if desk.company >= COMPANY_MAX {
                self.send_replies(desk)?;
            }
        }
    }

    fn is_slow(&self, request: &NbdRequest) -> bool {
        let long = match request.job {
            RequestJob::Refuse(..) | RequestJob::Disconnect | RequestJob::Prefetch { .. } => {
                return false;
            }
            RequestJob::Flush | RequestJob::Zero { .. } | RequestJob::Status { .. } => true,
            RequestJob::Write { len, durable, .. } => durable || u64::from(len) > LONG_LEN,
            RequestJob::Read { len, .. } => u64::from(len) > LONG_LEN,
        };
        long || self.slow.load(Ordering::Relaxed) > 0
    }

    /// Slow requests are followed by slow ones.
    fn judge_pace(&self, took: Duration) {
        let pace = |credit: u32| {
            Some(if took > SLOW {
                SLOW_CREDIT
            } else {
                credit.saturating_sub(1)
            })
        };
        // The closure always gives a value.
        let _ = self
            .slow
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, pace);
    }

    fn run_request(
        &self,
        request: &NbdRequest,
        payload: &Payload,
        desk: &mut WorkerBuffers,
    ) -> io::Result<()> {
        let execution = self.new_execution();
        let (begun, before) = (Instant::now(), payload.time_spent());
        let done = match (payload, request.job) {
            (Payload::Written(done, _), RequestJob::Write { durable, .. }) => {
                execution.finish_write(request.address, done.clone(), durable, &mut desk.out);
                Ok(())
            }
            (Payload::Large(lease), _) => {
                execution.run_request(request, lease.filled_bytes(), &mut desk.out)
            }
            (Payload::Small(len), _) => {
                execution.run_request(request, &desk.payload[..*len], &mut desk.out)
            }
            (Payload::Written(..), _) => execution.run_request(request, &[], &mut desk.out),
        };
        let log = &self.guest.membership.log;
        if log.is_heard() {
            let failure = execution.take_failure();
            log.log_request(request, before + begun.elapsed(), failure.as_deref());
        }
        done
    }

    fn new_execution(&self) -> Execution<'_> {
        let shared = &self.shared;
        Execution::new(
            &*self.guest.device,
            &self.guest.transmission,
            &shared.pool,
            &self.sender,
        )
        .with_right(self.guest.right.as_ref())
        .with_board(&shared.board)
    }

    fn send_replies(&self, desk: &mut WorkerBuffers) -> io::Result<()> {
        desk.company = 0;
        self.new_execution().send_buffer(&mut desk.out)
    }

    /// More bytes of the client, after it has been sent all that is ready. `false`: it has no more.
    fn receive_more(
        &self,
        input: &mut ReceiveBuffer,
        desk: &mut WorkerBuffers,
    ) -> io::Result<bool> {
        self.send_replies(desk)?;
        if desk.payload.capacity() + desk.out.capacity() > KEPT_LEN_MAX {
            *desk = WorkerBuffers::default();
        }
        let received = self.guest.transport.receive_bytes(input.free_space())?;
        input.add_arrived(received);
        Ok(received > 0)
    }

    /// Receives what follows a request. Of a write too large for the buffers at hand each piece is
    /// written as it comes.
    fn receive_payload(
        &self,
        request: &NbdRequest,
        input: &mut ReceiveBuffer,
        desk: &mut WorkerBuffers,
    ) -> io::Result<Payload> {
        let RequestJob::Write { offset, len, .. } = request.job else {
            self.skip_bytes(request.payload_len, input, desk)?;
            return Ok(Payload::Small(0));
        };
        let len = len as usize;
        if len <= PIECE_LEN_SMALL {
            if desk.payload.len() < len {
                desk.payload.resize(len, 0);
            }
            let taken = input.take_bytes(&mut desk.payload[..len]);
            if taken < len {
                self.send_replies(desk)?;
                self.receive_exact(&mut desk.payload[taken..len])?;
            }
            return Ok(Payload::Small(len));
        }
        self.send_replies(desk)?;
        let mut lease = self.shared.pool.lease_buffer();
        if let Some(lease) = lease.as_mut().filter(|_| len <= PIECE_LEN_LARGE) {
            let room = lease.reserve_room(len);
            let taken = input.take_bytes(room);
            self.receive_exact(&mut room[taken..])?;
            lease.commit_len(len);
        } else {
            let mut own = ReplyBuffer::default();
            let (buffer, piece_len) = lease.as_mut().map_or((&mut own, PIECE_LEN_SMALL), |lease| {
                (&mut **lease, PIECE_LEN_LARGE)
            });
            return self.write_pieces(offset, len, input, buffer.reserve_room(piece_len));
        }
        Ok(lease.map_or(Payload::Small(0), Payload::Large))
    }

    fn write_pieces(
        &self,
        offset: u64,
        len: usize,
        input: &mut ReceiveBuffer,
        buffer: &mut [u8],
    ) -> io::Result<Payload> {
        let execution = self.new_execution();
        let (mut written, mut took, mut done) = (Ok(()), Duration::ZERO, 0);
        while done < len {
            let piece = buffer.len().min(len - done);
            let piece = &mut buffer[..piece];
            let taken = input.take_bytes(piece);
            self.receive_exact(&mut piece[taken..])?;
            if written.is_ok() {
                let begun = Instant::now();
                written = execution.write_at(piece, offset + done as u64);
                took += begun.elapsed();
            }
            done += piece.len();
        }
        Ok(Payload::Written(written, took))
    }

    fn receive_exact(&self, mut into: &mut [u8]) -> io::Result<()> {
        while !into.is_empty() {
            let received = self.guest.transport.receive_bytes(into)?;
            if received == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            into = &mut into[received..];
        }
        Ok(())
    }

    fn skip_bytes(
        &self,
        len: u64,
        input: &mut ReceiveBuffer,
        desk: &mut WorkerBuffers,
    ) -> io::Result<()> {
        let mut left = len;
        while left > 0 {
            if input.unread_bytes().is_empty() && !self.receive_more(input, desk)? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let skipped = left.min(input.unread_bytes().len() as u64);
            input.consume_bytes(skipped as usize);
            left -= skipped;
        }
        Ok(())
    }

    /// Waits for the turn. `None`: there is nothing for this worker to do any more.
    fn take_turn(&self) -> Option<ReceiveBuffer> {
        let mut turn = self.lock_turn();
        let mut waited = false;
        loop {
            match std::mem::replace(&mut turn.state, TurnState::Taken) {
                TurnState::Free(input) => return Some(input),
                TurnState::Over => {
                    turn.state = TurnState::Over;
                    return None;
                }
                // The worker that has the turn comes back for it, so this one can be spared.
                TurnState::Taken if waited => {
                    turn.workers -= 1;
                    return None;
                }
                TurnState::Taken => {}
            }
            turn.waiting += 1;
            let (woken, result) = self
                .passed
                .wait_timeout(turn, LINGER)
                .unwrap_or_else(PoisonError::into_inner);
            turn = woken;
            turn.waiting -= 1;
            waited = result.timed_out();
        }
    }

    fn pass_turn(self: &Arc<Self>, input: ReceiveBuffer) {
        let mut turn = self.lock_turn();
        turn.state = TurnState::Free(input);
        if turn.waiting > 0 {
            drop(turn);
            self.passed.notify_one();
        } else if turn.workers < WORKER_COUNT_MAX {
            // Without another worker this one takes the turn again when it is done.
            turn.workers += usize::from(self.start_worker());
        }
    }

    fn start_worker(self: &Arc<Self>) -> bool {
        let Some(place) = self.shared.pool.extra_worker() else {
            return false;
        };
        let connection = Arc::clone(self);
        let work = move || {
            connection.run_worker();
            drop(place);
        };
        thread::Builder::new()
            .name("nbd-worker".to_owned())
            .stack_size(STACK_LEN)
            .spawn(work)
            .is_ok()
    }

    /// Nothing more is received: all workers leave when they are done.
    fn end_receiving(&self) {
        self.lock_turn().state = TurnState::Over;
        self.passed.notify_all();
    }

    fn lock_turn(&self) -> MutexGuard<'_, ReceiveTurn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Clients also say goodbye to a server that is stopping, and come back to the next.
        let is_over = *self.said_goodbye.get_mut() && !self.shared.is_stopping();
        let writes = self.guest.right.as_ref().is_some_and(WriteRight::is_writer);
        if is_over && writes {
            self.guest.device.guest_left();
        }
        self.guest.transport.say_goodbye();
        self.guest.transport.shut_down(Shutdown::Both);
    }
}
