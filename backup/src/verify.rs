//! Verification of a repository: every point's contents, maps and places of chunks; if wanted,
//! every chunk itself.
//!
//! Each finding names the object, and the points that need it. Nothing is changed, except that
//! objects are repaired from their copies if that is wanted.

mod copies;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use rayon::prelude::{IntoParallelRefIterator, ParallelIterator};
use vellum_core::identity::ContentId;
use vellum_core::page::{Run, Slot};
use vellum_core::units::ChunkId;
use vellum_store::{Progress, Watch};

use crate::catalog::{Catalog, Place};
use crate::contents::read_part;
use crate::error::BackupError;
use crate::format::{PACK_LEN_MAX, PackEntry, split_address};
use crate::journal::{Condition, State};
use crate::objects::{ObjectErrorKind, ObjectId, ObjectKind, ObjectName};
use crate::prune::reach::Needed;
use crate::reader::Reader;
use crate::record::{Content, MapPart};
use crate::repository::Repository;
use crate::seal::SealError;

/// Frames that are read together: 16 MiB of plain chunks.
const FRAMES_AT_ONCE: usize = 128;
/// The number of looks at a repository that changes meanwhile.
const LOOKS_MAX: usize = 4;

/// The extent of a verification.
#[derive(Clone, Copy, Debug, Default)]
pub struct VerifyOptions {
    /// Read chunks and check them against their names.
    pub read_data: bool,
    /// The share of the packs to read: only the `.0`th of `.1` parts, counted from one; all parts
    /// together are all packs.
    pub subset: Option<(u32, u32)>,
    /// Write an object anew if only its copy is whole, and the other way round.
    pub repair: bool,
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
    let mut mended: Vec<Finding> = Vec::new();
    for look in 1..=LOOKS_MAX {
        let before = repository.refresh()?;
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
        check.data(options.subset, watch)?;
        check.find_readers(&needed)?;
    }
    check.find_halves(&state, &needed, options)?;
    Ok(check.report(&state, &needed))
}

fn proceed(watch: &dyn Watch, done: u64, total: u64) -> Result<(), BackupError> {
    watch.progress(Progress {
        done,
        total: Some(total),
    });
    if watch.is_cancelled() {
        Err(BackupError::Interrupted)
    } else {
        Ok(())
    }
}

