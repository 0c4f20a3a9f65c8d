//! Tests of the journal: records in any order mean the same, and a missing record is noticed.

use super::*;
use crate::record::{Description, Fence, Mark, Point, Said, Stamped, Sweep};

pub(super) fn name(counter: u64, what: &str) -> RecordName {
    RecordName {
        counter,
        id: ObjectId::of(what.as_bytes()),
    }
}

pub(super) fn record(session: &str, counter: u64, parents: &[RecordName]) -> Record {
    Record {
        version: 1,
        counter,
        session: session.to_owned(),
        parents: parents.iter().map(ToString::to_string).collect(),
        ..Record::default()
    }
}

pub(super) fn point(id: &str) -> Point {
    Point {
        id: id.to_owned(),
        image: "image".to_owned(),
        name: "image".to_owned(),
        host: None,
        snapshot: None,
        content: "00".repeat(16),
        len: 0,
        mode: "normal".to_owned(),
        origin: None,
        time_ms: 0,
        tags: Vec::new(),
        pinned: false,
        description: String::new(),
        properties: std::collections::BTreeMap::new(),
    }
}

pub(super) fn journal(records: &[(RecordName, Record)]) -> Journal {
    let mut journal = Journal::default();
    records
        .iter()
        .for_each(|(name, record)| journal.add(*name, Arc::new(record.clone())));
    journal
}

fn ids(journal: &Journal) -> Vec<String> {
    State::of(journal)
        .points()
        .map(|point| point.id.clone())
        .collect()
}

/// A point that is pushed again after it was forgotten is there, whatever was replaced in between.
#[test]
fn forgetting_takes_away_what_was_seen_and_not_what_is_said_anew() {
    let (first, second, third) = (name(1, "a"), name(2, "b"), name(2, "c"));
    let pushed = |session: &str, counter| Record {
        points: vec![point("p").into()],
        ..record(session, counter, &[])
    };
    let forgotten = Record {
        forgotten: vec![Said {
            id: "p".into(),
            session: "s1".into(),
        }],
        ..record("s2", 2, &[first])
    };
    let all = [
        (first, pushed("s1", 1)),
        (second, forgotten),
        (third, pushed("s3", 2)),
    ];
    assert_eq!(ids(&journal(&all[..2])), Vec::<String>::new());
    assert_eq!(ids(&journal(&all)), ["p"]);
    // One that stands for the first push, and had not seen that it was forgotten, does not bring it
    // back.
    let whole = State::of(&journal(&all[..1])).whole(&|_| false);
    let standing = (
        name(3, "d"),
        Record {
            counter: 3,
            session: "s4".into(),
            version: 1,
            ..whole
        },
    );
    assert_eq!(
        ids(&journal(&[all[1].clone(), standing.clone()])),
        Vec::<String>::new()
    );
    assert_eq!(ids(&journal(&[standing])), ["p"]);
}

fn called(id: &str, name: &str) -> Stamped<Description> {
    Description {
        returned: None,
        name: name.to_owned(),
        ..Description::of(&point(id))
    }
    .into()
}

fn names(journal: &Journal) -> Vec<String> {
    State::of(journal)
        .points()
        .map(|point| point.name.clone())
        .collect()
}

/// The newest of several descriptions of a point counts, whatever order the records come in and
/// whatever clocks say; a description alone neither makes a point nor brings one back.
#[test]
fn a_point_is_called_as_it_was_said_last() {
    let pushed = |session: &str, counter| Record {
        points: vec![point("p").into()],
        ..record(session, counter, &[])
    };
    let described = |session: &str, counter, word: &str| Record {
        described: vec![called("p", word), called("unknown", word)],
        time_ms: 100 - counter,
        ..record(session, counter, &[])
    };
    let all = [
        (name(1, "a"), pushed("s1", 1)),
        (name(2, "b"), described("s2", 2, "two")),
        (name(3, "c"), described("s3", 3, "three")),
        (name(3, "d"), described("s4", 3, "four")),
    ];
    assert_eq!(names(&journal(&all[..1])), ["image"]);
    assert_eq!(names(&journal(&all[..3])), ["three"]);
    assert_eq!(
        names(&journal(&all)),
        ["four"],
        "of two at once the same for everybody"
    );
    // A record that stands for some of them keeps what they said, and what comes to be known later
    // is as new as it was.
    for (standing, late) in [
        (&all[..3], &all[3..]),
        (&all[..2], &all[2..]),
        (&[all[0].clone(), all[3].clone()][..], &all[1..3]),
    ] {
        let whole = State::of(&journal(standing)).whole(&|_| false);
        let whole = (
            name(9, "whole"),
            Record {
                version: 1,
                counter: 9,
                session: "s9".into(),
                ..whole
            },
        );
        assert_eq!(names(&journal(&[late, &[whole]].concat())), ["four"]);
    }
    let forgotten = Record {
        forgotten: vec![Said {
            id: "p".into(),
            session: "s1".into(),
        }],
        ..record("s5", 4, &[])
    };
    let gone = [&all[..], &[(name(4, "e"), forgotten)]].concat();
    assert_eq!(
        names(&journal(&gone)),
        Vec::<String>::new(),
        "words keep nothing"
    );
    assert!(
        State::of(&journal(&gone))
            .whole(&|_| false)
            .described
            .is_empty()
    );
    let anew = [&gone[..], &[(name(5, "f"), pushed("s6", 5))]].concat();
    assert_eq!(
        names(&journal(&anew)),
        ["image"],
        "older words are not those of what was pushed since"
    );
}

