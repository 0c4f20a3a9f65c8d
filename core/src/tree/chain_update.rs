//! Plans the next state of an image that comes as a whole chain of layers, those below it included.

use super::receive::ArrivingSnapshot;
use super::{Image, Layer, PlanError, Snapshot, Tree, TreeEdit};
use crate::units::{ImageId, LayerId};

/// A chain that becomes an image's present state.
#[derive(Clone, Debug)]
pub struct ChainUpdate {
    /// Layers that are not there yet: sealed, complete, each after its parent.
    pub layers: Vec<Layer>,
    /// The sealed layer that shows the present state.
    pub top: LayerId,
    /// Snapshots that the image gets, the oldest first.
    pub snapshots: Vec<ArrivingSnapshot>,
}

impl Tree {
    /// Makes `image` as the top of `update` is. Its snapshots stay; its present state goes, unless
    /// a snapshot has it.
    pub fn plan_chain_update(
        &mut self,
        image: ImageId,
        update: &ChainUpdate,
        now_ms: u64,
    ) -> Result<Vec<TreeEdit>, PlanError> {
        self.check_update(image, update.snapshots.first().map(|first| &first.name))?;
        let image = self.image(image).ok_or(PlanError::Gone)?.clone();
        let mut edits: Vec<TreeEdit> = update
            .layers
            .iter()
            .cloned()
            .map(TreeEdit::PutLayer)
            .collect();
        let replaced = Layer::clone(self.layer(image.layer).ok_or(PlanError::Gone)?);
        let top = self.arriving_layer(update.top, &update.layers)?;
        let shows_it_already = self.same_as_parent(&replaced) == Some(top.id);
        if !shows_it_already {
            let active = self.blank_layer(Some(&top), top.len, now_ms);
            let active = self.with_change_time(&image, active);
            let layer = active.id;
            edits.push(TreeEdit::PutLayer(active));
            edits.push(TreeEdit::PutImage(Image {
                layer,
                ..image.clone()
            }));
        }
        for snapshot in &update.snapshots {
            self.check_snapshot_free(image.id, &snapshot.name)?;
            let layer = self.arriving_layer(snapshot.layer, &update.layers)?.id;
            edits.push(TreeEdit::PutSnapshot(Snapshot {
                image: image.id,
                serial: self.allocate_id(),
                name: snapshot.name.clone(),
                layer,
                created_ms: snapshot.created_ms,
                marks: snapshot.marks.clone(),
            }));
        }
        // Nothing stands on an active layer; a reader through it keeps it.
        if !shows_it_already
            && !replaced.sealed
            && !self.is_held(replaced.id)
            && replaced.is_blank()
        {
            edits.push(TreeEdit::DropLayer(replaced.id));
        }
        Ok(edits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Name;
    use crate::tree::{Marks, NodeRef};
    use crate::units::ChunkLen;

    fn name(text: &str) -> Name {
        Name::new(text).expect("a name")
    }

    #[test]
    fn an_image_stands_on_the_chain_that_came() {
        let mut tree = Tree::new(ChunkLen::DEFAULT);
        let planned = tree.plan_create(&name("web"), 1 << 20, 0).expect("free");
        tree.apply_edits(&planned.edits);
        let web = planned.node.image_id();
        let sealed = |tree: &mut Tree, parent: Option<&Layer>| Layer {
            sealed: true,
            ..tree.blank_layer(parent, 1 << 20, 0)
        };
        let base = sealed(&mut tree, None);
        let top = sealed(&mut tree, Some(&base));
        let update = ChainUpdate {
            top: top.id,
            layers: vec![base.clone(), top.clone()],
            snapshots: vec![ArrivingSnapshot {
                name: name("base"),
                layer: base.id,
                created_ms: 3,
                marks: Marks::default(),
            }],
        };
        let edits = tree.plan_chain_update(web, &update, 5).expect("possible");
        tree.apply_edits(&edits);
        let chain = |tree: &Tree, node| -> Vec<LayerId> {
            let layer = tree.layer_of(node).expect("there").id;
            tree.chain_from(layer).map(|layer| layer.id).collect()
        };
        assert_eq!(chain(&tree, NodeRef::Image(web))[1..], [top.id, base.id]);
        assert_eq!(tree.layers().count(), 3, "the one before is gone");
        // The same again changes nothing but what is asked for.
        let again = ChainUpdate {
            layers: Vec::new(),
            snapshots: Vec::new(),
            ..update.clone()
        };
        assert_eq!(tree.plan_chain_update(web, &again, 6), Ok(Vec::new()));
        let taken = tree.plan_chain_update(web, &update, 6);
        assert!(matches!(taken, Err(PlanError::NameTaken(_))), "{taken:?}");
        let missing = ChainUpdate {
            top: LayerId(77),
            ..again
        };
        assert_eq!(
            tree.plan_chain_update(web, &missing, 6),
            Err(PlanError::Gone)
        );
    }
}
