//! A table of figures with their units, so that each output form shows them in its way.

use std::io;

use crate::output::Units;
use crate::output::page::{TextPage, format_percent};
use crate::output::table::Column;
use crate::output::time::{Rfc3339Time, format_utc};

use super::ReportPart;

/// Rows of one part of a report.
#[derive(Clone, Debug)]
pub(crate) struct Sheet {
    pub(crate) part: ReportPart,
    pub(crate) heads: Vec<SheetColumn>,
    pub(crate) rows: Vec<Vec<Cell>>,
    /// Rows that there are beside these.
    pub(crate) left_out: usize,
    /// Advice on the next step.
    pub(crate) advice: Option<String>,
}

/// A column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SheetColumn {
    /// The name for programs.
    pub(crate) key: &'static str,
    /// The title for people; a column without one is for programs only.
    pub(crate) title: Option<&'static str>,
    pub(crate) is_number: bool,
    /// True if its text may go on in further lines.
    is_prose: bool,
    is_time: bool,
    /// Its rank among columns that give way on a narrow page; zero never does.
    rank: u8,
}

/// A figure or a text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    Text(String),
    Bytes(u64),
    Count(u64),
    /// A ratio: a number of times.
    Ratio(f64),
    /// A part of a whole.
    Share(u64, u64),
    /// In milliseconds since 1970.
    Moment(u64),
    /// There is no such figure.
    Nothing,
}

/// The number of rows that are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowLimit {
    /// All, in the store's order.
    Whole,
    /// The rows that matter most, this many.
    Top(usize),
}

impl SheetColumn {
    pub(crate) const fn text_column(key: &'static str, title: &'static str) -> Self {
        Self {
            key,
            title: Some(title),
            is_number: false,
            is_prose: false,
            is_time: false,
            rank: 0,
        }
    }

    pub(crate) const fn number_column(key: &'static str, title: &'static str) -> Self {
        Self {
            key,
            is_number: true,
            ..Self::text_column(key, title)
        }
    }

    /// A column for programs only.
    pub(crate) const fn hidden_column(key: &'static str) -> Self {
        Self {
            key,
            title: None,
            ..Self::text_column(key, "")
        }
    }

    pub(crate) const fn as_prose(self) -> Self {
        Self {
            is_prose: true,
            ..self
        }
    }

    /// Its cells are moments.
    pub(crate) const fn as_time(self) -> Self {
        Self {
            is_time: true,
            ..self
        }
    }

    pub(crate) const fn giving_way(self, rank: u8) -> Self {
        Self { rank, ..self }
    }

    /// The column of a table for people.
    fn table_column(&self, title: &'static str) -> Column {
        let column = if self.is_number {
            Column::number_column(title)
        } else if self.is_prose {
            Column::text_column(title).as_prose()
        } else if self.is_time {
            Column::text_column(title).as_time()
        } else {
            Column::text_column(title)
        };
        column.giving_way(self.rank)
    }
}

impl Cell {
    pub(crate) fn text_cell(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// The text for people.
    pub(crate) fn display_text(&self, units: Units) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Bytes(bytes) => units.format_bytes(*bytes),
            Self::Count(count) => count.to_string(),
            Self::Ratio(ratio) => format!("{ratio:.2}"),
            Self::Share(part, whole) => format_percent(*part, *whole),
            Self::Moment(since_1970_ms) => format_utc(*since_1970_ms),
            Self::Nothing => String::new(),
        }
    }

    /// The text for programs.
    pub(crate) fn machine_text(&self) -> String {
        match self {
            Self::Bytes(bytes) => bytes.to_string(),
            Self::Ratio(ratio) => format!("{ratio:.4}"),
            Self::Share(part, whole) if *whole > 0 => {
                format!("{:.6}", *part as f64 / *whole as f64)
            }
            Self::Share(..) => String::new(),
            other => other.display_text(Units::Raw),
        }
    }
}

impl RowLimit {
    /// Chooses the wanted ones of `rows`, the greatest `weight` first, and the number of those that
    /// are left out.
    pub(super) fn choose_rows<T, W: Ord>(
        self,
        mut rows: Vec<T>,
        weight: impl Fn(&T) -> W,
    ) -> (Vec<T>, usize) {
        let Self::Top(top) = self else {
            return (rows, 0);
        };
        rows.sort_by_key(|row| std::cmp::Reverse(weight(row)));
        let left_out = rows.len().saturating_sub(top);
        rows.truncate(top);
        (rows, left_out)
    }
}

impl Sheet {
    /// The rows of a sheet of figures: the name, the figure and its meaning.
    pub(crate) fn figure_rows(&self, units: Units) -> Vec<(String, String, String)> {
        let text = |row: &Vec<Cell>, nth: usize| {
            row.get(nth)
                .map_or_else(String::new, |cell| cell.display_text(units))
        };
        let rows = self.rows.iter();
        rows.map(|row| (text(row, 1), text(row, 2), text(row, 3)))
            .collect()
    }

    /// The columns that people see: where, and what they are called.
    pub(super) fn visible_columns(
        &self,
    ) -> impl Iterator<Item = (usize, &SheetColumn, &'static str)> {
        self.heads
            .iter()
            .enumerate()
            .filter_map(|(nth, head)| Some((nth, head, head.title?)))
    }

    /// The note about the rows that are left out.
    pub(super) fn left_out_note(&self) -> Option<String> {
        (self.left_out > 0).then(|| {
            format!(
                "{} more: `vellum report {} --top COUNT`",
                self.left_out,
                self.part.part_key()
            )
        })
    }

    /// Writes it for people.
    pub(crate) fn render_sheet(&self, page: &mut TextPage, units: Units) -> io::Result<()> {
        page.write_line(self.part.part_title())?;
        if self.rows.is_empty() {
            return page.write_line("  nothing");
        }
        let columns: Vec<Column> = self
            .visible_columns()
            .map(|(_, head, title)| head.table_column(title))
            .collect();
        let shown = |cell: &Cell| match cell {
            Cell::Moment(since_1970_ms) => page.format_minute(Rfc3339Time::new(*since_1970_ms)),
            cell => cell.display_text(units),
        };
        let cells = |row: &Vec<Cell>| {
            self.visible_columns()
                .map(|(nth, ..)| shown(&row[nth]))
                .collect()
        };
        let rows: Vec<Vec<String>> = self.rows.iter().map(cells).collect();
        page.write_table(&columns, &rows)?;
        self.left_out_note()
            .into_iter()
            .try_for_each(|rest| page.write_prose(rest))?;
        self.advice
            .iter()
            .try_for_each(|advice| page.write_prose(format!("next: {advice}")))
    }
}
