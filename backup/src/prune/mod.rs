//! Garbage collection of a repository: what nothing needs is condemned, and deleted once no session
//! can be building on it. `journal` proves why that is safe.
//!
//! One run condemns and, if no other session is open, sweeps. Otherwise the next run sweeps, once
//! those sessions are gone.

mod choice;
mod fence;
mod mark;
mod merge;
pub(crate) mod reach;
mod repack;
#[cfg(test)]
mod retained_tests;
#[cfg(test)]
mod space_tests;
mod survey;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use vellum_core::identity::SessionId;
use vellum_store::Watch;

use crate::catalog::{Catalog, CatalogError, ListedIndex};
use crate::error::BackupError;
use crate::format::PackEntry;
use crate::journal::{Condition, MarkState, RecordName, State, Status};
use crate::objects::twice::copy_of;
use crate::objects::{ObjectErrorKind, ObjectId, ObjectKind, ObjectName};
use crate::record::{Record, Said, Sweep};
use crate::repository::Repository;
use crate::session::{OpenSession, Session, SessionKind, Writer, open_sessions, remove_leftovers};
use reach::Needed;

/// The options of a collection.
#[derive(Clone, Debug)]
pub struct PruneOptions {
    /// Packs are written anew until at most this much of all of them is not needed, in percent.
    pub max_unused_percent: u32,
    /// The greatest number of needed bytes that one run moves; none for no limit.
    pub repack_limit: Option<u64>,
    /// Packs shorter than this become one with others, in bytes.
    pub small_pack_len: u64,
    /// Sessions to end for good before anything else.
    pub fence: FenceWish,
    /// Plan only, and report what would be done.
    pub is_dry_run: bool,
}

impl Default for PruneOptions {
    fn default() -> Self {
        Self {
            max_unused_percent: 5,
            repack_limit: None,
            small_pack_len: 8 << 20,
            fence: FenceWish::None,
            is_dry_run: false,
        }
    }
}

impl PruneOptions {
    /// The same without writing anew what is needed of packs.
    fn without_moves(&self) -> Self {
        Self {
            repack_limit: Some(0),
            small_pack_len: 0,
            ..self.clone()
        }
    }
}

/// The sessions that a collection ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FenceWish {
    /// No session.
    None,
    /// The sessions of this list.
    Some(Vec<SessionId>),
    /// All that are open.
    All,
}

/// The result of a collection, or its forecast.
#[derive(Clone, Debug, Default)]
pub struct PruneReport {
    /// Objects that are condemned now by this run, and their bytes.
    pub condemned: Amount,
    /// Contents that are condemned now by this run.
    pub condemned_contents: u64,
    /// Objects that were deleted, and their bytes.
    pub swept: Amount,
    /// Objects that the place did not let go of: the next collection tries again. Records and
    /// copies count no bytes.
    pub retained: Amount,
    /// True if the place keeps what was deleted as an older version, so that its bytes are free
    /// once the place lets those go.
    pub keeps_versions: bool,
    /// Bytes of new packs into which needed chunks moved (in a dry run: of chunks that would move).
    pub moved_len: u64,
    /// Bytes of packs that are free then: of frames that no point needs, in packs that go, and of
    /// packs that nothing knew of. If something is waited for, once it has ended.
    pub freed_len: u64,
    /// Contents that became part of others.
    pub merged_contents: u64,
    /// Records that one stands for now.
    pub replaced_records: u64,
    /// Packs that are damaged and stay, since points need them: [`crate::verify`] names those.
    pub damaged_packs: u64,
    /// Files that interrupted puts had left.
    pub leftovers: u64,
    /// Sessions that were ended.
    pub fenced: Vec<OpenSession>,
    /// Sessions that must end, or be fenced, before what is condemned can go.
    pub waits_for: Vec<OpenSession>,
    /// Bytes of packs when the run began, and how many of them are needed.
    pub packs_len: u64,
    /// The needed part of those, in bytes.
    pub used_len: u64,
}

