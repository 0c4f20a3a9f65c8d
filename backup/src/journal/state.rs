//! The state of a repository: the fold of its records. Order does not matter: every part of it is a
//! union, or a choice by stamp.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use vellum_core::identity::ContentId;

use super::status::{self, Status};
use super::{Journal, RecordName, ground};
use crate::format::PartTable;
use crate::objects::{ObjectId, ObjectKind, ObjectName};
use crate::record::{
    Content, DamageNote, Description, Fence, IndexParts, Machine, Point, Policy, PolicyScope,
    Record, Said, Stamp, Stamped, StoreMark, Sweep, Wait, Withheld,
};

/// The greatest number of forgotten points that are remembered: some 2 MiB in a record that stands
/// for all. Beyond it the oldest are let go, and a store that has them still brings them back.
const WITHHELD_MAX: usize = 1 << 18;
/// The digits of a point's id by which it is remembered: two that share them are as good as never
/// met.
const WITHHELD_DIGITS: usize = 16;

/// The permitted uses of a thing that the journal names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// Read it while it is there, if nothing else will do; build on nothing that needs it.
    Condemned,
    /// Read it, build on it.
    Firm,
}

/// A content as one session stated it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentEntry {
    /// The content as the record described it.
    pub content: Arc<Content>,
    /// The session, and its place in the journal.
    pub stamp: Stamp,
    /// Its condition: if it may be built on.
    pub condition: Condition,
}

impl ContentEntry {
    /// Its name in marks and sweeps.
    #[must_use]
    pub fn said(&self) -> Said {
        Said {
            id: self.content.id.clone(),
            session: self.stamp.session.clone(),
        }
    }
}

/// A mark that was not swept yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MarkState {
    /// Objects, by name.
    pub objects: BTreeSet<ObjectName>,
    /// Contents, as somebody said them.
    pub contents: BTreeSet<Said>,
    /// Sets of sessions: once all of one set are gone, everybody has seen the mark.
    pub waits: Vec<BTreeSet<String>>,
}

/// The place of a point among those of its image, the oldest first: by the journal's counters and
/// the numbers of snapshots, never by a clock.
///
/// A snapshot is as old as the earliest record that brought it or a later snapshot of its image:
/// those that come late, one by one, were there before. An image's own state is as old as the
/// record that brought it, or that told of the image's return to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PointAge {
    counter: u64,
    /// A record brings a state with the snapshots that it was after.
    is_own_state: bool,
    serial: u64,
    /// Decides only between states that one record brought: a copy's.
    time_ms: u64,
}

/// A point as it is called now.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ShownPoint {
    point: Arc<Point>,
    age: PointAge,
}

/// The state of a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The points as sessions stated them; true if that cannot be undone any more.
    points: BTreeMap<(String, Stamp), (Arc<Point>, bool)>,
    /// The newest description of each point that came after it.
    described: BTreeMap<String, (Stamp, Arc<Description>)>,
    /// The points as they are called now, by id.
    shown: BTreeMap<String, ShownPoint>,
    /// The first digits of the ids of points that were forgotten and are not there, with the
    /// counter of the last record that forgot each.
    withheld: BTreeMap<String, u64>,
    contents: BTreeMap<ContentId, Vec<ContentEntry>>,
    machines: BTreeMap<String, (Stamp, Arc<Machine>)>,
    /// The newest policy for each scope, those that take back others included.
    policies: BTreeMap<PolicyScope, (Stamp, Policy)>,
    /// The last push of each store, by its identity.
    stores: BTreeMap<String, (Stamp, StoreMark)>,
    indexes: BTreeMap<ObjectId, Condition>,
    undecided_indexes: BTreeSet<ObjectId>,
    /// The parts of index objects, where somebody told them.
    index_parts: BTreeMap<ObjectId, Arc<PartTable>>,
    marks: BTreeMap<String, MarkState>,
    condemned: BTreeSet<ObjectName>,
    swept: BTreeSet<ObjectName>,
    damaged: BTreeMap<ObjectName, (Stamp, DamageNote)>,
    fences: BTreeMap<String, Vec<Fence>>,
    statuses: BTreeMap<RecordName, Status>,
    heads: Vec<RecordName>,
}

