//! Tests of sessions that do not see each other and write contents relative to each other, with
//! collections between: every point can be read.

use std::collections::BTreeSet;

use vellum_core::identity::ContentId;

use super::tests::{journal, name, point, record};
use super::*;
use crate::prune::reach::Needed;
use crate::record::{Content, Mark, Point, Said, Stamped, Sweep, Wait};
use crate::testing::seed;

/// Few, so that sessions meet.
const CONTENTS: u8 = 5;

fn id(nth: u8) -> String {
    ContentId([nth; 16]).to_string()
}

fn content(nth: u8, parent: Option<u8>) -> Stamped<Content> {
    let visible = u64::from(parent.is_some());
    Content {
        id: id(nth),
        parent: parent.map(id),
        len: 4096,
        parent_visible: visible,
        chunk_len: 4096,
        parts: Vec::new(),
    }
    .into()
}

fn leads_out(state: &State, id: ContentId) -> bool {
    state
        .chain(id)
        .last()
        .is_some_and(|entry| entry.content.parent.is_none())
}

/// One pushes 1, then 2 over it. One has seen a 2 that stands alone, and not the 1, which it pushes
/// over that 2.
#[test]
fn contents_that_are_said_crosswise_can_be_read() {
    let all = [
        (
            name(1, "a"),
            Record {
                contents: vec![content(1, None)],
                ..record("s1", 1, &[])
            },
        ),
        (
            name(2, "b"),
            Record {
                contents: vec![content(2, None)],
                ..record("s2", 2, &[])
            },
        ),
        (
            name(3, "c"),
            Record {
                contents: vec![content(2, Some(1))],
                ..record("s1b", 3, &[])
            },
        ),
        (
            name(4, "d"),
            Record {
                contents: vec![content(1, Some(2))],
                ..record("s3", 4, &[])
            },
        ),
    ];
    let state = State::of(&journal(&all));
    assert!(
        [1, 2]
            .iter()
            .all(|nth| leads_out(&state, ContentId([*nth; 16])))
    );
    // No session builds on what is condemned, but it is the only way out.
    let alone = [(1, "s1"), (2, "s2")].map(|(nth, session)| Said {
        id: id(nth),
        session: session.to_owned(),
    });
    let mark = Mark {
        id: "m".into(),
        objects: Vec::new(),
        contents: alone.to_vec(),
    };
    let marked = [
        &all[..],
        &[(
            name(5, "e"),
            Record {
                marks: vec![mark],
                ..record("m", 5, &[])
            },
        )],
    ]
    .concat();
    let state = State::of(&journal(&marked));
    assert!(
        [1, 2]
            .iter()
            .all(|nth| state.may_build_on(ContentId([*nth; 16]))
                && leads_out(&state, ContentId([*nth; 16])))
    );
}

/// The sweeps of the marks that everybody has seen, where these sessions are open.
fn swept(state: &State, open: &BTreeSet<String>) -> Vec<Sweep> {
    let needed = Needed::by_all_that_stays(state, &|_, mark| mark.is_seen(open));
    let ready = state.marks().iter().filter(|(_, mark)| mark.is_seen(open));
    ready
        .map(|(id, mark)| needed.sweep(id, mark, &|_| false))
        .collect()
}

/// One mark waits for a session that builds on what it condemned; a later mark condemns that, and
/// waits for another that builds on it in turn. Once the first is gone, what the first mark
/// condemned is needed by nothing that is firm, and yet it stays.
#[test]
fn what_a_mark_condemned_stays_for_what_another_waits_for() {
    let mark = |session: &str, nth: u8, said_by: &str, waits_for: &str| Record {
        marks: vec![Mark {
            id: session.to_owned(),
            objects: Vec::new(),
            contents: vec![Said {
                id: id(nth),
                session: said_by.to_owned(),
            }],
        }],
        waits: vec![Wait {
            mark: session.to_owned(),
            sessions: vec![waits_for.to_owned()],
        }],
        ..record(session, u64::from(nth) + 1, &[])
    };
    let says = |session: &str, counter: u64, nth: u8, parent: Option<u8>| Record {
        contents: vec![content(nth, parent)],
        ..record(session, counter, &[])
    };
    let mut all = vec![
        (name(1, "a"), says("a", 1, 1, None)),
        (name(2, "b"), mark("m1", 1, "a", "first")),
        (name(3, "c"), says("first", 3, 2, Some(1))),
    ];
    let seen = State::of(&journal(&all));
    let built_on = ContentId([2; 16]);
    assert!(seen.may_build_on(built_on), "the second session does");
    all.push((name(4, "d"), mark("m2", 2, "first", "second")));
    let open = BTreeSet::from(["second".to_owned()]);
    let sweeps = swept(&State::of(&journal(&all)), &open);
    assert_eq!(sweeps.len(), 1, "the first mark waits for nobody");
    let sweep = Record {
        sweeps,
        ..record("s", 5, &[])
    };
    all.push((name(5, "e"), sweep));
    all.push((name(6, "f"), says("second", 4, 3, Some(2))));
    let state = State::of(&journal(&all));
    assert!(leads_out(&state, ContentId([3; 16])));
}

/// A session, with the journal as it saw it when it began.
struct Open {
    name: String,
    seen: State,
}

/// A repository of contents and points alone: what sessions and collections put, as they would.
struct World {
    random: fastrand::Rng,
    records: Vec<(RecordName, Record)>,
    open: Vec<Open>,
    sessions: u64,
}

impl World {
    fn state(&self) -> State {
        State::of(&journal(&self.records))
    }