/// The state of a running verification. Damage is recorded with the contents that need the damaged
/// object.
struct Check<'a> {
    repository: &'a Repository,
    catalog: Catalog,
    lengths: BTreeMap<ObjectName, u64>,
    /// The lengths of their copies.
    copies: BTreeMap<ObjectName, u64>,
    wrong: BTreeMap<(String, String), BTreeSet<String>>,
    mended: BTreeSet<String>,
    /// Frames that do not give their chunks.
    bad_frames: BTreeMap<(ObjectId, u64), (String, String)>,
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
            catalog,
            lengths,
            copies: repository.list_copies()?,
            wrong: BTreeMap::new(),
            mended: BTreeSet::new(),
            bad_frames: BTreeMap::new(),
            contents: 0,
            packs_read: 0,
            read_len: 0,
        };
        check.indexes(state)?;
        Ok(check)
    }

    /// Reads each index object by itself: a bad one does not hide the others.
    fn indexes(&mut self, state: &State) -> Result<(), BackupError> {
        let mut good = BTreeSet::new();
        for (id, condition) in state.indexes() {
            match damage(
                self.catalog
                    .index(id)
                    .map_err(|error| crate::prune::told(self.repository, error)),
            )? {
                Ok(_) => drop(good.insert(*id)),
                // A condemned one may go at any moment, and nothing counts on it.
                Err(_) if *condition == Condition::Condemned => {}
                Err((object, reason)) => self.hit(&object, &reason, []),
            }
        }
        let packs = state
            .condemned()
            .iter()
            .chain(state.swept())
            .filter(|name| name.kind() == ObjectKind::Pack);
        let condemned: HashSet<ObjectId> = packs.filter_map(ObjectName::id).collect();
        self.catalog
            .refresh(&good, condemned)
            .map_err(|error| crate::prune::told(self.repository, error))
    }

    /// Reads each record again from the place: this client may have a copy, and others have none.
    /// Nobody opens the repository without all.
    fn records(&mut self, state: &State) -> Result<(), BackupError> {
        let objects = self
            .repository
            .journal()
            .iter()
            .map(|(name, _)| name.object())
            .collect::<Vec<_>>();
        let contents: Vec<&str> = state.points().map(|point| point.content.as_str()).collect();
        let wrong: Vec<Option<(String, String)>> = objects
            .par_iter()
            .map(|name| self.misnamed(name))
            .collect::<Result<_, _>>()?;
        for (object, reason) in wrong.into_iter().flatten() {
            self.hit(&object, &reason, contents.iter().copied());
        }
        Ok(())
    }

    /// Checks the key objects. A damaged one shuts out only those whose own key it is, so no point
    /// is affected.
    fn keys(&mut self) -> Result<(), BackupError> {
        for (name, _) in self.repository.list(ObjectKind::Key)? {
            if let Some((object, reason)) = self.misnamed(&name)? {
                self.hit(&object, &reason, []);
            }
        }
        Ok(())
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
                self.hit(&object, &reason, []);
            }
        }
        Ok(())
    }

    fn hit<'b>(&mut self, object: &str, reason: &str, contents: impl IntoIterator<Item = &'b str>) {
        let known = self
            .wrong
            .entry((object.to_owned(), reason.to_owned()))
            .or_default();
        known.extend(contents.into_iter().map(str::to_owned));
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
            self.hit(&part.object, reason, [content.id.as_str()]);
            return Ok(Vec::new());
        }
        match damage(read_part(self.repository, &self.catalog, content, part))? {
            Ok(pages) => Ok(pages
                .iter()
                .flat_map(|(_, page)| page.runs())
                .filter(|run| matches!(run.slot, Slot::Chunk(_)))
                .copied()
                .collect()),
            Err((object, reason)) => {
                self.hit(&object, &reason, [content.id.as_str()]);
                Ok(Vec::new())
            }
        }
    }

    fn run(&mut self, content: &Content, run: Run) {
        for at in 0..run.len {
            let Slot::Chunk(chunk) = run.slot.advance(at) else {
                return;
            };
            let Some(place) = self.catalog.locate(chunk) else {
                self.unknown(content, chunk);
                continue;
            };
            let object = ObjectName::Pack(place.pack);
            let end = place.offset + u64::from(place.len);
            if let Some(reason) = self.lacks(&object.to_string(), end) {
                self.hit(&object.to_string(), reason, [content.id.as_str()]);
            }
        }
    }

    /// One finding a segment: an index that is lost may have known a million chunks.
    fn unknown(&mut self, content: &Content, chunk: ChunkId) {
        let segment = self
            .catalog
            .segment_of(split_address(chunk).0)
            .map_or_else(|| "?".to_owned(), |id| id.to_string());
        self.hit(
            "index",
            &format!("chunks of segment {segment} are in no index of the repository"),
            [content.id.as_str()],
        );
    }

    /// The damage, by the listings, to an object whose first `end` bytes are needed: none if its
    /// copy has them.
    fn lacks(&self, object: &str, end: u64) -> Option<&'static str> {
        let name = ObjectName::parse(object);
        let copy_len = name.and_then(|name| self.copies.get(&name));
        match name.and_then(|name| self.lengths.get(&name)) {
            _ if copy_len.is_some_and(|len| *len >= end) => None,
            None => Some("it is not there"),
            Some(len) if *len < end => Some("it is too short"),
            Some(_) => None,
        }
    }

    /// Reads the chunks of all packs, or of a part of them.
    fn data(&mut self, subset: Option<(u32, u32)>, watch: &dyn Watch) -> Result<(), BackupError> {
        let is_chosen = |id: &ObjectId| {
            let number = u32::from_le_bytes([id.0[0], id.0[1], id.0[2], id.0[3]]);
            subset.is_none_or(|(nth, of)| of == 0 || number % of == nth.wrapping_sub(1) % of)
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
            self.hit(&object, &SealError::Name.to_string(), []);
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
        let bad = std::mem::take(&mut self.bad_frames);
        for (object, reason) in bad.values() {
            self.hit(object, reason, []);
        }
        if bad.is_empty() {
            return Ok(());
        }
        for entry in needed.entries.values() {
            for part in &entry.content.parts {
                for run in self.runs(&entry.content, part)? {
                    self.blame(&bad, &entry.content, run);
                }
            }
        }
        Ok(())
    }

    fn blame(
        &mut self,
        bad: &BTreeMap<(ObjectId, u64), (String, String)>,
        content: &Content,
        run: Run,
    ) {
        for at in 0..run.len {
            let Slot::Chunk(chunk) = run.slot.advance(at) else {
                return;
            };
            let place = self.catalog.locate(chunk);
            if let Some((object, reason)) =
                place.and_then(|place| bad.get(&(place.pack, place.offset)))
            {
                self.hit(object, reason, [content.id.as_str()]);
            }
        }
    }

    fn report(self, state: &State, needed: &Needed<'_>) -> VerifyReport {
        let parents: BTreeMap<&str, Option<&str>> = needed
            .entries
            .values()
            .map(|entry| (entry.content.id.as_str(), entry.content.parent.as_deref()))
            .collect();
        let bad: BTreeSet<&str> = self.wrong.values().flatten().map(String::as_str).collect();
        let mut readers = BTreeMap::<&str, BTreeSet<&str>>::new();
        for point in state.points() {
            let (mut next, mut seen) = (Some(point.content.as_str()), BTreeSet::new());
            while let Some(id) = next.filter(|id| seen.insert(*id)) {
                if bad.contains(id) {
                    readers.entry(id).or_default().insert(&point.id);
                }
                next = parents.get(id).copied().flatten();
            }
        }
        let finding = |((object, reason), contents): (&(String, String), &BTreeSet<String>)| {
            let points: BTreeSet<&str> = contents
                .iter()
                .filter_map(|id| readers.get(id.as_str()))
                .flatten()
                .copied()
                .collect();
            let is_mended = self.mended.contains(object) && points.is_empty();
            Finding {
                object: object.clone(),
                reason: reason.clone(),
                points: points.into_iter().map(str::to_owned).collect(),
                is_mended,
            }
        };
        VerifyReport {
            points: state.points().count() as u64,
            contents: self.contents,
            packs_read: self.packs_read,
            read_len: self.read_len,
            findings: self.wrong.iter().map(finding).collect(),
        }
    }
}

/// Damage apart from a place that does not answer: the object and what is wrong with it.
fn damage<T>(result: Result<T, BackupError>) -> Result<Result<T, (String, String)>, BackupError> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(BackupError::Damaged { object, reason, .. }) => Ok(Err((object, reason))),
        Err(BackupError::Objects { source, .. }) if source.kind == ObjectErrorKind::Missing => {
            Ok(Err((source.name, source.what)))
        }
        Err(error) => Err(error),
    }
}
