//! One push under way: says what is new, after what the repository had lost has come back.

use std::collections::{BTreeSet, HashSet};

use vellum_core::identity::ContentId;
use vellum_core::units::ChunkId;
use vellum_store::Watch;
use vellum_store::transfer::PointInTime;

use super::maps::{Maps, NewMap};
use super::unindexed::index_noted_packs;
use super::upload::{Manner, send};
use super::{PushReport, PushRequest, Wanted, needed, selection};
use crate::error::BackupError;
use crate::heal::{self, HealReport, Healing};
use crate::journal::State;
use crate::known::{INDEX_FETCH_DIVISOR, INDEX_FETCH_LEN_MIN, Known};
use crate::objects::{ObjectErrorKind, ObjectName};
use crate::reader::Reader;
use crate::record::{Content, Record, Said, Sweep};
use crate::repository::Repository;
use crate::session::Session;

/// A push under way.
pub(super) struct Attempt<'a> {
    request: &'a PushRequest,
    watch: &'a dyn Watch,
    healing: Option<Healing>,
    /// Objects of the repository that were met damaged.
    suspects: BTreeSet<ObjectName>,
    /// Contents that were lost, and are told anew.
    told_anew: u64,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(request: &'a PushRequest, watch: &'a dyn Watch) -> Self {
        Self {
            request,
            watch,
            healing: None,
            suspects: BTreeSet::new(),
            told_anew: 0,
        }
    }

    /// Brings back what the repository lost of packs and index objects.
    pub(super) fn heal(
        &mut self,
        session: &mut Session<'_>,
        moment: &PointInTime,
    ) -> Result<(), BackupError> {
        let suspects = std::mem::take(&mut self.suspects);
        self.healing = Some(heal::begin(session, Some(moment), &suspects, self.watch)?);
        Ok(())
    }

    /// Sends what is new, and commits its record. If the repository turns out to have lost
    /// something, that comes back first.
    pub(super) fn say(
        &mut self,
        session: &mut Session<'_>,
        wanted: &Wanted,
    ) -> Result<PushReport, BackupError> {
        let may_heal = self.healing.is_none() && session.repository().objects().keeps_copies();
        match self.say_once(session, wanted, may_heal) {
            Ok(Some(report)) => return Ok(report),
            Ok(None) => {}
            Err(error) if may_heal && is_loss(&error) => self.suspects.extend(met(&error)),
            Err(error) => return Err(error),
        }
        self.heal(session, &wanted.moment)?;
        let said = self.say_once(session, wanted, false)?;
        Ok(said.expect("nothing is looked for a second time"))
    }

    /// The same; none if a listing shows that something is lost, and that is looked for.
    fn say_once(
        &mut self,
        session: &mut Session<'_>,
        wanted: &Wanted,
        looks: bool,
    ) -> Result<Option<PushReport>, BackupError> {
        let state = session.state().clone();
        let reader = Reader::new(session.repository());
        let lost = self.healing.as_ref().map(|healing| &healing.lost);
        let lost = lost.map_or_else(HashSet::new, |lost| heal::standing_on(&state, lost));
        let new = wanted.new_contents(&state, &self.request.assumed, &lost);
        let (mut known, mut report) = (None, PushReport::default());
        let (mut contents, is_sending) = (Vec::new(), !new.is_empty());
        if !new.is_empty() || !wanted.points.is_empty() {
            let fetch_len = self.index_fetch_len(wanted, &new, session.repository());
            let known = known.insert(Known::open(&reader, &wanted.moment, &state, fetch_len)?);
            if looks && heal::is_lost(session.repository(), &state, known.packs())? {
                return Ok(None);
            }
            if is_sending {
                index_noted_packs(&reader, &wanted.moment, &state, known)?;
            }
            contents = self.send(&reader, wanted, new, known, &mut report)?;
        }
        (report.new_points, report.machines) =
            (wanted.points.len() as u64, wanted.machines.len() as u64);
        report.described_points = wanted.described.len() as u64;
        if wanted.is_nothing() && contents.is_empty() {
            return Ok(Some(report));
        }
        let (anew, sweeps) = replaced(&state, &contents, &lost);
        self.told_anew = anew;
        let mut record = Record {
            contents: contents.into_iter().map(Into::into).collect(),
            sweeps,
            ..wanted.record_without_contents()
        };
        record.name_indexes(known.as_ref().map_or_else(Vec::new, Known::pending));
        session.commit_in_parts(record)?;
        if let Some(mut known) = known.filter(|_| is_sending) {
            known.settle();
            known.keep(&reader, &wanted.moment)?;
        }
        Ok(Some(report))
    }

    /// The bytes of the index to fetch without a sign that they are of use: a small part of what
    /// may have to be sent.
    fn index_fetch_len(
        &self,
        wanted: &Wanted,
        new: &[selection::NewContent],
        repository: &Repository,
    ) -> u64 {
        let tree = wanted.moment.tree();
        let layers = new.iter().filter_map(|new| tree.layer(new.layer));
        let chunks: u64 = layers.map(|layer| layer.chunks).sum();
        let data_len = chunks.saturating_mul(u64::from(repository.file().chunk_len));
        let share = (data_len / INDEX_FETCH_DIVISOR).max(INDEX_FETCH_LEN_MIN);
        share.min(self.request.index_fetch_len)
    }

    /// Sends the chunks and maps of new contents.
    fn send(
        &mut self,
        reader: &Reader<'_>,
        wanted: &Wanted,
        new: Vec<selection::NewContent>,
        known: &mut Known,
        report: &mut PushReport,
    ) -> Result<Vec<Content>, BackupError> {
        if new.is_empty() {
            return Ok(Vec::new());
        }
        let (moment, request) = (&wanted.moment, self.request);
        let maps = new
            .into_iter()
            .map(|new| NewMap::open(moment, reader, new))
            .collect::<Result<Vec<_>, _>>()?;
        if request.verify {
            known.doubt_all();
        }
        let needed = |visit: &mut dyn FnMut(ChunkId, u64)| needed(&maps, visit);
        let mut missing = known.missing(reader, &needed, request.trust_others)?;
        if known.reconsider(reader, moment, &reader.repository().state(), missing.len())? {
            missing = known.missing(reader, &needed, request.trust_others)?;
        }
        self.suspects.extend(known.damaged());
        let total = missing.len();
        if total > 0 {
            let manner = Manner {
                watch: self.watch,
                limit: request.limit_upload,
            };
            let mut supply = moment.export_frames(missing);
            let sent = send(reader, moment, &mut supply, total, known, &manner)?;
            (report.chunks, report.bytes) = (sent.chunks, sent.bytes);
        }
        let mut writer = Maps::new(reader);
        maps.iter()
            .try_for_each(|map| writer.add(map, &|id, count| known.get(id, count)))?;
        let (written, bytes) = writer.finish()?;
        (report.contents, report.bytes) = (written.len() as u64, report.bytes + bytes);
        Ok(written)
    }

    /// Notes what is lost still, if anything was.
    pub(super) fn end(
        mut self,
        session: &mut Session<'_>,
        moment: &PointInTime,
    ) -> Result<Option<HealReport>, BackupError> {
        if self.healing.is_none() && !self.suspects.is_empty() {
            self.heal(session, moment)?;
        }
        let (told_anew, watch) = (self.told_anew, self.watch);
        self.healing
            .map(|healing| healing.end(session, told_anew, watch))
            .transpose()
    }
}

