//! Healing: what a repository has lost is noted in its journal, and comes back from a store that
//! has it.
//!
//! A pack, index object or maps object that is lost or damaged has one way into the journal, a
//! [`DamageNote`]: from then on nothing is built on what only it holds. Then, in this order:
//!
//! 1. An index object that is lost in both places comes out of the client's cache, or is made anew
//!    from the packs that no other index object names.
//! 2. Chunks of damaged packs are looked for in the store by their names, and put again *under the
//!    addresses that they have*: every point that needs them is whole again, whoever pushed it.
//! 3. Contents of which something is lost after that (their map, or chunks of which no index
//!    object says anything) are told anew by the push, if the store shows them.
//! 4. What no point needs any more is noted as mended; a collection takes it away.
//!
//! **Invariants.** What comes back was held against its name: no damage is made worse. Nothing is
//! said to be mended that a verification does not find so. A healing that stops half way leaves
//! what it put unnamed.
//!
//! # What this does not do
//!
//! It does not find damage: listings do at a push, `verify` does. What neither the store nor the
//! repository has stays lost, and is named.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use vellum_core::hash::{ChunkHash, hash_chunks};
use vellum_core::id_set::IdSet;
use vellum_core::identity::{ContentId, SegmentId};
use vellum_core::units::ChunkId;
use vellum_store::transfer::{PlannedFrame, PointInTime, SuppliedFrame};
use vellum_store::{Store, StoreError, Watch, codec};

use crate::addressed::AddressedWriter;
use crate::catalog::Catalog;
use crate::error::BackupError;
use crate::format::{IndexObject, PackEntry, address, read_pack};
use crate::journal::{Condition, State};
use crate::objects::{ObjectErrorKind, ObjectId, ObjectKind, ObjectName};
use crate::prune::reach::Needed;
use crate::prune::told;
use crate::push::{PushRequest, restore_lost};
use crate::record::{DamageNote, Record, Sweep};
use crate::repository::Repository;
use crate::session::{Session, SessionKind, Writer};
use crate::verify::{VerifyOptions, VerifyReport, verify};

/// Chunks that are looked for together: 16 MiB of them are in memory, and their names.
const CHUNKS_TOGETHER: usize = 4096;
/// Points that a note names; of more it names none.
const NOTED_POINTS_MAX: usize = 1000;

/// The result of a healing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealReport {
    /// Chunks that were sent again.
    pub chunks: u64,
    /// Bytes of the packs with them.
    pub bytes: u64,
    /// Index objects that were lost, and are whole again or made anew.
    pub indexes: u64,
    /// Contents that were told anew.
    pub contents: u64,
    /// The points that still do not restore, by id.
    pub points: Vec<String>,
}

/// A healing under way.
pub(crate) struct Healing {
    report: HealReport,
    found: VerifyReport,
    /// Objects that were called damaged before it began.
    doubted: BTreeSet<ObjectName>,
    /// Contents of which something is lost still.
    pub(crate) lost: HashSet<ContentId>,
    /// The store that it comes from, by identity.
    store: Option<String>,
}

/// A chunk that is to come back: its address and its name.
type Wanted = ((SegmentId, u32), ChunkHash);

/// True if something is noted as damaged that the store with this identity may have.
pub(crate) fn is_due(state: &State, store: &str) -> bool {
    state
        .damaged()
        .any(|(_, note)| !note.mended && !note.tried.iter().any(|tried| tried == store))
}

/// The points of `ids` that a note says, or may mean, to be hit.
pub(crate) fn noted_points<'a>(state: &State, ids: impl Iterator<Item = &'a str>) -> Vec<String> {
    let open: Vec<&DamageNote> = state
        .damaged()
        .map(|(_, note)| note)
        .filter(|note| !note.mended)
        .collect();
    let is_hit = |id: &&str| {
        open.iter()
            .any(|note| note.points.is_empty() || note.points.iter().any(|point| point == id))
    };
    ids.filter(is_hit).map(str::to_owned).collect()
}

