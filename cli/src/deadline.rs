//! The longest time that a command on a repository may take to stop. A request to a server that
//! does not answer cannot be called off; but nothing that was put is lost when the process ends
//! under it, and the next command on this machine takes away what it leaves.

use std::io::Write;
use std::sync::{Arc, Once};
use std::time::Duration;

use signal_hook::low_level;

use crate::interruptible_stream::PATIENCE;
use crate::invocation::Invocation;

/// Time for a command to stop by itself, and to say so.
const STOP_LIMIT: Duration = Duration::from_millis(1500);
/// A shell adds the signal's number to this.
const SIGNAL_CODE: i32 = 128;

/// The watching thread's start: one is enough, however often the command is tried.
static WATCHED: Once = Once::new();

/// Ends this process that long after `caller` asked to stop, if it still runs then.
pub(crate) fn watch(caller: &Arc<Invocation>) {
    WATCHED.call_once(|| start_watching(caller));
}

fn start_watching(caller: &Arc<Invocation>) {
    let caller = Arc::clone(caller);
    let watching = std::thread::Builder::new().name("deadline".to_owned());
    // Without the thread the command stops as soon as it can.
    drop(watching.spawn(move || {
        while !caller.signals.await_stop(PATIENCE) {}
        std::thread::sleep(STOP_LIMIT);
        let code = SIGNAL_CODE + i32::from(caller.signals.received_signal());
        // Whoever waits for the terminal does not hinder the end.
        let mut error = caller.streams.error.clone();
        let _ = error.write_all(b"error: interrupted\n");
        low_level::exit(code);
    }));
}