impl State {
    /// Folds the records of `journal`. Cost: the size of all records, a few times.
    #[must_use]
    pub fn of(journal: &Journal) -> Self {
        let statuses = status::statuses(journal);
        let mut state = Self {
            heads: journal.heads(),
            ..Self::default()
        };
        let known = &statuses;
        let seen = |wanted: Status| {
            journal
                .iter()
                .filter(move |(name, _)| known[*name] == wanted)
                .map(|(_, record)| record)
        };
        let taken = Taken::of(seen(Status::Counts), seen(Status::Undecided));
        seen(Status::Counts).for_each(|record| state.withhold(record));
        seen(Status::Counts).for_each(|record| state.add(record, &taken, Condition::Firm));
        seen(Status::Undecided).for_each(|record| state.add(record, &taken, Condition::Condemned));
        state.settle(&taken);
        state.statuses = statuses;
        state
    }

    fn add(&mut self, record: &Record, taken: &Taken, condition: Condition) {
        for point in &record.points {
            self.add_point(point, stamp_of(record, point), taken, condition);
        }
        // Undecided records take no pin away, set no rule, and are no store's last push.
        if condition == Condition::Firm {
            for policy in &record.policies {
                self.add_policy(policy, stamp_of(record, policy));
            }
            for store in &record.stores {
                self.add_store(store, stamp_of(record, store));
            }
            for description in &record.described {
                self.add_description(description, stamp_of(record, description));
            }
        }
        for content in &record.contents {
            self.add_content(content, stamp_of(record, content), taken, condition);
        }
        for machine in &record.machines {
            self.add_machine(machine, stamp_of(record, machine));
        }
        for index in record
            .indexes
            .iter()
            .filter_map(|text| ObjectId::parse(text))
        {
            let known = self.indexes.entry(index).or_insert(condition);
            *known = (*known).max(condition);
            if *known == Condition::Condemned {
                self.undecided_indexes.insert(index);
            }
        }
        // An object's bytes, and so its parts, are what its name says: whoever tells them.
        let parts = record.index_parts.iter().filter_map(IndexParts::parsed);
        for (index, parts) in parts {
            self.index_parts
                .entry(index)
                .or_insert_with(|| parts.clone());
        }
        for note in &record.damaged {
            self.add_damage(note, stamp_of(record, note));
        }
        self.add_marks(record);
        for fence in &record.fenced {
            let known = self.fences.entry(fence.session.clone()).or_default();
            known.push(Fence {
                decided: fence.decided && condition == Condition::Firm,
                ..fence.clone()
            });
        }
    }

    fn withhold(&mut self, record: &Record) {
        let own = record
            .forgotten
            .iter()
            .map(|said| (&said.id, record.counter));
        let older = record
            .withheld
            .iter()
            .flat_map(|withheld| withheld.points.iter().map(|id| (id, withheld.counter)));
        for (id, counter) in own.chain(older) {
            let known = self.withheld.entry(remembered(id).to_owned()).or_default();
            *known = (*known).max(counter);
        }
    }

    fn add_point(
        &mut self,
        point: &Stamped<Point>,
        stamp: Stamp,
        taken: &Taken,
        condition: Condition,
    ) {
        let said = Said {
            id: point.value.id.clone(),
            session: stamp.session.clone(),
        };
        if taken.forgotten.contains(&said) {
            return;
        }
        let entry = self.points.entry((point.value.id.clone(), stamp));
        let is_firm = condition == Condition::Firm;
        entry
            .or_insert_with(|| (Arc::new(point.value.clone()), false))
            .1 |= is_firm;
    }

