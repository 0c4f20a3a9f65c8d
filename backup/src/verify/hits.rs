//! Finds the points that damage hits: exactly those that cannot be read.
//!
//! A content is read through the contents below it, and shows of them what it does not hide. So a
//! damaged chunk hits a point only where the point shows it; a map that is lost hits every point
//! that stands on it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use vellum_core::identity::ContentId;
use vellum_core::page::PageEntry;

use super::{Check, Fault};
use crate::error::BackupError;
use crate::journal::State;
use crate::prune::reach::Needed;
use crate::reader::Reader;

impl Check<'_> {
    /// The points that each damage hits. Cost: reads the maps of points that stand on damage.
    pub(super) fn points_hit(
        &self,
        state: &State,
        needed: &Needed<'_>,
    ) -> Result<BTreeMap<Fault, BTreeSet<String>>, BackupError> {
        let parents: BTreeMap<&str, Option<&str>> = needed
            .entries
            .values()
            .map(|entry| (entry.content.id.as_str(), entry.content.parent.as_deref()))
            .collect();
        let bad: BTreeSet<&str> = self.wrong.values().flatten().map(String::as_str).collect();
        let reader = Reader::on(self.repository, Arc::clone(&self.catalog));
        let mut hit = BTreeMap::<Fault, BTreeSet<String>>::new();
        let mut shown = BTreeMap::<&str, BTreeSet<Fault>>::new();
        for point in state.points() {
            let (mut next, mut seen) = (Some(point.content.as_str()), BTreeSet::new());
            while let Some(id) = next.filter(|id| seen.insert(*id)) {
                next = parents.get(id).copied().flatten();
            }
            seen.retain(|id| bad.contains(id));
            if seen.is_empty() {
                continue;
            }
            let is_unreadable = seen.iter().any(|id| self.unreadable.contains(*id));
            let faults = if is_unreadable {
                let of = self.wrong.iter();
                let of = of.filter(|(_, contents)| seen.iter().any(|id| contents.contains(*id)));
                of.map(|(fault, _)| fault.clone()).collect()
            } else {
                match shown.get(point.content.as_str()) {
                    Some(known) => known.clone(),
                    None => self.faults_shown(&reader, &point.content)?,
                }
            };
            for fault in &faults {
                let points = hit.entry(fault.clone()).or_default();
                points.insert(point.id.clone());
            }
            shown.insert(&point.content, faults);
        }
        Ok(hit)
    }

    /// The damage to chunks that a content shows, its own and those below it.
    fn faults_shown(
        &self,
        reader: &Reader<'_>,
        content: &str,
    ) -> Result<BTreeSet<Fault>, BackupError> {
        let mut faults = BTreeSet::new();
        let Some(id) = ContentId::parse(content) else {
            return Ok(faults);
        };
        let view = reader.content(id)?;
        for index in view.pages()?.iter() {
            for run in view.page(index)?.runs() {
                let chunks = (0..run.len).map_while(|at| match run.slot.advance_by(at) {
                    PageEntry::Chunk(chunk) => Some(chunk),
                    PageEntry::Zero | PageEntry::Absent => None,
                });
                faults.extend(chunks.filter_map(|chunk| self.fault_of(chunk)));
            }
        }
        Ok(faults)
    }
}
