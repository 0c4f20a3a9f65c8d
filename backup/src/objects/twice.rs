//! Redundant copies of the objects that lead to chunks. A damaged pack costs the data of its
//! chunks; a damaged key, record, index or map may cost everything. So each of those is stored
//! twice: under its name, and under `copies/NAME`.
//!
//! **Invariant: a copy without its object means that the object was lost.** The object is put
//! before the copy, and deleted after it, so no writer that stops half way leaves a copy alone.
//! Whoever meets one, or an object that is damaged, reads the copy and puts the object back. An
//! object without its copy is as good as one with it, until collections and verifications put the
//! copy back.
//!
//! What comes out wrong is asked for again before it is called damage: bits flip on the way, too.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{ObjectError, ObjectErrorKind, ObjectId, ObjectKind, ObjectName, Objects};
use crate::format::{RepositoryFile, RepositoryFileError};

/// The number of times that bytes are asked for before their damage is believed.
const ASK_TRIES: usize = 3;

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
/// name is its place, it says what a repository is.
#[must_use]
pub fn is_sound(name: &ObjectName, stored: &[u8]) -> bool {
    match name {
        ObjectName::Repository => !matches!(
            RepositoryFile::decode(stored),
            Err(RepositoryFileError::Invalid(_))
        ),
        ObjectName::Session(_) => true,
        _ => name.id() == Some(ObjectId::of(stored)),
    }
}

/// A place that stores the objects that lead to chunks twice.
pub struct Twice {
    place: Arc<dyn Objects>,
    /// Objects whose copies had to be read; true if they were put back.
    rescued: Mutex<BTreeMap<ObjectName, bool>>,
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

    /// The objects whose copies had to be read so far; true for those that are whole again.
    #[must_use]
    pub fn rescued(&self) -> BTreeMap<ObjectName, bool> {
        self.notes().clone()
    }

    /// Puts the copy of an object that was put just now.
    pub fn put_copy(&self, name: &ObjectName, bytes: &[u8]) -> Result<(), ObjectError> {
        self.copy_name(name)
            .map_or(Ok(()), |copy| self.place.put(&copy, bytes))
    }

    /// The copy of an object, if it is there and whole.
    #[must_use]
    pub fn sound_copy(&self, name: &ObjectName) -> Option<Vec<u8>> {
        let copy = self.copy_name(name)?;
        let sound = |stored: Vec<u8>| is_sound(name, &stored).then_some(stored).ok_or(());
        first_opened(|| self.place.get(&copy), sound).ok()?.ok()
    }

    /// Puts an object back whose copy is whole. True if it is there now.
    pub fn put_back(&self, name: &ObjectName) -> bool {
        let stored = self.sound_copy(name);
        let is_back = stored.is_some_and(|stored| self.restore(name, &stored));
        if is_back {
            self.notes().insert(*name, true);
        }
        is_back
    }

    /// Some bytes of an object as `open` reads them; of its copy, where those of the object are not
    /// there or cannot be read so. The error is that of the object itself.
    pub fn read_part<T, E>(
        &self,
        name: &str,
        range: Range<u64>,
        open: impl Fn(Result<Vec<u8>, ObjectError>) -> Result<T, E>,
    ) -> Result<T, E> {
        let ask = || self.place.get_range(name, range.clone());
        let opened = match first_opened(ask, |part| open(Ok(part))) {
            Ok(opened) => opened,
            Err(failed) if is_of_the_place(&failed) => return open(Err(failed)),
            Err(failed) => open(Err(failed)),
        };
        let error = match opened {
            Ok(opened) => return Ok(opened),
            Err(error) => error,
        };
        let object = ObjectName::parse(name);
        let copy = object
            .and_then(|object| self.copy_name(&object))
            .and_then(|copy| open(self.place.get_range(&copy, range)).ok());
        if let (Some(object), Some(_)) = (&object, &copy) {
            let is_back = self.put_back(object);
            self.notes().insert(*object, is_back);
        }
        copy.ok_or(error)
    }

    /// Writes an object anew. One that a collection deletes meanwhile comes back as one that
    /// nothing names.
    fn restore(&self, name: &ObjectName, stored: &[u8]) -> bool {
        self.place.replace(&name.to_string(), stored).is_ok()
    }

    fn copy_name(&self, name: &ObjectName) -> Option<String> {
        copy_of(name).filter(|_| self.place.keeps_copies())
    }

    /// The object itself; asked for again while its bytes are not those of its name.
    fn own(&self, name: &str, object: Option<&ObjectName>) -> Result<Vec<u8>, ObjectError> {
        let sound = |stored: Vec<u8>| match object {
            Some(object) if !is_sound(object, &stored) => Err(stored),
            _ => Ok(stored),
        };
        let stored = first_opened(|| self.place.get(name), sound)?;
        Ok(stored.unwrap_or_else(|damaged| damaged))
    }

