//! Reachability: the contents and maps that a repository needs, from roots through parents, and
//! from maps the chunks.

use std::collections::{BTreeMap, BTreeSet};

use vellum_core::id_set::IdSet;
use vellum_core::identity::ContentId;
use vellum_core::page::{Page, PageEntry};

use crate::catalog::Catalog;
use crate::contents::{parent_of, read_part};
use crate::error::BackupError;
use crate::journal::{Condition, ContentEntry, MarkState, State};
use crate::objects::ObjectName;
use crate::record::{Content, Said, Sweep};
use crate::repository::Repository;

/// The needs of some contents.
#[derive(Debug, Default)]
pub(crate) struct Needed<'a> {
    /// The entries by which they are read.
    pub(crate) entries: BTreeMap<Said, &'a ContentEntry>,
    /// Contents that are needed and that no record describes: something is lost.
    pub(crate) missing: BTreeSet<String>,
}

impl<'a> Needed<'a> {
    /// The needs of the points of `state`.
    pub(crate) fn by_points(state: &'a State) -> Self {
        let mut needed = Self::default();
        for point in state.points() {
            needed.follow(state, &point.content);
        }
        needed
    }

    /// The same, and the needs of every content that is not condemned: a session may have built on
    /// it, or may be about to.
    pub(crate) fn by_all_that_is_firm(state: &'a State) -> Self {
        let mut needed = Self::by_points(state);
        for entry in state
            .contents()
            .flat_map(|(_, entries)| entries)
            .filter(|entry| entry.condition == Condition::Firm)
        {
            needed.add(state, entry);
        }
        needed
    }

    /// The same, and the needs of what other marks condemned than those that are swept now
    /// (`is_swept`): a session that they wait for may build on it still. What such an entry lacks
    /// is not missed: nothing may be built on it by who comes now.
    pub(crate) fn by_all_that_stays(
        state: &'a State,
        is_swept: &dyn Fn(&String, &MarkState) -> bool,
    ) -> Self {
        let firm = Self::by_all_that_is_firm(state);
        let mut needed = Self {
            entries: firm.entries,
            missing: BTreeSet::new(),
        };
        let others = state
            .marks()
            .iter()
            .filter(|(id, mark)| !is_swept(id, mark));
        let held: BTreeSet<&Said> = others.flat_map(|(_, mark)| &mark.contents).collect();
        let entries = state.contents().flat_map(|(_, entries)| entries);
        for entry in entries.filter(|entry| held.contains(&entry.said())) {
            needed.add(state, entry);
        }
        Self {
            missing: firm.missing,
            ..needed
        }
    }

    /// Every entry of every content that the journal has.
    pub(crate) fn by_all(state: &'a State) -> Self {
        let entries = state.contents().flat_map(|(_, entries)| entries);
        Self {
            entries: entries.map(|entry| (entry.said(), entry)).collect(),
            missing: BTreeSet::new(),
        }
    }

    fn follow(&mut self, state: &'a State, content: &str) {
        match ContentId::parse(content).and_then(|id| state.content(id)) {
            Some(entry) => self.add(state, entry),
            None => drop(self.missing.insert(content.to_owned())),
        }
    }

    /// Adds an entry and what it is relative to, as far as it is not there yet.
    fn add(&mut self, state: &'a State, entry: &'a ContentEntry) {
        let mut next = Some(entry);
        while let Some(entry) = next {
            if self.entries.insert(entry.said(), entry).is_some() {
                return;
            }
            next = parent_of(&entry.content).and_then(|id| state.content(id));
            if let (None, Some(parent)) = (next, &entry.content.parent) {
                self.missing.insert(parent.clone());
            }
        }
    }

    /// The maps objects that the entries name.
    pub(crate) fn maps(&self) -> BTreeSet<ObjectName> {
        let parts = self.entries.values().flat_map(|entry| &entry.content.parts);
        parts
            .filter_map(|part| ObjectName::parse(&part.object))
            .collect()
    }

    /// The sweep of a mark: of what it condemned, the contents that are not needed, and the objects
    /// that `goes` lets go.
    pub(crate) fn sweep(
        &self,
        id: &str,
        mark: &MarkState,
        goes: &dyn Fn(&ObjectName) -> bool,
    ) -> Sweep {
        let objects = mark.objects.iter().filter(|object| goes(object));
        let is_free = |said: &&Said| !self.entries.contains_key(said);
        Sweep {
            mark: id.to_owned(),
            objects: objects.map(ToString::to_string).collect(),
            contents: mark.contents.iter().filter(is_free).cloned().collect(),
        }
    }

    /// The chunks that the entries name. Cost: reads all their maps.
    pub(crate) fn chunks(
        &self,
        repository: &Repository,
        catalog: &Catalog,
    ) -> Result<IdSet, BackupError> {
        let mut chunks = IdSet::new();
        for entry in self.entries.values() {
            add_chunks(repository, catalog, &entry.content, &mut chunks)?;
        }
        Ok(chunks)
    }
}

/// Adds the chunks that one content's own map names.
pub(crate) fn add_chunks(
    repository: &Repository,
    catalog: &Catalog,
    content: &Content,
    chunks: &mut IdSet,
) -> Result<(), BackupError> {
    for part in &content.parts {
        read_part(repository, catalog, content, part)?
            .iter()
            .for_each(|(_, page)| add_page(page, chunks));
    }
    Ok(())
}

/// Adds the chunks that a page names.
pub(crate) fn add_page(page: &Page, chunks: &mut IdSet) {
    for run in page.runs() {
        if let PageEntry::Chunk(first) = run.slot {
            chunks.insert_run(first, run.len.into());
        }
    }
}
