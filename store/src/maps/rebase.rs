//! Rebase: moves an image onto another parent, or flattens it onto none.
//!
//! Both are one operation: a new layer is built beside the old ones, page by page, and one logged
//! batch makes it the image's active layer. A crash before that leaves pages that no layer has,
//! which the next collection takes away; the old layers stay for the image's snapshots and for the
//! next collection.
//!
//! **Proof that the copied references need no claim.** Each is copied from a layer that is held
//! (the image's old chain, its new parent) until the new layer is committed. A collection marks
//! from one view of all maps, and no commit falls into the middle of it. If the view is older than
//! ours, the layers that we copy from are in it, since maintenance leaves held layers alone; if it
//! is younger, the new layer is in it. Without the hold, tidying could take a source away while its
//! references are in our memory only.

use std::sync::Arc;

use vellum_core::page::{Page, PageEntry};
use vellum_core::tree::{Layer, NodeRef, PageSet, PlanError, page_of, pages_for};
use vellum_core::units::{ChunkCount, ImageId, PageIndex};

use super::diff::differing_pages;
use crate::clock::now_ms;
use crate::database::{Batch, Durability};
use crate::disk::Disk;
use crate::error::StoreError;
use crate::layer_writer::LayerWriter;
use crate::resize::{CutTail, cut_tail};
use crate::store::Store;
use crate::watch::{Progress, Watch};

/// Bytes of pages that are gathered for one batch.
const BATCH_LEN: usize = 1 << 20;

/// Part of an image that a rebase keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RebaseMode {
    /// The image's content: what differs between the parents goes into its map.
    KeepContent,
    /// The image's map: the content changes where the parents differ (qemu-img's `-u`).
    KeepMap,
}

/// Content of a new layer, page by page.
struct RebasePlan<'p> {
    /// The record, without pages, under any id.
    layer: Layer,
    /// All that may say something.
    pages: PageSet,
    page: &'p dyn Fn(PageIndex) -> Result<Page, StoreError>,
    /// The image that it comes from, afterwards.
    origin: Option<ImageId>,
}

impl Store {
    /// Makes `image` independent of all other layers: its active layer gets everything that shows
    /// through it.
    pub fn flatten(&self, image: ImageId, watch: &dyn Watch) -> Result<(), StoreError> {
        self.check_writable()?;
        let _exclusive = self.lock_image(image)?;
        self.tree().check_own(image)?;
        let old = self.open_disk(NodeRef::Image(image))?;
        let layer = Layer {
            changed_ns: changed_ns(&old),
            ..self.tree_mut().blank_layer(None, old.len(), now_ms())
        };
        // At the root an explicit zero says no more than nothing does, and a resolved page has
        // none.
        let page = |index| Ok(Page::clone(&*old.resolve_page(index)?));
        self.rebuild_active_layer(
            image,
            RebasePlan {
                layer,
                pages: old.mapped_pages(),
                page: &page,
                origin: None,
            },
            None,
            watch,
        )
    }

    /// Puts `image` onto `parent`. Its snapshots stay as they are.
    ///
    /// [`RebaseMode::KeepMap`] keeps what the image holds itself: what was written to it since its
    /// last snapshot, since it was created, or since something was created from it. What it hid of
    /// its old parent because it was once shorter stays hidden.
    pub fn rebase(
        &self,
        image: ImageId,
        parent: NodeRef,
        mode: RebaseMode,
        watch: &dyn Watch,
    ) -> Result<(), StoreError> {
        self.check_writable()?;
        let _exclusive = self.lock_image(image)?;
        self.tree().check_rebase(image, parent)?;
        if mode == RebaseMode::KeepMap {
            self.tree().check_changes(image)?;
        }
        let base = self.sealed_base(parent)?;
        let origin = match parent {
            NodeRef::Snapshot(own, _) if own == image => {
                self.tree().image(image).and_then(|image| image.origin)
            }
            other => Some(other.image_id()),
        };
        match mode {
            RebaseMode::KeepContent => self.rebase_content(image, &base, origin, watch),
            RebaseMode::KeepMap => self.rebase_map(image, &base, origin, watch),
        }
    }

