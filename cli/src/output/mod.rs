//! The output of answers: text for people, JSON for programs.
//!
//! Text is escaped on its way out, so that no name, path or message can command the terminal.

pub(crate) mod escape;
pub(crate) mod page;
pub(crate) mod progress;
pub(crate) mod report;
mod screen;
pub(crate) mod table;
pub(crate) mod time;
mod time_column;
mod units;
pub(crate) mod width;

use std::io::{self, BufWriter, IsTerminal, Write};

use clap::ValueEnum;
use jiff::tz::TimeZone;
use rustix::termios::tcgetwinsize;
use serde::Serialize;

use crate::failure::CommandFailure;
use crate::invocation::Stream;
use page::TextPage;
use table::{Column, TableLayout};
use width::PageWidth;

pub(crate) use units::Units;

/// The form of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputLayout {
    /// Text for people. It may change: programs should ask for JSON
    #[value(alias = "text")]
    Human,
    /// JSON, one document or message per line
    Json,
    /// JSON with line breaks and indentation
    JsonPretty,
}

/// An answer that can be shown: as its fields in JSON, and in words.
pub(crate) trait Render: Serialize {
    /// Writes it for people.
    fn render_page(&self, page: &mut TextPage) -> io::Result<()>;
}

/// The output of answers.
pub(crate) struct Output {
    pub(crate) layout: OutputLayout,
    pub(crate) units: Units,
    pub(crate) quiet: bool,
    /// The time zone in which people are shown times.
    pub(crate) zone: TimeZone,
    writer: BufWriter<Stream>,
    width: PageWidth,
}

/// A message among others on a stream of JSON lines.
#[derive(Serialize)]
struct JsonMessage<'a, T: Serialize> {
    message_type: &'static str,
    #[serde(flatten)]
    body: &'a T,
}

impl Output {
    pub(crate) fn new(
        layout: OutputLayout,
        units: Units,
        quiet: bool,
        zone: TimeZone,
        stream: &Stream,
    ) -> Self {
        Self {
            layout,
            units,
            quiet,
            zone,
            writer: BufWriter::new(stream.clone()),
            width: page_width(stream),
        }
    }

    /// Sends answers to `stream` from now on: the usual one carries an image.
    pub(crate) fn divert_to(&mut self, stream: &Stream) {
        self.writer = BufWriter::new(stream.clone());
        self.width = page_width(stream);
    }

    /// Shows what has a form already.
    pub(crate) fn print_verbatim(&mut self, bytes: &[u8]) -> Result<(), CommandFailure> {
        Ok(self.writer.write_all(bytes)?)
    }

    /// Shows what was asked for.
    pub(crate) fn print_answer<T: Render>(&mut self, answer: &T) -> Result<(), CommandFailure> {
        match self.layout {
            OutputLayout::Human => {
                let (writer, zone) = (&mut self.writer, &self.zone);
                answer.render_page(&mut TextPage::new(writer, self.units, zone, self.width))?;
            }
            OutputLayout::Json => json_line(&mut self.writer, answer)?,
            OutputLayout::JsonPretty => {
                serde_json::to_writer_pretty(&mut self.writer, answer).map_err(io::Error::from)?;
                writeln!(self.writer)?;
            }
        }
        Ok(())
    }

    /// The layout in which events beside the answer are told; none where silence was asked for.
    pub(crate) fn event_layout(&self) -> Option<OutputLayout> {
        let is_silent = self.quiet && self.layout == OutputLayout::Human;
        (!is_silent).then_some(self.layout)
    }

    /// Confirms that something was done, unless silence was asked for.
    pub(crate) fn print_confirmation<T: Render>(
        &mut self,
        answer: &T,
    ) -> Result<(), CommandFailure> {
        if self.quiet && self.layout == OutputLayout::Human {
            Ok(())
        } else {
            self.print_answer(answer)
        }
    }

    /// Reports the end of long work: in JSON the last of a stream of messages.
    pub(crate) fn print_summary<T: Render>(&mut self, answer: &T) -> Result<(), CommandFailure> {
        match self.layout {
            OutputLayout::Human => self.print_confirmation(answer),
            _ => Ok(json_line(
                &mut self.writer,
                &JsonMessage {
                    message_type: "summary",
                    body: answer,
                },
            )?),
        }
    }

    /// Begins an answer of many entries, which are shown as they come: lines with columns, or a
    /// JSON array.
    pub(crate) fn begin_entries(&mut self, columns: &[Column]) -> EntryStream<'_> {
        let layout = TableLayout::fit_stream(columns, self.width);
        EntryStream {
            output: self,
            layout,
            count: 0,
        }
    }

    /// Makes sure that everything has arrived.
    pub(crate) fn flush(&mut self) -> Result<(), CommandFailure> {
        Ok(self.writer.flush()?)
    }
}

/// An answer of many entries.
pub(crate) struct EntryStream<'a> {
    output: &'a mut Output,
    layout: TableLayout,
    count: u64,
}

impl EntryStream<'_> {
    /// Shows one more: `cells` to people, all of `entry` to programs.
    pub(crate) fn push_entry<T: Serialize>(
        &mut self,
        entry: &T,
        cells: &[String],
    ) -> Result<(), CommandFailure> {
        let writer = &mut self.output.writer;
        let first = self.count == 0;
        self.count += 1;
        if self.output.layout != OutputLayout::Human {
            writer.write_all(if first { b"[" } else { b",\n" })?;
            return Ok(serde_json::to_writer(writer, entry).map_err(io::Error::from)?);
        }
        if self.output.quiet {
            return Ok(());
        }
        if first {
            self.layout.write_header(writer)?;
        }
        Ok(self.layout.write_row(writer, None, cells)?)
    }

    /// Ends the answer; says how many entries there were.
    pub(crate) fn finish_entries(self) -> Result<u64, CommandFailure> {
        if self.output.layout != OutputLayout::Human {
            let end: &[u8] = if self.count == 0 { b"[]\n" } else { b"]\n" };
            self.output.writer.write_all(end)?;
        }
        Ok(self.count)
    }
}

/// The width of the terminal that `stream` is, or of a page.
fn page_width(stream: &Stream) -> PageWidth {
    let file = stream.file();
    if !file.is_terminal() {
        return PageWidth::USUAL;
    }
    let told = tcgetwinsize(file).map_or(0, |size| usize::from(size.ws_col));
    PageWidth {
        columns: if told == 0 {
            PageWidth::USUAL.columns
        } else {
            told
        },
        is_terminal: true,
    }
}

fn json_line<T: Serialize>(writer: &mut impl Write, value: &T) -> io::Result<()> {
    serde_json::to_writer(&mut *writer, value).map_err(io::Error::from)?;
    writeln!(writer)
}
