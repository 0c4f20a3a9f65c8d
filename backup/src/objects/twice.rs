//! Redundant copies of the objects that lead to chunks. A damaged pack costs the data of its
//! chunks; a damaged key, record, index or map may cost everything. So each of those is stored
//! twice: under its name, and under `copies/NAME`, which is read if the first is missing or
//! damaged.
//!
//! A copy is put before the object and deleted before it: every object that a listing shows has its
//! copy, and a copy alone means nothing.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::{ObjectError, ObjectErrorKind, ObjectId, ObjectKind, ObjectName, Objects};

/// The prefix of the names of copies.
pub const COPIES_PREFIX: &str = "copies/";

/// The name of the copy of an object; none of packs and announcements, which have none.
#[must_use]
pub fn copy_of(name: &ObjectName) -> Option<String> {
    match name.kind() {
        ObjectKind::Pack | ObjectKind::Session => None,
        _ => Some(format!("{COPIES_PREFIX}{name}")),
    }
}

/// The object whose copy has this name.
#[must_use]
pub fn original_of(copy: &str) -> Option<ObjectName> {
    let name = ObjectName::parse(copy.strip_prefix(COPIES_PREFIX)?)?;
    copy_of(&name).map(|_| name)
}

/// True if `stored` may be an object of that name: its bytes make its name, or, of the one whose
/// name is its place, it is JSON.
#[must_use]
pub fn is_sound(name: &ObjectName, stored: &[u8]) -> bool {
    match name.id() {
        Some(id) => id == ObjectId::of(stored),
        None => serde_json::from_slice::<serde::de::IgnoredAny>(stored).is_ok(),
    }
}

/// A place that stores the objects that lead to chunks twice.
pub struct Twice {
    place: Arc<dyn Objects>,
    /// Objects whose copies had to be read.
    rescued: Mutex<BTreeSet<ObjectName>>,
}

impl Twice {
    /// Keeps copies in `place`.
    #[must_use]
    pub fn new(place: Arc<dyn Objects>) -> Self {
        Self {
            place,
            rescued: Mutex::default(),
        }
    }

    /// The place itself: what is there, copies or not.
    #[must_use]
    pub fn place(&self) -> &Arc<dyn Objects> {
        &self.place
    }

    /// The objects whose copies had to be read so far.
    #[must_use]
    pub fn rescued(&self) -> BTreeSet<ObjectName> {
        self.rescued
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Puts the copy of an object that is to be put next.
    pub fn put_copy(&self, name: &ObjectName, bytes: &[u8]) -> Result<(), ObjectError> {
        copy_of(name)
            .filter(|_| self.place.keeps_copies())
            .map_or(Ok(()), |copy| self.place.put(&copy, bytes))
    }

    /// Some bytes of an object as `open` reads them; of its copy, where those of the object are not
    /// there or cannot be read so. The error is that of the object itself.
    pub fn read_part<T, E>(
        &self,
        name: &str,
        range: Range<u64>,
        open: impl Fn(Result<Vec<u8>, ObjectError>) -> Result<T, E>,
    ) -> Result<T, E> {
        let first = self.place.get_range(name, range.clone());
        if first.as_ref().is_err_and(is_of_the_place) {
            return open(first);
        }
        open(first).or_else(|error| {
            let object = ObjectName::parse(name);
            let copy = object
                .and_then(|object| copy_of(&object))
                .map(|copy| open(self.place.get_range(&copy, range)));
            self.rescued_by(object, copy.and_then(Result::ok))
                .ok_or(error)
        })
    }

    fn rescued_by<T>(&self, object: Option<ObjectName>, copy: Option<T>) -> Option<T> {
        let rescued = copy.is_some().then_some(object).flatten();
        self.rescued
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(rescued);
        copy
    }
}

/// True if a request failed for a reason that has nothing to do with the stored bytes.
fn is_of_the_place(error: &ObjectError) -> bool {
    matches!(
        error.kind,
        ObjectErrorKind::Passing
            | ObjectErrorKind::Unreachable
            | ObjectErrorKind::CalledOff
            | ObjectErrorKind::Denied
            | ObjectErrorKind::Full
    )
}

impl Objects for Twice {
    fn get(&self, name: &str) -> Result<Vec<u8>, ObjectError> {
        let first = self.place.get(name);
        let Some(object) = ObjectName::parse(name) else {
            return first;
        };
        let Some(copy) = copy_of(&object) else {
            return first;
        };
        let is_final = match &first {
            Ok(stored) => is_sound(&object, stored),
            Err(error) => is_of_the_place(error),
        };
        if is_final {
            return first;
        }
        let copy = self
            .place
            .get(&copy)
            .ok()
            .filter(|stored| is_sound(&object, stored));
        self.rescued_by(Some(object), copy).map_or(first, Ok)
    }

    /// The place's own bytes, without a look at copies: see [`Twice::read_part`].
    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>, ObjectError> {
        self.place.get_range(name, range)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        ObjectName::parse(name).map_or(Ok(()), |object| self.put_copy(&object, bytes))?;
        self.place.put(name, bytes)
    }