    fn rebase_content(
        &self,
        image: ImageId,
        base: &Disk,
        origin: Option<ImageId>,
        watch: &dyn Watch,
    ) -> Result<(), StoreError> {
        let old = self.open_disk(NodeRef::Image(image))?;
        let layer = Layer {
            changed_ns: changed_ns(&old),
            ..self
                .tree_mut()
                .blank_layer(top_of(base), old.len(), now_ms())
        };
        let visible = layer.clone();
        let page = |index| {
            Ok(old
                .resolve_page(index)?
                .relative_to(&*base.resolve_page(index)?, visible.visible_in(index)))
        };
        self.rebuild_active_layer(
            image,
            RebasePlan {
                layer,
                pages: differing_pages(&old, base),
                page: &page,
                origin,
            },
            None,
            watch,
        )
    }

    fn rebase_map(
        &self,
        image: ImageId,
        base: &Disk,
        origin: Option<ImageId>,
        watch: &dyn Watch,
    ) -> Result<(), StoreError> {
        let (old, own, mut layer) = {
            let mut tree = self.tree_mut();
            let own = tree.own_layers(image);
            let (top, len) = own
                .first()
                .map(|layer| (layer.id, layer.len))
                .ok_or(PlanError::Gone)?;
            let name = tree.display_name(NodeRef::Image(image));
            let layer = tree.blank_layer(top_of(base), len, now_ms());
            (self.disk_at(&mut tree, top, name), own, layer)
        };
        layer.parent_visible = layer.parent_visible.min(seen_through(&own));
        let page = |index| {
            self.own_page(&own, index)
                .map_err(|error| error.in_image(old.name(), 0..old.len()))
        };
        let tail = match cut_tail(base, old.len())? {
            Some(tail) if is_seen(&layer, &page, &tail)? => Some(tail),
            _ => None,
        };
        let pages = PageSet::union_of(own.iter().map(|layer| &layer.pages));
        self.rebuild_active_layer(
            image,
            RebasePlan {
                layer,
                pages,
                page: &page,
                origin,
            },
            tail,
            watch,
        )
    }

    /// Page `index` of the layers `own`, merged. At the root an explicit zero is as good as an
    /// absent entry, and maintenance takes it away: whether that has happened must not show.
    fn own_page(&self, own: &[Arc<Layer>], index: PageIndex) -> Result<Page, StoreError> {
        let Some((top, below)) = own.split_first() else {
            return Ok(Page::new());
        };
        let page = self.inner.pages.overlay_into(top, below, index)?;
        Ok(if has_parent(own) {
            page
        } else {
            page.resolved_at_root()
        })
    }

    /// Builds the layer that `plan` describes and makes it the active layer of `image`, for which
    /// the caller has the exclusive right: a snapshot that is taken meanwhile does not change its
    /// content.
    fn rebuild_active_layer(
        &self,
        image: ImageId,
        plan: RebasePlan<'_>,
        tail: Option<CutTail>,
        watch: &dyn Watch,
    ) -> Result<(), StoreError> {
        let building = self.build_layer();
        let mut draft = LayerWriter::new(Layer {
            id: building.layer,
            ..plan.layer
        });
        let built = self
            .write_pages(&mut draft, &plan.pages, plan.page, watch)
            .and_then(|()| self.inner.chunks.make_durable(building.generation));
        if let Err(error) = built {
            self.forget_pages(&building, true);
            return Err(error);
        }
        self.commit_tail("rebase", tail, |tree| {
            tree.plan_replace(image, draft.layer, plan.origin)
        })
    }

