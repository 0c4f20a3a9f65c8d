//! Push: images and snapshots of a store become points of a repository, and only what is new there
//! is sent.
//!
//! A push takes one consistent snapshot of all disks. It decides from the journal alone which
//! points are new, so pushing an unchanged tree needs no other request. The map of each new content
//! gives the chunks that it needs beyond those of its base; the chunks that the repository does not
//! have are sent, in frames as the store has them. Then come index objects, maps, and last the
//! record.

pub(crate) mod maps;
mod selection;
pub(crate) mod upload;

use std::collections::HashSet;

use vellum_core::identity::ContentId;
use vellum_core::page::Slot;
use vellum_core::tree::{Node, PlanError};
use vellum_core::units::{ChunkId, LayerId};
use vellum_store::transfer::Moment;
use vellum_store::{Damage, Store, StoreError, Watch};

use crate::clock::ClockDoubt;
use crate::error::BackupError;
use crate::journal::State;
use crate::known::Known;
use crate::prune::end_dead_sessions;
use crate::reader::Reader;
use crate::record::{Description, Machine, Point, Record};
use crate::repository::Repository;
use crate::session::{Session, SessionKind, Writer};
use maps::{Maps, NewMap};
pub use selection::PushSelection;
use upload::{Manner, send};

/// The number of times that the images to push are looked at anew because some of them were deleted
/// meanwhile.
const LOOKS_MAX: usize = 5;

/// The images and machines to push, and how.
#[derive(Clone, Debug)]
pub struct PushRequest {
    /// The images and machines.
    pub selection: PushSelection,
    /// Push points, too, that were forgotten in the repository.
    pub again: bool,
    /// Rely on chunks that other clients wrote without reading them.
    pub trust_others: bool,
    /// Read every chunk of the repository that a new content needs before it is relied upon; what
    /// is damaged is sent again.
    pub verify: bool,
    /// Bytes of packs that may go up in a second.
    pub limit_upload: Option<u64>,
    /// Contents that the receiver has already: for streams.
    pub assumed: HashSet<ContentId>,
    /// The writer and its clock.
    pub writer: Writer,
}

/// The result of a push.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushReport {
    /// Points that are new in the repository.
    pub new_points: u64,
    /// Points that were there.
    pub known_points: u64,
    /// Points that were left out because they were forgotten in the repository.
    pub withheld_points: u64,
    /// The doubt about the writer's clock, if there is one.
    pub clock: Option<ClockDoubt>,
    /// Points that were there and are called or marked otherwise now.
    pub described_points: u64,
    /// Machines that were new, or not as they had been pushed.
    pub machines: u64,
    /// Contents whose maps were sent.
    pub contents: u64,
    /// Chunks that were sent.
    pub chunks: u64,
    /// Bytes of packs, index objects and maps that were put.
    pub bytes: u64,
    /// Images and snapshots that could not be pushed because some of their data cannot be read: the
    /// damage of each, image and range included.
    pub unreadable: Vec<Damage>,
}

impl PushReport {
    /// True if there was nothing that could be sent, and nothing there.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        let points = self.new_points + self.known_points + self.withheld_points;
        points + self.machines + self.described_points == 0
    }
}

/// The content of the record to write.
struct Wanted {
    moment: Moment,
    /// Points that are new, with the layers that show them.
    points: Vec<(Point, LayerId)>,
    machines: Vec<Machine>,
    described: Vec<Description>,
    known_points: u64,
    withheld_points: u64,
}