/// Some objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// The number of objects.
    pub count: u64,
    /// Their length together in bytes.
    pub len: u64,
}

impl Amount {
    fn add(&mut self, len: u64) {
        self.count += 1;
        self.len += len;
    }
}

/// Collects. Another collection that is open is an error ([`BackupError::Locked`]); other sessions
/// are not.
pub fn prune(
    repository: &Repository,
    options: &PruneOptions,
    writer: Writer,
    watch: &dyn Watch,
) -> Result<PruneReport, BackupError> {
    if options.is_dry_run {
        repository.refresh()?;
        return outlook(repository, &BTreeSet::new(), options);
    }
    repository.refuse_writer("give space back")?;
    let session = Session::begin(repository, SessionKind::Prune, writer)?;
    let mut collection = Collection::of(repository, session);
    let outcome = collection.run_where_there_is_room(options, watch);
    let Collection {
        session,
        retained,
        report,
        ..
    } = collection;
    let report = PruneReport {
        retained: retained.values().fold(Amount::default(), |mut all, len| {
            all.add(*len);
            all
        }),
        keeps_versions: repository.objects().keeps_versions(),
        ..report
    };
    match outcome {
        Ok(()) => session.end().map(|()| report),
        Err(error) => Err(error),
    }
}

/// Ends the sessions of processes that died on the writer's machine: they go with the next session
/// there that does something, and nobody on another machine has to wait or to judge. Returns them.
/// Cost: a listing if there are none. Beside a collection, nothing is done: it does the same.
pub(crate) fn end_dead_sessions(
    repository: &Repository,
    writer: &Writer,
) -> Result<Vec<OpenSession>, BackupError> {
    if writer.process.is_none() {
        return Ok(Vec::new());
    }
    let open = open_sessions(repository)?;
    if !open.iter().any(|session| session.is_dead(writer)) {
        return Ok(Vec::new());
    }
    let session = Session::begin(repository, SessionKind::Prune, writer.clone())?;
    let mut collection = Collection::of(repository, session);
    match collection.refuse_beside_another(&FenceWish::None) {
        Ok(()) => collection.fence(&FenceWish::None)?,
        Err(BackupError::Locked { .. }) => {}
        Err(error) => return Err(error),
    }
    let Collection {
        session, report, ..
    } = collection;
    session.end().map(|()| report.fenced)
}

/// The forecast of a collection now if these points, by id, were forgotten. Changes nothing. Cost:
/// reads index and maps, as a collection does.
pub fn outlook(
    repository: &Repository,
    forgotten: &BTreeSet<String>,
    options: &PruneOptions,
) -> Result<PruneReport, BackupError> {
    let state = repository.state().without(forgotten);
    let (listing, mut report) = (Listing::of(repository)?, PruneReport::default());
    let waiting: Vec<_> = state.marks().iter().collect();
    let sweeps = if waiting.is_empty() {
        Vec::new()
    } else {
        sweeps(repository, &state, &waiting)?
    };
    let swept = sweeps
        .iter()
        .flat_map(|sweep| &sweep.objects)
        .filter_map(|text| ObjectName::parse(text));
    let swept: BTreeSet<ObjectName> = swept.chain(state.swept().iter().copied()).collect();
    report.freed_len = swept.iter().map(|object| listing.pack_len(object)).sum();
    mark::plan_only(repository, &state, &listing, options, &mut report)?;
    Ok(report)
}

/// A collection under way.
struct Collection<'a> {
    repository: &'a Repository,
    session: Session<'a>,
    listing: Listing,
    /// Objects that the place did not let go of, and their lengths. They stay in the listing, and
    /// those that were swept in the record that stands for all, so every later collection meets
    /// them.
    retained: BTreeMap<ObjectName, u64>,
    report: PruneReport,
}

impl<'a> Collection<'a> {
    fn of(repository: &'a Repository, session: Session<'a>) -> Self {
        Self {
            repository,
            session,
            listing: Listing::default(),
            retained: BTreeMap::new(),
            report: PruneReport::default(),
        }
    }
}

