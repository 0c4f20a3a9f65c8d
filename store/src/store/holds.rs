//! Holds of an open store: layers, images and layer ids that nobody else may touch until the hold
//! is dropped.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use vellum_core::tree::{NodeRef, Tree};
use vellum_core::units::{ImageId, LayerId};

use super::Store;
use crate::database::Generation;
use crate::error::StoreError;

/// Keeps the layers below (and with) one from being merged or dropped.
pub(crate) struct LayerHold {
    store: Store,
    layer: LayerId,
}

/// Keeps everybody else from changing an image.
pub(crate) struct ImageLock {
    store: Store,
    image: ImageId,
}

/// A layer id under which pages are written before its record is.
pub(crate) struct UnfinishedLayer {
    store: Store,
    pub(crate) layer: LayerId,
    /// Write generation in which it began: pages that were written for it may be gone under a later
    /// one.
    pub(crate) generation: Generation,
}

impl Store {
    /// Keeps the chain of `layer`, which is in `tree`, as it is until the hold is dropped: after
    /// the tree's lock, not under it.
    pub(crate) fn hold_layers(&self, tree: &mut Tree, layer: LayerId) -> LayerHold {
        tree.hold_layer(layer);
        LayerHold {
            store: self.clone(),
            layer,
        }
    }

    /// The right to change `image`, if nobody else is.
    pub(crate) fn lock_image(&self, image: ImageId) -> Result<ImageLock, StoreError> {
        // The tree's lock comes before this one: it is not taken for the error while this one is
        // held.
        let is_free = self
            .inner
            .busy
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(image);
        if !is_free && self.is_attached(image) {
            return Err(StoreError::Attached(
                self.tree().display_name(NodeRef::Image(image)),
            ));
        }
        if !is_free {
            return Err(StoreError::Busy(
                self.tree().display_name(NodeRef::Image(image)),
            ));
        }
        Ok(ImageLock {
            store: self.clone(),
            image,
        })
    }

    /// The images that something is changing now.
    pub(crate) fn busy_images(&self) -> BTreeSet<ImageId> {
        self.inner
            .busy
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A new layer id whose pages may be written at once.
    pub(crate) fn build_layer(&self) -> UnfinishedLayer {
        let generation = self.inner.database.write_generation();
        let layer = LayerId(self.tree_mut().allocate_id());
        self.inner
            .building
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(layer);
        UnfinishedLayer {
            store: self.clone(),
            layer,
            generation,
        }
    }

    /// The layers that are being built now.
    pub(crate) fn unfinished_layers(&self) -> BTreeSet<LayerId> {
        self.inner
            .building
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for LayerHold {
    fn drop(&mut self) {
        self.store.tree_mut().release_layer(self.layer);
    }
}

impl Drop for ImageLock {
    fn drop(&mut self) {
        self.store
            .inner
            .busy
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.image);
    }
}

impl Drop for UnfinishedLayer {
    fn drop(&mut self) {
        self.store
            .inner
            .building
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.layer);
    }
}
