//! Scheduler of a test's threads: only one runs, and at every point that the code names a seeded
//! choice says which one goes on. The same seed gives the same order, as far as threads outside of
//! it (the committer) do not matter.

use std::cell::RefCell;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};

thread_local! {
    static PART: RefCell<Option<SchedulePart>> = const { RefCell::new(None) };
}

#[derive(Clone)]
struct SchedulePart {
    schedule: Arc<Schedule>,
    number: usize,
}

struct Schedule {
    state: Mutex<ScheduleState>,
    changed: Condvar,
}

struct ScheduleState {
    random: fastrand::Rng,
    alive: Vec<usize>,
    turn: usize,
    switches: u64,
}

/// Runs `parts`, interleaved as `seed` says; how often one gave way to another.
pub(crate) fn run_interleaved(seed: u64, parts: Vec<Box<dyn FnOnce() + Send + '_>>) -> u64 {
    let mut random = fastrand::Rng::with_seed(seed);
    let turn = random.usize(..parts.len());
    let state = ScheduleState {
        random,
        alive: (0..parts.len()).collect(),
        turn,
        switches: 0,
    };
    let schedule = Arc::new(Schedule {
        state: Mutex::new(state),
        changed: Condvar::new(),
    });
    std::thread::scope(|scope| {
        for (number, part) in parts.into_iter().enumerate() {
            let mine = SchedulePart {
                schedule: Arc::clone(&schedule),
                number,
            };
            scope.spawn(move || {
                mine.schedule.wait_for(mine.schedule.lock_state(), number);
                PART.set(Some(mine.clone()));
                let _end = PartEnd(mine);
                part();
            });
        }
    });
    schedule.lock_state().switches
}

/// Lets the schedule choose who goes on; nothing outside of one.
pub(crate) fn yield_point(_: &'static str) {
    if let Some(part) = PART.with_borrow(Clone::clone) {
        part.schedule.choose_next(part.number, true);
    }
}

/// Locks `mutex` for a thread of a schedule: who holds it may be waiting for its turn.
pub(super) fn lock_scheduled<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    let part = PART.with_borrow(Clone::clone)?;
    loop {
        match mutex.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => part.schedule.choose_next(part.number, false),
        }
        std::thread::yield_now();
    }
}

impl Schedule {
    fn lock_state(&self) -> MutexGuard<'_, ScheduleState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn choose_next(&self, me: usize, may_stay: bool) {
        let mut state = self.lock_state();
        let others: Vec<usize> = state
            .alive
            .iter()
            .copied()
            .filter(|number| may_stay || *number != me)
            .collect();
        if let Some(turn) = (!others.is_empty()).then(|| others[state.random.usize(..others.len())])
        {
            state.switches += u64::from(turn != me);
            state.turn = turn;
            self.changed.notify_all();
            self.wait_for(state, me);
        }
    }

    fn wait_for(&self, mut state: MutexGuard<'_, ScheduleState>, me: usize) {
        while state.turn != me {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Ends a part, also one that panics.
struct PartEnd(SchedulePart);

impl Drop for PartEnd {
    fn drop(&mut self) {
        PART.set(None);
        let mut state = self.0.schedule.lock_state();
        state.alive.retain(|number| *number != self.0.number);
        if !state.alive.is_empty() {
            let count = state.alive.len();
            let next = state.random.usize(..count);
            state.turn = state.alive[next];
        }
        self.0.schedule.changed.notify_all();
    }
}
