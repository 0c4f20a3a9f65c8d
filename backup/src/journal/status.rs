//! Decides which records count: from the fences on sessions, and from the records that others
//! replace.

use std::collections::BTreeMap;

use super::{Journal, RecordName};
use crate::record::{Fence, Record};

/// A bound on rounds of [`statuses`]: fences on sessions that fenced. Honest journals need two or
/// three; what is undecided after this many is left so, which is safe.
const ROUNDS_MAX: usize = 64;

/// The status of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// It does.
    Counts,
    /// Its session is being fenced, and whether it came in time is not decided: it may be seen,
    /// nobody may build on it.
    Undecided,
    /// It came after its session was fenced.
    Void,
    /// Replaced: another record that counts stands for it.
    Replaced,
}

/// The status of every record.
pub(super) fn statuses(journal: &Journal) -> BTreeMap<RecordName, Status> {
    let facts = Facts::of(journal);
    let mut statuses: BTreeMap<RecordName, Status> = journal
        .iter()
        .map(|(name, _)| (*name, Status::Undecided))
        .collect();
    for _ in 0..ROUNDS_MAX {
        let next: BTreeMap<RecordName, Status> = journal
            .iter()
            .map(|(name, record)| (*name, facts.status(name, record, &statuses)))
            .collect();
        if next == statuses {
            break;
        }
        statuses = next;
    }
    statuses
}

/// A fence, and the record that states it.
struct Fenced<'a> {
    by: RecordName,
    session: &'a str,
    fence: &'a Fence,
}

/// The statements of records about other records.
struct Facts<'a> {
    fences: BTreeMap<&'a str, Vec<Fenced<'a>>>,
    /// The replacing records, by the short name of the replaced one.
    replacing: BTreeMap<String, Vec<RecordName>>,
}

impl<'a> Facts<'a> {
    fn of(journal: &'a Journal) -> Self {
        let (mut fences, mut replacing) =
            (BTreeMap::<_, Vec<_>>::new(), BTreeMap::<_, Vec<_>>::new());
        for (name, record) in journal.iter() {
            let said = record.fenced.iter().map(|fence| Fenced {
                by: *name,
                session: &record.session,
                fence,
            });
            said.for_each(|fenced| {
                fences
                    .entry(fenced.fence.session.as_str())
                    .or_default()
                    .push(fenced);
            });
            covered(record).for_each(|short| replacing.entry(short).or_default().push(*name));
        }
        Self { fences, replacing }
    }

    fn status(
        &self,
        name: &RecordName,
        record: &Record,
        statuses: &BTreeMap<RecordName, Status>,
    ) -> Status {
        let mut replacing = self
            .replacing
            .get(&name.short())
            .into_iter()
            .flatten()
            .filter(|by| *by != name);
        let settled =
            |by: &RecordName| matches!(statuses.get(by), Some(Status::Counts | Status::Replaced));
        if replacing.any(settled) {
            return Status::Replaced;
        }
        let of = |wanted: Status| {
            let fences = self
                .fences
                .get(record.session.as_str())
                .into_iter()
                .flatten();
            let said = fences.filter(move |fenced| {
                statuses.get(&fenced.by) == Some(&wanted) && !decides_against(record, fenced)
            });
            said.map(|fenced| fenced.fence)
        };
        judged(name, of(Status::Counts), of(Status::Undecided))
    }
}

/// True if a record itself decided that the one with this fence came too late. Both cannot have
/// decided, so the fence was never more than announced.
fn decides_against(record: &Record, fenced: &Fenced<'_>) -> bool {
    let by = fenced.by.to_string();
    record
        .fenced
        .iter()
        .any(|own| own.decided && own.session == fenced.session && !own.counted.contains(&by))
}

/// The status of a record of a fenced session, by the fences of records that count and of undecided
/// ones.
fn judged<'a>(
    name: &RecordName,
    firm: impl Iterator<Item = &'a Fence>,
    open: impl Iterator<Item = &'a Fence>,
) -> Status {
    let text = name.to_string();
    let (decisions, announced): (Vec<&Fence>, Vec<&Fence>) = firm.partition(|fence| fence.decided);
    let is_counted = |fence: &Fence| fence.counted.contains(&text);
    if !decisions.is_empty() {
        return if decisions.into_iter().all(is_counted) {
            Status::Counts
        } else {
            Status::Void
        };
    }
    if announced.into_iter().chain(open).all(is_counted) {
        Status::Counts
    } else {
        Status::Undecided
    }
}

/// The short names of the records that a record replaces.
fn covered(record: &Record) -> impl Iterator<Item = String> {
    let replaced = record
        .replaces
        .iter()
        .filter_map(|text| RecordName::parse(text))
        .map(|name| name.short());
    replaced.chain(record.past.iter().flat_map(|past| past.ids.iter().cloned()))
}
