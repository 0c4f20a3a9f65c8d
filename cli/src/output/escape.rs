//! Escapes text from outside for a terminal, and for a shell.

use std::borrow::Cow;

use vellum_core::name::is_misleading;

/// `text` with every character that could move the cursor, hide or turn text around shown as an
/// escape. Line breaks too.
pub(crate) fn escape_invisible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_misleading) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_misleading(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    Cow::Owned(shown)
}

/// `word` as a shell takes it for one word.
pub(crate) fn shell_word(word: &str) -> String {
    let is_plain =
        |character: char| character.is_alphanumeric() || "@._-+:,/=%".contains(character);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_acts_on_a_terminal_passes() {
        for (text, shown) in [
            ("plain, Müller, 日本", "plain, Müller, 日本"),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("two\nlines\r", "two\\nlines\\r"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("a\u{202e}b", "a\\u{202e}b"),
        ] {
            assert_eq!(escape_invisible(text), shown);
        }
    }

    #[test]
    fn a_name_is_one_word_and_runs_nothing() {
        for (name, shown) in [
            ("web@monday", "web@monday"),
            ("a b", "'a b'"),
            ("$(rm)", "'$(rm)'"),
            ("it's", r"'it'\''s'"),
            ("日本", "日本"),
            ("/mnt/backup", "/mnt/backup"),
            ("", "''"),
        ] {
            assert_eq!(shell_word(name), shown);
        }
    }
}
