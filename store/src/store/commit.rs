//! Commits: a change that the tree has planned becomes one logged batch of records, and is applied
//! to the tree in memory once that is durable.

use std::sync::atomic::Ordering;

use vellum_core::page::page_key;
use vellum_core::tree::{NodePlan, NodeRef, Tree, TreeEdit};
use vellum_core::units::LayerId;

use super::{Store, StoreInner};
use crate::chunks::{ChunkCandidate, StoredChunks};
use crate::database::{Batch, Durability, Family};
use crate::error::StoreError;
use crate::identity::with_identities;
use crate::keys::{
    COMMITS_KEY, COUNTERS_KEY, configuration_key, image_key, machine_key, machine_snapshot_key,
    snapshot_key,
};
use crate::records::{Commits, ConfigurationFile, Counters};
use crate::stored_records::put_record;

/// Layers with more pages than this are deleted by range: a range tombstone costs every later scan
/// a little, a key costs a batch.
const PAGES_BY_KEY_MAX: u64 = 256;
/// Bytes that the smallest commit takes on disk, at most: a block of a log, of a manifest, of a
/// folder.
const COMMIT_LEN: u64 = 64 << 10;

impl Store {
    /// Plans and commits under one lock of the tree.
    pub(crate) fn plan_and_commit<E>(
        &self,
        plan: impl FnOnce(&mut Tree) -> Result<NodePlan, E>,
    ) -> Result<NodeRef, StoreError>
    where
        StoreError: From<E>,
    {
        self.change_with(|tree| plan(tree).map(|planned| (planned.node, planned.edits)))
    }

    pub(crate) fn commit_edits<E>(
        &self,
        plan: impl FnOnce(&Tree) -> Result<Vec<TreeEdit>, E>,
    ) -> Result<(), StoreError>
    where
        StoreError: From<E>,
    {
        self.change_with(|tree| Ok::<_, E>(((), plan(tree)?)))
    }

    /// Plans and commits as [`Store::plan_and_commit`], for plans that return something else than a
    /// node.
    pub(crate) fn change_with<T, E>(
        &self,
        plan: impl FnOnce(&mut Tree) -> Result<(T, Vec<TreeEdit>), E>,
    ) -> Result<T, StoreError>
    where
        StoreError: From<E>,
    {
        self.check_writable()?;
        let mut tree = self.tree_mut();
        let (result, edits) = plan(&mut tree)?;
        if !edits.is_empty() {
            self.commit_batch(&mut tree, &edits, Batch::default())?;
        }
        Ok(result)
    }

    /// Makes `edits` and what `batch` holds durable as one, then applies them. This is the only
    /// place where a name comes to stand for something: whatever it stands for must be durable, or
    /// in `batch`.
    pub(crate) fn commit_batch(
        &self,
        tree: &mut Tree,
        edits: &[TreeEdit],
        mut batch: Batch,
    ) -> Result<(), StoreError> {
        let edits = with_identities(edits)?;
        self.put_edits(tree, &edits, &mut batch);
        if !edits.iter().any(gives_space_back) {
            let needed = COMMIT_LEN + 2 * batch.len() as u64;
            self.inner.reserve.check_room(needed)?;
        }
        self.inner.database.write_batch(batch, Durability::Logged)?;
        self.apply_committed(tree, &edits);
        Ok(())
    }

    /// Follows a durable batch of `edits`: applies them to the tree, and counts the commit.
    fn apply_committed(&self, tree: &mut Tree, edits: &[TreeEdit]) {
        tree.apply_edits(edits);
        let count = self.inner.commits.fetch_add(1, Ordering::Relaxed) + 1;
        self.inner
            .witness
            .iter()
            .for_each(|witness| witness.note_commits(count));
    }

