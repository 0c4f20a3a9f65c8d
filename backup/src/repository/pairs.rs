//! Pairs of object and copy: puts the half back that is lost.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Repository;
use crate::error::BackupError;
use crate::format::RepositoryFile;
use crate::journal::{HeadsError, RecordName, State};
use crate::objects::twice::{COPIES_PREFIX, Twice, is_sound, original_of};
use crate::objects::{ObjectErrorKind, ObjectKind, ObjectName, Objects};

impl Repository {
    /// Reads what is new in the journal, also of records of which only the copy is left: they are
    /// put back. Cost: one more listing than [`Repository::refresh`].
    pub fn refresh_with_copies(&self) -> Result<Arc<State>, BackupError> {
        // Copies first: a record whose copy was there, and that is in no later listing, is lost,
        // or a collection has deleted both since.
        let copies = self.list_copies_of(ObjectKind::Record)?;
        let state = self.refresh()?;
        let journal = self.journal();
        let lost = copies.keys().filter_map(RecordName::of_object);
        let lost: Vec<RecordName> = lost
            .filter(|name| journal.get(name).is_none() && !journal.is_replaced(name))
            .collect();
        let is_back = |name: &RecordName| self.twice.put_back(&name.object());
        if lost.iter().filter(|name| is_back(name)).count() == 0 {
            return Ok(state);
        }
        self.refresh()
    }

    /// Writes a record anew of which both halves are damaged, out of what this client keeps.
    pub(crate) fn rewrite_record(&self, name: &RecordName) -> bool {
        let object = name.object();
        self.memory.record(name).is_some_and(|stored| {
            is_sound(&object, &stored) && self.objects.replace(&object.to_string(), &stored).is_ok()
        })
    }

    /// Puts the copy of an object that is there and whole. That it cannot be put is no failure: the
    /// object is there.
    pub(crate) fn complete_pair(&self, name: &ObjectName) -> Result<bool, BackupError> {
        let stored = match self.objects.get(&name.to_string()) {
            Err(error) if error.kind == ObjectErrorKind::Missing => return Ok(false),
            stored => stored.map_err(|source| self.failed(source))?,
        };
        Ok(self.is_own(name, &stored) && self.twice.put_copy(name, &stored).is_ok())
    }

    /// True if `stored` is that object of this repository.
    pub(crate) fn is_own(&self, name: &ObjectName, stored: &[u8]) -> bool {
        match name {
            ObjectName::Repository => RepositoryFile::decode(stored).as_ref() == Ok(&self.file),
            _ => is_sound(name, stored),
        }
    }

    /// Puts a record back that is missed: out of its copy; if others build on it, so that it must
    /// be there, also out of what this client keeps.
    pub(super) fn put_back(&self, missed: &HeadsError) -> bool {
        let (record, kept) = match missed {
            HeadsError::Missing(record) => (record, self.memory.record(record)),
            HeadsError::RolledBack(record) => (record, None),
        };
        let object = record.object();
        let put = |stored: Vec<u8>| {
            is_sound(&object, &stored) && self.objects.put(&object.to_string(), &stored).is_ok()
        };
        self.twice.put_back(&object) || kept.is_some_and(put)
    }
}

/// Puts key objects back of which only the copy is left. True if there was one.
pub(super) fn put_keys_back(twice: &Twice) -> bool {
    let list = |prefix: &str| {
        let mut names = BTreeSet::new();
        let listed = twice.list(prefix, &mut |name, _| {
            names.extend(original_of(name).or_else(|| ObjectName::parse(name)));
            Ok(())
        });
        listed.map(|()| names)
    };
    let prefix = ObjectKind::Key.prefix();
    let copies = list(&format!("{COPIES_PREFIX}{prefix}"));
    let (Ok(copies), Ok(there)) = (copies, list(prefix)) else {
        return false;
    };
    copies
        .difference(&there)
        .filter(|name| twice.put_back(name))
        .count()
        > 0
}
