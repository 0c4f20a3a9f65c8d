//! Maintenance of a store that is served: small steps, as often as there is something to do.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vellum_store::{Progress, Store, StoreError, TendReport, Watch};

use crate::caller::Caller;
use crate::output::report;
use crate::signals::Signals;

/// Between two steps of which the first left something to do: most of the time is the guests'.
const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// Between two looks at a store that is in order.
const IDLE_PAUSE: Duration = Duration::from_secs(2);

/// Tends a store until dropped.
pub(crate) struct Tender {
    signals: Signals,
    thread: Option<JoinHandle<()>>,
}

/// Ends a step early.
struct Ending(Signals);

impl Tender {
    /// Begins. Should a step fail, `caller` is told, and there are no more, unless what fails can
    /// pass: then it is told once, and they go on.
    pub(crate) fn start(store: &Store, caller: &Arc<Caller>) -> Self {
        let signals = Signals::default();
        let watch = Ending(signals.clone());
        let (store, caller) = (store.clone(), Arc::clone(caller));
        let thread = thread::Builder::new()
            .name("tender".to_owned())
            .spawn(move || match tend(&store, &watch, &caller) {
                Ok(()) | Err(StoreError::Interrupted) => {}
                Err(error) => report::notice(
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

fn tend(store: &Store, watch: &Ending, caller: &Caller) -> Result<(), StoreError> {
    let mut is_told = false;
    while !watch.is_cancelled() {
        let has_more = match store.tend(watch) {
            Ok(TendReport { has_more, .. }) => {
                if is_told {
                    report::notice(caller, "the store takes writes again");
                    is_told = false;
                }
                has_more
            }
            Err(error @ (StoreError::Full { .. } | StoreError::Stopped(_))) => {
                if !is_told {
                    report::notice(caller, &format!("warning: {error}"));
                    is_told = true;
                }
                false
            }
            Err(StoreError::Reopened) => true,
            Err(error) => return Err(error),
        };
        thread::park_timeout(if has_more { BUSY_PAUSE } else { IDLE_PAUSE });
    }
    Ok(())
}

impl Watch for Ending {
    fn progress(&self, _: Progress) {}

    fn is_cancelled(&self) -> bool {
        self.0.is_stopped()
    }
}

impl Drop for Tender {
    fn drop(&mut self) {
        self.signals
            .raise(rustix::process::Signal::TERM.as_raw() as u8);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}
