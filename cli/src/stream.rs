//! What comes through a pipe, and whether it came whole.
//!
//! A pipe ends the same way whether its producer finished or died. So an empty stream is an error,
//! a size can be asked for, and a command that Vellum starts itself is asked how it ended.

use std::ffi::OsString;
use std::io::{self, Read};
use std::process::{Child, ChildStdout, ExitStatus, Stdio};
use std::time::Duration;

use crate::caller::Caller;
use crate::failure::Failure;
use crate::patience::{PATIENCE, Patient};
use crate::signals::Signals;

/// A reader that gives an error instead of an end that came too early or too late.
pub(crate) struct WholeStream<R> {
    reader: R,
    read_len: u64,
    expected_len: Option<u64>,
    signals: Signals,
}

/// The output of a command, which must succeed.
pub(crate) struct CommandOutput {
    name: String,
    child: Child,
    output: Patient<ChildStdout>,
    signals: Signals,
}

impl<R: Read> WholeStream<R> {
    pub(crate) fn new(reader: R, expected_len: Option<u64>, signals: Signals) -> Self {
        Self {
            reader,
            read_len: 0,
            expected_len,
            signals,
        }
    }

    fn check_len(&self, ended: bool) -> io::Result<()> {
        let read_len = self.read_len;
        let reason = match self.expected_len {
            // Ctrl-C reaches the producer too, whose end then means nothing.
            _ if ended && self.signals.is_stopped() => "interrupted".to_owned(),
            Some(expected) if read_len > expected => {
                format!("more than the {expected} bytes that --size promises came")
            }
            Some(expected) if ended && read_len < expected => {
                format!("it ended after {read_len} of {expected} bytes")
            }
            None if ended && read_len == 0 => "it ended before its first byte".to_owned(),
            _ => return Ok(()),
        };
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason))
    }
}

impl<R: Read> Read for WholeStream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.reader.read(buffer)?;
        self.read_len += len as u64;
        self.check_len(len == 0 && !buffer.is_empty())?;
        Ok(len)
    }
}

impl CommandOutput {
    /// Starts `words`, a command and its arguments, for `caller`.
    pub(crate) fn start(words: &[OsString], caller: &Caller) -> Result<Self, Failure> {
        let (program, arguments) = words.split_first().ok_or_else(|| {
            Failure::usage("there is no command after --", "write -- COMMAND ARGUMENT…")
        })?;
        let name = program.display().to_string();
        let fail = |source| Failure::io(format!("start {name}"), source);
        let command = caller.command(program);
        let mut child = command
            .and_then(|mut command| command.args(arguments).stdout(Stdio::piped()).spawn())
            .map_err(fail)?;
        let output = child.stdout.take().expect("its output was asked for");
        let signals = caller.signals.clone();
        Ok(Self {
            name,
            child,
            output: Patient::new(output, signals.clone()),
            signals,
        })
    }
}

impl CommandOutput {
    /// How the command ended. It may go on for a while after its output has ended.
    fn status(&mut self) -> io::Result<ExitStatus> {
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            self.signals.check().map_err(io::Error::other)?;
            std::thread::sleep(pause);
            pause = PATIENCE.min(2 * pause);
        }
    }
}

impl Read for CommandOutput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.output.read(buffer)?;
        if len == 0 && !buffer.is_empty() {
            let status = self.status()?;
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

    fn read(bytes: &[u8], expected: Option<u64>) -> Result<usize, String> {
        let mut out = Vec::new();
        WholeStream::new(bytes, expected, Signals::default())
            .read_to_end(&mut out)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_stream_of_the_wrong_length_is_an_error() {
        assert_eq!(read(b"abc", None), Ok(3));
        assert_eq!(read(b"abc", Some(3)), Ok(3));
        assert_eq!(read(b"", Some(0)), Ok(0));
        for (bytes, expected) in [
            (&b""[..], None),
            (b"ab", Some(3)),
            (b"abcd", Some(3)),
            (b"", Some(1)),
        ] {
            assert!(read(bytes, expected).is_err(), "{expected:?}");
        }
    }

    #[test]
    fn a_command_that_fails_is_an_error_even_after_its_bytes() {
        let caller = Caller::of_process(Signals::default()).expect("a test has streams");
        for (script, whole) in [
            ("printf abc", true),
            ("printf abc; exit 3", false),
            ("printf abc; kill -9 $$", false),
        ] {
            let words = ["sh", "-c", script].map(OsString::from);
            let mut out = Vec::new();
            let done = CommandOutput::start(&words, &caller)
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