/// Pushes what `request` names from `store` to `repository`, whose journal must have been read just
/// now. Nothing can be seen of it before all of it is durable; then all at once. What an
/// interrupted push has sent is found again by the next one, if the client has a cache.
pub fn push(
    repository: &Repository,
    store: &Store,
    request: &PushRequest,
    watch: &dyn Watch,
) -> Result<PushReport, BackupError> {
    let own = store.parameters().chunk_len.bytes();
    let there = repository.file().chunk_len;
    if own != u64::from(there) {
        return Err(BackupError::Parameter(format!(
            "the store has chunks of {own} bytes, the repository of {there}: they cannot be mixed"
        )));
    }
    let mut wanted = look(&repository.state(), store, request)?;
    let clock = ClockDoubt::of(&repository.journal(), request.writer.time_ms);
    let report = PushReport {
        known_points: wanted.known_points,
        withheld_points: wanted.withheld_points,
        clock: clock.clone(),
        ..PushReport::default()
    };
    if wanted.is_nothing() {
        return Ok(report);
    }
    let mut session = Session::begin(repository, SessionKind::Push, request.writer.clone())?;
    let mut unreadable = Vec::new();
    let report = match say(&mut session, &wanted, request, watch) {
        Err(BackupError::Store(StoreError::Damaged(damage))) => {
            // The search for unreadable data reads everything, so it runs only now, when it is
            // worth it.
            unreadable = wanted.leave_out_unreadable(watch)?;
            if unreadable.is_empty() {
                return Err(BackupError::Store(StoreError::Damaged(damage)));
            }
            if wanted.is_nothing() {
                report
            } else {
                say(&mut session, &wanted, request, watch)?
            }
        }
        said => said?,
    };
    session.end()?;
    // The push is done, whatever becomes of what others left.
    drop(end_dead_sessions(repository, &request.writer));
    Ok(PushReport {
        known_points: wanted.known_points,
        withheld_points: wanted.withheld_points,
        clock,
        unreadable,
        ..report
    })
}

impl Wanted {
    fn is_nothing(&self) -> bool {
        self.points.is_empty() && self.machines.is_empty() && self.described.is_empty()
    }

    /// The record of these points, descriptions and machines.
    fn record_without_contents(&self) -> Record {
        let points = self.points.iter().map(|(point, _)| point);
        Record {
            points: points.cloned().map(Into::into).collect(),
            described: self.described.iter().cloned().map(Into::into).collect(),
            machines: self.machines.iter().cloned().map(Into::into).collect(),
            ..Record::default()
        }
    }

    /// Takes out what shows something that cannot be read, and machines that need it; what is wrong
    /// with each.
    fn leave_out_unreadable(&mut self, watch: &dyn Watch) -> Result<Vec<Damage>, BackupError> {
        let found = self.moment.unreadable(watch)?;
        let layer_of = |node: &Node| {
            let nodes = self.moment.nodes().iter();
            nodes
                .into_iter()
                .find(|(other, _)| other == node)
                .map(|(_, layer)| *layer)
        };
        let is_new = |layer: LayerId| self.points.iter().any(|(_, shown)| *shown == layer);
        let (mut layers, mut unreadable) = (HashSet::new(), Vec::new());
        for (node, damage) in found {
            if let Some(layer) = layer_of(&node).filter(|layer| is_new(*layer)) {
                layers.insert(layer);
                unreadable.push(damage);
            }
        }
        let images: HashSet<String> = self
            .points
            .iter()
            .filter(|(_, layer)| layers.contains(layer))
            .map(|(point, _)| point.image.clone())
            .collect();
        self.points.retain(|(_, layer)| !layers.contains(layer));
        self.machines.retain(|machine| {
            let kept = machine
                .snapshots
                .iter()
                .flat_map(|snapshot| &snapshot.disks);
            let mut needed = machine.disks.iter().chain(kept.map(|(image, ..)| image));
            !needed.any(|image| images.contains(image))
        });
        Ok(unreadable)
    }
}

/// Holds what is to be pushed still. It may be deleted between the look at its names and the
/// moment: then it is looked for anew.
fn look(state: &State, store: &Store, request: &PushRequest) -> Result<Wanted, BackupError> {
    for _ in 1..LOOKS_MAX {
        match look_once(state, store, request) {
            Err(BackupError::Store(StoreError::Plan(PlanError::Gone))) => {}
            other => return other,
        }
    }
    look_once(state, store, request)
}

