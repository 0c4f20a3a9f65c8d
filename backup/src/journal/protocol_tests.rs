//! The protocol of sessions and collections as a model that is searched exhaustively: every order
//! of every request of a few sessions, some of which die, or whose last request arrives late.
//!
//! The state of the repository is the real one: every session reads the records that are there with
//! [`State::of`], decides with the functions that the program decides with, and puts real
//! [`Record`]s. The model is of the requests between: each is one step.
//!
//! What is claimed of every state that can be reached:
//!
//! - a point whose push was told of, and that nobody forgot, is there, and all that it needs;
//! - the same holds of every point that the journal shows;
//! - what two collections leave at the end, once all sessions that are open were fenced, is what
//!   points need, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use stateright::{Checker, Model, Property};
use vellum_core::identity::ContentId;

use super::tests::point;
use super::{Condition, ContentEntry, Journal, MarkState, RecordName, State, Status};
use crate::objects::{ObjectId, ObjectName};
use crate::prune::reach::Needed;
use crate::record::{
    Content, Fence, MapPart, Mark, Point, RECORD_VERSION, Record, Said, Sweep, Wait,
};

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
    /// A collection; true if it fences whoever is open.
    Collect(bool),
}

/// The way in which an actor is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Life {
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

/// One session: the next request, and what it read last.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Actor {
    step: u8,
    life: Life,
    /// Records, by slot, that its last listing of the journal showed.
    seen: u64,
    /// Sessions that its last listing showed.
    open: u16,
    /// Objects that its last listing showed.
    listed: u16,
    /// Sessions that it fences.
    fenced: u16,
}

impl Actor {
    fn new() -> Self {
        Self {
            step: 0,
            life: Life::Works,
            seen: 0,
            open: 0,
            listed: 0,
            fenced: 0,
        }
    }
}

/// A record that was put.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Put {
    name: RecordName,
    record: Arc<Record>,
}

impl Hash for Put {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        // An id is the hash of the record's bytes.
        self.name.hash(hasher);
    }
}

/// A repository, and who works on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    /// Records by slot: the actor that put it, and its how manieth.
    records: BTreeMap<u8, Put>,
    /// Slots of records that were deleted.
    deleted: u64,
    /// Objects that are there.
    objects: u16,
    /// Sessions that are announced.
    sessions: u16,
    actors: Vec<Actor>,
    deaths_left: u8,
}

/// Slots for one actor's records.
const SLOTS: u8 = 8;

/// The actors' jobs, and how many may die.
struct Protocol {
    jobs: Vec<Job>,
    deaths: u8,
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

fn content_id(nth: u8) -> String {
    ContentId([nth; 16]).to_string()
}

fn object(nth: u8) -> ObjectName {
    ObjectName::Maps(ObjectId([nth; 32]))
}

/// The number of one of the model's objects.
fn number_of(name: &ObjectName) -> u8 {
    name.id().expect("maps have ids").0[0]
}

fn numbers_of(names: &BTreeSet<ObjectName>) -> u16 {
    names.iter().fold(0, |all, name| all | bit(number_of(name)))
}

fn session(actor: u8) -> String {
    format!("session {actor}")
}

fn bit(nth: u8) -> u16 {
    1 << nth
}

/// A content of some objects.
fn content(nth: u8, parent: Option<u8>, objects: &[u8]) -> Content {
    let part = |nth: &u8| MapPart {
        pages: (u64::from(*nth), u64::from(*nth)),
        object: object(*nth).to_string(),
        range: (0, 1),
    };
    Content {
        id: content_id(nth),
        parent: parent.map(content_id),
        len: 4096,
        parent_visible: 1,
        chunk_len: 4096,
        parts: objects.iter().map(part).collect(),
    }
}

fn point_of(nth: u8) -> Point {
    Point {
        content: content_id(nth),
        ..point(&format!("point {nth}"))
    }
}

/// The first objects: of the contents 0, which a point shows, and 1, which nothing needs any more.
const FIRST_OBJECTS: u16 = 0b11;
/// The session that made them.
const FIRST_SESSION: &str = "first";

impl World {
    fn new(protocol: &Protocol) -> Self {
        let mut world = Self {
            records: BTreeMap::new(),
            deleted: 0,
            objects: FIRST_OBJECTS,
            sessions: 0,
            actors: protocol.jobs.iter().map(|_| Actor::new()).collect(),
            deaths_left: protocol.deaths,
        };
        let record = Record {
            version: RECORD_VERSION,
            counter: 1,
            session: FIRST_SESSION.to_owned(),
            points: vec![point_of(0).into()],
            contents: vec![content(0, None, &[0]).into(), content(1, None, &[1]).into()],
            ..Record::default()
        };
        world.add(0, record);
        world
    }

