//! The protocol of sessions and collections as a model that is searched exhaustively: every order
//! of every request of a few sessions, some of which die, or whose last request arrives late.
//!
//! The state of the repository is the real one: every session reads the records that are there with
//! [`State::of`](super::State::of), decides with the functions that the program decides with, and
//! puts real [`Record`](crate::record::Record)s. The model is of the requests between: each is one
//! step ([`requests`]).
//!
//! What is claimed of every state that can be reached:
//!
//! - a point whose push was told of, and that nobody forgot, is there, and all that it needs (it
//!   may be undecided, where somebody announced a fence and has not decided it);
//! - all that is needed by any point that the journal shows is there;
//! - what collections leave at the end, once all sessions that are open were fenced, is what points
//!   need, and nothing else; what was told of is decided, and counts.
//!
//! **Size.** A state is some numbers: listings of the journal are kept once ([`archive`]), and a
//! session that is over, or has no use any more for what it saw, remembers nothing, so that states
//! from which the same follows are one. Sessions are not exchanged for each other (stateright's
//! symmetry): of two statements about one thing the journal prefers that of the session with the
//! greater name, so states that differ in names alone may go on differently.

mod archive;
mod names;
mod requests;

use std::hash::{Hash, Hasher};
use std::thread::available_parallelism;
use std::time::Instant;

use stateright::{Checker, Model, Property};

use archive::{Archive, ListingNumber, Memo, RecordNumber};
use requests::{Decisions, FIRST_OBJECTS, Request, first_journal};

/// Sessions of one search, at most.
const ACTORS_MAX: usize = 4;

/// A push: the content that its point shows, and the content below it.
#[derive(Clone, Copy, Debug)]
struct PushPlan {
    content: u8,
    parent: Option<u8>,
    /// An object of somebody else that the content needs, too, if it may be relied on.
    shared: Option<u8>,
}

/// The work of an actor.
#[derive(Clone, Copy, Debug)]
enum Job {
    Push(PushPlan),
    /// Forgets the point of this content.
    Forget(u8),
    /// A collection.
    Collect {
        /// It fences whoever is open.
        fences: bool,
        /// Its mark's record is too long for one object.
        parts: bool,
    },
}

/// The way in which an actor is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Life {
    #[default]
    Works,
    /// It told that all went well.
    Done,
    /// It told that the change did not happen.
    Refused,
    /// Killed.
    Dead,
    /// Killed while a put was under way, which may still arrive.
    Late,
}

/// One session: the next request, and what it still has to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Actor {
    life: Life,
    step: u8,
    /// The parts of its mark's record that were put.
    part: u8,
    /// Sessions that its last listing showed.
    open: u16,
    /// Sessions that it fences.
    fenced: u16,
    /// Objects that its last listing showed.
    listed: u16,
    /// The journal as it read it last.
    seen: ListingNumber,
    /// The journal by which it marked.
    marked: ListingNumber,
    /// The record that it put, until it knows whether that counts.
    put: RecordNumber,
}

impl Hash for Actor {
    /// In three words: hashing is a great part of a search.
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let small = u64::from(self.life as u8) | u64::from(self.step) << 8;
        let sets = u64::from(self.open) << 24 | u64::from(self.fenced) << 40;
        hasher.write_u64(small | u64::from(self.part) << 16 | sets);
        hasher.write_u64(u64::from(self.seen.0) | u64::from(self.marked.0) << 32);
        hasher.write_u64(u64::from(self.put.0) | u64::from(self.listed) << 32);
    }
}

/// The repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place {
    journal: ListingNumber,
    /// Objects that are there.
    objects: u16,
    /// Sessions that are announced.
    sessions: u16,
}

/// The repository, and who works on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    place: Place,
    deaths_left: u8,
    actors: [Actor; ACTORS_MAX],
}

/// The actors' jobs, how many may die, and what was found out about listings.
struct Protocol {
    jobs: Vec<Job>,
    deaths: u8,
    archive: Archive,
    decisions: Decisions,
    ends: Memo<(Place, u16), bool>,
}

/// A step of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Act {
    /// The actor's next request is done.
    Request(u8),
    Dies(u8),
    /// It dies while its put is under way.
    DiesLate(u8),
    /// A put of a dead actor arrives.
    Arrives(u8),
}