/// A pin that a fenced session took away may be there still.
#[test]
fn words_of_undecided_sessions_are_not_heard() {
    let all = [
        (
            name(1, "a"),
            Record {
                points: vec![point("p").into()],
                ..record("s1", 1, &[])
            },
        ),
        (
            name(2, "b"),
            Record {
                described: vec![called("p", "late")],
                ..record("dead", 2, &[])
            },
        ),
        (
            name(2, "c"),
            Record {
                fenced: vec![Fence {
                    session: "dead".into(),
                    counted: vec![],
                    decided: false,
                }],
                ..record("collector", 2, &[])
            },
        ),
    ];
    assert_eq!(names(&journal(&all[..2])), ["late"]);
    assert_eq!(names(&journal(&all)), ["image"]);
}

/// A record of a fenced session counts if the decision names it, and is neither here nor there
/// before.
#[test]
fn fences_decide_what_came_too_late() {
    let (in_time, late, announced, decided) = (
        name(1, "in time"),
        name(2, "late"),
        name(2, "fence"),
        name(3, "decision"),
    );
    let pushed = |id: &str, counter| Record {
        points: vec![point(id).into()],
        ..record("dead", counter, &[])
    };
    let fence = |decided| Fence {
        session: "dead".into(),
        counted: vec![in_time.to_string()],
        decided,
    };
    let all = [
        (in_time, pushed("p", 1)),
        (late, pushed("q", 2)),
        (
            announced,
            Record {
                fenced: vec![fence(false)],
                ..record("collector", 2, &[])
            },
        ),
        (
            decided,
            Record {
                fenced: vec![fence(true)],
                ..record("collector", 3, &[])
            },
        ),
    ];
    let open = State::of(&journal(&all[..3]));
    assert_eq!(
        (open.status(&in_time), open.status(&late)),
        (Some(Status::Counts), Some(Status::Undecided))
    );
    assert!(open.point("q").is_some() && !open.has_firm_point("q") && open.has_firm_point("p"));
    assert_eq!(open.undecided().collect::<Vec<_>>(), ["dead"]);
    let done = State::of(&journal(&all));
    assert_eq!(
        (done.status(&in_time), done.status(&late)),
        (Some(Status::Counts), Some(Status::Void))
    );
    assert_eq!(
        (ids(&journal(&all)), done.undecided().count()),
        (vec!["p".to_owned()], 0)
    );
}

/// A decision of a collection that was itself fenced before, and came too late, decides nothing.
#[test]
fn a_decision_of_a_fenced_collection_that_came_too_late_is_none() {
    let (pushed, zombie, fence) = (name(1, "push"), name(5, "zombie"), name(4, "fence"));
    let all = [
        (
            pushed,
            Record {
                points: vec![point("p").into()],
                ..record("pusher", 1, &[])
            },
        ),
        (
            zombie,
            Record {
                fenced: vec![Fence {
                    session: "pusher".into(),
                    counted: vec![],
                    decided: true,
                }],
                ..record("zombie", 5, &[])
            },
        ),
        (
            fence,
            Record {
                fenced: vec![Fence {
                    session: "zombie".into(),
                    counted: vec![],
                    decided: true,
                }],
                ..record("collector", 4, &[])
            },
        ),
    ];
    assert_eq!(ids(&journal(&all[..2])), Vec::<String>::new());
    assert_eq!(ids(&journal(&all)), ["p"]);
}

