//! The manager as a whole: it listens, answers, and ends in bounded time.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use crate::events::NewsThread;
use crate::listener::{accept_connections, bind_address, take_socket};
use crate::operations::Operations;
use crate::remote_access::{PasswordDoor, RemoteAccess};
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
    /// The place to listen at: a loopback address, unless there is [`ManagerOptions::remote`].
    pub place: ListeningPlace,
    /// Access under TLS with a password, in place of the token.
    pub remote: Option<RemoteAccess>,
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

/// A place to listen at.
#[derive(Debug)]
pub enum ListeningPlace {
    /// An address; a port of 0 is any that is free.
    Address(SocketAddr),
    /// A socket that somebody else listens at already, as systemd does.
    Socket(OwnedFd),
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
    /// The address is not a loopback one, and there is no password.
    #[error("{0} is reached from other machines: that needs TLS and a password")]
    NotLoopback(SocketAddr),
    /// The address is all addresses of this machine, and no name was given.
    #[error("no browser calls the server {0}: it needs a name")]
    NoName(SocketAddr),
    /// The address cannot be listened at.
    #[error("cannot listen at {0}: {1}")]
    Listen(SocketAddr, #[source] io::Error),
    /// The socket that was handed over cannot be listened at.
    #[error("cannot listen at the socket that was handed over: {0}")]
    Socket(#[source] io::Error),
    /// A folder cannot be found.
    #[error("cannot find the folder {0}: {1}")]
    Folder(String, #[source] io::Error),
    /// The system gives no thread or no chance.
    #[error("cannot start the manager: {0}")]
    Start(#[from] io::Error),
}

impl ListeningPlace {
    fn start_listening(self) -> Result<(TcpListener, SocketAddr), ManagerError> {
        let (listener, fail): (_, Box<dyn Fn(io::Error) -> ManagerError>) = match self {
            Self::Address(address) => (
                bind_address(address),
                Box::new(move |error| ManagerError::Listen(address, error)),
            ),
            Self::Socket(socket) => (take_socket(socket), Box::new(ManagerError::Socket)),
        };
        let listener = listener.map_err(&fail)?;
        let address = listener.local_addr().map_err(&fail)?;
        Ok((listener, address))
    }
}

/// The names of a server at `address`. An error: it may not listen there like that.
fn server_names(
    address: SocketAddr,
    remote: Option<&RemoteAccess>,
) -> Result<ServerNames, ManagerError> {
    match remote {
        None if address.ip().is_loopback() => Ok(ServerNames::of_address(address)),
        None => Err(ManagerError::NotLoopback(address)),
        Some(remote) => {
            ServerNames::of_remote(address, &remote.host_names).ok_or(ManagerError::NoName(address))
        }
    }
}

impl ManagerServer {
    /// Begins to listen and to answer.
    pub fn start_manager(
        operations: Arc<dyn Operations>,
        options: ManagerOptions,
    ) -> Result<Self, ManagerError> {
        // Refused before it listens, where the address is known before.
        if let ListeningPlace::Address(address) = &options.place {
            server_names(*address, options.remote.as_ref())?;
        }
        let (listener, address) = options.place.start_listening()?;
        let names = server_names(address, options.remote.as_ref())?;
        let tls = options
            .remote
            .as_ref()
            .map(|remote| Arc::clone(&remote.tls));
        let limits = options.remote.as_ref().map(|remote| remote.session_limits);
        let mut facts = operations.store_facts();
        facts.read_only_reason = options.read_only_reason.or(facts.read_only_reason);
        let state = Arc::new(ManagerState::new(StateParts {
            operations,
            facts,
            names,
            sessions: SessionTable::new(limits)?,
            door: options.remote.map(PasswordDoor::of_remote),
            folders: real_folders(&options.folders)?,
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
        let tls = tls.map(TlsAcceptor::from);
        runtime.spawn(accept_connections(listener, tls, routes, stopped));
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

    /// The URL that opens the page: once, or for who has the password.
    #[must_use]
    pub fn opening_url(&self) -> String {
        self.state.opening_url()
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

fn real_folders(folders: &[PathBuf]) -> Result<Vec<PathBuf>, ManagerError> {
    let real = |folder: &PathBuf| {
        let fail = |error| ManagerError::Folder(folder.display().to_string(), error);
        folder.canonicalize().map_err(fail)
    };
    folders.iter().map(real).collect()
}
