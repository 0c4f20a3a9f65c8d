//! Reads the maps of contents: fetches and opens the parts that a repository keeps, and checks them
//! against the record that names them.

use std::collections::VecDeque;

use vellum_core::identity::ContentId;
use vellum_core::page::{PAGE_SPAN, Page};
use vellum_core::units::PageIndex;

use crate::catalog::Catalog;
use crate::error::BackupError;
use crate::format::MapBlob;
use crate::record::{Content, MapPart};
use crate::repository::Repository;
use crate::seal::SealedKind;

/// The content that a content's map is relative to.
#[must_use]
pub fn parent_of(content: &Content) -> Option<ContentId> {
    content.parent.as_deref().and_then(ContentId::parse)
}

/// The number of positions on a page at which the parent is visible.
#[must_use]
pub fn visible_on(parent_visible: u64, page: PageIndex) -> u16 {
    let before = page.0.saturating_mul(PAGE_SPAN.into());
    parent_visible.saturating_sub(before).min(PAGE_SPAN.into()) as u16
}

/// The pages of one part of a content's map, with this process's addresses. Cost: one request.
pub fn read_part(
    repository: &Repository,
    catalog: &Catalog,
    content: &Content,
    part: &MapPart,
) -> Result<Vec<(PageIndex, Page)>, BackupError> {
    let blob = read_blob(repository, content, part)?;
    Ok(blob
        .into_pages(|segment| catalog.number_of(segment))
        .collect())
}

/// One part of a content's map, as it is. Cost: one request.
pub(crate) fn read_blob(
    repository: &Repository,
    content: &Content,
    part: &MapPart,
) -> Result<MapBlob, BackupError> {
    let damaged = |reason: String| BackupError::Damaged {
        object: part.object.clone(),
        reason,
        points: Vec::new(),
    };
    let (start, len) = part.range;
    let end = start
        .checked_add(len)
        .ok_or_else(|| damaged("a record names an impossible range of it".to_owned()))?;
    let id = ContentId::parse(&content.id)
        .ok_or_else(|| damaged("a record names no content".to_owned()))?;
    repository
        .twice()
        .read_part(&part.object, start..end, |stored| {
            let stored = stored.map_err(|error| repository.failed(error))?;
            let plain = repository
                .sealer()
                .open_blob(SealedKind::Maps, &stored)
                .map_err(|error| damaged(error.to_string()))?;
            let blob = MapBlob::decode(&plain).map_err(|error| damaged(error.to_string()))?;
            let is_it = blob.is_of(id, parent_of(content), content.parent_visible, part.pages);
            if is_it {
                Ok(blob)
            } else {
                Err(damaged(
                    "it holds another map than the record says".to_owned(),
                ))
            }
        })
}

/// A content's pages in order, one part in memory at a time.
pub struct Pages<'a> {
    repository: &'a Repository,
    catalog: &'a Catalog,
    content: &'a Content,
    next_part: usize,
    waiting: VecDeque<(PageIndex, Page)>,
}

impl<'a> Pages<'a> {
    /// Creates the reader; it reads nothing before the first page is asked for.
    #[must_use]
    pub fn new(repository: &'a Repository, catalog: &'a Catalog, content: &'a Content) -> Self {
        Self {
            repository,
            catalog,
            content,
            next_part: 0,
            waiting: VecDeque::new(),
        }
    }

    /// The index of the next page.
    pub fn peek(&mut self) -> Result<Option<PageIndex>, BackupError> {
        while self.waiting.is_empty() {
            let Some(part) = self.content.parts.get(self.next_part) else {
                return Ok(None);
            };
            self.waiting = read_part(self.repository, self.catalog, self.content, part)?.into();
            self.next_part += 1;
        }
        Ok(self.waiting.front().map(|(index, _)| *index))
    }

    /// The page with this index, if it is the next one.
    pub fn take(&mut self, index: PageIndex) -> Result<Option<Page>, BackupError> {
        if self.peek()? == Some(index) {
            Ok(self.waiting.pop_front().map(|(_, page)| page))
        } else {
            Ok(None)
        }
    }
}
