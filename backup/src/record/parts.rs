//! Splits a record that is too long for one object into several that say the same: pure.
//!
//! Nearly every statement may stand in any record, since a state is a union. The order is what
//! matters if the last ones are never put: contents and index objects come before points, so that
//! no point is without what it needs; and a record is replaced only by one that comes after all
//! that repeat it. What must be said at once is not split: the sweep of one mark.

use serde::Serialize;

use super::{Mark, Record, Sweep, Withheld};

/// The length of a part's JSON in bytes at which the next begins. An object may have four times as
/// much, so a last statement always fits.
pub(crate) const PART_LEN: usize = 16 << 20;
/// Names that stand together in one statement, at most: some 100 bytes each.
pub(crate) const NAMES_MAX: usize = 50_000;

struct Parts {
    done: Vec<Record>,
    last: Record,
    len: usize,
    len_max: usize,
}

impl Parts {
    /// Adds statements to the list that `list` finds in a record.
    fn add<T: Serialize>(&mut self, statements: Vec<T>, list: fn(&mut Record) -> &mut Vec<T>) {
        for statement in statements {
            let text = serde_json::to_vec(&statement).expect("texts and numbers are JSON");
            if self.len > 0 && self.len + text.len() > self.len_max {
                self.done.push(std::mem::take(&mut self.last));
                self.len = 0;
            }
            self.len += text.len() + 1;
            list(&mut self.last).push(statement);
        }
    }
}

impl Record {
    /// The record in parts of about `len_max` bytes of JSON each, in the order in which they are to
    /// be put. Counter, parents and the like are left for who puts them.
    pub(crate) fn into_parts(self, len_max: usize) -> Vec<Self> {
        let mut parts = Parts {
            done: Vec::new(),
            last: Self::default(),
            len: 0,
            len_max,
        };
        parts.add(self.contents, |record| &mut record.contents);
        parts.add(self.indexes, |record| &mut record.indexes);
        parts.add(self.index_parts, |record| &mut record.index_parts);
        parts.add(self.points, |record| &mut record.points);
        parts.add(self.described, |record| &mut record.described);
        parts.add(self.machines, |record| &mut record.machines);
        parts.add(self.policies, |record| &mut record.policies);
        parts.add(self.stores, |record| &mut record.stores);
        parts.add(self.forgotten, |record| &mut record.forgotten);
        parts.add(split_withheld(self.withheld), |record| &mut record.withheld);
        parts.add(split_marks(self.marks), |record| &mut record.marks);
        parts.add(self.waits, |record| &mut record.waits);
        parts.add(split_sweeps(self.sweeps), |record| &mut record.sweeps);
        parts.add(self.damaged, |record| &mut record.damaged);
        parts.add(self.fenced, |record| &mut record.fenced);
        parts.add(self.replaces, |record| &mut record.replaces);
        parts.last.past = self.past;
        parts.done.push(parts.last);
        parts.done
    }
}

fn split_withheld(withheld: Vec<Withheld>) -> Vec<Withheld> {
    let split = |Withheld { counter, points }: Withheld| {
        let some = |points: &[String]| Withheld {
            counter,
            points: points.to_vec(),
        };
        points.chunks(NAMES_MAX).map(some).collect::<Vec<_>>()
    };
    withheld.into_iter().flat_map(split).collect()
}

/// A mark is the union of what stands under its name.
fn split_marks(marks: Vec<Mark>) -> Vec<Mark> {
    let split = |mark: Mark| {
        if mark.objects.len() + mark.contents.len() <= NAMES_MAX {
            return vec![mark];
        }
        let objects = mark.objects.chunks(NAMES_MAX).map(|objects| Mark {
            id: mark.id.clone(),
            objects: objects.to_vec(),
            ..Mark::default()
        });
        let contents = mark.contents.chunks(NAMES_MAX).map(|contents| Mark {
            id: mark.id.clone(),
            contents: contents.to_vec(),
            ..Mark::default()
        });
        objects.chain(contents).collect()
    };
    marks.into_iter().flat_map(split).collect()
}

