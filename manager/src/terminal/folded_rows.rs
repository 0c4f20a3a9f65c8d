//! Rows folded to the width of their part of the screen.

use super::page_row::PageRow;
use super::screen::text_width;

/// Rows of a part of the screen that is `width` columns wide.
pub(super) fn fold_rows(rows: &[PageRow], width: usize) -> Vec<PageRow> {
    let width = width.saturating_sub(2).max(1);
    let lines = |row: &PageRow| -> Vec<PageRow> {
        let line = |text: &str| PageRow {
            text: text.to_owned(),
            ..row.clone()
        };
        let lines = row.text.split('\n').map(line);
        lines.flat_map(|row| fold_row(&row, width)).collect()
    };
    rows.iter().flat_map(lines).collect()
}

/// `row` in rows of at most `width` columns, broken at blanks where that is possible.
fn fold_row(row: &PageRow, width: usize) -> Vec<PageRow> {
    let mut rows = Vec::new();
    let (mut text, mut taken, mut blank) = (String::new(), 0, None);
    for letter in row.text.chars() {
        let more = text_width(letter.encode_utf8(&mut [0; 4]));
        if taken + more > width && letter == ' ' {
            rows.push(std::mem::take(&mut text));
            (taken, blank) = (0, None);
            continue;
        }
        if taken + more > width && !text.is_empty() {
            let rest = match blank.filter(|at| *at > 0) {
                Some(at) => text.split_off(at).trim_start().to_owned(),
                None => String::new(),
            };
            rows.push(std::mem::replace(&mut text, rest));
            taken = text_width(&text);
            blank = None;
        }
        if letter == ' ' {
            blank = Some(text.len());
        }
        text.push(letter);
        taken += more;
    }
    rows.push(text);
    let fold = |text: String| PageRow {
        text,
        ..row.clone()
    };
    rows.into_iter().map(fold).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_and_no_row_is_too_wide() {
        for (text, width, rows) in [
            ("one two three", 9, &["one two", "three"][..]),
            ("abcdefgh", 6, &["abcd", "efgh"]),
            ("a\nb", 9, &["a", "b"]),
            ("", 9, &[""]),
            ("日本語", 6, &["日本", "語"]),
            ("x", 0, &["x"]),
        ] {
            let folded = fold_rows(&[PageRow::plain(text)], width);
            let found: Vec<&str> = folded.iter().map(|row| row.text.as_str()).collect();
            assert_eq!(found, rows, "{text}");
        }
    }
}