/// True if a listing shows that something is lost that the journal relies on; `packs` are those
/// that index objects name. Three listings; nothing is read.
pub(crate) fn is_lost(
    repository: &Repository,
    state: &State,
    packs: &BTreeMap<ObjectId, u64>,
) -> Result<bool, BackupError> {
    let listed = |kind| Ok::<_, BackupError>(BTreeMap::from_iter(repository.list(kind)?));
    let there = listed(ObjectKind::Pack)?;
    let doubtful = state.doubtful_packs();
    let is_whole = |(id, len): (&ObjectId, &u64)| {
        doubtful.contains(id) || there.get(&ObjectName::Pack(*id)) == Some(len)
    };
    if !packs.iter().all(is_whole) {
        return Ok(true);
    }
    let there = listed(ObjectKind::Index)?;
    let mut firm = state.indexes().iter();
    if !firm.all(|(id, condition)| {
        *condition == Condition::Condemned || there.contains_key(&ObjectName::Index(*id))
    }) {
        return Ok(true);
    }
    let there = listed(ObjectKind::Maps)?;
    let needed = Needed::by_points(state);
    let mut parts = needed
        .entries
        .values()
        .flat_map(|entry| &entry.content.parts);
    let is_there = parts.all(|part| {
        let name = ObjectName::parse(&part.object);
        let len = name.and_then(|name| {
            there
                .get(&name)
                .or_else(|| state.damage_to(&name).map(|_| &u64::MAX))
        });
        len.is_some_and(|len| *len >= part.range.0.saturating_add(part.range.1))
    });
    Ok(!is_there || !needed.missing.is_empty())
}

/// Notes the damage that a verification found, so that later pushes and collections know. Returns
/// the number of notes. That a collection has moved things meanwhile is no damage: then nothing is
/// noted.
pub fn note(
    repository: &Repository,
    found: &VerifyReport,
    writer: Writer,
) -> Result<u64, BackupError> {
    if notes(&repository.state(), found, &BTreeSet::new(), None).is_empty() {
        return Ok(0);
    }
    let mut session = Session::begin(repository, SessionKind::Repair, writer)?;
    let state = session.state().clone();
    let is_still = |id: &ObjectId| state.indexes().get(id) == Some(&Condition::Firm);
    let mut count = 0;
    if found.indexes.iter().all(is_still) {
        let damaged = notes(&state, found, &BTreeSet::new(), None);
        let damaged: Vec<DamageNote> = damaged
            .into_iter()
            .filter(|note| {
                ObjectName::parse(&note.object).is_some_and(|name| !state.is_condemned(&name))
            })
            .collect();
        count = damaged.len() as u64;
        say(&mut session, damaged)?;
    }
    session.end()?;
    Ok(count)
}

/// Heals a repository without pushing anything: out of `store`, if there is one. `request` says who
/// writes, and which images are looked at for contents that are lost.
pub fn repair(
    repository: &Repository,
    store: Option<&Store>,
    request: &PushRequest,
    watch: &dyn Watch,
) -> Result<HealReport, BackupError> {
    repository.refuse_writer("repair it")?;
    repository.refresh_with_copies()?;
    let mut session = Session::begin(repository, SessionKind::Repair, request.writer.clone())?;
    let report = match store {
        Some(store) => restore_lost(&mut session, store, request, watch)?,
        None => begin(&mut session, None, &BTreeSet::new(), watch)?.end(&mut session, 0, watch)?,
    };
    session.end()?;
    Ok(report)
}

fn say(session: &mut Session<'_>, notes: Vec<DamageNote>) -> Result<(), BackupError> {
    if notes.is_empty() {
        return Ok(());
    }
    session.commit(Record {
        damaged: notes.into_iter().map(Into::into).collect(),
        ..Record::default()
    })?;
    Ok(())
}

/// The notes that the state lacks: on what is `found` damaged now, and on what was found before
/// (`also`, and older notes) and is not any more. `tried` is the store that gave what it has.
fn notes(
    state: &State,
    found: &VerifyReport,
    also: &BTreeSet<ObjectName>,
    tried: Option<&String>,
) -> Vec<DamageNote> {
    let open = state
        .damaged()
        .filter(|(_, note)| !note.mended)
        .map(|(object, _)| *object);
    let all: BTreeSet<ObjectName> = open
        .chain(found.damaged.keys().copied())
        .chain(also.iter().copied())
        .collect();
    let note = |object: ObjectName| {
        let known = state.damage_to(&object);
        let points = found.damaged.get(&object);
        let is_hit = points.is_some_and(|points| !points.is_empty());
        // What an index object said is not known any more, nor who needs it.
        let is_lost_index = points.is_some() && object.kind() == ObjectKind::Index;
        let mut note = DamageNote {
            object: object.to_string(),
            mended: !is_hit && !is_lost_index,
            points: points
                .filter(|points| points.len() <= NOTED_POINTS_MAX)
                .map(|points| points.iter().cloned().collect())
                .unwrap_or_default(),
            tried: Vec::new(),
        };
        if !note.mended {
            let before = known.filter(|known| !known.mended);
            note.tried
                .extend(before.into_iter().flat_map(|known| known.tried.clone()));
            note.tried.extend(tried.cloned());
            note.tried.sort_unstable();
            note.tried.dedup();
        }
        (known != Some(&note)).then_some(note)
    };
    all.into_iter().filter_map(note).collect()
}

