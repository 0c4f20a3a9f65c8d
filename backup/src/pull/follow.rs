//! Plans how an image that came from a repository before follows it: which of its snapshots are new
//! here, and that nothing is lost that only this store has. Pure.

use std::collections::HashSet;

use vellum_core::identity::ContentId;
use vellum_core::name::Name;
use vellum_core::tree::{NodeRef, Tree};
use vellum_core::units::{ImageId, LayerId};

use super::{PullImage, content_of};
use crate::error::BackupError;
use crate::record::Point;

/// An image that is here, and the part of what a repository has of it that is not.
#[derive(Clone, Debug)]
pub(super) struct Followed {
    pub(super) id: ImageId,
    /// The state that it gets, and its new snapshots.
    pub(super) image: PullImage,
}

/// Plans that image `id` becomes as `image`. `known` are the contents that the repository's image
/// has, or had: what is here must come from them, and its present state be one of them, or be kept
/// by a snapshot here.
pub(super) fn follow(
    tree: &Tree,
    id: ImageId,
    image: &PullImage,
    known: &HashSet<ContentId>,
) -> Result<Followed, BackupError> {
    let refuse = |reason: String| BackupError::Diverged {
        image: image.name.to_string(),
        reason,
    };
    let present = present_layer(tree, id);
    let is_known = |layer: LayerId| {
        let content = tree.layer(layer).and_then(|layer| layer.content);
        content.is_some_and(|content| known.contains(&content))
    };
    let own = tree.layer_of(NodeRef::Image(id)).map(|layer| layer.id);
    let kept = tree.snapshots_of(id).map(|snapshot| snapshot.layer);
    let mut layers = own.into_iter().chain(kept);
    if !layers.any(|top| tree.chain_from(top).any(|layer| is_known(layer.id))) {
        return Err(refuse("it is another disk".to_owned()));
    }
    let is_kept = |layer: LayerId| {
        tree.snapshots_of(id)
            .any(|snapshot| snapshot.layer == layer)
    };
    if !present.is_some_and(|layer| is_known(layer) || is_kept(layer)) {
        return Err(refuse("it was changed here since it came".to_owned()));
    }
    let mut snapshots = Vec::new();
    for point in &image.snapshots {
        if !is_here(tree, id, point, &refuse)? {
            snapshots.push(point.clone());
        }
    }
    Ok(Followed {
        id,
        image: PullImage {
            snapshots,
            ..image.clone()
        },
    })
}

/// The sealed layer that shows the present state; none if something was written since.
fn present_layer(tree: &Tree, id: ImageId) -> Option<LayerId> {
    let layer = tree.layer_of(NodeRef::Image(id))?;
    if layer.sealed {
        Some(layer.id)
    } else {
        tree.same_as_parent(layer)
    }
}

/// True if the image has this snapshot, though perhaps under a new name.
fn is_here(
    tree: &Tree,
    id: ImageId,
    point: &Point,
    refuse: &dyn Fn(String) -> BackupError,
) -> Result<bool, BackupError> {
    let content = content_of(point)?;
    let shows_it = |layer: LayerId| {
        tree.layer(layer)
            .is_some_and(|layer| layer.content == Some(content))
    };
    let called = point.snapshot.as_ref().map(|snapshot| &snapshot.name);
    let name = called.and_then(|name| Name::new(name).ok());
    let namesake = name.and_then(|name| tree.snapshot_named(id, &name));
    if let Some(namesake) = namesake {
        return if shows_it(namesake.layer) {
            Ok(true)
        } else {
            Err(refuse(format!(
                "its snapshot {} is another one here",
                namesake.name
            )))
        };
    }
    Ok(tree
        .snapshots_of(id)
        .any(|snapshot| snapshot.created_ms == point.time_ms && shows_it(snapshot.layer)))
}
