//! Finds what nothing needs, writes anew what is worth it, and says so: from then on nobody builds on it.

use std::collections::{BTreeMap, BTreeSet};

use vellum_core::id_set::IdSet;

use super::merge::{self, Merge, Merger};
use super::reach::{Needed, add_chunks};
use super::repack::Repacker;
use super::survey::Survey;
use super::{Collection, Condemned, Listing, PruneOptions, PruneReport, catalog, refuse_missing};
use crate::catalog::Catalog;
use crate::error::BackupError;
use crate::journal::{Condition, RecordName, State};
use crate::objects::{ObjectId, ObjectKind, ObjectName};
use crate::record::{Content, Mark, Said};
use crate::repository::Repository;

/// Journals of more records than this are made one record, also if nothing else is to be done.
const RECORDS_MAX: usize = 8;

impl Collection<'_> {
    /// Condemns what nothing needs. Whether anything was said.
    pub(super) fn mark(&mut self, options: &PruneOptions) -> Result<bool, BackupError> {
        let state = self.session.state().clone();
        let repository = self.repository;
        let plan = Plan::of(repository, &state, &self.listing, options, Doing::It)?;
        plan.tell(&self.listing, &mut self.report);
        let is_idle = plan.condemned.objects.is_empty() && plan.condemned.contents.is_empty() && plan.indexes.is_empty();
        let journal = repository.journal();
        if is_idle && journal.len() <= RECORDS_MAX {
            return Ok(false);
        }
        let replaced: Vec<RecordName> = journal.iter().map(|(name, _)| *name).collect();
        let mut record = state.whole(&|object| self.listing.has(object));
        record.past = journal.past(state.void());
        record.contents.extend(plan.contents.into_iter().map(Into::into));
        record.indexes.extend(plan.indexes.iter().map(ToString::to_string));
        if !is_idle {
            record.marks.push(named(&self.session.id().to_string(), &plan.condemned));
        }
        self.session.commit(record)?;
        for name in &replaced {
            repository.objects().delete(&name.object().to_string()).map_err(|error| repository.failed(error))?;
        }
        self.report.replaced_records = replaced.len() as u64;
        Ok(true)
    }
}

fn named(id: &str, condemned: &Condemned) -> Mark {
    let objects = condemned.objects.iter().map(ToString::to_string).collect();
    Mark { id: id.to_owned(), objects, contents: condemned.contents.iter().cloned().collect() }
}

/// What a collection would do now, for a person to look at.
pub(super) fn plan_only(repository: &Repository, options: &PruneOptions, report: &mut PruneReport) -> Result<(), BackupError> {
    let listing = Listing::of(repository)?;
    let state = repository.state();
    Plan::of(repository, &state, &listing, options, Doing::Nothing)?.tell(&listing, report);
    Ok(())
}

/// Whether new objects are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doing {
    It,
    Nothing,
}

/// What a mark says, and what was written for it.
#[derive(Default)]
struct Plan {
    condemned: Condemned,
    contents: Vec<Content>,
    indexes: Vec<ObjectId>,
    merged: u64,
    moved_len: u64,
    packs_len: u64,
    used_len: u64,
}

impl Plan {
    fn of(repository: &Repository, state: &State, listing: &Listing, options: &PruneOptions, doing: Doing) -> Result<Self, BackupError> {
        let needed = Needed::by_points(state);
        refuse_missing(state, &needed)?;
        let catalog = catalog(repository)?;
        let mut plan = Self::default();
        let kept = plan.merge(repository, state, &catalog, &needed, doing)?;
        plan.condemn_contents(state, &needed, &kept);
        plan.condemn_maps(listing, &kept);
        let mut chunks = IdSet::new();
        for content in kept.values() {
            add_chunks(repository, &catalog, content, &mut chunks)?;
        }
        plan.condemn_packs(repository, state, &catalog, listing, &chunks, options, doing)?;
        plan.condemned.objects.retain(|object| !state.is_condemned(object));
        Ok(plan)
    }