/// Of `contents`, the number of those that were lost, and the sweep of what was said of them
/// before: that leads nowhere any more.
fn replaced(state: &State, contents: &[Content], lost: &HashSet<ContentId>) -> (u64, Vec<Sweep>) {
    let anew: Vec<ContentId> = contents
        .iter()
        .filter_map(|content| ContentId::parse(&content.id))
        .filter(|id| lost.contains(id))
        .collect();
    let said: Vec<Said> = anew
        .iter()
        .flat_map(|id| state.entries(*id))
        .map(crate::journal::ContentEntry::said)
        .collect();
    let sweep = Sweep {
        contents: said,
        ..Sweep::default()
    };
    let sweeps = if sweep.contents.is_empty() {
        Vec::new()
    } else {
        vec![sweep]
    };
    (anew.len() as u64, sweeps)
}

/// True if the repository lacks something that it should have.
fn is_loss(error: &BackupError) -> bool {
    match error {
        BackupError::Damaged { .. } => true,
        BackupError::Objects { source, .. } => source.kind == ObjectErrorKind::Missing,
        _ => false,
    }
}

/// The object that an error names.
fn met(error: &BackupError) -> Option<ObjectName> {
    match error {
        BackupError::Damaged { object, .. } => {
            ObjectName::parse(object.split([' ', ',']).next().unwrap_or_default())
        }
        _ => None,
    }
}