impl Collection<'_> {
    /// Collects; where there is no room to write anew what is needed in part, first without that,
    /// and then as much as there is room for.
    fn run_where_there_is_room(
        &mut self,
        options: &PruneOptions,
        watch: &dyn Watch,
    ) -> Result<(), BackupError> {
        match self.run(options, watch) {
            Err(error) if error.is_full() => {}
            done => return done,
        }
        self.repository.objects().release_reserve();
        let freed_len = std::mem::take(&mut self.report.freed_len);
        self.run(&options.without_moves(), watch)?;
        self.report.freed_len += freed_len;
        let first = self.report.clone();
        match self.run(options, watch) {
            Err(error) if error.is_full() => self.report = first,
            done => {
                done?;
                self.report.freed_len += first.freed_len;
            }
        }
        Ok(())
    }

    fn run(&mut self, options: &PruneOptions, watch: &dyn Watch) -> Result<(), BackupError> {
        self.refuse_beside_another(&options.fence)?;
        self.fence(&options.fence)?;
        if let Some(session) = self.session.state().undecided().next() {
            return Err(self.locked(format!(
                "the fence of session {session} is not decided: fence it again"
            )));
        }
        if !self.session.state().marks().is_empty() {
            self.listing = Listing::of(self.repository)?;
        }
        let before = self.listing.packs_len();
        self.sweep()?;
        stop_if_asked(watch)?;
        let swept = before - self.listing.packs_len();
        // After the journal was read: whatever it names is listed, or lost.
        self.listing = Listing::of(self.repository)?;
        let before = self.listing.packs_len();
        self.delete_leftovers()?;
        self.report.freed_len = swept + before - self.listing.packs_len();
        if self.mark(options)? {
            self.wait_for_all()?;
            let before = self.retained_packs_len();
            self.sweep()?;
            // They were to be freed, as far as the mark could know.
            let kept = self.retained_packs_len().saturating_sub(before);
            self.report.freed_len = self.report.freed_len.saturating_sub(kept);
        }
        Ok(())
    }

    /// One collection at a time: who sees another after announcing itself withdraws. Both may, but
    /// never neither.
    fn refuse_beside_another(&self, wish: &FenceWish) -> Result<(), BackupError> {
        let is_prune = |session: &OpenSession| {
            session
                .file
                .as_ref()
                .is_none_or(|file| file.kind == SessionKind::Prune)
        };
        let others = self
            .others()?
            .into_iter()
            .filter(|session| is_prune(session) && !self.is_to_end(session, wish));
        let sessions: Vec<OpenSession> = others.collect();
        if sessions.is_empty() {
            return Ok(());
        }
        let what = "another collection is at work".to_owned();
        Err(BackupError::Locked {
            place: self.repository.place(),
            what,
            sessions,
        })
    }

    fn locked(&self, what: String) -> BackupError {
        BackupError::Locked {
            place: self.repository.place(),
            what,
            sessions: Vec::new(),
        }
    }

    fn others(&self) -> Result<Vec<OpenSession>, BackupError> {
        let mut sessions = open_sessions(self.repository)?;
        sessions.retain(|session| session.id != self.session.id());
        Ok(sessions)
    }

    /// Deletes objects that an interrupted collection swept and did not delete, and records that
    /// were replaced and are still there.
    fn delete_leftovers(&mut self) -> Result<(), BackupError> {
        let state = self.session.state().clone();
        let swept: Vec<ObjectName> = state
            .swept()
            .iter()
            .filter(|object| self.listing.has(object))
            .copied()
            .collect();
        self.delete(&swept)?;
        let journal = self.repository.journal();
        let replaced = journal
            .iter()
            .filter(|(name, _)| state.status(name) == Some(Status::Replaced));
        for (name, _) in replaced {
            self.let_go(&name.object())?;
        }
        self.pair_copies(&state)?;
        let own = Some(self.session.id());
        // One that stays is in nobody's way.
        self.report.leftovers = remove_leftovers(self.repository, own).unwrap_or(0);
        Ok(())
    }

    /// Puts the other half of a pair back where one is lost. What is alone and says nothing goes.
    ///
    /// Copies are seen before it is known that no other session is open, and objects after that:
    /// whoever was just between the two is open, or has put both.
    fn pair_copies(&mut self, state: &State) -> Result<(), BackupError> {
        let copies = self.repository.list_copies()?;
        let is_alone = self.others()?.is_empty();
        let mut there = BTreeSet::from([ObjectName::Repository]);
        for kind in [
            ObjectKind::Key,
            ObjectKind::Index,
            ObjectKind::Maps,
            ObjectKind::Record,
        ] {
            let names = self.repository.list(kind)?;
            there.extend(names.into_iter().map(|(name, _)| name));
        }
        let maps = Needed::by_all(state).maps();
        let journal = self.repository.journal();
        let says = |name: &ObjectName| match name {
            ObjectName::Index(id) => state.indexes().contains_key(id),
            ObjectName::Maps(_) => maps.contains(name),
            ObjectName::Record { .. } => {
                RecordName::of_object(name).is_some_and(|record| !journal.is_replaced(&record))
            }
            _ => true,
        };
        let (twice, mut is_read_again) = (self.repository.twice(), false);
        for lone in copies.keys().filter(|name| !there.contains(name)) {
            if says(lone) {
                is_read_again |= twice.put_back(lone) && lone.kind() == ObjectKind::Record;
            } else if let Some(copy) = copy_of(lone).filter(|_| is_alone) {
                match twice.place().delete(&copy) {
                    Err(error) if error.kind == ObjectErrorKind::Denied => {
                        self.retained.insert(*lone, 0);
                    }
                    deleted => deleted.map_err(|error| self.repository.failed(error))?,
                }
            }
        }
        for whole in there.iter().filter(|name| !copies.contains_key(name)) {
            if says(whole) {
                self.repository.complete_pair(whole)?;
            }
        }
        if is_read_again {
            self.session.refuse_fenced()?;
        }
        Ok(())
    }

    fn delete(&mut self, objects: &[ObjectName]) -> Result<(), BackupError> {
        for object in objects {
            if !self.let_go(object)? {
                continue;
            }
            if let Some(len) = self.listing.lengths.remove(object) {
                self.report.swept.add(len);
            }
        }
        Ok(())
    }

    /// Deletes an object; false if the place retains it, which is no error.
    fn let_go(&mut self, object: &ObjectName) -> Result<bool, BackupError> {
        match self.repository.objects().delete(&object.to_string()) {
            Ok(()) => {
                self.retained.remove(object);
                Ok(true)
            }
            Err(error) if error.kind == ObjectErrorKind::Denied => {
                let len = self.listing.lengths.get(object).copied().unwrap_or(0);
                self.retained.insert(*object, len);
                Ok(false)
            }
            Err(error) => Err(self.repository.failed(error)),
        }
    }

    fn retained_packs_len(&self) -> u64 {
        let packs = self.retained.iter();
        packs
            .filter(|(object, _)| object.kind() == ObjectKind::Pack)
            .map(|(_, len)| len)
            .sum()
    }

    /// Writes down the sessions that are open now, after the mark can be seen: they may not have
    /// seen it. If nobody is, it can be swept at once.
    fn wait_for_all(&mut self) -> Result<(), BackupError> {
        let others = self.others()?;
        let open: Vec<String> = others
            .iter()
            .map(|session| session.id.to_string())
            .collect();
        let waits = self.session.state().waits_for(&open);
        if waits.is_empty() || others.is_empty() {
            return Ok(());
        }
        self.session.commit(Record {
            waits,
            ..Record::default()
        })?;
        Ok(())
    }

    /// Takes away what marks condemned that everybody has seen, and that nothing needs.
    fn sweep(&mut self) -> Result<(), BackupError> {
        let others = self.others()?;
        let open: BTreeSet<String> = others
            .iter()
            .map(|session| session.id.to_string())
            .collect();
        // Only now: whoever is gone from that listing said all that they will.
        self.session.refuse_fenced()?;
        let state = self.session.state().clone();
        let (ready, waiting): (Vec<_>, Vec<_>) = state
            .marks()
            .iter()
            .partition(|(_, mark)| mark.is_seen(&open));
        let waited: BTreeSet<&String> = waiting
            .iter()
            .flat_map(|(_, mark)| mark.waits.iter().flatten())
            .collect();
        self.report.waits_for = others
            .into_iter()
            .filter(|session| {
                waiting.iter().any(|(_, mark)| mark.waits.is_empty())
                    || waited.contains(&session.id.to_string())
            })
            .collect();
        if ready.is_empty() {
            return Ok(());
        }
        let sweeps = sweeps(self.repository, &state, &ready)?;
        let objects: Vec<ObjectName> = sweeps
            .iter()
            .flat_map(|sweep| &sweep.objects)
            .filter_map(|text| ObjectName::parse(text))
            .collect();
        self.session.commit_in_parts(Record {
            sweeps,
            ..Record::default()
        })?;
        self.delete(&objects)
    }
}

