//! Copy: points of one repository become points of another, and only what is new there is read and
//! sent.
//!
//! The two have nothing in common but the length of their chunks: each has its own master key, may
//! be encrypted or not, and be anywhere. What a copy keeps is what things *are*: a point's
//! identity, a content's identity, a chunk's name. So a store that pushed to the one and pushes to
//! the other next finds its points there, and a copy that is made again finds everything in the two
//! journals.
//!
//! It is a push whose chunks come from a repository: the same session, the same bookkeeping of what
//! is there ([`crate::known`]), the same way up ([`crate::push::upload`], [`crate::push::maps`]),
//! the record last. `plan` decides from the two states which contents are new, and in which order;
//! `origin` finds out which of their chunks are there already, by name; `supply` fetches the
//! others, opens them with the source's key, checks them against their names, and passes them on
//! compressed as they are where a whole frame is wanted.
//!
//! **Invariants.**
//!
//! 1. What is copied was whole: no chunk goes up that is not what its name says, and the record is
//!    put after all of it.
//! 2. Only what the copied points show goes up. A frame that also holds chunks of others is packed
//!    anew without them.
//! 3. A content is told relative only to what the target holds firmly down to the ground, or to
//!    what comes before it in the same record: no copy closes a ring, whatever the two repositories
//!    tell relative to what.
//! 4. The source is only read. A collection there may move what is being read; it is looked for
//!    once more, as by every reader.
//!
//! Memory: that of a push; beside it two groups of frames on their way (of 16 MiB plain), and the
//! names of [`origin::NAMES_TOGETHER`] chunks.
//!
//! # What this does not do
//!
//! It takes nothing away: what the source forgot stays in the target until it is forgotten there;
//! and what the target forgot does not come back, unless it is told to.
//! Contents that are there are not described anew: a point that was copied before its parent has no
//! parent in the target, though both share their chunks. Two chunks of one name that lie in
//! different places of the source may both be sent, if more than [`origin::NAMES_TOGETHER`] others
//! are wanted between them.

mod origin;
mod plan;
mod supply;

use std::collections::{BTreeSet, HashSet};

use vellum_core::id_set::IdSet;
use vellum_core::identity::ContentId;
use vellum_core::page::{Page, PageEntry};
use vellum_core::tree::PageSet;
use vellum_core::units::{ChunkId, PageIndex};
use vellum_store::Watch;

use crate::error::BackupError;
use crate::hit;
use crate::journal::State;
use crate::known::Known;
use crate::prune::end_dead_sessions;
use crate::push::PushReport;
use crate::push::maps::{Maps, ToldMap, translated};
use crate::push::unindexed::index_noted_packs;
use crate::push::upload::Manner;
use crate::reader::{ContentView, Reader};
use crate::record::{Content, Description, Machine, Point, RETURNS_NOW, Record};
use crate::repository::Repository;
use crate::session::{Session, SessionKind, Writer};

/// The points and machines to copy, and how.
#[derive(Clone, Debug)]
pub struct CopyRequest {
    /// The ids of the points; all points and machines if there are none given.
    pub points: Option<BTreeSet<String>>,
    /// Copy points, too, that were forgotten in the target.
    pub again: bool,
    /// Rely on chunks of the target that other clients wrote without reading them.
    pub trust_others: bool,
    /// Bytes of packs that may go up in a second.
    pub limit_upload: Option<u64>,
    /// The writer and its clock.
    pub writer: Writer,
}

/// The content of the record to write.
struct Wanted {
    points: Vec<Point>,
    machines: Vec<Machine>,
    /// The descriptions of known points in the source, where they differ: as with machines, the
    /// last writer wins.
    described: Vec<Description>,
    known_points: u64,
    withheld_points: u64,
}

/// A content of the source, as the target's record will describe it.
struct NewMap<'r> {
    view: ContentView<'r>,
    pages: PageSet,
}

