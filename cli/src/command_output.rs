//! The output of a command that Vellum starts itself, and whether the command succeeded.

use std::ffi::OsString;
use std::io::{self, Read};
use std::process::{Child, ChildStdout, ExitStatus, Stdio};
use std::time::Duration;

use crate::failure::CommandFailure;
use crate::interruptible_stream::{InterruptibleStream, PATIENCE};
use crate::invocation::Invocation;
use crate::signals::Signals;

/// The output of a command, which must succeed.
pub(crate) struct CommandOutput {
    name: String,
    child: Child,
    output: InterruptibleStream<ChildStdout>,
    signals: Signals,
}

impl CommandOutput {
    /// Starts `words`, a command and its arguments, for `caller`.
    pub(crate) fn spawn_command(
        words: &[OsString],
        caller: &Invocation,
    ) -> Result<Self, CommandFailure> {
        let (program, arguments) = words.split_first().ok_or_else(|| {
            CommandFailure::usage_error(
                "there is no command after --",
                "write -- COMMAND ARGUMENT…",
            )
        })?;
        let name = program.display().to_string();
        let fail = |source| CommandFailure::io_error(format!("start {name}"), source);
        let command = caller.prepare_command(program);
        let mut child = command
            .and_then(|mut command| command.args(arguments).stdout(Stdio::piped()).spawn())
            .map_err(fail)?;
        let output = child.stdout.take().expect("its output was asked for");
        let signals = caller.signals.clone();
        Ok(Self {
            name,
            child,
            output: InterruptibleStream::new(output, signals.clone()),
            signals,
        })
    }
}

impl CommandOutput {
    /// The exit status of the command. It may go on for a while after its output has ended.
    fn await_status(&mut self) -> io::Result<ExitStatus> {
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            self.signals.fail_if_stopped().map_err(io::Error::other)?;
            std::thread::sleep(pause);
            pause = PATIENCE.min(2 * pause);
        }
    }
}

impl Read for CommandOutput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.output.read(buffer)?;
        if len == 0 && !buffer.is_empty() {
            let status = self.await_status()?;
            if !status.success() {
                return Err(io::Error::other(format!("{} failed: {status}", self.name)));
            }
        }
        Ok(len)
    }
}

impl Drop for CommandOutput {
    /// Ends a command whose output nobody wants any more. Both calls fail if it has ended already.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_fails_is_an_error_even_after_its_bytes() {
        let caller = Invocation::of_process(Signals::default()).expect("a test has streams");
        for (script, whole) in [
            ("printf abc", true),
            ("printf abc; exit 3", false),
            ("printf abc; kill -9 $$", false),
        ] {
            let words = ["sh", "-c", script].map(OsString::from);
            let mut out = Vec::new();
            let done = CommandOutput::spawn_command(&words, &caller)
                .expect("sh is there")
                .read_to_end(&mut out);
            assert_eq!(
                (done.is_ok(), out.as_slice()),
                (whole, &b"abc"[..]),
                "{script}"
            );
        }
    }
}
