//! Resizes images: creates children that are shorter than their parent, and grows and shrinks
//! disks.
//!
//! The rule that makes both simple: no map shows anything past its disk's end, and in the last
//! chunk the bytes past the end are zero. A layer's `parent_visible` keeps the first half of it for
//! whole chunks. The second half is kept here: where a new end cuts a chunk that has data beyond
//! it, the layer gets a chunk of its own, in the same batch.

use vellum_core::hash::{ChunkHash, is_zero};
use vellum_core::name::Name;
use vellum_core::page::PageEntry;
use vellum_core::tree::{NewTop, NodeRef, PlanError, Tree, TreeEdit, page_of};
use vellum_core::units::{ChunkIndex, ImageId, LayerId};

use crate::chunks::ChunkCandidate;
use crate::clock::now_ms;
use crate::database::Batch;
use crate::disk::Disk;
use crate::error::StoreError;
use crate::layer_writer::LayerWriter;
use crate::store::Store;
use crate::usage_history::entry::{Added, UsageEntry};

/// The last chunk of a disk that was cut, with zeros past its end.
pub(crate) struct CutTail {
    pub(crate) position: ChunkIndex,
    plain: Vec<u8>,
}

impl Store {
    /// A new image that starts as `parent` is now, at once; of its length, or of `len` bytes.
    pub fn create_child(
        &self,
        name: &Name,
        parent: NodeRef,
        len: Option<u64>,
    ) -> Result<NodeRef, StoreError> {
        let parent_len = self.tree().layer_of(parent).ok_or(PlanError::Gone)?.len;
        let live = if let NodeRef::Image(image) = parent {
            vec![image]
        } else {
            Vec::new()
        };
        self.with_still(&live, || match len {
            Some(len) if len < parent_len => self.create_shorter(name, parent, len),
            _ => self.plan_and_commit(|tree| tree.plan_child(name, parent, len, now_ms())),
        })
    }

    /// A child that sees only the beginning of its parent. Two batches: the parent is sealed first,
    /// so that its last chunk holds still while it is read. A crash in between leaves a layer that
    /// nobody sees the difference of.
    fn create_shorter(
        &self,
        name: &Name,
        parent: NodeRef,
        len: u64,
    ) -> Result<NodeRef, StoreError> {
        self.tree().check_free(name)?;
        self.tree().check_parent(parent.image_id())?;
        let base = self.sealed_base(parent)?;
        let tail = cut_tail(&base, len)?;
        let mut node = None;
        self.commit_tail("create", tail, |tree| {
            let layer = tree.blank_layer(base.chain().first().map(AsRef::as_ref), len, now_ms());
            let top = layer.id;
            let planned = tree.plan_image(name, layer, Some(parent.image_id()), now_ms())?;
            node = Some(planned.node);
            Ok(NewTop {
                top,
                edits: planned.edits,
            })
        })?;
        Ok(node.expect("what was committed was planned"))
    }

    /// The content of `node` as a sealed layer to build on.
    pub(crate) fn sealed_base(&self, node: NodeRef) -> Result<Disk, StoreError> {
        self.check_writable()?;
        let mut tree = self.tree_mut();
        let (layer, edits) = tree.plan_base(node, now_ms())?;
        if !edits.is_empty() {
            self.commit_batch(&mut tree, &edits, Batch::default())?;
        }
        let name = tree.display_name(node);
        Ok(self.disk_at(&mut tree, layer.id, name))
    }

    /// Gives `image` another length. What is cut off is gone, even if it grows again; what is added
    /// is zero. Constant time.
    pub fn resize_image(
        &self,
        image: ImageId,
        len: u64,
        may_shrink: bool,
    ) -> Result<(), StoreError> {
        self.check_writable()?;
        // No other operation changes the content meanwhile. A snapshot may be taken: it puts
        // another layer on top, of the same content.
        let _exclusive = self.lock_image(image)?;
        let disk = self.open_disk(NodeRef::Image(image))?;
        let tail = if may_shrink {
            cut_tail(&disk, len)?
        } else {
            None
        };
        self.commit_tail("resize", tail, |tree| {
            tree.plan_resize(image, len, may_shrink, now_ms())
        })
    }

