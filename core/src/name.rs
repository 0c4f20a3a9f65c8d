//! The names of images, snapshots and tags: what is allowed in them, and the form `image@snapshot`.
//!
//! Names are used in file names, URLs and terminals later: characters with an effect there
//! (separators, control and direction characters) are refused here, once.

use std::fmt;

/// Bytes a name may have: the limit of every file system that a name could meet.
pub const NAME_LEN_MAX: usize = 255;
/// The word after `@` that stands for the newest snapshot, so no snapshot can have it as its name.
pub const LATEST: &str = "latest";

/// The reason why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("a name cannot be empty")]
    Empty,
    /// Over [`NAME_LEN_MAX`].
    #[error("a name has at most {NAME_LEN_MAX} bytes, this one has {0}")]
    TooLong(usize),
    /// A character that means something elsewhere.
    #[error("a name cannot contain {0:?}")]
    Character(char),
    /// A word that means something elsewhere.
    #[error("{0:?} cannot be a name: it means something else")]
    Reserved(String),
    /// It would be read as an option.
    #[error("a name cannot begin with '-': it would be read as an option")]
    LeadingDash,
    /// It would look like another name.
    #[error("a name cannot begin or end with a blank")]
    OuterBlank,
}

/// A valid name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// `text` as a name.
    pub fn new(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > NAME_LEN_MAX {
            return Err(NameError::TooLong(text.len()));
        }
        if let Some(character) = text.chars().find(|character| is_forbidden(*character)) {
            return Err(NameError::Character(character));
        }
        if [".", "..", LATEST].contains(&text) {
            return Err(NameError::Reserved(text.to_owned()));
        }
        if text.starts_with('-') {
            return Err(NameError::LeadingDash);
        }
        if text.trim() != text {
            return Err(NameError::OuterBlank);
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Separators of paths and of our own notation, and what misleads.
fn is_forbidden(character: char) -> bool {
    matches!(character, '/' | '\\' | '@') || is_misleading(character)
}

/// True for control characters, and the invisible ones that turn the direction of text or hide:
/// what is not shown as it is, nor taken into a text that people read.
#[must_use]
pub fn is_misleading(character: char) -> bool {
    matches!(
        character,
        '\u{ad}'
            | '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
    ) || character.is_control()
}

/// A person's text for an image or a snapshot: not looked up yet, perhaps a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// Before the `@`.
    pub image: String,
    /// The snapshot's part, after it.
    pub snapshot: Option<String>,
}

impl NodeSpec {
    /// Splits `text` at its `@`. Whether such names exist is for the tree to say.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text.split_once('@') {
            Some((image, snapshot)) => Self {
                image: image.to_owned(),
                snapshot: Some(snapshot.to_owned()),
            },
            None => Self {
                image: text.to_owned(),
                snapshot: None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_texts_are_names() {
        for good in [
            "a",
            "web-01",
            "Müller",
            "x.y",
            "...",
            "with blank",
            &"n".repeat(255),
        ] {
            assert!(Name::new(good).is_ok(), "{good:?}");
        }
        for bad in [
            "",
            ".",
            "..",
            "latest",
            "-x",
            " a",
            "a ",
            "a/b",
            "a\\b",
            "a@b",
            "a\nb",
            "a\0",
            "a\u{202e}b",
            "\u{feff}a",
            &"n".repeat(256),
        ] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
        }
    }
}
