//! The manager as a whole: it listens, answers, and ends in bounded time.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use crate::events::NewsThread;
use crate::listener::{accept_connections, bind_address};
use crate::operations::Operations;
use crate::request_check::ServerNames;
use crate::routes::build_routes;
use crate::secret::SessionTable;
use crate::state::{ManagerState, StateParts};
use crate::uploads::UploadSpool;

/// Threads that answer: the pages are small.
const WORKERS: usize = 2;
/// Threads that may wait for a disk: as many as there are windows and transfers at once.
const BLOCKING_MAX: usize = 48;
/// The grace period for answers that are under way once the manager ends.
const ANSWER_GRACE: Duration = Duration::from_millis(500);

/// The choices of who starts a manager.
pub struct ManagerOptions {
    /// The address to listen at: a loopback one.
    pub address: SocketAddr,
    /// The reason why nothing may be changed, beside what the store says itself.
    pub read_only_reason: Option<String>,
    /// Folders below which files on this machine may be named.
    pub folders: Vec<PathBuf>,
    /// The folder for uploads, which is the manager's own: it is emptied.
    pub spool: PathBuf,
    /// Bytes that uploads may take together.
    pub upload_limit: u64,
    /// Takes the URL for the next browser, once one was used.
    pub announce: Box<dyn Fn(String) + Send + Sync>,
}

/// A manager that answers until it is stopped.
pub struct ManagerServer {
    state: Arc<ManagerState>,
    address: SocketAddr,
    runtime: Option<Runtime>,
    stop: Option<oneshot::Sender<()>>,
    news: Option<NewsThread>,
}

/// The failure to start a manager.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// The address is not a loopback one.
    #[error("{0} is reached from other machines, which the manager does not offer")]
    NotLoopback(SocketAddr),
    /// The address cannot be listened at.
    #[error("cannot listen at {0}: {1}")]
    Listen(SocketAddr, #[source] io::Error),
    /// A folder cannot be found.
    #[error("cannot find the folder {0}: {1}")]
    Folder(String, #[source] io::Error),
    /// The system gives no thread or no chance.
    #[error("cannot start the manager: {0}")]
    Start(#[from] io::Error),
}

impl ManagerServer {
    /// Begins to listen and to answer.
    pub fn start_manager(
        operations: Arc<dyn Operations>,
        options: ManagerOptions,
    ) -> Result<Self, ManagerError> {
        if !options.address.ip().is_loopback() {
            return Err(ManagerError::NotLoopback(options.address));
        }
        let fail = |error| ManagerError::Listen(options.address, error);
        let listener = bind_address(options.address).map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        let real = |folder: &PathBuf| {
            let fail = |error| ManagerError::Folder(folder.display().to_string(), error);
            folder.canonicalize().map_err(fail)
        };
        let mut facts = operations.store_facts();
        facts.read_only_reason = options.read_only_reason.or(facts.read_only_reason);
        let state = Arc::new(ManagerState::new(StateParts {
            operations,
            facts,
            names: ServerNames::of_address(address),
            sessions: SessionTable::new()?,
            folders: options.folders.iter().map(real).collect::<Result<_, _>>()?,
            spool: UploadSpool::new(options.spool, options.upload_limit),
            announce: options.announce,
        }));
        let news = NewsThread::start_thread(&state)?;
        let routes = build_routes(Arc::clone(&state), news.receiver());
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .max_blocking_threads(BLOCKING_MAX)
            .thread_name("manager")
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel();
        runtime.spawn(accept_connections(listener, routes, stopped));
        Ok(Self {
            state,
            address,
            runtime: Some(runtime),
            stop: Some(stop),
            news: Some(news),
        })
    }

    /// The address that it listens at.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// The URL that opens the page once.
    #[must_use]
    pub fn opening_url(&self) -> String {
        opening_url(
            self.state.names.own_host(),
            &self.state.sessions.token_text(),
        )
    }

    /// Takes no more requests, stops its jobs and waits for them, but no longer than `patience`.
    /// True if all have ended.
    #[must_use]
    pub fn stop_within(mut self, patience: Duration) -> bool {
        drop(self.stop.take());
        let ended = self.state.jobs.stop_all(patience);
        self.end_threads();
        ended
    }

    fn end_threads(&mut self) {
        drop(self.stop.take());
        drop(self.news.take());
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(ANSWER_GRACE);
        }
    }
}

impl Drop for ManagerServer {
    fn drop(&mut self) {
        self.end_threads();
    }
}

/// The URL of the page, with the token where browsers send it to nobody.
pub(crate) fn opening_url(host: &str, token: &str) -> String {
    format!("http://{host}/#token={token}")
}