    /// Commits what `plan` decides, with `tail` in the map of the layer on top, as one batch: a
    /// part of `operation`.
    pub(crate) fn commit_tail(
        &self,
        operation: &'static str,
        tail: Option<CutTail>,
        plan: impl FnOnce(&mut Tree) -> Result<NewTop, PlanError>,
    ) -> Result<(), StoreError> {
        self.check_writable()?;
        let data = tail.as_ref().filter(|tail| !is_zero(&tail.plain));
        let candidate = data.map(|tail| ChunkCandidate {
            hash: ChunkHash::of_chunk(&tail.plain),
            plain: &tail.plain,
            guess: None,
        });
        self.commit_chunks(candidate.as_slice(), |tree, stored, batch| {
            let NewTop { top, mut edits } = plan(tree)?;
            if let Some(tail) = &tail {
                let slot = stored
                    .ids
                    .first()
                    .map_or(PageEntry::Zero, |id| PageEntry::Chunk(*id));
                self.put_slot(&mut edits, top, tail.position, slot, batch)?;
            }
            if stored.added.chunks > 0 {
                self.note_top(tree, &edits, top, operation, stored.added, batch);
            }
            Ok::<_, StoreError>(edits)
        })
    }

    /// Notes in `batch` what was added to layer `top`, which is the active one of an image once
    /// `edits` are applied.
    fn note_top(
        &self,
        tree: &Tree,
        edits: &[TreeEdit],
        top: LayerId,
        operation: &str,
        added: Added,
        batch: &mut Batch,
    ) {
        let put = edits.iter().find_map(|edit| {
            if let TreeEdit::PutImage(image) = edit {
                Some(image)
            } else {
                None
            }
        });
        let image = put.or_else(|| tree.images().find(|image| image.layer == top));
        if let Some(image) = image.filter(|image| image.layer == top) {
            let entry = UsageEntry::new(
                operation,
                image.id,
                image.name.to_string(),
                Some(top),
                added,
            );
            self.inner
                .journal
                .note_entry(&self.inner.database, batch, &entry);
        }
    }

    /// Lets layer `top`, which is among `edits`, answer `slot` for `position`.
    fn put_slot(
        &self,
        edits: &mut [TreeEdit],
        top: LayerId,
        position: ChunkIndex,
        slot: PageEntry,
        batch: &mut Batch,
    ) -> Result<(), StoreError> {
        let layer = edits.iter_mut().find_map(|edit| match edit {
            TreeEdit::PutLayer(layer) if layer.id == top => Some(layer),
            _ => None,
        });
        let layer = layer.expect("a tail goes into a layer that is being put");
        let mut draft = LayerWriter::new(layer.clone());
        draft.change_one(&self.inner.pages, position, slot, batch)?;
        *layer = draft.layer;
        Ok(())
    }
}