    fn write_pages(
        &self,
        draft: &mut LayerWriter,
        pages: &PageSet,
        page: &dyn Fn(PageIndex) -> Result<Page, StoreError>,
        watch: &dyn Watch,
    ) -> Result<(), StoreError> {
        let end = PageIndex(pages_for(
            self.parameters().chunk_len.count_for(draft.layer.len),
        ));
        let pages = pages.pages_within(PageIndex(0), end);
        let mut batch = Batch::default();
        for (done, index) in (1..).zip(pages.iter()) {
            let inside = draft.layer.positions_in(self.parameters().chunk_len, index);
            draft.put_page(
                index,
                &Page::new(),
                &page(index)?.clipped_to(inside),
                &mut batch,
            );
            if batch.len() >= BATCH_LEN {
                self.write_bulk(std::mem::take(&mut batch))?;
            }
            watch.report_progress(Progress {
                done,
                total: Some(pages.len()),
            });
            if watch.is_cancelled() {
                return Err(StoreError::Interrupted);
            }
        }
        self.write_bulk(batch)
    }

    fn write_bulk(&self, batch: Batch) -> Result<(), StoreError> {
        self.check_room(batch.len() as u64)?;
        self.inner.database.write_batch(batch, Durability::Bulk)
    }
}

fn top_of(disk: &Disk) -> Option<&Layer> {
    disk.chain().first().map(AsRef::as_ref)
}

/// The time when the content that `disk` shows last changed.
fn changed_ns(disk: &Disk) -> u64 {
    top_of(disk).map_or(0, |layer| layer.changed_ns)
}

/// Positions of a parent that can be seen through `own`. All, if there is no parent: none of one
/// was hidden.
fn seen_through(own: &[Arc<Layer>]) -> ChunkCount {
    let seen = own
        .iter()
        .map(|layer| layer.parent_visible)
        .min()
        .filter(|_| has_parent(own));
    seen.unwrap_or(ChunkCount(u64::MAX))
}

fn has_parent(own: &[Arc<Layer>]) -> bool {
    own.last().is_some_and(|layer| layer.parent.is_some())
}

