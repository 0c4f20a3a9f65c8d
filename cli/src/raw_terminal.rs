//! The caller's terminal while one program has all of its keys. It is put back whatever happens,
//! unless this process is killed.
//!
//! Only the process that was started at the terminal does this: to another one of the same session,
//! which is not in the foreground, the system would send a signal that stops it.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::sync::Arc;

use rustix::termios::{
    InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};

use crate::failure::CommandFailure;
use crate::invocation::Invocation;

/// The usual screen with its cursor, for a terminal whose program ended without it.
const USUAL_SCREEN: &str = "\x1b[0m\x1b[?25h\x1b[?1047l\r\n";
/// Terminals that show text alone.
const DUMB: &str = "dumb";

/// A terminal that gives each key as it is pressed, until this is dropped.
pub(crate) struct RawTerminal {
    terminal: Arc<File>,
    before: Termios,
}

impl RawTerminal {
    /// Has the caller's terminal give all keys, those of signals too.
    pub(crate) fn take_keys(caller: &Invocation) -> Result<Self, CommandFailure> {
        check_terminal(caller)?;
        let terminal = Arc::clone(caller.streams.input.file());
        let fail = |errno: rustix::io::Errno| {
            CommandFailure::io_error("have the terminal give its keys", errno.into())
        };
        let before = tcgetattr(&terminal).map_err(fail)?;
        let mut raw = before.clone();
        // Output stays as it is: lines of messages begin at the left.
        raw.local_modes -=
            LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG | LocalModes::IEXTEN;
        raw.input_modes -= InputModes::ICRNL | InputModes::IXON;
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(&terminal, OptionalActions::Now, &raw).map_err(fail)?;
        Ok(Self { terminal, before })
    }

    /// Shows the usual screen: the program that had it is gone.
    pub(crate) fn restore_screen(&self) {
        // A terminal that takes nothing has gone, too.
        let _ = (&*self.terminal).write_all(USUAL_SCREEN.as_bytes());
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Keys that nobody took are not for the shell.
        let _ = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
    }
}

/// Fails unless the caller has a terminal on which a screen can be drawn.
pub(crate) fn check_terminal(caller: &Invocation) -> Result<(), CommandFailure> {
    let streams = &caller.streams;
    let are_terminals = streams.input.file().is_terminal() && streams.output.file().is_terminal();
    let kind = caller.variable("TERM");
    if are_terminals && kind.is_some_and(|kind| kind != DUMB) {
        return Ok(());
    }
    Err(CommandFailure::usage_error(
        "--tui needs a terminal that can show a screen",
        "run it in one; `vellum manager` without --tui is for a browser",
    ))
}