impl Protocol {
    fn new(jobs: &[Job], deaths: u8) -> Self {
        Self {
            jobs: jobs.to_vec(),
            deaths,
            archive: Archive::new(),
            decisions: Decisions::default(),
            ends: Memo::default(),
        }
    }

    fn working(&self, world: &World) -> impl Iterator<Item = (u8, Actor)> {
        (0..).zip(world.actors).take(self.jobs.len())
    }

    fn request(&self, world: &mut World, nth: u8) {
        let mut request = Request {
            archive: &self.archive,
            decisions: &self.decisions,
            jobs: &self.jobs,
            place: &mut world.place,
            me: nth,
            actor: &mut world.actors[usize::from(nth)],
        };
        request.make(self.jobs[usize::from(nth)]);
    }

    /// True if the actor's next request puts a record.
    fn puts_record(&self, nth: u8, step: u8) -> bool {
        match self.jobs[usize::from(nth)] {
            Job::Push(_) => step == 3,
            Job::Forget(_) => step == 2,
            Job::Collect { .. } => matches!(step, 3 | 5 | 10 | 14 | 18 | 22),
        }
    }

    /// The contents whose points must be there: pushed, and told of, or there from the first; and
    /// nobody forgets them.
    fn promised(&self, world: &World) -> u16 {
        let told = self.jobs.iter().zip(&world.actors);
        let all = told.fold(1, |all, (job, actor)| match job {
            Job::Push(plan) if actor.life == Life::Done => all | 1 << plan.content,
            _ => all,
        });
        self.jobs.iter().fold(all, |all, job| match job {
            Job::Forget(nth) => all & !(1 << nth),
            _ => all,
        })
    }

    fn keeps(&self, place: Place, promised: u16) -> bool {
        let shown = self.archive.read(place.journal);
        let is_whole = shown.needs.is_some_and(|needs| needs & !place.objects == 0);
        is_whole && promised & !shown.points == 0
    }

    /// True if nobody works any more, and collections that fence all then leave what points need
    /// and nothing else; true where somebody works.
    fn ends_clean(&self, world: &World) -> bool {
        let mut actors = self.working(world);
        if actors.any(|(_, actor)| matches!(actor.life, Life::Works)) {
            return true;
        }
        let promised = self.promised(world);
        self.ends.get_or((world.place, promised), || {
            let place = self.collected(world.place);
            let needed = self.archive.read(place.journal).needs;
            let is_firm = promised & !self.archive.read(place.journal).firm_points == 0;
            needed == Some(place.objects) && place.sessions == 0 && is_firm
        })
    }

    /// The repository after three collections, one after the other.
    fn collected(&self, mut place: Place) -> Place {
        let collects = Job::Collect {
            fences: true,
            parts: false,
        };
        let jobs = [&self.jobs[..], &[collects; 3]].concat();
        for me in self.jobs.len()..jobs.len() {
            let mut actor = Actor::default();
            while actor.life == Life::Works {
                let mut request = Request {
                    archive: &self.archive,
                    decisions: &self.decisions,
                    jobs: &jobs,
                    place: &mut place,
                    me: me as u8,
                    actor: &mut actor,
                };
                request.make(collects);
            }
        }
        place
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            place: Place {
                journal: first_journal(&self.archive),
                objects: FIRST_OBJECTS,
                sessions: 0,
            },
            deaths_left: self.deaths,
            actors: [Actor::default(); ACTORS_MAX],
        }]
    }

    fn actions(&self, world: &World, acts: &mut Vec<Act>) {
        for (nth, actor) in self.working(world) {
            match actor.life {
                Life::Works => {
                    acts.push(Act::Request(nth));
                    if world.deaths_left > 0 && actor.step > 0 {
                        acts.push(Act::Dies(nth));
                        if self.puts_record(nth, actor.step) {
                            acts.push(Act::DiesLate(nth));
                        }
                    }
                }
                Life::Late => acts.push(Act::Arrives(nth)),
                Life::Done | Life::Refused | Life::Dead => {}
            }
        }
    }

    fn next_state(&self, last: &World, act: Act) -> Option<World> {
        let mut world = last.clone();
        let dead = Actor {
            life: Life::Dead,
            ..Actor::default()
        };
        match act {
            Act::Request(nth) => self.request(&mut world, nth),
            Act::Dies(nth) => {
                world.deaths_left -= 1;
                world.actors[usize::from(nth)] = dead;
            }
            Act::DiesLate(nth) => {
                world.deaths_left -= 1;
                world.actors[usize::from(nth)].life = Life::Late;
            }
            Act::Arrives(nth) => {
                self.request(&mut world, nth);
                // Nobody is there to withdraw the announcement.
                world.place.sessions = last.place.sessions;
                world.actors[usize::from(nth)] = dead;
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "what was pushed is there",
                |protocol: &Self, world: &World| {
                    protocol.keeps(world.place, protocol.promised(world))
                },
            ),
            Property::always(
                "what is dead goes in the end",
                |protocol: &Self, world: &World| protocol.ends_clean(world),
            ),
            Property::sometimes("a collection takes something", |_, world: &World| {
                FIRST_OBJECTS & !world.place.objects != 0
            }),
            Property::sometimes("everybody is done", |protocol: &Self, world: &World| {
                let mut actors = protocol.working(world);
                actors.all(|(_, actor)| actor.life == Life::Done)
            }),
        ]
    }
}