    fn add_description(&mut self, description: &Stamped<Description>, stamp: Stamp) {
        let point = &description.value.point;
        let known = self.described.get(point);
        if known.is_none_or(|(known, _)| *known < stamp) {
            let newest = (stamp, Arc::new(description.value.clone()));
            self.described.insert(point.clone(), newest);
        }
    }

    fn add_machine(&mut self, machine: &Stamped<Machine>, stamp: Stamp) {
        let id = &machine.value.id;
        let known = self.machines.get(id);
        if known.is_none_or(|(known, _)| *known < stamp) {
            let newest = (stamp, Arc::new(machine.value.clone()));
            self.machines.insert(id.clone(), newest);
        }
    }

    fn add_policy(&mut self, policy: &Stamped<Policy>, stamp: Stamp) {
        let known = self.policies.get(&policy.value.scope);
        if known.is_none_or(|(known, _)| *known < stamp) {
            let newest = (stamp, policy.value.clone());
            self.policies.insert(policy.value.scope.clone(), newest);
        }
    }

    fn add_store(&mut self, mark: &Stamped<StoreMark>, stamp: Stamp) {
        let known = self.stores.get(&mark.value.store);
        if known.is_none_or(|(known, _)| *known < stamp) {
            let newest = (stamp, mark.value.clone());
            self.stores.insert(mark.value.store.clone(), newest);
        }
    }

    fn add_damage(&mut self, note: &Stamped<DamageNote>, stamp: Stamp) {
        let Some(object) = ObjectName::parse(&note.value.object) else {
            return;
        };
        let known = self.damaged.get(&object);
        if known.is_none_or(|(known, _)| *known < stamp) {
            self.damaged.insert(object, (stamp, note.value.clone()));
        }
    }

    fn add_marks(&mut self, record: &Record) {
        for mark in &record.marks {
            let known = self.marks.entry(mark.id.clone()).or_default();
            known.objects.extend(
                mark.objects
                    .iter()
                    .filter_map(|text| ObjectName::parse(text)),
            );
            known.contents.extend(mark.contents.iter().cloned());
        }
        for wait in &record.waits {
            self.marks
                .entry(wait.mark.clone())
                .or_default()
                .waits
                .push(wait.sessions.iter().cloned().collect());
        }
    }

    fn add_content(
        &mut self,
        content: &Stamped<Content>,
        stamp: Stamp,
        taken: &Taken,
        condition: Condition,
    ) {
        let Some(id) = ContentId::parse(&content.value.id) else {
            return;
        };
        let said = Said {
            id: content.value.id.clone(),
            session: stamp.session.clone(),
        };
        if taken.contents.contains(&said) {
            return;
        }
        let entries = self.contents.entry(id).or_default();
        match entries.iter_mut().find(|entry| entry.stamp == stamp) {
            Some(entry) => entry.condition = entry.condition.max(condition),
            None => entries.push(ContentEntry {
                content: Arc::new(content.value.clone()),
                stamp,
                condition,
            }),
        }
    }

    /// Removes what was swept, and computes what is condemned and the names of points. Marks that
    /// were swept are done with.
    fn settle(&mut self, taken: &Taken) {
        self.name_points();
        self.marks.retain(|id, _| !taken.marks.contains(id));
        let condemned = self
            .marks
            .values()
            .flat_map(|mark| &mark.contents)
            .chain(&taken.open_contents);
        let condemned: BTreeSet<Said> = condemned.cloned().collect();
        for entries in self.contents.values_mut() {
            let is_condemned = |entry: &ContentEntry| condemned.contains(&entry.said());
            entries
                .iter_mut()
                .filter(|entry| is_condemned(entry))
                .for_each(|entry| entry.condition = Condition::Condemned);
        }
        ground::best_first(&mut self.contents);
        self.swept.clone_from(&taken.objects);
        self.condemned = self
            .marks
            .values()
            .flat_map(|mark| &mark.objects)
            .chain(&taken.open_objects)
            .copied()
            .collect();
        self.indexes
            .retain(|id, _| !taken.objects.contains(&ObjectName::Index(*id)));
        let condemned = &self.condemned;
        let indexes = self
            .indexes
            .iter_mut()
            .filter(|(id, _)| condemned.contains(&ObjectName::Index(**id)));
        indexes.for_each(|(_, condition)| *condition = Condition::Condemned);
        let indexes = &self.indexes;
        self.index_parts.retain(|id, _| indexes.contains_key(id));
    }

