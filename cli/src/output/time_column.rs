//! Columns of times: a zone that all cells of a column share is told once, in its title.
//!
//! Where the clocks were changed between the rows' times, each cell tells its own offset.

use super::table::Column;
use super::time::{OFFSET_LEN, ZoneOffset};

/// Takes offsets that all cells of a column of times share out of `rows`, and gives them to the
/// column. Cells without a time have none.
pub(super) fn share_offsets(columns: &mut [Column], rows: &mut [Vec<String>]) {
    for (place, column) in columns.iter_mut().enumerate() {
        if !column.is_time() {
            continue;
        }
        let Some(offset) = shared_offset(place, rows) else {
            continue;
        };
        *column = column.with_offset(offset);
        for cell in rows.iter_mut().filter_map(|row| row.get_mut(place)) {
            cell.truncate(cell.len().saturating_sub(OFFSET_LEN));
        }
    }
}

fn shared_offset(place: usize, rows: &[Vec<String>]) -> Option<ZoneOffset> {
    let cells = rows.iter().filter_map(|row| row.get(place));
    let mut offsets = cells
        .filter(|cell| !cell.is_empty())
        .map(|cell| ZoneOffset::split_cell(cell).map(|(_, offset)| offset));
    let first = offsets.next()??;
    offsets.all(|offset| offset == Some(first)).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(cells: &[&str]) -> (String, Vec<String>) {
        let mut columns = [
            Column::text_column("NAME"),
            Column::text_column("MADE").as_time(),
        ];
        let mut rows: Vec<Vec<String>> = cells
            .iter()
            .map(|cell| vec!["+01:00".to_owned(), (*cell).to_owned()])
            .collect();
        share_offsets(&mut columns, &mut rows);
        assert!(rows.iter().all(|row| row[0] == "+01:00"), "a name stays");
        let cells = rows.into_iter().map(|mut row| row.remove(1)).collect();
        (columns[1].heading().into_owned(), cells)
    }

    #[test]
    fn one_zone_is_told_once_and_several_in_each_cell() {
        for (cells, heading, left) in [
            (
                &["2026-11-22T21:04+01:00", "", "2026-12-01T00:00+01:00"][..],
                "MADE (+01:00)",
                &["2026-11-22T21:04", "", "2026-12-01T00:00"][..],
            ),
            (
                &["2026-11-22T21:04:05+00:00"],
                "MADE (UTC)",
                &["2026-11-22T21:04:05"],
            ),
            (
                &["2026-11-22T21:04-03:30"],
                "MADE (-03:30)",
                &["2026-11-22T21:04"],
            ),
            // Summer and winter.
            (
                &["2026-07-22T21:04+02:00", "2026-11-22T21:04+01:00"],
                "MADE",
                &["2026-07-22T21:04+02:00", "2026-11-22T21:04+01:00"],
            ),
            // A time that no calendar has.
            (
                &["2026-07-22T21:04+02:00", "18446744073709551615 ms"],
                "MADE",
                &["2026-07-22T21:04+02:00", "18446744073709551615 ms"],
            ),
            (&["", ""], "MADE", &["", ""]),
            (&["日本", "é"], "MADE", &["日本", "é"]),
            (&[], "MADE", &[]),
        ] {
            let (shown, rest) = shared(cells);
            assert_eq!(
                (&*shown, rest),
                (
                    heading,
                    left.iter().map(|cell| (*cell).to_owned()).collect()
                )
            );
        }
    }
}
