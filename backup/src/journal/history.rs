//! Detects missing records: checks that a listing shows every record that it should, so that nobody
//! can remove one or present an older state.
//!
//! Records name their parents, and the records that they replace. So a record that is missing in
//! the middle is missed by those built on it, and one at the end by a client that remembers it.

use std::collections::BTreeSet;

use super::status::Status;
use super::{Journal, RecordName, status};
use crate::record::Past;

/// The greatest number of replaced records that a record's [`Past`] names one by one: older ones
/// are covered by its counter alone. A client that was away for that many records trusts the
/// counter.
const PAST_MAX: usize = 4096;

/// A client's memory of a repository between runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// The ends of the graph as they were seen last.
    pub heads: Vec<RecordName>,
}

/// A listing that cannot be the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadsError {
    /// A record is gone on which others build.
    Missing(RecordName),
    /// A record is gone that this client saw.
    RolledBack(RecordName),
}

/// The records that are replaced by those that count.
struct Replaced {
    short: BTreeSet<String>,
    floor: Option<u64>,
}

impl Replaced {
    fn of(journal: &Journal) -> Self {
        let statuses = status::statuses(journal);
        let counting = journal
            .iter()
            .filter(|(name, _)| statuses[name] != Status::Void);
        let (mut short, mut floor) = (BTreeSet::new(), None);
        for (_, record) in counting {
            short.extend(
                record
                    .replaces
                    .iter()
                    .filter_map(|text| RecordName::parse(text))
                    .map(|name| name.short()),
            );
            if let Some(past) = &record.past {
                short.extend(past.ids.iter().cloned());
                floor = floor.max(Some(past.floor));
            }
        }
        Self { short, floor }
    }

    fn excuses(&self, name: &RecordName) -> bool {
        self.floor.is_some_and(|floor| name.counter <= floor) || self.short.contains(&name.short())
    }
}

impl Journal {
    /// True if a record that counts stands for this one, which need not be there.
    #[must_use]
    pub fn is_replaced(&self, name: &RecordName) -> bool {
        Replaced::of(self).excuses(name)
    }

    /// Checks that no record is missing that another record, or the client, knows of, but those
    /// that are `written_off`.
    pub fn check(
        &self,
        remembered: &Remembered,
        written_off: &[RecordName],
    ) -> Result<(), HeadsError> {
        let replaced = Replaced::of(self);
        let is_here = |name: &RecordName| {
            self.records.contains_key(name) || replaced.excuses(name) || written_off.contains(name)
        };
        let parents = self
            .iter()
            .flat_map(|(_, record)| &record.parents)
            .filter_map(|text| RecordName::parse(text));
        if let Some(missing) = parents.into_iter().find(|name| !is_here(name)) {
            return Err(HeadsError::Missing(missing));
        }
        match remembered.heads.iter().find(|name| !is_here(name)) {
            Some(missing) => Err(HeadsError::RolledBack(*missing)),
            None => Ok(()),
        }
    }

    /// The records that no other one builds on or stands for.
    #[must_use]
    pub fn heads(&self) -> Vec<RecordName> {
        let below: BTreeSet<RecordName> = self
            .iter()
            .flat_map(|(_, record)| record.parents.iter().chain(&record.replaces))
            .filter_map(|text| RecordName::parse(text))
            .collect();
        self.records
            .keys()
            .filter(|name| !below.contains(name))
            .copied()
            .collect()
    }

    /// The [`Past`] of a record that replaces all these, and those that they replaced. Records that
    /// are still listed stay named. `void` are records that it does not replace, since they say
    /// nothing, and that are deleted nevertheless.
    #[must_use]
    pub fn past(&self, void: impl Iterator<Item = RecordName>) -> Option<Past> {
        // A record that names a missing one saw it, so the missing one's counter is smaller.
        let told = self.iter().filter(|(_, record)| record.past.is_some());
        let mut floor = told
            .clone()
            .filter_map(|(_, record)| record.past.as_ref())
            .map(|past| past.floor)
            .max()
            .unwrap_or(0);
        let named = self
            .iter()
            .flat_map(|(_, record)| &record.replaces)
            .filter_map(|text| RecordName::parse(text));
        let mut gone: Vec<RecordName> = named
            .filter(|name| !self.records.contains_key(name))
            .collect();
        gone.sort_unstable();
        gone.dedup();
        let listed: BTreeSet<String> = self.records.keys().map(RecordName::short).collect();
        let old = told
            .clone()
            .filter_map(|(_, record)| record.past.as_ref())
            .flat_map(|past| past.ids.iter().cloned());
        let mut ids: BTreeSet<String> = old.collect();
        if ids.len() + gone.len() > PAST_MAX {
            ids.retain(|short| listed.contains(short));
            floor = told
                .map(|(name, _)| name.counter.saturating_sub(1))
                .chain([floor])
                .max()
                .unwrap_or(floor);
        }
        ids.extend(gone.iter().copied().chain(void).map(|name| name.short()));
        (!ids.is_empty() || floor > 0).then(|| Past {
            floor,
            ids: ids.into_iter().collect(),
        })
    }
}