/// The sweeps of these marks: what they condemned and nothing else needs.
fn sweeps(
    repository: &Repository,
    state: &State,
    ready: &[(&String, &MarkState)],
) -> Result<Vec<Sweep>, BackupError> {
    let is_swept = |id: &String, _: &MarkState| ready.iter().any(|(swept, _)| *swept == id);
    let needed = Needed::by_all_that_stays(state, &is_swept);
    refuse_missing(state, &needed)?;
    let condemned = |kind: ObjectKind| {
        ready
            .iter()
            .any(|(_, mark)| mark.objects.iter().any(|object| object.kind() == kind))
    };
    let catalog = if condemned(ObjectKind::Pack) || condemned(ObjectKind::Index) {
        Some(catalog(repository)?)
    } else {
        None
    };
    let kept = match &catalog {
        Some(catalog) => kept_places(repository, state, catalog, &needed)?,
        None => BTreeSet::new(),
    };
    let maps = needed.maps();
    let goes = |object: &ObjectName| match object.kind() {
        ObjectKind::Maps => !maps.contains(object),
        ObjectKind::Pack | ObjectKind::Index => !kept.contains(object),
        _ => false,
    };
    let of = |(id, mark): &(&String, &MarkState)| needed.sweep(id, mark, &goes);
    Ok(ready.iter().map(of).collect())
}

