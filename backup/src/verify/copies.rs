//! Verification of redundant copies: whether objects that lead to chunks are there twice, and
//! making it so again. An object needs its copy as little as the copy needs the object, while the
//! other of the two is whole: no point is hit by what is found here.

use rayon::prelude::{IntoParallelRefIterator, ParallelIterator};

use super::{Check, VerifyOptions, damage};
use crate::error::BackupError;
use crate::journal::{Condition, RecordName, State, Status};
use crate::objects::ObjectName;
use crate::objects::twice::{copy_of, is_sound};
use crate::prune::reach::Needed;

/// An object or a copy of which only the other half is whole.
struct Half {
    /// The object's name, or its copy's.
    name: String,
    reason: &'static str,
    /// The name of the object with the same bytes, if right bytes can be told from wrong ones.
    other: Option<(String, ObjectName)>,
}

impl Check<'_> {
    pub(super) fn find_halves(
        &mut self,
        state: &State,
        needed: &Needed<'_>,
        options: &VerifyOptions,
    ) -> Result<(), BackupError> {
        let keys = self.key_names()?;
        // One that another stands for, or that says nothing, may have been on its way out when a
        // collection was interrupted.
        let says = |name: &RecordName| {
            matches!(state.status(name), Some(Status::Counts | Status::Undecided))
        };
        let journal = self.repository.journal();
        let records = journal
            .iter()
            .map(|(name, _)| *name)
            .filter(says)
            .map(RecordName::object);
        let indexes = state
            .indexes()
            .iter()
            .filter(|(_, condition)| **condition == Condition::Firm)
            .map(|(id, _)| ObjectName::Index(*id));
        let lengths_differ = |name: &ObjectName| self.copies.get(name) != self.lengths.get(name);
        // All data was read by now; of maps, else, their parts: which half of a pair is too long or
        // too short is to be found out.
        let maps: Vec<ObjectName> = needed
            .maps()
            .into_iter()
            .filter(|name| options.read_data || lengths_differ(name))
            .collect();
        maps.iter()
            .filter(|_| !options.read_data)
            .try_for_each(|name| self.misnamed(name).map(drop))?;
        let all: Vec<ObjectName> = std::iter::once(ObjectName::Repository)
            .chain(keys)
            .chain(records)
            .chain(indexes)
            .chain(maps)
            .filter(|name| !self.noted.contains(name))
            .collect();
        let wrong: Vec<Option<Half>> = all
            .par_iter()
            .map(|name| self.bad_copy(name))
            .collect::<Result<_, _>>()?;
        for half in wrong.into_iter().flatten() {
            self.hit(&half.name, half.reason, []);
            if self.mend(&half)? {
                self.mended.insert(half.name);
            }
        }
        // All objects that this run needed were read by now, from the copy where that was the only
        // way, and put back.
        for (name, is_back) in self.repository.twice().rescued() {
            let object = name.to_string();
            self.hit(
                &object,
                "it is damaged or gone, and was read from its copy",
                [],
            );
            if is_back {
                self.mended.insert(object);
            }
        }
        Ok(())
    }

    /// The damage to the copy of an object that is there.
    fn bad_copy(&self, name: &ObjectName) -> Result<Option<Half>, BackupError> {
        let (place, Some(copy)) = (self.repository.twice().place(), copy_of(name)) else {
            return Ok(None);
        };
        let get = |name: &str| {
            damage(
                place
                    .get(name)
                    .map_err(|error| self.repository.failed(error)),
            )
        };
        let own = Some((name.to_string(), *name));
        let is_own = |stored: &[u8]| self.repository.is_own(name, stored);
        let half = match get(&copy)? {
            Ok(stored) if !is_sound(name, &stored) => Half {
                name: copy,
                reason: "it is not what its name says",
                other: own,
            },
            Ok(stored) if !is_own(&stored) => Half {
                name: copy,
                reason: "it says something else than the object",
                other: own.filter(|_| self.is_proven()),
            },
            Ok(_) => return Ok(None),
            // An object that was taken away a moment ago has none.
            Err(_) if get(&name.to_string())?.is_err() => return Ok(None),
            Err(_) => Half {
                name: copy,
                reason: "it is not there",
                other: own,
            },
        };
        Ok(Some(half))
    }

    /// Writes one half anew from the other, if that is whole.
    fn mend(&self, half: &Half) -> Result<bool, BackupError> {
        let (place, Some((other, object))) = (self.repository.twice().place(), &half.other) else {
            return Ok(false);
        };
        let stored = damage(
            place
                .get(other)
                .map_err(|error| self.repository.failed(error)),
        )?;
        let Some(stored) = stored
            .ok()
            .filter(|stored| self.repository.is_own(object, stored))
        else {
            return Ok(false);
        };
        // Who may only read tells what is to be done.
        Ok(place.replace(&half.name, &stored).is_ok())
    }

    /// True if the repository's file is certain to say what it said: a key or a record fits it.
    fn is_proven(&self) -> bool {
        self.repository.file().is_encrypted || !self.repository.journal().is_empty()
    }
}
