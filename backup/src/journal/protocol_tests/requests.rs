//! The requests of push, forget and prune, one after the other, as the model's sessions make them.
//! They decide with the functions that the program decides with.

use std::collections::BTreeSet;

use vellum_core::identity::ContentId;

use super::archive::{Archive, Listing, ListingNumber, Memo, NO_RECORD, RecordNumber, UNREAD};
use super::names::{bit, bits, content_id, number_of, object, point_of, session, sessions};
use super::{Actor, Job, Life, Place, PushPlan};
use crate::journal::{Condition, ContentEntry, State};
use crate::objects::ObjectName;
use crate::prune::reach::Needed;
use crate::record::parts::PART_LEN;
use crate::record::{Content, MapPart, Mark, RECORD_VERSION, Record, Said, Sweep};

/// The first objects: of the contents 0, which a point shows, and 1, which nothing needs any more.
pub(super) const FIRST_OBJECTS: u16 = 0b11;
/// The session that made them.
const FIRST_SESSION: &str = "first";
/// The objects of sessions come behind the first ones.
const OWN_OBJECT: u8 = 2;
/// The last step of a collection.
const COLLECTED: u8 = 26;

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

/// The journal that is there before anybody works.
pub(super) fn first_journal(archive: &Archive) -> ListingNumber {
    let record = Record {
        version: RECORD_VERSION,
        counter: 1,
        session: FIRST_SESSION.to_owned(),
        points: vec![point_of(0).into()],
        contents: vec![content(0, None, &[0]).into(), content(1, None, &[1]).into()],
        ..Record::default()
    };
    archive.with(UNREAD, archive.record(record))
}

/// What was decided: by whom, at which step, from which listing, and from what else.
type Question = (u8, u8, ListingNumber, u64);

/// The decisions that were made once.
#[derive(Default)]
pub(super) struct Decisions {
    puts: Memo<Question, RecordNumber>,
    parts: Memo<(u8, ListingNumber, u16), u8>,
    sweeps: Memo<(ListingNumber, u16), bool>,
}

/// One session's request: all that it sees and changes.
pub(super) struct Request<'a> {
    pub(super) archive: &'a Archive,
    pub(super) decisions: &'a Decisions,
    pub(super) jobs: &'a [Job],
    pub(super) place: &'a mut Place,
    pub(super) me: u8,
    pub(super) actor: &'a mut Actor,
}