    /// Chooses the description of each point: the newest, the firm before the undecided.
    /// Descriptions that are older than the point, or belong to none, are dropped.
    fn name_points(&mut self) {
        let mut newest = BTreeMap::<&str, (bool, &Stamp, &Arc<Point>)>::new();
        for ((id, stamp), (point, is_firm)) in &self.points {
            let known = newest.entry(id).or_insert((*is_firm, stamp, point));
            if (known.0, known.1) < (*is_firm, stamp) {
                *known = (*is_firm, stamp, point);
            }
        }
        self.described.retain(|id, (stamp, _)| {
            newest
                .get(id.as_str())
                .is_some_and(|(_, said, _)| *said < stamp)
        });
        let shown = newest.into_iter().map(|(id, (_, stamp, point))| {
            let description = self.described.get(id).map(|(_, description)| description);
            let point = description.map_or_else(
                || point.clone(),
                |description| Arc::new(description.applied(point)),
            );
            let returned = description.and_then(|description| description.returned);
            let age = PointAge::of(&point, stamp.counter.max(returned.unwrap_or(0)));
            (id.to_owned(), ShownPoint { point, age })
        });
        self.shown = shown.collect();
        self.date_snapshots();
        for id in self.shown.keys() {
            self.withheld.remove(remembered(id));
        }
    }

    /// Makes no snapshot younger than a later one of its image.
    fn date_snapshots(&mut self) {
        let mut snapshots: Vec<&mut ShownPoint> = self
            .shown
            .values_mut()
            .filter(|shown| !shown.age.is_own_state)
            .collect();
        snapshots.sort_by(|a, b| {
            let (one, other) = (&b.point, &a.point);
            (&one.image, &one.host, b.age.serial).cmp(&(&other.image, &other.host, a.age.serial))
        });
        for at in 1..snapshots.len() {
            let (later, earlier) = snapshots.split_at_mut(at);
            let (later, earlier) = (&later[at - 1], &mut earlier[0]);
            let is_one = later.point.image == earlier.point.image;
            if is_one && later.point.host == earlier.point.host {
                earlier.age.counter = earlier.age.counter.min(later.age.counter);
            }
        }
    }

    /// The points, one for each id, as they are called now: in order of ids.
    pub fn points(&self) -> impl Iterator<Item = &Arc<Point>> {
        self.shown.values().map(|shown| &shown.point)
    }

    /// The same, those of each image in the order in which it had them ([`PointAge`]).
    #[must_use]
    pub fn points_oldest_first(&self) -> Vec<&Arc<Point>> {
        let mut shown: Vec<&ShownPoint> = self.shown.values().collect();
        shown.sort_by_key(|shown| shown.age);
        shown.into_iter().map(|shown| &shown.point).collect()
    }