/// Sweeps of no mark, which remember what is still to be deleted, may be split; those of a mark end
/// it, and stay whole.
fn split_sweeps(sweeps: Vec<Sweep>) -> Vec<Sweep> {
    let split = |sweep: Sweep| {
        if !sweep.mark.is_empty() || !sweep.contents.is_empty() {
            return vec![sweep];
        }
        let some = |objects: &[String]| Sweep {
            objects: objects.to_vec(),
            ..Sweep::default()
        };
        sweep.objects.chunks(NAMES_MAX).map(some).collect()
    };
    sweeps.into_iter().flat_map(split).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::journal::{Journal, RecordName, State};
    use crate::objects::ObjectId;
    use crate::record::{Content, Past, Point, Stamp, Stamped};

    const CONTENT: &str = "00112233445566778899aabbccddeeff";

    fn point(nth: u64) -> Stamped<Point> {
        let text = format!(
            r#"{{"id":"{nth:032x}","image":"s-1","name":"web","content":"{CONTENT}","len":0,
               "mode":"normal","time_ms":{nth},"stamp":{{"counter":{nth},"session":"s"}}}}"#
        );
        serde_json::from_str(&text).expect("a point")
    }

    fn content() -> Stamped<Content> {
        let text = format!(
            r#"{{"id":"{CONTENT}","len":0,"parent_visible":0,"chunk_len":4096,"parts":[]}}"#
        );
        serde_json::from_str(&text).expect("a content")
    }

    fn whole() -> Record {
        let name = |nth: u64| RecordName {
            counter: nth,
            id: ObjectId([nth as u8; 32]),
        };
        Record {
            points: (1..500).map(point).collect(),
            contents: vec![content()],
            withheld: vec![Withheld {
                counter: 3,
                points: (0..100).map(|nth| format!("{nth:016x}")).collect(),
            }],
            marks: vec![Mark {
                id: "m".to_owned(),
                objects: (0..=NAMES_MAX as u64)
                    .map(|nth| format!("packs/00/{nth:064x}"))
                    .collect(),
                contents: Vec::new(),
            }],
            replaces: (1..100).map(|nth| name(nth).to_string()).collect(),
            past: Some(Past::default()),
            ..Record::default()
        }
    }

    fn state(records: &[Record]) -> State {
        let mut journal = Journal::default();
        for (record, counter) in records.iter().zip(1000..) {
            let name = RecordName {
                counter,
                id: ObjectId([0xaa; 32]),
            };
            let record = Record {
                version: 1,
                counter,
                session: "collection".to_owned(),
                ..record.clone()
            };
            journal.add(name, Arc::new(record));
        }
        State::of(&journal)
    }

    /// Parts say what the whole said, and stay short.
    #[test]
    fn parts_say_what_the_whole_said() {
        let whole = whole();
        let expected = state(std::slice::from_ref(&whole));
        for len_max in [1000, 20_000, usize::MAX] {
            let parts = whole.clone().into_parts(len_max);
            assert_eq!(parts.len() == 1, len_max == usize::MAX);
            let found = state(&parts);
            assert!(found.points().eq(expected.points()), "{len_max}");
            assert_eq!(found.marks(), expected.marks(), "{len_max}");
            assert_eq!(found.contents().count(), 1);
            for part in &parts {
                let long = part.marks.len() + part.points.len() + part.replaces.len();
                let len = serde_json::to_vec(part).expect("JSON").len();
                assert!(long <= 1 || len <= len_max.saturating_add(2000), "{len}");
            }
        }
    }

    /// A collection may die between any two parts: nothing is replaced before all is repeated, and
    /// no point is there before its content.
    #[test]
    fn nothing_is_missing_where_the_last_parts_were_never_put() {
        let parts = whole().into_parts(1000);
        let first = parts.iter().position(|part| !part.replaces.is_empty());
        let first = first.expect("something is replaced");
        assert!(parts[first + 1..].iter().all(|part| part.points.is_empty()));
        for count in 1..parts.len() {
            let state = state(&parts[..count]);
            let is_whole = |point: &Arc<Point>| {
                let content = vellum_core::identity::ContentId::parse(&point.content);
                content.is_some_and(|content| state.content(content).is_some())
            };
            assert!(state.points().all(is_whole), "{count}");
        }
        let stamped = Stamp {
            counter: 7,
            session: "s".to_owned(),
        };
        assert_eq!(parts[0].contents.len(), 1, "contents come first");
        assert!(
            parts
                .iter()
                .flat_map(|part| &part.points)
                .any(|point| point.stamp == Some(stamped.clone())),
            "stamps stay"
        );
    }
}
