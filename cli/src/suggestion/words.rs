//! Words of other tools: what users of `VBoxManage`, qemu-img, virsh, zfs, restic, borg, PBS and
//! others type, and Vellum's words for it.
//!
//! It knows texts only: no store, and not which lines the command line takes.

use crate::output::escape::shell_word;

/// The table; its head says how to read it.
const TABLE: &str = include_str!("words.txt");

/// The options of all commands: they go over to Vellum's words.
const GLOBAL_FLAGS: [&str; 8] = [
    "--json",
    "-q",
    "--quiet",
    "-v",
    "--verbose",
    "-p",
    "--progress",
    "--utc",
];
/// Those of them with a value.
const GLOBAL_OPTIONS: [&str; 4] = ["--store", "--output", "--output-format", "--units"];

/// Vellum's answer to a line in other words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ForeignReading {
    /// It means the same as this line, the program's name first.
    Same(Vec<String>),
    /// It is told this.
    Advice(String),
}

/// The readings of `words`, the program's name first, in the table's order.
pub(super) fn read_foreign(words: &[&str]) -> Vec<ForeignReading> {
    let Some((program, words)) = words.split_first() else {
        return Vec::new();
    };
    let row_reading = |row: TableRow| row.read_line(program, words);
    table_rows().filter_map(row_reading).collect()
}

/// One row.
struct TableRow {
    theirs: String,
    sign: char,
    ours: String,
}

fn table_rows() -> impl Iterator<Item = TableRow> {
    let mut rows: Vec<String> = Vec::new();
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        match (line.strip_prefix(' '), rows.last_mut()) {
            (Some(more), Some(row)) => {
                row.push(' ');
                row.push_str(more.trim());
            }
            _ => rows.push(line.to_owned()),
        }
    }
    rows.into_iter().filter_map(|row| TableRow::parse_row(&row))
}

impl TableRow {
    fn parse_row(row: &str) -> Option<Self> {
        let signs = ['=', '~', '!'].into_iter();
        let found = signs.filter_map(|sign| Some((row.find(&format!(" {sign} "))?, sign)));
        let (at, sign) = found.min()?;
        Some(Self {
            theirs: row[..at].to_owned(),
            sign,
            ours: row[at + 3..].to_owned(),
        })
    }

    fn read_line(&self, program: &str, words: &[&str]) -> Option<ForeignReading> {
        let bound = BoundWords::bind_line(&self.theirs, words)?;
        Some(match self.sign {
            '=' => ForeignReading::Same(bound.fill_line(program, &self.ours)),
            '!' => ForeignReading::Advice(bound.fill_text(&format!(
                "`vellum {}` tells what would go and what stays; without -n it goes",
                self.ours
            ))),
            _ => ForeignReading::Advice(bound.fill_text(&self.ours)),
        })
    }
}

/// The values of a row's placeholders.
#[derive(Default)]
struct BoundWords {
    values: Vec<(String, String)>,
    /// All words that the row does not name.
    rest: Vec<String>,
    /// Options of all commands.
    global: Vec<String>,
}

/// The tokens of a row that are not bound yet.
struct UnboundTokens<'r> {
    /// Words in their order.
    words: Vec<&'r str>,
    options: Vec<&'r str>,
    takes_rest: bool,
}

impl BoundWords {
    /// Binds a row's left side to `words`; none if they do not fit.
    fn bind_line(theirs: &str, words: &[&str]) -> Option<Self> {
        let mut expected = UnboundTokens::from_row(theirs);
        let mut bound = Self::default();
        let mut at = 0;
        while let Some(word) = words.get(at) {
            at += if is_option(word) {
                bound.take_option(&mut expected, &words[at..])?
            } else {
                bound.take_word(&mut expected, word)?;
                1
            };
        }
        let mut left = expected.words.iter().chain(&expected.options);
        left.all(|token| token.starts_with('[')).then_some(bound)
    }

    /// Takes an option, and returns of how many words it was.
    fn take_option(&mut self, expected: &mut UnboundTokens<'_>, words: &[&str]) -> Option<usize> {
        let (word, next) = (words[0], words.get(1).copied());
        let (name, inner) = word.split_once('=').unwrap_or((word, ""));
        for index in 0..expected.options.len() {
            let token = without_brackets(expected.options[index]);
            let (names, value) = token.split_once('=').unwrap_or((token, ""));
            if !names.split('|').any(|known| known == name) {
                continue;
            }
            let (given, count) = match (value, inner) {
                ("", "") => ("", 1),
                ("", _) => return None,
                (_, "") => (next?, 2),
                (_, inner) => (inner, 1),
            };
            if value.is_empty() || self.bind_word(value, given) {
                expected.options.remove(index);
                return Some(count);
            }
        }
        if let Some(letters) = word.strip_prefix('-').filter(|letters| letters.len() > 1)
            && expected.take_letters(letters)
        {
            return Some(1);
        }
        self.take_other_option(expected, words)
    }

    /// Takes an option that the row does not name.
    fn take_other_option(&mut self, expected: &UnboundTokens<'_>, words: &[&str]) -> Option<usize> {
        let name = words[0].split('=').next().unwrap_or_default();
        let count = if GLOBAL_FLAGS.contains(&words[0]) || name == "--wait" {
            1
        } else if GLOBAL_OPTIONS.contains(&name) {
            1 + usize::from(name == words[0])
        } else {
            self.rest.push(words[0].to_owned());
            return expected.takes_rest.then_some(1);
        };
        let taken = words.get(..count)?;
        self.global
            .extend(taken.iter().map(|word| (*word).to_owned()));
        Some(count)
    }

