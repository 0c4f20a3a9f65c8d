//! A page of text for people.

use std::io::{self, Write};

use jiff::tz::TimeZone;

use super::escape::escape_invisible;
use super::table::{self, Column};
use super::time::{self, Rfc3339Time};
use super::units::Units;
use crate::time_zone;

/// Room for the names of fields, so that their values stand below each other.
const FIELD_WIDTH: usize = 14;

/// Takes lines.
pub(crate) struct TextPage<'a> {
    writer: &'a mut dyn Write,
    units: Units,
    zone: &'a TimeZone,
}

impl<'a> TextPage<'a> {
    pub(crate) fn new(writer: &'a mut dyn Write, units: Units, zone: &'a TimeZone) -> Self {
        Self {
            writer,
            units,
            zone,
        }
    }

    /// A line.
    pub(crate) fn write_line(&mut self, text: impl AsRef<str>) -> io::Result<()> {
        writeln!(self.writer, "{}", escape_invisible(text.as_ref()))
    }

    /// A name and its value.
    pub(crate) fn write_field(&mut self, name: &str, value: impl AsRef<str>) -> io::Result<()> {
        let label = format!("{name}:");
        self.write_line(format!("{label:FIELD_WIDTH$} {}", value.as_ref()))
    }

    /// Rows below a header; columns are as wide as what stands in them.
    pub(crate) fn write_table(
        &mut self,
        columns: &[Column],
        rows: &[Vec<String>],
    ) -> io::Result<()> {
        let columns = table::fit_columns(columns, rows);
        table::write_header(self.writer, &columns)?;
        self.write_rows(&columns, rows)
    }

    /// Rows without a header; columns are as wide as what stands in them.
    pub(crate) fn write_rows(
        &mut self,
        columns: &[Column],
        rows: &[Vec<String>],
    ) -> io::Result<()> {
        let columns = table::fit_columns(columns, rows);
        rows.iter()
            .try_for_each(|row| table::write_row(self.writer, &columns, row))
    }

    /// `moment` as the person's clock shows it.
    pub(crate) fn format_time(&self, moment: Rfc3339Time) -> String {
        let since_1970_ms = moment.since_1970_ms;
        time_zone::format_local_time(self.zone, since_1970_ms)
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
