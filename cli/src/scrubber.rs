//! The background scrub of a store that is served: small steps, so that everything stored is read
//! within a round, and guests do not notice.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use vellum_store::{
    Progress, SCRUB_ROUND, ScrubOptions, ScrubReport, ScrubStatus, Store, StoreError, Watch,
};

use crate::invocation::Invocation;
use crate::output::report;
use crate::pace::{ByteThrottle, parse_span, sleep_or_stop};
use crate::signals::Signals;

/// Before the first step: who serves for a moment only is left alone.
const FIRST_PAUSE: Duration = Duration::from_mins(1);
/// The pause between two checks if a round is due.
const ROUND_PAUSE: Duration = Duration::from_mins(10);
/// The bytes that one step reads.
const STEP_LEN: u64 = 1 << 20;
/// The slowest that a round goes, unless guests are busy: small stores are read in minutes.
const RATE_MIN: u64 = 2 << 20;
/// A round is to be done in this part of its time, so that what is missed can be made up.
const HASTE: u64 = 2;
/// The number of times that a step gives way to guests, one pause each: then it is done all the
/// same.
const YIELDS_MAX: u32 = 10;
const YIELD_PAUSE: Duration = Duration::from_secs(2);

/// Options of whoever serves a store.
#[derive(clap::Args)]
pub(crate) struct ScrubArgs {
    /// All that is stored is read once in this time, beside the guests, and healed where it can be
    #[arg(long, value_name = "TIME", value_parser = parse_span, default_value = "30d")]
    scrub_round: Duration,
    /// Leave reading it to `vellum check --scrub`
    #[arg(long, conflicts_with = "scrub_round")]
    no_scrub: bool,
}

/// Scrubs a store until dropped.
pub(crate) struct Scrubber {
    signals: Signals,
    thread: Option<JoinHandle<()>>,
}

/// Ends a step early.
struct ScrubWatch(Signals);

impl ScrubArgs {
    /// The defaults, for commands without these options.
    pub(crate) fn default_options() -> Self {
        Self {
            scrub_round: SCRUB_ROUND,
            no_scrub: false,
        }
    }
}

impl Scrubber {
    /// Begins, if it is wanted. `caller` is shown what is found.
    pub(crate) fn start_thread(
        store: &Store,
        args: &ScrubArgs,
        caller: &Arc<Invocation>,
    ) -> Option<Self> {
        if args.no_scrub {
            return None;
        }
        let (signals, round) = (Signals::default(), args.scrub_round);
        let (store, caller, own) = (store.clone(), Arc::clone(caller), signals.clone());
        let thread =
            thread::Builder::new().name("scrubber".to_owned()).spawn(
                move || match scrub_in_rounds(&store, round, &own, &caller) {
                    Ok(()) | Err(StoreError::Interrupted) => {}
                    Err(error) => report::print_notice(
                        &caller,
                        &format!("warning: the store is not scrubbed any more: {error}"),
                    ),
                },
            );
        // Without it, damage is found when somebody reads it.
        Some(Self {
            signals,
            thread: thread.ok(),
        })
    }
}

fn scrub_in_rounds(
    store: &Store,
    round: Duration,
    signals: &Signals,
    caller: &Invocation,
) -> Result<(), StoreError> {
    let mut pause = FIRST_PAUSE;
    while !sleep_or_stop(signals, pause) {
        if is_due(&store.scrub_status(), round) {
            scrub_round(store, round, signals, caller)?;
        }
        pause = ROUND_PAUSE;
    }
    Ok(())
}

/// True if a round goes on, or the last one ended too long ago.
fn is_due(status: &ScrubStatus, round: Duration) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_s = now.map_or(0, |since| since.as_secs());
    status.began_s.is_some()
        || status
            .last_ended_s
            .is_none_or(|ended| now_s.saturating_sub(ended) >= round.as_secs() / HASTE)
}

fn scrub_round(
    store: &Store,
    round: Duration,
    signals: &Signals,
    caller: &Invocation,
) -> Result<(), StoreError> {
    let options = ScrubOptions {
        bytes_max: STEP_LEN,
        all_cores: false,
        round,
    };
    let rate = (store.stored_len() * HASTE / round.as_secs().max(1)).max(RATE_MIN);
    let mut pace = ByteThrottle::new(rate);
    loop {
        give_way(store, signals);
        let watch = ScrubWatch(signals.clone());
        let mut step = store.scrub(&options, &watch)?;
        store.name_images(&mut step, &watch)?;
        report_step(&step, caller);
        if step.is_over || signals.is_stopped() {
            return Ok(());
        }
        pace.await_budget(step.bytes, signals);
    }
}

/// Waits while guests read and write, but not for ever.
fn give_way(store: &Store, signals: &Signals) {
    for _ in 0..YIELDS_MAX {
        let before = store.guest_requests();
        if sleep_or_stop(signals, YIELD_PAUSE / 10) || store.guest_requests() == before {
            return;
        }
        if sleep_or_stop(signals, YIELD_PAUSE) {
            return;
        }
    }
}

fn report_step(step: &ScrubReport, caller: &Invocation) {
    for finding in &step.findings {
        let names = finding
            .images
            .iter()
            .map(|(name, range)| format!(" (hits {name}, bytes {} to {})", range.start, range.end));
        let hits: String = names.collect();
        let (record, reason) = (&finding.record, &finding.reason);
        report::print_notice(
            caller,
            &format!("warning: the scrub found {record}: {reason}{hits}"),
        );
    }
    if step.healed > 0 {
        report::print_notice(caller, &format!("the scrub healed {}", step.healed));
    }
}

impl Watch for ScrubWatch {
    fn report_progress(&self, _: Progress) {}

    fn is_cancelled(&self) -> bool {
        self.0.is_stopped()
    }
}

impl Drop for Scrubber {
    fn drop(&mut self) {
        self.signals
            .record_signal(rustix::process::Signal::TERM.as_raw() as u8);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_due_when_one_goes_on_or_the_last_is_old() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now_s = now.expect("after 1970").as_secs();
        let status = |began_s, last_ended_s| ScrubStatus {
            began_s,
            last_ended_s,
            ..ScrubStatus::default()
        };
        let round = Duration::from_hours(24);
        for (began_s, last_ended_s, due) in [
            (None, None, true),
            (Some(now_s), None, true),
            (None, Some(now_s), false),
            (None, Some(now_s - 11 * 3600), false),
            (None, Some(now_s - 13 * 3600), true),
            (Some(now_s), Some(now_s), true),
            // A clock that was set back.
            (None, Some(now_s + 3600), false),
        ] {
            let status = status(began_s, last_ended_s);
            assert_eq!(is_due(&status, round), due, "{began_s:?} {last_ended_s:?}");
        }
    }
}