    fn put(&mut self, counter: u64, session: &str, said: Record) {
        let record = Record {
            version: 1,
            counter,
            session: session.to_owned(),
            ..said
        };
        self.records.push((
            name(counter, &format!("{session} {}", self.records.len())),
            record,
        ));
    }

    fn begin(&mut self) -> Open {
        self.sessions += 1;
        Open {
            name: format!("{:04}-{}", self.random.u16(..), self.sessions),
            seen: self.state(),
        }
    }

    /// Pushes contents that may not be built on as the session sees it, relative to those that may;
    /// and a point now and then.
    fn push(&mut self, open: &Open) {
        let (mut contents, mut points) = (Vec::<Stamped<Content>>::new(), Vec::new());
        let can_stand = |nth: &u8, said: &[Stamped<Content>]| {
            open.seen.may_build_on(ContentId([*nth; 16]))
                || said.iter().any(|content| content.value.id == id(*nth))
        };
        for _ in 0..self.random.u8(1..4) {
            let nth = self.random.u8(..CONTENTS);
            if !can_stand(&nth, &contents) {
                let parents: Vec<u8> = (0..CONTENTS)
                    .filter(|parent| can_stand(parent, &contents))
                    .collect();
                let parent = if self.random.u8(..3) == 0 {
                    None
                } else {
                    self.random.choice(parents)
                };
                contents.push(content(nth, parent));
            }
            let point: Point = Point {
                content: id(nth),
                ..point(&format!("{nth} {}", self.random.u8(..3)))
            };
            points.push(point.into());
        }
        self.put(
            open.seen.next_counter(),
            &open.name,
            Record {
                points,
                contents,
                ..Record::default()
            },
        );
    }

    fn forget(&mut self, open: &Open) {
        let points: Vec<String> = open.seen.points().map(|point| point.id.clone()).collect();
        if let Some(gone) = self.random.choice(points) {
            let forgotten = open.seen.point_as_said(&gone);
            self.put(
                open.seen.next_counter(),
                &open.name,
                Record {
                    forgotten,
                    ..Record::default()
                },
            );
        }
    }

    /// Condemns what no point needs, and notes who is open then.
    fn mark(&mut self, open: &Open) {
        let needed = Needed::by_points(&open.seen);
        let firm = open
            .seen
            .contents()
            .flat_map(|(_, entries)| entries)
            .filter(|entry| entry.condition == Condition::Firm);
        let contents: Vec<Said> = firm
            .map(ContentEntry::said)
            .filter(|said| !needed.entries.contains_key(said))
            .collect();
        if contents.is_empty() {
            return;
        }
        let mark = Mark {
            id: open.name.clone(),
            objects: Vec::new(),
            contents,
        };
        let wait = Wait {
            mark: open.name.clone(),
            sessions: self.open.iter().map(|open| open.name.clone()).collect(),
        };
        self.put(
            open.seen.next_counter(),
            &open.name,
            Record {
                marks: vec![mark],
                ..Record::default()
            },
        );
        self.put(
            open.seen.next_counter() + 1,
            &open.name,
            Record {
                waits: vec![wait],
                ..Record::default()
            },
        );
    }

    /// Takes away what marks condemned that nobody waits for and nothing needs.
    fn sweep(&mut self, open: &Open) {
        let here: BTreeSet<String> = self.open.iter().map(|open| open.name.clone()).collect();
        let sweeps = swept(&open.seen, &here);
        if !sweeps.is_empty() {
            self.put(
                open.seen.next_counter(),
                &open.name,
                Record {
                    sweeps,
                    ..Record::default()
                },
            );
        }
    }

    fn step(&mut self) {
        match self.random.u8(..10) {
            0..4 => {
                let open = self.begin();
                self.open.push(open);
            }
            4..7 if !self.open.is_empty() => {
                let nth = self.random.usize(..self.open.len());
                let open = self.open.swap_remove(nth);
                self.push(&open);
            }
            7 => self.at_once(Self::forget),
            8 => self.at_once(Self::mark),
            9 => self.at_once(Self::sweep),
            _ => {}
        }
    }

    fn at_once(&mut self, act: impl Fn(&mut Self, &Open)) {
        let open = self.begin();
        act(self, &open);
    }
}

#[test]
fn whatever_sessions_say_crosswise_and_collections_take_every_point_can_be_read() {
    let seed = seed();
    let (mut swept, mut crosswise) = (0, 0);
    for round in 0..400 {
        let random = fastrand::Rng::with_seed(seed.wrapping_add(round));
        let mut world = World {
            random,
            records: Vec::new(),
            open: Vec::new(),
            sessions: 0,
        };
        for _ in 0..80 {
            world.step();
            let state = world.state();
            let lost = state
                .points()
                .filter_map(|point| ContentId::parse(&point.content))
                .find(|content| !leads_out(&state, *content));
            assert_eq!(
                lost, None,
                "seed {seed}, round {round}: {:#?}",
                world.records
            );
            assert!(
                Needed::by_all_that_is_firm(&state).missing.is_empty(),
                "seed {seed}, round {round}"
            );
        }
        swept += world
            .records
            .iter()
            .flat_map(|(_, record)| &record.sweeps)
            .map(|sweep| sweep.contents.len())
            .sum::<usize>();
        let state = world.state();
        crosswise += state
            .contents()
            .filter(|(_, entries)| entries.len() > 1 && entries[0].stamp < entries[1].stamp)
            .count();
    }
    assert!(
        swept > 0 && crosswise > 0,
        "{swept} entries swept, {crosswise} contents read by another entry than the newest"
    );
}
