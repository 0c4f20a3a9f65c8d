//! Where a repository's bytes are: named objects that are put once, read, listed and deleted.
//!
//! What is asked of a place: after `put` answered, every `get` finds the object and every `list` names it, whoever asks (a local folder and
//! today's object stores do that). Nothing is asked of conditional writes, locks or clocks.

use std::ops::Range;

/// A place for objects. Shared by threads; calls wait.
pub trait Objects: Send + Sync {
    /// The whole object.
    fn get(&self, name: &str) -> Result<Vec<u8>, ObjectError>;

    /// Some bytes of an object: exactly as many as asked for.
    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>, ObjectError>;

    /// Puts a new object; durable when this returns. Either all of it can be seen or none. Names derive from content: putting what is there
    /// already changes nothing.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError>;

    /// Visits the name and length of every object whose name begins with `prefix` (whole steps of the path), in any order.
    fn list(&self, prefix: &str, visit: &mut dyn FnMut(&str, u64) -> Result<(), ObjectError>) -> Result<(), ObjectError>;

    /// Deletes an object; that there is none is no error.
    fn delete(&self, name: &str) -> Result<(), ObjectError>;

    /// What people call this place: never with credentials in it.
    fn describe(&self) -> String;
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {what}")]
pub struct ObjectError {
    /// What can be done about it.
    pub kind: ObjectErrorKind,
    /// The object, or the place if none is meant.
    pub name: String,
    /// What happened, for people.
    pub what: String,
    /// For the investigator.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What can be done about a failed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectErrorKind {
    /// There is no such object.
    Missing,
    /// It may work if tried again.
    Passing,
    /// The credentials do not allow it.
    Denied,
    /// There is no room.
    Full,
    /// Anything else.
    Failed,
}
