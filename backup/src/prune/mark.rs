//! The mark phase of a collection: finds what nothing needs, writes anew what is worth it, and puts
//! the record that condemns the rest. From then on no session builds on it.

use std::collections::{BTreeMap, BTreeSet};

use vellum_core::id_set::IdSet;

use super::choice::{ObjectUse, Worth, chosen};
use super::merge::{self, Merger, is_in};
use super::reach::{Needed, add_chunks, add_page};
use super::repack::Repacker;
use super::survey::Survey;
use super::{
    Collection, Condemned, Listing, PruneOptions, PruneReport, catalog, packs_of, refuse_missing,
};
use crate::catalog::Catalog;
use crate::error::BackupError;
use crate::journal::{Condition, RecordName, State, Status};
use crate::objects::{ObjectId, ObjectKind, ObjectName};
use crate::record::parts::{NAMES_MAX, PART_LEN};
use crate::record::{Content, DamageNote, IndexParts, Mark, Said, Stamped};
use crate::repository::Repository;
use crate::seal::bundle_len;

/// Maps objects shorter than this become one with others, in bytes: a request costs more than
/// fetching as much.
const SMALL_MAPS_LEN: u64 = 1 << 20;
/// Journals of more records than this beyond those that hold all are made one, also if nothing else
/// is to be done.
const RECORDS_MAX: usize = 8;

impl Collection<'_> {
    /// Condemns what nothing needs. True if it put a record.
    pub(super) fn mark(&mut self, options: &PruneOptions) -> Result<bool, BackupError> {
        let state = self.session.state().clone();
        let repository = self.repository;
        let site = Site {
            repository,
            state: &state,
            catalog: &catalog(repository)?,
            listing: &self.listing,
            options,
            doing: Doing::It,
        };
        let plan = Plan::of(&site)?;
        plan.tell(&self.listing, &mut self.report);
        let notes = damage(&site, &plan)?;
        let is_idle = plan.condemned.objects.is_empty()
            && plan.condemned.contents.is_empty()
            && plan.indexes.is_empty()
            && notes.iter().all(|note| note.stamp.is_some())
            && notes.len() == state.damaged().count();
        let journal = repository.journal();
        let replaced: Vec<RecordName> = journal.iter().map(|(name, _)| *name).collect();
        let mut record = state.whole(&|object| self.listing.has(object));
        record.past = journal.past(state.void());
        record.damaged = notes;
        record
            .contents
            .extend(plan.contents.into_iter().map(Into::into));
        record.name_indexes(plan.indexes);
        if !is_idle {
            // No name comes twice, also if this session marks again: who waits for a mark, and that
            // it was swept, is said by its name.
            let name = format!("{}-{}", self.session.id(), state.next_counter());
            let marks = named(&name, &plan.condemned);
            record.marks.extend(marks);
        }
        let parts = record.into_parts(PART_LEN);
        // As many as there must be are none too many, and those that the place retains say nothing.
        let is_told = |name: &&RecordName| state.status(name) != Some(Status::Replaced);
        if is_idle && replaced.iter().filter(is_told).count() < RECORDS_MAX + parts.len() {
            return Ok(false);
        }
        for part in parts {
            self.session.commit(part)?;
        }
        for name in &replaced {
            self.report.replaced_records += u64::from(self.let_go(&name.object())?);
        }
        Ok(true)
    }
}

/// The notes on damage that the record keeps, and new ones. A note goes with the last that is left
/// of its object: once nothing names it any more, and it is not there.
fn damage(site: &Site<'_>, plan: &Plan) -> Result<Vec<Stamped<DamageNote>>, BackupError> {
    let state = site.state;
    let mut notes = state.damage_notes();
    if !notes.is_empty() {
        let named = packs_of(site.repository, site.catalog, state.indexes().keys())?;
        let stays = |object: &ObjectName| match object {
            ObjectName::Pack(id) => named.contains(id) || site.listing.has(object),
            ObjectName::Index(id) => state.indexes().contains_key(id),
            _ => site.listing.has(object),
        };
        notes.retain(|note| {
            ObjectName::parse(&note.value.object).is_some_and(|object| stays(&object))
        });
    }
    let new = plan.damaged.iter().map(|pack| ObjectName::Pack(*pack));
    let new = new.filter(|object| state.damage_to(object).is_none());
    notes.extend(new.map(|object| {
        let note = DamageNote {
            object: object.to_string(),
            ..DamageNote::default()
        };
        note.into()
    }));
    Ok(notes)
}

