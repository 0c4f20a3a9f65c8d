//! A table as CSV (RFC 4180, lines end with a line feed): for spreadsheets, which run what looks
//! like a formula.

use crate::output::escape::escape_invisible;

use super::sheet::{Cell, Sheet};

/// The whole table, with its header.
pub(crate) fn render_csv(sheet: &Sheet) -> String {
    let mut text = csv_line(sheet.heads.iter().map(|head| head.key.to_owned()));
    for row in &sheet.rows {
        text.push_str(&csv_line(row.iter().map(csv_field)));
    }
    text
}

fn csv_line(fields: impl Iterator<Item = String>) -> String {
    let mut line = fields.collect::<Vec<_>>().join(",");
    line.push('\n');
    line
}

fn csv_field(cell: &Cell) -> String {
    let Cell::Text(text) = cell else {
        return cell.machine_text();
    };
    let text = escape_invisible(text);
    // A quotation mark in front makes a spreadsheet take it for text.
    let is_formula = text.starts_with(['=', '+', '-', '@', '＝', '＋', '－', '＠', '\'']);
    let text = if is_formula {
        format!("'{text}")
    } else {
        text.into_owned()
    };
    if text.contains([',', '"', ';']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_is_a_formula_or_breaks_a_row() {
        for (name, shown) in [
            ("web", "web"),
            (
                "=HYPERLINK(\"http://x\")",
                "\"'=HYPERLINK(\"\"http://x\"\")\"",
            ),
            ("+1", "'+1"),
            ("'twas", "''twas"),
            ("a,b", "\"a,b\""),
            ("two\nrows\r", "two\\nrows\\r"),
            ("\ttab", "\\ttab"),
        ] {
            assert_eq!(csv_field(&Cell::text_cell(name)), shown);
        }
        assert_eq!(csv_field(&Cell::Bytes(1 << 40)), "1099511627776");
        assert_eq!(csv_field(&Cell::Nothing), "");
    }
}