    fn add(&mut self, slot: u8, record: Record) {
        let bytes = serde_json::to_vec(&record).expect("texts and numbers are JSON");
        let name = RecordName {
            counter: record.counter,
            id: ObjectId::of(&bytes),
        };
        let record = Arc::new(record);
        self.records.insert(slot, Put { name, record });
    }

    /// The records that are there, by slot.
    fn present(&self) -> u64 {
        let slots = self.records.keys();
        slots.fold(0, |all, slot| all | 1 << slot) & !self.deleted
    }

    fn journal(&self, slots: u64) -> Journal {
        let mut journal = Journal::default();
        for (slot, put) in &self.records {
            if slots & 1 << slot != 0 {
                journal.add(put.name, put.record.clone());
            }
        }
        journal
    }

    fn state(&self, slots: u64) -> State {
        State::of(&self.journal(slots))
    }

    fn seen(&self, actor: u8) -> State {
        self.state(self.actors[usize::from(actor)].seen)
    }

    fn actor(&mut self, actor: u8) -> &mut Actor {
        &mut self.actors[usize::from(actor)]
    }

    /// Puts the record of a session that saw what it saw.
    fn put(&mut self, actor: u8, said: Record) {
        let seen = self.seen(actor);
        let record = Record {
            version: RECORD_VERSION,
            counter: seen.next_counter(),
            parents: seen.heads().iter().map(ToString::to_string).collect(),
            session: session(actor),
            ..said
        };
        let first = 1 + actor * SLOTS;
        let free = (first..first + SLOTS).find(|slot| !self.records.contains_key(slot));
        self.add(free.expect("a session puts few records"), record);
    }

    fn read_journal(&mut self, actor: u8) {
        self.actor(actor).seen = self.present();
    }

    /// True if the session is fenced as it reads the journal now, and what it put last does not
    /// count: `Session::commit` and `refuse_fenced` see the same.
    fn is_fenced(&mut self, actor: u8, after_put: bool) -> bool {
        self.read_journal(actor);
        let state = self.seen(actor);
        if !after_put {
            return state.is_fenced(&session(actor));
        }
        let first = 1 + actor * SLOTS;
        let mut own = (first..first + SLOTS).rev();
        let last = own.find_map(|slot| self.records.get(&slot));
        let last = last.expect("it was put").name;
        let is_undecided = state.undecided().any(|other| other == session(actor));
        let counts = state.status(&last) == Some(Status::Counts) && !is_undecided;
        !counts && !self.journal(self.present()).is_replaced(&last)
    }

    fn end(&mut self, actor: u8, life: Life) {
        self.sessions &= !bit(actor);
        self.actor(actor).life = life;
    }