/// A mark that was swept is done with: what it condemned and the sweep left is as before.
#[test]
fn a_sweep_ends_its_mark() {
    let (kept, gone) = (
        ObjectName::Index(ObjectId::of(b"kept")),
        ObjectName::Index(ObjectId::of(b"gone")),
    );
    let ids = [kept, gone].map(|object| object.id().expect("an ID").to_string());
    let mark = Mark {
        id: "c".into(),
        objects: vec![kept.to_string(), gone.to_string()],
        contents: vec![],
    };
    let sweep = Sweep {
        mark: "c".into(),
        objects: vec![gone.to_string()],
        contents: vec![],
    };
    let all = [
        (
            name(1, "a"),
            Record {
                indexes: ids.to_vec(),
                ..record("p", 1, &[])
            },
        ),
        (
            name(2, "b"),
            Record {
                marks: vec![mark],
                ..record("c", 2, &[])
            },
        ),
        (
            name(3, "c"),
            Record {
                sweeps: vec![sweep],
                ..record("c", 3, &[])
            },
        ),
    ];
    let marked = State::of(&journal(&all[..2]));
    assert!(
        marked
            .indexes()
            .values()
            .all(|condition| *condition == Condition::Condemned)
    );
    let swept = State::of(&journal(&all));
    assert_eq!(
        swept.indexes().iter().collect::<Vec<_>>(),
        [(&kept.id().expect("an ID"), &Condition::Firm)]
    );
    assert!(swept.marks().is_empty() && swept.is_condemned(&gone) && !swept.is_condemned(&kept));
}

/// A record in the middle, or at the end of what a client saw, cannot be taken away unnoticed; what
/// was replaced is not missed.
#[test]
fn what_is_taken_away_is_missed() {
    let names = [name(1, "a"), name(2, "b"), name(3, "c")];
    let all = [
        (names[0], record("a", 1, &[])),
        (names[1], record("b", 2, &names[..1])),
        (names[2], record("c", 3, &names[1..2])),
    ];
    let whole = journal(&all);
    let seen = Remembered {
        heads: whole.heads(),
    };
    assert_eq!(
        (whole.check(&seen, &[]), seen.heads.as_slice()),
        (Ok(()), &names[2..])
    );
    assert_eq!(
        journal(&all[..2]).check(&seen, &[]),
        Err(HeadsError::RolledBack(names[2]))
    );
    assert_eq!(
        journal(&[]).check(&seen, &[]),
        Err(HeadsError::RolledBack(names[2]))
    );
    assert_eq!(
        journal(&[all[0].clone(), all[2].clone()]).check(&Remembered::default(), &[]),
        Err(HeadsError::Missing(names[1]))
    );
    let replaces = |counter, records: &Journal| Record {
        counter,
        session: format!("r{counter}"),
        past: records.past(std::iter::empty()),
        ..State::of(records).whole(&|_| false)
    };
    let once = journal(&[(name(4, "r1"), replaces(4, &whole))]);
    assert_eq!(once.check(&seen, &[]), Ok(()));
    let twice = journal(&[(name(5, "r2"), replaces(5, &once))]);
    assert_eq!(
        twice.check(&seen, &[]),
        Ok(()),
        "what was replaced long ago is known still"
    );
    let other = Remembered {
        heads: vec![name(3, "never replaced")],
    };
    assert_eq!(
        twice.check(&other, &[]),
        Err(HeadsError::RolledBack(other.heads[0]))
    );
}

/// A collection announces that it fences another, which has decided already that this comes too
/// late: what that one did counts all the same.
#[test]
fn an_announcement_that_came_too_late_hinders_nobody() {
    let fence = |session: &str, decided| Fence {
        session: session.into(),
        counted: vec![],
        decided,
    };
    let all = [
        (
            name(1, "a"),
            Record {
                fenced: vec![fence("second", false)],
                ..record("first", 1, &[])
            },
        ),
        (
            name(2, "b"),
            Record {
                fenced: vec![fence("second", true)],
                ..record("first", 2, &[])
            },
        ),
        (
            name(3, "c"),
            Record {
                points: vec![point("p").into()],
                ..record("first", 3, &[])
            },
        ),
        (
            name(1, "d"),
            Record {
                fenced: vec![fence("first", false)],
                ..record("second", 1, &[])
            },
        ),
    ];
    let state = State::of(&journal(&all));
    let statuses: Vec<_> = all
        .iter()
        .map(|(name, _)| state.status(name).expect("it is there"))
        .collect();
    assert_eq!(
        statuses,
        [Status::Counts, Status::Counts, Status::Counts, Status::Void]
    );
}

#[test]
fn a_record_that_another_stands_for_counts_no_more() {
    let (replaced, replacing) = (name(1, "a"), name(2, "b"));
    let stands_for = Record {
        replaces: vec![replaced.to_string()],
        ..record("q", 2, &[replaced])
    };
    let all = [(replaced, record("p", 1, &[])), (replacing, stands_for)];
    let statuses = status::statuses(&journal(&all));
    assert_eq!(statuses[&replaced], Status::Replaced);
    assert_eq!(statuses[&replacing], Status::Counts);
}
