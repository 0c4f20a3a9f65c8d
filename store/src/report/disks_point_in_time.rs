//! Disks and growth journal of the same point in time as a census, held for the part of a report
//! that is made after the count.

use std::collections::BTreeMap;

use vellum_core::tree::{NodeRef, PlanError, Tree};
use vellum_core::units::{ImageId, LayerId};

use crate::clock::now_ms;
use crate::database::Batch;
use crate::disk::Disk;
use crate::error::StoreError;
use crate::store::Store;
use crate::store::holds::LayerHold;
use crate::usage_history::UsageHistoryView;

/// All disks and the journal at one moment. While it lives, maintenance leaves the disks' layers
/// alone and collection their chunks.
pub(super) struct DisksPointInTime<'s> {
    pub(super) journal: UsageHistoryView<'s>,
    store: &'s Store,
    /// The layer that shows each node, and its display name.
    tops: BTreeMap<NodeRef, (LayerId, String)>,
    _holds: Vec<LayerHold>,
}

impl<'s> DisksPointInTime<'s> {
    /// The moment is now: `tree` is the store's, locked, and what guests wrote is flushed. An image
    /// that a guest writes gets a new active layer, if anything was written since the last: under
    /// a guest this costs a commit.
    pub(super) fn take_all(store: &'s Store, tree: &mut Tree) -> Result<Self, StoreError> {
        let (mut tops, mut edits) = (BTreeMap::new(), Vec::new());
        let busy = store.busy_images();
        for node in tree.all_nodes().collect::<Vec<_>>() {
            let is_written = matches!(node, NodeRef::Image(image) if busy.contains(&image));
            let layer = if is_written {
                let (base, sealing) = tree.plan_base(node, now_ms())?;
                edits.extend(sealing);
                base.id
            } else {
                tree.layer_of(node).ok_or(PlanError::Gone)?.id
            };
            tops.insert(node, (layer, tree.display_name(node)));
        }
        if !edits.is_empty() {
            store.check_writable()?;
            store.commit_batch(tree, &edits, Batch::default())?;
        }
        let holds = tops
            .values()
            .map(|(layer, _)| store.hold_layers(tree, *layer))
            .collect();
        Ok(Self {
            journal: store.journal_now(),
            store,
            tops,
            _holds: holds,
        })
    }

    /// `node` as it was.
    pub(super) fn disk_of(&self, node: NodeRef) -> Result<Disk, StoreError> {
        let (layer, name) = self.tops.get(&node).ok_or(PlanError::Gone)?;
        Ok(self
            .store
            .disk_at(&mut self.store.tree_mut(), *layer, name.clone()))
    }

    /// The snapshots of `image`, in the order of taking.
    pub(super) fn image_snapshots(&self, image: ImageId) -> Vec<NodeRef> {
        let all = NodeRef::Snapshot(image, 0)..=NodeRef::Snapshot(image, u64::MAX);
        self.tops.range(all).map(|(node, _)| *node).collect()
    }
}
