//! One look for changes: what a page or a terminal compares with the look before.

use std::time::{Duration, Instant};

use crate::jobs::JobTable;
use crate::operations::Operations;

/// The pause between two looks: a change is shown within a second, and a look is cheap.
pub(crate) const LOOK_PAUSE: Duration = Duration::from_millis(150);
/// The interval at which guests' requests are counted.
const RATE_INTERVAL: Duration = Duration::from_secs(2);

/// The news of one look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NewsState {
    /// Another number after each change of the tree.
    pub(crate) tree: u64,
    /// Another number after each beginning, end and step of a job.
    pub(crate) jobs: u64,
    /// Jobs that run.
    pub(crate) running: usize,
    /// Requests of guests in a second.
    pub(crate) guest_rate: u64,
}

/// Looks for changes, and counts guests' requests between the looks.
pub(crate) struct NewsLooker {
    counted: Instant,
    requests: u64,
    guest_rate: u64,
}

impl NewsLooker {
    pub(crate) fn new(operations: &dyn Operations) -> Self {
        Self {
            counted: Instant::now(),
            requests: operations.guest_request_count(),
            guest_rate: 0,
        }
    }

    /// The present state of what changes.
    pub(crate) fn look(&mut self, operations: &dyn Operations, jobs: &JobTable) -> NewsState {
        self.count_guests(operations);
        let running = jobs.running_jobs();
        let steps = running
            .iter()
            .filter_map(|job| job.watch.last_progress())
            .fold(0_u64, |sum, note| sum.wrapping_add(note.done));
        let shells = operations.shell_commands();
        let began = shells.iter().map(|command| command.began_ms);
        let shells = began.fold(shells.len() as u64, u64::wrapping_add);
        NewsState {
            tree: operations.change_number(),
            jobs: jobs
                .change_count()
                .wrapping_mul(1 << 48)
                .wrapping_add(steps)
                .wrapping_add(shells.wrapping_mul(31)),
            running: running.len(),
            guest_rate: self.guest_rate,
        }
    }

    fn count_guests(&mut self, operations: &dyn Operations) {
        if self.counted.elapsed() < RATE_INTERVAL {
            return;
        }
        let now = operations.guest_request_count();
        let seconds = self.counted.elapsed().as_secs_f64();
        self.guest_rate = (now.saturating_sub(self.requests) as f64 / seconds).round() as u64;
        (self.counted, self.requests) = (Instant::now(), now);
    }
}