    /// The newest point of each image once a record has brought `new` as well. A snapshot that
    /// comes late counts as the newest, though it is not: it was taken before others that are
    /// there.
    pub(crate) fn newest_with<'a>(&'a self, new: &'a [Point]) -> HashMap<&'a str, &'a Point> {
        let mut new: Vec<&Point> = new.iter().collect();
        new.sort_by_key(|point| PointAge::of(point, 0));
        let known = self.points_oldest_first().into_iter().map(AsRef::as_ref);
        let points = known.chain(new);
        points.map(|point| (point.image.as_str(), point)).collect()
    }

    /// The description of a point as it is called now.
    #[must_use]
    pub fn description(&self, point: &Point) -> Description {
        let described = self.described.get(&point.id);
        Description {
            returned: described.and_then(|(_, description)| description.returned),
            ..Description::of(point)
        }
    }

    /// A point by its id, as it is called now.
    #[must_use]
    pub fn point(&self, id: &str) -> Option<&Arc<Point>> {
        self.shown.get(id).map(|shown| &shown.point)
    }

    /// True if a point is there that nobody can undo: pushing it again would add nothing.
    #[must_use]
    pub fn has_firm_point(&self, id: &str) -> bool {
        self.entries_of_point(id).any(|(_, (_, is_firm))| *is_firm)
    }

    /// True if a point was forgotten, so that a push leaves it out unless it is told otherwise. The
    /// present state of an image that was forgotten is another matter once a later one was pushed:
    /// then the image has returned to it.
    #[must_use]
    pub fn is_withheld(&self, point: &Point) -> bool {
        let Some(counter) = self.withheld.get(remembered(&point.id)) else {
            return false;
        };
        let is_later = |((_, stamp), (other, _)): (&(String, Stamp), &(Arc<Point>, bool))| {
            other.snapshot.is_none() && other.image == point.image && stamp.counter > *counter
        };
        point.snapshot.is_some() || !self.points.iter().any(is_later)
    }

    /// The statements to forget so that a point is gone.
    #[must_use]
    pub fn point_as_said(&self, id: &str) -> Vec<Said> {
        let said = |(_, stamp): &(String, Stamp)| Said {
            id: id.to_owned(),
            session: stamp.session.clone(),
        };
        self.entries_of_point(id)
            .map(|(key, _)| said(key))
            .collect()
    }

    /// The state without these points: for a forecast of what forgetting them would free.
    #[must_use]
    pub fn without(&self, points: &BTreeSet<String>) -> Self {
        let mut state = self.clone();
        state.points.retain(|(id, _), _| !points.contains(id));
        state.described.retain(|id, _| !points.contains(id));
        state.shown.retain(|id, _| !points.contains(id));
        state
    }

    fn entries_of_point(
        &self,
        id: &str,
    ) -> impl Iterator<Item = (&(String, Stamp), &(Arc<Point>, bool))> {
        let first = (id.to_owned(), Stamp::default());
        let id = id.to_owned();
        self.points
            .range(first..)
            .take_while(move |((other, _), _)| *other == id)
    }

    /// The map of a content: the best entry there is (see [`State::entries`]). Its parent is a
    /// content again.
    #[must_use]
    pub fn content(&self, id: ContentId) -> Option<&ContentEntry> {
        self.contents.get(&id).and_then(|entries| entries.first())
    }

    /// The entries of a content, from all sessions. All of it means the same. The best comes first:
    /// from one content's best to its parent's best, and so on, a content without a parent is
    /// reached, through entries that may be built on if there is such a way.
    pub fn entries(&self, id: ContentId) -> &[ContentEntry] {
        self.contents.get(&id).map_or(&[], Vec::as_slice)
    }

    /// All contents.
    pub fn contents(&self) -> impl Iterator<Item = (ContentId, &[ContentEntry])> {
        self.contents
            .iter()
            .map(|(id, entries)| (*id, entries.as_slice()))
    }

    /// True if a new content may be relative to this one, or a point be made of it: it is known,
    /// and not condemned.
    #[must_use]
    pub fn may_build_on(&self, id: ContentId) -> bool {
        self.entries(id)
            .iter()
            .any(|entry| entry.condition == Condition::Firm)
    }

    /// A content and what it is relative to, and so on. Ends early where a content is not known; a
    /// ring, which no honest writer makes, ends before it closes.
    #[must_use]
    pub fn chain(&self, id: ContentId) -> Vec<&ContentEntry> {
        let (mut chain, mut seen, mut next) = (Vec::new(), BTreeSet::new(), Some(id));
        while let Some(entry) = next
            .filter(|id| seen.insert(*id))
            .and_then(|id| self.content(id))
        {
            chain.push(entry);
            next = entry.content.parent.as_deref().and_then(ContentId::parse);
        }
        chain
    }

    /// The retention policies, by scope.
    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        let policies = self.policies.values().map(|(_, policy)| policy);
        policies.filter(|policy| !policy.keep.is_empty() || !policy.keep_tags.is_empty())
    }

    /// The last push of the store with this identity, if it pushed here.
    #[must_use]
    pub fn last_push_of(&self, store: &str) -> Option<&StoreMark> {
        self.stores.get(store).map(|(_, mark)| mark)
    }

    /// The machines, by identity.
    pub fn machines(&self) -> impl Iterator<Item = &Arc<Machine>> {
        self.machines.values().map(|(_, machine)| machine)
    }

    /// The index objects to read.
    #[must_use]
    pub fn indexes(&self) -> &BTreeMap<ObjectId, Condition> {
        &self.indexes
    }

    /// The parts of an index object, if somebody told them.
    #[must_use]
    pub fn index_parts(&self, index: &ObjectId) -> Option<&Arc<PartTable>> {
        self.index_parts.get(index)
    }

    /// The index objects that only undecided records name. Nothing may be built on chunks that they
    /// alone name, though nobody condemned their packs.
    #[must_use]
    pub fn undecided_indexes(&self) -> &BTreeSet<ObjectId> {
        &self.undecided_indexes
    }

    /// True if an object is condemned: nothing may be built on what only it holds.
    #[must_use]
    pub fn is_condemned(&self, object: &ObjectName) -> bool {
        self.condemned.contains(object) || self.swept.contains(object)
    }

    /// The condemned objects.
    #[must_use]
    pub fn condemned(&self) -> &BTreeSet<ObjectName> {
        &self.condemned
    }

    /// The swept objects: they may be there still if a collection was interrupted.
    #[must_use]
    pub fn swept(&self) -> &BTreeSet<ObjectName> {
        &self.swept
    }

    /// The objects that somebody found lost or damaged, mended or not.
    pub fn damaged(&self) -> impl Iterator<Item = (&ObjectName, &DamageNote)> {
        self.damaged
            .iter()
            .map(|(object, (_, note))| (object, note))
    }

    /// The note on the damage to an object, if there is one.
    #[must_use]
    pub fn damage_to(&self, object: &ObjectName) -> Option<&DamageNote> {
        self.damaged.get(object).map(|(_, note)| note)
    }

    /// All notes on damage, each with the stamp that it has.
    #[must_use]
    pub fn damage_notes(&self) -> Vec<Stamped<DamageNote>> {
        let stamped = |(stamp, note): &(Stamp, DamageNote)| Stamped {
            value: note.clone(),
            stamp: Some(stamp.clone()),
        };
        self.damaged.values().map(stamped).collect()
    }

    /// The packs that nothing may be built on: condemned, swept or damaged. They are read where no
    /// other pack has a chunk.
    #[must_use]
    pub fn doubtful_packs(&self) -> BTreeSet<ObjectId> {
        let all = self.condemned.iter().chain(&self.swept);
        all.chain(self.damaged.keys())
            .filter(|name| name.kind() == ObjectKind::Pack)
            .filter_map(ObjectName::id)
            .collect()
    }

    /// Marks that were not swept yet, by name.
    #[must_use]
    pub fn marks(&self) -> &BTreeMap<String, MarkState> {
        &self.marks
    }

    /// The waits of the marks that wait for nobody yet, where these sessions are open after the
    /// marks could be seen: they may not have seen them.
    pub(crate) fn waits_for(&self, open: &[String]) -> Vec<Wait> {
        let new = self.marks.iter().filter(|(_, mark)| mark.waits.is_empty());
        let wait = |(id, _): (&String, &MarkState)| Wait {
            mark: id.clone(),
            sessions: open.to_vec(),
        };
        new.map(wait).collect()
    }

    /// True if a session was fenced, decided or not.
    #[must_use]
    pub fn is_fenced(&self, session: &str) -> bool {
        self.fences.contains_key(session)
    }

    /// Sessions whose fences are not decided: the collection that fenced them stopped in between.
    pub fn undecided(&self) -> impl Iterator<Item = &str> {
        self.fences
            .iter()
            .filter(|(_, fences)| !fences.iter().any(|fence| fence.decided))
            .map(|(session, _)| session.as_str())
    }

    /// Records that came after their session was fenced.
    pub fn void(&self) -> impl Iterator<Item = RecordName> {
        self.statuses
            .iter()
            .filter(|(_, status)| **status == Status::Void)
            .map(|(name, _)| *name)
    }

    /// The status of a record, if it is there.
    #[must_use]
    pub fn status(&self, record: &RecordName) -> Option<Status> {
        self.statuses.get(record).copied()
    }

    /// The ends of the graph: the parents of the next record.
    #[must_use]
    pub fn heads(&self) -> &[RecordName] {
        &self.heads
    }

    /// The counter of the next record.
    #[must_use]
    pub fn next_counter(&self) -> u64 {
        self.statuses
            .keys()
            .next_back()
            .map_or(1, |name| name.counter.saturating_add(1))
    }

    /// One record with every statement that still counts, under its stamp: for a collection, which
    /// alone knows that nothing is undecided. Forgotten and swept things are not in it, but the
    /// memory that points were forgotten is. Sweeps whose objects are still there (`is_there`) are
    /// kept.
    #[must_use]
    pub fn whole(&self, is_there: &dyn Fn(&ObjectName) -> bool) -> Record {
        let stamped = |stamp: &Stamp| Some(stamp.clone());
        let points = self.points.iter().map(|((_, stamp), (point, _))| Stamped {
            value: (**point).clone(),
            stamp: stamped(stamp),
        });
        let entries = self.contents.values().flatten();
        let contents = entries.map(|entry| Stamped {
            value: (*entry.content).clone(),
            stamp: stamped(&entry.stamp),
        });
        let described = self.described.values().map(|(stamp, words)| Stamped {
            value: (**words).clone(),
            stamp: stamped(stamp),
        });
        let machines = self.machines.values().map(|(stamp, machine)| Stamped {
            value: (**machine).clone(),
            stamp: stamped(stamp),
        });
        let policies = self.policies.values().map(|(stamp, policy)| Stamped {
            value: policy.clone(),
            stamp: stamped(stamp),
        });
        let stores = self.stores.values().map(|(stamp, mark)| Stamped {
            value: mark.clone(),
            stamp: stamped(stamp),
        });
        Record {
            points: points.collect(),
            contents: contents.collect(),
            described: described.collect(),
            machines: machines.collect(),
            policies: policies.collect(),
            stores: stores.collect(),
            withheld: self.withheld(),
            indexes: self.indexes.keys().map(ToString::to_string).collect(),
            index_parts: self
                .index_parts
                .iter()
                .map(|(id, parts)| IndexParts::of(*id, parts.clone()))
                .collect(),
            marks: self.marks.iter().map(|(id, mark)| mark.named(id)).collect(),
            waits: self
                .marks
                .iter()
                .flat_map(|(id, mark)| mark.waits_named(id))
                .collect(),
            sweeps: self.sweep_of(is_there).into_iter().collect(),
            fenced: self
                .fences
                .keys()
                .map(|session| decision(session))
                .collect(),
            damaged: self.damage_notes(),
            replaces: self
                .statuses
                .iter()
                .filter(|(_, status)| **status != Status::Void)
                .map(|(name, _)| name.to_string())
                .collect(),
            ..Record::default()
        }
    }
}