fn look_once(state: &State, store: &Store, request: &PushRequest) -> Result<Wanted, BackupError> {
    let (nodes, machines) = selection::nodes(&store.tree(), &request.selection);
    let moment = store.moment(&nodes)?;
    let id = store.id().ok_or(BackupError::Store(StoreError::ReadOnly))?;
    let point = |(node, layer): &(Node, LayerId)| {
        let shown = moment.layer(*layer).ok()?;
        Some((
            selection::point(id, moment.tree(), *node, shown, &request.writer)?,
            *layer,
        ))
    };
    let (known, points): (Vec<_>, Vec<_>) = moment
        .nodes()
        .iter()
        .filter_map(point)
        .partition(|(point, _)| state.has_firm_point(&point.id));
    let (points, withheld): (Vec<_>, Vec<_>) = points
        .into_iter()
        .partition(|(point, _)| request.again || !state.is_withheld(point));
    let mut changed = Vec::new();
    for machine in machines {
        let configuration = |file| Ok(store.configuration(file)?);
        let machine = selection::machine(id, moment.tree(), machine, &configuration)?;
        changed
            .extend(machine.filter(|machine| !state.machines().any(|known| **known == *machine)));
    }
    let of = |points: &[(Point, LayerId)]| {
        points
            .iter()
            .map(|(point, _)| point.clone())
            .collect::<Vec<_>>()
    };
    let described =
        selection::descriptions(state, &of(&known), &[of(&points), of(&withheld)].concat());
    Ok(Wanted {
        points,
        machines: changed,
        described,
        known_points: known.len() as u64,
        withheld_points: withheld.len() as u64,
        moment,
    })
}

/// Sends what is new, and commits its record.
fn say(
    session: &mut Session<'_>,
    wanted: &Wanted,
    request: &PushRequest,
    watch: &dyn Watch,
) -> Result<PushReport, BackupError> {
    let state = session.state().clone();
    let reader = Reader::new(session.repository());
    let new = selection::new_contents(
        wanted.moment.tree(),
        &state,
        &wanted.points,
        &request.assumed,
    );
    let (mut known, mut report) = (None, PushReport::default());
    let mut contents = Vec::new();
    if !new.is_empty() {
        let known = known.insert(Known::open(&reader, &wanted.moment, &state)?);
        let maps = new
            .into_iter()
            .map(|new| NewMap::open(&wanted.moment, &reader, new))
            .collect::<Result<Vec<_>, _>>()?;
        if request.verify {
            known.doubt_all();
        }
        let missing =
            known.missing(&reader, &|visit| needed(&maps, visit), request.trust_others)?;
        let total = missing.len();
        if total > 0 {
            let manner = Manner {
                watch,
                limit: request.limit_upload,
            };
            let mut supply = wanted.moment.supply(missing);
            let sent = send(&reader, &wanted.moment, &mut supply, total, known, &manner)?;
            (report.chunks, report.bytes) = (sent.chunks, sent.bytes);
        }
        let mut writer = Maps::new(&reader);
        maps.iter()
            .try_for_each(|map| writer.add(map, &|id, count| known.get(id, count)))?;
        let (written, bytes) = writer.finish()?;
        (report.contents, report.bytes) = (written.len() as u64, report.bytes + bytes);
        contents = written;
    }
    (report.new_points, report.machines) =
        (wanted.points.len() as u64, wanted.machines.len() as u64);
    report.described_points = wanted.described.len() as u64;
    let indexes = known.iter().flat_map(Known::pending);
    session.commit_in_parts(Record {
        contents: contents.into_iter().map(Into::into).collect(),
        indexes: indexes.map(ToString::to_string).collect(),
        ..wanted.record_without_contents()
    })?;
    if let Some(mut known) = known {
        known.settle();
        known.keep(&reader, &wanted.moment)?;
    }
    Ok(report)
}

/// Visits the chunks that the maps need, in runs.
fn needed(maps: &[NewMap<'_>], visit: &mut dyn FnMut(ChunkId, u64)) -> Result<(), BackupError> {
    for map in maps {
        for index in map.pages.iter() {
            for run in map.local(index)?.runs() {
                if let Slot::Chunk(first) = run.slot {
                    visit(first, run.len.into());
                }
            }
        }
    }
    Ok(())
}