impl Request<'_> {
    pub(super) fn make(&mut self, job: Job) {
        match job {
            Job::Push(plan) => self.push(plan),
            Job::Forget(nth) => self.forget(nth),
            Job::Collect { fences, parts } => self.collect(fences, parts),
        }
    }

    fn read_journal(&mut self) {
        self.actor.seen = self.place.journal;
    }

    fn end(&mut self, life: Life) {
        self.place.sessions &= !bit(self.me);
        *self.actor = Actor {
            life,
            ..Actor::default()
        };
    }

    /// Puts the record of a session that saw what it saw; `from` is what it is decided from beside
    /// that listing.
    fn put(&mut self, from: u64, said: impl FnOnce(&Listing) -> Record) {
        let (me, archive, seen) = (self.me, self.archive, self.actor.seen);
        let question = (me, self.actor.step, seen, from);
        let record = self.decisions.puts.get_or(question, || {
            let seen = archive.read(seen);
            archive.record(Record {
                version: RECORD_VERSION,
                counter: seen.state.next_counter(),
                parents: seen.state.heads().iter().map(ToString::to_string).collect(),
                session: session(me),
                ..said(&seen)
            })
        });
        self.actor.put = record;
        self.place.journal = archive.with(self.place.journal, record);
    }

    /// True if the session finds that what it put last does not count.
    fn is_refused(&mut self) -> bool {
        self.read_journal();
        let put = std::mem::replace(&mut self.actor.put, NO_RECORD);
        self.archive.refuses(self.actor.seen, put)
    }

    /// Steps: announce, read, put its objects, put the record, read again, end.
    fn push(&mut self, plan: PushPlan) {
        let (me, step) = (self.me, self.actor.step);
        match step {
            0 => self.place.sessions |= bit(me),
            1 => self.read_journal(),
            2 => {
                let seen = self.archive.read(self.actor.seen);
                self.place.objects |= new_objects(&seen.state, me, plan);
            }
            3 => self.put(0, |seen| pushed(&seen.state, me, plan)),
            4 if self.is_refused() => return self.end(Life::Refused),
            4 => {}
            _ => return self.end(Life::Done),
        }
        self.actor.step += 1;
    }

    /// Steps: announce, read, put the record, read again, end.
    fn forget(&mut self, nth: u8) {
        let step = self.actor.step;
        match step {
            0 => self.place.sessions |= bit(self.me),
            1 => self.read_journal(),
            2 => {
                let seen = self.archive.read(self.actor.seen);
                let forgotten = seen.state.point_as_said(&point_of(nth).id);
                if forgotten.is_empty() {
                    return self.end(Life::Done);
                }
                self.put(0, |_| Record {
                    forgotten,
                    ..Record::default()
                });
            }
            3 if self.is_refused() => return self.end(Life::Refused),
            3 => {}
            _ => return self.end(Life::Done),
        }
        self.actor.step += 1;
    }

    /// A collection's next request, in the order of `prune`.
    fn collect(&mut self, fences: bool, parts: bool) {
        let step = self.actor.step;
        let next = match step {
            4 | 6 | 11 | 15 | 19 | 23 if self.is_refused() => None,
            0..=7 => self.fence(fences),
            8..=13 | 20..=24 => self.sweep(),
            14..=19 => Some(self.mark(parts)),
            _ => return self.end(Life::Done),
        };
        match next {
            Some(next) => self.actor.step = next,
            None => self.end(Life::Refused),
        }
    }

    /// The steps up to the first sweep: what others began is fenced. The next one; none if it may
    /// not go on.
    fn fence(&mut self, fences: bool) -> Option<u8> {
        let step = self.actor.step;
        match step {
            0 => self.place.sessions |= bit(self.me),
            1 => self.read_journal(),
            2 if self.meets_another(fences) => return None,
            2 if self.to_fence() == 0 => return Some(8),
            3 | 5 => self.put_fences(step == 5),
            7 => self.place.sessions &= !std::mem::take(&mut self.actor.fenced),
            _ => {}
        }
        Some(step + 1)
    }

    /// The steps of a sweep: before the mark, of what others marked, and after it.
    fn sweep(&mut self) -> Option<u8> {
        let step = self.actor.step;
        match step {
            8 | 20 => {
                if step == 8 && self.archive.read(self.actor.seen).undecided != 0 {
                    return None;
                }
                self.list_sessions();
            }
            9 | 21 => {
                self.read_journal();
                let seen = self.archive.read(self.actor.seen);
                if seen.fenced & bit(self.me) != 0 {
                    return None;
                }
                if !self.may_sweep(&seen) {
                    return Some(step + 4);
                }
            }
            10 | 22 => {
                let open = self.actor.open;
                self.put(open.into(), |seen| sweeping(&seen.state, open));
            }
            12 | 13 | 24 => {
                // At 13: what a collection swept that died before it deleted it.
                self.place.objects &= !self.archive.read(self.actor.seen).swept;
                self.actor.open = 0;
                if step == 13 {
                    self.actor.listed = self.place.objects;
                }
            }
            _ => {}
        }
        Some(step + 1)
    }

    /// The steps of the mark.
    fn mark(&mut self, parts: bool) -> u8 {
        match self.actor.step {
            14 => self.put_mark(parts),
            15 => self.next_part(parts),
            16 => {
                let replaced = std::mem::replace(&mut self.actor.marked, UNREAD);
                self.place.journal = self.archive.without(self.place.journal, replaced);
                17
            }
            17 => {
                self.list_sessions();
                if self.actor.open == 0 { 20 } else { 18 }
            }
            18 => {
                // The sessions that were open after the mark could be seen.
                let open = std::mem::take(&mut self.actor.open);
                self.put(open.into(), |seen| Record {
                    waits: seen.state.waits_for(&sessions(open)),
                    ..Record::default()
                });
                19
            }
            step => step + 1,
        }
    }

    fn list_sessions(&mut self) {
        self.actor.open = self.place.sessions & !bit(self.me);
    }

    /// Lists the sessions, and chooses those to fence; true if another collection is open that is
    /// not one of them.
    fn meets_another(&mut self, fences: bool) -> bool {
        self.list_sessions();
        let open = std::mem::take(&mut self.actor.open);
        self.actor.fenced = if fences { open } else { 0 };
        let collects = |nth: u8| matches!(self.jobs[usize::from(nth)], Job::Collect { .. });
        bits(open & !self.actor.fenced).any(collects)
    }

    /// The sessions to fence: those that are open, and those whose fence another left undecided.
    fn to_fence(&self) -> u16 {
        self.actor.fenced | self.archive.read(self.actor.seen).undecided
    }

    fn put_fences(&mut self, decided: bool) {
        let fenced = self.to_fence();
        self.put(fenced.into(), |seen| Record {
            fenced: seen.journal.fences(&sessions(fenced), decided),
            ..Record::default()
        });
    }

    /// True if there are marks that everybody has seen, by the last listing of sessions.
    fn may_sweep(&self, seen: &Listing) -> bool {
        let (at, open) = (self.actor.seen, self.actor.open);
        self.decisions.sweeps.get_or((at, open), || {
            !sweeping(&seen.state, open).sweeps.is_empty()
        })
    }

    /// Puts the next part of the record that condemns what nothing needs by the listing in which
    /// that was looked for; the step after it.
    fn put_mark(&mut self, parts: bool) -> u8 {
        let (me, listed) = (self.me, self.actor.listed);
        if self.actor.marked == UNREAD {
            self.actor.marked = self.actor.seen;
        }
        let marked = self.actor.marked;
        if self.part_count(parts) == 0 {
            return COLLECTED - 1;
        }
        let part = self.actor.part;
        let from = u64::from(marked.0) << 32 | u64::from(part) << 16 | u64::from(listed);
        let archive = self.archive;
        self.put(from, |_| {
            let mut all = mark_parts(&archive.read(marked), me, listed, parts);
            all.swap_remove(part.into())
        });
        15
    }

    fn next_part(&mut self, parts: bool) -> u8 {
        self.actor.part += 1;
        if self.actor.part < self.part_count(parts) {
            return 14;
        }
        (self.actor.part, self.actor.listed) = (0, 0);
        16
    }

    fn part_count(&self, parts: bool) -> u8 {
        let (me, marked, listed) = (self.me, self.actor.marked, self.actor.listed);
        self.decisions.parts.get_or((me, marked, listed), || {
            mark_parts(&self.archive.read(marked), me, listed, parts).len() as u8
        })
    }
}

