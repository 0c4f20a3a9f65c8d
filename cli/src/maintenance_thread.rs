//! Background maintenance of a store that is served: small steps, as often as there is something to
//! do.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use vellum_store::{MaintenanceReport, Progress, Store, StoreError, Watch};

use crate::invocation::Invocation;
use crate::output::report;
use crate::signals::Signals;

/// The pause between two steps of which the first left something to do: most of the time is the
/// guests'.
const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// The pause between two checks of a store that is in order.
const IDLE_PAUSE: Duration = Duration::from_secs(2);
/// The pause between two checks if everything is protected by parity.
const PROTECT_PAUSE: Duration = Duration::from_mins(1);

/// Tends a store until dropped.
pub(crate) struct MaintenanceThread {
    signals: Signals,
    thread: Option<JoinHandle<()>>,
}

/// Ends a step early.
struct MaintenanceWatch(Signals);

impl MaintenanceThread {
    /// Begins. Should a step fail, `caller` is told, and there are no more, unless what fails can
    /// pass: then it is told once, and they go on.
    pub(crate) fn start_thread(store: &Store, caller: &Arc<Invocation>) -> Self {
        let signals = Signals::default();
        let watch = MaintenanceWatch(signals.clone());
        let (store, caller) = (store.clone(), Arc::clone(caller));
        let thread = thread::Builder::new()
            .name("tender".to_owned())
            .spawn(move || match maintain_store(&store, &watch, &caller) {
                Ok(()) | Err(StoreError::Interrupted) => {}
                Err(error) => report::print_notice(
                    &caller,
                    &format!("warning: the store is not maintained any more: {error}"),
                ),
            });
        // Without it the store only grows faster.
        Self {
            signals,
            thread: thread.ok(),
        }
    }
}

fn maintain_store(
    store: &Store,
    watch: &MaintenanceWatch,
    caller: &Invocation,
) -> Result<(), StoreError> {
    let (mut is_told, mut protection) = (false, ParityMaintenance::default());
    while !watch.is_cancelled() {
        let has_more = match store.run_maintenance(watch) {
            Ok(MaintenanceReport { has_more, .. }) => {
                if is_told {
                    report::print_notice(caller, "the store takes writes again");
                    is_told = false;
                }
                has_more
            }
            Err(error @ (StoreError::Full { .. } | StoreError::Stopped(_))) => {
                if !is_told {
                    report::print_notice(caller, &format!("warning: {error}"));
                    is_told = true;
                }
                false
            }
            Err(StoreError::Reopened) => true,
            Err(error) => return Err(error),
        };
        let has_more = protection.update_parity(store, watch, caller)? || has_more;
        thread::park_timeout(if has_more { BUSY_PAUSE } else { IDLE_PAUSE });
    }
    Ok(())
}

/// Parity beside guests.
#[derive(Default)]
struct ParityMaintenance {
    last: Option<Instant>,
    is_told: bool,
}

impl ParityMaintenance {
    /// Brings parity nearer to being up to date, if it is time; whether there is more to do now.
    fn update_parity(
        &mut self,
        store: &Store,
        watch: &MaintenanceWatch,
        caller: &Invocation,
    ) -> Result<bool, StoreError> {
        for text in store.take_parity_notices() {
            report::print_notice(caller, &format!("warning: {text}"));
        }
        if self.last.is_some_and(|last| last.elapsed() < PROTECT_PAUSE) {
            return Ok(false);
        }
        match store.protect_some(watch) {
            Ok(done) if done.has_more => return Ok(true),
            Ok(_) => self.is_told = false,
            Err(StoreError::Interrupted) => return Err(StoreError::Interrupted),
            // Guests go on without it; it is tried again.
            Err(error) if !std::mem::replace(&mut self.is_told, true) => {
                report::print_notice(
                    caller,
                    &format!("warning: parity is not up to date: {error}"),
                );
            }
            Err(_) => {}
        }
        self.last = Some(Instant::now());
        Ok(false)
    }
}

impl Watch for MaintenanceWatch {
    fn report_progress(&self, _: Progress) {}

    fn is_cancelled(&self) -> bool {
        self.0.is_stopped()
    }
}

impl Drop for MaintenanceThread {
    fn drop(&mut self) {
        self.signals
            .record_signal(rustix::process::Signal::TERM.as_raw() as u8);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}
