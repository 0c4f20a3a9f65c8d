//! The signals that a person or a service manager sends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;
use vellum_store::StoreError;

/// What has been received so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signals {
    stop: Arc<AtomicBool>,
    number: Arc<AtomicUsize>,
    report: Arc<AtomicBool>,
}

impl Signals {
    /// Listens from now on. The first Ctrl-C asks to stop, the second does not ask.
    pub(crate) fn listen() -> Self {
        let signals = Self::default();
        for signal in [SIGINT, SIGTERM] {
            // The order counts: the first signal must not see the flag that it sets itself. A handler that the system refuses
            // leaves the signal's usual effect, which the store survives.
            let _ = flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&signals.stop));
            let _ = flag::register_usize(signal, Arc::clone(&signals.number), signal as usize);
            let _ = flag::register(signal, Arc::clone(&signals.stop));
        }
        let _ = flag::register(SIGUSR1, Arc::clone(&signals.report));
        signals
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Fails once the person has had enough, for loops of our own.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        if self.is_stopped() { Err(StoreError::Interrupted) } else { Ok(()) }
    }

    /// The signal that asked to stop, 0 if none did.
    pub(crate) fn received(&self) -> u8 {
        self.number.load(Ordering::Relaxed) as u8
    }

    /// Whether somebody has asked how far we are since this was last called.
    pub(crate) fn take_report(&self) -> bool {
        self.report.load(Ordering::Relaxed) && self.report.swap(false, Ordering::Relaxed)
    }
}