/// True if the parent would be seen at the position of `tail`.
fn is_seen(
    layer: &Layer,
    page: &dyn Fn(PageIndex) -> Result<Page, StoreError>,
    tail: &CutTail,
) -> Result<bool, StoreError> {
    let (index, at) = page_of(tail.position);
    Ok(at < layer.visible_in(index) && page(index)?.entry_at(at) == PageEntry::Absent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{assert_same, name, new_store, read_all};
    use crate::watch::Unwatched;

    const CHUNK: u64 = 4096;
    const PAGE_LEN: u64 = 4 << 20;

    /// An image of `len` bytes, all of them `byte`.
    fn filled(store: &Store, text: &str, byte: u8, len: u64) -> ImageId {
        let image = store
            .create_image(&name(text), len)
            .expect("create")
            .image_id();
        write(store, image, 0, &vec![byte; len as usize]);
        image
    }

    fn write(store: &Store, image: ImageId, offset: u64, bytes: &[u8]) {
        store
            .open_live(image)
            .and_then(|live| live.write_at(bytes, offset).and_then(|()| live.flush()))
            .expect("write");
    }

    fn zero(store: &Store, image: ImageId, offset: u64, len: u64) {
        store
            .open_live(image)
            .and_then(|live| live.write_zeroes(offset, len).and_then(|()| live.flush()))
            .expect("zero");
    }

    fn rebase(store: &Store, image: ImageId, parent: NodeRef, mode: RebaseMode) {
        store
            .rebase(image, parent, mode, &Unwatched)
            .expect("rebase");
    }

    /// A child of a disk of ones, with a written chunk, explicit zeros over the end of a page, and
    /// a short tail.
    fn child(store: &Store, text: &str, parent: ImageId, len: u64) -> (ImageId, Vec<u8>) {
        let child = store
            .create_child(&name(text), NodeRef::Image(parent), Some(len))
            .expect("child")
            .image_id();
        write(store, child, CHUNK, &[3; 4096]);
        zero(store, child, PAGE_LEN - CHUNK, 2 * CHUNK);
        let content = read_all(store, NodeRef::Image(child));
        (child, content)
    }

    #[test]
    fn content_is_kept_on_any_parent_and_on_none() {
        let (_dir, store) = new_store(4096);
        let old = filled(&store, "old", 1, PAGE_LEN + 5 * CHUNK);
        let parents = [
            0,
            511,
            CHUNK,
            PAGE_LEN,
            PAGE_LEN + CHUNK,
            PAGE_LEN + 2 * CHUNK + 513,
            PAGE_LEN + 9 * CHUNK,
        ];
        let parents: Vec<ImageId> = parents
            .iter()
            .map(|len| filled(&store, &format!("p{len}"), 1 + (len % 2) as u8, *len))
            .collect();
        let lens = [
            PAGE_LEN + 2 * CHUNK - 1,
            PAGE_LEN + 2 * CHUNK,
            PAGE_LEN + 2 * CHUNK + 1,
            PAGE_LEN + 2 * CHUNK + 512,
        ];
        for (nth, len) in lens.into_iter().enumerate() {
            let (image, mut content) = child(&store, &format!("c{nth}"), old, len);
            for parent in &parents {
                rebase(
                    &store,
                    image,
                    NodeRef::Image(*parent),
                    RebaseMode::KeepContent,
                );
                assert_same(
                    &read_all(&store, NodeRef::Image(image)),
                    &content,
                    "rebased",
                );
                assert_eq!(
                    store.tree().image(image).and_then(|image| image.origin),
                    Some(*parent)
                );
            }
            // Content of the parent past the image's end never shows.
            store.resize_image(image, len + CHUNK, false).expect("grow");
            content.resize((len + CHUNK) as usize, 0);
            assert_same(&read_all(&store, NodeRef::Image(image)), &content, "grown");
            store.flatten(image, &Unwatched).expect("flatten");
            assert_same(&read_all(&store, NodeRef::Image(image)), &content, "flat");
            let tree = store.tree();
            let layer = tree.layer_of(NodeRef::Image(image)).expect("a layer");
            assert_eq!(
                (
                    layer.parent,
                    layer.zeros,
                    tree.image(image).and_then(|image| image.origin)
                ),
                (None, 0, None)
            );
        }
    }

    #[test]
    fn a_map_that_is_kept_shows_the_new_parent_where_it_says_nothing() {
        let (_dir, store) = new_store(4096);
        let old = filled(&store, "old", 1, PAGE_LEN + 5 * CHUNK);
        for (nth, (len, new_len)) in [
            (PAGE_LEN + 3 * CHUNK, PAGE_LEN + 3 * CHUNK),
            (PAGE_LEN + 3 * CHUNK, PAGE_LEN + 4 * CHUNK),
            (PAGE_LEN + 2 * CHUNK + 700, PAGE_LEN + 4 * CHUNK),
            (PAGE_LEN + 3 * CHUNK, PAGE_LEN - 100),
            (PAGE_LEN + 9 * CHUNK, PAGE_LEN + 20 * CHUNK),
        ]
        .into_iter()
        .enumerate()
        {
            let new = filled(&store, &format!("new{nth}"), 2, new_len);
            let (image, content) = child(&store, &format!("c{nth}"), old, len);
            // The tail and the nameless layers in between are the image's own: nothing else
            // reaches them.
            store
                .resize_image(image, len - CHUNK / 2, true)
                .expect("shrink");
            store.resize_image(image, len, false).expect("grow");
            rebase(&store, image, NodeRef::Image(new), RebaseMode::KeepMap);
            let seen = ((len - CHUNK / 2).next_multiple_of(CHUNK))
                .min((PAGE_LEN + 5 * CHUNK).next_multiple_of(CHUNK));
            let cut = len - CHUNK / 2;
            let is_tail = |at: u64| at / CHUNK == cut / CHUNK && !cut.is_multiple_of(CHUNK);
            let expected = |(at, byte): (u64, u8)| match byte {
                1 if is_tail(at) && at < cut => 1,
                1 if at < seen && at < new_len && at < cut => 2,
                _ if at >= cut => 0,
                1 => 0,
                own => own,
            };
            let expected: Vec<u8> = (0..).zip(content).map(expected).collect();
            assert_same(
                &read_all(&store, NodeRef::Image(image)),
                &expected,
                &format!("case {nth}"),
            );
        }
    }

    #[test]
    fn a_kept_map_does_not_show_the_parent_past_its_own_end() {
        let (_dir, store) = new_store(4096);
        let new = filled(&store, "new", 2, 3 * CHUNK);
        for (nth, len) in [1, 511, 512, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 513]
            .into_iter()
            .enumerate()
        {
            let image = store
                .create_image(&name(&format!("i{nth}")), len)
                .expect("create")
                .image_id();
            rebase(&store, image, NodeRef::Image(new), RebaseMode::KeepMap);
            let mut expected = vec![2; len as usize];
            assert_same(
                &read_all(&store, NodeRef::Image(image)),
                &expected,
                "shows the parent",
            );
            store.resize_image(image, 3 * CHUNK, false).expect("grow");
            expected.resize(3 * CHUNK as usize, 0);
            assert_same(&read_all(&store, NodeRef::Image(image)), &expected, "grown");
        }
    }

    #[test]
    fn snapshots_and_relatives_are_as_before_and_circles_are_refused() {
        let (dir, store) = new_store(4096);
        let old = filled(&store, "old", 1, PAGE_LEN + 9 * CHUNK);
        let (a, before) = child(&store, "a", old, PAGE_LEN + 9 * CHUNK);
        let snapshot = store.take_snapshot(a, &name("s")).expect("snapshot");
        let below = store
            .create_child(&name("below"), NodeRef::Image(a), None)
            .expect("child")
            .image_id();
        write(&store, a, 0, b"newer");
        let content = read_all(&store, NodeRef::Image(a));
        for parent in [NodeRef::Image(a), NodeRef::Image(below)] {
            let refused = store.rebase(a, parent, RebaseMode::KeepContent, &Unwatched);
            assert!(
                matches!(refused, Err(StoreError::Plan(PlanError::Circle { .. }))),
                "{refused:?}"
            );
        }
        rebase(&store, a, snapshot, RebaseMode::KeepContent);
        rebase(&store, below, NodeRef::Image(a), RebaseMode::KeepContent);
        rebase(&store, a, NodeRef::Image(old), RebaseMode::KeepContent);
        store.flatten(a, &Unwatched).expect("flatten");
        drop(store);
        let store = crate::model::open(&dir);
        assert_same(&read_all(&store, NodeRef::Image(a)), &content, "image");
        assert_same(&read_all(&store, snapshot), &before, "snapshot");
        assert_same(&read_all(&store, NodeRef::Image(below)), &before, "child");
    }

    #[test]
    fn a_rebase_on_a_near_relative_says_only_what_differs() {
        let (_dir, store) = new_store(4096);
        let old = filled(&store, "old", 1, 3 * PAGE_LEN);
        let (a, _) = child(&store, "a", old, 3 * PAGE_LEN);
        let (b, _) = child(&store, "b", old, 3 * PAGE_LEN);
        write(&store, b, 2 * PAGE_LEN, &[5; 4096]);
        rebase(&store, b, NodeRef::Image(a), RebaseMode::KeepContent);
        let tree = store.tree();
        let layer = tree.layer_of(NodeRef::Image(b)).expect("a layer");
        assert_eq!((layer.chunks, layer.zeros, layer.pages.len()), (1, 0, 1));
    }

    #[test]
    fn an_interrupted_rebase_changes_nothing() {
        struct Never;
        impl Watch for Never {
            fn report_progress(&self, _: Progress) {}
            fn is_cancelled(&self) -> bool {
                true
            }
        }
        let (_dir, store) = new_store(4096);
        let old = filled(&store, "old", 1, 2 * PAGE_LEN);
        let (image, content) = child(&store, "a", old, 2 * PAGE_LEN);
        let before = store.tree().image(image).cloned();
        assert!(matches!(
            store.flatten(image, &Never),
            Err(StoreError::Interrupted)
        ));
        assert_eq!(store.tree().image(image).cloned(), before);
        assert!(store.unfinished_layers().is_empty());
        assert_same(
            &read_all(&store, NodeRef::Image(image)),
            &content,
            "untouched",
        );
    }
}
