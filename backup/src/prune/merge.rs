//! Merges contents that no point names into the one that is built on them, so that the length of
//! chains is bounded by the number of points.

use std::collections::{BTreeMap, BTreeSet};

use vellum_core::id_set::IdSet;
use vellum_core::identity::ContentId;
use vellum_core::page::Page;
use vellum_core::units::PageIndex;

use super::reach::{Needed, add_page};
use crate::catalog::Catalog;
use crate::contents::{Pages, parent_of, read_blob, visible_on};
use crate::error::BackupError;
use crate::format::{MAP_BLOB_LEN_TARGET, MapBlob, MapsWriter};
use crate::journal::State;
use crate::objects::ObjectName;
use crate::record::{Content, MapPart};
use crate::repository::Repository;

/// Contents that are merged into one at once: each holds one part of its map in memory, of a few
/// MiB. What is deeper waits for the next collection.
const MERGE_MAX: usize = 32;
/// A blob is written when its pages have about this many runs, some three bytes each.
const BLOB_RUNS_MAX: usize = MAP_BLOB_LEN_TARGET / 4;
/// A maps object is put when it is this long.
const MAPS_LEN_MAX: usize = 16 << 20;

/// A content, and the nameless ones below it that become part of it: the first is its parent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Merge<'a> {
    pub(crate) into: &'a Content,
    pub(crate) sources: Vec<&'a Content>,
}

/// The merges that leave every point as it is.
pub(crate) fn plan<'a>(state: &'a State, needed: &Needed<'a>) -> Vec<Merge<'a>> {
    let named: BTreeSet<&str> = state.points().map(|point| point.content.as_str()).collect();
    let contents: BTreeMap<&str, &Content> = needed
        .entries
        .values()
        .map(|entry| (entry.content.id.as_str(), &*entry.content))
        .collect();
    let mut children = BTreeMap::<&str, usize>::new();
    contents
        .values()
        .filter_map(|content| content.parent.as_deref())
        .for_each(|parent| *children.entry(parent).or_default() += 1);
    let goes = |content: &&Content| {
        !named.contains(content.id.as_str()) && children.get(content.id.as_str()) == Some(&1)
    };
    let below = |content: &Content| {
        content
            .parent
            .as_deref()
            .and_then(|id| contents.get(id).copied())
    };
    let tops = contents.values().copied().filter(|content| !goes(content));
    let merges = tops.map(|into| Merge {
        into,
        sources: std::iter::successors(below(into), |next| below(next))
            .take(MERGE_MAX)
            .take_while(goes)
            .collect(),
    });
    merges.filter(|merge| !merge.sources.is_empty()).collect()
}

/// The pages of `merge.into` once its sources are part of it, in order.
pub(crate) fn pages(
    repository: &Repository,
    catalog: &Catalog,
    merge: &Merge<'_>,
    visit: &mut dyn FnMut(PageIndex, Page) -> Result<(), BackupError>,
) -> Result<(), BackupError> {
    let chain = merge.chain();
    let is_root = chain[chain.len() - 1].parent.is_none();
    let mut cursors: Vec<Pages<'_>> = chain
        .iter()
        .map(|content| Pages::new(repository, catalog, content))
        .collect();
    while let Some(index) = next_index(&mut cursors)? {
        let page = composed(&mut cursors, &chain, index)?;
        let page = if is_root {
            page.resolved_at_root()
        } else {
            page
        };
        if !page.is_empty() {
            visit(index, page)?;
        }
    }
    Ok(())
}

impl Merge<'_> {
    /// The contents of the merge, from the top down.
    fn chain(&self) -> Vec<&Content> {
        std::iter::once(self.into)
            .chain(self.sources.iter().copied())
            .collect()
    }
}

/// Writes contents as they are after merges, and anew what moves.
pub(crate) struct Merger<'a> {
    repository: &'a Repository,
    catalog: &'a Catalog,
    writer: MapsWriter,
    /// Parts whose object is not put yet: which content, which of its parts, and where in the
    /// writer.
    waiting: Vec<(usize, usize, usize)>,
    contents: Vec<Content>,
}

impl<'a> Merger<'a> {
    pub(crate) fn new(repository: &'a Repository, catalog: &'a Catalog) -> Self {
        Self {
            repository,
            catalog,
            writer: MapsWriter::default(),
            waiting: Vec::new(),
            contents: Vec::new(),
        }
    }

