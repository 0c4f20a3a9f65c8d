//! The marks that people put on images and snapshots. Nothing about a content is decided by them.

use std::collections::{BTreeMap, BTreeSet};

use crate::name::{Name, is_misleading};

/// Bytes that a description may have.
pub const DESCRIPTION_LEN_MAX: usize = 4096;
/// Properties that an image or a snapshot may have.
pub const PROPERTIES_MAX: usize = 64;
/// Bytes that the value of a property may have.
pub const PROPERTY_LEN_MAX: usize = 1024;

/// Marks of one image or snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Its tags.
    pub tags: BTreeSet<Name>,
    /// True if it is protected against deletion.
    pub pinned: bool,
    /// Its description and its properties.
    pub annotation: Annotation,
}

/// Words that people attach to an image or a snapshot: a description, which may have several lines,
/// and properties, each a key with a value of one line.
///
/// Bounded, so that a record is; without characters that do something to a terminal or hide.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotation {
    description: String,
    properties: BTreeMap<Name, String>,
}

/// The reason why a text can be no description, key or value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationError {
    /// Over [`DESCRIPTION_LEN_MAX`].
    #[error("a description has at most {DESCRIPTION_LEN_MAX} bytes, this one has {0}")]
    LongDescription(usize),
    /// Over [`PROPERTY_LEN_MAX`].
    #[error("the value of {0} has {1} bytes; at most {PROPERTY_LEN_MAX} are allowed")]
    LongValue(Name, usize),
    /// Over [`PROPERTIES_MAX`].
    #[error("an image or snapshot has at most {PROPERTIES_MAX} properties")]
    TooMany,
    /// A control character, or one that hides or turns the direction of text.
    #[error("a description or value cannot contain {0:?}")]
    Character(char),
    /// A key with a character that ends keys.
    #[error("the key of a property cannot contain '='")]
    Key,
}

impl Annotation {
    /// The description; empty if there is none.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The properties, in order of their keys.
    #[must_use]
    pub fn properties(&self) -> &BTreeMap<Name, String> {
        &self.properties
    }

    /// The properties as texts, for records and people.
    #[must_use]
    pub fn property_texts(&self) -> BTreeMap<String, String> {
        let properties = self.properties.iter();
        properties
            .map(|(key, value)| (key.to_string(), value.clone()))
            .collect()
    }

    /// True if nothing was ever said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.description.is_empty() && self.properties.is_empty()
    }

    /// Replaces the description; an empty one is none. Blanks and line ends around it are cut off.
    pub fn set_description(&mut self, text: &str) -> Result<(), AnnotationError> {
        let text = text.trim();
        if text.len() > DESCRIPTION_LEN_MAX {
            return Err(AnnotationError::LongDescription(text.len()));
        }
        let allowed = |character: &char| matches!(character, '\n' | '\t');
        let mut characters = text.chars().filter(|character| !allowed(character));
        if let Some(character) = characters.find(|character| is_misleading(*character)) {
            return Err(AnnotationError::Character(character));
        }
        text.clone_into(&mut self.description);
        Ok(())
    }

    /// Gives the property `key` a value, whatever it had. An empty value is one.
    pub fn set_property(&mut self, key: &Name, value: &str) -> Result<(), AnnotationError> {
        if key.as_str().contains('=') {
            return Err(AnnotationError::Key);
        }
        if value.len() > PROPERTY_LEN_MAX {
            return Err(AnnotationError::LongValue(key.clone(), value.len()));
        }
        if let Some(character) = value.chars().find(|character| is_misleading(*character)) {
            return Err(AnnotationError::Character(character));
        }
        if self.properties.len() >= PROPERTIES_MAX && !self.properties.contains_key(key) {
            return Err(AnnotationError::TooMany);
        }
        self.properties.insert(key.clone(), value.to_owned());
        Ok(())
    }

    /// Takes the property `key` away. False if there was none.
    pub fn remove_property(&mut self, key: &Name) -> bool {
        self.properties.remove(key).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Name {
        Name::new(text).expect("a name")
    }

    #[test]
    fn texts_that_do_something_to_a_terminal_are_refused_and_change_nothing() {
        let mut annotation = Annotation::default();
        annotation
            .set_description(" before the upgrade\n\tdo not delete \n")
            .expect("harmless");
        annotation
            .set_property(&key("owner"), "Müller = boss")
            .expect("harmless");
        let before = annotation.clone();
        for bad in ["a\u{1b}[2Jb", "a\u{202e}b", "a\0b", "a\u{7f}b", "a\rb"] {
            assert!(annotation.set_description(bad).is_err(), "{bad:?}");
            assert!(
                annotation.set_property(&key("k"), bad).is_err(),
                "{bad:?} as a value"
            );
        }
        assert!(annotation.set_property(&key("k"), "two\nlines").is_err());
        assert!(annotation.set_property(&key("k=v"), "").is_err());
        assert_eq!(annotation, before);
        assert_eq!(
            annotation.description(),
            "before the upgrade\n\tdo not delete"
        );
    }

    #[test]
    fn an_annotation_has_limits() {
        let mut annotation = Annotation::default();
        let longest = "x".repeat(DESCRIPTION_LEN_MAX);
        annotation.set_description(&longest).expect("it fits");
        assert!(annotation.set_description(&format!("{longest}x")).is_err());
        for nth in 0..PROPERTIES_MAX {
            annotation
                .set_property(&key(&nth.to_string()), &"y".repeat(PROPERTY_LEN_MAX))
                .expect("it fits");
        }
        assert_eq!(
            annotation.set_property(&key("more"), ""),
            Err(AnnotationError::TooMany)
        );
        annotation
            .set_property(&key("0"), "another")
            .expect("it is there");
        assert!(annotation.remove_property(&key("1")) && !annotation.remove_property(&key("1")));
        annotation.set_property(&key("more"), "").expect("room");
    }
}
