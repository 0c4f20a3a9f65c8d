//! The state that all requests share: the store's operations, the secrets, jobs, which branches are
//! closed, and what was computed of the present tree.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::jobs::JobTable;
use crate::operations::{OperationFault, Operations, StoreFacts, StoreUsage, TreeLine};
use crate::remote_access::PasswordDoor;
use crate::request_check::ServerNames;
use crate::secret::SessionTable;
use crate::uploads::UploadSpool;

/// Branches that are remembered as closed: more than a person closes one by one, and as many as a
/// large tree has.
const CLOSED_MAX: usize = 100_000;

/// The longest counting that is done without being asked for, in milliseconds.
const QUICK_MS: u64 = 500;

/// The state of all requests.
pub(crate) struct ManagerState {
    pub(crate) operations: Arc<dyn Operations>,
    pub(crate) facts: StoreFacts,
    pub(crate) names: ServerNames,
    pub(crate) sessions: SessionTable,
    /// The door of those who have a password; without it, a token opens the page.
    pub(crate) door: Option<PasswordDoor>,
    pub(crate) jobs: Arc<JobTable>,
    /// Folders below which files on this machine may be named, as they really are.
    pub(crate) folders: Vec<PathBuf>,
    pub(crate) spool: UploadSpool,
    /// Takes the URL for the next browser.
    pub(crate) announce: Box<dyn Fn(String) + Send + Sync>,
    closed: Mutex<BTreeSet<String>>,
    tree: Mutex<Option<(u64, Arc<Vec<TreeLine>>)>>,
    usage: Mutex<Option<(u64, Arc<StoreUsage>)>>,
    /// The time that counting took last, in milliseconds.
    usage_ms: AtomicU64,
}

/// The parts that are chosen when the manager starts.
pub(crate) struct StateParts {
    pub(crate) operations: Arc<dyn Operations>,
    pub(crate) facts: StoreFacts,
    pub(crate) names: ServerNames,
    pub(crate) sessions: SessionTable,
    pub(crate) door: Option<PasswordDoor>,
    pub(crate) folders: Vec<PathBuf>,
    pub(crate) spool: UploadSpool,
    pub(crate) announce: Box<dyn Fn(String) + Send + Sync>,
}

impl ManagerState {
    pub(crate) fn new(parts: StateParts) -> Self {
        Self {
            operations: parts.operations,
            facts: parts.facts,
            names: parts.names,
            sessions: parts.sessions,
            door: parts.door,
            jobs: Arc::default(),
            folders: parts.folders,
            spool: parts.spool,
            announce: parts.announce,
            closed: Mutex::default(),
            tree: Mutex::default(),
            usage: Mutex::default(),
            usage_ms: AtomicU64::new(0),
        }
    }

    /// The URL that opens the page. Where there is no password it has the token, where browsers
    /// send it to nobody.
    pub(crate) fn opening_url(&self) -> String {
        let url = self.names.page_url();
        match &self.door {
            Some(_) => url,
            None => format!("{url}#token={}", self.sessions.token_text()),
        }
    }

    /// True if nothing can be changed.
    pub(crate) fn is_read_only(&self) -> bool {
        self.facts.read_only_reason.is_some()
    }

    /// The tree's lines as they are now.
    pub(crate) fn tree_lines(&self) -> Arc<Vec<TreeLine>> {
        let number = self.operations.change_number();
        // Held while it is computed: requests that come together share the work.
        let mut tree = lock_mutex(&self.tree);
        if let Some((_, lines)) = tree.as_ref().filter(|(at, _)| *at == number) {
            return Arc::clone(lines);
        }
        let lines = Arc::new(self.operations.tree_lines());
        *tree = Some((number, Arc::clone(&lines)));
        lines
    }

    /// The holdings of all nodes, as it is now; counted once for each state of the tree.
    pub(crate) fn store_usage(&self) -> Result<Arc<StoreUsage>, OperationFault> {
        let number = self.operations.change_number();
        let mut usage = lock_mutex(&self.usage);
        if let Some((_, usage)) = usage.as_ref().filter(|(at, _)| *at == number) {
            return Ok(Arc::clone(usage));
        }
        let begun = Instant::now();
        let counted = Arc::new(self.operations.count_usage()?);
        let took_ms = begun.elapsed().as_millis() as u64;
        self.usage_ms.store(took_ms, Ordering::Relaxed);
        *usage = Some((number, Arc::clone(&counted)));
        Ok(counted)
    }

    /// True if counting is quick enough to be done whenever somebody looks; unknown is tried.
    pub(crate) fn counts_quickly(&self) -> bool {
        self.usage_ms.load(Ordering::Relaxed) <= QUICK_MS
    }

    /// The keys of closed branches.
    pub(crate) fn closed_branches(&self) -> BTreeSet<String> {
        lock_mutex(&self.closed).clone()
    }

    /// Opens a closed branch, closes an open one.
    pub(crate) fn toggle_branch(&self, key: &str) {
        let mut closed = lock_mutex(&self.closed);
        if !closed.remove(key) && closed.len() < CLOSED_MAX {
            closed.insert(key.to_owned());
        }
    }

    /// Closes exactly these branches.
    pub(crate) fn replace_closed(&self, keys: impl Iterator<Item = String>) {
        *lock_mutex(&self.closed) = keys.take(CLOSED_MAX).collect();
    }
}

fn lock_mutex<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
