//! Doubts about clocks: a writer's time that does not fit that of the record before. Nothing is
//! decided by it; a person should hear of it before rules count days that never were.

use crate::journal::Journal;

/// A clock may be this much behind the one before in milliseconds: time zones are no concern here,
/// and clocks that are set by hand are.
const BEHIND_MAX_MS: u64 = 24 * 3_600_000;
/// A clock may be this much ahead in milliseconds: repositories rest, but rarely for a year.
const AHEAD_MAX_MS: u64 = 366 * 24 * 3_600_000;

/// Two clocks of which one is likely wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockDoubt {
    /// The time of this writer, in milliseconds since 1970.
    pub own_ms: u64,
    /// The time of the newest record, in milliseconds since 1970.
    pub latest_ms: u64,
    /// The writer of the newest record.
    pub latest_writer: String,
}

impl ClockDoubt {
    /// The doubt about `own_ms`, the time of a writer whose record is the next of `journal`.
    #[must_use]
    pub fn of(journal: &Journal, own_ms: u64) -> Option<Self> {
        let (_, latest) = journal.iter().last()?;
        let is_behind = own_ms.saturating_add(BEHIND_MAX_MS) < latest.time_ms;
        let is_ahead = latest.time_ms.saturating_add(AHEAD_MAX_MS) < own_ms;
        (is_behind || is_ahead).then(|| Self {
            own_ms,
            latest_ms: latest.time_ms,
            latest_writer: latest.writer.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::journal::RecordName;
    use crate::objects::ObjectId;
    use crate::record::Record;

    const NOW_MS: u64 = 1_800_000_000_000;

    #[test]
    fn only_a_clock_that_does_not_fit_is_doubted() {
        let mut journal = Journal::default();
        assert_eq!(ClockDoubt::of(&journal, 0), None, "there is no other clock");
        for (counter, time_ms) in [(1, 0), (2, NOW_MS)] {
            let name = RecordName {
                counter,
                id: ObjectId([0; 32]),
            };
            let record = Record {
                time_ms,
                writer: format!("writer {counter}"),
                ..Record::default()
            };
            journal.add(name, Arc::new(record));
        }
        for (own_ms, is_doubted) in [
            (NOW_MS, false),
            (NOW_MS - BEHIND_MAX_MS, false),
            (NOW_MS - BEHIND_MAX_MS - 1, true),
            (NOW_MS + AHEAD_MAX_MS, false),
            (NOW_MS + AHEAD_MAX_MS + 1, true),
        ] {
            let doubt = ClockDoubt::of(&journal, own_ms);
            assert_eq!(doubt.is_some(), is_doubted, "{own_ms}");
            assert!(doubt.is_none_or(|doubt| doubt.latest_writer == "writer 2"));
        }
    }
}