/// Copies what `request` names from `source` to `target`; both journals must have been read just
/// now. Nothing can be seen of it before all of it is durable; then all at once. If nothing is new,
/// nothing is asked for beside the journals. What an interrupted copy has sent is found again by
/// the next one, if the client has a cache.
pub fn copy(
    source: &Repository,
    target: &Repository,
    request: &CopyRequest,
    watch: &dyn Watch,
) -> Result<PushReport, BackupError> {
    refuse_unequal(source, target)?;
    let wanted = Wanted::of(&source.state(), &target.state(), request);
    let report = PushReport {
        known_points: wanted.known_points,
        withheld_points: wanted.withheld_points,
        ..PushReport::default()
    };
    if wanted.points.is_empty() && wanted.machines.is_empty() && wanted.described.is_empty() {
        return Ok(report);
    }
    let mut session = Session::begin(target, SessionKind::Copy, request.writer.clone())?;
    let reader = Reader::new(source);
    let report = say(&mut session, &reader, &wanted, request, watch)
        .map_err(|error| hit::by_map(&reader, error))?;
    session.end()?;
    // The copy is done, whatever becomes of what others left.
    drop(end_dead_sessions(target, &request.writer));
    Ok(PushReport {
        known_points: wanted.known_points,
        withheld_points: wanted.withheld_points,
        ..report
    })
}

fn refuse_unequal(source: &Repository, target: &Repository) -> Result<(), BackupError> {
    let (from, to) = (source.file().chunk_len, target.file().chunk_len);
    if source.id() == target.id() {
        let what = format!(
            "{} and {} are one repository, or one was made by copying the files of the other",
            source.place(),
            target.place()
        );
        return Err(BackupError::Parameter(what));
    }
    if from == to {
        return Ok(());
    }
    Err(BackupError::Parameter(format!(
        "{} has chunks of {from} bytes, {} of {to}: they cannot be mixed",
        source.place(),
        target.place()
    )))
}

impl Wanted {
    fn of(source: &State, target: &State, request: &CopyRequest) -> Self {
        let is_named = |point: &&std::sync::Arc<Point>| {
            request
                .points
                .as_ref()
                .is_none_or(|points| points.contains(&point.id))
        };
        let (known, points): (Vec<_>, Vec<_>) = source
            .points()
            .filter(is_named)
            .partition(|point| target.has_firm_point(&point.id));
        let (points, withheld): (Vec<_>, Vec<_>) = points
            .into_iter()
            .partition(|point| request.again || !target.is_withheld(point));
        let is_new =
            |machine: &&std::sync::Arc<Machine>| !target.machines().any(|known| known == *machine);
        let machines = source
            .machines()
            .filter(|_| request.points.is_none())
            .filter(is_new);
        let points: Vec<Point> = points.into_iter().map(|point| (**point).clone()).collect();
        let returned = returned(source, target, &points);
        let described = known
            .iter()
            .filter_map(|point| described(target, point, returned.contains(point.id.as_str())));
        Self {
            machines: machines.map(|machine| (**machine).clone()).collect(),
            described: described.collect(),
            points,
            known_points: known.len() as u64,
            withheld_points: withheld.len() as u64,
        }
    }
}

/// The descriptions of images that return to a state in the target once everything is there: of
/// several states that one record brought, times decide which is the newest, and no clock may.
fn late_returns(source: &State, target: &State) -> Vec<Description> {
    let points = returned(source, target, &[]).into_iter();
    points
        .filter_map(|id| described(target, source.point(id)?, true))
        .collect()
}

/// The states of images that are the newest in the source and would not be in the target, which
/// holds as the newest, or is given now, something that the source knows to be older. Counters are
/// of one journal: such an image returns in the target now. An image whose newest state the source
/// does not know went on elsewhere.
fn returned<'a>(source: &'a State, target: &State, new: &[Point]) -> HashSet<&'a str> {
    let there = target.newest_with(new);
    let newest = source.newest_with(&[]).into_values();
    let has_returned = |point: &&Point| {
        let other = there.get(point.image.as_str());
        let is_older = |other: &&Point| other.id != point.id && source.point(&other.id).is_some();
        point.snapshot.is_none() && other.is_some_and(is_older)
    };
    let ids = newest.filter(has_returned);
    ids.map(|point| point.id.as_str()).collect()
}

/// The description of `point`, if the target has another one.
fn described(target: &State, point: &Point, has_returned: bool) -> Option<Description> {
    let there = target.point(&point.id)?;
    let returned = if has_returned {
        Some(RETURNS_NOW)
    } else {
        target.description(there).returned
    };
    let now = Description {
        returned,
        ..Description::of(point)
    };
    (target.description(there) != now).then_some(now)
}

