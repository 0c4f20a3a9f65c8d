//! Verification of a repository: every point's contents, maps and places of chunks; if wanted,
//! every chunk itself.
//!
//! Each finding names the object, and the points that need it. Of a pair of object and copy the
//! half that is lost or damaged is written anew; else nothing is changed: `heal` notes what is
//! found, and mends it.
//!
//! A point is hit if a map is lost that it needs, or a chunk that it shows: not by chunks of a
//! content below it that it does not show.
//!
//! Packs that somebody found damaged are read in any case, so that points are named that need what
//! is lost of them, and no others. What was found damaged before and hits no point any more is no
//! finding.

mod copies;
mod hits;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rayon::prelude::{IntoParallelRefIterator, ParallelIterator};
use vellum_core::identity::{ContentId, SegmentId};
use vellum_core::page::{PageEntry, Run};
use vellum_core::units::ChunkId;
use vellum_store::{Progress, Watch};

use crate::catalog::{Catalog, Place};
use crate::contents::read_part;
use crate::error::BackupError;
use crate::format::{IndexObject, PACK_LEN_MAX, PackEntry, split_address};
use crate::journal::{Condition, State};
use crate::objects::{ObjectErrorKind, ObjectId, ObjectKind, ObjectName};
use crate::prune::reach::Needed;
use crate::reader::Reader;
use crate::record::{Content, MapPart};
use crate::repository::Repository;
use crate::seal::SealError;
use crate::session::remove_leftovers;

/// Frames that are read together: 16 MiB of plain chunks.
const FRAMES_AT_ONCE: usize = 128;
/// The number of looks at a repository that changes meanwhile.
const LOOKS_MAX: usize = 4;

const NOT_THERE: &str = "it is not there";
const TOO_SHORT: &str = "it is too short";

/// The extent of a verification.
#[derive(Clone, Copy, Debug, Default)]
pub struct VerifyOptions {
    /// Read chunks and check them against their names.
    pub read_data: bool,
    /// The share of the packs to read: only the `.0`th of `.1` parts, counted from one; all parts
    /// together are all packs.
    pub subset: Option<(u32, u32)>,
}

/// The result of a verification.
#[derive(Clone, Debug, Default)]
pub struct VerifyReport {
    /// Points that were followed.
    pub points: u64,
    /// Contents that were read.
    pub contents: u64,
    /// Packs whose chunks were read.
    pub packs_read: u64,
    /// Bytes of them.
    pub read_len: u64,
    /// The damage. If all data was read and there is nothing here, every point restores.
    pub findings: Vec<Finding>,
    /// Packs, index objects and maps objects that cannot be relied upon, with the points that need
    /// what is lost of them.
    pub damaged: BTreeMap<ObjectName, BTreeSet<String>>,
    /// The contents of which something is lost, by identity: not those that are relative to them.
    pub(crate) contents_hit: BTreeSet<String>,
    /// The index objects that it went by.
    pub(crate) indexes: BTreeSet<ObjectId>,
}

/// A damaged or missing object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The object, and where in it.
    pub object: String,
    /// The damage.
    pub reason: String,
    /// The IDs of the points that need it.
    pub points: Vec<String>,
    /// True if it was repaired.
    pub is_mended: bool,
}

/// Looks at a repository. Damage is in the report; an error is a place that does not answer. What
/// is missing may have been moved by a collection beside: what is found is looked at anew if the
/// journal is another one then.
pub fn verify(
    repository: &Repository,
    options: &VerifyOptions,
    watch: &dyn Watch,
) -> Result<VerifyReport, BackupError> {
    // What is left of killed pushes is in nobody's way.
    let _ = remove_leftovers(repository, None);
    let mut mended: Vec<Finding> = Vec::new();
    for look in 1..=LOOKS_MAX {
        let before = repository.refresh_with_copies()?;
        let looked = verify_once(repository, options, watch);
        let is_final = match &looked {
            Ok(report) => report.findings.is_empty(),
            Err(BackupError::Objects { source, .. }) => source.kind != ObjectErrorKind::Missing,
            Err(_) => true,
        };
        let is_last = is_final || look == LOOKS_MAX;
        if is_last || repository.refresh()?.heads() == before.heads() {
            let mut report = looked?;
            report.findings.splice(..0, mended);
            return Ok(report);
        }
        let findings = looked.map(|report| report.findings).unwrap_or_default();
        mended.extend(findings.into_iter().filter(|finding| finding.is_mended));
    }
    unreachable!("the last look returns")
}

