//! An image on another parent, or on none.
//!
//! All of it is one thing: a new layer is built beside the old ones, page by page, and one logged batch makes it the image's active
//! layer. A crash before that leaves pages that no layer has, which the next collection takes away; the old layers stay for the image's
//! snapshots and for the next collection.
//!
//! **Why the copied references need no claim.** Each is copied from a layer that is held (the image's old chain, its new parent) until
//! the new layer is committed. A collection marks from a view of the tree that it takes after it has begun. If that view is older than
//! our commit, the held layers are in it, and their pages stay where they are: nothing here changes or deletes a page of theirs, and
//! maintenance leaves held layers alone. If the view is younger, the new layer is in it, complete. So the old active layer must *not* be
//! dropped in the final batch, even if nobody else needs it: a view from before the commit, read after it, would miss both.

use std::sync::Arc;

use vellum_core::page::{Page, Slot};
use vellum_core::tree::{Layer, Node, PageSet, PlanError, page_of, pages_for};
use vellum_core::units::{ChunkCount, ImageId, PageIndex};

use super::diff::differing_pages;
use crate::database::{Batch, Durability};
use crate::disk::Disk;
use crate::draft::Draft;
use crate::error::StoreError;
use crate::resize::{Tail, cut_tail};
use crate::store::{Store, now_ms};
use crate::watch::{Progress, Watch};

/// Bytes of pages that are gathered for one batch.
const BATCH_LEN: usize = 1 << 20;

/// What a rebase keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RebaseMode {
    /// The image's content: what differs between the parents goes into its map.
    KeepContent,
    /// The image's map: the content changes where the parents differ (qemu-img's `-u`).
    KeepMap,
}

/// What a new layer will say, page by page.
struct Plan<'p> {
    /// The record, without pages, under any id.
    layer: Layer,
    /// All that may say something.
    pages: PageSet,
    page: &'p dyn Fn(PageIndex) -> Result<Page, StoreError>,
    /// The image that it comes from, afterwards.
    origin: Option<ImageId>,
}

impl Store {
    /// Makes `image` independent of all other layers: its active layer gets everything that shows through it.
    pub fn flatten(&self, image: ImageId, watch: &dyn Watch) -> Result<(), StoreError> {
        self.check_writable()?;
        let _exclusive = self.exclusive(image)?;
        let old = self.disk(Node::Image(image))?;
        let layer = self.tree_mut().blank_layer(None, old.len(), now_ms());
        // At the root an explicit zero says no more than nothing does, and a resolved page has none.
        let page = |index| Ok(Page::clone(&*old.page(index)?));
        self.rebuild(image, Plan { layer, pages: old.mapped_pages(), page: &page, origin: None }, None, watch)
    }

    /// Puts `image` onto `parent`. Its snapshots stay as they are.
    ///
    /// [`RebaseMode::KeepMap`] keeps what the image holds itself: what was written to it since its last snapshot, since it was created,
    /// or since something was created from it. What it hid of its old parent because it was once shorter stays hidden.
    pub fn rebase(&self, image: ImageId, parent: Node, mode: RebaseMode, watch: &dyn Watch) -> Result<(), StoreError> {
        self.check_writable()?;
        let _exclusive = self.exclusive(image)?;
        self.tree().check_rebase(image, parent)?;
        let base = self.sealed_base(parent)?;
        let origin = match parent {
            Node::Snapshot(own, _) if own == image => self.tree().image(image).and_then(|image| image.origin),
            other => Some(other.image()),
        };
        match mode {
            RebaseMode::KeepContent => self.rebase_content(image, &base, origin, watch),
            RebaseMode::KeepMap => self.rebase_map(image, &base, origin, watch),
        }
    }

    fn rebase_content(&self, image: ImageId, base: &Disk, origin: Option<ImageId>, watch: &dyn Watch) -> Result<(), StoreError> {
        let old = self.disk(Node::Image(image))?;
        let layer = self.tree_mut().blank_layer(top_of(base), old.len(), now_ms());
        let visible = layer.clone();
        let page = |index| Ok(old.page(index)?.relative_to(&*base.page(index)?, visible.visible_in(index)));
        self.rebuild(image, Plan { layer, pages: differing_pages(&old, base), page: &page, origin }, None, watch)
    }

