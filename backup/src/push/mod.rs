//! Push: images and snapshots of a store become points of a repository, and only what is new there
//! is sent.
//!
//! A push takes one consistent snapshot of all disks. It decides from the journal alone which
//! points are new, so pushing an unchanged tree needs no other request. The map of each new content
//! gives the chunks that it needs beyond those of its base; the chunks that the repository does not
//! have are sent, in frames as the store has them. Then come index objects, maps, and last the
//! record.
//!
//! Whoever pushes something new lists what the journal relies on. What is lost, or was noted as
//! damaged by somebody who read it, comes back first if the store has it (`heal`); what does not
//! is in the report.

mod attempt;
pub(crate) mod maps;
mod selection;
pub(crate) mod unindexed;
pub(crate) mod upload;

use std::collections::HashSet;

use vellum_core::identity::{ContentId, StoreId};
use vellum_core::page::PageEntry;
use vellum_core::tree::{NodeRef, PlanError};
use vellum_core::units::{ChunkId, LayerId};
use vellum_store::transfer::PointInTime;
use vellum_store::{Damage, Store, StoreError, Watch};

use crate::clock::ClockDoubt;
use crate::error::BackupError;
use crate::heal::{self, HealReport};
use crate::journal::State;
pub use crate::known::INDEX_FETCH_LEN;
use crate::lineage;
use crate::prune::end_dead_sessions;
use crate::record::{Description, Machine, Point, Record, StoreMark};
use crate::repository::Repository;
use crate::session::{Session, SessionKind, Writer, remove_leftovers};
use attempt::Attempt;
use maps::NewMap;
pub use selection::PushSelection;

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
    /// Bytes of the repository's index, as far as others wrote it, that are fetched without a sign
    /// that they name chunks of the store: at most ([`INDEX_FETCH_LEN`] by default); and no more
    /// than a hundredth of the data that may have to be sent, or 1 MiB. Beyond it samples decide,
    /// and what they do not show is sent a second time.
    pub index_fetch_len: u64,
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
    /// The new identity of the store, if it was found to be a copy of another one that pushes to
    /// the repository, too: its images are images of their own from this push on.
    pub parted: Option<StoreId>,
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
    /// What the repository had lost, and got back or not; none if it had lost nothing.
    pub healed: Option<HealReport>,
    /// The points of this push, by id, that do not restore: the repository lost something that the
    /// store does not have.
    pub points_hit: Vec<String>,
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
    moment: PointInTime,
    /// Points that are new, with the layers that show them.
    points: Vec<(Point, LayerId)>,
    machines: Vec<Machine>,
    described: Vec<Description>,
    /// Points that are there, with the layers that show them.
    known: Vec<(Point, LayerId)>,
    withheld_points: u64,
    /// The mark of this push, which the store keeps, too.
    mark: Option<StoreMark>,
}

/// Pushes what `request` names from `store` to `repository`, whose journal must have been read just
/// now. Nothing can be seen of it before all of it is durable; then all at once. What an
/// interrupted push has sent is found again by the next one, if the client has a cache: all but
/// the packs that were on their way.
pub fn push(
    repository: &Repository,
    store: &Store,
    request: &PushRequest,
    watch: &dyn Watch,
) -> Result<PushReport, BackupError> {
    let own = store.parameters().chunk_len.byte_len();
    let there = repository.file().chunk_len;
    if own != u64::from(there) {
        return Err(BackupError::Parameter(format!(
            "the store has chunks of {own} bytes, the repository of {there}: they cannot be mixed"
        )));
    }
    let parted = lineage::part_if_copied(repository, store, &request.writer)?;
    let mut wanted = look(&repository.state(), store, request)?;
    let clock = ClockDoubt::of(&repository.journal(), request.writer.time_ms);
    let own = store.id().map(|id| id.to_string()).unwrap_or_default();
    let is_due = heal::is_due(&repository.state(), &own);
    if wanted.is_nothing() && !is_due {
        let report = PushReport {
            parted,
            clock,
            ..PushReport::default()
        };
        return Ok(wanted.reported(&repository.state(), report));
    }
    let mut session = Session::begin(repository, SessionKind::Push, request.writer.clone())?;
    // What is left of a push that was killed is in nobody's way.
    let _ = remove_leftovers(repository, Some(session.id()));
    if !wanted.is_nothing() {
        wanted.mark = lineage::leave_mark(session.state(), repository, store, &request.writer)?;
    }
    let mut attempt = Attempt::new(request, watch);
    if is_due {
        attempt.heal(&mut session, &wanted.moment)?;
    }
    let mut unreadable = Vec::new();
    let report = match attempt.say(&mut session, &wanted) {
        Err(BackupError::Store(StoreError::Damaged(damage))) => {
            // The search for unreadable data reads everything, so it runs only now, when it is
            // worth it.
            unreadable = wanted.leave_out_unreadable(watch)?;
            if unreadable.is_empty() {
                return Err(BackupError::Store(StoreError::Damaged(damage)));
            }
            if wanted.is_nothing() {
                PushReport::default()
            } else {
                attempt.say(&mut session, &wanted)?
            }
        }
        said => said?,
    };
    let healed = attempt.end(&mut session, &wanted.moment)?;
    session.end()?;
    // The push is done, whatever becomes of what others left.
    drop(end_dead_sessions(repository, &request.writer));
    let report = PushReport {
        parted,
        clock,
        healed,
        unreadable,
        ..report
    };
    Ok(wanted.reported(&repository.state(), report))
}