/// Looks at a repository as its journal was read last.
fn verify_once(
    repository: &Repository,
    options: &VerifyOptions,
    watch: &dyn Watch,
) -> Result<VerifyReport, BackupError> {
    let state = repository.state();
    let needed = Needed::by_points(&state);
    let mut check = Check::of(repository, &state)?;
    check.records(&state)?;
    check.keys()?;
    for content in &needed.missing {
        check.hit(
            &format!("content {content}"),
            "no record says what it is",
            [content.as_str()],
        );
    }
    check.chains(&state, &needed)?;
    let total = needed.entries.len() as u64;
    for (done, entry) in (0..).zip(needed.entries.values()) {
        proceed(watch, done, total)?;
        check.content(&entry.content)?;
    }
    if options.read_data {
        check.maps(&needed)?;
    }
    check.data(options, watch)?;
    check.find_readers(&needed)?;
    check.find_halves(&state, &needed, options)?;
    check.report(&state, &needed)
}

fn proceed(watch: &dyn Watch, done: u64, total: u64) -> Result<(), BackupError> {
    watch.report_progress(Progress {
        done,
        total: Some(total),
    });
    if watch.is_cancelled() {
        Err(BackupError::Interrupted)
    } else {
        Ok(())
    }
}

/// An object, and what is wrong with it.
type Fault = (String, String);

/// The state of a running verification. Damage is recorded with the contents that need the damaged
/// object.
struct Check<'a> {
    repository: &'a Repository,
    catalog: Arc<Catalog>,
    lengths: BTreeMap<ObjectName, u64>,
    /// The lengths of their copies.
    copies: BTreeMap<ObjectName, u64>,
    /// Each damage, and the contents that it hits themselves.
    wrong: BTreeMap<Fault, BTreeSet<String>>,
    /// Those of them that cannot be read at all: with them, whatever is relative to them.
    unreadable: BTreeSet<String>,
    mended: BTreeSet<String>,
    /// Objects that cannot be relied upon.
    damaged: BTreeSet<ObjectName>,
    /// Objects that somebody found damaged before.
    noted: BTreeSet<ObjectName>,
    /// Frames that do not give their chunks.
    bad_frames: BTreeMap<(ObjectId, u64), Fault>,
    contents: u64,
    packs_read: u64,
    read_len: u64,
}

impl<'a> Check<'a> {
    fn of(repository: &'a Repository, state: &State) -> Result<Self, BackupError> {
        let catalog = Catalog::new(
            repository.objects().clone(),
            repository.sealer().clone(),
            repository.file().chunk_len,
            None,
        );
        let mut lengths = BTreeMap::new();
        for kind in [ObjectKind::Pack, ObjectKind::Index, ObjectKind::Maps] {
            lengths.extend(repository.list(kind)?);
        }
        let mut check = Self {
            repository,
            catalog: Arc::new(catalog),
            lengths,
            copies: repository.list_copies()?,
            wrong: BTreeMap::new(),
            unreadable: BTreeSet::new(),
            mended: BTreeSet::new(),
            damaged: BTreeSet::new(),
            noted: state.damaged().map(|(object, _)| *object).collect(),
            bad_frames: BTreeMap::new(),
            contents: 0,
            packs_read: 0,
            read_len: 0,
        };
        check.indexes(state)?;
        Ok(check)
    }

    /// Reads each index object by itself: a bad one does not hide the others. Packs that are lost,
    /// or not as long as they were, are found here, whoever needs them.
    fn indexes(&mut self, state: &State) -> Result<(), BackupError> {
        let mut good = BTreeSet::new();
        for (id, condition) in state.indexes() {
            let index = self.catalog.index(id);
            let index = index.map_err(|error| crate::prune::told(self.repository, error));
            match damage(index)?.and_then(|index| with_parts(state, id, index)) {
                Ok(index) => {
                    good.insert(*id);
                    if *condition == Condition::Firm {
                        index.packs.iter().for_each(|pack| self.listed(state, pack));
                    }
                }
                // A condemned one may go at any moment, and nothing counts on it.
                Err(_) if *condition == Condition::Condemned => {}
                Err((object, reason)) => {
                    self.damaged.insert(ObjectName::Index(*id));
                    self.hit(&object, &reason, []);
                }
            }
        }
        let doubtful = state.doubtful_packs().into_iter().collect();
        self.catalog
            .refresh(&good, doubtful)
            .map_err(|error| crate::prune::told(self.repository, error))
    }

    /// Holds a pack against the listing. One that is lost and that no point needs is no finding: a
    /// collection may have taken it from under an index object that stays.
    fn listed(&mut self, state: &State, pack: &PackEntry) {
        let name = ObjectName::Pack(pack.id);
        if self.lengths.get(&name) != Some(&pack.len) && !state.is_condemned(&name) {
            self.damaged.insert(name);
        }
    }