/// The object that a push makes for its content: its own, unless the content is there.
fn new_objects(seen: &State, me: u8, plan: PushPlan) -> u16 {
    let id = ContentId([plan.content; 16]);
    if seen.may_build_on(id) {
        0
    } else {
        bit(me + OWN_OBJECT)
    }
}

fn pushed(seen: &State, me: u8, plan: PushPlan) -> Record {
    let may_build_on = |nth: &u8| seen.may_build_on(ContentId([*nth; 16]));
    let mut record = Record {
        points: vec![point_of(plan.content).into()],
        ..Record::default()
    };
    if !may_build_on(&plan.content) {
        let shared = plan.shared.filter(|nth| may_rely(seen, *nth));
        let objects: Vec<u8> = shared.into_iter().chain([me + OWN_OBJECT]).collect();
        let parent = plan.parent.filter(may_build_on);
        record.contents = vec![content(plan.content, parent, &objects).into()];
    }
    record
}

/// True if an object of another content may be relied upon, where chunks are that this one needs,
/// too.
fn may_rely(seen: &State, nth: u8) -> bool {
    let (name, entries) = (
        object(nth),
        seen.contents().flat_map(|(_, entries)| entries),
    );
    let mut firm = entries.filter(|entry| entry.condition == Condition::Firm);
    let is_named = firm.any(|entry| {
        let mut parts = entry.content.parts.iter();
        parts.any(|part| part.object == name.to_string())
    });
    is_named && !seen.is_condemned(&name)
}

/// The sweeps of marks that everybody has seen, where these sessions are open.
fn sweeping(state: &State, open: u16) -> Record {
    let open: BTreeSet<String> = sessions(open).into_iter().collect();
    let needed = Needed::by_all_that_stays(state, &|_, mark| mark.is_seen(&open));
    let maps = needed.maps();
    let ready = state.marks().iter().filter(|(_, mark)| mark.is_seen(&open));
    let sweeps: Vec<Sweep> = ready
        .map(|(id, mark)| needed.sweep(id, mark, &|object| !maps.contains(object)))
        .collect();
    Record {
        sweeps,
        ..Record::default()
    }
}

/// The record that condemns what nothing needs, in the parts in which it is put; none if that is
/// nothing.
fn mark_parts(seen: &Listing, me: u8, listed: u16, parts: bool) -> Vec<Record> {
    let state = &seen.state;
    let needed = Needed::by_points(state);
    let used = needed.maps();
    let objects: Vec<String> = bits(listed)
        .map(object)
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
        return Vec::new();
    }
    let mut record = state.whole(&|name: &ObjectName| listed & bit(number_of(name)) != 0);
    record.past = seen.journal.past(state.void());
    record.marks.push(Mark {
        id: session(me),
        objects,
        contents,
    });
    // One statement each, or all in one.
    record.into_parts(if parts { 1 } else { PART_LEN })
}
