//! Streams through a pipe, and whether they arrived whole.
//!
//! A pipe ends the same way whether its producer finished or died. So an empty stream is an error,
//! a size can be asked for, and the exit status of a command that Vellum starts itself is checked
//! (`command_output`).

use std::io::{self, Read};

use vellum_formats::Format;
use vellum_formats::input::InputFormat;
use vellum_formats::probe::{HEAD_LEN, Probe, TAIL_LEN};

use crate::signals::Signals;
use crate::source_format::{ExpectedFile, FormatDecision, Notice};

/// A reader that gives an error instead of an end that came too early or too late.
pub(crate) struct WholeStream<R> {
    reader: R,
    read_len: u64,
    expected_len: Option<u64>,
    signals: Signals,
}

/// A reader that looks at what goes through it, and gives an error if that is no disk: at its
/// beginning if that tells, else in place of its end, before anything has got a name.
pub(crate) struct JudgedStream<R> {
    reader: R,
    judge: StreamJudge,
    /// The first bytes, and how many of them went through.
    head: Vec<u8>,
    head_read: usize,
    has_head: bool,
    /// The error that ended the reading of the first bytes.
    failed: Option<io::Error>,
    tail: Vec<u8>,
    len: u64,
}

/// Decides whether a stream may be stored as a raw disk.
pub(crate) struct StreamJudge {
    name: String,
    expected: ExpectedFile,
    warn: Box<dyn Fn(&str) + Send>,
}

/// The reason why a stream is not stored.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct UnusableStream {
    pub(crate) message: String,
    pub(crate) advice: String,
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

impl StreamJudge {
    /// A judge of a stream that people call `name`; `warn` tells them what is odd.
    pub(crate) fn new(
        name: &str,
        expected: ExpectedFile,
        warn: impl Fn(&str) + Send + 'static,
    ) -> Self {
        Self {
            name: name.to_owned(),
            expected,
            warn: Box::new(warn),
        }
    }

    /// Judges the first bytes, before the length is known. For an image that is always raw the end
    /// of the stream decides.
    fn check_head(&self, head: &[u8]) -> io::Result<()> {
        if self.expected.is_told_by_length() {
            return Ok(());
        }
        self.decide_format(&Probe::from_head_and_tail(head, &[]), 0)
            .map(drop)
    }

    fn check_whole(&self, head: &[u8], tail: &[u8], len: u64) -> io::Result<()> {
        match self
            .decide_format(&Probe::from_head_and_tail(head, tail), len)?
            .notice
        {
            Some(Notice::Warning(text)) => (self.warn)(&text),
            Some(Notice::Remark(_)) | None => {}
        }
        Ok(())
    }

    fn decide_format(&self, seen: &Probe, len: u64) -> io::Result<FormatDecision> {
        let refuse =
            |message, advice: String| Err(io::Error::other(UnusableStream { message, advice }));
        match self.expected.decide_format(&self.name, seen, len) {
            Ok(reading) if reading.format == InputFormat::Image(Format::Raw) => Ok(reading),
            Ok(reading) => {
                let format = reading.format;
                refuse(
                    format!("{}: {seen}, and a pipe goes by once", self.name),
                    format!(
                        "write it to a file and import that as {format}; -f raw stores it as it is"
                    ),
                )
            }
            Err(failure) => {
                let advice = failure.hint().unwrap_or_default();
                refuse(failure.to_string(), advice)
            }
        }
    }
}

impl<R: Read> JudgedStream<R> {
    pub(crate) fn new(reader: R, judge: StreamJudge) -> Self {
        Self {
            reader,
            judge,
            head: Vec::new(),
            head_read: 0,
            has_head: false,
            failed: None,
            tail: Vec::new(),
            len: 0,
        }
    }

    /// Reads the first bytes, all of them that there are.
    fn take_head(&mut self) -> io::Result<()> {
        let mut head = vec![0; HEAD_LEN];
        let mut filled = 0;
        while filled < head.len() {
            match self.reader.read(&mut head[filled..]) {
                Ok(0) => break,
                Ok(len) => filled += len,
                // Told where it happened: behind what came before it.
                Err(error) => {
                    self.failed = Some(error);
                    break;
                }
            }
        }
        head.truncate(filled);
        self.judge.check_head(&head)?;
        (self.head, self.has_head) = (head, true);
        Ok(())
    }

    /// Notes what went through.
    fn note_bytes(&mut self, bytes: &[u8]) {
        self.len += bytes.len() as u64;
        let kept = &bytes[bytes.len().saturating_sub(TAIL_LEN)..];
        let old = (self.tail.len() + kept.len()).saturating_sub(TAIL_LEN);
        self.tail.drain(..old);
        self.tail.extend_from_slice(kept);
    }
}

impl<R: Read> Read for JudgedStream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.has_head {
            self.take_head()?;
        }
        let waiting = &self.head[self.head_read..];
        let len = if waiting.is_empty() {
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            self.reader.read(buffer)?
        } else {
            let len = waiting.len().min(buffer.len());
            buffer[..len].copy_from_slice(&waiting[..len]);
            self.head_read += len;
            len
        };
        self.note_bytes(&buffer[..len]);
        if len == 0 && !buffer.is_empty() {
            self.judge.check_whole(&self.head, &self.tail, self.len)?;
        }
        Ok(len)
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

    fn judged(bytes: &[u8], expected: ExpectedFile) -> Result<Vec<u8>, String> {
        let (mut out, judge) = (Vec::new(), StreamJudge::new("pipe", expected, |_| ()));
        // In steps that divide neither end.
        let mut stream = JudgedStream::new(bytes, judge);
        let mut buffer = [0; 1000];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return Ok(out),
                Ok(len) => out.extend_from_slice(&buffer[..len]),
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    #[test]
    fn a_stream_that_is_no_disk_is_an_error_whichever_end_tells() {
        for len in [600, HEAD_LEN - 1, HEAD_LEN, HEAD_LEN + 1, 3 * HEAD_LEN + 7] {
            let plain: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            assert!(
                judged(&plain, ExpectedFile::default()) == Ok(plain.clone()),
                "{len}"
            );
            let (mut begun, mut ended) = (plain.clone(), plain.clone());
            begun[..4].copy_from_slice(b"QFI\xfb");
            ended[len - 512..][..8].copy_from_slice(b"conectix");
            for (bytes, word) in [(&begun, "qcow2"), (&ended, "vhd")] {
                let told = judged(bytes, ExpectedFile::default()).expect_err("it is no disk");
                assert!(told.contains(word), "{len}: {told}");
                let said = ExpectedFile {
                    said: Some(InputFormat::Image(Format::Raw)),
                    image: None,
                };
                assert!(judged(bytes, said) == Ok(bytes.clone()), "{len}");
            }
        }
    }
}