impl State {
    /// The sweep of what was swept and is still there; none if that is nothing.
    fn sweep_of(&self, is_there: &dyn Fn(&ObjectName) -> bool) -> Option<Sweep> {
        let swept = self.swept.iter().filter(|object| is_there(object));
        let objects: Vec<String> = swept.map(ToString::to_string).collect();
        (!objects.is_empty()).then(|| Sweep {
            objects,
            ..Sweep::default()
        })
    }

    /// The forgotten points that are remembered, by the records that forgot them.
    fn withheld(&self) -> Vec<Withheld> {
        let mut newest_first: Vec<(u64, &String)> = self
            .withheld
            .iter()
            .map(|(id, counter)| (*counter, id))
            .collect();
        newest_first.sort_unstable_by(|a, b| b.cmp(a));
        newest_first.truncate(WITHHELD_MAX);
        newest_first
            .chunk_by(|(a, _), (b, _)| a == b)
            .map(|forgotten| Withheld {
                counter: forgotten[0].0,
                points: forgotten.iter().map(|(_, id)| (*id).clone()).collect(),
            })
            .collect()
    }
}

/// The part of a point's id by which it is remembered once it is forgotten.
fn remembered(id: &str) -> &str {
    id.get(..WITHHELD_DIGITS).unwrap_or(id)
}

