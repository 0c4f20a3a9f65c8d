//! Makes names of what files and people are called: valid, and each once.

use std::collections::BTreeSet;

use crate::name::{LATEST, Name};

/// The length of a text that becomes a name, in bytes: there is room for a number behind it.
const PLAIN_LEN_MAX: usize = 200;

/// A maker of names, none twice.
#[derive(Default)]
pub struct NameMaker {
    taken: BTreeSet<Name>,
}

impl NameMaker {
    /// A maker that gives none of `taken`.
    pub fn new(taken: impl IntoIterator<Item = Name>) -> Self {
        Self {
            taken: taken.into_iter().collect(),
        }
    }

    /// The name that comes closest to `text`.
    pub fn unique_name(&mut self, text: &str) -> Name {
        let plain = plain_name(text);
        let mut nth = 1_u32;
        loop {
            let text = match nth {
                1 => plain.clone(),
                nth => format!("{plain}-{nth}"),
            };
            match Name::new(&text) {
                Ok(name) if self.taken.insert(name.clone()) => return name,
                _ => nth += 1,
            }
        }
    }
}

/// `text` without what no name can have, and short enough for a number behind it.
fn plain_name(text: &str) -> String {
    let mut plain = String::new();
    for letter in text.trim().chars() {
        let is_allowed = Name::new(&format!("a{letter}a")).is_ok();
        let letter = if is_allowed { letter } else { '-' };
        if plain.len() + letter.len_utf8() > PLAIN_LEN_MAX {
            break;
        }
        plain.push(letter);
    }
    let plain = plain.trim().trim_start_matches('-').trim_start();
    if plain.is_empty() || plain == LATEST {
        format!("state-{plain}").trim_end_matches('-').to_owned()
    } else {
        plain.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_people_wrote_becomes_a_name_of_its_own() {
        let mut maker = NameMaker::new([Name::new("base").expect("a name")]);
        for (text, expected) in [
            ("base", "base-2"),
            ("base", "base-3"),
            ("{1f-2}", "{1f-2}"),
            ("a/b@c", "a-b-c"),
            ("--help", "help"),
            ("latest", "state-latest"),
            ("..", "..-2"),
            ("", "state"),
            ("///", "state-2"),
            (" Before  update ", "Before  update"),
        ] {
            assert_eq!(maker.unique_name(text).as_str(), expected, "{text:?}");
        }
        assert!(maker.unique_name(&"é".repeat(300)).as_str().len() <= 200);
    }
}
