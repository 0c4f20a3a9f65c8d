//! Text in pictures and pages: escaped, and shortened to fit where nothing measures it.

use crate::output::escape::escape_invisible;

/// `text` for markup, as content or between quotes. What is invisible or turns text around is shown
/// as an escape.
pub(crate) fn escape_markup(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in escape_invisible(text).chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // XML has no way to say these.
            '\u{fffe}' | '\u{ffff}' => safe.push('\u{fffd}'),
            other => safe.push(other),
        }
    }
    safe
}

/// The width of a usual letter, in the measure of [`width_of`].
const USUAL: usize = 10;

/// `text`, or its beginning and end around an ellipsis, in at most `columns` times the width of a
/// usual letter.
///
/// A snapshot's name is told apart by its end, so the middle goes.
pub(super) fn fit_text(text: &str, columns: usize) -> String {
    let characters: Vec<char> = escape_invisible(text).chars().collect();
    let width: usize = characters
        .iter()
        .map(|character| width_of(*character))
        .sum();
    if width <= columns * USUAL {
        return characters.into_iter().collect();
    }
    let room = columns.saturating_sub(1) * USUAL;
    let head = take_columns(characters.iter().copied(), room - room / 2);
    let tail = take_columns(characters.iter().rev().copied(), room / 2);
    format!(
        "{}…{}",
        head.iter().collect::<String>(),
        tail.iter().rev().collect::<String>()
    )
}

fn take_columns(characters: impl Iterator<Item = char>, room: usize) -> Vec<char> {
    let mut used = 0;
    let fits = |character: &char| {
        used += width_of(*character);
        used <= room
    };
    characters.take_while(fits).collect()
}

/// About how wide fonts draw a character, in tenths of a usual letter: letters of scripts that are
/// written in squares, and pictures, are as two.
fn width_of(character: char) -> usize {
    match u32::from(character) {
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60 => 2 * USUAL,
        0x1f300..=0x1faff | 0x20000..=0x3fffd => 2 * USUAL,
        _ if "MWmw@%&—".contains(character) => 16,
        _ if character.is_uppercase() => 12,
        _ => USUAL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_becomes_markup() {
        let hostile = "<script>alert('1')</script>&\"\u{202e}\u{0}\u{ffff}";
        let safe = escape_markup(hostile);
        assert_eq!(
            safe,
            "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;&quot;\\u{202e}\\u{0}\u{fffd}"
        );
    }

    #[test]
    fn long_names_keep_both_ends_and_fit() {
        assert_eq!(fit_text("short", 5), "short");
        assert_eq!(fit_text("lab-at-monday-noon", 9), "lab-…noon");
        assert_eq!(fit_text("WWWWWWWWWW", 8), "WW…WW");
        assert_eq!(fit_text("日本日本日本", 7), "日…本");
        for columns in 0..40 {
            let long = "0123456789".repeat(26);
            assert!(
                fit_text(&long, columns).chars().count() <= columns.max(1),
                "{columns}"
            );
        }
    }
}