/// The condemned packs without which a needed chunk is nowhere, and the condemned index objects
/// without which such a pack, or one that is not condemned, is not found.
fn kept_places(
    repository: &Repository,
    state: &State,
    catalog: &Catalog,
    needed: &Needed<'_>,
) -> Result<BTreeSet<ObjectName>, BackupError> {
    let chunks = needed.chunks(repository, catalog)?;
    let mut kept = BTreeSet::new();
    let indexes = |wanted: Condition| {
        state
            .indexes()
            .iter()
            .filter(move |(_, condition)| **condition == wanted)
            .map(|(id, _)| id)
    };
    let is_condemned = |pack: &PackEntry| state.is_condemned(&ObjectName::Pack(pack.id));
    let is_sole = |segment, ordinal| {
        let chunk = crate::format::address(catalog.number_of(segment), ordinal);
        chunks.contains(chunk) && catalog.locate(chunk).is_none_or(|place| place.is_condemned)
    };
    let has_sole = |pack: &PackEntry| {
        pack.frames.iter().any(|frame| {
            frame
                .ordinals()
                .any(|ordinal| is_sole(frame.segment, ordinal))
        })
    };
    let found = packs_of(repository, catalog, indexes(Condition::Firm))?;
    for id in indexes(Condition::Condemned) {
        for pack in &catalog
            .index(id)
            .map_err(|error| told(repository, error))?
            .packs
        {
            let is_needed = if is_condemned(pack) {
                has_sole(pack)
            } else {
                !found.contains(&pack.id)
            };
            if is_needed {
                kept.extend([ObjectName::Pack(pack.id), ObjectName::Index(*id)]);
            }
        }
    }
    // A condemned pack that a firm index names, too, is found without its condemned index.
    for id in indexes(Condition::Firm) {
        for pack in &catalog
            .index(id)
            .map_err(|error| told(repository, error))?
            .packs
        {
            if is_condemned(pack) && has_sole(pack) {
                kept.insert(ObjectName::Pack(pack.id));
            }
        }
    }
    Ok(kept)
}