    fn rebase_map(&self, image: ImageId, base: &Disk, origin: Option<ImageId>, watch: &dyn Watch) -> Result<(), StoreError> {
        let (old, own, mut layer) = {
            let mut tree = self.tree_mut();
            let own = tree.own_layers(image);
            let (top, len) = own.first().map(|layer| (layer.id, layer.len)).ok_or(PlanError::Gone)?;
            let name = tree.display(Node::Image(image));
            let layer = tree.blank_layer(top_of(base), len, now_ms());
            (self.disk_at(&mut tree, top, name), own, layer)
        };
        layer.parent_visible = layer.parent_visible.min(seen_through(&own));
        let page = |index| self.own_page(&own, index).map_err(|error| error.in_image(old.name(), 0..old.len()));
        let tail = match cut_tail(base, old.len())? {
            Some(tail) if self.is_seen(&layer, &page, &tail)? => Some(tail),
            _ => None,
        };
        let pages = PageSet::union_of(own.iter().map(|layer| &layer.pages));
        self.rebuild(image, Plan { layer, pages, page: &page, origin }, tail, watch)
    }

    /// What `own` say together on page `index`.
    fn own_page(&self, own: &[Arc<Layer>], index: PageIndex) -> Result<Page, StoreError> {
        let Some((top, below)) = own.split_first() else { return Ok(Page::new()) };
        self.inner.pages.merged(top, below, index)
    }

    /// Whether the parent would be seen where `tail` belongs.
    fn is_seen(&self, layer: &Layer, page: &dyn Fn(PageIndex) -> Result<Page, StoreError>, tail: &Tail) -> Result<bool, StoreError> {
        let (index, at) = page_of(tail.position);
        Ok(at < layer.visible_in(index) && page(index)?.slot(at) == Slot::Absent)
    }

    /// Builds the layer that `plan` describes and makes it the active layer of `image`, for which the caller has the exclusive right:
    /// a snapshot that is taken meanwhile does not change its content.
    fn rebuild(&self, image: ImageId, plan: Plan<'_>, tail: Option<Tail>, watch: &dyn Watch) -> Result<(), StoreError> {
        let building = self.build_layer();
        let mut draft = Draft::new(Layer { id: building.layer, ..plan.layer });
        let built = self.write_pages(&mut draft, &plan.pages, plan.page, watch).and_then(|()| self.inner.chunks.settle());
        if let Err(error) = built {
            self.forget_pages(&building, true);
            return Err(error);
        }
        self.commit_tail(tail, |tree| tree.plan_replace(image, draft.layer, plan.origin))
    }

    fn write_pages(
        &self,
        draft: &mut Draft,
        pages: &PageSet,
        page: &dyn Fn(PageIndex) -> Result<Page, StoreError>,
        watch: &dyn Watch,
    ) -> Result<(), StoreError> {
        let end = PageIndex(pages_for(self.parameters().chunk_len.count_for(draft.layer.len)));
        let pages = pages.within(PageIndex(0), end);
        let mut batch = Batch::default();
        for (done, index) in (1..).zip(pages.iter()) {
            let inside = draft.layer.positions_in(self.parameters().chunk_len, index);
            draft.put(index, &Page::new(), &page(index)?.clipped(inside), &mut batch);
            if batch.len() >= BATCH_LEN {
                self.write_bulk(std::mem::take(&mut batch))?;
            }
            watch.progress(Progress { done, total: Some(pages.len()) });
            if watch.is_cancelled() {
                return Err(StoreError::Interrupted);
            }
        }
        self.write_bulk(batch)
    }

    fn write_bulk(&self, batch: Batch) -> Result<(), StoreError> {
        self.inner.folder.check_room(batch.len() as u64)?;
        self.inner.stop.guard(|| self.inner.database.write(batch, Durability::Bulk))
    }
}

fn top_of(disk: &Disk) -> Option<&Layer> {
    disk.chain().first().map(AsRef::as_ref)
}

/// How much of a parent can be seen through `own`. Without a parent nothing was hidden of one, so all of it.
fn seen_through(own: &[Arc<Layer>]) -> ChunkCount {
    let has_parent = own.last().is_some_and(|layer| layer.parent.is_some());
    let seen = own.iter().map(|layer| layer.parent_visible).min().filter(|_| has_parent);
    seen.unwrap_or(ChunkCount(u64::MAX))
}