/// Brings back what the repository lost and `store` has, and nothing else: packs and index objects
/// with their chunks, and the maps of contents that the store shows.
pub(crate) fn restore_lost(
    session: &mut Session<'_>,
    store: &Store,
    request: &PushRequest,
    watch: &dyn Watch,
) -> Result<HealReport, BackupError> {
    let mut wanted = look(session.state(), store, request)?;
    wanted.points.clear();
    wanted.machines.clear();
    wanted.described.clear();
    let mut attempt = Attempt::new(request, watch);
    attempt.heal(session, &wanted.moment)?;
    attempt.say(session, &wanted)?;
    let healed = attempt.end(session, &wanted.moment)?;
    Ok(healed.expect("it was begun"))
}

impl Wanted {
    /// A report with what is known without saying anything: the points that are there, and which of
    /// all are hit.
    fn reported(&self, state: &State, report: PushReport) -> PushReport {
        let own = self.points.iter().chain(&self.known);
        let own = own.map(|(point, _)| point.id.as_str());
        let points_hit = match &report.healed {
            Some(healed) => own
                .filter(|id| healed.points.iter().any(|hit| hit == id))
                .map(str::to_owned)
                .collect(),
            None => heal::noted_points(state, own),
        };
        PushReport {
            known_points: self.known.len() as u64,
            withheld_points: self.withheld_points,
            points_hit,
            ..report
        }
    }

    /// The contents to tell: those that the repository does not have, or has `lost`.
    fn new_contents(
        &self,
        state: &State,
        assumed: &HashSet<ContentId>,
        lost: &HashSet<ContentId>,
    ) -> Vec<selection::NewContent> {
        let is_lost = |(point, _): &&(Point, LayerId)| {
            ContentId::parse(&point.content).is_some_and(|content| lost.contains(&content))
        };
        let again = self.known.iter().filter(is_lost);
        let shown: Vec<(Point, LayerId)> = self.points.iter().chain(again).cloned().collect();
        let is_there = |content: ContentId| {
            assumed.contains(&content) || state.may_build_on(content) && !lost.contains(&content)
        };
        selection::new_contents(self.moment.tree(), state, &shown, &is_there)
    }

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
            stores: self.mark.iter().cloned().map(Into::into).collect(),
            ..Record::default()
        }
    }

    /// Takes out what shows something that cannot be read, and machines that need it; what is wrong
    /// with each.
    fn leave_out_unreadable(&mut self, watch: &dyn Watch) -> Result<Vec<Damage>, BackupError> {
        let found = self.moment.unreadable_nodes(watch)?;
        let layer_of = |node: &NodeRef| {
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
    let moment = store.take_point_in_time(&nodes)?;
    let id = store.id().ok_or(BackupError::Store(StoreError::ReadOnly))?;
    let point = |(node, layer): &(NodeRef, LayerId)| {
        let shown = moment.layer_by_id(*layer).ok()?;
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
        let configuration = |file| Ok(store.read_configuration(file)?);
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
    let described = selection::descriptions(state, &of(&known), &of(&points), &of(&withheld));
    Ok(Wanted {
        points,
        machines: changed,
        described,
        known,
        withheld_points: withheld.len() as u64,
        mark: None,
        moment,
    })
}

/// Visits the chunks that the maps need, in runs.
fn needed(maps: &[NewMap<'_>], visit: &mut dyn FnMut(ChunkId, u64)) -> Result<(), BackupError> {
    for map in maps {
        for index in map.pages.iter() {
            for run in map.local(index)?.runs() {
                if let PageEntry::Chunk(first) = run.slot {
                    visit(first, run.len.into());
                }
            }
        }
    }
    Ok(())
}