    fn take_word(&mut self, expected: &mut UnboundTokens<'_>, word: &str) -> Option<()> {
        while !expected.words.is_empty() {
            let token = expected.words.remove(0);
            if self.bind_word(without_brackets(token), word) {
                return Some(());
            }
            if !token.starts_with('[') {
                return None;
            }
        }
        self.rest.push(word.to_owned());
        expected.takes_rest.then_some(())
    }

    /// Binds a token, which may be one of several, to a word.
    fn bind_word(&mut self, token: &str, word: &str) -> bool {
        token.split('|').any(|pattern| {
            let before = self.values.len();
            let fits = self.bind_pattern(pattern, word);
            if !fits {
                self.values.truncate(before);
            }
            fits
        })
    }

    fn bind_pattern(&mut self, pattern: &str, word: &str) -> bool {
        let name_len = placeholder_len(pattern);
        let (name, behind) = pattern.split_at(name_len);
        if name.is_empty() {
            let Some(first) = pattern.chars().next() else {
                return word.is_empty();
            };
            return word
                .strip_prefix(first)
                .is_some_and(|word| self.bind_pattern(&pattern[first.len_utf8()..], word));
        }
        let end = behind
            .chars()
            .next()
            .map_or(Some(word.len()), |next| word.find(next));
        let Some((value, word)) = end.filter(|end| *end > 0).map(|end| word.split_at(end)) else {
            return false;
        };
        let value = if name == "FORMAT" {
            value.to_lowercase()
        } else {
            value.to_owned()
        };
        self.values.push((name.to_owned(), value));
        self.bind_pattern(behind, word)
    }

    /// A row's right side as a command line.
    fn fill_line(&self, program: &str, ours: &str) -> Vec<String> {
        let mut line = vec![program.to_owned()];
        for token in ours.split(' ') {
            if token == "{REST}" {
                line.extend(self.rest.iter().cloned());
            } else {
                let word = self.fill_placeholders(token, str::to_owned);
                line.extend(Some(word).filter(|word| !word.is_empty()));
            }
        }
        line.extend(self.global.iter().cloned());
        line
    }

    /// A row's right side as a text in which commands are as a shell takes them.
    fn fill_text(&self, ours: &str) -> String {
        let text = self.fill_placeholders(ours, shell_word);
        match self.store_option() {
            Some(store) => text.replace("`vellum ", &format!("`vellum {store} ")),
            None => text,
        }
    }

    /// `text` with what its placeholders stand for. One that stands for nothing goes, with the
    /// blank before it.
    fn fill_placeholders(&self, text: &str, form: impl Fn(&str) -> String) -> String {
        let mut parts = text.split('{');
        let mut filled = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (name, behind) = part.split_once('}').unwrap_or((part, ""));
            let words: Vec<String> = self.words_of(name).iter().map(|word| form(word)).collect();
            if words.is_empty() {
                filled.truncate(filled.trim_end().len());
            }
            filled.push_str(&words.join(" "));
            filled.push_str(behind);
        }
        filled
    }

    /// The words that a placeholder stands for.
    fn words_of(&self, name: &str) -> Vec<String> {
        let bound = |name: &str| self.values.iter().find(|(known, _)| known == name);
        match name {
            "REST" => self.rest.clone(),
            "SHARE" => {
                let percent = bound("PERCENT").and_then(|(_, text)| text.parse::<f64>().ok());
                let percent = percent.filter(|percent| (0.01..=100.0).contains(percent));
                let share = percent.map(|percent| format!("{:.0}", (100.0 / percent).round()));
                vec![share.unwrap_or_else(|| "M".to_owned())]
            }
            _ => bound(name)
                .map(|(_, value)| value.clone())
                .into_iter()
                .collect(),
        }
    }

    /// The option that names the store: a command without it would be done to another.
    fn store_option(&self) -> Option<String> {
        let at = self
            .global
            .iter()
            .position(|word| word.starts_with("--store"))?;
        let words = self.global[at..]
            .iter()
            .take(if self.global[at] == "--store" { 2 } else { 1 });
        Some(
            words
                .map(|word| shell_word(word))
                .collect::<Vec<_>>()
                .join(" "),
        )
    }
}

impl<'r> UnboundTokens<'r> {
    fn from_row(theirs: &'r str) -> Self {
        let tokens: Vec<&str> = theirs.split(' ').collect();
        let takes_rest = theirs.ends_with('…');
        let tokens = tokens.into_iter().filter(|token| !token.ends_with('…'));
        let (options, words) = tokens.partition(|token| is_option(without_brackets(token)));
        Self {
            words,
            options,
            takes_rest,
        }
    }

    /// Takes `letters`, each a flag of the row, as if they stood apart.
    fn take_letters(&mut self, letters: &str) -> bool {
        let place = |options: &[&str], letter: char| {
            let flag = format!("-{letter}");
            options.iter().position(|token| {
                without_brackets(token)
                    .split('|')
                    .any(|known| known == flag)
            })
        };
        let mut left = self.options.clone();
        for letter in letters.chars() {
            match place(&left, letter) {
                Some(index) => drop(left.remove(index)),
                None => return false,
            }
        }
        self.options = left;
        true
    }
}

fn is_option(word: &str) -> bool {
    word.len() > 1 && word.starts_with('-')
}

fn without_brackets(token: &str) -> &str {
    token.trim_start_matches('[').trim_end_matches(']')
}

/// The length of the placeholder that `pattern` begins with; 0 if it begins with none.
fn placeholder_len(pattern: &str) -> usize {
    let is_other = |character: char| !character.is_ascii_uppercase();
    match pattern.find(is_other).unwrap_or(pattern.len()) {
        1 => 0,
        len => len,
    }
}

#[cfg(test)]
mod tests;