/// The marks of what is condemned: several if it is much, since the sweep of one is said at once.
fn named(id: &str, condemned: &Condemned) -> Vec<Mark> {
    let objects: Vec<String> = condemned.objects.iter().map(ToString::to_string).collect();
    let contents: Vec<Said> = condemned.contents.iter().cloned().collect();
    let objects = objects.chunks(NAMES_MAX).map(|objects| Mark {
        objects: objects.to_vec(),
        ..Mark::default()
    });
    let contents = contents.chunks(NAMES_MAX).map(|contents| Mark {
        contents: contents.to_vec(),
        ..Mark::default()
    });
    let marks = objects.chain(contents).enumerate();
    marks
        .map(|(nth, mark)| Mark {
            id: format!("{id}-{nth}"),
            ..mark
        })
        .collect()
}

/// The plan of a collection in this state, for a person to look at.
pub(super) fn plan_only(
    repository: &Repository,
    state: &State,
    listing: &Listing,
    options: &PruneOptions,
    report: &mut PruneReport,
) -> Result<(), BackupError> {
    let site = Site {
        repository,
        state,
        catalog: &catalog(repository)?,
        listing,
        options,
        doing: Doing::Nothing,
    };
    Plan::of(&site)?.tell(listing, report);
    Ok(())
}

/// The choice of writing new objects or only planning them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doing {
    It,
    Nothing,
}

/// The inputs of a plan.
struct Site<'a> {
    repository: &'a Repository,
    state: &'a State,
    catalog: &'a Catalog,
    listing: &'a Listing,
    options: &'a PruneOptions,
    doing: Doing,
}

/// The contents of a mark, and the objects that were written for it.
#[derive(Default)]
struct Plan {
    condemned: Condemned,
    contents: Vec<Content>,
    indexes: Vec<IndexParts>,
    /// Packs that are not as they were, and that something needs.
    damaged: BTreeSet<ObjectId>,
    merged: u64,
    moved_len: u64,
    packs_len: u64,
    used_len: u64,
    freed_len: u64,
}

impl Plan {
    fn of(site: &Site<'_>) -> Result<Self, BackupError> {
        let needed = Needed::by_points(site.state);
        refuse_missing(site.state, &needed)?;
        let mut plan = Self::default();
        let (kept, chunks) = plan.maps(site, &needed)?;
        plan.condemn_contents(site.state, &needed, &kept);
        plan.condemn_maps(site.listing, &kept);
        plan.condemn_packs(site, &chunks)?;
        plan.condemned
            .objects
            .retain(|object| !site.state.is_condemned(object));
        Ok(plan)
    }

    /// The contents that stay, by identity, as they are from now on, and the chunks that they need.
    /// If nothing is to be done, those that would be written anew are missing: nobody knows where
    /// they would be.
    fn maps(
        &mut self,
        site: &Site<'_>,
        needed: &Needed<'_>,
    ) -> Result<(BTreeMap<String, Content>, IdSet), BackupError> {
        let merges = merge::plan(site.state, needed);
        self.merged = merges.iter().map(|merge| merge.sources.len() as u64).sum();
        let mut kept: BTreeMap<String, Content> = needed
            .entries
            .values()
            .map(|entry| (entry.content.id.clone(), (*entry.content).clone()))
            .collect();
        merges
            .iter()
            .flat_map(|merge| merge.sources.iter().chain([&merge.into]))
            .for_each(|content| drop(kept.remove(&content.id)));
        let mut chunks = IdSet::new();
        kept.values().try_for_each(|content| {
            add_chunks(site.repository, site.catalog, content, &mut chunks)
        })?;
        let crowded = crowded(site, &kept, !merges.is_empty());
        let moving: Vec<Content> = kept
            .values()
            .filter(|content| content.parts.iter().any(|part| is_in(part, &crowded)))
            .cloned()
            .collect();
        if site.doing == Doing::Nothing {
            moving
                .iter()
                .for_each(|content| drop(kept.remove(&content.id)));
            for merge in &merges {
                merge::pages(site.repository, site.catalog, merge, &mut |_, page| {
                    add_page(&page, &mut chunks);
                    Ok(())
                })?;
            }
            return Ok((kept, chunks));
        }
        let mut writing = Merger::new(site.repository, site.catalog);
        merges
            .iter()
            .try_for_each(|merge| writing.add(merge, &mut chunks))?;
        moving
            .iter()
            .try_for_each(|content| writing.relocate(content, &crowded))?;
        self.contents = writing.finish()?;
        kept.extend(
            self.contents
                .iter()
                .map(|content| (content.id.clone(), content.clone())),
        );
        Ok((kept, chunks))
    }

    /// Condemns the contents that no point needs, and those that are described anew. Contents that
    /// an earlier mark condemned stay condemned.
    fn condemn_contents(
        &mut self,
        state: &State,
        needed: &Needed<'_>,
        kept: &BTreeMap<String, Content>,
    ) {
        let stays = |said: &Said, content: &Content| {
            needed.entries.contains_key(said) && kept.get(&content.id) == Some(content)
        };
        let firm = state
            .contents()
            .flat_map(|(_, entries)| entries)
            .filter(|entry| entry.condition == Condition::Firm);
        let gone = firm
            .filter(|entry| !stays(&entry.said(), &entry.content))
            .map(crate::journal::ContentEntry::said);
        self.condemned.contents = gone.collect();
    }