/// A repository that lost something is not collected: what seems to be needed by nothing may be
/// needed by what is lost.
fn refuse_missing(state: &State, needed: &Needed<'_>) -> Result<(), BackupError> {
    let Some(lost) = needed.missing.first() else {
        return Ok(());
    };
    let hit = state
        .points()
        .filter(|point| point.content == *lost)
        .map(|point| point.id.clone())
        .collect();
    Err(BackupError::Damaged {
        object: format!("content {lost}"),
        reason: "no record says what it is".to_owned(),
        points: hit,
    })
}

/// A catalog of a repository as its state is now.
pub fn catalog(repository: &Repository) -> Result<Catalog, BackupError> {
    let catalog = kept_indexes(repository);
    refresh(repository, &catalog)?;
    Ok(catalog)
}

/// A catalog that knows no index yet, over those that the client keeps.
pub(crate) fn kept_indexes(repository: &Repository) -> Catalog {
    let cache = repository.cache_folder().map(|folder| folder.join("index"));
    Catalog::new(
        repository.objects().clone(),
        repository.sealer().clone(),
        repository.file().chunk_len,
        cache,
    )
}

/// Brings a catalog up to date with a repository's state. Chunks that nothing may be built on are
/// in packs that count as condemned there.
pub fn refresh(repository: &Repository, catalog: &Catalog) -> Result<(), BackupError> {
    let state = repository.state();
    let mut indexes: BTreeSet<ObjectId> = state.indexes().keys().copied().collect();
    let condemned: HashSet<ObjectId> = state.doubtful_packs().into_iter().collect();
    refresh_with(repository, &state, &mut indexes, &|indexes| {
        catalog.refresh(indexes, condemned.clone())
    })?;
    if state.undecided_indexes().is_disjoint(&indexes) {
        return Ok(());
    }
    let open = packs_of(
        repository,
        catalog,
        indexes
            .iter()
            .filter(|id| state.undecided_indexes().contains(id)),
    )?;
    let firm = packs_of(
        repository,
        catalog,
        indexes
            .iter()
            .filter(|id| !state.undecided_indexes().contains(id)),
    )?;
    let condemned = condemned
        .into_iter()
        .chain(open.difference(&firm).copied())
        .collect();
    catalog
        .refresh(&indexes, condemned)
        .map_err(|error| told(repository, error))
}

/// The same for a reader of single contents, which loads of index objects what it meets. Where the
/// packs of some are doubtful because only undecided records name them, all are loaded at once.
pub(crate) fn refresh_on_demand(
    repository: &Repository,
    catalog: &Catalog,
) -> Result<(), BackupError> {
    let state = repository.state();
    if !state.undecided_indexes().is_empty() {
        return refresh(repository, catalog);
    }
    let (mut whole, mut listed) = (BTreeSet::new(), BTreeMap::new());
    for (id, condition) in state.indexes() {
        if let Some(parts) = state.index_parts(id) {
            let index = ListedIndex {
                parts: Arc::clone(parts),
                is_condemned: *condition == Condition::Condemned,
            };
            listed.insert(*id, index);
        } else {
            whole.insert(*id);
        }
    }
    let condemned: HashSet<ObjectId> = state.doubtful_packs().into_iter().collect();
    refresh_with(repository, &state, &mut whole, &|whole| {
        catalog.refresh_on_demand(whole, listed.clone(), condemned.clone())
    })
}

