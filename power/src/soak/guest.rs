//! A guest: a client that writes to one disk, several requests at once, and remembers the replies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::model::{GuestDisk, GuestWrite, NEVER, SECTOR_LEN, sector};
use super::nbd::{Ask, Client, Command};
use super::site::Clock;

/// The sectors that get most writes, so that they meet.
const HOT_SECTORS: u64 = 64;
const WRITE_SECTORS_MAX: u64 = 40;
/// Requests that are under way at once.
const DEPTH_MAX: usize = 4;

/// The work of all guests together.
#[derive(Default)]
pub(crate) struct Traffic {
    pub(crate) writes: AtomicU64,
    pub(crate) flushes: AtomicU64,
    /// The number of the last write: no two have the same.
    pub(crate) last: AtomicU64,
}

/// Writes to `disk` until `is_over`, or until the server does not answer any more, which is
/// returned as an error.
pub(crate) fn work(
    client: &mut Client,
    disk: &Arc<GuestDisk>,
    clock: &Clock,
    mut random: fastrand::Rng,
    is_over: &AtomicBool,
    traffic: &Traffic,
) -> Result<(), String> {
    let sectors = disk.len() / SECTOR_LEN as u64;
    while !is_over.load(Ordering::Relaxed) {
        let count = random.usize(1..=DEPTH_MAX);
        let plans: Vec<(Ask, GuestWrite)> = (0..count)
            .map(|_| plan(&mut random, sectors, traffic))
            .collect();
        let asks: Vec<Ask> = plans.iter().map(|(ask, _)| ask.clone()).collect();
        let numbers = std::cell::RefCell::new(vec![0; count]);
        client.call(
            &asks,
            |nth| {
                let asked = clock.tick();
                numbers.borrow_mut()[nth] = match asks[nth].command {
                    Command::Flush => disk.ask_flush(asked),
                    _ => disk.ask_write(GuestWrite {
                        asked,
                        ..plans[nth].1
                    }),
                };
            },
            |nth| {
                let (answered, number) = (clock.tick(), numbers.borrow()[nth]);
                if asks[nth].command == Command::Flush {
                    disk.answer_flush(number, answered);
                    traffic.flushes.fetch_add(1, Ordering::Relaxed);
                } else {
                    disk.answer_write(number, answered);
                    traffic.writes.fetch_add(1, Ordering::Relaxed);
                }
            },
        )?;
    }
    Ok(())
}

fn plan(random: &mut fastrand::Rng, sectors: u64, traffic: &Traffic) -> (Ask, GuestWrite) {
    let count = random.u64(1..=WRITE_SECTORS_MAX);
    let end = if random.bool() {
        HOT_SECTORS
    } else {
        sectors - count
    };
    // Whole chunks as often as not.
    let first = random.u64(..end) & if random.bool() { !7 } else { !0 };
    let (kind, is_forced) = (random.u8(..10), random.u8(..10) == 0);
    let command = match kind {
        0 => Command::Flush,
        1 | 2 => Command::WriteZeroes,
        _ => Command::Write,
    };
    let id = match command {
        Command::Write => 1 + traffic.last.fetch_add(1, Ordering::Relaxed),
        _ => 0,
    };
    let bytes = if command == Command::Write {
        (first..first + count)
            .flat_map(|number| sector(id, number))
            .collect()
    } else {
        Vec::new()
    };
    let is_flush = command == Command::Flush;
    let ask = Ask {
        command,
        force: is_forced && !is_flush,
        offset: if is_flush {
            0
        } else {
            first * SECTOR_LEN as u64
        },
        len: if is_flush {
            0
        } else {
            count as u32 * SECTOR_LEN as u32
        },
        bytes,
    };
    let write = GuestWrite {
        first,
        count,
        id,
        is_forced: ask.force,
        asked: NEVER,
        answered: NEVER,
    };
    (ask, write)
}