/// Sends what is new, and commits its record.
fn say(
    session: &mut Session<'_>,
    source: &Reader<'_>,
    wanted: &Wanted,
    request: &CopyRequest,
    watch: &dyn Watch,
) -> Result<PushReport, BackupError> {
    let state = session.state().clone();
    let target = Reader::new(session.repository());
    let new = plan::new_contents(&source.repository().state(), &state, &wanted.points);
    let mut report = PushReport::default();
    let (mut known, mut contents) = (None, Vec::new());
    if !new.is_empty() {
        let origin = origin::SourceChunks::new(source);
        // Before anything else gives numbers to the source's segments: the books speak of them by
        // number.
        let mut books = Known::believed(&target, &origin, &state)?;
        source.load_indexes()?;
        let maps = source.again_if_missing(|| maps(source, &new))?;
        let needed = needed(&maps)?;
        let distinct = origin.look(&needed, &mut books, &target, &state)?;
        let each = |visit: &mut dyn FnMut(ChunkId, u64)| {
            origin::each_run(&distinct.chunks, visit);
            Ok(())
        };
        index_noted_packs(&target, &origin, &state, &mut books)?;
        let missing = books.missing(&target, &each, request.trust_others)?;
        if !missing.is_empty() {
            let manner = Manner {
                watch,
                limit: request.limit_upload,
            };
            let sent = supply::send(source, &target, &missing, &origin, &mut books, &manner)?;
            (report.chunks, report.bytes) = (sent.chunks, sent.bytes);
        }
        distinct.settle(&mut books);
        let (written, bytes) = tell(&target, &maps, &books)?;
        (report.contents, report.bytes) = (written.len() as u64, report.bytes + bytes);
        contents = written;
        known = Some((books, origin));
    }
    (report.new_points, report.machines) =
        (wanted.points.len() as u64, wanted.machines.len() as u64);
    report.described_points = wanted.described.len() as u64;
    let mut record = Record {
        points: wanted.points.iter().cloned().map(Into::into).collect(),
        contents: contents.into_iter().map(Into::into).collect(),
        described: wanted.described.iter().cloned().map(Into::into).collect(),
        machines: wanted.machines.iter().cloned().map(Into::into).collect(),
        ..Record::default()
    };
    let pending = known.iter().flat_map(|(books, _)| books.pending());
    record.name_indexes(pending.collect());
    let committed = session.commit_in_parts(record)?;
    if let Some((mut books, origin)) = known {
        books.settle();
        books.keep(&target, &origin)?;
    }
    let late = late_returns(&source.repository().state(), &committed.state);
    if !late.is_empty() {
        session.commit(Record {
            described: late.into_iter().map(Into::into).collect(),
            ..Record::default()
        })?;
    }
    Ok(report)
}

/// The maps of `new`, each relative to what is planned.
fn maps<'r>(
    source: &'r Reader<'r>,
    new: &[plan::NewContent],
) -> Result<Vec<NewMap<'r>>, BackupError> {
    let map = |new: &plan::NewContent| {
        let view = source.content_over(new.content, |below| Some(below) == new.base)?;
        Ok(NewMap {
            pages: view.pages()?,
            view,
        })
    };
    new.iter().map(map).collect()
}

/// The source's addresses of all chunks that the maps name.
fn needed(maps: &[NewMap<'_>]) -> Result<IdSet, BackupError> {
    let mut needed = IdSet::new();
    for map in maps {
        for index in map.pages.iter() {
            for run in map.view.page(index)?.runs() {
                if let PageEntry::Chunk(first) = run.slot {
                    needed.insert_run(first, run.len.into());
                }
            }
        }
    }
    Ok(needed)
}

/// Writes the maps, whose chunks are all there.
fn tell(
    target: &Reader<'_>,
    maps: &[NewMap<'_>],
    known: &Known,
) -> Result<(Vec<Content>, u64), BackupError> {
    let mut writer = Maps::new(target);
    maps.iter()
        .try_for_each(|map| writer.add(map, &|id, count| known.get(id, count)))?;
    writer.finish()
}

impl ToldMap for NewMap<'_> {
    fn content(&self) -> ContentId {
        self.view.id
    }

    fn parent(&self) -> Option<(ContentId, u64)> {
        self.view.base.map(|base| (base, self.view.base_visible()))
    }

    fn len(&self) -> u64 {
        self.view.len
    }

    fn pages(&self) -> &PageSet {
        &self.pages
    }

    fn page(
        &self,
        index: PageIndex,
        translate: &dyn Fn(ChunkId, u64) -> Option<(ChunkId, u64)>,
    ) -> Result<Page, BackupError> {
        translated(&self.view.page(index)?, translate)
    }
}