    /// Reads each record again from the place: this client may have a copy, and others have none.
    /// Nobody opens the repository without all.
    fn records(&mut self, state: &State) -> Result<(), BackupError> {
        let names = self
            .repository
            .journal()
            .iter()
            .map(|(name, _)| *name)
            .collect::<Vec<_>>();
        let contents: Vec<&str> = state.points().map(|point| point.content.as_str()).collect();
        let wrong: Vec<Option<(String, String)>> = names
            .par_iter()
            .map(|name| self.misnamed(&name.object()))
            .collect::<Result<_, _>>()?;
        for (name, (object, reason)) in names
            .iter()
            .zip(wrong)
            .filter_map(|(name, wrong)| Some((name, wrong?)))
        {
            if self.repository.rewrite_record(name) {
                self.hit(&object, &reason, []);
                self.mended.insert(object);
            } else {
                self.hit(&object, &reason, contents.iter().copied());
            }
        }
        Ok(())
    }

    /// Checks the key objects. A damaged one shuts out only those whose own key it is, so no point
    /// is affected.
    fn keys(&mut self) -> Result<(), BackupError> {
        for name in self.key_names()? {
            if let Some((object, reason)) = self.misnamed(&name)? {
                self.hit(&object, &reason, []);
            }
        }
        Ok(())
    }

    /// The key objects, also those of which only the copy is left.
    fn key_names(&self) -> Result<BTreeSet<ObjectName>, BackupError> {
        let listed = self.repository.list(ObjectKind::Key)?;
        let copied = self.copies.keys().copied();
        Ok(listed
            .into_iter()
            .map(|(name, _)| name)
            .chain(copied.filter(|name| name.kind() == ObjectKind::Key))
            .collect())
    }

    /// The damage to an object as a whole. One that is gone was replaced a moment ago, or is
    /// reported where it is needed.
    fn misnamed(&self, name: &ObjectName) -> Result<Option<(String, String)>, BackupError> {
        let object = name.to_string();
        match damage(
            self.repository
                .objects()
                .get(&object)
                .map_err(|error| self.repository.failed(error)),
        )? {
            Ok(stored) if name.id() != Some(ObjectId::of(&stored)) => {
                Ok(Some((object, SealError::Name.to_string())))
            }
            _ => Ok(None),
        }
    }

    /// Checks that each point's contents lead down to one without a parent, and make sense
    /// together.
    fn chains(&mut self, state: &State, needed: &Needed<'_>) -> Result<(), BackupError> {
        let reader = Reader::new(self.repository);
        let contents: BTreeSet<&str> = state.points().map(|point| point.content.as_str()).collect();
        for content in contents {
            let Some(id) = ContentId::parse(content) else {
                continue;
            };
            let Err((object, reason)) = damage(reader.content(id).map(drop))? else {
                continue;
            };
            // A content that no record describes was reported already.
            if !needed
                .missing
                .iter()
                .any(|id| object.starts_with(&format!("content {id}")))
            {
                self.hit(&object, &reason, [content]);
            }
        }
        Ok(())
    }

    /// Checks that maps objects have the bytes that they are named after, also where no map stands.
    fn maps(&mut self, needed: &Needed<'_>) -> Result<(), BackupError> {
        for name in needed.maps() {
            if let Some((object, reason)) = self.misnamed(&name)? {
                self.damaged.insert(name);
                if !self.noted.contains(&name) {
                    self.hit(&object, &reason, []);
                }
            }
        }
        Ok(())
    }