    /// Replaces both the object and its copy, if it has one.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        let copy = ObjectName::parse(name)
            .and_then(|object| copy_of(&object))
            .filter(|_| self.place.keeps_copies());
        copy.map_or(Ok(()), |copy| self.place.replace(&copy, bytes))?;
        self.place.replace(name, bytes)
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(&str, u64) -> Result<(), ObjectError>,
    ) -> Result<(), ObjectError> {
        self.place.list(prefix, visit)
    }

    fn delete(&self, name: &str) -> Result<(), ObjectError> {
        if let Some(copy) = ObjectName::parse(name)
            .and_then(|object| copy_of(&object))
            .filter(|_| self.place.keeps_copies())
        {
            self.place.delete(&copy)?;
        }
        self.place.delete(name)
    }

    fn remove_leftovers(&self) -> Result<u64, ObjectError> {
        self.place.remove_leftovers()
    }

    fn requests_together(&self) -> usize {
        self.place.requests_together()
    }

    fn keeps_copies(&self) -> bool {
        self.place.keeps_copies()
    }

    fn describe(&self) -> String {
        self.place.describe()
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::{Effect, Fault, Memory};
    use super::*;

    fn object() -> (ObjectName, Vec<u8>) {
        let stored = b"what leads to chunks".to_vec();
        (ObjectName::Index(ObjectId::of(&stored)), stored)
    }

    /// Damage to one of the two leads to a read of the other, and is noted.
    #[test]
    fn what_is_damaged_or_gone_is_read_from_its_copy() {
        let (name, stored) = object();
        let (text, copy) = (name.to_string(), copy_of(&name).expect("it has one"));
        for (harmed, rescued) in [(&text, 1), (&copy, 0)] {
            for harm in [None, Some(&b""[..]), Some(b"what leads to chunkz")] {
                let place = Arc::new(Memory::new());
                let twice = Twice::new(place.clone());
                twice.put(&text, &stored).expect("a put");
                assert_eq!(place.snapshot().len(), 2);
                place.delete(harmed).expect("a deletion");
                harm.into_iter()
                    .for_each(|bytes| place.plant(harmed, bytes));
                assert_eq!(twice.get(&text).expect("one of two is whole"), stored);
                assert_eq!(twice.rescued().len(), rescued);
                let part = twice.read_part(&text, 5..10, |part| {
                    part.ok().filter(|part| part == b"leads").ok_or("damaged")
                });
                assert_eq!(part, Ok(b"leads".to_vec()));
            }
        }
    }

    /// The error is that of a place without copies.
    #[test]
    fn where_both_are_damaged_the_object_is_named() {
        let (name, stored) = object();
        let (text, copy) = (name.to_string(), copy_of(&name).expect("it has one"));
        let place = Arc::new(Memory::new());
        let twice = Twice::new(place.clone());
        twice.put(&text, &stored).expect("a put");
        place.plant(&copy, b"damaged");
        place.delete(&text).expect("a deletion");
        assert_eq!(twice.get(&text).expect_err("nothing is left").name, text);
        place.plant(&text, b"damaged too");
        assert_eq!(twice.get(&text).expect("as it is"), b"damaged too");
        assert!(twice.rescued().is_empty());
    }

    #[test]
    fn trouble_on_the_way_is_no_damage() {
        let (name, stored) = object();
        let place = Arc::new(Memory::new());
        let twice = Twice::new(place.clone());
        twice.put(&name.to_string(), &stored).expect("a put");
        place.fail(Fault {
            request: None,
            after: 0,
            effect: Effect::Refused(ObjectErrorKind::Passing),
        });
        assert_eq!(
            twice.get(&name.to_string()).expect_err("it may pass").kind,
            ObjectErrorKind::Passing
        );
        assert!(twice.rescued().is_empty());
    }

    /// A crash at any request leaves no object without its copy.
    #[test]
    fn whatever_is_there_has_its_copy() {
        let (name, stored) = object();
        for (is_deleted, after) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
            let place = Arc::new(Memory::new());
            let twice = Twice::new(place.clone());
            if is_deleted {
                twice.put(&name.to_string(), &stored).expect("a put");
            }
            place.fail(Fault {
                request: None,
                after,
                effect: Effect::Dead,
            });
            let done = if is_deleted {
                twice.delete(&name.to_string())
            } else {
                twice.put(&name.to_string(), &stored)
            };
            done.expect_err("the client is dead");
            let there = place.snapshot();
            assert!(
                is_deleted || !there.contains_key(&name.to_string()),
                "{there:?}"
            );
            assert!(
                !is_deleted
                    || after == 0
                    || !there.contains_key(&copy_of(&name).expect("it has one")),
                "{there:?}"
            );
        }
    }

    #[test]
    fn packs_and_announcements_have_none() {
        let id = ObjectId::of(b"an object");
        for (name, has_one) in [
            (ObjectName::Repository, true),
            (ObjectName::Key(id), true),
            (ObjectName::Maps(id), true),
            (ObjectName::Record { counter: 1, id }, true),
            (ObjectName::Pack(id), false),
            (
                ObjectName::Session(vellum_core::identity::SessionId([1; 16])),
                false,
            ),
        ] {
            assert_eq!(
                copy_of(&name).and_then(|copy| original_of(&copy)),
                has_one.then_some(name)
            );
        }
        assert_eq!(
            original_of(&format!("copies/packs/ab/{}", "ab".repeat(32))),
            None
        );
        assert_eq!(original_of("copies/copies/vellum.repository"), None);
    }
}