    /// Stores `candidates` and makes what `plan` decides from what became of them (edits, and pages
    /// in the batch) durable with them, as one. The tree stays locked from the plan until the edits
    /// are applied; the chunks stay claimed as long.
    ///
    /// Locks are taken in this order: the chunk store's section, the tree, the chunk writer's
    /// state.
    pub(crate) fn commit_chunks<E>(
        &self,
        candidates: &[ChunkCandidate<'_>],
        plan: impl FnOnce(&mut Tree, &StoredChunks<'_>, &mut Batch) -> Result<Vec<TreeEdit>, E>,
    ) -> Result<(), StoreError>
    where
        StoreError: From<E>,
    {
        let plain_len: usize = candidates
            .iter()
            .map(|candidate| candidate.plain.len())
            .sum();
        self.check_room(plain_len as u64)?;
        let mut planned = None;
        let mut session = self.inner.chunks.open_session();
        session.commit_chunks(candidates, |stored, batch| {
            let mut tree = self.tree_mut();
            let edits = with_identities(&plan(&mut tree, stored, batch)?)?.into_owned();
            self.put_edits(&tree, &edits, batch);
            planned = Some((tree, edits));
            Ok(())
        })?;
        let (mut tree, edits) = planned.expect("a batch that was written was built");
        self.apply_committed(&mut tree, &edits);
        Ok(())
    }

    /// Fails unless there is room for a logged batch of `len` bytes, and for everything that is in
    /// memory to become files. If it is only the latter that takes too much, they are made now: the
    /// logs go. A refusal changes nothing, and is forgotten.
    pub(crate) fn check_room(&self, len: u64) -> Result<(), StoreError> {
        let StoreInner {
            database,
            reserve,
            sizes,
            ..
        } = &*self.inner;
        // It goes into the log, and from memory into a table.
        let needed = |unflushed_len| 2 * len + unflushed_len + sizes.commit_margin;
        let unflushed_len = database.unflushed_len();
        if reserve.check_room(needed(unflushed_len)).is_ok() {
            return Ok(());
        }
        // Not for a little: who is refused again and again would make as many small files.
        if unflushed_len > sizes.write_buffer / 2
            && reserve
                .check_room(unflushed_len + sizes.commit_margin)
                .is_ok()
        {
            database.flush_bulk(database.write_generation())?;
        }
        reserve.check_room(needed(database.unflushed_len()))
    }

    /// Puts the records of `edits` into `batch`.
    pub(crate) fn put_edits(&self, tree: &Tree, edits: &[TreeEdit], batch: &mut Batch) {
        for edit in edits {
            match edit {
                TreeEdit::PutLayer(layer) => {
                    put_record(batch, Family::Layers, &layer.id.0.to_be_bytes(), layer);
                }
                TreeEdit::DropLayer(id) => delete_layer(tree, *id, batch),
                TreeEdit::PutImage(image) => {
                    put_record(batch, Family::Names, &image_key(image.id), image);
                }
                TreeEdit::DropImage(id) => batch.delete_record(Family::Names, image_key(*id)),
                TreeEdit::PutSnapshot(snapshot) => put_record(
                    batch,
                    Family::Names,
                    &snapshot_key(snapshot.image, snapshot.serial),
                    snapshot,
                ),
                TreeEdit::DropSnapshot(image, serial) => {
                    batch.delete_record(Family::Names, snapshot_key(*image, *serial));
                }
                TreeEdit::PutMachine(machine) => {
                    put_record(batch, Family::Names, &machine_key(machine.id), machine);
                }
                TreeEdit::DropMachine(id) => batch.delete_record(Family::Names, machine_key(*id)),
                TreeEdit::PutMachineSnapshot(snapshot) => {
                    put_record(
                        batch,
                        Family::Names,
                        &machine_snapshot_key(snapshot.machine, snapshot.serial),
                        snapshot,
                    );
                }
                TreeEdit::DropMachineSnapshot(id, serial) => {
                    batch.delete_record(Family::Names, machine_snapshot_key(*id, *serial));
                }
                TreeEdit::PutConfiguration(id, bytes) => put_record(
                    batch,
                    Family::Meta,
                    &configuration_key(*id),
                    &ConfigurationFile(bytes.to_vec()),
                ),
                TreeEdit::DropConfiguration(id) => {
                    batch.delete_record(Family::Meta, configuration_key(*id));
                }
            }
        }
        let counters = Counters {
            next_id: tree.next_id(),
            next_chunk: self.inner.chunks.next_chunk().0,
        };
        put_record(batch, Family::Meta, COUNTERS_KEY, &counters);
        put_record(
            batch,
            Family::Meta,
            COMMITS_KEY,
            &Commits(self.inner.commits.load(Ordering::Relaxed) + 1),
        );
    }
}

/// True if an edit leads to free space, so that it may use the reserve.
fn gives_space_back(edit: &TreeEdit) -> bool {
    matches!(
        edit,
        TreeEdit::DropLayer(_)
            | TreeEdit::DropImage(_)
            | TreeEdit::DropSnapshot(..)
            | TreeEdit::DropMachine(_)
            | TreeEdit::DropMachineSnapshot(..)
            | TreeEdit::DropConfiguration(_)
    )
}

/// Takes a layer's record and pages away.
fn delete_layer(tree: &Tree, id: LayerId, batch: &mut Batch) {
    batch.delete_record(Family::Layers, id.0.to_be_bytes());
    match tree.layer(id) {
        Some(layer) if layer.pages.len() <= PAGES_BY_KEY_MAX => {
            layer
                .pages
                .iter()
                .for_each(|index| batch.delete_record(Family::Pages, page_key(id, index)));
        }
        _ => batch.delete_pages(id),
    }
}
