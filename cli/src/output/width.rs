//! The columns that text takes on a terminal: wide letters take two, combining ones none. It alone
//! names the crate that knows.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The width of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageWidth {
    pub(crate) columns: usize,
    /// True for a terminal, where nothing is read by programs: there names, too, may go on in
    /// further lines.
    pub(crate) is_terminal: bool,
}

impl PageWidth {
    /// A page that is not a terminal.
    pub(crate) const USUAL: Self = Self {
        columns: 80,
        is_terminal: false,
    };
}

/// The columns that `text` takes, escaped already.
pub(crate) fn display_width(text: &str) -> usize {
    text.width()
}

/// `text` in lines of at most `width` columns, broken at blanks. A longer word is broken if
/// `breaks_words`, else it stands in a line of its own. There is at least one line.
pub(crate) fn fold_text(text: &str, width: usize, breaks_words: bool) -> Vec<String> {
    if display_width(text) <= width {
        return vec![text.to_owned()];
    }
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is one");
        let blank = usize::from(!line.is_empty());
        if display_width(line) + blank + display_width(word) <= width {
            line.extend(std::iter::repeat_n(' ', blank));
            line.push_str(word);
            continue;
        }
        let mut parts = if breaks_words {
            break_word(word, width)
        } else {
            vec![word.to_owned()]
        };
        if line.is_empty() {
            lines.pop();
        }
        lines.append(&mut parts);
    }
    lines
}

/// `word` in parts of at most `width` columns; a combining letter stays with the one before it.
fn break_word(word: &str, width: usize) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut filled = 0;
    for letter in word.chars() {
        let more = letter.width().unwrap_or(0);
        if filled > 0 && filled + more > width.max(1) {
            parts.push(String::new());
            filled = 0;
        }
        parts.last_mut().expect("there is one").push(letter);
        filled += more;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_letters_take_two_columns_and_combining_ones_none() {
        for (text, width) in [
            ("web", 3),
            ("日本", 4),
            ("🦀", 2),
            ("e\u{301}", 1),
            ("안녕", 4),
            ("├─●", 3),
        ] {
            assert_eq!(display_width(text), width, "{text}");
        }
    }

    #[test]
    fn nothing_is_lost_between_the_lines() {
        for (text, width, breaks, lines) in [
            ("one two three", 7, false, &["one two", "three"][..]),
            ("one", 7, false, &["one"]),
            ("", 7, false, &[""]),
            ("abcdefgh ij", 4, false, &["abcdefgh", "ij"]),
            ("abcdefgh ij", 4, true, &["abcd", "efgh", "ij"]),
            ("日本語", 3, true, &["日", "本", "語"]),
            ("ae\u{301}e\u{301}", 2, true, &["ae\u{301}", "e\u{301}"]),
            ("日", 1, true, &["日"]),
        ] {
            assert_eq!(fold_text(text, width, breaks), lines, "{text}");
        }
    }
}