/// Puts back what the repository lost of packs and index objects, as far as the client, the
/// repository's packs and `moment` have it; `suspects` are objects that somebody has just met
/// damaged. The caller tells the contents anew that are lost still, and ends it.
pub(crate) fn begin(
    session: &mut Session<'_>,
    moment: Option<&PointInTime>,
    suspects: &BTreeSet<ObjectName>,
    watch: &dyn Watch,
) -> Result<Healing, BackupError> {
    let repository = session.repository();
    let mut found = verify(repository, &VerifyOptions::default(), watch)?;
    session.refuse_fenced()?;
    let state = session.state().clone();
    let open = state.damaged().filter(|(_, note)| !note.mended);
    let doubted: BTreeSet<ObjectName> = open
        .map(|(object, _)| *object)
        .chain(suspects.iter().copied())
        .collect();
    for object in &doubted {
        found.damaged.entry(*object).or_default();
    }
    let mut healing = Healing {
        report: HealReport::default(),
        doubted,
        lost: HashSet::new(),
        store: moment
            .and_then(|moment| moment.store().id())
            .map(|id| id.to_string()),
        found,
    };
    healing.lost = healing.lost_contents(&state, &healing.found);
    let wants = |kind| healing.found.damaged.keys().any(|name| name.kind() == kind);
    if !wants(ObjectKind::Pack) && !wants(ObjectKind::Index) {
        return Ok(healing);
    }
    let mut record = healing.put_again(repository, &state, moment, watch)?;
    // Noted first as not mended: what is so, the next verification shows.
    let unmended = healing.found.damaged.keys().map(|object| DamageNote {
        object: object.to_string(),
        ..DamageNote::default()
    });
    record.damaged = unmended.map(Into::into).collect();
    session.commit(record)?;
    let again = verify(repository, &VerifyOptions::default(), watch)?;
    healing.lost = healing.lost_contents(session.state(), &again);
    Ok(healing)
}

/// The contents of which something is lost, or that are relative to such a one, or to one that no
/// record knows.
pub(crate) fn standing_on(state: &State, lost: &HashSet<ContentId>) -> HashSet<ContentId> {
    if lost.is_empty() {
        return HashSet::new();
    }
    let is_hit = |id: &ContentId| {
        let chain = state.chain(*id);
        let is_cut = chain
            .last()
            .is_some_and(|last| last.content.parent.is_some());
        is_cut
            || chain.iter().any(|entry| {
                ContentId::parse(&entry.content.id).is_some_and(|id| lost.contains(&id))
            })
    };
    let known = state.contents().map(|(id, _)| id);
    known.filter(is_hit).chain(lost.iter().copied()).collect()
}

impl Healing {
    /// The contents of which something is lost, and all that have a part in a maps object that is
    /// damaged: it goes when none needs it any more.
    fn lost_contents(&self, state: &State, found: &VerifyReport) -> HashSet<ContentId> {
        let is_bad = |object: &str| {
            ObjectName::parse(object).is_some_and(|name| {
                let points = self.found.damaged.get(&name);
                points.is_some_and(|points| !points.is_empty()) || self.doubted.contains(&name)
            })
        };
        let needed = Needed::by_points(state);
        let entries = needed.entries.values();
        let crowded = entries.filter(|entry| {
            let mut parts = entry.content.parts.iter();
            parts.any(|part| is_bad(&part.object))
        });
        found
            .contents_hit
            .iter()
            .chain(crowded.map(|entry| &entry.content.id))
            .filter_map(|id| ContentId::parse(id))
            .collect()
    }

    /// Looks at what is lost still, notes it, and reports; `contents` were told anew.
    pub(crate) fn end(
        mut self,
        session: &mut Session<'_>,
        contents: u64,
        watch: &dyn Watch,
    ) -> Result<HealReport, BackupError> {
        self.report.contents = contents;
        let left = verify(session.repository(), &VerifyOptions::default(), watch)?;
        session.refuse_fenced()?;
        let also = self.found.damaged.keys().copied().collect();
        let notes = notes(session.state(), &left, &also, self.store.as_ref());
        say(session, notes)?;
        let points = left
            .findings
            .iter()
            .flat_map(|finding| finding.points.iter().cloned());
        let points: BTreeSet<String> = points.collect();
        self.report.points = points.into_iter().collect();
        Ok(self.report)
    }