impl PointAge {
    fn of(point: &Point, counter: u64) -> Self {
        Self {
            counter,
            is_own_state: point.snapshot.is_none(),
            serial: point
                .snapshot
                .as_ref()
                .map_or(0, |snapshot| snapshot.serial),
            time_ms: point.time_ms,
        }
    }
}

impl MarkState {
    /// True if everybody has seen the mark who may build on what it condemns, where these sessions
    /// are open: then it can be swept.
    pub(crate) fn is_seen(&self, open: &BTreeSet<String>) -> bool {
        if self.waits.is_empty() {
            open.is_empty()
        } else {
            self.waits.iter().any(|sessions| sessions.is_disjoint(open))
        }
    }

    fn named(&self, id: &str) -> crate::record::Mark {
        crate::record::Mark {
            id: id.to_owned(),
            objects: self.objects.iter().map(ToString::to_string).collect(),
            contents: self.contents.iter().cloned().collect(),
        }
    }

    fn waits_named(&self, id: &str) -> impl Iterator<Item = Wait> {
        self.waits.iter().map(move |sessions| Wait {
            mark: id.to_owned(),
            sessions: sessions.iter().cloned().collect(),
        })
    }
}

/// The fence that remains of a fenced session once another record replaces those of its records
/// that counted.
fn decision(session: &str) -> Fence {
    Fence {
        session: session.to_owned(),
        counted: Vec::new(),
        decided: true,
    }
}

