//! The records of a repository's journal: what was pushed, forgotten and collected.
//!
//! A record is JSON, so that anybody can read it in any language; compressed, sealed, and named
//! `journal/COUNTER-ID` where COUNTER is one more than the greatest that its writer saw, in 16
//! hexadecimal digits, and ID is what every object's is. Fields may be added; unknown ones are
//! ignored unless `version` rises. Identities are written in hexadecimal; records are named
//! `COUNTER-ID`, other objects by their whole name.
//!
//! Records name the records that their writer had seen and nobody else had built on (`parents`), so
//! together they are a graph whose every part holds the past it knew. Two processes that write at
//! once make two ends; the next record has both as parents. Nothing depends on which came first:
//! every statement of a record has a [`Stamp`], which names it when it is taken back. So taking
//! back a statement that one has seen never takes back the same statement made anew by another. A
//! record that replaces others repeats their statements under the original stamps.

mod part_texts;
pub(crate) mod parts;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::format::PartTable;
use crate::objects::ObjectId;

/// The version of records that this program writes, and the newest that it reads.
pub const RECORD_VERSION: u32 = 1;

/// A record of the journal.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Record {
    /// 1. Greater is a newer program's.
    pub version: u32,
    /// One more than the greatest counter that the writer saw.
    pub counter: u64,
    /// The records that this one builds on.
    pub parents: Vec<String>,
    /// The session that wrote it.
    pub session: String,
    /// The writer, for people: host and command.
    pub writer: String,
    /// The time by the writer's clock, in milliseconds since 1970. For people; nothing is decided
    /// by it.
    pub time_ms: u64,
    /// New points.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub points: Vec<Stamped<Point>>,
    /// New contents, or other maps for known ones (collection merges what nobody sees into what is
    /// built on it).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contents: Vec<Stamped<Content>>,
    /// New names and marks of points that other records made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub described: Vec<Stamped<Description>>,
    /// Machines as they were pushed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub machines: Vec<Stamped<Machine>>,
    /// Retention policies. Of several for the same points the one with the greatest stamp counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Stamped<Policy>>,
    /// The stores that pushed, and what each left in itself when it did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stores: Vec<Stamped<StoreMark>>,
    /// IDs of index objects to read from now on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub indexes: Vec<String>,
    /// The parts of index objects. One of which nobody told them is read whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub index_parts: Vec<IndexParts>,
    /// Points that are gone for good.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forgotten: Vec<Said>,
    /// Points that replaced records forgot, so that pushes go on leaving them out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub withheld: Vec<Withheld>,
    /// The marks of a collection, which condemn objects and contents that nothing needs: from here
    /// on nobody may build on them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub marks: Vec<Mark>,
    /// The sessions that have to end before a mark's things can be swept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits: Vec<Wait>,
    /// The sweeps of a collection, which delete for good: written before the first object is
    /// deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sweeps: Vec<Sweep>,
    /// Sessions that may not go on: what they write from here on does not count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fenced: Vec<Fence>,
    /// Objects that somebody found lost or damaged: nothing may be built on what only they hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<Stamped<DamageNote>>,
    /// Records that this one stands for: it holds all that they held and still counts, so they can
    /// be deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaces: Vec<String>,
    /// The records that those replaced in turn, shortened, so that a client that saw one long ago
    /// does not miss it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub past: Option<Past>,
}

/// The parts of one index object.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct IndexParts {
    /// The ID of the object.
    pub index: String,
    /// Its parts; none if anything of them makes no sense.
    #[serde(with = "part_texts")]
    pub parts: Arc<PartTable>,
}

impl Record {
    /// Gives what it tells of images that return to a state now its counter.
    pub(crate) fn date_returns(&mut self, counter: u64) {
        let returned = self.described.iter_mut();
        returned
            .filter_map(|description| description.value.returned.as_mut())
            .filter(|returned| **returned == RETURNS_NOW)
            .for_each(|returned| *returned = counter);
    }

    /// Names index objects, whose parts these are.
    pub(crate) fn name_indexes(&mut self, indexes: Vec<IndexParts>) {
        self.indexes
            .extend(indexes.iter().map(|parts| parts.index.clone()));
        self.index_parts.extend(indexes);
    }
}

impl IndexParts {
    /// The parts of the index object `index`.
    #[must_use]
    pub fn of(index: ObjectId, parts: impl Into<Arc<PartTable>>) -> Self {
        Self {
            index: index.to_string(),
            parts: parts.into(),
        }
    }