    /// Writes what `merge.into` is once its sources are part of it, and adds the chunks that it
    /// names.
    pub(crate) fn add(&mut self, merge: &Merge<'_>, chunks: &mut IdSet) -> Result<(), BackupError> {
        let chain = merge.chain();
        let last = chain[chain.len() - 1];
        let parent_visible = chain
            .iter()
            .map(|content| content.parent_visible)
            .min()
            .unwrap_or(0);
        let merged = Content {
            parent: last.parent.clone(),
            parent_visible,
            parts: Vec::new(),
            ..merge.into.clone()
        };
        self.contents.push(merged);
        let (mut waiting, mut runs) = (Vec::new(), 0);
        pages(self.repository, self.catalog, merge, &mut |index, page| {
            add_page(&page, chunks);
            runs += page.runs().len();
            waiting.push((index, page));
            if runs <= BLOB_RUNS_MAX {
                return Ok(());
            }
            runs = 0;
            self.blob(std::mem::take(&mut waiting))
        })?;
        if waiting.is_empty() {
            Ok(())
        } else {
            self.blob(waiting)
        }
    }

    /// Writes those parts of a content anew that are in `objects`.
    pub(crate) fn relocate(
        &mut self,
        content: &Content,
        objects: &BTreeSet<ObjectName>,
    ) -> Result<(), BackupError> {
        self.contents.push(content.clone());
        let nth = self.contents.len() - 1;
        for (part, at) in content
            .parts
            .iter()
            .enumerate()
            .filter(|(_, part)| is_in(part, objects))
        {
            let blob = read_blob(self.repository, content, at)?;
            let place = self.writer.add(self.repository.sealer(), &blob)?;
            self.waiting.push((nth, part, place));
            self.put_if_full()?;
        }
        Ok(())
    }

    fn blob(&mut self, pages: Vec<(PageIndex, Page)>) -> Result<(), BackupError> {
        let nth = self.contents.len() - 1;
        let content = &mut self.contents[nth];
        let id = ContentId::parse(&content.id).expect("it was found by its identity");
        let parent = parent_of(content).map(|parent| (parent, content.parent_visible));
        let segment_of = |number| {
            self.catalog
                .segment_of(number)
                .expect("the catalog numbered it")
        };
        let blob = MapBlob::from_pages(id, parent, &pages, segment_of);
        let range = (pages[0].0.0, pages[pages.len() - 1].0.0);
        content.parts.push(MapPart {
            pages: range,
            object: String::new(),
            range: (0, 0),
        });
        let part = content.parts.len() - 1;
        let place = self.writer.add(self.repository.sealer(), &blob)?;
        self.waiting.push((nth, part, place));
        self.put_if_full()
    }

    fn put_if_full(&mut self) -> Result<(), BackupError> {
        if self.writer.len() > MAPS_LEN_MAX {
            self.put()
        } else {
            Ok(())
        }
    }

    fn put(&mut self) -> Result<(), BackupError> {
        if self.writer.is_empty() {
            return Ok(());
        }
        let sealed = std::mem::take(&mut self.writer).finish(self.repository.sealer())?;
        let name = ObjectName::Maps(sealed.object.id);
        self.repository.put(&name, &sealed.object.bytes)?;
        for (content, part, place) in self.waiting.drain(..) {
            let part = &mut self.contents[content].parts[part];
            (part.object, part.range) = (name.to_string(), sealed.ranges[place]);
        }
        Ok(())
    }

    /// The contents as they are now, durable.
    pub(crate) fn finish(mut self) -> Result<Vec<Content>, BackupError> {
        self.put()?;
        Ok(self.contents)
    }
}

/// True if a part is in one of `objects`.
pub(crate) fn is_in(part: &MapPart, objects: &BTreeSet<ObjectName>) -> bool {
    ObjectName::parse(&part.object).is_some_and(|object| objects.contains(&object))
}

/// The first page that any of them has next.
fn next_index(cursors: &mut [Pages<'_>]) -> Result<Option<PageIndex>, BackupError> {
    let mut first: Option<PageIndex> = None;
    for cursor in cursors {
        let index = cursor.peek()?;
        first = match (first, index) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    Ok(first)
}

/// One page of the maps of `chain`, merged: the top one first.
fn composed(
    cursors: &mut [Pages<'_>],
    chain: &[&Content],
    index: PageIndex,
) -> Result<Page, BackupError> {
    let mut below = Page::new();
    for (cursor, content) in cursors.iter_mut().zip(chain).rev() {
        let own = cursor.take(index)?.unwrap_or_default();
        below = own.overlay_on(&below, visible_on(content.parent_visible, index));
    }
    Ok(below)
}