/// The deletions of all records together. Objects and contents that undecided records sweep are
/// condemned, no more.
#[derive(Default)]
struct Taken {
    forgotten: BTreeSet<Said>,
    marks: BTreeSet<String>,
    objects: BTreeSet<ObjectName>,
    contents: BTreeSet<Said>,
    open_objects: BTreeSet<ObjectName>,
    open_contents: BTreeSet<Said>,
}

impl Taken {
    fn of<'a>(
        counting: impl Iterator<Item = &'a Arc<Record>>,
        undecided: impl Iterator<Item = &'a Arc<Record>>,
    ) -> Self {
        let mut taken = Self::default();
        for record in counting {
            taken.forgotten.extend(record.forgotten.iter().cloned());
            for sweep in &record.sweeps {
                taken.marks.insert(sweep.mark.clone());
                taken.objects.extend(
                    sweep
                        .objects
                        .iter()
                        .filter_map(|text| ObjectName::parse(text)),
                );
                taken.contents.extend(sweep.contents.iter().cloned());
            }
        }
        for sweep in undecided.flat_map(|record| &record.sweeps) {
            taken.open_objects.extend(
                sweep
                    .objects
                    .iter()
                    .filter_map(|text| ObjectName::parse(text)),
            );
            taken.open_contents.extend(sweep.contents.iter().cloned());
        }
        taken
    }
}

fn stamp_of<T>(record: &Record, value: &Stamped<T>) -> Stamp {
    value.stamp.clone().unwrap_or_else(|| Stamp {
        counter: record.counter,
        session: record.session.clone(),
    })
}