    /// The index object and its parts; none if it makes no sense, or tells of no part.
    pub(crate) fn parsed(&self) -> Option<(ObjectId, &Arc<PartTable>)> {
        let id = ObjectId::parse(&self.index)?;
        (!self.parts.is_empty()).then_some((id, &self.parts))
    }
}

/// The session that made a statement first, and its place in the journal: a record that replaces
/// others keeps the stamps of their statements.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// The counter of that record.
    pub counter: u64,
    /// The session that wrote it. A session makes one statement about a thing.
    pub session: String,
}

/// A value with its stamp.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Stamped<T> {
    /// The statement.
    #[serde(flatten)]
    pub value: T,
    /// The stamp of an older record; none if it is the record's own: its counter and its session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<Stamp>,
}

impl<T> From<T> for Stamped<T> {
    fn from(value: T) -> Self {
        Self { value, stamp: None }
    }
}

/// A point or a content as one session stated it.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Said {
    /// The identity of the point, or the content.
    pub id: String,
    /// The session of its stamp.
    pub session: String,
}

/// Points that one record forgot, in few bytes: it takes nothing away, but is remembered.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Withheld {
    /// The counter of that record.
    pub counter: u64,
    /// The first 16 digits of the id of each.
    pub points: Vec<String>,
}

/// The replaced records that a record knows of.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Past {
    /// The counter up to which a record that is not there was replaced.
    pub floor: u64,
    /// The first 16 digits of the ID of every other one.
    pub ids: Vec<String>,
}

/// An image or a snapshot as it was when it was pushed.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Point {
    /// 16 bytes of hash over image identity, serial (or that it has none) and content: pushing the
    /// same again makes no second one, unless it was forgotten in between.
    pub id: String,
    /// The image, through renames: the store's identity and the image's number there,
    /// `STORE-NUMBER`.
    pub image: String,
    /// The image's name then.
    pub name: String,
    /// The name of the machine whose store it was: stores that were copied have images of one
    /// identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The snapshot's name and serial; none for the image's own state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotName>,
    /// The content that it shows.
    pub content: String,
    /// Its length in bytes.
    pub len: u64,
    /// The image's mode, as people write it.
    pub mode: String,
    /// The image that this image was created from, `STORE-NUMBER`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// The time when the snapshot was taken, or the state pushed, in milliseconds since 1970.
    pub time_ms: u64,
    /// The tags that people gave it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// True if it was protected against deletion.
    #[serde(default)]
    pub pinned: bool,
    /// The description that people gave it; empty if there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The properties that people gave it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
}

/// [`Description::returned`] of what a record tells that is not put yet.
pub(crate) const RETURNS_NOW: u64 = u64::MAX;

/// A point's name and marks, where they changed after it was pushed. It makes no point and keeps
/// none: a reader that does not know of it sees the point as it was pushed.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Description {
    /// The point.
    pub point: String,
    /// The image's name.
    pub name: String,
    /// The snapshot's name, if the point is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// The image's mode, as people write it.
    pub mode: String,
    /// The image that this image was created from, `STORE-NUMBER`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// The time when the snapshot was taken, or the state pushed, in milliseconds since 1970: the
    /// last time if the image returned to it from another one.
    pub time_ms: u64,
    /// The counter of the record that last told that the image had returned to this state from
    /// another one; none if it never had. [`RETURNS_NOW`] until the record has a counter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returned: Option<u64>,
    /// The tags that people gave it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// True if it is protected against deletion.
    #[serde(default)]
    pub pinned: bool,
    /// The description that people gave it; empty if there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The properties that people gave it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
}

impl Description {
    /// The description in a point itself.
    #[must_use]
    pub fn of(point: &Point) -> Self {
        Self {
            point: point.id.clone(),
            name: point.name.clone(),
            snapshot: point
                .snapshot
                .as_ref()
                .map(|snapshot| snapshot.name.clone()),
            mode: point.mode.clone(),
            origin: point.origin.clone(),
            time_ms: point.time_ms,
            returned: None,
            tags: point.tags.clone(),
            pinned: point.pinned,
            description: point.description.clone(),
            properties: point.properties.clone(),
        }
    }

    /// The point with this description: its content, and its image, stay.
    #[must_use]
    pub fn applied(&self, point: &Point) -> Point {
        let snapshot = point.snapshot.as_ref().map(|snapshot| SnapshotName {
            name: self.snapshot.as_ref().unwrap_or(&snapshot.name).clone(),
            serial: snapshot.serial,
        });
        Point {
            name: self.name.clone(),
            snapshot,
            mode: self.mode.clone(),
            origin: self.origin.clone(),
            time_ms: self.time_ms,
            tags: self.tags.clone(),
            pinned: self.pinned,
            description: self.description.clone(),
            properties: self.properties.clone(),
            ..point.clone()
        }
    }
}

