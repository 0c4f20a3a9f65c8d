//! The signals that a person, a terminal or a service manager sends.
//!
//! SIGINT, SIGTERM and SIGHUP ask to stop, in order. A hangup that is ignored when the process
//! starts, as under `nohup`, stays ignored. It comes more than once when a terminal goes (from the
//! kernel and from the shell), so a second one is no sign of impatience.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::flag;
use signal_hook::low_level::pipe;
use vellum_store::StoreError;

/// The signals received so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signals {
    stop: Arc<AtomicBool>,
    number: Arc<AtomicUsize>,
    report: Arc<AtomicBool>,
}

impl Signals {
    /// Listens from now on. The first Ctrl-C asks to stop, the second does not ask.
    pub(crate) fn install_handlers() -> Self {
        let signals = Self::default();
        for signal in stop_signals() {
            // The order counts: the first signal must not see the flag that it sets itself. A
            // handler that the system refuses leaves the signal's usual effect, which the store
            // survives.
            if signal != SIGHUP {
                let asked = Arc::clone(&signals.stop);
                let _ = flag::register_conditional_shutdown(signal, 128 + signal, asked);
            }
            let _ = flag::register_usize(signal, Arc::clone(&signals.number), signal as usize);
            let _ = flag::register(signal, Arc::clone(&signals.stop));
        }
        let _ = flag::register(SIGUSR1, Arc::clone(&signals.report));
        // A file that may not grow is an error of the call that wants it to, not our end.
        let _ = flag::register(SIGXFSZ, Arc::default());
        signals
    }

    /// Acts as if this process had received signal `number`.
    pub(crate) fn record_signal(&self, number: u8) {
        match i32::from(number) {
            SIGUSR1 => self.report.store(true, Ordering::Relaxed),
            SIGINT | SIGTERM | SIGHUP => {
                self.number.store(number.into(), Ordering::Relaxed);
                // The number is there for whoever sees that it is time to stop.
                self.stop.store(true, Ordering::Release);
            }
            _ => {}
        }
    }

    /// Sleeps for `time`; true if it is then time to stop.
    pub(crate) fn await_stop(&self, time: Duration) -> bool {
        // A signal does not end the sleep; what follows it may wait for so long.
        thread::sleep(time);
        self.is_stopped()
    }

    /// A stream that gets a byte with each signal, to wait for.
    pub(crate) fn signal_stream() -> io::Result<UnixStream> {
        let (bell, rope) = UnixStream::pair()?;
        for signal in stop_signals().into_iter().chain([SIGUSR1]) {
            pipe::register(signal, rope.try_clone()?)?;
        }
        Ok(bell)
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Fails once the person has had enough, for loops of our own.
    pub(crate) fn fail_if_stopped(&self) -> Result<(), StoreError> {
        if self.is_stopped() {
            Err(StoreError::Interrupted)
        } else {
            Ok(())
        }
    }

    /// The signal that asked to stop, 0 if none did.
    pub(crate) fn received_signal(&self) -> u8 {
        self.number.load(Ordering::Relaxed) as u8
    }

    /// True if a progress report was asked for since the last call.
    pub(crate) fn take_report(&self) -> bool {
        self.report.load(Ordering::Relaxed) && self.report.swap(false, Ordering::Relaxed)
    }
}

/// The signals that ask to stop, without a hangup that this process is to ignore.
fn stop_signals() -> Vec<i32> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut signals = vec![SIGINT, SIGTERM];
    if !ignored_signals(&status).contains(&SIGHUP) {
        signals.push(SIGHUP);
    }
    signals
}

/// The signals that a process ignores, from its `status`.
fn ignored_signals(status: &str) -> Vec<i32> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let mask = mask.unwrap_or(0);
    (1..=64)
        .filter(|signal| mask >> (signal - 1) & 1 == 1)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_told_by_the_system() {
        let status = "Name:\tvellum\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\n";
        assert_eq!(ignored_signals(status), [SIGHUP, 13]);
        assert_eq!(ignored_signals(""), Vec::<i32>::new());
    }
}