/// Cuts the last chunk of `disk` where only its first `len` bytes are seen; `None` if it stays as
/// it is.
pub(crate) fn cut_tail(disk: &Disk, len: u64) -> Result<Option<CutTail>, StoreError> {
    let chunk_len = disk.chunk_len();
    let position = chunk_len.index_at(len);
    let start = chunk_len.offset_of(position);
    if len >= disk.len() || len == start {
        return Ok(None);
    }
    let (index, at) = page_of(position);
    if disk.resolve_page(index)?.entry_at(at) == PageEntry::Absent {
        return Ok(None);
    }
    let mut plain = vec![0; chunk_len.as_usize()];
    disk.read_at(&mut plain[..(len - start) as usize], start)?;
    Ok(Some(CutTail { position, plain }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{assert_same, name, new_store, read_all};

    const PAGE_LEN: u64 = 4 << 20;

    /// A disk of `len` bytes without a zero in it.
    fn full(store: &Store, text: &str, len: u64) -> (ImageId, Vec<u8>) {
        let content: Vec<u8> = (0..len).map(|at| (at / 512 % 251 + 1) as u8).collect();
        let image = store
            .create_image(&name(text), len)
            .expect("create")
            .image_id();
        let live = store.open_live(image).expect("live");
        live.write_at(&content, 0).expect("write");
        live.flush().expect("flush");
        (image, content)
    }

    /// Every end near a chunk's, a page's and a sector's.
    fn ends() -> impl Iterator<Item = u64> {
        let edges = [
            0,
            512,
            4096,
            8192,
            PAGE_LEN - 4096,
            PAGE_LEN,
            PAGE_LEN + 4096,
            PAGE_LEN + 8192,
        ];
        edges
            .into_iter()
            .flat_map(|edge: u64| [edge.saturating_sub(1), edge, edge + 1])
    }

    #[test]
    fn what_was_cut_off_stays_away_when_a_disk_grows_again() {
        let (_dir, store) = new_store(4096);
        let len = PAGE_LEN + 3 * 4096 + 512;
        for (nth, end) in ends().enumerate() {
            let (image, mut content) = full(&store, &format!("i{nth}"), len);
            // Once in the layer itself, once through a parent.
            let child = store
                .create_child(&name(&format!("c{nth}")), NodeRef::Image(image), None)
                .expect("child")
                .image_id();
            let cut = store
                .create_child(&name(&format!("d{nth}")), NodeRef::Image(image), Some(end))
                .expect("shorter child")
                .image_id();
            content.truncate(end as usize);
            for id in [image, child, cut] {
                store.resize_image(id, end, true).expect("shrink");
                assert_same(&read_all(&store, NodeRef::Image(id)), &content, "shorter");
            }
            content.resize((len + 5000) as usize, 0);
            for id in [image, child, cut] {
                store.resize_image(id, len + 5000, false).expect("grow");
                assert_same(
                    &read_all(&store, NodeRef::Image(id)),
                    &content,
                    "grown again",
                );
            }
        }
    }

    #[test]
    fn a_longer_child_ends_in_zeros() {
        let (_dir, store) = new_store(4096);
        for (nth, len) in ends().enumerate() {
            let (image, mut content) = full(&store, &format!("i{nth}"), len);
            let child = store
                .create_child(
                    &name(&format!("c{nth}")),
                    NodeRef::Image(image),
                    Some(len + 9000),
                )
                .expect("child");
            // Later changes of the parent are not the child's.
            store.resize_image(image, len + 9000, true).expect("grow");
            store
                .open_live(image)
                .and_then(|live| live.write_at(&[1; 9000], len).and_then(|()| live.flush()))
                .expect("write");
            content.resize((len + 9000) as usize, 0);
            assert_same(&read_all(&store, child), &content, "child");
        }
    }

    #[test]
    fn shrinking_is_refused_unless_allowed_and_an_impossible_length_always() {
        let (_dir, store) = new_store(4096);
        let (image, content) = full(&store, "a", 9000);
        assert!(matches!(
            store.resize_image(image, 8999, false),
            Err(StoreError::Plan(PlanError::WouldShrink { .. }))
        ));
        assert!(matches!(
            store.resize_image(image, u64::MAX, true),
            Err(StoreError::Plan(PlanError::TooLong(_)))
        ));
        let taken = store.create_child(&name("a"), NodeRef::Image(image), Some(1));
        assert!(matches!(
            taken,
            Err(StoreError::Plan(PlanError::NameTaken(_)))
        ));
        assert_same(
            &read_all(&store, NodeRef::Image(image)),
            &content,
            "untouched",
        );
    }
}