const AGAIN: Job = Job::Push(PushPlan {
    content: 1,
    parent: None,
    shared: None,
});
const ABOVE: Job = Job::Push(PushPlan {
    content: 3,
    parent: Some(1),
    shared: None,
});
/// On what [`ABOVE`] pushes.
const ON_TOP: Job = Job::Push(PushPlan {
    content: 5,
    parent: Some(3),
    shared: None,
});
const BESIDE: Job = Job::Push(PushPlan {
    content: 4,
    parent: None,
    shared: Some(1),
});
const COLLECT: Job = Job::Collect {
    fences: false,
    parts: false,
};
const FENCE: Job = Job::Collect {
    fences: true,
    parts: false,
};
const IN_PARTS: Job = Job::Collect {
    fences: false,
    parts: true,
};

/// Searches all states; the number of those that differ.
fn search(jobs: &[Job], deaths: u8) -> usize {
    let begun = Instant::now();
    let checker = Protocol::new(jobs, deaths).checker().threads(threads());
    let checker = checker.spawn_bfs().join();
    checker.assert_properties();
    let count = checker.unique_state_count();
    let (records, listings) = checker.model().archive.counts();
    let (depth, time) = (checker.max_depth(), begun.elapsed());
    println!(
        "{jobs:?}, {deaths} deaths: {count} states, {depth} steps deep; {records} records, \
         {listings} listings; {time:.1?}"
    );
    count
}

#[test]
fn no_order_of_requests_loses_a_point_or_leaves_what_is_dead() {
    for push in [AGAIN, ABOVE, BESIDE] {
        search(&[push, COLLECT], 1);
        search(&[push, FENCE], 1);
    }
    search(&[ABOVE, IN_PARTS], 1);
    search(&[ABOVE, ON_TOP, FENCE], 0);
    search(&[AGAIN, ABOVE, COLLECT], 1);
}

/// The states of the greatest search that must be seen.
const STATES_MIN: usize = 10_000_000;

/// Much longer: `cargo test --release --workspace --lib -- --ignored protocol_tests --nocapture`.
/// The last one has two collections, each of which fences, marks and sweeps, a push that relies on
/// what they condemn, and a death at any request, or a put that arrives late.
#[test]
#[ignore = "minutes"]
fn no_order_of_the_requests_of_three_sessions_loses_anything() {
    search(&[ABOVE, BESIDE, COLLECT], 1);
    search(&[AGAIN, Job::Forget(1), COLLECT], 1);
    search(&[AGAIN, FENCE, COLLECT], 1);
    assert!(search(&[BESIDE, FENCE, FENCE], 1) >= STATES_MIN);
}

/// As many states as memory has room for, of whole runs, of four sessions.
#[test]
#[ignore = "minutes"]
fn no_run_of_four_sessions_loses_anything_as_far_as_was_looked() {
    let protocol = Protocol::new(&[ABOVE, ON_TOP, FENCE, IN_PARTS], 1);
    let begun = Instant::now();
    let checker = protocol.checker().threads(threads());
    let checker = checker
        .target_state_count(2 * STATES_MIN)
        .spawn_dfs()
        .join();
    for property in ["what was pushed is there", "what is dead goes in the end"] {
        checker.assert_no_discovery(property);
    }
    let (count, time) = (checker.unique_state_count(), begun.elapsed());
    println!("four sessions: {count} states in {time:.1?}");
}

fn threads() -> usize {
    available_parallelism().map_or(1, usize::from)
}