    /// Notes damage that makes these contents unreadable.
    fn hit<'b>(&mut self, object: &str, reason: &str, contents: impl IntoIterator<Item = &'b str>) {
        for content in contents {
            self.unreadable.insert(content.to_owned());
            self.hit_chunk((object.to_owned(), reason.to_owned()), content);
        }
        let known = (object.to_owned(), reason.to_owned());
        self.wrong.entry(known).or_default();
    }

    /// Notes damage to a chunk that the map of a content names.
    fn hit_chunk(&mut self, fault: Fault, content: &str) {
        let known = self.wrong.entry(fault).or_default();
        known.insert(content.to_owned());
    }

    /// A content's own map, and where its chunks are.
    fn content(&mut self, content: &Content) -> Result<(), BackupError> {
        self.contents += 1;
        for part in &content.parts {
            for run in self.runs(content, part)? {
                self.run(content, run);
            }
        }
        Ok(())
    }

    /// The runs of chunks that a part of a map names; none if it is damaged, which is noted.
    fn runs(&mut self, content: &Content, part: &MapPart) -> Result<Vec<Run>, BackupError> {
        let end = part.range.0.saturating_add(part.range.1);
        if let Some(reason) = self.lacks(&part.object, end) {
            self.damaged.extend(ObjectName::parse(&part.object));
            self.hit(&part.object, reason, [content.id.as_str()]);
            return Ok(Vec::new());
        }
        match damage(read_part(self.repository, &self.catalog, content, part))? {
            Ok(pages) => Ok(pages
                .iter()
                .flat_map(|(_, page)| page.runs())
                .filter(|run| matches!(run.slot, PageEntry::Chunk(_)))
                .copied()
                .collect()),
            Err((object, reason)) => {
                self.damaged.extend(ObjectName::parse(&part.object));
                self.hit(&object, &reason, [content.id.as_str()]);
                Ok(Vec::new())
            }
        }
    }

    fn run(&mut self, content: &Content, run: Run) {
        for at in 0..run.len {
            let PageEntry::Chunk(chunk) = run.slot.advance_by(at) else {
                return;
            };
            if let Some(fault) = self.fault_of(chunk) {
                self.damaged.extend(ObjectName::parse(&fault.0));
                self.hit_chunk(fault, &content.id);
            }
        }
    }

    /// The damage to a chunk as far as it is known: by the index, the listings, and what was read.
    fn fault_of(&self, chunk: ChunkId) -> Option<Fault> {
        let Some(place) = self.catalog.locate(chunk) else {
            return Some(self.unknown(chunk));
        };
        if let Some(fault) = self.bad_frames.get(&(place.pack, place.offset)) {
            return Some(fault.clone());
        }
        let object = ObjectName::Pack(place.pack).to_string();
        let reason = self.lacks(&object, place.offset + u64::from(place.len))?;
        Some((object, reason.to_owned()))
    }

    /// One finding a segment: an index that is lost may have known a million chunks.
    fn unknown(&self, chunk: ChunkId) -> Fault {
        let segment = self
            .catalog
            .segment_of(split_address(chunk).0)
            .map_or_else(|| "?".to_owned(), |id| id.to_string());
        let reason = format!("chunks of segment {segment} are in no index of the repository");
        ("index".to_owned(), reason)
    }

    /// The damage, by the listings, to an object whose first `end` bytes are needed: none if its
    /// copy has them.
    fn lacks(&self, object: &str, end: u64) -> Option<&'static str> {
        let name = ObjectName::parse(object);
        let copy_len = name.and_then(|name| self.copies.get(&name));
        match name.and_then(|name| self.lengths.get(&name)) {
            _ if copy_len.is_some_and(|len| *len >= end) => None,
            None => Some(NOT_THERE),
            Some(len) if *len < end => Some(TOO_SHORT),
            Some(_) => None,
        }
    }

    /// Reads the chunks of all packs, or of a part of them; in any case those of packs that
    /// somebody found damaged.
    fn data(&mut self, options: &VerifyOptions, watch: &dyn Watch) -> Result<(), BackupError> {
        let packs = self.noted.iter();
        let packs = packs.filter(|name| name.kind() == ObjectKind::Pack);
        let noted: BTreeSet<ObjectId> = packs.filter_map(ObjectName::id).collect();
        if !options.read_data && noted.is_empty() {
            return Ok(());
        }
        let is_chosen = |id: &ObjectId| {
            let number = u32::from_le_bytes([id.0[0], id.0[1], id.0[2], id.0[3]]);
            let is_in = |(nth, of): (u32, u32)| of == 0 || number % of == nth.wrapping_sub(1) % of;
            noted.contains(id) || options.read_data && options.subset.is_none_or(is_in)
        };
        let mut met = BTreeSet::new();
        for index in self.catalog.indexes() {
            let index = self
                .catalog
                .index(&index)
                .map_err(|error| crate::prune::told(self.repository, error))?;
            for pack in &index.packs {
                let is_there = self.lengths.contains_key(&ObjectName::Pack(pack.id));
                if is_chosen(&pack.id) && is_there && met.insert(pack.id) {
                    proceed(watch, met.len() as u64, self.lengths.len() as u64)?;
                    self.pack(pack)?;
                }
            }
        }
        Ok(())
    }

    /// Fetches a pack once: is it what it is named after, and are its chunks?
    fn pack(&mut self, pack: &PackEntry) -> Result<(), BackupError> {
        let object = ObjectName::Pack(pack.id).to_string();
        if self
            .lengths
            .get(&ObjectName::Pack(pack.id))
            .is_none_or(|len| *len > PACK_LEN_MAX)
        {
            self.damaged.insert(ObjectName::Pack(pack.id));
            self.hit(&object, "it is longer than any pack", []);
            return Ok(());
        }
        let places: Vec<Place> = pack
            .frames
            .iter()
            .map(|frame| self.catalog.place(pack, frame))
            .collect();
        let stored = self
            .repository
            .objects()
            .get(&object)
            .map_err(|error| self.repository.failed(error));
        let stored = match damage(stored)? {
            Ok(stored) => stored,
            Err(wrong) => {
                self.bad_frames.extend(
                    places
                        .iter()
                        .map(|place| ((place.pack, place.offset), wrong.clone())),
                );
                return Ok(());
            }
        };
        self.packs_read += 1;
        self.read_len += stored.len() as u64;
        if ObjectId::of(&stored) != pack.id {
            self.damaged.insert(ObjectName::Pack(pack.id));
            if !self.noted.contains(&ObjectName::Pack(pack.id)) {
                self.hit(&object, &SealError::Name.to_string(), []);
            }
        }
        for some in places.chunks(FRAMES_AT_ONCE) {
            if self.catalog.frames_in(some, &stored).is_ok() {
                continue;
            }
            for place in some {
                let read = self.catalog.frames_in(std::slice::from_ref(place), &stored);
                if let Err(wrong) =
                    damage(read.map_err(|error| crate::prune::told(self.repository, error)))?
                {
                    self.bad_frames.insert((place.pack, place.offset), wrong);
                }
            }
        }
        Ok(())
    }

    /// Finds the contents that need the damaged frames. Reads the maps again, only if there are
    /// any.
    fn find_readers(&mut self, needed: &Needed<'_>) -> Result<(), BackupError> {
        if self.bad_frames.is_empty() {
            return Ok(());
        }
        for ((pack, _), (object, reason)) in self.bad_frames.clone() {
            self.damaged.insert(ObjectName::Pack(pack));
            if !self.noted.contains(&ObjectName::Pack(pack)) {
                self.hit(&object, &reason, []);
            }
        }
        for entry in needed.entries.values() {
            for part in &entry.content.parts {
                for run in self.runs(&entry.content, part)? {
                    self.run(&entry.content, run);
                }
            }
        }
        Ok(())
    }

    fn report(self, state: &State, needed: &Needed<'_>) -> Result<VerifyReport, BackupError> {
        let hit = self.points_hit(state, needed)?;
        let findings: Vec<Finding> = self
            .wrong
            .keys()
            .map(|fault| {
                let points: Vec<String> = hit.get(fault).into_iter().flatten().cloned().collect();
                Finding {
                    object: fault.0.clone(),
                    reason: fault.1.clone(),
                    is_mended: self.mended.contains(&fault.0) && points.is_empty(),
                    points,
                }
            })
            .collect();
        let hits = |object: &ObjectName| {
            let text = object.to_string();
            let of = findings
                .iter()
                .filter(|finding| finding.object.contains(&text));
            of.flat_map(|finding| finding.points.iter().cloned())
                .collect()
        };
        Ok(VerifyReport {
            damaged: self
                .damaged
                .iter()
                .map(|object| (*object, hits(object)))
                .collect(),
            contents_hit: self.wrong.values().flatten().cloned().collect(),
            indexes: state
                .indexes()
                .iter()
                .filter(|(_, condition)| **condition == Condition::Firm)
                .map(|(id, _)| *id)
                .collect(),
            points: state.points().count() as u64,
            contents: self.contents,
            packs_read: self.packs_read,
            read_len: self.read_len,
            findings,
        })
    }
}

/// An index object of whose segments a record that tells its parts leaves out none: readers of
/// single contents go by that.
fn with_parts(state: &State, id: &ObjectId, index: IndexObject) -> Result<IndexObject, Fault> {
    let Some(parts) = state.index_parts(id) else {
        return Ok(index);
    };
    let told: BTreeSet<&SegmentId> = parts.segments().iter().collect();
    match index
        .segments
        .keys()
        .find(|segment| !told.contains(segment))
    {
        None => Ok(index),
        Some(segment) => Err((
            ObjectName::Index(*id).to_string(),
            format!("no record tells the part of its segment {segment}"),
        )),
    }
}

/// Damage apart from a place that does not answer: the object and what is wrong with it.
fn damage<T>(result: Result<T, BackupError>) -> Result<Result<T, Fault>, BackupError> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(BackupError::Damaged { object, reason, .. }) => Ok(Err((object, reason))),
        Err(BackupError::Objects { source, .. }) if source.kind == ObjectErrorKind::Missing => {
            Ok(Err((source.name, source.what)))
        }
        Err(error) => Err(error),
    }
}