    /// The contents that stay, by identity, as they are from now on.
    fn merge(
        &mut self,
        repository: &Repository,
        state: &State,
        catalog: &Catalog,
        needed: &Needed<'_>,
        doing: Doing,
    ) -> Result<BTreeMap<String, Content>, BackupError> {
        let merges = merge::plan(state, needed);
        self.merged = merges.iter().map(|merge| merge.sources.len() as u64).sum();
        let mut kept: BTreeMap<String, Content> =
            needed.entries.values().map(|entry| (entry.content.id.clone(), (*entry.content).clone())).collect();
        if doing == Doing::Nothing {
            return Ok(kept);
        }
        let mut writing = Merger::new(repository, catalog);
        merges.iter().try_for_each(|merge: &Merge<'_>| writing.add(merge))?;
        merges.iter().flat_map(|merge| &merge.sources).for_each(|source| drop(kept.remove(&source.id)));
        self.contents = writing.finish()?;
        kept.extend(self.contents.iter().map(|content| (content.id.clone(), content.clone())));
        Ok(kept)
    }

    /// What no point needs, and what is said anew. What an earlier mark condemned is condemned.
    fn condemn_contents(&mut self, state: &State, needed: &Needed<'_>, kept: &BTreeMap<String, Content>) {
        let stays = |said: &Said, content: &Content| needed.entries.contains_key(said) && kept.get(&content.id) == Some(content);
        let firm = state.contents().flat_map(|(_, entries)| entries).filter(|entry| entry.condition == Condition::Firm);
        let gone = firm.filter(|entry| !stays(&entry.said(), &entry.content)).map(crate::journal::ContentEntry::said);
        self.condemned.contents = gone.collect();
    }

    fn condemn_maps(&mut self, listing: &Listing, kept: &BTreeMap<String, Content>) {
        let used: BTreeSet<ObjectName> =
            kept.values().flat_map(|content| &content.parts).filter_map(|part| ObjectName::parse(&part.object)).collect();
        let maps = listing.lengths.keys().filter(|object| object.kind() == ObjectKind::Maps);
        self.condemned.objects.extend(maps.filter(|object| !used.contains(object)));
    }

    #[expect(clippy::too_many_arguments, reason = "each is another part of what is known")]
    fn condemn_packs(
        &mut self,
        repository: &Repository,
        state: &State,
        catalog: &Catalog,
        listing: &Listing,
        chunks: &IdSet,
        options: &PruneOptions,
        doing: Doing,
    ) -> Result<(), BackupError> {
        let firm: BTreeSet<ObjectId> =
            state.indexes().iter().filter(|(_, condition)| **condition == Condition::Firm).map(|(id, _)| *id).collect();
        let survey = Survey::of(repository, catalog, listing, chunks, options)?;
        self.packs_len = survey.packs.values().map(|pack| pack.len).sum();
        self.used_len = survey.packs.values().map(|pack| pack.used_len).sum();
        self.moved_len = survey.repack.iter().map(|id| survey.packs[id].used_len).sum();
        if doing == Doing::It && !survey.reindex.is_empty() {
            (self.indexes, self.moved_len) = Repacker::new(repository, catalog).run(&firm, chunks, &survey)?;
        }
        let stays = |object: &ObjectName| match object {
            ObjectName::Pack(id) => survey.packs.contains_key(id) && !survey.dead.contains(id) && !survey.repack.contains(id),
            ObjectName::Index(id) => firm.contains(id) && !survey.reindex.contains(id),
            _ => true,
        };
        self.condemned.objects.extend(listing.lengths.keys().filter(|object| !stays(object)));
        Ok(())
    }

    fn tell(&self, listing: &Listing, report: &mut PruneReport) {
        self.condemned.objects.iter().for_each(|object| report.condemned.add(listing.lengths.get(object).copied().unwrap_or(0)));
        report.condemned_contents = self.condemned.contents.len() as u64;
        report.moved_len = self.moved_len;
        report.merged_contents = self.merged;
        (report.packs_len, report.used_len) = (self.packs_len, self.used_len);
    }
}
