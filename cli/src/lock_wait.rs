//! Waiting for a store that another process is changing (`--wait`).

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vellum_store::{Store, StoreError};

use crate::arguments::global::GlobalArgs;
use crate::failure::CommandFailure;
use crate::invocation::Invocation;
use crate::output::report;

/// The pause between two looks at the lock: short to a person, cheap beside a command.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// The word for a wait without an end.
pub(crate) const FOREVER: &str = "forever";

/// The longest time that a command waits for a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitLimit {
    /// As long as it takes.
    Unlimited,
    /// No longer than this.
    Limited(Duration),
}

/// Parses a number of seconds, or [`FOREVER`].
pub(crate) fn parse_wait_limit(text: &str) -> Result<WaitLimit, String> {
    if text == FOREVER {
        return Ok(WaitLimit::Unlimited);
    }
    let seconds: Result<u32, _> = text.parse();
    seconds
        .map(|seconds| WaitLimit::Limited(Duration::from_secs(seconds.into())))
        .map_err(|_| "it is a number of seconds".to_owned())
}

/// One command's wait.
pub(crate) struct LockWait<'c> {
    caller: &'c Arc<Invocation>,
    global: &'c GlobalArgs,
    began: Instant,
    is_told: bool,
}

impl<'c> LockWait<'c> {
    pub(crate) fn new(caller: &'c Arc<Invocation>, global: &'c GlobalArgs) -> Self {
        Self {
            caller,
            global,
            began: Instant::now(),
            is_told: false,
        }
    }

    /// Waits until the store in `dir` may be free; `is_forwarded` says whether a server that has it
    /// would do the command. Returns `failure` if that is not for want of the store, or if nobody
    /// wants to wait, or not any longer.
    pub(crate) fn await_release(
        &mut self,
        failure: CommandFailure,
        dir: Option<&Path>,
        is_forwarded: bool,
    ) -> Result<(), CommandFailure> {
        let (Some(limit), true) = (self.global.wait, failure.is_for_want_of_store()) else {
            return Err(failure);
        };
        self.tell_once(&failure);
        loop {
            let left = match limit {
                WaitLimit::Unlimited => LOOK_PAUSE,
                WaitLimit::Limited(limit) => limit.saturating_sub(self.began.elapsed()),
            };
            if left.is_zero() {
                return Err(failure);
            }
            self.caller.signals.await_stop(left.min(LOOK_PAUSE));
            self.caller.signals.fail_if_stopped()?;
            let is_served = || dir.is_some_and(|dir| Store::control_socket(dir).exists());
            if !dir.is_some_and(is_locked) || is_forwarded && is_served() {
                return Ok(());
            }
        }
    }

    fn tell_once(&mut self, failure: &CommandFailure) {
        if !std::mem::replace(&mut self.is_told, true) && !self.global.quiet {
            let line = format!("waiting: {failure}");
            report::print_event(self.caller, self.global.output_layout(), &line);
        }
    }
}

/// True if another process has the store's lock. A folder that cannot be asked is for the next
/// attempt to judge.
fn is_locked(dir: &Path) -> bool {
    matches!(Store::lock_owner(dir), Ok(Some(_)))
}

impl CommandFailure {
    /// True if another process has the store, or its server does not take the command.
    fn is_for_want_of_store(&self) -> bool {
        match self {
            Self::Store(StoreError::InUse { .. }) | Self::Server(_) => true,
            Self::Hinted { failure, .. } => failure.is_for_want_of_store(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_seconds() {
        let limited = |seconds| Ok(WaitLimit::Limited(Duration::from_secs(seconds)));
        for (text, expected) in [
            ("forever", Ok(WaitLimit::Unlimited)),
            ("0", limited(0)),
            ("90", limited(90)),
            ("-1", Err(())),
            ("1m", Err(())),
            ("", Err(())),
            ("99999999999999999999", Err(())),
        ] {
            assert_eq!(parse_wait_limit(text).map_err(drop), expected, "{text:?}");
        }
    }
}
