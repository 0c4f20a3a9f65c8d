//! A page of text for people.

use std::io::{self, Write};

use jiff::tz::TimeZone;

use super::escape::escape_invisible;
use super::table::{Column, RowLead, TableLayout};
use super::time::{self, Rfc3339Time};
use super::time_column::share_offsets;
use super::units::Units;
use super::width::{PageWidth, fold_text};
use crate::time_zone;

/// Room for the names of fields, so that their values stand below each other.
const FIELD_WIDTH: usize = 14;

/// Takes lines.
pub(crate) struct TextPage<'a> {
    writer: &'a mut dyn Write,
    units: Units,
    zone: &'a TimeZone,
    width: PageWidth,
}

impl<'a> TextPage<'a> {
    pub(crate) fn new(
        writer: &'a mut dyn Write,
        units: Units,
        zone: &'a TimeZone,
        width: PageWidth,
    ) -> Self {
        Self {
            writer,
            units,
            zone,
            width,
        }
    }

    /// A line.
    pub(crate) fn write_line(&mut self, text: impl AsRef<str>) -> io::Result<()> {
        writeln!(self.writer, "{}", escape_invisible(text.as_ref()))
    }

    /// A sentence that on a terminal goes on in further lines, indented as its first one is.
    pub(crate) fn write_prose(&mut self, text: impl AsRef<str>) -> io::Result<()> {
        let text = text.as_ref();
        let indent = text.len() - text.trim_start().len();
        self.write_folded(&text[..indent], &" ".repeat(indent + 2), &text[indent..])
    }

    /// A name and its value, which on a terminal goes on in further lines.
    pub(crate) fn write_field(&mut self, name: &str, value: impl AsRef<str>) -> io::Result<()> {
        let label = format!("{:FIELD_WIDTH$} ", format!("{name}:"));
        let further = " ".repeat(label.len());
        self.write_folded(&label, &further, value.as_ref())
    }

    /// Writes a field whose value has several lines.
    pub(crate) fn write_field_lines<T: AsRef<str>>(
        &mut self,
        name: &str,
        lines: impl Iterator<Item = T>,
    ) -> io::Result<()> {
        let label = format!("{:FIELD_WIDTH$} ", format!("{name}:"));
        let further = " ".repeat(label.len());
        let mut lead = label.as_str();
        for line in lines {
            self.write_folded(lead, &further, line.as_ref())?;
            lead = &further;
        }
        Ok(())
    }

    fn write_folded(&mut self, first: &str, further: &str, text: &str) -> io::Result<()> {
        let text = escape_invisible(text);
        if !self.width.is_terminal {
            return self.write_line(format!("{first}{text}"));
        }
        let room = self.width.columns.saturating_sub(further.len());
        let lines = fold_text(&text, room.max(1), true);
        lines.iter().enumerate().try_for_each(|(nth, line)| {
            let lead = if nth == 0 { first } else { further };
            writeln!(self.writer, "{}", format!("{lead}{line}").trim_end())
        })
    }

    /// Rows below a header; columns are as wide as what stands in them.
    pub(crate) fn write_table(
        &mut self,
        columns: &[Column],
        rows: &[Vec<String>],
    ) -> io::Result<()> {
        self.write_tree_table(columns, &[], rows)
    }

    /// The same, with lines before the first cell of each row.
    pub(crate) fn write_tree_table(
        &mut self,
        columns: &[Column],
        leads: &[RowLead],
        rows: &[Vec<String>],
    ) -> io::Result<()> {
        let (mut columns, mut rows) = (columns.to_vec(), rows.to_vec());
        share_offsets(&mut columns, &mut rows);
        let layout = TableLayout::fit_rows(&columns, leads, &rows, self.width);
        layout.write_header(self.writer)?;
        rows.iter()
            .enumerate()
            .try_for_each(|(nth, row)| layout.write_row(self.writer, leads.get(nth), row))
    }

    /// Rows without a header; columns are as wide as what stands in them.
    pub(crate) fn write_rows(
        &mut self,
        columns: &[Column],
        rows: &[Vec<String>],
    ) -> io::Result<()> {
        let layout = TableLayout::fit_rows(columns, &[], rows, self.width);
        rows.iter()
            .try_for_each(|row| layout.write_row(self.writer, None, row))
    }

    /// `moment` as the person's clock shows it.
    pub(crate) fn format_time(&self, moment: Rfc3339Time) -> String {
        let since_1970_ms = moment.since_1970_ms;
        time_zone::format_local_time(self.zone, since_1970_ms)
            .unwrap_or_else(|| time::format_utc(since_1970_ms))
    }

    /// The same to the minute, for tables.
    pub(crate) fn format_minute(&self, moment: Rfc3339Time) -> String {
        let since_1970_ms = moment.since_1970_ms;
        time_zone::format_local_minute(self.zone, since_1970_ms)
            .unwrap_or_else(|| time::format_utc(since_1970_ms))
    }

    /// `bytes` as the person wants to see them.
    pub(crate) fn format_size(&self, bytes: u64) -> String {
        self.units.format_bytes(bytes)
    }

    /// Cells with a tab between them, for programs: no cell has one.
    pub(crate) fn write_tabbed(&mut self, cells: &[String]) -> io::Result<()> {
        let cells: Vec<_> = cells.iter().map(|cell| escape_invisible(cell)).collect();
        writeln!(self.writer, "{}", cells.join("\t"))
    }
}

/// A share in percent, `–` of nothing.
pub(crate) fn format_percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        "–".to_owned()
    } else {
        format!("{:.1} %", 100.0 * part as f64 / whole as f64)
    }
}

/// `of` in relation to `to`, if that is anything.
pub(crate) fn ratio_of(of: u64, to: u64) -> Option<f64> {
    (to > 0).then(|| of as f64 / to as f64)
}

/// `count` things, with an s if there is not one.
pub(crate) fn format_count(count: u64, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}
