//! Tables of cells in aligned columns.

use std::io::{self, Write};

use super::escape::escape_invisible;

/// The space between two columns.
const GAP: &str = "  ";

/// The title of a column, its least width, and the side to which its cells lean.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    title: &'static str,
    width: usize,
    is_number: bool,
}

impl Column {
    pub(crate) const fn text_column(title: &'static str) -> Self {
        Self {
            title,
            width: 0,
            is_number: false,
        }
    }

    pub(crate) const fn number_column(title: &'static str) -> Self {
        Self {
            title,
            width: 0,
            is_number: true,
        }
    }

    pub(crate) const fn with_width(self, width: usize) -> Self {
        Self { width, ..self }
    }
}

/// The columns, wide enough for `rows`.
pub(crate) fn fit_columns(columns: &[Column], rows: &[Vec<String>]) -> Vec<Column> {
    let fit = |(nth, column): (usize, &Column)| {
        let widest = rows
            .iter()
            .filter_map(|row| row.get(nth))
            .map(|cell| width_of(cell))
            .max()
            .unwrap_or(0);
        column.with_width(widest.max(column.width).max(column.title.len()))
    };
    columns.iter().enumerate().map(fit).collect()
}

pub(crate) fn write_header(writer: &mut dyn Write, columns: &[Column]) -> io::Result<()> {
    let titles: Vec<String> = columns
        .iter()
        .map(|column| column.title.to_owned())
        .collect();
    write_row(writer, columns, &titles)
}

pub(crate) fn write_row(
    writer: &mut dyn Write,
    columns: &[Column],
    cells: &[String],
) -> io::Result<()> {
    let mut line = String::new();
    for (column, cell) in columns.iter().zip(cells) {
        let cell = escape_invisible(cell);
        let padding = " ".repeat(column.width.saturating_sub(cell.chars().count()));
        let parts = if column.is_number {
            [&padding, &*cell, GAP]
        } else {
            [&*cell, &padding, GAP]
        };
        line.extend(parts);
    }
    writeln!(writer, "{}", line.trim_end())
}

fn width_of(cell: &str) -> usize {
    escape_invisible(cell).chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_stand_below_each_other() {
        let columns = [
            Column::text_column("NAME"),
            Column::number_column("SIZE"),
            Column::text_column("TAGS"),
        ];
        let rows = [["web", "1 GiB", "old"], ["a-longer-name", "512 B", ""]]
            .map(|row| row.map(str::to_owned).to_vec());
        let fitted = fit_columns(&columns, &rows);
        let mut shown = Vec::new();
        write_header(&mut shown, &fitted).expect("memory takes it");
        rows.iter()
            .for_each(|row| write_row(&mut shown, &fitted, row).expect("memory takes it"));
        let shown = String::from_utf8(shown).expect("text");
        assert_eq!(
            shown,
            "NAME            SIZE  TAGS\nweb            1 GiB  old\na-longer-name  512 B\n"
        );
    }
}
