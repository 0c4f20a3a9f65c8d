//! Entry point of a store: an open one, its tree, and the changes of names.
//!
//! Each change is planned by the tree (pure), written as one logged batch, and applied to the tree
//! in memory once it is durable (`commit`).

mod commit;
pub(crate) mod holds;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use vellum_core::identity::StoreId;
use vellum_core::name::{Name, NodeSpec};
use vellum_core::tree::{Annotation, NodeRef, Tree, TreeEdit};
use vellum_core::units::{ChunkId, ImageId, LayerId};

use crate::attach::slots::AttachSlots;
use crate::chunks::{Chunks, DamageLedger};
use crate::clock::now_ms;
use crate::collect::tending::MaintenanceState;
use crate::database::{Batch, Database, Family};
use crate::error::StoreError;
use crate::folder::{CommitCounterFile, OwnerLock, StoreFolder};
use crate::identity::put_new_identity;
use crate::layer_resolver::LayerResolver;
use crate::live::buffer_budget::BufferBudget;
use crate::opening::faults::Faults;
use crate::parity::{Parity, SmallFileSaver};
use crate::records::StoreParameters;
use crate::reserve::Reserve;
use crate::scrub::state::Scrub;
use crate::sizes::Sizes;
use crate::usage_history::appender::UsageHistory;
use crate::usage_history::entry::Added;

/// Access that a store is opened with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything; one process at a time.
    ReadWrite,
    /// Looking at the state of this moment, also while another process writes.
    ReadOnly,
}

/// An open store. Cheap to clone: clones are the same store.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<StoreInner>,
}

pub(crate) struct StoreInner {
    pub(crate) folder: StoreFolder,
    access: Access,
    pub(crate) database: Arc<Database>,
    pub(crate) chunks: Chunks,
    pub(crate) pages: LayerResolver,
    /// Memory for what waits on live disks.
    pub(crate) room: BufferBudget,
    /// Held by a step of maintenance, shared by collections.
    pub(crate) tending: RwLock<MaintenanceState>,
    tree: RwLock<Tree>,
    /// Images that something is writing or rebuilding.
    busy: Mutex<BTreeSet<ImageId>>,
    /// Disks that are attached.
    pub(crate) slots: AttachSlots,
    /// Layers that are being built: their pages are in the database, their records are not.
    building: Mutex<BTreeSet<LayerId>>,
    /// Limits on its memory and disk, computed from those of the system.
    pub(crate) sizes: Sizes,
    /// Reserve for a full disk.
    pub(crate) reserve: Reserve,
    /// Faults that were found when it was opened.
    pub(crate) faults: Faults,
    pub(crate) journal: UsageHistory,
    pub(crate) scrub: Scrub,
    /// Reads and writes of guests so far: background work gives way to them.
    guest_requests: AtomicU64,
    /// Commits so far. Changes under the lock of the tree.
    commits: AtomicU64,
    witness: Option<CommitCounterFile>,
    /// None only where a store that was made before there were identities is read.
    id: RwLock<Option<StoreId>>,
    pub(crate) parity: Arc<Parity>,
    /// Dropped after everything that has the database open, and before the lock.
    _at_rest: SmallFileSaver,
    _lock: Option<OwnerLock>,
}

/// Parts of an open store.
pub(crate) struct StoreParts {
    pub(crate) folder: StoreFolder,
    pub(crate) sizes: Sizes,
    pub(crate) reserve: Reserve,
    pub(crate) access: Access,
    pub(crate) database: Arc<Database>,
    pub(crate) parameters: StoreParameters,
    pub(crate) tree: Tree,
    pub(crate) commits: u64,
    pub(crate) next_chunk: ChunkId,
    pub(crate) journal: UsageHistory,
    pub(crate) faults: Faults,
    pub(crate) id: Option<StoreId>,
    pub(crate) at_rest: SmallFileSaver,
    pub(crate) lock: Option<OwnerLock>,
}