    /// Puts what can be had of packs and index objects; the record that names it.
    fn put_again(
        &mut self,
        repository: &Repository,
        state: &State,
        moment: Option<&PointInTime>,
        watch: &dyn Watch,
    ) -> Result<Record, BackupError> {
        let lost = self.lost_indexes(repository, state);
        let catalog = Catalog::new(
            repository.objects().clone(),
            repository.sealer().clone(),
            repository.file().chunk_len,
            None,
        );
        let packs = |is_hit: &dyn Fn(&ObjectName, &BTreeSet<String>) -> bool| {
            let damaged = self.found.damaged.iter();
            let packs = damaged
                .filter(|(name, points)| name.kind() == ObjectKind::Pack && is_hit(name, points));
            packs
                .filter_map(|(name, _)| name.id())
                .collect::<HashSet<ObjectId>>()
        };
        // Of one that is lost and that no point needs nothing is sent.
        let hit = packs(&|name, points| !points.is_empty() || self.doubted.contains(name));
        let mut bad = packs(&|_, _| true);
        bad.extend(state.doubtful_packs());
        let whole = state.indexes().keys().filter(|id| !lost.contains(id));
        let refreshed = catalog.refresh_with_what_is_whole(whole.copied(), bad);
        refreshed.map_err(|error| told(repository, error))?;
        let mut writer = AddressedWriter::new(repository);
        if !lost.is_empty() {
            add_unnamed_packs(repository, state, &catalog, &mut writer)?;
        }
        if let Some(moment) = moment {
            for id in catalog.indexes() {
                let index = catalog
                    .index(&id)
                    .map_err(|error| told(repository, error))?;
                let wanted = wanted(&catalog, &index, &hit);
                for some in wanted.chunks(CHUNKS_TOGETHER) {
                    if watch.is_cancelled() {
                        return Err(BackupError::Interrupted);
                    }
                    self.report.chunks += put_chunks(moment, some, &mut writer)?;
                }
            }
        }
        let (indexes, len) = writer.finish()?;
        self.report.bytes += len;
        let swept = lost.iter().map(|id| ObjectName::Index(*id).to_string());
        let sweep = Sweep {
            objects: swept.collect(),
            ..Sweep::default()
        };
        let mut record = Record {
            sweeps: if lost.is_empty() {
                Vec::new()
            } else {
                vec![sweep]
            },
            ..Record::default()
        };
        record.name_indexes(indexes);
        Ok(record)
    }

    /// Index objects that are lost for good: those that this client keeps are put back.
    fn lost_indexes(&mut self, repository: &Repository, state: &State) -> BTreeSet<ObjectId> {
        let kept = crate::prune::kept_indexes(repository);
        let damaged = self.found.damaged.keys().filter_map(|name| match name {
            ObjectName::Index(id) if state.indexes().contains_key(id) => Some(*id),
            _ => None,
        });
        let (mut lost, mut back) = (BTreeSet::new(), 0);
        for id in damaged {
            let name = ObjectName::Index(id).to_string();
            let is_back = match kept.kept_index(&id) {
                Some(stored) => repository.objects().replace(&name, &stored).is_ok(),
                // One that was met damaged may have been put back out of its copy.
                None => repository
                    .objects()
                    .get(&name)
                    .is_ok_and(|stored| ObjectId::of(&stored) == id),
            };
            back += 1;
            if !is_back {
                lost.insert(id);
            }
        }
        self.report.indexes += back;
        lost
    }
}

/// Names the packs that no index object names: those of one that is lost, and what interrupted
/// pushes left.
fn add_unnamed_packs(
    repository: &Repository,
    state: &State,
    catalog: &Catalog,
    writer: &mut AddressedWriter<'_>,
) -> Result<(), BackupError> {
    let mut indexed = BTreeSet::new();
    for id in catalog.indexes() {
        let index = catalog
            .index(&id)
            .map_err(|error| told(repository, error))?;
        indexed.extend(index.packs.iter().map(|pack| pack.id));
    }
    for (name, _) in repository.list(ObjectKind::Pack)? {
        let ObjectName::Pack(id) = name else { continue };
        if indexed.contains(&id) || state.is_condemned(&name) {
            continue;
        }
        let stored = match repository.objects().get(&name.to_string()) {
            Err(error) if error.kind == ObjectErrorKind::Missing => continue,
            stored => stored.map_err(|error| repository.failed(error))?,
        };
        // One that is damaged as well names nothing.
        let chunk_len = repository.file().chunk_len;
        if let Ok((pack, names)) = read_pack(repository.sealer(), id, &stored, chunk_len) {
            let names = names
                .into_iter()
                .map(|(segment, ordinal, name)| ((segment, ordinal), name));
            writer.add_pack(pack, names)?;
        }
    }
    Ok(())
}