/// A push of a store, as the store remembers it, too: so that one that was copied is told from the
/// one that it is a copy of.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct StoreMark {
    /// The store's identity.
    pub store: String,
    /// 16 random bytes that the push left in the store.
    pub token: String,
    /// 16 bytes of hash over the machine and the folder that the store was in; none if the machine
    /// has no identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

/// The name and serial of a snapshot.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct SnapshotName {
    /// Its name within its image.
    pub name: String,
    /// Rises with every snapshot of the image.
    pub serial: u64,
}

/// The content of a disk, as a map relative to another content.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Content {
    /// Its identity.
    pub id: String,
    /// The content that shows where this map has no entry; none reads as zeros.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Length in bytes.
    pub len: u64,
    /// The number of positions at which the parent is visible: from there on a position without an
    /// entry reads as zeros.
    pub parent_visible: u64,
    /// The chunk length in bytes: of all contents of a repository, as chosen when it was made.
    pub chunk_len: u32,
    /// Its map, in order of pages.
    pub parts: Vec<MapPart>,
}

/// The location of some pages of a map.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct MapPart {
    /// The first page in it, and the last.
    pub pages: (u64, u64),
    /// The object under `maps/`.
    pub object: String,
    /// The offset of the part in that object and its length, both in bytes.
    pub range: (u64, u64),
}

/// A machine as it was pushed.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Machine {
    /// Its identity, `STORE-NUMBER`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its disks, in order: `STORE-NUMBER`.
    pub disks: Vec<String>,
    /// Its configuration file, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<String>,
    /// Its snapshots, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<MachineSnapshot>,
}

/// A snapshot of a machine: its disks at one moment.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct MachineSnapshot {
    /// Its name.
    pub name: String,
    /// The time when it was taken, in milliseconds since 1970.
    pub time_ms: u64,
    /// The state of each disk: the image, its mode then, and the snapshot's serial if its content
    /// was kept.
    pub disks: Vec<(String, String, Option<u64>)>,
    /// Its configuration file then, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<String>,
}

/// A retention policy: the points that it is for, and the rules that keep some of them. One without
/// rules takes back what was said before.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Policy {
    /// The points that it is for.
    #[serde(flatten)]
    pub scope: PolicyScope,
    /// The rules, by the names that they have on the command line without `keep-`: `daily` is `7`
    /// or `unlimited`, `within` is `1y6m`. There may be others: of a newer program.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keep: BTreeMap<String, String>,
    /// Lists of tags: a point that has all of one list is kept; an empty list keeps those without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep_tags: Vec<Vec<String>>,
}

/// The points that a policy is for: those of one image, with one tag, of one host, or all; at most
/// one of the three is there.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyScope {
    /// The image, `STORE-NUMBER`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// The objects and contents that a collection condemned.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Mark {
    /// The mark's name: the session of the collection, the counter of its record, and a number. It
    /// never comes twice.
    pub id: String,
    /// Objects, by name.
    pub objects: Vec<String>,
    /// Contents, as somebody said them.
    pub contents: Vec<Said>,
}

/// The sessions that were open at a moment when the mark could be seen: they may not have seen it,
/// all others have.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Wait {
    /// The mark.
    pub mark: String,
    /// The sessions.
    pub sessions: Vec<String>,
}

/// The objects and contents that a collection deletes. The mark is done with: what it condemned and
/// this does not name is as it was before.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Sweep {
    /// The mark.
    pub mark: String,
    /// Objects, of those that it condemned.
    pub objects: Vec<String>,
    /// Contents, of those that it condemned.
    pub contents: Vec<Said>,
}

/// A session that may not go on.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Fence {
    /// The session.
    pub session: String,
    /// Its records that count.
    pub counted: Vec<String>,
    /// True if others of its records are void. If not yet, they are undecided until a record says
    /// so.
    pub decided: bool,
}

/// A lost or damaged object. Of several notes on one object the one with the greatest stamp counts.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct DamageNote {
    /// The pack, index object or maps object, by its whole name.
    pub object: String,
    /// The stores that have put again what they have of it, by identity.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tried: Vec<String>,
    /// True if no point needs it any more: what it held is elsewhere, or was of no use.
    #[serde(default)]
    pub mended: bool,
    /// The points that need it, unless it is mended; none if they are many or not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub points: Vec<String>,
}
