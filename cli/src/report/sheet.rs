//! A table of figures with their units, so that each output form shows them in its way.

use std::io;

use crate::output::Units;
use crate::output::page::{Page, percent};
use crate::output::table::Column;
use crate::output::time::{Moment, moment};

use super::Part;

/// Rows of one part of a report.
#[derive(Clone, Debug)]
pub(crate) struct Sheet {
    pub(crate) part: Part,
    pub(crate) heads: Vec<Head>,
    pub(crate) rows: Vec<Vec<Cell>>,
    /// Rows that there are beside these.
    pub(crate) left_out: usize,
    /// Advice on the next step.
    pub(crate) advice: Option<String>,
}

/// A column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    /// The name for programs.
    pub(crate) key: &'static str,
    /// The title for people; a column without one is for programs only.
    pub(crate) title: Option<&'static str>,
    pub(crate) is_number: bool,
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
pub(crate) enum Extent {
    /// All, in the store's order.
    Whole,
    /// The rows that matter most, this many.
    Top(usize),
}

impl Head {
    pub(crate) const fn text(key: &'static str, title: &'static str) -> Self {
        Self {
            key,
            title: Some(title),
            is_number: false,
        }
    }

    pub(crate) const fn number(key: &'static str, title: &'static str) -> Self {
        Self {
            key,
            title: Some(title),
            is_number: true,
        }
    }

    /// A column for programs only.
    pub(crate) const fn hidden(key: &'static str) -> Self {
        Self {
            key,
            title: None,
            is_number: false,
        }
    }
}

impl Cell {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// The text for people.
    pub(crate) fn shown(&self, units: Units) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Bytes(bytes) => units.show(*bytes),
            Self::Count(count) => count.to_string(),
            Self::Ratio(ratio) => format!("{ratio:.2}"),
            Self::Share(part, whole) => percent(*part, *whole),
            Self::Moment(since_1970_ms) => moment(*since_1970_ms),
            Self::Nothing => String::new(),
        }
    }

    /// The text for programs.
    pub(crate) fn plain(&self) -> String {
        match self {
            Self::Bytes(bytes) => bytes.to_string(),
            Self::Ratio(ratio) => format!("{ratio:.4}"),
            Self::Share(part, whole) if *whole > 0 => {
                format!("{:.6}", *part as f64 / *whole as f64)
            }
            Self::Share(..) => String::new(),
            other => other.shown(Units::Raw),
        }
    }
}

impl Extent {
    /// Chooses the wanted ones of `rows`, the greatest `weight` first, and the number of those that
    /// are left out.
    pub(super) fn choose<T, W: Ord>(
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
    /// The columns that people see: where, and what they are called.
    pub(super) fn seen(&self) -> impl Iterator<Item = (usize, &Head, &'static str)> {
        self.heads
            .iter()
            .enumerate()
            .filter_map(|(nth, head)| Some((nth, head, head.title?)))
    }

    /// The note about the rows that are left out.
    pub(super) fn rest(&self) -> Option<String> {
        (self.left_out > 0).then(|| {
            format!(
                "{} more: `vellum report {} --top COUNT`",
                self.left_out,
                self.part.key()
            )
        })
    }

    /// Writes it for people.
    pub(crate) fn show(&self, page: &mut Page, units: Units) -> io::Result<()> {
        page.line(self.part.title())?;
        if self.rows.is_empty() {
            return page.line("  nothing");
        }
        let columns: Vec<Column> = self
            .seen()
            .map(|(_, head, title)| {
                if head.is_number {
                    Column::number(title)
                } else {
                    Column::text(title)
                }
            })
            .collect();
        let shown = |cell: &Cell| match cell {
            Cell::Moment(since_1970_ms) => page.moment(Moment::new(*since_1970_ms)),
            cell => cell.shown(units),
        };
        let cells = |row: &Vec<Cell>| self.seen().map(|(nth, ..)| shown(&row[nth])).collect();
        let rows: Vec<Vec<String>> = self.rows.iter().map(cells).collect();
        page.table(&columns, &rows)?;
        self.rest()
            .into_iter()
            .try_for_each(|rest| page.line(rest))?;
        self.advice
            .iter()
            .try_for_each(|advice| page.line(format!("next: {advice}")))
    }
}
