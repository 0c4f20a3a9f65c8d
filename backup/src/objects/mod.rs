//! Object storage: named objects that are put once, read, listed and deleted.
//!
//! The one guarantee that a place has to give: after `put` was answered, every `get` finds the
//! object and every `list` names it, for every client (a local folder and today's object stores do
//! that). Conditional writes, locks and clocks are not needed.

pub mod byte_rate;
pub mod cloud;
mod cloud_failure;
mod direct;
pub mod folder;
pub mod location;
pub mod memory;
pub mod name;
pub mod persistence;
pub mod twice;

use std::ops::Range;

pub use byte_rate::{ByteRate, RateLimitedReads};
pub use cloud::Cloud;
pub use folder::Folder;
pub use location::{Environment, Location, open_objects};
pub use name::{ObjectId, ObjectKind, ObjectName};
pub use persistence::{OutageWatch, PersistenceLimits, PersistentObjects};

/// Larger objects are nobody's: a pack has at most 64 MiB. Bounds what a reader allocates on the
/// word of a place.
pub const OBJECT_LEN_MAX: u64 = 256 << 20;

/// A place for objects. Shared by threads; calls wait.
pub trait Objects: Send + Sync {
    /// The whole object.
    fn get(&self, name: &str) -> Result<Vec<u8>, ObjectError>;

    /// Some bytes of an object: exactly as many as asked for.
    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>, ObjectError>;

    /// Puts a new object; durable when this returns. Either all of it can be seen or none. Putting
    /// what is there already changes nothing; other bytes under that name are an error where the
    /// place can tell.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError>;

    /// Puts an object whatever stands under its name, to repair damage; durable when this returns.
    /// Who reads sees the one or the other, whole.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError>;

    /// Visits the name and length of every object whose name begins with `prefix` (whole steps of
    /// the path), in any order.
    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(&str, u64) -> Result<(), ObjectError>,
    ) -> Result<(), ObjectError>;

    /// Deletes an object; that there is none is no error.
    fn delete(&self, name: &str) -> Result<(), ObjectError>;

    /// The leftovers of interrupted puts, which no listing shows. Most places have none.
    fn leftovers(&self) -> Result<Vec<String>, ObjectError> {
        Ok(Vec::new())
    }

    /// Removes one of them, if nobody is writing it; true if it is gone now. `is_alone` says that
    /// nobody else has been changing anything here since it was found.
    fn remove_leftover(&self, _name: &str, _is_alone: bool) -> Result<bool, ObjectError> {
        Ok(false)
    }

    /// Keeps `len` bytes back for who gives space back where there is none, if the place can.
    fn keep_reserve(&self, _len: u64) {}

    /// Gives up what is kept back; true if there was something.
    fn release_reserve(&self) -> bool {
        false
    }

    /// The useful number of concurrent requests for parts of objects: more where an answer takes
    /// long to come.
    fn requests_together(&self) -> usize {
        1
    }

    /// True if objects here are to last, so that those that lead to chunks are put twice.
    fn keeps_copies(&self) -> bool {
        true
    }

    /// True if the place told that it keeps what is deleted as an older version, which takes room
    /// until the place lets it go.
    fn keeps_versions(&self) -> bool {
        false
    }

    /// The place's name for people: never with credentials in it.
    fn describe(&self) -> String;
}

/// A request that failed.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {what}")]
pub struct ObjectError {
    /// The kind of the failure, which tells what can be done about it.
    pub kind: ObjectErrorKind,
    /// The object, or the place if none is meant.
    pub name: String,
    /// The failure in words, for people.
    pub what: String,
    /// The underlying error, for the investigator.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The kinds of failed requests, by what can be done about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectErrorKind {
    /// There is no such object.
    Missing,
    /// It may work if tried again: the place answered, and not in order.
    Passing,
    /// The same, and nobody answered at all.
    Unreachable,
    /// The bytes did not come whole, or could not be read: of the place, or of the object.
    Doubtful,
    /// It was waited for, and a person called that off.
    CalledOff,
    /// The credentials do not allow it, or the place retains the object.
    Denied,
    /// There is no room.
    Full,
    /// Anything else.
    Failed,
}

impl ObjectError {
    /// Creates an error about `name`; `what` describes the failure in words.
    pub fn new(kind: ObjectErrorKind, name: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            kind,
            name: name.into(),
            what: what.into(),
            source: None,
        }
    }

    /// The same, because of `source`.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

/// Visits the objects of one kind; returns the number of other names there, which belong to nobody
/// and are left alone.
pub fn list_kind(
    objects: &dyn Objects,
    kind: ObjectKind,
    visit: &mut dyn FnMut(ObjectName, u64) -> Result<(), ObjectError>,
) -> Result<u64, ObjectError> {
    let mut strange = 0;
    objects.list(kind.prefix(), &mut |text, len| {
        let name = ObjectName::parse(text).filter(|name| name.kind() == kind);
        strange += u64::from(name.is_none());
        name.map_or(Ok(()), |name| visit(name, len))
    })?;
    Ok(strange)
}

/// The bytes of a range if they are as many as were asked for: places and proxies that answer with
/// fewer, or with all, exist.
pub(crate) fn exactly(
    name: &str,
    range: &Range<u64>,
    bytes: Vec<u8>,
) -> Result<Vec<u8>, ObjectError> {
    let wanted = range.end.saturating_sub(range.start);
    if bytes.len() as u64 == wanted {
        return Ok(bytes);
    }
    let what = format!("{} bytes came where {wanted} were asked for", bytes.len());
    Err(ObjectError::new(ObjectErrorKind::Doubtful, name, what))
}