    /// The objects that `state` needs, if all contents lead out.
    fn needs(state: &State) -> Option<u16> {
        let needed = Needed::by_points(state);
        needed
            .missing
            .is_empty()
            .then(|| numbers_of(&needed.maps()))
    }
}

/// What a push does with the next request. Steps: announce, read, put its objects, put the record,
/// read again, end.
fn push(world: &mut World, me: u8, plan: PushPlan) {
    let step = world.actor(me).step;
    match step {
        0 => world.sessions |= bit(me),
        1 => world.read_journal(me),
        2 => world.objects |= new_objects(&world.seen(me), me, plan),
        3 => {
            let record = pushed(&world.seen(me), me, plan);
            world.put(me, record);
        }
        4 if world.is_fenced(me, true) => return world.end(me, Life::Refused),
        4 => {}
        _ => return world.end(me, Life::Done),
    }
    world.actor(me).step += 1;
}

/// The object that a push makes for its content: its own, unless the content is there.
fn new_objects(seen: &State, me: u8, plan: PushPlan) -> u16 {
    let id = ContentId([plan.content; 16]);
    if seen.may_build_on(id) {
        0
    } else {
        bit(me + 2)
    }
}

fn pushed(seen: &State, me: u8, plan: PushPlan) -> Record {
    let may_build_on = |nth: &u8| seen.may_build_on(ContentId([*nth; 16]));
    let mut record = Record {
        points: vec![point_of(plan.content).into()],
        ..Record::default()
    };
    if !may_build_on(&plan.content) {
        // An object of another content, where chunks are that this one needs, too.
        let is_named = |name: &ObjectName| {
            let entries = seen.contents().flat_map(|(_, entries)| entries);
            let mut firm = entries.filter(|entry| entry.condition == Condition::Firm);
            firm.any(|entry| {
                let mut parts = entry.content.parts.iter();
                parts.any(|part| part.object == name.to_string())
            })
        };
        let may_rely = |nth: &u8| {
            let name = object(*nth);
            is_named(&name) && !seen.is_condemned(&name)
        };
        let shared = plan.shared.filter(may_rely);
        let objects: Vec<u8> = shared.into_iter().chain([me + 2]).collect();
        let parent = plan.parent.filter(may_build_on);
        record.contents = vec![content(plan.content, parent, &objects).into()];
    }
    record
}

/// Steps: announce, read, put the record, read again, end.
fn forget(world: &mut World, me: u8, nth: u8) {
    let step = world.actor(me).step;
    match step {
        0 => world.sessions |= bit(me),
        1 => world.read_journal(me),
        2 => {
            let forgotten = world.seen(me).point_as_said(&point_of(nth).id);
            if forgotten.is_empty() {
                return world.end(me, Life::Done);
            }
            let record = Record {
                forgotten,
                ..Record::default()
            };
            world.put(me, record);
        }
        3 if world.is_fenced(me, true) => return world.end(me, Life::Refused),
        3 => {}
        _ => return world.end(me, Life::Done),
    }
    world.actor(me).step += 1;
}

/// The last step of a collection.
const COLLECTED: u8 = 26;

/// A collection's next request, in the order of `prune`.
fn collect(world: &mut World, me: u8, jobs: &[Job], fences: bool) {
    let step = world.actor(me).step;
    let next = match step {
        0 => {
            world.sessions |= bit(me);
            1
        }
        1 => {
            world.read_journal(me);
            2
        }
        2 => {
            if meets_another(world, me, jobs, fences) {
                return world.end(me, Life::Refused);
            }
            if to_fence(world, me).is_empty() { 8 } else { 3 }
        }
        3 | 5 | 10 | 18 | 22 => {
            let record = record_of_step(world, me, step);
            world.put(me, record);
            step + 1
        }
        4 | 6 | 11 | 15 | 19 | 23 if world.is_fenced(me, true) => {
            return world.end(me, Life::Refused);
        }
        4 | 6 | 11 | 15 | 19 | 23 => step + 1,
        7 => {
            world.sessions &= !world.actor(me).fenced;
            8
        }
        8 | 20 => {
            if step == 8 && world.seen(me).undecided().next().is_some() {
                return world.end(me, Life::Refused);
            }
            list_sessions(world, me);
            step + 1
        }
        9 | 21 if world.is_fenced(me, false) => return world.end(me, Life::Refused),
        9 | 21 if sweeps_of(world, me).is_empty() => step + 4,
        9 | 21 => step + 1,
        12 | 24 => {
            world.objects &= !numbers_of(world.seen(me).swept());
            step + 1
        }
        13 => {
            // What a collection swept that died before it deleted it.
            world.objects &= !numbers_of(world.seen(me).swept());
            world.actor(me).listed = world.objects;
            14
        }
        14 => match marked(world, me) {
            None => COLLECTED - 1,
            Some(record) => {
                world.put(me, record);
                15
            }
        },
        16 => {
            delete_replaced(world, me);
            17
        }
        17 => {
            list_sessions(world, me);
            if world.actor(me).open == 0 { 20 } else { 18 }
        }
        _ => return world.end(me, Life::Done),
    };
    world.actor(me).step = next;
}

/// Lists the sessions, and chooses those to fence; true if another collection is open that is not
/// one of them.
fn meets_another(world: &mut World, me: u8, jobs: &[Job], fences: bool) -> bool {
    list_sessions(world, me);
    let open = world.actor(me).open;
    let chosen = if fences { open } else { 0 };
    world.actor(me).fenced = chosen;
    let collects = |nth: u8| matches!(jobs[usize::from(nth)], Job::Collect(_));
    let mut others = (0..jobs.len() as u8).filter(|nth| open & !chosen & bit(*nth) != 0);
    others.any(collects)
}

/// The record that a collection puts in a step, but for its mark.
fn record_of_step(world: &World, me: u8, step: u8) -> Record {
    match step {
        3 | 5 => fencing(world, me, step == 5),
        18 => waiting(world, me),
        _ => sweeping(world, me),
    }
}

fn fencing(world: &World, me: u8, decided: bool) -> Record {
    Record {
        fenced: fences_of(world, me, decided),
        ..Record::default()
    }
}

fn sweeping(world: &World, me: u8) -> Record {
    Record {
        sweeps: sweeps_of(world, me),
        ..Record::default()
    }
}

fn list_sessions(world: &mut World, me: u8) {
    world.actor(me).open = world.sessions & !bit(me);
}

/// The sessions to fence: those that are open, and those whose fence another left undecided.
fn to_fence(world: &World, me: u8) -> Vec<String> {
    let fenced = world.actors[usize::from(me)].fenced;
    let open = (0..16).filter(|nth| fenced & bit(*nth) != 0).map(session);
    let left = world.seen(me);
    let mut all: Vec<String> = open.chain(left.undecided().map(str::to_owned)).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn fences_of(world: &World, me: u8, decided: bool) -> Vec<Fence> {
    let journal = world.journal(world.actors[usize::from(me)].seen);
    let counted = |session: &String| {
        let own = journal
            .iter()
            .filter(|(_, record)| record.session == *session);
        own.map(|(name, _)| name.to_string()).collect()
    };
    let sessions = to_fence(world, me).into_iter();
    sessions
        .map(|session| Fence {
            counted: counted(&session),
            session,
            decided,
        })
        .collect()
}

/// The sweeps of marks that everybody has seen, by the last listing of sessions.
fn sweeps_of(world: &World, me: u8) -> Vec<Sweep> {
    let state = world.seen(me);
    let open = world.actors[usize::from(me)].open;
    let open: BTreeSet<String> = (0..16)
        .filter(|nth| open & bit(*nth) != 0)
        .map(session)
        .collect();
    let needed = Needed::by_all_that_is_firm(&state);
    let maps = needed.maps();
    let sweep = |(id, mark): (&String, &MarkState)| Sweep {
        mark: id.clone(),
        objects: {
            let goes = mark.objects.iter().filter(|object| !maps.contains(object));
            goes.map(ToString::to_string).collect()
        },
        contents: {
            let goes = mark.contents.iter();
            let goes = goes.filter(|said| !needed.entries.contains_key(said));
            goes.cloned().collect()
        },
    };
    let ready = state.marks().iter().filter(|(_, mark)| mark.is_seen(&open));
    ready.map(sweep).collect()
}

/// The record that condemns what nothing needs; none if that is nothing.
fn marked(world: &World, me: u8) -> Option<Record> {
    let actor = &world.actors[usize::from(me)];
    let (state, journal) = (world.seen(me), world.journal(actor.seen));
    let needed = Needed::by_points(&state);
    let used = needed.maps();
    let listed = (0..16)
        .filter(|nth| actor.listed & bit(*nth) != 0)
        .map(object);
    let objects: Vec<String> = listed
        .filter(|object| !used.contains(object) && !state.is_condemned(object))
        .map(|object| object.to_string())
        .collect();
    let entries = state.contents().flat_map(|(_, entries)| entries);
    let contents: Vec<Said> = entries
        .filter(|entry| entry.condition == Condition::Firm)
        .map(ContentEntry::said)
        .filter(|said| !needed.entries.contains_key(said))
        .collect();
    if objects.is_empty() && contents.is_empty() {
        return None;
    }
    let is_there = |name: &ObjectName| actor.listed & bit(number_of(name)) != 0;
    let mut record = state.whole(&is_there);
    record.past = journal.past(state.void());
    record.marks.push(Mark {
        id: session(me),
        objects,
        contents,
    });
    Some(record)
}

/// Deletes the records that the mark's record replaces: all that its session had seen before.
fn delete_replaced(world: &mut World, me: u8) {
    let seen = world.actors[usize::from(me)].seen;
    let own = world.records.iter().rev();
    let own = own.filter(|(_, put)| put.record.session == session(me));
    let replacing = own.map(|(_, put)| put.record.clone()).next();
    let replaced: Vec<RecordName> = replacing
        .iter()
        .flat_map(|record| &record.replaces)
        .filter_map(|text| RecordName::parse(text))
        .collect();
    let gone = world
        .records
        .iter()
        .filter(|(slot, put)| seen & 1 << **slot != 0 && replaced.contains(&put.name));
    world.deleted |= gone.fold(0, |all, (slot, _)| all | 1 << slot);
}

/// The sessions that were open after the mark could be seen.
fn waiting(world: &World, me: u8) -> Record {
    let state = world.seen(me);
    let open = world.actors[usize::from(me)].open;
    let sessions: Vec<String> = (0..16)
        .filter(|nth| open & bit(*nth) != 0)
        .map(session)
        .collect();
    let marks = state
        .marks()
        .iter()
        .filter(|(_, mark)| mark.waits.is_empty());
    let wait = |(id, _): (&String, &MarkState)| Wait {
        mark: id.clone(),
        sessions: sessions.clone(),
    };
    Record {
        waits: marks.map(wait).collect(),
        ..Record::default()
    }
}

impl Protocol {
    fn request(&self, world: &mut World, actor: u8) {
        match self.jobs[usize::from(actor)] {
            Job::Push(plan) => push(world, actor, plan),
            Job::Forget(nth) => forget(world, actor, nth),
            Job::Collect(fences) => collect(world, actor, &self.jobs, fences),
        }
    }

    /// True if the actor's next request puts a record.
    fn puts_record(&self, actor: u8, step: u8) -> bool {
        match self.jobs[usize::from(actor)] {
            Job::Push(_) => step == 3,
            Job::Forget(_) => step == 2,
            Job::Collect(_) => matches!(step, 3 | 5 | 10 | 14 | 18 | 22),
        }
    }

    /// The contents whose points must be there: pushed, and told of, or there from the first; and
    /// nobody forgets them.
    fn promised(&self, world: &World) -> Vec<u8> {
        let forgotten = self.jobs.iter().filter_map(|job| match job {
            Job::Forget(nth) => Some(*nth),
            _ => None,
        });
        let forgotten: Vec<u8> = forgotten.collect();
        let told = self.jobs.iter().zip(&world.actors);
        let told = told.filter_map(|(job, actor)| match job {
            Job::Push(plan) if actor.life == Life::Done => Some(plan.content),
            _ => None,
        });
        let all = told.chain([0]);
        all.filter(|nth| !forgotten.contains(nth)).collect()
    }

    fn keeps_promises(&self, world: &World) -> bool {
        let state = world.state(world.present());
        let is_there = |nth: u8| state.has_firm_point(&point_of(nth).id);
        let needed = World::needs(&state);
        self.promised(world).into_iter().all(is_there)
            && needed.is_some_and(|needed| needed & !world.objects == 0)
    }

    /// True if nobody works any more, and two collections that fence all then leave what points
    /// need and nothing else; true where somebody works.
    fn ends_clean(&self, world: &World) -> bool {
        if world.actors.iter().any(|actor| actor.life == Life::Works) {
            return true;
        }
        let mut jobs = self.jobs.clone();
        let mut world = world.clone();
        for _ in 0..3 {
            let me = jobs.len() as u8;
            jobs.push(Job::Collect(true));
            world.actors.push(Actor::new());
            while world.actor(me).life == Life::Works {
                collect(&mut world, me, &jobs, true);
            }
        }
        let state = world.state(world.present());
        let needed = World::needs(&state);
        needed == Some(world.objects) && world.sessions == 0 && self.keeps_promises(&world)
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, acts: &mut Vec<Act>) {
        for (nth, actor) in world.actors.iter().enumerate() {
            let nth = nth as u8;
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
        match act {
            Act::Request(nth) => self.request(&mut world, nth),
            Act::Dies(nth) | Act::DiesLate(nth) => {
                world.deaths_left -= 1;
                world.actor(nth).life = if act == Act::Dies(nth) {
                    Life::Dead
                } else {
                    Life::Late
                };
            }
            Act::Arrives(nth) => {
                self.request(&mut world, nth);
                world.actor(nth).life = Life::Dead;
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("what was pushed is there", |protocol: &Self, world| {
                protocol.keeps_promises(world)
            }),
            Property::always("what is dead goes in the end", |protocol: &Self, world| {
                protocol.ends_clean(world)
            }),
            Property::sometimes("a collection takes something", |_, world: &World| {
                FIRST_OBJECTS & !world.objects != 0
            }),
            Property::sometimes("everybody is done", |_, world: &World| {
                world.actors.iter().all(|actor| actor.life == Life::Done)
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
const BESIDE: Job = Job::Push(PushPlan {
    content: 4,
    parent: None,
    shared: Some(1),
});

/// Searches all states.
fn search(jobs: &[Job], deaths: u8) {
    let protocol = Protocol {
        jobs: jobs.to_vec(),
        deaths,
    };
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    let count = checker.unique_state_count();
    println!("{jobs:?}, {deaths} deaths: {count} states");
}

#[test]
fn no_order_of_requests_loses_a_point_or_leaves_what_is_dead() {
    let collects = Job::Collect(false);
    search(&[AGAIN, collects], 1);
    search(&[ABOVE, collects], 1);
    search(&[BESIDE, collects], 1);
}

/// Much longer: `cargo test --release --workspace --lib -- --ignored protocol_tests`. The first search
/// alone is of 529,445 states.
#[test]
#[ignore = "minutes to hours"]
fn no_order_of_the_requests_of_three_sessions_loses_anything() {
    let (collects, fences) = (Job::Collect(false), Job::Collect(true));
    search(&[AGAIN, ABOVE, collects], 1);
    search(&[ABOVE, BESIDE, collects], 1);
    search(&[AGAIN, Job::Forget(1), collects], 1);
    search(&[AGAIN, fences, collects], 1);
    search(&[BESIDE, fences, fences], 1);
}
