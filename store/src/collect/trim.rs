//! Trims nameless layers that several others stand on: entries that all the layers above cover
//! become absent.
//!
//! No disk changes by that, so it may stop after any batch. The content of a batch is worked out
//! without a lock. Under the tree's lock it is written only if the layer and every reader of it are
//! as they were: a part that no reader saw then is seen by none now.

use std::collections::BTreeSet;

use vellum_core::page::Page;
use vellum_core::positions::PositionSet;
use vellum_core::tree::{Layer, SharedLayer, TreeEdit};
use vellum_core::units::{LayerId, PageIndex};

use crate::chunks::sync;
use crate::database::Batch;
use crate::error::StoreError;
use crate::store::Store;
use crate::watch::{Watch, go_on};

/// Pages that one batch looks at most, and as many more for each layer above: 2 MiB at the worst,
/// some milliseconds of work.
const PAGES_PER_BATCH: usize = 256;

/// A part of a layer, trimmed.
struct TrimmedPart {
    shared: SharedLayer,
    pages: Vec<(PageIndex, Page)>,
    /// The layer's record as it will be.
    layer: Layer,
    /// First page of the next part.
    next: Option<PageIndex>,
}

/// Trims every nameless layer that several others stand on; how many pages say less than before.
pub(super) fn trim_shared_layers(store: &Store, watch: &dyn Watch) -> Result<u64, StoreError> {
    let layers = store.tree().shared_layers();
    layers.into_iter().try_fold(0, |pages, layer| {
        Ok(pages + trim_layer(store, layer, watch)?)
    })
}

/// Keeps the positions `asked` of `page`, which are those that are seen. Returns nothing if that is
/// not worth writing: no chunk is lost and the page gets no shorter.
pub(super) fn drop_unseen(page: &Page, asked: &PositionSet) -> Option<Page> {
    let less = page.restricted_to(asked);
    let loses_chunks = less.count_entries().0 < page.count_entries().0;
    (loses_chunks || less.runs().len() < page.runs().len()).then_some(less)
}

fn trim_layer(store: &Store, id: LayerId, watch: &dyn Watch) -> Result<u64, StoreError> {
    let (mut next, mut pages) = (Some(PageIndex(0)), 0);
    while let Some(from) = next {
        go_on(watch)?;
        let shared = {
            let tree = store.tree();
            let held = tree.held_layers();
            tree.shared_layer(id, &held)
        };
        let Some(shared) = shared else { break };
        let Some(part) = plan_trim(store, shared, from)? else {
            break;
        };
        sync::yield_point("trim planned");
        next = part.next;
        pages += part.pages.len() as u64;
        if !commit_trim(store, part)? {
            break;
        }
    }
    Ok(pages)
}

/// Works out the part of a layer that begins at page `from`; nothing if a page was changed while it
/// was read.
fn plan_trim(
    store: &Store,
    shared: SharedLayer,
    from: PageIndex,
) -> Result<Option<TrimmedPart>, StoreError> {
    // The trimmed layer no longer shows the content that its record is known for; nor do the
    // layers above it that no name shows, whose records the commit changes.
    let (mut pages, mut layer) = (
        Vec::new(),
        Layer {
            content: None,
            ..Layer::clone(&shared.layer)
        },
    );
    let mut looks: Vec<PageIndex> = shared
        .layer
        .pages
        .pages_within(from, PageIndex(u64::MAX))
        .iter()
        .take(PAGES_PER_BATCH + 1)
        .collect();
    let next = (looks.len() > PAGES_PER_BATCH)
        .then(|| looks.pop())
        .flatten();
    for index in looks {
        match trim_page(store, &shared, index) {
            Ok(Some((old, new))) => {
                layer.note_page(index, &old, &new);
                pages.push((index, new));
            }
            Ok(None) => {}
            // A layer above was changed while it was read; what is gone may be meant to be.
            Err(StoreError::Damaged(_)) if !is_as_it_was(store, &shared) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(TrimmedPart {
        shared,
        pages,
        layer,
        next,
    }))
}

/// Page `index` as it is and as it is to be, if it is to be another.
fn trim_page(
    store: &Store,
    shared: &SharedLayer,
    index: PageIndex,
) -> Result<Option<(Page, Page)>, StoreError> {
    let asked =
        shared.visible_positions(index, |layer| store.inner.pages.own_page(layer, index))?;
    let old = store.inner.pages.own_page(&shared.layer, index)?;
    Ok(drop_unseen(&old, &asked).map(|new| (old, new)))
}

fn is_as_it_was(store: &Store, shared: &SharedLayer) -> bool {
    let tree = store.tree();
    let held = tree.held_layers();
    tree.shared_layer(shared.layer.id, &held)
        .is_some_and(|now| now.is_as(shared))
}

/// Writes a part, if it still holds; whether it did.
fn commit_trim(store: &Store, part: TrimmedPart) -> Result<bool, StoreError> {
    let mut tree = store.tree_mut();
    let held: BTreeSet<LayerId> = tree.held_layers();
    if !tree
        .shared_layer(part.layer.id, &held)
        .is_some_and(|now| now.is_as(&part.shared))
    {
        // A new layer stands on it, or one above was written to: left to the next collection.
        return Ok(false);
    }
    if part.pages.is_empty() {
        return Ok(true);
    }
    let mut batch = Batch::default();
    for (index, page) in &part.pages {
        batch.put_page(part.layer.id, *index, page);
    }
    let unseen = tree.unseen_above(part.layer.id, &held);
    let edits: Vec<TreeEdit> = unseen
        .into_iter()
        .chain([part.layer])
        .map(TreeEdit::PutLayer)
        .collect();
    store.commit_batch(&mut tree, &edits, batch)?;
    // No disk reads through this layer now, or it would be held. Later readers must not see the
    // removed entries: above a page that is gone, entries that are taken away are not hidden.
    store.inner.pages.forget_resolved();
    Ok(true)
}