/// The chunks of damaged packs that no other pack has.
fn wanted(catalog: &Catalog, index: &IndexObject, bad: &HashSet<ObjectId>) -> Vec<Wanted> {
    let mut wanted = BTreeMap::new();
    let is_bad = |pack: &&PackEntry| bad.contains(&pack.id);
    for frame in index
        .packs
        .iter()
        .filter(is_bad)
        .flat_map(|pack| &pack.frames)
    {
        let number = catalog.number_of(frame.segment);
        let names = &index.segments[&frame.segment];
        for ordinal in frame.ordinals() {
            let place = catalog.locate(address(number, ordinal));
            if let Some(name) = names
                .hash(ordinal)
                .filter(|_| place.is_none_or(|place| place.is_condemned))
            {
                wanted.insert((frame.segment, ordinal), *name);
            }
        }
    }
    wanted.into_iter().collect()
}

/// Puts those of `wanted` that the store has; their number.
fn put_chunks(
    moment: &PointInTime,
    wanted: &[Wanted],
    writer: &mut AddressedWriter<'_>,
) -> Result<u64, BackupError> {
    let names: Vec<ChunkHash> = wanted.iter().map(|(_, name)| *name).collect();
    let mut addresses = HashMap::<ChunkId, Vec<&Wanted>>::new();
    for (id, chunk) in moment.find_chunks(&names)?.into_iter().zip(wanted) {
        if let Some(id) = id {
            addresses.entry(id).or_default().push(chunk);
        }
    }
    let mut put = 0;
    let mut take = |id: ChunkId, plain: &[u8]| {
        let found = hash_chunks(&[plain]);
        for (at, name) in addresses.get(&id).into_iter().flatten() {
            if found.first() == Some(name) {
                writer.add_chunk(*at, *name, plain.to_vec())?;
                put += 1;
            }
        }
        Ok(())
    };
    let mut ids = IdSet::new();
    addresses.keys().for_each(|id| ids.insert(*id));
    read_chunks(moment, ids, &mut take)?;
    Ok(put)
}

/// Visits the chunks that can be read. What is damaged in the store, or collected there by now, is
/// passed over.
fn read_chunks(
    moment: &PointInTime,
    ids: IdSet,
    take: &mut dyn FnMut(ChunkId, &[u8]) -> Result<(), BackupError>,
) -> Result<(), BackupError> {
    let chunk_len = moment.store().parameters().chunk_len.as_usize();
    let mut supply = moment.export_frames(ids);
    loop {
        let frames = match supply.next_batch() {
            Err(StoreError::Damaged(_)) => return Ok(()),
            frames => frames?,
        };
        if frames.is_empty() {
            return Ok(());
        }
        for frame in &frames {
            let plain = supply.read_frame(frame, |supplied: SuppliedFrame<'_>| {
                codec::decompress_frame(
                    supplied.codec,
                    supplied.payload,
                    supplied.plain_len as usize,
                )
                .ok()
            });
            match plain {
                Ok(Some(plain)) => each_chunk(frame, &plain, chunk_len, take)?,
                Ok(None) | Err(StoreError::Damaged(_)) if frame.chunks.len() > 1 => {
                    for (id, _) in &frame.chunks {
                        let mut one = IdSet::new();
                        one.insert(*id);
                        read_chunks(moment, one, take)?;
                    }
                }
                Ok(None) | Err(StoreError::Damaged(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn each_chunk(
    frame: &PlannedFrame,
    plain: &[u8],
    chunk_len: usize,
    take: &mut dyn FnMut(ChunkId, &[u8]) -> Result<(), BackupError>,
) -> Result<(), BackupError> {
    let mut chunks = frame.chunks.iter().zip(plain.chunks_exact(chunk_len));
    chunks.try_for_each(|((id, _), chunk)| take(*id, chunk))
}