    fn notes(&self) -> MutexGuard<'_, BTreeMap<ObjectName, bool>> {
        self.rescued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first of [`ASK_TRIES`] answers that opens; the last one's error, if none does. A request
/// that fails is not repeated here: [`super::persistence`] does that.
pub(crate) fn first_opened<T, E>(
    ask: impl Fn() -> Result<Vec<u8>, ObjectError>,
    open: impl Fn(Vec<u8>) -> Result<T, E>,
) -> Result<Result<T, E>, ObjectError> {
    let mut opened = open(ask()?);
    for _ in 1..ASK_TRIES {
        if opened.is_ok() {
            break;
        }
        opened = open(ask()?);
    }
    Ok(opened)
}

/// True if a request failed for a reason that has nothing to do with the stored bytes.
pub(crate) fn is_of_the_place(error: &ObjectError) -> bool {
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
        let object = ObjectName::parse(name);
        let first = self.own(name, object.as_ref());
        let Some(object) = object else {
            return first;
        };
        let is_final = match &first {
            Ok(stored) => is_sound(&object, stored),
            Err(error) => is_of_the_place(error),
        };
        if is_final {
            return first;
        }
        let Some(stored) = self.sound_copy(&object) else {
            return first;
        };
        let is_back = self.restore(&object, &stored);
        self.notes().insert(object, is_back);
        Ok(stored)
    }

    /// The place's own bytes, without a look at copies: see [`Twice::read_part`].
    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>, ObjectError> {
        self.place.get_range(name, range)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        self.place.put(name, bytes)?;
        ObjectName::parse(name).map_or(Ok(()), |object| self.put_copy(&object, bytes))
    }

    /// Replaces both the object and its copy, if it has one.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        self.place.replace(name, bytes)?;
        let copy = ObjectName::parse(name).and_then(|object| self.copy_name(&object));
        copy.map_or(Ok(()), |copy| self.place.replace(&copy, bytes))
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(&str, u64) -> Result<(), ObjectError>,
    ) -> Result<(), ObjectError> {
        self.place.list(prefix, visit)
    }

    fn delete(&self, name: &str) -> Result<(), ObjectError> {
        if let Some(copy) = ObjectName::parse(name).and_then(|object| self.copy_name(&object)) {
            self.place.delete(&copy)?;
        }
        self.place.delete(name)
    }

    fn leftovers(&self) -> Result<Vec<String>, ObjectError> {
        self.place.leftovers()
    }

    fn remove_leftover(&self, name: &str, is_alone: bool) -> Result<bool, ObjectError> {
        self.place.remove_leftover(name, is_alone)
    }

    fn keep_reserve(&self, len: u64) {
        self.place.keep_reserve(len);
    }

    fn release_reserve(&self) -> bool {
        self.place.release_reserve()
    }

    fn requests_together(&self) -> usize {
        self.place.requests_together()
    }

    fn keeps_copies(&self) -> bool {
        self.place.keeps_copies()
    }

    fn keeps_versions(&self) -> bool {
        self.place.keeps_versions()
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
                assert_eq!(*place.snapshot()[&text], *stored, "it was not put back");
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

    /// A crash at any request leaves no copy without its object: such a one would be put back.
    #[test]
    fn no_copy_is_alone_but_where_its_object_was_lost() {
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
            let copy = copy_of(&name).expect("it has one");
            assert!(
                !there.contains_key(&copy) || there.contains_key(&name.to_string()),
                "{there:?}"
            );
        }
    }

    /// What comes out wrong once comes out right the next time.
    #[test]
    fn what_is_wrong_on_the_way_is_asked_for_again() {
        let (name, stored) = object();
        let place = Arc::new(Memory::new());
        let twice = Twice::new(place.clone());
        twice.put(&name.to_string(), &stored).expect("a put");
        let part = |stored: Result<Vec<u8>, ObjectError>| {
            stored.ok().filter(|part| part == b"leads").ok_or("damaged")
        };
        for effect in [Effect::Flipped, Effect::Truncated] {
            place.fail(fault(effect));
            assert_eq!(twice.get(&name.to_string()).expect("whole"), stored);
        }
        place.fail(fault(Effect::Flipped));
        assert_eq!(
            twice.read_part(&name.to_string(), 5..10, part),
            Ok(b"leads".to_vec())
        );
        assert!(twice.rescued().is_empty());
    }

    fn fault(effect: Effect) -> Fault {
        Fault {
            request: None,
            after: 0,
            effect,
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