/// Does `refresh` with these index objects, and without those that a collection condemned and that
/// are gone: they may be before it is decided whether that counts, and their content is elsewhere.
fn refresh_with(
    repository: &Repository,
    state: &State,
    indexes: &mut BTreeSet<ObjectId>,
    refresh: &dyn Fn(&BTreeSet<ObjectId>) -> Result<(), CatalogError>,
) -> Result<(), BackupError> {
    loop {
        match refresh(indexes) {
            Err(error) if error.is_missing() && drop_missing(state, &error, indexes) => {}
            done => return done.map_err(|error| told(repository, error)),
        }
    }
}

/// Takes the index object that is missing out of `indexes`, if it is one that may be.
fn drop_missing(state: &State, error: &CatalogError, indexes: &mut BTreeSet<ObjectId>) -> bool {
    let CatalogError::Objects(error) = error else {
        return false;
    };
    let id = ObjectName::parse(&error.name)
        .filter(|name| name.kind() == ObjectKind::Index)
        .and_then(|name| name.id());
    id.is_some_and(|id| {
        state.indexes().get(&id) == Some(&Condition::Condemned) && indexes.remove(&id)
    })
}

pub(crate) fn packs_of<'a>(
    repository: &Repository,
    catalog: &Catalog,
    indexes: impl Iterator<Item = &'a ObjectId>,
) -> Result<HashSet<ObjectId>, BackupError> {
    let mut packs = HashSet::new();
    for id in indexes {
        packs.extend(
            catalog
                .index(id)
                .map_err(|error| told(repository, error))?
                .packs
                .iter()
                .map(|pack| pack.id),
        );
    }
    Ok(packs)
}

/// A catalog's error as one of the repository.
#[must_use]
pub fn told(repository: &Repository, error: CatalogError) -> BackupError {
    match error {
        CatalogError::Objects(error) => repository.failed(error),
        CatalogError::Seal { object, source } => BackupError::Damaged {
            object,
            reason: source.to_string(),
            points: Vec::new(),
        },
        CatalogError::Frame {
            object,
            offset,
            source,
        } => BackupError::Damaged {
            object: format!("{object}, frame at {offset}"),
            reason: source.to_string(),
            points: Vec::new(),
        },
        unknown @ CatalogError::Unknown { .. } => BackupError::Damaged {
            object: "index".to_owned(),
            reason: unknown.to_string(),
            points: Vec::new(),
        },
    }
}

fn stop_if_asked(watch: &dyn Watch) -> Result<(), BackupError> {
    if watch.is_cancelled() {
        Err(BackupError::Interrupted)
    } else {
        Ok(())
    }
}

/// The objects that can be collected, and their lengths.
#[derive(Debug, Default)]
struct Listing {
    lengths: BTreeMap<ObjectName, u64>,
}

impl Listing {
    fn of(repository: &Repository) -> Result<Self, BackupError> {
        let mut lengths = BTreeMap::new();
        for kind in [ObjectKind::Pack, ObjectKind::Index, ObjectKind::Maps] {
            lengths.extend(repository.list(kind)?);
        }
        Ok(Self { lengths })
    }

    fn has(&self, object: &ObjectName) -> bool {
        self.lengths.contains_key(object)
    }

    fn packs_len(&self) -> u64 {
        self.lengths
            .keys()
            .map(|object| self.pack_len(object))
            .sum()
    }

    /// The length of an object if it is a pack.
    fn pack_len(&self, object: &ObjectName) -> u64 {
        if object.kind() == ObjectKind::Pack {
            self.lengths.get(object).copied().unwrap_or(0)
        } else {
            0
        }
    }
}

/// The objects and contents that a mark condemns.
#[derive(Debug, Default)]
struct Condemned {
    objects: BTreeSet<ObjectName>,
    contents: BTreeSet<Said>,
}