    fn condemn_maps(&mut self, listing: &Listing, kept: &BTreeMap<String, Content>) {
        let used: BTreeSet<ObjectName> = kept
            .values()
            .flat_map(|content| &content.parts)
            .filter_map(|part| ObjectName::parse(&part.object))
            .collect();
        let maps = listing
            .lengths
            .keys()
            .filter(|object| object.kind() == ObjectKind::Maps);
        self.condemned
            .objects
            .extend(maps.filter(|object| !used.contains(object)));
    }

    fn condemn_packs(&mut self, site: &Site<'_>, chunks: &IdSet) -> Result<(), BackupError> {
        let firm: BTreeSet<ObjectId> = site
            .state
            .indexes()
            .iter()
            .filter(|(_, condition)| **condition == Condition::Firm)
            .map(|(id, _)| *id)
            .collect();
        let survey = Survey::of(
            site.repository,
            site.state,
            site.catalog,
            site.listing,
            chunks,
            site.options,
        )?;
        self.damaged = survey.needed_damaged().copied().collect();
        self.packs_len = survey.packs.values().map(|pack| pack.len).sum();
        self.used_len = survey.packs.values().map(|pack| pack.used_len).sum();
        self.moved_len = survey
            .repack
            .iter()
            .map(|id| survey.packs[id].used_len)
            .sum();
        if site.doing == Doing::It && !survey.reindex.is_empty() {
            (self.indexes, self.moved_len) =
                Repacker::new(site.repository, site.catalog).run(&firm, chunks, &survey)?;
        }
        let stays = |object: &ObjectName| match object {
            ObjectName::Pack(id) => {
                survey.packs.contains_key(id)
                    && !survey.dead.contains(id)
                    && !survey.repack.contains(id)
            }
            ObjectName::Index(id) => firm.contains(id) && !survey.reindex.contains(id),
            _ => true,
        };
        self.condemned
            .objects
            .extend(site.listing.lengths.keys().filter(|object| !stays(object)));
        let is_unknown = |object: &&ObjectName| match object {
            ObjectName::Pack(id) => {
                !survey.packs.contains_key(id) && !site.state.is_condemned(object)
            }
            _ => false,
        };
        let unknown: u64 = site
            .listing
            .lengths
            .keys()
            .filter(is_unknown)
            .map(|object| site.listing.pack_len(object))
            .sum();
        self.freed_len = survey.freed_len() + unknown;
        Ok(())
    }

    fn tell(&self, listing: &Listing, report: &mut PruneReport) {
        self.condemned.objects.iter().for_each(|object| {
            report
                .condemned
                .add(listing.lengths.get(object).copied().unwrap_or(0));
        });
        report.condemned_contents = self.condemned.contents.len() as u64;
        report.moved_len = self.moved_len;
        report.freed_len += self.freed_len;
        report.merged_contents = self.merged;
        report.damaged_packs = self.damaged.len() as u64;
        (report.packs_len, report.used_len) = (self.packs_len, self.used_len);
    }
}

/// Maps objects that are written anew: of those that hold what is `kept`, those that hold too much
/// else, and small ones.
fn crowded(
    site: &Site<'_>,
    kept: &BTreeMap<String, Content>,
    is_writing: bool,
) -> BTreeSet<ObjectName> {
    let mut parts = BTreeMap::<ObjectName, BTreeSet<(u64, u64)>>::new();
    for part in kept.values().flat_map(|content| &content.parts) {
        ObjectName::parse(&part.object)
            .into_iter()
            .for_each(|object| _ = parts.entry(object).or_default().insert(part.range));
    }
    let of = |(object, parts): (ObjectName, BTreeSet<(u64, u64)>)| {
        let len = *site.listing.lengths.get(&object)?;
        // Records may say what they like of ranges: nothing in an object is longer than it.
        let used_len = parts
            .iter()
            .fold(0, |sum: u64, (_, part_len)| sum.saturating_add(*part_len))
            .min(len);
        // The length is computed as if nothing else were in it: padding is not waste.
        let alone = bundle_len(
            parts.len(),
            used_len as usize,
            site.repository.file().is_encrypted,
        ) as u64;
        Some((
            object,
            ObjectUse {
                len,
                parts_len: used_len + len.saturating_sub(alone),
                used_len,
            },
        ))
    };
    let worth = Worth {
        max_unused_percent: site.options.max_unused_percent,
        limit: None,
        small_len: SMALL_MAPS_LEN,
        is_writing,
    };
    chosen(parts.into_iter().filter_map(of), &worth)
}