impl Store {
    /// Assembles an open store of its parts.
    pub(crate) fn from_parts(opened: StoreParts) -> Self {
        let database = Arc::clone(&opened.database);
        let ledger = Arc::new(if opened.access == Access::ReadWrite {
            DamageLedger::load_writable(database, &opened.folder)
        } else {
            DamageLedger::load_read_only(database, opened.folder.clone())
        });
        let chunks = Chunks::new(
            Arc::clone(&opened.database),
            opened.parameters,
            opened.next_chunk,
            &opened.sizes,
            &opened.reserve,
            ledger,
        );
        if opened.access == Access::ReadWrite {
            chunks.mender.write_back();
        }
        let witness =
            (opened.access == Access::ReadWrite).then(|| opened.folder.open_commit_counter());
        // A power loss leaves the witness behind, an accepted earlier state ahead.
        witness
            .iter()
            .for_each(|witness| witness.note_commits(opened.commits));
        let inner = StoreInner {
            folder: opened.folder,
            access: opened.access,
            chunks,
            pages: LayerResolver::new(Arc::clone(&opened.database)),
            room: BufferBudget::new(&opened.sizes),
            tending: RwLock::default(),
            database: opened.database,
            tree: RwLock::new(opened.tree),
            busy: Mutex::default(),
            slots: AttachSlots::default(),
            building: Mutex::default(),
            sizes: opened.sizes,
            reserve: opened.reserve,
            faults: opened.faults,
            journal: opened.journal,
            scrub: Scrub::default(),
            guest_requests: AtomicU64::new(0),
            commits: AtomicU64::new(opened.commits),
            witness,
            id: RwLock::new(opened.id),
            parity: Arc::clone(&opened.at_rest.0),
            _at_rest: opened.at_rest,
            _lock: opened.lock,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Path of the socket where a server that has the store in `dir` can take the commands of other
    /// processes, which is up to that server.
    #[must_use]
    pub fn control_socket(dir: &Path) -> PathBuf {
        StoreFolder::control_socket(dir)
    }

    /// Description of the process that has the store in `dir` open for writing, if there is one.
    pub fn lock_owner(dir: &Path) -> Result<Option<String>, StoreError> {
        StoreFolder::open_marked(dir)?.lock_owner()
    }

    /// The folder it is in.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.inner.folder.path()
    }

    /// The identity of the store, wherever its folder is. None of a store that was made before
    /// there were identities, until it was opened for writing once.
    #[must_use]
    pub fn id(&self) -> Option<StoreId> {
        *self.inner.id.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the store a new identity, durably: it was a copy of another one, and is a store of its
    /// own from now on. What is in it stays as it is.
    pub fn take_new_identity(&self) -> Result<StoreId, StoreError> {
        self.check_writable()?;
        let mut known = self
            .inner
            .id
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let id = put_new_identity(&self.inner.database)?;
        *known = Some(id);
        Ok(id)
    }

    /// The parameters that it was made with.
    #[must_use]
    pub fn parameters(&self) -> StoreParameters {
        self.inner.chunks.parameters
    }

    /// The tree as it is now. Nothing changes while the guard lives: keep it short.
    pub fn tree(&self) -> RwLockReadGuard<'_, Tree> {
        self.inner
            .tree
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tree_mut(&self) -> RwLockWriteGuard<'_, Tree> {
        self.inner
            .tree
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The image or snapshot that `text` means: a name, a unique prefix, `NAME@SNAPSHOT`,
    /// `NAME@latest`.
    pub fn find_node(&self, text: &str) -> Result<NodeRef, StoreError> {
        Ok(self.tree().find_node(&NodeSpec::parse(text))?)
    }

    /// Finds as [`Store::find_node`], by whole names only: for operations that change, overwrite or
    /// delete.
    pub fn find_whole(&self, text: &str) -> Result<NodeRef, StoreError> {
        Ok(self.tree().find_whole(&NodeSpec::parse(text))?)
    }

    /// The access that it was opened with.
    pub(crate) fn access_mode(&self) -> Access {
        self.inner.access
    }

    /// The number of reads and writes that guests have asked for since it was opened: for
    /// background work that gives way to them.
    #[must_use]
    pub fn guest_requests(&self) -> u64 {
        self.inner.guest_requests.load(Ordering::Relaxed)
    }

    pub(crate) fn note_guest(&self) {
        self.inner.guest_requests.fetch_add(1, Ordering::Relaxed);
    }

    /// The bytes that a scrub reads in a round, about.
    #[must_use]
    pub fn stored_len(&self) -> u64 {
        let len = |family| self.inner.database.table_bytes(family).unwrap_or(0);
        Family::ALL.into_iter().map(len).sum()
    }

    /// True if it was opened for writing.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.inner.access == Access::ReadWrite
    }

    /// Fails unless the store was opened for writing and no write has failed.
    pub(crate) fn check_writable(&self) -> Result<(), StoreError> {
        match self.inner.access {
            Access::ReadOnly => Err(StoreError::ReadOnly),
            Access::ReadWrite => self.inner.database.check_writable(),
        }
    }

    /// The error that prevents writing at present, if a write has failed and the store could not be
    /// opened again yet: to be reported once to the person who looks after it. Reading goes on.
    #[must_use]
    pub fn write_trouble(&self) -> Option<StoreError> {
        self.inner.database.write_trouble()
    }

    /// A new image of `len` zero bytes.
    pub fn create_image(&self, name: &Name, len: u64) -> Result<NodeRef, StoreError> {
        self.plan_and_commit(|tree| tree.plan_create(name, len, now_ms()))
    }

    /// A snapshot of `image` as it is now: constant time, whatever its size. If it is attached (see
    /// [`crate::StoreExports`]), what its guest was told is written is in it; what waits in a
    /// [`crate::LiveDisk`] of somebody else must be flushed first.
    pub fn take_snapshot(&self, image: ImageId, name: &Name) -> Result<NodeRef, StoreError> {
        self.with_still(&[image], || {
            self.plan_and_commit(|tree| tree.plan_snapshot(image, name, now_ms()))
        })
    }

    /// Deletes a snapshot, wherever it stands. Its space is given back by [`Store::collect`].
    pub fn delete_snapshot(&self, image: ImageId, serial: u64) -> Result<(), StoreError> {
        self.commit_deletion(NodeRef::Snapshot(image, serial), |tree| {
            tree.plan_delete_snapshot(image, serial)
        })
    }

    /// Deletes an image, and its snapshots if `with_snapshots`; without, having some is an error.
    pub fn delete_image(&self, image: ImageId, with_snapshots: bool) -> Result<(), StoreError> {
        let _exclusive = self.lock_image(image)?;
        self.commit_deletion(NodeRef::Image(image), |tree| {
            tree.plan_delete_image(image, with_snapshots)
        })
    }

    /// Commits a deletion, and notes in the growth journal that `node` went: no other record tells
    /// of it.
    fn commit_deletion<E>(
        &self,
        node: NodeRef,
        plan: impl FnOnce(&Tree) -> Result<Vec<TreeEdit>, E>,
    ) -> Result<(), StoreError>
    where
        StoreError: From<E>,
    {
        self.inner.reserve.give_up_if_scarce();
        self.check_writable()?;
        let mut tree = self.tree_mut();
        let (edits, mut batch) = (plan(&tree)?, Batch::default());
        self.note_growth(&tree, &mut batch, "delete", node, None, Added::default());
        let deleted = self.commit_batch(&mut tree, &edits, batch);
        // Before others take it.
        self.refill_reserve();
        deleted
    }

    /// Keeps back again what a full disk made us give up, as far as there is room, and goes on with
    /// what waited for room.
    pub(crate) fn refill_reserve(&self) {
        self.inner.reserve.refill_reserve();
        self.inner.database.resume_compactions(&self.inner.reserve);
    }

    /// Makes a file beside the store without which it cannot be used, such as the socket of its
    /// server: with what is kept back for deletions if the disk is full, or has no name of a file
    /// left, as `is_full` tells. An error is that of the last attempt.
    pub fn make_with_reserve<T, E>(
        &self,
        make: impl Fn() -> Result<T, E>,
        is_full: impl Fn(&E) -> bool,
    ) -> Result<T, E> {
        match make() {
            Err(error) if is_full(&error) && self.inner.reserve.give_up() => {
                let again = make();
                self.refill_reserve();
                again
            }
            first => first,
        }
    }

    /// Gives an image or snapshot another name.
    pub fn rename_node(&self, node: NodeRef, name: &Name) -> Result<(), StoreError> {
        self.commit_edits(|tree| tree.plan_rename(node, name))
    }

    /// Adds and removes tags.
    pub fn change_tags(
        &self,
        node: NodeRef,
        add: &[Name],
        remove: &[Name],
    ) -> Result<(), StoreError> {
        self.commit_edits(|tree| tree.plan_tags(node, add, remove))
    }

    /// Gives an image or snapshot a description and properties, instead of those that it has.
    pub fn annotate_node(&self, node: NodeRef, annotation: Annotation) -> Result<(), StoreError> {
        self.commit_edits(|tree| tree.plan_annotation(node, annotation))
    }

    /// Protects an image or snapshot against deletion, or ends that.
    pub fn set_pinned(&self, node: NodeRef, pinned: bool) -> Result<(), StoreError> {
        self.commit_edits(|tree| tree.plan_pin(node, pinned))
    }

    /// Makes the image that `image` was created from as `image` is now: constant time, nothing is
    /// copied.
    pub fn commit_image(&self, image: ImageId) -> Result<NodeRef, StoreError> {
        let origin = self.tree().image(image).and_then(|image| image.origin);
        let _exclusive = self.lock_image(image)?;
        let _origin = origin.map(|origin| self.lock_image(origin)).transpose()?;
        self.plan_and_commit(|tree| tree.plan_commit(image, now_ms()))
    }

    /// Memory for decoded frames, in bytes: what is read again is not decoded again.
    pub fn set_cache_len(&self, len: u64) {
        self.inner.chunks.set_cache_len(len);
    }
}
